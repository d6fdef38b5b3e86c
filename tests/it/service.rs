//! A host under a service manager: what the manager hears, what signals bring about, and the files
//! of the service.

use std::{
    io::ErrorKind,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::Path,
    time::Instant,
};

use lattice_base::trusted;
use nkeys::KeyPair;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    commands::User,
    harness::{
        CLUSTER_SEED, ECHO, PATIENCE, Server,
        client::ctl_2024,
        eventually, example, host,
        jwt::operator,
        process::{Process, command, member, output, stderr},
    },
    hub_setup::operator::{Keys, Operator},
};

/// The time that the manager of these tests bears silence, in microseconds.
const WATCHDOG_USEC: &str = "1000000";

/// The configuration of a NATS server that comes later than its host.
const JETSTREAM: &str = "jetstream { domain: core, store_dir: \"@DIR@/js\" }";

/// A service manager with the socket that it names to its service.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn listen(dir: &Path) -> Self {
        let socket = UnixDatagram::bind(dir.join("notify")).expect("a socket");
        Self { socket, heard: Vec::new() }
    }

    /// Waits for a message that begins so.
    fn hears(&mut self, beginning: &str) -> String {
        let (mut buffer, until) = ([0; 4096], Instant::now() + PATIENCE);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{beginning:?} after {:#?}: too late", self.heard);
            self.socket.set_read_timeout(Some(left)).expect("a timeout");
            let bytes = match self.socket.recv(&mut buffer) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("{beginning:?} after {:#?}: {error}", self.heard),
            };
            let message = String::from_utf8_lossy(&buffer[..bytes]).into_owned();
            self.heard.push(message.clone());
            if message.starts_with(beginning) {
                return message;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_hears_of_a_host_from_its_start_to_its_stop() {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    let mut manager = Manager::listen(dir.path());
    let mut process = Process::start(
        member(dir.path(), &server)
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .env("WATCHDOG_USEC", WATCHDOG_USEC),
    );
    let ready = manager.hears("READY=1");
    assert!(ready.contains(&format!("in lattice {}", server.lattice())), "{ready}");
    // Ready means that commands are taken: nothing is waited for here.
    assert_eq!(ctl_2024(&server).await.get_hosts().await.unwrap().len(), 1);
    manager.hears("WATCHDOG=1");
    manager.hears("WATCHDOG=1");

    process.line("ready");
    process.signal(Signal::HUP);
    let reloading = manager.hears("RELOADING=1");
    let time = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    let time: u64 = time.and_then(|time| time.parse().ok()).expect("a time");
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let now = u64::try_from(now.tv_sec).unwrap() * 1_000_000;
    assert!(time > 0 && time <= now + 1_000_000, "{time} is a time of the clock at {now}");
    manager.hears("READY=1");
    process.line("settings reloaded");
    manager.hears("WATCHDOG=1");

    process.signal(Signal::TERM);
    manager.hears("STOPPING=1");
    assert_eq!(process.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_that_watches_another_process_is_not_fed() {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    let mut manager = Manager::listen(dir.path());
    let mut process = Process::start(
        member(dir.path(), &server)
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .env("WATCHDOG_USEC", "20000")
            .env("WATCHDOG_PID", "1"),
    );
    manager.hears("READY=1");
    process.signal(Signal::TERM);
    manager.hears("STOPPING=1");
    assert_eq!(process.exit_code(), Some(0));
    assert!(!manager.heard.iter().any(|message| message == "WATCHDOG=1"), "{:#?}", manager.heard);
}

/// Writes the variables that a host reads from its directory.
fn write_env(dir: &Path, text: &str) {
    std::fs::write(dir.join(".env"), text).expect("a file of variables");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reloads_what_a_host_takes_while_it_runs_and_names_the_rest() {
    let server = Server::shared().await;
    let dir = TempDir::new().unwrap();
    write_env(dir.path(), "HOST_zone=a\nHOST_rack=7\nWASMCLOUD_LOG_LEVEL=info\n");
    let mut process = Process::start(&mut member(dir.path(), &server));
    process.line("ready");
    let user = User::of(&server);

    write_env(
        dir.path(),
        "HOST_zone=b\nWASMCLOUD_LOG_LEVEL=debug\nWASMCLOUD_SHUTDOWN_TIMEOUT_MS=9000\n",
    );
    process.signal(Signal::HUP);
    process.line("[debug] the level of the log");
    let taken = process.line("settings reloaded");
    assert!(taken.contains("log_level, label.rack, label.zone"), "{taken}");
    let waiting = process.line("take effect with the next start");
    assert!(waiting.contains("shutdown_timeout_ms"), "{waiting}");
    let hosts = user.json(&["get", "hosts"]).await;
    let labels = &hosts["hosts"][0]["labels"];
    assert!(labels["zone"] == "b" && labels.get("rack").is_none(), "{labels}");

    // The second time only what waits is told.
    process.signal(Signal::HUP);
    process.line("nothing changed");
    process.line("take effect with the next start");

    write_env(dir.path(), "HOST_zone=c\nWASMCLOUD_LOG_LEVEL=loud\n");
    process.signal(Signal::HUP);
    process.line("log_level");
    process.line("nothing was reloaded");
    let hosts = user.json(&["get", "hosts"]).await;
    assert_eq!(hosts["hosts"][0]["labels"]["zone"], "b", "a mistake changes nothing at all");
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_were_exchanged_count_after_a_hangup_and_whenever_a_host_connects() {
    let config = |login: &Operator| format!("{JETSTREAM}\n{}", login.server_config);
    let (keys, stranger) = (Keys::new(), operator());
    let first = Operator::new(&keys, "first").unwrap();
    let second = Operator::new(&Keys { user: KeyPair::new_user(), ..keys }, "second").unwrap();
    let mut server = Server::with_config(Some("core"), &config(&first)).await;
    let dir = TempDir::new().unwrap();
    let creds = dir.path().join("host.creds");
    let write = |login: &Operator| trusted::replace(&creds, login.creds().as_bytes()).unwrap();
    write(&first);
    let mut process = Process::start(member(dir.path(), &server).arg("--nats-creds").arg(&creds));
    process.line("ready");

    // Credentials that the server refuses change nothing.
    write(&stranger);
    process.signal(Signal::HUP);
    let refused = process.line("the changed certificates or credentials of ctl are not used");
    assert!(refused.contains("host.creds: "), "{refused}");
    let told = process.line("not all was reloaded: ");
    assert!(told.contains("the certificates or credentials of ctl, "), "{told}");
    write(&second);
    process.signal(Signal::HUP);
    let taken = process.line("settings reloaded");
    let expected = ["ctl", "rpc"].map(|name| format!("certificates or credentials of {name}"));
    assert!(expected.iter().all(|one| taken.contains(one)), "{taken}");

    // A server that lets in nobody else, and a host that finds out by itself.
    write(&stranger);
    server.kill();
    server.configure(&config(&stranger));
    server.resume().await;
    let client = async_nats::ConnectOptions::with_credentials(&stranger.creds()).unwrap();
    let client = client.connect(server.url()).await.unwrap();
    eventually("the host answers", || async {
        client.request(server.ctl("ping.hosts"), "".into()).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_that_comes_before_a_host_is_ready_reloads_it_when_it_is() {
    let mut server = Server::prepare("127.0.0.1", Some("core"), JETSTREAM);
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(&mut member(dir.path(), &server));
    process.line("no NATS server for the");
    write_env(dir.path(), "WASMCLOUD_LOG_LEVEL=debug\n");
    process.signal(Signal::HUP);
    process.line("it reads the settings again when it is");
    server.resume().await;
    process.line("[debug] the level of the log");
    let taken = process.line("settings reloaded");
    assert!(taken.contains("log_level"), "{taken}");
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_to_drain_and_finds_no_server_says_so_and_ends_well() {
    let server = Server::prepare("127.0.0.1", Some("core"), JETSTREAM);
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(&mut member(dir.path(), &server));
    process.line("no NATS server for the");
    process.signal(Signal::USR2);
    process.line("it drains when it is");
    process.line("was not ready in time");
    assert_eq!(process.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_to_drain_leaves_its_work_to_others_and_ends_well() {
    let server = Server::start().await;
    let other = host(&server).start().await;
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(&mut member(dir.path(), &server));
    process.line("ready");
    let user = User::of(&server);
    let own = eventually("both hosts answer", || async {
        let hosts = user.json(&["get", "hosts"]).await;
        let mut ids = hosts["hosts"].as_array()?.iter().filter_map(|host| host["id"].as_str());
        ids.find(|id| *id != other.id).map(str::to_owned)
    })
    .await;
    user.prints(&["start", "actor", &example("echo"), "--host-id", &own]).await;

    process.signal(Signal::USR2);
    process.line("drained, stopping");
    assert_eq!(process.exit_code(), Some(0));
    let told = user.json(&["get", "inventory", &other.id]).await;
    assert_eq!(told["inventories"][0]["actors"][0]["id"], ECHO, "{told:#}");
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_alone_tells_what_ends_with_it_and_ends_well() {
    let server = Server::start().await;
    let dir = TempDir::new().unwrap();
    let mut process = Process::start(&mut member(dir.path(), &server));
    process.line("ready");
    User::of(&server).prints(&["start", "actor", &example("echo")]).await;
    process.signal(Signal::USR2);
    let left = process.line("goes nowhere else");
    assert!(left.contains("there is no other host"), "{left}");
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn the_file_of_a_service_can_be_looked_at_and_holds_no_secret() {
    let dir = TempDir::new().unwrap();
    let install = ["service", "install", "--print"];
    let flags = ["--js-domain", "core", "--label", "zone=50% $a", "--env", "RUST_LOG=info"];
    let printed = output(command(dir.path()).args(install).args(flags));
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    assert!(printed.status.success(), "{}", stderr(&printed));
    if cfg!(target_os = "linux") {
        for line in [
            "Type=notify",
            "NotifyAccess=main",
            "ExecReload=/bin/kill -HUP $MAINPID",
            "Environment=\"RUST_LOG=info\"",
        ] {
            assert!(text.lines().any(|has| has == line), "{line} in {text}");
        }
        let words = "\"foreground\" \"--js-domain=core\" \"--label=zone=50%% $$a\"";
        assert!(text.contains(words) && !text.contains("MemoryDenyWriteExecute"), "{text}");
    }
    for secret in [["--cluster-seed", CLUSTER_SEED], ["--env", "WASMCLOUD_CLUSTER_SEED=SCX"]] {
        let refused = output(command(dir.path()).args(install).args(secret));
        let told = stderr(&refused);
        assert_eq!(refused.status.code(), Some(2), "{told}");
        assert!(told.contains("--cluster-seed-file FILE") && refused.stdout.is_empty(), "{told}");
    }
}

#[test]
fn a_variable_that_may_be_a_secret_is_kept_out_of_the_unit() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let install = ["service", "install", "--print", "--env"];
    let variable = "OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer-x";
    let printed = output(command(dir.path()).args(install).arg(variable));
    let (text, told) = (String::from_utf8_lossy(&printed.stdout).into_owned(), stderr(&printed));
    assert!(printed.status.success(), "{told}");
    assert!(text.lines().any(|line| line.starts_with("EnvironmentFile=/")), "{text}");
    assert!(told.contains("OTEL_EXPORTER_OTLP_HEADERS would be in /"), "{told}");
    assert!(!text.contains("Bearer") && !told.contains("Bearer"), "{text}{told}");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "INVOCATION_ID", "LISTEN_FDS"] {
        let refused = output(command(dir.path()).args(install).arg(format!("{name}=1")));
        let told = stderr(&refused);
        assert_eq!(refused.status.code(), Some(2), "{told}");
        assert!(told.contains(&format!("--env {name}: the service manager sets it")), "{told}");
    }
}

#[test]
fn a_file_with_a_secret_that_others_than_root_can_exchange_is_not_for_systemd() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("x.creds");
    std::fs::write(&file, "x").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    for flag in ["--nats-creds", "--cluster-seed-file", "--nats-tls-key"] {
        let install = ["service", "install", "--print", "--system", flag];
        let refused = output(command(dir.path()).args(install).arg(&file));
        let told = stderr(&refused);
        assert_eq!(refused.status.code(), Some(2), "{told}");
        assert!(told.contains(&format!("{flag} {}", file.display())), "{told}");
        assert!(told.contains("systemd reads it as root") && refused.stdout.is_empty(), "{told}");
        let missing = dir.path().join("none.creds");
        let told = stderr(&output(command(dir.path()).args(install).arg(missing)));
        assert!(told.contains("none.creds: there is no such file"), "{told}");
    }
}

#[test]
fn a_user_that_is_not_there_is_refused_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    let install = ["service", "install", "--system", "--run-as", "nobodyatall"];
    let refused = output(command(dir.path()).args(install));
    let told = stderr(&refused);
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("--run-as nobodyatall: there is no such user"), "{told}");
}

#[test]
fn a_machine_without_systemd_is_told_what_to_do_instead() {
    if !cfg!(target_os = "linux") || Path::new("/run/systemd/system").exists() {
        return;
    }
    let dir = TempDir::new().unwrap();
    // Wrong settings are told later: where nothing can be installed they are no matter.
    for words in [&["status"][..], &["uninstall"], &["install", "--js-domain", "a b"]] {
        let refused = output(command(dir.path()).arg("service").args(words));
        let told = stderr(&refused);
        assert_eq!(refused.status.code(), Some(1), "{words:?}: {told}");
        assert!(
            told.contains("systemd does not run") && told.contains("host foreground"),
            "{told}"
        );
    }
}
