//! `host doctor`: what is wrong, and how to mend it. The checks are in [`crate::doctor`]; here they
//! are printed.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::{
    args::{flags::SettingArgs, lattice::Doctor},
    doctor::{self, CHECKS, Checked, Finding, Report, Verdict},
    service::account,
    session::Session,
    terminal::{Cell, Column, Page, Table, Terminal, Text, Tone, View},
};
use lattice_protocol::errors::Usage;

pub async fn run(terminal: &Terminal, before: SettingArgs, args: Doctor) -> Result<()> {
    if args.list {
        return terminal.show(&List);
    }
    for name in &args.checks {
        if !CHECKS.iter().any(|check| check.name == name) {
            let names: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
            return Err(Usage(format!(
                "there is no check {name:?}; there are: {}",
                names.join(", ")
            ))
            .into());
        }
    }
    // In the directory of a service its settings are looked at, although they are of its user.
    account::look_at_service_here();
    let report = {
        let mut progress = terminal.progress();
        progress.stage("looking", "");
        // Without usable settings there is something to report all the same.
        doctor::examine(Session::open(before, &args.connect), &args.checks).await
    };
    terminal.show(&report)?;
    match report.count(Verdict::Wrong) {
        0 => Ok(()),
        1 => bail!("one check found something wrong"),
        count => bail!("{count} checks found something wrong"),
    }
}

impl View for Report {
    fn json(&self) -> Value {
        json!({
            "success": self.count(Verdict::Wrong) == 0,
            "checks": self.checks,
            "wrong": self.count(Verdict::Wrong),
            "warnings": self.count(Verdict::Warning),
        })
    }

    fn text(&self, page: &mut Page) {
        let width = CHECKS.iter().map(|check| check.name.len()).max().unwrap_or(0);
        write(page, self, width);
    }

    /// The checks that found something.
    fn names(&self) -> Vec<String> {
        let found = self.checks.iter().filter(|check| check.verdict >= Verdict::Warning);
        found.map(|check| check.name.to_owned()).collect()
    }
}

/// Writes the findings of all checks, whose names have this width, and how many there are.
pub(super) fn write(page: &mut Page, report: &Report, width: usize) {
    for check in &report.checks {
        lines(page, check, width);
    }
    page.gap();
    page.line(format!(
        "{} wrong, {} warnings, {} notes, {} in order, {} skipped",
        report.count(Verdict::Wrong),
        report.count(Verdict::Warning),
        report.count(Verdict::Note),
        report.count(Verdict::Ok),
        report.count(Verdict::Skipped)
    ));
}

fn lines(page: &mut Page, check: &Checked, width: usize) {
    for (index, Finding { verdict, seen, fix }) in check.findings.iter().enumerate() {
        let name = if index == 0 { check.name } else { "" };
        let (word, tone) = word(*verdict);
        let pad = " ".repeat(7 - word.len());
        let indent = width + 11;
        let faint = if *verdict == Verdict::Skipped { Tone::Faint } else { Tone::Plain };
        let before = Text::from(format!("{name:width$}  ")) + tone.paint(word) + format!("{pad}  ");
        page.hanging(before, indent, seen, faint);
        if let Some(fix) = fix {
            page.hanging(format!("{:indent$}-> ", ""), indent + 3, fix, Tone::Strong);
        }
    }
}

fn word(verdict: Verdict) -> (&'static str, Tone) {
    match verdict {
        Verdict::Ok => ("ok", Tone::Good),
        Verdict::Note => ("note", Tone::Plain),
        Verdict::Warning => ("warning", Tone::Warning),
        Verdict::Wrong => ("wrong", Tone::Bad),
        Verdict::Skipped => ("skipped", Tone::Faint),
    }
}

/// The checks there are.
struct List;

impl View for List {
    fn json(&self) -> Value {
        let checks = CHECKS.iter().map(|check| json!({ "name": check.name, "about": check.about }));
        json!({ "checks": checks.collect::<Vec<_>>() })
    }

    fn text(&self, page: &mut Page) {
        let mut table = Table::new([Column::fixed("CHECK"), Column::text("LOOKS AT")]);
        for check in &CHECKS {
            table.row([Cell::from(check.name), check.about.into()]);
        }
        page.table(&table, "");
    }

    fn names(&self) -> Vec<String> {
        CHECKS.iter().map(|check| check.name.to_owned()).collect()
    }
}
