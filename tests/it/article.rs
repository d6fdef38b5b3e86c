//! Every command of the article, typed with the binary: what each brings about.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    harness::nats::{self, free_port},
    walk::{
        app::App,
        article::{self, Effect},
        ground::Ground,
        lattice::{Plan, Programs},
    },
};

fn after<'e>(effects: &'e [Effect], command: &str) -> &'e Value {
    let found = effects.iter().find(|effect| effect.command.starts_with(command));
    &found.unwrap_or_else(|| panic!("{command} in {effects:#?}")).lattice
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_article_works_with_this_binary_in_place_of_wash() {
    let dir = TempDir::new().unwrap();
    let programs = Programs {
        host: env!("CARGO_BIN_EXE_host").into(),
        nats_server: nats::binary().to_path_buf(),
    };
    let ground = Ground::OneComputer { free_port: |_| free_port() };
    let app = App::dogs_and_cats(ground.web()).await.unwrap();
    let cache = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("machines"));
    let plan = Plan {
        dir: dir.path().to_path_buf(),
        programs,
        app,
        flags: Vec::new(),
        cache,
        third: false,
    };
    let (effects, said) = article::type_all(env!("CARGO_BIN_EXE_host").into(), plan, ground)
        .await
        .expect("the commands");
    assert!(effects.len() > 20, "{said:#?}");

    let actor = |max: u32| json!([{ "name": "dogs-and-cats", "max": max }]);
    let started = after(&effects, "start actor file://");
    assert_eq!(started["hosts"][0]["actors"], actor(1));
    assert_eq!(after(&effects, "link put")["links"].as_array().map(Vec::len), Some(1));
    assert_eq!(after(&effects, "ctl link put")["links"].as_array().map(Vec::len), Some(2));
    let both = after(&effects, "label SECOND zone=b");
    assert_eq!(both["hosts"][1]["labels"], json!({ "machine": "second", "zone": "b" }));
    assert_eq!((&both["hosts"][0]["actors"], &both["hosts"][1]["actors"]), (&actor(1), &actor(10)));
    assert_eq!(after(&effects, "scale actor")["hosts"][1]["actors"], actor(20));
    assert_eq!(after(&effects, "stop actor")["hosts"][0]["actors"], json!([]));
    assert_eq!(after(&effects, "link del")["links"].as_array().map(Vec::len), Some(1));
    assert_eq!(after(&effects, "ctl stop actor")["hosts"][1]["actors"], json!([]));
    assert_eq!(after(&effects, "stop host")["hosts"].as_array().map(Vec::len), Some(1));
    let called =
        said.iter().find(|said| said.contains("HttpServer.HandleRequest")).expect("the call");
    assert!(called.contains("statusCode"), "{called}");
}
