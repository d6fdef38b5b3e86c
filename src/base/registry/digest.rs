//! SHA-256 digests as registries write them: `sha256:` and 64 lower-case hex digits.
//!
//! A [`Digest`] can only be made from such a text or from bytes, so it is safe as the name of a
//! file. Other algorithms are allowed by the OCI specification and used by nobody we know; images
//! with such are refused by name.

use std::fmt;

use data_encoding::HEXLOWER;

use lattice_protocol::identity::digest::sha256;

const PREFIX: &str = "sha256:";

/// The name of some content.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

impl Digest {
    /// Reads `sha256:…`; anything else is none.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix(PREFIX)?;
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (hex.len() == 64 && hex.bytes().all(digit)).then(|| Self(hex.to_owned()))
    }

    /// Computes the digest of some content.
    pub fn of(content: &[u8]) -> Self {
        Self(HEXLOWER.encode(&sha256(content)))
    }

    /// The digits alone.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_that_may_name_a_file_are_read() {
        let empty = Digest::of(b"");
        assert_eq!(empty.hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(Digest::parse(&empty.to_string()), Some(empty.clone()));
        for wrong in [
            "",
            "sha256:",
            "sha256:../../etc/passwd",
            &empty.to_string().to_uppercase(),
            empty.hex(),
        ] {
            assert_eq!(Digest::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Digest::parse(&format!("sha512:{}", empty.hex())), None);
    }
}
