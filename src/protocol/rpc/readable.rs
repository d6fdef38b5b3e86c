//! Payloads as people read and write them: JSON for MessagePack.
//!
//! Texts, numbers, lists and maps are the same in both. Only MessagePack has binary values: they
//! are shown as lists of numbers or as texts, and written as `{"$bin": "base64"}`; where a contract
//! wants bytes, lists of numbers and texts are taken as well by the libraries of all years.

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Serialize, Serializer, ser::SerializeMap as _, ser::SerializeSeq as _};
use serde_json::{Map, Value, json};

/// The member that marks a binary value.
const BIN: &str = "$bin";
/// Values that nest deeper are no payload of an actor.
const DEPTH_MAX: usize = 64;

/// How binary values are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binary {
    /// As lists of numbers.
    #[default]
    Bytes,
    /// As texts, with a replacement for what is none.
    Text,
    /// As an object of both.
    Both,
}

/// Shows a payload as JSON. One that is no MessagePack is shown as a binary value.
pub fn to_json(payload: &[u8], binary: Binary) -> Value {
    let mut rest = payload;
    match read(&mut rest, binary, 0) {
        Ok(value) if rest.is_empty() => value,
        _ => shown(payload, binary),
    }
}

/// Writes JSON as MessagePack, objects as maps with their names.
pub fn from_json(value: &Value) -> Result<Vec<u8>> {
    rmp_serde::to_vec_named(&Written(value)).context("write the payload as MessagePack")
}

fn shown(bytes: &[u8], binary: Binary) -> Value {
    match binary {
        Binary::Bytes => json!(bytes),
        Binary::Text => json!(String::from_utf8_lossy(bytes)),
        Binary::Both => json!({ "str": String::from_utf8_lossy(bytes), "bin": bytes }),
    }
}

fn read(rest: &mut &[u8], binary: Binary, depth: usize) -> Result<Value> {
    use rmp::Marker;
    if depth > DEPTH_MAX {
        bail!("values nest deeper than {DEPTH_MAX}");
    }
    let marker = Marker::from_u8(*rest.first().context("the payload ends too early")?);
    Ok(match marker {
        Marker::Null => {
            take(rest, 1)?;
            Value::Null
        }
        Marker::True | Marker::False => {
            take(rest, 1)?;
            Value::Bool(marker == Marker::True)
        }
        Marker::F32 => json!(rmp::decode::read_f32(rest)?),
        Marker::F64 => json!(rmp::decode::read_f64(rest)?),
        Marker::U64 => json!(rmp::decode::read_u64(rest)?),
        Marker::FixPos(_)
        | Marker::FixNeg(_)
        | Marker::U8
        | Marker::U16
        | Marker::U32
        | Marker::I8
        | Marker::I16
        | Marker::I32
        | Marker::I64 => json!(rmp::decode::read_int::<i64, _>(rest)?),
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
            let length = rmp::decode::read_str_len(rest)?;
            json!(String::from_utf8_lossy(take(rest, length as usize)?))
        }
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
            let length = rmp::decode::read_bin_len(rest)?;
            shown(take(rest, length as usize)?, binary)
        }
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
            let length = rmp::decode::read_array_len(rest)?;
            (0..length).map(|_| read(rest, binary, depth + 1)).collect::<Result<Vec<_>>>()?.into()
        }
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
            let length = rmp::decode::read_map_len(rest)?;
            let mut members = Map::new();
            for _ in 0..length {
                let name = match read(rest, binary, depth + 1)? {
                    Value::String(name) => name,
                    other => other.to_string(),
                };
                members.insert(name, read(rest, binary, depth + 1)?);
            }
            Value::Object(members)
        }
        _ => bail!("the payload has a value of a kind no contract uses"),
    })
}

fn take<'b>(rest: &mut &'b [u8], length: usize) -> Result<&'b [u8]> {
    let (taken, after) = rest.split_at_checked(length).context("the payload ends too early")?;
    *rest = after;
    Ok(taken)
}

/// A JSON value on its way to MessagePack.
struct Written<'a>(&'a Value);

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(&Written(item)))?;
                list.end()
            }
            Value::Object(members) => {
                if let (1, Some(Value::String(text))) = (members.len(), members.get(BIN)) {
                    let bytes = STANDARD.decode(text).map_err(serde::ser::Error::custom)?;
                    return serializer.serialize_bytes(&bytes);
                }
                let mut map = serializer.serialize_map(Some(members.len()))?;
                members
                    .iter()
                    .try_for_each(|(name, member)| map.serialize_entry(name, &Written(member)))?;
                map.end()
            }
            plain => plain.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn json_goes_to_messagepack_and_back() {
        let value = json!({
            "method": "GET", "n": -3, "big": 18_446_744_073_709_551_615_u64, "f": 1.5, "none": null,
            "list": [1, "two", true], "map": {"a": {"b": []}},
        });
        assert_eq!(to_json(&from_json(&value).unwrap(), Binary::Bytes), value);
    }

    #[test]
    fn binary_values_have_a_form_of_their_own() {
        let payload = from_json(&json!({ "body": {"$bin": "aGk="} })).unwrap();
        assert_eq!(to_json(&payload, Binary::Bytes), json!({ "body": [104, 105] }));
        assert_eq!(to_json(&payload, Binary::Text), json!({ "body": "hi" }));
        assert_eq!(
            to_json(&payload, Binary::Both),
            json!({ "body": {"str": "hi", "bin": [104, 105]} })
        );
        assert!(from_json(&json!({ "$bin": "not base64!" })).is_err());
    }

    #[test]
    fn what_is_no_messagepack_is_shown_as_bytes() {
        assert_eq!(to_json(b"{\"a\":1}", Binary::Text), json!("{\"a\":1}"));
        assert_eq!(to_json(&[0x93, 1], Binary::Bytes), json!([0x93, 1]));
        assert_eq!(to_json(&[0x91; 200], Binary::Bytes), json!([0x91_u8; 200].to_vec()));
    }

    proptest! {
        #[test]
        fn any_payload_is_shown(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            to_json(&payload, Binary::Both);
        }
    }
}
