//! `wasmcloud:messaging@0.2.0`: a component publishes, asks and is handed messages.

use bytes::Bytes;
use wasmtime::{
    StoreContextMut,
    component::{ComponentExportIndex, ComponentType, InstancePre, Lift, Linker, Lower},
};

use super::{Caller, Failure, Guest, Instance, Output};
use lattice_protocol::contracts::{
    self,
    messaging::{CONTRACT_ID, Message, PUBLISH, REQUEST, RequestMessage, SERVICE},
};

/// The export that takes messages.
pub const HANDLER: &str = "wasmcloud:messaging/handler@0.2.0";
/// The interfaces that can be imported.
pub(super) const NAMES: [&str; 2] =
    ["wasmcloud:messaging/consumer@0.2.0", "wasmcloud:messaging/types@0.2.0"];

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

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let [consumer, types] = NAMES;
    linker.instance(types)?;
    let mut interface = linker.instance(consumer)?;
    interface.func_wrap_async(
        "publish",
        |store: StoreContextMut<'_, Guest>, (message,): (BrokerMessage,)| {
            let caller = store.data().caller.clone();
            Box::new(async move { Ok((publish(&caller, message).await?,)) })
        },
    )?;
    interface.func_wrap_async(
        "request",
        |store: StoreContextMut<'_, Guest>, (subject, body, timeout): (String, Vec<u8>, u32)| {
            let caller = store.data().caller.clone();
            Box::new(async move { Ok((request(&caller, subject, body, timeout).await?,)) })
        },
    )
}

async fn publish(caller: &Caller, message: BrokerMessage) -> wasmtime::Result<Result<(), String>> {
    let BrokerMessage { subject, body, reply_to } = message;
    let message = Message { subject, reply_to, body: body.into() };
    let operation = format!("{SERVICE}.{PUBLISH}");
    let sent = caller.send((CONTRACT_ID, ""), &operation, contracts::encode(&message)).await?;
    Ok(sent.map(drop).map_err(|error| error.to_string()))
}

async fn request(
    caller: &Caller,
    subject: String,
    body: Vec<u8>,
    timeout_ms: u32,
) -> wasmtime::Result<Result<BrokerMessage, String>> {
    let message = RequestMessage { subject, body: body.into(), timeout_ms };
    let operation = format!("{SERVICE}.{REQUEST}");
    let sent = caller.send((CONTRACT_ID, ""), &operation, contracts::encode(&message)).await?;
    Ok(sent.map_err(|error| error.to_string()).and_then(|reply| {
        let reply: Result<Message, _> = contracts::decode("Messaging.Request", &reply);
        reply.map(BrokerMessage::from).map_err(|error| error.to_string())
    }))
}

/// The export of a component that takes messages.
pub(super) struct Handler(ComponentExportIndex);

impl Handler {
    /// Finds it.
    pub(super) fn of(pre: &InstancePre<Guest>) -> Option<Self> {
        let component = pre.component();
        let interface = component.get_export_index(None, HANDLER)?;
        component.get_export_index(Some(&interface), "handle-message").map(Self)
    }

    /// Hands a message over in a fresh instance.
    pub(super) async fn handle(
        &self,
        pre: &InstancePre<Guest>,
        instance: Instance,
        payload: &[u8],
    ) -> Result<Bytes, Failure> {
        let message: Message = contracts::decode("MessageSubscriber.HandleMessage", payload)
            .map_err(|error| Failure::Told(error.to_string()))?;
        let mut store = instance.store(pre, Output::Log);
        let instance = pre.instantiate_async(&mut store).await?;
        let handle = instance
            .get_typed_func::<(BrokerMessage,), (Result<(), String>,)>(&mut store, self.0)?;
        let (handled,) = handle.call_async(&mut store, (message.into(),)).await?;
        handled.map(|()| Bytes::new()).map_err(Failure::Told)
    }
}
