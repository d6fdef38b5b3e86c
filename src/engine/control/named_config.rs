//! Named configuration of actors and providers: bucket `CONFIGDATA_{lattice}` (lattice protocol,
//! section 3.17).
//!
//! The bucket is opened when it is first asked for, and created when something is first written. It
//! is looked up before each write, so that nothing is sent into a domain that does not answer: that
//! would be held on the way, and stored when the client has long been told that it was not.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use anyhow::bail;
use async_nats::jetstream::{ErrorCode, context::GetStreamErrorKind, kv};
use bytes::Bytes;
use futures::{FutureExt, TryStreamExt};
use serde_json::json;

use super::server::{Answer, Server, json as encode, now};
use lattice_base::{
    lattice::connection::Nats,
    store::{
        domain_name,
        jetstream::{self, Bucket, making::Making},
        unreachable,
    },
};
use lattice_protocol::{control::types::Ack, events::Event};

/// How long looking the bucket up may take, and how long reading or writing it after that. Together
/// they end before hosts that are late speak up, see [`lattice_base::store::WRITE_TIMEOUT`].
const OPEN_TIMEOUT: Duration = Duration::from_millis(700);
const ACCESS_TIMEOUT: Duration = Duration::from_millis(800);
/// Entries of all actors and providers together. A deleted entry leaves a mark in the bucket, which
/// counts as well until it is written over.
const ENTRIES_MAX: u64 = 16 * 1024;
/// Bytes of the name of an entry, and of its value.
const KEY_BYTES_MAX: usize = 128;
const VALUE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the values of one actor or provider that are told in one answer; JSON makes up to four
/// of each.
const TOLD_BYTES_MAX: usize = 256 * 1024;

/// Reads and writes the bucket. Cheap to clone.
#[derive(Clone)]
pub struct NamedConfig {
    nats: Nats,
    domain: Option<String>,
    bucket: String,
    making: Making,
}

/// The action if there is no bucket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Leave,
}

/// Why named configuration is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("named configuration: {0}")]
    Open(String),
    #[error("named configuration of {entity}: {cause}")]
    Access { entity: String, cause: String },
    #[error("named configuration: {what} has {found} bytes, it may have {max}; nothing was stored")]
    TooLong { what: &'static str, found: usize, max: usize },
    #[error(
        "named configuration: the bucket {0} has {ENTRIES_MAX} entries, deleted ones included, and takes no new names; nothing \
         was stored. `nats kv compact {0}` removes what is left of deleted ones"
    )]
    Full(String),
    /// In the middle of reading or writing.
    #[error(
        "named configuration of {entity}: no answer from {place} within {} ms, so the outcome is unknown; read it to find out",
        ACCESS_TIMEOUT.as_millis()
    )]
    TimedOut { entity: String, place: String },
}

impl NamedConfig {
    pub fn new(nats: Nats, domain: Option<String>, lattice: &str, making: Making) -> Self {
        Self {
            nats,
            domain,
            bucket: format!("{}{lattice}", lattice_protocol::store::keys::CONFIG_BUCKET),
            making,
        }
    }

    async fn put(&self, entity: &str, key: &str, value: Bytes) -> Result<(), ConfigError> {
        check_sizes(key, &value)?;
        let store = self.open(Missing::Create).await.map_err(not_stored)?;
        let store = store
            .ok_or_else(|| ConfigError::Open("the bucket vanished, nothing was stored".into()))?;
        // The state that the server reported when the bucket was looked up just now.
        let is_full = store.stream.cached_info().state.messages >= ENTRIES_MAX;
        if is_full && self.in_time(entity, store.entry(format!("{entity}_{key}"))).await?.is_none()
        {
            return Err(ConfigError::Full(self.bucket.clone()));
        }
        self.in_time(entity, store.put(format!("{entity}_{key}"), value)).await.map(drop)
    }

    /// Deletes one key, or all of an entity; returns which.
    async fn delete(&self, entity: &str, key: Option<String>) -> Result<Vec<String>, ConfigError> {
        let Some(store) = self.open(Missing::Leave).await.map_err(not_stored)? else {
            return Ok(Vec::new());
        };
        let deletion = async {
            let doomed = match key {
                // A deletion leaves a mark, so nothing is deleted that was never there.
                Some(key) => {
                    store.get(format!("{entity}_{key}")).await?.map(|_| key).into_iter().collect()
                }
                None => keys_of(&store, entity).await?,
            };
            for key in &doomed {
                store.purge(format!("{entity}_{key}")).await?;
            }
            anyhow::Ok(doomed)
        };
        self.in_time(entity, deletion).await
    }

    async fn one(&self, entity: &str, key: &str) -> Result<Option<Bytes>, ConfigError> {
        let Some(store) = self.open(Missing::Leave).await? else { return Ok(None) };
        self.in_time(entity, store.get(format!("{entity}_{key}"))).await
    }

    /// Returns all values of an actor or provider.
    pub async fn all(&self, entity: &str) -> Result<BTreeMap<String, Bytes>, ConfigError> {
        match self.open(Missing::Leave).await? {
            Some(store) => self.in_time(entity, entries_of(&store, entity)).await,
            None => Ok(BTreeMap::new()),
        }
    }

    /// The bucket, or `None` if nothing was ever written and it is not to be created.
    async fn open(&self, missing: Missing) -> Result<Option<kv::Store>, ConfigError> {
        let opened = tokio::time::timeout(OPEN_TIMEOUT, self.find(missing)).await;
        opened.unwrap_or_else(|_| {
            Err(self.unreachable(&format!("no answer within {} ms", OPEN_TIMEOUT.as_millis())))
        })
    }

    async fn find(&self, missing: Missing) -> Result<Option<kv::Store>, ConfigError> {
        let domain = self.domain.as_deref();
        let context = jetstream::context(&self.nats.client, domain);
        match context.get_stream(format!("KV_{}", self.bucket)).await {
            Ok(_) => {}
            Err(e) => match e.kind() {
                GetStreamErrorKind::JetStream(e)
                    if e.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    if missing == Missing::Leave {
                        return Ok(None);
                    }
                    let opened = Bucket::open(&self.nats, domain, &self.bucket, self.making).await;
                    opened.map_err(|e| ConfigError::Open(e.to_string()))?;
                }
                GetStreamErrorKind::JetStream(e) => return Err(ConfigError::Open(e.to_string())),
                _ => return Err(self.unreachable("no server answers for it")),
            },
        }
        context
            .get_key_value(&self.bucket)
            .await
            .map(Some)
            .map_err(|e| ConfigError::Open(e.to_string()))
    }

    fn unreachable(&self, cause: &str) -> ConfigError {
        ConfigError::Open(unreachable(self.domain.as_deref(), cause))
    }

    async fn in_time<T, E: fmt::Display>(
        &self,
        entity: &str,
        access: impl Future<Output = Result<T, E>>,
    ) -> Result<T, ConfigError> {
        let entity = entity.to_owned();
        match tokio::time::timeout(ACCESS_TIMEOUT, access).await {
            Ok(done) => done.map_err(|e| ConfigError::Access { entity, cause: e.to_string() }),
            Err(_) => {
                Err(ConfigError::TimedOut { entity, place: domain_name(self.domain.as_deref()) })
            }
        }
    }
}

fn check_sizes(key: &str, value: &[u8]) -> Result<(), ConfigError> {
    for (what, found, max) in [
        ("the name of the entry", key.len(), KEY_BYTES_MAX),
        ("the value", value.len(), VALUE_BYTES_MAX),
    ] {
        if found > max {
            return Err(ConfigError::TooLong { what, found, max });
        }
    }
    Ok(())
}

/// The names of the entries of an actor or provider.
async fn keys_of(store: &kv::Store, entity: &str) -> anyhow::Result<Vec<String>> {
    let all: Vec<String> = store.keys().await?.try_collect().await?;
    Ok(all
        .iter()
        .filter_map(|stored| Some(stored.strip_prefix(entity)?.strip_prefix('_')?.to_owned()))
        .collect())
}

async fn entries_of(store: &kv::Store, entity: &str) -> anyhow::Result<BTreeMap<String, Bytes>> {
    let mut found = BTreeMap::new();
    let mut bytes = 0;
    for key in keys_of(store, entity).await? {
        if let Some(value) = store.get(format!("{entity}_{key}")).await? {
            bytes += value.len();
            if bytes > TOLD_BYTES_MAX {
                bail!(
                    "its values have more than {TOLD_BYTES_MAX} bytes; ask for one of them at a time"
                );
            }
            found.insert(key, value);
        }
    }
    Ok(found)
}

/// Adds to an error from before a write that there was none.
fn not_stored(error: ConfigError) -> ConfigError {
    match error {
        ConfigError::Open(cause) => ConfigError::Open(format!("{cause}; nothing was stored")),
        other => other,
    }
}

/// Entities are actors and providers, by their public keys.
fn is_entity(entity: &str) -> bool {
    // The checksum is not asked for: the hosts of 2024 did not, and clients configure what does not
    // run yet.
    entity.len() == 56
        && (entity.starts_with('M') || entity.starts_with('V'))
        && entity.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

impl Server {
    pub(super) fn put_config(
        self: &Arc<Self>,
        entity: String,
        key: String,
        value: Bytes,
    ) -> Answer {
        if !is_entity(&entity) {
            return now(&Ack::rejected(format!(
                "{entity} is no public key of an actor (M…) or provider (V…)"
            )));
        }
        let server = Arc::clone(self);
        async move {
            let stored = server.parts.named_config.put(&entity, &key, value).await;
            let ack = Ack::from(stored);
            if ack.accepted {
                server.parts.context.events.publish(Event::ConfigSet { entity_id: entity, key });
            }
            encode(&ack)
        }
        .boxed()
    }

    pub(super) fn delete_config(self: &Arc<Self>, entity: String, key: Option<String>) -> Answer {
        if !is_entity(&entity) {
            return now(&Ack::rejected(format!(
                "{entity} is no public key of an actor (M…) or provider (V…)"
            )));
        }
        let server = Arc::clone(self);
        async move {
            match server.parts.named_config.delete(&entity, key).await {
                Ok(deleted) => {
                    server.parts.context.events.publish_all(
                        deleted
                            .into_iter()
                            .map(|key| Event::ConfigDeleted { entity_id: entity.clone(), key }),
                    );
                    encode(&Ack::accepted())
                }
                Err(error) => encode(&Ack::rejected(error)),
            }
        }
        .boxed()
    }

    /// Values are JSON arrays of byte numbers, as the clients of these subjects read them.
    pub(super) fn get_config(self: &Arc<Self>, entity: String, key: Option<String>) -> Answer {
        let server = Arc::clone(self);
        async move {
            let config = &server.parts.named_config;
            let reply = match key {
                Some(key) => config.one(&entity, &key).await.map(|value| {
                    let data = value.as_ref().map(|value| value.to_vec()).unwrap_or_default();
                    json!({"found": value.is_some(), "data": data})
                }),
                None => config.all(&entity).await.map(|all| {
                    let all: BTreeMap<_, _> =
                        all.into_iter().map(|(key, value)| (key, value.to_vec())).collect();
                    json!(all)
                }),
            };
            match reply {
                Ok(reply) => encode(&reply),
                Err(error) => encode(&Ack::rejected(error)),
            }
        }
        .boxed()
    }
}
