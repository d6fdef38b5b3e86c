//! Pages of lists: searched, sorted and cut here.

use std::{cmp::Ordering, sync::Arc};

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    auth::Access,
    mask::Mask,
    model::{HostView, rates::Rate},
};
use lattice_client::lost::Missing;

/// Rows of one page, unless asked for less.
const LIMIT: usize = 200;
const LIMIT_MAX: usize = 1000;
/// Longer searches find nothing anyway.
const QUERY_CHARS_MAX: usize = 200;

/// Which part of a list is wanted.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Wanted {
    /// Rows with this text in them; several words must all be there.
    #[serde(default)]
    pub q: String,
    /// Rows before the first one that is wanted.
    #[serde(default)]
    pub offset: usize,
    /// 200 unless given, 1000 at most.
    pub limit: Option<usize>,
    /// A column, with `-` before it for the other way round.
    #[serde(default)]
    pub sort: String,
    /// Only what is on this host, where that makes a difference.
    #[serde(default)]
    pub host: String,
    /// `actor` or `provider`, of claims.
    #[serde(default)]
    pub kind: String,
}

/// A row of a list.
pub trait Row {
    /// Hands over the texts that are searched.
    fn texts(&self, found: &mut dyn FnMut(&str));

    /// Compares by a column; rows that are equal in it, and all rows where there is no such column,
    /// by their names.
    fn compare(&self, other: &Self, column: &str) -> Ordering;
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Page<T> {
    /// Rows there are, with this search.
    pub total: usize,
    pub offset: usize,
    pub items: Vec<T>,
    /// Changes when the list does.
    pub revision: u64,
}

impl Wanted {
    /// The words that are searched for.
    fn words(&self) -> Vec<String> {
        let text: String = self.q.chars().take(QUERY_CHARS_MAX).collect();
        text.split_whitespace().map(str::to_lowercase).collect()
    }

    /// Whether one of these hosts is the one that is wanted, or any will do.
    pub fn takes_any(&self, hosts: &[Arc<HostView>]) -> bool {
        self.host.is_empty() || hosts.iter().any(|host| *host.id == *self.host)
    }

    /// Whether what ran on lost hosts only is wanted: of any host, or of one of these.
    pub fn takes_missing(&self, missing: &Missing) -> bool {
        self.host.is_empty() || missing.ran_on(&self.host)
    }

    /// Cuts a page out of `all`.
    pub fn page<T: Row>(&self, mut all: Vec<T>, revision: u64) -> Page<T> {
        let words = self.words();
        if !words.is_empty() {
            all.retain(|row| {
                let mut found = vec![false; words.len()];
                row.texts(&mut |text| {
                    let text = text.to_lowercase();
                    for (found, word) in found.iter_mut().zip(&words) {
                        *found |= text.contains(word.as_str());
                    }
                });
                found.into_iter().all(|found| found)
            });
        }
        match self.sort.strip_prefix('-') {
            Some(column) => all.sort_by(|a, b| b.compare(a, column)),
            None => all.sort_by(|a, b| a.compare(b, &self.sort)),
        }
        let limit = self.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
        let total = all.len();
        let items = all.into_iter().skip(self.offset).take(limit).collect();
        Page { total, offset: self.offset, items, revision }
    }
}

/// Returns the first entries that fit, as their reader may see them, and whether more do.
pub fn fitting<T: Mask>(
    all: Vec<T>,
    access: Access,
    limit: usize,
    fits: impl Fn(&T) -> bool,
) -> (Vec<T>, bool) {
    // Masked before it is searched.
    let mut fitting = all.into_iter().map(|item| access.view(item)).filter(fits);
    let items = fitting.by_ref().take(limit).collect();
    (items, fitting.next().is_some())
}

/// Compares a number of rates; a missing one is least.
pub fn rate(a: &Option<Rate>, b: &Option<Rate>, number: fn(&Rate) -> Option<f64>) -> Ordering {
    let [a, b] = [a, b].map(|rate| rate.as_ref().and_then(number).unwrap_or(-1.0));
    a.total_cmp(&b)
}

/// Compares names as people sort them, those without one last.
pub fn name(a: &str, b: &str) -> Ordering {
    // Without making other texts: a list of 100 000 rows compares millions of times.
    let [small_a, small_b] = [a, b].map(|name| name.chars().flat_map(char::to_lowercase));
    a.is_empty().cmp(&b.is_empty()).then_with(|| small_a.cmp(small_b))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Row for (u32, String) {
        fn texts(&self, found: &mut dyn FnMut(&str)) {
            found(&self.1);
        }

        fn compare(&self, other: &Self, column: &str) -> Ordering {
            match column {
                "number" => self.0.cmp(&other.0),
                _ => name(&self.1, &other.1),
            }
        }
    }

    fn page(wanted: &Wanted) -> Vec<u32> {
        let all = (0..1500).map(|n| (n, format!("Name {n}"))).collect();
        wanted.page(all, 7).items.into_iter().map(|(n, _)| n).collect()
    }

    #[test]
    fn a_page_is_searched_sorted_and_cut() {
        let wanted = |q: &str, sort: &str, offset: usize, limit: usize| Wanted {
            q: q.into(),
            sort: sort.into(),
            offset,
            limit: Some(limit),
            ..Wanted::default()
        };
        assert_eq!(page(&wanted("", "number", 10, 3)), [10, 11, 12]);
        assert_eq!(page(&wanted("", "-number", 0, 2)), [1499, 1498]);
        assert_eq!(page(&wanted("name 149", "number", 0, 3)), [149, 1149, 1490]);
        assert_eq!(page(&wanted("1499 NAME", "", 0, 5)), [1499]);
        assert!(page(&wanted("nobody", "", 0, 5)).is_empty());
        assert_eq!(page(&wanted("", "number", 1499, 50)), [1499]);
        assert_eq!(page(&wanted("", "", 0, 1_000_000)).len(), LIMIT_MAX);
        assert_eq!(page(&Wanted::default()).len(), LIMIT);
    }
}
