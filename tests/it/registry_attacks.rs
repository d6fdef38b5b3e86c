//! Registries that mean harm: what they send is bounded, what they say is checked, and no login
//! goes where it does not belong.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hyper::Response;
use lattice_base::{
    budget::Budget,
    config::Secret,
    registry::{
        FetchError, Registry, Settings,
        credentials::{Credentials, Logins, Registries},
        digest::Digest,
        problem::Problem,
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{
    Server,
    client::ctl_2024,
    eventually, example, host,
    hostile::{Body, Hostile, endless, plain, stuck, with},
    registry::{ACTOR_LAYER, RegistryServer},
};

const CONTENT: &[u8] = b"the bytes of a module";

fn settings(registry: &str, dir: &Path, login: bool) -> Settings {
    let basic = Credentials::Basic { username: "u".into(), password: Secret::new("S3CRET") };
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
            given: login.then_some(basic),
            lattice: Registries::default(),
            settings: None,
            docker: None,
        },
        token_hosts: Vec::new(),
    }
}

fn manifest(digest: &str, size: i64, count: usize) -> Value {
    let layer = json!({"mediaType": ACTOR_LAYER, "digest": digest, "size": size,
        "urls": ["http://169.254.169.254/latest"]});
    json!({"schemaVersion": 2, "layers": vec![layer; count],
        "config": {"mediaType": "x", "digest": Digest::of(b"{}").to_string(), "size": 2}})
}

/// An image whose manifest is `manifest` and whose only content is `content`.
fn image(path: &str, manifest: &Value, content: &'static [u8]) -> Response<Body> {
    match path {
        path if path.contains("/manifests/") => plain(200, manifest.to_string()),
        path if path.contains("/blobs/") => plain(200, content),
        _ => plain(200, "{}"),
    }
}

/// Pulls `team/echo:1` and returns what came of it.
async fn pull(hostile: &Hostile, login: bool) -> Result<Bytes, Problem> {
    let dir = TempDir::new().unwrap();
    let registry = Registry::new(settings(&hostile.address(), dir.path(), login));
    match registry.fetch(&format!("{}/team/echo:1", hostile.address())).await {
        Ok(content) => Ok(content),
        Err(FetchError::Pull(error)) => Err(match Arc::try_unwrap(error) {
            Ok(error) => error.problem,
            Err(error) => panic!("shared: {error}"),
        }),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn manifests_and_content_that_do_not_belong_together_are_refused() {
    let right = Digest::of(CONTENT).to_string();
    let size = CONTENT.len() as i64;
    let cases = [
        ("as it should be", manifest(&right, size, 1), true),
        ("a size that is larger than the content", manifest(&right, size + 5, 1), true),
        ("a size that is smaller", manifest(&right, size - 5, 1), false),
        ("a size below nothing", manifest(&right, -1, 1), false),
        ("a size of a tebibyte", manifest(&right, 1 << 40, 1), false),
        ("a digest of other content", manifest(&Digest::of(b"other").to_string(), size, 1), false),
        ("a digest that leads out", manifest("sha256:../../../../etc/passwd", size, 1), false),
        ("a digest of another kind", manifest(&format!("md5:{}", "0".repeat(32)), size, 1), false),
        ("more layers than a module has", manifest(&right, size, 20_000), false),
        (
            "an index that leads to itself",
            json!({"schemaVersion": 2, "manifests": [{"mediaType":
                "application/vnd.oci.image.manifest.v1+json", "size": 1, "digest": right}]}),
            false,
        ),
    ];
    for (what, manifest, is_taken) in cases {
        let hostile = Hostile::start(move |path, _| image(path, &manifest, CONTENT)).await;
        let pulled = pull(&hostile, false).await;
        assert_eq!(pulled.is_ok(), is_taken, "{what}: {pulled:?}");
        let elsewhere = hostile.asked().iter().any(|asked| asked.path.contains("latest"));
        assert!(!elsewhere, "{what}: an address of the manifest was asked");
    }
    let lying = Hostile::start(move |path, _| {
        let body = manifest(&Digest::of(CONTENT).to_string(), CONTENT.len() as i64, 1);
        let wrong = Digest::of(b"another manifest").to_string();
        with(image(path, &body, CONTENT), "docker-content-digest", &wrong)
    })
    .await;
    assert_eq!(pull(&lying, false).await, Err(Problem::Digest));
}

#[tokio::test]
async fn content_that_stands_in_several_places_is_fetched_once() {
    let body = manifest(&Digest::of(CONTENT).to_string(), CONTENT.len() as i64, 3);
    let hostile = Hostile::start(move |path, _| image(path, &body, CONTENT)).await;
    assert_eq!(pull(&hostile, false).await.unwrap(), CONTENT.repeat(3));
    let fetched = hostile.asked().iter().filter(|asked| asked.path.contains("/blobs/")).count();
    assert_eq!(fetched, 1);
}

#[tokio::test]
async fn an_answer_without_end_is_given_up_whatever_it_is() {
    for endless_at in ["/manifests/", "/token", "/blobs/", "refusal"] {
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let hostile = Hostile::start(move |path: &str, own: SocketAddr| {
            let challenge = format!("Bearer realm=\"http://{own}/token\"");
            match path {
                path if path.contains(endless_at) => endless(200, Arc::clone(&counted)),
                "/v2/" => with(plain(401, ""), "www-authenticate", &challenge),
                path if path.starts_with("/token") => plain(200, r#"{"token":"t"}"#),
                _ if endless_at == "refusal" => endless(404, Arc::clone(&counted)),
                path => {
                    let digest = Digest::of(CONTENT).to_string();
                    image(path, &manifest(&digest, CONTENT.len() as i64, 1), CONTENT)
                }
            }
        })
        .await;
        assert!(pull(&hostile, false).await.is_err(), "{endless_at}");
        // The bytes in the buffers of both ends of the connection count, too, not only those that
        // were read.
        let sent = sent.load(Ordering::Relaxed);
        assert!((1..64).contains(&sent), "{endless_at}: {sent} MiB were taken");
    }
}

#[tokio::test]
async fn a_login_is_shown_to_no_server_that_a_registry_names() {
    let thief = Hostile::start(|_, _| plain(200, r#"{"token":"t"}"#)).await;
    // Another name of this machine is another host.
    let realm = format!("http://localhost:{}/token", thief.address().rsplit_once(':').unwrap().1);
    for realm in [realm, "http://169.254.169.254/token".to_owned()] {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\"");
        let hostile = Hostile::start(move |path, _| match path {
            "/v2/" => with(plain(401, ""), "www-authenticate", &challenge),
            _ => plain(404, ""),
        })
        .await;
        let refused = pull(&hostile, true).await.expect_err("the realm is another host");
        assert!(matches!(refused, Problem::Realm { .. }), "{refused:?}");
        assert!(refused.text("r").contains("oci_token_hosts"), "{}", refused.text("r"));
    }
    assert!(thief.asked().is_empty());
}

#[tokio::test]
async fn a_server_that_gives_tokens_without_a_login_is_asked_unless_it_is_link_local() {
    for (realm, is_asked) in [("/token", true), ("http://169.254.169.254/token", false)] {
        let hostile = Hostile::start(move |path: &str, own: SocketAddr| {
            let realm = if is_asked { format!("http://{own}{realm}") } else { realm.to_owned() };
            let challenge = format!("Bearer realm=\"{realm}\"");
            match path {
                "/v2/" => with(plain(401, ""), "www-authenticate", &challenge),
                path if path.starts_with("/token") => plain(200, r#"{"access_token":"t"}"#),
                path => {
                    let digest = Digest::of(CONTENT).to_string();
                    image(path, &manifest(&digest, CONTENT.len() as i64, 1), CONTENT)
                }
            }
        })
        .await;
        assert_eq!(pull(&hostile, false).await.is_ok(), is_asked, "{realm}");
        if is_asked {
            let with_token = |path: &str| {
                hostile.asked().iter().any(|asked| {
                    asked.path.contains(path) && asked.authorization.as_deref() == Some("Bearer t")
                })
            };
            assert!(with_token("/manifests/1") && with_token("/blobs/"));
        }
    }
}

#[tokio::test]
async fn redirects_go_to_web_servers_only_and_take_no_login_along() {
    let other = Hostile::start(|_, _| plain(200, CONTENT)).await;
    let elsewhere = format!("http://localhost:{}/x", other.address().rsplit_once(':').unwrap().1);
    for (location, is_followed) in [
        (elsewhere.as_str(), true),
        ("file:///etc/passwd", false),
        ("http://169.254.169.254/latest", false),
        ("http://[::ffff:a9fe:a9fe]/latest", false),
        ("/v2/team/echo/blobs/again", false),
    ] {
        let location = location.to_owned();
        let hostile = Hostile::start(move |path: &str, _| match path {
            "/v2/" => with(plain(401, ""), "www-authenticate", "Basic realm=\"r\""),
            path if path.contains("/blobs/") => with(plain(307, ""), "location", &location),
            path => {
                let digest = Digest::of(CONTENT).to_string();
                image(path, &manifest(&digest, CONTENT.len() as i64, 1), CONTENT)
            }
        })
        .await;
        assert_eq!(pull(&hostile, true).await.is_ok(), is_followed);
        assert!(hostile.asked().len() < 12, "{:?}", hostile.asked());
        let of_blob = hostile.asked().into_iter().find(|asked| asked.path.contains("/blobs/"));
        assert_eq!(of_blob.unwrap().authorization.as_deref(), Some("Basic dTpTM0NSRVQ="));
    }
    assert!(!other.asked().is_empty());
    assert!(other.asked().iter().all(|asked| asked.authorization.is_none()));
}

#[tokio::test]
async fn starts_of_files_and_of_other_registries_never_wait_for_a_slow_one() {
    let (server, real) = (Server::shared().await, RegistryServer::start().await);
    real.push_actor("echo:1", "echo").await;
    let slow = Hostile::start(|path: &str, _| match path {
        path if path.contains("/manifests/") => stuck(),
        _ => plain(200, "{}"),
    })
    .await;
    let allowed = format!("{},{}", slow.address(), real.address());
    let host = host(&server).own_cache().set("allowed_insecure", &allowed).start().await;
    let ctl = ctl_2024(&server).await;
    for number in 0..8 {
        let reference = format!("{}/team/slow:{number}", slow.address());
        assert!(ctl.scale_actor(&host.id, &reference, 1, None).await.unwrap().accepted);
    }
    eventually("the slow registry is asked", || async {
        let asked = slow.asked();
        let manifests = asked.iter().filter(|asked| asked.path.contains("/manifests/")).count();
        (manifests >= 2).then_some(())
    })
    .await;
    for reference in [real.image("echo:1"), example("ponger")] {
        assert!(ctl.scale_actor(&host.id, &reference, 1, None).await.unwrap().accepted);
        eventually("it runs beside the slow ones", || async {
            let inventory = ctl.get_host_inventory(&host.id).await.ok()?;
            inventory.actors.iter().any(|a| a.image_ref.as_ref() == Some(&reference)).then_some(())
        })
        .await;
    }
    host.stop().await;
}

#[tokio::test]
async fn a_tag_is_asked_for_in_its_own_case_and_then_as_old_tools_pushed_it() {
    let registry = RegistryServer::start().await;
    registry.push_actor("team/echo:1.0.0-RC1", "echo").await;
    registry.push_actor("team/echo:1.0.0-rc1", "ponger").await;
    registry.push_actor("team/old:v1", "pinger").await;
    let dir = TempDir::new().unwrap();
    let registries = Registry::new(settings(registry.address(), dir.path(), false));
    for (image, actor) in [
        ("Team/Echo:1.0.0-RC1", "echo"),
        ("team/echo:1.0.0-rc1", "ponger"),
        ("team/old:V1", "pinger"),
    ] {
        let content = registries.fetch(&registry.image(image)).await.unwrap();
        let path = example(actor);
        let expected = std::fs::read(path.trim_start_matches("file://")).unwrap();
        assert!(content == expected, "{image} is not {actor}");
    }
    let missing = registries.fetch(&registry.image("team/old:V2")).await;
    assert!(matches!(missing, Err(error) if error.is_missing()));
}
