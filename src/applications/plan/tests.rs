//! The planner against a model of a lattice, and the faults of the old manager as cases (wadm,
//! section 7).

use std::{collections::BTreeSet, time::Duration};

use proptest::{prelude::*, sample::select};
use tokio::time::Instant;

use super::*;
use crate::attempts::{Attempts, apply};
use lattice_protocol::applications::resolved::{self, Mode};

/// Passes after which everything must be as demanded: each component may need an update, a start
/// and an end on each host in turn.
const PASSES_MAX: usize = 60;

/// A lattice that carries commands out at once, by the rules of hosts: one module of an actor per
/// host, a provider once per link name.
struct Model {
    seen: Observed,
    /// Hosts where nothing starts.
    broken: BTreeSet<String>,
    refused: Refused,
    own_links: Vec<LinkDefinition>,
    trials: Vec<Trial>,
}

impl Model {
    fn new(seen: Observed) -> Self {
        let (broken, refused) = (BTreeSet::new(), Refused::default());
        Self { seen, broken, refused, own_links: Vec::new(), trials: Vec::new() }
    }

    fn input<'a>(
        &'a self,
        application: &'a Application,
        others: &'a [&'a Application],
    ) -> Input<'a> {
        Input {
            application,
            others,
            observed: &self.seen,
            expected: &self.seen,
            own_links: &self.own_links,
            trials: &self.trials,
            refused: &self.refused,
        }
    }

    fn plan(&self, application: &Application, others: &[&Application]) -> Plan {
        plan(self.input(application, others))
    }

    /// Plans and carries out until nothing is planned; returns how often each thing was commanded.
    fn settle(&mut self, application: &Application, others: &[&Application]) -> Plan {
        for _ in 0..PASSES_MAX {
            let plan = self.plan(application, others);
            if plan.commands.is_empty() {
                return plan;
            }
            for command in &plan.commands {
                self.carry_out(command);
            }
        }
        panic!("no end after {PASSES_MAX} passes: {:?}", self.plan(application, others).commands);
    }

    fn carry_out(&mut self, command: &Command) {
        match command {
            Command::Scale { scaler, host, image, count, .. } if *count > 0 => {
                let key = key_of(image);
                let is_taken = self.seen.hosts[host]
                    .actors
                    .iter()
                    .any(|group| group.key == key && group.image != *image);
                if is_taken || self.broken.contains(host) {
                    self.refuse(scaler, host);
                    return;
                }
                self.seen.keys.insert(image.clone(), key);
            }
            Command::Update { scaler, host, key, image, .. } if key_of(image) != *key => {
                self.refuse_update(scaler, host);
                return;
            }
            Command::Update { scaler, host, share: None, .. } if self.broken.contains(host) => {
                self.refuse_update(scaler, host);
                return;
            }
            Command::Update { image, key, .. } => {
                self.seen.keys.insert(image.clone(), key.clone());
            }
            Command::StartProvider { scaler, host, image, link_name, .. } => {
                let key = key_of(image);
                let is_taken = self.seen.hosts[host]
                    .providers
                    .iter()
                    .any(|run| run.key == key && run.link_name == *link_name);
                assert!(!is_taken, "{image} runs on {host} already");
                if self.broken.contains(host) {
                    self.refuse(scaler, host);
                    return;
                }
                self.seen.keys.insert(image.clone(), key);
            }
            Command::PutLink(link) => self.own_links.push(link.clone().into()),
            _ => {}
        }
        apply(command, &mut self.seen);
    }

    fn refuse(&mut self, scaler: &str, host: &str) {
        let at = (scaler.to_owned(), host.to_owned());
        self.refused.errors.insert(at.clone(), "it does not start here".into());
        self.refused.starts.insert(at);
    }

    /// A command reaches its host late: what the host refuses is told to who sent it.
    fn arrive(&mut self, command: &Command, attempts: &mut Attempts, now: Instant) {
        let before = std::mem::take(&mut self.refused);
        let runs_already = match command {
            Command::StartProvider { host, image, link_name, .. } => {
                let runs = &self.seen.hosts[host].providers;
                runs.iter().any(|run| run.key == key_of(image) && run.link_name == *link_name)
            }
            _ => false,
        };
        if !runs_already {
            self.carry_out(command);
        }
        if runs_already || !self.refused.errors.is_empty() {
            attempts.failed(command, "refused", now);
        }
        self.refused = before;
    }

    fn refuse_update(&mut self, scaler: &str, host: &str) {
        let at = (scaler.to_owned(), host.to_owned());
        self.refused.errors.insert(at.clone(), "it does not change over here".into());
        self.refused.updates.insert(at);
    }

    fn foreign(&self, name: &str) -> Vec<(String, Vec<ActorGroup>, Vec<ProviderRun>)> {
        let is_foreign = |annotations: &Annotations| {
            annotations.get(ownership::APPLICATION).is_none_or(|owner| owner != name)
        };
        let hosts = self.seen.hosts.iter();
        hosts
            .map(|(host, view)| {
                let actors = view.actors.iter().filter(|group| is_foreign(&group.annotations));
                let providers = view.providers.iter().filter(|run| is_foreign(&run.annotations));
                (host.clone(), actors.cloned().collect(), providers.cloned().collect())
            })
            .collect()
    }

    fn count_on(&self, host: &str, scaler: &Scaler, rule: &Rule, name: &str) -> u32 {
        let groups = self.seen.hosts[host].actors.iter();
        let own = groups.filter(|group| scaler.annotations(name, rule) == group.annotations);
        own.map(|group| group.count).sum()
    }
}

/// Images of the model are `NAME:TAG`, and the name is the key.
fn key_of(image: &str) -> String {
    image.split(':').next().unwrap_or_default().to_owned()
}

fn labels(zone: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("zone".to_owned(), zone.to_owned())])
}

fn hosts(zones: &[&str]) -> Observed {
    let host = |(number, zone): (usize, &&str)| {
        (format!("N{number}"), HostView { labels: labels(zone), ..HostView::default() })
    };
    Observed { hosts: zones.iter().enumerate().map(host).collect(), ..Observed::default() }
}

fn rule(name: &str, zone: Option<&str>, count: u32) -> Rule {
    Rule { name: name.into(), requirements: zone.map(labels).unwrap_or_default(), count }
}

fn actor(component: &str, image: &str, rules: Vec<Rule>) -> Scaler {
    Scaler {
        id: format!("actorspreadscaler-shop-{component}-{image}"),
        old_id: None,
        component: component.into(),
        image: image.into(),
        kind: ScalerKind::Actor,
        mode: Mode::Spread,
        rules,
        rebalance: false,
    }
}

fn provider(component: &str, image: &str, rules: Vec<Rule>) -> Scaler {
    Scaler {
        id: format!("providerspreadscaler-shop-{component}-{image}-default"),
        kind: ScalerKind::Provider {
            contract: Some("wasmcloud:httpserver".into()),
            link_name: "default".into(),
            configuration: None,
        },
        ..actor(component, image, rules)
    }
}

fn shop(scalers: Vec<Scaler>) -> Application {
    Application { name: "shop".into(), version: "v1".into(), scalers, links: Vec::new() }
}

fn foreign_provider(image: &str) -> ProviderRun {
    ProviderRun {
        key: key_of(image),
        image: image.into(),
        contract: "wasmcloud:httpserver".into(),
        link_name: "default".into(),
        annotations: Annotations::new(),
    }
}

#[test]
fn a_spread_is_spread_and_stays_as_it_is() {
    let mut model = Model::new(hosts(&["a", "a", "b"]));
    let front = actor("front", "echo:1", vec![rule("all", None, 5)]);
    let application = shop(vec![front.clone()]);
    let plan = model.settle(&application, &[]);
    assert_eq!(plan.parts[0].standing, Standing::Deployed);
    let on = |host| model.count_on(host, &front, &front.rules[0], "shop");
    assert_eq!([on("N0"), on("N1"), on("N2")], [2, 2, 1]);
}

#[test]
fn what_runs_on_hosts_that_no_longer_fit_is_removed_and_started_elsewhere() {
    let mut model = Model::new(hosts(&["a", "a"]));
    let front = actor("front", "echo:1", vec![rule("a", Some("a"), 2)]);
    let application = shop(vec![front.clone()]);
    model.settle(&application, &[]);
    model.seen.hosts.get_mut("N0").unwrap().labels = labels("b");
    model.settle(&application, &[]);
    let on = |host| model.count_on(host, &front, &front.rules[0], "shop");
    assert_eq!([on("N0"), on("N1")], [0, 2]);
}

#[test]
fn a_foreign_provider_counts_once_and_is_left_alone() {
    let mut model = Model::new(hosts(&["a", "a", "a"]));
    model.seen.hosts.get_mut("N1").unwrap().providers.push(foreign_provider("http:1"));
    model.seen.keys.insert("http:1".into(), "http".into());
    let application = shop(vec![provider("web", "http:1", vec![rule("all", None, 3)])]);
    model.settle(&application, &[]);
    assert!(model.seen.hosts.values().all(|view| view.providers.len() == 1));
    model.settle(&shop(Vec::new()), &[]);
    let left: Vec<_> =
        model.seen.hosts.iter().filter(|(_, view)| !view.providers.is_empty()).collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].0, "N1");
}

#[test]
fn cleaning_up_starts_nothing_and_reaches_hosts_that_fit_no_more() {
    let mut model = Model::new(hosts(&["a", "b"]));
    let daemon =
        Scaler { mode: Mode::Daemon, ..provider("web", "http:1", vec![rule("a", Some("a"), 1)]) };
    let application = shop(vec![daemon, actor("front", "echo:1", vec![rule("a", Some("a"), 2)])]);
    model.settle(&application, &[]);
    model.seen.hosts.get_mut("N0").unwrap().labels = labels("c");
    let down = shop(Vec::new());
    for command in model.plan(&down, &[]).commands {
        assert!(!matches!(command, Command::StartProvider { .. }), "{command:?}");
    }
    model.settle(&down, &[]);
    assert!(
        model.seen.hosts.values().all(|view| view.actors.is_empty() && view.providers.is_empty())
    );
}

#[test]
fn a_removed_or_renamed_spread_leaves_nothing_behind() {
    let mut model = Model::new(hosts(&["a", "b"]));
    let before =
        actor("front", "echo:1", vec![rule("east", Some("a"), 2), rule("west", Some("b"), 2)]);
    model.settle(&shop(vec![before]), &[]);
    let after = actor("front", "echo:1", vec![rule("orient", Some("a"), 2)]);
    model.settle(&shop(vec![after.clone()]), &[]);
    assert_eq!(model.count_on("N0", &after, &after.rules[0], "shop"), 2);
    assert!(model.seen.hosts["N0"].actors.len() == 1 && model.seen.hosts["N1"].actors.is_empty());
}

#[test]
fn changed_link_values_are_put_and_links_of_others_are_left_alone() {
    let mut model = Model::new(hosts(&["a"]));
    let link = |values: &[(&str, &str)]| resolved::Link {
        actor_image: "echo:1".into(),
        provider_image: "http:1".into(),
        contract: Some("wasmcloud:httpserver".into()),
        link_name: "default".into(),
        values: values.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    };
    let version = |values: &[(&str, &str)]| Application {
        links: vec![link(values)],
        ..shop(vec![
            actor("front", "echo:1", vec![rule("all", None, 1)]),
            provider("web", "http:1", vec![rule("all", None, 1)]),
        ])
    };
    let by_hand = LinkDefinition {
        actor_id: "echo".into(),
        provider_id: "other".into(),
        link_name: "mine".into(),
        contract_id: "wasmcloud:keyvalue".into(),
        values: BTreeMap::new(),
    };
    model.seen.links.push(by_hand.clone());
    model.settle(&version(&[("port", "1")]), &[]);
    model.settle(&version(&[("port", "2")]), &[]);
    let values = model.seen.links.iter().find(|link| link.provider_id == "http").unwrap();
    assert_eq!(values.values["port"], "2");
    model.settle(&shop(Vec::new()), &[]);
    assert_eq!(model.seen.links, [by_hand]);
}

#[test]
fn a_link_is_put_as_soon_as_both_keys_are_known() {
    let mut model = Model::new(hosts(&["a"]));
    let application = Application {
        links: vec![resolved::Link {
            actor_image: "echo:1".into(),
            provider_image: "http:1".into(),
            contract: Some("wasmcloud:httpserver".into()),
            link_name: "default".into(),
            values: BTreeMap::new(),
        }],
        ..shop(Vec::new())
    };
    assert!(model.plan(&application, &[]).commands.is_empty());
    model.seen.keys.insert("echo:1".into(), "echo".into());
    model.seen.keys.insert("http:1".into(), "http".into());
    assert!(matches!(model.plan(&application, &[]).commands[..], [Command::PutLink(_)]));
}

#[test]
fn a_new_image_of_an_actor_comes_by_update_and_a_provider_one_host_at_a_time() {
    let mut model = Model::new(hosts(&["a", "a"]));
    let version = |tag: u32| {
        shop(vec![
            actor("front", &format!("echo:{tag}"), vec![rule("all", None, 4)]),
            provider("web", &format!("http:{tag}"), vec![rule("all", None, 2)]),
        ])
    };
    model.settle(&version(1), &[]);
    let next = version(2);
    for _ in 0..PASSES_MAX {
        let plan = model.plan(&next, &[]);
        for command in &plan.commands {
            model.carry_out(command);
        }
        // Something always answers.
        let all = model.seen.hosts.values();
        assert!(all.clone().any(|view| !view.providers.is_empty()));
        assert!(
            all.map(|view| view.actors.iter().map(|group| group.count).sum::<u32>()).sum::<u32>()
                >= 4
        );
    }
    let images: BTreeSet<_> = model
        .seen
        .hosts
        .values()
        .flat_map(|view| view.actors.iter().map(|group| group.image.as_str()))
        .collect();
    assert_eq!(images, BTreeSet::from(["echo:2"]));
    assert!(
        model
            .seen
            .hosts
            .values()
            .all(|view| view.providers.iter().all(|run| run.image == "http:2"))
    );
    assert!(model.plan(&next, &[]).commands.is_empty());
}

#[test]
fn a_version_that_does_not_start_leaves_the_old_one_running() {
    let mut model = Model::new(hosts(&["a"]));
    let old = actor("front", "echo:1", vec![rule("all", None, 2)]);
    model.settle(&shop(vec![old.clone()]), &[]);
    // Another actor under the same component name, so it is started beside.
    let new = shop(vec![actor("front", "other:2", vec![rule("all", None, 2)])]);
    model.broken.insert("N0".into());
    let plan = model.settle(&new, &[]);
    assert!(
        matches!(&plan.parts[0].standing, Standing::Failed(why) if why.contains("does not start here"))
    );
    assert_eq!(model.count_on("N0", &old, &old.rules[0], "shop"), 2);
}

#[test]
fn an_actor_whose_update_fails_keeps_the_old_image_until_the_new_one_is_known_to_run() {
    let version = |tag: u32| {
        let rules = vec![rule("a", Some("a"), 2), rule("b", Some("b"), 1)];
        shop(vec![actor("front", &format!("echo:{tag}"), rules)])
    };
    let images = |model: &Model, host: &str| {
        let groups = model.seen.hosts[host].actors.iter();
        groups.map(|group| (group.image.clone(), group.count)).collect::<Vec<_>>()
    };
    let mut model = Model::new(hosts(&["a", "b"]));
    model.settle(&version(1), &[]);
    model.seen.keys.insert("echo:2".into(), "echo".into());
    model.broken.extend(["N0".to_owned(), "N1".to_owned()]);
    let plan = model.settle(&version(2), &[]);
    assert!(
        matches!(&plan.parts[0].standing, Standing::Failed(why) if why.contains("change over"))
    );
    assert_eq!(images(&model, "N0"), [("echo:1".to_owned(), 2)]);
    assert_eq!(images(&model, "N1"), [("echo:1".to_owned(), 1)]);
    // On one host it does run, so the other one is at fault and gets it anew.
    model.broken.remove("N1");
    model.refused.updates.retain(|(_, host)| host == "N0");
    model.refused.errors.clear();
    for _ in 0..PASSES_MAX {
        for command in model.plan(&version(2), &[]).commands {
            // It is about the update only.
            model.broken.clear();
            model.carry_out(&command);
        }
    }
    assert_eq!(images(&model, "N0"), [("echo:2".to_owned(), 2)]);
    assert_eq!(images(&model, "N1"), [("echo:2".to_owned(), 1)]);
}

#[test]
fn a_provider_that_does_not_start_is_replaced_on_one_host_only() {
    let version =
        |tag: u32| shop(vec![provider("web", &format!("http:{tag}"), vec![rule("all", None, 3)])]);
    let mut model = Model::new(hosts(&["a", "a", "a"]));
    model.settle(&version(1), &[]);
    model.broken.extend((0..3).map(|number| format!("N{number}")));
    model.settle(&version(2), &[]);
    let left =
        |model: &Model| model.seen.hosts.values().filter(|one| !one.providers.is_empty()).count();
    assert_eq!(left(&model), 2);
    model.broken.clear();
    model.refused = Refused::default();
    model.settle(&version(2), &[]);
    assert_eq!(left(&model), 3);
    // The same while the start is only on its way.
    let (mut lattice, mut attempts, now) = (model, Attempts::default(), Instant::now());
    let mut starts = 0;
    for _ in 0..PASSES_MAX {
        let expected = attempts.expected(&lattice.seen).into_owned();
        let plan = plan(Input { expected: &expected, ..lattice.input(&version(3), &[]) });
        let command = plan.commands.iter().find(|command| attempts.may_send(command, now));
        if let Some(command) = command {
            attempts.sent(command, now);
            match command {
                Command::StartProvider { .. } => starts += 1,
                stop => lattice.carry_out(stop),
            }
        }
        attempts.look(&lattice.seen, now);
    }
    assert_eq!((starts, left(&lattice)), (1, 2));
}

#[test]
fn of_two_applications_with_one_link_the_first_by_name_has_it() {
    let version = |name: &str, port: &str| Application {
        name: name.into(),
        links: vec![resolved::Link {
            actor_image: "echo:1".into(),
            provider_image: "http:1".into(),
            contract: Some("wasmcloud:httpserver".into()),
            link_name: "default".into(),
            values: BTreeMap::from([("port".to_owned(), port.to_owned())]),
        }],
        ..shop(Vec::new())
    };
    let mut model = Model::new(hosts(&["a"]));
    model.seen.keys.insert("echo:1".into(), "echo".into());
    model.seen.keys.insert("http:1".into(), "http".into());
    let (first, second) = (version("aisle", "1"), version("shop", "2"));
    model.settle(&second, &[]);
    let plan = model.settle(&second, &[&first]);
    assert!(matches!(&plan.parts[0].standing, Standing::Failed(why) if why.contains("aisle")));
    model.settle(&first, &[&second]);
    assert_eq!(model.seen.links[0].values["port"], "1");
    assert!(model.plan(&second, &[&first]).commands.is_empty());
    // Where they ask for the same there is nothing to decide.
    let same = version("shop", "1");
    assert_eq!(model.settle(&same, &[&first]).parts[0].standing, Standing::Deployed);
}

#[test]
fn a_link_that_is_refused_says_why() {
    let mut model = Model::new(hosts(&["a"]));
    let application = Application {
        links: vec![resolved::Link {
            actor_image: "echo:1".into(),
            provider_image: "http:1".into(),
            contract: Some("wasmcloud:httpserver".into()),
            link_name: "default".into(),
            values: BTreeMap::new(),
        }],
        ..shop(Vec::new())
    };
    model.seen.keys.insert("echo:1".into(), "echo".into());
    model.seen.keys.insert("http:1".into(), "http".into());
    let [Command::PutLink(link)] = &model.plan(&application, &[]).commands[..] else {
        panic!("a link is put")
    };
    model.refused.links.insert(link.clone(), "no such port".into());
    let plan = model.plan(&application, &[]);
    assert!(
        matches!(&plan.parts[0].standing, Standing::Failed(why) if why.contains("no such port"))
    );
}

#[test]
fn a_trial_of_another_application_is_left_alone() {
    let mut model = Model::new(hosts(&["a"]));
    let ours = shop(vec![actor("front", "echo:1", vec![rule("all", None, 1)])]);
    let theirs = Application {
        name: "other".into(),
        ..shop(vec![actor("front", "echo:9", vec![rule("all", None, 1)])])
    };
    model.settle(&ours, &[]);
    let seen = TrialSeen { image: "echo:9".into(), share: 20 };
    let view = model.seen.hosts.get_mut("N0").unwrap();
    view.trials.insert("echo".into(), seen.clone());
    model.trials = vec![Trial {
        component: "front".into(),
        image: "echo:2".into(),
        percent: 50,
        requirements: BTreeMap::new(),
    }];
    model.settle(&ours, &[&theirs]);
    assert_eq!(model.seen.hosts["N0"].trials["echo"], seen);
    // One that nobody asks for goes.
    model.trials.clear();
    model.settle(&ours, &[]);
    assert!(model.seen.hosts["N0"].trials.is_empty());
}

#[test]
fn a_shared_provider_goes_with_the_last_application_that_needs_it() {
    let mut model = Model::new(hosts(&["a"]));
    let ours = shop(vec![provider("web", "http:1", vec![rule("all", None, 1)])]);
    let theirs = Application { name: "other".into(), ..ours.clone() };
    model.settle(&ours, &[&theirs]);
    assert!(model.plan(&theirs, &[&ours]).commands.is_empty());
    let down = shop(Vec::new());
    assert!(model.plan(&down, &[&theirs]).commands.is_empty());
    model.settle(&down, &[]);
    assert!(model.seen.hosts["N0"].providers.is_empty());
}

#[test]
fn the_way_down_is_links_actors_providers() {
    let mut model = Model::new(hosts(&["a"]));
    let application = shop(vec![
        actor("front", "echo:1", vec![rule("all", None, 1)]),
        provider("web", "http:1", vec![rule("all", None, 1)]),
    ]);
    model.settle(&application, &[]);
    let first = model.plan(&shop(Vec::new()), &[]).commands;
    assert!(matches!(first[..], [Command::Scale { count: 0, .. }]), "{first:?}");
}

#[test]
fn a_host_that_comes_back_gets_its_share_only_if_asked_to() {
    for rebalance in [false, true] {
        let mut model = Model::new(hosts(&["a", "a"]));
        let front = Scaler { rebalance, ..actor("front", "echo:1", vec![rule("all", None, 4)]) };
        let application = shop(vec![front.clone()]);
        let gone = model.seen.hosts.remove("N1").unwrap();
        model.settle(&application, &[]);
        model.seen.hosts.insert("N1".into(), gone);
        model.settle(&application, &[]);
        let on = |host| model.count_on(host, &front, &front.rules[0], "shop");
        let expected = if rebalance { [2, 2] } else { [4, 0] };
        assert_eq!([on("N0"), on("N1")], expected);
    }
}

#[test]
fn a_trial_is_given_its_share_where_the_actor_runs_and_taken_back_without_a_trace() {
    let mut model = Model::new(hosts(&["a", "b"]));
    let application = shop(vec![actor("front", "echo:1", vec![rule("all", None, 4)])]);
    model.settle(&application, &[]);
    let trial = |percent, zone: Option<&str>| Trial {
        component: "front".into(),
        image: "echo:2".into(),
        percent,
        requirements: zone.map(labels).unwrap_or_default(),
    };
    let shares = |model: &Model| {
        let shares =
            model.seen.hosts.values().map(|view| view.trials.get("echo").map(|one| one.share));
        shares.collect::<Vec<_>>()
    };
    for (trials, expected) in [
        (vec![trial(10, Some("b"))], [None, Some(10)]),
        (vec![trial(50, None)], [Some(50), Some(50)]),
        (vec![trial(0, None)], [None, None]),
        (vec![trial(100, None)], [Some(100), Some(100)]),
        (vec![], [None, None]),
    ] {
        model.trials = trials;
        model.settle(&application, &[]);
        assert_eq!(shares(&model), expected);
        let count: u32 =
            model.seen.hosts.values().flat_map(|view| &view.actors).map(|one| one.count).sum();
        assert_eq!(count, 4);
    }
}

fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    let zone = proptest::option::of(select(vec!["a", "b", "c"]));
    prop::collection::vec((zone, 0_u32..6), 1..3).prop_map(|rules| {
        let named = rules.into_iter().enumerate();
        named.map(|(number, (zone, count))| rule(&format!("r{number}"), zone, count)).collect()
    })
}

fn any_application() -> impl Strategy<Value = Application> {
    let scaler = (any::<bool>(), any::<bool>(), any::<bool>(), 0..3_u32, any_rules());
    prop::collection::vec(scaler, 0..4).prop_map(|scalers| {
        let numbered = scalers.into_iter().enumerate();
        let made = numbered.map(|(number, (is_actor, is_daemon, rebalance, tag, rules))| {
            let component = format!("c{number}");
            let made = if is_actor {
                actor(&component, &format!("a{number}:{tag}"), rules)
            } else {
                provider(&component, &format!("p{number}:{tag}"), rules)
            };
            let (mode, word) =
                if is_daemon { (Mode::Daemon, "daemon") } else { (Mode::Spread, "spread") };
            Scaler { mode, rebalance, id: made.id.replace("spread", word), ..made }
        });
        shop(made.collect())
    })
}

/// An event in a lattice between two versions.
#[derive(Clone, Debug)]
enum Turn {
    Deploy(Application),
    HostLost(usize),
    HostBack(usize),
    Label(usize, &'static str),
    /// Somebody starts something by hand.
    Foreign(usize, bool),
}

fn any_turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        any_application().prop_map(Turn::Deploy),
        (0..5_usize).prop_map(Turn::HostLost),
        (0..5_usize).prop_map(Turn::HostBack),
        (0..5_usize, select(vec!["a", "b", "c"])).prop_map(|(host, zone)| Turn::Label(host, zone)),
        (0..5_usize, any::<bool>()).prop_map(|(host, is_actor)| Turn::Foreign(host, is_actor)),
    ]
}

/// Checks that everything is as demanded.
fn check(model: &Model, application: &Application) {
    for scaler in application.scalers.iter().filter(|one| one.kind == ScalerKind::Actor) {
        for rule in &scaler.rules {
            let fitting = eligible(&model.seen, rule);
            for host in model.seen.hosts.keys() {
                let count = model.count_on(host, scaler, rule, "shop");
                match (fitting.contains(&host.as_str()), scaler.mode) {
                    (false, _) => assert_eq!(count, 0, "{} on {host}", scaler.id),
                    (true, Mode::Daemon) => {
                        assert_eq!(count, rule.count, "{} on {host}", scaler.id)
                    }
                    (true, Mode::Spread) => {}
                }
            }
            if scaler.mode == Mode::Spread && !fitting.is_empty() {
                let sum: u32 =
                    fitting.iter().map(|host| model.count_on(host, scaler, rule, "shop")).sum();
                assert_eq!(sum, rule.count, "{}", scaler.id);
            }
        }
    }
    for (host, view) in &model.seen.hosts {
        for annotations in view.actors.iter().map(|group| &group.annotations) {
            assert!(
                !is_of_application(application, annotations)
                    || is_asked_for(application, annotations),
                "left on {host}: {annotations:?}"
            );
        }
        let left = view.providers.iter().filter(|run| {
            is_of_application(application, &run.annotations)
                && !is_asked_for(application, &run.annotations)
        });
        assert_eq!(left.count(), 0, "left on {host}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn every_lattice_settles_as_demanded_and_nothing_foreign_is_touched(
        zones in prop::collection::vec(select(vec!["a", "b", "c"]), 1..6),
        turns in prop::collection::vec(any_turn(), 1..6),
    ) {
        let mut model = Model::new(hosts(&zones));
        let mut application = shop(Vec::new());
        let mut away: BTreeMap<String, HostView> = BTreeMap::new();
        for turn in turns {
            match turn {
                Turn::Deploy(next) => application = next,
                Turn::HostLost(number) => {
                    away.extend(model.seen.hosts.remove_entry(&format!("N{number}")));
                }
                Turn::HostBack(number) => {
                    model.seen.hosts.extend(away.remove_entry(&format!("N{number}")));
                }
                Turn::Label(number, zone) => {
                    if let Some(view) = model.seen.hosts.get_mut(&format!("N{number}")) {
                        view.labels = labels(zone);
                    }
                }
                Turn::Foreign(number, is_actor) => {
                    if let Some(view) = model.seen.hosts.get_mut(&format!("N{number}")) {
                        if is_actor {
                            let (key, image) = ("a9".to_owned(), "a9:1".to_owned());
                            let annotations = Annotations::new();
                            view.actors.push(ActorGroup { key, image, annotations, count: 1 });
                        } else if !view.providers.iter().any(|run| run.key == "p9") {
                            view.providers.push(foreign_provider("p9:1"));
                        }
                    }
                }
            }
            let before = model.foreign("shop");
            model.settle(&application, &[]);
            prop_assert_eq!(before, model.foreign("shop"));
            check(&model, &application);
            prop_assert!(model.plan(&application, &[]).commands.is_empty());
        }
    }

    /// Commands take their time, hosts that are broken refuse, and what runs shows later.
    #[test]
    fn every_slow_lattice_settles_as_demanded(
        zones in prop::collection::vec(select(vec!["a", "b", "c"]), 1..5),
        versions in prop::collection::vec(any_application(), 1..4),
        delays in prop::collection::vec(0..4_usize, 1..40),
    ) {
        let mut model = Model::new(hosts(&zones));
        let (mut now, mut delays) = (Instant::now(), delays.into_iter().cycle());
        // The pass in which a command arrives; at one host they arrive in their order.
        let mut on_their_way: Vec<(usize, Command)> = Vec::new();
        for application in versions {
            let mut attempts = Attempts::default();
            for pass in 0.. {
                prop_assert!(pass < PASSES_MAX * 10, "no end of {:?}", attempts);
                attempts.look(&model.seen, now);
                let expected = attempts.expected(&model.seen).into_owned();
                let refused = attempts.refused(now);
                let input = Input {
                    expected: &expected,
                    refused: &refused,
                    ..model.input(&application, &[])
                };
                let plan = plan(input);
                let is_waiting = !refused.starts.is_empty() || !refused.updates.is_empty();
                if plan.commands.is_empty() && on_their_way.is_empty() && !is_waiting {
                    break;
                }
                for command in plan.commands {
                    if attempts.may_send(&command, now) {
                        attempts.sent(&command, now);
                        let before = on_their_way.iter().filter(|(_, one)| one.host() == command.host());
                        let before = before.map(|(at, _)| *at).max().unwrap_or(pass);
                        on_their_way.push((before.max(pass + delays.next().unwrap_or(0)), command));
                    }
                }
                now += Duration::from_millis(100);
                for (at, command) in std::mem::take(&mut on_their_way) {
                    if at > pass {
                        on_their_way.push((at, command));
                    } else {
                        model.arrive(&command, &mut attempts, now);
                    }
                }
            }
            check(&model, &application);
        }
    }
}
