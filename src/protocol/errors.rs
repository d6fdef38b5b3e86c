//! Errors as people read them, and the two kinds that decide the exit code of a command.

/// Wrong use: the exit code says so.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The time is over and nobody knows what came of it; the text says how to find out.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OutcomeUnknown(pub String);

/// An error in several lines. Where they are shown each is escaped on its own, so that a line break
/// of a stranger begins no line.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Lines(pub Vec<String>);

/// An error with its causes, as one sentence. A cause whose text the sentence already holds is not
/// repeated, and numbers of the operating system are left out ([`plain`]).
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    plain(&text)
}

/// Returns a text without the numbers that the operating system has for errors: the words before
/// `(os error 98)` say the same.
pub fn plain(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                plain.push_str(rest);
            }
            _ => {
                plain.push_str(" (os error ");
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn causes_follow_and_are_not_repeated() {
        let chained = Layer("read the file", Some(Box::new(Layer("no such file", None))));
        assert_eq!(chain(&chained), "read the file: no such file");
        let repeated = Layer("read: no such file", Some(Box::new(Layer("no such file", None))));
        assert_eq!(chain(&repeated), "read: no such file");
    }

    #[test]
    fn numbers_of_the_operating_system_are_left_out() {
        for (text, expected) in [
            (
                "cannot listen: in use (os error 98); use another",
                "cannot listen: in use; use another",
            ),
            ("a (os error 2): b (os error 13)", "a: b"),
            ("an (os error is told)", "an (os error is told)"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(plain(text), expected);
        }
    }
}
