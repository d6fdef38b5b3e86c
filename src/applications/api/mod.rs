//! Answers the API of applications, `wadm.api.{lattice}.model.…` (wadm, section 1).
//!
//! Flow: all hosts are in one queue group, so each request reaches one of them → it is answered
//! from the bucket, not from what this host remembers, since another host may have taken the
//! command before → a deployment is a signed target, and the old manager's mark beside the
//! manifests.
//!
//! Every request is answered within [`ANSWER_TIMEOUT`], and so many are in work at a time as
//! [`IN_WORK_MAX`] says. Manifests are read and checked on threads of their own, of which this takes
//! [`CHECKED_AT_ONCE`] for new ones, and as many for stored ones. Answers have the header
//! [`HOST_HEADER`]; in the place of one that is larger than a message may be, a failure is sent.

mod answer;
mod audited;
mod change;
mod read;
mod rollout;

use std::{sync::Arc, time::Duration};

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::{
    sync::Semaphore,
    task::{JoinSet, spawn_blocking},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use self::answer::Refusal;
use super::{
    rollouts::Rollouts, status::Statuses, store::Models, surroundings::Surroundings,
    targets::Targets,
};
use lattice_base::lattice::{
    answers::{Answers, Unsent},
    connection::confirm,
    made,
};
use lattice_client::lattice::Lattice;
use lattice_protocol::{
    applications::{
        api::{Failure, HOST_HEADER, QUEUE},
        request::Request,
    },
    history::{ORIGIN_HEADER, audit::Asked},
};

/// Clients give up after two seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1800);
/// Requests that may be in work at a time; further ones wait in the subscription.
const IN_WORK_MAX: usize = 32;
/// Manifests that are checked at a time, of new ones and of stored ones: it is work for the
/// processor.
pub const CHECKED_AT_ONCE: usize = 2;
/// Bytes of a message that are not its content: the headers.
const ENVELOPE_BYTES: usize = 1024;
/// How long the connection may take to take an answer.
const SEND_TIMEOUT: Duration = Duration::from_millis(200);

/// Answers requests.
pub struct Server {
    pub host_id: String,
    pub lattice: Lattice,
    pub answers: Answers,
    pub models: Models,
    pub targets: Targets,
    pub statuses: Statuses,
    pub rollouts: Rollouts,
    pub surroundings: Arc<dyn Surroundings>,
    /// As many permits as new manifests may be checked at a time, and as stored ones: to deploy and
    /// to undeploy do not wait for what others put.
    pub checks: Arc<Semaphore>,
    pub stored_checks: Arc<Semaphore>,
}

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
#[error("subscribe to {subject}: {cause}")]
pub struct SubscribeError {
    subject: String,
    cause: String,
}

impl Server {
    /// Takes part in the queue group; requests arrive from here on.
    pub async fn subscribe(&self) -> Result<Subscriber, SubscribeError> {
        let subject = format!("{}.>", self.lattice.subjects.manager_root());
        let failed = |cause: String| SubscribeError { subject: subject.clone(), cause };
        let client = &self.lattice.client;
        let subscribed = client.queue_subscribe(subject.clone(), QUEUE.to_owned()).await;
        let requests = subscribed.map_err(|error| failed(error.to_string()))?;
        confirm(client).await.map_err(|error| failed(error.to_string()))?;
        Ok(requests)
    }

    /// Answers until the subscription ends, or `leave`; those that have arrived by then are still
    /// answered.
    pub async fn serve(self: &Arc<Self>, mut requests: Subscriber, leave: &CancellationToken) {
        let mut in_work = JoinSet::new();
        let mut is_leaving = false;
        loop {
            tokio::select! {
                () = leave.cancelled(), if !is_leaving => {
                    is_leaving = true;
                    if timeout(SEND_TIMEOUT, requests.unsubscribe()).await.is_err() {
                        break;
                    }
                }
                Some(done) = in_work.join_next(), if !in_work.is_empty() => {
                    if let Err(failure) = done {
                        error!(error = %failure, "a request about applications panicked");
                    }
                }
                request = requests.next(), if in_work.len() < IN_WORK_MAX => match request {
                    Some(request) => _ = in_work.spawn(Arc::clone(self).respond(request)),
                    None => break,
                },
            }
        }
        while in_work.join_next().await.is_some() {}
    }

    async fn respond(self: Arc<Self>, message: Message) {
        if made::by_jetstream_as_command(&message) {
            return;
        }
        let headers = message.headers.as_ref();
        let origin = headers.and_then(|headers| headers.get(ORIGIN_HEADER));
        let asked = Asked::now(origin.map(|origin| origin.as_str()));
        let root = self.lattice.subjects.manager_root();
        let request = Request::parse(&root, &message.subject).ok();
        let is_change = request.as_ref().is_some_and(|one| audited::is_change(one, &message));
        let answer = match timeout(ANSWER_TIMEOUT, self.answer(&message)).await {
            Ok(answer) => answer,
            Err(_) => {
                warn!(subject = %message.subject, "a request about applications took too long");
                answer::late(request.as_ref(), is_change, ANSWER_TIMEOUT)
            }
        };
        if let Some(entry) = audited::entry(asked, &root, &message, &answer) {
            self.surroundings.audit(entry);
        }
        let Some(reply) = &message.reply else { return };
        let mut headers = HeaderMap::new();
        headers.insert(HOST_HEADER, &*self.host_id);
        let client = &self.lattice.client;
        let answer = answer::fitting(request.as_ref(), is_change, answer, self.room());
        match self.answers.send_with(client, reply, headers, answer, SEND_TIMEOUT).await {
            // It was logged there.
            Ok(()) | Err(Unsent::Refused) => {}
            Err(error) => debug!(subject = %message.subject, %error, "an answer was not sent"),
        }
    }

    /// Returns the bytes that an answer may have.
    fn room(&self) -> usize {
        self.lattice.client.server_info().max_payload.saturating_sub(ENVELOPE_BYTES)
    }

    /// Returns the answer as JSON.
    async fn answer(&self, message: &Message) -> Bytes {
        let root = self.lattice.subjects.manager_root();
        let body = &message.payload;
        let request = match Request::parse(&root, &message.subject) {
            Ok(request) => request,
            Err(error) => return answer::json(&Failure::new(error.to_string())),
        };
        match request {
            Request::List => answer::of(&request, self.list().await),
            Request::Models => answer::of(&request, self.models().await),
            Request::Get(name) => answer::of(&request, self.get(name, body).await),
            Request::Versions(name) => answer::of(&request, self.versions(name).await),
            Request::Status(name) => answer::of(&request, self.status(name).await),
            Request::Put => answer::of(&request, self.put(message.headers.as_ref(), body).await),
            Request::Delete(name) => answer::of(&request, self.delete(name, body).await),
            Request::Deploy(name) => answer::of(&request, self.deploy(name, body).await),
            Request::Undeploy(name) => answer::of(&request, self.undeploy(name, body).await),
            Request::Rollout(name) => answer::of(&request, self.rollout(name, body).await),
        }
    }
}

/// Does work for the processor beside what waits for others, in one of these places. It goes on to
/// its end even if its request is given up, and keeps its place until then.
async fn checked<T: Send + 'static>(
    places: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    // Nobody closes it.
    let permit = Arc::clone(places).acquire_owned().await;
    let done = spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    done.await.unwrap_or_else(|failure| Err(Refusal::Failed(failure.to_string())))
}
