//! Settings that a running host takes anew, and what a drain from inside needs.

use tracing::info;

use super::Host;
use crate::control::labels::bytes_max;
use lattice_base::{
    config::{self, OciCredentials, labels::LabelError},
    lattice::connection::{ConnectError, Nats, Purpose, connect_once},
};
use lattice_protocol::{control::types::Pairs, lattice::subject::Subjects};

/// Why a connection was not made anew.
#[derive(Debug, thiserror::Error)]
pub enum ReconnectError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the NATS client does not take the command: {0}")]
    Client(String),
}

impl Host {
    /// The connection of the control interface.
    pub fn ctl(&self) -> &Nats {
        &self.context.ctl
    }

    /// The subjects of the lattice.
    pub fn subjects(&self) -> &Subjects {
        &self.context.subjects
    }

    /// Takes the labels that the settings have now in place of those they had before, and tells
    /// the others. Labels that clients set meanwhile stay.
    pub fn replace_labels(&self, before: &Pairs, now: &Pairs) -> Result<(), LabelError> {
        let state = &self.context.state;
        let bytes_max = bytes_max(self.context.ctl.client.server_info().max_payload);
        state.replace_labels(before, now, bytes_max)?;
        self.tell_heartbeat();
        Ok(())
    }

    /// Takes the login of a registry that the settings have now.
    pub fn set_registry_login(&self, login: Option<OciCredentials>) {
        self.registry.set_login(login);
    }

    /// Makes a connection anew, so that it has the certificates and the login that are in its files
    /// now.
    ///
    /// # Errors
    ///
    /// If no connection can be made with them. The one there is stays then.
    pub async fn reconnect(
        &self,
        purpose: Purpose,
        settings: &config::Connection,
    ) -> Result<(), ReconnectError> {
        let nats = match purpose {
            Purpose::Control => &self.context.ctl,
            Purpose::Rpc => &self.context.rpc,
        };
        // Tried first: a connection that was given up would not come back with bad files.
        drop(connect_once(purpose, settings, "host reload").await?);
        info!(connection = %purpose, "certificates or credentials changed, connecting anew");
        let reconnected = nats.client.force_reconnect().await;
        reconnected.map_err(|error| ReconnectError::Client(error.to_string()))
    }
}
