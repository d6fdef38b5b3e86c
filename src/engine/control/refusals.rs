//! Tells of commands that this host refused: not every client looks at the answer, and one of 2024
//! says "successfully" whatever it was.
//!
//! Each refusal is one line of the log and one event, `command_refused`, which dashboards show;
//! that of a link is told as `linkdef_set_failed` too. All are bounded: whoever may send commands
//! may send wrong ones for ever.

use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use tracing::warn;

use crate::{events::Publisher, journal::cut};
use lattice_base::telemetry::flood::{Bounds, Flood};
use lattice_protocol::{
    control::{request::PutLink, types::Ack},
    events::Event,
    lattice::control::{Control, Intent},
    links::LinkDefinition,
};

/// Events of one kind of command in ten seconds, in which a person still finds the others.
const BOUNDS: Bounds = Bounds { per_target: 5, per_kind: 20 };
/// How a refusal begins in JSON. An answer to a question may be large, and is not read for it.
const REFUSAL: &[u8] = b"{\"accepted\":false";
/// The longest part of a text from the wire that an event repeats.
const TEXT_BYTES_MAX: usize = 2048;
const SUBJECT_BYTES_MAX: usize = 256;

/// Counts refusals and tells them.
pub struct Refusals {
    host_id: String,
    events: Publisher,
    // Held for a count.
    flood: Mutex<Flood<&'static str>>,
}

impl Refusals {
    pub fn new(host_id: String, events: Publisher) -> Self {
        Self { host_id, events, flood: Mutex::new(Flood::new(BOUNDS)) }
    }

    /// Tells of an answer if it refuses a command.
    pub fn tell(&self, request: Option<&Control>, subject: &str, payload: &Bytes, answer: &[u8]) {
        let Some(command) = command(request) else { return };
        let Some(reason) = reason(answer) else { return };
        warn!(subject, reason, "{command} refused");
        let (is_admitted, _) = self.flood.lock().admit(command, &reason, Instant::now());
        if !is_admitted {
            return;
        }
        if let Some(link) = link(request, payload) {
            let (host_id, error) = (self.host_id.clone(), reason.clone());
            self.events.publish(Event::LinkdefSetFailed { link, host_id, error });
        }
        self.events.publish(Event::CommandRefused {
            host_id: self.host_id.clone(),
            command: command.to_owned(),
            subject: cut(subject, SUBJECT_BYTES_MAX).to_owned(),
            error: reason,
        });
    }
}

/// Names the command in a request; `None` for a query. An unknown subject counts as a command,
/// since it may have been meant as one.
fn command(request: Option<&Control>) -> Option<&'static str> {
    match request.map(Control::intent) {
        None => Some("unknown request"),
        Some(Intent::Command(words)) => Some(words),
        Some(Intent::Query(_)) => None,
    }
}

/// Why an answer refuses; `None` if it does not.
pub(super) fn reason(answer: &[u8]) -> Option<String> {
    if !answer.starts_with(REFUSAL) {
        return None;
    }
    let ack: Ack = serde_json::from_slice(answer).ok()?;
    (!ack.accepted).then(|| cut(&without_quotes(&ack.error), TEXT_BYTES_MAX).to_owned())
}

/// The error of a request that could not be read, without what it quotes: that may be a password in
/// link values or in a start configuration. The one who asks is told all of it.
fn without_quotes(error: &str) -> String {
    match error.strip_prefix("malformed ").and_then(|rest| rest.split_once(": ")) {
        Some((what, quoting)) => {
            let place = quoting.rfind(" at line ").map_or("", |at| &quoting[at..]);
            format!("malformed {what}{place}")
        }
        None => error.to_owned(),
    }
}

/// The link that was to be put, without its values.
fn link(request: Option<&Control>, payload: &Bytes) -> Option<LinkDefinition> {
    if request != Some(&Control::LinkPut) {
        return None;
    }
    let PutLink { actor_id, provider_id, link_name, contract_id, .. } =
        serde_json::from_slice(payload).ok()?;
    let [actor_id, provider_id, link_name, contract_id] =
        [actor_id, provider_id, link_name, contract_id]
            .map(|text| cut(&text, SUBJECT_BYTES_MAX).to_owned());
    Some(LinkDefinition {
        actor_id,
        provider_id,
        link_name,
        contract_id,
        values: Default::default(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_of_commands_are_told_apart_from_answers() {
        let refused = serde_json::to_vec(&Ack::rejected("no such actor")).unwrap();
        assert_eq!(reason(&refused).as_deref(), Some("no such actor"));
        for answer in
            [json!({"accepted": true, "error": ""}), json!({"links": []}), json!([]), json!("")]
        {
            assert_eq!(reason(&serde_json::to_vec(&answer).unwrap()), None, "{answer}");
        }
        assert_eq!(
            (command(Some(&Control::Links)), command(Some(&Control::LinkPut))),
            (None, Some("link put"))
        );
        assert!(
            reason(&serde_json::to_vec(&Ack::rejected("x".repeat(1 << 20))).unwrap())
                .unwrap()
                .len()
                <= 2048
        );
    }

    #[test]
    fn what_a_malformed_request_held_is_not_repeated() {
        let error =
            serde_json::from_value::<PutLink>(json!({"values": "password=hunter2"})).unwrap_err();
        let told = without_quotes(&format!("malformed put link request: {error}"));
        assert_eq!(told, "malformed put link request");
        let error = serde_json::from_str::<PutLink>("{\"values\": \"hunter2\"}").unwrap_err();
        let told = without_quotes(&format!("malformed put link request: {error}"));
        assert_eq!(told, "malformed put link request at line 1 column 20");
    }

    #[test]
    fn a_refused_link_is_named_without_its_values() {
        let payload = json!({"actor_id": "M", "provider_id": "V", "contract_id": "a:b", "values": {"password": "x"}});
        let named = link(Some(&Control::LinkPut), &payload.to_string().into()).unwrap();
        assert_eq!((named.actor_id.as_str(), named.values.len()), ("M", 0));
        assert!(link(Some(&Control::LinkDel), &payload.to_string().into()).is_none());
    }
}
