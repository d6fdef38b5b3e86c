//! Tables without lines, as wide as their content and never wider than the terminal.
//!
//! Cells that do not fit are shortened, in the order of how little that takes away: ids first, in
//! the middle, where they differ least to the eye; then columns that are only shown where there is
//! room are left out, from the right; then texts whose beginning is what all have in common are cut
//! there, others at their end; names last. If even that leaves columns without sense, each row
//! becomes a block of lines, one for each column.
//!
//! The crates for tables that most use, comfy-table and tabled, wrap a cell or cut it at its end,
//! and go over to blocks only when they are told to, not when the terminal is too narrow.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::page::Tone;
use lattice_protocol::escape;

/// Between two columns.
const GAP: usize = 2;
/// The least that is left of an id: enough to tell it from others and to look for it.
pub const ID_MIN: usize = 9;
/// The least that is left of a text.
const TEXT_MIN: usize = 10;
/// The least that is left of a name before each row becomes a block.
const NAME_MIN: usize = 16;

/// How a column gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fixed,
    Id,
    Text,
    /// Its beginning says the least.
    Tail,
    Name,
    Number,
}

/// The columns of a table that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    Usual,
    /// Also those that are only shown on request; then nothing is shortened.
    All,
}

/// A column with its heading.
#[derive(Clone, Debug)]
pub struct Column {
    heading: &'static str,
    kind: Kind,
    /// Only in wide tables.
    wide_only: bool,
    /// Only where all others fit.
    if_room: bool,
}

impl Column {
    /// Is never shortened.
    pub fn fixed(heading: &'static str) -> Self {
        Self { heading, kind: Kind::Fixed, wide_only: false, if_room: false }
    }

    /// Is shortened in the middle.
    pub fn id(heading: &'static str) -> Self {
        Self { kind: Kind::Id, ..Self::fixed(heading) }
    }

    /// Is shortened at the end.
    pub fn text(heading: &'static str) -> Self {
        Self { kind: Kind::Text, ..Self::fixed(heading) }
    }

    /// Is shortened at the beginning: of contracts and references that says the least.
    pub fn tail(heading: &'static str) -> Self {
        Self { kind: Kind::Tail, ..Self::fixed(heading) }
    }

    /// Is shortened at the end, after everything else.
    pub fn name(heading: &'static str) -> Self {
        Self { kind: Kind::Name, ..Self::fixed(heading) }
    }

    /// Is never shortened, and stands at the right.
    pub fn number(heading: &'static str) -> Self {
        Self { kind: Kind::Number, ..Self::fixed(heading) }
    }

    /// The width that it may be shortened to, if it may.
    fn least(&self) -> Option<usize> {
        match self.kind {
            Kind::Id => Some(ID_MIN.max(self.heading.width())),
            Kind::Text | Kind::Tail => Some(TEXT_MIN.max(self.heading.width())),
            Kind::Name => Some(NAME_MIN.max(self.heading.width())),
            Kind::Fixed | Kind::Number => None,
        }
    }

    /// Only shown with `-o wide`.
    pub fn only_wide(mut self) -> Self {
        self.wide_only = true;
        self
    }

    /// Left out where the others would have to be cut for it.
    pub fn if_room(mut self) -> Self {
        self.if_room = true;
        self
    }
}

/// The content of one field.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: escape::line(&text.into()).into_owned(), tone }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: escape::line(&text.to_string()).into_owned(), tone: Tone::Plain }
    }
}

/// Rows under headings.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self { columns: columns.into(), rows: Vec::new() }
    }

    /// Adds a row with a cell for each column.
    pub fn row(&mut self, cells: impl Into<Vec<Cell>>) {
        let mut cells = cells.into();
        cells.resize_with(self.columns.len(), Cell::default);
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines; without a width nothing is shortened.
    pub fn render(&self, width: Option<usize>, columns: Columns) -> String {
        let shown: Vec<usize> = (0..self.columns.len())
            .filter(|at| columns == Columns::All || !self.columns[*at].wide_only)
            .collect();
        match width {
            None => self.grid(&shown, &self.natural_widths(&shown)),
            Some(width) => match self.fit(shown.clone(), width) {
                Some((shown, widths)) => self.grid(&shown, &widths),
                None => self.blocks(&shown, width),
            },
        }
    }

    fn natural_widths(&self, shown: &[usize]) -> Vec<usize> {
        shown.iter().map(|at| self.natural_width(*at)).collect()
    }

    fn natural_width(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| row[column].text.width());
        cells.chain([self.columns[column].heading.width()]).max().unwrap_or(0)
    }

    /// The columns that are shown in this width, and how wide each is; `None` if they do not fit.
    fn fit(&self, mut shown: Vec<usize>, width: usize) -> Option<(Vec<usize>, Vec<usize>)> {
        loop {
            let mut widths = self.natural_widths(&shown);
            if self.take(&shown, &mut widths, width, Kind::Id) {
                return Some((shown, widths));
            }
            match shown.iter().rposition(|at| self.columns[*at].if_room) {
                Some(last) => _ = shown.remove(last),
                None => {
                    let fits = [Kind::Tail, Kind::Text, Kind::Name]
                        .into_iter()
                        .any(|kind| self.take(&shown, &mut widths, width, kind));
                    return fits.then_some((shown, widths));
                }
            }
        }
    }

    /// Takes from the widest column of this kind that can give until all fit; whether they do.
    fn take(&self, shown: &[usize], widths: &mut [usize], width: usize, kind: Kind) -> bool {
        let gaps = GAP * shown.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > width {
            let can_give = (0..widths.len()).filter(|at| {
                let column = &self.columns[shown[*at]];
                column.kind == kind && column.least().is_some_and(|least| widths[*at] > least)
            });
            let Some(widest) = can_give.max_by_key(|at| widths[*at]) else { return false };
            widths[widest] -= 1;
        }
        true
    }

    fn grid(&self, shown: &[usize], widths: &[usize]) -> String {
        let mut text = String::new();
        let headings = shown
            .iter()
            .map(|at| Cell { text: self.columns[*at].heading.into(), tone: Tone::Faint });
        self.line(shown, widths, headings.collect(), &mut text);
        for row in &self.rows {
            self.line(shown, widths, shown.iter().map(|at| row[*at].clone()).collect(), &mut text);
        }
        text
    }

    fn line(&self, shown: &[usize], widths: &[usize], cells: Vec<Cell>, text: &mut String) {
        let mut line = String::new();
        for ((at, width), cell) in shown.iter().zip(widths).zip(cells) {
            let kind = self.columns[*at].kind;
            let content = shortened(&cell.text, *width, kind);
            let pad = " ".repeat(width.saturating_sub(content.width()) + GAP);
            let content = cell.tone.paint(&content);
            let (before, after) =
                if kind == Kind::Number { (&pad[GAP..], &pad[..GAP]) } else { ("", &*pad) };
            line.extend([before, content.as_str(), after]);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }

    /// A block for each row: the heading of each column that has something to say, and what.
    fn blocks(&self, shown: &[usize], width: usize) -> String {
        let margin =
            shown.iter().map(|at| self.columns[*at].heading.width()).max().unwrap_or(0) + GAP;
        let room = width.saturating_sub(margin).max(ID_MIN);
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            for at in shown.iter().filter(|at| !row[**at].text.is_empty()) {
                let heading = self.columns[*at].heading;
                let pad = " ".repeat(margin - heading.width());
                let content = shortened(&row[*at].text, room, self.columns[*at].kind);
                let line = Tone::Faint.paint(heading) + pad + row[*at].tone.paint(&content);
                text.push_str(line.as_str());
                text.push('\n');
            }
        }
        text
    }
}

fn shortened(text: &str, width: usize, kind: Kind) -> String {
    match kind {
        _ if text.width() <= width => text.to_owned(),
        Kind::Id => middle(text, width),
        Kind::Tail => tail(text, width),
        Kind::Fixed | Kind::Number | Kind::Text | Kind::Name => end(text, width),
    }
}

/// An id with its beginning and its end, at most so wide.
pub fn middle(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let left = width.saturating_sub(1).div_ceil(2);
    let right = width.saturating_sub(1) - left;
    format!("{}…{}", take(text, left), take_last(text, right))
}

/// The end of a text, at most so wide.
fn tail(text: &str, width: usize) -> String {
    format!("…{}", take_last(text, width.saturating_sub(1)))
}

fn take_last(text: &str, width: usize) -> String {
    let reversed: String = text.chars().rev().collect();
    take(&reversed, width).chars().rev().collect()
}

/// The beginning of a text, at most so wide.
fn end(text: &str, width: usize) -> String {
    format!("{}…", take(text, width.saturating_sub(1)))
}

fn take(text: &str, width: usize) -> String {
    let mut used = 0;
    text.chars()
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= width
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";

    fn table() -> Table {
        let mut table = Table::new([
            Column::id("HOST"),
            Column::text("NAME"),
            Column::number("ACTORS"),
            Column::fixed("VERSION").only_wide(),
        ]);
        table.row([Cell::from(HOST), "lucky-reef-8888".into(), 12.into(), "0.1.0".into()]);
        table.row([Cell::from("NB"), "x\ny".into(), 3.into(), "0.1.0".into()]);
        table
    }

    #[test]
    fn without_a_width_nothing_is_shortened() {
        let text = table().render(None, Columns::Usual);
        assert!(text.lines().nth(1).unwrap().starts_with(HOST), "{text}");
        assert!(
            !text.contains("VERSION") && table().render(None, Columns::All).contains("VERSION")
        );
    }

    #[test]
    fn every_line_fits_whatever_the_width() {
        for width in 24..120 {
            let text = anstream::adapter::strip_str(&table().render(Some(width), Columns::Usual))
                .to_string();
            assert!(text.lines().all(|line| line.width() <= width), "{width}:\n{text}");
        }
        let narrow =
            anstream::adapter::strip_str(&table().render(Some(40), Columns::Usual)).to_string();
        assert_eq!(
            narrow.lines().nth(1),
            Some("NCATS5Y…GZZJWVF  lucky-reef-8888      12"),
            "{narrow}"
        );
    }

    #[test]
    fn names_give_way_last_and_columns_that_need_not_be_there_first() {
        let mut table = Table::new([
            Column::name("NAME"),
            Column::tail("CONTRACT"),
            Column::text("VALUES"),
            Column::id("ID").if_room(),
        ]);
        table.row([
            Cell::from("order-service-one"),
            "wasmcloud:httpserver".into(),
            "address=127.0.0.1:8080".into(),
            HOST.into(),
        ]);
        let row = |width| {
            let text = anstream::adapter::strip_str(&table.render(Some(width), Columns::Usual))
                .to_string();
            text.lines().nth(1).unwrap().to_owned()
        };
        assert_eq!(
            row(80),
            "order-service-one  wasmcloud:httpserver  address=127.0.0.1:8080  NCATS5Y…GZZJWVF"
        );
        assert_eq!(row(70), "order-service-one  wasmcloud:httpserver  address=127.0.0.1:8080");
        assert_eq!(row(56), "order-service-one  …d:httpserver  address=127.0.0.1:8080");
        let all = table.render(None, Columns::Usual);
        assert!(all.contains(HOST), "{all}");
    }

    #[test]
    fn what_does_not_fit_becomes_blocks() {
        let text =
            anstream::adapter::strip_str(&table().render(Some(26), Columns::Usual)).to_string();
        assert!(text.contains("HOST    NCATS") && text.contains("ACTORS  12"), "{text}");
    }

    #[test]
    fn numbers_stand_at_the_right_and_texts_stay_in_their_row() {
        let text = anstream::adapter::strip_str(&table().render(None, Columns::Usual)).to_string();
        assert!(text.lines().count() == 3 && text.contains("x\\ny"), "{text}");
        assert!(text.lines().nth(2).unwrap().ends_with("     3"), "{text}");
    }

    #[test]
    fn ids_keep_both_ends() {
        assert_eq!(middle("ABCDEFGHIJ", 5), "AB…IJ");
        assert_eq!(middle("ABC", 5), "ABC");
        assert_eq!(end("ABCDEFGHIJ", 5), "ABCD…");
    }
}
