//! The history of a lattice: the same on every host, whichever is gone.

use std::time::Duration;

use futures::StreamExt as _;
use lattice_base::{
    lattice::connection::{Nats, Purpose, connect_once},
    store::history::Archive,
};
use lattice_client::history::{self, Found, History, Kept, Range};
use lattice_protocol::{
    desired::{Authority, Trust},
    history::{Audit, Batch, Happened, Kind, audit::Outcome},
    identity::keys::ClusterKey,
};
use rustix::process::Signal;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    commands::User,
    harness::{
        CLUSTER, CLUSTER_SEED, ECHO, Events, PATIENCE, Server, client, eventually, example, host,
        process::Process,
    },
};

const DAY_MS: u64 = 24 * 3_600_000;

async fn nats(server: &Server) -> Nats {
    let connection = crate::connections::anonymous(server);
    connect_once(Purpose::Control, &connection, "history test").await.expect("connected")
}

/// The history as somebody reads it who knows the tests' cluster key.
pub(crate) async fn reader(server: &Server) -> History {
    let trust = Trust::new(server.lattice(), vec![ClusterKey::parse(CLUSTER).unwrap()]);
    History::new(nats(server).await, server.domain(), server.lattice(), trust)
}

pub(crate) async fn read<T: DeserializeOwned>(history: &History, kind: Kind) -> Vec<Kept<T>> {
    let found: Found<T> =
        history.read(kind, None, Range::last(DAY_MS), 10_000).await.expect("it is read");
    found.entries
}

/// Writes a batch past every host: signed with a cluster's seed, under the subject of one host and
/// with the name of one in it.
pub(crate) async fn keep<T: Serialize>(
    server: &Server,
    seed: &str,
    kind: Kind,
    (subject_host, named_host): (&str, &str),
    items: Vec<T>,
) {
    let batch = Batch {
        host_id: named_host.to_owned(),
        host_name: String::new(),
        at_ms: lattice_protocol::clock::now_ms(),
        left_out: 0,
        items,
    };
    let archive = Archive::new(nats(server).await, server.domain(), server.lattice());
    let key = lattice_protocol::history::key(kind, subject_host);
    let authority = Authority::new(server.lattice(), seed, Vec::new()).unwrap();
    let payload = serde_json::to_vec(&authority.sign(&key, 1, &batch).unwrap()).unwrap();
    archive.write(&key, &uuid::Uuid::new_v4().to_string(), payload.into()).await.unwrap();
}

async fn events(history: &History) -> Vec<Kept<Happened>> {
    history::in_order(read(history, Kind::Events).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hosts_did_is_kept_when_they_are_gone() {
    let server = Server::shared().await;
    let (one, two) = (host(&server).start().await, host(&server).start().await);
    client::start(&server, &one, &example("echo"), 2).await;
    client::start(&server, &two, &example("echo"), 1).await;
    let ids = [one.id.clone(), two.id.clone()];
    one.stop().await;
    two.stop().await;
    let history = reader(&server).await;
    let events = events(&history).await;
    for id in &ids {
        let of_host: Vec<&str> = events
            .iter()
            .filter(|kept| kept.item.source == *id)
            .map(|kept| &*kept.item.name)
            .collect();
        for name in ["host_started", "actor_scaled", "host_stopped"] {
            assert!(of_host.contains(&name), "{name} of {id}: {of_host:?}");
        }
        assert!(!of_host.contains(&"host_heartbeat"), "{of_host:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_kept_with_what_became_of_them_and_without_values() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    client::start(&server, &host, &example("echo"), 1).await;
    let provider = lattice_engine::providers::builtin::httpserver::SPEC.known;
    let values = [("address", "127.0.0.1:0")];
    client::link(&server, ECHO, provider.public_key, provider.contract_id, &values).await;
    let ctl = client::ctl_2024(&server).await;
    let refused = ctl.stop_actor(&host.id, crate::harness::PONGER, None).await.expect("an ack");
    assert!(!refused.accepted);
    let history = reader(&server).await;
    let kept = eventually("all three commands are kept", async || {
        let kept: Vec<Kept<Audit>> = read(&history, Kind::Audit).await;
        (kept.len() >= 3).then_some(kept)
    })
    .await;
    let of = |verb: &str| {
        let mut found = kept.iter().filter(|kept| kept.item.verb == verb);
        found.next().unwrap_or_else(|| panic!("{verb} in {kept:?}"))
    };
    assert_eq!(of("scale actor").item.outcome, Outcome::Accepted);
    assert_eq!(of("scale actor").host_id, host.id);
    assert_eq!(of("stop actor").item.outcome, Outcome::Refused);
    assert!(!of("stop actor").item.reason.is_empty());
    assert_eq!(of("link put").item.object["contract_id"], "wasmcloud:httpserver");
    let events = eventually("the link is kept", async || {
        let events = events(&history).await;
        events.iter().any(|kept| kept.item.name == "linkdef_set").then_some(events)
    })
    .await;
    let all = format!("{kept:?} {events:?}");
    assert!(!all.contains("127.0.0.1:0"), "{all}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_host_of_the_cluster_signed_is_dropped() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let history = reader(&server).await;
    eventually("the start of the host is kept", async || {
        (!events(&history).await.is_empty()).then_some(())
    })
    .await;
    // Another cluster, and another host of the same cluster under this one's subject.
    let forged =
        Happened { name: "host_lost".into(), source: host.id.clone(), ..Default::default() };
    let (_, stranger) = lattice_protocol::identity::signature::SigningKey::generate(
        lattice_protocol::identity::keys::Kind::Cluster,
    )
    .unwrap();
    for (seed, id) in [(stranger.as_str(), &*host.id), (CLUSTER_SEED, "NOTHER")] {
        keep(&server, seed, Kind::Events, (&host.id, id), vec![forged.clone()]).await;
    }
    let found: Found<Happened> =
        history.read(Kind::Events, None, Range::last(DAY_MS), 10_000).await.unwrap();
    assert_eq!(found.rejected, 2);
    assert!(found.entries.iter().all(|kept| kept.item.name != "host_lost"));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_an_actor_are_read_without_its_host() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let before = lattice_protocol::clock::now_ms();
    client::start(&server, &host, &example("echo"), 1).await;
    let history = reader(&server).await;
    let lines = eventually("the host wrote what it says of the actor", async || {
        let range = Range { since_ms: before - 60_000, until_ms: before + DAY_MS };
        let lines = history.lines(ECHO, range, 100).await.ok()?;
        (!lines.is_empty()).then_some(lines)
    })
    .await;
    assert_eq!(lines[0].host_id, host.id);
    assert!(lines.iter().all(|line| !line.life.is_empty() && line.line.number > 0));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_the_past_and_then_what_comes() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let history = reader(&server).await;
    let mut coming = eventually("there is a stream", async || {
        history.follow::<Happened>(Kind::Events, 0).await.ok().flatten()
    })
    .await;
    let mut wait_for = async |name: &str| {
        let search = async {
            while let Some((batch, _)) = coming.next().await {
                if batch.iter().any(|kept| kept.item.name == name) {
                    return;
                }
            }
            panic!("the stream ended before {name}");
        };
        tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("no {name}"));
    };
    wait_for("host_started").await;
    client::start(&server, &host, &example("echo"), 1).await;
    wait_for("actor_scaled").await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_keeps_nothing_makes_no_stream() {
    let server = Server::shared().await;
    let host = host(&server).set("history_hours", "0").start().await;
    let mut started = Events::all(&server).await;
    client::start(&server, &host, &example("echo"), 1).await;
    // Something that comes after whatever a keeper would have written by now.
    client::ctl_2024(&server).await.stop_actor(&host.id, ECHO, None).await.expect("an ack");
    started.next("actors_stopped").await;
    host.stop().await;
    assert!(!reader(&server).await.is_there().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_has_bounds() {
    let server = Server::shared().await;
    let host = host(&server).set("history_hours", "3").start().await;
    let name = format!("LATTICEHISTORY_{}", server.lattice());
    let context = client::jetstream(&server).await;
    let stream =
        eventually("the host makes the stream", async || context.get_stream(&name).await.ok())
            .await;
    let config = &stream.cached_info().config;
    assert_eq!(config.max_age, Duration::from_secs(3 * 3600));
    assert!(config.max_messages_per_subject > 0);
    assert_eq!(config.discard, async_nats::jetstream::stream::DiscardPolicy::Old);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_follows_commands_from_an_empty_range_reads_the_next_one() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let history = reader(&server).await;
    eventually("there is a stream", async || history.is_there().await.ok()?.then_some(())).await;
    let user = User::of(&server);
    let mut following = Process::printing(&mut user.command(&["audit", "-f", "-o", "json"]));
    user.prints(&["start", "actor", &example("echo")]).await;
    let command = following.json("the command");
    assert_eq!(
        (&command["verb"], &command["outcome"]),
        (&json!("scale actor"), &json!("accepted"))
    );
    assert_eq!(command["host_id"], json!(host.id));
    following.signal(Signal::INT);
    assert_eq!(following.exit_code(), Some(0));
    let said = user.prints(&["audit", "--outcome", "accepted"]).await;
    assert!(said.contains("scale actor") && said.contains("accepted"), "{said}");
    // It is a word of the audit log of a host.
    let told = user.fails(2, &["audit", "--outcome", "failed"]).await;
    assert!(told.contains("host events --severity error"), "{told}");
    let events = user.prints(&["events", "--name", "actor_scaled"]).await;
    assert!(events.contains("echo runs on"), "{events}");
    host.stop().await;
}
