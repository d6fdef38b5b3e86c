//! `host apply`: makes applications run as manifests say.
//!
//! ```text
//! files ─▶ check all ─▶ compare with what is stored and deployed ─▶ put, deploy, prune ─▶ wait for statuses
//! ```
//!
//! Up to the comparison nothing is sent that changes anything; `--dry-run` ends there.

mod decide;
mod files;
mod show;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow, bail};
use serde_json::json;
use tokio::time::Instant;

use super::{Faults, manager, start::show_step};
use crate::{
    args::{app::Apply, flags::SettingArgs},
    terminal::{Progress, Terminal},
};
use decide::{Action, Kept, applied_set, decide, set_of};
use files::{File, Found};
use lattice_client::{
    applications::{Applications, Awaited, News, StatusWatch},
    commands::START_WAIT,
};
use lattice_protocol::{
    applications::{
        api::{GetReply, PutReply, StatusType, Summary, VersionsReply},
        manifest::{Manifest, Properties},
        validate::is_name,
    },
    errors::OutcomeUnknown,
};
use show::{Applied, Change, Row};

/// The mark of a warning in the answer to a put.
const WARNING: &str = ". Warning: ";

pub async fn run(terminal: &Terminal, before: SettingArgs, args: Apply) -> Result<()> {
    let words = [&args.manifests[..], &args.files[..]].concat();
    let Found { applications: files, notes, mistakes } =
        Found::read(&words, args.set.as_deref()).await;
    notes.iter().for_each(|note| terminal.note(note));
    if !mistakes.is_empty() {
        bail!(Faults(mistakes));
    }
    let applications = manager::connect(before, &args.connect).await?;
    let mut progress = terminal.progress();
    progress.stage("compare", "");
    let steps = compared(&applications, files).await?;
    let gone = match args.prune {
        true => prunable(&applications, &steps, set_of(args.set.as_deref())).await?,
        false => Vec::new(),
    };
    refuse(&steps)?;
    steps.iter().filter_map(Step::other_set).for_each(|note| terminal.note(note));
    if args.dry_run {
        drop(progress);
        let rows = steps.iter().map(Step::row).chain(gone.iter().map(Row::pruned));
        return terminal.show(&Applied { rows: rows.collect(), is_dry_run: true });
    }
    let watch = StatusWatch::open(&applications).await?;
    let mut rows = Vec::new();
    for step in &steps {
        rows.push(step.carry_out(&applications, &mut progress, terminal).await);
    }
    if rows.iter().all(|row| row.error.is_none()) {
        for name in &gone {
            rows.push(prune(&applications, name, &mut progress).await);
        }
    } else if !gone.is_empty() {
        terminal.note(format!("not pruned, because not all could be applied: {}", gone.join(", ")));
    }
    if let Some(wait) = args.wait(START_WAIT) {
        let awaited: Vec<Awaited> =
            steps.iter().zip(&rows).filter_map(|(step, row)| step.awaited(row)).collect();
        let on_news = &mut |news: News<'_>| tell(&mut progress, news);
        let mut statuses = watch.wait(&awaited, Instant::now() + wait, on_news).await;
        rows.iter_mut().for_each(|row| row.status = statuses.remove(&row.name));
    }
    drop(progress);
    let applied = Applied { rows, is_dry_run: false };
    terminal.show(&applied)?;
    outcome(&applied.rows)
}

/// An application of a file, with what is to be done for it.
struct Step {
    file: File,
    kept: Kept,
    action: Action,
}

impl Step {
    fn manifest(&self) -> &Manifest {
        &self.file.wanted.manifest
    }

    /// Returns the version that is to run: that of the same content where nothing is to be done.
    fn version(&self) -> &str {
        match (self.action, &self.kept.deployed) {
            (Action::Leave, Some(deployed)) => deployed,
            _ => self.manifest().version(),
        }
    }

    fn row(&self) -> Row {
        let diff = match self.action {
            Action::Leave => String::new(),
            _ => show::difference(self.kept.before(), self.manifest()),
        };
        Row {
            name: self.manifest().name().to_owned(),
            version: self.version().to_owned(),
            change: Change::Applied(self.action),
            diff,
            status: None,
            error: None,
        }
    }

    /// Returns a note about an application that another set may take away.
    fn other_set(&self) -> Option<String> {
        let set = self.kept.before().and_then(applied_set)?;
        let is_other = self.action == Action::Leave && Some(set) != applied_set(self.manifest());
        is_other.then(|| {
            format!(
                "{} {} belongs to set {set:?}, as it was applied first; only a new version can belong to another one",
                self.manifest().name(),
                self.version()
            )
        })
    }

    /// Returns what is waited for, unless it was not even deployed.
    fn awaited(&self, row: &Row) -> Option<Awaited> {
        let components = &self.manifest().spec.components;
        let images: BTreeSet<String> = components
            .iter()
            .map(|component| match &component.properties {
                Properties::Actor(actor) => actor.image.clone(),
                Properties::Capability(provider) => provider.image.clone(),
            })
            .collect();
        let (name, version) = (row.name.clone(), row.version.clone());
        row.error.is_none().then_some(Awaited { name, version, images })
    }

    /// Puts and deploys what is to be.
    async fn carry_out(
        &self,
        applications: &Applications,
        progress: &mut Progress,
        terminal: &Terminal,
    ) -> Row {
        let mut row = self.row();
        let sent = match self.action {
            Action::Leave | Action::Refuse => Ok(Vec::new()),
            Action::Create | Action::Update | Action::Deploy => {
                progress.stage(&format!("deploy {}", row.name), "");
                self.send(applications).await
            }
        };
        match sent {
            Ok(warnings) => {
                warnings
                    .iter()
                    .for_each(|warning| terminal.note(format!("{}: {warning}", row.name)));
            }
            Err(error) => row.error = Some(format!("{error:#}")),
        }
        row
    }

    /// Returns the warnings of the host that took it.
    async fn send(&self, applications: &Applications) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        if self.action != Action::Deploy {
            let manifest = serde_json::to_vec(self.manifest())?;
            let reply: Option<PutReply> = applications.find("put", None, manifest).await?;
            let message = reply.map(|reply| reply.message).unwrap_or_default();
            warnings.extend(message.split(WARNING).skip(1).map(str::to_owned));
        }
        let request = json!({ "version": self.manifest().version() });
        applications.ask("deploy", Some(self.manifest().name()), request.to_string()).await?;
        Ok(warnings)
    }
}

/// Compares each application with what the lattice has of it.
async fn compared(applications: &Applications, files: Vec<File>) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for file in files {
        let manifest = &file.wanted.manifest;
        let kept = kept(applications, manifest.name(), manifest.version()).await?;
        let action = decide(&kept, &file.wanted);
        steps.push(Step { file, kept, action });
    }
    Ok(steps)
}

/// Returns what the lattice has of an application, as far as it matters for this version.
async fn kept(applications: &Applications, name: &str, version: &str) -> Result<Kept> {
    let reply: Option<VersionsReply> = applications.find("versions", Some(name), "").await?;
    let versions = reply.map(|reply| reply.versions).unwrap_or_default();
    let deployed = versions.iter().find(|one| one.deployed).map(|one| one.version.clone());
    let newest = versions.last().map(|one| one.version.clone());
    let mut manifests = BTreeMap::new();
    for one in versions.into_iter().map(|one| one.version) {
        if one == version || [&deployed, &newest].contains(&&Some(one.clone())) {
            let manifest = stored(applications, name, &one).await?;
            manifests.insert(one, manifest);
        }
    }
    Ok(Kept { deployed, newest, manifests })
}

/// Returns a stored version, if it can be read here.
async fn stored(
    applications: &Applications,
    name: &str,
    version: &str,
) -> Result<Option<Manifest>> {
    let request = json!({ "version": version }).to_string();
    let reply: Option<GetReply> = applications.find("get", Some(name), request).await?;
    let manifest = reply.and_then(|reply| reply.manifest);
    Ok(manifest.and_then(|manifest| serde_json::from_value(manifest).ok()))
}

/// Returns the names of the applications that were applied with a set before, and are in no file.
async fn prunable(applications: &Applications, steps: &[Step], set: &str) -> Result<Vec<String>> {
    let listed: Option<Vec<Summary>> = applications.find("list", None, "").await?;
    let mut names = Vec::new();
    for Summary { name, version, deployed_version, .. } in listed.unwrap_or_default() {
        if !is_name(&name) || steps.iter().any(|step| step.manifest().name() == name) {
            continue;
        }
        let version = deployed_version.unwrap_or(version);
        let manifest = stored(applications, &name, &version).await?;
        if manifest.as_ref().and_then(applied_set) == Some(set) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Takes an application away: what runs of it, and its versions.
async fn prune(applications: &Applications, name: &str, progress: &mut Progress) -> Row {
    progress.stage(&format!("prune {name}"), "");
    let request = json!({ "version": "", "delete_all": true });
    let deleted = applications.ask("del", Some(name), request.to_string()).await;
    Row { error: deleted.err().map(|error| format!("{error:#}")), ..Row::pruned(name) }
}

/// Refuses everything if a version is stored with another content.
fn refuse(steps: &[Step]) -> Result<()> {
    let refused = steps.iter().filter(|step| step.action == Action::Refuse).map(|step| {
        let (name, version) = (step.manifest().name(), step.manifest().version());
        format!(
            "{}: version {version} of {name} is stored with another content (`host app get {name} {version}`), and a stored \
             version never changes; give the manifest another version annotation, or none, and one is made from its content",
            step.file.place
        )
    });
    let refused: Vec<String> = refused.collect();
    if refused.is_empty() { Ok(()) } else { Err(anyhow!(Faults(refused))) }
}

fn tell(progress: &mut Progress, news: News<'_>) {
    match news {
        News::Status(name, info) => {
            progress.stage(&format!("{name} {}", show::word(info.kind)), info.message.clone());
        }
        News::Step(step) => show_step(progress, step),
    }
}

/// Says whether everything is as it is to be; an error names what is not.
fn outcome(rows: &[Row]) -> Result<()> {
    let failures: Vec<String> = rows.iter().filter_map(Row::failure).collect();
    if !failures.is_empty() {
        bail!(Faults(failures));
    }
    let pending = rows.iter().filter_map(|row| {
        let info = row.status.as_ref().filter(|info| info.kind != StatusType::Deployed)?;
        Some(format!("{} is {}: {}", row.name, show::word(info.kind), info.message))
    });
    let pending: Vec<String> = pending.collect();
    if pending.is_empty() {
        return Ok(());
    }
    bail!(OutcomeUnknown(format!(
        "the time is over, and hosts go on with it: {}. `host app status NAME` shows how it gets on; --wait-ms waits longer",
        pending.join(", ")
    )))
}
