//! The value under a key, and how the bucket keeps it.
//!
//! A text is kept as it is, so that `nats kv get` shows it and `nats kv put` makes one; a counter
//! is a text of digits, as in redis. Lists and sets are JSON arrays, told apart by the header
//! `Lattice-Type`. The header `Lattice-Expires` has the end of an entry, in milliseconds since 1970
//! by the clock of the host that wrote it; hosts whose clocks differ see it end at different times
//! by that difference.

use std::{collections::BTreeSet, time::Duration};

use async_nats::HeaderMap;
use bytes::Bytes;

use lattice_protocol::clock;

/// Says that an entry is a list, a set or no text.
pub const TYPE: &str = "Lattice-Type";
/// Says when an entry expires.
const EXPIRES: &str = "Lattice-Expires";

/// The value under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    /// Anything that is no text.
    Bytes(Bytes),
    List(Vec<String>),
    Set(BTreeSet<String>),
}

/// Something under a key, perhaps only for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub value: Value,
    pub expires: Option<Expiry>,
}

/// An instant, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry(u64);

/// Why a message is no entry; somebody else may have written it.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    #[error("it is no UTF-8 text")]
    Text,
    #[error("it is no list: {0}")]
    List(serde_json::Error),
    #[error("it is no set: {0}")]
    Set(serde_json::Error),
    #[error("it has the unknown type {0:?}")]
    Type(String),
    #[error("its header {EXPIRES} is no number")]
    Expires,
}

/// Why an increment cannot be.
#[derive(Debug, PartialEq, Eq)]
pub enum NoNumber {
    Text,
    Overflow,
}

impl Value {
    /// Text where it is text, so that every actor can read it.
    pub fn of_bytes(bytes: Bytes) -> Self {
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(bytes),
        }
    }

    /// The kind, for errors.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Set(_) => "set",
        }
    }
}

impl Entry {
    /// Payload and headers of the message that keeps this entry.
    pub fn to_message(&self) -> (Bytes, HeaderMap) {
        let mut headers = HeaderMap::new();
        if let Some(expires) = self.expires {
            headers.insert(EXPIRES, expires.0.to_string());
        }
        if !matches!(self.value, Value::Text(_)) {
            headers.insert(TYPE, self.value.kind());
        }
        let payload = match &self.value {
            Value::Text(text) => text.clone().into(),
            Value::Bytes(bytes) => bytes.clone(),
            Value::List(items) => json(items),
            Value::Set(members) => json(members),
        };
        (payload, headers)
    }

    /// Reads a message.
    pub fn from_message(payload: &[u8], headers: &HeaderMap) -> Result<Self, EntryError> {
        let expires = expires(headers)?;
        let value = match headers.get(TYPE).map(|kind| kind.as_str()) {
            None => {
                let text = std::str::from_utf8(payload).map_err(|_| EntryError::Text)?;
                Value::Text(text.to_owned())
            }
            Some("bytes") => Value::Bytes(Bytes::copy_from_slice(payload)),
            Some("list") => Value::List(serde_json::from_slice(payload).map_err(EntryError::List)?),
            Some("set") => Value::Set(serde_json::from_slice(payload).map_err(EntryError::Set)?),
            Some(other) => return Err(EntryError::Type(other.to_owned())),
        };
        Ok(Self { value, expires })
    }

    pub fn is_expired(&self, now: Expiry) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// When the message with these headers expires.
pub fn expires(headers: &HeaderMap) -> Result<Option<Expiry>, EntryError> {
    let Some(text) = headers.get(EXPIRES) else { return Ok(None) };
    text.as_str().parse().map(|at| Some(Expiry(at))).map_err(|_| EntryError::Expires)
}

fn json<T: serde::Serialize>(texts: &T) -> Bytes {
    serde_json::to_vec(texts).expect("texts are always JSON").into()
}

impl Expiry {
    /// This instant.
    pub fn now() -> Self {
        Self(clock::now_ms())
    }

    /// Milliseconds since 1970; before that counts as then.
    pub fn at(milliseconds: i128) -> Self {
        Self(u64::try_from(milliseconds.max(0)).unwrap_or(u64::MAX))
    }

    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(clock::millis(time)))
    }

    /// Whole seconds from `now`, rounded up, at least one: what the server is told, who may end it
    /// later but not earlier.
    pub fn seconds_from(self, now: Self) -> u64 {
        self.0.saturating_sub(now.0).div_ceil(1000).max(1)
    }
}

/// Adds to a number as redis writes it: no sign but minus, no leading zeros, no spaces.
pub fn increment(text: &str, by: i32) -> Result<i32, NoNumber> {
    let number: i64 = text.parse().map_err(|_| NoNumber::Text)?;
    if number.to_string() != text {
        return Err(NoNumber::Text);
    }
    let sum = number.checked_add(by.into()).ok_or(NoNumber::Overflow)?;
    // The contract's answer has 32 bits.
    i32::try_from(sum).map_err(|_| NoNumber::Overflow)
}

/// The part of a list between two indices, both inclusive; negative ones count from the end.
pub fn range(mut items: Vec<String>, start: i32, stop: i32) -> Vec<String> {
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let start = from_beginning(start, length).max(0);
    let stop = from_beginning(stop, length).min(length - 1);
    if start > stop {
        return Vec::new();
    }
    items.truncate(stop as usize + 1);
    items.split_off(start as usize)
}

/// Returns the index from the beginning of a list for one that, if negative, counts from its end.
fn from_beginning(index: i32, length: i64) -> i64 {
    if index < 0 { length + i64::from(index) } else { index.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_as_they_were() {
        let texts = ["b".to_owned(), "a\n\"ü".to_owned()];
        for value in [
            Value::Text("x".into()),
            Value::Text(String::new()),
            Value::of_bytes(Bytes::from_static(&[0xff, 0])),
            Value::List(texts.to_vec()),
            Value::Set(texts.into()),
        ] {
            for expires in [None, Some(Expiry(1_700_000_000_123))] {
                let entry = Entry { value: value.clone(), expires };
                let (payload, headers) = entry.to_message();
                assert_eq!(Entry::from_message(&payload, &headers).unwrap(), entry);
            }
        }
    }

    #[test]
    fn what_others_wrote_into_the_bucket_is_read_or_named() {
        let read = |payload: &[u8], header: Option<(&'static str, &str)>| {
            let mut headers = HeaderMap::new();
            if let Some((name, value)) = header {
                headers.insert(name, value);
            }
            Entry::from_message(payload, &headers).map_err(|error| error.to_string())
        };
        assert_eq!(read(b"plain", None).unwrap().value, Value::Text("plain".into()));
        assert_eq!(read(&[0xff], None).unwrap_err(), "it is no UTF-8 text");
        assert!(read(b"{}", Some((TYPE, "list"))).unwrap_err().contains("no list"));
        assert!(read(b"[]", Some((TYPE, "hash"))).unwrap_err().contains("hash"));
        assert!(read(b"x", Some((EXPIRES, "soon"))).unwrap_err().contains(EXPIRES));
    }

    #[test]
    fn an_entry_ends_at_its_instant_and_the_server_never_ends_it_earlier() {
        let entry = Entry { value: Value::Text(String::new()), expires: Some(Expiry(1000)) };
        assert!(!entry.is_expired(Expiry(999)));
        assert!(entry.is_expired(Expiry(1000)));
        assert_eq!(Expiry(2001).seconds_from(Expiry(1000)), 2);
        assert_eq!(Expiry(1).seconds_from(Expiry(1000)), 1);
        assert_eq!(Expiry(u64::MAX).after(Duration::MAX), Expiry(u64::MAX));
    }

    #[test]
    fn numbers_are_those_of_redis() {
        assert_eq!(increment("41", 1), Ok(42));
        assert_eq!(increment("-5", -5), Ok(-10));
        for text in ["", "1.0", " 1", "+1", "007", "-0", "99999999999999999999", "x"] {
            assert_eq!(increment(text, 1), Err(NoNumber::Text), "{text:?}");
        }
        assert_eq!(increment("2147483647", 1), Err(NoNumber::Overflow));
        assert_eq!(increment("-2147483648", -1), Err(NoNumber::Overflow));
        assert_eq!(increment("9223372036854775807", 1), Err(NoNumber::Overflow));
        assert_eq!(increment("2147483648", -1), Ok(i32::MAX));
    }

    #[test]
    fn ranges_are_those_of_redis() {
        let items = || ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        for (start, stop, expected) in [
            (0, -1, "abcd"),
            (1, 2, "bc"),
            (-2, -1, "cd"),
            (0, 99, "abcd"),
            (-99, 0, "a"),
            (3, 3, "d"),
            (4, 9, ""),
            (2, 1, ""),
            (0, -5, ""),
            (i32::MIN, i32::MAX, "abcd"),
        ] {
            assert_eq!(range(items(), start, stop).concat(), expected, "{start}..={stop}");
        }
        assert_eq!(range(Vec::new(), 0, -1), Vec::<String>::new());
    }
}
