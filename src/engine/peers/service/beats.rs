//! The beats of the hosts that this one watches: one subscription for each.

use std::{
    collections::{HashMap, HashSet},
    future::poll_fn,
    task::Poll,
};

use async_nats::{Client, Message, Subscriber};
use futures::StreamExt;
use tracing::debug;

use super::SEND;
use lattice_protocol::lattice::subject::Subjects;

/// Listens to the beats of some hosts.
pub(super) struct Beats {
    client: Client,
    subjects: Subjects,
    /// By the ids of the hosts.
    heard: HashMap<String, Subscriber>,
}

impl Beats {
    /// Listens to nobody yet.
    pub fn new(client: Client, subjects: Subjects) -> Self {
        Self { client, subjects, heard: HashMap::new() }
    }

    /// Listens to the beats of these hosts, and of no others.
    pub async fn listen(&mut self, hosts: HashSet<String>) {
        self.heard.retain(|host, _| hosts.contains(host));
        for host in hosts {
            if self.heard.contains_key(&host) {
                continue;
            }
            let subscribing = self.client.subscribe(self.subjects.beat(&host));
            match tokio::time::timeout(SEND, subscribing).await {
                Ok(Ok(beats)) => _ = self.heard.insert(host, beats),
                _ => return debug!(host_id = %host, "the beats of a host cannot be heard"),
            }
        }
    }

    /// Waits for a beat of one of these hosts; for ever if there are none. Safe to drop.
    pub async fn next(&mut self) -> Message {
        poll_fn(|context| {
            let mut ready = self.heard.values_mut().map(|beats| beats.poll_next_unpin(context));
            let message = ready.find_map(|polled| match polled {
                Poll::Ready(message) => message,
                Poll::Pending => None,
            });
            message.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
