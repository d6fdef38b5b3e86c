//! Answers each HTTP request with a picture of a dog or of a cat.
//!
//! The number generator decides which, unless the request does: `/dog`, `/cat`, `/?animal=dog`. A JSON API is asked for
//! the address of a picture, the picture is fetched, and returned with its content type and, in `content-location`, its
//! address. A failure on the way is a 502 with a line that names the API and the reason.

mod animal;

use std::fmt::Display;

use wasmbus_rpc::actor::prelude::{async_trait, Actor, ActorReceiver, Context, HealthResponder, RpcResult};
use wasmcloud_interface_httpclient::{HttpClient, HttpClientSender, HttpRequest as Outgoing, HttpResponse as Incoming};
use wasmcloud_interface_httpserver::{HeaderMap, HttpRequest, HttpResponse, HttpServer, HttpServerReceiver};
use wasmcloud_interface_numbergen::random_in_range;

use animal::{Animal, Unknown};

/// A picture passes this actor as a whole, more than once, in the memory that a host allows it.
const PICTURE_MAX: usize = 16 << 20;

#[derive(Default, Actor, HealthResponder)]
#[services(Actor, HttpServer)]
struct DogsAndCats;

#[async_trait]
impl HttpServer for DogsAndCats {
    async fn handle_request(&self, ctx: &Context, req: &HttpRequest) -> RpcResult<HttpResponse> {
        let animal = match animal::chosen(&req.path, &req.query_string) {
            Ok(Some(animal)) => animal,
            Ok(None) => drawn().await?,
            Err(Unknown(what)) => {
                return Ok(text(400, format!("there are no pictures of {what:?}, ask for dog or cat")))
            }
        };
        match picture(ctx, animal).await {
            Ok(response) => Ok(response),
            Err(reason) => Ok(text(502, format!("no picture of a {}: {reason}", animal.name()))),
        }
    }
}

async fn drawn() -> RpcResult<Animal> {
    Ok(if random_in_range(0, 1).await? == 0 { Animal::Dog } else { Animal::Cat })
}

/// The response with a picture, or why there is none.
async fn picture(ctx: &Context, animal: Animal) -> Result<HttpResponse, String> {
    let api = animal.api();
    let answer = get(ctx, api, "application/json").await.map_err(|reason| format!("the API {api} {reason}"))?;
    let url = animal.picture_url(&answer.body).map_err(|reason| format!("the API {api} {reason}"))?;
    let picture = get(ctx, &url, "image/*").await.map_err(|reason| format!("the picture {url} {reason}"))?;
    let content_type = header(&picture.header, "content-type").unwrap_or("application/octet-stream");
    if !content_type.starts_with("image/") {
        return Err(format!("the picture {url} is {content_type}, and no image"));
    }
    if picture.body.len() > PICTURE_MAX {
        return Err(format!("the picture {url} has {} bytes, and {PICTURE_MAX} are allowed", picture.body.len()));
    }
    let headers = [("content-type", content_type), ("content-location", &url), ("cache-control", "no-store")];
    Ok(HttpResponse { status_code: 200, header: header_map(&headers), body: picture.body })
}

/// Fetches a URL; an error continues a sentence that began with what was fetched.
async fn get(ctx: &Context, url: &str, accept: &str) -> Result<Incoming, String> {
    let mut request = Outgoing::get(url);
    request.headers = header_map(&[("accept", accept)]);
    let response = HttpClientSender::new().request(ctx, &request).await;
    let response = response.map_err(|error| format!("cannot be reached: {error}"))?;
    match response.status_code {
        200 => Ok(response),
        other => Err(format!("answers with status {other}")),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let (_, values) = headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    values.first().map(String::as_str)
}

fn header_map(headers: &[(&str, &str)]) -> HeaderMap {
    headers.iter().map(|(name, value)| (name.to_string(), vec![value.to_string()])).collect()
}

/// A line for people.
fn text(status_code: u16, line: impl Display) -> HttpResponse {
    let header = header_map(&[("content-type", "text/plain; charset=utf-8"), ("cache-control", "no-store")]);
    HttpResponse { status_code, header, body: format!("{line}\n").into_bytes() }
}
