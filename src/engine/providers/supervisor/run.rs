//! One run of a provider: begun and followed to its end, the same for both kinds.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail};
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    Parts,
    command::Start,
    entry::Key,
    prepare::{Kind, PreparedProvider, prepare, record},
};
use crate::{
    events::Stage,
    providers::{
        StopSignal,
        builtin::{Context, Spec},
        external::{
            self, executable,
            health::Health,
            process::{Exit, Process},
        },
        in_process,
        plan::RunEnd,
    },
};
use lattice_protocol::{
    events::event::ProviderContext,
    identity::keys::{LinkName, ProviderId},
    links::LinkDefinition,
};

/// The run that a successful launch began.
pub(super) enum Launched {
    Builtin(Box<in_process::Launched>),
    External(Box<Process>, Vec<Arc<LinkDefinition>>),
}

/// Begins one run.
pub(super) async fn begin(
    parts: &Parts,
    prepared: &PreparedProvider,
    start: &Start,
    instance: Uuid,
) -> Result<Launched> {
    parts.context.events.steps(&start.reference).stage(Stage::Start);
    // Clients list a provider by its claims, so these come before it can be called.
    record(parts, &prepared.claims, &start.reference).await;
    match &prepared.kind {
        Kind::Builtin(spec) => begin_builtin(parts, spec, prepared.id(), &start.link_name).await,
        Kind::External { path, hash } => {
            begin_external(parts, prepared, (path, *hash), start, instance).await
        }
    }
}

async fn begin_builtin(
    parts: &Parts,
    spec: &'static Spec,
    provider_id: &ProviderId,
    link_name: &LinkName,
) -> Result<Launched> {
    let context = Context {
        host_id: parts.context.host_id.clone(),
        lattice: parts.context.subjects.lattice().clone(),
        provider_id: provider_id.clone(),
        link_name: link_name.clone(),
        contract_id: spec.known.contract_id,
        router: parts.router.clone(),
        made: parts.router.meter().caller(provider_id.as_str(), link_name.as_str()),
        journal: parts.context.journal.writer(provider_id.as_str(), link_name.as_str()),
        nats: parts.context.rpc.client.clone(),
        js_domain: parts.context.js_domain.clone(),
        bounds: parts.bounds.clone(),
        budget: parts.context.budget.clone(),
        rpc_timeout: parts.context.rpc_timeout,
        data_dir: parts.data_dir.clone(),
    };
    let launch = in_process::LaunchContext {
        context,
        links: parts.context.links.clone(),
        subjects: parts.context.subjects.clone(),
        receiver: parts.receiver.clone(),
        answers: parts.context.answers.clone(),
    };
    Ok(Launched::Builtin(Box::new(in_process::launch(spec, launch).await?)))
}

async fn begin_external(
    parts: &Parts,
    prepared: &PreparedProvider,
    (path, hash): (&Path, [u8; 32]),
    start: &Start,
    instance: Uuid,
) -> Result<Launched> {
    let wanted = path.to_owned();
    let checked = tokio::task::spawn_blocking(move || executable::check(&wanted, &hash));
    let path = match checked.await.context("reading it panicked")? {
        Ok(()) => path.to_owned(),
        // The cache was cleaned since the first start.
        Err(_) => unpack_again(parts, prepared, start).await?,
    };
    let configuration = start.configuration.as_deref();
    let (process, given) = parts
        .launcher
        .launch(&path, prepared.id(), &start.link_name, instance, configuration)
        .await?;
    Ok(Launched::External(Box::new(process), given))
}

/// Fetches and unpacks once more what was started before. It must still be the same provider.
async fn unpack_again(
    parts: &Parts,
    prepared: &PreparedProvider,
    start: &Start,
) -> Result<PathBuf> {
    let again = prepare(parts, start).await?;
    match &again.kind {
        Kind::External { path, .. } if again.id() == prepared.id() => Ok(path.clone()),
        _ => bail!("{} holds another provider by now; stop it and start it anew", start.reference),
    }
}

/// Follows a run until it ends; returns how.
pub(super) async fn follow(
    parts: &Parts,
    key: &Key,
    launched: Launched,
    (about, reported): (ProviderContext, watch::Sender<Health>),
    stop: StopSignal,
) -> RunEnd {
    match launched {
        Launched::Builtin(launched) => {
            reported.send_replace(Health::Healthy);
            launched.run(about, parts.context.events.clone(), stop).await
        }
        Launched::External(process, given) => {
            // Its calls come through the queue group; peers that wait for an answer know whom to
            // look for.
            let _advertisement =
                parts.context.peers.advertise_indirect(&format!("{}.{}", key.id, key.link_name));
            let run = external::Run {
                id: key.id.clone(),
                link_name: key.link_name.clone(),
                host: parts.context.host_id.clone(),
                about,
                rpc: parts.context.rpc.client.clone(),
                reconnects: parts.context.rpc.reconnects.clone(),
                subjects: parts.context.subjects.clone(),
                links: parts.context.links.clone(),
                events: parts.context.events.clone(),
                rpc_timeout: parts.context.rpc_timeout,
                stop_delay: parts.stop_delay,
                given,
                reported,
            };
            match external::watch(*process, run, stop).await {
                external::Ended::Asked => RunEnd::Asked,
                external::Ended::ByItself(Exit::Code(0)) => RunEnd::Done,
                external::Ended::ByItself(exit) => RunEnd::Failed(exit.to_string()),
            }
        }
    }
}
