//! The bytes of a value that a guest writes, until it is finished.
//!
//! They wait in memory, or in a file without a name. Files are written and read on threads for
//! that: a disk may be slow, and other guests need this thread. Guests write in small parts, so
//! what goes to a file is gathered until it is worth a thread.

use std::{
    io::{self, Read as _, Seek as _, Write as _},
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tempfile::SpooledTempFile;
use tokio::{sync::Mutex, task::spawn_blocking};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::{
    Caller, Holding,
    objects::{CHUNK_BYTES, Outcome},
};

/// Bytes of a value that wait in memory.
pub(super) const SPOOL_BYTES: usize = 1024 * 1024;
/// Bytes of one object that a guest may write.
const OBJECT_BYTES_MAX: u64 = 4 << 30;
/// Bytes that the values of all guests may have in files, all together.
const FILES_BYTES_MAX: u64 = 8 << 30;
/// Bytes that each file counts with at least, so that there are not too many files either.
const FILE_BYTES_MIN: u64 = 16 << 20;
/// Bytes that are gathered before a thread writes them to a file. Few enough to be held for each of
/// the files that there may be.
const GATHERED_BYTES: usize = 64 * 1024;
/// Bytes a guest may write at once.
const WRITE_BYTES_MAX: usize = 256 * 1024;

static FILES: Files = Files::of_at_most(FILES_BYTES_MAX);

/// The bytes of a value. The lock goes to a thread with the work that is done there, so that what
/// comes next waits for it, in its order.
pub(super) type Spool = Arc<Mutex<Spooled>>;

pub(super) struct Spooled {
    file: SpooledTempFile,
    /// The bytes in memory, as long as they are there.
    held: Option<Holding>,
    /// Bytes for the file that no thread has written yet.
    gathered: Vec<u8>,
    in_file: InFile,
    written: u64,
    failure: Option<String>,
}

/// Counts the bytes that values have in files.
struct Files {
    bytes: AtomicU64,
    bytes_max: u64,
}

impl Files {
    const fn of_at_most(bytes_max: u64) -> Self {
        Self { bytes: AtomicU64::new(0), bytes_max }
    }
}

/// The bytes that a value has in its file, or will have. Gives them back when dropped.
struct InFile {
    of: &'static Files,
    bytes: u64,
}

impl InFile {
    /// Takes as much as a file of so many bytes needs; says whether there is room.
    fn grow_to(&mut self, bytes: u64) -> bool {
        let more = bytes.max(FILE_BYTES_MIN).saturating_sub(self.bytes);
        let taken = self.of.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            taken.checked_add(more).filter(|taken| *taken <= self.of.bytes_max)
        });
        if taken.is_ok() {
            self.bytes += more;
        }
        taken.is_ok()
    }
}

impl Drop for InFile {
    fn drop(&mut self) {
        self.of.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Spooled {
    pub(super) fn new(caller: &Caller) -> Spool {
        Self::holding(caller.hold(), &FILES)
    }

    fn holding(held: Holding, files: &'static Files) -> Spool {
        Arc::new(Mutex::new(Self {
            file: tempfile::spooled_tempfile(SPOOL_BYTES),
            held: Some(held),
            gathered: Vec::new(),
            in_file: InFile { of: files, bytes: 0 },
            written: 0,
            failure: None,
        }))
    }

    /// Takes bytes, to memory while there is room for the value and for the guest. Returns whether
    /// a thread has to [`flush`](Self::flush) them before more are taken.
    fn add(&mut self, bytes: &[u8]) -> Outcome<bool> {
        let written = self.written + bytes.len() as u64;
        if written > OBJECT_BYTES_MAX {
            return self.fail(format!("the object has more than {OBJECT_BYTES_MAX} bytes"));
        }
        // They stay in their order.
        let may_stay = written <= SPOOL_BYTES as u64 && self.gathered.is_empty();
        let held = self.held.as_mut().filter(|_| may_stay);
        let fits_memory = held.is_some_and(|held| held.grow(bytes.len()));
        if !fits_memory && !self.in_file.grow_to(written) {
            return self.fail(format!(
                "the values that wait in files of this host would have more than {} bytes \
                 together, where each counts with {FILE_BYTES_MIN} at least; finish or drop some, \
                 or try again later",
                self.in_file.of.bytes_max
            ));
        }
        self.written = written;
        if fits_memory {
            let kept = self.file.write_all(bytes).map(|()| false);
            return kept.or_else(|error| self.not_kept(&error));
        }
        self.gathered.extend_from_slice(bytes);
        // The first bytes for a file take those in memory along, so that the guest has its room.
        Ok(!self.file.is_rolled() || self.gathered.len() >= GATHERED_BYTES)
    }

    /// Writes what was gathered to the file.
    fn flush(&mut self) -> Outcome<()> {
        let gathered = mem::take(&mut self.gathered);
        if gathered.is_empty() {
            return Ok(());
        }
        let kept = self.write(&gathered);
        kept.or_else(|error| self.not_kept(&error))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.file.is_rolled() {
            self.file.roll()?;
            self.held = None;
        }
        self.file.write_all(bytes)
    }

    fn not_kept<T>(&mut self, error: &io::Error) -> Outcome<T> {
        self.fail(format!("keep the object: {error}"))
    }

    /// Notes why the value cannot be stored, for `finish` to tell it.
    fn fail<T>(&mut self, text: String) -> Outcome<T> {
        self.failure = Some(text.clone());
        Err(text)
    }

    fn rewind(&mut self) -> Outcome<u64> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.flush()?;
        self.file.rewind().map_err(|error| format!("read the object again: {error}"))?;
        Ok(self.written)
    }

    fn read(&mut self) -> Outcome<Bytes> {
        let mut chunk = Vec::new();
        let mut part = (&mut self.file).take(CHUNK_BYTES as u64);
        part.read_to_end(&mut chunk).map_err(|error| format!("read the object again: {error}"))?;
        Ok(chunk.into())
    }
}

/// Adds bytes to a value.
pub(super) async fn push(spool: &Spool, bytes: Bytes) -> Outcome<()> {
    let mut spooled = Arc::clone(spool).lock_owned().await;
    match spooled.add(&bytes)? {
        false => Ok(()),
        true => on_a_thread(move || spooled.flush()).await,
    }
}

/// Goes back to the beginning of a value; returns how much there is.
pub(super) async fn rewind(spool: &Spool) -> Outcome<u64> {
    work_on(spool, Spooled::rewind).await
}

/// Reads the next chunk of a value, a full one unless it is the last.
pub(super) async fn read(spool: &Spool) -> Outcome<Bytes> {
    work_on(spool, Spooled::read).await
}

async fn work_on<T: Send + 'static>(
    spool: &Spool,
    work: fn(&mut Spooled) -> Outcome<T>,
) -> Outcome<T> {
    let mut spooled = Arc::clone(spool).lock_owned().await;
    match spooled.file.is_rolled() || !spooled.gathered.is_empty() {
        true => on_a_thread(move || work(&mut spooled)).await,
        false => work(&mut spooled),
    }
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err("the host ended while it kept the object".to_owned()))
}

/// The stream a guest writes a value to. While a thread writes to its file, it takes no bytes.
pub(super) struct Writing(pub(super) Spool);

#[wasmtime_wasi::async_trait]
impl Pollable for Writing {
    async fn ready(&mut self) {
        drop(self.0.lock().await);
    }
}

impl OutputStream for Writing {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let Ok(mut spooled) = Arc::clone(&self.0).try_lock_owned() else {
            return Err(StreamError::trap("written without asking check-write before"));
        };
        if spooled.add(&bytes).map_err(|_| StreamError::Closed)? {
            // It ends with these bytes, and a failure waits in the value.
            spawn_blocking(move || spooled.flush());
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        match self.0.try_lock() {
            Ok(spooled) if spooled.failure.is_some() => Err(StreamError::Closed),
            Ok(_) => Ok(WRITE_BYTES_MAX),
            Err(_) => Ok(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(held: Holding) -> Spool {
        Spooled::holding(held, &FILES)
    }

    async fn is_in_file(spool: &Spool) -> bool {
        let spooled = spool.lock().await;
        spooled.file.is_rolled() || !spooled.gathered.is_empty()
    }

    #[tokio::test]
    async fn what_was_written_is_read_again_in_chunks() {
        for memory in [0, 1024 * 1024] {
            let spool = spool(Holding::of_at_most(memory));
            push(&spool, vec![7; CHUNK_BYTES + 10].into()).await.expect("kept");
            assert_eq!(rewind(&spool).await, Ok(CHUNK_BYTES as u64 + 10));
            for expected in [CHUNK_BYTES, 10, 0] {
                assert_eq!(read(&spool).await.expect("a chunk").len(), expected);
            }
        }
    }

    #[tokio::test]
    async fn values_beyond_the_memory_of_the_guest_wait_in_files() {
        let held = Holding::of_at_most(30);
        let [small, large] = [held.beside(), held].map(spool);
        push(&small, vec![1; 20].into()).await.expect("kept");
        push(&large, vec![2; 20].into()).await.expect("kept");
        assert!(!is_in_file(&small).await && is_in_file(&large).await);
        push(&small, vec![1; 10].into()).await.expect("the other one gave its bytes back");
        assert!(!is_in_file(&small).await);
        for (spool, length) in [(small, 30), (large, 20)] {
            assert_eq!(rewind(&spool).await, Ok(length));
            assert_eq!(read(&spool).await.expect("a chunk").len() as u64, length);
        }
    }

    #[tokio::test]
    async fn files_have_no_more_bytes_together_than_the_host_allows() {
        static FEW: Files = Files::of_at_most(2 * FILE_BYTES_MIN + 5);
        let fresh = || Spooled::holding(Holding::of_at_most(0), &FEW);
        let [first, second, third] = [(); 3].map(|()| fresh());
        for spool in [&first, &second] {
            push(spool, vec![1; 3].into()).await.expect("there is room for two files");
        }
        let refused = push(&third, vec![1; 3].into()).await.expect_err("no room for a third one");
        let most = FEW.bytes_max.to_string();
        assert!(refused.contains(&most) && refused.contains("wait in files"), "{refused}");
        assert_eq!(rewind(&third).await, Err(refused), "what finishes the value hears it");
        drop(first);
        push(&fresh(), vec![1; 3].into()).await.expect("the one that is gone made room");
        // Beyond what it counts with at least, each byte of a file counts.
        second.lock().await.in_file.grow_to(FILE_BYTES_MIN + 5);
        assert_eq!(FEW.bytes.load(Ordering::Relaxed), FILE_BYTES_MIN + 5);
        drop((second, third));
        assert_eq!(FEW.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_stream_writes_to_a_file_in_order_and_waits_for_it() {
        let spool = spool(Holding::of_at_most(0));
        let mut stream = Writing(Arc::clone(&spool));
        let bytes: Vec<u8> = (0..200_000).map(|at| (at / 1000) as u8).collect();
        for (index, part) in bytes.chunks(1000).enumerate() {
            stream.write_ready().await.expect("it takes more");
            stream.write(part.to_vec().into()).expect("it was asked");
            // A thread makes the file, and from then on is asked for each 66th part.
            let spooled = spool.lock().await;
            assert_eq!(spooled.gathered.len(), index % 66 * 1000);
        }
        assert_eq!(rewind(&spool).await, Ok(bytes.len() as u64), "the last write is waited for");
        assert!(read(&spool).await.expect("a chunk") == bytes);
        spool.lock().await.failure = Some("the disk is full".to_owned());
        assert!(matches!(stream.check_write(), Err(StreamError::Closed)));
        assert_eq!(rewind(&spool).await, Err("the disk is full".to_owned()));
    }
}
