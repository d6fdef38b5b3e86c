//! Batches that the stream has not taken yet, oldest first. When there are too many, the oldest go.

use std::collections::VecDeque;

use bytes::Bytes;

/// Batches that wait while the stream is away.
const BATCHES_MAX: usize = 512;
/// Bytes that wait, of all batches.
const BYTES_MAX: usize = 8 << 20;

/// A batch as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    pub key: String,
    /// Tells a repeated write from another batch.
    pub id: String,
    pub payload: Bytes,
    /// Entries in it.
    pub entries: u64,
}

/// The batches that wait.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Prepared>,
    bytes: usize,
}

impl Outbox {
    /// Takes a batch in; returns how many entries were dropped for it.
    pub(super) fn push(&mut self, batch: Prepared) -> u64 {
        self.bytes += batch.payload.len();
        self.waiting.push_back(batch);
        let mut dropped = 0;
        while self.waiting.len() > BATCHES_MAX || self.bytes > BYTES_MAX {
            dropped += self.pop().map_or(0, |batch| batch.entries);
        }
        dropped
    }

    /// Returns the batch to write next; it stays until [`Outbox::pop`].
    pub(super) fn first(&self) -> Option<&Prepared> {
        self.waiting.front()
    }

    /// Takes the first batch out.
    pub(super) fn pop(&mut self) -> Option<Prepared> {
        let batch = self.waiting.pop_front()?;
        self.bytes -= batch.payload.len();
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(number: usize, bytes: usize) -> Prepared {
        let payload = Bytes::from(vec![0; bytes]);
        Prepared { key: "EVENTS.N".into(), id: number.to_string(), payload, entries: 3 }
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_they_are_too_large() {
        let mut outbox = Outbox::default();
        let dropped: u64 = (0..BATCHES_MAX + 2).map(|n| outbox.push(batch(n, 1))).sum();
        assert_eq!((dropped, outbox.first().map(|first| &*first.id)), (6, Some("2")));
        assert_eq!(outbox.push(batch(9999, BYTES_MAX)), 3 * BATCHES_MAX as u64);
        assert_eq!(outbox.pop().map(|batch| batch.id), Some("9999".to_owned()));
        assert_eq!((outbox.bytes, outbox.pop()), (0, None));
    }
}
