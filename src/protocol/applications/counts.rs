//! Divides instances among the rules of a spread (wadm, section 4.3).
//!
//! The rest after rounding down goes to the rules with the greatest weights, one each. So 4 by
//! weights of 80 and 20 are 4 and 0, where nearest shares would be 3 and 1. It is kept as it was:
//! a lattice that was steered by the old manager must not move anything when hosts take over.

use super::manifest::Spread;

/// Returns the count of each rule, in the order of the rules. All weights of 0 give no rule
/// anything; such a manifest is refused before.
pub fn counts(instances: u32, spread: &[Spread]) -> Vec<u32> {
    let sum: u64 = spread.iter().map(|rule| u64::from(rule.weight())).sum();
    if sum == 0 {
        return vec![0; spread.len()];
    }
    let share = |rule: &Spread| {
        // At most `instances`, since no weight is greater than their sum.
        u32::try_from(u64::from(instances) * u64::from(rule.weight()) / sum).unwrap_or(instances)
    };
    let mut counts: Vec<u32> = spread.iter().map(share).collect();
    let given: u32 = counts.iter().sum();
    let mut by_weight: Vec<usize> = (0..spread.len()).collect();
    // Stable: of equal weights the first in the manifest comes first.
    by_weight.sort_by_key(|index| std::cmp::Reverse(spread[*index].weight()));
    // Less than one for each rule is left.
    for index in by_weight.into_iter().take((instances - given) as usize) {
        counts[index] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_the_old_manager() {
        for (instances, weights, expected) in [
            (10, &[100, 100][..], &[5, 5][..]),
            (7, &[30, 40], &[3, 4]),
            (7, &[100, 100], &[4, 3]),
            (103, &[42, 3, 37, 384], &[10, 0, 8, 85]),
            (5, &[40, 40, 20], &[2, 2, 1]),
            (5, &[40, 40], &[3, 2]),
            (4, &[80, 20], &[4, 0]),
            (2, &[100, 100, 100], &[1, 1, 0]),
            (0, &[1], &[0]),
            (u32::MAX, &[u32::MAX, u32::MAX], &[u32::MAX / 2 + 1, u32::MAX / 2]),
            (9, &[0, 0], &[0, 0]),
            (9, &[], &[]),
        ] {
            let rule = |weight: &u32| Spread { weight: Some(*weight), ..Spread::default() };
            let spread: Vec<Spread> = weights.iter().map(rule).collect();
            assert_eq!(counts(instances, &spread), expected, "{instances} by {weights:?}");
        }
    }
}
