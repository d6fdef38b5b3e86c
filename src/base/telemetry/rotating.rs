//! A file of lines that has a bound: a full one is renamed, and a new one is begun.
//!
//! ```text
//! host.log    the file that is written
//! host.log.1  the one before it, and so on; the oldest is dropped
//! ```
//!
//! It is the stream of an [`Outlet`](super::outlet::Outlet), so writing is done by a thread that
//! nobody waits for, and what cannot be written is counted there.
//!
//! A file that the system does not let anybody rename, since it is mounted by itself or
//! append-only, is written all the same: it grows, and is for somebody else to rotate.
//!
//! Always true: each line is in one file as a whole, unless the disk was full in the middle of it.
//! All files together have about `files_max` times `bytes_max` bytes. A write that fails is told
//! once and tried again with the next line; nothing of it stops the host.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use tracing::{info, warn};

use crate::{
    config::LogFile,
    trusted::{self, Holds},
};
use lattice_protocol::errors;

/// The file that is written, and the rule for those before it.
#[derive(Debug)]
pub struct Rotating {
    settings: LogFile,
    /// None after a failure, until the next line.
    current: Option<Current>,
    /// The last write failed, and that was told.
    has_failed: bool,
    /// Why the file is never renamed, with the next step.
    fixed: Option<&'static str>,
}

/// An open file.
#[derive(Debug)]
struct Current {
    file: File,
    bytes: u64,
    /// The last byte in it does not end a line.
    is_within_line: bool,
}

impl Rotating {
    /// Opens the file, after what is in it already.
    ///
    /// # Errors
    ///
    /// Those of the system. A file that other users can change is refused, and so are one that
    /// another process writes, and a directory in which no file can be renamed, unless the system
    /// lets nobody do so: see [`Rotating::warning`].
    pub fn open(settings: &LogFile) -> io::Result<Self> {
        Self::open_as(settings, fixed(&settings.path, trusted::directory_of(&settings.path)))
    }

    fn open_as(settings: &LogFile, fixed: Option<&'static str>) -> io::Result<Self> {
        let directory = trusted::directory_of(&settings.path);
        if fixed.is_none() {
            // Without this right the file would grow without a bound.
            tempfile::tempfile_in(directory).map_err(|error| {
                let why = format!("create a file in {}: {error}", directory.display());
                io::Error::new(error.kind(), why)
            })?;
        }
        let current = Some(Current::open(&settings.path, None)?);
        if fixed.is_none() {
            // Those of a file that somebody else rotates are not ours.
            drop_beyond(settings);
        }
        Ok(Self { settings: settings.clone(), current, has_failed: false, fixed })
    }

    /// Returns a warning about a file that has no bound, to be told once.
    pub fn warning(&self) -> Option<String> {
        let path = self.settings.path.display();
        self.fixed.map(|why| format!("{path} is never rotated by this host and grows: {why}"))
    }

    /// Returns how many of these bytes go into the file that is open now: whole lines, as many as
    /// fit. A line that is larger than a file has one for itself.
    fn fitting(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.fixed.is_some() {
            return Ok(bytes.len());
        }
        let bytes_max = self.settings.bytes_max;
        let current = self.current()?;
        if current.is_within_line {
            return Ok(end_of_line(bytes));
        }
        let room = bytes_max.saturating_sub(current.bytes);
        match lines_within(bytes, room) {
            0 if current.bytes == 0 => Ok(end_of_line(bytes)),
            0 => {
                self.rotate()?;
                Ok(lines_within(bytes, bytes_max).max(end_of_line(bytes)))
            }
            fitting => Ok(fitting),
        }
    }

    fn current(&mut self) -> io::Result<&mut Current> {
        let current = match self.current.take() {
            Some(current) => current,
            None => Current::open(&self.settings.path, None)?,
        };
        Ok(self.current.insert(current))
    }

    /// Renames the files, and begins a new one with the permissions of the last.
    fn rotate(&mut self) -> io::Result<()> {
        let LogFile { path, files_max, .. } = &self.settings;
        let permissions = self.current.take().and_then(|current| current.permissions());
        shift(path, *files_max, rename)?;
        self.current = Some(Current::open(path, permissions)?);
        Ok(())
    }

    /// Tells of a failure, or of its end, once.
    fn tell(&mut self, outcome: &io::Result<usize>) {
        let path = self.settings.path.display();
        match outcome {
            Err(error) if !self.has_failed => {
                warn!(%path, %error, "lines cannot be written, and are counted until they can");
                self.has_failed = true;
            }
            Ok(_) if self.has_failed => {
                info!(%path, "lines can be written again");
                self.has_failed = false;
            }
            _ => {}
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fitting = self.fitting(bytes)?;
        let current = self.current()?;
        let written = current.file.write(&bytes[..fitting])?;
        current.bytes += written as u64;
        if written > 0 {
            current.is_within_line = bytes[written - 1] != b'\n';
        }
        Ok(written)
    }
}

impl Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let outcome = self.append(bytes);
        self.tell(&outcome);
        outcome
    }

    fn flush(&mut self) -> io::Result<()> {
        // Nothing is kept back in this process.
        Ok(())
    }
}

impl Current {
    /// Opens a file at its end. A new one is for its owner alone, unless there are permissions to
    /// take over.
    fn open(path: &Path, permissions: Option<Permissions>) -> io::Result<Self> {
        // A pipe would wait for its reader, and neither it nor a device can be renamed.
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(io::Error::other("it is no regular file"));
        }
        if let Err(error) = trusted::check(path, Holds::Settings)
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path)?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(io::Error::other("another process writes it"));
        }
        if let Some(permissions) = permissions {
            // Without them it is for its owner alone, which harms nobody.
            let _ = file.set_permissions(permissions);
        }
        let bytes = file.metadata()?.len();
        // A line that a process left when it was ended in the middle is ended by the first write.
        let mut current = Self { file, bytes, is_within_line: false };
        if bytes > 0 && !ends_line(&mut current.file)? {
            current.file.write_all(b"\n")?;
            current.bytes += 1;
        }
        Ok(current)
    }

    fn permissions(&self) -> Option<Permissions> {
        self.file.metadata().ok().map(|metadata| metadata.permissions())
    }
}

/// Returns why the file of a setting cannot be opened, with the next step.
pub(super) fn with_next_step(error: &io::Error, setting: &str, path: &Path) -> String {
    let directory = trusted::directory_of(path).display();
    let is_distrust = error.get_ref().is_some_and(|cause| cause.is::<trusted::Distrust>());
    let first = match error.kind() {
        ErrorKind::NotFound => format!("make the directory {directory}, or "),
        // It says itself what mends it.
        ErrorKind::PermissionDenied if is_distrust => "or ".to_owned(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            format!("let the user of this host write in {directory}, or ")
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            format!("make room in {directory}, or ")
        }
        _ => String::new(),
    };
    format!("{}; {first}set {setting} to another file", errors::plain(&error.to_string()))
}

/// Whether the last byte of a file ends a line. What is written next is appended all the same.
fn ends_line(file: &mut File) -> io::Result<bool> {
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Returns the bytes of the whole lines at the beginning that have room.
fn lines_within(bytes: &[u8], room: u64) -> usize {
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
    bytes[..room].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

/// Returns the bytes of the first line, with its end if that is there.
fn end_of_line(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1)
}

/// Returns the name of an earlier file; the last one before is number 1.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Renames a full file, and those before it as far as there is no gap: one that a shift left when
/// it failed takes the next of them, so that trying again loses nothing.
fn shift(
    path: &Path,
    files_max: u32,
    rename: impl Fn(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let is_gap = |number: &u32| matches!(numbered(path, *number).try_exists(), Ok(false));
    // Without a gap the oldest goes.
    let last = (1..files_max - 1).find(is_gap).unwrap_or(files_max - 1);
    for number in (1..last).rev() {
        rename(&numbered(path, number), &numbered(path, number + 1))?;
    }
    rename(path, &numbered(path, 1))
}

/// Returns why a file in a directory cannot be renamed, as far as the system says so without a try:
/// one that was cut off would leave the file under another name.
#[cfg(target_os = "linux")]
fn fixed(path: &Path, directory: &Path) -> Option<&'static str> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    // One that cannot be asked, or is not there yet, is believed to do.
    let attributes = |path: &Path| {
        let seen = statx(CWD, path, AtFlags::empty(), StatxFlags::TYPE);
        seen.map_or(StatxAttributes::empty(), |seen| seen.stx_attributes)
    };
    why_fixed(attributes(path), attributes(directory))
}

#[cfg(not(target_os = "linux"))]
fn fixed(_: &Path, _: &Path) -> Option<&'static str> {
    None
}

#[cfg(target_os = "linux")]
fn why_fixed(
    of_file: rustix::fs::StatxAttributes,
    of_directory: rustix::fs::StatxAttributes,
) -> Option<&'static str> {
    use rustix::fs::StatxAttributes as Attributes;
    if of_file.contains(Attributes::MOUNT_ROOT) {
        return Some(
            "it is mounted by itself, so it cannot be renamed; empty it from outside, or mount its directory",
        );
    }
    let is_append_only = |of: Attributes| of.intersects(Attributes::APPEND);
    (is_append_only(of_file) || is_append_only(of_directory)).then_some(
        "it or its directory is append-only, so it cannot be renamed; rotate it from outside, or take that away by chattr -a",
    )
}

/// Renames a file, over another or not, if it is there.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the files that a larger number of them left.
fn drop_beyond(settings: &LogFile) {
    for number in settings.files_max.. {
        if fs::remove_file(numbered(&settings.path, number)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn settings(dir: &TempDir, bytes_max: u64, files_max: u32) -> LogFile {
        LogFile { path: dir.path().join("host.log"), bytes_max, files_max }
    }

    /// Returns what the files say, the newest first.
    fn files(settings: &LogFile) -> Vec<String> {
        let earlier = (1..10).map(|number| numbered(&settings.path, number));
        let all = std::iter::once(settings.path.clone()).chain(earlier);
        all.map_while(|path| fs::read_to_string(path).ok()).collect()
    }

    #[test]
    fn whole_lines_are_taken_as_far_as_there_is_room() {
        for (bytes, room, taken, first) in [
            ("ab\ncd\n", 10, 6, 3),
            ("ab\ncd\n", 6, 6, 3),
            ("ab\ncd\n", 5, 3, 3),
            ("ab\ncd\n", 2, 0, 3),
            ("ab\ncd", 10, 3, 3),
            ("abcd", 10, 0, 4),
            ("\n", 0, 0, 1),
        ] {
            assert_eq!(lines_within(bytes.as_bytes(), room), taken, "{bytes:?} {room}");
            assert_eq!(end_of_line(bytes.as_bytes()), first, "{bytes:?}");
        }
    }

    #[test]
    fn a_full_file_is_renamed_and_the_oldest_goes() {
        let dir = TempDir::new().unwrap();
        let settings = settings(&dir, 8, 3);
        let mut file = Rotating::open(&settings).unwrap();
        for number in 0..7 {
            file.write_all(format!("n{number}\n").as_bytes()).unwrap();
        }
        assert_eq!(files(&settings), ["n6\n", "n4\nn5\n", "n2\nn3\n"]);
        file.write_all(b"a\nb\nc\nd\ne\nf\n").unwrap();
        assert_eq!(files(&settings), ["c\nd\ne\nf\n", "n6\na\nb\n", "n4\nn5\n"]);
    }

    #[test]
    fn a_file_that_cannot_be_renamed_costs_one_earlier_file_and_not_one_for_each_try() {
        let dir = TempDir::new().unwrap();
        let path = settings(&dir, 8, 4).path;
        let earlier = [1, 2, 3].map(|number| numbered(&path, number));
        for (file, text) in [&path].into_iter().chain(&earlier).zip(["a", "b", "c", "d"]) {
            fs::write(file, text).unwrap();
        }
        let held = |from: &Path, to: &Path| match from == path {
            true => Err(ErrorKind::ResourceBusy.into()),
            false => rename(from, to),
        };
        for _ in 0..2 {
            assert_eq!(shift(&path, 4, held).unwrap_err().kind(), ErrorKind::ResourceBusy);
        }
        assert!(path.exists());
        shift(&path, 4, rename).unwrap();
        assert_eq!(earlier.map(|file| fs::read_to_string(file).unwrap()), ["a", "b", "c"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_is_mounted_by_itself_or_append_only_cannot_be_renamed() {
        use rustix::fs::StatxAttributes as Attributes;
        let none = Attributes::empty();
        for (of_file, of_directory, step) in [
            (none, none, None),
            (Attributes::COMPRESSED, Attributes::ENCRYPTED | Attributes::MOUNT_ROOT, None),
            (Attributes::MOUNT_ROOT, none, Some("mount its directory")),
            (Attributes::APPEND | Attributes::NODUMP, none, Some("chattr -a")),
            (none, Attributes::APPEND, Some("chattr -a")),
        ] {
            let why = why_fixed(of_file, of_directory);
            assert_eq!(why.is_some(), step.is_some(), "{why:?}");
            assert!(why.unwrap_or_default().ends_with(step.unwrap_or_default()), "{why:?}");
        }
    }

    #[test]
    fn a_file_that_nobody_can_rename_grows_and_those_beside_it_are_let_alone() {
        let dir = TempDir::new().unwrap();
        let settings = settings(&dir, 4, 2);
        let theirs = numbered(&settings.path, 2);
        fs::write(&theirs, "of logrotate").unwrap();
        let mut file = Rotating::open_as(&settings, Some("it is mounted by itself")).unwrap();
        file.write_all(b"one\ntwo\nthr").unwrap();
        file.write_all(b"ee\nfour\n").unwrap();
        assert_eq!(files(&settings), ["one\ntwo\nthree\nfour\n"]);
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "of logrotate");
        assert!(file.warning().unwrap().ends_with(
            "host.log is never rotated by this host and grows: it is mounted by itself"
        ));
        drop(file);
        assert_eq!(Rotating::open(&settings).unwrap().warning(), None);
    }

    #[test]
    fn a_line_larger_than_a_file_is_whole_and_has_one_for_itself() {
        let dir = TempDir::new().unwrap();
        let settings = settings(&dir, 4, 3);
        let mut file = Rotating::open(&settings).unwrap();
        file.write_all(b"a\nmuch too long\nb\n").unwrap();
        assert_eq!(files(&settings), ["b\n", "much too long\n", "a\n"]);
    }

    #[test]
    fn a_restart_appends_and_counts_what_is_there() {
        let dir = TempDir::new().unwrap();
        let settings = settings(&dir, 8, 3);
        Rotating::open(&settings).unwrap().write_all(b"one\n").unwrap();
        let mut again = Rotating::open(&settings).unwrap();
        again.write_all(b"two\n").unwrap();
        again.write_all(b"three\n").unwrap();
        assert_eq!(files(&settings), ["three\n", "one\ntwo\n"]);
    }

    #[test]
    fn a_line_that_was_cut_off_is_ended_before_the_next() {
        let dir = TempDir::new().unwrap();
        let settings = settings(&dir, 100, 3);
        fs::write(&settings.path, "cut o").unwrap();
        #[cfg(unix)]
        fs::set_permissions(&settings.path, std::os::unix::fs::PermissionsExt::from_mode(0o640))
            .unwrap();
        let mut file = Rotating::open(&settings).unwrap();
        file.write_all(b"whole\n").unwrap();
        assert_eq!(files(&settings), ["cut o\nwhole\n"]);
    }

    #[test]
    fn fewer_files_than_before_are_kept_after_a_restart() {
        let dir = TempDir::new().unwrap();
        let many = settings(&dir, 2, 5);
        Rotating::open(&many).unwrap().write_all(b"a\nb\nc\nd\ne\nf\n").unwrap();
        assert_eq!(files(&many).len(), 5);
        let few = LogFile { files_max: 2, ..many };
        drop(Rotating::open(&few).unwrap());
        assert_eq!(files(&few), ["f\n", "e\n"]);
    }

    #[test]
    fn one_process_writes_a_file() {
        let dir = TempDir::new().unwrap();
        let settings = settings(&dir, 100, 3);
        let first = Rotating::open(&settings).unwrap();
        let refused = Rotating::open(&settings).unwrap_err();
        assert!(refused.to_string().contains("another process"), "{refused}");
        drop(first);
        Rotating::open(&settings).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_file_is_for_its_owner_alone_and_keeps_what_was_given() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = TempDir::new().unwrap();
        let settings = settings(&dir, 8, 2);
        let mode = || fs::metadata(&settings.path).unwrap().permissions().mode() & 0o777;
        let mut file = Rotating::open(&settings).unwrap();
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&settings.path, Permissions::from_mode(0o640)).unwrap();
        file.write_all(b"first\nsecond\n").unwrap();
        assert_eq!((mode(), files(&settings).len()), (0o640, 2));
        drop(file);
        fs::set_permissions(&settings.path, Permissions::from_mode(0o666)).unwrap();
        let refused = Rotating::open(&settings).unwrap_err();
        assert!(refused.to_string().contains("chmod go-w"), "{refused}");
    }

    #[test]
    fn what_cannot_be_opened_has_a_next_step() {
        let distrust = trusted::Distrust::Owner { path: "logs/a.log".into(), owner: 7, me: 8 };
        for (error, expected) in [
            (
                io::Error::from(ErrorKind::NotFound),
                "; make the directory logs, or set audit_log to another file",
            ),
            (
                io::Error::from(ErrorKind::PermissionDenied),
                "; let the user of this host write in logs, or set audit_log to another file",
            ),
            (
                io::Error::from(ErrorKind::StorageFull),
                "; make room in logs, or set audit_log to another file",
            ),
            (
                io::Error::new(ErrorKind::PermissionDenied, distrust),
                "chown 8 logs/a.log; or set audit_log to another file",
            ),
            (
                io::Error::other("another process writes it"),
                "another process writes it; set audit_log to another file",
            ),
            (
                io::Error::new(ErrorKind::PermissionDenied, "open it (os error 13)"),
                "open it; let the user of this host write in logs, or set audit_log to another file",
            ),
        ] {
            let told = with_next_step(&error, "audit_log", Path::new("logs/a.log"));
            assert!(told.ends_with(expected) && !told.contains("os error"), "{told}");
        }
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let dir = TempDir::new().unwrap();
        let missing = LogFile { path: dir.path().join("none/host.log"), ..settings(&dir, 9, 2) };
        let refused = Rotating::open(&missing).unwrap_err();
        assert!(refused.to_string().contains("create a file in"), "{refused}");
        let directory = LogFile { path: dir.path().to_owned(), ..settings(&dir, 9, 2) };
        assert!(Rotating::open(&directory).is_err());
    }

    /// The device that is always full stands for a disk that is.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_costs_the_lines_and_nothing_else() {
        let dir = TempDir::new().unwrap();
        let settings = settings(&dir, 100, 3);
        let mut file = Rotating::open(&settings).unwrap();
        file.write_all(b"before\n").unwrap();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let good = std::mem::replace(&mut file.current().unwrap().file, full);
        for _ in 0..3 {
            assert_eq!(file.write(b"lost\n").unwrap_err().kind(), ErrorKind::StorageFull);
        }
        assert!(file.has_failed);
        file.current().unwrap().file = good;
        file.write_all(b"after\n").unwrap();
        assert!(!file.has_failed);
        assert_eq!(files(&settings), ["before\nafter\n"]);
    }

    /// Somebody else took the directory away, and gives it back.
    #[test]
    fn a_directory_that_is_gone_is_tried_again_with_the_next_line() {
        let dir = TempDir::new().unwrap();
        let settings = LogFile { path: dir.path().join("logs/host.log"), ..settings(&dir, 4, 2) };
        fs::create_dir(dir.path().join("logs")).unwrap();
        let mut file = Rotating::open(&settings).unwrap();
        file.write_all(b"abc\n").unwrap();
        fs::remove_dir_all(dir.path().join("logs")).unwrap();
        assert!(file.write_all(b"lost\n").is_err());
        fs::create_dir(dir.path().join("logs")).unwrap();
        file.write_all(b"new\n").unwrap();
        assert_eq!(files(&settings), ["new\n"]);
    }
}
