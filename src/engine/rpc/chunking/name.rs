//! The name of a payload's object, and where its metadata is.

use base64::{Engine as _, engine::general_purpose::URL_SAFE};

/// The name of a payload's object. Invocation ids come from strangers; a name holds only what may
/// be in a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadName(pub(super) String);

/// The id of an invocation is none that an object may be named after.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the invocation id has characters no object name may have")]
pub struct BadName;

impl PayloadName {
    /// The object of a call's payload.
    pub fn of_call(invocation_id: &str) -> Result<Self, BadName> {
        Self::parse(invocation_id)
    }

    /// The object of an answer.
    pub fn of_answer(invocation_id: &str) -> Result<Self, BadName> {
        Self::parse(&format!("{invocation_id}-r"))
    }

    fn parse(text: &str) -> Result<Self, BadName> {
        let is_plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_=/.-".contains(&b));
        if text.is_empty() || text.len() > 128 || !is_plain {
            return Err(BadName);
        }
        Ok(Self(text.to_owned()))
    }

    /// Where the metadata is, of readers since 2023 and of those before.
    pub(super) fn metadata_subjects(&self, bucket: &str) -> [String; 2] {
        let name = &self.0;
        [
            format!("$O.{bucket}.M.{}", URL_SAFE.encode(name)),
            format!("$O.{bucket}.M.{}", name.replace('.', "_")),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_their_subject_are_refused() {
        let name = PayloadName::of_answer("0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b").unwrap();
        assert_eq!(name.0, "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b-r");
        for bad in ["", "a b", "a>", "a*", "a\r\nPUB", &"x".repeat(200)] {
            assert_eq!(PayloadName::of_call(bad), Err(BadName), "{bad:?}");
        }
        assert_eq!(
            PayloadName::parse("a.b").unwrap().metadata_subjects("d"),
            ["$O.d.M.YS5i", "$O.d.M.a_b"]
        );
    }
}
