//! The marks on what an application runs: four annotations, and the ids of scalers in one of them
//! (wadm, section 3.5).
//!
//! The old manager writes a provider's configuration into the id, in base64, for everybody to read.
//! Here its digest is in that place. [`scaler_ids`] has both, to recognize what the old manager
//! started.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use data_encoding::HEXLOWER;

use super::{
    manifest::{Component, Config, Properties},
    resolved::Mode,
};

pub const MANAGED_BY: &str = "wasmcloud.dev/managed-by";
/// The annotation with the name of the application.
pub const APPLICATION: &str = "wasmcloud.dev/appspec";
pub const SCALER: &str = "wasmcloud.dev/scaler";
/// With an underscore, unlike the others.
pub const SPREAD_NAME: &str = "wasmcloud.dev/spread_name";
/// The value of [`MANAGED_BY`]; dashboards and tests of those years look for it.
pub const MANAGER: &str = "wadm";

/// The first bytes of a digest that stand for a configuration.
const DIGEST_BYTES: usize = 8;

/// Returns the annotations of what runs by a rule of a scaler.
pub fn annotations(application: &str, scaler: &str, rule: &str) -> BTreeMap<String, String> {
    [(MANAGED_BY, MANAGER), (APPLICATION, application), (SCALER, scaler), (SPREAD_NAME, rule)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Returns the application that something with these annotations runs for.
pub fn owner(annotations: &BTreeMap<String, String>) -> Option<&str> {
    let is_managed = annotations.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER);
    annotations.get(APPLICATION).filter(|_| is_managed).map(String::as_str)
}

/// The ids of a scaler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Written on what this project's hosts start.
    pub own: String,
    /// Written by the old manager, if it differs.
    pub old: Option<String>,
}

/// Returns the ids of a scaler of a component.
pub fn scaler_ids(application: &str, component: &Component, mode: Mode) -> Ids {
    let (name, mode) = (&component.name, mode.word());
    match &component.properties {
        Properties::Actor(actor) => Ids {
            own: format!("actor{mode}scaler-{application}-{name}-{}", actor.image),
            old: None,
        },
        Properties::Capability(provider) => {
            let (image, link) = (&provider.image, provider.link_name());
            let base = format!("provider{mode}scaler-{application}-{name}-{image}-{link}");
            match provider.config.as_ref().map(json) {
                None => Ids { own: base, old: None },
                Some(json) => {
                    let digest = digest(&SHA256, json.as_bytes());
                    let short = HEXLOWER.encode(&digest.as_ref()[..DIGEST_BYTES]);
                    let old = format!("{base}-{}", STANDARD.encode(json));
                    Ids { own: format!("{base}-{short}"), old: Some(old) }
                }
            }
        }
    }
}

/// Returns a configuration as JSON; a text has its quotes.
fn json(config: &Config) -> String {
    match config {
        Config::Text(text) => serde_json::Value::String(text.clone()).to_string(),
        Config::Object(_) => config.text(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::applications::manifest::Capability;

    #[test]
    fn the_configuration_is_in_no_id_of_ours_and_the_old_managers_are_known() {
        let object = serde_json::json!({ "some": "config", "number": 1 });
        let object = Config::Object(object.as_object().unwrap().clone());
        for (config, old) in [
            (Config::Text("foobar".into()), "ImZvb2JhciI="),
            (object, "eyJudW1iZXIiOjEsInNvbWUiOiJjb25maWcifQ=="),
        ] {
            let provider = Component {
                name: "web".into(),
                properties: Properties::Capability(Capability {
                    image: "r/http:1".into(),
                    contract: None,
                    link_name: None,
                    config: Some(config),
                }),
                traits: None,
            };
            let ids = scaler_ids("shop", &provider, Mode::Spread);
            let base = "providerspreadscaler-shop-web-r/http:1-default-";
            assert_eq!(ids.old, Some(format!("{base}{old}")));
            let digest = ids.own.strip_prefix(base).unwrap();
            assert!(digest.len() == 16 && !digest.contains(old), "{digest}");
        }
    }
}
