//! Why a request has no response, in words that name the next step.

use std::{error::Error, io};

use reqwest::{Method, Url};

use super::{
    resolve::LookupError,
    rules::{Refused, Way},
    settings::TrustStore,
};
use lattice_protocol::{contracts::httpclient::FailureCause, errors::chain};

/// The reason why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Refused(#[from] Refused),
    #[error("{0}")]
    Request(String),
    #[error(
        "the request body has more than {limit} bytes; the link value max_request_body allows \
         larger ones"
    )]
    RequestTooLarge { limit: u64 },
    #[error(
        "the response body has more than {limit} bytes; the link value max_body allows larger ones"
    )]
    TooLarge { limit: u64 },
    #[error(
        "the name {name} cannot be resolved: {cause}; check the spelling and the DNS of the host's machine"
    )]
    Dns { name: String, cause: String },
    #[error("connection refused: nothing listens there, or a firewall rejects it")]
    ConnectionRefused,
    #[error(
        "no connection within the time for it; is the server reachable from the host? (link value connect_timeout_ms)"
    )]
    ConnectTimeout,
    #[error("TLS: {cause}. {advice}")]
    Tls { cause: String, advice: &'static str, is_certificate: bool },
    #[error(
        "the proxy did not take it: {0}; check the link value proxy, or the proxy settings of the host's environment"
    )]
    Proxy(String),
    #[error(
        "{phase} when the time of the call was over (link value timeout_ms, setting rpc_timeout_ms)"
    )]
    Timeout { phase: String },
    #[error(
        "more than {limit} redirects, the last one to {last}; the link value redirects allows more"
    )]
    Redirects { limit: u64, last: String },
    #[error(
        "{limit} requests of this link are in work, and none ended before the time of the call was over"
    )]
    Busy { limit: usize },
    #[error("{0}")]
    Other(String),
}

/// Advice for a certificate of an unknown authority.
const UNKNOWN_ISSUER: &str = "If the server's certificate comes from a private authority, name that with the link value ca_file or ca";
/// Advice for a system without any authority.
const NO_ROOTS: &str = "This machine has no trusted certificates: install its ca-certificates package, point SSL_CERT_FILE to a PEM \
                        file, or set the link value ca_file";
const OTHER_TLS: &str = "Check the server's certificate and that the port speaks TLS";

impl Failure {
    /// Explains an error of the HTTP client.
    pub(super) fn of(error: reqwest::Error, way: Way, trust: &TrustStore) -> Self {
        // The URL may carry secrets; the reader of this knows it anyway.
        let error = error.without_url();
        let mut source: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(current) = source {
            if let Some(refused) = current.downcast_ref::<Refused>() {
                return Self::Refused(refused.clone());
            }
            if let Some(lookup) = current.downcast_ref::<LookupError>() {
                return Self::Dns { name: lookup.name.clone(), cause: lookup.cause.to_string() };
            }
            if let Some(tls) = current.downcast_ref::<rustls::Error>() {
                return Self::tls(tls, trust);
            }
            let io = current.downcast_ref::<io::Error>();
            if way == Way::Direct
                && io.is_some_and(|io| io.kind() == io::ErrorKind::ConnectionRefused)
            {
                return Self::ConnectionRefused;
            }
            // An I/O error does not name what it wraps as its source, but the source of that.
            source = match io.and_then(io::Error::get_ref) {
                Some(wrapped) => Some(wrapped),
                None => current.source(),
            };
        }
        match way {
            Way::Proxy if error.is_connect() => Self::Proxy(chain(&error)),
            _ if error.is_connect() && error.is_timeout() => Self::ConnectTimeout,
            _ => Self::Other(chain(&error)),
        }
    }

    /// The kind of failure, as components are told.
    pub(super) fn cause(&self) -> FailureCause {
        match self {
            Self::Refused(refused) => refused.cause(),
            Self::Request(_) => FailureCause::HttpRequestUriInvalid,
            Self::RequestTooLarge { .. } => FailureCause::HttpRequestBodySize,
            Self::TooLarge { .. } => FailureCause::HttpResponseBodySize,
            Self::Dns { .. } => FailureCause::DnsError,
            Self::ConnectionRefused => FailureCause::ConnectionRefused,
            Self::ConnectTimeout => FailureCause::ConnectionTimeout,
            Self::Tls { is_certificate: true, .. } => FailureCause::TlsCertificateError,
            Self::Tls { .. } => FailureCause::TlsProtocolError,
            Self::Timeout { .. } => FailureCause::HttpResponseTimeout,
            Self::Busy { .. } => FailureCause::ConnectionLimitReached,
            Self::Proxy(_) | Self::Redirects { .. } | Self::Other(_) => FailureCause::InternalError,
        }
    }

    fn tls(error: &rustls::Error, trust: &TrustStore) -> Self {
        use rustls::{CertificateError, Error};
        let advice = match error {
            Error::InvalidCertificate(CertificateError::UnknownIssuer)
                if matches!(trust, TrustStore::Empty(_)) =>
            {
                NO_ROOTS
            }
            // A bad signature is mostly that of another authority with the name of one that is
            // trusted.
            Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => UNKNOWN_ISSUER,
            _ => OTHER_TLS,
        };
        let is_certificate = matches!(error, Error::InvalidCertificate(_));
        Self::Tls { cause: error.to_string(), advice, is_certificate }
    }
}

/// A request for people: without user, password, query and fragment, any of which may be a secret.
pub(super) fn shown(method: &Method, url: &Url) -> String {
    format!("{method} {}", shown_url(url))
}

/// A URL for people.
pub(super) fn shown_url(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_url_are_not_shown() {
        let url = Url::parse("https://me:secret@example.org:8443/a/b?token=secret#secret").unwrap();
        assert_eq!(shown(&Method::PUT, &url), "PUT https://example.org:8443/a/b");
    }
}
