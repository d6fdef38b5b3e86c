//! `wasi:config` in its four spellings, and Spin's variables: the actor's named configuration.
//!
//! An instance sees one state of it, that of its first question. Link values are never shown here:
//! they belong to providers and hold their secrets.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use wasmtime::{
    StoreContextMut,
    component::{ComponentType, Lift, Linker, Lower},
};

use super::Guest;
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
/// Spin's interface for the same.
pub(super) const VARIABLES: &str = "fermyon:spin/variables@2.0.0";

#[derive(Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum ConfigError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

#[derive(Debug, ComponentType, Lift, Lower)]
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
    pub async fn read(&self) -> Result<Arc<Values>, String> {
        let known = self.read.lock().clone();
        if let Some((_, values)) = known.filter(|(at, _)| at.elapsed() < LASTS) {
            return Ok(values);
        }
        let read = self.source.all(&self.actor_id).await.map_err(|error| error.to_string())?;
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
                    let values = values(store).await;
                    Ok((values.map(|values| values.get(&key).cloned()).map_err(ConfigError::Io),))
                })
            },
        )?;
        interface.func_wrap_async("get-all", |store: StoreContextMut<'_, Guest>, (): ()| {
            Box::new(async move { Ok((all(store).await,)) })
        })?;
    }
    linker.instance(VARIABLES)?.func_wrap_async(
        "get",
        |store: StoreContextMut<'_, Guest>, (name,): (String,)| {
            Box::new(async move { Ok((variable(store, name).await,)) })
        },
    )?;
    Ok(())
}

/// Reads the values once per instance.
async fn values(mut store: StoreContextMut<'_, Guest>) -> Result<Arc<Values>, String> {
    if let Some(values) = &store.data().config {
        return Ok(Arc::clone(values));
    }
    let outward = Arc::clone(&store.data().caller.outward);
    let read = outward.configuration().await?;
    store.data_mut().config = Some(Arc::clone(&read));
    Ok(read)
}

async fn all(store: StoreContextMut<'_, Guest>) -> Result<Vec<(String, String)>, ConfigError> {
    let values = values(store).await.map_err(ConfigError::Io)?;
    Ok(values.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
}

async fn variable(
    store: StoreContextMut<'_, Guest>,
    name: String,
) -> Result<String, VariableError> {
    if !is_variable(&name) {
        return Err(VariableError::InvalidName(name));
    }
    let values = values(store).await.map_err(VariableError::Provider)?;
    values.get(&name).cloned().ok_or(VariableError::Undefined(name))
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
    fn variables_have_names_of_lower_case_words() {
        assert!(["a", "api_key", "v2"].into_iter().all(is_variable));
        assert!(!["", "A", "2v", "a__b", "a_", "a-b"].into_iter().any(is_variable));
    }
}
