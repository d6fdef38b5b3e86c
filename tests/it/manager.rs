//! `host app`: against a deployment manager that is a program of its own, and against hosts.
//!
//! The manager of those years is too large to be built here. Its answers
//! below were recorded from wadm 0.10.0, built from crates.io, beside a `host up` with JetStream
//! domain `core`; the same manifest with an actor of the examples was deployed, served a page, and
//! was undeployed there. Here a responder gives them back to the letter.

use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use lattice_protocol::applications::{api::Failure, request::Request};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    Server, client, host,
    process::{command_in, output, stderr},
};

const MANIFEST: &str = r#"apiVersion: core.oam.dev/v1beta1
kind: Application
metadata:
  name: echo-page
  annotations:
    version: v0.0.1
    description: "An echo behind a page"
spec:
  components:
    - name: echo
      type: actor
      properties:
        image: registry.example/echo:0.3.4
      traits:
        - type: spreadscaler
          properties:
            replicas: 3
"#;

/// Recorded answers: the end of the subject, and the answer.
const RECORDED: [(&str, &str); 14] = [
    (
        "list",
        r#"[{"name":"echo-page","version":"v0.0.1","description":"An echo behind a page","deployed_version":"v0.0.1","status":"reconciling","status_message":"Linkdef pending, waiting for registry.example/echo:0.3.4 and builtin://httpserver to start"},{"name":"other","version":"v0.0.2","description":"An echo behind a page","deployed_version":null,"status":"undeployed","status_message":null}]"#,
    ),
    (
        "get.echo-page",
        r#"{"result":"success","message":"Successfully fetched model echo-page","manifest":{"apiVersion":"core.oam.dev/v1beta1","kind":"Application","metadata":{"name":"echo-page","annotations":{"description":"An echo behind a page","version":"v0.0.1"}},"spec":{"components":[{"name":"echo","type":"actor","properties":{"image":"registry.example/echo:0.3.4"},"traits":[{"type":"spreadscaler","properties":{"instances":3,"spread":[]}},{"type":"linkdef","properties":{"target":"web","values":{"address":"127.0.0.1:8080"}}}]},{"name":"web","type":"capability","properties":{"image":"builtin://httpserver","contract":"wasmcloud:httpserver","link_name":"default"},"traits":[{"type":"spreadscaler","properties":{"instances":1,"spread":[]}}]}]}}}"#,
    ),
    ("get.nope", r#"{"result":"notfound","message":"Model with the name nope not found"}"#),
    (
        "versions.echo-page",
        r#"{"result":"success","message":"Successfully fetched versions for model echo-page","versions":[{"version":"v0.0.1","deployed":false},{"version":"v0.0.2","deployed":false},{"version":"v0.0.3","deployed":true}]}"#,
    ),
    (
        "versions.nope",
        r#"{"result":"notfound","message":"Model with the name nope not found","versions":[]}"#,
    ),
    (
        "status.echo-page",
        r#"{"result":"ok","message":"Successfully fetched status for model echo-page","status":{"version":"v0.0.1","status":{"type":"reconciling","message":"Linkdef pending, waiting for registry.example/echo:0.3.4 and builtin://httpserver to start"},"components":[]}}"#,
    ),
    ("status.nope", r#"{"result":"notfound","message":"Model with the name nope not found"}"#),
    (
        "put",
        r#"{"result":"created","total_versions":1,"current_version":"v0.0.1","message":"Successfully put manifest echo-page v0.0.1","name":"echo-page"}"#,
    ),
    ("put of v0.0.2", r#"{"message":"Manifest version v0.0.2 already exists","result":"error"}"#),
    (
        "deploy.echo-page",
        r#"{"result":"acknowledged","message":"Successfully deployed model echo-page v0.0.1"}"#,
    ),
    ("deploy.nope", r#"{"result":"notfound","message":"Model with the name nope not found"}"#),
    (
        "undeploy.echo-page",
        r#"{"result":"acknowledged","message":"Successfully undeployed model echo-page"}"#,
    ),
    (
        "del.echo-page",
        r#"{"result":"deleted","message":"Successfully deleted last version of model echo-page","undeploy":true}"#,
    ),
    (
        "del.other",
        r#"{"result":"noop","message":"Model version v9 doesn't exist","undeploy":false}"#,
    ),
];

fn recorded(key: &str) -> &'static str {
    RECORDED.iter().find(|(of, _)| *of == key).unwrap_or_else(|| panic!("an answer to {key}")).1
}

fn value_of(key: &str) -> Value {
    serde_json::from_str(recorded(key)).expect("JSON")
}

/// A lattice with a manager that answers as recorded, and what it was asked.
struct Scene {
    server: Server,
    dir: TempDir,
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Scene {
    async fn set() -> Self {
        let server = Server::shared().await;
        let nats = client::nats(&server).await;
        let models = format!("{}.model.", server.subjects().manager_root());
        let mut requests = nats.subscribe(format!("{models}>")).await.unwrap();
        crate::harness::client::settled(&nats).await;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = asked.clone();
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                let operation = request.subject.trim_start_matches(&*models).to_owned();
                let payload = String::from_utf8_lossy(&request.payload).into_owned();
                let is_again = operation == "put" && payload.contains("v0.0.2");
                let answer = recorded(if is_again { "put of v0.0.2" } else { &operation });
                heard.lock().unwrap().push((operation, payload));
                nats.publish(request.reply.expect("a request"), answer.into()).await.unwrap();
            }
        });
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("app.yaml"), MANIFEST).unwrap();
        std::fs::write(dir.path().join("again.yaml"), MANIFEST.replace("v0.0.1", "v0.0.2"))
            .unwrap();
        Self { server, dir, asked }
    }

    /// Runs `host app`; returns exit code, standard output and standard error.
    fn app(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output =
            output(command_in(self.dir.path(), &self.server).arg("app").args(arguments).args([
                "--ctl-host",
                &self.server.url(),
                "-t",
                "20000",
            ]));
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr(&output),
        )
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (code, out, err) = self.app(&[arguments, &["-o", "json"]].concat());
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        let mut json: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("JSON: {out}"));
        assert_eq!(json.as_object_mut().unwrap().remove("success"), Some(json!(true)));
        json
    }

    /// Returns the last request to the manager.
    fn asked(&self) -> (String, String) {
        self.asked.lock().unwrap().last().cloned().expect("it was asked")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_manager_answers_comes_out_in_the_shapes_of_wash() {
    let scene = Scene::set().await;
    assert_eq!(scene.json(&["list"]), json!({ "apps": value_of("list") }));
    assert_eq!(scene.json(&["get", "echo-page"]), json!({ "model": value_of("get.echo-page") }));
    assert_eq!(scene.asked(), ("get.echo-page".into(), "{}".into()));
    assert_eq!(
        scene.json(&["history", "echo-page"]),
        json!({ "revisions": value_of("versions.echo-page") })
    );
    assert_eq!(
        scene.json(&["status", "echo-page"]),
        json!({ "status": value_of("status.echo-page") })
    );

    assert_eq!(scene.json(&["put", "app.yaml"]), json!({ "results": value_of("put") }));
    assert_eq!(scene.asked(), ("put".into(), MANIFEST.into()), "a manifest goes as it is");
    let both = json!({ "acknowledged": value_of("deploy.echo-page"), "results": value_of("put") });
    assert_eq!(scene.json(&["deploy", "app.yaml"]), both);
    assert_eq!(
        scene.json(&["deploy", "echo-page", "v0.0.1"]),
        json!({ "acknowledged": value_of("deploy.echo-page") })
    );
    assert_eq!(scene.asked(), ("deploy.echo-page".into(), r#"{"version":"v0.0.1"}"#.into()));

    let undeployed = json!({ "results": value_of("undeploy.echo-page") });
    assert_eq!(scene.json(&["undeploy", "echo-page", "--non-destructive"]), undeployed);
    assert_eq!(scene.asked().1, r#"{"non_destructive":true}"#);
    assert_eq!(
        scene.json(&["del", "echo-page", "v0.0.1"]),
        json!({ "deleted": value_of("del.echo-page") })
    );
    assert_eq!(scene.asked().1, r#"{"version":"v0.0.1","delete_all":false}"#);
    assert_eq!(
        scene.json(&["delete", "echo-page", "--delete-all"]),
        json!({ "deleted": value_of("del.echo-page") })
    );
    assert_eq!(scene.asked().1, r#"{"version":"","delete_all":true}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_read_tables_and_sentences() {
    let scene = Scene::set().await;
    for (arguments, parts) in [
        (&["list"][..], &["NAME", "echo-page", "reconciling", "An echo behind a page"][..]),
        (&["list", "-o", "wide"], &["Linkdef pending"]),
        (&["list", "-o", "name"], &["echo-page\nother\n"]),
        (&["get", "echo-page"], &["kind: Application\n", "image: registry.example/echo:0.3.4\n"]),
        (&["history", "echo-page"], &["v0.0.3   yes", "v0.0.1   no"]),
        (&["status", "echo-page"], &["application", "Linkdef pending, waiting for"]),
        (&["deploy", "app.yaml"], &["Successfully put manifest", "Successfully deployed model"]),
        (&["del", "other", "v9"], &["Model version v9 doesn't exist"]),
    ] {
        let (code, out, err) = scene.app(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        assert!(parts.iter().all(|part| out.contains(part)), "{parts:?} in {out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_manager_is_an_error() {
    let scene = Scene::set().await;
    for (arguments, parts) in [
        (&["get", "nope"][..], &["Model with the name nope not found", "host app list"][..]),
        (&["status", "nope"], &["nope not found"]),
        (&["history", "nope"], &["nope not found"]),
        (&["deploy", "nope"], &["nope not found"]),
        (&["put", "again.yaml"], &["refused", "v0.0.2 already exists", "version annotation"]),
        (&["deploy", "again.yaml"], &["already exists"]),
    ] {
        let (code, out, err) = scene.app(arguments);
        assert!(code == Some(1) && out.is_empty(), "{arguments:?}: {out}");
        assert!(parts.iter().all(|part| err.contains(part)), "{parts:?} in {err}");
    }
    let (_, _, err) = scene.app(&["get", "nope", "-o", "json"]);
    let told: Value = serde_json::from_str(&err).expect("an error as JSON");
    assert_eq!(told["success"], false);
    let asked = scene.asked.lock().unwrap().len();
    // An invalid name, or a path without a file, never leaves this machine.
    for arguments in
        [&["get", "a.b"][..], &["put", "gone.yaml"], &["deploy", "./gone.yaml"], &["undeploy", "*"]]
    {
        assert_eq!(scene.app(arguments).0, Some(2), "{arguments:?}");
    }
    assert_eq!(scene.asked.lock().unwrap().len(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_nobody_confirms_has_an_exit_code_of_its_own() {
    let server = Server::shared().await;
    let nats = client::nats(&server).await;
    let models = format!("{}.model.", server.subjects().manager_root());
    let mut requests = nats.subscribe(format!("{models}>")).await.unwrap();
    client::settled(&nats).await;
    tokio::spawn(async move {
        let unknown = json!(Failure::unknown("no answer in time")).to_string();
        while let Some(request) = requests.next().await {
            let answer = match request.subject.trim_start_matches(&*models) {
                "versions.echo-page" => recorded("versions.nope").to_owned(),
                "put" => recorded("put").to_owned(),
                "undeploy.echo-page" | "list" => unknown.clone(),
                // The others wait in vain.
                _ => continue,
            };
            nats.publish(request.reply.expect("a request"), answer.into()).await.unwrap();
        }
    });
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("app.yaml"), MANIFEST).unwrap();
    for (arguments, code) in [
        (&["app", "deploy", "echo-page"][..], 3),
        (&["app", "deploy", "app.yaml"], 3),
        (&["app", "del", "echo-page", "v1"], 3),
        (&["app", "undeploy", "echo-page"], 3),
        (&["rollout", "pause", "echo-page"], 3),
        (&["apply", "app.yaml"], 3),
        (&["rollout", "status", "echo-page"], 1),
        (&["app", "list"], 1),
    ] {
        let connection = ["--ctl-host", &server.url(), "-t", "300"];
        let output = output(command_in(dir.path(), &server).args(arguments).args(connection));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("no answer"), "{}", stderr(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_keeps_applications_the_error_says_where_it_asked_and_what_to_start() {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    for (arguments, subject) in [
        (vec!["app", "list"], server.subjects().manager(Request::List)),
        (vec!["app", "status", "pets"], server.subjects().manager(Request::Status("pets"))),
        (
            vec!["app", "undeploy", "pets", "-x", "shop"],
            "wadm.api.shop.model.undeploy.pets".to_owned(),
        ),
    ] {
        let output = output(command_in(dir.path(), &server).args(&arguments).args([
            "--ctl-host",
            &server.url(),
            "--js-domain",
            "core",
        ]));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        for part in [&*subject, "`host up`", server.address(), "applications is never"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_answer_as_the_manager_did() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("app.yaml"), MANIFEST).unwrap();
    let app = |arguments: &[&str]| {
        let mut command = command_in(dir.path(), &server);
        let connection = ["--ctl-host", &server.url(), "-t", "20000", "-o", "json"];
        let output = output(command.arg("app").args(arguments).args(connection));
        let text = if output.status.success() { &output.stdout } else { &output.stderr };
        let json: Value = serde_json::from_slice(text).expect("JSON");
        (output.status.code(), json)
    };
    let (code, put) = app(&["put", "app.yaml"]);
    assert_eq!((code, &put["results"]), (Some(0), &value_of("put")));
    let (code, refused) = app(&["put", "app.yaml"]);
    assert_eq!(code, Some(1), "{refused}");
    assert!(refused["error"].as_str().is_some_and(|text| text.contains("already exists")));
    for (arguments, key, expected) in [
        (&["deploy", "echo-page"][..], "acknowledged", "deploy.echo-page"),
        (&["undeploy", "echo-page"], "results", "undeploy.echo-page"),
    ] {
        let (code, reply) = app(arguments);
        assert_eq!(code, Some(0), "{reply}");
        // Members for clients of later years are beside those of the manager.
        for (member, value) in value_of(expected).as_object().unwrap() {
            assert_eq!(&reply[key][member], value, "{arguments:?}");
        }
    }
    let (_, history) = app(&["history", "echo-page"]);
    let mut versions = history["revisions"]["versions"].clone();
    // Hosts tell also when a version was put.
    let at = versions[0].as_object_mut().and_then(|version| version.remove("at"));
    assert!(at.is_some_and(|at| at.is_u64()), "{history}");
    assert_eq!(versions, json!([{"version": "v0.0.1", "deployed": false}]));
    let (_, listed) = app(&["list"]);
    assert_eq!(listed["apps"][0]["description"], "An echo behind a page");
    let (_, status) = app(&["status", "echo-page"]);
    assert_eq!(status["status"]["status"]["status"]["type"], "undeployed");
    let (_, got) = app(&["get", "echo-page", "v0.0.1"]);
    assert_eq!(got["model"]["manifest"]["metadata"]["name"], "echo-page");
    let (code, deleted) = app(&["del", "echo-page", "v0.0.1"]);
    assert_eq!((code, &deleted["deleted"]["result"]), (Some(0), &json!("deleted")));
    let (code, gone) = app(&["deploy", "echo-page"]);
    assert_eq!(code, Some(1), "{gone}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contract_that_is_left_out_is_filled_in_and_the_same_file_changes_nothing() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let dir = TempDir::new().unwrap();
    let manifest = "apiVersion: core.oam.dev/v1beta1
kind: Application
metadata: {name: store, annotations: {version: v1}}
spec:
  components:
    - {name: kv, type: capability, properties: {image: 'builtin://keyvalue'}, traits: []}
    - {name: own, type: capability, properties: {image: 'registry.example/own:1'}, traits: []}
";
    std::fs::write(dir.path().join("app.yaml"), manifest).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = command_in(dir.path(), &server);
        let connection = ["--ctl-host", &server.url(), "-t", "20000", "-o", "json"];
        let output = output(command.args(arguments).args(connection));
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (json, stderr(&output))
    };
    for action in ["create", "unchanged"] {
        let (applied, said) = run(&["apply", "app.yaml"]);
        assert_eq!(applied["applications"][0]["action"], action, "{applied}");
        // Nobody knows yet what the other provider fulfils.
        assert_eq!(said.contains("has no `contract`"), action == "create", "{said}");
    }
    let (got, _) = run(&["app", "get", "store"]);
    let components = &got["model"]["manifest"]["spec"]["components"];
    assert_eq!(components[0]["properties"]["contract"], "wasmcloud:keyvalue");
    // With another image, the contract that was filled in is another one too.
    let mut manifest = got["model"]["manifest"].clone();
    manifest["metadata"]["annotations"]["version"] = "v2".into();
    manifest["spec"]["components"][0]["properties"]["image"] = "builtin://httpserver".into();
    std::fs::write(dir.path().join("app.yaml"), manifest.to_string()).unwrap();
    run(&["app", "put", "app.yaml"]);
    let (got, _) = run(&["app", "get", "store", "v2"]);
    let components = &got["model"]["manifest"]["spec"]["components"];
    assert_eq!(components[0]["properties"]["contract"], "wasmcloud:httpserver");
    host.stop().await;
}
