//! The capabilities that every host offers without a provider or a link:
//! `wasmcloud:builtin:logging` and `wasmcloud:builtin:numbergen` (wasmbus protocol, sections 5.3
//! and 5.6). An actor still needs the capability in its claims.

mod logging;
mod numbergen;

use bytes::Bytes;

use super::sink::Sink;
use crate::{router::Builtin, rpc::call::CallError};

/// Performs an operation of a built-in capability for the actor behind `sink`.
pub fn call(
    builtin: Builtin,
    sink: &Sink,
    operation: &str,
    payload: &[u8],
) -> Result<Bytes, CallError> {
    match builtin {
        Builtin::Logging => logging::call(sink, operation, payload),
        Builtin::Numbergen => numbergen::call(operation, payload),
    }
}

fn not_handled(operation: &str) -> CallError {
    CallError::Callee(format!("method not handled {operation}"))
}

fn bad_argument(operation: &str, error: &rmp_serde::decode::Error) -> CallError {
    CallError::Callee(format!("deserialization: argument of {operation}: {error}"))
}
