//! Providers: the list over all hosts, one of them, what is built in, and what can be done.

use std::{cmp::Ordering, collections::BTreeMap};

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Body, ErrorBody, Query, Refusal,
    actors::{OperationRow, Place, operations},
    claims::{self, Claims, or_claimed},
    hosts::host_id,
    links::{Link, Links, default_link_name},
    logs::{self, LogLine},
    operations::{Accepted, accepted},
    page::{Page, Row, Wanted, name, rate},
};
use crate::{
    Dashboard,
    auth::Access,
    mask::{Mask, hide},
    model::{
        Collection, HostView, ProviderState, ProviderSum, State as HostState,
        names::short,
        rates::{Of, Rate, Rates, Series},
    },
    operations::{End, NewOperation},
};
use lattice_base::registry::uploads::shown;
use lattice_client::{
    commands::{HostCommands, Outcome, START_WAIT, STOP_WAIT},
    lost::Missing,
};
use lattice_engine::providers::builtin::{self, CATALOGUE, Spec};
use lattice_protocol::{
    control::{probe::health::Health, types::InventoryProvider},
    identity::keys::{LinkName, ProviderId},
    links::Table,
};

/// A provider under a link name, on all hosts.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Provider {
    id: String,
    link_name: String,
    contract_id: String,
    name: String,
    references: Vec<String>,
    /// The worst of all hosts.
    health: ProviderState,
    hosts: Vec<HostRef>,
    /// Lost hosts that ran it, if it runs nowhere now.
    lost_on: Vec<String>,
    /// How many links it has.
    links: usize,
    rates: Option<Rate>,
}

/// A host, where it is named beside something else.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct HostRef {
    host_id: String,
    host_name: String,
    host_state: HostState,
}

impl HostRef {
    pub fn of(host: &HostView) -> Self {
        Self { host_id: host.id.to_string(), host_name: host.name.clone(), host_state: host.state }
    }
}

impl Provider {
    fn of((id, link_name): (&str, &str), sum: &ProviderSum, table: &Table, rates: &Rates) -> Self {
        let claims = table.claims(id);
        let healths: Vec<_> =
            sum.hosts.iter().map(|host| host.provider_health(id, link_name)).collect();
        let health = if healths.contains(&ProviderState::Unhealthy) {
            ProviderState::Unhealthy
        } else if healths.contains(&ProviderState::Healthy) {
            ProviderState::Healthy
        } else {
            ProviderState::Unknown
        };
        Self {
            id: id.to_owned(),
            link_name: link_name.to_owned(),
            contract_id: or_claimed(&sum.contract_id, claims.map(|claims| &claims.contract_id)),
            name: or_claimed(&sum.name, claims.map(|claims| &claims.name)),
            references: sum.references.iter().cloned().collect(),
            health,
            hosts: sum.hosts.iter().map(|host| HostRef::of(host)).collect(),
            lost_on: Vec::new(),
            links: table.links_of(id, link_name).count(),
            rates: rates.target(id, link_name),
        }
    }

    /// A provider that ran on lost hosts only.
    fn gone(missing: &Missing, table: &Table, rates: &Rates) -> Option<Self> {
        let link_name = missing.link_name.as_deref()?;
        let sum = ProviderSum {
            name: missing.name.clone(),
            contract_id: missing.contract_id.clone(),
            references: [missing.reference.clone()].into(),
            hosts: Vec::new(),
        };
        let lost_on = missing.hosts.iter().map(|(_, name)| name.clone()).collect();
        Some(Self { lost_on, ..Self::of((&missing.id, link_name), &sum, table, rates) })
    }
}

impl Row for Provider {
    fn texts(&self, found: &mut dyn FnMut(&str)) {
        [&self.id, &self.name, &self.link_name, &self.contract_id]
            .into_iter()
            .for_each(|text| found(text));
        self.references.iter().for_each(|text| found(text));
    }

    fn compare(&self, other: &Self, column: &str) -> Ordering {
        match column {
            "contract_id" => self.contract_id.cmp(&other.contract_id),
            "link_name" => self.link_name.cmp(&other.link_name),
            "links" => self.links.cmp(&other.links),
            "hosts" => self.hosts.len().cmp(&other.hosts.len()),
            "health" => (self.health as u8).cmp(&(other.health as u8)),
            "calls" | "calls_per_s" => {
                rate(&self.rates, &other.rates, |rate| Some(rate.calls_per_s))
            }
            "p99" | "p99_us" => rate(&self.rates, &other.rates, |rate| rate.p99_us),
            _ => Ordering::Equal,
        }
        .then_with(|| name(&self.name, &other.name))
        .then_with(|| (&self.id, &self.link_name).cmp(&(&other.id, &other.link_name)))
    }
}

/// The providers that run
#[utoipa::path(get, path = "/api/v1/providers", tag = "providers", params(Wanted),
    responses((status = 200, body = Page<Provider>)))]
pub async fn list(
    State(dashboard): State<Dashboard>,
    Query(wanted): Query<Wanted>,
) -> Json<Page<Provider>> {
    let model = dashboard.model();
    model.mark_viewed().await;
    let (snapshot, rates, table) =
        (model.snapshot(), model.rates(), dashboard.parts().context.links.table());
    let providers =
        snapshot.index().providers.iter().filter(|(_, sum)| wanted.takes_any(&sum.hosts));
    let all = providers.map(|((id, link), sum)| Provider::of((id, link), sum, &table, &rates));
    let missing = snapshot.index().missing.iter().filter(|missing| wanted.takes_missing(missing));
    let gone = missing.filter_map(|missing| Provider::gone(missing, &table, &rates));
    Json(wanted.page(all.chain(gone).collect(), model.revision(Collection::Providers)))
}

/// A provider with all that is known of it.
#[derive(Serialize, ToSchema)]
pub struct ProviderDetail {
    #[serde(flatten)]
    provider: Provider,
    claims: Option<Claims>,
    instances: Vec<ProviderInstance>,
    links_to: Vec<Link>,
    series: Series,
    operations: Vec<OperationRow>,
    /// The values that its links may have, if they are known.
    values: Vec<KnownValue>,
    /// Newest first.
    last_errors: Vec<LogLine>,
}

/// A provider on one host.
#[derive(Serialize, ToSchema)]
pub struct ProviderInstance {
    #[serde(flatten)]
    host: HostRef,
    #[serde(flatten)]
    run: ProviderRun,
}

impl Mask for ProviderInstance {
    fn mask(&mut self) {
        self.run.mask();
    }
}

/// How a provider runs on a host.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProviderRun {
    reference: String,
    annotations: BTreeMap<String, String>,
    health: ProviderState,
    /// `launching`, `running`, `pausing` before it is started again, or `stopping`.
    phase: Option<String>,
    /// How often in a row it ended by itself.
    crashes: Option<u32>,
    complaint: Option<String>,
}

impl ProviderRun {
    pub fn of(host: &HostView, provider: &InventoryProvider, health: Option<&Health>) -> Self {
        let (id, link_name) = (&provider.id, &provider.link_name);
        let told = health.and_then(|health| health.provider(id, link_name));
        Self {
            reference: provider.image_ref.clone(),
            annotations: provider.annotations.clone(),
            health: host.provider_health(id, link_name),
            phase: told.map(|told| told.phase.clone()),
            crashes: told.map(|told| told.crashes),
            complaint: told.and_then(|told| told.complaint.clone()),
        }
    }
}

impl Mask for ProviderRun {
    fn mask(&mut self) {
        hide(&mut self.complaint);
    }
}

/// A value that a link may have.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KnownValue {
    name: &'static str,
    /// The value that applies if it is not given.
    default: &'static str,
    help: &'static str,
}

fn known_values(spec: &Spec) -> Vec<KnownValue> {
    spec.values
        .iter()
        .map(|value| KnownValue { name: value.name, default: value.default, help: value.help })
        .collect()
}

/// A provider with all that is known of it
#[utoipa::path(get, path = "/api/v1/providers/{id}/{link_name}", tag = "providers",
    params(("id" = String, Path, description = "V…"), ("link_name" = String, Path)),
    responses((status = 200, body = ProviderDetail), (status = 404, body = ErrorBody)))]
pub async fn one(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Path((id, link_name)): Path<(String, String)>,
) -> Result<Json<ProviderDetail>, Refusal> {
    let model = dashboard.model();
    model.mark_viewed().await;
    let (snapshot, rates, table) =
        (model.snapshot(), model.rates(), dashboard.parts().context.links.table());
    let sum = snapshot.index().providers.get(&(id.clone(), link_name.clone()));
    let claims = table.claims(&id).filter(|claims| claims.is_provider());
    if sum.is_none() && claims.is_none() {
        let text = format!(
            "provider {id} runs nowhere under link name {link_name}, and the lattice has no claims of it"
        );
        return Err(Refusal::not_found(text));
    }
    let nowhere = ProviderSum::default();
    let sum = sum.unwrap_or(&nowhere);
    let (operations, said) = tokio::join!(
        operations(&dashboard, &id, &link_name, &sum.hosts),
        logs::lines(&dashboard, &id, &sum.hosts, logs::TAIL)
    );
    let said = said
        .unwrap_or_default()
        .into_iter()
        .filter(|line| line.link_name == link_name || line.link_name.is_empty());
    let provider = Provider::of((&id, &link_name), sum, &table, &rates);
    let spec = CATALOGUE
        .iter()
        .find(|spec| spec.known.public_key == id || spec.known.contract_id == provider.contract_id);
    Ok(Json(ProviderDetail {
        claims: claims
            .map(|claims| Claims::of(claims, !sum.hosts.is_empty(), &claims::expires(&snapshot))),
        instances: access
            .view(sum.hosts.iter().flat_map(|host| instances(host, &id, &link_name)).collect()),
        links_to: Links::new((&table, &rates), &snapshot, model.own_id(), access)
            .all(|link| link.provider_id == id && link.link_name == link_name),
        series: model.series(&Of::Target(id.clone(), link_name.clone())),
        operations,
        values: spec.map(|spec| known_values(spec)).unwrap_or_default(),
        last_errors: access.view(logs::errors(said.collect())),
        provider,
    }))
}

fn instances(host: &HostView, id: &str, link_name: &str) -> Vec<ProviderInstance> {
    let of_it = host.inventory.providers.iter().filter(|p| p.id == id && p.link_name == link_name);
    let instances = of_it.map(|provider| ProviderInstance {
        host: HostRef::of(host),
        run: ProviderRun::of(host, provider, host.health.as_deref()),
    });
    instances.collect()
}

/// The providers that are part of every host.
#[derive(Serialize, ToSchema)]
pub struct Builtins {
    items: Vec<BuiltinProvider>,
}

/// A provider that is part of every host.
#[derive(Serialize, ToSchema)]
pub struct BuiltinProvider {
    reference: String,
    name: &'static str,
    title: &'static str,
    contract_id: &'static str,
    about: &'static str,
    public_key: &'static str,
    values: Vec<KnownValue>,
}

/// The providers that are part of every host, with the values of their links
#[utoipa::path(get, path = "/api/v1/builtins", tag = "providers", responses((status = 200, body = Builtins)))]
pub async fn builtins() -> Json<Builtins> {
    let items = CATALOGUE.iter().map(|spec| BuiltinProvider {
        reference: spec.known.reference(),
        name: spec.known.name,
        title: spec.known.title,
        contract_id: spec.known.contract_id,
        about: spec.about,
        public_key: spec.known.public_key,
        values: known_values(spec),
    });
    Json(Builtins { items: items.collect() })
}

/// Where and how a provider is to start.
#[derive(Debug, Deserialize, ToSchema)]
pub struct StartProvider {
    /// `builtin://httpserver`, `registry.example/redis:0.3`, `file:///path/on/the/host.par.gz`, or
    /// what an upload answered.
    reference: String,
    #[serde(default = "default_link_name")]
    link_name: String,
    /// Without one the first host that offers is taken.
    host_id: Option<String>,
    #[serde(default)]
    constraints: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    /// Handed to the provider as it is.
    configuration: Option<String>,
}

/// Starts a provider
#[utoipa::path(post, path = "/api/v1/providers", tag = "providers", request_body = StartProvider,
    responses((status = 202, body = Accepted), (status = 422, body = ErrorBody)))]
pub async fn start(
    State(dashboard): State<Dashboard>,
    Body(start): Body<StartProvider>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let StartProvider {
        reference,
        link_name,
        host_id: host,
        constraints,
        annotations,
        configuration,
    } = start;
    LinkName::parse(&link_name)
        .map_err(|error| Refusal::wrong(format!("link name {link_name:?}: {error}")))?;
    if let Some(Err(unknown)) = builtin::find(&reference) {
        return Err(Refusal::wrong(unknown.to_string()));
    }
    let place = Place::read(&dashboard, &reference, host.as_deref(), constraints)?;
    let operation = NewOperation {
        kind: "start_provider",
        title: format!("Start provider {}", shown(&reference)),
        host_id: host.as_deref().unwrap_or_default(),
        link_name: &link_name,
        ..NewOperation::default()
    };
    let (name, model) = (link_name.clone(), dashboard.model().clone());
    accepted(dashboard.operations().begin(operation, |handle| async move {
        let settled = place.settle(&handle, &reference, Some(&name)).await?;
        handle.stage("command", "");
        let commands = HostCommands::new(&place.lattice, &settled.host, Some(START_WAIT));
        let mut on_step = |step: &lattice_protocol::events::Step| handle.step(step);
        let end = commands
            .start_provider(&reference, &name, &annotations, configuration.as_deref(), &mut on_step)
            .await?;
        let host_name = model.snapshot().host_name(&settled.host);
        place.tidy(&handle, settled);
        Ok(match end {
            Outcome::Unchanged(serving) => End {
                text: format!("It runs on {host_name} already; nothing was changed"),
                target_id: serving.id,
            },
            Outcome::Done(serving, keeping) => {
                let text = format!("Runs on {host_name}{}", keeping.complaint());
                End { text, target_id: serving.id }
            }
            Outcome::Accepted(_) => End::default(),
        })
    }))
}

/// Where a provider is to stop.
#[derive(Deserialize, ToSchema)]
pub struct StopProvider {
    host_id: String,
}

/// Stops a provider on a host
#[utoipa::path(post, path = "/api/v1/providers/{id}/{link_name}/stop", tag = "providers", request_body = StopProvider,
    params(("id" = String, Path), ("link_name" = String, Path)),
    responses((status = 202, body = Accepted), (status = 422, body = ErrorBody)))]
pub async fn stop(
    State(dashboard): State<Dashboard>,
    Path((id, link_name)): Path<(String, String)>,
    Body(stop): Body<StopProvider>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let host = host_id(&stop.host_id)?;
    ProviderId::parse(&id).map_err(|error| Refusal::wrong(format!("provider {id:?}: {error}")))?;
    dashboard.model().mark_viewed().await;
    let snapshot = dashboard.model().snapshot();
    let view = snapshot
        .host(&host)
        .ok_or_else(|| Refusal::not_found(format!("host {host} is not in the lattice")))?;
    let is_it = |provider: &InventoryProvider| provider.id == id && provider.link_name == link_name;
    let found = match view.inventory.providers.iter().find(|provider| is_it(provider)) {
        Some(provider) => Some(provider.clone()),
        // It may have started a moment ago.
        None => dashboard.lattice().inventory(&host).await?.providers.into_iter().find(is_it),
    };
    let provider = found.ok_or_else(|| {
        let text = format!(
            "provider {} does not run on {} under link name {link_name}",
            short(&id),
            view.name
        );
        Refusal::not_found(text)
    })?;
    let name = if provider.name.is_empty() { short(&id) } else { provider.name };
    let (host_name, contract) = (view.name.clone(), provider.contract_id);
    let title = format!("Stop {name} on {host_name}");
    let operation = NewOperation {
        kind: "stop_provider",
        title,
        host_id: &host,
        target_id: &id,
        link_name: &link_name,
        ..NewOperation::default()
    };
    let (lattice, id, link_name, host) =
        (dashboard.lattice().clone(), id.clone(), link_name.clone(), host.clone());
    accepted(dashboard.operations().begin(operation, |handle| async move {
        handle.stage("command", "");
        let keeping = HostCommands::new(&lattice, &host, Some(STOP_WAIT))
            .stop_provider(&id, &link_name, &contract)
            .await?;
        let text = format!("{name} has stopped on {host_name}{}", keeping.complaint());
        Ok(End { text, ..End::default() })
    }))
}
