//! A small process between the host and a provider, so that nothing the provider started outlives
//! it or the host.
//!
//! A process that makes a session of its own, or whose parents have ended, is in no group that
//! could be signalled, and its number tells nobody whose it was. Linux has one sure way to find it:
//! orphans become children of the nearest ancestor that asked for them. So the binary runs itself
//! once more for each provider, as such an ancestor:
//!
//! ```text
//! host ── keeper (subreaper) ── provider ── whatever it starts
//! ```
//!
//! * The provider has the keeper's standard input and outputs, and a process group of its own.
//! * [`ASK`] to the keeper is SIGTERM to that group. [`END`] is the end of everything below; the
//!   kernel sends it when the host is gone, however it went.
//! * When the provider has ended, all that is left below is killed, and the keeper ends as the
//!   provider did.
//! * A keeper that is killed takes the provider itself along.
//!
//! Only children of the keeper are killed, and only the keeper could make their numbers free, so
//! nobody else is ever hit. Other programs that use this library, and systems other than Linux,
//! have no keeper: there a provider's group is ended.

use std::{path::Path, process::ExitCode};

/// Tells the binary that it is a keeper; the provider's executable follows.
const WORD: &str = "keep-provider";

/// Does the work of a keeper if this process was started as one; `None` for everybody else. Comes
/// before anything else in the life of the binary, which offers with this call to be the keeper of
/// its providers.
pub fn answer() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == WORD) {
        return Some(
            arguments.next().map_or(ExitCode::FAILURE, |program| linux::keep(Path::new(&program))),
        );
    }
    linux::offer();
    None
}

#[cfg(target_os = "linux")]
pub(super) use linux::{ASK, END, command, send};

#[cfg(not(target_os = "linux"))]
mod linux {
    use super::{ExitCode, Path};

    pub fn offer() {}

    pub fn keep(_: &Path) -> ExitCode {
        ExitCode::FAILURE
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        fs::{self, File},
        io::{self, Write as _},
        os::unix::process::CommandExt as _,
        process::Command,
        sync::atomic::{AtomicBool, Ordering},
        time::{Duration, Instant},
    };

    use rustix::process::{
        Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getpid, kill_process,
        kill_process_group, set_child_subreaper, setrlimit, wait,
    };
    use tokio::signal::unix::{SignalKind, signal};

    use super::{super::process, ExitCode, Path, WORD};

    /// The kernel's name for the program of this process, also when its file was replaced
    /// meanwhile.
    const OWN_PROGRAM: &str = "/proc/self/exe";
    /// The provider is to end: SIGTERM for it.
    pub const ASK: Signal = Signal::USR2;
    /// Everything is to end at once.
    pub const END: Signal = Signal::USR1;
    /// A killed process is gone after this, or hangs in the kernel.
    const END_TIMEOUT: Duration = Duration::from_secs(5);
    const END_POLL: Duration = Duration::from_millis(5);
    /// As shells report a program that cannot be run.
    const EXIT_NOT_RUN: u8 = 126;

    static OFFERED: AtomicBool = AtomicBool::new(false);

    pub fn offer() {
        OFFERED.store(true, Ordering::Relaxed);
    }

    /// A command that runs a provider under a keeper; `None` where this program cannot be one.
    pub fn command(executable: &Path) -> Option<Command> {
        OFFERED.load(Ordering::Relaxed).then(|| {
            let mut command = Command::new(OWN_PROGRAM);
            command.arg0("host").arg(WORD).arg(executable);
            command
        })
    }

    /// Tells a keeper, which is a child that nobody has waited for.
    pub fn send(keeper: u32, signal: Signal) {
        if let Some(keeper) = pid(keeper) {
            // An error means that it has ended.
            let _ = kill_process(keeper, signal);
        }
    }

    fn pid(number: u32) -> Option<Pid> {
        i32::try_from(number).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw)
    }

    pub fn keep(program: &Path) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        match runtime.and_then(|runtime| runtime.block_on(run(program))) {
            Ok(status) => mirror(status),
            Err(error) => {
                // Read by the host, which logs it as output of the provider.
                let _ = writeln!(io::stderr(), "{}", process::not_started(program, error));
                ExitCode::from(EXIT_NOT_RUN)
            }
        }
    }

    /// Runs the provider to its end, and ends what it left; returns how it ended.
    async fn run(program: &Path) -> io::Result<WaitStatus> {
        // Before there is a provider: a signal that comes earlier ends this process, and nothing is
        // left.
        let mut end = signal(SignalKind::user_defined1())?;
        let mut ask = signal(SignalKind::user_defined2())?;
        let mut child_ended = signal(SignalKind::child())?;
        // Any process will do; the call only asks whether one is named.
        set_child_subreaper(Some(getpid()))?;
        let provider = start(program).await?;
        loop {
            tokio::select! {
                _ = end.recv() => {
                    let status = end_all(provider);
                    return status.ok_or_else(|| io::Error::other("it does not end although it was killed"));
                }
                _ = ask.recv() => drop(kill_process_group(provider, Signal::TERM)),
                _ = child_ended.recv() => {
                    if let Some(status) = reap(provider) {
                        end_all(provider);
                        return Ok(status);
                    }
                }
            }
        }
    }

    async fn start(program: &Path) -> io::Result<Pid> {
        let mut command = Command::new(program);
        command.process_group(0);
        process::die_with_parent(&mut command, Signal::KILL);
        let child = loop {
            match command.spawn() {
                // See the host's own start of a process.
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(process::BUSY_RETRY)
                }
                spawned => break spawned?,
            }
        };
        // Theirs alone from now on: the other ends of the streams must see that the provider is
        // gone.
        let nothing = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&nothing)?;
        rustix::stdio::dup2_stdout(&nothing)?;
        rustix::stdio::dup2_stderr(&nothing)?;
        pid(child.id()).ok_or_else(|| io::Error::other("it has no process number"))
    }

    /// Takes note of every child that has ended; returns how the provider did, if it is among them.
    fn reap(provider: Pid) -> Option<WaitStatus> {
        let mut found = None;
        while let Ok(Some((ended, status))) = wait(WaitOptions::NOHANG) {
            found = found.or((ended == provider).then_some(status));
        }
        found
    }

    /// Kills children until there are none: those of a killed one become children, too.
    fn end_all(provider: Pid) -> Option<WaitStatus> {
        let deadline = Instant::now() + END_TIMEOUT;
        let mut found = None;
        loop {
            for child in children() {
                let _ = kill_process(child, Signal::KILL);
            }
            loop {
                match wait(WaitOptions::NOHANG) {
                    Ok(Some((ended, status))) => {
                        found = found.or((ended == provider).then_some(status))
                    }
                    Ok(None) => break,
                    // There is no child left.
                    Err(_) => return found,
                }
            }
            if Instant::now() >= deadline {
                return found;
            }
            std::thread::sleep(END_POLL);
        }
    }

    /// The children of this process. None of their numbers is given to another process before
    /// [`wait`] has told of it.
    fn children() -> Vec<Pid> {
        let own = getpid().as_raw_nonzero().to_string();
        let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
        processes
            .filter_map(|entry| {
                let number: u32 = entry.file_name().to_str()?.parse().ok()?;
                let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
                (parent_in(&stat)? == own).then(|| pid(number)).flatten()
            })
            .collect()
    }

    /// Returns the parent's number in the text of a process's `stat`. The name of the program, in
    /// brackets before it, may hold anything.
    fn parent_in(stat: &str) -> Option<&str> {
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)
    }

    /// Ends as the provider did, so that the host can tell how.
    fn mirror(status: WaitStatus) -> ExitCode {
        if let Some(code) = status.exit_status() {
            return u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from);
        }
        // The signals that are heard here do not end this process.
        let signal = status.terminating_signal().and_then(Signal::from_named_raw);
        let signal = signal.filter(|signal| ![ASK, END].contains(signal)).unwrap_or(Signal::KILL);
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        let _ = kill_process(getpid(), signal);
        ExitCode::FAILURE
    }
}
