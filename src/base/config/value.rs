//! From the text of a setting to a checked value.
//!
//! Every source delivers text (JSON members are turned into text by [`super::file`]), so that one
//! parser decides for all of them what `yes` or `64M` means.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::connection;
use super::keys;
use super::origin::Problem;
use super::secret::Secret;
use super::settings::{Kind, STDERR};
use crate::lattice::answers::is_inbox_prefix;

/// A checked value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Secret(Secret),
    Integer(u64),
    Bool(bool),
    List(Vec<String>),
    Path(PathBuf),
}

impl fmt::Display for Value {
    /// Shows the value as `config show` does; secrets stay masked.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Secret(secret) => write!(f, "{secret}"),
            Value::Integer(number) => write!(f, "{number}"),
            Value::Bool(yes) => write!(f, "{yes}"),
            Value::List(items) => f.write_str(&items.join(",")),
            Value::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Reads the text as a value of this kind. Relative paths are taken from `dir`.
pub(super) fn parse(kind: &Kind, text: &str, dir: &Path) -> Result<Value, Problem> {
    // A password may begin or end with a blank; nothing else may.
    let trimmed = text.trim();
    match kind {
        Kind::Text => Ok(Value::Text(trimmed.to_owned())),
        Kind::LatticeName => check(trimmed, is_lattice_name, Problem::NotALatticeName),
        Kind::Token => check(trimmed, is_token, Problem::NotAToken),
        Kind::Subject => check(trimmed, |text| text.split('.').all(is_token), Problem::NotASubject),
        Kind::Servers => {
            connection::parse_servers(trimmed)?;
            Ok(Value::Text(trimmed.to_owned()))
        }
        Kind::Secret => Ok(Value::Secret(Secret::new(text))),
        Kind::Jwt => Ok(Value::Secret(Secret::new(trimmed))),
        Kind::Seed(wanted) => {
            keys::check_seed(trimmed, wanted)?;
            Ok(Value::Secret(Secret::new(trimmed)))
        }
        Kind::Integer { min, max } => {
            let number = trimmed.parse().map_err(|_| not_integer(trimmed))?;
            in_range(number, *min, *max, trimmed)
        }
        Kind::Bytes { min, max } => {
            let number = bytes(trimmed).ok_or_else(|| Problem::NotBytes(trimmed.to_owned()))?;
            in_range(number, *min, *max, trimmed)
        }
        Kind::BytesOrZero { min, max } => match bytes(trimmed) {
            None => Err(Problem::NotBytes(trimmed.to_owned())),
            Some(0) => Ok(Value::Integer(0)),
            Some(number) => in_range(number, *min, *max, trimmed),
        },
        Kind::Bool => {
            boolean(trimmed).map(Value::Bool).ok_or_else(|| Problem::NotBoolean(trimmed.to_owned()))
        }
        Kind::List => Ok(Value::List(list(trimmed))),
        Kind::ClusterKeys => checked_list(trimmed, keys::check_cluster_key),
        Kind::AccountKeys => checked_list(trimmed, keys::check_account_key),
        Kind::Directories => checked_list(trimmed, check_directory),
        Kind::InboxPrefixes => checked_list(trimmed, check_inbox_prefix),
        Kind::Address => {
            check(trimmed, |text| text.parse::<IpAddr>().is_ok(), Problem::NotAnAddress)
        }
        Kind::PathOrStderr if !kind.names_path(trimmed) => Ok(Value::Text(STDERR.to_owned())),
        Kind::Path | Kind::PathOrStderr | Kind::File => Ok(Value::Path(dir.join(trimmed))),
        Kind::Choice(words) => words
            .iter()
            .find(|word| word.eq_ignore_ascii_case(trimmed))
            .map(|word| Value::Text((*word).to_owned()))
            .ok_or_else(|| Problem::NotAChoice(trimmed.to_owned())),
    }
}

/// Reads a list of which every item is checked.
fn checked_list(text: &str, check: impl Fn(&str) -> Result<(), Problem>) -> Result<Value, Problem> {
    let items = list(text);
    items.iter().try_for_each(|item| check(item))?;
    Ok(Value::List(items))
}

fn check_directory(path: &str) -> Result<(), Problem> {
    if Path::new(path).is_absolute() { Ok(()) } else { Err(Problem::NotAbsolute(path.to_owned())) }
}

fn check_inbox_prefix(prefix: &str) -> Result<(), Problem> {
    if is_inbox_prefix(prefix) { Ok(()) } else { Err(Problem::NotAnInboxPrefix(prefix.to_owned())) }
}

/// Returns what a setting of this kind accepts, for people.
pub(super) fn accepted(kind: &Kind) -> String {
    match kind {
        Kind::Text | Kind::Secret => "a text".into(),
        Kind::Jwt => "a user JWT".into(),
        Kind::LatticeName => "letters, digits, `-` and `_`".into(),
        Kind::Token => "one token without dots, blanks, `*` and `>`".into(),
        Kind::Subject => "tokens joined by dots, without blanks, `*` and `>`".into(),
        Kind::Servers => "`host`, `host:port`, `nats://host:port` or `tls://host:port`, separated by commas".into(),
        Kind::Seed(kind) => format!("an nkey seed beginning with {}, 58 characters", keys::seed_prefix(kind)),
        Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
        Kind::Bytes { min, max } => {
            format!("a number of bytes from {min} to {max}, or one with K, M or G like 64M")
        }
        Kind::BytesOrZero { min, max } => {
            format!("0, or a number of bytes from {min} to {max}, or one with K, M or G like 64M")
        }
        Kind::Bool => "true or false, 1 or 0, yes or no, on or off, enabled or disabled".into(),
        Kind::List => "texts separated by commas, or a JSON array of strings".into(),
        Kind::ClusterKeys => {
            "public cluster keys (C…, 56 characters) separated by commas, or a JSON array of them".into()
        }
        Kind::Directories => "absolute paths separated by commas, or a JSON array of them".into(),
        Kind::InboxPrefixes => {
            "subjects without wildcards outside of wasmbus, wadm and $, separated by commas, or a JSON array of them"
                .into()
        }
        Kind::AccountKeys => {
            "public account keys (A…, 56 characters) separated by commas, or a JSON array of them".into()
        }
        Kind::Address => "an IP address such as 127.0.0.1, ::1, or 0.0.0.0 for all interfaces".into(),
        Kind::Path => "a path".into(),
        Kind::PathOrStderr => format!("a path, or {STDERR}"),
        Kind::File => "the path of a readable file".into(),
        Kind::Choice(words) => words.join(", "),
    }
}

/// Reads every way of saying yes and no that earlier hosts understood, including three joke words
/// one of them accepted: a file in the field may contain them.
fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "y" | "on" | "enabled" | "enable" => Some(true),
        "you betcha" | "yuppers" | "totes" => Some(true),
        "0" | "false" | "no" | "n" | "off" | "disabled" | "disable" => Some(false),
        _ => None,
    }
}

/// Splits at commas. Earlier hosts kept the blanks, so that `a, b` never matched `b`; we trim.
pub(super) fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// Reads `123`, `64K`, `64M`, `64MB`, `64MiB`; the units are powers of 1024.
fn bytes(text: &str) -> Option<u64> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

fn in_range(number: u64, min: u64, max: u64, text: &str) -> Result<Value, Problem> {
    if (min..=max).contains(&number) {
        Ok(Value::Integer(number))
    } else {
        Err(Problem::OutOfRange(text.to_owned()))
    }
}

/// Digits that do not fit and negative numbers are whole numbers too, just not ones we accept.
fn not_integer(text: &str) -> Problem {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        Problem::OutOfRange(text.to_owned())
    } else {
        Problem::NotInteger(text.to_owned())
    }
}

fn check(
    text: &str,
    holds: impl Fn(&str) -> bool,
    problem: impl Fn(String) -> Problem,
) -> Result<Value, Problem> {
    if holds(text) { Ok(Value::Text(text.to_owned())) } else { Err(problem(text.to_owned())) }
}

/// The name becomes part of subjects and of the bucket name, whose alphabet is the narrower one.
fn is_lattice_name(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn is_token(text: &str) -> bool {
    let forbidden = |c: char| matches!(c, '.' | '*' | '>') || c.is_whitespace() || c.is_control();
    !text.is_empty() && !text.contains(forbidden)
}
