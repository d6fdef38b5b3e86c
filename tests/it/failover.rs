//! Hosts that vanish, freeze and come back, and those who call them meanwhile.

use std::time::Duration;

use lattice_engine::providers::builtin::httpserver;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    harness::{
        ECHO, Events, PATIENCE, Server, TestHost,
        client::{Caller, ctl_2024, http_request, link, start_provider},
        eventually, example,
        guests::{Guest, Signing, sign, wapc},
        host,
        nats::free_port,
        process::{Process, member},
    },
    providers::unnoticed,
};

const HTTP: &str = "wasmcloud:httpserver";
/// How long a host is frozen.
const FROZEN: Duration = Duration::from_secs(3);

/// A host that is a process of its own, so that it can be killed and frozen.
struct Member {
    process: Process,
    id: String,
    _dir: TempDir,
}

impl Member {
    async fn start(server: &Server, seen_by: &TestHost) -> Self {
        let dir = TempDir::new().unwrap();
        let before = others(seen_by);
        let mut process = Process::start(&mut member(dir.path(), server));
        process.line("ready");
        let id = eventually("the others hear of it", || async {
            others(seen_by).into_iter().find(|host| !before.contains(host)).map(|(id, _)| id)
        })
        .await;
        Self { process, id, _dir: dir }
    }

    async fn runs(&self, server: &Server, reference: &str, max: u32) {
        let mut events = Events::all(server).await;
        let ctl = ctl_2024(server).await;
        let ack = ctl.scale_actor(&self.id, reference, max, None).await.unwrap();
        assert!(ack.accepted, "{}", ack.error);
        let event = events.next("actor_scaled").await;
        assert_eq!(event["source"].as_str(), Some(&*self.id));
    }
}

fn others(host: &TestHost) -> Vec<(String, bool)> {
    host.other_hosts()
}

/// Whether `seen_by` takes a host for silent; it must know it.
fn is_silent(seen_by: &TestHost, id: &str) -> Option<bool> {
    others(seen_by).into_iter().find(|(host, _)| host == id).map(|(_, silent)| silent)
}

/// A host that serves the pages of an actor it does not run itself.
async fn front(server: &Server, actor: &str) -> (TestHost, String) {
    let front = host(server).set("rpc_timeout_ms", "20000").start().await;
    start_provider(server, &front, "builtin://httpserver").await;
    let address = format!("127.0.0.1:{}", free_port());
    link(server, actor, httpserver::SPEC.known.public_key, HTTP, &[("address", &address)]).await;
    let url = format!("http://{address}/");
    eventually("the page listens", || async { reqwest::get(&url).await.ok() }).await;
    (front, url)
}

/// Two hosts with the echo actor, and a third one with its page.
async fn two_and_a_front(server: &Server) -> (Member, Member, TestHost, String) {
    let (front, url) = front(server, ECHO).await;
    let first = Member::start(server, &front).await;
    let second = Member::start(server, &front).await;
    for member in [&first, &second] {
        member.runs(server, &example("echo"), 50).await;
    }
    (first, second, front, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_killed_costs_no_request_that_may_be_repeated() {
    let server = Server::shared().await;
    let (mut first, second, front, url) = two_and_a_front(&server).await;
    unnoticed(&url, async {
        first.process.signal(Signal::KILL);
        first.process.exit_code();
        eventually("it is missed", || async {
            (is_silent(&front, &first.id) == Some(true)).then_some(())
        })
        .await;
    })
    .await;
    assert_eq!(is_silent(&front, &second.id), Some(false));
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_told_to_stop_is_not_missed_by_anybody() {
    let server = Server::shared().await;
    let (mut first, _second, front, url) = two_and_a_front(&server).await;
    unnoticed(&url, async {
        first.process.signal(Signal::TERM);
        assert_eq!(first.process.exit_code(), Some(0));
    })
    .await;
    eventually("it has said goodbye", || async {
        is_silent(&front, &first.id).is_none().then_some(())
    })
    .await;
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_dropped_without_a_stop_says_goodbye() {
    let server = Server::shared().await;
    let stays = host(&server).start().await;
    let goes = host(&server).start().await;
    let id = goes.id.clone();
    eventually("they know each other", || async { is_silent(&stays, &id) }).await;
    drop(goes);
    // A silent one would be listed for longer than this waits.
    eventually("it has said goodbye", || async { is_silent(&stays, &id).is_none().then_some(()) })
        .await;
    stays.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_is_stopped_and_started_at_once_is_not_missed_and_does_nothing_twice() {
    let server = Server::shared().await;
    let (first, _second, front, url) = two_and_a_front(&server).await;
    let ctl = ctl_2024(&server).await;
    unnoticed(&url, async {
        // Each start comes while the run before still finishes.
        for _ in 0..3 {
            for max in [0, 50] {
                assert!(
                    ctl.scale_actor(&first.id, &example("echo"), max, None).await.unwrap().accepted
                );
            }
        }
        first.runs(&server, &example("echo"), 50).await;
    })
    .await;
    // One answer for one call, even while two runs listen.
    let caller = Caller::new(&server).await;
    let subject = server.rpc(format_args!("{ECHO}.{}", first.id));
    let inbox = caller.nats.new_inbox();
    let mut answers = caller.nats.subscribe(inbox.clone()).await.unwrap();
    for max in [0, 50] {
        assert!(ctl.scale_actor(&first.id, &example("echo"), max, None).await.unwrap().accepted);
    }
    const CALLS: usize = 50;
    for _ in 0..CALLS {
        let invocation =
            caller.invocation(ECHO, "HttpServer.HandleRequest", http_request("POST", "/", b""));
        let payload = lattice_protocol::rpc::codec::encode_invocation(&invocation);
        caller.nats.publish_with_reply(subject.clone(), inbox.clone(), payload).await.unwrap();
    }
    for _ in 0..CALLS {
        let answer = tokio::time::timeout(PATIENCE, futures::StreamExt::next(&mut answers)).await;
        answer.expect("an answer for each call").unwrap();
    }
    // A second answer sent before this round trip would be here by now.
    first.runs(&server, &example("echo"), 50).await;
    assert!(
        futures::FutureExt::now_or_never(futures::StreamExt::next(&mut answers)).is_none(),
        "a call was answered twice"
    );
    front.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_host_gets_no_calls_and_refuses_old_ones_when_it_wakes() {
    let server = Server::shared().await;
    let (first, _second, front, url) = two_and_a_front(&server).await;
    let caller = Caller::new(&server).await;
    let subject = server.rpc(format_args!("{ECHO}.{}", first.id));
    let old = unnoticed(&url, async {
        first.process.freeze().await;
        let invocation =
            caller.invocation(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b""));
        let payload = lattice_protocol::rpc::codec::encode_invocation(&invocation);
        let request =
            async_nats::Request::new().payload(payload).timeout(Some(Duration::from_secs(30)));
        let nats = caller.nats.clone();
        let old = tokio::spawn(async move { nats.send_request(subject, request).await });
        eventually("it is missed", || async {
            (is_silent(&front, &first.id) == Some(true)).then_some(())
        })
        .await;
        // Longer than any caller waits.
        tokio::time::sleep(FROZEN).await;
        first.process.signal(Signal::CONT);
        eventually("it is back", || async {
            (is_silent(&front, &first.id) == Some(false)).then_some(())
        })
        .await;
        old.await.unwrap().expect("an answer")
    })
    .await;
    let refused = lattice_protocol::rpc::codec::decode_response(old.payload)
        .unwrap()
        .error
        .unwrap_or_default();
    assert!(refused.contains("did not run for a while"), "{refused}");
    front.stop().await;
}

/// A guest that works for a while and then answers an HTTP request with an empty page.
fn slow() -> Guest {
    let work = "(local $n i64) (loop $l (local.set $n (i64.add (local.get $n) (i64.const 1))) \
        (br_if $l (i64.lt_u (local.get $n) (i64.const 700000000)))) \
        (call $response (i32.const 512) (i32.const 31)) (i32.const 1)";
    let answer = r#"(data (i32.const 512) "\83\aastatusCode\cc\c8\a6header\80\a4body\c4\00")"#;
    let module = wapc(work).replacen(
        "(memory (export \"memory\") 2)",
        &format!("(memory (export \"memory\") 2) {answer}"),
        1,
    );
    sign(&module, &Signing { caps: vec![HTTP.into()], ..Signing::default() })
}

/// Sends a request to a slow actor on a first host, then starts the actor on a second one and kills
/// the first.
async fn killed_at_work(method: reqwest::Method) -> reqwest::Response {
    let server = Server::shared().await;
    let guest = slow();
    let (front, url) = front(&server, &guest.id).await;
    let mut first = Member::start(&server, &front).await;
    let second = Member::start(&server, &front).await;
    first.runs(&server, &guest.reference, 5).await;
    let nats = Caller::new(&server).await.nats;
    let mut wire = nats.subscribe(server.rpc(format_args!("{}.>", guest.id))).await.unwrap();
    lattice_base::lattice::connection::confirm(&nats).await.unwrap();
    let request = tokio::spawn(reqwest::Client::new().request(method, url).send());
    futures::StreamExt::next(&mut wire).await.expect("the call is on its way to the first host");
    second.runs(&server, &guest.reference, 5).await;
    first.process.signal(Signal::KILL);
    first.process.exit_code();
    let answer = request.await.unwrap().unwrap();
    front.stop().await;
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_work_on_a_killed_host_is_answered_by_another() {
    let answer = killed_at_work(reqwest::Method::PUT).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_not_be_repeated_tells_that_its_outcome_is_unknown() {
    let answer = killed_at_work(reqwest::Method::POST).await;
    assert_eq!(answer.status(), 502);
    let text = answer.text().await.unwrap();
    assert!(text.contains("unknown"), "{text}");
}
