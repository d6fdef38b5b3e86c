//! The replies of the control interface.
//!
//! They never hold null where some client wants a text, a number or a list. As a client we read
//! those of all years, in which anything may be missing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{errors::chain, links::LinkDefinition, serde_null::null_as_default};

/// Key/value pairs; missing or null means none.
pub type Pairs = BTreeMap<String, String>;

/// The answer to a command.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Ack {
    pub accepted: bool,
    /// Empty on success, never missing.
    #[serde(deserialize_with = "null_as_default")]
    pub error: String,
}

impl Ack {
    pub fn accepted() -> Self {
        Self { accepted: true, error: String::new() }
    }

    pub fn rejected(error: impl ToString) -> Self {
        Self { accepted: false, error: error.to_string() }
    }
}

impl<T, E: std::error::Error> From<Result<T, E>> for Ack {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::accepted(),
            Err(error) => Self::rejected(chain(&error)),
        }
    }
}

/// An offer in an auction, of which a client reads the host's id.
#[derive(Clone, Debug, Deserialize)]
pub struct Bid {
    #[serde(default)]
    pub host_id: String,
}

/// A bid for an actor: the request with the host's id.
#[derive(Debug, Serialize)]
pub struct ActorBid {
    pub actor_ref: String,
    pub constraints: Pairs,
    pub host_id: String,
}

/// A bid for a provider: the request with the host's id.
#[derive(Debug, Serialize)]
pub struct ProviderBid {
    pub provider_ref: String,
    pub link_name: String,
    pub constraints: Pairs,
    pub host_id: String,
}

/// Reply to `get.links`.
#[derive(Debug, Deserialize)]
pub struct LinksListing {
    #[serde(default)]
    pub links: Vec<LinkDefinition>,
}

/// Reply to `get.claims`, in the forms of all years.
#[derive(Debug, Deserialize)]
pub struct ClaimsListing {
    #[serde(default)]
    pub claims: Vec<Value>,
}

/// Reply to `ping.hosts`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostReply {
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub issuer: String,
    #[serde(deserialize_with = "null_as_default")]
    pub labels: Pairs,
    #[serde(deserialize_with = "null_as_default")]
    pub friendly_name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub uptime_seconds: u64,
    #[serde(deserialize_with = "null_as_default")]
    pub uptime_human: String,
    #[serde(deserialize_with = "null_as_default")]
    pub version: String,
    /// Joined with commas: clients read a text.
    #[serde(deserialize_with = "null_as_default")]
    pub cluster_issuers: String,
    pub js_domain: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub ctl_host: String,
    #[serde(deserialize_with = "null_as_default")]
    pub prov_rpc_host: String,
    #[serde(deserialize_with = "null_as_default")]
    pub rpc_host: String,
    #[serde(deserialize_with = "null_as_default")]
    pub lattice_prefix: String,
    #[serde(deserialize_with = "null_as_default")]
    pub lattice: String,
    /// Ids of the other hosts this one hears. Clients of earlier years do not look at it; with it
    /// one knows when all have answered. `None` in the reply of a host that does not tell, or that
    /// hears more than it can name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<String>>,
    /// How many other hosts this one hears.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_count: Option<usize>,
}

impl HostReply {
    /// Whether the host is of this make: hosts of earlier years do not tell whom they hear.
    pub fn is_ours(&self) -> bool {
        self.peers.is_some() || self.peer_count.is_some()
    }
}

/// Reply to `get.{host}.inv`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    #[serde(deserialize_with = "null_as_default")]
    pub host_id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub issuer: String,
    #[serde(deserialize_with = "null_as_default")]
    pub friendly_name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub labels: Pairs,
    #[serde(deserialize_with = "null_as_default")]
    pub version: String,
    #[serde(deserialize_with = "null_as_default")]
    pub uptime_human: String,
    #[serde(deserialize_with = "null_as_default")]
    pub uptime_seconds: u64,
    #[serde(deserialize_with = "null_as_default")]
    pub actors: Vec<InventoryActor>,
    #[serde(deserialize_with = "null_as_default")]
    pub providers: Vec<InventoryProvider>,
}

/// An actor of an inventory. It must not have a `public_key` beside `id`: a client of 2024 takes
/// both for one member.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryActor {
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub image_ref: String,
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub instances: Vec<InventoryInstance>,
}

/// One annotation set of an actor. The count has two names: clients of 2023 read `max_concurrent`,
/// of 2024 `max_instances`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryInstance {
    #[serde(deserialize_with = "null_as_default")]
    pub annotations: Pairs,
    #[serde(deserialize_with = "null_as_default")]
    pub instance_id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub revision: i32,
    #[serde(deserialize_with = "null_as_default")]
    pub image_ref: String,
    #[serde(deserialize_with = "null_as_default")]
    pub max_instances: u32,
    #[serde(deserialize_with = "null_as_default")]
    pub max_concurrent: u16,
}

/// A provider of an inventory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryProvider {
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub link_name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub contract_id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub image_ref: String,
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub revision: i32,
    #[serde(deserialize_with = "null_as_default")]
    pub annotations: Pairs,
    #[serde(deserialize_with = "null_as_default")]
    pub instance_id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bid_echoes_the_request() {
        let (constraints, host_id) = (Pairs::from([("a".into(), "b".into())]), "N".to_owned());
        let bid = ActorBid {
            actor_ref: "r".into(),
            constraints: constraints.clone(),
            host_id: host_id.clone(),
        };
        assert_eq!(
            serde_json::to_string(&bid).unwrap(),
            r#"{"actor_ref":"r","constraints":{"a":"b"},"host_id":"N"}"#
        );
        let bid =
            ProviderBid { provider_ref: "r".into(), link_name: "l".into(), constraints, host_id };
        assert_eq!(
            serde_json::to_string(&bid).unwrap(),
            r#"{"provider_ref":"r","link_name":"l","constraints":{"a":"b"},"host_id":"N"}"#
        );
    }

    #[test]
    fn a_quotation_mark_does_not_break_an_ack() {
        let ack = serde_json::to_string(&Ack::rejected("no \"such\" thing")).unwrap();
        assert_eq!(ack, r#"{"accepted":false,"error":"no \"such\" thing"}"#);
        assert_eq!(
            serde_json::to_string(&Ack::accepted()).unwrap(),
            r#"{"accepted":true,"error":""}"#
        );
    }
}
