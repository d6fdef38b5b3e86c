//! Images of a real registry: names, logins, TLS, the cache and what is said when something is
//! wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use bytes::Bytes;
use lattice_base::{
    budget::Budget,
    config::{OciCredentials, Secret},
    registry::{
        FetchError, Registry, Settings,
        credentials::{Logins, Place, Registries},
        problem::{Problem, PullError},
    },
};
use tempfile::TempDir;

use crate::harness::{
    CLUSTER_SEED, ECHO, Events, Server,
    client::{Caller, ctl_2024, http_request},
    eventually, example, host,
    nats::free_port,
    pki::Authority,
    registry::{ACTOR_LAYER, Gateway, PASSWORD, RegistryServer, USER},
    share_compiled_code, text,
};

/// Settings that reach `registry` over plain HTTP and keep images in `dir`.
fn settings(registry: &str, dir: &Path) -> Settings {
    Settings {
        allow_files: false,
        allow_latest: false,
        allowed_insecure: vec![registry.to_owned()],
        ca: None,
        pull_timeout: Duration::from_secs(20),
        cache_dir: dir.join("oci"),
        cache_bytes_max: 1 << 30,
        budget: Budget::default(),
        logins: Logins {
            given: None,
            lattice: Registries::default(),
            settings: None,
            docker: None,
        },
        token_hosts: Vec::new(),
    }
}

fn module(name: &str) -> Bytes {
    fs::read(example(name).trim_start_matches("file://")).expect("the example actor").into()
}

fn lattice_login(registry: &str, json: &str) -> Registries {
    let registries = Registries::default();
    registries.add(serde_json::from_str(&format!(r#"{{"{registry}":{json}}}"#)).unwrap()).unwrap();
    registries
}

/// The problem of a pull that must fail, and its text.
async fn refusal(registry: &Registry, image: &str) -> (String, std::sync::Arc<PullError>) {
    match registry.fetch(image).await {
        Err(FetchError::Pull(error)) => (error.to_string(), error),
        other => panic!("{:?}", other.map(|content| content.len())),
    }
}

fn blobs(dir: &Path) -> Vec<PathBuf> {
    let blobs = fs::read_dir(dir.join("oci/blobs/sha256")).unwrap();
    blobs.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn an_actor_starts_from_a_registry_by_tag_and_by_digest() {
    let (server, registry) = (Server::shared().await, RegistryServer::start().await);
    let digest = registry.push_actor("actors/echo:0.1.0", "echo").await;
    let host = host(&server).own_cache().set("allowed_insecure", registry.address()).start().await;
    let ctl = ctl_2024(&server).await;
    let mut events = Events::all(&server).await;
    let caller = Caller::new(&server).await;
    // In any case and with a scheme, which events repeat as they were.
    let by_tag = format!("oci://{}", registry.image("Actors/Echo:0.1.0"));
    for reference in [by_tag, registry.image(&format!("actors/echo@{digest}"))] {
        let bids = ctl.perform_actor_auction(&reference, Default::default()).await.unwrap();
        assert_eq!(bids.len(), 1, "no bid for {reference}");
        assert!(ctl.scale_actor(&host.id, &reference, 1, None).await.unwrap().accepted);
        let started = events.next("actors_started").await;
        assert_eq!(text(&started, "/data/image_ref"), reference);
        caller.call(ECHO, "HttpServer.HandleRequest", http_request("GET", "/", b"")).await.unwrap();
        assert!(ctl.scale_actor(&host.id, &reference, 0, None).await.unwrap().accepted);
        events.next("actors_stopped").await;
    }
    let vague = registry.image("actors/echo:latest");
    assert!(ctl.perform_actor_auction(&vague, Default::default()).await.unwrap().is_empty());
    ctl.scale_actor(&host.id, &vague, 1, None).await.unwrap();
    let failed = events.next("actor_start_failed").await;
    assert!(text(&failed, "/data/error").contains("WASMCLOUD_OCI_ALLOW_LATEST"), "{failed}");
    host.stop().await;
}

#[tokio::test]
async fn a_login_put_into_the_lattice_opens_a_registry_at_once() {
    let (server, registry) = (Server::shared().await, RegistryServer::with_login().await);
    registry.push_actor("echo:1", "echo").await;
    let host = host(&server).own_cache().set("allowed_insecure", registry.address()).start().await;
    let mut events = Events::all(&server).await;
    let ctl = ctl_2024(&server).await;
    ctl.scale_actor(&host.id, &registry.image("echo:1"), 1, None).await.unwrap();
    let failed = events.next("actor_start_failed").await;
    let error = text(&failed, "/data/error");
    for part in [
        registry.address(),
        "/echo:1",
        "refuses access without a login",
        "docker login",
        "oci_user",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
    let nats = crate::harness::client::nats(&server).await;
    let body = serde_json::json!({format!("oci://{}/echo", registry.address()): {"registryType": "oci",
        "username": USER, "password": PASSWORD}});
    nats.request(server.ctl("registries.put"), body.to_string().into()).await.unwrap();
    ctl.scale_actor(&host.id, &registry.image("echo:1"), 1, None).await.unwrap();
    assert_eq!(text(&events.next("actors_started").await, "/data/public_key"), ECHO);
    host.stop().await;
}

#[tokio::test]
async fn logins_of_settings_and_of_docker_are_used_and_never_shown() {
    let (registry, dir) = (RegistryServer::with_login().await, TempDir::new().unwrap());
    registry.push_actor("echo:1", "echo").await;
    let image = registry.image("echo:1");
    let with = |settings: Option<OciCredentials>, docker: Option<PathBuf>, lattice: Registries| {
        let mut all = self::settings(registry.address(), dir.path());
        all.cache_bytes_max = 0;
        all.logins = Logins { given: None, lattice, settings, docker };
        Registry::new(all)
    };
    let own = |password: &str| {
        let (registry, user) = (registry.address().to_owned(), USER.to_owned());
        Some(OciCredentials { registry, user, password: Secret::new(password) })
    };
    let docker = dir.path().join("config.json");
    // "user:pass" in base64.
    fs::write(
        &docker,
        format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#, registry.address()),
    )
    .unwrap();

    assert_eq!(
        with(own(PASSWORD), None, Registries::default()).fetch(&image).await.unwrap(),
        module("echo")
    );
    assert_eq!(
        with(None, Some(docker), Registries::default()).fetch(&image).await.unwrap(),
        module("echo")
    );
    let (text, error) =
        refusal(&with(own("wrong-word"), None, Registries::default()), &image).await;
    assert_eq!(error.problem, Problem::Refused(Place::Settings));
    assert!(!text.contains("wrong-word"), "{text}");
    // The lattice's login counts before the one of the settings, right or wrong.
    let lattice = lattice_login(registry.address(), r#"{"username":"user","password":"wrong"}"#);
    let (_, error) = refusal(&with(own(PASSWORD), None, lattice), &image).await;
    assert_eq!(error.problem, Problem::Refused(Place::Lattice));
}

/// In a process of its own, because helpers are found in the PATH.
#[tokio::test]
async fn a_credential_helper_of_docker_is_asked() {
    let (server, registry) = (Server::shared().await, RegistryServer::with_login().await);
    registry.push_actor("echo:1", "echo").await;
    let dir = TempDir::new().unwrap();
    let helper = dir.path().join("docker-credential-tests");
    // Helpers read the registry's name: one that ends before it was written is told as one that
    // cannot be spoken to.
    let script = format!(
        "#!/bin/sh\ncat >/dev/null\necho '{{\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}'\n"
    );
    let draft = dir.path().join("draft");
    fs::write(&draft, script).unwrap();
    // By another process: one that this program has open for writing, if only in a fork of another
    // test, cannot be run.
    let installed =
        std::process::Command::new("install").args(["-m", "755"]).arg(&draft).arg(&helper).status();
    assert!(installed.unwrap().success());
    fs::create_dir(dir.path().join(".docker")).unwrap();
    let config = format!(r#"{{"credHelpers":{{"{}":"tests"}}}}"#, registry.address());
    fs::write(dir.path().join(".docker/config.json"), config).unwrap();
    share_compiled_code(&dir.path().join(".cache/lattice-host"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(
        std::iter::once(dir.path().to_owned()).chain(std::env::split_paths(&path)),
    );
    let _host = tokio::process::Command::new(env!("CARGO_BIN_EXE_host"))
        .args([
            "foreground",
            "--js-domain",
            "core",
            "--cluster-seed",
            CLUSTER_SEED,
            "--nats-host",
            &server.url(),
            "--lattice-prefix",
            server.lattice(),
        ])
        .args(["--allowed-insecure", registry.address()])
        .env_clear()
        .env("PATH", path.unwrap())
        .env("HOME", dir.path())
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let ctl = ctl_2024(&server).await;
    let id = eventually("the host answers", || async {
        Some(ctl.get_hosts().await.ok()?.first()?.id.clone())
    })
    .await;
    let mut events = Events::only(&server, "actors_started").await;
    ctl.scale_actor(&id, &registry.image("echo:1"), 1, None).await.unwrap();
    assert_eq!(text(&events.next("actors_started").await, "/data/public_key"), ECHO);
}

#[tokio::test]
async fn a_token_is_got_for_the_login_and_a_wrong_one_is_not_answered_from_the_cache() {
    let (registry, dir) = (RegistryServer::start().await, TempDir::new().unwrap());
    registry.push_actor("team/echo:1", "echo").await;
    let gateway = Gateway::start(&registry).await;
    let image = format!("{}/team/echo:1", gateway.address());
    let with = |login: &str| {
        let mut all = settings(gateway.address(), dir.path());
        all.logins.lattice = lattice_login(gateway.address(), login);
        Registry::new(all)
    };
    let known = with(r#"{"username":"user","password":"pass"}"#);
    assert_eq!(known.fetch(&image).await.unwrap(), module("echo"));
    let bearer = with(r#"{"token":"let-me-in"}"#);
    assert_eq!(bearer.fetch(&image).await.unwrap(), module("echo"));

    let stranger = with(r#"{"username":"user","password":"wrong"}"#);
    assert_eq!(refusal(&stranger, &image).await.1.problem, Problem::Refused(Place::Lattice));
    let odd = with(r#"{"token":"line\nbreak"}"#);
    let other = format!("{}/team/other:1", gateway.address());
    assert!(matches!(refusal(&odd, &other).await.1.problem, Problem::Setup(_)));

    gateway.answer_only(503);
    assert_eq!(known.fetch(&image).await.unwrap(), module("echo"));
    assert!(matches!(refusal(&known, &other).await.1.problem, Problem::Status { code: 503, .. }));
    gateway.answer_only(403);
    assert_eq!(refusal(&known, &image).await.1.problem, Problem::Refused(Place::Lattice));
}

#[tokio::test]
async fn a_certificate_is_trusted_when_its_authority_is_named() {
    let dir = TempDir::new().unwrap();
    let authority = Authority::new(dir.path(), "private");
    let registry = RegistryServer::with_tls(dir.path(), &authority).await;
    let plain = RegistryServer::start().await;
    registry.push_actor("echo:1", "echo").await;
    let image = registry.image("echo:1");
    let with = |insecure: &str, ca: Option<PathBuf>| {
        Registry::new(Settings { ca, ..settings(insecure, dir.path()) })
    };
    let trusting = with("elsewhere", Some(authority.certificate.clone()));
    assert_eq!(trusting.fetch(&image).await.unwrap(), module("echo"));

    let mut wary = settings("elsewhere", dir.path());
    wary.cache_bytes_max = 0;
    let wary = Registry::new(wary);
    let (text, error) = refusal(&wary, &image).await;
    assert!(matches!(error.problem, Problem::Untrusted(_)), "{error:?}");
    assert!(text.contains("WASMCLOUD_OCI_CA") && text.contains("allowed_insecure"), "{text}");
    let (text, error) = refusal(&wary, &plain.image("echo:1")).await;
    assert_eq!(error.problem, Problem::NotTls);
    assert!(text.contains(&format!("list {} in allowed_insecure", plain.address())), "{text}");
    let (_, error) = refusal(&with(registry.address(), None), &registry.image("other:1")).await;
    assert_eq!(error.problem, Problem::Tls);
    // `http://` before a reference is no permission.
    let (_, error) = refusal(&wary, &format!("http://{}", plain.image("echo:1"))).await;
    assert_eq!(error.problem, Problem::NotTls);
}

#[tokio::test]
async fn only_a_host_that_allows_it_takes_the_latest() {
    let (registry, dir) = (RegistryServer::start().await, TempDir::new().unwrap());
    registry.push_actor("echo:latest", "echo").await;
    let mut all = settings(registry.address(), dir.path());
    all.allow_latest = true;
    let allowing = Registry::new(all);
    let strict = Registry::new(settings(registry.address(), dir.path()));
    for name in ["echo", "echo:latest"] {
        assert_eq!(allowing.fetch(&registry.image(name)).await.unwrap(), module("echo"));
        assert!(matches!(strict.fetch(&registry.image(name)).await, Err(FetchError::Image(_))));
    }
}

#[tokio::test]
async fn a_registry_that_is_away_is_replaced_by_the_cache_and_one_that_answers_is_not() {
    let (mut registry, dir) = (RegistryServer::start().await, TempDir::new().unwrap());
    registry.push_actor("echo:1", "echo").await;
    let digest = registry.push_actor("pinger:1", "pinger").await;
    let fetcher = Registry::new(settings(registry.address(), dir.path()));
    let (echo, pinger) = (registry.image("echo:1"), registry.image(&format!("pinger@{digest}")));
    fetcher.fetch(&echo).await.unwrap();
    fetcher.fetch(&pinger).await.unwrap();
    registry.downloaded(2).await;
    // Unchanged: only the manifest is asked for.
    assert_eq!(fetcher.fetch(&echo).await.unwrap(), module("echo"));
    registry.downloaded(2).await;
    // Changed: the new content is fetched, not the known one served.
    registry.push_actor("echo:1", "ponger").await;
    assert_eq!(fetcher.fetch(&echo).await.unwrap(), module("ponger"));
    registry.downloaded(3).await;

    registry.stop();
    assert_eq!(fetcher.fetch(&echo).await.unwrap(), module("ponger"));
    assert_eq!(fetcher.fetch(&pinger).await.unwrap(), module("pinger"));
    let began = Instant::now();
    let (text, error) = refusal(&fetcher, &registry.image("unknown:1")).await;
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(matches!(error.problem, Problem::Unreachable(_)), "{error:?}");
    assert!(text.contains(&registry.image("unknown:1")) && text.contains("refused"), "{text}");

    // It runs again and does not know the image any more: that is an answer. A digest still names
    // what we have.
    registry.wipe().await;
    assert_eq!(refusal(&fetcher, &echo).await.1.problem, Problem::Missing);
    assert_eq!(fetcher.fetch(&pinger).await.unwrap(), module("pinger"));
}

#[tokio::test]
async fn a_registry_that_accepts_and_says_nothing_is_given_up_in_time() {
    let (dir, listener) =
        (TempDir::new().unwrap(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let address = listener.local_addr().unwrap().to_string();
    let mut all = settings(&address, dir.path());
    all.pull_timeout = Duration::from_millis(300);
    let (text, error) = refusal(&Registry::new(all), &format!("{address}/echo:1")).await;
    assert!(matches!(error.problem, Problem::Deadline(_)), "{error:?}");
    assert!(text.contains("300 ms") && text.contains("pull_timeout_ms"), "{text}");
}

#[tokio::test]
async fn names_nobody_knows_and_ports_nobody_listens_on_are_told_apart() {
    let dir = TempDir::new().unwrap();
    let fetcher = Registry::new(settings("", dir.path()));
    let (text, error) = refusal(&fetcher, "no-such-registry.invalid/echo:1").await;
    // A machine without any DNS may try for longer than a connection may take.
    let told =
        matches!(error.problem, Problem::Unresolved(_)) || text.contains("no connection within");
    assert!(told, "{text}");
    let (text, error) = refusal(&fetcher, &format!("127.0.0.1:{}/echo:1", free_port())).await;
    assert!(matches!(error.problem, Problem::Unreachable(_)), "{text}");
}

#[tokio::test]
async fn damaged_content_of_the_cache_is_fetched_again() {
    let (registry, dir) = (RegistryServer::start().await, TempDir::new().unwrap());
    registry.push_actor("echo:1", "echo").await;
    let fetcher = Registry::new(settings(registry.address(), dir.path()));
    fetcher.fetch(&registry.image("echo:1")).await.unwrap();
    for path in blobs(dir.path()) {
        let mut content = fs::read(&path).unwrap();
        content[5] ^= 1;
        fs::write(&path, content).unwrap();
    }
    assert_eq!(fetcher.fetch(&registry.image("echo:1")).await.unwrap(), module("echo"));
    registry.downloaded(2).await;
    assert_eq!(fetcher.fetch(&registry.image("echo:1")).await.unwrap(), module("echo"));
    registry.downloaded(2).await;
}

#[tokio::test]
async fn the_cache_keeps_to_its_size() {
    let (registry, dir) = (RegistryServer::start().await, TempDir::new().unwrap());
    let mut all = settings(registry.address(), dir.path());
    all.cache_bytes_max = 250_000;
    let fetcher = Registry::new(all);
    for (number, byte) in [(1, 1_u8), (2, 2), (3, 3)] {
        let name = format!("part:{number}");
        registry
            .push(&name, &[(ACTOR_LAYER, &vec![byte; 100_000])], "application/octet-stream")
            .await;
        assert_eq!(fetcher.fetch(&registry.image(&name)).await.unwrap().len(), 100_000);
    }
    let size: u64 = blobs(dir.path()).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!((200_000..=250_000).contains(&size), "{size}");
    // The last one is here, the first one is not.
    registry.downloaded(3).await;
    fetcher.fetch(&registry.image("part:3")).await.unwrap();
    registry.downloaded(3).await;
    fetcher.fetch(&registry.image("part:1")).await.unwrap();
    registry.downloaded(4).await;
}

#[tokio::test]
async fn requests_for_one_image_at_a_time_share_one_pull() {
    let (registry, dir) = (RegistryServer::start().await, TempDir::new().unwrap());
    registry.push_actor("echo:1", "echo").await;
    let mut all = settings(registry.address(), dir.path());
    all.cache_bytes_max = 0;
    let fetcher = Registry::new(all);
    let (image, shouted) = (registry.image("echo:1"), registry.image("ECHO:1"));
    let (first, second) = tokio::join!(fetcher.fetch(&image), fetcher.fetch(&shouted));
    assert_eq!(first.unwrap(), second.unwrap());
    registry.downloaded(1).await;
    // Later ones do not get an old answer.
    fetcher.fetch(&image).await.unwrap();
    registry.downloaded(2).await;
}

#[tokio::test]
async fn archives_parts_and_platforms_are_put_together_and_containers_refused() {
    let (registry, dir) = (RegistryServer::start().await, TempDir::new().unwrap());
    let fetcher = Registry::new(settings(registry.address(), dir.path()));
    let digest = registry.push_provider("provider:1", b"an archive").await;
    assert_eq!(fetcher.fetch(&registry.image("provider:1")).await.unwrap(), "an archive");
    let layers: [(&str, &[u8]); 3] = [
        ("application/wasm", b"one "),
        ("application/octet-stream", b"two "),
        (ACTOR_LAYER, b"three"),
    ];
    let parts = registry.push("provider:parts", &layers, "application/octet-stream").await;
    assert_eq!(fetcher.fetch(&registry.image("provider:parts")).await.unwrap(), "one two three");

    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    registry
        .push_index(
            "provider:all",
            &[(&parts, "plan9", "386"), (&digest, std::env::consts::OS, arch)],
        )
        .await;
    assert_eq!(fetcher.fetch(&registry.image("provider:all")).await.unwrap(), "an archive");
    registry.push_index("provider:only", &[(&parts, "wasip1", "wasm")]).await;
    assert_eq!(fetcher.fetch(&registry.image("provider:only")).await.unwrap(), "one two three");
    registry
        .push_index("provider:foreign", &[(&parts, "plan9", "386"), (&digest, "plan9", "arm")])
        .await;
    let (text, _) = refusal(&fetcher, &registry.image("provider:foreign")).await;
    assert!(text.contains("only for plan9/386, plan9/arm"), "{text}");

    let layer: [(&str, &[u8]); 1] = [("application/vnd.docker.image.rootfs.diff.tar.gzip", b"x")];
    registry.push("container:1", &layer, "application/vnd.docker.container.image.v1+json").await;
    let (_, error) = refusal(&fetcher, &registry.image("container:1")).await;
    assert!(matches!(error.problem, Problem::MediaType(_)), "{error:?}");
}
