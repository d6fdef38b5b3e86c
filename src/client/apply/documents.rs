//! Reads texts with manifests, and finds everything that is wrong with them before anything is
//! sent.
//!
//! A text may hold several documents. [`documents`] cuts it where YAML does, so that each is read
//! by itself, and its mistakes have the line of the text.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, de::IgnoredAny};

use super::decide::Wanted;
use lattice_protocol::applications::{
    decode::{DecodeError, Decoded, Format, decode},
    manifest::{API_VERSION, KIND, Manifest},
    validate::{check_remarks, validate},
};

/// Documents of one text.
const DOCUMENTS_MAX: usize = 1000;
/// Mistakes after which nothing more is read.
const MISTAKES_MAX: usize = 100;

/// A text with manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifests {
    /// For messages.
    pub place: String,
    pub text: String,
    pub format: Format,
}

impl Manifests {
    /// Takes the text of a file; the ending of its name says the form.
    pub fn of_file(name: String, text: String) -> Self {
        let format = match name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("json") => Format::Json,
            Some("yaml" | "yml") => Format::Yaml,
            _ => Format::Either,
        };
        Self { place: name, text, format }
    }
}

/// One document of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// From 1.
    pub number: usize,
    /// Lines of the text before it.
    lines_before: usize,
    text: &'a str,
}

impl Document<'_> {
    /// Returns its text, with so many empty lines before it that parsers count as the file does.
    pub fn text(&self) -> String {
        "\n".repeat(self.lines_before) + self.text
    }
}

/// The documents found in all texts.
#[derive(Debug, Default)]
pub struct Found {
    pub applications: Vec<File>,
    /// Worth to know, and no mistake.
    pub notes: Vec<String>,
    /// Lines that say what is wrong; nothing is applied if there are any.
    pub mistakes: Vec<String>,
    /// Where each application is written, by its name.
    places: BTreeMap<String, String>,
}

/// An application with the place where it is written.
#[derive(Clone, Debug)]
pub struct File {
    pub place: String,
    pub wanted: Wanted,
}

/// Says how a text came to be read: what else is in a directory is nobody's mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    ByName,
    InDirectory,
}

/// The members of a document that say what it is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    kind: Option<String>,
    api_version: Option<String>,
    metadata: Option<IgnoredAny>,
    spec: Option<IgnoredAny>,
}

impl Found {
    /// Takes all documents of a text, or of one that could not be read the reason.
    pub fn take_text(&mut self, text: Result<Manifests>, given: Given, set: Option<&str>) {
        let read = text.and_then(|text| {
            for document in documents(&text.text)? {
                if self.mistakes.len() >= MISTAKES_MAX {
                    break;
                }
                self.take(&text, document, given, set);
            }
            Ok(())
        });
        if let Err(error) = read {
            self.mistakes.push(format!("{error:#}"));
        }
    }

    fn take(&mut self, of: &Manifests, document: Document<'_>, given: Given, set: Option<&str>) {
        let place = format!("{}, document {}", of.place, document.number);
        if let Some(what) = other_kind(document.text) {
            let told = format!("{place}: {what} is no {KIND}");
            match given {
                Given::ByName => self.mistakes.push(told),
                Given::InDirectory => self.notes.push(format!("{told}, and left out")),
            }
            return;
        }
        match checked(document, of.format) {
            Ok(Decoded { manifest, warnings }) => {
                self.notes.extend(warnings.iter().map(|warning| format!("{place}: {warning}")));
                self.add(manifest, place, set);
            }
            Err(lines) => {
                self.mistakes.extend(lines.iter().map(|line| format!("{place}: {line}")));
            }
        }
    }

    fn add(&mut self, manifest: Manifest, place: String, set: Option<&str>) {
        let name = manifest.name();
        if let Some(first) = self.places.get(name) {
            self.mistakes.push(format!("{place}: application {name} is in {first} too"));
            return;
        }
        self.places.insert(name.to_owned(), place.clone());
        self.applications.push(File { place, wanted: Wanted::new(manifest, set) });
    }
}

/// Returns a manifest as people read and keep it.
pub fn yaml(manifest: &Manifest) -> Result<String> {
    serde_saphyr::to_string(manifest).context("write the manifest as YAML")
}

/// Returns what a document is, if it clearly is no application. A manifest that lost its head is
/// one with a mistake: left out, its application would be pruned.
fn other_kind(text: &str) -> Option<String> {
    let head: Head = serde_saphyr::from_str(text).ok()?;
    let of_group = |version: &str| version.split('/').next() == API_VERSION.split('/').next();
    match (head.kind, head.api_version) {
        (Some(kind), version) if kind != KIND && !version.as_deref().is_some_and(of_group) => {
            Some(format!("a {kind}"))
        }
        (None, None) if head.metadata.is_none() && head.spec.is_none() => {
            Some("what has neither kind nor apiVersion".into())
        }
        _ => None,
    }
}

/// Reads an application as hosts would, or tells all that is wrong with it, in lines.
fn checked(document: Document<'_>, format: Format) -> Result<Decoded, Vec<String>> {
    let decoded = decode(document.text.as_bytes(), format).map_err(|error| match error {
        DecodeError::Violations(all) => all.0.into_iter().map(|one| one.reason).collect(),
        // Read once more, now for its line: the lines before it are many in a long text.
        DecodeError::Unreadable(_) => {
            let placed = decode(document.text().as_bytes(), format).err().unwrap_or(error);
            lines(&placed.to_string())
        }
    })?;
    let manifest = &decoded.manifest;
    let is_admitted = validate(manifest).and_then(|()| check_remarks(manifest));
    is_admitted.map_err(|error| lines(&error.to_string()))?;
    Ok(decoded)
}

fn lines(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

/// Cuts a text into its documents. Pieces with nothing but comments are none.
pub fn documents(text: &str) -> Result<Vec<Document<'_>>> {
    let mut found: Vec<Document<'_>> = Vec::new();
    let (mut from, mut lines_before) = (0, 0);
    let (mut at, mut line) = (0, 0);
    for each in text.split_inclusive('\n') {
        let (end, next) = (at + each.len(), line + 1);
        // Not even a literal text may have such a line, so a marker always ends a document.
        if is_marker(each, "---") {
            take(&mut found, &text[from..at], lines_before);
            (from, lines_before) = (at, line);
        } else if is_marker(each, "...") {
            take(&mut found, &text[from..at], lines_before);
            (from, lines_before) = (end, next);
        }
        (at, line) = (end, next);
    }
    take(&mut found, &text[from..], lines_before);
    if found.len() > DOCUMENTS_MAX {
        bail!("it has more than {DOCUMENTS_MAX} documents");
    }
    Ok(found)
}

/// Adds a piece of a text, if something is in it.
fn take<'a>(found: &mut Vec<Document<'a>>, text: &'a str, lines_before: usize) {
    if !is_blank(text) {
        found.push(Document { number: found.len() + 1, lines_before, text });
    }
}

/// Says whether a line is this marker, alone or before something.
fn is_marker(line: &str, marker: &str) -> bool {
    let rest = line.strip_prefix(marker);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// Says whether nothing is in a piece but comments, directives, and the marker it begins with.
fn is_blank(piece: &str) -> bool {
    let piece = if is_marker(piece, "---") { &piece[3..] } else { piece };
    piece.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with(['#', '%']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_has_the_line_of_the_text_and_after_many_nothing_more_is_read() {
        let mut found = Found::default();
        let text = "a: b\n---\n".to_owned()
            + &"kind: Application\nmetadata: {name: [}\n---\n".repeat(2 * MISTAKES_MAX);
        found.take_text(Ok(Manifests::of_file("a.yaml".into(), text)), Given::InDirectory, None);
        assert_eq!(found.mistakes.len(), MISTAKES_MAX);
        let last = &found.mistakes[MISTAKES_MAX - 1];
        assert!(last.contains("document 101: "), "{last}");
        let line = last.split("line ").nth(1).and_then(|rest| rest.split(' ').next());
        let line: usize = line.unwrap().trim_end_matches([',', ':']).parse().unwrap();
        assert!(line >= 200, "{last}");
    }

    #[test]
    fn documents_are_cut_where_yaml_does() {
        for (text, expected) in [
            ("a: b\n", vec![(1, "a: b\n")]),
            ("a: b\n---\nc: d\n", vec![(1, "a: b\n"), (2, "\n---\nc: d\n")]),
            (
                "---\na: b\n---\n# only this\n---\nc: d",
                vec![(1, "---\na: b\n"), (2, "\n\n\n\n---\nc: d")],
            ),
            ("%YAML 1.2\n---\na: b\n...\n", vec![(1, "\n---\na: b\n")]),
            ("a: b\n...\nc: d\n", vec![(1, "a: b\n"), (2, "\n\nc: d\n")]),
            ("--- {a: b}\n--- # two\nc: d", vec![(1, "--- {a: b}\n"), (2, "\n--- # two\nc: d")]),
            ("a: |\n  ---\n  b\n---x: 1\n", vec![(1, "a: |\n  ---\n  b\n---x: 1\n")]),
            ("{\"a\":\n1}", vec![(1, "{\"a\":\n1}")]),
            ("# nothing\n---\n\n", vec![]),
        ] {
            let found = documents(text).unwrap();
            let found: Vec<(usize, String)> =
                found.iter().map(|document| (document.number, document.text())).collect();
            let found: Vec<(usize, &str)> =
                found.iter().map(|(number, text)| (*number, text.as_str())).collect();
            assert_eq!(found, expected, "{text:?}");
        }
        assert!(documents(&"a: b\n---\n".repeat(DOCUMENTS_MAX + 1)).is_err());
    }
}
