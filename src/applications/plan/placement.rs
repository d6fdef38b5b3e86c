//! Says how many instances each host is to have.

use std::collections::BTreeMap;

/// How many there are to be, of what there is.
pub(super) struct Wish<'w, 'a> {
    /// The running instances, by host; also on hosts that do not fit.
    pub current: &'w BTreeMap<&'a str, u32>,
    /// The hosts that fit, in the order of their ids.
    pub eligible: &'w [&'a str],
    /// Where what is replaced runs: those hosts get as many first.
    pub former: &'w BTreeMap<&'a str, u32>,
    /// The other instances of the component, by host.
    pub load: &'w BTreeMap<&'a str, u32>,
    /// Hosts that refused it lately; nothing new is put there.
    pub refusing: &'w [&'a str],
    pub count: u32,
    /// The most that one host may have.
    pub per_host_max: u32,
    /// Whether what runs moves when hosts are unequally full.
    pub rebalance: bool,
}

/// Returns the number of instances of each host, also of those that are to have none.
///
/// A move for the sake of balance is made in two steps: first the emptier hosts get more, and the
/// fuller ones give away when those have them.
pub(super) fn place<'a>(wish: &Wish<'_, 'a>) -> BTreeMap<&'a str, u32> {
    let mut placed: BTreeMap<&str, u32> = wish.current.keys().map(|host| (*host, 0)).collect();
    for host in wish.eligible {
        placed.insert(host, wish.current.get(host).copied().unwrap_or(0).min(wish.per_host_max));
    }
    let have: u64 = placed.values().map(|count| u64::from(*count)).sum();
    let want = u64::from(wish.count);
    if have > want {
        take(&mut placed, wish, have - want);
    } else if have < want {
        give(&mut placed, wish, want - have);
    } else if wish.rebalance {
        level(&mut placed, wish);
    }
    placed
}

/// Takes from the fullest hosts, of equal ones from the last by id.
fn take<'a>(placed: &mut BTreeMap<&'a str, u32>, wish: &Wish<'_, 'a>, surplus: u64) {
    for _ in 0..surplus {
        let fullest = wish
            .eligible
            .iter()
            .filter(|host| placed[**host] > 0)
            .max_by_key(|host| (placed[**host], **host));
        match fullest {
            Some(host) => *placed.entry(host).or_default() -= 1,
            None => return,
        }
    }
}

/// Gives to the emptiest hosts, of equal ones to the first by id; before that to those where what
/// is replaced runs.
fn give<'a>(placed: &mut BTreeMap<&'a str, u32>, wish: &Wish<'_, 'a>, missing: u64) {
    let mut former = wish.former.clone();
    for (host, count) in &mut former {
        // An instance that has come already has taken its place.
        *count = count.saturating_sub(wish.current.get(host).copied().unwrap_or(0));
    }
    for _ in 0..missing {
        let open =
            |host: &&&str| placed[**host] < wish.per_host_max && !wish.refusing.contains(*host);
        let returning = wish
            .eligible
            .iter()
            .filter(open)
            .find(|host| former.get(**host).is_some_and(|count| *count > 0));
        let emptiest = wish.eligible.iter().filter(open).min_by_key(|host| {
            (placed[**host] + wish.load.get(**host).copied().unwrap_or(0), **host)
        });
        let Some(host) = returning.or(emptiest) else { return };
        if let Some(count) = former.get_mut(*host) {
            *count = count.saturating_sub(1);
        }
        *placed.entry(host).or_default() += 1;
    }
}

/// Raises the emptiest hosts until none has two less than another.
fn level<'a>(placed: &mut BTreeMap<&'a str, u32>, wish: &Wish<'_, 'a>) {
    let hosts = u32::try_from(wish.eligible.len()).unwrap_or(u32::MAX).max(1);
    let share = (wish.count / hosts).min(wish.per_host_max);
    let fullest = wish.eligible.iter().map(|host| placed[*host]).max().unwrap_or(0);
    for host in wish.eligible {
        let count = placed[*host];
        if count < share && fullest > count + 1 && !wish.refusing.contains(host) {
            placed.insert(host, share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        current: &'static [(&'static str, u32)],
        former: &'static [(&'static str, u32)],
        refusing: &'static [&'static str],
        count: u32,
        per_host_max: u32,
        rebalance: bool,
        expected: &'static [(&'static str, u32)],
    }

    const PLAIN: Case = Case {
        current: &[],
        former: &[],
        refusing: &[],
        count: 0,
        per_host_max: u32::MAX,
        rebalance: false,
        expected: &[],
    };

    fn placed(case: &Case) -> Vec<(&'static str, u32)> {
        let map = |pairs: &[(&'static str, u32)]| pairs.iter().copied().collect();
        let placed = place(&Wish {
            current: &map(case.current),
            eligible: &["a", "b", "c"],
            former: &map(case.former),
            load: &BTreeMap::new(),
            refusing: case.refusing,
            count: case.count,
            per_host_max: case.per_host_max,
            rebalance: case.rebalance,
        });
        placed.into_iter().collect()
    }

    #[test]
    fn what_runs_stays_and_what_is_missing_goes_to_the_emptiest() {
        let cases = [
            Case { count: 4, expected: &[("a", 2), ("b", 1), ("c", 1)], ..PLAIN },
            // Nothing moves only because it would be more even.
            Case {
                current: &[("a", 4)],
                count: 4,
                expected: &[("a", 4), ("b", 0), ("c", 0)],
                ..PLAIN
            },
            Case {
                current: &[("a", 4)],
                count: 6,
                expected: &[("a", 4), ("b", 1), ("c", 1)],
                ..PLAIN
            },
            // A host that does not fit any more has none, and others take over.
            Case {
                current: &[("x", 3)],
                count: 3,
                expected: &[("a", 1), ("b", 1), ("c", 1), ("x", 0)],
                ..PLAIN
            },
            // Surplus goes from the fullest, of equal ones from the last.
            Case {
                current: &[("a", 2), ("b", 2), ("c", 1)],
                count: 4,
                expected: &[("a", 2), ("b", 1), ("c", 1)],
                ..PLAIN
            },
            Case { current: &[("a", 2)], expected: &[("a", 0), ("b", 0), ("c", 0)], ..PLAIN },
        ];
        for case in cases {
            assert_eq!(placed(&case), case.expected);
        }
    }

    #[test]
    fn limits_refusals_and_predecessors_decide_where_new_ones_go() {
        let cases = [
            Case { count: 5, per_host_max: 1, expected: &[("a", 1), ("b", 1), ("c", 1)], ..PLAIN },
            Case { count: 2, refusing: &["a"], expected: &[("a", 0), ("b", 1), ("c", 1)], ..PLAIN },
            Case {
                count: 2,
                refusing: &["a", "b", "c"],
                expected: &[("a", 0), ("b", 0), ("c", 0)],
                ..PLAIN
            },
            Case {
                count: 3,
                former: &[("c", 3)],
                expected: &[("a", 0), ("b", 0), ("c", 3)],
                ..PLAIN
            },
            Case {
                current: &[("a", 1), ("b", 1)],
                count: 3,
                former: &[("a", 1), ("b", 1), ("c", 1)],
                expected: &[("a", 1), ("b", 1), ("c", 1)],
                ..PLAIN
            },
        ];
        for case in cases {
            assert_eq!(placed(&case), case.expected);
        }
    }

    #[test]
    fn balance_is_reached_by_more_first_and_less_then() {
        let uneven = Case {
            current: &[("a", 4), ("b", 2)],
            count: 6,
            rebalance: true,
            expected: &[("a", 4), ("b", 2), ("c", 2)],
            ..PLAIN
        };
        assert_eq!(placed(&uneven), uneven.expected);
        let then = Case {
            current: &[("a", 4), ("b", 2), ("c", 2)],
            expected: &[("a", 2), ("b", 2), ("c", 2)],
            ..uneven
        };
        assert_eq!(placed(&then), then.expected);
        let even_enough =
            Case { current: &[("a", 2), ("b", 1), ("c", 1)], count: 4, rebalance: true, ..PLAIN };
        assert_eq!(placed(&even_enough), [("a", 2), ("b", 1), ("c", 1)]);
    }
}
