//! Makes a reference startable: fetched, verified, unpacked, permitted.

use std::{path::PathBuf, sync::Arc};

use tracing::info;

use super::{Parts, command::Start};
use crate::{
    errors::chain,
    events::{Stage, progress::EVERY},
    identity::{claims::now, keys::ProviderId, provider::ProviderClaims},
    issuers::{self, IssuerError, Signed},
    links::{Claims, unwritten::entries_of},
    policy::{Action, Party},
    providers::{
        archive::{Archive, this_target},
        builtin::{self, Spec},
        external::executable,
    },
    router,
    rpc::call::CallError,
};

/// A provider that can be launched, as often as need be.
pub(super) struct Blueprint {
    pub claims: ProviderClaims,
    pub kind: Kind,
}

pub(super) enum Kind {
    Builtin(&'static Spec),
    /// The executable in the cache, and the hash it must have at each start.
    External {
        path: PathBuf,
        hash: [u8; 32],
    },
}

impl Blueprint {
    pub fn id(&self) -> &ProviderId {
        &self.claims.subject
    }

    /// Refuses a provider whose claims do not count now.
    pub fn in_force(&self) -> Result<(), CallError> {
        router::in_term(self.id().as_str(), self.claims.standing_at(now()))
    }

    /// Whether it brings work in from outside the lattice, and so has to stop before the actors do.
    pub fn brings_work(&self) -> bool {
        match self.kind {
            Kind::Builtin(spec) => spec.brings_work,
            // External providers of a contract do the same as the built-in ones of that contract.
            Kind::External { .. } => {
                builtin::CATALOGUE.iter().any(|spec| spec.brings_work && spec.contract_id == self.claims.contract_id)
            }
        }
    }
}

/// Fetches, verifies, unpacks and asks the policy service. The error is for people.
pub(super) async fn prepare(parts: &Parts, start: &Start) -> Result<Arc<Blueprint>, String> {
    let began = std::time::Instant::now();
    let blueprint = match builtin::find(&start.reference) {
        Some(Ok(spec)) => of_builtin(spec)?,
        Some(Err(unknown)) => return Err(unknown.to_string()),
        None => fetch(parts, &start.reference).await?,
    };
    let party = Party {
        public_key: blueprint.claims.subject.to_string(),
        contract_id: blueprint.claims.contract_id.clone(),
        link_name: start.link_name.to_string(),
        issuer: blueprint.claims.issuer.clone(),
        capabilities: Vec::new(),
        expires: blueprint.claims.expires,
        image_reference: start.reference.clone(),
    };
    let decision = parts.policy.decide(Action::StartProvider, Party::default(), party).await;
    if !decision.permitted {
        return Err(format!(
            "Policy denied starting provider, request: {}{}",
            decision.request_id,
            decision.message.map(|message| format!(" ({message})")).unwrap_or_default()
        ));
    }
    if matches!(blueprint.kind, Kind::External { .. }) {
        admitted(parts, &blueprint.claims, start).await?;
    }
    info!(provider_id = %blueprint.id(), took_ms = began.elapsed().as_millis() as u64, "provider verified");
    Ok(Arc::new(blueprint))
}

/// Checks the account that signed a provider, and remembers it.
async fn admitted(parts: &Parts, claims: &ProviderClaims, start: &Start) -> Result<(), String> {
    let (key, issuer) = (claims.subject.to_string(), claims.issuer.clone());
    if builtin::CATALOGUE.iter().any(|spec| spec.public_key == key) {
        return Err(IssuerError::BuiltIn { key }.to_string());
    }
    let runs_elsewhere = parts.router.runs_elsewhere(&format!("{key}.{}", start.link_name));
    let elsewhere = parts.links.table().claims(&key).filter(|_| runs_elsewhere).cloned();
    let (issuers, change) = (parts.issuers.clone(), start.issuer_change);
    let checked = tokio::task::spawn_blocking(move || {
        let kind = issuers::Kind::Provider;
        issuers.admit(&Signed { kind, key: &key, issuer: &issuer, elsewhere: elsewhere.as_deref() }, change)
    });
    match checked.await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("looking at its issuer panicked: {panic}")),
    }
}

fn of_builtin(spec: &'static Spec) -> Result<Blueprint, String> {
    let subject = ProviderId::parse(spec.public_key).map_err(|e| e.to_string())?;
    let claims = ProviderClaims {
        subject,
        issuer: builtin::ISSUER.to_owned(),
        name: Some(spec.title.to_owned()),
        vendor: env!("CARGO_PKG_NAME").to_owned(),
        revision: Some(1),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        contract_id: spec.contract_id.to_owned(),
        target_hashes: Default::default(),
        config_schema: None,
        issued_at: 0,
        expires: None,
        not_before: None,
    };
    Ok(Blueprint { claims, kind: Kind::Builtin(spec) })
}

async fn fetch(parts: &Parts, reference: &str) -> Result<Blueprint, String> {
    let steps = parts.events.steps(reference);
    let fetched = parts.registry.fetch_telling(reference, EVERY, |(bytes, of)| steps.pulled(bytes, of)).await;
    let bytes = fetched.map_err(|e| chain(&e))?.content;
    let cache = parts.cache_dir.clone();
    let unpacked = tokio::task::spawn_blocking(move || {
        steps.stage(Stage::Verify);
        let archive = Archive::read(&bytes, &this_target(), now()).map_err(|e| chain(&e))?;
        steps.stage(Stage::Unpack);
        let path = executable::install(&cache, &archive).map_err(|e| chain(&e))?;
        Ok::<_, String>(Blueprint { claims: archive.claims, kind: Kind::External { path, hash: archive.hash } })
    });
    unpacked.await.map_err(|panic| format!("unpacking it panicked: {panic}"))?
}

/// Makes the claims of a provider known, and what its reference led to. A bucket that is away does not keep it from
/// running: it is known here at once, and everywhere when the bucket is back.
pub(super) async fn record(parts: &Parts, claims: &ProviderClaims, reference: &str) {
    let entries = entries_of(&Claims::of_provider(claims), Some(reference), &parts.links.table());
    parts.links.announce(entries).await;
}
