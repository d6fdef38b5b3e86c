//! The note of a command, and what its answer tells: whether it is kept, and where.
//!
//! An answer waits a moment for the entry to be written. It says no more than is known by then.

use std::{sync::Arc, time::Duration};

use super::{Inner, Progress};
use lattice_protocol::desired::kept::{Command, Number, Place};

/// How long an answer waits for the entry to be written; clients give up after two seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1200);

/// A command of an operator that was carried out.
#[must_use]
pub struct Noted(pub(super) Option<(Arc<Inner>, Note)>);

/// The note of a command.
#[derive(Clone, Debug)]
pub(super) enum Note {
    /// There is no room for it.
    Refused(String),
    Taken {
        number: Number,
        /// The version of the list that has it.
        version: u64,
        about: About,
    },
}

/// The part of the list that a command is about.
#[derive(Clone, Debug)]
pub(super) enum About {
    Start(Place),
    Update,
    Stop,
}

impl About {
    pub(super) fn of(command: &Command) -> Self {
        match command {
            Command::StartActor { amount, .. } if amount.applied_to(0) == 0 => Self::Stop,
            Command::UpdateActor { .. } => Self::Update,
            _ => command.place().map_or(Self::Stop, Self::Start),
        }
    }
}

/// The part of an answer that tells what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Nothing,
    /// Where it is kept.
    Kept(String),
    /// Why it is not.
    NotKept(String),
}

impl Noted {
    /// Waits for the entry to be written, for a moment; returns what to tell.
    pub async fn told(&self) -> Told {
        let Some((inner, note)) = &self.0 else { return Told::Nothing };
        let (version, about) = match note {
            Note::Refused(cause) => return Told::NotKept(cause.clone()),
            Note::Taken { version, about, .. } => (*version, about),
        };
        let mut progress = inner.progress.subscribe();
        let attempted = progress.wait_for(|progress| match progress.is_read {
            true => progress.attempted >= version,
            false => progress.trouble.is_some(),
        });
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, attempted).await;
        let progress = progress.borrow().clone();
        let is_kept = match about {
            About::Start(place) => Some(inner.state.lock().log.current().get(place).is_some()),
            About::Update => Some(true),
            About::Stop => None,
        };
        progress.told(version, is_kept, &inner.place)
    }
}

impl Progress {
    /// Returns what to tell of a command of this version. `is_kept` says whether what it has
    /// started is kept; `None` for one that stops something.
    fn told(self, version: u64, is_kept: Option<bool>, place: &str) -> Told {
        if self.is_read && self.written >= version {
            return match is_kept {
                None => Told::Nothing,
                Some(true) => Told::Kept(place.to_owned()),
                Some(false) => Told::NotKept(
                    "it has failed, was stopped since, or there was no room for it".to_owned(),
                ),
            };
        }
        let cause = self.trouble.unwrap_or_else(|| format!("{place} does not answer in time"));
        Told::NotKept(match is_kept {
            Some(_) => format!("{cause}; this host goes on trying"),
            None => format!(
                "{cause}; this host goes on trying, and one that comes back before starts again what {place} says"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_is_true_of_the_entry() {
        let kept = || Told::Kept("there".to_owned());
        let cases = [
            ("a start that is written", true, 7, None, Some(true), kept()),
            ("a later one is as well", true, 9, None, Some(true), kept()),
            ("a stop that is written", true, 7, None, None, Told::Nothing),
            ("a trouble from before", true, 7, Some("old"), Some(true), kept()),
        ];
        for (promise, is_read, written, trouble, is_kept, expected) in cases {
            let trouble = trouble.map(str::to_owned);
            let progress = Progress { is_read, attempted: written, written, trouble };
            assert_eq!(progress.told(7, is_kept, "there"), expected, "{promise}");
        }
        let cases = [
            ("a start that has failed", true, 7, None, Some(false), "failed"),
            ("a start that is not written", true, 6, Some("away"), Some(true), "away"),
            ("a start that is not written in time", true, 6, None, Some(true), "in time"),
            ("a stop that is not written", true, 6, Some("away"), None, "starts again"),
            ("a stop before the entry was read", false, 0, Some("off"), None, "off"),
            ("a start before the entry was read", false, 0, Some("off"), Some(true), "off"),
        ];
        for (promise, is_read, written, trouble, is_kept, part) in cases {
            let trouble = trouble.map(str::to_owned);
            let progress = Progress { is_read, attempted: written, written, trouble };
            let told = progress.told(7, is_kept, "there");
            assert!(
                matches!(&told, Told::NotKept(why) if why.contains(part)),
                "{promise}: {told:?}"
            );
        }
    }
}
