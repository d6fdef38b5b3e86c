//! Many links at once: none that was acknowledged is lost, each link ends as its last request says,
//! and hosts and events keep up.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    process::Stdio,
};

use futures::{StreamExt, future::join_all, stream};
use lattice_protocol::store::keys;
use serde_json::{Value, json};

use crate::{
    commands::User,
    harness::{
        ECHO, Events, PROVIDER, Server,
        client::{self, bucket},
        eventually, host,
        process::{Process, member},
        text,
    },
};

/// Links of one test.
const MANY: usize = 2_000;

fn contract(number: usize) -> String {
    format!("acme:contract{number}")
}

fn put(contract: &str, value: &str) -> Value {
    json!({
        "actor_id": ECHO, "provider_id": PROVIDER, "link_name": "default", "contract_id": contract,
        "values": { "value": value },
    })
}

/// Sends puts as they come, so many at a time; returns the contracts that were acknowledged.
async fn put_many(
    server: &Server,
    contracts: impl Iterator<Item = String>,
    at_once: usize,
) -> BTreeSet<String> {
    let nats = client::nats(server).await;
    let puts = contracts.map(|contract| {
        let (nats, subject) = (nats.clone(), server.ctl("linkdefs.put"));
        async move {
            let payload = put(&contract, "x").to_string();
            let reply = nats.request(subject, payload.into()).await.ok()?;
            let ack: Value = serde_json::from_slice(&reply.payload).ok()?;
            (ack["accepted"] == json!(true)).then_some(contract)
        }
    });
    stream::iter(puts).buffer_unordered(at_once).filter_map(|put| async { put }).collect().await
}

/// The links in the bucket, by contract.
async fn stored(
    server: &Server,
    contracts: impl Iterator<Item = String>,
) -> BTreeMap<String, Value> {
    let bucket = bucket(server).await;
    let reads = contracts.map(|contract| {
        let bucket = bucket.clone();
        async move {
            let key = keys::link(&keys::link_hash(ECHO, &contract, "default"));
            let value = bucket.get(key).await.expect("the bucket answers")?;
            Some((contract, serde_json::from_slice(&value).expect("a link")))
        }
    });
    stream::iter(reads).buffer_unordered(64).filter_map(|read| async { read }).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_links_put_at_once_each_is_stored_told_and_known_to_all() {
    let server = Server::shared().await;
    let (first, second) = (host(&server).start().await, host(&server).start().await);
    let mut events = Events::all(&server).await;
    let acknowledged = put_many(&server, (0..MANY).map(contract), 64).await;
    assert_eq!(acknowledged.len(), MANY);
    assert_eq!(stored(&server, (0..MANY).map(contract)).await.len(), MANY);
    for host in [&first, &second] {
        eventually("each host knows them", || async {
            (host.host().links().table().links_len() == MANY).then_some(())
        })
        .await;
    }
    // Each host tells each of them.
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..2 * MANY {
        let event = events.next("linkdef_set").await;
        *told.entry(text(&event, "/data/contract_id").to_owned()).or_default() += 1;
    }
    assert!(told.len() == MANY && told.values().all(|times| *times == 2));
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_before_a_host_was_killed_is_there() {
    let server = Server::shared().await;
    let dir = tempfile::TempDir::new().unwrap();
    let mut process = Process::start(&mut member(dir.path(), &server));
    process.line(" ready");
    let putting = put_many(&server, (0..MANY).map(contract), 64);
    let context = client::jetstream(&server).await;
    let name = format!("KV_LATTICEDATA_{}", server.lattice());
    let kill = async {
        // In the middle of it.
        eventually("some are stored", || async {
            let stream = context.get_stream(&name).await.ok()?;
            (stream.cached_info().state.messages > 200).then_some(())
        })
        .await;
        process.signal(rustix::process::Signal::KILL);
    };
    let (acknowledged, ()) = tokio::join!(putting, kill);
    assert!(acknowledged.len() < MANY, "it was killed in the middle");
    let there = stored(&server, acknowledged.iter().cloned()).await;
    assert_eq!(there.len(), acknowledged.len());
    // The next host knows them, and goes on.
    let next = host(&server).start().await;
    assert!(next.host().links().table().links_len() >= acknowledged.len());
    assert_eq!(put_many(&server, (0..MANY).map(contract), 64).await.len(), MANY);
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_about_one_link_are_carried_out_in_their_order() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let nats = client::nats(&server).await;
    const LINKS: usize = 20;
    const VALUES: usize = 25;
    let mut replies = Vec::new();
    for number in 0..VALUES {
        for link in 0..LINKS {
            // Sent one after the other, and not waited for.
            let payload = put(&contract(link), &number.to_string()).to_string();
            let inbox = nats.new_inbox();
            replies.push(nats.subscribe(inbox.clone()).await.unwrap());
            let subject = server.ctl("linkdefs.put");
            nats.publish_with_reply(subject, inbox, payload.into()).await.unwrap();
        }
    }
    let acks = join_all(replies.iter_mut().map(StreamExt::next)).await;
    for ack in acks {
        let ack: Value = serde_json::from_slice(&ack.expect("an answer").payload).unwrap();
        assert_eq!(ack["accepted"], json!(true), "{ack}");
    }
    let there = stored(&server, (0..LINKS).map(contract)).await;
    let last = (VALUES - 1).to_string();
    assert_eq!(there.len(), LINKS);
    for link in there.values() {
        assert_eq!(text(link, "/values/value"), last);
    }
    // The values of before are noted in the same order.
    let user = User::of(&server);
    user.prints(&["link", "undo", ECHO, PROVIDER, &contract(3)]).await;
    let before = stored(&server, std::iter::once(contract(3))).await;
    assert_eq!(text(&before[&contract(3)], "/values/value"), (VALUES - 2).to_string());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn links_of_a_file_are_put_together_and_once() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let user = User::of(&server);
    let links: Vec<Value> = (0..MANY).map(|number| put(&contract(number), "x")).collect();
    let file = user.dir().join("links.json");
    std::fs::write(&file, json!(links).to_string()).unwrap();
    let file = file.display().to_string();
    let all = json!({ "put": MANY, "unchanged": 0 });
    let told = user.json(&["link", "put", "-f", &file]).await;
    assert_eq!((&told["put"], &told["unchanged"]), (&all["put"], &all["unchanged"]));
    assert_eq!(stored(&server, (0..MANY).map(contract)).await.len(), MANY);

    // The answer of the lattice is read back; one of them is changed, the others stay.
    let mut listed = user.json(&["get", "links"]).await;
    listed["links"][0]["values"] = json!({ "value": "y" });
    let listing = user.dir().join("listing.json");
    std::fs::write(&listing, listed.to_string()).unwrap();
    let told: Value = {
        let input = Stdio::from(std::fs::File::open(&listing).unwrap());
        let output = user.run_reading(&["link", "put", "-f", "-", "-o", "json"], input).await;
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    assert_eq!((&told["put"], &told["unchanged"]), (&json!(1), &json!(MANY - 1)));

    // A mistake anywhere: nothing is sent.
    let wrong = json!([put("acme:new", "x"), { "actor_id": ECHO, "provider_id": "builtin://keyvalue",
        "contract_id": "wasmcloud:keyvalue", "values": { "colour": "red" } }]);
    std::fs::write(&listing, wrong.to_string()).unwrap();
    let said = user.fails(1, &["link", "put", "-f", &listing.display().to_string()]).await;
    assert!(said.contains("nothing was put") && said.contains("link 2"), "{said}");
    assert!(stored(&server, std::iter::once("acme:new".to_owned())).await.is_empty());
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_among_many_puts_loses_nothing_that_was_acknowledged() {
    let mut server = Server::start().await;
    let host = host(&server).start().await;
    let nats = client::nats(&server).await;
    let (sent, subject) = (MANY / 2, server.ctl("linkdefs.put"));
    let mut inboxes = HashMap::new();
    for contract in (0..sent).map(contract) {
        let inbox = nats.new_inbox();
        let replies = nats.subscribe(inbox.clone()).await.unwrap();
        let payload = put(&contract, "x").to_string();
        nats.publish_with_reply(subject.clone(), inbox, payload.into()).await.unwrap();
        inboxes.insert(contract, replies);
    }
    // Some are answered; the server goes away among the others, with its store on disk.
    let first = inboxes.get_mut(&contract(100)).unwrap().next().await.expect("an answer");
    assert!(first.payload.starts_with(b"{\"accepted\":true"));
    server.kill();
    server.resume().await;
    let mut acknowledged = BTreeSet::new();
    for (contract, replies) in &mut inboxes {
        // The links that were answered before the end have come with it.
        if let Some(Some(reply)) = futures::FutureExt::now_or_never(replies.next())
            && reply.payload.starts_with(b"{\"accepted\":true")
        {
            acknowledged.insert(contract.clone());
        }
    }
    eventually("the bucket is there", || async {
        let context = client::jetstream(&server).await;
        context.get_key_value("LATTICEDATA_default").await.ok()
    })
    .await;
    let there = stored(&server, acknowledged.iter().cloned()).await;
    assert_eq!(there.len(), acknowledged.len());
    // Both know the same afterwards, and all goes on.
    eventually("all are put", || async {
        (put_many(&server, (0..sent).map(contract), 64).await.len() == sent).then_some(())
    })
    .await;
    eventually("the host knows what the bucket has", || async {
        let table = host.host().links().table();
        let all = (0..sent).all(|n| table.link(ECHO, &contract(n), "default").is_some());
        all.then_some(())
    })
    .await;
    host.stop().await;
}
