//! Answers every HTTP request with a number that it asks of another actor, found by the call alias
//! `lattice/ponger`.

use std::borrow::Cow;

use serde::Serialize;
use wasmbus_rpc::actor::prelude::{
    async_trait, Actor, ActorReceiver, Context, HealthResponder, Message, RpcResult, Transport,
    WasmHost,
};
use wasmbus_rpc::common::deserialize;
use wasmcloud_interface_httpserver::{HttpRequest, HttpResponse, HttpServer, HttpServerReceiver};

const PONGER: &str = "lattice/ponger";

#[derive(Default, Actor, HealthResponder)]
#[services(Actor, HttpServer)]
struct Pinger;

#[derive(Serialize)]
struct Pong {
    value: u32,
}

#[async_trait]
impl HttpServer for Pinger {
    async fn handle_request(&self, ctx: &Context, _req: &HttpRequest) -> RpcResult<HttpResponse> {
        let ping = Message {
            method: "Pingpong.Ping",
            arg: Cow::Borrowed(&[]),
        };
        let reply = WasmHost::to_actor(PONGER)?.send(ctx, ping, None).await?;
        let value = deserialize(&reply)?;
        HttpResponse::json(Pong { value }, 200)
    }
}
