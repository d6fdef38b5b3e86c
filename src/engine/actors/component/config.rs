//! `wasi:config` in its four spellings, the configuration of the hosts of 2024, and Spin's
//! variables of all generations: the actor's named configuration.
//!
//! A call sees one state of it, that of its first question. Values are bytes; where an interface
//! has texts, one that is none is an error, and left out where all are asked for. Link values are
//! never shown here: they belong to providers and hold their secrets.

use std::{
    collections::BTreeMap,
    sync::{Arc, Once},
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tracing::warn;
use wasmtime::{
    StoreContextMut,
    component::{Accessor, ComponentType, Lift, Linker, Lower},
};

use super::{Guest, caller::caller};
use crate::control::named_config::NamedConfig;

/// The values of an actor, by name.
pub type Values = BTreeMap<String, Bytes>;

/// How long what was read counts.
const LASTS: Duration = Duration::from_secs(1);

/// The names under which it is imported, all drafts: each needs an entry of its own.
pub(super) const NAMES: [&str; 4] = [
    "wasi:config/store@0.2.0-rc.1",
    "wasi:config/store@0.2.0-draft-2024-09-27",
    "wasi:config/store@0.2.0-draft",
    "wasi:config/runtime@0.2.0-draft",
];
/// Spin's interfaces for the same, of three generations, and that of the hosts of 2024.
pub(super) const OTHERS: [&str; 4] = [
    "fermyon:spin/config",
    "fermyon:spin/variables@2.0.0",
    "spin:variables/variables@3.0.0",
    "wasmcloud:bus/guest-config",
];

#[derive(Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum ConfigError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

#[derive(Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
enum VariableError {
    #[component(name = "invalid-name")]
    InvalidName(String),
    #[component(name = "undefined")]
    Undefined(String),
    #[component(name = "provider")]
    Provider(String),
    #[component(name = "other")]
    Other(String),
}

/// The same in Spin's first generation, which has no case for a name without a value.
#[derive(Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
enum FirstVariableError {
    #[component(name = "provider")]
    Provider(String),
    #[component(name = "invalid-key")]
    InvalidKey(String),
    #[component(name = "invalid-schema")]
    InvalidSchema(String),
    #[component(name = "other")]
    Other(String),
}

impl From<VariableError> for FirstVariableError {
    fn from(error: VariableError) -> Self {
        match error {
            VariableError::InvalidName(name) | VariableError::Undefined(name) => {
                Self::InvalidKey(name)
            }
            VariableError::Provider(text) => Self::Provider(text),
            VariableError::Other(text) => Self::Other(text),
        }
    }
}

/// Why the named configuration of an actor cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

/// A value that an interface has no type for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the value of {0} is not UTF-8, and this interface has texts; set a text, or read it with wasmcloud:bus/guest-config"
)]
struct NotText(String);

impl From<NotText> for ConfigError {
    fn from(error: NotText) -> Self {
        Self::Upstream(error.to_string())
    }
}

impl From<NotText> for VariableError {
    fn from(error: NotText) -> Self {
        Self::Provider(error.to_string())
    }
}

impl From<Unreadable> for ConfigError {
    fn from(Unreadable(text): Unreadable) -> Self {
        Self::Io(text)
    }
}

impl From<Unreadable> for VariableError {
    fn from(Unreadable(text): Unreadable) -> Self {
        Self::Provider(text)
    }
}

/// The named configuration of an actor, as its components see it: not older than
/// [`LASTS`], so that each call does not cost a question to the bucket.
pub struct Configuration {
    source: NamedConfig,
    actor_id: String,
    // Held for lines, never across an await.
    read: Mutex<Option<(Instant, Arc<Values>)>>,
}

impl Configuration {
    pub fn new(source: NamedConfig, actor_id: String) -> Self {
        Self { source, actor_id, read: Mutex::default() }
    }

    /// Returns the values, read anew if those that were read before are too old.
    pub async fn read(&self) -> Result<Arc<Values>, Unreadable> {
        let known = self.read.lock().clone();
        if let Some((_, values)) = known.filter(|(at, _)| at.elapsed() < LASTS) {
            return Ok(values);
        }
        let read = self.source.all(&self.actor_id).await;
        let read = read.map_err(|error| Unreadable(error.to_string()))?;
        let values: Arc<Values> = Arc::new(read);
        *self.read.lock() = Some((Instant::now(), Arc::clone(&values)));
        Ok(values)
    }
}

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    for name in NAMES {
        let mut interface = linker.instance(name)?;
        interface.func_wrap_async(
            "get",
            |store: StoreContextMut<'_, Guest>, (key,): (String,)| {
                Box::new(async move { Ok((one(values(store).await?, &key, text),)) })
            },
        )?;
        interface.func_wrap_async("get-all", |store: StoreContextMut<'_, Guest>, (): ()| {
            Box::new(async move { Ok((all(values(store).await?, text),)) })
        })?;
    }
    add_variables(linker)?;
    add_guest_config(linker)
}

fn add_variables(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let [first, second, third, _] = OTHERS;
    linker.instance(first)?.func_wrap_async(
        "get-config",
        |store: StoreContextMut<'_, Guest>, (name,): (String,)| {
            Box::new(async move {
                let found = variable(values(store).await?, name);
                Ok((found.map_err(FirstVariableError::from),))
            })
        },
    )?;
    linker.instance(second)?.func_wrap_async(
        "get",
        |store: StoreContextMut<'_, Guest>, (name,): (String,)| {
            Box::new(async move { Ok((variable(values(store).await?, name),)) })
        },
    )?;
    linker.instance(third)?.func_wrap_concurrent(
        "get",
        |accessor: &Accessor<Guest>, (name,): (String,)| {
            let caller = accessor.with(|mut access| caller(&mut access));
            Box::pin(async move { Ok((variable(caller?.configuration().await?, name),)) })
        },
    )
}

/// Values are bytes there.
fn add_guest_config(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let [.., name] = OTHERS;
    let mut interface = linker.instance(name)?;
    interface.func_wrap_async("get", |store: StoreContextMut<'_, Guest>, (key,): (String,)| {
        Box::new(async move { Ok((one(values(store).await?, &key, bytes),)) })
    })?;
    interface.func_wrap_async("get-all", |store: StoreContextMut<'_, Guest>, (): ()| {
        Box::new(async move { Ok((all(values(store).await?, bytes),)) })
    })
}

/// The form of the values of an interface.
type Form<V> = fn(name: &str, value: &Bytes) -> Result<V, NotText>;

fn text(name: &str, value: &Bytes) -> Result<String, NotText> {
    let text = str::from_utf8(value).map_err(|_| NotText(name.to_owned()))?;
    Ok(text.to_owned())
}

fn bytes(_: &str, value: &Bytes) -> Result<Vec<u8>, NotText> {
    Ok(value.to_vec())
}

/// Reads the values once per call.
async fn values(
    mut store: StoreContextMut<'_, Guest>,
) -> wasmtime::Result<Result<Arc<Values>, Unreadable>> {
    caller(&mut store)?.configuration().await
}

/// The value of a name.
fn one<V>(
    values: Result<Arc<Values>, Unreadable>,
    name: &str,
    form: Form<V>,
) -> Result<Option<V>, ConfigError> {
    let found = values?.get(name).map(|value| form(name, value));
    found.transpose().map_err(ConfigError::from)
}

/// Each value with its name, but those that the interface has no type for: one of them must not
/// take the others from the guest.
fn all<V>(
    values: Result<Arc<Values>, Unreadable>,
    form: Form<V>,
) -> Result<Vec<(String, V)>, ConfigError> {
    /// Told once: guests ask again and again.
    static LEFT_OUT: Once = Once::new();
    let named = |(name, value): (&String, &Bytes)| {
        let formed = form(name, value).inspect_err(|error| {
            LEFT_OUT.call_once(|| warn!(%error, "left out of the values that a component gets"));
        });
        Some((name.clone(), formed.ok()?))
    };
    Ok(values?.iter().filter_map(named).collect())
}

fn variable(
    values: Result<Arc<Values>, Unreadable>,
    name: String,
) -> Result<String, VariableError> {
    if !is_variable(&name) {
        return Err(VariableError::InvalidName(name));
    }
    match values?.get(&name) {
        Some(value) => text(&name, value).map_err(VariableError::from),
        None => Err(VariableError::Undefined(name)),
    }
}

/// Spin's rule for names.
fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_'))
        && !name.ends_with('_')
        && !name.contains("__")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_a_value_or_says_why_not() {
        let values = Ok(Arc::new(Values::from([("api_key".to_owned(), "k".into())])));
        for (name, expected) in [
            ("api_key", Ok("k".to_owned())),
            ("other", Err(VariableError::Undefined("other".into()))),
            ("API", Err(VariableError::InvalidName("API".into()))),
        ] {
            assert_eq!(variable(values.clone(), name.into()), expected);
        }
        let failed = variable(Err(Unreadable("away".into())), "api_key".into());
        let first = failed.map_err(FirstVariableError::from);
        assert_eq!(first, Err(FirstVariableError::Provider("away".into())));
    }

    #[test]
    fn a_value_that_is_no_text_comes_as_its_bytes_and_is_an_error_where_texts_are_wanted() {
        let (name, value) = ("key", Bytes::from_static(b"\xff\0"));
        let both = [(name.to_owned(), value.clone()), ("text".to_owned(), "t".into())];
        let values = || Ok(Arc::new(Values::from(both.clone())));
        assert_eq!(one(values(), name, bytes).expect("bytes"), Some(value.to_vec()));
        assert_eq!(all(values(), bytes).expect("bytes").len(), 2);
        assert_eq!(one(values(), "text", text).expect("a text"), Some("t".to_owned()));
        assert_eq!(all(values(), text).expect("texts"), [("text".to_owned(), "t".to_owned())]);
        let error = one(values(), name, text).map(drop);
        assert!(matches!(&error, Err(ConfigError::Upstream(text)) if text.contains(name)));
        let no_text = NotText(name.to_owned()).to_string();
        assert_eq!(variable(values(), name.into()), Err(VariableError::Provider(no_text)));
    }

    #[test]
    fn variables_have_names_of_lower_case_words() {
        assert!(["a", "api_key", "v2"].into_iter().all(is_variable));
        assert!(!["", "A", "2v", "a__b", "a_", "a-b"].into_iter().any(is_variable));
    }
}
