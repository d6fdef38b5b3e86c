//! The built-in key-value store on a real bucket, spoken to as actors of all years do.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use lattice_engine::{
    providers::builtin::{
        Context, Link, LinkError,
        jetstream::Placement,
        keyvalue::{
            SPEC,
            bucket::Bucket,
            entry::{Expiry, Value},
        },
        values::Values,
    },
    rpc::call::CallError,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;
use wasmbus_rpc::common::{deserialize, serialize};
use wasmcloud_interface_keyvalue::{
    GetResponse, IncrementRequest, ListAddRequest, ListDelRequest, ListRangeRequest, SetAddRequest,
    SetDelRequest, SetRequest,
};

use crate::harness::{Server, builtin, eventually};

struct Store {
    link: Arc<dyn Link>,
}

impl Store {
    /// A provider of its own, as on another host, with one link.
    async fn new(server: &Server, values: &[(&str, &str)]) -> Self {
        Self {
            link: Self::try_link(context(server).await, values)
                .await
                .expect("the link is taken on"),
        }
    }

    async fn try_link(
        context: Context,
        values: &[(&str, &str)],
    ) -> Result<Arc<dyn Link>, LinkError> {
        (SPEC.build)(context).link(builtin::link(&SPEC, values)).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        operation: &str,
        argument: &impl Serialize,
    ) -> Result<T, String> {
        let payload = serialize(argument).expect("an argument");
        match builtin::call(&self.link, &SPEC, operation, payload).await {
            Ok(result) => Ok(deserialize(&result).expect("a result of the contract")),
            Err(CallError::Callee(text)) => Err(text),
            Err(other) => panic!("{other}"),
        }
    }

    async fn set(&self, key: &str, value: &str, expires: u32) {
        let payload =
            serialize(&SetRequest { key: key.into(), value: value.into(), expires }).unwrap();
        let result =
            builtin::call(&self.link, &SPEC, "KeyValue.Set", payload).await.expect("it is set");
        assert!(result.is_empty(), "no result is no byte");
    }

    async fn get(&self, key: &str) -> Option<String> {
        let response: GetResponse = self.call("KeyValue.Get", &key).await.expect("it is read");
        response.exists.then_some(response.value)
    }

    async fn increment(&self, key: &str, value: i32) -> Result<i32, String> {
        self.call("KeyValue.Increment", &IncrementRequest { key: key.into(), value }).await
    }

    async fn list_add(&self, list: &str, value: &str) -> Result<u32, String> {
        self.call(
            "KeyValue.ListAdd",
            &ListAddRequest { list_name: list.into(), value: value.into() },
        )
        .await
    }

    async fn range(&self, list: &str, start: i32, stop: i32) -> Vec<String> {
        let request = ListRangeRequest { list_name: list.into(), start, stop };
        self.call("KeyValue.ListRange", &request).await.expect("a range")
    }

    async fn set_add(&self, set: &str, value: &str) -> u32 {
        self.call("KeyValue.SetAdd", &SetAddRequest { set_name: set.into(), value: value.into() })
            .await
            .expect("added")
    }
}

async fn context(server: &Server) -> Context {
    let dir = TempDir::new().expect("a directory");
    builtin::context(server, &SPEC, dir.path(), HashMap::new()).await
}

#[tokio::test]
async fn texts_and_counters_behave_as_in_redis() {
    let server = Server::shared().await;
    let store = Store::new(&server, &[]).await;
    assert_eq!(store.get("counter:home").await, None);
    assert_eq!(store.increment("counter:home", 1).await, Ok(1));
    assert_eq!(store.increment("counter:home", 41).await, Ok(42));
    assert_eq!(store.increment("counter:home", -50).await, Ok(-8));
    assert_eq!(
        store.get("counter:home").await.as_deref(),
        Some("-8"),
        "a counter is a text of digits"
    );
    store.set("counter:home", "7", 0).await;
    assert_eq!(store.increment("counter:home", 1).await, Ok(8));

    store.set("empty", "", 0).await;
    assert_eq!(store.get("empty").await.as_deref(), Some(""), "an empty text exists");
    assert_eq!(store.call("KeyValue.Contains", &"empty").await, Ok(true));
    assert_eq!(store.call("KeyValue.Del", &"empty").await, Ok(true));
    assert_eq!(store.call("KeyValue.Del", &"empty").await, Ok(false));
    assert_eq!(store.call("KeyValue.Contains", &"empty").await, Ok(false));
    assert_eq!(store.increment("empty", 3).await, Ok(3), "a deleted key begins anew");

    store.set("word", "five", 0).await;
    let error = store.increment("word", 1).await.unwrap_err();
    assert!(error.contains("not an integer") && error.contains("word"), "{error}");
    store.set("high", "2147483647", 0).await;
    assert!(store.increment("high", 1).await.unwrap_err().contains("overflow"));
    assert_eq!(
        store.get("high").await.as_deref(),
        Some("2147483647"),
        "a failed increment changes nothing"
    );

    // 2021's spelling of operations and members, and what no contract has.
    let old = rmp_serde::to_vec_named(&json!({"key": "old", "value": "v"})).unwrap();
    builtin::call(&store.link, &SPEC, "Set", old).await.unwrap();
    assert_eq!(store.get("old").await.as_deref(), Some("v"));
    let error = store.call::<bool>("KeyValue.Flush", &"x").await.unwrap_err();
    assert_eq!(error, "method not handled KeyValue.Flush");
    let error = store.call::<bool>("KeyValue.Set", &"x").await.unwrap_err();
    assert!(error.contains("KeyValue.Set"), "{error}");
}

#[tokio::test]
async fn lists_and_sets_behave_as_in_redis() {
    let server = Server::shared().await;
    let store = Store::new(&server, &[]).await;
    for (length, item) in [(1, "a"), (2, "b"), (3, "a"), (4, "c")] {
        assert_eq!(store.list_add("list", item).await, Ok(length));
    }
    assert_eq!(store.range("list", 0, -1).await, ["a", "b", "a", "c"]);
    assert_eq!(store.range("list", -3, 2).await, ["b", "a"]);
    assert_eq!(store.range("nothing", 0, 10).await, [""; 0]);
    let del = |value: &str| ListDelRequest { list_name: "list".into(), value: value.into() };
    assert_eq!(store.call("KeyValue.ListDel", &del("a")).await, Ok(true));
    assert_eq!(store.call("KeyValue.ListDel", &del("z")).await, Ok(false));
    assert_eq!(store.range("list", 0, 100).await, ["b", "a", "c"], "the first of them is gone");
    for item in ["a", "b", "c"] {
        assert_eq!(store.call("KeyValue.ListDel", &del(item)).await, Ok(true));
    }
    assert_eq!(store.call("KeyValue.Contains", &"list").await, Ok(false), "an empty list is gone");
    store.list_add("list", "x").await.unwrap();
    assert_eq!(store.call("KeyValue.ListClear", &"list").await, Ok(true));
    assert_eq!(store.call("KeyValue.ListClear", &"list").await, Ok(false));

    for (set, members) in [("one", ["a", "b", "c"]), ("two", ["b", "c", "d"])] {
        for member in members {
            assert_eq!(store.set_add(set, member).await, 1);
        }
    }
    assert_eq!(store.set_add("one", "a").await, 0);
    assert_eq!(
        store.call("KeyValue.SetIntersection", &["one", "two"]).await,
        Ok(vec!["b".to_owned(), "c".into()])
    );
    assert_eq!(
        store.call::<Vec<String>>("KeyValue.SetIntersection", &["one", "no"]).await,
        Ok(vec![])
    );
    let union: Vec<String> = store.call("KeyValue.SetUnion", &["one", "two", "no"]).await.unwrap();
    assert_eq!(union, ["a", "b", "c", "d"]);
    let del = |value: &str| SetDelRequest { set_name: "one".into(), value: value.into() };
    assert_eq!(store.call("KeyValue.SetDel", &del("a")).await, Ok(1));
    assert_eq!(store.call("KeyValue.SetDel", &del("a")).await, Ok(0));
    assert_eq!(store.call("KeyValue.SetQuery", &"one").await, Ok(vec!["b".to_owned(), "c".into()]));
    assert_eq!(store.call("KeyValue.SetClear", &"one").await, Ok(true));
    assert_eq!(store.call::<Vec<String>>("KeyValue.SetQuery", &"one").await, Ok(vec![]));

    // A value of one type is refused by operations of another, with a clear error.
    store.set("text", "x", 0).await;
    for error in [
        store.list_add("text", "x").await.unwrap_err(),
        store.call::<bool>("KeyValue.ListClear", &"text").await.unwrap_err(),
        store.call::<Vec<String>>("KeyValue.SetUnion", &["two", "text"]).await.unwrap_err(),
    ] {
        assert!(error.starts_with("WRONGTYPE") && error.contains("\"text\" is a text"), "{error}");
    }
    assert!(
        store
            .call::<GetResponse>("KeyValue.Get", &"two")
            .await
            .unwrap_err()
            .starts_with("WRONGTYPE")
    );
    store.set("two", "now a text", 0).await;
    assert_eq!(store.get("two").await.as_deref(), Some("now a text"), "setting replaces anything");
}

#[tokio::test]
async fn any_text_is_a_key_and_hosts_share_a_bucket() {
    let server = Server::shared().await;
    let here = Store::new(&server, &[]).await;
    let there = Store::new(&server, &[]).await;
    let elsewhere = Store::new(&server, &[("BUCKET", "elsewhere"), ("storage", "memory")]).await;
    let long = "k".repeat(100_000);
    let keys = [
        "", ".", "..", "a..b", "a.b.", "a b", "a*", "a>", "$KV.x", "=", "=2E", "ключ", "🔑",
        "a\r\nb\0", "_kv", "A", "a", &long,
    ];
    for (value, key) in keys.iter().enumerate() {
        here.set(key, &value.to_string(), 0).await;
    }
    for (value, key) in keys.iter().enumerate() {
        assert_eq!(
            there.get(key).await,
            Some(value.to_string()),
            "{:?}",
            key.chars().take(9).collect::<String>()
        );
        assert_eq!(elsewhere.get(key).await, None);
    }

    // Too large for one message: said with key and numbers, and nothing is changed.
    let large = SetRequest { key: "large".into(), value: "x".repeat(2_000_000), expires: 0 };
    let error = here.call::<()>("KeyValue.Set", &large).await.unwrap_err();
    assert!(
        error.contains("large") && error.contains("2000000") && error.contains("1048576"),
        "{error}"
    );
    assert_eq!(here.get("large").await, None);
}

#[tokio::test]
async fn concurrent_increments_of_several_hosts_all_count() {
    let server = Server::shared().await;
    // Also the making of the bucket is a race.
    let (one, other) = tokio::join!(Store::new(&server, &[]), Store::new(&server, &[]));
    const EACH: usize = 64 * 4;
    let begun = Instant::now();
    let run = async |store: &Store| -> Vec<i32> {
        let calls = stream::iter(0..EACH).map(|_| store.increment("hits", 1));
        calls.buffer_unordered(64).map(|sum| sum.expect("it counts")).collect().await
    };
    let (first, second) = tokio::join!(run(&one), run(&other));
    println!("{} increments of one key from two hosts: {:?}", 2 * EACH, begun.elapsed());
    let mut sums = [first, second].concat();
    sums.sort_unstable();
    assert!(sums.iter().copied().eq(1..=2 * EACH as i32), "every number is given once");

    let begun = Instant::now();
    for _ in 0..500 {
        one.get("hits").await.expect("it is there");
    }
    println!("one get: {:?}", begun.elapsed() / 500);
    let begun = Instant::now();
    for _ in 0..500 {
        one.increment("alone", 1).await.expect("it counts");
    }
    println!("one increment: {:?}", begun.elapsed() / 500);
}

#[tokio::test]
async fn entries_end_in_time_and_are_removed() {
    let server = Server::shared().await;
    let store = Store::new(&server, &[]).await;
    store.set("short", "1", 1).await;
    store.set("long", "1", 1000).await;
    store.set("renewed", "1", 1).await;
    assert_eq!(store.increment("short", 1).await, Ok(2), "an increment keeps the expiry");
    store.set("renewed", "2", 0).await;
    eventually("the entry expires", || async { store.get("short").await.is_none().then_some(()) })
        .await;
    assert_eq!(store.call("KeyValue.Contains", &"short").await, Ok(false));
    assert_eq!(store.increment("short", 1).await, Ok(1), "it begins anew");
    assert_eq!(store.get("long").await.as_deref(), Some("1"));
    assert_eq!(
        store.get("renewed").await.as_deref(),
        Some("2"),
        "setting without an expiry ends it"
    );

    // A bucket in which the server removes nothing by itself, as before 2.11.
    let context = context(&server).await;
    let js = async_nats::jetstream::with_domain(context.nats.clone(), "core");
    let name = format!("old-{}", server.lattice());
    let config = async_nats::jetstream::stream::Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        allow_direct: true,
        ..Default::default()
    };
    js.create_stream(config).await.unwrap();
    let raw = js.get_key_value(&name).await.unwrap();
    let values = Values::read(&SPEC, &builtin::link(&SPEC, &[("domain", "core")])).unwrap();
    let placement = Placement::read(&values, None).unwrap();
    let bucket = Bucket::open(&context.nats, name.clone(), placement).await.unwrap();
    let old = Store::new(&server, &[("bucket", &*name)]).await;
    old.set("ends", "x", 1).await;
    old.set("stays", "x", 0).await;
    old.set("deleted", "x", 0).await;
    assert_eq!(old.call("KeyValue.Del", &"deleted").await, Ok(true));
    eventually("the entry expires", || async { old.get("ends").await.is_none().then_some(()) })
        .await;
    assert!(raw.entry("ends").await.unwrap().is_some(), "absent for actors, but still there");
    assert_eq!(bucket.sweep(Expiry::now()).await.unwrap(), 1);
    assert!(raw.entry("ends").await.unwrap().is_none());
    assert!(
        raw.entry("deleted").await.unwrap().is_some(),
        "those who watch may not have seen it yet"
    );
    assert_eq!(bucket.sweep(Expiry::now().after(Duration::from_secs(300))).await.unwrap(), 1);
    assert!(raw.entry("deleted").await.unwrap().is_none());
    assert_eq!(bucket.get("stays").await.unwrap(), Some(Value::Text("x".into())));
}

#[tokio::test]
async fn a_bucket_that_vanished_is_made_again() {
    let server = Server::shared().await;
    let store = Store::new(&server, &[]).await;
    store.set("a", "1", 0).await;
    let js = async_nats::jetstream::with_domain(context(&server).await.nats, "core");
    js.delete_key_value(format!("KEYVALUE_{}", server.lattice())).await.unwrap();
    assert_eq!(store.get("a").await, None);
    js.delete_key_value(format!("KEYVALUE_{}", server.lattice())).await.unwrap();
    assert_eq!(store.increment("a", 1).await, Ok(1));
    js.delete_key_value(format!("KEYVALUE_{}", server.lattice())).await.unwrap();
    store.set("a", "2", 0).await;
    assert_eq!(store.get("a").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn links_that_cannot_work_say_what_to_change() {
    let server = Server::shared().await;
    for (values, part) in [
        (&[("bucket", "a.b")][..], "link value bucket"),
        (&[("bucket", &*format!("LATTICEDATA_{}", server.lattice()))], "another bucket"),
        (&[("replicas", "7")], "link value replicas"),
        (&[("storage", "tape")], "link value storage"),
        (&[("domain", "a.b")], "link value domain"),
    ] {
        let outcome = Store::try_link(context(&server).await, values).await;
        let Err(LinkError::Values(text)) = outcome else { panic!("{values:?} is wrong") };
        assert!(text.contains(part), "{text}");
    }
    let outcome = Store::try_link(context(&server).await, &[("domain", "nowhere")]).await;
    let Err(LinkError::Unavailable(text)) = outcome else { panic!("there is no such domain") };
    assert!(text.contains("\"nowhere\"") && text.contains("link value domain"), "{text}");

    let bare = Server::with_config(None, "").await;
    let outcome = Store::try_link(context(&bare).await, &[]).await;
    let Err(LinkError::Unavailable(text)) = outcome else { panic!("there is no JetStream") };
    assert!(text.contains("-js"), "{text}");
}

#[tokio::test]
async fn an_ending_link_lets_calls_finish_and_answers_those_that_come_late() {
    let server = Server::shared().await;
    let store = Store::new(&server, &[]).await;
    let calls = (0..50).map(|_| store.increment("n", 1));
    let mut calls = stream::iter(calls).buffer_unordered(50);
    calls.next().await.unwrap().unwrap();
    let end = Arc::clone(&store.link).end(Instant::now() + Duration::from_secs(10));
    let rest = async {
        let mut failed = Vec::new();
        while let Some(outcome) = calls.next().await {
            failed.extend(outcome.err());
        }
        failed
    };
    let ((), failed) = tokio::join!(end, rest);
    assert_eq!(failed, [""; 0]);
    // It may have been taken in the moment another link replaced it.
    assert_eq!(store.increment("n", 1).await, Ok(51));
}

#[tokio::test]
async fn components_keep_any_bytes_list_keys_and_swap_on_condition() {
    use lattice_protocol::contracts::keyvalue::{
        Keys, KeysRequest, SetBytesRequest, SwapRequest, Version, private,
    };
    let server = Server::start().await;
    let store = Store::new(&server, &[]).await;
    let version = async |key: &str| -> Version {
        store.call(private::GET_BYTES, &key).await.expect("a version")
    };
    // Text stays text for actors that know nothing else; what is no text is refused there.
    store.set("text", "plain", 0).await;
    assert_eq!(version("text").await.value, Some(b"plain".to_vec().into()));
    for (key, value) in [("raw", vec![0xff, 0]), ("plain", b"written as bytes".to_vec())] {
        let request = SetBytesRequest { key: key.into(), value: value.clone().into() };
        let payload = serialize(&request).unwrap();
        builtin::call(&store.link, &SPEC, private::SET_BYTES, payload).await.expect("it is set");
        assert_eq!(version(key).await.value, Some(value.into()));
    }
    assert_eq!(store.get("plain").await.as_deref(), Some("written as bytes"));
    let refused: Result<GetResponse, _> = store.call("KeyValue.Get", &"raw").await;
    let refused = refused.expect_err("no text");
    assert!(refused.contains("\"raw\" is a bytes") && refused.contains("text"), "{refused}");

    // A write counts only if nobody wrote since.
    let swap = async |revision, value: &[u8]| -> bool {
        let request = SwapRequest { key: "once".into(), value: value.to_vec().into(), revision };
        store.call(private::SWAP, &request).await.expect("an answer")
    };
    let absent = version("once").await;
    assert_eq!((absent.value, absent.revision), (None, 0));
    assert!(swap(0, b"first").await && !swap(0, b"second").await);
    let seen = version("once").await;
    assert_eq!(seen.value, Some(b"first".to_vec().into()));
    assert!(swap(seen.revision, b"third").await && !swap(seen.revision, b"fourth").await);
    assert_eq!(store.get("once").await.as_deref(), Some("third"));

    // Pages of keys, in order, without what was deleted or has expired.
    let keys = async |after: Option<&str>| -> Keys {
        let request = KeysRequest { after: after.map(str::to_owned) };
        store.call(private::KEYS, &request).await.expect("keys")
    };
    let _: bool = store.call("KeyValue.Del", &"raw").await.expect("deleted");
    let listed = keys(None).await;
    assert_eq!((listed.keys.join(" ").as_str(), listed.more), ("once plain text", false));
    assert_eq!(keys(Some("once")).await.keys, ["plain", "text"]);
    let many: Vec<String> = (0..501).map(|number| format!("k:{number:03}")).collect();
    stream::iter(&many).for_each_concurrent(16, async |key| store.set(key, "x", 0).await).await;
    let first = keys(None).await;
    assert_eq!((first.keys.as_slice(), first.more), (&many[..500], true));
    let second = keys(first.keys.last().map(String::as_str)).await;
    assert_eq!((second.keys.join(" ").as_str(), second.more), ("k:500 once plain text", false));
}
