//! `host up` and `host down` as users run them: one machine, several lattices on it, two machines
//! at a hub, and what is left when a process is killed.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use lattice_cli::up::nats_server::{Probe, probe};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    ECHO as ACTOR, PROVIDER, Server, eventually,
    external::{pack_program, public_key},
    jwt::creds,
    nats::free_port,
    pki::Authority,
    process::{Process, command, output, stderr},
    text,
};

/// A machine: a home, and directories to start hosts in. Everything that still runs is stopped at
/// the end.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        Self(TempDir::new().expect("a directory"))
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.0.path().join(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        dir
    }

    /// `host` with these arguments in a directory of this machine.
    fn host(&self, dir: &str, arguments: &[&str]) -> Command {
        let mut command = command(self.0.path());
        command.current_dir(self.dir(dir)).args(arguments);
        command
    }

    /// A running `host`, whose standard output goes to a file beside its settings.
    fn start(&self, dir: &str, arguments: &[&str]) -> Process {
        let out = std::fs::File::create(self.dir(dir).join("out")).expect("a file");
        Process::start(self.host(dir, arguments).stdout(out))
    }

    fn config(&self, dir: &str) -> Value {
        let file =
            std::fs::read(self.dir(dir).join("host_config.json")).expect("a host_config.json");
        serde_json::from_slice(&file).expect("JSON")
    }

    /// The address of a directory's server.
    fn address(&self, dir: &str) -> String {
        format!("127.0.0.1:{}", self.config(dir)["ctl_port"])
    }

    /// Returns the records that `host down` stopped.
    fn down(&self, dir: &str, arguments: &[&str]) -> Vec<Value> {
        let down = output(self.host(dir, &["down", "-o", "json"]).args(arguments));
        assert_eq!(down.status.code(), Some(0), "{down:?}");
        serde_json::from_slice(&down.stdout).expect("JSON")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = command(self.0.path()).args(["down", "--all"]).output();
    }
}

/// The client crate of early 2024 with the login that this file, in the form of `host_config.json`
/// or of `wash`, has.
async fn ctl_of(settings: &Value) -> wasmcloud_control_interface_2024::Client {
    let options = match [text(settings, "/ctl_jwt"), text(settings, "/ctl_seed")] {
        ["", _] => async_nats_2024::ConnectOptions::new(),
        [jwt, seed] => async_nats_2024::ConnectOptions::with_credentials(&creds(jwt, seed))
            .expect("credentials"),
    };
    let address = format!("{}:{}", text(settings, "/ctl_host"), settings["ctl_port"]);
    let nats = options.connect(address).await.expect("connected");
    wasmcloud_control_interface_2024::ClientBuilder::new(nats)
        .timeout(Duration::from_secs(2))
        .auction_timeout(Duration::from_millis(300))
        .build()
}

/// The client crate of 2022, which knows JWT and seed only, as `wash` of that year.
async fn ctl_2022_of(settings: &Value) -> wasmcloud_control_interface_2022::Client {
    let seed = std::sync::Arc::new(
        nkeys::KeyPair::from_seed(text(settings, "/ctl_seed")).expect("a seed"),
    );
    let options = async_nats_2022::ConnectOptions::with_jwt(
        text(settings, "/ctl_jwt").to_owned(),
        move |nonce| {
            let seed = seed.clone();
            async move { seed.sign(&nonce).map_err(async_nats_2022::AuthError::new) }
        },
    );
    let address = format!("{}:{}", text(settings, "/ctl_host"), settings["ctl_port"]);
    wasmcloud_control_interface_2022::Client::new(
        options.connect(address).await.expect("connected"),
        Some("default".into()),
        Duration::from_secs(2),
        Duration::from_millis(300),
    )
}

/// The only file of this suffix below a directory of a machine's home.
fn only_file(machine: &Machine, below: &str, suffix: &str) -> PathBuf {
    let mut dirs = vec![machine.0.path().join("home").join(below)];
    let mut found = Vec::new();
    while let Some(dir) = dirs.pop() {
        for path in std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

fn login_file(machine: &Machine) -> PathBuf {
    only_file(machine, ".local/share/lattice-host/nats", "login.creds")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The process number in a line `… pid 123…` of a summary.
fn pid(summary: &str, label: &str) -> u32 {
    let line = summary.lines().find(|line| line.trim_start().starts_with(&format!("{label} ")));
    let digits = line
        .and_then(|line| line.split("pid ").nth(1))
        .unwrap_or_else(|| panic!("{label} in {summary}"));
    digits
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|digits| digits.parse().ok())
        .expect("a number")
}

async fn is_gone(address: &str) {
    eventually("the server is gone", || async {
        (probe(address).await == Probe::Nothing).then_some(())
    })
    .await;
}

async fn is_there(address: &str) -> bool {
    matches!(probe(address).await, Probe::Nats(_))
}

#[tokio::test(flavor = "multi_thread")]
async fn up_brings_its_own_server_tells_what_runs_and_takes_both_down_in_order() {
    let machine = Machine::new();
    let port = free_port().to_string();
    let mut host = machine.start("a", &["up", "--nats-port", &port]);
    for text in [
        "starting NATS server",
        "NATS server started",
        "Using JetStream domain: core",
        "Wrote",
        "ready",
    ] {
        host.line(text);
    }
    let config = std::fs::read_dir(machine.0.path().join("home/.local/state/lattice-host/up"))
        .unwrap()
        .find_map(|entry| {
            std::fs::read_to_string(entry.unwrap().path().join("nats-server.cfg")).ok()
        })
        .expect("a configuration");
    assert!(config.contains("ping_interval: \"1s\"") && config.contains("ping_max: 3"), "{config}");
    eventually("the summary is printed", || async {
        let told = std::fs::read_to_string(machine.dir("a").join("out")).ok()?;
        (told.contains(&format!("127.0.0.1:{port}")) && told.contains("host down")).then_some(())
    })
    .await;
    host.signal(Signal::INT);
    host.line("stopped.");
    host.line("NATS server stopped");
    assert_eq!(host.exit_code(), Some(0));
    is_gone(&format!("127.0.0.1:{port}")).await;
    assert!(machine.down("a", &[]).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ran_before_is_used_and_left_alone() {
    let server = Server::start().await;
    let machine = Machine::new();
    let port = server.address().rsplit(':').next().unwrap().to_owned();
    // None is needed, so none is looked for.
    let up = output(
        machine
            .host("a", &["up", "-d", "--nats-port", &port])
            .env("NATS_SERVER", "/no/such/server"),
    );
    assert_eq!(up.status.code(), Some(0), "{up:?}");
    let log = stderr(&up);
    assert!(
        log.contains("a NATS server runs already and is used")
            && !log.contains("[warning] JetStream"),
        "{log}"
    );
    // It is asked without a domain, since nobody named one.
    assert!(
        stdout(&up).contains("no domain is set") && !log.contains("Using JetStream domain"),
        "{up:?}"
    );
    assert!(machine.config("a")["js_domain"].is_null(), "{}", machine.config("a"));
    assert_eq!(machine.down("a", &[]).len(), 1);
    assert!(is_there(server.address()).await);
    // It cannot be given a hub.
    let refused =
        output(&mut machine.host("a", &["up", "--nats-port", &port, "--hub", "tls://hub.example"]));
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("--hub is for a server that `host up` starts"),
        "{}",
        stderr(&refused)
    );
    // A setting of a failed start is not kept.
    let refused =
        output(&mut machine.host("b", &["up", "--nats-port", &port, "--hub", "tls://hub.example"]));
    assert_eq!(refused.status.code(), Some(1));
    assert!(!machine.dir("b").join("host_config.json").exists());
    assert!(is_there(server.address()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_background_it_returns_when_ready_starts_only_once_and_goes_with_down() {
    let machine = Machine::new();
    let port = free_port().to_string();
    let up = ["up", "--detached", "--nats-port", &port];
    let first = output(&mut machine.host("a", &up));
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    assert!(stderr(&first).contains("[info] ready"), "the log is repeated: {}", stderr(&first));
    let summary = stdout(&first);
    for part in [
        "lattice    default",
        "domain core",
        &format!("127.0.0.1:{port}"),
        "host_config.json",
        "host down",
    ] {
        assert!(summary.contains(part), "{part} in {summary}");
    }
    assert!(summary.contains(text(&machine.config("a"), "/cluster_key")), "{summary}");
    let log = summary
        .lines()
        .find_map(|line| line.trim().strip_prefix("log "))
        .expect("the log is named")
        .trim();
    assert!(std::fs::read_to_string(log).unwrap().contains("[info] ready"));
    let ctl = ctl_of(&machine.config("a")).await;
    assert_eq!(ctl.get_hosts().await.unwrap().len(), 1);

    // Again, in the background and not: the same host is told of, and none is added.
    for again in [&up[..], &["up"]] {
        let again = output(&mut machine.host("a", again));
        assert_eq!(again.status.code(), Some(0), "{again:?}");
        assert!(stdout(&again).contains("runs already in"), "{again:?}");
        assert_eq!(pid(&stdout(&again), "host"), pid(&summary, "host"));
    }
    assert_eq!(ctl.get_hosts().await.unwrap().len(), 1);
    let other = output(&mut machine.host("a", &["up", "--nats-port", &free_port().to_string()]));
    assert_eq!(other.status.code(), Some(1));
    assert!(
        stderr(&other).contains(&format!("it uses NATS on 127.0.0.1:{port}")),
        "{}",
        stderr(&other)
    );

    let [stopped] = &machine.down("a", &[])[..] else { panic!("one is stopped") };
    assert_eq!(stopped["host_pid"], pid(&summary, "host"));
    assert_eq!(stopped["server_pid"], pid(&summary, "NATS"));
    assert_eq!(stopped["killed"], false);
    assert!(Path::new(text(stopped, "/data")).is_dir(), "the data stays");
    is_gone(&format!("127.0.0.1:{port}")).await;
    let nothing = output(&mut machine.host("a", &["down"]));
    assert_eq!(nothing.status.code(), Some(0));
    assert!(stdout(&nothing).contains("nothing to stop"), "{nothing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_lets_in_its_own_login_only_which_host_and_contexts_of_nats_and_wash_have() {
    let machine = Machine::new();
    let port = free_port().to_string();
    let up = output(&mut machine.host("a", &["up", "-d", "--nats-port", &port]));
    assert_eq!(up.status.code(), Some(0), "{up:?}");
    let address = machine.address("a");
    assert!(async_nats_2024::connect(&address).await.is_err(), "nobody is let in without a login");
    // That of 2022 hears of it only when it asks for something.
    if let Ok(stranger) = async_nats_2022::connect(&address).await {
        let asked = stranger.request("wasmbus.ctl.default.ping.hosts".into(), "".into());
        let answer = tokio::time::timeout(Duration::from_secs(1), asked).await;
        assert!(!matches!(answer, Ok(Ok(_))), "nobody is answered without a login");
    }
    let context = only_file(&machine, ".wash/contexts", ".json");
    let of_nats = only_file(&machine, ".config/nats/context", ".json");
    let name = context.file_stem().unwrap().to_string_lossy().into_owned();
    let told = stdout(&up);
    assert!(
        told.contains(&format!("nats --context {name}"))
            && told.contains(&format!("wash get hosts --context {name}"))
    );
    let secrets =
        [&context, &of_nats, &login_file(&machine), &machine.dir("a").join("host_config.json")];
    for path in secrets {
        let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
    // As `wash` reads its context, as `wash` of 2022 reads the file in its directory, and as `nats`
    // reads its context.
    let json =
        |path: &Path| serde_json::from_slice::<Value>(&std::fs::read(path).unwrap()).unwrap();
    let home = machine.0.path().join("home/.wash/host_config.json");
    for settings in [json(&context), json(&home)] {
        assert_eq!(ctl_of(&settings).await.get_hosts().await.unwrap().len(), 1);
        assert_eq!(ctl_2022_of(&settings).await.get_hosts().await.unwrap().len(), 1);
        for family in ["ctl", "rpc"] {
            assert_eq!(settings[format!("{family}_seed")], settings["ctl_seed"]);
        }
    }
    let of_nats = json(&of_nats);
    let login = async_nats_2024::ConnectOptions::with_credentials_file(text(&of_nats, "/creds"))
        .await
        .unwrap();
    login.connect(text(&of_nats, "/url")).await.expect("connected");

    // `host` needs no flag there, and elsewhere one of these names, or what the host left in
    // `~/.wash`.
    for (dir, arguments) in [
        ("a", vec!["get", "hosts"]),
        ("elsewhere", vec!["get", "hosts", "--context", &name]),
        ("elsewhere", vec!["get", "hosts", "--context", &format!("nats:{name}")]),
        ("elsewhere", vec!["get", "hosts"]),
    ] {
        let hosts = output(machine.host(dir, &arguments).args(["-o", "name"]));
        assert_eq!(
            (hosts.status.code(), stdout(&hosts).lines().count()),
            (Some(0), 1),
            "{arguments:?}: {hosts:?}"
        );
    }
    let open = output(&mut machine.host("a", &["up", "--open"]));
    assert_eq!(open.status.code(), Some(1));
    assert!(stderr(&open).contains("its server wants a login"), "{}", stderr(&open));
    machine.down("a", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_server_lets_everybody_in_and_what_was_stored_is_there_with_and_without_a_login() {
    let machine = Machine::new();
    let port = free_port().to_string();
    let link = ["link", "put", ACTOR, PROVIDER, "example:kept", "a=b"];
    for (flags, is_open) in [(&["--open"][..], true), (&[], false), (&["--open"], true)] {
        let up = output(machine.host("a", &["up", "-d", "--nats-port", &port]).args(flags));
        assert_eq!(up.status.code(), Some(0), "{up:?}");
        assert_eq!(stdout(&up).contains("without a login (--open)"), is_open, "{up:?}");
        assert_eq!(async_nats_2024::connect(machine.address("a")).await.is_ok(), is_open);
        assert_eq!(text(&machine.config("a"), "/ctl_jwt").is_empty(), is_open);
        let known = output(&mut machine.host("a", &["get", "links", "-o", "json"]));
        if flags.len() == 1 && !stdout(&known).contains("example:kept") {
            let put = output(&mut machine.host("a", &link));
            assert_eq!(put.status.code(), Some(0), "{put:?}");
        } else {
            assert!(stdout(&known).contains("example:kept"), "{known:?}");
        }
        machine.down("a", &[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_of_the_scripts_of_earlier_hosts_run_and_stop_a_host() {
    let machine = Machine::new();
    let port = free_port().to_string();
    let daemon = output(&mut machine.host("a", &["daemon", "--nats-port", &port]));
    assert_eq!(daemon.status.code(), Some(0), "{daemon:?}");
    let pids = stdout(&output(&mut machine.host("a", &["pid"])));
    let pid: u32 = pids.trim().parse().expect("one number");
    // A crash leaves no core file with the seeds, not even with a program that collects those.
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["1", "1"], "{core}");
    let version = stdout(&output(&mut machine.host("a", &["version"])));
    assert_eq!(version.trim(), env!("CARGO_PKG_VERSION"));
    assert_eq!(output(&mut machine.host("a", &["ping"])).status.code(), Some(0));
    let restart = output(&mut machine.host("a", &["restart"]));
    assert_eq!(restart.status.code(), Some(0), "{restart:?}");
    assert_ne!(stdout(&output(&mut machine.host("a", &["pid"]))), pids);
    let stop = output(&mut machine.host("a", &["stop"]));
    assert!(stop.status.success() && stdout(&stop).contains("stopped the host"), "{stop:?}");
    assert_eq!(output(&mut machine.host("a", &["pid"])).status.code(), Some(1));
    let mut host = machine.start("b", &["start", "--nats-port", &port]);
    host.line("Connecting");
}

/// Runs a program as a user without any rights here.
fn as_stranger(program: &str, arguments: &[&str]) -> Output {
    use std::os::unix::process::CommandExt as _;
    Command::new(program)
        .args(arguments)
        .current_dir("/")
        .uid(65_534)
        .gid(65_534)
        .output()
        .expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_of_the_machine_reads_no_secret_and_gets_no_signature_even_at_an_open_socket()
{
    use std::os::unix::fs::PermissionsExt as _;
    // Nobody else can become another user.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let machine = Machine::new();
    let up = output(&mut machine.host("a", &["up", "-d", "--nats-port", &free_port().to_string()]));
    assert_eq!(up.status.code(), Some(0), "{up:?}");
    let home = machine.0.path().join("home");
    let sockets = only_file(&machine, ".local/state/lattice-host", ".sock");
    // The way there is open, so that only the files themselves are in the way.
    let mut dirs = vec![machine.0.path().to_owned(), home.clone(), machine.dir("a")];
    for path in [
        sockets.clone(),
        login_file(&machine),
        home.join(".wash/contexts/x"),
        home.join(".config/nats/context/x"),
    ] {
        dirs.extend(path.ancestors().skip(1).take_while(|dir| *dir != home).map(Path::to_owned));
    }
    for dir in dirs {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let pid = pid(&stdout(&up), "host");
    let mut secrets = vec![
        machine.dir("a").join("host_config.json"),
        home.join(".wash/host_config.json"),
        login_file(&machine),
        login_file(&machine).with_file_name(".login"),
        only_file(&machine, ".wash/contexts", ".json"),
        only_file(&machine, ".config/nats/context", ".json"),
    ];
    secrets.extend(
        ["environ", "maps", "mem"].map(|name| PathBuf::from(format!("/proc/{pid}/{name}"))),
    );
    for secret in secrets {
        let read = as_stranger("cat", &[&secret.to_string_lossy()]);
        assert!(!read.status.success() && read.stdout.is_empty(), "{}: {read:?}", secret.display());
    }
    std::fs::set_permissions(&sockets, std::fs::Permissions::from_mode(0o666)).unwrap();
    // The path of the socket is longer than its address may be.
    let ask = "chdir $ARGV[0]; $s = IO::Socket::UNIX->new(Peer => $ARGV[1]) or die; \
               $s->print(\"{}\\n\"); $s->flush; print \"answer \", <$s>";
    let (dir, name) = (
        sockets.parent().unwrap().to_string_lossy(),
        sockets.file_name().unwrap().to_string_lossy(),
    );
    let perl = crate::harness::packages::program("perl", "perl");
    let words = ["-MIO::Socket::UNIX", "-e", ask, &dir, &name];
    let own = Command::new(&perl).args(words).output().unwrap();
    assert!(stdout(&own).contains("cannot be read"), "the socket answers its user: {own:?}");
    let stranger = as_stranger(&perl.to_string_lossy(), &words);
    // It is hung up on, perhaps before it has asked.
    assert!(["", "answer"].contains(&stdout(&stranger).trim()), "{stranger:?}");
    machine.down("a", &[]);
}

#[test]
fn settings_of_another_user_and_links_of_theirs_are_refused_by_name_and_left_alone() {
    use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
    // Only root can make such files.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let machine = Machine::new();
    for (dir, name, content) in [
        ("a", "host_config.json", "{\"js_domain\": \"evil\"}"),
        ("b", ".env", "WASMCLOUD_JS_DOMAIN=evil"),
    ] {
        let path = machine.dir(dir).join(name);
        std::fs::write(&path, content).unwrap();
        chown(&path, Some(65_534), None).unwrap();
        std::fs::set_permissions(machine.dir(dir), std::fs::Permissions::from_mode(0o777)).unwrap();
        for words in [&["config", "show"][..], &["get", "hosts"], &["up"], &["foreground"]] {
            let refused = output(&mut machine.host(dir, words));
            let told = stderr(&refused);
            assert!(matches!(refused.status.code(), Some(2 | 64)), "{words:?}: {refused:?}");
            assert!(
                told.contains(name) && told.contains("user 65534") && told.contains("chown"),
                "{told}"
            );
        }
    }
    let target = machine.dir("c").join("target.json");
    std::fs::write(&target, "{}").unwrap();
    let link = machine.dir("c").join("host_config.json");
    symlink(&target, &link).unwrap();
    lchown(&link, Some(65_534), None).unwrap();
    let refused = output(&mut machine.host("c", &["up"]));
    assert!(stderr(&refused).contains("a link that belongs to user 65534"), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_starts_ends_with_it_and_with_a_killed_host_sessions_and_orphans_included()
{
    let machine = Machine::new();
    let dir = machine.dir("a");
    let port = free_port().to_string();
    let script = dir.join("starts-others");
    // A session of its own, whose parent has ended, and which does not mind SIGTERM; without the
    // variables of its parents.
    let orphan = "trap '' TERM HUP INT; echo $$ > $1; while :; do sleep 1; done";
    let text = format!(
        "#!/bin/sh\nread line\n( setsid env -i /bin/sh -c '{}' x {} </dev/null >/dev/null 2>&1 & ) \nexec sleep 1000\n",
        orphan.replace('\'', "'\\''"),
        dir.join("orphan").display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    pack_program("provider_kvmemory", &script, &dir.join("p.par"));
    let reference = format!("file://{}", dir.join("p.par").display());
    let mut up = machine.start("a", &["up", "--allow-file-load", "--nats-port", &port]);
    up.line("ready");
    // The last one ends it with the host, and the first with the provider.
    for ends_with_host in [false, true] {
        let _ = std::fs::remove_file(dir.join("orphan"));
        let start =
            output(&mut machine.host("a", &["start", "provider", &reference, "--skip-wait"]));
        assert_eq!(start.status.code(), Some(0), "{start:?}");
        let orphan: u32 = eventually("the orphan runs", || async {
            std::fs::read_to_string(dir.join("orphan")).ok()?.trim().parse().ok()
        })
        .await;
        let is_gone = || async { (!Path::new(&format!("/proc/{orphan}")).exists()).then_some(()) };
        assert!(is_gone().await.is_none());
        if ends_with_host {
            up.signal(Signal::KILL);
            up.exit_code();
        } else {
            let key = public_key("provider_kvmemory");
            let stop =
                output(&mut machine.host("a", &["stop", "provider", &key, "wasmcloud:keyvalue"]));
            assert_eq!(stop.status.code(), Some(0), "{stop:?}");
        }
        eventually("the orphan is gone", is_gone).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_in_the_background_is_told_in_the_terminal() {
    let machine = Machine::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let failed = output(&mut machine.host("a", &["up", "--detached", "--nats-port", &port]));
    assert_eq!(failed.status.code(), Some(1));
    let told = stderr(&failed);
    assert!(
        told.contains("something that is no NATS server listens") && told.contains("host.log"),
        "{told}"
    );
    assert!(machine.down("a", &[]).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_of_a_killed_host_is_taken_over_by_the_next_and_ends_with_it() {
    let machine = Machine::new();
    let port = free_port().to_string();
    let up = ["up", "--nats-port", &port];
    let mut killed = machine.start("a", &up);
    killed.line("ready");
    let first = eventually("the summary is noted", || async {
        Some(stdout(&output(&mut machine.host("a", &["up"])))).filter(|told| told.contains("NATS"))
    })
    .await;
    killed.signal(Signal::KILL);
    killed.exit_code();
    let address = format!("127.0.0.1:{port}");
    assert!(is_there(&address).await, "a server outlives its host");

    let mut next = machine.start("a", &up);
    next.line("is taken over");
    next.line("ready");
    let told = stdout(&output(&mut machine.host("a", &["up"])));
    assert_eq!(pid(&told, "NATS"), pid(&first, "NATS"));
    next.signal(Signal::TERM);
    next.line("NATS server stopped");
    assert_eq!(next.exit_code(), Some(0));
    is_gone(&address).await;

    // With nothing to take it over, `host down` ends it.
    let mut killed = machine.start("a", &up);
    killed.line("ready");
    killed.signal(Signal::KILL);
    killed.exit_code();
    let [stopped] = &machine.down("a", &[])[..] else { panic!("the server is stopped") };
    assert!(stopped["host_pid"].is_null() && stopped["server_pid"].is_u64(), "{stopped}");
    is_gone(&address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_lattices_share_a_machine_and_keep_their_ports() {
    let machine = Machine::new();
    // One that no other test takes while it is free, as a port found before.
    let kept = free_port().to_string();
    for (dir, ports) in [("a", &["--nats-port", &kept][..]), ("b", &["--free-ports"][..])] {
        let up = output(machine.host(dir, &["up", "-d"]).args(ports));
        assert_eq!(up.status.code(), Some(0), "{up:?}");
        let config = machine.config(dir);
        assert_eq!([&config["rpc_port"], &config["prov_rpc_port"]], [&config["ctl_port"]; 2]);
    }
    let (a, b) = (machine.address("a"), machine.address("b"));
    assert_ne!(a, b);
    for dir in ["a", "b"] {
        let ctl = ctl_of(&machine.config(dir)).await;
        assert_eq!(ctl.get_hosts().await.unwrap().len(), 1, "each lattice has its own host");
    }
    // A third directory does not build on a server that ends with another's host.
    let port = a.rsplit(':').next().unwrap();
    let refused = output(&mut machine.host("c", &["up", "--nats-port", port]));
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("belongs to the `host up` of")
            && stderr(&refused).contains("--free-ports")
    );

    assert_eq!(machine.down("a", &[]).len(), 1);
    is_gone(&a).await;
    assert!(is_there(&b).await, "the other one is left alone");
    let again = output(&mut machine.host("a", &["up", "-d", "--free-ports"]));
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    assert_eq!(machine.address("a"), a);
    assert_eq!(machine.down("c", &["--all"]).len(), 2);
    is_gone(&a).await;
    is_gone(&b).await;
}

#[test]
fn a_server_on_another_machine_is_not_started() {
    let machine = Machine::new();
    let up = output(&mut machine.host("b", &["up", "--nats-host", "192.0.2.1"]));
    assert_eq!(up.status.code(), Some(1));
    for part in [
        "this machine only",
        "host foreground --nats-host 192.0.2.1",
        "--hub nats-leaf://192.0.2.1",
    ] {
        assert!(stderr(&up).contains(part), "{part} in {}", stderr(&up));
    }
}

/// Kills the server that a second `host up` tells of.
async fn kill_server(machine: &Machine) -> u32 {
    let server = pid(&stdout(&output(&mut machine.host("a", &["up"]))), "NATS");
    kill(server).await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_is_started_again_and_its_host_stays() {
    let machine = Machine::new();
    let port = free_port().to_string();
    let mut host = machine.start("a", &["up", "--nats-port", &port]);
    host.line("ready");
    let id = || {
        let hosts = output(&mut machine.host("a", &["get", "hosts", "-o", "name"]));
        Some(stdout(&hosts)).filter(|told| told.trim().len() == 56)
    };
    let before = eventually("the host answers", || async { id() }).await;
    let killed = kill_server(&machine).await;
    host.line("the NATS server ended");
    let again = host.line("NATS server started again");
    assert!(again.contains(&port), "{again}");
    let after = eventually("the host answers again", || async { id() }).await;
    assert_eq!(after, before);
    let told = stdout(&output(&mut machine.host("a", &["up"])));
    assert_ne!(pid(&told, "NATS"), killed, "{told}");
    assert_eq!(machine.down("a", &[])[0]["server_pid"], pid(&told, "NATS"));
    assert_eq!(host.exit_code(), Some(0));
    is_gone(&format!("127.0.0.1:{port}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_keeps_dying_is_given_up_with_the_end_of_its_log() {
    let machine = Machine::new();
    let mut host = machine.start("a", &["up", "--nats-port", &free_port().to_string()]);
    host.line("ready");
    for _ in 0..6 {
        kill_server(&machine).await;
        host.line("NATS server started again");
    }
    kill_server(&machine).await;
    let told = host.line("is given up after 6 starts in a row");
    assert!(told.contains("Server is ready"), "{told}");
    assert_eq!(host.exit_code(), Some(1));
    assert!(machine.down("a", &[]).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_leaves_no_door_open() {
    let machine = Machine::new();
    let up = output(
        &mut machine.host("a", &["up", "-d", "--demo", "--nats-port", &free_port().to_string()]),
    );
    assert_eq!(up.status.code(), Some(0), "{up:?}");
    assert!(stdout(&up).contains("  page "), "{up:?}");
    let config = machine.config("a");
    assert!(config.get("enable_start_from_fs").is_none_or(|value| value == false), "{config}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_goes_on_with_its_host_until_it_is_stopped() {
    let machine = Machine::new();
    let port = free_port().to_string();
    let up = |flags: &[&str]| {
        let up = output(machine.host("a", &["up", "-d", "--nats-port", &port]).args(flags));
        assert_eq!(up.status.code(), Some(0), "{up:?}");
        stdout(&up)
    };
    let page = |told: &str| {
        let line = told.lines().find(|line| line.trim_start().starts_with("page "))?;
        line.split_whitespace().nth(1).map(str::to_owned)
    };
    page(&up(&["--demo"])).expect("a page");
    machine.down("a", &[]);
    let told = up(&[]);
    assert!(is_shown(&page(&told).expect("without a command")).await);
    for label in ["host", "NATS"] {
        kill(pid(&told, label)).await;
    }
    assert!(is_shown(&page(&up(&[])).expect("after a kill of both")).await);

    let stop = ["stop", "actor", lattice_cli::up::demo::ACTOR];
    let stopped = output(&mut machine.host("a", &stop));
    assert_eq!(stopped.status.code(), Some(0), "{stopped:?}");
    for _ in 0..2 {
        machine.down("a", &[]);
        assert_eq!(page(&up(&[])), None);
    }
    machine.down("a", &[]);
    page(&up(&["--demo"])).expect("a page");
    for flags in [&["--forget"][..], &[]] {
        machine.down("a", &[]);
        assert_eq!(page(&up(flags)), None);
    }
}

async fn kill(pid: u32) {
    let process = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(process, Signal::KILL).unwrap();
    eventually("it is gone", async || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z ")).then_some(())
    })
    .await;
}

/// Whether the page shows a picture.
async fn is_shown(page: &str) -> bool {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client.get(format!("{page}dog")).send().await.expect("an answer");
    answer.status().is_success()
}

/// A hub that leaf nodes join as user `leaf` with password `water`.
async fn hub() -> (Server, u16) {
    let port = free_port();
    let config = format!(
        "server_name: hub\nleafnodes {{ listen: \"127.0.0.1:{port}\", authorization {{ user: leaf, password: water }} }}"
    );
    (Server::with_config(None, &config).await, port)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_with_the_same_command_share_a_lattice_over_a_hub() {
    let (hub, port) = hub().await;
    let url = format!("nats-leaf://leaf:water@127.0.0.1:{port}");
    let up = ["up", "-d", "--free-ports", "--hub", &url];
    let (first, second) = (Machine::new(), Machine::new());
    let up_first = output(&mut first.host("a", &up));
    assert_eq!(up_first.status.code(), Some(0), "{up_first:?}");
    let log = stderr(&up_first);
    assert!(
        log.contains("connected to hub")
            && !log.contains("water")
            && !stdout(&up_first).contains("water"),
        "{log}"
    );
    assert!(
        stdout(&up_first).contains(&format!("connected to nats-leaf://127.0.0.1:{port}")),
        "{up_first:?}"
    );

    // As the README says: the file is copied. The second one was tried alone before.
    let alone = output(&mut second.host("a", &["up", "-d", "--free-ports"]));
    assert!(stdout(&alone).contains("domain core\n"), "{alone:?}");
    second.down("a", &[]);
    std::fs::copy(
        first.dir("a").join("host_config.json"),
        second.dir("a").join("host_config.json"),
    )
    .unwrap();
    let up_second = output(second.host("a", &up).env("HOST_machine", "second"));
    assert_eq!(up_second.status.code(), Some(0), "{up_second:?}");
    let told = stdout(&up_second);
    assert!(told.contains("domain core; the server of this machine is domain extender-"), "{told}");
    assert!(!told.contains("WARNING"), "{told}");
    assert_ne!(first.address("a"), second.address("a"));
    assert!(
        stderr(&up_second)
            .contains("Lattice cache stream created or verified as existing (1 consumers)"),
        "{told}"
    );
    let logins = [&first, &second].map(|machine| machine.config("a")["ctl_seed"].clone());
    assert_ne!(
        logins[0], logins[1],
        "a copied file does not bring the login of the first machine's server along"
    );
    let foreign = async_nats_2024::ConnectOptions::with_credentials_file(login_file(&first))
        .await
        .expect("credentials");
    assert!(
        foreign.connect(second.address("a")).await.is_err(),
        "nor does the second server know it"
    );
    let ctl = ctl_of(&second.config("a")).await;
    eventually("both hosts answer", || async {
        (ctl.get_hosts().await.ok()?.len() == 2).then_some(())
    })
    .await;

    // When it is asked again, the hub is told of as it is then.
    drop(hub);
    eventually("the hub is away", || async {
        stdout(&output(&mut first.host("a", &["up"]))).contains("NOT connected").then_some(())
    })
    .await;

    // After a stop each is what it was before.
    for (machine, domain) in
        [(&second, "domain core; the server"), (&first, "JetStream  domain core\n")]
    {
        machine.down("a", &[]);
        let again = output(&mut machine.host("a", &up));
        assert!(stdout(&again).contains(domain), "{again:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_machine_without_the_settings_of_the_first_says_so() {
    let (_hub, port) = hub().await;
    let url = format!("nats-leaf://leaf:water@127.0.0.1:{port}");
    let up = ["up", "-d", "--free-ports", "--hub", &url];
    let (first, second) = (Machine::new(), Machine::new());
    let alone = stdout(&output(&mut first.host("a", &up)));
    assert!(!alone.contains("WARNING"), "{alone}");
    let stranger = stdout(&output(&mut second.host("a", &up)));
    for part in ["another cluster seed than", "JetStream domain core is here and beside"] {
        assert!(stranger.contains(part), "{part} in {stranger}");
    }
    assert!(stranger.contains("copy host_config.json from there"), "{stranger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_run_in_another_directory_are_named_where_nobody_answers() {
    let machine = Machine::new();
    let up = output(&mut machine.host("a", &["up", "-d", "--free-ports"]));
    assert_eq!(up.status.code(), Some(0), "{up:?}");
    let nowhere = free_port().to_string();
    let lost = output(&mut machine.host("b", &["get", "hosts", "--ctl-port", &nowhere]));
    assert_eq!(lost.status.code(), Some(1), "{lost:?}");
    let told = stderr(&lost);
    for part in [&machine.address("a"), "--context", &*machine.dir("a").to_string_lossy()] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let context = told.split("`--context ").nth(1).and_then(|rest| rest.split('`').next());
    let context = context.unwrap_or_default();
    let led = output(&mut machine.host("b", &["get", "hosts", "--context", context]));
    assert_eq!(led.status.code(), Some(0), "{led:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_refuses_or_is_away_is_named_with_the_reason_and_the_host_starts_anyway() {
    let (_hub, port) = hub().await;
    let machine = Machine::new();
    let away = free_port();
    for (dir, url, reason, advice) in [
        (
            "a",
            format!("nats-leaf://leaf:wine@127.0.0.1:{port}"),
            "Authorization Violation",
            "--creds",
        ),
        ("b", format!("nats-leaf://127.0.0.1:{away}"), "connection refused", "7422"),
        // It could have gone on in the clear.
        ("c", format!("tls://leaf:water@127.0.0.1:{port}"), "TLS", "nats-leaf://"),
    ] {
        let up = output(&mut machine.host(dir, &["up", "-d", "--free-ports", "--hub", &url]));
        assert_eq!(up.status.code(), Some(0), "{up:?}");
        let log = stderr(&up);
        let warning = log
            .lines()
            .find(|line| line.contains("[warning] not connected to hub"))
            .expect("a warning");
        for part in [reason, advice, "127.0.0.1", "goes on trying"] {
            assert!(warning.contains(part), "{part} in {warning}");
        }
        assert!(!log.contains("wine") && !log.contains("water"), "the password is in the log");
        assert!(stdout(&up).contains("NOT connected"), "{up:?}");
        let private =
            std::fs::read_dir(machine.0.path().join("home/.local/state/lattice-host/up")).unwrap();
        for folder in private.map(|entry| entry.unwrap().path()) {
            for log in ["nats-server.log", "host.log"]
                .map(|name| folder.join(name))
                .iter()
                .filter(|log| log.exists())
            {
                let mode =
                    std::os::unix::fs::PermissionsExt::mode(&log.metadata().unwrap().permissions());
                assert_eq!(mode & 0o077, 0, "{}", log.display());
            }
        }
        assert_eq!(ctl_of(&machine.config(dir)).await.get_hosts().await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_of_a_private_authority_is_trusted_when_the_authority_is_named() {
    let machine = Machine::new();
    let authority = Authority::new(&machine.dir("a"), "ca");
    let certified = authority.sign(&machine.dir("a"), "hub");
    let port = free_port();
    let _hub = Server::with_config(
        None,
        &format!(
            "leafnodes {{\n listen: \"127.0.0.1:{port}\"\n tls {{\n cert_file: {:?}\n key_file: {:?}\n }}\n}}",
            certified.certificate, certified.key
        ),
    )
    .await;
    let url = format!("tls://127.0.0.1:{port}");
    let up = ["up", "-d", "--free-ports", "--hub", &url, "--hub-ca", "ca.pem"];
    for (up, told) in [(&up[..5], "--hub-ca"), (&up, "[info] connected to hub")] {
        let up = output(&mut machine.host("a", up));
        assert_eq!(up.status.code(), Some(0), "{up:?}");
        assert!(stderr(&up).lines().any(|line| line.contains(told)), "{told} in {}", stderr(&up));
        machine.down("a", &[]);
    }
}

#[test]
fn wrong_options_are_told_together_before_anything_starts() {
    let machine = Machine::new();
    std::fs::write(machine.dir("a").join("empty.creds"), "").unwrap();
    let up = [
        "up",
        "--hub",
        "hub.example",
        "--creds",
        "empty.creds",
        "--hub-ca",
        "no.pem",
        "--domain",
        "a.b",
    ];
    let wrong = output(&mut machine.host("a", &up));
    assert_eq!(wrong.status.code(), Some(64));
    let told = stderr(&wrong);
    for part in [
        "--hub hub.example",
        "nats-leaf://",
        "--creds empty.creds",
        "no user JWT",
        "--hub-ca no.pem",
        "\"a.b\"",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let lonely = output(&mut machine.host("a", &["up", "--creds", "empty.creds"]));
    assert_eq!(lonely.status.code(), Some(64));
    assert!(stderr(&lonely).contains("--hub URL"), "{}", stderr(&lonely));
    let both = output(&mut machine.host("a", &["up", "--free-ports", "--nats-port", "5000"]));
    assert_eq!(both.status.code(), Some(64));
    assert!(stderr(&both).contains("--nats-port names one"), "{}", stderr(&both));
    assert!(!machine.dir("a").join("host_config.json").exists());
}
