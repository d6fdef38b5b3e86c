//! The application of the demonstration on its way up: one actor, two providers, two links.
//!
//! Everything goes through the handles of the host. Links are written before their providers start,
//! so that values of an earlier run are never tried; the page comes last, so that nobody sees it
//! half done. Failures are told by events of the host, which are read all along; whatever does not
//! happen has one deadline. A part that the host starts again by itself, because it ran before, may
//! fail until then: the host tries it again.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use tokio::{
    sync::broadcast::{self, error::RecvError, error::TryRecvError},
    time::Instant,
};
use tracing::{debug, info, warn};

use lattice_base::store::{Expect, Update};
use lattice_engine::{
    actors::supervisor::{self as actors, Amount},
    host::Host,
    issuers::IssuerChange,
    providers::{
        builtin::{Spec, httpclient, httpserver},
        supervisor::{self as providers, ProviderError},
    },
    router::LinkStatus,
};
use lattice_protocol::{
    desired::kept::Place,
    errors::chain,
    events::{Event, event::Annotations},
    identity::keys::LinkName,
    links::LinkDefinition,
    store::{Entry, keys},
};

/// The public key of the actor.
pub const ACTOR: &str = "MAZEI22J666SRAMOGPRXUQ6KLFUNA5C3GRCKUEFJOS3BWP6HQRPL5REC";
const NAME: &str = "dogs-and-cats";
static MODULE: &[u8] = include_bytes!("../../../../examples/actors/signed/dogs-and-cats.wasm");

/// Requests in work at a time.
const REPLICAS: u32 = 50;
/// The first port that the page is tried on, and how many after it.
const PORT: u16 = 8080;
const PORTS: u16 = 100;
/// How long everything may take. Compiling the actor is most of it, on a machine that has never
/// seen it.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long one request for the page may take, and the pause before the next.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
const PROBE_PAUSE: Duration = Duration::from_millis(50);
/// How long a page that this host cannot serve may take to be served by another one.
const ELSEWHERE: Duration = Duration::from_secs(2);

/// Returns where a host keeps the actor that is started from this reference.
pub(super) fn place_of(reference: &str) -> Place {
    Place::Actor { reference: reference.to_owned(), annotations: Annotations::new() }
}

/// Writes the actor's module where the host can load it; returns the reference.
pub(super) fn keep_actor(cache: &Path) -> Result<String> {
    let path = write_module(cache)
        .with_context(|| format!("write the actor {NAME} below {}", cache.display()))?;
    Ok(format!("file://{}", path.display()))
}

fn write_module(cache: &Path) -> io::Result<PathBuf> {
    let dir = std::path::absolute(cache)?.join("demo");
    let path = dir.join(format!("{NAME}.wasm"));
    if fs::read(&path).ok().as_deref() != Some(MODULE) {
        fs::create_dir_all(&dir)?;
        let mut file = tempfile::NamedTempFile::new_in(&dir)?;
        file.write_all(MODULE)?;
        file.persist(&path)?;
    }
    Ok(path)
}

/// The application while it starts.
pub(super) struct Application<'a> {
    host: &'a Host,
    events: broadcast::Receiver<Event>,
    deadline: Instant,
    /// The reference of the actor.
    actor: String,
    /// The places that this has started, and those that the host starts again by itself, each with
    /// why it failed the last time.
    started: Vec<Place>,
    kept: Vec<(Place, Option<String>)>,
    /// The links as they are wanted, by contract.
    wanted: BTreeMap<&'static str, LinkDefinition>,
    /// Why the page cannot be at its address.
    refused: Option<String>,
}

impl<'a> Application<'a> {
    pub(super) fn new(host: &'a Host) -> Self {
        Self {
            host,
            events: host.events().follow(),
            deadline: Instant::now() + DEADLINE,
            actor: String::new(),
            started: Vec::new(),
            kept: Vec::new(),
            wanted: BTreeMap::new(),
            refused: None,
        }
    }

    /// Starts everything; returns the page, which has answered by then.
    pub(super) async fn start(
        mut self,
        actor: String,
        api: BTreeMap<String, String>,
    ) -> Result<String> {
        self.actor = actor;
        self.link(&httpclient::SPEC, api).await?;
        self.start_actor().await?;
        self.start_provider(&httpclient::SPEC).await?;
        // That of the last time leads to an API that is gone: calls by it would fail, and the page
        // would say so.
        self.until_linked(&httpclient::SPEC).await?;
        let mut page = match self.known_page() {
            Some(page) => page,
            None => self.link_page(PORT).await?,
        };
        self.start_provider(&httpserver::SPEC).await?;
        let client =
            reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(PROBE_TIMEOUT).build();
        let client = client.context("make a client for the page")?;
        while let Some(reason) = self.page_answers(&client, &page).await? {
            warn!(page = page.url, %reason, "the page cannot be there, it moves to another port");
            let next = if (PORT..PORT + PORTS).contains(&page.port) { page.port + 1 } else { PORT };
            page = self.link_page(next).await?;
        }
        Ok(page.url)
    }

    async fn start_actor(&mut self) -> Result<()> {
        let place = place_of(&self.actor);
        if !runs_actor(self.host) && !self.is_kept(&place).await {
            let reference = self.actor.clone();
            let (annotations, issuer_change) = (Annotations::new(), IssuerChange::Refused);
            let amount = Amount::Exactly(REPLICAS);
            self.started.push(place);
            let start = actors::Start { reference, annotations, amount, issuer_change };
            let noted = self.host.kept().start_actor(start);
            drop(noted.with_context(|| format!("start the actor {NAME}"))?);
        }
        self.until(&format!("the actor {NAME}"), runs_actor).await
    }

    async fn start_provider(&mut self, spec: &Spec) -> Result<()> {
        let reference = spec.known.reference();
        let link_name = LinkName::parse(LinkName::DEFAULT).context("read the default link name")?;
        let runs = |host: &Host| {
            let running = host.providers().running();
            running.iter().any(|provider| {
                provider.id.as_str() == spec.known.public_key && provider.link_name == link_name
            })
        };
        let place =
            Place::Provider { reference: reference.clone(), link_name: link_name.to_string() };
        if !runs(self.host) && !self.is_kept(&place).await {
            let (link_name, annotations) = (link_name.clone(), Annotations::new());
            let start = providers::Start {
                reference: reference.clone(),
                link_name,
                configuration: None,
                annotations,
                issuer_change: IssuerChange::Refused,
            };
            match self.host.kept().start_provider(start).await {
                Ok(_) => self.started.push(place),
                // Somebody else has asked for it a moment ago. An event about our own attempt is no
                // failure.
                Err(ProviderError::AlreadyRunning { .. } | ProviderError::BeingStarted { .. }) => {}
                Err(error) => return Err(anyhow!(error).context(format!("start {reference}"))),
            }
        }
        self.until(&reference, runs).await
    }

    /// Whether the host starts it by itself, because it ran here before.
    async fn is_kept(&mut self, place: &Place) -> bool {
        let is_kept = self.host.kept().keeps(place).await == Some(true);
        if is_kept {
            self.kept.push((place.clone(), None));
        }
        is_kept
    }

    /// Waits until a part runs. State changes before the event that tells of it, so looking after
    /// each event is enough.
    async fn until(&mut self, part: &str, runs: impl Fn(&Host) -> bool) -> Result<()> {
        while !runs(self.host) {
            match tokio::time::timeout_at(self.deadline, self.events.recv()).await {
                Ok(Ok(event)) => self.notice(event)?,
                Ok(Err(RecvError::Lagged(events))) => debug!(events, "events missed"),
                Ok(Err(RecvError::Closed)) => bail!("the host ended before {part} was started"),
                Err(_) => bail!(
                    "{part} does not run after {} s{}; the log says how far it came",
                    DEADLINE.as_secs(),
                    self.last_failures()
                ),
            }
        }
        Ok(())
    }

    /// Waits until a provider has taken its link on; nothing tells of that.
    async fn until_linked(&self, spec: &Spec) -> Result<()> {
        let contract = spec.known.contract_id;
        let Some(link) = self.wanted.get(contract) else { return Ok(()) };
        loop {
            match self.host.link_status(link) {
                Some(LinkStatus::Up) => return Ok(()),
                Some(LinkStatus::Refused { error, .. }) => {
                    bail!("the link of {NAME} to {contract} does not work: {error}")
                }
                Some(LinkStatus::Pending) | None if Instant::now() >= self.deadline => {
                    bail!("the link of {NAME} to {contract} is not ready in time")
                }
                Some(LinkStatus::Pending) | None => tokio::time::sleep(PROBE_PAUSE).await,
            }
        }
    }

    /// Reads all events that have come so far.
    fn noticed(&mut self) -> Result<()> {
        loop {
            match self.events.try_recv() {
                Ok(event) => self.notice(event)?,
                Err(TryRecvError::Lagged(events)) => debug!(events, "events missed"),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Ok(()),
            }
        }
    }

    /// Returns why parts failed that the host has tried again, as the end of a sentence.
    fn last_failures(&self) -> String {
        let failures = self.kept.iter().filter_map(|(_, failure)| failure.as_deref());
        let failures: Vec<&str> = failures.collect();
        if failures.is_empty() { String::new() } else { format!(" ({})", failures.join("; ")) }
    }

    /// Takes in that a part did not start: for good, unless the host tries it again.
    fn failed(&mut self, place: &Place, error: String) -> Result<()> {
        if let Some((_, failure)) = self.kept.iter_mut().find(|(kept, _)| kept == place) {
            *failure = Some(error);
        } else if self.started.contains(place) {
            match place {
                Place::Actor { .. } => bail!("the actor {NAME} cannot start: {error}"),
                Place::Provider { reference, .. } => bail!("{reference} cannot start: {error}"),
            }
        }
        Ok(())
    }

    /// Looks whether an event says that a part cannot start.
    fn notice(&mut self, event: Event) -> Result<()> {
        match event {
            Event::ActorScaleFailed { image_ref, annotations, error, .. } => {
                self.failed(&Place::Actor { reference: image_ref, annotations }, error)?;
            }
            Event::ProviderStartFailed { provider_ref, link_name, error } => {
                self.failed(&Place::Provider { reference: provider_ref, link_name }, error)?;
            }
            Event::LinkdefSetFailed { link, error, .. } => {
                let ours = self.wanted.get(&*link.contract_id) == Some(&link);
                if ours && link.contract_id == httpserver::SPEC.known.contract_id {
                    self.refused = Some(error);
                } else if ours {
                    bail!("the link of {NAME} to {} does not work: {error}", link.contract_id);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes a link unless it is there already.
    async fn link(&mut self, spec: &'static Spec, values: BTreeMap<String, String>) -> Result<()> {
        let link = LinkDefinition {
            actor_id: ACTOR.to_owned(),
            provider_id: spec.known.public_key.to_owned(),
            link_name: LinkName::DEFAULT.to_owned(),
            contract_id: spec.known.contract_id.to_owned(),
            values,
        };
        let known = self
            .host
            .links()
            .table()
            .link(ACTOR, spec.known.contract_id, LinkName::DEFAULT)
            .cloned();
        let is_known = known.as_deref() == Some(&link);
        self.wanted.insert(spec.known.contract_id, link.clone());
        if is_known {
            return Ok(());
        }
        let (key, what) =
            (keys::link(&link.id()), || format!("link {NAME} to {}", spec.known.reference()));
        let value = Bytes::from(serde_json::to_vec(&link.identified()).with_context(what)?);
        let revision = self
            .host
            .store()
            .put(&key, value.clone(), Expect::Anything)
            .await
            .with_context(what)?;
        self.host.links().apply(Update::Put(Entry { key, value, revision })).await;
        info!(actor_id = ACTOR, provider_id = spec.known.public_key, "link definition stored");
        Ok(())
    }

    /// The page of the link that the lattice has, if it can be told from its values.
    fn known_page(&mut self) -> Option<Page> {
        let contract = httpserver::SPEC.known.contract_id;
        let link = self.host.links().table().link(ACTOR, contract, LinkName::DEFAULT).cloned()?;
        let page = Page::of(&link);
        match &page {
            Some(_) => {
                self.wanted.insert(contract, LinkDefinition::clone(&link));
            }
            None => {
                let names: Vec<_> = link.values.keys().collect();
                warn!(provider_id = %link.provider_id, ?names, "the link of the page is another one, it is replaced");
            }
        }
        page
    }

    /// Puts the page on the first free port from `first`.
    async fn link_page(&mut self, first: u16) -> Result<Page> {
        let mut ports = first..PORT + PORTS;
        let port = ports
            .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
            .with_context(|| {
                format!(
                    "find a port for the page: none from {first} to {} is free on 127.0.0.1",
                    PORT + PORTS - 1
                )
            })?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string();
        self.link(&httpserver::SPEC, [("address".to_owned(), address.clone())].into()).await?;
        Ok(Page { url: format!("http://{address}/"), port })
    }

    /// Waits until the page shows a picture. Returns the reason if this host cannot serve it and no
    /// other one does.
    async fn page_answers(
        &mut self,
        client: &reqwest::Client,
        page: &Page,
    ) -> Result<Option<String>> {
        let began = Instant::now();
        loop {
            let Err(reason) = picture(client, &page.url).await else { return Ok(None) };
            self.noticed()?;
            if began.elapsed() >= ELSEWHERE
                && let Some(refused) = self.refused.take()
            {
                return Ok(Some(refused));
            }
            if Instant::now() >= self.deadline {
                bail!(
                    "the page {} shows no picture after {} s: {reason}",
                    page.url,
                    DEADLINE.as_secs()
                );
            }
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }
}

fn runs_actor(host: &Host) -> bool {
    host.actors().running().iter().any(|actor| actor.id.as_str() == ACTOR)
}

/// Asks for a picture; an error says what came instead.
async fn picture(client: &reqwest::Client, page: &str) -> Result<()> {
    let answer =
        client.get(format!("{page}dog")).send().await.map_err(|error| anyhow!(chain(&error)))?;
    let status = answer.status();
    // The actor names where a picture is from; other programs on this port would not.
    if status.is_success() && answer.headers().contains_key(reqwest::header::CONTENT_LOCATION) {
        return Ok(());
    }
    let text = answer.text().await.map_err(|error| anyhow!(chain(&error)))?;
    let line: String = text.lines().next().unwrap_or_default().chars().take(300).collect();
    bail!("it answers {status} {line}")
}

/// Where the page is.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    url: String,
    port: u16,
}

impl Page {
    /// Reads the simple forms of a link to the built-in HTTP server: those with an address or a
    /// port, and with nothing that would make another URL of them.
    fn of(link: &LinkDefinition) -> Option<Self> {
        if link.provider_id != httpserver::SPEC.known.public_key {
            return None;
        }
        if link.values.keys().any(|key| leads_elsewhere(key)) {
            return None;
        }
        let (host, port) = match (value(link, "address"), value(link, "port")) {
            (Some(address), None) => address.rsplit_once(':')?,
            (None, Some(port)) => ("127.0.0.1", port),
            _ => return None,
        };
        let host = match host {
            "" | "0.0.0.0" | "[::]" => "127.0.0.1",
            host => host,
        };
        let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
        Some(Self { url: format!("http://{host}:{port}/"), port })
    }
}

/// A value of a link, whatever the case of its name.
fn value<'l>(link: &'l LinkDefinition, name: &str) -> Option<&'l str> {
    link.values
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// Whether a value of this name makes another URL of a page.
fn leads_elsewhere(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.starts_with("tls") || key.starts_with("config") || key == "host" || key == "path"
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::identity::{claims::now, module};

    #[test]
    fn the_module_in_this_binary_is_the_actor_and_is_written_once() {
        let verified =
            module::verify_module(MODULE, now(), &module::VerifyOptions::default()).unwrap();
        assert_eq!(verified.claims.subject.as_str(), ACTOR);
        let dir = tempfile::tempdir().unwrap();
        let reference = keep_actor(dir.path()).unwrap();
        let path = Path::new(reference.strip_prefix("file://").unwrap());
        let written = fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(keep_actor(dir.path()).unwrap(), reference);
        assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), written);
    }

    #[test]
    fn a_page_is_told_from_simple_links_only() {
        let url = |values: &[(&str, &str)]| {
            let values = values
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            let link = LinkDefinition {
                actor_id: ACTOR.into(),
                provider_id: httpserver::SPEC.known.public_key.into(),
                link_name: "default".into(),
                contract_id: httpserver::SPEC.known.contract_id.into(),
                values,
            };
            Page::of(&link).map(|page| page.url)
        };
        assert_eq!(
            url(&[("address", "127.0.0.1:8080")]).as_deref(),
            Some("http://127.0.0.1:8080/")
        );
        assert_eq!(
            url(&[("Address", "0.0.0.0:81"), ("access_log", "true")]).as_deref(),
            Some("http://127.0.0.1:81/")
        );
        assert_eq!(url(&[("port", "82")]).as_deref(), Some("http://127.0.0.1:82/"));
        for other in
            [&[("port", "0")][..], &[], &[("port", "1"), ("path", "/x")], &[("config_json", "{}")]]
        {
            assert_eq!(url(other), None, "{other:?}");
        }
    }
}
