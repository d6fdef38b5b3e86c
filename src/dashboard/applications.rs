//! Starts the keeping of applications in a host: gives it the host's parts that it works with.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use lattice_applications::{
    manager::{Manager, Parts},
    surroundings::{Neighbours, Surroundings},
};
use lattice_base::{config::Config, store::jetstream::making::Making};
use lattice_client::lattice::Lattice;
use lattice_engine::{
    events::Publisher, history::History, host::face::Commander, host_context::HostContext,
    links::Live, peers::Peers, providers::builtin,
};
use lattice_protocol::{
    events::Event,
    history::Audit,
    links::{LinkDefinition, Table},
};

/// The keeping of applications, as the host ends it.
pub struct Keeper(pub Arc<Manager>);

impl Commander for Keeper {
    fn stop(&self) -> BoxFuture<'_, ()> {
        self.0.stop().boxed()
    }
}

/// The host around it.
struct Around {
    host_id: String,
    peers: Peers,
    links: Live,
    history: History,
    events: Publisher,
}

impl Surroundings for Around {
    fn host_id(&self) -> &str {
        &self.host_id
    }

    fn neighbours(&self) -> Neighbours {
        let mut neighbours = Neighbours::default();
        for (host, is_lost) in self.peers.others() {
            let hosts = if is_lost { &mut neighbours.lost } else { &mut neighbours.live };
            hosts.insert(host);
        }
        neighbours
    }

    fn table(&self) -> Option<Arc<Table>> {
        self.links.synced().borrow().then(|| self.links.table())
    }

    fn table_changes(&self) -> watch::Receiver<()> {
        self.links.changes()
    }

    fn check_link(&self, link: &LinkDefinition) -> Result<Vec<String>, String> {
        builtin::check(link).map_err(|error| error.to_string())
    }

    fn tell(&self, event: Event) {
        self.events.publish(event);
    }

    fn audit(&self, entry: Audit) {
        self.history.audit(entry);
    }
}

/// Starts it; everything ends with `stop`.
pub async fn start(context: &HostContext, config: &Config, stop: &CancellationToken) -> Keeper {
    let HostContext { ctl, subjects, js_domain, answers, .. } = context;
    let parts = Parts {
        nats: ctl.clone(),
        lattice: Lattice::new(
            ctl.client.clone(),
            subjects.clone(),
            lattice_client::TIMEOUT,
            js_domain.clone(),
        ),
        surroundings: Arc::new(Around {
            host_id: context.host_id.to_string(),
            peers: context.peers.clone(),
            links: context.links.clone(),
            history: context.history.clone(),
            events: context.events.clone(),
        }),
        answers: answers.clone(),
        making: Making::of_metadata(config.kv_replicas, config.kv_max_bytes),
        desired: context.desired.clone(),
        authority: Arc::clone(&context.authority),
        setting: config.applications,
    };
    Keeper(Manager::start(parts, stop).await)
}
