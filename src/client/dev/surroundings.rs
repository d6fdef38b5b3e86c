//! The providers and links that an actor needs before anybody can use it: for each contract of its
//! claims the provider that runs already, or else the built-in one, and a link to it.
//!
//! ```text
//! claims ─▶ plan (links and inventories of now) ─▶ start, put ─▶ Told
//! ```
//!
//! Nobody needs to name an address for a page: the first free port is taken, and where somebody on
//! the host's machine has that one, the next.
//!
//! Links that were there stay as they are. At the end the links that were put here are deleted, and
//! the providers that were started here are stopped, unless others are linked to them by then. Such
//! providers are known by [`ANNOTATION`], as the actor is; so those of a process for the same file
//! that was killed are taken over.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener},
    ops::RangeInclusive,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tracing::debug;

use super::{ANNOTATION, Running, Told};
use crate::{
    commands::{HostCommands, START_WAIT, STOP_WAIT},
    lattice::Lattice,
    links::{self, LINK_WAIT, Refused},
};
use lattice_protocol::{
    builtin::{self, Known, name_of},
    contracts::httpserver,
    control::types::{Inventory, InventoryProvider, Pairs},
    identity::{claims::ActorClaims, keys::LinkName},
    links::LinkDefinition,
};

/// The link name of everything here.
const LINK_NAME: &str = LinkName::DEFAULT;
/// The link value with the address of an HTTP server.
const ADDRESS: &str = "address";
/// The address of the built-in HTTP server where a link names none.
const DEFAULT_ADDRESS: &str = "127.0.0.1:8000";
/// The ports that a page without an address is tried at, one after the other.
const PORTS: RangeInclusive<u16> = 8080..=8111;
/// Begins the contracts that hosts fulfil themselves, without a link.
const IN_HOST: &str = "wasmcloud:builtin:";

/// A contract of an actor that is linked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked {
    pub contract: String,
    pub provider: String,
    /// The host on which the provider was started for this link.
    pub started_on: Option<String>,
    /// The page, if it is a link to an HTTP server.
    pub url: Option<String>,
}

/// The step that one contract needs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Others linked it.
    Leave(LinkDefinition),
    /// The provider runs; a process for the same file left it on a host, if there is one here.
    Link {
        provider: String,
        left_on: Option<String>,
    },
    Start(&'static str),
    /// Nobody fulfils it.
    Nobody,
}

/// A provider that was started here, or may have been.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Begun {
    host: String,
    provider: String,
    contract: String,
}

/// The surroundings of one actor.
pub(super) struct Surroundings {
    lattice: Lattice,
    /// Where the HTTP server listens; at a free port if not given.
    address: Option<String>,
    /// The file that all this is for.
    file: String,
    /// Contracts that are dealt with, as long as the actor stays on its host.
    settled: BTreeSet<String>,
    host: String,
    /// The page, once it is known.
    url: Option<String>,
    /// The page that was told last; `None` inside if there is none.
    told_url: Option<Option<String>>,
    /// Links that were put here.
    links: Vec<LinkDefinition>,
    begun: Vec<Begun>,
}

impl Surroundings {
    pub(super) fn new(lattice: Lattice, address: Option<String>, file: &str) -> Self {
        Self {
            lattice,
            address,
            file: file.to_owned(),
            settled: BTreeSet::new(),
            host: String::new(),
            url: None,
            told_url: None,
            links: Vec::new(),
            begun: Vec::new(),
        }
    }

    /// Puts what the actor lacks, and tells last what to go on with. A contract that cannot be
    /// linked is reported, and tried again with the next save.
    pub(super) async fn complete(
        &mut self,
        actor: &Running,
        claims: &ActorClaims,
        tell: &dyn Fn(Told),
    ) {
        if self.host != actor.host_id {
            self.settled.clear();
            self.host.clone_from(&actor.host_id);
        }
        let mut has_page = false;
        for contract in wanted(&claims.caps, self.address.is_some()) {
            has_page |= contract == httpserver::CONTRACT;
            if self.settled.contains(contract) {
                continue;
            }
            match self.settle(actor, claims, contract).await {
                Ok(told) => {
                    self.settled.insert(contract.to_owned());
                    tell(told);
                }
                Err(error) => tell(Told::NotLinked {
                    contract: contract.to_owned(),
                    why: format!("{error:#}"),
                }),
            }
        }
        let is_known = !has_page || self.url.is_some();
        if is_known && self.told_url.as_ref() != Some(&self.url) {
            self.told_url = Some(self.url.clone());
            tell(Told::Ready { actor: actor.label().to_owned(), url: self.url.clone() });
        }
    }

    async fn settle(
        &mut self,
        actor: &Running,
        claims: &ActorClaims,
        contract: &str,
    ) -> Result<Told> {
        ensure!(
            claims.caps.iter().any(|cap| cap == contract),
            "its claims do not name it: a component has to export wasi:http, a signed module has \
             to be signed for it"
        );
        let lattice = self.lattice.clone();
        let links = lattice.links_of(&actor.actor).await.context("ask for the links")?;
        let inventories = lattice.inventories(&lattice.some_hosts().await?).await;
        let host = &actor.host_id;
        let (provider, started_on) = match plan(actor, contract, &self.file, (&links, &inventories))
        {
            Step::Leave(link) => return Ok(self.told_of(&link, None, Told::LinkedBefore)),
            Step::Nobody => bail!(
                "no provider of it runs; start one with `host start provider`, and save the \
                     file again"
            ),
            Step::Link { provider, left_on } => {
                if let Some(host) = left_on {
                    self.note_begun(&host, &provider, contract);
                }
                (provider, None)
            }
            Step::Start(provider) => {
                self.note_begun(host, provider, contract);
                self.start(host, provider).await?;
                (provider.to_owned(), Some(actor.place().to_owned()))
            }
        };
        let link = LinkDefinition {
            actor_id: actor.actor.clone(),
            provider_id: provider,
            link_name: LINK_NAME.to_owned(),
            contract_id: contract.to_owned(),
            values: Pairs::new(),
        };
        let link = match (contract, self.address.clone()) {
            (httpserver::CONTRACT, Some(address)) => self.put(at(&link, &address)).await?,
            (httpserver::CONTRACT, None) => self.put_at_free_port(&link, &links).await?,
            _ => self.put(link).await?,
        };
        Ok(self.told_of(&link, started_on, Told::Linked))
    }

    async fn put(&mut self, link: LinkDefinition) -> Result<LinkDefinition> {
        // Noted first: a link whose provider refuses it is stored all the same.
        self.links.retain(|other| other.id() != link.id());
        self.links.push(link.clone());
        links::put(&self.lattice, &link, Some(LINK_WAIT)).await?;
        Ok(link)
    }

    /// Puts the link of a page at the first port that is free; one that a process left which was
    /// killed stays where it is.
    async fn put_at_free_port(
        &mut self,
        link: &LinkDefinition,
        before: &[LinkDefinition],
    ) -> Result<LinkDefinition> {
        let left = before.iter().find(|other| other.id() == link.id());
        if let Some(address) = left.and_then(|left| left.values.get(ADDRESS)) {
            return self.put(at(link, address)).await;
        }
        let mut refused = None;
        for port in PORTS.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()) {
            let address = format!("{}:{port}", Ipv4Addr::LOCALHOST);
            match self.put(at(link, &address)).await {
                // The host may run on another machine, or somebody was faster.
                Err(error) if error.is::<Refused>() => refused = Some(error),
                put => return put,
            }
        }
        Err(refused.unwrap_or_else(|| {
            anyhow!(
                "no port from {} to {} is free on this machine; name an address with --http",
                PORTS.start(),
                PORTS.end()
            )
        }))
    }

    async fn start(&self, host: &str, provider: &str) -> Result<()> {
        let reference = name_of(provider);
        let mark = Pairs::from([(ANNOTATION.to_owned(), self.file.clone())]);
        let commands = HostCommands::new(&self.lattice, host, Some(START_WAIT));
        let started =
            commands.start_provider(&reference, LINK_NAME, &mark, None, &mut |_| {}).await;
        started.map(|_| ()).with_context(|| format!("start {reference}"))
    }

    fn note_begun(&mut self, host: &str, provider: &str, contract: &str) {
        let begun = Begun {
            host: host.to_owned(),
            provider: provider.to_owned(),
            contract: contract.to_owned(),
        };
        if !self.begun.contains(&begun) {
            self.begun.push(begun);
        }
    }

    fn told_of(
        &mut self,
        link: &LinkDefinition,
        started_on: Option<String>,
        told: fn(Linked) -> Told,
    ) -> Told {
        let url = page(link);
        if link.contract_id == httpserver::CONTRACT {
            self.url.clone_from(&url);
        }
        told(Linked {
            contract: link.contract_id.clone(),
            provider: name_of(&link.provider_id),
            started_on,
            url,
        })
    }

    /// Takes away what was put here.
    pub(super) async fn remove(self, tell: &dyn Fn(Told)) {
        for link in &self.links {
            let contract = link.contract_id.clone();
            let what = format!("the link for {contract}");
            let why = match self.stored(link).await {
                Ok(Some(stored)) if stored == *link => None,
                Ok(None) => continue,
                Ok(Some(_)) => Some("somebody has put it anew since".to_owned()),
                Err(error) => Some(format!("{error:#}")),
            };
            if let Some(why) = why {
                tell(Told::NotRemoved { what, why });
                continue;
            }
            tell(match links::delete(&self.lattice, link, Some(LINK_WAIT)).await {
                Ok(_) => Told::Unlinked { contract },
                Err(error) => Told::NotRemoved { what, why: format!("{error:#}") },
            });
        }
        for begun in &self.begun {
            let provider = name_of(&begun.provider);
            match self.stop(begun).await {
                Ok(true) => tell(Told::ProviderStopped { provider }),
                Ok(false) => {}
                Err(error) => {
                    tell(Told::NotRemoved { what: provider, why: format!("{error:#}") });
                }
            }
        }
    }

    /// Returns the link that is there in place of one that was put here.
    async fn stored(&self, link: &LinkDefinition) -> Result<Option<LinkDefinition>> {
        let links = self.lattice.links_of(&link.actor_id).await.context("ask for the links")?;
        let is_it = |other: &LinkDefinition| {
            other.is_of(&link.actor_id, &link.contract_id, &link.link_name)
        };
        Ok(links.into_iter().find(is_it))
    }

    /// Stops a provider that was started here; returns false if it is none of ours or others use
    /// it.
    async fn stop(&self, begun: &Begun) -> Result<bool> {
        let inventory = self.lattice.inventory(&begun.host).await.context("ask what runs")?;
        let mut running = inventory.providers.iter();
        let is_ours = running.any(|run| {
            run.id == begun.provider && run.link_name == LINK_NAME && is_marked(run, &self.file)
        });
        let others = self.lattice.links().await.context("ask for the links")?;
        let is_used = others
            .iter()
            .any(|link| link.provider_id == begun.provider && link.link_name == LINK_NAME);
        if !is_ours || is_used {
            debug!(provider_id = begun.provider, is_ours, is_used, "the provider goes on");
            return Ok(false);
        }
        let commands = HostCommands::new(&self.lattice, &begun.host, Some(STOP_WAIT));
        commands.stop_provider(&begun.provider, LINK_NAME, &begun.contract).await?;
        Ok(true)
    }
}

/// Returns the contracts that need a link: the page's first, if it is asked for or the claims name
/// it, then the others of the claims.
fn wanted(caps: &[String], is_page_asked_for: bool) -> impl Iterator<Item = &str> {
    let caps = caps.iter().map(String::as_str);
    let has_page = is_page_asked_for || caps.clone().any(|cap| cap == httpserver::CONTRACT);
    let others = caps.filter(|cap| *cap != httpserver::CONTRACT && !cap.starts_with(IN_HOST));
    has_page.then_some(httpserver::CONTRACT).into_iter().chain(others)
}

/// Decides about one contract. Any host may run a provider, but a page is to be served where its
/// actor runs: the address is one of that machine.
fn plan(
    actor: &Running,
    contract: &str,
    file: &str,
    (links, inventories): (&[LinkDefinition], &[Inventory]),
) -> Step {
    if let Some(link) = links.iter().find(|link| link.is_of(&actor.actor, contract, LINK_NAME)) {
        let provider = link.provider_id.clone();
        return match left_on(link, file, inventories) {
            Some(host) => Step::Link { provider, left_on: Some(host) },
            None => Step::Leave(link.clone()),
        };
    }
    let built_in = builtin::CATALOGUE.iter().find(|known| known.contract_id == contract);
    let is_here =
        |host: &&Inventory| contract != httpserver::CONTRACT || host.host_id == actor.host_id;
    let running: Vec<_> = inventories
        .iter()
        .filter(is_here)
        .flat_map(|host| host.providers.iter().map(move |run| (host, run)))
        .filter(|(_, run)| run.contract_id == contract && run.link_name == LINK_NAME)
        .collect();
    let is_built_in = |(_, run): &&(&Inventory, &InventoryProvider)| {
        built_in.is_some_and(|it| it.public_key == run.id)
    };
    match (running.iter().find(is_built_in).or(running.first()), built_in) {
        (Some((host, run)), _) => {
            let left_on = is_marked(run, file).then(|| host.host_id.clone());
            Step::Link { provider: run.id.clone(), left_on }
        }
        (None, Some(Known { public_key, .. })) => Step::Start(public_key),
        (None, None) => Step::Nobody,
    }
}

/// Returns the host on which a process for the same file left the provider of a link that it put:
/// the provider was started by one, and the link has no values that only somebody else gives.
fn left_on(link: &LinkDefinition, file: &str, inventories: &[Inventory]) -> Option<String> {
    if !has_address_alone(link) {
        return None;
    }
    let is_left = |run: &InventoryProvider| run.id == link.provider_id && is_marked(run, file);
    let host = inventories.iter().find(|host| host.providers.iter().any(is_left))?;
    Some(host.host_id.clone())
}

/// Says whether a process for this file started a provider.
fn is_marked(run: &InventoryProvider, file: &str) -> bool {
    run.annotations.get(ANNOTATION).is_some_and(|marked| marked == file)
}

/// Returns the link of a page, at an address.
fn at(link: &LinkDefinition, address: &str) -> LinkDefinition {
    let values = Pairs::from([(ADDRESS.to_owned(), address.to_owned())]);
    LinkDefinition { values, ..link.clone() }
}

/// The page of a link, where its values say plainly where it is: a configuration or a certificate
/// may move it elsewhere.
fn page(link: &LinkDefinition) -> Option<String> {
    let value = |name: &str| Some(link.values.get(name)?.trim()).filter(|text| !text.is_empty());
    let is_elsewhere = |name: &String| name.starts_with("config") || name.starts_with("tls");
    if link.contract_id != httpserver::CONTRACT || link.values.keys().any(is_elsewhere) {
        return None;
    }
    let is_built_in = link.provider_id == builtin::HTTPSERVER.public_key;
    let address = match (value(ADDRESS), value("port")) {
        (Some(address), None) if address.contains(':') => address.to_owned(),
        (None, Some(port)) => format!("{}:{port}", Ipv4Addr::LOCALHOST),
        (None, None) if is_built_in => DEFAULT_ADDRESS.to_owned(),
        _ => return None,
    };
    Some(format!("http://{address}{}", value("path").unwrap_or("/")))
}

/// Says whether a link has no value but the address of a page.
fn has_address_alone(link: &LinkDefinition) -> bool {
    link.values.keys().all(|key| key == ADDRESS)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dev::Change;

    const KEYVALUE: &str = "wasmcloud:keyvalue";

    #[test]
    fn the_page_of_a_link_is_told_where_its_values_say_it() {
        for (provider, values, told) in [
            (
                builtin::HTTPSERVER.public_key,
                &[] as &[(&str, &str)],
                Some("http://127.0.0.1:8000/"),
            ),
            (builtin::HTTPSERVER.public_key, &[("port", "81")], Some("http://127.0.0.1:81/")),
            (
                builtin::HTTPSERVER.public_key,
                &[(ADDRESS, "[::1]:82"), ("path", "/a"), ("timeout_ms", "9")],
                Some("http://[::1]:82/a"),
            ),
            (builtin::HTTPSERVER.public_key, &[("config_json", "{}")], None),
            ("VX", &[(ADDRESS, "127.0.0.1:83")], Some("http://127.0.0.1:83/")),
            ("VX", &[], None),
        ] {
            let values = values.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            let link = LinkDefinition {
                actor_id: "M".into(),
                provider_id: provider.into(),
                link_name: LINK_NAME.into(),
                contract_id: httpserver::CONTRACT.into(),
                values: values.collect(),
            };
            assert_eq!(page(&link).as_deref(), told, "{:?}", link.values);
        }
    }

    fn actor() -> Running {
        Running {
            actor: "M".into(),
            name: String::new(),
            host_id: "N1".into(),
            host_name: String::new(),
            reference: "lattice://sha256:0".into(),
            revision: 1,
            change: Change::Started,
            took: Duration::ZERO,
        }
    }

    fn key_of(contract: &str) -> &'static str {
        let known = builtin::CATALOGUE.iter().find(|known| known.contract_id == contract);
        known.expect("a built-in provider").public_key
    }

    /// Reads `N1 contract provider [marked|foreign|other]`, where `-` is the built-in provider.
    fn inventory(text: &str) -> Inventory {
        let words: Vec<&str> = text.split(' ').collect();
        let id = if words[2] == "-" { key_of(words[1]) } else { words[2] };
        let word = words.get(3).copied().unwrap_or_default();
        let provider = InventoryProvider {
            id: id.to_owned(),
            contract_id: words[1].to_owned(),
            link_name: if word == "other" { "other" } else { LINK_NAME }.to_owned(),
            annotations: match word {
                "marked" => Pairs::from([(ANNOTATION.to_owned(), "a.wasm".to_owned())]),
                "foreign" => Pairs::from([(ANNOTATION.to_owned(), "b.wasm".to_owned())]),
                _ => Pairs::new(),
            },
            ..InventoryProvider::default()
        };
        Inventory {
            host_id: words[0].to_owned(),
            providers: vec![provider],
            ..Inventory::default()
        }
    }

    #[test]
    fn what_runs_is_linked_and_what_is_missing_is_started() {
        let runs = |provider: &str, left_on: Option<&str>| Step::Link {
            provider: provider.into(),
            left_on: left_on.map(str::to_owned),
        };
        let page = httpserver::CONTRACT;
        for (contract, running, expected) in [
            (page, &[][..], Step::Start(key_of(page))),
            (KEYVALUE, &[], Step::Start(key_of(KEYVALUE))),
            ("acme:thing", &[], Step::Nobody),
            ("acme:thing", &["N2 acme:thing V"], runs("V", None)),
            (KEYVALUE, &["N2 wasmcloud:keyvalue VREDIS"], runs("VREDIS", None)),
            (
                KEYVALUE,
                &["N2 wasmcloud:keyvalue VREDIS", "N1 wasmcloud:keyvalue -"],
                runs(key_of(KEYVALUE), None),
            ),
            (KEYVALUE, &["N2 wasmcloud:keyvalue - marked"], runs(key_of(KEYVALUE), Some("N2"))),
            (KEYVALUE, &["N1 wasmcloud:keyvalue - foreign"], runs(key_of(KEYVALUE), None)),
            (KEYVALUE, &["N1 wasmcloud:keyvalue - other"], Step::Start(key_of(KEYVALUE))),
            (page, &["N2 wasmcloud:httpserver -"], Step::Start(key_of(page))),
            (page, &["N1 wasmcloud:httpserver -"], runs(key_of(page), None)),
        ] {
            let inventories: Vec<_> = running.iter().map(|text| inventory(text)).collect();
            let step = plan(&actor(), contract, "a.wasm", (&[], &inventories));
            assert_eq!(step, expected, "{contract} {running:?}");
        }
    }

    #[test]
    fn a_link_that_is_there_stays() {
        let link = LinkDefinition {
            actor_id: "M".into(),
            provider_id: "VREDIS".into(),
            link_name: LINK_NAME.into(),
            contract_id: KEYVALUE.into(),
            values: Pairs::new(),
        };
        let running = [inventory("N1 wasmcloud:keyvalue -")];
        let step = |link: &LinkDefinition| {
            plan(&actor(), KEYVALUE, "a.wasm", (std::slice::from_ref(link), &running))
        };
        assert_eq!(step(&link), Step::Leave(link.clone()));
        for other in [
            LinkDefinition { link_name: "backup".into(), ..link.clone() },
            LinkDefinition { actor_id: "MOTHER".into(), ..link.clone() },
        ] {
            assert!(matches!(step(&other), Step::Link { .. }));
        }
    }

    #[test]
    fn a_link_that_a_killed_process_put_is_taken_over() {
        let provider = key_of(KEYVALUE);
        let link = |values| LinkDefinition {
            actor_id: "M".into(),
            provider_id: provider.into(),
            link_name: LINK_NAME.into(),
            contract_id: KEYVALUE.into(),
            values,
        };
        let bucket = Pairs::from([("bucket".to_owned(), "mine".to_owned())]);
        for (values, running, is_left) in [
            (Pairs::new(), "N1 wasmcloud:keyvalue - marked", true),
            (Pairs::new(), "N1 wasmcloud:keyvalue - foreign", false),
            (bucket, "N1 wasmcloud:keyvalue - marked", false),
            (Pairs::new(), "N1 wasmcloud:keyvalue -", false),
        ] {
            let link = link(values);
            let expected = match is_left {
                true => Step::Link { provider: provider.into(), left_on: Some("N1".into()) },
                false => Step::Leave(link.clone()),
            };
            let step = plan(&actor(), KEYVALUE, "a.wasm", (&[link], &[inventory(running)]));
            assert_eq!(step, expected, "{running}");
        }
    }

    #[test]
    fn contracts_of_the_host_itself_need_no_link() {
        let caps = ["wasmcloud:builtin:logging", KEYVALUE, httpserver::CONTRACT];
        let caps = caps.map(str::to_owned);
        let page = httpserver::CONTRACT;
        for (caps, is_page_asked_for, expected) in [
            (&caps[..], false, &[page, KEYVALUE][..]),
            (&caps[..], true, &[page, KEYVALUE]),
            (&caps[..2], false, &[KEYVALUE]),
            (&[], true, &[page]),
            (&[], false, &[]),
        ] {
            let wanted: Vec<&str> = wanted(caps, is_page_asked_for).collect();
            assert_eq!(wanted, expected, "{caps:?} {is_page_asked_for}");
        }
    }
}
