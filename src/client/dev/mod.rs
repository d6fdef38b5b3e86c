//! A file that is watched, and the actor made of it: each save runs a moment later, without a lost
//! call.
//!
//! ```text
//! saves ─▶ verify, or sign ─▶ deploy (choose a host, send, start or update, wait) ─▶ Told
//! ```
//!
//! A save that cannot run is reported, and what runs goes on. At the end the actor is stopped, if
//! it was started here: it is known by the annotation [`ANNOTATION`], also when the process that
//! started it was killed. Uploads that nobody runs any more are removed: a day of saves would fill
//! the store.
//!
//! A start that takes longer than people wait is reported as late; how it ends is reported, too,
//! unless another save comes before.

mod deploy;
pub mod saves;
mod surroundings;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{
    lattice::Lattice,
    upload::{Artifact, ContentError, Sender, Verified},
};
use deploy::{Deployment, NotNewer};
use lattice_protocol::{
    control::types::Pairs,
    identity::claims::{ActorClaims, now},
    journal::Line,
};
use saves::{Save, Saves, Unreadable};
pub use surroundings::Linked;
use surroundings::Surroundings;

/// The annotation of actors that were started here; its value is the name of the file.
pub use lattice_protocol::desired::kept::DEV as ANNOTATION;
/// How long a start or an update may take, with everything, before it is said to be late.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// A file that is not whole may be in the middle of a build; after this time without a change it is
/// not.
const HALF_TIME: Duration = Duration::from_secs(1);

/// The file to watch, and where its actor is to run.
#[derive(Clone, Debug)]
pub struct Settings {
    pub file: PathBuf,
    /// Host by id, the beginning of it, or a part of its friendly name; chosen if not given.
    pub host: Option<String>,
    /// Calls the actor takes at a time.
    pub max: u32,
    /// Annotations of the actor, besides [`ANNOTATION`].
    pub annotations: Pairs,
    pub linking: Linking,
    /// How long a start may take before it is said to be late, mostly [`PATIENCE`].
    pub patience: Duration,
    /// Leave the actor running at the end.
    pub keep: bool,
}

/// How the actor is linked; built-in providers that are missing are started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Linking {
    /// Not at all.
    Off,
    /// To a provider of each contract that its claims name; its page, if it has one, is at a free
    /// port.
    Claimed,
    /// The same, and its page is at this address, as `127.0.0.1:8080`.
    At(String),
}

/// Signs a module with the developer's keys, so that it has this revision. The claims are those the
/// module has, if it is signed: then it is signed again and says the same, or if its keys are not
/// the developer's, nothing is returned.
pub type Sign<'a> = Box<dyn Fn(&Bytes, Option<&ActorClaims>, i32) -> Result<Option<Vec<u8>>> + 'a>;

/// Hears what an actor, named by its public key, logs.
pub type Follow<'a> = Box<dyn Fn(&Lattice, &str) -> BoxStream<'static, Line> + 'a>;

/// Events to report to the user.
#[derive(Clone, Debug)]
pub enum Told {
    /// There is no such file yet.
    Waiting,
    /// The module is on its way to the store.
    Sending {
        bytes: u64,
        of: u64,
    },
    Running(Running),
    /// The saved file does not run; the actor that ran before goes on, if one did.
    Refused {
        why: String,
        goes_on: Option<Running>,
    },
    /// The actor runs on these hosts too, where nothing changes.
    Elsewhere {
        actor: String,
        hosts: Vec<String>,
    },
    Logged(Line),
    /// A link was put.
    Linked(Linked),
    /// A link was there; it stays as it is.
    LinkedBefore(Linked),
    /// A contract of the actor has no link.
    NotLinked {
        contract: String,
        why: String,
    },
    /// All links are put: here is what to go on with.
    Ready {
        /// The actor's name, or its public key if it has none.
        actor: String,
        /// Its page; `None` if it has none.
        url: Option<String>,
    },
    /// A link that was put here is deleted.
    Unlinked {
        contract: String,
    },
    /// A provider that was started here is stopped.
    ProviderStopped {
        provider: String,
    },
    /// Something that was put here stays.
    NotRemoved {
        what: String,
        why: String,
    },
    Stopped(Running),
    /// It was not started here, or is to be kept.
    LeftRunning(Running),
}

/// An actor that runs what was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub actor: String,
    pub name: String,
    pub host_id: String,
    pub host_name: String,
    pub reference: String,
    pub revision: u64,
    pub change: Change,
    /// From the save on.
    pub took: Duration,
}

impl Running {
    /// Its name, or its public key if it has none.
    pub fn label(&self) -> &str {
        if self.name.is_empty() { &self.actor } else { &self.name }
    }

    /// The name of its host, or its id if it has none.
    pub fn place(&self) -> &str {
        if self.host_name.is_empty() { &self.host_id } else { &self.host_name }
    }
}

/// How it came to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Started,
    Updated,
    /// It ran before.
    Found,
}

/// Watches until `stop`, then stops the actor.
pub async fn run(
    sender: Sender,
    settings: Settings,
    sign: Sign<'_>,
    follow: Option<Follow<'_>>,
    stop: CancellationToken,
    tell: &dyn Fn(Told),
) -> Result<()> {
    let lattice = sender.lattice.clone();
    let mut deployment = Deployment::new(sender, &settings)?;
    deployment.prepare().await?;
    let mut saves = Saves::watch(&settings.file)?;
    if !tokio::fs::try_exists(&settings.file).await.unwrap_or(false) {
        tell(Told::Waiting);
    }
    let page = match &settings.linking {
        Linking::Off => None,
        Linking::Claimed => Some(None),
        Linking::At(address) => Some(Some(address.clone())),
    };
    let surroundings =
        page.map(|page| Surroundings::new(lattice.clone(), page, &settings.file_name()));
    let mut dev = Dev { deployment, surroundings, claims: None, sign, revision: 0, tell };
    // The error of a file that may be half of a module, and until when the rest is waited for.
    let mut half: Option<(Instant, ContentError)> = None;
    let mut logs: Option<(String, BoxStream<'static, Line>)> = None;
    loop {
        let next = dev.next(&mut saves, half.as_ref().map(|(until, _)| *until));
        let Some(next) = reporting(&mut logs, tell, &stop, next).await else { break };
        match next? {
            Next::HalfTime => {
                if let Some((_, error)) = half.take() {
                    dev.refused(anyhow!(error).context("the file is not a whole module"));
                }
            }
            Next::Late(outcome) => {
                if reporting(&mut logs, tell, &stop, dev.came_late(outcome)).await.is_none() {
                    break;
                }
            }
            Next::Save(save) => {
                half = None;
                match reporting(&mut logs, tell, &stop, dev.take(save.content, save.noticed)).await
                {
                    None => break,
                    Some(Taken::Done) => {}
                    Some(Taken::Half(error)) => half = Some((Instant::now() + HALF_TIME, error)),
                }
            }
        }
        let running = dev.deployment.running().map(|running| running.actor.clone());
        if let (Some(follow), Some(actor)) = (&follow, running)
            && logs.as_ref().is_none_or(|(of, _)| *of != actor)
        {
            let lines = follow(&lattice, &actor);
            logs = Some((actor, lines));
        }
    }
    drop(saves);
    dev.end(settings.keep).await
}

/// The things that are waited for between two deployments.
enum Next {
    Save(Save),
    /// No save came while the rest of a file was waited for.
    HalfTime,
    /// A start or an update that was given up on has ended.
    Late(Result<Running>),
}

impl Settings {
    /// The name of the file, without the directory.
    fn file_name(&self) -> String {
        self.file.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Returns the next save, or that there was none by a time.
async fn next_save(saves: &mut Saves, until: Option<Instant>) -> Result<Next> {
    let save = match until {
        Some(until) => match timeout_at(until, saves.next()).await {
            Ok(save) => save,
            Err(_) => return Ok(Next::HalfTime),
        },
        None => saves.next().await,
    };
    save.context("the watch of the file ended by itself; begin again").map(Next::Save)
}

/// Reports the lines of logs until the work is done; `None` if it is stopped before.
async fn reporting<T>(
    logs: &mut Option<(String, BoxStream<'static, Line>)>,
    tell: &dyn Fn(Told),
    stop: &CancellationToken,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            Some(line) = next_line(logs) => tell(Told::Logged(line)),
            done = &mut work => return Some(done),
        }
    }
}

/// The next line of the logs that are followed; never, if none are.
async fn next_line(logs: &mut Option<(String, BoxStream<'static, Line>)>) -> Option<Line> {
    match logs {
        Some((_, lines)) => match lines.next().await {
            Some(line) => Some(line),
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// The outcome of a save.
enum Taken {
    /// It runs, or the reason why not was reported.
    Done,
    /// It may be half of a module.
    Half(ContentError),
}

struct Dev<'a> {
    deployment: Deployment,
    surroundings: Option<Surroundings>,
    /// Those of what was deployed last.
    claims: Option<ActorClaims>,
    sign: Sign<'a>,
    /// The highest revision that was signed here.
    revision: u64,
    tell: &'a dyn Fn(Told),
}

impl Dev<'_> {
    /// Waits for what comes next. Cancel safe.
    async fn next(&mut self, saves: &mut Saves, until: Option<Instant>) -> Result<Next> {
        tokio::select! {
            biased;
            outcome = self.deployment.late() => Ok(Next::Late(outcome)),
            next = next_save(saves, until) => next,
        }
    }

    /// Reports how a start or an update ended that was late.
    async fn came_late(&mut self, outcome: Result<Running>) {
        match outcome {
            Ok(running) => self.runs(running).await,
            Err(error) => self.refused(error),
        }
    }

    async fn take(&mut self, content: Result<Bytes, Unreadable>, noticed: Instant) -> Taken {
        let done = async {
            let content = content?;
            let artifact = match Artifact::verify(content.clone()).await {
                Ok(artifact) => artifact,
                Err(ContentError::Unsigned) => self.signed(&content, None, 0).await?,
                Err(error) if error.may_be_half() => return Ok(Some(error)),
                Err(error) => return Err(anyhow!(error)),
            };
            self.deploy(artifact, noticed).await.map(|()| None)
        };
        match done.await {
            Ok(None) => Taken::Done,
            Ok(Some(half)) => Taken::Half(half),
            Err(error) => {
                self.refused(error);
                Taken::Done
            }
        }
    }

    /// Runs a module; one with a revision that is too low is signed again if it is the developer's
    /// own.
    async fn deploy(&mut self, artifact: Artifact, noticed: Instant) -> Result<()> {
        let error = match self.attempt(&artifact, noticed).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let Some(NotNewer { running, .. }) = error.downcast_ref::<NotNewer>() else {
            return Err(error);
        };
        let Verified::Actor(claims) = &artifact.verified else { return Err(error) };
        let Ok(again) = self.signed(&artifact.content, Some(claims), *running).await else {
            return Err(error);
        };
        self.attempt(&again, noticed).await
    }

    async fn attempt(&mut self, artifact: &Artifact, noticed: Instant) -> Result<()> {
        if let Verified::Actor(claims) = &artifact.verified {
            self.claims = Some(claims.clone());
        }
        let running = self.deployment.deploy(artifact, noticed, self.tell).await?;
        self.runs(running).await;
        Ok(())
    }

    async fn runs(&mut self, running: Running) {
        let is_exchanged = running.change == Change::Updated;
        (self.tell)(Told::Running(running.clone()));
        if let (Some(surroundings), Some(claims)) = (&mut self.surroundings, &self.claims) {
            surroundings.complete(&running, claims, self.tell).await;
        }
        if is_exchanged {
            self.deployment.tidy().await;
        }
    }

    /// Signs with a revision above all that were there, and above `running`.
    async fn signed(
        &mut self,
        content: &Bytes,
        claims: Option<&ActorClaims>,
        running: u64,
    ) -> Result<Artifact> {
        let revision = now().max(self.revision + 1).max(running.saturating_add(1));
        let fitting = i32::try_from(revision)
            .context("the revision is as high as it can be; sign the module yourself")?;
        let signed = (self.sign)(content, claims, fitting).context("sign the module")?;
        let signed = signed.context("the module is not signed with keys of yours")?;
        self.revision = revision;
        let artifact =
            Artifact::verify(signed.into()).await.context("verify the module after signing it")?;
        Ok(Artifact { was_unsigned: true, ..artifact })
    }

    /// Takes away what was put here, unless it is to be kept.
    async fn end(self, keep: bool) -> Result<()> {
        if let Some(surroundings) = self.surroundings.filter(|_| !keep) {
            surroundings.remove(self.tell).await;
        }
        match self.deployment.end(keep).await? {
            Some((running, true)) => (self.tell)(Told::Stopped(running)),
            Some((running, false)) => (self.tell)(Told::LeftRunning(running)),
            None => {}
        }
        Ok(())
    }

    fn refused(&self, error: anyhow::Error) {
        let goes_on = self.deployment.running().cloned();
        (self.tell)(Told::Refused { why: format!("{error:#}"), goes_on });
    }
}
