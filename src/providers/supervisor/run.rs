//! One run of a provider: begun and followed to its end, the same for both kinds.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::watch;
use uuid::Uuid;

use super::{
    Key, Parts,
    command::Start,
    prepare::{Blueprint, Kind, prepare, record},
};
use crate::{
    errors::chain,
    events::{Stage, event::ProviderContext},
    links::LinkDefinition,
    providers::{
        StopSignal,
        builtin::Context,
        external::{
            self, executable,
            health::Wellbeing,
            process::{Exit, Process},
        },
        in_process,
    },
};

/// The run that a successful launch began.
pub(super) enum Launched {
    Builtin(Box<in_process::Launched>),
    External(Box<Process>, Vec<Arc<LinkDefinition>>),
}

/// How a run ended that nobody asked to end.
pub(super) enum EndedByItself {
    /// Its process ended as one that has done its work.
    Done,
    /// It failed, with this cause.
    Failed(String),
}

/// Begins one run. The error is for people.
pub(super) async fn begin(
    parts: &Parts,
    blueprint: &Blueprint,
    start: &Start,
    instance: Uuid,
) -> Result<Launched, String> {
    parts.events.steps(&start.reference).stage(Stage::Start);
    // Clients list a provider by its claims, so these come before it can be called.
    record(parts, &blueprint.claims, &start.reference).await;
    match &blueprint.kind {
        Kind::Builtin(spec) => {
            let context = Context {
                host_id: parts.host.clone(),
                lattice: parts.subjects.lattice().clone(),
                provider_id: blueprint.id().clone(),
                link_name: start.link_name.clone(),
                contract_id: spec.contract_id,
                router: parts.router.clone(),
                journal: parts.journal.writer(blueprint.id().as_str(), start.link_name.as_str()),
                nats: parts.rpc.client.clone(),
                js_domain: parts.js_domain.clone(),
                bounds: parts.bounds.clone(),
                budget: parts.budget.clone(),
                rpc_timeout: parts.rpc_timeout,
                data_dir: parts.data_dir.clone(),
            };
            let equipment = in_process::Equipment {
                context,
                links: parts.links.clone(),
                subjects: parts.subjects.clone(),
                receiver: parts.receiver.clone(),
                answers: parts.answers.clone(),
            };
            in_process::launch(spec, equipment).await.map(|launched| Launched::Builtin(Box::new(launched)))
        }
        Kind::External { path, hash } => {
            let (wanted, hash) = (path.clone(), *hash);
            let checked = tokio::task::spawn_blocking(move || executable::check(&wanted, &hash));
            let path = match checked.await.map_err(|panic| format!("reading it panicked: {panic}"))? {
                Ok(()) => path.clone(),
                // The cache was cleaned since the first start.
                Err(_) => unpack_again(parts, blueprint, start).await?,
            };
            let configuration = start.configuration.as_deref();
            let launched =
                parts.launcher.launch(&path, blueprint.id(), &start.link_name, instance, configuration).await;
            launched.map(|(process, given)| Launched::External(Box::new(process), given)).map_err(|e| chain(&e))
        }
    }
}

/// Fetches and unpacks once more what was started before. It must still be the same provider.
async fn unpack_again(parts: &Parts, blueprint: &Blueprint, start: &Start) -> Result<PathBuf, String> {
    let again = prepare(parts, start).await?;
    match &again.kind {
        Kind::External { path, .. } if again.id() == blueprint.id() => Ok(path.clone()),
        _ => Err(format!("{} holds another provider by now; stop it and start it anew", start.reference)),
    }
}

/// Follows a run until it ends: by request, or else with how.
pub(super) async fn follow(
    parts: &Parts,
    key: &Key,
    launched: Launched,
    (about, wellbeing): (ProviderContext, watch::Sender<Wellbeing>),
    stop: StopSignal,
) -> Result<(), EndedByItself> {
    match launched {
        Launched::Builtin(launched) => {
            wellbeing.send_replace(Wellbeing::Well);
            launched.run(about, parts.events.clone(), stop).await.map_err(EndedByItself::Failed)
        }
        Launched::External(process, given) => {
            // Its calls come through the queue group; peers that wait for an answer know whom to look for.
            let _mention = parts.peers.mention(&format!("{}.{}", key.id, key.link_name));
            let run = external::Run {
                id: key.id.clone(),
                link_name: key.link_name.clone(),
                host: parts.host.clone(),
                about,
                rpc: parts.rpc.client.clone(),
                reconnects: parts.rpc.reconnects.clone(),
                subjects: parts.subjects.clone(),
                links: parts.links.clone(),
                events: parts.events.clone(),
                rpc_timeout: parts.rpc_timeout,
                stop_delay: parts.stop_delay,
                given,
                wellbeing,
            };
            match external::watch(*process, run, stop).await {
                external::Ended::Asked => Ok(()),
                external::Ended::ByItself(Exit::Code(0)) => Err(EndedByItself::Done),
                external::Ended::ByItself(exit) => Err(EndedByItself::Failed(exit.to_string())),
            }
        }
    }
}
