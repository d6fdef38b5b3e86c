//! Reads a provider archive: the file that carries a capability provider to this machine. [`Draft`]
//! writes one.
//!
//! It is a tar file, optionally gzip-compressed as a whole (`.par`, `.par.gz`; the first bytes
//! tell). `claims.jwt` holds the provider's token, `{arch}-{os}.bin` its executable for that
//! target; other entries mean nothing (protocol, section 8). [`Archive::read`] returns only what
//! has been checked: the token by signature, time and kind of keys, and the executable of this
//! machine by the hash that the token holds. Executables of other targets are passed over.
//!
//! Archives come from registries, so nothing in them is believed: all sizes are bounded before
//! memory is taken, a name that leaves the archive refuses the whole, and nothing is unpacked to
//! disk here.

mod draft;

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    io::{self, Read},
    path::{Component, Path},
};

use flate2::read::GzDecoder;

use lattice_protocol::identity::{
    claims::ClaimsError,
    digest::{hex_upper, sha256},
    module::is_wasm,
    provider::ProviderClaims,
};

pub use draft::{Draft, DraftError};

const CLAIMS_FILE: &str = "claims.jwt";
const EXECUTABLE_EXTENSION: &str = "bin";
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A token is about a kilobyte; a JSON schema of link values inside may be some more.
const CLAIMS_BYTES_MAX: u64 = 1 << 20;
/// Five times the largest debug build of a provider we met.
const EXECUTABLE_BYTES_MAX: u64 = 512 << 20;
/// Everything unpacked, six targets of large executables. Reading so much takes some seconds, then
/// it ends.
const UNPACKED_BYTES_MAX: u64 = 3 << 30;
const ENTRIES_MAX: usize = 1000;

/// A checked archive.
#[derive(Clone)]
pub struct Archive {
    pub claims: ProviderClaims,
    /// The targets it has executables for.
    pub targets: BTreeSet<String>,
    /// The executable of the target that was asked for.
    pub executable: Vec<u8>,
    /// SHA-256 of the executable.
    pub hash: [u8; 32],
}

/// Why an archive cannot be used. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the file is empty; expected a provider archive (.par or .par.gz)")]
    Empty,
    #[error("this is a WebAssembly module and no provider archive; start it as an actor")]
    Actor,
    #[error("not a readable provider archive (.par or .par.gz): {0}; fetch or build it again")]
    Unreadable(io::Error),
    #[error("the archive is cut off in {0}; fetch or build it again")]
    CutOff(String),
    #[error(
        "the archive unpacks to more than {limit} bytes ({what}), which no provider needs; it was refused"
    )]
    TooLarge { what: &'static str, limit: u64 },
    #[error("the archive has more than {ENTRIES_MAX} entries; it was refused")]
    TooManyEntries,
    #[error(
        "the archive has an entry named {0:?}, which leads out of it; build it again with file names only"
    )]
    OddPath(String),
    #[error("the archive has more than one {0}; build it again")]
    Duplicate(String),
    #[error(
        "the archive has no {CLAIMS_FILE}, so nobody vouches for it; build it again, for example with `host par create`"
    )]
    NoClaims,
    #[error(
        "the archive's {CLAIMS_FILE} is no text; build it again, for example with `host par create`"
    )]
    ClaimsEncoding,
    #[error(
        "the archive's claims are not valid: {0}; sign it again, for example with `host par create`"
    )]
    Claims(ClaimsError),
    #[error(
        "the archive has no executable for this machine ({target}), {available}; build the provider for {target} and add it with `host par insert`"
    )]
    NoTarget { target: String, available: String },
    #[error(
        "the archive's claims hold no hash of the executable for {0}; sign it again, for example with `host par create`"
    )]
    NoHash(String),
    #[error(
        "the executable for {target} was changed after signing: its hash is {computed}, its claims say {claimed}; sign it again, for example with `host par create`"
    )]
    HashMismatch { target: String, claimed: String, computed: String },
}

/// The target of this machine, as archives name it: `x86_64-linux`.
pub fn this_target() -> String {
    format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS)
}

impl Archive {
    /// Reads an archive and checks it; `target` names the executable that is wanted, `now` is in
    /// seconds since 1970.
    ///
    /// Unpacks and hashes, about 10 ms for a usual archive: call it off the async threads.
    pub fn read(bytes: &[u8], target: &str, now: u64) -> Result<Self, ArchiveError> {
        // The claims first: a program that nobody vouches for is not read into memory.
        let claims = Contents::of(bytes, |_| false)?.vouched(target, now)?;
        Contents::of(bytes, |found| found == target)?.check(claims, target)
    }

    /// Reads and checks the claims alone; returns them with the targets there are executables for.
    ///
    /// Unpacks: call it off the async threads.
    pub fn inspect(
        bytes: &[u8],
        now: u64,
    ) -> Result<(ProviderClaims, BTreeSet<String>), ArchiveError> {
        Self::inspect_as_of(bytes, |_| now).map(|(claims, targets, _)| (claims, targets))
    }

    /// The same as of a time that is chosen by the token, which is returned too.
    pub fn inspect_as_of(
        bytes: &[u8],
        time: impl FnOnce(&str) -> u64,
    ) -> Result<(ProviderClaims, BTreeSet<String>, String), ArchiveError> {
        let contents = Contents::of(bytes, |_| false)?;
        let token = contents.token()?.to_owned();
        Ok((contents.claims(time(&token))?, contents.targets, token))
    }

    /// Returns the token an archive carries, unverified.
    pub fn token(bytes: &[u8]) -> Result<String, ArchiveError> {
        Ok(Contents::of(bytes, |_| false)?.token()?.to_owned())
    }

    /// Whether it is compressed as a whole.
    pub fn is_compressed(bytes: &[u8]) -> bool {
        bytes.starts_with(&GZIP_MAGIC)
    }
}

/// The unchecked contents of an archive.
#[derive(Default)]
struct Contents {
    claims: Option<Vec<u8>>,
    targets: BTreeSet<String>,
    /// Those that were wanted, by target.
    executables: BTreeMap<String, Vec<u8>>,
}

impl Contents {
    /// Reads the claims, and the executables of the targets that are wanted.
    fn of(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Self, ArchiveError> {
        if bytes.is_empty() {
            return Err(ArchiveError::Empty);
        }
        if is_wasm(bytes) {
            return Err(ArchiveError::Actor);
        }
        if Archive::is_compressed(bytes) {
            Self::read(Bounded::new(GzDecoder::new(bytes)), wanted)
        } else {
            Self::read(Bounded::new(bytes), wanted)
        }
    }

    fn read(input: impl Read, wanted: impl Fn(&str) -> bool) -> Result<Self, ArchiveError> {
        let mut contents = Self::default();
        let mut archive = tar::Archive::new(input);
        // Raw: otherwise the library reads extension headers (long names) whole into memory,
        // whatever size they claim. The names that count here are short. The extension headers show
        // up as entries nobody asks for.
        let entries = archive.entries().map_err(unreadable)?.raw(true);
        for (index, entry) in entries.enumerate() {
            if index >= ENTRIES_MAX {
                return Err(ArchiveError::TooManyEntries);
            }
            let mut entry = entry.map_err(unreadable)?;
            if !matches!(
                entry.header().entry_type(),
                tar::EntryType::Regular | tar::EntryType::Continuous
            ) {
                continue;
            }
            let path = entry.path().map_err(unreadable)?.into_owned();
            let name = file_name(&path)?;
            if name == CLAIMS_FILE {
                let claims = whole(&mut entry, name, "claims", CLAIMS_BYTES_MAX)?;
                if contents.claims.replace(claims).is_some() {
                    return Err(ArchiveError::Duplicate(CLAIMS_FILE.into()));
                }
            } else if let Some(found) =
                name.strip_suffix(EXECUTABLE_EXTENSION).and_then(|stem| stem.strip_suffix('.'))
            {
                // A host that takes the first one and a host that takes the last must not run
                // different programs.
                if !contents.targets.insert(found.to_owned()) {
                    return Err(ArchiveError::Duplicate(format!("executable for {found}")));
                }
                let limit = EXECUTABLE_BYTES_MAX;
                if entry.size() > limit {
                    return Err(ArchiveError::TooLarge { what: "executable", limit });
                }
                if wanted(found) {
                    let executable = whole(&mut entry, name, "executable", limit)?;
                    contents.executables.insert(found.to_owned(), executable);
                }
            }
        }
        Ok(contents)
    }

    fn token(&self) -> Result<&str, ArchiveError> {
        let token = self.claims.as_deref().ok_or(ArchiveError::NoClaims)?;
        // Tokens written by hand end with a line break.
        std::str::from_utf8(token).map(str::trim).map_err(|_| ArchiveError::ClaimsEncoding)
    }

    fn claims(&self, now: u64) -> Result<ProviderClaims, ArchiveError> {
        ProviderClaims::verify(self.token()?, now).map_err(ArchiveError::Claims)
    }

    /// Returns the claims, if they vouch for an executable that is there.
    fn vouched(self, target: &str, now: u64) -> Result<ProviderClaims, ArchiveError> {
        let claims = self.claims(now)?;
        if !self.targets.contains(target) {
            return Err(self.without(target));
        }
        claimed_hash(&claims, target)?;
        Ok(claims)
    }

    fn without(self, target: &str) -> ArchiveError {
        let available = match self.targets.len() {
            0 => "nor for any other".to_owned(),
            _ => format!("only for {}", self.targets.into_iter().collect::<Vec<_>>().join(", ")),
        };
        ArchiveError::NoTarget { target: target.to_owned(), available }
    }

    fn check(mut self, claims: ProviderClaims, target: &str) -> Result<Archive, ArchiveError> {
        let Some(executable) = self.executables.remove(target) else {
            return Err(self.without(target));
        };
        let hash = check_hash(&claims, target, &executable)?;
        Ok(Archive { claims, targets: self.targets, executable, hash })
    }
}

fn claimed_hash<'a>(claims: &'a ProviderClaims, target: &str) -> Result<&'a str, ArchiveError> {
    let claimed = claims.target_hashes.get(target);
    claimed.map(String::as_str).ok_or_else(|| ArchiveError::NoHash(target.to_owned()))
}

/// Checks that the claims vouch for an executable; returns its hash.
fn check_hash(
    claims: &ProviderClaims,
    target: &str,
    executable: &[u8],
) -> Result<[u8; 32], ArchiveError> {
    let claimed = claimed_hash(claims, target)?;
    let hash = sha256(executable);
    let computed = hex_upper(&hash);
    if claimed.eq_ignore_ascii_case(&computed) {
        return Ok(hash);
    }
    Err(ArchiveError::HashMismatch {
        target: target.to_owned(),
        claimed: claimed.to_owned(),
        computed,
    })
}

/// The last part of an entry's path. Archives made by hand begin names with `./` or keep a
/// directory.
fn file_name(path: &Path) -> Result<&str, ArchiveError> {
    let stays =
        path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    // On other systems than the one this runs on, a backslash separates too, and a colon names a
    // drive.
    let text = path.to_str().unwrap_or("\\");
    if !stays || text.contains(['\\', ':']) {
        return Err(ArchiveError::OddPath(path.to_string_lossy().chars().take(100).collect()));
    }
    Ok(path.file_name().and_then(OsStr::to_str).unwrap_or_default())
}

/// Reads an entry, which must not be larger than `limit` and must not end before its size says.
fn whole(
    entry: &mut tar::Entry<'_, impl Read>,
    name: &str,
    what: &'static str,
    limit: u64,
) -> Result<Vec<u8>, ArchiveError> {
    let size = entry.size();
    if size > limit {
        return Err(ArchiveError::TooLarge { what, limit });
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(ArchiveError::CutOff(name.to_owned())) }
}

fn unreadable(error: io::Error) -> ArchiveError {
    if is_limit(&error) {
        ArchiveError::TooLarge { what: "all of it", limit: UNPACKED_BYTES_MAX }
    } else {
        ArchiveError::Unreadable(error)
    }
}

/// Whether the bound was reached; the library wraps the errors of its input.
fn is_limit(error: &io::Error) -> bool {
    let Some(inner) = error.get_ref() else { return false };
    let mut source = inner.source();
    while let Some(current) = source {
        if current.downcast_ref::<io::Error>().is_some_and(is_limit) {
            return true;
        }
        source = current.source();
    }
    inner.is::<LimitReached>()
}

/// More was unpacked than allowed.
#[derive(Debug, thiserror::Error)]
#[error("the unpacked archive is too large")]
struct LimitReached;

/// A reader that ends with an error after [`UNPACKED_BYTES_MAX`].
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R> Bounded<R> {
    fn new(inner: R) -> Self {
        Self { inner, left: UNPACKED_BYTES_MAX }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left =
            self.left.checked_sub(count as u64).ok_or_else(|| io::Error::other(LimitReached))?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
