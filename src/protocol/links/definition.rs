//! A link: its wire form, the three texts that tell it from all others, and the commands about it.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

use hashbrown::Equivalent;
use serde::{Deserialize, Serialize};

use crate::{
    builtin::{self, name_of},
    identity::keys::LinkName,
    serde_null::null_as_default,
    store::keys,
};

/// Connects an actor to a provider for one contract under one link name.
///
/// The member order is that of the wire form providers receive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LinkDefinition {
    pub actor_id: String,
    pub provider_id: String,
    pub link_name: String,
    pub contract_id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub values: BTreeMap<String, String>,
}

/// ` --link-name NAME`, for commands about what has this link name; nothing for the default.
pub fn link_option(name: &str) -> String {
    if matches!(name, "" | LinkName::DEFAULT) {
        String::new()
    } else {
        format!(" --link-name {name}")
    }
}

/// The command that puts a link, as it can be copied. A built-in provider is named by its reference
/// and needs no values.
pub fn put_command(actor: &str, provider: &str, contract: &str, link_name: &str) -> String {
    format!("host link put {actor} {} {contract}{}", name_of(provider), link_option(link_name))
}

/// Words that advise to put a link with other values. A command alone would be copied as it is, and
/// refused.
pub fn other_values(actor: &str, provider: &str, contract: &str, link_name: &str) -> String {
    let command = put_command(actor, provider, contract, link_name);
    let names = match builtin::by_key(provider) {
        Some(known) => format!("`host inspect {}` lists them", known.reference()),
        None => "its provider says which it takes".to_owned(),
    };
    format!("{command}, with other values after that ({names})")
}

/// A link definition with its id, as bucket and events show it.
#[derive(Serialize)]
pub struct IdentifiedLink<'a> {
    pub id: String,
    #[serde(flatten)]
    pub link: &'a LinkDefinition,
}

impl LinkDefinition {
    /// The hash that is this link's id and the tail of its key.
    pub fn id(&self) -> String {
        keys::link_hash(&self.actor_id, &self.contract_id, &self.link_name)
    }

    /// Whether this is the link of the three, letter by letter.
    pub fn is_of(&self, actor_id: &str, contract_id: &str, link_name: &str) -> bool {
        self.three() == Three { actor_id, contract_id, link_name }
    }

    pub(super) fn three(&self) -> Three<'_> {
        Three {
            actor_id: &self.actor_id,
            contract_id: &self.contract_id,
            link_name: &self.link_name,
        }
    }

    /// The link together with its id.
    pub fn identified(&self) -> IdentifiedLink<'_> {
        IdentifiedLink { id: self.id(), link: self }
    }
}

/// The texts of which there is one link definition.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Three<'a> {
    pub actor_id: &'a str,
    pub contract_id: &'a str,
    pub link_name: &'a str,
}

/// A link definition that is found by its three.
#[derive(Clone, Debug)]
pub(super) struct ByThree(pub Arc<LinkDefinition>);

impl Hash for ByThree {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.three().hash(state);
    }
}

impl PartialEq for ByThree {
    fn eq(&self, other: &Self) -> bool {
        self.0.three() == other.0.three()
    }
}

impl Eq for ByThree {}

impl Equivalent<ByThree> for Three<'_> {
    fn equivalent(&self, key: &ByThree) -> bool {
        *self == key.0.three()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_to_put_a_link_can_be_copied() {
        let built_in = crate::builtin::KEYVALUE;
        let (key, contract) = (built_in.public_key, built_in.contract_id);
        let copied = "host link put M builtin://keyvalue wasmcloud:keyvalue";
        assert_eq!(put_command("M", key, contract, "default"), copied);
        assert_eq!(
            put_command("M", "V", "acme:x", "two"),
            "host link put M V acme:x --link-name two"
        );
        let told = other_values("M", key, contract, "");
        assert!(
            told.starts_with(copied) && told.contains("`host inspect builtin://keyvalue`"),
            "{told}"
        );
    }
}
