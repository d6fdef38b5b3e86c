//! How a process ends: by signals, of which the first one asks for an orderly stop and the second
//! one ends it at once; and how a host notices that it cannot go on.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::telemetry;

/// The exit code of a process that was told twice, as shells report an interrupt.
const EXIT_FORCED: i32 = 130;

/// The same signal within this time is the first one once more: whoever signals a process and its
/// group reaches it twice.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// Waits for SIGINT, SIGTERM or SIGHUP (Ctrl-C elsewhere) and cancels the token then. The second
/// one exits, after `at_the_end`. A signal takes effect before it is logged.
pub async fn obey_signals(
    stop: CancellationToken,
    at_the_end: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let mut signals = Signals::listen()?;
    let (first, heard) = (signals.next().await, Instant::now());
    stop.cancel();
    info!(signal = first, "stopping; a second signal ends at once");
    let second = loop {
        let second = signals.next().await;
        if !is_same(first, second, heard.elapsed()) {
            break second;
        }
    };
    at_the_end();
    warn!(signal = second, "ended before everything was done");
    telemetry::flush();
    std::process::exit(EXIT_FORCED);
}

/// Whether a signal so long after the first one is that one once more.
fn is_same(first: &str, second: &str, after: Duration) -> bool {
    first == second && after < SAME_SIGNAL
}

/// Lets a write beyond the largest file this user may have fail instead of ending the process: it
/// may be the log's. To be called inside the runtime.
pub fn survive_file_limit() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        // The system asks whether anybody handles the signal; nobody need wait for it.
        let _ = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()));
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// The terminal was closed; `None` when the host was started to outlive it.
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) },
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            () = Self::hung_up(self.hangup.as_mut()) => "SIGHUP",
        }
    }
}

#[cfg(unix)]
impl Signals {
    async fn hung_up(hangup: Option<&mut tokio::signal::unix::Signal>) {
        match hangup {
            Some(hangup) => drop(hangup.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// Whether this process was started to ignore the end of its terminal, as `nohup` does. Only Linux
/// tells.
#[cfg(unix)]
fn ignores_hangup() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return false };
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Signal numbers count from 1, and 1 is the hangup.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 != 0)
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        // An error means that no handler can be installed; then only the system can end the
        // process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}

/// The two ways in which a host ends: in order, or because it cannot go on. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lifeline {
    /// Cancelled when the host begins to stop.
    pub closing: CancellationToken,
    /// Cancelled when a task ended that the host cannot do without.
    pub failed: CancellationToken,
}

impl Lifeline {
    /// Watches over a task the host cannot do without: if it ends, by returning or by a panic,
    /// before the host is closing, the host is told that it failed.
    pub fn essential<F: Future<Output = ()>>(
        &self,
        name: &'static str,
        task: F,
    ) -> impl Future<Output = ()> + use<F> {
        let lifeline = self.clone();
        async move {
            let _guard = Guard { name, lifeline };
            task.await;
        }
    }
}

struct Guard {
    name: &'static str,
    lifeline: Lifeline,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.lifeline.closing.is_cancelled() {
            error!(
                task = self.name,
                "a task this host cannot do without has ended; this is a bug, the host stops"
            );
            self.lifeline.failed.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_signal_that_comes_twice_at_once_is_one() {
        for (second, after_ms, is_one) in
            [("SIGTERM", 3, true), ("SIGTERM", 400, false), ("SIGINT", 3, false)]
        {
            let after = Duration::from_millis(after_ms);
            assert_eq!(is_same("SIGTERM", second, after), is_one, "{second} {after_ms}");
        }
    }

    #[tokio::test]
    async fn an_essential_task_that_ends_early_or_panics_is_noticed() {
        let lifeline = Lifeline::default();
        lifeline.essential("early", async {}).await;
        assert!(lifeline.failed.is_cancelled());

        let lifeline = Lifeline::default();
        let panics = tokio::spawn(lifeline.essential("panics", async { panic!("on purpose") }));
        assert!(panics.await.is_err() && lifeline.failed.is_cancelled());

        let lifeline = Lifeline::default();
        lifeline.closing.cancel();
        lifeline.essential("in order", async {}).await;
        assert!(!lifeline.failed.is_cancelled());
    }
}
