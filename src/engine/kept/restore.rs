//! Starts again what is kept, each by itself and until it works: the registry may be away, or a
//! process of before may still have the port.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::timeout};
use tracing::{debug, info, warn};

use super::{Inner, State};
use crate::{
    actors::supervisor::{self as actors, ActorError, Amount, Outcome},
    issuers::IssuerChange,
    providers::supervisor::{self as providers, Ended, NotStarted, ProviderError},
};
use lattice_base::backoff::Backoff;
use lattice_protocol::{
    desired::kept::{Actor, Item, Place, Provider},
    identity::keys::{LinkName, ProviderId},
};

/// Starts that are under way at a time.
pub(super) const AT_ONCE: usize = 32;
/// Pauses between attempts grow from the first to the last of these.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(60);
/// After so many failures, half an hour of them, it is tried less often: claims that have expired
/// do not come to count again, and each attempt is told to everybody.
const FAILURES_SOON: u32 = 36;
const RETRY_SELDOM: Duration = Duration::from_secs(600);
/// When an attempt that nothing is heard of counts as failed. Longer than a pull may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(600);

/// The outcome of one attempt.
enum Attempt {
    /// It runs under this public key.
    Runs(String),
    /// It is not kept any more.
    Over,
    /// An operator has asked for it, and that is under way.
    UnderWay,
    Failed {
        /// The public key of what failed, as far as it is known.
        key: Option<String>,
        cause: String,
    },
}

/// An attempt that was begun.
enum Begun {
    Actor(oneshot::Receiver<Outcome>),
    Provider(oneshot::Receiver<Result<(), ProviderError>>, Ended),
}

impl Inner {
    /// Begins to start something again.
    pub(super) fn restore(self: &Arc<Self>, state: &mut State, place: Place) {
        state.restoring.insert(place.clone());
        let closing = self.context.lifeline.closing.clone();
        let restoring = Arc::clone(self).until_it_runs(place);
        self.context.tasks.spawn(async move { closing.run_until_cancelled(restoring).await });
    }

    async fn until_it_runs(self: Arc<Self>, place: Place) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LAST);
        let (mut failures, mut told) = (0_u32, String::new());
        loop {
            // Never closed, so there is always a permit to wait for.
            let permit = self.starts.acquire().await;
            let attempt = self.attempt(&place).await;
            drop(permit);
            match attempt {
                Attempt::Runs(key) => {
                    info!(?place, failures, "a kept start runs again");
                    return self.restored(&place, Some(&key));
                }
                Attempt::Over => return self.restored(&place, None),
                Attempt::UnderWay => tokio::time::sleep(RETRY_FIRST).await,
                Attempt::Failed { key, cause } => {
                    if key.is_some_and(|key| self.gives_way(&place, &key)) {
                        info!(?place, cause, "a kept start makes room for a later one");
                        return;
                    }
                    failures += 1;
                    let pause =
                        if failures > FAILURES_SOON { RETRY_SELDOM } else { backoff.next_pause() };
                    let pause_ms = pause.as_millis();
                    // One line for each cause, not for each attempt.
                    if cause == told {
                        debug!(?place, cause, failures, pause_ms, "a kept start failed again");
                    } else {
                        warn!(
                            ?place,
                            cause, failures, pause_ms, "a kept start failed, trying again"
                        );
                    }
                    told = cause;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    fn restored(&self, place: &Place, key: Option<&str>) {
        let mut state = self.state.lock();
        state.restoring.remove(place);
        if key.is_some_and(|key| state.log.identify(place, key)) {
            self.list_changed(&mut state);
        }
    }

    /// Whether something is kept that is the same under another reference, so that this one is not
    /// any more.
    fn gives_way(&self, place: &Place, key: &str) -> bool {
        let mut state = self.state.lock();
        let gives_way = state.log.give_way(place, key);
        if gives_way {
            state.restoring.remove(place);
            self.list_changed(&mut state);
        }
        gives_way
    }

    /// Starts it once, unless it runs, and waits for the end of that.
    async fn attempt(&self, place: &Place) -> Attempt {
        let begun = match self.begin_attempt(place) {
            Ok(begun) => begun,
            Err(attempt) => return attempt,
        };
        let ended = async {
            match begun {
                Begun::Actor(outcome) => end_of_actor(outcome.await.ok()),
                Begun::Provider(accepted, ended) => match accepted.await {
                    Ok(Ok(())) => end_of_provider(ended.await.ok()),
                    Ok(Err(refused)) => failed(refused),
                    Err(_) => failed("the host ends"),
                },
            }
        };
        timeout(ATTEMPT_MAX, ended).await.unwrap_or_else(|_| failed("nothing was heard of it"))
    }

    /// Gives the command as the list says now, under the lock of the list.
    fn begin_attempt(&self, place: &Place) -> Result<Begun, Attempt> {
        let state = self.state.lock();
        if state.log.is_under_way(place) {
            return Err(Attempt::UnderWay);
        }
        match state.log.current().get(place) {
            None => Err(Attempt::Over),
            Some(Item::Actor(actor)) => self.begin_actor(actor),
            Some(Item::Provider(provider)) => self.begin_provider(provider),
        }
    }

    fn begin_actor(&self, wanted: &Actor) -> Result<Begun, Attempt> {
        let running = self.actors.running();
        let runs = running.iter().find(|actor| {
            actor.is_from(&wanted.reference)
                && actor
                    .groups
                    .iter()
                    .any(|group| group.annotations == wanted.annotations && group.max == wanted.max)
        });
        if let Some(actor) = runs {
            return Err(Attempt::Runs(actor.id.to_string()));
        }
        let started = self.actors.start(actors::Start {
            reference: wanted.reference.clone(),
            annotations: wanted.annotations.clone(),
            amount: Amount::Exactly(wanted.max),
            issuer_change: IssuerChange::Refused,
        });
        started.map(Begun::Actor).map_err(failed)
    }

    fn begin_provider(&self, wanted: &Provider) -> Result<Begun, Attempt> {
        let running = self.providers.running();
        let runs = running.iter().find(|provider| {
            provider.link_name.as_str() == wanted.link_name
                && (provider.reference == wanted.reference
                    || wanted.id.as_deref() == Some(provider.id.as_str()))
        });
        if let Some(provider) = runs {
            return Err(Attempt::Runs(provider.id.to_string()));
        }
        let (accepted, ended) = self.providers.start_and_follow(providers::Start {
            reference: wanted.reference.clone(),
            link_name: LinkName::parse(&wanted.link_name).map_err(failed)?,
            configuration: wanted.configuration.clone(),
            annotations: wanted.annotations.clone(),
            issuer_change: IssuerChange::Refused,
        });
        Ok(Begun::Provider(accepted, ended))
    }
}

fn failed(cause: impl ToString) -> Attempt {
    Attempt::Failed { key: None, cause: cause.to_string() }
}

fn end_of_actor(outcome: Option<Outcome>) -> Attempt {
    match outcome {
        Some(Ok(changed)) => Attempt::Runs(changed.id.to_string()),
        Some(Err(ActorError::NotStarted { id, cause })) => {
            Attempt::Failed { key: id.map(|id| id.to_string()), cause }
        }
        Some(Err(error)) => failed(error),
        None => failed("the host ends"),
    }
}

fn end_of_provider(outcome: Option<Result<ProviderId, NotStarted>>) -> Attempt {
    match outcome {
        // It may have ended by now; then its supervisor starts it again.
        Some(Ok(id)) => Attempt::Runs(id.to_string()),
        Some(Err(NotStarted { id, cause })) => {
            Attempt::Failed { key: id.map(|id| id.to_string()), cause }
        }
        None => failed("the host ends"),
    }
}
