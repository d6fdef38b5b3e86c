use futures::future::BoxFuture;
use serde_json::json;

use super::*;
use lattice_base::store::{Expect, away::Away, memory::Memory};
use lattice_protocol::{links::Claims, store::keys};

const ACTOR: &str = "MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ";

async fn put_link(memory: &Memory, contract: &str, provider: &str) {
    let key = keys::link(&keys::link_hash(ACTOR, contract, "default"));
    let value = json!({"actor_id": ACTOR, "provider_id": provider, "link_name": "default", "contract_id": contract, "values": {}});
    memory.put(&key, serde_json::to_vec(&value).unwrap().into(), Expect::Anything).await.unwrap();
}

#[tokio::test]
async fn a_new_backend_is_compared_by_content() {
    let first = Arc::new(Memory::default());
    for provider in ["V0", "V1"] {
        put_link(&first, "a:kept", provider).await;
    }
    put_link(&first, "a:gone", "V2").await;
    let store = Store::new(first);
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    let (live, mut notices) = Live::start(store.clone(), &tasks, stop.clone()).await;
    assert_eq!(live.table().links().count(), 2);
    let told = notices.recv().await.unwrap();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|notice| notice.origin == Origin::Replayed));

    // The same link with a lower revision, one gone, one new.
    let second = Arc::new(Memory::default());
    put_link(&second, "a:kept", "V1").await;
    put_link(&second, "a:new", "V3").await;
    store.replace(second);
    let mut seen = notices.recv().await.unwrap();
    assert!(seen.iter().all(|notice| notice.origin == Origin::Live));
    assert!(
        matches!(seen.remove(0).change, Change::LinkDeleted { link } if link.contract_id == "a:gone")
    );
    assert!(
        matches!(seen.remove(0).change, Change::LinkPut { link, replaced: None } if link.contract_id == "a:new")
    );
    assert_eq!(live.table().links().count(), 2);
    stop.cancel();
}

#[tokio::test]
async fn what_is_announced_while_the_bucket_is_away_counts_at_once_and_outlives_its_snapshots() {
    let store = Store::new(Arc::new(Away::new("domain core".into(), "gone".into())));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (live, mut notices) = Live::start(store.clone(), &tasks, stop.clone()).await;
    let entry = |revision: &str| {
        let claims = Claims {
            subject: ACTOR.into(),
            revision: revision.into(),
            call_alias: "a/b".into(),
            ..Claims::default()
        };
        (keys::claims(ACTOR), Bytes::from(claims.bucket_value().to_string()))
    };
    let known = || live.table().claims(ACTOR).map(|claims| claims.revision.clone());
    live.announce(vec![entry("2")]).await;
    assert_eq!(known().as_deref(), Some("2"));
    assert_eq!(live.table().claimants("a/b"), [Arc::<str>::from(ACTOR)]);

    // The lattice as it was before has older claims of the actor.
    let memory = Arc::new(Memory::default());
    let (key, older) = entry("1");
    memory.put(&key, older, Expect::Anything).await.unwrap();
    put_link(&memory, "a:kept", "V1").await;
    store.replace(memory.clone());
    loop {
        let told = notices.recv().await.unwrap();
        if told.iter().any(|notice| matches!(notice.change, Change::LinkPut { .. })) {
            break;
        }
    }
    assert_eq!(known().as_deref(), Some("2"));
    stop.cancel();
}

/// A bucket that opened, and then went out of reach.
struct Silent(std::sync::Mutex<Vec<mpsc::Sender<Update>>>, Memory);

impl Backend for Silent {
    fn put<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        expect: Expect,
    ) -> BoxFuture<'a, Result<u64, Error>> {
        self.1.put(key, value, expect)
    }

    fn delete<'a>(&'a self, key: &'a str, expect: Expect) -> BoxFuture<'a, Result<(), Error>> {
        self.1.delete(key, expect)
    }

    fn watch(&self) -> mpsc::Receiver<Update> {
        let (updates, receiver) = mpsc::channel(1);
        self.0.lock().unwrap().push(updates);
        receiver
    }

    fn place(&self) -> String {
        "nowhere".into()
    }

    fn is_shared(&self) -> bool {
        true
    }
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_tells_nothing_keeps_no_host_from_starting_and_is_not_written_to() {
    let bucket = Arc::new(Silent(Default::default(), Memory::default()));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (live, mut notices) = Live::start(Store::new(bucket.clone()), &tasks, stop.clone()).await;
    let mut synced = live.synced();
    assert!(!*synced.borrow_and_update());
    let key = keys::reference("echo:1");
    let value = json!({"oci_url": "echo:1", "public_key": ACTOR}).to_string();
    live.announce(vec![(key, value.into())]).await;
    assert!(live.table().public_key_of("echo:1").is_some());
    tokio::time::sleep(FIRST_SNAPSHOT).await;
    assert!(bucket.1.entries().is_empty() && !*live.synced().borrow());

    let updates = bucket.0.lock().unwrap()[0].clone();
    updates.send(Update::Snapshot(Vec::new())).await.unwrap();
    synced.changed().await.unwrap();
    assert!(*synced.borrow_and_update());
    while bucket.1.entries().is_empty() {
        tokio::time::sleep(WRITE_RETRY).await;
    }
    assert_eq!(notices.recv().await.unwrap()[0].origin, Origin::Live);
    stop.cancel();
}

#[tokio::test]
async fn a_link_that_stays_the_same_through_an_outage_stays_as_old_as_it_is() {
    let memories = [Arc::new(Memory::default()), Arc::new(Memory::default())];
    for memory in &memories {
        put_link(memory, "a:kept", "V1").await;
    }
    let [first, second] = memories;
    put_link(&second, "a:new", "V1").await;
    let store = Store::new(first);
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (live, mut notices) = Live::start(store.clone(), &tasks, stop.clone()).await;
    let since = || {
        let id = keys::link_hash(ACTOR, "a:kept", "default");
        live.table().stored_link(&id).unwrap().since
    };
    notices.recv().await.unwrap();
    let before = since();
    store.replace(second);
    notices.recv().await.unwrap();
    assert_eq!(since(), before);
    stop.cancel();
}

fn entry(number: usize, revision: u64) -> Entry {
    let contract = format!("a:{number}");
    let key = keys::link(&keys::link_hash(ACTOR, &contract, "default"));
    let value = json!({"actor_id": ACTOR, "provider_id": "V1", "link_name": "default", "contract_id": contract, "values": {}});
    Entry { key, value: value.to_string().into(), revision }
}

#[tokio::test]
async fn what_comes_together_is_published_and_told_together() {
    let store = Store::new(Arc::new(Memory::default()));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (live, mut notices) = Live::start(store, &tasks, stop.clone()).await;
    const WRITES: usize = 2 * OWN_WRITES;
    let writes = (0..WRITES).map(|n| live.apply(Update::Put(entry(n, n as u64 + 1))));
    let written = async {
        futures::future::join_all(writes).await;
        // Each is seen when its writer is told so.
        assert_eq!(live.table().links_len(), WRITES);
    };
    let heard = async {
        let (mut told, mut batches) = (0, 0);
        while told < WRITES {
            told += notices.recv().await.unwrap().len();
            batches += 1;
        }
        (told, batches)
    };
    let ((), (told, batches)) = tokio::join!(written, heard);
    assert!(told == WRITES && batches < WRITES / 10, "{batches} batches");
    stop.cancel();
}

#[tokio::test]
async fn a_follower_that_lags_knows_and_tells_everything_once() {
    let memory = Arc::new(Memory::default());
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let (live, mut notices) = Live::start(Store::new(memory.clone()), &tasks, stop.clone()).await;
    const LINKS: usize = 5000;
    // Faster than it gets its turn, and beyond what waits for it.
    for n in 0..LINKS {
        let Entry { key, value, .. } = entry(n, 0);
        memory.put(&key, value, Expect::Anything).await.unwrap();
    }
    let mut told = HashSet::new();
    while told.len() < LINKS {
        for notice in notices.recv().await.unwrap() {
            let Change::LinkPut { link, .. } = notice.change else { panic!("a link is put") };
            assert!(told.insert(link.contract_id.clone()), "told once");
        }
        // Something happens after it, which brings what it missed.
        memory.put("OTHER", "x".into(), Expect::Anything).await.unwrap();
    }
    assert_eq!(live.table().links_len(), LINKS);
    stop.cancel();
}
