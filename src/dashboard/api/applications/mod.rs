//! Applications: the list, one of them with what is wanted beside what runs, and its versions.
//!
//! They are asked for over the API that every client uses, whoever keeps them; what a host of this
//! make knows beside it (who acts, since when) comes from the keeping in this host.

pub mod apply;
pub mod change;
mod settle;
mod wanted;

use std::{cmp::Ordering, collections::BTreeMap};

use anyhow::anyhow;
use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use utoipa::{IntoParams, ToSchema};

use super::{
    ErrorBody, Query, Refusal,
    page::{Page, Row, Wanted, name as by_name},
};
use crate::{
    Dashboard,
    auth::Access,
    mask::Mask,
    model::{
        Collection, Snapshot,
        applications::{Keeper, Keeping},
    },
};
use lattice_applications::{rollouts, targets::Target};
use lattice_client::{
    applications::Applications,
    apply::{decide::applied_set, difference::difference, documents::yaml, readable},
};
use lattice_protocol::{
    applications::{
        api::{RolloutStatus, Summary, VersionFigures},
        manifest::Manifest,
        resolved::Application as Resolved,
        rollout::{self, changes},
        validate::is_name,
    },
    links::Table,
};
use wanted::{DeclaredLink, Leftover, Part, Seen, Standing};

/// An application of the list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Application {
    name: String,
    description: String,
    state: Standing,
    /// Why it is not deployed, or what is being done.
    message: Option<String>,
    /// The version that is to run; none if it is not deployed.
    deployed: Option<String>,
    newest: String,
    components: usize,
    /// Instances of actors and providers that are to run, and that do.
    wanted: u64,
    running: u64,
    /// The host that acts for it.
    owner_id: Option<String>,
    owner_name: Option<String>,
    /// When somebody last deployed or undeployed it.
    changed_ms: Option<u64>,
}

impl Mask for Application {
    fn mask(&mut self) {
        self.message = self.message.take().map(|message| wanted::without_words(&message));
    }
}

impl Row for Application {
    fn texts(&self, found: &mut dyn FnMut(&str)) {
        [&self.name, &self.description, &self.newest].into_iter().for_each(|text| found(text));
        let more = [&self.deployed, &self.message, &self.owner_name];
        more.into_iter().flatten().for_each(|text| found(text));
    }

    fn compare(&self, other: &Self, column: &str) -> Ordering {
        match column {
            "state" => self.state.cmp(&other.state),
            "changed" => self.changed_ms.cmp(&other.changed_ms),
            "owner" => self.owner_name.cmp(&other.owner_name),
            "running" => self.running.cmp(&other.running),
            _ => Ordering::Equal,
        }
        .then_with(|| by_name(&self.name, &other.name))
    }
}

/// Something that applications are looked at with.
struct Around<'a> {
    dashboard: &'a Dashboard,
    snapshot: &'a Snapshot,
    table: &'a Table,
}

impl Around<'_> {
    fn target(&self, name: &str) -> Option<Target> {
        self.dashboard.manager().targets.watch().borrow().get(name).cloned()
    }

    fn row(&self, summary: &Summary) -> Application {
        let target = self.target(&summary.name);
        let deployed = target.as_ref().filter(|target| target.is_deployed());
        let rollout = summary.detailed_status.rollout.as_ref();
        let status = &summary.detailed_status;
        let seen = Seen { snapshot: self.snapshot, table: self.table, status };
        let sums = deployed.map(|target| wanted::sums(&to_run(target, rollout), seen));
        let (wanted, running) = sums.unwrap_or_default();
        let leases = &self.dashboard.manager().leases;
        let owner_id = deployed.and_then(|target| leases.owner(&target.name));
        Application {
            name: summary.name.clone(),
            description: summary.description.clone().unwrap_or_default(),
            state: standing(summary),
            message: summary.status_message.clone().filter(|message| !message.is_empty()),
            deployed: summary.deployed_version.clone(),
            newest: summary.version.clone(),
            components: deployed
                .map_or(status.components.len(), |target| target.manifest.spec.components.len()),
            wanted,
            running,
            owner_name: owner_id.as_ref().map(|id| self.snapshot.host_name(id)),
            owner_id,
            changed_ms: target.map(|target| target.at),
        }
    }
}

/// Returns what is to run of a target while a rollout of it goes on.
fn to_run(target: &Target, rollout: Option<&RolloutStatus>) -> Resolved {
    let rollout = rollout.map(|told| &told.rollout).filter(|rollout| rollout.at == target.at);
    Resolved::of(&rollouts::to_run(target, rollout))
}

fn standing(summary: &Summary) -> Standing {
    let rollout = summary.detailed_status.rollout.as_ref();
    let is_rolling = rollout.is_some_and(|told| {
        matches!(told.rollout.state, rollout::State::Running | rollout::State::Paused)
    });
    match Standing::from(summary.status) {
        Standing::Reconciling if is_rolling => Standing::Rolling,
        standing => standing,
    }
}

/// The keeper of the lattice's applications, and why nothing can be done if so
#[utoipa::path(get, path = "/api/v1/keeping", tag = "applications", responses((status = 200, body = Keeping)))]
pub async fn keeping(State(dashboard): State<Dashboard>) -> Json<Keeping> {
    dashboard.model().mark_viewed().await;
    Json(dashboard.model().shelf().now().await.keeping.clone())
}

/// The applications of the lattice
#[utoipa::path(get, path = "/api/v1/applications", tag = "applications", params(Wanted),
    responses((status = 200, body = Page<Application>)))]
pub async fn list(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Query(wanted): Query<Wanted>,
) -> Json<Page<Application>> {
    let model = dashboard.model();
    model.mark_viewed().await;
    let known = model.shelf().now().await;
    let (snapshot, table) = (model.snapshot(), dashboard.parts().context.links.table());
    let around = Around { dashboard: &dashboard, snapshot: &snapshot, table: &table };
    let all = known.all.values().map(|summary| around.row(summary)).collect();
    Json(wanted.page(access.view(all), model.revision(Collection::Applications)))
}

/// An application with all that is known of it.
#[derive(Serialize, ToSchema)]
pub struct ApplicationDetail {
    #[serde(flatten)]
    application: Application,
    keeping: Keeping,
    /// The set that it was applied with.
    set: Option<String>,
    parts: Vec<Part>,
    links: Vec<DeclaredLink>,
    leftovers: Vec<Leftover>,
    rollout: Option<RolloutView>,
    /// Newest first.
    versions: Vec<VersionView>,
}

/// A version of an application.
#[derive(Serialize, ToSchema)]
pub struct VersionView {
    version: String,
    is_deployed: bool,
    /// When it was stored; not known of versions that another manager stored.
    at_ms: Option<u64>,
}

/// A new version that takes over step by step.
#[derive(Serialize, ToSchema)]
pub struct RolloutView {
    from: String,
    to: String,
    /// `running`, `paused`, `takenback` or `done`.
    state: &'static str,
    /// Why it was taken back.
    why: Option<String>,
    /// The step it is at, from 0.
    step: usize,
    steps: Vec<StepView>,
    /// The calls that the new version takes now, in percent.
    share: u8,
    /// Calls of the new version that a step waits for.
    calls_wanted: u64,
    /// The rules by which it is judged, if they are known.
    max_errors_percent: Option<u64>,
    max_p99_percent: Option<u64>,
    components: Vec<String>,
    stable: Figures,
    newer: Figures,
}

/// A step of a rollout.
#[derive(Serialize, ToSchema)]
pub struct StepView {
    percent: u8,
    /// Labels of the hosts that take part.
    requirements: BTreeMap<String, String>,
}

/// The calls of a version in a step.
#[derive(Serialize, ToSchema)]
pub struct Figures {
    calls: u64,
    failed: u64,
    /// The slowest of 100 calls; none without calls.
    p99_us: Option<u64>,
}

impl RolloutView {
    fn of(told: &RolloutStatus, target: Option<&Target>) -> Self {
        let (state, why) = match &told.rollout.state {
            rollout::State::Running => ("running", None),
            rollout::State::Paused => ("paused", None),
            rollout::State::TakenBack { why } => ("takenback", Some(why.clone())),
            rollout::State::Done => ("done", None),
        };
        let before = target.and_then(|target| Some((target.before.as_ref()?, &target.manifest)));
        let changing: Vec<_> =
            before.into_iter().flat_map(|(before, after)| changes(before, after)).collect();
        let policy = changing.first().map(|change| change.policy);
        Self {
            from: told.rollout.from.clone(),
            to: told.rollout.to.clone(),
            state,
            why,
            step: told.rollout.step,
            share: told.share(),
            calls_wanted: told.calls_wanted,
            max_errors_percent: policy.map(|policy| policy.max_errors_percent),
            max_p99_percent: policy.map(|policy| policy.max_p99_percent),
            components: changing.iter().map(|change| change.component.to_owned()).collect(),
            steps: told
                .steps
                .iter()
                .map(|step| StepView {
                    percent: step.percent,
                    requirements: step.requirements.clone(),
                })
                .collect(),
            stable: Figures::of(&told.stable),
            newer: Figures::of(&told.newer),
        }
    }
}

impl Figures {
    fn of(told: &VersionFigures) -> Self {
        let p99_us = (told.calls > 0).then_some(told.p99_us);
        Self { calls: told.calls, failed: told.failed, p99_us }
    }
}

/// Returns a client of the API of applications.
pub fn client(dashboard: &Dashboard) -> Applications {
    let lattice = dashboard.lattice();
    let info = lattice.client.server_info();
    Applications::new(lattice.clone(), &format!("{}:{}", info.host, info.port))
}

/// Refuses what cannot be the name of an application.
fn checked(name: &str) -> Result<(), Refusal> {
    match is_name(name) {
        true => Ok(()),
        false => Err(Refusal::wrong(format!(
            "{name:?} names no application: letters, digits, - and _ only"
        ))),
    }
}

fn no_application(name: &str) -> Refusal {
    Refusal::not_found(format!("there is no application {name} in this lattice"))
}

/// An application with what is wanted beside what runs
#[utoipa::path(get, path = "/api/v1/applications/{name}", tag = "applications", params(("name" = String, Path)),
    responses((status = 200, body = ApplicationDetail), (status = 404, body = ErrorBody)))]
pub async fn one(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
) -> Result<Json<ApplicationDetail>, Refusal> {
    checked(&name)?;
    let model = dashboard.model();
    model.mark_viewed().await;
    let known = model.shelf().now().await;
    let client = client(&dashboard);
    let versions = client.versions(&name).await?.read()?;
    let (Some(versions), Some(summary)) = (versions, known.all.get(&name)) else {
        // The list may be of a moment ago.
        model.shelf().want();
        return Err(no_application(&name));
    };
    let (snapshot, table) = (model.snapshot(), dashboard.parts().context.links.table());
    let around = Around { dashboard: &dashboard, snapshot: &snapshot, table: &table };
    let target = around.target(&name);
    let deployed = target.clone().filter(|target| target.is_deployed());
    let manifest = match &deployed {
        Some(target) => Some(target.manifest.clone()),
        None => {
            let version = summary.deployed_version.as_ref().unwrap_or(&summary.version);
            readable(&client, &name, version).await?
        }
    };
    let status = &summary.detailed_status;
    let seen = Seen { snapshot: &snapshot, table: &table, status };
    let told = status.rollout.as_ref().filter(|_| deployed.is_some());
    // The runs of an application that is not deployed are on their way out.
    let resolved = match (&deployed, &manifest) {
        (Some(target), _) => to_run(target, told),
        (None, Some(manifest)) if summary.deployed_version.is_some() => Resolved::of(manifest),
        _ => Resolved { name: name.clone(), ..Resolved::default() },
    };
    let parts =
        manifest.as_ref().map(|one| wanted::parts(one, &resolved, seen)).unwrap_or_default();
    let links = manifest.as_ref().map(|one| wanted::links(one, status)).unwrap_or_default();
    let set = manifest.as_ref().and_then(applied_set).map(str::to_owned);
    let versions = versions.versions.into_iter().rev().map(|one| VersionView {
        version: one.version,
        is_deployed: one.deployed,
        at_ms: one.at,
    });
    Ok(Json(ApplicationDetail {
        application: access.view(around.row(summary)),
        keeping: known.keeping.clone(),
        set,
        parts: access.view(parts),
        links: access.view(links),
        leftovers: wanted::leftovers(&resolved, &snapshot),
        rollout: told.map(|told| RolloutView::of(told, deployed.as_ref())),
        versions: versions.collect(),
    }))
}

/// Which versions are compared.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Compared {
    /// Nothing shows the whole of the other.
    #[serde(default)]
    from: String,
    to: String,
}

/// The lines in which two versions differ.
#[derive(Serialize, ToSchema)]
pub struct Difference {
    from: String,
    to: String,
    /// As `diff -u` writes it; empty if nothing differs that is shown.
    text: String,
    /// They differ in values that are not shown.
    hides: bool,
}

impl Difference {
    fn of(from: Option<&Manifest>, to: &Manifest, is_operator: bool) -> Self {
        let version = |manifest: &Manifest| manifest.version().to_owned();
        let masked = |manifest: &Manifest| wanted::shown(manifest, is_operator);
        let shown = difference(from.map(masked).as_ref(), &masked(to));
        let lines = |text: &str| text.lines().filter(|line| line.starts_with(['+', '-'])).count();
        Self {
            from: from.map(version).unwrap_or_default(),
            to: version(to),
            hides: lines(&shown) != lines(&difference(from, to)),
            text: shown,
        }
    }
}

/// The difference between two versions of an application
#[utoipa::path(get, path = "/api/v1/applications/{name}/difference", tag = "applications",
    params(("name" = String, Path), Compared),
    responses((status = 200, body = Difference), (status = 404, body = ErrorBody)))]
pub async fn compare(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    Query(Compared { from, to }): Query<Compared>,
) -> Result<Json<Difference>, Refusal> {
    checked(&name)?;
    let before = match from.is_empty() {
        true => None,
        false => Some(version_of(&dashboard, &name, &from).await?),
    };
    let after = version_of(&dashboard, &name, &to).await?;
    let is_operator = access == Access::Operator;
    apart(move || Json(Difference::of(before.as_ref(), &after, is_operator))).await
}

/// Compares beside what waits for others: of large manifests it is work for the processor.
async fn apart<T: Send + 'static>(
    compare: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let compared = spawn_blocking(compare).await;
    Ok(compared.map_err(|failure| anyhow!("comparing the manifests failed: {failure}"))?)
}

async fn version_of(dashboard: &Dashboard, name: &str, version: &str) -> Result<Manifest, Refusal> {
    readable(&client(dashboard), name, version).await?.ok_or_else(|| {
        Refusal::not_found(format!("{name} has no version {version} that this host can read"))
    })
}

/// Which version.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WhichVersion {
    version: String,
}

/// A version of an application as text.
#[derive(Serialize, ToSchema)]
pub struct ManifestText {
    version: String,
    /// YAML; secrets are not in it.
    text: String,
}

/// The manifest of a version
#[utoipa::path(get, path = "/api/v1/applications/{name}/manifest", tag = "applications",
    params(("name" = String, Path), WhichVersion),
    responses((status = 200, body = ManifestText), (status = 404, body = ErrorBody)))]
pub async fn manifest(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    Query(WhichVersion { version }): Query<WhichVersion>,
) -> Result<Json<ManifestText>, Refusal> {
    checked(&name)?;
    let manifest = version_of(&dashboard, &name, &version).await?;
    let text = yaml(&wanted::shown(&manifest, access == Access::Operator))?;
    Ok(Json(ManifestText { version: manifest.version().to_owned(), text }))
}

/// Refuses changes where somebody else keeps applications, or nobody can.
async fn changeable(dashboard: &Dashboard) -> Result<(), Refusal> {
    dashboard.model().mark_viewed().await;
    let Keeping { keeper, text, advice } = dashboard.model().shelf().now().await.keeping.clone();
    let told = [text, advice].into_iter().flatten().collect::<Vec<_>>().join(" ");
    match keeper {
        Keeper::Hosts | Keeper::Unknown => Ok(()),
        Keeper::Manager => Err(Refusal::new(StatusCode::CONFLICT, told)),
        Keeper::Nobody | Keeper::Unavailable => Err(Refusal::new(StatusCode::BAD_GATEWAY, told)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::applications::decode::{Format, decode};

    fn manifest(version: &str, token: &str, image: &str) -> Manifest {
        let text = format!(
            "{{apiVersion: core.oam.dev/v1beta1, kind: Application, metadata: {{name: shop, annotations: {{version: {version}}}}}, \
             spec: {{components: [{{name: front, type: actor, properties: {{image: {image}}}, traits: [{{type: linkdef, \
             properties: {{target: web, values: {{token: {token}}}}}}}]}}, {{name: web, type: capability, properties: {{image: w, \
             contract: c}}}}]}}}}"
        );
        decode(text.as_bytes(), Format::Yaml).unwrap().manifest
    }

    #[test]
    fn a_difference_of_secrets_is_told_and_not_shown() {
        let before = manifest("v1", "abcdefgh", "a");
        for (after, hides, shows) in [
            (manifest("v1", "abcdefgh", "a"), false, ""),
            (manifest("v1", "abcdefgX", "a"), true, ""),
            (manifest("v1", "abcdefgh", "b"), false, "image: b"),
            (manifest("v1", "abcdefgX", "b"), true, "image: b"),
        ] {
            let told = Difference::of(Some(&before), &after, true);
            assert_eq!(told.hides, hides, "{}", told.text);
            assert!(told.text.contains(shows) && !told.text.contains("abcdefg"), "{}", told.text);
        }
    }
}
