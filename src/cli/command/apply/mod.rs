//! `host apply`: makes applications run as manifests say.
//!
//! ```text
//! files ─▶ check all ─▶ compare with what is stored and deployed ─▶ put, deploy, prune ─▶ wait for statuses
//! ```
//!
//! Up to the comparison nothing is sent that changes anything; `--dry-run` ends there.

mod files;
mod show;

use anyhow::{Result, bail};
use serde_json::Value;
use tokio::time::Instant;

use super::{manager, start::show_step};
use crate::{
    args::{app::Apply, flags::SettingArgs},
    terminal::{Progress, Terminal},
};
use files::read_all;
use lattice_client::{
    applications::{Answer, Applications, Awaited, News, Refused, StatusWatch},
    apply::{
        Clash, Compared, Step,
        decide::{Action, set_to_prune},
        documents::Found,
        stored,
    },
    commands::START_WAIT,
};
use lattice_protocol::{
    applications::{
        api::{Delete, Summary},
        manifest::APPLIED_SET,
        validate::is_name,
    },
    errors::{Lines, OutcomeUnknown},
};
use show::{Applied, Change, Row, Shortfall, Trouble};

pub async fn run(terminal: &Terminal, before: SettingArgs, args: Apply) -> Result<()> {
    let words = [&args.manifests[..], &args.files[..]].concat();
    let Found { applications: files, notes, mut mistakes, .. } =
        read_all(&words, args.set.as_deref()).await;
    notes.iter().for_each(|note| terminal.note(note));
    if !mistakes.is_empty() {
        mistakes.push("nothing was applied; correct this, and apply again".into());
        bail!(Lines(mistakes));
    }
    let set = match args.prune {
        true => set_to_prune(files.iter().map(|file| &file.wanted))?.map(str::to_owned),
        false => None,
    };
    let applications = manager::connect(before, &args.connect).await?;
    let mut progress = terminal.progress();
    progress.stage("compare", "");
    let Compared { steps, clashes } = Compared::of(&applications, files).await?;
    if !clashes.is_empty() {
        bail!(Lines(clashes.iter().map(Clash::told).collect()));
    }
    let Prunable { names: gone, notes } = match &set {
        Some(set) => prunable(&applications, &steps, set).await?,
        None => Prunable::default(),
    };
    steps.iter().flat_map(Step::notes).chain(notes).for_each(|note| terminal.note(note));
    if args.dry_run {
        drop(progress);
        let rows = steps.iter().map(row_of).chain(gone.iter().map(Row::pruned));
        return terminal.show(&Applied { rows: rows.collect(), is_dry_run: true });
    }
    let watch = StatusWatch::open(&applications).await?;
    let mut rows = Vec::new();
    for step in &steps {
        rows.push(carry_out(step, &applications, &mut progress, terminal).await);
    }
    if rows.iter().all(|row| row.error.is_none()) {
        for name in &gone {
            rows.push(prune(&applications, name, &mut progress).await);
        }
    } else if !gone.is_empty() {
        terminal.note(format!("not pruned, because not all could be applied: {}", gone.join(", ")));
    }
    if let Some(wait) = args.wait(START_WAIT) {
        let sent = steps.iter().zip(&rows).filter(|(_, row)| row.error.is_none());
        let awaited: Vec<Awaited> = sent.map(|(step, _)| step.awaited()).collect();
        let on_news = &mut |news: News<'_>| tell(&mut progress, news);
        let mut statuses = watch.wait(&awaited, Instant::now() + wait, on_news).await;
        rows.iter_mut().for_each(|row| row.status = statuses.remove(&row.name));
    }
    drop(progress);
    let applied = Applied { rows, is_dry_run: false };
    terminal.show(&applied)?;
    outcome(applied.rows.iter().filter_map(Row::shortfall))
}

fn row_of(step: &Step) -> Row {
    Row {
        name: step.manifest().name().to_owned(),
        version: step.version().to_owned(),
        change: Change::Applied(step.action),
        diff: step.difference(),
        status: None,
        error: None,
    }
}

/// Puts and deploys what is to be.
async fn carry_out(
    step: &Step,
    applications: &Applications,
    progress: &mut Progress,
    terminal: &Terminal,
) -> Row {
    let mut row = row_of(step);
    if step.action != Action::Leave {
        progress.stage(&format!("deploy {}", row.name), "");
    }
    match step.send(applications).await {
        Ok(warnings) => {
            warnings.iter().for_each(|warning| terminal.note(format!("{}: {warning}", row.name)));
        }
        Err(error) => row.error = Some(error.into()),
    }
    row
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
        match is_of_set(stored(applications, &name, &version).await, &version, set)? {
            Ok(true) => found.names.push(name),
            Ok(false) => {}
            Err(cause) => found.notes.push(format!(
                "{name} is not pruned, because nobody knows to which set it belongs: {cause}"
            )),
        }
    }
    Ok(found)
}

/// Says whether a listed version, which was asked for, is of a set; the inner error is why that is
/// not known of this one. The others can be read then.
fn is_of_set(
    stored: Result<Option<Value>>,
    version: &str,
    set: &str,
) -> Result<Result<bool, String>> {
    match stored {
        Ok(Some(manifest)) => Ok(Ok(set_of(&manifest) == Some(set))),
        // The list has no version of a record that was not read for it.
        Ok(None) if version.is_empty() => {
            Ok(Err("its record was not read in time; apply again".to_owned()))
        }
        Ok(None) => Ok(Ok(false)),
        Err(error) if error.is::<Refused>() => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
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
            progress.stage(&format!("{name} {}", info.kind.word()), info.message.clone());
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
        (false, _) => bail!(Lines([failed, open].concat())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_of_an_application_keeps_it_and_is_told() {
        let of = |set| serde_json::json!({ "metadata": { "annotations": { APPLIED_SET: set } } });
        for (stored, version, expected) in [
            (Some(of("web")), "v1", Ok(true)),
            (Some(of("web")), "", Ok(true)),
            (Some(of("other")), "v1", Ok(false)),
            (None, "v1", Ok(false)),
            (None, "", Err("apply again")),
        ] {
            match (is_of_set(Ok(stored), version, "web").unwrap(), expected) {
                (Err(cause), Err(part)) => assert!(cause.contains(part), "{cause}"),
                (found, expected) => assert_eq!(found.ok(), expected.ok(), "{version}"),
            }
        }
        assert!(is_of_set(Err(anyhow::anyhow!("no answer")), "v1", "web").is_err());
    }

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
