//! Commands about capability providers: auction, launch, stop (lattice protocol, sections 3.7, 3.12
//! and 3.13).

use futures::FutureExt;

use super::server::{Answer, Server, now, with_kept};
use crate::providers::{
    builtin,
    supervisor::{Start, Stop},
};
use lattice_protocol::{
    control::{
        bounds,
        request::{AuctionProvider, LaunchProvider, StopProvider},
        types::{Ack, ProviderBid},
    },
    events::Event,
    identity::keys::LinkName,
};

impl Server {
    pub(super) fn bid_for_provider(&self, mut request: AuctionProvider) -> Option<ProviderBid> {
        request.link_name = link_name(request.link_name);
        let could_start = match builtin::find(&request.provider_ref) {
            Some(found) => found.is_ok(),
            None => {
                self.parts.allow_external && self.parts.registry.could_fetch(&request.provider_ref)
            }
        };
        let is_bounded = bounds::reference(&request.provider_ref).is_ok()
            && bounds::constraints(&request.constraints).is_ok();
        if !is_bounded
            || self.refusal().is_some()
            || !could_start
            || self.runs(&request)
            || !self.parts.context.state.matches(&request.constraints)
        {
            return None;
        }
        let AuctionProvider { constraints, link_name, provider_ref } = request;
        Some(ProviderBid {
            provider_ref,
            link_name,
            constraints,
            host_id: self.parts.context.state.facts().id.to_string(),
        })
    }

    /// Whether the provider of an auction runs here under that link name; by reference or by what
    /// it led to.
    fn runs(&self, request: &AuctionProvider) -> bool {
        let table = self.parts.context.links.table();
        let key = table
            .public_key_of(&request.provider_ref)
            .map(AsRef::as_ref)
            .unwrap_or(&*request.provider_ref);
        self.parts.providers.running().iter().any(|provider| {
            provider.link_name.as_str() == request.link_name
                && (provider.reference == request.provider_ref || provider.id.as_str() == key)
        })
    }

    pub(super) fn launch_provider(&self, mut request: LaunchProvider) -> Answer {
        let bounded = bounds::start(&request.provider_ref, &request.annotations)
            .and_then(|()| bounds::configuration(request.configuration.as_deref()))
            // It becomes a part of subjects, and a NATS server ends a connection with long ones.
            .and_then(|()| bounds::name(&request.link_name));
        if let Err(error) = bounded {
            return now(&Ack::rejected(error));
        }
        if let Some(refusal) = self.refusal() {
            return now(&refusal);
        }
        let link_name = match LinkName::parse(&link_name(request.link_name.clone())) {
            Ok(link_name) => link_name,
            Err(error) => {
                // Clients of some years wait for the event only.
                self.parts.context.events.publish(Event::ProviderStartFailed {
                    provider_ref: request.provider_ref,
                    link_name: request.link_name,
                    error: error.to_string(),
                });
                return now(&Ack::rejected(error));
            }
        };
        let change =
            self.parts.context.issuers.permission(&mut request.annotations, &request.provider_ref);
        let issuer_change = match change {
            Ok(change) => change,
            Err(error) => return now(&Ack::rejected(error)),
        };
        let start = Start {
            reference: request.provider_ref,
            link_name,
            // Clients that have none send an empty text.
            configuration: request.configuration.filter(|configuration| !configuration.is_empty()),
            annotations: request.annotations,
            issuer_change,
        };
        let started = self.parts.kept.start_provider(start);
        async move { with_kept(started.await).await }.boxed()
    }

    pub(super) fn stop_provider(&self, request: StopProvider) -> Answer {
        if let Err(error) = bounds::start(&request.provider_ref, &request.annotations) {
            return now(&Ack::rejected(error));
        }
        let link_name = match LinkName::parse(&link_name(request.link_name)) {
            Ok(link_name) => link_name,
            Err(error) => return now(&Ack::rejected(error)),
        };
        let troubles = self.parts.context.events.troubles();
        troubles.forget_provider(&request.provider_ref, link_name.as_str());
        let stopped = self.parts.kept.stop_provider(Stop {
            provider: request.provider_ref,
            link_name,
            annotations: request.annotations,
        });
        async move { with_kept(stopped.await).await }.boxed()
    }
}

fn link_name(text: String) -> String {
    if text.is_empty() { LinkName::DEFAULT.to_owned() } else { text }
}
