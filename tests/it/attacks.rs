//! The catalogue of attacks keeps its word: every row names tests that exist, and every attack that
//! the protocol allows has its sentence in SECURITY.md.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

#[allow(dead_code, reason = "shared with the example that runs the attacks")]
#[path = "../../examples/attacks/catalogue.rs"]
mod catalogue;

use catalogue::{Row, Test, Verdict};

fn rows() -> Vec<Row> {
    catalogue::read(&root().join("tests/attacks")).expect("the catalogue can be read")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names of the integration tests, as this program lists them.
fn integration_tests() -> BTreeSet<String> {
    let program = std::env::current_exe().expect("a program");
    let list =
        Command::new(program).args(["--list", "--format", "terse"]).output().expect("a list");
    let list = String::from_utf8(list.stdout).expect("text");
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// Whether a file of the test's module has a function of that name.
fn unit_test_exists(path: &str) -> bool {
    let Some((modules, name)) = path.rsplit_once("::") else { return false };
    let mut place = root().join("src");
    for module in modules.split("::") {
        let next = place.join(module);
        // The last directory or file on the way has the test, in an inline module or one below.
        if !next.is_dir() && !next.with_extension("rs").is_file() {
            break;
        }
        place = next;
    }
    let function = format!("fn {name}(");
    let files = [
        place.with_extension("rs"),
        place.join("mod.rs"),
        place.join("lib.rs"),
        place.join("tests.rs"),
    ];
    files.iter().any(|file| fs::read_to_string(file).is_ok_and(|text| text.contains(&function)))
}

#[test]
fn every_row_of_the_catalogue_names_tests_that_exist() {
    let integration = integration_tests();
    let mut missing = Vec::new();
    for row in rows() {
        for test in &row.tests {
            let exists = match test {
                Test::Integration(name) => integration.contains(name),
                Test::Unit(path) => unit_test_exists(path),
            };
            if !exists {
                missing.push(format!("{}: {test:?}", row.id));
            }
        }
    }
    assert!(missing.is_empty(), "these tests do not exist:\n{}", missing.join("\n"));
}

#[test]
fn every_attack_that_the_protocol_allows_has_its_sentence_in_security_md() {
    let security = fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    for row in rows() {
        let Verdict::Inherent(heading) = &row.verdict else { continue };
        let section = security
            .split("\n## ")
            .find(|section| section.starts_with(heading.as_str()))
            .unwrap_or_else(|| panic!("{}: SECURITY.md has no heading {heading:?}", row.id));
        assert!(
            section.contains(&format!("`{}`", row.id)),
            "{}: no sentence under {heading}",
            row.id
        );
    }
}
