//! A lattice of so many hosts that they no longer all speak every second, at two servers.

use std::collections::HashSet;

use futures::{StreamExt, stream};
use lattice_engine::providers::builtin::httpserver;
use lattice_protocol::peers::wire::Announcement;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    harness::{
        ECHO, PATIENCE, Server, TestHost,
        client::{link, nats, settled, start, start_provider},
        eventually, example, host,
        nats::free_port,
        process::{Process, member},
    },
    providers::unnoticed,
};

/// Hosts in this process.
const HOSTS: usize = 36;
/// Hosts that start at a time.
const STARTING: usize = 6;

/// Two servers joined by a leaf node, and the hosts at both.
struct Site {
    hub: Server,
    leaf: Server,
    hosts: Vec<TestHost>,
}

impl Site {
    async fn start() -> Self {
        let port = free_port();
        let leafs = format!(
            "jetstream {{ domain: core, store_dir: \"@DIR@/js\" }}\n\
             leafnodes {{ listen: \"127.0.0.1:{port}\" }}"
        );
        let hub = Server::with_config(Some("core"), &leafs).await;
        let remote =
            format!("leafnodes {{ remotes = [ {{ url: \"nats://127.0.0.1:{port}\" }} ] }}");
        let leaf = Server::with_config(None, &remote).await;
        let metadata = async_nats::jetstream::with_domain(nats(&leaf).await, "core");
        eventually("the leaf node reaches the hub", || async {
            metadata.query_account().await.ok()
        })
        .await;
        let hosts = stream::iter(0..HOSTS).map(|number| {
            let server = if number % 2 == 0 { &hub } else { &leaf };
            host(server)
                .set("js_domain", "core")
                .set("actor_instances_max", "4")
                .set("applications", "never")
                .start()
        });
        let hosts: Vec<_> = hosts.buffered(STARTING).collect().await;
        let site = Self { hub, leaf, hosts };
        site.until("all know each other", |others| {
            others.len() == HOSTS - 1 && others.iter().all(|(_, is_lost)| !is_lost)
        })
        .await;
        site
    }

    async fn until(&self, what: &str, holds: impl Fn(&[(String, bool)]) -> bool) {
        eventually(what, || async {
            self.hosts.iter().all(|host| holds(&host.other_hosts())).then_some(())
        })
        .await;
    }
}

fn is_lost(others: &[(String, bool)], id: &str) -> Option<bool> {
    others.iter().find(|(host, _)| host == id).map(|(_, is_lost)| *is_lost)
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_large_lattice_words_are_few_and_a_killed_host_is_missed_by_all_and_no_other_one() {
    let site = Site::start().await;
    // Each says how seldom it will speak.
    let nats = nats(&site.hub).await;
    let mut words = nats.subscribe(site.hub.rpc("hosts")).await.unwrap();
    settled(&nats).await;
    let mut told = HashSet::new();
    while told.len() < HOSTS {
        let word = tokio::time::timeout(PATIENCE, words.next()).await;
        let word: Announcement =
            serde_json::from_slice(&word.expect("they speak").unwrap().payload).unwrap();
        assert!(!word.at.is_empty());
        if word.interval_ms > 5000 {
            told.insert(word.host);
        }
    }

    let known: Vec<String> = site.hosts.iter().map(|host| host.id.clone()).collect();
    let mut killed = Vec::new();
    for server in [&site.hub, &site.leaf] {
        let dir = TempDir::new().unwrap();
        let mut process = Process::start(&mut member(dir.path(), server));
        process.line("ready");
        let is_new = |id: &String| !known.contains(id) && !killed.contains(id);
        let id = eventually("the others hear of it", || async {
            let others = site.hosts[0].other_hosts();
            others.into_iter().map(|(id, _)| id).find(is_new)
        })
        .await;
        site.until("all hear of it", |others| is_lost(others, &id) == Some(false)).await;
        process.signal(Signal::KILL);
        process.exit_code();
        site.until("all miss it", |others| is_lost(others, &id) == Some(true)).await;
        let others_lost = |host: &TestHost| {
            host.other_hosts()
                .into_iter()
                .filter(|(other, lost)| *lost && known.contains(other))
                .count()
        };
        assert_eq!(site.hosts.iter().map(others_lost).sum::<usize>(), 0);
        killed.push(id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_stop_in_a_large_lattice_costs_no_call() {
    let mut site = Site::start().await;
    for host in &site.hosts[..2] {
        start(&site.hub, host, &example("echo"), 10).await;
    }
    let front = &site.hosts[3];
    start_provider(&site.hub, front, "builtin://httpserver").await;
    let address = format!("127.0.0.1:{}", free_port());
    let provider = httpserver::SPEC.known.public_key;
    link(&site.hub, ECHO, provider, "wasmcloud:httpserver", &[("address", &address)]).await;
    let url = format!("http://{address}/");
    eventually("the page is served", || async {
        let is_served = reqwest::get(&url).await.ok()?.status().is_success();
        (is_served && front.host().peers().runners(ECHO).len() == 2).then_some(())
    })
    .await;
    let stopping = site.hosts.remove(0);
    let id = stopping.id.clone();
    unnoticed(&url, stopping.stop()).await;
    site.until("all know that it has left", |others| is_lost(others, &id).is_none()).await;
}
