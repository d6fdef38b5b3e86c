//! The way to NATS, the login, and what the user may do there.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{Desk, Diagnosis};
use crate::{
    harness::{
        Server, host,
        jwt::{self, operator},
        nats::free_port,
        pki::{Authority, Certified},
        process::Running,
    },
    hub_setup::operator::{Operator, keep},
};

const JETSTREAM: &str = "jetstream { domain: core, store_dir: \"@DIR@/js\" }\n";

fn port_of(server: &Server) -> &str {
    server.address().rsplit_once(':').expect("a port").1
}

fn desk_at(address: &str) -> Desk {
    let desk = Desk::new();
    desk.settings(&json!({ "ctl_host": address, "rpc_host": address }));
    desk
}

/// Checks that need the connection are skipped without it.
fn the_rest_is_skipped(diagnosis: &Diagnosis) {
    for check in ["server", "permissions", "jetstream", "bucket", "hosts", "links"] {
        assert_eq!(diagnosis.verdict(check), "skipped", "{check}");
    }
}

#[tokio::test]
async fn nobody_who_listens_is_told_with_how_to_start_a_server() {
    let diagnosis = desk_at(&format!("127.0.0.1:{}", free_port())).diagnosis().await;
    diagnosis.says("nats-ctl", "wrong", &["nobody listens on 127.0.0.1", "host up", "ctl_port"]);
    diagnosis.says("nats-rpc", "wrong", &["nobody listens on 127.0.0.1", "rpc_port"]);
    the_rest_is_skipped(&diagnosis);
}

#[tokio::test]
async fn the_monitoring_port_is_told_with_the_port_that_was_meant() {
    let monitoring = free_port();
    let config = format!("{JETSTREAM} http: \"127.0.0.1:{monitoring}\"");
    let server = Server::with_config(Some("core"), &config).await;
    let diagnosis = desk_at(&format!("127.0.0.1:{monitoring}")).diagnosis().await;
    let port = format!("--ctl-port {}", port_of(&server));
    diagnosis.says("nats-ctl", "wrong", &["monitoring page of a NATS server", &port]);
}

#[tokio::test]
async fn the_port_of_leaf_nodes_is_not_taken_for_that_of_clients() {
    let leaves = free_port();
    let config = format!("{JETSTREAM} leafnodes {{ listen: \"127.0.0.1:{leaves}\" }}");
    let _server = Server::with_config(Some("core"), &config).await;
    let diagnosis = desk_at(&format!("127.0.0.1:{leaves}")).diagnosis().await;
    diagnosis.says("nats-ctl", "wrong", &["does not take us", "leaf nodes"]);
}

#[tokio::test]
async fn a_web_server_and_what_says_nothing_are_no_nats_servers() {
    for (answer, words) in
        [(&b"HTTP/1.1 200 OK\r\n\r\nhello"[..], "a web server"), (b"", "is no NATS server")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut asked = [0; 4];
                    if stream.read_exact(&mut asked).await.is_ok() && &asked == b"GET " {
                        let _ = stream.write_all(answer).await;
                    }
                });
            }
        });
        let diagnosis = desk_at(&address).diagnosis().await;
        diagnosis.says("nats-ctl", "wrong", &[words, &address]);
        serving.abort();
    }
}

#[tokio::test]
async fn a_name_that_means_nothing_is_told_from_a_server_that_is_away() {
    let diagnosis = desk_at("nats.no-such-place.invalid").diagnosis().await;
    diagnosis.says("nats-ctl", "wrong", &["nats.no-such-place.invalid", "cannot be resolved"]);
}

#[tokio::test]
async fn a_place_that_swallows_everything_holds_nobody_up() {
    // Reserved for documentation: nobody answers, not even with a refusal.
    let diagnosis = desk_at("192.0.2.1").diagnosis().await;
    assert_eq!(diagnosis.verdict("nats-ctl"), "wrong");
    the_rest_is_skipped(&diagnosis);
}

#[tokio::test]
async fn a_wrong_password_is_told_with_the_setting_and_for_each_connection() {
    let config = format!("{JETSTREAM} authorization {{ user: harry, password: \"right one\" }}");
    let server = Server::with_config(Some("core"), &config).await;
    let settings = |ctl: &str, rpc: &str| {
        json!({
            "ctl_host": server.url(), "rpc_host": server.url(), "js_domain": "core",
            "ctl_user": "harry", "ctl_password": ctl, "rpc_user": "harry", "rpc_password": rpc,
        })
    };
    let desk = Desk::new();
    desk.settings(&settings("not this", "right one"));
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("nats-ctl", "wrong", &["refuses the login", "ctl_password"]);
    diagnosis.is_content("nats-rpc");
    diagnosis.hides("not this");
    diagnosis.hides("right one");
    desk.settings(&settings("right one", "not this"));
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("nats-rpc", "wrong", &["refuses the login", "rpc_password"]);
    diagnosis.is_content("nats-ctl");
}

#[tokio::test]
async fn a_server_that_wants_a_login_says_so_to_those_without_one() {
    let config = format!("{JETSTREAM} authorization {{ token: \"open sesame\" }}");
    let server = Server::with_config(Some("core"), &config).await;
    let diagnosis = desk_at(&server.url()).diagnosis().await;
    diagnosis.says("nats-ctl", "wrong", &["refuses the login", "ctl_creds", "ctl_token"]);
}

#[tokio::test]
async fn credentials_of_strangers_are_refused_and_those_that_are_none_are_named() {
    let (own, stranger) = (operator(), operator());
    let server =
        Server::with_config(Some("core"), &format!("{JETSTREAM}{}", own.server_config)).await;
    let desk = Desk::new();
    let creds = desk.file("stranger.creds", stranger.creds());
    let settings = json!({ "ctl_host": server.url(), "rpc_host": server.url(), "ctl_creds": creds, "rpc_creds": creds });
    desk.settings(&settings);
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("nats-ctl", "wrong", &["refuses the login", "stranger.creds"]);
    diagnosis.hides(&stranger.user_seed);

    desk.file("stranger.creds", "nothing of use");
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("files", "wrong", &["stranger.creds", "no NATS user credentials"]);
    diagnosis.says("nats-ctl", "wrong", &["credentials cannot be used", "ctl_creds"]);
}

/// Signs a user's claims once more, with an end.
fn expiring(jwt: &str, account_seed: &str, expires: u64) -> String {
    let mut parts = jwt.split('.');
    let header = parts.next().expect("a header");
    let claims = URL_SAFE_NO_PAD.decode(parts.next().expect("claims")).expect("base64url");
    let mut claims: Value = serde_json::from_slice(&claims).expect("JSON");
    claims["exp"] = expires.into();
    let text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = KeyPair::from_seed(account_seed.trim())
        .expect("a seed")
        .sign(text.as_bytes())
        .expect("a signature");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn credentials_that_expired_are_told_apart_from_wrong_ones_and_those_about_to_are_a_warning()
{
    let keys = TempDir::new().unwrap();
    let operator = Operator::new(&keep(keys.path()).unwrap(), "test").unwrap();
    let account = std::fs::read_to_string(keys.path().join("account.nk")).unwrap();
    let server =
        Server::with_config(Some("core"), &format!("{JETSTREAM}{}", operator.server_config)).await;
    let desk = Desk::new();
    let now = lattice_protocol::identity::claims::now();
    let write = |expires: u64| {
        desk.file(
            "user.creds",
            jwt::creds(&expiring(&operator.user_jwt, &account, expires), &operator.user_seed),
        )
    };
    let creds = write(now - 3600);
    let settings = json!({ "ctl_host": server.url(), "rpc_host": server.url(), "ctl_creds": creds, "rpc_creds": creds });
    desk.settings(&settings);
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("credentials", "wrong", &["user.creds", "expired", "ago"]);
    diagnosis.says("nats-ctl", "wrong", &["refuses the login"]);
    write(now + 86_400);
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("credentials", "warning", &["expires in"]);
    diagnosis.is_content("nats-ctl");
}

fn tls_server(options: &str) -> (Server, Authority) {
    let server = Server::prepare("127.0.0.1", Some("core"), "");
    let authority = Authority::new(server.dir(), "authority");
    let Certified { certificate, key } = authority.sign(server.dir(), "server");
    let (certificate, key, ca) =
        (certificate.display(), key.display(), authority.certificate.display());
    server.configure(&format!(
        "{JETSTREAM} tls {{ cert_file: \"{certificate}\", key_file: \"{key}\", ca_file: \"{ca}\", {options} }}"
    ));
    (server, authority)
}

#[tokio::test]
async fn a_private_authority_that_is_not_named_is_what_is_missing() {
    let (mut server, authority) = tls_server("");
    server.resume().await;
    let diagnosis = desk_at(&server.url()).diagnosis().await;
    diagnosis.says(
        "nats-ctl",
        "wrong",
        &["no secure connection", "name the authority", "ctl_tls_ca"],
    );

    let desk = Desk::new();
    let other = Authority::new(desk.path(), "other");
    let settings = |ca: &std::path::Path| json!({ "ctl_host": server.url(), "rpc_host": server.url(), "ctl_tls_ca": ca, "rpc_tls_ca": ca });
    desk.settings(&settings(&other.certificate));
    desk.diagnosis().await.says("nats-ctl", "wrong", &["another authority"]);
    desk.settings(&settings(&authority.certificate));
    let diagnosis = desk.diagnosis().await;
    diagnosis.is_content("nats-ctl");
    diagnosis.is_content("files");
}

#[tokio::test]
async fn a_client_certificate_that_the_server_wants_is_what_is_missing() {
    let (mut server, authority) = tls_server("verify: true");
    server.resume().await;
    let desk = Desk::new();
    let ca = &authority.certificate;
    desk.settings(&json!({ "ctl_host": server.url(), "rpc_host": server.url(), "ctl_tls_ca": ca, "rpc_tls_ca": ca }));
    desk.diagnosis().await.says("nats-ctl", "wrong", &["ctl_tls_cert", "ctl_tls_key"]);
}

#[tokio::test]
async fn tls_that_the_server_has_not_is_told_from_tls_that_is_not_trusted() {
    let server = Server::start().await;
    let desk = Desk::new();
    desk.settings(
        &json!({ "ctl_host": server.url(), "rpc_host": server.url(), "ctl_tls": "true" }),
    );
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("nats-ctl", "wrong", &["the server has no TLS", "ctl_tls"]);
}

#[tokio::test]
async fn a_server_that_wants_tls_first_is_recognised() {
    let (server, _authority) = tls_server("handshake_first: true");
    // Not by the harness, which waits for a greeting.
    let mut command = std::process::Command::new(crate::harness::nats::binary());
    command.arg("--config").arg(server.dir().join("nats.cfg"));
    let _running = Running::start(command.stderr(std::process::Stdio::null()));
    crate::harness::eventually("it listens", || async {
        std::net::TcpStream::connect(server.address()).ok()
    })
    .await;
    let diagnosis = desk_at(&server.url()).diagnosis().await;
    diagnosis.says("nats-ctl", "wrong", &["wants TLS before it says a word", "handshake_first"]);
}

/// A server where one user may not do something, and everybody else may do everything.
async fn restricted(permissions: &str) -> (Server, Desk) {
    let users = format!(
        "authorization {{ users: [ {{ user: all, password: x }}, {{ user: some, password: x, permissions: {{ {permissions} }} }} ] }}"
    );
    let server = Server::with_config(Some("core"), &format!("{JETSTREAM}{users}")).await;
    let desk = Desk::new();
    desk.settings(&json!({
        "ctl_host": server.url(), "rpc_host": server.url(), "js_domain": "core",
        "ctl_user": "some", "ctl_password": "x", "rpc_user": "some", "rpc_password": "x",
    }));
    (server, desk)
}

#[tokio::test]
async fn a_subject_that_may_not_be_published_to_is_named() {
    let (_server, desk) = restricted(r#"publish: { deny: "wasmbus.ctl.*.cmd.>" }"#).await;
    let diagnosis = desk.diagnosis().await;
    diagnosis.says(
        "permissions",
        "wrong",
        &["ctl may not publish", ".cmd.*.scale", "start actor", "wasmbus.>"],
    );
}

#[tokio::test]
async fn a_subject_that_would_be_heeded_is_looked_up_and_not_tried() {
    let (server, desk) = restricted(r#"publish: { deny: "wasmbus.ctl.*.linkdefs.put" }"#).await;
    let mut heard = async_nats::ConnectOptions::with_user_and_password("all".into(), "x".into())
        .connect(server.url())
        .await
        .unwrap()
        .subscribe("wasmbus.ctl.*.linkdefs.*")
        .await
        .unwrap();
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("permissions", "wrong", &["wasmbus.ctl.default.linkdefs.put", "link put"]);
    assert!(futures::FutureExt::now_or_never(futures::StreamExt::next(&mut heard)).is_none());
}

#[tokio::test]
async fn a_subject_that_may_not_be_heard_is_named() {
    let (_server, desk) =
        restricted(r#"subscribe: { deny: ["wasmbus.rpc.>", "wasmbus.evt.>"] }"#).await;
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("permissions", "wrong", &["rpc may not subscribe", "wasmbus.rpc.default.hosts"]);
    diagnosis.says("permissions", "wrong", &["ctl may not subscribe", "wasmbus.evt.default"]);
}

#[tokio::test]
async fn answers_that_may_not_come_back_are_named() {
    let (_server, desk) = restricted(r#"subscribe: { deny: "_INBOX.>" }"#).await;
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("permissions", "wrong", &["_INBOX.", "answers to every question"]);
}

#[tokio::test]
async fn jetstream_that_may_not_be_used_is_told_from_jetstream_that_is_off() {
    let (_server, desk) = restricted(r#"publish: { deny: "$JS.>" }"#).await;
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("jetstream", "wrong", &["may not use", "$JS.core.API.>"]);
}

#[tokio::test]
async fn a_bucket_that_may_only_be_read_is_named() {
    let (server, desk) = restricted(r#"publish: { deny: ["$JS.core.API.$KV.>", "$KV.>"] }"#).await;
    let host = host(&server).set("nats_user", "all").set("nats_password", "x").start().await;
    let diagnosis = desk.diagnosis().await;
    diagnosis.says("bucket", "wrong", &["cannot be written", "$KV.>"]);
    assert!(diagnosis.finding("bucket", "wrong", &["cannot be read"]).is_none());
    host.stop().await;
}

#[tokio::test]
async fn what_a_host_was_forbidden_is_told_by_the_host() {
    let users = r#"authorization { users: [ { user: all, password: x }
        { user: some, password: x, permissions: { publish: { deny: "wasmbus.evt.*.host_heartbeat" } } } ] }"#;
    let server = Server::with_config(Some("core"), &format!("{JETSTREAM}{users}")).await;
    let host = host(&server).set("nats_user", "some").set("nats_password", "x").start().await;
    let desk = Desk::new();
    desk.settings(&json!({
        "ctl_host": server.url(), "rpc_host": server.url(), "js_domain": "core",
        "ctl_user": "all", "ctl_password": "x", "rpc_user": "all", "rpc_password": "x",
    }));
    let diagnosis = desk.diagnosed("permissions", "wrong", &["of host", "host_heartbeat"]).await;
    diagnosis.says("permissions", "wrong", &[&host.id]);
    host.stop().await;
}
