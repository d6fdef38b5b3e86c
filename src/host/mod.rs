//! The composition root: builds the parts of a host in order, holds their handles, and takes them apart in order.
//!
//! Start: connections → metadata, loaded → router and actors → control interface, subscribed → `host_started`. Ready
//! means that every link and claim is known and every subscription is confirmed by the server.
//!
//! Stop, under one deadline: no more commands and auctions → providers that bring work in from outside end, while actors
//! still answer → actors leave their queue groups and finish their calls → the other providers end → goodbye to the other
//! hosts → `host_stopped` → both connections flushed. Written once, in [`Host::stop`].

mod config_service;
mod metadata;
mod names;
pub mod presence;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, error, info, info_span, warn};

#[cfg(unix)]
use crate::local;
use crate::{
    actors::{
        actor::{Shared, Slots},
        engine::{self, Engine},
        supervisor as actors,
    },
    budget::Budget,
    client::{self, lattice::Lattice},
    config::{Config, Environment as _, ProcessEnvironment},
    control::{
        named_config::NamedConfig,
        probe::health::{self, Consulted, Vitals},
        server::{self, Server, StopRequest},
        state::{Facts, HostState, VERSION},
    },
    delivery::{Delivery, LinkSender},
    dirs::Dirs,
    events::{Event, Publisher},
    http::{self, Dashboard, Place},
    identity::keys::{ClusterKey, HostId, LatticeName},
    issuers::Issuers,
    journal::{Journal, followers::Followers},
    lattice::{
        answers::Answers,
        connection::{self, Nats, Purpose},
        reserved::Reserved,
        subject::{Control, Subjects},
    },
    links::Live,
    meter::Meter,
    peers::{self, Peers},
    policy::{HostInfo, Policy},
    providers::{
        bounds::{Bounds, LinkPaths, OwnSockets},
        external::Launcher,
        supervisor as providers,
    },
    registry::{
        self, Registry,
        credentials::{Logins, Registries},
    },
    router::{Router, remote::Remote},
    rpc::{
        antiforgery::{Signer, Verifier},
        chunking::{self, Chunks},
        client::Client,
        server::{self as receiver, Receiver},
    },
    shutdown::essential,
    store::{
        Store,
        artifacts::Artifacts,
        jetstream::{self, making::Making},
        legacy,
    },
    telemetry,
    vigil::Vigil,
};
use presence::Presence;

/// Heartbeats tell clients that a host is alive; a deployment manager drops hosts after four missed ones.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How long the last events may take to reach the server.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// The part of the time to stop that the last answers to clients may take.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(2);
/// The part of the time to stop that providers get at least, after the actors.
const PROVIDERS_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long to wait for the answer of a host with the same key.
const TWIN_TIMEOUT: Duration = Duration::from_millis(500);

/// A host that is ready.
pub struct Host {
    state: HostState,
    config: Config,
    actors: actors::Handle,
    providers: providers::Handle,
    store: Store,
    links: Live,
    events: Publisher,
    ctl: Nats,
    rpc: Nats,
    /// Ends the control interface.
    closing: CancellationToken,
    /// Told when a task ended that this host cannot do without.
    failed: CancellationToken,
    /// Ends everything else.
    stop: CancellationToken,
    tasks: TaskTracker,
    control_tasks: TaskTracker,
    stop_requests: watch::Receiver<Option<StopRequest>>,
    peers: Peers,
    /// Makes this host say goodbye to the others.
    leave: CancellationToken,
    peer_service: JoinHandle<()>,
    meter: Meter,
    answers: Answers,
    sockets: OwnSockets,
    followers: Followers,
    dashboard: Option<Place>,
    _presence: Option<Presence>,
}

impl Host {
    /// Builds and starts a host; returns when it is ready. `give_up` ends the wait for a server that does not come.
    pub async fn start(config: Config, dirs: &Dirs, give_up: &CancellationToken) -> Result<Self> {
        let (stop, closing, failed) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let host_id = HostId::parse(&config.host_key.public).context("read the host key")?;
        let lattice = LatticeName::parse(&config.lattice).context("read the lattice name")?;
        let subjects = Subjects::new(lattice.clone(), &config.ctl_topic_prefix);
        let friendly_name = names::friendly();
        let client_name = format!("host {host_id}");
        let ctl = connection::connect(Purpose::Control, &config.ctl, &client_name, give_up).await?;
        let rpc = connection::connect(Purpose::Rpc, &config.rpc, &client_name, give_up).await?;
        info!("Host {host_id} ({friendly_name}) started.");
        greet(&config);

        let tasks = TaskTracker::new();
        let domain = config.js_domain.clone();
        let place = metadata::Place {
            nats: ctl.clone(),
            domain: domain.clone(),
            lattice: lattice.to_string(),
            making: Making::of_metadata(config.kv_replicas, config.kv_max_bytes),
        };
        let store = place.open(&tasks, &stop).await;
        let (links, notices) = Live::start(store.clone(), &tasks, stop.clone()).await;
        if store.is_shared() && *links.knowledge().borrow() {
            info!("Created ephemeral consumer for lattice cache loader");
        }

        let state = HostState::new(facts(&config, &host_id, friendly_name.clone()), config.labels.clone());
        let reserved = reserved_subjects(&config);
        let answers = Answers::new(reserved.clone(), config.inbox_prefixes.clone());
        let bounds = Bounds {
            subjects: reserved,
            sockets: OwnSockets::default(),
            paths: LinkPaths::new(config.link_paths.clone()),
        };
        let sockets = bounds.sockets.clone();
        let servers: Vec<String> =
            [&config.ctl, &config.rpc, &config.prov_rpc].iter().flat_map(|one| one.servers.clone()).collect();
        // Before any provider runs.
        sockets.look(&servers, &[ctl.clone(), rpc.clone()]).await;
        tasks.spawn(sockets.clone().follow(servers, [ctl.clone(), rpc.clone()], stop.clone()));
        let events = Publisher::start(ctl.client.clone(), subjects.clone(), host_id.clone(), &tasks);
        let policy = policy(&config, (&ctl, &answers), &state, &tasks, &stop).await?;
        let sender = LinkSender { rpc: rpc.client.clone(), subjects: subjects.clone() };
        let delivery = Delivery::new(sender, links.clone(), events.clone());
        tasks.spawn(essential("link delivery", delivery.run(notices), closing.clone(), failed.clone()));

        let budget = config.actors.payload_memory_max_bytes.map_or_else(Budget::default, Budget::new);
        let chunks = Chunks::new(
            &rpc.client,
            domain.as_deref(),
            lattice.as_str(),
            chunking::Settings {
                budget: budget.clone(),
                actor_bytes_max: config.actors.memory_max_bytes as u64,
                bound: config.payload_store_max_bytes,
            },
        );
        let signer = Signer::new(config.cluster.seed.expose()).map_err(|e| anyhow!("read the cluster seed: {e}"))?;
        let issuers = config.cluster.issuers.iter().map(|issuer| ClusterKey::parse(issuer));
        let verifier = Verifier::new(issuers.collect::<Result<_, _>>().context("read the cluster issuers")?);
        let issuers = Issuers::new(
            config.allowed_actor_issuers.clone(),
            config.allowed_provider_issuers.clone(),
            &dirs.state,
            lattice.as_str(),
            verifier.clone(),
        );
        let client = Client::new(rpc.client.clone(), subjects.clone(), signer, chunks.clone(), host_id.clone());
        let caller = client.clone();
        let peers = Peers::new(&host_id);
        look_for_twin(&ctl.client, &subjects, &host_id, &peers).await;
        let leave = CancellationToken::new();
        let watched = (closing.clone(), failed.clone());
        let vigil = Vigil::default();
        tasks.spawn(vigil.clone().keep(rpc.client.clone(), stop.clone()));
        let peer_service = peers::service::spawn(
            &peers,
            (&rpc.client, &answers),
            &subjects,
            vigil.clone(),
            leave.clone(),
            watched,
            &tasks,
        )
        .await?;
        let remote = Remote::new(client, peers.clone(), links.clone(), config.repeatable_operations.clone());
        let router =
            Router::new(lattice, links.clone(), policy.clone(), remote, config.local_calls, config.rpc_timeout);
        router.tell_aliases(events.clone());
        let journal = Journal::new(host_id.as_str());
        let followers = Followers::new(journal.clone(), ctl.client.clone(), answers.clone());
        let meter = router.meter().clone();
        let engine = Engine::new(engine::Settings {
            slots: config.actors.instances_max,
            memory_max_bytes: config.actors.memory_max_bytes,
            cache_dir: Some(dirs.compiled_code()),
        })?;
        let registries = Registries::default();
        let uploads = Making::of_artifacts(config.kv_replicas, config.artifacts_max_bytes);
        let artifacts = Artifacts::new(ctl.clone(), domain.as_deref(), &config.lattice, uploads, budget.clone());
        let fetching =
            registry::Settings { budget: budget.clone(), ..registry_settings(&config, dirs, registries.clone()) };
        let registry = Registry::new(fetching).with_uploads(Arc::new(artifacts));
        let receiver = Receiver::new(receiver::Parts {
            nats: rpc.client.clone(),
            answers: answers.clone(),
            verifier,
            chunks: chunks.clone(),
            rpc_timeout: config.rpc_timeout,
            host_id: host_id.clone(),
            peers: peers.clone(),
            vigil: vigil.clone(),
        });
        let providers = providers::spawn(
            providers::Parts {
                host: host_id.clone(),
                registry: registry.clone(),
                router: router.clone(),
                peers: peers.clone(),
                receiver: receiver.clone(),
                rpc: rpc.clone(),
                subjects: subjects.clone(),
                links: links.clone(),
                policy: policy.clone(),
                issuers: issuers.clone(),
                allow_external: config.allow_external_providers,
                events: events.clone(),
                journal: journal.clone(),
                budget: budget.clone(),
                rpc_timeout: config.rpc_timeout,
                stop_delay: config.provider_delay,
                js_domain: domain.clone(),
                bounds,
                answers: answers.clone(),
                cache_dir: dirs.cache.clone(),
                data_dir: dirs.data.clone(),
                launcher: Launcher {
                    host: host_id.clone(),
                    lattice: subjects.lattice().clone(),
                    connection: config.prov_rpc.clone(),
                    cluster_seed: config.cluster.seed.clone(),
                    cluster_issuers: config.cluster.issuers.clone(),
                    rpc_timeout: config.rpc_timeout,
                    structured_logging: config.log.json,
                    environment: ProcessEnvironment.vars(),
                    passed: config.provider_env.clone(),
                    links: links.clone(),
                    journal: journal.clone(),
                },
            },
            &tasks,
            (closing.clone(), failed.clone()),
        );
        let slots = Slots::new(engine.slots());
        let actors = actors::spawn(
            actors::Parts {
                host: host_id.clone(),
                shared: Shared {
                    slots: slots.clone(),
                    engine: engine.clone(),
                    router: router.clone(),
                    journal,
                    queue_max: config.actors.queue_max,
                },
                registry: registry.clone(),
                receiver,
                rpc: rpc.client.clone(),
                subjects: subjects.clone(),
                links: links.clone(),
                policy: policy.clone(),
                issuers: issuers.clone(),
                events: events.clone(),
                reuse_default: config.actors.instance_reuse,
            },
            &tasks,
            (closing.clone(), failed.clone()),
        );

        let consulted = Consulted::default();
        let (stop_sender, stop_requests) = watch::channel(None);
        let control_tasks = TaskTracker::new();
        Server::start(
            server::Parts {
                client: ctl.client.clone(),
                answers: answers.clone(),
                subjects: subjects.clone(),
                state: state.clone(),
                peers: peers.clone(),
                issuers,
                allow_external: config.allow_external_providers,
                actors: actors.clone(),
                providers: providers.clone(),
                store: store.clone(),
                links: links.clone(),
                named_config: NamedConfig::new(ctl.clone(), domain.clone(), &config.lattice, place.making),
                registries: registries.clone(),
                registry,
                events: events.clone(),
                router: router.clone(),
                vitals: Vitals {
                    ctl: ctl.clone(),
                    rpc: rpc.clone(),
                    policy: policy.clone(),
                    settings: health::Settings::of(&config),
                    oci_registry: config.oci.as_ref().map(|oci| oci.registry.clone()),
                    config_service: consulted.clone(),
                },
                meter: meter.clone(),
                followers: followers.clone(),
                stop_requests: stop_sender,
            },
            &control_tasks,
            (closing.clone(), failed.clone()),
        )
        .await?;
        let presence = Presence::announce(&presence_dir(dirs), host_id.as_str())
            .inspect_err(|error| warn!(%error, "this host cannot be found by `host ping`"))
            .ok();
        #[cfg(unix)]
        if presence.is_some() {
            serve_local_user(&config, &presence_dir(dirs), &host_id, &tasks, &closing);
        }

        events.publish(Event::HostStarted { labels: state.labels(), friendly_name, version: VERSION });
        let running = (actors.clone(), providers.clone());
        tasks.spawn(heartbeats(state.clone(), running, events.clone(), closing.clone()));
        tasks.spawn(chunks.keep_tidy(stop.clone()));
        if config.config_service {
            let service = config_service::Service {
                client: ctl.client.clone(),
                subject: subjects.config_service(),
                state: state.clone(),
                registries: registries.clone(),
                actors: actors.clone(),
                providers: providers.clone(),
                consulted,
            };
            service.consult(&tasks, &closing).await;
        }
        let context = jetstream::context(&ctl.client, domain.as_deref());
        let (name, delete) = (config.lattice.clone(), config.legacy_cache_delete);
        let (stopped, migrated) = (stop.clone(), store.clone());
        tasks.spawn(async move {
            let mut backends = migrated.changes();
            let migration = async {
                // Not into memory: when the bucket comes later, the migration does too.
                if backends.wait_for(|backend| backend.is_shared()).await.is_ok() {
                    legacy::migrate(&context, &migrated, &name, delete).await;
                }
            };
            tokio::select! {
                () = stopped.cancelled() => {}
                () = migration => {}
            }
        });
        events.flush().await;
        let dashboard = match &config.dashboard {
            None => None,
            Some(settings) => {
                let parts = http::Parts {
                    host: state.clone(),
                    lattice: Lattice::new(ctl.client.clone(), subjects, client::TIMEOUT, domain),
                    ctl: ctl.clone(),
                    rpc: rpc.clone(),
                    caller,
                    store: store.clone(),
                    links: links.clone(),
                    peers: peers.clone(),
                    meter: meter.clone(),
                    answers: answers.clone(),
                    sockets: sockets.clone(),
                    router,
                    engine,
                    slots,
                    budget,
                    actors: actors.clone(),
                    providers: providers.clone(),
                    vigil,
                    uploads,
                    closing: closing.clone(),
                };
                // A host without one works as well.
                Dashboard::open(parts, settings, &dirs.state, &tasks, &stop)
                    .await
                    .inspect_err(|error| error!("no dashboard: {error:#}"))
                    .ok()
            }
        };
        Ok(Self {
            state,
            config,
            actors,
            providers,
            store,
            links,
            events,
            ctl,
            rpc,
            closing,
            failed,
            stop,
            tasks,
            control_tasks,
            stop_requests,
            peers,
            leave,
            peer_service,
            meter,
            answers,
            sockets,
            followers,
            dashboard,
            _presence: presence,
        })
    }

    /// This host as clients see it.
    pub fn state(&self) -> &HostState {
        &self.state
    }

    /// The other hosts of the lattice that this one has heard of, and whether they are silent.
    pub fn other_hosts(&self) -> Vec<(String, bool)> {
        self.peers.others()
    }

    /// Returns the table of the other hosts.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Starts actors, and tells which run.
    pub fn actors(&self) -> &actors::Handle {
        &self.actors
    }

    /// Starts providers, and tells which run.
    pub fn providers(&self) -> &providers::Handle {
        &self.providers
    }

    /// Where link definitions are written; [`Host::links`] is to be told of what was.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The links and claims of the lattice as they are now.
    pub fn links(&self) -> &Live {
        &self.links
    }

    /// Returns the events of this host.
    pub fn events(&self) -> &Publisher {
        &self.events
    }

    /// The calls this host served and made, counted.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The sockets that no actor reaches through a built-in provider.
    pub fn own_sockets(&self) -> &OwnSockets {
        &self.sockets
    }

    /// The answers of this host to questions over NATS.
    pub fn answers(&self) -> &Answers {
        &self.answers
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
        self.failed.clone()
    }

    /// Waits until somebody asks for a stop over the control interface. Cancel safe.
    pub async fn stop_requested(&mut self) -> StopRequest {
        match self.stop_requests.wait_for(Option::is_some).await {
            Ok(request) => request.unwrap_or(StopRequest { timeout: None }),
            Err(_) => StopRequest { timeout: None },
        }
    }

    /// Stops in order, within `timeout` or the configured time.
    pub async fn stop(self, timeout: Option<Duration>) {
        let deadline = Instant::now() + timeout.unwrap_or(self.config.shutdown_timeout);
        self.closing.cancel();
        self.control_tasks.close();
        let answered =
            tokio::time::timeout_at(deadline.min(Instant::now() + ANSWERS_TIMEOUT), self.control_tasks.wait());
        if answered.await.is_err() {
            warn!("some control requests were not answered");
        }
        // Providers that bring work in end while actors still answer; those that actors call end
        // after them.
        self.providers.stop_all(providers::Which::BringingWork, deadline).await;
        self.actors.stop_all(deadline).await;
        // They get a little time even when the calls used all of it.
        let last = deadline.max(Instant::now() + PROVIDERS_TIMEOUT);
        self.providers.stop_all(providers::Which::All, last).await;
        // By now the followers of logs have the last lines of all of them.
        self.followers.close().await;
        // Nothing takes calls here any more, and the others need not find that out.
        self.leave.cancel();
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.peer_service).await;
        // So that the last event finds room in the queue.
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.events.flush()).await;
        self.events.publish(Event::HostStopped { labels: self.state.labels() });
        // The last words get a little time even when the calls used all of it.
        let last_words = async {
            self.events.flush().await;
            for client in [&self.rpc.client, &self.ctl.client] {
                if let Err(error) = connection::confirm(client).await {
                    warn!(%error, "last messages not confirmed");
                }
            }
        };
        if tokio::time::timeout(FLUSH_TIMEOUT, last_words).await.is_err() {
            warn!("the NATS server did not confirm the last events");
        }
        let Self { state, stop, tasks, events, actors, providers, .. } = self;
        stop.cancel();
        // The task that publishes events ends with the last of those who could publish one.
        drop((events, actors, providers));
        tasks.close();
        if tokio::time::timeout(FLUSH_TIMEOUT, tasks.wait()).await.is_err() {
            warn!("some tasks of this host did not end");
        }
        info!("Host {} stopped.", state.facts().id);
    }
}

/// Signs calls for the user of this machine, as long as this host takes commands.
#[cfg(unix)]
fn serve_local_user(
    config: &Config,
    dir: &std::path::Path,
    host_id: &HostId,
    tasks: &TaskTracker,
    closing: &CancellationToken,
) {
    let opened = Signer::new(config.cluster.seed.expose()).map_err(|e| e.to_string()).and_then(|signer| {
        let (host_id, lattice) = (host_id.clone(), config.lattice.clone());
        local::server::Server::open(dir, host_id, lattice, signer).map_err(|e| e.to_string())
    });
    match opened {
        Ok(server) => _ = tasks.spawn(server.run(closing.clone()).instrument(info_span!("local"))),
        Err(error) => warn!(error, "this host cannot be asked for signatures by commands on this machine"),
    }
}

/// Where running hosts of this user are marked.
pub fn presence_dir(dirs: &Dirs) -> PathBuf {
    dirs.state.join("hosts")
}

fn facts(config: &Config, host_id: &HostId, friendly_name: String) -> Facts {
    Facts {
        id: host_id.clone(),
        friendly_name,
        issuer: config.cluster.public.clone(),
        cluster_issuers: config.cluster.issuers.clone(),
        lattice: config.lattice.clone(),
        js_domain: config.js_domain.clone(),
        ctl_host: config.ctl.host_text.clone(),
        rpc_host: config.rpc.host_text.clone(),
        prov_rpc_host: config.prov_rpc.host_text.clone(),
    }
}

/// Returns the subjects of the lattice that the settings have moved away from `wasmbus`.
fn reserved_subjects(config: &Config) -> Reserved {
    let policy = config.policy.iter().flat_map(|policy| [Some(&policy.topic), policy.changes_topic.as_ref()]).flatten();
    Reserved::new(policy.chain([&config.ctl_topic_prefix]).cloned())
}

/// Returns the settings for fetching; clients may add credentials to `registries`.
pub fn registry_settings(config: &Config, dirs: &Dirs, registries: Registries) -> registry::Settings {
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

fn greet(config: &Config) {
    info!("Valid cluster signers: {}", config.cluster.issuers.join(", "));
    if config.cluster.ad_hoc {
        let (file, public) = (crate::config::FILE_NAME, &config.cluster.public);
        warn!("WARNING. You are using an ad hoc generated cluster seed.");
        warn!(
            "It is written to ./{file} (member cluster_seed). For any other host or CLI tool to communicate with this \
             host, copy that file into the directory it is started from, or set WASMCLOUD_CLUSTER_SEED to the \
             member's value."
        );
        warn!(
            "Hosts with a cluster seed of their own must also list this cluster signer (WASMCLOUD_CLUSTER_ISSUERS): \
             {public}"
        );
    }
}

async fn policy(
    config: &Config,
    (ctl, answers): (&Nats, &Answers),
    state: &HostState,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Policy> {
    let Some(settings) = &config.policy else { return Ok(Policy::off()) };
    let facts = state.facts();
    let host = HostInfo {
        public_key: facts.id.to_string(),
        lattice_id: facts.lattice.clone(),
        labels: state.live_labels(),
        cluster_issuers: facts.cluster_issuers.clone(),
        issuer: facts.issuer.clone(),
    };
    let policy = Policy::new(ctl.client.clone(), settings.topic.clone(), settings.timeout, host);
    if let Some(topic) = &settings.changes_topic {
        let changes = ctl.client.subscribe(topic.clone()).await.with_context(|| format!("subscribe to {topic}"))?;
        let (policy, stop) = (policy.clone(), stop.clone());
        let over = (ctl.client.clone(), answers.clone());
        tasks.spawn(
            async move { policy.follow_changes(over, changes, stop).await }.instrument(info_span!("policy changes")),
        );
    }
    Ok(policy)
}

/// Asks whether somebody answers as this host already, before it does so itself. Where nobody does, the server says so at
/// once. A twin keeps this host from nothing: an orchestrator may start the next one before it stops the last.
async fn look_for_twin(client: &async_nats::Client, subjects: &Subjects, host_id: &HostId, peers: &Peers) {
    let inventory = subjects.control(&Control::Inventory { host: host_id.to_string() });
    let asked = tokio::time::timeout(TWIN_TIMEOUT, client.request(inventory, bytes::Bytes::new()));
    if matches!(asked.await, Ok(Ok(_))) {
        peers.tell_twin(host_id.as_str());
    }
}

/// Beats until stopped; the first one right after the start, so that dashboards fill at once.
async fn heartbeats(
    state: HostState,
    (actors, providers): (actors::Handle, providers::Handle),
    events: Publisher,
    stop: CancellationToken,
) {
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = beat.tick() => {
                events.publish(Event::HostHeartbeat(state.heartbeat(&actors.running(), &providers.running())));
                telemetry::settle();
            }
        }
    }
}
