//! Named configuration of actors and providers: bucket `CONFIGDATA_{lattice}` (lattice protocol, section 3.17).
//!
//! The bucket is opened when it is first asked for, and created when something is first written.

use std::{collections::BTreeMap, sync::Arc};

use async_nats::jetstream::{ErrorCode, context::GetStreamErrorKind, kv};
use bytes::Bytes;
use futures::{FutureExt, TryStreamExt};
use serde_json::json;

use super::{
    server::{Answer, Server, json as encode, now},
    types::Ack,
};
use crate::{
    events::Event,
    lattice::connection::Nats,
    store::jetstream::{self, Bucket},
};

/// Reads and writes the bucket. Cheap to clone.
#[derive(Clone)]
pub struct NamedConfig {
    nats: Nats,
    domain: Option<String>,
    bucket: String,
    replicas: usize,
}

/// Why named configuration is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("named configuration: {0}")]
    Open(String),
    #[error("named configuration of {entity}: {cause}")]
    Access { entity: String, cause: String },
}

impl NamedConfig {
    pub fn new(nats: Nats, domain: Option<String>, lattice: &str, replicas: usize) -> Self {
        Self { nats, domain, bucket: format!("CONFIGDATA_{lattice}"), replicas }
    }

    async fn put(&self, entity: &str, key: &str, value: Bytes) -> Result<(), ConfigError> {
        let store = match self.open().await? {
            Some(store) => store,
            None => {
                Bucket::open(&self.nats, self.domain.as_deref(), &self.bucket, self.replicas)
                    .await
                    .map_err(|e| ConfigError::Open(e.to_string()))?;
                self.open().await?.ok_or_else(|| ConfigError::Open("the bucket vanished".into()))?
            }
        };
        store.put(format!("{entity}_{key}"), value).await.map(drop).map_err(|e| access(entity, &e))
    }

    /// Deletes one key, or all of an entity; returns which.
    async fn delete(&self, entity: &str, key: Option<String>) -> Result<Vec<String>, ConfigError> {
        let Some(store) = self.open().await? else { return Ok(Vec::new()) };
        let doomed = match key {
            Some(key) => vec![key],
            None => self.entries_of(&store, entity).await?.into_keys().collect(),
        };
        for key in &doomed {
            store.purge(format!("{entity}_{key}")).await.map_err(|e| access(entity, &e))?;
        }
        Ok(doomed)
    }

    async fn one(&self, entity: &str, key: &str) -> Result<Option<Bytes>, ConfigError> {
        let Some(store) = self.open().await? else { return Ok(None) };
        store.get(format!("{entity}_{key}")).await.map_err(|e| access(entity, &e))
    }

    async fn all(&self, entity: &str) -> Result<BTreeMap<String, Bytes>, ConfigError> {
        match self.open().await? {
            Some(store) => self.entries_of(&store, entity).await,
            None => Ok(BTreeMap::new()),
        }
    }

    async fn entries_of(&self, store: &kv::Store, entity: &str) -> Result<BTreeMap<String, Bytes>, ConfigError> {
        let keys: Vec<String> =
            store.keys().await.map_err(|e| access(entity, &e))?.try_collect().await.map_err(|e| access(entity, &e))?;
        let mut found = BTreeMap::new();
        for stored in keys {
            let Some(key) = stored.strip_prefix(entity).and_then(|rest| rest.strip_prefix('_')) else { continue };
            if let Some(value) = store.get(&stored).await.map_err(|e| access(entity, &e))? {
                found.insert(key.to_owned(), value);
            }
        }
        Ok(found)
    }

    /// The bucket, or `None` if nothing was ever written.
    async fn open(&self) -> Result<Option<kv::Store>, ConfigError> {
        let context = jetstream::context(&self.nats.client, self.domain.as_deref());
        match context.get_stream(format!("KV_{}", self.bucket)).await {
            Ok(_) => context.get_key_value(&self.bucket).await.map(Some).map_err(|e| ConfigError::Open(e.to_string())),
            Err(e) => match e.kind() {
                GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
                _ => Err(ConfigError::Open(e.to_string())),
            },
        }
    }
}

fn access(entity: &str, error: &dyn std::error::Error) -> ConfigError {
    ConfigError::Access { entity: entity.to_owned(), cause: error.to_string() }
}

/// Entities are actors and providers, by their public keys.
fn is_entity(entity: &str) -> bool {
    entity.len() == 56 && (entity.starts_with('M') || entity.starts_with('V'))
}

impl Server {
    pub(super) fn put_config(self: &Arc<Self>, entity: String, key: String, value: Bytes) -> Answer {
        if !is_entity(&entity) {
            return now(&Ack::rejected(format!("{entity} is no public key of an actor (M…) or provider (V…)")));
        }
        let server = Arc::clone(self);
        async move {
            let stored = server.parts.named_config.put(&entity, &key, value).await;
            let ack = Ack::from(stored);
            if ack.accepted {
                server.parts.events.publish(Event::ConfigSet { entity_id: entity, key });
            }
            encode(&ack)
        }
        .boxed()
    }

    pub(super) fn delete_config(self: &Arc<Self>, entity: String, key: Option<String>) -> Answer {
        let server = Arc::clone(self);
        async move {
            match server.parts.named_config.delete(&entity, key).await {
                Ok(deleted) => {
                    server.parts.events.publish_all(
                        deleted.into_iter().map(|key| Event::ConfigDeleted { entity_id: entity.clone(), key }),
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
                    let all: BTreeMap<_, _> = all.into_iter().map(|(key, value)| (key, value.to_vec())).collect();
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
