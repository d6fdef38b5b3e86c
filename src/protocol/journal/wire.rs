//! How the lines of a host are asked for: JSON on the control interface, on `probe.{host}.logs`.
//!
//! An [`Ask`] is answered with one or more [`Part`]s on its reply subject. First comes the past, in
//! as many parts as it takes; the last of them is marked [`Mark::Past`], and without `follow` that
//! is all. With it, what is said from then on comes as [`Mark::Live`], until the one who asked
//! stops it or has not renewed it for [`LEASE`]; then comes [`Mark::Over`], which also ends an ask
//! that was refused.
//!
//! Renewing is asking again with the same `follow`: a host that knows it answers [`Mark::Kept`],
//! one that does not (it was started again, or the lease ran out) begins anew, after the last line
//! the asker has seen.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Line;
use crate::{
    control::request::HostRequest,
    lattice::control::Control,
    serde_null::{is_zero, null_as_default},
};

/// How long a follower is served that nobody renews.
pub const LEASE: Duration = Duration::from_secs(15);
/// How often to renew: one renewal may be lost.
pub const RENEW: Duration = Duration::from_secs(5);

/// The body of a request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ask {
    /// Public key of an actor or a provider.
    pub entity: String,
    /// Lines of the past to begin with.
    #[serde(default, deserialize_with = "null_as_default")]
    pub tail: u64,
    /// Names the follower, if what comes is wanted as well; any text that nobody else uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<String>,
    /// How long to be served without a renewal, in milliseconds; [`LEASE`] at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// Nothing more is wanted.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub stop: bool,
    /// The journal and the number of the last line that was seen of it: the past then is what came
    /// after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
}

impl Ask {
    /// How long to serve whoever asks so.
    pub fn lease(&self) -> Duration {
        self.lease_ms.map_or(LEASE, |ms| LEASE.min(Duration::from_millis(ms)))
    }
}

impl HostRequest for Ask {
    type Reply = Part;

    fn subject(host: String) -> Control {
        Control::ProbeLogs { host }
    }
}

/// How far somebody has read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub life: String,
    pub number: u64,
}

/// A part of the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Part {
    #[serde(deserialize_with = "null_as_default")]
    pub host_id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub entity: String,
    /// Tells the numbers of one start of a host from those of the next.
    #[serde(deserialize_with = "null_as_default")]
    pub life: String,
    pub mark: Mark,
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<Line>,
    /// Lines before these that are lost: they came faster than they were taken.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub lost: u64,
    /// The number of the last line so far.
    #[serde(deserialize_with = "null_as_default")]
    pub last: u64,
    /// Why it is over, if nobody wanted that.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// The kind of a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// Lines of the past; more of it follows.
    More,
    /// The last of the past.
    Past,
    /// Lines that were just said.
    Live,
    /// The follower is known and goes on.
    Kept,
    /// Nothing more comes.
    #[default]
    Over,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ask_needs_no_more_than_whom_it_is_about() {
        let ask: Ask = serde_json::from_str(r#"{"entity":"MA","tail":null,"stop":null}"#).unwrap();
        assert!(ask.tail == 0 && ask.follow.is_none() && !ask.stop && ask.seen.is_none());
        assert_eq!(serde_json::to_string(&ask).unwrap(), r#"{"entity":"MA","tail":0}"#);
    }

    #[test]
    fn a_part_is_read_back() {
        let line = Line { number: 3, at_us: 5, text: "x".into(), ..Line::default() };
        let part =
            Part { host_id: "N".into(), mark: Mark::Live, lines: vec![line], ..Part::default() };
        let text = serde_json::to_string(&part).unwrap();
        assert!(text.contains(r#""mark":"live""#) && text.contains(r#""level":"info""#), "{text}");
        assert_eq!(serde_json::from_str::<Part>(&text).unwrap(), part);
        // The answer of a host that does not know the request.
        let refused: Part = serde_json::from_str(r#"{"accepted":false,"error":"no"}"#).unwrap();
        assert_eq!((refused.mark, &*refused.error), (Mark::Over, "no"));
    }
}
