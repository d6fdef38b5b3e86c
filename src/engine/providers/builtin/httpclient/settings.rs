//! The link values of the HTTP client, and the connections they ask for.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{
    Certificate, Client, ClientBuilder, NoProxy, Proxy, Url, header::HeaderValue, redirect,
};

use super::{
    failure::Failure,
    resolve::{Fixed, Resolver},
    rules::{HostPattern, Reach, Refused, Rules, Way},
};
use crate::providers::{
    bounds::{Bounds, LinkPaths, OwnSockets},
    builtin::{
        LinkError, Value,
        values::{Values, wrong},
    },
};
use lattice_protocol::errors::chain;

/// How long connecting may take, where the call's deadline is later.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes a body may have; it is held in memory as a whole.
const BODY_MAX: u64 = 64 << 20;
/// All the memory that a module of 32 bits can have.
const ACTOR_MEMORY: u64 = 4 << 30;
/// As many as browsers and the providers of earlier years follow, or half of it.
const REDIRECTS_MAX: u64 = 10;
/// More than any client follows.
const REDIRECTS_LIMIT: u64 = 100;
/// Connections to one host that are kept open for the next request.
const IDLE_PER_HOST: usize = 32;
/// How a host names itself unless the actor or the link does.
const USER_AGENT: &str = concat!("lattice-host/", env!("CARGO_PKG_VERSION"));

/// The documentation of the link values.
pub(super) const VALUES: &[Value] = &[
    Value {
        name: "allowed_hosts",
        aliases: &[],
        default: "any host",
        help: "Comma list of hosts that may be called: example.org, *.example.org (names below it), 10.0.0.7, [::1], each \
               with an optional :port. Checked on every redirect and for the Host header as well.",
    },
    Value {
        name: "allow_link_local",
        aliases: &[],
        default: "false",
        help: "Allow link-local addresses (169.254.0.0/16, fe80::/10) and the metadata addresses of clouds, where a machine's \
               secrets are told. What a name resolves to counts; behind a proxy only names and addresses as written do, \
               because the proxy resolves them.",
    },
    Value {
        name: "allow_loopback",
        aliases: &[],
        default: "false",
        help: "Allow loopback addresses, which are what the host's machine offers to its own users. Without it only those that \
               allowed_hosts names, as an address or as localhost. The host's dashboard and NATS servers are never reached.",
    },
    Value {
        name: "allow_private",
        aliases: &[],
        default: "true",
        help: "Allow private networks. With false, and without allow_loopback, only the internet can be reached.",
    },
    Value {
        name: "resolve",
        aliases: &[],
        default: "none; names are looked up",
        help: "Comma list of name=address or name=address:port (or name:address:port). Requests for such a name go there, past any proxy, also after \
               a redirect; TLS and the Host header keep the name. The port is for URLs without one. Names may come more than \
               once; their addresses are tried in turn. The rules for addresses hold for these too.",
    },
    Value {
        name: "proxy",
        aliases: &[],
        default: "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY of the host's environment",
        help: "The proxy for all requests of this link: http://[user:password@]host:port or https://…; none goes directly.",
    },
    Value {
        name: "no_proxy",
        aliases: &[],
        default: "nothing",
        help: "Comma list of hosts, domains and networks that the link value proxy does not serve.",
    },
    Value {
        name: "ca_file",
        aliases: &[],
        default: "the system's certificates, or those of SSL_CERT_FILE",
        help: "A PEM file on the host with further authorities whose servers are trusted.",
    },
    Value {
        name: "ca",
        aliases: &[],
        default: "none",
        help: "The same as text: PEM certificates.",
    },
    Value {
        name: "timeout_ms",
        aliases: &[],
        default: "what the call has left (rpc_timeout_ms)",
        help: "How long a request may take with redirects and body, or until its answer begins, if a component is given that as it \
               comes. Never longer than the call itself.",
    },
    Value {
        name: "connect_timeout_ms",
        aliases: &[],
        default: "10000",
        help: "How long connecting may take, TLS included.",
    },
    Value {
        name: "max_body",
        aliases: &[],
        default: "64M",
        help: "The largest response body, in bytes or as 10M, 1G.",
    },
    Value {
        name: "max_request_body",
        aliases: &[],
        default: "64M",
        help: "The largest request body.",
    },
    Value {
        name: "redirects",
        aliases: &[],
        default: "10",
        help: "How many redirects are followed; with 0 the actor gets the redirect itself.",
    },
    Value {
        name: "user_agent",
        aliases: &[],
        default: USER_AGENT,
        help: "The User-Agent of requests for which the actor sets none.",
    },
    Value {
        name: "config_json",
        aliases: &[],
        default: "none",
        help: "All of these values as one JSON object; a value of its own wins.",
    },
    Value { name: "config_b64", aliases: &[], default: "none", help: "The same, base64 encoded." },
];

/// The settings of a link, read from its values.
#[derive(Debug)]
pub(super) struct Settings {
    pub rules: Arc<Rules>,
    fixed: Arc<Fixed>,
    pub timeout: Option<Duration>,
    pub max_body: u64,
    pub max_request_body: u64,
    pub redirects: u64,
    user_agent: HeaderValue,
    connect_timeout: Duration,
    ca_file: Option<String>,
    paths: LinkPaths,
    ca: Option<String>,
    proxy: ProxyChoice,
}

/// Never shown: an address may carry a password.
enum ProxyChoice {
    System,
    None,
    Fixed { url: Url, except: String },
}

impl std::fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::System => "system",
            Self::None => "none",
            Self::Fixed { .. } => "fixed",
        })
    }
}

impl Settings {
    pub(super) fn read(values: &Values, bounds: &Bounds) -> Result<Self, LinkError> {
        let hosts = values
            .list("allowed_hosts")?
            .map(|hosts| hosts.iter().map(|host| HostPattern::parse(host)).collect());
        let rules = Rules {
            hosts: hosts.transpose()?,
            allow_link_local: values.boolean("allow_link_local")?.unwrap_or(false),
            allow_loopback: values.boolean("allow_loopback")?.unwrap_or(false),
            allow_private: values.boolean("allow_private")?.unwrap_or(true),
            own: bounds.sockets.clone(),
        };
        let redirects = values.number("redirects")?.unwrap_or(REDIRECTS_MAX);
        if redirects > REDIRECTS_LIMIT {
            return Err(wrong("redirects", &redirects.to_string(), "at most 100"));
        }
        let user_agent = values.text("user_agent").unwrap_or_else(|| USER_AGENT.to_owned());
        Ok(Self {
            rules: Arc::new(rules),
            fixed: Arc::new(Fixed::parse(&values.list("resolve")?.unwrap_or_default())?),
            timeout: values.milliseconds("timeout_ms")?,
            max_body: values.bytes("max_body")?.unwrap_or(BODY_MAX),
            max_request_body: values.bytes("max_request_body")?.unwrap_or(BODY_MAX),
            redirects,
            user_agent: HeaderValue::from_str(&user_agent)
                .map_err(|_| wrong("user_agent", &user_agent, "visible characters"))?,
            connect_timeout: values.milliseconds("connect_timeout_ms")?.unwrap_or(CONNECT_TIMEOUT),
            ca_file: values.text("ca_file"),
            paths: bounds.paths.clone(),
            ca: values.text("ca"),
            proxy: proxy(values)?,
        })
    }

    /// Whether the authorities that the link itself has can be read; those of a file are looked at
    /// when it is taken on.
    pub(super) fn check_authorities(&self) -> Result<(), LinkError> {
        match &self.ca {
            Some(pem) => certificates(pem.as_bytes(), "link value ca", LinkError::Values).map(drop),
            None => Ok(()),
        }
    }

    /// Returns remarks about limits of bodies that hardly anybody means.
    pub(super) fn odd_bodies(&self) -> Vec<String> {
        let limits = [("max_body", self.max_body), ("max_request_body", self.max_request_body)];
        let odd = limits.into_iter().filter_map(|(name, max)| match max {
            0 => Some(format!("link value {name} is 0: nothing that has a body passes")),
            _ if max > ACTOR_MEMORY => Some(format!(
                "link value {name} is more than the 4G of memory that an actor can have: only a component that takes a body as it \
                 comes can use it"
            )),
            _ => None,
        });
        odd.collect()
    }

    fn builder(&self) -> ClientBuilder {
        Client::builder()
            .user_agent(self.user_agent.clone())
            .connect_timeout(self.connect_timeout)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            // Each hop is checked and chooses its way, so redirects are followed by us; bodies stay
            // as they come.
            .redirect(redirect::Policy::none())
            .referer(false)
            .no_gzip()
            .no_brotli()
            .no_deflate()
            .no_zstd()
    }

    fn direct_builder(&self, reach: Reach) -> ClientBuilder {
        let (rules, fixed) = (Arc::clone(&self.rules), Arc::clone(&self.fixed));
        self.builder().no_proxy().dns_resolver(Resolver { rules, fixed, reach })
    }
}

fn proxy(values: &Values) -> Result<ProxyChoice, LinkError> {
    let text = match values.text("proxy") {
        Some(text) if !text.eq_ignore_ascii_case("none") => text,
        choice => {
            if let Some(except) = values.text("no_proxy") {
                return Err(wrong(
                    "no_proxy",
                    &except,
                    "together with the link value proxy, to which it belongs",
                ));
            }
            return Ok(choice.map_or(ProxyChoice::System, |_| ProxyChoice::None));
        }
    };
    let url = if text.contains("://") { text } else { format!("http://{text}") };
    let url = Url::parse(&url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    // The text is not repeated: it may hold a password.
    let url = url.ok_or_else(|| {
        LinkError::Values(
            "link value proxy is no URL of a proxy, expected http://host:port, https://host:port or none".into(),
        )
    })?;
    Ok(ProxyChoice::Fixed { url, except: values.list("no_proxy")?.unwrap_or_default().join(",") })
}

/// The ways out of this host for one link, each with its pool of connections.
pub(super) struct Clients {
    direct: Client,
    /// For ports that the host's own sockets have: it reaches no address of this machine.
    elsewhere: Client,
    own: OwnSockets,
    /// For requests that `proxies` sends to a proxy. Its resolver looks up nothing but proxies, so
    /// it has no rules.
    by_proxy: Client,
    proxies: Option<Matcher>,
    /// No proxy could know these.
    fixed: Arc<Fixed>,
    pub trust: TrustStore,
}

/// The authorities whose servers are trusted.
pub(super) enum TrustStore {
    Filled,
    /// There is none, for this reason, so no server can be trusted; plain HTTP works nevertheless.
    Empty(String),
}

impl Clients {
    pub(super) async fn build(settings: Arc<Settings>) -> Result<Self, LinkError> {
        let mut authorities = Vec::new();
        if let Some(path) = &settings.ca_file {
            let pem = settings.paths.read("ca_file", path).await?;
            let source = format!("the file {path} of link value ca_file");
            // The file may be there, or complete, later.
            authorities.extend(certificates(&pem, &source, LinkError::Unavailable)?);
        }
        if let Some(pem) = &settings.ca {
            authorities.extend(certificates(pem.as_bytes(), "link value ca", LinkError::Values)?);
        }
        // Reading the system's certificates takes a while.
        tokio::task::spawn_blocking(move || Self::open(&settings, &authorities)).await.map_err(
            |e| LinkError::Unavailable(format!("the HTTP client could not be set up: {e}")),
        )?
    }

    fn open(settings: &Settings, authorities: &[Certificate]) -> Result<Self, LinkError> {
        let mut trust = TrustStore::Filled;
        let direct = build(authorities, &mut trust, || settings.direct_builder(Reach::All))?;
        let elsewhere =
            build(authorities, &mut trust, || settings.direct_builder(Reach::Elsewhere))?;
        let (by_proxy, proxies) = match &settings.proxy {
            ProxyChoice::None => (direct.clone(), None),
            ProxyChoice::System => {
                let client = build(authorities, &mut trust, || settings.builder())?;
                (client, Some(Matcher::from_system()))
            }
            ProxyChoice::Fixed { url, except } => {
                let proxy = Proxy::all(url.clone()).map_err(|_| {
                    LinkError::Values(
                        "link value proxy cannot be used as a proxy, expected http://host:port"
                            .into(),
                    )
                })?;
                let matcher = Matcher::builder().all(url.as_str()).no(except.as_str()).build();
                let proxy = proxy.no_proxy(NoProxy::from_string(except));
                let client =
                    build(authorities, &mut trust, || settings.builder().proxy(proxy.clone()))?;
                (client, Some(matcher))
            }
        };
        let own = settings.rules.own.clone();
        Ok(Self {
            direct,
            elsewhere,
            own,
            by_proxy,
            proxies,
            fixed: Arc::clone(&settings.fixed),
            trust,
        })
    }

    /// Chooses the way to a URL; an error names a proxy that cannot be used.
    pub(super) async fn choose(&self, url: &Url) -> Result<(Way, &Client), Failure> {
        let is_own_port = url.port_or_known_default().is_some_and(|port| self.own.has_port(port));
        let direct = if is_own_port { &self.elsewhere } else { &self.direct };
        let Some(proxies) = &self.proxies else { return Ok((Way::Direct, direct)) };
        // Only scheme and host decide. A URL without a host goes nowhere, as the rules will say.
        let Some(host) = url.host_str().filter(|host| !host.is_empty()) else {
            return Ok((Way::Direct, direct));
        };
        if self.fixed.addresses(host).is_some() {
            return Ok((Way::Direct, direct));
        }
        let uri = format!("{}://{host}/", url.scheme());
        let uri: Uri = uri
            .parse()
            .map_err(|e| Failure::Request(format!("the host of the URL cannot be used: {e}")))?;
        match proxies.intercept(&uri) {
            None => Ok((Way::Direct, direct)),
            Some(proxy) if matches!(proxy.uri().scheme_str(), Some("http" | "https")) => {
                self.check_proxy(proxy.uri()).await?;
                if is_own_port {
                    // The proxy may find another address. But it may as well stand on this machine.
                    self.check_own(host, url.port_or_known_default()).await?;
                }
                Ok((Way::Proxy, &self.by_proxy))
            }
            Some(proxy) => Err(Failure::Request(format!(
                "the environment names a proxy of kind {}, and only http and https proxies can be used; set the link value proxy",
                proxy.uri().scheme_str().unwrap_or_default()
            ))),
        }
    }

    /// Refuses an own socket as a proxy: it would take the request for one of its own.
    async fn check_proxy(&self, proxy: &Uri) -> Result<(), Failure> {
        let default = if proxy.scheme_str() == Some("https") { 443 } else { 80 };
        let port = proxy.port_u16().unwrap_or(default);
        if !self.own.has_port(port) {
            return Ok(());
        }
        self.check_own(proxy.host().unwrap_or_default(), Some(port)).await
    }

    async fn check_own(&self, host: &str, port: Option<u16>) -> Result<(), Failure> {
        let bare = host.trim_matches(['[', ']']);
        let port = port.unwrap_or_default();
        let found: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, port)],
            Err(_) => tokio::net::lookup_host((bare, port)).await.into_iter().flatten().collect(),
        };
        if found.into_iter().any(|address| self.own.contains(address)) {
            return Err(Refused::Own { what: format!("{host}:{port}") }.into());
        }
        Ok(())
    }
}

/// Builds a client. Certificates of the system or of a file are what can be wrong with it.
fn build(
    authorities: &[Certificate],
    trust: &mut TrustStore,
    builder: impl Fn() -> ClientBuilder,
) -> Result<Client, LinkError> {
    let built = match builder().tls_certs_merge(authorities.iter().cloned()).build() {
        // With authorities of its own a client is content without the system's.
        Err(e) if authorities.is_empty() => {
            *trust = TrustStore::Empty(chain(&e));
            builder().tls_certs_only([]).build()
        }
        built => built,
    };
    built.map_err(|e| {
        LinkError::Unavailable(format!("the HTTP client cannot be set up: {}", chain(&e)))
    })
}

/// Reads the certificates of a source; `error` makes the error of one that has none.
fn certificates(
    pem: &[u8],
    source: &str,
    error: fn(String) -> LinkError,
) -> Result<Vec<Certificate>, LinkError> {
    let found = Certificate::from_pem_bundle(pem)
        .map_err(|e| error(format!("{source} is no PEM of certificates: {}", chain(&e))))?;
    if found.is_empty() {
        return Err(error(format!("{source} holds no certificate (-----BEGIN CERTIFICATE-----)")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::builtin::{httpclient::SPEC, values::tests::link};

    fn settings(values: &[(&str, &str)]) -> Result<Settings, LinkError> {
        let link = link(&SPEC, values);
        Settings::read(&Values::read(&SPEC, &link)?, &Bounds::default())
    }

    #[test]
    fn defaults_hold_without_values_and_json_is_read() {
        let default = settings(&[]).unwrap();
        assert!(
            default.rules.hosts.is_none()
                && !default.rules.allow_link_local
                && default.rules.allow_private
        );
        assert!(
            !default.rules.allow_loopback
                && settings(&[("allow_loopback", "yes")]).unwrap().rules.allow_loopback
        );
        assert_eq!((default.max_body, default.redirects, default.timeout), (64 << 20, 10, None));

        let json = r#"{"allowed_hosts": ["a", "b:81"], "timeout_ms": 5, "allow_private": false, "max_body": "1K"}"#;
        let read = settings(&[("config_json", json), ("MAX_BODY", "2k")]).unwrap();
        assert_eq!(read.rules.hosts.as_ref().map(Vec::len), Some(2));
        assert_eq!((read.max_body, read.timeout), (2048, Some(Duration::from_millis(5))));
        assert!(!read.rules.allow_private);
    }

    #[test]
    fn mistakes_name_the_value_and_no_password() {
        for (name, value) in [
            ("allowed_hosts", "a/b"),
            ("allow_link_local", "maybe"),
            ("allow_loopback", "maybe"),
            ("redirects", "101"),
            ("timeout_ms", "0"),
            ("max_body", "much"),
            ("user_agent", "line\nbreak"),
            ("proxy", "socks5://user:secret@proxy:1080"),
            ("proxy", "http://user:secret@"),
            ("no_proxy", "example.org"),
            ("resolve", "example.org"),
        ] {
            let error = settings(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name) && !error.contains("secret"), "{error}");
        }
        let debug =
            format!("{:?}", settings(&[("proxy", "http://user:secret@proxy:1080")]).unwrap());
        assert!(!debug.contains("secret"), "{debug}");
    }

    #[tokio::test]
    async fn certificates_that_are_none_are_named() {
        let build = async |name, value| {
            Clients::build(Arc::new(settings(&[(name, value)]).unwrap())).await.err().unwrap()
        };
        let error = build("ca", "no certificate").await;
        assert!(
            matches!(&error, LinkError::Values(text) if text.contains("link value ca holds no certificate")),
            "{error}"
        );
        // A file may come later.
        let empty = tempfile::NamedTempFile::new().unwrap();
        for path in [
            "/does/not/exist.pem",
            "/dev/zero",
            "/proc/self/environ",
            empty.path().to_str().unwrap(),
        ] {
            let error = build("ca_file", path).await;
            assert!(
                matches!(&error, LinkError::Unavailable(text) if text.contains(path)),
                "{error}"
            );
        }
    }
}
