//! A host from its start to its stop, with what its service manager is told and what signals ask of
//! it meanwhile.
//!
//! ```text
//! starts ─▶ ready ─▶ (reloads ...) ─▶ drains, if asked ─▶ stops
//! ```
//!
//! A drain is `host drain` from inside: the host takes nothing new, what runs here is started on
//! others first, and then the host stops as it always does.

use std::{convert::Infallible, time::Duration};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};

use super::{daemon::print_link, reload::Reloader};
use crate::up::Session;
use lattice_base::{
    config::{Config, Sources},
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
use lattice_engine::{control::state::VERSION, host::Host};
use lattice_protocol::{control::types::Pairs, history::Origin};

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

/// Runs a host until it was stopped, and tells a collector of it if there is one.
pub(super) async fn serve(
    config: Config,
    around: Around<'_>,
    session: Option<&mut Session>,
) -> anyhow::Result<()> {
    otel::start(otel::About {
        host_id: &config.host_key.public,
        lattice: &config.lattice,
        version: VERSION,
    });
    let outcome = serve_to_the_end(config, around, session).await;
    otel::finish().await;
    outcome
}

async fn serve_to_the_end(
    config: Config,
    mut around: Around<'_>,
    mut session: Option<&mut Session>,
) -> anyhow::Result<()> {
    let (dirs, manager, stop) = (around.dirs, around.manager.clone(), around.stop.clone());
    let started = tokio::select! {
        started = Host::start(config.clone(), dirs, &lattice_dashboard::Opener, &stop) => started,
        // It would wait for a server that does not come back.
        why = keep_server(&mut session) => anyhow::bail!(why),
        () = overdue(&stop, config.shutdown_timeout) => return Ok(()),
        never = wishes_before_ready(&mut around.wishes, &stop) => match never {},
    };
    let host = match started {
        // Told to stop before it was there: that is an end in good order.
        Err(_) if stop.is_cancelled() => return Ok(()),
        started => started?,
    };
    let reloader = Reloader::new(around.sources, &config);
    info!("ready");
    manager.tell(&Message::Ready(&status(&host)));
    if let Some(session) = session.as_mut() {
        let ready = tokio::select! {
            ready = session.ready(&host, &config) => ready.map(Some),
            () = stop.cancelled() => Ok(None),
        };
        match ready {
            Ok(Some(summary)) => {
                telemetry::say(&summary.to_string());
                print_link(dirs, host.state().facts().id.as_str());
            }
            Ok(None) => {}
            Err(error) => {
                manager.tell(&Message::Stopping);
                host.stop(None).await;
                return Err(error);
            }
        }
    }
    live_and_stop(host, reloader, around, session).await
}

/// Does what is asked of a host that is ready, until it is to stop, and stops it.
async fn live_and_stop(
    mut host: Host,
    mut reloader: Reloader<'_>,
    around: Around<'_>,
    mut session: Option<&mut Session>,
) -> anyhow::Result<()> {
    let Around { manager, stop, mut wishes, .. } = around;
    let failed = host.failed();
    let drained = CancellationToken::new();
    let mut draining = None;
    let end = loop {
        let wish = tokio::select! {
            () = stop.cancelled() => break End::Asked(None),
            request = host.stop_requested() => break End::Asked(request.timeout),
            () = failed.cancelled() => break End::Failed("the host failed, see above".into()),
            why = keep_server(&mut session) => break End::Failed(why),
            () = drained.cancelled() => break End::Asked(None),
            wish = next(&mut wishes) => wish,
        };
        match wish {
            // The second one asks for what goes on already.
            Wish::Drain if draining.is_some() => {}
            Wish::Drain => {
                let emptied = empty(lattice_of(&host), host_id(&host), manager.clone());
                let drained = drained.clone();
                let task = async move {
                    emptied.await;
                    drained.cancel();
                };
                draining = Some(AbortOnDropHandle::new(tokio::spawn(task)));
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
    otel::report();
    manager.tell(&Message::Stopping);
    match end {
        End::Asked(timeout) => {
            host.stop(timeout).await;
            Ok(())
        }
        End::Failed(why) => {
            host.stop(None).await;
            anyhow::bail!(why)
        }
    }
}

/// Stops a host that is to drain before it is ready: it runs nothing yet. Settings are read when it
/// is. Never ends.
async fn wishes_before_ready(
    wishes: &mut mpsc::Receiver<Wish>,
    stop: &CancellationToken,
) -> Infallible {
    loop {
        match next(wishes).await {
            Wish::Drain => stop.cancel(),
            Wish::Reload => {}
        }
    }
}

/// Waits for the next wish; for ever if no signal can be heard.
async fn next(wishes: &mut mpsc::Receiver<Wish>) -> Wish {
    match wishes.recv().await {
        Some(wish) => wish,
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
    let told = |word: &'static str, about: String| {
        manager.tell(&Message::Status(&format!("drains: {word} {about}")));
    };
    match drain::drain(&lattice, &host, &Pairs::new(), DRAIN_WAIT, told).await {
        Ok(drained) => tell_drained(&drained),
        Err(error) => error!("the drain ended early, and this host stops: {error:#}"),
    }
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
}

/// Keeps the server that was started for this host running, and returns why when that is given up;
/// waits for ever if there is none.
async fn keep_server(session: &mut Option<&mut Session>) -> String {
    match session {
        Some(session) => session.keep_server().await,
        None => std::future::pending().await,
    }
}
