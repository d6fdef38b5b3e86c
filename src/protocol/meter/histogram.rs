//! How long calls took, in buckets that grow with the time.
//!
//! Times up to eight [`UNIT_NS`] have a bucket each; above, every doubling has eight buckets of the
//! same width. So a bucket is at most an eighth as wide as its times are long, and a percentile
//! taken from its middle is at most 6 % off. Times longer than [`LONGEST_NS`] count as that.
//!
//! [`Buckets`] are the atomics that calls are counted in, [`Histogram`] is what was read of them:
//! plain, sparse, and made to be added up over hosts and subtracted between two looks.
//!
//! The crate `histogram` has such atomics, too, but its sparse form tells a bucket by a number that
//! depends on a configuration, and histograms of two configurations cannot be added. Here a bucket
//! is told by where it ends, so those of hosts of any version can.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The finest step, in nanoseconds.
const UNIT_NS: u64 = 1 << UNIT_SHIFT;
const UNIT_SHIFT: u32 = 7;
/// Buckets of one doubling, as a power of two.
const STEPS_SHIFT: u32 = 3;
const STEPS: u64 = 1 << STEPS_SHIFT;
/// Doublings above the first eight units: up to 69 seconds, longer than any call may take.
const DOUBLINGS: u32 = 26;
const BUCKETS: usize = (STEPS as usize) * (DOUBLINGS as usize + 1);
/// The end of the last bucket.
const LONGEST_NS: u64 = UNIT_NS << (DOUBLINGS + STEPS_SHIFT);

/// The ends of the buckets that `/metrics` tells, in microseconds.
pub const BOUNDS_US: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Returns the number of the bucket of `/metrics` that has a duration and counts it. Where one of
/// our buckets is cut by a bound, some are counted in the neighbour of their own; they have none.
pub fn coarse(ns: u64) -> Option<usize> {
    let middle = middle_ns(upper_ns(index(ns)));
    let counted = BOUNDS_US.iter().take_while(|us| middle > (**us * 1000) as f64).count();
    let own = BOUNDS_US.iter().take_while(|us| ns > **us * 1000).count();
    (counted == own).then_some(own)
}

/// Counts durations. Every method is a few instructions and takes no lock.
pub struct Buckets([AtomicU64; BUCKETS]);

impl Default for Buckets {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Buckets {
    /// Counts one duration.
    pub fn count(&self, ns: u64) {
        self.0[index(ns)].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how many were counted.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(count.load(Ordering::Relaxed)))
    }

    /// Returns the counts so far.
    pub fn read(&self) -> Histogram {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed)).enumerate();
        Histogram(
            counts
                .filter(|(_, count)| *count > 0)
                .map(|(index, count)| (upper_ns(index), count))
                .collect(),
        )
    }
}

/// The bucket of a duration.
fn index(ns: u64) -> usize {
    let units = ns.min(LONGEST_NS - 1) >> UNIT_SHIFT;
    if units < STEPS {
        return units as usize;
    }
    let shift = units.ilog2() - STEPS_SHIFT;
    // The leading bit, which all of a doubling have, makes the first of its buckets the eighth of
    // those before.
    (u64::from(shift) * STEPS + (units >> shift)) as usize
}

/// Where a bucket ends.
fn upper_ns(index: usize) -> u64 {
    let index = index as u64;
    if index < STEPS {
        return (index + 1) << UNIT_SHIFT;
    }
    let shift = index / STEPS - 1;
    (index % STEPS + STEPS + 1) << (shift + u64::from(UNIT_SHIFT))
}

/// The middle of the bucket that ends here.
fn middle_ns(upper: u64) -> f64 {
    // The end of a bucket belongs to the next one.
    let lower = match index(upper.saturating_sub(1)) {
        0 => 0,
        index => upper_ns(index - 1),
    };
    (lower as f64 + upper as f64) / 2.0
}

/// How many durations were below which: the end of each bucket in nanoseconds, and the number in
/// it. Empty buckets are left out. On the wire it is a list of pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram(BTreeMap<u64, u64>);

impl Histogram {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    pub fn add(&mut self, other: &Self) {
        for (upper, count) in &other.0 {
            let sum = self.0.entry(*upper).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    /// Returns the counts that came after an earlier look at the same buckets.
    pub fn since(&self, earlier: &Self) -> Self {
        let later = self.0.iter().map(|(upper, count)| {
            let before = earlier.0.get(upper).copied().unwrap_or(0);
            (*upper, count.saturating_sub(before))
        });
        Self(later.filter(|(_, count)| *count > 0).collect())
    }

    /// How many are in each of the buckets that end at these bounds, in nanoseconds and growing,
    /// and above the last one. A bucket of ours that a bound cuts counts below it if its middle
    /// does.
    pub fn in_buckets(&self, bounds_ns: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut counts = Vec::new();
        let mut rest = self.0.iter().peekable();
        for bound in bounds_ns {
            let mut count = 0_u64;
            while let Some((_, found)) =
                rest.next_if(|(upper, _)| middle_ns(**upper) <= bound as f64)
            {
                count = count.saturating_add(*found);
            }
            counts.push(count);
        }
        counts.push(rest.fold(0, |sum: u64, (_, count)| sum.saturating_add(*count)));
        counts
    }

    /// The duration that this share of all do not exceed, in nanoseconds; `None` if there are none.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let wanted = (self.count() as f64 * share).ceil().max(1.0) as u64;
        let mut passed = 0_u64;
        let (upper, _) = self.0.iter().find(|(_, count)| {
            passed = passed.saturating_add(**count);
            passed >= wanted
        })?;
        Some(middle_ns(*upper))
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = Option::<Vec<(u64, u64)>>::deserialize(deserializer)?;
        Ok(Self(pairs.unwrap_or_default().into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_the_bucket_that_ends_after_it() {
        let mut ends = (0..BUCKETS).map(upper_ns);
        assert!(ends.by_ref().is_sorted() && upper_ns(BUCKETS - 1) == LONGEST_NS);
        for ns in (0..LONGEST_NS).step_by(999_983).chain(0..20_000) {
            let index = index(ns);
            let lower = if index == 0 { 0 } else { upper_ns(index - 1) };
            assert!((lower..upper_ns(index)).contains(&ns), "{ns} in {lower}..{}", upper_ns(index));
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_bucket_that_tells_of_a_duration_is_the_one_that_counts_it() {
        for ns in [0, 1, 48_000, 51_201, 97_000, 900_000, 3_000_000, 12_000_000_000, u64::MAX] {
            let buckets = Buckets::default();
            buckets.count(ns);
            let counts = buckets.read().in_buckets(BOUNDS_US.iter().map(|us| us * 1000));
            assert_eq!(counts.len(), BOUNDS_US.len() + 1);
            let bucket = coarse(ns).unwrap_or_else(|| panic!("{ns}"));
            assert_eq!(counts.iter().position(|count| *count == 1), Some(bucket), "{ns}");
        }
        // Counted above 50 µs, with all that take up to 51.2.
        assert_eq!(coarse(49_500), None);
    }

    #[test]
    fn percentiles_are_right_within_a_tenth() {
        for scale in [1_000, 37_000, 1_000_000, 5_000_000_000 / 1000] {
            let buckets = Buckets::default();
            (1..=1000).for_each(|n| buckets.count(n * scale));
            let read = buckets.read();
            assert_eq!(read.count(), 1000);
            for (share, n) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0)] {
                let (found, exact) = (read.percentile(share).unwrap(), n * scale as f64);
                assert!(
                    (found / exact - 1.0).abs() < 0.1,
                    "{share} of {scale}: {found} for {exact}"
                );
            }
        }
        assert_eq!(Histogram::default().percentile(0.5), None);
    }

    #[test]
    fn looks_are_subtracted_and_hosts_added_up() {
        let buckets = Buckets::default();
        buckets.count(1_000);
        let first = buckets.read();
        buckets.count(1_000);
        buckets.count(1_000_000);
        let between = buckets.read().since(&first);
        assert_eq!(between.count(), 2);
        let mut both = between.clone();
        both.add(&first);
        assert_eq!(both, buckets.read());
        // A host that was started again has counted less than before.
        assert_eq!(first.since(&buckets.read()).count(), 0);
        let wire = serde_json::to_string(&both).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&wire).unwrap(), both);
        assert_eq!(serde_json::from_str::<Histogram>("null").unwrap(), Histogram::default());
    }
}
