//! The API of applications (wadm, section 1), as a client asks it: hosts answer, or a deployment
//! manager that is a program of its own.
//!
//! A change is acknowledged before anything runs. [`StatusWatch`] waits for what comes of it: the
//! records of statuses as they are published, and the status itself at growing intervals, because a
//! record may be lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::lattice::{Lattice, RequestError};
use lattice_base::{backoff::Backoff, lattice::connection::confirm};
use lattice_protocol::{
    applications::{
        api::{HOST_HEADER, Info, Record, StatusReply, StatusType},
        validate::is_name,
    },
    errors::{OutcomeUnknown, Usage},
    events::Step,
};

/// Pauses between two looks at the statuses grow from the first to the last.
const LOOK_FIRST: Duration = Duration::from_millis(50);
const LOOK_LAST: Duration = Duration::from_secs(2);
/// How long a failure has to stand until it is the end: hosts try again, and the first plan of a
/// host may not know all others yet.
const FAILURE_STANDS: Duration = Duration::from_secs(2);

/// The applications of a lattice. Cheap to clone.
#[derive(Clone)]
pub struct Applications {
    lattice: Lattice,
    /// The NATS server that is asked at, for messages.
    server: String,
}

/// The one that answered.
enum Keeper {
    Host(String),
    Manager,
}

impl Applications {
    /// Those of a lattice, which is asked at `server`.
    pub fn new(lattice: Lattice, server: &str) -> Self {
        Self { lattice, server: server.trim_start_matches("nats://").to_owned() }
    }

    /// Asks for something. A refusal is an error in the words of the one who answers, and so is an
    /// application or a version that is not there.
    pub async fn ask(
        &self,
        operation: &str,
        application: Option<&str>,
        payload: impl Into<Bytes>,
    ) -> Result<Value> {
        let reply = self.exchange(operation, application, payload.into()).await?;
        match result(&reply) {
            "notfound" => bail!(
                "{}. `host app list` shows what there is, `host app history NAME` its versions",
                message(&reply)
            ),
            _ => Ok(reply),
        }
    }

    /// The same for a reply that is read; nothing is found where [`ask`](Self::ask) would complain
    /// of that.
    pub async fn find<T: DeserializeOwned>(
        &self,
        operation: &str,
        application: Option<&str>,
        payload: impl Into<Bytes>,
    ) -> Result<Option<T>> {
        let reply = self.exchange(operation, application, payload.into()).await?;
        if result(&reply) == "notfound" {
            return Ok(None);
        }
        let read = serde_json::from_value(reply);
        read.map(Some).with_context(|| format!("read the answer to {operation}"))
    }

    async fn exchange(
        &self,
        operation: &str,
        application: Option<&str>,
        payload: Bytes,
    ) -> Result<Value> {
        if let Some(name) = application.filter(|name| !is_name(name)) {
            bail!(Usage(format!("{name:?} names no application: letters, digits, - and _ only")));
        }
        let subject = self.lattice.subjects.manager(operation, application);
        let asked = self.lattice.ask(&subject, payload).await;
        let answer = asked.map_err(|error| self.explain(operation, error))?;
        let reply: Value = serde_json::from_slice(&answer.payload)
            .with_context(|| format!("read the answer on {subject}"))?;
        if result(&reply) == "error" {
            bail!("it is refused by {}: {}", Keeper::of(&answer), message(&reply));
        }
        Ok(reply)
    }

    /// Says who is missing; of what changes something, silence leaves open whether it did.
    fn explain(&self, operation: &str, error: RequestError) -> anyhow::Error {
        let is_change = matches!(operation, "put" | "del" | "deploy" | "undeploy");
        match error {
            RequestError::NoResponders { subject, lattice, .. } => anyhow!(
                "nobody keeps applications in lattice {lattice}: nobody listens on {subject} at {}. Hosts do, unless their \
                 setting applications is never, or their NATS user may not use wadm.>: start one with `host up`, or say where \
                 it is with --ctl-host, -x or --context. `host doctor` looks at all of these",
                self.server
            ),
            RequestError::TimedOut { .. } if is_change => OutcomeUnknown(error.to_string()).into(),
            other => other.into(),
        }
    }

    /// Returns how an application is; `None` if there is none of that name.
    pub async fn status(&self, name: &str) -> Result<Option<StatusReply>> {
        self.find("status", Some(name), "").await
    }
}

impl Keeper {
    fn of(answer: &Message) -> Self {
        let host = answer.headers.as_ref().and_then(|headers| headers.get(HOST_HEADER));
        host.map_or(Self::Manager, |id| Self::Host(id.to_string()))
    }
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(id) => write!(f, "host {id}"),
            Self::Manager => f.write_str("the deployment manager"),
        }
    }
}

/// Returns the outcome that a reply names; the list of applications is a bare array and has none.
fn result(reply: &Value) -> &str {
    reply.get("result").and_then(Value::as_str).unwrap_or_default()
}

fn message(reply: &Value) -> &str {
    reply.get("message").and_then(Value::as_str).unwrap_or_default()
}

/// An application that was deployed, to wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Awaited {
    pub name: String,
    pub version: String,
    /// The images it starts; hosts tell the steps on the way by these.
    pub images: BTreeSet<String>,
}

/// News for the one who waits.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// The application is otherwise than before.
    Status(&'a str, &'a Info),
    /// A host gets on with something that one of them starts.
    Step(&'a Step),
}

/// Ears for the statuses of applications, opened before something is asked.
pub struct StatusWatch {
    applications: Applications,
    records: Subscriber,
    steps: Subscriber,
}

impl StatusWatch {
    /// Listens from now on.
    pub async fn open(applications: &Applications) -> Result<Self> {
        let Lattice { client, subjects, .. } = &applications.lattice;
        let records = client.subscribe(subjects.manager_status("*")).await?;
        let steps = client.subscribe(subjects.progress()).await?;
        confirm(client).await?;
        Ok(Self { applications: applications.clone(), records, steps })
    }

    /// Waits until each of them is deployed or failed, or the time is over. Returns how they are
    /// then, by their names.
    pub async fn wait(
        mut self,
        awaited: &[Awaited],
        until: Instant,
        on_news: &mut (dyn FnMut(News<'_>) + Send),
    ) -> BTreeMap<String, Info> {
        let root = self.applications.lattice.subjects.manager_status("");
        let mut waiting = Waiting::of(awaited);
        let mut backoff = Backoff::new(LOOK_FIRST, LOOK_LAST);
        let mut look_at = Instant::now() + backoff.next_pause();
        while !waiting.is_over(Instant::now()) && Instant::now() < until {
            let wake = waiting.settles_at().map_or(look_at, |at| at.min(look_at)).min(until);
            tokio::select! {
                Some(message) = self.records.next() => {
                    let name = message.subject.strip_prefix(&*root).unwrap_or_default();
                    if let Ok(Record { info, status }) = serde_json::from_slice(&message.payload) {
                        waiting.take(name, &status.version, info, Instant::now(), on_news);
                    }
                }
                Some(message) = self.steps.next() => {
                    if let Ok(step) = serde_json::from_slice::<Step>(&message.payload)
                        && awaited.iter().any(|one| one.images.contains(&step.reference))
                    {
                        on_news(News::Step(&step));
                    }
                }
                () = sleep_until(wake) => {
                    if Instant::now() >= look_at {
                        self.look(&mut waiting, on_news).await;
                        look_at = Instant::now() + backoff.next_pause();
                    }
                }
            }
        }
        waiting.statuses()
    }

    /// Asks how those are that are still waited for. Who does not answer is asked again.
    async fn look(&self, waiting: &mut Waiting, on_news: &mut (dyn FnMut(News<'_>) + Send)) {
        for name in waiting.open() {
            if let Ok(Some(StatusReply { status: Some(status), .. })) =
                self.applications.status(&name).await
            {
                waiting.take(&name, &status.version, status.status, Instant::now(), on_news);
            }
        }
    }
}

/// The knowledge of the applications that are waited for.
struct Waiting(BTreeMap<String, Known>);

struct Known {
    version: String,
    info: Info,
    /// Since when it has failed without a break.
    failed_since: Option<Instant>,
}

impl Waiting {
    fn of(awaited: &[Awaited]) -> Self {
        let known = awaited.iter().map(|one| {
            let info = Info { kind: StatusType::Reconciling, message: String::new() };
            (one.name.clone(), Known { version: one.version.clone(), info, failed_since: None })
        });
        Self(known.collect())
    }

    /// Takes in how an application is. What is said of another version is of before; the old
    /// manager's records say no version.
    fn take(
        &mut self,
        name: &str,
        version: &str,
        info: Info,
        now: Instant,
        on_news: &mut (dyn FnMut(News<'_>) + Send),
    ) {
        let Some(known) = self.0.get_mut(name) else { return };
        let is_of_before = !version.is_empty() && version != known.version;
        if is_of_before || info.kind == StatusType::Undeployed {
            return;
        }
        known.failed_since = match info.kind {
            StatusType::Failed => known.failed_since.or(Some(now)),
            _ => None,
        };
        if known.info != info {
            on_news(News::Status(name, &info));
            known.info = info;
        }
    }

    /// Returns the names of those that are not deployed.
    fn open(&self) -> Vec<String> {
        let open = self.0.iter().filter(|(_, known)| known.info.kind != StatusType::Deployed);
        open.map(|(name, _)| name.clone()).collect()
    }

    fn is_over(&self, now: Instant) -> bool {
        self.0.values().all(|known| match known.failed_since {
            Some(since) => now >= since + FAILURE_STANDS,
            None => known.info.kind == StatusType::Deployed,
        })
    }

    /// Returns when the next failure is the end.
    fn settles_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let failures = self.0.values().filter_map(|known| known.failed_since);
        failures.map(|since| since + FAILURE_STANDS).filter(|at| *at > now).min()
    }

    fn statuses(self) -> BTreeMap<String, Info> {
        self.0.into_iter().map(|(name, known)| (name, known.info)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(kind: StatusType) -> Info {
        Info { kind, message: "as said".into() }
    }

    #[test]
    fn an_application_is_waited_for_until_its_version_is_deployed_or_has_failed_for_a_while() {
        use StatusType::{Deployed, Failed, Reconciling, Undeployed};
        let awaited = Awaited { name: "shop".into(), version: "v2".into(), ..Awaited::default() };
        let begin = Instant::now();
        let long = FAILURE_STANDS + Duration::from_millis(1);
        // The text that is said, when, and whether that is the end.
        let soon = Duration::from_millis(5);
        for (said, looked_at, is_over) in [
            (vec![], long, false),
            (vec![("shop", "v2", Deployed)], soon, true),
            (vec![("shop", "", Deployed)], soon, true),
            (vec![("shop", "v1", Deployed)], long, false),
            (vec![("other", "v2", Deployed)], long, false),
            (vec![("shop", "v2", Undeployed)], long, false),
            (vec![("shop", "v2", Failed)], soon, false),
            (vec![("shop", "v2", Failed)], long, true),
            (vec![("shop", "v2", Failed), ("shop", "v2", Reconciling)], long, false),
            (vec![("shop", "v2", Failed), ("shop", "v2", Deployed)], soon, true),
        ] {
            let mut waiting = Waiting::of(std::slice::from_ref(&awaited));
            for (name, version, kind) in &said {
                waiting.take(name, version, info(*kind), begin, &mut |_| ());
            }
            assert_eq!(waiting.is_over(begin + looked_at), is_over, "{said:?}");
        }
    }

    #[test]
    fn the_same_status_is_no_news() {
        let awaited = Awaited { name: "shop".into(), version: "v2".into(), ..Awaited::default() };
        let mut waiting = Waiting::of(&[awaited]);
        let mut told = 0;
        for kind in [StatusType::Failed, StatusType::Failed, StatusType::Deployed] {
            waiting.take("shop", "v2", info(kind), Instant::now(), &mut |_| told += 1);
        }
        assert_eq!(told, 2);
        assert!(waiting.open().is_empty());
        assert_eq!(waiting.statuses()["shop"].kind, StatusType::Deployed);
    }
}
