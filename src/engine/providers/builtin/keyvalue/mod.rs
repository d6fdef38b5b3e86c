//! `builtin://keyvalue`: texts, counters, lists and sets in a bucket of JetStream (wasmbus
//! protocol, section 5.4).
//!
//! All actors linked with the same bucket see the same keys, as with redis; a link of its own
//! `bucket` value has its own. Values behave as in redis: a counter is a text of digits, a list or
//! set that gets empty is gone, and an operation on the wrong kind of value fails. A value, and so
//! a whole list or set, has room in one NATS message (`max_payload`, 1 MiB unless the server says
//! otherwise).
//!
//! For components there are operations that the contract does not have: values of any bytes, pages
//! of keys, and writes on condition that nobody else wrote since
//! ([`private`]). A value that is text is kept as text, whichever operation wrote it, so that
//! actors of all kinds read it; keys whose names are long stand in the bucket by their digest and
//! are not listed.
//!
//! * [`keys`] makes any text a key of the bucket, [`entry`] is what stands under it, [`bucket`]
//!   reads and writes.
//! * This file has the provider, its links and the operations.

pub mod bucket;
pub mod entry;
pub mod keys;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::BoxFuture, stream};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::{
    bucket::{Bucket, Change},
    entry::{EntryError, Expiry, NoNumber, Value},
};
use super::{
    Context, Link, LinkError, Provider, Spec, Value as LinkValue,
    jetstream::{self, Placement},
    unknown_operation,
    values::Values,
};
use crate::rpc::call::{Call, CallError};
use lattice_protocol::{
    builtin,
    contracts::{
        PayloadError, decode, encode,
        keyvalue::{
            GetResponse, IncrementRequest, Keys, KeysRequest, ListRangeRequest, ListRequest,
            SERVICE, SetBytesRequest, SetMemberRequest, SetRequest, SwapRequest, Version, private,
        },
        method,
    },
    links::LinkDefinition,
};

pub static SPEC: Spec = Spec {
    known: builtin::KEYVALUE,
    about: "Keeps texts, counters, lists and sets of actors in a JetStream key-value bucket. Actors linked with the same bucket \
            share its keys; increments of any number of hosts all count. Needs a NATS server with JetStream.",
    values: &[
        LinkValue {
            name: "bucket",
            aliases: &[],
            default: "KEYVALUE_{lattice}",
            help: "Bucket with the keys, shared by all actors that name it; created when missing, never changed.",
        },
        jetstream::DOMAIN,
        jetstream::REPLICAS,
        jetstream::STORAGE,
        jetstream::MAX_BYTES,
    ],
    is_ingress: false,
    check,
    build,
};

fn check(link: &LinkDefinition) -> Result<Vec<String>, LinkError> {
    let values = Values::read(&SPEC, link)?;
    if let Some(name) = values.text("bucket") {
        jetstream::check_bucket_name(&name, None)?;
    }
    let placement = Placement::read(&values, None)?;
    let mut odd = values.oddities()?;
    odd.extend(placement.oddities(&values));
    Ok(odd)
}

/// Sets read at a time for one intersection or union.
const SETS_AT_A_TIME: usize = 16;

/// Keys in one answer.
const KEYS_PER_PAGE: usize = 500;

/// Why an operation failed; the text goes to the actor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error(
        "WRONGTYPE Operation against a key holding the wrong kind of value: {key} is a {found}, the operation needs a {needed}"
    )]
    WrongType { key: String, found: &'static str, needed: &'static str },
    #[error(
        "ERR value is not an integer: what {key} holds cannot be incremented; set it to a number or delete it first"
    )]
    NoInteger { key: String },
    #[error(
        "ERR increment would overflow: {key} has 32 bits as a counter; set it to a smaller number first"
    )]
    Overflow { key: String },
    #[error(
        "the value of {key} has {bytes} bytes, the NATS server takes messages of at most {bytes_max} bytes. Keep less under one key, \
         or raise max_payload in the server's configuration"
    )]
    TooLarge { key: String, bytes: usize, bytes_max: usize },
    #[error(
        "the bucket {bucket} did not confirm the write of {key}: it may or may not have happened; read the key to know"
    )]
    Unconfirmed { key: String, bucket: String },
    #[error(
        "the value of {key} in the bucket {bucket} cannot be read: {cause}; was it written by another program?"
    )]
    Unreadable { key: String, bucket: String, cause: EntryError },
    #[error("the bucket {bucket} cannot be used: {cause}")]
    Bucket { bucket: String, cause: String },
}

/// Where a bucket is: domain and name.
type Place = (Option<String>, String);

struct KeyValue {
    context: Context,
    /// The buckets links of this process use. Held for lines, never across an await.
    buckets: Mutex<HashMap<Place, Weak<Bucket>>>,
}

struct KeyValueLink {
    bucket: Arc<Bucket>,
    /// Counts the calls in work, for which the end of the link waits.
    calls: TaskTracker,
}

fn build(context: Context) -> Arc<dyn Provider> {
    Arc::new(KeyValue { context, buckets: Mutex::default() })
}

impl Provider for KeyValue {
    fn link(
        self: Arc<Self>,
        link: Arc<LinkDefinition>,
    ) -> BoxFuture<'static, Result<Arc<dyn Link>, LinkError>> {
        Box::pin(async move {
            let values = Values::read(&SPEC, &link)?;
            self.context.tell_unknown(&values.unknown, &link);
            let default = format!("KEYVALUE_{}", self.context.lattice);
            let name =
                jetstream::bucket_name(values.text("bucket"), default, &self.context.lattice)?;
            let placement = Placement::read(&values, self.context.js_domain.as_deref())?;
            let bucket = self.bucket(name, placement).await?;
            Ok(Arc::new(KeyValueLink { bucket, calls: TaskTracker::new() }) as Arc<dyn Link>)
        })
    }
}

impl KeyValue {
    async fn bucket(&self, name: String, placement: Placement) -> Result<Arc<Bucket>, LinkError> {
        let place = (placement.domain.clone(), name.clone());
        if let Some(bucket) = self.known(&place, None) {
            return Ok(bucket);
        }
        let opened = Bucket::open(&self.context.nats, name, placement).await?;
        // Another link may have opened it meanwhile; then that one serves both.
        Ok(self.known(&place, Some(&opened)).unwrap_or(opened))
    }

    /// The bucket of a place if a link has it open; otherwise `opened` is remembered.
    fn known(&self, place: &Place, opened: Option<&Arc<Bucket>>) -> Option<Arc<Bucket>> {
        let mut buckets = self.buckets.lock();
        buckets.retain(|_, bucket| bucket.strong_count() > 0);
        let known = buckets.get(place).and_then(Weak::upgrade);
        if let (None, Some(opened)) = (&known, opened) {
            buckets.insert(place.clone(), Arc::downgrade(opened));
        }
        known
    }
}

impl Link for KeyValueLink {
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        Box::pin(async move {
            // Also after the end: a call may have taken this link in the moment another one
            // replaced it, and nothing here depends on which of them answers.
            let _call = self.calls.token();
            match tokio::time::timeout_at(call.ends_at(), self.perform(&call)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(CallError::Callee(format!(
                    "{} has no result in time, and may or may not have happened: the bucket {} does not answer, or others write the \
                     same key without a pause",
                    call.operation,
                    self.bucket.name()
                ))),
            }
        })
    }

    fn end(self: Arc<Self>, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.calls.close();
            let _ = tokio::time::timeout_at(deadline, self.calls.wait()).await;
        })
    }
}

impl KeyValueLink {
    async fn perform(&self, call: &Call) -> Result<Bytes, CallError> {
        let payload = &call.payload;
        let outcome = match method(&call.operation, SERVICE) {
            "Increment" => result(self.increment(argument("KeyValue.Increment", payload)).await),
            "Contains" => result(self.contains(argument("KeyValue.Contains", payload)).await),
            "Del" => result(self.del(argument("KeyValue.Del", payload), None).await),
            "Get" => result(self.get(argument("KeyValue.Get", payload)).await),
            "Set" => self.set(argument("KeyValue.Set", payload)).await.map(|()| Bytes::new()),
            "ListAdd" => result(self.list_add(argument("KeyValue.ListAdd", payload)).await),
            "ListClear" => {
                result(self.del(argument("KeyValue.ListClear", payload), Some("list")).await)
            }
            "ListDel" => result(self.list_del(argument("KeyValue.ListDel", payload)).await),
            "ListRange" => result(self.list_range(argument("KeyValue.ListRange", payload)).await),
            "SetAdd" => result(self.set_add(argument("KeyValue.SetAdd", payload)).await),
            "SetDel" => result(self.set_del(argument("KeyValue.SetDel", payload)).await),
            "SetClear" => {
                result(self.del(argument("KeyValue.SetClear", payload), Some("set")).await)
            }
            "SetQuery" => result(self.set_query(argument("KeyValue.SetQuery", payload)).await),
            "SetIntersection" => {
                result(self.intersection(argument("KeyValue.SetIntersection", payload)).await)
            }
            "SetUnion" => result(self.union(argument("KeyValue.SetUnion", payload)).await),
            "GetBytes" => result(self.get_bytes(argument(private::GET_BYTES, payload)).await),
            "SetBytes" => {
                self.set_bytes(argument(private::SET_BYTES, payload)).await.map(|()| Bytes::new())
            }
            "Keys" => result(self.keys(argument(private::KEYS, payload)).await),
            "Swap" => result(self.swap(argument(private::SWAP, payload)).await),
            _ => return Err(unknown_operation(call)),
        };
        outcome.map_err(|error| CallError::Callee(error.to_string()))
    }

    async fn increment(&self, request: Result<IncrementRequest, Error>) -> Result<i32, Error> {
        let IncrementRequest { key, value: by } = request?;
        self.bucket
            .change(&key, |found| {
                let sum = match text(&key, found)? {
                    None => Ok(by),
                    Some(number) => entry::increment(&number, by),
                };
                let sum = sum.map_err(|no_number| match no_number {
                    NoNumber::Text => Error::NoInteger { key: keys::shown(&key) },
                    NoNumber::Overflow => Error::Overflow { key: keys::shown(&key) },
                })?;
                Ok(Change::Put(Value::Text(sum.to_string()), sum))
            })
            .await
    }

    async fn contains(&self, key: Result<String, Error>) -> Result<bool, Error> {
        Ok(self.bucket.get(&key?).await?.is_some())
    }

    /// Removes a key, of any kind or only of one.
    async fn del(
        &self,
        key: Result<String, Error>,
        needed: Option<&'static str>,
    ) -> Result<bool, Error> {
        let key = key?;
        self.bucket
            .change(&key, |found| match (found, needed) {
                (None, _) => Ok(Change::Keep(false)),
                (Some(value), Some(needed)) if value.kind() != needed => {
                    Err(wrong_type(&key, &value, needed))
                }
                (Some(_), _) => Ok(Change::Remove(true)),
            })
            .await
    }

    async fn get(&self, key: Result<String, Error>) -> Result<GetResponse, Error> {
        let key = key?;
        let found = text(&key, self.bucket.get(&key).await?)?;
        Ok(GetResponse { exists: found.is_some(), value: found.unwrap_or_default() })
    }

    async fn set(&self, request: Result<SetRequest, Error>) -> Result<(), Error> {
        let SetRequest { key, value, expires } = request?;
        let lifetime = (expires > 0).then(|| Duration::from_secs(expires.into()));
        let expires = lifetime.map(|lifetime| Expiry::now().after(lifetime));
        self.bucket.set(&key, Value::Text(value), expires).await
    }

    async fn list_add(&self, request: Result<ListRequest, Error>) -> Result<u32, Error> {
        let ListRequest { list_name, value } = request?;
        self.bucket
            .change(&list_name, |found| {
                let mut items = list(&list_name, found)?;
                items.push(value.clone());
                let length = count(items.len());
                Ok(Change::Put(Value::List(items), length))
            })
            .await
    }

    async fn list_del(&self, request: Result<ListRequest, Error>) -> Result<bool, Error> {
        let ListRequest { list_name, value } = request?;
        self.bucket
            .change(&list_name, |found| {
                let mut items = list(&list_name, found)?;
                let Some(at) = items.iter().position(|item| *item == value) else {
                    return Ok(Change::Keep(false));
                };
                items.remove(at);
                Ok(if items.is_empty() {
                    Change::Remove(true)
                } else {
                    Change::Put(Value::List(items), true)
                })
            })
            .await
    }

    async fn list_range(
        &self,
        request: Result<ListRangeRequest, Error>,
    ) -> Result<Vec<String>, Error> {
        let ListRangeRequest { list_name, start, stop } = request?;
        let items = list(&list_name, self.bucket.get(&list_name).await?)?;
        Ok(entry::range(items, start, stop))
    }

    async fn set_add(&self, request: Result<SetMemberRequest, Error>) -> Result<u32, Error> {
        let SetMemberRequest { set_name, value } = request?;
        self.bucket
            .change(&set_name, |found| {
                let mut members = set(&set_name, found)?;
                Ok(if members.insert(value.clone()) {
                    Change::Put(Value::Set(members), 1)
                } else {
                    Change::Keep(0)
                })
            })
            .await
    }

    async fn set_del(&self, request: Result<SetMemberRequest, Error>) -> Result<u32, Error> {
        let SetMemberRequest { set_name, value } = request?;
        self.bucket
            .change(&set_name, |found| {
                let mut members = set(&set_name, found)?;
                Ok(match (members.remove(&value), members.is_empty()) {
                    (false, _) => Change::Keep(0),
                    (true, true) => Change::Remove(1),
                    (true, false) => Change::Put(Value::Set(members), 1),
                })
            })
            .await
    }

    async fn set_query(&self, name: Result<String, Error>) -> Result<BTreeSet<String>, Error> {
        let name = name?;
        set(&name, self.bucket.get(&name).await?)
    }

    async fn intersection(
        &self,
        names: Result<Vec<String>, Error>,
    ) -> Result<BTreeSet<String>, Error> {
        let mut sets = self.sets(names?).await?.into_iter();
        let first = sets.next().unwrap_or_default();
        Ok(sets.fold(first, |common, set| &common & &set))
    }

    async fn union(&self, names: Result<Vec<String>, Error>) -> Result<BTreeSet<String>, Error> {
        Ok(self.sets(names?).await?.into_iter().flatten().collect())
    }

    async fn get_bytes(&self, key: Result<String, Error>) -> Result<Version, Error> {
        let key = key?;
        let (revision, found) = self.bucket.version(&key).await?;
        let value = match found {
            None => None,
            Some(Value::Text(text)) => Some(text.into()),
            Some(Value::Bytes(bytes)) => Some(bytes.into()),
            Some(other) => return Err(wrong_type(&key, &other, "text")),
        };
        Ok(Version { value, revision })
    }

    async fn set_bytes(&self, request: Result<SetBytesRequest, Error>) -> Result<(), Error> {
        let SetBytesRequest { key, value } = request?;
        self.bucket.set(&key, Value::of_bytes(value.0), None).await
    }

    async fn keys(&self, request: Result<KeysRequest, Error>) -> Result<Keys, Error> {
        let KeysRequest { after } = request?;
        let (keys, more) = self.bucket.keys(after.as_deref(), KEYS_PER_PAGE).await?;
        Ok(Keys { keys, more })
    }

    async fn swap(&self, request: Result<SwapRequest, Error>) -> Result<bool, Error> {
        let SwapRequest { key, value, revision } = request?;
        self.bucket.swap(&key, Value::of_bytes(value.0), revision).await
    }

    async fn sets(&self, names: Vec<String>) -> Result<Vec<BTreeSet<String>>, Error> {
        let read = names.into_iter().map(|name| self.set_query(Ok(name)));
        stream::iter(read).buffered(SETS_AT_A_TIME).try_collect().await
    }
}

fn argument<T: DeserializeOwned>(what: &'static str, payload: &[u8]) -> Result<T, Error> {
    Ok(decode(what, payload)?)
}

fn result<T: Serialize>(outcome: Result<T, Error>) -> Result<Bytes, Error> {
    outcome.map(|result| encode(&result))
}

fn text(key: &str, found: Option<Value>) -> Result<Option<String>, Error> {
    match found {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(other) => Err(wrong_type(key, &other, "text")),
    }
}

fn list(key: &str, found: Option<Value>) -> Result<Vec<String>, Error> {
    match found {
        None => Ok(Vec::new()),
        Some(Value::List(items)) => Ok(items),
        Some(other) => Err(wrong_type(key, &other, "list")),
    }
}

fn set(key: &str, found: Option<Value>) -> Result<BTreeSet<String>, Error> {
    match found {
        None => Ok(BTreeSet::new()),
        Some(Value::Set(members)) => Ok(members),
        Some(other) => Err(wrong_type(key, &other, "set")),
    }
}

fn wrong_type(key: &str, found: &Value, needed: &'static str) -> Error {
    Error::WrongType { key: keys::shown(key), found: found.kind(), needed }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
