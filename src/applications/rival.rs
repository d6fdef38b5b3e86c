//! Finds a deployment manager that is a program of its own (wadm, section 3.6, rule 1).
//!
//! Both answer the same subjects in the same queue group, so an answer tells who is there: hosts of
//! this project mark theirs with a header. One question reaches any one member of the group; so a
//! round asks several times where hosts may be in it, and a manager among them is found after a few
//! rounds. The cheap questions do not tell its age, so one that was met is asked what only later
//! ones know.

use std::{fmt, time::Duration};

use async_nats::Message;
use bytes::Bytes;
use futures::future::join_all;

use lattice_client::lattice::Lattice;
use lattice_protocol::applications::{
    api::{HOST_HEADER, ListReply},
    request::Request,
};

/// How long an answer may take; `wash up` waits as long.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Questions of a round that is not the first.
const ROUND: usize = 8;
/// An application that nobody has: the cheapest question that is no mistake.
pub(crate) const NOBODY: &str = "lattice-host-looks-for-a-manager";

/// A deployment manager that answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rival {
    /// It steers hosts of these years.
    Old,
    /// Made for hosts of another protocol.
    Later,
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Old => "a deployment manager (wadm)",
            Self::Later => "a deployment manager of a later protocol (wadm 0.14 or later), which cannot steer these hosts",
        })
    }
}

/// Asks for the list of applications: the first question of a host that comes.
pub async fn first(lattice: &Lattice) -> Option<Rival> {
    of_age(lattice, ask(lattice, Request::List).await).await
}

/// Asks as often as it takes to meet a manager among hosts.
pub async fn round(lattice: &Lattice) -> Option<Rival> {
    let asked = (0..ROUND).map(|_| ask(lattice, Request::Versions(NOBODY)));
    let met = join_all(asked).await.into_iter().flatten().next();
    of_age(lattice, met).await
}

/// Returns the manager that gave an answer, if one did. Its age is asked for until it answers:
/// hosts in the group may take the question.
async fn of_age(lattice: &Lattice, met: Option<Message>) -> Option<Rival> {
    met?;
    for _ in 0..ROUND {
        if let Some(message) = ask(lattice, Request::Models).await {
            return Some(age(&message.payload));
        }
    }
    Some(Rival::Old)
}

/// Returns the answer of a manager. Nobody at all, silence, and a host are none.
async fn ask(lattice: &Lattice, request: Request<'_>) -> Option<Message> {
    let asked = lattice.client.request(lattice.subjects.manager(request), Bytes::new());
    let message = tokio::time::timeout(TIMEOUT, asked).await.ok()?.ok()?;
    (!is_of_host(&message)).then_some(message)
}

fn is_of_host(message: &Message) -> bool {
    message.headers.as_ref().is_some_and(|headers| headers.get(HOST_HEADER).is_some())
}

/// Tells the age of a manager by its answer to [`Request::Models`], which the old one refuses.
fn age(payload: &[u8]) -> Rival {
    match serde_json::from_slice::<ListReply>(payload) {
        Ok(_) => Rival::Later,
        Err(_) => Rival::Old,
    }
}

#[cfg(test)]
mod tests {
    use async_nats::{HeaderMap, Subject};

    use super::*;

    #[test]
    fn an_answer_tells_a_host_from_a_manager() {
        let mut marked = HeaderMap::new();
        marked.insert(HOST_HEADER, "NABC");
        for (headers, is_host) in
            [(Some(marked), true), (Some(HeaderMap::new()), false), (None, false)]
        {
            let message = Message {
                subject: Subject::from_static("_INBOX.a"),
                reply: None,
                payload: Bytes::from_static(b"[]"),
                headers,
                status: None,
                description: None,
                length: 0,
            };
            assert_eq!(is_of_host(&message), is_host);
        }
    }

    #[test]
    fn only_later_managers_list_all_models() {
        for (payload, expected) in [
            (r#"{"result":"error","message":"Unsupported subject: x"}"#, Rival::Old),
            ("[]", Rival::Old),
            (r#"{"result":"success","message":"","models":[]}"#, Rival::Later),
            (
                r#"{"result":"success","message":"","models":[{"name":"a","version":"v1","description":null,
                    "deployed_version":null,"status":"waiting","status_message":null}]}"#,
                Rival::Later,
            ),
        ] {
            assert_eq!(age(payload.as_bytes()), expected, "{payload}");
        }
    }
}
