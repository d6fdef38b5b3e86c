//! One start that is kept: an actor or a provider, and its place in the list.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::events::event::Annotations;

/// One start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Item {
    Actor(Actor),
    Provider(Provider),
}

/// An actor under one set of annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The reference as the client wrote it.
    pub reference: String,
    /// Its public key, known once it has run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
    /// Calls it takes at a time.
    pub max: u32,
}

/// A provider under a link name.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// The reference as the client wrote it.
    pub reference: String,
    /// Its public key, known once it has run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub link_name: String,
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub annotations: Annotations,
    /// Handed to the provider as it is; it may hold secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
}

impl fmt::Debug for Provider {
    /// Leaves the configuration out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Provider({} {} {:?})", self.reference, self.link_name, self.annotations)
    }
}

/// The place of a start in the list; no two have the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Actor { reference: String, annotations: Annotations },
    Provider { reference: String, link_name: String },
}

impl Item {
    pub fn place(&self) -> Place {
        match self {
            Self::Actor(Actor { reference, annotations, .. }) => {
                Place::Actor { reference: reference.clone(), annotations: annotations.clone() }
            }
            Self::Provider(provider) => provider.place(),
        }
    }

    pub fn is_at(&self, place: &Place) -> bool {
        match (self, place) {
            (Self::Actor(actor), Place::Actor { reference, annotations }) => {
                actor.reference == *reference && actor.annotations == *annotations
            }
            (Self::Provider(provider), Place::Provider { reference, link_name }) => {
                provider.reference == *reference && provider.link_name == *link_name
            }
            _ => false,
        }
    }

    /// Returns the reference as the client wrote it.
    pub fn reference(&self) -> &str {
        let (Self::Actor(Actor { reference, .. }) | Self::Provider(Provider { reference, .. })) =
            self;
        reference
    }

    pub(super) fn id_mut(&mut self) -> &mut Option<String> {
        let (Self::Actor(Actor { id, .. }) | Self::Provider(Provider { id, .. })) = self;
        id
    }

    /// Whether it cannot be in a list with another one: a host runs an actor from one reference,
    /// and a provider under a link name from one.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Actor(one), Self::Actor(two)) => match one.reference == two.reference {
                true => one.annotations == two.annotations,
                false => one.id.is_some() && one.id == two.id,
            },
            (Self::Provider(one), Self::Provider(two)) => {
                one.link_name == two.link_name
                    && (one.reference == two.reference || one.id.is_some() && one.id == two.id)
            }
            _ => false,
        }
    }
}

impl Provider {
    pub(super) fn place(&self) -> Place {
        Place::Provider { reference: self.reference.clone(), link_name: self.link_name.clone() }
    }
}

impl Actor {
    /// Whether it is the actor of this public key or reference.
    pub(super) fn is(&self, word: &str) -> bool {
        self.reference == word || self.id.as_deref() == Some(word)
    }
}
