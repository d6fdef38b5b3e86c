//! Contexts as a user keeps them: with the real binary, its files, and a real server behind them.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    Server,
    process::{command, output, stderr},
    text,
};

/// Runs `host` to its end; returns the exit code, standard output and standard error.
fn host(dir: &Path, arguments: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = output(command(dir).args(arguments).envs(env.iter().copied()));
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output))
}

/// The same for what has to succeed, as JSON.
fn json_of(dir: &Path, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["-o", "json"]].concat();
    let (code, out, err) = host(dir, &arguments, &[]);
    assert_eq!(code, Some(0), "{arguments:?}: {err}");
    serde_json::from_str(&out).unwrap_or_else(|_| panic!("JSON: {out}"))
}

/// The lattice that a command asks: nobody listens there, and the error says so with its name.
fn lattice_asked(dir: &Path, arguments: &[&str], env: &[(&str, &str)]) -> String {
    let (code, _, err) = host(dir, &[&["app", "list"], arguments].concat(), env);
    let subject = err.split_once("wadm.api.").unwrap_or_else(|| panic!("{code:?}: {err}")).1;
    subject.split('.').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_beats_the_environment_that_a_named_context_that_the_directory_and_that_the_context_in_use()
 {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let (url, nowhere) = (server.url(), "nats://127.0.0.1:1");
    json_of(dir, &["ctx", "new", "used", "--nats-host", &url, "-x", "in-use", "--default"]);
    json_of(dir, &["ctx", "new", "named", "--nats-host", &url, "-x", "named"]);
    assert_eq!(lattice_asked(dir, &[], &[]), "in-use");

    let file = json!({ "nats_host": url, "lattice_prefix": "directory" });
    fs::write(dir.join("host_config.json"), file.to_string()).unwrap();
    assert_eq!(lattice_asked(dir, &[], &[]), "directory");
    assert_eq!(lattice_asked(dir, &["--context", "named"], &[]), "named");
    let env = [("WASMCLOUD_LATTICE", "environment")];
    assert_eq!(lattice_asked(dir, &["--context", "named"], &env), "environment");
    assert_eq!(lattice_asked(dir, &["--context", "named", "-x", "flag"], &env), "flag");

    // The server is chosen like the lattice: with the directory's file in the way, nobody is
    // reached.
    fs::write(dir.join("host_config.json"), json!({ "nats_host": nowhere }).to_string()).unwrap();
    let (code, _, err) = host(dir, &["app", "list"], &[]);
    assert!(code == Some(1) && err.contains("127.0.0.1:1"), "{code:?}: {err}");
    assert_eq!(lattice_asked(dir, &["--context", "used"], &[]), "in-use");
    assert_eq!(lattice_asked(dir, &[], &[("NATS_HOST", &url)]), "default");
    assert_eq!(lattice_asked(dir, &["--ctl-host", &url], &[]), "default");
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_of_wash_and_nats_lead_to_their_server_with_their_login() {
    let server = Server::with_config(
        Some("core"),
        r#"jetstream { domain: core, store_dir: "@DIR@/js" }
           authorization { user: "me", password: "p@ss" }"#,
    )
    .await;
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let nats = dir.join("home/.config/nats");
    fs::create_dir_all(nats.join("context")).unwrap();
    let url = server.url().replace("nats://", "nats://me:p%40ss@");
    fs::write(
        nats.join("context/edge.json"),
        json!({ "url": url, "jetstream_domain": "core" }).to_string(),
    )
    .unwrap();
    fs::write(nats.join("context.txt"), "edge").unwrap();
    assert_eq!(lattice_asked(dir, &[], &[]), "default");

    let wash = dir.join("home/.wash/contexts");
    fs::create_dir_all(&wash).unwrap();
    let (address, port) = server.address().rsplit_once(':').unwrap();
    let context = json!({
        "name": "dev", "cluster_seed": "", "lattice": "of-wash", "js_domain": null,
        "ctl_host": format!("me:p@ss@{address}"), "ctl_port": port.parse::<u16>().unwrap(), "ctl_jwt": "", "ctl_seed": "",
        "ctl_credsfile": null, "ctl_timeout": 2000,
        "rpc_host": address, "rpc_port": 4222, "rpc_jwt": "", "rpc_seed": "", "rpc_credsfile": null, "rpc_timeout": 2000,
    });
    fs::write(wash.join("dev.json"), context.to_string()).unwrap();
    fs::write(wash.join("default"), "dev").unwrap();
    assert_eq!(lattice_asked(dir, &[], &[]), "of-wash");
    assert_eq!(lattice_asked(dir, &["--context", "edge"], &[]), "default");
    // A client with another login is refused, and does not see the password.
    let (code, _, err) =
        host(dir, &["app", "list", "--context", "edge"], &[("WASMCLOUD_CTL_TOKEN", "wrong")]);
    assert!(code == Some(1) && err.contains("refuses") && !err.contains("p@ss"), "{code:?}: {err}");
}

#[test]
fn a_context_lives_from_new_to_del() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let list = json_of(dir, &["ctx", "list"]);
    assert_eq!((&list["contexts"], &list["default"]), (&json!([]), &Value::Null));

    let secret = ["--nats-user", "me", "--nats-password", "hunter2"];
    json_of(
        dir,
        &[
            &["ctx", "new", "shop", "--nats-host", "nats.shop.example", "--js-domain", "core"],
            &secret[..],
        ]
        .concat(),
    );
    let path = dir.join("home/.config/lattice-host/contexts/shop.json");
    let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let expected = json!({
        "js_domain": "core", "nats_host": "nats.shop.example", "nats_password": "hunter2", "nats_user": "me",
    });
    assert_eq!(written, expected);
    let (code, _, err) = host(dir, &["ctx", "new", "shop"], &[]);
    assert!(code == Some(2) && err.contains("host ctx edit shop"), "{code:?}: {err}");

    // A second from the first, with another login; the default is told and listed.
    json_of(
        dir,
        &[
            "ctx",
            "new",
            "edge",
            "--from",
            &path.display().to_string(),
            "--nats-token",
            "t0ken",
            "--default",
        ],
    );
    let list = json_of(dir, &["ctx", "list"]);
    assert_eq!((&list["contexts"], &list["default"]), (&json!(["edge", "shop"]), &json!("edge")));
    assert_eq!(list["details"][0]["login"], "token");
    assert_eq!(text(&json_of(dir, &["ctx", "default"]), "/default"), "edge");

    let shown = json_of(dir, &["ctx", "show", "shop"]);
    assert_eq!(shown["context"]["settings"]["nats_password"], "****");
    for form in ["text", "wide", "yaml", "json"] {
        let (_, out, err) = host(dir, &["ctx", "show", "shop", "-o", form], &[]);
        assert!(out.contains("nats.shop.example") && !(out + &err).contains("hunter2"), "{form}");
    }

    json_of(dir, &["ctx", "default", "shop"]);
    assert_eq!(json_of(dir, &["ctx", "del", "shop"])["default"], Value::Null);
    assert!(!path.exists());
    let (code, _, err) = host(dir, &["ctx", "default", "shop"], &[]);
    assert!(code == Some(2) && err.contains("edge"), "{code:?}: {err}");
}

#[test]
fn a_wrong_edit_changes_nothing_and_is_kept_for_another_try() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    json_of(dir, &["ctx", "new", "shop", "--js-domain", "core", "--default"]);
    let path = dir.join("home/.config/lattice-host/contexts/shop.json");
    let before = fs::read(&path).unwrap();
    let edit = |editor: &str| host(dir, &["ctx", "edit"], &[("EDITOR", editor)]);

    let (code, _, err) = edit("sed -i s/core/a.b/");
    assert_eq!(code, Some(2), "{err}");
    for part in ["js_domain", ".shop.edit.json:2", "a.b", "accepted", "stays as it was"] {
        assert!(err.contains(part), "{part} in {err}");
    }
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(json_of(dir, &["ctx", "list"])["contexts"], json!(["shop"]));

    let (code, _, err) = edit("sed -i s/a.b/edge/");
    assert!(code == Some(0) && err.contains("earlier edit"), "{code:?}: {err}");
    assert!(fs::read_to_string(&path).unwrap().contains("edge"));
    assert_eq!(edit("true").0, Some(0));
    assert_eq!(edit("false").0, Some(1));
    assert_eq!(
        fs::read_dir(path.parent().unwrap()).unwrap().count(),
        2,
        "the context, and which is in use"
    );
}

#[test]
fn a_directory_of_wash_is_kept_in_the_form_of_wash() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let place = dir.join("contexts");
    let (flag, env) =
        (["--directory", place.to_str().unwrap()], [("WASH_CONTEXTS", place.to_str().unwrap())]);
    json_of(
        dir,
        &[&["ctx", "new", "dev", "--nats-host", "hub", "-x", "prod", "--default"], &flag[..]]
            .concat(),
    );
    let context: Value =
        serde_json::from_slice(&fs::read(place.join("dev.json")).unwrap()).unwrap();
    assert_eq!(
        (&context["ctl_host"], &context["lattice"], &context["ctl_seed"]),
        (&json!("hub"), &json!("prod"), &json!(""))
    );
    // `wash` takes the whole file for the name.
    assert_eq!(fs::read_to_string(place.join("default")).unwrap(), "dev");
    let (code, out, _) = host(dir, &["ctx", "list", "-o", "json"], &env);
    let list: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &list["contexts"], &list["default"]),
        (Some(0), &json!(["dev"]), &json!("dev"))
    );
    assert_eq!(
        json_of(dir, &["ctx", "list"])["contexts"],
        json!([]),
        "it is only looked at when it is named"
    );

    let refused =
        host(dir, &[&["ctx", "new", "x", "--nats-token", "t0ken"], &flag[..]].concat(), &[]);
    assert!(
        refused.0 == Some(2) && refused.2.contains("ctl_token") && !refused.2.contains("t0ken"),
        "{refused:?}"
    );
    assert_eq!(host(dir, &["ctx", "del", "dev"], &env).0, Some(0));
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_host_left_in_the_home_is_found_from_anywhere_and_comes_last() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let url = server.url();
    fs::create_dir_all(dir.join("home/.wash")).unwrap();
    let left = json!({ "ctl_host": url, "rpc_host": url, "lattice_prefix": "left" });
    fs::write(dir.join("home/.wash/host_config.json"), left.to_string()).unwrap();
    assert_eq!(lattice_asked(dir, &[], &[]), "left");
    let (_, _, err) = host(dir, &["app", "list"], &[]);
    assert!(err.contains("home/.wash/host_config.json") && err.contains("lattice left"), "{err}");
    assert_eq!(lattice_asked(dir, &["-x", "flag"], &[]), "flag");
    json_of(dir, &["ctx", "new", "used", "--nats-host", &url, "-x", "in-use", "--default"]);
    assert_eq!(lattice_asked(dir, &[], &[]), "in-use");
    fs::write(
        dir.join("host_config.json"),
        json!({ "nats_host": url, "lattice_prefix": "here" }).to_string(),
    )
    .unwrap();
    assert_eq!(lattice_asked(dir, &[], &[]), "here");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_late_are_told_apart_from_none_and_two_milliseconds_are_two_seconds() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let (address, port) = server.address().rsplit_once(':').unwrap();
    let context = json!({
        "name": "old", "cluster_seed": "", "ctl_host": address, "ctl_port": port.parse::<u16>().unwrap(), "ctl_jwt": "",
        "ctl_seed": "", "ctl_credsfile": null, "ctl_timeout": 2, "rpc_host": address, "rpc_port": port.parse::<u16>().unwrap(),
        "rpc_jwt": "", "rpc_seed": "", "rpc_timeout": 2,
    });
    fs::write(dir.join("old.json"), context.to_string()).unwrap();
    let ask = || host(dir, &["get", "hosts", "--context", "old.json"], &[]);
    let (code, _, err) = ask();
    assert!(code == Some(1) && err.contains("nobody listens"), "{code:?}: {err}");
    // Somebody who does not answer.
    let nats = async_nats::connect(server.url()).await.unwrap();
    let _frozen = nats.subscribe("wasmbus.ctl.default.ping.hosts").await.unwrap();
    crate::harness::client::settled(&nats).await;
    let (code, _, err) = ask();
    assert!(
        code == Some(1)
            && err.contains("answered within 2000 ms")
            && !err.contains("nobody listens"),
        "{err}"
    );
    let shown = json_of(dir, &["ctx", "show", "--directory", ".", "old"]);
    assert!(shown.to_string().contains("2 is taken as 2 seconds"), "{shown}");
}
