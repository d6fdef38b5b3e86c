//! The headers of a call beside its proof.

use async_nats::HeaderMap;

use crate::rpc::limits::Limits;
use lattice_protocol::{peers::wire, rpc::invocation::TraceContext};

/// The trace of a call as headers: older hosts read them there, providers in the invocation. The
/// limits of a call go with it, and whether its answer may come in pieces.
pub(super) fn headers(
    trace: &TraceContext,
    limits: Option<Limits>,
    takes_pieces: bool,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if takes_pieces {
        headers.insert(wire::PIECES, "1");
    }
    if let Some(limits) = limits {
        limits.write(&mut headers);
    }
    for (key, value) in trace.iter() {
        if is_header_safe(key) && is_header_safe(value) && !is_reserved(key) {
            headers.insert(key, value);
        }
    }
    headers
}

/// Tells whether a key means something to NATS or to hosts; such a key is no trace.
fn is_reserved(key: &str) -> bool {
    ["nats-", "lattice-"]
        .iter()
        .any(|prefix| key.get(..prefix.len()).is_some_and(|k| k.eq_ignore_ascii_case(prefix)))
}

/// A trace context may come from a guest; it must not break the protocol's lines.
fn is_header_safe(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}
