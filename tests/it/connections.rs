//! Reaching a NATS server: every way to log in, TLS, several servers, and what is said when it does
//! not work.

use std::{collections::HashMap, fs, net::TcpListener, path::Path, process::Command};

use async_nats::{ConnectOptions, jetstream};
use futures::StreamExt;
use lattice_base::{
    config::{Auth, Connection, Secret, Tls},
    lattice::connection::{self, ConnectError, Nats, Purpose},
    store::jetstream::{Bucket, OpenError, making::Making},
};
use lattice_protocol::{rpc::antiforgery::Signer, store::keys};
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::{
    CLUSTER_SEED, ECHO, HostBuilder, PATIENCE, PINGER, PONGER, PROVIDER, Server, TestHost,
    client::{self, Caller, ctl_2024, http_request, start},
    eventually, example,
    guests::{Guest, Signing, sign, wapc},
    host,
    jwt::{self, operator},
    pki::{Authority, Certified},
};

const JETSTREAM: &str = "jetstream { domain: core, store_dir: \"@DIR@/js\" }\n";

/// A host takes part: an actor starts on it and answers, and what it is went to the bucket. The
/// tests reach the server with the same `options` as the host did.
async fn assert_takes_part(server: &Server, host: &TestHost, options: ConnectOptions) {
    let nats = options.connect(server.url()).await.expect("connected");
    let mut started = nats.subscribe("wasmbus.evt.default.actor_scaled").await.expect("subscribed");
    let command = json!({"actor_ref": example("echo"), "count": 1}).to_string();
    let ack = nats
        .request(format!("wasmbus.ctl.default.cmd.{}.scale", host.id), command.into())
        .await
        .expect("an ack");
    let ack: Value = serde_json::from_slice(&ack.payload).expect("an ack is JSON");
    assert_eq!(ack["accepted"], true, "{ack}");
    tokio::time::timeout(PATIENCE, started.next())
        .await
        .expect("the actor starts")
        .expect("an event");
    let context = jetstream::with_domain(nats.clone(), "core");
    let bucket = context.get_key_value("LATTICEDATA_default").await.expect("the bucket");
    assert!(bucket.get(keys::claims(ECHO)).await.expect("the bucket can be read").is_some());
    let caller = Caller {
        nats,
        lattice: server.lattice().to_owned(),
        signer: Signer::new(CLUSTER_SEED).expect("the tests' cluster seed"),
    };
    caller
        .call(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b""))
        .await
        .expect("an answer");
}

/// Why a host does not start. A host that only waits runs into the tests' patience.
async fn refusal(host: HostBuilder) -> ConnectError {
    let started = tokio::time::timeout(PATIENCE, host.try_start())
        .await
        .expect("what cannot work is not tried forever");
    let Err(error) = started else { panic!("the host started") };
    error.downcast().expect("the reason is the connection")
}

fn assert_tells(error: &ConnectError, server: &Server, settings: &[&str], secrets: &[&str]) {
    let text = format!("{error} {error:?}");
    for needed in settings.iter().chain(&[server.address()]) {
        assert!(text.contains(needed), "{needed} in: {text}");
    }
    for secret in secrets {
        assert!(!text.contains(secret), "a secret in: {text}");
    }
}

#[tokio::test]
async fn a_user_with_a_password_is_let_in_and_a_wrong_password_is_refused_at_once() {
    let config = format!("{JETSTREAM} authorization {{ user: harry, password: \"right one\" }}");
    let server = Server::with_config(Some("core"), &config).await;
    let login =
        |password: &str| host(&server).set("nats_user", "harry").set("nats_password", password);
    let host = login("right one").start().await;
    let options = ConnectOptions::with_user_and_password("harry".into(), "right one".into());
    assert_takes_part(&server, &host, options).await;
    host.stop().await;

    let refused = refusal(login("not this")).await;
    assert!(
        matches!(refused, ConnectError::Refused { purpose: Purpose::Control, .. }),
        "{refused:?}"
    );
    assert_tells(&refused, &server, &["ctl_user", "ctl_password"], &["not this"]);
    // The second connection is told apart from the first.
    let refused =
        refusal(login("right one").set("rpc_user", "harry").set("rpc_password", "not this")).await;
    assert!(matches!(refused, ConnectError::Refused { purpose: Purpose::Rpc, .. }), "{refused:?}");
    assert_tells(&refused, &server, &["rpc_user", "rpc_password"], &["not this", "right one"]);
}

#[tokio::test]
async fn a_token_is_enough_and_no_login_at_all_is_told_what_to_set() {
    let config = format!("{JETSTREAM} authorization {{ token: \"open sesame\" }}");
    let server = Server::with_config(Some("core"), &config).await;
    let started = host(&server).set("nats_token", "open sesame").start().await;
    assert_takes_part(&server, &started, ConnectOptions::with_token("open sesame".into())).await;
    started.stop().await;

    let refused = refusal(host(&server).set("nats_token", "open barley")).await;
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused:?}");
    assert_tells(&refused, &server, &["ctl_token"], &["open barley"]);
    let refused = refusal(host(&server)).await;
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused:?}");
    assert_tells(&refused, &server, &["ctl_creds", "ctl_user", "ctl_token"], &[]);
}

#[tokio::test]
async fn a_bare_seed_is_let_in_and_another_is_refused_at_once() {
    let (known, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let config =
        format!("{JETSTREAM} authorization {{ users: [ {{ nkey: {} }} ] }}", known.public_key());
    let server = Server::with_config(Some("core"), &config).await;
    let seed = known.seed().unwrap();
    let started = host(&server).set("nats_seed", &seed).start().await;
    assert_takes_part(&server, &started, ConnectOptions::with_nkey(seed)).await;
    started.stop().await;

    let seed = stranger.seed().unwrap();
    let refused = refusal(host(&server).set("nats_seed", &seed)).await;
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused:?}");
    assert_tells(&refused, &server, &["ctl_seed"], &[&seed]);
}

#[tokio::test]
async fn a_jwt_with_its_seed_and_a_credentials_file_are_let_in() {
    let operator = operator();
    let server =
        Server::with_config(Some("core"), &format!("{JETSTREAM}{}", operator.server_config)).await;
    let with_jwt = host(&server)
        .set("nats_jwt", &operator.user_jwt)
        .set("nats_seed", &operator.user_seed)
        .start()
        .await;
    let options = ConnectOptions::with_credentials(&operator.creds()).unwrap();
    assert_takes_part(&server, &with_jwt, options.clone()).await;
    with_jwt.stop().await;

    let creds = server.dir().join("host.creds");
    fs::write(&creds, operator.creds()).unwrap();
    let with_file = host(&server).set("nats_creds", &creds.to_string_lossy()).start().await;
    assert_takes_part(&server, &with_file, options).await;
    with_file.stop().await;
}

#[tokio::test]
async fn a_jwt_with_the_seed_of_somebody_else_is_refused_at_once() {
    let (operator, stranger) = (operator(), operator());
    let server =
        Server::with_config(Some("core"), &format!("{JETSTREAM}{}", operator.server_config)).await;
    let seed = &stranger.user_seed;
    let refused =
        refusal(host(&server).set("nats_jwt", &operator.user_jwt).set("nats_seed", seed)).await;
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused:?}");
    assert_tells(&refused, &server, &["ctl_jwt", "ctl_seed"], &[seed, &operator.user_jwt]);

    let creds = server.dir().join("host.creds");
    fs::write(&creds, jwt::creds(&operator.user_jwt, seed)).unwrap();
    let refused = refusal(host(&server).set("nats_creds", &creds.to_string_lossy())).await;
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused:?}");
    assert_tells(&refused, &server, &["ctl_creds", "host.creds"], &[seed, &operator.user_jwt]);

    fs::write(&creds, "nothing of use").unwrap();
    let refused = refusal(host(&server).set("nats_creds", &creds.to_string_lossy())).await;
    assert!(matches!(refused, ConnectError::Credentials { .. }), "{refused:?}");
}

/// A server with TLS, not started yet, and the authority that signed its certificate.
fn tls_server(address: &str, options: &str) -> (Server, Authority) {
    let server = Server::prepare(address, Some("core"), "");
    let authority = Authority::new(server.dir(), "authority");
    let Certified { certificate, key } = authority.sign(server.dir(), "server");
    let (certificate, key, ca) =
        (certificate.display(), key.display(), authority.certificate.display());
    server.configure(&format!(
        "{JETSTREAM} tls {{ cert_file: \"{certificate}\", key_file: \"{key}\", ca_file: \"{ca}\", {options} }}"
    ));
    (server, authority)
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[tokio::test]
async fn a_certificate_of_a_private_authority_is_trusted_when_that_is_named() {
    let (mut server, authority) = tls_server("127.0.0.1", "");
    server.resume().await;
    let ca = &authority.certificate;
    let started = host(&server).set("nats_tls_ca", &shown(ca)).start().await;
    assert_takes_part(&server, &started, ConnectOptions::new().add_root_certificates(ca.clone()))
        .await;
    started.stop().await;

    // Without the authority, or with another one, there is no connection; not even an unencrypted
    // one.
    let other = Authority::new(server.dir(), "other");
    for untrusting in [host(&server), host(&server).set("nats_tls_ca", &shown(&other.certificate))]
    {
        let refused = refusal(untrusting).await;
        assert!(
            matches!(refused, ConnectError::Tls { purpose: Purpose::Control, .. }),
            "{refused:?}"
        );
        assert_tells(&refused, &server, &["ctl_tls_ca"], &[]);
    }
}

#[tokio::test]
async fn a_server_that_wants_a_client_certificate_gets_it_and_its_absence_is_told() {
    let (mut server, authority) = tls_server("127.0.0.1", "verify: true");
    server.resume().await;
    let Certified { certificate, key } = authority.sign(server.dir(), "client");
    let ca = &authority.certificate;
    let with_ca = || host(&server).set("nats_tls_ca", &shown(ca));
    let started = with_ca()
        .set("nats_tls_cert", &shown(&certificate))
        .set("nats_tls_key", &shown(&key))
        .start()
        .await;
    let options = ConnectOptions::new()
        .add_root_certificates(ca.clone())
        .add_client_certificate(certificate, key);
    assert_takes_part(&server, &started, options).await;
    started.stop().await;

    let refused = refusal(with_ca()).await;
    assert!(matches!(refused, ConnectError::Tls { .. }), "{refused:?}");
    assert_tells(&refused, &server, &["ctl_tls_cert", "ctl_tls_key"], &[]);
    // A certificate of another authority is as good as none.
    let other = Authority::new(server.dir(), "other");
    let Certified { certificate, key } = other.sign(server.dir(), "stranger");
    let stranger =
        with_ca().set("nats_tls_cert", &shown(&certificate)).set("nats_tls_key", &shown(&key));
    let refused = refusal(stranger).await;
    assert!(matches!(refused, ConnectError::Tls { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_not_used_by_a_host_that_demands_it() {
    let server = Server::start().await;
    let refused = refusal(host(&server).set("nats_tls", "true")).await;
    assert!(matches!(refused, ConnectError::Tls { .. }), "{refused:?}");
    assert_tells(&refused, &server, &["ctl_tls"], &[]);
}

#[tokio::test]
async fn the_second_server_is_used_when_the_first_is_dead() {
    let mut dead = Server::start().await;
    dead.kill();
    let server = Server::start().await;
    let host =
        host(&server).set("nats_host", &format!("{},{}", dead.url(), server.url())).start().await;
    assert_takes_part(&server, &host, ConnectOptions::new()).await;
    host.stop().await;
}

#[tokio::test]
async fn a_server_is_reached_over_ipv6_with_and_without_tls() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no IPv6, nothing was tested");
        return;
    }
    let mut server = Server::prepare("[::1]", Some("core"), JETSTREAM);
    server.resume().await;
    let started = host(&server).start().await;
    assert_takes_part(&server, &started, ConnectOptions::new()).await;
    started.stop().await;
    // As older hosts were told: the bare address, the port apart, and a switch.
    let (_, port) = server.address().rsplit_once(':').unwrap();
    let bare = host(&server)
        .set("nats_host", "::1")
        .set("nats_port", port)
        .set("enable_ipv6", "true")
        .start()
        .await;
    bare.stop().await;

    let (mut server, authority) = tls_server("[::1]", "");
    server.resume().await;
    let secure = host(&server).set("nats_tls_ca", &shown(&authority.certificate)).start().await;
    let options = ConnectOptions::new().add_root_certificates(authority.certificate.clone());
    assert_takes_part(&server, &secure, options).await;
    secure.stop().await;
}

#[tokio::test]
async fn a_host_waits_for_a_server_that_is_not_there_yet() {
    let mut server = Server::prepare("127.0.0.1", Some("core"), JETSTREAM);
    // Somebody else holds the port, counts who knocks, and shuts the door.
    let door = tokio::net::TcpListener::bind(server.address()).await.unwrap();
    let waiting = host(&server).start();
    let opens = async {
        for _ in 0..2 {
            drop(door.accept().await.unwrap());
        }
        drop(door);
        server.resume().await;
    };
    let (host, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(waiting, opens) })
        .await
        .expect("it is ready");
    assert_takes_part(&server, &host, ConnectOptions::new()).await;
    host.stop().await;
}

#[tokio::test]
async fn a_wait_for_a_server_ends_when_the_host_is_told_to_stop() {
    let server = Server::prepare("127.0.0.1", None, "");
    let door = tokio::net::TcpListener::bind(server.address()).await.unwrap();
    let stop = CancellationToken::new();
    let (connection, stopped) = (anonymous(&server), stop.clone());
    let waiting = tokio::spawn(async move {
        connection::connect(Purpose::Rpc, &connection, "test", &stopped).await.map(drop)
    });
    drop(door.accept().await.unwrap());
    stop.cancel();
    let ended = tokio::time::timeout(PATIENCE, waiting).await.expect("it stops").unwrap();
    assert!(matches!(ended, Err(ConnectError::Stopped { .. })), "{ended:?}");
}

pub(crate) fn anonymous(server: &Server) -> Connection {
    let (_, port) = server.address().rsplit_once(':').unwrap();
    Connection {
        servers: vec![server.url()],
        auth: Auth::Anonymous,
        tls: Tls::default(),
        ipv6: false,
        host_text: "127.0.0.1".into(),
        port: port.parse().unwrap(),
    }
}

async fn open_as(server: &Server, auth: Auth, domain: Option<&str>) -> Result<Bucket, OpenError> {
    let connection = Connection { auth, ..anonymous(server) };
    let nats: Nats =
        connection::connect(Purpose::Control, &connection, "test", &CancellationToken::new())
            .await
            .unwrap();
    let name = format!("LATTICEDATA_{}", server.lattice());
    Bucket::open(&nats, domain, &name, Making::of_metadata(1, None)).await
}

pub(crate) async fn open(server: &Server, domain: Option<&str>) -> Result<Bucket, OpenError> {
    open_as(server, Auth::Anonymous, domain).await
}

/// The error of opening a bucket, as text too.
fn failure(opened: Result<Bucket, OpenError>) -> (OpenError, String) {
    let Err(error) = opened else { panic!("the bucket opened") };
    let text = error.to_string();
    (error, text)
}

#[tokio::test]
async fn a_wrong_jetstream_domain_is_named_together_with_the_right_one() {
    let server = Server::start().await;
    let (error, text) = failure(open(&server, Some("other")).await);
    assert!(
        matches!(&error, OpenError::OtherDomain { asked, found } if asked == "other" && found == "core"),
        "{text}"
    );
    assert!(text.contains("WASMCLOUD_JS_DOMAIN"), "{text}");
    // The server's own domain is what is meant when none is asked for.
    assert!(open(&server, None).await.is_ok());

    let server = Server::with_domain(None).await;
    let (error, text) = failure(open(&server, Some("other")).await);
    assert!(matches!(&error, OpenError::ServerHasNoDomain { asked } if asked == "other"), "{text}");
    assert!(text.contains("domain: other"), "{text}");
}

#[tokio::test]
async fn jetstream_that_is_switched_off_is_named() {
    let server = Server::with_config(None, "").await;
    let accounts = "accounts { A: { users: [ { user: a, password: a } ] } }";
    let without_account = Server::with_config(None, &format!("{JETSTREAM} {accounts}")).await;
    let user = Auth::User { user: "a".into(), password: Secret::new("a") };
    for domain in [Some("core"), None] {
        let (error, text) = failure(open(&server, domain).await);
        assert!(matches!(error, OpenError::SwitchedOff { .. }), "{text}");
        // The server has it, the account of this user does not.
        let (error, text) = failure(open_as(&without_account, user.clone(), domain).await);
        assert!(matches!(error, OpenError::SwitchedOff { .. }), "{text}");
    }
}

#[tokio::test]
async fn a_missing_permission_is_named_with_its_subject() {
    let config = r#"authorization { users: [
        { user: publisher, password: x, permissions: { publish: { deny: "$JS.>" } } }
        { user: subscriber, password: x, permissions: { subscribe: { deny: "_INBOX.>" } } } ] }"#;
    let server = Server::with_config(Some("core"), &format!("{JETSTREAM} {config}")).await;
    let open = async |user: &str| {
        let auth = Auth::User { user: user.into(), password: Secret::new("x") };
        failure(open_as(&server, auth, Some("core")).await)
    };
    let (publisher, subscriber) = tokio::join!(open("publisher"), open("subscriber"));
    for ((error, text), subject) in [(publisher, "$JS.API."), (subscriber, "_INBOX.")] {
        assert!(
            matches!(&error, OpenError::NotAllowed { denied, .. } if denied.contains(subject)),
            "{text}"
        );
        assert!(text.contains("_INBOX.>") && text.contains("$KV.>"), "{text}");
    }
}

#[tokio::test]
async fn a_host_that_asks_for_a_wrong_domain_works_alone() {
    let server = Server::start().await;
    let host = host(&server).set("js_domain", "other").start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    caller
        .call(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b""))
        .await
        .expect("an answer");
    let claims = ctl_2024(&server).await.get_claims().await.unwrap();
    assert!(claims.iter().any(|claims| claims["sub"] == ECHO), "{claims:?}");
    assert!(open(&server, Some("core")).await.is_ok_and(|bucket| bucket.consumers_before == 0));
    host.stop().await;
}

#[tokio::test]
async fn what_a_host_kept_in_memory_goes_to_the_bucket_when_there_is_one() {
    let mut server = Server::with_config(Some("core"), "").await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let ctl = ctl_2024(&server).await;
    for contract in ["acme:gone", "acme:kept"] {
        let ack =
            ctl.advertise_link(ECHO, PROVIDER, contract, "default", HashMap::new()).await.unwrap();
        assert!(ack.accepted, "{}", ack.error);
    }
    ctl.remove_link(ECHO, "acme:gone", "default").await.unwrap();

    server.kill();
    server.configure(JETSTREAM);
    server.resume().await;
    let context = jetstream::with_domain(client::nats(&server).await, "core");
    let bucket = eventually("the host makes the bucket", || context_bucket(&context)).await;
    for key in [keys::claims(ECHO), keys::link(&keys::link_hash(ECHO, "acme:kept", "default"))] {
        eventually("the entry arrives", || async { bucket.get(key.clone()).await.ok().flatten() })
            .await;
    }
    let gone = keys::link(&keys::link_hash(ECHO, "acme:gone", "default"));
    assert!(bucket.get(gone).await.unwrap().is_none());
    // Entries written from now on are shared as well.
    let late = keys::link(&keys::link_hash(ECHO, "acme:late", "default"));
    eventually("links go to the bucket", || async {
        let ctl = ctl_2024(&server).await;
        ctl.advertise_link(ECHO, PROVIDER, "acme:late", "default", HashMap::new()).await.ok()?;
        bucket.get(late.clone()).await.ok().flatten()
    })
    .await;
    host.stop().await;
}

async fn context_bucket(context: &jetstream::Context) -> Option<jetstream::kv::Store> {
    context.get_key_value("LATTICEDATA_default").await.ok()
}

/// Two servers as in `core.cfg` and `extender.cfg`, the second a leaf of the first, each with its
/// own JetStream.
async fn hub_and_leaf() -> (Server, Server) {
    let leaf_port = crate::harness::nats::free_port();
    let config = format!("{JETSTREAM} leafnodes {{ listen: \"127.0.0.1:{leaf_port}\" }}");
    let hub = Server::with_config(Some("core"), &config).await;
    let config = format!(
        "jetstream {{ domain: extender, store_dir: \"@DIR@/js\" }}
         leafnodes {{ remotes = [ {{ url: \"nats://127.0.0.1:{leaf_port}\" }} ] }}"
    );
    // Hosts beside either server are told that the lattice is in domain `core`.
    let leaf = Server::with_config(Some("core"), &config).await;
    let context = jetstream::with_domain(client::nats(&leaf).await, "core");
    eventually("the leaf reaches the hub", || async { context.query_account().await.ok() }).await;
    (hub, leaf)
}

#[tokio::test]
async fn hosts_on_a_hub_and_on_a_leaf_are_one_lattice() {
    let (hub, leaf) = hub_and_leaf().await;
    let (at_hub, at_leaf) = (host(&hub).start().await, host(&leaf).start().await);
    // Each is commanded from the other end.
    start(&leaf, &at_hub, &example("ponger"), 1).await;
    start(&hub, &at_leaf, &example("pinger"), 1).await;
    for server in [&hub, &leaf] {
        assert_eq!(ctl_2024(server).await.get_hosts().await.unwrap().len(), 2);
        let claims = ctl_2024(server).await.get_claims().await.unwrap();
        assert!(
            [PINGER, PONGER].iter().all(|id| claims.iter().any(|claims| claims["sub"] == *id)),
            "{claims:?}"
        );
        let caller = Caller::new(server).await;
        let reply = caller
            .call(PINGER, "HttpServer.HandleRequest", http_request("GET", "/", b""))
            .await
            .unwrap();
        let reply: Value = serde_json::from_slice(&client::http_body(&reply)).unwrap();
        assert_eq!(reply, json!({"value": 53}));
    }

    let ack = ctl_2024(&leaf)
        .await
        .advertise_link(ECHO, PROVIDER, "acme:leaf", "default", HashMap::new())
        .await
        .unwrap();
    assert!(ack.accepted, "{}", ack.error);
    // Each host answers for its own end, from what it knows.
    for server in [&hub, &leaf] {
        let ctl = ctl_2024(server).await;
        eventually("the link is known", || async {
            ctl.query_links().await.ok().filter(|links| links.len() == 1)
        })
        .await;
    }
    // There is one bucket, and it is not on the leaf.
    let own = jetstream::with_domain(client::nats(&leaf).await, "extender");
    assert!(own.get_stream("KV_LATTICEDATA_default").await.is_err());
    at_leaf.stop().await;
    at_hub.stop().await;
}

#[tokio::test]
async fn a_leaf_without_its_hub_names_the_domain_it_has() {
    let (mut hub, leaf) = hub_and_leaf().await;
    hub.kill();
    let (asked, found) = eventually("the leaf misses its hub", || async {
        match open(&leaf, Some("core")).await {
            Err(OpenError::OtherDomain { asked, found }) => Some((asked, found)),
            _ => None,
        }
    })
    .await;
    assert_eq!((asked.as_str(), found.as_str()), ("core", "extender"));
}

/// The bytes that the carrier sends and the mirror returns: more than a server delivers before it
/// asks for flow control.
const LARGE: u32 = 6_000_000;

/// Returns what it gets.
fn mirror() -> Guest {
    let body = "(call $request (i32.const 4096) (i32.const 65536))
        (call $response (i32.const 65536) (local.get $len)) (i32.const 1)";
    sign(&roomy(body), &Signing { call_alias: Some("test/mirror".into()), ..Signing::default() })
}

/// Sends many sevens to the mirror and returns the length and the last byte of what comes back; or
/// the error.
fn carrier() -> Guest {
    let body = format!(
        "(memory.fill (i32.const 65536) (i32.const 7) (i32.const {LARGE}))
         (if (result i32)
           (call $host_call (i32.const 100) (i32.const 7) (i32.const 110) (i32.const 11) (i32.const 130) (i32.const 4)
             (i32.const 65536) (i32.const {LARGE}))
         (then
           (memory.fill (i32.const 65536) (i32.const 0) (i32.const {LARGE}))
           (call $host_response (i32.const 65536))
           (i32.store (i32.const 200) (call $host_response_len))
           (i32.store8 (i32.const 204) (i32.load8_u (i32.const {})))
           (call $response (i32.const 200) (i32.const 5)) (i32.const 1))
         (else
           (call $host_error (i32.const 300)) (call $error (i32.const 300) (call $host_error_len)) (i32.const 0)))",
        65536 + LARGE - 1,
    );
    sign(&roomy(&body), &Signing::default())
}

fn roomy(body: &str) -> String {
    let data = r#"(data (i32.const 100) "default") (data (i32.const 110) "test/mirror") (data (i32.const 130) "Echo")"#;
    wapc(body)
        .replace("(export \"memory\") 2)", "(export \"memory\") 100)")
        .replace("(func (export", &format!("{data}\n(func (export"))
}

#[tokio::test]
async fn large_payloads_cross_a_leaf_in_both_directions() {
    let (hub, leaf) = hub_and_leaf().await;
    let (at_hub, at_leaf) = (host(&hub).start().await, host(&leaf).start().await);
    let (carrier, mirror) = (carrier(), mirror());
    for (sends, answers) in [(&at_leaf, &at_hub), (&at_hub, &at_leaf)] {
        start(&hub, sends, &carrier.reference, 1).await;
        start(&hub, answers, &mirror.reference, 1).await;
        let reply = Caller::new(&hub)
            .await
            .call(&carrier.id, "Carry", "")
            .await
            .expect("the payload goes and comes back");
        assert_eq!((&reply[..4], reply[4]), (&LARGE.to_le_bytes()[..], 7));
        let ctl = ctl_2024(&hub).await;
        for (host, guest) in [(sends, &carrier), (answers, &mirror)] {
            ctl.stop_actor(&host.id, &guest.id, None).await.unwrap();
        }
        eventually("both are gone", || async {
            let claims = ctl.get_host_inventory(&sends.id).await.ok()?.actors.len()
                + ctl.get_host_inventory(&answers.id).await.ok()?.actors.len();
            (claims == 0).then_some(())
        })
        .await;
    }
    // The leaf's own JetStream has no part in it.
    let own = jetstream::with_domain(client::nats(&leaf).await, "extender");
    assert!(own.get_stream("OBJ_default").await.is_err());
    at_leaf.stop().await;
    at_hub.stop().await;
}

#[test]
fn the_server_configurations_we_ship_are_valid() {
    for name in ["core.cfg", "extender.cfg"] {
        let dir = tempfile::tempdir().unwrap();
        let user = KeyPair::new_user();
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(name), dir.path().join(name)).unwrap();
        fs::write(dir.path().join("lattice.creds"), jwt::creds("a.b.c", &user.seed().unwrap()))
            .unwrap();
        let binary = crate::harness::nats::binary();
        let test =
            Command::new(binary).args(["-t", "-c", name]).current_dir(dir.path()).output().unwrap();
        assert!(test.status.success(), "{name}: {}", String::from_utf8_lossy(&test.stderr));
    }
}
