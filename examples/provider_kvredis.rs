//! A capability provider of 2022 and 2023: key-value store on Redis, written with `wasmbus-rpc`.
//!
//! It is a program of its own that a host runs; without the line a host writes to its standard
//! input it ends with an error. See `examples/providers/README.md` for how to pack, sign and start
//! it.
//!
//! Contract `wasmcloud:keyvalue`. Link values, their names in any case:
//!
//! | name | default | meaning |
//! |---|---|---|
//! | `URL` | `redis://127.0.0.1:6379/` | the Redis database of the linked actor; passwords as `redis://:password@host/` |

use std::{collections::HashMap, sync::Arc, time::Duration};

use redis::{FromRedisValue, aio::MultiplexedConnection};
use tokio::sync::{Mutex, RwLock};
use wasmbus_rpc::{core::LinkDefinition, provider::prelude::*};
use wasmcloud_interface_keyvalue::{
    GetResponse, IncrementRequest, KeyValue, KeyValueReceiver, ListAddRequest, ListDelRequest,
    ListRangeRequest, SetAddRequest, SetDelRequest, SetRequest, StringList,
};

const DEFAULT_URL: &str = "redis://127.0.0.1:6379/";
/// Hosts give a call two seconds; an error after one tells the actor more than silence.
const REDIS_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    provider_main(KvRedis::default(), Some("Redis key-value store".to_owned()))
}

/// One connection per linked actor.
#[derive(Clone, Default, Provider)]
#[services(KeyValue)]
struct KvRedis {
    links: Arc<RwLock<HashMap<String, Arc<Link>>>>,
}

struct Link {
    client: redis::Client,
    /// `None` until the first call, and after an error.
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl ProviderDispatch for KvRedis {}

#[async_trait]
impl ProviderHandler for KvRedis {
    async fn put_link(&self, link: &LinkDefinition) -> RpcResult<bool> {
        let url = link.values.iter().find(|(name, _)| name.eq_ignore_ascii_case("url"));
        let url = url.map_or(DEFAULT_URL, |(_, url)| url.as_str());
        // The error names no part of the URL, which may hold a password.
        let client = redis::Client::open(url).map_err(|error| {
            RpcError::ProviderInit(format!("link value URL is not a Redis URL: {error}"))
        })?;
        let link_to_redis = Arc::new(Link { client, connection: Mutex::new(None) });
        self.links.write().await.insert(link.actor_id.clone(), link_to_redis);
        Ok(true)
    }

    async fn delete_link(&self, actor_id: &str) {
        self.links.write().await.remove(actor_id);
    }
}

impl KvRedis {
    async fn run<T: FromRedisValue>(&self, ctx: &Context, command: &redis::Cmd) -> RpcResult<T> {
        let actor = ctx
            .actor
            .as_deref()
            .ok_or_else(|| RpcError::InvalidParameter("no actor in the call".into()))?;
        let link = self.links.read().await.get(actor).cloned();
        let link =
            link.ok_or_else(|| RpcError::InvalidParameter(format!("actor {actor} is not linked")))?;
        link.run(command).await.map_err(|error| RpcError::Other(format!("redis: {error}")))
    }
}

impl Link {
    /// Runs a command. After an error of the connection the next call makes a new one; nothing is
    /// sent twice.
    async fn run<T: FromRedisValue>(&self, command: &redis::Cmd) -> redis::RedisResult<T> {
        let mut connection = self.connection().await?;
        let result = command.query_async(&mut connection).await;
        if result.as_ref().is_err_and(|error: &redis::RedisError| {
            error.is_unrecoverable_error() || error.is_timeout()
        }) {
            *self.connection.lock().await = None;
        }
        result
    }

    async fn connection(&self) -> redis::RedisResult<MultiplexedConnection> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok(connection.clone());
        }
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(REDIS_TIMEOUT)
            .set_response_timeout(REDIS_TIMEOUT);
        let new = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(connection.insert(new).clone())
    }
}

/// A command with its arguments.
fn cmd(name: &str, arguments: &[&str]) -> redis::Cmd {
    let mut command = redis::cmd(name);
    command.arg(arguments);
    command
}

#[async_trait]
impl KeyValue for KvRedis {
    async fn increment(&self, ctx: &Context, arg: &IncrementRequest) -> RpcResult<i32> {
        self.run(ctx, redis::cmd("INCRBY").arg(&arg.key).arg(arg.value)).await
    }

    async fn contains<T: ToString + ?Sized + Sync>(
        &self,
        ctx: &Context,
        key: &T,
    ) -> RpcResult<bool> {
        self.run(ctx, &cmd("EXISTS", &[&key.to_string()])).await
    }

    async fn del<T: ToString + ?Sized + Sync>(&self, ctx: &Context, key: &T) -> RpcResult<bool> {
        self.run(ctx, &cmd("DEL", &[&key.to_string()])).await
    }

    async fn get<T: ToString + ?Sized + Sync>(
        &self,
        ctx: &Context,
        key: &T,
    ) -> RpcResult<GetResponse> {
        let value: Option<String> = self.run(ctx, &cmd("GET", &[&key.to_string()])).await?;
        Ok(GetResponse { exists: value.is_some(), value: value.unwrap_or_default() })
    }

    async fn list_add(&self, ctx: &Context, arg: &ListAddRequest) -> RpcResult<u32> {
        self.run(ctx, &cmd("RPUSH", &[&arg.list_name, &arg.value])).await
    }

    async fn list_clear<T: ToString + ?Sized + Sync>(
        &self,
        ctx: &Context,
        list: &T,
    ) -> RpcResult<bool> {
        self.run(ctx, &cmd("DEL", &[&list.to_string()])).await
    }

    async fn list_del(&self, ctx: &Context, arg: &ListDelRequest) -> RpcResult<bool> {
        let removed: u32 = self.run(ctx, &cmd("LREM", &[&arg.list_name, "0", &arg.value])).await?;
        Ok(removed > 0)
    }

    async fn list_range(&self, ctx: &Context, arg: &ListRangeRequest) -> RpcResult<StringList> {
        self.run(ctx, redis::cmd("LRANGE").arg(&arg.list_name).arg(arg.start).arg(arg.stop)).await
    }

    async fn set(&self, ctx: &Context, arg: &SetRequest) -> RpcResult<()> {
        let mut command = cmd("SET", &[&arg.key, &arg.value]);
        if arg.expires > 0 {
            command.arg("EX").arg(arg.expires);
        }
        self.run(ctx, &command).await
    }

    async fn set_add(&self, ctx: &Context, arg: &SetAddRequest) -> RpcResult<u32> {
        self.run(ctx, &cmd("SADD", &[&arg.set_name, &arg.value])).await
    }

    async fn set_del(&self, ctx: &Context, arg: &SetDelRequest) -> RpcResult<u32> {
        self.run(ctx, &cmd("SREM", &[&arg.set_name, &arg.value])).await
    }

    async fn set_intersection(&self, ctx: &Context, sets: &StringList) -> RpcResult<StringList> {
        self.run(ctx, redis::cmd("SINTER").arg(sets)).await
    }

    async fn set_query<T: ToString + ?Sized + Sync>(
        &self,
        ctx: &Context,
        set: &T,
    ) -> RpcResult<StringList> {
        self.run(ctx, &cmd("SMEMBERS", &[&set.to_string()])).await
    }

    async fn set_union(&self, ctx: &Context, sets: &StringList) -> RpcResult<StringList> {
        self.run(ctx, redis::cmd("SUNION").arg(sets)).await
    }

    async fn set_clear<T: ToString + ?Sized + Sync>(
        &self,
        ctx: &Context,
        set: &T,
    ) -> RpcResult<bool> {
        self.run(ctx, &cmd("DEL", &[&set.to_string()])).await
    }
}
