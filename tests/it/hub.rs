//! A hub of one's own, and the configurations in the repository, as the example `hub` makes and
//! uses them.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::{Client, Request, jetstream};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    harness::{
        eventually,
        nats::{self, free_port},
    },
    hub_setup::{
        Addresses, CREDENTIALS, HUB_CONFIG, Hub,
        machines::{Changes, Kind},
    },
    walk::process::{Process, Signal},
};

fn addresses(names: &[&str]) -> Addresses {
    Addresses {
        clients: format!("127.0.0.1:{}", free_port()),
        leaves: format!("127.0.0.1:{}", free_port()),
        names: names.iter().map(ToString::to_string).collect(),
    }
}

async fn serve(dir: &Path, config: &str) -> Process {
    let mut command = Command::new(nats::binary());
    command.args(["--config", config]).current_dir(dir);
    let mut process = Process::start(config, command, &dir.join("nats.log")).expect("a process");
    process.said("Server is ready").await.expect("a server");
    process
}

/// A machine's server, and a client beside it.
async fn machine(hub: &Hub, dir: &Path, kind: Kind) -> (Process, Client) {
    let listen = format!("127.0.0.1:{}", free_port());
    hub.equip(dir, kind, &Changes { listen: Some(listen.clone()), domain: None })
        .expect("a configuration");
    let process = serve(dir, kind.file_name()).await;
    (process, async_nats::connect(listen).await.expect("connected"))
}

async fn reaches(client: &Client, domain: &str) {
    let subject = format!("$JS.{domain}.API.INFO");
    eventually("a domain is reached", || async {
        let request = Request::new().timeout(Some(Duration::from_secs(1)));
        client.send_request(subject.clone(), request).await.ok()
    })
    .await;
}

#[tokio::test]
async fn the_configurations_we_ship_join_a_hub_and_their_stores_are_reached_from_each_other() {
    let dir = TempDir::new().unwrap();
    let hub = Hub::prepare(&dir.path().join("hub"), &addresses(&["127.0.0.1"])).unwrap();
    let mut hub_process = serve(&hub.dir, HUB_CONFIG).await;
    let (_core, at_core) = machine(&hub, &dir.path().join("first"), Kind::Core).await;
    let (_extender, at_extender) = machine(&hub, &dir.path().join("second"), Kind::Extender).await;
    reaches(&at_core, "extender").await;
    reaches(&at_extender, "core").await;

    let bucket = jetstream::kv::Config { bucket: "shelf".into(), ..Default::default() };
    let there =
        jetstream::with_domain(at_core.clone(), "core").create_key_value(bucket).await.unwrap();
    there.put("book", "read".into()).await.unwrap();
    let from_afar =
        jetstream::with_domain(at_extender.clone(), "core").get_key_value("shelf").await.unwrap();
    assert_eq!(from_afar.get("book").await.unwrap().unwrap(), "read");
    let own = jetstream::with_domain(at_extender.clone(), "extender");
    assert!(own.get_key_value("shelf").await.is_err(), "each domain has a store of its own");

    // Without the hub each machine has its own store, and both find each other when it is back.
    hub_process.end(Signal::Terminate).await.unwrap();
    there.put("book", "read again".into()).await.unwrap();
    let _hub_process = serve(&hub.dir, HUB_CONFIG).await;
    reaches(&at_extender, "core").await;
    assert_eq!(from_afar.get("book").await.unwrap().unwrap(), "read again");
}

#[tokio::test]
async fn a_hub_that_is_made_again_lets_in_whom_it_let_in_before_and_nobody_else() {
    let dir = TempDir::new().unwrap();
    let place = dir.path().join("hub");
    let addresses = addresses(&["127.0.0.1"]);
    let hub = Hub::prepare(&place, &addresses).unwrap();
    let connect = |creds: PathBuf| async {
        async_nats::ConnectOptions::with_credentials_file(creds)
            .await
            .unwrap()
            .connect(&addresses.clients)
            .await
    };
    let machine = dir.path().join("first");
    hub.equip(&machine, Kind::Core, &Changes::default()).unwrap();

    Hub::prepare(&place, &addresses).unwrap();
    let _process = serve(&place, HUB_CONFIG).await;
    connect(machine.join(CREDENTIALS)).await.expect("the credentials from before are good");
    assert!(
        async_nats::connect(&addresses.clients).await.is_err(),
        "nobody comes in without credentials"
    );
    let stranger = Hub::prepare(&dir.path().join("other"), &addresses).unwrap();
    assert!(
        connect(stranger.dir.join(CREDENTIALS)).await.is_err(),
        "nor with those of another hub"
    );

    let secrets = [
        "keys/operator.nk",
        "keys/system.nk",
        "keys/account.nk",
        "keys/user.nk",
        "keys/ca-key.pem",
    ];
    for secret in secrets.into_iter().chain(["hub-key.pem", CREDENTIALS]) {
        let mode = fs::metadata(place.join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret} is for its owner alone");
    }
}

#[test]
fn what_the_example_derives_differs_from_what_we_ship_in_the_hub_alone() {
    let dir = TempDir::new().unwrap();
    let hub = Hub::prepare(dir.path(), &addresses(&["hub.example.org", "192.0.2.7"])).unwrap();
    for kind in Kind::BOTH {
        let path = hub.equip(dir.path(), kind, &Changes::default()).unwrap();
        let derived = fs::read_to_string(path).unwrap();
        let shipped =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(kind.file_name()))
                .unwrap();
        let lines =
            |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
        let (derived, shipped) = (lines(&derived), lines(&shipped));
        let added: Vec<_> = derived.iter().filter(|line| !shipped.contains(line)).collect();
        assert!(
            matches!(added.as_slice(), [url, tls] if url.contains("tls://hub.example.org:") && tls.contains("ca.pem")),
            "{added:?}"
        );
        assert_eq!(
            shipped.iter().filter(|line| !derived.contains(line)).count(),
            2,
            "only the public hub is gone"
        );
    }
}
