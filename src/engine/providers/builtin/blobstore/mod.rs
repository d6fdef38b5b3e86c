//! `builtin://blobstore`: objects in containers, in a directory or in the object store of JetStream
//! (wasmbus protocol, section 5.7).
//!
//! * [`names`] says what may be a name, [`listing`] cuts lists into pages, [`uploads`] knows what
//!   is open.
//! * [`backend`] is what a place for objects can do; [`fs`] and [`nats`] are the two places.
//! * [`link`] has the operations, and sends the further chunks of large objects to the actor.
//!
//! An upload in several chunks is known to the provider that began it. Where several hosts run this
//! provider for one actor, chunks may reach another one, which then refuses them; actors on a host
//! with this provider always reach the same.

pub mod backend;
pub mod fs;
mod link;
pub mod listing;
pub mod names;
pub mod nats;
pub mod uploads;

use std::{path::PathBuf, sync::Arc};

use futures::future::BoxFuture;

use self::{backend::Backend, fs::Fs, link::BlobLink, nats::Nats};
use super::{
    Context, Link, LinkError, Provider, Spec, Value,
    jetstream::{self, Placement},
    values::{Values, wrong},
};
use lattice_protocol::{builtin, links::LinkDefinition};

/// Chunks of downloads are no larger, unless the link says otherwise. Far below what a message of
/// NATS takes, so that they travel in one piece to actors on other hosts too.
pub const CHUNK_BYTES: u64 = 256 * 1024;
const CHUNK_BYTES_MIN: u64 = 1024;
const CHUNK_BYTES_MAX: u64 = 16 * 1024 * 1024;

pub static SPEC: Spec = Spec {
    known: builtin::BLOBSTORE,
    about: "Keeps objects of actors in containers, as files below a directory or in the object store of JetStream. Each actor has its \
            own containers, unless links name the same bucket. Large objects travel in chunks both ways.",
    values: &[
        Value {
            name: "backend",
            aliases: &[],
            default: "fs",
            help: "fs keeps objects in a directory of the host, nats in the object store of JetStream, for all hosts.",
        },
        Value {
            name: "root",
            aliases: &[],
            default: "{data directory}/blobs/{lattice}",
            help: "Absolute path of the directory, for fs: objects are the files {root}/{actor id}/{container}/{object}. \
                   Without it the host makes its own. Somebody on the host's machine has to make any other, empty, or to name it or \
                   one above it in the host's setting link_paths.",
        },
        Value {
            name: "bucket",
            aliases: &[],
            default: "BLOBS_{lattice}_{actor id}",
            help: "Object store bucket, for nats; actors linked with the same one share their containers.",
        },
        jetstream::DOMAIN,
        jetstream::REPLICAS,
        jetstream::STORAGE,
        jetstream::MAX_BYTES,
        Value {
            name: "max_chunk_size_bytes",
            aliases: &["max_chunk_size"],
            default: "256K",
            help: "Largest chunk of a download, 1K to 16M; larger objects reach the actor in several.",
        },
    ],
    is_ingress: false,
    check,
    build,
};

/// Values that only count where objects are in JetStream.
const OF_BUCKETS: [&str; 5] = [
    "bucket",
    jetstream::DOMAIN.name,
    jetstream::REPLICAS.name,
    jetstream::STORAGE.name,
    jetstream::MAX_BYTES.name,
];

fn check(link: &LinkDefinition) -> Result<Vec<String>, LinkError> {
    let values = Values::read(&SPEC, link)?;
    let Asked { place, .. } = Asked::read(&values)?;
    let mut odd = values.oddities()?;
    if place == Place::Nats {
        if let Some(name) = values.text("bucket") {
            jetstream::check_bucket_name(&name, None)?;
        }
        let placement = Placement::read(&values, None)?;
        odd.extend(placement.oddities(&values));
        odd.extend(values.idle(&["root"], "of use only with backend=fs"));
    } else {
        odd.extend(values.idle(&OF_BUCKETS, "of use only with backend=nats"));
    }
    Ok(odd)
}

/// The values of a link, as far as both places for objects have them in common.
struct Asked {
    chunk_bytes: usize,
    place: Place,
    /// Absolute, if there is one.
    root: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Directory,
    Nats,
}

impl Asked {
    fn read(values: &Values) -> Result<Self, LinkError> {
        let chunk_bytes = match values.bytes("max_chunk_size_bytes")?.unwrap_or(CHUNK_BYTES) {
            bytes @ CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX => bytes as usize,
            bytes => return Err(wrong("max_chunk_size_bytes", &bytes.to_string(), "1K to 16M")),
        };
        let place = match values.text("backend").as_deref() {
            None | Some("fs") => Place::Directory,
            Some("nats") => Place::Nats,
            Some(other) => return Err(wrong("backend", other, "fs or nats")),
        };
        let root = values.text("root").map(PathBuf::from);
        if let Some(root) =
            root.as_ref().filter(|root| place == Place::Directory && !root.is_absolute())
        {
            return Err(wrong("root", &root.to_string_lossy(), "an absolute path"));
        }
        Ok(Self { chunk_bytes, place, root })
    }
}

struct Blobstore {
    context: Context,
}

fn build(context: Context) -> Arc<dyn Provider> {
    Arc::new(Blobstore { context })
}

impl Provider for Blobstore {
    fn link(
        self: Arc<Self>,
        link: Arc<LinkDefinition>,
    ) -> BoxFuture<'static, Result<Arc<dyn Link>, LinkError>> {
        Box::pin(async move {
            let values = Values::read(&SPEC, &link)?;
            self.context.tell_unknown(&values.unknown, &link);
            let Asked { chunk_bytes, place, root } = Asked::read(&values)?;
            let backend: Arc<dyn Backend> = match place {
                Place::Directory => Arc::new(self.directory(root, &link).await?),
                Place::Nats => Arc::new(self.bucket(&values, &link).await?),
            };
            let link =
                BlobLink::new(self.context.clone(), link.actor_id.clone(), backend, chunk_bytes);
            Ok(link as Arc<dyn Link>)
        })
    }
}

impl Blobstore {
    async fn directory(
        &self,
        root: Option<PathBuf>,
        link: &LinkDefinition,
    ) -> Result<Fs, LinkError> {
        let blobs = self.context.data_dir.join("blobs");
        let root = match root {
            Some(root) => self.context.bounds.paths.directory("root", &root, &blobs).await?,
            None => blobs.join(self.context.lattice.as_str()),
        };
        // A public key, but one that came over the wire.
        names::check_container(&link.actor_id)
            .map_err(|error| LinkError::Values(error.to_string()))?;
        let opened = Fs::open(root, link.actor_id.clone()).await;
        opened.map_err(|error| {
            LinkError::Unavailable(format!(
                "{error}. Let the user of the host write there, or name another directory in the link value root"
            ))
        })
    }

    async fn bucket(&self, values: &Values, link: &LinkDefinition) -> Result<Nats, LinkError> {
        let default = format!("BLOBS_{}_{}", self.context.lattice, link.actor_id);
        let bucket = jetstream::bucket_name(values.text("bucket"), default, &self.context.lattice)?;
        let placement = Placement::read(values, self.context.js_domain.as_deref())?;
        Nats::open(&self.context.nats, bucket, &placement).await
    }
}
