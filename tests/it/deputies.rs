//! Attacks that use the rights of a host: it must not answer on a subject of commands, nor reach
//! with a built-in provider anything its caller could not reach.

use std::{collections::HashMap, sync::Arc};

use async_nats::ConnectOptions;
use futures::StreamExt;
use lattice_engine::providers::{
    bounds::{LinkPaths, OwnSockets},
    builtin::{LinkError, Spec, blobstore, httpclient, httpserver, keyvalue, messaging},
};
use serde_json::{Value, json};
use wasmbus_rpc::common::serialize;
use wasmcloud_interface_httpclient::HttpRequest;

use crate::harness::{
    ECHO, FETCHER, PATIENCE, Server, TestHost, builtin,
    client::{self, ctl_2024, start, start_provider},
    eventually, example, host,
    nats::free_port,
    origin::{Origin, Proxy},
};

/// Users who may ask, each in one way, and nothing else; a host; and ears for everything.
const USERS: &str = r#"
    jetstream { domain: core, store_dir: "@DIR@/js" }
    authorization { users: [
        { user: host, password: secret }
        { user: observer, password: secret, permissions: {
            publish: ["wasmbus.ctl.default.ping.hosts", "wasmbus.ctl.default.get.>", "wasmbus.ctl.default.probe.>"]
            subscribe: ["_INBOX.>", "replies.>"] } }
        { user: caller, password: secret, permissions: {
            publish: ["wasmbus.rpc.default.>"], subscribe: ["_INBOX.>"] } }
        { user: judge, password: secret, permissions: { publish: ["rules.changes"], subscribe: ["_INBOX.>"] } }
    ] }
"#;

async fn user(server: &Server, name: &str) -> async_nats::Client {
    let options = ConnectOptions::with_user_and_password(name.into(), "secret".into());
    options.connect(server.url()).await.expect("connected")
}

/// Asks a question and waits until the host has refused to answer it there.
async fn is_refused(
    host: &TestHost,
    asker: &async_nats::Client,
    subject: &str,
    question: &str,
    reply: &str,
) {
    let before = host.host().answers().refused();
    asker
        .publish_with_reply(subject.to_owned(), reply.to_owned(), question.to_owned().into())
        .await
        .expect("a question may be asked");
    eventually(&format!("{subject} with the reply subject {reply} is not answered"), || async {
        (host.host().answers().refused() > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_may_only_ask_commands_nobody_by_a_reply_subject() {
    let server = Server::with_config(Some("core"), USERS).await;
    let as_host = |builder: crate::harness::HostBuilder| {
        builder.set("nats_user", "host").set("nats_password", "secret")
    };
    let host = as_host(host(&server))
        .set("policy_topic", "rules.ask")
        .set("policy_changes_topic", "rules.changes")
        .set("inbox_prefixes", "replies")
        .start()
        .await;
    let owner = user(&server, "host").await;
    let mut heard = owner.subscribe(">").await.expect("subscribed");
    crate::harness::client::settled(&owner).await;
    let (observer, caller, judge) = (
        user(&server, "observer").await,
        user(&server, "caller").await,
        user(&server, "judge").await,
    );

    let id = &host.id;
    let stranger = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";
    let hello = json!({"host": stranger, "life": 1, "roster": 0, "hello": true}).to_string();
    let follow = json!({"entity": ECHO, "follow": "me", "tail": 10}).to_string();
    let probe = |name: &str| format!("wasmbus.ctl.default.probe.{id}.{name}");
    let questions = [
        (&observer, "wasmbus.ctl.default.ping.hosts".to_owned(), String::new()),
        (&observer, "wasmbus.ctl.default.get.links".to_owned(), String::new()),
        (&observer, "wasmbus.ctl.default.get.claims".to_owned(), String::new()),
        (&observer, format!("wasmbus.ctl.default.get.{id}.inv"), String::new()),
        (&observer, probe("health"), String::new()),
        (&observer, probe("calls"), String::new()),
        (&observer, probe("logs"), follow),
        (&caller, "wasmbus.rpc.default.hosts".to_owned(), hello),
        (&caller, format!("wasmbus.rpc.default.{id}"), "roster".to_owned()),
        (
            &judge,
            "rules.changes".to_owned(),
            json!({"requestId": "x", "permitted": true}).to_string(),
        ),
    ];
    let replies = [
        format!("wasmbus.ctl.default.cmd.{id}.stop"),
        format!("wasmbus.ctl.default.cmd.{stranger}.stop"),
        "wasmbus.ctl.default.registries.put".to_owned(),
        "wasmbus.ctl.default.linkdefs.put".to_owned(),
        format!("wasmbus.rpc.default.{ECHO}"),
        "wasmbus.evt.default".to_owned(),
        "wadm.api.default.model.put".to_owned(),
        format!("$KV.LATTICEDATA_default.CLAIMS_{ECHO}"),
        "$JS.core.API.STREAM.PURGE.KV_LATTICEDATA_default".to_owned(),
        "rules.ask".to_owned(),
        "orders.new".to_owned(),
        "replies".to_owned(),
        "_INBOX.>".to_owned(),
        "_INBOX..x".to_owned(),
    ];
    for (asker, subject, question) in &questions {
        for reply in &replies {
            is_refused(&host, asker, subject, question, reply).await;
        }
    }
    // It is there, it answers where it may, and nothing it said went to any of those subjects.
    for reply in ["replies.observer.1", "_INBOX.observer.1"] {
        let mut answers = observer.subscribe(reply).await.expect("subscribed");
        observer
            .publish_with_reply("wasmbus.ctl.default.ping.hosts", reply, "".into())
            .await
            .expect("asked");
        tokio::time::timeout(PATIENCE, answers.next())
            .await
            .expect("an answer")
            .expect("an answer");
    }
    owner.publish("the.end", "".into()).await.expect("published");
    while let Some(message) =
        tokio::time::timeout(PATIENCE, heard.next()).await.expect("the end is heard")
    {
        if message.subject.as_str() == "the.end" {
            break;
        }
        let is_asked = questions.iter().any(|(_, subject, _)| *message.subject == **subject);
        let is_event = message.subject.starts_with("wasmbus.evt.default")
            && serde_json::from_slice::<Value>(&message.payload)
                .is_ok_and(|event| event["specversion"].is_string());
        assert!(
            is_asked || is_event || !replies.iter().any(|reply| *message.subject == **reply),
            "{message:?}"
        );
    }
    host.stop().await;
}

#[tokio::test]
async fn an_actor_a_provider_and_the_health_of_one_answer_to_inboxes_only() {
    let server = Server::start().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    start_provider(&server, &host, "builtin://keyvalue").await;
    let nats = client::nats(&server).await;
    let key = keyvalue::SPEC.known.public_key;
    let stop = format!("wasmbus.ctl.default.cmd.{}.stop", host.id);
    for subject in [
        format!("wasmbus.rpc.default.{ECHO}"),
        format!("wasmbus.rpc.default.{ECHO}.{}", host.id),
        format!("wasmbus.rpc.default.{key}.default"),
        format!("wasmbus.rpc.default.{key}.default.health"),
    ] {
        is_refused(&host, &nats, &subject, "{}", &stop).await;
        let answer = nats.request(subject.clone(), "{}".into()).await;
        assert!(answer.is_ok(), "{subject}: {answer:?}");
    }
    // The oldest library of providers has inboxes without a root.
    let mut bare = nats.subscribe("7Kx0PqLm3NvTzY8bWc5RdA").await.expect("subscribed");
    let subject = format!("wasmbus.rpc.default.{ECHO}");
    nats.publish_with_reply(subject, "7Kx0PqLm3NvTzY8bWc5RdA", "{}".into()).await.expect("asked");
    tokio::time::timeout(PATIENCE, bare.next()).await.expect("an answer").expect("an answer");
    assert_eq!(ctl_2024(&server).await.get_hosts().await.expect("hosts").len(), 1);
    host.stop().await;
}

/// An actor with an HTTP client that fetches what it is asked to: the host, its page, and the
/// values of its link.
struct Fetching {
    server: Server,
    host: TestHost,
    page: String,
}

impl Fetching {
    /// A host with a dashboard, and an actor that fetches for whoever asks its page.
    async fn start(values: &[(&str, &str)]) -> Self {
        let server = Server::start().await;
        let host = host(&server).set("dashboard_port", &free_port().to_string()).start().await;
        start_provider(&server, &host, "builtin://httpserver").await;
        start_provider(&server, &host, "builtin://httpclient").await;
        start(&server, &host, &example("fetcher"), 4).await;
        let address = format!("127.0.0.1:{}", free_port());
        let page = [("address", &*address)];
        client::link(
            &server,
            FETCHER,
            httpserver::SPEC.known.public_key,
            "wasmcloud:httpserver",
            &page,
        )
        .await;
        client::link(
            &server,
            FETCHER,
            httpclient::SPEC.known.public_key,
            "wasmcloud:httpclient",
            values,
        )
        .await;
        eventually("the page is there", || async { std::net::TcpStream::connect(&address).ok() })
            .await;
        Self { server, host, page: format!("http://{address}/") }
    }

    fn dashboard(&self) -> u16 {
        self.host.host().dashboard().expect("a dashboard").address.port()
    }

    /// Has the actor make a request; returns the status and the text of the answer.
    async fn fetch(&self, method: reqwest::Method, url: &str) -> (u16, String) {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let asked =
            client.request(method, &self.page).query(&[("url", url)]).body("an archive").send();
        let answer = asked.await.expect("an answer of the actor");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }
}

/// Everything that a link can allow.
const GENEROUS: [(&str, &str); 3] = [
    ("allow_loopback", "true"),
    ("allow_link_local", "true"),
    ("allowed_hosts", "*,localhost,127.0.0.1,0.0.0.0,[::1],own.example,led.example"),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_reaches_neither_the_dashboard_nor_the_nats_server_whatever_its_link_says() {
    let origin = Origin::start().await;
    let resolve = [("resolve", "own.example=127.0.0.1")];
    let fetching = Fetching::start(&[&GENEROUS[..], &resolve].concat()).await;
    // Another host on this machine, which this one does not know of, does not take it either.
    let other =
        host(&fetching.server).set("dashboard_port", &free_port().to_string()).start().await;
    let neighbour = other.host().dashboard().expect("a dashboard").address;
    let (status, text) =
        fetching.fetch(reqwest::Method::GET, &format!("http://{neighbour}/api/v1/hosts")).await;
    assert!(status == 403 && text.contains("actors may not"), "{status} {text}");
    other.stop().await;
    // The link works, on this very machine.
    let (status, text) = fetching.fetch(reqwest::Method::GET, &origin.url("/status/418")).await;
    assert_eq!(status, 418, "{text}");

    let nats: u16 =
        fetching.server.address().rsplit_once(':').expect("a port").1.parse().expect("a port");
    let lan = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let mut hosts: Vec<String> = [
        "127.0.0.1",
        "127.0.0.1.",
        "localhost",
        "LOCALHOST",
        "127.1",
        "127.9.9.9",
        "2130706433",
        "0x7f.1",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "own.example",
    ]
    .map(str::to_owned)
    .to_vec();
    hosts.extend(lan.ok().map(|address| address.ip().to_string()));
    for port in [fetching.dashboard(), nats] {
        for host in &hosts {
            for (method, path) in
                [(reqwest::Method::GET, "api/v1/hosts"), (reqwest::Method::POST, "api/v1/uploads")]
            {
                let url = format!("http://{host}:{port}/{path}");
                let (status, text) = fetching.fetch(method, &url).await;
                assert_eq!(status, 502, "{url}: {text}");
                assert!(
                    text.contains("a socket of the host itself or of its NATS server"),
                    "{url}: {text}"
                );
            }
        }
        let redirect = origin.url(&format!("/redirect/307?http://127.0.0.1:{port}/api/v1/uploads"));
        let (status, text) = fetching.fetch(reqwest::Method::POST, &redirect).await;
        assert!(status == 502 && text.contains("a socket of the host itself"), "{status} {text}");
        // The port of an address that the link fixes.
        let led = format!("own.example=127.0.0.1,led.example=127.0.0.1:{port}");
        let values = [&GENEROUS[..], &[("resolve", &*led)]].concat();
        client::link(
            &fetching.server,
            FETCHER,
            httpclient::SPEC.known.public_key,
            "wasmcloud:httpclient",
            &values,
        )
        .await;
        let refused = eventually("the link has its new values", || async {
            let (_, text) = fetching.fetch(reqwest::Method::GET, "http://led.example/").await;
            (!text.contains("cannot be resolved")).then_some(text)
        });
        assert!(refused.await.contains("a socket of the host itself"));
    }
    fetching.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_reaches_nothing_else_of_its_machine_unless_the_link_says_so() {
    let origin = Origin::start().await;
    let fetching = Fetching::start(&[]).await;
    for host in ["127.0.0.1", "localhost", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let url = format!("http://{host}:{}/x", origin.port);
        let (status, text) = fetching.fetch(reqwest::Method::GET, &url).await;
        assert!(status == 502 && text.contains("allow_loopback=true"), "{url}: {status} {text}");
    }
    fetching.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_no_way_to_an_own_socket() {
    let server = Server::start().await;
    let host = host(&server).set("dashboard_port", &free_port().to_string()).start().await;
    let dashboard = host.host().dashboard().expect("a dashboard").address;
    let (proxy, dir) = (Proxy::start().await, tempfile::tempdir().expect("a directory"));
    let mut context =
        builtin::context(&server, &httpclient::SPEC, dir.path(), HashMap::new()).await;
    context.bounds.sockets = host.host().own_sockets().clone();
    let fetch = async |proxy: &str, url: &str| {
        let values = [&GENEROUS[..], &[("proxy", proxy)]].concat();
        let provider = (httpclient::SPEC.build)(context.clone());
        let link = provider.link(builtin::link(&httpclient::SPEC, &values)).await.expect("a link");
        let request = serialize(&HttpRequest::get(url)).expect("encoded");
        builtin::call(&link, &httpclient::SPEC, "HttpClient.Request", request).await
    };
    let good = format!("http://user:secret@127.0.0.1:{}", proxy.port);
    for (proxy, url) in [
        (&good, format!("http://{dashboard}/api/v1/hosts")),
        (&good, format!("http://localhost:{}/api/v1/hosts", dashboard.port())),
        (&good, format!("http://[::ffff:127.0.0.1]:{}/", dashboard.port())),
        // A dashboard takes what is meant for a proxy for its own.
        (&format!("http://{dashboard}"), "http://far.example/api/v1/hosts".to_owned()),
        (
            &format!("http://localhost:{}", dashboard.port()),
            "http://far.example/api/v1/hosts".to_owned(),
        ),
        (&server.url().replace("nats:", "http:"), "https://far.example/".to_owned()),
    ] {
        let error = fetch(proxy, &url).await.expect_err(&url).to_string();
        assert!(error.contains("a socket of the host itself"), "{proxy} {url}: {error}");
    }
    assert_eq!(proxy.log(), Vec::<String>::new());
    host.stop().await;
}

#[tokio::test]
async fn no_link_listens_in_the_place_of_the_host_or_its_nats_server() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let mut context =
        builtin::context(&server, &httpserver::SPEC, dir.path(), HashMap::new()).await;
    let port = free_port();
    context.bounds.sockets = OwnSockets::default();
    context.bounds.sockets.add(([127, 0, 0, 1], port).into());
    let provider = (httpserver::SPEC.build)(context);
    for host in ["127.0.0.1", "0.0.0.0", "[::]", "localhost"] {
        let address = format!("{host}:{port}");
        let values = [("address", &*address)];
        let refused = Arc::clone(&provider).link(builtin::link(&httpserver::SPEC, &values)).await;
        let error = refused.err().expect("the address is taken").to_string();
        assert!(error.contains("where the host itself or its NATS server listens"), "{error}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn files_that_links_name_are_ordinary_small_and_below_link_paths() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let pipe = dir.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0)
        .expect("a pipe");
    let large = dir.path().join("large.pem");
    std::fs::File::create(&large).and_then(|file| file.set_len(1 << 40)).expect("a hole");
    let secret = dir.path().join("host_config.json");
    std::fs::write(&secret, r#""SCAA-not-to-be-told""#).expect("written");
    let paths = [&pipe, &large, &secret, dir.path()].map(|path| path.display().to_string());
    let paths = paths
        .into_iter()
        .chain(["/dev/zero", "/dev/stdin", "/proc/self/environ", "/etc/shadow"].map(str::to_owned));
    let url = server.url();
    for path in paths {
        let tls = ["tls_cert_file", "tls_key_file"].map(|name| (name, &*path));
        let cases: [(&'static Spec, &[(&str, &str)]); 4] = [
            (&httpclient::SPEC, &[("ca_file", &*path)]),
            (&messaging::SPEC, &[("uri", &*url), ("ca_file", &*path)]),
            (&httpserver::SPEC, &tls),
            (&httpserver::SPEC, &[("config_file", &*path)]),
        ];
        for (spec, values) in cases {
            let context = builtin::context(&server, spec, dir.path(), HashMap::new()).await;
            let taken = (spec.build)(context).link(builtin::link(spec, values));
            let taken =
                tokio::time::timeout(PATIENCE, taken).await.expect("it does not take for ever");
            let error = taken.err().expect("none of these is what it should be");
            let text = error.to_string();
            assert!(
                !text.contains("not-to-be-told") && !text.contains("root:"),
                "{} {path}: {text}",
                spec.known.name
            );
            let mut context = builtin::context(&server, spec, dir.path(), HashMap::new()).await;
            context.bounds.paths = LinkPaths::new(vec!["/nowhere".into()]);
            let outside = (spec.build)(context).link(builtin::link(spec, values)).await;
            let text = outside.err().expect("nothing is below that").to_string();
            assert!(
                text.contains("link_paths") || text.contains("cannot be read"),
                "{} {path}: {text}",
                spec.known.name
            );
        }
    }
}

#[tokio::test]
async fn objects_go_only_into_directories_that_were_made_for_them() {
    let server = Server::start().await;
    let (dir, home) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    std::fs::write(home.path().join(".profile"), "").expect("written");
    let context = builtin::context(&server, &blobstore::SPEC, dir.path(), HashMap::new()).await;
    let provider = (blobstore::SPEC.build)(context);
    let taken = async |root: &str| {
        Arc::clone(&provider)
            .link(builtin::link(&blobstore::SPEC, &[("root", root)]))
            .await
            .map(drop)
    };
    let home = home.path().display().to_string();
    for root in
        ["/", "/etc", "/proc/self", "/usr/bin/env", "/no/such", &home, &format!("{home}/new")]
    {
        let error = taken(root).await.expect_err(root).to_string();
        assert!(error.contains("link value root") && error.contains(root), "{error}");
    }
    assert_eq!(std::fs::read_dir(&home).expect("a directory").count(), 1);
    let made = tempfile::tempdir().expect("a directory");
    for _ in 0..2 {
        taken(&made.path().display().to_string())
            .await
            .expect("an empty directory, and one with stores");
    }
}

#[tokio::test]
async fn no_link_keeps_its_data_in_a_bucket_of_the_hosts() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    for spec in [&keyvalue::SPEC, &blobstore::SPEC] {
        for bucket in [
            "LATTICEDATA_default",
            "ARTIFACTS_default",
            "ARTIFACTS_other",
            "CONFIGDATA_default",
            "DESIREDDATA_default",
            "wadm_manifests",
            "default",
        ] {
            let context = builtin::context(&server, spec, dir.path(), HashMap::new()).await;
            let mut values = vec![("bucket", bucket)];
            values.extend((spec.known.name == "blobstore").then_some(("backend", "nats")));
            let error =
                (spec.build)(context).link(builtin::link(spec, &values)).await.err().expect(bucket);
            assert!(
                matches!(&error, LinkError::Values(text) if text.contains("another bucket")),
                "{error}"
            );
        }
    }
}
