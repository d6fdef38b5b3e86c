//! Clients: the control interface crates of both eras, a caller that signs like a provider, and
//! ears for events.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use lattice_engine::providers::builtin;
use lattice_protocol::{
    identity::{claims::now, keys::ActorId},
    links::LinkDefinition,
    rpc::{
        antiforgery::Signer,
        codec,
        invocation::{Entity, Invocation, InvocationResponse, TraceContext},
    },
};
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;
use wasmbus_rpc::{common::Message, rpc_client::RpcClient, wascap::prelude::KeyPair};

use super::{CLUSTER_SEED, PATIENCE, PROVIDER, Server, TestHost, eventually, guests::Guest};

/// The client crate of early 2024.
pub async fn ctl_2024(server: &Server) -> wasmcloud_control_interface_2024::Client {
    let nats = async_nats_2024::connect(server.url()).await.expect("connected");
    wasmcloud_control_interface_2024::ClientBuilder::new(nats)
        .lattice(server.lattice())
        .timeout(Duration::from_secs(2))
        .auction_timeout(Duration::from_millis(300))
        .build()
}

/// The client crate of 2022.
pub async fn ctl_2022(server: &Server) -> wasmcloud_control_interface_2022::Client {
    let nats = async_nats_2022::connect(server.url()).await.expect("connected");
    wasmcloud_control_interface_2022::Client::new(
        nats,
        Some(server.lattice().into()),
        Duration::from_secs(2),
        Duration::from_millis(300),
    )
}

/// The JetStream of a server, past every host.
pub async fn jetstream(server: &Server) -> async_nats::jetstream::Context {
    let nats = nats(server).await;
    match server.domain() {
        Some(domain) => async_nats::jetstream::with_domain(nats, domain),
        None => async_nats::jetstream::new(nats),
    }
}

/// The metadata bucket, for what clients of some years write there past every host.
pub async fn bucket(server: &Server) -> async_nats::jetstream::kv::Store {
    let context = jetstream(server).await;
    let name = format!("LATTICEDATA_{}", server.lattice());
    context.get_key_value(name).await.expect("the bucket")
}

/// Writes a link to the bucket, past every host.
pub async fn store_link(
    server: &Server,
    actor: &str,
    spec: &builtin::Spec,
    values: &[(&str, &str)],
) {
    store_link_for(server, actor, (spec, spec.known.contract_id), values).await;
}

/// The same for a contract, which may be one that the provider does not fulfil.
pub async fn store_link_for(
    server: &Server,
    actor: &str,
    (spec, contract): (&builtin::Spec, &str),
    values: &[(&str, &str)],
) {
    let link = LinkDefinition {
        actor_id: actor.into(),
        provider_id: spec.known.public_key.into(),
        link_name: "default".into(),
        contract_id: contract.into(),
        values: values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    };
    let value = serde_json::to_vec(&link.identified()).expect("JSON");
    bucket(server).await.put(format!("LINKDEF_{}", link.id()), value.into()).await.expect("stored");
}

/// Our own client library, for what no client crate does.
pub async fn nats(server: &Server) -> async_nats::Client {
    async_nats::connect(server.url()).await.expect("connected")
}

/// Waits until the server has taken what was sent on this connection, above all its subscriptions:
/// flushing only empties the client's buffer, and what another connection publishes then may come
/// first.
pub async fn settled(client: &async_nats::Client) {
    lattice_base::lattice::connection::confirm(client).await.expect("the server confirms");
}

/// Stands for a host or a service: answers requests with what `answer` makes of the subject
/// (without what `subject` says of it) and the payload, until what is returned is dropped.
pub async fn answering(
    server: &Server,
    subject: &str,
    mut answer: impl FnMut(&str, &[u8]) -> Option<Value> + Send + 'static,
) -> AbortOnDropHandle<()> {
    let nats = nats(server).await;
    let mut requests = nats.subscribe(subject.to_owned()).await.expect("subscribed");
    settled(&nats).await;
    let said = subject.trim_end_matches('>').to_owned();
    AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let answer = answer(request.subject.trim_start_matches(&*said), &request.payload);
            if let (Some(answer), Some(reply)) = (answer, request.reply) {
                nats.publish(reply, answer.to_string().into()).await.expect("published");
            }
        }
    }))
}

/// The RPC client of provider authors, signing with the tests' cluster key.
pub async fn provider_rpc(server: &Server) -> ProviderRpc {
    let nats = wasmbus_rpc::async_nats::connect(server.url()).await.expect("connected");
    let key = KeyPair::from_seed(CLUSTER_SEED).expect("the tests' cluster seed");
    let client = RpcClient::new(
        nats,
        "NwashHostCallerId000000000000000000000000000000000000000".into(),
        Some(Duration::from_secs(5)),
        Arc::new(key),
    );
    ProviderRpc { client, lattice: server.lattice().to_owned() }
}

/// The RPC client and the lattice it calls into.
pub struct ProviderRpc {
    pub client: RpcClient,
    pub lattice: String,
}

/// Calls an actor as the HTTP server provider does, with the real crate of provider authors.
pub async fn call_as_provider(
    rpc: &ProviderRpc,
    actor: &str,
    method: &str,
    argument: Vec<u8>,
) -> Result<Vec<u8>, wasmbus_rpc::error::RpcError> {
    let origin =
        wasmbus_rpc::core::WasmCloudEntity::new_provider("wasmcloud:httpserver", "default").map(
            |mut entity| {
                entity.public_key = PROVIDER.into();
                entity
            },
        )?;
    let target = wasmbus_rpc::core::WasmCloudEntity::new_actor(actor)?;
    rpc.client.send(origin, target, &rpc.lattice, Message { method, arg: argument.into() }).await
}

/// An HTTP request as the contract encodes it.
pub fn http_request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct HttpRequest<'a> {
        method: &'a str,
        path: &'a str,
        query_string: &'a str,
        header: std::collections::BTreeMap<String, Vec<String>>,
        body: Bytes,
    }
    let request = HttpRequest {
        method,
        path,
        query_string: "",
        header: Default::default(),
        body: Bytes::copy_from_slice(body),
    };
    rmp_serde::to_vec_named(&request).expect("a request encodes")
}

/// The body of an HTTP response as the contract encodes it.
pub fn http_body(response: &[u8]) -> Bytes {
    #[derive(serde::Deserialize)]
    struct HttpResponse {
        body: Bytes,
    }
    rmp_serde::from_slice::<HttpResponse>(response).expect("a response decodes").body
}

/// Calls as a tool does: with our own encoder, over our own connection.
pub struct Caller {
    pub nats: async_nats::Client,
    pub lattice: String,
    pub signer: Signer,
}

impl Caller {
    pub async fn new(server: &Server) -> Self {
        Self {
            nats: nats(server).await,
            lattice: server.lattice().to_owned(),
            signer: Signer::new(CLUSTER_SEED).expect("the tests' cluster seed"),
        }
    }

    /// A signed invocation of an actor.
    pub fn invocation(
        &self,
        actor: &str,
        operation: &str,
        payload: impl Into<Bytes>,
    ) -> Invocation {
        let target = Entity::actor(&ActorId::parse(actor).expect("an actor"));
        let origin = target.clone();
        let (payload, id) = (payload.into(), uuid::Uuid::new_v4().to_string());
        Invocation {
            encoded_claims: self.signer.sign(&origin, &target, operation, &payload, &id, now()),
            content_length: payload.len() as u64,
            origin,
            target,
            operation: operation.to_owned(),
            msg: payload,
            id,
            host_id: "NAWASHVALZUZPZNXPIF6HGQ4OMJYLXQ4B2WZZ5AMBCXKWEQPYXDOIWMA".into(),
            trace_context: TraceContext::default(),
        }
    }

    /// Sends an invocation, as it is, to an actor's subject.
    pub async fn send(&self, actor: &str, invocation: &Invocation) -> InvocationResponse {
        let request = async_nats::Request::new()
            .payload(codec::encode_invocation(invocation))
            .timeout(Some(PATIENCE));
        let reply = self
            .nats
            .send_request(format!("wasmbus.rpc.{}.{actor}", self.lattice), request)
            .await
            .expect("a reply");
        codec::decode_response(reply.payload).expect("a response")
    }

    /// Calls an actor; an error is the text of the response.
    pub async fn call(
        &self,
        actor: &str,
        operation: &str,
        payload: impl Into<Bytes>,
    ) -> Result<Bytes, String> {
        let response = self.send(actor, &self.invocation(actor, operation, payload)).await;
        response.error.map_or(Ok(response.msg), Err)
    }
}

/// The events of a lattice, from the subscription on.
pub struct Events {
    subscriber: async_nats::Subscriber,
    patience: Duration,
}

impl Events {
    /// Hears all events on the subject clients of 2022 listen to.
    pub async fn all(server: &Server) -> Self {
        Self::on(server, &format!("wasmbus.evt.{}", server.lattice())).await
    }

    /// Hears one kind of event on its own subject.
    pub async fn only(server: &Server, name: &str) -> Self {
        Self::on(server, &format!("wasmbus.evt.{}.{name}", server.lattice())).await
    }

    async fn on(server: &Server, subject: &str) -> Self {
        let client = nats(server).await;
        let subscriber = client.subscribe(subject.to_owned()).await.expect("subscribed");
        settled(&client).await;
        Self { subscriber, patience: PATIENCE }
    }

    /// Waits longer than usual for each event.
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The next event with this name; others are passed over.
    pub async fn next(&mut self, name: &str) -> Value {
        let search = async {
            while let Some(message) = self.subscriber.next().await {
                let event: Value =
                    serde_json::from_slice(&message.payload).expect("an event is JSON");
                if event["type"] == format!("com.wasmcloud.lattice.{name}") {
                    return event;
                }
            }
            panic!("the subscription ended");
        };
        tokio::time::timeout(self.patience, search)
            .await
            .unwrap_or_else(|_| panic!("no event {name}"))
    }

    /// The next event of whatever name.
    pub async fn any(&mut self) -> Value {
        let message = tokio::time::timeout(self.patience, self.subscriber.next())
            .await
            .expect("no further event");
        serde_json::from_slice(&message.expect("the subscription goes on").payload)
            .expect("an event is JSON")
    }

    /// The names of the next events up to and including `last`.
    pub async fn names_until(&mut self, last: &str) -> Vec<String> {
        let mut names = Vec::new();
        loop {
            let message = tokio::time::timeout(self.patience, self.subscriber.next()).await;
            let message = message
                .unwrap_or_else(|_| panic!("no event {last} after {names:?}"))
                .expect("a message");
            let event: Value = serde_json::from_slice(&message.payload).expect("an event is JSON");
            let name = event["type"]
                .as_str()
                .expect("a type")
                .trim_start_matches("com.wasmcloud.lattice.")
                .to_owned();
            names.push(name.clone());
            if name == last {
                return names;
            }
        }
    }
}

/// Starts an actor with the client of 2024 and waits for it.
pub async fn start(server: &Server, host: &TestHost, reference: &str, max: u32) {
    start_within(PATIENCE, server, host, reference, max).await;
}

/// Starts an actor whose code takes long to compile.
pub async fn start_within(
    patience: Duration,
    server: &Server,
    host: &TestHost,
    reference: &str,
    max: u32,
) {
    let mut events = Events::all(server).await.patient(patience);
    let ack =
        ctl_2024(server).await.scale_actor(&host.id, reference, max, None).await.expect("an ack");
    assert!(ack.accepted, "{}", ack.error);
    loop {
        let event = events.any().await;
        match event["type"].as_str().unwrap_or_default() {
            "com.wasmcloud.lattice.actor_scaled" => return,
            "com.wasmcloud.lattice.actor_start_failed" => panic!("{event}"),
            _ => {}
        }
    }
}

/// Starts an actor on one host and ends it on another.
pub async fn start_instead(
    patience: Duration,
    server: &Server,
    (host, before): (&TestHost, &TestHost),
    guest: &Guest,
) {
    start_within(patience, server, host, &guest.reference, 20).await;
    let ctl = ctl_2024(server).await;
    // It need not have been there.
    let _ = ctl.stop_actor(&before.id, &guest.id, None).await.expect("an ack");
    eventually("only one host runs it", async || {
        let inventory = ctl.get_host_inventory(&before.id).await.ok()?;
        inventory.actors.iter().all(|actor| actor.id != guest.id).then_some(())
    })
    .await;
}

/// Starts a provider with the client of 2024 and waits for it; returns the event's data.
pub async fn start_provider(server: &Server, host: &TestHost, reference: &str) -> Value {
    let mut events = Events::all(server).await;
    let ack = ctl_2024(server)
        .await
        .start_provider(&host.id, reference, None, None, None)
        .await
        .expect("an ack");
    assert!(ack.accepted, "{}", ack.error);
    loop {
        let event = events.any().await;
        match event["type"].as_str().unwrap_or_default() {
            "com.wasmcloud.lattice.provider_started" if event["data"]["image_ref"] == reference => {
                return event["data"].clone();
            }
            "com.wasmcloud.lattice.provider_start_failed" => panic!("{event}"),
            _ => {}
        }
    }
}

/// Stops a provider with the client of 2024 and waits until it has.
pub async fn stop_provider(server: &Server, host: &TestHost, provider: &str, contract: &str) {
    let mut events = Events::all(server).await;
    let ctl = ctl_2024(server).await;
    let ack =
        ctl.stop_provider(&host.id, provider, "default", contract, None).await.expect("an ack");
    assert!(ack.accepted, "{}", ack.error);
    events.next("provider_stopped").await;
}

/// Links an actor under the default link name.
pub async fn link(
    server: &Server,
    actor: &str,
    provider: &str,
    contract: &str,
    values: &[(&str, &str)],
) {
    let values =
        values.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let ctl = ctl_2024(server).await;
    let ack =
        ctl.advertise_link(actor, provider, contract, "default", values).await.expect("an ack");
    assert!(ack.accepted, "{}", ack.error);
}

/// Links an actor to a built-in provider under the default link name.
pub async fn link_builtin(
    server: &Server,
    actor: &str,
    spec: &builtin::Spec,
    values: &[(&str, &str)],
) {
    link(server, actor, spec.known.public_key, spec.known.contract_id, values).await;
}
