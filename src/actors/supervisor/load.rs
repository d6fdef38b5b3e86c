//! Getting a module ready to run, and telling the lattice whose it is.

use std::sync::Arc;

use tracing::info;

use super::{Done, Parts};
use crate::{
    actors::artifact::Artifact,
    events::{Stage, progress::EVERY},
    identity::{
        claims::{ActorClaims, now},
        keys::ActorId,
    },
    links::{Claims, unwritten::entries_of},
    policy::{Action, Party},
};

/// Why a module did not load, and whose it is as far as that is known.
pub(super) struct LoadError {
    pub actor_id: Option<ActorId>,
    pub text: String,
}

/// Fetches, verifies, compiles and asks the policy service.
pub(super) async fn load(parts: Arc<Parts>, reference: String, twins: Vec<Arc<Artifact>>) -> Done {
    let steps = parts.events.steps(&reference);
    let fetched = parts.registry.fetch_telling(&reference, EVERY, |(bytes, of)| steps.pulled(bytes, of)).await;
    let wasm = match fetched {
        Ok(fetched) => fetched.content,
        Err(error) => {
            return Done::Loaded { reference, result: Err(LoadError { actor_id: None, text: error.to_string() }) };
        }
    };
    let engine = parts.shared.engine.clone();
    let began = std::time::Instant::now();
    let loaded = tokio::task::spawn_blocking(move || {
        steps.stage(Stage::Verify);
        let same_code = |hash: &[u8; 32]| {
            // It is verified when this is asked.
            let twin = twins.into_iter().find(|twin| twin.code_hash == *hash);
            if twin.is_none() {
                steps.stage(Stage::Compile);
            }
            twin
        };
        Artifact::load(&engine, &wasm, now(), same_code).map_err(|e| e.to_string())
    });
    let result = match loaded.await {
        Ok(Ok(artifact)) => permitted(&parts, Arc::new(artifact), &reference).await,
        Ok(Err(text)) => Err(LoadError { actor_id: None, text }),
        Err(panic) => Err(LoadError { actor_id: None, text: format!("loading it panicked: {panic}") }),
    };
    if result.is_ok() {
        info!(took_ms = began.elapsed().as_millis() as u64, "module verified and compiled");
    }
    Done::Loaded { reference, result }
}

/// Asks whether an actor may run: its claims must not have expired, and the policy service must agree.
pub(super) async fn permitted(
    parts: &Parts,
    artifact: Arc<Artifact>,
    reference: &str,
) -> Result<Arc<Artifact>, LoadError> {
    if artifact.claims.is_expired(now()) {
        return Err(LoadError {
            actor_id: Some(artifact.claims.subject.clone()),
            text: "the claims of the module have expired; sign it again, with a later expiry".into(),
        });
    }
    let party = Party::of_actor(&artifact.claims, reference);
    let decision = parts.policy.decide(Action::StartActor, Party::default(), party).await;
    if decision.permitted {
        return Ok(artifact);
    }
    Err(LoadError {
        actor_id: Some(artifact.claims.subject.clone()),
        text: format!(
            "Policy denied starting actor, request: {}{}",
            decision.request_id,
            decision.message.map(|message| format!(" ({message})")).unwrap_or_default()
        ),
    })
}

/// Makes the claims of an actor known, and what its image reference led to. A bucket that is away does not keep an actor
/// from running: it is known here at once, and everywhere when the bucket is back.
pub(super) async fn record(parts: &Parts, claims: &ActorClaims, reference: Option<&str>) {
    let entries = entries_of(&Claims::of_actor(claims), reference, &parts.links.table());
    parts.links.announce(entries).await;
}
