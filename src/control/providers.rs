//! Commands about capability providers (lattice protocol, sections 3.7, 3.12 and 3.13).
//!
//! This host runs actors; providers run on other hosts of the lattice, and it links to them. So it makes no bid in a
//! provider auction, and a command to start one here is refused with that reason, in the ack and in the event that
//! clients wait for.

use bytes::Bytes;
use futures::{FutureExt, future::ready};
use tracing::debug;

use super::{
    server::{Answer, Server, now, parse},
    types::{Ack, LaunchProvider, StopProvider},
};
use crate::{events::Event, identity::keys::LinkName};

impl Server {
    pub(super) fn auction_provider(&self, _: &Bytes) -> Answer {
        debug!("provider auction without a bid of this host");
        ready(None).boxed()
    }

    pub(super) fn launch_provider(&self, payload: &Bytes) -> Answer {
        let request: LaunchProvider = match parse("launch provider", payload) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        let error = format!(
            "host {} runs actors only; start {} on a host that runs capability providers, every actor here can be linked to it",
            self.parts.state.facts().id,
            request.provider_ref
        );
        self.parts.events.publish(Event::ProviderStartFailed {
            provider_ref: request.provider_ref,
            link_name: link_name(request.link_name),
            error: error.clone(),
        });
        now(&Ack::rejected(error))
    }

    pub(super) fn stop_provider(&self, payload: &Bytes) -> Answer {
        let request: StopProvider = match parse("stop provider", payload) {
            Ok(request) => request,
            Err(answer) => return answer,
        };
        let link_name = link_name(request.link_name);
        now(&Ack::rejected(format!(
            "provider {} (link name {link_name}) does not run on this host",
            request.provider_ref
        )))
    }
}

fn link_name(text: String) -> String {
    if text.is_empty() { LinkName::DEFAULT.to_owned() } else { text }
}
