//! Hosts that vanished, what ran only there, and starting that elsewhere.
//!
//! Hosts remember those they lost for a day; each was heard by several, so all are asked and the
//! answers are put together. A host that answers is not lost, whatever somebody remembers.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use futures::future::join_all;

use super::{
    commands::{CONFIGURED, HostCommands},
    lattice::{Found, Lattice, ours},
    names::{self, Named, or_id},
    placement::Wanted,
    watch::groups,
};
use lattice_protocol::{
    applications::ownership::APPLICATION,
    clock,
    control::{
        probe::lost::{Ask, Forget, LostHost},
        types::{HostReply, Inventory, Pairs},
    },
};

/// Hosts that lost another one at times further apart than this lost it for different reasons;
/// clocks of hosts differ by less.
const APART_MS: u64 = 60_000;

/// Asks hosts which hosts they have lost; those lost last come first. Hosts that do not know the
/// question, or do not answer, have lost none.
pub async fn lost(lattice: &Lattice, hosts: &[HostReply]) -> Vec<LostHost> {
    let present = hosts.iter().map(|host| host.id.as_str()).collect();
    of_hosts(lattice, ours(hosts), &present).await
}

/// The same of hosts by their ids; those that are present are not lost.
pub async fn of_hosts(
    lattice: &Lattice,
    ids: Vec<String>,
    present: &HashSet<&str>,
) -> Vec<LostHost> {
    let answers = lattice.ask_each(ids, &Ask {}).await;
    let told = answers.into_iter().filter_map(|(_, told)| told.ok());
    merged(told.flat_map(|lost| lost.hosts), present)
}

/// Puts together what hosts remember of those that do not answer.
fn merged(told: impl Iterator<Item = LostHost>, present: &HashSet<&str>) -> Vec<LostHost> {
    let mut by_id: BTreeMap<String, Vec<LostHost>> = BTreeMap::new();
    for host in told.filter(|host| !present.contains(host.id.as_str())) {
        by_id.entry(host.id.clone()).or_default().push(host);
    }
    let mut all: Vec<LostHost> = by_id.into_values().filter_map(merged_of_one).collect();
    all.sort_by(|a, b| (b.lost_ms, &a.id).cmp(&(a.lost_ms, &b.id)));
    all
}

/// Puts together what hosts remember of the same one: the first that missed it knows best when, and
/// the one that it told last knows what it ran.
fn merged_of_one(told: Vec<LostHost>) -> Option<LostHost> {
    let lost_ms = told.iter().map(|host| host.lost_ms).min()?;
    let lost_at = || told.iter().filter(|host| host.told_ms > 0).map(|host| host.lost_ms);
    let lost_within_ms = lost_at().max().unwrap_or_default() - lost_at().min().unwrap_or_default();
    let is_apart = lost_within_ms > APART_MS;
    let latest = told.into_iter().max_by_key(|host| recency(host, is_apart))?;
    Some(LostHost { lost_ms, ..latest })
}

/// Orders what hosts remember of the same one by when it told that. They lose it at about the same
/// time, so the time from the one to the other counts, which is right however their clocks differ a
/// little. Where they lost it at times far apart (`is_apart`), some were cut off from it earlier,
/// and the clock says who heard it last. Hosts of before do not tell when; of theirs the longer one
/// counts.
fn recency(host: &LostHost, is_apart: bool) -> (bool, u64, usize) {
    let LostHost { lost_ms, told_ms, inventory, .. } = host;
    let newness = match (*told_ms, is_apart) {
        (0, _) => 0,
        (told_ms, true) => told_ms,
        (told_ms, false) => u64::MAX - lost_ms.saturating_sub(told_ms),
    };
    let runs = inventory.actors.len() + inventory.providers.len();
    (!inventory.host_id.is_empty(), newness, runs)
}

/// An actor, or a provider under a link name, that ran on lost hosts only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    pub id: String,
    pub name: String,
    /// Of a provider.
    pub link_name: Option<String>,
    pub contract_id: String,
    pub reference: String,
    /// A provider was started with a configuration, which no host tells.
    pub is_configured: bool,
    /// The annotations it ran with, each with the calls it took at a time.
    pub groups: Vec<(Pairs, u32)>,
    /// Ids and names of the lost hosts that ran it.
    pub hosts: Vec<(String, String)>,
}

impl Missing {
    /// `actor` or `provider`.
    pub fn kind(&self) -> &'static str {
        if self.link_name.is_some() { "provider" } else { "actor" }
    }

    /// Returns what it is called.
    pub fn called(&self) -> &str {
        or_id(&self.name, &self.id)
    }

    /// Whether a word is its id, its name or its reference.
    pub fn is_named(&self, word: &str) -> bool {
        self.id == word || self.reference == word || self.name.eq_ignore_ascii_case(word)
    }

    /// Says why it cannot be stopped, and that it will run again.
    pub fn comes_back(&self) -> String {
        format!(
            "{} {} runs nowhere: it ran only on {}, which is lost. Nothing was stopped, and it comes back with its host; stop it \
             then, or start that host with --forget",
            self.kind(),
            self.called(),
            self.host_names().join(", ")
        )
    }

    /// The application that starts it again by itself.
    pub fn application(&self) -> Option<&str> {
        self.groups.iter().find_map(|(annotations, _)| annotations.get(APPLICATION)).map(|x| &**x)
    }

    /// Whether it ran on a lost host.
    pub fn ran_on(&self, host: &str) -> bool {
        self.hosts.iter().any(|(id, _)| id == host)
    }

    /// Returns the names of the lost hosts that ran it.
    pub fn host_names(&self) -> Vec<&str> {
        self.hosts.iter().map(|(_, name)| name.as_str()).collect()
    }
}

/// Returns what ran on lost hosts and runs on none of those that are there.
pub fn missing<'a>(
    lost: &[LostHost],
    present: impl IntoIterator<Item = &'a Inventory>,
) -> Vec<Missing> {
    let present: Vec<&Inventory> = present.into_iter().collect();
    let actors: HashSet<&str> =
        present.iter().flat_map(|host| &host.actors).map(|actor| actor.id.as_str()).collect();
    let providers: HashSet<(&str, &str)> = present
        .iter()
        .flat_map(|host| &host.providers)
        .map(|provider| (provider.id.as_str(), provider.link_name.as_str()))
        .collect();
    let mut all: BTreeMap<(String, Option<String>), Missing> = BTreeMap::new();
    for host in lost {
        let named = (host.id.clone(), host.called().to_owned());
        let gone = host.inventory.actors.iter().filter(|actor| !actors.contains(actor.id.as_str()));
        for actor in gone {
            let missing = all.entry((actor.id.clone(), None)).or_insert_with(|| Missing {
                id: actor.id.clone(),
                name: actor.name.clone(),
                reference: actor.stable_reference().to_owned(),
                groups: groups(actor),
                ..Missing::default()
            });
            missing.hosts.push(named.clone());
        }
        for provider in &host.inventory.providers {
            let key = (provider.id.as_str(), provider.link_name.as_str());
            if providers.contains(&key) {
                continue;
            }
            let link_name = Some(provider.link_name.clone());
            let missing =
                all.entry((provider.id.clone(), link_name.clone())).or_insert_with(|| Missing {
                    id: provider.id.clone(),
                    name: provider.name.clone(),
                    link_name,
                    contract_id: provider.contract_id.clone(),
                    reference: provider.image_ref.clone(),
                    is_configured: false,
                    groups: vec![(provider.annotations.clone(), 1)],
                    hosts: Vec::new(),
                });
            missing.is_configured |= provider.is_configured;
            missing.hosts.push(named.clone());
        }
    }
    let mut all: Vec<Missing> = all.into_values().collect();
    all.sort_by(|a, b| (a.kind(), a.called(), &a.id).cmp(&(b.kind(), b.called(), &b.id)));
    all
}

/// The hosts of a lattice, what they run, and the hosts that it has lost.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub hosts: Vec<HostReply>,
    /// Ids of hosts that others hear and that did not answer.
    pub silent: Vec<String>,
    pub inventories: Vec<Inventory>,
    pub lost: Vec<LostHost>,
}

impl Look {
    /// Whether every host has told what it runs.
    pub fn is_whole(&self) -> bool {
        is_whole(&self.hosts, &self.silent, &self.inventories, &self.lost)
    }

    /// Returns what ran on lost hosts and runs on none of those that are there.
    pub fn missing(&self) -> Vec<Missing> {
        missing(&self.lost, &self.inventories)
    }
}

/// Looks at the hosts that answer, at what they run, and at those that are lost; an error if none
/// answers.
pub async fn look(lattice: &Lattice) -> Result<Look> {
    let Found { hosts, silent, .. } = lattice.found_hosts().await?;
    let (lost, inventories) = tokio::join!(lost(lattice, &hosts), lattice.inventories(&hosts));
    Ok(Look { hosts, silent, inventories, lost })
}

/// Whether every host has told what it runs; else nobody knows what runs nowhere. One that is
/// silent may be frozen and run anything, unless it is lost.
pub fn is_whole(
    hosts: &[HostReply],
    silent: &[String],
    inventories: &[Inventory],
    lost: &[LostHost],
) -> bool {
    inventories.len() >= hosts.len()
        && silent.iter().all(|id| lost.iter().any(|host| host.id == *id))
}

/// The lost host that a word means, by its id or its name.
pub fn find<'a>(word: &str, lost: &'a [LostHost]) -> Result<&'a LostHost> {
    ensure!(
        !lost.is_empty(),
        "no lost host is called {word:?}: no host remembers one; `host get hosts` lists those there are"
    );
    let named: Vec<Named> = lost
        .iter()
        .map(|host| Named {
            id: host.id.clone(),
            name: host.inventory.friendly_name.clone(),
            aliases: Vec::new(),
            runs: true,
        })
        .collect();
    let id = &names::find("lost host", word, &named)?.id;
    lost.iter().find(|host| host.id == *id).context("the host is in the list")
}

/// The host that a word means.
#[derive(Clone, Debug)]
pub enum Meant {
    /// It answers; its id.
    There(String),
    /// It vanished: what it did and said is kept.
    Lost(Box<LostHost>),
}

impl Meant {
    /// Returns the id of the host.
    pub fn id(&self) -> &str {
        match self {
            Self::There(id) => id,
            Self::Lost(host) => &host.id,
        }
    }
}

/// Returns the host that a word means among those that answer, or else among those that vanished.
pub async fn look_up(lattice: &Lattice, word: &str, hosts: &[HostReply]) -> Result<Meant> {
    meant(word, hosts, lost(lattice, hosts)).await
}

/// Decides which host a word means; a word that several hosts that answer resemble means none. The
/// lost ones are asked for only if it resembles none of those that answer.
async fn meant(
    word: &str,
    hosts: &[HostReply],
    lost: impl Future<Output = Vec<LostHost>>,
) -> Result<Meant> {
    let there = names::hosts(hosts);
    let unknown = match names::find("host", word, &there) {
        Ok(host) => return Ok(Meant::There(host.id.clone())),
        Err(unknown) => unknown,
    };
    if names::is_like_any(word, &there) {
        return Err(unknown);
    }
    match find(word, &lost.await) {
        Ok(gone) => Ok(Meant::Lost(Box::new(gone.clone()))),
        Err(_) => Err(unknown),
    }
}

/// The host that a word means among those that answer. Where it means one that vanished, the error
/// says so.
pub async fn host_there(lattice: &Lattice, word: &str, hosts: &[HostReply]) -> Result<String> {
    match look_up(lattice, word, hosts).await? {
        Meant::There(id) => Ok(id),
        Meant::Lost(host) => bail!(vanished(&host, clock::now_ms())),
    }
}

/// Says that a host is lost.
fn vanished(host: &LostHost, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(host.lost_ms) / 1000;
    format!(
        "host {} ({}) is lost, gone for {seconds} s, so it can be asked nothing; `host start lost {0}` starts elsewhere what \
         ran only there, `host forget {0}` takes it off the list",
        host.called(),
        host.id
    )
}

/// Returns what ran only on lost hosts and is called so, of a kind.
pub async fn missing_called(lattice: &Lattice, kind: &str, word: &str) -> Option<Missing> {
    let look = look(lattice).await.ok().filter(Look::is_whole)?;
    let mut missing = look.missing().into_iter();
    missing.find(|missing| missing.kind() == kind && missing.is_named(word))
}

/// Takes a lost host off the lists of all hosts. One of a host that does not answer now stays on
/// that host's list.
pub async fn forget(lattice: &Lattice, hosts: &[HostReply], lost: &str) -> Result<()> {
    let request = &Forget { lost_host_id: lost.to_owned() };
    let ours = hosts.iter().filter(|host| host.is_ours());
    let asked = ours.map(|host| async move {
        let told = lattice.command(&host.id, request).await;
        told.err().map(|error| format!("{}: {error:#}", host.friendly_name))
    });
    let failed: Vec<String> = join_all(asked).await.into_iter().flatten().collect();
    if !failed.is_empty() {
        bail!("not every host has forgotten it: {}", failed.join("; "));
    }
    Ok(())
}

/// How something that ran nowhere was started again.
#[derive(Debug)]
pub struct Restarted {
    pub missing: Missing,
    /// The host that runs it now; else why none does.
    pub outcome: Result<String>,
}

/// Starts what ran only on one lost host on others, each on the first that offers. What belongs to
/// an application is left to those who keep it.
pub async fn start_elsewhere(
    lattice: &Lattice,
    host: &str,
    missing: Vec<Missing>,
    (auction, wait): (Duration, Duration),
) -> Vec<Restarted> {
    let mut restarted = Vec::new();
    for missing in missing.into_iter().filter(|missing| missing.ran_on(host)) {
        let outcome = match missing.application() {
            Some(name) => Err(anyhow::anyhow!(
                "application {name} keeps it, and its hosts start it again by themselves"
            )),
            None => start(lattice, &missing, auction, wait).await,
        };
        restarted.push(Restarted { missing, outcome });
    }
    restarted
}

async fn start(
    lattice: &Lattice,
    missing: &Missing,
    auction: Duration,
    wait: Duration,
) -> Result<String> {
    let Missing { reference, link_name, is_configured, .. } = missing;
    ensure!(!is_configured, "{CONFIGURED}");
    let constraints = Pairs::new();
    let wanted = Wanted {
        reference,
        link_name: link_name.as_deref(),
        constraints: &constraints,
        readers: None,
    };
    let Some(host) = wanted.first(lattice, auction).await? else {
        let hosts = lattice.some_hosts().await?;
        let why: BTreeSet<String> = hosts.iter().map(|host| wanted.obstacle(host).why).collect();
        bail!("no host offers to run {reference}: {}", Vec::from_iter(why).join("; "));
    };
    for (annotations, max) in &missing.groups {
        let commands = HostCommands::new(lattice, &host, Some(wait));
        match link_name {
            None => {
                commands.start_actor(reference, Some(*max), annotations, &mut |_| {}).await?;
            }
            Some(name) => {
                commands.start_provider(reference, name, annotations, None, &mut |_| {}).await?;
            }
        }
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use lattice_protocol::control::types::{
        InventoryActor, InventoryInstance, InventoryProvider, Trial,
    };

    fn inventory(host: &str, actors: &[&str], providers: &[(&str, &str)]) -> Inventory {
        let actor = |id: &&str| InventoryActor {
            id: (*id).into(),
            name: format!("name of {id}"),
            image_ref: format!("{id}:1"),
            instances: vec![InventoryInstance { max_instances: 3, ..InventoryInstance::default() }],
            ..InventoryActor::default()
        };
        let provider = |(id, link_name): &(&str, &str)| InventoryProvider {
            id: (*id).into(),
            link_name: (*link_name).into(),
            image_ref: format!("{id}:1"),
            ..InventoryProvider::default()
        };
        Inventory {
            host_id: host.into(),
            friendly_name: format!("name of {host}"),
            actors: actors.iter().map(actor).collect(),
            providers: providers.iter().map(provider).collect(),
            ..Inventory::default()
        }
    }

    fn lost(host: &str, lost_ms: u64, inventory: Inventory) -> LostHost {
        LostHost { id: host.into(), lost_ms, inventory, ..LostHost::default() }
    }

    fn lost_after(age_ms: u64, host: LostHost) -> LostHost {
        LostHost { told_ms: host.lost_ms - age_ms, ..host }
    }

    /// Decides which host a word means, with the lost ones at hand.
    fn meant(word: &str, hosts: &[HostReply], lost: &[LostHost]) -> Result<Meant> {
        let lost = std::future::ready(lost.to_vec());
        super::meant(word, hosts, lost).now_or_never().expect("nobody is waited for")
    }

    #[test]
    fn what_several_hosts_remember_is_one_list_without_those_that_are_there() {
        let told = [
            lost("NA", 20, Inventory::default()),
            lost("NA", 10, inventory("NA", &["M1"], &[])),
            lost("NA", 30, inventory("NA", &[], &[])),
            lost("NB", 40, Inventory::default()),
            lost("NHERE", 50, Inventory::default()),
        ];
        let all = merged(told.into_iter(), &HashSet::from(["NHERE"]));
        let all: Vec<_> = all
            .iter()
            .map(|host| (&*host.id, host.lost_ms, host.inventory.actors.len(), host.called()))
            .collect();
        assert_eq!(all, [("NB", 40, 0, "NB"), ("NA", 10, 1, "name of NA")]);
    }

    #[test]
    fn what_a_lost_host_told_last_is_what_it_ran_though_clocks_differ_and_some_were_cut_off_before()
    {
        let ran = |actors: &[&str]| inventory("NA", actors, &[]);
        let (one, two) = (ran(&["M1"]), ran(&["M1", "M2"]));
        let told = |lost_ms, age_ms, inventory: &Inventory| {
            lost_after(age_ms, lost("NA", lost_ms, inventory.clone()))
        };
        let of_before = |lost_ms, inventory: &Inventory| lost("NA", lost_ms, inventory.clone());
        let empty = Inventory::default();
        for (mut told, runs) in [
            // An actor was stopped or started after the earlier one.
            ([told(9000, 10, &one), told(9000, 500, &two)], 1),
            ([told(9000, 500, &one), told(9000, 10, &two)], 2),
            // The clock of the one with the earlier one is half a minute ahead.
            ([told(9000, 10, &one), told(39_000, 500, &two)], 1),
            // The one with the earlier one was cut off from it an hour before the other lost it.
            ([told(9000, 10, &one), told(3_609_000, 500, &two)], 2),
            // Hosts of before do not tell when.
            ([told(9000, 500, &one), of_before(9000, &two)], 1),
            ([of_before(9000, &one), of_before(8000, &two)], 2),
            // One that has told nothing, which is no list of what it ran.
            ([told(9000, 500, &one), told(9000, 10, &empty)], 1),
        ] {
            for _ in 0..2 {
                told.reverse();
                let all = merged(told.clone().into_iter(), &HashSet::new());
                assert_eq!(all[0].inventory.actors.len(), runs, "{told:?}");
                assert_eq!(Some(all[0].lost_ms), told.iter().map(|host| host.lost_ms).min());
            }
        }
    }

    #[test]
    fn what_runs_elsewhere_is_not_missing() {
        let gone = [
            lost("NA", 1, inventory("NA", &["M1", "M2"], &[("V1", "default"), ("V1", "two")])),
            lost("NB", 2, inventory("NB", &["M2", "M3"], &[])),
        ];
        let present = [inventory("NC", &["M1"], &[("V1", "default")])];
        let missing = missing(&gone, &present);
        let told: Vec<_> = missing
            .iter()
            .map(|missing| (missing.kind(), &*missing.id, missing.hosts.len()))
            .collect();
        assert_eq!(told, [("actor", "M2", 2), ("actor", "M3", 1), ("provider", "V1", 1)]);
        assert_eq!(missing[0].groups, [(Pairs::new(), 3)]);
        assert_eq!(missing[2].link_name.as_deref(), Some("two"));
        assert!(missing[1].ran_on("NB") && !missing[1].ran_on("NA"));
    }

    #[test]
    fn what_cannot_be_started_as_it_was_is_known() {
        let mut first = inventory("NA", &["M1"], &[("V1", "default")]);
        let mut second = inventory("NB", &[], &[("V1", "default"), ("V2", "default")]);
        first.actors[0].trial = Some(Trial { stable_ref: "M1:0".into(), ..Trial::default() });
        second.providers[0].is_configured = true;
        let missing = missing(&[lost("NA", 1, first), lost("NB", 2, second)], &[]);
        let told: Vec<_> =
            missing.iter().map(|missing| (&*missing.reference, missing.is_configured)).collect();
        assert_eq!(told, [("M1:0", false), ("V1:1", true), ("V2:1", false)]);
        assert_eq!(missing[1].host_names(), ["name of NA", "name of NB"]);
    }

    #[test]
    fn a_silent_host_may_run_anything_unless_it_is_lost() {
        let hosts = [HostReply { id: "NB".into(), ..HostReply::default() }];
        let told = [inventory("NB", &[], &[])];
        let gone = [lost("NA", 1, inventory("NA", &[], &[]))];
        let silent = |id: &str| [id.to_owned()];
        assert!(is_whole(&hosts, &[], &told, &[]) && !is_whole(&hosts, &[], &[], &[]));
        assert!(is_whole(&hosts, &silent("NA"), &told, &gone));
        assert!(!is_whole(&hosts, &silent("NC"), &told, &gone));
    }

    #[test]
    fn a_lost_host_is_found_by_its_name() {
        let gone = [lost("NA", 1, inventory("NA", &[], &[]))];
        assert_eq!(find("name of NA", &gone).unwrap().id, "NA");
        assert!(find("other", &gone).is_err());
        let told = vanished(find("name of NA", &gone).unwrap(), 5_400);
        assert!(told.contains("name of NA (NA) is lost, gone for 5 s"), "{told}");
        assert!(meant("other", &[], &gone).is_err() && meant("x", &[], &[]).is_err());
    }

    #[test]
    fn a_word_that_several_hosts_resemble_means_no_lost_one() {
        let host = |id: &str, name: &str| HostReply {
            id: id.into(),
            friendly_name: name.into(),
            ..HostReply::default()
        };
        let hosts = [host("NX", "calm otter"), host("NY", "calm crane")];
        let mut gone = [lost("NA", 1, inventory("NA", &[], &[]))];
        gone[0].inventory.friendly_name = "bold mole".into();
        for (word, id) in [
            ("otter", Some("NX")),
            ("mole", Some("NA")),
            ("bold", Some("NA")),
            ("calm", None),
            ("mol", None),
            ("nosuch", None),
        ] {
            let meant = meant(word, &hosts, &gone);
            assert_eq!(meant.as_ref().ok().map(Meant::id), id, "{word}");
        }
        let several = meant("calm", &hosts, &gone).unwrap_err().to_string();
        assert!(several.contains("NX") && !several.contains("NA"), "{several}");
    }

    #[test]
    fn what_comes_back_with_its_host_is_told_by_any_of_its_names() {
        let missing = missing(&[lost("NA", 1, inventory("NA", &["M1"], &[]))], &[]);
        for word in ["M1", "Name of M1", "M1:1"] {
            assert!(missing[0].is_named(word), "{word}");
        }
        assert!(!missing[0].is_named("M2"));
        let told = missing[0].comes_back();
        assert!(told.starts_with("actor name of M1 ") && told.contains("name of NA"), "{told}");
    }
}
