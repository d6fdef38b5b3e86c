//! Answers every request with a constant, as cheaply as a component can.

use wasi::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
wasi::http::proxy::export!(Hello);
struct Hello;
impl wasi::exports::http::incoming_handler::Guest for Hello {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        let headers = Fields::new();
        headers.set(&"content-length".to_string(), &[b"13".to_vec()]).unwrap();
        let response = OutgoingResponse::new(headers);
        let body = response.body().unwrap();
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().unwrap();
        stream.blocking_write_and_flush(b"hello, world\n").unwrap();
        drop(stream);
        OutgoingBody::finish(body, None).unwrap();
    }
}
