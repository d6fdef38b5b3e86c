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

mod log;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;

use crate::{
    applications::ownership::MANAGED_BY,
    control::types::Amount,
    events::event::{Annotations, has_all},
};

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

    fn id_mut(&mut self) -> &mut Option<String> {
        let (Self::Actor(Actor { id, .. }) | Self::Provider(Provider { id, .. })) = self;
        id
    }

    /// Whether it cannot be in a list with another one: a host runs an actor from one reference,
    /// and a provider under a link name from one.
    fn excludes(&self, other: &Self) -> bool {
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
    fn place(&self) -> Place {
        Place::Provider { reference: self.reference.clone(), link_name: self.link_name.clone() }
    }
}

impl Actor {
    /// Whether it is the actor of this public key or reference.
    fn is(&self, word: &str) -> bool {
        self.reference == word || self.id.as_deref() == Some(word)
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
mod tests {
    use super::*;

    /// Reads annotations like `t=x`; nothing for none.
    fn annotations(text: &str) -> Annotations {
        let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    /// Makes an actor of `reference`, `reference#KEY` or with ` t=x`, and a provider of
    /// `reference/link`, with a number of calls where it is an actor.
    fn item((text, max): (&str, u32)) -> Item {
        let (named, marks) = text.split_once(' ').unwrap_or((text, ""));
        let (named, id) = match named.split_once('#') {
            Some((named, id)) => (named, Some(id.to_owned())),
            None => (named, None),
        };
        let annotations = annotations(marks);
        match named.split_once('/') {
            Some((reference, link_name)) => Item::Provider(Provider {
                reference: reference.into(),
                id,
                link_name: link_name.into(),
                annotations,
                configuration: None,
            }),
            None => Item::Actor(Actor { reference: named.into(), id, annotations, max }),
        }
    }

    fn kept(list: &[(&str, u32)]) -> Kept {
        Kept { items: list.iter().map(|one| item(*one)).collect(), ..Kept::default() }
    }

    #[test]
    fn what_a_later_version_keeps_is_handed_on_as_it_is() {
        let text = r#"{"items":[{"kind":"job","cron":"@daily"},{"kind":"actor","reference":"a","max":1,"weight":7}]}"#;
        let mut read: Kept = serde_json::from_str(text).unwrap();
        assert_eq!((read.items.len(), read.unknown.len()), (1, 1));
        assert!(read.apply(&scale("a", "", 0)) && !read.is_empty());
        let written = serde_json::to_value(&read).unwrap();
        let left = serde_json::json!({ "items": [{ "kind": "job", "cron": "@daily" }] });
        assert_eq!(written, left);
    }

    #[test]
    fn an_item_of_a_known_kind_that_makes_no_sense_is_an_error() {
        for text in [
            r#"{"items":[{"kind":"actor"}]}"#,
            r#"{"items":[{"reference":"a","max":1}]}"#,
            r#"{"items":["actor"]}"#,
            "{}",
        ] {
            assert!(serde_json::from_str::<Kept>(text).is_err(), "{text}");
        }
    }

    fn launch(reference: &str, marks: &str, more: u32) -> Command {
        let annotations = annotations(marks);
        let amount = Amount::Add(more);
        Command::StartActor { reference: reference.into(), annotations, amount }
    }

    fn scale(reference: &str, marks: &str, max: u32) -> Command {
        let annotations = annotations(marks);
        let amount = Amount::Exactly(max);
        Command::StartActor { reference: reference.into(), annotations, amount }
    }

    fn stop(actor: &str, marks: &str, count: Option<u32>) -> Command {
        Command::StopActor { actor: actor.into(), annotations: annotations(marks), count }
    }

    fn update(actor: &str, reference: &str) -> Command {
        Command::UpdateActor { actor: actor.into(), reference: reference.into() }
    }

    fn start(text: &str) -> Command {
        let Item::Provider(provider) = item((text, 0)) else { panic!("a provider") };
        Command::StartProvider(provider)
    }

    fn end(provider: &str, link_name: &str, marks: &str) -> Command {
        let annotations = annotations(marks);
        let (provider, link_name) = (provider.into(), link_name.into());
        Command::StopProvider { provider, link_name, annotations }
    }

    type List<'a> = &'a [(&'a str, u32)];

    #[test]
    fn each_command_about_actors_makes_another_list() {
        let two: List<'_> = &[("a#M", 2), ("a#M t=x", 3)];
        let all = u32::MAX;
        let cases: [(&str, List<'_>, Command, List<'_>); 26] = [
            ("a start is kept", &[], launch("a", "", 1), &[("a", 1)]),
            ("more are more", &[("a", 1)], launch("a", "", 2), &[("a", 3)]),
            (
                "annotations make another",
                &[("a", 1)],
                launch("a", "t=x", 2),
                &[("a", 1), ("a t=x", 2)],
            ),
            ("no bound stays", &[("a", all)], launch("a", "", 1), &[("a", all)]),
            ("an amount is set", &[], scale("a", "", 5), &[("a", 5)]),
            ("an amount is changed", two, scale("a", "t=x", 1), &[("a#M", 2), ("a#M t=x", 1)]),
            ("none is a stop", two, scale("a", "", 0), &[("a#M t=x", 3)]),
            ("none of nothing", &[], scale("a", "", 0), &[]),
            ("managed", &[], launch("a", "wasmcloud.dev/managed-by=wadm", 1), &[]),
            (
                "managed beside",
                &[("a", 1)],
                scale("a", "wasmcloud.dev/managed-by=w t=x", 4),
                &[("a", 1)],
            ),
            ("host dev", &[], scale("a", "lattice.host/dev=a.wasm", 1), &[]),
            ("a managed stop", two, stop("a", "wasmcloud.dev/managed-by=wadm", None), two),
            ("a stop by key", two, stop("M", "", None), &[]),
            ("a stop by reference", two, stop("a", "", None), &[]),
            ("a stop of another", two, stop("N", "", None), two),
            ("a stop before the key is known", &[("a", 1)], stop("M", "", None), &[("a", 1)]),
            ("a stop by annotation", two, stop("M", "t=x", None), &[("a#M", 2)]),
            ("annotations that nothing has", two, stop("M", "t=y", None), two),
            ("fewer", two, stop("M", "", Some(1)), &[("a#M", 1), ("a#M t=x", 3)]),
            ("fewer than both", two, stop("M", "", Some(4)), &[("a#M t=x", 1)]),
            ("as many as there are", two, stop("M", "", Some(5)), &[]),
            ("two without a bound", &[("a#M", all), ("a#M t=x", all)], stop("M", "", None), &[]),
            ("an update", two, update("M", "b"), &[("b#M", 2), ("b#M t=x", 3)]),
            ("an update of another", two, update("N", "b"), two),
            ("an update to the same", two, update("M", "a"), two),
            ("providers stay", &[("a/l#M", 0), ("a#M", 1)], stop("M", "", None), &[("a/l#M", 0)]),
        ];
        for (promise, before, command, after) in cases {
            let mut list = kept(before);
            let is_changed = list.apply(&command);
            let expected = kept(after);
            assert_eq!(list, expected, "{promise}: {command:?}");
            assert_eq!(is_changed, kept(before) != expected, "{promise}: {command:?}");
        }
    }

    #[test]
    fn each_command_about_providers_makes_another_list() {
        let two: List<'_> = &[("p/default", 0), ("p/front t=x", 0)];
        let cases: [(&str, List<'_>, Command, List<'_>); 8] = [
            ("a start is kept", &[], start("p/default"), &[("p/default", 0)]),
            ("another link name", &[("p/a", 0)], start("p/b"), &[("p/a", 0), ("p/b", 0)]),
            ("managed", &[], start("p/a wasmcloud.dev/managed-by=wadm"), &[]),
            ("host dev", &[], start("p/a lattice.host/dev=a.wasm"), &[]),
            ("a stop", two, end("p", "front", ""), &[("p/default", 0)]),
            ("a stop by annotation", two, end("p", "front", "t=x"), &[("p/default", 0)]),
            ("a stop of another one", two, end("p", "front", "t=y"), two),
            ("a stop of another link", two, end("p", "back", ""), two),
        ];
        for (promise, before, command, after) in cases {
            let mut list = kept(before);
            let is_changed = list.apply(&command);
            assert_eq!(list, kept(after), "{promise}: {command:?}");
            assert_eq!(is_changed, kept(before) != kept(after), "{promise}: {command:?}");
        }
        let mut list = kept(two);
        assert!(
            list.identify(&item(two[0]).place(), "V") && list.identify(&item(two[1]).place(), "V")
        );
        assert!(!list.identify(&item(two[0]).place(), "V"), "no news");
        assert!(list.apply(&end("V", "default", "")));
        assert_eq!(list, kept(&[("p/front#V t=x", 0)]));
    }

    #[test]
    fn of_two_that_cannot_run_beside_each_other_the_later_one_is_kept() {
        let cases: [(&str, List<'_>, List<'_>); 7] = [
            ("two references of one actor", &[("a#M", 1), ("b#M", 2)], &[("b#M", 2)]),
            ("all its annotations", &[("a#M", 1), ("a#M t=x", 1), ("b#M", 2)], &[("b#M", 2)]),
            (
                "annotations of one reference",
                &[("a#M", 1), ("a#M t=x", 1)],
                &[("a#M", 1), ("a#M t=x", 1)],
            ),
            ("keys that are not known", &[("a", 1), ("b#M", 2)], &[("a", 1), ("b#M", 2)]),
            ("one place twice", &[("a#M", 1), ("c", 1), ("a", 2)], &[("c", 1), ("a", 2)]),
            (
                "two references of a provider under one name",
                &[("p/l#V", 0), ("q/l#V", 0), ("p/k#V", 0)],
                &[("q/l#V", 0), ("p/k#V", 0)],
            ),
            ("two providers", &[("p/l#V", 0), ("q/l#W", 0)], &[("p/l#V", 0), ("q/l#W", 0)]),
        ];
        for (promise, before, after) in cases {
            let mut list = kept(before);
            list.drop_superseded();
            assert_eq!(list, kept(after), "{promise}");
        }
        // The one that runs counts, wherever it is in the list.
        let mut list = kept(&[("c", 1), ("a", 1), ("b#M", 2), ("b#M t=x", 2)]);
        let place = item(("a", 1)).place();
        assert!(list.has_other(&place, "M") && !list.has_other(&place, "N"));
        assert!(list.identify(&place, "M") && !list.identify(&place, "M"));
        assert_eq!(list, kept(&[("c", 1), ("a#M", 1)]));
        // An update makes one reference of two.
        let mut list = kept(&[("a#M", 1), ("b", 2)]);
        assert!(list.apply(&update("M", "b")));
        assert_eq!(list, kept(&[("b", 2)]));
    }

    #[test]
    fn a_stop_leaves_as_many_as_the_host_says() {
        let left = |list: List<'_>| {
            let left = list.iter().map(|(marks, count)| (annotations(marks), *count)).collect();
            Command::LeftOfActor { reference: "a".into(), left }
        };
        let two: List<'_> = &[("a#M", 2), ("a#M t=x", 3), ("b", 4)];
        let cases: [(&str, List<'_>, List<'_>); 4] = [
            ("some", &[("", 1)], &[("a#M", 1), ("a#M t=x", 3), ("b", 4)]),
            ("none", &[("", 0), ("t=x", 1)], &[("a#M t=x", 1), ("b", 4)]),
            ("of what is not kept", &[("t=y", 7)], two),
            ("nothing new", &[("", 2)], two),
        ];
        for (promise, counts, after) in cases {
            let mut list = kept(two);
            assert_eq!(list.apply(&left(counts)), kept(after) != kept(two), "{promise}");
            assert_eq!(list, kept(after), "{promise}");
        }
    }

    #[test]
    fn a_list_is_read_as_it_is_written_and_hides_configurations_in_logs() {
        let mut list = kept(&[("a#M t=x", 3), ("p/default#V", 0)]);
        let Item::Provider(provider) = &mut list.items[1] else { panic!("a provider") };
        provider.configuration = Some("hunter2".into());
        let text = serde_json::to_string(&list).unwrap();
        assert_eq!(serde_json::from_str::<Kept>(&text).unwrap(), list);
        assert!(text.contains("hunter2") && !format!("{list:?}").contains("hunter2"));
    }
}
