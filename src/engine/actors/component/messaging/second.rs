//! `wasmcloud:messaging@0.2.0`.

use wasmtime::{
    Store, StoreContextMut,
    component::{self, ComponentExportIndex, ComponentType, Lift, Linker, Lower, TypedFunc},
};

use super::{Guest, caller};
use lattice_protocol::contracts::messaging::{Message, RequestMessage};

pub(super) const CONSUMER: &str = "wasmcloud:messaging/consumer@0.2.0";
pub(super) const TYPES: &str = "wasmcloud:messaging/types@0.2.0";
pub(super) const HANDLER: &str = "wasmcloud:messaging/handler@0.2.0";

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(record)]
struct BrokerMessage {
    subject: String,
    body: Vec<u8>,
    #[component(name = "reply-to")]
    reply_to: Option<String>,
}

impl From<Message> for BrokerMessage {
    fn from(message: Message) -> Self {
        Self { subject: message.subject, body: message.body.0.into(), reply_to: message.reply_to }
    }
}

impl From<BrokerMessage> for Message {
    fn from(BrokerMessage { subject, body, reply_to }: BrokerMessage) -> Self {
        Self { subject, reply_to, body: body.into() }
    }
}

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance(TYPES)?;
    let mut consumer = linker.instance(CONSUMER)?;
    consumer.func_wrap_async(
        "publish",
        |mut store: StoreContextMut<'_, Guest>, (message,): (BrokerMessage,)| {
            let caller = caller(&mut store);
            Box::new(async move {
                let published = super::publish(&caller?, &message.into()).await?;
                Ok((published.map_err(|error| error.to_string()),))
            })
        },
    )?;
    consumer.func_wrap_async(
        "request",
        |mut store: StoreContextMut<'_, Guest>,
         (subject, body, timeout_ms): (String, Vec<u8>, u32)| {
            let caller = caller(&mut store);
            Box::new(async move {
                let message = RequestMessage { subject, body: body.into(), timeout_ms };
                let answered = super::request(&caller?, &message).await?;
                Ok((answered.map(BrokerMessage::from).map_err(|error| error.to_string()),))
            })
        },
    )
}

type Handle = TypedFunc<(BrokerMessage,), (Result<(), String>,)>;

/// Hands a message to an instance whose export this is.
pub(super) async fn handle(
    export: ComponentExportIndex,
    store: &mut Store<Guest>,
    instance: &component::Instance,
    message: Message,
) -> wasmtime::Result<Result<(), String>> {
    let handle: Handle = instance.get_typed_func(&mut *store, export)?;
    let (handled,) = handle.call_async(store, (message.into(),)).await?;
    Ok(handled)
}
