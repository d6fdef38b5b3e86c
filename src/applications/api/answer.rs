//! Turns outcomes into answers.

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
pub fn failure(request: Option<&Request<'_>>, failure: Failure) -> Bytes {
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
