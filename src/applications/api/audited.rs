//! The entry that the history keeps of a command about an application.

use async_nats::Message;
use serde_json::Value;

use lattice_protocol::{
    applications::request::Request,
    history::{
        Audit,
        audit::{Asked, Outcome, object},
        compact,
    },
};

/// Returns the entry of a request that was answered; none for a mere question. `root` is the
/// beginning of the subjects of the API.
pub(super) fn entry(asked: Asked, root: &str, message: &Message, answer: &[u8]) -> Option<Audit> {
    let request = Request::parse(root, &message.subject).ok()?;
    let verb = verb(&request, &message.payload)?;
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let mut object = object(&message.payload);
    // The answer to a manifest names the application, its subject does not.
    let name = request.application().or(answer["name"].as_str()).unwrap_or_default();
    if !name.is_empty() {
        object.insert("name".to_owned(), compact::text(name));
    }
    Some(asked.entry(verb, object, outcome(&answer)))
}

/// Whether a request asks for a change and not only for an answer.
pub(super) fn is_change(request: &Request<'_>, message: &Message) -> bool {
    verb(request, &message.payload).is_some()
}

fn verb(request: &Request<'_>, body: &[u8]) -> Option<&'static str> {
    match request {
        Request::Put => Some("put application"),
        Request::Delete(_) => Some("delete application"),
        Request::Deploy(_) => Some("deploy"),
        Request::Undeploy(_) => Some("undeploy"),
        Request::Rollout(_) if changes(body) => Some("rollout"),
        _ => None,
    }
}

/// Whether a request about a rollout asks for a change and does not only look.
fn changes(body: &[u8]) -> bool {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    body["action"].as_str().is_some_and(|action| !action.is_empty() && action != "status")
}

/// Reads what became of it from the answer, whose words are those of the old manager.
fn outcome(answer: &Value) -> (Outcome, String) {
    let message = answer["message"].as_str().unwrap_or_default();
    match answer["result"].as_str().unwrap_or_default() {
        "error" | "notfound" => (Outcome::of_refusal(message), compact::text(message)),
        "" => (Outcome::Unknown, compact::text(message)),
        _ => (Outcome::Accepted, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(subject: &str, body: &Value, answer: &Value) -> Option<Audit> {
        let message = Message {
            subject: format!("wadm.api.default.{subject}").into(),
            reply: None,
            payload: body.to_string().into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        super::entry(Asked::now(None), "wadm.api.default", &message, answer.to_string().as_bytes())
    }

    #[test]
    fn commands_are_kept_with_what_became_of_them_and_questions_are_not() {
        let done = json!({"result": "acknowledged", "message": "", "name": "shop"});
        let failed = json!({"result": "error", "message": "no such version"});
        for (subject, body, answer, verb, outcome) in [
            ("model.deploy.shop", json!({"version": "2"}), &done, "deploy", Outcome::Accepted),
            ("model.undeploy.shop", json!({}), &failed, "undeploy", Outcome::Refused),
            ("model.put", json!("kind: Application"), &done, "put application", Outcome::Accepted),
        ] {
            let kept = entry(subject, &body, answer).unwrap();
            assert_eq!((&*kept.verb, kept.outcome), (verb, outcome), "{subject}");
            assert_eq!(&*kept.object["name"], "shop");
        }
        assert_eq!(entry("model.list", &json!({}), &json!([])), None);
        assert_eq!(entry("model.nonsense.a.b", &json!({}), &json!([])), None);
    }
}
