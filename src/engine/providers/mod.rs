//! Capability providers: what gives actors a world.
//!
//! There are two kinds and one behaviour. [`builtin`] providers live in this process; [`external`]
//! ones are child processes, unpacked from an [`archive`](lattice_base::providers::archive) and fed
//! by the wire protocol of 2021 to
//! 2024. The [`supervisor`] starts, links, watches, restarts and stops both alike (lattice
//! protocol, section 9.2; wasmbus protocol, section 9):
//!
//! ```text
//! start ─▶ fetch, verify, ask the policy service ─▶ launch ─▶ running ─▶ stopped
//!                                                     ▲          │ crash
//!                                                     └─ pause ◀─┘        (gives up after several in a row)
//! ```
//!
//! A provider is identified by its public key and its link name; a host runs each pair once. Actors
//! and providers know nothing of each other here: they meet in the [`router`](crate::router) and on
//! the lattice.

use tokio::{sync::watch, time::Instant};

pub mod bounds;
pub mod builtin;
pub mod external;
pub mod in_process;
mod plan;
pub mod supervisor;

/// How a run is told to end: by when. A run whose owner is gone ends at once.
type StopSignal = watch::Receiver<Option<Instant>>;

/// Waits until a run is told to end. Cancel safe.
async fn told_to_stop(stop: &mut StopSignal) -> Instant {
    match stop.wait_for(Option::is_some).await {
        Ok(deadline) => deadline.unwrap_or_else(Instant::now),
        Err(_) => Instant::now(),
    }
}
