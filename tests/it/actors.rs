//! Guests that behave badly, and what the host does about it: each harms its own call and nothing
//! else.

use std::{collections::HashMap, time::Duration};

use futures::future::join_all;
use lattice_engine::actors::supervisor::REUSE_ANNOTATION;

use crate::harness::{
    ECHO, Events, Server, TestHost,
    client::{Caller, ctl_2024, http_request, start},
    example,
    guests::{self, Guest, Signing, sign, wapc},
    host, text,
};

/// Answers with how many calls this instance has served, as one ASCII digit.
const COUNTING: &str = r#"(i32.store8 (i32.const 24) (i32.add (i32.load8_u (i32.const 24)) (i32.const 1)))
    (call $response (i32.const 24) (i32.const 1)) (i32.const 1)"#;

async fn run(server: &Server, host: &TestHost, body: &str) -> Guest {
    let guest = sign(&wapc(body), &Signing::default());
    start(server, host, &guest.reference, 8).await;
    guest
}

/// Another actor on the same host still answers.
async fn assert_healthy(caller: &Caller) {
    let reply = caller.call(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b"")).await;
    assert!(reply.is_ok(), "{reply:?}");
}

#[tokio::test]
async fn a_trap_fails_its_call_and_the_next_one_works() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    // Traps on operations with an odd length.
    let guest = run(
        &server,
        &host,
        "(if (i32.and (local.get $op) (i32.const 1)) (then (unreachable))) (i32.const 1)",
    )
    .await;
    let error = caller.call(&guest.id, "odd", "").await.unwrap_err();
    assert!(error.contains("trapped") && error.contains("unreachable"), "{error}");
    assert!(caller.call(&guest.id, "even", "").await.is_ok());
    assert_healthy(&caller).await;
    host.stop().await;
}

#[tokio::test]
async fn an_endless_loop_ends_at_the_deadline_while_others_are_served() {
    let server = Server::shared().await;
    let host = host(&server).set("rpc_timeout_ms", "300").start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    let guest = run(&server, &host, "(loop (br 0)) (i32.const 1)").await;
    // More loops than the machine has cores, and in the middle of them a call that must not starve.
    let loops = join_all((0..6).map(|_| caller.call(&guest.id, "spin", "")));
    let (ended, ()) = tokio::join!(loops, assert_healthy(&caller));
    for error in ended {
        let error = error.unwrap_err();
        assert!(error.contains("past its deadline"), "{error}");
    }
    assert_healthy(&caller).await;
    host.stop().await;
}

#[tokio::test]
async fn memory_beyond_the_limit_is_refused_and_the_trap_says_so() {
    let server = Server::shared().await;
    let host = host(&server).set("actor_memory_max_bytes", "4M").start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    let grow = "(loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (unreachable)";
    let guest = run(&server, &host, grow).await;
    let error = caller.call(&guest.id, "grow", "").await.unwrap_err();
    assert!(
        error.contains("4194304 bytes of memory") && error.contains("actor_memory_max_bytes"),
        "{error}"
    );
    assert_healthy(&caller).await;
    host.stop().await;
}

#[tokio::test]
async fn a_flood_of_log_lines_does_not_keep_others_from_being_served() {
    let server = Server::shared().await;
    let host = host(&server).set("rpc_timeout_ms", "500").start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    let guest =
        run(&server, &host, "(loop (call $log (i32.const 0) (i32.const 25)) (br 0)) (i32.const 1)")
            .await;
    let (flood, ()) = tokio::join!(caller.call(&guest.id, "flood", ""), assert_healthy(&caller));
    assert!(flood.unwrap_err().contains("deadline"));
    assert_healthy(&caller).await;
    host.stop().await;
}

#[tokio::test]
async fn a_guest_that_points_outside_of_its_memory_is_ended() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let caller = Caller::new(&server).await;
    for body in [
        "(call $response (i32.const 131070) (i32.const 10)) (i32.const 1)",
        "(call $request (i32.const -1) (i32.const -1)) (i32.const 1)",
        "(drop (call $host_call (i32.const -5) (i32.const 9) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))) (i32.const 1)",
    ] {
        let guest = run(&server, &host, body).await;
        let error = caller.call(&guest.id, "reach", "payload").await.unwrap_err();
        assert!(error.contains("outside of its memory"), "{error}");
    }
    // A length of zero is fine with any pointer.
    let guest =
        run(&server, &host, "(call $response (i32.const -1) (i32.const 0)) (i32.const 1)").await;
    assert_eq!(caller.call(&guest.id, "empty", "").await.unwrap(), "");
    host.stop().await;
}

#[tokio::test]
async fn each_call_gets_a_fresh_instance() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let caller = Caller::new(&server).await;
    let guest = run(&server, &host, COUNTING).await;
    for _ in 0..3 {
        assert_eq!(caller.call(&guest.id, "count", "").await.unwrap(), "1");
    }
    host.stop().await;
}

#[tokio::test]
async fn a_call_finds_nothing_in_memory_of_what_another_one_left_there() {
    let server = Server::shared().await;
    let host = host(&server).set("actor_memory_max_bytes", "4M").start().await;
    let caller = Caller::new(&server).await;
    // Grows its memory as far as it can, and fills it; `poison` traps then. `read` counts instead.
    let body = r#"(local $at i32) (local $found i32) (local $end i32)
      (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
      (local.set $end (i32.mul (memory.size) (i32.const 65536)))
      (local.set $at (i32.const 32))
      (if (i32.eq (local.get $op) (i32.const 4))
        (then (loop $words
          (if (i32.load (local.get $at))
            (then (local.set $found (i32.add (local.get $found) (i32.const 1)))))
          (local.set $at (i32.add (local.get $at) (i32.const 4)))
          (br_if $words (i32.lt_u (local.get $at) (local.get $end)))))
        (else
          (memory.fill (local.get $at) (i32.const 0xa5) (i32.sub (local.get $end) (local.get $at)))
          (if (i32.eq (local.get $op) (i32.const 6)) (then unreachable))))
      (i32.store (i32.const 32) (local.get $found)) (i32.store (i32.const 36) (local.get $end))
      (call $response (i32.const 32) (i32.const 8)) (i32.const 1)"#;
    let guest = run(&server, &host, body).await;
    let clean = [[0; 4], (4_u32 << 20).to_le_bytes()].concat();
    for fill in ["spoil", "poison", "spoil"] {
        let filled = caller.call(&guest.id, fill, "").await;
        assert_eq!(filled.is_err(), fill == "poison", "{filled:?}");
        assert_eq!(caller.call(&guest.id, "read", "").await.as_deref(), Ok(&*clean), "{fill}");
    }
    host.stop().await;
}

#[tokio::test]
async fn an_instance_is_reused_as_often_as_the_annotation_says_and_not_after_a_trap() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let caller = Caller::new(&server).await;
    let trap_on_odd =
        format!("(if (i32.and (local.get $op) (i32.const 1)) (then (unreachable))) {COUNTING}");
    let guest = sign(&wapc(&trap_on_odd), &Signing::default());
    let mut events = Events::all(&server).await;
    let reuse = HashMap::from([(REUSE_ANNOTATION.to_owned(), "3".to_owned())]);
    ctl_2024(&server).await.scale_actor(&host.id, &guest.reference, 1, Some(reuse)).await.unwrap();
    events.next("actor_scaled").await;
    for expected in ["1", "2", "3", "1"] {
        assert_eq!(caller.call(&guest.id, "even", "").await.unwrap(), expected);
    }
    caller.call(&guest.id, "odd", "").await.unwrap_err();
    assert_eq!(caller.call(&guest.id, "even", "").await.unwrap(), "1");

    let nonsense = HashMap::from([(REUSE_ANNOTATION.to_owned(), "often".to_owned())]);
    ctl_2024(&server)
        .await
        .scale_actor(&host.id, &guest.reference, 1, Some(nonsense))
        .await
        .unwrap();
    let failed = events.next("actor_start_failed").await;
    assert!(text(&failed, "/data/error").contains("often"), "{failed}");
    host.stop().await;
}

#[tokio::test]
async fn no_more_calls_run_than_allowed_and_the_rest_waits_or_is_told() {
    let server = Server::shared().await;
    let host = host(&server).set("rpc_timeout_ms", "400").set("call_queue_max", "2").start().await;
    let caller = Caller::new(&server).await;
    let guest = sign(&wapc("(loop (br 0)) (i32.const 1)"), &Signing::default());
    start(&server, &host, &guest.reference, 1).await;
    let ended = join_all((0..5).map(|_| caller.call(&guest.id, "spin", ""))).await;
    let count = |reason: &str| {
        ended.iter().filter(|end| end.as_ref().unwrap_err().contains(reason)).count()
    };
    // One runs, two wait until their own deadline, two are refused at once.
    assert_eq!((count("deadline"), count("calls are waiting")), (3, 2), "{ended:?}");
    host.stop().await;
}

#[tokio::test]
async fn modules_with_wasi_run_their_main_before_the_first_call() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let caller = Caller::new(&server).await;
    // As TinyGo does it: `_start` registers what `__guest_call` needs, and ends with exit(0).
    let module = wapc("(call $response (i32.const 24) (i32.const 1)) (i32.const 1)")
        .replace(
            "(memory",
            "(import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))\n (memory",
        )
        .replace(
            "(func (export \"__guest_call\")",
            "(func (export \"_start\") (i32.store8 (i32.const 24) (i32.const 65)) (call $exit (i32.const 0)))\n (func (export \"__guest_call\")",
        );
    let guest = sign(&module, &Signing::default());
    start(&server, &host, &guest.reference, 1).await;
    assert_eq!(caller.call(&guest.id, "any", "").await.unwrap(), "A");
    host.stop().await;
}

#[tokio::test]
async fn a_wasi_command_gets_the_payload_on_its_input_and_answers_on_its_output() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let caller = Caller::new(&server).await;
    let module = r#"(module
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 100))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    let guest = sign(module, &Signing::default());
    start(&server, &host, &guest.reference, 1).await;
    assert_eq!(caller.call(&guest.id, "Any.Thing", "hello").await.unwrap(), "hello");
    host.stop().await;
}

#[tokio::test]
async fn an_actor_that_calls_itself_without_end_is_stopped() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let caller = Caller::new(&server).await;
    let body = r#"(if (call $host_call (i32.const 0) (i32.const 0) (i32.const 100) (i32.const 12) (i32.const 120) (i32.const 1) (i32.const 1) (i32.const 0))
        (then (return (i32.const 1))))
        (call $host_error (i32.const 400)) (call $error (i32.const 400) (call $host_error_len)) (i32.const 0)"#;
    let module = wapc(body).replace(
        "(func (export",
        "(data (i32.const 100) \"test/forever\") (data (i32.const 120) \"x\")\n(func (export",
    );
    let guest =
        sign(&module, &Signing { call_alias: Some("test/forever".into()), ..Signing::default() });
    start(&server, &host, &guest.reference, 1000).await;
    let error = caller.call(&guest.id, "x", "").await.unwrap_err();
    assert!(error.contains("does an actor call itself"), "{error}");
    host.stop().await;
}

#[tokio::test]
async fn modules_nobody_should_trust_are_refused_with_the_reason() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let ctl = ctl_2024(&server).await;
    let good = std::fs::read(example("echo").trim_start_matches("file://")).unwrap();
    let mut tampered = good.clone();
    let code = tampered.windows(4).position(|window| window == b"path").expect("a text to change");
    tampered[code] = b'P';
    let bare = wat::parse_str(wapc("(i32.const 1)")).unwrap();
    let component = wat::parse_str("(component)").unwrap();
    let expired =
        sign(&wapc("(i32.const 1)"), &Signing { valid_in_days: Some(3), ..Signing::default() });
    let no_entry = sign("(module (memory (export \"memory\") 1))", &Signing::default());
    let strange = sign(
        "(module (import \"env\" \"launch\" (func)) (memory (export \"memory\") 1) (func (export \"__guest_call\") (param i32 i32) (result i32) (i32.const 1)))",
        &Signing::default(),
    );
    let mut kept = Vec::new();
    let mut file = |bytes: &[u8]| {
        let (dir, reference) = guests::write(bytes);
        kept.push(dir);
        reference
    };
    for (reference, reason) in [
        (file(&tampered), "hash"),
        (file(&bare), "sign"),
        (file(&component), "sign"),
        (file(b"GIF89a"), "not"),
        (file(&good[..good.len() / 2]), ""),
        (expired.reference.clone(), "valid"),
        (no_entry.reference.clone(), "__guest_call"),
        (strange.reference.clone(), "launch"),
    ] {
        let mut events = Events::all(&server).await;
        ctl.scale_actor(&host.id, &reference, 1, None).await.unwrap();
        let failed = events.next("actor_start_failed").await;
        let error = text(&failed, "/data/error").to_owned();
        assert!(error.contains(reason) && error.contains(&reference), "{reason}: {error}");
    }
    assert!(ctl.get_host_inventory(&host.id).await.unwrap().actors.is_empty());
    host.stop().await;
}

#[tokio::test]
async fn a_stop_waits_for_running_calls() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let caller = Caller::new(&server).await;
    // Works for a while: counts to a number that takes some hundred milliseconds.
    let body = "(local $n i64) (loop $l (local.set $n (i64.add (local.get $n) (i64.const 1))) (br_if $l (i64.lt_u (local.get $n) (i64.const 300000000)))) (call $response (i32.const 24) (i32.const 1)) (i32.const 1)";
    let guest = run(&server, &host, body).await;
    let mut events = Events::all(&server).await;
    let wire = caller.nats.subscribe(server.rpc(&guest.id)).await.unwrap();
    crate::harness::client::settled(&caller.nats).await;
    let working = tokio::spawn({
        let invocation = caller.invocation(&guest.id, "work", "");
        let (nats, lattice) = (caller.nats.clone(), caller.lattice.clone());
        let id = guest.id.clone();
        async move {
            let caller = Caller {
                nats,
                lattice,
                signer: lattice_protocol::rpc::Signer::new(crate::harness::CLUSTER_SEED).unwrap(),
            };
            caller.send(&id, &invocation).await
        }
    });
    let mut wire = wire;
    futures::StreamExt::next(&mut wire).await.expect("the call is on its way");
    tokio::time::timeout(Duration::from_secs(20), host.stop()).await.expect("the host stops");
    let response = working.await.unwrap();
    assert_eq!((response.error, &response.msg[..]), (None, &b"0"[..]));
    events.next("host_stopped").await;
}

/// Work for about `loops` steps, then answer.
fn busy(loops: u64) -> String {
    format!(
        "(local $n i64) (loop $l (local.set $n (i64.add (local.get $n) (i64.const 1))) (br_if $l (i64.lt_u (local.get $n) (i64.const {loops})))) {COUNTING}"
    )
}

/// Calls `alias` and answers with what it answered.
fn relay(alias: &str) -> String {
    let body = format!(
        r#"(if (call $host_call (i32.const 0) (i32.const 0) (i32.const 100) (i32.const {}) (i32.const 200) (i32.const 1) (i32.const 1) (i32.const 0))
        (then (call $host_response (i32.const 400)) (call $response (i32.const 400) (call $host_response_len)) (return (i32.const 1))))
        (call $host_error (i32.const 400)) (call $error (i32.const 400) (call $host_error_len)) (i32.const 0)"#,
        alias.len()
    );
    wapc(&body).replace(
        "(func (export",
        &format!("(data (i32.const 100) \"{alias}\") (data (i32.const 200) \"x\")\n(func (export"),
    )
}

fn called(alias: &str) -> Signing {
    Signing { call_alias: Some(alias.into()), ..Signing::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_host_lets_running_calls_make_the_calls_they_need() {
    let server = Server::shared().await;
    let host = host(&server).set("rpc_timeout_ms", "10000").start().await;
    let callee = sign(&wapc(&busy(20_000_000)), &called("test/callee"));
    let caller_actor = sign(&relay("test/callee"), &Signing::default());
    start(&server, &host, &callee.reference, 1).await;
    start(&server, &host, &caller_actor.reference, 16).await;
    let caller = std::sync::Arc::new(Caller::new(&server).await);
    let mut wire = caller.nats.subscribe(server.rpc(&caller_actor.id)).await.unwrap();
    crate::harness::client::settled(&caller.nats).await;
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let (caller, id) = (std::sync::Arc::clone(&caller), caller_actor.id.clone());
            tokio::spawn(async move { caller.call(&id, "x", "").await })
        })
        .collect();
    for _ in 0..8 {
        futures::StreamExt::next(&mut wire).await.expect("the calls are on their way");
    }
    host.stop().await;
    for end in join_all(calls).await {
        assert_eq!(end.unwrap().as_deref(), Ok(&b"1"[..]));
    }
}

#[tokio::test]
async fn a_stop_does_not_overtake_the_start_before_it() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let ctl = ctl_2024(&server).await;
    let mut events = Events::all(&server).await;
    // Both commands leave before the module can be loaded.
    let reference = example("echo");
    let (started, stopped) = tokio::join!(ctl.scale_actor(&host.id, &reference, 1, None), async {
        let nats = crate::harness::client::nats(&server).await;
        let subject = server.ctl(format_args!("cmd.{}.sa", host.id));
        nats.request(subject, format!(r#"{{"actor_ref":"{reference}"}}"#).into()).await
    });
    assert!(started.unwrap().accepted);
    let ack = String::from_utf8_lossy(&stopped.unwrap().payload).into_owned();
    // On a busy machine the module takes longer to load than the stop waits; it is carried out all
    // the same.
    if ack.contains("true") || ack.contains("did not finish in time") {
        events.next("actors_stopped").await;
        assert!(ctl.get_host_inventory(&host.id).await.unwrap().actors.is_empty());
    } else {
        // The stop was first: then the actor runs.
        assert!(ack.contains("does not run"), "{ack}");
    }
    host.stop().await;
}

#[tokio::test]
async fn a_host_that_stops_gives_up_the_starts_that_a_registry_holds_up_and_says_so() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    // It accepts and says nothing.
    let registry = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let reference = format!("{}/slow:1", registry.local_addr().unwrap());
    let mut events = Events::all(&server).await;
    let ack = ctl_2024(&server).await.scale_actor(&host.id, &reference, 1, None).await.unwrap();
    assert!(ack.accepted, "{}", ack.error);
    let _held = registry.accept().await.unwrap();
    host.stop().await;
    // Not told by a host that only waited for it until its time to stop was over.
    let failed = events.next("actor_scale_failed").await;
    assert_eq!(text(&failed, "/data/image_ref"), reference);
    assert!(text(&failed, "/data/error").contains("the host is stopping"), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_instances_do_not_keep_others_from_theirs() {
    let server = Server::shared().await;
    let host =
        host(&server).set("actor_instances_max", "8").set("instance_reuse", "1000").start().await;
    let caller = Caller::new(&server).await;
    let mut guests = Vec::new();
    for _ in 0..4 {
        guests.push(sign(&wapc(&busy(100_000)), &Signing::default()));
        start(&server, &host, &guests.last().unwrap().reference, 8).await;
    }
    for guest in &guests {
        for end in join_all((0..16).map(|_| caller.call(&guest.id, "x", ""))).await {
            end.expect("every call finds an instance");
        }
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_between_actors_of_a_full_host_do_not_wait_for_each_other() {
    let server = Server::shared().await;
    let callee = sign(&wapc(COUNTING), &called("test/full"));
    let caller_actor = sign(&relay("test/full"), &Signing::default());
    for way in ["true", "false"] {
        let host =
            host(&server).set("actor_instances_max", "8").set("local_calls", way).start().await;
        start(&server, &host, &callee.reference, 64).await;
        start(&server, &host, &caller_actor.reference, 64).await;
        let caller = Caller::new(&server).await;
        for end in join_all((0..40).map(|_| caller.call(&caller_actor.id, "x", ""))).await {
            assert_eq!(end.as_deref(), Ok(&b"1"[..]), "local calls: {way}");
        }
        host.stop().await;
    }
}
