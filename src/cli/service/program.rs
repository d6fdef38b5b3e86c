//! The programs of a service manager: each has a time in which it is to end. A manager that hangs
//! would keep a command for ever.

use std::{
    io::{self, ErrorKind},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long a program of the manager may take to tell something.
const LOOK_TIME: Duration = Duration::from_secs(10);
/// How long it may take to change something but a run: systemd reads all units anew for that.
const CHANGE_TIME: Duration = Duration::from_secs(60);
/// How long it may take to stop a service, which may drain, and whose time for a stop is a setting.
const STOP_TIME: Duration = Duration::from_secs(600);
/// Between two looks whether a program has ended.
const END_POLL: Duration = Duration::from_millis(10);

/// Runs a program of the manager to its end; returns what it prints.
pub fn run(program: &str, words: &[&str]) -> Result<String> {
    let output = output(program, words)?;
    if !output.status.success() {
        let line = line(program, words);
        let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("`{line}` failed ({}): {told}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn line(program: &str, words: &[&str]) -> String {
    format!("{program} {}", words.join(" "))
}

/// Runs a program of the manager to its end, well or not.
pub fn output(program: &str, words: &[&str]) -> Result<Output> {
    let mut command = Command::new(program);
    // Times and errors in words that are the same everywhere.
    command.args(words).env("LC_ALL", "C").env("TZ", "UTC");
    let (line, limit) = (line(program, words), time_for(words));
    match finished(&mut command, limit) {
        Ok(output) => Ok(output),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("`{line}` cannot run: there is no {program} on this machine; install it")
        }
        Err(error) if error.kind() == ErrorKind::TimedOut => bail!(
            "`{line}` did not end within {} s, and was ended; see whether {program} answers, and give the command again",
            limit.as_secs()
        ),
        Err(error) => Err(error).with_context(|| format!("run `{line}`")),
    }
}

/// Returns how long a program of the manager may take for these words.
fn time_for(words: &[&str]) -> Duration {
    let has = |verbs: &[&str]| verbs.iter().any(|verb| words.contains(verb));
    if has(&["--now", "bootout"]) {
        STOP_TIME
    } else if has(&["show", "print", "-u", "--lines", "is-active"]) {
        LOOK_TIME
    } else {
        CHANGE_TIME
    }
}

/// Runs a program to its end; one that takes longer is killed.
///
/// # Errors
///
/// Those of the system; one of kind `TimedOut` if it was killed.
fn finished(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let until = Instant::now() + limit;
    let left = || until.saturating_duration_since(Instant::now());
    let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn()?;
    let (stdout, stderr) = (collected(child.stdout.take()), collected(child.stderr.take()));
    loop {
        if let Some(status) = child.try_wait()? {
            // A program that it has left behind may keep these open.
            let late = |_| io::Error::from(ErrorKind::TimedOut);
            let stdout = stdout.recv_timeout(left()).map_err(late)?;
            let stderr = stderr.recv_timeout(left()).map_err(late)?;
            return Ok(Output { status, stdout, stderr });
        }
        if left().is_zero() {
            child.kill()?;
            // Nobody waits for its end.
            thread::spawn(move || child.wait());
            return Err(ErrorKind::TimedOut.into());
        }
        thread::sleep(END_POLL);
    }
}

/// Reads what a program prints, in a thread of its own: it would wait for a reader, and has two
/// pipes.
fn collected(pipe: Option<impl io::Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, collected) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // All there is came before the error.
            let _ = pipe.read_to_end(&mut bytes);
        }
        sender.send(bytes)
    });
    collected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_may_take_longer_than_a_change_and_that_longer_than_a_look() {
        for (words, time) in [
            (&["--user", "show", "--property=Version"][..], LOOK_TIME),
            (&["print", "system/host.lattice"], LOOK_TIME),
            (&["-u", "lattice"], LOOK_TIME),
            (&["is-active", "--quiet", "lattice-host.service"], LOOK_TIME),
            (&["_SYSTEMD_INVOCATION_ID=a", "--lines", "400"], LOOK_TIME),
            (&["--user", "daemon-reload"], CHANGE_TIME),
            (&["disable", "lattice-host.service"], CHANGE_TIME),
            (&["disable", "--now", "lattice-host.service"], STOP_TIME),
            (&["bootout", "system/host.lattice"], STOP_TIME),
        ] {
            assert_eq!(time_for(words), time, "{words:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_does_not_end_is_killed_and_one_that_prints_much_is_heard() {
        let sh =
            |text: &str, limit: Duration| finished(Command::new("sh").args(["-c", text]), limit);
        let told = sh("head -c 300000 /dev/zero; echo why >&2; exit 3", CHANGE_TIME).unwrap();
        assert_eq!((told.status.code(), told.stdout.len()), (Some(3), 300_000));
        assert_eq!(told.stderr, b"why\n");
        let error = sh("exec sleep 600", Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        let error = finished(&mut Command::new("no-such-program"), LOOK_TIME).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
