//! Modules and provider archives that clients sent into the lattice: files of one machine that any
//! host can run.
//!
//! They lie in the object store `ARTIFACTS_{lattice}` of the lattice's JetStream domain, each named
//! by its content (`sha256-{hex}`), so the same file is there once, and what was read can be
//! verified. The metadata of an object says whose it is. Clients put, hosts read through the
//! registry ([`Uploads`]); `nats object ls` and `nats object get` work as well.
//!
//! A client or host that finds a damaged upload removes it, so that it can be sent again.
//!
//! Uploads do not pile up for ever, and none vanishes that somebody may want to start again:
//! [`superseded`] names those of which a newer one of the same actor or provider is there, and that
//! were not sent for [`KEPT_FOR`]. A client that has sent something removes them, unless a host
//! runs one of them. The newest upload of an actor stays for ever.
//!
//! Hosts leave [`code`] there that they compiled, for each other.

pub mod code;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream::{Context, stream::Stream};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use time::OffsetDateTime;
use tracing::{debug, warn};

use super::{
    domain_name,
    jetstream::{
        api_prefix, context, find,
        making::{Making, advice},
    },
    objects::{self, Info, Objects, Pieces, WholeError, Writer},
};
use crate::{
    budget::Budget,
    lattice::connection::Nats,
    registry::{
        ARTIFACT_BYTES_MAX,
        digest::Digest,
        uploads::{Problem, UploadError, Uploads, reference},
    },
};
use lattice_protocol::{errors::chain, identity::digest::sha256};

/// The prefix of the names of buckets with uploads.
pub const BUCKET: &str = "ARTIFACTS_";
/// How long a piece may take on a slow line, with those that are before it.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a confirmed write may take to be seen: another domain with such a bucket may have
/// confirmed it first, and a bucket that was just made is not heard of everywhere.
const SETTLE_TIME: Duration = Duration::from_secs(5);
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// How long an upload stays after the last time it was sent, whatever came after it.
pub const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

const NAME: &str = "sha256-";
const KIND: &str = "kind";
const SUBJECT: &str = "public_key";
const TITLE: &str = "name";
const REVISION: &str = "revision";

/// The object store of a lattice's artifacts. Cheap to clone.
#[derive(Clone)]
pub struct Artifacts(Arc<Inner>);

struct Inner {
    nats: Nats,
    domain: Option<String>,
    bucket: String,
    making: Making,
    budget: Budget,
}

/// The actor or provider that an artifact belongs to, by its claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// `actor` or `provider`.
    pub kind: String,
    pub public_key: String,
    pub name: String,
    pub revision: u64,
}

/// How something came to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Sent,
    /// Nothing was sent. It counts as new from now on.
    AlreadyThere,
}

/// An artifact that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub digest: Digest,
    /// `None` if the uploader did not say.
    pub about: Option<About>,
    pub bytes: u64,
    /// When the server took it, or it was sent again.
    pub stored: OffsetDateTime,
    /// Its metadata as read, to know whether it is still the same.
    state: String,
}

/// Those that may go: not sent for [`KEPT_FOR`], and something newer of the same actor or provider
/// is there. The server's times are compared with each other, so that nobody's clock counts.
pub fn superseded(all: &[Stored]) -> Vec<&Stored> {
    let mut newest: HashMap<&str, OffsetDateTime> = HashMap::new();
    for (stored, about) in all.iter().filter_map(|stored| Some((stored, stored.about.as_ref()?))) {
        let time = newest.entry(about.public_key.as_str()).or_insert(stored.stored);
        *time = stored.stored.max(*time);
    }
    let Some(last) = all.iter().map(|stored| stored.stored).max() else { return Vec::new() };
    let may_go = |stored: &&Stored| {
        let of_its_own =
            stored.about.as_ref().and_then(|about| newest.get(about.public_key.as_str()));
        of_its_own.is_some_and(|newest| *newest > stored.stored) && last - stored.stored > KEPT_FOR
    };
    all.iter().filter(may_go).collect()
}

impl Artifacts {
    /// The store of a lattice; opened when it is needed. `making` is for a bucket that has to be
    /// made, and what is read is paid for out of the budget.
    pub fn new(
        nats: Nats,
        domain: Option<&str>,
        lattice: &str,
        making: Making,
        budget: Budget,
    ) -> Self {
        let bucket = format!("{BUCKET}{lattice}");
        Self(Arc::new(Inner { nats, domain: domain.map(str::to_owned), bucket, making, budget }))
    }

    pub fn bucket(&self) -> &str {
        &self.0.bucket
    }

    /// The JetStream domain it is in; `None` for that of the server one is connected to.
    pub fn domain(&self) -> Option<&str> {
        self.0.domain.as_deref()
    }

    /// Stores an artifact unless it is there. `progress` is told how many bytes of how many are
    /// stored. Not cancel safe: what was sent of an artifact stays until somebody tidies up, a day
    /// later.
    pub async fn put(
        &self,
        content: &Bytes,
        about: &About,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Put, UploadError> {
        let digest = Digest::of(content);
        let put = async {
            if content.len() as u64 > ARTIFACT_BYTES_MAX {
                return Err(Problem::TooLarge(content.len() as u64));
            }
            let (objects, is_new) = self.open_or_create().await?;
            if !is_new && self.touch(&objects, &digest, content).await? {
                return Ok(Put::AlreadyThere);
            }
            let until = Instant::now() + SETTLE_TIME;
            loop {
                match self.send(&objects, &digest, content, about, &mut progress).await {
                    Err(objects::Error::Unheard { .. }) if Instant::now() < until => {
                        tokio::time::sleep(SETTLE_PAUSE).await;
                    }
                    outcome => return outcome.map(|()| Put::Sent).map_err(|e| self.problem(&e)),
                }
            }
        };
        put.await.map_err(|problem| self.error(&digest, problem))
    }

    /// Reads an artifact and verifies it.
    pub async fn get(&self, digest: &Digest) -> Result<Bytes, UploadError> {
        self.read_verified(digest).await.map_err(|problem| self.error(digest, problem))
    }

    /// Whether an artifact is there, as far as can be told without reading it.
    pub async fn has(&self, digest: &Digest) -> Result<bool, UploadError> {
        let has = async {
            let Some(objects) = self.open().await? else { return Ok(false) };
            let info = objects.info(&name(digest)).await.map_err(|e| self.problem(&e))?;
            let Some(info) = info else { return Ok(false) };
            objects.is_whole(&info).await.map_err(|e| self.problem(&e))
        };
        has.await.map_err(|problem| self.error(digest, problem))
    }

    /// All artifacts there are; other objects are passed over.
    pub async fn list(&self) -> Result<Vec<Stored>, Problem> {
        let Some(objects) = self.open().await? else { return Ok(Vec::new()) };
        let listed = objects.list().await.map_err(|e| self.problem(&e))?;
        let stored = |(name, listed): (String, Result<objects::Listed, objects::Error>)| {
            let objects::Listed { info, stored } = listed.ok()?;
            let (digest, about, state) = (digest_of(&name)?, about_of(&info), state_of(&info));
            Some(Stored { digest, about, bytes: info.size, stored, state })
        };
        Ok(listed.into_iter().filter_map(stored).collect())
    }

    /// Removes an artifact; whether there was one.
    pub async fn delete(&self, digest: &Digest) -> Result<bool, UploadError> {
        let delete = async {
            let Some(objects) = self.open().await? else { return Ok(false) };
            objects.remove(&name(digest)).await.map_err(|e| self.problem(&e))
        };
        delete.await.map_err(|problem| self.error(digest, problem))
    }

    /// Removes artifacts that nobody sent since they were listed.
    pub async fn delete_unchanged(&self, listed: &[&Stored]) -> Result<usize, Problem> {
        let Some(objects) = self.open().await? else { return Ok(0) };
        let listed = listed.iter().map(|stored| (name(&stored.digest), stored.state.as_str()));
        self.remove_unchanged(&objects, listed.collect()).await
    }

    /// Removes objects, by their names, whose state is still that of a listing; returns how many.
    async fn remove_unchanged(
        &self,
        objects: &Objects,
        listed: Vec<(String, &str)>,
    ) -> Result<usize, Problem> {
        let mut removed = 0;
        for (name, state) in listed {
            let is_same = |info: &Result<Info, objects::Error>| {
                info.as_ref().is_ok_and(|info| state_of(info) == state)
            };
            let gone = objects.remove_if(&name, is_same).await;
            removed += usize::from(gone.map_err(|e| self.problem(&e))?);
        }
        Ok(removed)
    }

    /// Removes the pieces of artifacts that were never whole.
    pub async fn sweep(&self) -> Result<(), Problem> {
        match self.open().await? {
            Some(objects) => objects.sweep().await.map_err(|e| self.problem(&e)),
            None => Ok(()),
        }
    }

    async fn open(&self) -> Result<Option<Objects>, Problem> {
        let Inner { nats, domain, bucket, .. } = &*self.0;
        let context = context(&nats.client, domain.as_deref());
        let found =
            find(nats, &context, domain.as_deref(), bucket, &objects::stream_name(bucket)).await;
        let found = found.map_err(|error| Problem::Unreachable(error.to_string()))?;
        Ok(found.map(|stream| self.objects(context, stream)))
    }

    /// The bucket, and whether it was made just now.
    async fn open_or_create(&self) -> Result<(Objects, bool), Problem> {
        if let Some(objects) = self.open().await? {
            return Ok((objects, false));
        }
        let Inner { nats, domain, bucket, making, .. } = &*self.0;
        let context = context(&nats.client, domain.as_deref());
        let config = objects::stream_config(
            bucket,
            "modules and provider archives that clients sent to this lattice, and what hosts compiled",
        );
        match making.create(&context, config).await {
            Ok(stream) => Ok((self.objects(context, stream), true)),
            // Another client was first, with other values perhaps.
            Err(error) => match self.open().await? {
                Some(objects) => Ok((objects, true)),
                None => Err(Problem::Broken(format!(
                    "the bucket is not made ({}); the account may have no room for it, or this user may not make streams{}",
                    chain(&error),
                    advice(&error, "artifacts_max_bytes")
                ))),
            },
        }
    }

    fn objects(&self, context: Context, stream: Stream) -> Objects {
        let (again, name) = (context.clone(), objects::stream_name(&self.0.bucket));
        let reopen = move || {
            let (context, name) = (again.clone(), name.clone());
            async move { context.get_stream(&name).await.map_err(|error| chain(&error)) }.boxed()
        };
        let mut patient = context;
        patient.set_timeout(PIECE_TIMEOUT);
        Objects::new(patient, stream, &self.0.bucket, Arc::new(reopen))
    }

    /// Whether the artifact is there; then it counts as new.
    async fn touch(
        &self,
        objects: &Objects,
        digest: &Digest,
        content: &Bytes,
    ) -> Result<bool, Problem> {
        let info = match objects.info(&name(digest)).await {
            Ok(Some(info)) => info,
            // An object with unreadable metadata is replaced.
            Ok(None) | Err(objects::Error::Unreadable { .. }) => return Ok(false),
            Err(error) => return Err(self.problem(&error)),
        };
        let is_same = info.size == content.len() as u64 && info.has_digest(&sha256(content));
        if !is_same || !objects.is_whole(&info).await.map_err(|e| self.problem(&e))? {
            return Ok(false);
        }
        // One that was replaced or removed meanwhile is not there any longer.
        Ok(objects.store_again(info).await.unwrap_or_else(|error| {
            debug!(error = %chain(&objects::Error::from(error)), "upload not marked as used");
            true
        }))
    }

    async fn send(
        &self,
        objects: &Objects,
        digest: &Digest,
        content: &Bytes,
        about: &About,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<(), objects::Error> {
        let of = content.len() as u64;
        let mut writer = Writer::new(objects.clone(), info(&self.0.bucket, digest, about));
        let nuid = writer.info().nuid.clone();
        let piece_bytes = objects.piece_bytes();
        let pieces = async {
            for start in (0..content.len()).step_by(piece_bytes) {
                progress(writer.confirmed(), of);
                writer.piece(content.slice(start..content.len().min(start + piece_bytes))).await?;
            }
            writer.confirm().await?;
            progress(writer.confirmed(), of);
            settled(|| writer.is_stored().boxed()).await
        };
        match pieces.await {
            Ok(true) => writer.finish().await?,
            Ok(false) => {
                writer.abort().await;
                let elsewhere = "its pieces are not there, although they were confirmed; another JetStream domain may have a \
                                 bucket of this name, which is to be removed";
                return Err(objects.error("write", elsewhere.to_owned()));
            }
            Err(error) => {
                writer.abort().await;
                return Err(error);
            }
        }
        let name = name(digest);
        let is_there = || {
            let found = objects.info(&name);
            async { Ok(found.await?.is_some_and(|info| info.nuid == nuid)) }.boxed()
        };
        if settled(is_there).await? {
            return Ok(());
        }
        // Somebody else may have sent the same.
        match objects.info(&name).await? {
            Some(info) if objects.is_whole(&info).await? => Ok(()),
            _ => Err(objects
                .error("write", "it was confirmed and is not there; send it again".to_owned())),
        }
    }

    async fn read_verified(&self, digest: &Digest) -> Result<Bytes, Problem> {
        let objects = self.open().await?.ok_or(Problem::Missing)?;
        let name = name(digest);
        let info = match objects.info(&name).await {
            Ok(info) => info.ok_or(Problem::Missing)?,
            // A client that has the content sends it again over this.
            Err(objects::Error::Unreadable { cause, .. }) => {
                debug!(
                    reference = reference(digest),
                    cause, "the metadata of an upload is damaged"
                );
                return Err(Problem::Damaged);
            }
            Err(error) => return Err(self.problem(&error)),
        };
        if info.size > ARTIFACT_BYTES_MAX {
            return Err(Problem::TooLarge(info.size));
        }
        // Pieces that are not there would be waited for.
        if objects.is_whole(&info).await.map_err(|e| self.problem(&e))? {
            let stream = objects.stream();
            let subject = objects.piece_subject(&info.nuid);
            let pieces =
                Pieces { stream: &stream, subject, expected: info.size, timeout: PIECE_TIMEOUT };
            let read = objects::whole(pieces, &self.0.budget, |_| {}).await;
            match read {
                Ok(content) => {
                    let hashed =
                        tokio::task::spawn_blocking(move || (Digest::of(&content), content)).await;
                    let (found, content) =
                        hashed.map_err(|error| Problem::Broken(error.to_string()))?;
                    if found == *digest {
                        return Ok(content);
                    }
                }
                Err(WholeError::Damaged(cause)) => {
                    debug!(reference = reference(digest), cause, "an upload is damaged")
                }
                Err(WholeError::Failed(cause)) => {
                    return Err(Problem::Broken(format!("it was not read ({cause})")));
                }
            }
        }
        warn!(
            reference = reference(digest),
            "an upload is damaged, it is removed so that it can be sent again"
        );
        // Not if somebody has done that meanwhile.
        let is_it = |found: &Result<Info, objects::Error>| {
            found.as_ref().is_ok_and(|found| found.nuid == info.nuid)
        };
        if let Err(error) = objects.remove_if(&name, is_it).await {
            debug!(%error, "damaged upload not removed");
        }
        Err(Problem::Damaged)
    }

    /// Turns a failure into a problem for the caller. The server does not answer forbidden
    /// requests; it reports them elsewhere.
    fn problem(&self, error: &objects::Error) -> Problem {
        let denied =
            self.0.nats.denied.borrow().iter().find(|what| what.contains("\"$O.")).cloned();
        if let Some(denied) = denied {
            return Problem::Unreachable(format!(
                "this NATS user may not write there: {denied}. Allow it $O.{}.> and {}.>, or use the login of an operator",
                self.0.bucket,
                api_prefix(self.0.domain.as_deref())
            ));
        }
        match error {
            objects::Error::Unheard { .. } => Problem::Unreachable(format!(
                "{error}. The bucket is there, but what is published on $O.{}.> does not reach it: leaf nodes on the way, or \
                 this NATS user, may not publish on $O.>",
                self.0.bucket
            )),
            _ => Problem::Broken(chain(error)),
        }
    }

    fn error(&self, digest: &Digest, problem: Problem) -> UploadError {
        UploadError { reference: reference(digest), place: self.place(), problem }
    }
}

impl Uploads for Artifacts {
    fn read<'a>(&'a self, digest: &'a Digest) -> BoxFuture<'a, Result<Bytes, Problem>> {
        self.read_verified(digest).boxed()
    }

    fn place(&self) -> String {
        format!("object store {} in {}", self.0.bucket, domain_name(self.0.domain.as_deref()))
    }
}

/// Looks until it is so, or the time is over. Boxed, since the compiler cannot tell that the future
/// of an async closure can be sent to another thread.
async fn settled<'a>(
    mut is_so: impl FnMut() -> BoxFuture<'a, Result<bool, objects::Error>>,
) -> Result<bool, objects::Error> {
    let until = Instant::now() + SETTLE_TIME;
    loop {
        match is_so().await {
            Ok(false) if Instant::now() < until => tokio::time::sleep(SETTLE_PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// The name of an artifact's object.
fn name(digest: &Digest) -> String {
    format!("{NAME}{}", digest.hex())
}

/// Metadata that was written again, by whomever, is another one.
fn state_of(info: &Info) -> String {
    format!("{} {}", info.nuid, info.mtime.as_deref().unwrap_or_default())
}

fn digest_of(name: &str) -> Option<Digest> {
    Digest::parse(&format!("sha256:{}", name.strip_prefix(NAME)?))
}

fn info(bucket: &str, digest: &Digest, about: &About) -> Info {
    let mut info = Info::new(name(digest), bucket.to_owned());
    info.description = Some(format!("{} {}, revision {}", about.kind, about.name, about.revision));
    info.metadata = Some(HashMap::from([
        (KIND.to_owned(), about.kind.clone()),
        (SUBJECT.to_owned(), about.public_key.clone()),
        (TITLE.to_owned(), about.name.clone()),
        (REVISION.to_owned(), about.revision.to_string()),
    ]));
    info
}

fn about_of(info: &Info) -> Option<About> {
    let metadata = info.metadata.as_ref()?;
    let text = |key: &str| metadata.get(key).cloned();
    Some(About {
        kind: text(KIND)?,
        public_key: text(SUBJECT).filter(|key| !key.is_empty())?,
        name: text(TITLE).unwrap_or_default(),
        revision: text(REVISION).and_then(|text| text.parse().ok()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(content: &str, public_key: Option<&str>, days_ago: i64) -> Stored {
        let about = public_key.map(|key| About {
            public_key: key.into(),
            kind: "actor".into(),
            ..About::default()
        });
        let stored = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap()
            - time::Duration::days(days_ago);
        Stored {
            digest: Digest::of(content.as_bytes()),
            about,
            bytes: 1,
            stored,
            state: String::new(),
        }
    }

    #[test]
    fn only_what_is_old_and_has_a_successor_may_go() {
        let all = [
            stored("old, replaced", Some("M1"), 31),
            stored("young, replaced", Some("M1"), 29),
            stored("newest", Some("M1"), 1),
            stored("old, alone", Some("M2"), 400),
            stored("old, of nobody", None, 400),
            stored("now", Some("M3"), 0),
        ];
        assert_eq!(superseded(&all), [&all[0]]);
        // Nothing ages while nothing comes.
        assert!(superseded(&all[..3]).is_empty() && superseded(&all[..2]).is_empty());
        assert!(superseded(&[]).is_empty());
    }

    #[test]
    fn names_and_metadata_read_back() {
        let digest = Digest::of(b"x");
        assert_eq!(digest_of(&name(&digest)), Some(digest.clone()));
        assert_eq!(digest_of("sha256-x"), None);
        let about = About {
            kind: "actor".into(),
            public_key: "M1".into(),
            name: "Echo".into(),
            revision: 4,
        };
        let info = info("b", &digest, &about);
        assert_eq!(about_of(&info), Some(about));
        assert_eq!(about_of(&Info::default()), None);
    }
}
