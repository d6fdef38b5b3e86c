//! Components as the SDKs of other languages make them: built here by their package clients, and
//! asked from two hosts, with calls on the local path and over NATS.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use lattice_engine::providers::builtin::{Spec, httpclient, httpserver, keyvalue};
use lattice_protocol::{identity::wasm::inspect, rpc::codec::decode_invocation};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use wascap::prelude::KeyPair;

use crate::harness::{
    ECHO, KVCOUNTER, PATIENCE, Server, TestHost,
    client::{
        Caller, http_request, link_builtin, nats, settled, start, start_instead, start_provider,
    },
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
        assert_eq!(pair.post("/through", "and back").await, Some((200, "and back".into())));
        assert_eq!(pair.get("/nothing").await.map(|(status, _)| status), Some(404));
    })
    .await;
}

/// One host that runs a guest and all that it is linked to.
async fn beside_its_providers(guest: &Guest, count: u32, values: &[(&str, &str)]) -> Pair {
    let pair = Pair::start("true", PATIENT).await;
    start(&pair.server, &pair.hosts[0], &guest.reference, count).await;
    let mut all = vec![("address", pair.address.as_str())];
    all.extend(values);
    pair.link(&guest.id, &httpserver::SPEC, &all).await;
    pair
}

type Said = mpsc::Sender<Result<Vec<u8>, Infallible>>;

/// A request whose body is sent piece by piece, each through the sender.
fn spoken(pair: &Pair, path: &str) -> (Said, reqwest::RequestBuilder) {
    let (said, body) = mpsc::channel(4);
    let body = stream::unfold(body, async |mut body| Some((body.recv().await?, body)));
    (said, client().post(pair.url(path)).body(reqwest::Body::wrap_stream(body)))
}

/// A request that is still sent while its answer arrives.
struct Talk {
    said: Said,
    answer: reqwest::Response,
}

impl Talk {
    /// Begins with a piece, and waits for the head of the answer.
    async fn begin(pair: &Pair, path: &str, piece: &[u8]) -> Self {
        let (said, request) = spoken(pair, path);
        said.try_send(Ok(piece.to_vec())).expect("there is room");
        let answer = timeout(PATIENCE, request.send()).await.expect("in time").expect("an answer");
        Self { said, answer }
    }

    async fn say(&self, piece: &[u8]) {
        self.said.send(Ok(piece.to_vec())).await.expect("it is still read");
    }

    /// Reads exactly what was said.
    async fn hears(&mut self, piece: &[u8]) {
        let mut heard = Vec::new();
        while heard.len() < piece.len() {
            let next = timeout(PATIENCE, self.answer.chunk()).await.expect("in time");
            heard.extend_from_slice(&next.expect("no error").expect("no end"));
        }
        assert!(
            heard == piece,
            "{} of {} bytes: {}",
            heard.len(),
            piece.len(),
            String::from_utf8_lossy(&heard[..heard.len().min(200)])
        );
    }

    /// Says nothing for longer than an answer may pause, and sees that it is cut off.
    async fn falls_silent(mut self) {
        let cut = timeout(PATIENCE, self.answer.chunk()).await.expect("in time");
        cut.expect_err("no end that looks like that of a whole answer");
    }

    /// Says nothing more, and sees the end of the answer.
    async fn end(self) {
        let Self { said, mut answer } = self;
        drop(said);
        let end = timeout(PATIENCE, answer.chunk()).await.expect("in time");
        assert_eq!(end.expect("no error"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_go_through_a_component_as_they_come() {
    let guest = built(&SPIN_JAVASCRIPT).await;
    let timeout = Duration::from_secs(3);
    let pair =
        beside_its_providers(&guest, 5, &[("body_first", "0"), ("timeout_ms", "3000")]).await;
    assert_eq!(pair.answered("/hello/Ada").await, "\"Hello, Ada!\"");
    let mut talk = Talk::begin(&pair, "/through", b"one").await;
    talk.hears(b"one").await;
    // Each piece gives the call the time of a whole one.
    let began = Instant::now();
    while began.elapsed() < timeout + Duration::from_secs(1) {
        talk.say(b"another").await;
        talk.hears(b"another").await;
    }
    talk.end().await;
    let mut talk = Talk::begin(&pair, "/through", b"one").await;
    talk.hears(b"one").await;
    talk.falls_silent().await;
    // A large body comes back as it went.
    let large = vec![7; 3 << 20];
    let mut talk = Talk::begin(&pair, "/through", &large).await;
    talk.hears(&large).await;
    talk.end().await;
    pair.stop().await;
}

/// Sees that an answer which a guest passes on comes piece by piece, each when its server sends it.
async fn drips(pair: &Pair, origin: &Origin) {
    let path = format!("/relay?to={}", origin.url("/drip"));
    let mut answer = client().get(pair.url(&path)).send().await.expect("an answer");
    for _ in 0..2 {
        origin.open();
        let piece = timeout(PATIENCE, answer.chunk()).await.expect("in time");
        assert_eq!(piece.expect("no error").as_deref(), Some(&b"drop"[..]));
    }
    origin.open();
    let end = timeout(PATIENCE, answer.chunk()).await.expect("in time");
    assert_eq!(end.expect("no error"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_go_from_host_to_host_as_they_come() {
    let guest = built(&SPIN_JAVASCRIPT).await;
    for (local_calls, at) in [("true", 1), ("false", 0)] {
        let pair = Pair::start(local_calls, "8000").await;
        pair.run_only_on(at, &guest).await;
        pair.serve(&guest.id, "/").await;
        start_provider(&pair.server, &pair.hosts[0], "builtin://httpclient").await;
        pair.link(&guest.id, &httpclient::SPEC, &[("allow_loopback", "true")]).await;
        assert_eq!(pair.answered("/hello/Ada").await, "\"Hello, Ada!\"");
        let origin = Origin::start().await;
        drips(&pair, &origin).await;
        // Many pieces, and each once.
        let path = format!("/relay?to={}", origin.url("/stream/3000000"));
        let answer = client().get(pair.url(&path)).send().await.expect("an answer");
        let body = answer.bytes().await.expect("a body");
        assert!(body.len() == 3_000_000 && body.iter().all(|byte| *byte == 7));
        let path = format!("/relay?to={}", origin.url("/drip"));
        let mut answer = client().get(pair.url(&path)).send().await.expect("an answer");
        origin.open();
        answer.chunk().await.expect("no error").expect("a piece");
        let cut = timeout(PATIENCE, answer.chunk()).await.expect("in time");
        cut.expect_err("no end that looks like that of a whole answer");
        pair.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_go_from_a_component_to_other_servers_as_they_come() {
    let guest = built(&SPIN_JAVASCRIPT).await;
    let values = [("body_first", "0"), ("timeout_ms", PATIENT)];
    let pair = beside_its_providers(&guest, 5, &values).await;
    start_provider(&pair.server, &pair.hosts[0], "builtin://httpclient").await;
    let values = [("allow_loopback", "true"), ("max_body", "1K"), ("max_request_body", "1K")];
    pair.link(&guest.id, &httpclient::SPEC, &values).await;
    assert_eq!(pair.answered("/hello/Ada").await, "\"Hello, Ada!\"");
    let origin = Origin::start().await;
    let relay = |path: &str| format!("/relay?to={}", origin.url(path));

    let (said, request) = spoken(&pair, &relay("/heard"));
    let asking = tokio::spawn(request.send());
    for piece in ["one, ", "two"] {
        said.send(Ok(piece.into())).await.expect("it is still read");
        origin.arrival().await;
    }
    drop(said);
    let answer = asking.await.unwrap().expect("an answer");
    assert_eq!(answer.text().await.unwrap(), "one, two");

    drips(&pair, &origin).await;

    // A body that is there at once has its length, which some servers ask for.
    let (_, seen) = pair.post(&relay("/echo"), "at once").await.expect("an answer");
    assert!(seen.contains("content-length") && !seen.contains("transfer-encoding"), "{seen}");

    // Longer than the link allows, which nobody knew before.
    let long = pair.post(&relay("/heard"), [7; 2000]).await;
    assert!(matches!(long, Some((500.., _))), "{long:?}");
    let long = client().get(pair.url(&relay("/stream/2000"))).send().await.expect("an answer");
    assert!(long.status().is_server_error() || long.bytes().await.is_err());
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_ends_the_call_whose_answer_is_on_its_way() {
    let guest = built(&SPIN_JAVASCRIPT).await;
    let values = [("body_first", "0"), ("timeout_ms", "600000")];
    let pair = beside_its_providers(&guest, 1, &values).await;
    assert_eq!(pair.answered("/hello/Ada").await, "\"Hello, Ada!\"");
    let mut talk = Talk::begin(&pair, "/through", b"one").await;
    talk.hears(b"one").await;
    // The only instance is taken, so this waits for the end of the other call.
    let waiting = tokio::spawn(client().get(pair.url("/hello/Ada")).send());
    talk.say(b"two").await;
    talk.hears(b"two").await;
    assert!(!waiting.is_finished());
    drop(talk);
    let answer = timeout(PATIENCE, waiting).await.expect("in time").unwrap().expect("an answer");
    assert_eq!(answer.status(), 200);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beginning_of_a_body_is_there_before_a_component_is_called() {
    let guest = built(&SPIN_JAVASCRIPT).await;
    let values = [("max_content_len", "200K"), ("timeout_ms", PATIENT)];
    let pair = beside_its_providers(&guest, 5, &values).await;
    assert_eq!(pair.answered("/hello/Ada").await, "\"Hello, Ada!\"");
    let piece = vec![b'x'; 100_000];
    let mut talk = Talk::begin(&pair, "/through", &piece).await;
    talk.hears(&piece).await;
    talk.end().await;
    // Longer than it may be; nobody knew before.
    let pieces = stream::iter([piece.clone(), piece.clone(), piece]).map(Ok::<_, Infallible>);
    let request = client().post(pair.url("/echo")).body(reqwest::Body::wrap_stream(pieces));
    assert_eq!(pair.ask(request).await.map(|(status, _)| status), Some(413));
    pair.stop().await;
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

/// Waits until a request is in an instance that takes others as well.
async fn in_company(pair: &Pair) {
    eventually("another request comes to the same instance", async || {
        (pair.get("/here").await?.1 == "1").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_one_instance_of_wasi_0_3_wait_for_each_other_and_end_together() {
    let guest = built(&SPIN_PYTHON).await;
    let pair = beside_its_providers(&guest, 5, &[("timeout_ms", PATIENT)]).await;
    let hello = "Hello from the Spin Python SDK: GET /";
    assert_eq!(pair.answered("/").await, hello);
    let first = tokio::spawn(client().get(pair.url("/meet")).send());
    in_company(&pair).await;
    assert_eq!(pair.get("/meet").await, Some((200, "met".into())));
    let first = first.await.unwrap().expect("an answer");
    assert_eq!(first.text().await.expect("a body"), "met");

    let caller = Caller::new(&pair.server).await;
    let asks = |path| {
        let request = http_request("GET", path, b"");
        caller.invocation(&guest.id, "HttpServer.HandleRequest", request)
    };
    let (sleeps, fails) = (asks("/sleep"), asks("/fail"));
    let failing = async {
        in_company(&pair).await;
        caller.send(&guest.id, &fails).await
    };
    for ended in <[_; 2]>::from(futures::join!(caller.send(&guest.id, &sleeps), failing)) {
        let why = ended.error.expect("an error");
        let expected = "exit code 1 (with it ended all 2 calls in its instance)";
        assert!(why.contains(expected), "{why}");
    }
    assert_eq!(pair.answered("/").await, hello);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_one_instance_of_wasi_0_3_have_their_own_deadlines_and_traces() {
    let guest = built(&SPIN_PYTHON).await;
    let pair = Pair::start("false", "4000").await;
    pair.run_only_on(0, &guest).await;
    pair.serve(&guest.id, "/").await;
    let origin = Origin::start().await;
    start_provider(&pair.server, &pair.hosts[0], "builtin://httpclient").await;
    pair.link(&guest.id, &httpclient::SPEC, &[("allow_loopback", "true")]).await;
    assert_eq!(pair.answered("/").await, "Hello from the Spin Python SDK: GET /");

    let nats = nats(&pair.server).await;
    let mut wire = nats.subscribe(pair.server.rpc(">")).await.unwrap();
    settled(&nats).await;
    let late = tokio::spawn(client().get(pair.url("/sleep")).send());
    in_company(&pair).await;
    sleep(Duration::from_millis(1500)).await;
    let path = format!("/fetch?{}", origin.url("/gate"));
    let mut asking = Vec::new();
    for n in 1..=2 {
        let parent = format!("00-0af7651916cd43dd8448eb211c80319{n}-b7ad6b716920333{n}-01");
        let request = client().get(pair.url(&format!("{path}?{n}"))).header("traceparent", &parent);
        asking.push(tokio::spawn(request.send()));
        origin.arrival().await;
        // Both ask for what the same instance has sent.
        let asked = loop {
            let message = timeout(PATIENCE, wire.next()).await.expect("in time").expect("one");
            let Ok(sent) = decode_invocation(message.payload) else { continue };
            if sent.operation == "HttpClient.Send" {
                break sent;
            }
        };
        assert_eq!(asked.trace_context.get("traceparent"), Some(&*parent));
        assert!(String::from_utf8_lossy(&asked.msg).contains(&format!("gate?{n}")));
    }
    assert_eq!(pair.get("/here").await, Some((200, "3".into())));
    assert_eq!(late.await.unwrap().expect("an answer").status(), 504);
    for asking in asking {
        origin.open();
        assert_eq!(asking.await.unwrap().expect("an answer").status(), 200);
    }
    // One call was left in it, so it serves no others.
    assert_eq!(pair.get("/here").await, Some((200, "0".into())));
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
