//! Text for a terminal, in which only codes of our own can be.

use std::ops::Add;

use lattice_protocol::escape;

/// A piece of text whose strangers' words were escaped: nothing in it is obeyed by a terminal but
/// the codes of our own tones, which [`super::Tone::paint`] puts around text that is escaped
/// already.
///
/// Plain strings become one with `into`, as one line; pieces are joined with `+`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// Text with its line breaks.
    pub fn block(text: &str) -> Self {
        Self(escape::block(text).into_owned())
    }

    /// Text that a tone has put its codes around; what is inside was escaped.
    pub(super) fn painted(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(escape::line(text).into_owned())
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl<T: Into<Text>> Add<T> for Text {
    type Output = Self;

    fn add(mut self, more: T) -> Self {
        self.0.push_str(&more.into().0);
        self
    }
}

/// A word as a shell takes it for one.
pub fn quoted(word: &str) -> String {
    match word.contains(char::is_whitespace) {
        true if word.contains('\'') => format!("{word:?}"),
        true => format!("'{word}'"),
        false => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::Tone;

    #[test]
    fn a_word_with_blanks_is_quoted() {
        for (word, told) in
            [("echo", "echo"), ("KV counter", "'KV counter'"), ("it's me", "\"it's me\"")]
        {
            assert_eq!(quoted(word), told);
        }
    }

    #[test]
    fn only_our_own_codes_reach_a_terminal() {
        let evil = "\u{1b}[31mred\u{1b}]0;title\u{7}\n\u{9b}2J\u{202e}";
        let text = Tone::Good.paint(evil) + " " + evil + Text::block(evil);
        let (start, end) = ("\u{1b}[32m", "\u{1b}[0m");
        assert!(text.as_str().starts_with(start), "{text:?}");
        let rest = text.as_str().replacen(start, "", 1).replacen(end, "", 1);
        assert_eq!(
            rest.matches(escape::is_obeyed).collect::<String>(),
            "\n",
            "the line break of the block: {rest:?}"
        );
    }
}
