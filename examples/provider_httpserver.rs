//! A capability provider of early 2024: a web server, written with `wasmcloud-provider-sdk`.
//!
//! It is a program of its own that a host runs; see `examples/providers/README.md` for how to pack,
//! sign and start it.
//!
//! Contract `wasmcloud:httpserver`: every request to the `address` in the values of a link becomes
//! a call of `HttpServer.HandleRequest` of the linked actor.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use tokio::{net::TcpListener, task::AbortHandle};
use wasmcloud_interface_httpserver::{HttpRequest, HttpResponse};
use wasmcloud_provider_sdk::{
    Context, MessageDispatch, Provider, ProviderHandler,
    core::{LinkDefinition, WasmCloudEntity},
    deserialize,
    error::{InvocationError, ProviderInvocationError},
    provider_main::get_connection,
    serialize, start_provider,
};

/// Bytes of a request's body that are read.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    start_provider(HttpServer::default(), Some("Web server".to_owned()))?;
    Ok(())
}

/// The servers of the linked actors.
#[derive(Clone, Default)]
struct HttpServer(Arc<Mutex<HashMap<String, AbortHandle>>>);

impl Provider for HttpServer {}

impl HttpServer {
    fn stop(&self, actor: &str, next: Option<AbortHandle>) {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match next {
            Some(next) => servers.insert(actor.to_owned(), next),
            None => servers.remove(actor),
        };
        if let Some(before) = before {
            before.abort();
        }
    }
}

#[async_trait]
impl ProviderHandler for HttpServer {
    async fn put_link(&self, link: &LinkDefinition) -> bool {
        self.stop(&link.actor_id, None);
        let Some((_, address)) = link.values.iter().find(|(name, _)| name == "address") else {
            eprintln!("the link of {} has no value `address`", link.actor_id);
            return false;
        };
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => {
                eprintln!("cannot listen on {address}: {error}");
                return false;
            }
        };
        let pages = Router::new().fallback(page).with_state(Arc::new(link.clone()));
        let server = tokio::spawn(async move { axum::serve(listener, pages).await });
        self.stop(&link.actor_id, Some(server.abort_handle()));
        true
    }

    async fn delete_link(&self, actor_id: &str) {
        self.stop(actor_id, None);
    }
}

#[async_trait]
impl MessageDispatch for HttpServer {
    async fn dispatch<'a>(
        &'a self,
        _: Context,
        method: String,
        _: Cow<'a, [u8]>,
    ) -> Result<Vec<u8>, ProviderInvocationError> {
        Err(InvocationError::Malformed(format!("{method}: actors ask nothing of a web server"))
            .into())
    }
}

/// Has the actor of a link answer a request.
async fn page(State(link): State<Arc<LinkDefinition>>, request: Request) -> Response {
    match answer(&link, request).await {
        Ok(answer) => {
            let status = StatusCode::from_u16(answer.status_code);
            let mut response =
                (status.unwrap_or(StatusCode::BAD_GATEWAY), answer.body).into_response();
            response.headers_mut().clear();
            for (name, values) in answer.header {
                let Ok(name) = name.parse::<axum::http::HeaderName>() else { continue };
                for value in values.iter().filter_map(|value| value.parse().ok()) {
                    response.headers_mut().append(&name, value);
                }
            }
            response
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

async fn answer(
    link: &LinkDefinition,
    request: Request,
) -> Result<HttpResponse, Box<dyn std::error::Error + Send + Sync>> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await?;
    let mut header: HashMap<String, Vec<String>> = HashMap::new();
    for (name, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        header.entry(name.to_string()).or_default().push(value);
    }
    let request = HttpRequest {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query_string: parts.uri.query().unwrap_or_default().to_owned(),
        header,
        body: body.to_vec(),
    };
    let origin = WasmCloudEntity {
        public_key: link.provider_id.clone(),
        link_name: link.link_name.clone(),
        contract_id: link.contract_id.clone(),
    };
    let target = WasmCloudEntity { public_key: link.actor_id.clone(), ..Default::default() };
    let rpc = get_connection().get_rpc_client();
    let payload = serialize(&request)?;
    let response = rpc.send(origin, target, "HttpServer.HandleRequest", payload).await?;
    match response.error {
        Some(error) => Err(error.into()),
        None => Ok(deserialize(&response.msg)?),
    }
}
