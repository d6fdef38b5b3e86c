//! Requests of the control interface (lattice protocol, section 3), as a client makes them.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, bail};
use async_nats::{Message, RequestErrorKind, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::names;
use crate::{
    control::types::{Ack, HostReply, Inventory, Pairs},
    identity::keys::HostId,
    lattice::{
        connection::confirm,
        subject::{Command, Control, Subjects},
    },
    links::{Claims, LinkDefinition},
};

/// How long to go on listening after every host that is known has answered, for hosts of earlier years, whom ours do not
/// know. Longer if the answers so far took long.
const GRACE: Duration = Duration::from_millis(100);

/// Hosts with the key of another one that are told.
const TWINS_MAX: usize = 64;

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
    #[error("the answer on {subject} cannot be read: {cause}")]
    Unreadable { subject: String, cause: String },
    #[error("the request on {subject} was not sent: {cause}")]
    Transport { subject: String, cause: String },
}

/// A host's offer to run something.
#[derive(Clone, Debug, Deserialize)]
pub struct Bid {
    #[serde(default)]
    pub host_id: String,
}

/// A lattice that can be asked. Cheap to clone.
#[derive(Clone)]
pub struct Lattice {
    pub client: async_nats::Client,
    pub subjects: Subjects,
    pub timeout: Duration,
    pub js_domain: Option<String>,
}

impl Lattice {
    pub fn new(client: async_nats::Client, subjects: Subjects, timeout: Duration, js_domain: Option<String>) -> Self {
        Self { client, subjects, timeout, js_domain }
    }

    pub fn name(&self) -> &str {
        self.subjects.lattice().as_str()
    }

    /// Every host that answers. Our hosts say whom they know, so that this ends as soon as all of them have answered.
    pub async fn hosts(&self) -> Result<Vec<HostReply>> {
        Ok(self.hosts_and_twins().await?.0)
    }

    /// The same, and further hosts that answer as one of them: they were started with the same key.
    pub async fn hosts_and_twins(&self) -> Result<(Vec<HostReply>, Vec<HostReply>)> {
        let mut hosts: Vec<HostReply> = Vec::new();
        let mut twins = Vec::new();
        let began = Instant::now();
        let mut until = began + self.timeout;
        let mut replies = self.scatter(&Control::PingHosts, &Value::Null, until).await?;
        let mut known = BTreeSet::new();
        while let Ok(Some(message)) = timeout_at(until, replies.next()).await {
            if is_nobody(&message) {
                break;
            }
            let Ok(host) = serde_json::from_slice::<HostReply>(&message.payload) else { continue };
            if host.id.is_empty() {
                continue;
            }
            if let Some(other) = hosts.iter().find(|other| other.id == host.id) {
                // A name is made up at each start.
                if other.friendly_name != host.friendly_name && twins.len() < TWINS_MAX {
                    twins.push(host);
                }
                continue;
            }
            known.extend(host.peers.iter().flatten().cloned());
            hosts.push(host);
            let tells = hosts.iter().any(|host| host.peers.is_some());
            if tells && known.iter().all(|id| hosts.iter().any(|host| host.id == *id)) {
                until = until.min(Instant::now() + GRACE.max(began.elapsed() * 2));
            }
        }
        hosts.sort_by(|a, b| a.friendly_name.cmp(&b.friendly_name).then_with(|| a.id.cmp(&b.id)));
        Ok((hosts, twins))
    }

    /// Like [`hosts`](Self::hosts); nobody at all is an error that says what to look at.
    pub async fn some_hosts(&self) -> Result<Vec<HostReply>> {
        let hosts = self.hosts().await?;
        if hosts.is_empty() {
            let subject = self.subjects.control(&Control::PingHosts);
            return Err(self.nobody(subject).into());
        }
        Ok(hosts)
    }

    /// The host a word means: a whole id without asking, else by the beginning of its id or by its friendly name.
    pub async fn find_host(&self, word: &str) -> Result<String> {
        match HostId::parse(word) {
            Ok(id) => Ok(id.to_string()),
            Err(_) => names::host(word, &self.some_hosts().await?),
        }
    }

    /// What runs on a host.
    pub async fn inventory(&self, host: &str) -> Result<Inventory, RequestError> {
        self.request(&Control::Inventory { host: host.to_owned() }, &Value::Null).await
    }

    /// What runs on the host a word means, or on every host that answers.
    pub async fn inventories_of(&self, word: Option<&str>) -> Result<Vec<Inventory>> {
        match word {
            Some(word) => {
                let host = self.find_host(word).await?;
                let asked = self.inventory(&host).await.with_context(|| format!("ask host {host} what it runs"))?;
                Ok(vec![asked])
            }
            None => Ok(self.inventories(&self.some_hosts().await?).await),
        }
    }

    /// What runs on each of these hosts; a host that does not answer is left out.
    pub async fn inventories(&self, hosts: &[HostReply]) -> Vec<Inventory> {
        let asked = hosts.iter().map(|host| self.inventory(&host.id));
        futures::future::join_all(asked).await.into_iter().filter_map(Result::ok).collect()
    }

    /// The claims of all actors and providers that ever ran.
    pub async fn claims(&self) -> Result<Vec<Claims>, RequestError> {
        #[derive(Deserialize)]
        struct Reply {
            #[serde(default)]
            claims: Vec<Value>,
        }
        let reply: Reply = self.request(&Control::Claims, &Value::Null).await?;
        let read = |value: Value| Claims::parse(value.to_string().as_bytes());
        Ok(reply.claims.into_iter().filter_map(read).collect())
    }

    /// All link definitions.
    pub async fn links(&self) -> Result<Vec<LinkDefinition>, RequestError> {
        #[derive(Deserialize)]
        struct Reply {
            #[serde(default)]
            links: Vec<LinkDefinition>,
        }
        let reply: Reply = self.request(&Control::Links, &Value::Null).await?;
        Ok(reply.links)
    }

    /// The first host that offers to run an actor, of those that `fits` takes.
    pub async fn auction_actor(
        &self,
        reference: &str,
        constraints: &Pairs,
        wait: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Result<Option<String>> {
        let (auction, request) = auction(reference, None, constraints);
        self.first_bid(&auction, &request, wait, fits).await
    }

    /// The same for a provider under a link name.
    pub async fn auction_provider(
        &self,
        reference: &str,
        link_name: &str,
        constraints: &Pairs,
        wait: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Result<Option<String>> {
        let (auction, request) = auction(reference, Some(link_name), constraints);
        self.first_bid(&auction, &request, wait, fits).await
    }

    async fn first_bid(
        &self,
        auction: &Control,
        request: &Value,
        wait: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Result<Option<String>> {
        let until = Instant::now() + wait;
        let mut bids = self.scatter(auction, request, until).await?;
        while let Ok(Some(message)) = timeout_at(until, bids.next()).await {
            if is_nobody(&message) {
                return Err(self.nobody(self.subjects.control(auction)).into());
            }
            if let Ok(bid) = serde_json::from_slice::<Bid>(&message.payload)
                && !bid.host_id.is_empty()
                && fits(&bid.host_id)
            {
                return Ok(Some(bid.host_id));
            }
        }
        Ok(None)
    }

    /// All hosts that offer within the time, until there are as many as expected.
    pub async fn bids(
        &self,
        reference: &str,
        link_name: Option<&str>,
        constraints: &Pairs,
        wait: Duration,
        expected: usize,
    ) -> Result<BTreeSet<String>> {
        let (auction, request) = auction(reference, link_name, constraints);
        let until = Instant::now() + wait;
        let mut bids = self.scatter(&auction, &request, until).await?;
        let mut offers = BTreeSet::new();
        while offers.len() < expected
            && let Ok(Some(message)) = timeout_at(until, bids.next()).await
        {
            if is_nobody(&message) {
                return Err(self.nobody(self.subjects.control(&auction)).into());
            }
            if let Ok(bid) = serde_json::from_slice::<Bid>(&message.payload)
                && !bid.host_id.is_empty()
            {
                offers.insert(bid.host_id);
            }
        }
        Ok(offers)
    }

    /// Gives a command to one host; a refusal is an error in the host's words.
    pub async fn command(&self, host: &str, command: Command, body: &Value) -> Result<()> {
        self.acked(&Control::Command { host: host.to_owned(), command }, body).await
    }

    /// Makes a request that is answered with an acknowledgement; a refusal is an error in the host's words.
    pub async fn acked(&self, request: &Control, body: &Value) -> Result<()> {
        let ack: Ack = self.request(request, body).await?;
        if !ack.accepted {
            bail!("the host refuses it: {}", ack.error);
        }
        Ok(())
    }

    /// Makes a request with one answer.
    pub async fn request<T: DeserializeOwned>(
        &self,
        request: &Control,
        body: &impl Serialize,
    ) -> Result<T, RequestError> {
        let subject = self.subjects.control(request);
        let message = self.ask(&subject, encode(body)).await?;
        serde_json::from_slice(&message.payload).map_err(|e| RequestError::Unreadable { subject, cause: e.to_string() })
    }

    /// Sends bytes to a subject and waits for one answer.
    pub async fn ask(&self, subject: &str, payload: Bytes) -> Result<Message, RequestError> {
        let began = Instant::now();
        let request = async_nats::Request::new().payload(payload).timeout(Some(self.timeout));
        // The request's own timeout begins when the connection has taken it.
        let answered = timeout_at(began + self.timeout, self.client.send_request(subject.to_owned(), request)).await;
        let timed_out = || RequestError::TimedOut {
            subject: subject.to_owned(),
            lattice: self.name().to_owned(),
            waited_ms: began.elapsed().as_millis(),
        };
        match answered {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(error)) => Err(match error.kind() {
                RequestErrorKind::NoResponders => self.nobody(subject.to_owned()),
                RequestErrorKind::TimedOut => timed_out(),
                _ => RequestError::Transport { subject: subject.to_owned(), cause: error.to_string() },
            }),
            Err(_) => Err(timed_out()),
        }
    }

    /// Sends a request whose answers are collected from what is returned.
    async fn scatter(&self, request: &Control, body: &Value, until: Instant) -> Result<Subscriber, RequestError> {
        let subject = self.subjects.control(request);
        let transport = |cause: String| RequestError::Transport { subject: subject.clone(), cause };
        let sent = async {
            let inbox = self.client.new_inbox();
            let replies = self.client.subscribe(inbox.clone()).await.map_err(|e| transport(e.to_string()))?;
            let sent = self.client.publish_with_reply(subject.clone(), inbox, encode(body)).await;
            sent.map_err(|e| transport(e.to_string()))?;
            Ok(replies)
        };
        // A connection whose queue is full takes nothing until its server is back.
        let full = || transport("the connection does not take it in time; is the NATS server away?".to_owned());
        timeout_at(until, sent).await.unwrap_or_else(|_| Err(full()))
    }

    /// Hears events from now on; those who act afterwards miss none.
    pub async fn events(&self) -> Result<Events> {
        let all = self.client.subscribe(self.subjects.events()).await?;
        confirm(&self.client).await?;
        Ok(Events { all })
    }

    fn nobody(&self, subject: String) -> RequestError {
        let domain = self.js_domain.as_deref().map(|domain| format!(", domain {domain}")).unwrap_or_default();
        let advice = format!(
            "no host of it is connected to this NATS server{domain}. Is it the right lattice (--lattice) and the right server \
             (--ctl-host)? Does a host run (`host up`), and does the leaf node between here and there? `host doctor` looks at \
             all of these"
        );
        RequestError::NoResponders { subject, lattice: self.name().to_owned(), advice }
    }
}

/// The events of a lattice, as they come.
pub struct Events {
    all: Subscriber,
}

/// An event, taken out of its envelope.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// `com.wasmcloud.lattice.` and the name.
    #[serde(rename = "type")]
    kind: String,
    /// The host it is about.
    #[serde(default)]
    pub source: String,
    #[serde(default)]
    pub data: Value,
}

impl Event {
    /// The name without what all have in common.
    pub fn name(&self) -> &str {
        self.kind.rsplit('.').next().unwrap_or_default()
    }

    /// A member of the data, as text.
    pub fn text(&self, member: &str) -> &str {
        self.data.get(member).and_then(Value::as_str).unwrap_or_default()
    }
}

impl Events {
    /// The next event; what is none is passed over. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let message = self.all.next().await?;
            if let Ok(event) = serde_json::from_slice(&message.payload) {
                return Some(event);
            }
        }
    }
}

/// An auction of an actor, or of a provider under a link name.
fn auction(reference: &str, link_name: Option<&str>, constraints: &Pairs) -> (Control, Value) {
    match link_name {
        None => (Control::AuctionActor, json!({ "actor_ref": reference, "constraints": constraints })),
        Some(link_name) => {
            let request = json!({ "provider_ref": reference, "link_name": link_name, "constraints": constraints });
            (Control::AuctionProvider, request)
        }
    }
}

/// A null is no body: queries have none.
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
