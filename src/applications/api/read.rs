//! Questions: `list`, `get`, `versions`, `status`.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, future, stream};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{Server, answer::Refusal};
use crate::{
    rival::NOBODY,
    status::{self, StatusError},
    store::StoreError,
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
    history::compact,
};

/// Applications that are looked at together.
const LOOKED_AT_ONCE: usize = 16;
/// How long a list looks how applications stand: it is answered before clients give up.
const LOOK_TIMEOUT: Duration = Duration::from_millis(1400);
/// Makes rows of a list shorter, until the list fits into a message: first without the parts of
/// applications, which clients of the old manager do not read, then with short sentences, then
/// without any.
const SHORTENED: [fn(&mut Summary); 3] = [without_parts, with_short_sentences, without_sentences];
/// Bytes of an answer around its list.
const FRAME_BYTES: usize = 256;
/// Why something is not told in a list.
const LATE: &str = "no answer in time";
/// Tells of an application that an earlier manager kept, and these hosts do not.
const UNADOPTED: &str =
    "deployed by a manager that has gone; deploy it again so that these hosts keep it";

impl Server {
    /// Returns all applications. Clients of the old manager cannot read an error where the array is
    /// to be, so what is not known of one of them is told in its row.
    pub(super) async fn list(&self) -> Result<Vec<Summary>, Refusal> {
        let until = Instant::now() + LOOK_TIMEOUT;
        let names = self.models.names().await?;
        // First what every row needs, and then how the applications stand, as far as there is time.
        let heads = stream::iter(names).map(|name| self.head(name, until)).buffered(LOOKED_AT_ONCE);
        let heads: Vec<Result<Head, Summary>> = heads.filter_map(future::ready).collect().await;
        let rows = stream::iter(heads).map(|head| self.row(head, until)).buffered(LOOKED_AT_ONCE);
        let rows: Vec<Summary> = rows.collect().await;
        Ok(fitting(rows, self.room().saturating_sub(FRAME_BYTES)))
    }

    pub(super) async fn models(&self) -> Result<ListReply, Refusal> {
        let models = self.list().await?;
        let message = "Successfully fetched list of applications".to_owned();
        Ok(ListReply { result: GetResult::Success, message, models })
    }

    /// Returns what is kept of an application for its row, or the row itself if nothing can be
    /// read. A name without a record is left out: its put or delete was broken off.
    async fn head(&self, name: String, until: Instant) -> Option<Result<Head, Summary>> {
        Some(match timeout_at(until, self.models.get(&name)).await {
            Ok(Ok(stored)) => Ok(Head::of(name, &stored?)),
            Ok(Err(error)) => Err(unreadable(name, &error)),
            Err(_) => Err(unread(name, StatusType::Reconciling, LATE.to_owned())),
        })
    }

    async fn row(&self, head: Result<Head, Summary>, until: Instant) -> Summary {
        let head = match head {
            Ok(head) => head,
            Err(row) => return row,
        };
        let target = within(until, self.targets.get(&head.name)).await;
        let status = match &target {
            Ok(target) => within(until, self.status_of(&head, target.as_ref())).await,
            Err(error) => Err(error.clone()),
        };
        summary(head, target, status)
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
        let head = Head::of(name.to_owned(), &stored);
        Ok(StatusReply {
            result: StatusResult::Ok,
            message: format!("Successfully fetched status for model {name}"),
            status: Some(self.status_of(&head, target.as_ref()).await?),
        })
    }

    async fn status_of(&self, head: &Head, target: Option<&Target>) -> Result<Status, StatusError> {
        // An application that nobody runs has no record that counts.
        let record = match deployed(target) {
            Some(_) => self.statuses.last(&head.name).await?,
            None => None,
        };
        let mut status = status::effective(target, &head.version, record.as_ref());
        if target.is_none() {
            if let Some(reason) = self.targets.rejected().remove(&head.name) {
                let message =
                    format!("the entry that says what is to run does not count: {reason}");
                status.status = Info { kind: StatusType::Failed, message };
            } else if head.deployed_version.is_some() {
                status.status.message = UNADOPTED.to_owned();
            }
        }
        Ok(status)
    }
}

/// What is kept of the record of an application for its row: all records together may be large.
struct Head {
    name: String,
    /// The newest one.
    version: String,
    description: Option<String>,
    /// What the mark beside the manifests says.
    deployed_version: Option<String>,
}

impl Head {
    fn of(name: String, stored: &Stored) -> Self {
        // An application has at least one version.
        let newest = stored.versions.get(None);
        let place = format!("/metadata/annotations/{DESCRIPTION}");
        let description = newest.and_then(|(_, manifest)| manifest.pointer(&place));
        Self {
            name,
            version: newest.map(|(version, _)| version.to_owned()).unwrap_or_default(),
            description: description.and_then(Value::as_str).map(compact::text),
            deployed_version: stored.deployed_version.clone(),
        }
    }
}

/// Reads something for a list, within the time that there is for all of it.
async fn within<T, E: std::error::Error>(
    until: Instant,
    read: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    // What is too late is not even asked for.
    if Instant::now() >= until {
        return Err(LATE.to_owned());
    }
    match timeout_at(until, read).await {
        Ok(read) => read.map_err(|error| chain(&error)),
        Err(_) => Err(LATE.to_owned()),
    }
}

/// Returns the row of an application whose record cannot be read.
fn unreadable(name: String, error: &StoreError) -> Summary {
    let kind = match error {
        StoreError::Unreadable { .. } => StatusType::Failed,
        // It may be as it is to be; the bucket did not answer.
        _ => StatusType::Reconciling,
    };
    unread(name, kind, chain(error))
}

fn unread(name: String, kind: StatusType, message: String) -> Summary {
    let info = Info { kind, message };
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
    head: Head,
    target: Result<Option<Target>, String>,
    status: Result<Status, String>,
) -> Summary {
    let Head { name, version, description, deployed_version: marked } = head;
    let deployed_version = match &target {
        Ok(target) => deployed(target.as_ref()).map(str::to_owned),
        Err(_) => marked,
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

/// Shortens the rows of a list as far as they have to be to fit into `room`.
fn fitting(mut rows: Vec<Summary>, room: usize) -> Vec<Summary> {
    for shorten in SHORTENED {
        // Rows are made of texts and lists, which always encode.
        if serde_json::to_vec(&rows).is_ok_and(|encoded| encoded.len() <= room) {
            break;
        }
        rows.iter_mut().for_each(shorten);
    }
    rows
}

fn without_parts(row: &mut Summary) {
    row.detailed_status.components.clear();
    row.detailed_status.scalers.clear();
}

fn with_short_sentences(row: &mut Summary) {
    row.status_message = row.status_message.as_deref().map(compact::text);
    row.detailed_status.status.message = compact::text(&row.detailed_status.status.message);
}

fn without_sentences(row: &mut Summary) {
    (row.description, row.status_message, row.detailed_status.rollout) = (None, None, None);
    row.detailed_status.status.message.clear();
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
    use lattice_protocol::applications::api::ComponentStatus;

    #[test]
    fn a_list_is_shortened_as_far_as_it_has_to_be() {
        let row = || {
            let message = "m".repeat(1000);
            let info = Info { kind: StatusType::Failed, message: message.clone() };
            let part = ComponentStatus {
                name: "web".into(),
                kind: "actor".into(),
                status: info.clone(),
                traits: Vec::new(),
            };
            Summary {
                name: "shop".into(),
                version: "v1".into(),
                description: Some("demo".into()),
                deployed_version: Some("v1".into()),
                status: info.kind,
                status_message: Some(message),
                detailed_status: Status {
                    status: info,
                    components: vec![part],
                    ..Status::default()
                },
            }
        };
        let rows = || vec![row(), row()];
        let size = |rows: &Vec<Summary>| serde_json::to_vec(rows).unwrap().len();
        let whole = size(&rows());
        for (room, has_parts, sentence) in [
            (whole, true, 1000),
            (whole - 1, false, 1000),
            (whole / 2, false, 603),
            (whole / 10, false, 0),
        ] {
            let fitted = fitting(rows(), room);
            assert!(size(&fitted) <= room, "{} in {room}", size(&fitted));
            for row in fitted {
                assert_eq!((&*row.name, row.status), ("shop", StatusType::Failed));
                assert_eq!(row.detailed_status.components.is_empty(), !has_parts);
                assert_eq!(row.description.is_some(), sentence > 0);
                assert_eq!(row.status_message.unwrap_or_default().len(), sentence);
                assert_eq!(row.detailed_status.status.message.len(), sentence);
            }
        }
    }

    #[tokio::test]
    async fn what_is_too_late_for_a_list_is_not_asked_for() {
        let read = future::lazy(|_| -> Result<(), StoreError> { panic!("it is asked for") });
        assert_eq!(within(Instant::now(), read).await, Err(LATE.to_owned()));
    }

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
            let row = summary(Head::of("shop".into(), &stored), target, status);
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
