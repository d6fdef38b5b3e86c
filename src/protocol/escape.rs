//! Makes strangers' text harmless where it leaves this program for a person: in the log and on a
//! terminal.
//!
//! Names, labels, references, subjects and answers come from actors, hosts and registries of
//! others. Inside the host they stay as they came. Each sink escapes them once, right before they
//! leave: the outlet of the log, the text of commands and their notes. So nothing is escaped twice,
//! and JSON of the API stays as it is.
//!
//! An escape is written as in JSON (`\n`, `\u001b`): a line of JSON with escapes is still the same
//! JSON.

use std::{borrow::Cow, fmt::Write as _};

/// Whether a terminal or a reader of lines would obey this character instead of showing it:
/// controls of ASCII and of Latin-1, line and paragraph separators, and marks that change the
/// direction of a text.
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text on one line, with nothing in it that is obeyed.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_obeyed)
}

/// The text with its line breaks and tabs, and nothing else in it that is obeyed.
pub fn block(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_obeyed(c) && !matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, is_harmful: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !is_harmful(c) => safe.push(c),
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            // All of them have four digits at most; writing to a string does not fail.
            c => drop(write!(safe, "\\u{:04x}", u32::from(c))),
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_obeyed_is_left_on_a_line() {
        for (text, safe) in [
            ("plain, ä, 日本, 👍", "plain, ä, 日本, 👍"),
            ("a\nb\r\nc\td", "a\\nb\\r\\nc\\td"),
            ("\u{1b}]0;title\u{7}", "\\u001b]0;title\\u0007"),
            ("\u{9b}2J \u{7f} \u{85} \0", "\\u009b2J \\u007f \\u0085 \\u0000"),
            (
                "\u{202e}gnp\u{202c} \u{2066}x\u{2069} \u{200f}\u{61c}",
                "\\u202egnp\\u202c \\u2066x\\u2069 \\u200f\\u061c",
            ),
            ("x\u{2028}y\u{2029}z", "x\\u2028y\\u2029z"),
        ] {
            assert_eq!(line(text), safe);
            assert!(!line(text).contains(is_obeyed), "{text:?}");
            assert_eq!(line(&line(text)), safe, "what is safe stays as it is");
        }
    }

    #[test]
    fn a_block_keeps_its_lines() {
        assert_eq!(block("a\n\tb\u{1b}[2J\rc"), "a\n\tb\\u001b[2J\\rc");
    }

    #[test]
    fn escaped_json_is_the_same_json() {
        let value = serde_json::json!({ "na\u{9b}me": "x\u{202e}\u{1b}\n\u{2028}y" });
        for written in [value.to_string(), format!("{value:#}")] {
            let safe = block(&written);
            assert!(!safe.contains(|c| is_obeyed(c) && c != '\n'), "{safe:?}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
        }
    }
}
