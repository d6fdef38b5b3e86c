//! The sockets that no actor reaches through a built-in provider: those of the host, and of the
//! NATS servers it uses.
//!
//! The dashboard and a NATS server take the one who calls from this machine for somebody who may
//! operate the host; a provider calls from this machine. Which sockets these are is known from the
//! settings, from what the servers say of themselves, and, on this machine, by the usual ports of a
//! NATS server's other doors. Compared is the address that a connection is really made to, never a
//! name. An own socket is met by every address of this machine: loopback, the unspecified ones,
//! those of its interfaces, and IPv4 ones written as IPv6.
//!
//! Two things cannot be known: an address of another machine that leads back here (a router's
//! forwarded port, a proxy on the way), and the doors of NATS servers on other machines beside
//! those named here. The dashboard's login is for these.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use lattice_base::lattice::connection::Nats;

/// Ports of a NATS server's other doors, by its manual: monitoring, the cluster, leaf nodes.
const NATS_PORTS: [u16; 3] = [8222, 6222, 7422];

/// How long the name of a server may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// The own sockets of one host, as they are now. Cheap to clone; clones share what is known.
#[derive(Clone, Debug, Default)]
pub struct OwnSockets(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The addresses this process listens on.
    host: ArcSwap<Vec<SocketAddr>>,
    /// Where the NATS servers of the host take clients.
    clients: ArcSwap<Vec<SocketAddr>>,
    /// Their other doors.
    doors: ArcSwap<Vec<SocketAddr>>,
}

impl OwnSockets {
    /// Adds a socket that this process listens on.
    pub fn add(&self, address: SocketAddr) {
        self.0.host.rcu(|known| known.iter().copied().chain([address]).collect::<Vec<_>>());
    }

    /// Returns whether some own socket has this port.
    pub fn has_port(&self, port: u16) -> bool {
        self.some(|known| known.port() == port)
    }

    /// Returns whether a connection to this address would reach an own socket.
    pub fn contains(&self, address: SocketAddr) -> bool {
        self.some(|known| meets(known, address))
    }

    /// Returns whether a connection to this address would reach a NATS server of this host as a
    /// client.
    pub fn takes_clients(&self, address: SocketAddr) -> bool {
        self.0.clients.load().iter().any(|known| meets(*known, address))
    }

    /// Returns whether listening on this address would take the place of an own socket.
    pub fn is_taken(&self, address: SocketAddr) -> bool {
        address.port() != 0 && self.some(|known| known.port() == address.port() && is_here(known))
    }

    /// Returns whether an address is one of this machine's.
    pub fn is_of_this_machine(address: IpAddr) -> bool {
        let address = plain(address);
        // Only an own address can be bound.
        address.is_loopback() || address.is_unspecified() || UdpSocket::bind((address, 0)).is_ok()
    }

    fn some(&self, is_it: impl Fn(SocketAddr) -> bool) -> bool {
        let Inner { host, clients, doors } = &*self.0;
        [host, clients, doors].iter().any(|list| list.load().iter().any(|known| is_it(*known)))
    }

    /// Looks the NATS servers up, and again whenever a connection comes back: it may have found
    /// another one.
    pub async fn follow(
        self,
        servers: Vec<String>,
        connections: [Nats; 2],
        stop: CancellationToken,
    ) {
        let [mut first, mut second] = connections.each_ref().map(|nats| nats.reconnects.clone());
        loop {
            self.look(&servers, &connections).await;
            tokio::select! {
                () = stop.cancelled() => return,
                changed = first.changed() => if changed.is_err() { return },
                changed = second.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Looks the NATS servers up once: `servers` of the settings, as URLs, and what those that are
    /// connected tell.
    pub async fn look(&self, servers: &[String], connections: &[Nats]) {
        let infos: Vec<_> = connections.iter().map(|nats| nats.client.server_info()).collect();
        let told = infos.iter().flat_map(|info| info.connect_urls.iter().map(String::as_str));
        let mut clients = Vec::new();
        for server in servers.iter().map(|url| authority(url)).chain(told) {
            // A name without an answer leads nowhere for an actor, either.
            let found = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host(server)).await;
            clients.extend(found.into_iter().flatten().flatten());
        }
        let here = clients.iter().any(|address| is_here(*address));
        if here {
            // Behind a proxy, or a container's forwarded port, the server itself has another one.
            clients.extend(
                infos.iter().map(|info| SocketAddr::from((Ipv4Addr::LOCALHOST, info.port))),
            );
        }
        let doors = NATS_PORTS.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        self.0.doors.store(Arc::new(if here { doors.to_vec() } else { Vec::new() }));
        self.0.clients.store(Arc::new(clients));
    }
}

/// `host:port` of a server's URL.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.rsplit_once('@').map_or(rest, |(_, authority)| authority)
}

fn is_here(address: SocketAddr) -> bool {
    OwnSockets::is_of_this_machine(address.ip())
}

fn meets(known: SocketAddr, address: SocketAddr) -> bool {
    known.port() == address.port()
        && (plain(known.ip()) == plain(address.ip()) || (is_here(known) && is_here(address)))
}

/// An IPv4 address that is written as IPv6, as IPv4.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(six) => embedded_v4(six).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Returns the IPv4 address in an IPv6 one: compatible, mapped, translated, by NAT64 (well-known
/// and local prefix), by 6to4.
pub fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (high, low) = match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => return None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => (high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, .., high, low] => (high, low),
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Some(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// The address of an interface, where there is one besides loopback.
    fn interface() -> Option<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        // Nothing is sent: it only chooses the interface.
        socket.connect("192.0.2.1:9").ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    }

    #[test]
    fn an_own_socket_is_met_by_every_address_of_this_machine() {
        let own = OwnSockets::default();
        own.add(socket("127.0.0.1:4000"));
        own.add(socket("192.0.2.7:4222"));
        let mut met: Vec<SocketAddr> = [
            "127.0.0.1:4000",
            "127.0.0.2:4000",
            "127.255.255.254:4000",
            "0.0.0.0:4000",
            "[::1]:4000",
            "[::]:4000",
            "[::ffff:127.0.0.1]:4000",
            "[::ffff:0.0.0.0]:4000",
            "[64:ff9b::7f00:1]:4000",
            "192.0.2.7:4222",
            "[::ffff:192.0.2.7]:4222",
        ]
        .map(socket)
        .to_vec();
        met.extend(interface().map(|ip| SocketAddr::new(ip, 4000)));
        for address in met {
            assert!(own.contains(address), "{address}");
        }
        for address in
            ["127.0.0.1:4001", "192.0.2.7:4000", "127.0.0.1:4222", "192.0.2.8:4222", "1.1.1.1:4000"]
        {
            assert!(!own.contains(socket(address)), "{address}");
        }
        assert!(own.has_port(4000) && own.has_port(4222) && !own.has_port(80));
    }

    #[test]
    fn nobody_else_listens_in_the_place_of_an_own_socket() {
        let own = OwnSockets::default();
        own.add(socket("127.0.0.1:4000"));
        own.add(socket("192.0.2.7:4222"));
        for (address, is_taken) in [
            ("0.0.0.0:4000", true),
            ("[::]:4000", true),
            ("127.0.0.1:4000", true),
            ("127.0.0.1:4001", false),
            ("127.0.0.1:0", false),
            // Another machine's.
            ("0.0.0.0:4222", false),
        ] {
            assert_eq!(own.is_taken(socket(address)), is_taken, "{address}");
        }
    }

    #[test]
    fn addresses_of_servers_are_read_from_their_urls() {
        for (url, expected) in [
            ("nats://127.0.0.1:4222", "127.0.0.1:4222"),
            ("tls://me:p@ss@hub.example:7422", "hub.example:7422"),
            ("10.0.0.7:4222", "10.0.0.7:4222"),
            ("nats://[::1]:4222", "[::1]:4222"),
        ] {
            assert_eq!(authority(url), expected);
        }
    }
}
