//! Both sides of the messaging contract. Over HTTP it sends:
//!
//! * `POST /publish/SUBJECT` publishes the body and answers 202.
//! * `POST /request/SUBJECT?timeout_ms=500` sends the body as a request and answers the body of the reply.
//!
//! Messages of the subscriptions it is linked with are answered, so that one postbox can ask another: a message that
//! names a subject for replies gets its own body back there, ASCII letters in upper case. Any other message is
//! published again to `SUBJECT.seen`, where a test or a curious person sees that it arrived.

use percent_encoding::percent_decode_str;
use serde::Serialize;
use wasmbus_rpc::actor::prelude::{async_trait, Actor, ActorReceiver, Context, HealthResponder, RpcResult};
use wasmcloud_interface_httpserver::{HttpRequest, HttpResponse, HttpServer, HttpServerReceiver};
use wasmcloud_interface_messaging::{
    MessageSubscriber, MessageSubscriberReceiver, Messaging, MessagingSender, PubMessage, RequestMessage, SubMessage,
};

/// How long a request waits if the caller does not say.
const TIMEOUT_MS: u32 = 1_000;

/// Ends the subjects that messages without a subject for replies are published again to.
const SEEN: &str = ".seen";

#[derive(Default, Actor, HealthResponder)]
#[services(Actor, HttpServer, MessageSubscriber)]
struct Postbox;

#[derive(Serialize)]
struct Published {
    published: String,
}

#[derive(Serialize)]
struct Failure {
    error: String,
}

#[async_trait]
impl HttpServer for Postbox {
    async fn handle_request(&self, ctx: &Context, req: &HttpRequest) -> RpcResult<HttpResponse> {
        let (verb, subject) = req.path.trim_start_matches('/').split_once('/').unwrap_or_default();
        if !matches!(verb, "publish" | "request") || subject.is_empty() {
            return failure(404, "there is /publish/SUBJECT and /request/SUBJECT");
        }
        if req.method != "POST" {
            return failure(405, format!("use POST to {verb}"));
        }
        let Ok(subject) = percent_decode_str(subject).decode_utf8() else {
            return failure(400, "the subject is not UTF-8");
        };
        if verb == "publish" {
            publish(ctx, subject.into_owned(), req.body.clone()).await
        } else {
            request(ctx, subject.into_owned(), req).await
        }
    }
}

async fn publish(ctx: &Context, subject: String, body: Vec<u8>) -> RpcResult<HttpResponse> {
    let message = PubMessage { subject, reply_to: None, body };
    match MessagingSender::new().publish(ctx, &message).await {
        Ok(()) => HttpResponse::json(Published { published: message.subject }, 202),
        Err(error) => failure(502, format!("cannot publish to {}: {error}", message.subject)),
    }
}

async fn request(ctx: &Context, subject: String, req: &HttpRequest) -> RpcResult<HttpResponse> {
    let Some(timeout_ms) = timeout_ms(&req.query_string) else {
        return failure(400, "timeout_ms is a whole number of milliseconds, at least 1");
    };
    let message = RequestMessage { subject, body: req.body.clone(), timeout_ms };
    match MessagingSender::new().request(ctx, &message).await {
        Ok(reply) => Ok(HttpResponse {
            header: [("content-type".to_string(), vec!["application/octet-stream".to_string()])].into(),
            body: reply.body,
            ..Default::default()
        }),
        Err(error) => failure(502, format!("no reply from {}: {error}", message.subject)),
    }
}

/// The `timeout_ms` of a query, or how long we wait without; `None` if it is no such time.
fn timeout_ms(query: &str) -> Option<u32> {
    match form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "timeout_ms") {
        Some((_, text)) => text.parse().ok().filter(|&ms| ms > 0),
        None => Some(TIMEOUT_MS),
    }
}

#[async_trait]
impl MessageSubscriber for Postbox {
    async fn handle_message(&self, ctx: &Context, message: &SubMessage) -> RpcResult<()> {
        // Some senders write "" for none.
        let reply_to = message.reply_to.as_deref().filter(|subject| !subject.is_empty());
        let answer = match reply_to {
            Some(reply_to) => {
                PubMessage { subject: reply_to.to_string(), reply_to: None, body: message.body.to_ascii_uppercase() }
            }
            // A subscription like `orders.>` brings our own notes back. Noting those too would never end.
            None if message.subject.ends_with(SEEN) => return Ok(()),
            None => {
                PubMessage { subject: format!("{}{SEEN}", message.subject), reply_to: None, body: message.body.clone() }
            }
        };
        MessagingSender::new().publish(ctx, &answer).await
    }
}

fn failure(status: u16, error: impl Into<String>) -> RpcResult<HttpResponse> {
    HttpResponse::json(Failure { error: error.into() }, status)
}
