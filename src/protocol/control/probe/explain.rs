//! How a host would decide a call: the question of `host explain`, and its answer as data.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    control::request::HostRequest, lattice::control::Control, rpc::invocation::Entity,
    serde_null::null_as_default,
};

/// `probe.{host}.explain`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    pub origin: Entity,
    /// As the origin writes it: a contract id, an actor's public key, or a call alias.
    #[serde(deserialize_with = "null_as_default")]
    pub namespace: String,
    #[serde(deserialize_with = "null_as_default")]
    pub link_name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub operation: String,
    /// The provider that is meant to take the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The call has left its host and arrives at this target here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arrived_at: Option<Entity>,
}

impl HostRequest for Request {
    type Reply = Explained;

    fn subject(host: String) -> Control {
        Control::ProbeExplain { host }
    }
}

/// How a step ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    Fails,
    #[default]
    #[serde(other)]
    Unknown,
}

/// One step of the decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Step {
    /// `known`, `link`, `claim`, `check`, `policy`, `replica`, `path`, `deadline` or `repeat`.
    pub step: String,
    pub outcome: Outcome,
    /// The finding, as text.
    pub why: String,
    /// The command, or what else to do, when it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// The finding, as data.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub data: Value,
    /// The host that says so; nobody's if a client concludes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_id: Option<String>,
}

/// The whole decision.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Explained {
    pub accepted: bool,
    /// Why a host does not explain it.
    pub error: String,
    pub origin: Entity,
    pub target: Option<Entity>,
    pub steps: Vec<Step>,
    pub verdict: Outcome,
    /// The verdict in a sentence.
    pub conclusion: String,
    /// The error the caller would get, if the call fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_error: Option<String>,
    /// The host the call would go to, if one was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_host: Option<String>,
    /// Whether the origin runs on the host that was asked.
    pub origin_runs_here: bool,
}

impl Explained {
    /// Draws the conclusion from the steps.
    pub fn conclude(&mut self) {
        let failing: Vec<&Step> =
            self.steps.iter().filter(|step| step.outcome == Outcome::Fails).collect();
        // These say what is not known, not that something is missing.
        let open: Vec<&str> = self
            .steps
            .iter()
            .filter(|step| step.outcome == Outcome::Unknown && step.step != "known")
            .map(|step| step.step.as_str())
            .collect();
        (self.verdict, self.conclusion) = match failing.as_slice() {
            [] if open.is_empty() => (Outcome::Ok, "the call would be made".to_owned()),
            [] => (
                Outcome::Unknown,
                format!("nothing found is in the way; not known: {}", open.join(", ")),
            ),
            [first, ..] => {
                let steps: Vec<&str> = failing.iter().map(|step| step.step.as_str()).collect();
                (
                    Outcome::Fails,
                    format!("the call would fail ({}): {}", steps.join(", "), first.why),
                )
            }
        };
    }

    /// Puts a step in the place of the one of that name.
    pub fn replace(&mut self, step: Step) {
        match self.steps.iter_mut().find(|old| old.step == step.step) {
            Some(old) => *old = step,
            None => self.steps.push(step),
        }
    }
}
