//! Calls over NATS: of a client that signs each of them, and from host to host; beside plain
//! request and reply with the same bytes.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use lattice_engine::{router::Router, rpc::call::Call};
use lattice_protocol::{
    identity::{keys::Kind, signature::SigningKey, validity::now},
    rpc::{Entity, Invocation, Signer, codec},
};

use super::{
    Options,
    bare::Bare,
    guests::{Actor, Guest},
    load::Target,
    row::{Group, Row, each},
    stage::{LATTICE, Server, Stage},
};

pub const PLAIN: &str = "plain NATS request and reply";
pub const SIGNED_FRESH: &str = "client to host, fresh instance";
/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const SIGNED_REUSED: &str = "client to host, instances reused";
pub const HOSTS_FRESH: &str = "host to host, fresh instance";
const HOSTS_REUSED: &str = "host to host, instances reused";

/// Plain request and reply.
#[derive(Clone)]
pub struct Plain {
    client: async_nats::Client,
    payload: Bytes,
    /// Runs for as long as there are callers.
    bare: Arc<Bare>,
}

impl Plain {
    /// Starts what answers.
    pub async fn start(stage: &Stage) -> Result<Self> {
        let client = stage.server.nats.connect().await?;
        let bare = Arc::new(Bare::nats(&stage.program, &stage.server.nats, &client).await?);
        // The bytes of a signed call of the actor.
        let signed = Signed::new(&stage.server, &stage.guests.actor, &stage.remote.fresh).await?;
        Ok(Self { client, payload: codec::encode_invocation(&signed.invocation()), bare })
    }
}

impl Target for Plain {
    async fn exchange(&mut self) -> Result<()> {
        let request = self.client.request(self.bare.place.clone(), self.payload.clone());
        request.await?;
        Ok(())
    }
}

/// Signs each call, as clients do that are no hosts.
#[derive(Clone)]
pub struct Signed {
    client: async_nats::Client,
    signer: Arc<Signer>,
    subject: String,
    target: Entity,
    operation: &'static str,
    payload: Bytes,
    host_id: String,
}

impl Signed {
    /// Opens a connection of its own.
    pub async fn new(server: &Server, guest: &Guest, actor: &Actor) -> Result<Self> {
        let target = Entity::new(&actor.id, "", "");
        let (host, _) = SigningKey::generate(Kind::Server)?;
        Ok(Self {
            client: server.nats.connect().await?,
            signer: Arc::new(Signer::new(&server.cluster_seed)?),
            subject: format!("wasmbus.rpc.{LATTICE}.{}", actor.id),
            target,
            operation: guest.operation,
            payload: guest.payload.clone(),
            host_id: host.public_key().to_owned(),
        })
    }

    fn invocation(&self) -> Invocation {
        let (ends, id) = (self.target.clone(), uuid::Uuid::new_v4().to_string());
        let mut invocation = Invocation::new(
            ends.clone(),
            ends,
            self.operation,
            self.payload.clone(),
            id,
            self.host_id.clone(),
        );
        let Invocation { origin, target, operation, msg, id, .. } = &invocation;
        invocation.encoded_claims = self.signer.sign(origin, target, operation, msg, id, now());
        invocation
    }
}

impl Target for Signed {
    async fn exchange(&mut self) -> Result<()> {
        let payload = codec::encode_invocation(&self.invocation());
        let request = async_nats::Request::new().payload(payload).timeout(Some(CALL_TIMEOUT));
        let reply = self.client.send_request(self.subject.clone(), request).await?;
        let response = codec::decode_response(reply.payload).context("read the answer")?;
        match response.error {
            None => Ok(()),
            Some(error) => bail!(error),
        }
    }
}

/// Calls an actor as the host of this process does: here if it runs it, over NATS if another does.
#[derive(Clone)]
pub struct Routed {
    router: Router,
    target: Entity,
    operation: &'static str,
    payload: Bytes,
}

impl Routed {
    pub fn new(stage: &Stage, guest: &Guest, actor: &Actor) -> Self {
        Self {
            router: stage.caller.router().clone(),
            target: Entity::new(&actor.id, "", ""),
            operation: guest.operation,
            payload: guest.payload.clone(),
        }
    }
}

impl Target for Routed {
    async fn exchange(&mut self) -> Result<()> {
        let ends = (self.target.clone(), self.target.clone());
        let deadline = self.router.deadline();
        let call = Call::new(ends, self.operation, self.payload.clone(), deadline);
        self.router.call(call).await?;
        Ok(())
    }
}

/// The rows of a client that signs each call.
pub async fn of_clients(options: &Options, stage: &Stage) -> Result<Vec<Row>> {
    let concurrency = &options.concurrency;
    let guest = &stage.guests.actor;
    let mut rows = each(Group::Calls, PLAIN, concurrency, &Plain::start(stage).await?);
    for (name, actor) in
        [(SIGNED_FRESH, &stage.remote.fresh), (SIGNED_REUSED, &stage.remote.reused)]
    {
        let signed = Signed::new(&stage.server, guest, actor).await?;
        let signed = each(Group::Calls, name, concurrency, &signed);
        rows.extend(signed.into_iter().map(|row| row.beside(PLAIN)));
    }
    Ok(rows)
}

/// The rows from host to host.
pub async fn of_hosts(options: &Options, stage: &Stage) -> Result<Vec<Row>> {
    let concurrency = &options.concurrency;
    let guest = &stage.guests.actor;
    let mut rows = each(Group::Calls, PLAIN, concurrency, &Plain::start(stage).await?);
    for (name, actor) in [(HOSTS_FRESH, &stage.remote.fresh), (HOSTS_REUSED, &stage.remote.reused)]
    {
        let routed = each(Group::Hosts, name, concurrency, &Routed::new(stage, guest, actor));
        rows.extend(routed.into_iter().map(|row| row.beside(PLAIN)));
    }
    Ok(rows)
}
