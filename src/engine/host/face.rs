//! The parts of a host that stand outside of this crate: the face it shows to people, and the
//! keeping of applications. They are opened when all else is ready.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::future::BoxFuture;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    actors::{self, actor::Slots, engine::Engine},
    host_context::HostContext,
    providers::{self, bounds::OwnSockets},
    router, rpc,
};
use lattice_base::{config::Config, store::jetstream::making::Making};

/// Opens what stands outside. A host without any of it works as well.
pub trait Face: Send + Sync {
    /// Opens what the settings want, each working from here on; everything ends with `stop`. What
    /// cannot be opened is logged, and left out.
    fn open<'a>(
        &'a self,
        parts: Parts,
        config: &'a Config,
        state_dir: &'a Path,
        tasks: &'a TaskTracker,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Opened>;
}

/// The parts that were opened.
#[derive(Default)]
pub struct Opened {
    /// Where the dashboard is, if there is one.
    pub dashboard: Option<Place>,
    /// Keeps applications, if anything does.
    pub manager: Option<Arc<dyn Commander>>,
}

/// A part that commands hosts. It ends before this host takes no more commands.
pub trait Commander: Send + Sync {
    /// Ends within a second.
    fn stop(&self) -> BoxFuture<'_, ()>;
}

/// The parts of the host that these work with.
pub struct Parts {
    pub context: Arc<HostContext>,
    /// Makes the calls of the call tester.
    pub caller: rpc::client::Client,
    pub sockets: OwnSockets,
    pub router: router::Router,
    pub engine: Engine,
    pub slots: Slots,
    pub component_slots: Slots,
    pub actors: actors::supervisor::Handle,
    pub providers: providers::supervisor::Handle,
    /// How the bucket of uploads is made.
    pub uploads: Making,
}

/// Where the dashboard is, for those who tell users.
#[derive(Clone, Debug)]
pub struct Place {
    pub address: SocketAddr,
    /// The file with the secret that opens it; none if there is no place to keep one.
    pub token_file: Option<PathBuf>,
}

impl Place {
    /// The address of the page on this machine.
    pub fn url(&self) -> String {
        match self.address.ip().is_unspecified() {
            true => format!("http://localhost:{}", self.address.port()),
            false => format!("http://{}", self.address),
        }
    }
}
