//! Messages on their way to an actor.
//!
//! One task per subscription reads messages and starts a call of the actor for each, as many at a
//! time as the link has permits. While there is none, the subscription is read no further and
//! messages wait in the client's bounded buffer. When the link ends, the task leaves the queue
//! group, and what had arrived is still handled until the deadline. A message is handed over once:
//! if that fails, the log says so.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_nats::{Message, Subscriber};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinError, JoinSet},
    time::Instant,
};
use tracing::{error, warn};

use crate::{
    providers::builtin::Context,
    rpc::{
        call::{CallError, TRANSFERS_MAX},
        leave::leave,
    },
};
use lattice_protocol::{
    contracts::{self, messaging},
    links::LinkDefinition,
};

/// Messages of one link that its actor handles at a time.
const IN_WORK_MAX: usize = 64;
/// How long leaving a queue group may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// One warning in this time; the others are counted.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(10);

/// The state that the subscriptions of a link share.
pub(super) struct Deliveries {
    context: Context,
    link: Arc<LinkDefinition>,
    /// How long the actor has for a message.
    timeout: Duration,
    permits: Arc<Semaphore>,
    complaints: Complaints,
}

impl Deliveries {
    pub(super) fn new(context: Context, link: Arc<LinkDefinition>, timeout: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(IN_WORK_MAX));
        Self { context, link, timeout, permits, complaints: Complaints::default() }
    }

    /// Delivers the messages of a subscription until `stop` names a deadline, and until that at the
    /// latest the rest.
    pub(super) async fn follow(
        self: Arc<Self>,
        mut subscription: Subscriber,
        mut stop: watch::Receiver<Option<Instant>>,
    ) {
        let mut work = JoinSet::new();
        let mut held: Option<Message> = None;
        let mut total = 0;
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(Option::is_some) => break,
                Some(done) = work.join_next(), if !work.is_empty() => self.report(done),
                permit = Arc::clone(&self.permits).acquire_owned(), if held.is_some() => {
                    if let (Some(message), Ok(permit)) = (held.take(), permit) {
                        self.hand_over(&mut work, message, permit);
                    }
                }
                message = subscription.next(), if held.is_none() => match message {
                    Some(message) => {
                        total += 1;
                        held = Some(message);
                    }
                    None => {
                        let (actor_id, link_name) = (&self.link.actor_id, &self.link.link_name);
                        error!(%actor_id, %link_name, "a subscription ended because its NATS connection is closed; set the link anew");
                        break;
                    }
                },
            }
        }
        let deadline = stop.borrow().unwrap_or_else(Instant::now);
        let mut rest: VecDeque<Message> = held.into_iter().collect();
        let leaving =
            leave(&self.context.nats, &mut subscription, total, |message| rest.push_back(message));
        if tokio::time::timeout_at(deadline.min(Instant::now() + LEAVE_TIMEOUT), leaving)
            .await
            .is_err()
        {
            let link = &self.link;
            warn!(actor_id = %link.actor_id, link_name = %link.link_name, "left a subscription without a word of the NATS server");
        }
        drop(subscription);
        if tokio::time::timeout_at(deadline, self.finish(&mut work, &mut rest)).await.is_err() {
            let (actor_id, link_name) = (&self.link.actor_id, &self.link.link_name);
            warn!(%actor_id, %link_name, unfinished = work.len(), unhandled = rest.len(), "a link ended before its messages were handled");
        }
    }

    async fn finish(&self, work: &mut JoinSet<()>, rest: &mut VecDeque<Message>) {
        while !rest.is_empty() {
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return };
            if let Some(message) = rest.pop_front() {
                self.hand_over(work, message, permit);
            }
        }
        while let Some(done) = work.join_next().await {
            self.report(done);
        }
    }

    fn hand_over(&self, work: &mut JoinSet<()>, message: Message, permit: OwnedSemaphorePermit) {
        let (context, actor) = (self.context.clone(), self.link.actor_id.clone());
        let (subject, complaints) = (message.subject.clone(), self.complaints.clone());
        let (link_name, deadline) = (self.link.link_name.clone(), Instant::now() + self.timeout);
        let argument = messaging::Message {
            subject: message.subject.to_string(),
            reply_to: message.reply.map(|reply| reply.to_string()),
            body: message.payload.into(),
        };
        work.spawn(async move {
            let call = context.call_actor(
                &actor,
                messaging::HANDLE_MESSAGE,
                contracts::encode(&argument),
                deadline,
            );
            // The call keeps its deadline; this holds even if a handler does not.
            let result = tokio::time::timeout_at(deadline + TRANSFERS_MAX, call).await;
            drop(permit);
            let failure: CallError = match result {
                Ok(Ok(_)) => return,
                Ok(Err(failure)) => failure,
                Err(_) => CallError::Transport("the actor's call did not end".into()),
            };
            if let Some(unreported) = complaints.due() {
                warn!(
                    actor_id = %actor, %link_name, %subject, error = %failure, unreported,
                    "a message was not handled; it is not delivered again"
                );
            }
        });
    }

    fn report(&self, done: Result<(), JoinError>) {
        if let Err(failure) = done {
            error!(actor_id = %self.link.actor_id, error = %failure, "delivering a message panicked");
        }
    }
}

/// Keeps an actor that fails with every message from filling the log.
#[derive(Clone, Default)]
struct Complaints(Arc<Mutex<(Option<Instant>, u64)>>);

impl Complaints {
    /// Whether it is time for a warning, and how many there were since the last one.
    fn due(&self) -> Option<u64> {
        let mut state = self.0.lock();
        let (last, unreported) = *state;
        if last.is_some_and(|last| last.elapsed() < COMPLAINT_PAUSE) {
            state.1 += 1;
            return None;
        }
        *state = (Some(Instant::now()), 0);
        Some(unreported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn complaints_are_counted_between_warnings() {
        let complaints = Complaints::default();
        assert_eq!(complaints.due(), Some(0));
        assert_eq!((complaints.due(), complaints.due()), (None, None));
        tokio::time::advance(COMPLAINT_PAUSE).await;
        assert_eq!((complaints.due(), complaints.due()), (Some(2), None));
    }
}
