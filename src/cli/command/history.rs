//! `host events` and `host audit`: what happened in the lattice, as its hosts kept it together.
//!
//! The stream is read directly, so it tells of hosts that are gone, and of a lattice without any.
//! Those to believe are asked of the hosts that answer, and of the settings.

use std::{collections::HashMap, time::Duration};

use anyhow::{Result, bail, ensure};
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::sleep;

use crate::{
    args::{
        connect::Connect,
        flags::SettingArgs,
        history::{Audit as AuditArgs, Events as EventArgs, FAILED, Span},
    },
    clock,
    session::Session,
    terminal::{Output, Terminal, Text, Tone},
};
use lattice_base::registry::uploads;
use lattice_client::{
    history::{Found, Heard, History, Kept, Range},
    lost::{self, Meant},
    names,
};
use lattice_dashboard::{Severity, sentence};
use lattice_protocol::{
    builtin::{self, Known},
    clock::now_ms,
    control::types::HostReply,
    errors::Usage,
    history::{Audit, Happened, Kind, audit::Outcome},
};

/// How often a stream that ended is looked for again.
const AGAIN: Duration = Duration::from_secs(2);
/// Clocks of hosts may be so much ahead, in milliseconds.
const CLOCKS_MS: u64 = 60_000;
/// An entry may come so long after a later one, in milliseconds.
const LATE_MS: u64 = AGAIN.as_millis() as u64 * 5;
/// Entries that are remembered so that none is printed twice.
const SEEN_MAX: usize = 512;

pub async fn events(terminal: &Terminal, before: SettingArgs, args: EventArgs) -> Result<()> {
    let looking = Looking::begin(before, &args.span.connect, args.host.as_deref()).await?;
    let mut rows = Events { args: &args, looking: &looking, heard: Heard::default() };
    looking.show(terminal, &args.span, &mut rows).await
}

pub async fn audit(terminal: &Terminal, before: SettingArgs, args: AuditArgs) -> Result<()> {
    if args.outcome.as_deref() == Some(FAILED) {
        let told = "a start that failed after it was taken is an event: `host events --severity error` shows it. The lines with \
                    the outcome failed are in the file of --audit-log";
        bail!(Usage(told.to_owned()));
    }
    let looking = Looking::begin(before, &args.span.connect, args.host.as_deref()).await?;
    let mut rows = Commands { args: &args, looking: &looking };
    looking.show(terminal, &args.span, &mut rows).await
}

/// The lattice that is looked at.
struct Looking {
    history: History,
    /// Names of hosts, actors and providers by their ids.
    names: HashMap<String, String>,
    /// The hosts that answer.
    hosts: Vec<HostReply>,
    /// The only host that is wanted.
    host: Option<Wanted>,
}

/// One kind of entries, and how they are printed.
trait Rows {
    type Item: DeserializeOwned + Send + 'static;
    const KIND: Kind;
    /// The name of an entry, in the singular.
    const WORD: &'static str;

    /// Orders the entries that were read, without those that tell what earlier ones told.
    fn order(&mut self, entries: Vec<Kept<Self::Item>>) -> Vec<Kept<Self::Item>>;
    /// Whether an entry is of a host with a name.
    fn is_of(kept: &Kept<Self::Item>, name: &str) -> bool;
    /// When it happened, in milliseconds since 1970.
    fn at_ms(&self, item: &Self::Item) -> u64;
    /// Tells it from the others of its host.
    fn id<'a>(&self, item: &'a Self::Item) -> &'a str;
    /// Returns its JSON and what a person reads; `None` if it is not wanted.
    fn told(&self, kept: &Kept<Self::Item>, is_wide: bool) -> Option<(Value, Text)>;
}

impl Looking {
    async fn begin(before: SettingArgs, connect: &Connect, host: Option<&str>) -> Result<Self> {
        let session = Session::open(before, connect)?;
        let lattice = session.lattice().await?;
        // The history is there without any host; then names are those that are in it.
        let hosts = lattice.hosts().await.unwrap_or_default();
        let claims = match hosts.is_empty() {
            true => Vec::new(),
            false => lattice.claims().await.unwrap_or_default(),
        };
        let history = session.history(&hosts).await?;
        let host = match host {
            Some(word) => {
                let found = lost::look_up(&lattice, word, &hosts).await.ok();
                Some(Wanted::of(word, found.as_ref().map(Meant::id), &hosts))
            }
            None => None,
        };
        let of_hosts = hosts.iter().map(|host| (host.id.clone(), host.friendly_name.clone()));
        let of_claims = claims.into_iter().map(|claims| (claims.subject, claims.name));
        // The hash of a file that was sent says nothing to people.
        let inventories = match hosts.is_empty() {
            true => Vec::new(),
            false => lattice.inventories(&hosts).await,
        };
        let actors = inventories.into_iter().flat_map(|inventory| inventory.actors);
        let of_files = actors
            .filter(|actor| actor.image_ref.starts_with(uploads::SCHEME))
            .map(|actor| (actor.image_ref, actor.name));
        let names = of_hosts.chain(of_claims).chain(of_files).collect();
        Ok(Self { history, names, hosts, host })
    }

    /// Prints what is kept, and what comes if that is wanted.
    async fn show<R: Rows>(&self, terminal: &Terminal, span: &Span, rows: &mut R) -> Result<()> {
        let range = range(span)?;
        ensure!(
            self.history.is_there().await?,
            "the lattice keeps no history: no host has made its stream in this JetStream domain. Hosts make it where JetStream \
             is switched on, unless history_hours is 0; --js-domain says where it lies"
        );
        let Found { entries, is_cut, rejected } =
            self.history.read::<R::Item>(R::KIND, None, range, usize::MAX).await?;
        self.require_host::<R>(&entries)?;
        let at_ms = entries.iter().map(|kept| rows.at_ms(&kept.item));
        let begin_ms = begin_ms(at_ms.filter(|at_ms| range.has(*at_ms)).max(), range, now_ms());
        // Also those that are not printed, because another host told the same.
        let seen: Vec<String> = entries
            .iter()
            .filter(|kept| (begin_ms..=range.until_ms).contains(&rows.at_ms(&kept.item)))
            .map(|kept| key(rows, kept))
            .collect();
        let mut entries = rows.order(entries);
        entries.retain(|kept| range.has(rows.at_ms(&kept.item)));
        let mut shown = self.wanted(terminal, rows, &entries);
        let left_out = shown.len().saturating_sub(span.count);
        shown.drain(..left_out);
        if shown.is_empty() && !span.follow {
            terminal.note(format!("no {} is kept that fits", R::WORD));
        }
        print(terminal, shown)?;
        if left_out > 0 || is_cut {
            terminal.note(format!("older ones are left out; -n shows more than {}", span.count));
        }
        if rejected > 0 {
            terminal.note(self.about_strangers(rejected));
        }
        if !span.follow {
            return Ok(());
        }
        drop(entries);
        tokio::select! {
            followed = self.follow(terminal, rows, seen, begin_ms) => followed,
            interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        }
    }

    /// Prints what comes and happened since a moment, without end; `seen` are the keys of those
    /// entries of this time that were read already, since they come once more.
    async fn follow<R: Rows>(
        &self,
        terminal: &Terminal,
        rows: &mut R,
        mut seen: Vec<String>,
        begin_ms: u64,
    ) -> Result<()> {
        let seen_max = seen.len().max(SEEN_MAX);
        let mut since_ms = begin_ms;
        while !terminal.is_closed() {
            if let Some(mut coming) = self.history.follow::<R::Item>(R::KIND, since_ms).await? {
                while let Some((batch, _)) = coming.next().await {
                    let new: Vec<Kept<R::Item>> = batch
                        .into_iter()
                        .filter(|kept| rows.at_ms(&kept.item) >= begin_ms)
                        .filter(|kept| !seen.contains(&key(rows, kept)))
                        .collect();
                    seen.extend(new.iter().map(|kept| key(rows, kept)));
                    seen.drain(..seen.len().saturating_sub(seen_max));
                    since_ms = now_ms().saturating_sub(5_000);
                    let new = rows.order(new);
                    print(terminal, self.wanted(terminal, rows, &new))?;
                    if terminal.is_closed() {
                        return Ok(());
                    }
                }
            }
            sleep(AGAIN).await;
        }
        Ok(())
    }

    fn wanted<R: Rows>(
        &self,
        terminal: &Terminal,
        rows: &R,
        entries: &[Kept<R::Item>],
    ) -> Vec<(Value, Text)> {
        let is_wide = terminal.output() == Output::Wide;
        entries.iter().filter_map(|kept| rows.told(kept, is_wide)).collect()
    }

    /// Fails where the name of the host that is wanted is no name of one that is there, nor of one
    /// in these entries.
    fn require_host<R: Rows>(&self, entries: &[Kept<R::Item>]) -> Result<()> {
        let Some(Wanted::Name(word)) = &self.host else { return Ok(()) };
        match entries.iter().any(|kept| R::is_of(kept, word)) {
            true => Ok(()),
            false => names::host(word, &self.hosts).map(drop),
        }
    }

    fn about_strangers(&self, rejected: u64) -> String {
        // One that is ours says whom to believe.
        let advice = match self.hosts.iter().any(HostReply::is_ours) {
            true => "somebody who is no host of this lattice wrote them",
            false => {
                "no host answers who could say whom to believe: name the clusters with --cluster-issuers, or use the settings \
                 of the hosts"
            }
        };
        format!("{rejected} entries are left out, their signatures are unknown: {advice}")
    }

    /// Returns the name of a host, an actor or a provider, or its id.
    fn name(&self, id: &str) -> String {
        self.known(id).unwrap_or_else(|| id.to_owned())
    }

    fn known(&self, id: &str) -> Option<String> {
        let named = self.names.get(id).filter(|name| !name.is_empty()).cloned();
        // One that never ran has no claims.
        named.or_else(|| builtin::by_key(id).map(Known::reference))
    }

    fn takes_host(&self, id: &str, name: &str) -> bool {
        self.host.as_ref().is_none_or(|host| host.takes(id, name))
    }
}

/// The host that is wanted.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// By its id, or the beginning of it.
    Id(String),
    /// By the name that it had then: it does not answer now, or is called otherwise.
    Name(String),
}

impl Wanted {
    /// The host that was found for a word, or else one of which only the history knows: by the
    /// beginning of its id if no host that answers has one like it, or by its name.
    fn of(word: &str, found: Option<&str>, hosts: &[HostReply]) -> Self {
        let is_id = word.len() >= names::PREFIX_MIN
            && word.starts_with('N')
            && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        match found {
            Some(id) => Self::Id(id.to_owned()),
            None if is_id && !names::is_like_any(word, &names::hosts(hosts)) => {
                Self::Id(word.to_owned())
            }
            None => Self::Name(word.to_owned()),
        }
    }

    fn takes(&self, id: &str, name: &str) -> bool {
        match self {
            Self::Id(begin) => id.starts_with(begin.as_str()),
            Self::Name(word) => name == word,
        }
    }
}

/// Shortens the references of sent files that nobody has a name for.
fn shortened(words: &str) -> String {
    let each = words.split(' ').map(|word| match word.starts_with(uploads::SCHEME) {
        true => uploads::shown(word),
        false => word.to_owned(),
    });
    each.collect::<Vec<_>>().join(" ")
}

/// Tells an entry from the others.
fn key<R: Rows>(rows: &R, kept: &Kept<R::Item>) -> String {
    format!("{} {}", kept.host_id, rows.id(&kept.item))
}

/// Returns the moment since which entries count that come later: a while before the last that was
/// read, so that one that is late is not lost, nor one after an entry of a clock that is ahead.
fn begin_ms(last_ms: Option<u64>, range: Range, now_ms: u64) -> u64 {
    let last_ms = last_ms.unwrap_or(range.since_ms).min(now_ms);
    last_ms.saturating_sub(LATE_MS).max(range.since_ms)
}

fn range(span: &Span) -> Result<Range> {
    let now = OffsetDateTime::now_utc();
    let read = |text: &str| clock::moment(text, now).map_err(Usage);
    let since_ms = read(&span.since)?;
    let until_ms = match &span.until {
        Some(until) => read(until)?,
        None => now_ms() + CLOCKS_MS,
    };
    if until_ms < since_ms {
        bail!(Usage("--until is before --since".to_owned()));
    }
    Ok(Range { since_ms, until_ms })
}

fn print(terminal: &Terminal, shown: Vec<(Value, Text)>) -> Result<()> {
    if terminal.is_data() {
        return shown.iter().try_for_each(|(json, _)| terminal.data_line(json));
    }
    if shown.is_empty() {
        return Ok(());
    }
    let mut page = terminal.page();
    for (json, text) in shown {
        match terminal.output() {
            Output::Name => page.line(json["id"].as_str().unwrap_or_default()),
            _ => page.line(text),
        }
    }
    terminal.print(page)
}

/// Whether a text is wanted; the case of letters does not matter.
fn has(text: Option<&String>, all: &str) -> bool {
    text.is_none_or(|text| all.to_lowercase().contains(&text.to_lowercase()))
}

struct Events<'a> {
    args: &'a EventArgs,
    looking: &'a Looking,
    heard: Heard,
}

impl Rows for Events<'_> {
    type Item = Happened;
    const KIND: Kind = Kind::Events;
    const WORD: &'static str = "event";

    fn order(&mut self, entries: Vec<Kept<Happened>>) -> Vec<Kept<Happened>> {
        self.heard.news(entries)
    }

    fn is_of(kept: &Kept<Happened>, name: &str) -> bool {
        kept.host_name == name || kept.host_then() == Some(name)
    }

    fn at_ms(&self, item: &Happened) -> u64 {
        item.at_ms
    }

    fn id<'a>(&self, item: &'a Happened) -> &'a str {
        &item.id
    }

    fn told(&self, kept: &Kept<Happened>, is_wide: bool) -> Option<(Value, Text)> {
        let Happened { id, at_ms, name, source, data } = &kept.item;
        let (args, looking) = (self.args, self.looking);
        let host = kept.host_then().map_or_else(|| looking.name(source), str::to_owned);
        let (severity, text) = sentence(&kept.item, &host, |key| looking.known(key))?;
        let is_wanted = args.name.as_ref().is_none_or(|wanted| wanted == name)
            && args.severity.as_ref().is_none_or(|wanted| wanted == severity.name())
            && looking.takes_host(source, &host)
            && has(args.text.as_ref(), &format!("{text} {name} {source} {host} {data}"));
        if !is_wanted {
            return None;
        }
        let time = clock::of_ms(*at_ms);
        let json = json!({
            "time": time.format(&Rfc3339).unwrap_or_default(), "id": id, "name": name, "severity": severity.name(),
            "host_id": source, "host": host, "text": text, "data": data,
        });
        let tone = match severity {
            Severity::Error => Tone::Bad,
            Severity::Warning => Tone::Warning,
            Severity::Good | Severity::Info => Tone::Plain,
        };
        let mut line = Tone::Faint.paint(&clock::time_of(time)) + " ";
        if is_wide {
            line = line + Tone::Faint.paint(&format!("{name:<22} {source} "));
        }
        Some((json, line + tone.paint(&text)))
    }
}

struct Commands<'a> {
    args: &'a AuditArgs,
    looking: &'a Looking,
}

impl Commands<'_> {
    /// Says what a command was about, with names in place of ids.
    fn subject(&self, item: &Audit) -> String {
        let words = item.subject();
        let named = words.split(' ').map(|word| self.looking.name(word));
        named.collect::<Vec<_>>().join(" ")
    }
}

impl Rows for Commands<'_> {
    type Item = Audit;
    const KIND: Kind = Kind::Audit;
    const WORD: &'static str = "command";

    fn order(&mut self, mut entries: Vec<Kept<Audit>>) -> Vec<Kept<Audit>> {
        entries.sort_by_key(|kept| kept.item.at_ms);
        entries
    }

    fn is_of(kept: &Kept<Audit>, name: &str) -> bool {
        kept.host_name == name
    }

    fn at_ms(&self, item: &Audit) -> u64 {
        item.at_ms
    }

    fn id<'a>(&self, item: &'a Audit) -> &'a str {
        &item.id
    }

    fn told(&self, kept: &Kept<Audit>, is_wide: bool) -> Option<(Value, Text)> {
        let Kept { host_id, host_name, item } = kept;
        let (args, looking) = (self.args, self.looking);
        let (subject, who) = (self.subject(item), item.origin.words());
        let outcome = item.outcome.word();
        let Audit { verb, reason, object, took_ms, .. } = item;
        let all =
            format!("{verb} {subject} {who} {} {host_name} {host_id} {reason}", item.origin.from);
        let is_wanted = args.outcome.as_ref().is_none_or(|wanted| wanted == outcome)
            && looking.takes_host(host_id, host_name)
            && has(args.text.as_ref(), &format!("{all} {}", item.subject()));
        if !is_wanted {
            return None;
        }
        let time = clock::of_ms(item.at_ms);
        let json = json!({
            "time": time.format(&Rfc3339).unwrap_or_default(), "id": item.id, "verb": verb, "subject": subject, "object": object,
            "outcome": outcome, "reason": reason, "took_ms": took_ms, "origin": item.origin, "who": who,
            "host_id": host_id, "host": host_name,
        });
        let tone = match item.outcome {
            Outcome::Accepted => Tone::Plain,
            Outcome::Refused => Tone::Bad,
            Outcome::Unknown => Tone::Warning,
        };
        let mut line = Tone::Faint.paint(&clock::time_of(time)) + " " + Tone::Strong.paint(&who);
        if !item.origin.from.is_empty() {
            line = line + " from " + &*item.origin.from;
        }
        let shown = if is_wide { subject.clone() } else { shortened(&subject) };
        line = line + ": " + &**verb + " " + &*shown + " on " + &**host_name;
        if is_wide {
            line = line + " " + &**host_id + &*format!(" ({took_ms} ms)");
        }
        let end = match reason.as_str() {
            "" => outcome.to_owned(),
            reason => format!("{outcome}: {reason}"),
        };
        Some((json, line + ", " + tone.paint(&end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::Form;

    #[test]
    fn nothing_that_comes_is_lost_because_it_is_late_or_a_clock_is_ahead() {
        let range = Range { since_ms: 100_000, until_ms: 260_000 };
        for (last_ms, expected) in [
            // Nothing was read: whatever comes of this time is new.
            (None, 100_000),
            (Some(150_000), 140_000),
            (Some(105_000), 100_000),
            // The clock of its host is ahead.
            (Some(255_000), 190_000),
        ] {
            assert_eq!(begin_ms(last_ms, range, 200_000), expected, "{last_ms:?}");
        }
    }

    #[test]
    fn a_span_ends_after_it_begins() {
        let span = |since: &str, until: Option<&str>| Span {
            since: since.into(),
            until: until.map(Into::into),
            count: 10,
            follow: false,
            form: Form::default(),
            connect: Connect::default(),
        };
        let hour = range(&span("1h", None)).unwrap();
        assert!(hour.until_ms - hour.since_ms >= 3_600_000);
        assert!(range(&span("1h", Some("30m"))).is_ok());
        assert!(range(&span("30m", Some("1h"))).unwrap_err().is::<Usage>());
        assert!(range(&span("soon", None)).unwrap_err().is::<Usage>());
    }

    #[test]
    fn a_host_that_is_gone_is_meant_by_its_id_or_the_name_that_it_had() {
        let host = |id: &str, name: &str| HostReply {
            id: id.into(),
            friendly_name: name.into(),
            ..HostReply::default()
        };
        let hosts = [host("NLIVE", "calm-otter-0042"), host("NLIVE2", "bold-mole-0001")];
        for (word, wanted) in [
            // Both may be meant.
            ("NLIV", Wanted::Name("NLIV".into())),
            ("NABC2", Wanted::Id("NABC2".into())),
            ("calm-otter", Wanted::Id("NLIVE".into())),
            ("bold-crane-0001", Wanted::Name("bold-crane-0001".into())),
        ] {
            let found = names::host(word, &hosts).ok();
            assert_eq!(Wanted::of(word, found.as_deref(), &hosts), wanted);
        }
        let gone = Wanted::of("bold-crane-0001", None, &hosts);
        assert!(gone.takes("NABC2", "bold-crane-0001") && !gone.takes("NABC2", "calm-otter-0042"));
    }
}
