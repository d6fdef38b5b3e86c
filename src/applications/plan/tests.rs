//! The planner against a model of a lattice, and the faults of the old manager as cases (wadm,
//! section 7).

mod model;
mod random;

use tokio::time::Instant;

use super::*;
use crate::attempts::Attempts;
use lattice_protocol::{
    applications::resolved::{self, Mode},
    control::types::DRAINED_LABEL,
};
use model::{
    Model, PASSES_MAX, actor, foreign_provider, hosts, http_link, labels, provider, rule, shop,
};

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
fn a_drained_host_gives_what_it_runs_to_others_unless_there_is_none() {
    let mut model = Model::new(hosts(&["a", "a"]));
    let front = actor("front", "echo:1", vec![rule("all", None, 4)]);
    let application = shop(vec![front.clone()]);
    model.settle(&application, &[]);
    for (drained, expected) in [("N0", [0, 4]), ("N1", [0, 4])] {
        let labels = &mut model.seen.hosts.get_mut(drained).unwrap().labels;
        labels.insert(DRAINED_LABEL.to_owned(), "true".to_owned());
        model.settle(&application, &[]);
        let on = |host| model.count_on(host, &front, &front.rules[0], "shop");
        assert_eq!([on("N0"), on("N1")], expected, "{drained}");
    }
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
    let version = |values: &[(&str, &str)]| Application {
        links: vec![http_link(values)],
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
    let application = Application { links: vec![http_link(&[])], ..shop(Vec::new()) };
    assert!(model.plan(&application, &[]).commands.is_empty());
    model.seen.keys.insert("echo:1".into(), "echo".into());
    model.seen.keys.insert("http:1".into(), "http".into());
    assert!(matches!(model.plan(&application, &[]).commands[..], [Command::PutLink(_)]));
}

/// The front behind the HTTP server, from these images.
fn linked(name: &str, actor_image: &str, provider_image: &str) -> Application {
    let link = resolved::Link {
        actor_image: actor_image.into(),
        provider_image: provider_image.into(),
        ..http_link(&[])
    };
    Application {
        name: name.into(),
        links: vec![link],
        ..shop(vec![
            actor("front", actor_image, vec![rule("all", None, 1)]),
            provider("web", provider_image, vec![rule("all", None, 1)]),
        ])
    }
}

#[test]
fn a_link_stays_while_nobody_knows_whose_the_new_image_is() {
    for (actor_image, provider_image) in
        [("echo:2", "http:1"), ("mistyped:2", "http:1"), ("echo:1", "http:2"), ("echo:1", "web:2")]
    {
        let mut model = Model::new(hosts(&["a"]));
        model.settle(&linked("shop", "echo:1", "http:1"), &[]);
        let before = model.seen.links.clone();
        assert_eq!(before.len(), 1);
        model.broken.insert("N0".into());
        let next = linked("shop", actor_image, provider_image);
        for command in model.plan(&next, &[]).commands {
            assert!(!matches!(command, Command::DeleteLink { .. }), "{actor_image}: {command}");
        }
        model.settle(&next, &[]);
        assert_eq!(model.seen.links, before, "{actor_image} {provider_image}");
        // It goes with the application, and for one that asks for something else.
        let mut other = next.clone();
        other.links[0].contract = Some("wasmcloud:keyvalue".into());
        for after in [other, shop(Vec::new())] {
            let commands = model.plan(&after, &[]).commands;
            assert!(matches!(commands[0], Command::DeleteLink { .. }), "{commands:?}");
        }
    }
}

#[test]
fn a_shared_link_stays_for_the_actors_of_another_application_only() {
    for is_shared in [true, false] {
        let mut model = Model::new(hosts(&["a"]));
        if is_shared {
            model.settle(&linked("other", "echo:1", "http:1"), &[]);
            model.own_links.clear();
            model.seen.links.clear();
        }
        model.settle(&linked("shop", "echo:1", "http:1"), &[]);
        let changing = linked("other", "echo:2", "http:1");
        model.settle(&shop(Vec::new()), &[&changing]);
        assert_eq!(!model.seen.links.is_empty(), is_shared);
    }
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
            attempts.sent(command, &lattice.seen, now);
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
        links: vec![http_link(&[("port", port)])],
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
    let application = Application { links: vec![http_link(&[])], ..shop(Vec::new()) };
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
