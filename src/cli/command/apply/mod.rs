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

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::Value;
use tokio::time::Instant;

use super::{Faults, manager, start::show_step};
use crate::{
    args::{app::Apply, flags::SettingArgs},
    terminal::{Progress, Terminal},
};
use decide::{Action, Kept, OtherContent, applied_set, decide, set_to_prune};
use files::{File, Found};
use lattice_client::{
    applications::{Answer, Applications, Awaited, News, Refused, StatusWatch},
    commands::START_WAIT,
};
use lattice_protocol::{
    applications::{
        api::{Delete, PutReply, Summary},
        manifest::{APPLIED_SET, Manifest},
        validate::is_name,
    },
    errors::OutcomeUnknown,
};
use show::{Applied, Change, Row, Shortfall, Trouble};

pub async fn run(terminal: &Terminal, before: SettingArgs, args: Apply) -> Result<()> {
    let words = [&args.manifests[..], &args.files[..]].concat();
    let Found { applications: files, notes, mut mistakes } =
        Found::read(&words, args.set.as_deref()).await;
    notes.iter().for_each(|note| terminal.note(note));
    if !mistakes.is_empty() {
        mistakes.push("nothing was applied; correct this, and apply again".into());
        bail!(Faults(mistakes));
    }
    let set = match args.prune {
        true => set_to_prune(files.iter().map(|file| &file.wanted))?.map(str::to_owned),
        false => None,
    };
    let applications = manager::connect(before, &args.connect).await?;
    let mut progress = terminal.progress();
    progress.stage("compare", "");
    let steps = compared(&applications, files).await?;
    let Prunable { names: gone, notes } = match &set {
        Some(set) => prunable(&applications, &steps, set).await?,
        None => Prunable::default(),
    };
    let of_steps = steps.iter().flat_map(|step| [step.other_set(), step.unread()]).flatten();
    of_steps.chain(notes).for_each(|note| terminal.note(note));
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
    outcome(applied.rows.iter().filter_map(Row::shortfall))
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

    /// Returns a note about an application whose manifest cannot be compared.
    fn unread(&self) -> Option<String> {
        let Kept { deployed, newest, .. } = &self.kept;
        let version = deployed.as_ref().or(newest.as_ref())?;
        self.kept.before().is_none().then(|| {
            format!(
                "{} {version}, which it takes the place of, cannot be read here; so the whole manifest counts as new",
                self.manifest().name()
            )
        })
    }

    /// Returns what is waited for, unless it was not even deployed.
    fn awaited(&self, row: &Row) -> Option<Awaited> {
        let components = self.manifest().spec.components.iter();
        let images = components.map(|component| component.properties.image().to_owned()).collect();
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
            Action::Leave => Ok(Vec::new()),
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
            Err(error) => row.error = Some(error.into()),
        }
        row
    }

    /// Returns the warnings of the host that took it.
    async fn send(&self, applications: &Applications) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        if self.action != Action::Deploy {
            let reply = applications.put(serde_json::to_vec(self.manifest())?).await?.read()?;
            warnings.extend(reply.iter().flat_map(PutReply::warnings).map(str::to_owned));
        }
        let (name, version) = (self.manifest().name(), self.manifest().version());
        applications.deploy(name, Some(version)).await?.found()?;
        Ok(warnings)
    }
}

/// Compares each application with what the lattice has of it. A version that is stored with another
/// content is a mistake, and all of these are told together.
async fn compared(applications: &Applications, files: Vec<File>) -> Result<Vec<Step>> {
    let (mut steps, mut refused) = (Vec::new(), Vec::new());
    for file in files {
        let manifest = &file.wanted.manifest;
        let (name, version) = (manifest.name(), manifest.version());
        let kept = kept(applications, name, version).await?;
        match decide(&kept, &file.wanted) {
            Ok(action) => steps.push(Step { file, kept, action }),
            Err(OtherContent) => refused.push(format!(
                "{}: version {version} of {name} is stored with another content (`host app get {name} {version}`), and a stored \
                 version never changes; give the manifest another version annotation, or none, and one is made from its content",
                file.place
            )),
        }
    }
    if refused.is_empty() { Ok(steps) } else { bail!(Faults(refused)) }
}

/// Returns what the lattice has of an application, as far as it matters for this version.
async fn kept(applications: &Applications, name: &str, version: &str) -> Result<Kept> {
    let reply = applications.versions(name).await?.read()?;
    let versions = reply.map(|reply| reply.versions).unwrap_or_default();
    let deployed = versions.iter().find(|one| one.deployed).map(|one| one.version.clone());
    let newest = versions.last().map(|one| one.version.clone());
    let mut manifests = BTreeMap::new();
    for one in versions.into_iter().map(|one| one.version) {
        if one == version || [&deployed, &newest].contains(&&Some(one.clone())) {
            let manifest = stored(applications, name, &one).await?;
            manifests.insert(one, manifest.and_then(|one| serde_json::from_value(one).ok()));
        }
    }
    Ok(Kept { deployed, newest, manifests })
}

/// Returns a stored version, if it is there.
async fn stored(applications: &Applications, name: &str, version: &str) -> Result<Option<Value>> {
    let reply = applications.get(name, Some(version)).await?.read()?;
    Ok(reply.and_then(|reply| reply.manifest))
}

/// Applications that a set has no longer.
#[derive(Debug, Default)]
struct Prunable {
    names: Vec<String>,
    /// About those whose set is not known.
    notes: Vec<String>,
}

/// Returns the applications that were applied with a set before, and are in no file.
async fn prunable(applications: &Applications, steps: &[Step], set: &str) -> Result<Prunable> {
    let listed = applications.list().await?.read()?.unwrap_or_default();
    let others = listed.into_iter().filter(|one| {
        is_name(&one.name) && steps.iter().all(|step| step.manifest().name() != one.name)
    });
    let mut found = Prunable::default();
    for Summary { name, version, deployed_version, .. } in others {
        let version = deployed_version.unwrap_or(version);
        match stored(applications, &name, &version).await {
            Ok(Some(manifest)) if set_of(&manifest) == Some(set) => found.names.push(name),
            Ok(_) => {}
            // Of one record; the others can be read.
            Err(error) if error.is::<Refused>() => found.notes.push(format!(
                "{name} is not pruned, because nobody knows to which set it belongs: {error}"
            )),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Returns the set of a stored manifest, whatever its form is.
fn set_of(manifest: &Value) -> Option<&str> {
    manifest.get("metadata")?.get("annotations")?.get(APPLIED_SET)?.as_str()
}

/// Takes an application away: what runs of it, and its versions.
async fn prune(applications: &Applications, name: &str, progress: &mut Progress) -> Row {
    progress.stage(&format!("prune {name}"), "");
    let deleted = applications.delete(name, Delete::All).await.and_then(Answer::found);
    Row { error: deleted.err().map(Trouble::from), ..Row::pruned(name) }
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
fn outcome(shortfalls: impl Iterator<Item = Shortfall>) -> Result<()> {
    let (mut failed, mut open) = (Vec::new(), Vec::new());
    for shortfall in shortfalls {
        match shortfall {
            Shortfall::Failed(line) => failed.push(line),
            Shortfall::Open(line) => open.push(line),
        }
    }
    match (failed.is_empty(), open.is_empty()) {
        (true, true) => Ok(()),
        (true, false) => bail!(OutcomeUnknown(open.join("; "))),
        (false, _) => bail!(Faults([failed, open].concat())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_has_an_exit_code_of_its_own_unless_something_failed() {
        let failed = || Shortfall::Failed("shop failed".into());
        let open = || Shortfall::Open("pets is open".into());
        assert!(outcome([].into_iter()).is_ok());
        for (shortfalls, is_unknown, told) in [
            (vec![open(), open()], true, "pets is open; pets is open"),
            (vec![open(), failed()], false, "shop failed\npets is open"),
            (vec![failed()], false, "shop failed"),
        ] {
            let error = outcome(shortfalls.into_iter()).unwrap_err();
            assert_eq!(error.is::<OutcomeUnknown>(), is_unknown);
            assert_eq!(error.to_string(), told);
        }
    }
}
