//! The interfaces of components, and what each stands for in a lattice (components, sections 2.1
//! and 2.13).
//!
//! A component names what it uses and what it offers by interface, `wasi:http/types@0.2.10`; a
//! lattice knows contracts, `wasmcloud:httpserver`. This table leads from the one to the other. It
//! is read by whoever signs a component (its imports are its capabilities), by the host that starts
//! it, and by people who want to know what a file will ask for.
//!
//! [`ANSWERED`] is the one list of the imports that hosts answer. The engine's linker asks it, and
//! a test there holds the linker's bridges to it.
//!
//! Versions matter in two ways. A release stands for all of its line (`0.2.x`); a draft is itself
//! and nothing else, because two drafts of one interface differ in their types.

use super::{LOGGING, blobstore, httpclient, httpserver, keyvalue, messaging};

/// The contracts that interfaces stand for, in the order in which they are listed for people.
pub const CONTRACTS: [&str; 6] = [
    keyvalue::CONTRACT_ID,
    messaging::CONTRACT_ID,
    httpclient::CONTRACT_ID,
    httpserver::CONTRACT,
    blobstore::CONTRACT_ID,
    LOGGING,
];

/// The export that componentize-py adds to those of the program: its initialiser, which ran when
/// the component was built.
pub const PYTHON_INITIALISER: &str = "exports";

/// The parts of an interface's name: `wasi:http/types@0.2.10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceName<'a> {
    /// Namespace and package: `wasi:http`.
    pub package: &'a str,
    pub interface: &'a str,
    /// Drafts and releases have one; interfaces of 2023 often have none.
    pub version: Option<&'a str>,
}

impl<'a> InterfaceName<'a> {
    /// Splits a name; `None` if it names a single function or something else without a package.
    pub fn parse(name: &'a str) -> Option<Self> {
        let (path, version) = match name.split_once('@') {
            Some((path, version)) => (path, Some(version)),
            None => (name, None),
        };
        let (package, interface) = path.split_once('/')?;
        let is_named = package.contains(':') && !interface.is_empty();
        is_named.then_some(Self { package, interface, version })
    }

    /// Says whether this is the version, or a release of the line it begins (`0.2.`).
    fn has_version(&self, wanted: &str) -> bool {
        let Some(version) = self.version else { return wanted.is_empty() };
        let release = version.split_once('+').map_or(version, |(release, _)| release);
        match wanted.ends_with('.') {
            true => release.starts_with(wanted) && !release.contains('-'),
            false => version == wanted,
        }
    }

    /// Returns the line of WASI it is a release of, if it is an interface of WASI: `0.2` or `0.3`.
    pub fn wasi_line(&self) -> Option<&'static str> {
        let lines = [("0.2.", "0.2"), ("0.3.", "0.3")];
        let found = lines.into_iter().find(|(line, _)| self.has_version(line));
        found.filter(|_| self.package.starts_with("wasi:")).map(|(_, line)| line)
    }

    fn is_release_of(&self, lines: &[&str]) -> bool {
        lines.iter().any(|line| self.has_version(line))
    }
}

/// From which side of a component an interface is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The component uses it.
    Import,
    /// The component offers it.
    Export,
}

/// The role of an interface in a lattice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Calls of or by a provider of this contract.
    Contract(&'static str),
    /// Named configuration, answered by the host.
    Configuration,
    /// Secrets, answered by the host.
    Secrets,
    /// One that every program imports, whatever it does: clocks, streams, random numbers, a closed
    /// standard input. What it can do there is up to the host, not to claims.
    Base,
    /// Types that other interfaces use; nothing can be called through them.
    Types,
    /// A job that runs to its end.
    Job,
    /// Calls in the form of the hosts of 2024, of any contract.
    Bus,
    /// The leftover of a build ([`PYTHON_INITIALISER`]).
    Initialiser,
    /// A function or an interface of the component's own, called by name.
    Typed,
    /// Nothing in a lattice answers it.
    Unserved,
}

/// Interfaces of one package whose imports hosts answer.
#[derive(Debug)]
pub struct Answered {
    pub package: &'static str,
    /// Lines of releases (`0.2.`), drafts (`0.2.0-draft`), and nothing for a name without a
    /// version.
    pub versions: &'static [&'static str],
    pub interfaces: &'static [&'static str],
    pub meaning: Meaning,
}

const fn base(
    package: &'static str,
    versions: &'static [&'static str],
    interfaces: &'static [&'static str],
) -> Answered {
    Answered { package, versions, interfaces, meaning: Meaning::Base }
}

const fn bridge(
    package: &'static str,
    versions: &'static [&'static str],
    interfaces: &'static [&'static str],
    meaning: Meaning,
) -> Answered {
    Answered { package, versions, interfaces, meaning }
}

const OLD: &[&str] = &["0.2."];
const NEW: &[&str] = &["0.3."];
const RELEASES: &[&str] = &["0.2.", "0.3."];
const CONSOLE: &[&str] = &[
    "environment",
    "exit",
    "stdin",
    "stdout",
    "stderr",
    "terminal-input",
    "terminal-output",
    "terminal-stdin",
    "terminal-stdout",
    "terminal-stderr",
];
const SOCKETS: &[&str] = &[
    "tcp",
    "tcp-create-socket",
    "udp",
    "udp-create-socket",
    "instance-network",
    "network",
    "ip-name-lookup",
];

/// Every import that hosts answer (components, sections 2.5 to 2.11).
pub const ANSWERED: &[Answered] = &[
    base("wasi:io", OLD, &["poll", "error", "streams"]),
    base("wasi:clocks", RELEASES, &["monotonic-clock"]),
    base("wasi:clocks", OLD, &["wall-clock"]),
    base("wasi:clocks", NEW, &["system-clock", "types"]),
    base("wasi:random", RELEASES, &["random", "insecure", "insecure-seed"]),
    base("wasi:cli", RELEASES, CONSOLE),
    bridge("wasi:cli", NEW, &["types"], Meaning::Types),
    base("wasi:filesystem", RELEASES, &["types", "preopens"]),
    base("wasi:sockets", OLD, SOCKETS),
    base("wasi:sockets", NEW, &["types", "ip-name-lookup"]),
    bridge("wasi:http", RELEASES, &["types"], Meaning::Types),
    bridge("wasi:http", OLD, &["outgoing-handler"], Meaning::Contract(httpclient::CONTRACT_ID)),
    bridge("wasi:http", NEW, &["client"], Meaning::Contract(httpclient::CONTRACT_ID)),
    bridge(
        "wasi:keyvalue",
        &["0.2.0-draft", "0.2.0-draft2"],
        &["store", "atomics", "batch"],
        Meaning::Contract(keyvalue::CONTRACT_ID),
    ),
    bridge("fermyon:spin", &["2."], &["key-value"], Meaning::Contract(keyvalue::CONTRACT_ID)),
    bridge("spin:key-value", &["3."], &["key-value"], Meaning::Contract(keyvalue::CONTRACT_ID)),
    bridge(
        "wasi:blobstore",
        &["0.2.0-draft"],
        &["types", "container", "blobstore"],
        Meaning::Contract(blobstore::CONTRACT_ID),
    ),
    bridge("wasi:logging", &["0.1.0-draft", ""], &["logging"], Meaning::Contract(LOGGING)),
    bridge(
        "wasi:config",
        &["0.2.0-rc.1", "0.2.0-draft-2024-09-27", "0.2.0-draft"],
        &["store"],
        Meaning::Configuration,
    ),
    bridge("wasi:config", &["0.2.0-draft"], &["runtime"], Meaning::Configuration),
    bridge("fermyon:spin", &[""], &["config"], Meaning::Configuration),
    bridge("fermyon:spin", &["2."], &["variables"], Meaning::Configuration),
    bridge("spin:variables", &["3."], &["variables"], Meaning::Configuration),
    bridge("wasmcloud:bus", &[""], &["guest-config"], Meaning::Configuration),
    bridge("wasmcloud:secrets", &["0.1.0-draft", "2."], &["store", "reveal"], Meaning::Secrets),
    bridge("wasmcloud:secrets", &["2."], &["secret"], Meaning::Secrets),
    bridge(
        "wasmcloud:messaging",
        RELEASES,
        &["consumer"],
        Meaning::Contract(messaging::CONTRACT_ID),
    ),
    bridge("wasmcloud:messaging", RELEASES, &["types"], Meaning::Types),
];

impl Answered {
    fn has(&self, interface: &InterfaceName<'_>) -> bool {
        self.package == interface.package
            && self.interfaces.contains(&interface.interface)
            && interface.is_release_of(self.versions)
    }
}

/// Returns the row of [`ANSWERED`] that an import is in; `None` if no host answers it.
pub fn answered(name: &str) -> Option<&'static Answered> {
    let interface = InterfaceName::parse(name)?;
    ANSWERED.iter().find(|row| row.has(&interface))
}

/// Returns what an import or export stands for.
pub fn meaning(direction: Direction, name: &str) -> Meaning {
    let Some(interface) = InterfaceName::parse(name) else {
        return match (direction, name) {
            (Direction::Export, PYTHON_INITIALISER) => Meaning::Initialiser,
            _ => Meaning::Typed,
        };
    };
    match (direction, answered(name)) {
        (Direction::Export, _) => export(&interface),
        (Direction::Import, Some(row)) => row.meaning,
        (Direction::Import, None) => match why_unanswered(name) {
            Some(_) => Meaning::Unserved,
            None => Meaning::Typed,
        },
    }
}

/// Returns the contract that an import or export stands for, if it stands for one.
pub fn contract(direction: Direction, name: &str) -> Option<&'static str> {
    match meaning(direction, name) {
        Meaning::Contract(contract) => Some(contract),
        _ => None,
    }
}

fn export(interface: &InterfaceName<'_>) -> Meaning {
    match (interface.package, interface.interface) {
        ("wasi:http", _) if !interface.is_release_of(RELEASES) => Meaning::Unserved,
        ("wasi:http", "types") | ("wasmcloud:messaging", "types") => Meaning::Types,
        ("wasi:http", "incoming-handler") if interface.is_release_of(OLD) => {
            Meaning::Contract(httpserver::CONTRACT)
        }
        ("wasi:http", "handler") if interface.is_release_of(NEW) => {
            Meaning::Contract(httpserver::CONTRACT)
        }
        ("wasi:cli", "run") if interface.is_release_of(RELEASES) => Meaning::Job,
        ("wasmcloud:messaging", "handler") => Meaning::Contract(messaging::CONTRACT_ID),
        ("wasmcloud:bus", "guest-config") => Meaning::Configuration,
        ("wasmcloud:bus", _) => Meaning::Bus,
        _ => Meaning::Typed,
    }
}

/// Returns why no host answers an import, where that is known; `None` of imports that are answered
/// and of interfaces that somebody made for programs of their own (components, section 2.13).
pub fn why_unanswered(name: &str) -> Option<String> {
    let interface = InterfaceName::parse(name).filter(|_| answered(name).is_none())?;
    let rows = ANSWERED.iter().filter(|row| {
        row.package == interface.package && row.interfaces.contains(&interface.interface)
    });
    let versions: Vec<&str> = rows.flat_map(|row| row.versions.iter().copied()).collect();
    if !versions.is_empty() {
        let versions = versions.into_iter().map(worded).collect::<Vec<_>>().join(", ");
        return Some(format!("hosts answer {versions} of it; build with tools that import that"));
    }
    let is_foreign = ["wasi:", "spin:", "fermyon:"]
        .iter()
        .any(|namespace| interface.package.starts_with(namespace));
    let why = match interface.package {
        "wasmcloud:postgres" | "spin:sqlite" | "spin:mysql" | "spin:postgres" | "spin:redis" => {
            OWN_DATABASE
        }
        "wasmcloud:keyvalue" => "only wasi:keyvalue is known; import that instead",
        package if is_foreign || ANSWERED.iter().any(|row| row.package == package) => NO_CONTRACT,
        _ => return None,
    };
    Some(why.to_owned())
}

const NO_CONTRACT: &str = "no contract of a lattice stands for it";
const OWN_DATABASE: &str =
    "a lattice has no such database; use a provider of wasmcloud:keyvalue or wasmcloud:blobstore";

fn worded(version: &str) -> String {
    match version {
        "" => "the one without a version".to_owned(),
        line if line.ends_with('.') => format!("{line}x"),
        draft => draft.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Export, Import};

    #[test]
    fn interfaces_stand_for_contracts_in_every_known_version() {
        let table = [
            (Export, "wasi:http/incoming-handler@0.2.10", Some("wasmcloud:httpserver")),
            (Export, "wasi:http/handler@0.3.0", Some("wasmcloud:httpserver")),
            (Export, "wasi:http/handler@0.3.0-rc-2026-03-15", None),
            (Import, "wasi:http/outgoing-handler@0.2.0", Some("wasmcloud:httpclient")),
            (Import, "wasi:http/client@0.3.1", Some("wasmcloud:httpclient")),
            (Import, "wasi:http/incoming-handler@0.2.10", None),
            (Import, "wasi:http/types@0.2.10", None),
            (Import, "wasi:keyvalue/store@0.2.0-draft", Some("wasmcloud:keyvalue")),
            (Import, "wasi:keyvalue/atomics@0.2.0-draft2", Some("wasmcloud:keyvalue")),
            (Import, "wasi:keyvalue/store@0.3.0", None),
            (Import, "fermyon:spin/key-value@2.0.0", Some("wasmcloud:keyvalue")),
            (Import, "spin:key-value/key-value@3.0.0", Some("wasmcloud:keyvalue")),
            (Import, "wasi:blobstore/container@0.2.0-draft", Some("wasmcloud:blobstore")),
            (Import, "wasmcloud:messaging/consumer@0.2.0", Some("wasmcloud:messaging")),
            (Import, "wasmcloud:messaging/consumer@0.3.0", Some("wasmcloud:messaging")),
            (Export, "wasmcloud:messaging/handler@0.2.0", Some("wasmcloud:messaging")),
            (Import, "wasi:logging/logging@0.1.0-draft", Some("wasmcloud:builtin:logging")),
            (Import, "wasi:logging/logging", Some("wasmcloud:builtin:logging")),
            (Import, "wasi:sockets/tcp@0.2.9", None),
        ];
        for (direction, name, expected) in table {
            assert_eq!(contract(direction, name), expected, "{direction:?} {name}");
        }
    }

    #[test]
    fn what_is_no_contract_has_a_meaning_of_its_own() {
        let table = [
            (Import, "wasi:config/store@0.2.0-draft-2024-09-27", Meaning::Configuration),
            (Import, "fermyon:spin/variables@2.0.0", Meaning::Configuration),
            (Import, "wasmcloud:bus/guest-config", Meaning::Configuration),
            (Import, "wasmcloud:secrets/store@2.1.0", Meaning::Secrets),
            (Import, "wasi:io/poll@0.2.12", Meaning::Base),
            (Export, "wasi:cli/run@0.2.3", Meaning::Job),
            (Export, "wasmcloud:bus/guest", Meaning::Bus),
            (Export, "exports", Meaning::Initialiser),
            (Import, "exports", Meaning::Typed),
            (Export, "wasmcloud:example/cron@0.0.1", Meaning::Typed),
            (Import, "hello", Meaning::Typed),
        ];
        for (direction, name, expected) in table {
            assert_eq!(meaning(direction, name), expected, "{direction:?} {name}");
        }
    }

    #[test]
    fn releases_stand_for_their_line_and_drafts_for_themselves() {
        for name in [
            "wasi:io/poll@0.2.0",
            "wasi:io/poll@0.2.99",
            "wasi:io/poll@0.2.3+build-1",
            "wasi:http/types@0.2.10",
            "wasi:http/client@0.3.1",
            "wasi:keyvalue/store@0.2.0-draft",
            "wasi:logging/logging",
            "fermyon:spin/key-value@2.0.0",
        ] {
            assert!(answered(name).is_some() && why_unanswered(name).is_none(), "{name}");
        }
        let table = [
            ("wasi:io/poll@0.3.0", Some("hosts answer 0.2.x of it")),
            ("wasi:io/poll@0.2.0-rc-2023-11-10", Some("hosts answer 0.2.x of it")),
            ("wasi:random/random@0.3.0-rc-2026-03-15", Some("hosts answer 0.2.x, 0.3.x of it")),
            ("wasi:keyvalue/store@0.2.0", Some("hosts answer 0.2.0-draft, 0.2.0-draft2 of it")),
            ("wasi:keyvalue/store@0.2.0-draft3", Some("0.2.0-draft2 of it")),
            ("wasi:logging/logging@0.3.0", Some("0.1.0-draft, the one without a version of it")),
            ("wasi:nn/tensor@0.2.0", Some("no contract")),
            ("fermyon:spin/llm@2.0.0", Some("no contract")),
            ("spin:sqlite/sqlite@3.1.0", Some("no such database")),
            ("wasmcloud:keyvalue/store@0.2.0", Some("import that instead")),
            ("wasmcloud:example/cron@0.0.1", None),
            ("hello", None),
        ];
        for (name, reason) in table {
            let found = why_unanswered(name);
            assert!(answered(name).is_none(), "{name}");
            assert_eq!(found.is_some(), reason.is_some(), "{name}: {found:?}");
            assert!(found.unwrap_or_default().contains(reason.unwrap_or_default()), "{name}");
        }
    }

    #[test]
    fn names_are_split_only_where_they_are_interfaces() {
        let name = InterfaceName::parse("wasi:http/types@0.2.10").unwrap();
        assert_eq!(
            (name.package, name.interface, name.version),
            ("wasi:http", "types", Some("0.2.10"))
        );
        for odd in ["", "hello", "a/b", "a:b", "a:b/", "/", "@"] {
            assert_eq!(InterfaceName::parse(odd), None, "{odd}");
        }
    }
}
