//! The JSON of the control interface.
//!
//! Requests come from client crates of five years: a missing or null member means its default wherever the protocol
//! allows it, unknown members are ignored. Replies never hold null where some client wants a text, a number or a list; as a
//! client we read those of all years, in which anything may be missing.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{errors::chain, lenient::nullable};

/// Key/value pairs of a request; missing or null means none.
pub type Pairs = BTreeMap<String, String>;

/// The answer to a command.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Ack {
    pub accepted: bool,
    /// Empty on success, never missing.
    #[serde(deserialize_with = "nullable")]
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

/// `cmd.{host}.la`, the start command until 2023: so many more than now.
#[derive(Debug, Deserialize)]
pub struct LaunchActor {
    pub actor_ref: String,
    #[serde(default)]
    pub count: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: Pairs,
}

/// `cmd.{host}.scale`. A count of null means without bound, a missing one is a mistake.
#[derive(Debug, Deserialize)]
pub struct ScaleActor {
    #[serde(default, deserialize_with = "nullable")]
    pub actor_ref: String,
    #[serde(default, deserialize_with = "nullable")]
    pub actor_id: String,
    #[serde(default, deserialize_with = "present")]
    pub count: Option<Option<u32>>,
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: Pairs,
}

/// `cmd.{host}.sa`. The member called reference holds a public key.
#[derive(Debug, Deserialize)]
pub struct StopActor {
    pub actor_ref: String,
    #[serde(default)]
    pub count: Option<u32>,
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: Pairs,
}

/// `cmd.{host}.upd`
#[derive(Debug, Deserialize)]
pub struct UpdateActor {
    #[serde(default, deserialize_with = "nullable")]
    pub actor_id: String,
    pub new_actor_ref: String,
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: Pairs,
}

/// `cmd.{host}.lp`
#[derive(Debug, Deserialize)]
pub struct LaunchProvider {
    pub provider_ref: String,
    #[serde(default, deserialize_with = "nullable")]
    pub link_name: String,
    /// Opaque to the host; the provider gets it as it is.
    #[serde(default)]
    pub configuration: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: Pairs,
}

/// `cmd.{host}.sp`. The member called reference holds a public key.
#[derive(Debug, Deserialize)]
pub struct StopProvider {
    pub provider_ref: String,
    #[serde(default, deserialize_with = "nullable")]
    pub link_name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: Pairs,
}

/// `cmd.{host}.stop`
#[derive(Debug, Default, Deserialize)]
pub struct StopHost {
    /// Milliseconds, whatever older comments say.
    #[serde(default)]
    pub timeout: Option<u64>,
}

/// `auction.actor`; a bid is the request with the host's id.
#[derive(Debug, Deserialize, Serialize)]
pub struct AuctionActor {
    pub actor_ref: String,
    #[serde(default, deserialize_with = "nullable")]
    pub constraints: Pairs,
    #[serde(default, skip_deserializing)]
    pub host_id: String,
}

/// `auction.provider`; a bid is the request with the host's id.
#[derive(Debug, Deserialize, Serialize)]
pub struct AuctionProvider {
    pub provider_ref: String,
    #[serde(default, deserialize_with = "nullable")]
    pub link_name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub constraints: Pairs,
    #[serde(default, skip_deserializing)]
    pub host_id: String,
}

/// `linkdefs.put`
#[derive(Debug, Deserialize)]
pub struct PutLink {
    #[serde(default, deserialize_with = "nullable")]
    pub actor_id: String,
    #[serde(default, deserialize_with = "nullable")]
    pub provider_id: String,
    #[serde(default, deserialize_with = "nullable")]
    pub link_name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub contract_id: String,
    #[serde(default, deserialize_with = "nullable")]
    pub values: Pairs,
}

/// `linkdefs.del`; clients send a whole link, of which three members count.
#[derive(Debug, Deserialize)]
pub struct DeleteLink {
    pub actor_id: String,
    pub contract_id: String,
    pub link_name: String,
}

/// `labels.{host}.put` and `.del`
#[derive(Debug, Deserialize)]
pub struct Label {
    pub key: String,
    #[serde(default, deserialize_with = "nullable")]
    pub value: String,
}

/// Reply to `ping.hosts`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostReply {
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    #[serde(deserialize_with = "nullable")]
    pub issuer: String,
    #[serde(deserialize_with = "nullable")]
    pub labels: Pairs,
    #[serde(deserialize_with = "nullable")]
    pub friendly_name: String,
    #[serde(deserialize_with = "nullable")]
    pub uptime_seconds: u64,
    #[serde(deserialize_with = "nullable")]
    pub uptime_human: String,
    #[serde(deserialize_with = "nullable")]
    pub version: String,
    /// Joined with commas: clients read a text.
    #[serde(deserialize_with = "nullable")]
    pub cluster_issuers: String,
    pub js_domain: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub ctl_host: String,
    #[serde(deserialize_with = "nullable")]
    pub prov_rpc_host: String,
    #[serde(deserialize_with = "nullable")]
    pub rpc_host: String,
    #[serde(deserialize_with = "nullable")]
    pub lattice_prefix: String,
    #[serde(deserialize_with = "nullable")]
    pub lattice: String,
    /// Ids of the other hosts this one hears. Clients of earlier years do not look at it; with it one knows when all have
    /// answered. `None` in the reply of a host that does not tell, or that hears more than it can name.
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
    #[serde(deserialize_with = "nullable")]
    pub host_id: String,
    #[serde(deserialize_with = "nullable")]
    pub issuer: String,
    #[serde(deserialize_with = "nullable")]
    pub friendly_name: String,
    #[serde(deserialize_with = "nullable")]
    pub labels: Pairs,
    #[serde(deserialize_with = "nullable")]
    pub version: String,
    #[serde(deserialize_with = "nullable")]
    pub uptime_human: String,
    #[serde(deserialize_with = "nullable")]
    pub uptime_seconds: u64,
    #[serde(deserialize_with = "nullable")]
    pub actors: Vec<InventoryActor>,
    #[serde(deserialize_with = "nullable")]
    pub providers: Vec<InventoryProvider>,
}

/// An actor of an inventory. It must not have a `public_key` beside `id`: a client of 2024 takes both for one member.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryActor {
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    #[serde(deserialize_with = "nullable")]
    pub image_ref: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub instances: Vec<InventoryInstance>,
}

/// One annotation set of an actor. The count has two names: clients of 2023 read `max_concurrent`, of 2024 `max_instances`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryInstance {
    #[serde(deserialize_with = "nullable")]
    pub annotations: Pairs,
    #[serde(deserialize_with = "nullable")]
    pub instance_id: String,
    #[serde(deserialize_with = "nullable")]
    pub revision: i32,
    #[serde(deserialize_with = "nullable")]
    pub image_ref: String,
    #[serde(deserialize_with = "nullable")]
    pub max_instances: u32,
    #[serde(deserialize_with = "nullable")]
    pub max_concurrent: u16,
}

/// A provider of an inventory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryProvider {
    #[serde(deserialize_with = "nullable")]
    pub id: String,
    #[serde(deserialize_with = "nullable")]
    pub link_name: String,
    #[serde(deserialize_with = "nullable")]
    pub contract_id: String,
    #[serde(deserialize_with = "nullable")]
    pub image_ref: String,
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub revision: i32,
    #[serde(deserialize_with = "nullable")]
    pub annotations: Pairs,
    #[serde(deserialize_with = "nullable")]
    pub instance_id: String,
}

/// A step on the way to a start, told on [`Subjects::progress`](crate::lattice::subject::Subjects::progress).
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Step {
    pub host_id: String,
    /// The reference that is started, as it was asked for.
    pub reference: String,
    /// `pull`, `verify`, `compile`, `unpack`, `start`.
    pub stage: String,
    /// How much of the stage is done, and of how much; 0 of 0 if that is not counted.
    pub bytes: u64,
    pub of: u64,
}

/// Keeps null and missing apart.
fn present<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quotation_mark_does_not_break_an_ack() {
        let ack = serde_json::to_string(&Ack::rejected("no \"such\" thing")).unwrap();
        assert_eq!(ack, r#"{"accepted":false,"error":"no \"such\" thing"}"#);
        assert_eq!(serde_json::to_string(&Ack::accepted()).unwrap(), r#"{"accepted":true,"error":""}"#);
    }

    #[test]
    fn scale_tells_null_from_missing() {
        let count = |json: &str| serde_json::from_str::<ScaleActor>(json).unwrap().count;
        assert_eq!(count(r#"{"actor_ref":"x"}"#), None);
        assert_eq!(count(r#"{"actor_ref":"x","count":null}"#), Some(None));
        assert_eq!(count(r#"{"actor_ref":"x","count":3,"annotations":null}"#), Some(Some(3)));
    }

    #[test]
    fn an_auction_bid_echoes_the_request() {
        let mut request: AuctionActor =
            serde_json::from_str(r#"{"actor_ref":"r","constraints":{"a":"b"},"host_id":"forged"}"#).unwrap();
        assert_eq!(request.host_id, "");
        request.host_id = "N".into();
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"actor_ref":"r","constraints":{"a":"b"},"host_id":"N"}"#
        );
    }
}
