//! The bucket and its stand-in in memory: one suite for both.

use std::{collections::BTreeMap, sync::Arc};

use async_nats::jetstream;
use lattice_base::store::{Backend, Error, Expect, Update, memory::Memory};
use lattice_protocol::store::Entry;
use tokio::sync::mpsc;

use crate::{
    connections,
    harness::{PATIENCE, Server, client},
};

async fn next(updates: &mut mpsc::Receiver<Update>) -> Update {
    tokio::time::timeout(PATIENCE, updates.recv())
        .await
        .expect("an update")
        .expect("the watch goes on")
}

async fn behaves_like_a_bucket(backend: Arc<dyn Backend>) {
    let first = backend.put("a", "1".into(), Expect::Revision(0)).await.unwrap();
    assert!(matches!(
        backend.put("a", "x".into(), Expect::Revision(0)).await,
        Err(Error::Conflict)
    ));
    let second = backend.put("a", "2".into(), Expect::Revision(first)).await.unwrap();
    assert!(second > first);
    assert!(matches!(
        backend.put("a", "x".into(), Expect::Revision(first)).await,
        Err(Error::Conflict)
    ));
    assert!(matches!(backend.delete("a", Expect::Revision(first)).await, Err(Error::Conflict)));
    backend.put("gone", "x".into(), Expect::Anything).await.unwrap();
    backend.delete("gone", Expect::Anything).await.unwrap();

    // A watch begins with what is there, without what was deleted, and goes on with what happens.
    let mut updates = backend.watch();
    let Update::Snapshot(entries) = next(&mut updates).await else {
        panic!("a snapshot comes first")
    };
    assert_eq!(entries, [Entry { key: "a".into(), value: "2".into(), revision: second }]);
    backend.delete("a", Expect::Revision(second)).await.unwrap();
    assert!(matches!(next(&mut updates).await, Update::Delete { key, .. } if key == "a"));
    // Over a delete marker a key can be made anew.
    let third = backend.put("a", "3".into(), Expect::Revision(0)).await.unwrap();
    assert_eq!(
        next(&mut updates).await,
        Update::Put(Entry { key: "a".into(), value: "3".into(), revision: third })
    );
}

#[tokio::test]
async fn memory_behaves_like_a_bucket() {
    behaves_like_a_bucket(Arc::new(Memory::default())).await;
}

#[tokio::test]
async fn the_bucket_behaves_like_itself() {
    let server = Server::shared().await;
    let bucket = connections::open(&server, Some("core")).await.unwrap();
    behaves_like_a_bucket(Arc::new(bucket)).await;
}

#[tokio::test]
async fn a_bucket_that_vanished_is_whole_again_before_anything_is_told_of_it() {
    let server = Server::shared().await;
    let bucket = connections::open(&server, Some("core")).await.unwrap();
    let mut expected = BTreeMap::new();
    for n in 0..100 {
        let (key, value) = (format!("key{n}"), n.to_string());
        bucket.put(&key, value.clone().into(), Expect::Revision(0)).await.unwrap();
        expected.insert(key, value);
    }
    let mut updates = bucket.watch();
    let mut snapshot = async || match next(&mut updates).await {
        Update::Snapshot(entries) => {
            let text =
                |entry: Entry| (entry.key, String::from_utf8_lossy(&entry.value).into_owned());
            entries.into_iter().map(text).collect::<BTreeMap<_, _>>()
        }
        other => panic!("a snapshot, not {other:?}"),
    };
    assert_eq!(snapshot().await, expected);
    let context = jetstream::with_domain(client::nats(&server).await, "core");
    context.delete_stream(format!("KV_LATTICEDATA_{}", server.lattice())).await.unwrap();
    assert_eq!(snapshot().await, expected);
}
