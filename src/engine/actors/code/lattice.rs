//! Compiled code of the lattice: taken by hosts that do not have it, given by those that made it.
//!
//! [`Lattice`] takes, on the thread that would compile: look the object up, verify its note, read
//! its bytes, verify them, unpack them into the directory of this host. Each step has a deadline,
//! and whatever goes wrong leads to compiling. [`Giver`] is the task that puts what this host
//! compiled, one after the other and after a random pause, so that of several hosts which started
//! the same at once the first one does it.

use std::{
    io::{self, Read as _, Seek as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::Rng as _;
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    files::{Draft, Files},
    key::{Digest, Key},
    map::Image,
    note::{Note, Refused},
};
use lattice_base::store::artifacts::{
    Artifacts,
    code::{CodeError, CodeObject},
};
use lattice_protocol::{clock, desired::Authority, identity::keys::HostId};

/// How long a look for code may take. A store that answers does so in milliseconds.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// The least and the longest time that reading code may take; in between as long as the host that
/// made it compiled: a slower line is not worth it.
const READ_TIMEOUT_MIN: Duration = Duration::from_secs(2);
const READ_TIMEOUT_MAX: Duration = Duration::from_secs(20);
/// How long nobody looks after a store that did not answer.
const AWAY_PAUSE: Duration = Duration::from_secs(60);
/// Code that waits to be put. More is compiled again elsewhere.
const OFFERS_MAX: usize = 16;
/// The longest pause before code is put.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// How long putting code may take, with all that belongs to it.
const GIVE_TIMEOUT: Duration = Duration::from_secs(300);
/// Packs at hundreds of MB a second; higher levels save little of machine code.
const LEVEL: i32 = 3;

/// The code of a lattice, as one host sees it.
pub struct Lattice {
    artifacts: Artifacts,
    authority: Arc<Authority>,
    runtime: Handle,
    work: mpsc::Sender<Work>,
    /// When the store did not answer last.
    away: Mutex<Option<Instant>>,
}

/// Gives code to the lattice.
pub struct Giver {
    artifacts: Artifacts,
    authority: Arc<Authority>,
    host_id: HostId,
    files: Files,
    inbox: mpsc::Receiver<Work>,
}

enum Work {
    Give(Offer),
    /// Say that it is used.
    Mark(Box<CodeObject>),
}

/// Code that was taken.
struct Taken {
    image: Image,
    note: Note,
    /// When all its bytes were here, and verified.
    fetched: Instant,
    packed_bytes: usize,
}

/// Code that this host compiled.
struct Offer {
    key: Key,
    path: PathBuf,
    took: Duration,
}

/// Why code of the lattice was not used.
#[derive(Debug, thiserror::Error)]
enum Miss {
    #[error(transparent)]
    Store(#[from] CodeError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("its bytes are not those of its note: {0}")]
    Damaged(String),
    #[error("{what} took longer than {} ms", .after.as_millis())]
    Late { what: &'static str, after: Duration },
    #[error("it was not written to this host's disk ({0})")]
    Disk(io::Error),
}

impl Miss {
    /// Says whether nobody can use the object.
    fn is_damage(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, CodeError::Damaged(_)),
            Self::Refused(refused) => !refused.is_of_a_stranger(),
            Self::Damaged(_) => true,
            Self::Late { .. } | Self::Disk(_) => false,
        }
    }

    /// Says whether the next look would end in the same way.
    fn is_away(&self) -> bool {
        matches!(self, Self::Store(CodeError::Unavailable(_)) | Self::Late { .. })
    }
}

impl Lattice {
    /// Makes both ends: the one that takes, and the task that gives. Called in the runtime.
    pub fn new(
        artifacts: Artifacts,
        authority: Arc<Authority>,
        host_id: HostId,
        files: Files,
    ) -> (Self, Giver) {
        let (work, inbox) = mpsc::channel(OFFERS_MAX);
        let giver = Giver {
            artifacts: artifacts.clone(),
            authority: authority.clone(),
            host_id,
            files,
            inbox,
        };
        let (runtime, away) = (Handle::current(), Mutex::default());
        (Self { artifacts, authority, runtime, work, away }, giver)
    }

    /// Takes code into this host's directory; none if there is none that may be used, which is in
    /// the log. Blocks, so call it off the async threads.
    pub fn take(&self, key: &Key, files: &Files) -> Option<Image> {
        if self.away.lock().is_some_and(|since| since.elapsed() < AWAY_PAUSE) {
            return None;
        }
        let began = Instant::now();
        match self.try_take(key, files) {
            Ok(None) => None,
            Ok(Some(taken)) => {
                info!(
                    compiled_by = %taken.note.host,
                    compile_ms = taken.note.compile_ms,
                    took_ms = clock::millis(began.elapsed()),
                    fetch_ms = clock::millis(taken.fetched - began),
                    bytes = taken.packed_bytes,
                    code_bytes = taken.note.code_bytes,
                    "compiled code taken from the lattice"
                );
                Some(taken.image)
            }
            Err(miss) => {
                let (key, what) =
                    (key.name(), "compiled code of the lattice is not used, this host compiles");
                if miss.is_away() {
                    *self.away.lock() = Some(Instant::now());
                    info!(key, reason = %miss, "{what}");
                } else {
                    warn!(key, reason = %miss, "{what}");
                }
                None
            }
        }
    }

    fn try_take(&self, key: &Key, files: &Files) -> Result<Option<Taken>, Miss> {
        let Some((object, note, packed)) = self.runtime.block_on(self.fetch(key))? else {
            return Ok(None);
        };
        let (fetched, packed_bytes) = (Instant::now(), packed.len());
        let image = unpacked(&packed, &note, files).and_then(|draft| files.finish(draft, key));
        let image = image.map_err(Miss::Disk)?;
        // Nothing is lost if there is no room.
        let _ = self.work.try_send(Work::Mark(Box::new(object)));
        Ok(Some(Taken { image, note, fetched, packed_bytes }))
    }

    async fn fetch(&self, key: &Key) -> Result<Option<(CodeObject, Note, Bytes)>, Miss> {
        let name = key.name();
        let look = timeout(LOOK_TIMEOUT, self.artifacts.code(&name));
        let late = |_| Miss::Late { what: "looking for it", after: LOOK_TIMEOUT };
        let Some(object) = look.await.map_err(late)?? else {
            debug!(key = name, "the lattice has no compiled code of this");
            return Ok(None);
        };
        match self.read(key, &object).await {
            Ok((note, packed)) => Ok(Some((object, note, packed))),
            Err(miss) => {
                if miss.is_damage() {
                    // A favour to others, for which this host does not wait long.
                    let _ = timeout(LOOK_TIMEOUT, object.remove()).await;
                }
                Err(miss)
            }
        }
    }

    async fn read(&self, key: &Key, object: &CodeObject) -> Result<(Note, Bytes), Miss> {
        let note = Note::verified(&object.note, key, &self.authority)?;
        let after =
            Duration::from_millis(note.compile_ms).clamp(READ_TIMEOUT_MIN, READ_TIMEOUT_MAX);
        let late = |_| Miss::Late { what: "reading it", after };
        let packed = timeout(after, self.artifacts.read_code(object)).await.map_err(late)??;
        if Digest::of(&packed) != note.packed {
            return Err(Miss::Damaged("they have another hash".into()));
        }
        Ok((note, packed))
    }

    /// Offers code that this host compiled to the lattice.
    pub fn offer(&self, key: &Key, image: &Image, took: Duration) {
        let Some(path) = image.path() else { return };
        let offer = Offer { key: *key, path: path.to_owned(), took };
        if self.work.try_send(Work::Give(offer)).is_err() {
            debug!("compiled code not offered to the lattice, since much waits for that already");
        }
    }
}

/// Unpacks verified bytes. They have the length that their note says, or are not used.
fn unpacked(packed: &[u8], note: &Note, files: &Files) -> io::Result<Draft> {
    let mut draft = files.draft()?;
    let mut code =
        zstd::stream::read::Decoder::new(packed)?.take(note.code_bytes.saturating_add(1));
    let length = io::copy(&mut code, &mut draft)?;
    if length != note.code_bytes || draft.hash() != note.code {
        return Err(io::Error::other("unpacked, it is not what its note says"));
    }
    Ok(draft)
}

impl Giver {
    /// Gives what is offered, until the host stops.
    pub async fn run(mut self, stop: CancellationToken) {
        while let Some(Some(work)) = stop.run_until_cancelled(self.inbox.recv()).await {
            let done = stop.run_until_cancelled(timeout(GIVE_TIMEOUT, self.work(work))).await;
            match done {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => {
                    debug!(error = format!("{error:#}"), "compiled code not given to the lattice");
                }
                Some(Err(_)) => debug!("giving compiled code to the lattice took too long"),
                None => return,
            }
        }
    }

    async fn work(&self, work: Work) -> anyhow::Result<()> {
        match work {
            Work::Give(offer) => self.give(offer).await,
            Work::Mark(object) => {
                object.mark().await;
                Ok(())
            }
        }
    }

    async fn give(&self, offer: Offer) -> anyhow::Result<()> {
        let pause = rand::rng().random_range(Duration::ZERO..PAUSE_MAX);
        tokio::time::sleep(pause).await;
        let name = offer.key.name();
        if self.artifacts.code(&name).await?.is_some() {
            return Ok(());
        }
        let (host, files) = (self.host_id.to_string(), self.files.clone());
        let packed = tokio::task::spawn_blocking(move || pack(&offer, host, &files));
        let (packed, note) = packed.await??;
        let signed = note.signed(&self.authority)?;
        let description = format!("compiled code, by host {}", note.host);
        let put = self.artifacts.put_code(&name, signed, description, packed.into()).await;
        if put.map_err(|problem| anyhow::anyhow!("{problem}"))? {
            info!(key = name, code_bytes = note.code_bytes, "compiled code given to the lattice");
            let removed = self.artifacts.tidy_code().await;
            debug!(?removed, "old compiled code looked through");
        }
        Ok(())
    }
}

/// Packs code into a file, and says what it is.
fn pack(offer: &Offer, host: String, files: &Files) -> io::Result<(std::fs::File, Note)> {
    let mut code = std::fs::File::open(&offer.path)?;
    let mut hashed = Hashed { inner: &mut code, hasher: blake3::Hasher::new(), bytes: 0 };
    let mut packed = files.scratch()?;
    zstd::stream::copy_encode(&mut hashed, &mut packed, LEVEL)?;
    let (code, code_bytes) = (hashed.hasher.finalize().into(), hashed.bytes);
    packed.rewind()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(&mut packed)?;
    packed.rewind()?;
    let note = Note {
        key: offer.key,
        host,
        compile_ms: clock::millis(offer.took),
        packed: hasher.finalize().into(),
        code,
        code_bytes,
    };
    Ok((packed, note))
}

/// A reader that knows what went through it.
struct Hashed<R> {
    inner: R,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<R: io::Read> io::Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        self.bytes += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::key::Kind, *};

    #[test]
    fn code_is_the_same_when_it_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path()).expect("a directory");
        let key =
            Key { kind: Kind::Module, wasm: Digest::of(b"wasm"), engine: Digest::of(b"engine") };
        let code = b"code ".repeat(100_000);
        let path = files.keep(&key, code.clone()).path().expect("a file").to_owned();
        let offer = Offer { key, path: path.clone(), took: Duration::from_millis(900) };
        let (mut file, note) = pack(&offer, "NABC".into(), &files).unwrap();
        let mut packed = Vec::new();
        file.read_to_end(&mut packed).unwrap();
        assert_eq!((note.packed, note.code), (Digest::of(&packed), Digest::of(&code)));
        assert!(note.code_bytes == 500_000 && note.compile_ms == 900 && packed.len() < 5000);

        std::fs::remove_file(path).unwrap();
        files.finish(unpacked(&packed, &note, &files).unwrap(), &key).unwrap();
        let found = files.find(&key).expect("it is there");
        assert_eq!(std::fs::read(found.path().unwrap()).unwrap(), code);

        for wrong in [
            Note { code_bytes: 499_999, ..note.clone() },
            Note { code_bytes: 500_001, ..note.clone() },
            Note { code: Digest::of(b"other"), ..note.clone() },
        ] {
            assert!(unpacked(&packed, &wrong, &files).is_err(), "{wrong:?}");
        }
        assert!(unpacked(&packed[..packed.len() / 2], &note, &files).is_err());
    }
}
