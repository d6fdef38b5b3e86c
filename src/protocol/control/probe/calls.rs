//! The calls a host served and made, counted: `probe.{host}.calls`.
//!
//! The answer is a [`Look`]. Numbers are totals since the host started, so a client that wants
//! rates asks twice. Rows that do not fit into one message are asked for with [`Ask::after`], which
//! the answer before gives in [`Look::next`].
//!
//! Targets and the edges that lead to them are counted apart: a call that is refused on its
//! way, or finds nobody, is known at its caller only. [`Edge`] has the numbers of one caller and
//! one target.

use serde::{Deserialize, Serialize};

use crate::{
    control::request::HostRequest,
    lattice::control::Control,
    meter::OperationCounts,
    serde_null::{is_zero, null_as_default},
};

/// The body of a request; an empty body asks for everything, without operations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ask {
    /// Numbers of each operation, not of all together.
    #[serde(deserialize_with = "null_as_default")]
    pub operations: bool,
    /// The numbers of each caller and target as well. Hosts of before tell none.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "std::ops::Not::not")]
    pub edges: bool,
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

/// Where a row stands: those that were served first, then those that were called, then the edges;
/// by id and link name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RowKey {
    pub called: bool,
    /// Of an edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<EdgeKey>,
    pub id: String,
    pub link_name: String,
}

/// The part of an edge that tells it from others with the same target.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeKey {
    #[serde(deserialize_with = "null_as_default")]
    pub caller: String,
    #[serde(deserialize_with = "null_as_default")]
    pub caller_link_name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub contract_id: String,
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
    /// Calls that began here, by caller and target.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub edges: Vec<Edge>,
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
        let (id, link_name) = (self.id.clone(), self.link_name.clone());
        RowKey { called, edge: None, id, link_name }
    }
}

/// The id under which calls of tools are counted, such as `host call`.
pub const TOOLS: &str = "tools";

/// The calls of one caller to one target, counted where they began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Edge {
    /// Of an actor, of a provider, or [`TOOLS`].
    #[serde(deserialize_with = "null_as_default")]
    pub caller: String,
    /// Of a provider.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub caller_link_name: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub caller_name: String,
    /// Empty for calls that lead nowhere: then the contract is what was asked for.
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub link_name: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub contract_id: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub operations: Vec<OperationCounts>,
    /// The last seconds.
    pub recent: Recent,
    /// Answers by class, of an HTTP server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpClasses>,
}

impl Edge {
    pub fn key(&self) -> RowKey {
        let edge = EdgeKey {
            caller: self.caller.clone(),
            caller_link_name: self.caller_link_name.clone(),
            contract_id: self.contract_id.clone(),
        };
        let (id, link_name) = (self.id.clone(), self.link_name.clone());
        RowKey { called: true, edge: Some(edge), id, link_name }
    }
}

/// The calls of the last seconds, as a host counted them itself: whoever asks gets the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recent {
    /// How long these seconds were, in milliseconds.
    pub ms: u64,
    pub calls: u64,
    pub failed: u64,
    pub timed_out: u64,
    pub refused: u64,
    /// Answers 5xx of an HTTP server; a failed call is one of them.
    #[serde(rename = "5xx", skip_serializing_if = "is_zero")]
    pub server_errors: u64,
}

impl Recent {
    /// Returns how many went wrong: calls that failed, or answers that say so if these are more.
    pub fn errors(&self) -> u64 {
        let calls = self.failed.saturating_add(self.timed_out).saturating_add(self.refused);
        calls.max(self.server_errors)
    }

    pub fn add(&mut self, other: &Self) {
        self.ms = self.ms.max(other.ms);
        self.calls = self.calls.saturating_add(other.calls);
        self.failed = self.failed.saturating_add(other.failed);
        self.timed_out = self.timed_out.saturating_add(other.timed_out);
        self.refused = self.refused.saturating_add(other.refused);
        self.server_errors = self.server_errors.saturating_add(other.server_errors);
    }
}

/// Answers of an HTTP server by the class of their status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpClasses {
    #[serde(rename = "2xx")]
    pub success: u64,
    #[serde(rename = "3xx")]
    pub redirection: u64,
    #[serde(rename = "4xx")]
    pub client_error: u64,
    #[serde(rename = "5xx")]
    pub server_error: u64,
}

impl HttpClasses {
    /// Returns the counts with the names of their classes.
    pub fn each(&self) -> [(&'static str, u64); 4] {
        [
            ("2xx", self.success),
            ("3xx", self.redirection),
            ("4xx", self.client_error),
            ("5xx", self.server_error),
        ]
    }

    pub fn add(&mut self, other: &Self) {
        self.success = self.success.saturating_add(other.success);
        self.redirection = self.redirection.saturating_add(other.redirection);
        self.client_error = self.client_error.saturating_add(other.client_error);
        self.server_error = self.server_error.saturating_add(other.server_error);
    }

    /// Returns what came after an earlier look.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            success: self.success.saturating_sub(earlier.success),
            redirection: self.redirection.saturating_sub(earlier.redirection),
            client_error: self.client_error.saturating_sub(earlier.client_error),
            server_error: self.server_error.saturating_sub(earlier.server_error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_stand_behind_the_rows_and_clients_of_before_are_told_none() {
        let row = Row { id: "VZ".into(), ..Row::default() };
        let edge = Edge { caller: "MA".into(), id: "VA".into(), ..Edge::default() };
        assert!(row.key(false) < row.key(true) && row.key(true) < edge.key());
        let json = serde_json::to_value(row.key(true)).unwrap();
        assert_eq!(json, serde_json::json!({"called": true, "id": "VZ", "link_name": ""}));
        assert_eq!(serde_json::from_value::<RowKey>(json).unwrap(), row.key(true));
        let ask: Ask = serde_json::from_str(r#"{"operations":true}"#).unwrap();
        assert!(!ask.edges);
        assert!(!serde_json::to_string(&Look::default()).unwrap().contains("edges"));
    }
}
