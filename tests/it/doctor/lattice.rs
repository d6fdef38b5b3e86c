//! The hosts: who is there, and whether they agree.

use std::process::Command;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use super::{Desk, Diagnosis};
use crate::harness::{
    CLUSTER, CLUSTER_SEED, ECHO, Server,
    client::{self, answering, start, start_provider},
    eventually, example, host,
    nats::free_port,
    process::{Process, command, member, output},
};

/// A key of another cluster.
fn other_seed() -> String {
    nkeys::KeyPair::new_cluster().seed().expect("a new key has a seed")
}

#[tokio::test]
async fn a_lattice_without_hosts_is_told_with_how_to_start_one() {
    let server = Server::start().await;
    let diagnosis = Desk::at(&server).diagnosis().await;
    diagnosis.says("hosts", "wrong", &["no host of lattice default answers", "host up"]);
    diagnosis.is_content("jetstream");
    for check in ["issuers", "links", "providers", "services"] {
        assert_eq!(diagnosis.verdict(check), "skipped", "{check}");
    }
}

#[tokio::test]
async fn a_wrong_lattice_is_told_with_the_one_that_has_hosts() {
    let server = Server::start().await;
    let host = host(&server).set("lattice_prefix", "shop").start().await;
    let diagnosis = Desk::at(&server).diagnosis().await;
    diagnosis.says(
        "hosts",
        "wrong",
        &["no host of lattice default", "lattice shop", "--lattice shop"],
    );
    let diagnosis = Desk::at(&server).with("--lattice", "shop").diagnosis().await;
    diagnosis.is_content("hosts");
    host.stop().await;
}

#[tokio::test]
async fn a_second_cluster_key_is_told_with_who_refuses_whom() {
    let server = Server::start().await;
    let first = host(&server).start().await;
    // It accepts the others' calls; the others do not accept its.
    let second = host(&server)
        .set("cluster_seed", &other_seed())
        .set("cluster_issuers", CLUSTER)
        .start()
        .await;
    let diagnosis = Desk::at(&server).diagnosis().await;
    diagnosis.says(
        "issuers",
        "wrong",
        &[&first.id, "refuse calls of", &second.id, "cluster_issuers"],
    );
    let findings = diagnosis.check("issuers")["findings"].as_array().unwrap().len();
    assert_eq!(findings, 1, "the other direction works");
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn a_cluster_seed_of_these_settings_that_no_host_accepts_is_told() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let seed = other_seed();
    let desk = Desk::new();
    let settings = |seed: &str| json!({ "ctl_host": server.url(), "rpc_host": server.url(), "js_domain": "core", "cluster_seed": seed });
    desk.settings(&settings(&seed));
    let diagnosis = desk.diagnosis().await;
    diagnosis.says(
        "issuers",
        "wrong",
        &[&host.id, "signed with the cluster seed of the settings here"],
    );
    diagnosis.hides(&seed);
    desk.settings(&settings(""));
    desk.diagnosis().await.says("issuers", "note", &["no cluster seed"]);
    desk.settings(&settings(CLUSTER_SEED));
    desk.diagnosis().await.is_content("issuers");
    host.stop().await;
}

#[tokio::test]
async fn hosts_in_different_domains_are_told_with_their_domains() {
    let leaves = free_port();
    let config = |domain: &str, leaf: String| {
        format!("jetstream {{ domain: {domain}, store_dir: \"@DIR@/js\" }}\n{leaf}")
    };
    let core = Server::with_config(
        Some("core"),
        &config("core", format!("leafnodes {{ listen: \"127.0.0.1:{leaves}\" }}")),
    )
    .await;
    let remote = format!("leafnodes {{ remotes = [ {{ url: \"nats://127.0.0.1:{leaves}\" }} ] }}");
    let edge = Server::with_config(Some("edge"), &config("edge", remote)).await;
    let (first, second) = (host(&core).start().await, host(&edge).start().await);
    let diagnosis = Desk::at(&core)
        .diagnosed("domains", "wrong", &["core", "edge", &first.id, &second.id])
        .await;
    diagnosis.says("domains", "wrong", &["js_domain"]);
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn settings_that_lead_to_another_domain_than_the_hosts_are_a_warning() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    let desk = Desk::new();
    desk.settings(&json!({ "ctl_host": server.url(), "rpc_host": server.url(), "js_domain": "other", "cluster_seed": CLUSTER_SEED }));
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("domains", "warning", &["domain core", "other", "--js-domain core"]);
    host.stop().await;
}

#[tokio::test]
async fn a_host_of_an_earlier_year_is_told_and_does_no_harm() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    // Answers pings and inventories as a host of 2024 does, and nothing else.
    let id = nkeys::KeyPair::new_server().public_key();
    let ping = json!({
        "id": id, "issuer": CLUSTER, "cluster_issuers": CLUSTER, "labels": {}, "friendly_name": "old-timer-1234",
        "uptime_seconds": 9, "uptime_human": "9s", "version": "0.82.0", "js_domain": "core", "lattice_prefix": "default",
        "ctl_host": "127.0.0.1", "rpc_host": "127.0.0.1", "prov_rpc_host": "127.0.0.1",
    });
    let inventory = json!({ "host_id": id, "labels": {}, "friendly_name": "old-timer-1234", "actors": [], "providers": [] });
    let answers = json!({ "ping.hosts": ping, format!("get.{id}.inv"): inventory });
    let _old =
        answering(&server, &server.ctl(">"), move |tail, _| answers.get(tail).cloned()).await;
    let diagnosis = Desk::at(&server).diagnosis().await;
    diagnosis.says("versions", "note", &["old-timer-1234", "0.82.0"]);
    for check in ["hosts", "issuers", "domains", "clock", "links"] {
        diagnosis.is_content(check);
    }
    host.stop().await;
}

#[tokio::test]
async fn a_host_that_vanished_is_named_while_the_others_remember_it() {
    let server = Server::start().await;
    let stays = host(&server).start().await;
    let dir = TempDir::new().unwrap();
    let mut gone = Process::start(&mut member(dir.path(), &server));
    gone.line("ready");
    let id = eventually("the other hears it", || async {
        stays.other_hosts().first().map(|(id, _)| id.clone())
    })
    .await;
    gone.signal(Signal::KILL);
    let diagnosis =
        Desk::at(&server).diagnosed("hosts", "warning", &[&id, "vanished without a goodbye"]).await;
    diagnosis.says("hosts", "warning", &["machine runs"]);
    stays.stop().await;
}

#[tokio::test]
async fn hosts_whose_calls_go_to_different_servers_are_told_not_to_hear_each_other() {
    let (server, island) = (Server::start().await, Server::start().await);
    let first = host(&server).start().await;
    let second = host(&server).set("rpc_host", &island.url()).start().await;
    let diagnosis = Desk::at(&server)
        .diagnosed("hosts", "wrong", &[&first.id, "does not hear", &second.id])
        .await;
    diagnosis.says("hosts", "wrong", &["rpc_host"]);
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn labels_in_two_spellings_are_a_warning() {
    let server = Server::start().await;
    let first = host(&server).label("Zone", "a").start().await;
    let second = host(&server).label("zone", "b").start().await;
    Desk::at(&server).diagnosis().await.says("labels", "warning", &["Zone", "zone"]);
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn what_a_host_found_odd_about_its_settings_is_told_by_the_host() {
    let server = Server::start().await;
    let host = host(&server).set("oci_user", "me").start().await;
    Desk::at(&server).diagnosis().await.says(
        "host-settings",
        "warning",
        &[&host.id, "oci_registry"],
    );
    host.stop().await;
}

#[tokio::test]
async fn two_hosts_and_a_linked_application_are_healthy() {
    let server = Server::start().await;
    let (first, second) = (host(&server).start().await, host(&server).start().await);
    start(&server, &first, &example("echo"), 3).await;
    start(&server, &second, &example("echo"), 3).await;
    start_provider(&server, &first, "builtin://httpserver").await;
    let address = format!("127.0.0.1:{}", free_port());
    let spec = &lattice_engine::providers::builtin::httpserver::SPEC;
    client::link_builtin(&server, ECHO, spec, &[("address", &address)]).await;
    // Each has heard of the other by then.
    let diagnosis = Desk::at(&server).diagnosed("hosts", "ok", &["2 hosts answer"]).await;
    diagnosis.says("links", "ok", &["one link"]);
    diagnosis.is_healthy();
    diagnosis.says("login", "warning", &["every user of its machine", "run code on the hosts"]);
    second.stop().await;
    first.stop().await;
}

/// `host up` as a newcomer runs it, and the doctor beside it.
struct Newcomer(TempDir);

impl Newcomer {
    fn command(&self) -> Command {
        let mut command = command(self.0.path());
        // The same directory as the desk's.
        command.current_dir(self.0.path());
        command
    }

    async fn diagnosis(&self) -> Diagnosis {
        let mut command = self.command();
        command.args(["doctor", "-o", "json"]);
        let output = tokio::task::spawn_blocking(move || output(&mut command)).await.unwrap();
        let report = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error} in {output:?}"));
        Diagnosis { report, code: output.status.code() }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        let _ = self.command().args(["down", "--all"]).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_host_up_starts_is_healthy_and_what_it_leaves_behind_when_killed_is_found() {
    let newcomer = Newcomer(TempDir::new().unwrap());
    let port = free_port().to_string();
    let mut up = Process::start(newcomer.command().args(["up", "--nats-port", &port]));
    up.line("ready");
    let diagnosis = newcomer.diagnosis().await;
    diagnosis.is_healthy();
    diagnosis.says("login", "ok", &["only those with a login"]);
    diagnosis.says("processes", "ok", &["one host"]);

    up.signal(Signal::KILL);
    up.exit_code();
    let diagnosis = newcomer.diagnosis().await;
    diagnosis.says("processes", "warning", &["left behind", "host down"]);
    diagnosis.says("hosts", "wrong", &["no host of lattice default answers"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_for_people_names_the_check_and_what_to_do() {
    let server = Server::start().await;
    let desk = Desk::at(&server);
    let mut asked = command(desk.path());
    asked.arg("doctor");
    let output = tokio::task::spawn_blocking(move || output(&mut asked)).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .position(|line| line.starts_with("hosts ") && line.contains("wrong"))
        .expect("the check");
    assert!(
        text.lines().nth(line + 1).is_some_and(|fix| fix.contains("-> start one: `host up`")),
        "{text}"
    );
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("one check found something wrong"),
        "{output:?}"
    );
    assert_eq!(output.status.code(), Some(1));
}
