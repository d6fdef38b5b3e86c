//! The file: its form, its mistakes, and what it means for a host with certain labels.
//!
//! Passwords and tokens are read here and go into answers; they are never printed, not even when
//! they are of the wrong kind or in the wrong place.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Value, json};

use crate::policy::Policy;

pub type Labels = BTreeMap<String, String>;
pub type Logins = BTreeMap<String, Login>;

/// All of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lattice {
    #[serde(default)]
    hosts: Vec<Hosts>,
    #[serde(default)]
    pub policy: Policy,
}

/// The entries for hosts with these labels.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hosts {
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    actors: Vec<String>,
    #[serde(default)]
    providers: Vec<Provider>,
    #[serde(default, rename = "registries", deserialize_with = "logins")]
    logins: Logins,
}

/// By hand as well: instead of an object there may be a text with a password.
fn logins<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Logins, D::Error> {
    let Value::Object(members) = Value::deserialize(deserializer)? else {
        return Err(D::Error::custom("registries is an object with a login for each registry"));
    };
    let login =
        |(registry, login)| Ok((registry, Login::deserialize(login).map_err(D::Error::custom)?));
    members.into_iter().map(login).collect()
}

/// A provider, by its image alone or with a link name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Provider {
    image: String,
    link: String,
}

impl<'de> Deserialize<'de> for Provider {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Long {
            image: String,
            #[serde(default)]
            link: Option<String>,
        }
        let long = match Value::deserialize(deserializer)? {
            Value::String(image) => Long { image, link: None },
            other => Long::deserialize(other).map_err(D::Error::custom)?,
        };
        Ok(Self { image: long.image, link: long.link.unwrap_or_else(|| "default".to_owned()) })
    }
}

/// How to log in to a registry.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Login {
    #[serde(rename = "registryType")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(hidden)")
    }
}

impl<'de> Deserialize<'de> for Login {
    /// By hand: the errors of derived readers quote the values they cannot take.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = || {
            D::Error::custom("a registry takes username and password, or token, all of them texts")
        };
        let Value::Object(members) = Value::deserialize(deserializer)? else { return Err(wrong()) };
        let mut login = Self { kind: "oci", username: None, password: None, token: None };
        for (member, value) in members {
            let place = match member.as_str() {
                "username" => &mut login.username,
                "password" => &mut login.password,
                "token" => &mut login.token,
                _ => return Err(wrong()),
            };
            let Value::String(text) = value else { return Err(wrong()) };
            *place = Some(text);
        }
        match (&login.username, &login.password, &login.token) {
            (Some(_), Some(_), None) | (_, None, Some(_)) => Ok(login),
            _ => Err(wrong()),
        }
    }
}

/// The configuration of one host.
#[derive(Debug, Default)]
pub struct Configuration {
    actors: Vec<String>,
    providers: Vec<Provider>,
    logins: Logins,
}

impl Configuration {
    /// The answer of the lattice protocol.
    pub fn reply(&self) -> Value {
        let providers = self.providers.iter();
        let providers: Vec<_> = providers
            .map(|provider| json!({"imageReference": provider.image, "linkName": provider.link}))
            .collect();
        json!({
            "autoStartActors": self.actors,
            "autoStartProviders": providers,
            "registryCredentials": self.logins,
        })
    }

    /// In the middle of a sentence.
    pub fn summary(&self) -> String {
        let providers: Vec<_> =
            self.providers.iter().map(|provider| provider.image.clone()).collect();
        format!(
            "actors [{}], providers [{}], logins of [{}]",
            self.actors.join(", "),
            providers.join(", "),
            names(&self.logins)
        )
    }
}

impl Lattice {
    /// Everything for a host with these labels, in the order of the file, each thing once.
    pub fn configuration(&self, labels: &Labels) -> Configuration {
        let mut all = Configuration::default();
        let has =
            |wanted: &Labels| wanted.iter().all(|(key, value)| labels.get(key) == Some(value));
        for hosts in self.hosts.iter().filter(|hosts| has(&hosts.labels)) {
            for actor in &hosts.actors {
                if !all.actors.contains(actor) {
                    all.actors.push(actor.clone());
                }
            }
            for provider in &hosts.providers {
                if !all.providers.contains(provider) {
                    all.providers.push(provider.clone());
                }
            }
            all.logins.extend(hosts.logins.clone());
        }
        all
    }

    /// Logins that are not bound to labels, so that every host may have them.
    pub fn logins_of_all(&self) -> Logins {
        let unbound = self.hosts.iter().filter(|hosts| hosts.labels.is_empty());
        unbound.flat_map(|hosts| hosts.logins.clone()).collect()
    }

    /// Returns a summary of the file, in a line.
    pub fn summary(&self) -> String {
        format!("entries for hosts: {}, rules of policy: {}", self.hosts.len(), self.policy.rules())
    }
}

/// The names of registries, without how to log in to them.
pub fn names(logins: &Logins) -> String {
    logins.keys().cloned().collect::<Vec<_>>().join(", ")
}

/// Labels of a request; what is no text is no label.
pub fn labels(value: &Value) -> Labels {
    let members = value.as_object().into_iter().flatten();
    members.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// Labels for people.
pub fn shown(labels: &Labels) -> String {
    let pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if pairs.is_empty() { "no labels".to_owned() } else { pairs.join(" ") }
}

/// The file as it was when it was last good.
pub struct Source {
    path: PathBuf,
    /// The time and the size of the last good version.
    seen: Option<(SystemTime, u64)>,
    /// The error that was reported for a bad version.
    complaint: Option<String>,
    lattice: Lattice,
}

impl Source {
    pub fn open(path: PathBuf) -> Result<Self, String> {
        let seen = look(&path);
        let lattice = read(&path)?;
        Ok(Self { path, seen, complaint: None, lattice })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn lattice(&self) -> &Lattice {
        &self.lattice
    }

    /// Reads the file again if it changed; returns what it said before. A mistake is told once.
    pub fn refresh(&mut self) -> Result<Option<Lattice>, String> {
        let seen = look(&self.path);
        if seen == self.seen && seen.is_some() && self.complaint.is_none() {
            return Ok(None);
        }
        match read(&self.path) {
            Ok(lattice) => {
                (self.seen, self.complaint) = (seen, None);
                Ok(Some(std::mem::replace(&mut self.lattice, lattice)))
            }
            Err(complaint) if self.complaint.as_ref() == Some(&complaint) => Ok(None),
            Err(complaint) => {
                self.complaint = Some(complaint.clone());
                Err(complaint)
            }
        }
    }
}

fn look(path: &Path) -> Option<(SystemTime, u64)> {
    let about = fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

fn read(path: &Path) -> Result<Lattice, String> {
    let text =
        fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{} is not right: {e}", path.display()))
}
