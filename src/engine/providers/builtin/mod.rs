//! Providers that live in the host's own process, so that a newcomer needs nothing else.
//!
//! Each is started by its reference, `builtin://NAME`, and from there on is a provider like any
//! other: it has a public key and claims, is in inventories, events and health checks, is linked by
//! link definitions, and answers on its subject, so that actors of other hosts can use it. Only
//! that calls from this host do not leave the process.
//!
//! * [`Spec`] says what a provider is and documents its link values; [`CATALOGUE`] lists them.
//! * [`Provider`] takes links on; a [`Link`] is one actor's use of it and answers that actor's
//!   calls.
//! * [`values`] reads link values, the same way for all of them.
//! * [`jetstream`] is what those share that keep data in the NATS server.
//!
//! The running of it (subscription, order of links, health, stop) is the supervisor's, in
//! [`super::supervisor`].

pub mod blobstore;
pub mod httpclient;
pub mod httpserver;
pub mod jetstream;
pub mod keyvalue;
pub mod messaging;
pub mod values;

use std::{path::PathBuf, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::Instant;
use tracing::warn;

use self::values::Unknown;
use crate::{
    journal::Writer,
    meter::edges::Caller,
    providers::bounds::Bounds,
    router::Router,
    rpc::call::{Call, CallError},
};
use lattice_base::budget::Budget;
pub use lattice_protocol::builtin::{Known, SCHEME, UnknownBuiltin};
use lattice_protocol::{
    identity::keys::{HostId, LatticeName, LinkName, ProviderId},
    journal::Level,
    links::LinkDefinition,
    rpc::invocation::Entity,
};

/// The account named as issuer in their claims. Like the providers' own keys it is derived from a
/// name; nothing is ever signed with these keys, and nobody has the private halves.
pub const ISSUER: &str = "ACXFDG66TQKP3YZLU3MQTHIIV7YFDQ5IFXYUPQPQSD5FA6GCFGXI6OCS";

/// Unknown values of a link that are told one by one; more are no slips of the pen.
const UNKNOWN_TOLD_MAX: usize = 16;

/// Every built-in provider.
pub static CATALOGUE: [&Spec; 5] =
    [&httpserver::SPEC, &httpclient::SPEC, &keyvalue::SPEC, &messaging::SPEC, &blobstore::SPEC];

/// The description of a built-in provider, before it runs.
#[derive(Debug)]
pub struct Spec {
    /// The part that clients know too: its name, its key, its contract and its title.
    pub known: Known,
    /// One paragraph for `host inspect`.
    pub about: &'static str,
    /// The values a link may have.
    pub values: &'static [Value],
    /// Brings work in from outside the lattice: it stops first when the host stops, while actors
    /// still answer.
    pub is_ingress: bool,
    /// Reads the values of a link without taking it on; returns what is odd about them.
    pub check: fn(&LinkDefinition) -> Result<Vec<String>, LinkError>,
    pub build: fn(Context) -> Arc<dyn Provider>,
}

/// Checks the values of a link to a built-in provider before it is stored, whether that runs or
/// not; returns what is odd about them. A name that the provider does not know is a mistake, unless
/// clients of earlier years send it. A problem that only the provider's machine can see, such as a
/// missing file, is no mistake here. Links that are stored already are not asked about: their
/// provider takes them on without the names that it does not know.
pub fn check(link: &LinkDefinition) -> Result<Vec<String>, LinkError> {
    let Some(spec) = by_key(&link.provider_id) else { return Ok(Vec::new()) };
    if spec.known.contract_id != link.contract_id {
        return Err(LinkError::Values(spec.known.other_contract(&link.contract_id)));
    }
    match (spec.check)(link) {
        Err(LinkError::Unavailable(_)) => Ok(Vec::new()),
        checked => checked,
    }
}

/// One link value, documented.
#[derive(Debug)]
pub struct Value {
    /// As the documentation spells it; read in any case.
    pub name: &'static str,
    /// Other spellings, of the providers of earlier years.
    pub aliases: &'static [&'static str],
    /// The default, in words for people.
    pub default: &'static str,
    pub help: &'static str,
}

/// The built-in provider of a reference: `None` if the reference names something else, an error if
/// no such one exists.
pub fn find(reference: &str) -> Option<Result<&'static Spec, UnknownBuiltin>> {
    let name = reference.strip_prefix(SCHEME)?;
    let found = CATALOGUE.into_iter().find(|spec| spec.known.name == name);
    Some(found.ok_or_else(|| UnknownBuiltin(name.to_owned())))
}

/// The built-in provider with a public key.
pub fn by_key(public_key: &str) -> Option<&'static Spec> {
    CATALOGUE.into_iter().find(|spec| spec.known.public_key == public_key)
}

/// Everything a provider works with. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    pub host_id: HostId,
    pub lattice: LatticeName,
    pub provider_id: ProviderId,
    pub link_name: LinkName,
    pub contract_id: &'static str,
    pub router: Router,
    /// Counts the calls it makes.
    pub made: Arc<Caller>,
    /// Where the provider and the host say what is worth to know of it.
    pub journal: Writer,
    /// The host's connection for calls; its subjects are the lattice's, so nothing else may be
    /// assumed about it.
    pub nats: async_nats::Client,
    pub js_domain: Option<String>,
    /// Limits that no link can lift.
    pub bounds: Bounds,
    /// The memory for payloads of this host.
    pub budget: Budget,
    /// How long a call has, unless a link value says otherwise.
    pub rpc_timeout: Duration,
    /// Where data may be kept that outlives the process.
    pub data_dir: PathBuf,
}

impl Context {
    /// Tells the log, and those who follow the provider, of link values that it does not know; they
    /// may be slips of the pen.
    pub fn tell_unknown(&self, unknown: &[Unknown], link: &LinkDefinition) {
        let LinkDefinition { actor_id, link_name, .. } = link;
        for unknown in unknown.iter().take(UNKNOWN_TOLD_MAX) {
            warn!(%actor_id, %link_name, "{unknown}");
            self.journal.write(Level::Warn, &format!("the link of {actor_id}: {unknown}"));
        }
        if let Some(further @ 1..) = unknown.len().checked_sub(UNKNOWN_TOLD_MAX) {
            warn!(%actor_id, %link_name, further, "more link values have no effect");
        }
    }

    /// Calls a linked actor, locally or over the lattice, as this provider.
    pub async fn call_actor(
        &self,
        actor: &str,
        operation: &str,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, CallError> {
        let (provider_id, link_name) = (self.provider_id.as_str(), self.link_name.as_str());
        let origin = Entity::new(provider_id, link_name, self.contract_id);
        let ends = (origin, Entity::new(actor, "", ""));
        let edge = self.made.to(&ends.1);
        let made = pin!(self.router.call(Call::new(ends, operation, payload, deadline)));
        self.router.accounted(&edge, operation, made).await
    }
}

/// A running built-in provider.
pub trait Provider: Send + Sync + 'static {
    /// Takes on a link. When an actor's link gets other values, the new one is taken on before the
    /// old one ends, so both exist for a moment. Bounded by the caller's deadline; dropping it must
    /// leave nothing behind.
    fn link(
        self: Arc<Self>,
        link: Arc<LinkDefinition>,
    ) -> BoxFuture<'static, Result<Arc<dyn Link>, LinkError>>;
}

/// One actor's use of a provider.
pub trait Link: Send + Sync + 'static {
    /// Performs a call of the linked actor.
    fn call(self: Arc<Self>, call: Call) -> BoxFuture<'static, Result<Bytes, CallError>>;

    /// Ends the link: takes no new work, returns when what is in work is done, at the latest at the
    /// deadline.
    fn end(self: Arc<Self>, deadline: Instant) -> BoxFuture<'static, ()>;
}

/// Why a link cannot be taken on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nothing but other values helps.
    #[error("{0}")]
    Values(String),
    /// Something else is in the way: it is tried again until the link is gone.
    #[error("{0}")]
    Unavailable(String),
}

/// The error of an operation the contract does not have.
pub fn unknown_operation(call: &Call) -> CallError {
    CallError::Callee(format!("method not handled {}", call.operation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::builtin;

    #[test]
    fn every_provider_that_clients_know_is_here() {
        let names = CATALOGUE.map(|spec| spec.known.name);
        assert_eq!(names, builtin::CATALOGUE.each_ref().map(|known| known.name));
    }
}
