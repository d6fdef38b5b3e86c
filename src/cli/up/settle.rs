//! Adds the JetStream domains to the settings, before a host is built from them.
//!
//! Two domains are at stake. `js_domain` is where the lattice keeps its metadata; every host of the
//! lattice has the same. The *server's* domain names this machine's own JetStream store, and two
//! servers that meet at a hub must not have the same. Alone, both are one. With a hub, the machine
//! that has the metadata is told from the others by two things: nobody has told it a `js_domain`
//! (so it gets the usual one and keeps it), or its server has had that domain before, for this same
//! lattice. A copied `host_config.json` names a domain that this machine's server never had, or had
//! for a lattice of its own, so the server gets another one.
//!
//! A file beside a store, `{domain}.json`, says which lattice it is for: the store's name does not
//! tell it, since a lattice that was tried alone first is `core` as well.

use std::{fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};
use tracing::info;

use super::{Options, instance::Instance};
use lattice_base::{
    config::{Config, Origin, Resolved, Row},
    dirs::Dirs,
    trusted::{self, Holds},
};

/// The JetStream domain when none is set; the one of the walk in the README.
const DOMAIN: &str = "core";
/// The beginning of the domain of a server beside a host of another domain.
const OTHER_DOMAIN: &str = "extender";

/// The setting of this key, as resolved.
pub(super) fn row(table: &Resolved, key: &str) -> Option<Row> {
    table.rows().into_iter().find(|row| row.key == key)
}

/// A lattice, as far as a store belongs to one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lattice {
    /// The public key of the cluster issuer, which every machine of the lattice has from the same
    /// file.
    cluster: String,
    lattice: String,
}

impl Lattice {
    pub fn of(config: &Config) -> Self {
        Self { cluster: config.cluster.public.clone(), lattice: config.lattice.clone() }
    }
}

/// The domains of one start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Domains {
    /// Of this machine's server, should one be started.
    pub server: String,
    /// The value that `js_domain` gets beside that server; `None` if it is set already.
    pub metadata: Option<String>,
    /// Whether the store surely is this machine's own part of the lattice, not one that a copied
    /// file made it have.
    pub is_own: bool,
}

impl Domains {
    fn own(server: String, metadata: Option<String>) -> Self {
        Self { server, metadata, is_own: true }
    }
}

/// Why a domain cannot be had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DomainError {
    #[error(
        "--domain {domain}: the host keeps its metadata in domain {metadata} ({origin}), and without a hub nothing leads \
         there; leave --domain away, set --js-domain {domain} too, or name the hub with --hub"
    )]
    Elsewhere { domain: String, metadata: String, origin: Origin },
    #[error(
        "--domain {0:?} is no JetStream domain; accepted: letters, digits, - and _, at most 64"
    )]
    Malformed(String),
}

/// Decides on the domains.
pub(super) fn domains(
    options: &Options,
    table: &Resolved,
    dirs: &Dirs,
    instance: &Instance,
    lattice: &Lattice,
) -> Result<Domains, DomainError> {
    let Some(told) = row(table, "js_domain").filter(|row| row.origin != Origin::Default) else {
        let domain = options.domain.clone().unwrap_or_else(|| DOMAIN.to_owned());
        return Ok(Domains::own(domain.clone(), Some(domain)));
    };
    // An empty flag wants the server's own, whatever that is.
    let metadata = if told.value.is_empty() { DOMAIN.to_owned() } else { told.value };
    match (&options.domain, &options.hub) {
        (Some(domain), None) if *domain != metadata => {
            Err(DomainError::Elsewhere { domain: domain.clone(), metadata, origin: told.origin })
        }
        (Some(domain), _) => Ok(Domains::own(domain.clone(), None)),
        // Only the file can have been copied.
        (None, None) => {
            Ok(Domains { is_own: told.origin.is_above_file(), ..Domains::own(metadata, None) })
        }
        (None, Some(hub)) => {
            let had = had_domains(dirs, instance, lattice);
            if had.contains(&metadata) {
                return Ok(Domains::own(metadata, None));
            }
            let other = had.into_iter().find(|domain| domain.starts_with(OTHER_DOMAIN));
            let domain = other.unwrap_or_else(other_domain);
            info!(
                "the lattice's metadata is in JetStream domain {metadata} ({}), behind {hub}; the server of this machine gets \
                 domain {domain}. If this machine is the one with the metadata, start it with --domain {metadata}",
                told.origin
            );
            Ok(Domains::own(domain, None))
        }
    }
}

/// Where the server of this instance keeps its streams, by domain.
pub(super) fn store(dirs: &Dirs, instance: &Instance, domain: &str) -> PathBuf {
    stores(dirs, instance).join(domain)
}

/// Where the login of the server of this instance is kept, whatever its domain. No domain has a dot
/// in its name.
pub(super) fn login(dirs: &Dirs, instance: &Instance) -> PathBuf {
    stores(dirs, instance).join(".login")
}

/// The same login as a file of credentials.
pub(super) fn creds(dirs: &Dirs, instance: &Instance) -> PathBuf {
    stores(dirs, instance).join("login.creds")
}

fn stores(dirs: &Dirs, instance: &Instance) -> PathBuf {
    dirs.data.join("nats").join(instance.key())
}

/// Notes beside the store of this domain which lattice it is for.
pub(super) fn mark(
    dirs: &Dirs,
    instance: &Instance,
    domain: &str,
    lattice: &Lattice,
) -> io::Result<()> {
    let stores = stores(dirs, instance);
    fs::create_dir_all(&stores)?;
    trusted::replace(&mark_of(dirs, instance, domain), &serde_json::to_vec(lattice)?)
}

/// No domain has a dot in its name, so this is none's store.
fn mark_of(dirs: &Dirs, instance: &Instance, domain: &str) -> PathBuf {
    stores(dirs, instance).join(format!("{domain}.json"))
}

/// The lattice that the store of this domain is for.
fn marked_lattice(dirs: &Dirs, instance: &Instance, domain: &str) -> Option<Lattice> {
    let mark = trusted::read(&mark_of(dirs, instance, domain), Holds::Settings).ok()?;
    serde_json::from_slice(&mark.bytes).ok()
}

/// The domains that servers of this instance have had for this lattice.
fn had_domains(dirs: &Dirs, instance: &Instance, lattice: &Lattice) -> Vec<String> {
    let entries = fs::read_dir(stores(dirs, instance)).into_iter().flatten().filter_map(Result::ok);
    let stores = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut had: Vec<String> = stores
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|domain| marked_lattice(dirs, instance, domain).as_ref() == Some(lattice))
        .collect();
    had.sort();
    had
}

/// Two machines of a lattice must not get the same.
fn other_domain() -> String {
    format!("{OTHER_DOMAIN}-{:06x}", rand::random::<u32>() & 0xff_ffff)
}

/// Checks a domain's name as it was given on the command line.
pub(super) fn check_domain(domain: &str) -> Result<(), DomainError> {
    let is_token =
        domain.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if !domain.is_empty() && domain.len() <= 64 && is_token {
        return Ok(());
    }
    Err(DomainError::Malformed(domain.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::up::hub::Hub;
    use lattice_base::config::{Config, Sources};

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        /// With the settings of this lattice, where `--js-domain` or `host_config.json` may have
        /// told a domain.
        fn decide(
            &self,
            options: &Options,
            flag: Option<&str>,
            file: Option<&str>,
            lattice: &str,
        ) -> Result<Domains, DomainError> {
            if let Some(domain) = file {
                let text = serde_json::json!({ "js_domain": domain }).to_string();
                fs::write(self.0.path().join("host_config.json"), text).unwrap();
            }
            let sources = Sources {
                flags: flag.map(|domain| ("js_domain", domain.to_owned())).into_iter().collect(),
                labels: Vec::new(),
                env: Box::new(Vec::<(String, String)>::new()),
                dir: self.0.path().into(),
                home: None,
                context: None,
            };
            let table = Config::load(&sources).unwrap().table;
            let domains = domains(options, &table, &self.dirs(), &self.instance(), &of(lattice))?;
            // As a server does that runs with these.
            fs::create_dir_all(store(&self.dirs(), &self.instance(), &domains.server)).unwrap();
            if domains.is_own {
                mark(&self.dirs(), &self.instance(), &domains.server, &of(lattice)).unwrap();
            }
            Ok(domains)
        }

        /// As `decide`, in the words of the server's domain and the one that `js_domain` gets.
        fn domains(
            &self,
            options: &Options,
            js_domain: Option<&str>,
        ) -> Result<(String, Option<String>), DomainError> {
            self.decide(options, js_domain, None, "ours")
                .map(|domains| (domains.server, domains.metadata))
        }

        fn dirs(&self) -> Dirs {
            Dirs::find(&Vec::new(), Some(self.0.path()))
        }

        fn instance(&self) -> Instance {
            Instance::of(&self.dirs(), Path::new("/work"))
        }
    }

    fn of(lattice: &str) -> Lattice {
        Lattice { cluster: lattice.to_owned(), lattice: "default".to_owned() }
    }

    fn options(hub: bool, domain: Option<&str>) -> Options {
        let hub = hub.then(|| Hub { urls: vec!["tls://hub".into()], creds: None, ca: None });
        Options { hub, domain: domain.map(str::to_owned), ..Options::default() }
    }

    #[test]
    fn alone_the_server_has_the_domain_of_the_host() {
        let machine = Machine::new();
        let alone = options(false, None);
        assert_eq!(machine.domains(&alone, None), Ok(("core".into(), Some("core".into()))));
        assert_eq!(machine.domains(&alone, Some("mine")), Ok(("mine".into(), None)));
        assert_eq!(machine.domains(&alone, Some("")), Ok(("core".into(), None)));
        assert_eq!(
            machine.domains(&options(false, Some("mine")), None),
            Ok(("mine".into(), Some("mine".into())))
        );
        let error =
            machine.domains(&options(false, Some("mine")), Some("core")).unwrap_err().to_string();
        assert!(error.contains("--domain mine") && error.contains("--hub"), "{error}");
    }

    #[test]
    fn at_a_hub_only_the_machine_that_has_the_metadata_is_called_like_it() {
        let first = Machine::new();
        let hub = options(true, None);
        let (domain, js_domain) = first.domains(&hub, None).unwrap();
        assert_eq!((domain.as_str(), js_domain.as_deref()), ("core", Some("core")));
        // Its own `host_config.json` names the domain from then on.
        assert_eq!(first.decide(&hub, None, Some("core"), "ours").unwrap().server, "core");

        let second = Machine::new();
        let (domain, js_domain) = second.domains(&hub, Some("core")).unwrap();
        assert!(domain.starts_with("extender-") && js_domain.is_none(), "{domain}");
        assert_eq!(second.domains(&hub, Some("core")), Ok((domain, None)));
        assert_eq!(
            second.domains(&options(true, Some("shop")), Some("core")),
            Ok(("shop".into(), None))
        );
        assert_ne!(other_domain(), other_domain());
    }

    #[test]
    fn a_machine_that_was_tried_alone_first_joins_with_a_domain_of_its_own() {
        let (alone, hub) = (options(false, None), options(true, None));
        let machine = Machine::new();
        assert_eq!(machine.decide(&alone, None, None, "mine").unwrap().server, "core");
        // The file of another machine is copied over its own; without the hub it has to do with the
        // store it has.
        assert_eq!(machine.decide(&alone, None, Some("core"), "ours").unwrap().server, "core");
        let joined = machine.decide(&hub, None, Some("core"), "ours").unwrap().server;
        assert!(joined.starts_with("extender-"), "{joined}");
        assert_eq!(machine.decide(&hub, None, Some("core"), "ours").unwrap().server, joined);
        // With its own file again it is what it was.
        assert_eq!(machine.decide(&hub, None, Some("core"), "mine").unwrap().server, "core");
        // Somebody who knows better says so, once.
        assert_eq!(
            machine
                .decide(&options(true, Some("core")), None, Some("core"), "ours")
                .unwrap()
                .server,
            "core"
        );
        assert_eq!(machine.decide(&hub, None, Some("core"), "ours").unwrap().server, "core");
    }

    #[test]
    fn a_domain_is_one_token() {
        assert!(check_domain("core-2").is_ok());
        for bad in ["", "a.b", "a b", "*", ">"] {
            assert!(check_domain(bad).is_err(), "{bad}");
        }
    }
}
