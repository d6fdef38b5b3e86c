//! Applications of a lattice, as a client deploys and watches them.

use std::{collections::BTreeMap, time::Duration};

use lattice_client::lattice::Lattice;
use lattice_protocol::{
    applications::{ownership, request::Request},
    control::types::Inventory,
};
use serde_json::{Value, json};

use super::{Server, client::nats, eventually, within_patience};

/// A client of the API that every host answers.
pub struct Api {
    pub nats: async_nats::Client,
    pub lattice: Lattice,
}

impl Api {
    pub async fn new(server: &Server) -> Self {
        let nats = nats(server).await;
        let timeout = Duration::from_secs(5);
        let domain = server.domain().map(str::to_owned);
        let lattice = Lattice::new(nats.clone(), server.subjects(), timeout, domain);
        Self { nats, lattice }
    }

    pub async fn ask(&self, request: Request<'_>, body: &Value) -> Value {
        let subject = self.lattice.subjects.manager(request);
        let payload = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
        eventually("the API answers", || async {
            let answer = self.nats.request(subject.clone(), payload.clone().into()).await.ok()?;
            serde_json::from_slice(&answer.payload).ok()
        })
        .await
    }

    /// Stores a manifest and deploys it.
    pub async fn deploy(&self, manifest: &Value) {
        let put = self.ask(Request::Put, manifest).await;
        assert_ne!(put["result"], "error", "{put}");
        let name = put["name"].as_str().unwrap();
        let deployed = self.ask(Request::Deploy(name), &json!({})).await;
        assert_eq!(deployed["result"], "acknowledged", "{deployed}");
    }

    pub async fn undeploy(&self, name: &str) {
        let undeployed = self.ask(Request::Undeploy(name), &Value::Null).await;
        assert_eq!(undeployed["result"], "acknowledged", "{undeployed}");
    }

    /// Waits until the status of an application is this one.
    pub async fn stands(&self, name: &str, wanted: &str) -> Value {
        let looked = within_patience(|| async {
            let status = self.ask(Request::Status(name), &Value::Null).await;
            (status["status"]["status"]["type"] == wanted).then_some(status)
        });
        match looked.await {
            Some(status) => status,
            None => {
                let status = self.ask(Request::Status(name), &Value::Null).await;
                panic!("{name} is not {wanted}: {status:#}")
            }
        }
    }

    pub async fn inventories(&self) -> Vec<Inventory> {
        let hosts = self.lattice.hosts().await.unwrap_or_default();
        self.lattice.inventories(&hosts).await
    }

    /// Returns the instances of an application by host, of a spread if one is named.
    pub async fn instances(&self, name: &str, spread: Option<&str>) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for inventory in self.inventories().await {
            let groups = inventory.actors.iter().flat_map(|actor| &actor.instances);
            let own = groups.filter(|group| {
                let is = |key: &str, value: &str| {
                    group.annotations.get(key).is_some_and(|text| text == value)
                };
                is(ownership::APPLICATION, name)
                    && spread.is_none_or(|spread| is(ownership::SPREAD_NAME, spread))
            });
            let count: u32 = own.map(|group| group.max_instances).sum();
            if count > 0 {
                counts.insert(inventory.host_id, count);
            }
        }
        counts
    }

    /// Waits until an application has so many instances on so many hosts.
    pub async fn spread(&self, name: &str, instances: u32, hosts: usize) -> BTreeMap<String, u32> {
        eventually(&format!("{name}: {instances} on {hosts} hosts"), || async {
            let counts = self.instances(name, None).await;
            let is_so = counts.values().sum::<u32>() == instances && counts.len() == hosts;
            is_so.then_some(counts)
        })
        .await
    }

    /// Waits until so many hosts run a provider of an application.
    pub async fn providers(&self, name: &str, wanted: usize) {
        eventually(&format!("{name}: {wanted} providers"), || async {
            let all = self.inventories().await;
            let runs = all.iter().flat_map(|inventory| &inventory.providers);
            let own = runs.filter(|run| {
                run.annotations.get(ownership::APPLICATION).is_some_and(|owner| owner == name)
            });
            (own.count() == wanted).then_some(())
        })
        .await;
    }
}
