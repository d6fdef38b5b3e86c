//! The requests of the control interface: each is one type, with its subject and its reply.
//!
//! Hosts read them as client crates of five years write them: a missing or null member means its
//! default wherever the protocol allows it, unknown members are ignored. Clients write all members
//! in the order of their names; some are read by hosts of earlier years only, and ours skip them.
//!
//! Requests without a body are unit types. The questions that only hosts of this make answer are
//! beside their answers in [`probe`](super::probe) and in [`journal::wire`](crate::journal::wire).

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};

use super::types::{Ack, Bid, ClaimsListing, HostReply, Inventory, LinksListing, Pairs};
use crate::{lattice::control::Control, links::LinkDefinition, serde_null::null_as_default};

/// A request to one host.
pub trait HostRequest: Serialize {
    /// The answer, if it is no refusal.
    type Reply: DeserializeOwned;

    fn subject(host: String) -> Control;
}

/// A request to the lattice: one host answers for all, or each for itself.
pub trait LatticeRequest: Serialize {
    /// The answer, if it is no refusal.
    type Reply: DeserializeOwned;
    const SUBJECT: Control;
}

/// Asks every host who it is.
#[derive(Debug, Serialize)]
pub struct PingHosts;

impl LatticeRequest for PingHosts {
    type Reply = HostReply;
    const SUBJECT: Control = Control::PingHosts;
}

/// Asks a host what it runs.
#[derive(Debug, Serialize)]
pub struct GetInventory;

impl HostRequest for GetInventory {
    type Reply = Inventory;

    fn subject(host: String) -> Control {
        Control::Inventory { host }
    }
}

/// Asks for all link definitions.
#[derive(Debug, Serialize)]
pub struct GetLinks;

impl LatticeRequest for GetLinks {
    type Reply = LinksListing;
    const SUBJECT: Control = Control::Links;
}

/// Asks for the claims of everything that ever ran.
#[derive(Debug, Serialize)]
pub struct GetClaims;

impl LatticeRequest for GetClaims {
    type Reply = ClaimsListing;
    const SUBJECT: Control = Control::Claims;
}

/// `cmd.{host}.la`, the start command until 2023: so many more than now.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct LaunchActor {
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    pub actor_id: Option<String>,
    pub actor_ref: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub annotations: Pairs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    #[serde(skip_deserializing)]
    pub host_id: String,
}

impl HostRequest for LaunchActor {
    type Reply = Ack;

    fn subject(host: String) -> Control {
        Control::LaunchActor { host }
    }
}

/// `cmd.{host}.scale`. A count of null means without bound, a missing one is a mistake.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ScaleActor {
    /// Hosts of 2022 know an actor by it, later ones by its reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_id: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub actor_ref: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub annotations: Pairs,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub count: Option<Option<u32>>,
    #[serde(skip_deserializing)]
    pub host_id: String,
}

impl HostRequest for ScaleActor {
    type Reply = Ack;

    fn subject(host: String) -> Control {
        Control::ScaleActor { host }
    }
}

impl From<ScaleActor> for LaunchActor {
    fn from(scale: ScaleActor) -> Self {
        let ScaleActor { actor_id, actor_ref, annotations, count, host_id } = scale;
        Self { actor_id, actor_ref, annotations, count: count.flatten(), host_id }
    }
}

/// `cmd.{host}.sa`. The member called reference holds a public key.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct StopActor {
    pub actor_ref: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub annotations: Pairs,
    /// All of them without, or with zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    #[serde(skip_deserializing)]
    pub host_id: String,
}

impl HostRequest for StopActor {
    type Reply = Ack;

    fn subject(host: String) -> Control {
        Control::StopActor { host }
    }
}

/// `cmd.{host}.upd`
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct UpdateActor {
    #[serde(default, deserialize_with = "null_as_default")]
    pub actor_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Pairs>,
    /// Takes an older revision as well, so that a version can be taken back. Hosts of other makes
    /// do not know it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_revision: bool,
    #[serde(skip_deserializing)]
    pub host_id: String,
    pub new_actor_ref: String,
    /// Percent of the calls that the new module takes, beside the one that runs: 1 to 100. 0 takes
    /// it back; without one it takes over for good. Hosts of other makes do not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<u8>,
}

impl HostRequest for UpdateActor {
    type Reply = Ack;

    fn subject(host: String) -> Control {
        Control::UpdateActor { host }
    }
}

/// `cmd.{host}.lp`
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct LaunchProvider {
    #[serde(default, deserialize_with = "null_as_default")]
    pub annotations: Pairs,
    /// Opaque to the host; the provider gets it as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    #[serde(skip_deserializing)]
    pub host_id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub link_name: String,
    pub provider_ref: String,
}

impl HostRequest for LaunchProvider {
    type Reply = Ack;

    fn subject(host: String) -> Control {
        Control::LaunchProvider { host }
    }
}

/// `cmd.{host}.sp`. The member called reference holds a public key.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct StopProvider {
    #[serde(default, deserialize_with = "null_as_default")]
    pub annotations: Pairs,
    #[serde(skip_deserializing)]
    pub contract_id: String,
    #[serde(skip_deserializing)]
    pub host_id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub link_name: String,
    pub provider_ref: String,
}

impl HostRequest for StopProvider {
    type Reply = Ack;

    fn subject(host: String) -> Control {
        Control::StopProvider { host }
    }
}

/// `cmd.{host}.stop`; an empty request is one too.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct StopHost {
    #[serde(skip_deserializing)]
    pub host_id: String,
    /// Milliseconds, whatever older comments say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

impl HostRequest for StopHost {
    type Reply = Ack;

    fn subject(host: String) -> Control {
        Control::StopHost { host }
    }
}

/// `auction.actor`
#[derive(Debug, Serialize, Deserialize)]
pub struct AuctionActor {
    pub actor_ref: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub constraints: Pairs,
}

impl LatticeRequest for AuctionActor {
    type Reply = Bid;
    const SUBJECT: Control = Control::AuctionActor;
}

/// `auction.provider`
#[derive(Debug, Serialize, Deserialize)]
pub struct AuctionProvider {
    #[serde(default, deserialize_with = "null_as_default")]
    pub constraints: Pairs,
    #[serde(default, deserialize_with = "null_as_default")]
    pub link_name: String,
    pub provider_ref: String,
}

impl LatticeRequest for AuctionProvider {
    type Reply = Bid;
    const SUBJECT: Control = Control::AuctionProvider;
}

/// `linkdefs.put`
#[derive(Debug, Serialize, Deserialize)]
pub struct PutLink {
    #[serde(default, deserialize_with = "null_as_default")]
    pub actor_id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub contract_id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub link_name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub provider_id: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub values: Pairs,
}

impl LatticeRequest for PutLink {
    type Reply = Ack;
    const SUBJECT: Control = Control::LinkPut;
}

impl From<LinkDefinition> for PutLink {
    fn from(link: LinkDefinition) -> Self {
        let LinkDefinition { actor_id, provider_id, link_name, contract_id, values } = link;
        Self { actor_id, contract_id, link_name, provider_id, values }
    }
}

/// `linkdefs.del`; clients send a whole link, of which three members count.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeleteLink {
    pub actor_id: String,
    pub contract_id: String,
    pub link_name: String,
    #[serde(skip_deserializing)]
    pub provider_id: String,
    #[serde(skip_deserializing)]
    pub values: Pairs,
}

impl LatticeRequest for DeleteLink {
    type Reply = Ack;
    const SUBJECT: Control = Control::LinkDel;
}

impl From<LinkDefinition> for DeleteLink {
    fn from(link: LinkDefinition) -> Self {
        let LinkDefinition { actor_id, provider_id, link_name, contract_id, values } = link;
        Self { actor_id, contract_id, link_name, provider_id, values }
    }
}

/// `labels.{host}.put`
#[derive(Debug, Serialize, Deserialize)]
pub struct PutLabel {
    pub key: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub value: String,
}

impl HostRequest for PutLabel {
    type Reply = Ack;

    fn subject(host: String) -> Control {
        Control::LabelPut { host }
    }
}

/// `labels.{host}.del`
#[derive(Debug, Serialize, Deserialize)]
pub struct DeleteLabel {
    pub key: String,
    /// Some clients send one; it does not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl HostRequest for DeleteLabel {
    type Reply = Ack;

    fn subject(host: String) -> Control {
        Control::LabelDel { host }
    }
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

    fn sent(request: &impl Serialize) -> String {
        serde_json::to_string(request).unwrap()
    }

    #[test]
    fn scale_tells_null_from_missing() {
        let count = |json: &str| serde_json::from_str::<ScaleActor>(json).unwrap().count;
        assert_eq!(count(r#"{"actor_ref":"x"}"#), None);
        assert_eq!(count(r#"{"actor_ref":"x","count":null}"#), Some(None));
        assert_eq!(count(r#"{"actor_ref":"x","count":3,"annotations":null}"#), Some(Some(3)));
    }

    /// Hosts of five years read these bytes: members in this order, none of them null.
    #[test]
    fn commands_are_written_as_they_always_were() {
        let (host_id, annotations) = ("N".to_owned(), Pairs::from([("a".into(), "b".into())]));
        let scale = ScaleActor {
            actor_ref: "r".into(),
            count: Some(Some(2)),
            host_id: host_id.clone(),
            ..ScaleActor::default()
        };
        assert_eq!(sent(&scale), r#"{"actor_ref":"r","annotations":{},"count":2,"host_id":"N"}"#);
        assert_eq!(
            sent(&ScaleActor { actor_id: Some("M".into()), ..scale }),
            r#"{"actor_id":"M","actor_ref":"r","annotations":{},"count":2,"host_id":"N"}"#
        );
        let launch = LaunchActor {
            actor_ref: "r".into(),
            annotations: annotations.clone(),
            count: Some(1),
            host_id: host_id.clone(),
            ..LaunchActor::default()
        };
        assert_eq!(
            sent(&launch),
            r#"{"actor_ref":"r","annotations":{"a":"b"},"count":1,"host_id":"N"}"#
        );
        let stop =
            StopActor { actor_ref: "M".into(), host_id: host_id.clone(), ..StopActor::default() };
        assert_eq!(sent(&stop), r#"{"actor_ref":"M","annotations":{},"host_id":"N"}"#);
        let update = UpdateActor {
            actor_id: "M".into(),
            host_id: host_id.clone(),
            new_actor_ref: "r".into(),
            ..UpdateActor::default()
        };
        assert_eq!(sent(&update), r#"{"actor_id":"M","host_id":"N","new_actor_ref":"r"}"#);
        let launch = LaunchProvider {
            host_id: host_id.clone(),
            link_name: "default".into(),
            provider_ref: "r".into(),
            ..LaunchProvider::default()
        };
        assert_eq!(
            sent(&launch),
            r#"{"annotations":{},"host_id":"N","link_name":"default","provider_ref":"r"}"#
        );
        let stop = StopProvider {
            contract_id: "c".into(),
            host_id: host_id.clone(),
            link_name: "default".into(),
            provider_ref: "V".into(),
            ..StopProvider::default()
        };
        assert_eq!(
            sent(&stop),
            r#"{"annotations":{},"contract_id":"c","host_id":"N","link_name":"default","provider_ref":"V"}"#
        );
        assert_eq!(sent(&StopHost { host_id, timeout: Some(5) }), r#"{"host_id":"N","timeout":5}"#);
    }

    #[test]
    fn requests_to_the_lattice_are_written_as_they_always_were() {
        let link = LinkDefinition {
            actor_id: "M".into(),
            provider_id: "V".into(),
            link_name: "default".into(),
            contract_id: "c".into(),
            values: Pairs::new(),
        };
        let whole = r#"{"actor_id":"M","contract_id":"c","link_name":"default","provider_id":"V","values":{}}"#;
        assert_eq!(sent(&PutLink::from(link.clone())), whole);
        assert_eq!(sent(&DeleteLink::from(link)), whole);
        let auction = AuctionProvider {
            constraints: Pairs::new(),
            link_name: "default".into(),
            provider_ref: "r".into(),
        };
        assert_eq!(
            sent(&auction),
            r#"{"constraints":{},"link_name":"default","provider_ref":"r"}"#
        );
        assert_eq!(sent(&DeleteLabel { key: "k".into(), value: None }), r#"{"key":"k"}"#);
        assert_eq!(sent(&PingHosts), "null", "no body");
    }

    #[test]
    fn members_that_only_earlier_hosts_read_are_not_looked_at() {
        let stop: StopProvider =
            serde_json::from_str(r#"{"provider_ref":"V","contract_id":1,"host_id":[]}"#).unwrap();
        assert_eq!((&*stop.contract_id, &*stop.host_id), ("", ""));
    }
}
