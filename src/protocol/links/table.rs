//! The metadata of the lattice as one immutable snapshot: link definitions, claims and image
//! references.
//!
//! A [`Table`] is built from bucket entries and replaced as a whole, so a reader holds no lock and
//! sees one moment in time. Copies share what did not change ([`Shards`]), so that one is published
//! after each change of a table of any size.
//!
//! Entries of every era are understood (lattice protocol, section 4.3):
//! short and long member names, lists as arrays or comma texts, numbers as texts, `null` as empty.
//! Anything that cannot be understood is reported, not guessed.
//!
//! Invariants: one link per (actor, contract, link name). The id of a link is a hash of these three
//! run together, and other threes may run together to the same text, so look-ups go by the three. A
//! table knows which actors claim a call alias, and not which of them has it: that depends on what
//! runs (see `router::aliases`). Revisions are those of the bucket; an entry that only this host
//! knows yet has the one it is to replace, or 0.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{
    Claims,
    definition::{ByThree, LinkDefinition, Three},
    shards::Shards,
};
use crate::{
    control::bounds,
    store::{
        Entry,
        keys::{self, Key},
    },
};

/// How long a provider may go on calling an actor after its link was moved or deleted: requests
/// that it had taken on by then are finished.
const LET_GO: Duration = Duration::from_secs(10);
/// Former links that are kept in mind.
const FORMER_MAX: usize = 4096;

/// A link definition and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLink {
    pub link: Arc<LinkDefinition>,
    pub revision: u64,
    /// When this host learnt of it.
    pub since: Instant,
}

/// A link as it was before it was moved or deleted, and when that was.
#[derive(Clone, Debug)]
struct Former {
    link: Arc<LinkDefinition>,
    since: Instant,
}

/// One moment of the lattice's metadata.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// By their id.
    links: Shards<Arc<str>, StoredLink>,
    /// The same links: every call of a provider looks one up, and an id costs a SHA-256.
    by_three: Shards<ByThree, ()>,
    /// The same links, by their provider.
    by_provider: Shards<Arc<str>, LinksTo>,
    claims: Shards<Arc<str>, (Arc<Claims>, u64)>,
    /// Call alias to the actors that claim it, in no order.
    claimants: Shards<String, Vec<Arc<str>>>,
    /// Links that were moved or deleted a moment ago, by their id.
    former: Shards<Arc<str>, Former>,
    /// While there is no room for more of them, until when none of them is over.
    former_full_until: Option<Instant>,
    /// Key of an image reference to public key.
    references: Shards<Arc<str>, (Arc<str>, u64)>,
    /// Public key to the keys of the image references that lead to it.
    led_from: Shards<Arc<str>, Vec<Arc<str>>>,
    /// Keys whose latest entry makes no sense, with its revision, so that they can be written over.
    unreadable: Shards<String, u64>,
}

/// The links to one provider, by their id.
pub type LinksTo = Shards<Arc<str>, Arc<LinkDefinition>>;

/// The content of an entry other than a link, so that two of them compare by meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Claims(Box<Claims>),
    /// The public key an image reference led to.
    Reference(Arc<str>),
    Unreadable,
}

impl Content {
    pub fn of(key: &str, value: &[u8]) -> Self {
        let read = match Key::parse(key) {
            Key::Claims(_) => Claims::parse(value).map(|claims| Self::Claims(Box::new(claims))),
            Key::Reference(_) => serde_json::from_slice(value)
                .ok()
                .map(|read: Reference| Self::Reference(read.public_key.into())),
            Key::Link(_) | Key::Unknown => None,
        };
        read.unwrap_or(Self::Unreadable)
    }
}

#[derive(Deserialize)]
struct Reference {
    oci_url: String,
    public_key: String,
}

/// A change of the table that others need to hear about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    LinkPut {
        link: Arc<LinkDefinition>,
        replaced: Option<Arc<LinkDefinition>>,
    },
    LinkDeleted {
        link: Arc<LinkDefinition>,
    },
    /// A provider of this host does not take it on, and why. The table has it all the same.
    LinkRefused {
        link: Arc<LinkDefinition>,
        error: String,
    },
    ClaimsPut {
        subject: String,
    },
    ReferencePut {
        reference: String,
        public_key: Arc<str>,
    },
}

/// Names what changed, without the values of a link.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LinkPut { link, .. } => write!(f, "link {} put", link.id()),
            Self::LinkDeleted { link } => write!(f, "link {} deleted", link.id()),
            Self::LinkRefused { link, .. } => write!(f, "link {} refused", link.id()),
            Self::ClaimsPut { subject } => write!(f, "claims of {subject} put"),
            Self::ReferencePut { reference, .. } => write!(f, "reference {reference} put"),
        }
    }
}

/// Returns where the JSON of an entry is wrong. The error's own text may quote a value, and values
/// of links may be passwords.
fn mistake(error: &serde_json::Error) -> String {
    let kind =
        if error.is_data() { "a member is missing or of another type" } else { "it is no JSON" };
    format!("{kind} (line {} column {})", error.line(), error.column())
}

/// An entry that could not be taken over, with the reason.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejected(pub String);

impl Table {
    /// The link an actor uses for a contract under a link name.
    pub fn link(
        &self,
        actor_id: &str,
        contract_id: &str,
        link_name: &str,
    ) -> Option<&Arc<LinkDefinition>> {
        self.by_three.key(&Three { actor_id, contract_id, link_name }).map(|found| &found.0)
    }

    /// Whether `provider` may call an actor under a contract and a link name: the link leads to it,
    /// or did a moment ago.
    pub fn lets_in(
        &self,
        provider: &str,
        actor_id: &str,
        contract_id: &str,
        link_name: &str,
    ) -> bool {
        if self
            .link(actor_id, contract_id, link_name)
            .is_some_and(|link| link.provider_id == provider)
        {
            return true;
        }
        let is_former = |former: &Former| {
            former.since.elapsed() < LET_GO
                && former.link.provider_id == provider
                && former.link.is_of(actor_id, contract_id, link_name)
        };
        !self.former.is_empty()
            && self
                .former
                .get(&*keys::link_hash(actor_id, contract_id, link_name))
                .is_some_and(is_former)
    }

    /// A link by its id, with its revision.
    pub fn stored_link(&self, id: &str) -> Option<&StoredLink> {
        self.links.get(id)
    }

    /// The links to one provider under one link name.
    pub fn links_of(
        &self,
        provider_id: &str,
        link_name: &str,
    ) -> impl Iterator<Item = &Arc<LinkDefinition>> {
        let links = self.by_provider.get(provider_id).into_iter().flat_map(Shards::values);
        links.filter(move |link| link.link_name == link_name)
    }

    /// The links to one provider under any link name. Where it is a copy of that of another moment,
    /// nothing changed in between.
    pub fn links_to(&self, provider_id: &str) -> LinksTo {
        self.by_provider.get(provider_id).cloned().unwrap_or_default()
    }

    /// How many links there are.
    pub fn links_len(&self) -> usize {
        self.links.len()
    }

    /// How many claims there are.
    pub fn claims_len(&self) -> usize {
        self.claims.len()
    }

    /// All links, in no order.
    pub fn links(&self) -> impl Iterator<Item = &Arc<LinkDefinition>> {
        self.links.values().map(|stored| &stored.link)
    }

    /// All links with their ids, in no order.
    pub fn stored_links(&self) -> impl Iterator<Item = (&str, &StoredLink)> {
        self.links.iter().map(|(id, stored)| (&**id, stored))
    }

    /// All claims, in no order.
    pub fn all_claims(&self) -> impl Iterator<Item = &Arc<Claims>> {
        self.claims.values().map(|(claims, _)| claims)
    }

    /// The claims of an actor or a provider.
    pub fn claims(&self, public_key: &str) -> Option<&Arc<Claims>> {
        self.claims.get(public_key).map(|(claims, _)| claims)
    }

    /// The tags an actor or a provider is signed with; none if nothing is known of it.
    pub fn tags(&self, public_key: &str) -> &[String] {
        self.claims(public_key).map(|claims| claims.tags.as_slice()).unwrap_or_default()
    }

    /// The actors that claim a call alias, the first one first. One that no other host knows yet
    /// comes last.
    pub fn claimants(&self, alias: &str) -> Vec<Arc<str>> {
        let mut claimants = self.claimants.get(alias).cloned().unwrap_or_default();
        claimants.sort_by_key(|subject| match self.claims.get(&**subject) {
            Some((_, 0)) | None => u64::MAX,
            Some((_, revision)) => *revision,
        });
        claimants
    }

    /// The public key an image reference led to when it was started last.
    pub fn public_key_of(&self, reference: &str) -> Option<&Arc<str>> {
        self.references.get(&*keys::reference(reference)).map(|(public_key, _)| public_key)
    }

    /// Returns the keys of the image references that lead to a public key, with their revisions.
    pub fn references_to(&self, public_key: &str) -> impl Iterator<Item = (&str, u64)> {
        let keys = self.led_from.get(public_key).into_iter().flatten();
        keys.filter_map(|key| Some((&**key, self.references.get(key)?.1)))
    }

    /// An image reference that led to a public key; of several one that needs no file, and of these
    /// the one that led there last: older ones may be gone.
    pub fn reference_to(&self, public_key: &str) -> Option<String> {
        let references = self
            .references_to(public_key)
            .filter_map(|(key, revision)| Some((keys::parse_reference(key)?, revision)));
        let best = references
            .max_by_key(|(reference, revision)| (!reference.starts_with("file://"), *revision));
        best.map(|(reference, _)| reference)
    }

    /// Returns the content of a key other than a link's; `None` if this table does not have it.
    pub fn content_of(&self, key: &str) -> Option<Content> {
        match Key::parse(key) {
            Key::Claims(subject) => {
                self.claims(subject).map(|claims| Content::Claims(Box::new((**claims).clone())))
            }
            Key::Reference(_) => self
                .references
                .get(key)
                .map(|(public_key, _)| Content::Reference(Arc::clone(public_key))),
            Key::Link(_) | Key::Unknown => None,
        }
    }

    /// The revision that wrote a key last, 0 if this table does not know of it.
    pub fn revision_of(&self, key: &str) -> u64 {
        let read = match Key::parse(key) {
            Key::Link(hash) => self.links.get(hash).map_or(0, |stored| stored.revision),
            Key::Claims(subject) => self.claims.get(subject).map_or(0, |(_, revision)| *revision),
            Key::Reference(_) => self.references.get(key).map_or(0, |(_, revision)| *revision),
            Key::Unknown => 0,
        };
        read.max(self.unreadable.get(key).copied().unwrap_or(0))
    }

    /// Takes over one written entry. `None` when nothing changed, an error when it makes no sense.
    pub fn put(&mut self, entry: &Entry) -> Result<Option<Change>, Rejected> {
        let taken = match Key::parse(&entry.key) {
            Key::Link(hash) => self.put_link(hash, entry),
            Key::Claims(subject) => self.put_claims(subject, entry),
            Key::Reference(_) => self.put_reference(entry),
            Key::Unknown => Ok(None),
        };
        match taken {
            Ok(_) => drop(self.unreadable.remove(&*entry.key)),
            Err(_) => drop(self.unreadable.insert(entry.key.clone(), entry.revision)),
        }
        taken
    }

    /// Links that `old` had just so were learnt of then, and those that it had and this has not
    /// were there a moment ago.
    pub fn keep_since(&mut self, old: &Self) {
        self.former.clone_from(&old.former);
        self.former_full_until = old.former_full_until;
        for (hash, before) in old.links.iter() {
            let now = self.links.get_mut(&**hash);
            let stays =
                now.as_ref().is_some_and(|now| now.link.provider_id == before.link.provider_id);
            if let Some(now) = now
                && now.link == before.link
            {
                now.since = before.since;
            }
            if !stays {
                self.keep_in_mind(hash, &before.link);
            }
        }
    }

    /// Drops an entry that was deleted at `revision`; one that was written later stays.
    pub fn delete(&mut self, key: &str, revision: u64) -> Option<Change> {
        if self.revision_of(key) > revision {
            return None;
        }
        self.unreadable.remove(key);
        match Key::parse(key) {
            Key::Link(hash) => {
                let StoredLink { link, .. } = self.links.remove(hash)?;
                self.by_three.remove(&link.three());
                self.leave_provider(hash, &link.provider_id);
                self.keep_in_mind(hash, &link);
                Some(Change::LinkDeleted { link })
            }
            Key::Claims(subject) => {
                let (gone, _) = self.claims.remove(subject)?;
                self.release_alias(&gone);
                None
            }
            Key::Reference(_) => {
                if let Some((public_key, _)) = self.references.remove(key) {
                    self.lead_elsewhere(key, &public_key);
                }
                None
            }
            Key::Unknown => None,
        }
    }

    /// Whether this is an unchanged copy of `other`.
    pub fn is_copy_of(&self, other: &Self) -> bool {
        self.links.is_copy_of(&other.links)
            && self.claims.is_copy_of(&other.claims)
            && self.references.is_copy_of(&other.references)
            && self.former.is_copy_of(&other.former)
            && self.unreadable.is_copy_of(&other.unreadable)
    }

    /// Every key this table holds, for finding out what a new snapshot lacks.
    pub fn keys(&self) -> impl Iterator<Item = String> {
        let links = self.links.keys().map(|hash| keys::link(hash));
        let claims = self.claims.keys().map(|subject| keys::claims(subject));
        links.chain(claims).chain(self.references.keys().map(|key| key.to_string()))
    }

    /// Whether this table holds a key.
    pub fn has(&self, key: &str) -> bool {
        match Key::parse(key) {
            Key::Link(hash) => self.links.get(hash).is_some(),
            Key::Claims(subject) => self.claims.get(subject).is_some(),
            Key::Reference(_) => self.references.get(key).is_some(),
            Key::Unknown => false,
        }
    }

    fn put_link(&mut self, hash: &str, entry: &Entry) -> Result<Option<Change>, Rejected> {
        // The echo of a write of this host: there is nothing to be read.
        if self.links.get(hash).is_some_and(|old| old.revision >= entry.revision) {
            return Ok(None);
        }
        let link: LinkDefinition = serde_json::from_slice(&entry.value).map_err(|e| {
            Rejected(format!("{} is no link definition: {}", entry.key, mistake(&e)))
        })?;
        bounds::link_sizes(&link)
            .map_err(|_| Rejected(format!("{} is a larger link than hosts take", entry.key)))?;
        if link.id() != hash {
            return Err(Rejected(format!("{} holds a link whose id is {}", entry.key, link.id())));
        }
        if let Some(old) = self.links.get(hash)
            && !old.link.is_of(&link.actor_id, &link.contract_id, &link.link_name)
        {
            return Err(Rejected(format!(
                "{} holds a link of {} for {} under {}, which has the same id as that of {} for {} under {}",
                entry.key,
                link.actor_id,
                link.contract_id,
                link.link_name,
                old.link.actor_id,
                old.link.contract_id,
                old.link.link_name
            )));
        }
        let (id, link) = (Arc::<str>::from(hash), Arc::new(link));
        let stored =
            StoredLink { link: Arc::clone(&link), revision: entry.revision, since: Instant::now() };
        let replaced = self.links.insert(Arc::clone(&id), stored).map(|old| old.link);
        self.by_three.insert(ByThree(Arc::clone(&link)), ());
        if let Some(replaced) = &replaced
            && replaced.provider_id != link.provider_id
        {
            self.leave_provider(hash, &replaced.provider_id);
            self.keep_in_mind(hash, replaced);
        }
        let links = match self.by_provider.get_mut(link.provider_id.as_str()) {
            Some(links) => links,
            None => self.by_provider.or_default(link.provider_id.as_str().into()),
        };
        links.insert(id, Arc::clone(&link));
        Ok(Some(Change::LinkPut { link, replaced }))
    }

    fn put_claims(&mut self, subject: &str, entry: &Entry) -> Result<Option<Change>, Rejected> {
        let claims = Claims::parse(&entry.value)
            .ok_or_else(|| Rejected(format!("{} holds no claims that hosts take", entry.key)))?;
        if claims.subject != subject {
            return Err(Rejected(format!("{} holds the claims of {}", entry.key, claims.subject)));
        }
        if let Some((old, revision)) = self.claims.get(subject) {
            // One of the same revision replaces what it is, when this host has not written it yet.
            if *revision > entry.revision || (*revision == entry.revision && **old == claims) {
                return Ok(None);
            }
            if old.call_alias != claims.call_alias {
                let old = Arc::clone(old);
                self.release_alias(&old);
            }
        }
        if claims.call_alias.len() > 1 && !claims.is_provider() {
            let claimants = self.claimants.or_default(claims.call_alias.clone());
            if claimants.iter().all(|claimant| **claimant != *subject) {
                claimants.push(subject.into());
            }
        }
        self.claims.insert(subject.into(), (Arc::new(claims), entry.revision));
        Ok(Some(Change::ClaimsPut { subject: subject.to_owned() }))
    }

    fn put_reference(&mut self, entry: &Entry) -> Result<Option<Change>, Rejected> {
        let read: Reference = serde_json::from_slice(&entry.value).map_err(|e| {
            Rejected(format!("{} is no image reference: {}", entry.key, mistake(&e)))
        })?;
        bounds::reference(&read.oci_url)
            .and_then(|()| bounds::name(&read.public_key))
            .map_err(|_| Rejected(format!("{} is longer than hosts take", entry.key)))?;
        let key = entry.key.as_str();
        if self.references.get(key).is_some_and(|(_, revision)| *revision > entry.revision) {
            return Ok(None);
        }
        let (key, public_key): (Arc<str>, Arc<str>) = (key.into(), read.public_key.into());
        let old =
            self.references.insert(Arc::clone(&key), (Arc::clone(&public_key), entry.revision));
        if old.as_ref().is_some_and(|(old, _)| *old == public_key) {
            return Ok(None);
        }
        if let Some((old, _)) = old {
            self.lead_elsewhere(&key, &old);
        }
        self.led_from.or_default(Arc::clone(&public_key)).push(key);
        Ok(Some(Change::ReferencePut { reference: read.oci_url, public_key }))
    }

    /// An image reference does not lead to a public key any longer.
    fn lead_elsewhere(&mut self, key: &str, public_key: &str) {
        let Some(keys) = self.led_from.get_mut(public_key) else { return };
        keys.retain(|known| **known != *key);
        if keys.is_empty() {
            self.led_from.remove(public_key);
        }
    }

    /// A link does not lead to a provider any longer.
    fn leave_provider(&mut self, hash: &str, provider_id: &str) {
        let Some(links) = self.by_provider.get_mut(provider_id) else { return };
        links.remove(hash);
        if links.is_empty() {
            self.by_provider.remove(provider_id);
        }
    }

    /// An actor claims an alias no longer.
    fn release_alias(&mut self, claimant: &Claims) {
        let Some(claimants) = self.claimants.get_mut(&*claimant.call_alias) else { return };
        claimants.retain(|subject| **subject != *claimant.subject);
        if claimants.is_empty() {
            self.claimants.remove(&*claimant.call_alias);
        }
    }

    /// Remembers a link that is there no longer, for [`LET_GO`].
    fn keep_in_mind(&mut self, hash: &str, link: &Arc<LinkDefinition>) {
        let now = Instant::now();
        if self.former.len() >= FORMER_MAX {
            // Each look goes through all of them, and any number of links may be deleted at once.
            if self.former_full_until.is_some_and(|until| now < until) {
                return;
            }
            self.forget_former(now);
        }
        if self.former.len() < FORMER_MAX {
            self.former.insert(hash.into(), Former { link: Arc::clone(link), since: now });
        }
    }

    /// Forgets the former links whose time is over, and notes when that of the next one is.
    fn forget_former(&mut self, now: Instant) {
        let over = self.former.iter();
        let over = over.filter(|(_, former)| now.duration_since(former.since) >= LET_GO);
        let over: Vec<Arc<str>> = over.map(|(hash, _)| Arc::clone(hash)).collect();
        over.iter().for_each(|hash| drop(self.former.remove(&**hash)));
        let first = self.former.values().map(|former| former.since).min();
        self.former_full_until = first.map(|since| since + LET_GO);
    }
}

#[cfg(test)]
mod tests;
