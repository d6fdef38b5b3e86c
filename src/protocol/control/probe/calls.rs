//! The calls a host served and made, counted: `probe.{host}.calls`.
//!
//! The answer is a [`Look`]. Numbers are totals since the host started, so a client that wants
//! rates asks twice. Rows that do not fit into one message are asked for with [`Ask::after`], which
//! the answer before gives in [`Look::next`].

use serde::{Deserialize, Serialize};

use crate::{
    control::request::HostRequest, lattice::control::Control, meter::OperationCounts,
    serde_null::null_as_default,
};

/// The body of a request; an empty body asks for everything, without operations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ask {
    /// Numbers of each operation, not of all together.
    #[serde(deserialize_with = "null_as_default")]
    pub operations: bool,
    /// Only the rows after this row of the last look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<RowKey>,
}

impl HostRequest for Ask {
    type Reply = Look;

    fn subject(host: String) -> Control {
        Control::ProbeCalls { host }
    }
}

/// Where a row stands: those that were served first, then by id and link name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowKey {
    pub called: bool,
    pub id: String,
    pub link_name: String,
}

/// The counts of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Look {
    #[serde(deserialize_with = "null_as_default")]
    pub host_id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub friendly_name: String,
    /// Since it began to count.
    #[serde(deserialize_with = "null_as_default")]
    pub uptime_ms: u64,
    /// Memory of the process, where the system tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Calls of what runs here.
    #[serde(deserialize_with = "null_as_default")]
    pub served: Vec<Row>,
    /// Calls that left the host.
    #[serde(deserialize_with = "null_as_default")]
    pub called: Vec<Row>,
    /// There is more after this row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<RowKey>,
}

/// An actor, or a provider under a link name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub link_name: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The reference it was started from, if it runs here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub operations: Vec<OperationCounts>,
}

impl Row {
    pub fn key(&self, called: bool) -> RowKey {
        RowKey { called, id: self.id.clone(), link_name: self.link_name.clone() }
    }
}
