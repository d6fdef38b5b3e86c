//! `wasmcloud:keyvalue`: an actor keeps texts, counters, lists and sets (wasmbus protocol,
//! section 5.4).
//!
//! Operations that take or return a single text, number or list have no structure here. Callers of
//! 2021 spell the names of lists and sets with an underscore and leave `expires` out.
//!
//! Components know more than the contract: values of any bytes, lists of keys, compare-and-swap.
//! For these the built-in provider has the operations [`private`]. Any actor that is linked to it
//! may call them; the bridges of components send them to no other provider.

use serde::{Deserialize, Serialize};

use super::binary::Binary;
use crate::serde_null::null_as_default;

pub const CONTRACT_ID: &str = "wasmcloud:keyvalue";
pub const SERVICE: &str = "KeyValue";

/// Operations of the built-in provider that the contract does not have (components, section 2.6).
pub mod private {
    /// Takes a key, returns [`Version`](super::Version).
    pub const GET_BYTES: &str = "KeyValue.GetBytes";
    /// Takes [`SetBytesRequest`](super::SetBytesRequest), returns nothing.
    pub const SET_BYTES: &str = "KeyValue.SetBytes";
    /// Takes [`KeysRequest`](super::KeysRequest), returns [`Keys`](super::Keys).
    pub const KEYS: &str = "KeyValue.Keys";
    /// Takes [`SwapRequest`](super::SwapRequest), returns whether the value was written.
    pub const SWAP: &str = "KeyValue.Swap";
}

/// A value of any bytes, and its place in the order of all writes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// `None` if nothing is under the key.
    pub value: Option<Binary>,
    /// Changes with each write of the key; 0 if it was never written.
    pub revision: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetBytesRequest {
    pub key: String,
    pub value: Binary,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysRequest {
    /// The last key of the page before.
    pub after: Option<String>,
}

/// A page of keys, in the order of their bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    pub keys: Vec<String>,
    /// There may be more after the last one.
    pub more: bool,
}

/// Writes a value if nobody has written the key since its revision was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapRequest {
    pub key: String,
    pub value: Binary,
    pub revision: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncrementRequest {
    pub key: String,
    pub value: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetResponse {
    pub value: String,
    pub exists: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRequest {
    pub key: String,
    pub value: String,
    /// Seconds; 0 for never.
    #[serde(default, deserialize_with = "null_as_default")]
    pub expires: u32,
}

/// The argument of `ListAdd` and `ListDel`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRequest {
    #[serde(rename = "listName", alias = "list_name")]
    pub list_name: String,
    pub value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRangeRequest {
    #[serde(rename = "listName", alias = "list_name")]
    pub list_name: String,
    pub start: i32,
    /// Inclusive; negative numbers count from the end.
    pub stop: i32,
}

/// The argument of `SetAdd` and `SetDel`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetMemberRequest {
    #[serde(rename = "setName", alias = "set_name")]
    pub set_name: String,
    pub value: String,
}

#[cfg(test)]
mod tests {
    use serde::{Serialize, de::DeserializeOwned};
    use serde_json::json;
    use wasmbus_rpc::common::{deserialize, serialize};
    use wasmcloud_interface_keyvalue as published;

    use super::*;
    use crate::contracts::{decode, encode};

    /// Both ends write the same bytes and read each other's.
    fn agree<O, P>(ours: O, theirs: P)
    where
        O: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
        P: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let bytes = serialize(&theirs).unwrap();
        assert_eq!(encode(&ours), bytes);
        assert_eq!(decode::<O>("it", &bytes).unwrap(), ours);
        assert_eq!(deserialize::<P>(&encode(&ours)).unwrap(), theirs);
    }

    #[test]
    fn arguments_and_results_are_those_of_the_published_crate() {
        agree(
            IncrementRequest { key: "k".into(), value: -200 },
            published::IncrementRequest { key: "k".into(), value: -200 },
        );
        agree(
            GetResponse { value: "v".into(), exists: true },
            published::GetResponse { value: "v".into(), exists: true },
        );
        agree(
            SetRequest { key: "k".into(), value: "v".into(), expires: 70_000 },
            published::SetRequest { key: "k".into(), value: "v".into(), expires: 70_000 },
        );
        let list = ListRequest { list_name: "l".into(), value: "v".into() };
        agree(list.clone(), published::ListAddRequest { list_name: "l".into(), value: "v".into() });
        agree(list, published::ListDelRequest { list_name: "l".into(), value: "v".into() });
        agree(
            ListRangeRequest { list_name: "l".into(), start: 0, stop: -1 },
            published::ListRangeRequest { list_name: "l".into(), start: 0, stop: -1 },
        );
        let member = SetMemberRequest { set_name: "s".into(), value: "v".into() };
        agree(member.clone(), published::SetAddRequest { set_name: "s".into(), value: "v".into() });
        agree(member, published::SetDelRequest { set_name: "s".into(), value: "v".into() });
        agree(vec!["a".to_owned()], vec!["a".to_owned()] as published::StringList);
        agree(7_u32, 7_u32);
        agree(true, true);
    }

    #[test]
    fn arguments_of_2021_and_by_position_are_read() {
        let old = rmp_serde::to_vec_named(&json!({"list_name": "l", "value": "v"})).unwrap();
        assert_eq!(decode::<ListRequest>("ListAdd", &old).unwrap().list_name, "l");
        let old =
            rmp_serde::to_vec_named(&json!({"set_name": "s", "value": "v", "more": [1]})).unwrap();
        assert_eq!(decode::<SetMemberRequest>("SetAdd", &old).unwrap().set_name, "s");
        for set in [
            json!({"key": "k", "value": "v"}),
            json!({"key": "k", "value": "v", "expires": null}),
            json!(["k", "v"]),
            json!(["k", "v", 0]),
        ] {
            let bytes = rmp_serde::to_vec_named(&set).unwrap();
            assert_eq!(decode::<SetRequest>("Set", &bytes).unwrap().expires, 0, "{set}");
        }
        let wrong = rmp_serde::to_vec_named(&json!({"value": 1})).unwrap();
        let error =
            decode::<IncrementRequest>("KeyValue.Increment", &wrong).unwrap_err().to_string();
        assert!(error.contains("KeyValue.Increment") && error.contains("key"), "{error}");
    }
}
