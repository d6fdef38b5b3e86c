//! Keeps the secrets that a provider was told out of the log, should it print them.
//!
//! It happens: the libraries of every year print the URL they connect to, all host data when they
//! cannot read it, and the values of a link that they refuse.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::RwLock;
use percent_encoding::percent_decode_str;
use serde_json::Value as Json;

/// Stands for a value that is not shown.
pub const MASK: &str = "****";
/// Shorter texts are words, not secrets; masking them would only garble the log.
const SECRET_CHARS_MIN: usize = 5;
/// Of a longer secret the beginning is searched for, and everything behind it is masked too.
const SECRET_CHARS_MAX: usize = 2048;
const HEAD_CHARS: usize = 64;
/// A provider with more links than that prints them at its own risk; nothing may grow without end.
const SECRETS_MAX: usize = 10_000;
/// Parts of names of link values that are never shown.
const SECRET_NAMES: [&str; 12] = [
    "password",
    "passwd",
    "pwd",
    "pass",
    "secret",
    "token",
    "seed",
    "jwt",
    "credential",
    "key",
    "auth",
    "dsn",
];

/// The secrets of one process. Cheap to clone; all clones know the same.
#[derive(Clone, Default)]
pub struct Masks(Arc<RwLock<BTreeSet<Arc<str>>>>);

impl Masks {
    /// Remembers a secret.
    pub fn add(&self, secret: &str) {
        // The log has single lines, and programs print texts as literals too.
        let escaped = format!("{secret:?}");
        let json = Json::from(secret).to_string();
        let whole = [secret, escaped.trim_matches('"'), json.trim_matches('"')];
        for text in whole.into_iter().chain(secret.lines()).map(str::trim) {
            if text.chars().count() >= SECRET_CHARS_MIN {
                self.insert(text);
            }
        }
    }

    fn insert(&self, secret: &str) {
        let mut secrets = self.0.write();
        if secrets.len() < SECRETS_MAX {
            secrets.insert(secret.into());
        }
    }

    /// Remembers the password of a URL, as it is written there.
    pub fn add_url(&self, url: &str) {
        let Some((_, rest)) = url.split_once("://") else { return };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let Some((login, _)) = authority.rsplit_once('@') else { return };
        // Without a password it is a token.
        let password = login.split_once(':').map_or(login, |(_, password)| password);
        if (1..SECRET_CHARS_MIN).contains(&password.chars().count()) {
            self.insert(&format!("{password}@"));
        }
        self.add(password);
    }

    /// Remembers what is secret among the values of a link: what its name says, and passwords in
    /// URLs, also those inside a JSON object.
    pub fn add_values(&self, values: &BTreeMap<String, String>) {
        for (name, value) in values {
            let lower = name.to_ascii_lowercase();
            // Base64 hides nothing from readers of the log, and cannot be masked in parts.
            if lower == "config_b64" || is_secret(&lower) {
                self.add(value);
            }
            self.add_url(value);
            self.add_json(value);
        }
    }

    /// Remembers the values of headers, as a variable of OpenTelemetry has them: `key=value`, with
    /// commas between and `%20` for a blank. Which of them are secret, nobody says.
    pub fn add_headers(&self, headers: &str) {
        for (_, value) in headers.split(',').filter_map(|header| header.split_once('=')) {
            self.add(value.trim());
            self.add(&percent_decode_str(value.trim()).decode_utf8_lossy());
        }
    }

    /// Remembers a configuration: what is secret in it if it is JSON, else all of it.
    pub fn add_configuration(&self, text: &str) {
        if serde_json::from_str::<Json>(text).is_ok_and(|json| json.is_object() || json.is_array())
        {
            self.add_json(text);
        } else {
            self.add(text);
        }
    }

    /// Remembers what is secret in a JSON text; any other text has none.
    fn add_json(&self, text: &str) {
        if !text.trim_start().starts_with(['{', '[']) {
            return;
        }
        if let Ok(json) = serde_json::from_str(text) {
            self.add_member("", &json);
        }
    }

    fn add_member(&self, name: &str, json: &Json) {
        match json {
            Json::String(text) => {
                if is_secret(name) {
                    self.add(text);
                }
                self.add_url(text);
            }
            Json::Array(items) => items.iter().for_each(|item| self.add_member(name, item)),
            // The depth of what serde_json reads is bounded.
            Json::Object(members) => {
                members
                    .iter()
                    .for_each(|(name, member)| self.add_member(&name.to_ascii_lowercase(), member));
            }
            _ => {}
        }
    }

    /// Returns the line without secrets.
    pub fn apply<'l>(&self, line: &'l str) -> Cow<'l, str> {
        let secrets = self.0.read();
        let mut line = Cow::Borrowed(line);
        // From the last to the first: of two with the same beginning the longer one comes later.
        for secret in secrets.iter().rev() {
            if secret.len() <= SECRET_CHARS_MAX {
                if line.contains(&**secret) {
                    line = Cow::Owned(line.replace(&**secret, MASK));
                }
            } else if let Some(at) = line.find(head(secret)) {
                line = Cow::Owned(format!("{}{MASK}", &line[..at]));
            }
        }
        line
    }
}

/// The values of a link as they may be shown: what its name says is secret is a mask, and so are
/// passwords in URLs.
pub fn shown(values: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let masks = Masks::default();
    masks.add_values(values);
    let shown = values.iter().map(|(name, value)| {
        let lower = name.to_ascii_lowercase();
        let is_hidden = !value.is_empty() && (lower == "config_b64" || is_secret(&lower));
        (name.clone(), if is_hidden { MASK.to_owned() } else { masks.apply(value).into_owned() })
    });
    shown.collect()
}

fn is_secret(name: &str) -> bool {
    SECRET_NAMES.iter().any(|part| name.contains(part))
}

fn head(secret: &str) -> &str {
    secret.char_indices().nth(HEAD_CHARS).map_or(secret, |(end, _)| &secret[..end])
}

/// How far behind a cut a secret may reach that begins before it.
pub const REACH_BYTES: usize = SECRET_CHARS_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_without_their_secrets() {
        let shown = shown(&values(&[
            ("URL", "redis://me:hunter22@r:6379"),
            ("Password", "pw"),
            ("port", "80"),
            ("config_json", r#"{"token":"abcdefg","bucket":"b"}"#),
        ]));
        assert_eq!(shown["URL"], "redis://me:****@r:6379");
        assert_eq!((shown["Password"].as_str(), shown["port"].as_str()), ("****", "80"));
        assert!(
            !shown["config_json"].contains("abcdefg") && shown["config_json"].contains("bucket"),
            "{shown:?}"
        );
    }

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        let masks = Masks::default();
        masks.add("SCAACAIBAEAQCAIBAEAQ");
        masks.add("");
        masks.add("abc");
        assert_eq!(masks.apply("seed=SCAACAIBAEAQCAIBAEAQ, abc"), "seed=****, abc");
        assert!(matches!(masks.apply("nothing here"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_long_secret_is_found_by_its_beginning_and_takes_the_rest_along() {
        let masks = Masks::default();
        let long = "base64 ".repeat(1000);
        masks.add(&long);
        assert_eq!(masks.apply(&format!("got {}", &long[..5000])), "got ****");
    }

    #[test]
    fn link_values_are_masked_by_name_and_passwords_of_urls_everywhere() {
        let masks = Masks::default();
        masks.add_values(&values(&[
            ("URL", "redis://me:hunter2@db:6379/0"),
            ("Client_Secret", "s3cr3t!"),
            ("config_json", r#"{"nested": [{"api_key": "k-12345"}, {"uri": "amqp://:p4ssw0rd@mq"}], "port": 80}"#),
            ("config_b64", "eyJhIjoxfQ=="),
            ("address", "0.0.0.0:8080"),
        ]));
        let line =
            "redis://me:hunter2@db s3cr3t! k-12345 amqp://:p4ssw0rd@mq eyJhIjoxfQ== 0.0.0.0:8080";
        assert_eq!(
            masks.apply(line),
            "redis://me:****@db **** **** amqp://:****@mq **** 0.0.0.0:8080"
        );
    }

    #[test]
    fn values_of_headers_are_masked_as_they_are_written_and_as_they_are_sent() {
        let masks = Masks::default();
        masks.add_headers("authorization=Basic%20dXNlcjpwYXNz, x-tenant = bakery");
        assert_eq!(masks.apply("got Basic dXNlcjpwYXNz for bakery"), "got **** for ****");
        assert_eq!(masks.apply("from Basic%20dXNlcjpwYXNz"), "from ****");
    }

    #[test]
    fn of_two_secrets_with_one_beginning_the_longer_is_masked_whole() {
        let masks = Masks::default();
        masks.add("secret");
        masks.add("secret-and-more");
        assert_eq!(masks.apply("secret-and-more secret"), "**** ****");
    }
}
