//! Actors: the list over all hosts, one of them, and what can be done with it.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Body, ErrorBody, Query, Refusal,
    claims::{self, Claims, or_claimed},
    hosts::{Group, groups, host_id},
    links::{Link, LinkState, Links},
    logs::{self, LogLine},
    operations::{Accepted, accepted},
    page::{Page, Row, Wanted, name, rate},
    providers::HostRef,
    standing::ActorState,
};
use crate::{
    Dashboard,
    auth::Access,
    model::{
        ActorSum, Collection, HostView, State as HostState,
        events::replicas,
        names::short,
        rates::{Of, Rate, Rates, Series, percentile_us},
    },
    operations::{End, NewOperation, OperationHandle},
};
use lattice_base::registry::{reference::Reference, uploads::shown};
use lattice_client::{
    calls,
    commands::{HostCommands, Outcome, START_WAIT, STOP_WAIT},
    lattice::Lattice,
    lost::Missing,
    placement::{self, AUCTION_WAIT},
    upload::{Readers, Sender},
    watch::instances,
};
use lattice_engine::router::Builtin;
use lattice_protocol::{
    control::{
        probe::calls::Look,
        types::{CodeInfo, InventoryActor},
    },
    identity::keys::ActorId,
    links::Table,
    meter::{OperationCounts, Path as CallPath},
};

/// Hosts that are asked at a time.
const ASKED_MAX: usize = 16;
/// Hosts that a row of the list names.
const NAMED_MAX: usize = 8;

/// An actor on all hosts.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Actor {
    pub id: String,
    pub name: String,
    /// `module`, `component`, or `unknown` where no host tells it.
    pub kind: &'static str,
    /// The line of WASI that a component is made for: `0.2` or `0.3`.
    pub wasi: Option<String>,
    /// The interfaces and functions that a component can be called by.
    pub exports: Vec<String>,
    pub references: Vec<String>,
    /// Of its claims; empty where they are not known.
    pub version: String,
    pub revision: String,
    pub state: ActorState,
    /// Calls it takes at a time, on all hosts together.
    pub replicas: u64,
    pub hosts: usize,
    /// Lost hosts that ran it, if it runs nowhere now.
    pub lost_on: Vec<String>,
    /// The first of these hosts.
    pub runs_on: Vec<HostRef>,
    /// Contracts it may use.
    pub caps: Vec<String>,
    pub issuer: String,
    pub rates: Option<Rate>,
}

impl Actor {
    fn of(id: &str, sum: &ActorSum, worst: LinkState, table: &Table, rates: &Rates) -> Self {
        let claims = table.claims(id);
        let CodeInfo { kind, wasi, exports } = sum.code.clone().unwrap_or_default();
        let rates = rates.target(id, "");
        let errors_per_s =
            rates.as_ref().map_or(0.0, |rates| rates.errors_per_s + rates.made_errors_per_s);
        Self {
            id: id.to_owned(),
            kind: kind.word(),
            wasi,
            exports,
            name: or_claimed(&sum.name, claims.map(|claims| &claims.name)),
            references: sum.references.iter().cloned().collect(),
            version: claims.map(|claims| claims.version.clone()).unwrap_or_default(),
            revision: claims.map(|claims| claims.revision.clone()).unwrap_or_default(),
            state: ActorState::of(sum.hosts.len(), errors_per_s, worst),
            replicas: sum.replicas,
            hosts: sum.hosts.len(),
            lost_on: Vec::new(),
            runs_on: sum.hosts.iter().take(NAMED_MAX).map(|host| HostRef::of(host)).collect(),
            caps: claims.map(|claims| claims.capabilities.clone()).unwrap_or_default(),
            issuer: claims.map(|claims| claims.issuer.clone()).unwrap_or_default(),
            rates,
        }
    }

    /// An actor that ran on lost hosts only.
    fn gone(missing: &Missing, table: &Table, rates: &Rates) -> Self {
        let sum = ActorSum {
            name: missing.name.clone(),
            references: [missing.reference.clone()].into(),
            ..ActorSum::default()
        };
        let lost_on = missing.hosts.iter().map(|(_, name)| name.clone()).collect();
        Self { lost_on, ..Self::of(&missing.id, &sum, LinkState::Ok, table, rates) }
    }
}

impl Row for Actor {
    fn texts(&self, found: &mut dyn FnMut(&str)) {
        [&self.id, &self.name, &self.issuer].into_iter().for_each(|text| found(text));
        let lists = self.references.iter().chain(&self.caps).chain(&self.exports);
        lists.for_each(|text| found(text));
    }

    fn compare(&self, other: &Self, column: &str) -> Ordering {
        match column {
            "kind" => (self.kind, &self.wasi).cmp(&(other.kind, &other.wasi)),
            "state" => self.state.cmp(&other.state),
            "replicas" => self.replicas.cmp(&other.replicas),
            "hosts" => self.hosts.cmp(&other.hosts),
            "references" => self.references.cmp(&other.references),
            "calls" | "calls_per_s" => {
                rate(&self.rates, &other.rates, |rate| Some(rate.calls_per_s))
            }
            "errors_per_s" => rate(&self.rates, &other.rates, |rate| Some(rate.errors_per_s)),
            "p50_us" => rate(&self.rates, &other.rates, |rate| rate.p50_us),
            "p99_us" => rate(&self.rates, &other.rates, |rate| rate.p99_us),
            _ => Ordering::Equal,
        }
        .then_with(|| name(&self.name, &other.name))
        .then_with(|| self.id.cmp(&other.id))
    }
}

/// The actors that run
#[utoipa::path(get, path = "/api/v1/actors", tag = "actors", params(Wanted), responses((status = 200, body = Page<Actor>)))]
pub async fn list(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Query(wanted): Query<Wanted>,
) -> Json<Page<Actor>> {
    let model = dashboard.model();
    model.mark_viewed().await;
    let (snapshot, rates, table) =
        (model.snapshot(), model.rates(), dashboard.parts().context.links.table());
    let worst = Links::new((&table, &rates), &snapshot, model.own_id(), access).worst_by_actor();
    let worst = |id: &str| worst.get(id).copied().unwrap_or(LinkState::Ok);
    let actors = snapshot.index().actors.iter().filter(|(_, sum)| wanted.takes_any(&sum.hosts));
    let all = actors.map(|(id, sum)| Actor::of(id, sum, worst(id), &table, &rates));
    let missing = snapshot.index().missing.iter().filter(|missing| wanted.takes_missing(missing));
    let gone = missing.filter(|missing| missing.link_name.is_none());
    let gone = gone.map(|missing| Actor::gone(missing, &table, &rates));
    Json(wanted.page(all.chain(gone).collect(), model.revision(Collection::Actors)))
}

/// An actor with all that is known of it.
#[derive(Serialize, ToSchema)]
pub struct ActorDetail {
    #[serde(flatten)]
    actor: Actor,
    claims: Option<Claims>,
    placements: Vec<Placement>,
    links: Vec<Link>,
    series: Series,
    operations: Vec<OperationRow>,
    /// Contracts of its claims that it has no link for.
    missing: Vec<String>,
    /// Newest first.
    last_errors: Vec<LogLine>,
}

/// An actor on one host.
#[derive(Serialize, ToSchema)]
pub struct Placement {
    host_id: String,
    host_name: String,
    host_state: HostState,
    reference: String,
    replicas: u64,
    groups: Vec<Group>,
}

/// The calls of one operation, since the hosts began to count.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OperationRow {
    operation: String,
    /// `local` within a process, or `nats`.
    path: &'static str,
    calls: u64,
    errors: u64,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
}

/// How much of an actor is wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct HowMuch {
    /// Only what needs no question to hosts: without the numbers of operations and the last errors.
    #[serde(default)]
    brief: bool,
}

/// An actor with all that is known of it
#[utoipa::path(get, path = "/api/v1/actors/{id}", tag = "actors",
    params(("id" = String, Path, description = "M…"), HowMuch),
    responses((status = 200, body = ActorDetail), (status = 404, body = ErrorBody)))]
pub async fn one(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Path(id): Path<String>,
    Query(how_much): Query<HowMuch>,
) -> Result<Json<ActorDetail>, Refusal> {
    let model = dashboard.model();
    model.mark_viewed().await;
    let (snapshot, rates, table) =
        (model.snapshot(), model.rates(), dashboard.parts().context.links.table());
    let nowhere = ActorSum::default();
    let sum = snapshot.index().actors.get(&id);
    let claims = table.claims(&id).filter(|claims| !claims.is_provider());
    if sum.is_none() && claims.is_none() {
        return Err(Refusal::not_found(format!(
            "actor {id} runs nowhere, and the lattice has no claims of it"
        )));
    }
    let sum = sum.unwrap_or(&nowhere);
    let (operations, said) = match how_much.brief {
        true => Default::default(),
        false => {
            let said = logs::lines(&dashboard, &id, &sum.hosts, logs::TAIL);
            let (operations, said) =
                tokio::join!(operations(&dashboard, &id, "", &sum.hosts), said);
            (operations, said.unwrap_or_default())
        }
    };
    let links = Links::new((&table, &rates), &snapshot, model.own_id(), access)
        .all(|link| link.actor_id == id);
    let worst = links.iter().map(|link| link.state).min().unwrap_or(LinkState::Ok);
    let capabilities = claims.map(|claims| claims.capabilities.as_slice()).unwrap_or_default();
    let missing = capabilities
        .iter()
        .filter(|contract| Builtin::of(contract).is_none())
        .filter(|contract| !links.iter().any(|link| link.contract_id == **contract));
    Ok(Json(ActorDetail {
        actor: Actor::of(&id, sum, worst, &table, &rates),
        claims: claims
            .map(|claims| Claims::of(claims, !sum.hosts.is_empty(), &claims::expires(&snapshot))),
        placements: sum.hosts.iter().flat_map(|host| placements(host, &id)).collect(),
        missing: missing.cloned().collect(),
        links,
        series: model.series(&Of::Target(id.clone(), String::new())),
        operations,
        last_errors: access.view(logs::errors(said)),
    }))
}

fn placements(host: &HostView, id: &str) -> Vec<Placement> {
    let of_it = host.inventory.actors.iter().filter(|actor| actor.id == id);
    let placements = of_it.map(|actor| Placement {
        host_id: host.id.to_string(),
        host_name: host.name.clone(),
        host_state: host.state,
        reference: actor.image_ref.clone(),
        replicas: instances(actor, |_| true),
        groups: groups(actor),
    });
    placements.collect()
}

/// Asks hosts for their counts of the operations of an actor or a provider.
pub async fn operations(
    dashboard: &Dashboard,
    id: &str,
    link_name: &str,
    hosts: &[Arc<HostView>],
) -> Vec<OperationRow> {
    let ours = hosts.iter().filter(|host| host.is_ours && host.state == HostState::Ok);
    let ids: Vec<String> = ours.map(|host| host.id.to_string()).collect();
    let looks = stream::iter(ids)
        .map(|id| async move { calls::look(dashboard.lattice(), &id, true).await.ok() });
    let looks: Vec<Option<Look>> = looks.buffer_unordered(ASKED_MAX).collect().await;
    let mut sums: BTreeMap<(String, CallPath), OperationCounts> = BTreeMap::new();
    for look in looks.into_iter().flatten() {
        let rows = look.served.into_iter().filter(|row| row.id == id && row.link_name == link_name);
        for counts in rows.flat_map(|row| row.operations) {
            let key = (counts.operation.clone(), counts.path);
            match sums.get_mut(&key) {
                Some(sum) => sum.tally.add(&counts.tally),
                None => _ = sums.insert(key, counts),
            }
        }
    }
    let rows =
        sums.into_values().map(|OperationCounts { operation, path, tally, .. }| OperationRow {
            path: match path {
                CallPath::Local => "local",
                CallPath::Nats => "nats",
            },
            calls: tally.calls,
            errors: tally.errors(),
            p50_us: percentile_us(&tally, 0.5),
            p99_us: percentile_us(&tally, 0.99),
            operation,
        });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.operation.cmp(&b.operation)));
    rows
}

/// Where and how something is to start.
#[derive(Debug, Deserialize, ToSchema)]
pub struct StartActor {
    /// `registry.example/echo:0.3.4`, `file:///path/on/the/host.wasm`, or what an upload answered.
    reference: String,
    /// Replicas: calls it takes at a time; without it as many as it takes already, or one.
    max: Option<u32>,
    /// Without one the first host that offers is taken.
    host_id: Option<String>,
    #[serde(default)]
    constraints: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Starts an actor
#[utoipa::path(post, path = "/api/v1/actors", tag = "actors", request_body = StartActor,
    responses((status = 202, body = Accepted), (status = 422, body = ErrorBody)))]
pub async fn start(
    State(dashboard): State<Dashboard>,
    Body(start): Body<StartActor>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let StartActor { reference, max, host_id: host, constraints, annotations } = start;
    let place = Place::read(&dashboard, &reference, host.as_deref(), constraints)?;
    if max == Some(0) {
        return Err(Refusal::wrong(
            "an actor that takes no call does not start; the number is at least 1",
        ));
    }
    let operation = NewOperation {
        kind: "start_actor",
        title: format!("Start actor {}", shown(&reference)),
        host_id: host.as_deref().unwrap_or_default(),
        ..NewOperation::default()
    };
    accepted(dashboard.operations().begin(operation, |handle| async move {
        let settled = place.settle(&handle, &reference, None).await?;
        handle.stage("command", "");
        let commands = HostCommands::new(&place.lattice, &settled.host, Some(START_WAIT));
        let end = commands
            .start_actor(&reference, max, &annotations, &mut |step| handle.step(step))
            .await?;
        let name = place.dashboard.model().snapshot().host_name(&settled.host);
        place.tidy(&handle, settled);
        Ok(match end {
            Outcome::Unchanged(started) => End {
                text: format!(
                    "It runs on {name} with {} already; nothing was changed",
                    replicas(started.max)
                ),
                target_id: started.id,
            },
            Outcome::Done(started, keeping) => {
                let text = format!("Runs on {name}{}", keeping.complaint());
                End { text, target_id: started.id }
            }
            Outcome::Accepted(_) => End::default(),
        })
    }))
}

/// Where something is to run.
pub struct Place {
    dashboard: Dashboard,
    pub lattice: Lattice,
    host: Option<String>,
    constraints: BTreeMap<String, String>,
    /// It was sent into the lattice, where only hosts of this make find it.
    is_upload: bool,
}

impl Place {
    /// Reads what was asked for.
    pub fn read(
        dashboard: &Dashboard,
        reference: &str,
        host: Option<&str>,
        constraints: BTreeMap<String, String>,
    ) -> Result<Self, Refusal> {
        let parsed =
            Reference::parse(reference).map_err(|error| Refusal::wrong(error.to_string()))?;
        Ok(Self {
            dashboard: dashboard.clone(),
            lattice: dashboard.lattice().clone(),
            host: host.map(host_id).transpose()?,
            constraints,
            is_upload: matches!(parsed, Reference::Lattice(_)),
        })
    }

    /// The host: the one that was named, or the first that offers.
    pub async fn settle(
        &self,
        handle: &OperationHandle,
        reference: &str,
        link_name: Option<&str>,
    ) -> anyhow::Result<Settled> {
        let readers = if self.is_upload { Some(Readers::find(&self.lattice).await?) } else { None };
        if let Some(host) = self.host.clone() {
            if let Some(readers) = &readers {
                readers.require(&host)?;
            }
            return Ok(Settled { host, readers });
        }
        handle.stage("auction", "");
        let constraints = &self.constraints;
        let wanted =
            placement::Wanted { reference, link_name, constraints, readers: readers.as_ref() };
        let bid = wanted.first(&self.lattice, AUCTION_WAIT).await?;
        let host = match bid {
            Some(host) => host,
            None => {
                let hosts = self.lattice.some_hosts().await?;
                let why = hosts.iter().map(|host| {
                    let obstacle = wanted.obstacle(host);
                    format!("{}: {}. {}", host.friendly_name, obstacle.why, obstacle.advice)
                });
                anyhow::bail!("no host offers to run it. {}", why.collect::<Vec<_>>().join(" "));
            }
        };
        handle.on_host(&host);
        Ok(Settled { host, readers })
    }

    /// Removes uploads that have a successor and run nowhere, now that this one runs; nobody waits
    /// for it.
    pub fn tidy(&self, handle: &OperationHandle, settled: Settled) {
        if let Some(readers) = settled.readers {
            let sender = sender(&self.dashboard);
            handle.spawn_background(async move { sender.tidy(&readers).await });
        }
    }
}

/// The host that was settled on.
pub struct Settled {
    pub host: String,
    /// The hosts that know what was sent, if it was.
    readers: Option<Readers>,
}

/// The way of files into the lattice.
pub fn sender(dashboard: &Dashboard) -> Sender {
    let parts = dashboard.parts();
    Sender {
        lattice: dashboard.lattice().clone(),
        nats: parts.context.ctl.clone(),
        making: parts.uploads,
    }
}

/// How many calls are to be taken at a time.
#[derive(Deserialize, ToSchema)]
pub struct ScaleActor {
    host_id: String,
    /// 0 stops it.
    max: u32,
    /// Scales only instances with these annotations; nothing else changes.
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Changes how many calls an actor takes at a time on a host
#[utoipa::path(post, path = "/api/v1/actors/{id}/scale", tag = "actors", request_body = ScaleActor,
    params(("id" = String, Path)), responses((status = 202, body = Accepted), (status = 422, body = ErrorBody)))]
pub async fn scale(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
    Body(scale): Body<ScaleActor>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let (id, host) = (actor_id(&id)?, host_id(&scale.host_id)?);
    let (name, host_name, reference) = running(&dashboard, &id, &host).await?;
    let ScaleActor { max, annotations, .. } = scale;
    let title = format!("Scale {name} to {max} on {host_name}");
    let operation = NewOperation {
        kind: "scale_actor",
        title,
        host_id: &host,
        target_id: &id,
        ..NewOperation::default()
    };
    let (lattice, actor, host) = (dashboard.lattice().clone(), id.clone(), host.clone());
    let operations = dashboard.operations();
    accepted(operations.begin(operation, |handle| async move {
        handle.stage("command", "");
        let commands = HostCommands::new(&lattice, &host, Some(START_WAIT));
        let end = commands
            .scale_actor(Some(&actor), &reference, Some(max), &annotations, &mut |step| {
                handle.step(step)
            })
            .await?;
        let text = match end {
            Outcome::Unchanged(_) => {
                format!("{name} had {} on {host_name} before; nothing was changed", replicas(max))
            }
            end => {
                let complaint = end.keeping().complaint();
                format!("{name} has {} on {host_name}{complaint}", replicas(max))
            }
        };
        Ok(End { text, ..End::default() })
    }))
}

/// Another module for an actor.
#[derive(Deserialize, ToSchema)]
pub struct UpdateActor {
    host_id: String,
    reference: String,
}

/// Exchanges the module of an actor on a host
#[utoipa::path(post, path = "/api/v1/actors/{id}/update", tag = "actors", request_body = UpdateActor,
    params(("id" = String, Path)), responses((status = 202, body = Accepted), (status = 422, body = ErrorBody)))]
pub async fn update(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
    Body(update): Body<UpdateActor>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let (id, host) = (actor_id(&id)?, host_id(&update.host_id)?);
    let (name, host_name, _) = running(&dashboard, &id, &host).await?;
    let reference = update.reference;
    let place = Place::read(&dashboard, &reference, Some(&host), BTreeMap::new())?;
    let title = format!("Update {name} on {host_name} to {}", shown(&reference));
    let operation = NewOperation {
        kind: "update_actor",
        title,
        host_id: &host,
        target_id: &id,
        ..NewOperation::default()
    };
    let actor = id.clone();
    accepted(dashboard.operations().begin(operation, |handle| async move {
        let settled = place.settle(&handle, &reference, None).await?;
        handle.stage("command", "");
        let commands = HostCommands::new(&place.lattice, &settled.host, Some(START_WAIT));
        commands.update_actor(&actor, &reference, &mut |step| handle.step(step)).await?;
        place.tidy(&handle, settled);
        Ok(End {
            text: format!("New calls of {name} on {host_name} run the new module"),
            ..End::default()
        })
    }))
}

/// Where an actor is to stop.
#[derive(Deserialize, ToSchema)]
pub struct StopActor {
    host_id: String,
}

/// Stops an actor on a host, all of it; calls in work are finished
#[utoipa::path(post, path = "/api/v1/actors/{id}/stop", tag = "actors", request_body = StopActor,
    params(("id" = String, Path)), responses((status = 202, body = Accepted), (status = 422, body = ErrorBody)))]
pub async fn stop(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
    Body(stop): Body<StopActor>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let (id, host) = (actor_id(&id)?, host_id(&stop.host_id)?);
    let (name, host_name, _) = running(&dashboard, &id, &host).await?;
    let title = format!("Stop {name} on {host_name}");
    let operation = NewOperation {
        kind: "stop_actor",
        title,
        host_id: &host,
        target_id: &id,
        ..NewOperation::default()
    };
    let (lattice, actor, host) = (dashboard.lattice().clone(), id.clone(), host.clone());
    accepted(dashboard.operations().begin(operation, |handle| async move {
        handle.stage("command", "");
        let keeping = HostCommands::new(&lattice, &host, Some(STOP_WAIT))
            .stop_actor(&actor, None, &BTreeMap::new())
            .await?;
        let text = format!("{name} has stopped on {host_name}{}", keeping.complaint());
        Ok(End { text, ..End::default() })
    }))
}

/// An actor's id, checked: it becomes part of a subject.
pub fn actor_id(text: &str) -> Result<String, Refusal> {
    ActorId::parse(text)
        .map(|id| id.to_string())
        .map_err(|error| Refusal::wrong(format!("actor {text:?}: {error}")))
}

/// Name, host name and reference of an actor that runs on a host.
async fn running(
    dashboard: &Dashboard,
    id: &str,
    host: &str,
) -> Result<(String, String, String), Refusal> {
    dashboard.model().mark_viewed().await;
    let snapshot = dashboard.model().snapshot();
    let view = snapshot
        .host(host)
        .ok_or_else(|| Refusal::not_found(format!("host {host} is not in the lattice")))?;
    let is_it = |actor: &InventoryActor| actor.id == id;
    let found = match view.inventory.actors.iter().find(|actor| is_it(actor)) {
        Some(actor) => Some(actor.clone()),
        // It may have started a moment ago.
        None => dashboard.lattice().inventory(host).await?.actors.into_iter().find(is_it),
    };
    let actor = found.ok_or_else(|| {
        Refusal::not_found(format!("actor {} does not run on {}", short(id), view.name))
    })?;
    let name = if actor.name.is_empty() { short(id) } else { actor.name };
    Ok((name, view.name.clone(), actor.image_ref))
}
