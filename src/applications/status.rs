//! How applications are, for everybody: the last record of each on `wadm.status.{lattice}.{name}`,
//! in the stream `wadm_status` with the old manager's settings (wadm, sections 3.2 and 4.9).
//!
//! The host that acts for an application publishes; all hosts read. Records outlive applications,
//! so [`effective`] puts the last record and what is wanted together.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use async_nats::jetstream::{
    Context,
    stream::{self, Stream},
};
use bytes::Bytes;
use tracing::debug;

use super::targets::Target;
use lattice_base::{
    lattice::connection::Nats,
    store::jetstream::{
        self, OpenError,
        making::{Bound, Making},
        read::{self, ReadError},
    },
};
use lattice_protocol::{
    applications::{
        api::{ComponentStatus, Info, Record, Status, StatusType},
        manifest::{Manifest, Properties},
    },
    errors::chain,
    lattice::subject::Subjects,
};

/// The stream of the records of all lattices.
pub const STREAM: &str = "wadm_status";
/// Records that are kept of an application.
const KEPT: i64 = 10;
/// How long the server may take to confirm a record.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);
/// The size of the stream in accounts that demand a bound.
const BYTES: u64 = 16 << 20;
/// The message of an application that was deployed a moment ago; the old manager's.
const BEGINNING: &str = "Model deployed, running initial compensating commands";

/// Why a record was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("read the last record of stream {STREAM}: {0}")]
    Read(#[from] ReadError),
    #[error("write to stream {STREAM}: {0}")]
    Write(String),
}

/// The effect of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    Yes,
    /// The last record says the same.
    Unchanged,
}

/// The records of a lattice. Cheap to clone.
#[derive(Clone)]
pub struct Statuses(Arc<Inner>);

struct Inner {
    nats: Nats,
    context: Context,
    domain: Option<String>,
    subjects: Subjects,
    making: Making,
    stream: ArcSwapOption<Stream>,
}

impl Statuses {
    /// The records of a lattice; the stream is made by the first of them, with so many replicas.
    pub fn new(nats: Nats, domain: Option<&str>, subjects: Subjects, replicas: usize) -> Self {
        let context = jetstream::context(&nats.client, domain);
        Self(Arc::new(Inner {
            nats,
            context,
            domain: domain.map(str::to_owned),
            subjects,
            making: Making { replicas, bound: Bound::IfDemanded(BYTES) },
            stream: ArcSwapOption::empty(),
        }))
    }

    /// Returns the last record of an application. One that cannot be read is like none.
    pub async fn last(&self, name: &str) -> Result<Option<Record>, StatusError> {
        let Some(stream) = self.find().await? else { return Ok(None) };
        let subject = self.0.subjects.manager_status(name);
        let message = match read::last(&stream, &subject).await {
            Err(ReadError::Gone) => {
                self.0.stream.store(None);
                return Ok(None);
            }
            read => read?,
        };
        Ok(message.and_then(|message| {
            serde_json::from_slice(&message.payload)
                .inspect_err(|error| debug!(%error, subject, "a status cannot be read"))
                .ok()
        }))
    }

    /// Publishes how an application is, unless the last record says the same.
    pub async fn publish(&self, name: &str, status: Status) -> Result<Published, StatusError> {
        let record = Record::from(status);
        if self.last(name).await?.as_ref() == Some(&record) {
            return Ok(Published::Unchanged);
        }
        let stream = self.open().await?;
        let bytes =
            serde_json::to_vec(&record).map_err(|error| StatusError::Write(error.to_string()))?;
        let subject = self.0.subjects.manager_status(name);
        let confirmed = async {
            let sent = self.0.context.publish(subject, Bytes::from(bytes)).await;
            sent.map_err(|error| chain(&error))?.await.map_err(|error| chain(&error))
        };
        let outcome = tokio::time::timeout(CONFIRM_TIMEOUT, confirmed).await;
        match outcome.unwrap_or_else(|_| Err("no answer".to_owned())) {
            Ok(_) => Ok(Published::Yes),
            Err(cause) => {
                // It may have vanished; the next record makes it again.
                drop(stream);
                self.0.stream.store(None);
                Err(StatusError::Write(cause))
            }
        }
    }

    async fn find(&self) -> Result<Option<Arc<Stream>>, StatusError> {
        if let Some(stream) = self.0.stream.load_full() {
            return Ok(Some(stream));
        }
        let Inner { nats, context, domain, .. } = &*self.0;
        let found = jetstream::find(nats, context, domain.as_deref(), STREAM, STREAM).await?;
        Ok(found.map(|stream| self.keep(stream)))
    }

    async fn open(&self) -> Result<Arc<Stream>, StatusError> {
        if let Some(stream) = self.find().await? {
            return Ok(stream);
        }
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec!["wadm.status.*.*".to_owned()],
            description: Some(
                "A stream that stores all status updates for wadm applications".to_owned(),
            ),
            max_messages_per_subject: KEPT,
            max_messages: -1,
            max_consumers: -1,
            max_message_size: -1,
            storage: stream::StorageType::File,
            retention: stream::RetentionPolicy::Limits,
            allow_direct: true,
            ..Default::default()
        };
        match self.0.making.create(&self.0.context, config).await {
            Ok(stream) => Ok(self.keep(stream)),
            // Another host was first.
            Err(error) => self.find().await?.ok_or_else(|| StatusError::Write(chain(&error))),
        }
    }

    fn keep(&self, stream: Stream) -> Arc<Stream> {
        let stream = Arc::new(stream);
        self.0.stream.store(Some(Arc::clone(&stream)));
        stream
    }
}

/// Returns how an application is: the last record, if it is of what is wanted now. A record of a
/// version that was deployed before tells nothing of the one of now.
pub fn effective(target: Option<&Target>, newest: &str, record: Option<&Record>) -> Status {
    let Some(target) = target.filter(|target| target.is_deployed()) else {
        return Status { version: newest.to_owned(), ..Status::default() };
    };
    let of_now = record.filter(|record| {
        record.status.version == target.version && record.info.kind != StatusType::Undeployed
    });
    let mut status = of_now.map(|record| record.status.clone()).unwrap_or_else(|| Status {
        status: Info { kind: StatusType::Reconciling, message: BEGINNING.to_owned() },
        ..Status::default()
    });
    status.version.clone_from(&target.version);
    if status.components.is_empty() {
        status.components = components(&target.manifest, &status.status);
    }
    status
}

/// Returns the components of a manifest, each in the same status.
fn components(manifest: &Manifest, info: &Info) -> Vec<ComponentStatus> {
    let components = manifest.spec.components.iter().map(|component| ComponentStatus {
        name: component.name.clone(),
        kind: match component.properties {
            Properties::Actor(_) => "actor".to_owned(),
            Properties::Capability(_) => "capability".to_owned(),
        },
        status: info.clone(),
        traits: Vec::new(),
    });
    components.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::State;

    fn target(version: &str, state: State) -> Target {
        let text = format!(
            r#"{{"apiVersion":"a","kind":"k","metadata":{{"name":"shop","annotations":{{"version":"{version}"}}}},"spec":{{"components":[
                {{"name":"web","type":"capability","properties":{{"image":"x"}}}}]}}}}"#
        );
        Target::of(serde_json::from_str(&text).unwrap(), state)
    }

    fn record(version: &str, kind: StatusType) -> Record {
        let status = Info { kind, message: "as said".into() };
        Record::from(Status { version: version.into(), status, ..Status::default() })
    }

    #[test]
    fn a_record_of_before_tells_nothing_of_now() {
        use StatusType::{Deployed, Failed, Reconciling, Undeployed};
        for (target, record, version, kind) in [
            (None, None, "new", Undeployed),
            (None, Some(record("v1", Deployed)), "new", Undeployed),
            (Some(target("v1", State::Undeployed)), Some(record("v1", Failed)), "new", Undeployed),
            (Some(target("v1", State::Released)), Some(record("v1", Deployed)), "new", Undeployed),
            (Some(target("v1", State::Deployed)), None, "v1", Reconciling),
            (Some(target("v2", State::Deployed)), Some(record("v1", Deployed)), "v2", Reconciling),
            (
                Some(target("v1", State::Deployed)),
                Some(record("v1", Undeployed)),
                "v1",
                Reconciling,
            ),
            (Some(target("v1", State::Deployed)), Some(record("v1", Failed)), "v1", Failed),
        ] {
            let status = effective(target.as_ref(), "new", record.as_ref());
            assert_eq!((&*status.version, status.status.kind), (version, kind));
            let is_deployed = target.is_some_and(|target| target.is_deployed());
            assert_eq!(status.components.len(), usize::from(is_deployed));
        }
    }

    #[test]
    fn old_and_later_readers_find_their_members_in_a_record() {
        let record = serde_json::to_value(record("v1", StatusType::Failed)).unwrap();
        assert_eq!(
            record,
            serde_json::json!({
                "type": "failed", "message": "as said",
                "status": {"type": "failed", "message": "as said"},
                "version": "v1", "components": [], "scalers": [],
            })
        );
        for text in [r#"{"type":"deployed"}"#, r#"{"type":"compensating","message":null}"#] {
            assert!(serde_json::from_str::<Record>(text).is_ok(), "{text}");
        }
    }
}
