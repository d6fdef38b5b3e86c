//! Makes a reference startable: fetched, verified, unpacked, permitted.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, bail};
use tracing::info;

use super::{Parts, command::Start};
use crate::{
    events::{Stage, progress::EVERY},
    issuers::{self, IssuerError, Signed},
    links::unwritten::entries_of,
    policy::{Action, Party},
    providers::{
        builtin::{self, Spec},
        external::executable,
    },
    router,
    rpc::call::CallError,
};
use lattice_base::providers::archive::{Archive, this_target};
use lattice_protocol::{
    clock,
    identity::{
        claims::now,
        keys::{KeyError, ProviderId},
        provider::ProviderClaims,
    },
    links::Claims,
};

/// A provider that can be launched, as often as need be.
pub(super) struct PreparedProvider {
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

impl PreparedProvider {
    pub fn id(&self) -> &ProviderId {
        &self.claims.subject
    }

    /// Refuses a provider whose claims do not count now.
    pub fn in_force(&self) -> Result<(), CallError> {
        router::in_term(self.id().as_str(), self.claims.standing_at(now()))
    }

    /// Whether it brings work in from outside the lattice, and so has to stop before the actors do.
    pub fn is_ingress(&self) -> bool {
        match self.kind {
            Kind::Builtin(spec) => spec.is_ingress,
            // External providers of a contract do the same as the built-in ones of that contract.
            Kind::External { .. } => builtin::CATALOGUE
                .iter()
                .any(|spec| spec.is_ingress && spec.known.contract_id == self.claims.contract_id),
        }
    }
}

/// Fetches, verifies, unpacks and asks the policy service.
pub(super) async fn prepare(parts: &Parts, start: &Start) -> Result<Arc<PreparedProvider>> {
    let began = std::time::Instant::now();
    let prepared = match builtin::find(&start.reference) {
        Some(Ok(spec)) => of_builtin(spec)?,
        Some(Err(unknown)) => return Err(unknown.into()),
        None => fetch(parts, &start.reference).await?,
    };
    let party = Party {
        public_key: prepared.claims.subject.to_string(),
        contract_id: prepared.claims.contract_id.clone(),
        link_name: start.link_name.to_string(),
        issuer: prepared.claims.issuer.clone(),
        capabilities: Vec::new(),
        expires: prepared.claims.expires,
        image_reference: start.reference.clone(),
    };
    let decision =
        parts.context.policy.decide(Action::StartProvider, Party::default(), party).await;
    if !decision.permitted {
        let message = decision.message.map(|message| format!(" ({message})")).unwrap_or_default();
        bail!("Policy denied starting provider, request: {}{message}", decision.request_id);
    }
    if matches!(prepared.kind, Kind::External { .. }) {
        admitted(parts, &prepared.claims, start).await?;
    }
    info!(provider_id = %prepared.id(), took_ms = clock::millis(began.elapsed()), "provider verified");
    Ok(Arc::new(prepared))
}

/// Checks the account that signed a provider, and remembers it.
async fn admitted(parts: &Parts, claims: &ProviderClaims, start: &Start) -> Result<()> {
    let (key, issuer) = (claims.subject.to_string(), claims.issuer.clone());
    if builtin::by_key(&key).is_some() {
        bail!(IssuerError::BuiltIn { key });
    }
    let runs_elsewhere = parts.router.runs_elsewhere(&format!("{key}.{}", start.link_name));
    let elsewhere = parts.context.links.table().claims(&key).filter(|_| runs_elsewhere).cloned();
    let (issuers, change) = (parts.context.issuers.clone(), start.issuer_change);
    let checked = tokio::task::spawn_blocking(move || {
        let kind = issuers::Kind::Provider;
        issuers.admit(
            &Signed { kind, key: &key, issuer: &issuer, elsewhere: elsewhere.as_deref() },
            change,
        )
    });
    Ok(checked.await.context("looking at its issuer panicked")??)
}

fn of_builtin(spec: &'static Spec) -> Result<PreparedProvider, KeyError> {
    let subject = ProviderId::parse(spec.known.public_key)?;
    let claims = ProviderClaims {
        subject,
        issuer: builtin::ISSUER.to_owned(),
        name: Some(spec.known.title.to_owned()),
        vendor: "lattice-host".to_owned(),
        revision: Some(1),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        contract_id: spec.known.contract_id.to_owned(),
        target_hashes: Default::default(),
        config_schema: None,
        issued_at: 0,
        expires: None,
        not_before: None,
    };
    Ok(PreparedProvider { claims, kind: Kind::Builtin(spec) })
}

async fn fetch(parts: &Parts, reference: &str) -> Result<PreparedProvider> {
    let steps = parts.context.events.steps(reference);
    let fetched =
        parts.registry.fetch_telling(reference, EVERY, |(bytes, of)| steps.pulled(bytes, of)).await;
    let bytes = fetched?.content;
    let cache = parts.cache_dir.clone();
    let unpacked = tokio::task::spawn_blocking(move || -> Result<_> {
        steps.stage(Stage::Verify);
        let archive = Archive::read(&bytes, &this_target(), now())?;
        steps.stage(Stage::Unpack);
        let path = executable::install(&cache, &archive)?;
        let kind = Kind::External { path, hash: archive.hash };
        Ok(PreparedProvider { claims: archive.claims, kind })
    });
    unpacked.await.context("unpacking it panicked")?
}

/// Makes the claims of a provider known, and what its reference led to. A bucket that is away does
/// not keep it from running: it is known here at once, and everywhere when the bucket is back.
pub(super) async fn record(parts: &Parts, claims: &ProviderClaims, reference: &str) {
    let entries =
        entries_of(&Claims::of_provider(claims), Some(reference), &parts.context.links.table());
    parts.context.links.announce(entries).await;
}
