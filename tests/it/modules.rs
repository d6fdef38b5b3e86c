//! Modules as the tools of all years make them, files that are none, and starts of one thing in
//! several ways.

use std::collections::HashMap;

use futures::future::join_all;

use crate::harness::{
    Events, Server, TestHost,
    client::{Caller, ctl_2024, start},
    eventually, example,
    guests::{Signing, sign, wapc, write},
    host, text,
};

/// The skeleton with other imports before its memory.
fn importing(imports: &str, body: &str) -> String {
    wapc(body).replace(
        "(memory (export \"memory\") 2)",
        &format!("{imports}\n (memory (export \"memory\") 2)"),
    )
}

const ANSWER: &str = "(call $response (i32.const 24) (i32.const 1)) (i32.const 1)";

#[tokio::test(flavor = "multi_thread")]
async fn modules_of_all_toolchains_run() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let caller = Caller::new(&server).await;
    let say = |module: &str| {
        importing(
            &format!(
                "(import \"{module}\" \"fd_write\" (func $write (param i32 i32 i32 i32) (result i32)))"
            ),
            &format!(
                "(i32.store (i32.const 64) (i32.const 0)) (i32.store (i32.const 68) (i32.const 10)) \
                 (if (call $write (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 72)) (then (unreachable))) {ANSWER}"
            ),
        )
    };
    let initialised = importing(
        "(import \"wasi_snapshot_preview1\" \"proc_exit\" (func $exit (param i32)))",
        ANSWER,
    )
    .replace(
        "(func (export \"__guest_call\")",
        "(func (export \"_start\") (call $exit (i32.const 0)))\n (func (export \"__guest_call\")",
    );
    let tail = wapc(&format!("(drop (call $count (i32.const 100000))) {ANSWER}")).replace(
        "(func (export \"__guest_call\")",
        "(func $count (param i32) (result i32) (if (result i32) (local.get 0) \
         (then (return_call $count (i32.sub (local.get 0) (i32.const 1)))) (else (i32.const 0))))\n \
         (func (export \"__guest_call\")",
    );
    for (what, module) in [
        ("TinyGo, which writes to its output", say("wasi_snapshot_preview1")),
        ("WASI before it had a version", say("wasi_unstable")),
        ("a main function that ends with exit(0)", initialised),
        (
            "AssemblyScript, which imports abort",
            importing("(import \"env\" \"abort\" (func (param i32 i32 i32 i32)))", ANSWER),
        ),
        (
            "bulk memory",
            wapc(&format!("(memory.copy (i32.const 1024) (i32.const 0) (i32.const 64)) {ANSWER}")),
        ),
        (
            "SIMD",
            wapc(&format!(
                "(v128.store (i32.const 1024) (i8x16.add (v128.load (i32.const 0)) (v128.load (i32.const 16)))) {ANSWER}"
            )),
        ),
        ("tail calls", tail),
    ] {
        let guest = sign(&module, &Signing::default());
        start(&server, &host, &guest.reference, 1).await;
        assert_eq!(caller.call(&guest.id, "x", "").await.as_deref(), Ok(&b"0"[..]), "{what}");
    }
    let aborting = importing(
        "(import \"env\" \"abort\" (func $abort (param i32 i32 i32 i32)))",
        "(call $abort (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 1)",
    );
    let guest = sign(&aborting, &Signing::default());
    start(&server, &host, &guest.reference, 1).await;
    assert!(
        caller.call(&guest.id, "x", "").await.is_err_and(|error| error.contains("aborted itself"))
    );
    host.stop().await;
}

#[tokio::test]
async fn a_module_with_a_large_memory_runs_where_calls_may_have_that_much() {
    let server = Server::shared().await;
    let host = host(&server).set("actor_memory_max_bytes", "256M").start().await;
    let caller = Caller::new(&server).await;
    let large =
        wapc(ANSWER).replace("(memory (export \"memory\") 2)", "(memory (export \"memory\") 2048)");
    let guest = sign(&large, &Signing::default());
    start(&server, &host, &guest.reference, 1).await;
    assert_eq!(caller.call(&guest.id, "x", "").await.as_deref(), Ok(&b"0"[..]));
    host.stop().await;
}

/// A number as WebAssembly counts.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A module with such a token in each of these sections.
fn with_tokens(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut module = wat::parse_str(wapc(ANSWER)).expect("valid text");
    for (name, token) in sections {
        let content = [&leb(name.len()), name.as_bytes(), token].concat();
        module.push(0);
        module.extend(leb(content.len()));
        module.extend(content);
    }
    module
}

#[tokio::test]
async fn files_without_a_token_that_counts_are_refused_by_name_and_the_host_lives() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let ctl = ctl_2024(&server).await;
    let signed = std::fs::read(example("echo").trim_start_matches("file://")).expect("an example");
    let token =
        lattice_protocol::identity::module::token(&signed).expect("its token").as_bytes().to_vec();
    let parts: Vec<&[u8]> = token.split(|byte| *byte == b'.').collect();
    let of = |segments: &[&[u8]]| with_tokens(&[("jwt", &segments.join(&b'.'))]);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a token of two segments", of(&parts[..2])),
        ("a token of one segment", of(&parts[..1])),
        ("a token of four segments", of(&[parts[0], parts[1], parts[2], parts[0]])),
        ("an empty token", with_tokens(&[("jwt", b"")])),
        ("a token that is no text", with_tokens(&[("jwt", &[0xff, 0xfe, 0x00, 0x80])])),
        ("a token of other code", of(&parts)),
        ("two tokens in sections of one name", with_tokens(&[("jwt", &token), ("jwt", &token)])),
        ("no token", with_tokens(&[])),
        ("half a file", signed[..signed.len() / 2].to_vec()),
        ("a web page", b"<!DOCTYPE html><html></html>".to_vec()),
        ("no bytes", Vec::new()),
    ];
    for (what, bytes) in cases {
        let (_dir, reference) = write(&bytes);
        let mut events = Events::all(&server).await;
        ctl.scale_actor(&host.id, &reference, 1, None).await.expect("an ack");
        let failed = events.next("actor_start_failed").await;
        let error = text(&failed, "/data/error");
        assert!(error.len() > 20, "{what}: {error}");
    }
    assert!(ctl.get_host_inventory(&host.id).await.unwrap().actors.is_empty());
    start(&server, &host, &example("echo"), 1).await;
    host.stop().await;
}

/// How many instances of the only actor there are, by the value of one annotation.
async fn counts(server: &Server, host: &TestHost, annotation: &str) -> HashMap<String, u32> {
    let inventory =
        ctl_2024(server).await.get_host_inventory(&host.id).await.expect("an inventory");
    let instances = inventory.actors.into_iter().flat_map(|actor| actor.instances);
    instances
        .map(|instance| {
            let value = instance
                .annotations
                .unwrap_or_default()
                .get(annotation)
                .cloned()
                .unwrap_or_default();
            (value, instance.max_instances)
        })
        .collect()
}

#[tokio::test]
async fn sets_of_annotations_are_scaled_apart() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let ctl = ctl_2024(&server).await;
    let set = |value: &str| Some(HashMap::from([("app".to_owned(), value.to_owned())]));
    for (value, count) in [("one", 5), ("two", 3)] {
        let mut events = Events::all(&server).await;
        assert!(
            ctl.scale_actor(&host.id, &example("echo"), count, set(value)).await.unwrap().accepted
        );
        events.next("actor_scaled").await;
    }
    assert_eq!(
        counts(&server, &host, "app").await,
        HashMap::from([("one".into(), 5), ("two".into(), 3)])
    );
    let mut events = Events::all(&server).await;
    assert!(ctl.scale_actor(&host.id, &example("echo"), 0, set("one")).await.unwrap().accepted);
    events.next("actor_scaled").await;
    assert_eq!(counts(&server, &host, "app").await, HashMap::from([("two".into(), 3)]));
    host.stop().await;
}

#[tokio::test]
async fn of_four_starts_at_once_one_provider_runs() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let ctl = ctl_2024(&server).await;
    let starts =
        (0..4).map(|_| ctl.start_provider(&host.id, "builtin://keyvalue", None, None, None));
    let accepted = join_all(starts)
        .await
        .into_iter()
        .filter(|ack| ack.as_ref().is_ok_and(|ack| ack.accepted))
        .count();
    assert!(accepted >= 1);
    eventually("one provider runs", || async {
        (ctl.get_host_inventory(&host.id).await.ok()?.providers.len() == 1).then_some(())
    })
    .await;
    host.stop().await;
}
