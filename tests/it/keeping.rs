//! The lattice keeps what it was asked to run: applications that are deployed, spread, lose hosts,
//! change and go.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use lattice_protocol::applications::request::Request;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use wascap::prelude::KeyPair;

use crate::{
    dashboard::{Dashboard, with_dashboard},
    harness::{
        ECHO, PATIENCE, Server, TestHost,
        applications::Api,
        client::{Caller, Events},
        eventually, example,
        guests::{Guest, Signing, sign_as, wapc},
        host,
        nats::free_port,
        process::{Process, member},
    },
    leaf_cut::Site,
};

const HTTP: &str = "builtin://httpserver";

fn manifest(name: &str, version: &str, components: Value) -> Value {
    json!({
        "apiVersion": "core.oam.dev/v1beta1",
        "kind": "Application",
        "metadata": {"name": name, "annotations": {"version": version}},
        "spec": {"components": components},
    })
}

fn actor(image: &str, scaling: Value) -> Value {
    json!({
        "name": "front", "type": "actor", "properties": {"image": image},
        "traits": [{"type": "spreadscaler", "properties": scaling}],
    })
}

/// Half of the instances, on hosts with a label.
fn rule(label: &str, value: &str) -> Value {
    json!({"name": value, "requirements": {label: value}, "weight": 50})
}

/// The echo actor behind an HTTP server on a port.
fn page(version: &str, port: u16) -> Value {
    let address = format!("127.0.0.1:{port}");
    manifest(
        "page",
        version,
        json!([
            {
                "name": "front", "type": "actor", "properties": {"image": example("echo")},
                "traits": [
                    {"type": "spreadscaler", "properties": {"instances": 2}},
                    {"type": "linkdef", "properties": {"target": "web", "values": {"address": address}}},
                ],
            },
            {
                "name": "web", "type": "capability",
                "properties": {"image": HTTP, "contract": "wasmcloud:httpserver"},
            },
        ]),
    )
}

async fn answers(port: u16) {
    let url = format!("http://127.0.0.1:{port}/");
    eventually("the page answers", || async {
        let response = reqwest::get(&url).await.ok()?;
        response.status().is_success().then_some(())
    })
    .await;
}

async fn stop_all(hosts: impl IntoIterator<Item = TestHost>) {
    for host in hosts {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_runs_with_its_links_and_goes_without_a_trace() {
    let server = Server::shared().await;
    let only = host(&server).start().await;
    let api = Api::new(&server).await;
    // Somebody's own instance of the same actor stays out of it.
    crate::harness::client::start(&server, &only, &example("echo"), 3).await;
    let port = free_port();
    api.deploy(&page("v1", port)).await;
    api.stands("page", "deployed").await;
    answers(port).await;
    api.spread("page", 2, 1).await;
    api.providers("page", 1).await;

    api.undeploy("page").await;
    api.stands("page", "undeployed").await;
    api.spread("page", 0, 0).await;
    api.providers("page", 0).await;
    eventually("the link is gone", || async {
        api.lattice.links_of(ECHO).await.unwrap().is_empty().then_some(())
    })
    .await;
    let left = api.inventories().await;
    assert_eq!(left[0].actors[0].instances[0].max_instances, 3);
    only.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_changes_what_differs_and_the_old_one_comes_back() {
    let server = Server::shared().await;
    let only = host(&server).start().await;
    let api = Api::new(&server).await;
    let (first, second) = (free_port(), free_port());
    api.deploy(&page("v1", first)).await;
    answers(first).await;
    api.deploy(&page("v2", second)).await;
    answers(second).await;
    let back = api.ask(Request::Deploy("page"), &json!({"version": "v1"})).await;
    assert_eq!(back["result"], "acknowledged");
    answers(first).await;
    let status = api.stands("page", "deployed").await;
    assert_eq!(status["status"]["version"], "v1");
    only.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_spread_by_labels_and_what_no_host_fits_is_said() {
    let server = Server::shared().await;
    let mut hosts = Vec::new();
    for zone in ["east", "east", "west"] {
        hosts.push(host(&server).label("zone", zone).start().await);
    }
    let api = Api::new(&server).await;
    let spread = |zones: [&str; 2]| {
        let rules = zones.map(|zone| rule("zone", zone));
        actor(&example("echo"), json!({"instances": 8, "spread": rules}))
    };
    api.deploy(&manifest("shop", "v1", json!([spread(["east", "west"])]))).await;
    api.stands("shop", "deployed").await;
    let counts = api.spread("shop", 8, 3).await;
    let expected =
        [(&hosts[0].id, 2), (&hosts[1].id, 2), (&hosts[2].id, 4)].map(|(id, n)| (id.clone(), n));
    assert_eq!(counts, BTreeMap::from(expected));

    api.deploy(&manifest("shop", "v2", json!([spread(["east", "moon"])]))).await;
    let status = api.stands("shop", "failed").await;
    let message = status["status"]["status"]["message"].as_str().unwrap();
    assert!(message.contains("moon") && message.contains("0/1 eligible hosts"), "{message}");
    api.spread("shop", 4, 2).await;

    // A host that fits comes, and nobody has to say anything.
    hosts.push(host(&server).label("zone", "moon").start().await);
    api.stands("shop", "deployed").await;
    api.spread("shop", 8, 3).await;
    stop_all(hosts).await;
}

/// Hosts that are processes of their own, so that they can be killed.
struct Member {
    process: Process,
    _dir: TempDir,
}

impl Member {
    fn start(server: &Server, labels: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let mut command = member(dir.path(), server);
        for label in labels {
            command.args(["--label", label]);
        }
        let mut process = Process::start(&mut command);
        process.line("ready");
        Self { process, _dir: dir }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_share_of_a_host_that_is_killed_runs_elsewhere() {
    let server = Server::shared().await;
    let mut members: Vec<Member> = (0..3).map(|_| Member::start(&server, &[])).collect();
    let api = Api::new(&server).await;
    let scaling = json!({"instances": 6});
    api.deploy(&manifest("shop", "v1", json!([actor(&example("echo"), scaling)]))).await;
    api.spread("shop", 6, 3).await;
    // Whichever acts for it is among those that are killed, one after the other.
    for left in [2, 1] {
        let mut victim = members.remove(0);
        victim.process.signal(Signal::KILL);
        victim.process.exit_code();
        api.spread("shop", 6, left).await;
    }
    api.stands("shop", "deployed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_goes_on_while_an_image_that_nobody_has_does_not_start() {
    let server = Server::shared().await;
    let only = host(&server).start().await;
    let api = Api::new(&server).await;
    let port = free_port();
    let mut page = page("v1", port);
    api.deploy(&page).await;
    answers(port).await;
    api.stands("page", "deployed").await;
    page["metadata"]["annotations"]["version"] = "v2".into();
    page["spec"]["components"][0]["properties"]["image"] = "file:///nowhere.wasm".into();
    let mut links = api.nats.subscribe(server.ctl("linkdefs.>")).await.unwrap();
    api.deploy(&page).await;
    api.stands("page", "failed").await;
    answers(port).await;
    assert!(futures::FutureExt::now_or_never(links.next()).is_none());
    api.undeploy("page").await;
    eventually("the link is gone", || async {
        api.lattice.links_of(ECHO).await.unwrap().is_empty().then_some(())
    })
    .await;
    only.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_of_a_host_that_keeps_none_shows_what_others_keep() {
    let server = Server::shared().await;
    let keeping = host(&server).start().await;
    let api = Api::new(&server).await;
    let scaling = json!({"instances": 3});
    api.deploy(&manifest("shop", "v1", json!([actor(&example("echo"), scaling)]))).await;
    api.stands("shop", "deployed").await;
    let never = with_dashboard(host(&server).set("applications", "never"));
    let dashboard = Dashboard::of(never.start().await);
    dashboard
        .until("/applications", |all| {
            let shop = &all["items"][0];
            let is_told = shop["wanted"] == 3 && shop["running"] == 3;
            (is_told && shop["owner_id"] == *keeping.id).then_some(())
        })
        .await;
    dashboard.host.stop().await;
    keeping.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_that_stands_costs_no_command() {
    let server = Server::shared().await;
    let (first, second) = (host(&server).start().await, host(&server).start().await);
    let api = Api::new(&server).await;
    api.deploy(&page("v1", free_port())).await;
    api.stands("page", "deployed").await;
    let mut commands = api.nats.subscribe(server.ctl("cmd.>")).await.unwrap();
    let mut links = api.nats.subscribe(server.ctl("linkdefs.>")).await.unwrap();
    crate::harness::client::settled(&api.nats).await;
    // Something happens that makes the hosts look: another actor comes and goes.
    for _ in 0..3 {
        crate::harness::client::start(&server, &first, &example("pinger"), 1).await;
        let mut own = 0;
        while own < 1 {
            let command = commands.next().await.unwrap();
            assert!(command.subject.as_str().ends_with(".scale"), "{}", command.subject);
            let text = String::from_utf8_lossy(&command.payload).into_owned();
            assert!(text.contains("pinger"), "{text}");
            own += 1;
        }
    }
    assert!(futures::FutureExt::now_or_never(links.next()).is_none());
    stop_all([first, second]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_cannot_be_fetched_is_told_in_the_words_of_its_host() {
    let server = Server::shared().await;
    let only = host(&server).start().await;
    let api = Api::new(&server).await;
    let scaling = json!({"instances": 1});
    api.deploy(&manifest("shop", "v1", json!([actor("file:///nowhere.wasm", scaling)]))).await;
    let status = api.stands("shop", "failed").await;
    let message = status["status"]["status"]["message"].as_str().unwrap();
    assert!(message.contains("/nowhere.wasm") && message.contains("does not start"), "{message}");
    only.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_somebody_without_the_cluster_key_starts_nothing() {
    let server = Server::start().await;
    let only = host(&server).start().await;
    let api = Api::new(&server).await;
    api.deploy(&page("v1", free_port())).await;
    api.spread("page", 2, 1).await;
    // The bucket can be written by whoever may write to it.
    let context = async_nats::jetstream::new(api.nats.clone());
    let name = format!("DESIREDDATA_{}", server.lattice());
    let desired = context.get_key_value(&name).await.unwrap();
    let genuine = desired.get("APP_page").await.unwrap().unwrap();
    let mut forged: Value = serde_json::from_slice(&genuine).unwrap();
    let changed = forged["value"].as_str().unwrap().replace("\"instances\":2", "\"instances\":9");
    assert_ne!(forged["value"], changed);
    forged["value"] = changed.into();
    desired.put("APP_page", serde_json::to_vec(&forged).unwrap().into()).await.unwrap();
    // The same under another name, as it was signed.
    desired.put("APP_other", genuine).await.unwrap();
    // A later entry is heard after it.
    let scaling = json!({"instances": 4});
    api.deploy(&manifest("third", "v1", json!([actor(&example("pinger"), scaling)]))).await;
    api.spread("third", 4, 1).await;
    api.spread("page", 2, 1).await;
    assert!(api.instances("other", None).await.is_empty());
    // Somebody with the right deploys, and that counts again.
    let mut next = page("v2", free_port());
    next["spec"]["components"][0]["traits"][0]["properties"]["instances"] = 5.into();
    api.deploy(&next).await;
    api.spread("page", 5, 1).await;
    only.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sides_that_are_cut_off_start_and_stop_nothing_and_agree_afterwards() {
    let mut site = Site::start().await;
    let at_core = host(&site.core).label("side", "core").start().await;
    let at_extender = host(&site.extender).label("side", "extender").start().await;
    let (core, extender) = (Api::new(&site.core).await, Api::new(&site.extender).await);
    let rules = [rule("side", "core"), rule("side", "extender")];
    let spread = json!({"instances": 4, "spread": rules});
    core.deploy(&manifest("both", "v1", json!([actor(&example("echo"), spread)]))).await;
    core.stands("both", "deployed").await;
    let counts = core.spread("both", 4, 2).await;
    let mut heard = [Events::all(&site.core).await, Events::all(&site.extender).await];

    site.cut().await;
    // The core's side plans anew once it misses the other's host.
    eventually("the core misses a host", || async {
        let status = core.ask(Request::Status("both"), &Value::Null).await;
        (status["status"]["status"]["type"] != "deployed").then_some(())
    })
    .await;
    assert_eq!(core.instances("both", None).await.values().sum::<u32>(), 2);
    assert_eq!(extender.instances("both", None).await.values().sum::<u32>(), 2);

    site.hub.resume().await;
    for api in [&core, &extender] {
        assert_eq!(api.spread("both", 4, 2).await, counts);
        api.stands("both", "deployed").await;
    }
    stop_all([at_core, at_extender]).await;
    for events in &mut heard {
        // An instance that was stopped meanwhile would have been started again by now.
        let names = events.names_until("host_stopped").await;
        let mut of_actors = names.iter().filter(|name| name.starts_with("actor"));
        assert!(of_actors.all(|name| !name.contains("start")), "{names:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deployed_runs_again_after_all_hosts_were_away() {
    let server = Server::shared().await;
    let api = Api::new(&server).await;
    let first = host(&server).start().await;
    let port = free_port();
    api.deploy(&page("v1", port)).await;
    answers(port).await;
    first.stop().await;
    let second = host(&server).start().await;
    answers(port).await;
    api.stands("page", "deployed").await;
    second.stop().await;
}

/// Answers what it is called.
const GOOD: &str = "(call $response (i32.const 0) (i32.const 5)) (i32.const 1)";
/// Traps on one call of five, by the length of what it is sent.
const BAD: &str = "(if (i32.eqz (i32.rem_u (local.get $len) (i32.const 5))) (then unreachable)) \
    (call $response (i32.const 0) (i32.const 5)) (i32.const 1)";

/// A revision of an actor, in a file.
fn revision_of(key: &KeyPair, revision: i32, body: &str) -> Guest {
    let signing = Signing { revision: Some(revision), ..Signing::default() };
    let key = KeyPair::from_seed(&key.seed().unwrap()).unwrap();
    sign_as(&wapc(body), &signing, key)
}

/// A version of an application whose actor takes over in steps.
fn in_steps(version: &str, image: &str) -> Value {
    let component = json!({
        "name": "front", "type": "actor", "properties": {"image": image},
        "traits": [
            {"type": "spreadscaler", "properties": {"instances": 2}},
            {"type": "rollout", "properties": {
                "steps": [{"percent": 20}, {"percent": 60}], "calls": 20, "max_p99_percent": 100_000,
            }},
        ],
    });
    manifest("shop", version, json!([component]))
}

/// Calls an actor until an application stands as it should; returns how many calls failed.
async fn call_until(
    api: &Api,
    caller: &Caller,
    actor: &str,
    (version, wanted): (&str, &str),
) -> usize {
    let (mut failed, began) = (0, std::time::Instant::now());
    loop {
        for length in 1..=10 {
            failed += usize::from(caller.call(actor, "Op", vec![0; length]).await.is_err());
        }
        let status = api.ask(Request::Status("shop"), &Value::Null).await;
        let is_it =
            status["status"]["version"] == version && status["status"]["status"]["type"] == wanted;
        if is_it {
            return failed;
        }
        assert!(began.elapsed() < PATIENCE * 2, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_fails_is_taken_back_by_itself_and_a_good_one_takes_over() {
    let server = Server::shared().await;
    let hosts = [host(&server).start().await, host(&server).start().await];
    let (api, caller) = (Api::new(&server).await, Caller::new(&server).await);
    let key = KeyPair::new_module();
    let actor = key.public_key();
    let first = revision_of(&key, 1, GOOD);
    let second = revision_of(&key, 2, BAD);
    let third = revision_of(&key, 3, GOOD);
    api.deploy(&in_steps("v1", &first.reference)).await;
    api.stands("shop", "deployed").await;
    api.spread("shop", 2, 2).await;

    api.deploy(&in_steps("v2", &second.reference)).await;
    let spoiled = call_until(&api, &caller, &actor, ("v2", "failed")).await;
    let told = api.ask(Request::Rollout("shop"), &Value::Null).await;
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("v2 was taken back, v1 runs"), "{told}");
    // It was sure after two failures; what was on its way meanwhile comes to that.
    assert!((1..=60).contains(&spoiled), "{spoiled} calls were spoiled");
    eventually("the old version has all calls", || async {
        let all = api.inventories().await;
        all.iter()
            .flat_map(|one| &one.actors)
            .all(|one| one.image_ref == first.reference && one.trial.is_none())
            .then_some(())
    })
    .await;
    for length in [5, 10, 15] {
        assert!(caller.call(&actor, "Op", vec![0; length]).await.is_ok());
    }

    api.deploy(&in_steps("v3", &third.reference)).await;
    assert_eq!(call_until(&api, &caller, &actor, ("v3", "deployed")).await, 0);
    eventually("the new version runs everywhere", || async {
        let all = api.inventories().await;
        let actors = all.iter().flat_map(|one| &one.actors);
        actors
            .clone()
            .all(|one| one.image_ref == third.reference && one.trial.is_none())
            .then_some(())
    })
    .await;
    stop_all(hosts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_can_be_stopped_where_it_is_gone_on_with_and_ended() {
    let server = Server::shared().await;
    let only = host(&server).start().await;
    let (api, caller) = (Api::new(&server).await, Caller::new(&server).await);
    let key = KeyPair::new_module();
    let first = revision_of(&key, 1, GOOD);
    let second = revision_of(&key, 2, GOOD);
    api.deploy(&in_steps("v1", &first.reference)).await;
    api.stands("shop", "deployed").await;
    let none = api.ask(Request::Rollout("shop"), &Value::Null).await;
    assert_eq!(none["result"], "notfound");

    api.deploy(&in_steps("v2", &second.reference)).await;
    let share = |wanted: Option<u8>| {
        let api = &api;
        async move {
            eventually(&format!("a share of {wanted:?}"), || async {
                let all = api.inventories().await;
                let trial = all[0].actors.first()?.trial.as_ref().map(|trial| trial.share);
                (trial == wanted).then_some(())
            })
            .await;
        }
    };
    share(Some(20)).await;
    let act = |action: &'static str| {
        let api = &api;
        async move { api.ask(Request::Rollout("shop"), &json!({"action": action})).await }
    };
    assert_eq!(act("pause").await["rollout"]["state"], "paused");
    for _ in 0..200 {
        caller.call(&key.public_key(), "Op", vec![0; 3]).await.unwrap();
    }
    eventually("the calls are told", || async {
        let told = act("status").await;
        (told["rollout"]["newer"]["calls"].as_u64()? >= 20).then_some(())
    })
    .await;
    share(Some(20)).await;
    assert_eq!(act("resume").await["rollout"]["state"], "running");
    share(Some(60)).await;
    let ended = act("abort").await;
    assert!(ended["rollout"]["state"]["takenback"].is_object(), "{ended}");
    share(None).await;
    let resumed = act("resume").await;
    assert_eq!(resumed["result"], "error", "{resumed}");
    only.stop().await;
}
