//! Questions: `list`, `get`, `versions`, `status`.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Server, answer::Refusal};
use crate::{
    rival::NOBODY,
    status::{self, StatusError},
    store::Listed,
    targets::{State, Target},
};
use lattice_protocol::applications::{
    api::{
        GetReply, GetResult, Info, ListReply, Status, StatusReply, StatusResult, StatusType,
        Summary, Version, VersionRequest, VersionsReply,
    },
    manifest::DESCRIPTION,
    stored::Stored,
};

/// Applications that are looked at together.
const LOOKED_AT_ONCE: usize = 16;
/// Tells of an application that an earlier manager kept, and these hosts do not.
const UNADOPTED: &str =
    "deployed by a manager that has gone; deploy it again so that these hosts keep it";

impl Server {
    pub(super) async fn list(&self) -> Result<Vec<Summary>, Refusal> {
        let listed = self.models.list().await?;
        let summaries: Vec<Result<Summary, Refusal>> = stream::iter(listed)
            .map(|listed| self.summary(listed))
            .buffered(LOOKED_AT_ONCE)
            .collect()
            .await;
        summaries.into_iter().collect()
    }

    pub(super) async fn models(&self) -> Result<ListReply, Refusal> {
        let models = self.list().await?;
        let message = "Successfully fetched list of applications".to_owned();
        Ok(ListReply { result: GetResult::Success, message, models })
    }

    async fn summary(&self, Listed { name, stored }: Listed) -> Result<Summary, Refusal> {
        let stored = match stored {
            Ok(stored) => stored,
            // The others are still to be seen.
            Err(error) => {
                let message = error.to_string();
                let info = Info { kind: StatusType::Failed, message: message.clone() };
                return Ok(Summary {
                    name,
                    version: String::new(),
                    description: None,
                    deployed_version: None,
                    status: StatusType::Failed,
                    status_message: Some(message),
                    detailed_status: Status { status: info, ..Status::default() },
                });
            }
        };
        let (version, manifest) = newest(&stored);
        let description = manifest.pointer(&format!("/metadata/annotations/{DESCRIPTION}"));
        let description = description.and_then(Value::as_str).map(str::to_owned);
        let target = self.targets.get(&name).await?;
        let status = self.status_of(&name, &stored, target.as_ref()).await?;
        let is_told = target.is_some() || !status.status.message.is_empty();
        Ok(Summary {
            version,
            description,
            deployed_version: deployed(target.as_ref()).map(str::to_owned),
            status: status.status.kind,
            status_message: is_told.then(|| status.status.message.clone()),
            detailed_status: status,
            name,
        })
    }

    pub(super) async fn get(&self, name: &str, body: &Bytes) -> Result<GetReply, Refusal> {
        let request: VersionRequest = parse("get", body)?;
        let reply = |result, message: String, manifest: Option<Value>| GetReply {
            result,
            message,
            manifest,
        };
        let Some(stored) = self.models.get(name).await? else {
            return Ok(reply(GetResult::NotFound, not_found(name), None));
        };
        let asked = request.version.as_deref();
        let Some((_, manifest)) = stored.versions.get(asked) else {
            let version = asked.unwrap_or_default();
            let message = format!("Model {name} with version {version} doesn't exist");
            return Ok(reply(GetResult::NotFound, message, None));
        };
        let version = asked.map(|version| format!(" {version}")).unwrap_or_default();
        let message = format!("Successfully fetched model {name}{version}");
        Ok(reply(GetResult::Success, message, Some(manifest.clone())))
    }

    pub(super) async fn versions(&self, name: &str) -> Result<VersionsReply, Refusal> {
        // Hosts that look for a manager ask for this one; the store need not be read for it.
        let stored = if name == NOBODY { None } else { self.models.get(name).await? };
        let Some(stored) = stored else {
            let (result, message) = (GetResult::NotFound, not_found(name));
            return Ok(VersionsReply { result, message, versions: Vec::new() });
        };
        let target = self.targets.get(name).await?;
        let deployed = deployed(target.as_ref());
        let versions = stored.versions.names().map(|version| Version {
            version: version.to_owned(),
            deployed: deployed == Some(version),
            at: stored.put_at.get(version).copied(),
        });
        Ok(VersionsReply {
            result: GetResult::Success,
            message: format!("Successfully fetched versions for model {name}"),
            versions: versions.collect(),
        })
    }

    pub(super) async fn status(&self, name: &str) -> Result<StatusReply, Refusal> {
        let Some(stored) = self.models.get(name).await? else {
            let (result, message) = (StatusResult::NotFound, not_found(name));
            return Ok(StatusReply { result, message, status: None });
        };
        let target = self.targets.get(name).await?;
        Ok(StatusReply {
            result: StatusResult::Ok,
            message: format!("Successfully fetched status for model {name}"),
            status: Some(self.status_of(name, &stored, target.as_ref()).await?),
        })
    }

    async fn status_of(
        &self,
        name: &str,
        stored: &Stored,
        target: Option<&Target>,
    ) -> Result<Status, StatusError> {
        // An application that nobody runs has no record that counts.
        let record = match deployed(target) {
            Some(_) => self.statuses.last(name).await?,
            None => None,
        };
        let (newest, _) = newest(stored);
        let mut status = status::effective(target, &newest, record.as_ref());
        if target.is_none() {
            if let Some(reason) = self.targets.rejected().remove(name) {
                let message =
                    format!("the entry that says what is to run does not count: {reason}");
                status.status = Info { kind: StatusType::Failed, message };
            } else if stored.deployed_version.is_some() {
                status.status.message = UNADOPTED.to_owned();
            }
        }
        Ok(status)
    }
}

/// Returns the newest version with its manifest; an application has at least one.
fn newest(stored: &Stored) -> (String, Value) {
    let newest = stored.versions.get(None);
    newest.map(|(version, manifest)| (version.to_owned(), manifest.clone())).unwrap_or_default()
}

pub(super) fn deployed(target: Option<&Target>) -> Option<&str> {
    target.filter(|target| target.state == State::Deployed).map(|target| target.version.as_str())
}

pub(super) fn not_found(name: &str) -> String {
    format!("Model with the name {name} not found")
}

/// Reads the body of a request; an empty one is like `{}`.
pub(super) fn parse<T: DeserializeOwned + Default>(
    request: &'static str,
    body: &Bytes,
) -> Result<T, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|cause| Refusal::Body { request, cause })
}

/// Labels of hosts by their ids.
pub(super) type Hosts = BTreeMap<String, BTreeMap<String, String>>;
