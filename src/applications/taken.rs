//! Asks whether built-in providers have taken on the links of applications: that a link is stored
//! says nothing of it.
//!
//! The hosts that run the provider are asked for a link when it is new, when others run the
//! provider, when a refusal is heard of, and then once in a while. Providers that are processes
//! do not tell, so they are not asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tracing::error;

use crate::plan::{Observed, TakenOn};
use lattice_client::lattice::{Lattice, RequestError};
use lattice_protocol::{
    builtin,
    control::probe::link::{Answered, Request, State},
    links::LinkDefinition,
};

/// How soon the hosts are asked again about a link that they have not taken on.
const ASK_SOON: Duration = Duration::from_secs(2);
/// How soon they are asked again about one that they have.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Links that are asked about at a time.
const ASKED_MAX: usize = 16;

/// The answers about links, by the links' ids.
pub struct Takings {
    lattice: Lattice,
    of: BTreeMap<String, Taking>,
    asking: JoinSet<Told>,
    /// A permit for each question that is on its way.
    room: Arc<Semaphore>,
}

/// The knowledge about one link.
struct Taking {
    link: LinkDefinition,
    /// The hosts that run its provider.
    hosts: BTreeSet<String>,
    taken: TakenOn,
    ask_at: Instant,
    /// The task that asks.
    asking: Option<Id>,
}

/// The answer of some hosts about a link.
struct Told {
    link: LinkDefinition,
    hosts: BTreeSet<String>,
    taken: TakenOn,
}

impl Takings {
    pub fn new(lattice: Lattice) -> Self {
        let room = Arc::new(Semaphore::new(ASKED_MAX));
        Self { lattice, of: BTreeMap::new(), asking: JoinSet::new(), room }
    }

    /// Lays the answers about these links, which are stored, over what is seen, and asks for those
    /// that are due. Others are forgotten.
    pub fn overlay(&mut self, links: Vec<LinkDefinition>, observed: &mut Observed, now: Instant) {
        let mut before = std::mem::take(&mut self.of);
        for link in links {
            let hosts = runners(&link, observed);
            if hosts.is_empty() {
                continue;
            }
            let id = link.id();
            // Several applications may have the same link.
            if self.of.contains_key(&id) {
                continue;
            }
            let mut taking = match before.remove(&id).filter(|it| it.link == link) {
                Some(known) => known.by(hosts, now),
                None => Taking::new(link, hosts, now),
            };
            if taking.is_due(now) {
                let (link, hosts) = (taking.link.clone(), taking.hosts.clone());
                let asking = ask(self.lattice.clone(), Arc::clone(&self.room), link, hosts);
                taking.asking = Some(self.asking.spawn(asking).id());
                taking.ask_at = now + ASK_AGAIN;
            }
            observed.taken.insert(id.clone(), taking.taken.clone());
            self.of.insert(id, taking);
        }
    }

    /// Asks about a link at the next look, since something was heard of it.
    pub fn ask_again(&mut self, link: &LinkDefinition, now: Instant) {
        if let Some(taking) = self.of.get_mut(&link.id()) {
            taking.ask_at = now;
        }
    }

    /// Whether somebody is to be asked.
    pub fn is_due(&self, now: Instant) -> bool {
        self.of.values().any(|taking| taking.is_due(now))
    }

    /// Waits for the next answer and returns whether it says something new; never returns while
    /// nobody is asked. Cancel safe.
    pub async fn next(&mut self) -> bool {
        match self.asking.join_next().await {
            Some(told) => self.take(told, Instant::now()),
            None => std::future::pending().await,
        }
    }

    fn take(&mut self, told: Result<Told, JoinError>, now: Instant) -> bool {
        let Told { link, hosts, taken } = match told {
            Ok(told) => told,
            Err(error) => {
                error!(%error, "asking for a link panicked; this is a bug");
                // It is asked about again when that is due.
                let mut all = self.of.values_mut();
                if let Some(taking) = all.find(|it| it.asking == Some(error.id())) {
                    taking.asking = None;
                }
                return false;
            }
        };
        let current = self.of.get_mut(&link.id());
        let Some(taking) = current.filter(|it| it.link == link && it.hosts == hosts) else {
            return false;
        };
        taking.asking = None;
        // A refusal that was heard of since the question is asked about at once.
        if taking.ask_at > now {
            let pause = if taken == TakenOn::Yes { ASK_AGAIN } else { ASK_SOON };
            taking.ask_at = now + pause;
        }
        let is_new = taking.taken != taken;
        taking.taken = taken;
        is_new
    }
}

impl Taking {
    fn new(link: LinkDefinition, hosts: BTreeSet<String>, now: Instant) -> Self {
        Self { link, hosts, taken: TakenOn::Awaited, ask_at: now, asking: None }
    }

    /// Takes the hosts that run the provider now. Others than before are asked at once; what is
    /// known stays until they have answered.
    fn by(self, hosts: BTreeSet<String>, now: Instant) -> Self {
        match self.hosts == hosts {
            true => self,
            false => Self { hosts, ask_at: now, asking: None, ..self },
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.asking.is_none() && self.ask_at <= now
    }
}

/// Returns the hosts that run the provider of a link, if that is a built-in one.
fn runners(link: &LinkDefinition, observed: &Observed) -> BTreeSet<String> {
    if builtin::by_key(&link.provider_id).is_none() {
        return BTreeSet::new();
    }
    let runs = observed.hosts.iter().filter(|(_, view)| {
        let mut runs = view.providers.iter();
        runs.any(|run| run.key == link.provider_id && run.link_name == link.link_name)
    });
    runs.map(|(id, _)| id.clone()).collect()
}

async fn ask(
    lattice: Lattice,
    room: Arc<Semaphore>,
    link: LinkDefinition,
    hosts: BTreeSet<String>,
) -> Told {
    // Never closed, so there is always a permit to wait for.
    let _permit = room.acquire().await;
    let request = Request { link: link.clone(), is_deleted: false };
    let answers = lattice.ask_each(hosts.iter().cloned().collect(), &request).await;
    Told { link, hosts, taken: taken_on(answers) }
}

/// Returns what the answers mean for the whole: a refusal counts before all else.
fn taken_on(answers: Vec<(String, Result<Answered, RequestError>)>) -> TakenOn {
    let mut taken = TakenOn::Yes;
    for (host, answer) in answers {
        match answer {
            Ok(Answered { state: State::Refused, error, .. }) => {
                return TakenOn::Refused { host, error };
            }
            Ok(Answered { state: State::Done | State::Untold, .. })
            // A host that does not know the question.
            | Err(RequestError::Refused { .. }) => {}
            Ok(_) | Err(_) => taken = TakenOn::Awaited,
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_taken_on_when_every_host_says_so() {
        let told =
            |state: State| Ok(Answered { state, error: "why".to_owned(), ..Answered::default() });
        let refused = TakenOn::Refused { host: "N1".to_owned(), error: "why".to_owned() };
        for (states, taken) in [
            (vec![State::Done, State::Done], TakenOn::Yes),
            (vec![State::Done, State::Pending], TakenOn::Awaited),
            (vec![State::Absent], TakenOn::Awaited),
            (vec![State::Pending, State::Refused], refused),
            (vec![State::Untold], TakenOn::Yes),
        ] {
            let answers = states.into_iter().enumerate();
            let answers = answers.map(|(number, state)| (format!("N{number}"), told(state)));
            assert_eq!(taken_on(answers.collect()), taken);
        }
    }

    #[test]
    fn other_hosts_are_asked_at_once_and_the_answer_of_before_stays_until_they_say() {
        let hosts = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        let link = LinkDefinition {
            actor_id: "MA".into(),
            provider_id: "VA".into(),
            link_name: "default".into(),
            contract_id: "acme:x".into(),
            values: BTreeMap::new(),
        };
        let now = Instant::now();
        let known = Taking {
            taken: TakenOn::Yes,
            ask_at: now + ASK_AGAIN,
            ..Taking::new(link, hosts(&["N1"]), now)
        };
        let same = known.by(hosts(&["N1"]), now);
        assert!(!same.is_due(now));
        let other = same.by(hosts(&["N1", "N2"]), now);
        assert!(other.is_due(now));
        assert_eq!((other.taken, other.hosts), (TakenOn::Yes, hosts(&["N1", "N2"])));
    }
}
