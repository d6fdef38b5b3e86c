//! Shows what was done for each application, or would be.

use serde_json::{Value, json};

use crate::{
    command::manager::toned,
    terminal::{Cell, Column, Page, Table, Tone, View},
};
use lattice_client::apply::decide::Action;
use lattice_protocol::{
    applications::api::{Info, StatusType},
    errors::OutcomeUnknown,
};

/// The action taken with an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Applied(Action),
    Pruned,
}

/// An application, with what was done for it and how it is now.
#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub version: String,
    pub change: Change,
    /// The lines that differ from before; empty if none does.
    pub diff: String,
    /// `None` if nobody waited for it.
    pub status: Option<Info>,
    /// Why it was not done.
    pub error: Option<Trouble>,
}

/// Why something was not done.
#[derive(Clone, Debug)]
pub struct Trouble {
    text: String,
    /// It may have been done all the same.
    is_outcome_unknown: bool,
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self { is_outcome_unknown: error.is::<OutcomeUnknown>(), text: format!("{error:#}") }
    }
}

/// A sentence about an application that is not as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shortfall {
    Failed(String),
    /// It may still become so.
    Open(String),
}

/// All applications of a command.
#[derive(Clone, Debug)]
pub struct Applied {
    pub rows: Vec<Row>,
    /// Nothing was done.
    pub is_dry_run: bool,
}

impl Change {
    fn word(self) -> &'static str {
        match self {
            Self::Applied(action) => action.word(),
            Self::Pruned => "prune",
        }
    }
}

impl Row {
    pub fn pruned(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            version: String::new(),
            change: Change::Pruned,
            diff: String::new(),
            status: None,
            error: None,
        }
    }

    /// Returns what is not as it is to be; nothing if nobody waited for it.
    pub fn shortfall(&self) -> Option<Shortfall> {
        let Self { name, version, .. } = self;
        if let Some(Trouble { text, is_outcome_unknown }) = &self.error {
            let told = format!("{name}: {text}");
            return Some(match is_outcome_unknown {
                true => Shortfall::Open(told),
                false => Shortfall::Failed(told),
            });
        }
        let Info { kind, message } = self.status.as_ref()?;
        match kind {
            StatusType::Deployed => None,
            StatusType::Failed => Some(Shortfall::Failed(format!(
                "{name} {version} failed: {message}. `host app status {name}` shows its parts, and when hosts try again"
            ))),
            StatusType::Reconciling | StatusType::Undeployed => {
                let told = if message.is_empty() { "" } else { ": " };
                Some(Shortfall::Open(format!(
                    "the time is over, and hosts go on with {name}: it is {}{told}{message}. `host app status {name}` shows how it gets \
                     on; --wait-ms waits longer",
                    kind.word()
                )))
            }
        }
    }

    fn json(&self) -> Value {
        let mut json = json!({ "name": self.name, "action": self.change.word() });
        let members = [
            ("version", (!self.version.is_empty()).then(|| json!(self.version))),
            ("status", self.status.as_ref().map(|status| json!(status))),
            ("error", self.error.as_ref().map(|error| json!(error.text))),
            ("diff", (!self.diff.is_empty()).then(|| json!(self.diff))),
        ];
        for (key, value) in members {
            if let Some(value) = value {
                json[key] = value;
            }
        }
        json
    }
}

impl View for Applied {
    fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let success = self.rows.iter().all(|row| row.shortfall().is_none());
        json!({ "applications": rows, "dry_run": self.is_dry_run, "success": success })
    }

    fn text(&self, page: &mut Page) {
        if self.is_dry_run {
            self.rows.iter().for_each(|row| planned(row, page));
            return;
        }
        let mut table = Table::new([
            Column::text("NAME"),
            Column::text("VERSION"),
            Column::fixed("CHANGE"),
            Column::fixed("STATUS"),
            Column::text("MESSAGE"),
        ]);
        for row in &self.rows {
            let (status, message) = match (&row.error, &row.status) {
                (Some(Trouble { text, is_outcome_unknown: true }), _) => {
                    (Cell::toned("unknown", Tone::Warning), text.as_str())
                }
                (Some(Trouble { text, .. }), _) => {
                    (Cell::toned("refused", Tone::Bad), text.as_str())
                }
                (None, Some(info)) => (toned(info.kind.word()), info.message.as_str()),
                (None, None) => ("".into(), ""),
            };
            let change = row.change.word();
            table.row([
                Cell::from(&row.name),
                Cell::from(&row.version),
                change.into(),
                status,
                message.into(),
            ]);
        }
        page.table(&table, "");
    }

    fn names(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.name.clone()).collect()
    }
}

/// Shows what would be done for an application.
fn planned(row: &Row, page: &mut Page) {
    page.gap();
    let line = format!("{}: {} {}", row.name, row.change.word(), row.version);
    page.line(Tone::Strong.paint(line.trim_end()));
    for line in row.diff.lines() {
        let tone = match line.as_bytes().first() {
            Some(b'+') => Tone::Good,
            Some(b'-') => Tone::Bad,
            Some(b'@') => Tone::Faint,
            _ => Tone::Plain,
        };
        page.line(tone.paint(line));
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_failed_and_what_is_open_is_said_in_every_form() {
        use Shortfall::{Failed, Open};
        let status = |kind| Some(Info { kind, message: "as said".into() });
        let refused = || Some(Trouble::from(anyhow!("not now")));
        let late = || Some(Trouble::from(anyhow::Error::from(OutcomeUnknown("no answer".into()))));
        for (status, error, expected) in [
            (None, None, None),
            (status(StatusType::Deployed), None, None),
            (status(StatusType::Failed), None, Some(Failed("failed: as said".into()))),
            (status(StatusType::Reconciling), None, Some(Open("reconciling: as said".into()))),
            (None, refused(), Some(Failed("shop: not now".into()))),
            (None, late(), Some(Open("shop: no answer".into()))),
        ] {
            let row = Row { status, error, ..Row::pruned("shop") };
            match (row.shortfall(), &expected) {
                (None, None) => {}
                (Some(Failed(told)), Some(Failed(part))) | (Some(Open(told)), Some(Open(part))) => {
                    assert!(told.contains(part), "{part} in {told}")
                }
                (found, expected) => panic!("{found:?}, and not {expected:?}"),
            }
            let json = Applied { rows: vec![row], is_dry_run: false }.json();
            assert_eq!(json["success"], expected.is_none());
        }
    }
}
