//! The interfaces of components, and what each stands for in a lattice (components, sections 2.1
//! and 2.13).
//!
//! A component names what it uses and what it offers by interface, `wasi:http/types@0.2.10`; a
//! lattice knows contracts, `wasmcloud:httpserver`. This table leads from the one to the other. It
//! is read by whoever signs a component (its imports are its capabilities), by the host that starts
//! it, and by people who want to know what a file will ask for.
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
        match wanted.ends_with('.') {
            true => version.starts_with(wanted) && !version.contains('-'),
            false => version == wanted,
        }
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
    Unserved(&'static str),
}

/// Returns what an import or export stands for.
pub fn meaning(direction: Direction, name: &str) -> Meaning {
    let Some(interface) = InterfaceName::parse(name) else {
        return match (direction, name) {
            (Direction::Export, PYTHON_INITIALISER) => Meaning::Initialiser,
            _ => Meaning::Typed,
        };
    };
    match (direction, interface.package) {
        (_, "wasi:http") => http(direction, &interface),
        (_, "wasi:cli") if direction == Direction::Export => job(&interface),
        (
            _,
            "wasi:io" | "wasi:clocks" | "wasi:random" | "wasi:cli" | "wasi:filesystem"
            | "wasi:sockets",
        ) => match interface.is_release_of(&["0.2.", "0.3."]) {
            true => Meaning::Base,
            false => Meaning::Unserved(CANDIDATE),
        },
        (_, "wasmcloud:messaging") => messaging(direction, interface.interface),
        (_, "wasmcloud:bus") => bus(interface.interface),
        (Direction::Export, _) => Meaning::Typed,
        (Direction::Import, _) => import(&interface),
    }
}

/// Returns the contract that an import or export stands for, if it stands for one.
pub fn contract(direction: Direction, name: &str) -> Option<&'static str> {
    match meaning(direction, name) {
        Meaning::Contract(contract) => Some(contract),
        _ => None,
    }
}

const CANDIDATE: &str = "it is a version from before a release of WASI; build with current tools";
const NO_CONTRACT: &str = "no contract of a lattice stands for it";
const OWN_DATABASE: &str =
    "a lattice has no such database; use a provider of wasmcloud:keyvalue or wasmcloud:blobstore";

fn http(direction: Direction, interface: &InterfaceName<'_>) -> Meaning {
    let (old, new) = (interface.has_version("0.2."), interface.has_version("0.3."));
    if !old && !new {
        return Meaning::Unserved(CANDIDATE);
    }
    match (direction, interface.interface) {
        (_, "types") => Meaning::Types,
        (Direction::Export, "incoming-handler") if old => Meaning::Contract(httpserver::CONTRACT),
        (Direction::Export, "handler") if new => Meaning::Contract(httpserver::CONTRACT),
        (Direction::Import, "outgoing-handler") if old => {
            Meaning::Contract(httpclient::CONTRACT_ID)
        }
        (Direction::Import, "client") if new => Meaning::Contract(httpclient::CONTRACT_ID),
        _ => Meaning::Typed,
    }
}

fn job(interface: &InterfaceName<'_>) -> Meaning {
    match interface.interface == "run" && interface.is_release_of(&["0.2.", "0.3."]) {
        true => Meaning::Job,
        false => Meaning::Typed,
    }
}

fn messaging(direction: Direction, interface: &str) -> Meaning {
    match (direction, interface) {
        (Direction::Import, "consumer") | (Direction::Export, "handler") => {
            Meaning::Contract(messaging::CONTRACT_ID)
        }
        (_, "types") => Meaning::Types,
        _ => Meaning::Typed,
    }
}

fn bus(interface: &str) -> Meaning {
    match interface {
        "guest-config" => Meaning::Configuration,
        _ => Meaning::Bus,
    }
}

/// Tells about the imports that have no other side.
fn import(interface: &InterfaceName<'_>) -> Meaning {
    match interface.package {
        "wasi:keyvalue" => keyvalue_of(interface),
        "wasi:blobstore" => match interface.is_release_of(&["0.2.0-draft", "0.1.0"]) {
            true => Meaning::Contract(blobstore::CONTRACT_ID),
            false => Meaning::Unserved("only drafts 0.1.0 and 0.2.0-draft of it are known"),
        },
        "spin:key-value" | "fermyon:spin" if is_spin_store(interface) => {
            Meaning::Contract(keyvalue::CONTRACT_ID)
        }
        "wasi:logging" => Meaning::Contract(LOGGING),
        "wasi:config" | "spin:variables" => Meaning::Configuration,
        "fermyon:spin" if matches!(interface.interface, "variables" | "config") => {
            Meaning::Configuration
        }
        "wasmcloud:secrets" => Meaning::Secrets,
        "wasmcloud:postgres" | "spin:sqlite" | "spin:mysql" | "spin:postgres" | "spin:redis" => {
            Meaning::Unserved(OWN_DATABASE)
        }
        "wasmcloud:keyvalue" => {
            Meaning::Unserved("only wasi:keyvalue is known; import that instead")
        }
        package if package.starts_with("wasi:") => Meaning::Unserved(NO_CONTRACT),
        package if package.starts_with("spin:") || package.starts_with("fermyon:") => {
            Meaning::Unserved(NO_CONTRACT)
        }
        _ => Meaning::Typed,
    }
}

fn keyvalue_of(interface: &InterfaceName<'_>) -> Meaning {
    let is_known = match interface.interface {
        "store" | "atomics" | "batch" => interface.is_release_of(&["0.2.0-draft", "0.2.0-draft2"]),
        "types" | "wasi-keyvalue-error" | "eventual" | "atomic" | "eventual-batch" => {
            interface.has_version("0.1.0")
        }
        _ => false,
    };
    match is_known {
        true => Meaning::Contract(keyvalue::CONTRACT_ID),
        false => {
            Meaning::Unserved("only drafts 0.1.0, 0.2.0-draft and 0.2.0-draft2 of it are known")
        }
    }
}

fn is_spin_store(interface: &InterfaceName<'_>) -> bool {
    match interface.package {
        "spin:key-value" => interface.interface == "key-value",
        _ => interface.interface == "key-value" && interface.has_version("2.0."),
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
            (Import, "wasi:keyvalue/eventual@0.1.0", Some("wasmcloud:keyvalue")),
            (Import, "wasi:keyvalue/store@0.3.0", None),
            (Import, "spin:key-value/key-value@3.0.0", Some("wasmcloud:keyvalue")),
            (Import, "fermyon:spin/key-value@2.0.0", Some("wasmcloud:keyvalue")),
            (Import, "wasi:blobstore/container@0.2.0-draft", Some("wasmcloud:blobstore")),
            (Import, "wasmcloud:messaging/consumer@0.3.0", Some("wasmcloud:messaging")),
            (Import, "wasmcloud:messaging/consumer", Some("wasmcloud:messaging")),
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
            (Import, "wasmcloud:bus/guest-config", Meaning::Configuration),
            (Import, "fermyon:spin/variables@2.0.0", Meaning::Configuration),
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
        for name in [
            "wasi:io/poll@0.2.0-rc-2023-11-10",
            "wasi:random/random@0.3.0-rc-2026-03-15",
            "wasi:nn/tensor@0.2.0",
            "spin:sqlite/sqlite@3.1.0",
            "fermyon:spin/llm@2.0.0",
        ] {
            assert!(matches!(meaning(Import, name), Meaning::Unserved(_)), "{name}");
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
