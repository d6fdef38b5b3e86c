//! Bytes inside the structures of a contract.
//!
//! Written as MessagePack `bin`. Read from what any era sends for bytes: `bin`, a text, an array of
//! small numbers, nil.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// No array of numbers may reserve more than this before its numbers are there.
const RESERVE_MAX: usize = 64 * 1024;

/// A body, a chunk, a value: anything that is only bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Binary(pub Bytes);

impl fmt::Debug for Binary {
    /// Says how much there is; payloads reach no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<T: Into<Bytes>> From<T> for Binary {
    fn from(bytes: T) -> Self {
        Self(bytes.into())
    }
}

impl Serialize for Binary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Binary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor)
    }
}

struct Visitor;

impl<'de> de::Visitor<'de> for Visitor {
    type Value = Binary;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Binary, E> {
        Ok(Bytes::copy_from_slice(bytes).into())
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Binary, E> {
        Ok(bytes.into())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Binary, E> {
        self.visit_bytes(text.as_bytes())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Binary, E> {
        Ok(Binary::default())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut numbers: A) -> Result<Binary, A::Error> {
        let mut bytes = Vec::with_capacity(numbers.size_hint().unwrap_or(0).min(RESERVE_MAX));
        while let Some(byte) = numbers.next_element::<u8>()? {
            bytes.push(byte);
        }
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_bin_and_read_from_every_form() {
        let bytes = Binary::from(vec![b'h', b'i', 200]);
        assert_eq!(rmp_serde::to_vec_named(&bytes).unwrap(), [0xc4, 3, b'h', b'i', 200]);
        let read = |msgpack: &[u8]| rmp_serde::from_slice::<Binary>(msgpack).unwrap();
        assert_eq!(read(&[0xc4, 3, b'h', b'i', 200]), bytes);
        assert_eq!(read(&[0x93, b'h', b'i', 0xcc, 200]), bytes);
        assert_eq!(read(&[0xa2, b'h', b'i']), Binary::from("hi"));
        assert_eq!(read(&[0xc0]), Binary::default());
        assert!(rmp_serde::from_slice::<Binary>(&[0x91, 0xcd, 1, 0]).is_err());
        // A length that nothing follows reserves no memory.
        assert!(rmp_serde::from_slice::<Binary>(&[0xdd, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
