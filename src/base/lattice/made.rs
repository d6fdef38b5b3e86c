//! Tells messages that JetStream or the NATS server made from those that a client sent.
//!
//! JetStream sends its answers to the reply subject of a question, whatever that is, with rights of
//! its own. The NATS server checks what a user publishes and not where it wants its answer. So a
//! user who may ask JetStream can have it send something to any subject: what the user stored
//! before, an acknowledgement, or an empty message. A command that has no signature is believed for
//! the subject it came on, so what JetStream made is dropped there. The server answers questions
//! below `$SYS.REQ` in the same way, and some of before 2026 send traces of messages to any subject.
//!
//! Such a message has one of these marks:
//!
//! * a status in its headers (nothing found, a heartbeat, an end);
//! * headers that tell the place of a stored message. A stored message may have headers of such a
//!   form that the first one behind them is hidden, so any of them counts;
//! * a reply subject on which JetStream waits for an acknowledgement;
//! * without a reply subject, the content of an answer of its API or of the server, of the
//!   acknowledgement of a stored message, or of a snapshot.
//!
//! The end of a snapshot has none: it is an empty message that wants no answer. So no command is
//! taken from such a one either; clients want to know what became of theirs.

use async_nats::{HeaderMap, Message, StatusCode};
use serde::{Deserialize, de::IgnoredAny};
use tracing::{debug, warn};

use super::reserved::beyond_gateways;

/// Headers that JetStream adds to a stored message.
const PLACE: [&str; 6] = [
    "Nats-Stream",
    "Nats-Subject",
    "Nats-Sequence",
    "Nats-Time-Stamp",
    "Nats-Last-Sequence",
    "Nats-Num-Pending",
];
/// Where JetStream waits for acknowledgements.
const ACKNOWLEDGED: [&str; 2] = ["$JS.ACK.", "$JS.SNAPSHOT."];
/// How an answer of its API begins.
const API: &[u8] = br#"{"type":"io.nats."#;
/// How the acknowledgement of a stored message begins, and how one that says why it was not stored.
const STORED: [&[u8]; 2] = [br#"{"stream":""#, br#"{"error":{"#];
/// How an answer of the server begins, and the trace of a message.
const SERVER: &[u8] = br#"{"server":{"#;
/// How a snapshot begins.
const SNAPSHOT: &[u8] = b"\xff\x06\x00\x00S2sTwO";

/// Returns whether JetStream made a message; the log tells of it.
pub fn by_jetstream(message: &Message) -> bool {
    let is_made = has_mark(message);
    if is_made {
        tell(message);
    }
    is_made
}

/// The same for a message that would be a command, which may be empty.
pub fn by_jetstream_as_command(message: &Message) -> bool {
    if is_end(message) {
        warn!(
            subject = %message.subject,
            "a command was dropped: it is empty and wants no answer, as the end of a JetStream snapshot; send it as a request"
        );
        return true;
    }
    by_jetstream(message)
}

fn tell(message: &Message) {
    // The server itself says this, of a subject where nobody listens.
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return debug!(subject = %message.subject, "nobody listens");
    }
    warn!(
        subject = %message.subject,
        "a message was dropped: JetStream made it, and not a client. Whoever may ask JetStream can have it send something to \
         any subject; look which users may publish below $JS.API or to subjects of streams"
    );
}

fn has_mark(message: &Message) -> bool {
    message.status.is_some()
        || message.headers.as_ref().is_some_and(tells_place)
        || message.reply.as_ref().is_some_and(|reply| is_acknowledged(reply))
        || message.reply.is_none() && is_made(&message.payload)
}

fn is_end(message: &Message) -> bool {
    message.payload.is_empty() && message.reply.is_none()
}

fn tells_place(headers: &HeaderMap) -> bool {
    PLACE.iter().any(|name| headers.get(*name).is_some())
}

fn is_acknowledged(reply: &str) -> bool {
    let reply = beyond_gateways(reply);
    ACKNOWLEDGED.iter().any(|root| reply.starts_with(root))
}

fn is_made(payload: &[u8]) -> bool {
    payload.starts_with(API)
        || payload.starts_with(SNAPSHOT)
        || is_acknowledgement(payload)
        || is_of_server(payload)
}

fn is_of_server(payload: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Told {
        #[serde(rename = "server")]
        _server: Server,
    }

    #[derive(Deserialize)]
    struct Server {
        #[serde(rename = "id")]
        _id: IgnoredAny,
        #[serde(rename = "ver")]
        _version: IgnoredAny,
    }

    payload.starts_with(SERVER) && serde_json::from_slice::<Told>(payload).is_ok()
}

fn is_acknowledgement(payload: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Stored {
        #[serde(rename = "stream")]
        _stream: IgnoredAny,
        #[serde(rename = "seq")]
        _seq: IgnoredAny,
    }

    STORED.iter().any(|start| payload.starts_with(start))
        && serde_json::from_slice::<Stored>(payload).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &'static [u8]) -> Message {
        Message {
            subject: "wasmbus.ctl.default.cmd.N.stop".into(),
            reply: Some("_INBOX.a.b".into()),
            payload: payload.into(),
            headers: None,
            status: None,
            description: None,
            length: payload.len(),
        }
    }

    fn with_header(name: &str) -> Message {
        let mut headers = HeaderMap::new();
        headers.insert(name, "x");
        Message { headers: Some(headers), ..message(b"{}") }
    }

    fn with_reply(reply: Option<&str>, payload: &'static [u8]) -> Message {
        Message { reply: reply.map(Into::into), ..message(payload) }
    }

    #[test]
    fn what_jetstream_sends_is_told_by_its_marks() {
        let status = |code| Message {
            status: Some(StatusCode::from_u16(code).unwrap()),
            headers: Some(HeaderMap::new()),
            ..message(b"")
        };
        for made in [
            // A direct get, also with a first header that was hidden, and a message that a stream
            // sends on
            with_header("Nats-Stream"),
            with_header("Nats-Subject"),
            with_header("Nats-Sequence"),
            with_header("Nats-Time-Stamp"),
            with_header("Nats-Last-Sequence"),
            // Deliveries of a consumer, and the parts of a snapshot
            with_reply(Some("$JS.ACK.OBJ_default.c.1.1.1.1796099436531207562.4"), b"{}"),
            with_reply(Some("_GR_.DdEU99.DSpI1m.$JS.ACK.OBJ_default.c.1.1.1.1.4"), b"{}"),
            with_reply(Some("$JS.SNAPSHOT.ACK.OBJ_default.x"), b"{}"),
            with_reply(None, b"\xff\x06\x00\x00S2sTwO\x00]\x01"),
            // Answers of the API, and acknowledgements
            with_reply(
                None,
                br#"{"type":"io.nats.jetstream.api.v1.stream_info_response","total":1}"#,
            ),
            with_reply(None, br#"{"stream":"OBJ_default","domain":"core","seq":1}"#),
            with_reply(None, br#"{"stream":"OBJ_default", "seq":1, "duplicate": true}"#),
            with_reply(None, br#"{"error":{"code":400},"stream":"OBJ_default","seq":0}"#),
            // The server says who a user is, or where a message went
            with_reply(None, br#"{"server":{"id":"N","ver":"2.15.1"},"data":{"user":"provider"}}"#),
            // A heartbeat, an end, nothing found, a time that is over, nobody there
            status(100),
            status(204),
            status(404),
            status(408),
            status(409),
            status(503),
        ] {
            assert!(by_jetstream(&made) && by_jetstream_as_command(&made), "{made:?}");
        }
    }

    #[test]
    fn what_clients_send_has_no_such_mark() {
        for sent in [
            message(b""),
            message(b"{}"),
            message(br#"{"host_id":"N","timeout":5}"#),
            message(br#"{"type":"com.wasmcloud.lattice.host_heartbeat"}"#),
            // Named configuration may be anything
            message(br#"{"stream":"orders"}"#),
            message(br#"{"error":{}}"#),
            message(br#"{"stream":"orders","seq":0}"#),
            message(br#"{"type":"io.nats.jetstream.api.v1.stream_info_response"}"#),
            with_reply(None, br#"{"stream":"orders"}"#),
            with_reply(None, br#"{"server":{"id":"here"}}"#),
            message(b"\xff\x06\x00"),
            with_reply(None, b"{}"),
            // Such a reply subject is refused when it is answered
            with_reply(Some("$JS.core.API.STREAM.PURGE.KV_LATTICEDATA_default"), b"{}"),
            // Headers of clients, and of a server that says who asks from another account
            with_header("traceparent"),
            with_header("Nats-Msg-Id"),
            with_header("Nats-Request-Info"),
        ] {
            assert!(!by_jetstream(&sent) && !by_jetstream_as_command(&sent), "{sent:?}");
        }
    }

    #[test]
    fn an_empty_message_that_wants_no_answer_is_no_command() {
        let end = with_reply(None, b"");
        assert!(!by_jetstream(&end), "a ping may be so");
        assert!(by_jetstream_as_command(&end));
    }
}
