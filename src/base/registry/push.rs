//! One push, from the bytes of an artifact to an image that hosts of all years pull.
//!
//! An image has one layer, the artifact as it is, and a configuration that nobody reads; their
//! media types say which of the two kinds it is (wasmbus protocol, section 8.4). Content comes
//! first and the manifest last, so that a tag never leads to something that is not there. Content
//! that the registry already has is not sent again.

use std::collections::BTreeMap;

use bytes::Bytes;
use oci_client::{
    client::{Config, ImageLayer},
    manifest::{OCI_IMAGE_MEDIA_TYPE, OciImageManifest},
};

use super::{
    connect::Connector,
    digest::Digest,
    image::Image,
    oci::Purpose,
    problem::{Problem, PushError},
};

/// The two kinds of artifacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A signed module.
    Actor,
    /// A provider archive.
    Provider,
}

impl Kind {
    fn layer_type(self) -> &'static str {
        match self {
            Self::Actor => "application/vnd.module.wasm.content.layer.v1+wasm",
            Self::Provider => "application/vnd.wasmcloud.provider.archive.layer.v1+par",
        }
    }

    fn config_type(self) -> &'static str {
        match self {
            Self::Actor => "application/vnd.wasmcloud.actor.archive.config",
            Self::Provider => "application/vnd.wasmcloud.provider.archive.config",
        }
    }
}

/// An artifact to push. The caller checks that the content is of its kind.
#[derive(Clone, Debug)]
pub struct Upload {
    pub kind: Kind,
    pub content: Bytes,
    /// Of the image, as it is; an empty object if there is none.
    pub configuration: Option<Bytes>,
    /// Of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// An image that was pushed.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// As the registry knows it.
    pub image: String,
    /// Of its manifest.
    pub digest: String,
    /// Whether the registry had the content before, under whatever name.
    pub was_known: bool,
}

/// Pushes an artifact; `sent` is told how much of it has arrived.
pub async fn push(
    connector: &Connector,
    image: &Image,
    upload: Upload,
    sent: impl FnMut(u64),
) -> Result<Pushed, PushError> {
    if image.digest().is_some() {
        return Err(PushError::ByDigest(image.to_string()));
    }
    let Upload { kind, content, configuration, annotations } = upload;
    let layer = ImageLayer::new(content, kind.layer_type().to_owned(), None);
    let configuration = configuration.unwrap_or_else(|| Bytes::from_static(b"{}"));
    let config = Config::new(configuration, kind.config_type().to_owned(), None);
    let annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
    // Without a media type of its own, as from the tools of these years: some hosts of 2022 only
    // know that of docker.
    let manifest = OciImageManifest::build(std::slice::from_ref(&layer), &config, annotations);
    let body = serde_json::to_vec(&manifest)
        .map_err(|error| PushError::Manifest(image.to_string(), error))?;
    let body = Bytes::from(body);
    let digest = Digest::of(&body).to_string();
    match send(connector, image, &layer.data, &config.data, body, sent).await {
        Ok(was_known) => Ok(Pushed { image: image.to_string(), digest, was_known }),
        Err(problem) => {
            let (registry, reference) = (image.registry().to_owned(), image.to_string());
            Err(PushError::Registry { registry, reference, problem })
        }
    }
}

async fn send(
    connector: &Connector,
    image: &Image,
    layer: &Bytes,
    config: &Bytes,
    manifest: Bytes,
    mut sent: impl FnMut(u64),
) -> Result<bool, Problem> {
    let remote = connector.connect(image, Purpose::Push).await?;
    let digest = Digest::of(layer);
    let was_known = remote.has(&digest).await;
    if !was_known {
        remote.send(&digest, layer, &mut sent).await?;
    }
    let digest = Digest::of(config);
    if !remote.has(&digest).await {
        remote.send(&digest, config, |_| {}).await?;
    }
    remote.put_manifest(manifest, OCI_IMAGE_MEDIA_TYPE).await?;
    Ok(was_known)
}
