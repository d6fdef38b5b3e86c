//! Finds a deployment manager that is a program of its own (wadm, section 3.6, rule 1).
//!
//! Both answer the same subjects in the same queue group, so an answer tells who is there: hosts of
//! this project mark theirs with a header. One question reaches any one member of the group; so a
//! round asks several times where hosts may be in it, and a manager among them is found after a few
//! rounds.

use std::{fmt, time::Duration};

use async_nats::Message;
use bytes::Bytes;
use futures::future::join_all;
use serde_json::Value;

use lattice_client::lattice::Lattice;
use lattice_protocol::applications::api::HOST_HEADER;

/// How long an answer may take; `wash up` waits as long.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Questions of a round that is not the first.
const ROUND: usize = 8;
/// An application that nobody has: the cheapest question that is no mistake.
const NOBODY: &str = "lattice-host-looks-for-a-manager";

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

/// The member of the group that an answer is of.
#[derive(Debug, PartialEq, Eq)]
enum Member {
    Host,
    Rival(Rival),
}

/// Asks for the list of applications: the first question of a host that comes.
pub async fn first(lattice: &Lattice) -> Option<Rival> {
    ask(lattice, lattice.subjects.manager("list", None)).await
}

/// Asks as often as it takes to meet a manager among hosts.
pub async fn round(lattice: &Lattice) -> Option<Rival> {
    let subject = lattice.subjects.manager("versions", Some(NOBODY));
    let asked = (0..ROUND).map(|_| ask(lattice, subject.clone()));
    join_all(asked).await.into_iter().flatten().next()
}

/// Nobody at all, silence, and a host are no rival.
async fn ask(lattice: &Lattice, subject: String) -> Option<Rival> {
    let asked = lattice.client.request(subject, Bytes::new());
    match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(Ok(message)) => match member(&message) {
            Member::Rival(rival) => Some(rival),
            Member::Host => None,
        },
        Ok(Err(_)) | Err(_) => None,
    }
}

fn member(message: &Message) -> Member {
    let is_host =
        message.headers.as_ref().is_some_and(|headers| headers.get(HOST_HEADER).is_some());
    if is_host {
        return Member::Host;
    }
    let list = serde_json::from_slice::<Vec<Value>>(&message.payload).unwrap_or_default();
    match list.iter().any(|element| element.get("detailed_status").is_some()) {
        true => Member::Rival(Rival::Later),
        false => Member::Rival(Rival::Old),
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
        for (headers, payload, expected) in [
            (Some(marked), "[]", Member::Host),
            (None, "[]", Member::Rival(Rival::Old)),
            (Some(HeaderMap::new()), r#"[{"name":"a"}]"#, Member::Rival(Rival::Old)),
            (None, r#"{"result":"error","message":"x"}"#, Member::Rival(Rival::Old)),
            (None, r#"[{"name":"a","detailed_status":{}}]"#, Member::Rival(Rival::Later)),
        ] {
            let message = Message {
                subject: Subject::from_static("_INBOX.a"),
                reply: None,
                payload: Bytes::from_static(payload.as_bytes()),
                headers,
                status: None,
                description: None,
                length: 0,
            };
            assert_eq!(member(&message), expected, "{payload}");
        }
    }
}
