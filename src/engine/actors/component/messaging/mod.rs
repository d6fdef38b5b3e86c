//! `wasmcloud:messaging`: a component publishes, asks and is handed messages.
//!
//! There are two versions with the same meaning: [`second`] has whole bodies and errors that are
//! texts, [`third`] has bodies that are streams, asynchronous functions and errors with names.
//! Bodies that are streams are read to their end before anything is sent, as the contract has them
//! in one piece.

mod second;
mod third;

use bytes::Bytes;
use wasmtime::component::{ComponentExportIndex, InstancePre, Linker};

use super::{
    Failure, Guest, Instance, Output,
    caller::{Caller, Holding, caller},
};
use crate::rpc::call::CallError;
use lattice_protocol::contracts::{
    self,
    messaging::{CONTRACT_ID, HANDLE_MESSAGE, Message, RequestMessage},
};

/// The exports that take messages, as messages name them.
pub const HANDLER: &str = "wasmcloud:messaging/handler";
/// The interfaces that can be imported, which a test of the linker holds to the table of them.
#[cfg(test)]
pub(super) const NAMES: [&str; 4] =
    [second::CONSUMER, second::TYPES, third::CONSUMER, third::TYPES];

const PUBLISH: &str = "Messaging.Publish";
const REQUEST: &str = "Messaging.Request";
const PLACE: (&str, &str) = (CONTRACT_ID, "");

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    second::add_to_linker(linker)?;
    third::add_to_linker(linker)
}

async fn publish(caller: &Caller, message: &Message) -> wasmtime::Result<Result<(), CallError>> {
    let sent = caller.send(PLACE, PUBLISH, contracts::encode(message), None).await?;
    Ok(sent.map(drop))
}

async fn request(
    caller: &Caller,
    message: &RequestMessage,
) -> wasmtime::Result<Result<Message, CallError>> {
    caller.call(PLACE, REQUEST, message).await
}

/// Finds the function of an export.
fn export(pre: &InstancePre<Guest>, interface: &str) -> Option<ComponentExportIndex> {
    let component = pre.component();
    let interface = component.get_export_index(None, interface)?;
    component.get_export_index(Some(&interface), "handle-message")
}

/// The export of a component that takes messages.
pub(super) enum Handler {
    Second(ComponentExportIndex),
    Third(ComponentExportIndex),
}

impl Handler {
    /// Finds it, the later one first.
    pub(super) fn of(pre: &InstancePre<Guest>) -> Option<Self> {
        let later = export(pre, third::HANDLER).map(Self::Third);
        later.or_else(|| export(pre, second::HANDLER).map(Self::Second))
    }

    /// Hands a message over in a fresh instance.
    pub(super) async fn handle(
        &self,
        pre: &InstancePre<Guest>,
        instance: Instance,
        payload: &[u8],
    ) -> Result<Bytes, Failure> {
        let message: Message = contracts::decode(HANDLE_MESSAGE, payload)
            .map_err(|error| Failure::Told(error.to_string()))?;
        let mut store = instance.store(pre, Output::Log);
        let instance = pre.instantiate_async(&mut store).await?;
        let handled = match self {
            Self::Second(export) => second::handle(*export, &mut store, &instance, message).await?,
            Self::Third(export) => third::handle(*export, &mut store, &instance, message).await?,
        };
        handled.map(|()| Bytes::new()).map_err(Failure::Told)
    }
}
