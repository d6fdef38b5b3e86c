//! The entry that the history keeps of a command: who sent it, what it is about, and what became of
//! it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::refusals;
use lattice_protocol::{
    control::request::PutLabel,
    history::{
        Audit,
        audit::{Asked, Outcome, VALUE, object},
        compact,
    },
    lattice::control::{Control, Intent},
};

/// Returns the entry of a request that was answered; none for a mere question.
pub(super) fn entry(
    asked: Asked,
    request: &Control,
    payload: &[u8],
    answer: &[u8],
) -> Option<Audit> {
    let Intent::Command(verb) = request.intent() else { return None };
    let mut object = match request {
        // Logins of registries are secrets, whatever they are called.
        Control::RegistriesPut => Default::default(),
        // The body is a value of the configuration.
        Control::ConfigPut { .. } | Control::ConfigDel { .. } | Control::ConfigClear { .. } => {
            Default::default()
        }
        Control::LabelPut { .. } => label(payload),
        _ => object(payload),
    };
    for (what, name) in request.names() {
        let member = match what {
            "host" => "host_id",
            "entity" => "name",
            what => what,
        };
        object.insert(member.to_owned(), name.to_owned());
    }
    let verb = verb_of(request, payload).unwrap_or(verb);
    Some(asked.entry(verb, object, outcome(answer)))
}

/// Returns the members of a command that puts a label, with what it is set to. That is no secret:
/// a host tells its labels to all who ask.
fn label(payload: &[u8]) -> BTreeMap<String, String> {
    let mut object = object(payload);
    if let Ok(PutLabel { value, .. }) = serde_json::from_slice(payload) {
        object.insert(VALUE.to_owned(), compact::text(&value));
    }
    object
}

/// Names a command by what it means where its subject alone does not say it.
fn verb_of(request: &Control, payload: &[u8]) -> Option<&'static str> {
    #[derive(Default, Deserialize)]
    struct Scale {
        #[serde(default, alias = "scale", alias = "max_instances")]
        count: serde_json::Value,
    }
    match request {
        Control::ScaleActor { .. } => {
            let scale: Scale = serde_json::from_slice(payload).unwrap_or_default();
            Some(if scale.count.as_u64() == Some(0) { "stop actor" } else { "scale actor" })
        }
        _ => None,
    }
}

fn outcome(answer: &[u8]) -> (Outcome, String) {
    #[derive(Deserialize)]
    struct Accepted {
        #[serde(default)]
        accepted: bool,
    }
    match refusals::reason(answer) {
        Some(reason) => (Outcome::of_refusal(&reason), reason),
        None => match serde_json::from_slice::<Accepted>(answer) {
            Ok(Accepted { accepted: true }) => (Outcome::Accepted, String::new()),
            _ => (Outcome::Unknown, String::new()),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use lattice_protocol::control::types::Ack;

    fn entry(request: &Control, body: serde_json::Value, answer: &Ack) -> Option<Audit> {
        let asked = Asked::now(Some(r#"{"kind":"cli","who":"ann@laptop"}"#));
        let answer = serde_json::to_vec(answer).unwrap();
        super::entry(asked, request, body.to_string().as_bytes(), &answer)
    }

    #[test]
    fn a_command_is_kept_with_its_sender_and_a_question_is_not() {
        let host = || "N1".to_owned();
        let accepted = Ack::accepted();
        let scale = Control::ScaleActor { host: host() };
        for (count, verb) in [(json!(3), "scale actor"), (json!(0), "stop actor")] {
            let body = json!({"actor_ref": "file:///a.wasm", "count": count});
            let kept = entry(&scale, body, &accepted).unwrap();
            assert_eq!((&*kept.verb, kept.outcome), (verb, Outcome::Accepted));
            assert_eq!((&*kept.object["host_id"], &*kept.origin.who), ("N1", "ann@laptop"));
        }
        assert_eq!(entry(&Control::Links, json!({}), &accepted), None);
        let refused = Ack::rejected("no such actor");
        let kept = entry(&Control::StopActor { host: host() }, json!({}), &refused).unwrap();
        assert_eq!((kept.outcome, &*kept.reason), (Outcome::Refused, "no such actor"));
        let forget = Control::ForgetHost { host: host() };
        let kept = entry(&forget, json!({"lost_host_id": "N2"}), &accepted).unwrap();
        assert_eq!((&*kept.object["host_id"], &*kept.subject()), ("N1", "N2"));
        let put = Control::ConfigPut { entity: "MA".into(), key: "colour".into() };
        let kept = entry(&put, json!("red"), &accepted).unwrap();
        assert_eq!((&*kept.object["name"], &*kept.object["key"]), ("MA", "colour"));
    }

    #[test]
    fn a_label_is_kept_with_what_it_is_set_to() {
        let host = || "N1".to_owned();
        let (put, del) = (Control::LabelPut { host: host() }, Control::LabelDel { host: host() });
        let zone = |value: serde_json::Value| json!({"key": "zone", "value": value});
        for (request, body, subject) in [
            (&put, zone(json!("b")), "zone=b"),
            (&put, zone(json!("")), "zone="),
            (&put, zone(json!(null)), "zone="),
            // It is no label, and is refused.
            (&put, zone(json!(["b"])), "zone"),
            (&del, zone(json!("b")), "zone"),
        ] {
            let kept = entry(request, body.clone(), &Ack::accepted()).unwrap();
            assert_eq!(kept.subject(), subject, "{body}");
            assert_eq!(kept.object.get(VALUE).map(String::as_str), subject.strip_prefix("zone="));
        }
    }

    #[test]
    fn secrets_are_in_no_entry() {
        let config = Control::ConfigPut { entity: "MA".into(), key: "password".into() };
        let link = json!({"actor_id": "MA", "values": {"name": "hunter2", "key": "hunter2"}});
        let login =
            json!({"registry": {"name": "hunter2", "password": "hunter2"}, "name": "hunter2"});
        for (request, body) in [
            (Control::RegistriesPut, login),
            (Control::LinkPut, link),
            (config, json!({"name": "hunter2"})),
        ] {
            let kept = entry(&request, body, &Ack::accepted()).unwrap();
            let kept = serde_json::to_string(&kept).unwrap();
            assert!(!kept.contains("hunter2"), "{kept}");
        }
        let malformed = Ack::rejected(
            r#"malformed put link request: invalid type: string "hunter2" at line 1 column 2"#,
        );
        let kept = entry(&Control::LinkPut, json!({}), &malformed).unwrap();
        assert_eq!(kept.reason, "malformed put link request at line 1 column 2");
    }
}
