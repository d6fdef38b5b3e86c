//! Fetches a URL with the linked HTTP client and answers what came: `GET /?url=http%3A%2F%2Fexample.com%2F`.
//!
//! Method, body, `accept` and `content-type` of the request go along. Of the answer come back the status, the content
//! type and the body. A caller of this actor can reach everything that the HTTP client reaches.

use serde::Serialize;
use wasmbus_rpc::actor::prelude::{async_trait, Actor, ActorReceiver, Context, HealthResponder, RpcResult};
use wasmcloud_interface_httpclient::{self as httpclient, HttpClient, HttpClientSender};
use wasmcloud_interface_httpserver::{HeaderMap, HttpRequest, HttpResponse, HttpServer, HttpServerReceiver};

/// The request headers that go along. The others are between the caller and this actor: `host`, credentials, lengths.
const FORWARDED: [&str; 2] = ["accept", "content-type"];

#[derive(Default, Actor, HealthResponder)]
#[services(Actor, HttpServer)]
struct Fetcher;

#[derive(Serialize)]
struct Failure {
    error: String,
}

#[async_trait]
impl HttpServer for Fetcher {
    async fn handle_request(&self, ctx: &Context, req: &HttpRequest) -> RpcResult<HttpResponse> {
        let Some(url) = url(&req.query_string) else {
            return failure(400, "name the URL to fetch in the query, percent-encoded: /?url=http%3A%2F%2F...");
        };
        let outgoing = httpclient::HttpRequest {
            method: req.method.clone(),
            url,
            headers: only(&req.header, &FORWARDED),
            body: req.body.clone(),
        };
        match HttpClientSender::new().request(ctx, &outgoing).await {
            Ok(came) => Ok(HttpResponse {
                status_code: came.status_code,
                header: only(&came.header, &["content-type"]),
                body: came.body,
            }),
            Err(error) => failure(502, format!("cannot fetch {}: {error}", outgoing.url)),
        }
    }
}

/// The decoded `url` of a query, if it has one that is not empty.
fn url(query: &str) -> Option<String> {
    let (_, url) = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "url")?;
    (!url.is_empty()).then(|| url.into_owned())
}

/// The named headers, whatever the case of their names. The two contracts use the same map.
fn only(header: &HeaderMap, names: &[&str]) -> HeaderMap {
    header
        .iter()
        .map(|(name, values)| (name.to_ascii_lowercase(), values.clone()))
        .filter(|(name, _)| names.contains(&name.as_str()))
        .collect()
}

fn failure(status: u16, error: impl Into<String>) -> RpcResult<HttpResponse> {
    HttpResponse::json(Failure { error: error.into() }, status)
}
