//! `wasmcloud:messaging`: an actor publishes, asks and receives messages (wasmbus protocol,
//! section 5.5).

use serde::{Deserialize, Deserializer, Serialize};

use super::binary::Binary;
use crate::serde_null::null_as_default;

pub const CONTRACT_ID: &str = "wasmcloud:messaging";
/// Precedes the methods in operation names of calls by actors.
pub const SERVICE: &str = "Messaging";
/// Sends a message: [`Message`] in, nothing out.
pub const PUBLISH: &str = "Publish";
/// Sends a message and waits for the reply: [`RequestMessage`] in, [`Message`] out.
pub const REQUEST: &str = "Request";
/// Hands a message to an actor: [`Message`] in, nothing out.
pub const HANDLE_MESSAGE: &str = "MessageSubscriber.HandleMessage";

/// Words of the built-in provider's errors. The contract has texts alone, and components are told
/// the kind of an error.
pub mod words {
    /// Between a subject that cannot be one and the reason.
    pub const INVALID: &str = "is invalid:";
    /// Behind a subject that the link may not use.
    pub const RESERVED: &str = "belongs to the lattice or the NATS server";
    /// At the end, of a message that the server does not take.
    pub const TOO_LARGE: &str = "(its max_payload)";
    /// At the beginning.
    pub const NO_REPLY: &str = "no reply on";
    /// At the beginning.
    pub const NO_RESPONDERS: &str = "nobody listens on";
}

/// A message. The interface has three names for it: `PubMessage`, `SubMessage` and `ReplyMessage`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    #[serde(default, deserialize_with = "null_as_default")]
    pub subject: String,
    /// Where a reply is expected. TinyGo writes nothing as an empty text.
    #[serde(
        rename = "replyTo",
        default,
        deserialize_with = "filled",
        skip_serializing_if = "Option::is_none"
    )]
    pub reply_to: Option<String>,
    #[serde(default)]
    pub body: Binary,
}

/// A message that waits for its reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestMessage {
    #[serde(default, deserialize_with = "null_as_default")]
    pub subject: String,
    #[serde(default)]
    pub body: Binary,
    /// Zero stands for as long as the call itself may take.
    #[serde(rename = "timeoutMs", default, deserialize_with = "null_as_default")]
    pub timeout_ms: u32,
}

fn filled<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use wasmbus_rpc::common::{deserialize, serialize};
    use wasmcloud_interface_messaging as published;

    use super::*;
    use crate::contracts::{decode, encode};

    #[test]
    fn messages_travel_in_both_directions() {
        for reply_to in [None, Some("there".to_owned())] {
            let theirs = published::PubMessage {
                subject: "a.b".into(),
                reply_to: reply_to.clone(),
                body: vec![1, 200],
            };
            let ours = Message {
                subject: "a.b".into(),
                reply_to: reply_to.clone(),
                body: vec![1, 200].into(),
            };
            assert_eq!(decode::<Message>("Publish", &serialize(&theirs).unwrap()).unwrap(), ours);

            let handled: published::SubMessage = deserialize(&encode(&ours)).unwrap();
            assert_eq!(
                (handled.subject.as_str(), &handled.reply_to, &handled.body),
                ("a.b", &reply_to, &vec![1, 200])
            );
            let replied: published::ReplyMessage = deserialize(&encode(&ours)).unwrap();
            assert_eq!(
                (replied.subject.as_str(), &replied.reply_to, &replied.body),
                ("a.b", &reply_to, &vec![1, 200])
            );
        }
    }

    #[test]
    fn requests_of_the_published_interface_are_read() {
        let theirs =
            published::RequestMessage { subject: "a".into(), body: vec![7], timeout_ms: 70_000 };
        let ours = RequestMessage { subject: "a".into(), body: vec![7].into(), timeout_ms: 70_000 };
        assert_eq!(
            decode::<RequestMessage>("Request", &serialize(&theirs).unwrap()).unwrap(),
            ours
        );
        let back: published::RequestMessage = deserialize(&encode(&ours)).unwrap();
        assert_eq!(back, theirs);
    }

    #[test]
    fn an_empty_or_nil_reply_subject_is_none_and_none_is_left_out() {
        for json in [
            serde_json::json!({ "subject": "a", "replyTo": "", "body": "x" }),
            serde_json::json!({ "subject": "a", "replyTo": null, "body": [120] }),
            serde_json::json!(["a", null, "x"]),
        ] {
            let read: Message = decode("Publish", &encode(&json)).unwrap();
            assert_eq!(read, Message { subject: "a".into(), reply_to: None, body: "x".into() });
            assert!(!encode(&read).windows(7).any(|window| window == b"replyTo"));
        }
    }
}
