//! Carries what a provider process prints into the log, line by line.
//!
//! A process may print anything, so everything is bounded: the length of a line, the number of
//! lines per second (the rest is counted and told), and what a line may hold: secrets that the
//! process was told are masked, control characters replaced, so that no line can pass for one of
//! ours. Reading never stops while the process lives, or it would hang in a write.
//!
//! Providers print their logs to standard error, in the form of the `tracing` library or as JSON.
//! Where a line names its level, that level is kept; other lines are `info` from standard output
//! and `warn` from standard error.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{Instant, timeout_at},
};
use tracing::{Level, debug, error, info, trace, warn};

use super::masks::{Masks, REACH_BYTES};
use crate::journal::Writer;
use lattice_protocol::{
    identity::keys::{LinkName, ProviderId},
    journal,
};

/// Bytes that are kept of a line.
const LINE_BYTES_MAX: usize = 8 << 10;
/// A busy provider logs some lines per call; this is room for a stack trace beside.
const LINES_PER_WINDOW: u32 = 500;
const WINDOW: Duration = Duration::from_secs(1);
const BUFFER_BYTES: usize = 16 << 10;
/// The target of all these lines, for filters.
pub const TARGET: &str = "provider";

/// The provider that the output comes from.
#[derive(Clone)]
pub struct Source {
    pub provider_id: ProviderId,
    pub link_name: LinkName,
    pub pid: u32,
    pub masks: Masks,
    /// Its lines go here as well, whatever the level of the log.
    pub journal: Writer,
}

/// The two outputs of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Logs everything until the stream ends. May be dropped at any time; a line that was not ended is
/// then lost.
pub async fn carry(source: Source, stream: Stream, mut input: impl AsyncRead + Unpin) {
    let mut lines = Lines::new();
    let mut flow = Flow::new(Instant::now());
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        // Dropped lines are told when their second is over, also if no further line comes.
        let read = input.read(&mut buffer);
        let count = match flow.owes_note() {
            false => read.await,
            true => match timeout_at(flow.window_end, read).await {
                Ok(result) => result,
                Err(_) => {
                    tell_dropped(&source, flow.turn(Instant::now()));
                    continue;
                }
            },
        };
        // An error of a pipe means the same as its end.
        let count = count.unwrap_or(0);
        if count == 0 {
            break;
        }
        lines.take(&buffer[..count], |line| show(&source, stream, line, &mut flow));
    }
    lines.end(|line| show(&source, stream, line, &mut flow));
    tell_dropped(&source, flow.turn(Instant::now()));
}

fn show(source: &Source, stream: Stream, line: &[u8], flow: &mut Flow) {
    let now = Instant::now();
    if now >= flow.window_end {
        tell_dropped(source, flow.turn(now));
    }
    if !flow.admits() {
        return;
    }
    let text = String::from_utf8_lossy(line);
    let masked = source.masks.apply(&text);
    // Where a line was cut, a secret may have been cut too and not been recognised; nothing of that
    // part is shown.
    let tail = if line.len() < LINE_BYTES_MAX + REACH_BYTES { 0 } else { REACH_BYTES };
    let text = presentable(&masked, masked.len().saturating_sub(tail));
    if text.is_empty() {
        return;
    }
    let Source { provider_id, link_name, pid, .. } = source;
    let level =
        level(&text).unwrap_or(if stream == Stream::Stdout { Level::INFO } else { Level::WARN });
    source.journal.write(level.into(), &text);
    match level {
        Level::ERROR => error!(target: TARGET, %provider_id, %link_name, pid, "{text}"),
        Level::WARN => warn!(target: TARGET, %provider_id, %link_name, pid, "{text}"),
        Level::INFO => info!(target: TARGET, %provider_id, %link_name, pid, "{text}"),
        Level::DEBUG => debug!(target: TARGET, %provider_id, %link_name, pid, "{text}"),
        Level::TRACE => trace!(target: TARGET, %provider_id, %link_name, pid, "{text}"),
    }
}

fn tell_dropped(source: &Source, dropped: u64) {
    if dropped > 0 {
        let Source { provider_id, link_name, pid, .. } = source;
        source.journal.write(
            journal::Level::Warn,
            &format!(
                "the host dropped {dropped} lines of the provider's output, it prints too fast"
            ),
        );
        warn!(target: TARGET, %provider_id, %link_name, pid, dropped, "lines of the provider's output were dropped, it prints too fast");
    }
}

/// Cuts a masked line to `end` at most and takes away what terminals would obey.
fn presentable(line: &str, end: usize) -> String {
    let mut end = end.min(LINE_BYTES_MAX);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    let mut text: String = line[..end]
        .trim()
        .chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect();
    if end < line.len() {
        text.push_str(" … (line cut)");
    }
    text
}

/// The level that a line names: the second word of the `tracing` library's lines, or a member of
/// JSON lines.
fn level(line: &str) -> Option<Level> {
    if line.starts_with('{') {
        let (_, rest) = line.split_once("\"level\":")?;
        return rest.trim_start().strip_prefix('"')?.split('"').next()?.parse().ok();
    }
    let mut words = line.split_ascii_whitespace();
    let (time, level) = (words.next()?, words.next()?);
    let is_time = time.starts_with(|c: char| c.is_ascii_digit()) && time.contains(':');
    if is_time && level.bytes().all(|byte| byte.is_ascii_uppercase()) {
        level.parse().ok()
    } else {
        None
    }
}

/// Cuts bytes into lines; of a line that is too long the rest is passed over.
struct Lines {
    line: Vec<u8>,
}

impl Lines {
    fn new() -> Self {
        Self { line: Vec::new() }
    }

    fn take(&mut self, mut bytes: &[u8], mut show: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            show(&self.line);
            self.line.clear();
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    /// Keeps somewhat more than is shown, so that no secret is cut before it can be recognised.
    fn keep(&mut self, bytes: &[u8]) {
        let room = (LINE_BYTES_MAX + REACH_BYTES).saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end(&mut self, mut show: impl FnMut(&[u8])) {
        if !self.line.is_empty() {
            show(&self.line);
            self.line.clear();
        }
    }
}

/// Counts lines per second.
struct Flow {
    window_end: Instant,
    admitted: u32,
    dropped: u64,
}

impl Flow {
    fn new(now: Instant) -> Self {
        Self { window_end: now + WINDOW, admitted: 0, dropped: 0 }
    }

    fn admits(&mut self) -> bool {
        if self.admitted < LINES_PER_WINDOW {
            self.admitted += 1;
            true
        } else {
            self.dropped += 1;
            false
        }
    }

    fn owes_note(&self) -> bool {
        self.dropped > 0
    }

    /// Begins the next window; returns what was dropped.
    fn turn(&mut self, now: Instant) -> u64 {
        self.window_end = now + WINDOW;
        self.admitted = 0;
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;
    use crate::journal::Journal;
    use lattice_protocol::identity::samples::PROVIDER;

    /// The lines that reached the log.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    async fn logged(stream: Stream, printed: &[u8], secret: &str) -> String {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_max_level(Level::TRACE)
            .with_ansi(false)
            .without_time()
            .finish();
        let masks = Masks::default();
        masks.add(secret);
        let source = Source {
            provider_id: ProviderId::parse(PROVIDER.public).unwrap(),
            link_name: LinkName::default(),
            pid: 7,
            masks,
            journal: Journal::new("N").writer(PROVIDER.public, "default"),
        };
        let _guard = tracing::subscriber::set_default(subscriber);
        carry(source, stream, printed).await;
        String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
    }

    #[tokio::test]
    async fn lines_keep_the_level_they_name() {
        let printed = b"plain\n\r2024-02-01T10:00:00.000000Z  INFO kv: ready\n\
            {\"timestamp\":\"x\",\"level\":\"DEBUG\",\"fields\":{}}\nthread 'main' panicked";
        let log = logged(Stream::Stderr, printed, "").await;
        let levels: Vec<&str> =
            log.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(levels, ["WARN", "INFO", "DEBUG", "WARN"], "{log}");
        assert!(
            log.contains("provider: plain")
                && log.contains(PROVIDER.public)
                && log.contains("pid=7"),
            "{log}"
        );
        assert!(logged(Stream::Stdout, b"plain\n", "").await.contains("INFO"));
    }

    #[tokio::test]
    async fn a_line_is_cut_but_never_in_the_middle_of_a_secret() {
        let secret = "SCAACAIBAEAQCAIBAEAQ";
        // In front of the cut, across it, and across the end of what is kept at all.
        for at in [LINE_BYTES_MAX - 100, LINE_BYTES_MAX - 5, LINE_BYTES_MAX + REACH_BYTES - 5] {
            let mut printed = vec![b'x'; at];
            printed.extend_from_slice(secret.as_bytes());
            printed.extend_from_slice(&vec![b'y'; 100_000]);
            let log = logged(Stream::Stdout, &printed, secret).await;
            assert!(log.contains("(line cut)") && !log.contains("SCA"), "{at}");
            assert_eq!(log.contains("****y"), at < LINE_BYTES_MAX - 50, "{at}");
            assert!(log.len() < LINE_BYTES_MAX + 300);
        }
        // Masking shortens the line; what slides in front of the cut is still not half a secret.
        let printed = secret.repeat(1000);
        let log = logged(Stream::Stdout, printed.as_bytes(), secret).await;
        assert!(!log.contains("SCA"), "{log}");
    }

    #[tokio::test]
    async fn bytes_that_are_no_text_and_control_characters_are_replaced() {
        let log = logged(Stream::Stdout, b"\xff\x1b[2Jfake\n\n", "").await;
        assert!(log.contains("\u{fffd}\u{fffd}[2Jfake"), "{log}");
        assert_eq!(log.lines().count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_counted_instead_of_logged() {
        let log = logged(Stream::Stdout, "spam\n".repeat(2000).as_bytes(), "").await;
        assert_eq!(
            log.lines().filter(|line| line.contains("spam")).count() as u32,
            LINES_PER_WINDOW
        );
        assert!(log.contains("dropped=1500"), "{}", &log[log.len() - 300..]);
    }
}
