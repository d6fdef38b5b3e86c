//! `wasmcloud:builtin:logging`: an actor writes to the host's log.

use bytes::Bytes;
use serde::Deserialize;

use super::{bad_argument, not_handled};
use crate::{
    actors::sink::{Level, Sink},
    rpc::call::CallError,
};

#[derive(Deserialize)]
struct LogEntry {
    level: String,
    text: String,
}

pub(super) fn call(sink: &Sink, operation: &str, payload: &[u8]) -> Result<Bytes, CallError> {
    if operation != "Logging.WriteLog" {
        return Err(not_handled(operation));
    }
    let entry: LogEntry =
        rmp_serde::from_slice(payload).map_err(|e| bad_argument(operation, &e))?;
    sink.log(Level::parse(&entry.level), &entry.text);
    Ok(Bytes::new())
}
