//! JetStream: whether it answers, in which domain, and how much its account may still store. The
//! facts about the streams of the lattice are gathered here too; [`super::bucket`] judges them.

use std::time::Duration;

use async_nats::{HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;

use super::{Finding, Found, facts::Facts};
use lattice_base::{
    config::Config,
    lattice::connection::Nats,
    store::{jetstream::api_prefix, objects},
};
use lattice_protocol::store::keys;

/// How long one answer of the API may take.
const ANSWER: Duration = Duration::from_millis(1500);
/// A key of the bucket that no host knows, for writes that ask to be refused.
const KEY: &str = "HOST_DOCTOR";
/// A stream nobody has: what is only to be written there is written nowhere.
const NO_STREAM: &str = "host-doctor-writes-nothing";
const STREAM_NOT_FOUND: u64 = 10059;
/// JetStream is not enabled, at all or for the account.
const SWITCHED_OFF: [u64; 2] = [10076, 10039];

/// The outcome of a request to the API.
#[derive(Clone, Debug, PartialEq)]
pub enum Api {
    Answer(Value),
    /// It answers with an error of this number.
    Refusal {
        code: u64,
        text: String,
    },
    NoResponders,
    /// Nothing came; the server's word on it, if it had one.
    Silent {
        denied: Option<String>,
    },
}

/// A stream of the lattice.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    pub name: String,
    pub info: Api,
    /// Reading a message that is not there.
    pub read: Option<Api>,
    /// Making a consumer that cannot be made.
    pub follow: Option<Api>,
    /// Writing what asks to be refused.
    pub write: Option<Api>,
}

/// The answers of JetStream.
#[derive(Clone, Debug, PartialEq)]
pub struct JetStream {
    /// The domain of the settings.
    pub asked_domain: Option<String>,
    /// The domain that was asked for, or the server's own if there is none.
    pub asked: Api,
    /// The JetStream of the server itself.
    pub own: Api,
    pub bucket: Stream,
    pub objects: Stream,
}

impl Api {
    /// Whether somebody answered, whatever it was.
    pub fn is_there(&self) -> bool {
        matches!(self, Self::Answer(_))
            || matches!(self, Self::Refusal { code, .. } if !SWITCHED_OFF.contains(code))
    }

    pub fn is_switched_off(&self) -> bool {
        matches!(self, Self::NoResponders)
            || matches!(self, Self::Refusal { code, .. } if SWITCHED_OFF.contains(code))
    }

    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refusal { code: STREAM_NOT_FOUND, .. })
    }

    /// The domain an account information names.
    pub fn domain(&self) -> Option<&str> {
        match self {
            Self::Answer(info) => info["domain"].as_str().filter(|domain| !domain.is_empty()),
            _ => None,
        }
    }

    /// In words, after "it".
    pub fn words(&self) -> String {
        match self {
            Self::Answer(_) => "answers".into(),
            Self::Refusal { text, .. } => format!("refuses: {text}"),
            Self::NoResponders => "does not answer: nobody listens".into(),
            Self::Silent { denied: Some(denied) } => format!("does not answer: {denied}"),
            Self::Silent { denied: None } => "does not answer in time".into(),
        }
    }
}

pub async fn gather(nats: &Nats, config: &Config) -> JetStream {
    let domain = config.js_domain.as_deref();
    let prefix = api_prefix(domain);
    let asked = async { ask(nats, format!("{prefix}.INFO"), Bytes::new(), None).await };
    let own = async { ask(nats, "$JS.API.INFO".into(), Bytes::new(), None).await };
    let (asked, own) = tokio::join!(asked, own);
    let name = keys::bucket(&config.lattice);
    let (bucket, objects) = (format!("KV_{name}"), objects::stream_name(&config.lattice));
    let key = format!("$KV.{name}.{KEY}");
    let (bucket, objects) = match asked.is_there() {
        true => tokio::join!(
            stream(nats, &prefix, bucket, Some((key, domain))),
            stream(nats, &prefix, objects, None)
        ),
        false => (Stream::unasked(bucket, &asked), Stream::unasked(objects, &asked)),
    };
    JetStream { asked_domain: config.js_domain.clone(), asked, own, bucket, objects }
}

impl Stream {
    fn unasked(name: String, api: &Api) -> Self {
        Self { name, info: api.clone(), read: None, follow: None, write: None }
    }
}

/// Asks for a stream; with a key, also whether it could be read, followed and written.
async fn stream(
    nats: &Nats,
    prefix: &str,
    name: String,
    key: Option<(String, Option<&str>)>,
) -> Stream {
    let info = ask(nats, format!("{prefix}.STREAM.INFO.{name}"), Bytes::new(), None).await;
    let Some((key, domain)) = key.filter(|_| matches!(info, Api::Answer(_))) else {
        return Stream { name, info, read: None, follow: None, write: None };
    };
    let last = serde_json::json!({ "last_by_subj": key }).to_string();
    let consumer = serde_json::json!({ "stream_name": NO_STREAM }).to_string();
    // With a domain, writes go to the API of that domain, which maps them.
    let subject = if domain.is_some() { format!("{prefix}.{key}") } else { key };
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Stream", NO_STREAM);
    let (read, follow, write) = tokio::join!(
        ask(nats, format!("{prefix}.STREAM.MSG.GET.{name}"), last.into(), None),
        ask(nats, format!("{prefix}.CONSUMER.CREATE.{name}"), consumer.into(), None),
        ask(nats, subject, Bytes::new(), Some(headers)),
    );
    Stream { name, info, read: Some(read), follow: Some(follow), write: Some(write) }
}

async fn ask(nats: &Nats, subject: String, payload: Bytes, headers: Option<HeaderMap>) -> Api {
    let mut request = Request::new().payload(payload).timeout(Some(ANSWER));
    if let Some(headers) = headers {
        request = request.headers(headers);
    }
    let answer = match timeout(ANSWER, nats.client.send_request(subject.clone(), request)).await {
        Ok(Ok(message)) => message,
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
            return Api::NoResponders;
        }
        Ok(Err(_)) | Err(_) => {
            let denied = nats.denied.borrow();
            let mut denied = denied.iter();
            let denied = denied.find(|what| is_about(what, &subject) || what.contains("\"_INBOX."));
            return Api::Silent { denied: denied.cloned() };
        }
    };
    let Ok(answer) = serde_json::from_slice::<Value>(&answer.payload) else {
        return Api::Refusal { code: 0, text: "what it says is no JSON".into() };
    };
    match answer.get("error") {
        Some(error) => Api::Refusal {
            code: error["err_code"].as_u64().unwrap_or_default(),
            text: error["description"].as_str().unwrap_or("without a reason").to_owned(),
        },
        None => Api::Answer(answer),
    }
}

/// Whether the server's word is about a subject. The server that has a domain names its subjects
/// without it.
fn is_about(denied: &str, subject: &str) -> bool {
    let bare = subject.split_once(".API.").map_or(subject, |(_, bare)| bare);
    let named = denied.split('"').nth(1).unwrap_or_default();
    named == subject || named == bare || named.strip_prefix("$JS.API.") == Some(bare)
}

/// Whether a question that asked to be refused was heard: JetStream answered it, with an error of
/// its own or not, so this user is allowed there.
pub fn is_open(answer: &Api) -> bool {
    match answer {
        Api::Refusal { code, .. } => *code != 0,
        Api::Answer(_) => true,
        Api::NoResponders | Api::Silent { .. } => false,
    }
}

pub(super) fn jetstream(facts: &Facts) -> Found {
    let jetstream = facts.jetstream.as_ref().map_err(Finding::skipped)?;
    let mut found = vec![reached(jetstream)];
    if let Api::Answer(info) = &jetstream.asked {
        found.extend(limits(info));
    }
    Ok(found)
}

fn reached(jetstream: &JetStream) -> Finding {
    let JetStream { asked, own, asked_domain, .. } = jetstream;
    let shown = asked_domain
        .as_deref()
        .map_or("of the server itself".to_owned(), |domain| format!("domain {domain}"));
    if asked.is_there() {
        let own = match (asked_domain, own.domain()) {
            (Some(asked), Some(own)) if asked != own => {
                format!("; the server here has domain {own} itself")
            }
            (Some(_), None) if own.is_switched_off() => {
                "; the server here has none itself".to_owned()
            }
            (None, Some(own)) => format!(" ({own})"),
            _ => String::new(),
        };
        return Finding::ok(format!("JetStream {shown} answers{own}"));
    }
    // A refusal of the server explains everything else, so it is looked at first.
    match (asked, own, asked_domain) {
        (Api::Silent { denied: Some(denied) }, _, _) => Finding::wrong(
            format!("this user may not use JetStream {shown}: {denied}"),
            format!(
                "if hosts use this login, allow it {}.> and _INBOX.> in the NATS server; a user who only looks needs none of it",
                api_prefix(asked_domain.as_deref())
            ),
        ),
        (Api::Silent { .. }, _, _) => Finding::wrong(
            format!("JetStream {shown} does not answer in time"),
            "look at the leaf node connection and at the server that has it; is it overloaded, or stopped?",
        ),
        (_, own, Some(asked)) if own.is_there() => match own.domain() {
            Some(found) => Finding::wrong(
                format!(
                    "JetStream domain {asked} does not answer; the server here has domain {found}"
                ),
                format!(
                    "if {found} is meant: --js-domain {found} (js_domain, WASMCLOUD_JS_DOMAIN); if another machine has {asked}, the \
                     leaf node connection to it is down"
                ),
            ),
            None => Finding::wrong(
                format!(
                    "JetStream domain {asked} does not answer; the server here has JetStream without a domain"
                ),
                format!(
                    "leave js_domain unset, or write `jetstream {{ domain: {asked} }}` into the server's configuration"
                ),
            ),
        },
        _ => Finding::wrong(
            format!(
                "JetStream is switched off in the NATS server, or for the account of this user (asked for: {shown})"
            ),
            "start the server with -js, or with `jetstream { domain: core }` in its configuration; in a server with accounts, \
             enable jetstream there",
        ),
    }
}

/// Warns of limits that the account has nearly reached.
fn limits(info: &Value) -> Vec<Finding> {
    [("storage", "max_storage", "bytes on disk"), ("streams", "max_streams", "streams")]
        .into_iter()
        .filter_map(|(used, max, what)| {
            let (used, max) = (info[used].as_i64()?, info["limits"][max].as_i64()?);
            if max <= 0 || used.saturating_mul(10) < max.saturating_mul(9) {
                return None;
            }
            let seen = format!("the JetStream account has used {used} of {max} {what}");
            Some(Finding::warning(
                seen,
                "raise the limit of the account, or delete streams nobody needs",
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::Verdict;

    fn with(asked_domain: Option<&str>, asked: Api, own: Api) -> Finding {
        let stream = || Stream::unasked(String::new(), &Api::NoResponders);
        let asked_domain = asked_domain.map(str::to_owned);
        reached(&JetStream { asked_domain, asked, own, bucket: stream(), objects: stream() })
    }

    #[test]
    fn a_domain_that_does_not_answer_is_told_from_the_one_that_does() {
        let core = || Api::Answer(json!({ "domain": "core" }));
        let found = with(Some("other"), Api::NoResponders, core());
        assert!(found.verdict == Verdict::Wrong && found.fix.unwrap().contains("--js-domain core"));
        let found = with(Some("other"), Api::NoResponders, Api::Answer(json!({})));
        assert!(found.fix.unwrap().contains("domain: other"));
        let off = || Api::Refusal { code: 10039, text: "x".into() };
        assert!(with(Some("core"), Api::NoResponders, off()).seen.contains("switched off"));
        assert!(with(None, off(), off()).seen.contains("switched off"));
        assert_eq!(
            with(Some("core"), core(), off()).verdict,
            Verdict::Ok,
            "a leaf node without its own"
        );
        let denied = Api::Silent { denied: Some("Permissions Violation".into()) };
        assert!(with(Some("core"), denied, core()).fix.unwrap().contains("$JS.core.API.>"));
    }

    #[test]
    fn what_the_server_forbids_is_recognised_with_and_without_the_domain() {
        let denied = |subject: &str| format!("Permissions Violation for Publish to \"{subject}\"");
        assert!(is_about(&denied("$JS.API.INFO"), "$JS.core.API.INFO"));
        assert!(is_about(&denied("$JS.core.API.INFO"), "$JS.core.API.INFO"));
        assert!(
            is_about(&denied("$KV.b.k"), "$JS.core.API.$KV.b.k")
                && is_about(&denied("$KV.b.k"), "$KV.b.k")
        );
        assert!(
            !is_about(&denied("$JS.API.STREAM.INFO"), "$JS.core.API.INFO")
                && !is_about("nothing", "$JS.API.INFO")
        );
    }

    #[test]
    fn an_account_that_is_nearly_full_is_a_warning() {
        let info = json!({ "storage": 95, "streams": 1, "limits": { "max_storage": 100, "max_streams": -1 } });
        assert_eq!(limits(&info).len(), 1);
        assert!(limits(&json!({ "storage": 95, "limits": { "max_storage": -1 } })).is_empty());
    }
}
