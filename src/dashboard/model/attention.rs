//! The lattice at a glance: how much there is, how much is called, and what somebody should look
//! at: first what somebody feels now, calls that fail and what is lost; then what is configured
//! wrongly.

mod links;

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    HostView, ProviderState, State,
    events::name_or_short,
    fix::{Fix, without_reference},
    rates::{Point, Rate},
};
use crate::{
    Dashboard,
    mask::{HIDDEN, Mask},
};
use lattice_base::store::domain_name;
use lattice_client::{
    expiry::{self, Expiring},
    failing::Failing,
    lost::Missing,
};
use lattice_protocol::{
    applications::api,
    attention::{Item, Mark, Said},
    clock,
    control::{
        probe::health::{Failure, GivenUp, Health},
        types::InventoryProvider,
    },
    errors,
    links::{LinkDefinition, Table, link_option, other_values},
};

pub use links::{problem, standing};

/// The most entries of a list; more would not be read.
const ATTENTION_MAX: usize = 50;
/// Things that are named in one entry.
const NAMED_MAX: usize = 8;
/// Bytes of a key: enough for so few.
const KEY_BYTES: usize = 5;

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

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    Error,
    Warning,
}

/// The kind of what needs attention, the most pressing first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Nothing here is of now.
    Connection,
    Calls,
    Loss,
    /// Something does not work, whoever needs it.
    Fault,
    Configuration,
    /// Something did not start, and perhaps need not.
    Start,
}

/// Something that somebody should look at.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Attention {
    pub severity: Grade,
    pub text: String,
    /// The words of the text that name what it is about; empty if none do.
    pub subject: String,
    /// How to deal with it; commands stand between backticks.
    pub advice: Option<String>,
    /// The button that begins to mend it.
    pub fix: Option<Fix>,
    /// `host`, `actor`, `provider`, `link`, `application` or `lattice`.
    pub kind: &'static str,
    /// Of the host, the actor or the provider; the name of the application.
    pub id: String,
    pub link_name: String,
    pub since_ms: Option<u64>,
    /// Tells it from all others, on every host alike; names it in `/api/v1/attention/{key}`.
    pub key: String,
    /// The word of somebody about it.
    pub mark: Option<Marked>,
    /// Stands for its text in the key, if that may change while it lasts.
    #[serde(skip)]
    topic: Option<String>,
    /// The order among those that are as bad.
    #[serde(skip)]
    rank: Rank,
    /// How many bytes of the text are ours; what follows was said by others.
    #[serde(skip)]
    ours: usize,
}

/// The word of somebody about something that needs attention.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Marked {
    /// `ack` or `mute`.
    #[schema(value_type = String)]
    pub said: Said,
    pub at_ms: u64,
    /// It ends then by itself.
    pub until_ms: u64,
    pub by: String,
    pub note: String,
}

impl From<&Mark> for Marked {
    fn from(mark: &Mark) -> Self {
        let (by, note) = (mark.by.clone(), mark.note.clone());
        Self { said: mark.said, at_ms: mark.at_ms, until_ms: mark.until_ms, by, note }
    }
}

impl From<Attention> for Item {
    fn from(attention: Attention) -> Self {
        let Attention { severity, text, advice, kind, id, link_name, since_ms, key, mark, .. } =
            attention;
        let severity = match severity {
            Grade::Error => "error",
            Grade::Warning => "warning",
        };
        let mark = mark.map(|Marked { said, at_ms, until_ms, by, note }| Mark {
            said,
            at_ms,
            until_ms,
            by,
            note,
        });
        let (severity, kind) = (severity.to_owned(), kind.to_owned());
        Self { key, severity, text, advice, kind, id, link_name, since_ms, mark }
    }
}

impl Mask for Attention {
    fn mask(&mut self) {
        if let Some(mark) = &mut self.mark {
            for text in [&mut mark.by, &mut mark.note] {
                if !text.is_empty() {
                    HIDDEN.clone_into(text);
                }
            }
        }
        if self.ours < self.text.len() {
            self.text.truncate(self.ours);
            self.text.push_str(": ");
            self.text.push_str(HIDDEN);
        }
    }
}

impl Attention {
    fn new(severity: Grade, kind: &'static str, id: &str, text: String) -> Self {
        let (ours, id) = (text.len(), id.to_owned());
        Self {
            severity,
            text,
            subject: String::new(),
            advice: None,
            fix: None,
            kind,
            id,
            link_name: String::new(),
            since_ms: None,
            key: String::new(),
            mark: None,
            topic: None,
            rank: if severity == Grade::Error { Rank::Fault } else { Rank::Configuration },
            ours,
        }
    }

    fn rank(mut self, rank: Rank) -> Self {
        self.rank = rank;
        self
    }

    /// Returns its key: numbers in its text may change while it lasts, and so may what others say.
    pub fn stable_key(&self) -> String {
        let ours = self.text[..self.ours].split(|letter: char| letter.is_ascii_digit());
        let ours: Vec<&str> = ours.filter(|text| !text.is_empty()).collect();
        let ours = self.topic.clone().unwrap_or_else(|| ours.join("#"));
        let all = format!("{}\n{}\n{}\n{ours}", self.kind, self.id, self.link_name);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, all.as_bytes());
        data_encoding::HEXLOWER.encode(&digest.as_ref()[..KEY_BYTES])
    }

    /// Whether nobody wants to hear of it.
    pub fn is_muted(&self) -> bool {
        self.mark.as_ref().is_some_and(|mark| mark.said == Said::Mute)
    }

    /// Adds what somebody else said about it.
    fn said(mut self, words: Option<&str>) -> Self {
        if let Some(words) = words {
            self.text.push_str(": ");
            self.text.push_str(&errors::plain(words));
        }
        self
    }

    fn about(mut self, subject: &str) -> Self {
        self.subject = subject.to_owned();
        self
    }

    fn mended_by(mut self, fix: Fix) -> Self {
        self.fix = Some(fix);
        self
    }

    fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
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
            of_host(host, &table, &mut attention);
            attention.extend(of_lost(host, &index.missing));
        }
        attention.extend(strangers(snapshot.present().filter_map(|host| {
            Some((host.id.as_ref(), host.name.as_str(), host.health.as_deref()?))
        })));
        attention.extend(applications.failed().map(|summary| of_application(summary)));
        // Where calls fail by a link, that says it.
        let is_called = |link: &LinkDefinition| rates.failing.iter().any(|edge| is_by(edge, link));
        for link in table.links().filter(|link| !is_called(link)) {
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

/// A host that vanished, with what ran only there.
fn of_lost(host: &HostView, missing: &[Missing]) -> Option<Attention> {
    if host.state != State::Lost {
        return None;
    }
    let gone: Vec<&str> =
        missing.iter().filter(|missing| missing.ran_on(&host.id)).map(Missing::called).collect();
    let mut text = format!("Host {} vanished without a goodbye", host.name);
    let advice = match gone.as_slice() {
        [] => {
            "All that it ran runs elsewhere. Look at its machine, and at the leaf node beside it."
                .to_owned()
        }
        gone => {
            let named = gone.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
            let more = match gone.len().saturating_sub(NAMED_MAX) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            text.push_str(&format!(
                "; {} that ran only there run nowhere: {named}{more}",
                gone.len()
            ));
            format!("Start them on other hosts: `host start lost {}`", host.name)
        }
    };
    // All that it ran goes on: somebody should look, and nobody misses anything.
    let severity = if gone.is_empty() { Grade::Warning } else { Grade::Error };
    let mut item = Attention::new(severity, "host", &host.id, text)
        .about(&host.name)
        .advice(advice)
        .rank(Rank::Loss);
    item.since_ms = host.lost_ms;
    item.fix = (!gone.is_empty()).then(|| Fix::StartElsewhere { host_id: host.id.to_string() });
    Some(item)
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

/// Hosts whose calls others refuse, since they sign with a cluster key that those do not accept; as
/// the doctor says it.
fn strangers<'a>(hosts: impl Iterator<Item = (&'a str, &'a str, &'a Health)>) -> Vec<Attention> {
    let hosts: Vec<_> = hosts.filter(|(.., health)| !health.cluster_key.is_empty()).collect();
    let told = hosts.iter().filter_map(|(id, name, signer)| {
        let refusing = hosts.iter().filter(|(.., other)| {
            let issuers = &other.cluster_issuers;
            other.cluster_key != signer.cluster_key
                && !issuers.is_empty()
                && !issuers.contains(&signer.cluster_key)
        });
        let names: Vec<&str> = refusing.map(|(_, name, _)| *name).collect();
        let named = names.iter().take(NAMED_MAX).copied().collect::<Vec<_>>().join(", ");
        let text = format!("Calls of {name} are refused by {named}: it has another cluster seed");
        let item = Attention::new(Grade::Error, "host", id, text).about(name).advice(
            "Start all with the same cluster_seed, or add its key to cluster_issuers of the others. `host doctor` names them.",
        );
        (!names.is_empty()).then_some(item)
    });
    told.collect()
}

fn of_host(host: &HostView, table: &Table, attention: &mut Vec<Attention>) {
    match host.state {
        State::Ok | State::Stopping => {}
        State::Silent => attention.push(
            Attention::new(
                Grade::Warning,
                "host",
                &host.id,
                format!("Host {} misses its heartbeats", host.name),
            )
            .about(&host.name)
            .advice("It may be busy, frozen, or cut off from NATS."),
        ),
        // All that is lost with it is told with that.
        State::Lost => return,
    }
    attention
        .extend(host.inventory.providers.iter().filter_map(|provider| of_provider(host, provider)));
    if let Some(health) = &host.health {
        of_health(host, health, table, attention);
    }
}

fn of_provider(host: &HostView, provider: &InventoryProvider) -> Option<Attention> {
    let (id, link_name) = (&provider.id, &provider.link_name);
    let name = if provider.name.is_empty() { id } else { &provider.name };
    let health = host.health.as_ref().and_then(|health| health.provider(id, link_name));
    let (text, said) = if host.provider_health(id, link_name) == ProviderState::Unhealthy {
        let complaint = health.and_then(|health| health.complaint.as_deref());
        (format!("Provider {name} on {} fails its health check", host.name), complaint)
    } else {
        let health = health.filter(|health| health.crashes > 0)?;
        let text =
            format!("Provider {name} on {} ended {} times in a row", host.name, health.crashes);
        (text, health.last_end.as_deref())
    };
    let mut item = Attention::new(Grade::Error, "provider", id, text)
        .said(said)
        .about(name)
        .advice(format!("`host logs {id}{}` shows what it says.", link_option(link_name)));
    item.link_name.clone_from(link_name);
    Some(item)
}

fn of_application(summary: &api::Summary) -> Attention {
    let (name, message) = (&summary.name, summary.status_message.as_deref());
    let item =
        Attention::new(Grade::Error, "application", name, format!("Application {name} failed"));
    item.about(name)
        .said(message.filter(|message| !message.is_empty()))
        .advice("Its page shows which part is missing where. Hosts try again by themselves.")
}

/// The report of a host about itself: its starts, its links, its connections.
fn of_health(host: &HostView, health: &Health, table: &Table, attention: &mut Vec<Attention>) {
    for failure in &health.failures {
        if let Some(given_up) = &failure.given_up {
            attention.push(of_given_up(host, failure, given_up));
            continue;
        }
        let text = format!("{} does not start on {}", failure.reference, host.name);
        let said = without_reference(&failure.reference, &failure.error);
        let mut item = Attention::new(Grade::Warning, "host", &host.id, text)
            .said(Some(&said))
            .about(&host.name)
            .mended_by(Fix::of_failure(failure, &host.id))
            .rank(Rank::Start);
        item.since_ms = Some(failure.at_ms);
        attention.push(item);
    }
    attention
        .extend(expiry::of_health(health).filter_map(|(id, at)| of_claims(id, at, host, table)));
    for refused in &health.links {
        let actor =
            table.claims(&refused.actor_id).map_or(&refused.actor_id, |claims| &claims.name);
        let text = format!("The link of {actor} for {} is not taken on", refused.contract_id);
        let mut item = Attention::new(Grade::Error, "link", &refused.actor_id, text)
            .said(Some(&refused.error))
            .about(actor)
            .mended_by(Fix::PutLink {
                actor_id: refused.actor_id.clone(),
                contract_id: refused.contract_id.clone(),
                link_name: refused.link_name.clone(),
            })
            .advice(format!(
                "Put the link again with values that the provider takes: {}.",
                other_values(
                    &refused.actor_id,
                    &refused.provider_id,
                    &refused.contract_id,
                    &refused.link_name
                )
            ));
        item.link_name.clone_from(&refused.link_name);
        attention.push(item);
    }
    for line in [&health.ctl, &health.rpc] {
        for denied in line.denied.iter().collect::<BTreeSet<_>>() {
            let text = format!("The NATS server forbids host {} something: {denied}", host.name);
            attention.push(
                Attention::new(Grade::Error, "host", &host.id, text)
                    .about(&host.name)
                    .advice("`host doctor` names what is needed."),
            );
        }
    }
}

/// A provider that ran and is not started again: as bad as one that ends again and again.
fn of_given_up(host: &HostView, failure: &Failure, given_up: &GivenUp) -> Attention {
    let GivenUp { id, name } = given_up;
    let name = if name.is_empty() { id } else { name };
    let said = without_reference(&failure.reference, &failure.error);
    let text = format!("Provider {name} on {} does not run any more", host.name);
    let mut item = Attention::new(Grade::Error, "provider", id, text)
        .said(Some(&said))
        .about(name)
        .mended_by(Fix::of_failure(failure, &host.id))
        .advice(format!("`host logs {id}{}` shows what it said.", link_option(&failure.link_name)));
    item.link_name.clone_from(&failure.link_name);
    item.since_ms = Some(failure.at_ms);
    item
}

/// Claims of something that runs, if they are over or will be soon.
fn of_claims(id: &str, expires: u64, host: &HostView, table: &Table) -> Option<Attention> {
    let who = format!("{} on {}", name_or_short(table, id), host.name);
    let Expiring { is_over, text } = expiry::expiring(&who, expires, clock::now_ms() / 1000)?;
    let grade = if is_over { Grade::Error } else { Grade::Warning };
    let kind = if id.starts_with('V') { "provider" } else { "actor" };
    let text = format!("The claims{}", text.strip_prefix("the claims").unwrap_or(&text));
    let advice = match kind {
        "actor" => "Sign its module again with a later expiry, and update it.",
        _ => "Make its archive again with claims of a later expiry, and start it from there.",
    };
    let mut item = Attention::new(grade, kind, id, text).advice(advice);
    let provider = host.inventory.providers.iter().find(|provider| provider.id == id);
    if let Some(provider) = provider {
        item.link_name.clone_from(&provider.link_name);
    }
    Some(item)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

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
    fn a_key_is_the_same_while_something_lasts() {
        let ended = |times: u32, said: &str| {
            let text = format!("Provider x ended {times} times in a row");
            Attention::new(Grade::Error, "provider", "V", text).said(Some(said)).stable_key()
        };
        assert_eq!(ended(3, "exit 1"), ended(4, "exit 2"));
        let other = Attention::new(Grade::Error, "provider", "V", "Provider x fails".into());
        assert_ne!(ended(3, "exit 1"), other.stable_key());
        assert_eq!(other.stable_key().len(), 2 * KEY_BYTES);
    }

    #[test]
    fn a_lost_host_and_a_start_that_failed_are_told() {
        let failure = Failure {
            reference: "x:1".into(),
            error: "no such image".into(),
            ..Failure::default()
        };
        let health = Health { failures: vec![failure], ..Health::default() };
        let mut host =
            HostView { name: "calm".into(), health: Some(Arc::new(health)), ..HostView::default() };
        let told = |host: &HostView| {
            let mut attention = Vec::new();
            of_host(host, &Table::default(), &mut attention);
            attention.into_iter().map(|item| item.text).collect::<Vec<_>>()
        };
        assert_eq!(told(&host), ["x:1 does not start on calm: no such image"]);
        let mut attention = Vec::new();
        of_host(&host, &Table::default(), &mut attention);
        attention.mask();
        assert_eq!(attention[0].text, format!("x:1 does not start on calm: {HIDDEN}"));
        host.state = State::Lost;
        assert!(told(&host).is_empty(), "what it said before is over");
        let lost = of_lost(&host, &[]).unwrap();
        assert_eq!(lost.text, "Host calm vanished without a goodbye");
        let gone = Missing {
            name: "echo".into(),
            hosts: vec![(host.id.to_string(), "calm".into())],
            ..Missing::default()
        };
        let lost = of_lost(&host, &[gone]).unwrap();
        assert!(lost.text.ends_with("1 that ran only there run nowhere: echo"), "{}", lost.text);
        assert!(matches!(lost.fix, Some(Fix::StartElsewhere { .. })));
    }

    #[test]
    fn hosts_of_another_cluster_are_told() {
        let health = |key: &str, issuers: &[&str]| Health {
            cluster_key: key.into(),
            cluster_issuers: issuers.iter().map(|key| (*key).to_owned()).collect(),
            ..Health::default()
        };
        let (one, two) = (health("CA", &["CA"]), health("CB", &["CA", "CB"]));
        let told = strangers([("N1", "calm", &one), ("N2", "bold", &two)].into_iter());
        let texts: Vec<&str> = told.iter().map(|item| item.text.as_str()).collect();
        assert_eq!(texts, ["Calls of bold are refused by calm: it has another cluster seed"]);
    }

    #[test]
    fn a_provider_that_is_given_up_is_an_error_under_its_name() {
        let failure = Failure {
            kind: "provider".into(),
            reference: "lattice://sha256:abc".into(),
            link_name: "b".into(),
            error: "given up after 6 restarts".into(),
            given_up: Some(GivenUp { id: "VA".into(), name: "Looper".into() }),
            ..Failure::default()
        };
        let health = Health { failures: vec![failure], ..Health::default() };
        let host = HostView { name: "calm".into(), ..HostView::default() };
        let mut attention = Vec::new();
        of_health(&host, &health, &Table::default(), &mut attention);
        let [item] = attention.as_slice() else { panic!("{attention:?}") };
        assert_eq!((item.severity, item.kind, &*item.id), (Grade::Error, "provider", "VA"));
        assert_eq!(
            item.text,
            "Provider Looper on calm does not run any more: given up after 6 restarts"
        );
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

    #[test]
    fn claims_are_told_before_they_are_over() {
        let (host, now) =
            (HostView { name: "calm".into(), ..HostView::default() }, clock::now_ms() / 1000);
        let told = |expires: u64| of_claims("MA", expires, &host, &Table::default());
        assert_eq!(told(now - 10).unwrap().severity, Grade::Error);
        assert_eq!(told(now + 86_400).unwrap().severity, Grade::Warning);
        assert!(told(now + 30 * 86_400).is_none());
    }
}
