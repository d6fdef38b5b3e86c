//! The arguments and results of the capability contracts, as the published interface crates encode
//! them (wasmbus protocol, section 5).
//!
//! One file per contract holds its structures and operation names. Inside is MessagePack:
//! structures are maps with camelCase keys, a single argument stands for itself, no argument is no
//! byte. We send maps, leave absent options out and leave nothing else out; we accept what any era
//! sends: arrays in field order, nil for an absent option, other widths of integers, text or arrays
//! where bytes belong, and the CBOR of the blob store's middle years.

pub mod binary;
pub mod blobstore;
pub mod health;
pub mod httpclient;
pub mod httpserver;
pub mod interfaces;
pub mod keyvalue;
pub mod messaging;

use std::fmt;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// The contract by which every host takes lines for the log of an actor.
pub const LOGGING: &str = "wasmcloud:builtin:logging";
/// The contract by which every host makes random numbers.
pub const NUMBERGEN: &str = "wasmcloud:builtin:numbergen";

/// How many letters of a contract's name may be wrong for it to be taken for a slip of the pen.
const SLIPS_MAX: usize = 2;

/// Returns the contract that one of another name is most likely to be a slip of the pen of; nothing
/// for a contract that is known here, or like none.
pub fn meant(contract: &str) -> Option<&'static str> {
    let built_in = crate::builtin::CATALOGUE.iter().map(|known| known.contract_id);
    nearest(contract, built_in.chain([LOGGING, NUMBERGEN]))
}

/// Returns the one of the contracts that another one is most likely to be a slip of the pen of;
/// nothing for one that is among them, or like none.
pub fn nearest<'a>(contract: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (slips, found) = known.map(|known| (strsim::osa_distance(contract, known), known)).min()?;
    (1..=SLIPS_MAX).contains(&slips).then_some(found)
}

/// Begins a payload whose rest is CBOR.
const CBOR_MARKER: u8 = 0x7f;
/// Begins a payload whose rest is MessagePack.
const MSGPACK_MARKER: u8 = 0xc1;

/// Why a payload is not what its operation takes.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    #[error("the payload of {what} is not the structure of the contract: {cause}")]
    Structure { what: &'static str, cause: String },
}

impl PayloadError {
    fn structure(what: &'static str, cause: impl fmt::Display) -> Self {
        Self::Structure { what, cause: cause.to_string() }
    }
}

/// Reads a payload, in whichever encoding it comes. `what` names the operation in errors.
pub fn decode<T: DeserializeOwned>(what: &'static str, payload: &[u8]) -> Result<T, PayloadError> {
    match payload {
        [CBOR_MARKER, rest @ ..] if !rest.is_empty() => {
            let msgpack = msgpack_of_cbor(what, rest)?;
            rmp_serde::from_slice(&msgpack)
        }
        [MSGPACK_MARKER, rest @ ..] => rmp_serde::from_slice(rest),
        // Nothing stands for nil, which is what old callers send for it.
        [] => rmp_serde::from_slice(&[0xc0]),
        _ => rmp_serde::from_slice(payload),
    }
    .map_err(|error| PayloadError::structure(what, error))
}

/// Writes CBOR again as MessagePack, so that there is one way to read arrays and maps into
/// structures.
fn msgpack_of_cbor(what: &'static str, cbor: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let value: ciborium::Value =
        ciborium::from_reader(cbor).map_err(|error| PayloadError::structure(what, error))?;
    rmp_serde::to_vec_named(&value).map_err(|error| PayloadError::structure(what, error))
}

/// Writes an argument or a result.
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    // Our own structures hold nothing that MessagePack cannot: no map key is compound, no length
    // unknown.
    rmp_serde::to_vec_named(value).expect("a contract structure is always encodable").into()
}

/// `Service.Method` of a service as its method; 2021's callers leave the service out.
pub fn method<'a>(operation: &'a str, service: &str) -> &'a str {
    operation.strip_prefix(service).and_then(|rest| rest.strip_prefix('.')).unwrap_or(operation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_in_a_contract_is_told_from_a_contract_of_others() {
        for (contract, expected) in [
            ("wasmcloud:htpserver", Some("wasmcloud:httpserver")),
            ("wasmcloud:httpsrever", Some("wasmcloud:httpserver")),
            ("wasmcloud:keyvalues", Some("wasmcloud:keyvalue")),
            ("wasmcloud:builtin:loging", Some(LOGGING)),
            ("wasmcloud:httpclient", None),
            ("wasmcloud:sqldb", None),
            ("acme:ledger", None),
        ] {
            assert_eq!(meant(contract), expected, "{contract}");
        }
    }

    #[test]
    fn a_misspelt_contract_is_answered_with_the_one_that_is_meant() {
        let known = ["wasmcloud:httpserver", "wasmcloud:keyvalue", "wasmcloud:messaging"];
        for (contract, meant) in [
            ("wasmcloud:keyvalu", Some("wasmcloud:keyvalue")),
            ("wasmcloud:httpsrver", Some("wasmcloud:httpserver")),
            ("acme:ledger", None),
        ] {
            assert_eq!(nearest(contract, known.into_iter()), meant, "{contract}");
        }
    }
}
