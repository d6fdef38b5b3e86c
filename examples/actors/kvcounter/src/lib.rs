//! Counts HTTP requests per path: each request adds one to a key of the linked key-value store and
//! answers the new count.

use serde::Serialize;
use wasmbus_rpc::actor::prelude::{
    async_trait, Actor, ActorReceiver, Context, HealthResponder, RpcResult,
};
use wasmcloud_interface_httpserver::{HttpRequest, HttpResponse, HttpServer, HttpServerReceiver};
use wasmcloud_interface_keyvalue::{IncrementRequest, KeyValue, KeyValueSender};

#[derive(Default, Actor, HealthResponder)]
#[services(Actor, HttpServer)]
struct KvCounter;

#[derive(Serialize)]
struct Count {
    counter: i32,
}

#[derive(Serialize)]
struct Failure {
    error: String,
}

#[async_trait]
impl HttpServer for KvCounter {
    async fn handle_request(&self, ctx: &Context, req: &HttpRequest) -> RpcResult<HttpResponse> {
        let increment = IncrementRequest {
            key: counter_key(&req.path),
            value: 1,
        };
        match KeyValueSender::new().increment(ctx, &increment).await {
            Ok(counter) => HttpResponse::json(Count { counter }, 200),
            Err(error) => HttpResponse::json(
                Failure {
                    error: error.to_string(),
                },
                500,
            ),
        }
    }
}

/// Returns the key that counts requests for `path`: `counter:cats:tabby` for `/cats/tabby`, and
/// `counter:default` for `/`.
fn counter_key(path: &str) -> String {
    match path.strip_prefix('/').unwrap_or(path) {
        "" => "counter:default".to_string(),
        rest => format!("counter:{}", rest.replace('/', ":")),
    }
}
