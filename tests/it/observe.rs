//! The counts, logs and events of hosts, and the commands that show them: `logs`, `top`, `spy`, the
//! steps of starts, and signatures for the user of the machine.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Command,
};

use futures::StreamExt;
use lattice_base::presence::presence_dir;
use lattice_client::lattice::Lattice;
use lattice_engine::local::{self, SignError, Unsigned};
use lattice_protocol::{
    control::probe::calls,
    events::Step,
    identity::{
        claims::now,
        keys::{ClusterKey, LatticeName},
    },
    journal::wire::{Ask, Mark, Part},
    lattice::subject::Subjects,
    rpc::{antiforgery::Verifier, codec, invocation::Entity},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    CLUSTER, ECHO, Events, KVCOUNTER, PATIENCE, PINGER, PONGER, RANDOGENLOGGER, Server, TestHost,
    client::{self, Caller, answering, http_request, link, start, start_provider},
    eventually, example,
    external::{pack, pack_program, public_key},
    guests::{Signing, sign, wapc},
    host,
    process::{Process, command_in, output, stderr},
    registry::RegistryServer,
    text,
};

const HANDLE: &str = "HttpServer.HandleRequest";

/// A command of the binary that speaks to the lattice of a server.
fn operator(dir: &TempDir, server: &Server, args: &[&str]) -> Command {
    let mut command = command_in(dir.path(), server);
    command.args(args).args(["--ctl-host", &server.url(), "--timeout-ms", "5000"]);
    command
}

/// Returns the output of a command that ends by itself, as JSON values.
fn json_lines(mut command: Command) -> Vec<Value> {
    let output = output(&mut command);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

/// A command that goes on, and the lines of JSON it prints.
struct Going(Process);

impl Going {
    fn start(mut command: Command) -> Self {
        Self(Process::printing(&mut command))
    }

    fn next(&mut self) -> Value {
        self.0.json("of whatever kind")
    }

    /// The next line that is wanted; others are passed over.
    fn find(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let (began, mut last) = (std::time::Instant::now(), Value::Null);
        while began.elapsed() < PATIENCE {
            last = self.next();
            if is_wanted(&last) {
                return last;
            }
        }
        panic!("not what was waited for; the last line is {last}")
    }

    fn interrupt(mut self) -> Option<i32> {
        self.0.signal(rustix::process::Signal::INT);
        self.0.exit_code()
    }
}

/// Calls an actor on a host of choice, as hosts call each other.
async fn call_on(caller: &Caller, host: &TestHost, actor: &str, path: &str) {
    let invocation = caller.invocation(actor, HANDLE, http_request("GET", path, b""));
    let payload = codec::encode_invocation(&invocation);
    let subject = format!("wasmbus.rpc.{}.{actor}.{}", caller.lattice, host.id);
    let reply = caller.nats.request(subject, payload).await.expect("a reply");
    assert_eq!(codec::decode_response(reply.payload).expect("a response").error, None);
}

fn followers(hosts: &[&TestHost]) -> Vec<usize> {
    hosts.iter().map(|host| host.host().followers().count()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_two_hosts_are_merged_and_followed_to_a_third() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let (first, second) = (host(&server).start().await, host(&server).start().await);
    start(&server, &first, &example("randogenlogger"), 1).await;
    start(&server, &second, &example("randogenlogger"), 1).await;
    let caller = Caller::new(&server).await;
    for path in ["/a", "/b"] {
        call_on(&caller, &first, RANDOGENLOGGER, path).await;
        call_on(&caller, &second, RANDOGENLOGGER, path).await;
    }
    let lines = json_lines(operator(&dir, &server, &["logs", "randogenlogger", "-o", "json"]));
    let hosts: BTreeSet<&str> = lines.iter().map(|line| text(line, "/host_id")).collect();
    assert_eq!(hosts, BTreeSet::from([&*first.id, &*second.id]));
    // The time of each line is that of RFC 3339, so its text sorts.
    assert!(lines.is_sorted_by_key(|line| text(line, "/time").parse::<String>()), "{lines:#?}");
    let is_of =
        |line: &Value, level: &str| line["level"] == level && text(line, "/text").contains("GET /");
    // The log of these hosts begins at info.
    for level in ["debug", "info", "warn", "error"] {
        assert_eq!(
            lines.iter().filter(|line| is_of(line, level)).count(),
            4,
            "{level} in {lines:#?}"
        );
    }
    let tail = json_lines(operator(
        &dir,
        &server,
        &["logs", RANDOGENLOGGER, "-n", "2", "--host-id", &first.id, "-o", "json"],
    ));
    assert_eq!(tail.len(), 2);
    assert_eq!(
        (&tail[1]["host_id"], text(&tail[1], "/text")),
        (&json!(first.id), "GET /b at level error")
    );

    let mut going = Going::start(operator(
        &dir,
        &server,
        &["logs", "randogenlogger", "-f", "-n", "0", "-o", "json"],
    ));
    eventually("both are followed", || async {
        (followers(&[&first, &second]) == [1, 1]).then_some(())
    })
    .await;
    call_on(&caller, &second, RANDOGENLOGGER, "/live").await;
    let live = going.find(|line| text(line, "/text").contains("/live"));
    assert_eq!((text(&live, "/host_id"), text(&live, "/level")), (&*second.id, "debug"));
    // A host that joins, with an actor that starts there later.
    let third = host(&server).start().await;
    eventually("the third is followed", || async { (followers(&[&third]) == [1]).then_some(()) })
        .await;
    start(&server, &third, &example("randogenlogger"), 1).await;
    call_on(&caller, &third, RANDOGENLOGGER, "/third").await;
    assert_eq!(
        text(&going.find(|line| text(line, "/text").contains("/third")), "/host_id"),
        third.id
    );
    assert_eq!(going.interrupt(), Some(0));
    let hosts = [&first, &second, &third];
    eventually("nobody follows any more", || async {
        (followers(&hosts) == [0, 0, 0]).then_some(())
    })
    .await;
    for host in [first, second, third] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_prints_is_in_its_logs_at_every_level() {
    use std::os::unix::fs::PermissionsExt;
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let host = host(&server).own_cache().start().await;
    let (script, archive) = (dir.path().join("prints"), dir.path().join("prints.par"));
    let program = "#!/bin/sh\nread line\necho plain words\necho 2024-02-01T10:00:00Z DEBUG kv: details >&2\nexec sleep 1000\n";
    std::fs::write(&script, program).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    pack_program("provider_kvmemory", &script, &archive);
    start_provider(&server, &host, &format!("file://{}", archive.display())).await;
    let provider = public_key("provider_kvmemory");
    let mut going = Going::start(operator(&dir, &server, &["logs", &provider, "-f", "-o", "json"]));
    // The two outputs of a process are read side by side.
    let wanted =
        |line: &Value| line["text"] == "plain words" || text(line, "/text").contains("details");
    let mut lines = [going.find(wanted), going.find(wanted)];
    lines.sort_by_key(|line| text(line, "/level").to_owned());
    let told: Vec<_> =
        lines.iter().map(|line| (text(line, "/level"), text(line, "/link_name"))).collect();
    assert_eq!(told, [("debug", "default"), ("info", "default")], "{lines:?}");
    assert_eq!(going.interrupt(), Some(0));

    // Built-in ones say what becomes of their links.
    start_provider(&server, &host, "builtin://keyvalue").await;
    let keyvalue = lattice_engine::providers::builtin::keyvalue::SPEC.known.public_key;
    link(&server, KVCOUNTER, keyvalue, "wasmcloud:keyvalue", &[]).await;
    let mut going =
        Going::start(operator(&dir, &server, &["logs", "builtin://keyvalue", "-f", "-o", "json"]));
    going.find(|line| text(line, "/text").contains(KVCOUNTER));
    drop(going);
    let unknown = output(&mut operator(&dir, &server, &["logs", "nobody"]));
    assert!(
        stderr(&unknown).contains("nobody") && stderr(&unknown).contains(&provider),
        "{}",
        stderr(&unknown)
    );
    host.stop().await;
}

/// The answers to an ask of a host, on an inbox of their own.
async fn ask(nats: &async_nats::Client, host: &TestHost, ask: &Ask) -> async_nats::Subscriber {
    let inbox = nats.new_inbox();
    let parts = nats.subscribe(inbox.clone()).await.unwrap();
    let lattice = &host.host().state().facts().lattice;
    let subject = format!("wasmbus.ctl.{lattice}.probe.{}.logs", host.id);
    nats.publish_with_reply(subject, inbox, serde_json::to_vec(ask).unwrap().into()).await.unwrap();
    parts
}

async fn part(parts: &mut async_nats::Subscriber) -> Part {
    let message =
        tokio::time::timeout(PATIENCE, parts.next()).await.expect("a part").expect("a message");
    serde_json::from_slice(&message.payload).expect("a part")
}

#[tokio::test]
async fn a_client_that_vanished_ends_its_follow() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let nats = client::nats(&server).await;
    let following = |name: &str, lease_ms| Ask {
        entity: ECHO.into(),
        follow: Some(name.into()),
        lease_ms: Some(lease_ms),
        ..Ask::default()
    };
    let mut parts = ask(&nats, &host, &following("gone", 300)).await;
    assert_eq!(part(&mut parts).await.mark, Mark::Past);
    assert_eq!(host.host().followers().count(), 1);
    // It does not renew.
    assert_eq!(part(&mut parts).await.mark, Mark::Over);
    assert_eq!(host.host().followers().count(), 0);

    // One that renews is kept, and one that says so is not.
    let mut parts = ask(&nats, &host, &following("stays", 60_000)).await;
    assert_eq!(part(&mut parts).await.mark, Mark::Past);
    assert_eq!(
        part(&mut ask(&nats, &host, &following("stays", 60_000)).await).await.mark,
        Mark::Kept
    );
    start(&server, &host, &example("echo"), 1).await;
    let live = part(&mut parts).await;
    assert_eq!((live.mark, live.lines.len(), live.last), (Mark::Live, 1, 1));
    ask(&nats, &host, &Ask { stop: true, ..following("stays", 60_000) }).await;
    assert_eq!(part(&mut parts).await.mark, Mark::Over);
    // There is a bound, and whoever is beyond it is told.
    let mut all = Vec::new();
    for n in 0..lattice_engine::journal::followers::FOLLOWERS_MAX {
        let mut parts = ask(&nats, &host, &following(&format!("f{n}"), 60_000)).await;
        assert_eq!(part(&mut parts).await.mark, Mark::Past);
        all.push(parts);
    }
    let refused = part(&mut ask(&nats, &host, &following("one more", 60_000)).await).await;
    assert!(refused.mark == Mark::Over && refused.error.contains("followers"), "{refused:?}");
    host.stop().await;
    let last = part(&mut all[0]).await;
    assert!(
        last.lines.iter().any(|line| line.text.contains("stops")) || last.error.contains("stops"),
        "{last:?}"
    );
}

/// The rows of one look of `host top`.
fn top(dir: &TempDir, server: &Server, args: &[&str]) -> Vec<Value> {
    let mut all = vec!["top", "-d", "0.1", "-o", "json"];
    all.extend(args);
    let looks = json_lines(operator(dir, server, &all));
    assert_eq!(looks.len(), 1);
    looks[0]["rows"].as_array().expect("rows").clone()
}

fn row<'a>(rows: &'a [Value], id: &str) -> &'a Value {
    rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("no row of {id} in {rows:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn top_counts_exactly_the_calls_that_were_made() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let (first, second) = (host(&server).start().await, host(&server).start().await);
    for host in [&first, &second] {
        start(&server, host, &example("echo"), 5).await;
    }
    start(&server, &first, &example("pinger"), 1).await;
    start(&server, &first, &example("ponger"), 1).await;
    let trap = sign(&wapc("(unreachable)"), &Signing::default());
    start(&server, &second, &trap.reference, 1).await;
    let caller = Caller::new(&server).await;
    for n in 0..25 {
        caller.call(ECHO, HANDLE, http_request("GET", &format!("/{n}"), b"")).await.unwrap();
    }
    for _ in 0..4 {
        caller.call(PINGER, HANDLE, http_request("GET", "/", b"")).await.unwrap();
        caller.call(&trap.id, "Any.Thing", "").await.unwrap_err();
    }
    caller.call(&trap.id, "Other.Thing", "").await.unwrap_err();
    let mut forged = caller.invocation(ECHO, HANDLE, "x");
    forged.msg = "y".into();
    // Refused before it is the actor's.
    assert!(caller.send(ECHO, &forged).await.error.is_some());

    let rows = top(&dir, &server, &[]);
    assert_eq!((&row(&rows, ECHO)["total"], &row(&rows, ECHO)["hosts"]), (&json!(25), &json!(2)));
    assert_eq!(row(&rows, ECHO)["name"], "echo");
    assert_eq!(
        (&row(&rows, PINGER)["total"], &row(&rows, PONGER)["total"]),
        (&json!(4), &json!(4))
    );
    assert_eq!(
        (&row(&rows, &trap.id)["total"], &row(&rows, &trap.id)["in_work"]),
        (&json!(5), &json!(0))
    );
    assert!(
        rows.iter().all(|row| row["calls_per_second"] == 0.0 && row["counted_by"] == "hosts"),
        "{rows:#?}"
    );
    let rows = top(&dir, &server, &["--operations"]);
    let of_trap: Vec<_> = rows
        .iter()
        .filter(|row| row["id"] == *trap.id)
        .map(|row| (&row["operation"], &row["total"]))
        .collect();
    assert_eq!(of_trap, [(&json!("Any.Thing"), &json!(4)), (&json!("Other.Thing"), &json!(1))]);

    // The same numbers, as the dashboard reads them.
    let served = first.host().meter().snapshot().served;
    let ponger = served.iter().find(|target| target.id == PONGER).unwrap();
    assert_eq!(serde_json::to_value(&ponger.operations[0]).unwrap()["path"], "local");
    let served = second.host().meter().snapshot().served;
    let failed: u64 = served
        .iter()
        .filter(|t| t.id == trap.id)
        .flat_map(|t| &t.operations)
        .map(|o| o.tally.failed)
        .sum();
    assert_eq!(failed, 5);
    for host in [first, second] {
        host.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_what_happens_between_two_looks_and_what_callers_count() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    let host = host(&server).own_cache().set("local_calls", "false").start().await;
    let archive = dir.path().join("kv.par");
    pack("provider_kvmemory", &archive);
    start_provider(&server, &host, &format!("file://{}", archive.display())).await;
    start(&server, &host, &example("kvcounter"), 5).await;
    let provider = public_key("provider_kvmemory");
    link(&server, KVCOUNTER, &provider, "wasmcloud:keyvalue", &[]).await;
    let caller = Caller::new(&server).await;
    let mut going =
        Going::start(operator(&dir, &server, &["top", "-d", "0.3", "-n", "1000", "-o", "json"]));
    let busy = async {
        loop {
            let _ = caller.call(KVCOUNTER, HANDLE, http_request("GET", "/x", b"")).await;
        }
    };
    let look = tokio::task::spawn_blocking(move || {
        going.find(|look| {
            let rows = look["rows"].as_array().expect("rows");
            rows.len() == 2 && rows.iter().all(|row| row["calls_per_second"].as_f64() > Some(0.0))
        })
    });
    let look = tokio::select! {
        look = look => look.unwrap(),
        () = busy => unreachable!("it goes on for ever"),
    };
    let rows = look["rows"].as_array().unwrap();
    let (actor, outside) = (row(rows, KVCOUNTER), row(rows, &provider));
    assert_eq!(
        (&actor["counted_by"], &outside["counted_by"]),
        (&json!("hosts"), &json!("callers"))
    );
    assert!(
        actor["p50_ms"].as_f64() > Some(0.0)
            && actor["p99_ms"].as_f64() >= actor["p50_ms"].as_f64(),
        "{actor}"
    );
    assert_eq!(actor["local_percent"], 0.0);
    host.stop().await;
}

#[tokio::test]
async fn hosts_of_earlier_years_are_left_out_and_named() {
    let (server, dir) = (Server::shared().await, TempDir::new().unwrap());
    // It answers what hosts of 2022 answer.
    let ping = json!({"id": "NOLD", "friendly_name": "old-timer-0001", "uptime_seconds": 1});
    let _old = answering(&server, &server.ctl(">"), move |tail, _| {
        (tail == "ping.hosts").then(|| ping.clone())
    })
    .await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    for args in [["logs", "echo"], ["top", "-d0.1"]] {
        let mut command = operator(&dir, &server, &args);
        let output = tokio::task::spawn_blocking(move || output(&mut command)).await.unwrap();
        assert!(
            output.status.success() && stderr(&output).contains("old-timer-0001"),
            "{}",
            stderr(&output)
        );
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spy_sees_calls_between_actors_their_answers_and_forgeries() {
    let (server, dir) = (Server::start().await, TempDir::new().unwrap());
    let host = host(&server).set("local_calls", "false").start().await;
    start(&server, &host, &example("pinger"), 1).await;
    start(&server, &host, &example("ponger"), 1).await;
    let caller = Caller::new(&server).await;
    let mut going =
        Going::start(operator(&dir, &server, &["spy", "ponger", "--payloads", "-o", "json"]));
    let calling = async {
        loop {
            caller.call(PINGER, HANDLE, http_request("GET", "/", b"")).await.unwrap();
            let mut forged = caller.invocation(PONGER, "Forged", "x");
            forged.msg = "y".into();
            caller.send(PONGER, &forged).await;
        }
    };
    let seen = tokio::task::spawn_blocking(move || {
        let call =
            going.find(|line| line["kind"] == "call" && line["operation"] == "Pingpong.Ping");
        let answer = going.find(|line| line["kind"] == "answer" && line["id"] == call["id"]);
        let forged = going.find(|line| line["kind"] == "call" && line["operation"] == "Forged");
        let refused = going.find(|line| line["kind"] == "answer" && line["id"] == forged["id"]);
        (call, answer, forged, refused, going.interrupt())
    });
    let (call, answer, forged, refused, code) = tokio::select! {
        seen = seen => seen.unwrap(),
        () = calling => unreachable!("it goes on for ever"),
    };
    assert_eq!((text(&call, "/origin/name"), text(&call, "/target/name")), ("pinger", "ponger"));
    let verdict = text(&call, "/signature/verdict");
    assert_eq!((verdict, text(&call, "/to_host")), ("session", &*host.id));
    assert!(
        answer["error"].is_null() && answer["payload"] == 53 && answer["took_ms"].is_number(),
        "{answer}"
    );
    assert_eq!(text(&forged, "/signature/verdict"), "invalid");
    assert!(text(&refused, "/error").contains("hash"), "{refused}");
    assert_eq!(code, Some(0));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spy_ends_after_so_many_calls_and_says_what_it_cannot_see() {
    let (server, dir) = (Server::start().await, TempDir::new().unwrap());
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    let mut spy = operator(&dir, &server, &["spy", "-n", "1", "--payloads"]);
    let calling = async {
        loop {
            caller.call(ECHO, HANDLE, http_request("GET", "/seen", b"")).await.unwrap();
        }
    };
    let output = tokio::select! {
        output = tokio::task::spawn_blocking(move || output(&mut spy)) => output.unwrap(),
        () = calling => unreachable!("it goes on for ever"),
    };
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && stderr(&output).contains("--no-local-calls"),
        "{}",
        stderr(&output)
    );
    // The call and its payload, the answer and its payload.
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 4, "{printed}");
    assert!(
        lines[0].contains("echo → echo")
            && lines[0].contains(HANDLE)
            && lines[0].contains("signed"),
        "{printed}"
    );
    assert!(
        lines[1].contains("\"path\":\"/seen\"")
            && lines[2].contains('↳')
            && lines[3].contains("statusCode"),
        "{printed}"
    );
    host.stop().await;
}

/// The steps of a start, until the last one.
async fn steps(steps: &mut async_nats::Subscriber) -> Vec<Step> {
    let mut all: Vec<Step> = Vec::new();
    while all.last().is_none_or(|step| step.stage != "start") {
        let message =
            tokio::time::timeout(PATIENCE, steps.next()).await.expect("a step").expect("a message");
        all.push(serde_json::from_slice(&message.payload).expect("a step"));
    }
    all
}

#[tokio::test]
async fn a_start_from_a_registry_tells_its_steps() {
    let (server, registry) = (Server::shared().await, RegistryServer::start().await);
    let dir = TempDir::new().unwrap();
    registry.push_actor("echo:1", "echo").await;
    let archive = dir.path().join("kv.par");
    pack("provider_kvmemory", &archive);
    registry.push_provider("kv:1", &std::fs::read(&archive).unwrap()).await;
    let host = host(&server).own_cache().set("allowed_insecure", registry.address()).start().await;
    let nats = client::nats(&server).await;
    let mut heard = nats.subscribe(server.ctl("progress")).await.unwrap();
    crate::harness::client::settled(&nats).await;
    // In the words of whoever asked.
    let actor = format!("oci://{}", registry.image("Echo:1"));
    start(&server, &host, &actor, 1).await;
    let all = steps(&mut heard).await;
    assert!(all.iter().all(|step| step.host_id == host.id && step.reference == actor), "{all:?}");
    let mut stages: Vec<&str> = all.iter().map(|step| &*step.stage).collect();
    stages.dedup();
    assert_eq!(stages, ["pull", "verify", "compile", "start"]);
    let pulled = all.iter().rfind(|step| step.stage == "pull").unwrap();
    assert!(pulled.of > 0 && pulled.bytes == pulled.of, "{all:?}");

    let provider = registry.image("kv:1");
    start_provider(&server, &host, &provider).await;
    let all = steps(&mut heard).await;
    let mut stages: Vec<&str> = all.iter().map(|step| &*step.stage).collect();
    stages.dedup();
    assert_eq!(stages, ["pull", "verify", "unpack", "start"]);
    assert!(all.iter().all(|step| step.reference == provider), "{all:?}");
    host.stop().await;
}

/// Where a test host marks its presence.
fn presence(host: &TestHost) -> std::path::PathBuf {
    let home = Some(host.dir());
    presence_dir(&lattice_base::dirs::Dirs::find(&Vec::<(String, String)>::new(), home))
}

fn sockets(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries =
        std::fs::read_dir(dir).expect("the directory").filter_map(|entry| Some(entry.ok()?.path()));
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "sock")).collect()
}

#[tokio::test]
async fn a_host_signs_for_its_user_and_for_its_lattice_only() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let (dir, caller) = (presence(&host), Caller::new(&server).await);
    let mode = std::fs::metadata(&sockets(&dir)[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let mut invocation = caller.invocation(ECHO, HANDLE, http_request("GET", "/signed", b""));
    let (origin, target) = (Entity::new(ECHO, "", ""), Entity::new(ECHO, "", ""));
    let issuers = [CLUSTER.to_owned()];
    let call = Unsigned {
        lattice: server.lattice(),
        origin: &origin,
        target: &target,
        operation: HANDLE,
        payload: &invocation.msg.clone(),
        id: &invocation.id.clone(),
        issuers: &issuers,
    };
    let signed = local::sign(&dir, &call).await.unwrap();
    assert_eq!(signed.host_id, host.id);
    (invocation.encoded_claims, invocation.host_id) = (signed.encoded_claims, signed.host_id);
    let verifier = Verifier::new(vec![ClusterKey::parse(CLUSTER).unwrap()]);
    verifier.verify_claims(&invocation, now()).unwrap().verify_hash(&invocation.msg).unwrap();
    assert_eq!(caller.send(ECHO, &invocation).await.error, None);

    let refused = local::sign(&dir, &Unsigned { lattice: "other", ..call }).await.unwrap_err();
    assert!(
        matches!(refused, SignError::Refused { .. })
            && refused.to_string().contains(&format!("lattice {}", server.lattice())),
        "{refused}"
    );
    let strangers = ["CDVUIMQXFJUMMZZTPMPFOOZQTDLVSFQCXQE5T2MGLJGNHYZJJFPNVJUP".to_owned()];
    let refused = local::sign(&dir, &Unsigned { issuers: &strangers, ..call }).await.unwrap_err();
    assert!(refused.to_string().contains("not accepted"), "{refused}");
    let large = vec![0; local::PAYLOAD_BYTES_MAX + 1];
    assert!(matches!(
        local::sign(&dir, &Unsigned { payload: &large, ..call }).await,
        Err(SignError::TooLarge(_))
    ));
    // A malformed request is answered, and does no harm.
    let garbage = std::os::unix::net::UnixStream::connect(&sockets(&dir)[0]).unwrap();
    let answer = tokio::task::spawn_blocking(move || {
        std::io::Write::write_all(&mut &garbage, b"{\"lattice\":1}\n").unwrap();
        let mut line = String::new();
        BufReader::new(garbage).read_line(&mut line).unwrap();
        line
    });
    assert!(answer.await.unwrap().contains("cannot be read"));
    assert!(local::sign(&dir, &call).await.is_ok());
    host.stop().await;
}

#[tokio::test]
async fn the_socket_of_a_host_goes_with_it() {
    let server = Server::shared().await;
    let running = host(&server).start().await;
    let dir = presence(&running);
    let stale = dir.join("NSTALE5YOVB6ROX2.sock");
    std::fs::write(&stale, "").unwrap();
    assert_eq!(sockets(&dir).len(), 2);
    // The next host of this directory cleans up.
    let config = {
        let sources = lattice_base::config::Sources {
            flags: vec![
                ("nats_host", server.url()),
                ("lattice_prefix", server.lattice().to_owned()),
                ("cluster_seed", crate::harness::CLUSTER_SEED.into()),
            ],
            labels: Vec::new(),
            env: Box::new(Vec::<(String, String)>::new()),
            dir: running.dir().to_owned(),
            home: Some(running.dir().to_owned()),
            context: None,
        };
        lattice_base::config::Config::load(&sources).unwrap().config
    };
    let dirs = lattice_base::dirs::Dirs::find(&Vec::<(String, String)>::new(), Some(running.dir()));
    let stop = tokio_util::sync::CancellationToken::new();
    let second =
        lattice_engine::host::Host::start(config, &dirs, &lattice_dashboard::Opener, &stop)
            .await
            .unwrap();
    assert!(!stale.exists() && sockets(&dir).len() == 2);
    second.stop(None).await;
    assert_eq!(sockets(&dir).len(), 1);
    let dir_kept = TempDir::new().unwrap();
    let call = Entity::new(ECHO, "", "");
    let unsigned = Unsigned {
        lattice: server.lattice(),
        origin: &call,
        target: &call,
        operation: HANDLE,
        payload: b"",
        id: "1",
        issuers: &[],
    };
    assert!(matches!(local::sign(dir_kept.path(), &unsigned).await, Err(SignError::NoHost)));
    running.stop().await;
}

#[tokio::test]
async fn a_host_answers_the_probe_of_calls_page_by_page() {
    // Each answer of this server's hosts holds a few rows only.
    let server = Server::with_config(
        Some("core"),
        "max_payload: 32KB\njetstream { domain: core, store_dir: \"@DIR@/js\" }",
    )
    .await;
    let host = host(&server).start().await;
    let targets: Vec<_> =
        (0..1000).map(|n| host.host().meter().serve(&format!("M{n:04}"), "")).collect();
    let subjects = Subjects::new(LatticeName::parse("default").unwrap(), "wasmbus.ctl");
    let lattice = Lattice::new(client::nats(&server).await, subjects, PATIENCE, None);
    let first = lattice.request_of(&host.id, &calls::Ask::default()).await.unwrap();
    assert!(first.next.is_some() && first.memory_bytes > Some(0), "{first:?}");
    let all = client_calls(&lattice, &host).await;
    assert_eq!(all.len(), targets.len());
    host.stop().await;
}

async fn client_calls(lattice: &Lattice, host: &TestHost) -> Vec<String> {
    let look = lattice_client::calls::look(lattice, &host.id, false).await.unwrap();
    look.served.into_iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn a_stopping_host_tells_its_last_lines() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let nats = client::nats(&server).await;
    let wanted = Ask { entity: ECHO.into(), follow: Some("last".into()), ..Ask::default() };
    let mut parts = ask(&nats, &host, &wanted).await;
    assert_eq!(part(&mut parts).await.mark, Mark::Past);
    let mut events = Events::only(&server, "host_stopped").await;
    host.stop().await;
    events.next("host_stopped").await;
    let mut texts = Vec::new();
    let over = loop {
        let part = part(&mut parts).await;
        texts.extend(part.lines.iter().map(|line| line.text.to_string()));
        if part.mark == Mark::Over {
            break part;
        }
    };
    assert!(over.error.contains("stops"), "{over:?}");
    assert!(texts.iter().any(|text| text.contains("stops with")), "{texts:?}");
}
