//! Reads manifests: which layers, in which order, make the artifact (wasmbus protocol,
//! section 8.4).
//!
//! The kind of an artifact depends on its content and not on its media type, as with all earlier
//! hosts: they accepted every layer type for actors and providers alike. The list of types only
//! keeps images of containers out.

use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, ImageIndexEntry,
    OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciImageIndex, OciImageManifest, Versioned,
};
use serde::{Deserialize, de::IgnoredAny};

use super::{ARTIFACT_BYTES_MAX, digest::Digest, problem::Problem};

/// The manifests that are asked for.
pub const MANIFEST_TYPES: [&str; 4] = [
    OCI_IMAGE_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
];

/// The media types of layers: of actors and archives as the tools of all years push them, and of
/// files from general tools.
const LAYER_TYPES: [&str; 8] = [
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.wasmcloud.provider.archive.layer.v1+par",
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/wasm",
    "application/octet-stream",
    "application/x-tar",
    "application/gzip",
];

/// Layers of one artifact; tools of all years make one.
const LAYERS_MAX: usize = 64;

/// The content of a manifest.
#[derive(Debug, PartialEq, Eq)]
pub enum Manifest {
    /// These layers, in this order.
    Image(Vec<Layer>),
    /// The manifest with this digest, for this platform.
    Elsewhere(Digest),
}

/// One part of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub digest: Digest,
    /// The size in the manifest; the content is checked by its digest.
    pub size: u64,
}

/// Reads a manifest or an index of manifests.
pub fn read(body: &[u8]) -> Result<Manifest, Problem> {
    #[derive(Deserialize)]
    struct Shape {
        manifests: Option<IgnoredAny>,
    }
    let versioned: Versioned = parse(body)?;
    if versioned.schema_version != 2 {
        return Err(Problem::Manifest(format!(
            "schema version {} is not 2",
            versioned.schema_version
        )));
    }
    if let Some(media_type) =
        versioned.media_type.filter(|found| !MANIFEST_TYPES.contains(&found.as_str()))
    {
        return Err(Problem::MediaType(media_type));
    }
    let shape: Shape = parse(body)?;
    if shape.manifests.is_some() {
        choose(parse(body)?).map(Manifest::Elsewhere)
    } else {
        layers(parse(body)?)
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::Manifest(error.to_string()))
}

fn layers(manifest: OciImageManifest) -> Result<Manifest, Problem> {
    if manifest.layers.len() > LAYERS_MAX {
        let count = manifest.layers.len();
        return Err(Problem::Manifest(format!("it has {count} layers, more than {LAYERS_MAX}")));
    }
    let mut layers = Vec::new();
    let mut total = 0_u64;
    for layer in manifest.layers {
        if !LAYER_TYPES.contains(&layer.media_type.as_str()) {
            return Err(Problem::MediaType(layer.media_type));
        }
        let size = u64::try_from(layer.size)
            .map_err(|_| Problem::Manifest("a layer has a negative size".into()))?;
        total = total.saturating_add(size);
        layers.push(Layer { digest: digest(&layer.digest)?, size });
    }
    if layers.is_empty() {
        return Err(Problem::Manifest("it has no layers".into()));
    }
    if total > ARTIFACT_BYTES_MAX {
        return Err(Problem::TooLarge);
    }
    Ok(Manifest::Image(layers))
}

/// The entry for this platform, or the only one.
fn choose(index: OciImageIndex) -> Result<Digest, Problem> {
    let here = |entry: &&ImageIndexEntry| {
        entry.platform.as_ref().is_some_and(|platform| {
            platform.os == oci_client::config::Os::default()
                && platform.architecture == oci_client::config::Architecture::default()
        })
    };
    let chosen = match index.manifests.as_slice() {
        [only] => Some(only),
        entries => entries.iter().find(here),
    };
    match chosen {
        Some(entry) => digest(&entry.digest),
        None => {
            let platforms = index.manifests.iter().map(|entry| match &entry.platform {
                Some(platform) => format!("{}/{}", platform.os, platform.architecture),
                None => "any".to_owned(),
            });
            Err(Problem::Platform {
                wanted: format!(
                    "{}/{}",
                    oci_client::config::Os::default(),
                    oci_client::config::Architecture::default()
                ),
                offered: platforms.collect::<Vec<_>>().join(", "),
            })
        }
    }
}

fn digest(text: &str) -> Result<Digest, Problem> {
    Digest::parse(text).ok_or_else(|| {
        Problem::Manifest("it names content by something else than a sha256 digest".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTOR: &str = "application/vnd.module.wasm.content.layer.v1+wasm";

    fn image(layers: &[(&str, u64)]) -> Vec<u8> {
        let digest = Digest::of(b"layer").to_string();
        let layers: Vec<_> = layers
            .iter()
            .map(|(media_type, size)| serde_json::json!({"mediaType": media_type, "digest": digest, "size": size}))
            .collect();
        serde_json::json!({"schemaVersion": 2, "config": {"mediaType": "x", "digest": digest, "size": 2},
            "layers": layers})
        .to_string()
        .into_bytes()
    }

    fn index(platforms: &[(&str, &str)]) -> Vec<u8> {
        let manifests: Vec<_> = platforms
            .iter()
            .map(|(os, architecture)| {
                serde_json::json!({"mediaType": OCI_IMAGE_MEDIA_TYPE, "size": 1,
                    "digest": Digest::of(format!("{os}{architecture}").as_bytes()).to_string(),
                    "platform": {"os": os, "architecture": architecture}})
            })
            .collect();
        serde_json::json!({"schemaVersion": 2, "manifests": manifests}).to_string().into_bytes()
    }

    #[test]
    fn layers_of_all_tools_are_taken_in_their_order_and_containers_are_not() {
        let layer = |size| Layer { digest: Digest::of(b"layer"), size };
        let found = read(&image(&[(ACTOR, 7), ("application/wasm", 8)]));
        assert_eq!(found.unwrap(), Manifest::Image(vec![layer(7), layer(8)]));
        let container = read(&image(&[("application/vnd.oci.image.layer.v1.tar+gzip", 7)]));
        assert!(matches!(container, Err(Problem::MediaType(_))));
        assert!(matches!(read(&image(&[])), Err(Problem::Manifest(_))));
        assert!(matches!(
            read(&image(&[(ACTOR, ARTIFACT_BYTES_MAX), (ACTOR, 1)])),
            Err(Problem::TooLarge)
        ));
        assert!(matches!(read(&image(&[(ACTOR, 1); LAYERS_MAX + 1])), Err(Problem::Manifest(_))));
        assert!(read(&image(&[(ACTOR, 1); LAYERS_MAX])).is_ok());
        assert!(matches!(read(b"<html>"), Err(Problem::Manifest(_))));
        assert!(matches!(read(br#"{"schemaVersion":1}"#), Err(Problem::Manifest(_))));
    }

    #[test]
    fn an_index_leads_to_this_platform_or_to_its_only_entry() {
        let (os, arch) =
            (oci_client::config::Os::default(), oci_client::config::Architecture::default());
        let (os, arch) = (os.to_string(), arch.to_string());
        let own = Digest::of(format!("{os}{arch}").as_bytes());
        let found = read(&index(&[("plan9", "386"), (&os, &arch)]));
        assert_eq!(found.unwrap(), Manifest::Elsewhere(own));
        let only = read(&index(&[("wasip1", "wasm")]));
        assert_eq!(only.unwrap(), Manifest::Elsewhere(Digest::of(b"wasip1wasm")));
        match read(&index(&[("plan9", "386"), ("plan9", "arm")])) {
            Err(Problem::Platform { offered, .. }) => assert_eq!(offered, "plan9/386, plan9/arm"),
            other => panic!("{other:?}"),
        }
    }
}
