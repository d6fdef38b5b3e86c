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
//! Always true: each line is in one file as a whole. Of one that the disk took in part nothing
//! stays, unless the file cannot be shortened, as one that is append-only. All files together have
//! about `files_max` times `bytes_max` bytes. A write that fails is told once and tried again with
//! the next line; nothing of it stops the host.

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
        self.current()?.append(&bytes[..fitting], File::write)
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

    /// Writes these bytes; returns how many of them are in the file then. Where not all could be
    /// written, those of whole lines stay.
    fn append(
        &mut self,
        bytes: &[u8],
        write: impl FnMut(&mut File, &[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let (written, outcome) = write_on(&mut self.file, bytes, write);
        let whole = match outcome {
            Ok(()) => written,
            Err(_) => lines_within(&bytes[..written], u64::MAX),
        };
        let is_cut = whole < written && self.cut((written - whole) as u64).is_ok();
        let kept = if is_cut { whole } else { written };
        self.bytes += kept as u64;
        match outcome {
            Err(error) if kept == 0 => Err(error),
            _ => {
                self.is_within_line = !bytes[..kept].ends_with(b"\n");
                Ok(kept)
            }
        }
    }

    /// Takes so many bytes off the end. Somebody may have emptied the file meanwhile, so the system
    /// is asked how long it is.
    fn cut(&self, bytes: u64) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        self.file.set_len(length.saturating_sub(bytes))
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

/// Writes as much as can be written; returns how many bytes that were, and why there are no more.
fn write_on(
    file: &mut File,
    bytes: &[u8],
    mut write: impl FnMut(&mut File, &[u8]) -> io::Result<usize>,
) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match write(file, &bytes[written..]) {
            Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
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
mod tests;
