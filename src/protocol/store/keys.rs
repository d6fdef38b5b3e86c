//! The metadata bucket and its keys (lattice protocol, section 4.3).

use aws_lc_rs::digest::{Context, SHA256};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use data_encoding::HEXUPPER;

/// The prefix of the names of metadata buckets.
pub const BUCKET: &str = "LATTICEDATA_";
/// The prefix of the names of buckets with named configuration.
pub const CONFIG_BUCKET: &str = "CONFIGDATA_";
const LINK: &str = "LINKDEF_";
const CLAIMS: &str = "CLAIMS_";
const REFERENCE: &str = "REFMAP_";

/// A key, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// A link definition, by its hash.
    Link(&'a str),
    /// The claims of an actor or a provider, by its public key.
    Claims(&'a str),
    /// Which public key an image reference led to, by the encoded reference.
    Reference(&'a str),
    /// Somebody else's; left alone.
    Unknown,
}

impl<'a> Key<'a> {
    pub fn parse(key: &'a str) -> Self {
        if let Some(hash) = key.strip_prefix(LINK) {
            Self::Link(hash)
        } else if let Some(subject) = key.strip_prefix(CLAIMS) {
            Self::Claims(subject)
        } else if let Some(reference) = key.strip_prefix(REFERENCE) {
            Self::Reference(reference)
        } else {
            Self::Unknown
        }
    }
}

/// The name of the metadata bucket of a lattice.
pub fn bucket(lattice: &str) -> String {
    format!("{BUCKET}{lattice}")
}

/// The id of a link definition: there is one per actor, contract and link name.
pub fn link_hash(actor_id: &str, contract_id: &str, link_name: &str) -> String {
    let mut hash = Context::new(&SHA256);
    for part in [actor_id, contract_id, link_name] {
        hash.update(part.as_bytes());
    }
    HEXUPPER.encode(hash.finish().as_ref())
}

/// The key of a link definition with this id.
pub fn link(hash: &str) -> String {
    format!("{LINK}{hash}")
}

/// The key of the claims of an actor or provider.
pub fn claims(public_key: &str) -> String {
    format!("{CLAIMS}{public_key}")
}

/// The key under which an image reference is mapped to a public key.
pub fn reference(reference: &str) -> String {
    format!("{REFERENCE}{}", URL_SAFE_NO_PAD.encode(reference))
}

/// The image reference of such a key.
pub fn parse_reference(key: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(key.strip_prefix(REFERENCE)?).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_hashes_are_those_of_the_protocol() {
        assert_eq!(
            link_hash("Mbob", "wasmcloud:testy", "default"),
            "B40411AD09B70A2C83D59923584F66BA2C5A3C274DC4F19416DA49CCD6531F9C"
        );
        assert_eq!(
            link_hash(
                "MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5",
                "wasmcloud:httpserver",
                "default"
            ),
            "EC986307FC72C45DBA4699F5AD52702B09800138ACA24BC53339B929423947B6"
        );
    }

    #[test]
    fn references_are_encoded_and_keys_parse_back() {
        assert_eq!(
            reference("wasmcloud.azurecr.io/echo:0.3.4"),
            "REFMAP_d2FzbWNsb3VkLmF6dXJlY3IuaW8vZWNobzowLjMuNA"
        );
        assert_eq!(
            parse_reference(&reference("r.example/echo:1")).as_deref(),
            Some("r.example/echo:1")
        );
        assert_eq!(parse_reference("REFMAP_%"), None);
        assert_eq!(Key::parse("REFMAP_a_b"), Key::Reference("a_b"));
        assert_eq!(Key::parse(&link("H")), Key::Link("H"));
        assert_eq!(Key::parse(&claims("M")), Key::Claims("M"));
        assert_eq!(Key::parse("OTHER_x"), Key::Unknown);
    }
}
