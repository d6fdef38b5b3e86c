//! Listings of any size: in pages where they are too many for one message, and refusals told as
//! what they are.

use futures::StreamExt;
use lattice_protocol::store::keys;
use serde_json::{Value, json};

use crate::{
    commands::User,
    harness::{
        ECHO, PROVIDER, Server,
        client::{self, answering, bucket, ctl_2024},
        eventually, host,
    },
};

/// Enough that one message has room for a tenth of them.
const MANY: usize = 20_000;

/// Writes entries without waiting for one after the other.
async fn store(server: &Server, entries: impl Iterator<Item = (String, Value)>) {
    let bucket = bucket(server).await;
    let puts = entries.map(|(key, value)| {
        let bucket = bucket.clone();
        async move { bucket.put(key, value.to_string().into()).await.expect("stored") }
    });
    futures::stream::iter(puts).buffer_unordered(512).for_each(|_| std::future::ready(())).await;
}

fn link(number: usize) -> (String, Value) {
    let contract = format!("acme:contract{number}");
    let id = keys::link_hash(ECHO, &contract, "default");
    let link = json!({
        "id": id, "actor_id": ECHO, "provider_id": PROVIDER, "link_name": "default", "contract_id": contract,
        "values": { "url": "redis://127.0.0.1:6379" },
    });
    (format!("LINKDEF_{id}"), link)
}

fn claims(number: usize) -> (String, Value) {
    let id = format!("M{number:055}");
    (
        format!("CLAIMS_{id}"),
        json!({ "sub": id, "iss": "A", "name": format!("actor {number}"), "caps": "", "tags": "" }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn more_links_and_claims_than_a_message_holds_are_listed_in_pages() {
    let server = Server::shared().await;
    // It makes the bucket, and the next one finds it full.
    host(&server).start().await.stop().await;
    store(&server, (0..MANY).map(link).chain((0..MANY).map(claims))).await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    for (words, member) in [(["get", "links"], "links"), (["get", "claims"], "claims")] {
        let listed = user.json(&words).await;
        assert_eq!(listed[member].as_array().map(Vec::len), Some(MANY), "{words:?}");
    }
    let names = user.prints(&["get", "links", "-o", "name"]).await;
    let unique: std::collections::HashSet<&str> = names.lines().collect();
    assert_eq!(unique.len(), MANY);

    // Clients that take no pages are told which do.
    let nats = client::nats(&server).await;
    for (subject, command) in [("get.links", "host get links"), ("get.claims", "host get claims")] {
        let reply = nats.request(server.ctl(subject), "".into()).await.unwrap();
        let refusal: Value = serde_json::from_slice(&reply.payload).unwrap();
        assert_eq!(refusal["accepted"], json!(false));
        let error = refusal["error"].as_str().unwrap();
        assert!(
            error.contains("20000") && error.contains("max_payload") && error.contains(command),
            "{error}"
        );
    }
    // One of many is found, moved and removed.
    user.prints(&["link", "put", ECHO, PROVIDER, "acme:contract7", "url=redis://other:6379"]).await;
    user.prints(&["link", "del", ECHO, "acme:contract8"]).await;
    assert_eq!(
        user.json(&["get", "links"]).await["links"].as_array().map(Vec::len),
        Some(MANY - 1)
    );
    host.stop().await;
}

/// Entries that a list may lack: those of the last moment. A host that lags further says so.
const BURST: usize = 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_list_lacks_nothing_but_what_was_written_a_moment_ago() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    // Fits into one message; then far more than a follower takes in at once.
    for count in [2_000, MANY] {
        store(&server, (0..count).map(link)).await;
        // A machine with much to do brings the host what was written a moment later.
        eventually("all but a burst is known", || async {
            let listed = user.json(&["get", "links"]).await;
            let listed = listed["links"].as_array().map_or(0, Vec::len);
            assert!(listed <= count, "{listed} of {count}");
            (listed + BURST >= count).then_some(())
        })
        .await;
    }
    eventually("all are known", || async {
        let listed = user.json(&["get", "links"]).await;
        (listed["links"].as_array().map(Vec::len) == Some(MANY)).then_some(())
    })
    .await;
    host.stop().await;
}

#[tokio::test]
async fn a_refusal_is_an_error_of_every_command_and_never_an_empty_list() {
    let server = Server::shared().await;
    const HOST: &str = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";
    let _refusing = answering(&server, &server.ctl(">"), |subject, _| match subject {
        // Auctions of actors are refused, too.
        "ping.hosts" => Some(json!({ "id": HOST, "friendly_name": "strict" })),
        _ => Some(json!({ "accepted": false, "error": "the answer has 11700000 bytes" })),
    })
    .await;
    let user = User::of(&server);
    for words in [
        &["get", "links"][..],
        &["get", "claims"],
        &["get", "inventory", HOST],
        &["link", "query"],
        &["link", "put", ECHO, PROVIDER, "acme:thing"],
        &["link", "del", ECHO, "acme:thing"],
        &["label", HOST, "a=b"],
        &["start", "actor", "registry.example/echo:1"],
        &["start", "provider", "registry.example/provider:1"],
        &["scale", "actor", HOST, "registry.example/echo:1", "--max", "2"],
        &["stop", "host", HOST],
        &["explain", ECHO, "acme:thing", "Thing.Do"],
    ] {
        let complaint = user.fails(1, words).await;
        assert!(complaint.contains("11700000 bytes"), "{words:?}: {complaint}");
    }
    // The names of hosts are told, and that there is more.
    let output = user.run(&["get", "inventory"]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[tokio::test]
async fn a_host_that_refuses_to_say_who_it_is_does_not_vanish() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let refusing = answering(&server, &server.ctl("ping.hosts"), |_, _| {
        Some(json!({ "accepted": false, "error": "the answer has 1300000 bytes" }))
    })
    .await;
    let output = user.run(&["get", "hosts"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains(&host.id));
    assert!(String::from_utf8_lossy(&output.stderr).contains("1300000 bytes"), "{output:?}");
    host.stop().await;
    let complaint = user.fails(1, &["get", "hosts"]).await;
    assert!(complaint.contains("1300000 bytes"), "{complaint}");
    drop(refusing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_hosts_are_listed_with_what_they_run() {
    let server = Server::shared().await;
    const HOSTS: usize = 1000;
    let id = |number: usize| format!("N{number:055}");
    let nats = client::nats(&server).await;
    let mut pings = nats.subscribe(server.ctl("ping.hosts")).await.unwrap();
    crate::harness::client::settled(&nats).await;
    let answering_pings = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(ping) = pings.next().await {
            let Some(reply) = ping.reply else { continue };
            for number in 0..HOSTS {
                let host = json!({
                    "id": id(number), "friendly_name": format!("host-{number}"), "labels": {}, "uptime_seconds": 1,
                    "version": "0.82.0", "peer_count": HOSTS - 1,
                });
                nats.publish(reply.clone(), host.to_string().into()).await.unwrap();
            }
        }
    }));
    let _inventories = answering(&server, &server.ctl("get.>"), |subject, _| {
        let host = subject.strip_suffix(".inv")?;
        let actor = json!({ "id": ECHO, "name": "echo", "instances": [{ "max_instances": 1 }] });
        Some(json!({ "host_id": host, "friendly_name": host, "labels": {}, "actors": [actor], "providers": [] }))
    })
    .await;
    let user = User::of(&server);
    assert_eq!(user.json(&["get", "hosts"]).await["hosts"].as_array().map(Vec::len), Some(HOSTS));
    let inventories = user.json(&["get", "inventory"]).await;
    assert_eq!(inventories["inventories"].as_array().map(Vec::len), Some(HOSTS));
    eventually("the client of 2024 sees them as well", || async {
        (ctl_2024(&server).await.get_hosts().await.ok()?.len() == HOSTS).then_some(())
    })
    .await;
    drop(answering_pings);
}
