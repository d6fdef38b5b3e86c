//! Attacks of a signed actor on its host and on other actors: it can use up its own call, and
//! nothing else.
//!
//! Each guest here is one that somebody signed and started in good faith. Tables hold guests that
//! are alike.

use std::time::Duration;

use futures::{StreamExt as _, future::join_all};
use tokio::time::timeout;
use wascap::prelude::KeyPair;

use crate::harness::{
    ECHO, Events, HostBuilder, Server, TestHost,
    client::{Caller, ctl_2024, http_request, nats, start},
    example,
    guests::{self, Guest, Signing, sign, wapc},
    host, text,
};

/// Far longer than the deadline of the hosts here, and far shorter than what a host adds for large
/// payloads.
const SOON: Duration = Duration::from_secs(8);
const RPC_TIMEOUT_MS: &str = "400";

/// A host whose calls end soon.
fn hasty(server: &Server) -> HostBuilder {
    host(server).set("rpc_timeout_ms", RPC_TIMEOUT_MS)
}

/// A guest with further imports and declarations.
fn module(imports: &str, declarations: &str, body: &str) -> String {
    wapc(body).replace(
        "(memory (export \"memory\") 2)",
        &format!("{imports}\n (memory (export \"memory\") 2)\n {declarations}"),
    )
}

/// A guest with so many pages of memory.
fn with_pages(pages: u32, wat: &str) -> String {
    wat.replace("(memory (export \"memory\") 2)", &format!("(memory (export \"memory\") {pages})"))
}

/// Imports a function of WASI.
fn wasi(name: &str, params: &str) -> String {
    format!(
        "(import \"wasi_snapshot_preview1\" \"{name}\" (func ${name} (param {params}) (result i32)))"
    )
}

/// Calls `namespace` with a payload of so many bytes; the result is on the stack.
fn host_call(namespace: &str, bytes: u32) -> String {
    format!(
        "(call $host_call (i32.const 0) (i32.const 0) (i32.const 100) (i32.const {}) (i32.const 200) (i32.const 1) \
         (i32.const 1024) (i32.const {bytes}))",
        namespace.len()
    )
}

/// A guest that can call `namespace`.
fn calling(namespace: &str, body: &str) -> String {
    module(
        "",
        &format!("(data (i32.const 100) \"{namespace}\") (data (i32.const 200) \"x\")"),
        body,
    )
}

fn called(alias: &str) -> Signing {
    Signing { call_alias: Some(alias.into()), ..Signing::default() }
}

/// A subscription of `poll_oneoff` at `at`: the monotonic clock, in an hour, with these flags.
fn clock_subscription(at: u32, flags: u32) -> String {
    format!(
        "(i32.store8 (i32.const {}) (i32.const 0)) (i32.store (i32.const {}) (i32.const 1)) \
         (i64.store (i32.const {}) (i64.const 3600000000000)) (i32.store16 (i32.const {}) (i32.const {flags}))",
        at + 8,
        at + 16,
        at + 24,
        at + 40
    )
}

pub async fn assert_healthy(caller: &Caller) {
    let reply = caller.call(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b"")).await;
    assert!(reply.is_ok(), "{reply:?}");
}

/// Checks that a call of a guest ends at the deadline of 400 ms, and that others are served then.
pub async fn assert_ends_in_time(caller: &Caller, guest: &Guest, what: &str) {
    let ended = timeout(SOON, caller.call(&guest.id, "Any.Job", "")).await;
    let error = ended.unwrap_or_else(|_| panic!("one that {what} still runs")).expect_err(what);
    assert!(error.contains("past its deadline"), "one that {what}: {error}");
    assert_healthy(caller).await;
}

/// Checks how a call of a guest ends: with an error that has this part, or well; and that others
/// are served then.
pub async fn assert_ends_with(caller: &Caller, guest: &Guest, what: &str, part: Option<&str>) {
    let answer = timeout(SOON, caller.call(&guest.id, "Any.Job", "")).await.expect(what);
    match part {
        Some(part) => {
            assert!(answer.as_ref().is_err_and(|error| error.contains(part)), "{what}: {answer:?}")
        }
        None => assert!(answer.is_ok(), "{what}: {answer:?}"),
    }
    assert_healthy(caller).await;
}

/// Checks that a guest does not start, for a reason with this part.
pub async fn assert_start_fails(server: &Server, host: &TestHost, wat: &str, reason: &str) {
    let wasm = wat::parse_str(wat).expect(reason);
    let guest = guests::sign_module(&wasm, &Signing::default(), KeyPair::new_module());
    let mut events = Events::all(server).await;
    let ctl = ctl_2024(server).await;
    ctl.scale_actor(&host.id, &guest.reference, 1, None).await.unwrap();
    let failed = events.next("actor_start_failed").await;
    let error = text(&failed, "/data/error");
    assert!(error.contains(reason), "{reason}: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_guest_waits_for_ends_with_its_call() {
    let server = Server::shared().await;
    let host = hasty(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    let poll = wasi("poll_oneoff", "i32 i32 i32 i32");
    let sleep = |count: u32, flags: u32| {
        let subscriptions: String =
            (0..count).map(|n| clock_subscription(4096 + n * 48, flags)).collect();
        let body = format!(
            "{subscriptions} (drop (call $poll_oneoff (i32.const 4096) (i32.const 8192) (i32.const {count}) (i32.const 64))) \
             (i32.const 1)"
        );
        module(&poll, "", &body)
    };
    let absent = KeyPair::new_module().public_key();
    let spin = "(loop (br 0)) (i32.const 1)";
    let large = 1024 * 1024;
    let guests = [
        ("sleeps an hour", sleep(1, 0)),
        ("sleeps until a time", sleep(1, 1).replace("3600000000000", "9000000000000000000")),
        ("waits for three clocks", sleep(3, 0)),
        (
            "computes before its first call",
            module("", "(start $spin) (func $spin (loop (br 0)))", "(i32.const 1)"),
        ),
        (
            "computes while it is initialised",
            module("", "(func (export \"wapc_init\") (loop (br 0)))", "(i32.const 1)"),
        ),
        (
            "calls itself by tail calls",
            module("", "(func $f (return_call $f))", "(call $f) (i32.const 1)"),
        ),
        (
            "sends a large payload to nobody, then computes",
            with_pages(
                32,
                &calling(&absent, &format!("(drop {}) {spin}", host_call(&absent, large))),
            ),
        ),
        (
            "sends large payloads to nobody for ever",
            with_pages(
                32,
                &calling(
                    &absent,
                    &format!("(loop (drop {}) (br 0)) (i32.const 1)", host_call(&absent, large)),
                ),
            ),
        ),
        (
            "logs 64 KiB at a time for ever",
            module(
                "",
                "",
                "(loop (call $log (i32.const 0) (i32.const 65536)) (br 0)) (i32.const 1)",
            ),
        ),
        (
            "calls what is not there for ever",
            calling(
                "nobody/here",
                &format!("(loop (drop {}) (br 0)) (i32.const 1)", host_call("nobody/here", 1)),
            ),
        ),
    ];
    for (what, wat) in guests {
        let guest = sign(&wat, &Signing::default());
        start(&server, &host, &guest.reference, 4).await;
        assert_ends_in_time(&caller, &guest, what).await;
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_that_never_answers_holds_no_caller_beyond_its_deadline() {
    let server = Server::shared().await;
    let host = hasty(&server).start().await;
    let caller = Caller::new(&server).await;
    let mute = KeyPair::new_module().public_key();
    let listener = nats(&server).await;
    let mut heard = listener.subscribe(server.rpc(&mute)).await.unwrap();
    crate::harness::client::settled(&listener).await;
    for bytes in [1, 1024 * 1024] {
        let body = format!("(drop {}) (i32.const 1)", host_call(&mute, bytes));
        let guest = sign(&with_pages(32, &calling(&mute, &body)), &Signing::default());
        start(&server, &host, &guest.reference, 1).await;
        let ended = timeout(SOON, caller.call(&guest.id, "x", "")).await.expect("it ends");
        assert!(
            ended.as_ref().is_err_and(|error| error.contains("deadline")),
            "{bytes} bytes: {ended:?}"
        );
        heard.next().await.expect("the call came");
    }
    host.stop().await;
}

/// An actor that calls another twice, whatever comes of it.
fn twice(alias: &str) -> String {
    calling(alias, &format!("(drop {0}) (drop {0}) (i32.const 1)", host_call(alias, 1)))
}

#[tokio::test(flavor = "multi_thread")]
async fn actors_that_call_each_other_without_end_stop_at_the_deadline_of_the_first_call() {
    let server = Server::shared().await;
    for way in ["true", "false"] {
        let host = hasty(&server).set("local_calls", way).start().await;
        start(&server, &host, &example("echo"), 1).await;
        let (first, second) = (
            sign(&twice("test/second"), &called("test/first")),
            sign(&twice("test/first"), &called("test/second")),
        );
        start(&server, &host, &first.reference, 1000).await;
        start(&server, &host, &second.reference, 1000).await;
        let caller = Caller::new(&server).await;
        let calls = join_all((0..50).map(|_| caller.call(&first.id, "x", "")));
        let (ended, ()) = tokio::join!(timeout(SOON, calls), assert_healthy(&caller));
        let ended =
            ended.unwrap_or_else(|_| panic!("local calls {way}: they still call each other"));
        assert_eq!(ended.len(), 50);
        assert_healthy(&caller).await;
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_on_another_host_takes_its_deadline_along() {
    let server = Server::shared().await;
    // The callee's host would give it a minute.
    let patient = host(&server).set("rpc_timeout_ms", "60000").start().await;
    let callee = sign(&wapc("(loop (br 0)) (i32.const 1)"), &called("test/patient"));
    start(&server, &patient, &callee.reference, 1).await;
    let hasty = hasty(&server).start().await;
    let relay =
        calling("test/patient", &format!("(drop {}) (i32.const 1)", host_call("test/patient", 1)));
    let guest = sign(&relay, &Signing::default());
    start(&server, &hasty, &guest.reference, 4).await;
    let caller = Caller::new(&server).await;
    timeout(SOON, caller.call(&guest.id, "x", ""))
        .await
        .expect("it ends")
        .expect_err("it ran out of time");
    // The only place of the callee is free again.
    let mut events = Events::all(&server).await;
    let ack =
        ctl_2024(&server).await.scale_actor(&patient.id, &callee.reference, 0, None).await.unwrap();
    assert!(ack.accepted);
    timeout(SOON, events.next("actor_scaled")).await.expect("nothing of it runs");
    timeout(SOON, patient.stop()).await.expect("no call of it is waited for");
    hasty.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_may_not_have_it_does_not_get() {
    let server = Server::shared().await;
    let host = host(&server).set("actor_memory_max_bytes", "32M").start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    let open = wasi("path_open", "i32 i32 i32 i32 i32 i64 i64 i32 i32");
    let expect = |call: &str, errno: u32| {
        format!(
            "(if (i32.ne (call {call}) (i32.const {errno})) (then (unreachable))) (i32.const 1)"
        )
    };
    // The name, the guest, and a part of the error; `None` if the call must succeed.
    for (what, wat, ends_with) in [
        (
            "recursion",
            module("", "(func $deep (call $deep))", "(call $deep) (i32.const 1)"),
            Some("stack"),
        ),
        (
            "a table that grows",
            module(
                "",
                "(table $t 1 funcref)",
                "(loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 10000)) (i32.const -1)))) (unreachable)",
            ),
            Some("unreachable"),
        ),
        (
            "a hundred megabytes of random bytes",
            module(
                &wasi("random_get", "i32 i32"),
                "",
                "(drop (call $random_get (i32.const 0) (i32.const 104857600))) (i32.const 1)",
            ),
            Some("trapped"),
        ),
        (
            "more subscriptions than WASI holds",
            with_pages(
                32,
                &module(
                    &wasi("poll_oneoff", "i32 i32 i32 i32"),
                    "",
                    "(drop (call $poll_oneoff (i32.const 4096) (i32.const 1048576) (i32.const 20000) (i32.const 64))) (i32.const 1)",
                ),
            ),
            Some("trapped"),
        ),
        (
            "a response outside of its memory",
            wapc("(call $response (i32.const 131000) (i32.const 1000)) (i32.const 1)"),
            Some("outside of its memory"),
        ),
        (
            "a file",
            module(
                &open,
                "",
                &expect(
                    "$path_open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0) (i64.const 0) (i64.const 0) \
                     (i32.const 0) (i32.const 64)",
                    8,
                ),
            ),
            None,
        ),
        (
            "a directory",
            module(
                &wasi("fd_prestat_get", "i32 i32"),
                "",
                &expect("$fd_prestat_get (i32.const 3) (i32.const 64)", 8),
            ),
            None,
        ),
        (
            "a socket",
            module(
                &wasi("sock_accept", "i32 i32 i32"),
                "",
                &expect("$sock_accept (i32.const 3) (i32.const 0) (i32.const 64)", 8),
            ),
            None,
        ),
        (
            "the environment",
            module(
                &wasi("environ_sizes_get", "i32 i32"),
                "",
                "(drop (call $environ_sizes_get (i32.const 64) (i32.const 68))) \
                 (if (i32.load (i32.const 64)) (then (unreachable))) (i32.const 1)",
            ),
            None,
        ),
    ] {
        let guest = sign(&wat, &Signing::default());
        start(&server, &host, &guest.reference, 1).await;
        assert_ends_with(&caller, &guest, what, ends_with).await;
    }
    let long =
        with_pages(160, &wapc("(call $error (i32.const 0) (i32.const 10485760)) (i32.const 0)"));
    let guest = sign(&long, &Signing::default());
    start(&server, &host, &guest.reference, 1).await;
    assert_eq!(caller.call(&guest.id, "x", "").await.unwrap_err().len(), 65536);
    host.stop().await;
}

#[tokio::test]
async fn modules_that_ask_for_too_much_do_not_start_and_are_told_why() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let ctl = ctl_2024(&server).await;
    let base = wapc("(i32.const 1)");
    let memory = |with: &str| base.replace("(memory (export \"memory\") 2)", with);
    let function = format!(
        "(func (local {}) {})",
        "i64 ".repeat(2000),
        "(block (br_if 0 (i32.const 1))) ".repeat(10_000)
    );
    for (wat, reason) in [
        (memory(&format!("(memory (export \"memory\") 2) {function}")), "too many locals"),
        (
            memory(&format!(
                "(memory (export \"memory\") 2) (func {})",
                "(drop (i32.const 1)) ".repeat(350_000)
            )),
            "has a body of",
        ),
        (memory("(memory (export \"memory\") 1 4 shared)"), "shared"),
        (memory("(memory (export \"memory\") 2) (memory 1)"), "multiple memories"),
        (memory("(memory (export \"memory\") 2) (type $a (array (mut i8)))"), "gc"),
        (
            memory(
                "(import \"./bindgen.js\" \"__wbindgen_throw\" (func)) (memory (export \"memory\") 2)",
            ),
            "__wbindgen_throw",
        ),
    ] {
        assert_start_fails(&server, &host, &wat, reason).await;
    }
    assert!(ctl.get_host_inventory(&host.id).await.unwrap().actors.is_empty());
    host.stop().await;
}

#[tokio::test]
async fn large_memories_are_over_the_limit_of_a_call() {
    let server = Server::shared().await;
    let host = host(&server).set("actor_memory_max_bytes", "16M").start().await;
    let caller = Caller::new(&server).await;
    for memory in ["(memory (export \"memory\") 2048)", "(memory (export \"memory\") i64 262144)"] {
        let wat = wapc("(i32.const 1)").replace("(memory (export \"memory\") 2)", memory);
        // Segments of a memory of 64 bits have offsets of 64 bits.
        let wat = if memory.contains("i64") {
            wat.replace("(data (i32.const 0)", "(data (i64.const 0)")
        } else {
            wat
        };
        let guest = sign(&wat, &Signing::default());
        let mut events = Events::all(&server).await;
        ctl_2024(&server).await.scale_actor(&host.id, &guest.reference, 1, None).await.unwrap();
        let started = loop {
            let event = events.any().await;
            match text(&event, "/type") {
                "com.wasmcloud.lattice.actor_scaled" => break true,
                "com.wasmcloud.lattice.actor_start_failed" => break false,
                _ => {}
            }
        };
        if started {
            let error = caller.call(&guest.id, "x", "").await.unwrap_err();
            assert!(
                error.contains("actor_memory_max_bytes") || error.contains("memory"),
                "{error}"
            );
        }
    }
    host.stop().await;
}

#[tokio::test]
async fn an_actor_whose_claims_expire_takes_and_makes_no_calls_on_either_way() {
    let server = Server::shared().await;
    for way in ["true", "false"] {
        let host = host(&server).set("local_calls", way).start().await;
        start(&server, &host, &example("echo"), 1).await;
        let caller = Caller::new(&server).await;
        let mut events = Events::all(&server).await;
        let expiring = Signing { expires_in_secs: Some(10), ..called("test/expiring") };
        let callee =
            sign(&wapc("(call $response (i32.const 24) (i32.const 1)) (i32.const 1)"), &expiring);
        let relay = sign(&relay("test/expiring"), &Signing::default());
        let expiring_relay =
            sign(&relay_to_echo(), &Signing { expires_in_secs: Some(10), ..Signing::default() });
        for guest in [&callee, &relay, &expiring_relay] {
            start(&server, &host, &guest.reference, 4).await;
        }
        assert_eq!(caller.call(&relay.id, "x", "").await.as_deref(), Ok(&b"0"[..]));
        let told = events.next("claims_not_in_force").await;
        assert!(text(&told, "/data/error").contains("have expired"), "{told}");
        events.next("claims_not_in_force").await;
        for id in [&callee.id, &relay.id, &expiring_relay.id] {
            let error = caller.call(id, "x", "").await.unwrap_err();
            assert!(error.contains("have expired"), "local calls {way}, {id}: {error}");
        }
        // It is still there, to be updated or stopped.
        assert_eq!(
            ctl_2024(&server).await.get_host_inventory(&host.id).await.unwrap().actors.len(),
            4
        );
        assert_healthy(&caller).await;
        host.stop().await;
    }
}

/// Answers with what `alias` answers, or fails with its error.
fn relay(alias: &str) -> String {
    let body = format!(
        "(if {} (then (call $host_response (i32.const 4096)) (call $response (i32.const 4096) (call $host_response_len)) \
         (return (i32.const 1)))) \
         (call $host_error (i32.const 4096)) (call $error (i32.const 4096) (call $host_error_len)) (i32.const 0)",
        host_call(alias, 1)
    );
    calling(alias, &body)
}

fn relay_to_echo() -> String {
    relay(ECHO)
}

#[tokio::test]
async fn a_start_from_a_file_does_not_wait_for_a_registry_that_drips() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    // It accepts and says nothing.
    let registry = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = registry.local_addr().unwrap();
    let ctl = ctl_2024(&server).await;
    for n in 0..12 {
        let ack = ctl.scale_actor(&host.id, &format!("{address}/slow:{n}"), 1, None).await.unwrap();
        assert!(ack.accepted);
    }
    let _held = registry.accept().await.unwrap();
    timeout(SOON, start(&server, &host, &example("echo"), 1)).await.expect("it starts");
    let guest: Guest = sign(&wapc("(i32.const 1)"), &Signing::default());
    timeout(SOON, start(&server, &host, &guest.reference, 1)).await.expect("it starts");
    host.stop().await;
}
