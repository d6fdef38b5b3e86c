//! Rules, decisions, and the memory of both sides: hosts keep a decision until they are told
//! another, so what they were told is kept here, and looked at again when the rules change.

use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json};

use crate::file::{Lattice, labels};

/// Decisions that can still be overridden. Hosts with older ones keep them until they start again.
const REMEMBERED_MAX: usize = 100_000;

/// The rules of a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    otherwise: Otherwise,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Otherwise {
    #[default]
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    StartActor,
    StartProvider,
    PerformInvocation,
}

/// One rule as it is written: it either allows or denies.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    allow: Option<Vec<Action>>,
    #[serde(default)]
    deny: Option<Vec<Action>>,
    #[serde(default)]
    labels: HashMap<String, Patterns>,
    #[serde(default)]
    target: Option<Patterns>,
    #[serde(default)]
    source: Option<Patterns>,
    #[serde(default)]
    issuer: Option<Patterns>,
    #[serde(default)]
    source_issuer: Option<Patterns>,
    #[serde(default)]
    contract: Option<Patterns>,
    #[serde(default)]
    image: Option<Patterns>,
    #[serde(default)]
    because: Option<String>,
}

/// One rule: what it is about, and what it decides.
#[derive(Debug)]
struct Rule {
    permits: bool,
    actions: Vec<Action>,
    labels: HashMap<String, Patterns>,
    /// Where in a request to look, and what must be there.
    members: Vec<(&'static str, Patterns)>,
    because: Option<String>,
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let (permits, actions) = match (written.allow, written.deny) {
            (Some(actions), None) => (true, actions),
            (None, Some(actions)) => (false, actions),
            _ => {
                return Err(D::Error::custom(
                    "a rule has either allow or deny, with a list of actions",
                ));
            }
        };
        let members = [
            ("/target/publicKey", written.target),
            ("/source/publicKey", written.source),
            ("/target/issuer", written.issuer),
            ("/source/issuer", written.source_issuer),
            ("/target/contractId", written.contract),
            ("/target/imageReference", written.image),
        ];
        let members =
            members.into_iter().filter_map(|(place, patterns)| Some((place, patterns?))).collect();
        Ok(Self { permits, actions, labels: written.labels, members, because: written.because })
    }
}

impl Rule {
    fn fits(&self, action: Action, question: &Value) -> bool {
        let labels = labels(&question["host"]["labels"]);
        self.actions.contains(&action)
            && self
                .labels
                .iter()
                .all(|(key, wanted)| labels.get(key).is_some_and(|value| wanted.fit(value)))
            && self.members.iter().all(|(place, wanted)| {
                question.pointer(place).and_then(Value::as_str).is_some_and(|text| wanted.fit(text))
            })
    }
}

/// One text or several; `*` stands for anything.
#[derive(Debug)]
struct Patterns(Vec<String>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a text or a list of texts")]
        enum Form {
            One(String),
            Many(Vec<String>),
        }
        Ok(Self(match Form::deserialize(deserializer)? {
            Form::One(pattern) => vec![pattern],
            Form::Many(patterns) => patterns,
        }))
    }
}

impl Patterns {
    fn fit(&self, text: &str) -> bool {
        self.0.iter().any(|pattern| fits(pattern, text))
    }
}

/// Whether a text is as a pattern says.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(head) else { return false };
    let Some((middle, last)) = tail.rsplit_once('*') else {
        return rest.ends_with(tail);
    };
    let Some(mut rest) = rest.strip_suffix(last) else { return false };
    // Each piece at its first place leaves the most for those after it.
    for piece in middle.split('*') {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    true
}

impl Policy {
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// Whether something may be, and why.
    fn decide(&self, question: &Value) -> (bool, String) {
        let Ok(action) = Action::deserialize(&question["action"]) else {
            return (false, "the policy request names no action this service knows".to_owned());
        };
        match self.rules.iter().position(|rule| rule.fits(action, question)) {
            Some(at) => {
                let rule = &self.rules[at];
                (
                    rule.permits,
                    rule.because.clone().unwrap_or_else(|| format!("rule {} decides", at + 1)),
                )
            }
            None => (self.otherwise == Otherwise::Allow, "no rule is about this".to_owned()),
        }
    }
}

/// The decisions that hosts were told.
#[derive(Default)]
pub struct Book {
    told: HashMap<String, (Value, bool)>,
    /// The requests in their order.
    order: VecDeque<String>,
}

impl Book {
    /// Decides, and remembers it.
    pub fn decide(&mut self, lattice: &Lattice, question: Value) -> Value {
        let (permitted, message) = lattice.policy.decide(&question);
        let request = question["requestId"].as_str().unwrap_or_default().to_owned();
        println!(
            "{} {} on a host with {}: {message}",
            if permitted { "allowed" } else { "denied" },
            told(&question),
            crate::file::shown(&labels(&question["host"]["labels"])),
        );
        if !request.is_empty() && self.told.insert(request.clone(), (question, permitted)).is_none()
        {
            self.order.push_back(request.clone());
            if self.order.len() > REMEMBERED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.told.remove(&oldest);
            }
        }
        reply(&request, permitted, &message)
    }

    /// The decisions that are others by the rules of now.
    pub fn changed(&mut self, lattice: &Lattice) -> Vec<Value> {
        let mut overrides = Vec::new();
        for (request, (question, told)) in &mut self.told {
            let (permitted, message) = lattice.policy.decide(question);
            if permitted != *told {
                *told = permitted;
                overrides.push(reply(request, permitted, &message));
            }
        }
        overrides
    }
}

fn reply(request: &str, permitted: bool, message: &str) -> Value {
    json!({"requestId": request, "permitted": permitted, "message": message})
}

/// A request for people.
fn told(question: &Value) -> String {
    let text = |place: &str| {
        question.pointer(place).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let target = [text("/target/imageReference"), text("/target/publicKey")];
    let target = target.into_iter().find(|target| !target.is_empty()).unwrap_or_default();
    format!("{} of {target}", text("/action"))
}
