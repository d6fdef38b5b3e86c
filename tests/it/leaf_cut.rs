//! Two leaf nodes and a hub, as in `core.cfg` and `extender.cfg`: the hub goes away and comes back.
//! Each side goes on with what it has, refuses what it cannot store, and afterwards both know the
//! same.

use std::{
    collections::{BTreeSet, HashMap},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, kv};
use futures::StreamExt;
use lattice_base::store::jetstream::OpenError;
use lattice_engine::providers::builtin::httpserver;
use lattice_protocol::store::keys;
use serde_json::{Value, json};

use crate::{
    connections,
    harness::{
        ECHO, KVCOUNTER, PINGER, PONGER, PROVIDER, Server, TestHost,
        client::{self, Caller, ctl_2024, http_request, start, start_provider},
        eventually, example, host,
        nats::free_port,
    },
};

/// How long both sides may need to agree after the hub is back.
const CONVERGENCE: Duration = Duration::from_secs(10);
/// How long clients wait for an answer.
const CLIENT: Duration = Duration::from_secs(2);

/// A hub without JetStream, and two leaves with a domain each.
pub(crate) struct Site {
    pub(crate) hub: Server,
    pub(crate) core: Server,
    pub(crate) extender: Server,
}

impl Site {
    pub(crate) async fn start() -> Self {
        let port = free_port();
        let hub =
            Server::with_config(None, &format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}"))
                .await;
        let leaf = |domain: &str| {
            format!(
                "jetstream {{ domain: {domain}, store_dir: \"@DIR@/js\" }}
                 leafnodes {{ remotes = [ {{ url: \"nats://127.0.0.1:{port}\" }} ] }}"
            )
        };
        // Hosts beside either server are told that the lattice is in domain `core`.
        let core = Server::with_config(Some("core"), &leaf("core")).await;
        let extender = Server::with_config(Some("core"), &leaf("extender")).await;
        let site = Self { hub, core, extender };
        site.joined().await;
        site
    }

    async fn joined(&self) {
        let context = jetstream::with_domain(client::nats(&self.extender).await, "core");
        eventually("the extender reaches the core", || async {
            context.query_account().await.ok()
        })
        .await;
    }

    /// Takes the hub away; returns when the extender's server knows.
    pub(crate) async fn cut(&mut self) {
        self.hub.kill();
        eventually("the extender misses the core", || async {
            let asked = connections::open(&self.extender, Some("core")).await;
            matches!(asked, Err(OpenError::OtherDomain { .. })).then_some(())
        })
        .await;
    }

    /// The bucket, from the core's side.
    async fn bucket(&self) -> kv::Store {
        let context = jetstream::with_domain(client::nats(&self.core).await, "core");
        context.get_key_value("LATTICEDATA_default").await.expect("the bucket")
    }
}

/// The contracts of all links that hosts at a server know.
async fn contracts(server: &Server) -> BTreeSet<String> {
    let links = ctl_2024(server).await.query_links().await.unwrap_or_default();
    links.into_iter().map(|link| link.contract_id).collect()
}

async fn claims(server: &Server) -> BTreeSet<String> {
    let claims = ctl_2024(server).await.get_claims().await.unwrap_or_default();
    claims.into_iter().filter_map(|mut claims| claims.remove("sub")).collect()
}

async fn put(server: &Server, contract: &str) {
    client::link(server, ECHO, PROVIDER, contract, &[]).await;
}

/// Puts a link, which is to be refused; returns what the client is told.
async fn refused_put(server: &Server, contract: &str) -> String {
    let began = Instant::now();
    let ctl = ctl_2024(server).await;
    let ack = ctl.advertise_link(ECHO, PROVIDER, contract, "default", HashMap::new()).await;
    let ack = ack.expect("an answer while the client waits");
    assert!(!ack.accepted && began.elapsed() < CLIENT, "{ack:?}");
    ack.error
}

fn assert_names_the_domain(error: &str) {
    for part in ["\"core\"", "cannot be reached", "nothing was stored", "leaf node"] {
        assert!(error.contains(part), "{part:?} in: {error}");
    }
}

async fn page(port: u16) -> Option<String> {
    reqwest::get(format!("http://127.0.0.1:{port}/")).await.ok()?.text().await.ok()
}

async fn ping(server: &Server) -> Value {
    let request = http_request("GET", "/", b"");
    let reply = Caller::new(server)
        .await
        .call(PINGER, "HttpServer.HandleRequest", request)
        .await
        .expect("a pong");
    serde_json::from_slice(&client::http_body(&reply)).expect("JSON")
}

async fn runs(server: &Server, host: &TestHost, actor: &str) -> bool {
    let inventory =
        ctl_2024(server).await.get_host_inventory(&host.id).await.expect("an inventory");
    inventory.actors.iter().any(|found| found.id == actor)
}

#[tokio::test]
async fn without_the_hub_each_side_goes_on_and_with_it_both_know_the_same() {
    let mut site = Site::start().await;
    let at_core = host(&site.core).start().await;
    let (first, second) = (host(&site.extender).start().await, host(&site.extender).start().await);
    start(&site.core, &at_core, &example("echo"), 1).await;
    start(&site.extender, &first, &example("echo"), 1).await;
    start(&site.extender, &first, &example("pinger"), 1).await;
    start(&site.extender, &second, &example("ponger"), 1).await;
    start_provider(&site.extender, &first, "builtin://httpserver").await;
    let (port, later_port) = (free_port(), free_port());
    let address = format!("127.0.0.1:{port}");
    let spec = &httpserver::SPEC;
    client::link_builtin(&site.core, ECHO, spec, &[("address", &address)]).await;
    for contract in ["acme:kept", "acme:gone"] {
        put(&site.core, contract).await;
    }
    eventually("the page is there", || page(port)).await;
    let known =
        BTreeSet::from(["acme:gone", "acme:kept", spec.known.contract_id].map(str::to_owned));
    eventually("the extender knows", || async {
        (contracts(&site.extender).await == known).then_some(())
    })
    .await;

    site.cut().await;
    // The extender's side: calls between its hosts, pages, queries.
    assert_eq!(ping(&site.extender).await, json!({"value": 53}));
    assert!(page(port).await.is_some());
    let ctl = ctl_2024(&site.extender).await;
    assert_eq!(ctl.get_hosts().await.unwrap().len(), 2);
    assert_eq!(ctl_2024(&site.core).await.get_hosts().await.unwrap().len(), 1);
    assert_eq!(contracts(&site.extender).await, known);
    // Writes to the bucket are refused, in time, and not half done.
    assert_names_the_domain(&refused_put(&site.extender, "acme:refused").await);
    let began = Instant::now();
    let ack = ctl.remove_link(ECHO, "acme:kept", "default").await.unwrap();
    assert!(!ack.accepted && began.elapsed() < CLIENT, "{ack:?}");
    assert_names_the_domain(&ack.error);
    let nats = client::nats(&site.extender).await;
    let began = Instant::now();
    let ack = nats
        .request(format!("wasmbus.ctl.default.config.put.{ECHO}.colour"), "red".into())
        .await
        .unwrap();
    let ack: Value = serde_json::from_slice(&ack.payload).unwrap();
    assert!(ack["accepted"] == false && began.elapsed() < CLIENT, "{ack}");
    assert_names_the_domain(ack["error"].as_str().unwrap());
    assert_eq!(contracts(&site.extender).await, known);
    // Actors start and stop; their host knows them at once, and answers every other query.
    start(&site.extender, &second, &example("kvcounter"), 1).await;
    eventually("its host knows it", || async {
        claims(&site.extender).await.contains(KVCOUNTER).then_some(())
    })
    .await;
    ctl.stop_actor(&second.id, PONGER, None).await.unwrap();
    assert!(!runs(&site.extender, &second, PONGER).await);
    start(&site.extender, &first, &example("ponger"), 1).await;
    assert_eq!(ping(&site.extender).await, json!({"value": 53}));

    // The core's side goes on too.
    let mut wire =
        nats.subscribe(format!("wasmbus.rpc.default.{PROVIDER}.default.linkdefs.*")).await.unwrap();
    crate::harness::client::settled(&nats).await;
    put(&site.core, "acme:new").await;
    ctl_2024(&site.core).await.remove_link(ECHO, "acme:gone", "default").await.unwrap();
    let address = format!("127.0.0.1:{later_port}");
    client::link_builtin(&site.core, ECHO, spec, &[("address", &address)]).await;
    start(&site.core, &at_core, &example("fetcher"), 1).await;

    site.hub.resume().await;
    let began = Instant::now();
    let known =
        BTreeSet::from(["acme:kept", "acme:new", spec.known.contract_id].map(str::to_owned));
    eventually("both sides know the same links", || async {
        (contracts(&site.extender).await == known && contracts(&site.core).await == known)
            .then_some(())
    })
    .await;
    eventually("both sides know the same claims", || async {
        let (here, there) = (claims(&site.extender).await, claims(&site.core).await);
        (here == there && here.contains(KVCOUNTER)).then_some(())
    })
    .await;
    let bucket = site.bucket().await;
    eventually("the claims are in the bucket", || async {
        bucket.get(keys::claims(KVCOUNTER)).await.ok().flatten()
    })
    .await;
    eventually("the page moved", || page(later_port)).await;
    assert!(page(port).await.is_none());
    // Providers with a process of their own hear of it on the wire.
    let mut told = BTreeSet::new();
    while !told.contains("put") || !told.contains("del") {
        let message = wire.next().await.expect("a link");
        told.insert(message.subject.rsplit('.').next().unwrap_or_default().to_owned());
    }
    assert_eq!(ctl_2024(&site.core).await.get_hosts().await.unwrap().len(), 3);
    assert!(began.elapsed() < CONVERGENCE, "{:?}", began.elapsed());
    for host in [at_core, first, second] {
        host.stop().await;
    }
}

#[tokio::test]
async fn a_host_that_starts_without_its_domain_works_and_joins_it_later() {
    let mut site = Site::start().await;
    let (at_core, before) = (host(&site.core).start().await, host(&site.extender).start().await);
    put(&site.core, "acme:one").await;
    start(&site.core, &at_core, &example("ponger"), 1).await;
    let one = BTreeSet::from(["acme:one".to_owned()]);
    eventually("the extender knows", || async {
        (contracts(&site.extender).await == one).then_some(())
    })
    .await;
    site.cut().await;

    let late = host(&site.extender).start().await;
    // The host that knows more answers; one that knows nothing answers only when no other does.
    for _ in 0..10 {
        assert_eq!(contracts(&site.extender).await, one);
    }
    before.stop().await;
    assert_eq!(contracts(&site.extender).await, BTreeSet::new());
    start(&site.extender, &late, &example("echo"), 1).await;
    let request = http_request("GET", "/", b"");
    Caller::new(&site.extender)
        .await
        .call(ECHO, "HttpServer.HandleRequest", request)
        .await
        .expect("an answer");
    assert!(claims(&site.extender).await.contains(ECHO));
    assert_names_the_domain(&refused_put(&site.extender, "acme:refused").await);

    let mut events = client::Events::all(&site.extender).await;
    site.hub.resume().await;
    let began = Instant::now();
    // The answers of hosts grow, and never shrink while this one joins them.
    eventually("links are known", || async {
        (contracts(&site.extender).await == one).then_some(())
    })
    .await;
    let mut synced = late.host().links().synced();
    let stays_known = async {
        loop {
            assert_eq!(contracts(&site.extender).await, one);
        }
    };
    tokio::select! {
        known = synced.wait_for(|is_known| *is_known) => drop(known.expect("it is told")),
        () = stays_known => {}
    }
    for _ in 0..20 {
        assert_eq!(contracts(&site.extender).await, one);
    }
    let bucket = site.bucket().await;
    eventually("its claims are in the bucket", || async {
        bucket.get(keys::claims(ECHO)).await.ok().flatten()
    })
    .await;
    eventually("it knows the lattice", || async {
        (contracts(&site.extender).await.contains("acme:one")
            && claims(&site.extender).await.contains(PONGER))
        .then_some(())
    })
    .await;
    assert!(began.elapsed() < CONVERGENCE, "{:?}", began.elapsed());
    eventually("links can be put", || async {
        let ctl = ctl_2024(&site.extender).await;
        let ack =
            ctl.advertise_link(ECHO, PROVIDER, "acme:two", "default", HashMap::new()).await.ok()?;
        ack.accepted.then_some(())
    })
    .await;
    assert_eq!(
        contracts(&site.core).await,
        BTreeSet::from(["acme:one", "acme:two"].map(str::to_owned))
    );
    late.stop().await;
    let names = events.names_until("host_stopped").await;
    // A link from before is no news.
    assert!(names.iter().filter(|name| *name == "linkdef_set").count() <= 2, "{names:?}");
    at_core.stop().await;
}

#[tokio::test]
async fn a_frozen_hub_is_noticed_and_nothing_refused_is_stored_when_it_thaws() {
    let site = Site::start().await;
    let (at_core, at_extender) =
        (host(&site.core).start().await, host(&site.extender).start().await);
    put(&site.core, "acme:before").await;
    eventually("the extender knows", || async {
        contracts(&site.extender).await.contains("acme:before").then_some(())
    })
    .await;
    // No connection breaks, so at first nobody can tell what became of a write.
    site.hub.freeze().await;
    let began = Instant::now();
    loop {
        let error = refused_put(&site.extender, "acme:unclear").await;
        if error.contains("nothing was stored") {
            assert_names_the_domain(&error);
            break;
        }
        assert!(error.contains("\"core\"") && error.contains("the outcome is unknown"), "{error}");
        assert!(began.elapsed() < CONVERGENCE, "{error}");
    }
    assert_names_the_domain(&refused_put(&site.extender, "acme:refused").await);
    put(&site.core, "acme:meanwhile").await;

    site.hub.thaw();
    let began = Instant::now();
    eventually("both sides know the same", || async {
        let (here, there) = (contracts(&site.extender).await, contracts(&site.core).await);
        (here == there && here.contains("acme:meanwhile") && here.contains("acme:before"))
            .then_some(())
    })
    .await;
    assert!(began.elapsed() < CONVERGENCE, "{:?}", began.elapsed());
    put(&site.extender, "acme:after").await;
    assert!(!contracts(&site.core).await.contains("acme:refused"));
    at_extender.stop().await;
    at_core.stop().await;
}

#[tokio::test]
async fn a_hub_that_restarts_five_times_loses_no_link() {
    let mut site = Site::start().await;
    let (at_core, at_extender) =
        (host(&site.core).start().await, host(&site.extender).start().await);
    let is_over = AtomicBool::new(false);
    let (core, extender, hub) = (&site.core, &site.extender, &mut site.hub);
    let restarts = async {
        for _ in 0..5 {
            hub.kill();
            hub.resume().await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let puts = async {
        let ctl = ctl_2024(core).await;
        let mut count = 0;
        while !is_over.load(Ordering::Relaxed) {
            let contract = format!("acme:{count}");
            let ack = ctl
                .advertise_link(ECHO, PROVIDER, &contract, "default", HashMap::new())
                .await
                .expect("an ack");
            assert!(ack.accepted, "{}", ack.error);
            count += 1;
        }
        count
    };
    let reads = async {
        let ctl = ctl_2024(extender).await;
        let mut known = 0;
        while !is_over.load(Ordering::Relaxed) {
            let links = ctl.query_links().await.expect("an answer").len();
            assert!(links >= known, "{known} links became {links}");
            known = links;
        }
    };
    let ((), count, ()) = tokio::join!(restarts, puts, reads);
    let began = Instant::now();
    eventually("the extender knows every link", || async {
        (contracts(&site.extender).await.len() == count).then_some(())
    })
    .await;
    assert!(began.elapsed() < CONVERGENCE, "{:?}", began.elapsed());
    at_extender.stop().await;
    at_core.stop().await;
}
