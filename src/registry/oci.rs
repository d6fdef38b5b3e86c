//! One registry, spoken to for one pull: the home of the OCI client.
//!
//! A [`Remote`] is made for each pull, because the client keeps the first login it is given for ever, and so that
//! changed certificates count at once. The client verifies every manifest and every layer against its digest.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use oci_client::{
    Client, RegistryOperation,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    secrets::RegistryAuth,
};

use super::{
    credentials::{Credentials, Place},
    digest::Digest,
    image::Image,
    manifest::{Layer, MANIFEST_TYPES},
    problem::Problem,
};

/// Longest time until a connection stands, name lookup and TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time without a byte.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(15);
/// A manifest may say any size; room is made for what comes.
const ROOM_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How a registry is reached.
pub struct Access<'a> {
    pub insecure: bool,
    pub ca: Option<&'a Path>,
    pub credentials: Option<Credentials>,
    pub place: Place,
}

/// A registry, for one image.
pub struct Remote {
    client: Client,
    image: Image,
    auth: RegistryAuth,
    place: Place,
}

impl Remote {
    /// Prepares the client. Blocks on the file system: it reads the certificates of this machine.
    pub fn new(image: Image, access: Access<'_>) -> Result<Self, Problem> {
        let config = ClientConfig {
            protocol: if access.insecure { ClientProtocol::Http } else { ClientProtocol::Https },
            extra_root_certificates: access.ca.map(read_ca).transpose()?.into_iter().collect(),
            read_timeout: Some(SILENCE_TIMEOUT),
            connect_timeout: Some(CONNECT_TIMEOUT),
            user_agent: concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        // `Client::new` would go on without these settings when they are wrong.
        let client = Client::try_from(config).map_err(|error| {
            let cause = crate::errors::chain(&error);
            Problem::Setup(format!(
                "no TLS client can be made ({cause}); check oci_ca (WASMCLOUD_OCI_CA) and the certificates of this \
                 machine (SSL_CERT_FILE)"
            ))
        })?;
        let auth = match access.credentials {
            None => RegistryAuth::Anonymous,
            Some(Credentials::Basic { username, password }) => {
                RegistryAuth::Basic(username, password.expose().to_owned())
            }
            // The client would panic on what no header can carry.
            Some(Credentials::Token(token)) if token.expose().bytes().all(|byte| byte.is_ascii_graphic()) => {
                RegistryAuth::Bearer(token.expose().to_owned())
            }
            Some(Credentials::Token(_)) => {
                return Err(Problem::Setup(
                    "the token of its login holds characters no token may have; put it again".into(),
                ));
            }
        };
        Ok(Self { client, image, auth, place: access.place })
    }

    /// Logs in as the registry wants it: not at all, with a password, or with a token got for it.
    pub async fn log_in(&self) -> Result<(), Problem> {
        let answer = self.client.auth(self.image.name(), &self.auth, RegistryOperation::Pull).await;
        answer.map(drop).map_err(|error| Problem::of(error, self.place))
    }

    /// Fetches the manifest the image's name leads to, or the one with a digest.
    pub async fn manifest(&self, digest: Option<&Digest>) -> Result<Bytes, Problem> {
        let exact = digest.map(|digest| self.image.name().clone_with_digest(digest.to_string()));
        let name = exact.as_ref().unwrap_or(self.image.name());
        match self.client.pull_manifest_raw(name, &self.auth, &MANIFEST_TYPES).await {
            Ok((body, _)) => Ok(body),
            Err(error) => Err(Problem::of(error, self.place)),
        }
    }

    /// Fetches a layer, and tells `came` of every piece.
    pub async fn layer(&self, layer: &Layer, mut came: impl FnMut(usize)) -> Result<Bytes, Problem> {
        let digest = layer.digest.to_string();
        // By the digest alone: the addresses a manifest may name beside it are nobody's we know.
        let stream = self.client.pull_blob_stream(self.image.name(), digest.as_str()).await;
        let mut stream = stream.map_err(|error| Problem::of(error, self.place))?;
        let mut content = Vec::with_capacity(usize::try_from(layer.size.min(ROOM_BYTES_MAX)).unwrap_or_default());
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| Problem::of_stream(&error))?;
            // More than announced cannot be what the digest names, and must not fill the memory.
            if (content.len() + piece.len()) as u64 > layer.size {
                return Err(Problem::Digest);
            }
            content.extend_from_slice(&piece);
            came(piece.len());
        }
        Ok(content.into())
    }
}

fn read_ca(path: &Path) -> Result<Certificate, Problem> {
    let wrong = |cause: String| {
        Problem::Setup(format!(
            "the certificates of {} cannot be used ({cause}); correct oci_ca (WASMCLOUD_OCI_CA)",
            path.display()
        ))
    };
    let data = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    if !data.windows(27).any(|part| part == b"-----BEGIN CERTIFICATE-----") {
        return Err(wrong("it holds no PEM certificate".into()));
    }
    Ok(Certificate { encoding: CertificateEncoding::Pem, data })
}
