//! The starts that are kept while commands are under way.
//!
//! ```text
//! list that was read ─▶ command ─▶ command ─▶ … ─▶ list that is kept now
//! ```
//!
//! Each command has a number and stays until it has ended: one that failed is taken out as if it
//! had never been given, whatever came after it, and one that worked becomes part of the list
//! before it. So a second start that is refused takes nothing from the first. The list may be read
//! after commands were given; they are carried out on it then, so they win.

use std::collections::VecDeque;

use super::{Command, Full, Kept, Place};

/// Commands that may be under way.
const WAITING_MAX: usize = 1024;

/// The number of a command.
pub type Number = u64;

/// A list and the commands after it.
#[derive(Debug, Default)]
pub struct CommandLog {
    /// `None` until it was read.
    list: Option<Kept>,
    commands: VecDeque<Entry>,
    last: Number,
    /// The list after all commands.
    current: Kept,
}

#[derive(Debug)]
struct Entry {
    number: Number,
    /// The place of what a start is about.
    place: Option<Place>,
    /// The command as it was given, or as the host has carried it out.
    commands: Vec<Command>,
    /// The public key of what it started.
    key: Option<String>,
    has_ended: bool,
    /// Whether it makes another list.
    is_news: bool,
}

/// A command that was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    pub number: Number,
    /// Whether it makes another list.
    pub is_news: bool,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Failed,
    Worked {
        /// The exact change that the host made, if it can be told better than by the command.
        exactly: Option<Command>,
        /// The public key of what it started.
        key: Option<String>,
    },
}

/// Why a command is not noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Full(#[from] Full),
    #[error(
        "{WAITING_MAX} commands are under way on this host already, or wait for the list of what it keeps to be read; \
         try again later"
    )]
    TooMany,
}

impl CommandLog {
    /// Returns what is kept, as far as it is known.
    pub fn current(&self) -> &Kept {
        &self.current
    }

    /// Whether the list was read.
    pub fn is_read(&self) -> bool {
        self.list.is_some()
    }

    /// Notes a command; one that there is no room for changes nothing.
    pub fn note(&mut self, command: Command) -> Result<Noted, Refused> {
        if self.commands.len() >= WAITING_MAX {
            return Err(Refused::TooMany);
        }
        let is_news = self.current.apply(&command);
        if is_news
            && may_grow(&command)
            && let Err(full) = self.current.check()
        {
            self.refresh();
            return Err(full.into());
        }
        self.last += 1;
        self.commands.push_back(Entry {
            number: self.last,
            place: command.place(),
            commands: vec![command],
            key: None,
            has_ended: false,
            is_news,
        });
        Ok(Noted { number: self.last, is_news })
    }

    /// Takes the end of a command in; returns whether that makes another list.
    pub fn end(&mut self, number: Number, ended: Ended) -> bool {
        let Some(at) = self.commands.iter().position(|entry| entry.number == number) else {
            return false;
        };
        match ended {
            Ended::Failed => drop(self.commands.remove(at)),
            Ended::Worked { exactly, key } => self.commands[at].worked(exactly, key),
        }
        self.absorb();
        self.refresh()
    }

    /// Takes in the list that was read. Commands that there is no room for are left out; returns
    /// why.
    pub fn read(&mut self, mut list: Kept) -> Vec<Full> {
        let mut left_out = Vec::new();
        list.drop_superseded();
        self.current = list.clone();
        self.list = Some(list);
        for mut entry in std::mem::take(&mut self.commands) {
            let before = self.current.clone();
            entry.is_news = entry.apply(&mut self.current);
            match self.current.check() {
                Err(full) if entry.commands.iter().any(may_grow) => {
                    self.current = before;
                    left_out.push(full);
                }
                _ => self.commands.push_back(entry),
            }
        }
        self.absorb();
        left_out
    }

    /// Whether a command makes another list; `None` until that is known.
    pub fn is_news(&self, number: Number) -> Option<bool> {
        let entry = self.commands.iter().find(|entry| entry.number == number);
        self.list.as_ref()?;
        entry.map(|entry| entry.is_news)
    }

    /// Whether a start of this place is under way.
    pub fn is_under_way(&self, place: &Place) -> bool {
        self.commands.iter().any(|entry| !entry.has_ended && entry.place.as_ref() == Some(place))
    }

    /// Notes the public key of what runs in a place of the list that was read; returns whether that
    /// makes another list.
    pub fn identify(&mut self, place: &Place, key: &str) -> bool {
        self.change_list(|list| list.identify(place, key))
    }

    /// Notes public keys by references, see [`Kept::learn`].
    pub fn learn(&mut self, key_of: impl Fn(&str) -> Option<String>) {
        self.change_list(|list| list.learn(key_of));
    }

    /// Takes away what was read for a place, if something else of this key is kept.
    pub fn give_way(&mut self, place: &Place, key: &str) -> bool {
        self.current.has_other(place, key) && self.change_list(|list| list.remove(place))
    }

    fn change_list(&mut self, change: impl FnOnce(&mut Kept) -> bool) -> bool {
        self.list.as_mut().is_some_and(change) && self.refresh()
    }

    /// Makes those that have ended part of the list, as far as nothing before them is under way.
    fn absorb(&mut self) {
        let Some(list) = &mut self.list else { return };
        while let Some(entry) = self.commands.pop_front_if(|entry| entry.has_ended) {
            entry.apply(list);
        }
    }

    /// Carries everything out anew; returns whether that makes another list.
    fn refresh(&mut self) -> bool {
        let mut current = self.list.clone().unwrap_or_default();
        for entry in &self.commands {
            entry.apply(&mut current);
        }
        let is_news = current != self.current;
        self.current = current;
        is_news
    }
}

/// Whether a list may have more in it after a command.
fn may_grow(command: &Command) -> bool {
    command.place().is_some() || matches!(command, Command::UpdateActor { .. })
}

impl Entry {
    fn worked(&mut self, exactly: Option<Command>, key: Option<String>) {
        (self.has_ended, self.key) = (true, key);
        let Some(exactly) = exactly else { return };
        // A stop of all of an actor is also about what does not run at the moment.
        let is_whole = matches!(self.commands[..], [Command::StopActor { count: None, .. }]);
        if !is_whole {
            self.commands.clear();
        }
        self.commands.push(exactly);
    }

    /// Returns whether it makes another list.
    fn apply(&self, list: &mut Kept) -> bool {
        let mut is_news = false;
        for command in &self.commands {
            is_news |= list.apply(command);
        }
        if let (Some(place), Some(key)) = (&self.place, &self.key) {
            is_news |= list.identify(place, key);
        }
        is_news
    }
}

#[cfg(test)]
mod tests;
