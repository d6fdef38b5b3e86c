//! The leases of applications, kept in the bucket of desired state.
//!
//! [`lease`](super::lease) decides, this carries it out: it follows the bucket's entries, writes
//! by compare-and-set, and knows how long ago the bucket confirmed the last renewal of this host.
//!
//! After a long cut, or a time in which it did not run, a host does not know at once how the others
//! stand: the bucket may take its writes before it hears of them. It is in doubt then, see
//! [`View::doubted`]. Where a machine with a host and a NATS server is lost, the others come back
//! to the bucket sooner, and nothing is to keep them from its leases.
//!
//! A host that stops deletes the key that it renews. Those of hosts that were killed are deleted by
//! the hosts that act, when they are long gone. Leases stay: without an owner they hold nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::lease::{self, ACTS_FOR, HEARD_AFTER, RENEWAL, Seen, Step, View};
use lattice_base::{
    store::{
        Expect, Update,
        desired::{Desired, DesiredError},
    },
    suspend::boot_ms,
};
use lattice_protocol::{
    desired::{self, Key},
    store::Entry,
};

/// How long a host needs at most to hear of another one that it can reach: they say every second
/// that they are there.
const NEXT_BEAT: Duration = Duration::from_millis(1500);

/// A lease as it lies in the bucket. Nobody has it if the owner is empty.
#[derive(Debug, Serialize, Deserialize)]
pub struct Lease {
    /// The id of a host.
    pub owner: String,
}

/// The leases of a lattice, as one host sees them. Cheap to clone.
#[derive(Clone)]
pub struct Leases(Arc<Inner>);

struct Inner {
    desired: Desired,
    me: String,
    // Held for lines, never across an await.
    table: Mutex<Table>,
    changed: Notify,
}

/// A moment by two clocks.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: Instant,
    /// By the clock that goes on while the machine sleeps.
    boot_ms: u64,
}

impl Moment {
    fn now() -> Self {
        Self { at: Instant::now(), boot_ms: boot_ms() }
    }

    /// Returns how long ago it was at a time of that clock, with the time in which the machine
    /// slept.
    fn age(self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.boot_ms))
    }
}

#[derive(Debug, Default)]
struct Table {
    leases: BTreeMap<String, Seen>,
    /// When each host was last seen to renew.
    renewed: BTreeMap<String, Instant>,
    /// Since when each application has nobody who acts for it.
    free_since: BTreeMap<String, Instant>,
    /// When the last renewal of this host was sent that the bucket confirmed.
    confirmed: Option<Moment>,
    /// When something of the bucket was last heard.
    heard: Option<Moment>,
    /// When this host first heard of the bucket.
    began: Option<Instant>,
    /// When this host last could not know how the others stand.
    doubted: Option<Instant>,
    /// When this host last saw to its renewals.
    beat: Option<Moment>,
    /// This host acts for some application.
    is_acting: bool,
    /// The bucket has not confirmed the last renewal of this host.
    has_failed: bool,
}

impl Table {
    /// Takes a lease in; whether it is another one than before. Own writes are known before the
    /// bucket tells them, so an older one may come after a newer one.
    fn take(&mut self, application: &str, seen: Seen) -> bool {
        let old = self.leases.get(application);
        if old.is_some_and(|old| old.revision >= seen.revision) {
            return false;
        }
        self.leases.insert(application.to_owned(), seen);
        true
    }

    /// Drops what is not among the entries of a snapshot: the bucket was made anew.
    fn keep_only(&mut self, entries: &[Entry]) {
        let revisions: BTreeMap<&str, u64> = entries
            .iter()
            .filter_map(|entry| match Key::parse(&entry.key) {
                Key::Lease(name) => Some((name, entry.revision)),
                _ => None,
            })
            .collect();
        // An own write may be newer than the snapshot, but it is of a lease that is in it.
        self.leases.retain(|name, _| revisions.contains_key(name.as_str()));
        // In a bucket that was made anew revisions begin anew.
        let last = entries.iter().map(|entry| entry.revision).max().unwrap_or(0);
        if self.leases.values().any(|seen| seen.revision > last) {
            self.leases.clear();
        }
    }

    /// Whether the bucket has confirmed so lately that this host acts that it may.
    fn may_act(&self, now_ms: u64) -> bool {
        self.confirmed.is_some_and(|confirmed| confirmed.age(now_ms) < ACTS_FOR)
    }

    /// Whether the last renewal is so young that no other is needed now.
    fn is_fresh(&self) -> bool {
        self.confirmed.is_some_and(|confirmed| confirmed.age(boot_ms()) < RENEWAL)
    }

    /// Doubts if this is so long ago that others may have the leases of this host by now.
    fn doubt_if_old(&mut self, moment: Option<Moment>, now: Moment) {
        if moment.is_some_and(|moment| moment.age(now.boot_ms) >= ACTS_FOR) {
            self.doubted = Some(now.at);
        }
    }

    /// Doubts if this host did not run for long.
    fn notice_pause(&mut self, now: Moment) {
        self.doubt_if_old(self.beat, now);
    }

    /// Takes in that all of the bucket was read now. It was cut off if nothing came for long.
    fn notice_reading(&mut self, now: Moment) {
        self.began.get_or_insert(now.at);
        self.doubt_if_old(self.heard, now);
    }

    /// Takes in a renewal of this host that the bucket has confirmed. After one that failed, the
    /// others are there for the bucket again before this host hears of them.
    fn confirm(&mut self, sent: Moment, now: Moment) {
        if self.is_acting {
            self.doubt_if_old(self.confirmed, now);
        }
        if std::mem::take(&mut self.has_failed) {
            self.doubt_if_old(self.heard, now);
            self.doubted = self.doubted.max(now.at.checked_sub(HEARD_AFTER - NEXT_BEAT));
        }
        self.confirmed = Some(sent);
    }

    fn view<'a>(&'a self, me: &'a str, live: &'a BTreeSet<String>, now: Instant) -> View<'a> {
        // A host that begins among others has not heard of all of them. One alone need not wait.
        let began = self.began.filter(|_| !live.is_empty());
        View { me, live, renewed: &self.renewed, doubted: self.doubted.max(began), now }
    }

    fn step(&mut self, me: &str, application: &str, live: &BTreeSet<String>, now: Instant) -> Step {
        let seen = self.leases.get(application).cloned();
        // That of a host that is gone is free meanwhile also for one that doubts.
        let is_held = seen.as_ref().is_some_and(|seen| {
            let view = View { doubted: None, ..self.view(me, live, now) };
            seen.owner == me || lease::is_held(seen, view)
        });
        if is_held {
            self.free_since.remove(application);
        } else {
            self.free_since.entry(application.to_owned()).or_insert(now);
        }
        let free_since = self.free_since.get(application).copied();
        lease::decide(application, seen.as_ref(), free_since, self.view(me, live, now))
    }
}

impl Leases {
    pub fn new(desired: Desired, me: &str) -> Self {
        Self(Arc::new(Inner {
            desired,
            me: me.to_owned(),
            table: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// Returns the host that has the lease of an application, as the bucket was last heard.
    pub fn owner(&self, application: &str) -> Option<String> {
        let table = self.0.table.lock();
        let owner = table.leases.get(application).map(|seen| seen.owner.clone());
        owner.filter(|owner| !owner.is_empty())
    }

    /// Waits until a lease changes hands. Cancel safe.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Takes a change of the bucket into account.
    pub fn on_update(&self, update: &Update) {
        let now = Moment::now();
        match update {
            Update::Snapshot(entries) => {
                let mut table = self.0.table.lock();
                table.keep_only(entries);
                table.notice_reading(now);
                drop(table);
                entries.iter().for_each(|entry| self.take_in(entry, None));
                self.0.changed.notify_one();
            }
            Update::Put(entry) => self.take_in(entry, Some(now.at)),
            Update::Delete { key, .. } => match Key::parse(key) {
                Key::Lease(name) => {
                    self.0.table.lock().leases.remove(name);
                    self.0.changed.notify_one();
                }
                Key::Renewal(host) => _ = self.0.table.lock().renewed.remove(host),
                _ => {}
            },
            Update::Behind | Update::Current => return,
        }
        self.0.table.lock().heard = Some(now);
    }

    fn take_in(&self, entry: &Entry, written: Option<Instant>) {
        match Key::parse(&entry.key) {
            Key::Lease(name) => {
                let Ok(Lease { owner }) = serde_json::from_slice(&entry.value) else { return };
                let seen = Seen { owner, revision: entry.revision, written };
                if self.0.table.lock().take(name, seen) {
                    self.0.changed.notify_one();
                }
            }
            Key::Renewal(host) => {
                self.0.table.lock().renewed.insert(host.to_owned(), Instant::now());
            }
            _ => {}
        }
    }

    /// Returns those of the applications that this host acts for, and takes the leases whose turn
    /// it is; each with the revision of its lease, which is another one if others had it meanwhile.
    /// `live` are the other hosts that are there, and `others` looks for them again.
    pub async fn mine<'a>(
        &self,
        applications: impl Iterator<Item = &'a str>,
        mut live: BTreeSet<String>,
        others: impl Fn() -> BTreeSet<String>,
    ) -> BTreeMap<String, u64> {
        self.0.table.lock().notice_pause(Moment::now());
        let mut mine = BTreeMap::new();
        for application in applications {
            let mut step = self.step(application, &live);
            if matches!(step, Step::Take(_)) && !self.0.table.lock().is_fresh() {
                // Nobody is to see a lease of a host that does not renew.
                if !self.renew().await {
                    continue;
                }
                // More may be known of the others now than before the wait.
                live = others();
                step = self.step(application, &live);
            }
            let revision = match step {
                Step::Act(revision) => Some(revision),
                Step::Take(revision) => self.take(application, revision).await,
                Step::Leave => None,
            };
            mine.extend(revision.map(|revision| (application.to_owned(), revision)));
        }
        self.0.table.lock().is_acting = !mine.is_empty();
        if !mine.is_empty() && !self.may_act() && !self.renew().await {
            mine.clear();
        }
        if !mine.is_empty() {
            self.forget_gone(&live).await;
        }
        mine
    }

    fn may_act(&self) -> bool {
        self.0.table.lock().may_act(boot_ms())
    }

    /// Whether the bucket has confirmed after a moment that this host acts; it is asked if it has
    /// not.
    pub async fn are_confirmed_since(&self, moment: Instant) -> bool {
        let is_later = |confirmed: Option<Moment>| confirmed.is_some_and(|one| one.at > moment);
        if is_later(self.0.table.lock().confirmed) {
            return true;
        }
        self.renew().await && is_later(self.0.table.lock().confirmed)
    }

    /// Whether this host may act for an application at this moment.
    pub fn holds(&self, application: &str) -> bool {
        let table = self.0.table.lock();
        table.may_act(boot_ms())
            && table.leases.get(application).is_some_and(|seen| seen.owner == self.0.me)
    }

    /// Says in the bucket that this host acts, as long as it does, until `stop`. Polled beside all
    /// else, so that nothing that the host waits for elsewhere costs it its leases.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut beat = tokio::time::interval(RENEWAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => {}
            }
            if self.beat() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = self.renew() => {}
                }
            }
        }
    }

    /// Notes that this host runs; returns whether it acts.
    fn beat(&self) -> bool {
        let (mut table, now) = (self.0.table.lock(), Moment::now());
        table.notice_pause(now);
        table.beat = Some(now);
        table.is_acting
    }

    fn own(&self) -> Vec<(String, u64)> {
        let table = self.0.table.lock();
        let leases = table.leases.iter().filter(|(_, seen)| seen.owner == self.0.me);
        leases.map(|(name, seen)| (name.clone(), seen.revision)).collect()
    }

    /// Deletes the key of one host that is gone for long, if there is one.
    async fn forget_gone(&self, live: &BTreeSet<String>) {
        let gone = {
            let table = self.0.table.lock();
            lease::gone(table.view(&self.0.me, live, Instant::now())).map(str::to_owned)
        };
        let Some(host) = gone else { return };
        match self.0.desired.delete(&desired::renewal(&host), Expect::Anything).await {
            Ok(()) => _ = self.0.table.lock().renewed.remove(&host),
            Err(error) => debug!(host, %error, "the key of a host that is gone is not deleted"),
        }
    }

    fn step(&self, application: &str, live: &BTreeSet<String>) -> Step {
        self.0.table.lock().step(&self.0.me, application, live, Instant::now())
    }

    /// Takes a lease; returns its new revision if this host has it now.
    async fn take(&self, application: &str, revision: u64) -> Option<u64> {
        match self.write(application, &self.0.me, Expect::Revision(revision)).await {
            Ok(revision) => {
                info!(lease = application, "this host has taken a lease, and acts for it");
                Some(revision)
            }
            Err(DesiredError::Conflict) => None,
            Err(error) => {
                debug!(application, %error, "the lease is not taken");
                None
            }
        }
    }

    async fn write(
        &self,
        application: &str,
        owner: &str,
        expect: Expect,
    ) -> Result<u64, DesiredError> {
        let key = desired::lease(application);
        let value = serde_json::to_vec(&Lease { owner: owner.to_owned() }).unwrap_or_default();
        let revision = self.0.desired.put(&key, Bytes::from(value), expect).await?;
        let seen = Seen { owner: owner.to_owned(), revision, written: None };
        self.0.table.lock().take(application, seen);
        Ok(revision)
    }

    /// Says in the bucket that this host acts; whether it may.
    async fn renew(&self) -> bool {
        let sent = Moment::now();
        let renewed = async {
            let key = desired::renewal(&self.0.me);
            self.0.desired.put(&key, Bytes::new(), Expect::Anything).await?;
            if !self.may_act() {
                self.read_own().await?;
            }
            Ok::<_, DesiredError>(())
        };
        match renewed.await {
            Ok(()) => self.0.table.lock().confirm(sent, Moment::now()),
            Err(error) => {
                debug!(%error, "the bucket does not confirm that this host acts");
                self.0.table.lock().has_failed = true;
            }
        }
        self.may_act()
    }

    /// Reads the leases of this host: others may have taken them while it could not renew.
    async fn read_own(&self) -> Result<(), DesiredError> {
        for (application, _) in self.own() {
            match self.0.desired.get(&desired::lease(&application)).await? {
                Some(entry) => self.take_in(&entry, None),
                None => _ = self.0.table.lock().leases.remove(&application),
            }
        }
        Ok(())
    }

    /// Gives all leases of this host back, so that others need not wait, and deletes its key.
    pub async fn give_back(&self) {
        self.0.table.lock().is_acting = false;
        for (application, revision) in self.own() {
            if let Err(error) = self.write(&application, "", Expect::Revision(revision)).await {
                debug!(application, %error, "the lease is not given back");
                return;
            }
        }
        if self.0.table.lock().confirmed.take().is_none() {
            return;
        }
        let deleted = self.0.desired.delete(&desired::renewal(&self.0.me), Expect::Anything).await;
        if let Err(error) = deleted {
            debug!(%error, "the key that this host renewed is not deleted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::clock;

    fn seen(owner: &str, revision: u64) -> Seen {
        Seen { owner: owner.to_owned(), revision, written: None }
    }

    /// A moment so long after another one. The other clock stands still while the machine sleeps.
    fn slept(before: Moment, time: Duration) -> Moment {
        Moment { boot_ms: before.boot_ms + clock::millis(time), ..before }
    }

    #[test]
    fn an_older_lease_does_not_take_the_place_of_a_newer_one() {
        let mut table = Table::default();
        assert!(table.take("shop", seen("A", 5)));
        assert!(!table.take("shop", seen("B", 4)) && !table.take("shop", seen("A", 5)));
        assert_eq!(table.leases["shop"].owner, "A");
        assert!(table.take("shop", seen("B", 6)));
    }

    #[test]
    fn a_bucket_that_was_made_anew_has_no_leases_of_before() {
        let entry = |application: &str, revision| Entry {
            key: desired::lease(application),
            value: Bytes::from_static(br#"{"owner":"A"}"#),
            revision,
        };
        for (entries, left) in [
            (vec![], vec![]),
            (vec![entry("shop", 9)], vec!["shop"]),
            // It begins to count anew.
            (vec![entry("shop", 1), entry("web", 2)], vec![]),
            (vec![entry("web", 11)], vec!["web"]),
        ] {
            let mut table = Table::default();
            table.take("shop", seen("A", 7));
            table.take("web", seen("B", 8));
            table.keep_only(&entries);
            assert_eq!(table.leases.keys().collect::<Vec<_>>(), left);
        }
    }

    #[test]
    fn a_host_acts_as_long_as_the_bucket_confirmed_it_lately() {
        let (mut table, now) = (Table::default(), Moment::now());
        assert!(!table.may_act(now.boot_ms));
        table.confirmed = Some(now);
        assert!(table.may_act(now.boot_ms));
        assert!(!table.may_act(slept(now, ACTS_FOR).boot_ms));
    }

    #[test]
    fn a_host_that_did_not_run_or_was_cut_off_for_long_is_in_doubt() {
        let before = Moment::now();
        for (known, after, is_in_doubt) in [
            (None, ACTS_FOR, false),
            (Some(before), Duration::ZERO, false),
            (Some(before), RENEWAL, false),
            (Some(before), ACTS_FOR, true),
        ] {
            let now = slept(before, after);
            let table = || Table { is_acting: true, ..Table::default() };
            let mut paused = Table { beat: known, ..table() };
            paused.notice_pause(now);
            let mut reads = Table { heard: known, ..table() };
            reads.notice_reading(now);
            let mut renews = Table { confirmed: known, ..table() };
            renews.confirm(now, now);
            let doubts = [paused, reads, renews].map(|table| table.doubted.is_some());
            assert_eq!(doubts, [is_in_doubt; 3], "{known:?} {after:?}");
        }
    }

    #[test]
    fn a_host_whose_renewals_failed_waits_for_the_others_when_they_no_longer_do() {
        let heard = Moment::now();
        for (has_failed, after, waits) in [
            (false, ACTS_FOR, Duration::ZERO),
            (true, RENEWAL, NEXT_BEAT),
            (true, ACTS_FOR, HEARD_AFTER),
        ] {
            let now = slept(heard, after);
            let mut table = Table { heard: Some(heard), has_failed, ..Table::default() };
            table.take("shop", seen("A", 7));
            table.confirm(now, now);
            let mut takes_at = |at| table.step("C", "shop", &BTreeSet::new(), at) == Step::Take(7);
            assert!(takes_at(now.at + waits), "{has_failed} {after:?}");
            let early = waits.checked_sub(Duration::from_millis(1));
            assert!(early.is_none_or(|early| !takes_at(now.at + early)), "{has_failed} {after:?}");
        }
    }

    #[test]
    fn a_lease_of_a_host_that_is_gone_is_free_from_then_on_and_one_who_is_alone_takes_it_at_once() {
        let now = Moment::now();
        let others = BTreeSet::from(["B".to_owned()]);
        for (live, step) in [(BTreeSet::new(), Step::Take(7)), (others, Step::Leave)] {
            let mut table = Table::default();
            table.notice_reading(now);
            table.take("shop", seen("A", 7));
            assert_eq!(table.step("C", "shop", &live, now.at), step);
            // The turns go on while it doubts.
            assert_eq!(table.free_since.get("shop"), Some(&now.at));
            let later = now.at + lease::HEARD_AFTER;
            assert_eq!(table.step("C", "shop", &live, later), Step::Take(7));
        }
    }
}
