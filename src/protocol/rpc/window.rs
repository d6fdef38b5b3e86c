//! The time in which a token counts, and the tokens that were used in it.
//!
//! The protocol gives tokens no end, so a recorded call could be made again for ever. A host takes
//! a token only within a window around the time at which its signer says it was signed, only once,
//! and none that was signed before the host started, since it knows nothing of the calls of then.
//!
//! Tokens are remembered by the second in which they were signed. A token that comes again says the
//! same second, so it is looked for there alone. When there are too many, the earliest second is
//! forgotten as a whole, and with it goes the right of its tokens to be used: the window is shorter
//! then, but nothing passes twice. Only genuine tokens are remembered, so strangers cannot fill it.

use std::collections::{BTreeMap, HashSet};

use crate::identity::signature::SIGNATURE_BYTES;

/// How far the clocks of signer and receiver may differ, in seconds. It is more than what `exp` and
/// `nbf` are given, because each token has an issue time, those of machines with a bad clock too.
pub const CLOCK_SKEW_SECS: u64 = 30;

/// Tokens that are remembered. Each takes about 15 bytes.
const REMEMBERED_MAX: usize = 1 << 20;

/// The parts of a genuine token that tell it from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// When it was signed, in seconds since 1970 by the signer's clock.
    pub issued_at: u64,
    /// The beginning of its signature. Two of a second are the same by chance once in 10^15 calls.
    pub id: u64,
}

impl Stamp {
    /// Takes the issue time and the signature of a token.
    pub fn new(issued_at: u64, signature: &[u8; SIGNATURE_BYTES]) -> Self {
        // Its first half is a point of the curve that nobody but the signer can choose.
        let id = signature.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Self { issued_at, id }
    }
}

/// The time at a receiver, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Since 1970.
    pub now: u64,
    /// Since the receiver started, by a clock that nobody sets.
    pub uptime: u64,
}

/// Why a genuine token does not count, or not any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untimely {
    #[error(
        "the call's token was signed {age} s ago, and this host takes those of the last {window} s (setting \
         token_window_secs). Sign each call when it is made, and compare the clocks of both machines"
    )]
    Old { age: u64, window: u64 },
    #[error(
        "the call's token was signed {ahead} s in the future, by the clock of this host, which allows for {CLOCK_SKEW_SECS} s. \
         Set the clocks of both machines (setting token_window_secs: 0 on this host takes tokens of any time)"
    )]
    Future { ahead: u64 },
    #[error(
        "the call's token was signed {age} s ago, and this host started {uptime} s ago; it cannot know whether the call was \
         made before. Make the call anew, and compare the clocks of both machines (setting token_window_secs)"
    )]
    BeforeStart { age: u64, uptime: u64 },
    #[error(
        "the call's token was signed {age} s ago, and so many calls come that this host remembers no longer which it took \
         then. Make the call anew, and compare the clocks of both machines"
    )]
    Forgotten { age: u64 },
    #[error(
        "the call's token was used before. A token counts for one call: sign each call anew (if this client does, somebody \
         sends its calls again)"
    )]
    Repeated,
}

/// The tokens that were refused, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refused {
    /// For their time.
    pub untimely: u64,
    /// By how many seconds the last of these was signed in the future; below zero in the past.
    pub last_skew_secs: i64,
    /// Because they were used before.
    pub repeated: u64,
}

impl Refused {
    fn count(&mut self, reason: &Untimely, stamp: Stamp, at: Moment) {
        if *reason == Untimely::Repeated {
            self.repeated += 1;
            return;
        }
        let issued_at = i64::try_from(stamp.issued_at).unwrap_or(i64::MAX);
        self.untimely += 1;
        self.last_skew_secs = issued_at.saturating_sub_unsigned(at.now);
    }
}

/// The window of a host and its memory.
#[derive(Debug)]
pub struct Window {
    secs: u64,
    /// By the second of signing.
    used: BTreeMap<u64, HashSet<u64>>,
    /// Of all seconds.
    remembered: usize,
    remembered_max: usize,
    /// Nothing is known of seconds before this one.
    known_from: u64,
    refused: Refused,
    is_shortened: bool,
}

impl Window {
    /// Takes the longest age of a token, in seconds.
    pub fn new(secs: u64) -> Self {
        Self::bounded(secs, REMEMBERED_MAX)
    }

    fn bounded(secs: u64, remembered_max: usize) -> Self {
        Self {
            secs,
            used: BTreeMap::new(),
            remembered: 0,
            remembered_max,
            known_from: 0,
            refused: Refused::default(),
            is_shortened: false,
        }
    }

    /// Checks a token that is used later, if the rest of its call proves genuine.
    pub fn check(&mut self, stamp: Stamp, at: Moment) -> Result<(), Untimely> {
        self.judge(stamp, at).inspect_err(|reason| self.refused.count(reason, stamp, at))
    }

    /// Uses a token: it passes once.
    pub fn admit(&mut self, stamp: Stamp, at: Moment) -> Result<(), Untimely> {
        self.check(stamp, at)?;
        let first = at.now.saturating_sub(self.secs);
        while self.used.first_key_value().is_some_and(|(second, _)| *second < first) {
            self.forget_a_second();
        }
        self.used.entry(stamp.issued_at).or_default().insert(stamp.id);
        self.remembered += 1;
        if self.remembered > self.remembered_max {
            self.forget_a_second();
            self.is_shortened = true;
        }
        Ok(())
    }

    /// Returns the longest age of a token, in seconds.
    pub fn secs(&self) -> u64 {
        self.secs
    }

    /// Returns how many tokens were refused.
    pub fn refused(&self) -> Refused {
        self.refused
    }

    /// Says whether tokens were forgotten before their time.
    pub fn is_shortened(&self) -> bool {
        self.is_shortened
    }

    fn judge(&self, Stamp { issued_at, id }: Stamp, at: Moment) -> Result<(), Untimely> {
        let age = at.now.saturating_sub(issued_at);
        let ahead = issued_at.saturating_sub(at.now);
        if ahead > CLOCK_SKEW_SECS {
            return Err(Untimely::Future { ahead });
        }
        if age > self.secs {
            return Err(Untimely::Old { age, window: self.secs });
        }
        if age > at.uptime + CLOCK_SKEW_SECS {
            return Err(Untimely::BeforeStart { age, uptime: at.uptime });
        }
        if issued_at < self.known_from {
            return Err(Untimely::Forgotten { age });
        }
        if self.used.get(&issued_at).is_some_and(|used| used.contains(&id)) {
            return Err(Untimely::Repeated);
        }
        Ok(())
    }

    /// Forgets the tokens of the earliest second.
    fn forget_a_second(&mut self) {
        if let Some((second, used)) = self.used.pop_first() {
            self.remembered -= used.len();
            // A clock that is set back does not bring these tokens back.
            self.known_from = self.known_from.max(second + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;
    const WINDOW: u64 = 300;

    fn stamp(issued_at: u64, id: u64) -> Stamp {
        Stamp { issued_at, id }
    }

    fn at(now: u64) -> Moment {
        Moment { now, uptime: 100_000 }
    }

    #[test]
    fn a_token_counts_within_the_window_and_since_the_start() {
        let long = 100_000;
        for (issued_at, uptime, expected) in [
            (NOW, 0, Ok(())),
            (NOW - 30, 0, Ok(())),
            (NOW - 31, 0, Err(Untimely::BeforeStart { age: 31, uptime: 0 })),
            (NOW - 31, 1, Ok(())),
            (NOW + 30, 0, Ok(())),
            (NOW + 31, long, Err(Untimely::Future { ahead: 31 })),
            (NOW - WINDOW, long, Ok(())),
            (NOW - WINDOW - 1, long, Err(Untimely::Old { age: 301, window: WINDOW })),
            (NOW - WINDOW - 1, 0, Err(Untimely::Old { age: 301, window: WINDOW })),
            (0, long, Err(Untimely::Old { age: NOW, window: WINDOW })),
            (u64::MAX, long, Err(Untimely::Future { ahead: u64::MAX - NOW })),
        ] {
            let mut window = Window::new(WINDOW);
            let moment = Moment { now: NOW, uptime };
            assert_eq!(window.check(stamp(issued_at, 1), moment), expected);
            assert_eq!(window.admit(stamp(issued_at, 1), moment), expected);
        }
    }

    #[test]
    fn a_token_passes_once_and_is_remembered_as_long_as_it_counts() {
        let mut window = Window::new(WINDOW);
        for id in 0..1000 {
            assert_eq!(window.admit(stamp(NOW, id), at(NOW)), Ok(()));
        }
        // The same id of another second is another token.
        assert_eq!(window.admit(stamp(NOW + 1, 7), at(NOW)), Ok(()));
        for now in [NOW - 10, NOW, NOW + WINDOW] {
            assert_eq!(window.admit(stamp(NOW, 7), at(now)), Err(Untimely::Repeated));
        }
        assert_eq!(window.refused().repeated, 3);
        let late = NOW + WINDOW + 1;
        assert!(matches!(window.admit(stamp(NOW, 7), at(late)), Err(Untimely::Old { .. })));
        assert_eq!(window.admit(stamp(late, 7), at(late)), Ok(()));
        assert_eq!(window.remembered, 2);
        // The clock is set back: what is forgotten stays refused.
        assert!(matches!(window.admit(stamp(NOW, 7), at(NOW)), Err(Untimely::Forgotten { .. })));
        assert!(!window.is_shortened());
    }

    #[test]
    fn a_full_memory_shortens_the_window_and_lets_nothing_pass_twice() {
        let mut window = Window::bounded(WINDOW, 100);
        for count in 0..1000 {
            let (second, id) = (NOW + count / 10, count);
            assert_eq!(window.admit(stamp(second, id), at(second)), Ok(()));
            assert!(window.remembered <= 100);
        }
        assert!(window.is_shortened());
        let now = NOW + 99;
        for count in 0..1000 {
            let refused = window.admit(stamp(NOW + count / 10, count), at(now)).unwrap_err();
            let is_forgotten = matches!(refused, Untimely::Forgotten { .. });
            assert!(is_forgotten || refused == Untimely::Repeated, "{refused}");
        }
        // One that was never used, of a second that is remembered.
        assert_eq!(window.admit(stamp(now - 5, 5000), at(now)), Ok(()));
    }

    #[test]
    fn refused_tokens_are_counted_with_their_skew() {
        let mut window = Window::new(WINDOW);
        assert_eq!(window.refused(), Refused::default());
        let _ = window.admit(stamp(NOW + 100, 1), at(NOW));
        assert_eq!(window.refused(), Refused { untimely: 1, last_skew_secs: 100, repeated: 0 });
        let _ = window.admit(stamp(NOW - 1000, 1), at(NOW));
        assert_eq!(window.refused(), Refused { untimely: 2, last_skew_secs: -1000, repeated: 0 });
    }
}
