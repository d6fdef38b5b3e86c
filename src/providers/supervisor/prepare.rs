//! Makes a reference startable: fetched, verified, unpacked, permitted.

use std::{path::PathBuf, sync::Arc};

use tracing::{info, warn};

use super::{Parts, command::Start};
use crate::{
    errors::chain,
    identity::{claims::now, keys::ProviderId, provider::ProviderClaims},
    links::Claims,
    policy::{Action, Party},
    providers::{
        archive::{Archive, this_target},
        builtin::{self, Spec},
        external::executable,
    },
    store::{Entry, Expect, Update, keys},
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

    /// Whether it brings work in from outside the lattice, and so has to stop before the actors do.
    pub fn brings_work(&self) -> bool {
        match self.kind {
            Kind::Builtin(spec) => spec.brings_work,
            // What built-in providers of a contract do, others of that contract do as well.
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
    };
    let decision = parts.policy.decide(Action::StartProvider, Party::default(), party).await;
    if !decision.permitted {
        return Err(format!(
            "Policy denied starting provider, request: {}{}",
            decision.request_id,
            decision.message.map(|message| format!(" ({message})")).unwrap_or_default()
        ));
    }
    info!(provider_id = %blueprint.id(), took_ms = began.elapsed().as_millis() as u64, "provider verified");
    Ok(Arc::new(blueprint))
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
    let bytes = parts.registry.fetch(reference).await.map_err(|e| chain(&e))?;
    let cache = parts.cache_dir.clone();
    let unpacked = tokio::task::spawn_blocking(move || {
        let archive = Archive::read(&bytes, &this_target(), now()).map_err(|e| chain(&e))?;
        let path = executable::install(&cache, &archive).map_err(|e| chain(&e))?;
        Ok::<_, String>(Blueprint { claims: archive.claims, kind: Kind::External { path, hash: archive.hash } })
    });
    unpacked.await.map_err(|panic| format!("unpacking it panicked: {panic}"))?
}

/// Writes the claims of a provider, and what its reference led to. A bucket that is away does not keep it from running.
pub(super) async fn record(parts: &Parts, claims: &ProviderClaims, reference: &str) {
    let subject = claims.subject.as_str();
    let claims = Claims::of_provider(claims);
    let mut entries = Vec::new();
    let table = parts.links.table();
    if !table.claims(subject).is_some_and(|known| **known == claims) {
        entries.push((keys::claims(subject), claims.bucket_value()));
    }
    if table.public_key_of(reference).is_none_or(|known| **known != *subject) {
        let value = serde_json::json!({"oci_url": reference, "public_key": subject});
        entries.push((keys::reference(reference), value));
    }
    for (key, value) in entries {
        let value = bytes::Bytes::from(value.to_string());
        match parts.store.put(&key, value.clone(), Expect::Anything).await {
            Ok(revision) => parts.links.apply(Update::Put(Entry { key, value, revision })).await,
            Err(error) => warn!(provider_id = subject, key, %error, "lattice metadata not written"),
        }
    }
}
