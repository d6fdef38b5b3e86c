//! Numbers of calls, as they are told.

pub mod histogram;

use serde::{Deserialize, Serialize};

use crate::{meter::histogram::Histogram, serde_null::null_as_default};

/// How a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// Within the process.
    Local,
    /// Over NATS.
    Nats,
}

/// One target's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetCounts {
    pub id: String,
    /// Empty for actors.
    pub link_name: String,
    pub operations: Vec<OperationCounts>,
}

impl TargetCounts {
    /// Returns the numbers of all operations together.
    pub fn sum(&self) -> Tally {
        sum(&self.operations)
    }
}

/// Adds the numbers of operations up.
pub fn sum(operations: &[OperationCounts]) -> Tally {
    operations.iter().fold(Tally::default(), |mut sum, counts| {
        sum.add(&counts.tally);
        sum
    })
}

/// The numbers of one operation and one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationCounts {
    /// Empty if it stands for all.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub operation: String,
    pub path: Path,
    #[serde(flatten)]
    pub tally: Tally,
}

/// Numbers of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    /// Calls that ended: carried out or refused.
    pub calls: u64,
    pub failed: u64,
    pub timed_out: u64,
    pub refused: u64,
    /// Calls whose caller went away before they had ended.
    pub abandoned: u64,
    /// Calls that have not ended yet.
    pub in_work: u64,
    /// The time that the calls carried out took together.
    pub sum_us: u64,
    /// The time that each of them took.
    pub took: Histogram,
}

impl Tally {
    pub fn errors(&self) -> u64 {
        self.failed.saturating_add(self.timed_out).saturating_add(self.refused)
    }

    pub fn add(&mut self, other: &Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.failed = self.failed.saturating_add(other.failed);
        self.timed_out = self.timed_out.saturating_add(other.timed_out);
        self.refused = self.refused.saturating_add(other.refused);
        self.abandoned = self.abandoned.saturating_add(other.abandoned);
        self.in_work = self.in_work.saturating_add(other.in_work);
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        self.took.add(&other.took);
    }

    /// Returns the numbers that came after an earlier look. Those in work are those of now.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(earlier.calls),
            failed: self.failed.saturating_sub(earlier.failed),
            timed_out: self.timed_out.saturating_sub(earlier.timed_out),
            refused: self.refused.saturating_sub(earlier.refused),
            abandoned: self.abandoned.saturating_sub(earlier.abandoned),
            in_work: self.in_work,
            sum_us: self.sum_us.saturating_sub(earlier.sum_us),
            took: self.took.since(&earlier.took),
        }
    }
}
