//! Answers `Pingpong.Ping` from another actor with a fixed number. It needs no capability: callers
//! find it by its call alias.

use wasmbus_rpc::actor::prelude::{
    async_trait, Actor, ActorReceiver, Context, HealthResponder, Message, RpcError, RpcResult,
};
use wasmbus_rpc::common::serialize;

const PONG: u32 = 53;

#[derive(Default, Actor, HealthResponder)]
#[services(Actor, Pingpong)]
struct Ponger;

/// The service `Pingpong`, under the name by which the derive macro looks for it.
#[async_trait]
trait PingpongReceiver: Sync {
    async fn dispatch(&self, _ctx: &Context, message: Message<'_>) -> RpcResult<Vec<u8>> {
        match message.method {
            "Ping" => serialize(&PONG),
            other => Err(RpcError::MethodNotHandled(format!("Pingpong.{other}"))),
        }
    }
}
