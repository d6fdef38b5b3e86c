//! The entries of the lattice's buckets and of its history, read by this binary: how many there are
//! of each kind, and which it cannot read.
//!
//! Every entry is read, so the doctor leaves this to `host upgrade-check`. [`gather`] reads, and
//! [`of_metadata`], [`of_desired`], [`of_manifests`] and [`of_attention`] judge one entry each, and
//! ask nobody.

use std::{collections::BTreeMap, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::timeout;

use super::facts::{Facts, Unknown};
use lattice_applications::{leases::Lease, targets::Target};
use lattice_base::{
    lattice::connection::Nats,
    store::{desired::Desired, jetstream::making::Making},
};
use lattice_client::history::{self, History, Kept as Written, Range};
use lattice_protocol::{
    applications::{
        manifest::Manifest,
        rollout::Rollout,
        stored::{BUCKET as MANIFESTS, Stored as Versions, model_key, set_key},
    },
    attention::{self, Mark, parse_mark_key},
    desired::{self, Key as DesiredKey, Rejected, Trust, kept::Kept},
    history::{Audit, Happened, Kind as HistoryKind, Minute, Said, stream},
    links::{LinkChange, LinkDefinition, Table},
    store::{
        Entry,
        keys::{self, Key},
    },
};

/// Keys that are named of those that cannot be read, of each kind.
const NAMED_MAX: usize = 20;
/// How much of the history is read: what was written last shows its form.
const HISTORY_MS: u64 = 3_600_000;
/// How long the history may take to be read.
const HISTORY_TIMEOUT: Duration = Duration::from_secs(10);

/// All that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// By place and kind.
    pub kinds: Vec<KindCount>,
    /// The places that could not be read, and why.
    pub failed: Vec<(String, String)>,
}

/// The entries of one kind in one place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KindCount {
    /// The bucket or the stream.
    pub place: String,
    pub kind: &'static str,
    pub entries: u64,
    /// Entries that this binary cannot read.
    pub unreadable: u64,
    /// The first of these.
    pub keys: Vec<Unreadable>,
    /// Entries that no cluster signed that is known here: whether they can be read is not known.
    pub unproven: u64,
}

/// An entry that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    pub key: String,
    pub why: String,
}

/// How an entry reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    Fine,
    Unreadable(String),
    /// It is not signed by a cluster that is known here.
    Unproven,
}

impl KindCount {
    fn of(place: &str, kind: &'static str) -> Self {
        Self { place: place.to_owned(), kind, ..Self::default() }
    }

    fn count(&mut self, key: &str, reading: Reading) {
        self.entries += 1;
        match reading {
            Reading::Fine => {}
            Reading::Unproven => self.unproven += 1,
            Reading::Unreadable(why) => {
                self.unreadable += 1;
                if self.keys.len() < NAMED_MAX {
                    self.keys.push(Unreadable { key: key.to_owned(), why });
                }
            }
        }
    }
}

/// Reads everything that the lattice keeps.
pub async fn gather(facts: &Facts) -> Result<Stored, Unknown> {
    let Some(config) = &facts.settings.config else {
        return Err("the settings cannot be used".to_owned());
    };
    let Ok(nats) = &facts.ctl.connected else {
        return Err("there is no connection to the NATS server (nats-ctl)".to_owned());
    };
    let hosts = facts.lattice.as_ref().map(|seen| seen.hosts.as_slice()).unwrap_or_default();
    let domain = history::domain(config, hosts);
    let domain = domain.as_deref();
    let lattice = config.lattice.as_str();
    let trust = history::trust(config, hosts);
    let archive = History::new(nats.clone(), domain, lattice, trust.clone());
    let metadata = keys::bucket(lattice);
    let (desired, said) = (desired::bucket(lattice), attention::bucket(lattice));
    let history = stream(lattice);
    let (of_lattice, of_hosts, of_applications, of_people, past) = tokio::join!(
        entries(nats, domain, &metadata),
        entries(nats, domain, &desired),
        entries(nats, domain, MANIFESTS),
        entries(nats, domain, &said),
        timeout(HISTORY_TIMEOUT, past(&archive, &history)),
    );
    let mut stored = Stored::default();
    // As hosts read it: a link whose id another one has is refused.
    let mut table = Table::default();
    stored.take(&metadata, of_lattice, |entry| Some(of_metadata(&mut table, entry)));
    stored.take(&desired, of_hosts, |entry| Some(of_desired(&trust, entry)));
    stored.take(MANIFESTS, of_applications, |entry| of_manifests(lattice, entry));
    stored.take(&said, of_people, |entry| Some(of_attention(&trust, entry)));
    match past.unwrap_or_else(|_| Err("it does not answer in time".to_owned())) {
        Ok(kinds) => stored.kinds.extend(kinds),
        Err(why) => stored.failed.push((history, why)),
    }
    Ok(stored)
}

/// Reads a bucket; one that is not there has no entries.
async fn entries(nats: &Nats, domain: Option<&str>, bucket: &str) -> Result<Vec<Entry>, Unknown> {
    // It is only read, so how it would be made does not matter.
    let making = Making::of_metadata(1, None);
    let bucket = Desired::other(nats.clone(), domain, bucket, making);
    bucket.entries().await.map_err(|error| error.to_string())
}

impl Stored {
    /// Counts the entries of a bucket; those that `read` knows nothing of are not the lattice's.
    fn take(
        &mut self,
        place: &str,
        entries: Result<Vec<Entry>, Unknown>,
        mut read: impl FnMut(&Entry) -> Option<(&'static str, Reading)>,
    ) {
        let entries = match entries {
            Ok(entries) => entries,
            Err(why) => return self.failed.push((place.to_owned(), why)),
        };
        let mut kinds: BTreeMap<&'static str, KindCount> = BTreeMap::new();
        for entry in &entries {
            if let Some((kind, reading)) = read(entry) {
                let count = kinds.entry(kind).or_insert_with(|| KindCount::of(place, kind));
                count.count(&entry.key, reading);
            }
        }
        self.kinds.extend(kinds.into_values());
    }
}

/// Reads an entry of the metadata.
fn of_metadata(table: &mut Table, entry: &Entry) -> (&'static str, Reading) {
    let kind = match Key::parse(&entry.key) {
        Key::Link(_) => "links",
        Key::Claims(_) => "claims",
        Key::Reference(_) => "references",
        Key::Unknown => "of others",
    };
    let reading = match table.put(entry) {
        Ok(_) => Reading::Fine,
        Err(rejected) => Reading::Unreadable(rejected.0),
    };
    (kind, reading)
}

/// Reads an entry of the desired state.
fn of_desired(trust: &Trust, entry: &Entry) -> (&'static str, Reading) {
    let Entry { key, value, .. } = entry;
    match DesiredKey::parse(key) {
        DesiredKey::Kept(_) => ("kept starts", kept(trust, key, value)),
        DesiredKey::Application(_) => ("applications", signed::<Target>(trust, key, value)),
        DesiredKey::Links(_) => {
            ("links of applications", signed::<Vec<LinkDefinition>>(trust, key, value))
        }
        DesiredKey::Rollout(_) => ("rollouts", signed::<Rollout>(trust, key, value)),
        DesiredKey::LinkChange(_) => ("link changes", signed::<LinkChange>(trust, key, value)),
        DesiredKey::Lease(_) => ("leases", read::<Lease>(value)),
        // Only when it was written counts.
        DesiredKey::Renewal(_) => ("renewals", Reading::Fine),
        DesiredKey::Unknown => ("of later versions", Reading::Fine),
    }
}

/// Reads what a host keeps. It goes on with what it knows, so the rest is told.
fn kept(trust: &Trust, key: &str, value: &[u8]) -> Reading {
    match trust.verify::<Kept>(key, value) {
        Ok((kept, _)) if !kept.unknown.is_empty() => Reading::Unreadable(format!(
            "{} of its starts are of kinds that this version does not know; they stay kept and are \
             not started",
            kept.unknown.len()
        )),
        verified => judged(verified),
    }
}

fn signed<T: DeserializeOwned>(trust: &Trust, key: &str, value: &[u8]) -> Reading {
    judged(trust.verify::<T>(key, value))
}

fn judged<T>(verified: Result<(T, u64), Rejected>) -> Reading {
    match verified {
        Ok(_) => Reading::Fine,
        Err(Rejected::Unreadable(why)) => Reading::Unreadable(unquoted(&why)),
        Err(Rejected::Stranger(_) | Rejected::Forged) => Reading::Unproven,
    }
}

fn read<T: DeserializeOwned>(value: &[u8]) -> Reading {
    match serde_json::from_slice::<T>(value) {
        Ok(_) => Reading::Fine,
        Err(error) => Reading::Unreadable(unquoted(&error.to_string())),
    }
}

/// Returns the text of an error up to the first value that it quotes, which may be a secret.
fn unquoted(why: &str) -> String {
    why.split_once('"').map_or(why, |(before, _)| before.trim_end()).to_owned()
}

/// Reads an entry of the manifests, which all lattices share; nothing of one of another lattice.
fn of_manifests(lattice: &str, entry: &Entry) -> Option<(&'static str, Reading)> {
    let Entry { key, value, .. } = entry;
    if *key == set_key(lattice) {
        return Some(("lists of manifests", read::<Vec<String>>(value)));
    }
    if !key.starts_with(&model_key(lattice, "")) {
        return None;
    }
    let versions = match serde_json::from_slice::<Versions>(value) {
        Ok(stored) => stored.versions,
        Err(error) => {
            return Some(("manifests", Reading::Unreadable(unquoted(&error.to_string()))));
        }
    };
    let unreadable = versions.names().find_map(|version| {
        let (_, manifest) = versions.get(Some(version))?;
        let error = serde_json::from_value::<Manifest>(manifest.clone()).err()?;
        Some(format!("version {version}: {}", unquoted(&error.to_string())))
    });
    Some(("manifests", unreadable.map_or(Reading::Fine, Reading::Unreadable)))
}

/// Reads an entry about what needs attention.
fn of_attention(trust: &Trust, entry: &Entry) -> (&'static str, Reading) {
    let Entry { key, value, .. } = entry;
    if parse_mark_key(key).is_some() {
        return ("marks", signed::<Mark>(trust, key, value));
    }
    match DesiredKey::parse(key) {
        // A host that cannot read what was told tells it again.
        _ if key == attention::TOLD => ("told items", signed::<Value>(trust, key, value)),
        DesiredKey::Lease(_) => ("leases", read::<Lease>(value)),
        DesiredKey::Renewal(_) => ("renewals", Reading::Fine),
        _ => ("of later versions", Reading::Fine),
    }
}

/// Reads the last of the history.
async fn past(archive: &History, place: &str) -> Result<Vec<KindCount>, Unknown> {
    if !archive.is_there().await.map_err(|error| error.to_string())? {
        return Ok(Vec::new());
    }
    let mut kinds = Vec::new();
    for kind in HistoryKind::ALL {
        kinds.push(match kind {
            HistoryKind::Events => batches::<Happened>(archive, place, kind, "events").await?,
            HistoryKind::Audit => batches::<Audit>(archive, place, kind, "commands").await?,
            HistoryKind::Figures => batches::<Minute>(archive, place, kind, "figures").await?,
            HistoryKind::Logs => batches::<Said>(archive, place, kind, "log lines").await?,
        });
    }
    kinds.retain(|kind| kind.entries > 0);
    Ok(kinds)
}

/// Counts the entries of a kind. Of a batch that is left out it is not known whether it is of
/// another form or of somebody else.
async fn batches<T: DeserializeOwned>(
    archive: &History,
    place: &str,
    kind: HistoryKind,
    name: &'static str,
) -> Result<KindCount, Unknown> {
    let mut count = KindCount::of(place, name);
    let mut entries = 0;
    let range = Range::last(HISTORY_MS);
    let folded = archive.fold(kind, None, range, |_: Written<T>| entries += 1).await;
    let rejected = folded.map_err(|error| error.to_string())?.rejected;
    (count.entries, count.unproven) = (entries + rejected, rejected);
    Ok(count)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use lattice_protocol::{desired::Authority, identity::keys::Kind, identity::signature};

    const LATTICE: &str = "default";

    fn authority() -> Authority {
        let (_, seed) = signature::SigningKey::generate(Kind::Cluster).unwrap();
        Authority::new(LATTICE, &seed, Vec::new()).unwrap()
    }

    fn entry(key: &str, value: impl Into<Bytes>) -> Entry {
        Entry { key: key.to_owned(), value: value.into(), revision: 1 }
    }

    fn signed_entry(authority: &Authority, key: &str, value: &serde_json::Value) -> Entry {
        let signed = authority.sign(key, 1, value).unwrap();
        entry(key, serde_json::to_vec(&signed).unwrap())
    }

    #[test]
    fn entries_of_the_desired_state_are_judged_by_their_key() {
        let ours = authority();
        let echo = json!({ "kind": "actor", "reference": "a", "max": 1 });
        let job = json!({ "kind": "job", "cron": "@daily" });
        for (key, value, kind, is_fine) in [
            ("KEPT_N", json!({ "items": [echo] }), "kept starts", true),
            ("KEPT_N", json!({ "items": [echo, job] }), "kept starts", false),
            ("KEPT_N", json!({ "things": [] }), "kept starts", false),
            ("LINKS_shop", json!([]), "links of applications", true),
            ("LINKCHANGE_0A1", json!({ "at_ms": 1, "mood": "good" }), "link changes", true),
            ("ROLLOUT_shop", json!({ "at": 1 }), "rollouts", false),
            ("APP_shop", json!({ "name": "shop" }), "applications", false),
        ] {
            let (found, reading) = of_desired(ours.trust(), &signed_entry(&ours, key, &value));
            assert_eq!((found, reading == Reading::Fine), (kind, is_fine), "{key} {value}");
        }
        let plain = |key: &str, text: &'static str| of_desired(ours.trust(), &entry(key, text));
        assert_eq!(plain("LEASE_shop", r#"{"owner":"N"}"#), ("leases", Reading::Fine));
        assert!(matches!(plain("LEASE_shop", "N"), ("leases", Reading::Unreadable(_))));
        assert_eq!(plain("HOST_N", "anything"), ("renewals", Reading::Fine));
        assert_eq!(plain("NEWS_N", "anything"), ("of later versions", Reading::Fine));
    }

    #[test]
    fn what_strangers_signed_is_told_from_what_cannot_be_read() {
        let (ours, theirs) = (authority(), authority());
        let entry = signed_entry(&theirs, "KEPT_N", &json!({ "items": [] }));
        assert_eq!(of_desired(ours.trust(), &entry), ("kept starts", Reading::Unproven));
    }

    #[test]
    fn marks_are_told_from_leases() {
        let ours = authority();
        let of = |entry: Entry| of_attention(ours.trust(), &entry);
        let mark = signed_entry(&ours, "MARK_host_lost", &json!({ "said": "mute", "mood": 1 }));
        assert_eq!(of(mark), ("marks", Reading::Fine));
        let later = signed_entry(&ours, "MARK_host_lost", &json!({ "said": "sing" }));
        assert!(matches!(of(later), ("marks", Reading::Unreadable(_))));
        assert_eq!(of(entry("LEASE_x", r#"{"owner":"N"}"#)), ("leases", Reading::Fine));
        assert_eq!(of(entry("NEWS", "x")), ("of later versions", Reading::Fine));
    }

    #[test]
    fn metadata_is_judged_as_hosts_read_it() {
        let mut table = Table::default();
        let mut read = |key: &str, text: &'static str| of_metadata(&mut table, &entry(key, text));
        assert_eq!(read("CLAIMS_MA", r#"{"sub":"MA","mood":"good"}"#), ("claims", Reading::Fine));
        assert!(matches!(read("CLAIMS_MB", "{}"), ("claims", Reading::Unreadable(_))));
        assert!(matches!(read("LINKDEF_0A", "{}"), ("links", Reading::Unreadable(_))));
        assert_eq!(read("SOMETHING", "x"), ("of others", Reading::Fine));
    }

    #[test]
    fn manifests_of_other_lattices_are_left_alone_and_the_version_is_named() {
        let read = |key: &str, text: &'static str| of_manifests(LATTICE, &entry(key, text));
        assert_eq!(read("other-shop", "x"), None);
        let list = Some(("lists of manifests", Reading::Fine));
        assert_eq!(read("default", r#"["shop"]"#), list);
        let Some((_, Reading::Unreadable(why))) =
            read("default-shop", r#"{"manifests":{"v7":{"apiVersion":3}}}"#)
        else {
            panic!("it is no manifest");
        };
        assert!(why.starts_with("version v7: "), "{why}");
    }

    #[test]
    fn no_value_is_quoted() {
        let ours = authority();
        let link = json!([{
            "actor_id": "M", "provider_id": "V", "link_name": "l", "contract_id": "c",
            "values": "hunter2",
        }]);
        let entry = signed_entry(&ours, "LINKS_shop", &link);
        let (_, Reading::Unreadable(why)) = of_desired(ours.trust(), &entry) else {
            panic!("values are a map");
        };
        assert!(!why.contains("hunter2") && why.starts_with("invalid type"), "{why}");
    }

    #[test]
    fn only_the_first_keys_are_named() {
        let mut stored = Stored::default();
        let all = (0..NAMED_MAX + 5).map(|number| entry(&format!("K{number}"), "x")).collect();
        stored.take("B", Ok(all), |_| Some(("things", Reading::Unreadable("why".into()))));
        let [kind] = stored.kinds.as_slice() else { panic!("one kind") };
        assert_eq!((kind.unreadable, kind.keys.len()), (NAMED_MAX as u64 + 5, NAMED_MAX));
        stored.take("C", Err("away".into()), |_| None);
        assert_eq!(stored.failed, [("C".to_owned(), "away".to_owned())]);
    }
}
