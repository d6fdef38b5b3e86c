//! A host from its start to its stop, with what its service manager is told and what signals ask of
//! it meanwhile.
//!
//! ```text
//! starts ─▶ ready ─▶ (reloads ...) ─▶ drains, if asked ─▶ stops
//! ```
//!
//! A drain is `host drain` from inside: the host takes nothing new, what runs here is started on
//! others first, and then the host stops as it always does. What is asked of a host before it is
//! ready is done when it is. A drain does not wait for that for long: it is a stop, and where no
//! server is there to be ready with, nothing runs that could be drained.

use std::{convert::Infallible, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};

use super::{daemon::print_link, reload::Reloader};
use crate::up::Session;
use lattice_base::{
    config::{Config, Loaded, Sources},
    dirs::Dirs,
    service_manager::{Message, ServiceManager},
    shutdown::Wish,
    telemetry::{self, otel},
};
use lattice_client::{
    TIMEOUT,
    drain::{self, DRAIN_WAIT, Drained, Fate},
    lattice::Lattice,
};
use lattice_engine::host::Host;
use lattice_protocol::{control::types::Pairs, history::Origin};

/// How long a host that is to drain may take to be ready. It comes before the time of the drain.
pub(crate) const READY_WAIT: Duration = Duration::from_secs(10);
/// The part of the time of a drain that is left for what it has begun, and to tell its end.
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// The surroundings of a host.
pub(super) struct Around<'a> {
    pub sources: &'a Sources,
    pub dirs: &'a Dirs,
    pub manager: ServiceManager,
    /// Cancelled by the signals that stop a host.
    pub stop: CancellationToken,
    /// The wishes of other signals.
    pub wishes: mpsc::Receiver<Wish>,
}

/// The reason for which a host stops.
enum End {
    /// Somebody asked for it, and for how long calls in work may take.
    Asked(Option<Duration>),
    Failed(String),
}

/// The wishes that came before a host was ready.
#[derive(Debug, Default)]
struct Early {
    reload: bool,
    /// When it was to drain.
    drain: Option<Instant>,
}

impl Early {
    /// Notes a wish, and says what becomes of it.
    fn note(&mut self, wish: Wish) {
        match wish {
            Wish::Reload => {
                info!("this host is not ready; it reads the settings again when it is");
                self.reload = true;
            }
            Wish::Drain if self.drain.is_none() => {
                let seconds = READY_WAIT.as_secs();
                info!(
                    seconds,
                    "this host is not ready; it drains when it is, or stops after that time"
                );
                self.drain = Some(Instant::now());
            }
            // The second one asks for what will be done already.
            Wish::Drain => {}
        }
    }

    /// Returns the next of what is to be done now that the host is ready.
    fn take(&mut self) -> Option<Wish> {
        if std::mem::take(&mut self.reload) {
            return Some(Wish::Reload);
        }
        self.drain.take().map(|_| Wish::Drain)
    }
}

/// Runs a host until it was stopped, and tells a collector of it if there is one.
pub(super) async fn serve(
    settings: Loaded,
    around: Around<'_>,
    session: Option<&mut Session>,
) -> anyhow::Result<()> {
    let Config { host_key, lattice, .. } = &settings.config;
    otel::start(otel::About { host_id: &host_key.public, lattice });
    let outcome = serve_to_the_end(settings, around, session).await;
    otel::finish().await;
    outcome
}

async fn serve_to_the_end(
    settings: Loaded,
    mut around: Around<'_>,
    mut session: Option<&mut Session>,
) -> anyhow::Result<()> {
    let config = &settings.config;
    let (dirs, manager, stop) = (around.dirs, around.manager.clone(), around.stop.clone());
    let mut early = Early::default();
    let noting = wishes_before_ready(&mut around.wishes, &mut early, READY_WAIT, &stop);
    let started = tokio::select! {
        started = Host::start(config.clone(), dirs, &lattice_dashboard::Opener, &stop) => started,
        // It would wait for a server that does not come back.
        why = keep_server(&mut session) => anyhow::bail!(why),
        () = overdue(&stop, config.shutdown_timeout) => return Ok(()),
        never = noting => match never {},
    };
    let host = match started {
        // Told to stop before it was there: that is an end in good order.
        Err(_) if stop.is_cancelled() => return Ok(()),
        started => started?,
    };
    let reloader = Reloader::new(around.sources, &settings);
    info!("ready");
    manager.tell(&Message::Ready(&status(&host)));
    if let Some(session) = session.as_mut() {
        let ready = tokio::select! {
            ready = session.ready(&host, config) => ready.map(Some),
            () = stop.cancelled() => Ok(None),
        };
        match ready {
            Ok(Some(summary)) => {
                telemetry::say(&summary.to_string());
                print_link(dirs, host.state().facts().id.as_str());
            }
            Ok(None) => {}
            Err(error) => {
                stop_host(host, &manager, None).await;
                return Err(error);
            }
        }
    }
    live_and_stop(host, reloader, around, early, session).await
}

/// Does what is asked of a host that is ready, until it is to stop, and stops it.
async fn live_and_stop(
    mut host: Host,
    mut reloader: Reloader<'_>,
    around: Around<'_>,
    mut early: Early,
    mut session: Option<&mut Session>,
) -> anyhow::Result<()> {
    let Around { manager, stop, mut wishes, .. } = around;
    let failed = host.failed();
    let mut draining: Option<AbortOnDropHandle<()>> = None;
    let end = loop {
        let wish = tokio::select! {
            () = stop.cancelled() => break End::Asked(None),
            request = host.stop_requested() => break End::Asked(request.timeout),
            () = failed.cancelled() => break End::Failed("the host failed, see above".into()),
            why = keep_server(&mut session) => break End::Failed(why),
            () = drained(&mut draining) => break End::Asked(None),
            wish = next(&mut early, &mut wishes) => wish,
        };
        match wish {
            // The second one asks for what goes on already.
            Wish::Drain if draining.is_some() => {}
            Wish::Drain => {
                let drain = empty(lattice_of(&host), host_id(&host), manager.clone());
                draining = Some(AbortOnDropHandle::new(tokio::spawn(drain)));
            }
            Wish::Reload => {
                manager.tell(&Message::Reloading);
                tokio::select! {
                    () = reloader.reload(&host) => {}
                    () = stop.cancelled() => {}
                }
                manager.tell(&Message::Ready(&status(&host)));
            }
        }
    };
    drop(draining);
    match end {
        End::Asked(timeout) => {
            stop_host(host, &manager, timeout).await;
            Ok(())
        }
        End::Failed(why) => {
            stop_host(host, &manager, None).await;
            anyhow::bail!(why)
        }
    }
}

/// Stops a host that was ready, after what is told of it for the last time.
async fn stop_host(host: Host, manager: &ServiceManager, timeout: Option<Duration>) {
    otel::report();
    manager.tell(&Message::Stopping);
    host.stop(timeout).await;
}

/// Notes what is asked of a host that is not ready yet. One that is to drain and does not get ready
/// in time is stopped: it runs nothing. Never ends.
async fn wishes_before_ready(
    wishes: &mut mpsc::Receiver<Wish>,
    early: &mut Early,
    patience: Duration,
    stop: &CancellationToken,
) -> Infallible {
    loop {
        let over = early.drain.filter(|_| !stop.is_cancelled()).map(|since| since + patience);
        tokio::select! {
            wish = received(wishes) => early.note(wish),
            () = until(over) => {
                warn!("this host is to drain and was not ready in time; it runs nothing and stops");
                stop.cancel();
            }
        }
    }
}

/// Waits until this time; for ever if there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Waits for the next wish of a host that is ready: first those from before. Cancel safe.
async fn next(early: &mut Early, wishes: &mut mpsc::Receiver<Wish>) -> Wish {
    match early.take() {
        Some(wish) => wish,
        None => received(wishes).await,
    }
}

/// Waits for the next signal with a wish; for ever if none can be heard. Cancel safe.
async fn received(wishes: &mut mpsc::Receiver<Wish>) -> Wish {
    match wishes.recv().await {
        Some(wish) => wish,
        None => std::future::pending().await,
    }
}

/// Waits until the drain that goes on has ended, well or not; for ever if there is none. Cancel
/// safe.
async fn drained(draining: &mut Option<AbortOnDropHandle<()>>) {
    match draining {
        // The host takes nothing new by then, so it stops after a panic, too.
        Some(drain) => match drain.await {
            Ok(()) => {}
            Err(error) => error!("the drain ended early, and this host stops: {error}"),
        },
        None => std::future::pending().await,
    }
}

/// Returns what a service manager shows of a host that is ready.
fn status(host: &Host) -> String {
    let facts = host.state().facts();
    let mut text = format!("host {} in lattice {}", facts.friendly_name, facts.lattice);
    if let Some(place) = host.dashboard() {
        text.push_str(&format!(", dashboard {}", place.url()));
    }
    text
}

fn host_id(host: &Host) -> String {
    host.state().facts().id.to_string()
}

/// Returns the lattice as a client sees it, over the connection of the host.
fn lattice_of(host: &Host) -> Lattice {
    let origin = Origin {
        kind: "cli".to_owned(),
        who: "SIGUSR2 to the process of the host".to_owned(),
        ..Origin::default()
    };
    let domain = host.state().facts().js_domain.clone();
    Lattice::new(host.ctl().client.clone(), host.subjects().clone(), TIMEOUT, domain)
        .with_origin(origin)
}

/// Lets a host take nothing new, and starts elsewhere what runs there, as far as that goes.
async fn empty(lattice: Lattice, host: String, manager: ServiceManager) {
    info!("draining: this host takes nothing new, and stops when what runs here runs elsewhere");
    manager.tell(&Message::Status("drains"));
    let told = |word: &'static str, about: String| tell_step(&manager, word, &about);
    let (labels, wait) = (Pairs::new(), DRAIN_WAIT.saturating_sub(DRAIN_MARGIN));
    within(DRAIN_WAIT, drain::drain(&lattice, &host, &labels, wait, told)).await;
}

/// Waits for the end of a drain and logs it, for so long: a service manager would kill a host that
/// takes longer.
async fn within(limit: Duration, drain: impl Future<Output = anyhow::Result<Drained>>) {
    match timeout(limit, drain).await {
        Ok(Ok(drained)) => tell_drained(&drained),
        Ok(Err(error)) => error!("the drain ended early, and this host stops: {error:#}"),
        Err(_) => warn!("the time for the drain is over; what still runs here ends with this host"),
    }
}

/// Tells the manager of a step of a drain.
fn tell_step(manager: &ServiceManager, word: &str, about: &str) {
    manager.tell(&Message::Status(&format!("drains: {word} {about}")));
}

/// Logs how a drain ended.
fn tell_drained(drained: &Drained) {
    for (item, fate) in &drained.fates {
        match fate {
            Fate::Moved { host_name, .. } => {
                info!(name = item.called(), host = host_name, "runs elsewhere now")
            }
            Fate::Replaced => info!(name = item.called(), "its application runs it elsewhere now"),
            Fate::Left { why } => {
                warn!(name = item.called(), why, "goes nowhere else, and ends with this host")
            }
        }
    }
    let (left, all) = (drained.left(), drained.fates.len());
    info!(moved = all - left, left, "drained, stopping");
}

/// Waits until the host was told to stop, and then for as long as its stop may take.
async fn overdue(stop: &CancellationToken, shutdown_timeout: Duration) {
    stop.cancelled().await;
    tokio::time::sleep(shutdown_timeout).await;
    warn!(
        ?shutdown_timeout,
        "this host was told to stop and did not get ready for that in time, so it ends in the middle of its start; \
         raise shutdown_timeout_ms if it needs longer"
    );
}

/// Keeps the server that was started for this host running, and returns why when that is given up;
/// waits for ever if there is none.
async fn keep_server(session: &mut Option<&mut Session>) -> String {
    match session {
        Some(session) => session.keep_server().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_asked_before_a_host_is_ready_is_done_when_it_is() {
        for (asked, expected) in [
            (&[][..], &[][..]),
            (&[Wish::Reload], &[Wish::Reload]),
            // Settings come first, and each is done once.
            (&[Wish::Drain, Wish::Reload, Wish::Drain, Wish::Reload], &[Wish::Reload, Wish::Drain]),
        ] {
            let (sender, mut wishes) = mpsc::channel(8);
            let (mut early, stop) = (Early::default(), CancellationToken::new());
            asked.iter().for_each(|wish| sender.try_send(*wish).unwrap());
            let hour = Duration::from_secs(3600);
            let noting = wishes_before_ready(&mut wishes, &mut early, hour, &stop);
            let ended = tokio::time::timeout(Duration::from_millis(20), noting).await;
            assert!(ended.is_err() && !stop.is_cancelled() && wishes.is_empty());
            for wish in expected {
                assert_eq!(next(&mut early, &mut wishes).await, *wish, "{asked:?}");
            }
            assert_eq!(early.take(), None);
            sender.try_send(Wish::Reload).unwrap();
            assert_eq!(next(&mut early, &mut wishes).await, Wish::Reload);
        }
    }

    #[tokio::test]
    async fn a_host_that_is_to_drain_and_does_not_get_ready_is_stopped() {
        let (sender, mut wishes) = mpsc::channel(8);
        let (mut early, stop) = (Early::default(), CancellationToken::new());
        sender.try_send(Wish::Drain).unwrap();
        let patience = Duration::from_millis(1);
        tokio::select! {
            () = stop.cancelled() => {}
            never = wishes_before_ready(&mut wishes, &mut early, patience, &stop) => match never {},
        }
    }

    #[tokio::test]
    async fn a_drain_that_does_not_end_is_over_in_time() {
        within(Duration::from_millis(1), std::future::pending()).await;
    }

    async fn broken() {
        panic!("a drain that breaks");
    }

    #[tokio::test]
    async fn a_drain_that_breaks_is_over_and_one_that_nobody_asked_for_never_is() {
        drained(&mut Some(AbortOnDropHandle::new(tokio::spawn(broken())))).await;
        drained(&mut Some(AbortOnDropHandle::new(tokio::spawn(async {})))).await;
        let never = tokio::time::timeout(Duration::from_millis(20), drained(&mut None)).await;
        assert!(never.is_err());
    }
}
