//! A way out for lines that nobody waits for: whoever reads them may be gone, slow or stopped.
//!
//! Flow: [`Outlet::push`] puts a line into a buffer and returns → a thread of its own takes the
//! whole buffer and writes it → meanwhile the next buffer fills. A line that finds no room is
//! counted, and so is one that cannot be written. The count is told with the first lines that get
//! through again, and elsewhere where somebody wants to hear of it ([`Notice::alarm`]).
//!
//! Always true: `push` neither fails nor blocks nor panics, whatever the other end is: a pipe
//! without a reader, a closed terminal, a full disk, a reader that was stopped. Memory is bounded
//! by [`WAITING_BYTES_MAX`], once for what waits and once for what is being written.

use std::{
    io::{self, ErrorKind, Write},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

/// Bytes that wait to be written: some thousand lines, a reader's pause of seconds.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// How long is waited for a descriptor that somebody set to return at once.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// The ways to tell of lines that were lost.
#[derive(Clone, Copy)]
pub struct Notice {
    /// Makes the line that tells how many they are; an empty one tells nothing.
    pub line: fn(lost: u64) -> String,
    /// Tells of a loss elsewhere, once for each, while no lock is held.
    pub alarm: fn(Loss),
}

impl Notice {
    /// A notice that is nothing but its line.
    pub const fn line(line: fn(lost: u64) -> String) -> Self {
        Self { line, alarm: |_| {} }
    }
}

/// How lines are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// So many found no room, since those before them were not written in time.
    NoRoom(u64),
    /// The stream takes nothing any more.
    CannotWrite,
    /// It takes lines again; so many were lost meanwhile.
    WhileBroken(u64),
}

/// Where lines go out. Cheap to clone.
#[derive(Clone)]
pub struct Outlet(Arc<Shared>);

struct Shared {
    // Held for a copy of a line, never while something is written.
    waiting: Mutex<Waiting>,
    /// Something waits to be written.
    filled: Condvar,
    /// All that waited was written, or could not be.
    settled: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Lines that were lost and not told yet.
    lost: u64,
    /// All that were lost since the start.
    total: u64,
    is_writing: bool,
    /// The last write failed: the lost lines come before those that wait, else after them.
    has_failed: bool,
}

impl Waiting {
    fn is_due(&self) -> bool {
        // A count alone is not tried again and again where nothing can be written.
        !self.bytes.is_empty() || (self.lost > 0 && !self.has_failed)
    }

    /// Takes a line, unless it finds no room. After a lost line all are lost until the thread
    /// comes, so that the count stands where they are missing.
    fn take(&mut self, line: &[u8]) {
        let is_gap = self.lost > 0 && !self.has_failed;
        if is_gap || self.bytes.len() + line.len() > WAITING_BYTES_MAX {
            self.lost += 1;
            self.total += 1;
        } else {
            self.bytes.extend_from_slice(line);
        }
    }

    /// Puts what waits and the count of what is missing into the batch; returns that count, and
    /// where its notice ends.
    fn empty_into(&mut self, batch: &mut Vec<u8>, notice: Notice) -> (u64, usize) {
        let lost = std::mem::take(&mut self.lost);
        let told = if lost > 0 { (notice.line)(lost) } else { String::new() };
        let end = if self.has_failed {
            batch.extend_from_slice(told.as_bytes());
            let end = batch.len();
            batch.append(&mut self.bytes);
            end
        } else {
            batch.append(&mut self.bytes);
            batch.extend_from_slice(told.as_bytes());
            batch.len()
        };
        self.is_writing = true;
        (lost, end)
    }
}

impl Outlet {
    /// Starts the thread that writes to `stream`. Where no thread can be had, every line is lost.
    pub fn open(name: &str, stream: impl Write + Send + 'static, notice: Notice) -> Self {
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            filled: Condvar::new(),
            settled: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        let started =
            thread::Builder::new().name(name.to_owned()).spawn(move || writer.run(stream, notice));
        // The thread lives as long as the process: the one who waits for it at the end is `flush`.
        drop(started);
        Self(shared)
    }

    /// Lets bytes out that end with a line break, or loses them.
    pub fn push(&self, line: &[u8]) {
        self.0.waiting.lock().take(line);
        self.0.filled.notify_one();
    }

    /// Returns how many lines were lost since the start.
    pub fn lost_so_far(&self) -> u64 {
        self.0.waiting.lock().total
    }

    /// Waits until everything was written or cannot be, but no longer than `time`.
    pub fn flush(&self, time: Duration) {
        let deadline = Instant::now() + time;
        let mut waiting = self.0.waiting.lock();
        while waiting.is_writing || waiting.is_due() {
            if self.0.settled.wait_until(&mut waiting, deadline).timed_out() {
                return;
            }
        }
    }
}

impl Shared {
    fn run(&self, mut stream: impl Write, notice: Notice) {
        let mut batch = Vec::new();
        // A line of which only the beginning could be written.
        let mut is_torn = false;
        loop {
            let mut waiting = self.waiting.lock();
            while !waiting.is_due() {
                self.settled.notify_all();
                self.filled.wait(&mut waiting);
            }
            batch.clear();
            if is_torn {
                batch.push(b'\n');
            }
            let start = batch.len();
            let had_failed = waiting.has_failed;
            let (lost, notice_end) = waiting.empty_into(&mut batch, notice);
            drop(waiting);
            if lost > 0 && !had_failed {
                (notice.alarm)(Loss::NoRoom(lost));
            }
            let written = write(&mut stream, &batch);
            let has_failed = written < batch.len();
            match (had_failed, has_failed) {
                (false, true) => (notice.alarm)(Loss::CannotWrite),
                (true, false) if lost > 0 => (notice.alarm)(Loss::WhileBroken(lost)),
                _ => {}
            }
            is_torn = if written == 0 { is_torn } else { batch[written - 1] != b'\n' };
            let mut waiting = self.waiting.lock();
            waiting.is_writing = false;
            waiting.has_failed = has_failed;
            if has_failed {
                // The end of the torn line is no line of its own.
                let lines =
                    batch[written.max(start)..].iter().filter(|byte| **byte == b'\n').count()
                        as u64;
                // A notice that did not get through is no lost line itself; its count is told
                // again.
                let is_untold = written < notice_end && lost > 0;
                let newly = if is_untold { lines.saturating_sub(1) } else { lines };
                waiting.lost += if is_untold { lost + newly } else { newly };
                waiting.total += newly;
            }
        }
    }
}

/// Writes as much as can be written; returns how many bytes that were.
fn write(stream: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another program that shares the descriptor made it so.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(BUSY_PAUSE),
            Err(_) => break,
        }
    }
    written
}

/// A handle of its own on standard output or error: no lock is shared with anything else that
/// writes there.
#[cfg(unix)]
pub fn own_handle(stream: &impl std::os::fd::AsFd) -> io::Result<std::fs::File> {
    stream.as_fd().try_clone_to_owned().map(std::fs::File::from)
}

#[cfg(windows)]
pub fn own_handle(stream: &impl std::os::windows::io::AsHandle) -> io::Result<std::fs::File> {
    stream.as_handle().try_clone_to_owned().map(std::fs::File::from)
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex, mpsc};

    use super::*;

    const NOTICE: Notice = Notice::line(line);

    fn line(lost: u64) -> String {
        format!("{lost} lost\n")
    }

    /// Another end that does what the test says.
    #[derive(Clone, Default)]
    struct End(Arc<(Mutex<State>, Condvar)>);

    #[derive(Default)]
    struct State {
        got: Vec<u8>,
        is_paused: bool,
        /// A write waits for the end of the pause.
        is_reached: bool,
        /// Bytes it takes before writes fail.
        room: Option<usize>,
    }

    impl End {
        fn set(&self, change: impl FnOnce(&mut State)) {
            change(&mut self.0.0.lock().unwrap());
            self.0.1.notify_all();
        }

        /// Waits until something is being written.
        fn reached(&self) {
            let state = self.0.0.lock().unwrap();
            drop(self.0.1.wait_while(state, |state| !state.is_reached).unwrap());
        }

        fn got(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().got.clone()).unwrap()
        }
    }

    impl Write for End {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.0.lock().unwrap();
            state.is_reached = true;
            self.0.1.notify_all();
            let mut state = self.0.1.wait_while(state, |state| state.is_paused).unwrap();
            let count = state.room.unwrap_or(usize::MAX).min(bytes.len());
            if count == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            state.got.extend_from_slice(&bytes[..count]);
            state.room = state.room.map(|room| room - count);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const PATIENCE: Duration = Duration::from_secs(30);

    fn open() -> (End, Outlet) {
        let end = End::default();
        (end.clone(), Outlet::open("test", end, NOTICE))
    }

    #[test]
    fn lines_come_out_in_their_order() {
        let (end, outlet) = open();
        (0..1000).for_each(|n| outlet.push(format!("{n}\n").as_bytes()));
        outlet.flush(PATIENCE);
        assert_eq!(end.got(), (0..1000).map(|n| format!("{n}\n")).collect::<String>());
    }

    #[test]
    fn a_paused_reader_holds_nobody_up_and_learns_how_much_it_missed() {
        let (end, outlet) = open();
        end.set(|state| state.is_paused = true);
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        // More than what waits and what is being written.
        let (sent, pushed) = (3 * (WAITING_BYTES_MAX / line.len()), outlet.clone());
        pushed.push(&line);
        // The thread has taken its buffer: all that is lost from now on is missing at one place.
        end.reached();
        (1..sent).for_each(|_| pushed.push(&line));
        // It ends although nothing is read.
        outlet.flush(Duration::from_millis(1));
        end.set(|state| state.is_paused = false);
        outlet.flush(PATIENCE);
        outlet.push(b"again\n");
        outlet.flush(PATIENCE);
        let got = end.got();
        let told: usize =
            got.lines().find_map(|line| line.strip_suffix(" lost")).unwrap().parse().unwrap();
        assert_eq!(got.lines().filter(|line| line.starts_with('x')).count() + told, sent);
        assert!(told >= sent / 3 && got.ends_with(" lost\nagain\n"), "{told}");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_told_when_there_is_room() {
        let (end, outlet) = open();
        end.set(|state| state.room = Some(8));
        for line in ["one\n", "two three\n", "four\n", "five\n"] {
            outlet.push(line.as_bytes());
            outlet.flush(PATIENCE);
        }
        assert_eq!(end.got(), "one\ntwo ");
        end.set(|state| state.room = None);
        outlet.push(b"six\n");
        outlet.flush(PATIENCE);
        assert_eq!(
            end.got(),
            "one\ntwo \n3 lost\nsix\n",
            "the torn line ends, the count stands where they are missing"
        );
        assert_eq!(outlet.lost_so_far(), 3, "it is not told again, and stays counted");
    }

    #[test]
    fn a_loss_is_told_elsewhere_once_and_not_with_every_line() {
        static TOLD: Mutex<Vec<Loss>> = Mutex::new(Vec::new());
        let told = || std::mem::take(&mut *TOLD.lock().unwrap());
        let end = End::default();
        let notice = Notice { line, alarm: |loss| TOLD.lock().unwrap().push(loss) };
        let outlet = Outlet::open("test", end.clone(), notice);
        for _ in 0..2 {
            end.set(|state| state.room = Some(0));
            for _ in 0..5 {
                outlet.push(b"lost\n");
                outlet.flush(PATIENCE);
            }
            assert_eq!(told(), [Loss::CannotWrite]);
            end.set(|state| state.room = None);
            outlet.push(b"written\n");
            outlet.flush(PATIENCE);
            assert_eq!(told(), [Loss::WhileBroken(5)]);
        }
        end.set(|state| (state.is_paused, state.is_reached) = (true, false));
        outlet.push(b"first\n");
        end.reached();
        let large = [vec![b'x'; WAITING_BYTES_MAX], b"\n".to_vec()].concat();
        (0..3).for_each(|_| outlet.push(&large));
        end.set(|state| state.is_paused = false);
        outlet.flush(PATIENCE);
        assert_eq!(told(), [Loss::NoRoom(3)]);
    }

    #[test]
    fn a_reader_that_is_gone_costs_no_more_than_the_lines() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let outlet = Outlet::open("test", writer, NOTICE);
        for _ in 0..100 {
            outlet.push(b"into the void\n");
            outlet.flush(PATIENCE);
        }
        assert_eq!(outlet.lost_so_far(), 100);
        let waiting = outlet.0.waiting.lock();
        assert_eq!((waiting.lost, waiting.bytes.len()), (100, 0));
    }

    #[test]
    fn a_stream_that_panics_harms_nobody_who_logs() {
        struct Broken(mpsc::Sender<()>);
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                let _ = self.0.send(());
                panic!("on purpose");
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (sender, called) = mpsc::channel();
        let outlet = Outlet::open("test", Broken(sender), NOTICE);
        outlet.push(b"one\n");
        called.recv().unwrap();
        outlet.push(b"two\n");
        outlet.flush(Duration::from_millis(1));
    }
}
