//! `host rollout`: a new version of an application that takes over step by step, looked at, stopped
//! where it is, gone on with, or ended.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::manager;
use crate::{
    args::{
        app::{AppName, Rollout},
        flags::SettingArgs,
    },
    terminal::{Cell, Column, Page, Table, Terminal, Tone, View},
};
use lattice_protocol::applications::{
    api::{RolloutAction, RolloutReply, RolloutStatus, VersionFigures},
    rollout::State,
};

pub async fn run(terminal: &Terminal, before: SettingArgs, args: Rollout) -> Result<()> {
    match args {
        Rollout::Status(args) => act(terminal, before, &args, RolloutAction::Status).await,
        Rollout::Pause(args) => act(terminal, before, &args, RolloutAction::Pause).await,
        Rollout::Resume(args) => act(terminal, before, &args, RolloutAction::Resume).await,
        Rollout::Continue(args) => act(terminal, before, &args, RolloutAction::Continue).await,
        Rollout::Abort(args) => act(terminal, before, &args, RolloutAction::Abort).await,
    }
}

async fn act(
    terminal: &Terminal,
    before: SettingArgs,
    args: &AppName,
    action: RolloutAction,
) -> Result<()> {
    let applications = manager::connect(before, &args.connect).await?;
    let answer = applications.rollout(&args.name, action).await?.found()?;
    let reply = answer.read()?.context("the answer is of no rollout")?;
    terminal.show(&Shown { name: args.name.clone(), reply })
}

/// A rollout with its numbers.
struct Shown {
    name: String,
    reply: RolloutReply,
}

impl View for Shown {
    fn json(&self) -> Value {
        json!({ "rollout": self.reply })
    }

    fn text(&self, page: &mut Page) {
        page.block(&self.reply.message);
        let Some(told) = &self.reply.rollout else { return };
        let mut table = Table::new([
            Column::text("VERSION"),
            Column::fixed("SHARE"),
            Column::fixed("CALLS"),
            Column::fixed("FAILED"),
            Column::fixed("P99"),
        ]);
        let share = told.share();
        let (from, to) = (&told.rollout.from, &told.rollout.to);
        table.row(row(to, share, &told.newer, tone_of(told)));
        table.row(row(from, 100 - share, &told.stable, Tone::Plain));
        page.table(&table, "");
        if told.rollout.state == State::Running {
            page.block(&format!(
                "step {} of {}, {} of {} calls",
                told.rollout.step + 1,
                told.steps.len(),
                told.newer.calls.min(told.calls_wanted),
                told.calls_wanted
            ));
        }
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

fn tone_of(told: &RolloutStatus) -> Tone {
    match told.rollout.state {
        State::Running => Tone::Good,
        State::Paused => Tone::Warning,
        State::TakenBack { .. } => Tone::Bad,
        State::Done => Tone::Plain,
    }
}

fn row(version: &str, share: u8, figures: &VersionFigures, tone: Tone) -> [Cell; 5] {
    let p99 = match figures.calls {
        0 => String::new(),
        _ => format!("{:.1} ms", figures.p99_us as f64 / 1e3),
    };
    [
        Cell::toned(version, tone),
        format!("{share} %").into(),
        figures.calls.to_string().into(),
        figures.failed.to_string().into(),
        p99.into(),
    ]
}
