//! How much memory an answer may take.
//!
//! Anybody who may answer in the name of a host can say anything, and a text of few bytes may
//! become many: `{}` is an actor of which everything is missing, and takes a hundred times as much
//! memory as text; so may `[]`. So the objects and lists of an answer are counted before it is
//! read.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// Objects and lists that any answer may have.
const OBJECTS_FREE: usize = 1000;
/// Bytes of text for each further one: those that hosts write have more. An object takes less than
/// 512 bytes in memory, so an answer takes no more than 16 times its text, and half a megabyte.
const OBJECT_TEXT_MIN: usize = 32;

/// Why an answer is not read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("it is no JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    #[error(
        "it has {objects} objects and lists in {bytes} bytes, and no host answers so; who else answers for it?"
    )]
    Inflated { objects: usize, bytes: usize },
}

/// Checks that an answer takes no more memory than its text lets expect.
pub fn check(json: &[u8]) -> Result<(), Unreadable> {
    let (Counted { objects, .. }, bytes) = (serde_json::from_slice(json)?, json.len());
    if objects > OBJECTS_FREE + bytes / OBJECT_TEXT_MIN {
        return Err(Unreadable::Inflated { objects, bytes });
    }
    Ok(())
}

/// The number of objects and lists in some JSON, at any depth. A list of values in their order
/// is read as an object as well.
#[derive(Default)]
struct Counted {
    objects: usize,
    is_number: bool,
}

struct Counter;

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Counter)
    }
}

impl<'de> Visitor<'de> for Counter {
    type Value = Counted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Counted, E> {
        Ok(Counted::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Counted, E> {
        Ok(Counted::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Counted, E> {
        Ok(Counted { objects: 0, is_number: true })
    }

    fn visit_f64<E>(self, _: f64) -> Result<Counted, E> {
        Ok(Counted::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Counted, E> {
        Ok(Counted::default())
    }

    fn visit_unit<E>(self) -> Result<Counted, E> {
        Ok(Counted::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Counted, A::Error> {
        let (mut objects, mut items_len, mut is_numbers) = (1, 0, true);
        while let Some(item) = items.next_element::<Counted>()? {
            objects += item.objects;
            items_len += 1;
            is_numbers &= item.is_number;
        }
        // Pairs of numbers, of which histograms have many, take little memory.
        objects -= usize::from(is_numbers && items_len == 2);
        Ok(Counted { objects, is_number: false })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Counted, A::Error> {
        let mut objects = 1;
        while let Some((IgnoredAny, member)) = members.next_entry::<IgnoredAny, Counted>()? {
            objects += member.objects;
        }
        Ok(Counted { objects, is_number: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::types::{Inventory, InventoryActor, InventoryInstance};

    #[test]
    fn what_a_host_answers_is_read_and_what_would_fill_the_memory_is_not() {
        let actor = InventoryActor {
            id: "M".repeat(56),
            instances: vec![InventoryInstance::default(); 2],
            ..InventoryActor::default()
        };
        let inventory = Inventory { actors: vec![actor; 3000], ..Inventory::default() };
        let list =
            |one: &str| format!(r#"{{"actors":[{one}{}]}}"#, format!(",{one}").repeat(50_000));
        let nested = format!(r#"{{"actors":[{{"instances":[{{}}{}]}}]}}"#, ",{}".repeat(50_000));
        for (answer, is_read) in [
            (serde_json::to_string(&inventory).unwrap(), true),
            (r#"{"a":[1,-1,1.5,"x",null,true,{}]}"#.to_owned(), true),
            (list("{}"), false),
            (list("[]"), false),
            (list("[1,2]"), true),
            (list("[[1,2]]"), false),
            (list(r#"{"id":"M"}"#), false),
            (list(&format!("{{\"id\":\"{}\"}}", "M".repeat(56))), true),
            (nested, false),
            ("[".repeat(500) + &"]".repeat(500), false),
            ("{".to_owned(), false),
        ] {
            assert_eq!(check(answer.as_bytes()).is_ok(), is_read, "{answer:.60}");
        }
    }
}
