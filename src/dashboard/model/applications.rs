//! The applications of the lattice in memory, and the task that keeps them so.
//!
//! ```text
//! news of deployments, records of statuses, targets, changes from here ─▶ the list is old
//! the list is old, and it is wanted ─▶ `list`, asked as every client does ─▶ Applications ─▶ pages
//! ```
//!
//! * [`run`] is the only writer. A record of a status changes its application at once; for all else
//!   the list is read again, at most once per [`GAP`]. Nobody tells that a version was stored which
//!   is not deployed, so an open page reads the list every [`AGAIN`] as well, and so does the host
//!   that tells what needs attention.
//! * Whoever answers the list keeps the applications: hosts, or a deployment manager that is a
//!   program of its own. Nothing is changed from here under the hands of such a manager.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Serialize;
use serde_json::Value;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use utoipa::ToSchema;

use super::{Collection, FRESH, Model};
use crate::Dashboard;
use lattice_applications::{manager::Standing, rival::Rival, status::effective, targets::Snapshot};
use lattice_base::lattice::made;
use lattice_client::lattice::{Lattice, RequestError};
use lattice_protocol::applications::{
    api::{Failure, HOST_HEADER, Record, Status, StatusType, Summary},
    request::Request,
};

/// The least time between two lists.
const GAP: Duration = Duration::from_millis(300);
/// How often the list is read without a reason while it is wanted.
const AGAIN: Duration = Duration::from_secs(15);
/// How often it is looked whether a list is due.
const TICK: Duration = Duration::from_millis(250);
/// Pause after the connection did not take the subscriptions.
const PAUSE: Duration = Duration::from_secs(2);

/// The one that keeps the applications of the lattice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Keeper {
    /// It has not been asked yet.
    #[default]
    Unknown,
    /// Hosts do; everything can be done here.
    Hosts,
    /// A deployment manager that is a program of its own.
    Manager,
    Nobody,
    /// Hosts, but what they need for it is away.
    Unavailable,
}

/// The keeper of the lattice's applications, and why nothing can be done if so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Keeping {
    pub keeper: Keeper,
    /// Why nothing can be changed from here.
    pub text: Option<String>,
    /// How to deal with it.
    pub advice: Option<String>,
}

/// The applications of one moment.
#[derive(Clone, Debug, Default)]
pub struct Applications {
    pub keeping: Keeping,
    /// By name.
    pub all: BTreeMap<String, Arc<Summary>>,
}

impl Applications {
    /// Returns the applications that are not as they are to be, and cannot be now.
    pub fn failed(&self) -> impl Iterator<Item = &Arc<Summary>> {
        self.all.values().filter(|summary| summary.status == StatusType::Failed)
    }
}

/// The applications, and who wants them.
pub struct Shelf {
    current: watch::Sender<Option<Arc<Applications>>>,
    /// Ticks when the list is old, or somebody begins to look.
    wanted: tokio::sync::Notify,
}

impl Default for Shelf {
    fn default() -> Self {
        Self { current: watch::Sender::new(None), wanted: tokio::sync::Notify::new() }
    }
}

impl Shelf {
    /// Asks for the list to be read again.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Returns the applications that are known, if any were heard of.
    pub fn known(&self) -> Option<Arc<Applications>> {
        self.current.borrow().clone()
    }

    /// Returns the applications as they are now, and as they change.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Applications>>> {
        self.current.subscribe()
    }

    /// Returns the applications; waits a moment for the first list.
    pub async fn now(&self) -> Arc<Applications> {
        let mut current = self.watch();
        let first = timeout(FRESH, current.wait_for(Option::is_some)).await;
        let known = first.ok().and_then(Result::ok).and_then(|known| known.clone());
        known.unwrap_or_default()
    }
}

/// The answer to the question for all applications.
#[derive(Debug)]
enum Answer {
    Host(Vec<Summary>),
    Manager(Vec<Summary>),
    NoResponders,
    Silent(String),
    Refused(String),
}

/// The task that keeps the applications.
struct Follower {
    dashboard: Dashboard,
    model: Model,
    asking: JoinSet<Answer>,
    is_old: bool,
    asked: Option<Instant>,
}

/// Keeps the applications of a dashboard until told to stop.
pub async fn run(dashboard: Dashboard, stop: CancellationToken) {
    while !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            followed = Follower::new(dashboard.clone()).run() => if let Err(error) = followed {
                warn!(%error, "the dashboard hears nothing of applications yet, trying on");
            },
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(PAUSE) => {}
        }
    }
}

impl Follower {
    fn new(dashboard: Dashboard) -> Self {
        let model = dashboard.model().clone();
        Self { dashboard, model, asking: JoinSet::new(), is_old: true, asked: None }
    }

    /// Runs for as long as the connection lasts.
    async fn run(mut self) -> anyhow::Result<()> {
        let Lattice { client, subjects, .. } = self.dashboard.lattice();
        let mut records: Subscriber = client.subscribe(subjects.manager_status("*")).await?;
        let mut news: Subscriber = client.subscribe(subjects.manager_events()).await?;
        let (mut targets, model) = (self.dashboard.manager().targets.watch(), self.model.clone());
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(done) = self.asking.join_next(), if !self.asking.is_empty() => match done {
                    Ok(answer) => self.take(answer),
                    Err(failure) => error!(error = %failure, "a question for applications panicked"),
                },
                record = records.next() => match record {
                    Some(record) => self.on_record(&record, &targets.borrow()),
                    None => return Ok(()),
                },
                news = news.next() => match news {
                    Some(_) => {
                        self.is_old = true;
                        // A host that keeps none hears no news of its own.
                        self.dashboard.manager().targets.look();
                    }
                    None => return Ok(()),
                },
                Ok(()) = targets.changed() => self.is_old = true,
                () = model.shelf().wanted.notified() => self.is_old = true,
                _ = tick.tick() => {}
            }
            self.ask_if_due();
        }
    }

    fn ask_if_due(&mut self) {
        let since = self.asked.map(|asked| asked.elapsed());
        let is_due = since.is_none_or(|since| since >= if self.is_old { GAP } else { AGAIN });
        // Failures are told although nobody looks.
        let is_wanted = self.model.is_viewed() || self.model.is_watched();
        if !is_due || !self.asking.is_empty() || !is_wanted {
            return;
        }
        (self.is_old, self.asked) = (false, Some(Instant::now()));
        let lattice = self.dashboard.lattice().clone();
        self.asking.spawn(async move { ask(&lattice).await });
    }

    fn take(&mut self, answer: Answer) {
        let standing = *self.dashboard.manager().standing().borrow();
        let keeping = keeping(standing, &answer, self.dashboard.lattice().name());
        let all = match answer {
            Answer::Host(all) | Answer::Manager(all) => {
                all.into_iter().map(|one| (one.name.clone(), Arc::new(one))).collect()
            }
            // The list of before is old, but better than nothing.
            Answer::Silent(_) => {
                self.model.shelf().known().map_or_else(BTreeMap::new, |known| known.all.clone())
            }
            Answer::NoResponders | Answer::Refused(_) => BTreeMap::new(),
        };
        self.publish(Applications { keeping, all });
    }

    fn publish(&self, now: Applications) {
        let is_new = self.model.shelf().current.send_if_modified(|current| {
            let is_new = current
                .as_ref()
                .is_none_or(|before| before.keeping != now.keeping || before.all != now.all);
            if is_new {
                *current = Some(Arc::new(now));
            }
            is_new
        });
        if is_new {
            self.model.records().changed(Collection::Applications);
        }
    }

    /// Takes in how an application is now.
    fn on_record(&mut self, message: &Message, targets: &Snapshot) {
        if made::by_jetstream(message) {
            return;
        }
        let root = self.dashboard.lattice().subjects.manager_status("");
        let name = message.subject.strip_prefix(&*root).unwrap_or_default();
        let Ok(record) = serde_json::from_slice::<Record>(&message.payload) else { return };
        let Some(known) = self.model.shelf().known() else { return };
        let Some(summary) = known.all.get(name) else {
            self.is_old = true;
            return;
        };
        let status = match targets.get(name) {
            Some(target) => effective(Some(target), &summary.version, Some(&record)),
            None => Status { status: record.info, ..record.status },
        };
        let mut next = Summary::clone(summary);
        next.status = status.status.kind;
        next.status_message = Some(status.status.message.clone());
        next.detailed_status = status;
        let mut all = known.all.clone();
        all.insert(name.to_owned(), Arc::new(next));
        self.publish(Applications { keeping: known.keeping.clone(), all });
    }
}

async fn ask(lattice: &Lattice) -> Answer {
    let message = match lattice.ask(&lattice.subjects.manager(Request::List), Bytes::new()).await {
        Ok(message) => message,
        Err(RequestError::NoResponders { .. }) => return Answer::NoResponders,
        Err(error) => return Answer::Silent(error.to_string()),
    };
    let headers = message.headers.as_ref();
    let is_host = headers.is_some_and(|headers| headers.get(HOST_HEADER).is_some());
    let list = match serde_json::from_slice::<Vec<Value>>(&message.payload) {
        // One that cannot be read hides no other.
        Ok(list) => list.into_iter().filter_map(|one| serde_json::from_value(one).ok()).collect(),
        Err(error) => {
            let failure = serde_json::from_slice::<Failure>(&message.payload);
            return Answer::Refused(failure.map_or_else(|_| error.to_string(), |one| one.message));
        }
    };
    if is_host { Answer::Host(list) } else { Answer::Manager(list) }
}

/// Says who keeps applications, by who answered, and by what the host of this dashboard does.
fn keeping(standing: Standing, answer: &Answer, lattice: &str) -> Keeping {
    let (keeper, text, advice) = match answer {
        Answer::Host(_) => return Keeping { keeper: Keeper::Hosts, text: None, advice: None },
        Answer::Manager(_) => (
            Keeper::Manager,
            match standing {
                Standing::Aside(Rival::Later) => {
                    "A deployment manager of a later protocol (wadm 0.14 or later) answers in this lattice. It cannot steer \
                     these hosts, and as long as it answers they keep no applications."
                        .to_owned()
                }
                _ => "A deployment manager (wadm) that is a program of its own keeps the applications of this lattice, so \
                      its hosts stay aside, and nothing can be changed here."
                    .to_owned(),
            },
            "Change them with its own tools, or stop it: hosts take over a minute and a half later. A host with the setting \
             applications = always takes over at once.",
        ),
        Answer::NoResponders => (
            Keeper::Nobody,
            format!("Nobody keeps applications in lattice {lattice}, so nothing can be deployed."),
            match standing {
                Standing::Off => {
                    "This host does not: its setting applications is never, or its NATS user may not use wadm.>. \
                     `host doctor` tells which."
                }
                _ => "This host has not begun to answer yet. `host doctor` looks for the cause if it stays so.",
            },
        ),
        Answer::Silent(cause) => (
            Keeper::Unavailable,
            format!("Nobody answers for the applications in time, so nothing can be changed: {cause}"),
            "What is shown is the last that was heard. `host doctor` looks for the cause.",
        ),
        Answer::Refused(cause) => (
            Keeper::Unavailable,
            format!("The applications cannot be read, so nothing can be deployed: {cause}"),
            "They are kept in JetStream, which the NATS server of the lattice has to have. `host doctor` looks for the cause.",
        ),
    };
    Keeping { keeper, text: Some(text), advice: Some(advice.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_nothing_can_be_done_is_told_by_who_answers() {
        let (none, later) = (|| Vec::new(), Standing::Aside(Rival::Later));
        for (standing, answer, keeper, text) in [
            (Standing::Keeping, Answer::Host(none()), Keeper::Hosts, ""),
            // Another host keeps them.
            (Standing::Off, Answer::Host(none()), Keeper::Hosts, ""),
            (
                Standing::Unknown,
                Answer::Manager(none()),
                Keeper::Manager,
                "(wadm) that is a program",
            ),
            (later, Answer::Manager(none()), Keeper::Manager, "later protocol"),
            (Standing::Off, Answer::NoResponders, Keeper::Nobody, "lattice shop"),
            (Standing::Keeping, Answer::Silent("late".into()), Keeper::Unavailable, "late"),
            (
                Standing::Keeping,
                Answer::Refused("no JetStream".into()),
                Keeper::Unavailable,
                "no JetStream",
            ),
        ] {
            let told = keeping(standing, &answer, "shop");
            assert_eq!(told.keeper, keeper);
            assert_eq!(told.text.is_some(), keeper != Keeper::Hosts);
            assert!(told.text.unwrap_or_default().contains(text), "{answer:?}");
        }
    }
}
