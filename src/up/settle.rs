//! What `up` adds to the settings before a host is built from them: the JetStream domains, the ports, file references.
//!
//! Two domains are at stake. `js_domain` is where the lattice keeps its metadata; every host of the lattice has the same.
//! The *server's* domain names this machine's own JetStream store, and two servers that meet at a hub must not have the
//! same. Alone, both are one. With a hub, the machine that has the metadata is told from the others by two things: nobody
//! has told it a `js_domain` (so it gets the usual one and keeps it), or its server has had that domain before. A copied
//! `host_config.json` names a domain this machine's server never had, so the server gets one of its own.

use std::{fs, path::PathBuf};

use tracing::info;

use super::{Options, instance::Instance};
use crate::{
    config::{Origin, Resolved, Row},
    dirs::Dirs,
};

/// The JetStream domain when none is set; the one of the walk in the README.
const DOMAIN: &str = "core";
/// What the domain of a server beside a host of another domain begins with.
const OTHER_DOMAIN: &str = "extender";

/// The setting of this key, as resolved.
pub(super) fn row(table: &Resolved, key: &str) -> Option<Row> {
    table.rows().into_iter().find(|row| row.key == key)
}

/// The domain of this machine's server, and the value that `js_domain` gets if it needs one.
pub(super) fn domains(
    options: &Options,
    table: &Resolved,
    dirs: &Dirs,
    instance: &Instance,
) -> Result<(String, Option<String>), String> {
    let Some(told) = row(table, "js_domain").filter(|row| row.origin != Origin::Default) else {
        let domain = options.domain.clone().unwrap_or_else(|| DOMAIN.to_owned());
        return Ok((domain.clone(), Some(domain)));
    };
    // An empty flag wants the server's own, whatever that is.
    let metadata = if told.value.is_empty() { DOMAIN.to_owned() } else { told.value };
    match (&options.domain, &options.hub) {
        (Some(domain), None) if *domain != metadata => Err(format!(
            "--domain {domain}: the host keeps its metadata in domain {metadata} ({}), and without a hub nothing leads \
             there; leave --domain away, set --js-domain {domain} too, or name the hub with --hub",
            told.origin
        )),
        (Some(domain), _) => Ok((domain.clone(), None)),
        (None, None) => Ok((metadata, None)),
        (None, Some(hub)) => {
            let had = had_domains(dirs, instance);
            if had.contains(&metadata) {
                return Ok((metadata, None));
            }
            let is_other = |domain: &&String| domain.starts_with(OTHER_DOMAIN);
            let domain = had.iter().find(is_other).cloned().unwrap_or_else(other_domain);
            info!(
                "the lattice's metadata is in JetStream domain {metadata} ({}), behind {hub}; the server of this machine gets \
                 domain {domain}. If this machine is the one with the metadata, start it with --domain {metadata}",
                told.origin
            );
            Ok((domain, None))
        }
    }
}

/// Where the server of this instance keeps its streams, by domain.
pub(super) fn store(dirs: &Dirs, instance: &Instance, domain: &str) -> PathBuf {
    stores(dirs, instance).join(domain)
}

fn stores(dirs: &Dirs, instance: &Instance) -> PathBuf {
    dirs.data.join("nats").join(instance.key())
}

fn had_domains(dirs: &Dirs, instance: &Instance) -> Vec<String> {
    let entries = fs::read_dir(stores(dirs, instance)).into_iter().flatten();
    let mut had: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    had.sort();
    had
}

/// Two machines of a lattice must not get the same.
fn other_domain() -> String {
    format!("{OTHER_DOMAIN}-{:06x}", rand::random::<u32>() & 0xff_ffff)
}

/// Checks a domain's name as it was given on the command line.
pub(super) fn check_domain(domain: &str) -> Result<(), String> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !domain.is_empty() && domain.len() <= 64 && domain.bytes().all(is_good) {
        return Ok(());
    }
    Err(format!("--domain {domain:?} is no JetStream domain; accepted: letters, digits, - and _, at most 64"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::{Config, Sources},
        up::hub::Hub,
    };

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn domains(&self, options: &Options, js_domain: Option<&str>) -> Result<(String, Option<String>), String> {
            let sources = Sources {
                flags: js_domain.map(|domain| ("js_domain", domain.to_owned())).into_iter().collect(),
                labels: Vec::new(),
                env: Box::new(Vec::<(String, String)>::new()),
                dir: self.0.path().into(),
                home: None,
            };
            let table = Config::load(&sources).unwrap().table;
            domains(options, &table, &self.dirs(), &self.instance())
        }

        fn dirs(&self) -> Dirs {
            Dirs::find(&Vec::new(), Some(self.0.path()))
        }

        fn instance(&self) -> Instance {
            Instance::of(&self.dirs(), Path::new("/work"))
        }

        /// As a server does that runs with this domain.
        fn run(&self, domain: &str) {
            fs::create_dir_all(store(&self.dirs(), &self.instance(), domain)).unwrap();
        }
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
        assert_eq!(machine.domains(&options(false, Some("mine")), None), Ok(("mine".into(), Some("mine".into()))));
        let error = machine.domains(&options(false, Some("mine")), Some("core")).unwrap_err();
        assert!(error.contains("--domain mine") && error.contains("--hub"), "{error}");
    }

    #[test]
    fn at_a_hub_only_the_machine_that_has_the_metadata_is_called_like_it() {
        let first = Machine::new();
        let hub = options(true, None);
        let (domain, js_domain) = first.domains(&hub, None).unwrap();
        assert_eq!((domain.as_str(), js_domain.as_deref()), ("core", Some("core")));
        first.run(&domain);
        // Its own `host_config.json` names the domain from then on.
        assert_eq!(first.domains(&hub, Some("core")), Ok(("core".into(), None)));

        let second = Machine::new();
        let (domain, js_domain) = second.domains(&hub, Some("core")).unwrap();
        assert!(domain.starts_with("extender-") && js_domain.is_none(), "{domain}");
        second.run(&domain);
        assert_eq!(second.domains(&hub, Some("core")), Ok((domain, None)));
        assert_eq!(second.domains(&options(true, Some("shop")), Some("core")), Ok(("shop".into(), None)));
        assert_ne!(other_domain(), other_domain());
    }

    #[test]
    fn a_domain_is_one_token() {
        assert!(check_domain("core-2").is_ok());
        for bad in ["", "a.b", "a b", "*", ">"] {
            assert!(check_domain(bad).is_err(), "{bad}");
        }
    }
}
