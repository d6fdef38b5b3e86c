//! Runs of tests that end in every way, with processes that do what they can to be forgotten.
//!
//! This program runs itself for that, with one test that is no test but a scene: it starts the
//! processes and ends as it is told. The scene has a keeper of its own, below that of this program.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::{
    fs,
    io::Read as _,
    os::unix::process::{CommandExt as _, ExitStatusExt as _, parent_id},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use lattice_test_keeper::VARIABLE;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

/// The directory in which the scene tells its numbers.
const PLACE: &str = "HOST_TESTS_PLACE";
/// How the scene ends.
const ENDING: &str = "HOST_TESTS_ENDING";
/// More than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Five processes: a child, one with a session of its own, one whose parent is gone and that has an
/// empty environment, one that is frozen, and one below it. All have the file in their arguments,
/// and so has the shell that starts them and waits.
const FORGOTTEN: &str = r#"
    tail -f "$0" &
    setsid tail -f "$0" &
    (setsid env -i tail -f "$0" &)
    (setsid sh -c 'tail -f "$0" & kill -STOP $$; wait' "$0" &)
    wait
"#;
const FORGOTTEN_COUNT: usize = 5;

#[test]
fn scene() {
    let Some(place) = std::env::var_os(PLACE).map(PathBuf::from) else { return };
    let ending = std::env::var_os(ENDING).expect("an ending");
    if ending != "clean" {
        let mut shell = Command::new("sh");
        shell.args(["-c", FORGOTTEN]).arg(place.join("mark")).stdin(Stdio::null());
        let shell = shell.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("sh runs");
        // Nobody waits for it: that is the case.
        std::mem::forget(shell);
        eventually("all of them run", || marked(&place).len() > FORGOTTEN_COUNT);
    }
    let _forgotten = TempDir::new().expect("a directory").keep();
    let folder = std::env::temp_dir();
    let told = format!("{} {} {}", std::process::id(), parent_id(), folder.display());
    fs::write(place.join("draft"), told).expect("the numbers are told");
    fs::rename(place.join("draft"), place.join("told")).expect("they are there as a whole");
    match ending.to_str() {
        Some("panic") => panic!("as it is told"),
        Some("wait") => std::thread::sleep(PATIENCE * 10),
        _ => {}
    }
}

/// A run of the scene.
struct Run {
    place: TempDir,
    front: Child,
}

/// The numbers of a run, told by its scene.
struct Told {
    tests: Pid,
    keeper: Pid,
    folder: PathBuf,
}

impl Run {
    /// Starts it with a place of its own for temporary folders, or it would meet other runs.
    fn start(ending: &str, temporary: &TempDir) -> Self {
        let place = TempDir::new().unwrap();
        fs::write(place.path().join("mark"), "").unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        let front = command
            .args(["--exact", "scene"])
            .env_remove(VARIABLE)
            .env("TMPDIR", temporary.path())
            .env(PLACE, place.path())
            .env(ENDING, ending)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { place, front }
    }

    fn told(&self) -> Told {
        let file = self.place.path().join("told");
        eventually("the scene tells its numbers", || file.exists());
        let text = fs::read_to_string(file).unwrap();
        let mut words = text.splitn(3, ' ');
        let mut number = || Pid::from_raw(words.next().unwrap().parse().unwrap()).unwrap();
        let (tests, keeper) = (number(), number());
        Told { tests, keeper, folder: words.next().unwrap().into() }
    }

    fn front(&self) -> Pid {
        Pid::from_child(&self.front)
    }

    /// Waits for the end; returns the exit code or the signal, and what was said.
    fn end(&mut self) -> (Result<i32, i32>, String) {
        let mut said = String::new();
        // It ends when the last of the run has ended.
        self.front.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = self.front.wait().unwrap();
        (status.code().ok_or_else(|| status.signal().unwrap()), said)
    }

    fn has_left_nothing(&self, told: &Told, case: &str) {
        eventually(&format!("{case}: no process is left"), || {
            marked(self.place.path()).is_empty() && !exists(told.tests) && !exists(told.keeper)
        });
        eventually(&format!("{case}: no folder is left"), || !told.folder.exists());
    }
}

/// The processes that name the file of a scene in their arguments.
fn marked(place: &Path) -> Vec<Pid> {
    let mark = place.join("mark");
    let mark = mark.as_os_str().as_encoded_bytes();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has_mark = |number: &i32| {
        let arguments = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == mark)
    };
    numbers.filter(has_mark).filter_map(Pid::from_raw).collect()
}

fn exists(process: Pid) -> bool {
    Path::new("/proc").join(process.as_raw_pid().to_string()).exists()
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn kill(process: Pid) {
    kill_process(process, Signal::KILL).unwrap();
}

#[test]
fn a_run_that_is_killed_leaves_nothing_whichever_of_its_processes_is_killed() {
    type Kill = fn(&Run, &Told);
    let cases: [(&str, Kill); 5] = [
        ("the tests", |_, told| kill(told.tests)),
        ("the keeper", |_, told| kill(told.keeper)),
        ("the front", |run, _| kill(run.front())),
        ("the group", |run, _| kill_process_group(run.front(), Signal::KILL).unwrap()),
        ("a request", |run, _| kill_process_group(run.front(), Signal::TERM).unwrap()),
    ];
    let temporary = TempDir::new().unwrap();
    for (case, kill) in cases {
        let mut run = Run::start("wait", &temporary);
        let told = run.told();
        assert!(marked(run.place.path()).len() > FORGOTTEN_COUNT, "{case}");
        assert!(told.folder.is_dir(), "{case}");
        kill(&run, &told);
        let (status, said) = run.end();
        run.has_left_nothing(&told, case);
        let signal = if case == "a request" { Signal::TERM } else { Signal::KILL };
        assert_eq!(status, Err(signal.as_raw()), "{case}: {said}");
    }
}

#[test]
fn a_run_that_ends_by_itself_leaves_nothing_and_says_so() {
    let temporary = TempDir::new().unwrap();
    for (ending, code, says) in [
        ("clean", 0, "nothing is left of these tests"),
        ("return", 101, "these tests left behind, and their keeper has ended:"),
        ("panic", 101, "these tests left behind, and their keeper has ended:"),
    ] {
        let mut run = Run::start(ending, &temporary);
        let told = run.told();
        let (status, said) = run.end();
        run.has_left_nothing(&told, ending);
        assert_eq!(status, Ok(code), "{ending}: {said}");
        assert!(said.contains(says), "{ending}: {said}");
        let tails = said.matches("(tail)").count();
        assert_eq!(tails, if ending == "clean" { 0 } else { 4 }, "{ending}: {said}");
    }
}

#[test]
fn the_folder_of_a_run_that_was_killed_with_its_keeper_is_removed_by_the_next_run() {
    let temporary = TempDir::new().unwrap();
    let mut killed = Run::start("wait", &temporary);
    let told = killed.told();
    // A frozen front cannot do the work of the keeper.
    kill_process(killed.front(), Signal::STOP).unwrap();
    kill(told.keeper);
    kill(killed.front());
    for process in marked(killed.place.path()) {
        let _ = kill_process(process, Signal::KILL);
    }
    let _ = killed.end();
    assert!(told.folder.is_dir(), "nobody has removed it");
    let mut next = Run::start("clean", &temporary);
    assert_eq!(next.end().0, Ok(0));
    killed.has_left_nothing(&told, "the next run");
}
