//! Machines with networks of their own, on one Linux computer: a namespace each, a bridge between
//! them with latency and loss, and a short wire to each for those who ask for pages and send
//! commands.
//!
//! Everything is removed when the [`Network`] is dropped. The next run removes leftovers of a
//! killed run: names carry the process id of their owner.

use std::{
    net::Ipv4Addr,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Namespaces are called `lattice-walk-PID-N`, interfaces `lwPIDxN`.
const PREFIX: &str = "lattice-walk-";

/// The disturbance of every packet that leaves a machine towards the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    pub delay_ms: u32,
    pub loss_percent: f32,
}

impl Weather {
    fn is_calm(self) -> bool {
        self.delay_ms == 0 && self.loss_percent == 0.0
    }
}

/// One machine's corner of the network.
#[derive(Clone, Debug)]
pub struct Corner {
    pub namespace: String,
    /// Its address for the other machines, behind latency and loss.
    pub wide_address: String,
    /// Its address for this program, over the short wire.
    pub near_address: String,
}

/// A bridge with machines around it. The first one is the hub.
#[derive(Debug)]
pub struct Network {
    bridge: String,
    outside: Ipv4Addr,
    corners: Vec<Corner>,
}

impl Network {
    /// Builds the network for a hub and this many machines; says what is missing where that is
    /// impossible.
    pub fn build(machines: usize, weather: Weather) -> Result<Self> {
        check()?;
        remove_leftovers();
        let id = std::process::id();
        // The range for benchmarks of networks, which nobody uses otherwise; runs at the same time
        // get different parts.
        let part = id % 250;
        let bridge = format!("lw{id}");
        let outside = format!("198.19.{part}.254");
        let address = outside.parse().context("an address for this program")?;
        let mut network = Self { bridge: bridge.clone(), outside: address, corners: Vec::new() };
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{outside}/24"), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for number in 0..=machines {
            let corner = Corner {
                namespace: format!("{PREFIX}{id}-{number}"),
                wide_address: format!("198.19.{part}.{}", number + 1),
                near_address: format!("198.18.{part}.{}", 4 * number + 2),
            };
            network.corners.push(corner.clone());
            let namespace = corner.namespace.as_str();
            ip(&["netns", "add", namespace])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            // To the other machines.
            let outside = format!("lw{id}w{number}");
            ip(&[
                "link", "add", &outside, "type", "veth", "peer", "name", "wide", "netns", namespace,
            ])?;
            ip(&["link", "set", &outside, "master", &bridge, "up"])?;
            ip(&[
                "-n",
                namespace,
                "addr",
                "add",
                &format!("{}/24", corner.wide_address),
                "dev",
                "wide",
            ])?;
            ip(&["-n", namespace, "link", "set", "wide", "up"])?;
            // To this program.
            let outside = format!("lw{id}n{number}");
            ip(&[
                "link", "add", &outside, "type", "veth", "peer", "name", "near", "netns", namespace,
            ])?;
            ip(&["addr", "add", &format!("198.18.{part}.{}/30", 4 * number + 1), "dev", &outside])?;
            ip(&["link", "set", &outside, "up"])?;
            ip(&[
                "-n",
                namespace,
                "addr",
                "add",
                &format!("{}/30", corner.near_address),
                "dev",
                "near",
            ])?;
            ip(&["-n", namespace, "link", "set", "near", "up"])?;
            if !weather.is_calm() {
                disturb(namespace, weather)?;
            }
        }
        Ok(network)
    }

    /// Where machines reach this program, over their long wires: it is the rest of the world to
    /// them.
    pub fn outside(&self) -> Ipv4Addr {
        self.outside
    }

    pub fn hub(&self) -> &Corner {
        &self.corners[0]
    }

    /// The corner of a machine, counted from 0. There are as many as [`Network::build`] was told.
    pub fn machine(&self, number: usize) -> &Corner {
        &self.corners[number + 1]
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for corner in &self.corners {
            remove_namespace(&corner.namespace);
        }
        let _ = ip(&["link", "del", &self.bridge]);
    }
}

/// Says which right or program is missing, before anything is built.
fn check() -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!("network namespaces are a thing of Linux; leave out --netns");
    }
    #[cfg(unix)]
    if !rustix::process::geteuid().is_root() {
        bail!("network namespaces need root; run this with sudo, or leave out --netns");
    }
    for program in ["ip", "tc"] {
        if let Err(error) = output(program, &["-V"]) {
            bail!(
                "{program} is missing ({error}); install iproute2 (apt-get install iproute2), or leave out --netns"
            );
        }
    }
    Ok(())
}

fn disturb(namespace: &str, weather: Weather) -> Result<()> {
    let (delay, loss) = (format!("{}ms", weather.delay_ms), format!("{}%", weather.loss_percent));
    let arguments = [
        "-n", namespace, "qdisc", "add", "dev", "wide", "root", "netem", "delay", &delay, "loss",
        &loss, "limit", "10000",
    ];
    run("tc", &arguments).context(
        "this kernel makes no latency and loss: it needs sch_netem (CONFIG_NET_SCH_NETEM; modprobe sch_netem). \
         --delay-ms 0 --loss 0 does without",
    )
}

/// Removes what belongs to processes that have ended.
fn remove_leftovers() {
    let Ok(list) = output("ip", &["netns", "list"]) else { return };
    for line in String::from_utf8_lossy(&list.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let owner =
            name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(owner, _)| owner);
        let Some(owner) = owner.filter(|owner| owner.parse::<u32>().is_ok()) else { continue };
        if !std::path::Path::new("/proc").join(owner).exists() {
            remove_namespace(name);
            let _ = ip(&["link", "del", &format!("lw{owner}")]);
        }
    }
}

/// Removes a namespace `lattice-walk-PID-N` and its wires. It would take its wires along, but only
/// once its last process is gone and the kernel has the time.
fn remove_namespace(name: &str) {
    if let Some((owner, number)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) {
        for wire in ["w", "n"] {
            let _ = ip(&["link", "del", &format!("lw{owner}{wire}{number}")]);
        }
    }
    let _ = ip(&["netns", "del", name]);
}

fn ip(arguments: &[&str]) -> Result<()> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = output(program, arguments).with_context(|| format!("run {program}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())
}

fn output(program: &str, arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(program).args(arguments).stdin(Stdio::null()).output()
}
