//! Requests of the control interface (lattice protocol, section 3), as a client makes them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use async_nats::{HeaderMap, Message, RequestErrorKind, Subscriber};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::{Instant, timeout_at};

use super::{listing, lost, origin};
use lattice_base::lattice::made;
use lattice_protocol::{
    control::{
        answer,
        request::{GetInventory, HostRequest, LatticeRequest, PingHosts},
        types::{Ack, Bid, HostReply, Inventory},
    },
    events::Received,
    history::{ORIGIN_HEADER, Origin},
    identity::keys::HostId,
    lattice::{control::Control, subject::Subjects},
    links::{Claims, LinkDefinition},
};

/// How long to go on listening after every host that is known has answered, for hosts of earlier
/// years, whom ours do not know. Longer if the answers so far took long.
const GRACE: Duration = Duration::from_millis(100);

/// Hosts with the key of another one that are told.
const TWINS_MAX: usize = 64;
/// Hosts that are heard at a time; more of them say the same id again and again, or are none.
const HOSTS_MAX: usize = 16 * 1024;
/// Refusals of hosts that are kept.
const REFUSALS_MAX: usize = 16;
/// Hosts that are asked at a time.
pub(super) const ASKED_MAX: usize = 256;

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("nobody listens on {subject} in lattice {lattice}: {advice}")]
    NoResponders { subject: String, lattice: String, advice: String },
    #[error(
        "no answer on {subject} in lattice {lattice} within {waited_ms} ms; it may still have been carried out. Look before you \
         repeat it, and raise --timeout-ms if the way is long"
    )]
    TimedOut { subject: String, lattice: String, waited_ms: u128 },
    /// Of a question, by which nothing is carried out.
    #[error(
        "no answer on {subject} in lattice {lattice} within {waited_ms} ms; ask again, and raise --timeout-ms if the way is long"
    )]
    Silent { subject: String, lattice: String, waited_ms: u128 },
    #[error("the answer on {subject} cannot be read: {cause}")]
    Unreadable { subject: String, cause: String },
    #[error("the request on {subject} was not sent: {cause}")]
    Transport { subject: String, cause: String },
    /// In the words of the host.
    #[error("the host refuses it: {error}")]
    Refused { subject: String, error: String },
}

/// Returns the ids of those hosts that are of this make.
pub fn ours(hosts: &[HostReply]) -> Vec<String> {
    hosts.iter().filter(|host| host.is_ours()).map(|host| host.id.clone()).collect()
}

/// The hosts that answered.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub hosts: Vec<HostReply>,
    /// Further hosts that answer as one of them: they were started with the same key.
    pub twins: Vec<HostReply>,
    /// Errors of hosts that refused to tell who they are; they are not among the others.
    pub refusals: Vec<String>,
    /// Ids of hosts that others hear and that did not answer in time: they may be frozen.
    pub silent: Vec<String>,
    /// Whether somebody listens to the question at all.
    pub is_heard: bool,
}

/// A lattice that can be asked. Cheap to clone.
#[derive(Clone)]
pub struct Lattice {
    pub client: async_nats::Client,
    pub subjects: Subjects,
    pub timeout: Duration,
    pub js_domain: Option<String>,
    /// The sender of commands, unless [`origin::scope`] says another.
    origin: Option<Arc<Origin>>,
}

impl Lattice {
    pub fn new(
        client: async_nats::Client,
        subjects: Subjects,
        timeout: Duration,
        js_domain: Option<String>,
    ) -> Self {
        Self { client, subjects, timeout, js_domain, origin: None }
    }

    /// Says who sends commands from here on.
    pub fn with_origin(self, origin: Origin) -> Self {
        Self { origin: Some(Arc::new(origin)), ..self }
    }

    /// Returns the headers of a request: who sends it, if that is known and the server takes
    /// headers.
    fn headers(&self) -> Option<HeaderMap> {
        let origin = origin::current().or_else(|| self.origin.as_deref().cloned())?;
        let told = origin.header().filter(|_| self.client.server_info().headers)?;
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN_HEADER, told);
        Some(headers)
    }

    pub fn name(&self) -> &str {
        self.subjects.lattice().as_str()
    }

    /// Every host that answers. If none does and some refuse, that is an error.
    pub async fn hosts(&self) -> Result<Vec<HostReply>> {
        let found = self.ping().await?;
        if found.hosts.is_empty() && !found.refusals.is_empty() {
            return self.some_hosts_of(found).map(|found| found.hosts);
        }
        Ok(found.hosts)
    }

    /// Every host that answers, further ones that answer as one of them, and what those say that
    /// refuse to. Our hosts say whom they know, or how many, so that this ends as soon as all of
    /// them have answered.
    pub async fn ping(&self) -> Result<Found> {
        let mut found = Found { is_heard: true, ..Found::default() };
        let mut crowd = Crowd::default();
        let began = Instant::now();
        let mut until = began + self.timeout;
        let mut replies = self.scatter(&PingHosts, until).await?;
        while let Ok(Some(message)) = timeout_at(until, replies.next()).await {
            // The server says so at once; then no host can answer later.
            if is_nobody(&message) {
                found.is_heard = false;
                break;
            }
            match read::<HostReply>(&message.payload) {
                Err(Unread::Refused(error)) if found.refusals.len() < REFUSALS_MAX => {
                    found.refusals.push(error)
                }
                Ok(host) if host.id.is_empty() || found.hosts.len() >= HOSTS_MAX => continue,
                Ok(host) if crowd.take_in(&host) => found.hosts.push(host),
                Ok(host) if crowd.is_twin(&host) && found.twins.len() < TWINS_MAX => {
                    found.twins.push(host)
                }
                _ => continue,
            }
            // The end only comes nearer: hosts that go on answering do not put it off.
            if crowd.is_complete() {
                until = until.min(Instant::now() + GRACE.max(began.elapsed() * 2));
            }
        }
        found.silent = crowd.missing.into_iter().collect();
        found.silent.sort();
        found
            .hosts
            .sort_by(|a, b| a.friendly_name.cmp(&b.friendly_name).then_with(|| a.id.cmp(&b.id)));
        Ok(found)
    }

    /// Like [`hosts`](Self::hosts); nobody at all is an error that says what to look at.
    pub async fn some_hosts(&self) -> Result<Vec<HostReply>> {
        Ok(self.found_hosts().await?.hosts)
    }

    /// Like [`ping`](Self::ping); nobody at all is an error that says what to look at, and so is a
    /// refusal alone.
    pub async fn found_hosts(&self) -> Result<Found> {
        let found = self.ping().await?;
        self.some_hosts_of(found)
    }

    fn some_hosts_of(&self, found: Found) -> Result<Found> {
        let subject = self.subjects.control(&PingHosts::SUBJECT);
        match found.refusals.first() {
            _ if !found.hosts.is_empty() => Ok(found),
            Some(error) => Err(RequestError::Refused { subject, error: error.clone() }.into()),
            None if found.is_heard => bail!(
                "no host of lattice {} answered within {} ms, though something listens to the question: hosts may be frozen or \
                 far away. --timeout-ms gives them more time, and `host doctor` looks at them",
                self.name(),
                self.timeout.as_millis()
            ),
            None => Err(self.nobody(subject).into()),
        }
    }

    /// The host a word means: a whole id without asking, else by the beginning of its id or by its
    /// friendly name. One that is lost is an error that says so.
    pub async fn find_host(&self, word: &str) -> Result<String> {
        match HostId::parse(word) {
            Ok(id) => Ok(id.to_string()),
            Err(_) => lost::host_there(self, word, &self.some_hosts().await?).await,
        }
    }

    /// Asks a host for its inventory.
    pub async fn inventory(&self, host: &str) -> Result<Inventory, RequestError> {
        self.request_of(host, &GetInventory).await
    }

    /// Returns the inventory of the host that `word` names, or of every host that answers.
    pub async fn inventories_of(&self, word: Option<&str>) -> Result<Vec<Inventory>> {
        match word {
            Some(word) => {
                let host = self.find_host(word).await?;
                let asked = self
                    .inventory(&host)
                    .await
                    .with_context(|| format!("ask host {host} what it runs"))?;
                Ok(vec![asked])
            }
            None => Ok(self.inventories(&self.some_hosts().await?).await),
        }
    }

    /// Returns the inventories of these hosts; a host that does not answer is left out.
    pub async fn inventories(&self, hosts: &[HostReply]) -> Vec<Inventory> {
        self.asked_inventories(hosts)
            .await
            .into_iter()
            .filter_map(|(_, asked)| asked.ok())
            .collect()
    }

    /// Returns the answer of each of these hosts about its inventory, with its id, in their order.
    pub async fn asked_inventories(
        &self,
        hosts: &[HostReply],
    ) -> Vec<(String, Result<Inventory, RequestError>)> {
        let ids = hosts.iter().map(|host| host.id.clone()).collect();
        self.ask_each(ids, &GetInventory).await
    }

    /// Makes the same request to each of these hosts, to so many at a time. Returns what each
    /// answers, with its id, in their order.
    pub async fn ask_each<R: HostRequest>(
        &self,
        ids: Vec<String>,
        request: &R,
    ) -> Vec<(String, Result<R::Reply, RequestError>)> {
        let asked = stream::iter(ids).map(|id| async move {
            let answer = self.request_of(&id, request).await;
            (id, answer)
        });
        asked.buffered(ASKED_MAX).collect().await
    }

    /// The claims of all actors and providers that ever ran.
    pub async fn claims(&self) -> Result<Vec<Claims>> {
        let claims = listing::claims(self).await?;
        Ok(claims.into_iter().filter_map(|value| Claims::parse(value.get().as_bytes())).collect())
    }

    /// All link definitions.
    pub async fn links(&self) -> Result<Vec<LinkDefinition>> {
        listing::links(self, None).await
    }

    /// The link definitions of one actor.
    pub async fn links_of(&self, actor: &str) -> Result<Vec<LinkDefinition>> {
        listing::links(self, Some(actor)).await
    }

    /// Returns the first host that bids in an auction, of those that `fits` takes.
    pub async fn first_bid<A: LatticeRequest<Reply = Bid>>(
        &self,
        auction: &A,
        wait: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Result<Option<String>> {
        let until = Instant::now() + wait;
        let mut bids = self.scatter(auction, until).await?;
        let mut refusal = None;
        while let Ok(Some(message)) = timeout_at(until, bids.next()).await {
            if is_nobody(&message) {
                return Err(self.nobody(self.subjects.control(&A::SUBJECT)).into());
            }
            match read::<A::Reply>(&message.payload) {
                Ok(bid) if !bid.host_id.is_empty() && fits(&bid.host_id) => {
                    return Ok(Some(bid.host_id));
                }
                Err(Unread::Refused(error)) => refusal = Some(error),
                _ => {}
            }
        }
        self.unless_refused(&A::SUBJECT, None, refusal)
    }

    /// Returns the offers of an auction, if no host refused to take part.
    fn unless_refused<T>(
        &self,
        auction: &Control,
        offers: T,
        refusal: Option<String>,
    ) -> Result<T> {
        match refusal {
            None => Ok(offers),
            Some(error) => {
                Err(RequestError::Refused { subject: self.subjects.control(auction), error }.into())
            }
        }
    }

    /// All hosts that offer within the time, until there are as many as expected.
    pub async fn bids<A: LatticeRequest<Reply = Bid>>(
        &self,
        auction: &A,
        wait: Duration,
        expected: usize,
    ) -> Result<BTreeSet<String>> {
        let until = Instant::now() + wait;
        let mut bids = self.scatter(auction, until).await?;
        let mut offers = BTreeSet::new();
        let mut refusal = None;
        while offers.len() < expected
            && let Ok(Some(message)) = timeout_at(until, bids.next()).await
        {
            if is_nobody(&message) {
                return Err(self.nobody(self.subjects.control(&A::SUBJECT)).into());
            }
            match read::<A::Reply>(&message.payload) {
                Ok(bid) if !bid.host_id.is_empty() => _ = offers.insert(bid.host_id),
                Err(Unread::Refused(error)) => refusal = Some(error),
                _ => {}
            }
        }
        let refusal = refusal.filter(|_| offers.is_empty());
        self.unless_refused(&A::SUBJECT, offers, refusal)
    }

    /// Gives a command to one host; a refusal is an error in the host's words.
    pub async fn command<R: HostRequest<Reply = Ack>>(
        &self,
        host: &str,
        command: &R,
    ) -> Result<Ack> {
        accepted(self.request_of(host, command).await?)
    }

    /// Changes the metadata of the lattice; a refusal is an error in the host's words.
    pub async fn change<R: LatticeRequest<Reply = Ack>>(&self, change: &R) -> Result<()> {
        accepted(self.request(change).await?).map(drop)
    }

    /// Makes a request to the lattice that one host answers. A refusal is an error, whatever was
    /// asked for.
    pub async fn request<R: LatticeRequest>(&self, request: &R) -> Result<R::Reply, RequestError> {
        self.exchange(&R::SUBJECT, request).await
    }

    /// Makes a request to one host. A refusal is an error, whatever was asked for.
    pub async fn request_of<R: HostRequest>(
        &self,
        host: &str,
        request: &R,
    ) -> Result<R::Reply, RequestError> {
        self.exchange(&R::subject(host.to_owned()), request).await
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        request: &Control,
        body: &impl Serialize,
    ) -> Result<T, RequestError> {
        let subject = self.subjects.control(request);
        let message = self.ask(&subject, encode(body)).await?;
        if let Err(error) = answer::check(&message.payload) {
            return Err(RequestError::Unreadable { subject, cause: error.to_string() });
        }
        read(&message.payload).map_err(|unread| match unread {
            Unread::Refused(error) => RequestError::Refused { subject, error },
            Unread::Nonsense(cause) => RequestError::Unreadable { subject, cause },
        })
    }

    /// Sends bytes to a subject and waits for one answer.
    pub async fn ask(&self, subject: &str, payload: Bytes) -> Result<Message, RequestError> {
        let began = Instant::now();
        let mut request = async_nats::Request::new().payload(payload).timeout(Some(self.timeout));
        if let Some(headers) = self.headers() {
            request = request.headers(headers);
        }
        // The request's own timeout begins when the connection has taken it.
        let answered =
            timeout_at(began + self.timeout, self.client.send_request(subject.to_owned(), request))
                .await;
        let subject = subject.to_owned();
        match answered {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
                Err(self.nobody(subject))
            }
            Ok(Err(error)) if error.kind() != RequestErrorKind::TimedOut => {
                Err(RequestError::Transport { subject, cause: error.to_string() })
            }
            Ok(Err(_)) | Err(_) => {
                let (lattice, waited_ms) = (self.name().to_owned(), began.elapsed().as_millis());
                Err(RequestError::TimedOut { subject, lattice, waited_ms })
            }
        }
    }

    /// Sends a request whose answers are collected from what is returned.
    async fn scatter<R: LatticeRequest>(
        &self,
        request: &R,
        until: Instant,
    ) -> Result<Subscriber, RequestError> {
        let subject = self.subjects.control(&R::SUBJECT);
        let sent = async {
            let inbox = self.client.new_inbox();
            let replies = self.client.subscribe(inbox.clone()).await?;
            self.client.publish_with_reply(subject.clone(), inbox, encode(request)).await?;
            anyhow::Ok(replies)
        };
        let cause = match timeout_at(until, sent).await {
            Ok(Ok(replies)) => return Ok(replies),
            Ok(Err(error)) => error.to_string(),
            // A connection whose queue is full takes nothing until its server is back.
            Err(_) => {
                "the connection does not take it in time; is the NATS server away?".to_owned()
            }
        };
        Err(RequestError::Transport { subject, cause })
    }

    /// Hears events from now on. Whoever acts afterwards on this connection misses none: the server
    /// takes what comes on it in order. (So nothing is awaited here: a round trip would need the
    /// right to publish to an inbox, which operators lack.)
    pub async fn events(&self) -> Result<Events> {
        Ok(Events { all: self.client.subscribe(self.subjects.events()).await? })
    }

    fn nobody(&self, subject: String) -> RequestError {
        let domain = self
            .js_domain
            .as_deref()
            .map(|domain| format!(", domain {domain}"))
            .unwrap_or_default();
        let advice = format!(
            "no host of it is connected to this NATS server{domain}. Is it the right lattice (--lattice) and the right server \
             (--ctl-host)? Does a host run (`host up`), and does the leaf node between here and there? `host doctor` looks at \
             all of these"
        );
        RequestError::NoResponders { subject, lattice: self.name().to_owned(), advice }
    }
}

/// Why an answer is not what was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Unread {
    /// The host says why.
    Refused(String),
    Nonsense(String),
}

/// Reads an answer, in which anything may be missing: so what says `"accepted": false` is told from
/// it first.
fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Unread> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Refusal {
        accepted: Option<bool>,
        error: Option<String>,
    }
    match serde_json::from_slice::<Refusal>(payload) {
        Ok(Refusal { accepted: Some(false), error }) => {
            Err(Unread::Refused(error.unwrap_or_default()))
        }
        _ => serde_json::from_slice(payload).map_err(|error| Unread::Nonsense(error.to_string())),
    }
}

/// Hosts that have answered, and hosts that these know.
#[derive(Default)]
struct Crowd {
    /// By id, with the name and the start.
    answered: HashMap<String, (String, Option<u64>)>,
    /// Known to somebody, and silent until now.
    missing: HashSet<String>,
    /// The most others that one of them knows.
    others: Option<usize>,
}

impl Crowd {
    /// Takes a host in; whether it is a new one.
    fn take_in(&mut self, host: &HostReply) -> bool {
        if self.answered.contains_key(&host.id) {
            return false;
        }
        self.answered.insert(host.id.clone(), (host.friendly_name.clone(), host.life));
        self.missing.remove(&host.id);
        let others = host.peers.iter().flatten().filter(|id| !self.answered.contains_key(*id));
        self.missing.extend(others.cloned());
        self.others = self.others.max(host.peers.as_ref().map(Vec::len)).max(host.peer_count);
        true
    }

    /// Whether a host is another one than that which answered with its id.
    fn is_twin(&self, host: &HostReply) -> bool {
        let first = self.answered.get(&host.id);
        first.is_some_and(|(name, life)| *name != host.friendly_name || *life != host.life)
    }

    /// Whether everybody has answered of whom somebody knows. Nobody can tell of hosts that do not
    /// say whom they know.
    fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.others.is_some_and(|others| self.answered.len() > others)
    }
}

/// The events of a lattice, as they come.
pub struct Events {
    all: Subscriber,
}

impl Events {
    /// The next event; what is none is passed over. Cancel safe.
    pub async fn next(&mut self) -> Option<Received> {
        loop {
            let message = self.all.next().await?;
            if !made::by_jetstream(&message)
                && let Some(received) = Received::parse(&message.payload)
            {
                return Some(received);
            }
        }
    }
}

fn accepted(ack: Ack) -> Result<Ack> {
    if ack.accepted {
        return Ok(ack);
    }
    bail!("the host does not say that it accepts it: {}", ack.error)
}

/// Encodes a body; a unit has none.
fn encode(body: &impl Serialize) -> Bytes {
    match serde_json::to_vec(body) {
        Ok(body) if body == b"null" => Bytes::new(),
        Ok(body) => body.into(),
        // Texts, numbers and maps of them always encode.
        Err(_) => Bytes::new(),
    }
}

fn is_nobody(message: &Message) -> bool {
    message.status == Some(async_nats::StatusCode::NO_RESPONDERS)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use lattice_protocol::control::probe::{calls::Look, explain::Explained, health::Health};

    #[test]
    fn a_refusal_is_an_error_whatever_was_asked_for() {
        fn refused<T: DeserializeOwned>(payload: &[u8]) -> bool {
            read::<T>(payload).err() == Some(Unread::Refused("too \"large\"".into()))
        }
        let refusal = br#"{"accepted":false,"error":"too \"large\""}"#;
        assert!(
            refused::<Ack>(refusal)
                && refused::<HostReply>(refusal)
                && refused::<Inventory>(refusal)
        );
        assert!(refused::<Bid>(refusal) && refused::<Look>(refusal) && refused::<Health>(refusal));
        assert!(refused::<Explained>(refusal) && refused::<Value>(refusal));
        assert_eq!(
            read::<Inventory>(br#"{"accepted":false}"#).err(),
            Some(Unread::Refused(String::new()))
        );
    }

    #[test]
    fn what_is_no_refusal_is_read_as_what_it_is() {
        assert!(read::<Ack>(br#"{"accepted":true,"error":""}"#).unwrap().accepted);
        // Named configuration may have such a name; its values are lists.
        assert!(read::<Value>(br#"{"accepted":[1],"error":[2]}"#).is_ok());
        assert!(matches!(read::<Inventory>(b"["), Err(Unread::Nonsense(_))));
        assert_eq!(read::<HostReply>(br#"{"id":"N"}"#).unwrap().id, "N");
    }

    #[test]
    fn hosts_are_waited_for_until_all_that_somebody_knows_have_answered() {
        let host = |id: &str, peers: Option<&[&str]>, peer_count| HostReply {
            id: id.into(),
            peers: peers.map(|ids| ids.iter().map(|id| (*id).to_owned()).collect()),
            peer_count,
            ..HostReply::default()
        };
        let mut crowd = Crowd::default();
        assert!(crowd.take_in(&host("OLD", None, None)) && !crowd.is_complete());
        assert!(crowd.take_in(&host("A", Some(&["B"]), Some(1))) && !crowd.is_complete());
        assert!(crowd.missing.contains("B"), "one that is frozen is known by the others");
        assert!(crowd.take_in(&host("B", Some(&["A"]), Some(1))) && crowd.is_complete());
        assert!(!crowd.take_in(&host("B", None, None)));
        // A large lattice tells numbers.
        assert!(crowd.take_in(&host("C", None, Some(4))) && !crowd.is_complete());
        assert!(crowd.take_in(&host("D", None, Some(4))) && crowd.is_complete());
    }
}
