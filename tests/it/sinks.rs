//! Where output goes and what is in it: a log without a reader, strangers' text in the log and on
//! terminals, floods, and what is told of refused commands.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, ChildStderr, Command, Output, Stdio},
};

use lattice_cli::up::nats_server::{Probe, probe};
use lattice_protocol::escape::is_obeyed;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    CLUSTER_SEED, ECHO, Events, Server,
    client::{self, Caller, answering, ctl_2024, start},
    eventually, example,
    guests::{Signing, sign, wapc},
    host,
    process::{Process, Running, command, command_in, member, output, stderr},
    text,
};

/// A text that forges a line, renames a terminal and turns what follows around.
const EVIL: &str = "x\n12:00:00.000 [info] forged\r\u{1b}]0;title\u{7}\u{9b}2J\u{202e}\u{2028}y";

/// A host whose standard error is read by the test, or not.
struct Member {
    child: Running,
    server: Server,
    dir: TempDir,
}

impl Member {
    /// Starts a host; `log` is where its standard error goes.
    async fn start(log: impl Into<Stdio>, arguments: &[&str]) -> Self {
        let server = Server::shared().await;
        let dir = TempDir::new().unwrap();
        let mut command = member(dir.path(), &server);
        let child = Running::start(command.args(arguments).stdin(Stdio::null()).stderr(log));
        Self { child, server, dir }
    }

    /// The id of the host, when it answers.
    async fn id(&self) -> String {
        let ctl = ctl_2024(&self.server).await;
        eventually("the host answers", || async { Some(ctl.get_hosts().await.ok()?.pop()?.id) })
            .await
    }

    /// Does what hosts log: a label, a link and a refused command.
    async fn serves(&self) {
        let (ctl, nats) = (ctl_2024(&self.server).await, client::nats(&self.server).await);
        let id = self.id().await;
        for n in 0..3 {
            assert!(ctl.put_label(&id, "n", &n.to_string()).await.unwrap().accepted);
            let subject = self.server.ctl(format_args!("cmd.{id}.sa"));
            let refused = nats.request(subject, "nonsense".into()).await.unwrap();
            assert!(String::from_utf8_lossy(&refused.payload).contains("malformed"));
        }
    }

    /// Sends so many requests, each of which leaves a line in a log at level debug.
    async fn floods(&self, requests: usize) {
        let nats = client::nats(&self.server).await;
        for _ in 0..requests {
            nats.publish(self.server.ctl("ping.hosts"), "".into()).await.unwrap();
        }
        crate::harness::client::settled(&nats).await;
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .unwrap();
    }

    /// Ends the host in order.
    async fn ends(mut self) {
        let mut events = Events::only(&self.server, "host_stopped").await;
        self.signal(Signal::TERM);
        events.next("host_stopped").await;
        assert_eq!(exit_code(&mut self.child).await, Some(0));
    }
}

async fn exit_code(child: &mut Child) -> Option<i32> {
    eventually("the process ends", || {
        let status = child.try_wait().unwrap();
        async move { status }
    })
    .await
    .code()
}

/// Reads the log until it says so, in a thread that may wait.
async fn read_until(log: ChildStderr, wanted: &'static str) -> BufReader<ChildStderr> {
    tokio::task::spawn_blocking(move || {
        let mut log = BufReader::new(log);
        let mut line = String::new();
        while !line.contains(wanted) {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the log ended before {wanted:?}");
        }
        log
    })
    .await
    .unwrap()
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_serves_on_when_the_reader_of_its_log_is_gone() {
    let mut host = Member::start(Stdio::piped(), &[]).await;
    let log = read_until(host.child.stderr.take().unwrap(), "ready").await;
    drop(log);
    host.serves().await;
    host.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_serves_on_with_its_log_on_a_full_disk() {
    let host = Member::start(full(), &[]).await;
    host.serves().await;
    host.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_serves_on_when_its_log_has_reached_the_limit_of_a_file() {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    let log = File::create(dir.path().join("log")).unwrap();
    let direct = member(dir.path(), &server);
    let mut limited = Command::new("sh");
    // Blocks of 512 or 1024 bytes: few for a log in which each step is told.
    limited
        .args(["-c", "ulimit -f 64; exec \"$0\" \"$@\""])
        .arg(direct.get_program())
        .args(direct.get_args());
    limited.args(["--log-level", "trace"]).current_dir(dir.path()).env_clear();
    limited.envs(direct.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let child = Running::start(limited.stdin(Stdio::null()).stderr(log));
    let host = Member { child, server, dir };
    host.id().await;
    host.floods(2_000).await;
    host.serves().await;
    host.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_pauses_holds_nothing_up_and_learns_how_much_it_missed() {
    let mut host = Member::start(Stdio::piped(), &["--log-level", "debug"]).await;
    let log = read_until(host.child.stderr.take().unwrap(), "ready").await;
    // Each leaves a line; together they are more than the pipe and what waits before it.
    host.floods(40_000).await;
    host.serves().await;
    let log = tokio::task::spawn_blocking(|| {
        let mut log = log;
        let mut line = String::new();
        while !line.contains("log lines were lost") {
            line.clear();
            log.read_line(&mut line).unwrap();
        }
        log
    });
    let log = log.await.unwrap();
    host.serves().await;
    // Nobody reads again; that does not keep it from ending.
    host.floods(40_000).await;
    host.serves().await;
    host.ends().await;
    drop(log);
}

/// A command on a terminal of its own, which ends when the returned process is killed.
fn on_a_terminal(dir: &Path, server: &Server, before: &str) -> Running {
    let direct = member(dir, server);
    let words = std::iter::once(direct.get_program()).chain(direct.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let mut script = Command::new("script");
    script
        .args(["-q", "-c", &format!("{before} exec {}", words.join(" ")), "/dev/null"])
        .current_dir(dir)
        .env_clear();
    script
        .envs(direct.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("SHELL", "/bin/sh");
    // It is script(1) of util-linux.
    Running::start(script.stdin(Stdio::null()).stdout(Stdio::null()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_outlives_its_terminal_serves_on() {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    let terminal = on_a_terminal(dir.path(), &server, "trap '' HUP; echo $$ > pid;");
    let mut host = Member { child: terminal, server, dir };
    host.id().await;
    host.child.kill().unwrap();
    host.child.wait().unwrap();
    host.serves().await;
    let pid = std::fs::read_to_string(host.dir.path().join("pid")).unwrap();
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    let mut events = Events::only(&host.server, "host_stopped").await;
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    events.next("host_stopped").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_ends_in_order_with_its_terminal() {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    let terminal = on_a_terminal(dir.path(), &server, "");
    let mut host = Member { child: terminal, server, dir };
    host.id().await;
    let mut events = Events::only(&host.server, "host_stopped").await;
    host.child.kill().unwrap();
    events.next("host_stopped").await;
}

/// `host up` with both outputs in one pipe, of which three lines are read; what `after` does with
/// the rest is told.
async fn up_with(
    after: impl FnOnce(BufReader<std::io::PipeReader>) -> Option<BufReader<std::io::PipeReader>>,
) {
    let dir = TempDir::new().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut up = command(dir.path());
    up.args(["up", "--free-ports"])
        .stdin(Stdio::null())
        .stdout(writer.try_clone().unwrap())
        .stderr(writer);
    let mut child = Running::start(&mut up);
    // The command holds the other end of the pipe as long as it lives.
    drop(up);
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    (0..3).for_each(|_| assert!(reader.read_line(&mut line).unwrap() > 0));
    let rest = after(reader);
    let config = dir.path().join("host_config.json");
    let port = eventually("the host runs", || async {
        let config: Value = serde_json::from_slice(&std::fs::read(&config).ok()?).ok()?;
        let is_ready = output(command(dir.path()).args(["get", "hosts", "-o", "name"]))
            .stdout
            .starts_with(b"N");
        is_ready.then(|| config["ctl_port"].to_string())
    })
    .await;
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(exit_code(&mut child).await, Some(0));
    let address = format!("127.0.0.1:{port}");
    eventually("its server is gone", || async {
        (probe(&address).await == Probe::Nothing).then_some(())
    })
    .await;
    drop(rest);
}

#[tokio::test(flavor = "multi_thread")]
async fn up_whose_reader_is_gone_runs_and_ends_with_its_server() {
    up_with(|reader| {
        drop(reader);
        None
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn up_whose_reader_pauses_runs_and_ends_with_its_server() {
    up_with(Some).await;
}

/// Runs a command with one output that nobody reads, or that is full.
fn without_reader(command: &mut Command, is_stdout: bool, end: &str) -> Output {
    let closed = || -> Stdio {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        if end == "full" { full().into() } else { writer.into() }
    };
    if is_stdout {
        command.stdout(closed()).stderr(Stdio::piped());
    } else {
        command.stderr(closed()).stdout(Stdio::piped());
    }
    command.stdin(Stdio::null()).spawn().unwrap().wait_with_output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_whose_reader_is_gone_end_quietly_with_their_usual_code() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let dir = TempDir::new().unwrap();
    let url = server.url();
    let there = ["--ctl-host", &url, "--timeout-ms", "5000"];
    let nowhere = ["--ctl-host", "nats://127.0.0.1:1"];
    let hosts = [&["get", "hosts"][..], &there].concat();
    for (arguments, code) in [
        (hosts.clone(), 0),
        ([&hosts[..], &["-o", "json"]].concat(), 0),
        ([&hosts[..], &["-o", "yaml"]].concat(), 0),
        ([&hosts[..], &["-o", "name"]].concat(), 0),
        ([&["get", "inventory"][..], &there].concat(), 0),
        ([&["get", "claims"][..], &there].concat(), 0),
        ([&["get", "links"][..], &there].concat(), 0),
        ([&["logs", ECHO][..], &there].concat(), 0),
        ([&["top", "--iterations", "1"][..], &there].concat(), 0),
        (vec!["inspect", "builtin://httpserver"], 0),
        (vec!["config", "show"], 0),
        (vec!["config", "show", "-o", "json"], 0),
        (vec!["completions", "bash"], 0),
        (vec!["man"], 0),
        (vec!["ctx", "list"], 0),
        (vec!["--help"], 0),
        (vec!["--version"], 0),
        (vec!["down"], 0),
        (vec!["keys", "list"], 0),
    ] {
        let ended = without_reader(command_in(dir.path(), &server).args(&arguments), true, "gone");
        let told = stderr(&ended);
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(!told.contains("panicked") && !told.contains("pipe"), "{arguments:?}: {told}");
    }
    for (arguments, code) in [
        ([&["get", "hosts"][..], &nowhere].concat(), 1),
        ([&["get", "hosts", "-o", "json"][..], &nowhere].concat(), 1),
        ([&["stop", "actor", "nobody"][..], &there].concat(), 1),
        (vec!["get", "nonsense"], 2),
        (vec!["config", "show", "--ctl-port", "x"], 64),
        (vec!["foreground", "--ctl-port", "x"], 64),
        (vec!["foreground", "--nonsense"], 64),
        (vec!["up", "--hub", "::"], 64),
        (vec!["inspect", "./nothing.wasm"], 1),
    ] {
        for end in ["gone", "full"] {
            let ended =
                without_reader(command_in(dir.path(), &server).args(&arguments), false, end);
            assert_eq!(ended.status.code(), Some(code), "{arguments:?} {end}");
        }
    }
    let ended = without_reader(command(dir.path()).args(["config", "show"]), true, "full");
    assert!(
        ended.status.code() == Some(1) && stderr(&ended).contains("standard output"),
        "{ended:?}"
    );
    host.stop().await;
}

/// Returns the log of a host up to the line with `last`.
fn lines_until(host: &mut Process, last: &str) -> Vec<String> {
    host.line(last);
    host.seen.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_write_forges_no_line_of_the_log_and_reaches_no_terminal() {
    // A guest that logs what moves cursors.
    let says = "\\1b]0;title\\07\\0d12:00 forged \\c2\\9b2J \\e2\\80\\ae";
    let guest = wapc("(call $log (i32.const 512) (i32.const 64)) (i32.const 1)");
    let padded = format!("(data (i32.const 512) \"{}{says}\")", "x".repeat(32));
    let guest = guest.replace(
        "  (func (export \"__guest_call\")",
        &format!("  {padded}\n  (func (export \"__guest_call\")"),
    );
    let guest = sign(&guest, &Signing { name: Some(EVIL.into()), ..Signing::default() });
    for is_json in [false, true] {
        let server = Server::shared().await;
        let dir = TempDir::new().unwrap();
        let form = if is_json {
            &["--structured-logging-enabled", "--log-level", "debug"][..]
        } else {
            &["--log-level", "debug"]
        };
        let mut process = Process::start(member(dir.path(), &server).args(form));
        process.line("ready");
        let (ctl, nats) = (ctl_2024(&server).await, client::nats(&server).await);
        let id = ctl.get_hosts().await.unwrap().remove(0).id;
        let mut events = Events::all(&server).await;
        ctl.scale_actor(&id, &guest.reference, 1, None).await.unwrap();
        events.next("actor_scaled").await;
        Caller::new(&server).await.call(&guest.id, "work", "").await.expect("it logs");
        let _ = ctl.put_label(&id, EVIL, EVIL).await;
        let _ = ctl.scale_actor(&id, EVIL, 1, None).await;
        events.next("actor_scale_failed").await;
        for (subject, body) in [
            (
                server.ctl(format_args!("cmd.{id}.lp")),
                json!({ "provider_ref": EVIL, "link_name": EVIL }),
            ),
            (
                server.ctl("linkdefs.put"),
                json!({ "actor_id": EVIL, "provider_id": EVIL, "contract_id": EVIL }),
            ),
            (
                server.ctl("registries.put"),
                json!({ EVIL: { "username": EVIL, "password": "hunter2" } }),
            ),
            (server.ctl(format_args!("cmd.{id}.sa")), json!({ "actor_ref": EVIL })),
        ] {
            nats.request(subject, body.to_string().into()).await.unwrap();
        }
        assert!(ctl.put_label(&id, "theend", "x").await.unwrap().accepted);
        for line in lines_until(&mut process, "theend") {
            assert!(!line.contains(is_obeyed) && !line.starts_with("12:00"), "{line:?}");
            assert!(!is_json || serde_json::from_str::<Value>(&line).is_ok(), "{line}");
            assert!(!line.contains("hunter2"), "{line}");
        }
    }
}

/// A host that does not exist, whose names are evil everywhere.
async fn evil_host(server: &Server) -> tokio_util::task::AbortOnDropHandle<()> {
    let id = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";
    answering(server, &server.ctl(">"), move |subject, _| {
        let labels = json!({ EVIL: EVIL, "k$(touch pwned)": "v", "zone": "a" });
        let claims = json!({
            "sub": ECHO, "name": EVIL, "caps": EVIL, "tags": EVIL, "iss": EVIL, "call_alias": EVIL, "version": EVIL,
            "rev": "1",
        });
        Some(match subject {
            "ping.hosts" => json!({
                "id": id, "friendly_name": EVIL, "labels": labels, "version": EVIL, "uptime_seconds": 1,
                "lattice_prefix": "default", "cluster_issuers": EVIL, "issuer": EVIL, "ctl_host": EVIL, "js_domain": EVIL,
                "uptime_human": EVIL, "rpc_host": EVIL, "prov_rpc_host": EVIL,
            }),
            "get.claims" => json!({ "claims": [claims] }),
            "get.links" => json!({ "links": [{
                "id": EVIL, "actor_id": EVIL, "provider_id": EVIL, "contract_id": EVIL, "link_name": EVIL,
                "values": { EVIL: EVIL },
            }] }),
            other if other.ends_with(".inv") => json!({
                "host_id": id, "friendly_name": EVIL, "labels": labels, "issuer": EVIL,
                "actors": [{ "id": ECHO, "name": EVIL, "image_ref": EVIL, "instances": [
                    { "instance_id": EVIL, "revision": 1, "annotations": { EVIL: EVIL }, "max_instances": 1 },
                ] }],
                "providers": [{ "id": EVIL, "name": EVIL, "link_name": EVIL, "image_ref": EVIL, "contract_id": EVIL,
                    "revision": 1, "annotations": { EVIL: EVIL } }],
            }),
            other if other.starts_with("cmd.") => json!({ "accepted": false, "error": EVIL }),
            _ => return None,
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_show_names_of_strangers_without_what_terminals_obey() {
    let server = Server::shared().await;
    let _host = evil_host(&server).await;
    let dir = TempDir::new().unwrap();
    let guest =
        sign(&wapc("(i32.const 1)"), &Signing { name: Some(EVIL.into()), ..Signing::default() });
    let file = guest.reference.trim_start_matches("file://");
    let url = server.url();
    let there = ["--ctl-host", &url, "--timeout-ms", "700"];
    let mut lines = vec![
        vec!["inspect", file],
        vec!["inspect", file, "-o", "json"],
        vec!["inspect", file, "-o", "yaml"],
    ];
    for verb in [
        &["get", "hosts"][..],
        &["get", "inventory"],
        &["get", "claims"],
        &["get", "links"],
        &["doctor"],
        &["explain", ECHO, "wasmcloud:keyvalue"],
        &["stop", "actor", ECHO],
        &["stop", "provider", "nobody"],
        &["start", "provider", EVIL_REFERENCE],
        &["logs", ECHO],
        &["top", "--iterations", "1"],
    ] {
        for form in ["text", "wide", "json", "yaml", "name"] {
            lines.push([verb, &there, &["-o", form]].concat());
        }
    }
    // Most of each is waiting for answers that do not come.
    let (path, shared) = (dir.path(), &server);
    std::thread::scope(|scope| {
        for some in lines.chunks(lines.len().div_ceil(8)) {
            scope.spawn(move || {
                for arguments in some {
                    let ended = output(command_in(path, shared).args(arguments));
                    assert_nothing_is_obeyed(arguments, &ended);
                }
            });
        }
    });
    // Bash runs what is in a word when the line is entered.
    for word in ["", "k", "z"] {
        let complete =
            ["--", "host", "start", "actor", "x", "--ctl-host", &url, "--constraint", word];
        let offered =
            output(command_in(dir.path(), &server).env("COMPLETE", "fish").args(complete));
        let offered = String::from_utf8_lossy(&offered.stdout).into_owned();
        assert!(
            !offered.contains('$') && !offered.contains(|c| is_obeyed(c) && !"\n\t".contains(c)),
            "{offered:?}"
        );
    }
}

/// Panics where a command printed what a terminal obeys, or no JSON where JSON was asked for.
fn assert_nothing_is_obeyed(arguments: &[&str], ended: &Output) {
    for shown in [&ended.stdout, &ended.stderr] {
        let shown = String::from_utf8_lossy(shown);
        let obeyed =
            shown.find(|c| is_obeyed(c) && c != '\n').map(|at| &shown[at.saturating_sub(20)..]);
        assert_eq!(obeyed, None, "{arguments:?}");
        assert!(!shown.lines().any(|line| line.starts_with("12:00:00")), "{arguments:?}: {shown}");
    }
    if arguments.contains(&"json") && ended.status.success() {
        serde_json::from_slice::<Value>(&ended.stdout).expect("the data is JSON");
    }
}

const EVIL_REFERENCE: &str = "file:///no/such\u{1b}[31m\nthing";

/// How many lines of a log have this text.
fn count(lines: &[String], text: &str) -> usize {
    lines.iter().filter(|line| line.contains(text)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_kind_leaves_some_lines_and_a_count() {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(&mut member(dir.path(), &server));
    process.line("ready");
    let (ctl, caller) = (ctl_2024(&server).await, Caller::new(&server).await);
    let id = ctl.get_hosts().await.unwrap().remove(0).id;
    let mut events = Events::only(&server, "actor_scaled").await;
    ctl.scale_actor(&id, &example("echo"), 1, None).await.unwrap();
    events.next("actor_scaled").await;
    // Forged calls, garbage, refused and accepted commands, unreadable entries: each as often as
    // anybody likes.
    let mut forged = caller.invocation(ECHO, "HttpServer.HandleRequest", "x");
    forged.encoded_claims = "not.a.token".into();
    let forged: bytes::Bytes = lattice_protocol::rpc::codec::encode_invocation(&forged);
    for n in 0..500 {
        let rpc = server.rpc(ECHO);
        caller.nats.publish(rpc.clone(), forged.clone()).await.unwrap();
        caller.nats.publish(rpc, "garbage".into()).await.unwrap();
        let command = server.ctl(format_args!("cmd.{id}.upd"));
        caller.nats.publish(command, format!("garbage {n}").into()).await.unwrap();
        let label = json!({ "key": "flood", "value": n.to_string() }).to_string();
        caller
            .nats
            .publish(server.ctl(format_args!("labels.{id}.put")), label.into())
            .await
            .unwrap();
        let registries =
            json!({ "r.example": { "username": "u", "password": n.to_string() } }).to_string();
        caller.nats.publish(server.ctl("registries.put"), registries.into()).await.unwrap();
        caller
            .nats
            .publish(
                format!("$KV.LATTICEDATA_{}.LINKDEF_garbage{n}", server.lattice()),
                "nonsense".into(),
            )
            .await
            .unwrap();
    }
    crate::harness::client::settled(&caller.nats).await;
    let answer =
        caller.call(ECHO, "HttpServer.HandleRequest", client::http_request("GET", "/", b"")).await;
    assert!(answer.is_ok(), "the actor answers: {answer:?}");
    process.signal(Signal::TERM);
    let lines = lines_until(&mut process, "stopped.");
    assert_eq!(process.exit_code(), Some(0));
    if count(&lines, "too many log lines") == 0 {
        process.line("too many log lines");
    }
    for kind in [
        "invocation refused",
        "message is no invocation",
        "update actor refused",
        "label changed",
        "registry credentials taken",
        "bucket ignored",
    ] {
        let told = count(&lines, kind);
        assert!((1..=250).contains(&told), "{kind}: {told} lines");
    }
    assert!(lines.len() < 1200, "{} lines", lines.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_command_is_logged_once_and_told_as_an_event() {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(&mut member(dir.path(), &server));
    process.line("ready");
    let (ctl, nats) = (ctl_2024(&server).await, client::nats(&server).await);
    let id = ctl.get_hosts().await.unwrap().remove(0).id;
    let mut events = Events::all(&server).await;
    let host = |verb: &str| server.ctl(format_args!("cmd.{id}.{verb}"));
    let link = json!({ "actor_id": ECHO, "provider_id": "Vbroken", "contract_id": "a:b", "values": { "password": "hunter2" } });
    for (subject, body, command) in [
        (server.ctl("linkdefs.put"), link.to_string(), "link put"),
        (host("sa"), json!({ "actor_ref": ECHO, "count": 1 }).to_string(), "stop actor"),
        (
            host("sp"),
            json!({ "provider_ref": "V", "contract_id": "a:b", "link_name": "x" }).to_string(),
            "stop provider",
        ),
        (
            host("lp"),
            json!({ "provider_ref": "builtin://x", "configuration": "hunter2" }).to_string(),
            "start provider",
        ),
        (
            host("lp"),
            json!({ "provider_ref": "builtin://x", "annotations": "hunter2" }).to_string(),
            "start provider",
        ),
        (host("upd"), "hunter2".into(), "update actor"),
        (
            server.ctl(format_args!("labels.{id}.put")),
            json!({ "key": "" }).to_string(),
            "label put",
        ),
        (server.ctl("registries.put"), "\"hunter2\"".into(), "registry credentials"),
        (server.ctl("config.put.x.y"), "hunter2".into(), "config put"),
        (host("dance"), "{}".into(), "unknown request"),
    ] {
        let reply = nats.request(subject, body.into()).await.unwrap();
        let ack: Value = serde_json::from_slice(&reply.payload).unwrap();
        assert_eq!(ack["accepted"], json!(false), "{command}: {ack}");
        if command == "link put" {
            let failed = events.next("linkdef_set_failed").await;
            assert_eq!(text(&failed, "/data/actor_id"), ECHO);
            assert!(failed["data"]["values"].is_null(), "{failed}");
        }
        let refused = events.next("command_refused").await;
        assert_eq!(text(&refused, "/data/command"), command);
        assert!(
            !text(&refused, "/data/error").is_empty() && !refused.to_string().contains("hunter2"),
            "{refused}"
        );
        let line = process.line(&format!("{command} refused"));
        assert!(line.contains("reason="), "{line}");
    }
    process.signal(Signal::TERM);
    let lines = lines_until(&mut process, "stopped.");
    assert_eq!(count(&lines, "refused"), 10, "{lines:#?}");
    assert!(
        count(&lines, "hunter2") == 0 && count(&lines, CLUSTER_SEED) == 0,
        "no secret is in the log"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_repeats_of_the_one_in_the_background_needs_no_reader() {
    let dir = TempDir::new().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut up = command(dir.path());
    up.args(["up", "--detached", "--free-ports"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(writer);
    let mut child = Running::start(&mut up);
    drop(up);
    let mut first = [0; 1];
    reader.read_exact(&mut first).unwrap();
    drop(reader);
    assert_eq!(exit_code(&mut child).await, Some(0));
    let down = output(command(dir.path()).arg("down"));
    assert!(down.status.success(), "{}", stderr(&down));
}
