//! Reads what hosts kept of what happened: events, commands, figures and lines.
//!
//! The stream is read directly, so that it tells of a lattice whose hosts are all gone. What no
//! host of the known clusters signed is dropped and counted.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    ops::ControlFlow,
};

use futures::{StreamExt as _, stream::BoxStream};
use serde::de::DeserializeOwned;

use lattice_base::{
    config::Config,
    lattice::connection::Nats,
    store::history::{Archive, ArchiveError},
};
use lattice_protocol::{
    clock,
    control::types::HostReply,
    desired::Trust,
    history::{
        self, Batch, FRIENDLY_NAME, HOST_BACK, HOST_LOST, Happened, Kind, SAME_CHANGE_MS, Said,
        TOLD_BY_ALL,
    },
    identity::keys::ClusterKey,
    journal::Line,
};

/// Payload that one read takes in, in bytes; what comes after that is left out.
const BYTES_MAX: usize = 96 << 20;
/// Several hosts tell of a loss; within this time it is one, in milliseconds.
pub const SAME_LOSS_MS: u64 = 15_000;
/// How long before the wanted moment to begin: an entry is written some time after it happened.
const WRITTEN_LATER_MS: u64 = 15_000;

/// A span of time, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub since_ms: u64,
    pub until_ms: u64,
}

impl Range {
    /// The last so many milliseconds.
    pub fn last(span_ms: u64) -> Self {
        let until_ms = clock::now_ms();
        Self { since_ms: until_ms.saturating_sub(span_ms), until_ms }
    }

    /// Whether a moment is in it.
    pub fn has(&self, at_ms: u64) -> bool {
        (self.since_ms..=self.until_ms).contains(&at_ms)
    }
}

/// An entry, with the host that wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept<T> {
    pub host_id: String,
    pub host_name: String,
    pub item: T,
}

impl Kept<Happened> {
    /// Returns the name that the host had which the event is about, if it is known.
    pub fn host_then(&self) -> Option<&str> {
        let written = (self.item.source == self.host_id).then_some(&*self.host_name);
        let name = written.or_else(|| self.item.data[FRIENDLY_NAME].as_str());
        name.filter(|name| !name.is_empty())
    }
}

/// The entries of a read, oldest first.
#[derive(Clone, Debug)]
pub struct Found<T> {
    pub entries: Vec<Kept<T>>,
    /// There was more than is handed out: only the newest entries are here.
    pub is_cut: bool,
    /// Batches that no host of the known clusters signed.
    pub rejected: u64,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), is_cut: false, rejected: 0 }
    }
}

/// The history of a lattice. Cheap to clone.
#[derive(Clone)]
pub struct History {
    archive: Archive,
    trust: Trust,
}

impl History {
    /// Names the history of a lattice; what `trust` does not trust is dropped.
    pub fn new(nats: Nats, domain: Option<&str>, lattice: &str, trust: Trust) -> Self {
        Self { archive: Archive::new(nats, domain, lattice), trust }
    }

    /// Whether the lattice has a history.
    pub async fn is_there(&self) -> Result<bool, ArchiveError> {
        self.archive.is_there().await
    }

    /// Reads the entries of a kind that were written in a span of time and some time after it; of
    /// more than `entries_max` the newest.
    pub async fn read<T: DeserializeOwned>(
        &self,
        kind: Kind,
        host_id: Option<&str>,
        range: Range,
        entries_max: usize,
    ) -> Result<Found<T>, ArchiveError> {
        let (mut entries, mut has_more) = (VecDeque::new(), false);
        let folded = self.fold(kind, host_id, range, |kept| {
            entries.push_back(kept);
            if entries.len() > entries_max {
                entries.pop_front();
                has_more = true;
            }
        });
        let Found { is_cut, rejected, .. } = folded.await?;
        Ok(Found { entries: entries.into(), is_cut: is_cut || has_more, rejected })
    }

    /// Hands out the entries of a kind that were written in a span of time and some time after it,
    /// one by one, and keeps none; the list in what is returned is empty.
    pub async fn fold<T: DeserializeOwned>(
        &self,
        kind: Kind,
        host_id: Option<&str>,
        range: Range,
        mut found: impl FnMut(Kept<T>),
    ) -> Result<Found<T>, ArchiveError> {
        let (mut told, mut bytes) = (Found::default(), 0);
        let read = self.archive.read(kind, host_id, range.since_ms, |key, payload| {
            bytes += payload.len();
            if bytes > BYTES_MAX {
                told.is_cut = true;
                return ControlFlow::Break(());
            }
            let Some(batch) = self.batch::<T>(kind, key, payload) else {
                told.rejected += 1;
                return ControlFlow::Continue(());
            };
            // Later ones are of later still.
            if batch.at_ms > range.until_ms.saturating_add(WRITTEN_LATER_MS) {
                return ControlFlow::Break(());
            }
            let Batch { host_id, host_name, items, .. } = batch;
            for item in items {
                let (host_id, host_name) = (host_id.clone(), host_name.clone());
                found(Kept { host_id, host_name, item });
            }
            ControlFlow::Continue(())
        });
        read.await?;
        Ok(told)
    }

    /// Follows the entries of a kind since a moment, as batches; the flag says that all of the past
    /// was handed out. `None` if there is no stream. It ends when the stream or the connection
    /// does.
    pub async fn follow<T: DeserializeOwned + Send + 'static>(
        &self,
        kind: Kind,
        since_ms: u64,
    ) -> Result<Option<BoxStream<'static, (Vec<Kept<T>>, bool)>>, ArchiveError> {
        let Some(passing) = self.archive.follow(kind, since_ms).await? else { return Ok(None) };
        let history = self.clone();
        let batches = passing.map(move |message| {
            let batch = history.batch::<T>(kind, &message.key, &message.payload);
            let entries = batch.map(|Batch { host_id, host_name, items, .. }| {
                let kept =
                    |item| Kept { host_id: host_id.clone(), host_name: host_name.clone(), item };
                items.into_iter().map(kept).collect()
            });
            (entries.unwrap_or_default(), message.to_come == 0)
        });
        Ok(Some(batches.boxed()))
    }

    /// Reads the last lines of an entity that hosts said in a span of time, oldest first.
    pub async fn lines(
        &self,
        entity: &str,
        range: Range,
        lines_max: usize,
    ) -> Result<Vec<ArchivedLine>, ArchiveError> {
        let mut lines = Vec::new();
        let read = self.fold(Kind::Logs, None, range, |kept: Kept<Said>| {
            let Kept { host_id, host_name, item } = kept;
            if item.entity != entity {
                return;
            }
            let said = item.lines.into_iter().filter(|line| range.has(line.at_us / 1000));
            lines.extend(said.map(|line| ArchivedLine {
                host_id: host_id.clone(),
                host_name: host_name.clone(),
                life: item.life.clone(),
                line,
            }));
        });
        read.await?;
        lines.sort_by_key(|line| line.line.at_us);
        lines.drain(..lines.len().saturating_sub(lines_max));
        Ok(lines)
    }

    /// Reads a batch, if it counts.
    fn batch<T: DeserializeOwned>(
        &self,
        kind: Kind,
        key: &str,
        payload: &[u8],
    ) -> Option<Batch<T>> {
        let (batch, _) = self.trust.verify::<Batch<T>>(key, payload).ok()?;
        // A host writes under its own subject only.
        (key == history::key(kind, &batch.host_id)).then_some(batch)
    }
}

/// A line that is not on its host any more, or will not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedLine {
    pub host_id: String,
    pub host_name: String,
    /// Tells one start of the host from the next.
    pub life: String,
    pub line: Line,
}

/// Returns the JetStream domain of the history: that of the settings, or else the one that the
/// hosts that answer tell. An empty one is none.
pub fn domain(config: &Config, hosts: &[HostReply]) -> Option<String> {
    let told = hosts.iter().find_map(|host| host.js_domain.clone());
    config.js_domain.clone().or(told).filter(|domain| !domain.is_empty())
}

/// Returns what a client without a seed trusts: the cluster keys of the hosts that answer, and
/// those of its own settings.
pub fn trust(config: &Config, hosts: &[HostReply]) -> Trust {
    let told =
        hosts.iter().flat_map(|host| host.cluster_issuers.split(',').chain([host.issuer.as_str()]));
    let cluster = &config.cluster;
    let own = cluster.issuers.iter().chain([&cluster.public]).map(String::as_str);
    let mut keys: Vec<ClusterKey> =
        told.chain(own).filter_map(|key| ClusterKey::parse(key.trim()).ok()).collect();
    keys.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    keys.dedup_by(|a, b| a.as_str() == b.as_str());
    Trust::new(&config.lattice, keys)
}

/// Orders events by time and tells once what several hosts told: each loss, and each change of a
/// link.
pub fn in_order(events: Vec<Kept<Happened>>) -> Vec<Kept<Happened>> {
    Heard::default().news(events)
}

/// The losses and the changes of links that were heard of lately. Several hosts tell each of them.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// When each was first told, by its event and what that is about, with those who told it.
    last: HashMap<(String, String), (u64, HashSet<String>)>,
    /// All that was told long before this is forgotten.
    forgotten_ms: u64,
}

impl Heard {
    /// Orders events by time and leaves out what was heard of.
    pub fn news(&mut self, mut events: Vec<Kept<Happened>>) -> Vec<Kept<Happened>> {
        events.sort_by_key(|kept| kept.item.at_ms);
        events.retain(|kept| self.is_new(kept));
        events
    }

    /// Takes an event in; whether no host has told it before.
    pub fn is_new(&mut self, Kept { host_id, item, .. }: &Kept<Happened>) -> bool {
        let (about, within_ms, is_once) = match item.name.as_str() {
            HOST_LOST | HOST_BACK => (&*item.source, SAME_LOSS_MS, false),
            // A host that tells it again tells another change.
            name if TOLD_BY_ALL.contains(&name) => {
                (item.data["id"].as_str().unwrap_or_default(), SAME_CHANGE_MS, true)
            }
            _ => return true,
        };
        self.forget(item.at_ms);
        let key = (item.name.clone(), about.to_owned());
        let (at_ms, tellers) = self.last.entry(key).or_default();
        // Hosts write at different times, so one that is older may come later.
        let is_told = !tellers.is_empty()
            && item.at_ms.abs_diff(*at_ms) <= within_ms
            && !(is_once && tellers.contains(host_id));
        if !is_told {
            (*at_ms, *tellers) = (item.at_ms, HashSet::new());
        }
        tellers.insert(host_id.clone());
        !is_told
    }

    /// Forgets now and then what is too old to be told once more.
    fn forget(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.forgotten_ms) > SAME_LOSS_MS {
            self.forgotten_ms = now_ms;
            self.last.retain(|_, (at_ms, _)| now_ms.saturating_sub(*at_ms) <= SAME_LOSS_MS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_base::config::Sources;

    #[test]
    fn an_empty_domain_is_none_and_that_of_the_settings_counts_first() {
        let dir = tempfile::tempdir().expect("create a directory");
        let config = |flags: Vec<(&'static str, String)>| {
            let sources = Sources {
                flags,
                labels: Vec::new(),
                env: Box::new(Vec::<(String, String)>::new()),
                dir: dir.path().to_owned(),
                home: None,
                context: None,
            };
            Config::load(&sources).expect("settings").config
        };
        let host = |domain: Option<&str>| HostReply {
            js_domain: domain.map(str::to_owned),
            ..HostReply::default()
        };
        let (unset, own) = (config(Vec::new()), config(vec![("js_domain", "hub".to_owned())]));
        for (hosts, expected) in [
            (vec![], None),
            (vec![host(Some(""))], None),
            (vec![host(None), host(Some("core"))], Some("core")),
        ] {
            assert_eq!(domain(&unset, &hosts).as_deref(), expected, "{hosts:?}");
            assert_eq!(domain(&own, &hosts).as_deref(), Some("hub"), "{hosts:?}");
        }
    }

    fn told(host: &str, link: &str, at_ms: u64) -> Kept<Happened> {
        Kept {
            host_id: host.into(),
            host_name: "calm".into(),
            item: Happened {
                name: "linkdef_set".into(),
                source: host.into(),
                at_ms,
                data: serde_json::json!({ "id": link }),
                ..Happened::default()
            },
        }
    }

    #[test]
    fn what_was_told_before_is_no_news_from_another_host() {
        let mut heard = Heard::default();
        assert_eq!(heard.news(vec![told("N1", "A", 1_000)]).len(), 1);
        assert!(heard.news(vec![told("N2", "A", 1_010), told("N3", "A", 990)]).is_empty());
        assert_eq!(heard.news(vec![told("N1", "A", 2_000), told("N1", "B", 2_000)]).len(), 2);
        assert_eq!(heard.news(vec![told("N1", "C", 60_000)]).len(), 1);
        assert_eq!(heard.last.len(), 1, "the others are forgotten");
    }

    #[test]
    fn a_change_of_a_link_that_every_host_tells_is_one() {
        let events = in_order(vec![
            told("N1", "A", 1_000),
            told("N2", "A", 1_020),
            told("N3", "A", 1_010),
            told("N2", "B", 1_100),
            // Put once more.
            told("N2", "A", 1_500),
            told("N1", "A", 1_510),
            told("N1", "A", 9_000),
        ]);
        let shown: Vec<u64> = events.iter().map(|kept| kept.item.at_ms).collect();
        assert_eq!(shown, [1_000, 1_100, 1_500, 9_000]);
    }

    #[test]
    fn a_loss_that_several_hosts_told_is_one() {
        let told = |name: &str, source: &str, at_ms| Kept {
            host_id: "N".into(),
            host_name: "calm".into(),
            item: Happened {
                name: name.into(),
                source: source.into(),
                at_ms,
                ..Happened::default()
            },
        };
        let events = in_order(vec![
            told(HOST_LOST, "N3", 1_200),
            told("host_started", "N1", 900),
            told(HOST_LOST, "N3", 1_000),
            told(HOST_LOST, "N4", 1_100),
            told(HOST_BACK, "N3", 5_000),
            told(HOST_BACK, "N3", 5_100),
            told("host_started", "N1", 5_200),
            told(HOST_LOST, "N3", 90_000),
        ]);
        let shown: Vec<_> = events.iter().map(|kept| (&*kept.item.name, kept.item.at_ms)).collect();
        assert_eq!(
            shown,
            [
                ("host_started", 900),
                (HOST_LOST, 1_000),
                (HOST_LOST, 1_100),
                (HOST_BACK, 5_000),
                ("host_started", 5_200),
                (HOST_LOST, 90_000),
            ]
        );
    }

    #[test]
    fn a_range_has_both_its_ends() {
        let range = Range { since_ms: 10, until_ms: 20 };
        let has: Vec<u64> = [9, 10, 20, 21].into_iter().filter(|at| range.has(*at)).collect();
        assert_eq!(has, [10, 20]);
    }
}
