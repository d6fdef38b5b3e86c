//! Friendly names: `calm-otter-0042`, the same for a key whenever its host starts.

use lattice_protocol::identity::digest::sha256;

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

/// Returns the name of a host, by its public key: what was said of it under this name stays true.
pub fn friendly(public_key: &str) -> String {
    let digest = sha256(public_key.as_bytes());
    let number = |at: usize| usize::from(u16::from_be_bytes([digest[at], digest[at + 1]]));
    let adjective = ADJECTIVES[number(0) % ADJECTIVES.len()];
    let noun = NOUNS[number(2) % NOUNS.len()];
    format!("{adjective}-{noun}-{:04}", 1 + number(4) % 9999)
}

#[cfg(test)]
mod tests {
    use super::friendly;

    #[test]
    fn a_key_has_one_name_of_three_parts_and_four_digits() {
        let name = friendly("NABC");
        assert_eq!(name, friendly("NABC"));
        assert_ne!(name, friendly("NABD"));
        let parts: Vec<&str> = name.split('-').collect();
        assert_eq!(parts.len(), 3, "{name}");
        assert!(parts[2].len() == 4 && parts[2].parse::<u16>().is_ok(), "{name}");
    }
}
