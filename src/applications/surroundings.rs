//! The host that a manager lives in, as far as the manager needs it.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::watch;

use lattice_protocol::{
    events::Event,
    history::Audit,
    links::{LinkDefinition, Table},
};

/// The knowledge of a host about its lattice.
pub trait Surroundings: Send + Sync + 'static {
    /// Returns the id of the host.
    fn host_id(&self) -> &str;
    /// Returns the other hosts of this make.
    fn neighbours(&self) -> Neighbours;
    /// Returns links, claims and image references as they are now; `None` as long as the host has
    /// not read those of the lattice.
    fn table(&self) -> Option<Arc<Table>>;
    /// Ticks whenever there is another table.
    fn table_changes(&self) -> watch::Receiver<()>;
    /// Checks the values of a link to a built-in provider as a put of it does; returns remarks, or
    /// why it would be refused.
    fn check_link(&self, link: &LinkDefinition) -> Result<Vec<String>, String>;
    /// Tells the lattice what happened.
    fn tell(&self, event: Event);
    /// Keeps a command that was taken or refused in the history of the host.
    fn audit(&self, entry: Audit);
}

/// The other hosts of this make that were heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    pub live: BTreeSet<String>,
    /// Fallen silent a moment ago.
    pub lost: BTreeSet<String>,
}
