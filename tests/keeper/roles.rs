//! The three processes of a run of tests; see the crate.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{Command, exit},
    time::Duration,
};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitStatus, getpid, getppid, kill_process, set_child_subreaper,
    set_parent_process_death_signal, setrlimit, setsid,
};

use crate::{VARIABLE, folder, namespaces, processes};

/// The kernel's name for the program of this process.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// The keeper's name, which is not that of the program.
const KEEPER: &str = "keeper-of-tests";
const KEEP_FOR: &str = "keep-for";
const KEPT_BY: &str = "kept-by";
/// How often the keeper looks after the tests and the front.
const POLL: Duration = Duration::from_millis(10);
/// Processes that the tests share end a moment after them, on a loaded machine a long one.
const GRACE: Duration = Duration::from_secs(10);
/// As programs of tests report a failure.
const FAILED: i32 = 101;

/// Comes before `main` of every program that has this crate in it: the C library calls the
/// functions in this section, with the arguments in place and before there is a second thread.
#[used]
#[unsafe(link_section = ".init_array")]
#[allow(unsafe_code, reason = "nothing else comes before the `main` of a program of tests")]
static BEFORE_MAIN: extern "C" fn() = before_main;

extern "C" fn before_main() {
    let word = std::env::var_os(VARIABLE).map(|word| word.to_string_lossy().into_owned());
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let is_list = arguments.iter().any(|argument| argument == "--list" || argument == "--help");
    // None is one outside of the container.
    let parent = getppid();
    match role(word.as_deref(), is_list, Pid::as_raw(parent)) {
        Role::Front => front(&arguments),
        Role::Keeper => keeper(&arguments, parent),
        Role::Tests => end_with(parent),
        Role::Late => exit(FAILED),
        Role::Free => {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Front,
    Keeper,
    Tests,
    /// A keeper whose front is gone already.
    Late,
    /// Nothing of these: it does its work as if this crate was not there.
    Free,
}

/// Returns what a process is, from the text of [`VARIABLE`] and the number of its parent. What
/// tests start has the text of the tests, and another parent; it is below a keeper already.
fn role(word: Option<&str>, is_list: bool, parent: i32) -> Role {
    let Some(word) = word.filter(|word| !word.is_empty()) else {
        return if is_list { Role::Free } else { Role::Front };
    };
    let is_of_parent = |number: &str| number.parse() == Ok(parent);
    match word.split_once(' ') {
        Some((KEEP_FOR, front)) if is_of_parent(front) => Role::Keeper,
        Some((KEEP_FOR, _)) => Role::Late,
        Some((KEPT_BY, keeper)) if is_of_parent(keeper) => Role::Tests,
        _ => Role::Free,
    }
}

/// Starts the keeper and ends as the tests did; returns where there can be no keeper, and the tests
/// run without one.
fn front(arguments: &[OsString]) {
    let mut command = Command::new(OWN_PROGRAM);
    command.arg0(KEEPER).args(arguments).env(VARIABLE, format!("{KEEP_FOR} {}", own_number()));
    let is_subreaper = set_child_subreaper(Some(getpid())).map_err(io::Error::from);
    let keeper = match is_subreaper.and_then(|()| command.spawn()) {
        Ok(keeper) => Pid::from_child(&keeper),
        Err(error) => return say(&format!("tests run without a keeper: {error}")),
    };
    let status = processes::wait_for(keeper);
    // Either the keeper was killed itself, or it shows how the tests ended and has left nothing.
    if status.is_none_or(WaitStatus::signaled) {
        processes::end_all();
        namespaces::remove_abandoned(None);
        let _ = folder::remove(&folder::of(keeper));
    }
    end_as(status)
}

/// Runs the tests to their end, and ends what they left.
fn keeper(arguments: &[OsString], front: Option<Pid>) -> ! {
    folder::remove_abandoned();
    namespaces::remove_abandoned(None);
    let folder = folder::Folder::make();
    let tests = match start(arguments, folder.as_ref()) {
        Ok(tests) => tests,
        Err(error) => {
            say(&format!("the tests cannot be run: {error}"));
            exit(FAILED)
        }
    };
    // After the start, or the tests would be in the new session, too. An error means that this
    // process leads one already.
    let _ = setsid();
    let status = watch(tests, front);
    let found = if status.is_some_and(WaitStatus::exited) {
        processes::wait_until_alone(GRACE);
        processes::below_this_one()
    } else {
        Vec::new()
    };
    let mut left = Left { found, stuck: processes::end_all() };
    let namespaces = namespaces::remove_abandoned(u32::try_from(tests.as_raw_pid()).ok());
    if status.is_some_and(WaitStatus::exited) {
        left.found.extend(namespaces);
    }
    if let Err(error) = folder.and_then(|folder| folder.remove()) {
        left.stuck.push(format!("the folder of the run: {error}"));
    }
    say(&left.text());
    if left.is_nothing() || status.and_then(WaitStatus::exit_status) != Some(0) {
        end_as(status)
    }
    exit(FAILED)
}

fn start(arguments: &[OsString], folder: Result<&folder::Folder, &io::Error>) -> io::Result<Pid> {
    set_child_subreaper(Some(getpid()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).env(VARIABLE, format!("{KEPT_BY} {}", own_number()));
    if let Ok(folder) = folder {
        command.env("TMPDIR", folder.path());
    }
    Ok(Pid::from_child(&command.spawn()?))
}

/// Waits for the end of the tests, which the end of the front brings about; returns how they ended,
/// if that can be known.
fn watch(tests: Pid, front: Option<Pid>) -> Option<WaitStatus> {
    loop {
        match processes::reap(tests) {
            processes::Reaped::Runs => {}
            processes::Reaped::Ended(status) => return status,
        }
        if getppid() != front {
            let _ = kill_process(tests, Signal::KILL);
        }
        std::thread::sleep(POLL);
    }
}

/// Lets the kernel end this process when its parent ends. The parent has one thread, so the signal
/// does not come for the end of another one.
fn end_with(parent: Option<Pid>) {
    let is_set = set_parent_process_death_signal(Some(Signal::KILL)).is_ok();
    // The parent may have ended before that; then nobody would send the signal any more.
    if is_set && getppid() != parent {
        exit(FAILED)
    }
}

/// Ends as another process did, so that cargo can tell how.
fn end_as(status: Option<WaitStatus>) -> ! {
    if let Some(code) = status.and_then(WaitStatus::exit_status) {
        exit(code)
    }
    let signal = status.and_then(WaitStatus::terminating_signal).and_then(Signal::from_named_raw);
    if let Some(signal) = signal {
        // The process that this one stands for has left a core file, if one was wanted.
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        let _ = kill_process(getpid(), signal);
    }
    exit(FAILED)
}

/// The outcome of a run, besides that of its tests.
#[derive(Debug, Default)]
struct Left {
    /// Was there after the tests, and is not any more.
    found: Vec<String>,
    /// Is there still.
    stuck: Vec<String>,
}

impl Left {
    fn is_nothing(&self) -> bool {
        self.found.is_empty() && self.stuck.is_empty()
    }

    fn text(&self) -> String {
        if self.is_nothing() {
            return "nothing is left of these tests".to_owned();
        }
        let found = listed("these tests left behind, and their keeper has ended:", &self.found);
        let stuck = listed("these tests left behind, and it cannot be ended:", &self.stuck);
        found.into_iter().chain(stuck).collect::<Vec<_>>().join("\n")
    }
}

/// Returns a line for the title and one for each thing; none if there is no thing.
fn listed(title: &str, things: &[String]) -> Option<String> {
    (!things.is_empty()).then(|| format!("{title}\n  {}", things.join("\n  ")))
}

/// Prints a text for people. Its reader may be gone, which is no reason to stop the work.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn own_number() -> u32 {
    std::process::id()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_is_by_a_word_and_its_parent() {
        for (word, is_list, role_of_it) in [
            (None, false, Role::Front),
            (Some(""), false, Role::Front),
            (None, true, Role::Free),
            (Some("off"), false, Role::Free),
            (Some("keep-for 7"), false, Role::Keeper),
            (Some("keep-for 8"), false, Role::Late),
            (Some("kept-by 7"), false, Role::Tests),
            // A program that the tests have started.
            (Some("kept-by 8"), false, Role::Free),
            (Some("kept-by x"), false, Role::Free),
        ] {
            assert_eq!(role(word, is_list, 7), role_of_it, "{word:?} {is_list}");
        }
    }

    #[test]
    fn what_is_left_is_told_by_what_became_of_it() {
        let things = |things: &[&str]| things.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (found, stuck, text) in [
            (vec![], vec![], "nothing is left of these tests"),
            (
                things(&["7 sleep", "8 sleep"]),
                vec![],
                "these tests left behind, and their keeper has ended:\n  7 sleep\n  8 sleep",
            ),
            (
                things(&["7 sleep"]),
                things(&["8 sleep"]),
                "these tests left behind, and their keeper has ended:\n  7 sleep\n\
                 these tests left behind, and it cannot be ended:\n  8 sleep",
            ),
        ] {
            assert_eq!(Left { found, stuck }.text(), text);
        }
    }

    #[test]
    fn these_tests_have_a_keeper_and_a_folder() {
        let word = std::env::var_os(VARIABLE).expect("the word of a keeper");
        if word == "off" {
            return;
        }
        assert!(word.to_string_lossy().starts_with(KEPT_BY));
        let keeper = getppid().expect("a parent");
        assert_eq!(std::env::temp_dir().file_name(), folder::of(keeper).file_name());
    }
}
