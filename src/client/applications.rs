//! The API of applications (wadm, section 1), as a client asks it: hosts answer, or a deployment
//! manager that is a program of its own.
//!
//! A change is acknowledged before anything runs. [`StatusWatch`] waits for what comes of it: the
//! records of statuses as they are published, and the status itself at growing intervals, because a
//! record may be lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    marker::PhantomData,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::lattice::{Lattice, RequestError};
use lattice_base::{backoff::Backoff, lattice::made};
use lattice_protocol::{
    applications::{
        api::{
            Delete, DeleteReply, DeleteRequest, DeployReply, GetReply, HOST_HEADER, Info, PutReply,
            Record, RolloutAction, RolloutReply, RolloutRequest, StatusReply, StatusType, Summary,
            UndeployRequest, VersionRequest, VersionsReply,
        },
        request::Request,
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
pub const FAILURE_STANDS: Duration = Duration::from_secs(2);

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

/// The purpose of a request: a change may have been made although nobody says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Look,
    Change,
}

impl Applications {
    /// Those of a lattice, which is asked at `server`.
    pub fn new(lattice: Lattice, server: &str) -> Self {
        Self { lattice, server: server.trim_start_matches("nats://").to_owned() }
    }

    pub async fn list(&self) -> Result<Answer<Vec<Summary>>> {
        self.exchange(Request::List, Bytes::new(), Purpose::Look).await
    }

    /// Asks for a manifest: of a version, or of the newest.
    pub async fn get(&self, name: &str, version: Option<&str>) -> Result<Answer<GetReply>> {
        self.look(Request::Get(name), &version_request(version)).await
    }

    pub async fn versions(&self, name: &str) -> Result<Answer<VersionsReply>> {
        self.exchange(Request::Versions(name), Bytes::new(), Purpose::Look).await
    }

    pub async fn status(&self, name: &str) -> Result<Answer<StatusReply>> {
        self.exchange(Request::Status(name), Bytes::new(), Purpose::Look).await
    }

    /// Stores a manifest, which goes as it is.
    pub async fn put(&self, manifest: impl Into<Bytes>) -> Result<Answer<PutReply>> {
        self.exchange(Request::Put, manifest.into(), Purpose::Change).await
    }

    pub async fn delete(&self, name: &str, wanted: Delete) -> Result<Answer<DeleteReply>> {
        self.change(Request::Delete(name), &DeleteRequest::from(wanted)).await
    }

    /// Deploys a version, or the newest.
    pub async fn deploy(&self, name: &str, version: Option<&str>) -> Result<Answer<DeployReply>> {
        self.change(Request::Deploy(name), &version_request(version)).await
    }

    pub async fn undeploy(
        &self,
        name: &str,
        request: UndeployRequest,
    ) -> Result<Answer<DeployReply>> {
        self.change(Request::Undeploy(name), &request).await
    }

    pub async fn rollout(&self, name: &str, action: RolloutAction) -> Result<Answer<RolloutReply>> {
        let (request, body) = (Request::Rollout(name), RolloutRequest { action });
        match action {
            RolloutAction::Status => self.look(request, &body).await,
            RolloutAction::Pause
            | RolloutAction::Resume
            | RolloutAction::Continue
            | RolloutAction::Abort => self.change(request, &body).await,
        }
    }

    async fn look<T>(&self, request: Request<'_>, body: &impl Serialize) -> Result<Answer<T>> {
        self.exchange(request, serde_json::to_vec(body)?.into(), Purpose::Look).await
    }

    async fn change<T>(&self, request: Request<'_>, body: &impl Serialize) -> Result<Answer<T>> {
        self.exchange(request, serde_json::to_vec(body)?.into(), Purpose::Change).await
    }

    async fn exchange<T>(
        &self,
        request: Request<'_>,
        body: Bytes,
        purpose: Purpose,
    ) -> Result<Answer<T>> {
        if let Some(name) = request.application().filter(|name| !is_name(name)) {
            bail!(Usage(format!("{name:?} names no application: letters, digits, - and _ only")));
        }
        let subject = self.lattice.subjects.manager(request);
        let asked = self.lattice.ask(&subject, body).await;
        let answer = asked.map_err(|error| self.explain(purpose, error))?;
        let json: Value = serde_json::from_slice(&answer.payload)
            .with_context(|| format!("read the answer on {subject}"))?;
        match refusal(&Keeper::of(&answer), &json, purpose) {
            Some(error) => Err(error),
            None => Ok(Answer { json, subject, kind: PhantomData }),
        }
    }

    /// Says who is missing; of what changes something, silence leaves open whether it did.
    fn explain(&self, purpose: Purpose, error: RequestError) -> anyhow::Error {
        match error {
            RequestError::NoResponders { subject, lattice, .. } => anyhow!(
                "nobody keeps applications in lattice {lattice}: nobody listens on {subject} at {}. Hosts do, unless their \
                 setting applications is never, or their NATS user may not use wadm.>: start one with `host up`, or say where \
                 it is with --ctl-host, -x or --context. `host doctor` looks at all of these",
                self.server
            ),
            RequestError::TimedOut { .. } if purpose == Purpose::Change => {
                OutcomeUnknown(error.to_string()).into()
            }
            RequestError::TimedOut { subject, lattice, waited_ms } => {
                RequestError::Silent { subject, lattice, waited_ms }.into()
            }
            other => other.into(),
        }
    }
}

fn version_request(version: Option<&str>) -> VersionRequest {
    VersionRequest { version: version.map(str::to_owned) }
}

/// Returns the error that an answer tells, if it does.
fn refusal(keeper: &Keeper, answer: &Value, purpose: Purpose) -> Option<anyhow::Error> {
    if result(answer) != "error" {
        return None;
    }
    let message = message(answer);
    // A host may have asked a bucket that did not confirm.
    let is_unknown = answer.get("outcome_unknown").and_then(Value::as_bool).unwrap_or_default();
    Some(match is_unknown && purpose == Purpose::Change {
        true => OutcomeUnknown(format!("{keeper}: {message}")).into(),
        false => Refused { keeper: keeper.to_string(), message: message.to_owned() }.into(),
    })
}

/// A refusal, in the words of the one who answers.
#[derive(Debug, thiserror::Error)]
#[error("it is refused by {keeper}: {message}")]
pub struct Refused {
    keeper: String,
    pub message: String,
}

/// An answer that is no refusal.
#[derive(Debug)]
pub struct Answer<T> {
    /// As it came; a manager of other years may have told more or less than is read here.
    pub json: Value,
    subject: String,
    kind: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Answer<T> {
    /// Returns the answer, and an error if there is no such application or version.
    pub fn found(self) -> Result<Self> {
        match self.is_found() {
            true => Ok(self),
            false => bail!(
                "{}. `host app list` shows what there is, `host app history NAME` its versions",
                self.message()
            ),
        }
    }

    /// Reads the answer; `None` if there is no such application or version.
    pub fn read(self) -> Result<Option<T>> {
        if !self.is_found() {
            return Ok(None);
        }
        let read = serde_json::from_value(self.json);
        read.map(Some).with_context(|| format!("read the answer on {}", self.subject))
    }

    /// Returns the sentence of the one who answered.
    pub fn message(&self) -> &str {
        message(&self.json)
    }

    fn is_found(&self) -> bool {
        result(&self.json) != "notfound"
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
    /// Listens from now on, see [`Lattice::events`].
    pub async fn open(applications: &Applications) -> Result<Self> {
        let Lattice { client, subjects, .. } = &applications.lattice;
        let records = client.subscribe(subjects.manager_status("*")).await?;
        let steps = client.subscribe(subjects.progress()).await?;
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
                    if !made::by_jetstream(&message)
                        && let Ok(Record { info, status }) = serde_json::from_slice(&message.payload)
                    {
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
            let asked = self.applications.status(&name).await.and_then(Answer::read);
            if let Ok(Some(StatusReply { status: Some(status), .. })) = asked {
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
    use lattice_protocol::applications::api::Failure;

    fn info(kind: StatusType) -> Info {
        Info { kind, message: "as said".into() }
    }

    #[test]
    fn an_error_is_a_refusal_unless_a_change_may_have_been_made() {
        let keeper = Keeper::Host("NABC".into());
        let late = serde_json::json!(Failure::unknown("late"));
        let no = serde_json::json!(Failure::new("no"));
        for (answer, purpose, is_unknown) in [
            (&late, Purpose::Change, true),
            (&late, Purpose::Look, false),
            (&no, Purpose::Change, false),
        ] {
            let error = refusal(&keeper, answer, purpose).unwrap();
            assert_eq!(error.is::<OutcomeUnknown>(), is_unknown, "{error}");
            assert_eq!(error.is::<Refused>(), !is_unknown, "{error}");
            assert!(error.to_string().contains("host NABC: "), "{error}");
        }
        for answer in [serde_json::json!([]), serde_json::json!({ "result": "notfound" })] {
            assert!(refusal(&keeper, &answer, Purpose::Change).is_none());
        }
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
