//! Actors that claim the same call alias, in words.

use std::{fmt, sync::Arc};

use super::Table;

/// An actor with the account that signed it, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    pub actor_id: Arc<str>,
    pub issuer: String,
}

impl Claimant {
    /// An actor with what the metadata says of it.
    pub fn known(table: &Table, actor_id: &Arc<str>) -> Self {
        let issuer = table.claims(actor_id).map(|claims| claims.issuer.clone()).unwrap_or_default();
        Self { actor_id: Arc::clone(actor_id), issuer }
    }
}

impl fmt::Display for Claimant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.issuer.as_str() {
            "" => write!(f, "{}", self.actor_id),
            issuer => write!(f, "{} (signed by {issuer})", self.actor_id),
        }
    }
}

/// How the start of an actor meets the claims of others to its alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contest {
    pub alias: String,
    /// The other one: the holder if it runs, else the last that claimed the alias before.
    pub other: Claimant,
    /// It runs, so calls of the alias go on to it.
    pub other_runs: bool,
    pub claimant: Claimant,
}

impl fmt::Display for Contest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { alias, other, other_runs, claimant } = self;
        write!(f, "call alias {alias} of {claimant} ")?;
        if *other_runs {
            write!(
                f,
                "is that of {other}, which runs: calls of it go on to that one, until it runs nowhere"
            )?;
        } else {
            write!(
                f,
                "was claimed before by {other}, which runs nowhere as far as hosts tell; if it is gone for good: host claims \
                 forget {}",
                other.actor_id
            )?;
        }
        if !other.issuer.is_empty() && other.issuer != claimant.issuer {
            f.write_str(". They are signed by different accounts")?;
        }
        Ok(())
    }
}
