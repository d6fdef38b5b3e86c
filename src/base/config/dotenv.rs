//! Reads dotenv files as shells and docker compose do.
//!
//! * `export NAME=value` is `NAME=value`.
//! * `'single quotes'` keep everything; `"double quotes"` know `\n`, `\r`, `\t`, `\"`, `\\` and
//!   `\$`. Both may span lines.
//! * Without quotes the value ends at a `#` after a blank, and blanks around it are not part of it.
//!
//! A `$NAME` is not replaced: passwords hold dollar signs, and nothing that sets up a host needs
//! it.

/// The content of one line, or of a quoted value over several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Pair {
        name: String,
        value: String,
    },
    /// A quote without its partner, or something behind the second one.
    WronglyQuoted {
        name: String,
    },
    NoPair,
}

/// Returns the entries with the numbers of their first lines, which begin at 1. No content makes it
/// fail.
pub(super) fn parse(text: &str) -> Vec<(usize, Entry)> {
    let lines: Vec<&str> = text.trim_start_matches('\u{feff}').lines().collect();
    let mut entries = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let (entry, taken) = entry(&lines[at..]);
        entries.extend(entry.map(|entry| (at + 1, entry)));
        at += taken;
    }
    entries
}

/// Reads the first entry of these lines; returns how many of them it takes, at least one.
fn entry(lines: &[&str]) -> (Option<Entry>, usize) {
    let line = lines[0].trim();
    if line.is_empty() || line.starts_with('#') {
        return (None, 1);
    }
    let line = line
        .strip_prefix("export")
        .filter(|rest| rest.starts_with(char::is_whitespace))
        .unwrap_or(line);
    let pair = line.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
    let Some((name, value)) =
        pair.filter(|(name, _)| !name.is_empty() && !name.contains(char::is_whitespace))
    else {
        return (Some(Entry::NoPair), 1);
    };
    let name = name.to_owned();
    let Some(quote) = value.chars().next().filter(|first| matches!(first, '"' | '\'')) else {
        return (Some(Entry::Pair { name, value: unquoted(value).to_owned() }), 1);
    };
    let rest = std::iter::once(&value[1..]).chain(lines[1..].iter().copied());
    match quoted(quote, rest) {
        Some((value, taken)) => (Some(Entry::Pair { name, value }), taken),
        None => (Some(Entry::WronglyQuoted { name }), 1),
    }
}

fn unquoted(value: &str) -> &str {
    let comment = value.match_indices('#').map(|(at, _)| at).find(|at| {
        let before = &value[..*at];
        before.is_empty() || before.ends_with(char::is_whitespace)
    });
    value[..comment.unwrap_or(value.len())].trim_end()
}

/// Reads up to the second quote, behind which only a comment may stand; returns the value and how
/// many lines it takes.
fn quoted<'a>(quote: char, lines: impl Iterator<Item = &'a str>) -> Option<(String, usize)> {
    let mut value = String::new();
    for (index, line) in lines.enumerate() {
        if index > 0 {
            value.push('\n');
        }
        let mut chars = line.chars();
        while let Some(char) = chars.next() {
            match char {
                char if char == quote => {
                    let behind = chars.as_str().trim_start();
                    return (behind.is_empty() || behind.starts_with('#'))
                        .then_some((value, index + 1));
                }
                '\\' if quote == '"' => match chars.next() {
                    Some('n') => value.push('\n'),
                    Some('r') => value.push('\r'),
                    Some('t') => value.push('\t'),
                    Some(plain @ ('"' | '\\' | '$' | '`')) => value.push(plain),
                    Some(other) => value.extend(['\\', other]),
                    None => value.push('\\'),
                },
                other => value.push(other),
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_mean_what_they_mean_to_a_shell() {
        for (line, value) in [
            ("X=core", "core"),
            ("X=\"core\"", "core"),
            ("X='core'", "core"),
            ("export X=core", "core"),
            ("  export\tX = 'a b'  # why", "a b"),
            ("X=machine 1", "machine 1"),
            ("X=\"machine 1\" # why", "machine 1"),
            ("X=a # why", "a"),
            ("X=a#b", "a#b"),
            ("X=# nothing", ""),
            ("X=", ""),
            ("X=\"\"", ""),
            ("X=a=b", "a=b"),
            ("X=\"a # b\"", "a # b"),
            (r#"X="say \"yes\" \$HOME \\ \d""#, "say \"yes\" $HOME \\ \\d"),
            (r"X='a\nb'", r"a\nb"),
            (r#"X="a\nb""#, "a\nb"),
            ("X=it's", "it's"),
            ("X=p$ss", "p$ss"),
            ("X='one\ntwo'", "one\ntwo"),
            ("X=\"one\ntwo\"", "one\ntwo"),
        ] {
            let pair = Entry::Pair { name: "X".into(), value: value.into() };
            assert_eq!(parse(line), [(1, pair)], "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_takes_no_other_line_with_it() {
        let wrong = Entry::WronglyQuoted { name: "X".into() };
        let good = Entry::Pair { name: "Y".into(), value: "1".into() };
        for line in ["X=\"core", "X='core", "X=\"a\" b", "X=\"a\"b", "export X='it's"] {
            assert_eq!(
                parse(&format!("\n{line}\nY=1")),
                [(2, wrong.clone()), (3, good.clone())],
                "{line}"
            );
        }
        for line in ["no pair", "=x", "a b=c", "export", "export =x"] {
            assert_eq!(
                parse(&format!("# why\n{line}\nY=1")),
                [(2, Entry::NoPair), (3, good.clone())],
                "{line}"
            );
        }
    }
}
