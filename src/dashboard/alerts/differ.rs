//! Items that begin or cease to need attention, from one look to the next.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use lattice_protocol::attention::{Item, Said};

/// Looks in a row that must find something before it is told: what mends itself at once is no
/// news.
const FOUND: u32 = 2;
/// Looks in a row that must miss something before its end is told.
const MISSED: u32 = 3;
/// Things that are remembered as told.
const OPEN_MAX: usize = 256;
/// Items that begin in one look, and as many that end: the queue of the webhook has room for few.
const NEWS_MAX: usize = 25;

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
    /// Takes a look at items, the most pressing first, and changes what was told. Something that is
    /// muted is not told; that it ends is told of what had been told before. Of many news the rest
    /// is told by the next looks.
    pub fn look(&mut self, told: &mut Told, items: &[Item]) -> Vec<Change> {
        let mut now: BTreeSet<&str> = items.iter().map(|item| &*item.key).collect();
        self.found.retain(|key, _| now.contains(key.as_str()));
        self.missed.retain(|key, _| told.open.contains_key(key) && !now.contains(key.as_str()));
        let mut changes = Vec::new();
        for item in items {
            // Each key once; of several items with the same the first is the most pressing.
            if !now.remove(&*item.key) {
                continue;
            }
            let is_muted = item.mark.as_ref().is_some_and(|mark| mark.said == Said::Mute);
            let times = self.found.entry(item.key.clone()).or_default();
            *times += 1;
            let is_news = *times >= FOUND && !is_muted && !told.open.contains_key(&item.key);
            if is_news && told.open.len() < OPEN_MAX && changes.len() < NEWS_MAX {
                told.open.insert(item.key.clone(), item.clone());
                changes.push(Change::Began(item.clone()));
            }
        }
        changes.extend(self.ended(told));
        changes
    }

    /// Returns what ended by the look that was taken.
    fn ended(&mut self, told: &mut Told) -> Vec<Change> {
        let gone: Vec<String> =
            told.open.keys().filter(|key| !self.found.contains_key(*key)).cloned().collect();
        let mut ends = Vec::new();
        for key in gone {
            let times = self.missed.entry(key.clone()).or_default();
            *times += 1;
            if *times >= MISSED
                && ends.len() < NEWS_MAX
                && let Some(item) = told.open.remove(&key)
            {
                ends.push(Change::Ended(item));
            }
        }
        ends
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
    fn of_many_news_the_most_pressing_are_told_first_and_each_once() {
        let (mut differ, mut told) = (Differ::default(), Told::default());
        let mut items: Vec<Item> =
            (0..2 * NEWS_MAX).rev().map(|number| item(&format!("{number:03}"))).collect();
        items.push(items[0].clone());
        assert!(differ.look(&mut told, &items).is_empty());
        let began = |part: &[Item]| part.iter().cloned().map(Change::Began).collect::<Vec<_>>();
        assert_eq!(differ.look(&mut told, &items), began(&items[..NEWS_MAX]));
        assert_eq!(differ.look(&mut told, &items), began(&items[NEWS_MAX..2 * NEWS_MAX]));
        assert!(differ.look(&mut told, &items).is_empty());
        let ends = [(); 5].map(|()| differ.look(&mut told, &[]).len());
        assert_eq!(ends, [0, 0, NEWS_MAX, NEWS_MAX, 0]);
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
