//! The logs of actors and providers: `probe.{host}.logs`, answered as
//! [`wire`](lattice_protocol::journal::wire) says.

use async_nats::Subject;
use futures::{FutureExt, future::ready};

use crate::control::server::{Answer, Server, json, now};
use lattice_protocol::{
    control::{bounds, types::Ack},
    journal::wire::Ask,
};

impl Server {
    pub(in crate::control) fn probe_logs(&self, ask: Ask, reply: Option<&Subject>) -> Answer {
        if let Err(error) = bounds::name(&ask.entity)
            .and_then(|()| bounds::name(ask.follow.as_deref().unwrap_or_default()))
        {
            return now(&Ack::rejected(error));
        }
        let part = self.parts.followers.take(ask, reply.cloned());
        ready(part.and_then(|part| json(&part))).boxed()
    }
}
