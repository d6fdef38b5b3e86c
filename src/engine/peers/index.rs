//! A map that many read without a lock and few change: snapshots in shards, so that a change copies
//! a small part of it.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use arc_swap::ArcSwap;

/// A change copies one part of so many.
const SHARDS: usize = 64;

type Shard<V> = ArcSwap<HashMap<Arc<str>, V>>;

/// The map.
pub struct Index<V> {
    shards: Box<[Shard<V>]>,
    /// Keyed by chance, so that nobody can choose names that fall into one shard.
    hasher: RandomState,
}

impl<V> Default for Index<V> {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| ArcSwap::default()).collect();
        Self { shards, hasher: RandomState::new() }
    }
}

impl<V: Clone> Index<V> {
    /// Returns the value of a name.
    pub fn get(&self, name: &str) -> Option<V> {
        self.shard(name).load().get(name).cloned()
    }

    /// Puts another value in the place of the one of a name, if there is one; nothing takes it out.
    /// `change` may run more than once.
    pub fn change(&self, name: &Arc<str>, change: impl Fn(Option<&V>) -> Option<V>) {
        self.shard(name).rcu(|before| {
            let mut after = HashMap::clone(before);
            match change(before.get(name)) {
                Some(value) => after.insert(Arc::clone(name), value),
                None => after.remove(name),
            };
            after
        });
    }

    /// Returns a value for which this holds, looking at one part of the map after the other.
    pub fn find(&self, is_it: impl Fn(&V) -> bool) -> Option<V> {
        self.shards
            .iter()
            .find_map(|shard| shard.load().values().find(|value| is_it(value)).cloned())
    }

    /// Takes out the names that do not stay, which may be asked for more than once.
    pub fn retain(&self, stays: impl Fn(&str) -> bool) {
        for shard in &self.shards {
            if shard.load().keys().all(|name| stays(name)) {
                continue;
            }
            shard.rcu(|before| {
                let staying = before.iter().filter(|(name, _)| stays(name));
                staying
                    .map(|(name, value)| (Arc::clone(name), value.clone()))
                    .collect::<HashMap<_, _>>()
            });
        }
    }

    fn shard(&self, name: &str) -> &Shard<V> {
        // The remainder is below the number of shards.
        let place = self.hasher.hash_one(name) % SHARDS as u64;
        &self.shards[usize::try_from(place).unwrap_or_default()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_change_and_go() {
        let index = Index::default();
        let names: Vec<Arc<str>> = (0..1000).map(|number| format!("M{number}").into()).collect();
        for (number, name) in names.iter().enumerate() {
            index.change(name, |before| {
                assert_eq!(before, None);
                Some(number)
            });
        }
        index.change(&names[7], |before| before.map(|number| number + 1));
        index.change(&names[8], |_| None);
        assert_eq!(
            [&names[6], &names[7], &names[8]].map(|name| index.get(name)),
            [Some(6), Some(8), None]
        );
        assert_eq!(index.get("M1000"), None);
        let find = |wanted: usize| index.find(|number| *number == wanted);
        assert_eq!([6, 7, 8, 999].map(find), [Some(6), None, Some(8), Some(999)]);
        index.retain(|name| name.len() < 3);
        assert_eq!([6, 7, 8, 999].map(find), [Some(6), None, Some(8), None]);
        assert_eq!([&names[9], &names[10]].map(|name| index.get(name)), [Some(9), None]);
    }
}
