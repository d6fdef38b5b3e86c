//! Link definitions and claims: queries, put, delete (lattice protocol, sections 3.3 to 3.6).
//!
//! A link is written with compare-and-swap on the revision this host knows, so that two hosts that
//! are asked at the same time do not overwrite each other unseen; the loser reads again. The ack
//! leaves after the bucket confirmed. Requests about different links do not wait for each other,
//! those about one link are carried out in their order ([`super::turns`]). The effects of a change
//! (providers, events) come from the watch of the bucket, on every host. The host that wrote notes
//! what the link was before ([`super::link_changes`]).
//!
//! Values for a built-in provider are read before they are stored, by the provider's own reader, so
//! that a slip of the pen never takes the place of values that work. A link that is in the bucket
//! already is not judged again: hosts of earlier years write there too.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use serde::{Serialize, Serializer};
use tokio::time::Instant;
use tracing::info;

use super::{
    server::{ANSWER_TIMEOUT, Answer, Server, json as encode, json_within, now},
    turns::Turn,
};
use crate::providers::builtin;
use lattice_base::store::{Error, Expect, Update, WRITE_TIMEOUT};
use lattice_protocol::{
    control::{
        bounds,
        request::{DeleteLink, PutLink},
        types::Ack,
    },
    identity::keys::{LinkName, ProviderId},
    links::{LinkDefinition, Table},
    store::{Entry, keys},
};

/// An empty link name stands for the default one.
fn named(link_name: String) -> String {
    if link_name.is_empty() { LinkName::DEFAULT.to_owned() } else { link_name }
}

/// The reply to `get.links`, written row by row.
#[derive(Serialize)]
struct Links<'a> {
    #[serde(serialize_with = "all_links")]
    links: &'a Table,
}

/// The reply to `get.claims`, written row by row.
#[derive(Serialize)]
struct Claims<'a> {
    #[serde(serialize_with = "all_claims")]
    claims: &'a Table,
}

fn all_links<S: Serializer>(table: &&Table, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(table.links().map(|link| link.identified()))
}

fn all_claims<S: Serializer>(table: &&Table, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(table.all_claims().map(|claims| claims.reply_value()))
}

/// How often a write is tried again after somebody else was faster.
const CONFLICT_RETRIES: usize = 5;
/// How long a listing waits until this host knows all that happened: less than clients wait for an
/// answer.
const CATCH_UP_TIMEOUT: Duration = Duration::from_millis(1500);

/// How long an answer may wait for the note of what a link was before.
const NOTED_WITHIN: Duration = ANSWER_TIMEOUT.saturating_sub(Duration::from_millis(150));

impl Server {
    pub(super) fn get_claims(self: &Arc<Self>) -> Answer {
        self.when_current("claims", |server| {
            let table = server.parts.context.links.table();
            server.listing(&Claims { claims: &table }, table.claims_len(), "claims")
        })
    }

    pub(super) fn get_links(self: &Arc<Self>) -> Answer {
        self.when_current("links", |server| {
            let table = server.parts.context.links.table();
            server.listing(&Links { links: &table }, table.links_len(), "links")
        })
    }

    /// Returns whether more happened in the bucket than this host knows, and it is about to know
    /// it.
    pub(super) fn is_behind(&self) -> bool {
        !self.parts.context.links.is_current() && self.parts.context.store.backend().is_reachable()
    }

    /// Answers once this host knows all that happened. A part of a list would be taken for all of
    /// it, so the request is refused if that does not come in time. Where the bucket is out of
    /// reach, it is asked for what this host knows.
    fn when_current(
        self: &Arc<Self>,
        what: &'static str,
        listing: fn(&Self) -> Option<Bytes>,
    ) -> Answer {
        let server = Arc::clone(self);
        async move {
            let links = &server.parts.context.links;
            let caught_up = tokio::time::timeout(CATCH_UP_TIMEOUT, links.catch_up()).await;
            if caught_up.is_err() && server.is_behind() {
                return encode(&Ack::rejected(format!(
                    "this host still takes in changes of the lattice's {what}; try again in a moment"
                )));
            }
            listing(&server)
        }
        .boxed()
    }

    /// Returns a listing in one message, or the refusal that says how to get it otherwise.
    fn listing(&self, reply: &impl Serialize, count: usize, what: &str) -> Option<Bytes> {
        let bytes_max = self.payload_max();
        json_within(reply, bytes_max).or_else(|| {
            encode(&Ack::rejected(format!(
                "the lattice has {count} {what}, more than fit into one message of the NATS server (max_payload, {bytes_max} \
                 bytes); `host get {what}` asks for them in pages, other clients need a larger max_payload in the server's \
                 configuration"
            )))
        })
    }

    pub(super) fn put_link(self: &Arc<Self>, request: PutLink) -> Answer {
        let link_name = named(request.link_name);
        for (name, value) in [
            ("actor_id", &request.actor_id),
            ("provider_id", &request.provider_id),
            ("contract_id", &request.contract_id),
        ] {
            if value.is_empty() {
                return now(&Ack::rejected(format!("put link request without {name}")));
            }
        }
        // A link whose name or provider cannot be part of a subject could be stored, but would
        // never reach its provider.
        if let Err(error) = LinkName::parse(&link_name) {
            return now(&Ack::rejected(format!(
                "put link request with link name {link_name:?}: {error}"
            )));
        }
        if let Err(error) = ProviderId::parse(&request.provider_id) {
            return now(&Ack::rejected(format!(
                "put link request with provider_id {:?}: {error}",
                request.provider_id
            )));
        }
        let link = LinkDefinition {
            actor_id: request.actor_id,
            provider_id: request.provider_id,
            link_name,
            contract_id: request.contract_id,
            values: request.values,
        };
        if let Some(other) =
            self.namesake(&link.id(), [&link.actor_id, &link.contract_id, &link.link_name])
        {
            return now(&Ack::rejected(format!(
                "the link of {} for {} under link name {} has the same id, and stands in the way; choose another link name",
                other.actor_id, other.contract_id, other.link_name
            )));
        }
        if let Err(error) = self.has_room(&link) {
            return now(&Ack::rejected(error));
        }
        // A built-in provider would not take it on, and says so before anything is stored.
        if let Err(error) = builtin::check(&link) {
            let name = lattice_protocol::builtin::name_of(&link.provider_id);
            return now(&Ack::rejected(format!(
                "{name} does not take this link on, and nothing was stored: {error}"
            )));
        }
        let id = link.id();
        let (server, turn) = (Arc::clone(self), self.turns.take(&id));
        async move { encode(&Ack::from(server.change(&id, Some(link), turn).await)) }.boxed()
    }

    /// Whether a link has sizes that a host takes, and the lattice has room for it.
    fn has_room(&self, link: &LinkDefinition) -> Result<(), bounds::TooMuch> {
        let table = self.parts.context.links.table();
        let is_new = table.stored_link(&link.id()).is_none();
        bounds::link(link, if is_new { table.links_len() } else { 0 })
    }

    pub(super) fn delete_link(self: &Arc<Self>, request: DeleteLink) -> Answer {
        let link_name = named(request.link_name);
        let id = keys::link_hash(&request.actor_id, &request.contract_id, &link_name);
        if self.namesake(&id, [&request.actor_id, &request.contract_id, &link_name]).is_some() {
            // Another link has that id; the one that was named is not there.
            return now(&Ack::accepted());
        }
        let (server, turn) = (Arc::clone(self), self.turns.take(&id));
        async move { encode(&Ack::from(server.change(&id, None, turn).await)) }.boxed()
    }

    /// A link that has this id and is not that of the three: an id is a hash of them run together,
    /// so others may have it too.
    fn namesake(
        &self,
        id: &str,
        [actor_id, contract_id, link_name]: [&str; 3],
    ) -> Option<Arc<LinkDefinition>> {
        let table = self.parts.context.links.table();
        let link = &table.stored_link(id)?.link;
        (!link.is_of(actor_id, contract_id, link_name)).then(|| Arc::clone(link))
    }

    /// Stores the link with an id when its turn has come, or deletes it if there is none after the
    /// change; and notes what it was before.
    async fn change(
        &self,
        id: &str,
        after: Option<LinkDefinition>,
        mut turn: Turn,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + NOTED_WITHIN;
        let write = async {
            let is_refused = self.is_stored_refused(id, after.as_ref()).await;
            let stored = match &after {
                Some(link) => self.store_link(link).await?,
                None => self.remove_link(id).await?,
            };
            Ok((is_refused, stored))
        };
        let (is_refused, stored) = self.in_time(&mut turn, write).await?;
        self.take_in(stored, is_refused, after, deadline).await;
        Ok(())
    }

    /// Whether the link that is stored under an id is one that its provider does not take on. That
    /// of the same link again is of no use, and is not asked for.
    async fn is_stored_refused(&self, id: &str, after: Option<&LinkDefinition>) -> bool {
        let link = stored(&self.parts.context.links.table(), id);
        match link {
            Some(link) if Some(&link) != after => self.is_refused(&link).await,
            _ => false,
        }
    }

    /// Waits for a turn, and all attempts of a write: after this time hosts that are late speak up.
    async fn in_time<T>(
        &self,
        turn: &mut Turn,
        write: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let in_turn = async {
            turn.come().await;
            write.await
        };
        match tokio::time::timeout(WRITE_TIMEOUT, in_turn).await {
            Ok(written) => written,
            Err(_) => Err(Error::TimedOut { place: self.parts.context.store.backend().place() }),
        }
    }

    /// Shows readers of this host a change that is stored, and notes it for all hosts meanwhile.
    async fn take_in(
        &self,
        Stored { before, update }: Stored,
        is_refused: bool,
        after: Option<LinkDefinition>,
        deadline: Instant,
    ) {
        let links = &self.parts.context.links;
        let shown = async {
            if let Some(update) = update {
                links.apply(update).await;
            }
        };
        tokio::join!(shown, self.link_changes.note((before, is_refused), after, deadline));
    }

    /// Stores a link; returns the change, with the link in whose place it is.
    async fn store_link(&self, link: &LinkDefinition) -> Result<Stored, Error> {
        let id = link.id();
        let key = keys::link(&id);
        let value = Bytes::from(
            serde_json::to_vec(&link.identified()).map_err(|e| Error::Refused(e.to_string()))?,
        );
        let mut attempts = 0;
        loop {
            // After too many conflicts the entry is replaced: a link definition is always written
            // whole.
            let (expect, before) = {
                let table = self.parts.context.links.table();
                let expect = if attempts < CONFLICT_RETRIES {
                    Expect::Revision(table.revision_of(&key))
                } else {
                    Expect::Anything
                };
                (expect, stored(&table, &id))
            };
            match self.parts.context.store.put(&key, value.clone(), expect).await {
                Ok(revision) => {
                    info!(link_id = %id, actor_id = %link.actor_id, provider_id = %link.provider_id, "link definition stored");
                    let update = Some(Update::Put(Entry { key, value, revision }));
                    return Ok(Stored { before, update });
                }
                Err(Error::Conflict) if attempts < CONFLICT_RETRIES => {
                    attempts += 1;
                    self.catch_up(&key, expect, attempts).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes a link; returns the change, with the link. One that is not there is as good as
    /// deleted.
    async fn remove_link(&self, id: &str) -> Result<Stored, Error> {
        let key = keys::link(id);
        let mut attempts = 0;
        loop {
            // A link this host does not know may be in the bucket all the same, written a moment
            // ago or in a form that was not understood.
            let (known, before) = {
                let table = self.parts.context.links.table();
                let known = match table.stored_link(id) {
                    Some(stored) if attempts < CONFLICT_RETRIES => {
                        Expect::Revision(stored.revision)
                    }
                    _ => Expect::Anything,
                };
                (known, stored(&table, id))
            };
            match self.parts.context.store.delete(&key, known).await {
                Ok(()) => {
                    info!(link_id = %id, "link definition deleted");
                    // Not what somebody put after it, whose echo may be here already.
                    let update = match known {
                        Expect::Revision(revision) => Some(Update::Delete { key, revision }),
                        Expect::Anything => None,
                    };
                    return Ok(Stored { before, update });
                }
                Err(Error::Conflict) if attempts < CONFLICT_RETRIES => {
                    attempts += 1;
                    self.catch_up(&key, known, attempts).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the watch time to bring what we lost against; a little more with each attempt. Others
    /// who want to change the same wait as long.
    async fn catch_up(&self, key: &str, lost_with: Expect, attempt: usize) {
        let links = &self.parts.context.links;
        let mut changes = links.changes();
        let news = async {
            while lost_with == Expect::Revision(links.table().revision_of(key)) {
                // An error means that the host is being stopped.
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(20 * attempt as u64), news).await;
    }
}

/// A change of a link that the bucket has taken.
struct Stored {
    before: Option<LinkDefinition>,
    /// The change, for the readers of this host.
    update: Option<Update>,
}

/// The link with an id, as a table has it.
fn stored(table: &Table, id: &str) -> Option<LinkDefinition> {
    table.stored_link(id).map(|stored| LinkDefinition::clone(&stored.link))
}
