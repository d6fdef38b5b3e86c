//! How a file becomes an object: folders made, the file moved to its place, and what it cannot tell
//! written beside it.
//!
//! The container itself is never made here. It may be removed at any moment, and then the upload is
//! refused.

use std::{
    fs,
    io::{self, ErrorKind, Write},
};

use tempfile::NamedTempFile;

use super::{ATTEMPTS_MAX, Files, Meta, UPLOADS, is_in_the_way, remove_file, storage, turn};
use crate::providers::builtin::blobstore::backend::{ContentInfo, Error};

impl Files {
    pub(super) fn temporary(&self) -> Result<NamedTempFile, Error> {
        let folder = self.home().join(UPLOADS);
        let mut builder = tempfile::Builder::new();
        // As any file of this user, for other programs read them too.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let made = builder.tempfile_in(&folder).or_else(|_| {
            fs::create_dir_all(&folder)?;
            builder.tempfile_in(&folder)
        });
        made.map_err(|e| storage("create a file in", &folder, &e))
    }

    pub(super) fn finish(
        &self,
        container: &str,
        object: &str,
        info: ContentInfo,
        mut file: NamedTempFile,
    ) -> Result<(), Error> {
        // On the disk before it is seen, so that a power cut leaves the whole object or none.
        file.as_file().sync_data().map_err(|e| storage("write", file.path(), &e))?;
        self.must_have(container)?;
        let path = self.object_path(container, object)?;
        let meta = self.prepare_meta(info)?;
        let _turn = turn(&path);
        let mut attempts = 0;
        loop {
            attempts += 1;
            let outcome = match self.make_folders(container, object) {
                Ok(()) => file.persist(&path).map_err(|e| (e.error, e.file)),
                Err(e) => Err((e, file)),
            };
            match outcome {
                Ok(_) => return self.write_meta(container, object, meta),
                Err((e, unmoved)) if e.kind() == ErrorKind::NotFound => {
                    // Either the container was removed, or a folder that got empty in this moment.
                    self.must_have(container)?;
                    if attempts == ATTEMPTS_MAX {
                        return Err(storage("store", &path, &e));
                    }
                    file = unmoved;
                }
                Err((e, _)) if is_in_the_way(&e) => {
                    return Err(Error::InTheWay {
                        container: container.to_owned(),
                        object: object.to_owned(),
                    });
                }
                Err((e, _)) => return Err(storage("store", &path, &e)),
            }
        }
    }

    /// Makes the folders of an object, but never its container: it may have been removed in this
    /// moment.
    fn make_folders(&self, container: &str, object: &str) -> io::Result<()> {
        let mut path = self.home().join(container);
        let folders = object.rsplit_once('/').map_or("", |(folders, _)| folders);
        for folder in folders.split('/').filter(|folder| !folder.is_empty()) {
            path.push(folder);
            match fs::create_dir(&path) {
                // If it is no folder, the rename says so.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                made => made?,
            }
        }
        Ok(())
    }

    /// A file with what an object's file cannot tell, if there is such.
    fn prepare_meta(&self, info: ContentInfo) -> Result<Option<NamedTempFile>, Error> {
        let meta =
            Meta { content_type: info.content_type, content_encoding: info.content_encoding };
        if meta.content_type.is_none() && meta.content_encoding.is_none() {
            return Ok(None);
        }
        let mut file = self.temporary()?;
        let written = serde_json::to_vec(&meta)
            .map_err(io::Error::from)
            .and_then(|json| file.write_all(&json));
        written.map_err(|e| storage("write", file.path(), &e))?;
        Ok(Some(file))
    }

    fn write_meta(
        &self,
        container: &str,
        object: &str,
        meta: Option<NamedTempFile>,
    ) -> Result<(), Error> {
        let path = self.meta_path(container, object);
        let Some(mut file) = meta else { return remove_file(&path) };
        let mut attempts = 0;
        loop {
            attempts += 1;
            let outcome = match path.parent().map_or(Ok(()), fs::create_dir_all) {
                Ok(()) => file.persist(&path).map_err(|e| (e.error, e.file)),
                Err(e) => Err((e, file)),
            };
            let (error, unmoved) = match outcome {
                Ok(_) => return Ok(()),
                Err(failed) => failed,
            };
            if error.kind() == ErrorKind::NotFound {
                // The container is being removed, with this folder and the object that was just
                // stored.
                self.must_have(container)?;
                if attempts < ATTEMPTS_MAX {
                    file = unmoved;
                    continue;
                }
            }
            // Nothing is better than what belongs to the object that was here before.
            let _ = remove_file(&path);
            return Err(storage("write", &path, &error));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        path::Path,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    fn files(root: &Path) -> Files {
        let files = Files { root: root.to_owned(), actor: "actor".to_owned() };
        fs::create_dir_all(files.home().join("c")).unwrap();
        fs::create_dir_all(files.home().join(UPLOADS)).unwrap();
        files
    }

    fn store(files: &Files, object: &str, content: &str) -> Result<(), Error> {
        let mut file = files.temporary()?;
        file.write_all(content.as_bytes()).unwrap();
        let content_type = Some(content.to_owned());
        files.finish("c", object, ContentInfo { content_type, content_encoding: None }, file)
    }

    #[test]
    fn what_is_told_of_an_object_belongs_to_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        store(&files, "o", "1").unwrap();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for content in ["1", "22", "333"] {
                let (files, is_over) = (&files, &is_over);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        store(files, "o", content).unwrap();
                    }
                });
            }
            for _ in 0..2000 {
                let found = files.object("c", "o").unwrap().unwrap();
                let told = found.content_type.unwrap();
                if told.len() as u64 != found.content_length {
                    is_over.store(true, Ordering::Relaxed);
                    panic!("{} bytes of {told}", found.content_length);
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn an_upload_never_brings_a_removed_container_back() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        for _ in 0..100 {
            fs::create_dir_all(files.home().join("c")).unwrap();
            thread::scope(|scope| {
                for object in ["folder/a", "folder/b", "c"] {
                    let files = &files;
                    scope.spawn(move || match store(files, object, "x") {
                        Ok(()) | Err(Error::NoContainer(_)) => {}
                        Err(error) => panic!("{error}"),
                    });
                }
                scope.spawn(|| files.remove_container("c").unwrap());
            });
            assert!(files.container("c").unwrap().is_none());
        }
    }
}
