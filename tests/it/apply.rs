//! `host apply` and `host export`, as a user types them, against hosts of a lattice.

use std::path::Path;

use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::{
    commands::User,
    harness::{
        ECHO, Server, TestHost,
        client::{self, ctl_2024},
        eventually, example, host,
        nats::free_port,
        process::stderr,
    },
};

const APPLICATION: &str = "wasmcloud.dev/appspec";

/// A manifest of an echo behind a page.
fn page(name: &str, image: &str, instances: u32, port: u16) -> String {
    format!(
        "apiVersion: core.oam.dev/v1beta1
kind: Application
metadata:
  name: {name}
spec:
  components:
    - name: echo
      type: actor
      properties: {{image: \"{image}\"}}
      traits:
        - type: spreadscaler
          properties: {{instances: {instances}}}
        - type: linkdef
          properties:
            target: web
            values: {{address: \"127.0.0.1:{port}\"}}
    - name: web
      type: capability
      properties: {{image: \"builtin://httpserver\", contract: \"wasmcloud:httpserver\"}}
"
    )
}

/// A manifest of an application that runs nothing.
fn empty(name: &str) -> String {
    format!(
        "apiVersion: core.oam.dev/v1beta1\nkind: Application\nmetadata: {{name: {name}}}\nspec: {{components: []}}\n"
    )
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("a manifest is written");
    path.display().to_string()
}

/// Returns name, action and status of each application in the answer to `apply`.
fn rows(answer: &Value) -> Vec<(&str, &str, &str)> {
    let rows = answer["applications"].as_array().expect("applications");
    rows.iter()
        .map(|row| {
            (
                row["name"].as_str().expect("a name"),
                row["action"].as_str().expect("an action"),
                row["status"]["type"].as_str().unwrap_or_default(),
            )
        })
        .collect()
}

/// Returns how many instances an application has on a host, or what was started by hand.
async fn instances(server: &Server, host: &TestHost, application: Option<&str>) -> u32 {
    let inventory =
        ctl_2024(server).await.get_host_inventory(&host.id).await.expect("an inventory");
    let all = inventory.actors.iter().flat_map(|actor| &actor.instances);
    let own = all.filter(|instance| {
        let annotations = instance.annotations.as_ref();
        annotations.and_then(|all| all.get(APPLICATION)).map(String::as_str) == application
    });
    own.map(|instance| instance.max_instances).sum()
}

/// Returns the names of the applications there are.
async fn names(user: &User) -> Vec<String> {
    let names = user.prints(&["app", "list", "-o", "name"]).await;
    names.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_applied_once_and_the_second_time_nothing_is_sent() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let port = free_port();
    std::fs::create_dir(user.dir().join("build")).unwrap();
    std::fs::copy(
        example("echo").trim_start_matches("file://"),
        user.dir().join("build/echo.wasm"),
    )
    .unwrap();
    // Meant from the folder of the manifest, wherever the command is typed.
    let file = write(user.dir(), "page.yaml", &page("page", "file://build/echo.wasm", 2, port));
    let dry = user.prints(&["apply", "-f", &file, "--dry-run"]).await;
    assert!(dry.contains("page: create v-") && dry.contains("+kind: Application"), "{dry}");
    assert!(names(&user).await.is_empty(), "a dry run changes nothing");

    let applied = user.json(&["apply", "-f", &file]).await;
    assert_eq!(rows(&applied), [("page", "create", "deployed")]);
    assert_eq!(instances(&server, &host, Some("page")).await, 2);
    let answer = eventually("the page answers", || async {
        reqwest::get(format!("http://127.0.0.1:{port}/")).await.ok()
    })
    .await;
    assert_eq!(answer.status(), 200);

    let nats = client::nats(&server).await;
    let mut requests =
        nats.subscribe(format!("{}.>", server.subjects().manager_root())).await.unwrap();
    client::settled(&nats).await;
    let again = user.json(&["apply", "-f", &file]).await;
    assert_eq!(rows(&again), [("page", "unchanged", "deployed")]);
    assert_eq!(again["applications"][0]["version"], applied["applications"][0]["version"]);
    client::settled(&nats).await;
    let end = format!("{}.end", server.subjects().manager_root());
    nats.publish(end, "".into()).await.unwrap();
    let mut asked = Vec::new();
    while let Some(request) = requests.next().await
        && !request.subject.ends_with(".end")
    {
        asked.push(request.subject.to_string());
    }
    assert!(asked.iter().any(|subject| subject.ends_with(".versions.page")), "{asked:?}");
    for change in [".put", ".deploy.page", ".del.page", ".undeploy.page"] {
        assert!(!asked.iter().any(|subject| subject.ends_with(change)), "{asked:?}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_whose_link_is_not_taken_on_has_failed_until_it_is() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let file = write(user.dir(), "page.yaml", &page("page", &example("echo"), 1, port));
    let applied = user.run(&["apply", "-f", &file]).await;
    let said = stderr(&applied);
    assert_eq!(applied.status.code(), Some(1), "{said}");
    assert!(said.contains("page") && said.contains("cannot listen"), "{said}");
    let status = user.json(&["app", "status", "page"]).await.to_string();
    assert!(status.contains("failed") && status.contains("cannot listen"), "{status}");

    drop(taken);
    eventually("the link is taken on, and the application deployed", || async {
        let listed = user.json(&["app", "list"]).await;
        (listed["apps"][0]["status"] == "deployed").then_some(())
    })
    .await;
    let misspelt =
        page("other", &example("echo"), 1, port).replace(":httpserver\"", ":htpserver\"");
    let file = write(user.dir(), "other.yaml", &misspelt);
    let said = user.fails(1, &["apply", "-f", &file]).await;
    assert!(said.contains("fulfils the contract wasmcloud:httpserver"), "{said}");
    assert_eq!(names(&user).await, ["page"], "nothing was stored");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_shown_before_and_made_when_it_is_applied() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let port = free_port();
    let file = write(user.dir(), "page.yaml", &page("page", &example("echo"), 1, port));
    user.prints(&["apply", &file]).await;
    write(user.dir(), "page.yaml", &page("page", &example("echo"), 3, port));
    let dry = user.json(&["apply", &file, "--dry-run"]).await;
    assert_eq!(rows(&dry), [("page", "update", "")]);
    let diff = dry["applications"][0]["diff"].as_str().expect("a difference");
    let changed: Vec<&str> = diff
        .lines()
        .filter(|line| line.starts_with(['-', '+']) && !line.contains("version:"))
        .map(|line| line.trim_start_matches(['-', '+', ' ']))
        .collect();
    assert_eq!(changed, ["instances: 1", "instances: 3"], "{diff}");
    assert_eq!(instances(&server, &host, Some("page")).await, 1);

    let output = user.run(&["apply", &file]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("deploy page"), "stages are told: {}", stderr(&output));
    assert_eq!(instances(&server, &host, Some("page")).await, 3);
    // Back again: the version is the same one, which is stored.
    write(user.dir(), "page.yaml", &page("page", &example("echo"), 1, port));
    assert_eq!(rows(&user.json(&["apply", &file]).await), [("page", "deploy", "deployed")]);
    assert_eq!(instances(&server, &host, Some("page")).await, 1);
    let history = user.json(&["app", "history", "page"]).await;
    assert_eq!(history["revisions"]["versions"].as_array().map(Vec::len), Some(2));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_stored_is_never_another_content() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let versioned = |instances| {
        let manifest = page("page", &example("echo"), instances, 1);
        manifest.replace("name: page\n", "name: page\n  annotations: {version: v1}\n")
    };
    let file = write(user.dir(), "page.yaml", &versioned(0));
    let other = write(user.dir(), "other.yaml", &empty("other"));
    let words = ["apply", &file, &other, "--skip-wait"];
    assert_eq!(rows(&user.json(&words).await), [("page", "create", ""), ("other", "create", "")]);
    write(user.dir(), "page.yaml", &versioned(7));
    write(user.dir(), "other.yaml", &empty("third"));
    let told = user.fails(1, &words).await;
    for part in ["page.yaml, document 1", "version v1 of page", "another version annotation"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert_eq!(names(&user).await, ["other", "page"], "nothing was sent");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn link_values_that_a_built_in_provider_refuses_are_no_version() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let manifest = page("page", &example("echo"), 1, free_port()).replace("{address:", "{adress:");
    let file = write(user.dir(), "page.yaml", &manifest);
    let ended = user.run(&["apply", "-f", &file]).await;
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("did you mean address?"), "{said}");
    assert!(names(&user).await.is_empty(), "nothing is stored");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_from_the_files_of_a_set_is_pruned_and_nothing_else() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let dir = user.dir().join("deploy");
    std::fs::create_dir(&dir).unwrap();
    write(&dir, "kept.yaml", &format!("{}---\n{}", empty("kept"), empty("kept-too")));
    write(&dir, "gone.yaml", &page("gone", &example("echo"), 1, free_port()));
    write(&dir, "host_config.json", "{}");
    let by_hand = write(user.dir(), "by-hand.yaml", &empty("by-hand"));
    let theirs = write(user.dir(), "theirs.yaml", &empty("theirs"));
    let dir = dir.display().to_string();
    let apply = ["apply", "-f", &dir, "--set", "ours"];
    user.prints(&["app", "deploy", &by_hand]).await;
    user.prints(&["apply", &theirs, "--set", "theirs"]).await;
    user.prints(&apply).await;
    assert_eq!(instances(&server, &host, Some("gone")).await, 1);
    std::fs::remove_file(format!("{dir}/gone.yaml")).unwrap();

    let all = ["by-hand", "gone", "kept", "kept-too", "theirs"];
    let unpruned = user.json(&apply).await;
    assert_eq!(
        rows(&unpruned),
        [("kept", "unchanged", "deployed"), ("kept-too", "unchanged", "deployed")]
    );
    let unnamed = user.fails(2, &["apply", "-f", &dir, "--prune"]).await;
    assert!(unnamed.contains("no set is named") && unnamed.contains("--set NAME"), "{unnamed}");
    let prune = [&apply[..], &["--prune"]].concat();
    let dry = user.prints(&[&prune[..], &["--dry-run"]].concat()).await;
    assert!(
        dry.contains("gone: prune") && !dry.contains("theirs") && !dry.contains("by-hand"),
        "{dry}"
    );
    // Its application looks like one that is gone.
    write(Path::new(&dir), "kept.yaml", "kind: Application\nmetadata: {name: [}\n");
    write(Path::new(&dir), "new.yaml", &empty("new"));
    let told = user.fails(1, &prune).await;
    assert!(told.contains("kept.yaml, document 1"), "{told}");
    assert_eq!(names(&user).await, all, "nothing is pruned, and nothing applied");
    std::fs::remove_file(format!("{dir}/new.yaml")).unwrap();
    write(Path::new(&dir), "kept.yaml", &format!("{}---\n{}", empty("kept"), empty("kept-too")));

    let pruned = user.json(&prune).await;
    assert_eq!(rows(&pruned).last(), Some(&("gone", "prune", "")));
    assert_eq!(names(&user).await, ["by-hand", "kept", "kept-too", "theirs"]);
    // Nobody knows whose it is.
    let nats = client::nats(&server).await;
    let context = async_nats::jetstream::with_domain(nats, server.domain().expect("a domain"));
    let bucket = context.get_key_value("wadm_manifests").await.expect("the bucket");
    bucket.put(format!("{}-theirs", server.lattice()), "not JSON".into()).await.unwrap();
    for words in [&prune[..], &["app", "list"]] {
        let output = user.run(words).await;
        assert!(output.status.success() && stderr(&output).contains("theirs"), "{output:?}");
    }
    eventually("what was pruned is stopped", || async {
        (instances(&server, &host, Some("gone")).await == 0).then_some(())
    })
    .await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_start_is_told_with_its_reason() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let image = format!("file://{}/gone.wasm", user.dir().display());
    let bad = write(user.dir(), "bad.yaml", &page("bad", &image, 1, free_port()));
    let fine = write(user.dir(), "fine.yaml", &empty("fine"));
    let output = user.run(&["apply", &bad, &fine, "-o", "json"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["success"], false);
    assert_eq!(rows(&answer), [("bad", "create", "failed"), ("fine", "create", "deployed")]);
    let told = stderr(&output);
    assert!(told.contains("gone.wasm") && told.contains("host app status bad"), "{told}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_is_over_is_no_success_in_any_form() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let file = write(user.dir(), "page.yaml", &page("page", &example("echo"), 1, free_port()));
    let output = user.run(&["apply", &file, "--wait-ms", "0", "-o", "json"]).await;
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["success"], false);
    assert_eq!(rows(&answer), [("page", "create", "reconciling")]);
    let told = stderr(&output);
    assert!(told.contains("the time is over") && told.contains("host app status page"), "{told}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_all_manifests_are_told_before_anything_is_sent() {
    let server = Server::shared().await;
    let user = User::of(&server);
    let twice =
        write(user.dir(), "twice.yaml", &format!("{}---\n{}", empty("fine"), empty("fine")));
    let broken = write(user.dir(), "broken.yaml", &empty("a b"));
    let typo =
        page("typo", "r/echo:1", 1, 1).replace("instances: 1", "instances: 1, rebalanc: true");
    let typo = write(user.dir(), "typo.yaml", &typo);
    // Nobody is there who could be asked.
    let told = user.fails(1, &["apply", "-f", &twice, "-f", &broken, "gone.yaml", &typo]).await;
    for part in [
        "twice.yaml, document 2: application fine is in",
        "broken.yaml, document 1: Manifest name a b",
        "read the manifest gone.yaml",
        "typo.yaml, document 1: component \"echo\", trait 1 (spreadscaler): `rebalanc` is not known; did you mean `rebalance`?",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert!(!told.contains("\\n"), "a line each: {told}");
    let nobody =
        user.fails(1, &["apply", "-f", &write(user.dir(), "fine.yaml", &empty("fine"))]).await;
    assert!(nobody.contains("nobody keeps applications"), "{nobody}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_exported_as_a_manifest_that_can_be_applied() {
    let server = Server::shared().await;
    let first = host(&server).label("machine", "first").start().await;
    let second = host(&server).label("machine", "second").start().await;
    for host in [&first, &second] {
        eventually("the hosts know each other", || async {
            (host.other_hosts().len() == 1).then_some(())
        })
        .await;
    }
    let user = User::of(&server);
    let nothing = user.fails(1, &["export"]).await;
    assert!(nothing.contains("nothing runs in lattice"), "{nothing}");
    let echo = example("echo");
    for (machine, max) in [("machine=first", "3"), ("machine=second", "1")] {
        user.prints(&["start", "actor", &echo, "--max", max, "-c", machine]).await;
    }
    user.prints(&["start", "provider", "builtin://httpserver", "-c", "machine=second"]).await;
    let address = format!("address=127.0.0.1:{}", free_port());
    user.prints(&["link", "put", ECHO, "builtin://httpserver", "wasmcloud:httpserver", &address])
        .await;

    let output = user.run(&["export"]).await;
    assert!(stderr(&output).contains("a file, which other machines cannot read"));
    let file = write(user.dir(), "all.yaml", &String::from_utf8(output.stdout).unwrap());
    let exported = user.json(&["export"]).await;
    let components = exported["spec"]["components"].as_array().expect("components");
    let rules = &components[0]["traits"][0]["properties"]["spread"];
    assert_eq!(
        rules,
        &json!([
            {"name": "machine=first", "requirements": {"machine": "first"}, "weight": 3},
            {"name": "machine=second", "requirements": {"machine": "second"}, "weight": 1},
        ])
    );
    assert_eq!(components[1]["properties"]["link_name"], "default");

    let manifest = std::fs::File::open(file).unwrap();
    let words = ["apply", "-f", "-", "-o", "json"];
    let applied = user.run_reading(&words, manifest).await;
    assert!(applied.status.success(), "{}", stderr(&applied));
    let applied: Value = serde_json::from_slice(&applied.stdout).unwrap();
    assert_eq!(rows(&applied), [("exported", "create", "deployed")]);
    assert_eq!(instances(&server, &first, Some("exported")).await, 3);
    assert_eq!(instances(&server, &second, Some("exported")).await, 1);
    // The start by hand is still there, and no more.
    assert_eq!(user.json(&["export"]).await, exported);
    let mut of_application = user.json(&["export", "--application", "exported"]).await;
    let metadata = of_application["metadata"].as_object_mut().unwrap();
    let annotations = metadata.remove("annotations").expect("annotations");
    assert_eq!(annotations["lattice.host/applied-set"], "default");
    assert_eq!(of_application, exported);
    let gone = user.fails(1, &["export", "--application", "nope"]).await;
    assert!(gone.contains("nope") && gone.contains("host app list"), "{gone}");
    first.stop().await;
    second.stop().await;
}
