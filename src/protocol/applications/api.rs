//! Requests and replies of the deployment manager's API (wadm, section 1), the record of an
//! application's status (section 4.9), and what is told of manifests (section 3.3).
//!
//! Members of wadm 0.10 are always there. Others are for later clients; the old ones do not look at
//! them.

use serde::{Deserialize, Serialize};

use super::{
    manifest::Manifest,
    rollout::{Rollout, State, Step},
};
use crate::serde_null::null_as_default;

/// The NATS header that tells hosts of this project from a deployment manager: its value is the id
/// of the host that answers. Clients do not see it.
pub const HOST_HEADER: &str = "Lattice-Host";
/// The beginning of a warning in the message of a put.
const WARNING: &str = ". Warning: ";
/// The queue group of those that answer.
pub const QUEUE: &str = "wadm_server";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GetResult {
    Success,
    NotFound,
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PutResult {
    Created,
    NewVersion,
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeleteResult {
    Deleted,
    Noop,
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeployResult {
    Acknowledged,
    NotFound,
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatusResult {
    Ok,
    NotFound,
    Error,
}

/// How an application is. Only words of wadm 0.10 are written; those of others are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatusType {
    #[default]
    Undeployed,
    #[serde(alias = "compensating", alias = "waiting")]
    Reconciling,
    #[serde(alias = "ready")]
    Deployed,
    #[serde(alias = "unhealthy")]
    Failed,
}

impl StatusType {
    pub const ALL: [Self; 4] = [Self::Deployed, Self::Reconciling, Self::Failed, Self::Undeployed];

    /// Returns its word, as it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Deployed => "deployed",
            Self::Reconciling => "reconciling",
            Self::Failed => "failed",
            Self::Undeployed => "undeployed",
        }
    }
}

/// A status with a sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    #[serde(rename = "type")]
    pub kind: StatusType,
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub message: String,
}

/// How an application and its parts are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The deployed version, or else the newest.
    #[serde(default, deserialize_with = "null_as_default")]
    pub version: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub status: Info,
    #[serde(default, deserialize_with = "null_as_default")]
    pub components: Vec<ComponentStatus>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub scalers: Vec<ScalerStatus>,
    /// While a new version takes over step by step, and after it was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentStatus {
    pub name: String,
    /// `actor` or `capability`.
    #[serde(rename = "type")]
    pub kind: String,
    pub status: Info,
    pub traits: Vec<TraitStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraitStatus {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: Info,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScalerStatus {
    pub id: String,
    pub kind: String,
    pub name: String,
    pub status: Info,
    /// When the next attempt is made after one that failed, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<u64>,
}

/// A rollout, with its numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    #[serde(flatten)]
    pub rollout: Rollout,
    /// The steps of the first component that changes.
    pub steps: Vec<Step>,
    /// Calls of the new version that a step waits for.
    pub calls_wanted: u64,
    pub stable: VersionFigures,
    pub newer: VersionFigures,
}

impl RolloutStatus {
    /// Returns the percentage of the calls that the new version takes now.
    pub fn share(&self) -> u8 {
        match self.rollout.state {
            State::Done => 100,
            State::TakenBack { .. } => 0,
            State::Running | State::Paused => {
                self.steps.get(self.rollout.step).map_or(0, |step| step.percent.min(100))
            }
        }
    }
}

/// The calls of a version in the step that a rollout is at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionFigures {
    pub calls: u64,
    pub failed: u64,
    /// The slowest of 100 calls, in microseconds; 0 without calls.
    pub p99_us: u64,
}

/// The body of `rollout`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RolloutRequest {
    #[serde(default)]
    pub action: RolloutAction,
}

/// A wish about a rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutAction {
    /// Nothing; it is only looked at.
    #[default]
    Status,
    /// It stays at its step.
    Pause,
    Resume,
    /// The next step begins, whatever the calls of this one say; after the last one the new
    /// version takes everything.
    Continue,
    /// The old version takes everything again.
    Abort,
}

/// The answer to `rollout`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RolloutReply {
    pub result: StatusResult,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
}

/// The record in the stream of statuses: that of wadm 0.10 at the top, and that of later ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    #[serde(flatten)]
    pub info: Info,
    #[serde(flatten)]
    pub status: Status,
}

impl From<Status> for Record {
    fn from(status: Status) -> Self {
        Self { info: status.status.clone(), status }
    }
}

/// The answer to anything that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Always `error`.
    pub result: String,
    pub message: String,
    /// A change may have been made all the same. An extension of ours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outcome_unknown: bool,
}

impl Failure {
    /// Makes the answer to something that was not done.
    pub fn new(message: impl Into<String>) -> Self {
        Self { result: "error".into(), message: message.into(), outcome_unknown: false }
    }

    /// Makes the answer where nobody knows whether it was done.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self { outcome_unknown: true, ..Self::new(message) }
    }
}

/// An element of the answer to `list`, which is a bare array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub name: String,
    /// The newest one.
    pub version: String,
    pub description: Option<String>,
    pub deployed_version: Option<String>,
    pub status: StatusType,
    pub status_message: Option<String>,
    /// For clients of later versions.
    #[serde(default)]
    pub detailed_status: Status,
}

/// The answer to `get` without a name: the list of later versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListReply {
    pub result: GetResult,
    pub message: String,
    pub models: Vec<Summary>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GetReply {
    pub result: GetResult,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionsReply {
    pub result: GetResult,
    pub message: String,
    /// In the order in which they were put.
    pub versions: Vec<Version>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub version: String,
    pub deployed: bool,
    /// When it was put, in Unix milliseconds; not known of versions that another manager stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutReply {
    pub result: PutResult,
    #[serde(default)]
    pub total_versions: usize,
    #[serde(default)]
    pub current_version: String,
    pub message: String,
    #[serde(default)]
    pub name: String,
}

impl PutReply {
    /// Makes the message of a success. Warnings are in it, since clients print nothing else.
    pub fn message_of(name: &str, version: &str, warnings: &[String]) -> String {
        let warnings: String =
            warnings.iter().map(|warning| format!("{WARNING}{warning}")).collect();
        format!("Successfully put manifest {name} {version}{warnings}")
    }

    /// Returns the warnings of the message.
    pub fn warnings(&self) -> impl Iterator<Item = &str> {
        self.message.split(WARNING).skip(1)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteReply {
    pub result: DeleteResult,
    pub message: String,
    /// Whether something that runs is being removed.
    #[serde(default)]
    pub undeploy: bool,
}

/// The answer to `deploy` and `undeploy`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeployReply {
    pub result: DeployResult,
    pub message: String,
    /// For clients of later versions, as is the version.
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub version: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    pub result: StatusResult,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// The body of `get` and `deploy`; an empty one is like `{}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// The body of `del`, in the form of wadm 0.10 and in that of later ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteRequest {
    #[serde(default)]
    pub version: Option<String>,
    #[serde(default)]
    pub delete_all: Option<bool>,
}

impl From<Delete> for DeleteRequest {
    /// Makes the form that managers of all years read.
    fn from(wanted: Delete) -> Self {
        let (version, delete_all) = match wanted {
            Delete::All => (String::new(), true),
            Delete::One(version) => (version, false),
        };
        Self { version: Some(version), delete_all: Some(delete_all) }
    }
}

/// The versions that a request wants to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delete {
    All,
    One(String),
}

impl Delete {
    /// Says whether this version is among them.
    pub fn means(&self, version: &str) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == version,
        }
    }
}

impl DeleteRequest {
    /// Returns what is meant: with `delete_all` the request is of wadm 0.10, where a version that
    /// is missing is the empty one; without it, a missing version means all.
    pub fn meaning(self) -> Delete {
        match (self.delete_all, self.version) {
            (Some(true), _) | (None, None) => Delete::All,
            (Some(false), version) => Delete::One(version.unwrap_or_default()),
            (None, Some(version)) => Delete::One(version),
        }
    }
}

/// The body of `undeploy`; an empty one is like `{}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndeployRequest {
    /// Everything goes on running, but nobody keeps it so.
    #[serde(default)]
    pub non_destructive: bool,
}

/// News of a manifest, told as CloudEvents.
#[derive(Clone, Debug, PartialEq)]
pub enum News<'a> {
    Published(&'a Manifest),
    Unpublished(&'a str),
}

impl News<'_> {
    /// Returns the CloudEvent.
    pub fn cloud_event(&self, id: &str, time: &str) -> serde_json::Value {
        let (kind, data) = match self {
            Self::Published(manifest) => ("published", serde_json::json!(manifest)),
            Self::Unpublished(name) => ("unpublished", serde_json::json!({ "name": name })),
        };
        serde_json::json!({
            "specversion": "1.0",
            "id": id,
            "type": format!("com.wadm.manifest_{kind}"),
            "source": "wadm",
            "datacontenttype": "application/json",
            "time": time,
            "data": data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_a_status_is_the_one_that_is_written() {
        for kind in StatusType::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.word());
        }
    }

    #[test]
    fn warnings_of_a_put_are_read_from_its_message() {
        for warnings in [vec![], vec!["one".to_owned()], vec!["one".to_owned(), "two".to_owned()]] {
            let reply = PutReply {
                result: PutResult::Created,
                total_versions: 1,
                current_version: "v1".into(),
                message: PutReply::message_of("shop", "v1", &warnings),
                name: "shop".into(),
            };
            assert!(reply.message.starts_with("Successfully put manifest shop v1"));
            assert_eq!(reply.warnings().collect::<Vec<_>>(), warnings);
        }
    }

    #[test]
    fn what_is_to_be_deleted_is_read_as_it_was_meant() {
        for wanted in [Delete::All, Delete::One("v1".into()), Delete::One(String::new())] {
            assert_eq!(DeleteRequest::from(wanted.clone()).meaning(), wanted);
        }
    }

    #[test]
    fn a_failure_says_more_than_the_old_manager_only_where_the_outcome_is_unknown() {
        for (failure, json) in [
            (Failure::new("no"), r#"{"result":"error","message":"no"}"#),
            (
                Failure::unknown("late"),
                r#"{"result":"error","message":"late","outcome_unknown":true}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&failure).unwrap(), json);
            assert_eq!(serde_json::from_str::<Failure>(json).unwrap(), failure);
        }
    }

    #[test]
    fn the_share_is_that_of_the_step_until_it_is_over() {
        let step = |percent| Step { percent, requirements: Default::default() };
        let told = |state, step_at| RolloutStatus {
            rollout: Rollout {
                at: 1,
                from: "v1".into(),
                to: "v2".into(),
                step: step_at,
                state,
                judged: None,
            },
            steps: vec![step(10), step(50)],
            calls_wanted: 100,
            stable: VersionFigures::default(),
            newer: VersionFigures::default(),
        };
        assert_eq!(told(State::Running, 0).share(), 10);
        assert_eq!(told(State::Paused, 1).share(), 50);
        assert_eq!(told(State::Done, 1).share(), 100);
        assert_eq!(told(State::TakenBack { why: "slow".into() }, 1).share(), 0);
    }
}
