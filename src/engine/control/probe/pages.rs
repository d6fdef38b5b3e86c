//! Link definitions and claims in pages: `probe.{host}.links` and `probe.{host}.claims`.
//!
//! A listing of the control interface is one message, which a large lattice does not fit into. A
//! page has the rows that come after a key, in the order of their keys, as far as half a message
//! goes; the next page is asked for with the key that [`Page::next`] names. Keys are those of the
//! bucket, the same on every host.

use std::sync::Arc;

use futures::FutureExt;
use serde_json::value::{RawValue, to_raw_value};

use crate::control::server::{Answer, Server, json};
use lattice_protocol::control::probe::pages::{Ask, AskClaims, AskLinks, Page};

/// One page may take the server's limit divided by this.
const PART_OF_PAYLOAD: usize = 2;
/// Rows of one page.
const ROWS_MAX: usize = 4096;

impl Server {
    pub(in crate::control) fn probe_links(self: &Arc<Self>, AskLinks(ask): AskLinks) -> Answer {
        self.paged(ask, |server, ask, bytes_max| {
            let table = server.parts.context.links.table();
            let rows = table.stored_links().filter(|(_, stored)| match &ask.actor_id {
                Some(actor) => stored.link.actor_id == *actor,
                None => true,
            });
            page(rows, &ask.after, bytes_max, |stored| to_raw_value(&stored.link.identified()))
        })
    }

    pub(in crate::control) fn probe_claims(self: &Arc<Self>, AskClaims(ask): AskClaims) -> Answer {
        self.paged(ask, |server, ask, bytes_max| {
            let table = server.parts.context.links.table();
            let rows = table.all_claims().map(|claims| (claims.subject.as_str(), claims));
            page(rows, &ask.after, bytes_max, |claims| to_raw_value(&claims.reply_value()))
        })
    }

    /// Answers in a task of the request: a large table takes a moment to go through.
    fn paged(
        self: &Arc<Self>,
        ask: Ask,
        made: fn(&Self, &Ask, usize) -> Page<Box<RawValue>>,
    ) -> Answer {
        let server = Arc::clone(self);
        async move {
            let mut page = made(&server, &ask, server.payload_max() / PART_OF_PAYLOAD);
            page.is_behind = server.is_behind();
            page.is_complete = *server.parts.context.links.synced().borrow() && !page.is_behind;
            json(&page)
        }
        .boxed()
    }
}

/// The rows after a key, as far as there is room; one that has no room in any page is counted only.
fn page<'a, T: 'a>(
    rows: impl Iterator<Item = (&'a str, T)>,
    after: &str,
    bytes_max: usize,
    told: impl Fn(&T) -> serde_json::Result<Box<RawValue>>,
) -> Page<Box<RawValue>> {
    let mut rest: Vec<(&str, T)> = rows.filter(|(key, _)| *key > after).collect();
    let has_more = rest.len() > ROWS_MAX;
    if has_more {
        // Sorting all for each page would take most of the time.
        rest.select_nth_unstable_by(ROWS_MAX, |(a, _), (b, _)| a.cmp(b));
        rest.truncate(ROWS_MAX);
    }
    rest.sort_unstable_by_key(|(key, _)| *key);
    let mut page =
        Page { rows: Vec::new(), is_complete: false, is_behind: false, next: None, left_out: 0 };
    let mut bytes = 0;
    let mut last = None;
    for (key, row) in &rest {
        match told(row) {
            Ok(row) if row.get().len() <= bytes_max => {
                bytes += row.get().len() + 1;
                if bytes > bytes_max {
                    page.next = last;
                    return page;
                }
                page.rows.push(row);
            }
            _ => page.left_out += 1,
        }
        last = Some((*key).to_owned());
    }
    page.next = last.filter(|_| has_more);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: usize) -> Vec<String> {
        // Not in order, as in a table.
        (0..count).map(|number| format!("K{:05}", (number * 7919) % count)).collect()
    }

    fn all_pages(keys: &[String], bytes_max: usize) -> (Vec<String>, usize) {
        let (mut seen, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let rows = keys.iter().map(|key| (key.as_str(), key));
            let page = page(rows, &after, bytes_max, to_raw_value);
            assert_eq!(page.left_out, 0);
            seen.extend(
                page.rows.iter().map(|row| serde_json::from_str::<String>(row.get()).unwrap()),
            );
            pages += 1;
            match page.next {
                Some(next) => after = next,
                None => return (seen, pages),
            }
        }
    }

    #[test]
    fn pages_have_every_row_once_and_in_order() {
        for (count, bytes_max, pages) in
            [(0, 100, 1), (1, 100, 1), (10, 100, 1), (100, 100, 10), (9001, 1 << 20, 3)]
        {
            let keys = keys(count);
            let (seen, found) = all_pages(&keys, bytes_max);
            let mut sorted = keys.clone();
            sorted.sort();
            assert_eq!(seen, sorted);
            assert_eq!(found, pages, "{count} rows in {bytes_max} bytes");
        }
    }

    #[test]
    fn a_row_that_fits_nowhere_is_counted_and_hides_no_other() {
        let keys = ["A".to_owned(), "B".repeat(200), "C".to_owned()];
        let page = page(keys.iter().map(|key| (key.as_str(), key)), "", 100, to_raw_value);
        assert_eq!((page.rows.len(), page.left_out, page.next), (2, 1, None));
    }
}
