//! The operations of a place for objects, be it a directory or the object store of JetStream.
//!
//! A backend belongs to one link. Names it is given are checked ([`super::names`]). An object
//! appears when its upload is finished, whole, and in place of one that was there; a download shows
//! one state of it.

use bytes::Bytes;
use futures::future::BoxFuture;

use super::names::NameError;
use lattice_protocol::contracts::{
    PayloadError,
    blobstore::{ContainerMetadata, ObjectMetadata},
};

/// Why an operation failed; the text goes to the actor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("there is no container {0:?}; create it with CreateContainer")]
    NoContainer(String),
    #[error("there is no object {object:?} in container {container:?}")]
    NoObject { container: String, object: String },
    #[error(
        "object {object:?} cannot be in container {container:?}: part of its name is the name of another object, or it is the folder of \
         others; in a directory a name is one or the other"
    )]
    InTheWay { container: String, object: String },
    #[error(
        "{0:?} is a symbolic link in the directory of the blob store, which is not followed; remove it, or let the link value root name its target"
    )]
    SymbolicLink(String),
    #[error("the continuation {0:?} was not given out by this provider; begin the list anew")]
    Continuation(String),
    #[error("the first chunk begins at offset {0}; begin an upload with offset 0")]
    NoBeginning(u64),
    #[error(
        "the chunk begins at offset {found}, {expected} bytes have arrived; send the chunks in order, each once"
    )]
    Offset { expected: u64, found: u64 },
    #[error(
        "there is no upload {0:?}: it was finished, cancelled, or waited for its next chunk too long. Begin it anew with PutObject"
    )]
    NoUpload(String),
    #[error("the previous chunk of upload {0:?} is still being written; send one after the other")]
    UploadBusy(String),
    #[error(
        "the upload {stream} is of object {object:?} in container {container:?}, the chunk names others"
    )]
    OtherObject { stream: String, container: String, object: String },
    #[error("{0} uploads are open on this link; finish or cancel some first")]
    UploadsFull(usize),
    #[error("{0} downloads are in progress on this link; try again when some have ended")]
    DownloadsFull(usize),
    #[error(
        "object {object:?} in container {container:?} was changed while it was read; read it again"
    )]
    Changed { container: String, object: String },
    #[error(
        "the bucket {bucket} did not confirm the write of {name:?} ({cause}): it may or may not have happened; look at the object to know"
    )]
    Unconfirmed { name: String, bucket: String, cause: String },
    #[error(
        "the metadata of {name:?} in the bucket {bucket} cannot be read: {cause}; was it written by another program? Remove the object \
         or store it anew"
    )]
    Unreadable { name: String, bucket: String, cause: String },
    #[error("the link to the blob store ended while the upload began; call PutObject again")]
    Ended,
    /// The disk or the server refuses.
    #[error("cannot {action}: {cause}")]
    Storage { action: String, cause: String },
}

/// The properties of an object besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentInfo {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
}

/// Which objects of a container to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Only names that begin so.
    pub prefix: String,
    /// Only names after this one.
    pub after: Option<String>,
    pub end_with: Option<String>,
    pub end_before: Option<String>,
    /// At most so many, at least one.
    pub limit: usize,
}

/// Objects in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    pub objects: Vec<ObjectMetadata>,
    /// There are more after the last one.
    pub is_cut: bool,
}

/// A place for containers and their objects.
pub trait Backend: Send + Sync + 'static {
    /// A container, if there is one.
    fn container(
        &self,
        container: String,
    ) -> BoxFuture<'_, Result<Option<ContainerMetadata>, Error>>;
    /// Makes a container; it is no error if there is one.
    fn create_container(&self, container: String) -> BoxFuture<'_, Result<(), Error>>;
    fn containers(&self) -> BoxFuture<'_, Result<Vec<ContainerMetadata>, Error>>;
    /// Removes a container with all that is in it.
    fn remove_container(&self, container: String) -> BoxFuture<'_, Result<(), Error>>;
    /// An object, if there is one.
    fn object(
        &self,
        container: String,
        object: String,
    ) -> BoxFuture<'_, Result<Option<ObjectMetadata>, Error>>;
    fn list(&self, container: String, page: Page) -> BoxFuture<'_, Result<Listing, Error>>;
    /// Removes an object.
    fn remove_object(&self, container: String, object: String) -> BoxFuture<'_, Result<(), Error>>;
    /// Begins to store an object.
    fn upload(
        &self,
        container: String,
        object: String,
        info: ContentInfo,
    ) -> BoxFuture<'_, Result<Box<dyn Upload>, Error>>;
    /// Begins to read an object at an offset.
    fn download(
        &self,
        container: String,
        object: String,
        start: u64,
    ) -> BoxFuture<'_, Result<Option<Box<dyn Download>>, Error>>;
    /// Removes what interrupted processes left behind.
    fn sweep(&self) -> BoxFuture<'_, Result<(), Error>>;
}

/// An object on its way in. Nothing of it is seen before [`Upload::finish`]. Not cancel safe:
/// callers use a task of their own.
pub trait Upload: Send + 'static {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), Error>>;
    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), Error>>;
    /// Removes what was written.
    fn abort(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// An object on its way out.
pub trait Download: Send + 'static {
    fn metadata(&self) -> &ObjectMetadata;
    /// The next bytes, `limit` of them unless the object ends.
    fn read(&mut self, limit: usize) -> BoxFuture<'_, Result<Bytes, Error>>;
}
