//! Two machines, one application: the walk of the README with real hosts, servers and requests, as
//! the example `two-machines` makes it.

use std::{path::Path, time::Duration};

use tempfile::TempDir;

use crate::{
    harness::nats::{self, free_port},
    walk::{
        app::App,
        disturbance::{Disturbance, Pace, Row},
        ground::Ground,
        lattice::{Lattice, Plan, Programs},
        netns::{Network, Weather},
        process::Process,
        story,
    },
};

/// Few enough for an unoptimised host on a loaded machine.
const PACE: Pace = Pace { rate: 50, time: Duration::from_secs(3), frozen: Duration::from_secs(6) };
const WALK: story::Pace = story::Pace { rate: 20, requests: 20 };
const EVERY_CALL_OVER_NATS: &str = "--no-local-calls";

fn plan(dir: &TempDir, app: App, flags: &[&str]) -> Plan {
    let programs = Programs {
        host: env!("CARGO_BIN_EXE_host").into(),
        nats_server: nats::binary().to_path_buf(),
    };
    let flags = flags.iter().map(ToString::to_string).collect();
    let cache = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("machines"));
    Plan { dir: dir.path().to_path_buf(), programs, app, flags, cache, third: false }
}

fn ground() -> Ground {
    Ground::OneComputer { free_port: |_| free_port() }
}

/// Measures how clients of the page notice a disturbance, when each request is answered by one of
/// two other machines.
async fn noticed(disturbance: Disturbance) -> Vec<Row> {
    noticed_by(App::echo(), disturbance).await
}

/// The same for another actor.
async fn noticed_by(app: App, disturbance: Disturbance) -> Vec<Row> {
    let dir = TempDir::new().unwrap();
    let plan = Plan { third: true, ..plan(&dir, app, &[EVERY_CALL_OVER_NATS]) };
    let mut lattice = Lattice::ready(plan, ground()).await.expect("three machines");
    let rows = disturbance.measure(&mut lattice, PACE).await.expect("a measurement");
    lattice.stop().await.expect("an end in order");
    rows
}

fn assert_unnoticed(rows: &[Row]) {
    for Row { disturbance, page, report } in rows {
        assert!(report.requests > 100, "{disturbance:?}: {report}");
        assert_eq!(
            report.failures, 0,
            "{disturbance:?}, page of the {page}: {report} {:#?}",
            report.reasons
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_walk_with_two_machines_loses_no_request() {
    let dir = TempDir::new().unwrap();
    let ground = ground();
    let app = App::dogs_and_cats(ground.web()).await.unwrap();
    let mut lines = Vec::new();
    let (lattice, shown) = story::walk(plan(&dir, app, &[]), ground, WALK, |line| lines.push(line))
        .await
        .expect("the walk");

    let hosts = [&lattice.first.host_id, &lattice.second.host_id];
    for (inventory, host) in shown.inventories.iter().zip(hosts) {
        assert_eq!(inventory.host_id, *host);
        assert!(
            inventory.actors.iter().any(|actor| actor.name.as_deref() == Some("dogs-and-cats")),
            "{inventory:?}"
        );
        assert_eq!(inventory.providers.len(), 2, "{inventory:?}");
    }
    assert_eq!(shown.inventories[1].labels["machine"], "second");
    let [known, arrived] = shown.metadata;
    assert_eq!(known, arrived, "links and claims are there when the second host is ready");
    assert!(known.0 == 2 && known.1 == 3, "{known:?}");
    for report in [&shown.first_page, &shown.second_page] {
        assert_eq!(report.failures, 0, "{report} {:#?}\n{lines:#?}", report.reasons);
    }
    lattice.stop().await.expect("an end in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_is_removed_from_one_of_two_machines_is_missed_by_no_request() {
    assert_unnoticed(&noticed(Disturbance::ActorRemoved).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_told_to_stop_is_missed_by_no_request() {
    assert_unnoticed(&noticed(Disturbance::HostTerminated).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_killed_is_missed_by_no_request() {
    assert_unnoticed(&noticed(Disturbance::HostKilled).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_frozen_is_missed_by_no_request() {
    assert_unnoticed(&noticed(Disturbance::HostFrozen).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_in_between_may_be_started_again_and_no_request_fails() {
    for disturbance in [Disturbance::LeafRestarted, Disturbance::HubRestarted] {
        assert_unnoticed(&noticed(disturbance).await);
    }
}

/// A host that was away takes calls again at once, also when its connection was given up meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_frozen_takes_over_from_one_that_is_killed() {
    let dir = TempDir::new().unwrap();
    let plan = Plan { third: true, ..plan(&dir, App::echo(), &[EVERY_CALL_OVER_NATS]) };
    let mut lattice = Lattice::ready(plan, ground()).await.expect("three machines");
    for disturbance in [Disturbance::HostFrozen, Disturbance::HostKilled] {
        let rows = disturbance.measure(&mut lattice, PACE).await.expect("a measurement");
        assert_unnoticed(&rows);
    }
    lattice.stop().await.expect("an end in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_is_missed_by_no_request_whatever_happens() {
    let dir = TempDir::new().unwrap();
    for disturbance in Disturbance::ALL {
        let app = App::hello(dir.path()).unwrap();
        assert_unnoticed(&noticed_by(app, disturbance).await);
    }
}

/// Nothing is skipped here: without the right to make networks, what is missing has to be said.
#[tokio::test(flavor = "multi_thread")]
async fn machines_in_namespaces_reach_each_other_or_it_is_said_which_right_is_missing() {
    let network = match Network::build(2, Weather { delay_ms: 0, loss_percent: 0.0 }) {
        Ok(network) => network,
        Err(error) => {
            let error = format!("{error:#}");
            println!("machines share this one's network: {error}");
            assert!(
                ["root", "iproute2", "not permitted"].iter().any(|reason| error.contains(reason)),
                "{error}"
            );
            return;
        }
    };
    let interfaces = || std::fs::read_to_string("/proc/net/dev").expect("the interfaces");
    let own = format!("lw{}", std::process::id());
    assert!(interfaces().contains(&own));
    let dir = TempDir::new().unwrap();
    let ground = Ground::Namespaces(network);
    let place = ground.machine(0);
    let mut command = place.command(nats::binary());
    command.args(["--port", "4222"]).current_dir(dir.path());
    let mut server = Process::start("a server", command, &dir.path().join("log")).unwrap();
    server.said("Server is ready").await.unwrap();
    async_nats::connect(&place.nats).await.expect("this program reaches a machine");
    let Ground::Namespaces(network) = &ground else { unreachable!() };
    let mut ask = ground.machine(1).command(Path::new("bash"));
    let address = &network.machine(0).wide_address;
    ask.args(["-c", &format!("exec 3<>/dev/tcp/{address}/4222 && head -c 4 <&3")]);
    let answer = ask.output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "INFO", "one machine reaches the other");
    drop((server, ground));
    assert!(!interfaces().contains(&own), "nothing is left behind");
}
