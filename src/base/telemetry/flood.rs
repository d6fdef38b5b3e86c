//! Bounds what outsiders can cause as often as they like: a message of a kind about a target gets
//! through some times, then it is counted.
//!
//! So a flood about one target does not hide what is said about others, and one that changes its
//! targets meets the bound of the kind. When the window of a kind is over, what was left out is
//! owed: one line tells how much.
//!
//! The log asks for each of its lines, so that no place that logs need think of it. Its kind is the
//! place in the code, its target the message and the first field that names something.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// How long one count lasts.
pub const WINDOW: Duration = Duration::from_secs(10);
/// The longest part of a target that is remembered.
pub const TARGET_BYTES_MAX: usize = 256;

/// How many messages get through in a window.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub per_target: u32,
    /// For all targets together. It also bounds the number of targets that are remembered.
    pub per_kind: u32,
}

/// Counts the messages of the current window, by kind. The kinds are those of the program; the wire
/// cannot add any.
pub struct Flood<K> {
    bounds: Bounds,
    windows: HashMap<K, Window>,
}

struct Window {
    began: Instant,
    admitted: u32,
    left_out: u64,
    targets: HashMap<String, Count>,
}

#[derive(Default)]
struct Count {
    admitted: u32,
    left_out: u64,
}

/// The messages of a window that are still to be reported as left out.
#[derive(Debug, PartialEq, Eq)]
pub struct Owed {
    pub left_out: u64,
    /// The target that most of them were about, of those that are remembered.
    pub mostly: String,
}

impl<K: Eq + Hash> Flood<K> {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, windows: HashMap::new() }
    }

    /// Whether a message of this kind about this target gets through; if not, it is counted.
    /// Returns what is owed too.
    pub fn admit(&mut self, kind: K, target: &str, now: Instant) -> (bool, Vec<Owed>) {
        let owed = self.settle(now);
        let bounds = self.bounds;
        (self.windows.entry(kind).or_insert_with(|| Window::new(now)).admit(target, bounds), owed)
    }

    /// Ends the windows that are over; returns what is owed of them.
    pub fn settle(&mut self, now: Instant) -> Vec<Owed> {
        let over = self.windows.extract_if(|_, window| now.duration_since(window.began) >= WINDOW);
        over.filter_map(|(_, window)| window.owed()).collect()
    }

    /// Ends all windows; returns what is owed of them.
    pub fn end(&mut self) -> Vec<Owed> {
        self.windows.drain().filter_map(|(_, window)| window.owed()).collect()
    }
}

impl Window {
    fn new(began: Instant) -> Self {
        Self { began, admitted: 0, left_out: 0, targets: HashMap::new() }
    }

    fn admit(&mut self, target: &str, bounds: Bounds) -> bool {
        let target = &target[..target.floor_char_boundary(TARGET_BYTES_MAX)];
        let has_room = self.admitted < bounds.per_kind;
        // A new target is only remembered with a message of its own, so there are no more targets
        // than messages.
        if has_room && !self.targets.contains_key(target) {
            self.targets.insert(target.to_owned(), Count::default());
        }
        let count = self.targets.get_mut(target);
        if has_room && count.as_ref().is_some_and(|count| count.admitted < bounds.per_target) {
            self.admitted += 1;
            count.into_iter().for_each(|count| count.admitted += 1);
            return true;
        }
        self.left_out += 1;
        count.into_iter().for_each(|count| count.left_out += 1);
        false
    }

    fn owed(self) -> Option<Owed> {
        let mostly = self
            .targets
            .into_iter()
            .max_by_key(|(_, count)| count.left_out)
            .map(|(target, _)| target);
        (self.left_out > 0)
            .then(|| Owed { left_out: self.left_out, mostly: mostly.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { per_target: 10, per_kind: 50 };

    #[test]
    fn a_flood_about_one_target_is_counted_and_hides_no_other() {
        let (mut flood, now) = (Flood::new(BOUNDS), Instant::now());
        let admitted = |flood: &mut Flood<_>, kind, target: &str, times: u32| {
            (0..times).filter(|_| flood.admit(kind, target, now).0).count()
        };
        assert_eq!(admitted(&mut flood, "refused", "MA", 5000), 10);
        assert_eq!(admitted(&mut flood, "refused", "MB", 3), 3);
        assert_eq!(admitted(&mut flood, "malformed", "MA", 2), 2);
        let owed = flood.settle(now + WINDOW);
        assert_eq!(owed, [Owed { left_out: 4990, mostly: "MA".into() }]);
        assert_eq!(flood.settle(now + 2 * WINDOW), [], "it is told once");
        assert!(flood.admit("refused", "MA", now + WINDOW).0, "the next window begins anew");
    }

    #[test]
    fn a_flood_with_ever_new_targets_meets_the_bound_of_its_kind() {
        let (mut flood, now) = (Flood::new(BOUNDS), Instant::now());
        let long = "x".repeat(10_000);
        let admitted =
            (0..10_000).filter(|n| flood.admit("refused", &format!("{n}{long}"), now).0).count();
        assert_eq!(admitted, 50);
        let targets = &flood.windows["refused"].targets;
        assert!(
            targets.len() <= 50 && targets.keys().all(|target| target.len() <= TARGET_BYTES_MAX)
        );
        let (is_admitted, owed) = flood.admit("refused", "next", now + WINDOW);
        assert!(is_admitted && owed[0].left_out == 9950, "{owed:?}");
    }

    #[test]
    fn what_is_owed_at_the_end_is_told() {
        let (mut flood, now) = (Flood::new(BOUNDS), Instant::now());
        (0..11).for_each(|_| drop(flood.admit("refused", "MA", now)));
        assert_eq!(flood.end(), [Owed { left_out: 1, mostly: "MA".into() }]);
    }
}
