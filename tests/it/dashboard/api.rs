//! The API: what it shows, and what it changes.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use lattice_engine::providers::builtin::httpserver;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Dashboard, start, with_dashboard};
use crate::harness::{
    ECHO, PONGER, PROVIDER, Server, client, eventually, example,
    guests::{self, Signing},
    host,
    nats::free_port,
};

fn file(name: &str) -> Vec<u8> {
    std::fs::read(example(name).strip_prefix("file://").unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_is_put_together_and_taken_apart() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let id = dashboard.host.id.clone();
    let (status, uploaded) = dashboard.upload(file("echo")).await;
    assert_eq!(
        (status, &uploaded["kind"], &uploaded["public_key"]),
        (StatusCode::OK, &json!("actor"), &json!(ECHO))
    );
    let reference = uploaded["reference"].as_str().unwrap().to_owned();

    let started = dashboard.done(Method::POST, "/actors", start(&reference, None)).await;
    assert_eq!((&started["target_id"], &started["host_id"]), (&json!(ECHO), &json!(id)));
    let stages: Vec<_> =
        started["stages"].as_array().unwrap().iter().map(|stage| stage["name"].clone()).collect();
    assert!(stages.contains(&json!("auction")) && stages.contains(&json!("command")), "{stages:?}");
    let provider = json!({ "reference": "builtin://httpserver", "host_id": id });
    let provider = dashboard.done(Method::POST, "/providers", provider).await;
    assert_eq!(provider["target_id"], httpserver::SPEC.known.public_key);

    let port = free_port();
    let link = json!({
        "actor_id": ECHO, "provider_id": httpserver::SPEC.known.public_key, "contract_id": "wasmcloud:httpserver",
        "values": { "address": format!("127.0.0.1:{port}") },
    });
    dashboard.done(Method::PUT, "/links", link).await;
    let url = dashboard
        .until("/links", |links| Some(links["items"][0]["urls"][0].as_str()?.to_owned()))
        .await;
    let page = eventually("the page is there", || async { reqwest::get(&url).await.ok() }).await;
    assert_eq!(page.status(), StatusCode::OK);

    let scaled = json!({ "host_id": id, "max": 7 });
    dashboard.done(Method::POST, &format!("/actors/{ECHO}/scale"), scaled).await;
    let detail = dashboard
        .until(&format!("/actors/{ECHO}"), |actor| (actor["replicas"] == 7).then(|| actor.clone()))
        .await;
    assert_eq!(detail["placements"][0]["host_id"], json!(id));
    assert_eq!(detail["claims"]["caps"], json!(["wasmcloud:httpserver"]));
    assert_eq!((&detail["links"][0]["state"], &detail["missing"]), (&json!("ok"), &json!([])));
    let operation = &detail["operations"][0];
    assert_eq!(
        (&operation["operation"], &operation["calls"]),
        (&json!("HttpServer.HandleRequest"), &json!(1))
    );

    let again = dashboard
        .done(Method::POST, "/actors", json!({ "reference": reference, "host_id": id, "max": 7 }))
        .await;
    assert!(again["text"].as_str().unwrap().contains("already"), "{again}");
    let which = format!("/links?actor_id={ECHO}&contract_id=wasmcloud:httpserver");
    dashboard.done(Method::DELETE, &which, Value::Null).await;
    dashboard.done(Method::POST, &format!("/actors/{ECHO}/stop"), json!({ "host_id": id })).await;
    let stop = format!("/providers/{}/default/stop", httpserver::SPEC.known.public_key);
    dashboard.done(Method::POST, &stop, json!({ "host_id": id })).await;
    dashboard
        .until("/overview", |overview| {
            let counts = &overview["counts"];
            (counts["actors"] == 0 && counts["providers"] == 0 && counts["links"] == 0)
                .then_some(())
        })
        .await;
    let events = dashboard.get("/events?severity=good").await;
    let texts: Vec<_> =
        events["items"].as_array().unwrap().iter().map(|event| event["text"].to_string()).collect();
    assert!(texts.iter().any(|text| text.contains("echo linked to HTTP server")), "{texts:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_told_with_its_reason() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let id = dashboard.host.id.clone();
    let failed = dashboard
        .change(Method::POST, "/actors", start("file:///nowhere/at/all.wasm", Some(&id)))
        .await;
    assert_eq!(failed["state"], "failed");
    assert!(failed["text"].as_str().unwrap().contains("/nowhere/at/all.wasm"), "{failed}");
    dashboard
        .until("/overview", |overview| {
            let all = overview["attention"].as_array()?;
            all.iter().any(|item| item["text"].to_string().contains("all.wasm")).then_some(())
        })
        .await;
    let nobody = json!({ "reference": example("echo"), "constraints": { "machine": "moon" } });
    let nobody = dashboard.change(Method::POST, "/actors", nobody).await;
    assert!(nobody["text"].as_str().unwrap().contains("no label machine"), "{nobody}");

    let unsigned = wat::parse_str("(module)").unwrap();
    let cases = [
        (dashboard.upload(unsigned).await, StatusCode::UNPROCESSABLE_ENTITY, "host claims sign"),
        (dashboard.upload(b"hello".to_vec()).await, StatusCode::UNPROCESSABLE_ENTITY, "neither"),
        (
            dashboard.upload(vec![0; (64 << 20) + 1]).await,
            StatusCode::PAYLOAD_TOO_LARGE,
            "host push",
        ),
        (
            dashboard.send(Method::POST, "/actors", Some(json!({}))).await,
            StatusCode::UNPROCESSABLE_ENTITY,
            "reference",
        ),
        (
            dashboard.send(Method::POST, "/actors", Some(start("x:1", Some("N.>")))).await,
            StatusCode::UNPROCESSABLE_ENTITY,
            "host",
        ),
        (
            dashboard
                .send(Method::POST, "/providers", Some(json!({ "reference": "builtin://nothing" })))
                .await,
            StatusCode::UNPROCESSABLE_ENTITY,
            "builtin://httpserver",
        ),
        (
            dashboard
                .send(Method::DELETE, &format!("/links?actor_id={ECHO}&contract_id=a:b"), None)
                .await,
            StatusCode::NOT_FOUND,
            "no link",
        ),
        (dashboard.send(Method::GET, "/hosts/NOBODY", None).await, StatusCode::NOT_FOUND, "NOBODY"),
        (
            dashboard.send(Method::GET, "/actors?limit=many", None).await,
            StatusCode::BAD_REQUEST,
            "limit",
        ),
        (dashboard.send(Method::GET, "/nothing", None).await, StatusCode::NOT_FOUND, "openapi"),
    ];
    for ((status, body), expected, words) in cases {
        assert_eq!(status, expected, "{body}");
        assert!(body["error"].as_str().unwrap().contains(words), "{words}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auction_tells_which_hosts_would_take_something() {
    let server = Server::shared().await;
    let dashboard =
        Dashboard::of(with_dashboard(host(&server)).label("machine", "first").start().await);
    let second = host(&server).label("machine", "second").start().await;
    dashboard.until("/hosts", |hosts| (hosts["total"] == 2).then_some(())).await;
    let asked = json!({ "kind": "actor", "reference": example("echo"), "constraints": { "machine": "second" } });
    let (status, offers) = dashboard.send(Method::POST, "/auctions", Some(asked)).await;
    assert_eq!(status, StatusCode::OK, "{offers}");
    let offers: BTreeMap<String, Value> = offers["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|offer| (offer["host_id"].as_str().unwrap().to_owned(), offer.clone()))
        .collect();
    assert_eq!(offers[&second.id]["offers"], true, "{offers:#?}");
    let first = &offers[&dashboard.host.id];
    assert_eq!(
        (&first["offers"], &first["why"]),
        (&json!(false), &json!("its machine is first, not second"))
    );

    // The replica is started where the constraint says, and the label of a host can be changed from
    // here.
    let placed = json!({ "reference": example("echo"), "constraints": { "machine": "second" } });
    let placed = dashboard.done(Method::POST, "/actors", placed).await;
    assert_eq!(placed["host_id"], json!(second.id));
    let label = format!("/hosts/{}/labels/zone", second.id);
    dashboard.done(Method::PUT, &label, json!({ "value": "a b" })).await;
    let labels = format!("/hosts/{}", second.id);
    dashboard.until(&labels, |host| (host["labels"]["zone"] == "a b").then_some(())).await;
    dashboard.done(Method::DELETE, &label, Value::Null).await;
    dashboard.until(&labels, |host| host["labels"]["zone"].is_null().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_made_and_its_decision_told() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    dashboard.done(Method::POST, "/actors", start(&example("echo"), None)).await;
    let request =
        json!({ "method": "GET", "path": "/hello", "queryString": "", "header": {}, "body": [] });
    let call =
        json!({ "actor_id": ECHO, "operation": "HttpServer.HandleRequest", "payload": request });
    let (status, reply) = dashboard.send(Method::POST, "/call", Some(call)).await;
    assert_eq!(
        (status, &reply["ok"], &reply["reply"]["statusCode"]),
        (StatusCode::OK, &json!(true), &json!(200)),
        "{reply}"
    );
    assert!(reply["text"].as_str().unwrap().contains("/hello"), "{reply}");
    assert!(reply["took_us"].as_u64().unwrap() > 0);
    let steps = reply["trace"]["steps"].as_array().unwrap();
    assert!(
        steps.iter().any(|step| step["step"] == "path" && step["outcome"] == "ok"),
        "{steps:#?}"
    );

    let nobody = json!({ "actor_id": PONGER, "operation": "Pong.Pong" });
    let (_, reply) = dashboard.send(Method::POST, "/call", Some(nobody)).await;
    assert_eq!(reply["ok"], false);
    assert!(reply["error"].as_str().unwrap().contains(PONGER), "{reply}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_of_the_lattice_come_and_go() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    dashboard.until("/hosts", |hosts| (hosts["total"] == 1).then_some(())).await;
    let second = host(&server).start().await;
    let name = dashboard
        .until("/hosts", |hosts| {
            let all = hosts["items"].as_array()?;
            all.iter().find(|host| host["id"] == json!(second.id))?["name"]
                .as_str()
                .map(str::to_owned)
        })
        .await;
    assert!(!name.is_empty());
    // Replicas started by other means show here, too.
    client::start(&server, &second, &example("echo"), 3).await;
    dashboard.until("/actors", |actors| (actors["items"][0]["replicas"] == 3).then_some(())).await;
    let detail = format!("/hosts/{}", second.id);
    let round_trip =
        dashboard.until(&detail, |host| host["vitals"]["ctl"]["round_trip_us"].as_u64()).await;
    assert!(round_trip > 0);
    let stop = format!("/hosts/{}/stop", second.id);
    let (status, begun) = dashboard.send(Method::POST, &stop, Some(json!({}))).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{begun}");
    second.stop().await;
    dashboard.until("/hosts", |hosts| (hosts["total"] == 1).then_some(())).await;
    dashboard.until("/actors", |actors| (actors["total"] == 0).then_some(())).await;
    let events = dashboard.get(&format!("/events?q={name}")).await;
    let names: Vec<_> =
        events["items"].as_array().unwrap().iter().map(|event| event["name"].clone()).collect();
    assert!(
        names.contains(&json!("host_started")) && names.contains(&json!("host_stopped")),
        "{names:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_takes_nobody_else_for_lost() {
    let mut server = Server::start().await;
    let dashboard = Dashboard::start(&server).await;
    let _second = host(&server).start().await;
    dashboard.until("/hosts", |hosts| (hosts["total"] == 2).then_some(())).await;
    server.kill();
    let says = |overview: &Value, words: &str| overview["attention"].to_string().contains(words);
    dashboard.until("/overview", |overview| says(overview, "no connection").then_some(())).await;
    eventually("the other one is silent", || async {
        dashboard.host.other_hosts().iter().any(|(_, is_silent)| *is_silent).then_some(())
    })
    .await;
    let hosts = dashboard.get("/hosts").await;
    let states: Vec<_> =
        hosts["items"].as_array().unwrap().iter().map(|host| host["state"].clone()).collect();
    assert_eq!(states, [json!("ok"), json!("ok")], "{hosts}");
    assert_eq!(dashboard.get("/events?name=host_lost").await["items"], json!([]));
    server.resume().await;
    dashboard
        .until("/overview", |overview| (overview["attention"] == json!([])).then_some(()))
        .await;
    dashboard.until("/hosts", |hosts| (hosts["total"] == 2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_links_stay_where_they_are() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let put = |values: Value| {
        json!({
            "actor_id": ECHO, "provider_id": PROVIDER, "contract_id": "acme:store", "values": values,
        })
    };
    dashboard
        .done(Method::PUT, "/links", put(json!({ "password": "hunter22", "url": "redis://a" })))
        .await;
    let shown = dashboard.until("/links", |links| links["items"].get(0).cloned()).await;
    assert_eq!(shown["values"], json!({ "password": null, "url": "redis://a" }));
    // A value that was not shown is kept, one that was shown is changed.
    dashboard
        .done(Method::PUT, "/links", put(json!({ "password": null, "url": "redis://b" })))
        .await;
    let table = dashboard.host.host().links().table();
    let link = table.link(ECHO, "acme:store", "default").expect("the link");
    assert_eq!((&*link.values["password"], &*link.values["url"]), ("hunter22", "redis://b"));
    let text = format!("{}{}", dashboard.get("/events").await, dashboard.get("/operations").await);
    assert!(!text.contains("hunter22"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_tell_what_changed() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let stream = reqwest::get(dashboard.at("/stream")).await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let mut bytes = stream.bytes_stream();
    let mut heard = String::new();
    let mut wanted = async |words: &str| {
        let search = async {
            while !heard.contains(words) {
                heard.push_str(&String::from_utf8_lossy(
                    &bytes.next().await.expect("more").expect("bytes"),
                ));
            }
        };
        tokio::time::timeout(crate::harness::PATIENCE, search)
            .await
            .unwrap_or_else(|_| panic!("no {words:?}"));
        heard.clear();
    };
    wanted("event: hello").await;
    dashboard.done(Method::POST, "/actors", start(&example("echo"), None)).await;
    wanted("\"name\":\"actor_scaled\"").await;
    wanted("event: overview").await;
    wanted("event: tick").await;
    let (_, begun) = dashboard
        .send(
            Method::POST,
            &format!("/actors/{ECHO}/stop"),
            Some(json!({ "host_id": dashboard.host.id })),
        )
        .await;
    wanted(&format!("\"id\":{}", begun["id"])).await;
    // It ends with the host.
    dashboard.host.stop().await;
    while let Some(Ok(_)) = bytes.next().await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lattice_with_many_actors_is_shown_in_pages() {
    let server = Server::shared().await;
    let dashboard = Dashboard::start(&server).await;
    let (mut ids, mut kept) = (Vec::new(), Vec::new());
    for number in 0..12 {
        let signing = Signing { name: Some(format!("actor {number:02}")), ..Signing::default() };
        let guest = guests::sign(&guests::wapc("(i32.const 1)"), &signing);
        let (status, _) =
            dashboard.send(Method::POST, "/actors", Some(start(&guest.reference, None))).await;
        assert_eq!(status, StatusCode::ACCEPTED);
        ids.push(guest.id.clone());
        kept.push(guest);
    }
    dashboard.until("/actors", |actors| (actors["total"] == 12).then_some(())).await;
    let page = dashboard.get("/actors?sort=-name&offset=2&limit=3").await;
    let names: Vec<_> =
        page["items"].as_array().unwrap().iter().map(|actor| actor["name"].clone()).collect();
    assert_eq!(
        (names, &page["total"]),
        (vec![json!("actor 09"), json!("actor 08"), json!("actor 07")], &json!(12))
    );
    let found = dashboard.get(&format!("/actors?q={}", &ids[5][..20])).await;
    assert_eq!((&found["total"], &found["items"][0]["name"]), (&json!(1), &json!("actor 05")));
}
