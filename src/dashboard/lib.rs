//! The dashboard: the page an operator keeps open, the API it uses, health checks and metrics, on
//! one port.
//!
//! ```text
//! listen ─▶ auth::guard ─▶ assets            the page
//!                        ├▶ api              what it shows and does, described by
//!   /api/v1/openapi.json ├▶ stream           what changed, as server-sent events
//!                        ├▶ health, metrics  for machines
//!           model ◀──────┘  the lattice in memory, fed by the metadata watch, events and answers
//! ```
//!
//! * [`auth`] decides who may come in, by the secret that [`token`] keeps; [`mask`] hides what a
//!   mere reader may not see. [`listen`] is the port, [`entry`] where commands find it.
//! * [`model`] has the lattice in memory; it asks other hosts only while somebody looks.
//! * [`exported`] tells a collector what `metrics` tells those who ask, also without a dashboard.
//! * [`applications`] starts the keeping of applications beside it.
//! * [`operations`] are the changes somebody set off, each with its stages and its end.
//!
//! The dashboard is a client of the lattice like any other: what it changes goes over the control
//! interface, also to its own host. It is not essential: a host without it works.

#![deny(unsafe_code)]
#![warn(clippy::print_stdout, clippy::print_stderr)]

// Its tests leave nothing behind.
#[cfg(test)]
use lattice_test_keeper as _;

mod actor;
mod alerts;
mod api;
mod applications;
mod assets;
mod auth;
mod bundle;
pub mod entry;
mod exported;
mod health;
mod listen;
mod mask;
mod metrics;
mod model;
mod operations;
mod refusal;
mod stream;
pub mod token;

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use async_nats::connection::State as ConnectionState;
use axum::{Router, middleware, routing::get};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, error, info, info_span, warn};

use alerts::{Alerts, hook::Hook};
use auth::{Auth, Reading};
use lattice_applications::manager::Manager;
use lattice_base::{
    config::{self, Config},
    store::jetstream::making::Making,
};
use lattice_client::{history::History, lattice::Lattice};
use lattice_engine::{
    host::face::{Face, Opened, Parts, Place},
    host_context::HostContext,
};
use lattice_protocol::history::Origin;
use model::{Model, past::Past};
use operations::Operations;

pub use model::events::{Severity, sentence};

/// The dashboard of a host. Cheap to clone.
#[derive(Clone)]
pub struct Dashboard(Arc<Inner>);

struct Inner {
    parts: Arc<Parts>,
    /// The lattice, as a client sees it.
    lattice: Lattice,
    auth: Auth,
    model: Model,
    past: Past,
    alerts: Alerts,
    operations: Operations,
    /// Keeps applications in this host.
    manager: Arc<Manager>,
    /// Tells one start of the host from the next.
    life: String,
    /// Ends what goes on after the host has finished its work.
    stop: CancellationToken,
    /// Where commands find the dashboard; none if there is no place to note it.
    _noted: Option<entry::Noted>,
}

/// The dashboard and the keeping of applications, as a host opens them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opener;

impl Face for Opener {
    fn open<'a>(
        &'a self,
        parts: Parts,
        config: &'a Config,
        state_dir: &'a Path,
        tasks: &'a TaskTracker,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Opened> {
        async move {
            let keeper = applications::start(&parts.context, config, stop).await;
            let parts = Arc::new(parts);
            let dashboard = match &config.dashboard {
                Some(settings) => {
                    let manager = Arc::clone(&keeper.0);
                    let making = Making::of_metadata(config.kv_replicas, config.kv_max_bytes);
                    let alerts = Alerts::new(&parts.context, making);
                    let webhook = config.attention_webhook.as_ref();
                    let beside = Beside { manager, alerts, webhook };
                    Dashboard::open(Arc::clone(&parts), beside, settings, state_dir, tasks, stop)
                        .await
                        .inspect_err(|error| error!("no dashboard: {error:#}"))
                        .ok()
                }
                None => None,
            };
            if dashboard.is_none() {
                exported::start_alone(parts, tasks, stop).await;
            }
            Opened { dashboard, manager: Some(Arc::new(keeper)) }
        }
        .boxed()
    }
}

/// The things that a dashboard has beside the parts of its host.
pub struct Beside<'a> {
    pub manager: Arc<Manager>,
    alerts: Alerts,
    webhook: Option<&'a config::Webhook>,
}

impl Dashboard {
    /// Listens, and answers from here on.
    pub async fn open(
        parts: Arc<Parts>,
        Beside { manager, alerts, webhook }: Beside<'_>,
        settings: &config::Dashboard,
        state_dir: &Path,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Place> {
        let listener = listen::bind(settings.address).await?;
        let address = listener.local_addr().context("read the address")?;
        // Before it answers anybody: no actor may reach it.
        parts.sockets.add(address);
        let file = state_dir.join(token::FILE);
        let (kept, token_file) = match token::kept(&file) {
            Ok(kept) => (kept, Some(file)),
            Err(error) => {
                warn!(%error, "no secret of the dashboard can be kept in {}, so no link logs in to it", file.display());
                (config::Secret::new(token::random()), None)
            }
        };
        let reading = match (&settings.token, address.ip().is_loopback()) {
            (None, true) => Reading::Open,
            _ => Reading::Closed,
        };
        let place = Place { address, token_file: token_file.clone() };
        Self::announce(&place, settings.address.port());
        let facts = parts.context.state.facts();
        let host_id = facts.id.to_string();
        let record = entry::Record {
            url: place.url(),
            host_id: host_id.clone(),
            host_name: facts.friendly_name.clone(),
            lattice: facts.lattice.clone(),
            directory: std::env::current_dir().ok(),
        };
        let noted = entry::note(state_dir, &record)
            .inspect_err(|error| warn!(%error, "`host dashboard` will not find this dashboard"))
            .ok();
        let model = Model::new(&host_id);
        let operations = Operations::new(model.clone(), parts.context.lifeline.closing.clone());
        let auth = Auth::new(auth::Setup {
            kept,
            file: token_file,
            set: settings.token.clone(),
            reading,
            names: settings.names.clone(),
            host_id,
        });
        let HostContext { ctl, subjects, js_domain, authority, .. } = &*parts.context;
        // Of whatever is done for no session.
        let origin = Origin {
            kind: "dashboard".to_owned(),
            from: facts.friendly_name.clone(),
            ..Origin::default()
        };
        let lattice = Lattice::new(
            ctl.client.clone(),
            subjects.clone(),
            lattice_client::TIMEOUT,
            js_domain.clone(),
        )
        .with_origin(origin);
        let trust = authority.trust().clone();
        let past = Past::new(History::new(
            ctl.clone(),
            js_domain.as_deref(),
            subjects.lattice().as_str(),
            trust,
        ));
        let life = uuid::Uuid::new_v4().simple().to_string();
        let stopped = stop.clone();
        let inner = Inner {
            parts,
            lattice,
            auth,
            model,
            past,
            alerts,
            operations,
            manager,
            life,
            stop: stopped,
            _noted: noted,
        };
        let dashboard = Self(Arc::new(inner));
        dashboard.spawn(listener, tasks, stop);
        dashboard.tell_attention(webhook, tasks, stop);
        exported::start(&dashboard).await;
        Ok(place)
    }

    fn announce(place: &Place, wanted: u16) {
        let url = place.url();
        match &place.token_file {
            Some(file) => info!(
                "Dashboard at {url}; `host dashboard` logs in, or the token in {}",
                file.display()
            ),
            None => info!("Dashboard at {url}"),
        }
        if wanted != 0 && place.address.port() != wanted {
            info!(port = wanted, "the port is taken, so the dashboard has the next free one");
        }
    }

    fn spawn(&self, listener: TcpListener, tasks: &TaskTracker, stop: &CancellationToken) {
        tasks.spawn(
            model::collector::run(self.clone(), stop.clone()).instrument(info_span!("dashboard")),
        );
        let following = model::applications::run(self.clone(), stop.clone());
        tasks.spawn(following.instrument(info_span!("dashboard")));
        let remembering = model::past::run(self.clone(), stop.clone());
        tasks.spawn(remembering.instrument(info_span!("dashboard")));
        let app = self.clone().app();
        tasks.spawn(listen::run(listener, app, stop.clone()).instrument(info_span!("dashboard")));
    }

    /// Answers what needs attention, and tells it outside if it is this host's turn.
    fn tell_attention(
        &self,
        webhook: Option<&config::Webhook>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        let context = &self.parts().context;
        let (client, subject) = (context.ctl.client.clone(), context.subjects.attention());
        let (hook, sending) = Hook::new(client, subject, webhook, stop.clone());
        let telling = alerts::run(self.clone(), hook, stop.clone());
        tasks.spawn(telling.instrument(info_span!("attention")));
        if let Some(sending) = sending {
            tasks.spawn(sending.instrument(info_span!("attention")));
        }
        // Asked by whoever has no browser; until the host ends it holds this dashboard.
        let attendant = alerts::Attendant(self.clone());
        context.attention.fill(Arc::new(attendant));
    }

    fn app(self) -> Router {
        Router::new()
            .route("/", get(assets::page))
            .route("/login", get(assets::login))
            .route("/favicon.ico", get(assets::icon))
            .route("/assets/{*path}", get(assets::file))
            .route("/healthz", get(health::live))
            .route("/api/livez", get(health::live))
            .route("/readyz", get(health::ready))
            .route("/api/readyz", get(health::ready))
            .route("/metrics", get(metrics::metrics))
            .merge(api::routes())
            .fallback(assets::page_or_nothing)
            .layer(middleware::from_fn_with_state(self.clone(), auth::guard::pass))
            .layer(middleware::from_fn(actor::refuse))
            .with_state(self)
    }

    fn parts(&self) -> &Parts {
        &self.0.parts
    }

    fn auth(&self) -> &Auth {
        &self.0.auth
    }

    fn model(&self) -> &Model {
        &self.0.model
    }

    /// Returns what people say about what needs attention.
    fn alerts(&self) -> &Alerts {
        &self.0.alerts
    }

    /// Returns the history of the lattice.
    fn past(&self) -> &Past {
        &self.0.past
    }

    fn operations(&self) -> &Operations {
        &self.0.operations
    }

    fn lattice(&self) -> &Lattice {
        &self.0.lattice
    }

    /// Whether the host has both of its connections to NATS.
    fn is_connected(&self) -> bool {
        let context = &self.parts().context;
        let mut lines = [&context.ctl, &context.rpc].into_iter();
        lines.all(|nats| nats.client.connection_state() == ConnectionState::Connected)
    }

    /// Returns the keeping of applications in this host.
    fn manager(&self) -> &Manager {
        &self.0.manager
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_named_as_a_browser_takes_it() {
        let url =
            |address: &str| Place { address: address.parse().unwrap(), token_file: None }.url();
        assert_eq!(url("127.0.0.1:4000"), "http://127.0.0.1:4000");
        assert_eq!(url("[::1]:4001"), "http://[::1]:4001");
        assert_eq!(url("0.0.0.0:4000"), "http://localhost:4000");
    }
}
