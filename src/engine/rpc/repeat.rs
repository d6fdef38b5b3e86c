//! Which calls may be made twice: those whose effect is the same then.
//!
//! A host may vanish with a call, and nobody can know whether it was carried out. Calls that are
//! safe to repeat are made again elsewhere: reads of the standard contracts; HTTP requests whose
//! method is idempotent by RFC 9110, section 9.2.2, those an actor is to answer as well as those it
//! makes; calls that the author of an actor marked in its claims; and those that the operator
//! marked.

use serde::Deserialize;

use super::call::Call;
use lattice_protocol::contracts::{self, httpserver};

/// A tag in an actor's claims that marks one of its operations: `repeatable:Pets.List`, or all of
/// them: `repeatable:*`.
pub const TAG: &str = "repeatable:";

/// Operations of the standard contracts that only read.
const READS: [&str; 12] = [
    "KeyValue.Contains",
    "KeyValue.Get",
    "KeyValue.ListRange",
    "KeyValue.SetIntersection",
    "KeyValue.SetQuery",
    "KeyValue.SetUnion",
    "Blobstore.ContainerExists",
    "Blobstore.GetContainerInfo",
    "Blobstore.GetObjectInfo",
    "Blobstore.ListContainers",
    "Blobstore.ListObjects",
    "Blobstore.ObjectExists",
];

const HTTP_CLIENT_REQUEST: &str = "HttpClient.Request";

/// The first field of both contracts' requests, and all that is needed.
#[derive(Deserialize)]
struct Request {
    method: String,
}

/// Whether calls of an operation may be made twice, and what says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The operator marked it.
    Marked,
    /// It only reads.
    Reads,
    /// The author of the actor marked it.
    Tagged,
    /// HTTP requests whose method is idempotent may, others not.
    ByMethod,
    /// Nothing says that they may.
    Never,
}

impl Repeat {
    /// `marked` are operations from the settings, `tags` those of the target's claims.
    pub fn of(operation: &str, marked: &[String], tags: &[String]) -> Self {
        let matches = |mark: &str| mark == operation || mark == "*";
        if marked.iter().any(|mark| matches(mark)) {
            Self::Marked
        } else if READS.contains(&operation) {
            Self::Reads
        } else if tags.iter().filter_map(|tag| tag.strip_prefix(TAG)).any(matches) {
            Self::Tagged
        } else if operation == httpserver::HANDLE_REQUEST || operation == HTTP_CLIENT_REQUEST {
            Self::ByMethod
        } else {
            Self::Never
        }
    }
}

/// Says whether a call may be made twice. May read the payload, so it is asked only when it
/// matters.
pub fn is_repeatable(call: &Call, marked: &[String], tags: &[String]) -> bool {
    match Repeat::of(&call.operation, marked, tags) {
        Repeat::Marked | Repeat::Reads | Repeat::Tagged => true,
        Repeat::ByMethod => contracts::decode::<Request>("a request", &call.payload)
            .is_ok_and(|request| is_idempotent(&request.method)),
        Repeat::Never => false,
    }
}

fn is_idempotent(method: &str) -> bool {
    ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"]
        .iter()
        .any(|idempotent| method.eq_ignore_ascii_case(idempotent))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::HeaderMap;
    use tokio::time::Instant;

    use super::*;
    use lattice_protocol::{contracts::httpclient, rpc::invocation::Entity};

    fn call(operation: &str, payload: Bytes) -> Call {
        let ends = (Entity::new("V", "default", "c"), Entity::new("M", "", ""));
        Call::new(ends, operation, payload, Instant::now())
    }

    fn request(method: &str) -> Bytes {
        httpserver::RequestHead { method, path: "/", query: "", header: &HeaderMap::new() }
            .encode(b"body")
    }

    #[test]
    fn idempotent_requests_and_reads_may_be_repeated() {
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
            assert!(
                is_repeatable(&call("HttpServer.HandleRequest", request(method)), &[], &[]),
                "{method}"
            );
        }
        let outgoing = httpclient::HttpRequest {
            method: "get".into(),
            url: "http://example.org".into(),
            headers: Default::default(),
            body: Default::default(),
        };
        assert!(is_repeatable(&call("HttpClient.Request", contracts::encode(&outgoing)), &[], &[]));
        assert!(is_repeatable(&call("KeyValue.Get", Bytes::new()), &[], &[]));
    }

    #[test]
    fn what_may_have_an_effect_is_not_repeated() {
        for method in ["POST", "PATCH", "CONNECT", ""] {
            assert!(
                !is_repeatable(&call("HttpServer.HandleRequest", request(method)), &[], &[]),
                "{method}"
            );
        }
        assert!(!is_repeatable(
            &call("HttpServer.HandleRequest", Bytes::from_static(b"\xff")),
            &[],
            &[]
        ));
        assert!(!is_repeatable(&call("KeyValue.Increment", Bytes::new()), &[], &[]));
    }

    #[test]
    fn operations_are_marked_by_authors_and_operators() {
        let list = call("Pets.List", Bytes::new());
        assert!(!is_repeatable(
            &list,
            &["Pets.Add".into()],
            &["repeatable:Pets.Add".into(), "Pets.List".into()]
        ));
        assert!(is_repeatable(&list, &["Pets.List".into()], &[]));
        assert!(is_repeatable(&list, &[], &["repeatable:Pets.List".into()]));
        assert!(is_repeatable(&list, &[], &["repeatable:*".into()]));
    }
}
