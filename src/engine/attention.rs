//! Where a dashboard of this host says what needs attention in the lattice, and takes what people
//! say about it. The host itself knows nothing of that; it only passes on what clients ask.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;

use lattice_protocol::attention::{MarkAttention, Report};

/// A dashboard, as the control interface asks it.
pub trait Attending: Send + Sync {
    /// Returns what needs attention now.
    fn report(&self) -> BoxFuture<'static, Report>;
    /// Notes something about it; `by` is who says so. An error is a sentence for people.
    fn mark(&self, mark: MarkAttention, by: String) -> BoxFuture<'static, Result<(), String>>;
}

/// The place of a dashboard in its host. Cheap to clone.
#[derive(Clone, Default)]
pub struct Slot(Arc<ArcSwapOption<Arc<dyn Attending>>>);

impl Slot {
    /// Puts a dashboard in.
    pub fn fill(&self, attending: Arc<dyn Attending>) {
        self.0.store(Some(Arc::new(attending)));
    }

    /// Takes the dashboard out: it holds its host.
    pub fn empty(&self) {
        self.0.store(None);
    }

    /// Returns the dashboard, if this host has one.
    pub fn get(&self) -> Option<Arc<dyn Attending>> {
        self.0.load().as_deref().cloned()
    }
}
