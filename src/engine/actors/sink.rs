//! The output of guests: their log lines, bounded so that a guest that floods harms only itself.
//!
//! Each actor has a [`Sink`] with a budget of lines per second. Lines beyond it are counted and
//! reported once the second is over, long lines are cut. All output of a guest comes through here:
//! `Logging.WriteLog`, the console of waPC, and the standard streams of WASI. It goes to the host's
//! log, as far as its level lets it, and to the journal at any level.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use tracing::{debug, error, info, trace, warn};
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use crate::journal::{Writer, cut};
pub use lattice_protocol::journal::Level;

/// Lines one actor may log per second, over all of its calls.
const LINES_PER_SECOND: u32 = 200;
/// Longer lines are cut.
const LINE_BYTES_MAX: usize = 4096;
/// Bytes of one message that are logged at most, in any number of lines.
const TEXT_BYTES_MAX: usize = 64 * 1024;
/// Bytes that a guest may hand over in one write to a standard stream.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// Where the lines of one actor go.
pub struct Sink {
    actor_id: Arc<str>,
    journal: Writer,
    // Held for a few lines, never across an await.
    window: Mutex<Window>,
}

struct Window {
    began: Instant,
    lines: u32,
    suppressed: u64,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sink({})", self.actor_id)
    }
}

impl Sink {
    pub fn new(actor_id: Arc<str>, journal: Writer) -> Arc<Self> {
        let window = Window { began: Instant::now(), lines: 0, suppressed: 0 };
        Arc::new(Self { actor_id, journal, window: Mutex::new(window) })
    }

    /// Writes a remark of the host about a call of the actor to the journal, beside the host's log.
    /// Remarks are bounded like the actor's own lines.
    pub fn note(&self, level: Level, text: &str) {
        if self.admit() {
            self.journal.write(level, text);
        }
    }

    /// Logs the text of a guest, line by line; a text too long for a message is cut.
    pub fn log(&self, level: Level, text: &str) {
        let text = cut(text, TEXT_BYTES_MAX);
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if self.admit() {
                self.emit(level, cut(line, LINE_BYTES_MAX));
            }
        }
    }

    /// A standard stream of WASI that logs at this level.
    pub fn stream(self: &Arc<Self>, level: Level) -> Stream {
        Stream { sink: Arc::clone(self), level, rest: Vec::new() }
    }

    fn admit(&self) -> bool {
        let mut window = self.window.lock();
        if window.began.elapsed() >= Duration::from_secs(1) {
            if window.suppressed > 0 {
                let suppressed = window.suppressed;
                warn!(actor_id = %self.actor_id, suppressed, "actor logs too much, lines left out");
                let text = format!("the host left out {suppressed} lines: the actor logs too much");
                self.journal.write(Level::Warn, &text);
            }
            *window = Window { began: Instant::now(), lines: 0, suppressed: 0 };
        }
        if window.lines >= LINES_PER_SECOND {
            window.suppressed += 1;
            return false;
        }
        window.lines += 1;
        true
    }

    fn emit(&self, level: Level, line: &str) {
        self.journal.write(level, line);
        let actor_id = &self.actor_id;
        match level {
            Level::Trace => trace!(target: "actor", %actor_id, "{line}"),
            Level::Debug => debug!(target: "actor", %actor_id, "{line}"),
            Level::Info => info!(target: "actor", %actor_id, "{line}"),
            Level::Warn => warn!(target: "actor", %actor_id, "{line}"),
            Level::Error => error!(target: "actor", %actor_id, "{line}"),
        }
    }
}

/// A WASI output stream whose lines are logged.
#[derive(Clone, Debug)]
pub struct Stream {
    sink: Arc<Sink>,
    level: Level,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
}

impl Stream {
    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let complete = match self.rest.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => self.rest.drain(..=end).collect::<Vec<u8>>(),
            None if self.rest.len() > LINE_BYTES_MAX => std::mem::take(&mut self.rest),
            None => return,
        };
        self.sink.log(self.level, &String::from_utf8_lossy(&complete));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.sink.log(self.level, &String::from_utf8_lossy(&self.rest));
    }
}

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {}
}

impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.get_mut().take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Journal;

    #[test]
    fn a_flood_is_cut_off_and_counted() {
        let sink = Sink::new("M".into(), Journal::new("N").writer("M", ""));
        for _ in 0..LINES_PER_SECOND + 50 {
            sink.log(Level::Debug, "again");
        }
        assert_eq!(sink.window.lock().suppressed, 50);
    }

    #[test]
    fn lines_are_cut_at_a_character() {
        let long = "ä".repeat(LINE_BYTES_MAX);
        assert!(cut(&long, 99).len() == 98);
        assert_eq!(cut("short", 99), "short");
    }

    #[test]
    fn a_stream_waits_for_the_end_of_a_line() {
        let sink = Sink::new("M".into(), Journal::new("N").writer("M", ""));
        let mut stream = sink.stream(Level::Debug);
        stream.take(b"half a ");
        assert_eq!(sink.window.lock().lines, 0);
        stream.take(b"line\nand");
        assert_eq!(sink.window.lock().lines, 1);
        drop(stream);
        assert_eq!(sink.window.lock().lines, 2);
    }
}
