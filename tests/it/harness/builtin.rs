//! A built-in provider by itself: linked and called without a host around it, with actors that are
//! closures.

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use lattice_base::{
    budget::Budget,
    store::{Store, memory::Memory},
};
use lattice_engine::{
    journal::Journal,
    links::Live,
    peers::Peers,
    policy::Policy,
    providers::{
        bounds::Bounds,
        builtin::{Context, Link, Spec},
    },
    router::{Admitted, Local, Router, remote::Remote},
    rpc::{
        call::{Call, CallError},
        chunking::{self, Chunks},
        client::Client,
    },
};
use lattice_protocol::{
    identity::keys::{HostId, LatticeName, LinkName, ProviderId},
    lattice::subject::Subjects,
    links::LinkDefinition,
    rpc::{antiforgery::Signer, invocation::Entity},
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{CLUSTER_SEED, ECHO, Server};

const HOST: &str = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";

/// An actor made of a closure: operation and argument in, result out.
pub struct Closure<F>(pub F);

impl<F, R> Local for Closure<F>
where
    F: Fn(String, Bytes) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Bytes, CallError>> + Send + 'static,
{
    fn check(&self, _: &Call) -> Result<(), CallError> {
        Ok(())
    }

    fn try_admit(self: Arc<Self>) -> Option<Admitted> {
        Some(Box::new(move |call| self.call(call)))
    }

    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>> {
        Box::pin((self.0)(call.operation, call.payload))
    }
}

/// Returns the context of a provider, where `actors` run in this process.
pub async fn context(
    server: &Server,
    spec: &Spec,
    data_dir: &Path,
    actors: HashMap<Arc<str>, Arc<dyn Local>>,
) -> Context {
    let nats = super::client::nats(server).await;
    let lattice = LatticeName::parse(server.lattice()).expect("a lattice name");
    let host_id = HostId::parse(HOST).expect("a host key");
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (links, _) = Live::start(Store::new(Arc::new(Memory::default())), &tasks, stop).await;
    let chunks =
        Chunks::new(&nats, server.domain(), lattice.as_str(), chunking::Settings::default());
    let signer = Signer::new(CLUSTER_SEED).expect("the tests' cluster seed");
    let client = Client::new(
        nats.clone(),
        Subjects::new(lattice.clone(), "wasmbus.ctl"),
        signer,
        chunks,
        host_id.clone(),
    );
    let rpc_timeout = Duration::from_secs(2);
    let remote = Remote::new(client, Peers::new(&host_id), links.clone(), Vec::new());
    let (policy, journal) = (Policy::off(), Journal::new(HOST));
    let router =
        Router::new(lattice.clone(), links, policy, remote, true, rpc_timeout, journal.clone());
    router.set_actors(actors);
    Context {
        host_id,
        lattice,
        provider_id: ProviderId::parse(spec.known.public_key).expect("the provider's key"),
        link_name: LinkName::parse("default").expect("a link name"),
        contract_id: spec.known.contract_id,
        made: router.meter().caller(spec.known.public_key, "default"),
        router,
        journal: journal.writer(spec.known.public_key, "default"),
        nats,
        js_domain: server.domain().map(str::to_owned),
        bounds: Bounds::default(),
        budget: Budget::default(),
        rpc_timeout,
        data_dir: data_dir.to_owned(),
    }
}

/// A link of the echo actor's key to a provider.
pub fn link(spec: &Spec, values: &[(&str, &str)]) -> Arc<LinkDefinition> {
    Arc::new(LinkDefinition {
        actor_id: ECHO.into(),
        provider_id: spec.known.public_key.into(),
        link_name: "default".into(),
        contract_id: spec.known.contract_id.into(),
        values: values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    })
}

/// Calls a link as the echo actor.
pub async fn call(
    link: &Arc<dyn Link>,
    spec: &Spec,
    operation: &str,
    payload: Vec<u8>,
) -> Result<Bytes, CallError> {
    let deadline = Instant::now() + Duration::from_secs(5);
    Arc::clone(link).call(by_echo(spec, operation, payload, deadline)).await
}

/// The same with a payload that took all the time of the call to come through the object store,
/// which is not counted.
pub async fn call_after_a_transfer(
    link: &Arc<dyn Link>,
    spec: &Spec,
    operation: &str,
    payload: Vec<u8>,
) -> Result<Bytes, CallError> {
    let call = by_echo(spec, operation, payload, Instant::now());
    call.chain.add_transfer(Duration::from_secs(5));
    Arc::clone(link).call(call).await
}

fn by_echo(spec: &Spec, operation: &str, payload: Vec<u8>, deadline: Instant) -> Call {
    let origin = Entity::new(ECHO, "", "");
    let target = Entity::new(spec.known.public_key, "default", spec.known.contract_id);
    let call = Call::new((origin, target), operation, payload.into(), deadline);
    Call { depth: 1, ..call }
}
