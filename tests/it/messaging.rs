//! The provider for messaging, with a real NATS server and real clients.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use lattice_base::lattice::connection::confirm;
use lattice_engine::{
    providers::builtin::{Link, LinkError, messaging::SPEC},
    rpc::call::CallError,
};
use tempfile::TempDir;
use tokio::{sync::Semaphore, time::Instant};
use wasmbus_rpc::common::{deserialize, serialize};
use wasmcloud_interface_messaging::{PubMessage, ReplyMessage, RequestMessage, SubMessage};

use crate::harness::{
    ECHO, PATIENCE, Server,
    builtin::{self, Closure},
    client, eventually,
    nats::free_port,
    pki::Authority,
};

type Handled = BoxFuture<'static, Result<Bytes, CallError>>;

/// Links an actor that handles messages with `handle`.
async fn try_link<F>(
    server: &Server,
    values: &[(&str, &str)],
    handle: F,
) -> Result<Arc<dyn Link>, LinkError>
where
    F: Fn(SubMessage) -> Handled + Send + Sync + 'static,
{
    let actor = Closure(move |operation: String, argument: Bytes| {
        assert_eq!(operation, "MessageSubscriber.HandleMessage");
        handle(deserialize(&argument).expect("a message of the contract"))
    });
    let dir = TempDir::new().expect("a directory");
    let context = builtin::context(
        server,
        &SPEC,
        dir.path(),
        HashMap::from([(ECHO.into(), Arc::new(actor) as _)]),
    )
    .await;
    (SPEC.build)(context).link(builtin::link(&SPEC, values)).await
}

async fn link<F>(server: &Server, values: &[(&str, &str)], handle: F) -> Arc<dyn Link>
where
    F: Fn(SubMessage) -> Handled + Send + Sync + 'static,
{
    try_link(server, values, handle).await.expect("the link is taken on")
}

/// An actor that handles nothing.
fn deaf(_: SubMessage) -> Handled {
    Box::pin(async { Err(CallError::Callee("deaf".into())) })
}

async fn publish(
    link: &Arc<dyn Link>,
    subject: &str,
    reply_to: Option<&str>,
    body: &[u8],
) -> Result<(), String> {
    let message = PubMessage {
        subject: subject.into(),
        reply_to: reply_to.map(str::to_owned),
        body: body.to_vec(),
    };
    let result =
        builtin::call(link, &SPEC, "Messaging.Publish", serialize(&message).expect("encoded"))
            .await;
    result.map(|nothing| assert!(nothing.is_empty())).map_err(|e| e.to_string())
}

async fn request(
    link: &Arc<dyn Link>,
    subject: &str,
    timeout_ms: u32,
) -> Result<ReplyMessage, String> {
    let message = RequestMessage { subject: subject.into(), body: b"ask".to_vec(), timeout_ms };
    let result =
        builtin::call(link, &SPEC, "Messaging.Request", serialize(&message).expect("encoded"))
            .await;
    result
        .map(|reply| deserialize(&reply).expect("a reply of the contract"))
        .map_err(|e| e.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_hears_answers_publishes_and_asks() {
    let server = Server::start().await;
    let slot: Arc<OnceLock<Arc<dyn Link>>> = Arc::default();
    let own = Arc::clone(&slot);
    let link = link(&server, &[("SUBSCRIPTION", "orders.*, other|group")], move |message| {
        let own = Arc::clone(&own);
        Box::pin(async move {
            let link = own.get().expect("linked before the first message");
            let body = [message.subject.as_bytes(), b" ", &message.body].concat();
            if let Some(reply_to) = &message.reply_to {
                publish(link, reply_to, None, &body).await.map_err(CallError::Callee)?;
            }
            Ok(Bytes::new())
        })
    })
    .await;
    assert!(slot.set(Arc::clone(&link)).is_ok());

    // The link is up, so its subscriptions are: no retry is needed.
    let nats = client::nats(&server).await;
    for subject in ["orders.new", "other"] {
        let reply = nats.request(subject, "hello".into()).await.expect("a reply");
        assert_eq!(reply.payload, format!("{subject} hello"));
    }
    // Asking goes through the actor itself as well.
    let reply = request(&link, "orders.x", 1000).await.expect("a reply");
    assert_eq!(reply.body, b"orders.x ask");

    let mut ears = nats.subscribe("heard").await.expect("subscribed");
    confirm(&nats).await.expect("the server hears for us");
    publish(&link, "heard", Some("back"), b"one").await.expect("published");
    // As TinyGo writes none.
    publish(&link, "heard", Some(""), b"two").await.expect("published");
    let two = async { [ears.next().await.expect("one"), ears.next().await.expect("two")] };
    let heard = tokio::time::timeout(PATIENCE, two).await.expect("both are heard");
    assert_eq!(heard[0].reply.as_deref(), Some("back"));
    assert_eq!((&heard[1].payload[..], heard[1].reply.as_deref()), (&b"two"[..], None));

    let error = request(&link, "nobody.there", 1000).await.unwrap_err();
    assert!(error.contains("nobody listens on nobody.there"), "{error}");
    let began = Instant::now();
    let error = request(&link, "heard", 50).await.unwrap_err();
    assert!(error.contains("within 50 ms") && began.elapsed() < Duration::from_secs(3), "{error}");
    // No time of its own means that of the call.
    assert!(request(&link, "orders.x", 0).await.is_ok());
    let unknown = builtin::call(&link, &SPEC, "Messaging.Other", Vec::new()).await;
    assert_eq!(unknown, Err(CallError::Callee("method not handled Messaging.Other".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_delivered_once_by_all_hosts_together() {
    let server = Server::start().await;
    let bodies: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let handler = |bodies: &Arc<Mutex<Vec<Vec<u8>>>>| {
        let bodies = Arc::clone(bodies);
        move |message: SubMessage| -> Handled {
            bodies.lock().expect("not poisoned").push(message.body);
            Box::pin(async { Ok(Bytes::new()) })
        }
    };
    let one = link(&server, &[("subscription", "work")], handler(&bodies)).await;
    let two = link(&server, &[("subscription", "work")], handler(&bodies)).await;
    let nats = client::nats(&server).await;
    let all: Vec<Vec<u8>> = (0..2000u16).map(|n| n.to_be_bytes().to_vec()).collect();
    let stream = all.clone();
    let stream = tokio::spawn(async move {
        for body in stream {
            nats.publish("work", body.into()).await.expect("published");
            crate::harness::client::settled(&nats).await;
        }
    });
    let count = || bodies.lock().expect("not poisoned").len();
    eventually("both are at work", || async { (count() >= 100).then_some(()) }).await;
    // One host goes while messages come.
    one.end(Instant::now() + PATIENCE).await;
    stream.await.expect("no panic");
    eventually("all messages", || async { (count() >= all.len()).then_some(()) }).await;
    two.end(Instant::now() + PATIENCE).await;
    let mut bodies = bodies.lock().expect("not poisoned").clone();
    bodies.sort();
    assert!(bodies == all, "{} deliveries of {} messages", bodies.len(), all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_its_own_may_need_an_authority_of_its_own() {
    let (lattice, dir) = (Server::start().await, TempDir::new().expect("a directory"));
    let authority = Authority::new(dir.path(), "authority");
    let certified = authority.sign(dir.path(), "server");
    let (certificate, key) = (certified.certificate.display(), certified.key.display());
    let server = Server::with_config(
        None,
        &format!("tls {{ cert_file: \"{certificate}\", key_file: \"{key}\" }}"),
    )
    .await;
    let uri = format!("tls://{}", server.address());
    let file = authority.certificate.to_str().expect("a path");
    let link = link(&lattice, &[("uri", &uri), ("ca_file", file)], deaf).await;
    publish(&link, "a", None, b"").await.expect("published");
    let error =
        try_link(&lattice, &[("uri", &uri)], deaf).await.err().expect("an unknown authority");
    assert!(error.to_string().contains("ca_file"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_had_arrived_when_a_link_ends_is_handled_a_few_at_a_time() {
    let server = Server::start().await;
    let (in_work, most, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let counts = Arc::new((in_work, most, done, Semaphore::new(0)));
    let seen = Arc::clone(&counts);
    let link = link(&server, &[("subscription", "work.>"), ("timeout_ms", "20000")], move |_| {
        let counts = Arc::clone(&seen);
        Box::pin(async move {
            let (in_work, most, done, gate) = &*counts;
            most.fetch_max(in_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            gate.acquire().await.expect("never closed").forget();
            in_work.fetch_sub(1, Ordering::SeqCst);
            done.fetch_add(1, Ordering::SeqCst);
            Ok(Bytes::new())
        })
    })
    .await;
    let nats = client::nats(&server).await;
    for n in 0..300 {
        nats.publish(format!("work.{n}"), Bytes::new()).await.expect("published");
    }
    crate::harness::client::settled(&nats).await;
    eventually("as many in work as may be", || async {
        (counts.0.load(Ordering::SeqCst) == 64).then_some(())
    })
    .await;

    let end = tokio::spawn(Arc::clone(&link).end(Instant::now() + PATIENCE));
    eventually("the link has left", || async {
        let request = async_nats::Request::new().timeout(Some(Duration::from_millis(100)));
        let result = nats.send_request("work.more", request).await;
        result.is_err_and(|e| e.kind() == async_nats::RequestErrorKind::NoResponders).then_some(())
    })
    .await;
    // It can still speak for what it handles.
    publish(&link, "said", None, b"").await.expect("published");
    counts.3.add_permits(1000);
    tokio::time::timeout(PATIENCE, end).await.expect("it ends").expect("no panic");
    let (_, most, done, _) = &*counts;
    assert!(done.load(Ordering::SeqCst) >= 300, "{done:?}");
    assert_eq!(most.load(Ordering::SeqCst), 64);
    // A call that took the link before another one replaced it.
    publish(&link, "said", None, b"").await.expect("published");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lattices_subjects_are_out_of_reach_on_the_hosts_connection() {
    let server = Server::start().await;
    for subject in [">", "*.rpc.>", "wasmbus.>", "$JS.>", "_INBOX.>", "ok,wasmbus.evt.default|g"] {
        let error =
            try_link(&server, &[("subscription", subject)], deaf).await.err().expect(subject);
        assert!(matches!(&error, LinkError::Values(text) if text.contains("uri")), "{error}");
    }
    let closed = link(&server, &[], deaf).await;
    for (subject, reply_to) in [
        ("wasmbus.ctl.default.ping.hosts", None),
        ("$SYS.x", None),
        ("a", Some("wasmbus.rpc.default.M")),
    ] {
        let error = publish(&closed, subject, reply_to, b"").await.unwrap_err();
        assert!(
            error.contains("belongs to the lattice") && error.contains("allow_system_subjects"),
            "{error}"
        );
    }
    assert!(request(&closed, "$JS.API.INFO", 1000).await.is_err());
    for subject in ["", "a b", "a..b", "a.*", "a\r\nPUB b 0\r\n", &"long.".repeat(1000)] {
        let error = publish(&closed, subject, None, b"").await.unwrap_err();
        assert!(error.contains("is invalid"), "{error}");
    }
    let error = publish(&closed, "a", None, &vec![0; 2 << 20]).await.unwrap_err();
    assert!(error.contains("max_payload"), "{error}");

    // A connection of its own to the same server is no way around.
    let same = ("uri", &*server.url());
    for subject in ["wasmbus.evt.>", "$KV.>", "_INBOX.>"] {
        let error =
            try_link(&server, &[same, ("subscription", subject)], deaf).await.err().expect(subject);
        assert!(error.to_string().contains("allow_system_subjects"), "{error}");
    }
    let around = link(&server, &[same, ("subscription", "letters.>")], deaf).await;
    let error = publish(&around, "wasmbus.ctl.default.cmd.N.stop", None, b"{}").await.unwrap_err();
    assert!(error.contains("belongs to the lattice"), "{error}");
    assert!(publish(&around, "letters.a", Some("wasmbus.rpc.default.M"), b"").await.is_err());
    publish(&around, "orders.a", None, b"").await.expect("published");

    let other = Server::start().await;
    let url = other.url();
    for values in [("allow_system_subjects", "true"), ("uri", &url)] {
        let heard = Arc::new(Semaphore::new(0));
        let ears = Arc::clone(&heard);
        let open = link(&server, &[values, ("subscription", "wasmbus.evt.>")], move |_| {
            ears.add_permits(1);
            Box::pin(async { Ok(Bytes::new()) })
        })
        .await;
        publish(&open, "wasmbus.evt.default", None, b"{}").await.expect("published");
        tokio::time::timeout(PATIENCE, heard.acquire())
            .await
            .expect("it is heard")
            .expect("never closed")
            .forget();
        open.end(Instant::now() + PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_its_own_logs_in_with_its_own_user() {
    let lattice = Server::start().await;
    let key = nkeys::KeyPair::new_user();
    // This user has no inbox, as users of other peoples' servers may have none.
    let config = format!(
        "authorization {{ users: [\n {{ nkey: {}, permissions: {{ publish: \"out.>\", subscribe: \"in.>\" }} }}\n \
         {{ user: me, password: \"p@ss\" }} ] }}",
        key.public_key()
    );
    let server = Server::with_config(None, &config).await;
    let (url, seed) = (server.url(), key.seed().expect("a seed"));
    let slot: Arc<OnceLock<Arc<dyn Link>>> = Arc::default();
    let own = Arc::clone(&slot);
    let json =
        serde_json::json!({ "cluster_uris": [&url], "auth_seed": seed, "subscriptions": ["in.>"] })
            .to_string();
    let link =
        link(&lattice, &[("config_json", &json), ("ping_interval_sec", "5")], move |message| {
            let own = Arc::clone(&own);
            Box::pin(async move {
                let link = own.get().expect("linked before the first message");
                publish(link, "out.a", None, &message.body)
                    .await
                    .map(|()| Bytes::new())
                    .map_err(CallError::Callee)
            })
        })
        .await;
    assert!(slot.set(link).is_ok());

    let by_password = format!("nats://me:p%40ss@{}", server.address());
    let other = self::link(&lattice, &[("URI", &by_password)], deaf).await;
    let options = async_nats::ConnectOptions::with_user_and_password("me".into(), "p@ss".into());
    let nats = options.connect(&url).await.expect("connected");
    let mut ears = nats.subscribe("out.>").await.expect("subscribed");
    confirm(&nats).await.expect("the server hears for us");
    publish(&other, "in.a", None, b"through").await.expect("published");
    let heard =
        tokio::time::timeout(PATIENCE, ears.next()).await.expect("it is heard").expect("a message");
    assert_eq!((heard.subject.as_str(), &heard.payload[..]), ("out.a", &b"through"[..]));

    let wrong = nkeys::KeyPair::new_user().seed().expect("a seed");
    let error = try_link(&lattice, &[("uri", &url), ("client_seed", &wrong)], deaf)
        .await
        .err()
        .expect("refused");
    assert!(
        matches!(&error, LinkError::Unavailable(text) if text.contains("client_seed") && !text.contains(&wrong)),
        "{error}"
    );
    let nobody = format!("nats://me:secret@127.0.0.1:{}", free_port());
    let error = try_link(&lattice, &[("uri", &nobody)], deaf).await.err().expect("nobody there");
    assert!(
        matches!(&error, LinkError::Unavailable(text) if text.contains("uri") && !text.contains("secret")),
        "{error}"
    );
    // A message published just before the end of a link is still sent.
    publish(&other, "out.last", None, b"last").await.expect("published");
    let ending = tokio::spawn(Arc::clone(&other).end(Instant::now() + PATIENCE));
    tokio::task::yield_now().await;
    publish(&other, "out.late", None, b"late")
        .await
        .expect("a call that took the link before its end");
    ending.await.expect("no panic");
    for expected in ["out.last", "out.late"] {
        let heard = tokio::time::timeout(PATIENCE, ears.next())
            .await
            .expect("it is heard")
            .expect("a message");
        assert_eq!(heard.subject.as_str(), expected);
    }
    // The connection is closed, so this would be lost.
    assert!(publish(&other, "out.lost", None, b"").await.unwrap_err().contains("has ended"));
}
