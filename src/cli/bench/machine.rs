//! The machine that was measured, as far as it tells.

use std::{fs, path::Path, process::Command};

use lattice_base::{config::ProcessEnvironment, dirs::Dirs};
use serde::Serialize;

use super::bare::find_wasmtime;
use crate::up::nats_server;

/// The things that results depend on. Those that are not known are empty, or zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
    pub system: String,
    /// How the kernel chooses the speed of the cores.
    pub governor: String,
    pub nats_server: String,
    pub host: String,
    pub wasmtime: String,
    /// Whether this binary was made without optimization, so that its numbers mean little.
    pub is_debug_build: bool,
}

impl Machine {
    /// Looks at this machine. Runs two programs for their version, and blocks meanwhile.
    pub fn here() -> Self {
        let nats = nats_server::find(&ProcessEnvironment, &Dirs::of_process());
        Self {
            cpu: value_of("/proc/cpuinfo", "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_bytes: value_of("/proc/meminfo", "MemTotal").map_or(0, |text| kib(&text)),
            system: system(),
            governor: line_of("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            nats_server: nats.map(|binary| version(&binary)).unwrap_or_default(),
            host: env!("CARGO_PKG_VERSION").to_owned(),
            wasmtime: find_wasmtime().map(|binary| version(&binary)).unwrap_or_default(),
            is_debug_build: cfg!(debug_assertions),
        }
    }

    /// Returns it in one line.
    pub fn line(&self) -> String {
        let memory = (self.memory_bytes > 0)
            .then(|| format!("{:.1} GiB", self.memory_bytes as f64 / f64::from(1 << 30)));
        let named =
            |name: &str, value: &str| (!value.is_empty()).then(|| format!("{name} {value}"));
        let build = self.is_debug_build.then(|| "a build without optimization".to_owned());
        [
            (!self.cpu.is_empty()).then(|| self.cpu.clone()),
            Some(format!("{} cores", self.cores)),
            memory,
            (!self.system.is_empty()).then(|| self.system.clone()),
            named("governor", &self.governor),
            named("nats-server", &self.nats_server),
            named("host", &self.host),
            named("wasmtime", &self.wasmtime),
            build,
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", ")
    }
}

/// Returns the memory of a process that is in RAM, in bytes; nothing where the system does not tell
/// in this way.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    value_of(&format!("/proc/{pid}/status"), "VmRSS").map(|text| kib(&text))
}

/// Reads the first line of a file like `name : value` that has this name.
fn value_of(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = pairs.find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

/// Reads `123 kB` as bytes.
fn kib(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn line_of(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

fn system() -> String {
    let kernel = line_of("/proc/sys/kernel/osrelease");
    [std::env::consts::OS, &kernel].join(" ").trim().to_owned()
}

/// The version that a program tells, without its name.
fn version(program: &Path) -> String {
    let told = Command::new(program).arg("--version").output();
    let text = told.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let number = text.split_whitespace().find(|word| word.contains(|c: char| c.is_ascii_digit()));
    number.unwrap_or_default().trim_start_matches('v').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_what_is_known() {
        let machine = Machine { cores: 2, host: "0.1.0".into(), ..Machine::default() };
        assert_eq!(machine.line(), "2 cores, host 0.1.0");
        let here = Machine::here();
        assert!(here.cores > 0 && here.line().contains(&here.host));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_memory_of_this_process_is_known() {
        assert!(resident_bytes(std::process::id()).unwrap() > 1 << 20);
        assert_eq!(resident_bytes(0), None);
    }
}
