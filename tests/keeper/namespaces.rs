//! The network namespaces that the walk of two machines makes, and its interfaces.
//!
//! Their names have the number of the process that made them:
//! `lattice-walk-PID-N`, `lwPID`, `lwPIDwN` and `lwPIDnN` (`examples/two-machines/walk/netns.rs`).
//! Those of a process that is gone belong to nobody. The names of interfaces are short, so others
//! may have such names by chance: they are only removed with a namespace, or for a process that is
//! known to be one of tests.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
};

const NAMESPACES: &str = "/run/netns";
const INTERFACES: &str = "/sys/class/net";

/// Removes what belongs to nobody any more, and what belonged to this process of tests, which is
/// gone; returns what that was.
pub fn remove_abandoned(tests: Option<u32>) -> Vec<String> {
    let namespaces = names_in(NAMESPACES, |name| namespace_owner(name).is_some_and(is_gone));
    for name in &namespaces {
        ip(&["netns", "del", name]);
    }
    let owners = namespaces.iter().filter_map(|name| namespace_owner(name));
    let owners: BTreeSet<u32> = owners.chain(tests).collect();
    // After the namespaces, which take some of them along.
    let interfaces =
        names_in(INTERFACES, |name| interface_owner(name).is_some_and(|id| owners.contains(&id)));
    for name in &interfaces {
        ip(&["link", "del", name]);
    }
    let namespaces = namespaces.iter().map(|name| format!("network namespace {name}"));
    namespaces.chain(interfaces.iter().map(|name| format!("network interface {name}"))).collect()
}

fn names_in(directory: &str, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| is_wanted(name)).collect()
}

fn is_gone(process: u32) -> bool {
    !Path::new("/proc").join(process.to_string()).exists()
}

fn namespace_owner(name: &str) -> Option<u32> {
    name.strip_prefix("lattice-walk-")?.split_once('-')?.0.parse().ok()
}

fn interface_owner(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("lw")?;
    let (owner, end) = rest.split_at(rest.find(['w', 'n']).unwrap_or(rest.len()));
    let is_machine = end.is_empty() || end[1..].parse::<u32>().is_ok();
    is_machine.then(|| owner.parse().ok()).flatten()
}

/// An error means that it is gone already, or that this user has no right to such things.
fn ip(arguments: &[&str]) {
    let mut command = Command::new("ip");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _ = command.status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_name_is_read() {
        for (name, owner) in [
            ("lattice-walk-77-0", Some(77)),
            ("lattice-walk-77", None),
            ("lattice-walk-x-0", None),
            ("blue", None),
        ] {
            assert_eq!(namespace_owner(name), owner, "{name}");
        }
        for (name, owner) in [
            ("lw77", Some(77)),
            ("lw77w0", Some(77)),
            ("lw77n12", Some(77)),
            ("lw77x1", None),
            ("lw77w", None),
            ("lwn0", None),
            ("lo", None),
        ] {
            assert_eq!(interface_owner(name), owner, "{name}");
        }
    }
}
