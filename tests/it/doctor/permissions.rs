//! The list of permissions that the doctor goes through is all that a lattice needs.

use lattice_engine::providers::builtin::keyvalue;
use lattice_protocol::{
    identity::keys::LatticeName,
    lattice::{
        permissions::{Names, Need, Use},
        subject::Subjects,
    },
};
use reqwest::Method;
use serde_json::json;

use super::Desk;
use crate::{
    dashboard::{self, Dashboard, with_dashboard},
    harness::{
        HostBuilder, KVCOUNTER, Server,
        client::{self, Caller, http_request},
        example, host,
        process::{command, output, stderr},
    },
};

/// A user of the NATS server with these permissions, those that JetStream needs, and the one to
/// read the list of its permissions.
fn user(name: &str, needs: &[Need]) -> String {
    let of = |verb: Use| {
        let subjects = needs.iter().filter(|need| need.verb == verb);
        subjects.map(|need| format!("\"{}\"", need.subject)).collect::<Vec<_>>().join(", ")
    };
    let (published, subscribed) = (of(Use::Publish), of(Use::Subscribe));
    format!(
        "{{ user: {name}, password: x, permissions: {{\n  \
         publish: [\"$JS.>\", \"$KV.>\", \"$O.>\", \"$SYS.REQ.USER.INFO\", {published}]\n  subscribe: [{subscribed}] }} }}\n"
    )
}

/// A server that gives hosts just the permissions of the list; others log in without a name.
async fn strict() -> Server {
    let lattice = LatticeName::parse("default").expect("a name");
    let subjects = Subjects::new(lattice, "wasmbus.ctl");
    let users = [
        user("ctl", &subjects.control_needs(&Names::ANY)),
        user("rpc", &subjects.call_needs(&Names::ANY)),
    ];
    let config = format!(
        "jetstream {{ domain: core, store_dir: \"@DIR@/js\" }}\nno_auth_user: all\n\
         authorization {{ users: [ {{ user: all, password: x }}\n{} ] }}",
        users.concat()
    );
    Server::with_config(Some("core"), &config).await
}

/// A host that logs in as the two users, and calls no other host past the NATS server.
fn strict_host(server: &Server) -> HostBuilder {
    let host = host(server).set("local_calls", "false");
    host.set("ctl_user", "ctl")
        .set("ctl_password", "x")
        .set("rpc_user", "rpc")
        .set("rpc_password", "x")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_permissions_that_are_checked_are_all_that_hosts_and_tools_need() {
    let server = strict().await;
    let dashboard = Dashboard::of(with_dashboard(strict_host(&server)).start().await);
    let other = strict_host(&server).start().await;
    // The dashboard commands as its host, an actor here and its provider there.
    let start = dashboard::start(&example("kvcounter"), Some(&dashboard.host.id));
    dashboard.done(Method::POST, "/actors", start).await;
    let start = dashboard::start("builtin://keyvalue", Some(&other.id));
    dashboard.done(Method::POST, "/providers", start).await;
    let known = keyvalue::SPEC.known;
    client::link(&server, KVCOUNTER, known.public_key, keyvalue::SPEC.known.contract_id, &[]).await;
    let counted = Caller::new(&server)
        .await
        .call(KVCOUNTER, "HttpServer.HandleRequest", http_request("GET", "/visits", b""))
        .await
        .expect("the actor reaches its provider");
    assert!(!client::http_body(&counted).is_empty());
    let overview = dashboard.get("/overview").await;
    assert_eq!(overview["counts"]["hosts"], 2, "{overview}");

    let desk = Desk::new();
    desk.settings(&json!({
        "ctl_host": server.url(), "rpc_host": server.url(), "js_domain": "core",
        "ctl_user": "ctl", "ctl_password": "x", "rpc_user": "rpc", "rpc_password": "x",
    }));
    let mut logs = command(desk.path());
    logs.args(["logs", KVCOUNTER, "-o", "json"]);
    let logs = tokio::task::spawn_blocking(move || output(&mut logs)).await.expect("it ends");
    assert!(logs.status.success(), "{}", stderr(&logs));
    // It asks both hosts what they were forbidden.
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("permissions", "ok", &["are allowed"]);
    for check in ["hosts", "bucket", "jetstream"] {
        diagnosis.is_content(check);
    }
    dashboard.host.stop().await;
    other.stop().await;
}
