//! Tells how a start gets on, for those who wait for it at a prompt.
//!
//! [`Steps`] belong to one start and carry its reference, in the words of whoever asked. Telling
//! never waits and is never made up for: a step that finds no room is lost, and events go first.

use std::{sync::Arc, time::Duration};

use super::Publisher;
use lattice_protocol::events::progress::Step;

/// How often the bytes of one download are told at most.
pub const EVERY: Duration = Duration::from_millis(200);

/// The stages of a start, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// An image is fetched from its registry.
    Pull,
    /// Claims and hashes are checked.
    Verify,
    /// An actor's code is made for this machine.
    Compile,
    /// A provider's program is taken out of its archive.
    Unpack,
    /// It is made known and subscribed for.
    Start,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Verify => "verify",
            Self::Compile => "compile",
            Self::Unpack => "unpack",
            Self::Start => "start",
        }
    }
}

/// The steps of one start. Cheap to clone.
#[derive(Clone)]
pub struct Steps {
    publisher: Publisher,
    reference: Arc<str>,
}

impl Steps {
    pub(super) fn new(publisher: Publisher, reference: &str) -> Self {
        Self { publisher, reference: reference.into() }
    }

    /// A stage begins.
    pub fn stage(&self, stage: Stage) {
        self.tell(stage, 0, 0);
    }

    /// So much of an image is here.
    pub fn pulled(&self, bytes: u64, of: u64) {
        self.tell(Stage::Pull, bytes, of);
    }

    fn tell(&self, stage: Stage, bytes: u64, of: u64) {
        let (host_id, reference) = (self.publisher.host_id(), self.reference.to_string());
        self.publisher.tell(&Step {
            host_id,
            reference,
            stage: stage.name().to_owned(),
            bytes,
            of,
        });
    }
}
