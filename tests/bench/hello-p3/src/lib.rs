//! Answers every request with a constant, as cheaply as a component of WASI 0.3 can.

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};
wasip3::http::service::export!(Hello);
struct Hello;
impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let headers = Fields::new();
        headers.set("content-length", &[b"13".to_vec()]).unwrap();
        let (mut body, contents) = wit_stream::new();
        // Dropping the other end says that there are no trailers.
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _) = Response::new(headers, Some(contents), trailers);
        wit_bindgen::spawn_local(async move {
            body.write_all(b"hello, world\n".to_vec()).await;
        });
        Ok(response)
    }
}
