//! `GET /metrics`: this host's numbers, in OpenMetrics for those who ask for it and as the [`plain`]
//! text for all others. Each host is read by itself; nothing here asks another one.
//!
//! Counters only grow while the host runs. The names that come from the wire have bounds, see
//! [`lattice_engine::meter`].

mod exemplars;
mod plain;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, text::encode},
    metrics::MetricType,
    registry::{Registry, Unit},
};
use tokio::time::timeout;

use super::{Dashboard, model::Model, refusal::Refusal};
use lattice_base::{
    lattice::connection::{Nats, confirm},
    telemetry,
};
use lattice_engine::{
    control::state::VERSION,
    host::face::Parts,
    meter::{Snapshot, edges::EdgeCounts},
    peers::refusals,
    providers::{external::health::Health, supervisor::Phase},
};
use lattice_protocol::{
    applications::api::StatusType,
    builtin,
    meter::{
        OperationCounts, Path, Tally, TargetCounts,
        histogram::{BOUNDS_US, Histogram},
    },
};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long the NATS server may take; what does not come back is left out.
const ROUND_TRIP: Duration = Duration::from_millis(800);
/// The times of calls, without the prefix and the unit: of what runs here, and of calls that left.
const DURATIONS: [&str; 2] = ["invocation_duration", "invocation_sent_duration"];

/// `GET /metrics`
pub async fn metrics(State(dashboard): State<Dashboard>, headers: HeaderMap) -> Response {
    let (parts, model) = (Arc::clone(&dashboard.0.parts), dashboard.model().clone());
    match text(parts, Some(model)).await {
        Ok(text) if plain::is_wanted(&headers) => {
            ([(CONTENT_TYPE, plain::TYPE)], plain::of(&text)).into_response()
        }
        Ok(text) => ([(CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("write the metrics: {error}"))
                .into_response()
        }
    }
}

/// The numbers of a host, in OpenMetrics; without a model of the lattice, those of it are left out.
pub async fn text(parts: Arc<Parts>, model: Option<Model>) -> Result<String, fmt::Error> {
    let (ctl, rpc) = tokio::join!(round_trip(&parts.context.ctl), round_trip(&parts.context.rpc));
    let mut registry = Registry::with_prefix("lattice");
    let names = names(&parts);
    let meter = parts.router.meter();
    let (calls, seen) = (meter.snapshot(), meter.exemplars());
    let seen = [(&calls.served, &seen[0]), (&calls.called, &seen[1])]
        .map(|(targets, seen)| exemplars::of_buckets(targets, seen));
    registry.register_collector(Box::new(Host {
        parts,
        model,
        names,
        calls,
        round_trips: [("ctl", ctl), ("rpc", rpc)],
    }));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    for (name, seen) in DURATIONS.into_iter().zip(seen) {
        text = exemplars::added(text, &format!("lattice_{name}_seconds_bucket{{"), &seen);
    }
    Ok(text)
}

/// All operations of all targets.
fn operations(targets: &[TargetCounts]) -> impl Iterator<Item = (&TargetCounts, &OperationCounts)> {
    targets.iter().flat_map(|target| target.operations.iter().map(move |counts| (target, counts)))
}

/// The names of what the lattice knows, by public key.
fn names(parts: &Parts) -> HashMap<String, String> {
    let table = parts.context.links.table();
    let claimed = table.all_claims().map(|claims| (claims.subject.clone(), claims.name.clone()));
    let built_in =
        builtin::CATALOGUE.iter().map(|known| (known.public_key.to_owned(), known.reference()));
    claimed.chain(built_in).collect()
}

async fn round_trip(nats: &Nats) -> Option<Duration> {
    let began = Instant::now();
    matches!(timeout(ROUND_TRIP, confirm(&nats.client)).await, Ok(Ok(()))).then(|| began.elapsed())
}

/// The host at the moment of a scrape.
struct Host {
    parts: Arc<Parts>,
    /// None of a host without a dashboard.
    model: Option<Model>,
    /// The names of actors and providers, by public key.
    names: HashMap<String, String>,
    calls: Snapshot,
    round_trips: [(&'static str, Option<Duration>); 2],
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for Host {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        self.host(&mut encoder)?;
        self.calls(&mut encoder)?;
        self.actors(&mut encoder)?;
        self.providers(&mut encoder)?;
        self.nats(&mut encoder)?;
        self.store(&mut encoder)?;
        self.refused(&mut encoder)?;
        self.refused_links(&mut encoder)?;
        self.lost(&mut encoder)?;
        self.applications(&mut encoder)
    }
}

/// A family of gauges.
fn gauges<'a>(
    encoder: &mut DescriptorEncoder,
    (name, help, unit): (&str, &str, Option<&Unit>),
    values: impl IntoIterator<Item = (Labels<'a>, f64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
    values
        .into_iter()
        .try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
}

/// A family of counters.
fn counters<'a>(
    encoder: &mut DescriptorEncoder,
    (name, help): (&str, &str),
    values: impl IntoIterator<Item = (Labels<'a>, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    values.into_iter().try_for_each(|(labels, value)| {
        family.encode_family(&labels)?.encode_counter::<Labels<'_>, u64, f64>(&value, None)
    })
}

fn histogram(mut encoder: MetricEncoder<'_>, took: &Histogram, sum_us: u64) -> fmt::Result {
    let counts = took.in_buckets(BOUNDS_US.iter().map(|us| us * 1000));
    let ends = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = ends.zip(counts).collect();
    encoder.encode_histogram::<Labels<'_>>(sum_us as f64 / 1e6, took.count(), &buckets, None)
}

impl Host {
    /// The name of an actor or a provider; empty if nobody knows one.
    fn name(&self, id: &str) -> &str {
        self.names.get(id).map_or("", String::as_str)
    }

    fn host_name(&self) -> &str {
        &self.parts.context.state.facts().friendly_name
    }

    /// The name of an actor, beside its id.
    fn actor<'a>(&'a self, id: &'a str) -> Labels<'a> {
        vec![("actor", id), ("actor_name", self.name(id)), ("host_name", self.host_name())]
    }

    /// The name of a provider and its link name, beside its id.
    fn provider<'a>(&'a self, id: &'a str, link_name: &'a str) -> Labels<'a> {
        vec![
            ("provider", id),
            ("provider_name", self.name(id)),
            ("link_name", link_name),
            ("host_name", self.host_name()),
        ]
    }

    /// Every operation of every target, with what names it.
    fn each<'a>(
        &'a self,
        targets: &'a [TargetCounts],
    ) -> impl Iterator<Item = (Labels<'a>, &'a Tally)> {
        operations(targets).map(|(target, counts)| {
            let mut labels = labels(target, counts);
            labels.extend(self.names_of(&target.id));
            (labels, &counts.tally)
        })
    }

    /// The names of a target and of this host.
    fn names_of<'a>(&'a self, id: &'a str) -> [(&'static str, &'a str); 2] {
        let kind = if id.starts_with('V') { "provider_name" } else { "actor_name" };
        [(kind, self.name(id)), ("host_name", self.host_name())]
    }

    /// The calls that began here, by caller and target, and the answers of HTTP servers.
    fn edges(&self, encoder: &mut DescriptorEncoder, edges: &[EdgeCounts]) -> fmt::Result {
        let results = edges.iter().flat_map(|edge| results(&self.edge(edge), &edge.counts.sum()));
        let about = ("calls_made", "Calls that began on this host, by caller and target.");
        counters(encoder, about, results)?;
        let answers = edges.iter().filter_map(|edge| Some((edge, edge.http?)));
        let answers = answers.flat_map(|(edge, http)| {
            http.each().map(|(class, count)| {
                let labels = vec![
                    ("provider", &*edge.caller),
                    ("provider_name", self.name(&edge.caller)),
                    ("link_name", &*edge.caller_link_name),
                    ("actor", &*edge.counts.id),
                    ("actor_name", self.name(&edge.counts.id)),
                    ("host_name", self.host_name()),
                    ("class", class),
                ];
                (labels, count)
            })
        });
        let about = ("http_responses", "Answers of HTTP servers, by the class of their status.");
        counters(encoder, about, answers)
    }

    fn edge<'a>(&'a self, edge: &'a EdgeCounts) -> Labels<'a> {
        vec![
            ("caller", &*edge.caller),
            ("caller_name", self.name(&edge.caller)),
            ("caller_link_name", &*edge.caller_link_name),
            ("target", &*edge.counts.id),
            ("target_name", self.name(&edge.counts.id)),
            ("contract_id", &*edge.contract_id),
            ("link_name", &*edge.counts.link_name),
            ("host_name", self.host_name()),
        ]
    }

    fn host(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let parts = &self.parts;
        let facts = parts.context.state.facts();
        let domain = facts.js_domain.as_deref().unwrap_or_default();
        let labels = vec![
            ("host_id", facts.id.as_str()),
            ("friendly_name", &*facts.friendly_name),
            ("lattice", &*facts.lattice),
            ("js_domain", domain),
            ("version", VERSION),
        ];
        encoder
            .encode_descriptor("host", "This host.", None, MetricType::Info)?
            .encode_info(&labels)?;
        let uptime = parts.context.state.uptime().as_secs_f64();
        gauges(
            encoder,
            ("host_uptime", "Since the start of this host.", Some(&Unit::Seconds)),
            [(vec![], uptime)],
        )?;
        let memory = lattice_engine::control::probe::calls::memory_bytes()
            .map(|bytes| (vec![], bytes as f64));
        gauges(
            encoder,
            ("host_memory", "Resident memory of this process.", Some(&Unit::Bytes)),
            memory,
        )?;
        let (silent, heard): (Vec<_>, Vec<_>) =
            parts.context.peers.others().into_iter().partition(|(_, silent)| *silent);
        let peers = [
            (vec![("state", "heard")], heard.len() as f64),
            (vec![("state", "lost")], silent.len() as f64),
        ];
        gauges(encoder, ("peers", "Other hosts of this make, as this one hears them.", None), peers)
    }

    fn calls(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let (served, called) = (&self.calls.served, &self.calls.called);
        for (name, help, targets) in [
            ("invocations", "Calls that ended, of what runs on this host.", served),
            ("invocations_sent", "Calls that left this host, by their end.", called),
        ] {
            let results = self.each(targets).flat_map(|(labels, tally)| results(&labels, tally));
            counters(encoder, (name, help), results)?;
        }
        let [here, sent] = DURATIONS;
        for (name, help, targets) in [
            (here, "How long calls of what runs on this host took.", served),
            (sent, "How long calls that left this host took.", called),
        ] {
            let mut family = encoder.encode_descriptor(
                name,
                help,
                Some(&Unit::Seconds),
                MetricType::Histogram,
            )?;
            for (labels, tally) in self.each(targets) {
                histogram(family.encode_family(&labels)?, &tally.took, tally.sum_us)?;
            }
        }
        let in_work = self.each(served).map(|(labels, tally)| (labels, tally.in_work as f64));
        gauges(
            encoder,
            ("invocations_in_work", "Calls of what runs on this host that have not ended.", None),
            in_work,
        )?;
        self.edges(encoder, &self.parts.router.meter().edges())
    }

    fn actors(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let parts = &self.parts;
        let statuses = parts.router.statuses();
        let rooms: Vec<_> =
            statuses.iter().filter_map(|(id, status)| Some((&**id, status.room?))).collect();
        let permits = rooms.iter().flat_map(|(id, room)| {
            let used = room.limit.saturating_sub(room.free);
            [("free", room.free), ("used", used)].map(|(state, count)| {
                let mut labels = self.actor(id);
                labels.push(("state", state));
                (labels, f64::from(count))
            })
        });
        gauges(encoder, ("actor_permits", "Calls an actor may run at a time.", None), permits)?;
        let waiting = rooms.iter().map(|(id, room)| (self.actor(id), room.waiting as f64));
        gauges(
            encoder,
            ("actor_queue_depth", "Calls that wait for a permit of an actor.", None),
            waiting,
        )?;
        let bounds = rooms.iter().map(|(id, room)| (self.actor(id), room.queue_max as f64));
        gauges(
            encoder,
            ("actor_queue_max", "Calls that may wait for a permit of an actor.", None),
            bounds,
        )?;
        self.pools(encoder)?;
        let sources = parts.engine.code_sources();
        let sources =
            [("compiled", sources.compiled), ("disk", sources.disk), ("lattice", sources.lattice)];
        counters(
            encoder,
            ("modules_loaded", "Modules and components by where their code came from."),
            sources.map(|(source, count)| (vec![("source", source)], count)),
        )?;
        let compiles = parts.engine.compiles();
        let family = (
            "module_compile_duration",
            "How long modules took to be compiled, or to be found on disk or in the lattice.",
        );
        let metric = encoder.encode_descriptor(
            family.0,
            family.1,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        histogram(metric, &compiles.took, compiles.sum_us)
    }

    /// The pools of instances: that of modules, and that of components.
    fn pools(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let parts = &self.parts;
        for (name, help, slots) in [
            ("instance_pool_slots", "Slots for instances of modules.", &parts.slots),
            (
                "component_pool_slots",
                "Slots for instances of components; one instance takes one or more.",
                &parts.component_slots,
            ),
        ] {
            let usage = slots.usage();
            let pool = [
                (vec![("state", "running")], usage.running as f64),
                (vec![("state", "idle")], usage.idle as f64),
                (vec![("state", "free")], usage.free as f64),
            ];
            gauges(encoder, (name, help, None), pool)?;
        }
        let used = parts.engine.component_bytes().load(Ordering::Relaxed);
        let slots = parts.engine.component_slots() as usize;
        let max = parts.engine.memory_max_bytes().saturating_mul(slots);
        let bytes = [
            (vec![("state", "used")], used as f64),
            (vec![("state", "free")], max.saturating_sub(used) as f64),
        ];
        let help = "Linear memory of instances of components, and what they may have beyond it.";
        gauges(encoder, ("component_pool", help, Some(&Unit::Bytes)), bytes)
    }

    fn providers(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let conditions = self.parts.providers.conditions();
        let all = conditions.iter().map(|condition| {
            (self.provider(condition.id.as_str(), condition.link_name.as_str()), condition)
        });
        let restarts = all.clone().map(|(labels, condition)| (labels, condition.restarts));
        counters(
            encoder,
            (
                "provider_restarts",
                "How often a provider was started again after it ended by itself.",
            ),
            restarts,
        )?;
        let up = all.clone().map(|(labels, condition)| {
            (labels, f64::from(u8::from(condition.phase == Phase::Running)))
        });
        gauges(encoder, ("provider_up", "Whether a provider that is wanted runs.", None), up)?;
        let healthy = all.filter_map(|(labels, condition)| match &*condition.health.borrow() {
            Health::Unknown => None,
            Health::Healthy => Some((labels, 1.0)),
            Health::Unhealthy(_) => Some((labels, 0.0)),
        });
        gauges(
            encoder,
            ("provider_healthy", "Whether a provider answered its last health check well.", None),
            healthy,
        )
    }

    fn nats(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let parts = &self.parts;
        let lines = [("ctl", &parts.context.ctl), ("rpc", &parts.context.rpc)];
        let times = self
            .round_trips
            .iter()
            .filter_map(|(name, took)| Some((vec![("connection", *name)], (*took)?.as_secs_f64())));
        let family = (
            "nats_round_trip",
            "The time a message takes to the NATS server and back.",
            Some(&Unit::Seconds),
        );
        gauges(encoder, family, times)?;
        let up = self
            .round_trips
            .iter()
            .map(|(name, took)| (vec![("connection", *name)], f64::from(u8::from(took.is_some()))));
        gauges(encoder, ("nats_up", "Whether messages come back from the NATS server.", None), up)?;
        let reconnects =
            lines.map(|(name, nats)| (vec![("connection", name)], *nats.reconnects.borrow()));
        counters(encoder, ("nats_reconnects", "How often a connection came back."), reconnects)?;
        let refused = [(vec![], parts.context.answers.refused())];
        let about = (
            "answers_refused",
            "Questions with a reply subject that is no inbox, which were not answered.",
        );
        counters(encoder, about, refused)?;
        let bytes = lines.into_iter().flat_map(|(name, nats)| {
            let statistics: Arc<async_nats::Statistics> = nats.client.statistics();
            [("in", &statistics.in_bytes), ("out", &statistics.out_bytes)].map(
                |(direction, bytes)| {
                    (
                        vec![("connection", name), ("direction", direction)],
                        bytes.load(Ordering::Relaxed),
                    )
                },
            )
        });
        counters(encoder, ("nats_bytes", "Bytes that passed a connection."), bytes)
    }

    fn store(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let parts = &self.parts;
        let lag = self.model.as_ref().map(|model| (vec![], model.store_lag().as_secs_f64()));
        let family = (
            "store_lag",
            "Since when the bucket of the lattice's metadata is not heard.",
            Some(&Unit::Seconds),
        );
        gauges(encoder, family, lag)?;
        let known = f64::from(u8::from(*parts.context.links.synced().borrow()));
        gauges(
            encoder,
            ("store_known", "Whether what the lattice knows is known here.", None),
            [(vec![], known)],
        )?;
        let table = parts.context.links.table();
        let entries = [
            (vec![("kind", "link")], table.links_len() as f64),
            (vec![("kind", "claims")], table.claims_len() as f64),
        ];
        gauges(encoder, ("store_entries", "What is known of the lattice.", None), entries)
    }

    /// The calls and messages that were not taken.
    fn refused(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let parts = &self.parts;
        let tokens = parts.context.tokens.health();
        let tokens = [("untimely", tokens.untimely), ("repeated", tokens.repeated)];
        let tokens = tokens.map(|(reason, count)| (vec![("reason", reason)], count));
        let about =
            ("tokens_refused", "Tokens of calls that are too old, of later, or used before.");
        counters(encoder, about, tokens)?;
        let kinds = [
            ("word", refusals::Refusal::Word),
            ("call", refusals::Refusal::Call),
            ("answer", refusals::Refusal::Answer),
        ];
        let sessions = &parts.context.sessions;
        let messages = kinds.map(|(kind, of)| (vec![("kind", kind)], sessions.refused(of)));
        let about = ("messages_refused", "Messages in the name of a host that nothing proved.");
        counters(encoder, about, messages)
    }

    /// The links that were not taken.
    fn refused_links(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let refused = self.parts.router.refused_links();
        let mut links: BTreeMap<[&str; 2], f64> = BTreeMap::new();
        for (link, _) in &refused {
            *links.entry([&*link.provider_id, &*link.link_name]).or_default() += 1.0;
        }
        let links =
            links.into_iter().map(|([id, link_name], count)| (self.provider(id, link_name), count));
        let about = ("links_refused", "Links that a provider here does not take on.", None);
        gauges(encoder, about, links)
    }

    /// The lines and entries that were not kept.
    fn lost(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let history = &self.parts.context.history;
        let lines = [("log", Some(telemetry::lost())), ("audit", history.log_lost())];
        let lines = lines.into_iter().filter_map(|(log, lost)| Some((vec![("log", log)], lost?)));
        let about = ("log_lines_lost", "Lines of a log that could not be written, or not in time.");
        counters(encoder, about, lines)?;
        let told = telemetry::otel::lost().map(|(of, lost)| (vec![("signal", of)], lost));
        let about = ("telemetry_lost", "Spans, lines and reports of counts no collector took.");
        counters(encoder, about, told)?;
        let about = ("history_left_out", "Entries for the history that found no room.");
        counters(encoder, about, [(vec![], history.left_out())])
    }

    /// The applications of the lattice, from the one host that tells what needs attention.
    fn applications(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let watching = self.model.as_ref().filter(|model| model.is_watched());
        let known = watching.and_then(|model| model.shelf().known());
        let counts = known.iter().flat_map(|known| {
            StatusType::ALL.map(|state| {
                let of_state = known.all.values().filter(|one| one.status == state);
                (vec![("state", state.word())], of_state.count() as f64)
            })
        });
        let about = "Applications by their state; one host of the lattice tells.";
        gauges(encoder, ("applications", about, None), counts)
    }
}

fn labels<'a>(target: &'a TargetCounts, counts: &'a OperationCounts) -> Labels<'a> {
    let path = match counts.path {
        Path::Local => "local",
        Path::Nats => "nats",
    };
    vec![
        ("target", &*target.id),
        ("link_name", &*target.link_name),
        ("operation", &*counts.operation),
        ("path", path),
    ]
}

/// How calls ended, each end with these labels.
fn results<'a>(labels: &Labels<'a>, tally: &Tally) -> [(Labels<'a>, u64); 5] {
    let errors = tally.errors();
    let each = [
        ("ok", tally.calls.saturating_sub(errors)),
        ("failed", tally.failed),
        ("timed_out", tally.timed_out),
        ("refused", tally.refused),
        ("abandoned", tally.abandoned),
    ];
    each.map(|(result, count)| {
        let mut labels = labels.clone();
        labels.push(("result", result));
        (labels, count)
    })
}
