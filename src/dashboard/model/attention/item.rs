//! Something that needs attention: how bad it is, its words, and the key that tells it from others.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    mask::{HIDDEN, Mask},
    model::fix::Fix,
};
use lattice_protocol::{
    attention::{Item, Mark, Said},
    errors,
};

/// Bytes of a key: enough for so few.
const KEY_BYTES: usize = 5;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    Error,
    Warning,
}

/// The kind of what needs attention, the most pressing first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Nothing here is of now.
    Connection,
    Calls,
    Loss,
    /// Something does not work, whoever needs it.
    Fault,
    Configuration,
    /// Something did not start, and perhaps need not.
    Start,
}

/// Something that somebody should look at.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Attention {
    pub severity: Grade,
    pub text: String,
    /// The words of the text that name what it is about; empty if none do.
    pub subject: String,
    /// How to deal with it; commands stand between backticks.
    pub advice: Option<String>,
    /// The button that begins to mend it.
    pub fix: Option<Fix>,
    /// `host`, `actor`, `provider`, `link`, `application` or `lattice`.
    pub kind: &'static str,
    /// Of the host, the actor or the provider; the name of the application.
    pub id: String,
    pub link_name: String,
    pub since_ms: Option<u64>,
    /// Tells it from all others, on every host alike; names it in `/api/v1/attention/{key}`.
    pub key: String,
    /// The word of somebody about it.
    pub mark: Option<Marked>,
    /// Stands for its text in the key, if that may change while it lasts.
    #[serde(skip)]
    pub(super) topic: Option<String>,
    /// The order among those that are as bad.
    #[serde(skip)]
    pub(super) rank: Rank,
    /// How many bytes of the text are ours; what follows was said by others.
    #[serde(skip)]
    ours: usize,
}

/// The word of somebody about something that needs attention.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Marked {
    /// `ack` or `mute`.
    #[schema(value_type = String)]
    pub said: Said,
    pub at_ms: u64,
    /// It ends then by itself.
    pub until_ms: u64,
    pub by: String,
    pub note: String,
}

impl From<&Mark> for Marked {
    fn from(mark: &Mark) -> Self {
        let (by, note) = (mark.by.clone(), mark.note.clone());
        Self { said: mark.said, at_ms: mark.at_ms, until_ms: mark.until_ms, by, note }
    }
}

impl From<Attention> for Item {
    fn from(attention: Attention) -> Self {
        let Attention { severity, text, advice, kind, id, link_name, since_ms, key, mark, .. } =
            attention;
        let severity = match severity {
            Grade::Error => "error",
            Grade::Warning => "warning",
        };
        let mark = mark.map(|Marked { said, at_ms, until_ms, by, note }| Mark {
            said,
            at_ms,
            until_ms,
            by,
            note,
        });
        let (severity, kind) = (severity.to_owned(), kind.to_owned());
        Self { key, severity, text, advice, kind, id, link_name, since_ms, mark }
    }
}

impl Mask for Attention {
    fn mask(&mut self) {
        if let Some(mark) = &mut self.mark {
            for text in [&mut mark.by, &mut mark.note] {
                if !text.is_empty() {
                    HIDDEN.clone_into(text);
                }
            }
        }
        if self.ours < self.text.len() {
            self.text.truncate(self.ours);
            self.text.push_str(": ");
            self.text.push_str(HIDDEN);
        }
    }
}

impl Attention {
    pub(super) fn new(severity: Grade, kind: &'static str, id: &str, text: String) -> Self {
        let (ours, id) = (text.len(), id.to_owned());
        Self {
            severity,
            text,
            subject: String::new(),
            advice: None,
            fix: None,
            kind,
            id,
            link_name: String::new(),
            since_ms: None,
            key: String::new(),
            mark: None,
            topic: None,
            rank: if severity == Grade::Error { Rank::Fault } else { Rank::Configuration },
            ours,
        }
    }

    pub(super) fn rank(mut self, rank: Rank) -> Self {
        self.rank = rank;
        self
    }

    /// Returns its key: numbers in its text may change while it lasts, and so may what others say.
    pub fn stable_key(&self) -> String {
        let ours = self.text[..self.ours].split(|letter: char| letter.is_ascii_digit());
        let ours: Vec<&str> = ours.filter(|text| !text.is_empty()).collect();
        let ours = self.topic.clone().unwrap_or_else(|| ours.join("#"));
        let all = format!("{}\n{}\n{}\n{ours}", self.kind, self.id, self.link_name);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, all.as_bytes());
        data_encoding::HEXLOWER.encode(&digest.as_ref()[..KEY_BYTES])
    }

    /// Whether nobody wants to hear of it.
    pub fn is_muted(&self) -> bool {
        self.mark.as_ref().is_some_and(|mark| mark.said == Said::Mute)
    }

    /// Adds what somebody else said about it.
    pub(super) fn said(mut self, words: Option<&str>) -> Self {
        if let Some(words) = words {
            self.text.push_str(": ");
            self.text.push_str(&errors::plain(words));
        }
        self
    }

    pub(super) fn about(mut self, subject: &str) -> Self {
        self.subject = subject.to_owned();
        self
    }

    pub(super) fn mended_by(mut self, fix: Fix) -> Self {
        self.fix = Some(fix);
        self
    }

    pub(super) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_while_something_lasts() {
        let ended = |times: u32, said: &str| {
            let text = format!("Provider x ended {times} times in a row");
            Attention::new(Grade::Error, "provider", "V", text).said(Some(said)).stable_key()
        };
        assert_eq!(ended(3, "exit 1"), ended(4, "exit 2"));
        let other = Attention::new(Grade::Error, "provider", "V", "Provider x fails".into());
        assert_ne!(ended(3, "exit 1"), other.stable_key());
        assert_eq!(other.stable_key().len(), 2 * KEY_BYTES);
    }
}
