//! Components as the SDKs of other languages make them: built here by their package clients, and
//! asked from two hosts, with calls on the local path and over NATS.

use std::time::Duration;

use lattice_engine::providers::builtin::{Spec, httpclient, httpserver, keyvalue};
use lattice_protocol::identity::wasm::inspect;
use serde_json::json;
use wascap::prelude::KeyPair;

use crate::harness::{
    ECHO, KVCOUNTER, Server, TestHost,
    client::{link_builtin, start, start_instead, start_provider},
    eventually, example,
    guests::{Guest, Signing, sign_module},
    host,
    nats::free_port,
    origin::Origin,
    toolchains::{JAVASCRIPT, PYTHON, Recipe, SPIN_JAVASCRIPT, SPIN_PYTHON},
};

/// The time in which a loaded machine has compiled a guest of 25 MB.
const COMPILED: Duration = Duration::from_secs(300);

/// Milliseconds that calls may take on a loaded machine.
const PATIENT: &str = "20000";

/// Two hosts of one lattice; the first has the providers.
struct Pair {
    server: Server,
    hosts: [TestHost; 2],
    address: String,
}

impl Pair {
    async fn start(local_calls: &str, rpc_timeout_ms: &str) -> Self {
        let server = Server::start().await;
        let member = host(&server).set("local_calls", local_calls);
        let member = member.set("rpc_timeout_ms", rpc_timeout_ms);
        let hosts = [member.clone().start().await, member.start().await];
        for spec in [&httpserver::SPEC, &keyvalue::SPEC] {
            start_provider(&server, &hosts[0], &format!("builtin://{}", spec.known.name)).await;
        }
        Self { server, hosts, address: format!("127.0.0.1:{}", free_port()) }
    }

    async fn link(&self, actor: &str, spec: &Spec, values: &[(&str, &str)]) {
        link_builtin(&self.server, actor, spec, values).await;
    }

    /// Links an actor to the page at a path, and to the store.
    async fn serve(&self, actor: &str, path: &str) {
        self.link(actor, &keyvalue::SPEC, &[]).await;
        let values = [("address", self.address.as_str()), ("path", path)];
        self.link(actor, &httpserver::SPEC, &values).await;
    }

    /// Runs a guest on one of the hosts and nowhere else.
    async fn run_only_on(&self, at: usize, guest: &Guest) {
        let hosts = (&self.hosts[at], &self.hosts[1 - at]);
        start_instead(COMPILED, &self.server, hosts, guest).await;
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        self.ask(client().get(self.url(path))).await
    }

    async fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> Option<(u16, String)> {
        self.ask(client().post(self.url(path)).body(body.into())).await
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Option<(u16, String)> {
        let answer = request.send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits until a path is answered with success, and returns what it says.
    async fn answered(&self, path: &str) -> String {
        eventually("it answers", async || {
            let (status, body) = self.get(path).await?;
            (status == 200).then_some(body)
        })
        .await
    }

    async fn stop(self) {
        for host in self.hosts {
            host.stop().await;
        }
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

/// Signs a component for all that it imports, as `host claims sign` does.
fn signed(wasm: &[u8]) -> Guest {
    let info = inspect(wasm).expect("a component");
    let caps = info.contracts().into_iter().map(str::to_owned).collect();
    sign_module(wasm, &Signing { caps, ..Signing::default() }, KeyPair::new_module())
}

/// Builds a guest; off the threads of the runtime, since it takes a minute.
async fn built(recipe: &'static Recipe) -> Guest {
    let wasm = tokio::task::spawn_blocking(|| recipe.component()).await.expect("it is built");
    signed(&wasm)
}

/// Has a guest checked on the host that has the providers, and on the other one; with local calls
/// and without.
async fn on_two_hosts(recipe: &'static Recipe, check: impl AsyncFn(&Pair)) {
    let guest = built(recipe).await;
    for local_calls in ["true", "false"] {
        let pair = Pair::start(local_calls, PATIENT).await;
        pair.serve(&guest.id, "/").await;
        for at in [0, 1] {
            pair.run_only_on(at, &guest).await;
            check(&pair).await;
        }
        pair.stop().await;
    }
}

/// The number that a page of visitors shows.
fn visitor(page: &str) -> u64 {
    let (_, number) = page.split_once("You are visitor ").expect(page);
    number.trim().trim_end_matches('.').parse().expect(page)
}

async fn counts_its_visitors(pair: &Pair) {
    let first = visitor(&pair.answered("/").await);
    let (status, page) = pair.get("/").await.expect("an answer");
    assert_eq!((status, visitor(&page)), (200, first + 1));
    assert_eq!(pair.get("/favicon.ico").await, Some((404, "No such page.\n".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_componentize_js_counts_its_visitors_on_two_hosts() {
    on_two_hosts(&JAVASCRIPT, counts_its_visitors).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_componentize_py_counts_its_visitors_on_two_hosts() {
    on_two_hosts(&PYTHON, counts_its_visitors).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_of_spins_javascript_answers_on_two_hosts() {
    on_two_hosts(&SPIN_JAVASCRIPT, async |pair| {
        // Its router writes what is no response as JSON.
        assert_eq!(pair.answered("/hello/Ada").await, "\"Hello, Ada!\"");
        assert_eq!(pair.post("/echo", "to and fro").await, Some((201, "to and fro".into())));
        assert_eq!(pair.get("/nothing").await.map(|(status, _)| status), Some(404));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_wasi_0_3_by_spins_python_answers_on_two_hosts() {
    on_two_hosts(&SPIN_PYTHON, async |pair| {
        let hello = "Hello from the Spin Python SDK: GET /hello?x=1";
        assert_eq!(pair.answered("/hello?x=1").await, hello);
        let large = "0123456789abcdef".repeat(20_000);
        assert_eq!(pair.post("/", large.as_str()).await, Some((201, large.clone())));
        eventually("an instance answers more than one request", async || {
            let (_, count) = pair.get("/served").await?;
            (count.parse::<u32>().ok()? > 2).then_some(())
        })
        .await;
        // No text, and still a value of the store.
        let kept = pair.post("/keep/raw", [0xff, 0x00]).await;
        assert_eq!(kept, Some((200, "True True".into())));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_wasi_0_3_asks_others_and_ends_with_its_call() {
    let guest = built(&SPIN_PYTHON).await;
    let pair = Pair::start("true", "2000").await;
    pair.run_only_on(0, &guest).await;
    pair.serve(&guest.id, "/").await;
    let origin = Origin::start().await;
    start_provider(&pair.server, &pair.hosts[0], "builtin://httpclient").await;
    pair.link(&guest.id, &httpclient::SPEC, &[("allow_loopback", "true")]).await;
    let hello = "Hello from the Spin Python SDK: GET /";
    assert_eq!(pair.answered("/").await, hello);
    let page = pair.answered(&format!("/fetch?{}", origin.url("/echo"))).await;
    assert!(page.contains("GET"), "{page}");
    for path in ["/compute", "/sleep"] {
        assert_eq!(pair.get(path).await.map(|(status, _)| status), Some(504), "{path}");
        assert_eq!(pair.answered("/").await, hello);
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn components_and_modules_share_a_port_by_path_and_the_counters_of_a_store() {
    let guest = built(&SPIN_PYTHON).await;
    let pair = Pair::start("true", PATIENT).await;
    pair.run_only_on(1, &guest).await;
    for (actor, path) in [(&*guest.id, "/"), (ECHO, "/echo"), (KVCOUNTER, "/modules")] {
        pair.serve(actor, path).await;
    }
    for name in ["echo", "kvcounter"] {
        start(&pair.server, &pair.hosts[0], &example(name), 5).await;
    }
    let hello = "Hello from the Spin Python SDK: GET /echoes";
    assert_eq!(pair.answered("/echoes").await, hello);
    assert!(pair.answered("/echo/me").await.contains("/echo/me"));
    // A module of 2022 counts under the key that a component of 2026 counts under.
    let counted = |count: u32| json!({ "counter": count }).to_string();
    assert_eq!(pair.answered("/modules/visits").await, counted(1));
    assert_eq!(pair.answered("/count/counter:modules:visits").await, "2");
    assert_eq!(pair.answered("/modules/visits").await, counted(3));
    assert_eq!(pair.answered("/count/counter:modules:visits").await, "4");
    pair.stop().await;
}
