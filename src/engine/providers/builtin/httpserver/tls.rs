//! The certificate of an address, from files or from link values.

use std::{fmt, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::super::LinkError;
use crate::providers::bounds::LinkPaths;

/// HTTP/2 first, for all who can.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Where certificate and key are. Links that share an address name the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub certificate: Pem,
    pub key: Pem,
}

/// A file in PEM form, or its text.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    File(String),
    Inline(String),
}

impl Pem {
    async fn read(&self, name: &str, paths: &LinkPaths) -> Result<Vec<u8>, LinkError> {
        match self {
            // Link values are often written in one line.
            Self::Inline(text) => Ok(text.replace("\\n", "\n").into_bytes()),
            Self::File(path) => paths.read(name, path).await,
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(path),
            Self::Inline(_) => f.write_str("***"),
        }
    }
}

impl Source {
    /// Reads and checks certificate and key. An error in a file may be put right later.
    pub async fn load(&self, paths: &LinkPaths) -> Result<Arc<ServerConfig>, LinkError> {
        let certificate = self.certificate.read("tls_cert_file", paths).await?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&certificate)
            .collect::<Result<_, _>>()
            .map_err(|error| self.unusable("certificate", error))?;
        if chain.is_empty() {
            return Err(self.unusable("certificate", "there is none in it"));
        }
        let key = self.key.read("tls_priv_key_file", paths).await?;
        let key =
            PrivateKeyDer::from_pem_slice(&key).map_err(|error| self.unusable("key", error))?;
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| self.unusable("configuration", error))?
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .map_err(|error| self.unusable("certificate with its key", error))?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        // Sessions continue without a table of them here.
        config.ticketer =
            aws_lc_rs::Ticketer::new().map_err(|error| self.unusable("session key", error))?;
        Ok(Arc::new(config))
    }

    fn unusable(&self, name: &str, cause: impl fmt::Display) -> LinkError {
        let text =
            format!("the TLS {name} of the link cannot be used: {cause}; it has to be in PEM form");
        match (&self.certificate, &self.key) {
            (Pem::Inline(_), Pem::Inline(_)) => LinkError::Values(text),
            _ => LinkError::Unavailable(text),
        }
    }
}
