//! A row of the results: something that is called, and what it is compared with.

use serde::Serialize;

use super::load::{Load, Pace, Round, Target};

/// Rows that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Parts of a call: signature, token, message
    Parts,
    /// A call of the guest: wasmtime alone, within limits, through the router
    Guest,
    /// Calls of a client that signs each of them
    Calls,
    /// Calls from host to host
    Hosts,
    /// HTTP requests to an actor on the host that serves them
    Http,
    /// All of these at a constant rate
    Open,
}

impl Group {
    /// All of them, in the order of the results.
    pub const ALL: [Self; 6] =
        [Self::Parts, Self::Guest, Self::Calls, Self::Hosts, Self::Http, Self::Open];
}

/// A row that is measured.
pub struct Row {
    pub group: Group,
    pub name: String,
    pub pace: Pace,
    /// The name of the bare thing, measured at the same pace.
    pub beside: Option<&'static str>,
    pub load: Box<dyn Load>,
    pub rounds: Vec<Round>,
}

impl Row {
    pub fn new(group: Group, name: impl Into<String>, pace: Pace, target: impl Target) -> Self {
        let (name, load) = (name.into(), Box::new(target));
        Self { group, name, pace, beside: None, load, rounds: Vec::new() }
    }

    /// Compares it with a bare thing.
    pub fn beside(self, bare: &'static str) -> Self {
        Self { beside: Some(bare), ..self }
    }

    /// Returns its name with its pace, which no two rows have in common.
    pub fn title(&self) -> String {
        format!("{}, {}", self.name, pace_text(self.pace))
    }
}

/// Returns a pace in words.
pub fn pace_text(pace: Pace) -> String {
    match pace {
        Pace::Closed { callers } => format!("{callers} at a time"),
        Pace::Open { rate } => format!("{rate:.0}/s"),
    }
}

/// A row for each number of callers.
pub fn each<T: Target>(group: Group, name: &str, concurrency: &[usize], target: &T) -> Vec<Row> {
    let paces = concurrency.iter().map(|callers| Pace::Closed { callers: *callers });
    paces.map(|pace| Row::new(group, name, pace, target.clone())).collect()
}
