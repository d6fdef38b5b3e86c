//! A map of which a copy costs next to nothing, for tables that are published after each change.
//!
//! The entries lie in shards, each behind an [`Arc`]. A copy shares all of them; the first change
//! of a shard after that copies this one only. So a table of 100 000 entries that is published
//! after each of them copies some hundred entries each time, and not all.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
};

use hashbrown::{Equivalent, HashTable, hash_table::Entry};

/// Entries per shard on average, beyond which there are twice as many shards.
const FULL: usize = 128;

type Shard<K, V> = Arc<HashTable<(K, V)>>;

/// A map that shares its entries with its copies.
#[derive(Clone, Debug)]
pub struct Shards<K, V> {
    /// As many as a power of two.
    shards: Arc<[Shard<K, V>]>,
    len: usize,
    hasher: RandomState,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self { shards: Arc::new([Arc::default()]), len: 0, hasher: RandomState::new() }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether this is an unchanged copy of `other`, or the other way round. A map that was changed
    /// back is none.
    pub fn is_copy_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shards, &other.shards)
    }

    /// Returns the value of a key.
    pub fn get<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<&V> {
        self.entry(key).map(|(_, value)| value)
    }

    /// Returns a key as it lies here.
    pub fn key<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<&K> {
        self.entry(key).map(|(known, _)| known)
    }

    /// Returns the value of a key, to be changed.
    pub fn get_mut<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<&mut V> {
        // A shard that does not have it is not copied.
        self.get(key)?;
        let hash = self.hasher.hash_one(key);
        let found = self.shard_mut(hash).find_mut(hash, |(known, _)| key.equivalent(known));
        found.map(|(_, value)| value)
    }

    /// Returns the value of a key, to be changed; one that is not there is made before.
    pub fn or_default(&mut self, key: K) -> &mut V
    where
        V: Default,
    {
        if self.get(&key).is_none() {
            self.insert(key.clone(), V::default());
        }
        self.get_mut(&key).expect("it was put just now")
    }

    /// Puts a value; returns the one in whose place it is. The key is replaced as well.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.make_room();
        let (hash, hasher) = (self.hasher.hash_one(&key), self.hasher.clone());
        let entry = self.shard_mut(hash).entry(
            hash,
            |(known, _)| *known == key,
            |(known, _)| hasher.hash_one(known),
        );
        match entry {
            Entry::Occupied(mut entry) => Some(std::mem::replace(entry.get_mut(), (key, value)).1),
            Entry::Vacant(entry) => {
                entry.insert((key, value));
                self.len += 1;
                None
            }
        }
    }

    /// Takes a key out; returns its value.
    pub fn remove<Q: Hash + Equivalent<K> + ?Sized>(&mut self, key: &Q) -> Option<V> {
        self.get(key)?;
        let hash = self.hasher.hash_one(key);
        let found = self.shard_mut(hash).find_entry(hash, |(known, _)| key.equivalent(known));
        let ((_, value), _) = found.ok()?.remove();
        self.len -= 1;
        Some(value)
    }

    /// All entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(key, value)| (key, value))
    }

    /// All keys, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    fn entry<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<&(K, V)> {
        let hash = self.hasher.hash_one(key);
        let shard = &self.shards[place(hash, self.shards.len())];
        shard.find(hash, |(known, _)| key.equivalent(known))
    }

    fn shard_mut(&mut self, hash: u64) -> &mut HashTable<(K, V)> {
        let count = self.shards.len();
        Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[place(hash, count)])
    }

    /// Doubles the shards when they are full: each entry moves a few times at most.
    fn make_room(&mut self) {
        let count = self.shards.len();
        if self.len < count * FULL {
            return;
        }
        let mut shards: Vec<HashTable<(K, V)>> = Vec::new();
        shards.resize_with(count * 2, || HashTable::with_capacity(FULL));
        for (key, value) in self.iter() {
            let hash = self.hasher.hash_one(key);
            shards[place(hash, count * 2)].insert_unique(
                hash,
                (key.clone(), value.clone()),
                |(known, _)| self.hasher.hash_one(known),
            );
        }
        self.shards = shards.into_iter().map(Arc::new).collect();
    }
}

/// The shard of a hash. A shard's own table goes by the ends of the hash, so this takes the middle.
fn place(hash: u64, shards: usize) -> usize {
    (hash >> 24) as usize & (shards - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_copy_stays_as_it_was_and_shares_what_did_not_change() {
        let mut map: Shards<u32, u32> = Shards::default();
        for n in 0..10_000 {
            map.insert(n, n);
        }
        let copy = map.clone();
        assert!(copy.is_copy_of(&map));
        assert_eq!(map.remove(&10_001), None);
        assert!(map.get_mut(&10_001).is_none() && copy.is_copy_of(&map), "nothing was changed");
        assert_eq!(map.insert(7, 70), Some(7));
        assert!(!copy.is_copy_of(&map));
        assert_eq!((copy.get(&7), map.get(&7)), (Some(&7), Some(&70)));
        let shared = std::iter::zip(map.shards.iter(), copy.shards.iter())
            .filter(|(one, other)| Arc::ptr_eq(one, other));
        assert_eq!(shared.count(), map.shards.len() - 1);
        assert!(map.shards.iter().all(|shard| shard.len() < 2 * FULL), "entries are spread");
    }

    proptest! {
        #[test]
        fn it_holds_what_a_map_holds(steps in prop::collection::vec((0..4u8, 0..900u32, 0..9u32), 0..3000)) {
            let (mut shards, mut map) = (Shards::default(), HashMap::new());
            for (step, key, value) in steps {
                match step {
                    0 | 1 => prop_assert_eq!(shards.insert(key, value), map.insert(key, value)),
                    2 => prop_assert_eq!(shards.remove(&key), map.remove(&key)),
                    _ => {
                        *shards.or_default(key) += value;
                        *map.entry(key).or_default() += value;
                    }
                }
                prop_assert_eq!((shards.get(&key), shards.len()), (map.get(&key), map.len()));
            }
            let mut all: Vec<_> = shards.iter().map(|(key, value)| (*key, *value)).collect();
            let mut expected: Vec<_> = map.into_iter().collect();
            all.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(all, expected);
        }
    }
}
