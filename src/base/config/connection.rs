//! The NATS connections: addresses, the one way to log in, TLS.
//!
//! There are four families of settings and three connections. `nats_*` is only a base: `ctl_*` and
//! `rpc_*` fall back to it, and `prov_rpc_*` (what provider processes are told to use) falls back
//! to `rpc_*`; see [`super::resolve`] for the rules. When this module builds a [`Connection`], all
//! that is done.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::origin::Problem;
use super::resolve::Resolved;
use super::secret::Secret;
use crate::trusted::{self, Holds, Trusted};
use lattice_protocol::identity::operator::{claim_in, parts_of_creds};

/// Where and how to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Full URLs with scheme and port; `tls://` where TLS is required.
    pub servers: Vec<String>,
    pub auth: Auth,
    pub tls: Tls,
    pub ipv6: bool,
    /// The bare first host, as replies to pings carry it.
    pub host_text: String,
    /// Port of the first server.
    pub port: u16,
}

/// How to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    Anonymous,
    JwtAndSeed {
        jwt: Secret,
        seed: Secret,
    },
    /// Bare nkey authentication: a seed without a JWT.
    Nkey {
        seed: Secret,
    },
    /// A file with JWT and seed.
    Creds(PathBuf),
    User {
        user: String,
        password: Secret,
    },
    Token(Secret),
}

impl Auth {
    /// Returns the user that logs in, as far as it is no secret: its name, or the public key of its
    /// nkey. `None` if there is none, or it is not known.
    pub fn user_name(&self) -> Option<String> {
        match self {
            Self::User { user, .. } => Some(user.clone()),
            Self::JwtAndSeed { jwt, .. } => claim_in(jwt.expose(), "sub"),
            Self::Nkey { seed } => {
                nkeys::KeyPair::from_seed(seed.expose()).ok().map(|pair| pair.public_key())
            }
            Self::Creds(path) => {
                // A pipe has its content once, and that is for the connection.
                let text = trusted::read_regular(path, Holds::Secrets).and_then(Trusted::text);
                claim_in(parts_of_creds(&text.ok()?).0?, "sub")
            }
            Self::Anonymous | Self::Token(_) => None,
        }
    }
}

/// Transport security of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    pub required: bool,
    pub ca: Option<PathBuf>,
    /// Client certificate; always together with `key`.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// One address as written by the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    tls: bool,
    host: String,
    port: Option<u16>,
}

impl Server {
    fn url(&self, tls: bool, default_port: u16) -> String {
        let scheme = if tls || self.tls { "tls" } else { "nats" };
        let port = self.port.unwrap_or(default_port);
        if self.host.contains(':') {
            format!("{scheme}://[{}]:{port}", self.host)
        } else {
            format!("{scheme}://{}:{port}", self.host)
        }
    }
}

/// Reads hosts and URLs, separated by commas; at least one.
pub(super) fn parse_servers(text: &str) -> Result<Vec<Server>, Problem> {
    // Checked for the whole text, before anything could be quoted in a message.
    if text.contains('@') {
        return Err(Problem::CredentialsInAddress);
    }
    let servers: Vec<Server> =
        super::value::list(text).iter().map(|item| parse_server(item)).collect::<Result<_, _>>()?;
    if servers.is_empty() { Err(Problem::NotAServer(text.to_owned())) } else { Ok(servers) }
}

fn parse_server(text: &str) -> Result<Server, Problem> {
    let wrong = || Problem::NotAServer(text.to_owned());
    let (tls, address) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("nats") => (false, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("tls") => (true, rest),
        Some(_) => return Err(wrong()),
        None => (false, text),
    };
    let address = address.strip_suffix('/').unwrap_or(address);
    if address.parse::<Ipv6Addr>().is_ok() {
        return Ok(Server { tls, host: address.to_owned(), port: None });
    }
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or_else(wrong)?;
            host.parse::<Ipv6Addr>().map_err(|_| wrong())?;
            let port = if after.is_empty() {
                None
            } else {
                Some(after.strip_prefix(':').ok_or_else(wrong)?)
            };
            (host, port)
        }
        None => {
            let (host, port) = match address.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            };
            let is_host_byte =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if host.is_empty() || !host.bytes().all(is_host_byte) {
                return Err(wrong());
            }
            (host, port)
        }
    };
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return Err(wrong()),
    };
    Ok(Server { tls, host: host.to_owned(), port })
}

/// Builds the connection of this family. The table has inherited and been checked before; where a
/// mistake was found the result is not used.
pub(super) fn build(table: &Resolved, family: &str) -> Connection {
    let key = |field: &str| format!("{family}_{field}");
    let port = table.port(&key("port"));
    let servers = table
        .text(&key("host"))
        .map(|text| parse_servers(&text))
        .and_then(Result::ok)
        .unwrap_or_default();
    let all_tls = !servers.is_empty() && servers.iter().all(|server| server.tls);
    let required = table.requires_tls(family) || all_tls;
    let first = servers.first();
    Connection {
        host_text: first.map(|server| server.host.clone()).unwrap_or_default(),
        port: first.and_then(|server| server.port).unwrap_or(port),
        servers: servers.iter().map(|server| server.url(required, port)).collect(),
        auth: auth(table, family),
        tls: Tls {
            required,
            ca: table.path(&key("tls_ca")),
            cert: table.path(&key("tls_cert")),
            key: table.path(&key("tls_key")),
        },
        ipv6: table.boolean("enable_ipv6"),
    }
}

fn auth(table: &Resolved, family: &str) -> Auth {
    let key = |field: &str| format!("{family}_{field}");
    let secret = |field: &str| table.secret(&key(field));
    if let Some(path) = table.path(&key("creds")) {
        return Auth::Creds(path);
    }
    if let Some(token) = secret("token") {
        return Auth::Token(token);
    }
    if let (Some(user), Some(password)) = (table.text(&key("user")), secret("password")) {
        return Auth::User { user, password };
    }
    match (secret("jwt"), secret("seed")) {
        (Some(jwt), Some(seed)) => Auth::JwtAndSeed { jwt, seed },
        (None, Some(seed)) => Auth::Nkey { seed },
        (_, None) => Auth::Anonymous,
    }
}
