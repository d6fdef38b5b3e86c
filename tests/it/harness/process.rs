//! The binary as a process of its own, and the programs of others that tests run beside it.
//!
//! Every process that goes on while a test does something else is a [`Running`], or is in a type
//! whose end is its end. The keeper of the tests, `tests/keeper`, ends what is left when they were
//! killed, and lets a run fail in which a test forgot a process.

use std::{
    io::{BufRead, BufReader, Read},
    ops::{Deref, DerefMut},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
};

use serde_json::Value;

use super::{CLUSTER_SEED, PATIENCE, Server, nats};

/// A child process that is killed when dropped.
pub struct Running(Child);

impl Running {
    /// Starts a program that must be there.
    pub fn start(command: &mut Command) -> Self {
        let started = command.spawn();
        Self(started.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program())))
    }

    /// Kills it and waits for its end.
    pub fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// A running `host` whose lines can be waited for, those of its log or those it prints; killed when
/// dropped.
pub struct Process {
    child: Running,
    lines: mpsc::Receiver<String>,
    pub seen: Vec<String>,
}

/// The binary, to be run in a directory that is its home as well, with nothing else of this
/// environment.
pub fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_host"));
    command
        .current_dir(dir)
        .env_clear()
        .env("HOME", dir.join("home"))
        .env("NATS_SERVER", nats::binary());
    // Those that are about the dashboard say so.
    command.env("WASMCLOUD_DASHBOARD_PORT", "0");
    // The keeper of the tests removes what is made in the folder of the run.
    for name in ["PATH", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    std::fs::create_dir_all(dir.join("home")).expect("a home");
    command
}

/// The same for commands about the lattice of `server`.
pub fn command_in(dir: &Path, server: &Server) -> Command {
    let mut command = command(dir);
    command.env("WASMCLOUD_LATTICE", server.lattice());
    command
}

/// A host that joins the lattice of `server` with the tests' cluster key and may load files.
pub fn member(dir: &Path, server: &Server) -> Command {
    let mut command = command(dir);
    command.args(["foreground", "--nats-host", &server.url(), "--js-domain", "core"]);
    command.args(["--lattice-prefix", server.lattice()]);
    command.args([
        "--cluster-seed",
        CLUSTER_SEED,
        "--allow-file-load",
        "--rpc-timeout-ms",
        "20000",
    ]);
    command
}

impl Process {
    /// A host, for the lines of its log.
    pub fn start(command: &mut Command) -> Self {
        let mut child = Running::start(command.stderr(Stdio::piped()).stdin(Stdio::null()));
        let log = child.stderr.take().expect("piped");
        Self::of(child, log)
    }

    /// A command that goes on, for the lines it prints.
    pub fn printing(command: &mut Command) -> Self {
        let mut child = Running::start(command.stdout(Stdio::piped()).stdin(Stdio::null()));
        let printed = child.stdout.take().expect("piped");
        Self::of(child, printed)
    }

    fn of(child: Running, source: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        let source = BufReader::new(source);
        std::thread::spawn(move || {
            source.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for the next line; `wanted` is what it is hoped to be.
    pub fn next(&mut self, wanted: &str) -> String {
        let line = self
            .lines
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("no line {wanted:?} after {:#?}", self.seen));
        self.seen.push(line.clone());
        line
    }

    /// Waits for a line with this text.
    pub fn line(&mut self, text: &str) -> String {
        loop {
            let line = self.next(text);
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Waits for the next line, which is JSON.
    pub fn json(&mut self, wanted: &str) -> Value {
        let line = self.next(wanted);
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("the signal is sent");
    }

    /// Freezes the process; returns when none of its threads runs any more.
    pub async fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
        frozen(self.child.id()).await;
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        let began = std::time::Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().expect("the process can be asked") {
                return status.code();
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the process did not end; its log: {:#?}", self.seen)
    }
}

/// Runs a command to its end.
pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("host runs")
}

/// Returns the text on standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until every thread of a process is stopped (state `T` in proc(5)). The signal alone is
/// only on its way, and on a busy machine a thread may answer a call before it stops.
pub async fn frozen(pid: u32) {
    let is_stopped = |thread: std::fs::DirEntry| {
        std::fs::read_to_string(thread.path().join("stat")).is_ok_and(|stat| stat.contains(") T "))
    };
    super::eventually("the process is frozen", || async {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        threads.flatten().all(is_stopped).then_some(())
    })
    .await;
}
