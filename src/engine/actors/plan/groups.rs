//! Counts how many of an actor run, by what they were started with. Pure.
//!
//! A *group* is started with one set of annotations and has a maximum of calls at a time. All
//! groups of an actor share its module; together they make its [`Limits`].
//!
//! Invariant: each group has a maximum above zero, and annotations of its own.

use uuid::Uuid;

use crate::actors::supervisor::{
    Amount, GroupView, IMPORTS_ANNOTATION, IMPORTS_TRAP, REUSE_ANNOTATION,
};
use lattice_protocol::events::event::{Annotations, has_all};

/// The groups of one actor; without any it does not run.
#[derive(Clone, Debug, Default)]
pub struct Groups(Vec<GroupView>);

/// How many calls at a time one group had and has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scaled {
    pub annotations: Annotations,
    pub before: u32,
    pub after: u32,
}

/// The limits that follow from all groups of an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls that may run at a time: the sum over the groups.
    pub calls: u32,
    /// Calls one instance may serve: the most that a group asks for.
    pub reuse: Option<u32>,
}

/// Why the reuse annotation counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {REUSE_ANNOTATION} is {0:?}, expected a number of calls from 1")]
pub struct BadReuse(String);

/// Imports that keep an actor from starting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadImports {
    #[error(
        "it imports what no host of a lattice answers: {}; build it without, or put in the \
         component that exports it (`wac plug`), or start it with --annotation \
         {IMPORTS_ANNOTATION}={IMPORTS_TRAP}: then only calls that use it fail",
        .0.join(", ")
    )]
    Unserved(Vec<String>),
    #[error("annotation {IMPORTS_ANNOTATION} is {0:?}, expected {IMPORTS_TRAP}")]
    Annotation(String),
}

/// Why a group is not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl Groups {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the groups as readers see them.
    pub fn views(&self) -> &[GroupView] {
        &self.0
    }

    /// Returns the calls at a time of the group with exactly these annotations.
    pub fn max_of(&self, annotations: &Annotations) -> u32 {
        self.find(annotations).map_or(0, |place| self.0[place].max)
    }

    /// Returns how many groups have all these annotations.
    pub fn selected(&self, wanted: &Annotations) -> usize {
        self.0.iter().filter(|group| has_all(&group.annotations, wanted)).count()
    }

    /// Scales the group with exactly these annotations; another one is added if `has_room`.
    pub fn scale(
        &mut self,
        annotations: &Annotations,
        amount: Amount,
        has_room: impl FnOnce() -> bool,
    ) -> Result<Scaled, NoRoom> {
        let found = self.find(annotations);
        let before = found.map_or(0, |place| self.0[place].max);
        let after = amount.applied_to(before);
        match found {
            Some(place) if after == 0 => drop(self.0.remove(place)),
            Some(place) => self.0[place].max = after,
            None if after == 0 => {}
            None if !has_room() => return Err(NoRoom),
            None => self.0.push(GroupView {
                annotations: annotations.clone(),
                instance_id: Uuid::new_v4().to_string(),
                max: after,
            }),
        }
        Ok(Scaled { annotations: annotations.clone(), before, after })
    }

    /// Takes away so many of the groups that have all these annotations, one group after the other,
    /// or these groups as a whole. Returns those that changed.
    pub fn take(&mut self, wanted: &Annotations, count: Option<u32>) -> Vec<Scaled> {
        let mut left = count.unwrap_or(u32::MAX);
        let mut changed = Vec::new();
        for group in self.0.iter_mut().filter(|group| has_all(&group.annotations, wanted)) {
            // Without a count a group goes as a whole: two unbounded ones are more than any number.
            let fewer = if count.is_none() { group.max } else { group.max.min(left) };
            left -= fewer.min(left);
            if fewer > 0 {
                let (before, after) = (group.max, group.max - fewer);
                changed.push(Scaled { annotations: group.annotations.clone(), before, after });
                group.max = after;
            }
        }
        self.0.retain(|group| group.max > 0);
        changed
    }

    pub fn limits(&self) -> Limits {
        let reuses = self.0.iter().filter_map(|group| reuse_of(&group.annotations).ok().flatten());
        Limits {
            calls: self.0.iter().fold(0, |sum: u32, group| sum.saturating_add(group.max)),
            reuse: reuses.max(),
        }
    }

    fn find(&self, annotations: &Annotations) -> Option<usize> {
        self.0.iter().position(|group| group.annotations == *annotations)
    }
}

/// Reads the reuse annotation.
pub fn reuse_of(annotations: &Annotations) -> Result<Option<u32>, BadReuse> {
    let Some(text) = annotations.get(REUSE_ANNOTATION) else { return Ok(None) };
    match text.trim().parse() {
        Ok(reuse) if reuse > 0 => Ok(Some(reuse)),
        _ => Err(BadReuse(text.clone())),
    }
}

/// Returns an error if imports of an actor are answered by nothing, unless that is wished.
pub fn check_imports(unserved: &[String], annotations: &Annotations) -> Result<(), BadImports> {
    match annotations.get(IMPORTS_ANNOTATION) {
        Some(value) if value != IMPORTS_TRAP => Err(BadImports::Annotation(value.clone())),
        None if !unserved.is_empty() => Err(BadImports::Unserved(unserved.to_vec())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Amount::*, *};

    const UNBOUNDED: u32 = u32::MAX;

    /// Reads annotations like `t=x,reuse=7`; nothing for none.
    fn annotations(text: &str) -> Annotations {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(key, value)| (key.replace("reuse", REUSE_ANNOTATION), value.to_owned()))
            .collect()
    }

    /// Makes groups of their annotations and maxima.
    fn groups(list: &[(&str, u32)]) -> Groups {
        let mut groups = Groups::default();
        for (text, max) in list {
            groups.scale(&annotations(text), Exactly(*max), || true).unwrap();
        }
        groups
    }

    #[test]
    fn imports_that_nothing_answers_are_a_matter_of_consent() {
        let (none, some) = ([], ["acme:own/api@1.0.0".to_owned()]);
        let trap = Annotations::from([(IMPORTS_ANNOTATION.into(), IMPORTS_TRAP.into())]);
        let other = Annotations::from([(IMPORTS_ANNOTATION.into(), "stub".into())]);
        assert_eq!(check_imports(&none, &Annotations::new()), Ok(()));
        assert_eq!(check_imports(&some, &trap), Ok(()));
        assert!(matches!(check_imports(&none, &other), Err(BadImports::Annotation(_))));
        let refused = check_imports(&some, &Annotations::new()).unwrap_err().to_string();
        assert!(refused.contains("acme:own/api@1.0.0") && refused.contains("=trap"), "{refused}");
    }

    /// Returns the maxima in their order.
    fn maxima(groups: &Groups) -> Vec<u32> {
        assert!(groups.views().iter().all(|group| group.max > 0));
        groups.views().iter().map(|group| group.max).collect()
    }

    #[test]
    fn a_group_is_scaled_by_itself() {
        let two: &[_] = &[("", 2)];
        let more: &[_] = &[("", 2), ("t=x", 3)];
        for (promise, given, (of, amount), change, after) in [
            ("the first", &[][..], ("", Exactly(2)), (0, 2), vec![2]),
            ("none of nothing", &[], ("", Exactly(0)), (0, 0), vec![]),
            ("fewer are fewer", two, ("", Exactly(1)), (2, 1), vec![1]),
            ("none is no group", two, ("", Exactly(0)), (2, 0), vec![]),
            ("more are added", two, ("", Add(3)), (2, 5), vec![5]),
            ("none more changes nothing", two, ("", Add(0)), (2, 2), vec![2]),
            ("at least fewer changes nothing", two, ("", AtLeast(1)), (2, 2), vec![2]),
            ("at least more is more", two, ("", AtLeast(4)), (2, 4), vec![4]),
            (
                "unbounded is not exceeded",
                &[("", UNBOUNDED)],
                ("", Add(1)),
                (UNBOUNDED, UNBOUNDED),
                vec![UNBOUNDED],
            ),
            ("other annotations are another", two, ("t=x", Exactly(3)), (0, 3), vec![2, 3]),
            ("which is scaled by itself", more, ("t=x", Add(1)), (3, 4), vec![2, 4]),
            ("more annotations are another", more, ("t=x,u=y", Add(1)), (0, 1), vec![2, 3, 1]),
            ("none of an unknown group", two, ("t=x", Exactly(0)), (0, 0), vec![2]),
            ("none of one leaves the other", more, ("", Exactly(0)), (2, 0), vec![3]),
        ] {
            let mut groups = groups(given);
            let scaled = groups.scale(&annotations(of), amount, || true).unwrap();
            assert_eq!((scaled.before, scaled.after), change, "{promise}");
            assert_eq!(scaled.annotations, annotations(of), "{promise}");
            assert_eq!(maxima(&groups), after, "{promise}");
        }
    }

    #[test]
    fn only_another_group_needs_room() {
        for (of, amount, fits) in [
            ("t=x", Exactly(1), false),
            ("t=x", Exactly(0), true),
            ("", Exactly(9), true),
            ("", Exactly(0), true),
        ] {
            let mut groups = groups(&[("", 2)]);
            let scaled = groups.scale(&annotations(of), amount, || false);
            assert_eq!(scaled.is_ok(), fits, "{of} {amount:?}");
        }
    }

    #[test]
    fn groups_that_are_selected_are_taken_from_in_their_order() {
        let two: &[_] = &[("", 2)];
        let more: &[_] = &[("", 2), ("t=x", 3)];
        for (promise, given, (wanted, count), changes, after) in [
            ("all", two, ("", None), vec![(2, 0)], vec![]),
            ("a part", two, ("", Some(1)), vec![(2, 1)], vec![1]),
            ("no more than there are", two, ("", Some(9)), vec![(2, 0)], vec![]),
            ("none", two, ("", Some(0)), vec![], vec![2]),
            ("a count goes through the groups", more, ("", Some(4)), vec![(2, 0), (3, 1)], vec![1]),
            ("annotations select", more, ("t=x", None), vec![(3, 0)], vec![2]),
            (
                "by what is there",
                &[("", 2), ("t=x,u=y", 3)],
                ("t=x", Some(1)),
                vec![(3, 2)],
                vec![2, 2],
            ),
            ("some select nothing", more, ("t=z", None), vec![], vec![2, 3]),
            (
                "unbounded ones go as a whole",
                &[("", UNBOUNDED), ("t=x", UNBOUNDED)],
                ("", None),
                vec![(UNBOUNDED, 0), (UNBOUNDED, 0)],
                vec![],
            ),
        ] {
            let mut groups = groups(given);
            let is_selected = groups.selected(&annotations(wanted)) > 0;
            assert!(is_selected || changes.is_empty(), "{promise}");
            let changed = groups.take(&annotations(wanted), count);
            let changed: Vec<_> = changed.iter().map(|one| (one.before, one.after)).collect();
            assert_eq!(changed, changes, "{promise}");
            assert_eq!(maxima(&groups), after, "{promise}");
        }
    }

    #[test]
    fn limits_follow_from_all_groups() {
        for (given, calls, reuse) in [
            (&[][..], 0, None),
            (&[("", 2), ("t=x", 3)], 5, None),
            (&[("", 2), ("t=x", UNBOUNDED)], UNBOUNDED, None),
            (&[("", 2), ("reuse=7", 1)], 3, Some(7)),
            (&[("reuse=7", 1), ("reuse=5", 1)], 2, Some(7)),
        ] {
            assert_eq!(groups(given).limits(), Limits { calls, reuse }, "{given:?}");
        }
    }

    #[test]
    fn the_reuse_annotation_is_read_or_refused() {
        assert_eq!(reuse_of(&Annotations::new()), Ok(None));
        assert_eq!(reuse_of(&annotations("reuse= 1000 ")), Ok(Some(1000)));
        for bad in ["0", "many", "-1", ""] {
            let read = reuse_of(&annotations(&format!("reuse={bad}")));
            assert_eq!(read, Err(BadReuse(bad.to_owned())));
        }
    }
}
