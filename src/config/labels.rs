//! The labels of this host, from three eras of naming them.
//!
//! `HOST_machine=second` gives `machine` (key lower-cased), `WASMCLOUD_LABEL_Zone=a` gives `Zone` (case kept),
//! `--label rack=7` gives `rack`; a later one of the three wins. `HOST_CONFIG` starts with the same letters but is
//! the setting `host_config`: earlier hosts made a label `config` of it by accident, which told every client a
//! path of the machine; we do not.
//!
//! The core labels say what the machine is. Auctions trust them to place native providers, so nobody may claim
//! another architecture at start.

use std::collections::BTreeMap;

use super::origin::Origin;
use super::settings::{ENV_HOST_CONFIG, ENV_HOST_LABEL, ENV_LABEL};
use super::sources::Layers;

/// Labels by key, each with the place it came from.
pub(super) type Labels = BTreeMap<String, (String, Origin)>;

/// Merges the labels of all sources and adds the core labels.
pub(super) fn collect(layers: &Layers, flags: &[(String, String)], warnings: &mut Vec<String>) -> Labels {
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
            warnings.push(format!("{} is ignored: label {key:?} comes from {first}", variable.origin));
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
    for (key, value) in core() {
        if let Some((old, origin)) = labels.insert(key.to_owned(), (value.to_owned(), Origin::Default))
            && old != value
        {
            warnings.push(format!("label {key:?} of {origin} is ignored: core labels cannot be set"));
        }
    }
    labels
}

/// What the machine is, in the words of the compiler's target.
fn core() -> [(&'static str, &'static str); 3] {
    use std::env::consts::{ARCH, FAMILY, OS};
    [("hostcore.arch", ARCH), ("hostcore.os", OS), ("hostcore.osfamily", FAMILY)]
}
