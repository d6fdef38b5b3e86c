//! Asks the configuration service of the lattice at start (lattice protocol, section 8.1).
//!
//! The service knows hosts by their labels and answers with registry credentials and with what to
//! start. Credentials come first, because what is started may need them; then providers, then
//! actors. An entry that makes no sense is named and passed over.
//!
//! No service, or an answer that makes no sense, keeps no host from starting: it goes on without,
//! and asks again in the background until it is answered once. So hosts and the service may come up
//! in any order. An answer that comes late changes nothing about what somebody started meanwhile.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{
    actors::supervisor::{self as actors, Amount},
    control::{probe::health::ConfigServiceStatus, state::HostState},
    issuers::IssuerChange,
    providers::supervisor as providers,
};
use lattice_base::{
    backoff::Backoff,
    registry::credentials::{Credential, Registries},
};
use lattice_protocol::{events::event::Annotations, identity::keys::LinkName};

const TIMEOUT: Duration = Duration::from_secs(2);
/// Pauses between requests nobody answered grow from the first to the last of these.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// The service, and those who do what it says.
pub struct Service {
    pub client: async_nats::Client,
    pub subject: String,
    pub state: HostState,
    pub registries: Registries,
    pub actors: actors::Handle,
    pub providers: providers::Handle,
    pub status: ConfigServiceStatus,
}

/// Why the service gave no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum AskError {
    #[error("the NATS connection does not take the request")]
    TimedOut,
    #[error("{0}")]
    Request(String),
    #[error("its answer is no JSON object")]
    NoObject,
}

/// The reply of the service, as far as it is valid.
#[derive(Default)]
struct Reply {
    actors: Vec<String>,
    providers: Vec<(String, LinkName)>,
    registries: BTreeMap<String, Credential>,
    /// The invalid entries, as text for people.
    mistakes: Vec<String>,
}

impl Service {
    /// Asks and does what the answer says. Without an answer it returns as well, and `tasks` get
    /// one that goes on asking until `closing`.
    pub async fn request(self, tasks: &TaskTracker, closing: &CancellationToken) {
        let cause = match self.ask().await {
            Ok(reply) => return self.apply(reply).await,
            Err(cause) => cause,
        };
        self.status.note(Err(anyhow!("{cause}")));
        warn!(
            subject = %self.subject, error = %cause,
            "no configuration service answers; this host goes on without and asks again (config_service_enabled)"
        );
        let closing = closing.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = self.ask_again(cause) => {}
            }
        });
    }

    async fn ask_again(self, mut last_cause: AskError) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LAST);
        loop {
            tokio::time::sleep(backoff.next_pause()).await;
            match self.ask().await {
                Ok(reply) => return self.apply(reply).await,
                Err(cause) if cause == last_cause => {
                    debug!(subject = %self.subject, error = %cause, "still no configuration service");
                }
                Err(cause) => {
                    self.status.note(Err(anyhow!("{cause}")));
                    warn!(subject = %self.subject, error = %cause, "still no configuration service");
                    last_cause = cause;
                }
            }
        }
    }

    async fn ask(&self) -> Result<Reply, AskError> {
        let body = json!({"labels": self.state.labels()}).to_string();
        let request = async_nats::Request::new().payload(body.into()).timeout(Some(TIMEOUT));
        // The request's own timeout begins when the connection has taken it, so there is one around
        // it.
        let reply = tokio::time::timeout(
            TIMEOUT * 2,
            self.client.send_request(self.subject.clone(), request),
        )
        .await
        .map_err(|_| AskError::TimedOut)?
        .map_err(|e| AskError::Request(e.to_string()))?;
        Reply::read(&reply.payload)
    }

    async fn apply(&self, reply: Reply) {
        self.status.note(Ok(()));
        for mistake in &reply.mistakes {
            warn!(subject = %self.subject, "entry of the configuration service passed over: {mistake}");
        }
        let registries = self.registries.add(reply.registries).unwrap_or_else(|error| {
            warn!(subject = %self.subject, %error, "registry credentials of the configuration service refused");
            Vec::new()
        });
        info!(
            actors = reply.actors.len(),
            providers = reply.providers.len(),
            ?registries,
            "configuration service answered"
        );
        self.start_providers(reply.providers).await;
        self.start_actors(reply.actors);
    }

    async fn start_providers(&self, wanted: Vec<(String, LinkName)>) {
        let running = self.providers.running();
        for (reference, link_name) in wanted {
            if running
                .iter()
                .any(|provider| provider.reference == reference && provider.link_name == link_name)
            {
                debug!(%reference, %link_name, "provider of the configuration service runs already");
                continue;
            }
            info!(%reference, %link_name, "starting provider of the configuration service");
            let start = providers::Start {
                reference: reference.clone(),
                link_name,
                configuration: None,
                annotations: Annotations::new(),
                issuer_change: IssuerChange::Refused,
            };
            // An early end of the supervisor means that the host stops. How the start ends is told
            // by events.
            match self.providers.start(start).await {
                Ok(Err(
                    providers::ProviderError::AlreadyRunning { .. }
                    | providers::ProviderError::BeingStarted { .. },
                )) => {
                    debug!(%reference, "provider of the configuration service was started by somebody else");
                }
                Ok(Err(error)) => {
                    warn!(%reference, %error, "provider of the configuration service not started")
                }
                Ok(Ok(())) | Err(_) => {}
            }
        }
    }

    fn start_actors(&self, wanted: Vec<String>) {
        let running = self.actors.running();
        for reference in wanted {
            if running.iter().any(|actor| actor.is_from(&reference)) {
                debug!(%reference, "actor of the configuration service runs already");
                continue;
            }
            info!(%reference, "starting actor of the configuration service");
            let start = actors::Start {
                reference: reference.clone(),
                annotations: Annotations::new(),
                // One that is being started may be meant to be many.
                amount: Amount::AtLeast(1),
                issuer_change: IssuerChange::Refused,
            };
            if let Err(error) = self.actors.start(start) {
                warn!(%reference, %error, "actor of the configuration service not started");
            }
        }
    }
}

impl Reply {
    /// Reads an answer; fails when it is none at all. Errors never quote it, it may hold passwords.
    fn read(payload: &[u8]) -> Result<Self, AskError> {
        let Ok(Value::Object(answer)) = serde_json::from_slice(payload) else {
            return Err(AskError::NoObject);
        };
        let mut reply = Self::default();
        for (index, entry) in reply.list(&answer, "autoStartActors").into_iter().enumerate() {
            match text(&entry) {
                Some(reference) => reply.actors.push(reference),
                None => reply.mistake(format!("autoStartActors[{index}] is no image reference")),
            }
        }
        for (index, entry) in reply.list(&answer, "autoStartProviders").into_iter().enumerate() {
            match provider(&entry) {
                Ok(provider) => reply.providers.push(provider),
                Err(cause) => reply.mistake(format!("autoStartProviders[{index}] {cause}")),
            }
        }
        match answer.get("registryCredentials") {
            None | Some(Value::Null) => {}
            Some(credentials) => match BTreeMap::deserialize(credentials) {
                Ok(registries) => reply.registries = registries,
                Err(_) => reply.mistake("registryCredentials is no object of registries".into()),
            },
        }
        Ok(reply)
    }

    fn list(&mut self, answer: &Map<String, Value>, member: &str) -> Vec<Value> {
        match answer.get(member) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(entries)) => entries.clone(),
            Some(_) => {
                self.mistake(format!("{member} is no list"));
                Vec::new()
            }
        }
    }

    fn mistake(&mut self, mistake: String) {
        self.mistakes.push(mistake);
    }
}

fn provider(entry: &Value) -> anyhow::Result<(String, LinkName)> {
    let reference = entry.get("imageReference").and_then(text).context("has no imageReference")?;
    let link_name = match entry.get("linkName") {
        None | Some(Value::Null) => LinkName::DEFAULT.to_owned(),
        Some(Value::String(name)) if name.is_empty() => LinkName::DEFAULT.to_owned(),
        Some(Value::String(name)) => name.clone(),
        Some(_) => bail!("({reference}) has a linkName that is no text"),
    };
    let link_name = LinkName::parse(&link_name)
        .map_err(|e| anyhow!("({reference}) has linkName {link_name:?}: {e}"))?;
    Ok((reference, link_name))
}

/// A text with something in it.
fn text(value: &Value) -> Option<String> {
    let text = value.as_str()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_sense_counts_and_the_rest_is_named() {
        let answer = json!({
            "autoStartActors": ["a:1", 7, " "],
            "autoStartProviders": [
                {"imageReference": "p:1", "linkName": "front"}, {"imageReference": "p:2"}, {"linkName": "x"},
                {"imageReference": "p:3", "linkName": "not.one"}, "p:4",
            ],
            "registryCredentials": {"r": {"registryType": "oci", "username": "u", "password": "p"}, "s": "user:secret"},
        });
        let reply = Reply::read(answer.to_string().as_bytes()).unwrap();
        assert_eq!(reply.actors, ["a:1"]);
        let providers: Vec<_> = reply
            .providers
            .iter()
            .map(|(reference, link)| (&reference[..], link.as_str()))
            .collect();
        assert_eq!(providers, [("p:1", "front"), ("p:2", "default")]);
        assert_eq!(reply.registries.len(), 2);
        assert_eq!(reply.mistakes.len(), 5, "{:?}", reply.mistakes);
        assert!(
            reply
                .mistakes
                .iter()
                .any(|mistake| mistake.contains("p:3") && mistake.contains("not.one"))
        );
    }

    #[test]
    fn nothing_is_an_answer_too_and_nonsense_is_none() {
        for nothing in [
            "{}",
            r#"{"autoStartActors":null,"autoStartProviders":null,"registryCredentials":null}"#,
        ] {
            let reply = Reply::read(nothing.as_bytes()).unwrap();
            assert!(
                reply.actors.is_empty() && reply.providers.is_empty() && reply.mistakes.is_empty()
            );
        }
        let error = Reply::read(br#""user:secret""#).map(|_| ()).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        let reply =
            Reply::read(br#"{"registryCredentials":["secret"],"autoStartActors":"x"}"#).unwrap();
        assert_eq!(reply.mistakes.len(), 2);
        assert!(!reply.mistakes.concat().contains("secret"));
    }
}
