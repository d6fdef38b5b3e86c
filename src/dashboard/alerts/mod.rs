//! The words of people about what needs attention, and who tells it outside.
//!
//! Every dashboard finds out what needs attention for itself ([`attention`]). Acknowledgements and
//! mutings lie in a bucket of the lattice, so that all dashboards and `host attention` agree; each
//! is signed by the host that took it, and ends by itself. Without JetStream this host alone
//! remembers them.
//!
//! One host tells what begins and ends: the one with the lease in the same bucket, by the rules of
//! applications ([`lattice_applications::lease`]). It looks every few seconds, also if nobody looks
//! at its page ([`differ`]), and tells it once ([`hook`]). What was told lies in the bucket, so
//! that the next host goes on with it.

pub mod differ;
pub mod hook;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use uuid::Uuid;

use crate::{
    Dashboard,
    mask::Mask as _,
    model::attention::{self, Attention, Summary},
};
use differ::{Change, Differ, Told};
use hook::Hook;
use lattice_applications::leases::Leases;
use lattice_base::store::{
    Expect, Update,
    desired::{Desired, DesiredError, Record},
    jetstream::making::Making,
};
use lattice_engine::{attention::Attending, host_context::HostContext};
use lattice_protocol::{
    attention::{self as wire, Mark, MarkAttention, News, Report, Said},
    clock,
    desired::Authority,
    store::Entry,
};

/// How often the host that tells looks.
const LOOK: Duration = Duration::from_secs(5);
/// How often a bucket that is not there is looked for.
const AGAIN: Duration = Duration::from_secs(5);
/// The name of the lease.
const LEASE: &str = "attention";
/// Marks that are kept.
const MARKS_MAX: usize = 512;

/// The marks of a lattice, as this host knows them. Cheap to clone.
#[derive(Clone)]
pub struct Alerts(Arc<Inner>);

struct Inner {
    bucket: Desired,
    authority: Arc<Authority>,
    leases: Leases,
    // Held for lines, never across an await.
    marks: Mutex<BTreeMap<String, Mark>>,
    told: Mutex<Told>,
    /// Whether this host tells.
    tells: AtomicBool,
}

impl Alerts {
    pub fn new(context: &HostContext, making: Making) -> Self {
        let bucket = wire::bucket(context.subjects.lattice().as_str());
        let domain = context.js_domain.as_deref();
        let bucket = Desired::other(context.ctl.clone(), domain, &bucket, making);
        Self(Arc::new(Inner {
            leases: Leases::new(bucket.clone(), context.host_id.as_str()),
            bucket,
            authority: Arc::clone(&context.authority),
            marks: Mutex::default(),
            told: Mutex::default(),
            tells: AtomicBool::new(false),
        }))
    }

    /// Notes on each what was said about it; takes those that are muted out, and returns them.
    /// Acknowledged ones come last; else the order stays.
    pub fn apply(&self, items: &mut Vec<Attention>) -> Vec<Attention> {
        let now_ms = clock::now_ms();
        {
            let marks = self.0.marks.lock();
            for item in items.iter_mut() {
                item.key = item.stable_key();
                let mark = marks.get(&item.key).filter(|mark| mark.until_ms > now_ms);
                item.mark = mark.map(attention::Marked::from);
            }
        }
        let muted = items.extract_if(.., |item| item.is_muted()).collect();
        items.sort_by_key(|item| item.mark.is_some());
        muted
    }

    /// Notes a mark, or takes it back; `by` is who says so.
    pub async fn mark(&self, mark: &MarkAttention, by: String) -> Result<(), String> {
        let noted = mark.mark(by, clock::now_ms())?;
        {
            let mut marks = self.0.marks.lock();
            let now_ms = clock::now_ms();
            marks.retain(|_, mark| mark.until_ms > now_ms);
            match &noted {
                Some(_) if marks.len() >= MARKS_MAX && !marks.contains_key(&mark.key) => {
                    return Err(format!("{MARKS_MAX} things are marked already; clear some"));
                }
                Some(noted) => _ = marks.insert(mark.key.clone(), noted.clone()),
                None => _ = marks.remove(&mark.key),
            }
        }
        match self.write(&wire::mark_key(&mark.key), noted).await {
            // Without a bucket this host remembers it.
            Ok(()) | Err(DesiredError::Open(_)) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn write<T: serde::Serialize>(
        &self,
        key: &str,
        value: Option<T>,
    ) -> Result<(), DesiredError> {
        let Inner { bucket, authority, .. } = &*self.0;
        match value {
            Some(value) => {
                let mut record = Record::default();
                bucket.put_signed(authority, key, &mut record, value, Expect::Anything).await
            }
            None => bucket.delete(key, Expect::Anything).await,
        }
    }

    fn take(&self, update: &Update) {
        match update {
            Update::Snapshot(entries) => {
                self.0.marks.lock().clear();
                entries.iter().for_each(|entry| self.take_in(entry));
            }
            Update::Put(entry) => self.take_in(entry),
            Update::Delete { key, .. } => {
                if let Some(key) = wire::parse_mark_key(key) {
                    self.0.marks.lock().remove(key);
                }
            }
            Update::Behind | Update::Current => {}
        }
    }

    fn take_in(&self, entry: &Entry) {
        let authority = &self.0.authority;
        if let Some(key) = wire::parse_mark_key(&entry.key) {
            let mut marks = self.0.marks.lock();
            match authority.verify::<Mark>(&entry.key, &entry.value) {
                Ok((mark, _)) if marks.len() < MARKS_MAX => _ = marks.insert(key.to_owned(), mark),
                Ok(_) => {}
                Err(error) => debug!(key, %error, "a mark does not count"),
            }
        } else if entry.key == wire::TOLD
            && !self.0.tells.load(Ordering::Relaxed)
            && let Ok((told, _)) = authority.verify::<Told>(&entry.key, &entry.value)
        {
            *self.0.told.lock() = told;
        }
    }

    /// Follows the bucket, which the first mark or lease makes.
    async fn follow(&self) {
        use lattice_base::store::Backend as _;
        loop {
            if let Ok(Some(bucket)) = self.0.bucket.find().await {
                let mut updates = bucket.watch();
                while let Some(update) = updates.recv().await {
                    self.0.leases.on_update(&update);
                    self.take(&update);
                }
            }
            sleep(AGAIN).await;
        }
    }

    /// Whether it is this host that tells.
    async fn is_telling(&self, dashboard: &Dashboard) -> bool {
        let context = &dashboard.parts().context;
        let live = || -> BTreeSet<String> {
            let others = context.peers.others().into_iter();
            others.filter(|(_, is_lost)| !is_lost).map(|(id, _)| id).collect()
        };
        match context.store.is_shared() {
            true => !self.0.leases.mine([LEASE].into_iter(), live(), live).await.is_empty(),
            // A lattice that keeps nothing has no leases either: the first host tells.
            false => live().first().is_none_or(|first| context.host_id.as_str() < first.as_str()),
        }
    }

    /// Looks, and tells what began and what ended.
    async fn tell(&self, dashboard: &Dashboard, hook: &Hook, differ: &mut Differ) {
        // With those that no page shows: an item that others push out of a list has not ended.
        let items: Vec<wire::Item> =
            Summary::whole(dashboard).all().map(|item| item.masked().into()).collect();
        let (changes, told) = {
            let mut told = self.0.told.lock();
            let changes = differ.look(&mut told, &items);
            (changes, told.clone())
        };
        if changes.is_empty() {
            return;
        }
        let context = &dashboard.parts().context;
        for change in changes {
            let (change, item) = match change {
                Change::Began(item) => ("began", item),
                Change::Ended(item) => {
                    self.forget_ack(&item.key).await;
                    ("ended", item)
                }
            };
            let news = News {
                id: Uuid::new_v4().to_string(),
                change: change.to_owned(),
                at_ms: clock::now_ms(),
                lattice: context.subjects.lattice().to_string(),
                host_id: context.host_id.to_string(),
                item,
            };
            hook.tell(&news).await;
        }
        if let Err(error) = self.write(wire::TOLD, Some(told)).await {
            debug!(%error, "what was told is not kept for the next host");
        }
    }

    /// Drops an acknowledgement when what it is about has ended: the next time is another one.
    async fn forget_ack(&self, key: &str) {
        let is_ack = self.0.marks.lock().get(key).is_some_and(|mark| mark.said == Said::Ack);
        if is_ack {
            self.0.marks.lock().remove(key);
            if let Err(error) = self.write::<Mark>(&wire::mark_key(key), None).await {
                debug!(key, %error, "an acknowledgement stays until its time is over");
            }
        }
    }

    async fn watch(&self, dashboard: &Dashboard, hook: &Hook) {
        let mut differ = Differ::default();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let tells = self.is_telling(dashboard).await;
            let told_before = self.0.tells.swap(tells, Ordering::Relaxed);
            dashboard.model().watch(tells);
            if !tells {
                differ = Differ::default();
            } else if told_before {
                self.tell(dashboard, hook, &mut differ).await;
            }
            // Else other hosts are asked first: a look at nothing would end everything.
        }
    }

    /// Returns the host that tells, as far as it is known.
    fn told_by(&self, own_id: &str) -> String {
        match self.0.tells.load(Ordering::Relaxed) {
            true => own_id.to_owned(),
            false => self.0.leases.owner(LEASE).unwrap_or_default(),
        }
    }
}

/// Follows the marks, and tells what needs attention if it is this host's turn, until told to stop.
pub async fn run(dashboard: Dashboard, hook: Hook, stop: CancellationToken) {
    let alerts = dashboard.alerts().clone();
    let renewing = alerts.0.leases.run(&stop);
    let work = async {
        tokio::join!(alerts.follow(), alerts.watch(&dashboard, &hook), renewing);
    };
    stop.run_until_cancelled(work).await;
}

/// A dashboard, as the control interface of its host asks it.
pub struct Attendant(pub Dashboard);

impl Attending for Attendant {
    fn report(&self) -> BoxFuture<'static, Report> {
        let dashboard = self.0.clone();
        async move {
            dashboard.model().mark_viewed().await;
            let items = Summary::of(&dashboard).all().cloned().map(wire::Item::from).collect();
            let host_id = dashboard.model().own_id().to_owned();
            let told_by = dashboard.alerts().told_by(&host_id);
            Report { host_id, items, told_by }
        }
        .boxed()
    }

    fn mark(&self, mark: MarkAttention, by: String) -> BoxFuture<'static, Result<(), String>> {
        let alerts = self.0.alerts().clone();
        async move { alerts.mark(&mark, by).await }.boxed()
    }
}

impl Attention {
    /// Returns it as everybody may read it.
    fn masked(&self) -> Self {
        let mut masked = self.clone();
        masked.mask();
        masked
    }
}
