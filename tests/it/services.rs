//! The services of a lattice that a host asks: configuration at its start, policy before starts and
//! calls. Played by the tests, and by the example that is such a service.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use lattice_engine::providers::builtin::keyvalue;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{
    ECHO, Events, KVCOUNTER, PINGER, PONGER, Server, TestHost,
    client::{self, Caller, answering, ctl_2024, http_request, start},
    eventually, example, external, host,
    process::Running,
    registry::{PASSWORD, RegistryServer, USER},
    text,
};

/// Answers requests on a subject with what `answer` makes of them, until what is returned is
/// dropped.
async fn service(
    server: &Server,
    subject: &str,
    answer: impl Fn(Value) -> Value + Send + 'static,
) -> AbortOnDropHandle<()> {
    let read = |request: &[u8]| serde_json::from_slice(request).expect("a request is JSON");
    answering(server, subject, move |_, request| Some(answer(read(request)))).await
}

#[tokio::test]
async fn the_configuration_service_says_what_to_start() {
    let server = Server::shared().await;
    let mut events = Events::all(&server).await;
    let _service = service(&server, &format!("wasmbus.cfg.{}.req", server.lattice()), |request| {
        assert_eq!(text(&request, "/labels/machine"), "first");
        json!({"autoStartActors": [example("echo")],
            "autoStartProviders": [{"imageReference": "builtin://keyvalue", "linkName": "default"}],
            "registryCredentials": {"r.example": {"registryType": "oci", "username": "u", "password": "p"}}})
    })
    .await;
    let host =
        host(&server).label("machine", "first").set("config_service_enabled", "true").start().await;
    assert_eq!(text(&events.next("actors_started").await, "/data/public_key"), ECHO);
    eventually("the provider runs", || async {
        let inventory = ctl_2024(&server).await.get_host_inventory(&host.id).await.ok()?;
        inventory
            .providers
            .iter()
            .find(|provider| provider.image_ref.as_deref() == Some("builtin://keyvalue"))
            .map(drop)
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn a_missing_configuration_service_keeps_no_host_from_starting() {
    let server = Server::shared().await;
    let host = host(&server).set("config_service_enabled", "yes").start().await;
    assert_eq!(ctl_2024(&server).await.get_hosts().await.unwrap().len(), 1);
    host.stop().await;
}

#[tokio::test]
async fn a_late_answer_leaves_alone_what_somebody_started_meanwhile() {
    let server = Server::shared().await;
    let host = host(&server).set("config_service_enabled", "true").start().await;
    start(&server, &host, &example("echo"), 5).await;
    client::start_provider(&server, &host, "builtin://keyvalue").await;
    let _service = service(&server, &format!("wasmbus.cfg.{}.req", server.lattice()), |_| {
        json!({"autoStartActors": [example("echo"), example("ponger")],
            "autoStartProviders": [{"imageReference": "builtin://keyvalue"}]})
    })
    .await;
    eventually("what did not run is started", || runs(&server, &host, 2, 1)).await;
    let inventory = ctl_2024(&server).await.get_host_inventory(&host.id).await.unwrap();
    let echo = inventory.actors.iter().find(|actor| actor.id == ECHO).unwrap();
    assert_eq!(echo.instances[0].max_instances, 5);
    host.stop().await;
}

#[tokio::test]
async fn calls_that_wait_for_the_same_decision_ask_for_it_once() {
    let server = Server::shared().await;
    let (sender, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let _service = service(&server, &server.own("policy.ask"), move |request| {
        sender.send(request["action"].clone()).unwrap();
        json!({"requestId": request["requestId"], "permitted": true})
    })
    .await;
    let host = host(&server).set("policy_topic", &server.own("policy.ask")).start().await;
    start(&server, &host, &example("echo"), 10).await;
    assert_eq!(requests.recv().await.unwrap(), "start_actor");
    let caller = Caller::new(&server).await;
    for zone in ["a", "b"] {
        let label = json!({"key": "zone", "value": zone}).to_string();
        caller
            .nats
            .request(server.ctl(format_args!("labels.{}.put", host.id)), label.into())
            .await
            .unwrap();
        let calls = (0..20)
            .map(|_| caller.call(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b"")));
        for answer in futures::future::join_all(calls).await {
            answer.unwrap();
        }
        assert_eq!(requests.try_recv().unwrap(), "perform_invocation");
        assert!(requests.try_recv().is_err());
    }
    host.stop().await;
}

#[tokio::test]
async fn a_policy_service_decides_on_providers_and_on_calls_of_them() {
    let server = Server::shared().await;
    let _service = service(&server, &server.own("policy.ask"), |request| {
        let contract = request["target"]["contractId"].as_str().unwrap_or_default();
        let forbidden = request["action"] == "start_provider" && contract == "wasmcloud:blobstore"
            || request["action"] == "perform_invocation" && contract == "wasmcloud:keyvalue";
        json!({"requestId": request["requestId"], "permitted": !forbidden, "message": "by the book"})
    })
    .await;
    let host = host(&server).set("policy_topic", &server.own("policy.ask")).start().await;
    let mut events = Events::all(&server).await;
    let ctl = ctl_2024(&server).await;
    assert!(
        ctl.start_provider(&host.id, "builtin://blobstore", None, None, None)
            .await
            .unwrap()
            .accepted
    );
    let failed = events.next("provider_start_failed").await;
    assert!(
        text(&failed, "/data/error").contains("Policy denied starting provider, request:"),
        "{failed}"
    );
    assert!(ctl.get_host_inventory(&host.id).await.unwrap().providers.is_empty());

    client::start_provider(&server, &host, "builtin://keyvalue").await;
    start(&server, &host, &example("kvcounter"), 1).await;
    client::link(&server, KVCOUNTER, keyvalue::SPEC.known.public_key, "wasmcloud:keyvalue", &[])
        .await;
    let answer = Caller::new(&server)
        .await
        .call(KVCOUNTER, "HttpServer.HandleRequest", http_request("GET", "/", b""))
        .await;
    let body = client::http_body(&answer.unwrap());
    assert!(String::from_utf8_lossy(&body).contains("Policy denied invocation"), "{body:?}");
    host.stop().await;
}

#[tokio::test]
async fn a_policy_service_is_asked_once_and_can_change_its_mind() {
    let server = Server::shared().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let (sender, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let _service = service(&server, &server.own("policy.ask"), move |request| {
        let permitted = request["target"]["publicKey"] != PONGER;
        if request["action"] == "perform_invocation" {
            count.fetch_add(1, Ordering::Relaxed);
        }
        sender.send(request.clone()).unwrap();
        json!({"requestId": request["requestId"], "permitted": permitted, "message": "by the book"})
    })
    .await;
    let host = host(&server)
        .set("policy_topic", &server.own("policy.ask"))
        .set("policy_changes_topic", &server.own("policy.changes"))
        .start()
        .await;
    let mut events = Events::all(&server).await;

    start(&server, &host, &example("echo"), 1).await;
    let asked_for = requests.recv().await.unwrap();
    assert_eq!(
        (text(&asked_for, "/action"), text(&asked_for, "/target/publicKey")),
        ("start_actor", ECHO)
    );
    assert_eq!(text(&asked_for, "/host/publicKey"), host.id);

    ctl_2024(&server).await.scale_actor(&host.id, &example("ponger"), 1, None).await.unwrap();
    let failed = events.next("actor_start_failed").await;
    assert!(
        text(&failed, "/data/error").contains("Policy denied starting actor, request:"),
        "{failed}"
    );
    requests.recv().await.unwrap();

    let caller = Caller::new(&server).await;
    let call = || caller.call(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b""));
    for _ in 0..3 {
        call().await.unwrap();
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);

    let request_id = text(&requests.recv().await.unwrap(), "/requestId").to_owned();
    let change =
        json!({"requestId": request_id, "permitted": false, "message": "no more"}).to_string();
    let reply = caller.nats.request(server.own("policy.changes"), change.into()).await.unwrap();
    assert_eq!(&reply.payload[..], br#"{"success":true}"#);
    let refused = call().await.unwrap_err();
    assert!(refused.contains(&request_id) && refused.contains("no more"), "{refused}");

    // A start that is denied by now is denied for more of a running actor too, but never for less.
    let change =
        json!({"requestId": text(&asked_for, "/requestId"), "permitted": false}).to_string();
    caller.nats.request(server.own("policy.changes"), change.into()).await.unwrap();
    let ctl = ctl_2024(&server).await;
    ctl.scale_actor(&host.id, &example("echo"), 5, None).await.unwrap();
    let failed = events.next("actor_start_failed").await;
    assert!(text(&failed, "/data/error").contains("Policy denied starting actor"), "{failed}");
    ctl.scale_actor(&host.id, &example("echo"), 0, None).await.unwrap();
    assert_eq!(events.next("actors_stopped").await["data"]["remaining"], 0);
    host.stop().await;
}

#[tokio::test]
async fn no_answer_of_the_policy_service_is_a_denial_that_is_not_kept() {
    let server = Server::shared().await;
    let host = host(&server)
        .set("policy_topic", &server.own("policy.late"))
        .set("policy_timeout_ms", "200")
        .start()
        .await;
    let mut events = Events::all(&server).await;
    let ctl = ctl_2024(&server).await;
    ctl.scale_actor(&host.id, &example("echo"), 1, None).await.unwrap();
    let failed = events.next("actor_start_failed").await;
    assert!(text(&failed, "/data/error").contains("no decision of the policy service"), "{failed}");
    let _service = service(
        &server,
        &server.own("policy.late"),
        |request| json!({"requestId": request["requestId"], "permitted": true}),
    )
    .await;
    ctl.scale_actor(&host.id, &example("echo"), 1, None).await.unwrap();
    eventually("the actor runs", || async {
        ctl.get_host_inventory(&host.id).await.ok().filter(|inventory| inventory.actors.len() == 1)
    })
    .await;
    host.stop().await;
}

/// The example service, with a file of its own; killed when dropped.
struct Example {
    _service: Running,
    dir: TempDir,
    seen: Arc<Mutex<String>>,
}

impl Example {
    async fn build() -> PathBuf {
        tokio::task::spawn_blocking(|| external::program("config-service")).await.unwrap()
    }

    async fn start(server: &Server, file: &Value) -> Self {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("lattice.json"), file.to_string()).unwrap();
        let mut command = Command::new(Self::build().await);
        command.arg(dir.path().join("lattice.json")).args([
            "--nats-url",
            &server.url(),
            "--lattice",
            server.lattice(),
        ]);
        let mut service = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let seen = Arc::new(Mutex::new(String::new()));
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(service.stdout.take().unwrap()), Box::new(service.stderr.take().unwrap())];
        for output in outputs {
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    println!("{line}");
                    *seen.lock().unwrap_or_else(PoisonError::into_inner) += &(line + "\n");
                }
            });
        }
        let example = Self { _service: service, dir, seen };
        example.says("answering on").await;
        example
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("lattice.json")
    }

    /// Writes the file anew; returns when the service has taken it over.
    async fn change(&self, file: &Value) {
        self.seen.lock().unwrap().clear();
        fs::write(self.file(), file.to_string()).unwrap();
        self.says("changed").await;
    }

    fn said(&self) -> String {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn says(&self, text: &str) {
        eventually(text, || async { self.said().contains(text).then_some(()) }).await;
    }
}

async fn runs(server: &Server, host: &TestHost, actors: usize, providers: usize) -> Option<()> {
    let inventory = ctl_2024(server).await.get_host_inventory(&host.id).await.ok()?;
    (inventory.actors.len() == actors && inventory.providers.len() == providers).then_some(())
}

#[tokio::test]
async fn the_example_gives_machines_what_its_file_says_for_their_labels() {
    let (server, registry) = (Server::shared().await, RegistryServer::with_login().await);
    registry.push_actor("echo:1", "echo").await;
    Example::build().await;
    // It is there before its service, and still gets what is meant for it.
    let configured = || host(&server).set("config_service_enabled", "true");
    let first = configured()
        .own_cache()
        .set("allowed_insecure", registry.address())
        .label("machine", "first")
        .start()
        .await;
    // The actor can only be pulled by a host that has the login already.
    let mut entries = vec![json!({
        "labels": {"machine": "first"},
        "actors": [registry.image("echo:1")],
        "providers": ["builtin://keyvalue", {"image": "builtin://messaging", "link": "letters"}],
        "registries": {registry.address(): {"username": USER, "password": PASSWORD}},
    })];
    let example = Example::start(&server, &json!({"hosts": entries})).await;
    eventually("the first machine has its share", || runs(&server, &first, 1, 2)).await;
    let second = configured().label("machine", "second").start().await;
    assert_eq!(runs(&server, &second, 0, 0).await, Some(()));
    second.stop().await;

    entries.push(json!({"actors": [crate::harness::example("pinger")]}));
    example.change(&json!({"hosts": entries})).await;
    let second = configured().label("machine", "second").start().await;
    eventually("the second machine has what all get", || runs(&server, &second, 1, 0)).await;
    assert_eq!(
        ctl_2024(&server).await.get_host_inventory(&second.id).await.unwrap().actors[0].id,
        PINGER
    );

    // A mistake is named, with nothing secret, and what was good goes on.
    fs::write(example.file(), r#"{"hosts": [{"registries": {"r": "user:hidden"}}]}"#).unwrap();
    example.says("is not right: a registry takes username and password").await;
    example.says("what was good before goes on").await;
    fs::write(example.file(), r#"{"hosts": [{"registries": "user:hidden"}]}"#).unwrap();
    example.says("is not right: registries is an object with a login for each registry").await;
    second.stop().await;
    let second = configured().label("machine", "second").start().await;
    eventually("the service goes on", || runs(&server, &second, 1, 0)).await;
    let said = example.said();
    assert!(!said.contains("hidden") && !said.contains(&format!("\"{PASSWORD}\"")), "{said}");
    second.stop().await;
    first.stop().await;
}

#[tokio::test]
async fn the_example_decides_by_the_labels_hosts_have_now_and_by_the_rules_of_now() {
    let server = Server::shared().await;
    let public = json!({"zone": "pub*"});
    let rule =
        json!({"deny": ["perform_invocation"], "labels": public, "because": "not in public"});
    let images =
        json!({"deny": ["start_actor"], "image": ["*/nothing.wasm", "file://*/ponger.wasm"]});
    let example = Example::start(&server, &json!({"policy": {"rules": [rule, images]}})).await;
    let host = host(&server)
        .set("policy_topic", &server.own("policy"))
        .set("policy_changes_topic", &format!("policy.{}.changes", server.lattice()))
        .start()
        .await;
    let mut events = Events::all(&server).await;
    let ctl = ctl_2024(&server).await;
    ctl.scale_actor(&host.id, &crate::harness::example("ponger"), 1, None).await.unwrap();
    let failed = events.next("actor_start_failed").await;
    assert!(text(&failed, "/data/error").contains("rule 2 decides"), "{failed}");
    start(&server, &host, &crate::harness::example("echo"), 1).await;
    let caller = Caller::new(&server).await;
    let call = || caller.call(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b""));
    call().await.unwrap();

    // A decision from before the label counts no longer.
    let label = json!({"key": "zone", "value": "public"}).to_string();
    caller
        .nats
        .request(server.ctl(format_args!("labels.{}.put", host.id)), label.clone().into())
        .await
        .unwrap();
    let refused = call().await.unwrap_err();
    assert!(refused.contains("not in public"), "{refused}");
    example.change(&json!({"policy": {"rules": [images]}})).await;
    eventually("the host hears of the new rules", || async { call().await.ok() }).await;
    example.change(&json!({"policy": {"otherwise": "deny"}})).await;
    eventually("and of newer ones", || async { call().await.err() }).await;
    host.stop().await;
}
