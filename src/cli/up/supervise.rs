//! Keeps the NATS server of a session running: one that dies is started again with the same
//! configuration, name, port, store and login.
//!
//! The pauses before the starts grow. A server that dies again and again within a short time is
//! given up: its configuration, its disk or its port is at fault, and only a person can mend that.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep_until};
use tracing::error;

use super::{
    nats_server::{self, NatsServer, Settings},
    process::Process,
};
use lattice_base::{backoff, config::ProcessEnvironment, dirs::Dirs};

/// Pauses before a start grow from the first to the longest of these.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(5);
/// A server that ran for so long has come up well; deaths from before do not count any more.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// Starts in a row after which the server is given up. All pauses together are six seconds.
const STARTS_MAX: u32 = 6;
/// Lines of the log that are told of a server that is given up.
const LINES_TOLD: usize = 5;

/// The end of a server.
#[derive(Debug)]
pub enum Change {
    /// It died, and runs again as this process.
    StartedAgain(Process),
    /// It is not started again, for this reason.
    GivenUp(String),
}

/// A server that is started again when it dies.
pub struct Supervised {
    dirs: Dirs,
    settings: Settings,
    /// Missing from a death until the next start.
    running: Option<NatsServer>,
    since: Instant,
    start_at: Instant,
    deaths: Deaths,
}

impl Supervised {
    pub fn new(dirs: Dirs, settings: Settings, running: NatsServer) -> Self {
        let now = Instant::now();
        let running = Some(running);
        Self { dirs, settings, running, since: now, start_at: now, deaths: Deaths::default() }
    }

    /// Waits until the server has died and runs again, or is given up. Cancel safe: a start that
    /// was interrupted is made by the next call.
    pub async fn changed(&mut self) -> Change {
        loop {
            if let Some(server) = &mut self.running {
                let how = server.ended().await;
                self.running = None;
                let reason = nats_server::fatal_words(&self.settings.log());
                let how = reason.map(|reason| format!("{how}: {reason}")).unwrap_or(how);
                if let Some(given_up) = self.died(self.since.elapsed(), &how) {
                    return given_up;
                }
            }
            sleep_until(self.start_at).await;
            match self.start().await {
                Ok(process) => return Change::StartedAgain(process),
                Err(error) => {
                    if let Some(given_up) = self.died(Duration::ZERO, &format!("{error:#}")) {
                        return given_up;
                    }
                }
            }
        }
    }

    /// Plans the next start after a death, or gives the server up.
    fn died(&mut self, ran: Duration, how: &str) -> Option<Change> {
        let Some(pause) = self.deaths.count(ran) else {
            let log = self.settings.log();
            return Some(Change::GivenUp(format!(
                "the NATS server ended again ({how}) and is given up after {STARTS_MAX} starts in a row, so the host \
                 stops too. The end of its log, {}: {}. Mend what it complains about, then start again with `host up`",
                log.display(),
                nats_server::last_lines(&log, LINES_TOLD)
            )));
        };
        error!(
            how,
            pause_ms = pause.as_millis(),
            "the NATS server ended; it is started again, and the host stays and connects to it again"
        );
        self.start_at = Instant::now() + pause;
        None
    }

    async fn start(&mut self) -> Result<Process> {
        let binary = self.binary()?;
        let server = NatsServer::start(&binary, &self.settings).await?;
        let process = server.process().clone();
        self.since = Instant::now();
        self.running = Some(server);
        Ok(process)
    }

    fn binary(&self) -> Result<PathBuf> {
        nats_server::find(&ProcessEnvironment, &self.dirs)
            .context("the nats-server program is not there any more")
    }

    /// Stops the server, if it runs.
    pub async fn stop(self) {
        if let Some(server) = self.running {
            server.stop().await;
        }
    }
}

/// Counts the deaths that came soon after a start.
#[derive(Debug, Default)]
struct Deaths {
    in_a_row: u32,
}

impl Deaths {
    /// Counts a death after the server `ran` for so long. Returns the pause before the next start;
    /// `None` when there should be none.
    fn count(&mut self, ran: Duration) -> Option<Duration> {
        if ran >= STABLE_AFTER {
            self.in_a_row = 0;
        }
        self.in_a_row += 1;
        (self.in_a_row <= STARTS_MAX)
            .then(|| backoff::after(self.in_a_row, PAUSE_FIRST, PAUSE_LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_server_that_keeps_dying_is_given_up() {
        let mut deaths = Deaths::default();
        let mut pauses = || deaths.count(Duration::from_secs(1)).map(|pause| pause.as_millis());
        let first: Vec<_> = (0..STARTS_MAX).map_while(|_| pauses()).collect();
        assert_eq!(first, [100, 200, 400, 800, 1600, 3200]);
        assert_eq!(pauses(), None);
    }

    #[test]
    fn deaths_from_before_a_long_run_do_not_count() {
        let mut deaths = Deaths::default();
        for _ in 0..STARTS_MAX {
            assert!(deaths.count(Duration::ZERO).is_some());
        }
        assert_eq!(deaths.count(STABLE_AFTER), Some(PAUSE_FIRST));
        assert_eq!(deaths.count(Duration::ZERO), Some(PAUSE_FIRST * 2));
    }
}
