//! Emptying a host: what runs on it is started on others first, and it takes nothing new.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    commands::User,
    dashboard::Dashboard,
    harness::{ECHO, PINGER, Server, TestHost, eventually, example, host, process::stderr},
};

const KEYVALUE: &str = "builtin://keyvalue";

fn name(host: &TestHost) -> String {
    host.host().state().facts().friendly_name.clone()
}

/// Waits until each of the hosts hears all the others.
async fn acquainted(hosts: &[&TestHost]) {
    eventually("the hosts know each other", || async {
        hosts.iter().all(|host| host.other_hosts().len() + 1 == hosts.len()).then_some(())
    })
    .await;
}

/// All that a host runs: ids with the calls they take at a time.
async fn runs(user: &User, host: &TestHost) -> Vec<(String, u64)> {
    let told = user.json(&["get", "inventory", &host.id]).await;
    let inventory = &told["inventories"][0];
    let id = |of: &Value| of["id"].as_str().unwrap_or_default().to_owned();
    let actors = inventory["actors"].as_array().expect("actors").iter().map(|actor| {
        (id(actor), actor["instances"][0]["max_instances"].as_u64().unwrap_or_default())
    });
    let providers = inventory["providers"].as_array().expect("providers");
    actors.chain(providers.iter().map(|provider| (id(provider), 1))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_emptied_onto_others_and_takes_nothing_new_until_it_may_again() {
    let server = Server::start().await;
    let first = host(&server).start().await;
    let second = host(&server).label("zone", "b").start().await;
    let third = host(&server).start().await;
    acquainted(&[&first, &second, &third]).await;
    let user = User::of(&server);
    let echo = example("echo");
    user.prints(&["start", "actor", &echo, "--host-id", &first.id, "--max", "3"]).await;
    user.prints(&["start", "provider", KEYVALUE, "--host-id", &first.id]).await;

    let told = user.json(&["drain", &name(&first), "--constraint", "zone=b"]).await;
    assert_eq!((&told["success"], &told["left"]), (&json!(true), &json!(0)), "{told:#}");
    let fates = told["items"].as_array().expect("items");
    assert_eq!(fates.len(), 2, "{told:#}");
    assert!(
        fates.iter().all(|fate| fate["outcome"] == "moved" && fate["host_id"] == second.id),
        "{told:#}"
    );
    assert_eq!(runs(&user, &first).await, []);
    let there = runs(&user, &second).await;
    assert!(there.len() == 2 && there.contains(&(ECHO.to_owned(), 3)), "{there:?}");
    assert_eq!(runs(&user, &third).await, []);

    let hosts = user.json(&["get", "hosts"]).await;
    let states: Vec<&Value> = hosts["hosts"]
        .as_array()
        .expect("hosts")
        .iter()
        .filter(|host| host["id"] == first.id)
        .map(|host| &host["state"])
        .collect();
    assert_eq!(states, [&json!("drained")]);
    assert!(user.prints(&["get", "hosts"]).await.contains("drained"));
    let pinger = example("pinger");
    let refused = user.fails(1, &["start", "actor", &pinger, "--host-id", &first.id]).await;
    assert!(refused.contains("is drained") && refused.contains("--undo"), "{refused}");
    let started = user.json(&["start", "actor", &pinger]).await;
    assert_ne!(started["host_id"], first.id, "auctions pass it by");

    user.prints(&["drain", &name(&first), "--undo"]).await;
    user.prints(&["start", "actor", &pinger, "--host-id", &first.id]).await;
    assert_eq!(runs(&user, &first).await, [(PINGER.to_owned(), 1)]);
    for host in [first, second, third] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_go_nowhere_else_is_told_and_runs_on() {
    let server = Server::start().await;
    let only = host(&server).start().await;
    let user = User::of(&server);
    user.prints(&["start", "actor", &example("echo")]).await;
    let drained = user.run(&["drain", &only.id, "-o", "json"]).await;
    assert_eq!(drained.status.code(), Some(1), "{drained:?}");
    let told: Value = serde_json::from_slice(&drained.stdout).expect("JSON");
    assert_eq!((&told["success"], &told["items"][0]["outcome"]), (&json!(false), &json!("left")));
    assert_eq!(told["items"][0]["why"], "there is no other host");
    assert!(stderr(&drained).contains("--undo"), "{drained:?}");

    let other = host(&server).start().await;
    acquainted(&[&only, &other]).await;
    let drained = user.run(&["drain", &only.id, "--wait-ms", "0", "-o", "json"]).await;
    let told: Value = serde_json::from_slice(&drained.stdout).expect("JSON");
    let why = "the time for the drain was over before its turn came";
    assert_eq!(told["items"][0]["why"], why, "{told:#}");
    assert_eq!(runs(&user, &only).await, [(ECHO.to_owned(), 1)]);
    only.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_press_on_the_page_empties_a_host_and_another_lets_it_take_work_again() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let other = host(&server).start().await;
    acquainted(&[&dashboard.host, &other]).await;
    let user = User::of(&server);
    user.prints(&["start", "actor", &example("echo"), "--host-id", &other.id]).await;
    let path = format!("/hosts/{}", other.id);
    dashboard.until(&path, |told| (told["actors"] == json!(1)).then_some(())).await;

    dashboard.done(Method::POST, &format!("{path}/drain"), json!({})).await;
    assert_eq!(runs(&user, &other).await, []);
    assert_eq!(runs(&user, &dashboard.host).await.len(), 1);
    dashboard.until(&path, |told| told["labels"].get("lattice.host/drained").map(|_| ())).await;
    dashboard.done(Method::POST, &format!("{path}/undrain"), json!({})).await;
    dashboard
        .until(&path, |told| told["labels"].get("lattice.host/drained").is_none().then_some(()))
        .await;
    user.prints(&["start", "actor", &example("pinger"), "--host-id", &other.id]).await;
    other.stop().await;
    dashboard.host.stop().await;
}
