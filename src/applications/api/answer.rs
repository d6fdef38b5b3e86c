//! Turns outcomes into answers.
//!
//! Every answer has to fit into a message, since a client waits in vain for one that does not. So
//! sentences about what others sent are cut to [`MESSAGE_BYTES_MAX`], and what is too large all the
//! same becomes a failure that says so, see [`fitting`].

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use crate::{status::StatusError, store::StoreError, targets::TargetError};
use lattice_base::store::desired::DesiredError;
use lattice_protocol::{
    applications::{
        api::{Failure, GetResult, ListReply, VersionsReply},
        decode::DecodeError,
        request::Request,
        validate::Invalid,
    },
    errors::chain,
};

/// Bytes of the sentence of a failure.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Why a request was not carried out, in the words of the old manager where it has some.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("Internal storage error: {0}")]
    Status(#[from] StatusError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(
        "Unable to parse manifest: Unsupported content type {0}; use application/yaml or application/json"
    )]
    ContentType(String),
    #[error("Unable to parse {request} model request: {cause}")]
    Body { request: &'static str, cause: serde_json::Error },
    #[error("Manifest version {0} already exists")]
    VersionExists(String),
    #[error("Model with the name {0} does not have the specified version to deploy")]
    NoSuchVersion(String),
    #[error("Provider {image} is already deployed with a different version in {application}.")]
    OtherProviderVersion { image: String, application: String },
    #[error("The stored version {version} cannot be used by these hosts: {cause}")]
    Unusable { version: String, cause: String },
    #[error(
        "{application} was deployed by another manager in version {version}, and these hosts cannot tell what to stop of it: \
         {cause}. Put a version that they can use, deploy it, and undeploy or delete it then"
    )]
    OfAnother { application: String, version: String, cause: String },
    #[error("{image} does not take the link of {actor} on, and nothing was stored: {cause}")]
    LinkValues { actor: String, image: String, cause: String },
    #[error("{0}")]
    Rollout(String),
    #[error("the rollout is not written: {0}; look at it, and try again")]
    NotSaved(DesiredError),
    #[error("Internal storage error: {0}")]
    Bucket(#[from] DesiredError),
    #[error("make the stored form: {0}")]
    Form(serde_json::Error),
    #[error("checking the manifest failed, which is a mistake of this host: {0}")]
    Failed(String),
}

impl Refusal {
    /// Says whether it may have been done all the same: a bucket did not confirm what was written.
    fn is_outcome_unknown(&self) -> bool {
        match self {
            Self::Store(StoreError::Bucket(error))
            | Self::Target(TargetError(error))
            | Self::NotSaved(error)
            | Self::Bucket(error) => error.is_outcome_unknown(),
            _ => false,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let outcome_unknown = refusal.is_outcome_unknown();
        Self { outcome_unknown, ..Self::new(chain(&refusal)) }
    }
}

/// Returns the JSON of the reply to a request, or of a failure.
pub fn of<T: Serialize>(request: &Request<'_>, outcome: Result<T, Refusal>) -> Bytes {
    match outcome {
        Ok(reply) => json(&reply),
        Err(refusal) => failure(Some(request), refusal.into()),
    }
}

/// Returns the JSON of a failure. Clients expect the list of some replies in failures as well.
pub fn failure(request: Option<&Request<'_>>, mut failure: Failure) -> Bytes {
    let end = failure.message.floor_char_boundary(MESSAGE_BYTES_MAX);
    if end < failure.message.len() {
        failure.message.truncate(end);
        failure.message.push('…');
    }
    let result = GetResult::Error;
    match request {
        Some(Request::Versions(_)) => {
            json(&VersionsReply { result, message: failure.message, versions: Vec::new() })
        }
        Some(Request::Models) => {
            json(&ListReply { result, message: failure.message, models: Vec::new() })
        }
        _ => json(&failure),
    }
}

/// Returns the answer to a request that was given up.
pub fn late(request: Option<&Request<'_>>, is_change: bool, after: Duration) -> Bytes {
    let told = format!("Internal storage error: no answer within {} ms", after.as_millis());
    failure(request, undone(is_change, told))
}

/// Returns an answer, or a failure in its place if it has more bytes than there is `room` for.
pub fn fitting(
    request: Option<&Request<'_>>,
    is_change: bool,
    answer: Bytes,
    room: usize,
) -> Bytes {
    if answer.len() <= room {
        return answer;
    }
    let told = format!(
        "the answer has {} bytes, and a message of this NATS server has room for {room}; delete applications or versions that \
         nobody needs, or raise max_payload in the NATS server's configuration",
        answer.len()
    );
    failure(request, undone(is_change, told))
}

/// Makes a failure of a request whose outcome is not told: of a change it is unknown.
fn undone(is_change: bool, told: String) -> Failure {
    match is_change {
        true => Failure::unknown(format!(
            "{told}, so it is unknown whether it was done; look before you repeat it"
        )),
        false => Failure::new(told),
    }
}

pub fn json(reply: &impl Serialize) -> Bytes {
    // Replies are made of texts and lists, which always can be written.
    const UNWRITTEN: &[u8] = br#"{"result":"error","message":"the answer cannot be written"}"#;
    serde_json::to_vec(reply).map_or(Bytes::from_static(UNWRITTEN), Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_has_the_list_that_clients_expect() {
        for (request, list) in [
            (Some(Request::Versions("shop")), Some("versions")),
            (Some(Request::Models), Some("models")),
            (Some(Request::Status("shop")), None),
            (None, None),
        ] {
            let answer = failure(request.as_ref(), Failure::new("away"));
            let mut expected = serde_json::json!({"result": "error", "message": "away"});
            if let Some(list) = list {
                expected[list] = serde_json::json!([]);
            }
            let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            assert_eq!(answer, expected, "{request:?}");
        }
    }

    #[test]
    fn an_answer_that_fits_into_no_message_is_a_failure_that_says_so() {
        let large = Bytes::from(vec![b' '; 1001]);
        for (request, is_change, room, is_unknown) in [
            (Request::List, false, 1001, None),
            (Request::List, false, 1000, Some(false)),
            (Request::Models, false, 1000, Some(false)),
            (Request::Put, true, 1000, Some(true)),
        ] {
            let answer = fitting(Some(&request), is_change, large.clone(), room);
            let Some(is_unknown) = is_unknown else {
                assert_eq!(answer, large);
                continue;
            };
            let answer: Failure = serde_json::from_slice(&answer).unwrap();
            assert_eq!((&*answer.result, answer.outcome_unknown), ("error", is_unknown));
            assert!(answer.message.contains("has 1001 bytes"), "{}", answer.message);
        }
        for (is_change, is_unknown) in [(true, true), (false, false)] {
            let answer = late(Some(&Request::List), is_change, Duration::from_millis(7));
            let answer: Failure = serde_json::from_slice(&answer).unwrap();
            assert_eq!(answer.outcome_unknown, is_unknown);
        }
        let long = Failure::new("ß".repeat(MESSAGE_BYTES_MAX));
        assert!(failure(None, long).len() < MESSAGE_BYTES_MAX + 100);
    }

    #[test]
    fn a_bucket_that_does_not_confirm_leaves_the_outcome_open() {
        let late = || DesiredError::TimedOut { bucket: "b".into() };
        for (refusal, expected) in [
            (Refusal::Store(late().into()), true),
            (Refusal::Target(late().into()), true),
            (Refusal::Bucket(late()), true),
            (Refusal::NotSaved(late()), true),
            (Refusal::Store(DesiredError::Conflict.into()), false),
            (Refusal::NotSaved(DesiredError::Conflict), false),
            (Refusal::Rollout("it is over".into()), false),
        ] {
            assert_eq!(Failure::from(refusal).outcome_unknown, expected);
        }
    }
}
