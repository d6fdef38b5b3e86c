//! The one way in which a host answers: every message to the reply subject of a question goes
//! through [`Answers::send`].
//!
//! A client names the subject of the answer, and the host publishes there with its own NATS
//! permissions. So a user who may only ask could have commands sent in the host's name: a reply
//! subject `wasmbus.ctl.default.cmd.{host}.stop` makes the answer to a ping a stop. An answer
//! therefore goes only where nobody is commanded by the subject:
//!
//! * below `_INBOX.` or a root that begins with `_INBOX_`: the inboxes of all client libraries, and
//!   the form that is usual for users with private ones;
//! * to a single token of 22 letters and digits: the inbox of the library (`ratsio`) that providers
//!   of early 2022 use;
//! * below `_R_.`: a NATS server puts such a subject in place of the asker's when a question
//!   crosses accounts by a service import, and gives the answer to that account. It does not let
//!   clients name one;
//! * `_GR_.{cluster}.{server}.` before one of these: the same between clusters with gateways, seen
//!   behind leaf nodes;
//! * below a prefix of the setting `inbox_prefixes`.
//!
//! Never answered are reserved subjects ([`super::reserved`]), also where a prefix of the settings
//! would allow one, and texts that are no subject to publish on: blanks, wildcards, empty tokens.
//! The request is carried out all the same, as if no answer was wanted. Refused answers are counted
//! and logged, at most once in [`LOG_PAUSE`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::reserved::{Reserved, beyond_gateways};

/// The root of inboxes.
const INBOX: &str = "_INBOX";
/// Begins roots of inboxes of users who have private ones.
const PRIVATE_INBOX: &str = "_INBOX_";
/// The root of reply subjects that a server makes up for questions from another account.
const OTHER_ACCOUNT: &str = "_R_";
/// Characters of a NUID, which is a whole inbox in the oldest clients.
const NUID_CHARS: usize = 22;
/// Far below the line length that servers take.
const SUBJECT_BYTES_MAX: usize = 1024;
/// Characters of a refused subject that the log shows.
const SHOWN_CHARS: usize = 100;
/// The log tells of refused answers at most this often; a flood must not fill it.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// Answers in the host's name. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Answers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    reserved: Reserved,
    prefixes: Vec<String>,
    refused: AtomicU64,
    // Held for lines, never across an await.
    logged: Mutex<Logged>,
}

#[derive(Debug, Default)]
struct Logged {
    at: Option<Instant>,
    /// Refused answers that the log was not told of.
    silent: u64,
}

/// Why an answer was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    /// The subject is none to answer on; it was counted and logged.
    #[error("its reply subject is no inbox")]
    Refused,
    #[error("{0}")]
    Lost(String),
    #[error("the NATS connection does not take it")]
    Late,
}

impl Answers {
    /// Answers go to inboxes and below `prefixes`, and never to a reserved subject.
    pub fn new(reserved: Reserved, prefixes: Vec<String>) -> Self {
        Self(Arc::new(Inner {
            reserved,
            prefixes,
            refused: AtomicU64::new(0),
            logged: Mutex::default(),
        }))
    }

    /// Sends an answer to the reply subject that the asker named. Waits at most `patience`, and
    /// only while the server is away.
    pub async fn send(
        &self,
        client: &Client,
        reply: &Subject,
        answer: Bytes,
        patience: Duration,
    ) -> Result<(), Unsent> {
        self.send_with(client, reply, HeaderMap::new(), answer, patience).await
    }

    /// The same with headers, of which most clients take no notice.
    pub async fn send_with(
        &self,
        client: &Client,
        reply: &Subject,
        headers: HeaderMap,
        answer: Bytes,
        patience: Duration,
    ) -> Result<(), Unsent> {
        if !self.allows(reply) {
            self.refuse(reply);
            return Err(Unsent::Refused);
        }
        let sending = async {
            match headers.is_empty() {
                true => client.publish(reply.clone(), answer).await,
                false => client.publish_with_headers(reply.clone(), headers, answer).await,
            }
        };
        match timeout(patience, sending).await {
            Ok(sent) => sent.map_err(|error| Unsent::Lost(error.to_string())),
            Err(_) => Err(Unsent::Late),
        }
    }

    /// Returns how many answers were refused since the start.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    fn allows(&self, reply: &str) -> bool {
        if !is_publishable(reply) || self.0.reserved.meets(reply) {
            return false;
        }
        let reply = beyond_gateways(reply);
        is_inbox(reply) || self.0.prefixes.iter().any(|prefix| is_below(reply, prefix))
    }

    fn refuse(&self, reply: &str) {
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        let not_logged = {
            let mut logged = self.0.logged.lock();
            if logged.at.is_some_and(|at| at.elapsed() < LOG_PAUSE) {
                logged.silent += 1;
                return;
            }
            logged.at = Some(Instant::now());
            std::mem::take(&mut logged.silent)
        };
        let reply: String = reply.chars().take(SHOWN_CHARS).collect();
        warn!(
            ?reply,
            not_logged,
            "a question was not answered: its reply subject is no inbox; if clients of this lattice have inboxes \
             elsewhere, name their prefix in the setting inbox_prefixes"
        );
    }
}

/// Returns whether a prefix of inboxes may be set: a subject without wildcards by which nobody is
/// commanded.
pub fn is_inbox_prefix(prefix: &str) -> bool {
    is_publishable(prefix) && !Reserved::default().meets(prefix)
}

fn is_inbox(reply: &str) -> bool {
    match reply.split_once('.') {
        Some((root, _)) => {
            root == INBOX || root.starts_with(PRIVATE_INBOX) || root == OTHER_ACCOUNT
        }
        None => reply.len() == NUID_CHARS && reply.bytes().all(|b| b.is_ascii_alphanumeric()),
    }
}

fn is_below(subject: &str, prefix: &str) -> bool {
    subject.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
}

fn is_publishable(subject: &str) -> bool {
    subject.len() <= SUBJECT_BYTES_MAX
        && !subject.chars().any(|c| c.is_whitespace() || c.is_control())
        && subject.split('.').all(|token| !matches!(token, "" | "*" | ">"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Answers {
        let topics = [
            "factory.ctl".to_owned(),
            "0123456789abcdefABCDEF".to_owned(),
            "mine.rules".to_owned(),
        ];
        Answers::new(Reserved::new(topics), vec!["mine".to_owned(), "their.replies".to_owned()])
    }

    #[test]
    fn inboxes_of_all_client_libraries_are_answered() {
        for reply in [
            // async-nats, nats.go, nats.py, nats.js
            "_INBOX.DHPB3syStNhIRdOhMiA3ei",
            "_INBOX.u7oimerrqEmmc92FMP44Lj.u7oimerrqEmmc92FMP44Gm",
            // Elixir's library, with its base64
            "_INBOX.x+9/a3Qk0b8vT2Zc.Ab+/9Q==",
            // ratsio
            "7Kx0PqLm3NvTzY8bWc5RdA",
            // Private ones
            "_INBOX_alice.DHPB3syStNhIRdOhMiA3ei",
            "_INBOX.alice.DHPB3syStNhIRdOhMiA3ei",
            // Service imports, and gateways seen from leaf nodes
            "_R_.8XkQzv.F3hJq1",
            "_GR_.DdEU99.DSpI1m._INBOX.IyBx.ZK2u",
            "_GR_.DdEU99.DSpI1m._R_.8XkQzv",
            // By the settings
            "mine.a",
            "their.replies.x.1",
        ] {
            assert!(answers().allows(reply), "{reply}");
        }
    }

    #[test]
    fn nobody_is_commanded_by_an_answer() {
        for reply in [
            "wasmbus.ctl.default.cmd.NABC.stop",
            "wasmbus.ctl.default.registries.put",
            "wasmbus.rpc.default.MABC",
            "wasmbus.rpc.default.hosts",
            "wasmbus.evt.default",
            "wasmbus.cfg.default",
            "wadm.api.default.model.del.shop",
            "$JS.core.API.STREAM.PURGE.KV_LATTICEDATA_default",
            "$KV.LATTICEDATA_default.CLAIMS_M",
            "$O.default.C.x",
            "$SYS.REQ.SERVER.PING",
            "factory.ctl.default.cmd.NABC.stop",
            // As long as an inbox, and a topic of the settings
            "0123456789abcdefABCDEF",
            "0123456789abcdefABCDEF.x",
            // Below a prefix of the settings
            "mine.rules",
            "mine.rules.changes",
            // Anybody's own subjects
            "orders",
            "orders.new",
            "mine",
            "minerals.a",
            "their",
            "their.replie.s",
            "_INBOX",
            "_INBOXES.a",
            "_R_",
            "my._INBOX.a",
            // Around the corner
            "_GR_.DdEU99.DSpI1m.wasmbus.ctl.default.cmd.NABC.stop",
            "_GR_.DdEU99.DSpI1m.$KV.LATTICEDATA_default.x",
            "_GR_.D.D._INBOX.a",
            "_GR_.DdEU99.DSpI1m._GR_.DdEU99.DSpI1m._INBOX.a",
        ] {
            assert!(!answers().allows(reply), "{reply}");
        }
    }

    #[test]
    fn a_reply_subject_that_is_no_subject_is_not_answered() {
        let long = format!("_INBOX.{}", "a".repeat(SUBJECT_BYTES_MAX));
        for reply in [
            "",
            " ",
            ".",
            "_INBOX.",
            "_INBOX..a",
            "_INBOX.a b",
            "_INBOX.a\r\nPUB wasmbus.x",
            "_INBOX.\u{a0}",
            "_INBOX.>",
            "_INBOX.*.a",
            ">",
            "*",
            &long,
        ] {
            assert!(!answers().allows(reply), "{reply:?}");
        }
    }

    #[test]
    fn refused_answers_are_counted() {
        let answers = answers();
        (0..3).for_each(|_| answers.refuse("orders"));
        assert_eq!(answers.refused(), 3);
        assert_eq!(answers.0.logged.lock().silent, 2);
    }

    #[test]
    fn prefixes_of_the_settings_are_no_subjects_of_commands() {
        for prefix in ["_ME", "replies.alice", "_INBOX_alice"] {
            assert!(is_inbox_prefix(prefix), "{prefix}");
        }
        for prefix in
            ["wasmbus", "wasmbus.ctl", "wadm.api", "$JS", "", "a.", "a.*", "a.>", ">", "a b"]
        {
            assert!(!is_inbox_prefix(prefix), "{prefix}");
        }
    }
}
