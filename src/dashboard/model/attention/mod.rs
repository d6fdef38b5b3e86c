//! The lattice at a glance: how much there is, how much is called, and what somebody should look
//! at: first what somebody feels now, calls that fail and what is lost; then what is configured
//! wrongly.

mod hosts;
mod item;
mod links;

use std::collections::HashMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    State,
    rates::{Point, Rate},
};
use crate::{Dashboard, mask::Mask};
use item::Rank;
use lattice_base::store::domain_name;
use lattice_client::failing::Failing;
use lattice_protocol::{applications::api, links::LinkDefinition};

pub use item::{Attention, Grade, Marked};
pub use links::{problem, standing};

/// The most entries of a list; more would not be read.
const ATTENTION_MAX: usize = 50;

/// How many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Counts {
    pub hosts: usize,
    pub hosts_lost: usize,
    /// Different ones.
    pub actors: usize,
    /// Calls that all of them take at a time.
    pub replicas: u64,
    pub providers: usize,
    /// Actors and providers that ran on lost hosts only.
    pub run_nowhere: usize,
    pub links: usize,
    pub claims: usize,
    pub applications: usize,
    pub applications_failed: usize,
}

/// The numbers of the lattice that streams send once in a while.
#[derive(Clone, Debug, Serialize)]
pub struct Numbers {
    pub counts: Counts,
    pub rates: Rate,
    pub attention: Vec<Attention>,
    pub point: Option<Point>,
    /// The rates of hosts of the same moment, by id.
    pub hosts: HashMap<String, Rate>,
}

impl Mask for Numbers {
    fn mask(&mut self) {
        self.attention.mask();
    }
}

/// The lattice at a glance.
pub struct Summary {
    pub counts: Counts,
    pub rates: Rate,
    /// Acknowledged ones are the last.
    pub attention: Vec<Attention>,
    /// Items that nobody wants to hear of for a while.
    pub muted: Vec<Attention>,
}

impl Summary {
    /// Of long lists the most pressing items.
    pub fn of(dashboard: &Dashboard) -> Self {
        let mut summary = Self::whole(dashboard);
        summary.attention.truncate(ATTENTION_MAX);
        summary.muted.truncate(ATTENTION_MAX);
        summary
    }

    /// With all items, however many there are.
    pub fn whole(dashboard: &Dashboard) -> Self {
        let (model, parts) = (dashboard.model(), dashboard.parts());
        let (snapshot, table) = (model.snapshot(), parts.context.links.table());
        let index = snapshot.index();
        let lost = snapshot.hosts.values().filter(|host| host.state == State::Lost).count();
        let applications = model.shelf().known().unwrap_or_default();
        let counts = Counts {
            hosts: snapshot.hosts.len(),
            hosts_lost: lost,
            actors: index.actors.len(),
            replicas: index.actors.values().map(|actor| actor.replicas).sum(),
            providers: index.providers.len(),
            run_nowhere: index.missing.len(),
            links: table.links_len(),
            claims: table.claims_len(),
            applications: applications.all.len(),
            applications_failed: applications.failed().count(),
        };
        let rates = model.rates();
        let mut attention = Vec::new();
        attention.extend(store(dashboard));
        attention.extend(rates.failing.iter().map(of_calls));
        for host in snapshot.hosts.values() {
            hosts::of_host(host, &table, &mut attention);
            attention.extend(hosts::of_lost(host, &index.missing));
        }
        attention.extend(hosts::strangers(snapshot.present().filter_map(|host| {
            Some((host.id.as_ref(), host.name.as_str(), host.health.as_deref()?))
        })));
        attention.extend(applications.failed().map(|summary| of_application(summary)));
        // Where calls fail by a link, that says it.
        for link in table.links().filter(|link| !is_failing(link, &rates.failing)) {
            attention.extend(links::of_link(link, &table, &standing(link, &table, index, None)));
        }
        attention.sort_by_key(|item| (item.severity, item.rank));
        let muted = dashboard.alerts().apply(&mut attention);
        Self { counts, rates: rates.lattice(), attention, muted }
    }

    /// Returns all that needs attention, muted ones last.
    pub fn all(&self) -> impl Iterator<Item = &Attention> {
        self.attention.iter().chain(&self.muted)
    }
}

/// Whether calls fail by a link.
fn is_failing(link: &LinkDefinition, failing: &[Failing]) -> bool {
    failing.iter().any(|edge| is_by(edge, link))
}

/// Whether calls go by a link.
fn is_by(edge: &Failing, link: &LinkDefinition) -> bool {
    edge.caller == link.actor_id
        && edge.target == link.provider_id
        && edge.contract_id == link.contract_id
        && edge.link_name == link.link_name
}

/// Calls that fail now, as the doctor says it.
fn of_calls(edge: &Failing) -> Attention {
    let is_actor = edge.caller.starts_with('M');
    let kind = if is_actor { "actor" } else { "provider" };
    let mut item = Attention::new(Grade::Error, kind, &edge.caller, edge.text())
        .advice(edge.fix())
        .rank(Rank::Calls);
    item.link_name.clone_from(&edge.caller_link_name);
    let Failing { target, contract_id, link_name, .. } = edge;
    item.topic = Some(format!("calls {target} {contract_id} {link_name}"));
    item
}

/// Whether the lattice's metadata is where it belongs.
fn store(dashboard: &Dashboard) -> Option<Attention> {
    let parts = dashboard.parts();
    let state = parts.context.ctl.client.connection_state();
    if state != async_nats::connection::State::Connected {
        let text = "The host of this dashboard has no connection to its NATS server; nothing here is of now".to_owned();
        return Some(
            Attention::new(Grade::Error, "lattice", "", text)
                .rank(Rank::Connection)
                .advice("Look at the NATS server of its machine."),
        );
    }
    let backend = parts.context.store.backend();
    if backend.is_shared() && !backend.is_away() && *parts.context.links.synced().borrow() {
        return None;
    }
    let why = parts
        .context
        .store
        .story()
        .trouble
        .clone()
        .unwrap_or_else(|| backend.absence().to_string());
    let place = domain_name(dashboard.lattice().js_domain.as_deref());
    let text = format!("The lattice's metadata in {place} is not to be had: {why}");
    let advice = "Links cannot be changed until it is. `host doctor` looks for the cause.";
    Some(Attention::new(Grade::Error, "lattice", "", text).advice(advice))
}

fn of_application(summary: &api::Summary) -> Attention {
    let (name, message) = (&summary.name, summary.status_message.as_deref());
    let item =
        Attention::new(Grade::Error, "application", name, format!("Application {name} failed"));
    item.about(name)
        .said(message.filter(|message| !message.is_empty()))
        .advice("Its page shows which part is missing where. Hosts try again by themselves.")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use lattice_client::failing::Cause;
    use lattice_protocol::control::probe::calls::Recent;

    fn link() -> LinkDefinition {
        LinkDefinition {
            actor_id: "MA".into(),
            provider_id: "VA".into(),
            link_name: "default".into(),
            contract_id: "acme:x".into(),
            values: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_felt_comes_before_slips_and_failed_starts() {
        let item = |grade, rank: Rank| Attention::new(grade, "host", "N", String::new()).rank(rank);
        let failing = Failing {
            caller: "MA".into(),
            caller_link_name: String::new(),
            caller_name: "echo".into(),
            target: "VA".into(),
            target_name: "VA".into(),
            contract_id: "acme:x".into(),
            link_name: "default".into(),
            recent: Recent { ms: 10_000, calls: 4, refused: 4, ..Recent::default() },
            cause: Cause::Absent,
        };
        assert!(is_by(&failing, &link()));
        let other_cause = of_calls(&Failing { cause: Cause::Errors, ..failing.clone() });
        assert_eq!(of_calls(&failing).stable_key(), other_cause.stable_key());
        let mut all = [
            item(Grade::Warning, Rank::Start),
            item(Grade::Error, Rank::Fault),
            item(Grade::Warning, Rank::Configuration),
            item(Grade::Error, Rank::Loss),
            of_calls(&failing),
        ];
        all.sort_by_key(|item| (item.severity, item.rank));
        let ranks: Vec<Rank> = all.iter().map(|item| item.rank).collect();
        assert_eq!(ranks, [Rank::Calls, Rank::Loss, Rank::Fault, Rank::Configuration, Rank::Start]);
        assert!(all[0].text.starts_with("4 of 4 calls of echo"), "{}", all[0].text);
    }
}
