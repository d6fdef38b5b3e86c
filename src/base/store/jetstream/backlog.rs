//! Updates that a watch has received and its follower has not taken yet.
//!
//! The server sends without flow control: a watch that waits for its follower before it reads on
//! loses messages. So the updates wait here. Of each key only the last one waits, so that there are
//! never more than the bucket has keys.

use std::collections::{BTreeMap, HashMap};

use crate::store::Update;
use lattice_protocol::store::Entry;

/// Updates still to come from which on a follower is told that it is behind. Fewer come with any
/// burst and are there at once.
const BEHIND_FROM: u64 = 1024;

/// The updates that wait for the follower, in the order of revisions.
#[derive(Default)]
pub(super) struct Backlog {
    snapshot: Option<Vec<Entry>>,
    waiting: BTreeMap<u64, Update>,
    revisions: HashMap<String, u64>,
    /// Messages that the server has not sent yet.
    pending: u64,
    /// Something was missed, which only a snapshot mends.
    has_gap: bool,
    /// The follower was told that it is behind.
    is_behind: bool,
}

impl Backlog {
    /// Takes everything there is; it replaces what waits.
    pub(super) fn replace(&mut self, entries: Vec<Entry>) {
        *self = Self { snapshot: Some(entries), ..Self::default() };
    }

    /// Takes one change, with the number of messages that the server has not sent yet.
    pub(super) fn push(&mut self, update: Update, pending: u64) {
        self.pending = pending;
        let (key, revision) = match &update {
            Update::Put(entry) => (&entry.key, entry.revision),
            Update::Delete { key, revision } => (key, *revision),
            Update::Snapshot(_) | Update::Behind | Update::Current => return,
        };
        if let Some(older) = self.revisions.insert(key.clone(), revision) {
            self.waiting.remove(&older);
        }
        self.waiting.insert(revision, update);
    }

    /// Notes that a change was missed.
    pub(super) fn miss(&mut self) {
        self.has_gap = true;
    }

    /// Whether there is something to tell.
    pub(super) fn has_next(&self) -> bool {
        self.snapshot.is_some()
            || self.falls_behind()
            || !self.waiting.is_empty()
            || self.catches_up()
    }

    /// Returns the next update for the follower.
    pub(super) fn next(&mut self) -> Option<Update> {
        if let Some(entries) = self.snapshot.take() {
            return Some(Update::Snapshot(entries));
        }
        if self.falls_behind() {
            self.is_behind = true;
            return Some(Update::Behind);
        }
        if let Some((_, update)) = self.waiting.pop_first() {
            if let Update::Put(Entry { key, .. }) | Update::Delete { key, .. } = &update {
                self.revisions.remove(key);
            }
            return Some(update);
        }
        let catches_up = self.catches_up();
        self.is_behind &= !catches_up;
        catches_up.then_some(Update::Current)
    }

    fn falls_behind(&self) -> bool {
        let to_come = self.pending.saturating_add(self.waiting.len() as u64);
        !self.is_behind && (self.has_gap || to_come > BEHIND_FROM)
    }

    fn catches_up(&self) -> bool {
        self.is_behind && !self.has_gap && self.waiting.is_empty() && self.pending == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, revision: u64) -> Update {
        Update::Put(Entry { key: key.to_owned(), value: revision.to_string().into(), revision })
    }

    fn told(backlog: &mut Backlog) -> Vec<Update> {
        std::iter::from_fn(|| backlog.has_next().then(|| backlog.next().expect("announced")))
            .collect()
    }

    #[test]
    fn of_each_key_the_last_change_waits_in_order() {
        let mut backlog = Backlog::default();
        let gone = Update::Delete { key: "b".into(), revision: 4 };
        for update in [put("a", 1), put("b", 2), put("c", 3), gone.clone(), put("a", 5)] {
            backlog.push(update, 0);
        }
        assert_eq!(told(&mut backlog), [put("c", 3), gone, put("a", 5)]);
        assert!(backlog.next().is_none());
    }

    #[test]
    fn a_follower_knows_that_it_is_behind_until_it_has_everything() {
        let mut backlog = Backlog::default();
        backlog.push(put("a", 1), BEHIND_FROM);
        assert_eq!(told(&mut backlog), [Update::Behind, put("a", 1)]);
        backlog.push(put("b", 2), 1);
        assert_eq!(told(&mut backlog), [put("b", 2)]);
        backlog.push(put("c", 3), 0);
        assert_eq!(told(&mut backlog), [put("c", 3), Update::Current]);
        assert!(!backlog.has_next());
    }

    #[test]
    fn only_a_snapshot_mends_a_gap() {
        let mut backlog = Backlog::default();
        backlog.push(put("a", 1), 0);
        backlog.miss();
        assert_eq!(told(&mut backlog), [Update::Behind, put("a", 1)]);
        assert!(!backlog.has_next());
        let Update::Put(entry) = put("b", 3) else { unreachable!() };
        backlog.push(put("c", 4), 0);
        backlog.replace(vec![entry.clone()]);
        assert_eq!(told(&mut backlog), [Update::Snapshot(vec![entry])]);
    }
}
