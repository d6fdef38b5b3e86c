//! Which process a recorded number means: a number is used again once its process is gone, and what
//! `host up` did not start it must not stop.
//!
//! So a record holds the number together with the time the process began. A process is only looked
//! at, and only signalled, while both are the same.

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// How often it is looked whether a process has ended.
const POLL: Duration = Duration::from_millis(25);

/// A process, told apart from a later one with the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// When it began, in the words of this system.
    began: String,
}

impl Process {
    /// This process.
    pub fn own() -> Self {
        let pid = std::process::id();
        Self { pid, began: system::began(pid).unwrap_or_default() }
    }

    /// The process that has this number now.
    pub fn of(pid: u32) -> Option<Self> {
        system::began(pid).map(|began| Self { pid, began })
    }

    /// Whether it still runs. A process that has ended and that nobody has asked about (a zombie)
    /// does not run.
    pub fn is_alive(&self) -> bool {
        system::began(self.pid).is_some_and(|began| began == self.began)
    }

    /// Whether its beginning is known, so that it cannot be taken for another one.
    pub fn is_certain(&self) -> bool {
        !self.began.is_empty()
    }

    /// Asks it to stop in order. That it has ended already is no error.
    pub fn ask_to_stop(&self) -> io::Result<()> {
        system::signal(self, system::Wish::Stop)
    }

    /// Ends it at once.
    pub fn kill(&self) -> io::Result<()> {
        system::signal(self, system::Wish::End)
    }

    /// Waits until it has ended; `false` when it runs on after this time. Cancel safe.
    pub async fn has_ended_within(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }
}

/// Leaves the terminal and the process group this process was started in, so that neither ends it.
pub fn leave_terminal() -> io::Result<()> {
    #[cfg(unix)]
    rustix::process::setsid()?;
    Ok(())
}

/// Lets a child end at once when the thread that starts it ends, which is to be the one that this
/// process ends with. Only Linux can do that; elsewhere a killed process leaves its children.
pub fn end_with_this_process(command: &mut tokio::process::Command) {
    #[cfg(target_os = "linux")]
    lattice_engine::providers::external::process::die_with_parent(
        command.as_std_mut(),
        rustix::process::Signal::KILL,
    );
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

#[cfg(unix)]
mod system {
    use std::io;

    use rustix::process::{Pid, Signal, kill_process};

    use super::Process;

    pub enum Wish {
        Stop,
        End,
    }

    /// The process's state and the time it began, in clock ticks since this boot.
    #[cfg(target_os = "linux")]
    pub fn began(pid: u32) -> Option<String> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may hold anything, parentheses
        // too.
        let mut fields = status.rsplit_once(')')?.1.split_whitespace();
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let ticks = fields.nth(18)?;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Some(format!("{} {ticks}", boot.trim()))
    }

    #[cfg(not(target_os = "linux"))]
    pub fn began(pid: u32) -> Option<String> {
        let pid = pid.to_string();
        let mut ps = std::process::Command::new("ps");
        // The same words, whoever asks: they are compared with those of another process's question.
        ps.env("LC_ALL", "C").env("TZ", "UTC").args(["-o", "stat=", "-o", "lstart=", "-p", &pid]);
        let told = ps.output().ok()?;
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        let (state, began) = text.trim().split_once(char::is_whitespace)?;
        (!state.starts_with('Z')).then(|| began.trim().to_owned())
    }

    pub fn signal(process: &Process, wish: Wish) -> io::Result<()> {
        let signal = match wish {
            Wish::Stop => Signal::TERM,
            Wish::End => Signal::KILL,
        };
        let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) else {
            return Ok(());
        };
        // A descriptor means this one process, whatever happens to its number between the look and
        // the signal.
        #[cfg(target_os = "linux")]
        match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            Ok(descriptor) if process.is_alive() => {
                return ended_is_fine(rustix::process::pidfd_send_signal(descriptor, signal));
            }
            Ok(_) | Err(rustix::io::Errno::SRCH) => return Ok(()),
            // Kernels before 5.3 have none, sandboxes forbid it, and descriptors may be used up.
            Err(_) => {}
        }
        if process.is_alive() { ended_is_fine(kill_process(pid, signal)) } else { Ok(()) }
    }

    fn ended_is_fine(result: rustix::io::Result<()>) -> io::Result<()> {
        match result {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(not(unix))]
mod system {
    use std::{io, process::Command};

    use super::Process;

    pub enum Wish {
        Stop,
        End,
    }

    /// This system's tools do not tell when a process began, so the number has to do.
    pub fn began(pid: u32) -> Option<String> {
        let wanted = format!("PID eq {pid}");
        let listed =
            Command::new("tasklist").args(["/FI", &wanted, "/FO", "CSV", "/NH"]).output().ok()?;
        String::from_utf8_lossy(&listed.stdout).contains(&format!("\"{pid}\"")).then(String::new)
    }

    /// Without a window there is no gentle way.
    pub fn signal(process: &Process, wish: Wish) -> io::Result<()> {
        match wish {
            Wish::Stop | Wish::End if process.is_alive() => Command::new("taskkill")
                .args(["/F", "/PID", &process.pid.to_string()])
                .output()
                .map(drop),
            Wish::Stop | Wish::End => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_number_that_now_means_another_process_is_not_signalled() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        let earlier = Process { pid: child.id(), began: "long ago".into() };
        assert!(process.is_alive() && !earlier.is_alive());
        earlier.kill().unwrap();
        assert!(process.is_alive());
        process.kill().unwrap();
        // Until its parent asks, it is a zombie, which does not run.
        assert!(process.has_ended_within(Duration::from_secs(10)).await);
        child.wait().unwrap();
        process.ask_to_stop().unwrap();
    }

    #[test]
    fn a_process_knows_itself() {
        let own = Process::own();
        assert!(own.is_alive());
        let kept: Process = serde_json::from_str(&serde_json::to_string(&own).unwrap()).unwrap();
        assert_eq!(kept, own);
    }
}
