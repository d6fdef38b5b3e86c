//! Questions to hosts, and how the answers compare with what the hosts said by themselves.

use std::time::Duration;

use async_nats::Subscriber;
use serde_json::Value;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::AGAIN;
use crate::Dashboard;
use lattice_client::{
    lattice::{Events, Lattice},
    watch,
};
use lattice_protocol::control::{
    probe::health::{Health, Request as HealthRequest},
    types::Inventory,
};

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Hears events and progress; tries until the connection takes it.
pub(super) async fn listen(lattice: &Lattice) -> (Events, Subscriber) {
    loop {
        let heard = async {
            let steps = lattice.client.subscribe(lattice.subjects.progress()).await?;
            anyhow::Ok((lattice.events().await?, steps))
        };
        match heard.await {
            Ok(heard) => return heard,
            Err(error) => {
                warn!(error = %format!("{error:#}"), "the dashboard hears no events yet, trying on")
            }
        }
        sleep(AGAIN).await;
    }
}

/// Whether a heartbeat tells of the same actors and providers as an inventory.
pub(super) fn says_the_same(heartbeat: &Value, inventory: &Inventory) -> bool {
    let Some(actors) = heartbeat["actors"].as_object() else { return false };
    let same_actors = actors.len() == inventory.actors.len()
        && inventory.actors.iter().all(|actor| {
            actors.get(&actor.id).and_then(Value::as_u64) == Some(watch::instances(actor, |_| true))
        });
    let providers = heartbeat["providers"].as_array().map_or(0, Vec::len);
    same_actors && providers == inventory.providers.len()
}

/// Asks a host what it runs, and one of this make how it is.
pub(super) async fn ask(
    dashboard: &Dashboard,
    id: &str,
    is_ours: bool,
) -> (Option<Inventory>, Option<Health>) {
    let lattice = dashboard.lattice();
    let parts = dashboard.parts();
    let inventory = async {
        // This host needs nobody for that, and NATS may be away.
        if id == dashboard.model().own_id() {
            return Some(
                parts.context.state.inventory(&parts.actors.running(), &parts.providers.running()),
            );
        }
        lattice
            .inventory(id)
            .await
            .inspect_err(|error| debug!(host = id, %error, "no inventory"))
            .ok()
    };
    let health = async { if is_ours { health(lattice, id).await } else { None } };
    tokio::join!(inventory, health)
}

/// Asks a host of this make for its [`Health`].
pub async fn health(lattice: &Lattice, id: &str) -> Option<Health> {
    match timeout(PROBE_TIMEOUT, lattice.request_of(id, &HealthRequest { ask: false })).await {
        Ok(Ok(health)) => Some(health),
        Ok(Err(error)) => {
            debug!(host = id, %error, "no word of its health");
            None
        }
        Err(_) => {
            warn!(host = id, "the host does not tell how it is");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use lattice_protocol::control::types::{InventoryActor, InventoryInstance};

    #[test]
    fn a_heartbeat_that_tells_something_else_makes_a_host_stale() {
        let instance = InventoryInstance { max_instances: 3, ..InventoryInstance::default() };
        let actor = InventoryActor {
            id: "MA".into(),
            instances: vec![instance],
            ..InventoryActor::default()
        };
        let inventory = Inventory { actors: vec![actor], ..Inventory::default() };
        assert!(says_the_same(&json!({ "actors": { "MA": 3 }, "providers": [] }), &inventory));
        for other in [
            json!({ "actors": { "MA": 2 }, "providers": [] }),
            json!({ "actors": { "MB": 3 }, "providers": [] }),
            json!({ "actors": { "MA": 3 }, "providers": [{}] }),
            json!({ "actors": [{ "public_key": "MA" }], "providers": [] }),
        ] {
            assert!(!says_the_same(&other, &inventory), "{other}");
        }
    }
}
