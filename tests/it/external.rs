//! Providers that are processes, under a whole host: packed, started, linked, killed, moved away
//! from.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use lattice_base::providers::archive::{Draft, this_target};
use lattice_engine::providers::builtin::{httpserver, keyvalue};
use lattice_protocol::identity::{
    claims::now,
    keys::Kind,
    sign::{ProviderToken, Term},
    signature::SigningKey,
};
use tempfile::TempDir;

use crate::{
    harness::{
        Events, KVCOUNTER, Server, TestHost,
        client::{self, ctl_2024, link, start, start_provider, stop_provider},
        eventually, example,
        external::{Redis, pack, public_key},
        host,
        nats::free_port,
        text,
    },
    providers::{count, counts, unnoticed},
};

const HTTP: &str = "wasmcloud:httpserver";
const KV: &str = "wasmcloud:keyvalue";

/// An example provider in an archive, as a reference.
fn archive(dir: &TempDir, name: &str) -> String {
    let path = dir.path().join(format!("{name}.par"));
    pack(name, &path);
    format!("file://{}", path.display())
}

/// The page of the counter, served by the built-in HTTP server; its key-value store is linked by
/// the test.
async fn page(server: &Server, host: &TestHost) -> String {
    start_provider(server, host, "builtin://httpserver").await;
    start(server, host, &example("kvcounter"), 50).await;
    let address = format!("127.0.0.1:{}", free_port());
    link(server, KVCOUNTER, httpserver::SPEC.known.public_key, HTTP, &[("address", &address)])
        .await;
    format!("http://{address}/visits")
}

/// The provider processes of a host that has a cache of its own.
fn processes_of(host: &TestHost) -> Vec<i32> {
    let cache = host.dir().join(".cache");
    let processes = std::fs::read_dir("/proc").expect("a list of processes").filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        std::fs::read_link(format!("/proc/{pid}/exe")).ok()?.starts_with(&cache).then_some(pid)
    });
    processes.collect()
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("the signal is sent");
}

async fn providers(server: &Server, host: &TestHost) -> Vec<String> {
    let inventory =
        ctl_2024(server).await.get_host_inventory(&host.id).await.expect("an inventory");
    inventory.providers.into_iter().map(|provider| provider.id).collect()
}

#[tokio::test]
async fn a_link_moves_to_a_real_redis_under_load_and_no_request_fails() {
    let dir = TempDir::new().unwrap();
    let (server, redis) = (Server::shared().await, Redis::start().await);
    let host = host(&server).own_cache().start().await;
    start_provider(&server, &host, "builtin://keyvalue").await;
    let started = start_provider(&server, &host, &archive(&dir, "provider_kvredis")).await;
    let outside = text(&started, "/public_key").to_owned();
    assert_eq!(outside, public_key("provider_kvredis"));
    let page = page(&server, &host).await;
    link(&server, KVCOUNTER, keyvalue::SPEC.known.public_key, KV, &[]).await;
    counts(&page).await;

    unnoticed(&page, link(&server, KVCOUNTER, &outside, KV, &[("URL", &redis.url())])).await;
    // The new store began at nothing and has what was counted since.
    let counted = count(&page).await.unwrap();
    assert_eq!(redis.get("counter:visits").await, Some(counted.to_string()));
    // And back again: the built-in store has kept its own count.
    unnoticed(&page, link(&server, KVCOUNTER, keyvalue::SPEC.known.public_key, KV, &[])).await;
    host.stop().await;
}

#[tokio::test]
async fn a_killed_provider_is_started_and_linked_again_and_the_inventory_is_right_throughout() {
    let dir = TempDir::new().unwrap();
    let server = Server::shared().await;
    let host = host(&server).own_cache().start().await;
    let mut events = Events::all(&server).await;
    let started = start_provider(&server, &host, &archive(&dir, "provider_kvmemory")).await;
    let provider = text(&started, "/public_key").to_owned();
    let page = page(&server, &host).await;
    link(&server, KVCOUNTER, &provider, KV, &[]).await;
    counts(&page).await;
    let instance = text(&events.next("provider_started").await, "/data/instance_id").to_owned();
    assert_eq!(providers(&server, &host).await.len(), 2);

    let over = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (page, over) = (page.clone(), over.clone());
        // Calls that find nobody fail at once; what matters is that they work again by themselves.
        async move {
            while !over.load(Ordering::Relaxed) {
                let _ = count(&page).await;
            }
        }
    });
    let pids = processes_of(&host);
    assert_eq!(pids.len(), 1, "{pids:?}");
    kill(pids[0]);

    let stopped = events.next("provider_stopped").await;
    assert_eq!(text(&stopped, "/data/instance_id"), instance);
    assert!(text(&stopped, "/data/reason").contains("9"), "{stopped}");
    let again = events.next("provider_started").await;
    assert_eq!(text(&again, "/data/public_key"), provider);
    assert_ne!(text(&again, "/data/instance_id"), instance);
    assert!(providers(&server, &host).await.contains(&provider));
    assert_eq!(text(&events.next("health_check_passed").await, "/data/public_key"), provider);
    counts(&page).await;
    over.store(true, Ordering::Relaxed);
    load.await.unwrap();
    assert_eq!(processes_of(&host).len(), 1);

    stop_provider(&server, &host, &provider, KV).await;
    assert!(!providers(&server, &host).await.contains(&provider));
    assert!(processes_of(&host).is_empty());
    host.stop().await;
}

#[tokio::test]
async fn a_provider_that_keeps_ending_is_given_up_and_can_be_started_again() {
    let dir = TempDir::new().unwrap();
    let server = Server::shared().await;
    let host = host(&server).own_cache().start().await;
    let path = dir.path().join("broken.par");
    // A program that ends at once, in a genuine archive.
    ends_with(3, dir.path(), &path);
    let reference = format!("file://{}", path.display());
    let mut events = Events::all(&server).await;
    let ctl = ctl_2024(&server).await;
    assert!(ctl.start_provider(&host.id, &reference, None, None, None).await.unwrap().accepted);
    let (mut starts, mut stops) = (0, 0);
    let given_up = loop {
        let event = events.any().await;
        match event["type"].as_str().unwrap() {
            "com.wasmcloud.lattice.provider_started" => {
                assert_eq!(starts, stops, "it starts only after it has stopped");
                starts += 1;
            }
            "com.wasmcloud.lattice.provider_stopped" => {
                stops += 1;
                assert_eq!(starts, stops);
                assert!(text(&event, "/data/reason").contains('3'), "{event}");
            }
            "com.wasmcloud.lattice.provider_start_failed" => break event,
            _ => {}
        }
    };
    assert!(text(&given_up, "/data/error").contains("given up"), "{given_up}");
    assert!(starts > 3);
    assert!(providers(&server, &host).await.is_empty());
    let again = ctl.start_provider(&host.id, &reference, None, None, None).await.unwrap();
    assert!(again.accepted, "{}", again.error);
    events.next("provider_started").await;
    // In its pause it can be stopped, and stays so.
    let key = public_key("provider_kvmemory");
    events.next("provider_stopped").await;
    assert!(ctl.stop_provider(&host.id, &key, "default", KV, None).await.unwrap().accepted);
    host.stop().await;
}

#[tokio::test]
async fn a_provider_that_has_done_its_work_stays_ended() {
    let dir = TempDir::new().unwrap();
    let server = Server::shared().await;
    let host = host(&server).own_cache().start().await;
    let path = dir.path().join("done.par");
    ends_with(0, dir.path(), &path);
    let mut events = Events::all(&server).await;
    for _ in 0..2 {
        start_provider(&server, &host, &format!("file://{}", path.display())).await;
        let stopped = events.next("provider_stopped").await;
        assert_eq!(text(&stopped, "/data/reason"), "exit code 0");
        assert!(providers(&server, &host).await.is_empty());
    }
    host.stop().await;
}

/// An archive whose program reads its host data and ends.
fn ends_with(code: u8, dir: &Path, out: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let script = dir.join("ends");
    std::fs::write(&script, format!("#!/bin/sh\nread line\nexit {code}\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    crate::harness::external::pack_program("provider_kvmemory", &script, out);
}

#[tokio::test]
async fn links_put_while_a_provider_boots_all_arrive() {
    let dir = TempDir::new().unwrap();
    let server = Server::shared().await;
    let host = host(&server).own_cache().start().await;
    let reference = archive(&dir, "provider_kvmemory");
    let provider = public_key("provider_kvmemory");
    let mut events = Events::all(&server).await;
    let actors = [KVCOUNTER, crate::harness::ECHO, crate::harness::PINGER, crate::harness::PONGER];
    link(&server, actors[0], &provider, KV, &[("prefix", "a:")]).await;
    let ctl = ctl_2024(&server).await;
    assert!(ctl.start_provider(&host.id, &reference, None, None, None).await.unwrap().accepted);
    events.next("provider_started").await;
    // It runs, but has not subscribed yet: messages of now are lost on it.
    for actor in &actors[1..] {
        link(&server, actor, &provider, KV, &[("prefix", "b:")]).await;
    }
    link(&server, actors[0], &provider, KV, &[("prefix", "c:")]).await;
    events.next("health_check_passed").await;
    let rpc = client::provider_rpc(&server).await;
    for (actor, prefix) in actors.iter().zip(["c:", "b:", "b:", "b:"]) {
        eventually("the link has arrived", || async {
            let origin = wasmbus_rpc::core::WasmCloudEntity::new_actor(*actor).unwrap();
            let mut target =
                wasmbus_rpc::core::WasmCloudEntity::new_provider(KV, "default").unwrap();
            target.public_key = provider.clone();
            let arg = wasmbus_rpc::common::serialize(&"@link prefix").unwrap();
            let message = wasmbus_rpc::common::Message { method: "KeyValue.Get", arg: arg.into() };
            let reply = rpc.client.send(origin, target, &rpc.lattice, message).await.ok()?;
            let reply: wasmcloud_interface_keyvalue::GetResponse =
                wasmbus_rpc::common::deserialize(&reply).ok()?;
            (reply.value == prefix).then_some(())
        })
        .await;
    }
    host.stop().await;
}

#[tokio::test]
async fn a_provider_that_ignores_its_shutdown_is_ended_all_the_same() {
    let dir = TempDir::new().unwrap();
    let server = Server::shared().await;
    let host = host(&server).own_cache().set("provider_delay", "100").start().await;
    let provider = public_key("provider_kvmemory");
    link(&server, KVCOUNTER, &provider, KV, &[("misbehave", "ignore-shutdown")]).await;
    let mut events = Events::all(&server).await;
    start_provider(&server, &host, &archive(&dir, "provider_kvmemory")).await;
    events.next("health_check_passed").await;
    stop_provider(&server, &host, &provider, KV).await;
    assert!(processes_of(&host).is_empty());
    host.stop().await;
}

#[tokio::test]
async fn what_is_no_provider_is_refused_with_its_reason() {
    let dir = TempDir::new().unwrap();
    let server = Server::shared().await;
    let host = host(&server).own_cache().start().await;
    let ctl = ctl_2024(&server).await;
    let mut events = Events::all(&server).await;
    let text_file = dir.path().join("notes.txt");
    std::fs::write(&text_file, "no archive").unwrap();
    let text_file = format!("file://{}", text_file.display());
    for (reference, complaint) in [
        (example("echo"), "start it as an actor"),
        (text_file, "not a readable provider archive"),
        ("file:///no/such.par".to_owned(), "No such file"),
    ] {
        assert!(ctl.start_provider(&host.id, &reference, None, None, None).await.unwrap().accepted);
        let failed = events.next("provider_start_failed").await;
        assert_eq!(text(&failed, "/data/provider_ref"), reference);
        assert!(text(&failed, "/data/error").contains(complaint), "{failed}");
    }
    assert!(providers(&server, &host).await.is_empty());
    host.stop().await;
}

#[tokio::test]
async fn the_same_provider_runs_on_two_hosts_and_one_stop_leaves_the_other() {
    let dir = TempDir::new().unwrap();
    let server = Server::shared().await;
    let (a, b) = (host(&server).own_cache().start().await, host(&server).own_cache().start().await);
    let reference = archive(&dir, "provider_kvmemory");
    let mut events = Events::all(&server).await;
    for host in [&a, &b] {
        start_provider(&server, host, &reference).await;
        events.next("health_check_passed").await;
    }
    let provider = public_key("provider_kvmemory");
    assert_eq!((processes_of(&a).len(), processes_of(&b).len()), (1, 1));
    stop_provider(&server, &a, &provider, KV).await;
    assert_eq!((processes_of(&a).len(), processes_of(&b).len()), (0, 1));
    let claims = ctl_2024(&server).await.get_claims().await.unwrap();
    assert!(
        claims.iter().any(|claims| claims["sub"] == provider && claims["contract_id"] == KV),
        "{claims:?}"
    );
    a.stop().await;
    let pids = processes_of(&b);
    b.stop().await;
    assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()), "nothing runs on");
}

#[tokio::test]
async fn a_provider_whose_claims_expire_is_told_refused_and_not_started_again() {
    let dir = TempDir::new().unwrap();
    let server = Server::shared().await;
    let host = host(&server).own_cache().start().await;
    start(&server, &host, &example("kvcounter"), 1).await;
    let mut events = Events::all(&server).await;
    let mut draft = Draft::new(ProviderToken {
        name: "Expiring".into(),
        contract_id: KV.into(),
        vendor: "example".into(),
        ..ProviderToken::default()
    });
    // It never answers, and ends by itself when its claims have expired.
    draft.insert(&this_target(), b"#!/bin/sh\nread line\nsleep 18\nexit 3\n".to_vec()).unwrap();
    let (subject, _) = SigningKey::generate(Kind::Service).unwrap();
    let (issuer, _) = SigningKey::generate(Kind::Account).unwrap();
    let term = Term { expires: Some(now() + 8), ..Term::default() };
    let path = dir.path().join("expiring.par");
    std::fs::write(&path, draft.write(&subject, &issuer, &term, false).unwrap()).unwrap();

    let ctl = ctl_2024(&server).await;
    let reference = format!("file://{}", path.display());
    assert!(ctl.start_provider(&host.id, &reference, None, None, None).await.unwrap().accepted);
    let provider = text(&events.next("provider_started").await, "/data/public_key").to_owned();
    link(&server, KVCOUNTER, &provider, KV, &[]).await;

    let told = events.next("claims_not_in_force").await;
    assert_eq!(text(&told, "/data/public_key"), provider);
    let caller = client::Caller::new(&server).await;
    let request = client::http_request("GET", "/visits", b"");
    let answer = caller.call(KVCOUNTER, "HttpServer.HandleRequest", request).await;
    let answer = answer
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_else(|error| error);
    assert!(answer.contains("have expired"), "{answer}");

    let failed = events.next("provider_start_failed").await;
    let error = text(&failed, "/data/error");
    assert!(error.contains("not started again") && error.contains("have expired"), "{error}");
    assert!(providers(&server, &host).await.is_empty());
    let again = ctl.start_provider(&host.id, &reference, None, None, None).await.unwrap();
    assert!(again.accepted, "{}", again.error);
    events.next("provider_start_failed").await;
    host.stop().await;
}
