//! Answers a shell that asks for completions: what could come next.
//!
//! The lattice is that of the settings, of the flags typed so far too. It gets less time than a
//! person notices; what is not known by then is not offered. Nothing here prints, and nothing
//! fails: without a lattice there are no candidates.
//!
//! Everything in a lattice has an id of 56 letters and mostly a name. The name is offered, and the
//! id in its place as soon as its beginning is typed.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    time::Duration,
};

use clap::{ArgMatches, FromArgMatches as _};
use clap_complete::engine::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter,
};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::{
    args::{self, connect::Connect, flags::SettingArgs},
    command::runs_actor,
    context::Places,
    session::Session,
    terminal::table::middle,
};
use lattice_base::{config::ProcessEnvironment, dirs::Dirs};
use lattice_client::{
    lattice::Lattice,
    names::{self, Named},
};
use lattice_engine::providers::builtin;
use lattice_protocol::{
    applications::request::Request,
    control::types::{HostReply, Inventory},
    escape,
    links::Claims,
};

/// How long the lattice has for everything. A user who presses a key twice waits no longer.
const DEADLINE: Duration = Duration::from_millis(700);
/// How long one round of questions takes at the most: hosts of earlier years do not say when all
/// have answered.
const ROUND: Duration = Duration::from_millis(250);
/// An id in a help text.
const ID_WIDTH: usize = 13;

/// The part of a lattice that was seen.
#[derive(Default)]
struct Seen {
    inventories: Vec<Inventory>,
    claims: Vec<Claims>,
}

impl Seen {
    /// Without what is only remembered.
    fn running(&self) -> Self {
        Self { inventories: self.inventories.clone(), claims: Vec::new() }
    }
}

/// One thing that could come next.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    word: String,
    help: String,
    /// Only offered when nothing else begins like this.
    hidden: bool,
}

impl Candidate {
    fn new(word: impl Into<String>, help: impl Into<String>) -> Self {
        Self { word: word.into(), help: help.into(), hidden: false }
    }

    fn hidden(self) -> Self {
        Self { hidden: true, ..self }
    }

    /// The form in which shells take it.
    fn offered(self) -> CompletionCandidate {
        let help = escape::line(&self.help).into_owned();
        CompletionCandidate::new(self.word).help(Some(help.into())).hide(self.hidden)
    }
}

/// Completes ids and names of actors.
pub(super) fn actors() -> ArgValueCompleter {
    of_lattice(actors_of)
}

/// Completes ids and names of providers.
pub(super) fn providers() -> ArgValueCompleter {
    of_lattice(providers_of)
}

/// Completes actors that run somewhere.
pub(super) fn running_actors() -> ArgValueCompleter {
    of_lattice(|seen| actors_of(&seen.running()))
}

/// Completes providers that run somewhere.
pub(super) fn running_providers() -> ArgValueCompleter {
    of_lattice(|seen| {
        of_named(&names::running_providers(&seen.inventories), |id| provider_places(seen, id))
    })
}

/// Completes ids and friendly names of hosts.
pub(super) fn hosts() -> ArgValueCompleter {
    of_hosts(|hosts| of_named(&names::hosts(hosts), |_| "host".into()))
}

/// Completes what runs, actors and providers.
pub(super) fn entities() -> ArgValueCompleter {
    of_lattice(|seen| actors_of(seen).into_iter().chain(providers_of(seen)).collect())
}

/// Completes contracts: those of the providers in this binary, and those of the lattice.
pub(super) fn contracts() -> ArgValueCompleter {
    of_lattice(contracts_of)
}

/// Completes what a call may go to: a contract, an actor or a provider.
pub(super) fn targets() -> ArgValueCompleter {
    of_lattice(|seen| {
        contracts_of(seen).into_iter().chain(actors_of(seen)).chain(providers_of(seen)).collect()
    })
}

/// Completes `LABEL=VALUE` of the hosts there are.
pub(super) fn constraints() -> ArgValueCompleter {
    of_hosts(|hosts| {
        let labels =
            hosts.iter().flat_map(|host| host.labels.iter().map(move |label| (host, label)));
        labels
            .map(|(host, (key, value))| {
                Candidate::new(format!("{key}={value}"), &host.friendly_name)
            })
            .collect()
    })
}

/// Completes names of applications.
pub(super) fn apps() -> ArgValueCompleter {
    ArgValueCompleter::new(|word: &OsStr| {
        completed(word, || ask(async |lattice| apps_of(lattice).await))
    })
}

/// Completes names of contexts.
pub(super) fn contexts() -> ArgValueCompleter {
    ArgValueCompleter::new(|word: &OsStr| completed(word, || Some(contexts_of())))
}

/// Completes files with modules.
pub(super) fn modules() -> ArgValueCompleter {
    ArgValueCompleter::new(|word: &OsStr| paths_of(PathCompleter::file(), word))
}

/// Completes paths.
pub(super) fn paths() -> ArgValueCompleter {
    ArgValueCompleter::new(|word: &OsStr| paths_of(PathCompleter::any(), word))
}

/// The paths that are words as they are: a file of somebody else may be called anything.
fn paths_of(completer: PathCompleter, word: &OsStr) -> Vec<CompletionCandidate> {
    let mut paths = completer.complete(word);
    paths.retain(|path| path.get_value().to_str().is_some_and(is_word));
    paths
}

/// Completes references of providers: those in this binary, and files.
pub(super) fn sources() -> ArgValueCompleter {
    ArgValueCompleter::new(|word: &OsStr| {
        let builtin = builtin::CATALOGUE
            .iter()
            .map(|spec| Candidate::new(spec.known.reference(), spec.known.title))
            .collect();
        let mut all = completed(word, || Some(builtin));
        all.extend(paths_of(PathCompleter::file(), word));
        all
    })
}

/// Completes an actor, and after it the reference it is to run from now on.
pub(super) fn updates() -> ArgValueCompleter {
    struct Updates;
    impl ValueCompleter for Updates {
        fn complete(&self, word: &OsStr) -> Vec<CompletionCandidate> {
            running_actors().complete(word)
        }

        fn complete_at(&self, index: usize, word: &OsStr) -> Vec<CompletionCandidate> {
            if index == 0 { self.complete(word) } else { modules().complete(word) }
        }
    }
    ArgValueCompleter::new(Updates)
}

fn of_lattice(pick: fn(&Seen) -> Vec<Candidate>) -> ArgValueCompleter {
    ArgValueCompleter::new(move |word: &OsStr| {
        completed(word, || {
            let found = ask(async |lattice: Lattice| Some(pick(&seen(&lattice).await)));
            // Some of it is known without a lattice.
            Some(found.unwrap_or_else(|| pick(&Seen::default())))
        })
    })
}

fn of_hosts(pick: fn(&[HostReply]) -> Vec<Candidate>) -> ArgValueCompleter {
    ArgValueCompleter::new(move |word: &OsStr| {
        completed(word, || ask(async |lattice| Some(pick(&lattice.hosts().await.ok()?))))
    })
}

/// The candidates that begin like the word. A flag is being typed if it begins with a dash, and
/// nobody need be asked.
fn completed(
    word: &OsStr,
    look: impl FnOnce() -> Option<Vec<Candidate>>,
) -> Vec<CompletionCandidate> {
    let Some(word) = word.to_str().filter(|word| !word.starts_with('-')) else { return Vec::new() };
    let mut all = look().unwrap_or_default();
    // Words of strangers: a shell must not find anything in them to expand or to run.
    all.retain(|candidate| is_word(&candidate.word) && begins(&candidate.word, word));
    all.sort_by(|a, b| a.word.cmp(&b.word));
    all.dedup_by(|a, b| a.word == b.word);
    all.into_iter().map(Candidate::offered).collect()
}

/// Names are found in any case, so they are completed from any.
fn begins(candidate: &str, word: &str) -> bool {
    candidate.get(..word.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(word))
}

/// Asks the lattice of the settings; `None` if there is none, or it takes too long. There is no
/// runtime at this time.
fn ask<F: Future<Output = Option<Vec<Candidate>>>>(
    question: impl FnOnce(Lattice) -> F,
) -> Option<Vec<Candidate>> {
    let until = Instant::now() + DEADLINE;
    let session = session()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let look = async {
        let mut lattice = session.lattice().await.ok()?;
        // Two rounds at the most, and a little to spare.
        lattice.timeout = ROUND.min((until - Instant::now()) * 2 / 5);
        question(lattice).await
    };
    // The clock is the runtime's.
    let answer = runtime.block_on(async { timeout_at(until, look).await });
    // A name that is being resolved must not keep the process.
    runtime.shutdown_background();
    answer.ok().flatten()
}

async fn seen(lattice: &Lattice) -> Seen {
    let (hosts, claims) = tokio::join!(lattice.hosts(), lattice.claims());
    let hosts = hosts.unwrap_or_default();
    let inventories = lattice.inventories(&hosts).await;
    Seen { inventories, claims: claims.unwrap_or_default() }
}

/// The settings, with those flags that are typed already.
fn session() -> Option<Session> {
    let words: Vec<OsString> =
        std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
    let (settings, connect) = given(words);
    Session::quiet(settings, &connect).ok()
}

/// Reads from an unfinished line what it says about the lattice.
fn given(words: Vec<OsString>) -> (SettingArgs, Connect) {
    let Ok(matches) = args::command().ignore_errors(true).try_get_matches_from(words) else {
        return Default::default();
    };
    let settings = SettingArgs::from_arg_matches(&matches).unwrap_or_default();
    let mut inner = &matches;
    while let Some((_, deeper)) = inner.subcommand() {
        inner = deeper;
    }
    (settings, connect_of(inner))
}

/// Like the parser's own, but for a command that may have none of these flags.
fn connect_of(matches: &ArgMatches) -> Connect {
    let text = |id: &str| matches.try_get_one::<String>(id).ok().flatten().cloned();
    Connect {
        ctl_host: text("ctl_host"),
        ctl_port: text("ctl_port"),
        rpc_host: text("rpc_host"),
        rpc_port: text("rpc_port"),
        ctl_jwt: text("ctl_jwt"),
        ctl_seed: text("ctl_seed"),
        ctl_credsfile: matches.try_get_one::<PathBuf>("ctl_credsfile").ok().flatten().cloned(),
        js_domain: text("js_domain"),
        lattice: text("lattice"),
        timeout_ms: None,
        context: text("context"),
    }
}

fn actors_of(seen: &Seen) -> Vec<Candidate> {
    let named = names::actors(&seen.claims, &seen.inventories);
    of_named(&named, |id| places("actor", seen, |inventory| runs_actor(inventory, id)))
}

fn providers_of(seen: &Seen) -> Vec<Candidate> {
    let named = names::providers(&seen.claims, &seen.inventories);
    of_named(&named, |id| provider_places(seen, id))
}

fn provider_places(seen: &Seen, id: &str) -> String {
    places("provider", seen, |inventory| {
        inventory.providers.iter().any(|provider| provider.id == id)
    })
}

/// `actor on lucky-reef-8888`
fn places(what: &str, seen: &Seen, runs: impl Fn(&Inventory) -> bool) -> String {
    match seen.inventories.iter().filter(|inventory| runs(inventory)).collect::<Vec<_>>().as_slice()
    {
        [] => format!("{what}, runs nowhere"),
        [one] => format!("{what} on {}", one.friendly_name),
        several => format!("{what} on {} hosts", several.len()),
    }
}

fn contracts_of(seen: &Seen) -> Vec<Candidate> {
    let builtin = builtin::CATALOGUE
        .iter()
        .map(|spec| Candidate::new(spec.known.contract_id, spec.known.reference()));
    let claimed = seen.claims.iter().filter(|claims| claims.is_provider());
    let claimed = claimed.map(|claims| Candidate::new(&claims.contract_id, &claims.name));
    let running = seen.inventories.iter().flat_map(|inventory| &inventory.providers);
    let running = running.map(|provider| Candidate::new(&provider.contract_id, &provider.name));
    builtin.chain(claimed).chain(running).collect()
}

async fn apps_of(lattice: Lattice) -> Option<Vec<Candidate>> {
    let message =
        lattice.ask(&lattice.subjects.manager(Request::List), bytes::Bytes::new()).await.ok()?;
    let all: Vec<Value> = serde_json::from_slice(&message.payload).ok()?;
    let candidates = all.iter().map(|app| {
        let status = app["status"].as_str().unwrap_or_default();
        Candidate::new(app["name"].as_str().unwrap_or_default(), format!("application, {status}"))
    });
    Some(candidates.filter(|candidate| is_word(&candidate.word)).collect())
}

fn contexts_of() -> Vec<Candidate> {
    let home = std::env::home_dir();
    let places = Places::of(&Dirs::find(&ProcessEnvironment, home.as_deref()), home.as_deref());
    let all = places.all();
    let candidates = all.iter().map(|found| {
        Candidate::new(
            places.short(found),
            format!("{} context, {}", found.kind, found.path.display()),
        )
    });
    candidates.filter(|candidate| is_word(&candidate.word)).collect()
}

/// A name for each, if it has one that means nothing else and needs no quotes; its id behind that,
/// or instead.
fn of_named(all: &[Named], told: impl Fn(&str) -> String) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for named in all.iter().filter(|named| is_word(&named.id)) {
        let told = told(&named.id);
        let id = match named.name.as_str() {
            "" => Candidate::new(&named.id, &told),
            name => Candidate::new(&named.id, format!("{name}, {told}")),
        };
        let mut words = [&named.name].into_iter().chain(&named.aliases);
        let word = words.find(|word| {
            is_word(word)
                && matches!(names::called(word, all).as_slice(), [one] if one.id == named.id)
        });
        match word {
            None => candidates.push(id),
            Some(word) => {
                candidates
                    .push(Candidate::new(word, format!("{told}, {}", middle(&named.id, ID_WIDTH))));
                candidates.push(id.hidden());
            }
        }
    }
    candidates
}

/// Whether shells take it for one word as it is. In front a dash makes a flag of it, an equals sign
/// a program in zsh.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(['-', '='])
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._:/@=+-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(id: &str, name: &str, aliases: &[&str]) -> Named {
        Named {
            id: id.into(),
            name: name.into(),
            aliases: aliases.iter().map(|alias| alias.to_string()).collect(),
            runs: false,
        }
    }

    fn words(candidates: &[CompletionCandidate]) -> Vec<(String, bool)> {
        let word = |c: &CompletionCandidate| {
            (c.get_value().to_string_lossy().into_owned(), c.is_hide_set())
        };
        candidates.iter().map(word).collect()
    }

    #[test]
    fn a_name_is_offered_for_each_and_its_id_only_where_there_is_none() {
        let all = [
            named("MAA", "Echo", &[]),
            named("MBB", "KV counter", &["examples/counter"]),
            named("MCC", "twin", &[]),
            named("MDD", "Twin", &[]),
        ];
        let candidates = of_named(&all, |_| "actor on reef".into());
        let shown: Vec<&str> =
            candidates.iter().filter(|c| !c.hidden).map(|c| c.word.as_str()).collect();
        assert_eq!(shown, ["Echo", "examples/counter", "MCC", "MDD"]);
        assert_eq!(candidates[0].help, "actor on reef, MAA");
        assert_eq!(candidates[1], Candidate::new("MAA", "Echo, actor on reef").hidden());
    }

    #[test]
    fn a_name_is_offered_for_what_runs_where_others_that_are_gone_had_it() {
        let all =
            [named("MGONE", "Ponger", &[]), Named { runs: true, ..named("MRUNS", "Ponger", &[]) }];
        let candidates = of_named(&all, |_| String::new());
        let shown: Vec<&str> =
            candidates.iter().filter(|c| !c.hidden).map(|c| c.word.as_str()).collect();
        assert_eq!(shown, ["MGONE", "Ponger"]);
        assert!(candidates[1].help.contains("MRUNS"), "{candidates:?}");
    }

    #[test]
    fn what_begins_like_the_word_is_offered_in_any_case() {
        let all = || {
            Some(vec![
                Candidate::new("Echo", ""),
                Candidate::new("MAA", "").hidden(),
                Candidate::new("pong", ""),
            ])
        };
        assert_eq!(words(&completed(OsStr::new("ec"), all)), [("Echo".into(), false)]);
        assert_eq!(words(&completed(OsStr::new("MA"), all)), [("MAA".into(), true)]);
        assert_eq!(completed(OsStr::new(""), all).len(), 3);
        assert_eq!(
            completed(OsStr::new("--"), || unreachable!("nobody is asked about flags")).len(),
            0
        );
    }

    #[test]
    fn nothing_a_shell_would_expand_or_run_is_offered() {
        let evil = [
            "k$(touch x)",
            "a`id`",
            "a b",
            "a;id",
            "a&b",
            "a|b",
            "~root",
            "a*",
            "{a,b}",
            "a>b",
            "!a",
            "a\\b",
        ];
        let evil = evil.into_iter().chain([
            "a'b",
            "a\"b",
            "a\nb",
            "\u{1b}[2J",
            "=id",
            "-x",
            "#a",
            "ä",
            "",
        ]);
        let all = || {
            Some(
                evil.map(|word| Candidate::new(word, ""))
                    .chain([Candidate::new("zone=a", "x\u{1b}y")])
                    .collect(),
            )
        };
        let offered = completed(OsStr::new(""), all);
        assert_eq!(words(&offered), [("zone=a".into(), false)]);
        assert_eq!(offered[0].get_help().map(ToString::to_string).as_deref(), Some("x\\u001by"));
    }

    #[test]
    fn files_with_names_that_are_no_words_are_left_out() {
        let dir = tempfile::TempDir::new().unwrap();
        for name in ["fine_s.wasm", "x$(id).wasm", "a b.wasm"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let word = format!("{}/", dir.path().display());
        let offered = paths_of(PathCompleter::file(), OsStr::new(&word));
        assert_eq!(words(&offered), [(format!("{word}fine_s.wasm"), false)]);
    }

    #[test]
    fn a_line_that_is_not_finished_says_which_lattice_it_is_about() {
        let given = |line: &str| super::given(line.split(' ').map(OsString::from).collect());
        let (_, connect) = given("host stop actor -x shop --ctl-port 4333 ");
        assert_eq!(
            (connect.lattice.as_deref(), connect.ctl_port.as_deref()),
            (Some("shop"), Some("4333"))
        );
        let (_, connect) = given("host ctl get inventory --context edge N");
        assert_eq!(connect.context.as_deref(), Some("edge"));
        let (settings, _) = given("host --js-domain core link put ");
        assert_eq!(settings.values, [("js_domain", "core".to_owned())]);
        let (settings, connect) = given("host nonsense --flag");
        assert_eq!((settings.values.len(), connect.lattice), (0, None));
    }

    #[test]
    fn contracts_are_known_without_a_lattice() {
        let contracts = contracts_of(&Seen::default());
        assert!(
            contracts
                .iter()
                .any(|c| c.word == "wasmcloud:keyvalue" && c.help == "builtin://keyvalue"),
            "{contracts:?}"
        );
    }
}
