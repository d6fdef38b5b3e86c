//! Checks of hosts: actors, providers, links, and the services they need.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use lattice_engine::providers::builtin::{httpserver, keyvalue};
use lattice_protocol::identity::claims::now;
use serde_json::json;
use tempfile::TempDir;
use wascap::{
    prelude::{ClaimsBuilder, KeyPair},
    wasm::embed_claims,
};

use super::Desk;
use crate::harness::{
    ECHO, Events, KVCOUNTER, PROVIDER, Server,
    client::{self, answering, ctl_2024, start, start_provider},
    eventually, example,
    external::pack_program,
    guests::{self, Signing, sign, wapc},
    host,
    nats::free_port,
    registry::RegistryServer,
};

const ANSWER: &str = "(call $response (i32.const 0) (i32.const 5)) (i32.const 1)";

/// A guest whose claims expire after so long.
fn expiring(after: Duration) -> (TempDir, String, String) {
    let (account, key) = (KeyPair::new_account(), KeyPair::new_module());
    let metadata = wascap::jwt::Actor::new(
        "brief".into(),
        Some(vec![]),
        Some(vec![]),
        false,
        Some(1),
        None,
        None,
    );
    let mut builder = ClaimsBuilder::<wascap::jwt::Actor>::new();
    builder
        .issuer(&account.public_key())
        .subject(&key.public_key())
        .with_metadata(metadata)
        .expires_in(after);
    let wasm = wat::parse_str(wapc(ANSWER)).expect("valid text");
    let signed = embed_claims(&wasm, &builder.build(), &account).expect("the guest is signed");
    let (dir, reference) = guests::write(&signed);
    (dir, reference, key.public_key())
}

#[tokio::test]
async fn claims_that_expire_under_a_running_actor_are_told_before_and_after() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let (_dir, reference, id) = expiring(Duration::from_secs(8));
    start(&server, &host, &reference, 1).await;
    let desk = Desk::at(&server);
    desk.diagnosis().await.says("claims", "warning", &[&id, "brief", "expire in"]);
    let diagnosis = desk.diagnosed("claims", "wrong", &[&id, "expired"]).await;
    diagnosis.says("claims", "wrong", &["host claims sign"]);
    host.stop().await;
}

#[tokio::test]
async fn an_actor_that_did_not_start_is_told_with_the_reason_until_it_does() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let (_dir, expired, _) = expiring(Duration::from_secs(1));
    let expiry = now() + 1;
    eventually("the claims expire", || async { (now() > expiry).then_some(()) }).await;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("actor.wasm");
    let missing = &format!("file://{}", path.display());
    let mut events = Events::all(&server).await;
    for reference in [missing, &expired] {
        ctl_2024(&server).await.scale_actor(&host.id, reference, 1, None).await.unwrap();
        events.next("actor_scale_failed").await;
    }
    let desk = Desk::at(&server);
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("starts", "warning", &[missing, "No such file", "host start actor"]);
    diagnosis.says("starts", "warning", &[&expired, "expired"]);

    // A failure is forgotten once the start works.
    fs::copy(example("echo").trim_start_matches("file://"), path).unwrap();
    start(&server, &host, missing, 1).await;
    let diagnosis = desk.diagnosis().await;
    assert!(diagnosis.finding("starts", "warning", &[missing]).is_none());
    diagnosis.says("starts", "warning", &[&expired]);
    host.stop().await;
}

#[tokio::test]
async fn a_file_on_a_host_that_loads_none_is_told_with_the_setting() {
    let server = Server::shared().await;
    let host = host(&server).set("enable_start_from_fs", "false").start().await;
    let mut events = Events::all(&server).await;
    ctl_2024(&server).await.scale_actor(&host.id, &example("echo"), 1, None).await.unwrap();
    events.next("actor_scale_failed").await;
    let diagnosis = Desk::at(&server).diagnosis().await;
    diagnosis.says("references", "warning", &[&host.id, "loads no files", "allow_file_load"]);
    diagnosis.says("starts", "warning", &["echo.wasm", "allow_file_load"]);
    host.stop().await;
}

#[tokio::test]
async fn files_that_only_some_hosts_load_are_worth_a_note() {
    let server = Server::shared().await;
    let loads = host(&server).start().await;
    let loads_none = host(&server).set("enable_start_from_fs", "false").start().await;
    start(&server, &loads, &example("echo"), 1).await;
    Desk::at(&server).diagnosis().await.says("references", "note", &["echo.wasm", &loads_none.id]);
    loads_none.stop().await;
    loads.stop().await;
}

#[tokio::test]
async fn each_fault_of_a_link_is_told_with_what_mends_it() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    start(&server, &host, &example("kvcounter"), 1).await;
    start_provider(&server, &host, "builtin://httpserver").await;
    let (http, kv) = (&httpserver::SPEC, &keyvalue::SPEC);
    // The provider runs nowhere.
    client::link(&server, KVCOUNTER, kv.known.public_key, kv.known.contract_id, &[]).await;
    // The contract is not the provider's: a host of earlier years has let it through.
    client::store_link_for(&server, ECHO, (http, "acme:web"), &[]).await;
    // A slip of the pen, which a host of earlier years has let through.
    let address = format!("127.0.0.1:{}", free_port());
    client::store_link(&server, ECHO, http, &[("address", &address), ("adress", "x")]).await;
    // The actor is not signed for it, and nothing of the provider ever ran here.
    client::link(&server, ECHO, PROVIDER, "acme:ledger", &[]).await;
    let slip = &["adress", "host inspect builtin://httpserver"];
    Desk::at(&server).diagnosed("links", "warning", slip).await;
    let diagnosis = Desk::at(&server).diagnosis().await;
    diagnosis.says(
        "links",
        "warning",
        &[KVCOUNTER, "runs on no host", "host start provider builtin://keyvalue"],
    );
    diagnosis.says("links", "wrong", &[ECHO, "acme:ledger", "not signed for", "--cap acme:ledger"]);
    diagnosis.says("links", "wrong", &["another contract, wasmcloud:httpserver", "host link del"]);
    diagnosis.says("links", "warning", &[PROVIDER, "leads nowhere"]);
    host.stop().await;
}

#[tokio::test]
async fn a_link_to_a_provider_under_another_link_name_leads_nowhere() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("kvcounter"), 1).await;
    start_provider(&server, &host, "builtin://keyvalue").await;
    let spec = &keyvalue::SPEC;
    let ctl = ctl_2024(&server).await;
    let ack = ctl
        .advertise_link(
            KVCOUNTER,
            spec.known.public_key,
            spec.known.contract_id,
            "front",
            Default::default(),
        )
        .await
        .unwrap();
    assert!(ack.accepted, "{}", ack.error);
    let diagnosis = Desk::at(&server).diagnosis().await;
    diagnosis.says("links", "wrong", &["under link name front", "runs under link name default"]);
    host.stop().await;
}

#[tokio::test]
async fn a_port_that_somebody_else_has_is_told_with_the_address() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    start_provider(&server, &host, "builtin://httpserver").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let spec = &httpserver::SPEC;
    let mut events = Events::all(&server).await;
    client::link_builtin(&server, ECHO, spec, &[("address", &address)]).await;
    events.next("linkdef_set_failed").await;
    let desk = Desk::at(&server);
    let diagnosis = desk.diagnosis().await;
    diagnosis.says(
        "ports",
        "wrong",
        &[&format!("cannot listen on {address}"), &host.id, "another port"],
    );
    diagnosis.says("links", "wrong", &["does not take on the link", ECHO, &address]);
    // It is tried again, and then nothing is left to say.
    drop(taken);
    desk.diagnosed("ports", "ok", &[]).await.is_content("links");
    host.stop().await;
}

#[tokio::test]
async fn values_that_a_provider_refuses_are_told_in_its_words() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    start_provider(&server, &host, "builtin://httpserver").await;
    let spec = &httpserver::SPEC;
    client::store_link(&server, ECHO, spec, &[("port", "eighty")]).await;
    Desk::at(&server).diagnosed("links", "wrong", &["does not take on the link", "eighty"]).await;
    host.stop().await;
}

#[tokio::test]
async fn a_provider_that_ends_again_and_again_is_told_with_how_it_ends() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let dir = TempDir::new().unwrap();
    let script = dir.path().join("ends");
    fs::write(&script, "#!/bin/sh\nread line\nexit 3\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let archive = dir.path().join("ends.par");
    tokio::task::spawn_blocking({
        let archive = archive.clone();
        move || pack_program("provider_kvmemory", &script, &archive)
    })
    .await
    .unwrap();
    let reference = format!("file://{}", archive.display());
    let mut events = Events::all(&server).await;
    ctl_2024(&server).await.start_provider(&host.id, &reference, None, None, None).await.unwrap();
    let desk = Desk::at(&server);
    events.next("provider_stopped").await;
    desk.diagnosed("providers", "wrong", &[&reference, "exit code 3"]).await;
    events.next("provider_start_failed").await;
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("providers", "wrong", &[&reference, "given up", "host start provider"]);
    host.stop().await;
}

#[tokio::test]
async fn a_registry_that_is_gone_is_told_although_what_came_from_it_runs() {
    let (server, mut registry) = (Server::shared().await, RegistryServer::start().await);
    registry.push_actor("echo:1", "echo").await;
    let host = host(&server).own_cache().set("allowed_insecure", registry.address()).start().await;
    start(&server, &host, &registry.image("echo:1"), 1).await;
    let desk = Desk::at(&server);
    desk.diagnosis().await.says("registries", "ok", &[registry.address()]);
    registry.stop();
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("registries", "wrong", &[registry.address(), &host.id, "cannot be reached"]);
    host.stop().await;
}

#[tokio::test]
async fn a_registry_that_refuses_the_login_is_told_before_and_after_a_pull() {
    let (server, registry) = (Server::shared().await, RegistryServer::with_login().await);
    registry.push_actor("echo:1", "echo").await;
    let host = host(&server)
        .own_cache()
        .set("allowed_insecure", registry.address())
        .set("oci_registry", registry.address())
        .set("oci_user", "user")
        .set("oci_password", "not this")
        .start()
        .await;
    let desk = Desk::at(&server);
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("registries", "warning", &[registry.address(), "refuses the login of oci_user"]);
    let mut events = Events::all(&server).await;
    ctl_2024(&server)
        .await
        .scale_actor(&host.id, &registry.image("echo:1"), 1, None)
        .await
        .unwrap();
    events.next("actor_scale_failed").await;
    let diagnosis = desk.diagnosis().await;
    diagnosis.says(
        "registries",
        "wrong",
        &["last pull", registry.address(), "refuses the login of oci_user"],
    );
    diagnosis.says("starts", "warning", &["echo:1", "refuses the login"]);
    diagnosis.hides("not this");
    host.stop().await;
}

#[tokio::test]
async fn plain_http_where_tls_is_meant_is_told_with_the_setting() {
    let (server, registry) = (Server::shared().await, RegistryServer::start().await);
    registry.push_actor("echo:1", "echo").await;
    let host = host(&server).own_cache().start().await;
    let mut events = Events::all(&server).await;
    ctl_2024(&server)
        .await
        .scale_actor(&host.id, &registry.image("echo:1"), 1, None)
        .await
        .unwrap();
    events.next("actor_scale_failed").await;
    let diagnosis = Desk::at(&server).diagnosis().await;
    diagnosis.says(
        "registries",
        "wrong",
        &[registry.address(), "does not speak TLS", "allowed_insecure"],
    );
    host.stop().await;
}

#[tokio::test]
async fn services_that_are_configured_and_silent_are_told_with_what_that_means() {
    let server = Server::shared().await;
    let host = host(&server)
        .set("policy_topic", &server.own("policy.nobody"))
        .set("policy_timeout_ms", "200")
        .set("config_service_enabled", "true")
        .start()
        .await;
    let desk = Desk::at(&server);
    let diagnosis = desk.diagnosis().await;
    diagnosis.says(
        "services",
        "wrong",
        &["policy service does not answer", &server.own("policy.nobody"), "denied"],
    );
    diagnosis.says(
        "services",
        "warning",
        &["configuration service", &format!("wasmbus.cfg.{}.req", server.lattice())],
    );

    let denial = || Some(json!({ "requestId": "1", "permitted": false }));
    let _service = answering(&server, &server.own("policy.nobody"), move |_, _| denial()).await;
    // A denial is an answer.
    desk.diagnosis().await.says("services", "ok", &["policy service answers"]);
    host.stop().await;
}

#[tokio::test]
async fn hosts_that_ask_different_policy_services_are_a_warning() {
    let server = Server::shared().await;
    let first = host(&server).start().await;
    let second = host(&server)
        .set("policy_topic", &server.own("policy.nobody"))
        .set("policy_timeout_ms", "200")
        .start()
        .await;
    Desk::at(&server).diagnosis().await.says(
        "services",
        "warning",
        &["different policy services", &first.id, &second.id],
    );
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn an_actor_that_is_full_is_told_with_how_to_give_it_room() {
    let server = Server::shared().await;
    let host =
        host(&server).set("rpc_timeout_ms", "20000").set("call_queue_max", "1").start().await;
    // Works until its time is over.
    let busy = sign(&wapc("(loop $on (br $on)) (i32.const 1)"), &Signing::default());
    start(&server, &host, &busy.reference, 1).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (caller, id) = (client::Caller::new(&server).await, busy.id.clone());
        calls.spawn(async move { caller.call(&id, "Work", "").await });
    }
    let diagnosis = Desk::at(&server)
        .diagnosed("actors", "wrong", &[&busy.id, "further ones are refused"])
        .await;
    diagnosis.says("actors", "wrong", &["host scale actor"]);
    calls.shutdown().await;
    host.stop().await;
}
