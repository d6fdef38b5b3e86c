//! `wasi:keyvalue` in its two drafts, and Spin's key-value store of its second generation:
//! `KeyValue.*`.
//!
//! Drafts differ in types, not in meaning, so there is one implementation with an entry for each.
//! The contract knows texts and 32 bit counters: what does not fit is an error that says so.

use serde::Serialize;
use wasmtime::{
    StoreContextMut,
    component::{ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType},
};

use super::{Caller, Guest, drop_resource, is_default};
use crate::rpc::call::CallError;
use lattice_protocol::contracts::keyvalue::{
    CONTRACT_ID, GetResponse, IncrementRequest, SetRequest,
};

const FIRST: &str = "0.2.0-draft";
const SECOND: &str = "0.2.0-draft2";
const SPIN: &str = "fermyon:spin/key-value@2.0.0";
/// The names under which it is imported.
pub(super) const NAMES: [&str; 7] = [
    "wasi:keyvalue/store@0.2.0-draft",
    "wasi:keyvalue/atomics@0.2.0-draft",
    "wasi:keyvalue/batch@0.2.0-draft",
    "wasi:keyvalue/store@0.2.0-draft2",
    "wasi:keyvalue/atomics@0.2.0-draft2",
    "wasi:keyvalue/batch@0.2.0-draft2",
    SPIN,
];

/// Keys that one call may name.
const KEYS_MAX: usize = 1000;

/// A bucket of a guest: a link of its actor.
struct Bucket {
    /// Empty stands for the default link.
    link_name: String,
}

/// A compare-and-swap in progress, of which there can be none: the contract has no such operation.
struct Cas;

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
enum StoreError {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

/// The same for Spin, with one case more.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
enum SpinError {
    #[component(name = "store-table-full")]
    StoreTableFull,
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum CasError {
    #[component(name = "store-error")]
    Store(StoreError),
    #[component(name = "cas-failed")]
    Failed(Resource<Cas>),
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct KeysByNumber {
    keys: Vec<String>,
    cursor: Option<u64>,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct KeysByText {
    keys: Vec<String>,
    cursor: Option<String>,
}

impl From<StoreError> for SpinError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSuchStore => Self::NoSuchStore,
            StoreError::AccessDenied => Self::AccessDenied,
            StoreError::Other(text) => Self::Other(text),
        }
    }
}

type Outcome<T> = Result<T, StoreError>;

/// A bucket with the right to call on it, so that no store is borrowed while a call waits.
struct Open {
    caller: Caller,
    link_name: String,
}

impl Open {
    fn of(
        store: &mut StoreContextMut<'_, Guest>,
        bucket: &Resource<Bucket>,
    ) -> wasmtime::Result<Self> {
        let guest = store.data_mut();
        let link_name = guest.table.get(bucket)?.link_name.clone();
        Ok(Self { caller: guest.caller.clone(), link_name })
    }

    async fn call<R: serde::de::DeserializeOwned>(
        &self,
        operation: &'static str,
        argument: &impl Serialize,
    ) -> wasmtime::Result<Outcome<R>> {
        let place = (CONTRACT_ID, self.link_name.as_str());
        let result = self.caller.call(place, operation, argument).await?;
        Ok(result.map_err(|error| error_of(&error, &self.link_name)))
    }

    async fn get(&self, key: &str) -> wasmtime::Result<Outcome<Option<Vec<u8>>>> {
        let found: Outcome<GetResponse> = self.call("KeyValue.Get", &key).await?;
        Ok(found.map(|found| found.exists.then(|| found.value.into_bytes())))
    }

    async fn set(&self, key: String, value: Vec<u8>) -> wasmtime::Result<Outcome<()>> {
        let Ok(value) = String::from_utf8(value) else {
            return Ok(Err(StoreError::Other(format!(
                "the value of {key:?} is not text, and the key-value contract has nothing else; \
                 encode it, or use a blob store"
            ))));
        };
        self.call("KeyValue.Set", &SetRequest { key, value, expires: 0 }).await
    }

    /// Removes a key. One that is not there is as good as removed.
    async fn delete(&self, key: &str) -> wasmtime::Result<Outcome<()>> {
        let removed: Outcome<bool> = self.call("KeyValue.Del", &key).await?;
        Ok(removed.map(drop))
    }

    async fn exists(&self, key: &str) -> wasmtime::Result<Outcome<bool>> {
        self.call("KeyValue.Contains", &key).await
    }

    async fn increment(&self, key: String, delta: i128) -> wasmtime::Result<Outcome<i32>> {
        let Ok(value) = i32::try_from(delta) else {
            return Ok(Err(StoreError::Other(format!(
                "the delta {delta} of {key:?} does not fit 32 bits, which counters of the \
                 key-value contract have"
            ))));
        };
        self.call("KeyValue.Increment", &IncrementRequest { key, value }).await
    }

    /// The values of several keys, in their order; not at one instant.
    async fn get_many(
        &self,
        keys: Vec<String>,
    ) -> wasmtime::Result<Outcome<Vec<(String, Option<Vec<u8>>)>>> {
        if let Err(error) = check_count(keys.len()) {
            return Ok(Err(error));
        }
        let mut found = Vec::new();
        for key in keys {
            match self.get(&key).await? {
                Ok(value) => found.push((key, value)),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(found))
    }

    /// Stops at the first failure; what was set before stays, as the interface allows.
    async fn set_many(&self, entries: Vec<(String, Vec<u8>)>) -> wasmtime::Result<Outcome<()>> {
        if let Err(error) = check_count(entries.len()) {
            return Ok(Err(error));
        }
        for (key, value) in entries {
            if let Err(error) = self.set(key, value).await? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    async fn delete_many(&self, keys: Vec<String>) -> wasmtime::Result<Outcome<()>> {
        if let Err(error) = check_count(keys.len()) {
            return Ok(Err(error));
        }
        for key in keys {
            if let Err(error) = self.delete(&key).await? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }
}

fn check_count(count: usize) -> Outcome<()> {
    if count <= KEYS_MAX {
        return Ok(());
    }
    Err(StoreError::Other(format!("{count} keys in one call; at most {KEYS_MAX} may be named")))
}

/// A call's error as the interface has it (components, section 2.2).
fn error_of(error: &CallError, link_name: &str) -> StoreError {
    match error {
        CallError::NoLink { .. } if !link_name.is_empty() => StoreError::NoSuchStore,
        CallError::NoCapability { .. }
        | CallError::NeitherSignedNorLinked { .. }
        | CallError::Denied { .. } => StoreError::AccessDenied,
        other => StoreError::Other(other.to_string()),
    }
}

fn no_keys() -> StoreError {
    StoreError::Other("the key-value contract cannot list keys; keep the names in a key".into())
}

fn no_swap() -> StoreError {
    StoreError::Other(
        "the key-value contract cannot compare and swap; count with increment, or keep the value \
         in one actor"
            .into(),
    )
}

/// Opens the bucket of a name: the link of that name, or the default link.
fn open(guest: &mut Guest, name: String) -> wasmtime::Result<Outcome<Resource<Bucket>>> {
    let link_name = match is_default(&name) {
        true => String::new(),
        false if guest.caller.outward.is_linked(CONTRACT_ID, &name) => name,
        false => return Ok(Err(StoreError::NoSuchStore)),
    };
    Ok(Ok(guest.table.push(Bucket { link_name })?))
}

/// Adds a function whose first parameter is a bucket.
macro_rules! on_bucket {
    ($interface:expr, $name:expr, |$bucket:ident $(, $arg:ident: $ty:ty)*| $body:expr) => {
        $interface.func_wrap_async(
            $name,
            |mut store: StoreContextMut<'_, Guest>,
             (bucket, $($arg,)*): (Resource<Bucket>, $($ty,)*)| {
                let opened = Open::of(&mut store, &bucket);
                Box::new(async move {
                    let $bucket = opened?;
                    Ok(($body,))
                })
            },
        )
    };
}

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    for version in [FIRST, SECOND] {
        let mut store = linker.instance(&format!("wasi:keyvalue/store@{version}"))?;
        add_store(&mut store)?;
        if version == FIRST {
            on_bucket!(store, "[method]bucket.list-keys", |_bucket, _cursor: Option<u64>| {
                Err::<KeysByNumber, _>(no_keys())
            })?;
        } else {
            on_bucket!(store, "[method]bucket.list-keys", |_bucket, _cursor: Option<String>| {
                Err::<KeysByText, _>(no_keys())
            })?;
        }
        let mut batch = linker.instance(&format!("wasi:keyvalue/batch@{version}"))?;
        on_bucket!(batch, "set-many", |bucket, entries: Vec<(String, Vec<u8>)>| {
            bucket.set_many(entries).await?
        })?;
        on_bucket!(batch, "delete-many", |bucket, keys: Vec<String>| {
            bucket.delete_many(keys).await?
        })?;
    }
    add_first(linker)?;
    add_second(linker)?;
    add_spin(linker)
}

fn add_store(store: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    store.resource("bucket", ResourceType::host::<Bucket>(), drop_resource::<Bucket>)?;
    store.func_wrap("open", |mut store: StoreContextMut<'_, Guest>, (name,): (String,)| {
        Ok((open(store.data_mut(), name)?,))
    })?;
    on_bucket!(store, "[method]bucket.get", |bucket, key: String| bucket.get(&key).await?)?;
    on_bucket!(store, "[method]bucket.set", |bucket, key: String, value: Vec<u8>| {
        bucket.set(key, value).await?
    })?;
    on_bucket!(store, "[method]bucket.delete", |bucket, key: String| {
        bucket.delete(&key).await?
    })?;
    on_bucket!(store, "[method]bucket.exists", |bucket, key: String| { bucket.exists(&key).await? })
}

/// The functions that only the first draft has in this form.
fn add_first(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut batch = linker.instance(&format!("wasi:keyvalue/batch@{FIRST}"))?;
    on_bucket!(batch, "get-many", |bucket, keys: Vec<String>| {
        bucket.get_many(keys).await?.map(|found| {
            found
                .into_iter()
                .map(|(key, value)| value.map(|value| (key, value)))
                .collect::<Vec<Option<(String, Vec<u8>)>>>()
        })
    })?;
    let mut atomics = linker.instance(&format!("wasi:keyvalue/atomics@{FIRST}"))?;
    on_bucket!(atomics, "increment", |bucket, key: String, delta: u64| {
        bucket.increment(key, delta.into()).await?.and_then(unsigned)
    })
}

fn unsigned(count: i32) -> Outcome<u64> {
    u64::try_from(count).map_err(|_| {
        StoreError::Other(format!("the counter stands at {count}, below what this draft can tell"))
    })
}

/// The functions that only the second draft has in this form.
fn add_second(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut batch = linker.instance(&format!("wasi:keyvalue/batch@{SECOND}"))?;
    on_bucket!(batch, "get-many", |bucket, keys: Vec<String>| bucket.get_many(keys).await?)?;
    let mut atomics = linker.instance(&format!("wasi:keyvalue/atomics@{SECOND}"))?;
    on_bucket!(atomics, "increment", |bucket, key: String, delta: i64| {
        bucket.increment(key, delta.into()).await?.map(i64::from)
    })?;
    atomics.resource("cas", ResourceType::host::<Cas>(), drop_resource::<Cas>)?;
    on_bucket!(atomics, "[static]cas.new", |_bucket, _key: String| {
        Err::<Resource<Cas>, _>(no_swap())
    })?;
    atomics.func_wrap(
        "[method]cas.current",
        |_: StoreContextMut<'_, Guest>, (_,): (Resource<Cas>,)| {
            Ok((Err::<Option<Vec<u8>>, _>(no_swap()),))
        },
    )?;
    atomics.func_wrap("swap", |_: StoreContextMut<'_, Guest>, (_, _): (Resource<Cas>, Vec<u8>)| {
        Ok((Err::<(), _>(CasError::Store(no_swap())),))
    })
}

fn add_spin(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut spin = linker.instance(SPIN)?;
    spin.resource("store", ResourceType::host::<Bucket>(), drop_resource::<Bucket>)?;
    spin.func_wrap(
        "[static]store.open",
        |mut store: StoreContextMut<'_, Guest>, (label,): (String,)| {
            Ok((open(store.data_mut(), label)?.map_err(SpinError::from),))
        },
    )?;
    on_bucket!(spin, "[method]store.get", |bucket, key: String| {
        bucket.get(&key).await?.map_err(SpinError::from)
    })?;
    on_bucket!(spin, "[method]store.set", |bucket, key: String, value: Vec<u8>| {
        bucket.set(key, value).await?.map_err(SpinError::from)
    })?;
    on_bucket!(spin, "[method]store.delete", |bucket, key: String| {
        bucket.delete(&key).await?.map_err(SpinError::from)
    })?;
    on_bucket!(spin, "[method]store.exists", |bucket, key: String| {
        bucket.exists(&key).await?.map_err(SpinError::from)
    })?;
    on_bucket!(spin, "[method]store.get-keys", |_bucket| {
        Err::<Vec<String>, _>(SpinError::from(no_keys()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_link() -> CallError {
        CallError::NoLink {
            namespace: CONTRACT_ID.into(),
            lattice: "l".into(),
            actor_id: "M".into(),
            link_name: "default".into(),
        }
    }

    #[test]
    fn a_missing_link_is_no_store_by_its_name_and_a_text_by_default() {
        assert_eq!(error_of(&no_link(), "orders"), StoreError::NoSuchStore);
        assert!(
            matches!(error_of(&no_link(), ""), StoreError::Other(text) if text.contains("link"))
        );
        let unsigned = CallError::NoCapability { contract: "c".into(), actor_id: "M".into() };
        assert_eq!(error_of(&unsigned, ""), StoreError::AccessDenied);
        assert_eq!(SpinError::from(StoreError::NoSuchStore), SpinError::NoSuchStore);
    }

    #[test]
    fn a_counter_below_zero_is_an_error_where_counts_have_no_sign() {
        assert_eq!(unsigned(3), Ok(3));
        assert!(matches!(unsigned(-1), Err(StoreError::Other(text)) if text.contains("-1")));
        assert!(check_count(KEYS_MAX).is_ok() && check_count(KEYS_MAX + 1).is_err());
    }
}
