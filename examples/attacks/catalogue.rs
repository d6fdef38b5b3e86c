//! The catalogue of attacks and of cases from the field: `tests/attacks/*.tsv`, one row each.
//!
//! A row has five columns, separated by tabs: its id, the attacker (or the source of a case), the
//! attack, the verdict, and the tests that prove it. A test is `it:MODULE::NAME` (an integration
//! test) or `lib:CRATE::MODULE::tests::NAME` (a unit test); a row that is inherent may have `-`.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};

/// The verdict that a row promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The attack fails.
    Refused,
    /// The case of the field works.
    Works,
    /// The protocol of those years allows it; the heading of `SECURITY.md` that says so.
    Inherent(String),
}

/// One attack, or one case of the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub id: String,
    pub by: String,
    pub attack: String,
    pub verdict: Verdict,
    pub tests: Vec<Test>,
}

/// A test of this package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    /// In `tests/it`.
    Integration(String),
    /// Beside the code.
    Unit(String),
}

/// Reads the rows of every file in a directory, in the order of file names.
pub fn read(dir: &Path) -> Result<Vec<Row>> {
    let mut files = fs::read_dir(dir)
        .with_context(|| format!("read {}", dir.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "tsv"));
    files.sort();
    let mut rows = Vec::new();
    let mut ids = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let row =
                parse(line).with_context(|| format!("{}, line {}", file.display(), number + 1))?;
            ensure!(ids.insert(row.id.clone()), "the row {} is there twice", row.id);
            rows.push(row);
        }
    }
    Ok(rows)
}

fn parse(line: &str) -> Result<Row> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [id, by, attack, verdict, tests] = columns[..] else {
        bail!("{} columns instead of 5", columns.len());
    };
    let tests = tests
        .split_whitespace()
        .filter(|name| *name != "-")
        .map(parse_test)
        .collect::<Result<Vec<_>>>()?;
    let verdict = match verdict.split_once(": ") {
        None if verdict == "refused" => Verdict::Refused,
        None if verdict == "works" => Verdict::Works,
        Some(("inherent", heading)) => Verdict::Inherent(heading.to_owned()),
        _ => bail!("the verdict {verdict:?} is none of refused, works, inherent: HEADING"),
    };
    let needs_a_test = !matches!(verdict, Verdict::Inherent(_));
    ensure!(!(needs_a_test && tests.is_empty()), "no test proves the row {id}");
    Ok(Row { id: id.into(), by: by.into(), attack: attack.into(), verdict, tests })
}

fn parse_test(name: &str) -> Result<Test> {
    match name.split_once(':') {
        Some(("it", path)) => Ok(Test::Integration(path.to_owned())),
        Some(("lib", path)) => Ok(Test::Unit(path.to_owned())),
        _ => bail!("the test {name:?} begins with neither it: nor lib:"),
    }
}
