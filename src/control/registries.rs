//! Credentials of image registries, handed to all hosts of the lattice (lattice protocol, section 3.15).
//!
//! Keys are normalised to the registry's authority, because clients of different years send it with a scheme, with a path
//! or bare. Entries replace those of the same registry and leave others alone. Secrets are never logged.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use serde::Deserialize;
use tracing::{info, warn};

use super::{
    server::{Answer, Server, now, parse},
    types::Ack,
};
use crate::config::Secret;

/// How to log in to a registry.
#[derive(Clone, Debug)]
pub enum Credentials {
    Basic { username: String, password: Secret },
    Token(Secret),
}

/// One entry as clients send it.
#[derive(Deserialize)]
pub struct Credential {
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    token: Option<String>,
}

impl Credential {
    /// User with password or token is basic authentication, a token alone a bearer; anything else is nothing.
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

/// The credentials this host knows. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registries {
    // Held for a few lines, never across an await.
    known: Arc<Mutex<BTreeMap<String, Credentials>>>,
}

impl Registries {
    /// Adds entries; returns the registries they are for.
    pub fn add(&self, entries: BTreeMap<String, Credential>) -> Vec<String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut added = Vec::new();
        for (key, credential) in entries {
            let registry = authority(&key);
            match credential.read() {
                Some(credentials) => {
                    known.insert(registry.clone(), credentials);
                    added.push(registry);
                }
                None => warn!(%registry, "registry credentials ignored: neither user and password nor a token"),
            }
        }
        added
    }

    /// The credentials of a registry, given as `host` or `host:port`.
    pub fn of(&self, registry: &str) -> Option<Credentials> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(registry).cloned()
    }
}

/// `oci://host:port/path` and its like as `host:port`.
fn authority(key: &str) -> String {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    bare.split('/').next().unwrap_or(bare).to_owned()
}

impl Server {
    pub(super) fn put_registries(&self, payload: &Bytes) -> Answer {
        let entries: BTreeMap<String, Credential> = match parse("registry credentials", payload) {
            Ok(entries) => entries,
            Err(answer) => return answer,
        };
        let registries = self.parts.registries.add(entries);
        info!(?registries, "registry credentials taken over");
        now(&Ack::accepted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_all_years_mean_the_same_registry() {
        for key in
            ["r.example:5000", "oci://r.example:5000", "https://r.example:5000/some/path", "bindle://r.example:5000/"]
        {
            assert_eq!(authority(key), "r.example:5000", "{key}");
        }
    }

    #[test]
    fn entries_merge_and_secrets_stay_hidden() {
        let registries = Registries::default();
        let entries = |json: &str| serde_json::from_str(json).unwrap();
        registries.add(entries(r#"{"a":{"registryType":"oci","username":"u","password":"secret"},"b":{"token":"t"}}"#));
        registries.add(entries(r#"{"oci://a/x":{"username":"u2","token":"t2"},"c":{"username":"only"}}"#));
        assert!(matches!(registries.of("a"), Some(Credentials::Basic { username, .. }) if username == "u2"));
        assert!(matches!(registries.of("b"), Some(Credentials::Token(_))));
        assert!(registries.of("c").is_none());
        assert!(!format!("{:?}", registries.of("a")).contains("t2"));
    }
}
