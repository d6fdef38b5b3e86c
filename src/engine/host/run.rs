//! Makes a wired host reachable, in order: the control interface, the mark on this machine,
//! `host_started`, what the configuration service names, what is kept, the dashboard and the
//! keeping of applications.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use tokio::sync::watch;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tracing::{Instrument, info_span, warn};

use super::{Cut, FLUSH_TIMEOUT, Host, build::Built, config_service};
#[cfg(unix)]
use crate::local;
use crate::{
    actors::supervisor as actors,
    control::{
        probe::health::{self, ConfigServiceStatus, ProbeContext},
        server::{self, Server, StopRequest},
        state::VERSION,
    },
    history::keeper::Keeper,
    host::face::{self, Face, Opened},
    host_context::HostContext,
    meter::{Meter, edges::SAMPLE},
    providers::supervisor as providers,
};
use lattice_base::{
    lattice::connection,
    presence::{Presence, presence_dir},
    store::{history::Limits, jetstream, legacy},
    telemetry,
};
use lattice_protocol::events::Event;
#[cfg(unix)]
use lattice_protocol::rpc::antiforgery::Signer;

/// Heartbeats tell clients that a host is alive; a deployment manager drops hosts after four missed
/// ones.
const HEARTBEAT: Duration = Duration::from_secs(30);

impl Host {
    /// Opens the control interface and says that this host is there; returns when it is ready.
    pub(super) async fn run(mut built: Built<'_>, face: &dyn Face) -> Result<Self> {
        let kept_entry = built.kept_entry.take();
        let keeper = built.history_keeper();
        let Built { config, dirs, context, .. } = &built;
        // Commands are taken before the others hear of this host: a client may answer the event at
        // once.
        let lifeline = context.lifeline.clone();
        let status = ConfigServiceStatus::default();
        let (stop_sender, stop_requests) = watch::channel(None);
        let control_tasks = TaskTracker::new();
        let served = Server::start(built.control(&status, stop_sender), &control_tasks).await;
        if let Err(error) = served {
            built.leave_again().await;
            return Err(error.into());
        }
        let presence = Presence::announce(&presence_dir(dirs), context.host_id.as_str())
            .inspect_err(|error| warn!(%error, "this host cannot be found by `host ping`"))
            .ok();
        #[cfg(unix)]
        if presence.is_some() {
            built.serve_local_user(&presence_dir(dirs));
        }

        if presence.as_ref().is_some_and(Presence::was_cut_off) {
            context.events.publish(Event::HostCutOff);
        }
        context.events.publish(Event::HostStarted {
            labels: context.state.labels(),
            friendly_name: context.state.facts().friendly_name.clone(),
            version: VERSION.to_owned(),
        });
        let (state, actors, providers) =
            (context.state.clone(), built.actors.clone(), built.providers.clone());
        context
            .peers
            .set_inventory(move || state.inventory(&actors.running(), &providers.running()));
        let meter = built.shared.router.meter().clone();
        context.tasks.spawn(sample_calls(meter, lifeline.closing.clone()));
        let running = (built.actors.clone(), built.providers.clone());
        context.tasks.spawn(heartbeats(Arc::clone(context), running, lifeline.closing.clone()));
        context.tasks.spawn(built.chunks.clone().keep_tidy(built.stop.clone()));
        if config.config_service {
            built.config_service(status).request(&context.tasks, &lifeline.closing).await;
        }
        built.migrate_legacy_cache();
        context.events.flush().await;
        if let Some(entry) = kept_entry {
            built.kept.start(entry, built.stop.clone());
        }
        if let Some(keeper) = keeper {
            context.tasks.spawn(keeper.run(built.stop.clone()).instrument(info_span!("history")));
        }
        let opened = built.open(face).await;
        Ok(Self {
            shutdown_timeout: config.shutdown_timeout,
            cut: Cut {
                ends: built.ends.map(DropGuard::disarm),
                router: built.shared.router.clone(),
                attention: built.context.attention.clone(),
            },
            context: built.context,
            router: built.shared.router,
            actors: built.actors,
            providers: built.providers,
            kept: built.kept,
            registry: built.registry,
            stop: built.stop,
            control_tasks,
            stop_requests,
            leave: built.leave,
            peer_service: built.peer_service,
            sockets: built.sockets,
            followers: built.followers,
            dashboard: opened.dashboard,
            manager: opened.manager,
            _presence: presence,
        })
    }
}

impl Built<'_> {
    /// Says goodbye to the other hosts, who know this one already.
    async fn leave_again(self) {
        let Self { ends, context, peer_service, .. } = self;
        drop(ends);
        let goodbye = async {
            let _ = peer_service.await;
            connection::confirm(&context.rpc.client).await
        };
        if !matches!(tokio::time::timeout(FLUSH_TIMEOUT, goodbye).await, Ok(Ok(()))) {
            warn!("the other hosts were not told that this one does not come up");
        }
    }

    fn control(
        &self,
        status: &ConfigServiceStatus,
        stop_requests: watch::Sender<Option<StopRequest>>,
    ) -> server::Parts {
        server::Parts {
            context: Arc::clone(&self.context),
            allow_external: self.config.allow_external_providers,
            actors: self.actors.clone(),
            providers: self.providers.clone(),
            named_config: self.shared.config.clone(),
            registries: self.registries.clone(),
            registry: self.registry.clone(),
            router: self.shared.router.clone(),
            kept: self.kept.clone(),
            probe_context: ProbeContext {
                settings: health::settings_of(self.config),
                oci_registry: self.config.oci.as_ref().map(|oci| oci.registry.clone()),
                config_service: status.clone(),
            },
            followers: self.followers.clone(),
            stop_requests,
        }
    }

    /// Returns what writes the history of this host; none if the settings want none.
    fn history_keeper(&mut self) -> Option<Keeper> {
        let inbox = self.history.take()?;
        let (age, config) = (self.config.history.age, self.config);
        if age.is_zero() {
            inbox.turn_off("history_hours is 0");
            return None;
        }
        let limits = Limits::new(age, config.kv_replicas, config.history.bytes_max);
        let meter = self.shared.router.meter().clone();
        Some(Keeper::new(Arc::clone(&self.context), meter, limits, inbox))
    }

    /// Signs calls for the user of this machine, as long as this host takes commands.
    #[cfg(unix)]
    fn serve_local_user(&self, dir: &std::path::Path) {
        let (host_id, lattice) = (self.context.host_id.clone(), self.config.lattice.clone());
        let opened = Signer::new(self.config.cluster.seed.expose())
            .map_err(|e| e.to_string())
            .and_then(|signer| {
                local::server::Server::open(dir, host_id, lattice, signer)
                    .map_err(|e| e.to_string())
            });
        let closing = self.context.lifeline.closing.clone();
        match opened {
            Ok(server) => {
                _ = self.context.tasks.spawn(server.run(closing).instrument(info_span!("local")))
            }
            Err(error) => {
                warn!(error, "this host cannot be asked for signatures by commands on this machine")
            }
        }
    }

    fn config_service(&self, status: ConfigServiceStatus) -> config_service::Service {
        config_service::Service {
            client: self.context.ctl.client.clone(),
            subject: self.context.subjects.config_service(),
            state: self.context.state.clone(),
            registries: self.registries.clone(),
            actors: self.actors.clone(),
            providers: self.providers.clone(),
            status,
        }
    }

    /// Brings what hosts of earlier years stored into the bucket, when there is one.
    fn migrate_legacy_cache(&self) {
        let HostContext { ctl, js_domain, store, tasks, .. } = &*self.context;
        let jetstream = jetstream::context(&ctl.client, js_domain.as_deref());
        let (name, delete) = (self.config.lattice.clone(), self.config.legacy_cache_delete);
        let (stopped, store) = (self.stop.clone(), store.clone());
        tasks.spawn(async move {
            let mut backends = store.changes();
            let migration = async {
                // Not into memory: when the bucket comes later, the migration does too.
                if backends.wait_for(|backend| backend.is_shared()).await.is_ok() {
                    legacy::migrate(&jetstream, &store, &name, delete).await;
                }
            };
            tokio::select! {
                () = stopped.cancelled() => {}
                () = migration => {}
            }
        });
    }

    /// Opens what stands outside of this crate.
    async fn open(&self, face: &dyn Face) -> Opened {
        let HostContext { tasks, .. } = &*self.context;
        let parts = face::Parts {
            context: Arc::clone(&self.context),
            caller: self.caller.clone(),
            sockets: self.sockets.clone(),
            router: self.shared.router.clone(),
            engine: self.shared.engine.clone(),
            slots: self.shared.slots.clone(),
            component_slots: self.shared.component_slots.clone(),
            actors: self.actors.clone(),
            providers: self.providers.clone(),
            uploads: self.uploads,
        };
        face.open(parts, self.config, &self.dirs.state, tasks, &self.stop).await
    }
}

/// Notes the numbers of calls until stopped, so that those of the last seconds can be told.
async fn sample_calls(meter: Meter, stop: CancellationToken) {
    let mut sample = tokio::time::interval(SAMPLE);
    sample.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = sample.tick() => meter.sample(),
        }
    }
}

/// Beats until stopped; the first one right after the start, so that dashboards fill at once.
async fn heartbeats(
    context: Arc<HostContext>,
    (actors, providers): (actors::Handle, providers::Handle),
    stop: CancellationToken,
) {
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = beat.tick() => {
                let heartbeat = context.state.heartbeat(&actors.running(), &providers.running());
                context.events.publish(Event::HostHeartbeat(heartbeat));
                telemetry::settle();
            }
        }
    }
}
