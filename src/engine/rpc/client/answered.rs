//! Answers to calls, as they are read from messages.

use std::{sync::Arc, time::Duration};

use async_nats::Message;
use bytes::Bytes;

use crate::{
    peers::sessions::Session,
    rpc::{call::CallError, limits::told_transfers, pieces::Form},
};
use lattice_protocol::{
    peers::session::Bytes32,
    rpc::{codec, invocation::Invocation},
};

/// The beginning of an error that nothing proves, in bytes.
const UNPROVEN_BYTES_MAX: usize = 200;

/// The outcome of sending a call.
pub(super) enum Sent {
    Answered(Answered),
    /// The callee has done nothing, since it does not know this session.
    NotDone(Arc<Session>),
}

/// An answer, of which the result may have to be fetched.
pub(super) struct Answered {
    pub(super) msg: Bytes,
    /// The callee's report of its failure.
    pub(super) error: Option<String>,
    pub(super) content_length: u64,
    /// How long the callee's transfers took, if it says so.
    pub(super) transfers: Option<Duration>,
    /// How its body comes, if it is an HTTP response.
    pub(super) form: Option<Form>,
    /// The hash of a result that has to be fetched, if the callee proved it.
    pub(super) hash: Option<Bytes32>,
}

/// Reads an answer that was proven, if it had to be.
pub(super) fn read(
    reply: Message,
    subject: &str,
    invocation: &Invocation,
    hash: Option<Bytes32>,
) -> Result<Answered, CallError> {
    let response = codec::decode_response(reply.payload)
        .map_err(|e| CallError::Transport(format!("undecodable reply on {subject}: {e}")))?;
    let error = response.error.filter(|error| !error.is_empty());
    if error.is_none()
        && !response.invocation_id.is_empty()
        && response.invocation_id != invocation.id
    {
        return Err(CallError::Transport(format!(
            "the reply on {subject} belongs to another invocation"
        )));
    }
    let transfers = told_transfers(&response.trace_context);
    let form = Form::read(&response.trace_context);
    let (msg, content_length) = (response.msg, response.content_length);
    Ok(Answered { msg, error, content_length, transfers, form, hash })
}

/// Adds the error in an answer that nothing proves to the reason why it is none.
pub(super) fn with_error(why: &str, answer: Bytes) -> String {
    match codec::decode_response(answer).ok().and_then(|said| said.error) {
        Some(said) => {
            let end = said.floor_char_boundary(UNPROVEN_BYTES_MAX);
            format!("{why}; it says: {}", &said[..end])
        }
        None => why.to_owned(),
    }
}
