//! Wires the parts of a host: connections, what all parts share, and then the parts, each with what
//! it needs.
//!
//! Nobody reaches the host yet: its control interface opens in [`Host::run`].

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, info, info_span, warn};

use super::{Ends, Host, ends, metadata, names, registry_settings};
use crate::{
    actors::{
        actor::{Shared, Slots},
        code::Sharing,
        engine::{self, Engine},
        supervisor as actors,
    },
    attention::Slot,
    control::{
        named_config::NamedConfig,
        state::{Facts, HostState},
    },
    delivery::{LinkNotifier, LinkSender},
    events::Publisher,
    history::{self, History},
    host_context::HostContext,
    issuers::Issuers,
    journal::{Journal, followers::Followers},
    kept::{self, KeptEntry, KeptStarts},
    links::{Live, live::Notice},
    peers::{
        self, Peers,
        sessions::{self, Sessions},
    },
    policy::{HostInfo, Policy},
    providers::{
        bounds::{Bounds, LinkPaths, OwnSockets},
        external::Launcher,
        supervisor as providers,
    },
    router::{Router, remote::Remote},
    rpc::{
        chunking::{self, Chunks},
        client::Client,
        server::{self as receiver, Receiver},
        tokens::Tokens,
    },
};
use lattice_base::{
    budget::Budget,
    config::{self, Config, Environment as _, ProcessEnvironment},
    dirs::Dirs,
    lattice::{
        answers::Answers,
        connection::{self, Nats, Purpose},
        reserved::Reserved,
    },
    registry::{self, Registry, credentials::Registries},
    shutdown::Lifeline,
    store::{artifacts::Artifacts, desired::Desired, jetstream::making::Making},
    suspend::SuspendDetector,
    telemetry::audit::AuditLog,
};
use lattice_protocol::{
    desired::Authority,
    identity::{
        keys::{ClusterKey, HostId, LatticeName},
        signature::SigningKey,
    },
    lattice::{control::Control, subject::Subjects},
    rpc::antiforgery::{Signer, Verifier},
};

/// How long to wait for the answer of a host with the same key.
const TWIN_TIMEOUT: Duration = Duration::from_millis(500);

/// A host that is wired and not reachable yet.
pub(super) struct Built<'a> {
    /// First, so that what ends with the others finds the host closing.
    pub ends: Ends,
    pub config: &'a Config,
    pub dirs: &'a Dirs,
    pub stop: CancellationToken,
    pub context: Arc<HostContext>,
    pub sockets: OwnSockets,
    pub chunks: Chunks,
    /// Makes calls for the dashboard.
    pub caller: Client,
    pub leave: CancellationToken,
    pub peer_service: JoinHandle<()>,
    pub followers: Followers,
    /// Router, engine and slots.
    pub shared: Shared,
    pub registries: Registries,
    pub registry: Registry,
    pub uploads: Making,
    pub actors: actors::Handle,
    pub providers: providers::Handle,
    pub kept: KeptStarts,
    /// The things that the host kept before, to be read; none if it keeps nothing.
    pub kept_entry: Option<KeptEntry>,
    /// Entries to be kept, for the task that writes it.
    pub history: Option<history::Inbox>,
}

/// The input of a host's parts.
struct Builder<'a> {
    config: &'a Config,
    dirs: &'a Dirs,
    stop: CancellationToken,
}

impl Host {
    /// Connects, and makes the parts. `give_up` ends the wait for a server that does not come.
    pub(super) async fn build<'a>(
        config: &'a Config,
        dirs: &'a Dirs,
        give_up: &CancellationToken,
    ) -> Result<Built<'a>> {
        let (lifeline, leave) = (Lifeline::default(), CancellationToken::new());
        let builder = Builder { config, dirs, stop: CancellationToken::new() };
        let guards = ends(&lifeline.closing, &leave, &builder.stop);
        let (kept_history, history) = History::new();
        let kept_history = kept_history.with_log(builder.audit_log()?);
        let (context, verifier, notices) = builder.context(lifeline, kept_history, give_up).await?;
        // Made before the first task, and dropped before the context, as what is bound last is.
        let ends = guards;
        let bounds = builder.bounds(&context).await;
        deliver_links(&context, notices);
        let chunks = builder.chunks(&context);
        let caller = builder.caller(&context, &chunks)?;
        // Before this host answers under its id.
        look_for_twin(&context).await;
        context
            .tasks
            .spawn(context.suspend.clone().run(context.rpc.client.clone(), builder.stop.clone()));
        let uploads = Making::of_artifacts(config.kv_replicas, config.artifacts_max_bytes);
        let artifacts = builder.artifacts(&context, uploads);
        let shared = builder.shared(&context, &caller, &artifacts)?;
        // From here on the others know this host, so what can fail comes before.
        let peer_service = peers::service::spawn(&context, leave.clone()).await?;
        let registries = Registries::default();
        let registry = builder.registry(&context, &registries, artifacts);
        let receiver = Receiver::new(receiver::Parts {
            context: Arc::clone(&context),
            verifier,
            chunks: chunks.clone(),
        });
        let sockets = bounds.sockets.clone();
        let providers = builder.providers(&context, &registry, &shared.router, &receiver, bounds);
        let actors = builder.actors(&context, &registry, &shared, receiver);
        let (kept, kept_entry) = builder.kept(&context, &actors, &providers);
        let followers = Followers::new(
            context.journal.clone(),
            context.ctl.client.clone(),
            context.answers.clone(),
        );
        Ok(Built {
            ends,
            config,
            dirs,
            stop: builder.stop,
            context,
            sockets,
            chunks,
            caller,
            leave,
            peer_service,
            followers,
            shared,
            registries,
            registry,
            uploads,
            actors,
            providers,
            kept,
            kept_entry,
            history: Some(history),
        })
    }
}

impl Builder<'_> {
    /// Connects, opens the metadata, and makes what the parts share.
    async fn context(
        &self,
        lifeline: Lifeline,
        history: History,
        give_up: &CancellationToken,
    ) -> Result<(Arc<HostContext>, Verifier, mpsc::Receiver<Vec<Notice>>)> {
        let (config, stop) = (self.config, &self.stop);
        let host_id = HostId::parse(&config.host_key.public).context("read the host key")?;
        let lattice = LatticeName::parse(&config.lattice).context("read the lattice name")?;
        let subjects = Subjects::new(lattice.clone(), &config.ctl_topic_prefix);
        let friendly_name = names::friendly(host_id.as_str());
        let client_name = format!("host {host_id}");
        let ctl = connection::connect(Purpose::Control, &config.ctl, &client_name, give_up).await?;
        let rpc = connection::connect(Purpose::Rpc, &config.rpc, &client_name, give_up).await?;
        info!("Host {host_id} ({friendly_name}) started.");
        greet(config);

        let tasks = TaskTracker::new();
        let metadata = self.metadata(&ctl);
        let (domain, making) = (metadata.domain.as_deref(), metadata.making);
        let desired = Desired::new(ctl.clone(), domain, lattice.as_str(), making);
        let authority = authority(config)?;
        let store = metadata.open(&tasks, stop).await;
        let (links, notices) = Live::start(store.clone(), &tasks, stop.clone()).await;
        if store.is_shared() && *links.synced().borrow() {
            info!("Created ephemeral consumer for lattice cache loader");
        }
        let state = HostState::new(facts(config, &host_id, friendly_name), config.labels.clone());
        let answers = Answers::new(reserved_subjects(config), config.inbox_prefixes.clone());
        let events = Publisher::start(
            ctl.client.clone(),
            subjects.clone(),
            host_id.clone(),
            history.clone(),
            &tasks,
        );
        // Subscribed before anything can be decided, so that no change is missed.
        let policy = self.policy((&ctl, &answers), &state, &tasks).await?;
        let verifier = verifier(config)?;
        let issuers = self.issuers(&lattice, &verifier);
        let context = HostContext {
            journal: Journal::new(host_id.as_str()),
            peers: Peers::new(&host_id),
            sessions: sessions(config)?,
            budget: config
                .actors
                .payload_memory_max_bytes
                .map_or_else(Budget::default, Budget::new),
            suspend: SuspendDetector::default(),
            lifeline,
            js_domain: config.js_domain.clone(),
            rpc_timeout: config.rpc_timeout,
            host_id,
            state,
            subjects,
            ctl,
            rpc,
            answers,
            store,
            desired,
            authority: Arc::new(authority),
            links,
            policy,
            issuers,
            tokens: Tokens::new(config.token_window),
            events,
            history,
            attention: Slot::default(),
            tasks,
        };
        Ok((Arc::new(context), verifier, notices))
    }

    /// Opens the log of commands, if there is to be one. A host that cannot write it does not
    /// start: somebody relies on it.
    fn audit_log(&self) -> Result<Option<AuditLog>> {
        let config = self.config;
        let Some(place) = &config.audit_log else { return Ok(None) };
        let opened = AuditLog::open(place, &config.host_key.public, &config.lattice);
        let name = match place {
            config::AuditLog::Stderr => "standard error".to_owned(),
            config::AuditLog::File(file) => file.path.display().to_string(),
        };
        opened.map(Some).with_context(|| format!("open the audit log (audit_log), {name}"))
    }

    /// Returns whose actors and providers may run.
    fn issuers(&self, lattice: &LatticeName, verifier: &Verifier) -> Issuers {
        Issuers::new(
            self.config.allowed_actor_issuers.clone(),
            self.config.allowed_provider_issuers.clone(),
            &self.dirs.state,
            lattice.as_str(),
            verifier.clone(),
        )
    }

    /// Returns where the lattice's metadata is.
    fn metadata(&self, ctl: &Nats) -> metadata::Place {
        metadata::Place {
            nats: ctl.clone(),
            domain: self.config.js_domain.clone(),
            lattice: self.config.lattice.clone(),
            making: Making::of_metadata(self.config.kv_replicas, self.config.kv_max_bytes),
        }
    }

    async fn policy(
        &self,
        (ctl, answers): (&Nats, &Answers),
        state: &HostState,
        tasks: &TaskTracker,
    ) -> Result<Policy> {
        let Some(settings) = &self.config.policy else { return Ok(Policy::off()) };
        let facts = state.facts();
        let host = HostInfo {
            public_key: facts.id.to_string(),
            lattice_id: facts.lattice.clone(),
            labels: state.live_labels(),
            cluster_issuers: facts.cluster_issuers.clone(),
            issuer: facts.issuer.clone(),
        };
        let policy =
            Policy::new(ctl.client.clone(), settings.topic.clone(), settings.timeout, host);
        if let Some(topic) = &settings.changes_topic {
            let changes = ctl
                .client
                .subscribe(topic.clone())
                .await
                .with_context(|| format!("subscribe to {topic}"))?;
            let (policy, stop) = (policy.clone(), self.stop.clone());
            let over = (ctl.client.clone(), answers.clone());
            tasks.spawn(
                async move { policy.follow_changes(over, changes, stop).await }
                    .instrument(info_span!("policy changes")),
            );
        }
        Ok(policy)
    }

    /// Returns the limits of built-in providers. The host's own sockets are known when this
    /// returns, before any provider runs.
    async fn bounds(&self, context: &HostContext) -> Bounds {
        let config = self.config;
        let sockets = OwnSockets::default();
        let connections = [context.ctl.clone(), context.rpc.clone()];
        let servers: Vec<String> = [&config.ctl, &config.rpc, &config.prov_rpc]
            .iter()
            .flat_map(|one| one.servers.clone())
            .collect();
        sockets.look(&servers, &connections).await;
        context.tasks.spawn(sockets.clone().follow(servers, connections, self.stop.clone()));
        Bounds {
            subjects: reserved_subjects(config),
            sockets,
            paths: LinkPaths::new(config.link_paths.clone()),
        }
    }

    fn chunks(&self, context: &HostContext) -> Chunks {
        Chunks::new(
            &context.rpc.client,
            context.js_domain.as_deref(),
            context.subjects.lattice().as_str(),
            chunking::Settings {
                budget: context.budget.clone(),
                actor_bytes_max: self.config.actors.memory_max_bytes as u64,
                bound: self.config.payload_store_max_bytes,
            },
        )
    }

    fn caller(&self, context: &HostContext, chunks: &Chunks) -> Result<Client> {
        let signer = Signer::new(self.config.cluster.seed.expose())
            .map_err(|e| anyhow!("read the cluster seed: {e}"))?;
        let (client, subjects) = (context.rpc.client.clone(), context.subjects.clone());
        let (chunks, host_id) = (chunks.clone(), context.host_id.clone());
        let sessions = context.sessions.clone();
        Ok(Client::of_host(client, subjects, signer, chunks, host_id, sessions))
    }

    /// Returns what actors share: the router with its way to other hosts, and the engine.
    fn shared(
        &self,
        context: &HostContext,
        caller: &Client,
        artifacts: &Artifacts,
    ) -> Result<Shared> {
        let HostContext { subjects, peers, links, policy, events, .. } = context;
        let repeatable = self.config.repeatable_operations.clone();
        let remote = Remote::new(caller.clone(), peers.clone(), links.clone(), repeatable);
        let (lattice, local_calls) = (subjects.lattice().clone(), self.config.local_calls);
        let router = Router::new(
            lattice,
            links.clone(),
            policy.clone(),
            remote,
            local_calls,
            context.rpc_timeout,
            context.journal.clone(),
        );
        router.tell_aliases(events.clone());
        let engine = self.engine(context, artifacts)?;
        Ok(Shared {
            slots: Slots::new(engine.slots()),
            component_slots: Slots::new(engine.component_slots()),
            engine,
            router,
            journal: context.journal.clone(),
            config: NamedConfig::new(
                context.ctl.clone(),
                context.js_domain.clone(),
                &self.config.lattice,
                self.metadata(&context.ctl).making,
            ),
            queue_max: self.config.actors.queue_max,
        })
    }

    /// Returns the engine, which shares what it compiles while the host runs.
    fn engine(&self, context: &HostContext, artifacts: &Artifacts) -> Result<Engine> {
        let sharing = self.config.shared_code.then(|| Sharing {
            artifacts: artifacts.clone(),
            authority: Arc::clone(&context.authority),
            host_id: context.host_id.clone(),
        });
        let (engine, giving) = Engine::new(engine::Settings {
            slots: self.config.actors.instances_max,
            memory_max_bytes: self.config.actors.memory_max_bytes,
            cache_dir: Some(self.dirs.compiled_code()),
            sharing,
        })?;
        if let Some(giving) = giving {
            context
                .tasks
                .spawn(giving.run(self.stop.clone()).instrument(info_span!("compiled code")));
        }
        Ok(engine)
    }

    fn artifacts(&self, context: &HostContext, uploads: Making) -> Artifacts {
        let HostContext { ctl, budget, js_domain, .. } = context;
        let lattice = &self.config.lattice;
        Artifacts::new(ctl.clone(), js_domain.as_deref(), lattice, uploads, budget.clone())
    }

    fn registry(
        &self,
        context: &HostContext,
        registries: &Registries,
        artifacts: Artifacts,
    ) -> Registry {
        let budget = context.budget.clone();
        let settings = registry_settings(self.config, self.dirs, registries.clone());
        Registry::new(registry::Settings { budget, ..settings }).with_uploads(Arc::new(artifacts))
    }

    fn actors(
        &self,
        context: &Arc<HostContext>,
        registry: &Registry,
        shared: &Shared,
        receiver: Receiver,
    ) -> actors::Handle {
        actors::spawn(actors::Parts {
            context: Arc::clone(context),
            shared: shared.clone(),
            registry: registry.clone(),
            receiver,
            reuse_default: self.config.actors.instance_reuse,
        })
    }

    /// Returns what is kept of this host: nothing, if it is another one after the next start.
    fn kept(
        &self,
        context: &Arc<HostContext>,
        actors: &actors::Handle,
        providers: &providers::Handle,
    ) -> (KeptStarts, Option<KeptEntry>) {
        let config = self.config;
        if !config.host_key.is_lasting() {
            return (KeptStarts::off(actors.clone(), providers.clone()), None);
        }
        let (kept, entry) = KeptStarts::new(kept::Parts {
            context: Arc::clone(context),
            actors: actors.clone(),
            providers: providers.clone(),
            state_dir: &self.dirs.state,
            forget: config.forget,
        });
        (kept, Some(entry))
    }

    fn providers(
        &self,
        context: &Arc<HostContext>,
        registry: &Registry,
        router: &Router,
        receiver: &Receiver,
        bounds: Bounds,
    ) -> providers::Handle {
        let config = self.config;
        providers::spawn(providers::Parts {
            context: Arc::clone(context),
            registry: registry.clone(),
            router: router.clone(),
            receiver: receiver.clone(),
            allow_external: config.allow_external_providers,
            stop_delay: config.provider_delay,
            bounds,
            cache_dir: self.dirs.cache.clone(),
            data_dir: self.dirs.data.clone(),
            launcher: Launcher {
                host: context.host_id.clone(),
                lattice: context.subjects.lattice().clone(),
                connection: config.prov_rpc.clone(),
                cluster_seed: config.cluster.seed.clone(),
                cluster_issuers: config.cluster.issuers.clone(),
                rpc_timeout: config.rpc_timeout,
                structured_logging: config.log.json,
                environment: ProcessEnvironment.vars(),
                passed: config.provider_env.clone(),
                links: context.links.clone(),
                journal: context.journal.clone(),
            },
        })
    }
}

/// Tells providers of links from now on.
fn deliver_links(context: &HostContext, notices: mpsc::Receiver<Vec<Notice>>) {
    let sender = LinkSender { rpc: context.rpc.client.clone(), subjects: context.subjects.clone() };
    let notifier = LinkNotifier::new(sender, context.links.clone(), context.events.clone());
    context.tasks.spawn(context.lifeline.essential("link delivery", notifier.run(notices)));
}

/// Returns the check of calls that are signed by the accepted clusters.
fn verifier(config: &Config) -> Result<Verifier> {
    Ok(Verifier::new(cluster_issuers(config)?))
}

/// Returns the key that signs what the lattice is asked to run.
fn authority(config: &Config) -> Result<Authority> {
    let trusted = cluster_issuers(config)?;
    let authority = Authority::new(&config.lattice, config.cluster.seed.expose(), trusted);
    authority.context("read the cluster seed")
}

/// Returns the sessions with other hosts, of which there is none yet.
fn sessions(config: &Config) -> Result<Sessions> {
    let own =
        SigningKey::from_seed(config.cluster.seed.expose()).context("read the cluster seed")?;
    let mut issuers = cluster_issuers(config)?;
    issuers.push(ClusterKey::parse(own.public_key())?);
    let host_key = SigningKey::from_seed(config.host_key.seed.expose());
    let settings = sessions::Settings {
        lattice: config.lattice.clone(),
        host_key: host_key.context("read the host seed")?,
        cluster: own,
        issuers,
        requires_signed: config.require_signed_answers,
    };
    Sessions::new(settings).context("make the first key of the sessions with other hosts")
}

fn cluster_issuers(config: &Config) -> Result<Vec<ClusterKey>> {
    let issuers = config.cluster.issuers.iter().map(|issuer| ClusterKey::parse(issuer));
    issuers.collect::<Result<_, _>>().context("read the cluster issuers")
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
    let policy = config
        .policy
        .iter()
        .flat_map(|policy| [Some(&policy.topic), policy.changes_topic.as_ref()])
        .flatten();
    Reserved::new(policy.chain([&config.ctl_topic_prefix]).cloned())
}

fn greet(config: &Config) {
    info!("Valid cluster signers: {}", config.cluster.issuers.join(", "));
    if config.cluster.ad_hoc {
        for line in about_new_seed(config.cluster.is_kept, &config.cluster.public) {
            warn!("{line}");
        }
    }
}

/// Returns what to know of a cluster seed that was made up for this start.
fn about_new_seed(is_kept: bool, public: &str) -> [String; 3] {
    let file = config::FILE_NAME;
    let place = match is_kept {
        true => format!(
            "It is written to ./{file} (member cluster_seed). For any other host or CLI tool to communicate with this \
             host, copy that file into the directory it is started from, or set WASMCLOUD_CLUSTER_SEED to the \
             member's value."
        ),
        false => format!(
            "It is not written to ./{file}, so it ends with this run, and no other host or CLI tool can communicate with this \
             host. Let this user write in this directory, or set WASMCLOUD_CLUSTER_SEED to a seed that `host keys gen cluster` \
             makes, and start again."
        ),
    };
    [
        "WARNING. You are using an ad hoc generated cluster seed.".to_owned(),
        place,
        format!(
            "Hosts with a cluster seed of their own must also list this cluster signer (WASMCLOUD_CLUSTER_ISSUERS): \
             {public}"
        ),
    ]
}

/// Asks whether somebody answers as this host already, before it does so itself. Where nobody does,
/// the server says so at once. A twin keeps this host from nothing: an orchestrator may start the
/// next one before it stops the last.
async fn look_for_twin(context: &HostContext) {
    let host_id = context.host_id.as_str();
    let inventory = context.subjects.control(&Control::Inventory { host: host_id.to_owned() });
    let asked = tokio::time::timeout(
        TWIN_TIMEOUT,
        context.ctl.client.request(inventory, bytes::Bytes::new()),
    );
    if matches!(asked.await, Ok(Ok(_))) {
        context.peers.tell_twin(host_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_said_to_be_kept_only_where_it_is() {
        for is_kept in [true, false] {
            let told = about_new_seed(is_kept, "CABC").join(" ");
            assert_eq!(told.contains("It is written to ./host_config.json"), is_kept, "{told}");
            assert_eq!(told.contains("ends with this run"), !is_kept, "{told}");
            assert!(told.contains("CABC"), "{told}");
        }
    }
}
