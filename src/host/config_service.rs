//! Asks the configuration service of the lattice, once, at start (lattice protocol, section 8.1).
//!
//! The service knows hosts by their labels and answers with registry credentials and with what to start. No service, or
//! an answer that makes no sense, is a warning: the host goes on without.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::json;
use tracing::{info, warn};

use crate::{
    actors::supervisor::{self as actors, Amount},
    control::state::HostState,
    events::event::Annotations,
    identity::keys::LinkName,
    lattice::subject::Subjects,
    lenient::nullable,
    providers::supervisor as providers,
    registry::credentials::{Credential, Registries},
};

const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply {
    #[serde(default, deserialize_with = "nullable")]
    auto_start_actors: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    auto_start_providers: Vec<AutoStartProvider>,
    #[serde(default, deserialize_with = "nullable")]
    registry_credentials: BTreeMap<String, Credential>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AutoStartProvider {
    #[serde(default, deserialize_with = "nullable")]
    image_reference: String,
    #[serde(default, deserialize_with = "nullable")]
    link_name: String,
}

/// Asks and does what the answer says.
pub async fn consult(
    client: &async_nats::Client,
    subjects: &Subjects,
    state: &HostState,
    registries: &Registries,
    (actors, providers): (&actors::Handle, &providers::Handle),
) {
    let subject = subjects.config_service();
    let body = json!({"labels": state.labels()}).to_string();
    let request = async_nats::Request::new().payload(body.into()).timeout(Some(TIMEOUT));
    // The request's own timeout begins when the connection has taken it, so there is one around it.
    let reply = match tokio::time::timeout(TIMEOUT * 2, client.send_request(subject.clone(), request)).await {
        Ok(Ok(reply)) => reply,
        Err(_) => {
            return warn!(%subject, "no configuration service answers, going on without (config_service_enabled)");
        }
        Ok(Err(error)) => {
            return warn!(%subject, %error, "no configuration service answers, going on without (config_service_enabled)");
        }
    };
    let reply: Reply = match serde_json::from_slice(&reply.payload) {
        Ok(reply) => reply,
        Err(error) => {
            return warn!(%subject, %error, "answer of the configuration service makes no sense, going on without");
        }
    };
    info!(
        actors = reply.auto_start_actors.len(),
        providers = reply.auto_start_providers.len(),
        registries = reply.registry_credentials.len(),
        "configuration service answered"
    );
    registries.add(reply.registry_credentials);
    for AutoStartProvider { image_reference: reference, link_name } in reply.auto_start_providers {
        let name = if link_name.is_empty() { LinkName::DEFAULT } else { &link_name };
        let link_name = match LinkName::parse(name) {
            Ok(link_name) => link_name,
            Err(error) => {
                warn!(%reference, %error, "provider of the configuration service not started");
                continue;
            }
        };
        let start = providers::Start {
            reference: reference.clone(),
            link_name,
            configuration: None,
            annotations: Annotations::new(),
        };
        // Its own error says what is wrong; an early end of the supervisor means that the host stops.
        if let Ok(Err(error)) = providers.start(start).await {
            warn!(%reference, %error, "provider of the configuration service not started");
        }
    }
    for reference in reply.auto_start_actors {
        let start = actors::Start { reference, annotations: Annotations::new(), amount: Amount::Exactly(1) };
        if let Err(error) = actors.start(start) {
            warn!(%error, "actor of the configuration service not started");
        }
    }
}
