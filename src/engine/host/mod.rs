//! The composition root: builds the parts of a host in order, holds their handles, and takes them
//! apart in order.
//!
//! Start: connections → metadata, loaded → router and actors → control interface, subscribed →
//! `host_started`. Ready means that every link and claim is known and every subscription is
//! confirmed by the server.
//!
//! Stop, under one deadline: the others are told that it stops → no more commands of its own → no
//! more commands and auctions → providers that bring work in from outside end, while actors still
//! answer → actors leave their queue groups and finish their calls → the other providers end →
//! goodbye to the other hosts → `host_stopped` → both connections flushed. Written once, in
//! [`Host::stop`].

mod build;
mod config_service;
pub mod face;
mod metadata;
mod names;
mod reload;
mod run;

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use async_nats::connection::State;
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::{info, warn};

use crate::{
    actors::supervisor as actors,
    attention,
    control::{server::StopRequest, state::HostState},
    events::Publisher,
    history,
    host::face::{Commander, Face, Place},
    host_context::HostContext,
    journal::followers::Followers,
    kept::KeptStarts,
    links::Live,
    meter::Meter,
    peers::Peers,
    providers::{bounds::OwnSockets, supervisor as providers},
    router::{LinkStatus, Locals, Router},
};
use lattice_base::{
    budget::Budget,
    config::Config,
    dirs::Dirs,
    lattice::{
        answers::Answers,
        connection::{self, Nats},
    },
    presence::Presence,
    registry::{
        self, Registry,
        credentials::{Logins, Registries},
    },
    store::Store,
};
use lattice_protocol::{events::Event, links::LinkDefinition};

/// How long the last events may take to reach the server, and without a connection.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
const FLUSH_OFFLINE: Duration = Duration::from_millis(200);
/// The part of the time to stop that the last answers to clients may take.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(2);
/// The part of the time to stop that providers get at least, after the actors.
const PROVIDERS_TIMEOUT: Duration = Duration::from_millis(1500);

/// A host that is ready.
pub struct Host {
    /// First: it is dropped before the others.
    cut: Cut,
    context: Arc<HostContext>,
    shutdown_timeout: Duration,
    router: Router,
    actors: actors::Handle,
    providers: providers::Handle,
    kept: KeptStarts,
    registry: Registry,
    /// Ends what goes on after the control interface was closed.
    stop: CancellationToken,
    control_tasks: TaskTracker,
    stop_requests: watch::Receiver<Option<StopRequest>>,
    /// Makes this host say goodbye to the others.
    leave: CancellationToken,
    peer_service: JoinHandle<()>,
    sockets: OwnSockets,
    followers: Followers,
    dashboard: Option<Place>,
    /// Keeps applications.
    manager: Option<Arc<dyn Commander>>,
    _presence: Option<Presence>,
}

/// Cancels tokens, in their order, when it is dropped.
type Ends = [DropGuard; 3];

/// Takes apart what would keep itself alive: the router has the actors and these have the router,
/// the dashboard is known to the host whose parts it has, and tasks go on until they are told to
/// end. A host that is dropped without a stop leaves the lattice and gives back its memory by that.
struct Cut {
    /// Those of [`ends`], cancelled in their order.
    ends: [CancellationToken; 3],
    router: Router,
    attention: attention::Slot,
}

impl Drop for Cut {
    fn drop(&mut self) {
        // First, so that what ends with the parts finds the host closing.
        for end in &self.ends {
            end.cancel();
        }
        self.router.set_actors(Locals::default());
        self.router.set_providers(HashMap::default());
        self.attention.empty();
    }
}

/// Returns what ends the tasks of a host that is dropped, or of a start that fails or is given up.
/// `closing` is the first: then it is no failure that essential tasks end.
fn ends(closing: &CancellationToken, leave: &CancellationToken, stop: &CancellationToken) -> Ends {
    [closing, leave, stop].map(|token| token.clone().drop_guard())
}

impl Host {
    /// Builds and starts a host; returns when it is ready. `give_up` ends the start with an error
    /// as long as nobody can reach the host; later it comes up first, so that it can stop in order.
    pub async fn start(
        config: Config,
        dirs: &Dirs,
        face: &dyn Face,
        give_up: &CancellationToken,
    ) -> Result<Self> {
        let built = tokio::select! {
            biased;
            () = give_up.cancelled() => bail!("told to stop before it had started"),
            built = Self::build(&config, dirs, give_up) => built?,
        };
        Self::run(built, face).await
    }

    /// This host as clients see it.
    pub fn state(&self) -> &HostState {
        &self.context.state
    }

    /// Returns the table of the other hosts.
    pub fn peers(&self) -> &Peers {
        &self.context.peers
    }

    /// Makes calls as this host does.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Starts actors, and tells which run.
    pub fn actors(&self) -> &actors::Handle {
        &self.actors
    }

    /// Starts providers, and tells which run.
    pub fn providers(&self) -> &providers::Handle {
        &self.providers
    }

    /// Remembers what is started by hand.
    pub fn kept(&self) -> &KeptStarts {
        &self.kept
    }

    /// Where link definitions are written; [`Host::links`] is to be told of what was.
    pub fn store(&self) -> &Store {
        &self.context.store
    }

    /// The links and claims of the lattice as they are now.
    pub fn links(&self) -> &Live {
        &self.context.links
    }

    /// Returns the events of this host.
    pub fn events(&self) -> &Publisher {
        &self.context.events
    }

    /// Returns the state of a link at its provider, if that is built in and runs here.
    pub fn link_status(&self, link: &LinkDefinition) -> Option<LinkStatus> {
        self.router.link_status(link)
    }

    /// The calls this host served and made, counted.
    pub fn meter(&self) -> &Meter {
        self.router.meter()
    }

    /// The sockets that no actor reaches through a built-in provider.
    pub fn own_sockets(&self) -> &OwnSockets {
        &self.sockets
    }

    /// The answers of this host to questions over NATS.
    pub fn answers(&self) -> &Answers {
        &self.context.answers
    }

    /// Those who follow what actors and providers of this host say.
    pub fn followers(&self) -> &Followers {
        &self.followers
    }

    /// Where the dashboard is, if there is one.
    pub fn dashboard(&self) -> Option<&Place> {
        self.dashboard.as_ref()
    }

    /// Is cancelled when this host cannot go on.
    pub fn failed(&self) -> CancellationToken {
        self.context.lifeline.failed.clone()
    }

    /// Waits until somebody asks for a stop over the control interface. Cancel safe.
    pub async fn stop_requested(&mut self) -> StopRequest {
        match self.stop_requests.wait_for(Option::is_some).await {
            Ok(request) => request.unwrap_or(StopRequest { timeout: None }),
            Err(_) => StopRequest { timeout: None },
        }
    }

    /// Tells everybody what this host is and runs, before the next time that this is due.
    fn tell_heartbeat(&self) {
        let (actors, providers) = (self.actors.running(), self.providers.running());
        let heartbeat = self.context.state.heartbeat(&actors, &providers);
        self.context.events.publish(Event::HostHeartbeat(heartbeat));
    }

    /// Stops in order, within `timeout` or the configured time.
    pub async fn stop(mut self, timeout: Option<Duration>) {
        let deadline = Instant::now() + timeout.unwrap_or(self.shutdown_timeout);
        let state = &self.context.state;
        state.begin_stop();
        self.tell_heartbeat();
        if let Some(manager) = self.manager.take() {
            manager.stop().await;
        }
        self.context.lifeline.closing.cancel();
        self.control_tasks.close();
        let answered = tokio::time::timeout_at(
            deadline.min(Instant::now() + ANSWERS_TIMEOUT),
            self.control_tasks.wait(),
        );
        if answered.await.is_err() {
            warn!("some control requests were not answered");
        }
        self.stop_work(deadline).await;
        // Nothing takes calls here any more, and the others need not find that out.
        self.leave.cancel();
        let _ = tokio::time::timeout(self.last_words_within(), &mut self.peer_service).await;
        // So that the last event finds room in the queue.
        let _ = tokio::time::timeout(self.last_words_within(), self.context.events.flush()).await;
        self.context.events.publish(Event::HostStopped { labels: self.context.state.labels() });
        // The last words get a little time even when the calls used all of it.
        if tokio::time::timeout(self.last_words_within(), self.confirm_last_words()).await.is_err()
        {
            warn!("the NATS server did not confirm the last events: they are lost");
        }
        let tasks_within = self.last_words_within();
        let Self { context, stop, router, actors, providers, kept, cut, .. } = self;
        let (state, tasks) = (context.state.clone(), context.tasks.clone());
        stop.cancel();
        // The task that publishes events ends with the last of those who could publish one.
        drop((context, router, actors, providers, kept, cut));
        tasks.close();
        if tokio::time::timeout(tasks_within, tasks.wait()).await.is_err() {
            warn!("some tasks of this host did not end");
        }
        info!("Host {} stopped.", state.facts().id);
    }

    /// How long what is said last may take: where no server is there, it gets nowhere.
    fn last_words_within(&self) -> Duration {
        let HostContext { ctl, rpc, .. } = &*self.context;
        let is_up = |nats: &Nats| nats.client.connection_state() == State::Connected;
        if is_up(ctl) && is_up(rpc) { FLUSH_TIMEOUT } else { FLUSH_OFFLINE }
    }

    /// Stops actors and providers. Providers that bring work in end while actors still answer;
    /// those that actors call end after them.
    async fn stop_work(&self, deadline: Instant) {
        self.providers.stop_all(providers::Which::Ingress, deadline).await;
        self.actors.stop_all(deadline).await;
        // They get a little time even when the calls used all of it.
        let last = deadline.max(Instant::now() + PROVIDERS_TIMEOUT);
        self.providers.stop_all(providers::Which::All, last).await;
        // By now the followers of logs have the last lines of all of them.
        self.followers.close().await;
    }

    async fn confirm_last_words(&self) {
        let HostContext { events, history, .. } = &*self.context;
        let keep = async {
            // Where the stream is away there is no hurry to find that out again.
            if history.status() == history::Status::Kept {
                history.flush().await;
            }
        };
        tokio::join!(events.flush(), keep);
        for nats in [&self.context.rpc, &self.context.ctl] {
            if let Err(error) = connection::confirm(&nats.client).await {
                warn!(%error, "last messages not confirmed");
            }
        }
    }
}

/// Returns the settings for fetching; clients may add credentials to `registries`.
pub fn registry_settings(
    config: &Config,
    dirs: &Dirs,
    registries: Registries,
) -> registry::Settings {
    registry::Settings {
        allow_files: config.allow_file_load,
        allow_latest: config.allow_latest,
        allowed_insecure: config.allowed_insecure.clone(),
        ca: config.oci_ca.clone(),
        pull_timeout: config.pull_timeout,
        cache_dir: dirs.images(),
        cache_bytes_max: config.oci_cache_bytes_max,
        budget: Budget::default(),
        logins: Logins {
            given: None,
            lattice: registries,
            settings: config.oci.clone(),
            docker: dirs.docker_config.clone(),
        },
        token_hosts: config.oci_token_hosts.clone(),
    }
}
