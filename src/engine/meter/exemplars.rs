//! Calls beside their counts: for each bucket of `/metrics` the last call of which a collector has
//! the trace, so that a reader comes from a long time to what took it.
//!
//! Nothing is kept where no traces are exported, and only calls that the sampler keeps are looked
//! at.

use std::{collections::HashMap, sync::OnceLock};

use parking_lot::Mutex;

use lattice_base::telemetry::otel::trace::Sampled;
use lattice_protocol::{
    clock,
    meter::{
        Path,
        histogram::{BOUNDS_US, coarse},
    },
};

/// A call of which a collector has the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exemplar {
    pub sampled: Sampled,
    pub took_ns: u64,
    /// When it ended, in milliseconds since 1970.
    pub at_ms: u64,
}

/// The last one of each bucket; the last bucket is that of all that took longer.
pub type Seen = [Option<Exemplar>; BOUNDS_US.len() + 1];

/// Those of all operations: by key and link name of the target, operation and path.
pub type ByOperation = HashMap<(String, String, String, Path), Seen>;

/// Those of one operation. Made when the first of them comes: few hosts export traces.
#[derive(Default)]
pub(super) struct Exemplars(OnceLock<Box<Mutex<Seen>>>);

impl Exemplars {
    /// Keeps a call that has ended.
    pub fn keep(&self, sampled: Sampled, took_ns: u64) {
        let Some(bucket) = coarse(took_ns) else { return };
        let seen = self.0.get_or_init(Box::default);
        // Another call is as good, so none waits for the lock.
        if let Some(mut seen) = seen.try_lock() {
            seen[bucket] = Some(Exemplar { sampled, took_ns, at_ms: clock::now_ms() });
        }
    }

    /// Returns them, if there was ever one.
    pub fn read(&self) -> Option<Seen> {
        self.0.get().map(|seen| *seen.lock())
    }
}
