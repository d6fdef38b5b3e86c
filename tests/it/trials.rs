//! A newer revision of an actor that takes a share of its calls, as commands begin, change and end
//! it; and how it is told meanwhile.

use std::collections::HashMap;

use lattice_protocol::control::types::{Inventory, Trial};
use serde_json::{Value, json};
use wascap::prelude::KeyPair;

use crate::harness::{
    Events, PATIENCE, Server, TestHost,
    client::{Caller, ctl_2024, http_request, nats, start},
    eventually,
    guests::{Guest, Signing, sign_as, sign_module, wapc},
    host, text,
};

const HTTP: &str = "wasmcloud:httpserver";

/// A host with two revisions of an actor, of which the first runs.
struct Stage {
    server: Server,
    host: TestHost,
    caller: Caller,
    first: Guest,
    second: Guest,
}

impl Stage {
    /// The revisions answer with their names.
    async fn open() -> Self {
        let key = KeyPair::new_module();
        Self::of(revision(&key, 1, "one"), revision(&key, 2, "two")).await
    }

    async fn of(first: Guest, second: Guest) -> Self {
        let server = Server::shared().await;
        let host = host(&server).start().await;
        start(&server, &host, &first.reference, 2).await;
        let caller = Caller::new(&server).await;
        Self { server, host, caller, first, second }
    }

    /// Gives a command; returns why it is refused, or nothing if it is accepted.
    async fn refusal(&self, tail: &str, body: &Value) -> Option<String> {
        let subject = self.server.ctl(format_args!("cmd.{}.{tail}", self.host.id));
        let request =
            async_nats::Request::new().payload(body.to_string().into()).timeout(Some(PATIENCE));
        let reply = self.caller.nats.send_request(subject, request).await.expect("an answer");
        let ack: Value = serde_json::from_slice(&reply.payload).expect("an answer is JSON");
        (ack["accepted"] != true).then(|| text(&ack, "/error").to_owned())
    }

    /// Waits until the newer revision has a share; its module may still be loaded after the answer.
    async fn begin(&self, share: u8) {
        assert_eq!(self.share(share).await, None);
        eventually("the trial begins", async || {
            let trial = self.told().await.1?;
            (trial.share == share).then_some(())
        })
        .await;
    }

    /// Asks for a share of the newer revision.
    async fn share(&self, share: u8) -> Option<String> {
        let body = json!({
            "actor_id": self.first.id, "new_actor_ref": self.second.reference, "share": share,
        });
        self.refusal("upd", &body).await
    }

    async fn inventory(&self) -> Inventory {
        let subject = self.server.ctl(format_args!("get.{}.inv", self.host.id));
        let reply = nats(&self.server).await.request(subject, "".into()).await.expect("an answer");
        serde_json::from_slice(&reply.payload).expect("an inventory")
    }

    /// Returns the reference that old clients are told, and the trial.
    async fn told(&self) -> (String, Option<Trial>) {
        let actor = self.inventory().await.actors.into_iter().next().expect("the actor");
        (actor.image_ref, actor.trial)
    }

    async fn answers(&self) -> String {
        let answer = self.caller.call(&self.first.id, "Any.Thing", "").await.expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Waits until the claims of a revision are those of the actor in the lattice.
    async fn is_known_as(&self, revision: u32) {
        let ctl = ctl_2024(&self.server).await;
        eventually(&format!("the lattice knows revision {revision}"), async || {
            let claims = ctl.get_claims().await.ok()?;
            let own = claims.iter().find(|claims| claims["sub"] == self.first.id)?;
            (own["rev"] == revision.to_string()).then_some(())
        })
        .await;
    }
}

/// A revision of an actor that answers with a text of three letters.
fn revision(key: &KeyPair, revision: i32, text: &str) -> Guest {
    let body = "(call $response (i32.const 64) (i32.const 3)) (i32.const 1)";
    let data = format!("(data (i32.const 64) \"{text}\")\n (func (export");
    sign_as(&wapc(body).replace("(func (export", &data), &signing(revision), again(key))
}

fn signing(revision: i32) -> Signing {
    let caps = vec![HTTP.to_owned()];
    Signing { caps, revision: Some(revision), ..Signing::default() }
}

fn again(key: &KeyPair) -> KeyPair {
    KeyPair::from_seed(&key.seed().expect("a seed")).expect("a key")
}

#[tokio::test]
async fn a_newer_revision_may_have_all_calls_and_is_taken_back_without_a_trace() {
    let stage = Stage::open().await;
    stage.is_known_as(1).await;
    stage.begin(100).await;
    let (image, trial) = stage.told().await;
    let trial = trial.expect("a trial");
    assert_eq!(
        (image, trial.stable_ref, trial.stable_revision, trial.share),
        (stage.second.reference.clone(), stage.first.reference.clone(), 1, 100)
    );
    assert_eq!((stage.answers().await, stage.answers().await), ("two".into(), "two".into()));
    stage.is_known_as(2).await;

    assert_eq!(stage.share(0).await, None);
    assert_eq!(stage.answers().await, "one");
    assert_eq!(stage.told().await, (stage.first.reference.clone(), None));
    stage.is_known_as(1).await;

    let mut events = Events::all(&stage.server).await;
    let refusal = stage.share(0).await.expect("a refusal");
    assert!(refusal.contains("none to take back"), "{refusal}");
    for (share, id, expected) in [(101, &*stage.first.id, "1 to 100"), (10, "", "actor_id")] {
        let reference = &stage.second.reference;
        let body = json!({ "actor_id": id, "new_actor_ref": reference, "share": share });
        let refusal = stage.refusal("upd", &body).await.expect("a refusal");
        assert!(refusal.contains(expected), "{refusal}");
    }
    // Nothing was told of what changed nothing.
    let ctl = ctl_2024(&stage.server).await;
    ctl.scale_actor(&stage.host.id, &stage.first.reference, 2, None).await.expect("an ack");
    let names = events.names_until("actor_scaled").await;
    assert!(!names.iter().any(|name| name == "actor_updated"), "{names:?}");
    stage.host.stop().await;
}

#[tokio::test]
async fn an_actor_goes_by_its_own_reference_and_by_that_of_the_newer_revision() {
    let stage = Stage::open().await;
    stage.begin(10).await;
    let mut events = Events::all(&stage.server).await;
    for (count, named) in [
        (3, json!({ "actor_id": stage.first.id })),
        (4, json!({ "actor_ref": stage.first.reference })),
        (5, json!({ "actor_ref": stage.second.reference })),
    ] {
        let mut body = named;
        body["count"] = count.into();
        assert_eq!(stage.refusal("scale", &body).await, None, "{body}");
        let scaled = events.next("actor_scaled").await;
        assert_eq!(text(&scaled, "/data/image_ref"), stage.first.reference, "{body}");
        assert_eq!(scaled["data"]["max_instances"], count, "{scaled}");
    }
    let stop = json!({ "actor_ref": stage.second.reference });
    assert_eq!(stage.refusal("sa", &stop).await, None);
    events.next("actors_stopped").await;
    assert!(stage.inventory().await.actors.is_empty());
    stage.host.stop().await;
}

/// A component of WASI 0.2 that answers requests with a status and no body: `status` is the body of
/// a function, for which `$count` is a global that is zero in each new instance.
fn answering_with(status: &str) -> Vec<u8> {
    let text = include_str!("trials/status.wat").replace("STATUS", status);
    wat::parse_str(text).expect("valid text")
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_5xx_of_a_component_are_failures_of_its_revision() {
    let key = KeyPair::new_module();
    let revision =
        |number, status| sign_module(&answering_with(status), &signing(number), again(&key));
    let (good, bad) = (revision(1, "(i32.const 204)"), revision(2, "(i32.const 503)"));
    let stage = Stage::of(good, bad).await;
    stage.begin(50).await;
    for _ in 0..20 {
        let request = http_request("GET", "/", b"");
        let called = stage.caller.call(&stage.first.id, "HttpServer.HandleRequest", request).await;
        called.expect("an answer");
    }
    let trial = stage.told().await.1.expect("a trial");
    assert_eq!((trial.stable.failed, trial.stable.latency.count()), (0, 10));
    assert_eq!((trial.newer.failed, trial.newer.latency.count()), (10, 10));
    stage.host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_wasi_0_2_is_used_again_if_that_is_asked_for() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let caller = Caller::new(&server).await;
    let count = "(global.set $count (i32.add (global.get $count) (i32.const 1))) \
        (i32.add (i32.const 200) (global.get $count))";
    let guest = sign_module(&answering_with(count), &signing(1), KeyPair::new_module());
    let ctl = ctl_2024(&server).await;
    for (reuse, expected) in [(None, [201, 201, 201, 201]), (Some("3"), [201, 202, 203, 201])] {
        let annotations = reuse.map(|reuse| {
            HashMap::from([("lattice.host/instance-reuse".to_owned(), reuse.to_owned())])
        });
        let mut events = Events::all(&server).await;
        ctl.scale_actor(&host.id, &guest.reference, 1, annotations).await.expect("an ack");
        events.next("actor_scaled").await;
        for status in expected {
            let request = http_request("GET", "/", b"");
            let answer = caller.call(&guest.id, "HttpServer.HandleRequest", request).await;
            assert_eq!(status_of(&answer.expect("an answer")), status, "{reuse:?}");
        }
    }
    host.stop().await;
}

fn status_of(answer: &[u8]) -> u16 {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Answer {
        status_code: u16,
    }
    rmp_serde::from_slice::<Answer>(answer).expect("a response decodes").status_code
}
