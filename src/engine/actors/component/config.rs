//! `wasi:config` in its four spellings, the configuration of the hosts of 2024, and Spin's
//! variables of all generations: the actor's named configuration.
//!
//! A call sees one state of it, that of its first question. Link values are never shown here:
//! they belong to providers and hold their secrets.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use wasmtime::{
    StoreContextMut,
    component::{Accessor, ComponentType, Lift, Linker, Lower},
};

use super::{Guest, caller::caller};
use crate::control::named_config::NamedConfig;

/// The values of an actor, by name.
pub type Values = BTreeMap<String, String>;

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
        let texts = read
            .into_iter()
            .map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned()));
        let values: Arc<Values> = Arc::new(texts.collect());
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
                Box::new(async move {
                    let values = values(store).await?;
                    Ok((values.map(|values| values.get(&key).cloned()).map_err(ConfigError::from),))
                })
            },
        )?;
        interface.func_wrap_async("get-all", |store: StoreContextMut<'_, Guest>, (): ()| {
            Box::new(async move { Ok((all(store, String::clone).await?,)) })
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
        Box::new(async move {
            let values = values(store).await?.map_err(ConfigError::from);
            let found = values.map(|values| values.get(&key).map(bytes));
            Ok((found,))
        })
    })?;
    interface.func_wrap_async("get-all", |store: StoreContextMut<'_, Guest>, (): ()| {
        Box::new(async move { Ok((all(store, bytes).await?,)) })
    })
}

fn bytes(value: &String) -> Vec<u8> {
    value.as_bytes().to_vec()
}

/// Reads the values once per call.
async fn values(
    mut store: StoreContextMut<'_, Guest>,
) -> wasmtime::Result<Result<Arc<Values>, Unreadable>> {
    caller(&mut store)?.configuration().await
}

/// Each value with its name, whose form is up to the interface.
async fn all<V>(
    store: StoreContextMut<'_, Guest>,
    form: fn(&String) -> V,
) -> wasmtime::Result<Result<Vec<(String, V)>, ConfigError>> {
    let values = values(store).await?.map_err(ConfigError::from);
    Ok(values.map(|values| values.iter().map(|(key, value)| (key.clone(), form(value))).collect()))
}

fn variable(
    values: Result<Arc<Values>, Unreadable>,
    name: String,
) -> Result<String, VariableError> {
    if !is_variable(&name) {
        return Err(VariableError::InvalidName(name));
    }
    values?.get(&name).cloned().ok_or(VariableError::Undefined(name))
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
        let values = Ok(Arc::new(Values::from([("api_key".to_owned(), "k".to_owned())])));
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
    fn variables_have_names_of_lower_case_words() {
        assert!(["a", "api_key", "v2"].into_iter().all(is_variable));
        assert!(!["", "A", "2v", "a__b", "a_", "a-b"].into_iter().any(is_variable));
    }
}
