//! The starts that an operator gave by hand to one host, and that it repeats when it comes back.
//!
//! [`Kept`] is the value of the entry [`kept`](super::kept). Each command makes another list of it,
//! as [`Kept::apply`] says. Starts that somebody else manages are not in it: those of an
//! application, and those of `host dev`, which have an annotation each.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{applications::ownership::MANAGED_BY, events::event::Annotations};

/// The annotation of what `host dev` started; its value is the name of the file.
pub const DEV: &str = "lattice.host/dev";
/// Actors by their annotations, and providers, that are kept of one host.
pub const ITEMS_MAX: usize = 512;
/// Bytes of all that is kept of one host, as a text in its signed entry: with the signature it fits
/// into one message of a NATS server as it comes.
pub const BYTES_MAX: usize = 768 * 1024;

/// The starts that are kept of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub items: Vec<Item>,
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
    /// Start so many more.
    LaunchActor {
        reference: String,
        annotations: Annotations,
        more: u32,
    },
    /// Run so many; none stops it.
    ScaleActor {
        reference: String,
        annotations: Annotations,
        max: u32,
    },
    /// Stop so many, or all, of what has these annotations.
    StopActor {
        /// A public key, or a reference.
        actor: String,
        annotations: Annotations,
        count: Option<u32>,
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
            Self::LaunchActor { annotations, .. } | Self::ScaleActor { annotations, .. } => {
                annotations
            }
            Self::StartProvider(provider) => &provider.annotations,
            Self::StopActor { .. } | Self::UpdateActor { .. } | Self::StopProvider { .. } => {
                return false;
            }
        };
        [MANAGED_BY, DEV].iter().any(|mark| annotations.contains_key(*mark))
    }

    /// Returns the place of what a start is about.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::LaunchActor { reference, annotations, .. }
            | Self::ScaleActor { reference, annotations, .. } => {
                let (reference, annotations) = (reference.clone(), annotations.clone());
                Some(Place::Actor { reference, annotations })
            }
            Self::StartProvider(provider) => Some(provider.place()),
            Self::StopActor { .. } | Self::UpdateActor { .. } | Self::StopProvider { .. } => None,
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
    pub fn get(&self, place: &Place) -> Option<&Item> {
        self.items.iter().find(|item| item.place() == *place)
    }

    /// Carries a command out; returns the places that changed. A command about what somebody else
    /// manages changes nothing, and neither does one that there is no room for.
    pub fn apply(&mut self, command: &Command) -> Result<Vec<Place>, Full> {
        if command.is_managed() {
            return Ok(Vec::new());
        }
        match command {
            Command::LaunchActor { reference, annotations, more } => {
                self.change_actor(reference, annotations, |max| max.saturating_add(*more))
            }
            Command::ScaleActor { reference, annotations, max } => {
                self.change_actor(reference, annotations, |_| *max)
            }
            Command::StartProvider(provider) => {
                let place = provider.place();
                let id = match self.get(&place) {
                    Some(Item::Provider(before)) => before.id.clone(),
                    _ => None,
                };
                self.put(&place, Some(Item::Provider(Provider { id, ..provider.clone() })))?;
                Ok(vec![place])
            }
            Command::StopActor { actor, annotations, count } => {
                Ok(self.stop_actor(actor, annotations, *count))
            }
            Command::UpdateActor { actor, reference } => self.update_actor(actor, reference),
            Command::StopProvider { provider, link_name, annotations } => {
                Ok(self.stop_provider(provider, link_name, annotations))
            }
        }
    }

    /// Puts an item in a place, or takes what is there away.
    pub fn put(&mut self, place: &Place, item: Option<Item>) -> Result<(), Full> {
        let at = self.items.iter().position(|item| item.place() == *place);
        let before = match (at, item) {
            (Some(at), Some(item)) => Some(std::mem::replace(&mut self.items[at], item)),
            (Some(at), None) => Some(self.items.remove(at)),
            (None, Some(_)) if self.items.len() >= ITEMS_MAX => return Err(Full::Items),
            (None, Some(item)) => {
                self.items.push(item);
                None
            }
            (None, None) => None,
        };
        if self.bytes() <= BYTES_MAX {
            return Ok(());
        }
        // Taking something away cannot come here, so the place is filled.
        match (at, before) {
            (Some(at), Some(before)) => self.items[at] = before,
            _ => drop(self.items.pop()),
        }
        Err(Full::Bytes)
    }

    /// Notes the public key of what runs in a place; returns whether that is news.
    pub fn identify(&mut self, place: &Place, key: &str) -> bool {
        let Some(item) = self.items.iter_mut().find(|item| item.place() == *place) else {
            return false;
        };
        let (Item::Actor(Actor { id, .. }) | Item::Provider(Provider { id, .. })) = item;
        id.replace(key.to_owned()).as_deref() != Some(key)
    }

    /// Returns its size as a text in JSON, in bytes.
    fn bytes(&self) -> usize {
        let text = serde_json::to_string(self).and_then(|value| serde_json::to_string(&value));
        text.map_or(usize::MAX, |text| text.len())
    }

    fn change_actor(
        &mut self,
        reference: &str,
        annotations: &Annotations,
        changed: impl FnOnce(u32) -> u32,
    ) -> Result<Vec<Place>, Full> {
        let (reference, annotations) = (reference.to_owned(), annotations.clone());
        let place = Place::Actor { reference: reference.clone(), annotations: annotations.clone() };
        let before = match self.get(&place) {
            Some(Item::Actor(actor)) => actor.clone(),
            _ => Actor { reference, annotations, ..Actor::default() },
        };
        let max = changed(before.max);
        if max == before.max {
            return Ok(Vec::new());
        }
        let item = (max > 0).then_some(Item::Actor(Actor { max, ..before }));
        self.put(&place, item)?;
        Ok(vec![place])
    }

    /// Takes as many as a stop does, one set of annotations after the other.
    fn stop_actor(&mut self, word: &str, wanted: &Annotations, count: Option<u32>) -> Vec<Place> {
        let (mut left, mut changed) = (count.unwrap_or(u32::MAX), Vec::new());
        for item in &mut self.items {
            let place = item.place();
            let Item::Actor(actor) = item else { continue };
            if !actor.is(word) || !has_all(&actor.annotations, wanted) {
                continue;
            }
            // Without a count all of it goes: two without a bound are more than any number.
            let fewer = if count.is_none() { actor.max } else { actor.max.min(left) };
            left -= fewer.min(left);
            if fewer == 0 {
                continue;
            }
            actor.max -= fewer;
            changed.push(place);
        }
        self.items.retain(|item| !matches!(item, Item::Actor(Actor { max: 0, .. })));
        changed
    }

    fn update_actor(&mut self, word: &str, reference: &str) -> Result<Vec<Place>, Full> {
        let (mut after, mut changed) = (self.clone(), Vec::new());
        for item in &mut after.items {
            let before = item.place();
            let Item::Actor(actor) = item else { continue };
            if actor.is(word) && actor.reference != reference {
                reference.clone_into(&mut actor.reference);
                changed.extend([before, item.place()]);
            }
        }
        if after.bytes() > BYTES_MAX {
            return Err(Full::Bytes);
        }
        *self = after;
        Ok(changed)
    }

    fn stop_provider(&mut self, word: &str, link: &str, wanted: &Annotations) -> Vec<Place> {
        let mut changed = Vec::new();
        self.items.retain(|item| {
            let Item::Provider(provider) = item else { return true };
            let is_meant = (provider.reference == word || provider.id.as_deref() == Some(word))
                && provider.link_name == link
                && has_all(&provider.annotations, wanted);
            if is_meant {
                changed.push(item.place());
            }
            !is_meant
        });
        changed
    }
}

/// Says whether `annotations` contain every pair of `wanted`.
fn has_all(annotations: &Annotations, wanted: &Annotations) -> bool {
    wanted.iter().all(|(key, value)| annotations.get(key) == Some(value))
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
        Kept { items: list.iter().map(|one| item(*one)).collect() }
    }

    fn launch(reference: &str, marks: &str, more: u32) -> Command {
        let annotations = annotations(marks);
        Command::LaunchActor { reference: reference.into(), annotations, more }
    }

    fn scale(reference: &str, marks: &str, max: u32) -> Command {
        let annotations = annotations(marks);
        Command::ScaleActor { reference: reference.into(), annotations, max }
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
        let cases: [(&str, List<'_>, Command, List<'_>); 25] = [
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
            let changed = list.apply(&command).unwrap();
            let expected = kept(after);
            assert_eq!(list, expected, "{promise}: {command:?}");
            assert_eq!(changed.is_empty(), kept(before) == expected, "{promise}: {changed:?}");
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
            list.apply(&command).unwrap();
            assert_eq!(list, kept(after), "{promise}: {command:?}");
        }
        let mut list = kept(two);
        assert!(
            list.identify(&item(two[0]).place(), "V") && list.identify(&item(two[1]).place(), "V")
        );
        assert!(!list.identify(&item(two[0]).place(), "V"), "no news");
        assert_eq!(list.apply(&end("V", "default", "")).unwrap(), [item(two[0]).place()]);
    }

    #[test]
    fn what_there_is_no_room_for_changes_nothing() {
        let mut list = Kept::default();
        for number in 0..ITEMS_MAX {
            list.apply(&scale(&number.to_string(), "", 1)).unwrap();
        }
        let before = list.clone();
        assert_eq!(list.apply(&scale("one more", "", 1)), Err(Full::Items));
        assert_eq!(list, before);
        list.apply(&scale("7", "", 9)).unwrap();

        let mut list = kept(&[("p/default", 0), ("a#M", 1)]);
        let before = list.clone();
        let configuration = Some("x".repeat(BYTES_MAX));
        for link_name in ["default", "other"] {
            let (reference, link_name) = ("p".to_owned(), link_name.to_owned());
            let configuration = configuration.clone();
            let large = Provider { reference, link_name, configuration, ..Provider::default() };
            assert_eq!(list.apply(&Command::StartProvider(large)), Err(Full::Bytes));
            assert_eq!(list, before);
        }
        let long = "r".repeat(BYTES_MAX);
        assert_eq!(list.apply(&update("M", &long)), Err(Full::Bytes));
        assert_eq!(list, before);
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
