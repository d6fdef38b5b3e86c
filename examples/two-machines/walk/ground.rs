//! Where the machines are, and under which addresses they know each other.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use tokio::process::Command;

use super::netns::Network;

/// The ports everybody expects; on one computer the next free ones.
pub const NATS_PORT: u16 = 4222;
const LEAF_PORT: u16 = 7422;
const HUB_CLIENTS_PORT: u16 = 4333;
const PAGE_PORT: u16 = 8080;

/// Where machines are.
pub enum Ground {
    /// All on this computer, with ports of their own. The function finds a free port, at or after
    /// the one wished for.
    OneComputer { free_port: fn(u16) -> u16 },
    /// Each in a network namespace, with the same ports.
    Namespaces(Network),
}

/// One machine's share of the ground.
#[derive(Clone, Debug)]
pub struct Place {
    namespace: Option<String>,
    /// The port of its NATS server, on its own loopback interface.
    pub nats_port: u16,
    /// `host:port` of its NATS server, for this program.
    pub nats: String,
    /// `host:port` at which its web server is to listen.
    pub page_listen: String,
    /// `host:port` of its web server, for this program.
    pub page: String,
}

/// The hub's share.
#[derive(Clone, Debug)]
pub struct HubPlace {
    namespace: Option<String>,
    pub clients: String,
    pub leaves: String,
    /// Under which the machines know it.
    pub name: String,
}

impl Ground {
    pub fn hub(&self) -> HubPlace {
        match self {
            Self::OneComputer { free_port } => HubPlace {
                namespace: None,
                clients: format!("127.0.0.1:{}", free_port(HUB_CLIENTS_PORT)),
                leaves: format!("127.0.0.1:{}", free_port(LEAF_PORT)),
                name: "127.0.0.1".into(),
            },
            Self::Namespaces(network) => HubPlace {
                namespace: Some(network.hub().namespace.clone()),
                clients: format!("127.0.0.1:{HUB_CLIENTS_PORT}"),
                leaves: format!("0.0.0.0:{LEAF_PORT}"),
                name: network.hub().wide_address.clone(),
            },
        }
    }

    /// The place of the machine with this number.
    pub fn machine(&self, number: usize) -> Place {
        match self {
            Self::OneComputer { free_port } => {
                let (nats_port, page_port) = (free_port(NATS_PORT), free_port(PAGE_PORT));
                let page = format!("127.0.0.1:{page_port}");
                let nats = format!("127.0.0.1:{nats_port}");
                Place { namespace: None, nats_port, nats, page_listen: page.clone(), page }
            }
            Self::Namespaces(network) => {
                let corner = network.machine(number);
                Place {
                    namespace: Some(corner.namespace.clone()),
                    nats_port: NATS_PORT,
                    nats: format!("{}:{NATS_PORT}", corner.near_address),
                    page_listen: format!("0.0.0.0:{PAGE_PORT}"),
                    page: format!("{}:{PAGE_PORT}", corner.near_address),
                }
            }
        }
    }

    /// Where this program serves what machines ask the web for; the port is any free one.
    pub fn web(&self) -> SocketAddr {
        let address = match self {
            Self::OneComputer { .. } => Ipv4Addr::LOCALHOST,
            Self::Namespaces(network) => network.outside(),
        };
        SocketAddr::from((address, 0))
    }

    /// Whether machines have addresses of their own, so that one link's address does for all.
    pub fn is_apart(&self) -> bool {
        matches!(self, Self::Namespaces(_))
    }
}

impl Place {
    /// A command that will run there.
    pub fn command(&self, program: &Path) -> Command {
        command(self.namespace.as_deref(), program)
    }

    /// The listen address its NATS server needs in its configuration, if not the usual one.
    pub fn nats_listen(&self) -> Option<String> {
        match self.namespace {
            Some(_) => None,
            None => Some(self.nats.clone()),
        }
    }
}

impl HubPlace {
    pub fn command(&self, program: &Path) -> Command {
        command(self.namespace.as_deref(), program)
    }
}

/// `ip netns exec` becomes the program, so a signal to the command is one to the program.
fn command(namespace: Option<&str>, program: &Path) -> Command {
    let Some(namespace) = namespace else { return Command::new(program) };
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}
