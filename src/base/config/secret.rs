//! A text nobody may read by accident: seeds, passwords, tokens, JWTs.
//!
//! `Debug` and `Display` print a mask, so a secret may sit in any struct that derives `Debug` and
//! may reach a log line without harm. The text leaves only through [`Secret::expose`], which is
//! easy to search for.

use std::fmt;

use zeroize::Zeroizing;

/// Length of every nkey seed; only texts of this length may show their two type letters.
const SEED_LENGTH: usize = 58;

/// A secret text whose `Debug` and `Display` never show it, and whose memory is overwritten when it
/// is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Returns the text itself. Callers must not log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Secret {
    /// Shows the type letters of an nkey seed (`SC… (58 characters)`), which are no secret and tell
    /// the reader which kind of seed is in use. Of anything else not even the length is shown: it
    /// helps to guess a short password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_seed = self.0.len() == SEED_LENGTH
            && self.0.starts_with('S')
            && self.0.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        if is_seed {
            write!(f, "{}… ({SEED_LENGTH} characters)", &self.0[..2])
        } else {
            f.write_str("****")
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_form_of_printing_shows_the_text() {
        let password = Secret::new("hunter2");
        assert_eq!(format!("{password} {password:?}"), "**** Secret(****)");
        assert_eq!(password.expose(), "hunter2");
    }

    #[test]
    fn a_seed_shows_its_kind_only() {
        let seed = nkeys::KeyPair::new_cluster().seed().expect("a new key has a seed");
        assert_eq!(Secret::new(seed).to_string(), "SC… (58 characters)");
    }

    #[test]
    fn a_multibyte_text_of_seed_length_is_masked() {
        assert_eq!(Secret::new(format!("S{}a", "é".repeat(28))).to_string(), "****");
    }
}
