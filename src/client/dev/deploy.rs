//! Brings a module to a host: starts the actor there, or exchanges its module while it works; and
//! stops it at the end.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::time::Instant;
use tracing::debug;

use super::{ANNOTATION, Change, Running, Settings, Told};
use crate::{
    lattice::Lattice,
    names,
    placement::AUCTION_WAIT,
    upload::{Artifact, Readers, Sender, Verified},
    watch::{Observed, WaitError, Watch},
};
use lattice_base::{
    registry::{digest::Digest, uploads},
    store::artifacts::Put,
};
use lattice_protocol::{
    control::{
        request::{AuctionActor, HostRequest, ScaleActor, StopActor, UpdateActor},
        types::{Ack, Inventory, InventoryActor, Pairs},
    },
    errors::OutcomeUnknown,
    events::Event,
};

/// How long a start or an update that took too long is heard of all the same.
const LATE_TIME: Duration = Duration::from_secs(15 * 60);
/// How long the actor may take to stop.
const STOP_TIME: Duration = Duration::from_secs(15);
/// Pause between two looks whether it has.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// How long removing uploads may take; a client that sends something removes the rest another time.
const TIDY_TIME: Duration = Duration::from_secs(3);

/// A module that an actor cannot be updated to.
#[derive(Debug, thiserror::Error)]
#[error(
    "{actor} runs revision {running} on {host}, the file has revision {offered}; sign it again without --rev, so that the time of \
     now is its revision (`host claims sign`), or stop the actor first (`host stop actor {actor}`)"
)]
pub(super) struct NotNewer {
    actor: String,
    host: String,
    offered: u64,
    pub(super) running: u64,
}

/// Where an actor runs, or is to run.
#[derive(Clone)]
struct Place {
    host_id: String,
    host_name: String,
}

/// A start or an update that a host has taken on.
struct Awaited {
    watch: Watch,
    /// The actor as it runs afterwards.
    running: Running,
}

impl Awaited {
    /// Waits until the host tells how it ended. Cancel safe.
    async fn outcome(&mut self, until: Instant) -> Result<(), WaitError> {
        let Running { actor, reference, revision, .. } = &self.running;
        let of_event = |event: &Event| match event {
            Event::ActorScaled { actor, .. } if actor.image_ref == *reference => Observed::Done(()),
            Event::ActorScaleFailed { image_ref, error, .. } if image_ref == reference => {
                Observed::Failed(error.clone())
            }
            Event::ActorUpdated { public_key, revision: now, .. } if public_key == actor => {
                Observed::done_if(now == revision)
            }
            Event::ActorUpdateFailed { public_key, reason, .. } if public_key == actor => {
                Observed::Failed(reason.clone())
            }
            _ => Observed::Nothing,
        };
        let of_inventory =
            |inventory: &Inventory| Observed::done_if(runs(inventory, actor, reference));
        self.watch.listen(until, of_event, of_inventory, |_| {}).await
    }
}

/// The actor that was brought to the lattice, and where.
pub(super) struct Deployment {
    sender: Sender,
    /// The host that was asked for, and its id.
    wanted: Option<String>,
    wanted_id: Option<String>,
    max: u32,
    annotations: Pairs,
    /// How long a start or an update may take before it is said to be late.
    patience: Duration,
    /// One that is late, and when its save was noticed.
    late: Option<(Awaited, Instant)>,
    readers: Option<Readers>,
    place: Option<Place>,
    running: Option<Running>,
    /// The actor and the reference of the last command, whatever became of it.
    asked: Option<(String, String)>,
    /// Uploads that were sent from here and are still there.
    sent: Vec<Digest>,
}

impl Deployment {
    pub(super) fn new(sender: Sender, settings: &Settings) -> Result<Self> {
        let file = settings.file_name();
        ensure!(
            !file.is_empty(),
            "{} names no file; name the module or component to watch",
            settings.file.display()
        );
        let mut annotations = settings.annotations.clone();
        annotations.insert(ANNOTATION.to_owned(), file);
        let (wanted, max) = (settings.host.clone(), settings.max.max(1));
        Ok(Self {
            sender,
            wanted,
            wanted_id: None,
            max,
            annotations,
            patience: settings.patience,
            late: None,
            readers: None,
            place: None,
            running: None,
            asked: None,
            sent: Vec::new(),
        })
    }

    /// Returns the actor that runs, as far as it is known here.
    pub(super) fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// Makes this module run.
    pub(super) async fn deploy(
        &mut self,
        artifact: &Artifact,
        noticed: Instant,
        tell: &dyn Fn(Told),
    ) -> Result<Running> {
        let Verified::Actor(claims) = &artifact.verified else {
            bail!("it is a provider archive and no actor; start it with `host start provider`");
        };
        let actor = claims.subject.as_str();
        if self.asked.as_ref().is_some_and(|(before, _)| before != actor) {
            bail!(
                "it is another actor ({actor}) than the one that was started here; end this and begin again to run it beside \
                 that"
            );
        }
        let found = self.find(actor, tell).await?;
        let reference = artifact.reference();
        let there = found.as_ref().and_then(|inventory| running_in(inventory, actor));
        let offered = claims.effective_revision();
        let change = self.change_of(there, &reference, offered)?;
        if change != Change::Found {
            self.send(artifact, tell).await?;
        }
        let Place { host_id, host_name } = self.settle(&reference).await?;
        // Noted before the host is asked: a start that seems to fail may still come, and is stopped
        // at the end.
        self.asked = Some((actor.to_owned(), reference.clone()));
        let asked = Running {
            actor: actor.to_owned(),
            name: claims.name.clone().unwrap_or_default(),
            host_id,
            host_name,
            reference,
            revision: offered,
            change,
            took: Duration::ZERO,
        };
        self.late = None;
        let awaited = match change {
            Change::Started => Some(self.start(&asked).await?),
            Change::Updated => Some(self.update(&asked).await?),
            Change::Found => None,
        };
        if let Some(awaited) = awaited {
            self.settled(awaited, noticed).await?;
        }
        let running = Running { took: noticed.elapsed(), ..asked };
        self.running = Some(running.clone());
        Ok(running)
    }

    /// Returns what the deployment will be for the actor as it runs now.
    fn change_of(
        &self,
        there: Option<&InventoryActor>,
        reference: &str,
        offered: u64,
    ) -> Result<Change, NotNewer> {
        let Some(running) = there else { return Ok(Change::Started) };
        if running.image_ref == reference {
            return Ok(Change::Found);
        }
        // Hosts update to higher revisions only; asked beforehand, nothing is sent in vain.
        let before = revision_of(running);
        if before < offered {
            return Ok(Change::Updated);
        }
        let host = self.place.as_ref().map(Place::shown).unwrap_or_default();
        Err(NotNewer { actor: running.id.clone(), host, offered, running: before })
    }

    /// Waits for the outcome as long as people do; what comes later, [`Deployment::late`] hears.
    async fn settled(&mut self, mut awaited: Awaited, noticed: Instant) -> Result<()> {
        match awaited.outcome(Instant::now() + self.patience).await {
            Ok(()) => Ok(()),
            Err(WaitError::Failed(why)) => bail!(why),
            Err(WaitError::TimedOut) => {
                let unknown = OutcomeUnknown(format!(
                    "host {} did not say within {} s what came of {}; it may still come, which is \
                     told then",
                    awaited.running.place(),
                    self.patience.as_secs_f64(),
                    awaited.running.reference
                ));
                self.late = Some((awaited, noticed));
                bail!(unknown)
            }
        }
    }

    /// Finds the hosts that come into question, and the one that is wanted among them.
    pub(super) async fn prepare(&mut self) -> Result<()> {
        let readers = Readers::find(&self.sender.lattice).await?;
        if let Some(word) = &self.wanted {
            let all: Vec<_> = readers.hosts().iter().chain(readers.others()).cloned().collect();
            let host = names::host(word, &all)?;
            readers.require(&host)?;
            self.wanted_id = Some(host);
        }
        self.readers = Some(readers);
        Ok(())
    }

    /// Returns the inventory of the host that was chosen or is wanted, or else of a host where the
    /// actor runs already. `None` if no host is chosen yet.
    async fn find(&mut self, actor: &str, tell: &dyn Fn(Told)) -> Result<Option<Inventory>> {
        if let Some(place) = &self.place {
            match self.sender.lattice.inventory(&place.host_id).await {
                Ok(inventory) => return Ok(Some(inventory)),
                // It may be gone for good; then there is another one.
                Err(error) => debug!(%error, "the host of the actor does not answer"),
            }
            (self.place, self.readers) = (None, None);
        }
        if self.readers.is_none() {
            self.prepare().await?;
        }
        let (lattice, wanted) = (&self.sender.lattice, self.wanted_id.clone());
        let readers = self.readers.as_ref().context("no host was asked")?;
        let mut inventories = lattice.inventories(readers.hosts()).await;
        let runners = inventories.iter().filter(|inventory| running_in(inventory, actor).is_some());
        let elsewhere: Vec<String> = runners.map(|inventory| inventory.host_id.clone()).collect();
        let chosen = wanted.or_else(|| elsewhere.first().cloned());
        self.place = chosen.as_ref().and_then(|id| Place::among(readers, id));
        let others = elsewhere.iter().filter(|id| Some(*id) != chosen.as_ref());
        let others: Vec<String> =
            others.filter_map(|id| Place::among(readers, id)).map(|place| place.shown()).collect();
        if !others.is_empty() {
            tell(Told::Elsewhere { actor: actor.to_owned(), hosts: others });
        }
        let at =
            inventories.iter().position(|inventory| Some(&inventory.host_id) == chosen.as_ref());
        Ok(at.map(|at| inventories.swap_remove(at)))
    }

    async fn send(&mut self, artifact: &Artifact, tell: &dyn Fn(Told)) -> Result<()> {
        let readers = self.readers.as_ref().context("no host was asked")?;
        let uploaded = self
            .sender
            .send(readers, artifact, |bytes, of| tell(Told::Sending { bytes, of }))
            .await?;
        if uploaded.put == Put::Sent {
            self.sent.push(uploaded.digest);
        }
        Ok(())
    }

    /// The host that was chosen, or the first that offers.
    async fn settle(&mut self, reference: &str) -> Result<Place> {
        if self.place.is_none() {
            let readers = self.readers.as_ref().context("no host was asked")?;
            let lattice = &self.sender.lattice;
            let auction =
                AuctionActor { actor_ref: reference.to_owned(), constraints: Pairs::new() };
            let bid = lattice.first_bid(&auction, AUCTION_WAIT, |host| readers.has(host)).await?;
            let host = bid.context(
                "no host offers to run it; look at `host get hosts`, or name one with --host-id",
            )?;
            self.place =
                Some(Place::among(readers, &host).unwrap_or_else(|| Place::new(&host, "")));
        }
        self.place.clone().context("no host was chosen")
    }

    async fn start(&self, actor: &Running) -> Result<Awaited> {
        let request = ScaleActor {
            actor_id: Some(actor.actor.clone()),
            actor_ref: actor.reference.clone(),
            annotations: self.annotations.clone(),
            count: Some(Some(self.max)),
            host_id: actor.host_id.clone(),
        };
        self.ask(actor, &request).await
    }

    async fn update(&self, actor: &Running) -> Result<Awaited> {
        let request = UpdateActor {
            actor_id: actor.actor.clone(),
            annotations: None,
            any_revision: false,
            host_id: actor.host_id.clone(),
            new_actor_ref: actor.reference.clone(),
            share: None,
        };
        self.ask(actor, &request).await
    }

    async fn ask(
        &self,
        actor: &Running,
        request: &impl HostRequest<Reply = Ack>,
    ) -> Result<Awaited> {
        let lattice = &self.sender.lattice;
        // Opened first: the outcome may come before the answer.
        let watch = Watch::open(lattice, &actor.host_id).await?;
        lattice.command(&actor.host_id, request).await?;
        Ok(Awaited { watch, running: actor.clone() })
    }

    /// Waits for a start or an update that was given up on; for ever, if there is none. Cancel
    /// safe.
    pub(super) async fn late(&mut self) -> Result<Running> {
        let Some((awaited, noticed)) = &mut self.late else { return std::future::pending().await };
        // From the save on: this is called anew whenever something else happens.
        let outcome = awaited.outcome(*noticed + self.patience + LATE_TIME).await;
        let running = Running { took: noticed.elapsed(), ..awaited.running.clone() };
        self.late = None;
        match outcome {
            Ok(()) => {
                self.running = Some(running.clone());
                Ok(running)
            }
            Err(WaitError::Failed(why)) => bail!(why),
            Err(WaitError::TimedOut) => bail!(OutcomeUnknown(format!(
                "the host does not say what became of {}; `host get inventory {}` shows what runs",
                running.reference, running.host_id
            ))),
        }
    }

    /// Removes uploads that were sent from here and run nowhere any more. Those left over are
    /// removed by others, another time.
    pub(super) async fn tidy(&mut self) {
        let Some(readers) = self.readers.clone().filter(|_| !self.sent.is_empty()) else { return };
        let store = self.sender.store(&readers);
        let tidy = async {
            let in_use = self.sender.in_use(&readers).await?;
            for digest in std::mem::take(&mut self.sent) {
                if in_use.contains(&uploads::reference(&digest)) {
                    self.sent.push(digest);
                } else {
                    store.delete(&digest).await?;
                }
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(TIDY_TIME, tidy).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                debug!(error = %format!("{error:#}"), "uploads of earlier saves not removed")
            }
            Err(_) => debug!("removing uploads of earlier saves took too long"),
        }
    }

    /// Stops the actor, if it was started here and is not to be kept; returns it, and whether it
    /// was stopped.
    pub(super) async fn end(mut self, keep: bool) -> Result<Option<(Running, bool)>> {
        let (Some((actor, reference)), Some(place)) = (self.asked.clone(), &self.place) else {
            return Ok(None);
        };
        let (host, shown) = (place.host_id.clone(), place.shown());
        let is_stopped = match keep {
            true => false,
            false => self.stop(&host, &shown, &actor, &reference).await?,
        };
        self.tidy().await;
        if let Some(readers) = &self.readers {
            self.sender.tidy(readers).await;
        }
        Ok(self.running.map(|running| (running, is_stopped)))
    }

    /// Whether all that was started here has stopped, and nothing else runs of it.
    async fn stop(&self, host: &str, shown: &str, actor: &str, reference: &str) -> Result<bool> {
        let lattice = &self.sender.lattice;
        let until = Instant::now() + STOP_TIME;
        loop {
            // By the reference first: so it comes after a start or an update that is still in work.
            for name in [reference, actor] {
                self.ask_to_stop(lattice, host, name).await;
            }
            match lattice
                .inventory(host)
                .await
                .map(|inventory| running_in(&inventory, actor).cloned())
            {
                Ok(None) => return Ok(true),
                Ok(Some(left))
                    if !left
                        .instances
                        .iter()
                        .any(|instance| instance.annotations.contains_key(ANNOTATION)) =>
                {
                    return Ok(false);
                }
                Err(crate::lattice::RequestError::NoResponders { .. }) => return Ok(true),
                _ if Instant::now() >= until => bail!(OutcomeUnknown(format!(
                    "{actor} did not stop on {shown} within {} s, or the host does not answer; look with \
                     `host get inventory {host}`, and stop it with `host stop actor {actor} --host-id {host}`",
                    STOP_TIME.as_secs()
                ))),
                _ => tokio::time::sleep(LOOK_PAUSE).await,
            }
        }
    }

    /// Stops what has the annotation, whatever file it is of: it was left by a process that was
    /// killed. A refusal says that it does not run, or not so.
    async fn ask_to_stop(&self, lattice: &Lattice, host: &str, name: &str) {
        let of_others = match lattice.inventory(host).await {
            Ok(inventory) => inventory.actors,
            Err(_) => Vec::new(),
        };
        let instances =
            of_others.iter().filter(|running| running.id == name || running.image_ref == name);
        let marked = instances.flat_map(|running| &running.instances).filter_map(|instance| {
            let file = instance.annotations.get(ANNOTATION)?;
            Some(Pairs::from([(ANNOTATION.to_owned(), file.clone())]))
        });
        let mut sets: Vec<Pairs> = marked.collect();
        if !sets.contains(&self.annotations) {
            sets.push(self.annotations.clone());
        }
        for annotations in sets {
            let request = StopActor {
                actor_ref: name.to_owned(),
                annotations,
                count: None,
                host_id: host.to_owned(),
            };
            if let Err(error) = lattice.command(host, &request).await {
                debug!(error = %format!("{error:#}"), name, "not stopped");
            }
        }
    }
}

impl Place {
    fn new(host_id: &str, host_name: &str) -> Self {
        Self { host_id: host_id.to_owned(), host_name: host_name.to_owned() }
    }

    fn among(readers: &Readers, id: &str) -> Option<Self> {
        let host = readers.hosts().iter().find(|host| host.id == id)?;
        Some(Self::new(id, &host.friendly_name))
    }

    fn shown(&self) -> String {
        if self.host_name.is_empty() {
            self.host_id.clone()
        } else {
            format!("{} ({})", self.host_id, self.host_name)
        }
    }
}

fn running_in<'a>(inventory: &'a Inventory, actor: &str) -> Option<&'a InventoryActor> {
    inventory.actors.iter().find(|running| running.id == actor)
}

/// The revision in the claims of what runs; 0 if these have none.
fn revision_of(actor: &InventoryActor) -> u64 {
    actor
        .instances
        .iter()
        .map(|instance| u64::try_from(instance.revision).unwrap_or(0))
        .max()
        .unwrap_or(0)
}

fn runs(inventory: &Inventory, actor: &str, reference: &str) -> bool {
    running_in(inventory, actor).is_some_and(|running| running.image_ref == reference)
}
