//! The facts that checks judge: gathered in two rounds, everything of a round at the same time.
//!
//! The first round makes the connections, the second asks what they lead to. Every question has a
//! deadline, and so has each round: an answer that comes later counts as missing. [`Facts`] hold
//! the findings, or why there are none.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::{StreamExt as _, future::join_all};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    jetstream::{self, JetStream},
    look::{self, Look},
    machine::{self, Machine},
    permissions::{self, Permissions},
    stored::Stored,
};
use crate::session::Session;
use lattice_base::{
    config::{self, Config, Mistakes, Overruled},
    lattice::connection::{ConnectError, Nats, Purpose, connect_once},
    store::jetstream::api_prefix,
};
use lattice_client::{
    calls,
    lattice::{Found, Lattice, RequestError},
    lost,
};
use lattice_protocol::{
    applications::{
        api::{HOST_HEADER, StatusType, Summary},
        request::Request as AppRequest,
    },
    clock,
    control::{
        probe::{
            calls::Look as CallLook,
            health::{Health, Request},
            lost::LostHost,
        },
        types::{HostReply, Inventory},
    },
    links::{Claims, LinkDefinition},
    store::keys,
};

/// How we are called on the server.
const CLIENT_NAME: &str = "host doctor";
/// How long connecting may take, whatever the number of servers.
const CONNECT: Duration = Duration::from_secs(6);
/// How long everything that is asked over the connections may take.
const ASK: Duration = Duration::from_millis(7500);
/// The longest that one answer is waited for, whatever the settings say.
const ANSWER_MAX: Duration = Duration::from_millis(2500);
/// How long it is listened for hosts of other lattices; ours speak every second.
const LISTEN: Duration = Duration::from_millis(1300);
const ROUND_TRIP: Duration = Duration::from_secs(2);

/// Why something is not known, in the middle of a sentence.
pub type Unknown = String;

/// Those who answer about applications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApplicationKeeper {
    Hosts {
        /// The applications that failed, with what is said about each.
        failed: Vec<(String, String)>,
    },
    /// A deployment manager of its own.
    Program,
}

/// Everything that was found.
pub struct Facts {
    /// Seconds since 1970, by this machine's clock.
    pub now: u64,
    pub settings: Settings,
    pub ctl: Reached,
    pub rpc: Reached,
    pub server: Result<Server, Unknown>,
    pub permissions: Result<Permissions, Unknown>,
    pub jetstream: Result<JetStream, Unknown>,
    pub lattice: Result<Seen, Unknown>,
    pub manager: Result<Option<ApplicationKeeper>, Unknown>,
    pub machine: Machine,
    /// The entries that the lattice keeps. Only an upgrade looks at it: every entry is read for it.
    pub stored: Result<Stored, Unknown>,
}

/// The settings, and the problems found while reading them.
#[derive(Default)]
pub struct Settings {
    /// Missing where there are mistakes.
    pub config: Option<Config>,
    pub mistakes: Mistakes,
    /// Why there are no settings although there are no mistakes.
    pub error: Option<String>,
    pub overruled: Vec<Overruled>,
    /// The context that was used.
    pub context: Option<PathBuf>,
    /// `host_config.json` of this directory, if there is one.
    pub file: Option<PathBuf>,
    pub home: Option<PathBuf>,
}

/// A connection, or why there is none.
pub struct Reached {
    pub purpose: Purpose,
    /// `host:port` of each server, and what is there.
    pub looks: Vec<(String, Look)>,
    pub connected: Result<Nats, NotConnected>,
    /// How long it took.
    pub took: Duration,
    /// Where else a NATS server was found, if there is none where it was looked for.
    pub elsewhere: Option<String>,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum NotConnected {
    Failed(ConnectError),
    TimedOut,
    /// The settings do not say where to.
    NotTried,
}

/// The server behind the control connection.
#[derive(Clone, Debug, Default)]
pub struct Server {
    pub name: String,
    pub version: String,
    pub domain: Option<String>,
    pub cluster: Option<String>,
    /// Addresses of the servers of its cluster that clients can use.
    pub members: usize,
    pub headers: bool,
    pub max_payload: usize,
    pub is_leaving: bool,
    /// Whether it asks clients for a login.
    pub asks_for_login: bool,
    pub round_trip: Option<Duration>,
}

/// The lattice as its hosts show it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub hosts: Vec<HostReply>,
    /// Further ones that answer as one of these.
    pub twins: Vec<HostReply>,
    /// Ids of hosts that others hear and that did not answer.
    pub silent: Vec<String>,
    /// By host of our kind.
    pub health: BTreeMap<String, Result<Told, Untold>>,
    pub inventories: Vec<Inventory>,
    pub claims: Option<Vec<Claims>>,
    pub links: Option<Vec<LinkDefinition>>,
    /// Why one of these two is missing.
    pub untold: Option<String>,
    /// The errors of hosts that refuse to tell who they are.
    pub refusals: Vec<String>,
    /// The last calls that hosts counted.
    pub looks: Vec<CallLook>,
    /// Hosts that vanished, as the others remember them.
    pub lost: Vec<LostHost>,
    /// Other lattices that were noticed, if no host answers in this one.
    pub others: Vec<String>,
}

impl Seen {
    /// Whether every host has told what it runs.
    pub fn is_whole(&self) -> bool {
        lost::is_whole(&self.hosts, &self.silent, &self.inventories, &self.lost)
    }

    /// Whether an actor or a provider runs anywhere.
    pub fn runs(&self, id: &str) -> bool {
        self.inventories.iter().any(|inventory| {
            inventory.actors.iter().any(|actor| actor.id == id)
                || inventory.providers.iter().any(|provider| provider.id == id)
        })
    }
}

/// Why a host of our kind does not tell how it is.
#[derive(Clone, Debug)]
pub enum Untold {
    /// It does not know the question.
    TooOld,
    Failed(String),
}

/// The health of a host, and when it was asked and answered, in ms since 1970 by this machine's
/// clock.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub health: Health,
    pub asked_ms: u64,
    pub came_ms: u64,
}

impl Default for Facts {
    /// Nothing is known.
    fn default() -> Self {
        Self::unknown("nothing was looked at")
    }
}

impl Facts {
    /// Nothing is known, and why.
    fn unknown(why: &str) -> Self {
        Self {
            now: 0,
            settings: Settings::default(),
            ctl: Reached::not_tried(Purpose::Control),
            rpc: Reached::not_tried(Purpose::Rpc),
            server: Err(why.to_owned()),
            permissions: Err(why.to_owned()),
            jetstream: Err(why.to_owned()),
            lattice: Err(why.to_owned()),
            manager: Err(why.to_owned()),
            machine: Machine::default(),
            stored: Err(why.to_owned()),
        }
    }

    /// Gathers everything; ends by itself.
    pub async fn gather(session: Result<Session>) -> Self {
        let now = clock::now_ms() / 1000;
        let session = match session {
            Ok(session) => session,
            Err(error) => return Self { now, ..Self::without_settings(error).await },
        };
        let settings = Settings::of(&session);
        let (ctl, rpc, machine) = tokio::join!(
            Reached::try_it(Purpose::Control, &session.config.ctl),
            Reached::try_it(Purpose::Rpc, &session.config.rpc),
            machine::gather(&session.dirs),
        );
        let mut facts = Self { now, settings, ctl, rpc, machine, ..Self::default() };
        facts.ask(&session).await;
        facts
    }

    async fn without_settings(error: anyhow::Error) -> Self {
        let home = std::env::home_dir();
        let dirs = lattice_base::dirs::Dirs::find(&config::ProcessEnvironment, home.as_deref());
        let mut settings = Settings { home, file: file_here(), ..Settings::default() };
        match error.downcast::<Mistakes>() {
            Ok(mistakes) => settings.mistakes = mistakes,
            Err(error) => settings.error = Some(format!("{error:#}")),
        }
        let machine = machine::gather(&dirs).await;
        Self { settings, machine, ..Self::unknown("the settings cannot be used") }
    }

    /// The second round.
    async fn ask(&mut self, session: &Session) {
        let lattice = match (&self.ctl.connected, session.subjects()) {
            (Ok(nats), Ok(subjects)) => {
                let wait = session.timeout.min(ANSWER_MAX);
                Ok((
                    nats,
                    Lattice::new(
                        nats.client.clone(),
                        subjects,
                        wait,
                        session.config.js_domain.clone(),
                    ),
                ))
            }
            (Ok(_), Err(error)) => Err(format!("{error:#}")),
            (Err(_), _) => Err("there is no connection to the NATS server (nats-ctl)".to_owned()),
        };
        let (nats, lattice) = match lattice {
            Ok(both) => both,
            Err(why) => {
                self.server = Err(why.clone());
                self.permissions = Err(why.clone());
                self.jetstream = Err(why.clone());
                self.manager = Err(why.clone());
                self.lattice = Err(why);
                return;
            }
        };
        let (server, permissions, jetstream, seen, manager) = tokio::join!(
            timeout(ASK, server(nats)),
            timeout(
                ASK,
                permissions::gather(session, &lattice.subjects, self.rpc.connected.is_ok())
            ),
            timeout(ASK, jetstream::gather(nats, &session.config)),
            timeout(ASK, seen(&lattice)),
            timeout(ASK, application_keeper(&lattice)),
        );
        self.server = server.map_err(|_| late("the NATS server"));
        self.permissions = permissions.unwrap_or_else(|_| Err(late("the NATS server")));
        self.jetstream = jetstream.map_err(|_| late("JetStream"));
        self.lattice = seen.unwrap_or_else(|_| Err(late("the lattice")));
        self.manager = manager.unwrap_or_else(|_| Err(late("the lattice")));
    }

    /// The hosts and what they told.
    pub fn told(&self) -> Vec<(&HostReply, &Told)> {
        let Ok(seen) = &self.lattice else { return Vec::new() };
        seen.hosts
            .iter()
            .filter_map(|host| Some((host, seen.health.get(&host.id)?.as_ref().ok()?)))
            .collect()
    }
}

impl Settings {
    fn of(session: &Session) -> Self {
        Self {
            config: Some(session.config.clone()),
            overruled: session.overruled.clone(),
            context: session.context.clone(),
            file: file_here(),
            home: session.home.clone(),
            ..Self::default()
        }
    }
}

fn file_here() -> Option<PathBuf> {
    Some(PathBuf::from(config::FILE_NAME)).filter(|path| path.exists())
}

impl Reached {
    fn not_tried(purpose: Purpose) -> Self {
        Self {
            purpose,
            looks: Vec::new(),
            connected: Err(NotConnected::NotTried),
            took: Duration::ZERO,
            elsewhere: None,
        }
    }

    async fn try_it(purpose: Purpose, connection: &config::Connection) -> Self {
        let began = Instant::now();
        let looks = async {
            let looks = join_all(connection.servers.iter().map(|server| async move {
                let address = look::address_of(server).to_owned();
                let found = look::look(&address).await;
                (address, found)
            }));
            let looks = looks.await;
            let elsewhere = usual_place(connection, &looks).await;
            (looks, elsewhere)
        };
        let connecting = async {
            let connected = timeout(CONNECT, connect_once(purpose, connection, CLIENT_NAME)).await;
            (connected, began.elapsed())
        };
        let ((looks, elsewhere), (connected, took)) = tokio::join!(looks, connecting);
        let connected = match connected {
            Ok(connected) => connected.map_err(NotConnected::Failed),
            Err(_) => Err(NotConnected::TimedOut),
        };
        let elsewhere = elsewhere.filter(|_| connected.is_err());
        Self { purpose, looks, connected, took, elsewhere }
    }
}

/// A NATS server on the usual port of the same machine, if there is none where the settings say.
async fn usual_place(connection: &config::Connection, looks: &[(String, Look)]) -> Option<String> {
    if looks.iter().any(|(_, found)| matches!(found, Look::Nats(_))) || connection.port == 4222 {
        return None;
    }
    let address = format!("{}:4222", connection.host_text);
    matches!(look::look(&address).await, Look::Nats(_)).then_some(address)
}

async fn server(nats: &Nats) -> Server {
    let mut best = None;
    for _ in 0..3 {
        let began = Instant::now();
        if !matches!(timeout(ROUND_TRIP, nats.confirm()).await, Ok(Ok(()))) {
            break;
        }
        best = Some(best.unwrap_or(Duration::MAX).min(began.elapsed()));
    }
    let info = nats.client.server_info();
    Server {
        name: info.server_name,
        version: info.version,
        domain: info.domain,
        cluster: info.cluster,
        members: info.connect_urls.len(),
        headers: info.headers,
        max_payload: info.max_payload,
        is_leaving: info.lame_duck_mode,
        asks_for_login: info.auth_required,
        round_trip: best,
    }
}

/// Asks hosts who they are, then all that they and the lattice know.
async fn seen(lattice: &Lattice) -> Result<Seen, Unknown> {
    let Found { hosts, twins, refusals, silent, .. } =
        lattice.ping().await.map_err(|error| format!("{error:#}"))?;
    if hosts.is_empty() && refusals.is_empty() {
        let others = timeout(LISTEN * 2, other_lattices(lattice)).await.unwrap_or_default();
        return Ok(Seen { others, ..Seen::default() });
    }
    let ours = hosts.iter().filter(|host| host.is_ours());
    let health =
        join_all(ours.map(|host| async { (host.id.clone(), health(lattice, &host.id).await) }));
    let (health, inventories, claims, links, looks, lost) = tokio::join!(
        health,
        lattice.inventories(&hosts),
        lattice.claims(),
        lattice.links(),
        calls::looks(lattice, &hosts),
        lost::lost(lattice, &hosts),
    );
    let untold = links.as_ref().err().or(claims.as_ref().err()).map(|error| format!("{error:#}"));
    Ok(Seen {
        health: health.into_iter().collect(),
        inventories,
        claims: claims.ok(),
        links: links.ok(),
        untold,
        refusals,
        looks,
        lost,
        others: Vec::new(),
        hosts,
        twins,
        silent,
    })
}

async fn health(lattice: &Lattice, host: &str) -> Result<Told, Untold> {
    let asked_ms = clock::now_ms();
    let answer = lattice.request_of(host, &Request { ask: true }).await;
    let came_ms = clock::now_ms();
    let health = answer.map_err(|error| match error {
        RequestError::NoResponders { .. } => Untold::TooOld,
        error => Untold::Failed(error.to_string()),
    })?;
    // A refusal reads as a state in which nothing is known.
    if health.host_id.is_empty() {
        return Err(Untold::TooOld);
    }
    Ok(Told { health, asked_ms, came_ms })
}

/// Lattices at this server other than the one that was asked for: by what their hosts say to each
/// other, and by their buckets.
async fn other_lattices(lattice: &Lattice) -> Vec<String> {
    let mut found = BTreeSet::new();
    let heard = async {
        let mut words = lattice.client.subscribe("wasmbus.rpc.*.hosts").await.ok()?;
        let mut heard = Vec::new();
        let listening = async {
            while let Some(word) = words.next().await {
                heard.extend(word.subject.split('.').nth(2).map(str::to_owned));
            }
        };
        let _ = timeout(LISTEN, listening).await;
        Some(heard)
    };
    let buckets = async {
        let mut names = Vec::new();
        for api in BTreeSet::from([api_prefix(lattice.js_domain.as_deref()), api_prefix(None)]) {
            let question = Bytes::from_static(br#"{"subject":"$KV.>"}"#);
            let Ok(answer) = lattice.ask(&format!("{api}.STREAM.NAMES"), question).await else {
                continue;
            };
            let answer: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
            let streams = answer["streams"].as_array().cloned().unwrap_or_default();
            names.extend(streams.iter().filter_map(|name| {
                Some(name.as_str()?.strip_prefix("KV_")?.strip_prefix(keys::BUCKET)?.to_owned())
            }));
        }
        names
    };
    let (heard, buckets) = tokio::join!(heard, buckets);
    found.extend(heard.unwrap_or_default());
    found.extend(buckets);
    found.remove(lattice.name());
    found.into_iter().collect()
}

fn late(what: &str) -> Unknown {
    format!("{what} did not answer in time")
}

/// Asks for the applications, and returns whose answer it is; `None` if nobody answers.
async fn application_keeper(lattice: &Lattice) -> Result<Option<ApplicationKeeper>, Unknown> {
    match lattice.ask(&lattice.subjects.manager(AppRequest::List), Bytes::new()).await {
        Ok(answer) => {
            let host = answer.headers.as_ref().and_then(|headers| headers.get(HOST_HEADER));
            if host.is_none() {
                return Ok(Some(ApplicationKeeper::Program));
            }
            let all: Vec<Summary> = serde_json::from_slice(&answer.payload).unwrap_or_default();
            let failed = all.into_iter().filter(|one| one.status == StatusType::Failed);
            let failed = failed.map(|one| (one.name, one.status_message.unwrap_or_default()));
            Ok(Some(ApplicationKeeper::Hosts { failed: failed.collect() }))
        }
        Err(RequestError::NoResponders { .. }) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// A second connection like the first, so that what the server forbids is told apart.
pub async fn connect_again(session: &Session, purpose: Purpose) -> Result<Nats> {
    let connection = match purpose {
        Purpose::Control => &session.config.ctl,
        Purpose::Rpc => &session.config.rpc,
    };
    let connected = timeout(CONNECT, connect_once(purpose, connection, CLIENT_NAME)).await;
    Ok(connected.context("connect once more")??)
}

/// A host as people know it.
pub fn named(host: &HostReply) -> String {
    if host.friendly_name.is_empty() {
        host.id.clone()
    } else {
        format!("{} ({})", host.friendly_name, host.id)
    }
}
