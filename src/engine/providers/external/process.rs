//! The process of one external provider: started with nothing but its host data, and never left
//! behind.
//!
//! [`Process::spawn`] runs the executable without arguments and without a shell, in the host's
//! working directory, with an environment of a few named variables ([`environment`]), and writes
//! the host data to its standard input, which is then closed. Its output goes to the log
//! ([`super::output`]). [`Process::wait`] tells how it ended.
//!
//! # Not left behind
//!
//! On Linux the binary puts a [`super::keeper`] between itself and the provider, which ends the
//! provider's whole tree, sessions and orphans included. Elsewhere, and in other programs that use
//! this library, the process leads a process group of its own, and signals go to the group, so
//! helpers it started end with it unless they left the group. Dropping a [`Process`] kills it. When
//! the host itself is killed and can do nothing any more, the kernel does it on Linux: the process
//! asks for a signal at the death of its parent. For the kernel the parent is the *thread* that
//! forked, not the process, so all forks happen on one thread that lives as long as the program;
//! had a worker of the async runtime forked, providers would die with the worker. On other systems
//! a killed host leaves its providers running until they notice that nobody calls.

use std::{
    collections::BTreeMap,
    fmt, io,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{debug, warn};

#[cfg(target_os = "linux")]
use super::keeper;
use super::{
    access::Access,
    host_data::HostData,
    masks::Masks,
    output::{self, Source, Stream},
};
use crate::journal::Journal;
use lattice_base::{
    config::Environment, providers::archive::this_target, service_manager, telemetry::otel,
};

/// Passed on without being asked for: what the provider logs, and without what Windows starts no
/// program.
const VARIABLES: &[&str] = if cfg!(windows) { &["RUST_LOG", "SYSTEMROOT"] } else { &["RUST_LOG"] };
/// A fork takes milliseconds, also on a loaded machine.
const SPAWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Host data of more than a pipe holds (64 KiB, some hundred links) is only taken when the process
/// reads.
const HOST_DATA_TIMEOUT: Duration = Duration::from_secs(5);
/// After the end of the process, for what it printed last.
const OUTPUT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a program may count as open for writing; see [`start`].
pub(super) const BUSY_RETRY: Duration = Duration::from_millis(20);
const SPAWN_QUEUE: usize = 16;
const ELF_MAGIC: &[u8] = b"\x7fELF";
const ELF_HEAD_BYTES: usize = 20;
/// Where an ELF file names its processor.
const ELF_MACHINE: Range<usize> = 18..20;

/// The program to run and the data it receives.
pub struct Launch<'a> {
    /// From [`super::executable::install`], just now.
    pub executable: &'a Path,
    pub host_data: &'a HostData,
    /// From [`environment`]: all the process gets.
    pub environment: &'a [(String, String)],
    /// Where its output goes besides the log.
    pub journal: &'a Journal,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("cannot run {}: {cause}{}", executable.display(), advice(cause))]
    Start { executable: PathBuf, cause: io::Error },
    #[error("{} is no executable for this machine ({}); build the provider for it and pack it again", .0.display(), this_target())]
    NotAProgram(PathBuf),
    #[error("starting {} took longer than {SPAWN_TIMEOUT:?}; the machine may be overloaded, try again", .0.display())]
    TimedOut(PathBuf),
    #[error(
        "the process did not read its host data within {HOST_DATA_TIMEOUT:?} and was killed; is the executable a capability provider?"
    )]
    HostDataUnread,
    #[error("cannot hand the host data to the process: {0}; it was killed, try again")]
    HostData(io::Error),
}

/// Why a program could not be started, in words.
pub(super) fn not_started(program: &Path, cause: io::Error) -> SpawnError {
    SpawnError::Start { executable: program.to_owned(), cause }
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => {
            "; its directory may be on a file system mounted with noexec, set XDG_CACHE_HOME to choose another"
        }
        // The kernel says this when the loader that the executable names is missing.
        io::ErrorKind::NotFound => {
            "; the executable may need a C library this machine does not have, build it for this system or statically"
        }
        _ => "",
    }
}

/// The environment of a provider process: the variables that always go, those of `access`, and
/// those named by the setting `provider_env`, which win. Those of a service manager never go: a
/// provider could speak to it as the host.
pub fn environment(
    env: &dyn Environment,
    named: &[String],
    access: &Access,
) -> Vec<(String, String)> {
    let passed = env.vars().into_iter().filter(|(name, _)| {
        (is_always_passed(name) || named.iter().any(|wanted| wanted == name))
            && !service_manager::VARIABLES.contains(&&**name)
    });
    access
        .environment
        .iter()
        .cloned()
        .chain(passed)
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .collect()
}

/// Whether every provider gets a variable: its telemetry goes where the host's goes, under a name
/// of its own.
fn is_always_passed(name: &str) -> bool {
    VARIABLES.contains(&name)
        || (name.starts_with(otel::settings::PREFIX) && name != otel::settings::SERVICE_NAME)
}

/// Whether a variable has the headers of requests to a collector.
fn is_otel_headers(name: &str) -> bool {
    name.starts_with(otel::settings::PREFIX) && name.ends_with("_HEADERS")
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// The system would not say.
    Unknown,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        #[cfg(unix)]
        if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
            return Self::Signal(signal);
        }
        status.code().map_or(Self::Unknown, Self::Code)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "killed by signal {signal} ({name})"),
                None => write!(f, "killed by signal {signal}"),
            },
            Self::Unknown => f.write_str("ended for an unknown reason"),
        }
    }
}

/// The signals whose numbers are the same on every system.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return None,
    })
}

/// A running provider. Dropping it kills it.
pub struct Process {
    child: Child,
    /// Of the keeper, if there is one.
    pid: u32,
    has_keeper: bool,
    masks: Masks,
    output: JoinSet<()>,
    /// How it ended, and until when its last output is waited for.
    exit: Option<(Exit, Instant)>,
}

impl Process {
    /// Starts a provider and hands it its host data. Returns when the process has those, which says
    /// nothing about whether it is ready. Dropping the future kills what was started.
    pub async fn spawn(launch: Launch<'_>) -> Result<Self, SpawnError> {
        let (mut child, has_keeper) = start(&launch).await?;
        // It was not waited for, so it has one.
        let pid = child.id().unwrap_or_default();
        let masks = launch.host_data.masks();
        // Proxies have passwords, too, and collectors want keys.
        masks.add_values(&launch.environment.iter().cloned().collect());
        let headers = launch.environment.iter().filter(|(name, _)| is_otel_headers(name));
        headers.for_each(|(_, value)| masks.add_headers(value));
        let source = Source {
            provider_id: launch.host_data.provider_id.clone(),
            link_name: launch.host_data.link_name.clone(),
            pid,
            masks: masks.clone(),
            journal: launch
                .journal
                .writer(launch.host_data.provider_id.as_str(), launch.host_data.link_name.as_str()),
        };
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut output = JoinSet::new();
        if let Some(stdout) = stdout {
            output.spawn(output::carry(source.clone(), Stream::Stdout, stdout));
        }
        if let Some(stderr) = stderr {
            output.spawn(output::carry(source, Stream::Stderr, stderr));
        }
        let mut process = Self { child, pid, has_keeper, masks, output, exit: None };
        if let Some(stdin) = stdin
            && let Err(error) = hand_over(stdin, launch.host_data, pid).await
        {
            process.kill();
            process.wait().await;
            return Err(error);
        }
        Ok(process)
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the masks over its output. Links that it receives later may hold further secrets.
    pub fn masks(&self) -> &Masks {
        &self.masks
    }

    /// Waits for the end of the process, and shortly for the last lines of its output. May be
    /// dropped and called again, also after the end.
    pub async fn wait(&mut self) -> Exit {
        let (exit, patience) = match self.exit {
            Some(ended) => ended,
            None => {
                let exit = self.child.wait().await.map_or(Exit::Unknown, Exit::from);
                let ended = (exit, Instant::now() + OUTPUT_TIMEOUT);
                self.exit = Some(ended);
                // Helpers it left would keep the outputs open. While one of them lives, the number
                // of the group is not given to anybody else; when none does, nobody gets the
                // signal. A keeper has ended them already, or was killed itself: then its group has
                // nobody else.
                if !self.has_keeper {
                    self.signal_group(Ending::Kill);
                }
                ended
            }
        };
        let _ =
            timeout_at(patience, async { while self.output.join_next().await.is_some() {} }).await;
        self.output.abort_all();
        exit
    }

    /// Asks the process to end: SIGTERM to its group. Where there are no signals it is killed.
    pub fn terminate(&mut self) {
        self.end(Ending::Terminate);
    }

    /// Kills the process and its group.
    pub fn kill(&mut self) {
        self.end(Ending::Kill);
    }

    fn end(&mut self, ending: Ending) {
        // After the end its number may be somebody else's.
        if self.exit.is_some() {
            return;
        }
        #[cfg(target_os = "linux")]
        if self.has_keeper {
            keeper::send(self.pid, if ending == Ending::Kill { keeper::END } else { keeper::ASK });
            return;
        }
        self.signal_group(ending);
        if cfg!(not(unix)) || ending == Ending::Kill {
            // It has ended already, or its group was killed.
            let _ = self.child.start_kill();
        }
    }

    #[cfg(unix)]
    fn signal_group(&self, ending: Ending) {
        use rustix::process::{Pid, Signal, kill_process_group};
        let signal = match ending {
            Ending::Terminate => Signal::TERM,
            Ending::Kill => Signal::KILL,
        };
        if let Some(group) =
            i32::try_from(self.pid).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw)
        {
            // The group is gone when all have ended.
            let _ = kill_process_group(group, signal);
        }
    }

    #[cfg(not(unix))]
    fn signal_group(&self, _: Ending) {}
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Terminate,
    Kill,
}

/// Writes the host data and closes the input. A process that ends at once has not read them; how it
/// ended tells more than that, so it is no error here.
async fn hand_over(
    mut stdin: ChildStdin,
    host_data: &HostData,
    pid: u32,
) -> Result<(), SpawnError> {
    let line = host_data.line();
    let write = async {
        stdin.write_all(line.expose().as_bytes()).await?;
        stdin.shutdown().await
    };
    match timeout(HOST_DATA_TIMEOUT, write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            let HostData { provider_id, link_name, .. } = host_data;
            warn!(%provider_id, %link_name, pid, "the provider closed its input before it had read its host data");
            Ok(())
        }
        Ok(Err(error)) => Err(SpawnError::HostData(error)),
        Err(_) => Err(SpawnError::HostDataUnread),
    }
}

/// Starts the program; returns it with whether a keeper runs it.
async fn start(launch: &Launch<'_>) -> Result<(Child, bool), SpawnError> {
    let executable = launch.executable;
    if cfg!(target_os = "linux")
        && !is_program(executable).await.map_err(|cause| not_started(executable, cause))?
    {
        return Err(SpawnError::NotAProgram(executable.to_owned()));
    }
    // A keeper could tell only the log.
    #[cfg(unix)]
    rustix::fs::access(executable, rustix::fs::Access::EXEC_OK)
        .map_err(|error| not_started(executable, error.into()))?;
    match timeout(SPAWN_TIMEOUT, fork_until_free(launch)).await {
        Ok(started) => started.map_err(|cause| not_started(executable, cause)),
        Err(_) => Err(SpawnError::TimedOut(executable.to_owned())),
    }
}

/// Has the program started by the thread for that, again as long as it counts as open for writing.
async fn fork_until_free(launch: &Launch<'_>) -> io::Result<(Child, bool)> {
    loop {
        let (reply, answer) = oneshot::channel();
        let (command, has_keeper) = command(launch);
        let request = Request { command, runtime: Handle::current(), reply };
        spawner()?.send(request).await.map_err(|_| spawner_gone())?;
        match answer.await.map_err(|_| spawner_gone())? {
            // A fork of another thread that has not yet come to its exec still holds a copy of
            // every file the host had open for writing, perhaps this program while it was
            // installed. That lasts an instant.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
                debug!(%error, "the provider's executable is open somewhere, trying again");
                sleep(BUSY_RETRY).await;
            }
            result => return result.map(|child| (child, has_keeper)),
        }
    }
}

fn spawner_gone() -> io::Error {
    io::Error::other("the thread that starts providers has ended")
}

/// Tells whether Linux runs this by itself. The C library would give a file that Linux refuses to a
/// shell, which then tries to make sense of a program for another processor.
async fn is_program(path: &Path) -> io::Result<bool> {
    let program = elf_head(path).await?;
    if !program.starts_with(ELF_MAGIC) {
        return Ok(program.starts_with(b"#!"));
    }
    // The host is a program for this machine. Without a look at itself the attempt will tell.
    let Ok(host) = elf_head(Path::new("/proc/self/exe")).await else { return Ok(true) };
    Ok(program.get(ELF_MACHINE) == host.get(ELF_MACHINE))
}

async fn elf_head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(ELF_HEAD_BYTES);
    let file = tokio::fs::File::open(path).await?;
    file.take(ELF_HEAD_BYTES as u64).read_to_end(&mut head).await?;
    Ok(head)
}

/// The command, and whether a keeper runs the provider.
fn command(launch: &Launch<'_>) -> (Command, bool) {
    #[cfg(target_os = "linux")]
    let kept = keeper::command(launch.executable);
    #[cfg(not(target_os = "linux"))]
    let kept: Option<std::process::Command> = None;
    let has_keeper = kept.is_some();
    let mut command = kept.map_or_else(|| Command::new(launch.executable), Command::from);
    command
        .env_clear()
        .envs(launch.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A keeper has to end what is below it first.
        .kill_on_drop(!has_keeper);
    #[cfg(unix)]
    command.process_group(0);
    #[cfg(target_os = "linux")]
    die_with_parent(
        command.as_std_mut(),
        if has_keeper { keeper::END } else { rustix::process::Signal::KILL },
    );
    (command, has_keeper)
}

/// Lets the kernel send this signal when the thread that forks the process dies, which is when the
/// host dies.
#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "the standard library has no safe way to do something between fork and exec"
)]
pub fn die_with_parent(command: &mut std::process::Command, signal: rustix::process::Signal) {
    use std::os::unix::process::CommandExt as _;

    use rustix::{
        io::Errno,
        process::{getpid, getppid, set_parent_process_death_signal},
    };
    let host = getpid();
    let between_fork_and_exec = move || {
        set_parent_process_death_signal(Some(signal))?;
        // The host may have died before the line above; then nobody would send the signal any more.
        if getppid() == Some(host) { Ok(()) } else { Err(io::Error::from(Errno::SRCH)) }
    };
    // SAFETY: after a fork of a program with many threads only async-signal-safe code may run. This
    // makes two plain system calls, takes no lock and allocates nothing; both error values are
    // numbers without a heap part.
    unsafe {
        command.pre_exec(between_fork_and_exec);
    }
}

/// A start, for the thread that forks.
struct Request {
    command: Command,
    /// The runtime whose reactor watches the child.
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// The way to the thread that forks, which is started by the first provider and never ends.
fn spawner() -> io::Result<mpsc::Sender<Request>> {
    static SPAWNER: Mutex<Option<mpsc::Sender<Request>>> = Mutex::new(None);

    let mut spawner = SPAWNER.lock();
    if let Some(requests) = &*spawner {
        return Ok(requests.clone());
    }
    let (sender, requests) = mpsc::channel(SPAWN_QUEUE);
    std::thread::Builder::new().name("provider-spawner".into()).spawn(move || serve(requests))?;
    *spawner = Some(sender.clone());
    Ok(sender)
}

/// The thread that forks. The sender is never dropped, and a panic must not end it: its death would
/// kill every provider.
fn serve(mut requests: mpsc::Receiver<Request>) {
    while let Some(Request { mut command, runtime, reply }) = requests.blocking_recv() {
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            // A runtime that is being shut down panics here.
            let _runtime = runtime.enter();
            let result = command.spawn();
            // Nobody may wait any more; dropping the child then kills it.
            let _ = reply.send(result);
        }));
        if attempt.is_err() {
            warn!("a provider was not started because the host is stopping");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_base::config::Secret;

    fn access(environment: &[(&str, &str)]) -> Access {
        Access {
            url: Secret::new(""),
            jwt: Secret::new(""),
            seed: Secret::new(""),
            environment: pairs(environment),
            limits: Vec::new(),
        }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn only_named_variables_are_passed_on() {
        let host = pairs(&[
            ("HOME", "/root"),
            ("PATH", "/bin"),
            ("RUST_LOG", "info"),
            ("WASMCLOUD_CLUSTER_SEED", "SC"),
            ("NOTIFY_SOCKET", "/run/systemd/notify"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
            ("OTEL_SERVICE_NAME", "host"),
        ]);
        let always =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"), ("RUST_LOG", "info")];
        assert_eq!(environment(&host, &[], &access(&[])), pairs(&always));
        let named = ["PATH", "UNSET", "NOTIFY_SOCKET"].map(str::to_owned);
        let [endpoint, log] = always;
        assert_eq!(
            environment(&host, &named, &access(&[])),
            pairs(&[endpoint, ("PATH", "/bin"), log])
        );
    }

    #[test]
    fn a_named_variable_wins_over_what_the_connection_needs() {
        let host = pairs(&[("SSL_CERT_FILE", "/mine.pem")]);
        let access = access(&[("SSL_CERT_FILE", "/ca.pem")]);
        assert_eq!(environment(&host, &[], &access), pairs(&[("SSL_CERT_FILE", "/ca.pem")]));
        assert_eq!(
            environment(&host, &["SSL_CERT_FILE".into()], &access),
            pairs(&[("SSL_CERT_FILE", "/mine.pem")])
        );
    }

    #[test]
    fn an_end_is_told_in_words() {
        assert_eq!(Exit::Code(3).to_string(), "exit code 3");
        assert_eq!(Exit::Signal(9).to_string(), "killed by signal 9 (SIGKILL)");
        assert_eq!(Exit::Signal(64).to_string(), "killed by signal 64");
    }
}
