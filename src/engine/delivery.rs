//! Acts on changes of the lattice's metadata: tells providers about their links, and the lattice
//! about what changed.
//!
//! Every host does this for every change, because clients of 2023 write the bucket directly and
//! tell nobody. Providers keep one link per actor and ignore what they know, so repeats do no harm
//! (lattice protocol, section 5).
//!
//! A provider takes no new values for an actor it is linked to. When the values of a link change,
//! or it moves to another provider, the old link is deleted there first. The libraries of providers
//! hear of deleted and of new links on two subscriptions that overtake each other: a put that is
//! seen before the delete it follows is ignored as a repeat, and then the link is gone; one that is
//! seen while they handle the delete is taken by the library and then deleted by the provider. So
//! a put that follows a delete is not sent at once, and then a few times; where it was not needed
//! it does nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::mpsc, time::Instant};
use tracing::{debug, warn};

use crate::{
    events::Publisher,
    links::{
        Live,
        live::{Notice, Origin},
    },
};
use lattice_protocol::{
    events::Event,
    identity::keys::{LinkName, ProviderId},
    lattice::subject::Subjects,
    links::{LinkDefinition, table::Change},
};

/// How long handing one message to the connection may take; it only waits when the server is away.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long after a delete the put that follows it is sent. Calls of that actor find no link in
/// the meantime.
const PUT_AFTER_DELETE: Duration = Duration::from_millis(30);
/// When a put that follows a delete is sent again, each after the one before.
pub const RESEND_AFTER: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_millis(1500)];
/// When a put that follows a delete is sent, each after the one before.
const SEND_AFTER: [Duration; 1 + RESEND_AFTER.len()] =
    [PUT_AFTER_DELETE, RESEND_AFTER[0], RESEND_AFTER[1], RESEND_AFTER[2]];
/// How long a provider may take to handle a delete, so that a put after it counts as following it.
const DELETE_SETTLES: Duration = Duration::from_secs(2);
/// Deletes that are kept in mind without being looked through.
const SETTLING_MIN: usize = 64;
/// Puts waiting to be sent. Beyond it the first ones are sent at once, and of those to be sent
/// again the oldest are forgotten; so many links do not change in two seconds.
const WAITING_MAX: usize = 16 * 1024;

/// Sends links to providers. Cheap to clone.
#[derive(Clone)]
pub struct LinkSender {
    pub rpc: async_nats::Client,
    pub subjects: Subjects,
}

impl LinkSender {
    /// Tells the provider of a link that it is there. A provider that knows it already does
    /// nothing.
    pub async fn put(&self, link: &LinkDefinition) {
        self.send(link, Subjects::link_put).await;
    }

    /// Tells the provider of a link that it is gone.
    pub async fn delete(&self, link: &LinkDefinition) {
        self.send(link, Subjects::link_del).await;
    }

    async fn send(
        &self,
        link: &LinkDefinition,
        subject: fn(&Subjects, &ProviderId, &LinkName) -> String,
    ) {
        let (provider, link_name) = match (
            ProviderId::parse(&link.provider_id),
            LinkName::parse(&link.link_name),
        ) {
            (Ok(provider), Ok(link_name)) => (provider, link_name),
            (Err(error), _) | (_, Err(error)) => {
                warn!(link_id = %link.id(), %error, "link definition not delivered: it names no provider");
                return;
            }
        };
        let subject = subject(&self.subjects, &provider, &link_name);
        let payload = match rmp_serde::to_vec_named(link) {
            Ok(payload) => Bytes::from(payload),
            Err(error) => {
                return warn!(link_id = %link.id(), %error, "link definition not delivered");
            }
        };
        match tokio::time::timeout(PUBLISH_TIMEOUT, self.rpc.publish(subject.clone(), payload))
            .await
        {
            Ok(Ok(())) => debug!(%subject, "link definition delivered"),
            Ok(Err(error)) => warn!(%subject, %error, "link definition not delivered"),
            Err(_) => {
                warn!(%subject, "link definition not delivered: the NATS connection does not take it")
            }
        }
    }
}

/// Delivers links and announces changes until the notices end.
pub struct LinkNotifier {
    sender: LinkSender,
    links: Live,
    events: Publisher,
    /// Which actors were unlinked from which providers, and when.
    deleted: HashMap<Place, Instant>,
    /// How many of them were needed when they were looked through last.
    settling: usize,
    /// The last event found no room in time.
    is_held_up: bool,
    /// Links to send, and when; in the order of time.
    waiting: [VecDeque<(Instant, Arc<LinkDefinition>)>; SEND_AFTER.len()],
}

/// Where a provider keeps a link: provider, link name, actor.
type Place = (String, String, String);

impl LinkNotifier {
    pub fn new(sender: LinkSender, links: Live, events: Publisher) -> Self {
        let (deleted, waiting) = (HashMap::new(), Default::default());
        let (settling, is_held_up) = (SETTLING_MIN, false);
        Self { sender, links, events, deleted, settling, is_held_up, waiting }
    }

    pub async fn run(mut self, mut notices: mpsc::Receiver<Vec<Notice>>) {
        loop {
            let due =
                self.waiting.iter().filter_map(|queue| queue.front()).map(|(at, _)| *at).min();
            tokio::select! {
                notice = notices.recv() => match notice {
                    Some(notices) => {
                        for notice in notices {
                            self.handle(notice).await;
                            // The things that follow a delete have time.
                            self.send_due().await;
                        }
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.send_due().await;
                }
            }
        }
    }

    async fn handle(&mut self, Notice { change, origin }: Notice) {
        let live = origin == Origin::Live;
        match change {
            Change::LinkPut { link, replaced } => {
                if let Some(replaced) = replaced.filter(|replaced| *replaced != link) {
                    self.delete(&replaced).await;
                }
                if self.follows_delete(&link) && self.waiting[0].len() < WAITING_MAX {
                    self.send_later(&link, 0);
                } else {
                    self.sender.put(&link).await;
                }
                if live {
                    self.publish(Event::LinkdefSet(LinkDefinition::clone(&link))).await;
                }
            }
            Change::LinkDeleted { link } => {
                self.delete(&link).await;
                self.publish(Event::LinkdefDeleted(Arc::unwrap_or_clone(link))).await;
            }
            Change::LinkRefused { link, error } => {
                let host_id = self.events.host_id();
                self.events.publish(Event::LinkdefSetFailed {
                    link: Arc::unwrap_or_clone(link),
                    host_id,
                    error,
                });
            }
            Change::ReferencePut { reference, public_key } if live => {
                self.events.publish(Event::RefmapSet {
                    oci_url: reference,
                    public_key: public_key.to_string(),
                });
            }
            Change::ReferencePut { .. } | Change::ClaimsPut { .. } => {}
        }
    }

    /// Publishes an event when there is room for it: any number of links may change at once. A
    /// server that is away holds up one event, and those after it are lost as all others are.
    async fn publish(&mut self, event: Event) {
        if !self.events.is_full() {
            self.is_held_up = false;
        } else if !self.is_held_up {
            self.is_held_up = !self.events.has_room().await;
        }
        self.events.publish(event);
    }

    async fn delete(&mut self, link: &LinkDefinition) {
        self.sender.delete(link).await;
        let now = Instant::now();
        // Looked through now and then only: any number of links may be deleted at once.
        if self.deleted.len() >= 2 * self.settling {
            self.deleted.retain(|_, at| now.duration_since(*at) < DELETE_SETTLES);
            self.settling = self.deleted.len().max(SETTLING_MIN);
        }
        self.deleted.insert(place(link), now);
    }

    fn follows_delete(&self, link: &LinkDefinition) -> bool {
        !self.deleted.is_empty()
            && self
                .deleted
                .get(&place(link))
                .is_some_and(|deleted_at| deleted_at.elapsed() < DELETE_SETTLES)
    }

    /// Notes that a put is sent for the `turn`th time after a while, unless it was often enough.
    fn send_later(&mut self, link: &Arc<LinkDefinition>, turn: usize) {
        let (Some(queue), Some(pause)) = (self.waiting.get_mut(turn), SEND_AFTER.get(turn)) else {
            return;
        };
        if queue.len() >= WAITING_MAX {
            queue.pop_front();
        }
        queue.push_back((Instant::now() + *pause, Arc::clone(link)));
    }

    /// Sends what is due and still holds.
    async fn send_due(&mut self) {
        if self.waiting.iter().all(VecDeque::is_empty) {
            return;
        }
        let (now, table) = (Instant::now(), self.links.table());
        for turn in 0..SEND_AFTER.len() {
            while let Some((_, link)) = self.waiting[turn].pop_front_if(|(at, _)| *at <= now) {
                if table.stored_link(&link.id()).is_some_and(|stored| stored.link == link) {
                    self.sender.put(&link).await;
                    self.send_later(&link, turn + 1);
                }
            }
        }
    }
}

fn place(link: &LinkDefinition) -> Place {
    (link.provider_id.clone(), link.link_name.clone(), link.actor_id.clone())
}
