//! How much is kept of what hosts say of themselves: whoever may publish events can say anything,
//! in the name of hosts that are not there.
//!
//! Texts are cut to what a host of this make may have. Inventories are weighed, since a short text
//! may become much in memory, and all of them together have a budget; those that are kept already
//! go before new ones.

pub(super) use lattice_base::config::labels::kept as labels;
use lattice_protocol::control::{
    bounds::NAME_BYTES_MAX,
    probe::health::Health,
    types::{Inventory, Pairs},
};

/// Bytes in memory of one inventory.
const INVENTORY_BYTES_MAX: usize = 16 << 20;
/// Bytes in memory of all inventories.
const INVENTORIES_BYTES_MAX: usize = 256 << 20;
/// Bytes in memory of an actor, a group of instances or a provider, and of a pair or an export,
/// beside the texts.
const ENTRY_BYTES: usize = 512;
const PAIR_BYTES: usize = 64;
/// How much more bytes a health takes in memory than in its text.
const HEALTH_FACTOR: usize = 4;

/// Returns as much of a name or a version as is kept.
pub(super) fn name(text: &str) -> &str {
    &text[..text.floor_char_boundary(NAME_BYTES_MAX)]
}

/// Returns the labels of an answer that are kept.
pub(super) fn labels_of(all: &Pairs) -> Pairs {
    labels(all.iter().map(|(key, value)| (&**key, &**value)))
}

/// Whether what a host tells is kept with this weight beside `others`. What is no more than it told
/// `before` always is, or no host could tell that it runs less where there is no room.
pub(super) fn has_room(weight: usize, before: usize, others: usize) -> bool {
    let fits =
        weight <= INVENTORY_BYTES_MAX && others.saturating_add(weight) <= INVENTORIES_BYTES_MAX;
    weight <= before || fits
}

/// Returns about how many bytes an inventory takes in memory: those of its text, and more for all
/// that is in it.
pub(super) fn weight(inventory: &Inventory) -> usize {
    let Inventory { labels, actors, providers, .. } = inventory;
    let groups = || actors.iter().flat_map(|actor| &actor.instances);
    let exports = actors.iter().flat_map(|actor| &actor.code).map(|code| code.exports.len());
    let annotations = groups().map(|group| group.annotations.len()).sum::<usize>()
        + providers.iter().map(|provider| provider.annotations.len()).sum::<usize>();
    let entries = 1 + actors.len() + groups().count() + providers.len();
    let pairs = labels.len() + annotations + exports.sum::<usize>();
    // It was read from such a text.
    let text = serde_json::to_vec(inventory).map_or(usize::MAX, |text| text.len());
    text.saturating_add(entries * ENTRY_BYTES + pairs * PAIR_BYTES)
}

/// Returns about how many bytes a health takes in memory.
pub(super) fn weight_of_health(health: &Health) -> usize {
    // It was read from such a text.
    serde_json::to_vec(health).map_or(0, |text| text.len()).saturating_mul(HEALTH_FACTOR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_base::config::labels::{KEY_BYTES_MAX, LABELS_MAX, VALUE_BYTES_MAX};
    use lattice_protocol::control::types::{InventoryActor, InventoryInstance};

    #[test]
    fn names_and_labels_are_kept_as_far_as_a_host_of_this_make_may_have_them() {
        assert_eq!(name("calm-otter"), "calm-otter");
        assert!(name(&"ß".repeat(1000)).len() <= NAME_BYTES_MAX);
        let kept = |all: Vec<(String, String)>| labels_of(&all.into_iter().collect()).len();
        let one = |key: usize, value: usize| vec![("k".repeat(key), "v".repeat(value))];
        for (all, expected) in [
            (one(KEY_BYTES_MAX, VALUE_BYTES_MAX), 1),
            (one(KEY_BYTES_MAX + 1, 1), 0),
            (one(1, VALUE_BYTES_MAX + 1), 0),
            ((0..100).map(|key| (key.to_string(), String::new())).collect(), LABELS_MAX),
        ] {
            assert_eq!(kept(all), expected);
        }
    }

    #[test]
    fn an_inventory_is_weighed_by_what_it_takes_in_memory() {
        let large = Inventory {
            actors: vec![
                InventoryActor {
                    instances: vec![InventoryInstance::default(); 9],
                    ..InventoryActor::default()
                };
                5000
            ],
            ..Inventory::default()
        };
        let long = Inventory { friendly_name: "n".repeat(17 << 20), ..Inventory::default() };
        for (inventory, before, others, is_kept) in [
            (&Inventory::default(), 0, 0, true),
            (&Inventory::default(), 0, INVENTORIES_BYTES_MAX, false),
            (&Inventory::default(), weight(&Inventory::default()), INVENTORIES_BYTES_MAX, true),
            (&large, weight(&Inventory::default()), 0, false),
            (&long, 0, 0, false),
        ] {
            assert_eq!(has_room(weight(inventory), before, others), is_kept);
        }
        let health = |name: usize| Health { friendly_name: "n".repeat(name), ..Health::default() };
        for (health, is_kept) in [(health(9), true), (health(INVENTORY_BYTES_MAX / 4), false)] {
            assert_eq!(has_room(weight_of_health(&health), 0, 0), is_kept);
        }
    }
}
