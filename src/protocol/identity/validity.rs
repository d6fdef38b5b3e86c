//! When a token counts, how people are told so, and which of two is the newer: the same for actors
//! and providers.
//!
//! Times are seconds since 1970, as tokens count.

use crate::clock;

/// Reads the clock. A clock before 1970 counts as 1970.
pub fn now() -> u64 {
    clock::unix_time().as_secs()
}

/// The time nearest to `now` at which a token counts: to check everything else about one that does
/// not count now.
pub fn nearest(not_before: Option<u64>, expires: Option<u64>, now: u64) -> u64 {
    now.max(not_before.unwrap_or(0)).min(expires.unwrap_or(u64::MAX))
}

/// Where a moment lies in the time a token counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    NotYet,
    InForce,
    Expired,
}

impl Term {
    /// Looks where `now` lies. The first and the last second count.
    pub(super) fn at(not_before: Option<u64>, expires: Option<u64>, now: u64) -> Self {
        if expires.is_some_and(|expires| expires < now) {
            return Self::Expired;
        }
        if not_before.is_some_and(|begins| begins > now) { Self::NotYet } else { Self::InForce }
    }
}

/// Gives the claims of actors and of providers, whose members are named alike, what they have in
/// common.
macro_rules! methods {
    ($claims:ident) => {
        impl $claims {
            /// Says where `now` lies in the time the token counts.
            pub fn standing_at(&self, now: u64) -> validity::Term {
                validity::Term::at(self.not_before, self.expires, now)
            }

            /// Says whether the token has expired since it was read. Its last second still counts.
            pub fn is_expired(&self, now: u64) -> bool {
                self.standing_at(now) == validity::Term::Expired
            }

            /// Returns the revision that versions are compared by: the signed one, or the time of
            /// signing where that is missing or not positive (the older host's rule).
            pub fn effective_revision(&self) -> u64 {
                match self.revision {
                    Some(revision) if revision > 0 => u64::from(revision.unsigned_abs()),
                    _ => self.issued_at,
                }
            }

            /// Returns "never", "in 3 days", "2 hours ago".
            pub fn expires_human(&self) -> String {
                validity::relative(self.expires, validity::now(), "never")
            }

            /// Returns "immediately", "in 3 days", "2 hours ago".
            pub fn not_before_human(&self) -> String {
                validity::relative(self.not_before, validity::now(), "immediately")
            }
        }
    };
}
pub(super) use methods;

/// Names a time by its distance, rounded down to the largest unit that fits.
pub(super) fn relative(time: Option<u64>, now: u64, unset: &str) -> String {
    const UNITS: [(u64, &str); 4] =
        [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];

    let Some(time) = time else {
        return unset.to_owned();
    };
    let distance = time.abs_diff(now);
    let Some((seconds, unit)) = UNITS.into_iter().find(|(seconds, _)| distance >= *seconds) else {
        return "now".to_owned();
    };
    let count = distance / seconds;
    let plural = if count == 1 { "" } else { "s" };
    if time > now {
        format!("in {count} {unit}{plural}")
    } else {
        format!("{count} {unit}{plural} ago")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_time_is_now_or_an_end_of_the_term() {
        assert_eq!(nearest(None, None, 5), 5);
        assert_eq!(nearest(Some(7), Some(9), 5), 7);
        assert_eq!(nearest(Some(1), Some(3), 5), 3);
    }

    #[test]
    fn a_token_counts_from_its_first_second_to_its_last() {
        for (not_before, expires, term) in [
            (None, None, Term::InForce),
            (Some(5), Some(5), Term::InForce),
            (Some(6), None, Term::NotYet),
            (None, Some(4), Term::Expired),
            (Some(6), Some(4), Term::Expired),
        ] {
            assert_eq!(Term::at(not_before, expires, 5), term, "{not_before:?} to {expires:?}");
        }
    }

    #[test]
    fn times_are_told_by_distance() {
        for (time, text) in [
            (1_000_000, "now"),
            (1_000_001, "in 1 second"),
            (1_000_119, "in 1 minute"),
            (1_007_300, "in 2 hours"),
            (1_000_000 + 86_400 * 40, "in 40 days"),
            (999_940, "1 minute ago"),
            (0, "11 days ago"),
        ] {
            assert_eq!(relative(Some(time), 1_000_000, ""), text);
        }
        assert_eq!(relative(None, 1_000_000, "never"), "never");
    }
}
