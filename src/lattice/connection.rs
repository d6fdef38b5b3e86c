//! The NATS connections of a host: opened with patience, watched, and explained when something is wrong.
//!
//! [`connect`] tries until a server answers or the host is told to stop, with a growing pause and a log line per attempt.
//! What no patience can mend (refused credentials, a certificate nobody signed, an address that is none) ends it at once.
//! Afterwards the client reconnects by itself; every loss and every return is logged, and [`Nats::reconnects`] ticks so
//! that those who hold state of the server's (the metadata watch) can check it again.

use std::{fmt, sync::Arc, time::Duration};

use async_nats::{AuthError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{self, Auth};

/// How long one attempt to reach a server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses between attempts grow from the first to the last of these.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// How many messages a subscription may hold before the client drops them and says so. A host's own queues are far
/// shorter; this only covers bursts between two turns of its loops.
const SUBSCRIPTION_CAPACITY: usize = 16 * 1024;

/// Why a connection cannot be made, whatever one waits.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "the NATS server at {servers} refuses the {purpose} connection: {cause}. Check {purpose}_jwt and {purpose}_seed \
         (or {purpose}_creds, {purpose}_user, {purpose}_token) against the account of the server"
    )]
    Refused { purpose: Purpose, servers: String, cause: String },
    #[error(
        "no secure {purpose} connection to {servers}: {cause}. If the server's certificate comes from a private authority, \
         name it with {purpose}_tls_ca; if the server asks for a client certificate, set {purpose}_tls_cert and {purpose}_tls_key"
    )]
    Tls { purpose: Purpose, servers: String, cause: String },
    #[error(
        "{servers} is no address of a NATS server: {cause}. Use host, host:port or nats://host:port ({purpose}_host)"
    )]
    Address { purpose: Purpose, servers: String, cause: String },
    #[error("read credentials of the {purpose} connection: {cause} ({purpose}_creds)")]
    Credentials { purpose: Purpose, cause: String },
    #[error("stopped before a NATS server answered at {servers}")]
    Stopped { servers: String },
}

/// What a connection is for; its name is the prefix of its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Control,
    Rpc,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Control => "ctl",
            Self::Rpc => "rpc",
        })
    }
}

impl Purpose {
    fn words(self) -> &'static str {
        match self {
            Self::Control => "control interface",
            Self::Rpc => "lattice rpc",
        }
    }
}

/// A connection that is up, or coming back.
#[derive(Clone, Debug)]
pub struct Nats {
    pub client: async_nats::Client,
    /// Counts how often the connection came back.
    pub reconnects: watch::Receiver<u64>,
}

/// Connects for one purpose; returns when a server has accepted us.
pub async fn connect(
    purpose: Purpose,
    config: &config::Connection,
    client_name: &str,
    stop: &CancellationToken,
) -> Result<Nats, ConnectError> {
    info!("{}", greeting(purpose, &config.auth));
    let servers = without_passwords(&config.servers);
    let addresses = config
        .servers
        .iter()
        .map(|server| server.parse::<ServerAddr>())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| ConnectError::Address { purpose, servers: servers.clone(), cause: e.to_string() })?;

    let (returns, reconnects) = watch::channel(0);
    let returns = Arc::new(returns);
    let mut pause = RETRY_FIRST;
    loop {
        let options = options(purpose, config, client_name, Arc::clone(&returns)).await?;
        let attempt = tokio::select! {
            () = stop.cancelled() => return Err(ConnectError::Stopped { servers }),
            attempt = options.connect(&addresses[..]) => attempt,
        };
        let failure = match attempt {
            Ok(client) => return Ok(Nats { client, reconnects }),
            Err(failure) => failure,
        };
        let cause = chain(&failure);
        match failure.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                return Err(ConnectError::Refused { purpose, servers, cause });
            }
            ConnectErrorKind::Tls => return Err(ConnectError::Tls { purpose, servers, cause }),
            ConnectErrorKind::ServerParse => return Err(ConnectError::Address { purpose, servers, cause }),
            _ if is_certificate_trouble(&cause) => return Err(ConnectError::Tls { purpose, servers, cause }),
            _ => warn!(
                %servers, error = %cause, retry_ms = pause.as_millis() as u64,
                "no NATS server for the {} yet, trying again; start one, or set {purpose}_host and {purpose}_port", purpose.words()
            ),
        }
        tokio::select! {
            () = stop.cancelled() => return Err(ConnectError::Stopped { servers }),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(RETRY_LAST);
    }
}

/// The server addresses for people: an address may carry a user and a password, which no log needs.
pub fn without_passwords(servers: &[String]) -> String {
    let shown: Vec<String> = servers
        .iter()
        .map(|server| match (server.split_once("://"), server.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            _ => server.clone(),
        })
        .collect();
    shown.join(",")
}

fn greeting(purpose: Purpose, auth: &Auth) -> String {
    let words = purpose.words();
    match auth {
        Auth::Anonymous => format!("Connecting to {words} NATS without authentication"),
        Auth::JwtAndSeed { .. } => format!("Authenticating to {words} NATS with JWT and seed"),
        Auth::Nkey { .. } => format!("Authenticating to {words} NATS with seed"),
        Auth::Creds(path) => format!("Authenticating to {words} NATS with the credentials of {}", path.display()),
        Auth::User { .. } => format!("Authenticating to {words} NATS with user and password"),
        Auth::Token(_) => format!("Authenticating to {words} NATS with a token"),
    }
}

async fn options(
    purpose: Purpose,
    config: &config::Connection,
    client_name: &str,
    returns: Arc<watch::Sender<u64>>,
) -> Result<ConnectOptions, ConnectError> {
    let mut options = ConnectOptions::new()
        .name(client_name)
        .connection_timeout(CONNECT_TIMEOUT)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .require_tls(config.tls.required)
        .reconnect_delay_callback(|attempt| match attempt {
            // Asked before the first attempt as well.
            0 | 1 => Duration::ZERO,
            _ => (RETRY_FIRST * 2u32.pow(attempt.min(7) as u32 - 2)).min(RETRY_LAST),
        })
        .event_callback(move |event| {
            let returns = Arc::clone(&returns);
            async move { report(purpose, &event, &returns) }
        });
    if let Some(ca) = &config.tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let (Some(cert), Some(key)) = (&config.tls.cert, &config.tls.key) {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    Ok(match &config.auth {
        Auth::Anonymous => options,
        Auth::JwtAndSeed { jwt, seed } => {
            let pair = nkeys::KeyPair::from_seed(seed.expose())
                .map_err(|e| ConnectError::Credentials { purpose, cause: e.to_string() })?;
            let pair = Arc::new(pair);
            options.jwt(jwt.expose().to_owned(), move |nonce| {
                let pair = Arc::clone(&pair);
                async move { pair.sign(&nonce).map_err(AuthError::new) }
            })
        }
        Auth::Nkey { seed } => options.nkey(seed.expose().to_owned()),
        Auth::Creds(path) => options
            .credentials_file(path)
            .await
            .map_err(|e| ConnectError::Credentials { purpose, cause: format!("{}: {e}", path.display()) })?,
        Auth::User { user, password } => options.user_and_password(user.clone(), password.expose().to_owned()),
        Auth::Token(token) => options.token(token.expose().to_owned()),
    })
}

/// Logs what happens to a connection, and counts its returns.
fn report(purpose: Purpose, event: &Event, returns: &watch::Sender<u64>) {
    match event {
        Event::Connected => {
            // The first connection is announced by the caller; only returns count.
            returns.send_modify(|count| *count += 1);
            info!(connection = %purpose, "NATS connection established");
        }
        Event::Disconnected => warn!(connection = %purpose, "NATS connection lost, reconnecting"),
        Event::SlowConsumer(_) => {
            error!(connection = %purpose, "messages were dropped: a subscription was not read fast enough");
        }
        Event::ServerError(e) if e.to_string().to_lowercase().contains("permissions violation") => error!(
            connection = %purpose, error = %e,
            "the NATS account of this host may not use a subject it needs; allow wasmbus.>, $JS.>, $KV.>, $O.> and _INBOX.> for this user"
        ),
        Event::ServerError(e) => warn!(connection = %purpose, error = %e, "NATS server reports an error"),
        Event::ClientError(e) => warn!(connection = %purpose, error = %e, "NATS client reports an error"),
        Event::LameDuckMode => warn!(connection = %purpose, "NATS server is about to stop, moving to another one"),
        Event::Draining | Event::Closed => {}
    }
}

/// An untrusted or mismatched certificate arrives as an I/O error from below the handshake; its text is all there is.
fn is_certificate_trouble(cause: &str) -> bool {
    let cause = cause.to_lowercase();
    cause.contains("invalid peer certificate")
        || cause.contains("certificate required")
        || cause.contains("unknownissuer")
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses_are_not_shown() {
        let servers = ["nats://me:secret@a:4222".to_owned(), "tls://b:4222".to_owned()];
        assert_eq!(without_passwords(&servers), "nats://a:4222,tls://b:4222");
    }
}
