//! Which losses of other hosts this one tells.
//!
//! Every host notices them. Of many hosts the first [`TELLERS`] by their ids tell, so that a loss
//! is told even if some of these were lost with it, and not as often as there are hosts.

use std::collections::BTreeSet;

/// Hosts that tell of a loss.
const TELLERS: usize = 3;

/// Something to tell of another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Lost(String),
    Back(String),
}

/// The hosts that were lost when this one looked last.
#[derive(Debug, Default)]
pub(super) struct Losses {
    lost: BTreeSet<String>,
}

impl Losses {
    /// Compares the other hosts, and whether each is lost, with the last look. A host that was cut
    /// off itself (`hears` is false) knows nothing of the others.
    pub(super) fn look(
        &mut self,
        own: &str,
        others: &[(String, bool)],
        hears: bool,
    ) -> Vec<Change> {
        if !hears {
            return Vec::new();
        }
        let lost: BTreeSet<String> =
            others.iter().filter(|(_, is_lost)| *is_lost).map(|(id, _)| id.clone()).collect();
        let before = std::mem::replace(&mut self.lost, lost);
        let live = others.iter().filter(|(_, is_lost)| !is_lost);
        let earlier = live.filter(|(id, _)| id.as_str() < own).count();
        if earlier >= TELLERS {
            return Vec::new();
        }
        let gone = self.lost.difference(&before).cloned().map(Change::Lost);
        // One that is not known any more is forgotten, not back.
        let back = before.difference(&self.lost).filter(|id| others.iter().any(|(o, _)| o == *id));
        gone.chain(back.cloned().map(Change::Back)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn others(ids: &[(&str, bool)]) -> Vec<(String, bool)> {
        ids.iter().map(|(id, is_lost)| ((*id).to_owned(), *is_lost)).collect()
    }

    #[test]
    fn a_loss_is_told_once_and_so_is_the_return() {
        let mut losses = Losses::default();
        assert!(losses.look("N2", &others(&[("N1", false), ("N3", false)]), true).is_empty());
        let lost = others(&[("N1", false), ("N3", true)]);
        assert!(losses.look("N2", &lost, false).is_empty(), "it hears nobody");
        assert_eq!(losses.look("N2", &lost, true), [Change::Lost("N3".into())]);
        assert!(losses.look("N2", &lost, true).is_empty());
        let back = others(&[("N1", false), ("N3", false)]);
        assert_eq!(losses.look("N2", &back, true), [Change::Back("N3".into())]);
        losses.look("N2", &lost, true);
        assert!(losses.look("N2", &others(&[("N1", false)]), true).is_empty(), "forgotten");
    }

    #[test]
    fn of_many_hosts_the_first_ones_tell() {
        let all = [("N1", false), ("N2", false), ("N3", false), ("N8", true)];
        assert!(Losses::default().look("N4", &others(&all), true).is_empty());
        assert_eq!(Losses::default().look("N2", &others(&all), true).len(), 1);
        // Those that were lost with it do not count.
        let all = [("N1", true), ("N2", false), ("N3", false), ("N8", true)];
        assert_eq!(Losses::default().look("N4", &others(&all), true).len(), 2);
    }
}
