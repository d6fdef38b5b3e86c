//! The control interface, driven by the client crates of 2022 and 2024.

use std::collections::HashMap;

use serde_json::json;

use crate::harness::{
    CLUSTER, ECHO, Events, PONGER, PROVIDER, Server,
    client::{self, ctl_2022, ctl_2024, start},
    eventually, example, host, text,
};

#[tokio::test]
async fn both_clients_see_the_host_as_it_is() {
    let server = Server::shared().await;
    let host = host(&server).label("machine", "first").start().await;

    let hosts = ctl_2024(&server).await.get_hosts().await.unwrap();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].id, host.id);
    assert_eq!(hosts[0].labels.as_ref().unwrap()["machine"], "first");
    assert_eq!(hosts[0].js_domain.as_deref(), Some("core"));
    assert_eq!(hosts[0].cluster_issuers.as_deref(), Some(CLUSTER));
    assert_eq!(hosts[0].lattice.as_deref(), Some(server.lattice()));

    let hosts = ctl_2022(&server).await.get_hosts().await.unwrap();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].id, host.id);
    assert_eq!(hosts[0].lattice_prefix.as_deref(), Some(server.lattice()));

    let inventory = ctl_2024(&server).await.get_host_inventory(&host.id).await.unwrap();
    assert!(inventory.actors.is_empty() && inventory.providers.is_empty());
    assert!(inventory.labels.contains_key("hostcore.os"));
    host.stop().await;
}

#[tokio::test]
async fn an_actor_started_in_2024_style_is_listed_and_stopped() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let ctl = ctl_2024(&server).await;
    let mut events = Events::all(&server).await;

    let annotations = HashMap::from([("owner".to_owned(), "me \"and\" you".to_owned())]);
    let ack =
        ctl.scale_actor(&host.id, &example("echo"), 3, Some(annotations.clone())).await.unwrap();
    assert!(ack.accepted, "{}", ack.error);
    let names = events.names_until("actor_scaled").await;
    let actor_events: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| name.starts_with("actor")).collect();
    assert_eq!(
        actor_events,
        ["actor_started", "actor_started", "actor_started", "actors_started", "actor_scaled"]
    );

    let inventory = ctl.get_host_inventory(&host.id).await.unwrap();
    assert_eq!(inventory.actors.len(), 1);
    assert_eq!(inventory.actors[0].id, ECHO);
    assert_eq!(inventory.actors[0].image_ref.as_deref(), Some(example("echo").as_str()));
    assert_eq!(inventory.actors[0].instances[0].max_instances, 3);
    assert_eq!(
        inventory.actors[0].instances[0].annotations.as_ref().unwrap()["owner"],
        annotations["owner"]
    );

    let claims = ctl.get_claims().await.unwrap();
    assert!(
        claims
            .iter()
            .any(|claims| claims["sub"] == ECHO && claims["caps"] == "wasmcloud:httpserver")
    );

    let ack = ctl.stop_actor(&host.id, ECHO, Some(annotations)).await.unwrap();
    assert!(ack.accepted, "{}", ack.error);
    let names = events.names_until("actor_scaled").await;
    assert!(
        names.ends_with(&["actor_stopped".into(), "actors_stopped".into(), "actor_scaled".into()]),
        "{names:?}"
    );
    assert!(ctl.get_host_inventory(&host.id).await.unwrap().actors.is_empty());

    let again = ctl.stop_actor(&host.id, ECHO, None).await.unwrap();
    assert!(!again.accepted && again.error.contains(ECHO), "{}", again.error);
    host.stop().await;
}

#[tokio::test]
async fn an_actor_started_in_2022_style_is_scaled_and_stopped() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let ctl = ctl_2022(&server).await;
    let mut events = Events::all(&server).await;
    let reference = example("echo");

    for expected in [2, 4] {
        assert!(ctl.start_actor(&host.id, &reference, 2, None).await.unwrap().accepted);
        let scaled = events.next("actor_scaled").await;
        assert_eq!(scaled["data"]["max_instances"], expected);
    }
    let inventory = ctl.get_host_inventory(&host.id).await.unwrap();
    assert_eq!(inventory.actors[0].id, ECHO);
    assert_eq!(inventory.actors[0].instances.len(), 1);

    assert!(ctl.scale_actor(&host.id, &reference, ECHO, 1, None).await.unwrap().accepted);
    let stopped = events.next("actors_stopped").await;
    assert_eq!(
        (stopped["data"]["count"].as_u64(), stopped["data"]["remaining"].as_u64()),
        (Some(3), Some(1))
    );

    // This client names the actor by its key in a member called reference.
    assert!(ctl.stop_actor(&host.id, ECHO, 0, None).await.unwrap().accepted);
    assert_eq!(text(&events.next("actor_stopped").await, "/data/public_key"), ECHO);
    host.stop().await;
}

#[tokio::test]
async fn starting_what_runs_already_still_produces_an_event() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    start(&server, &host, &example("echo"), 1).await;
    let mut events = Events::all(&server).await;
    ctl_2024(&server).await.scale_actor(&host.id, &example("echo"), 1, None).await.unwrap();
    assert_eq!(events.names_until("actor_scaled").await, ["actor_started", "actor_scaled"]);
    host.stop().await;
}

#[tokio::test]
async fn events_are_on_both_subjects_and_carry_what_clients_need() {
    let server = Server::shared().await;
    let mut all = Events::all(&server).await;
    let mut own = Events::only(&server, "host_started").await;
    let host = host(&server).label("machine", "first").start().await;
    let (first, second) = (all.next("host_started").await, own.next("host_started").await);
    assert_eq!(first, second);
    assert_eq!(text(&first, "/source"), host.id);
    assert_eq!(text(&first, "/data/labels/machine"), "first");
    let heartbeat = all.next("host_heartbeat").await;
    assert!(heartbeat["data"]["actors"].is_object());

    start(&server, &host, &example("ponger"), 1).await;
    let started = all.next("actors_started").await;
    let claims = &started["data"]["claims"];
    assert!(claims["caps"].as_array().unwrap().is_empty());
    assert_eq!(claims["call_alias"], "lattice/ponger");
    assert_eq!(claims["expires_human"], "never");
    host.stop().await;
    assert_eq!(text(&all.next("host_stopped").await, "/source"), text(&first, "/source"));
}

#[tokio::test]
async fn auctions_are_won_by_matching_hosts_only() {
    let server = Server::shared().await;
    let first = host(&server).label("machine", "first").start().await;
    let second = host(&server).label("machine", "second").start().await;
    let on = |machine: &str| HashMap::from([("machine".to_owned(), machine.to_owned())]);

    let bids =
        ctl_2024(&server).await.perform_actor_auction("file:///x", on("second")).await.unwrap();
    assert_eq!(
        bids.iter().map(|bid| bid.host_id.as_str()).collect::<Vec<_>>(),
        [second.id.as_str()]
    );
    let bids =
        ctl_2022(&server).await.perform_actor_auction("file:///x", on("first")).await.unwrap();
    assert_eq!(
        bids.iter().map(|bid| bid.host_id.as_str()).collect::<Vec<_>>(),
        [first.id.as_str()]
    );
    assert!(
        ctl_2024(&server)
            .await
            .perform_actor_auction("file:///x", on("none"))
            .await
            .unwrap()
            .is_empty()
    );
    first.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn a_malformed_auction_gets_no_answer_and_other_nonsense_a_reasoned_refusal() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let nats = client::nats(&server).await;
    let ask = |subject: String, body: &'static str| {
        let nats = nats.clone();
        async move {
            let request = async_nats::Request::new()
                .payload(body.into())
                .timeout(Some(std::time::Duration::from_millis(400)));
            nats.send_request(subject, request).await.map(|reply| reply.payload)
        }
    };
    assert!(ask(server.ctl("auction.actor"), "not json").await.is_err());

    for (subject, body, complaint) in [
        ("scale", "{\"actor_ref\":\"x\"}", "count"),
        ("scale", "not \"json\"", "malformed"),
        ("scale", "{\"actor_ref\":\"\",\"count\":1}", "does not run"),
        ("sa", "{}", "actor_ref"),
        ("upd", "[]", "malformed"),
        ("dance", "{}", "unsupported"),
        ("lp", "{\"provider_ref\":\"builtin://x\"}", "no built-in provider"),
        ("sp", "{\"provider_ref\":\"V\"}", "does not run"),
    ] {
        let reply = ask(server.ctl(format_args!("cmd.{}.{subject}", host.id)), body).await.unwrap();
        let ack: serde_json::Value = serde_json::from_slice(&reply).expect("an ack is JSON");
        assert_eq!(ack["accepted"], json!(false), "{subject}");
        assert!(text(&ack, "/error").contains(complaint), "{subject}: {ack}");
    }
    host.stop().await;
}

#[tokio::test]
async fn failed_starts_tell_all_clients_why() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let mut events = Events::all(&server).await;
    let reference = "file:///no/such/actor.wasm";
    assert!(
        ctl_2024(&server).await.scale_actor(&host.id, reference, 1, None).await.unwrap().accepted
    );
    let old = events.next("actor_start_failed").await;
    assert_eq!(text(&old, "/data/actor_ref"), reference);
    let failed = events.next("actors_start_failed").await;
    assert_eq!(text(&failed, "/data/image_ref"), reference);
    let new = events.next("actor_scale_failed").await;
    assert_eq!(text(&new, "/data/actor_ref"), reference);
    assert!(text(&new, "/data/error").contains("No such file"), "{new}");
    assert_eq!(text(&new, "/data/public_key"), "N/A");
    host.stop().await;
}

#[tokio::test]
async fn files_are_refused_unless_allowed() {
    let server = Server::shared().await;
    let host = host(&server).set("enable_start_from_fs", "false").start().await;
    let mut events = Events::all(&server).await;
    ctl_2024(&server).await.scale_actor(&host.id, &example("echo"), 1, None).await.unwrap();
    let failed = events.next("actor_start_failed").await;
    assert!(text(&failed, "/data/error").contains("allow_file_load"), "{failed}");
    host.stop().await;
}

#[tokio::test]
async fn labels_change_while_the_host_runs() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let ctl = ctl_2024(&server).await;
    assert!(ctl.put_label(&host.id, "zone", "b").await.unwrap().accepted);
    let zone = HashMap::from([("zone".to_owned(), "b".to_owned())]);
    assert_eq!(ctl.perform_actor_auction("file:///x", zone.clone()).await.unwrap().len(), 1);
    assert!(ctl.delete_label(&host.id, "zone").await.unwrap().accepted);
    assert!(ctl.perform_actor_auction("file:///x", zone).await.unwrap().is_empty());
    host.stop().await;
}

#[tokio::test]
async fn named_configuration_is_stored_per_entity() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let ctl = ctl_2024(&server).await;
    let mut events = Events::all(&server).await;
    assert!(!ctl.get_config(ECHO, "greeting").await.unwrap().found);
    assert!(ctl.put_config(ECHO, "greeting", "hello").await.unwrap().accepted);
    assert_eq!(text(&events.next("config_set").await, "/data/key"), "greeting");
    let one = ctl.get_config(ECHO, "greeting").await.unwrap();
    assert!(one.found);
    assert_eq!(one.data, b"hello");
    assert_eq!(ctl.get_all_config(ECHO).await.unwrap()["greeting"], b"hello");
    assert!(ctl.get_all_config(PONGER).await.unwrap().is_empty());
    assert!(ctl.delete_config_key(ECHO, "greeting").await.unwrap().accepted);
    assert!(!ctl.get_config(ECHO, "greeting").await.unwrap().found);
    assert!(!ctl.put_config("nobody", "greeting", "x").await.unwrap().accepted);
    host.stop().await;
}

#[tokio::test]
async fn links_are_put_queried_and_removed_by_both_clients() {
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let (new, old) = (ctl_2024(&server).await, ctl_2022(&server).await);
    let mut events = Events::all(&server).await;
    let values = HashMap::from([("ADDRESS".to_owned(), "0.0.0.0:8080".to_owned())]);
    let ack = new
        .advertise_link(ECHO, PROVIDER, "wasmcloud:httpserver", "default", values)
        .await
        .unwrap();
    assert!(ack.accepted, "{}", ack.error);
    let set = events.next("linkdef_set").await;
    assert_eq!(text(&set, "/data/provider_id"), PROVIDER);
    assert_eq!(text(&set, "/data/id").len(), 64);

    let links = old.query_links().await.unwrap().links;
    assert_eq!(links.len(), 1);
    assert_eq!(links[0].values["ADDRESS"], "0.0.0.0:8080");

    assert!(old.remove_link(ECHO, "wasmcloud:httpserver", "default").await.unwrap().accepted);
    events.next("linkdef_deleted").await;
    assert!(new.query_links().await.unwrap().is_empty());
    // Removing what is not there is fine with every client.
    assert!(new.remove_link(ECHO, "wasmcloud:httpserver", "default").await.unwrap().accepted);
    host.stop().await;
}

#[tokio::test]
async fn a_live_update_needs_the_same_key_and_a_higher_revision() {
    use crate::harness::guests::{Signing, sign, sign_as, wapc};
    let server = Server::shared().await;
    let host = host(&server).start().await;
    let ctl = ctl_2024(&server).await;
    let answer = |text: &str| {
        let length = text.len();
        let module =
            wapc(&format!("(call $response (i32.const 64) (i32.const {length})) (i32.const 1)"));
        module
            .replace("(func (export", &format!("(data (i32.const 64) \"{text}\")\n (func (export"))
    };
    let revision = |revision| Signing { revision: Some(revision), ..Signing::default() };
    let first = sign(&answer("one"), &revision(1));
    start(&server, &host, &first.reference, 2).await;
    let caller = client::Caller::new(&server).await;
    assert_eq!(caller.call(&first.id, "Any.Thing", "").await.unwrap(), "one");

    let stranger = sign(&answer("no"), &revision(9));
    let ack = ctl.update_actor(&host.id, &first.id, &stranger.reference, None).await.unwrap();
    assert!(!ack.accepted && ack.error.contains(&stranger.id), "{}", ack.error);

    let seed = first.key.seed().unwrap();
    let again = || wascap::prelude::KeyPair::from_seed(&seed).unwrap();
    let stale = sign_as(&answer("no"), &revision(1), again());
    let ack = ctl.update_actor(&host.id, &first.id, &stale.reference, None).await.unwrap();
    assert!(!ack.accepted && ack.error.contains("revision"), "{}", ack.error);
    assert_eq!(caller.call(&first.id, "Any.Thing", "").await.unwrap(), "one");

    let second = sign_as(&answer("two"), &revision(2), again());
    let mut events = Events::all(&server).await;
    let ack = ctl.update_actor(&host.id, &first.id, &second.reference, None).await.unwrap();
    assert!(ack.accepted, "{}", ack.error);
    assert_eq!(events.next("actor_updated").await["data"]["revision"], 2);
    assert_eq!(caller.call(&first.id, "Any.Thing", "").await.unwrap(), "two");
    let inventory = ctl.get_host_inventory(&host.id).await.unwrap();
    assert_eq!(inventory.actors[0].image_ref.as_deref(), Some(second.reference.as_str()));

    // The same key from another image is refused as a start.
    ctl.scale_actor(&host.id, &first.reference, 1, None).await.unwrap();
    let failed = events.next("actor_start_failed").await;
    assert!(text(&failed, "/data/error").contains("different image reference"), "{failed}");
    host.stop().await;
}

#[tokio::test]
async fn a_host_stops_when_a_client_asks() {
    let server = Server::shared().await;
    let first = host(&server).start().await;
    let ctl = ctl_2022(&server).await;
    start(&server, &first, &example("echo"), 1).await;
    let mut events = Events::all(&server).await;
    assert!(ctl.stop_host(&first.id, Some(1000)).await.unwrap().accepted);
    // In the binary the process ends here; in a test the host has to be told.
    first.stop().await;
    let names = events.names_until("host_stopped").await;
    assert!(names.contains(&"actors_stopped".to_owned()), "{names:?}");
    eventually("nobody answers", || async { ctl.get_hosts().await.ok().filter(Vec::is_empty) })
        .await;
}
