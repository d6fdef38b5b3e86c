//! A lattice of many hosts in this process, half of them behind a leaf node: what they say to each
//! other costs on the leaf line, in CPU time and memory; how long one more takes to know all; and
//! how soon a host that is killed is missed by everybody, and by those who call it.
//!
//! `cargo bench --bench lattice`, or `cargo bench --bench lattice -- 60` for another number of
//! hosts than 200. Beside the figures stands what a beat of each host a second to all costs.

mod common;

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use lattice_engine::{host::Host, peers::Advertisement};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use common::{
    median,
    member::{Member, free_port, nats_binary, start_host},
    millis, runtime,
};

const HOSTS: usize = 200;
/// Targets of all hosts together.
const TARGETS: usize = 5000;
/// Hosts that start at a time.
const STARTING: usize = 8;
/// Nothing but presence goes over the line meanwhile; each host has spoken once by then.
const SETTLE: Duration = Duration::from_secs(90);
const IDLE: Duration = Duration::from_secs(60);
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(300);
/// How often all hosts are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// A beat of a host to all, a second, as JSON, without the NATS protocol around it.
const BEAT_BYTES: usize = 130;
/// The pools that a host reserves for its actors are as small as can be.
const SETTINGS: [(&str, &str); 3] =
    [("dashboard_port", "0"), ("actor_instances_max", "2"), ("history_hours", "0")];

fn main() {
    let hosts = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(HOSTS);
    runtime().block_on(run(hosts));
    // Hundreds of hosts are not stopped one by one.
    std::process::exit(0);
}

/// Two servers, joined by one line.
struct Site {
    hub: String,
    leaf: String,
    monitor: String,
    _servers: Vec<Child>,
    dir: TempDir,
}

impl Site {
    async fn start() -> Self {
        let dir = TempDir::new().expect("a directory");
        let [hub, leafs, leaf, http] = [(); 4].map(|()| free_port());
        let store = dir.path().join("js");
        let of_hub = format!(
            "listen: \"127.0.0.1:{hub}\"\nleafnodes {{ listen: \"127.0.0.1:{leafs}\" }}\n\
             jetstream {{ domain: core, store_dir: \"{}\" }}\n",
            store.display()
        );
        let of_leaf = format!(
            "listen: \"127.0.0.1:{leaf}\"\nhttp: \"127.0.0.1:{http}\"\n\
             leafnodes {{ remotes = [ {{ url: \"nats://127.0.0.1:{leafs}\" }} ] }}\n"
        );
        let binary = nats_binary().await;
        let mut servers = Vec::new();
        for (name, text, port) in [("hub", of_hub, hub), ("leaf", of_leaf, leaf)] {
            let config = dir.path().join(format!("{name}.cfg"));
            std::fs::write(&config, text).expect("a configuration");
            servers.push(serve(&binary, &config));
            until(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        }
        let [hub, leaf] = [hub, leaf].map(|port| format!("nats://127.0.0.1:{port}"));
        let client = async_nats::connect(&leaf).await.expect("connected");
        let metadata = async_nats::jetstream::with_domain(client, "core");
        while metadata.query_account().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { hub, leaf, monitor: format!("http://127.0.0.1:{http}"), _servers: servers, dir }
    }

    /// The server of a host: every second one is behind the leaf node.
    fn of(&self, number: usize) -> &str {
        if number.is_multiple_of(2) { &self.hub } else { &self.leaf }
    }

    /// Bytes on the line so far, both ways together.
    async fn line_bytes(&self) -> usize {
        let leafs = reqwest::get(format!("{}/leafz", self.monitor)).await.expect("an answer");
        let leafs: serde_json::Value = leafs.json().await.expect("JSON");
        let bytes = |name: &str| leafs["leafs"][0][name].as_u64().expect("a number") as usize;
        bytes("in_bytes") + bytes("out_bytes")
    }
}

fn serve(binary: &Path, config: &Path) -> Child {
    let mut command = Command::new(binary);
    command.arg("--config").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
    command.kill_on_drop(true).spawn().expect("the server starts")
}

/// A host, and its targets as if actors ran there.
struct Machine {
    host: Host,
    _targets: Vec<Advertisement>,
    _home: TempDir,
}

async fn start(site: &Site, number: usize, targets: usize) -> Machine {
    let home = TempDir::new().expect("a directory");
    let host = start_host(&home, site.of(number), &SETTINGS).await;
    let names = (0..targets).map(|target| name_of(number, target));
    let targets = names.map(|name| host.peers().advertise(&name)).collect();
    Machine { host, _targets: targets, _home: home }
}

/// As long as the key of an actor.
fn name_of(host: usize, target: usize) -> String {
    format!("M{host:030}{target:025}")
}

async fn run(hosts: usize) {
    let site = Site::start().await;
    let each = (TARGETS / hosts).max(1);
    let before = resident();
    let began = Instant::now();
    let mut machines: Vec<Machine> = stream::iter(0..hosts)
        .map(|number| start(&site, number, each))
        .buffered(STARTING)
        .collect()
        .await;
    let last = last_names(hosts, each);
    let mut left: Vec<usize> = (0..machines.len()).collect();
    let all_know = || {
        left.retain(|number| !knows(&machines[*number], hosts - 1, &last));
        left.is_empty()
    };
    until_seldom(LOOK, all_know).await;
    println!("{hosts} hosts, {} targets, half of them behind a leaf node", hosts * each);
    line("all started and know each other", format!("{:.1} s", began.elapsed().as_secs_f64()));
    line("memory of each", format!("{:.1} MB", (resident() - before) / hosts as f64));
    tokio::time::sleep(SETTLE).await;
    idle(&site, hosts).await;
    let newcomer = join(&site, hosts, each).await;
    machines.push(newcomer);
    deaths(&site, &machines).await;
    failover(&site, &machines).await;
    println!("\n{EXTRAPOLATION}");
}

/// Measures what hosts cost that have nothing to do.
async fn idle(site: &Site, hosts: usize) {
    let (bytes, cpu) = (site.line_bytes().await, cpu_seconds());
    tokio::time::sleep(IDLE).await;
    let seconds = IDLE.as_secs_f64();
    let rate = (site.line_bytes().await - bytes) as f64 / seconds;
    line("on the leaf line, both ways", format!("{rate:.0} bytes/s"));
    let of_all = hosts * BEAT_BYTES;
    line("  a beat of each a second", format!("{of_all} bytes/s (computed)"));
    let share = (cpu_seconds() - cpu) / seconds / hosts as f64 * 100.0;
    line("CPU of each, of one core", format!("{share:.3} %"));
}

/// Starts one more host; measures how long it takes to know all others and what they offer.
async fn join(site: &Site, hosts: usize, each: usize) -> Machine {
    let bytes = site.line_bytes().await;
    let last = last_names(hosts, each);
    let began = Instant::now();
    let machine = start(site, hosts + 1, each).await;
    let ready = began.elapsed();
    until(|| knows(&machine, hosts, &last)).await;
    let took = began.elapsed();
    line("one more is ready", format!("{:.0} ms", millis(ready)));
    line("  and knows all, and what they offer", format!("{:.0} ms", millis(took)));
    let bytes = site.line_bytes().await - bytes;
    line("  bytes on the leaf line meanwhile", format!("{bytes}"));
    machine
}

/// Kills hosts that nobody calls; measures until all others miss them.
async fn deaths(site: &Site, machines: &[Machine]) {
    for (number, place) in [(0, "at the hub"), (1, "behind the leaf node")] {
        let (mut first, mut last) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let mut member = member(site, number, &format!("death-{number}-{round}")).await;
            until(|| machines.iter().all(|machine| is_lost(machine, &member.id) == Some(false)))
                .await;
            // It speaks seldom by then.
            tokio::time::sleep(Duration::from_secs(5)).await;
            let began = Instant::now();
            member.child.kill().await.expect("it is killed");
            let misses = |machine: &Machine| is_lost(machine, &member.id) != Some(false);
            until(|| machines.iter().any(misses)).await;
            first.push(began.elapsed().as_secs_f64());
            until(|| machines.iter().all(misses)).await;
            last.push(began.elapsed().as_secs_f64());
        }
        let text = format!("{:.2} s by the first, {:.2} s by all", median(first), median(last));
        line(&format!("killed {place}, missed"), text);
    }
}

async fn member(site: &Site, number: usize, home: &str) -> Member {
    Member::start(&site.dir.path().join(home), site.of(number)).await
}

/// Kills one of two hosts with an actor whose page is asked for all the time; measures the longest
/// wait.
async fn failover(site: &Site, machines: &[Machine]) {
    let mut waits = Vec::new();
    for round in 0..ROUNDS {
        let mut first = member(site, 0, &format!("first-{round}")).await;
        let second = member(site, 1, &format!("second-{round}")).await;
        let front = member(site, 0, &format!("front-{round}")).await;
        for member in [&first, &second] {
            member.run_echo().await;
        }
        let address = front.front().await;
        let url = format!("http://{address}/");
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        while !is_served(&client, &url).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let until = Instant::now() + Duration::from_secs(8);
        let (mut longest, mut is_killed) = (Duration::ZERO, false);
        while Instant::now() < until {
            if !is_killed && until - Instant::now() < Duration::from_secs(6) {
                first.child.start_kill().expect("it is killed");
                is_killed = true;
            }
            let began = Instant::now();
            assert!(is_served(&client, &url).await, "a request fails");
            longest = longest.max(began.elapsed());
        }
        waits.push(millis(longest));
        drop((first, second, front));
        until_lost(machines).await;
    }
    line("killed while called: the longest wait", format!("{:.0} ms, 0 failed", median(waits)));
}

async fn is_served(client: &reqwest::Client, url: &str) -> bool {
    client.get(url).send().await.is_ok_and(|answer| answer.status().is_success())
}

/// Waits until the hosts of a round are missed.
async fn until_lost(machines: &[Machine]) {
    let others = machines.len() - 1;
    until(|| {
        machines.iter().all(|machine| {
            machine.host.peers().others().iter().filter(|(_, is_lost)| !is_lost).count() == others
        })
    })
    .await;
}

/// The last target of each host.
fn last_names(hosts: usize, each: usize) -> Vec<String> {
    (0..hosts).map(|host| name_of(host, each - 1)).collect()
}

/// Whether a host has this many others, and knows the last target of each of them.
fn knows(machine: &Machine, others: usize, last: &[String]) -> bool {
    let peers = machine.host.peers();
    peers.others().len() >= others
        && last.iter().filter(|name| !peers.runners(name).is_empty()).count() >= others
        && peers.others().iter().all(|(_, is_lost)| !is_lost)
}

fn is_lost(machine: &Machine, id: &str) -> Option<bool> {
    machine.host.peers().known().iter().find(|peer| *peer.id == *id).map(|peer| peer.is_lost())
}

async fn until(holds: impl FnMut() -> bool) {
    until_seldom(Duration::from_millis(20), holds).await;
}

/// Looks so often, where each look costs what it waits for.
async fn until_seldom(pause: Duration, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < patience, "it never holds");
        tokio::time::sleep(pause).await;
    }
}

fn line(what: &str, figure: String) {
    println!("{what:42}{figure:>36}");
}

/// The memory of this process that is in use, in MB.
fn resident() -> f64 {
    let pages = field("/proc/self/statm", 1);
    pages * 4096.0 / 1e6
}

/// The CPU time of this process.
fn cpu_seconds() -> f64 {
    // In hundredths; the name of the program, before, has no blank.
    (field("/proc/self/stat", 13) + field("/proc/self/stat", 14)) / 100.0
}

fn field(file: &str, number: usize) -> f64 {
    let text = std::fs::read_to_string(file).expect("Linux tells");
    text.split_whitespace().nth(number).and_then(|field| field.parse().ok()).expect("a number")
}

const EXTRAPOLATION: &str = "\
Ten thousand machines, on paper. A word of a host is about 320 bytes on a line, signed. Each host
speaks to all every 5 minutes at the latest, so a line to a site carries 10 000 × 320 / 300 =
10.7 kB/s of them; a beat of each a second would be 3.2 MB/s, or 26 Mbit/s. The words of those that
watch each other stay at their NATS server: four a second, 1.5 kB/s, cross the line to a site of any
size, for its two voices and the two hosts that hear this site's. A machine alone behind its leaf
node sends one and hears three, which is the same.

A host handles 33 words to all and 4 beats a second: at 60 µs each, with the check of a signature,
0.2 % of a core. A look at the table every 250 ms and the order of the ring for 10 000 hosts cost
about 2 ms, 0.8 %. The table takes some 1.5 kB for a host and 130 bytes for a target: with 25 actors
on each, 10 000 × 4.8 kB = 48 MB; a call looks only at the hosts that run its target.

A host that comes says hello (one word to all), gets the list of hosts from three others (850 kB
each), and asks each for its targets, 64 at a time: 10 000 × 1.8 kB = 18 MB, about 5 seconds on a
100 Mbit/s line. A host that dies is called by three others and is lost to all in 3 seconds,
whatever the number. When 100 machines are started again in a minute, each tells a hello and a few
changes: 100 × 3 × 2 kB / 60 s = 10 kB/s for that minute.

Over superclusters the words to all cross each gateway once, since all clusters listen: 10.7 kB/s
again. Beats cross only for groups of fewer than four hosts at one server, and for voices. A cut
between two clusters is noticed in 4 seconds; when it ends, all speak once within 100 seconds, which
puts 32 kB/s on each line for that time. Beyond that the words to all are the limit: with 100 000
machines they are 107 kB/s, and targets should then be asked for when they are called first.";
