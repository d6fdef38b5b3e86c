//! Artifacts that the binary makes of modules, programs and keys, checked by the real signing
//! crates, a real registry and a host.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use lattice_base::{
    dirs::Dirs,
    presence::{Presence, presence_dir},
};
use provider_archive::ProviderArchive;
use serde_json::Value;
use tempfile::TempDir;
use wascap::{
    jwt::{Account, Actor, CapabilityProvider, Claims, Operator, WascapEntity, validate_token},
    prelude::KeyPair,
};

use crate::harness::{
    ECHO, Events, Server,
    client::{Caller, ctl_2024, http_request, start},
    example, host,
    process::{command, output, stderr},
    registry::{ACTOR_LAYER, PASSWORD, PROVIDER_LAYER, RegistryServer, USER},
    text,
};

/// A directory with a module in it that nobody of these tests has signed.
fn workshop() -> TempDir {
    let dir = TempDir::new().expect("a directory");
    let module = wat::parse_str(r#"(module (memory (export "memory") 1) (func (export "f")))"#)
        .expect("valid text");
    fs::write(dir.path().join("plain.wasm"), module).expect("the module is written");
    let echo = example("echo");
    fs::copy(echo.trim_start_matches("file://"), dir.path().join("echo.wasm"))
        .expect("the example is copied");
    dir
}

/// `host ARGS` in a directory, as the user ann.
fn ann(dir: &Path, args: &[&str]) -> Command {
    let mut command = command(dir);
    command.env("USER", "ann").args(args);
    command
}

/// The data a command prints; it must succeed.
fn json(dir: &Path, args: &[&str]) -> Value {
    let output = output(ann(dir, args).args(["-o", "json"]));
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON on standard output");
    assert_eq!(told["success"], true, "{told}");
    told
}

/// A command that must fail with this exit code; what it says.
fn refused(dir: &Path, code: i32, args: &[&str]) -> String {
    let output = output(&mut ann(dir, args));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
    assert!(output.stdout.is_empty(), "{args:?}");
    stderr(&output)
}

fn words(told: &Value, member: &str) -> Vec<String> {
    let all = told[member].as_array().unwrap_or_else(|| panic!("{member} in {told}"));
    all.iter().map(|word| word.as_str().expect("a text").to_owned()).collect()
}

/// Returns the claims that the real signing library reads from a module.
fn claims(module: &Path) -> Claims<Actor> {
    let bytes = fs::read(module).expect("the module is read");
    wascap::wasm::extract_claims(bytes).expect("a token that fits").expect("a token").claims
}

fn keys(dir: &Path) -> PathBuf {
    dir.join("home/.wash/keys")
}

fn key(dir: &Path, name: &str) -> KeyPair {
    let seed = fs::read_to_string(keys(dir).join(format!("{name}.nk"))).expect("a key");
    KeyPair::from_seed(&seed).expect("a seed and nothing else")
}

fn is_one_word(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(text.split_whitespace().count(), 1, "{text}");
    text.trim().to_owned()
}

#[tokio::test]
async fn a_signed_actor_starts_and_keeps_its_key_when_it_is_signed_again() {
    let (server, dir) = (Server::shared().await, workshop());
    let host = host(&server).start().await;
    let caller = Caller::new(&server).await;
    let sign = [
        "claims",
        "sign",
        "echo.wasm",
        "--name",
        "My echo",
        "-q",
        "-c",
        "acme:own",
        "--rev",
        "3",
        "-t",
        "demo",
    ];
    let signed = output(&mut ann(dir.path(), &sign));
    assert!(signed.status.success(), "{}", stderr(&signed));
    let said = stderr(&signed);
    for name in ["ann_account.nk", "echo_module.nk", ECHO] {
        assert!(said.contains(name), "{name} in {said}");
    }
    for name in ["ann_account", "echo_module"] {
        assert!(!said.contains(&key(dir.path(), name).seed().unwrap()), "a seed is told: {said}");
    }

    let told = json(dir.path(), &sign);
    assert_eq!(words(&told, "capabilities"), ["wasmcloud:httpserver", "acme:own"]);
    let module = dir.path().join(text(&told, "/destination"));
    assert_eq!(module, dir.path().join("echo_s.wasm"));
    let claims = claims(&module);
    assert_eq!(claims.subject, key(dir.path(), "echo_module").public_key());
    assert_eq!(claims.issuer, key(dir.path(), "ann_account").public_key());
    assert_eq!(
        (claims.subject.as_str(), claims.name().as_str()),
        (text(&told, "/module"), "My echo")
    );
    assert_eq!(claims.metadata.expect("an actor").rev, Some(3));

    start(&server, &host, &format!("file://{}", module.display()), 1).await;
    caller
        .call(&claims.subject, "HttpServer.HandleRequest", http_request("GET", "/", b""))
        .await
        .unwrap();
    host.stop().await;
}

#[test]
fn a_module_without_a_token_is_signed_as_it_is_told() {
    let dir = workshop();
    let seed = KeyPair::new_account().seed().unwrap();
    let actor = KeyPair::new_module();
    fs::write(dir.path().join("actor.nk"), actor.seed().unwrap() + "\n").unwrap();
    let told = json(
        dir.path(),
        &[
            "claims",
            "sign",
            "plain.wasm",
            "-d",
            "out/p.wasm",
            "-i",
            &seed,
            "-s",
            "actor.nk",
            "-kgzl",
            "-a",
            "a/b",
            "-x",
            "2",
        ],
    );
    let all = ["keyvalue", "messaging", "builtin:logging", "builtin:numbergen"]
        .map(|name| format!("wasmcloud:{name}"));
    assert_eq!(words(&told, "capabilities"), all);
    let claims = claims(&dir.path().join("out/p.wasm"));
    assert_eq!(claims.subject, actor.public_key());
    assert_eq!(claims.expires, Some(claims.issued_at + 2 * 86_400));
    let metadata = claims.metadata.unwrap();
    assert_eq!(
        (metadata.name.as_deref(), metadata.call_alias.as_deref()),
        (Some("plain"), Some("a/b"))
    );
    assert!(!keys(dir.path()).exists(), "no key was needed");

    let refused =
        |more: &[&str]| refused(dir.path(), 2, &[&["claims", "sign", "plain.wasm"], more].concat());
    assert!(refused(&["-i", &seed, "-s", "actor.nk", "-a", "My Alias"]).contains("call alias"));
    assert!(refused(&["-i", "actor.nk"]).contains("expected the seed of an account"));
    let mistyped = seed.replace('A', "B");
    let said = refused(&["-i", &mistyped]);
    assert!(said.contains("--issuer") && !said.contains(&mistyped[..8]), "{said}");
    assert!(refused(&["-i", &seed, "-s", "actor.nk", "-x", "1", "-b", "2"]).contains("--nbf"));
    let said = self::refused(dir.path(), 1, &["claims", "sign", "plain.wasm", "--disable-keygen"]);
    assert!(said.contains("ann_account.nk"), "{said}");
    let said = self::refused(
        dir.path(),
        1,
        &["claims", "sign", "actor.nk", "-i", &seed, "-s", "actor.nk"],
    );
    assert!(said.contains("not a WebAssembly file"), "{said}");
}

#[test]
fn tokens_of_all_kinds_count_for_the_real_library() {
    fn checked<T: serde::Serialize + serde::de::DeserializeOwned + WascapEntity>(
        dir: &Path,
        args: &[&str],
    ) -> Claims<T> {
        let token = is_one_word(&output(ann(dir, &["claims", "token"]).args(args)));
        let checked = validate_token::<T>(&token).expect("a token");
        assert!(checked.signature_valid && !checked.expired && !checked.cannot_use_yet, "{args:?}");
        Claims::decode(&token).expect("claims")
    }
    let dir = workshop();
    let dir = dir.path();
    let other = KeyPair::new_account().public_key();
    let operator = checked::<Operator>(dir, &["operator", "-n", "acme"]);
    assert_eq!(
        (operator.subject.as_str(), operator.name().as_str()),
        (operator.issuer.as_str(), "acme")
    );
    let account = checked::<Account>(dir, &["account", "-n", "shop", "-a", &other]);
    assert_eq!(account.issuer, operator.issuer);
    assert_eq!(account.metadata.unwrap().valid_signers, Some(vec![other]));
    let provider = checked::<CapabilityProvider>(
        dir,
        &["provider", "-n", "kv", "-c", "a:kv", "-v", "acme", "-r", "4"],
    );
    assert_eq!((&provider.issuer, provider.subject.as_bytes()[0]), (&account.subject, b'V'));
    assert_eq!(provider.metadata.unwrap().capid, "a:kv");
    let actor = checked::<Actor>(dir, &["actor", "-n", "cat", "-q", "-r", "1", "-v", "0.1.0"]);
    assert_eq!(actor.subject, key(dir, "cat_module").public_key());
    assert_eq!(
        json(dir, &["claims", "token", "actor", "-n", "cat"])["token"]
            .as_str()
            .map(|t| t.starts_with("ey")),
        Some(true)
    );
    assert!(refused(dir, 2, &["claims", "token", "actor"]).contains("--name"));
}

#[test]
fn keys_are_made_shown_and_listed() {
    let dir = workshop();
    let dir = dir.path();
    for (kind, letter) in
        [("Actor", 'M'), ("service", 'V'), ("host", 'N'), ("cluster", 'C'), ("operator", 'O')]
    {
        let told = json(dir, &["keys", "gen", kind]);
        let pair = KeyPair::from_seed(text(&told, "/seed")).unwrap();
        assert_eq!(pair.public_key(), text(&told, "/public_key"));
        assert!(pair.public_key().starts_with(letter));
    }
    assert!(refused(dir, 2, &["keys", "gen", "actors"]).contains("account, user"));
    assert!(words(&json(dir, &["keys", "list"]), "keys").is_empty());
    json(dir, &["claims", "sign", "plain.wasm"]);
    assert_eq!(words(&json(dir, &["keys", "list"]), "keys"), ["ann_account", "plain_module"]);
    for name in ["plain_module", "plain_module.nk"] {
        let seed = is_one_word(&output(&mut ann(dir, &["keys", "get", name])));
        assert_eq!(text(&json(dir, &["keys", "get", name]), "/seed"), seed);
        assert_eq!(seed, key(dir, "plain_module").seed().unwrap());
    }
    let listed =
        output(ann(dir, &["keys", "list"]).env("WASH_KEYS", keys(dir)).env("HOME", "/nonexistent"));
    assert!(
        String::from_utf8_lossy(&listed.stdout).contains(&key(dir, "ann_account").public_key())
    );
    let missing = refused(dir, 1, &["keys", "get", "nobody"]);
    assert!(missing.contains("nobody") && missing.contains("ann_account"), "{missing}");
    assert!(refused(dir, 2, &["keys", "get", "../keys/ann_account"]).contains("--directory"));
}

/// Packs a script as a provider for this machine.
fn create(dir: &Path, more: &[&str]) -> Value {
    fs::write(dir.join("acme"), "#!/bin/sh\nexit 0\n").unwrap();
    fs::write(dir.join("schema.json"), "{\n \"type\": \"object\"\n}").unwrap();
    let args = [
        "par",
        "create",
        "-c",
        "wasmcloud:keyvalue",
        "-v",
        "acme",
        "-n",
        "Acme store",
        "-b",
        "acme",
        "-r",
        "2",
    ];
    json(dir, &[&args[..], &["--version", "0.2.0", "-j", "schema.json"], more].concat())
}

#[tokio::test]
async fn an_archive_is_read_by_the_real_library_and_grows() {
    let dir = workshop();
    let dir = dir.path();
    let told = create(dir, &["--compress", "-a", "x86_64-linux"]);
    assert_eq!(text(&told, "/file"), "acme.par.gz");
    fs::write(dir.join("other"), "another program").unwrap();
    // The provider's key is found although the program has another name; no key is made for it.
    let told = json(dir, &["par", "insert", "acme.par.gz", "-b", "other", "-a", "aarch64-macos"]);
    assert_eq!(words(&told, "targets"), ["aarch64-macos", "x86_64-linux"]);
    assert_eq!(words(&json(dir, &["keys", "list"]), "keys"), ["acme_service", "ann_account"]);

    let archive = ProviderArchive::try_load_file(dir.join("acme.par.gz")).await.unwrap();
    assert_eq!(archive.target_bytes("aarch64-macos").as_deref(), Some(&b"another program"[..]));
    assert!(archive.target_bytes("x86_64-linux").unwrap().starts_with(b"#!/bin/sh"));
    assert_eq!(archive.schema(), Some(serde_json::json!({"type": "object"})));
    let claims = archive.claims().unwrap();
    assert_eq!(claims.subject, key(dir, "acme_service").public_key());
    let metadata = claims.metadata.unwrap();
    assert_eq!(
        (metadata.rev, metadata.ver.as_deref(), metadata.vendor.as_str()),
        (Some(2), Some("0.2.0"), "acme")
    );

    let told = json(dir, &["par", "inspect", "acme.par.gz"]);
    assert_eq!(
        (text(&told, "/service"), text(&told, "/vendor")),
        (claims.subject.as_str(), "acme")
    );
    assert_eq!(text(&told, "/capability_contract_id"), "wasmcloud:keyvalue");
    assert_eq!(
        (told["revision"].as_i64(), &told["schema"]["type"]),
        (Some(2), &Value::from("object"))
    );

    let before = fs::read(dir.join("acme.par.gz")).unwrap();
    let stranger = KeyPair::new_service().seed().unwrap();
    let said = refused(dir, 2, &["par", "insert", "acme.par.gz", "-b", "other", "-s", &stranger]);
    assert!(said.contains(&claims.subject) && !said.contains(&stranger), "{said}");
    fs::create_dir(dir.join("empty")).unwrap();
    let said = refused(dir, 1, &["par", "insert", "acme.par.gz", "-b", "other", "-d", "empty"]);
    assert!(said.contains("--subject"), "{said}");
    assert!(
        refused(dir, 2, &["par", "insert", "acme.par.gz", "-b", "other", "-a", "macos"])
            .contains("ARCH-OS")
    );
    assert!(
        refused(dir, 1, &["par", "insert", "acme.par.gz", "-b", "echo.wasm"])
            .contains("WebAssembly")
    );
    assert_eq!(fs::read(dir.join("acme.par.gz")).unwrap(), before);
}

#[test]
fn inspect_tells_what_wash_tells_and_more() {
    let dir = workshop();
    let dir = dir.path();
    for command in [&["inspect"][..], &["claims", "inspect"]] {
        let told = json(dir, &[command, &["echo.wasm"]].concat());
        for member in ["module", "actor", "public_key"] {
            assert_eq!(told[member], ECHO, "{member}");
        }
        assert_eq!(told["account"], told["issuer"]);
        assert_eq!(
            (text(&told, "/expires"), text(&told, "/can_be_used")),
            ("never", "immediately")
        );
        assert_eq!(
            (text(&told, "/name"), text(&told, "/version"), told["revision"].as_i64()),
            ("echo", "0.1.0", Some(1))
        );
        assert_eq!(words(&told, "capabilities"), ["wasmcloud:httpserver"]);
        assert_eq!(words(&told, "tags"), ["example"]);
        let token = is_one_word(&output(ann(dir, command).args(["echo.wasm", "--jwt-only"])));
        assert_eq!(Claims::<Actor>::decode(&token).unwrap().subject, ECHO);
        assert_eq!(
            text(&json(dir, &[command, &["echo.wasm", "--jwt-only"]].concat()), "/token"),
            token
        );
    }
    assert!(
        refused(dir, 2, &["inspect", "echo.wasm", "-d", "sha256:00"])
            .contains("--digest is of images")
    );
    assert!(refused(dir, 1, &["inspect", "plain.wasm"]).contains("host claims sign"));

    // Expired claims are shown, with a warning.
    json(dir, &["claims", "sign", "plain.wasm", "--issued-at", "1000", "-x", "1"]);
    let told = output(&mut ann(dir, &["inspect", "plain_s.wasm"]));
    assert!(told.status.success() && stderr(&told).contains("expired"), "{told:?}");
    assert!(String::from_utf8_lossy(&told.stdout).contains("days ago"));
}

/// The manifest of an image as the registry has it.
async fn manifest(registry: &RegistryServer, repository: &str, tag: &str) -> Value {
    let url = format!("http://{}/v2/{repository}/manifests/{tag}", registry.address());
    let request = reqwest::Client::new()
        .get(url)
        .header("accept", "application/vnd.oci.image.manifest.v1+json");
    let body = request.send().await.expect("an answer").bytes().await.expect("a manifest");
    serde_json::from_slice(&body).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pushed_actor_is_started_by_a_host_and_pulled_again() {
    let (server, registry, dir) =
        (Server::shared().await, RegistryServer::start().await, workshop());
    let dir = dir.path();
    let signed = json(dir, &["claims", "sign", "echo.wasm", "-q", "--rev", "1"]);
    let image = registry.image("team/echo:0.1.0");
    fs::write(dir.join("config.json"), r#"{"note":"hello"}"#).unwrap();
    let push =
        ["push", &image, "echo_s.wasm", "--insecure", "-a", "org.example.a=1", "-c", "config.json"];
    let told = json(dir, &push);
    let digest = text(&told, "/digest");
    assert_eq!(text(&told, "/url"), image);
    let found = manifest(&registry, "team/echo", "0.1.0").await;
    assert_eq!(found["config"]["mediaType"], "application/vnd.wasmcloud.actor.archive.config");
    assert_eq!(found["config"]["size"], r#"{"note":"hello"}"#.len());
    assert_eq!(found["layers"][0]["mediaType"], ACTOR_LAYER);
    assert_eq!(found["annotations"]["org.example.a"], "1");
    let again = output(&mut ann(dir, &push));
    assert!(stderr(&again).contains("had the content already"), "{}", stderr(&again));

    let host = host(&server).own_cache().set("allowed_insecure", registry.address()).start().await;
    let mut events = Events::all(&server).await;
    ctl_2024(&server).await.scale_actor(&host.id, &image, 1, None).await.unwrap();
    assert_eq!(
        text(&events.next("actors_started").await, "/data/public_key"),
        text(&signed, "/module")
    );
    let caller = Caller::new(&server).await;
    let request = http_request("GET", "/", b"");
    caller.call(text(&signed, "/module"), "HttpServer.HandleRequest", request).await.unwrap();
    host.stop().await;

    let told = json(dir, &["reg", "ping", &image, "--insecure"]);
    assert_eq!((text(&told, "/result"), text(&told, "/digest")), ("Pong!", digest));
    let pulled = json(
        dir,
        &["pull", "team/echo:0.1.0", "-r", registry.address(), "--insecure", "-d", digest],
    );
    assert_eq!((text(&pulled, "/file"), text(&pulled, "/digest")), ("echo.wasm", digest));
    let same = |file: &str| {
        fs::read(dir.join(file)).unwrap() == fs::read(dir.join("echo_s.wasm")).unwrap()
    };
    assert!(same("echo.wasm"));
    let wrong = format!("sha256:{}", "0".repeat(64));
    let pull = ["reg", "pull", &image, "--insecure", "--destination", "new.wasm"];
    assert!(refused(dir, 1, &[&pull[..], &["-d", &wrong]].concat()).contains(digest));
    assert!(!dir.join("new.wasm").exists());
    let loud =
        output(&mut ann(dir, &[&pull[..], &["-d", digest.trim_start_matches("sha256:")]].concat()));
    assert!(loud.status.success() && same("new.wasm"), "{}", stderr(&loud));
    let told = json(dir, &["inspect", &image, "--insecure", "--no-cache", "--digest", digest]);
    assert_eq!((text(&told, "/digest"), &told["module"]), (digest, &signed["module"]));
    assert!(
        refused(dir, 1, &["inspect", &image, "--insecure", "--digest", &wrong]).contains(digest)
    );

    let missing = registry.image("team/none:1");
    assert!(refused(dir, 1, &["reg", "ping", &missing, "--insecure"]).contains("no such image"));
    assert!(refused(dir, 1, &["push", &image, "echo_s.wasm"]).contains("--insecure"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_host_would_start_is_not_pushed_and_latest_only_on_demand() {
    let (registry, dir) = (RegistryServer::start().await, workshop());
    let dir = dir.path();
    fs::write(dir.join("page.html"), "<html>").unwrap();
    let image = registry.image("x:1");
    for (file, advice) in [("plain.wasm", "host claims sign"), ("page.html", "host par create")] {
        let said = refused(dir, 1, &["push", &image, file, "--insecure"]);
        assert!(said.contains(file) && said.contains(advice), "{said}");
    }
    let latest = registry.image("x:latest");
    assert!(
        refused(dir, 1, &["push", &latest, "echo.wasm", "--insecure"]).contains("allow_latest")
    );
    json(dir, &["push", &latest, "echo.wasm", "--insecure", "--allow-latest"]);
    json(
        dir,
        &["pull", &registry.image("x"), "--insecure", "--allow-latest", "--destination", "."],
    );
    assert!(dir.join("x.wasm").exists());
    assert!(refused(dir, 2, &["push", "x:1", "echo.wasm"]).contains("--registry"));
    let digest = format!("{}@sha256:{}", registry.image("x"), "0".repeat(64));
    assert!(refused(dir, 1, &["push", &digest, "echo.wasm", "--insecure"]).contains("tag"));
    assert!(
        refused(dir, 2, &["push", &image, "echo.wasm", "--insecure", "-a", "odd"])
            .contains("KEY=VALUE")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_pushed_with_a_login_from_wherever_it_comes() {
    let (registry, dir) = (RegistryServer::with_login().await, workshop());
    let dir = dir.path();
    create(dir, &[]);
    let image = registry.image("acme:0.2.0");
    let push = ["push", &image, "acme.par", "--insecure"];
    let said = refused(dir, 1, &push);
    assert!(said.contains("refuses access without a login") && said.contains("--user"), "{said}");
    let said = refused(dir, 1, &[&push[..], &["-u", USER, "-p", "wrong-word"]].concat());
    assert!(
        said.contains("the login of --user and --password") && !said.contains("wrong-word"),
        "{said}"
    );
    assert!(refused(dir, 2, &[&push[..], &["-u", USER]].concat()).contains("--password"));

    json(dir, &[&push[..], &["-u", USER, "-p", PASSWORD]].concat());
    let of_flags = output(
        ann(dir, &["pull", &image, "--insecure", "--destination", "a.par"])
            .env("WASH_REG_USER", USER)
            .env("WASH_REG_PASSWORD", PASSWORD),
    );
    assert!(of_flags.status.success(), "{}", stderr(&of_flags));
    assert!(stderr(&of_flags).contains("pulling"), "{}", stderr(&of_flags));
    let of_settings = output(
        ann(dir, &["pull", "acme:0.2.0", "--insecure"])
            .env("OCI_REGISTRY", registry.address())
            .env("OCI_REGISTRY_USER", USER)
            .env("OCI_REGISTRY_PASSWORD", PASSWORD),
    );
    assert!(of_settings.status.success(), "{}", stderr(&of_settings));
    fs::create_dir(dir.join("home/.docker")).unwrap();
    // "user:pass" in base64.
    let login = format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#, registry.address());
    fs::write(dir.join("home/.docker/config.json"), login).unwrap();
    let told = json(dir, &["inspect", &image, "--insecure"]);
    assert_eq!(text(&told, "/kind"), "provider");
    assert_eq!(text(&json(dir, &["pull", &image, "--insecure"]), "/file"), "acme.par");
    ProviderArchive::try_load_file(dir.join("acme.par")).await.unwrap();
    let manifest: HashMap<String, Value> = {
        let url = format!("http://{}/v2/acme/manifests/0.2.0", registry.address());
        let request = reqwest::Client::new().get(url).basic_auth(USER, Some(PASSWORD));
        let request = request.header("accept", "application/vnd.oci.image.manifest.v1+json");
        serde_json::from_slice(&request.send().await.unwrap().bytes().await.unwrap()).unwrap()
    };
    assert_eq!(manifest["layers"][0]["mediaType"], PROVIDER_LAYER);
    assert_eq!(
        manifest["config"]["mediaType"],
        "application/vnd.wasmcloud.provider.archive.config"
    );
}

#[test]
fn caches_are_thrown_away_and_executables_kept_while_a_host_runs() {
    let dir = workshop();
    let dir = dir.path();
    // The directories are made by the first command.
    assert_eq!(json(dir, &["cache", "clear"])["drained"], serde_json::json!([]));
    let home = dir.join("home");
    let dirs = Dirs::find(&Vec::<(String, String)>::new(), Some(&home));
    let fill = || {
        for (cache, file) in [
            (dirs.images(), "blobs/sha256/aa"),
            (dirs.compiled_code(), "bb"),
            (dirs.executables(), "cc"),
        ] {
            let path = cache.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"0123456789").unwrap();
        }
    };
    let left = || {
        [
            dirs.images().join("blobs/sha256/aa"),
            dirs.compiled_code().join("bb"),
            dirs.executables().join("cc"),
        ]
        .map(|path| path.exists())
    };
    fill();
    let told = json(dir, &["drain", "oci"]);
    assert_eq!(words(&told, "drained"), [dirs.images().display().to_string()]);
    assert_eq!((told["bytes"].as_u64(), left()), (Some(10), [false, true, true]));
    assert_eq!(json(dir, &["drain", "smithy"])["drained"], serde_json::json!([]));

    fill();
    let listed = json(dir, &["cache"]);
    let listed = listed["caches"].as_array().unwrap();
    assert_eq!(
        listed.iter().map(|cache| cache["bytes"].as_u64()).collect::<Vec<_>>(),
        [Some(10); 3]
    );
    assert_eq!(left(), [true; 3], "a list removes nothing");
    let presence = Presence::announce(&presence_dir(&dirs), "NABC").unwrap();
    let all = output(&mut ann(dir, &["drain", "all"]));
    assert!(all.status.success() && stderr(&all).contains("NABC"), "{}", stderr(&all));
    assert_eq!(left(), [false, false, true]);
    drop(presence);
    assert_eq!(json(dir, &["drain", "lib"])["bytes"], 10);
    assert_eq!(left(), [false, false, false]);
    assert!(dirs.executables().is_dir());
}
