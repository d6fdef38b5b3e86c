//! Items that begin or cease to need attention, from one look to the next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use lattice_protocol::attention::{Item, Said};

/// Looks in a row that must find something before it is told: what mends itself at once is no
/// news.
const FOUND: u32 = 2;
/// Looks in a row that must miss something before its end is told.
const MISSED: u32 = 3;
/// Things that are remembered as told.
const OPEN_MAX: usize = 256;

/// Items that begin or end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Began(Item),
    Ended(Item),
}

/// Items that were told and have not ended, as it lies in the bucket: another host goes on with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    #[serde(default)]
    pub open: BTreeMap<String, Item>,
}

/// Compares looks.
#[derive(Debug, Default)]
pub struct Differ {
    found: BTreeMap<String, u32>,
    missed: BTreeMap<String, u32>,
}

impl Differ {
    /// Takes a look, and changes what was told. Something that is muted is not told; that it ends
    /// is told of what had been told before.
    pub fn look(&mut self, told: &mut Told, items: &[Item]) -> Vec<Change> {
        let now: BTreeMap<&str, &Item> = items.iter().map(|item| (&*item.key, item)).collect();
        self.found.retain(|key, _| now.contains_key(key.as_str()));
        self.missed.retain(|key, _| told.open.contains_key(key) && !now.contains_key(key.as_str()));
        let mut changes = Vec::new();
        for (key, item) in now {
            let is_muted = item.mark.as_ref().is_some_and(|mark| mark.said == Said::Mute);
            let times = self.found.entry(key.to_owned()).or_default();
            *times += 1;
            let is_news = *times >= FOUND && !is_muted && !told.open.contains_key(key);
            if is_news && told.open.len() < OPEN_MAX {
                told.open.insert(key.to_owned(), item.clone());
                changes.push(Change::Began(item.clone()));
            }
        }
        let gone: Vec<String> =
            told.open.keys().filter(|key| !self.found.contains_key(*key)).cloned().collect();
        for key in gone {
            let times = self.missed.entry(key.clone()).or_default();
            *times += 1;
            if *times >= MISSED
                && let Some(item) = told.open.remove(&key)
            {
                changes.push(Change::Ended(item));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::attention::Mark;

    fn item(key: &str) -> Item {
        Item { key: key.into(), ..Item::default() }
    }

    fn muted(key: &str) -> Item {
        Item { mark: Some(Mark { said: Said::Mute, ..Mark::default() }), ..item(key) }
    }

    #[test]
    fn what_lasts_is_told_once_and_so_is_its_end() {
        let (mut differ, mut told) = (Differ::default(), Told::default());
        let mut look = |items: &[Item]| differ.look(&mut told, items);
        assert!(look(&[item("a")]).is_empty());
        assert_eq!(look(&[item("a"), item("b")]), [Change::Began(item("a"))]);
        // B was there for a moment only.
        assert!(look(&[item("a")]).is_empty());
        assert!(look(&[]).is_empty() && look(&[item("a")]).is_empty(), "one look missed it");
        assert!(look(&[]).is_empty() && look(&[]).is_empty());
        assert_eq!(look(&[]), [Change::Ended(item("a"))]);
        assert!(look(&[]).is_empty());
    }

    #[test]
    fn what_is_muted_is_not_told_but_the_end_of_what_was_told_is() {
        let (mut differ, mut told) = (Differ::default(), Told::default());
        for _ in 0..3 {
            assert!(differ.look(&mut told, &[muted("a")]).is_empty());
        }
        assert_eq!(differ.look(&mut told, &[item("a")]), [Change::Began(item("a"))]);
        assert!(differ.look(&mut told, &[muted("a")]).is_empty());
        let ends: Vec<_> = (0..3).flat_map(|_| differ.look(&mut told, &[])).collect();
        assert_eq!(ends, [Change::Ended(item("a"))]);
    }

    #[test]
    fn another_host_goes_on_with_what_was_told() {
        let mut told = Told { open: BTreeMap::from([("a".to_owned(), item("a"))]) };
        let mut differ = Differ::default();
        assert!((0..3).all(|_| differ.look(&mut told, &[item("a")]).is_empty()));
        let ends: Vec<_> = (0..3).flat_map(|_| differ.look(&mut told, &[])).collect();
        assert_eq!(ends, [Change::Ended(item("a"))]);
    }
}
