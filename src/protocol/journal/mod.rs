//! Lines that actors and providers say, and how they are asked for ([`wire`]).

pub mod wire;

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::serde_null::null_as_default;

/// The bytes that a line takes beside its text.
const LINE_COST: usize = 64;

/// How important a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Trace,
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

impl<'de> Deserialize<'de> for Level {
    /// Levels that only a later version knows read as the usual one, so that its lines are read.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Ok(Self::ALL.into_iter().find(|level| level.name() == name).unwrap_or_default())
    }
}

impl Level {
    const ALL: [Self; 5] = [Self::Trace, Self::Debug, Self::Info, Self::Warn, Self::Error];

    /// Reads the level text of the logging contract; an unknown one counts as debug, as it did
    /// in 2022.
    pub fn parse(text: &str) -> Self {
        match text {
            "trace" => Self::Trace,
            "info" => Self::Info,
            "warn" => Self::Warn,
            "error" | "critical" => Self::Error,
            _ => Self::Debug,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl From<tracing::Level> for Level {
    fn from(level: tracing::Level) -> Self {
        match level {
            tracing::Level::TRACE => Self::Trace,
            tracing::Level::DEBUG => Self::Debug,
            tracing::Level::INFO => Self::Info,
            tracing::Level::WARN => Self::Warn,
            tracing::Level::ERROR => Self::Error,
        }
    }
}

/// A line that was said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Line {
    /// Counts the lines of its entity on its host.
    pub number: u64,
    /// Microseconds since 1970; never less than that of the line before.
    pub at_us: u64,
    pub level: Level,
    /// Of a provider.
    #[serde(deserialize_with = "null_as_default", skip_serializing_if = "str::is_empty")]
    pub link_name: Arc<str>,
    #[serde(deserialize_with = "null_as_default")]
    pub text: Arc<str>,
}

impl Line {
    pub fn cost(&self) -> usize {
        self.text.len() + LINE_COST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_level_that_only_a_later_version_knows_is_read() {
        for (text, level) in [("warn", Level::Warn), ("info", Level::Info), ("audit", Level::Info)]
        {
            let line = format!(r#"{{"number":1,"level":"{text}","text":"hello"}}"#);
            let read: Line = serde_json::from_str(&line).unwrap();
            assert_eq!((read.level, &*read.text), (level, "hello"));
        }
    }
}
