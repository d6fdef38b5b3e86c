//! Where requests may go.
//!
//! Two questions are asked of every request and of every redirect: is the host one of those the link allows, and does it
//! stand for an address that actors have no business with? The second one is asked of what a name *resolves to*, by
//! [`super::resolve`], to whose answer the connection is made; so a name that resolves to something else the second time
//! gains nothing. A host that is an address is never looked up and is therefore checked in [`Rules::check`], after the URL
//! parser has turned every spelling of an address (`0xA9FEA9FE`, `2852039166`, `0251.0376.…`) into the usual one.
//! Behind a proxy it is the proxy that resolves names: there only names and addresses as written are checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;

use crate::providers::builtin::{LinkError, values::wrong};

/// Names that clouds give the address at which they tell a machine its secrets.
const METADATA_NAMES: [&str; 5] = [
    "metadata.google.internal",
    "metadata.goog",
    "metadata.tencentyun.com",
    "instance-data",
    "instance-data.ec2.internal",
];

/// What a link allows.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// `None` allows every host.
    pub hosts: Option<Vec<HostPattern>>,
    /// Link-local addresses, and those of cloud metadata services.
    pub allow_link_local: bool,
    /// Loopback, private networks and whatever else is not the internet.
    pub allow_private: bool,
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
    #[error("{what} is a loopback or private address, which the link value allow_private=false forbids")]
    Private { what: String },
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
    /// Reads `example.org`, `*.example.org`, `127.0.0.1`, `[::1]`, each with an optional `:port`; `*` is every host.
    pub(super) fn parse(text: &str) -> Result<Self, LinkError> {
        let expected = "a comma list of hosts such as example.org, *.example.org, 10.0.0.7:8080 or [::1]:8080";
        let mistake = || wrong("allowed_hosts", text, expected);
        if text == "*" {
            return Ok(Self { host: String::new(), below: true, port: None });
        }
        let (below, rest) = text.strip_prefix("*.").map_or((false, text), |rest| (true, rest));
        if let Ok(address) = rest.parse::<Ipv6Addr>() {
            return Ok(Self { host: format!("[{address}]"), below, port: None });
        }
        // A colon inside brackets belongs to the address.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port.parse().map_err(|_| mistake())?)),
            _ => (rest, None),
        };
        if host.contains(['/', '@', '?', '#', '\\', '*']) {
            return Err(mistake());
        }
        let url = Url::parse(&format!("http://{host}/")).map_err(|_| mistake())?;
        let host = host_of(&url).ok_or_else(mistake)?;
        Ok(Self { host, below, port })
    }

    fn matches(&self, host: &str, port: Option<u16>) -> bool {
        if self.port.is_some_and(|only| port != Some(only)) {
            return false;
        }
        if !self.below {
            return host == self.host;
        }
        self.host.is_empty() || host.strip_suffix(&*self.host).is_some_and(|below| below.ends_with('.'))
    }
}

impl Rules {
    /// Checks what can be seen of a URL without looking its host up. `by_proxy`: nobody here will look it up.
    pub(super) fn check(&self, url: &Url, by_proxy: bool) -> Result<(), Refused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme(url.scheme().to_owned()));
        }
        let host = host_of(url).ok_or(Refused::NoHost)?;
        self.check_host(&host, url.port_or_known_default())?;
        let what = || host.clone();
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return self.check_address(address, &what);
        }
        if METADATA_NAMES.contains(&&*host) && !self.allow_link_local {
            return Err(Refused::LinkLocal { what: what() });
        }
        let is_this_machine = host == "localhost" || host.ends_with(".localhost");
        if by_proxy && is_this_machine && !self.allow_private {
            return Err(Refused::Private { what: what() });
        }
        Ok(())
    }

    fn check_host(&self, host: &str, port: Option<u16>) -> Result<(), Refused> {
        match &self.hosts {
            Some(allowed) if !allowed.iter().any(|pattern| pattern.matches(host, port)) => Err(Refused::Host(
                port.filter(|port| ![80, 443].contains(port))
                    .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
            )),
            _ => Ok(()),
        }
    }

    fn check_address(&self, address: IpAddr, what: &dyn Fn() -> String) -> Result<(), Refused> {
        match Zone::of(address) {
            Zone::LinkLocal if !self.allow_link_local => Err(Refused::LinkLocal { what: what() }),
            Zone::Private if !self.allow_private => Err(Refused::Private { what: what() }),
            _ => Ok(()),
        }
    }

    /// Keeps the allowed ones of a name's addresses; refuses if none is left.
    pub(super) fn filter(&self, name: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refused> {
        let mut refused = None;
        let mut allowed = Vec::with_capacity(found.len());
        for socket in found {
            match self.check_address(socket.ip(), &|| format!("{name} resolves to {}, which", socket.ip())) {
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

/// The host of a URL as rules compare it: lower case by the parser's doing, without the final dot of an absolute name.
pub(super) fn host_of(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| host.to_owned())
}

/// What kind of network an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zone {
    Public,
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
            [169, 254, ..] | [100, 100, 100, 200] | [192, 0, 0, 192] | [168, 63, 129, 16] => Self::LinkLocal,
            [0 | 10 | 127, ..] | [192, 168, ..] | [172, 16..=31, ..] => Self::Private,
            // Carriers' own networks, protocol assignments, benchmarks; multicast and what is reserved.
            [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] | [224..=255, ..] => Self::Private,
            _ => Self::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        let segments = address.segments();
        let embedded = |high: u16, low: u16| {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            Self::of_v4(Ipv4Addr::new(a, b, c, d))
        };
        match segments {
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Self::Private,
            // IPv4 in IPv6: compatible, mapped, translated, by NAT64 (well-known and local prefix), by 6to4.
            [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => embedded(high, low),
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, .., high, low] => embedded(high, low),
            [0x2002, high, low, ..] => embedded(high, low),
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
        let hosts = hosts.map(|hosts| hosts.iter().map(|host| HostPattern::parse(host).unwrap()).collect());
        Rules { hosts, allow_link_local, allow_private }
    }

    fn check(rules: &Rules, url: &str) -> Result<(), Refused> {
        rules.check(&Url::parse(url).unwrap(), false)
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
            "127.0.0.1",
            "127.1",
            "0",
            "0.0.0.0",
            "10.1.2.3",
            "172.31.255.255",
            "192.168.0.1",
            "100.64.0.1",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[fc00::1]",
            "[fd12:3456::1]",
        ] {
            let url = format!("http://{host}:8080/");
            assert_eq!(check(&default, &url), Ok(()), "{host}");
            assert!(matches!(check(&strict, &url), Err(Refused::Private { .. })), "{host}");
        }
        for host in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "[2606:4700::1111]", "[::ffff:8.8.8.8]", "example.org"] {
            assert_eq!(check(&strict, &format!("https://{host}/")), Ok(()), "{host}");
        }
        // A proxy would look it up on its own machine.
        let local = Url::parse("http://localhost/").unwrap();
        assert!(strict.check(&local, false).is_ok() && strict.check(&local, true).is_err());
    }

    #[test]
    fn a_name_is_judged_by_what_it_resolves_to() {
        let default = rules(None, false, true);
        let socket = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (bad, mapped) = (socket("169.254.169.254:0"), socket("[::ffff:169.254.169.254]:0"));
        let good = socket("93.184.216.34:0");
        let refused = default.filter("rebind.example", vec![bad, mapped]).unwrap_err();
        assert!(refused.to_string().starts_with("rebind.example resolves to"), "{refused}");
        assert_eq!(default.filter("mixed.example", vec![bad, good, mapped]), Ok(vec![good]));
        assert_eq!(default.filter("empty.example", vec![]), Ok(vec![]));
    }

    #[test]
    fn allowed_hosts_are_exact_or_below_a_domain_and_may_name_a_port() {
        let rules = rules(Some(&["Example.org", "*.api.example", "local:8080", "[::1]:81", "10.0.0.7"]), false, true);
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
