//! How a process ends: by signals, of which the first one asks for an orderly stop and the second
//! one ends it at once; and how a host notices that it cannot go on. A host has two further
//! signals: SIGHUP to reload, and SIGUSR2 to drain.

#[cfg(unix)]
use std::io::IsTerminal as _;
use std::{
    io,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::telemetry;

/// The exit code of a process that was told twice, as shells report an interrupt.
const EXIT_FORCED: i32 = 130;

/// The same signal within this time is the first one once more: whoever signals a process and its
/// group reaches it twice.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// A wish of a signal that does not end the process at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The settings are to be read again.
    Reload,
    /// All that runs here is to run elsewhere, and then the process is to end.
    Drain,
}

/// A signal as this process takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// The process is to stop; the name of the signal.
    Stop(&'static str),
    Wish(Wish),
}

/// The kind of process that takes signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taker {
    /// A command that a user waits for.
    Command,
    /// A host, which may have been started to outlive its terminal.
    Host,
}

/// Waits for SIGINT, SIGTERM or SIGHUP (Ctrl-C elsewhere) and cancels the token then. The second
/// one exits, after `at_the_end`. A signal takes effect before it is logged.
pub async fn obey_signals(
    stop: CancellationToken,
    at_the_end: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    obey(Signals::listen(Taker::Command)?, stop, None, at_the_end).await
}

/// Does the same for a host, which also has wishes: SIGHUP is one to reload unless the terminal of
/// the host has gone, and SIGUSR2 one to drain. Once it was told to stop, it has no more wishes.
pub async fn obey_host_signals(
    stop: CancellationToken,
    wishes: mpsc::Sender<Wish>,
    at_the_end: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    obey(Signals::listen(Taker::Host)?, stop, Some(wishes), at_the_end).await
}

async fn obey(
    mut signals: Signals,
    stop: CancellationToken,
    wishes: Option<mpsc::Sender<Wish>>,
    at_the_end: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let first = loop {
        match signals.next().await {
            Heard::Stop(first) => break first,
            Heard::Wish(wish) => {
                if let Some(wishes) = &wishes {
                    // Where there is no room, enough of them wait already.
                    let _ = wishes.try_send(wish);
                }
            }
        }
    };
    let heard = Instant::now();
    stop.cancel();
    info!(signal = first, "stopping; a second signal ends at once");
    let second = loop {
        match signals.next().await {
            Heard::Stop(second) if !is_same(first, second, heard.elapsed()) => break second,
            Heard::Stop(_) | Heard::Wish(_) => {}
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

/// The terminal of a process when that began.
#[cfg_attr(not(unix), allow(dead_code, reason = "only Unix has the signal"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beginning {
    taker: Taker,
    has_terminal: bool,
    /// It was started to outlive its terminal.
    ignores_hangup: bool,
}

/// Returns the meaning of a hangup. The terminal of a host that was closed is none any more; a host
/// that has no terminal, or still has it, was sent the signal by somebody.
#[cfg_attr(not(unix), allow(dead_code, reason = "only Unix has the signal"))]
fn hangup(beginning: Beginning, has_terminal_now: bool) -> Heard {
    let Beginning { taker, has_terminal, ignores_hangup } = beginning;
    let has_gone = has_terminal && !has_terminal_now && !ignores_hangup;
    if taker == Taker::Command || has_gone {
        Heard::Stop("SIGHUP")
    } else {
        Heard::Wish(Wish::Reload)
    }
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// The terminal was closed, or a host is to reload; `None` for a command that was started to
    /// outlive its terminal.
    hangup: Option<tokio::signal::unix::Signal>,
    /// Of a host only.
    drain: Option<tokio::signal::unix::Signal>,
    beginning: Beginning,
}

#[cfg(unix)]
impl Signals {
    fn listen(taker: Taker) -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let has_terminal = io::stdin().is_terminal();
        let beginning = Beginning { taker, has_terminal, ignores_hangup: ignores_hangup() };
        let is_host = taker == Taker::Host;
        let hears_hangup = is_host || !beginning.ignores_hangup;
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if hears_hangup { Some(signal(SignalKind::hangup())?) } else { None },
            drain: if is_host { Some(signal(SignalKind::user_defined2())?) } else { None },
            beginning,
        })
    }

    async fn next(&mut self) -> Heard {
        let beginning = self.beginning;
        tokio::select! {
            _ = self.interrupt.recv() => Heard::Stop("SIGINT"),
            _ = self.terminate.recv() => Heard::Stop("SIGTERM"),
            () = received(self.hangup.as_mut()) => hangup(beginning, io::stdin().is_terminal()),
            () = received(self.drain.as_mut()) => Heard::Wish(Wish::Drain),
        }
    }
}

/// Waits for a signal; for ever if it is not listened to.
#[cfg(unix)]
async fn received(signal: Option<&mut tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
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
    fn listen(_: Taker) -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Heard {
        // An error means that no handler can be installed; then only the system can end the
        // process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Heard::Stop("Ctrl-C")
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

    #[test]
    fn a_hangup_ends_a_host_only_if_its_terminal_has_gone() {
        let (stop, reload) = (Heard::Stop("SIGHUP"), Heard::Wish(Wish::Reload));
        for (taker, has_terminal, ignores_hangup, has_terminal_now, expected) in [
            (Taker::Host, true, false, false, stop),
            (Taker::Host, true, false, true, reload),
            (Taker::Host, false, false, false, reload),
            (Taker::Host, true, true, false, reload),
            (Taker::Command, true, false, false, stop),
            (Taker::Command, false, false, false, stop),
        ] {
            let beginning = Beginning { taker, has_terminal, ignores_hangup };
            assert_eq!(hangup(beginning, has_terminal_now), expected, "{beginning:?}");
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
