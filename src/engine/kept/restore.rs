//! Starts again what is kept, each by itself and until it works: the registry may be away, or a
//! process of before may still have the port.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::broadcast::{
        self,
        error::{RecvError, TryRecvError},
    },
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Inner, State};
use crate::{
    actors::supervisor::{self as actors, Amount},
    issuers::IssuerChange,
    providers::supervisor as providers,
};
use lattice_base::backoff::Backoff;
use lattice_protocol::{
    desired::kept::{Item, Place},
    events::Event,
    identity::keys::LinkName,
};

/// Starts that are under way at a time.
pub(super) const AT_ONCE: usize = 32;
/// Pauses between attempts grow from the first to the last of these.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(60);
/// When an attempt that nothing is heard of counts as failed. Longer than a pull may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(600);

/// How a start ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End<'a> {
    /// It runs under this public key.
    Runs(&'a str),
    Failed(&'a str),
}

/// Reads from an event which start has ended, and how.
pub(super) fn end_of(event: &Event) -> Option<(Place, End<'_>)> {
    match event {
        Event::ActorScaled { actor, .. } => {
            let (reference, annotations) = (actor.image_ref.clone(), actor.annotations.clone());
            Some((Place::Actor { reference, annotations }, End::Runs(&actor.public_key)))
        }
        Event::ActorScaleFailed { image_ref, annotations, error, .. } => {
            let (reference, annotations) = (image_ref.clone(), annotations.clone());
            Some((Place::Actor { reference, annotations }, End::Failed(error)))
        }
        Event::ProviderStarted { provider, .. } => {
            let (reference, link_name) = (provider.image_ref.clone(), provider.link_name.clone());
            Some((Place::Provider { reference, link_name }, End::Runs(&provider.public_key)))
        }
        Event::ProviderStartFailed { provider_ref, link_name, error } => {
            let (reference, link_name) = (provider_ref.clone(), link_name.clone());
            Some((Place::Provider { reference, link_name }, End::Failed(error)))
        }
        _ => None,
    }
}

impl Inner {
    /// Begins to start something again.
    pub(super) fn restore(self: &Arc<Self>, state: &mut State, place: Place) {
        let closing = &self.context.lifeline.closing;
        let over = closing.child_token();
        state.restoring.insert(place.clone(), over.clone());
        let restoring = Arc::clone(self).until_it_runs(place, over.clone());
        self.context.tasks.spawn(async move { over.run_until_cancelled(restoring).await });
    }

    async fn until_it_runs(self: Arc<Self>, place: Place, over: CancellationToken) {
        let mut events = self.context.events.follow();
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LAST);
        let mut failures = 0_u32;
        loop {
            // Never closed, so there is always a permit to wait for.
            let permit = self.starts.acquire().await;
            let ended = self.attempt(&place, &over, &mut events).await;
            drop(permit);
            let cause = match ended {
                Ok(()) => break,
                Err(cause) => cause,
            };
            failures += 1;
            let pause = backoff.next_pause();
            warn!(
                ?place,
                cause,
                failures,
                pause_ms = pause.as_millis(),
                "a kept start failed, trying again"
            );
            tokio::time::sleep(pause).await;
        }
        info!(?place, failures, "a kept start runs again");
        let mut state = self.state.lock();
        if !over.is_cancelled() {
            state.restoring.remove(&place);
        }
    }

    /// Starts it once, unless it runs, and waits for the end of that.
    async fn attempt(
        &self,
        place: &Place,
        over: &CancellationToken,
        events: &mut broadcast::Receiver<Event>,
    ) -> Result<(), String> {
        // Events of attempts before this one.
        while !matches!(events.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
        if self.runs(place) {
            return Ok(());
        }
        self.start_again(place, over)?;
        let until = Instant::now() + ATTEMPT_MAX;
        loop {
            // State changes before the event that tells of it.
            if self.runs(place) {
                return Ok(());
            }
            match timeout_at(until, events.recv()).await {
                Ok(Ok(event)) => match end_of(&event) {
                    Some((of, End::Failed(cause))) if of == *place => return Err(cause.to_owned()),
                    // It may have ended by now; then its supervisor starts it again.
                    Some((of @ Place::Provider { .. }, End::Runs(_))) if of == *place => {
                        return Ok(());
                    }
                    _ => {}
                },
                Ok(Err(RecvError::Lagged(_))) => {}
                Ok(Err(RecvError::Closed)) => return Err("the host ends".to_owned()),
                Err(_) => return Err("nothing was heard of it".to_owned()),
            }
        }
    }

    /// Gives the command, unless it was stopped by hand meanwhile.
    fn start_again(&self, place: &Place, over: &CancellationToken) -> Result<(), String> {
        let state = self.state.lock();
        let item = state.kept.as_ref().and_then(|kept| kept.get(place));
        if over.is_cancelled() {
            return Err("it was stopped".to_owned());
        }
        match item {
            Some(Item::Actor(actor)) => {
                let started = self.actors.start(actors::Start {
                    reference: actor.reference.clone(),
                    annotations: actor.annotations.clone(),
                    amount: Amount::Exactly(actor.max),
                    issuer_change: IssuerChange::Refused,
                });
                started.map_err(|error| error.to_string())
            }
            Some(Item::Provider(provider)) => {
                let link_name = LinkName::parse(&provider.link_name);
                // A refusal is told by an event, like every failure.
                drop(self.providers.start(providers::Start {
                    reference: provider.reference.clone(),
                    link_name: link_name.map_err(|error| error.to_string())?,
                    configuration: provider.configuration.clone(),
                    annotations: provider.annotations.clone(),
                    issuer_change: IssuerChange::Refused,
                }));
                Ok(())
            }
            None => Err("it is not kept any more".to_owned()),
        }
    }

    /// Whether it runs as it is kept.
    fn runs(&self, place: &Place) -> bool {
        let item = self.state.lock().kept.as_ref().and_then(|kept| kept.get(place)).cloned();
        match item {
            Some(Item::Actor(wanted)) => self.actors.running().iter().any(|actor| {
                actor.reference == wanted.reference
                    && actor.groups.iter().any(|group| {
                        group.annotations == wanted.annotations && group.max == wanted.max
                    })
            }),
            Some(Item::Provider(wanted)) => self.providers.running().iter().any(|provider| {
                provider.link_name.as_str() == wanted.link_name
                    && (provider.reference == wanted.reference
                        || wanted.id.as_deref() == Some(provider.id.as_str()))
            }),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_start_is_read_from_the_event_that_has_its_place() {
        let failed = Event::ProviderStartFailed {
            provider_ref: "p:1".into(),
            link_name: "front".into(),
            error: "no".into(),
        };
        let place = Place::Provider { reference: "p:1".into(), link_name: "front".into() };
        assert_eq!(end_of(&failed), Some((place, End::Failed("no"))));
        // It has no annotations; the event that has them comes with it.
        let early = Event::ActorStartFailed { actor_ref: "a:1".into(), error: "no".into() };
        assert_eq!(end_of(&early), None);
        let annotations = [("t".to_owned(), "x".to_owned())].into();
        let failed = Event::ActorScaleFailed {
            host_id: "N".into(),
            public_key: "N/A".into(),
            image_ref: "a:1".into(),
            annotations,
            max: 1,
            error: "no".into(),
        };
        let annotations = [("t".to_owned(), "x".to_owned())].into();
        let place = Place::Actor { reference: "a:1".into(), annotations };
        assert_eq!(end_of(&failed), Some((place, End::Failed("no"))));
    }
}
