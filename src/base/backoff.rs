//! Pauses between attempts: each is twice as long as the one before, up to a limit.
//!
//! A crate such as `backon` has pauses to go through as well, but not the pause [`after`] a number
//! of failures that somebody else counts, and that is all there is to it.

use std::time::Duration;

/// The pauses of a loop that tries until it succeeds.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { failures: 0, first, longest }
    }

    /// Returns the pause to make now, and lengthens the one after it.
    pub fn next_pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        after(self.failures, self.first, self.longest)
    }
}

/// Returns the pause after a number of failures in a row, for callers that count these anyway.
pub fn after(failures: u32, first: Duration, longest: Duration) -> Duration {
    let factor = 2_u32.saturating_pow(failures.saturating_sub(1));
    first.saturating_mul(factor).min(longest)
}

/// Returns a pause of about this length, a half more or less by a number of chance from 0 to 1, so
/// that many who wait do not go on together.
pub fn about(pause: Duration, chance: f64) -> Duration {
    pause.mul_f64(0.5 + chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);

    #[test]
    fn each_pause_is_twice_the_one_before_until_the_longest() {
        let mut backoff = Backoff::new(FIRST, Duration::from_millis(1_000));
        let pauses: Vec<_> = (0..6).map(|_| backoff.next_pause().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_000, 1_000]);
    }

    #[test]
    fn counted_failures_have_the_same_pauses() {
        let mut backoff = Backoff::new(FIRST, Duration::MAX);
        for failures in 1..=10 {
            assert_eq!(after(failures, FIRST, Duration::MAX), backoff.next_pause());
        }
    }

    #[test]
    fn any_number_of_failures_has_a_pause() {
        assert_eq!(after(0, FIRST, Duration::MAX), FIRST);
        assert_eq!(after(u32::MAX, FIRST, Duration::from_secs(10)), Duration::from_secs(10));
        assert_eq!(after(u32::MAX, Duration::MAX, Duration::MAX), Duration::MAX);
    }
}
