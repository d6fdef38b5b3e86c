//! Whether a provider has taken a link on, or let it go: `probe.{host}.link`; and what a link was
//! before its last change: `probe.{host}.link_change`.

use serde::{Deserialize, Serialize};

use crate::{
    control::request::HostRequest,
    lattice::control::Control,
    links::{LinkChange, LinkDefinition},
    serde_null::null_as_default,
};

/// The body of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    pub link: LinkDefinition,
    /// It was deleted, and is to be let go.
    #[serde(default)]
    pub is_deleted: bool,
}

impl HostRequest for Request {
    type Reply = Answered;

    fn subject(host: String) -> Control {
        Control::ProbeLink { host }
    }
}

/// How the link stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answered {
    pub state: State,
    /// Why it is refused.
    #[serde(deserialize_with = "null_as_default")]
    pub error: String,
    /// It is refused, and what the link was before goes on at the provider.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_former_up: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The provider has done what the link asks for.
    Done,
    Refused,
    /// It is at it.
    #[default]
    Pending,
    /// The provider is a process, which does not tell.
    Untold,
    /// It does not run on this host.
    Absent,
}

/// Asks for the last change of a link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AskChange {
    pub actor_id: String,
    pub contract_id: String,
    pub link_name: String,
}

impl HostRequest for AskChange {
    type Reply = LastChange;

    fn subject(host: String) -> Control {
        Control::ProbeLinkChange { host }
    }
}

/// The last change of a link, if the host knows one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastChange {
    pub change: Option<LinkChange>,
}
