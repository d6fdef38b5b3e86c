//! Friendly names: `calm-otter-0042`, drawn at each start.

use rand::{Rng, seq::IndexedRandom};

const ADJECTIVES: [&str; 40] = [
    "amber", "ancient", "autumn", "bold", "brisk", "calm", "clever", "coastal", "copper",
    "crimson", "dawn", "early", "fair", "gentle", "golden", "green", "hidden", "high", "honest",
    "icy", "jolly", "keen", "late", "lively", "lucky", "misty", "morning", "northern", "patient",
    "proud", "quiet", "rapid", "silver", "sleepy", "southern", "steady", "sunny", "swift", "tidal",
    "wild",
];
const NOUNS: [&str; 40] = [
    "badger", "bay", "birch", "brook", "cedar", "cliff", "comet", "crane", "delta", "dune",
    "ember", "falcon", "fern", "field", "fjord", "fox", "glade", "harbor", "heron", "hill",
    "island", "lake", "lantern", "maple", "meadow", "moon", "oak", "otter", "pebble", "pine",
    "reef", "river", "robin", "sail", "sparrow", "star", "stone", "tide", "valley", "willow",
];

/// Draws a name.
pub fn friendly() -> String {
    let mut rng = rand::rng();
    let (adjective, noun) = (word(&ADJECTIVES, &mut rng), word(&NOUNS, &mut rng));
    format!("{adjective}-{noun}-{:04}", rng.random_range(1..=9999))
}

fn word(words: &[&'static str], rng: &mut impl Rng) -> &'static str {
    words.choose(rng).copied().unwrap_or("host")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_has_three_parts_and_four_digits() {
        let name = super::friendly();
        let parts: Vec<&str> = name.split('-').collect();
        assert_eq!(parts.len(), 3, "{name}");
        assert!(parts[2].len() == 4 && parts[2].parse::<u16>().is_ok(), "{name}");
    }
}
