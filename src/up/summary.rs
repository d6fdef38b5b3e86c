//! What `host up` says when everything runs: where things are, and what to do next.
//!
//! It is kept in the record, so that every `up` of the directory can say it again. Rows appear in the order in which they
//! were added; a part that has something to show adds a row.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Rows of label and text, then commands with what they do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    rows: Vec<(String, String)>,
    next: Vec<(String, String)>,
}

impl Summary {
    pub fn row(&mut self, label: &str, text: impl Into<String>) {
        self.rows.push((label.to_owned(), text.into()));
    }

    pub fn next(&mut self, command: impl Into<String>, does: &str) {
        self.next.push((command.into(), does.to_owned()));
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |rows: &[(String, String)]| rows.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
        let block = |f: &mut fmt::Formatter<'_>, rows: &[(String, String)]| {
            let width = width(rows);
            rows.iter().try_for_each(|(left, right)| writeln!(f, "  {left:width$}  {right}"))
        };
        writeln!(f)?;
        block(f, &self.rows)?;
        writeln!(f, "\nNext:")?;
        block(f, &self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_stand_below_each_other() {
        let mut summary = Summary::default();
        summary.row("host", "NABC");
        summary.row("NATS log", "/a/b");
        summary.next("host down", "stops it");
        assert_eq!(summary.to_string(), "\n  host      NABC\n  NATS log  /a/b\n\nNext:\n  host down  stops it\n");
    }
}
