//! Attacks of signed components on their host and on other actors, the same as those of modules in
//! [`tenants`](crate::tenants): a component can use up its own call, and nothing else.

use crate::{
    harness::{
        HostBuilder, Server,
        client::{Caller, ctl_2024, start},
        example,
        guests::{Guest, Signing, sign},
        host,
    },
    tenants::{assert_ends_in_time, assert_ends_with, assert_start_fails},
};

const MESSAGING: &str = "wasmcloud:messaging";
const LOGGING: &str = "wasmcloud:builtin:logging";

/// A function of an interface, as a component in text form imports it.
struct Import {
    /// The imports of instances that have it.
    interface: &'static str,
    /// The instance, and its name there.
    function: (&'static str, &'static str),
    /// Its name and its type in the core module.
    core: (&'static str, &'static str),
}

const LOG: Import = Import {
    interface: r#"(import "wasi:logging/logging@0.1.0-draft" (instance $logging
        (type $enum (enum "trace" "debug" "info" "warn" "error" "critical"))
        (export "level" (type $level (eq $enum)))
        (export "log" (func (param "level" $level) (param "context" string) (param "message" string)))))"#,
    function: ("$logging", "log"),
    core: ("log", "(param i32 i32 i32 i32 i32)"),
};

const RANDOM: Import = Import {
    interface: r#"(import "wasi:random/random@0.2.0" (instance $random
        (export "get-random-bytes" (func (param "len" u64) (result (list u8))))))"#,
    function: ("$random", "get-random-bytes"),
    core: ("random", "(param i64 i32)"),
};

const ENVIRONMENT: Import = Import {
    interface: r#"(import "wasi:cli/environment@0.2.0" (instance $environment
        (export "get-environment" (func (result (list (tuple string string)))))))"#,
    function: ("$environment", "get-environment"),
    core: ("environment", "(param i32)"),
};

const DIRECTORIES: Import = Import {
    interface: r#"(import "wasi:filesystem/types@0.2.0" (instance $files
        (export "descriptor" (type (sub resource)))))
      (alias export $files "descriptor" (type $descriptor))
      (import "wasi:filesystem/preopens@0.2.0" (instance $preopens
        (alias outer 1 $descriptor (type $outer))
        (export "descriptor" (type $own (eq $outer)))
        (export "get-directories" (func (result (list (tuple (own $own) string)))))))"#,
    function: ("$preopens", "get-directories"),
    core: ("directories", "(param i32)"),
};

const POLLABLE: Import = Import {
    interface: r#"(import "wasi:io/poll@0.2.0" (instance $poll
        (export "pollable" (type $pollable (sub resource)))
        (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
      (alias export $poll "pollable" (type $pollable))"#,
    function: ("$poll", "[method]pollable.block"),
    core: ("block", "(param i32)"),
};

/// Needs [`POLLABLE`].
const CLOCK: Import = Import {
    interface: r#"(import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
        (alias outer 1 $pollable (type $outer))
        (export "pollable" (type $own (eq $outer)))
        (export "subscribe-duration" (func (param "when" u64) (result (own $own))))))"#,
    function: ("$clock", "subscribe-duration"),
    core: ("subscribe", "(param i64) (result i32)"),
};

const WRITE: Import = Import {
    interface: r#"(import "wasi:io/error@0.2.0" (instance $errors
        (export "error" (type (sub resource)))))
      (alias export $errors "error" (type $error))
      (import "wasi:io/streams@0.2.0" (instance $streams
        (export "output-stream" (type $stream (sub resource)))
        (alias outer 1 $error (type $outer))
        (export "error" (type $own (eq $outer)))
        (type $variant (variant (case "last-operation-failed" (own $own)) (case "closed")))
        (export "stream-error" (type $failure (eq $variant)))
        (export "[method]output-stream.blocking-write-and-flush"
          (func (param "self" (borrow $stream)) (param "contents" (list u8)) (result (result (error $failure)))))))
      (alias export $streams "output-stream" (type $stream))"#,
    function: ("$streams", "[method]output-stream.blocking-write-and-flush"),
    core: ("write", "(param i32 i32 i32 i32)"),
};

/// Needs [`WRITE`].
const STDOUT: Import = Import {
    interface: r#"(import "wasi:cli/stdout@0.2.0" (instance $stdout
        (alias outer 1 $stream (type $outer))
        (export "output-stream" (type $own (eq $outer)))
        (export "get-stdout" (func (result (own $own))))))"#,
    function: ("$stdout", "get-stdout"),
    core: ("stdout", "(result i32)"),
};

const MESSAGE: &str = r#"(import "wasmcloud:messaging/types@0.2.0" (instance $types
        (type $record (record (field "subject" string) (field "body" (list u8)) (field "reply-to" (option string))))
        (export "broker-message" (type (eq $record)))))
      (alias export $types "broker-message" (type $message))"#;

const PUBLISH: Import = Import {
    interface: r#"(import "wasmcloud:messaging/consumer@0.2.0" (instance $consumer
        (alias outer 1 $message (type $outer))
        (export "broker-message" (type $own (eq $outer)))
        (export "publish" (func (param "msg" $own) (result (result (error string)))))))"#,
    function: ("$consumer", "publish"),
    core: ("publish", "(param i32 i32 i32 i32 i32 i32 i32 i32)"),
};

/// Gives the host the second page for what it hands over.
const REALLOC: &str = "(i32.const 65536)";

/// A component that is a job, in text form.
struct Job {
    imports: &'static [Import],
    pages: u32,
    realloc: &'static str,
    /// The declarations of its program.
    declarations: String,
    /// The work of the job; it succeeds with `(i32.const 0)`.
    body: String,
}

impl Job {
    fn new(imports: &'static [Import], body: impl Into<String>) -> Self {
        Self { imports, pages: 2, realloc: REALLOC, declarations: String::new(), body: body.into() }
    }

    fn declaring(self, declarations: impl Into<String>) -> Self {
        Self { declarations: declarations.into(), ..self }
    }

    /// Writes the component.
    fn text(&self) -> String {
        let Self { pages, realloc, declarations, body, .. } = self;
        let needs_message = self.imports.iter().any(|import| import.core.0 == PUBLISH.core.0);
        let mut interfaces = if needs_message { MESSAGE.to_owned() } else { String::new() };
        let (mut lowered, mut imported, mut handed) = Default::default();
        for Import { interface, function: (instance, name), core: (core, signature) } in
            self.imports
        {
            append(&mut interfaces, interface);
            append(
                &mut lowered,
                &format!(
                    "(core func ${core} (canon lower (func {instance} \"{name}\") \
                     (memory $memory) (realloc $realloc) string-encoding=utf8))"
                ),
            );
            append(
                &mut imported,
                &format!("(import \"host\" \"{core}\" (func ${core} {signature}))"),
            );
            append(&mut handed, &format!("(export \"{core}\" (func ${core}))"));
        }
        format!(
            r#"(component
      {interfaces}
      (core module $Memory
        (memory (export "memory") {pages})
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) {realloc}))
      (core instance $storage (instantiate $Memory))
      (alias core export $storage "memory" (core memory $memory))
      (alias core export $storage "realloc" (core func $realloc))
      {lowered}
      (core module $Program
        (import "host" "memory" (memory {pages}))
        {imported}
        {declarations}
        (func (export "run") (result i32) {body}))
      (core instance $program (instantiate $Program
        (with "host" (instance (export "memory" (memory $memory)) {handed}))))
      (func $run (result (result)) (canon lift (core func $program "run")))
      (instance $job (export "run" (func $run)))
      (export "wasi:cli/run@0.2.0" (instance $job)))"#
        )
    }

    fn signed(&self) -> Guest {
        let caps = vec![MESSAGING.to_owned(), LOGGING.to_owned()];
        sign(&self.text(), &Signing { caps, ..Signing::default() })
    }
}

fn append(text: &mut String, more: &str) {
    text.push_str("\n      ");
    text.push_str(more);
}

fn limited(server: &Server) -> HostBuilder {
    host(server).set("rpc_timeout_ms", "400").set("actor_memory_max_bytes", "32M")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_component_waits_for_ends_with_its_call() {
    let server = Server::shared().await;
    let host = limited(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    let endless = "(loop (br 0)) (i32.const 0)";
    let publish = "(call $publish (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 65536) \
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 131056))";
    for (what, job) in [
        ("computes", Job::new(&[], endless)),
        (
            "computes before its first call",
            Job::new(&[], "(i32.const 0)").declaring("(start $spin) (func $spin (loop (br 0)))"),
        ),
        (
            "calls itself by tail calls",
            Job::new(&[], "(call $f) (i32.const 0)").declaring("(func $f (return_call $f))"),
        ),
        (
            "computes when the host asks it for memory",
            Job {
                realloc: "(loop (br 0)) (unreachable)",
                ..Job::new(&[RANDOM], "(call $random (i64.const 8) (i32.const 0)) (i32.const 0)")
            },
        ),
        (
            "sleeps an hour",
            Job::new(
                &[POLLABLE, CLOCK],
                "(call $block (call $subscribe (i64.const 3600000000000))) (i32.const 0)",
            ),
        ),
        (
            "logs 64 KiB at a time for ever",
            Job::new(
                &[LOG],
                "(loop (call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 0) \
                 (i32.const 65536)) (br 0)) (i32.const 0)",
            ),
        ),
        (
            "publishes for ever what nobody takes",
            Job::new(&[PUBLISH], format!("(loop {publish} (br 0)) (i32.const 0)")),
        ),
    ] {
        let guest = job.signed();
        start(&server, &host, &guest.reference, 4).await;
        assert_ends_in_time(&caller, &guest, what).await;
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_component_may_not_have_it_does_not_get() {
    let server = Server::shared().await;
    let host = limited(&server).set("rpc_timeout_ms", "20000").start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    let none = |call: &str| {
        format!("(call {call} (i32.const 64)) (i32.ne (i32.load (i32.const 68)) (i32.const 0))")
    };
    let write = "(call $write (local.get $out) (i32.const 0) (i32.const 4096) (i32.const 8192))";
    // The name, the guest, and a part of the error; `None` if the call must succeed.
    for (what, job, ends_with) in [
        (
            "recursion",
            Job::new(&[], "(call $deep) (i32.const 0)").declaring("(func $deep (call $deep))"),
            Some("stack"),
        ),
        (
            "memory that grows",
            Job::new(
                &[],
                "(loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)",
            ),
            Some("actor_memory_max_bytes"),
        ),
        (
            "a table that grows",
            Job::new(
                &[],
                "(loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 10000)) \
                 (i32.const -1)))) (unreachable)",
            )
            .declaring("(table $t 1 funcref)"),
            Some("unreachable"),
        ),
        (
            "a hundred megabytes of random bytes",
            Job::new(&[RANDOM], "(call $random (i64.const 104857600) (i32.const 0)) (i32.const 0)"),
            Some("trapped"),
        ),
        (
            "handles without end",
            Job::new(
                &[POLLABLE, CLOCK],
                "(loop (drop (call $subscribe (i64.const 3600000000000))) (br 0)) (i32.const 0)",
            ),
            Some("trapped"),
        ),
        (
            "more output than it may have memory",
            Job::new(
                &[WRITE, STDOUT],
                format!(
                    "(local $out i32) (local.set $out (call $stdout)) \
                     (loop {write} (br_if 0 (i32.eqz (i32.load8_u (i32.const 8192))))) (unreachable)"
                ),
            ),
            Some("trapped"),
        ),
        (
            "a text outside of its memory",
            Job::new(
                &[LOG],
                "(call $log (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 131000) \
                 (i32.const 1000)) (i32.const 0)",
            ),
            Some("trapped"),
        ),
        (
            "memory for the host outside of its own",
            Job {
                realloc: "(i32.const -8)",
                ..Job::new(&[RANDOM], "(call $random (i64.const 8) (i32.const 0)) (i32.const 0)")
            },
            Some("trapped"),
        ),
        ("the environment", Job::new(&[ENVIRONMENT], none("$environment")), None),
        ("a directory", Job::new(&[DIRECTORIES], none("$directories")), None),
    ] {
        let guest = job.signed();
        start(&server, &host, &guest.reference, 1).await;
        assert_ends_with(&caller, &guest, what, ends_with).await;
    }
    host.stop().await;
}

/// A component that refuses each message with ten megabytes of text.
fn long_winded() -> String {
    format!(
        r#"(component
      {MESSAGE}
      (core module $M
        (memory (export "memory") 170)
        (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
        (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32) (result i32)
          (memory.fill (i32.const 131072) (i32.const 97) (i32.const 10485760))
          (i32.store8 (i32.const 0) (i32.const 1))
          (i32.store (i32.const 4) (i32.const 131072))
          (i32.store (i32.const 8) (i32.const 10485760))
          (i32.const 0)))
      (core instance $m (instantiate $M))
      (func $handle (param "msg" $message) (result (result (error string)))
        (canon lift (core func $m "handle") (memory (core memory $m "memory"))
          (realloc (core func $m "realloc")) string-encoding=utf8))
      (instance $handler (export "handle-message" (func $handle)))
      (export "wasmcloud:messaging/handler@0.2.0" (instance $handler)))"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_text_of_a_component_is_cut() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let guest =
        sign(&long_winded(), &Signing { caps: vec![MESSAGING.into()], ..Signing::default() });
    start(&server, &host, &guest.reference, 1).await;
    let caller = Caller::new(&server).await;
    #[derive(serde::Serialize)]
    struct Message {
        subject: &'static str,
        body: bytes::Bytes,
    }
    let message = rmp_serde::to_vec_named(&Message { subject: "a", body: "b".into() }).unwrap();
    let operation = "MessageSubscriber.HandleMessage";
    let error = caller.call(&guest.id, operation, message).await.expect_err("it refuses");
    assert_eq!(error.len(), 65536);
    host.stop().await;
}

/// A component of so many levels, each of which has the one below twice.
fn doubling(levels: u32) -> String {
    let mut inside =
        String::from("(component $c0 (core module $m) (core instance (instantiate $m)))");
    for level in 1..=levels {
        append(
            &mut inside,
            &format!(
                "(component $c{level} (alias outer 1 $c{} (component $c)) \
                 (instance (instantiate $c)) (instance (instantiate $c)))",
                level - 1
            ),
        );
    }
    let begin = format!("(component {inside} (instance (instantiate $c{levels}))");
    Job::new(&[], "(i32.const 0)").text().replacen("(component", &begin, 1)
}

#[tokio::test]
async fn components_that_ask_for_too_much_do_not_start_and_are_told_why() {
    let server = Server::shared().await;
    let host = host(&server).set("actor_instances_max", "40").start().await;
    let declaring =
        |declarations: &str| Job::new(&[], "(i32.const 0)").declaring(declarations).text();
    let with_instances = |count: usize| {
        let instances = "(core instance (instantiate $Empty)) ".repeat(count);
        let begin = format!("(component (core module $Empty) {instances}");
        declaring("").replacen("(component", &begin, 1)
    };
    let function = format!(
        "(func (local {}) {})",
        "i64 ".repeat(2000),
        "(block (br_if 0 (i32.const 1))) ".repeat(10_000)
    );
    for (wat, reason) in [
        (declaring(&function), "too many locals"),
        (declaring("(memory 1)"), "multiple memories"),
        (declaring("(type $a (array (mut i8)))"), "gc"),
        (with_instances(900), "raise actor_instances_max"),
        (with_instances(9_000), "instances count exceeds limit"),
        (with_instances(50_000), "more than 10000 instances"),
        (doubling(40), "more than 10000 instances"),
    ] {
        assert_start_fails(&server, &host, &wat, reason).await;
    }
    let ctl = ctl_2024(&server).await;
    assert!(ctl.get_host_inventory(&host.id).await.unwrap().actors.is_empty());
    host.stop().await;
}
