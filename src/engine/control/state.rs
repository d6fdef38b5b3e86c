//! This host as others see it: in ping replies, inventories and heartbeats.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{actors::supervisor::ActorView, providers::supervisor::ProviderView};
use lattice_base::config::labels::{LABELS_MAX, LabelError};
use lattice_protocol::{
    clock,
    control::types::{
        HostReply, Inventory, InventoryActor, InventoryInstance, InventoryProvider, Pairs,
        is_drained,
    },
    identity::keys::HostId,
};

/// The version clients see. It must be semantic versioning: a deployment manager parses it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Peers that are named in the reply to a ping; of more only the number is told, since every host
/// of a large lattice answers.
const PEERS_TOLD_MAX: usize = 64;
/// Bytes of a name in an inventory; names come out of modules and archives.
const NAME_BYTES_MAX: usize = 256;

/// The facts about a host that do not change while it runs.
#[derive(Clone, Debug)]
pub struct Facts {
    pub id: HostId,
    pub friendly_name: String,
    /// The cluster's public key.
    pub issuer: String,
    pub cluster_issuers: Vec<String>,
    pub lattice: String,
    pub js_domain: Option<String>,
    pub ctl_host: String,
    pub rpc_host: String,
    pub prov_rpc_host: String,
}

/// Whether a host takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Running,
    /// It keeps what it runs and takes nothing new.
    Drained,
    /// It finishes its calls and ends.
    Stopping,
}

impl Readiness {
    /// Returns its word for others.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Drained => "drained",
            Self::Stopping => "stopping",
        }
    }

    /// Returns its word where nothing is said of a host that takes work.
    fn told(self) -> Option<&'static str> {
        Some(self.word()).filter(|_| self != Self::Running)
    }
}

/// The facts, the labels and the time since start. Cheap to clone.
#[derive(Clone)]
pub struct HostState {
    facts: Arc<Facts>,
    labels: Arc<ArcSwap<Pairs>>,
    started: Instant,
    /// A number of this start.
    life: u64,
    /// When the host began to stop, in milliseconds since 1970.
    stopping: Arc<OnceLock<u64>>,
}

impl HostState {
    pub fn new(facts: Facts, labels: Pairs) -> Self {
        Self {
            facts: Arc::new(facts),
            labels: Arc::new(ArcSwap::from_pointee(labels)),
            started: Instant::now(),
            // One that every JSON reader keeps whole.
            life: rand::random::<u64>() >> 11,
            stopping: Arc::default(),
        }
    }

    /// Notes that the host begins to stop.
    pub fn begin_stop(&self) {
        // The first one counts.
        let _ = self.stopping.set(clock::now_ms());
    }

    /// When the host began to stop, in milliseconds since 1970, if it did.
    pub fn stopping_since_ms(&self) -> Option<u64> {
        self.stopping.get().copied()
    }

    /// Whether the host takes work.
    pub fn readiness(&self) -> Readiness {
        match self.stopping.get() {
            Some(_) => Readiness::Stopping,
            None if is_drained(&self.labels.load()) => Readiness::Drained,
            None => Readiness::Running,
        }
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// How long the host has been running.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// The labels of this moment.
    pub fn labels(&self) -> Pairs {
        Pairs::clone(&self.labels.load())
    }

    /// The labels for those who want to see them change.
    pub fn live_labels(&self) -> Arc<ArcSwap<Pairs>> {
        Arc::clone(&self.labels)
    }

    /// Sets a label that was checked, unless there is no room for it; `bytes_max` is what all
    /// labels together may have.
    pub fn put_label(&self, key: &str, value: &str, bytes_max: usize) -> Result<(), LabelError> {
        let mut outcome = Ok(());
        self.labels.rcu(|labels| {
            let mut changed = Pairs::clone(labels);
            changed.insert(key.to_owned(), value.to_owned());
            outcome = check_room(&changed, bytes_max);
            if outcome.is_ok() { Arc::new(changed) } else { Arc::clone(labels) }
        });
        outcome
    }

    /// Takes the labels that the settings have now in place of those they had before, all or none,
    /// unless there is no room for them. Labels that clients set meanwhile stay.
    pub fn replace_labels(
        &self,
        before: &Pairs,
        now: &Pairs,
        bytes_max: usize,
    ) -> Result<(), LabelError> {
        let mut outcome = Ok(());
        self.labels.rcu(|labels| {
            let changed = relabelled(labels, before, now);
            outcome = check_room(&changed, bytes_max);
            if outcome.is_ok() { Arc::new(changed) } else { Arc::clone(labels) }
        });
        outcome
    }

    /// Removes a label; one that is not there is as good as removed.
    pub fn remove_label(&self, key: &str) {
        self.labels.rcu(|labels| {
            let mut labels = Pairs::clone(labels);
            labels.remove(key);
            labels
        });
    }

    /// Whether every constraint equals a label of this host.
    pub fn matches(&self, constraints: &Pairs) -> bool {
        let labels = self.labels.load();
        constraints.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Reply to `ping.hosts`, with the other hosts that are there.
    pub fn ping(&self, peers: Vec<String>) -> HostReply {
        let facts = &self.facts;
        HostReply {
            id: facts.id.to_string(),
            issuer: facts.issuer.clone(),
            labels: self.labels(),
            friendly_name: facts.friendly_name.clone(),
            uptime_seconds: self.started.elapsed().as_secs(),
            uptime_human: human(self.started.elapsed()),
            version: VERSION.to_owned(),
            cluster_issuers: facts.cluster_issuers.join(","),
            js_domain: facts.js_domain.clone(),
            ctl_host: facts.ctl_host.clone(),
            prov_rpc_host: facts.prov_rpc_host.clone(),
            rpc_host: facts.rpc_host.clone(),
            lattice_prefix: facts.lattice.clone(),
            lattice: facts.lattice.clone(),
            peer_count: Some(peers.len()),
            peers: (peers.len() <= PEERS_TOLD_MAX).then_some(peers),
            state: self.readiness().told().map(str::to_owned),
            life: Some(self.life),
        }
    }

    /// Reply to `get.{host}.inv`.
    pub fn inventory(&self, actors: &[ActorView], providers: &[ProviderView]) -> Inventory {
        Inventory {
            host_id: self.facts.id.to_string(),
            issuer: self.facts.issuer.clone(),
            friendly_name: self.facts.friendly_name.clone(),
            labels: self.labels(),
            version: VERSION.to_owned(),
            uptime_human: human(self.started.elapsed()),
            uptime_seconds: self.started.elapsed().as_secs(),
            actors: actors.iter().map(inventory_actor).collect(),
            providers: providers.iter().map(inventory_provider).collect(),
        }
    }

    /// The data of a heartbeat: actors as key and count, the form every consumer since 2023 reads.
    pub fn heartbeat(&self, actors: &[ActorView], providers: &[ProviderView]) -> Value {
        let counts: BTreeMap<&str, u32> = actors
            .iter()
            .map(|actor| {
                (
                    actor.id.as_str(),
                    actor.groups.iter().fold(0, |sum: u32, group| sum.saturating_add(group.max)),
                )
            })
            .collect();
        let providers = providers.iter().map(|provider| {
            json!({
                "public_key": provider.id.as_str(),
                "link_name": provider.link_name.as_str(),
                "contract_id": provider.contract_id,
                "annotations": provider.annotations,
                "instance_id": provider.instance_id,
            })
        });
        let providers: Vec<Value> = providers.collect();
        let mut heartbeat = json!({
            "host_id": self.facts.id.as_str(),
            "issuer": self.facts.issuer,
            "friendly_name": self.facts.friendly_name,
            "labels": self.labels(),
            "version": VERSION,
            "uptime_seconds": self.started.elapsed().as_secs(),
            "uptime_human": human(self.started.elapsed()),
            "actors": counts,
            "providers": providers,
        });
        if let Some(state) = self.readiness().told() {
            heartbeat["state"] = state.into();
        }
        heartbeat
    }
}

/// Checks whether a host may have these labels.
fn check_room(labels: &Pairs, bytes_max: usize) -> Result<(), LabelError> {
    let bytes = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    match () {
        () if labels.len() > LABELS_MAX => Err(LabelError::TooMany),
        () if bytes > bytes_max => Err(LabelError::NoRoom { bytes, bytes_max }),
        () => Ok(()),
    }
}

/// Returns labels after those of the settings changed. A label that the settings do not have any
/// more goes if it has the value they gave it.
fn relabelled(current: &Pairs, before: &Pairs, now: &Pairs) -> Pairs {
    let mut changed = current.clone();
    changed.retain(|key, value| now.contains_key(key) || before.get(key) != Some(value));
    let fresh = now.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    changed.extend(fresh.map(|(key, value)| (key.clone(), value.clone())));
    changed
}

/// Bytes that an inventory has for these actors.
pub fn bytes_of_actors(actors: &[ActorView]) -> usize {
    actors.iter().map(|actor| json_bytes(&inventory_actor(actor))).sum()
}

/// Bytes that an inventory has for these providers.
pub fn bytes_of_providers(providers: &[ProviderView]) -> usize {
    providers.iter().map(|provider| json_bytes(&inventory_provider(provider))).sum()
}

/// Bytes that a row of a list takes in JSON, with its comma.
pub(crate) fn json_bytes(row: &impl Serialize) -> usize {
    serde_json::to_vec(row).map_or(0, |json| json.len() + 1)
}

fn inventory_provider(provider: &ProviderView) -> InventoryProvider {
    InventoryProvider {
        id: provider.id.to_string(),
        link_name: provider.link_name.to_string(),
        contract_id: provider.contract_id.clone(),
        image_ref: provider.reference.clone(),
        name: clipped(&provider.name),
        revision: provider.revision,
        annotations: provider.annotations.clone(),
        instance_id: provider.instance_id.clone(),
        is_configured: provider.is_configured,
    }
}

fn inventory_actor(actor: &ActorView) -> InventoryActor {
    // Clients that know of one revision only are told of the newer one.
    let newer = actor.trial.as_ref().map(|newer| (&newer.reference, newer.revision));
    let (reference, revision) = newer.unwrap_or((&actor.reference, actor.revision));
    InventoryActor {
        id: actor.id.to_string(),
        image_ref: reference.clone(),
        name: clipped(actor.name.as_deref().unwrap_or_default()),
        instances: actor
            .groups
            .iter()
            .map(|group| InventoryInstance {
                annotations: group.annotations.clone(),
                instance_id: group.instance_id.clone(),
                revision,
                image_ref: reference.clone(),
                max_instances: group.max,
                max_concurrent: u16::try_from(group.max).unwrap_or(u16::MAX),
            })
            .collect(),
        code: Some(actor.code.clone()),
        trial: actor.trial.as_ref().map(|newer| newer.told(&actor.reference, actor.revision)),
    }
}

/// The beginning of a name, as far as there is room for it.
fn clipped(name: &str) -> String {
    name[..name.floor_char_boundary(NAME_BYTES_MAX)].to_owned()
}

/// A duration as `1d 2h 3m 4s`, without leading zero parts.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 86400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(parts.len() - 1);
    let shown: Vec<String> =
        parts[first..].iter().map(|(count, unit)| format!("{count}{unit}")).collect();
    shown.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::supervisor::GroupView;
    use lattice_protocol::{
        control::types::{CodeInfo, DRAINED_LABEL},
        identity::keys::{ActorId, LinkName, ProviderId},
    };

    fn state() -> HostState {
        let id = HostId::parse("NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF").unwrap();
        let facts = Facts {
            id,
            friendly_name: "calm-otter-0042".into(),
            issuer: "CABC".into(),
            cluster_issuers: vec!["CABC".into(), "CDEF".into()],
            lattice: "default".into(),
            js_domain: Some("core".into()),
            ctl_host: "127.0.0.1".into(),
            rpc_host: "127.0.0.1".into(),
            prov_rpc_host: "127.0.0.1".into(),
        };
        HostState::new(facts, Pairs::from([("hostcore.os".into(), "linux".into())]))
    }

    fn actors() -> Vec<ActorView> {
        vec![ActorView {
            id: ActorId::parse("MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ").unwrap(),
            name: Some("Echo".into()),
            reference: "file:///echo.wasm".into(),
            revision: 3,
            code: CodeInfo::of(None),
            groups: vec![GroupView {
                annotations: Pairs::new(),
                instance_id: "i".into(),
                max: u32::MAX,
            }],
            trial: None,
        }]
    }

    fn providers() -> Vec<ProviderView> {
        vec![ProviderView {
            id: ProviderId::parse(PROVIDER).unwrap(),
            link_name: LinkName::parse("default").unwrap(),
            contract_id: "wasmcloud:httpserver".into(),
            reference: "reg.example/http:1.0".into(),
            name: "HTTP".into(),
            revision: 1,
            annotations: Pairs::new(),
            instance_id: "i".into(),
            is_configured: false,
        }]
    }

    const PROVIDER: &str = "VDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYIF3";
    const HOST: &str = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";
    const ACTOR: &str = "MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ";

    #[test]
    fn a_ping_reply_has_texts_where_clients_read_texts() {
        let state = state();
        assert_eq!(
            serde_json::to_value(state.ping(vec!["NABC".into()])).unwrap(),
            json!({"id": HOST, "issuer": "CABC", "labels": {"hostcore.os": "linux"}, "friendly_name": "calm-otter-0042",
                "uptime_seconds": 0, "uptime_human": "0s", "version": VERSION, "cluster_issuers": "CABC,CDEF",
                "js_domain": "core", "ctl_host": "127.0.0.1", "prov_rpc_host": "127.0.0.1", "rpc_host": "127.0.0.1",
                "lattice_prefix": "default", "lattice": "default", "peers": ["NABC"], "peer_count": 1,
                "life": state.life})
        );
        let many = state.ping(vec!["NABC".into(); 1000]);
        assert_eq!((many.peers, many.peer_count), (None, Some(1000)));
    }

    #[test]
    fn labels_have_room_in_a_message_whatever_is_put() {
        let state = state();
        for number in 1..LABELS_MAX {
            assert_eq!(state.put_label(&format!("k{number}"), "v", 10_000), Ok(()));
        }
        assert_eq!(state.put_label("more", "v", 10_000), Err(LabelError::TooMany));
        assert_eq!(state.put_label("k1", "other", 10_000), Ok(()));
        assert!(matches!(state.put_label("k1", "longer", 100), Err(LabelError::NoRoom { .. })));
        state.remove_label("k1");
        assert_eq!(state.put_label("more", "v", 10_000), Ok(()));
        assert_eq!(state.labels().len(), LABELS_MAX);
    }

    #[test]
    fn a_name_out_of_a_module_is_shown_as_far_as_there_is_room() {
        assert_eq!(clipped(&"ü".repeat(1000)), "ü".repeat(128));
        assert_eq!(clipped("Echo"), "Echo");
    }

    #[test]
    fn an_inventory_counts_under_both_names_and_has_no_second_id() {
        assert_eq!(
            serde_json::to_value(state().inventory(&actors(), &providers())).unwrap(),
            json!({"host_id": HOST, "issuer": "CABC", "friendly_name": "calm-otter-0042", "labels": {"hostcore.os": "linux"},
                "version": VERSION, "uptime_human": "0s", "uptime_seconds": 0,
                "providers": [{"id": PROVIDER, "link_name": "default", "contract_id": "wasmcloud:httpserver",
                    "image_ref": "reg.example/http:1.0", "name": "HTTP", "revision": 1, "annotations": {}, "instance_id": "i"}],
                "actors": [{"id": ACTOR, "image_ref": "file:///echo.wasm", "name": "Echo", "instances": [
                    {"annotations": {}, "instance_id": "i", "revision": 3, "image_ref": "file:///echo.wasm",
                     "max_instances": 4_294_967_295_u32, "max_concurrent": 65535}],
                    "code": {"kind": "module", "exports": []}}]})
        );
    }

    #[test]
    fn a_heartbeat_has_actors_as_an_object() {
        assert_eq!(
            state().heartbeat(&actors(), &providers()),
            json!({"host_id": HOST, "issuer": "CABC", "friendly_name": "calm-otter-0042", "labels": {"hostcore.os": "linux"},
                "version": VERSION, "uptime_seconds": 0, "uptime_human": "0s", "actors": {ACTOR: u32::MAX},
                "providers": [{"public_key": PROVIDER, "link_name": "default", "contract_id": "wasmcloud:httpserver",
                    "annotations": {}, "instance_id": "i"}]})
        );
    }

    #[test]
    fn a_host_that_is_drained_or_stops_says_so() {
        let state = state();
        let told = |state: &HostState| {
            (state.ping(Vec::new()).state, state.heartbeat(&[], &[])["state"].clone())
        };
        state.put_label(DRAINED_LABEL, "by hand", 10_000).unwrap();
        assert_eq!(told(&state), (Some("drained".into()), json!("drained")));
        state.begin_stop();
        assert_eq!(told(&state), (Some("stopping".into()), json!("stopping")));
        assert!(state.stopping_since_ms().is_some());
    }

    #[test]
    fn labels_of_the_settings_change_and_those_of_clients_stay() {
        for (current, before, now, expected) in [
            ("zone=a", "zone=a", "zone=b", "zone=b"),
            ("zone=a rack=7", "zone=a", "", "rack=7"),
            ("zone=by-hand", "zone=a", "", "zone=by-hand"),
            ("zone=by-hand", "zone=a", "zone=a", "zone=by-hand"),
            ("zone=by-hand", "zone=a", "zone=b", "zone=b"),
            ("", "zone=a", "zone=a", ""),
            ("rack=7", "", "zone=a", "rack=7 zone=a"),
        ] {
            let [current, before, now, expected] = [current, before, now, expected].map(pairs);
            assert_eq!(relabelled(&current, &before, &now), expected, "{current:?} {now:?}");
        }
        let state = state();
        let before = state.labels();
        let long = pairs("zone=much-longer-than-that");
        assert!(matches!(
            state.replace_labels(&before, &long, 10),
            Err(LabelError::NoRoom { bytes: 25, bytes_max: 10 })
        ));
        assert_eq!(state.labels(), before);
    }

    /// Reads labels as in `zone=a rack=7`.
    fn pairs(text: &str) -> Pairs {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn constraints_match_labels_exactly() {
        let state = state();
        let on = |value: &str| Pairs::from([("hostcore.os".to_owned(), value.to_owned())]);
        assert!(state.matches(&Pairs::new()) && state.matches(&on("linux")));
        assert!(
            !state.matches(&on("Linux"))
                && !state.matches(&Pairs::from([("x".into(), "y".into())]))
        );
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(human(Duration::from_secs(0)), "0s");
        assert_eq!(human(Duration::from_secs(65)), "1m 5s");
        assert_eq!(human(Duration::from_secs(3600)), "1h 0m 0s");
        assert_eq!(human(Duration::from_secs(90061)), "1d 1h 1m 1s");
    }
}
