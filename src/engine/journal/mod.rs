//! The last log lines of actors and providers of this host, kept for clients that ask.
//!
//! Every source of lines has a [`Writer`]: actors through their sink, providers through their
//! output, and the host for lines about one of them. Lines come here whatever the host's own log
//! level is. Secrets are masked and floods cut off before; here only memory is bounded:
//! [`LINES_MAX`] and [`BYTES_MAX`] for each entity, [`ENTITIES_MAX`], and [`TOTAL_BYTES_MAX`] for
//! all. The oldest lines go first.
//!
//! The lines of an entity are numbered without gaps. A reader asks for what comes after the last
//! number it has seen; if that is no longer here, it is told how many lines it missed. So a slow
//! reader costs nothing, and nothing waits for it.
//!
//! [`wire`](lattice_protocol::journal::wire) is how this is asked for from elsewhere, and
//! [`followers`] answers.
//!
//! A journal is passed along explicitly: hosts that share a process, as in tests, have one each.

pub mod followers;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use lattice_protocol::{
    clock, escape,
    journal::{Level, Line},
};

/// Lines kept of one entity.
pub const LINES_MAX: usize = 1000;
/// Bytes kept of one entity, with what it costs to keep them.
pub const BYTES_MAX: usize = 128 << 10;
/// Entities of which lines are kept.
pub const ENTITIES_MAX: usize = 1024;
/// Bytes kept of all entities.
pub const TOTAL_BYTES_MAX: usize = 16 << 20;

/// Returns the beginning of a text that has this many bytes at most.
pub(crate) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// Some lines of an entity, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    pub lines: Vec<Line>,
    /// Lines that were asked for and are no longer here.
    pub lost: u64,
    /// Where to go on: the number of the last line that was looked at.
    pub last: u64,
}

/// Keeps the last lines of a host's entities. Cheap to clone.
#[derive(Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    host_id: String,
    /// Another one after each start of a host, whose numbers begin anew.
    life: String,
    // Held for lines, never across an await.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    entities: HashMap<Arc<str>, Entity>,
    bytes: usize,
}

struct Entity {
    lines: VecDeque<Line>,
    bytes: usize,
    /// The number of the last line.
    last: u64,
    said: watch::Sender<u64>,
}

impl Default for Entity {
    fn default() -> Self {
        Self { lines: VecDeque::new(), bytes: 0, last: 0, said: watch::Sender::new(0) }
    }
}

impl Entity {
    /// Forgets the oldest line; returns what it took.
    fn forget_one(&mut self) -> usize {
        let cost = self.lines.pop_front().map_or(0, |line| line.cost());
        self.bytes -= cost;
        cost
    }

    /// When it spoke last.
    fn spoke_us(&self) -> u64 {
        self.lines.back().map_or(0, |line| line.at_us)
    }
}

impl Journal {
    pub fn new(host_id: &str) -> Self {
        let life = uuid::Uuid::new_v4().simple().to_string();
        Self(Arc::new(Inner { host_id: host_id.to_owned(), life, kept: Mutex::default() }))
    }

    pub fn host_id(&self) -> &str {
        &self.0.host_id
    }

    /// Tells this journal from that of another start of the same host.
    pub fn life(&self) -> &str {
        &self.0.life
    }

    /// Where an entity speaks; `link_name` is empty for actors.
    pub fn writer(&self, entity: &str, link_name: &str) -> Writer {
        Writer { journal: self.clone(), entity: entity.into(), link_name: link_name.into() }
    }

    /// The last lines of an entity, at most so many.
    pub fn tail(&self, entity: &str, lines: usize) -> Excerpt {
        let kept = self.0.kept.lock();
        let Some(entity) = kept.entities.get(entity) else { return Excerpt::default() };
        let skipped = entity.lines.len().saturating_sub(lines);
        Excerpt {
            lines: entity.lines.iter().skip(skipped).cloned().collect(),
            lost: 0,
            last: entity.last,
        }
    }

    /// The lines of an entity after one that was seen: at most so many, and at most so many bytes
    /// if that is more than one.
    pub fn after(&self, entity: &str, seen: u64, lines_max: usize, bytes_max: usize) -> Excerpt {
        let kept = self.0.kept.lock();
        let Some(entity) = kept.entities.get(entity) else {
            return Excerpt { last: seen, ..Excerpt::default() };
        };
        // Of an entity that was forgotten and speaks again nothing was seen.
        let seen = if seen > entity.last { 0 } else { seen };
        let first = entity.lines.front().map_or(entity.last + 1, |line| line.number);
        let lost = first.saturating_sub(seen + 1);
        let from = usize::try_from((seen + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut lines = Vec::new();
        for line in entity.lines.iter().skip(from).take(lines_max) {
            bytes += line.cost();
            if bytes > bytes_max && !lines.is_empty() {
                break;
            }
            lines.push(line.clone());
        }
        let last = lines.last().map_or(seen.max(first - 1), |line: &Line| line.number);
        Excerpt { lines, lost, last }
    }

    /// Returns what was said since the last look, of every entity, and notes in `seen` how far it
    /// was read: the last lines of each, as many as fit into its share of `bytes_max`.
    pub fn news(
        &self,
        seen: &mut HashMap<Arc<str>, u64>,
        bytes_max: usize,
    ) -> Vec<(Arc<str>, Excerpt)> {
        let kept = self.0.kept.lock();
        seen.retain(|id, _| kept.entities.contains_key(id));
        let speaks = |id: &Arc<str>, entity: &Entity| {
            // One that was forgotten and speaks again begins to count anew.
            let before = seen.get(id).copied().filter(|before| *before <= entity.last);
            (entity.last > before.unwrap_or(0)).then_some(before.unwrap_or(0))
        };
        let spoken: Vec<(&Arc<str>, &Entity, u64)> = kept
            .entities
            .iter()
            .filter_map(|(id, entity)| Some((id, entity, speaks(id, entity)?)))
            .collect();
        let share = bytes_max / spoken.len().max(1);
        let news = spoken.into_iter().map(|(id, entity, before)| {
            let mut bytes = 0;
            let new = entity.lines.iter().rev().take_while(|line| line.number > before);
            let mut lines: Vec<Line> = new
                .take_while(|line| {
                    bytes += line.cost();
                    bytes <= share
                })
                .cloned()
                .collect();
            lines.reverse();
            let lost = (entity.last - before).saturating_sub(lines.len() as u64);
            (Arc::clone(id), Excerpt { lines, lost, last: entity.last })
        });
        let news: Vec<(Arc<str>, Excerpt)> = news.collect();
        seen.extend(news.iter().map(|(id, excerpt)| (Arc::clone(id), excerpt.last)));
        news
    }

    /// Tells whenever an entity speaks, which may not have done so yet. As long as somebody
    /// follows, it is not forgotten.
    pub fn follow(&self, entity: &str) -> watch::Receiver<u64> {
        let mut kept = self.0.kept.lock();
        kept.make_room(entity);
        kept.entities.entry(Arc::from(entity)).or_default().said.subscribe()
    }

    fn write(&self, writer: &Writer, level: Level, text: &str) {
        let now_us = u64::try_from(clock::unix_time().as_micros()).unwrap_or(u64::MAX);
        let mut kept = self.0.kept.lock();
        kept.make_room(&writer.entity);
        let entity = kept.entities.entry(Arc::clone(&writer.entity)).or_default();
        entity.last += 1;
        let (number, at_us) = (entity.last, now_us.max(entity.spoke_us()));
        // One line for whoever reads it, whatever an actor has put into it.
        let text = escape::line(text).into();
        let line = Line { number, at_us, level, link_name: Arc::clone(&writer.link_name), text };
        let mut growth = line.cost() as isize;
        entity.bytes += line.cost();
        entity.lines.push_back(line);
        while entity.lines.len() > LINES_MAX || (entity.bytes > BYTES_MAX && entity.lines.len() > 1)
        {
            growth -= entity.forget_one() as isize;
        }
        entity.said.send_replace(number);
        kept.bytes = kept.bytes.saturating_add_signed(growth);
        kept.shrink();
    }
}

impl Kept {
    /// Forgets the entity that has been silent longest if one more would be too many.
    fn make_room(&mut self, entity: &str) {
        if self.entities.len() < ENTITIES_MAX || self.entities.contains_key(entity) {
            return;
        }
        let unheard = self.entities.iter().filter(|(_, entity)| entity.said.receiver_count() == 0);
        let silent =
            unheard.min_by_key(|(_, entity)| entity.spoke_us()).map(|(id, _)| Arc::clone(id));
        if let Some(gone) = silent.and_then(|id| self.entities.remove(&id)) {
            self.bytes -= gone.bytes;
        }
    }

    /// Takes half of what it has from whoever has most, until all fit.
    fn shrink(&mut self) {
        while self.bytes > TOTAL_BYTES_MAX {
            let Some(entity) = self.entities.values_mut().max_by_key(|entity| entity.bytes) else {
                return;
            };
            let half = entity.bytes / 2;
            while entity.bytes > half {
                self.bytes -= entity.forget_one();
            }
        }
    }
}

/// Where one entity speaks. Cheap to clone.
#[derive(Clone)]
pub struct Writer {
    journal: Journal,
    entity: Arc<str>,
    link_name: Arc<str>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writer({})", self.entity)
    }
}

impl Writer {
    /// Keeps a line.
    pub fn write(&self, level: Level, text: &str) {
        self.journal.write(self, level, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cost of a line without text.
    const LINE: usize = 64;

    fn numbers(excerpt: &Excerpt) -> (Option<u64>, Option<u64>, usize) {
        let number = |line: Option<&Line>| line.map(|line| line.number);
        (number(excerpt.lines.first()), number(excerpt.lines.last()), excerpt.lines.len())
    }

    #[test]
    fn the_last_lines_of_each_entity_are_kept() {
        let journal = Journal::new("N");
        let (a, b) = (journal.writer("MA", ""), journal.writer("VB", "default"));
        for n in 1..=LINES_MAX + 10 {
            a.write(Level::Info, &format!("line {n}"));
        }
        b.write(Level::Warn, "x");
        let all = journal.tail("MA", usize::MAX);
        assert_eq!(numbers(&all), (Some(11), Some(LINES_MAX as u64 + 10), LINES_MAX));
        assert_eq!(numbers(&journal.tail("MA", 3)).2, 3);
        let other = journal.tail("VB", 10);
        assert_eq!((&*other.lines[0].link_name, other.lines[0].level), ("default", Level::Warn));
        assert_eq!(journal.tail("MC", 10), Excerpt::default());
    }

    #[test]
    fn one_that_talks_much_takes_no_more_than_its_share() {
        let journal = Journal::new("N");
        let long = "x".repeat(4000);
        let writer = journal.writer("MA", "");
        for _ in 0..100 {
            writer.write(Level::Info, &long);
        }
        assert!(
            journal.0.kept.lock().bytes <= BYTES_MAX && journal.tail("MA", 100).lines.len() > 20
        );
        for n in 0..ENTITIES_MAX + 50 {
            let writer = journal.writer(&format!("M{n}"), "");
            for _ in 0..40 {
                writer.write(Level::Info, &long);
            }
        }
        let kept = journal.0.kept.lock();
        assert!(kept.bytes <= TOTAL_BYTES_MAX && kept.entities.len() == ENTITIES_MAX);
        assert_eq!(kept.bytes, kept.entities.values().map(|entity| entity.bytes).sum::<usize>());
        assert!(!kept.entities.contains_key("MA"), "the one that was silent longest goes");
    }

    #[test]
    fn a_reader_goes_on_where_it_was_and_learns_what_it_missed() {
        let journal = Journal::new("N");
        let writer = journal.writer("MA", "");
        assert_eq!(journal.after("MA", 0, 10, 1000), Excerpt::default());
        for n in 1..=5 {
            writer.write(Level::Info, &n.to_string());
        }
        let excerpt = journal.after("MA", 2, 2, 10_000);
        assert_eq!((numbers(&excerpt), excerpt.lost, excerpt.last), ((Some(3), Some(4), 2), 0, 4));
        assert_eq!(numbers(&journal.after("MA", 0, 10, 1)).2, 1, "one line always goes");
        assert_eq!(
            (journal.after("MA", 5, 10, 1000).last, journal.after("MA", 5, 10, 1000).lines.len()),
            (5, 0)
        );
        for n in 0..LINES_MAX {
            writer.write(Level::Info, &n.to_string());
        }
        let excerpt = journal.after("MA", 2, 2, 10_000);
        assert_eq!((excerpt.lost, excerpt.lines[0].number), (3, 6));
    }

    #[test]
    fn news_are_what_was_said_since_the_last_look_and_have_a_bound() {
        let (journal, mut seen) = (Journal::new("N"), HashMap::new());
        let (a, b) = (journal.writer("MA", ""), journal.writer("MB", ""));
        a.write(Level::Info, "first");
        let news = journal.news(&mut seen, 10_000);
        assert_eq!((news.len(), numbers(&news[0].1)), (1, (Some(1), Some(1), 1)));
        assert!(journal.news(&mut seen, 10_000).is_empty());
        for n in 0..20 {
            a.write(Level::Info, &n.to_string());
            b.write(Level::Info, &n.to_string());
        }
        let mut news = journal.news(&mut seen, 10 * (LINE + 2));
        news.sort_by(|(a, _), (b, _)| a.cmp(b));
        let told: Vec<_> = news.iter().map(|(_, news)| (numbers(news), news.lost)).collect();
        assert_eq!(told, [((Some(17), Some(21), 5), 15), ((Some(16), Some(20), 5), 15)]);
    }

    #[test]
    fn what_terminals_obey_is_escaped_in_a_line() {
        let journal = Journal::new("N");
        journal.writer("MA", "").write(Level::Info, "a\u{1b}[2J\n12:00 forged\u{202e}");
        assert_eq!(&*journal.tail("MA", 1).lines[0].text, "a\\u001b[2J\\n12:00 forged\\u202e");
    }

    #[test]
    fn whom_somebody_follows_is_not_forgotten() {
        let journal = Journal::new("N");
        let mut heard = journal.follow("MA");
        for n in 0..ENTITIES_MAX + 10 {
            journal.writer(&format!("M{n}"), "").write(Level::Info, "x");
        }
        assert!(!heard.has_changed().unwrap());
        journal.writer("MA", "").write(Level::Info, "at last");
        assert_eq!(*heard.borrow_and_update(), 1);
    }
}
