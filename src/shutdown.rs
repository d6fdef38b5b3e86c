//! Signals: the first one asks for an orderly stop, the second one ends the process at once.

use std::io;

use tracing::{info, warn};

/// The exit code of a process that was told twice, as shells report an interrupt.
const EXIT_FORCED: i32 = 130;

/// Waits for SIGINT or SIGTERM (Ctrl-C elsewhere). Returns when the first one came; from then on a second one exits.
pub async fn first_signal() -> io::Result<()> {
    let mut signals = Signals::listen()?;
    let first = signals.next().await;
    info!(signal = first, "stopping; a second signal ends at once");
    tokio::spawn(async move {
        let second = signals.next().await;
        warn!(signal = second, "ended before everything was done");
        std::process::exit(EXIT_FORCED);
    });
    Ok(())
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        // An error means that no handler can be installed; then only the system can end the process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}
