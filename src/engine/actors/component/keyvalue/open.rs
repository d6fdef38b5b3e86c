//! The operations on a bucket, as calls of the contract.

use serde::{Serialize, de::DeserializeOwned};
use wasmtime::{AsContext as _, AsContextMut, component::Resource};

use super::{Bucket, Caller, Guest, Holding, StoreError, caller};
use crate::{router::LinkEnd, rpc::call::CallError};
use lattice_protocol::contracts::{
    binary::Binary,
    keyvalue::{
        CONTRACT_ID, GetResponse, IncrementRequest, Keys, KeysRequest, SetBytesRequest, SetRequest,
        SwapRequest, Version, private,
    },
};

/// Keys that one call may name.
const KEYS_MAX: usize = 1000;
/// Bytes of a key that is compared and swapped: the host keeps it meanwhile.
const SWAP_KEY_BYTES_MAX: usize = 4096;

pub(super) type Outcome<T> = Result<T, StoreError>;

/// A bucket with the right to call on it, so that no store is borrowed while a call waits.
pub(super) struct Open {
    caller: Caller,
    link_name: String,
}

/// A compare-and-swap in progress.
#[derive(Clone)]
pub(super) struct Cas {
    link_name: String,
    key: String,
    /// The one that was seen last; a swap counts only if nobody wrote since.
    pub revision: u64,
}

/// The fate of a swap.
pub(super) enum Swapped {
    Written,
    /// Somebody else wrote first; what is there now can be swapped.
    Meanwhile(Cas),
}

/// A value, and the revision that it has.
pub(super) struct Seen {
    pub value: Option<Vec<u8>>,
    pub revision: u64,
}

impl Open {
    pub fn of(
        store: &mut impl AsContextMut<Data = Guest>,
        bucket: &Resource<Bucket>,
    ) -> wasmtime::Result<Self> {
        let caller = caller(store)?;
        let link_name = store.as_context().data().table.get(bucket)?.link_name.clone();
        Ok(Self { caller, link_name })
    }

    async fn call<R: DeserializeOwned>(
        &self,
        operation: &'static str,
        argument: &impl Serialize,
    ) -> wasmtime::Result<Outcome<R>> {
        let place = (CONTRACT_ID, self.link_name.as_str());
        let result = self.caller.call(place, operation, argument).await?;
        Ok(result.map_err(|error| error_of(&error, &self.link_name)))
    }

    /// Whether the link leads to the built-in provider, which can do more than the contract.
    fn is_builtin(&self) -> bool {
        self.caller.link_end(CONTRACT_ID, &self.link_name) == LinkEnd::Builtin
    }

    pub async fn get(&self, key: &str) -> wasmtime::Result<Outcome<Option<Vec<u8>>>> {
        if self.is_builtin() {
            return Ok(self.version(key).await?.map(|seen| seen.value));
        }
        let found: Outcome<GetResponse> = self.call("KeyValue.Get", &key).await?;
        Ok(found.map(|found| found.exists.then(|| found.value.into_bytes())))
    }

    async fn version(&self, key: &str) -> wasmtime::Result<Outcome<Seen>> {
        let found: Outcome<Version> = self.call(private::GET_BYTES, &key).await?;
        Ok(found.map(|Version { value, revision }| Seen {
            value: value.map(|Binary(bytes)| bytes.into()),
            revision,
        }))
    }

    pub async fn set(&self, key: String, value: Vec<u8>) -> wasmtime::Result<Outcome<()>> {
        let mut held = self.caller.hold();
        if !held.grow(key.len() + value.len()) {
            return Ok(Err(other(format!(
                "the writes that wait have more than {} bytes together; wait for earlier ones, or \
                 raise actor_memory_max_bytes",
                self.caller.memory_max_bytes
            ))));
        }
        let value = match String::from_utf8(value) {
            Ok(value) => {
                return self.call("KeyValue.Set", &SetRequest { key, value, expires: 0 }).await;
            }
            Err(no_text) => no_text.into_bytes().into(),
        };
        if self.is_builtin() {
            return self.call(private::SET_BYTES, &SetBytesRequest { key, value }).await;
        }
        Ok(Err(other(format!(
            "the value of {key:?} is not text, and the key-value contract has nothing else; encode \
             it, use a blob store, or link the built-in provider builtin://keyvalue"
        ))))
    }

    /// Removes a key. One that is not there is as good as removed.
    pub async fn delete(&self, key: &str) -> wasmtime::Result<Outcome<()>> {
        let removed: Outcome<bool> = self.call("KeyValue.Del", &key).await?;
        Ok(removed.map(drop))
    }

    pub async fn exists(&self, key: &str) -> wasmtime::Result<Outcome<bool>> {
        self.call("KeyValue.Contains", &key).await
    }

    pub async fn increment(&self, key: String, delta: i128) -> wasmtime::Result<Outcome<i32>> {
        let Ok(value) = i32::try_from(delta) else {
            return Ok(Err(other(format!(
                "the delta {delta} of {key:?} does not fit 32 bits, which counters of the \
                 key-value contract have"
            ))));
        };
        self.call("KeyValue.Increment", &IncrementRequest { key, value }).await
    }

    /// The page of keys after one.
    pub async fn keys(&self, after: Option<String>) -> wasmtime::Result<Outcome<Keys>> {
        match self.is_builtin() {
            true => self.call(private::KEYS, &KeysRequest { after }).await,
            false => Ok(Err(lacks("list keys", "keep their names in a key"))),
        }
    }

    /// All keys, page by page, and the memory that they take; it may be as much as the guest's.
    pub async fn all_keys(&self) -> wasmtime::Result<Outcome<(Vec<String>, Holding)>> {
        let (mut all, mut held): (Vec<String>, _) = (Vec::new(), self.caller.hold());
        loop {
            let page = match self.keys(all.last().cloned()).await? {
                Ok(page) => page,
                Err(error) => return Ok(Err(error)),
            };
            let has_room =
                held.grow(page.keys.iter().map(|key| key.len() + size_of::<String>()).sum());
            let more = page.more && !page.keys.is_empty();
            all.extend(page.keys);
            if !has_room {
                return Ok(Err(other(format!(
                    "the bucket has more than {} keys, more than an instance may have; list them \
                     page by page, or raise actor_memory_max_bytes",
                    all.len()
                ))));
            }
            if !more {
                return Ok(Ok((all, held)));
            }
        }
    }

    /// The values of several keys, in their order; not at one instant. Together they may be as
    /// large as the guest's memory.
    pub async fn get_many(
        &self,
        keys: Vec<String>,
    ) -> wasmtime::Result<Outcome<Vec<(String, Option<Vec<u8>>)>>> {
        if let Err(error) = check_count(keys.len()) {
            return Ok(Err(error));
        }
        let (mut found, mut held) = (Vec::new(), self.caller.hold());
        for key in keys {
            let value = match self.get(&key).await? {
                Ok(value) => value,
                Err(error) => return Ok(Err(error)),
            };
            if !held.grow(key.len() + value.as_ref().map_or(0, Vec::len)) {
                return Ok(Err(other(format!(
                    "the values have more than {} bytes together, more than an instance may have; \
                     name fewer keys at a time, or raise actor_memory_max_bytes",
                    self.caller.memory_max_bytes
                ))));
            }
            found.push((key, value));
        }
        Ok(Ok(found))
    }

    /// Stops at the first failure; what was set before stays, as the interface allows.
    pub async fn set_many(&self, entries: Vec<(String, Vec<u8>)>) -> wasmtime::Result<Outcome<()>> {
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

    pub async fn delete_many(&self, keys: Vec<String>) -> wasmtime::Result<Outcome<()>> {
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

    /// Looks at a key that is going to be swapped.
    pub async fn begin_swap(self, key: String) -> wasmtime::Result<Outcome<Cas>> {
        if !self.is_builtin() {
            return Ok(Err(lacks("compare and swap", "count with increment")));
        }
        if key.len() > SWAP_KEY_BYTES_MAX {
            return Ok(Err(other(format!(
                "the key has {} bytes; of one that is swapped at most {SWAP_KEY_BYTES_MAX} are kept",
                key.len()
            ))));
        }
        let seen = self.version(&key).await?;
        Ok(seen.map(|Seen { revision, .. }| Cas { link_name: self.link_name, key, revision }))
    }
}

impl Cas {
    fn opened(&self, caller: Caller) -> Open {
        Open { caller, link_name: self.link_name.clone() }
    }

    /// Looks at the key again.
    pub async fn current(&self, caller: Caller) -> wasmtime::Result<Outcome<Seen>> {
        self.opened(caller).version(&self.key).await
    }

    /// Writes a value if nobody has written since the key was looked at.
    pub async fn swap(self, caller: Caller, value: Vec<u8>) -> wasmtime::Result<Outcome<Swapped>> {
        let (opened, Self { key, revision, .. }) = (self.opened(caller), self);
        let request = SwapRequest { key: key.clone(), value: value.into(), revision };
        match opened.call(private::SWAP, &request).await? {
            Ok(true) => Ok(Ok(Swapped::Written)),
            Ok(false) => Ok(opened.begin_swap(key).await?.map(Swapped::Meanwhile)),
            Err(error) => Ok(Err(error)),
        }
    }
}

pub(super) fn other(text: String) -> StoreError {
    StoreError::Other(text)
}

/// Words an operation that only the built-in provider has.
fn lacks(operation: &str, instead: &str) -> StoreError {
    other(format!(
        "the key-value contract cannot {operation}; {instead}, or link the built-in provider \
         builtin://keyvalue, which can"
    ))
}

fn check_count(count: usize) -> Outcome<()> {
    if count <= KEYS_MAX {
        return Ok(());
    }
    Err(other(format!("{count} keys in one call; at most {KEYS_MAX} may be named")))
}

/// A call's error as the interface has it (components, section 2.2).
fn error_of(error: &CallError, link_name: &str) -> StoreError {
    match error {
        CallError::NoLink { .. } if !link_name.is_empty() => StoreError::NoSuchStore,
        error if error.is_forbidden() => StoreError::AccessDenied,
        error => other(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lattice_protocol::contracts;

    use super::*;
    use crate::actors::{component::caller::fake, inbound::HostCall};

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
    }

    /// The built-in provider with one key, all of whose values have 1000 bytes.
    fn answer(call: HostCall) -> Option<Result<Bytes, CallError>> {
        Some(Ok(match call.operation.as_str() {
            private::KEYS => contracts::encode(&Keys { keys: vec!["k".repeat(1000)], more: false }),
            private::GET_BYTES => {
                contracts::encode(&Version { value: Some(vec![7; 1000].into()), revision: 1 })
            }
            operation => panic!("{operation} is not expected"),
        }))
    }

    fn with_memory(memory: usize) -> Open {
        Open { caller: fake::caller(memory, answer), link_name: String::new() }
    }

    #[tokio::test]
    async fn keys_count_as_memory_of_the_guest_as_long_as_they_are_there() {
        let needed = 1000 + size_of::<String>();
        let opened = with_memory(needed);
        let all = opened.all_keys().await.expect("the guest goes on");
        let Ok((keys, held)) = all else { panic!("there is room for them") };
        assert!(keys.len() == 1 && !opened.caller.hold().grow(1));
        drop(held);
        assert!(opened.caller.hold().grow(needed));
        let refused = with_memory(needed - 1).all_keys().await.expect("the guest goes on");
        assert!(refused.is_err());
    }

    #[tokio::test]
    async fn the_values_of_many_keys_are_no_more_than_the_memory_of_the_guest() {
        for (memory, keys, is_enough) in [(10_000, 9, true), (10_000, 10, false), (0, 1, false)] {
            let opened = with_memory(memory);
            let keys = (0..keys).map(|key| key.to_string()).collect();
            match opened.get_many(keys).await.expect("the guest goes on") {
                Ok(found) => assert!(is_enough && found.len() == 9, "{memory}"),
                Err(StoreError::Other(text)) => {
                    assert!(!is_enough && text.contains("actor_memory_max_bytes"), "{text}");
                }
                Err(error) => panic!("{error:?}"),
            }
            assert!(opened.caller.hold().grow(memory), "all of it was given back");
        }
    }

    #[test]
    fn one_call_names_so_many_keys() {
        assert!(check_count(KEYS_MAX).is_ok() && check_count(KEYS_MAX + 1).is_err());
    }
}
