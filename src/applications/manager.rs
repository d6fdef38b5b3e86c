//! The part of a host that keeps applications: the API, and what it is based on.
//!
//! [`Manager::start`] looks for a deployment manager that is a program of its own. As long as one
//! answers, this host stays aside: it neither answers nor acts. Otherwise it serves the API, and
//! goes on looking every now and then. [`Manager::standing`] tells which it is, for those who act.
//! A host that is to keep none follows what is to run all the same, for its dashboard.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, info, info_span, warn};

use super::{
    api::{CHECKED_AT_ONCE, Server, SubscribeError},
    export::{self, Export},
    leases::Leases,
    reconcile::{self, Reconciler},
    rival::{self, Rival},
    rollouts::Rollouts,
    status::Statuses,
    store::Models,
    surroundings::Surroundings,
    targets::Targets,
};
use lattice_base::{
    config::Applications,
    lattice::{answers::Answers, connection::Nats},
    store::{desired::Desired, jetstream::making::Making},
};
use lattice_client::lattice::Lattice;
use lattice_protocol::desired::Authority;

/// How often a manager is looked for.
const LOOK: Duration = Duration::from_secs(30);
/// Looks in a row that must find none before hosts take over from one.
const MISSES: u32 = 3;
/// Pause after the API could not be served.
const RETRY: Duration = Duration::from_secs(5);
/// How long the start of a host waits for its API: long enough where nobody answers, and short
/// where somebody is silent.
const START_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the last answers may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The parts of the host that it works with.
pub struct Parts {
    pub nats: Nats,
    /// The lattice, as a client sees it.
    pub lattice: Lattice,
    pub surroundings: Arc<dyn Surroundings>,
    pub answers: Answers,
    /// How buckets are made.
    pub making: Making,
    pub desired: Desired,
    /// Signs what is to run.
    pub authority: Arc<Authority>,
    pub setting: Applications,
}

/// The role of this host in the keeping of applications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does not know yet whether somebody else does.
    Unknown,
    /// It answers and acts.
    Keeping,
    /// Somebody else does.
    Aside(Rival),
    /// It was told not to, it may not, or it ended.
    Off,
}

/// Keeps applications.
pub struct Manager {
    pub models: Models,
    pub targets: Targets,
    pub statuses: Statuses,
    pub leases: Leases,
    standing: watch::Sender<Standing>,
    server: Arc<Server>,
    lattice: Lattice,
    nats: Nats,
    making: Making,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Manager {
    /// Starts it; everything ends with `stop`. Returns when the API is served, if nobody else
    /// serves it.
    pub async fn start(parts: Parts, stop: &CancellationToken) -> Arc<Self> {
        let Parts { nats, lattice, surroundings, answers, making, desired, authority, setting } =
            parts;
        let domain = lattice.js_domain.as_deref();
        let models = Models::new(nats.clone(), domain, lattice.name(), making);
        let leases = Leases::new(desired.clone(), surroundings.host_id());
        let targets = Targets::new(desired.clone(), Arc::clone(&authority), leases.clone());
        let subjects = lattice.subjects.clone();
        let statuses = Statuses::new(nats.clone(), domain, subjects, making.replicas);
        let rollouts = Rollouts::new(desired.clone(), Arc::clone(&authority));
        let server = Server {
            host_id: surroundings.host_id().to_owned(),
            lattice: lattice.clone(),
            answers,
            models: models.clone(),
            targets: targets.clone(),
            statuses: statuses.clone(),
            rollouts: rollouts.clone(),
            surroundings: Arc::clone(&surroundings),
            checks: Arc::new(Semaphore::new(CHECKED_AT_ONCE)),
            stored_checks: Arc::new(Semaphore::new(CHECKED_AT_ONCE)),
        };
        let standing = watch::Sender::new(Standing::Unknown);
        let reconciler = Reconciler::new(reconcile::Parts {
            surroundings,
            lattice: lattice.clone(),
            targets: targets.clone(),
            statuses: statuses.clone(),
            leases: leases.clone(),
            desired,
            authority,
            standing: standing.subscribe(),
            rollouts,
        });
        let manager = Arc::new(Self {
            models,
            targets,
            statuses,
            leases,
            standing,
            server: Arc::new(server),
            lattice,
            nats,
            making,
            stop: stop.child_token(),
            tasks: TaskTracker::new(),
        });
        manager.spawn(setting, reconciler);
        let mut standing = manager.standing();
        let known = standing.wait_for(|standing| *standing != Standing::Unknown);
        // A host without it works as well.
        let _ = tokio::time::timeout(START_TIMEOUT, known).await;
        manager
    }

    /// Returns the role of this host, now and as it changes.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Ends in order: no more requests are taken, and those in work are answered.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(STOP_TIMEOUT, self.tasks.wait()).await.is_err() {
            warn!("some requests about applications were not answered");
        }
    }

    fn spawn(self: &Arc<Self>, setting: Applications, reconciler: Reconciler) {
        let span = info_span!("applications");
        // Also where this host keeps none: its dashboard shows what others keep.
        let following = self.targets.clone().run(self.stop.clone());
        self.tasks.spawn(following.instrument(span.clone()));
        if setting == Applications::Never {
            self.standing.send_replace(Standing::Off);
            return;
        }
        let exporting = self.export().run(self.stop.clone());
        self.tasks.spawn(exporting.instrument(span.clone()));
        self.tasks.spawn(reconciler.run(self.stop.clone()).instrument(span.clone()));
        let hearing = Arc::clone(self).hear_news();
        self.tasks.spawn(hearing.instrument(span.clone()));
        self.tasks.spawn(Arc::clone(self).run(setting).instrument(span));
    }

    fn export(&self) -> Export {
        let domain = self.lattice.js_domain.as_deref();
        Export {
            bucket: Desired::other(self.nats.clone(), domain, export::BUCKET, self.making),
            lattice: self.lattice.clone(),
            host_id: self.server.host_id.clone(),
            standing: self.standing(),
        }
    }

    /// Serves, or stays aside, until stopped.
    async fn run(self: Arc<Self>, setting: Applications) {
        while !self.stop.is_cancelled() {
            if self.is_forbidden() {
                self.stay_out().await;
                continue;
            }
            if setting == Applications::Auto {
                tokio::select! {
                    () = self.stop.cancelled() => break,
                    rival = rival::first(&self.lattice) => if let Some(rival) = rival {
                        self.stay_aside(rival).await;
                    },
                }
            }
            if self.serve_until_rival(setting).await.is_err() {
                self.pause(RETRY).await;
            }
        }
        self.standing.send_replace(Standing::Off);
    }

    /// Says whether the NATS user of this host may not use the subjects of the API.
    fn is_forbidden(&self) -> bool {
        is_about_api(&self.nats.denied.borrow())
    }

    /// Waits until the NATS user may not use them.
    async fn forbidden(&self) {
        let mut denied = self.nats.denied.clone();
        if denied.wait_for(|denied| is_about_api(denied)).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits for another connection, which may be allowed more, or for the stop.
    async fn stay_out(&self) {
        warn!(
            "the NATS user of this host may not use wadm.>, so this host keeps no applications; allow it, or set applications \
             to never"
        );
        self.standing.send_replace(Standing::Off);
        let mut reconnects = self.nats.reconnects.clone();
        tokio::select! {
            () = self.stop.cancelled() => {}
            // The connection itself has ended.
            changed = reconnects.changed() => if changed.is_err() {
                self.stop.cancelled().await;
            },
        }
    }

    /// Waits until the manager has gone, or for the stop.
    async fn stay_aside(&self, rival: Rival) {
        warn!(
            "{rival} answers in this lattice, so this host keeps no applications; it looks again every {} s. The setting \
             applications says whether hosts do: `always` takes over, `never` leaves it to the manager",
            LOOK.as_secs()
        );
        self.standing.send_replace(Standing::Aside(rival));
        let mut misses = 0;
        while misses < MISSES {
            self.pause(LOOK).await;
            if self.stop.is_cancelled() {
                return;
            }
            misses = match rival::round(&self.lattice).await {
                Some(_) => 0,
                None => misses + 1,
            };
        }
        info!("the deployment manager has gone, hosts keep applications");
    }

    /// Serves the API until stopped, or until a manager is met and has gone; an error if it cannot.
    async fn serve_until_rival(&self, setting: Applications) -> Result<(), SubscribeError> {
        let subscribed = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            subscribed = self.server.subscribe() => subscribed,
        };
        let requests = subscribed
            .inspect_err(|error| warn!(%error, "the API of applications is not served"))?;
        self.standing.send_replace(Standing::Keeping);
        let leave = self.stop.child_token();
        let serving = self.server.serve(requests, &leave);
        tokio::pin!(serving);
        let rival = tokio::select! {
            () = &mut serving => return Ok(()),
            rival = self.meet_rival(setting) => Some(rival),
            // The server says so a moment after it was asked.
            () = self.forbidden() => None,
        };
        leave.cancel();
        serving.await;
        if let Some(rival) = rival {
            self.stay_aside(rival).await;
        }
        Ok(())
    }

    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    async fn meet_rival(&self, setting: Applications) -> Rival {
        if setting == Applications::Always {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(rival) = rival::round(&self.lattice).await {
                return rival;
            }
        }
    }

    /// Looks for the bucket of targets when something was deployed: the first one makes it.
    async fn hear_news(self: Arc<Self>) {
        let Ok(mut news) =
            self.lattice.client.subscribe(self.lattice.subjects.manager_events()).await
        else {
            return;
        };
        // The news of a moment ago were not heard.
        self.targets.look();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                message = news.next() => match message {
                    Some(_) => self.targets.look(),
                    None => return,
                },
            }
        }
    }
}

/// Says whether one of the server's refusals is about the subjects of the API.
fn is_about_api(denied: &[String]) -> bool {
    denied.iter().any(|what| what.contains("\"wadm.api."))
}
