//! Getting a module ready to run, and telling the lattice whose it is.

use std::{sync::Arc, time::Duration};

use anyhow::anyhow;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::info;

use super::Parts;
use crate::{
    actors::{artifact::Artifact, plan::LoadError},
    events::{Stage, progress::EVERY},
    issuers::{IssuerChange, Kind, Signed},
    links::unwritten::entries_of,
    policy::{Action, Party},
};
use lattice_base::registry::reference::Reference;
use lattice_protocol::{
    clock,
    identity::claims::{ActorClaims, now},
    links::Claims,
};

/// Modules that are compiled at a time; each may take a core and the memory of the largest module.
const COMPILES_MAX: usize = 4;
/// A machine with less memory than this compiles one at a time.
const COMPILES_MEMORY_BYTES: u64 = 2 << 30;
/// Memory that compiling takes for each byte of a module, and the share of the machine's that all
/// together may take.
const MEMORY_PER_BYTE: u64 = 40;
const MEMORY_SHARE: u64 = 2;
/// The machine's memory where that is unknown.
const MEMORY_UNKNOWN_BYTES: u64 = 2 << 30;
/// Modules that may be on their way here, or wait to be compiled, by where they come from. Files
/// and uploads are here at once; how many images are pulled at a time is up to the registry, this
/// only bounds what waits in memory afterwards.
const FILES_MAX: usize = 8;
const UPLOADS_MAX: usize = 8;
const IMAGES_MAX: usize = 64;
/// How long compiling may take before whoever asked for it is told.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(300);
/// The unit in which memory is counted.
const MIB: u64 = 1 << 20;

/// How many modules may be on their way, and how many are compiled at a time. A module is fetched
/// first and takes its place among those that are compiled when it is here, so one that needs no
/// pull never waits for one that does.
pub(super) struct Loads {
    files: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    images: Arc<Semaphore>,
    compiles: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    memory_max_mib: u32,
}

impl Loads {
    /// For a machine with so much memory, in bytes.
    pub fn new(memory_bytes: Option<u64>) -> Self {
        let memory_bytes = memory_bytes.unwrap_or(MEMORY_UNKNOWN_BYTES);
        let memory_max_mib = u32::try_from(memory_bytes / MEMORY_SHARE / MIB)
            .unwrap_or(u32::MAX)
            .clamp(1, MIB as u32);
        let compiles = if memory_bytes < COMPILES_MEMORY_BYTES { 1 } else { COMPILES_MAX };
        Self {
            files: Arc::new(Semaphore::new(FILES_MAX)),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            images: Arc::new(Semaphore::new(IMAGES_MAX)),
            compiles: Arc::new(Semaphore::new(compiles)),
            memory: Arc::new(Semaphore::new(memory_max_mib as usize)),
            memory_max_mib,
        }
    }

    /// Waits until a module may come from where its reference says.
    async fn to_fetch(&self, reference: &str) -> Option<OwnedSemaphorePermit> {
        let source = match Reference::parse(reference) {
            Ok(Reference::File(_)) => &self.files,
            Ok(Reference::Lattice(_)) => &self.uploads,
            _ => &self.images,
        };
        // Never closed, so there is always a permit to wait for; the same holds below.
        Arc::clone(source).acquire_owned().await.ok()
    }

    /// Waits until a module of this size may be compiled.
    async fn to_compile(&self, bytes: usize) -> [Option<OwnedSemaphorePermit>; 2] {
        let compiles = Arc::clone(&self.compiles).acquire_owned().await.ok();
        let memory = Arc::clone(&self.memory).acquire_many_owned(self.mib_for(bytes)).await.ok();
        [compiles, memory]
    }

    /// Returns the MiB that compiling takes, a generous guess. A module that needs more than all
    /// there is waits until it is alone.
    fn mib_for(&self, bytes: usize) -> u32 {
        let mib = (bytes as u64).saturating_mul(MEMORY_PER_BYTE) / MIB;
        u32::try_from(mib).unwrap_or(u32::MAX).clamp(1, self.memory_max_mib)
    }
}

/// The end of a load.
pub(super) struct Loaded {
    pub reference: String,
    pub result: Result<Arc<Artifact>, LoadError>,
}

/// Fetches, verifies, compiles, and asks whether it may run.
pub(super) async fn load(
    parts: Arc<Parts>,
    loads: Arc<Loads>,
    reference: String,
    twins: Vec<Arc<Artifact>>,
    change: IssuerChange,
) -> Loaded {
    let steps = Arc::new(parts.context.events.steps(&reference));
    let on_its_way = loads.to_fetch(&reference).await;
    let fetched = parts
        .registry
        .fetch_telling(&reference, EVERY, |(bytes, of)| steps.pulled(bytes, of))
        .await;
    let wasm = match fetched {
        Ok(fetched) => fetched.content,
        Err(error) => return Loaded { reference, result: Err(LoadError::of_unknown(error)) },
    };
    let places = loads.to_compile(wasm.len()).await;
    drop(on_its_way);
    let engine = parts.shared.engine.clone();
    let slots_max = parts.shared.component_slots.at_most();
    let began = std::time::Instant::now();
    // A host that stops leaves this alone, and its events must end before it is done.
    let steps_to_tell = Arc::downgrade(&steps);
    let tell = move |stage| {
        if let Some(steps) = steps_to_tell.upgrade() {
            steps.stage(stage);
        }
    };
    let loaded = tokio::task::spawn_blocking(move || {
        // It keeps its places until it is done, whoever waits for it.
        let _places = places;
        tell(Stage::Verify);
        Artifact::load(&engine, &wasm, now(), slots_max, |hash, claims| {
            // It is verified when this is asked.
            let same = twins.into_iter().filter(|twin| twin.code_hash == *hash);
            let twin = same.max_by_key(|twin| *twin.claims == *claims);
            if twin.is_none() {
                tell(Stage::Compile);
            }
            twin
        })
    });
    let result = match tokio::time::timeout(COMPILE_TIMEOUT, loaded).await {
        Ok(Ok(Ok(artifact))) => permitted(&parts, artifact, &reference, change).await,
        Ok(Ok(Err(error))) => Err(LoadError::of_unknown(error)),
        Ok(Err(panic)) => Err(LoadError::of_unknown(format!("loading it panicked: {panic}"))),
        Err(_) => Err(LoadError::of_unknown(too_long())),
    };
    if result.is_ok() {
        info!(took_ms = clock::millis(began.elapsed()), "module verified and loaded");
    }
    Loaded { reference, result }
}

fn too_long() -> String {
    format!(
        "compiling it takes longer than {} s on this machine. It goes on; start the actor again later, what is compiled by then \
         is not compiled again",
        COMPILE_TIMEOUT.as_secs()
    )
}

/// Asks whether more of an actor may run: of its own module, and of a newer revision beside it.
/// Returns its own.
pub(super) async fn both_permitted(
    parts: &Arc<Parts>,
    (own, reference): (Arc<Artifact>, String),
    newer: Option<(Arc<Artifact>, String)>,
    change: IssuerChange,
) -> Result<Arc<Artifact>, LoadError> {
    if let Some((newer, reference)) = newer {
        permitted(parts, newer, &reference, change).await?;
    }
    permitted(parts, own, &reference, change).await
}

/// Asks whether an actor may run: its claims must not have expired, the policy service must agree,
/// and the account that signed it must be the one that did before.
async fn permitted(
    parts: &Arc<Parts>,
    artifact: Arc<Artifact>,
    reference: &str,
    change: IssuerChange,
) -> Result<Arc<Artifact>, LoadError> {
    if artifact.claims.is_expired(now()) {
        let text = "the claims of the module have expired; sign it again, with a later expiry";
        return Err(LoadError::of_actor(&artifact.claims.subject, text));
    }
    let party = Party::of_actor(&artifact.claims, reference);
    let decision = parts.context.policy.decide(Action::StartActor, Party::default(), party).await;
    if !decision.permitted {
        let message = decision.message.map(|message| format!(" ({message})")).unwrap_or_default();
        let text =
            format!("Policy denied starting actor, request: {}{message}", decision.request_id);
        return Err(LoadError::of_actor(&artifact.claims.subject, text));
    }
    match admitted(Arc::clone(parts), Arc::clone(&artifact.claims), change).await {
        Ok(()) => Ok(artifact),
        Err(error) => Err(LoadError::of_actor(&artifact.claims.subject, error)),
    }
}

/// Checks the account that signed an actor, and remembers it.
async fn admitted(
    parts: Arc<Parts>,
    claims: Arc<ActorClaims>,
    change: IssuerChange,
) -> anyhow::Result<()> {
    let checked = tokio::task::spawn_blocking(move || {
        let table = parts.context.links.table();
        let key = claims.subject.as_str();
        let elsewhere = table.claims(key).filter(|_| parts.shared.router.runs_elsewhere(key));
        let signed = Signed {
            kind: Kind::Actor,
            key,
            issuer: &claims.issuer,
            elsewhere: elsewhere.map(AsRef::as_ref),
        };
        parts.context.issuers.admit(&signed, change)
    });
    match checked.await {
        Ok(result) => Ok(result?),
        Err(panic) => Err(anyhow!("looking at its issuer panicked: {panic}")),
    }
}

/// Makes the claims of an actor known, and what its image reference led to. A bucket that is away
/// does not keep an actor from running: it is known here at once, and everywhere when the bucket is
/// back.
pub(super) async fn record(parts: &Parts, claims: &ActorClaims, reference: Option<&str>) {
    let entries = entries_of(&Claims::of_actor(claims), reference, &parts.context.links.table());
    parts.context.links.announce(entries).await;
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn no_pull_keeps_a_file_or_an_upload_from_being_compiled() {
        let loads = Loads::new(Some(8 << 30));
        let mut pulls = Vec::new();
        while let Some(Some(pull)) = loads.to_fetch("registry.example/slow:1").now_or_never() {
            pulls.push(pull);
        }
        assert_eq!(pulls.len(), IMAGES_MAX);
        let upload = format!("lattice://sha256:{}", "0".repeat(64));
        for reference in ["file:///a.wasm", upload.as_str()] {
            assert!(loads.to_fetch(reference).now_or_never().is_some(), "{reference}");
        }
        assert!(loads.to_compile(1 << 20).now_or_never().is_some());
    }

    #[tokio::test]
    async fn large_modules_and_small_machines_compile_one_at_a_time() {
        let large = Loads::new(Some(4 << 30));
        let held = large.to_compile(256 << 20).now_or_never();
        assert!(held.is_some());
        assert!(large.to_compile(1).now_or_never().is_none());
        drop(held);
        assert!(large.to_compile(1).now_or_never().is_some());

        let small = Loads::new(Some(1 << 30));
        let _held = small.to_compile(1).now_or_never().expect("a place");
        assert!(small.to_compile(1).now_or_never().is_none());
    }
}
