//! Where requests may go.
//!
//! Two questions are asked of every request and of every redirect: is the host one of those the
//! link allows, and does it stand for an address that actors have no business with? The second one
//! is asked of what a name *resolves to*, by [`super::resolve`], to whose answer the connection is
//! made; so a name that resolves to something else the second time gains nothing. A host that is an
//! address is never looked up and is therefore checked in [`Rules::check`], after the URL parser
//! has turned every spelling of an address (`0xA9FEA9FE`, `2852039166`, `0251.0376.…`) into the
//! usual one. Behind a proxy it is the proxy that resolves names: there only names and addresses as
//! written are checked.
//!
//! Services of this machine on loopback are its own affair, so the link has to allow them; no link
//! can allow the sockets of the host itself and of its NATS servers ([`OwnSockets`]). There the
//! port counts as well, and a lookup does not know it. So names in URLs with the port of an own
//! socket are looked up with [`Reach::Elsewhere`], which gives no address of this machine.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::Url;

use crate::providers::{
    bounds::{OwnSockets, embedded_v4},
    builtin::{LinkError, values::wrong},
};
use lattice_protocol::contracts::httpclient::FailureCause;

/// Names that clouds give the address at which they tell a machine its secrets.
const METADATA_NAMES: [&str; 5] = [
    "metadata.google.internal",
    "metadata.goog",
    "metadata.tencentyun.com",
    "instance-data",
    "instance-data.ec2.internal",
];

/// The destinations that a link allows.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// `None` allows every host.
    pub hosts: Option<Vec<HostPattern>>,
    /// Link-local addresses, and those of cloud metadata services.
    pub allow_link_local: bool,
    /// This machine.
    pub allow_loopback: bool,
    /// Private networks and whatever else is not the internet.
    pub allow_private: bool,
    /// Sockets that are never allowed.
    pub own: OwnSockets,
}

/// Which machines a lookup may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    All,
    /// All but this one.
    Elsewhere,
}

/// The way a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Direct,
    /// The proxy looks the host up, and nobody here.
    Proxy,
}

/// Why a request may not go where it wants to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("the scheme is {0:?}, and only http and https are spoken")]
    Scheme(String),
    #[error("the URL names no host")]
    NoHost,
    #[error("host {0} is not among the link value allowed_hosts")]
    Host(String),
    #[error(
        "{what} is a link-local or cloud metadata address, which actors may not reach; the link value \
         allow_link_local=true lifts that"
    )]
    LinkLocal { what: String },
    #[error(
        "{what} is a loopback address; what the host's machine offers there is reached only with the link value \
         allow_loopback=true, or where allowed_hosts names that address or localhost"
    )]
    Loopback { what: String },
    #[error("{what} is a private address, which the link value allow_private=false forbids")]
    Private { what: String },
    #[error(
        "{what} is a socket of the host itself or of its NATS server, which no actor may reach"
    )]
    Own { what: String },
}

impl Refused {
    /// The kind of failure, as components are told.
    pub(super) fn cause(&self) -> FailureCause {
        match self {
            Self::Scheme(_) | Self::NoHost => FailureCause::HttpRequestUriInvalid,
            Self::Host(_) => FailureCause::HttpRequestDenied,
            Self::LinkLocal { .. }
            | Self::Loopback { .. }
            | Self::Private { .. }
            | Self::Own { .. } => FailureCause::DestinationIpProhibited,
        }
    }
}

/// A host, or all hosts below a domain, at one port or any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPattern {
    /// As the URL parser writes it, without a final dot.
    host: String,
    /// Only names below `host`.
    below: bool,
    port: Option<u16>,
}

impl HostPattern {
    /// Reads `example.org`, `*.example.org`, `127.0.0.1`, `[::1]`, each with an optional `:port`;
    /// `*` is every host.
    pub(super) fn parse(text: &str) -> Result<Self, LinkError> {
        let expected =
            "a comma list of hosts such as example.org, *.example.org, 10.0.0.7:8080 or [::1]:8080";
        Self::read(text).ok_or_else(|| wrong("allowed_hosts", text, expected))
    }

    fn read(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self { host: String::new(), below: true, port: None });
        }
        let (below, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        if let Ok(address) = rest.parse::<Ipv6Addr>() {
            return Some(Self { host: format!("[{address}]"), below, port: None });
        }
        // A colon inside brackets belongs to the address.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok()?)),
            _ => (rest, None),
        };
        if host.contains(['/', '@', '?', '#', '\\', '*']) {
            return None;
        }
        let url = Url::parse(&format!("http://{host}/")).ok()?;
        Some(Self { host: host_of(&url)?, below, port })
    }

    fn matches(&self, host: &str, port: Option<u16>) -> bool {
        if self.port.is_some_and(|only| port != Some(only)) {
            return false;
        }
        if !self.below {
            return host == self.host;
        }
        self.host.is_empty()
            || host.strip_suffix(&*self.host).is_some_and(|below| below.ends_with('.'))
    }
}

impl Rules {
    /// Checks what can be seen of a URL without looking its host up.
    pub(super) fn check(&self, url: &Url, way: Way) -> Result<(), Refused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme(url.scheme().to_owned()));
        }
        let host = host_of(url).ok_or(Refused::NoHost)?;
        self.check_host(&host, url.port_or_known_default())?;
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            let port = url.port_or_known_default().unwrap_or_default();
            return self.check_address(&host, SocketAddr::new(address, port), Reach::All, &host);
        }
        if METADATA_NAMES.contains(&&*host) && !self.allow_link_local {
            return Err(Refused::LinkLocal { what: host });
        }
        if way == Way::Proxy && is_localhost(&host) {
            if url.port_or_known_default().is_some_and(|port| self.own.has_port(port)) {
                return Err(Refused::Own { what: host });
            }
            if !self.may_loop_back(&host) {
                return Err(Refused::Loopback { what: host });
            }
        }
        Ok(())
    }

    /// Whether a request of the link may stay on this machine.
    pub(super) fn reaches_this_machine(&self) -> bool {
        let mut named = self.hosts.iter().flatten().filter(|pattern| !pattern.below);
        self.allow_loopback || named.any(|pattern| is_loopback(&pattern.host))
    }

    /// Whether a host may be this machine. Of names only those say so that cannot mean another one:
    /// any other name belongs to somebody, who may let it resolve to loopback.
    fn may_loop_back(&self, host: &str) -> bool {
        let mut named = self.hosts.iter().flatten().filter(|pattern| !pattern.below);
        self.allow_loopback || (is_loopback(host) && named.any(|pattern| pattern.host == host))
    }

    fn check_host(&self, host: &str, port: Option<u16>) -> Result<(), Refused> {
        match &self.hosts {
            Some(allowed) if !allowed.iter().any(|pattern| pattern.matches(host, port)) => {
                Err(Refused::Host(
                    port.filter(|port| ![80, 443].contains(port))
                        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Checks an address that stands for `host`, or is it. A port of 0 is not known. `what` begins
    /// the text of a refusal.
    fn check_address(
        &self,
        host: &str,
        address: SocketAddr,
        reach: Reach,
        what: &dyn Display,
    ) -> Result<(), Refused> {
        let is_out_of_reach =
            reach == Reach::Elsewhere && OwnSockets::is_of_this_machine(address.ip());
        if is_out_of_reach || self.own.contains(address) {
            return Err(Refused::Own { what: what.to_string() });
        }
        match Zone::of(address.ip()) {
            Zone::Loopback if !self.may_loop_back(host) => {
                Err(Refused::Loopback { what: what.to_string() })
            }
            Zone::LinkLocal if !self.allow_link_local => {
                Err(Refused::LinkLocal { what: what.to_string() })
            }
            Zone::Private if !self.allow_private => {
                Err(Refused::Private { what: what.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// Keeps the allowed ones of a name's addresses; refuses if none is left.
    pub(super) fn filter(
        &self,
        name: &str,
        found: Vec<SocketAddr>,
        reach: Reach,
    ) -> Result<Vec<SocketAddr>, Refused> {
        let mut refused = None;
        let mut allowed = Vec::with_capacity(found.len());
        for socket in found {
            let host = name.strip_suffix('.').unwrap_or(name);
            let what = format_args!("{name} resolves to {}, which", socket.ip());
            match self.check_address(host, socket, reach, &what) {
                Ok(()) => allowed.push(socket),
                Err(reason) => refused = Some(reason),
            }
        }
        match refused {
            Some(reason) if allowed.is_empty() => Err(reason),
            _ => Ok(allowed),
        }
    }
}

/// The host of a URL as rules compare it: lower case by the parser's doing, without the final dot
/// of an absolute name.
pub(super) fn host_of(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| host.to_owned())
}

/// Whether a host of a URL means this machine and cannot mean another one.
fn is_loopback(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    is_localhost(host) || address.is_ok_and(|address| Zone::of(address) == Zone::Loopback)
}

/// Whether a name is this machine's for every resolver.
fn is_localhost(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// The kind of network an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zone {
    Public,
    Loopback,
    Private,
    LinkLocal,
}

impl Zone {
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        match address.octets() {
            // Besides the link-local block: Alibaba Cloud, Oracle Cloud, Azure.
            [169, 254, ..] | [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => {
                Self::LinkLocal
            }
            // 0.0.0.0 leads to this machine as well.
            [0 | 127, ..] => Self::Loopback,
            [10, ..] | [192, 168, ..] | [172, 16..=31, ..] => Self::Private,
            // Carriers' own networks, protocol assignments, benchmarks; multicast and what is
            // reserved.
            [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] | [224..=255, ..] => {
                Self::Private
            }
            _ => Self::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        if let Some(embedded) = embedded_v4(address) {
            return Self::of_v4(embedded);
        }
        match address.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Self::Loopback,
            // Amazon's and Google's metadata.
            [0xfe80..=0xfebf, ..] | [0xfd00, 0x0ec2, ..] | [0xfd20, 0x00ce, ..] => Self::LinkLocal,
            [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] | [0xff00..=0xffff, ..] => Self::Private,
            _ => Self::Public,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(hosts: Option<&[&str]>, allow_link_local: bool, allow_private: bool) -> Rules {
        let hosts =
            hosts.map(|hosts| hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect());
        Rules {
            hosts,
            allow_link_local,
            allow_loopback: false,
            allow_private,
            own: OwnSockets::default(),
        }
    }

    const LOOPBACK: [&str; 14] = [
        "127.0.0.1",
        "127.1",
        "127.255.255.254",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ];

    fn check(rules: &Rules, url: &str) -> Result<(), Refused> {
        rules.check(&Url::parse(url).unwrap(), Way::Direct)
    }

    #[test]
    fn every_spelling_of_a_metadata_address_is_refused() {
        let default = rules(None, false, true);
        let lifted = rules(None, true, true);
        for host in [
            "169.254.169.254",
            "169.254.169.254.",
            "0xA9FEA9FE",
            "2852039166",
            "0251.0376.0251.0376",
            "169.254.43518",
            "%31%36%39.254.169.254",
            "１６９.254.169.254",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[::169.254.169.254]",
            "[::ffff:0:169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:a9fe:a9fe::1]",
            "[fe80::1]",
            "[febf::1]",
            "[fd00:ec2::254]",
            "[fd20:ce::254]",
            "100.100.100.200",
            "168.63.129.16",
            "METADATA.google.internal",
            "metadata.google.internal.",
            "metadata.goog",
        ] {
            let url = format!("http://{host}/latest?x");
            assert!(matches!(check(&default, &url), Err(Refused::LinkLocal { .. })), "{host}");
            assert_eq!(check(&lifted, &url), Ok(()), "{host}");
        }
    }

    #[test]
    fn private_addresses_are_allowed_unless_the_link_forbids_them() {
        let (default, strict) = (rules(None, false, true), rules(None, false, false));
        for host in [
            "10.1.2.3",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "[::ffff:10.0.0.1]",
            "[fc00::1]",
            "[fd12:3456::1]",
        ] {
            let url = format!("http://{host}:8080/");
            assert_eq!(check(&default, &url), Ok(()), "{host}");
            assert!(matches!(check(&strict, &url), Err(Refused::Private { .. })), "{host}");
        }
        for host in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "[2606:4700::1111]",
            "[::ffff:8.8.8.8]",
            "example.org",
        ] {
            assert_eq!(check(&strict, &format!("https://{host}/")), Ok(()), "{host}");
        }
    }

    #[test]
    fn loopback_is_refused_unless_the_link_allows_it_or_names_it() {
        let default = rules(None, false, true);
        let lifted = Rules { allow_loopback: true, ..rules(None, false, false) };
        for host in LOOPBACK {
            let url = format!("http://{host}:8080/");
            assert!(matches!(check(&default, &url), Err(Refused::Loopback { .. })), "{host}");
            assert_eq!(check(&lifted, &url), Ok(()), "{host}");
        }
        let named = rules(
            Some(&["127.0.0.1:8080", "localhost", "[::1]", "mine.example", "*"]),
            false,
            true,
        );
        for url in ["http://127.0.0.1:8080/", "http://2130706433:8080/", "http://[::1]:81/"] {
            assert_eq!(check(&named, url), Ok(()), "{url}");
        }
        assert!(matches!(check(&named, "http://127.0.0.2/"), Err(Refused::Loopback { .. })));
        let (loopback, mapped) =
            ("127.0.0.1:0".parse().unwrap(), "[::ffff:127.0.0.1]:0".parse().unwrap());
        let found = vec![loopback, mapped];
        assert_eq!(named.filter("localhost", found.clone(), Reach::All), Ok(found.clone()));
        // The owner of such a name says where it leads.
        for name in ["mine.example", "other.example"] {
            let refused = named.filter(name, found.clone(), Reach::All).unwrap_err();
            assert!(refused.to_string().contains("allow_loopback=true"), "{refused}");
        }
        // A proxy would look it up on its own machine.
        let local = Url::parse("http://localhost/").unwrap();
        assert!(default.check(&local, Way::Direct).is_ok());
        assert!(default.check(&local, Way::Proxy).is_err());
        assert!(
            lifted.check(&local, Way::Proxy).is_ok() && named.check(&local, Way::Proxy).is_ok()
        );
    }

    #[test]
    fn own_sockets_are_refused_whatever_the_link_says() {
        let everything = |own: &OwnSockets| Rules {
            allow_loopback: true,
            own: own.clone(),
            ..rules(Some(&["127.0.0.1", "localhost", "[::1]", "*"]), true, true)
        };
        let own = OwnSockets::default();
        own.add("127.0.0.1:4000".parse().unwrap());
        let rules = everything(&own);
        for host in LOOPBACK {
            let refused = check(&rules, &format!("http://{host}:4000/"));
            assert!(matches!(refused, Err(Refused::Own { .. })), "{host}: {refused:?}");
            assert_eq!(check(&rules, &format!("http://{host}:4001/")), Ok(()), "{host}");
        }
        let local = Url::parse("http://localhost:4000/").unwrap();
        assert!(matches!(rules.check(&local, Way::Proxy), Err(Refused::Own { .. })));
        // By name, where the port is known to be an own one, and where a lookup itself gives it.
        let found = |text: &str| vec![text.parse().unwrap()];
        for (address, reach, is_refused) in [
            ("127.0.0.1:0", Reach::Elsewhere, true),
            ("127.0.0.1:0", Reach::All, false),
            ("127.0.0.1:4000", Reach::All, true),
            ("93.184.216.34:0", Reach::Elsewhere, false),
        ] {
            let refused = rules.filter("localhost", found(address), reach);
            assert_eq!(
                matches!(refused, Err(Refused::Own { .. })),
                is_refused,
                "{address} {reach:?}"
            );
        }
    }

    #[test]
    fn a_name_is_judged_by_what_it_resolves_to() {
        let default = rules(None, false, true);
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (bad, mapped) = (socket("169.254.169.254:0"), socket("[::ffff:169.254.169.254]:0"));
        let good = socket("93.184.216.34:0");
        let refused = default.filter("rebind.example", vec![bad, mapped], Reach::All).unwrap_err();
        assert!(refused.to_string().starts_with("rebind.example resolves to"), "{refused}");
        assert_eq!(
            default.filter("mixed.example", vec![bad, good, mapped], Reach::All),
            Ok(vec![good])
        );
        assert_eq!(default.filter("empty.example", vec![], Reach::All), Ok(vec![]));
    }

    #[test]
    fn allowed_hosts_are_exact_or_below_a_domain_and_may_name_a_port() {
        let rules = rules(
            Some(&["Example.org", "*.api.example", "local:8080", "[::1]:81", "10.0.0.7"]),
            false,
            true,
        );
        for url in [
            "http://example.org/",
            "https://EXAMPLE.org.:444/",
            "http://a.b.api.example/",
            "http://local:8080/",
            "http://[::1]:81/",
            "http://0x0a000007/",
        ] {
            assert_eq!(check(&rules, url), Ok(()), "{url}");
        }
        for url in [
            "http://www.example.org/",
            "http://example.org.evil/",
            "http://evilapi.example/",
            "http://api.example/",
            "http://local/",
            "http://[::1]/",
            "http://example.org@evil/",
            "http://10.0.0.8/",
        ] {
            assert!(matches!(check(&rules, url), Err(Refused::Host(_))), "{url}");
        }
        // An allowed host is still not allowed to be a metadata address.
        let rules = self::rules(Some(&["*"]), false, true);
        assert!(check(&rules, "http://anything/").is_ok());
        assert!(matches!(check(&rules, "http://169.254.0.1/"), Err(Refused::LinkLocal { .. })));
        assert!(matches!(check(&rules, "ftp://anything/"), Err(Refused::Scheme(_))));
        for bad in ["http://a", "a/b", "a:99999", "a:b", "u@a", "a*b", "", "*.", "a b"] {
            assert!(HostPattern::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(HostPattern::parse("::1").unwrap(), HostPattern::parse("[::1]").unwrap());
    }
}
