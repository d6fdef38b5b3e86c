//! The keys of a hub's operator, kept in files so that machines that were let in stay so.

use std::path::Path;

use anyhow::{Context as _, Result};
pub use lattice_protocol::identity::operator::{Keys, Operator};
use nkeys::{KeyPair, KeyPairType};

use super::files;

/// Reads the seeds in `dir`, and makes and writes those that are missing.
pub fn keep(dir: &Path) -> Result<Keys> {
    let keep = |name: &str, kind: KeyPairType| {
        let path = dir.join(name);
        let seed = files::keep_secret(&path, || Ok(KeyPair::new(kind.clone()).seed()?))?;
        let pair = KeyPair::from_seed(seed.trim()).ok().filter(|pair| pair.key_pair_type() == kind);
        pair.with_context(|| {
            format!(
                "{} holds no {kind:?} seed; delete it to get a new one, with new credentials",
                path.display()
            )
        })
    };
    Ok(Keys {
        operator: keep("operator.nk", KeyPairType::Operator)?,
        system: keep("system.nk", KeyPairType::Account)?,
        account: keep("account.nk", KeyPairType::Account)?,
        user: keep("user.nk", KeyPairType::User)?,
    })
}
