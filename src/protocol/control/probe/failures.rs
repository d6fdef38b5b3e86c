//! The last calls that failed, as the hosts on which they began keep them:
//! `probe.{host}.failures`.
//!
//! Payloads and link values are never told. The reasons are the texts that callers got, cut to
//! [`REASON_BYTES_MAX`]; they may have been written by a callee.

use serde::{Deserialize, Serialize};

use crate::{
    control::request::HostRequest, lattice::control::Control, serde_null::null_as_default,
};

/// Bytes of a reason that are kept.
pub const REASON_BYTES_MAX: usize = 512;

/// The body of a request; an empty body asks for all that fit into one message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ask {
    /// Only those of this actor or provider, as their caller or their target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity: Option<String>,
    /// Only the one with this id, or with this beginning of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The newest so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl HostRequest for Ask {
    type Reply = Failures;

    fn subject(host: String) -> Control {
        Control::ProbeFailures { host }
    }
}

/// The last failed calls of a host, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failures {
    #[serde(deserialize_with = "null_as_default")]
    pub host_id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub failures: Vec<FailedCall>,
}

/// How a call failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It was not carried out.
    Refused,
    TimedOut,
    #[default]
    #[serde(other)]
    Failed,
}

impl Kind {
    /// Returns the end of a sentence about a call.
    pub fn words(self) -> &'static str {
        match self {
            Self::Refused => "was refused",
            Self::TimedOut => "timed out",
            Self::Failed => "failed",
        }
    }
}

/// A call that failed, as its caller saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailedCall {
    /// Of the failure; an HTTP client got the same in its answer.
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    /// When it failed, in milliseconds since 1970.
    pub at_ms: u64,
    #[serde(deserialize_with = "null_as_default")]
    pub caller: String,
    /// Of a provider that calls.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub caller_link_name: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub caller_name: String,
    /// Empty if the call led nowhere: then the contract is what was asked for.
    #[serde(deserialize_with = "null_as_default")]
    pub target: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub target_name: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub contract_id: String,
    /// The link of the caller to a provider.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub link_name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub operation: String,
    pub kind: Kind,
    #[serde(deserialize_with = "null_as_default")]
    pub reason: String,
}

impl FailedCall {
    /// Whether an actor or a provider made it, or was to take it.
    pub fn is_of(&self, entity: &str) -> bool {
        self.caller == entity || self.target == entity
    }

    /// Returns what the caller is called.
    pub fn caller_called(&self) -> &str {
        if self.caller_name.is_empty() { &self.caller } else { &self.caller_name }
    }

    /// Returns what the target is called; of a call that led nowhere what was asked for.
    pub fn target_called(&self) -> &str {
        match () {
            () if self.target.is_empty() => &self.contract_id,
            () if self.target_name.is_empty() => &self.target,
            () => &self.target_name,
        }
    }

    /// Returns the sentence that a log has of it.
    pub fn told(&self) -> String {
        let on = match self.link_name.as_str() {
            "" => String::new(),
            link_name => format!(" ({}, link {link_name})", self.contract_id),
        };
        format!(
            "the call {} of {} to {}{on} {} ({}): {}",
            self.operation,
            self.caller_called(),
            self.target_called(),
            self.kind.words(),
            self.id,
            self.reason
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_with_names_and_read_back() {
        let failure = FailedCall {
            id: "id".into(),
            caller: "MA".into(),
            caller_name: "echo".into(),
            contract_id: "acme:x".into(),
            link_name: "default".into(),
            operation: "X.Do".into(),
            kind: Kind::Refused,
            reason: "no link".into(),
            ..FailedCall::default()
        };
        assert_eq!(
            failure.told(),
            "the call X.Do of echo to acme:x (acme:x, link default) was refused (id): no link"
        );
        assert!(failure.is_of("MA") && !failure.is_of("MB"));
        let json = serde_json::to_string(&failure).unwrap();
        assert_eq!(serde_json::from_str::<FailedCall>(&json).unwrap(), failure);
        let newer = r#"{"kind":"melted","reason":null}"#;
        assert_eq!(serde_json::from_str::<FailedCall>(newer).unwrap().kind, Kind::Failed);
    }
}
