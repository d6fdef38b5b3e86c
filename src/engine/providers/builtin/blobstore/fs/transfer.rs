//! Objects of a directory on their way: a file that grows, and a file that is read.

use std::{
    fs::File,
    io::{Read, Write},
    path::PathBuf,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use tempfile::NamedTempFile;

use super::{Files, blocking, cut, storage};
use crate::providers::builtin::blobstore::backend::{ContentInfo, Download, Error, Upload};
use lattice_protocol::contracts::blobstore::ObjectMetadata;

pub(super) struct FileUpload {
    pub(super) files: Files,
    pub(super) container: String,
    pub(super) object: String,
    pub(super) info: ContentInfo,
    /// `None` after a failed write. Dropped, it removes itself.
    pub(super) file: Option<NamedTempFile>,
}

impl Upload for FileUpload {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        let file = self.file.take();
        Box::pin(async move {
            let Some(mut file) = file else { return Err(cut()) };
            let written = blocking(move || match file.write_all(&bytes) {
                Ok(()) => Ok(file),
                Err(e) => Err(storage("write", file.path(), &e)),
            });
            self.file = Some(written.await?);
            Ok(())
        })
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), Error>> {
        Box::pin(blocking(move || {
            let Self { files, container, object, info, file } = *self;
            files.finish(&container, &object, info, file.ok_or_else(cut)?)
        }))
    }

    fn abort(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let _ = blocking(move || {
                drop(self);
                Ok(())
            })
            .await;
        })
    }
}

pub(super) struct FileDownload {
    pub(super) metadata: ObjectMetadata,
    pub(super) path: PathBuf,
    /// `None` after a failed read.
    pub(super) file: Option<File>,
}

impl Download for FileDownload {
    fn metadata(&self) -> &ObjectMetadata {
        &self.metadata
    }

    fn read(&mut self, limit: usize) -> BoxFuture<'_, Result<Bytes, Error>> {
        let (file, path) = (self.file.take(), self.path.clone());
        Box::pin(async move {
            let Some(mut file) = file else { return Err(cut()) };
            let (file, bytes) = blocking(move || {
                let mut bytes = Vec::new();
                let read = (&mut file).take(limit as u64).read_to_end(&mut bytes);
                read.map(|_| (file, bytes)).map_err(|e| storage("read", &path, &e))
            })
            .await?;
            self.file = Some(file);
            Ok(bytes.into())
        })
    }
}
