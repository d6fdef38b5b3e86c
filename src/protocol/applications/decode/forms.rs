//! Members of a manifest that have several forms.
//!
//! A visitor takes the form that is there. An untagged enum would try one after the other, on
//! values that are typed by their looks already: a number is no text any more then, and of a
//! mistake it says only that no form fits.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{
        Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use serde_json::{Map, Value};

use crate::serde_null::null_as_default;

/// The end of a link that its component is.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RawEnd {
    #[serde(default, deserialize_with = "null_as_default")]
    pub config: Vec<RawConfig>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub secrets: Vec<Value>,
}

/// The other end of a link.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RawTarget {
    pub name: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub config: Vec<RawConfig>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub secrets: Vec<Value>,
}

/// A named configuration; without `properties` it is kept elsewhere.
#[derive(Clone, Debug, Deserialize)]
#[serde(expecting = "an object with `name` and `properties`")]
pub(super) struct RawConfig {
    pub name: String,
    pub properties: Option<BTreeMap<String, String>>,
}

/// The configuration of a component.
#[derive(Clone, Debug)]
pub(super) enum RawSettings {
    Text(String),
    Object(Map<String, Value>),
    /// The form of later versions.
    Named(Vec<RawConfig>),
    /// Something else, which nobody means.
    Other,
}

/// An entry of a list of configurations; `None` if it is none.
struct Entry(Option<RawConfig>);

/// A configuration that may have no name.
#[derive(Deserialize)]
struct Nameless {
    name: Option<String>,
    properties: Option<BTreeMap<String, String>>,
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

/// Reads the other end of a link: its name, or an object with its configuration.
pub(super) fn target<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<RawTarget>, D::Error> {
    deserializer.deserialize_any(TargetVisitor)
}

/// Reads the configuration of a component.
pub(super) fn settings<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<RawSettings>, D::Error> {
    deserializer.deserialize_any(SettingsVisitor)
}

struct TargetVisitor;

impl<'de> Visitor<'de> for TargetVisitor {
    type Value = Option<RawTarget>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A text that looks like a number cannot be given back as it was written.
        f.write_str(
            "the name of a component, in quotes if it looks like a number, or an object with `name` and `config`",
        )
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Some(RawTarget { name: Some(name.to_owned()), ..RawTarget::default() }))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        RawTarget::deserialize(MapAccessDeserializer::new(map)).map(Some)
    }
}

struct SettingsVisitor;

impl<'de> Visitor<'de> for SettingsVisitor {
    type Value = Option<RawSettings>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, an object, or a list of named objects")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(RawSettings::Text(text.to_owned())))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Some(RawSettings::Other))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Some(RawSettings::Other))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Some(RawSettings::Other))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Some(RawSettings::Other))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let object = Map::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Some(RawSettings::Object(object)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        let entries = Vec::<Entry>::deserialize(SeqAccessDeserializer::new(list))?;
        let named: Option<Vec<RawConfig>> = entries.into_iter().map(|Entry(one)| one).collect();
        Ok(Some(named.map_or(RawSettings::Other, RawSettings::Named)))
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `name` and `properties`")
    }

    fn visit_unit<E: Error>(self) -> Result<Entry, E> {
        Ok(Entry(None))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Entry, E> {
        Ok(Entry(None))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Entry, E> {
        Ok(Entry(None))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Entry, E> {
        Ok(Entry(None))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Entry, E> {
        Ok(Entry(None))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Entry, E> {
        Ok(Entry(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Entry, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Entry(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
        let Nameless { name, properties } = Nameless::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Entry(name.map(|name| RawConfig { name, properties })))
    }
}
