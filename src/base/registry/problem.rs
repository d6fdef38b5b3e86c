//! Problems between this host and a registry, in words that say what to do.
//!
//! The errors of the OCI client name URLs, which after a redirect may hold signatures, and repeat
//! what servers send. [`Problem::of`] sorts them by what an operator has to do, and takes over of
//! their text the innermost cause only.

use std::{error::Error, io, time::Duration};

use oci_client::errors::{DigestError, OciDistributionError, OciEnvelope, OciErrorCode};

use super::{
    ARTIFACT_BYTES_MAX,
    credentials::Place,
    image::ImageError,
    oci::{CONNECT_TIMEOUT, SILENCE_TIMEOUT, UPLOAD_TIMEOUT},
};

/// Longest part of a server's own words in a message.
const QUOTE_CHARS_MAX: usize = 200;

/// A pull that failed.
#[derive(Debug, thiserror::Error)]
#[error("image {reference} not pulled from registry {registry}: {}", problem.text(registry))]
pub struct PullError {
    pub registry: String,
    /// As the registry knows it.
    pub reference: String,
    pub problem: Problem,
}

/// A push that failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(
        "{0} names an image by its digest, which nobody can choose; push it under a tag (:0.1.0)"
    )]
    ByDigest(String),
    #[error("the manifest of {0} cannot be written: {1}")]
    Manifest(String, serde_json::Error),
    #[error("image {reference} not pushed to registry {registry}: {}", problem.text_of_push(registry))]
    Registry { registry: String, reference: String, problem: Problem },
}

/// Why a pull or a push failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// No connection.
    Unreachable(String),
    /// The registry's name is not known.
    Unresolved(String),
    /// It stopped to say anything.
    Silent,
    /// Not complete in time.
    Deadline(Duration),
    /// Other pulls took all the time; the registry was not asked.
    Queued(Duration),
    /// Its certificate is not trusted.
    Untrusted(String),
    /// It answered TLS with something else.
    NotTls,
    /// Plain HTTP was spoken to a server of TLS.
    Tls,
    /// It refuses who we are.
    Refused(Place),
    /// It knows no such image.
    Missing,
    /// It answered something else than success.
    Status {
        code: u16,
        message: String,
    },
    /// The connection broke, or what came makes no sense.
    Broken(String),
    /// A manifest that cannot be read.
    Manifest(String),
    /// A manifest or a layer of a kind that is no actor and no provider.
    MediaType(String),
    /// An index without an entry for us.
    Platform {
        wanted: String,
        offered: String,
    },
    /// Content that is not what its digest says.
    Digest,
    TooLarge,
    /// It trickles: slower than so many bytes per second.
    Slow(u64),
    /// It wants a login at a server that gets none.
    Realm {
        realm: String,
        cause: &'static str,
    },
    /// This side is not in order.
    Setup(String),
}

impl Problem {
    /// Sorts an error of the client. `login` is what the request was made with.
    pub fn of(error: OciDistributionError, login: Place) -> Self {
        match error {
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_) => Problem::Refused(login),
            OciDistributionError::ServerError { code, message, .. } => {
                Self::of_status(code, &message, login)
            }
            OciDistributionError::RegistryError { envelope, .. } => {
                Self::of_envelope(&envelope, login)
            }
            OciDistributionError::DigestError(DigestError::VerificationError { .. }) => {
                Problem::Digest
            }
            // The enum hides these two behind their own causes.
            OciDistributionError::RequestError(error) => Self::of_cause(&error),
            OciDistributionError::IoError(error) => Self::of_cause(&error),
            other => Self::of_cause(&other),
        }
    }

    /// Sorts an error of a request, or of its body.
    pub fn of_request(error: &reqwest::Error) -> Self {
        Self::of_cause(error)
    }

    /// Sorts an answer that is no success. `login` is what the request was made with.
    pub fn of_answer(code: u16, body: &[u8], login: Place) -> Self {
        match serde_json::from_slice::<OciEnvelope>(body) {
            Ok(envelope) if code != 401 && (400..500).contains(&code) => {
                Self::of_envelope(&envelope, login)
            }
            _ => Self::of_status(code, &String::from_utf8_lossy(body), login),
        }
    }

    fn of_status(code: u16, message: &str, login: Place) -> Self {
        match code {
            401 | 403 => Problem::Refused(login),
            404 => Problem::Missing,
            400 if message.contains("HTTPS server") => Problem::Tls,
            _ => Problem::Status { code, message: quote(message) },
        }
    }

    fn of_envelope(envelope: &OciEnvelope, login: Place) -> Self {
        let messages: Vec<&str> =
            envelope.errors.iter().map(|error| error.message.as_str()).collect();
        let message = quote(&messages.join("; "));
        match envelope.errors.first().map(|error| &error.code) {
            Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => Problem::Refused(login),
            Some(
                OciErrorCode::ManifestUnknown
                | OciErrorCode::NameUnknown
                | OciErrorCode::NotFound
                | OciErrorCode::BlobUnknown
                | OciErrorCode::ManifestBlobUnknown,
            ) => Problem::Missing,
            Some(OciErrorCode::Toomanyrequests) => Problem::Status { code: 429, message },
            _ => Problem::Status { code: 400, message },
        }
    }

    fn of_cause(error: &(dyn Error + 'static)) -> Self {
        let innermost = causes(error).last().map(cause).unwrap_or_default();
        let request = causes(error).find_map(|error| error.downcast_ref::<reqwest::Error>());
        for error in causes(error) {
            match error.downcast_ref::<rustls::Error>() {
                Some(rustls::Error::InvalidMessage(_)) => return Problem::NotTls,
                Some(error) => return Problem::Untrusted(error.to_string()),
                None => {}
            }
            if let Some(DigestError::VerificationError { .. }) = error.downcast_ref() {
                return Problem::Digest;
            }
            // The connector's own error type is private; its text is not.
            if error.to_string() == "dns error" {
                return Problem::Unresolved(innermost);
            }
        }
        match request {
            Some(request) if request.is_connect() && request.is_timeout() => Problem::Unreachable(
                format!("no connection within {} seconds", CONNECT_TIMEOUT.as_secs()),
            ),
            Some(request) if request.is_connect() => Problem::Unreachable(innermost),
            Some(request) if request.is_timeout() => Problem::Silent,
            _ => Problem::Broken(innermost),
        }
    }

    /// Whether the registry failed to say what it has, as opposed to having said something.
    pub fn is_outage(&self) -> bool {
        match self {
            Problem::Unreachable(_)
            | Problem::Unresolved(_)
            | Problem::Silent
            | Problem::Deadline(_)
            | Problem::Untrusted(_)
            | Problem::NotTls
            | Problem::Tls
            | Problem::Broken(_)
            | Problem::Slow(_)
            | Problem::Setup(_) => true,
            Problem::Status { code, .. } => *code >= 500 || matches!(code, 408 | 429),
            Problem::Queued(_)
            | Problem::Refused(_)
            | Problem::Missing
            | Problem::Manifest(_)
            | Problem::MediaType(_)
            | Problem::Platform { .. }
            | Problem::Digest
            | Problem::Realm { .. }
            | Problem::TooLarge => false,
        }
    }

    /// Returns the problem and the remedy as text, for a registry.
    pub fn text(&self, registry: &str) -> String {
        match self {
            Problem::Unreachable(cause) => {
                format!("it cannot be reached ({cause}); check that it runs, and its host and port")
            }
            Problem::Unresolved(cause) => {
                format!("its name cannot be resolved ({cause}); check the name, and the DNS of this machine")
            }
            Problem::Silent => format!(
                "it said nothing for {} seconds; check the registry and the network, try again",
                SILENCE_TIMEOUT.as_secs()
            ),
            Problem::Queued(after) => format!(
                "other pulls did not end within {} ms, so it was not begun; try again later, or allow more time (pull_timeout_ms)",
                after.as_millis()
            ),
            Problem::Deadline(after) => format!(
                "it did not deliver within {} ms; try again, or allow more time (pull_timeout_ms, \
                 WASMCLOUD_PULL_TIMEOUT_MS)",
                after.as_millis()
            ),
            Problem::Untrusted(cause) => format!(
                "its TLS certificate is not trusted ({cause}); name the authority that signed it (oci_ca, \
                 WASMCLOUD_OCI_CA), or if it is meant to be reached over plain HTTP, list {registry} in \
                 allowed_insecure (WASMCLOUD_OCI_ALLOWED_INSECURE; --insecure of a command)"
            ),
            Problem::NotTls => format!(
                "it does not speak TLS; if it is meant to be reached over plain HTTP, list {registry} in \
                 allowed_insecure (WASMCLOUD_OCI_ALLOWED_INSECURE; --insecure of a command)"
            ),
            Problem::Tls => format!("it speaks TLS; take {registry} out of allowed_insecure (leave --insecure away)"),
            Problem::Refused(login) => format!(
                "it refuses {login}; give a login over the control interface (registries put), in the settings \
                 (oci_registry, oci_user, oci_password), with `docker login {registry}`, or to a command (--user, \
                 --password), and check that it may read the image"
            ),
            Problem::Missing => "it has no such image; check repository and tag, and push it".into(),
            Problem::Status { code, message } if message.is_empty() => {
                format!("it answers with status {code}; see its log")
            }
            Problem::Status { code, message } => format!("it answers with status {code} ({message}); see its log"),
            Problem::Broken(cause) => {
                format!("the transfer failed ({cause}); check the registry and the network, try again")
            }
            Problem::Manifest(cause) => {
                format!("its manifest cannot be used ({cause}); push the image again, with a tool for OCI artifacts")
            }
            Problem::MediaType(found) => format!(
                "it is of the type {found}, which neither actors nor providers have; check that it is not the image \
                 of a container"
            ),
            Problem::Platform { wanted, offered } => {
                format!("it has nothing for {wanted}, only for {offered}; push it for this platform too")
            }
            Problem::Digest => {
                "what it sent is not what the digest says; push the image again, and check proxies on the way".into()
            }
            Problem::TooLarge => format!("it has more than the {ARTIFACT_BYTES_MAX} bytes an artifact may have"),
            Problem::Slow(slowest) => {
                format!("it sends less than {slowest} bytes per second; check the registry and the network, try again")
            }
            Problem::Realm { realm, cause } => {
                format!("it wants its tokens to be got from {realm}: {cause}")
            }
            Problem::Setup(cause) => cause.clone(),
        }
    }

    /// The same where something was to be sent.
    fn text_of_push(&self, registry: &str) -> String {
        match self {
            Problem::Refused(login) => format!(
                "it refuses {login}; give another (--user and --password, or `docker login {registry}`), and check that \
                 it may write to the repository"
            ),
            Problem::Missing => {
                "it has no such repository, or does not take images; check the name, and make the repository first if \
                 it wants that"
                    .into()
            }
            Problem::Silent => format!(
                "it said nothing for {} seconds; check the registry and the network, try again",
                UPLOAD_TIMEOUT.as_secs()
            ),
            other => other.text(registry),
        }
    }
}

/// Lists an error and its causes, outermost first.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| inner(*error))
}

/// Returns the cause of an error; for an [`io::Error`] the error it wraps.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    }
}

/// The text of an error, without the URL that those of the HTTP client hold.
fn cause(error: &(dyn Error + 'static)) -> String {
    if error.is::<reqwest::Error>() {
        "the request failed".to_owned()
    } else {
        quote(&error.to_string())
    }
}

/// A server's words, as far as they fit into one line.
fn quote(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .take(QUOTE_CHARS_MAX)
        .collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_outages() {
        let server = |code, message: &str| {
            let error = OciDistributionError::ServerError {
                code,
                url: "u".into(),
                message: message.into(),
            };
            Problem::of(error, Place::Nowhere)
        };
        assert_eq!(server(403, ""), Problem::Refused(Place::Nowhere));
        assert_eq!(server(404, ""), Problem::Missing);
        assert_eq!(server(400, "Client sent an HTTP request to an HTTPS server.\n"), Problem::Tls);
        assert!(server(503, "").is_outage() && server(429, "").is_outage());
        assert!(
            !server(400, "").is_outage()
                && !server(404, "").is_outage()
                && !server(403, "").is_outage()
        );
        assert_eq!(quote("a\nb\u{1b}[31m"), "a b [31m");
    }

    #[test]
    fn errors_of_registries_are_sorted_by_their_code() {
        let error = |code: &str| {
            let envelope = serde_json::from_str(&format!(
                r#"{{"errors":[{{"code":"{code}","message":"m"}}]}}"#
            ))
            .unwrap();
            Problem::of(
                OciDistributionError::RegistryError { envelope, url: "u".into() },
                Place::Docker,
            )
        };
        assert_eq!(error("MANIFEST_UNKNOWN"), Problem::Missing);
        assert_eq!(error("DENIED"), Problem::Refused(Place::Docker));
        assert_eq!(error("TOOMANYREQUESTS"), Problem::Status { code: 429, message: "m".into() });
        assert_eq!(error("OWN"), Problem::Status { code: 400, message: "m".into() });
    }

    #[test]
    fn causes_are_found_inside_of_io_errors() {
        let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let wrapped = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, plain));
        assert_eq!(Problem::of_cause(&wrapped), Problem::NotTls);
        let digest = DigestError::VerificationError { expected: "a".into(), actual: "b".into() };
        assert_eq!(Problem::of_cause(&io::Error::other(digest)), Problem::Digest);
        let refused = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(Problem::of_cause(&refused), Problem::Broken("connection reset".into()));
    }
}
