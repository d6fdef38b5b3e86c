//! `host completions`: scripts for shells, which ask this binary what could come next.
//!
//! A script holds no command and no flag; each time it runs the binary again, with the words typed
//! so far and the variable `COMPLETE` set, and [`answer`] answers before anything else happens. So
//! a script never grows old.
//!
//! Ids of actors, providers and hosts come from the lattice of the settings ([`candidates`]); what
//! does not answer at once is left out. A shell that completes is never disturbed by an error.
//!
//! The command line itself knows nothing of this: [`with_completers`] attaches to its arguments
//! what completes them.

mod candidates;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Arg, Command, ValueHint};
use clap_complete::{
    engine::ArgValueCompleter,
    env::{CompleteEnv, Shells},
};
use serde_json::json;

use crate::{
    args::{self, tools::Completions},
    terminal::{Message, Terminal},
};
use candidates::{
    actors, apps, constraints, contexts, contracts, entities, hosts, modules, paths, providers,
    running_actors, running_providers, sources, targets, updates,
};
use lattice_protocol::errors::Usage;

/// Tells a run of the binary that a shell asks.
const VARIABLE: &str = "COMPLETE";
/// The command that is completed.
const NAME: &str = "host";

/// The addition for bash: it ends words at colons and equals signs, of which ids, contracts and
/// references are full. They are put together again for the question, and of an answer only the
/// part after the last of them is given back.
const BASH: &str = r#"
_host_complete() {
    local line="${COMP_LINE#*"${COMP_WORDS[0]}"}" before="" index here=0 piece
    local -a joined=("${COMP_WORDS[0]}")
    for ((index = 1; index < ${#COMP_WORDS[@]}; index++)); do
        piece="${COMP_WORDS[index]}"
        if [[ index -gt 1 && -n "$piece" && "$line" == "$piece"* ]]; then
            # Nothing between it and the piece before.
            before="${joined[${#joined[@]} - 1]}"
            joined[${#joined[@]} - 1]+="$piece"
        else
            before=""
            joined+=("$piece")
        fi
        line="${line#"${line%%[![:space:]]*}"}"
        line="${line#"$piece"}"
        if [[ index -eq COMP_CWORD ]]; then
            here=$((${#joined[@]} - 1))
            [[ "$piece" == [:=] ]] && before+="$piece"
            joined[here]="$before$2"
            break
        fi
    done
    local -a COMP_WORDS=("${joined[@]}")
    local COMP_CWORD="$here"
    _clap_complete_host "$1" "${joined[here]}" "$3"
    if [[ -n "$before" && ${#COMPREPLY[@]} -gt 0 ]]; then
        COMPREPLY=("${COMPREPLY[@]#"$before"}")
    fi
}
if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -o nospace -o bashdefault -o nosort -F _host_complete host
else
    complete -o nospace -o bashdefault -F _host_complete host
fi
"#;

/// The addition for zsh: as a file among its functions the script is run as a function first, and
/// is to complete then too.
const ZSH: &str = r#"
if [[ "${funcstack[1]}" == "_host" ]]; then
    _clap_dynamic_completer_host "$@"
fi
"#;

/// Answers a shell that asks for completions, and ends the process then.
pub fn answer() {
    CompleteEnv::with_factory(|| with_completers(args::command(), "")).var(VARIABLE).complete();
}

/// Attaches a completer to each argument whose values are known. `path` is the words that lead to
/// the command, behind the binary and without `ctl`.
fn with_completers(command: Command, path: &str) -> Command {
    let command = command.mut_args(|arg| match completer(path, &arg) {
        Some(completer) => arg.add(completer),
        None => arg,
    });
    command.mut_subcommands(|inner| {
        let inner_path = match (path, inner.get_name()) {
            ("", "ctl") => String::new(),
            ("", name) => name.to_owned(),
            (path, name) => format!("{path} {name}"),
        };
        with_completers(inner, &inner_path)
    })
}

/// Returns what completes an argument of the command at this path.
fn completer(path: &str, arg: &Arg) -> Option<ArgValueCompleter> {
    Some(match (path, arg.get_id().as_str()) {
        (_, "context") | ("ctx edit" | "ctx default" | "ctx del" | "ctx show", "name") => {
            contexts()
        }
        (_, "host_id")
        | ("get inventory" | "stop host" | "scale actor" | "label" | "drain", "host") => hosts(),
        (_, "constraints") => constraints(),
        ("start actor", "reference") => modules(),
        ("start provider" | "inspect" | "claims inspect" | "par inspect", "reference") => sources(),
        ("stop actor", "actor") => running_actors(),
        ("stop provider", "provider") => running_providers(),
        ("update actor", "names") => updates(),
        ("scale actor" | "link put" | "link del" | "call" | "spy", "actor") => actors(),
        ("link put", "provider") => providers(),
        ("link put" | "link del", "contract") | ("dev", "caps") => contracts(),
        ("logs", "entity") | ("explain", "origin") | ("claims forget", "name") => entities(),
        ("explain", "target") => targets(),
        ("app deploy", "source") | ("export", "application") => apps(),
        ("app get" | "app history" | "app status" | "app del" | "app undeploy", "name") => apps(),
        // The library's own completer offers paths whatever they are called.
        _ if is_path(arg) => paths(),
        _ => return None,
    })
}

fn is_path(arg: &Arg) -> bool {
    use ValueHint::{AnyPath, DirPath, ExecutablePath, FilePath};
    matches!(arg.get_value_hint(), AnyPath | FilePath | DirPath | ExecutablePath)
}

pub fn run(terminal: &Terminal, args: &Completions) -> Result<()> {
    // An alias arrives as it was typed.
    let shell = args.shell.to_lowercase().replace('-', "");
    let script = script(&shell, &binary())?;
    let Some(dir) = &args.dir else {
        let mut page = terminal.page();
        page.block(&script);
        return terminal.print(page);
    };
    let path = dir.join(file_name(&shell));
    std::fs::write(&path, script).with_context(|| format!("write {}", path.display()))?;
    let told = format!("The completions for {shell} are in {}", path.display());
    terminal.show(&Message::new(
        told,
        path.display().to_string(),
        json!({ "shell": shell, "path": path }),
    ))
}

/// The script for a shell.
fn script(shell: &str, binary: &str) -> Result<String> {
    let shells = Shells::builtins();
    let completer = shells
        .completer(shell)
        .ok_or_else(|| Usage(format!("no completions are known for {shell}")))?;
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, NAME, NAME, binary, &mut script)
        .context("write the script")?;
    let mut script = String::from_utf8(script).context("write the script")?;
    match shell {
        "bash" => script.push_str(BASH),
        "zsh" => script.push_str(ZSH),
        _ => {}
    }
    Ok(script)
}

/// How the script is to run this binary: as it was run now, from wherever.
fn binary() -> String {
    let own = std::env::args_os().next().map_or_else(|| PathBuf::from(NAME), PathBuf::from);
    let is_found_by_name = own.components().count() == 1;
    let path = if is_found_by_name { own } else { std::path::absolute(&own).unwrap_or(own) };
    path.to_string_lossy().into_owned()
}

/// The name under which a shell looks for the script.
fn file_name(shell: &str) -> &'static Path {
    Path::new(match shell {
        "zsh" => "_host",
        "fish" => "host.fish",
        "powershell" => "_host.ps1",
        "elvish" => "host.elv",
        _ => "host.bash",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands, with the arguments of theirs whose values come from a lattice or a context.
    fn completed(command: &Command, path: &str, found: &mut Vec<String>) {
        for arg in command.get_arguments().filter(|arg| arg.get_id() != "context" && !is_path(arg))
        {
            if arg.get::<ArgValueCompleter>().is_some() {
                found.push(format!("{path} {}", arg.get_id()));
            }
        }
        for inner in command.get_subcommands() {
            completed(inner, &format!("{path} {}", inner.get_name()), found);
        }
    }

    #[test]
    fn arguments_that_name_what_is_in_a_lattice_are_completed_in_both_forms_of_a_verb() {
        let mut found = Vec::new();
        completed(&with_completers(args::command(), ""), "", &mut found);
        for argument in [
            " get inventory host",
            " start actor reference",
            " start provider constraints",
            " stop actor actor",
            " stop provider host_id",
            " stop host host",
            " scale actor host",
            " update actor names",
            " link put contract",
            " link del actor",
        ] {
            for form in ["", " ctl"] {
                let argument = format!("{form}{argument}");
                assert!(found.contains(&argument), "{argument}");
            }
        }
        assert_eq!(found.len(), 69, "{found:#?}");
    }

    #[test]
    fn every_shell_has_a_script_that_runs_this_binary() {
        for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
            let script = script(shell, "/opt/host").unwrap();
            assert!(script.contains("/opt/host") && script.contains(VARIABLE), "{shell}: {script}");
        }
        assert!(script("tcsh", "host").unwrap_err().is::<Usage>());
    }

    /// `clap_complete` chooses the names of functions, which our additions call.
    #[test]
    fn the_additions_call_what_is_there() {
        assert!(script("bash", "host").unwrap().contains("\n_clap_complete_host() {"));
        assert!(
            script("zsh", "host").unwrap().contains("\nfunction _clap_dynamic_completer_host() {")
        );
    }
}
