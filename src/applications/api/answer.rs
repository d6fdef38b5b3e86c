//! Turns outcomes into answers.

use bytes::Bytes;
use serde::Serialize;

use crate::{status::StatusError, store::StoreError, targets::TargetError};
use lattice_base::store::desired::DesiredError;
use lattice_protocol::{
    applications::{
        api::{Failure, GetResult, VersionsReply},
        decode::DecodeError,
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
    #[error("{0}")]
    Rollout(String),
    #[error("Internal storage error: {0}")]
    Bucket(#[from] DesiredError),
    #[error("make the stored form: {0}")]
    Form(serde_json::Error),
}

/// Returns the JSON of a reply, or of a failure.
pub fn of<T: Serialize>(outcome: Result<T, Refusal>) -> Bytes {
    match outcome {
        Ok(reply) => json(&reply),
        Err(refusal) => json(&Failure::new(chain(&refusal))),
    }
}

/// The same for versions, which clients expect in failures as well.
pub fn of_versions(outcome: Result<VersionsReply, Refusal>) -> Bytes {
    json(&outcome.unwrap_or_else(|refusal| VersionsReply {
        result: GetResult::Error,
        message: chain(&refusal),
        versions: Vec::new(),
    }))
}

pub fn json(reply: &impl Serialize) -> Bytes {
    // Replies are made of texts and lists, which always can be written.
    const UNWRITTEN: &[u8] = br#"{"result":"error","message":"the answer cannot be written"}"#;
    serde_json::to_vec(reply).map_or(Bytes::from_static(UNWRITTEN), Bytes::from)
}
