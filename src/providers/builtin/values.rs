//! Reads the values of a link: texts by name, in any case, with the mistakes named.
//!
//! Besides single values most providers of the years take all settings as one JSON object, in `config_json` or, base64
//! encoded, in `config_b64`. Members of that object are values under the same names; a value of its own wins.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose};
use serde_json::{Map, Value as Json};
use tracing::warn;

use super::{LinkError, SCHEME, Spec};
use crate::links::LinkDefinition;

/// The values of one link, by their documented names.
#[derive(Debug)]
pub struct Values {
    single: BTreeMap<&'static str, String>,
    json: Map<String, Json>,
    /// Names nobody reads, worth a warning.
    pub unknown: Vec<String>,
}

impl Values {
    /// Sorts the values of a link by the names of `spec`.
    pub fn read(spec: &'static Spec, link: &LinkDefinition) -> Result<Self, LinkError> {
        let mut values = Self { single: BTreeMap::new(), json: Map::new(), unknown: Vec::new() };
        for (key, text) in &link.values {
            let documented = spec.values.iter().find(|value| {
                value.name.eq_ignore_ascii_case(key)
                    || value.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(key))
            });
            match documented {
                // Of a name and another spelling of it the documented one counts.
                Some(value) if !text.trim().is_empty() => {
                    let is_documented = value.name.eq_ignore_ascii_case(key);
                    if is_documented || !values.single.contains_key(value.name) {
                        values.single.insert(value.name, text.trim().to_owned());
                    }
                }
                Some(_) => {}
                None => values.unknown.push(key.clone()),
            }
        }
        if let Some(text) = values.single.remove("config_json") {
            values.json = object("config_json", text.as_bytes())?;
        } else if let Some(text) = values.single.remove("config_b64") {
            // Clients pad or do not, by year.
            let bare = text.trim_end_matches('=');
            let bytes = general_purpose::STANDARD_NO_PAD
                .decode(bare)
                .or_else(|_| general_purpose::URL_SAFE_NO_PAD.decode(bare))
                .map_err(|e| LinkError::Values(format!("link value config_b64 is no base64: {e}")))?;
            values.json = object("config_b64", &bytes)?;
        }
        for (key, member) in std::mem::take(&mut values.json) {
            let documented = spec.values.iter().find(|value| value.name == key || value.aliases.contains(&&*key));
            match documented {
                Some(value) if value.name == key => {
                    values.json.insert(key, member);
                }
                Some(value) => {
                    values.json.entry(value.name).or_insert(member);
                }
                None => {
                    values.unknown.push(key.clone());
                    values.json.insert(key, member);
                }
            }
        }
        Ok(values)
    }

    /// Tells the log of values that the provider does not know; they may be slips of the pen.
    pub fn warn_of_unknown(&self, spec: &'static Spec, link: &LinkDefinition) {
        if self.unknown.is_empty() {
            return;
        }
        let LinkDefinition { actor_id, link_name, .. } = link;
        warn!(%actor_id, %link_name, names = ?self.unknown,
            "link values without effect; `host inspect {SCHEME}{}` lists those there are", spec.name);
    }

    /// A text: the single value, or the JSON member of that name.
    pub fn text(&self, name: &str) -> Option<String> {
        self.single.get(name).cloned().or_else(|| match self.json.get(name)? {
            Json::String(text) => Some(text.clone()),
            Json::Null => None,
            other => Some(other.to_string()),
        })
    }

    /// The JSON member of a name, for structures.
    pub fn member(&self, name: &str) -> Option<&Json> {
        self.json.get(name).filter(|member| !member.is_null())
    }

    /// `true`, `yes`, `on`, `1` and their opposites.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, LinkError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Ok(Some(true)),
            "false" | "no" | "off" | "0" => Ok(Some(false)),
            _ => Err(wrong(name, &text, "true or false")),
        }
    }

    /// A whole number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, LinkError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| wrong(name, &text, "a whole number"))
    }

    /// Milliseconds, at least one.
    pub fn milliseconds(&self, name: &str) -> Result<Option<Duration>, LinkError> {
        match self.number(name)? {
            Some(0) => Err(wrong(name, "0", "milliseconds, at least 1")),
            number => Ok(number.map(Duration::from_millis)),
        }
    }

    /// Bytes, with `K`, `M` or `G` for powers of 1024.
    pub fn bytes(&self, name: &str) -> Result<Option<u64>, LinkError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let lower = text.to_ascii_lowercase();
        let bare = lower.strip_suffix('b').unwrap_or(&lower);
        let (digits, factor) = match bare.as_bytes().last() {
            Some(b'k') => (&bare[..bare.len() - 1], 1 << 10),
            Some(b'm') => (&bare[..bare.len() - 1], 1 << 20),
            Some(b'g') => (&bare[..bare.len() - 1], 1 << 30),
            _ => (bare, 1),
        };
        let bytes = digits.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        bytes.map(Some).ok_or_else(|| wrong(name, &text, "bytes such as 1048576, 10M or 1G"))
    }

    /// Texts: separated by commas, or a JSON array.
    pub fn list(&self, name: &str) -> Result<Option<Vec<String>>, LinkError> {
        let from_array = |items: &[Json]| -> Result<Vec<String>, LinkError> {
            let text = |item: &Json| item.as_str().map(str::to_owned);
            items.iter().map(|item| text(item).ok_or_else(|| wrong(name, &item.to_string(), "a text"))).collect()
        };
        if let Some(text) = self.single.get(name) {
            if let Ok(Json::Array(items)) = serde_json::from_str(text) {
                return from_array(&items).map(Some);
            }
            return Ok(Some(text.split(',').map(|item| item.trim().to_owned()).filter(|i| !i.is_empty()).collect()));
        }
        match self.member(name) {
            None => Ok(None),
            Some(Json::Array(items)) => from_array(items).map(Some),
            Some(Json::String(text)) => Ok(Some(text.split(',').map(|item| item.trim().to_owned()).collect())),
            Some(other) => Err(wrong(name, &other.to_string(), "an array of texts")),
        }
    }
}

/// A value that is not what its name asks for. Never used for secrets: it repeats the value.
pub fn wrong(name: &str, value: &str, expected: &str) -> LinkError {
    LinkError::Values(format!("link value {name} is {value:?}, expected {expected}"))
}

fn object(name: &str, json: &[u8]) -> Result<Map<String, Json>, LinkError> {
    match serde_json::from_slice(json) {
        Ok(Json::Object(members)) => Ok(members),
        Ok(_) => Err(LinkError::Values(format!("link value {name} is JSON, but no object"))),
        Err(error) => Err(LinkError::Values(format!("link value {name} is no JSON: {error}"))),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::providers::builtin::messaging;

    /// A link to a provider with these values.
    pub(in crate::providers::builtin) fn link(spec: &Spec, values: &[(&str, &str)]) -> LinkDefinition {
        LinkDefinition {
            actor_id: "M".into(),
            provider_id: spec.public_key.into(),
            link_name: "default".into(),
            contract_id: spec.contract_id.into(),
            values: values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        }
    }

    fn values(pairs: &[(&str, &str)]) -> Result<Values, LinkError> {
        Values::read(&messaging::SPEC, &link(&messaging::SPEC, pairs))
    }

    /// A documented value that has another spelling.
    fn with_alias() -> (&'static str, &'static str) {
        let value = messaging::SPEC.values.iter().find(|value| !value.aliases.is_empty()).unwrap();
        (value.name, value.aliases[0])
    }

    #[test]
    fn names_are_read_in_any_case_and_by_their_other_spellings_also_inside_json() {
        let (name, alias) = with_alias();
        assert_eq!(values(&[(&name.to_uppercase(), " a ")]).unwrap().text(name).as_deref(), Some("a"));
        assert_eq!(values(&[(alias, "b")]).unwrap().text(name).as_deref(), Some("b"));
        let json = format!(r#"{{"{alias}":"c"}}"#);
        let read = values(&[("config_json", &json)]).unwrap();
        assert_eq!((read.text(name).as_deref(), read.unknown.len()), (Some("c"), 0));
        let both = format!(r#"{{"{alias}":"c","{name}":"d"}}"#);
        assert_eq!(values(&[("config_json", &both)]).unwrap().text(name).as_deref(), Some("d"));
        assert_eq!(values(&[("config_json", &both), (name, "e")]).unwrap().text(name).as_deref(), Some("e"));
    }

    #[test]
    fn both_paddings_of_base64_are_read_and_what_is_no_object_is_named() {
        let (name, _) = with_alias();
        for text in [general_purpose::STANDARD.encode(format!(r#"{{"{name}":"x"}}"#)), {
            general_purpose::STANDARD_NO_PAD.encode(format!(r#"{{"{name}":"x"}}"#))
        }] {
            assert_eq!(values(&[("config_b64", &text)]).unwrap().text(name).as_deref(), Some("x"));
        }
        assert!(values(&[("config_json", "[1]")]).unwrap_err().to_string().contains("no object"));
        assert!(values(&[("config_b64", "?")]).unwrap_err().to_string().contains("base64"));
        assert_eq!(values(&[("colour", "red")]).unwrap().unknown, ["colour"]);
    }
}
