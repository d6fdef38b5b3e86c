//! Commands to the lattice, by the client crate of early 2024; `wash` sends the same.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, anyhow, bail};
use lattice_engine::providers::builtin::Spec;
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;
use wasmcloud_control_interface_2024::{
    Client, ClientBuilder, CtlOperationAck, Host, HostInventory,
};

use super::{PATIENCE, app, eventually};

/// How long bids are waited for. Each command has its own time of two seconds.
const AUCTION: std::time::Duration = std::time::Duration::from_millis(700);
/// How long one command may take, on a bad line too.
const COMMAND: std::time::Duration = std::time::Duration::from_secs(5);

/// A client beside one machine's NATS server.
pub struct Control(Client);

/// Texts by name, as the client wants them.
pub type Values = HashMap<String, String>;

/// Makes [`Values`].
pub fn values<const N: usize>(pairs: [(&str, &str); N]) -> Values {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

impl Control {
    pub async fn connect(server: &str) -> Result<Self> {
        let nats = async_nats_2024::connect(server)
            .await
            .map_err(|e| anyhow!("connect to {server}: {e}"))?;
        Ok(Self(ClientBuilder::new(nats).timeout(COMMAND).auction_timeout(AUCTION).build()))
    }

    /// The hosts of the lattice.
    pub async fn hosts(&self) -> Result<Vec<Host>> {
        self.0.get_hosts().await.map_err(|e| anyhow!("ask for hosts: {e}"))
    }

    /// Waits until this many hosts answer.
    pub async fn hosts_are(&self, count: usize) -> Result<Vec<Host>> {
        eventually("the hosts answer", || async {
            let hosts = self.hosts().await?;
            if hosts.len() != count {
                bail!("{} hosts answer in place of {count}", hosts.len());
            }
            Ok(hosts)
        })
        .await
    }

    pub async fn inventory(&self, host: &str) -> Result<HostInventory> {
        self.0
            .get_host_inventory(host)
            .await
            .map_err(|e| anyhow!("ask for the inventory of {host}: {e}"))
    }

    /// The links of the lattice, and the actors and providers whose claims it knows.
    pub async fn metadata(&self) -> Result<(usize, usize)> {
        let links = self.0.query_links().await.map_err(|e| anyhow!("ask for links: {e}"))?;
        let claims = self.0.get_claims().await.map_err(|e| anyhow!("ask for claims: {e}"))?;
        Ok((links.len(), claims.len()))
    }

    /// The link definitions of the lattice, in order.
    pub async fn links(&self) -> Result<Vec<Value>> {
        let links = self.0.query_links().await.map_err(|e| anyhow!("ask for links: {e}"))?;
        let mut links: Vec<Value> = links
            .iter()
            .map(|link| json!({ "contract": link.contract_id, "link_name": link.link_name, "values": sorted(&link.values) }))
            .collect();
        links.sort_by_key(Value::to_string);
        Ok(links)
    }

    /// The hosts that could start an actor and have these labels.
    pub async fn bids_for_actor(
        &self,
        reference: &str,
        constraints: &Values,
    ) -> Result<Vec<String>> {
        let bids = self.0.perform_actor_auction(reference, constraints.clone()).await;
        let bids = bids.map_err(|e| anyhow!("hold an auction for {reference}: {e}"))?;
        Ok(bids.into_iter().map(|bid| bid.host_id).collect())
    }

    /// The same for a provider.
    pub async fn bids_for_provider(
        &self,
        reference: &str,
        link: &str,
        constraints: &Values,
    ) -> Result<Vec<String>> {
        let bids = self.0.perform_provider_auction(reference, link, constraints.clone()).await;
        let bids = bids.map_err(|e| anyhow!("hold an auction for {reference}: {e}"))?;
        Ok(bids.into_iter().map(|bid| bid.host_id).collect())
    }

    /// Starts, scales or (with 0) ends an actor on a host; returns when that is done.
    pub async fn scale(&self, host: &str, reference: &str, replicas: u32) -> Result<()> {
        let mut events = self.events(["actor_scaled", "actor_scale_failed"]).await?;
        let ack = self.0.scale_actor(host, reference, replicas, None).await;
        accepted(ack, &format!("scale {reference} to {replicas}"))?;
        outcome(&mut events, host, reference).await
    }

    /// Starts a provider on a host; returns when it runs.
    pub async fn start_provider(&self, host: &str, provider: &Spec, link: &str) -> Result<()> {
        let reference = app::reference(provider);
        let mut events = self.events(["provider_started", "provider_start_failed"]).await?;
        let ack = self.0.start_provider(host, &reference, Some(link.to_owned()), None, None).await;
        accepted(ack, &format!("start {reference}"))?;
        outcome(&mut events, host, &reference).await
    }

    pub async fn link(
        &self,
        actor: &str,
        provider: &Spec,
        link: &str,
        values: Values,
    ) -> Result<()> {
        let ack = self
            .0
            .advertise_link(
                actor,
                provider.known.public_key,
                provider.known.contract_id,
                link,
                values,
            )
            .await;
        accepted(ack, &format!("link the actor to {}", provider.known.name))
    }

    async fn events<const N: usize>(
        &self,
        kinds: [&str; N],
    ) -> Result<Receiver<impl serde::Serialize + use<N>>> {
        let events = self.0.events_receiver(kinds.map(str::to_owned).into()).await;
        events.map_err(|e| anyhow!("listen to events: {e}"))
    }
}

fn sorted(values: &Values) -> BTreeMap<&String, &String> {
    values.iter().collect()
}

fn accepted<E: std::fmt::Display>(ack: Result<CtlOperationAck, E>, what: &str) -> Result<()> {
    let ack = ack.map_err(|e| anyhow!("{what}: {e}"))?;
    if !ack.accepted {
        bail!("{what}: the host refuses: {}", ack.error);
    }
    Ok(())
}

/// Waits for the event of this host about this reference.
async fn outcome<E: serde::Serialize>(
    events: &mut Receiver<E>,
    host: &str,
    reference: &str,
) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let event = tokio::time::timeout_at(deadline, events.recv()).await;
        let event =
            event.map_err(|_| anyhow!("no event tells what became of {reference} on {host}"))?;
        let event = serde_json::to_value(event.ok_or_else(|| anyhow!("the events ended"))?)?;
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
        let subject =
            [text("/data/image_ref"), text("/data/provider_ref"), text("/data/actor_ref")];
        if text("/source") != Some(host) || !subject.contains(&Some(reference)) {
            continue;
        }
        return match text("/data/error") {
            Some(error) => bail!("{reference} on {host}: {error}"),
            None => Ok(()),
        };
    }
}
