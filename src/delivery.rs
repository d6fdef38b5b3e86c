//! Acts on changes of the lattice's metadata: tells providers about their links, and the lattice about what changed.
//!
//! Every host does this for every change, because clients of 2023 write the bucket directly and tell nobody. Providers
//! keep one link per actor and ignore what they know, so repeats do no harm (lattice protocol, section 5).
//!
//! A provider takes no new values for an actor it is linked to. When the values of a link change, or it moves to another
//! provider, the old link is deleted there first.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::{
    events::{Event, Publisher},
    identity::keys::{LinkName, ProviderId},
    lattice::subject::Subjects,
    links::{
        LinkDefinition,
        live::{Notice, Origin},
        table::Change,
    },
};

/// How long handing one message to the connection may take; it only waits when the server is away.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends links to providers. Cheap to clone.
#[derive(Clone)]
pub struct LinkSender {
    pub rpc: async_nats::Client,
    pub subjects: Subjects,
}

impl LinkSender {
    /// Tells the provider of a link that it is there. A provider that knows it already does nothing.
    pub async fn put(&self, link: &LinkDefinition) {
        self.send(link, Subjects::link_put).await;
    }

    /// Tells the provider of a link that it is gone.
    pub async fn delete(&self, link: &LinkDefinition) {
        self.send(link, Subjects::link_del).await;
    }

    async fn send(&self, link: &LinkDefinition, subject: fn(&Subjects, &ProviderId, &LinkName) -> String) {
        let (provider, link_name) = match (ProviderId::parse(&link.provider_id), LinkName::parse(&link.link_name)) {
            (Ok(provider), Ok(link_name)) => (provider, link_name),
            (Err(error), _) | (_, Err(error)) => {
                warn!(link_id = %link.id(), %error, "link definition not delivered: it names no provider");
                return;
            }
        };
        let subject = subject(&self.subjects, &provider, &link_name);
        let payload = match rmp_serde::to_vec_named(link) {
            Ok(payload) => Bytes::from(payload),
            Err(error) => return warn!(link_id = %link.id(), %error, "link definition not delivered"),
        };
        match tokio::time::timeout(PUBLISH_TIMEOUT, self.rpc.publish(subject.clone(), payload)).await {
            Ok(Ok(())) => debug!(%subject, "link definition delivered"),
            Ok(Err(error)) => warn!(%subject, %error, "link definition not delivered"),
            Err(_) => warn!(%subject, "link definition not delivered: the NATS connection does not take it"),
        }
    }
}

/// Delivers links and announces changes until the notices end.
pub struct Delivery {
    pub links: LinkSender,
    pub events: Publisher,
}

impl Delivery {
    pub async fn run(self, mut notices: mpsc::Receiver<Notice>) {
        while let Some(Notice { change, origin }) = notices.recv().await {
            let live = origin == Origin::Live;
            match change {
                Change::LinkPut { link, replaced } => {
                    if let Some(replaced) = replaced.filter(|replaced| *replaced != link) {
                        self.links.delete(&replaced).await;
                    }
                    self.links.put(&link).await;
                    if live {
                        self.events.publish(Event::LinkdefSet(LinkDefinition::clone(&link)));
                    }
                }
                Change::LinkDeleted { link } => {
                    self.links.delete(&link).await;
                    self.events.publish(Event::LinkdefDeleted(Arc::unwrap_or_clone(link)));
                }
                Change::ReferencePut { reference, public_key } if live => {
                    self.events.publish(Event::RefmapSet { oci_url: reference, public_key: public_key.to_string() });
                }
                Change::ReferencePut { .. } | Change::ClaimsPut { .. } => {}
            }
        }
    }
}
