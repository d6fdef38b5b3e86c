//! Sends the commands of a plan over the control interface, as any client does.

use std::collections::BTreeMap;

use crate::plan::Command;
use lattice_client::lattice::Lattice;
use lattice_protocol::{
    control::request::{
        DeleteLink, LaunchProvider, PutLink, ScaleActor, StopProvider, UpdateActor,
    },
    links::LinkDefinition,
};

/// Sends a command; an error is a refusal in the host's words, or no answer in time. Whatever it
/// starts is told by events.
pub async fn send(lattice: &Lattice, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Scale { host, image, annotations, count, .. } => {
            let scale = ScaleActor {
                actor_ref: image,
                annotations,
                count: Some(Some(count)),
                host_id: host.clone(),
                ..ScaleActor::default()
            };
            lattice.command(&host, &scale).await.map(drop)
        }
        Command::Update { host, key, image, share, .. } => {
            let update = UpdateActor {
                actor_id: key,
                annotations: None,
                any_revision: true,
                host_id: host.clone(),
                new_actor_ref: image,
                share,
            };
            lattice.command(&host, &update).await.map(drop)
        }
        Command::StartProvider { host, image, link_name, configuration, annotations, .. } => {
            let launch = LaunchProvider {
                annotations,
                configuration,
                host_id: host.clone(),
                link_name,
                provider_ref: image,
            };
            lattice.command(&host, &launch).await.map(drop)
        }
        Command::StopProvider { host, key, contract, link_name, annotations, .. } => {
            let stop = StopProvider {
                annotations,
                contract_id: contract,
                host_id: host.clone(),
                link_name,
                provider_ref: key,
            };
            lattice.command(&host, &stop).await.map(drop)
        }
        Command::PutLink(link) => lattice.change(&PutLink::from(LinkDefinition::from(link))).await,
        Command::DeleteLink { actor_id, contract_id, link_name } => {
            let link = DeleteLink {
                actor_id,
                contract_id,
                link_name,
                provider_id: String::new(),
                values: BTreeMap::new(),
            };
            lattice.change(&link).await
        }
    }
}
