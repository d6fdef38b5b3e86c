//! One registry, spoken to for one pull or push: the home of the OCI client, which does the
//! sending.
//!
//! A [`Remote`] is made for each, because the client keeps the first login it is given for ever,
//! and so that changed certificates count at once. [`super::http`] does the reading, within bounds.

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use oci_client::{
    Client,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};
use reqwest::header::HeaderValue;
use tokio::sync::watch;

use super::{
    credentials::Place,
    digest::Digest,
    http::{Access, Http, Reading},
    image::Image,
    manifest::Layer,
    problem::Problem,
};

/// Longest time until a connection stands, name lookup and TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time without a byte.
pub const SILENCE_TIMEOUT: Duration = Duration::from_secs(15);
/// The same while something is sent: a registry says nothing until a piece has arrived, over
/// whatever line.
pub const UPLOAD_TIMEOUT: Duration = Duration::from_secs(120);
/// The size of one piece of an upload, in bytes. Registries need not take smaller pieces than they
/// announce, and all take these.
const PIECE_BYTES: usize = 4 * 1024 * 1024;

/// The purpose of a connection to a registry; a login may be allowed one and not the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Pull,
    Push,
}

/// A registry, for one image.
pub struct Remote {
    http: Http,
    client: Client,
    image: Image,
    place: Place,
}

impl Remote {
    /// Prepares the clients. Blocks on the file system: it reads the certificates of this machine.
    pub fn new(image: Image, reading: &Reading) -> Result<Self, Problem> {
        let name = image.name();
        let http = Http::new(name.resolve_registry(), name.repository(), reading)?;
        let authority = (!reading.authorities.is_empty()).then(|| Certificate {
            encoding: CertificateEncoding::Pem,
            data: reading.authorities.to_vec(),
        });
        let config = ClientConfig {
            protocol: if reading.insecure { ClientProtocol::Http } else { ClientProtocol::Https },
            extra_root_certificates: authority.into_iter().collect(),
            read_timeout: Some(UPLOAD_TIMEOUT),
            connect_timeout: Some(CONNECT_TIMEOUT),
            user_agent: concat!("lattice-host/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        // `Client::new` would go on without these settings when they are wrong.
        let client = Client::try_from(config).map_err(|error| super::http::setup(&error))?;
        Ok(Self { http, client, image, place: reading.place })
    }

    /// Logs in as the registry wants it; both clients use the access that it gives.
    pub async fn log_in(&mut self, reading: &Reading) -> Result<(), Problem> {
        self.http.log_in(reading).await?;
        let auth = match self.http.access() {
            Access::Anonymous => RegistryAuth::Anonymous,
            Access::Basic { username, password } => {
                RegistryAuth::Basic(username.clone(), password.expose().to_owned())
            }
            // The client would panic on what no header can carry; reading refuses it by name.
            Access::Token(token) => RegistryAuth::Bearer(token.expose().to_owned()),
        };
        let registry = self.image.name().resolve_registry();
        self.client.store_auth_if_needed(registry, &auth).await;
        Ok(())
    }

    /// Fetches the manifest of a tag or a digest.
    pub async fn manifest(&self, reference: &str) -> Result<Bytes, Problem> {
        self.http.manifest(reference).await
    }

    /// Fetches a layer, and tells `came` of every piece.
    pub async fn layer(&self, layer: &Layer, came: impl FnMut(usize)) -> Result<Bytes, Problem> {
        // By the digest alone: the addresses a manifest may name beside it are nobody's we know.
        self.http.content(&layer.digest, layer.size, came).await
    }

    /// Whether the registry has some content already, so that it need not be sent. A registry that
    /// does not say has not.
    pub async fn has(&self, digest: &Digest) -> bool {
        self.client.blob_exists(self.image.name(), &digest.to_string()).await.unwrap_or(false)
    }

    /// Sends content, and tells `sent` how much of it has arrived.
    pub async fn send(
        &self,
        digest: &Digest,
        content: &Bytes,
        mut sent: impl FnMut(u64),
    ) -> Result<(), Problem> {
        let digest = digest.to_string();
        let (arrived, mut told) = watch::channel(0_u64);
        // The client asks for a piece when the one before it has arrived.
        let pieces = stream::unfold((content.clone(), 0), move |(mut rest, before)| {
            arrived.send_replace(before);
            let piece = rest.split_to(PIECE_BYTES.min(rest.len()));
            let after = before + piece.len() as u64;
            std::future::ready((!piece.is_empty()).then_some((Ok(piece), (rest, after))))
        });
        let mut sending =
            std::pin::pin!(self.client.push_blob_stream(self.image.name(), pieces, &digest, None));
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
                let whole =
                    self.client.push_blob(self.image.name(), content.clone(), &digest).await;
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
