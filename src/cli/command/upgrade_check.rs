//! `host upgrade-check`: whether this binary can take over from the hosts that run. The checks are
//! in [`crate::doctor::upgrade`]; here they are printed.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::doctor;
use crate::{
    args::{flags::SettingArgs, lattice::UpgradeCheck},
    doctor::{
        Report, Verdict,
        upgrade::{self, CHECKS, HostRow, Upgrade},
    },
    service::account,
    session::Session,
    terminal::{Cell, Column, Page, Table, Terminal, Tone, View},
};
use lattice_engine::control::state::VERSION;
use lattice_protocol::errors::OutcomeUnknown;

pub async fn run(terminal: &Terminal, before: SettingArgs, args: UpgradeCheck) -> Result<()> {
    // It is given in the directory of a host, which may be a service with a user of its own.
    account::look_at_service_here();
    let upgrade = {
        let mut progress = terminal.progress();
        progress.stage("looking", "");
        upgrade::examine(Session::open(before, &args.connect)).await
    };
    let broken = broken(&upgrade.report, args.strict);
    terminal.show(&Shown { upgrade: &upgrade, broken })?;
    outcome(broken, upgrade.unchecked.as_deref())
}

/// Tells of so many checks that speak against the upgrade, and of why not all was looked at.
fn outcome(broken: usize, unchecked: Option<&str>) -> Result<()> {
    let rest = unchecked.map(|why| format!("; the rest could not be checked: {why}"));
    let rest = rest.unwrap_or_default();
    match (broken, unchecked) {
        (0, None) => Ok(()),
        (0, Some(why)) => bail!(OutcomeUnknown(format!(
            "whether this binary can take over could not be checked: {why}"
        ))),
        (1, _) => bail!("one check found something that would break{rest}"),
        (count, _) => bail!("{count} checks found something that would break{rest}"),
    }
}

/// Returns how many checks speak against the upgrade.
fn broken(report: &Report, is_strict: bool) -> usize {
    let warnings = if is_strict { report.count(Verdict::Warning) } else { 0 };
    report.count(Verdict::Wrong) + warnings
}

/// A report, as it is shown, and how many of its checks speak against the upgrade.
struct Shown<'a> {
    upgrade: &'a Upgrade,
    broken: usize,
}

impl View for Shown<'_> {
    fn json(&self) -> Value {
        let Upgrade { hosts, stored, report, unchecked } = self.upgrade;
        json!({
            "success": self.broken == 0 && unchecked.is_none(),
            "version": VERSION,
            "hosts": hosts,
            "stored": stored,
            "checks": report.checks,
            "wrong": report.count(Verdict::Wrong),
            "warnings": report.count(Verdict::Warning),
            "unchecked": unchecked,
        })
    }

    fn text(&self, page: &mut Page) {
        let upgrade = self.upgrade;
        page.line(format!("this binary is version {VERSION}"));
        page.gap();
        page.table(&hosts(&upgrade.hosts), "no host answers");
        page.gap();
        page.table(&upgrade.entries(), "no entry was read");
        page.gap();
        let width = CHECKS.iter().map(|check| check.name.len()).max().unwrap_or(0);
        doctor::write(page, &upgrade.report, width);
    }

    /// The checks that found something.
    fn names(&self) -> Vec<String> {
        self.upgrade.report.names()
    }
}

impl Upgrade {
    fn entries(&self) -> Table {
        let mut table = Table::new([
            Column::name("PLACE"),
            Column::fixed("KIND"),
            Column::number("ENTRIES"),
            Column::number("UNREADABLE"),
            Column::number("UNPROVEN"),
        ]);
        for kind in &self.stored {
            table.row([
                Cell::from(&kind.place),
                kind.kind.into(),
                kind.entries.into(),
                bad(kind.unreadable, Tone::Bad),
                bad(kind.unproven, Tone::Warning),
            ]);
        }
        table
    }
}

/// Returns a count of what should not be; none of it is fine.
fn bad(count: u64, tone: Tone) -> Cell {
    Cell::toned(count.to_string(), if count == 0 { Tone::Plain } else { tone })
}

fn hosts(rows: &[HostRow]) -> Table {
    let mut table = Table::new([
        Column::name("HOST"),
        Column::id("ID"),
        Column::fixed("VERSION"),
        Column::number("ACTORS"),
        Column::number("PROVIDERS"),
        Column::text("ONLY THERE"),
    ]);
    for row in rows {
        table.row([
            Cell::from(&row.name),
            Cell::from(&row.id),
            Cell::from(&row.version),
            row.actors.into(),
            row.providers.into(),
            row.alone.join(", ").into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Checked;

    #[test]
    fn what_could_not_be_checked_is_neither_fine_nor_broken() {
        for (broken, unchecked, is_unknown, words) in [
            (0, Some("no connection"), true, "could not be checked: no connection"),
            (1, None, false, "one check found something that would break"),
            (2, None, false, "2 checks found"),
            // A finding counts, whatever was not looked at.
            (1, Some("late"), false, "would break; the rest could not be checked: late"),
        ] {
            let error = outcome(broken, unchecked).unwrap_err();
            assert_eq!(error.is::<OutcomeUnknown>(), is_unknown, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(outcome(0, None).is_ok());
    }

    #[test]
    fn warnings_count_where_that_is_asked_for() {
        let checked =
            |verdict: Verdict| Checked { name: "hosts", about: "", verdict, findings: Vec::new() };
        for (verdicts, loose, strict) in [
            (vec![Verdict::Ok, Verdict::Note, Verdict::Skipped], 0, 0),
            (vec![Verdict::Warning], 0, 1),
            (vec![Verdict::Wrong, Verdict::Warning], 1, 2),
        ] {
            let report = Report { checks: verdicts.into_iter().map(checked).collect() };
            assert_eq!((broken(&report, false), broken(&report, true)), (loose, strict));
        }
    }
}
