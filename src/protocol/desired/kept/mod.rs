//! The starts that an operator gave by hand to one host, and that it repeats when it comes back.
//!
//! [`Kept`] is the value of the entry [`kept`](super::kept). Each command makes another list of it,
//! as [`Kept::apply`] says; [`CommandLog`] has those that have not ended yet, and takes back what
//! failed. Starts that somebody else manages are not in it: those of an application, and
//! those of `host dev`, which have an annotation each.
//!
//! A later version may keep things of kinds that this one does not know. They are handed on as they
//! are, and not started; so a host that went back to this version and forward again has them still.
//!
//! Invariant: of two starts that cannot run beside each other, two references of one actor or of
//! one provider under one link name, the list has the later one.

mod item;
mod log;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;

use crate::{
    applications::ownership::MANAGED_BY,
    control::types::Amount,
    events::event::{Annotations, has_all},
};

pub use item::{Actor, Item, Place, Provider};
pub use log::{CommandLog, Ended, Noted, Number, Refused};

/// The annotation of what `host dev` started; its value is the name of the file.
pub const DEV: &str = "lattice.host/dev";
/// Actors by their annotations, and providers, that are kept of one host.
pub const ITEMS_MAX: usize = 512;
/// Bytes of all that is kept of one host, as a text in its signed entry: with the signature it fits
/// into one message of a NATS server as it comes.
pub const BYTES_MAX: usize = 768 * 1024;

/// The member of an item that tells its kind, and the kinds that this version knows.
const KIND: &str = "kind";
const KINDS: [&str; 2] = ["actor", "provider"];

/// The starts that are kept of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "AsWritten", into = "AsWritten")]
pub struct Kept {
    pub items: Vec<Item>,
    /// Items of kinds that this version does not know, as a later one wrote them.
    pub unknown: Vec<Value>,
}

/// The form of [`Kept`] in the bucket.
#[derive(Serialize, Deserialize)]
struct AsWritten {
    items: Vec<AnyItem>,
}

/// An item of any version.
enum AnyItem {
    Known(Item),
    Unknown(Value),
}

impl<'de> Deserialize<'de> for AnyItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let kind = value.get(KIND).and_then(Value::as_str);
        if kind.is_some_and(|kind| !KINDS.contains(&kind)) {
            return Ok(Self::Unknown(value));
        }
        serde_json::from_value(value).map(Self::Known).map_err(D::Error::custom)
    }
}

impl Serialize for AnyItem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(item) => item.serialize(serializer),
            Self::Unknown(value) => value.serialize(serializer),
        }
    }
}

impl From<AsWritten> for Kept {
    fn from(written: AsWritten) -> Self {
        let mut kept = Self::default();
        for item in written.items {
            match item {
                AnyItem::Known(item) => kept.items.push(item),
                AnyItem::Unknown(value) => kept.unknown.push(value),
            }
        }
        kept
    }
}

impl From<Kept> for AsWritten {
    fn from(Kept { items, unknown }: Kept) -> Self {
        let known = items.into_iter().map(AnyItem::Known);
        Self { items: known.chain(unknown.into_iter().map(AnyItem::Unknown)).collect() }
    }
}

/// A command that an operator gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run so many; none stops it.
    StartActor {
        reference: String,
        annotations: Annotations,
        amount: Amount,
    },
    /// Stop so many, or all, of what has these annotations.
    StopActor {
        /// A public key, or a reference.
        actor: String,
        annotations: Annotations,
        count: Option<u32>,
    },
    /// After a stop of an actor so many are left under these annotations.
    LeftOfActor {
        reference: String,
        left: Vec<(Annotations, u32)>,
    },
    /// Run another module under the same key.
    UpdateActor {
        actor: String,
        reference: String,
    },
    StartProvider(Provider),
    StopProvider {
        /// A public key, or a reference.
        provider: String,
        link_name: String,
        annotations: Annotations,
    },
}

/// Why a start is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("{ITEMS_MAX} starts are kept of this host already; stop what is not needed")]
    Items,
    #[error(
        "what is kept of this host has no room for it in {BYTES_MAX} bytes; stop what is not needed, \
         or start it with a smaller configuration"
    )]
    Bytes,
}

impl Command {
    /// Whether it is about what somebody else manages, who starts it again.
    pub fn is_managed(&self) -> bool {
        let annotations = match self {
            Self::StartActor { annotations, .. }
            | Self::StopActor { annotations, .. }
            | Self::StopProvider { annotations, .. } => annotations,
            Self::StartProvider(provider) => &provider.annotations,
            Self::LeftOfActor { .. } | Self::UpdateActor { .. } => return false,
        };
        [MANAGED_BY, DEV].iter().any(|mark| annotations.contains_key(*mark))
    }

    /// Returns the place of what a start is about.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::StartActor { reference, annotations, .. } => {
                let (reference, annotations) = (reference.clone(), annotations.clone());
                Some(Place::Actor { reference, annotations })
            }
            Self::StartProvider(provider) => Some(provider.place()),
            Self::StopActor { .. }
            | Self::LeftOfActor { .. }
            | Self::UpdateActor { .. }
            | Self::StopProvider { .. } => None,
        }
    }
}

impl Kept {
    /// Whether nothing is kept, of no kind.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.unknown.is_empty()
    }

    pub fn get(&self, place: &Place) -> Option<&Item> {
        self.items.iter().find(|item| item.is_at(place))
    }

    /// Carries a command out; returns whether that makes another list. A command about what
    /// somebody else manages does not.
    pub fn apply(&mut self, command: &Command) -> bool {
        if command.is_managed() {
            return false;
        }
        match command {
            Command::StartActor { reference, annotations, amount } => {
                self.start_actor(reference, annotations, *amount)
            }
            Command::StartProvider(provider) => self.start_provider(provider),
            Command::StopActor { actor, annotations, count } => {
                self.stop_actor(actor, annotations, *count)
            }
            Command::LeftOfActor { reference, left } => self.left_of_actor(reference, left),
            Command::UpdateActor { actor, reference } => self.update_actor(actor, reference),
            Command::StopProvider { provider, link_name, annotations } => {
                self.stop_provider(provider, link_name, annotations)
            }
        }
    }

    /// Fails if it has no room for all that is in it.
    pub fn check(&self) -> Result<(), Full> {
        if self.items.len() + self.unknown.len() > ITEMS_MAX {
            return Err(Full::Items);
        }
        if self.bytes() > BYTES_MAX { Err(Full::Bytes) } else { Ok(()) }
    }

    /// Takes away what is in a place; returns whether there was something.
    pub fn remove(&mut self, place: &Place) -> bool {
        let before = self.items.len();
        self.items.retain(|item| !item.is_at(place));
        self.items.len() != before
    }

    /// Notes the public key of what runs in a place; returns whether that is news. What cannot run
    /// beside it goes.
    pub fn identify(&mut self, place: &Place, key: &str) -> bool {
        let Some(at) = self.items.iter().position(|item| item.is_at(place)) else { return false };
        let id = self.items[at].id_mut();
        if id.as_deref() == Some(key) {
            return false;
        }
        *id = Some(key.to_owned());
        let item = self.items.remove(at);
        let before = self.items[..at].iter().filter(|other| !item.excludes(other)).count();
        self.items.retain(|other| !item.excludes(other));
        self.items.insert(before, item);
        true
    }

    /// Notes public keys that are known from elsewhere by their references; returns whether there
    /// are any. Of two of one key the later one is left.
    pub fn learn(&mut self, key_of: impl Fn(&str) -> Option<String>) -> bool {
        let mut is_news = false;
        for item in &mut self.items {
            if item.id_mut().is_none() {
                *item.id_mut() = key_of(item.reference());
                is_news |= item.id_mut().is_some();
            }
        }
        if is_news {
            self.drop_superseded();
        }
        is_news
    }

    /// Whether something else in the list is the actor or provider of this key that could run in
    /// this place.
    pub fn has_other(&self, place: &Place, key: &str) -> bool {
        let Some(mut item) = self.get(place).cloned() else { return false };
        *item.id_mut() = Some(key.to_owned());
        self.items.iter().any(|other| !other.is_at(place) && item.excludes(other))
    }

    /// Leaves the later one of two that cannot run beside each other.
    pub fn drop_superseded(&mut self) {
        let mut later: Vec<Item> = Vec::with_capacity(self.items.len());
        while let Some(item) = self.items.pop() {
            if !later.iter().any(|one| one.excludes(&item)) {
                later.push(item);
            }
        }
        later.reverse();
        self.items = later;
    }

    /// Returns its size as a text in JSON, in bytes.
    fn bytes(&self) -> usize {
        let text = serde_json::to_string(self).and_then(|value| serde_json::to_string(&value));
        text.map_or(usize::MAX, |text| text.len())
    }

    fn start_actor(&mut self, reference: &str, annotations: &Annotations, amount: Amount) -> bool {
        let found = self.items.iter_mut().enumerate().find_map(|(at, item)| match item {
            Item::Actor(actor)
                if actor.reference == reference && actor.annotations == *annotations =>
            {
                Some((at, actor))
            }
            _ => None,
        });
        let before = found.as_ref().map_or(0, |(_, actor)| actor.max);
        let max = amount.applied_to(before);
        match found {
            Some((at, _)) if max == 0 => drop(self.items.remove(at)),
            Some((_, actor)) => actor.max = max,
            None if max == 0 => {}
            None => {
                let (reference, annotations) = (reference.to_owned(), annotations.clone());
                self.items.push(Item::Actor(Actor { reference, id: None, annotations, max }));
            }
        }
        max != before
    }

    fn start_provider(&mut self, started: &Provider) -> bool {
        let place = started.place();
        match self.items.iter_mut().find(|item| item.is_at(&place)) {
            Some(Item::Provider(provider)) => {
                let new = Provider { id: provider.id.clone(), ..started.clone() };
                let is_news = *provider != new;
                *provider = new;
                is_news
            }
            _ => {
                self.items.push(Item::Provider(started.clone()));
                true
            }
        }
    }

    /// Takes as many as a stop does, one set of annotations after the other.
    fn stop_actor(&mut self, word: &str, wanted: &Annotations, count: Option<u32>) -> bool {
        let (mut left, mut is_changed) = (count.unwrap_or(u32::MAX), false);
        for item in &mut self.items {
            let Item::Actor(actor) = item else { continue };
            if !actor.is(word) || !has_all(&actor.annotations, wanted) {
                continue;
            }
            // Without a count all of it goes: two without a bound are more than any number.
            let fewer = if count.is_none() { actor.max } else { actor.max.min(left) };
            left -= fewer.min(left);
            actor.max -= fewer;
            is_changed |= fewer > 0;
        }
        self.drop_stopped();
        is_changed
    }

    fn left_of_actor(&mut self, of: &str, left: &[(Annotations, u32)]) -> bool {
        let mut is_changed = false;
        for item in &mut self.items {
            let Item::Actor(Actor { reference, annotations, max, .. }) = item else { continue };
            let mut counts = left.iter().filter(|(of, _)| of == annotations);
            if reference == of
                && let Some((_, count)) = counts.next()
            {
                is_changed |= max != count;
                *max = *count;
            }
        }
        self.drop_stopped();
        is_changed
    }

    fn drop_stopped(&mut self) {
        self.items.retain(|item| !matches!(item, Item::Actor(Actor { max: 0, .. })));
    }

    fn update_actor(&mut self, word: &str, new: &str) -> bool {
        let mut is_changed = false;
        for item in &mut self.items {
            if let Item::Actor(actor) = item
                && actor.is(word)
                && actor.reference != new
            {
                new.clone_into(&mut actor.reference);
                is_changed = true;
            }
        }
        if is_changed {
            self.drop_superseded();
        }
        is_changed
    }

    fn stop_provider(&mut self, word: &str, link: &str, wanted: &Annotations) -> bool {
        let before = self.items.len();
        self.items.retain(|item| {
            let Item::Provider(provider) = item else { return true };
            let is_meant = (provider.reference == word || provider.id.as_deref() == Some(word))
                && provider.link_name == link
                && has_all(&provider.annotations, wanted);
            !is_meant
        });
        self.items.len() != before
    }
}

#[cfg(test)]
mod tests;
