//! `wasmcloud:messaging@0.3.0` (components, section 2.10).

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::channel::oneshot;
use wasmtime::{
    AsContextMut, Store, StoreContextMut,
    component::{
        self, Accessor, ComponentExportIndex, ComponentType, Lift, Linker, Lower, Source,
        StreamConsumer, StreamReader, StreamResult, TypedFunc,
    },
};

use super::{Caller, Guest, Holding, caller};
use crate::rpc::call::CallError;
use lattice_protocol::contracts::messaging::{Message, RequestMessage, words};

pub(super) const CONSUMER: &str = "wasmcloud:messaging/consumer@0.3.0";
pub(super) const TYPES: &str = "wasmcloud:messaging/types@0.3.0";
pub(super) const HANDLER: &str = "wasmcloud:messaging/handler@0.3.0";

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct BrokerMessage {
    subject: String,
    body: StreamReader<u8>,
    #[component(name = "reply-to")]
    reply_to: Option<String>,
}

impl BrokerMessage {
    fn new(store: impl AsContextMut<Data = Guest>, message: Message) -> wasmtime::Result<Self> {
        let Message { subject, body, reply_to } = message;
        Ok(Self { subject, body: StreamReader::new(store, body.0)?, reply_to })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "subject-invalid")]
    SubjectInvalid,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "timeout")]
    Timeout,
    #[component(name = "broker-unavailable")]
    BrokerUnavailable,
    #[component(name = "message-too-large")]
    MessageTooLarge,
    #[component(name = "quota-exceeded")]
    QuotaExceeded,
    #[component(name = "other")]
    Other(String),
}

/// The reason why a handler does not take a message.
#[derive(Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum HandleError {
    #[component(name = "reject")]
    Reject,
    #[component(name = "retry")]
    Retry,
    #[component(name = "other")]
    Other(String),
}

impl HandleError {
    /// The contract has only texts, and nothing delivers a message again.
    fn told(self) -> String {
        match self {
            Self::Reject => "the component rejected the message".into(),
            Self::Retry => "the component wants the message again later, which nobody sends".into(),
            Self::Other(text) => text,
        }
    }
}

/// A call's error as the interface has it (components, section 2.2).
fn error_of(error: &CallError) -> Error {
    match error {
        error if error.is_forbidden() => Error::AccessDenied,
        CallError::NoResponders { .. } => Error::BrokerUnavailable,
        CallError::TimedOut { .. } | CallError::Deadline { .. } => Error::Timeout,
        CallError::NotAdmitted { .. } => Error::QuotaExceeded,
        CallError::TooLarge { .. } => Error::MessageTooLarge,
        CallError::Callee(text) => of_provider(text),
        error => Error::Other(error.to_string()),
    }
}

/// The error of a provider, whose kind the built-in one tells by its words.
fn of_provider(text: &str) -> Error {
    let of_subject = text.starts_with("subject ");
    match text {
        _ if of_subject && text.contains(words::RESERVED) => Error::AccessDenied,
        _ if of_subject && text.contains(words::INVALID) => Error::SubjectInvalid,
        _ if text.starts_with(words::NO_RESPONDERS) => Error::BrokerUnavailable,
        _ if text.starts_with(words::NO_REPLY) => Error::Timeout,
        _ if text.ends_with(words::TOO_LARGE) => Error::MessageTooLarge,
        text => Error::Other(text.to_owned()),
    }
}

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance(TYPES)?;
    let mut consumer = linker.instance(CONSUMER)?;
    consumer.func_wrap_concurrent(
        "publish",
        |accessor: &Accessor<Guest>, (message,): (BrokerMessage,)| {
            Box::pin(async move {
                let BrokerMessage { subject, body, reply_to } = message;
                let (caller, Whole { body, _held }) = match whole(accessor, body).await? {
                    Ok(read) => read,
                    Err(error) => return Ok((Err(error),)),
                };
                let message = Message { subject, reply_to, body: body.into() };
                let published = super::publish(&caller, &message).await?;
                Ok((published.map_err(|error| error_of(&error)),))
            })
        },
    )?;
    consumer.func_wrap_concurrent(
        "request",
        |accessor: &Accessor<Guest>,
         (subject, body, timeout_ms): (String, StreamReader<u8>, Option<u32>)| {
            Box::pin(async move {
                let (caller, Whole { body, _held }) = match whole(accessor, body).await? {
                    Ok(read) => read,
                    Err(error) => return Ok((Err(error),)),
                };
                let timeout_ms = timeout_ms.unwrap_or(0);
                let message = RequestMessage { subject, body: body.into(), timeout_ms };
                let answer = match super::request(&caller, &message).await? {
                    Ok(answer) => answer,
                    Err(error) => return Ok((Err(error_of(&error)),)),
                };
                accessor.with(|access| Ok((Ok(BrokerMessage::new(access, answer)?),)))
            })
        },
    )
}

/// A body that was read to its end.
struct Whole {
    body: Vec<u8>,
    _held: Holding,
}

/// Reads a body to its end.
async fn whole(
    accessor: &Accessor<Guest>,
    body: StreamReader<u8>,
) -> wasmtime::Result<Result<(Caller, Whole), Error>> {
    let (sender, read) = oneshot::channel();
    let caller = accessor.with(|mut access| {
        let caller = caller(&mut access)?;
        let held = Some(caller.hold());
        let collector = Collector { read: Vec::new(), held, sender: Some(sender) };
        body.pipe(access, collector).map(|()| caller)
    })?;
    let body = read.await.ok().flatten();
    Ok(body.map(|whole| (caller, whole)).ok_or(Error::MessageTooLarge))
}

/// Takes a stream of bytes into memory, and hands it over when the stream ends.
struct Collector {
    read: Vec<u8>,
    held: Option<Holding>,
    /// Gets `None` when the stream is too long.
    sender: Option<oneshot::Sender<Option<Whole>>>,
}

impl StreamConsumer<Guest> for Collector {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        store: StoreContextMut<'_, Guest>,
        source: Source<'_, u8>,
        _: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let mut source = source.as_direct(store);
        let more = source.remaining();
        let bytes = more.len();
        if !self.held.as_mut().is_some_and(|held| held.grow(bytes)) {
            let _ = self.sender.take().map(|sender| sender.send(None));
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        self.read.extend_from_slice(more);
        source.mark_read(bytes);
        Poll::Ready(Ok(StreamResult::Completed))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let body = std::mem::take(&mut self.read);
        let whole = self.held.take().map(|_held| Whole { body, _held });
        let _ = self.sender.take().map(|sender| sender.send(whole));
    }
}

type Handle = TypedFunc<(BrokerMessage,), (Result<(), HandleError>,)>;

/// Hands a message to an instance whose export this is.
pub(super) async fn handle(
    export: ComponentExportIndex,
    store: &mut Store<Guest>,
    instance: &component::Instance,
    message: Message,
) -> wasmtime::Result<Result<(), String>> {
    let handle: Handle = instance.get_typed_func(&mut *store, export)?;
    let message = BrokerMessage::new(&mut *store, message)?;
    let (handled,) = store
        .run_concurrent(async |accessor| handle.call_concurrent(accessor, (message,)).await)
        .await??;
    Ok(handled.map_err(HandleError::told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_the_lattice_has_a_name() {
        let told = |text: &str| CallError::Callee(text.to_owned());
        let text = String::new;
        for (error, expected) in [
            (CallError::NoCapability { contract: text(), actor_id: text() }, Error::AccessDenied),
            (CallError::Denied { request_id: text(), message: None }, Error::AccessDenied),
            (
                CallError::NoResponders { subject: text(), lattice: text(), target: text() },
                Error::BrokerUnavailable,
            ),
            (
                CallError::TimedOut { subject: text(), lattice: text(), waited_ms: 1 },
                Error::Timeout,
            ),
            (CallError::Deadline { actor_id: text(), limit_ms: 1 }, Error::Timeout),
            (CallError::NotAdmitted { actor_id: text(), reason: text() }, Error::QuotaExceeded),
            (CallError::TooLarge { cause: text(), bytes_max: 1 }, Error::MessageTooLarge),
            (CallError::TooDeep, Error::Other(CallError::TooDeep.to_string())),
            (told("why"), Error::Other("why".into())),
            (told("subject \"a b\" is invalid: it has blanks"), Error::SubjectInvalid),
            (
                told("subject \"$JS.x\" belongs to the lattice or the NATS server, and so on"),
                Error::AccessDenied,
            ),
            (told("nobody listens on a, so there is no reply"), Error::BrokerUnavailable),
            (told("no reply on a within 5 ms (and so on)"), Error::Timeout),
            (
                told("the message to a has 9 bytes, and the NATS server takes 8 (its max_payload)"),
                Error::MessageTooLarge,
            ),
        ] {
            assert_eq!(error_of(&error), expected, "{error}");
        }
    }
}
