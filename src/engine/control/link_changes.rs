//! Notes the last change of each link, so that it can be undone.
//!
//! Each host notes the changes that it stores, by whatever client they came, in the bucket of
//! desired state, where all hosts of the lattice read them. The metadata bucket keeps no earlier
//! values (hosts of all years make it with a history of one), and hosts of earlier years read every
//! key of it, so it is left as it is. Where the lattice has no bucket, or the note does not get
//! there, this host remembers the change itself.
//!
//! A note never decides whether a link may be changed: it comes after the change was stored, and a
//! change that is not noted counts all the same.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::host_context::HostContext;
use lattice_base::store::{
    Expect,
    desired::{DesiredError, Record},
};
use lattice_protocol::{
    clock, desired,
    links::{LinkChange, LinkDefinition},
    store::keys,
};

/// Changes that this host remembers itself; each may hold two links of half a megabyte.
const REMEMBERED_MAX: usize = 64;
/// How long the bucket is left alone after a note did not get there: each attempt delays an answer.
const PAUSE: Duration = Duration::from_secs(60);
/// How long the bucket may take to tell a change.
const READ_TIMEOUT: Duration = Duration::from_millis(1500);

/// The last changes of links.
pub struct LinkChanges {
    context: Arc<HostContext>,
    // Held for lines, never across an await.
    own: Mutex<Own>,
}

#[derive(Default)]
struct Own {
    /// Oldest first, one of each link.
    remembered: VecDeque<LinkChange>,
    /// Until then the bucket is left alone.
    pause: Option<Instant>,
}

impl LinkChanges {
    pub fn new(context: Arc<HostContext>) -> Self {
        Self { context, own: Mutex::default() }
    }

    /// Notes that a link was changed, until a deadline. A put of the same link again is no change.
    /// A link whose provider did not take it on is nothing to come back to: what it was before that
    /// is noted in its place.
    pub async fn note(
        &self,
        (before, is_refused): (Option<LinkDefinition>, bool),
        after: Option<LinkDefinition>,
        deadline: Instant,
    ) {
        if before == after {
            return;
        }
        let Some(id) = after.as_ref().or(before.as_ref()).map(LinkDefinition::id) else { return };
        let before = match before {
            Some(refused) if is_refused => self.before(refused, deadline).await,
            before => before,
        };
        let change = LinkChange { at_ms: clock::now_ms(), before, after };
        if !self.is_written(&id, &change, deadline).await {
            self.own.lock().remember(change);
        }
    }

    /// Returns what a refused link was before, as far as this host knows; else itself.
    async fn before(&self, refused: LinkDefinition, deadline: Instant) -> Option<LinkDefinition> {
        let LinkDefinition { actor_id, contract_id, link_name, .. } = &refused;
        let last = self.last(actor_id, contract_id, link_name);
        match timeout_at(deadline, last).await {
            Ok(Some(change)) if change.after.as_ref() == Some(&refused) => change.before,
            _ => Some(refused),
        }
    }

    /// Writes a change to the bucket, if there is one that takes it.
    async fn is_written(&self, id: &str, change: &LinkChange, deadline: Instant) -> bool {
        let HostContext { store, desired, authority, .. } = &*self.context;
        let is_paused = self.own.lock().pause.is_some_and(|until| Instant::now() < until);
        if !store.is_shared() || is_paused {
            return false;
        }
        let (key, mut record) = (desired::link_change(id), Record::default());
        let write =
            desired.put_signed(authority, &key, &mut record, change.clone(), Expect::Anything);
        let error = match timeout_at(deadline, write).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took too long".to_owned(),
        };
        debug!(key, error, "the change of a link is noted on this host only");
        self.own.lock().pause = Some(Instant::now() + PAUSE);
        false
    }

    /// Returns the last change of a link, as far as this host knows.
    pub async fn last(
        &self,
        actor_id: &str,
        contract_id: &str,
        link_name: &str,
    ) -> Option<LinkChange> {
        let id = keys::link_hash(actor_id, contract_id, link_name);
        let read = timeout_at(Instant::now() + READ_TIMEOUT, self.read(&id)).await;
        let written = match read {
            Ok(Ok(change)) => change,
            Ok(Err(error)) => {
                debug!(%error, "the last change of a link cannot be read");
                None
            }
            Err(_) => None,
        };
        let own = self.own.lock();
        let remembered = own.remembered.iter().cloned();
        let all = written.into_iter().chain(remembered);
        let of_it = all.filter(|change| change.is_of(actor_id, contract_id, link_name));
        of_it.max_by_key(|change| change.at_ms)
    }

    async fn read(&self, id: &str) -> Result<Option<LinkChange>, DesiredError> {
        let HostContext { store, desired, authority, .. } = &*self.context;
        if !store.is_shared() {
            return Ok(None);
        }
        Ok(desired.read_signed(authority, &desired::link_change(id)).await?.value)
    }
}

impl Own {
    fn remember(&mut self, change: LinkChange) {
        if let Some(link) = change.after.as_ref().or(change.before.as_ref()) {
            self.remembered
                .retain(|other| !other.is_of(&link.actor_id, &link.contract_id, &link.link_name));
        }
        if self.remembered.len() >= REMEMBERED_MAX {
            self.remembered.pop_front();
        }
        self.remembered.push_back(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(at_ms: u64, actor: &str) -> LinkChange {
        let link = LinkDefinition {
            actor_id: actor.into(),
            provider_id: "V".into(),
            link_name: "default".into(),
            contract_id: "c".into(),
            values: Default::default(),
        };
        LinkChange { at_ms, before: None, after: Some(link) }
    }

    #[test]
    fn a_host_remembers_one_change_of_each_link_and_not_more_than_so_many() {
        let mut own = Own::default();
        own.remember(change(1, "M"));
        own.remember(change(2, "M"));
        assert_eq!(own.remembered, [change(2, "M")]);
        for number in 0..2 * REMEMBERED_MAX {
            own.remember(change(3, &format!("M{number}")));
        }
        assert_eq!(own.remembered.len(), REMEMBERED_MAX);
        assert!(!own.remembered.contains(&change(2, "M")));
    }
}
