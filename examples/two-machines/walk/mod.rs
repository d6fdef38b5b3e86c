//! Two machines, one application: what the example `two-machines` shows and the tests check.
//!
//! * [`ground`] says where the machines are: on one computer with ports of their own, or
//!   ([`netns`]) in network namespaces with latency and loss between them.
//! * [`machine`] is a directory with a NATS server and a host as processes ([`process`]);
//!   [`lattice`] is all of them with their hub.
//! * [`control`] sends the commands, with the client crate of early 2024. [`app`] is what runs
//!   there.
//! * [`story`] is the walk step by step; [`disturbance`] is what may happen to a lattice at work.
//! * [`article`] types the same as commands, with `host` or with `wash`.
//! * [`load`] asks for the page all the while, and counts.

pub mod app;
pub mod article;
pub mod control;
pub mod disturbance;
pub mod ground;
pub mod lattice;
pub mod load;
pub mod machine;
pub mod netns;
pub mod process;
pub mod story;

use std::time::Duration;

use anyhow::{Result, bail};

/// How long anything may take before the walk is given up. Far beyond what a loaded computer needs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks until something is there; the last reason why not is in the error.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let error = match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => error,
            Err(_) => bail!("waited {} s in vain: {what}", PATIENCE.as_secs()),
        };
        if tokio::time::Instant::now() >= deadline {
            return Err(error.context(format!("waited {} s in vain: {what}", PATIENCE.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
