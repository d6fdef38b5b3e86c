//! Whether a provider of this host has taken a link on, or let it go: `probe.{host}.link`; and the
//! last change of a link: `probe.{host}.link_change`.
//!
//! The acknowledgement of a link says that its definition is stored. The client that put it wants
//! to know the outcome, which only the provider's host knows: for a built-in provider it is
//! certain, for a process only that the link is sent to it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    FutureExt,
    stream::{FuturesUnordered, StreamExt as _},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    control::server::{Answer, Server, json},
    providers::builtin,
    router::LinkStatus,
};
use lattice_protocol::{
    control::{
        probe::link::{Answered, AskChange, LastChange, Request, State},
        request::HostRequest as _,
    },
    links::LinkDefinition,
};

/// How long an answer waits for the provider. The client asks again.
const PATIENCE: Duration = Duration::from_millis(1200);
/// How often the state of the link is checked.
const LOOK: Duration = Duration::from_millis(20);
/// Other hosts that are asked whether they have taken a link on, and how long they may take.
const RUNNERS_MAX: usize = 8;
const RUNNERS_WITHIN: Duration = Duration::from_millis(500);

impl Server {
    pub(in crate::control) fn probe_link(self: &Arc<Self>, request: Request) -> Answer {
        let server = Arc::clone(self);
        async move { json(&server.settled(&request).await) }.boxed()
    }

    /// Returns the state of a link as soon as it is not pending, or when the time is over.
    async fn settled(&self, request: &Request) -> Answered {
        let until = Instant::now() + PATIENCE;
        loop {
            let answered = self.link_state(request);
            if answered.state != State::Pending || Instant::now() >= until {
                return answered;
            }
            sleep(LOOK).await;
        }
    }

    /// Whether a provider that runs does not take a link on: this host's, or one of another host
    /// where this one runs none.
    pub(in crate::control) async fn is_refused(&self, link: &LinkDefinition) -> bool {
        let request = Request { link: link.clone(), is_deleted: false };
        match self.link_state(&request).state {
            State::Absent if builtin::by_key(&link.provider_id).is_some() => {}
            state => return state == State::Refused,
        }
        let Ok(payload) = serde_json::to_vec(&request).map(Bytes::from) else { return false };
        let runners = self.parts.router.runners_of(link).into_iter().take(RUNNERS_MAX);
        let told = runners.map(|host| self.told_by(host, payload.clone()));
        let mut told: FuturesUnordered<_> = told.collect();
        while let Some(answered) = told.next().await {
            if answered.is_some_and(|answered| answered.state == State::Refused) {
                return true;
            }
        }
        false
    }

    /// Asks another host for a link. One that is mute holds up none of the others.
    async fn told_by(&self, host: Arc<str>, payload: Bytes) -> Option<Answered> {
        let context = &self.parts.context;
        let subject = context.subjects.control(&Request::subject(host.to_string()));
        let asked = timeout(RUNNERS_WITHIN, context.ctl.client.request(subject, payload));
        let reply = asked.await.ok()?.ok()?;
        serde_json::from_slice(&reply.payload).ok()
    }

    fn link_state(&self, Request { link, is_deleted }: &Request) -> Answered {
        let runs = self.parts.providers.running().iter().any(|provider| {
            provider.id.as_str() == link.provider_id
                && provider.link_name.as_str() == link.link_name
        });
        let spec = builtin::by_key(&link.provider_id);
        match spec {
            _ if !runs => Answered { state: State::Absent, ..Answered::default() },
            None => Answered { state: State::Untold, ..Answered::default() },
            Some(spec) if spec.known.contract_id != link.contract_id => {
                let error = spec.known.other_contract(&link.contract_id);
                let refused = LinkStatus::Refused { error, is_former_up: false };
                answered((!is_deleted).then_some(refused), *is_deleted)
            }
            Some(_) => answered(self.parts.router.link_status(link), *is_deleted),
        }
    }

    /// Answers with the last change of a link that this host knows of.
    pub(in crate::control) fn probe_link_change(self: &Arc<Self>, ask: AskChange) -> Answer {
        let server = Arc::clone(self);
        async move {
            let AskChange { actor_id, contract_id, link_name } = ask;
            let change = server.link_changes.last(&actor_id, &contract_id, &link_name).await;
            json(&LastChange { change })
        }
        .boxed()
    }
}

fn answered(status: Option<LinkStatus>, is_deleted: bool) -> Answered {
    let state = match status {
        None if is_deleted => State::Done,
        _ if is_deleted => State::Pending,
        Some(LinkStatus::Up) => State::Done,
        Some(LinkStatus::Refused { error, is_former_up }) => {
            return Answered { state: State::Refused, error, is_former_up };
        }
        Some(LinkStatus::Pending) | None => State::Pending,
    };
    Answered { state, ..Answered::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_done_when_its_provider_has_it_and_a_deleted_one_when_it_has_let_it_go() {
        let refused = || Some(LinkStatus::Refused { error: "why".into(), is_former_up: true });
        for (status, is_deleted, state) in [
            (Some(LinkStatus::Up), false, State::Done),
            (Some(LinkStatus::Pending), false, State::Pending),
            (None, false, State::Pending),
            (refused(), false, State::Refused),
            (None, true, State::Done),
            (Some(LinkStatus::Up), true, State::Pending),
            (refused(), true, State::Pending),
        ] {
            let is_refused = state == State::Refused;
            let error = if is_refused { "why".to_owned() } else { String::new() };
            let expected = Answered { state, error, is_former_up: is_refused };
            assert_eq!(answered(status, is_deleted), expected);
        }
    }
}
