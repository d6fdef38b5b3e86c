//! The NATS connections of a host: opened with patience, watched, and explained when something is
//! wrong.
//!
//! [`connect`] tries until a server answers or the host is told to stop, with a growing pause and a
//! log line per attempt. Errors that waiting cannot mend (refused credentials, a certificate nobody
//! signed, an invalid address) end it at once. Afterwards the client reconnects by itself; every
//! loss and every return is logged, and [`Nats::reconnects`] ticks so that those who hold state of
//! the server's (the metadata watch) can check it again. Permission errors of the server are kept
//! in [`Nats::denied`]: it does not answer a forbidden request, and only these errors tell that
//! from a server that is away.

use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{AuthError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, rustls};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    backoff::Backoff,
    config::{self, Auth},
    trusted::{self, Holds, Trusted},
};
use lattice_protocol::{clock, errors::chain, identity::operator::parts_of_creds};

/// How long one attempt to reach a server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a creds file may take to be read again; well within an attempt.
const CREDS_TIMEOUT: Duration = Duration::from_secs(2);
/// Pauses between attempts grow from the first to the last of these.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// How long the server may be silent in a round trip.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take while the server sends other messages: those of a large bucket come on the
/// same connection.
const CONFIRM_BUSY_TIMEOUT: Duration = Duration::from_secs(60);
/// When the message of a round trip is sent again.
const CONFIRM_AGAIN: Duration = Duration::from_millis(250);
/// How many messages a subscription may hold before the client drops them and says so. A host's own
/// queues are far shorter; this only covers bursts between two turns of its loops, of which the
/// largest is the replay of the metadata.
const SUBSCRIPTION_CAPACITY: usize = 64 * 1024;
/// How many different refusals are remembered: all that a host needs, if a server forbids all.
const DENIED_MAX: usize = 128;
/// The subjects that the NATS user of a host must be allowed to publish and to subscribe to.
pub const NEEDED_SUBJECTS: &str = "wasmbus.>, wadm.>, $JS.>, $KV.>, $O.> and _INBOX.>";

/// Why a connection cannot be made, whatever one waits.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "the NATS server at {servers} refuses the {purpose} connection: {cause}. {advice} (settings without a value fall back \
         to nats_*)"
    )]
    Refused { purpose: Purpose, servers: String, cause: String, advice: String },
    #[error(
        "no secure {purpose} connection to {servers}: {cause}. If the server's certificate comes from a private authority, \
         name it with {purpose}_tls_ca; if the server asks for a client certificate, set {purpose}_tls_cert and {purpose}_tls_key; \
         if it knows no TLS, unset {purpose}_tls"
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
    #[error(
        "no NATS server answers at {servers} ({purpose} connection): {cause}. Start one (`host up` does), or say where it is \
         with --{purpose}-host and --{purpose}-port, a context, or {purpose}_host and {purpose}_port in host_config.json"
    )]
    Unreachable { purpose: Purpose, servers: String, cause: String },
}

/// The purpose of a connection; its name is the prefix of its settings.
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
    /// The permission errors for this user since the connection was last made, in the server's
    /// words; each once.
    pub denied: watch::Receiver<Vec<String>>,
}

impl Nats {
    /// Waits until the server has taken everything that was sent before, whether this user may
    /// publish to an inbox or not: see [`confirm_or_denied`].
    pub async fn confirm(&self) -> Result<(), ConfirmError> {
        confirm_or_denied(&self.client, &self.denied).await
    }
}

/// Waits until the server has taken everything that was sent on this connection before:
/// subscriptions count, and what others ask from now on is heard. (Flushing the client only empties
/// its own buffer.)
pub async fn confirm(client: &async_nats::Client) -> Result<(), ConfirmError> {
    round_trip(client, client.new_inbox()).await
}

/// As [`confirm`], for a user who may not publish to an inbox: that the server forbids it is an
/// answer too, and comes after what was sent before. `denied` has the permission errors of this
/// connection.
pub async fn confirm_or_denied(
    client: &async_nats::Client,
    denied: &watch::Receiver<Vec<String>>,
) -> Result<(), ConfirmError> {
    let inbox = client.new_inbox();
    let mut denied = denied.clone();
    let quoted = format!("\"{inbox}\"");
    let is_denied = denied.wait_for(|denied| denied.iter().any(|what| what.contains(&quoted)));
    tokio::select! {
        result = round_trip(client, inbox) => result,
        Ok(_) = is_denied => Ok(()),
    }
}

async fn round_trip(client: &async_nats::Client, inbox: String) -> Result<(), ConfirmError> {
    let mut echo = tokio::time::timeout(CONFIRM_TIMEOUT, client.subscribe(inbox.clone()))
        .await
        .map_err(|_| ConfirmError::Silent)?
        .map_err(ConfirmError::client)?;
    let began = Instant::now();
    let (mut received, mut heard) = (messages_received(client), began);
    loop {
        // Sent again, because what was on its way when a connection breaks is lost.
        let round_trip = async {
            client.publish(inbox.clone(), Bytes::new()).await.map_err(ConfirmError::client)?;
            let came = echo.next().await;
            came.map(drop).ok_or_else(|| ConfirmError::client("the subscription ended"))
        };
        if let Ok(ended) = tokio::time::timeout(CONFIRM_AGAIN, round_trip).await {
            return ended;
        }
        // A server that sends other things has not come to this yet.
        let now = messages_received(client);
        if now != received {
            (received, heard) = (now, Instant::now());
        }
        if heard.elapsed() >= CONFIRM_TIMEOUT || began.elapsed() >= CONFIRM_BUSY_TIMEOUT {
            return Err(ConfirmError::Silent);
        }
    }
}

fn messages_received(client: &async_nats::Client) -> u64 {
    client.statistics().in_messages.load(Ordering::Relaxed)
}

/// Why the server's confirmation did not come.
#[derive(Debug, thiserror::Error)]
pub enum ConfirmError {
    #[error("the NATS server does not answer within {} s; is it reachable, and may this user use _INBOX.>?", CONFIRM_TIMEOUT.as_secs())]
    Silent,
    #[error("the NATS client reports: {0}")]
    Client(String),
}

impl ConfirmError {
    fn client(error: impl std::fmt::Display) -> Self {
        Self::Client(error.to_string())
    }
}

/// The ends of [`Nats`] that the connection's events feed.
#[derive(Clone)]
struct Reports {
    purpose: Purpose,
    returns: Arc<watch::Sender<u64>>,
    denied: Arc<watch::Sender<Vec<String>>>,
    is_first: Arc<AtomicBool>,
}

/// Connects for one purpose; returns when a server has accepted us.
pub async fn connect(
    purpose: Purpose,
    config: &config::Connection,
    client_name: &str,
    stop: &CancellationToken,
) -> Result<Nats, ConnectError> {
    info!("{}", greeting(purpose, &config.auth));
    let line = Line::new(purpose, config, client_name)?;
    let servers = &line.servers;
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LAST);
    loop {
        let attempt = tokio::select! {
            () = stop.cancelled() => return Err(ConnectError::Stopped { servers: servers.clone() }),
            attempt = line.attempt() => attempt,
        };
        let pause = backoff.next_pause();
        match attempt {
            Ok(nats) => return Ok(nats),
            Err(ConnectError::Unreachable { cause, .. }) => warn!(
                %servers, error = %cause, retry_ms = clock::millis(pause),
                "no NATS server for the {} yet, trying again; start one, or set {purpose}_host and {purpose}_port", purpose.words()
            ),
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => return Err(ConnectError::Stopped { servers: servers.clone() }),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Connects for one purpose, or says at once why that cannot be done: for those who wait at a
/// prompt.
pub async fn connect_once(
    purpose: Purpose,
    config: &config::Connection,
    client_name: &str,
) -> Result<Nats, ConnectError> {
    Line::new(purpose, config, client_name)?.attempt().await
}

/// One connection to be made.
struct Line<'a> {
    purpose: Purpose,
    config: &'a config::Connection,
    client_name: &'a str,
    /// For messages.
    servers: String,
    addresses: Vec<ServerAddr>,
    /// Read once for all attempts, if the login is in a file.
    creds: Option<Arc<Creds>>,
    ends: (watch::Receiver<u64>, watch::Receiver<Vec<String>>),
    reports: Reports,
}

impl<'a> Line<'a> {
    fn new(
        purpose: Purpose,
        config: &'a config::Connection,
        client_name: &'a str,
    ) -> Result<Self, ConnectError> {
        let servers = without_passwords(&config.servers);
        let addresses = config
            .servers
            .iter()
            .map(|server| server.parse::<ServerAddr>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| ConnectError::Address {
                purpose,
                servers: servers.clone(),
                cause: e.to_string(),
            })?;
        let creds = match &config.auth {
            Auth::Creds(path) => Some(Creds::open(purpose, path)?),
            _ => None,
        };
        let (returns, reconnects) = watch::channel(0);
        let (denials, denied) = watch::channel(Vec::new());
        let reports = Reports {
            purpose,
            returns: Arc::new(returns),
            denied: Arc::new(denials),
            is_first: Arc::new(AtomicBool::new(true)),
        };
        Ok(Self {
            purpose,
            config,
            client_name,
            servers,
            addresses,
            creds,
            ends: (reconnects, denied),
            reports,
        })
    }

    async fn attempt(&self) -> Result<Nats, ConnectError> {
        let (purpose, servers) = (self.purpose, self.servers.clone());
        let begun = self.creds.as_ref().map_or_else(ConnectOptions::new, Creds::options);
        let reports = self.reports.clone();
        let options = options(begun, purpose, self.config, self.client_name, reports)?;
        let failure = match options.connect(&self.addresses[..]).await {
            Ok(client) => {
                let (reconnects, denied) = self.ends.clone();
                return Ok(Nats { client, reconnects, denied });
            }
            Err(failure) => failure,
        };
        if let Some(creds) = &self.creds {
            // The next attempt may be much later.
            creds.is_fresh.store(false, Ordering::Relaxed);
        }
        let cause = chain(&failure);
        Err(match failure.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                let advice = advice(purpose, &self.config.auth);
                ConnectError::Refused { purpose, servers, cause, advice }
            }
            ConnectErrorKind::Tls => ConnectError::Tls { purpose, servers, cause },
            ConnectErrorKind::ServerParse => ConnectError::Address { purpose, servers, cause },
            _ if is_tls_trouble(&failure) => ConnectError::Tls { purpose, servers, cause },
            _ => ConnectError::Unreachable { purpose, servers, cause },
        })
    }
}

/// The server addresses for people: an address, with or without a scheme, may carry a user and a
/// password, which no log needs.
pub fn without_passwords(servers: &[String]) -> String {
    let shown: Vec<String> = servers
        .iter()
        .map(|server| {
            let Some((_, host)) = server.rsplit_once('@') else { return server.clone() };
            match server.split_once("://") {
                Some((scheme, _)) if is_scheme(scheme) => format!("{scheme}://{host}"),
                _ => host.to_owned(),
            }
        })
        .collect();
    shown.join(",")
}

fn is_scheme(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

fn greeting(purpose: Purpose, auth: &Auth) -> String {
    let words = purpose.words();
    match auth {
        Auth::Anonymous => format!("Connecting to {words} NATS without authentication"),
        Auth::JwtAndSeed { .. } => format!("Authenticating to {words} NATS with JWT and seed"),
        Auth::Nkey { .. } => format!("Authenticating to {words} NATS with seed"),
        Auth::Creds(path) => {
            format!("Authenticating to {words} NATS with the credentials of {}", path.display())
        }
        Auth::User { .. } => format!("Authenticating to {words} NATS with user and password"),
        Auth::Token(_) => format!("Authenticating to {words} NATS with a token"),
    }
}

/// Completes the options of a connection, which have the login where it is in a creds file.
fn options(
    mut options: ConnectOptions,
    purpose: Purpose,
    config: &config::Connection,
    client_name: &str,
    reports: Reports,
) -> Result<ConnectOptions, ConnectError> {
    options = options
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
            let reports = reports.clone();
            async move { reports.take(&event) }
        });
    if let Some(ca) = &config.tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let (Some(cert), Some(key)) = (&config.tls.cert, &config.tls.key) {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    Ok(match &config.auth {
        Auth::Anonymous | Auth::Creds(_) => options,
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
        Auth::User { user, password } => {
            options.user_and_password(user.clone(), password.expose().to_owned())
        }
        Auth::Token(token) => options.token(token.expose().to_owned()),
    })
}

/// The creds file of a connection. It is read for each connection that is made, since such files
/// are exchanged while hosts run; one that cannot be used then leaves the login as it was. What is
/// no regular file, like a pipe, has its content once and is not read again.
struct Creds {
    path: PathBuf,
    is_regular: bool,
    last: Mutex<Login>,
    /// The login that was read last has not been used yet.
    is_fresh: AtomicBool,
    /// Held by the one reading that there is at a time: a file system may be silent.
    reading: Mutex<()>,
}

impl Creds {
    fn open(purpose: Purpose, path: &Path) -> Result<Arc<Self>, ConnectError> {
        let login = trusted::read(path, Holds::Secrets).and_then(Login::of).map_err(|error| {
            let cause = format!("{}: {error}", path.display());
            ConnectError::Credentials { purpose, cause }
        })?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            is_regular: std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file()),
            last: Mutex::new(login),
            is_fresh: AtomicBool::new(true),
            reading: Mutex::new(()),
        }))
    }

    /// Returns options that log in with the file.
    fn options(self: &Arc<Self>) -> ConnectOptions {
        let creds = Arc::clone(self);
        ConnectOptions::with_auth_callback(move |nonce| {
            let creds = Arc::clone(&creds);
            async move { creds.login().await.sign(&nonce) }
        })
    }

    /// Returns the login for a connection that is made now.
    async fn login(self: &Arc<Self>) -> Login {
        if !self.is_fresh.swap(false, Ordering::Relaxed) && self.is_regular {
            let creds = Arc::clone(self);
            let reading = tokio::task::spawn_blocking(move || creds.read_again());
            let read = match tokio::time::timeout(CREDS_TIMEOUT, reading).await {
                Ok(read) => read.unwrap_or_else(|error| Err(io::Error::other(error))),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            match read {
                Ok(login) => *self.last.lock() = login,
                Err(error) => warn!(
                    %error, path = ?self.path,
                    "the credentials cannot be read, so the login is the one that was read before; put the file back"
                ),
            }
        }
        self.last.lock().clone()
    }

    fn read_again(&self) -> io::Result<Login> {
        let Some(_reading) = self.reading.try_lock() else {
            return Err(io::Error::other("an earlier reading has not ended"));
        };
        trusted::read_regular(&self.path, Holds::Secrets).and_then(Login::of)
    }
}

/// The user JWT and the key in a creds file.
#[derive(Clone)]
struct Login {
    jwt: String,
    pair: Arc<nkeys::KeyPair>,
}

impl Login {
    fn of(file: Trusted) -> io::Result<Self> {
        let text = file.text()?;
        let (Some(jwt), Some(seed)) = parts_of_creds(&text) else {
            return Err(io::Error::other("it holds no user JWT and seed"));
        };
        let pair =
            nkeys::KeyPair::from_seed(seed).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { jwt: jwt.to_owned(), pair: Arc::new(pair) })
    }

    /// Answers the server, which wants a text signed.
    fn sign(self, nonce: &[u8]) -> Result<async_nats::Auth, AuthError> {
        let mut auth = async_nats::Auth::new();
        auth.signature = Some(self.pair.sign(nonce).map_err(AuthError::new)?);
        auth.jwt = Some(self.jwt);
        Ok(auth)
    }
}

impl Reports {
    /// Logs what happens to a connection, and keeps what others ask for.
    fn take(&self, event: &Event) {
        let connection = self.purpose;
        match event {
            Event::Connected => {
                self.denied.send_modify(Vec::clear);
                // Only returns count; the first connection is none.
                if !self.is_first.swap(false, Ordering::Relaxed) {
                    self.returns.send_modify(|count| *count += 1);
                }
                info!(%connection, "NATS connection established");
            }
            Event::Disconnected => warn!(%connection, "NATS connection lost, reconnecting"),
            Event::SlowConsumer(_) => {
                error!(%connection, "messages were dropped: a subscription was not read fast enough");
            }
            Event::ServerError(e)
                if e.to_string().to_lowercase().contains("permissions violation") =>
            {
                self.deny(e.to_string());
                error!(
                    %connection, error = %e,
                    "the NATS account of this host may not use a subject it needs; allow {NEEDED_SUBJECTS} for this user"
                );
            }
            Event::ServerError(e) => warn!(%connection, error = %e, "NATS server reports an error"),
            Event::ClientError(e) => warn!(%connection, error = %e, "NATS client reports an error"),
            Event::LameDuckMode => {
                warn!(%connection, "NATS server is about to stop, moving to another one")
            }
            Event::Draining | Event::Closed => {}
        }
    }

    fn deny(&self, what: String) {
        self.denied.send_if_modified(|denied| {
            let is_new = denied.len() < DENIED_MAX && !denied.contains(&what);
            if is_new {
                denied.push(what);
            }
            is_new
        });
    }
}

/// Returns advice on what to check when a server refuses the login of this connection.
fn advice(purpose: Purpose, auth: &Auth) -> String {
    let settings = match auth {
        Auth::Anonymous => {
            return format!(
                "It wants to know who connects: set {purpose}_creds, {purpose}_jwt and {purpose}_seed, \
                 {purpose}_seed alone, {purpose}_user and {purpose}_password, or {purpose}_token"
            );
        }
        Auth::JwtAndSeed { .. } => format!("{purpose}_jwt and {purpose}_seed"),
        Auth::Nkey { .. } => format!("{purpose}_seed"),
        Auth::Creds(path) => format!("{purpose}_creds ({})", path.display()),
        Auth::User { .. } => format!("{purpose}_user and {purpose}_password"),
        Auth::Token(_) => format!("{purpose}_token"),
    };
    format!("Check {settings} against the users of the server")
}

/// Whether the TLS library gave up: an untrusted certificate, a missing client certificate, a
/// server that speaks no TLS. The NATS client reports most of these as I/O errors.
fn is_tls_trouble(failure: &async_nats::ConnectError) -> bool {
    let mut source = failure.source();
    while let Some(current) = source {
        let inner = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if current.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        source = current.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::identity::operator::creds;

    fn creds_of(jwt: &str) -> String {
        creds(jwt, &nkeys::KeyPair::new_user().seed().unwrap())
    }

    #[tokio::test]
    async fn a_creds_file_is_read_again_and_one_that_cannot_be_used_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.creds");
        trusted::replace(&path, creds_of("ey.a.x").as_bytes()).unwrap();
        let file = Creds::open(Purpose::Rpc, &path).unwrap();
        for (content, jwt) in [
            // The login that was read a moment ago serves the first connection.
            (creds_of("ey.b.x"), "ey.a.x"),
            (creds_of("ey.b.x"), "ey.b.x"),
            (String::new(), "ey.b.x"),
            (creds("ey.c.x", "no seed"), "ey.b.x"),
            (creds_of("ey.d.x"), "ey.d.x"),
        ] {
            trusted::replace(&path, content.as_bytes()).unwrap();
            assert_eq!(file.login().await.jwt, jwt, "{content}");
        }
        let reading = file.reading.lock();
        assert!(file.read_again().is_err_and(|error| error.to_string().contains("earlier")));
        drop(reading);
        assert!(file.read_again().is_ok());
        assert!(Creds::open(Purpose::Rpc, dir.path()).is_err());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_pipe_with_credentials_is_read_once_for_all_connections() {
        use std::{io::Write as _, os::fd::AsRawFd as _};
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(creds_of("ey.a.x").as_bytes()).unwrap();
        drop(writer);
        let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
        let file = Creds::open(Purpose::Rpc, &path).unwrap();
        for _ in 0..3 {
            assert_eq!(file.login().await.jwt, "ey.a.x");
        }
        assert!(!file.is_regular);
    }

    #[test]
    fn passwords_in_addresses_are_not_shown() {
        for (address, shown) in [
            ("nats://me:secret@a:4222", "nats://a:4222"),
            ("tls://b:4222", "tls://b:4222"),
            ("me:secret@c:4222", "c:4222"),
            ("secret@c", "c"),
            ("nats://me:secret@secret@d", "nats://d"),
            ("me:secret://secret@e:4222", "e:4222"),
            ("f:4222", "f:4222"),
        ] {
            assert_eq!(without_passwords(&[address.to_owned()]), shown);
        }
        assert_eq!(without_passwords(&["u:p@a".to_owned(), "tls://b".to_owned()]), "a,tls://b");
    }
}
