//! A web page that counts its visitors: answers HTTP requests, keeps the count in a key-value store.

use exports::wasi::http::incoming_handler::Guest;
use wasi::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasi::keyvalue::atomics::increment;
use wasi::keyvalue::store::{self, Error};
use wasi::logging::logging::{Level, log};

wit_bindgen::generate!({ path: "../wit", world: "visitors", generate_all });

struct Visitors;
export!(Visitors);

impl Guest for Visitors {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        // A browser also asks for an icon: it is no visitor.
        if request.path_with_query().as_deref() != Some("/") {
            return answer(out, 404, "No such page.\n");
        }
        match count() {
            Ok(n) => {
                log(Level::Info, "", &format!("visitor {n}"));
                answer(
                    out,
                    200,
                    &format!("<!doctype html><title>Visitors</title>You are visitor {n}.\n"),
                );
            }
            Err(error) => answer(out, 502, &format!("The visitors cannot be counted: {error}\n")),
        }
    }
}

/// Adds one visitor and returns how many there were.
fn count() -> Result<u64, Error> {
    increment(&store::open("default")?, "visitors", 1)
}

fn answer(out: ResponseOutparam, status: u16, text: &str) {
    let headers = Fields::new();
    headers
        .set("content-type", &[b"text/html; charset=utf-8".into()])
        .expect("a header that guests may set");
    let response = OutgoingResponse::new(headers);
    response.set_status_code(status).expect("a status that HTTP knows");
    let body = response.body().expect("the body is asked for once");
    ResponseOutparam::set(out, Ok(response));
    // The client may have gone by now; then nobody reads the rest.
    let stream = body.write().expect("the stream is asked for once");
    let _ = stream.blocking_write_and_flush(text.as_bytes());
    drop(stream);
    let _ = OutgoingBody::finish(body, None);
}
