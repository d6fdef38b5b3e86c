//! Hosts: the list, one of them with all it tells of itself, its labels, its stop.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Body, ErrorBody, Query, Refusal,
    lost::{RunsNowhere, missing_with},
    operations::{Accepted, begin_on_host},
    page::{Page, Row, Wanted, name, rate},
    providers::ProviderRun,
};
use crate::{
    Dashboard,
    auth::Access,
    mask::{HIDDEN, Mask},
    model::{
        Collection, HostView, Snapshot, State as HostState, collector,
        rates::{Of, Rate, Rates, Series},
    },
    operations::End,
};
use lattice_client::{
    commands::{HostCommands, STOP_WAIT},
    watch::{count, instances},
};
use lattice_protocol::{
    clock,
    control::{
        probe::health::{self, Health, StoreHealth},
        request::{DeleteLabel, PutLabel},
    },
    identity::keys::HostId,
};

/// How long calls in work may take when a host is stopped, unless told otherwise.
const STOP_TIMEOUT: Duration = Duration::from_millis(2000);

/// A host.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Host {
    pub id: String,
    pub name: String,
    pub state: HostState,
    /// The host of this dashboard.
    pub is_this: bool,
    pub labels: BTreeMap<String, String>,
    pub version: String,
    pub started_ms: Option<u64>,
    pub heard_ms: u64,
    /// When it was missed, if it is lost.
    pub lost_ms: Option<u64>,
    /// How much that ran only there runs nowhere.
    pub runs_nowhere: usize,
    /// Different ones.
    pub actors: usize,
    /// Calls they take at a time, all together.
    pub replicas: u64,
    pub providers: usize,
    pub rates: Option<Rate>,
    pub memory_bytes: Option<u64>,
}

/// When each host was last heard, and that of now for this one.
fn heard(dashboard: &Dashboard) -> HashMap<Arc<str>, u64> {
    let peers = dashboard.parts().context.peers.known();
    let now_ms = clock::now_ms();
    let mut heard: HashMap<_, _> = peers
        .iter()
        .map(|peer| (Arc::clone(&peer.id), now_ms.saturating_sub(clock::millis(peer.silence()))))
        .collect();
    heard.insert(dashboard.model().own_id().into(), now_ms);
    for id in dashboard.model().snapshot().hosts.keys() {
        if let Some(at) = dashboard.model().heard_ms(id) {
            let known = heard.entry(Arc::clone(id)).or_default();
            *known = (*known).max(at);
        }
    }
    heard
}

impl Host {
    fn of(
        view: &HostView,
        (own_id, snapshot): (&str, &Snapshot),
        rates: &Rates,
        heard: &HashMap<Arc<str>, u64>,
    ) -> Self {
        Self {
            id: view.id.to_string(),
            name: view.name.clone(),
            state: view.state,
            is_this: *view.id == *own_id,
            labels: view.labels.clone(),
            version: view.version.clone(),
            started_ms: view.started_ms,
            heard_ms: heard.get(&view.id).copied().unwrap_or(0).max(view.heard_ms),
            lost_ms: view.lost_ms,
            runs_nowhere: missing_with(snapshot, &view.id).count(),
            actors: view.inventory.actors.len(),
            replicas: view.replicas(),
            providers: view.inventory.providers.len(),
            rates: if view.state == HostState::Lost { None } else { rates.host(&view.id) },
            memory_bytes: rates.memory(&view.id),
        }
    }
}

impl Row for Host {
    fn texts(&self, found: &mut dyn FnMut(&str)) {
        [&self.id, &self.name, &self.version].into_iter().for_each(|text| found(text));
        self.labels.iter().for_each(|(key, value)| found(&format!("{key}={value}")));
    }

    fn compare(&self, other: &Self, column: &str) -> Ordering {
        match column {
            "state" => self.state.cmp(&other.state),
            "version" => self.version.cmp(&other.version),
            "started" | "started_ms" => self.started_ms.cmp(&other.started_ms),
            "actors" => self.actors.cmp(&other.actors),
            "replicas" => self.replicas.cmp(&other.replicas),
            "providers" => self.providers.cmp(&other.providers),
            "calls" | "calls_per_s" => {
                rate(&self.rates, &other.rates, |rate| Some(rate.calls_per_s))
            }
            "p99" | "p99_us" => rate(&self.rates, &other.rates, |rate| rate.p99_us),
            "heard" | "heard_ms" => self.heard_ms.cmp(&other.heard_ms),
            "memory" | "memory_bytes" => self.memory_bytes.cmp(&other.memory_bytes),
            _ => Ordering::Equal,
        }
        .then_with(|| name(&self.name, &other.name))
        .then_with(|| self.id.cmp(&other.id))
    }
}

/// The hosts of the lattice
#[utoipa::path(get, path = "/api/v1/hosts", tag = "hosts", params(Wanted), responses((status = 200, body = Page<Host>)))]
pub async fn list(
    State(dashboard): State<Dashboard>,
    Query(wanted): Query<Wanted>,
) -> Json<Page<Host>> {
    let model = dashboard.model();
    model.mark_viewed().await;
    let (snapshot, rates) = (model.snapshot(), model.rates());
    let heard = heard(&dashboard);
    let all = snapshot
        .hosts
        .values()
        .map(|view| Host::of(view, (model.own_id(), &snapshot), &rates, &heard))
        .collect();
    Json(wanted.page(all, model.revision(Collection::Hosts)))
}

/// A host with all it tells.
#[derive(Serialize, ToSchema)]
pub struct HostDetail {
    #[serde(flatten)]
    host: Host,
    /// The cluster key it signs with.
    issuer: String,
    js_domain: Option<String>,
    running_actors: Vec<RunningActor>,
    running_providers: Vec<RunningProvider>,
    /// All that ran only here, and runs nowhere since the host was lost.
    missing: Vec<RunsNowhere>,
    series: Series,
    /// Missing for hosts of earlier years, and those that do not answer.
    vitals: Option<Vitals>,
}

/// An actor on a host.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RunningActor {
    id: String,
    name: String,
    reference: String,
    /// `module`, `component 0.2`, `component 0.3`; `unknown` where the host does not tell it.
    kind: String,
    replicas: u64,
    groups: Vec<Group>,
    rates: Option<Rate>,
    /// Calls it may run at a time, how many more may begin now, and how many wait.
    limit: Option<u32>,
    free: Option<u32>,
    waiting: Option<usize>,
}

/// The instances of an actor that have the same annotations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Group {
    annotations: BTreeMap<String, String>,
    max: u64,
}

/// The groups of an actor.
pub fn groups(actor: &lattice_protocol::control::types::InventoryActor) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for instance in &actor.instances {
        match groups.iter_mut().find(|group| group.annotations == instance.annotations) {
            Some(group) => group.max += count(instance),
            None => groups
                .push(Group { annotations: instance.annotations.clone(), max: count(instance) }),
        }
    }
    groups
}

/// A provider on a host.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RunningProvider {
    id: String,
    link_name: String,
    contract_id: String,
    name: String,
    #[serde(flatten)]
    run: ProviderRun,
    rates: Option<Rate>,
}

impl Mask for HostDetail {
    fn mask(&mut self) {
        self.running_providers.iter_mut().for_each(|provider| provider.run.mask());
        let Some(vitals) = &mut self.vitals else { return };
        vitals.failures.iter_mut().for_each(|failure| HIDDEN.clone_into(&mut failure.error));
        vitals.settings.warnings.iter_mut().for_each(|warning| HIDDEN.clone_into(warning));
    }
}

/// The report of a host about itself.
#[derive(Serialize, ToSchema)]
pub struct Vitals {
    now_ms: u64,
    ctl: Line,
    rpc: Line,
    store: VitalStore,
    settings: VitalSettings,
    policy: Option<Service>,
    config_service: Option<Service>,
    failures: Vec<Failure>,
    peers: Vec<Peer>,
    cluster_issuers: Vec<String>,
}

/// A connection to NATS.
#[derive(Serialize, ToSchema)]
pub struct Line {
    is_connected: bool,
    server: String,
    server_name: String,
    server_version: String,
    server_domain: Option<String>,
    cluster: Option<String>,
    jetstream: bool,
    /// The time a message takes to the server and back.
    round_trip_us: Option<u64>,
    reconnects: u64,
    /// Permission errors of the server, in its words.
    denied: Vec<String>,
}

impl From<&health::Line> for Line {
    fn from(line: &health::Line) -> Self {
        Self {
            is_connected: line.is_connected,
            server: line.server.clone(),
            server_name: line.server_name.clone(),
            server_version: line.server_version.clone(),
            server_domain: line.server_domain.clone(),
            cluster: line.cluster.clone(),
            jetstream: line.jetstream,
            round_trip_us: line.round_trip_us,
            reconnects: line.reconnects,
            denied: line.denied.clone(),
        }
    }
}

/// Where the lattice's metadata is, seen from the host.
#[derive(Serialize, ToSchema)]
pub struct VitalStore {
    place: String,
    is_shared: bool,
    is_away: bool,
    is_reachable: bool,
    is_known: bool,
    since_ms: u64,
    error: Option<String>,
}

impl From<&StoreHealth> for VitalStore {
    fn from(store: &StoreHealth) -> Self {
        Self {
            place: store.place.clone(),
            is_shared: store.is_shared,
            is_away: store.is_away,
            is_reachable: store.is_reachable,
            is_known: store.is_known,
            since_ms: store.since_ms,
            error: store.error.clone(),
        }
    }
}

/// Settings that matter to others.
#[derive(Serialize, ToSchema)]
pub struct VitalSettings {
    allow_file_load: bool,
    allow_latest: bool,
    local_calls: bool,
    rpc_timeout_ms: u64,
    warnings: Vec<String>,
}

/// A service the host asks.
#[derive(Serialize, ToSchema)]
pub struct Service {
    subject: String,
    /// Whether the last question was answered.
    answers: Option<bool>,
    error: Option<String>,
}

impl From<&health::Service> for Service {
    fn from(service: &health::Service) -> Self {
        Self {
            subject: service.subject.clone(),
            answers: service.answers,
            error: service.error.clone(),
        }
    }
}

/// A start that failed.
#[derive(Serialize, ToSchema)]
pub struct Failure {
    kind: String,
    reference: String,
    link_name: String,
    error: String,
    at_ms: u64,
}

impl From<&health::Failure> for Failure {
    fn from(failure: &health::Failure) -> Self {
        Self {
            kind: failure.kind.clone(),
            reference: failure.reference.clone(),
            link_name: failure.link_name.clone(),
            error: failure.error.clone(),
            at_ms: failure.at_ms,
        }
    }
}

/// Another host, as this one hears it.
#[derive(Serialize, ToSchema)]
pub struct Peer {
    host_id: String,
    host_name: String,
    is_silent: bool,
    silence_ms: u64,
}

impl Vitals {
    fn of(health: &Health, name_of: impl Fn(&str) -> String) -> Self {
        let peers = health.peers.iter().map(|peer| Peer {
            host_id: peer.host_id.clone(),
            host_name: name_of(&peer.host_id),
            is_silent: peer.is_silent,
            silence_ms: peer.silence_ms,
        });
        Self {
            now_ms: health.now_ms,
            ctl: Line::from(&health.ctl),
            rpc: Line::from(&health.rpc),
            store: VitalStore::from(&health.store),
            settings: VitalSettings {
                allow_file_load: health.settings.allow_file_load,
                allow_latest: health.settings.allow_latest,
                local_calls: health.settings.local_calls,
                rpc_timeout_ms: health.settings.rpc_timeout_ms,
                warnings: health.settings.warnings.clone(),
            },
            policy: health.policy.as_ref().map(Service::from),
            config_service: health.config_service.as_ref().map(Service::from),
            failures: health.failures.iter().map(Failure::from).collect(),
            peers: peers.collect(),
            cluster_issuers: health.cluster_issuers.clone(),
        }
    }
}

/// A host with all it tells of itself
#[utoipa::path(get, path = "/api/v1/hosts/{id}", tag = "hosts", params(("id" = String, Path, description = "N…")),
    responses((status = 200, body = HostDetail), (status = 404, body = ErrorBody)))]
pub async fn one(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
) -> Result<Json<HostDetail>, Refusal> {
    let model = dashboard.model();
    model.mark_viewed().await;
    let snapshot = model.snapshot();
    let view = snapshot.host(&id).ok_or_else(|| {
        Refusal::not_found(format!(
            "host {id} is not in the lattice; it may have stopped, or been forgotten"
        ))
    })?;
    // Fresh, for the round trip and the room of actors.
    let health = match view.is_ours && view.state != HostState::Lost {
        true => collector::health(dashboard.lattice(), &id).await,
        false => None,
    };
    let rates = model.rates();
    let detail = HostDetail {
        host: Host::of(view, (model.own_id(), &snapshot), &rates, &heard(&dashboard)),
        issuer: view.inventory.issuer.clone(),
        js_domain: health.as_ref().and_then(|health| health.js_domain.clone()),
        running_actors: running_actors(view, health.as_ref(), &rates),
        running_providers: running_providers(view, health.as_ref(), &rates),
        missing: missing_with(&snapshot, &id).map(RunsNowhere::of).collect(),
        series: model.series(&Of::Host(id.clone())),
        vitals: health.as_ref().map(|health| Vitals::of(health, |id| snapshot.host_name(id))),
    };
    Ok(Json(access.view(detail)))
}

fn running_actors(view: &HostView, health: Option<&Health>, rates: &Rates) -> Vec<RunningActor> {
    let actors = view.inventory.actors.iter().map(|actor| {
        let room =
            health.and_then(|health| health.actors.iter().find(|other| other.id == actor.id));
        RunningActor {
            id: actor.id.clone(),
            name: actor.name.clone(),
            reference: actor.image_ref.clone(),
            kind: actor.code.clone().unwrap_or_default().to_string(),
            replicas: instances(actor, |_| true),
            groups: groups(actor),
            rates: rates.target(&actor.id, ""),
            limit: room.map(|room| room.limit),
            free: room.map(|room| room.free),
            waiting: room.map(|room| room.waiting),
        }
    });
    let mut all: Vec<_> = actors.collect();
    all.sort_by(|a, b| name(&a.name, &b.name).then_with(|| a.id.cmp(&b.id)));
    all
}

fn running_providers(
    view: &HostView,
    health: Option<&Health>,
    rates: &Rates,
) -> Vec<RunningProvider> {
    let providers = view.inventory.providers.iter().map(|provider| {
        let (id, link_name) = (&provider.id, &provider.link_name);
        RunningProvider {
            id: id.clone(),
            link_name: link_name.clone(),
            contract_id: provider.contract_id.clone(),
            name: provider.name.clone(),
            run: ProviderRun::of(view, provider, health),
            rates: rates.target(id, link_name),
        }
    });
    let mut all: Vec<_> = providers.collect();
    all.sort_by(|a, b| {
        name(&a.name, &b.name).then_with(|| (&a.id, &a.link_name).cmp(&(&b.id, &b.link_name)))
    });
    all
}

/// The value of a label.
#[derive(Deserialize, ToSchema)]
pub struct LabelValue {
    value: String,
}

/// Sets a label of a host
#[utoipa::path(put, path = "/api/v1/hosts/{id}/labels/{key}", tag = "hosts", request_body = LabelValue,
    params(("id" = String, Path), ("key" = String, Path)), responses((status = 202, body = Accepted)))]
pub async fn put_label(
    State(dashboard): State<Dashboard>,
    Path((id, key)): Path<(String, String)>,
    Body(label): Body<LabelValue>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let id = present(&dashboard, &id).await?;
    let title =
        format!("Label {} with {key}={}", dashboard.model().snapshot().host_name(&id), label.value);
    begin_on_host(&dashboard, ("put_label", title), &id, |handle, lattice, host| async move {
        handle.stage("command", "");
        let text = format!("The host has the label {key}={}", label.value);
        lattice.command(&host, &PutLabel { key, value: label.value }).await?;
        Ok(End { text, ..End::default() })
    })
}

/// Deletes a label of a host
#[utoipa::path(delete, path = "/api/v1/hosts/{id}/labels/{key}", tag = "hosts",
    params(("id" = String, Path), ("key" = String, Path)), responses((status = 202, body = Accepted)))]
pub async fn delete_label(
    State(dashboard): State<Dashboard>,
    Path((id, key)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let id = present(&dashboard, &id).await?;
    let title =
        format!("Delete the label {key} of {}", dashboard.model().snapshot().host_name(&id));
    begin_on_host(&dashboard, ("delete_label", title), &id, |handle, lattice, host| async move {
        handle.stage("command", "");
        let text = format!("The host has no label {key} any more");
        lattice.command(&host, &DeleteLabel { key, value: None }).await?;
        Ok(End { text, ..End::default() })
    })
}

/// How a host is to stop.
#[derive(Deserialize, ToSchema)]
pub struct StopHost {
    /// How long calls in work may take; two seconds unless given.
    #[serde(default)]
    timeout_ms: Option<u64>,
}

/// Stops a host: it finishes its calls and leaves the lattice
#[utoipa::path(post, path = "/api/v1/hosts/{id}/stop", tag = "hosts", request_body = StopHost,
    params(("id" = String, Path)), responses((status = 202, body = Accepted)))]
pub async fn stop(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
    Body(stop): Body<StopHost>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let id = present(&dashboard, &id).await?;
    let timeout =
        stop.timeout_ms.map_or(STOP_TIMEOUT, Duration::from_millis).min(Duration::from_secs(60));
    let title = format!("Stop host {}", dashboard.model().snapshot().host_name(&id));
    begin_on_host(&dashboard, ("stop_host", title), &id, |handle, lattice, host| async move {
        handle.stage("command", "");
        HostCommands::new(&lattice, &host, Some(STOP_WAIT + timeout)).stop_host(timeout).await?;
        Ok(End { text: "The host has stopped".to_owned(), ..End::default() })
    })
}

/// The id of a host that is in the lattice.
pub async fn present(dashboard: &Dashboard, text: &str) -> Result<String, Refusal> {
    let id = host_id(text)?;
    dashboard.model().mark_viewed().await;
    match dashboard.model().snapshot().host(&id) {
        Some(_) => Ok(id),
        None => Err(Refusal::not_found(format!("host {id} is not in the lattice"))),
    }
}

/// A host's id, checked: it becomes part of a subject.
pub fn host_id(text: &str) -> Result<String, Refusal> {
    HostId::parse(text)
        .map(|id| id.to_string())
        .map_err(|error| Refusal::wrong(format!("host {text:?}: {error}")))
}
