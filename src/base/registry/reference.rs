//! The references of start requests: files, images of a registry, uploads, what is built in, and
//! what is gone.
//!
//! Events must repeat the text of a request byte for byte, so a [`Reference`] is only ever made
//! from the text, never turned back into it.

use std::path::PathBuf;

use super::{digest::Digest, uploads};

/// The place that a reference names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `file:///abs/path`, or a bare absolute path as some clients send it.
    File(PathBuf),
    /// Anything else: an image, with the scheme some clients put before it taken off.
    Image(String),
    /// `builtin://NAME`: a provider that is part of this host.
    Builtin(String),
    /// `lattice://sha256:…`: an upload of a client in the lattice's object store.
    Lattice(Digest),
    /// `bindle://…`
    Bindle,
}

/// Why a text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("the reference is empty; name a module, for example file:///path/to/actor.wasm")]
    Empty,
    #[error(
        "the path {0:?} is not absolute; another directory is current for the host than for its clients"
    )]
    RelativePath(String),
    #[error(
        "{0:?} names no upload: after {SCHEME} comes sha256: and 64 lower-case hex digits, as `host start actor ./file.wasm` \
         prints it",
        SCHEME = uploads::SCHEME
    )]
    NoUpload(String),
}

impl Reference {
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.trim().is_empty() {
            return Err(ReferenceError::Empty);
        }
        if let Some(path) = text.strip_prefix("file://") {
            let path = path.strip_prefix("localhost").unwrap_or(path);
            if !path.starts_with('/') && !has_drive(path) {
                return Err(ReferenceError::RelativePath(path.to_owned()));
            }
            return Ok(Self::File(PathBuf::from(path)));
        }
        if text.starts_with('/') || has_drive(text) {
            return Ok(Self::File(PathBuf::from(text)));
        }
        if text.starts_with("bindle://") {
            return Ok(Self::Bindle);
        }
        if let Some(name) = text.strip_prefix("builtin://") {
            return Ok(Self::Builtin(name.to_owned()));
        }
        if let Some(digest) = text.strip_prefix(uploads::SCHEME) {
            // A text without end would fill the log.
            let no_upload = || ReferenceError::NoUpload(text.chars().take(200).collect());
            return Digest::parse(digest).map(Self::Lattice).ok_or_else(no_upload);
        }
        let image =
            ["oci://", "https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        Ok(Self::Image(image.unwrap_or(text).to_owned()))
    }
}

/// `C:\…` or `C:/…`, the absolute paths of Windows.
fn has_drive(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.len() > 2
        && bytes[0].is_ascii_alphabetic()
        && bytes[1] == b':'
        && matches!(bytes[2], b'\\' | b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_sorted_by_what_they_name() {
        let file = |path: &str| Ok(Reference::File(PathBuf::from(path)));
        let image = |text: &str| Ok(Reference::Image(text.to_owned()));
        assert_eq!(Reference::parse("file:///a/b.wasm"), file("/a/b.wasm"));
        assert_eq!(Reference::parse("file://localhost/a.wasm"), file("/a.wasm"));
        assert_eq!(Reference::parse("/a/b.wasm"), file("/a/b.wasm"));
        assert_eq!(Reference::parse("C:\\a.wasm"), file("C:\\a.wasm"));
        assert_eq!(Reference::parse("oci://r.example/echo:1"), image("r.example/echo:1"));
        assert_eq!(Reference::parse("localhost:5000/echo:1"), image("localhost:5000/echo:1"));
        assert_eq!(
            Reference::parse("file://a.wasm"),
            Err(ReferenceError::RelativePath("a.wasm".into()))
        );
        assert_eq!(Reference::parse(" "), Err(ReferenceError::Empty));
        assert_eq!(Reference::parse("bindle://x/1"), Ok(Reference::Bindle));
        assert_eq!(
            Reference::parse("builtin://httpserver"),
            Ok(Reference::Builtin("httpserver".into()))
        );
        let digest = Digest::of(b"");
        assert_eq!(
            Reference::parse(&uploads::reference(&digest)),
            Ok(Reference::Lattice(digest.clone()))
        );
        for wrong in [
            digest.hex(),
            "sha256:12",
            "sha256:../../etc/passwd",
            &digest.to_string().to_uppercase(),
            "",
        ] {
            let text = format!("lattice://{wrong}");
            assert_eq!(Reference::parse(&text), Err(ReferenceError::NoUpload(text.clone())));
        }
    }
}
