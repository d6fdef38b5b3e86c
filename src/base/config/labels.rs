//! The labels of this host, from three eras of naming them.
//!
//! `HOST_machine=second` gives `machine` (key lower-cased), `WASMCLOUD_LABEL_Zone=a` gives `Zone`
//! (case kept), `--label rack=7` gives `rack`; a later one of the three wins. `HOST_CONFIG` starts
//! with the same letters but is the setting `host_config`: earlier hosts made a label `config` of
//! it by accident, which told every client a path of the machine; we do not.
//!
//! The core labels say what the machine is. Auctions trust them to place native providers, so
//! nobody may claim another architecture, neither at start nor over the control interface. Labels
//! travel in every ping, inventory and heartbeat, so their number and sizes have bounds. [`check`]
//! is the rule for both ways of setting one.

use std::collections::BTreeMap;

use super::origin::Origin;
use super::settings::{ENV_HOST_CONFIG, ENV_HOST_LABEL, ENV_LABEL};
use super::sources::Layers;

/// Labels a host may have, the core ones included.
pub const LABELS_MAX: usize = 64;
/// Bytes of the key of a label.
pub const KEY_BYTES_MAX: usize = 128;
/// Bytes of the value of a label.
pub const VALUE_BYTES_MAX: usize = 1024;
/// The prefix of the keys of core labels.
const CORE: &str = "hostcore.";

/// Why a label cannot be set or removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    #[error("a label needs a key")]
    NoKey,
    #[error("the key of the label has {0} bytes, it may have {KEY_BYTES_MAX}")]
    LongKey(usize),
    #[error("the value of label {key:?} has {bytes} bytes, it may have {VALUE_BYTES_MAX}")]
    LongValue { key: String, bytes: usize },
    #[error("label {0:?}: keys are visible characters without = and blanks at their ends")]
    BadKey(String),
    #[error(
        "the value of label {0:?} has line breaks, control characters or marks that turn the direction of text"
    )]
    BadValue(String),
    #[error(
        "label {0:?} is a core label: it says what the machine is, and cannot be set or removed"
    )]
    Core(String),
    #[error("the host has {LABELS_MAX} labels, the most it may have; remove one first")]
    TooMany,
    #[error(
        "the labels of the host would have {bytes} bytes, more than the {bytes_max} that messages about it have room for; \
         remove one first, or raise max_payload in the NATS server's configuration"
    )]
    NoRoom { bytes: usize, bytes_max: usize },
}

/// Returns the labels that are kept of those that another host tells: what a host may have.
pub fn kept<'a>(all: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    let fit =
        all.filter(|(key, value)| key.len() <= KEY_BYTES_MAX && value.len() <= VALUE_BYTES_MAX);
    fit.take(LABELS_MAX).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Whether a label of this key says what the machine is.
pub fn is_core(key: &str) -> bool {
    key.get(..CORE.len()).is_some_and(|start| start.eq_ignore_ascii_case(CORE))
}

/// Whether a label may be set: by the settings, or while the host runs.
pub fn check(key: &str, value: &str) -> Result<(), LabelError> {
    check_key(key)?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(LabelError::LongValue { key: key.to_owned(), bytes: value.len() });
    }
    if !value.chars().all(is_shown) {
        return Err(LabelError::BadValue(key.to_owned()));
    }
    Ok(())
}

/// Whether a label of this key may be set or removed.
pub fn check_key(key: &str) -> Result<(), LabelError> {
    if key.is_empty() {
        return Err(LabelError::NoKey);
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(LabelError::LongKey(key.len()));
    }
    if key.contains('=') || key.trim() != key || !key.chars().all(is_shown) {
        return Err(LabelError::BadKey(key.to_owned()));
    }
    if is_core(key) { Err(LabelError::Core(key.to_owned())) } else { Ok(()) }
}

/// Whether a character stands in a line as itself: no control character, no line break, nothing
/// that turns the direction of what follows.
fn is_shown(character: char) -> bool {
    let turns = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !character.is_control() && !turns && !matches!(character, '\u{2028}' | '\u{2029}' | '\u{61c}')
}

/// Labels by key, each with the place it came from.
pub(super) type Labels = BTreeMap<String, (String, Origin)>;

/// Merges the labels of all sources and adds the core labels.
pub(super) fn collect(
    layers: &Layers,
    flags: &[(String, String)],
    warnings: &mut Vec<String>,
) -> Labels {
    let mut labels = Labels::new();
    let variables = layers.variables();
    for (name, variable) in &variables {
        let Some(key) = name.strip_prefix(ENV_HOST_LABEL).filter(|key| !key.is_empty()) else {
            continue;
        };
        if *name == ENV_HOST_CONFIG {
            continue;
        }
        let key = key.to_lowercase();
        if let Some((_, first)) = labels.get(&key) {
            warnings
                .push(format!("{} is ignored: label {key:?} comes from {first}", variable.origin));
            continue;
        }
        labels.insert(key, (variable.value.clone(), variable.origin.clone()));
    }
    for (name, variable) in &variables {
        if let Some(key) = name.strip_prefix(ENV_LABEL).filter(|key| !key.is_empty()) {
            labels.insert(key.to_owned(), (variable.value.clone(), variable.origin.clone()));
        }
    }
    for (key, value) in flags {
        let flag = Origin::Flag("--label".to_owned());
        if let Some((old, origin)) = labels.insert(key.clone(), (value.clone(), flag))
            && old != *value
        {
            warnings.push(format!("label {key:?} of {origin} is overruled by flag --label"));
        }
    }
    let core = core();
    labels.retain(|key, (value, origin)| match check(key, value) {
        Ok(()) => true,
        // A host that is told what it is says nothing wrong.
        Err(LabelError::Core(_)) if core.iter().any(|(name, own)| name == key && own == value) => {
            false
        }
        Err(error) => {
            warnings.push(format!("{origin} is ignored: {error}"));
            false
        }
    });
    while labels.len() > LABELS_MAX - core.len() {
        if let Some((key, (_, origin))) = labels.pop_last() {
            warnings.push(format!(
                "label {key:?} of {origin} is ignored: a host may have {LABELS_MAX} labels"
            ));
        }
    }
    labels.extend(core.map(|(key, value)| (key.to_owned(), (value.to_owned(), Origin::Default))));
    labels
}

/// Returns the core labels of this machine, in the terms of the compiler's target.
fn core() -> [(&'static str, &'static str); 3] {
    use std::env::consts::{ARCH, FAMILY, OS};
    [("hostcore.arch", ARCH), ("hostcore.os", OS), ("hostcore.osfamily", FAMILY)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_a_bounded_visible_key_and_value_and_never_says_what_the_machine_is() {
        let long_key = "k".repeat(KEY_BYTES_MAX + 1);
        let long_value = "v".repeat(VALUE_BYTES_MAX + 1);
        for (key, value) in [
            ("machine", "second"),
            ("rack 7", ""),
            ("überall", "a=b, c"),
            (&long_key[1..], &long_value[1..]),
            ("hostcores", "x"),
        ] {
            assert_eq!(check(key, value), Ok(()), "{key:?}={value:?}");
        }
        for (key, value) in [
            ("", "x"),
            (&long_key, "x"),
            ("k", &long_value),
            ("a=b", "x"),
            (" a", "x"),
            ("a\nb", "x"),
            ("a\u{1b}[31m", "x"),
            ("a", "x\r\ny"),
            ("a", "x\u{202e}y"),
            ("a", "x\u{2028}y"),
            ("a\u{85}b", "x"),
            ("hostcore.arch", "riscv"),
            ("hostcore.new", "x"),
            ("HOSTCORE.os", "x"),
        ] {
            assert!(check(key, value).is_err(), "{key:?}={value:?}");
        }
    }
}
