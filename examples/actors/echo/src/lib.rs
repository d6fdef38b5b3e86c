//! Answers every HTTP request with a JSON description of that request: what an actor is given.

use serde::Serialize;
use wasmbus_rpc::actor::prelude::{
    async_trait, Actor, ActorReceiver, Context, HealthResponder, RpcResult,
};
use wasmcloud_interface_httpserver::{HttpRequest, HttpResponse, HttpServer, HttpServerReceiver};

#[derive(Default, Actor, HealthResponder)]
#[services(Actor, HttpServer)]
struct Echo;

/// The request as the actor saw it; the body is an array of byte numbers.
#[derive(Serialize)]
struct Echoed<'a> {
    method: &'a str,
    path: &'a str,
    query_string: &'a str,
    body: &'a [u8],
}

#[async_trait]
impl HttpServer for Echo {
    async fn handle_request(&self, _ctx: &Context, req: &HttpRequest) -> RpcResult<HttpResponse> {
        let echoed = Echoed {
            method: &req.method,
            path: &req.path,
            query_string: &req.query_string,
            body: &req.body,
        };
        HttpResponse::json(echoed, 200)
    }
}
