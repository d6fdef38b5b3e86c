//! `host explain`: what it says is what a call meets, whoever is asked and wherever the target
//! runs.

use lattice_engine::providers::builtin::{httpserver, keyvalue};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    CLUSTER, ECHO, KVCOUNTER, PINGER, PONGER, Server, TestHost,
    client::{self, Caller, answering, ctl_2024, http_body, http_request, start, start_provider},
    eventually, example, host,
    nats::free_port,
    process::{command_in, output},
};

/// The output of `host explain`.
struct Explanation {
    told: Value,
    code: Option<i32>,
}

async fn explain(server: &Server, arguments: &[&str]) -> Explanation {
    let dir = TempDir::new().expect("a directory");
    let mut command = command_in(dir.path(), server);
    command.args(["explain", "-o", "json", "--ctl-host", &server.url()]);
    if let Some(domain) = server.domain() {
        command.args(["--js-domain", domain]);
    }
    command.args(arguments);
    let output =
        tokio::task::spawn_blocking(move || output(&mut command)).await.expect("it does not panic");
    let told = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error} in {output:?}"));
    Explanation { told, code: output.status.code() }
}

impl Explanation {
    fn step(&self, name: &str) -> &Value {
        let steps = self.told["steps"].as_array().expect("steps");
        steps
            .iter()
            .find(|step| step["step"] == name)
            .unwrap_or_else(|| panic!("no step {name} in {:#}", self.told))
    }

    fn says(&self, step: &str, outcome: &str, words: &[&str]) {
        let found = self.step(step);
        let text = format!("{} {} {}", found["why"], found["fix"], found["data"]);
        assert_eq!(found["outcome"], outcome, "{found:#}");
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {found:#}");
    }

    fn verdict(&self, verdict: &str) {
        assert_eq!(self.told["verdict"], verdict, "{:#}", self.told);
        assert_eq!(self.code, Some(i32::from(verdict == "fails")));
    }

    fn error(&self) -> &str {
        self.told["call_error"].as_str().unwrap_or_default()
    }
}

/// Returns the counter's answer to a request, or the error.
async fn count(server: &Server) -> String {
    let answer = Caller::new(server)
        .await
        .call(KVCOUNTER, "HttpServer.HandleRequest", http_request("GET", "/", b""))
        .await;
    match answer {
        Ok(answer) => String::from_utf8_lossy(&http_body(&answer)).into_owned(),
        Err(error) => error,
    }
}

const COUNT: [&str; 3] = ["kvcounter", "wasmcloud:keyvalue", "KeyValue.Increment"];

#[tokio::test]
async fn a_call_that_works_passes_every_step_and_secrets_are_masked() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("kvcounter"), 1).await;
    start_provider(&server, &host, "builtin://keyvalue").await;
    let spec = &keyvalue::SPEC;
    client::link_builtin(
        &server,
        KVCOUNTER,
        spec,
        &[("bucket", "counts"), ("URL", "redis://me:hunter2@127.0.0.1")],
    )
    .await;
    // By any of their names.
    for target in ["wasmcloud:keyvalue", "builtin://keyvalue", spec.known.public_key] {
        let told = explain(&server, &[KVCOUNTER, target, "KeyValue.Increment"]).await;
        for step in
            ["known", "link", "claim", "check", "policy", "replica", "path", "deadline", "repeat"]
        {
            assert_eq!(told.step(step)["outcome"], "ok", "{:#}", told.told);
            assert_eq!(told.step(step)["host_id"], host.id.as_str());
        }
        told.says("link", "ok", &["bucket=counts", "URL="]);
        told.says("path", "ok", &["within this process"]);
        told.says("repeat", "ok", &["not made twice"]);
        told.verdict("ok");
        assert!(!told.told.to_string().contains("hunter2"));
    }
    explain(&server, &["kvcounter", "wasmcloud:keyvalue", "KeyValue.Get"]).await.says(
        "repeat",
        "ok",
        &["only reads"],
    );
    assert!(!count(&server).await.contains("not authorized"));
    host.stop().await;
}

#[tokio::test]
async fn what_fails_is_what_the_caller_is_told_and_has_a_command() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("kvcounter"), 1).await;
    let told = explain(&server, &COUNT).await;
    told.says(
        "link",
        "fails",
        &["there is no link", "host link put", KVCOUNTER, "builtin://keyvalue"],
    );
    told.verdict("fails");
    assert!(
        count(&server).await.contains(told.error()) && !told.error().is_empty(),
        "{}",
        told.error()
    );

    // Linked, and nobody there.
    let spec = &keyvalue::SPEC;
    client::link_builtin(&server, KVCOUNTER, spec, &[]).await;
    let told = explain(&server, &COUNT).await;
    told.says("link", "ok", &["leads to"]);
    told.says("replica", "fails", &["runs on no host", "host start provider builtin://keyvalue"]);
    told.verdict("fails");

    // Not signed for it.
    client::link_builtin(&server, ECHO, spec, &[]).await;
    start(&server, &host, &example("echo"), 1).await;
    let told = explain(&server, &["echo", "wasmcloud:keyvalue", "KeyValue.Get"]).await;
    told.says(
        "claim",
        "fails",
        &["not signed for wasmcloud:keyvalue", "host claims sign", "--cap wasmcloud:keyvalue"],
    );
    assert!(
        told.error().contains("missing capability claim for wasmcloud:keyvalue"),
        "{}",
        told.error()
    );
    told.verdict("fails");

    // Nor linked: both are told at once, the claim first.
    ctl_2024(&server).await.remove_link(ECHO, spec.known.contract_id, "default").await.unwrap();
    let told = explain(&server, &["echo", "wasmcloud:keyvalue", "KeyValue.Get"]).await;
    told.says("link", "fails", &["there is no link"]);
    told.says("claim", "fails", &["not signed for"]);
    assert!(told.error().contains("missing link definition"), "{}", told.error());
    assert!(
        told.error().contains("missing capability claim for wasmcloud:keyvalue"),
        "{}",
        told.error()
    );

    // The link leads to another provider than the one that is meant.
    let other = nkeys::KeyPair::new_service().public_key();
    client::link(&server, KVCOUNTER, &other, spec.known.contract_id, &[]).await;
    let told = explain(&server, &["kvcounter", "builtin://keyvalue", "KeyValue.Get"]).await;
    told.says("link", "fails", &[&other, spec.known.public_key]);
    host.stop().await;
}

#[tokio::test]
async fn a_link_that_its_provider_refuses_is_told_with_the_reason() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("kvcounter"), 1).await;
    start_provider(&server, &host, "builtin://keyvalue").await;
    let spec = &keyvalue::SPEC;
    client::store_link(&server, KVCOUNTER, spec, &[("bucket", "no.such name!")]).await;
    let told = eventually("the provider refuses it", || async {
        let told = explain(&server, &COUNT).await;
        (told.step("link")["outcome"] == "fails").then_some(told)
    })
    .await;
    told.says("link", "fails", &["does not take the link on", "host link put"]);
    host.stop().await;
}

/// A host that knows another one.
async fn heard(host: &TestHost) {
    eventually("the hosts hear each other", || async {
        host.other_hosts().iter().any(|(_, is_silent)| !is_silent).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_call_to_another_host_is_followed_there() {
    let server = Server::shared().await;
    let (near, far) = (
        host(&server).start().await,
        host(&server).set("policy_topic", &server.own("policy.ask")).start().await,
    );
    let _service = answering(&server, &server.own("policy.ask"), |_, question| {
        let asked: Value = serde_json::from_slice(question).unwrap();
        let permitted = asked["action"] != "perform_invocation";
        Some(json!({ "requestId": asked["requestId"], "permitted": permitted, "message": "by the book" }))
    })
    .await;
    start(&server, &near, &example("pinger"), 1).await;
    start(&server, &far, &example("ponger"), 1).await;
    heard(&near).await;
    let told = eventually("the near host knows who runs it", || async {
        let told = explain(&server, &["pinger", PONGER, "Ping.Ping"]).await;
        told.told["next_host"].is_string().then_some(told)
    })
    .await;
    assert_eq!(told.told["next_host"], far.id.as_str());
    told.says("path", "ok", &[&far.id, &server.rpc(format_args!("{PONGER}.{}", far.id))]);
    assert_eq!(told.step("path")["host_id"], near.id.as_str());
    assert_eq!(told.step("check")["host_id"], far.id.as_str());
    // The service of the far host decides, and a call meets the same decision under the same
    // number.
    told.says("policy", "fails", &["by the book"]);
    told.verdict("fails");
    let answer = Caller::new(&server)
        .await
        .call(PINGER, "HttpServer.HandleRequest", http_request("GET", "/", b""))
        .await;
    let real = match answer {
        Ok(answer) => String::from_utf8_lossy(&http_body(&answer)).into_owned(),
        Err(error) => error,
    };
    let id = told.step("policy")["data"]["request_id"].as_str().expect("an id");
    assert!(real.contains(id), "{id} in {real}");
    near.stop().await;
    far.stop().await;
}

#[tokio::test]
async fn a_provider_that_calls_an_actor_is_explained_too() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    start(&server, &host, &example("ponger"), 1).await;
    start_provider(&server, &host, "builtin://httpserver").await;
    let spec = &httpserver::SPEC;
    let address = format!("127.0.0.1:{}", free_port());
    client::link_builtin(&server, ECHO, spec, &[("address", &address)]).await;
    let told =
        explain(&server, &["builtin://httpserver", "echo", "HttpServer.HandleRequest"]).await;
    told.says("check", "ok", &["signed for wasmcloud:httpserver"]);
    told.says("repeat", "ok", &["GET"]);
    told.verdict("ok");
    let told =
        explain(&server, &["builtin://httpserver", "ponger", "HttpServer.HandleRequest"]).await;
    told.says("check", "fails", &["was not signed for wasmcloud:httpserver", "host claims sign"]);
    told.verdict("fails");
    host.stop().await;
}

#[tokio::test]
async fn an_origin_that_runs_nowhere_is_explained_by_any_host_and_said_so() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("pinger"), 1).await;
    start(&server, &host, &example("ponger"), 1).await;
    ctl_2024(&server).await.stop_actor(&host.id, PINGER, None).await.unwrap();
    let told = explain(&server, &["pinger", "ponger", "Ping.Ping"]).await;
    assert!(told.told["notes"].to_string().contains("runs on no host"), "{:#}", told.told);
    told.verdict("ok");
    host.stop().await;
}

#[tokio::test]
async fn a_lattice_of_earlier_hosts_is_concluded_from_what_it_tells() {
    let server = Server::shared().await;
    let id = nkeys::KeyPair::new_server().public_key();
    let spec = &keyvalue::SPEC;
    let answers = json!({
        "ping.hosts": { "id": id, "issuer": CLUSTER, "cluster_issuers": CLUSTER, "version": "0.82.0", "labels": {},
            "friendly_name": "old-timer-1234", "uptime_seconds": 9 },
        "get.claims": { "claims": [{ "sub": KVCOUNTER, "iss": "A", "name": "KV counter", "rev": "1", "caps": "wasmcloud:keyvalue",
            "tags": "", "call_alias": "" }] },
        "get.links": { "links": [{ "actor_id": KVCOUNTER, "provider_id": spec.known.public_key, "link_name": "default",
            "contract_id": spec.known.contract_id, "values": { "bucket": "b" } }] },
        format!("get.{id}.inv"): { "host_id": id, "labels": {}, "actors": [{ "id": KVCOUNTER, "image_ref": "r.example/kv:1",
            "name": "KV counter", "instances": [] }], "providers": [] },
    });
    let _old =
        answering(&server, &server.ctl(">"), move |tail, _| answers.get(tail).cloned()).await;
    let told = explain(
        &server,
        &["KV counter", "wasmcloud:keyvalue", "KeyValue.Get", "--timeout-ms", "500"],
    )
    .await;
    assert!(
        told.told["asked_host"].is_null()
            && told.told["notes"].to_string().contains("cannot be asked"),
        "{:#}",
        told.told
    );
    told.says("link", "ok", &["bucket=b"]);
    told.says("claim", "ok", &[]);
    told.says("policy", "unknown", &[]);
    told.says("replica", "fails", &["runs on no host", "builtin://keyvalue"]);
}

#[tokio::test]
async fn the_explanation_for_people_ends_with_the_verdict() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("kvcounter"), 1).await;
    let dir = TempDir::new().unwrap();
    let mut asked = command_in(dir.path(), &server);
    asked.args(["explain", "--ctl-host", &server.url(), "--js-domain", "core"]).args(COUNT);
    let output = tokio::task::spawn_blocking(move || output(&mut asked)).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.lines().any(|line| line.starts_with("fails") && line.contains("link ")), "{text}");
    assert!(
        text.contains("the caller is told: Invocation not authorized: missing link definition"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1));
    host.stop().await;
}
