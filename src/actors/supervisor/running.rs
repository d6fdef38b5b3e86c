//! One running actor as the supervisor holds it: its groups, and what follows from them.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::command::{ActorView, Amount, GroupView, Start, reuse_of};
use crate::{actors::actor::Actor, events::event::Annotations};

/// An actor of this host, with its way out of the lattice.
pub(super) struct Running {
    pub actor: Arc<Actor>,
    pub reference: String,
    pub groups: Vec<Group>,
    pub leave: CancellationToken,
    pub left: Option<oneshot::Receiver<()>>,
    /// The groups that ran when the host began to stop; their events are due at the end of that.
    pub stopping: Vec<Group>,
    /// Its claims do not count now, and that was told.
    pub is_out_of_term: bool,
}

/// The part of an actor that was started with one set of annotations.
pub(super) struct Group {
    pub annotations: Annotations,
    pub instance_id: String,
    pub max: u32,
}

impl Running {
    /// How many calls may run at a time, over all groups.
    pub fn total(&self) -> u32 {
        self.groups.iter().fold(0, |sum: u32, group| sum.saturating_add(group.max))
    }

    /// Whether a request asks for more than there is under its annotations.
    pub fn grows_with(&self, start: &Start) -> bool {
        let now = self.groups.iter().find(|group| group.annotations == start.annotations).map_or(0, |group| group.max);
        match start.amount {
            Amount::Add(more) => more > 0,
            Amount::Exactly(count) | Amount::AtLeast(count) => count > now,
        }
    }

    /// Makes the actor obey its groups: concurrency is their sum, reuse the highest that one of them asks for.
    pub fn apply_limits(&self, reuse_default: u32) {
        self.actor.set_limit(self.total());
        let reuse = self.groups.iter().filter_map(|group| reuse_of(&group.annotations).ok().flatten()).max();
        self.actor.set_reuse(reuse.unwrap_or(reuse_default));
    }

    /// Returns the actor as readers see it.
    pub fn view(&self) -> ActorView {
        let claims = self.actor.claims();
        let group = |group: &Group| GroupView {
            annotations: group.annotations.clone(),
            instance_id: group.instance_id.clone(),
            max: group.max,
        };
        ActorView {
            id: self.actor.id.clone(),
            name: claims.name.clone(),
            reference: self.reference.clone(),
            revision: claims.revision.unwrap_or(0),
            groups: self.groups.iter().map(group).collect(),
        }
    }
}
