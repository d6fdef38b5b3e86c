//! The name of an image: registry, repository, and the tag or digest that says which.
//!
//! Earlier hosts lower-case references before they read them, so references in use are written in
//! any case. Registry and repository have no upper case; tags do, and `1.0.0-RC1` and `1.0.0-rc1`
//! are two images. So a tag is asked for as it is written, and only if the registry has none in
//! lower case, as tools of those years pushed it. A reference that does not say which image is
//! meant (`latest`, or no tag) is refused unless the host allows it: the same actor would be
//! another one after the next push.

use std::fmt;

use super::digest::Digest;

/// Why a reference names no image this host pulls.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    #[error(
        "{text:?} is not the name of an image ({cause}); images are named registry/repository:tag, files file:///path"
    )]
    NotAName { text: String, cause: String },
    #[error(
        "{0} does not say which image is meant; name a version (:0.1.0) or a digest (@sha256:…), or allow the tag \
         `latest` (allow_latest, WASMCLOUD_OCI_ALLOW_LATEST=true)"
    )]
    Latest(String),
    #[error(
        "the digest of {0} is not of the kind sha256, and this host knows no other; name a tag"
    )]
    OtherDigest(String),
}

/// A name that is complete.
#[derive(Clone, Debug)]
pub struct Image {
    name: oci_client::Reference,
    digest: Option<Digest>,
}

/// Lower-cases what has no case: everything before the tag, and a digest.
fn fold(text: &str) -> String {
    let (name, digest) =
        text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest)));
    // A colon before the last slash belongs to a port.
    let tag_at = name.rfind(':').filter(|at| !name[*at..].contains('/')).unwrap_or(name.len());
    let (path, tag) = name.split_at(tag_at);
    let digest = digest.map(|digest| format!("@{}", digest.to_lowercase())).unwrap_or_default();
    format!("{}{tag}{digest}", path.to_lowercase())
}

impl Image {
    /// Reads `registry/repository:tag` or `registry/repository@sha256:…`, without a scheme.
    pub fn parse(text: &str, allow_latest: bool) -> Result<Self, ImageError> {
        let name: oci_client::Reference =
            fold(text).parse().map_err(|error: oci_client::ParseError| {
                // A text without end would fill the log.
                let text = text.chars().take(200).collect();
                ImageError::NotAName { text, cause: error.to_string() }
            })?;
        let digest = match name.digest() {
            Some(text) => {
                Some(Digest::parse(text).ok_or_else(|| ImageError::OtherDigest(name.to_string()))?)
            }
            None => None,
        };
        if digest.is_none()
            && name.tag().is_none_or(|tag| tag.eq_ignore_ascii_case("latest"))
            && !allow_latest
        {
            return Err(ImageError::Latest(name.to_string()));
        }
        Ok(Self { name, digest })
    }

    /// `host` or `host:port`.
    pub fn registry(&self) -> &str {
        self.name.registry()
    }

    /// The digest of the manifest, where the reference names one. A tag beside it says nothing.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The digest or the tag, as the registry is asked for it.
    pub fn reference(&self) -> String {
        match &self.digest {
            Some(digest) => digest.to_string(),
            None => self.name.tag().unwrap_or("latest").to_owned(),
        }
    }

    /// The tag as tools of 2022 to 2024 pushed it, where that is another one.
    pub fn folded_tag(&self) -> Option<String> {
        let tag = self.name.tag().filter(|_| self.digest.is_none())?;
        Some(tag.to_lowercase()).filter(|folded| folded != tag)
    }

    pub fn name(&self) -> &oci_client::Reference {
        &self.name
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_any_case_and_tags_in_their_own() {
        let whole = |text: &str| Image::parse(text, false).map(|image| image.to_string());
        for (text, name, tag, folded) in [
            (
                "Registry.Example:5000/Team/Echo:V1",
                "registry.example:5000/team/echo:V1",
                "V1",
                Some("v1"),
            ),
            (
                "R/Team/Echo:1.0.0-RC1",
                "docker.io/r/team/echo:1.0.0-RC1",
                "1.0.0-RC1",
                Some("1.0.0-rc1"),
            ),
            ("echo:1", "docker.io/library/echo:1", "1", None),
        ] {
            let image = Image::parse(text, false).unwrap();
            assert_eq!((image.to_string().as_str(), image.reference().as_str()), (name, tag));
            assert_eq!(image.folded_tag().as_deref(), folded, "{text}");
        }
        for vague in ["r.example/echo", "r.example/echo:latest", "r.example/echo:LATEST"] {
            assert!(matches!(whole(vague), Err(ImageError::Latest(_))), "{vague}");
            assert!(Image::parse(vague, true).is_ok(), "{vague}");
        }
        let digest = Digest::of(b"");
        let exact = Image::parse(&format!("r.example/echo:latest@{digest}"), false).unwrap();
        assert_eq!(exact.digest(), Some(&digest));
        assert_eq!((exact.reference(), exact.folded_tag()), (digest.to_string(), None));
        let upper = format!("R.example:5000/Echo@{}", digest.to_string().to_uppercase());
        assert_eq!(Image::parse(&upper, false).unwrap().digest(), Some(&digest));
        let other = format!("r.example/echo@sha512:{}", "0".repeat(128));
        assert!(matches!(whole(&other), Err(ImageError::OtherDigest(_))));
        assert!(matches!(whole("./echo.wasm"), Err(ImageError::NotAName { .. })));
    }
}
