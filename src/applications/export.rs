//! Tells the web page of `wash` 0.26 what runs: three entries of the bucket `wadm_state` (wadm,
//! section 3.7), which that page makes itself and watches.
//!
//! Where nobody made the bucket, nobody looks, and nothing is asked or written but whether it is
//! there, every few minutes. Hosts that stand aside write nothing: the bucket is the manager's,
//! which takes what is in it for its own knowledge. Of several hosts the one with the lowest id
//! writes, every half minute. The page shows the entries of the lattice `default` whatever lattice
//! it is told.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::manager::Standing;
use lattice_base::{
    backoff,
    store::{
        Expect,
        desired::{Desired, DesiredError},
    },
};
use lattice_client::{lattice::Lattice, watch::count};
use lattice_protocol::{
    control::types::{HostReply, Inventory, InventoryActor},
    links::Claims,
};

/// The bucket, for all lattices.
pub const BUCKET: &str = "wadm_state";
/// How often it is written, and about how often one that nobody made is looked for: hosts that were
/// started together do not look together.
const PAUSE: Duration = Duration::from_secs(30);
const MISSING: Duration = Duration::from_secs(300);

/// Writes the entries of a lattice until stopped.
pub struct Export {
    pub bucket: Desired,
    pub lattice: Lattice,
    pub host_id: String,
    /// The role of this host, as it changes.
    pub standing: watch::Receiver<Standing>,
}

impl Export {
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.write_again_and_again() => {}
        }
    }

    /// Ends with the manager that says the role.
    async fn write_again_and_again(&self) {
        let mut pause = PAUSE;
        loop {
            tokio::time::sleep(pause).await;
            pause = PAUSE;
            let mut standing = self.standing.clone();
            if standing.wait_for(|standing| may_write(*standing)).await.is_err() {
                return;
            }
            tokio::select! {
                // A manager was met meanwhile.
                _ = standing.wait_for(|standing| !may_write(*standing)) => {}
                written = self.write() => match written {
                    Ok(is_there) => pause = pause_of(is_there, rand::random()),
                    Err(error) => debug!(%error, "the web page of wash is not told what runs"),
                },
            }
        }
    }

    /// Writes what runs, if this host is to do so; says whether the bucket is there.
    async fn write(&self) -> anyhow::Result<bool> {
        if self.bucket.find().await?.is_none() {
            return Ok(false);
        }
        let hosts = self.lattice.hosts().await?;
        // Hosts of other makes do not write; the lowest of ours does.
        let ours = hosts.iter().filter(|host| host.is_ours());
        if ours.map(|host| &host.id).min() != Some(&self.host_id) {
            return Ok(true);
        }
        let inventories = self.lattice.inventories(&hosts).await;
        let claims = self.lattice.claims().await?;
        let now = OffsetDateTime::now_utc().format(&Rfc3339)?;
        let name = self.lattice.name();
        for (kind, entries) in [
            ("host", host_records(&hosts, &inventories, &now)),
            ("actor", actor_records(&inventories, &claims)),
            ("provider", provider_records(&inventories, &claims)),
        ] {
            self.put(&format!("{kind}_{name}"), &entries).await?;
        }
        Ok(true)
    }

    async fn put(&self, key: &str, entries: &Map<String, Value>) -> Result<(), DesiredError> {
        let value = Bytes::from(Value::Object(entries.clone()).to_string());
        self.bucket.put(key, value, Expect::Anything).await.map(drop)
    }
}

/// How long to wait before the next look, by a number of chance from 0 to 1.
fn pause_of(is_there: bool, chance: f64) -> Duration {
    if is_there { PAUSE } else { backoff::about(MISSING, chance) }
}

/// Says whether a host in this role writes.
fn may_write(standing: Standing) -> bool {
    match standing {
        Standing::Keeping => true,
        Standing::Unknown | Standing::Aside(_) | Standing::Off => false,
    }
}

fn host_records(hosts: &[HostReply], inventories: &[Inventory], now: &str) -> Map<String, Value> {
    let records = inventories.iter().map(|inventory| {
        let actors: BTreeMap<&str, u64> =
            inventory.actors.iter().map(|actor| (&*actor.id, instances(actor).sum())).collect();
        let providers = inventory.providers.iter().map(|provider| {
            json!({
                "contract_id": provider.contract_id,
                "link_name": provider.link_name,
                "public_key": provider.id,
                "annotations": provider.annotations,
            })
        });
        let reply = hosts.iter().find(|host| host.id == inventory.host_id);
        let record = json!({
            "actors": actors,
            "friendly_name": inventory.friendly_name,
            "labels": inventory.labels,
            "providers": providers.collect::<Vec<_>>(),
            "uptime_seconds": inventory.uptime_seconds,
            "version": reply.map(|host| &host.version),
            "id": inventory.host_id,
            "last_seen": now,
        });
        (inventory.host_id.clone(), record)
    });
    records.collect()
}

fn instances(actor: &InventoryActor) -> impl Iterator<Item = u64> {
    actor.instances.iter().map(count)
}

fn actor_records(inventories: &[Inventory], claims: &[Claims]) -> Map<String, Value> {
    let mut records = Map::new();
    for inventory in inventories {
        for actor in &inventory.actors {
            let found = claims.iter().find(|claims| claims.subject == actor.id);
            let record = records.entry(actor.id.clone()).or_insert_with(|| {
                json!({
                    "id": actor.id,
                    "name": actor.name,
                    "capabilities": found.map(|claims| &claims.capabilities[..]).unwrap_or_default(),
                    "issuer": found.map(|claims| &*claims.issuer).unwrap_or_default(),
                    "call_alias": found.map(|claims| &claims.call_alias).filter(|alias| !alias.is_empty()),
                    "instances": {},
                    "reference": actor.image_ref,
                })
            });
            let sets = actor
                .instances
                .iter()
                .map(|set| json!({ "annotations": set.annotations, "count": count(set) }));
            record["instances"][&inventory.host_id] = sets.collect();
        }
    }
    records
}

fn provider_records(inventories: &[Inventory], claims: &[Claims]) -> Map<String, Value> {
    let mut records = Map::new();
    for inventory in inventories {
        for provider in &inventory.providers {
            let found = claims.iter().find(|claims| claims.subject == provider.id);
            let key = format!("{}/{}", provider.id, provider.link_name);
            let record = records.entry(key).or_insert_with(|| {
                json!({
                    "id": provider.id,
                    "name": provider.name,
                    "issuer": found.map(|claims| &*claims.issuer).unwrap_or_default(),
                    "contract_id": provider.contract_id,
                    "reference": provider.image_ref,
                    "link_name": provider.link_name,
                    "hosts": {},
                })
            });
            record["hosts"][&inventory.host_id] = json!("Running");
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rival::Rival;

    #[test]
    fn only_a_host_that_keeps_applications_writes() {
        for (standing, expected) in [
            (Standing::Keeping, true),
            (Standing::Unknown, false),
            (Standing::Aside(Rival::Old), false),
            (Standing::Aside(Rival::Later), false),
            (Standing::Off, false),
        ] {
            assert_eq!(may_write(standing), expected, "{standing:?}");
        }
    }

    #[test]
    fn a_bucket_that_nobody_made_is_looked_for_seldom() {
        for (is_there, chance, seconds) in
            [(true, 0.0, 30), (true, 1.0, 30), (false, 0.0, 150), (false, 1.0, 450)]
        {
            assert_eq!(pause_of(is_there, chance), Duration::from_secs(seconds), "{is_there}");
        }
    }

    #[test]
    fn records_have_the_members_that_the_page_reads() {
        let inventory: Inventory = serde_json::from_value(json!({
            "host_id": "NA", "friendly_name": "calm-otter", "labels": {"zone": "east"}, "uptime_seconds": 95,
            "actors": [{"id": "MA", "name": "echo", "image_ref": "r/echo:1", "instances": [
                {"annotations": {"a": "b"}, "max_instances": 3}, {"max_concurrent": 2}]}],
            "providers": [{"id": "VA", "link_name": "default", "contract_id": "c", "image_ref": "r/http:1", "name": "http"}],
        }))
        .unwrap();
        let claims = Claims { subject: "MA".into(), issuer: "AA".into(), ..Claims::default() };
        let reply = HostReply { id: "NA".into(), version: "0.82.0".into(), ..HostReply::default() };
        let (inventories, claims) = ([inventory], [claims]);
        assert_eq!(
            Value::Object(host_records(&[reply], &inventories, "now")),
            json!({"NA": {
                "actors": {"MA": 5}, "friendly_name": "calm-otter", "labels": {"zone": "east"},
                "providers": [{"contract_id": "c", "link_name": "default", "public_key": "VA", "annotations": {}}],
                "uptime_seconds": 95, "version": "0.82.0", "id": "NA", "last_seen": "now",
            }})
        );
        assert_eq!(
            Value::Object(actor_records(&inventories, &claims)),
            json!({"MA": {
                "id": "MA", "name": "echo", "capabilities": [], "issuer": "AA", "call_alias": null,
                "instances": {"NA": [{"annotations": {"a": "b"}, "count": 3}, {"annotations": {}, "count": 2}]},
                "reference": "r/echo:1",
            }})
        );
        assert_eq!(
            Value::Object(provider_records(&inventories, &claims)),
            json!({"VA/default": {
                "id": "VA", "name": "http", "issuer": "", "contract_id": "c", "reference": "r/http:1",
                "link_name": "default", "hosts": {"NA": "Running"},
            }})
        );
    }
}
