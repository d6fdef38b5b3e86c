//! One registry, spoken to for one pull or push: the home of the OCI client.
//!
//! A [`Remote`] is made for each, because the client keeps the first login it is given for ever, and so that
//! changed certificates count at once. The client verifies every manifest and every layer against its digest.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use oci_client::{
    Client, RegistryOperation,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};
use reqwest::header::HeaderValue;
use tokio::sync::watch;

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
/// The same while something is sent: a registry says nothing until a piece has arrived, over whatever line.
pub const UPLOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// What is sent at a time. Registries need not take smaller pieces than they announce, and all take these.
const PIECE_BYTES: usize = 4 * 1024 * 1024;
/// A manifest may say any size; room is made for what comes.
const ROOM_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How a registry is reached.
pub struct Access<'a> {
    pub insecure: bool,
    pub ca: Option<&'a Path>,
    pub credentials: Option<Credentials>,
    pub place: Place,
    pub purpose: Purpose,
}

/// What a registry is spoken to for; it may let somebody do one and not the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Pull,
    Push,
}

/// A registry, for one image.
pub struct Remote {
    client: Client,
    image: Image,
    auth: RegistryAuth,
    place: Place,
    purpose: Purpose,
}

impl Remote {
    /// Prepares the client. Blocks on the file system: it reads the certificates of this machine.
    pub fn new(image: Image, access: Access<'_>) -> Result<Self, Problem> {
        let config = ClientConfig {
            protocol: if access.insecure { ClientProtocol::Http } else { ClientProtocol::Https },
            extra_root_certificates: access.ca.map(read_ca).transpose()?.into_iter().collect(),
            read_timeout: Some(match access.purpose {
                Purpose::Pull => SILENCE_TIMEOUT,
                Purpose::Push => UPLOAD_TIMEOUT,
            }),
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
        Ok(Self { client, image, auth, place: access.place, purpose: access.purpose })
    }

    /// Logs in as the registry wants it: not at all, with a password, or with a token got for it.
    pub async fn log_in(&self) -> Result<(), Problem> {
        let operation = match self.purpose {
            Purpose::Pull => RegistryOperation::Pull,
            Purpose::Push => RegistryOperation::Push,
        };
        let answer = self.client.auth(self.image.name(), &self.auth, operation).await;
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

    /// Whether the registry has some content already, so that it need not be sent. A registry that does not say has not.
    pub async fn has(&self, digest: &Digest) -> bool {
        self.client.blob_exists(self.image.name(), &digest.to_string()).await.unwrap_or(false)
    }

    /// Sends content, and tells `sent` how much of it has arrived.
    pub async fn send(&self, digest: &Digest, content: &Bytes, mut sent: impl FnMut(u64)) -> Result<(), Problem> {
        let digest = digest.to_string();
        let (arrived, mut told) = watch::channel(0_u64);
        // The client asks for a piece when the one before it has arrived.
        let pieces = stream::unfold((content.clone(), 0), move |(mut rest, before)| {
            arrived.send_replace(before);
            let piece = rest.split_to(PIECE_BYTES.min(rest.len()));
            let after = before + piece.len() as u64;
            std::future::ready((!piece.is_empty()).then_some((Ok(piece), (rest, after))))
        });
        let mut sending = std::pin::pin!(self.client.push_blob_stream(self.image.name(), pieces, &digest, None));
        let result = loop {
            tokio::select! {
                result = &mut sending => break result,
                Ok(()) = told.changed() => sent(*told.borrow_and_update()),
            }
        };
        match result {
            Ok(_) => {}
            // A registry that takes no pieces gets it whole.
            Err(OciDistributionError::SpecViolationError(_)) => {
                let whole = self.client.push_blob(self.image.name(), content.clone(), &digest).await;
                whole.map_err(|error| Problem::of(error, self.place))?;
            }
            Err(error) => return Err(Problem::of(error, self.place)),
        }
        sent(content.len() as u64);
        Ok(())
    }

    /// Puts a manifest under the image's tag: from now on that is what it means.
    pub async fn put_manifest(&self, body: Bytes, media_type: &'static str) -> Result<(), Problem> {
        let media_type = HeaderValue::from_static(media_type);
        let answer = self.client.push_manifest_raw(self.image.name(), body, media_type).await;
        answer.map(drop).map_err(|error| Problem::of(error, self.place))
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
