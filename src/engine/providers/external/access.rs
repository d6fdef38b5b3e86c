//! How a provider process gets to NATS: what the settings of the `prov_rpc` connection become in
//! host data.
//!
//! Host data has room for one URL, a user JWT and its seed. The use that providers make of that
//! depends on the library they were built with, so not every way to log in that works for the host
//! works for them:
//!
//! | setting | passed on as | works for |
//! |---|---|---|
//! | no login | empty texts | all |
//! | JWT and seed, or a creds file | JWT and seed | all |
//! | user and password, or a token | part of the URL | Go (its NATS client reads it), not Rust: its clients of 2022–2024 keep the URL's user for nobody |
//! | bare seed | seed alone | none known: the clients answer with an empty JWT |
//! | several servers | the first one | all; a text with commas is no URL for the Rust clients. They learn the others from the first |
//! | `tls://` | the URL's scheme | all |
//! | own CA | `SSL_CERT_FILE` in the environment | Rust clients with the system's certificates, and Go |
//! | client certificate | nothing | none: host data has no room for it |
//!
//! [`Access::limits`] says so in words, for a warning when a provider starts.

use std::{fmt::Write as _, path::Path};

use lattice_base::config::{Auth, Connection, Secret};
use lattice_protocol::identity::operator::parts_of_creds;

/// The variable by which OpenSSL, rustls with the system's certificates, and Go find certificates
/// to trust.
const CERTIFICATES_VARIABLE: &str = "SSL_CERT_FILE";
/// A creds file has a JWT of a few kilobytes and a seed.
const CREDS_BYTES_MAX: usize = 1 << 20;

/// The data that a provider process needs to reach NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// May hold a password.
    pub url: Secret,
    /// Empty if there is none.
    pub jwt: Secret,
    /// Empty if there is none.
    pub seed: Secret,
    /// Variables for the environment of the process.
    pub environment: Vec<(String, String)>,
    /// Features of the connection that providers cannot be given, in words for the log.
    pub limits: Vec<&'static str>,
}

/// Why a provider cannot be told how to log in.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error(
        "cannot read the credentials for providers from {path}: {cause}; check prov_rpc_creds, or rpc_creds where that is not set"
    )]
    Unreadable { path: String, cause: std::io::Error },
    #[error(
        "{path} holds no user JWT and seed; check prov_rpc_creds, or rpc_creds where that is not set, which wants a file as made by nsc"
    )]
    NotCredentials { path: String },
}

impl Access {
    /// Translates the settings. Reads a creds file each time, because those are exchanged while
    /// hosts run.
    pub async fn find(connection: &Connection) -> Result<Self, AccessError> {
        let mut limits = Vec::new();
        let mut environment = Vec::new();
        let (mut login, mut jwt, mut seed) = (String::new(), Secret::new(""), Secret::new(""));
        match &connection.auth {
            Auth::Anonymous => {}
            Auth::JwtAndSeed { jwt: user_jwt, seed: user_seed } => {
                (jwt, seed) = (user_jwt.clone(), user_seed.clone());
            }
            Auth::Creds(path) => (jwt, seed) = read_creds(path).await?,
            Auth::Nkey { seed: user_seed } => {
                seed = user_seed.clone();
                limits.push(
                    "providers cannot log in to NATS with a bare seed; set prov_rpc_jwt and prov_rpc_seed, or prov_rpc_creds",
                );
            }
            Auth::User { user, password } => {
                login = format!("{}:{}@", percent_encode(user), percent_encode(password.expose()));
                limits.push(
                    "providers built with the Rust libraries cannot log in to NATS with user and password; \
                     set prov_rpc_jwt and prov_rpc_seed, or prov_rpc_creds",
                );
            }
            Auth::Token(token) => {
                login = format!("{}@", percent_encode(token.expose()));
                limits.push(
                    "providers built with the Rust libraries cannot log in to NATS with a token; \
                     set prov_rpc_jwt and prov_rpc_seed, or prov_rpc_creds",
                );
            }
        }
        if let Some(ca) = connection.tls.ca.as_deref().and_then(Path::to_str) {
            environment.push((CERTIFICATES_VARIABLE.to_owned(), absolute(ca)));
        }
        if connection.tls.cert.is_some() {
            limits.push("providers cannot be given the TLS client certificate of prov_rpc");
        }
        // There is at least one server in a checked configuration; the libraries have a default for
        // none.
        let first = connection.servers.first().map(String::as_str).unwrap_or_default();
        let url = match first.split_once("://") {
            Some((scheme, address)) => format!("{scheme}://{login}{address}"),
            None => first.to_owned(),
        };
        Ok(Self { url: Secret::new(url), jwt, seed, environment, limits })
    }
}

/// The process has the host's working directory, but need not keep it.
fn absolute(path: &str) -> String {
    std::path::absolute(path)
        .map_or_else(|_| path.to_owned(), |path| path.to_string_lossy().into_owned())
}

async fn read_creds(path: &Path) -> Result<(Secret, Secret), AccessError> {
    let name = path.display().to_string();
    match tokio::fs::read_to_string(path).await {
        Ok(text) => parse_creds(&text).ok_or(AccessError::NotCredentials { path: name }),
        Err(cause) => Err(AccessError::Unreadable { path: name, cause }),
    }
}

/// Reads the two blocks of a creds file.
fn parse_creds(text: &str) -> Option<(Secret, Secret)> {
    if text.len() > CREDS_BYTES_MAX {
        return None;
    }
    let (Some(jwt), Some(seed)) = parts_of_creds(text) else { return None };
    nkeys::KeyPair::from_seed(seed).is_ok().then(|| (Secret::new(jwt), Secret::new(seed)))
}

/// Writes a text so that it can stand anywhere in a URL.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use lattice_base::config::Tls;

    fn connection(auth: Auth) -> Connection {
        Connection {
            servers: vec!["nats://one:4222".into(), "nats://two:4222".into()],
            auth,
            tls: Tls::default(),
            ipv6: false,
            host_text: "one".into(),
            port: 4222,
        }
    }

    fn user_seed() -> String {
        nkeys::KeyPair::new_user().seed().unwrap()
    }

    #[tokio::test]
    async fn without_a_login_only_the_first_server_is_passed_on() {
        let access = Access::find(&connection(Auth::Anonymous)).await.unwrap();
        assert_eq!(access.url.expose(), "nats://one:4222");
        assert_eq!((access.jwt.expose(), access.seed.expose()), ("", ""));
        assert!(access.limits.is_empty() && access.environment.is_empty());
    }

    #[tokio::test]
    async fn jwt_and_seed_come_from_settings_or_from_a_creds_file() {
        let seed = user_seed();
        let auth = Auth::JwtAndSeed { jwt: Secret::new("j.w.t"), seed: Secret::new(&*seed) };
        let access = Access::find(&connection(auth)).await.unwrap();
        assert_eq!((access.jwt.expose(), access.seed.expose()), ("j.w.t", &*seed));

        let file = tempfile::NamedTempFile::new().unwrap();
        let creds = format!(
            "-----BEGIN NATS USER JWT-----\r\nj.w.t\r\n------END NATS USER JWT------\r\n\r\n\
             ************************* IMPORTANT *************************\r\n\r\n\
             -----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\r\n"
        );
        std::fs::write(file.path(), creds).unwrap();
        assert_eq!(
            Access::find(&connection(Auth::Creds(file.path().into()))).await.unwrap(),
            access
        );
    }

    #[tokio::test]
    async fn a_file_without_credentials_is_named() {
        let missing = Access::find(&connection(Auth::Creds(PathBuf::from("/no/such.creds"))))
            .await
            .unwrap_err();
        assert!(
            missing.to_string().contains("/no/such.creds")
                && missing.to_string().contains("prov_rpc_creds")
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "-----BEGIN NATS USER JWT-----\n------END NATS USER JWT------\n",
        )
        .unwrap();
        let empty = Access::find(&connection(Auth::Creds(file.path().into()))).await.unwrap_err();
        assert!(matches!(empty, AccessError::NotCredentials { .. }));
    }

    #[tokio::test]
    async fn what_only_some_providers_understand_is_passed_on_and_told() {
        let user = Auth::User { user: "me".into(), password: Secret::new("p@ss/w:rd%é") };
        let access = Access::find(&connection(user)).await.unwrap();
        assert_eq!(access.url.expose(), "nats://me:p%40ss%2Fw%3Ard%25%C3%A9@one:4222");
        assert_eq!(access.limits.len(), 1);
        assert!(!format!("{access:?}").contains("p%40ss"));

        let token = Access::find(&connection(Auth::Token(Secret::new("t k")))).await.unwrap();
        assert_eq!((token.url.expose(), token.limits.len()), ("nats://t%20k@one:4222", 1));
        let nkey =
            Access::find(&connection(Auth::Nkey { seed: Secret::new(user_seed()) })).await.unwrap();
        assert_eq!((nkey.jwt.expose(), nkey.seed.expose().len(), nkey.limits.len()), ("", 58, 1));
    }

    #[tokio::test]
    async fn tls_goes_into_the_url_and_its_ca_into_the_environment() {
        let mut tls = connection(Auth::Anonymous);
        tls.servers = vec!["tls://[::1]:4443".into()];
        tls.tls = Tls {
            required: true,
            ca: Some("/etc/ca.pem".into()),
            cert: Some("c".into()),
            key: Some("k".into()),
        };
        let access = Access::find(&tls).await.unwrap();
        assert_eq!(access.url.expose(), "tls://[::1]:4443");
        assert_eq!(access.environment, [("SSL_CERT_FILE".to_owned(), "/etc/ca.pem".to_owned())]);
        assert_eq!(access.limits.len(), 1);
    }
}
