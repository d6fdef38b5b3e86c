//! Keeps files in the linked blob store and serves them over HTTP:
//!
//! * `PUT /CONTAINER/OBJECT` stores the body, and makes the container if there is none.
//! * `GET /CONTAINER/OBJECT` answers the object.
//! * `DELETE /CONTAINER/OBJECT` removes it, `DELETE /CONTAINER` removes the container.
//! * `GET /CONTAINER` lists the objects.
//!
//! Objects go up in chunks and come down in ranges, one call each. The contract's other way down, where the blob store
//! calls [`ChunkReceiver`] with what did not fit its answer, does not suit an actor that answers within one call: each
//! of those chunks would reach a fresh instance that knows nothing of the HTTP request waiting in another. So this
//! actor asks only for ranges that fit, and declines a chunk that comes all the same.

mod store;

use percent_encoding::percent_decode_str;
use serde::Serialize;
use wasmbus_rpc::actor::prelude::{async_trait, Actor, ActorReceiver, Context, HealthResponder, RpcResult};
use wasmcloud_interface_blobstore::{Chunk, ChunkReceiver, ChunkReceiverReceiver, ChunkResponse, ContainerObject};
use wasmcloud_interface_httpserver::{HttpRequest, HttpResponse, HttpServer, HttpServerReceiver};
use wasmcloud_interface_logging::log;

use store::Store;

/// The largest object it takes and serves. An instance holds it twice over while it is stored or served, and a host
/// gives an instance 128 MiB unless told otherwise.
const OBJECT_MAX_BYTES: usize = 32 << 20;

#[derive(Default, Actor, HealthResponder)]
#[services(Actor, HttpServer, ChunkReceiver)]
struct Pantry;

#[derive(Serialize)]
struct Objects {
    container: String,
    objects: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    object: String,
    size: u64,
}

#[derive(Serialize)]
struct Stored {
    container: String,
    object: String,
    size: usize,
}

#[derive(Serialize)]
struct Problem {
    error: String,
}

/// Why a request was not served: the status and the text of the answer.
struct Failure(u16, String);

impl Failure {
    /// Returns the failure of an operation of the blob store.
    fn of(operation: &str, error: &str) -> Self {
        Self(502, format!("{operation}: {error}"))
    }
}

#[async_trait]
impl HttpServer for Pantry {
    async fn handle_request(&self, ctx: &Context, req: &HttpRequest) -> RpcResult<HttpResponse> {
        match serve(&Store::new(ctx), req).await {
            Ok(response) => Ok(response),
            Err(Failure(status, error)) => HttpResponse::json(Problem { error }, status),
        }
    }
}

#[async_trait]
impl ChunkReceiver for Pantry {
    async fn receive_chunk(&self, _ctx: &Context, chunk: &Chunk) -> RpcResult<ChunkResponse> {
        let Chunk { container_id, object_id, offset, .. } = chunk;
        let line =
            format!("declined a chunk of {container_id}/{object_id} at offset {offset}: no request waits for it");
        // Declining matters more than the log line about it.
        let _ = log("warn", line).await;
        Ok(ChunkResponse { cancel_download: true })
    }
}

async fn serve(store: &Store<'_>, req: &HttpRequest) -> Result<HttpResponse, Failure> {
    let (container, object) = address(&req.path)?;
    match (req.method.as_str(), object) {
        ("GET", None) => {
            let objects = store.list(&container).await?;
            let objects = objects.into_iter().map(|o| Listed { object: o.object_id, size: o.content_length }).collect();
            json(Objects { container, objects }, 200)
        }
        ("GET", Some(object_id)) => {
            let (content_type, body) = store.get(&ContainerObject { container_id: container, object_id }).await?;
            let header = [("content-type".to_string(), vec![content_type])].into();
            Ok(HttpResponse { status_code: 200, header, body })
        }
        ("PUT", Some(object_id)) => {
            let size = req.body.len();
            if size > OBJECT_MAX_BYTES {
                return Err(Failure(413, format!("the body has {size} bytes; at most {OBJECT_MAX_BYTES} are taken")));
            }
            let target = ContainerObject { container_id: container, object_id };
            store.put(&target, content_type(req), &req.body).await?;
            json(Stored { container: target.container_id, object: target.object_id, size }, 201)
        }
        ("DELETE", Some(object_id)) => {
            store.remove(&ContainerObject { container_id: container, object_id }).await?;
            Ok(HttpResponse { status_code: 204, ..Default::default() })
        }
        ("DELETE", None) => {
            store.remove_container(&container).await?;
            Ok(HttpResponse { status_code: 204, ..Default::default() })
        }
        (method, ..) => Err(Failure(405, format!("{method} is not for {}", req.path))),
    }
}

/// The container of a path, and the object if it names one: all that follows the container, slashes included.
fn address(path: &str) -> Result<(String, Option<String>), Failure> {
    let decoded = |text: &str| match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Failure(400, format!("{text} is not UTF-8 once its percent signs are decoded"))),
    };
    let path = path.strip_prefix('/').unwrap_or(path);
    let (container, object) = path.split_once('/').unwrap_or((path, ""));
    match (decoded(container)?, decoded(object)?) {
        (container, _) if container.is_empty() => {
            Err(Failure(404, "the path names no container: /CONTAINER or /CONTAINER/OBJECT".to_string()))
        }
        (container, object) => Ok((container, Some(object).filter(|object| !object.is_empty()))),
    }
}

fn content_type(req: &HttpRequest) -> Option<String> {
    let (_, values) = req.header.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"))?;
    values.first().cloned()
}

fn json(content: impl Serialize, status: u16) -> Result<HttpResponse, Failure> {
    HttpResponse::json(content, status).map_err(|error| Failure(500, error.to_string()))
}
