//! Notices that this process did not run for a while: stopped by a signal, in a paused virtual
//! machine, on a laptop that slept.
//!
//! Calls that came meanwhile lie in the connection's buffers; their callers have given up or asked
//! another host. Working them off would repeat what others have done and delay what is asked now,
//! so the RPC receiver refuses them with the word that nothing was done. They end with a round
//! trip: the server answers in order, so whatever came before its answer is old.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::Client;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::lattice::connection::confirm;
use lattice_protocol::clock;

const TICK: Duration = Duration::from_millis(100);
/// A pause that no busy machine makes; the time callers wait unless told otherwise.
const AWAY: Duration = Duration::from_secs(2);
/// After a round trip, the queues of this process are emptied within this time.
const REST: Duration = Duration::from_millis(500);

/// Whether this process runs as it should. Cheap to clone.
#[derive(Clone)]
pub struct SuspendDetector(Arc<Inner>);

struct Inner {
    /// When the ticker last ran, by [`boot_ms`].
    last_ms: AtomicU64,
    /// It woke up, and what comes may be old.
    waking: AtomicBool,
}

impl Default for SuspendDetector {
    fn default() -> Self {
        Self(Arc::new(Inner { last_ms: AtomicU64::new(boot_ms()), waking: AtomicBool::new(false) }))
    }
}

impl SuspendDetector {
    /// Whether what arrives now may have lain for long.
    pub fn is_stale(&self) -> bool {
        self.0.waking.load(Ordering::Acquire) || self.gap() > AWAY
    }

    fn gap(&self) -> Duration {
        Duration::from_millis(boot_ms().saturating_sub(self.0.last_ms.load(Ordering::Acquire)))
    }

    /// Keeps watch over what arrives on `client`'s connection until stopped.
    pub async fn run(self, client: Client, stop: CancellationToken) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let gap = self.gap();
            if gap > AWAY {
                warn!(
                    away_ms = clock::millis(gap),
                    "this host did not run for a while; calls that came meanwhile are refused"
                );
                self.0.waking.store(true, Ordering::Release);
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = caught_up(&client) => {}
                }
                self.0.last_ms.store(boot_ms(), Ordering::Release);
                self.0.waking.store(false, Ordering::Release);
                info!("this host takes calls again");
            }
            self.0.last_ms.store(boot_ms(), Ordering::Release);
        }
    }
}

/// Waits until nothing that was sent before is still on its way.
async fn caught_up(client: &Client) {
    while let Err(error) = confirm(client).await {
        warn!(%error, "the lattice does not answer yet after a pause");
        sleep(TICK).await;
    }
    sleep(REST).await;
}

/// Returns the milliseconds on a clock that only goes forward and also counts the time in which
/// the machine slept, where the system has one.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let parts = (u64::try_from(now.tv_sec), u64::try_from(now.tv_nsec));
    let (Ok(seconds), Ok(nanos)) = parts else { return 0 };
    seconds.saturating_mul(1000) + nanos / 1_000_000
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn boot_ms() -> u64 {
    use std::{sync::LazyLock, time::Instant};
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    clock::millis(BEGAN.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_did_not_run_says_so() {
        let suspend = SuspendDetector::default();
        assert!(!suspend.is_stale());
        suspend.0.last_ms.store(boot_ms() - 2_500, Ordering::Release);
        assert!(suspend.is_stale());
    }

    #[test]
    fn the_clock_of_the_machine_never_goes_back() {
        let before = boot_ms();
        assert!(boot_ms() >= before);
    }
}
