//! The parts of a hub of one's own: a directory with keys, a certificate, and the configurations of
//! the hub and of the NATS servers beside the hosts.
//!
//! [`Hub::prepare`] makes it. Keys are made once and then kept, so that it can be called again, for
//! another address say; everything that follows from the keys is written anew. The example `hub`
//! calls it for a directory of the user's, the example `two-machines` and the tests for one of
//! their own.

pub mod authority;
pub mod files;
pub mod machines;
pub mod operator;

use std::{
    net::Ipv6Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use authority::Authority;
use machines::{Changes, Kind};
use operator::Operator;

/// The configuration of the hub.
pub const HUB_CONFIG: &str = "hub.cfg";
/// The file that a machine needs to be let in, beside the configuration of its server.
pub const CREDENTIALS: &str = "lattice.creds";
/// The authority that machines trust.
pub const AUTHORITY: &str = "ca.pem";
/// Where a hub can always be reached on its own machine.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// How a hub is to be reached.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// `host:port` for clients with the credentials.
    pub clients: String,
    /// `host:port` where the servers of the machines come in.
    pub leaves: String,
    /// Names and addresses under which machines know the hub; its certificate holds for them. The
    /// first is the one in their configurations; without any it is this machine.
    pub names: Vec<String>,
}

/// A hub that is ready to be started.
#[derive(Clone, Debug)]
pub struct Hub {
    pub dir: PathBuf,
    /// The address that the servers of the machines connect to.
    pub url: String,
}

impl Hub {
    /// Makes or completes the hub in `dir`.
    pub fn prepare(dir: &Path, addresses: &Addresses) -> Result<Self> {
        if let Some(name) = addresses.names.iter().find(|name| !is_name(name)) {
            bail!(
                "{name:?} is no name of a machine; use one such as hub.example.org, or an IP address"
            );
        }
        let keys = dir.join("keys");
        files::create_dir(&keys)?;
        let operator = Operator::new(&operator::keep(&keys)?, "lattice")?;
        let authority = Authority::keep(&keys, &dir.join(AUTHORITY), "lattice hub authority")?;
        let names: Vec<String> =
            addresses.names.iter().cloned().chain(LOCAL_NAMES.map(str::to_owned)).collect();
        authority.sign(&dir.join("hub.pem"), &dir.join("hub-key.pem"), "lattice hub", &names)?;
        files::write_secret(&dir.join(CREDENTIALS), &operator.creds())?;
        // It holds signed claims, which tell who is trusted, and no seed.
        files::write(&dir.join(HUB_CONFIG), &configuration(addresses, &operator))?;
        let (_, port) =
            addresses.leaves.rsplit_once(':').context("the address for machines has no port")?;
        let name = addresses.names.first().map_or("127.0.0.1", String::as_str);
        let name = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
        Ok(Self { dir: dir.to_path_buf(), url: format!("tls://{name}:{port}") })
    }

    /// Puts into `machine` what lets a server there join this hub: credentials, the authority, and
    /// the configuration that the hosts' walk uses, with this hub in place of the public one.
    /// Returns the configuration's path.
    pub fn equip(&self, machine: &Path, kind: Kind, changes: &Changes) -> Result<PathBuf> {
        files::create_dir(machine)?;
        if machine != self.dir {
            let read = |name: &str| {
                std::fs::read_to_string(self.dir.join(name)).with_context(|| format!("read {name}"))
            };
            files::write_secret(&machine.join(CREDENTIALS), &read(CREDENTIALS)?)?;
            files::write(&machine.join(AUTHORITY), &read(AUTHORITY)?)?;
        }
        let path = machine.join(kind.file_name());
        files::write(&path, &machines::configuration(kind, &self.url, changes)?)?;
        Ok(path)
    }
}

/// Whether this can be a host name or an IP address. It will stand in a certificate and in
/// configurations.
fn is_name(text: &str) -> bool {
    let is_host = |text: &str| {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    !text.is_empty() && (is_host(text) || text.parse::<Ipv6Addr>().is_ok())
}

fn configuration(addresses: &Addresses, operator: &Operator) -> String {
    let Addresses { clients, leaves, .. } = addresses;
    let trust = &operator.server_config;
    format!(
        "# The hub that the NATS servers of all machines join. It keeps nothing: streams live on the machines.\n\
         # Start it in this directory with: nats-server --config {HUB_CONFIG}\n\
         \n\
         # For clients with {CREDENTIALS}.\n\
         listen: \"{clients}\"\n\
         \n\
         # A machine that vanished is out of its queue groups after four seconds.\n\
         ping_interval: \"1s\"\n\
         ping_max: 3\n\
         \n\
         leafnodes {{\n    \
             listen: \"{leaves}\"\n    \
             tls {{\n        \
                 cert_file: \"./hub.pem\"\n        \
                 key_file: \"./hub-key.pem\"\n    \
             }}\n\
         }}\n\
         \n\
         # Who signs for users, and the accounts.\n\
         {trust}"
    )
}
