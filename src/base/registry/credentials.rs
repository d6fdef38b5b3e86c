//! Logins for registries, and the places they come from.
//!
//! [`Registries`] holds the credentials that were handed to all hosts of the lattice (lattice
//! protocol, sections 3.15 and 8.1); the control interface and the configuration service fill it.
//! [`Logins`] is asked by a pull and knows all places credentials come from, in their order: the
//! flags of a command, the lattice, the settings of this host, the logins of `docker login`.
//!
//! Keys are normalised to the registry's authority, because clients of different years send it with
//! a scheme, with a path or bare. Entries replace those of the same registry and leave others
//! alone. Secrets are never logged.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tracing::warn;

use super::docker;
use crate::config::{OciCredentials, Secret};

/// How to log in to a registry.
#[derive(Clone, Debug)]
pub enum Credentials {
    Basic { username: String, password: Secret },
    Token(Secret),
}

impl Credentials {
    fn bytes(&self) -> usize {
        match self {
            Self::Basic { username, password } => username.len() + password.expose().len(),
            Self::Token(token) => token.expose().len(),
        }
    }
}

/// One entry as clients send it. Reading it never fails: an error would quote what it cannot read,
/// which may be a secret. An entry that makes no sense has no credentials, and one that is bad
/// keeps no others away.
#[derive(Default)]
pub struct Credential {
    username: Option<String>,
    password: Option<String>,
    token: Option<String>,
}

impl<'de> Deserialize<'de> for Credential {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let text = |member: &str| {
            let text = value.get(member)?.as_str()?;
            (!text.is_empty()).then(|| text.to_owned())
        };
        Ok(Self { username: text("username"), password: text("password"), token: text("token") })
    }
}

impl Credential {
    /// User with password or token is basic authentication, a token alone a bearer; anything else
    /// is nothing.
    fn read(self) -> Option<Credentials> {
        match (self.username, self.password, self.token) {
            (Some(username), Some(secret), _) | (Some(username), None, Some(secret)) => {
                Some(Credentials::Basic { username, password: Secret::new(secret) })
            }
            (None, _, Some(token)) => Some(Credentials::Token(Secret::new(token))),
            _ => None,
        }
    }
}

/// Registries a host keeps logins of.
const REGISTRIES_MAX: usize = 256;
/// Bytes of the name of a registry, and of user and secret together; tokens of clouds have some
/// thousand.
const REGISTRY_BYTES_MAX: usize = 256;
const SECRET_BYTES_MAX: usize = 32 * 1024;

/// Why logins are not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManyLogins {
    #[error(
        "the host has logins of {known} registries and would get {fresh} more, it keeps {REGISTRIES_MAX}; restart it to begin \
         anew"
    )]
    Many { known: usize, fresh: usize },
    #[error(
        "the login of registry {0:?} is too long: a name may have {REGISTRY_BYTES_MAX} bytes, user and secret {SECRET_BYTES_MAX}"
    )]
    Long(String),
}

/// The credentials the lattice gave to this host. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registries {
    // Held for a few lines, never across an await.
    known: Arc<Mutex<BTreeMap<String, Credentials>>>,
}

impl Registries {
    /// Adds entries, all or none; returns the registries they are for. Entries without credentials
    /// are passed over.
    pub fn add(&self, entries: BTreeMap<String, Credential>) -> Result<Vec<String>, TooManyLogins> {
        let mut read = BTreeMap::new();
        let mut senseless = 0_usize;
        for (key, credential) in entries {
            let registry = authority(&key);
            match credential.read() {
                Some(credentials)
                    if registry.len() > REGISTRY_BYTES_MAX
                        || credentials.bytes() > SECRET_BYTES_MAX =>
                {
                    return Err(TooManyLogins::Long(registry.chars().take(64).collect()));
                }
                Some(credentials) => _ = read.insert(registry, credentials),
                None => senseless += 1,
            }
        }
        if senseless > 0 {
            warn!(
                entries = senseless,
                "registry credentials ignored: neither user and password nor a token"
            );
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = read.keys().filter(|registry| !known.contains_key(*registry)).count();
        if known.len() + fresh > REGISTRIES_MAX {
            return Err(TooManyLogins::Many { known: known.len(), fresh });
        }
        let added = read.keys().cloned().collect();
        known.extend(read);
        Ok(added)
    }

    /// The credentials of a registry, given as `host` or `host:port`.
    pub fn of(&self, registry: &str) -> Option<Credentials> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(registry).cloned()
    }
}

/// `oci://host:port/path` and its like as `host:port`, in lower case as references are read; the
/// two addresses of Docker Hub as the name images have it under.
pub fn authority(key: &str) -> String {
    let key = key.trim();
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    let bare = bare.split('/').next().unwrap_or(bare).to_lowercase();
    match bare.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => bare,
    }
}

/// Where the credentials of a pull came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Flags,
    Lattice,
    Settings,
    Docker,
    Nowhere,
}

impl fmt::Display for Place {
    /// Names the login that a registry refuses, in the middle of a sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Place::Flags => "the login of --user and --password",
            Place::Lattice => "the login it was given over the control interface",
            Place::Settings => "the login of oci_user and oci_password",
            Place::Docker => "the login of docker's config.json",
            Place::Nowhere => "access without a login",
        })
    }
}

/// Everything this host knows about logins.
#[derive(Clone)]
pub struct Logins {
    /// The login given with a command, for any registry.
    pub given: Option<Credentials>,
    pub lattice: Registries,
    pub settings: Option<OciCredentials>,
    /// Docker's `config.json`, which need not exist.
    pub docker: Option<PathBuf>,
}

impl Logins {
    /// Finds the credentials of a registry, given as `host` or `host:port`. May ask docker's helper
    /// programs, for seconds.
    pub async fn of(&self, registry: &str) -> (Place, Option<Credentials>) {
        if let Some(credentials) = &self.given {
            return (Place::Flags, Some(credentials.clone()));
        }
        let name = authority(registry);
        if let Some(credentials) = self.lattice.of(&name) {
            return (Place::Lattice, Some(credentials));
        }
        if let Some(own) = self.settings.as_ref().filter(|own| authority(&own.registry) == name) {
            let credentials =
                Credentials::Basic { username: own.user.clone(), password: own.password.clone() };
            return (Place::Settings, Some(credentials));
        }
        if let Some(config) = &self.docker
            && let Some(credentials) = docker::login(config.clone(), name).await
        {
            return (Place::Docker, Some(credentials));
        }
        (Place::Nowhere, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_all_years_mean_the_same_registry() {
        for key in [
            "r.example:5000",
            "oci://R.example:5000",
            "https://r.example:5000/some/path",
            "bindle://r.example:5000/",
        ] {
            assert_eq!(authority(key), "r.example:5000", "{key}");
        }
        assert_eq!(authority("https://index.docker.io/v1/"), "docker.io");
    }

    #[test]
    fn entries_merge_and_secrets_stay_hidden() {
        let registries = Registries::default();
        let entries = |json: &str| serde_json::from_str(json).unwrap();
        registries
            .add(entries(r#"{"a":{"registryType":"oci","username":"u","password":"secret"},"b":{"token":"t"}}"#))
            .unwrap();
        registries
            .add(entries(r#"{"oci://a/x":{"username":"u2","token":"t2"},"c":{"username":"only"}}"#))
            .unwrap();
        // Nonsense is ignored one by one.
        let added = registries
            .add(entries(r#"{"d":"user:secret","e":{"username":7,"token":""},"f":{"token":"t"}}"#))
            .unwrap();
        assert_eq!(added, ["f"]);
        assert!(
            matches!(registries.of("a"), Some(Credentials::Basic { username, .. }) if username == "u2")
        );
        assert!(matches!(registries.of("b"), Some(Credentials::Token(_))));
        assert!(registries.of("c").is_none());
        assert!(!format!("{:?}", registries.of("a")).contains("t2"));
    }

    #[test]
    fn a_host_keeps_logins_of_so_many_registries_and_no_endless_ones() {
        let registries = Registries::default();
        let login = || Credential { token: Some("t".into()), ..Credential::default() };
        let of =
            |numbers: std::ops::Range<usize>| numbers.map(|n| (format!("r{n}"), login())).collect();
        assert_eq!(registries.add(of(0..REGISTRIES_MAX)).unwrap().len(), REGISTRIES_MAX);
        // Known ones are replaced whatever their number.
        assert!(registries.add(of(0..10)).is_ok());
        assert!(matches!(
            registries.add(of(0..REGISTRIES_MAX + 1)),
            Err(TooManyLogins::Many { .. })
        ));
        assert!(registries.of(&format!("r{REGISTRIES_MAX}")).is_none());
        let endless =
            Credential { token: Some("t".repeat(SECRET_BYTES_MAX + 1)), ..Credential::default() };
        assert!(matches!(
            registries.add([("r1".to_owned(), endless)].into()),
            Err(TooManyLogins::Long(_))
        ));
    }

    #[tokio::test]
    async fn the_lattice_is_asked_before_the_settings_and_docker_last() {
        let dir = tempfile::TempDir::new().unwrap();
        let docker = dir.path().join("config.json");
        // "docker:secret" in base64.
        let auth = r#"{"auth":"ZG9ja2VyOnNlY3JldA=="}"#;
        std::fs::write(
            &docker,
            format!(r#"{{"auths":{{"a":{auth},"b":{auth},"https://c/v1/":{auth}}}}}"#),
        )
        .unwrap();
        let lattice = Registries::default();
        lattice
            .add(serde_json::from_str(r#"{"a":{"username":"lattice","password":"p"}}"#).unwrap())
            .unwrap();
        let own = |registry: &str| {
            Some(OciCredentials {
                registry: registry.into(),
                user: "own".into(),
                password: Secret::new("p"),
            })
        };
        let logins =
            Logins { given: None, lattice, settings: own("https://B/"), docker: Some(docker) };
        let mut found = Vec::new();
        for registry in ["a", "b", "c", "d"] {
            let (place, credentials) = logins.of(registry).await;
            let user = match credentials {
                Some(Credentials::Basic { username, .. }) => username,
                _ => String::new(),
            };
            found.push((place, user));
        }
        let expected = [
            (Place::Lattice, "lattice"),
            (Place::Settings, "own"),
            (Place::Docker, "docker"),
            (Place::Nowhere, ""),
        ];
        assert_eq!(found, expected.map(|(place, user)| (place, user.to_owned())));
        let own = Credentials::Basic { username: "flag".into(), password: Secret::new("p") };
        assert_eq!(Logins { given: Some(own), ..logins }.of("a").await.0, Place::Flags);
    }
}
