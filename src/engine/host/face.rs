//! The face that a host shows to people, from outside this crate. It is opened when all else is
//! ready.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;
use futures::future::BoxFuture;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    actors::{self, actor::Slots, engine::Engine},
    host_context::HostContext,
    providers::{self, bounds::OwnSockets},
    router, rpc,
};
use lattice_base::{config, store::jetstream::making::Making};

/// Opens the page of a host. A host without one works as well.
pub trait Face: Send + Sync {
    /// Listens, and answers from here on; everything ends with `stop`.
    fn open<'a>(
        &'a self,
        parts: Parts,
        settings: &'a config::Dashboard,
        state_dir: &'a Path,
        tasks: &'a TaskTracker,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Place>>;
}

/// The parts of the host that the dashboard works with.
pub struct Parts {
    pub context: Arc<HostContext>,
    /// Makes the calls of the call tester.
    pub caller: rpc::client::Client,
    pub sockets: OwnSockets,
    pub router: router::Router,
    pub engine: Engine,
    pub slots: Slots,
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
