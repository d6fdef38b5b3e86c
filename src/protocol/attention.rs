//! Items of a lattice that somebody should look at, what was said about them, and how they are
//! told.
//!
//! Every dashboard finds it out for itself; what people say about it, a [`Mark`], lies in the
//! bucket [`bucket`], signed by the host that took it, so that all dashboards agree. One of the
//! hosts with a dashboard tells it outside, as [`News`].

use serde::{Deserialize, Serialize};

use crate::{
    control::{request::HostRequest, types::Ack},
    lattice::control::Control,
    serde_null::null_as_default,
};

/// The longest time for which something is muted, in milliseconds: a week.
pub const MUTE_MS_MAX: u64 = 7 * 24 * 3_600_000;
/// How long an acknowledgement holds that nobody takes back, in milliseconds: it ends with what it
/// is about, or else after three days.
pub const ACK_MS: u64 = 3 * 24 * 3_600_000;
/// Bytes of a note.
pub const NOTE_BYTES_MAX: usize = 300;
/// The header of a webhook with its signature: `t=SECONDS,v1=HEX`, where HEX is the HMAC-SHA256 of
/// `SECONDS.BODY` with the secret of the settings.
pub const SIGNATURE_HEADER: &str = "Lattice-Signature";

const MARK: &str = "MARK_";

/// Returns the name of the bucket of a lattice.
pub fn bucket(lattice: &str) -> String {
    format!("LATTICEATTENTION_{lattice}")
}

/// The key of what was told to need attention and has not ceased to.
pub const TOLD: &str = "TOLD";

/// Returns the key of a mark in the bucket.
pub fn mark_key(key: &str) -> String {
    format!("{MARK}{key}")
}

/// Reads the key of a mark; `None` for another key.
pub fn parse_mark_key(key: &str) -> Option<&str> {
    key.strip_prefix(MARK)
}

/// The word of somebody about something that needs attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Said {
    /// Somebody looks after it.
    #[default]
    Ack,
    /// Nobody wants to hear of it.
    Mute,
}

/// A word about something that needs attention, as it lies in the bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mark {
    pub said: Said,
    pub at_ms: u64,
    /// It does not count after this moment.
    pub until_ms: u64,
    #[serde(deserialize_with = "null_as_default")]
    pub by: String,
    #[serde(deserialize_with = "null_as_default")]
    pub note: String,
}

/// Something that needs attention.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Item {
    /// Tells it from all others, on every host alike.
    #[serde(deserialize_with = "null_as_default")]
    pub key: String,
    /// `error` or `warning`.
    #[serde(deserialize_with = "null_as_default")]
    pub severity: String,
    #[serde(deserialize_with = "null_as_default")]
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// `host`, `actor`, `provider`, `link`, `application` or `lattice`.
    #[serde(deserialize_with = "null_as_default")]
    pub kind: String,
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub link_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
}

/// Asks a host what needs attention.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Ask {}

impl HostRequest for Ask {
    type Reply = Report;

    fn subject(host: String) -> Control {
        Control::ProbeAttention { host }
    }
}

/// All that needs attention, as the dashboard of a host sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    #[serde(deserialize_with = "null_as_default")]
    pub host_id: String,
    /// Worst first, muted ones last.
    #[serde(deserialize_with = "null_as_default")]
    pub items: Vec<Item>,
    /// The host that tells it outside, as far as this one knows.
    #[serde(deserialize_with = "null_as_default")]
    pub told_by: String,
}

/// Asks a host to note something about what needs attention.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MarkAttention {
    #[serde(deserialize_with = "null_as_default")]
    pub key: String,
    /// `None` takes back what was said.
    pub said: Option<Said>,
    /// How long it is muted, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
    #[serde(deserialize_with = "null_as_default")]
    pub note: String,
}

impl HostRequest for MarkAttention {
    type Reply = Ack;

    fn subject(host: String) -> Control {
        Control::MarkAttention { host }
    }
}

impl MarkAttention {
    /// Returns the mark that is to be noted; `None` if one is taken back, an error if it makes no
    /// sense.
    pub fn mark(&self, by: String, now_ms: u64) -> Result<Option<Mark>, String> {
        let is_key = |byte: u8| byte.is_ascii_hexdigit();
        if !(4..=64).contains(&self.key.len()) || !self.key.bytes().all(is_key) {
            return Err(format!(
                "{:?} is no key of something that needs attention; `host attention` lists the keys",
                self.key.chars().take(80).collect::<String>()
            ));
        }
        if self.note.len() > NOTE_BYTES_MAX {
            return Err(format!("the note has more than {NOTE_BYTES_MAX} bytes; say less"));
        }
        let Some(said) = self.said else { return Ok(None) };
        let span_ms = match said {
            Said::Ack => ACK_MS,
            Said::Mute => match self.for_ms {
                Some(0) => return Err("it is muted for some time; for_ms is 0".to_owned()),
                Some(ms) if ms > MUTE_MS_MAX => {
                    return Err("it can be muted for seven days at most".to_owned());
                }
                Some(ms) => ms,
                None => 3_600_000,
            },
        };
        let (note, until_ms) = (self.note.clone(), now_ms.saturating_add(span_ms));
        Ok(Some(Mark { said, at_ms: now_ms, until_ms, by, note }))
    }
}

/// The message that is told outside: on the subject `wasmbus.attention.{lattice}`, and to a
/// webhook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct News {
    /// Tells it from all others; news that are sent again have the same.
    pub id: String,
    /// `began` or `ended`.
    pub change: String,
    pub at_ms: u64,
    pub lattice: String,
    /// The host that tells it.
    pub host_id: String,
    pub item: Item,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_marks_are_told_from_others() {
        assert_eq!(parse_mark_key(&mark_key("ab12")), Some("ab12"));
        assert_eq!(parse_mark_key(TOLD), None);
        assert_eq!(bucket("default"), "LATTICEATTENTION_default");
    }

    #[test]
    fn a_mark_holds_for_its_time_and_makes_sense() {
        let ask = |key: &str, said, for_ms| MarkAttention {
            key: key.into(),
            said,
            for_ms,
            note: String::new(),
        };
        let until = |ask: &MarkAttention| {
            ask.mark("ann".into(), 1000).map(|mark| mark.map(|mark| mark.until_ms - 1000))
        };
        assert_eq!(until(&ask("3f2a", Some(Said::Mute), Some(5))), Ok(Some(5)));
        assert_eq!(until(&ask("3f2a", Some(Said::Mute), None)), Ok(Some(3_600_000)));
        assert_eq!(until(&ask("3f2a", Some(Said::Ack), Some(5))), Ok(Some(ACK_MS)));
        assert_eq!(until(&ask("3f2a", None, None)), Ok(None));
        for wrong in [
            ask("", Some(Said::Ack), None),
            ask("a.b>", Some(Said::Ack), None),
            ask("3f2a", Some(Said::Mute), Some(0)),
            ask("3f2a", Some(Said::Mute), Some(u64::MAX)),
            MarkAttention { note: "x".repeat(1000), ..ask("3f2a", Some(Said::Ack), None) },
        ] {
            assert!(until(&wrong).is_err(), "{wrong:?}");
        }
        let read: MarkAttention = serde_json::from_str(r#"{"key":"ab","said":"mute"}"#).unwrap();
        assert_eq!(read.said, Some(Said::Mute));
    }
}
