//! Random lattices: each comes to what is demanded, stays there, and loses nothing foreign.

use std::{collections::BTreeMap, time::Duration};

use proptest::{prelude::*, sample::select};
use tokio::time::Instant;

use super::{
    super::*,
    model::{Model, PASSES_MAX, actor, foreign_provider, hosts, labels, provider, rule, shop},
};
use crate::attempts::Attempts;
use lattice_protocol::applications::resolved::Mode;

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

/// Returns the pass in which the last command to the same host arrives; 0 if none is on its way.
fn last_arrival(on_their_way: &[(usize, Command)], next: &Command) -> usize {
    let same = on_their_way.iter().filter(|(_, command)| command.host() == next.host());
    same.map(|(at, _)| *at).max().unwrap_or(0)
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
                        attempts.sent(&command, &model.seen, now);
                        let at = pass + delays.next().unwrap_or(0);
                        on_their_way.push((at.max(last_arrival(&on_their_way, &command)), command));
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
