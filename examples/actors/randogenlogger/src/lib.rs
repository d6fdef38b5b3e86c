//! Uses every operation of the two capabilities built into the host, logging and number generation,
//! on each HTTP request, and answers what was drawn.

use serde::Serialize;
use wasmbus_rpc::actor::prelude::{
    async_trait, Actor, ActorReceiver, Context, HealthResponder, RpcResult,
};
use wasmcloud_interface_httpserver::{HttpRequest, HttpResponse, HttpServer, HttpServerReceiver};
use wasmcloud_interface_logging::log;
use wasmcloud_interface_numbergen::{generate_guid, random_32, random_in_range};

const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];

#[derive(Default, Actor, HealthResponder)]
#[services(Actor, HttpServer)]
struct RandoGenLogger;

#[derive(Serialize)]
struct Drawn {
    guid: String,
    /// Between 1 and 6, both included.
    in_range: u32,
    random_32: u32,
}

#[async_trait]
impl HttpServer for RandoGenLogger {
    async fn handle_request(&self, _ctx: &Context, req: &HttpRequest) -> RpcResult<HttpResponse> {
        for level in LEVELS {
            log(
                level,
                format!("{} {} at level {level}", req.method, req.path),
            )
            .await?;
        }
        let drawn = Drawn {
            guid: generate_guid().await?,
            in_range: random_in_range(1, 6).await?,
            random_32: random_32().await?,
        };
        HttpResponse::json(drawn, 200)
    }
}
