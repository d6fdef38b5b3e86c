//! The bytes of a value that a guest writes, until it is finished.

use std::{
    io::{self, Read as _, Seek as _, Write as _},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tempfile::SpooledTempFile;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use super::{
    Caller, Holding,
    objects::{CHUNK_BYTES, Outcome},
};

/// Bytes of a value that wait in memory.
pub(super) const SPOOL_BYTES: usize = 1024 * 1024;
/// Bytes of one object that a guest may write.
const OBJECT_BYTES_MAX: u64 = 4 << 30;
/// Bytes a guest may write at once.
const WRITE_BYTES_MAX: usize = 256 * 1024;

/// The bytes of a value. Held for one write or read, never across an await.
pub(super) type Spool = Arc<Mutex<Spooled>>;

pub(super) struct Spooled {
    file: SpooledTempFile,
    /// The bytes in memory, as long as they are there.
    held: Option<Holding>,
    written: u64,
    failure: Option<String>,
}

impl Spooled {
    pub(super) fn new(caller: &Caller) -> Spool {
        Self::holding(caller.hold())
    }

    fn holding(held: Holding) -> Spool {
        let file = tempfile::spooled_tempfile(SPOOL_BYTES);
        Arc::new(Mutex::new(Self { file, held: Some(held), written: 0, failure: None }))
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Outcome<()> {
        let written = self.written + bytes.len() as u64;
        if written > OBJECT_BYTES_MAX {
            return Err(format!("the object has more than {OBJECT_BYTES_MAX} bytes"));
        }
        self.keep(bytes).map_err(|error| format!("keep the object: {error}"))?;
        self.written = written;
        Ok(())
    }

    /// Writes bytes, to memory while there is room for the guest.
    fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        let has_room = self.held.as_mut().is_none_or(|held| held.grow(bytes.len()));
        if !has_room {
            self.file.roll()?;
        }
        self.file.write_all(bytes)?;
        if self.file.is_rolled() {
            self.held = None;
        }
        Ok(())
    }

    /// Goes back to the beginning; returns how much there is.
    pub(super) fn rewind(&mut self) -> Outcome<u64> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.file.rewind().map_err(|error| format!("read the object again: {error}"))?;
        Ok(self.written)
    }

    /// Reads the next chunk, a full one unless it is the last.
    pub(super) fn read(&mut self) -> Outcome<Bytes> {
        let mut chunk = Vec::new();
        let mut part = (&mut self.file).take(CHUNK_BYTES as u64);
        part.read_to_end(&mut chunk).map_err(|error| format!("read the object again: {error}"))?;
        Ok(chunk.into())
    }
}

/// The stream a guest writes a value to.
pub(super) struct Writing(pub(super) Spool);

#[wasmtime_wasi::async_trait]
impl Pollable for Writing {
    async fn ready(&mut self) {}
}

impl OutputStream for Writing {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let mut spooled = self.0.lock();
        spooled.push(&bytes).map_err(|text| {
            // `finish` tells it.
            spooled.failure = Some(text);
            StreamError::Closed
        })
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        match &self.0.lock().failure {
            Some(_) => Err(StreamError::Closed),
            None => Ok(WRITE_BYTES_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again_in_chunks() {
        let spool = Spooled::holding(Holding::of_at_most(1024 * 1024));
        let bytes = vec![7; CHUNK_BYTES + 10];
        spool.lock().push(&bytes).expect("kept");
        assert_eq!(spool.lock().rewind(), Ok(bytes.len() as u64));
        let mut spooled = spool.lock();
        let lengths = [(); 3].map(|()| spooled.read().expect("a chunk").len());
        assert_eq!(lengths, [CHUNK_BYTES, 10, 0]);
    }

    #[test]
    fn values_beyond_the_memory_of_the_guest_wait_in_files() {
        let held = Holding::of_at_most(30);
        let [small, large] = [held.beside(), held].map(Spooled::holding);
        small.lock().push(&[1; 20]).expect("kept");
        large.lock().push(&[2; 20]).expect("kept");
        assert!(!small.lock().file.is_rolled() && large.lock().file.is_rolled());
        small.lock().push(&[1; 10]).expect("kept: the other one gave its bytes back");
        assert!(!small.lock().file.is_rolled());
        for (spool, length) in [(small, 30), (large, 20)] {
            assert_eq!(spool.lock().rewind(), Ok(length));
            assert_eq!(spool.lock().read().expect("a chunk").len() as u64, length);
        }
    }
}
