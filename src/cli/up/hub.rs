//! The hub that the server of `host up` joins as a leaf node: what the user says about it, and
//! whether it is connected.
//!
//! A leaf node connection is the server's own business: it connects, fails and tries again by
//! itself, and tells only its log. So [`Watch::first`] looks at the server's monitoring port until
//! the hub has answered over the connection, and reads the log for the reason when it does not. A
//! machine that is cut off must work too, so no answer is a warning and never an error;
//! [`Watch::follow`] tells when it changes.

use std::{
    fmt, fs,
    io::{self, Read as _, Seek as _, SeekFrom},
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use nkeys::{KeyPair, KeyPairType};
use reqwest::Url;
use serde::Deserialize;
use tokio::time::Instant;
use tracing::{info, warn};

use lattice_base::{
    lattice::connection::without_passwords,
    trusted::{self, Holds, Trusted},
};
use lattice_engine::providers::bounds::OwnSockets;
use lattice_protocol::identity::operator::parts_of_creds;

/// The schemes a leaf node connects with.
const SCHEMES: [&str; 5] = ["nats-leaf", "tls", "nats", "ws", "wss"];
/// How long the first connection may take before the host starts without it.
const FIRST_TIMEOUT: Duration = Duration::from_secs(8);
/// How long it is waited after the log has told of a failure; the next attempt may do better.
const AFTER_FAILURE: Duration = Duration::from_millis(2500);
const FIRST_POLL: Duration = Duration::from_millis(100);
/// How often it is looked later.
const FOLLOW_POLL: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How much of the end of a log is read for a reason.
const LOG_TAIL: u64 = 64 * 1024;

/// A hub, checked as far as that is possible without asking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hub {
    /// At least one; may hold passwords.
    pub urls: Vec<String>,
    /// Absolute, like every path here: the server reads it.
    pub creds: Option<PathBuf>,
    pub ca: Option<PathBuf>,
}

/// Mistakes in the options about the hub.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    #[error(
        "{flag} is for the connection to a hub; name the hub with --hub URL, or leave {flag} away"
    )]
    NoHub { flag: &'static str },
    #[error(
        "--hub {url}: {cause}; accepted: a URL with scheme and host, like nats-leaf://hub.example:7422, tls://, nats://, \
         ws:// or wss://, and several of them separated by commas; in a user or password a comma is written %2C, and % is %25"
    )]
    Url { url: String, cause: UrlError },
    #[error(
        "--hub: ws:// and wss:// cannot be mixed with the other schemes; name addresses of one kind"
    )]
    Mixed,
    #[error("{flag} {}: {cause}; name a file that this user may read", path.display())]
    File { flag: &'static str, path: PathBuf, cause: String },
    #[error(
        "--creds {}: this is no credentials file: {cause}; accepted: a file with a user JWT and its seed, as Synadia's pages \
         and `nsc generate creds` make them", path.display()
    )]
    Creds { path: PathBuf, cause: &'static str },
    #[error("--hub-ca {}: there is no certificate in it; accepted: a PEM file", path.display())]
    Ca { path: PathBuf },
}

impl Hub {
    /// Checks what the user said; relative paths are of `dir`. All that is wrong is told at once.
    pub fn check(
        urls: Option<&str>,
        creds: Option<&Path>,
        ca: Option<&Path>,
        dir: &Path,
    ) -> Result<Option<Self>, Vec<HubError>> {
        let mut errors = Vec::new();
        let Some(urls) = urls else {
            errors.extend(creds.map(|_| HubError::NoHub { flag: "--creds" }));
            errors.extend(ca.map(|_| HubError::NoHub { flag: "--hub-ca" }));
            return if errors.is_empty() { Ok(None) } else { Err(errors) };
        };
        let urls: Vec<String> = urls
            .split(',')
            .map(str::trim)
            .filter(|url| !url.is_empty())
            .map(str::to_owned)
            .collect();
        if urls.is_empty() {
            errors.push(HubError::Url { url: "\"\"".into(), cause: UrlError::None });
        }
        for (index, url) in urls.iter().enumerate() {
            if let Err(cause) = check_url(url) {
                // A comma may have been part of a password, and then so is all up to the next `@`.
                let goes_on = urls[index + 1..].iter().any(|later| later.contains('@'));
                errors.push(HubError::Url { url: shown(url, index == 0, goes_on), cause });
            }
        }
        let websockets = urls.iter().filter(|url| is_websocket(url)).count();
        if websockets > 0 && websockets < urls.len() {
            errors.push(HubError::Mixed);
        }
        let creds = creds.map(|path| check_file("--creds", path, dir, check_creds)).transpose();
        let ca = ca.map(|path| check_file("--hub-ca", path, dir, check_ca)).transpose();
        match (creds, ca) {
            (Ok(creds), Ok(ca)) if errors.is_empty() => Ok(Some(Self { urls, creds, ca })),
            (creds, ca) => {
                errors.extend(creds.err().into_iter().chain(ca.err()));
                Err(errors)
            }
        }
    }

    /// Returns what a user can do about a failure, as far as its text tells.
    fn advice(&self, reason: &str) -> &'static str {
        let reason = reason.to_lowercase();
        if says(
            &reason,
            &["authorization", "authentication", "permission", "revoked", "expired", "jwt"],
        ) {
            return match self.creds {
                Some(_) => {
                    "the hub does not accept these credentials; check the file given with --creds (right account? expired?)"
                }
                None => "the hub wants to know who connects; give a credentials file with --creds",
            };
        }
        if says(&reason, &["x509", "certificate"]) {
            return "if the hub's certificate comes from a private authority, name its PEM file with --hub-ca; if not, check \
                    the host name in --hub";
        }
        if says(&reason, &["wrong port", "leaf node port", "client port"]) {
            return "that is not the port for leaf nodes, which usually is 7422";
        }
        if says(&reason, &["tls"]) {
            return "with tls:// in --hub or with --hub-ca only TLS will do, and the hub may have none; nats-leaf:// takes what \
                    the hub has";
        }
        "check the address given with --hub (the port for leaf nodes usually is 7422), and that the hub runs"
    }
}

impl Hub {
    /// Whether only TLS will do. Without being told, a server that is given a `tls://` address goes
    /// on in the clear when the other side says that it has no TLS, and sends its password along.
    pub fn needs_tls(&self) -> bool {
        self.ca.is_some()
            || self.urls.iter().any(|url| ["tls", "wss"].contains(&scheme(url).as_str()))
    }
}

impl fmt::Display for Hub {
    /// The addresses without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_passwords(&self.urls))
    }
}

fn says(reason: &str, words: &[&str]) -> bool {
    words.iter().any(|word| reason.contains(word))
}

fn scheme(url: &str) -> String {
    url.split("://").next().unwrap_or_default().to_ascii_lowercase()
}

fn is_websocket(url: &str) -> bool {
    ["ws", "wss"].contains(&scheme(url).as_str())
}

/// Returns the part of a given URL that an error may repeat: nothing that could be a user or a
/// password. `goes_on` says that it may be the beginning of a longer one, and one that is not the
/// first may be the end of one.
fn shown(url: &str, is_first: bool, goes_on: bool) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let is_scheme = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let is_known = SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let is_shown = url.len() > rest.len() && is_scheme && (is_first || is_known);
    let scheme = if is_shown { format!("{scheme}://") } else { String::new() };
    if goes_on {
        return format!("{scheme}...");
    }
    if let Some((_, host)) = rest.rsplit_once('@') {
        return format!("{scheme}{host}");
    }
    // Without an `@`, what follows a colon is a port, or the password of somebody who forgot the
    // host.
    match rest.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_err() && !port.ends_with(']') => {
            format!("{scheme}{}:...", host.split(':').next().unwrap_or_default())
        }
        _ => format!("{scheme}{rest}"),
    }
}

/// The flaw of a URL, in words that repeat nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("there is no URL")]
    None,
    #[error("the scheme is missing")]
    NoScheme,
    #[error("this scheme leads to no hub")]
    OtherScheme,
    #[error("a % in it is not followed by two hexadecimal digits")]
    Escape,
    #[error(
        "its user or password holds a character that must be written as % and two hexadecimal digits"
    )]
    User,
    #[error(transparent)]
    Parse(<Url as FromStr>::Err),
    #[error("the host is missing")]
    NoHost,
    #[error("port 0 is none to connect to")]
    NoPort,
}

fn check_url(url: &str) -> Result<(), UrlError> {
    // Before it is parsed: `hub.example:7422` would have a scheme `hub.example`.
    let (scheme, rest) = url.split_once("://").ok_or(UrlError::NoScheme)?;
    if !SCHEMES.iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(UrlError::OtherScheme);
    }
    // The server would refuse these, and quote the whole URL in its log.
    let has_bad_escape = rest.split('%').skip(1).any(|after| {
        let mut digits = after.bytes();
        !(0..2).all(|_| digits.next().is_some_and(|byte| byte.is_ascii_hexdigit()))
    });
    if has_bad_escape {
        return Err(UrlError::Escape);
    }
    let user = rest.rsplit_once('@').map_or("", |(user, _)| user);
    if !user
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte))
    {
        return Err(UrlError::User);
    }
    let parsed = Url::parse(url).map_err(UrlError::Parse)?;
    if parsed.host_str().is_none_or(str::is_empty) {
        return Err(UrlError::NoHost);
    }
    if parsed.port() == Some(0) {
        return Err(UrlError::NoPort);
    }
    Ok(())
}

/// Reads a file that a flag names and checks its text. Returns its absolute path.
fn check_file(
    flag: &'static str,
    path: &Path,
    dir: &Path,
    check: fn(&Path, &str) -> Result<(), HubError>,
) -> Result<PathBuf, HubError> {
    let file = dir.join(path);
    let read = trusted::read_regular(&file, Holds::Secrets).and_then(Trusted::text);
    let (absolute, text) =
        read.and_then(|text| Ok((fs::canonicalize(&file)?, text))).map_err(|error| {
            HubError::File { flag, path: path.to_owned(), cause: error.to_string() }
        })?;
    check(path, &text)?;
    Ok(absolute)
}

fn check_creds(path: &Path, text: &str) -> Result<(), HubError> {
    creds_of_user(text).map_err(|cause| HubError::Creds { path: path.to_owned(), cause })
}

/// Whether this text has the JWT and the seed of a user; an error is what is wrong with it.
fn creds_of_user(text: &str) -> Result<(), &'static str> {
    let (jwt, seed) = parts_of_creds(text);
    jwt.ok_or("there is no user JWT in it")?;
    let seed = seed.ok_or("there is no user seed in it")?;
    match KeyPair::from_seed(seed) {
        Ok(pair) if pair.key_pair_type() == KeyPairType::User => Ok(()),
        Ok(_) => Err("its seed is not that of a user (SU...)"),
        Err(_) => Err("its seed is damaged"),
    }
}

fn check_ca(path: &Path, text: &str) -> Result<(), HubError> {
    let is_pem = text.contains("-----BEGIN CERTIFICATE-----");
    if is_pem { Ok(()) } else { Err(HubError::Ca { path: path.to_owned() }) }
}

/// How the connection to the hub is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    Connected,
    /// With the reason, as far as the server's log tells one.
    Away(Option<String>),
}

/// Where a running server tells of its leaf node connection.
#[derive(Clone, Debug)]
pub struct Watch {
    pub hub: Hub,
    pub log: PathBuf,
    /// Where the server notes the ports it has chosen, and its process.
    pub ports_dir: PathBuf,
    pub pid: u32,
}

impl Watch {
    /// Waits until the hub has answered, or for as long as a start may wait for it, and says how it
    /// is.
    pub async fn first(&self) -> Link {
        let client = client();
        let began = Instant::now();
        let mut failed_at = None;
        loop {
            if self.is_connected(client.as_ref()).await {
                info!(hub = %self.hub, "connected to hub");
                return Link::Connected;
            }
            let reason = reason(&self.log);
            if reason.is_some() && failed_at.is_none() {
                failed_at = Some(Instant::now());
            }
            let is_enough = failed_at.is_some_and(|at| at.elapsed() >= AFTER_FAILURE);
            if is_enough || began.elapsed() >= FIRST_TIMEOUT {
                self.warn(reason.as_deref());
                return Link::Away(reason);
            }
            tokio::time::sleep(FIRST_POLL).await;
        }
    }

    /// Tells of every change from `link` on; never returns. Adds the monitoring port of the server
    /// to the sockets that no actor reaches, as soon as the server has noted it. Cancel safe.
    pub async fn follow(self, mut link: Link, own: OwnSockets) {
        let client = client();
        let mut is_guarded = false;
        loop {
            if !is_guarded && let Some(address) = self.monitoring() {
                own.add(address);
                is_guarded = true;
            }
            tokio::time::sleep(FOLLOW_POLL).await;
            match (self.is_connected(client.as_ref()).await, &link) {
                (true, Link::Away(_)) => {
                    info!(hub = %self.hub, "connected to hub");
                    link = Link::Connected;
                }
                (false, Link::Connected) => {
                    warn!(
                        hub = %self.hub,
                        "connection to hub lost; what runs here goes on, the server connects again as soon as it can"
                    );
                    link = Link::Away(None);
                }
                _ => {}
            }
        }
    }

    fn warn(&self, reason: Option<&str>) {
        let cause = reason.unwrap_or("the hub has not answered yet");
        warn!(
            hub = %self.hub, %cause, log = %self.log.display(),
            "not connected to hub; {}. The host starts without it, and the server goes on trying",
            self.hub.advice(reason.unwrap_or_default())
        );
    }

    /// Where the server tells how it is, which is nobody's business but this process's.
    fn monitoring(&self) -> Option<SocketAddr> {
        let url = monitoring(&self.ports_dir, self.pid)?;
        url.trim_start_matches("http://").trim_end_matches('/').parse().ok()
    }

    async fn is_connected(&self, client: Option<&reqwest::Client>) -> bool {
        answers(&self.ports_dir, self.pid, client).await
    }
}

/// Whether the server with this process number, whose files are in `dir`, is connected to its hub
/// now.
pub async fn is_connected(dir: &Path, pid: u32) -> bool {
    answers(dir, pid, client().as_ref()).await
}

/// Whether a hub has answered over a connection: one that is about to be refused is listed for a
/// moment, too.
async fn answers(dir: &Path, pid: u32, client: Option<&reqwest::Client>) -> bool {
    let look = async {
        let url = format!("{}/leafz", monitoring(dir, pid)?);
        let answer = client?.get(url).send().await.ok()?.bytes().await.ok()?;
        serde_json::from_slice::<Leafs>(&answer).ok()
    };
    let leafs = look.await.map(|told| told.leafs).unwrap_or_default();
    leafs.iter().any(|leaf| !matches!(leaf.rtt.as_deref(), None | Some("" | "0s")))
}

#[derive(Deserialize)]
struct Leafs {
    #[serde(default)]
    leafs: Vec<Leaf>,
}

#[derive(Deserialize)]
struct Leaf {
    /// Zero until the first answer.
    rtt: Option<String>,
}

/// Without the proxies of the environment, which are no way to this machine itself.
fn client() -> Option<reqwest::Client> {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER_TIMEOUT).build();
    client.inspect_err(|error| warn!(%error, "the NATS server cannot be asked about its hub")).ok()
}

/// The address of the server's monitoring port, which it chose itself.
fn monitoring(dir: &Path, pid: u32) -> Option<String> {
    #[derive(Deserialize)]
    struct Ports {
        #[serde(default)]
        monitoring: Vec<String>,
    }
    let end = format!("_{pid}.ports");
    let mut files = fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let file = files
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(&end)))?;
    let ports: Ports = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    ports.monitoring.into_iter().next()
}

/// The last thing the server's log says about a leaf node connection that failed. Errors say more
/// than ends.
fn reason(log: &Path) -> Option<String> {
    let tail = tail(log).ok()?;
    let mut lines = tail.lines().rev();
    lines.clone().find_map(failure).or_else(|| lines.find_map(end)).map(str::to_owned)
}

/// The words of a log line about a failed leaf node connection.
fn failure(line: &str) -> Option<&str> {
    let (_, error) = line.split_once("[ERR] ")?;
    // `127.0.0.1:7422 - lid:5 - what happened`
    match error.split_once(" - lid").and_then(|(_, rest)| rest.split_once(" - ")) {
        Some((_, words)) => Some(words),
        None => error.contains("leafnode").then_some(error),
    }
}

/// The words of a log line about a leaf node connection that came to an end.
fn end(line: &str) -> Option<&str> {
    let (_, words) = line.split_once("Leafnode connection closed: ")?;
    Some(words.split(" account: ").next()?.split(" - Remote: ").next()?.trim())
}

/// The end of a log, without what may be a user and a password. A character cut in two at its
/// beginning is no reason not to read it.
pub(super) fn tail(log: &Path) -> io::Result<String> {
    let mut file = fs::File::open(log)?;
    let start = file.metadata()?.len().saturating_sub(LOG_TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut tail)?;
    let tail = String::from_utf8_lossy(&tail);
    // Half a line may begin in the middle of a password.
    let whole = if start == 0 { &tail } else { tail.split_once('\n').map_or("", |(_, rest)| rest) };
    Ok(masked(whole))
}

/// The text without what stands between the `://` and the last `@` of each of its words.
fn masked(text: &str) -> String {
    text.split_inclusive(char::is_whitespace).map(masked_word).collect()
}

fn masked_word(word: &str) -> String {
    match (word.find("://").map(|at| at + 3), word.rfind('@')) {
        (Some(start), Some(end)) if end >= start => {
            format!("{}{}", &word[..start], &word[end + 1..])
        }
        _ => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(urls: Option<&str>, creds: Option<&Path>) -> String {
        let errors = Hub::check(urls, creds, None, Path::new("/")).unwrap_err();
        errors.iter().map(|error| format!("{error}\n")).collect()
    }

    #[test]
    fn a_hub_is_named_by_urls_and_passwords_are_not_shown() {
        let hub =
            Hub::check(Some("nats-leaf://me:secret@a:7422, tls://b"), None, None, Path::new("/"))
                .unwrap()
                .unwrap();
        assert_eq!(hub.to_string(), "nats-leaf://a:7422,tls://b");
        assert!(Hub::check(Some("WSS://a"), None, None, Path::new("/")).is_ok());
        assert_eq!(Hub::check(None, None, None, Path::new("/")), Ok(None));
        let needs_tls =
            |url| Hub { urls: vec![String::from(url)], creds: None, ca: None }.needs_tls();
        assert!(needs_tls("TLS://a") && needs_tls("wss://a") && !needs_tls("nats-leaf://a"));
    }

    #[test]
    fn mistakes_name_the_flag_and_what_is_accepted() {
        let told = errors(Some("hub.example:7422"), None);
        for part in [
            "hub.example:7422",
            "scheme is missing",
            "nats-leaf://",
            "tls://",
            "nats://",
            "ws://",
            "wss://",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
        let told = errors(Some("http://me:secret@a"), Some(Path::new("no-such.creds")));
        assert!(
            told.contains("http://a") && told.contains("no-such.creds") && !told.contains("secret"),
            "{told}"
        );
        assert!(errors(Some("ws://a,nats://b"), None).contains("mixed"));
        assert!(errors(Some("tls://"), None).contains("--hub tls://"));
        assert!(errors(Some("tls://a:99999"), None).contains("port"));
        assert!(errors(None, Some(Path::new("x.creds"))).contains("--hub URL"));
    }

    #[test]
    fn no_mistake_in_a_url_makes_its_password_appear() {
        for url in [
            "nats-leaf://me:ge,heim@h",
            "nats-leaf://me:ge,he,im@h",
            "nats-leaf://me:h@i,geheim@h",
            "nats-leaf://me:100%geheim@h",
            "nats-leaf://me:geheim%@h",
            "nats-leaf://me:ge heim@h",
            "nats-leaf://me:ge#heim@h",
            "nats-leaf://me:ge/heim@h",
            "http://me:geheim,ge://heim@h",
            "me:geheim@h",
            "nats-leaf://me:geheim",
            "me:geheim",
        ] {
            let told = errors(Some(url), None);
            for part in ["geheim", "heim", ":ge", "me:g", "@i"] {
                assert!(!told.contains(part), "{part} of {url} in {told}");
            }
        }
        assert!(errors(Some("nats-leaf://me:100%x@h"), None).contains("%25"));
        assert!(Hub::check(Some("nats-leaf://me:100%25@h"), None, None, Path::new("/")).is_ok());
        assert_eq!(shown("tls://[::1]:7422", true, false), "tls://[::1]:7422");
        assert_eq!(shown("tls://[::1]", true, false), "tls://[::1]");
    }

    #[test]
    fn a_file_that_holds_no_credentials_is_told_from_one_that_does() {
        let dir = tempfile::tempdir().unwrap();
        let check = |text: &str| {
            fs::write(dir.path().join("a.creds"), text).unwrap();
            Hub::check(Some("tls://a"), Some(Path::new("a.creds")), None, dir.path())
        };
        let seed = |kind| KeyPair::new(kind).seed().unwrap();
        let creds = |seed: &str| {
            format!(
                "-----BEGIN NATS USER JWT-----\neyJ0\n------END NATS USER JWT------\n\n\
                 -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
            )
        };
        let user = seed(KeyPairType::User);
        let hub = check(&creds(&user)).unwrap().unwrap();
        assert!(hub.creds.unwrap().is_absolute());
        for (text, cause) in [
            (String::new(), "no user JWT"),
            (creds(""), "no user seed"),
            (creds(&user.replace('A', "B")), "damaged"),
            (creds(&seed(KeyPairType::Account)), "not that of a user"),
        ] {
            let error = check(&text).unwrap_err().remove(0).to_string();
            assert!(error.contains(cause) && !error.contains(&user), "{error}");
        }
        let ca =
            Hub::check(Some("tls://a"), None, Some(Path::new("a.creds")), dir.path()).unwrap_err();
        assert!(matches!(ca[..], [HubError::Ca { .. }]), "{ca:?}");
    }

    #[test]
    fn the_server_s_words_become_a_reason_and_an_advice() {
        let hub = Hub { urls: vec!["tls://a".into()], creds: None, ca: None };
        for (line, words, advice) in [
            (
                "[389] 2026/11/22 23:52:44.443707 [ERR] 127.0.0.1:31423 - lid:5 - Leafnode Error 'Authorization Violation'",
                "Leafnode Error 'Authorization Violation'",
                "--creds",
            ),
            (
                "[390] 2026/11/22 23:52:42.702062 [ERR] Error trying to connect as leafnode to remote server \"h:1\" \
                 (attempt 1): dial tcp 127.0.0.1:1: connect: connection refused",
                "connection refused",
                "7422",
            ),
            (
                "[1] 2026/11/22 23:52:42.702062 [ERR] h:1 - lid:6 - TLS leafnode handshake error: tls: failed to verify \
                 certificate: x509: certificate signed by unknown authority",
                "unknown authority",
                "--hub-ca",
            ),
        ] {
            let told = failure(line).unwrap();
            assert!(told.contains(words) && !told.contains("lid:"), "{told}");
            assert!(hub.advice(told).contains(advice), "{}", hub.advice(told));
        }
        let wrong_port =
            "[1] 2026 [ERR] 127.0.0.1:31524 - lid:7 - attempted to connect to wrong port";
        assert!(hub.advice(failure(wrong_port).unwrap()).contains("7422"));
        let closed = "[1] 2026 [INF] 127.0.0.1:31423 - lid:5 - Leafnode connection closed: TLS Handshake Failure account: $G";
        assert_eq!((failure(closed), end(closed)), (None, Some("TLS Handshake Failure")));
        assert!(hub.advice("TLS Handshake Failure").contains("nats-leaf://"));
        assert_eq!(failure("[1] 2026 [ERR] 127.0.0.1:31423 - cid:5 - something else"), None);
    }
}
