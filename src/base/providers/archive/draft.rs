//! Writes provider archives, and changes those there are.
//!
//! A [`Draft`] is an archive that nobody vouches for yet: what the claims are to say, and an
//! executable for each target. [`Draft::write`] hashes the executables, signs the claims, and packs
//! all as the readers of these years want it: `claims.jwt` first, then `{target}.bin` for each
//! target, in a GNU tar that may be compressed as a whole. The same draft signed with the same
//! token is the same file: entries have no times and come in the order of their names.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use flate2::{Compression, write::GzEncoder};

use super::{
    ArchiveError, CLAIMS_FILE, Contents, EXECUTABLE_BYTES_MAX, EXECUTABLE_EXTENSION, check_hash,
    is_wasm,
};
use lattice_protocol::identity::{
    digest::{hex_upper, sha256},
    provider::ProviderClaims,
    sign::{self, ProviderToken, SignError, Term},
    signature::SigningKey,
};

/// Characters of a target that fit, with `.bin` behind them, into the name of an entry without an
/// extension header.
const TARGET_CHARS_MAX: usize = 90;

/// The contents of an archive before it is signed.
#[derive(Clone, Default)]
pub struct Draft {
    /// Everything but the hashes, which are made of the executables.
    pub says: ProviderToken,
    executables: BTreeMap<String, Vec<u8>>,
}

/// Why an archive cannot be written. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    #[error(
        "{0:?} is no target; targets are named ARCH-OS, like x86_64-linux or aarch64-macos, with letters, digits, _ and -"
    )]
    Target(String),
    #[error("the executable for {0} is empty")]
    Empty(String),
    #[error(
        "the executable for {0} is a WebAssembly module; providers are programs of the machine they run on"
    )]
    Wasm(String),
    #[error(
        "the executable for {target} has more than {EXECUTABLE_BYTES_MAX} bytes, which no host takes"
    )]
    TooLarge { target: String },
    #[error("there is no executable to pack")]
    NoExecutables,
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("pack the archive: {0}")]
    Pack(#[from] io::Error),
}

impl Draft {
    pub fn new(says: ProviderToken) -> Self {
        Self { says, executables: BTreeMap::new() }
    }

    /// Takes an archive apart to change it; returns its claims too. All its executables are
    /// checked.
    ///
    /// Unpacks and hashes: call it off the async threads.
    pub fn read(bytes: &[u8], now: u64) -> Result<(Self, ProviderClaims), ArchiveError> {
        let contents = Contents::of(bytes, |_| true)?;
        let claims = contents.claims(now)?;
        for (target, executable) in &contents.executables {
            check_hash(&claims, target, executable)?;
        }
        let says = ProviderToken {
            name: claims.name.clone().unwrap_or_default(),
            contract_id: claims.contract_id.clone(),
            vendor: claims.vendor.clone(),
            revision: claims.revision,
            version: claims.version.clone(),
            target_hashes: BTreeMap::new(),
            config_schema: claims.config_schema.clone(),
        };
        Ok((Self { says, executables: contents.executables }, claims))
    }

    /// Puts in the executable for a target. Returns whether it replaces another one.
    pub fn insert(&mut self, target: &str, executable: Vec<u8>) -> Result<bool, DraftError> {
        // The name becomes that of a file, and `claims` is taken.
        let is_named = target.contains('-')
            && target.len() <= TARGET_CHARS_MAX
            && target.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
        if !is_named {
            return Err(DraftError::Target(target.to_owned()));
        }
        let target = target.to_owned();
        if executable.is_empty() {
            return Err(DraftError::Empty(target));
        }
        if is_wasm(&executable) {
            return Err(DraftError::Wasm(target));
        }
        if executable.len() as u64 > EXECUTABLE_BYTES_MAX {
            return Err(DraftError::TooLarge { target });
        }
        Ok(self.executables.insert(target, executable).is_some())
    }

    /// The targets there are executables for.
    pub fn targets(&self) -> Vec<String> {
        self.executables.keys().cloned().collect()
    }

    /// Signs and packs.
    ///
    /// Hashes and compresses, some seconds for large programs: call it off the async threads.
    pub fn write(
        &self,
        subject: &SigningKey,
        issuer: &SigningKey,
        term: &Term,
        compress: bool,
    ) -> Result<Vec<u8>, DraftError> {
        if self.executables.is_empty() {
            return Err(DraftError::NoExecutables);
        }
        let executables = self.executables.iter();
        let target_hashes = executables
            .map(|(target, executable)| (target.clone(), hex_upper(&sha256(executable))))
            .collect();
        let says = ProviderToken { target_hashes, ..self.says.clone() };
        let token = sign::provider(&says, subject, issuer, term)?;
        if !compress {
            return Ok(self.pack(&token, Vec::new())?);
        }
        let packed = self.pack(&token, GzEncoder::new(Vec::new(), Compression::default()))?;
        Ok(packed.finish()?)
    }

    fn pack<W: Write>(&self, token: &str, out: W) -> io::Result<W> {
        let mut tar = tar::Builder::new(out);
        append(&mut tar, CLAIMS_FILE, 0o644, token.as_bytes())?;
        for (target, executable) in &self.executables {
            append(&mut tar, &format!("{target}.{EXECUTABLE_EXTENSION}"), 0o755, executable)?;
        }
        tar.into_inner()
    }
}

fn append(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    mode: u32,
    content: &[u8],
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    tar.append_data(&mut header, name, content)
}
