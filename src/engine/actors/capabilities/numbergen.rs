//! `wasmcloud:builtin:numbergen`: random numbers and ids.

use bytes::Bytes;
use rand::Rng;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{bad_argument, not_handled};
use crate::rpc::call::CallError;

#[derive(Deserialize)]
struct Range {
    min: u32,
    max: u32,
}

pub(super) fn call(operation: &str, payload: &[u8]) -> Result<Bytes, CallError> {
    match operation {
        "NumberGen.GenerateGuid" => encode(&Uuid::new_v4().to_string()),
        "NumberGen.Random32" => encode(&rand::rng().random::<u32>()),
        "NumberGen.RandomInRange" => {
            let Range { min, max } =
                rmp_serde::from_slice(payload).map_err(|e| bad_argument(operation, &e))?;
            // A reversed range is taken for its mirror image: older hosts panicked or drew from it.
            encode(&rand::rng().random_range(min.min(max)..=min.max(max)))
        }
        _ => Err(not_handled(operation)),
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Bytes, CallError> {
    rmp_serde::to_vec(value)
        .map(Bytes::from)
        .map_err(|e| CallError::Callee(format!("serialization: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_includes_both_ends_and_may_be_reversed() {
        #[derive(Serialize)]
        struct Range {
            min: u32,
            max: u32,
        }
        for range in
            [Range { min: 3, max: 3 }, Range { min: 4, max: 3 }, Range { min: 0, max: u32::MAX }]
        {
            let argument = rmp_serde::to_vec_named(&range).unwrap();
            let drawn: u32 =
                rmp_serde::from_slice(&call("NumberGen.RandomInRange", &argument).unwrap())
                    .unwrap();
            assert!(drawn >= range.min.min(range.max) && drawn <= range.max.max(range.min));
        }
    }

    #[test]
    fn ids_are_ids_and_unknown_methods_are_named() {
        let id: String =
            rmp_serde::from_slice(&call("NumberGen.GenerateGuid", &[]).unwrap()).unwrap();
        assert!(Uuid::parse_str(&id).is_ok());
        assert_eq!(
            call("NumberGen.Dice", &[]),
            Err(CallError::Callee("method not handled NumberGen.Dice".into()))
        );
    }
}
