//! Compiled code that hosts leave for each other, beside the uploads in the same bucket.
//!
//! An object is named `code-{key}`; its key says what was compiled, and for which machines. Its
//! bytes are packed, and its metadata has a note of the host that left it. Here is nothing that
//! tells whether a note is true: the engine verifies it before it uses a byte.
//!
//! Code can be made again, so it never takes room from uploads that a bounded bucket needs, and
//! what no host took for [`KEPT_FOR`] goes ([`expired`]), after each put of a host. A host that
//! takes code says so once in a while ([`CodeObject::mark`]).

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::{fs::File, io::AsyncReadExt as _};
use tracing::debug;

use super::{Artifacts, KEPT_FOR, PIECE_TIMEOUT, state_of};
use crate::{
    registry::{ARTIFACT_BYTES_MAX, uploads::Problem},
    store::objects::{self, Info, Objects, Pieces, WholeError, Writer, whole},
};

const NAME: &str = "code-";
/// The member of the metadata with the note.
const NOTE: &str = "note";
/// A note is a few hundred bytes.
const NOTE_BYTES_MAX: usize = 8 * 1024;
/// Bytes of code that a bucket without a bound keeps; one with a bound keeps half of that.
const ALL_BYTES_MAX: u64 = 2 << 30;
/// How old the last mark of use is before there is another one.
const MARK_AGE: Duration = Duration::from_secs(24 * 3600);

/// Code that is there.
pub struct CodeObject {
    /// Says what it is, signed by the host that left it; not verified.
    pub note: String,
    info: Info,
    objects: Objects,
}

impl CodeObject {
    /// Says that code is used, unless that was said not long ago, or it was replaced meanwhile. It
    /// is a favour: a failure only means that the code goes earlier.
    pub async fn mark(self) {
        let age = self.info.time().map(|time| OffsetDateTime::now_utc() - time);
        if age.is_some_and(|age| age < MARK_AGE) {
            return;
        }
        match self.objects.store_again(self.info).await {
            Ok(true) => {}
            Ok(false) => debug!("compiled code was replaced or removed, it is not marked as used"),
            Err(error) => {
                let error = objects::Error::from(error);
                debug!(%error, "compiled code not marked as used");
            }
        }
    }

    /// Removes code that is not what its key says, unless it has been replaced meanwhile.
    pub async fn remove(&self) {
        remove_if(&self.objects, &self.info.name, |found| self.is_same(found)).await;
    }

    /// Whether this is what was found.
    fn is_same(&self, found: &Result<Info, objects::Error>) -> bool {
        found.as_ref().is_ok_and(|found| found.nuid == self.info.nuid)
    }
}

/// Why code was not read.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    #[error("the object store cannot be used: {0}")]
    Unavailable(String),
    #[error("its object is damaged: {0}")]
    Damaged(String),
}

/// Code as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    name: String,
    bytes: u64,
    /// When the server took it, or it was marked as used.
    used: OffsetDateTime,
    state: String,
}

/// Takes code from a list of objects.
fn listed((name, object): (String, Result<objects::Listed, objects::Error>)) -> Option<Listed> {
    let objects::Listed { info, stored } = object.ok()?;
    let is_code = name.starts_with(NAME);
    let (bytes, state) = (info.size, state_of(&info));
    is_code.then_some(Listed { name, bytes, used: stored, state })
}

/// Returns the code that may go: not used for [`KEPT_FOR`], or not used for longest while all has
/// more than `bytes_max` bytes. The server's times are compared with each other, so that nobody's
/// clock counts.
fn expired(mut all: Vec<Listed>, bytes_max: u64) -> Vec<Listed> {
    let Some(last) = all.iter().map(|code| code.used).max() else { return Vec::new() };
    all.sort_by_key(|code| std::cmp::Reverse(code.used));
    let mut bytes = 0;
    all.retain(|code| {
        bytes += code.bytes;
        bytes > bytes_max || last - code.used > KEPT_FOR
    });
    all
}

/// Returns how many bytes of code a bucket keeps that has this bound.
fn bytes_max(bound: Option<u64>) -> u64 {
    bound.map_or(ALL_BYTES_MAX, |bound| bound / 2)
}

impl Artifacts {
    /// Looks for code with this key.
    pub async fn code(&self, key: &str) -> Result<Option<CodeObject>, CodeError> {
        let Some(objects) = self.open().await.map_err(unavailable)? else { return Ok(None) };
        let name = name(key);
        let info = match objects.info(&name).await {
            Ok(Some(info)) => info,
            Ok(None) => return Ok(None),
            Err(objects::Error::Unreadable { cause, .. }) => {
                remove_if(&objects, &name, |found| found.is_err()).await;
                return Err(CodeError::Damaged(cause));
            }
            Err(error) => return Err(self.unavailable(&error)),
        };
        let note = info.metadata.as_ref().and_then(|members| members.get(NOTE));
        let note = note.filter(|note| note.len() <= NOTE_BYTES_MAX).cloned().unwrap_or_default();
        Ok(Some(CodeObject { note, info, objects }))
    }

    /// Reads the packed bytes of code, and pays for them out of the budget.
    pub async fn read_code(&self, code: &CodeObject) -> Result<Bytes, CodeError> {
        let CodeObject { info, objects, .. } = code;
        if info.size > ARTIFACT_BYTES_MAX {
            return Err(CodeError::Damaged(format!("it says that it has {} bytes", info.size)));
        }
        // Pieces that are not there would be waited for.
        if !objects.is_whole(info).await.map_err(|error| self.unavailable(&error))? {
            return Err(CodeError::Damaged("some of its pieces are not there".into()));
        }
        let (stream, subject) = (objects.stream(), objects.piece_subject(&info.nuid));
        let pieces =
            Pieces { stream: &stream, subject, expected: info.size, timeout: PIECE_TIMEOUT };
        whole(pieces, &self.0.budget, |_| {}).await.map_err(|error| match error {
            WholeError::Damaged(cause) => CodeError::Damaged(cause),
            WholeError::Failed(cause) => CodeError::Unavailable(cause),
        })
    }

    /// Stores packed code from a file with its note, unless some with this key is there; says
    /// whether it did. Not cancel safe, as [`Artifacts::put`].
    pub async fn put_code(
        &self,
        key: &str,
        note: String,
        description: String,
        mut packed: File,
    ) -> Result<bool, Problem> {
        let storage = |error: &objects::Error| self.problem(error);
        let (objects, _) = self.open_or_create().await?;
        let bytes = packed.metadata().await.map_err(broken)?.len();
        check_room(&objects, bytes)?;
        let name = name(key);
        if objects.info(&name).await.map_err(|e| storage(&e))?.is_some() {
            return Ok(false);
        }
        let mut info = Info::new(name.clone(), self.0.bucket.clone());
        info.description = Some(description);
        info.metadata = Some(HashMap::from([(NOTE.to_owned(), note)]));
        let mut writer = Writer::new(objects.clone(), info);
        let sent = async {
            let piece_bytes = objects.piece_bytes();
            loop {
                let mut piece = Vec::with_capacity(piece_bytes);
                let mut part = (&mut packed).take(piece_bytes as u64);
                if part.read_to_end(&mut piece).await.map_err(broken)? == 0 {
                    break;
                }
                writer.piece(piece.into()).await.map_err(|e| storage(&e))?;
            }
            writer.confirm().await.map_err(|e| storage(&e))?;
            // Another host may have been faster; who reads its pieces is to find them.
            objects.info(&name).await.map_err(|e| storage(&e))
        };
        match sent.await {
            Ok(None) => {
                let finished = writer.finish().await.map_err(objects::Error::from);
                finished.map(|()| true).map_err(|e| storage(&e))
            }
            Ok(Some(_)) => {
                writer.abort().await;
                Ok(false)
            }
            Err(problem) => {
                writer.abort().await;
                Err(problem)
            }
        }
    }

    /// Removes the code that no host took for long, and pieces of what was never whole.
    pub async fn tidy_code(&self) -> Result<usize, Problem> {
        let Some(objects) = self.open().await? else { return Ok(0) };
        objects.sweep().await.map_err(|e| self.problem(&e))?;
        let all = objects.list().await.map_err(|e| self.problem(&e))?;
        let bound = bytes_max(bound_of(&objects));
        let old = expired(all.into_iter().filter_map(listed).collect(), bound);
        let old = old.iter().map(|code| (code.name.clone(), code.state.as_str()));
        self.remove_unchanged(&objects, old.collect()).await
    }

    fn unavailable(&self, error: &objects::Error) -> CodeError {
        unavailable(self.problem(error))
    }
}

fn name(key: &str) -> String {
    format!("{NAME}{key}")
}

async fn remove_if(
    objects: &Objects,
    name: &str,
    is_it: impl Fn(&Result<Info, objects::Error>) -> bool,
) {
    if let Err(error) = objects.remove_if(name, is_it).await {
        debug!(%error, "damaged code not removed");
    }
}

fn unavailable(problem: Problem) -> CodeError {
    match problem {
        Problem::Unreachable(cause) | Problem::Broken(cause) => CodeError::Unavailable(cause),
        other => CodeError::Unavailable(other.to_string()),
    }
}

fn broken(error: std::io::Error) -> Problem {
    Problem::Broken(format!("the packed code was not read ({error})"))
}

/// Returns the bound of the bucket, in bytes, as it was when it was opened.
fn bound_of(objects: &Objects) -> Option<u64> {
    let bound = objects.stream().cached_info().config.max_bytes;
    u64::try_from(bound).ok().filter(|bound| *bound > 0)
}

/// Checks that half of a bounded bucket stays free for what clients send.
fn check_room(objects: &Objects, bytes: u64) -> Result<(), Problem> {
    let Some(bound) = bound_of(objects) else { return Ok(()) };
    let used = objects.stream().cached_info().state.bytes;
    if used.saturating_add(bytes) <= bytes_max(Some(bound)) {
        return Ok(());
    }
    Err(Problem::Broken(format!(
        "its bucket has {used} of {bound} bytes, and the other half is for what clients send"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(name: &str, bytes: u64, days_ago: i64) -> Listed {
        let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        let used = now - time::Duration::days(days_ago);
        Listed { name: name.into(), bytes, used, state: String::new() }
    }

    fn gone(all: &[Listed], bytes_max: u64) -> String {
        let mut names: Vec<_> =
            expired(all.to_vec(), bytes_max).into_iter().map(|code| code.name).collect();
        names.sort();
        names.join(" ")
    }

    #[test]
    fn code_goes_that_nobody_used_for_long_or_that_is_too_much() {
        let all = [code("a", 10, 0), code("b", 10, 29), code("c", 10, 31), code("d", 10, 3)];
        for (bytes_max, expected) in
            [(100, "c"), (40, "c"), (30, "c"), (29, "b c"), (19, "b c d"), (9, "a b c d")]
        {
            assert_eq!(gone(&all, bytes_max), expected, "{bytes_max}");
        }
        // Nothing ages while nothing comes.
        assert_eq!((gone(&all[2..3], 100), gone(&[], 100)), (String::new(), String::new()));
    }

    #[test]
    fn code_leaves_half_of_a_bounded_bucket_to_uploads() {
        assert_eq!((bytes_max(Some(100)), bytes_max(None)), (50, ALL_BYTES_MAX));
    }
}
