//! Questions: `list`, `get`, `versions`, `status`.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{Server, answer::Refusal};
use crate::{
    rival::NOBODY,
    status::{self, StatusError},
    store::{Listed, StoreError},
    targets::{State, Target},
};
use lattice_protocol::{
    applications::{
        api::{
            GetReply, GetResult, Info, ListReply, Status, StatusReply, StatusResult, StatusType,
            Summary, Version, VersionRequest, VersionsReply,
        },
        manifest::DESCRIPTION,
        stored::Stored,
    },
    errors::chain,
};

/// Applications that are looked at together.
const LOOKED_AT_ONCE: usize = 16;
/// How long a list looks how applications stand: it is answered before clients give up.
const LOOK_TIMEOUT: Duration = Duration::from_millis(1400);
/// Tells of an application that an earlier manager kept, and these hosts do not.
const UNADOPTED: &str =
    "deployed by a manager that has gone; deploy it again so that these hosts keep it";

impl Server {
    /// Returns all applications. Clients of the old manager cannot read an error where the array is
    /// to be, so what is not known of one of them is told in its row.
    pub(super) async fn list(&self) -> Result<Vec<Summary>, Refusal> {
        let until = Instant::now() + LOOK_TIMEOUT;
        let listed = self.models.list().await?;
        let summaries = stream::iter(listed).map(|listed| self.summary(listed, until));
        Ok(summaries.buffered(LOOKED_AT_ONCE).collect().await)
    }

    pub(super) async fn models(&self) -> Result<ListReply, Refusal> {
        let models = self.list().await?;
        let message = "Successfully fetched list of applications".to_owned();
        Ok(ListReply { result: GetResult::Success, message, models })
    }

    async fn summary(&self, Listed { name, stored }: Listed, until: Instant) -> Summary {
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => return unreadable(name, &error),
        };
        let target = within(until, self.targets.get(&name)).await;
        let status = match &target {
            Ok(target) => within(until, self.status_of(&name, &stored, target.as_ref())).await,
            Err(error) => Err(error.clone()),
        };
        summary(name, &stored, target, status)
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

/// Reads something for a list, within the time that there is for all of it.
async fn within<T, E: std::error::Error>(
    until: Instant,
    read: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match timeout_at(until, read).await {
        Ok(read) => read.map_err(|error| chain(&error)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// Returns the row of an application whose record cannot be read.
fn unreadable(name: String, error: &StoreError) -> Summary {
    let kind = match error {
        StoreError::Unreadable { .. } => StatusType::Failed,
        // It may be as it is to be; the bucket did not answer.
        _ => StatusType::Reconciling,
    };
    let info = Info { kind, message: chain(error) };
    Summary {
        name,
        version: String::new(),
        description: None,
        deployed_version: None,
        status: kind,
        status_message: Some(info.message.clone()),
        detailed_status: Status { status: info, ..Status::default() },
    }
}

/// Returns the row of an application, of what was read or why it was not. Without its target the
/// mark beside the manifests says what is deployed. Nothing is called failed only because nobody
/// can look.
fn summary(
    name: String,
    stored: &Stored,
    target: Result<Option<Target>, String>,
    status: Result<Status, String>,
) -> Summary {
    let (version, manifest) = newest(stored);
    let description = manifest.pointer(&format!("/metadata/annotations/{DESCRIPTION}"));
    let description = description.and_then(Value::as_str).map(str::to_owned);
    let deployed_version = match &target {
        Ok(target) => deployed(target.as_ref()).map(str::to_owned),
        Err(_) => stored.deployed_version.clone(),
    };
    let target = target.ok().flatten();
    let status = status.unwrap_or_else(|error| {
        let mut status = status::effective(target.as_ref(), &version, None);
        if deployed_version.is_some() {
            status.status.kind = StatusType::Reconciling;
        }
        status.status.message = format!("how it stands cannot be read now: {error}");
        status
    });
    let is_told = target.is_some() || !status.status.message.is_empty();
    Summary {
        version,
        description,
        deployed_version,
        status: status.status.kind,
        status_message: is_told.then(|| status.status.message.clone()),
        detailed_status: status,
        name,
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

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_base::store::desired::DesiredError;

    #[test]
    fn an_application_whose_status_is_not_read_keeps_its_row() {
        use StatusType::{Reconciling, Undeployed};
        let text = r#"{"manifests":{"v1":{"apiVersion":"a","kind":"k","metadata":{"name":"shop","annotations":
            {"version":"v1","description":"demo"}},"spec":{"components":[]}}},"deployed_version":"v1"}"#;
        let stored: Stored = serde_json::from_str(text).unwrap();
        let manifest = stored.versions.get(None).unwrap().1.clone();
        let target = |state| Target::of(serde_json::from_value(manifest.clone()).unwrap(), state);
        let deployed = target(State::Deployed);
        let read = status::effective(Some(&deployed), "v1", None);
        let away = || "away".to_owned();
        for (target, status, version, kind, message) in [
            (Ok(Some(deployed.clone())), Ok(read), Some("v1"), Reconciling, "Model deployed"),
            (Ok(Some(deployed)), Err(away()), Some("v1"), Reconciling, "read now: away"),
            (Ok(Some(target(State::Undeployed))), Err(away()), None, Undeployed, "read now: away"),
            (Err(away()), Err(away()), Some("v1"), Reconciling, "read now: away"),
        ] {
            let row = summary("shop".into(), &stored, target, status);
            assert_eq!((row.deployed_version.as_deref(), row.status), (version, kind));
            assert_eq!((&*row.version, row.description.as_deref()), ("v1", Some("demo")));
            assert_eq!(row.detailed_status.status.kind, kind);
            let told = row.status_message.unwrap();
            assert!(told.contains(message), "{message} in {told}");
        }
        let (key, cause) = ("k".to_owned(), "no JSON".to_owned());
        for (error, kind) in [
            (StoreError::Unreadable { key, cause }, StatusType::Failed),
            (DesiredError::TimedOut { bucket: "b".into() }.into(), Reconciling),
        ] {
            let row = unreadable("shop".into(), &error);
            assert_eq!((&*row.name, row.status), ("shop", kind));
            assert!(row.status_message.unwrap().starts_with("Internal storage error: "));
        }
    }
}
