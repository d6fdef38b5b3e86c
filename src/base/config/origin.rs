//! Where a value came from, and what was wrong with it.
//!
//! Every value keeps its [`Origin`], so that `config show` and every complaint can name the line to
//! edit. Complaints are collected in [`Mistakes`] and reported together: nobody likes to fix six
//! settings in six starts.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag, named with its dashes.
    Flag(String),
    /// A variable of the process environment.
    Env(String),
    /// A variable of a dotenv file.
    Dotenv { file: PathBuf, line: usize, name: String },
    /// A line of `host_config.json`.
    File { path: PathBuf, line: usize },
    /// Nobody said anything.
    Default,
}

impl Origin {
    /// Returns whether someone asked for this value in this start, as opposed to the file, which
    /// repeats what an earlier start was told.
    pub fn is_above_file(&self) -> bool {
        matches!(self, Origin::Flag(_) | Origin::Env(_) | Origin::Dotenv { .. })
    }

    /// Returns the file that the value stands in, if it stands in one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Origin::Dotenv { file, .. } | Origin::File { path: file, .. } => Some(file),
            Origin::Flag(_) | Origin::Env(_) | Origin::Default => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(name) => write!(f, "flag {name}"),
            Origin::Env(name) => write!(f, "environment variable {name}"),
            Origin::Dotenv { file, line, name } => {
                write!(f, "{} in {}:{line}", name, file.display())
            }
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// The error in a value. No variant carries a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{0:?} is neither yes nor no")]
    NotBoolean(String),
    #[error("{0:?} is not a whole number")]
    NotInteger(String),
    #[error("{0:?} is not a number of bytes")]
    NotBytes(String),
    #[error("{0} is out of range")]
    OutOfRange(String),
    #[error("{0:?} is not one of the known words")]
    NotAChoice(String),
    #[error("{0:?} is not a lattice name")]
    NotALatticeName(String),
    #[error("{0:?} is not a single subject token")]
    NotAToken(String),
    #[error("{0:?} is not a subject")]
    NotASubject(String),
    #[error("{0:?} is no subject below which only answers go")]
    NotAnInboxPrefix(String),
    #[error("{0} is no absolute path")]
    NotAbsolute(String),
    #[error("{0:?} is not a NATS server address")]
    NotAServer(String),
    #[error("{0:?} is not an IP address")]
    NotAnAddress(String),
    #[error("the server address contains credentials")]
    CredentialsInAddress,
    #[error("the text is not an nkey seed")]
    NotASeed,
    #[error("the text is a public key, not a seed")]
    PublicKeyInsteadOfSeed,
    #[error("the text is the seed of {found} key, not of {wanted} key")]
    WrongSeedKind { wanted: &'static str, found: &'static str },
    #[error("{0:?} is not an nkey public key")]
    NotAPublicKey(String),
    #[error("the text is a seed where only public keys belong")]
    SeedInsteadOfPublicKey,
    #[error("{key} is the public key of {found} key, not of {wanted} key")]
    WrongPublicKeyKind { key: String, wanted: &'static str, found: &'static str },
    #[error("{path:?} cannot be read: {reason}")]
    Unreadable { path: PathBuf, reason: String },
    #[error("{} is empty; write the value into it, or name another file", .0.display())]
    EmptyFile(PathBuf),
    #[error("the value is {found}")]
    WrongType { found: &'static str },
    #[error("line {line}, column {column}: {message}")]
    Syntax { line: usize, column: usize, message: String },
    #[error(
        "the value is quoted wrongly: a quote has no partner, or something stands behind the second one"
    )]
    WronglyQuoted,
    #[error("it is set without {0}")]
    MissingPartner(String),
    #[error("it is set together with {0}, and a connection logs in one way only")]
    Conflict(String),
    #[error("{} is a file of {with}, too ({})", path.display(), other.display())]
    SharedFile { path: PathBuf, with: &'static str, other: PathBuf },
}

/// One thing to correct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Key of the setting, or the name of the file if the file as a whole is at fault.
    pub key: String,
    pub origin: Origin,
    pub problem: Problem,
    /// The values that are accepted.
    pub accepted: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}; accepted: {}", self.key, self.origin, self.problem, self.accepted)
    }
}

/// Everything that was wrong, at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl Mistakes {
    pub fn add(
        &mut self,
        key: impl Into<String>,
        origin: &Origin,
        problem: Problem,
        accepted: impl Into<String>,
    ) {
        self.0.push(Mistake {
            key: key.into(),
            origin: origin.clone(),
            problem,
            accepted: accepted.into(),
        });
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl Error for Mistakes {}
