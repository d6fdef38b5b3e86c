//! `host spy`: calls as they pass NATS, and their answers.
//!
//! It hears the subjects of all calls, and if it may also all inboxes: the answer of a call goes to
//! the one the call names. A call within one host does not pass NATS, so it is not seen here; that
//! is said once.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use anyhow::{Result, anyhow, bail};
use async_nats::{Message, Subscriber};
use futures::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    task::unconstrained,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    args::{flags::SettingArgs, lattice::Spy as Args},
    clock,
    session::Session,
    terminal::{Page, Terminal, Tone, table::middle},
};
use lattice_base::lattice::connection::Nats;
use lattice_client::{lattice::Lattice, names};
use lattice_protocol::{
    control::types::{HostReply, Inventory},
    identity::{claims::now, keys::ClusterKey},
    lattice::subject::{CallSubject, Subjects},
    links::Claims,
    peers::{session::CallProof, wire},
    rpc::{
        antiforgery::Verifier,
        codec,
        invocation::{Entity, Invocation, InvocationResponse},
        readable::{self, Binary},
    },
};

/// All inboxes of clients that do not choose their own.
const INBOXES: &str = "_INBOX.>";
/// Calls whose answers are waited for.
const OPEN_MAX: usize = 4096;
/// How long a refusal of the server may take to be heard of after it has answered something later.
const REFUSAL: Duration = Duration::from_millis(100);
/// The most characters shown of a payload.
const SHOWN_CHARS_MAX: usize = 4000;
/// The characters shown of an id.
const ID_CHARS: usize = 11;

pub async fn run(terminal: &Terminal, before: SettingArgs, args: Args) -> Result<()> {
    let session = Session::open(before, &args.connect)?;
    tokio::select! {
        result = watch(terminal, &session, &args) => result,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

async fn watch(terminal: &Terminal, session: &Session, args: &Args) -> Result<()> {
    let lattice = session.lattice().await?;
    let hosts = lattice.hosts().await?;
    let (claims, inventories) = tokio::join!(lattice.claims(), lattice.inventories(&hosts));
    let claims = claims.unwrap_or_default();
    let actor =
        args.actor.as_deref().map(|word| names::actor(word, &claims, &inventories)).transpose()?;
    let (calls, answers) = listen(session.rpc().await?, &lattice.subjects).await?;
    if !terminal.is_data() {
        terminal.note(
            "Calls within one host do not pass NATS and are not shown: `host top` counts them, `host logs` shows what is logged. \
             A host that runs with --no-local-calls sends all of its calls over NATS.",
        );
        if answers.is_none() {
            terminal.note(format!("Answers are not shown: this user may not hear {INBOXES}."));
        }
    }
    let mut spy = Spy {
        terminal,
        args,
        actor,
        verifier: verifier(&hosts),
        names: names_of(&claims, &inventories, &hosts),
        subjects: lattice.subjects.clone(),
        open: Open::default(),
        hears_answers: answers.is_some(),
        seen: 0,
    };
    spy.watch(calls, answers, &lattice).await
}

/// Subscribes; answers are only heard where that is permitted.
async fn listen(nats: &Nats, subjects: &Subjects) -> Result<(Subscriber, Option<Subscriber>)> {
    let mut denied = nats.denied.clone();
    denied.mark_unchanged();
    let mut calls = nats.client.subscribe(subjects.calls()).await?;
    let mut answers = Some(nats.client.subscribe(INBOXES).await?);
    nats.confirm().await?;
    // The refusal came before the confirmation, but is told on another way.
    while let Ok(Ok(())) = timeout(REFUSAL, denied.changed()).await {
        let denied = denied.borrow_and_update().clone();
        if is_denied(&denied, &subjects.calls()) {
            bail!(
                "this user may not hear {}; allow it, or use credentials that may",
                subjects.calls()
            );
        }
        if is_denied(&denied, INBOXES) {
            answers = None;
        }
    }
    // Those that came meanwhile: how long they took can no longer be told.
    while unconstrained(calls.next()).now_or_never().flatten().is_some() {}
    Ok((calls, answers))
}

fn is_denied(denied: &[String], subject: &str) -> bool {
    denied.iter().any(|text| text.contains(&format!("\"{subject}\"")))
}

/// Knows the keys that the hosts accept; none if no host tells.
fn verifier(hosts: &[HostReply]) -> Option<Verifier> {
    let issuers =
        hosts.iter().flat_map(|host| host.cluster_issuers.split(',').chain([&*host.issuer]));
    let mut keys: Vec<ClusterKey> =
        issuers.filter_map(|issuer| ClusterKey::parse(issuer.trim()).ok()).collect();
    keys.sort();
    keys.dedup();
    (!keys.is_empty()).then(|| Verifier::new(keys))
}

fn names_of(
    claims: &[Claims],
    inventories: &[Inventory],
    hosts: &[HostReply],
) -> HashMap<String, String> {
    let entities =
        names::entities(claims, inventories).into_iter().map(|named| (named.id, named.name));
    let hosts = hosts.iter().map(|host| (host.id.clone(), host.friendly_name.clone()));
    entities.chain(hosts).filter(|(_, name)| !name.is_empty()).collect()
}

/// A call whose answer has not come.
struct Call {
    id: String,
    operation: String,
    target: Entity,
    began: Instant,
}

/// Calls by the inbox of their answer; the oldest go first.
#[derive(Default)]
struct Open {
    calls: HashMap<String, Call>,
    order: VecDeque<String>,
}

impl Open {
    fn insert(&mut self, inbox: &str, call: Call) {
        self.calls.insert(inbox.to_owned(), call);
        self.order.push_back(inbox.to_owned());
        while self.order.len() > OPEN_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.calls.remove(&oldest);
            }
        }
    }

    fn take(&mut self, inbox: &str) -> Option<Call> {
        self.calls.remove(inbox)
    }
}

/// Whether the signature of a call is good.
enum Verdict {
    Valid,
    /// It has none: only the two hosts of its session can tell.
    Session,
    Invalid(String),
    /// No host tells which keys it accepts.
    Unknown,
}

struct Spy<'a> {
    terminal: &'a Terminal,
    args: &'a Args,
    /// The actor whose calls are shown; all if there is none.
    actor: Option<String>,
    verifier: Option<Verifier>,
    names: HashMap<String, String>,
    subjects: Subjects,
    open: Open,
    hears_answers: bool,
    seen: u64,
}

impl Spy<'_> {
    async fn watch(
        &mut self,
        mut calls: Subscriber,
        mut answers: Option<Subscriber>,
        lattice: &Lattice,
    ) -> Result<()> {
        // Set when enough calls were seen: their answers are still waited for.
        let mut end_at = None;
        while !self.terminal.is_closed() {
            if end_at.is_some() && self.open.calls.is_empty() {
                return Ok(());
            }
            tokio::select! {
                // A call is always before its answer.
                biased;
                call = calls.next(), if end_at.is_none() => match call {
                    Some(message) => {
                        self.call(&message)?;
                        if self.args.count.is_some_and(|count| self.seen >= count) {
                            end_at = Some(Instant::now() + lattice.timeout);
                        }
                    }
                    None => bail!("the connection to the NATS server has ended"),
                },
                answer = next(answers.as_mut()) => match answer {
                    Some(message) => self.answer(&message)?,
                    None => answers = None,
                },
                () = sleep_until(end_at.unwrap_or_else(Instant::now)), if end_at.is_some() => return Ok(()),
            }
        }
        Ok(())
    }

    fn call(&mut self, message: &Message) -> Result<()> {
        let Some(to) = self.subjects.parse_call(&message.subject) else { return Ok(()) };
        if wire::QUESTIONS.iter().any(|name| header(message, name).is_some()) {
            return Ok(());
        }
        let Ok(invocation) = codec::decode_invocation(message.payload.clone()) else {
            if self.actor.as_ref().is_none_or(|actor| to.target == actor) {
                self.terminal.note(format!("a message on {} is no invocation", message.subject));
            }
            return Ok(());
        };
        if let Some(actor) = &self.actor
            && *invocation.origin.public_key != **actor
            && *invocation.target.public_key != **actor
        {
            return Ok(());
        }
        self.seen += 1;
        let verdict = match header(message, wire::SESSION).map(CallProof::read) {
            Some(Some(CallProof::Session(_))) => Verdict::Session,
            _ => self.verdict(&invocation),
        };
        match self.terminal.is_data() {
            true => self.terminal.data_line(&self.call_json(&invocation, &to, &verdict))?,
            false => self.terminal.print(self.call_text(&invocation, &to, &verdict))?,
        }
        if let (true, Some(reply)) = (self.hears_answers, &message.reply) {
            let Invocation { id, operation, target, .. } = invocation;
            self.open.insert(reply, Call { id, operation, target, began: Instant::now() });
        }
        Ok(())
    }

    fn verdict(&self, invocation: &Invocation) -> Verdict {
        let Some(verifier) = &self.verifier else { return Verdict::Unknown };
        let checked = verifier.verify_claims(invocation, now());
        // A payload that travels apart is not fetched: its receiver deletes it.
        let checked = checked.and_then(|checked| match invocation.is_chunked() {
            true => Ok(()),
            false => checked.verify_hash(&invocation.msg),
        });
        checked.map_or_else(|error| Verdict::Invalid(error.to_string()), |()| Verdict::Valid)
    }

    fn call_json(&self, invocation: &Invocation, to: &CallSubject<'_>, verdict: &Verdict) -> Value {
        let signature = match verdict {
            Verdict::Valid => json!({ "verdict": "valid" }),
            Verdict::Session => json!({ "verdict": "session" }),
            Verdict::Invalid(error) => json!({ "verdict": "invalid", "error": error }),
            Verdict::Unknown => json!({ "verdict": "unknown" }),
        };
        let mut call = json!({
            "kind": "call", "time": rfc3339(), "id": invocation.id, "origin": self.entity_json(&invocation.origin),
            "target": self.entity_json(&invocation.target), "operation": invocation.operation,
            "content_length": invocation.content_length, "from_host": invocation.host_id, "to_host": to.host,
            "signature": signature,
        });
        if self.args.payloads {
            call["payload"] = payload_json(&invocation.msg, invocation.is_chunked());
        }
        call
    }

    fn entity_json(&self, entity: &Entity) -> Value {
        let mut json = json!({ "public_key": &*entity.public_key });
        for (name, text) in [("link_name", &entity.link_name), ("contract_id", &entity.contract_id)]
        {
            if !text.is_empty() {
                json[name] = Value::from(&**text);
            }
        }
        if let Some(name) = self.names.get(&*entity.public_key) {
            json["name"] = Value::from(&**name);
        }
        json
    }

    fn call_text(&self, invocation: &Invocation, to: &CallSubject<'_>, verdict: &Verdict) -> Page {
        let verdict = match verdict {
            Verdict::Valid => Tone::Good.paint("signed"),
            Verdict::Session => Tone::Faint.paint("in a session of its hosts"),
            Verdict::Invalid(error) => Tone::Bad.paint(error),
            Verdict::Unknown => Tone::Faint.paint("signature not checked"),
        };
        let on = to.host.map(|host| format!(" on {}", self.called(host))).unwrap_or_default();
        let (origin, target) =
            (self.entity_text(&invocation.origin), self.entity_text(&invocation.target));
        let mut page = self.terminal.page();
        page.line(
            Tone::Faint.paint(&time_of_now())
                + format!(" {origin} → {target}{on}  ")
                + Tone::Strong.paint(&invocation.operation)
                + format!("  {}  ", clock::bytes(invocation.content_length))
                + verdict,
        );
        self.show_payload(&mut page, &invocation.msg, invocation.is_chunked());
        page
    }

    fn answer(&mut self, message: &Message) -> Result<()> {
        let Some(call) = self.open.take(&message.subject) else { return Ok(()) };
        let took = call.began.elapsed();
        let response = match message.status {
            Some(async_nats::StatusCode::NO_RESPONDERS) => Err(anyhow!("nobody takes it")),
            _ => codec::decode_response(message.payload.clone())
                .map_err(|error| anyhow!("the answer cannot be read: {error}")),
        };
        match self.terminal.is_data() {
            true => self.terminal.data_line(&self.answer_json(&call, took, &response)),
            false => self.terminal.print(self.answer_text(&call, took, &response)),
        }
    }

    fn answer_json(
        &self,
        call: &Call,
        took: Duration,
        response: &Result<InvocationResponse>,
    ) -> Value {
        let mut answer = json!({
            "kind": "answer", "time": rfc3339(), "id": call.id, "target": self.entity_json(&call.target),
            "operation": call.operation, "took_ms": took.as_micros() as f64 / 1000.0,
        });
        match response {
            Err(error) => answer["error"] = Value::from(error.to_string()),
            Ok(response) => {
                answer["content_length"] = Value::from(response.content_length);
                if let Some(error) = &response.error {
                    answer["error"] = Value::from(&**error);
                } else if self.args.payloads {
                    answer["payload"] = payload_json(&response.msg, response.is_chunked());
                }
            }
        }
        answer
    }

    fn answer_text(
        &self,
        call: &Call,
        took: Duration,
        response: &Result<InvocationResponse>,
    ) -> Page {
        let (target, took) =
            (self.entity_text(&call.target), clock::duration(took.as_nanos() as f64));
        let head = Tone::Faint.paint(&time_of_now())
            + format!("   ↳ {target}  {}  {took}  ", call.operation);
        let mut page = self.terminal.page();
        match response {
            Err(error) => page.line(head + Tone::Bad.paint(&error.to_string())),
            Ok(InvocationResponse { error: Some(error), .. }) => {
                page.line(head + Tone::Bad.paint(error))
            }
            Ok(response) => {
                page.line(head + clock::bytes(response.content_length));
                self.show_payload(&mut page, &response.msg, response.is_chunked());
            }
        }
        page
    }

    fn show_payload(&self, page: &mut Page, payload: &[u8], is_chunked: bool) {
        let is_empty = payload.is_empty() && !is_chunked;
        if self.args.payloads && !is_empty {
            page.line(format!("{:15}{}", "", payload_text(payload, is_chunked)));
        }
    }

    fn entity_text(&self, entity: &Entity) -> String {
        let name = self.called(&entity.public_key);
        match &*entity.link_name {
            "" | "default" => name,
            link_name => format!("{name}/{link_name}"),
        }
    }

    /// Returns the name of an actor, a provider or a host, or its shortened id.
    fn called(&self, id: &str) -> String {
        self.names.get(id).cloned().unwrap_or_else(|| middle(id, ID_CHARS))
    }
}

/// Returns the value of a header.
fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message.headers.as_ref()?.get(name).map(|value| value.as_str())
}

/// The next message; for ever without a subscription. Cancel safe.
async fn next(subscriber: Option<&mut Subscriber>) -> Option<Message> {
    match subscriber {
        Some(subscriber) => subscriber.next().await,
        None => std::future::pending().await,
    }
}

fn payload_json(payload: &[u8], is_chunked: bool) -> Value {
    if is_chunked || payload.is_empty() {
        Value::Null
    } else {
        readable::to_json(payload, Binary::Both)
    }
}

fn payload_text(payload: &[u8], is_chunked: bool) -> String {
    let text = match is_chunked {
        true => "(the payload travels through the object store)".to_owned(),
        false => readable::to_json(payload, Binary::Text).to_string(),
    };
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push_str(" … (cut)");
    }
    shown
}

fn rfc3339() -> String {
    OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default()
}

fn time_of_now() -> String {
    clock::time_of(OffsetDateTime::now_utc())
}
