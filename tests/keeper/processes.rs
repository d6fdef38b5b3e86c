//! The processes below this one: waits for them, tells them, ends them.
//!
//! Only children are killed, and only this process could make their numbers free, so nobody else is
//! ever hit. Every orphan further down becomes a child when its parent has ended.

use std::{
    collections::HashMap,
    fs,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, wait},
};

const POLL: Duration = Duration::from_millis(10);
/// A killed process is gone after this, or hangs in the kernel.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// Tests install what they miss. A package manager that is killed leaves a machine where nothing
/// can be installed until somebody repairs it, so it may go on to its end.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(180);
const INSTALLERS: [&str; 2] = ["apt-get", "dpkg"];
/// The part of a command line that is told.
const COMMAND_CHARS: usize = 160;

/// The state of one child after a look at all.
pub enum Reaped {
    Runs,
    /// How it ended is unknown where this process was started with SIGCHLD ignored.
    Ended(Option<WaitStatus>),
}

/// Takes note of all children that have ended, and tells how one is.
pub fn reap(child: Pid) -> Reaped {
    loop {
        match wait(WaitOptions::NOHANG) {
            // Others that have ended before it are found by the next look.
            Ok(Some((ended, status))) if ended == child => return Reaped::Ended(Some(status)),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return Reaped::Runs,
            Err(_) => return Reaped::Ended(None),
        }
    }
}

/// Waits until a child has ended, and takes note of others that end meanwhile.
pub fn wait_for(child: Pid) -> Option<WaitStatus> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == child => return Some(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// Waits until nothing is below this process, but not longer than this.
pub fn wait_until_alone(limit: Duration) {
    let deadline = Instant::now() + limit;
    while !is_alone() && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
}

/// Takes note of all children that have ended; tells whether there are no others.
fn is_alone() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

/// Kills children until there are none: those of a killed one become children, too. Returns those
/// that are still there when the time is over.
pub fn end_all() -> Vec<String> {
    let began = Instant::now();
    while !is_alone() {
        let children = children_of(own_number(), &all());
        let (installers, others): (Vec<Process>, Vec<Process>) =
            children.into_iter().partition(Process::is_installer);
        for child in &others {
            if let Some(child) = Pid::from_raw(child.id) {
                let _ = kill_process(child, Signal::KILL);
            }
        }
        let limit = if installers.is_empty() { END_TIMEOUT } else { INSTALL_TIMEOUT };
        if began.elapsed() > limit {
            return below_this_one();
        }
        std::thread::sleep(POLL);
    }
    Vec::new()
}

/// Returns the numbers and the command lines of all processes below this one.
pub fn below_this_one() -> Vec<String> {
    below(own_number(), &all()).iter().filter(|process| !process.has_ended()).map(told).collect()
}

fn told(process: &Process) -> String {
    let arguments = fs::read(format!("/proc/{}/cmdline", process.id)).unwrap_or_default();
    let command = String::from_utf8_lossy(&arguments).replace('\0', " ");
    let command: String = command.trim().chars().take(COMMAND_CHARS).collect();
    format!("process {} ({}) {command}", process.id, process.name).trim_end().to_owned()
}

fn own_number() -> i32 {
    getpid().as_raw_pid()
}

/// A process as proc(5) tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Process {
    id: i32,
    parent: i32,
    state: char,
    name: String,
}

impl Process {
    /// Reads the text of `/proc/ID/stat`. The name, in brackets, may hold anything.
    fn read(stat: &str) -> Option<Self> {
        let (id, rest) = stat.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let mut words = rest.split_whitespace();
        let state = words.next()?.chars().next()?;
        let parent = words.next()?.parse().ok()?;
        Some(Self { id: id.parse().ok()?, parent, state, name: name.to_owned() })
    }

    /// Whether it has ended and only waits for its parent to take note.
    fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    fn is_installer(&self) -> bool {
        INSTALLERS.contains(&self.name.as_str()) && !self.has_ended()
    }
}

fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter_map(|id| Process::read(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?))
        .collect()
}

fn children_of(parent: i32, all: &[Process]) -> Vec<Process> {
    all.iter().filter(|process| process.parent == parent).cloned().collect()
}

/// Returns the children of a process, and theirs, and so on.
fn below(root: i32, all: &[Process]) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<&Process>> = HashMap::new();
    for process in all {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        // Removed, so that a look that met a number twice goes in no circle.
        for child in children.remove(&parent).unwrap_or_default() {
            parents.push(child.id);
            found.push(child.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: i32, parent: i32) -> Process {
        Process { id, parent, state: 'S', name: "sleep".to_owned() }
    }

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        for (stat, expected) in [
            ("7 (sleep) S 1 7 7 0", Some(process(7, 1))),
            (
                "7 (a) S 9 (b) Z 1 7",
                Some(Process { name: "a) S 9 (b".to_owned(), state: 'Z', ..process(7, 1) }),
            ),
            ("7 (sleep) S", None),
            ("", None),
        ] {
            assert_eq!(Process::read(stat), expected, "{stat}");
        }
    }

    #[test]
    fn what_is_below_a_process_is_found_at_every_depth() {
        let all = [process(1, 0), process(2, 1), process(3, 2), process(4, 3), process(5, 1)];
        for (root, expected) in [(2, vec![3, 4]), (1, vec![2, 3, 4, 5]), (5, vec![]), (9, vec![])] {
            let mut found: Vec<i32> = below(root, &all).iter().map(|found| found.id).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{root}");
        }
    }

    #[test]
    fn a_package_manager_may_end_its_work() {
        for (name, state, is_installer) in
            [("apt-get", 'S', true), ("dpkg", 'D', true), ("dpkg", 'Z', false), ("sh", 'S', false)]
        {
            let process = Process { name: name.to_owned(), state, ..process(7, 1) };
            assert_eq!(process.is_installer(), is_installer, "{name} {state}");
        }
    }
}
