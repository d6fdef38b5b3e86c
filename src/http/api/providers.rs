//! Providers: the list over all hosts, one of them, what is built in, and what can be done.

use std::collections::BTreeMap;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Ask, Body, ErrorBody, Refusal,
    actors::{OperationRow, Place, operations, shown},
    claims::Claims,
    hosts::host_id,
    links::{Link, Links, default_link_name},
    logs::{self, LogLine},
    operations::{Accepted, accepted},
    page::{Page, Wanted, name, number},
};
use crate::{
    client::act::{Act, End as Ended, START_WAIT, STOP_WAIT},
    control::types::InventoryProvider,
    http::{
        Dashboard,
        door::Access,
        mask::{Mask, hide},
        model::{
            Collection, HostView, ProviderState, ProviderSum, State as HostState,
            events::short,
            rates::{Of, Rate, Rates, Series},
        },
        operations::{Begun, End},
    },
    identity::keys::{LinkName, ProviderId},
    links::Table,
    providers::builtin::{self, CATALOGUE, SCHEME, Spec},
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
    fn of(host: &HostView) -> Self {
        Self { host_id: host.id.to_string(), host_name: host.name.clone(), host_state: host.state }
    }
}

impl Provider {
    fn of((id, link_name): (&str, &str), sum: &ProviderSum, table: &Table, rates: &Rates) -> Self {
        let claims = table.claims(id);
        let healths: Vec<_> = sum.hosts.iter().map(|host| host.provider_health(id, link_name)).collect();
        let health = if healths.contains(&ProviderState::Unhealthy) {
            ProviderState::Unhealthy
        } else if healths.contains(&ProviderState::Healthy) {
            ProviderState::Healthy
        } else {
            ProviderState::Unknown
        };
        let claimed = |part: fn(&crate::links::Claims) -> &String| claims.map(|c| part(c).clone()).unwrap_or_default();
        Self {
            id: id.to_owned(),
            link_name: link_name.to_owned(),
            contract_id: match sum.contract_id.is_empty() {
                true => claimed(|claims| &claims.contract_id),
                false => sum.contract_id.clone(),
            },
            name: match sum.name.is_empty() {
                true => claimed(|claims| &claims.name),
                false => sum.name.clone(),
            },
            references: sum.references.iter().cloned().collect(),
            health,
            hosts: sum.hosts.iter().map(|host| HostRef::of(host)).collect(),
            links: table.links_of(id, link_name).count(),
            rates: rates.target(id, link_name),
        }
    }
}

/// The providers that run
#[utoipa::path(get, path = "/api/v1/providers", tag = "providers", params(Wanted),
    responses((status = 200, body = Page<Provider>)))]
pub async fn list(State(dashboard): State<Dashboard>, Ask(wanted): Ask<Wanted>) -> Json<Page<Provider>> {
    let model = dashboard.model();
    model.look().await;
    let (picture, rates, table) = (model.picture(), model.rates(), dashboard.parts().links.table());
    let is_there = |sum: &ProviderSum| wanted.host.is_empty() || sum.hosts.iter().any(|host| *host.id == *wanted.host);
    let providers = picture.index().providers.iter().filter(|(_, sum)| is_there(sum));
    let all = providers.map(|((id, link), sum)| Provider::of((id, link), sum, &table, &rates)).collect();
    let texts = |row: &Provider, found: &mut dyn FnMut(&str)| {
        [&row.id, &row.name, &row.link_name, &row.contract_id].into_iter().for_each(|text| found(text));
        row.references.iter().for_each(|text| found(text));
    };
    let order = |column: &str, a: &Provider, b: &Provider| {
        let calls = |row: &Provider| row.rates.as_ref().map(|rates| rates.calls_per_s);
        let p99 = |row: &Provider| row.rates.as_ref().and_then(|rates| rates.p99_us);
        match column {
            "contract_id" => a.contract_id.cmp(&b.contract_id),
            "link_name" => a.link_name.cmp(&b.link_name),
            "links" => a.links.cmp(&b.links),
            "hosts" => a.hosts.len().cmp(&b.hosts.len()),
            "health" => (a.health as u8).cmp(&(b.health as u8)),
            "calls" | "calls_per_s" => number(calls(a), calls(b)),
            "p99" | "p99_us" => number(p99(a), p99(b)),
            _ => name(&a.name, &b.name),
        }
        .then_with(|| name(&a.name, &b.name))
        .then_with(|| (&a.id, &a.link_name).cmp(&(&b.id, &b.link_name)))
    };
    Json(wanted.page(all, model.revision(Collection::Providers), texts, order))
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
    reference: String,
    annotations: BTreeMap<String, String>,
    health: ProviderState,
    phase: Option<String>,
    crashes: Option<u32>,
    complaint: Option<String>,
}

impl Mask for ProviderInstance {
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
    let known = |value: &builtin::Value| KnownValue { name: value.name, default: value.default, help: value.help };
    spec.values.iter().map(known).collect()
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
    model.look().await;
    let (picture, rates, table) = (model.picture(), model.rates(), dashboard.parts().links.table());
    let sum = picture.index().providers.get(&(id.clone(), link_name.clone()));
    let claims = table.claims(&id).filter(|claims| claims.is_provider());
    if sum.is_none() && claims.is_none() {
        let text =
            format!("provider {id} runs nowhere under link name {link_name}, and the lattice has no claims of it");
        return Err(Refusal::not_found(text));
    }
    let nowhere = ProviderSum::default();
    let sum = sum.unwrap_or(&nowhere);
    let (operations, said) = tokio::join!(
        operations(&dashboard, &id, &link_name, &sum.hosts),
        logs::lines(&dashboard, &id, &sum.hosts, logs::TAIL)
    );
    let said =
        said.unwrap_or_default().into_iter().filter(|line| line.link_name == link_name || line.link_name.is_empty());
    let provider = Provider::of((&id, &link_name), sum, &table, &rates);
    let by_contract = |spec: &&&Spec| spec.public_key == id || spec.contract_id == provider.contract_id;
    Ok(Json(ProviderDetail {
        claims: claims.map(|claims| Claims::of(claims, !sum.hosts.is_empty())),
        instances: access.view(sum.hosts.iter().flat_map(|host| instances(host, &id, &link_name)).collect()),
        links_to: Links::new(&table, &picture, model.own_id(), access)
            .all(|link| link.provider_id == id && link.link_name == link_name),
        series: model.history().series(&Of::Target(id.clone(), link_name.clone())),
        operations,
        values: CATALOGUE.iter().find(by_contract).map(|spec| known_values(spec)).unwrap_or_default(),
        last_errors: access.view(logs::errors(said.collect())),
        provider,
    }))
}

fn instances(host: &HostView, id: &str, link_name: &str) -> Vec<ProviderInstance> {
    let of_it = host.inventory.providers.iter().filter(|p| p.id == id && p.link_name == link_name);
    let told = host.health.as_ref().and_then(|health| health.provider(id, link_name));
    let instance = |provider: &crate::control::types::InventoryProvider| ProviderInstance {
        host: HostRef::of(host),
        reference: provider.image_ref.clone(),
        annotations: provider.annotations.clone(),
        health: host.provider_health(id, link_name),
        phase: told.map(|told| told.phase.clone()),
        crashes: told.map(|told| told.crashes),
        complaint: told.and_then(|told| told.complaint.clone()),
    };
    of_it.map(instance).collect()
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
    let one = |spec: &&'static Spec| BuiltinProvider {
        reference: format!("{SCHEME}{}", spec.name),
        name: spec.name,
        title: spec.title,
        contract_id: spec.contract_id,
        about: spec.about,
        public_key: spec.public_key,
        values: known_values(spec),
    };
    Json(Builtins { items: CATALOGUE.iter().map(one).collect() })
}

/// Where and how a provider is to start.
#[derive(Debug, Deserialize, ToSchema)]
pub struct StartProvider {
    /// `builtin://httpserver`, `registry.example/redis:0.3`, `file:///path/on/the/host.par.gz`, or what an upload answered.
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
    let StartProvider { reference, link_name, host_id: host, constraints, annotations, configuration } = start;
    LinkName::parse(&link_name).map_err(|error| Refusal::wrong(format!("link name {link_name:?}: {error}")))?;
    if let Some(Err(unknown)) = builtin::find(&reference) {
        return Err(Refusal::wrong(unknown.to_string()));
    }
    let place = Place::read(&dashboard, &reference, host.as_deref(), constraints)?;
    let begun = Begun {
        kind: "start_provider",
        title: format!("Start provider {}", shown(&reference)),
        host_id: host.as_deref().unwrap_or_default(),
        link_name: &link_name,
        ..Begun::default()
    };
    let (name, model) = (link_name.clone(), dashboard.model().clone());
    accepted(dashboard.operations().begin(begun, |work| async move {
        let settled = place.settle(&work, &reference, Some(&name)).await?;
        work.stage("command", "");
        let act = Act::new(&place.lattice, &settled.host, Some(START_WAIT));
        let mut on_step = |step: &crate::control::types::Step| work.step(step);
        let end = act.start_provider(&reference, &name, &annotations, configuration.as_deref(), &mut on_step).await?;
        let host_name = model.picture().host_name(&settled.host);
        place.tidy(&work, settled);
        Ok(match end {
            Ended::Before(serving) => {
                End { text: format!("It runs on {host_name} already; nothing was changed"), target_id: serving.id }
            }
            Ended::Done(serving) => End { text: format!("Runs on {host_name}"), target_id: serving.id },
            Ended::Asked => End::default(),
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
    dashboard.model().look().await;
    let picture = dashboard.model().picture();
    let view = picture.host(&host).ok_or_else(|| Refusal::not_found(format!("host {host} is not in the lattice")))?;
    let is_it = |provider: &InventoryProvider| provider.id == id && provider.link_name == link_name;
    let found = match view.inventory.providers.iter().find(|provider| is_it(provider)) {
        Some(provider) => Some(provider.clone()),
        // It may have started a moment ago.
        None => dashboard.lattice().inventory(&host).await?.providers.into_iter().find(is_it),
    };
    let provider = found.ok_or_else(|| {
        let text = format!("provider {} does not run on {} under link name {link_name}", short(&id), view.name);
        Refusal::not_found(text)
    })?;
    let name = if provider.name.is_empty() { short(&id) } else { provider.name };
    let (host_name, contract) = (view.name.clone(), provider.contract_id);
    let title = format!("Stop {name} on {host_name}");
    let begun = Begun { kind: "stop_provider", title, host_id: &host, target_id: &id, link_name: &link_name };
    let (lattice, id, link_name, host) = (dashboard.lattice().clone(), id.clone(), link_name.clone(), host.clone());
    accepted(dashboard.operations().begin(begun, |work| async move {
        work.stage("command", "");
        Act::new(&lattice, &host, Some(STOP_WAIT)).stop_provider(&id, &link_name, &contract).await?;
        Ok(End { text: format!("{name} has stopped on {host_name}"), ..End::default() })
    }))
}
