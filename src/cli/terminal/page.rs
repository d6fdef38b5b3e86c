//! Text for people, of a certain width: lines, headings and tables.

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr as _;

use super::{
    table::{Columns, Table},
    text::Text,
};
use lattice_protocol::escape;

/// How a piece of text looks on a terminal with colours; its meaning never hangs on that alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    #[default]
    Plain,
    /// The subject of a text.
    Strong,
    /// Text that can be skipped.
    Faint,
    Good,
    Warning,
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Strong => Style::new().bold(),
            Self::Faint => Style::new().dimmed(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
        }
    }

    /// The text in this tone; its codes are taken out again where nobody wants them.
    pub fn paint(self, text: &str) -> Text {
        if self == Self::Plain || text.is_empty() {
            return text.into();
        }
        let (style, text) = (self.style(), escape::line(text));
        Text::painted(format!("{style}{text}{style:#}"))
    }
}

/// With less room, words are not kept together.
const ROOM_MIN: usize = 20;

/// A text in lines of at most so many columns; a word that is longer has a line of its own.
fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines
            .last_mut()
            .filter(|line| line.is_empty() || line.width() + 1 + word.width() <= room);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Text that grows from top to bottom.
#[derive(Debug)]
pub struct Page {
    width: Option<usize>,
    columns: Columns,
    text: String,
}

impl Page {
    /// Without a width nothing is shortened.
    pub fn new(width: Option<usize>, columns: Columns) -> Self {
        Self { width: width.filter(|_| columns == Columns::Usual), columns, text: String::new() }
    }

    pub fn width(&self) -> Option<usize> {
        self.width
    }

    pub fn is_wide(&self) -> bool {
        self.columns == Columns::All
    }

    /// Adds a line.
    pub fn line(&mut self, text: impl Into<Text>) {
        self.text.push_str(text.into().as_str());
        self.text.push('\n');
    }

    /// Adds text that has lines of its own: an answer, a document.
    pub fn block(&mut self, text: &str) {
        self.text.push_str(Text::block(text).as_str());
        if !text.ends_with('\n') {
            self.text.push('\n');
        }
    }

    /// Adds a text that goes on below its own beginning where the page is too narrow for it. The
    /// part before it is `indent` columns wide, whatever escape codes are in it.
    pub fn hanging(&mut self, before: impl Into<Text>, indent: usize, text: &str, tone: Tone) {
        // Escapes take room.
        let text = escape::line(text);
        let room =
            self.width.map(|width| width.saturating_sub(indent)).filter(|room| *room >= ROOM_MIN);
        let mut lines = match room {
            Some(room) => wrapped(&text, room),
            None => vec![text.into_owned()],
        };
        // There always is a first one.
        let rest = lines.split_off(1);
        self.line(before.into() + tone.paint(&lines[0]));
        for line in rest {
            self.line(Text::from(" ".repeat(indent)) + tone.paint(&line));
        }
    }

    /// Adds an empty line, unless the page is empty.
    pub fn gap(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
    }

    /// Adds a heading after a gap.
    pub fn heading(&mut self, text: &str) {
        self.gap();
        self.line(Tone::Strong.paint(text));
    }

    /// Adds a table; an empty one is told with a sentence.
    pub fn table(&mut self, table: &Table, when_empty: &str) {
        if table.is_empty() {
            return self.line(when_empty);
        }
        self.text.push_str(&table.render(self.width, self.columns));
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_goes_on_below_its_beginning() {
        let mut page = Page::new(Some(27), Columns::Usual);
        page.hanging("ok  ", 4, "one two three four five six", Tone::Plain);
        assert_eq!(page.into_text(), "ok  one two three four five\n    six\n");
        let mut page = Page::new(None, Columns::Usual);
        page.hanging("ok  ", 4, "one two three four five six", Tone::Plain);
        assert_eq!(page.into_text(), "ok  one two three four five six\n");
    }

    #[test]
    fn words_longer_than_the_room_stay_whole() {
        assert_eq!(wrapped("a bcdefgh i", 4), ["a", "bcdefgh", "i"]);
        assert_eq!(wrapped("", 4), [""]);
    }
}
