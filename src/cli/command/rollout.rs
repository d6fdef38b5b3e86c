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
        let share = share_of(told);
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

/// Returns the percentage of the calls that the new version takes now.
fn share_of(told: &RolloutStatus) -> u8 {
    match told.rollout.state {
        State::Done => 100,
        State::TakenBack { .. } => 0,
        State::Running | State::Paused => {
            told.steps.get(told.rollout.step).map_or(0, |step| step.percent.min(100))
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::applications::rollout::{Rollout, Step};

    #[test]
    fn the_share_is_that_of_the_step_until_it_is_over() {
        let step = |percent| Step { percent, requirements: Default::default() };
        let told = |state, step_at| RolloutStatus {
            rollout: Rollout { at: 1, from: "v1".into(), to: "v2".into(), step: step_at, state },
            steps: vec![step(10), step(50)],
            calls_wanted: 100,
            stable: VersionFigures::default(),
            newer: VersionFigures::default(),
        };
        assert_eq!(share_of(&told(State::Running, 0)), 10);
        assert_eq!(share_of(&told(State::Paused, 1)), 50);
        assert_eq!(share_of(&told(State::Done, 1)), 100);
        assert_eq!(share_of(&told(State::TakenBack { why: "slow".into() }, 1)), 0);
    }
}
