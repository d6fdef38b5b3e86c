//! The output of commands: one value in the form the user asked for.
//!
//! A command makes a [`View`] of what it found and gives it to [`Terminal::show`]. The view knows
//! its JSON (in the shapes of `wash`), its text (tables and sentences on a [`Page`]), and its
//! names. Data goes to standard output, everything else to standard error: [`progress`] tells what
//! goes on meanwhile, and [`Terminal::note`] what is worth to know beside.
//!
//! Text is fitted to the terminal. Where there is none nothing is shortened, so that scripts see
//! whole ids. Colours only reach terminals, and none if `NO_COLOR` is set.
//!
//! Names, labels and errors come from strangers. All text goes through [`Text`], which escapes in
//! them what a terminal would obey; only the codes of our own tones are left.

mod page;
mod progress;
pub mod table;
mod text;

use std::{
    borrow::Cow,
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::Value;

use lattice_protocol::escape;
pub use page::{Page, Tone};
pub use progress::Progress;
pub use table::{Cell, Column, Columns, Table};
pub use text::{Text, quoted};

/// Narrower terminals are taken for this wide: nothing readable fits.
const WIDTH_MIN: usize = 24;

/// The form of the output.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Form {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Tables and sentences, fitted to the terminal
    #[default]
    Text,
    /// Text with more columns and nothing shortened
    Wide,
    /// JSON in the shapes of `wash`
    Json,
    /// The same as YAML
    Yaml,
    /// Only ids, a line each
    Name,
}

/// Something that can be printed in every form.
pub trait View {
    /// The members of the JSON object that is printed; `success` is added.
    fn json(&self) -> Value;
    /// Writes what a person reads.
    fn text(&self, page: &mut Page);
    /// Ids, for `-o name`.
    fn names(&self) -> Vec<String>;
}

/// Where a command prints, and how.
#[derive(Clone, Debug)]
pub struct Terminal {
    output: Output,
    /// Columns of standard output; `None` if it is no terminal.
    width: Option<usize>,
    /// Nobody reads standard output any more.
    is_closed: Arc<AtomicBool>,
}

impl Terminal {
    pub fn new(form: Form) -> Self {
        let width = io::stdout().is_terminal().then(|| columns().max(WIDTH_MIN));
        Self { output: form.output, width, is_closed: Arc::default() }
    }

    /// The form that was asked for.
    pub fn output(&self) -> Output {
        self.output
    }

    /// Whether a program reads the output rather than a person.
    pub fn is_data(&self) -> bool {
        matches!(self.output, Output::Json | Output::Yaml)
    }

    /// Whether a person looks at standard output.
    pub fn is_interactive(&self) -> bool {
        self.width.is_some()
    }

    /// Prints a view. A reader that has seen enough (`| head`) is no error.
    pub fn show(&self, view: &(impl View + ?Sized)) -> Result<()> {
        match self.output {
            Output::Text | Output::Wide => {
                let mut page = self.page();
                view.text(&mut page);
                self.print(page)
            }
            Output::Json | Output::Yaml => self.data(succeeded(view.json())),
            Output::Name => {
                let mut page = self.page();
                view.names().iter().for_each(|name| page.line(name));
                self.print(page)
            }
        }
    }

    /// Prints a value as JSON or YAML, as it is.
    pub fn data(&self, value: Value) -> Result<()> {
        if self.output == Output::Yaml {
            return self.write(&yaml(&value)?);
        }
        self.write(&format!("{}\n", json_text(&value)))
    }

    /// Prints a document that people keep as YAML: as JSON only if that was asked for.
    pub fn document(&self, document: &impl Serialize) -> Result<()> {
        if self.output == Output::Json {
            return self.data(serde_json::to_value(document).context("write JSON")?);
        }
        self.write(&yaml(document)?)
    }

    /// Prints one JSON value on one line: the form of what goes on and on.
    pub fn data_line(&self, value: &Value) -> Result<()> {
        if self.output == Output::Yaml {
            return self.write(&format!("---\n{}", yaml(value)?));
        }
        self.write(&format!("{}\n", escape::line(&value.to_string())))
    }

    /// An empty page as wide as this terminal.
    pub fn page(&self) -> Page {
        Page::new(self.width, self.columns())
    }

    /// The columns of tables that are wanted.
    pub fn columns(&self) -> Columns {
        if self.output == Output::Wide { Columns::All } else { Columns::Usual }
    }

    /// Prints what a page has.
    pub fn print(&self, page: Page) -> Result<()> {
        self.write(&page.into_text())
    }

    /// Writes to standard output.
    fn write(&self, text: &str) -> Result<()> {
        let mut stdout = anstream::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(error).context("write to standard output")
            }
            Err(_) => {
                self.is_closed.store(true, Ordering::Relaxed);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Whether the reader of standard output has gone: what prints on and on may end.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    /// Tells something beside the data, on standard error.
    pub fn note(&self, text: impl Into<Text>) {
        complain(text);
    }

    /// Tells a failure as data, on standard error.
    pub fn data_note(&self, value: &Value) {
        // Nobody is left to be told of a failure.
        let _ = writeln!(io::stderr().lock(), "{}", json_text(value));
    }

    /// Tells how a command that takes its time gets on.
    pub fn progress(&self) -> Progress {
        Progress::new(self.is_data())
    }
}

/// Tells a line on standard error. Nobody is left to be told if that fails.
pub fn complain(text: impl Into<Text>) {
    let _ = writeln!(anstream::stderr().lock(), "{}", text.into().as_str());
}

/// Asks a question on the terminal; only a yes is one. Returns `None` where there is no terminal to
/// ask on. Blocks until there is an answer.
pub fn confirm(question: &str) -> Option<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    // A user who cannot see the question will not say yes.
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut line = String::new();
    let is_read = io::stdin().read_line(&mut line).is_ok();
    Some(is_read && ["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str()))
}

/// JSON in lines, with nothing in it that a terminal obeys: its escapes mean the same characters.
fn json_text(value: &Value) -> String {
    escape::block(&format!("{value:#}")).into_owned()
}

/// Columns of the terminal; 80 if it does not tell.
fn columns() -> usize {
    terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0))
}

fn succeeded(mut value: Value) -> Value {
    if let Value::Object(members) = &mut value {
        members.entry("success").or_insert(Value::Bool(true));
    }
    value
}

/// YAML, or JSON, which is YAML too, where something in it would be obeyed by a terminal: plain
/// scalars have no escapes.
fn yaml(value: &impl Serialize) -> Result<String> {
    let text = serde_saphyr::to_string(value).context("write YAML")?;
    if matches!(escape::block(&text), Cow::Borrowed(_)) {
        Ok(text)
    } else {
        Ok(json_text(&serde_json::to_value(value).context("write JSON")?) + "\n")
    }
}

/// A sentence with its data: what most commands that change something have to say.
#[derive(Debug)]
pub struct Message {
    /// The sentence; `result` in JSON, as `wash` has it.
    pub text: String,
    pub json: Value,
    pub name: String,
}

impl Message {
    /// `members` are the other members of the JSON object.
    pub fn new(text: impl Into<String>, name: impl Into<String>, mut members: Value) -> Self {
        let text = text.into();
        if let Value::Object(members) = &mut members {
            members.insert("result".into(), Value::String(text.clone()));
        }
        Self { text, json: members, name: name.into() }
    }
}

impl View for Message {
    fn json(&self) -> Value {
        self.json.clone()
    }

    fn text(&self, page: &mut Page) {
        page.line(&self.text);
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn data_says_the_same_and_moves_no_cursor() {
        for evil in [
            "\u{1b}]0;t\u{7}",
            "\u{9b}2J",
            "a\n---\nb",
            "\u{202e}gnp",
            "x\u{2028}y",
            "\u{202e}\n\u{1b}",
            "plain: #",
        ] {
            let value = json!({ "name": evil, "list": [evil], "map": { evil: evil } });
            for text in [json_text(&value), yaml(&value).unwrap()] {
                assert!(!text.contains(|c| escape::is_obeyed(c) && c != '\n'), "{text:?}");
            }
            assert_eq!(serde_json::from_str::<Value>(&json_text(&value)).unwrap(), value);
        }
        assert!(yaml(&json!({ "name": "plain" })).unwrap().starts_with("name: plain"));
        assert!(
            serde_json::from_str::<Value>(&yaml(&json!({ "name": "\u{202e}" })).unwrap()).is_ok()
        );
    }
}
