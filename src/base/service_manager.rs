//! Tells a service manager how this process is, by the protocol of sd_notify(3), which others than
//! systemd understand as well.
//!
//! A manager that wants to hear names a datagram socket in `NOTIFY_SOCKET`: a path or, behind an
//! `@`, a name in the abstract name space of Linux. A message is lines of `NAME=value`. The manager
//! never answers, and a message that cannot be sent is logged and forgotten. A manager that watches
//! this process says in `WATCHDOG_USEC` how long it may be silent.

use std::{io, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::config::Environment;

/// The variables of a manager. They are meant for this process alone, and no process that it starts
/// gets them.
pub const VARIABLES: [&str; 3] = [SOCKET, WATCHDOG_PID, WATCHDOG_USEC];
const SOCKET: &str = "NOTIFY_SOCKET";
const WATCHDOG_PID: &str = "WATCHDOG_PID";
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";

/// How long a message may wait for room in the queue of the manager.
#[cfg(unix)]
const SEND_TIMEOUT: Duration = Duration::from_millis(200);
/// A sign of life comes no more often than this, whatever the manager allows.
const ALIVE_MIN: Duration = Duration::from_millis(10);
/// A longer status is cut: it is one line for people.
const STATUS_BYTES_MAX: usize = 256;

/// A message to the manager; the texts are what it shows to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The service does its work, for the first time or again after a reload.
    Ready(&'a str),
    /// The service reads its settings again.
    Reloading,
    /// The service ends.
    Stopping,
    /// Nothing but a text.
    Status(&'a str),
    /// The service lives.
    Alive,
}

/// The manager of this process, if there is one. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ServiceManager {
    /// With its address, for people.
    socket: Option<Arc<(Socket, String)>>,
    /// How long the manager bears silence.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Finds the manager of this process by its environment.
    pub fn find(env: &dyn Environment) -> Self {
        let Some(address) = env.var(SOCKET) else { return Self::default() };
        let (usec, watched) = (env.var(WATCHDOG_USEC), env.var(WATCHDOG_PID));
        let watchdog = watchdog(usec.as_deref(), watched.as_deref(), std::process::id());
        match Socket::open(&address) {
            Ok(socket) => Self { socket: Some(Arc::new((socket, address))), watchdog },
            Err(error) => {
                let address = address.as_str();
                warn!(%error, address, "NOTIFY_SOCKET cannot be used, so no service manager is told");
                Self::default()
            }
        }
    }

    /// Tells the manager; does nothing where there is none.
    pub fn tell(&self, message: &Message<'_>) {
        let Some((socket, address)) = self.socket.as_deref() else { return };
        if let Err(error) = socket.send(text(message, monotonic_usec()).as_bytes()) {
            let address = address.as_str();
            warn!(
                %error, address,
                "the service manager was not told what this host does: nobody takes it at the address in NOTIFY_SOCKET"
            );
        }
    }

    /// Tells a manager that watches this process, at half of the time it allows, that the runtime
    /// lives. Ends at once where nobody watches, and else never.
    pub async fn keep_alive(self) {
        let Some(allowed) = self.watchdog.filter(|_| self.socket.is_some()) else { return };
        let mut beat = interval((allowed / 2).max(ALIVE_MIN));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            // Timers alone prove little: this ends only where workers take up new work.
            if tokio::spawn(std::future::ready(())).await.is_ok() {
                self.tell(&Message::Alive);
            }
        }
    }
}

/// Returns how long a watchdog bears silence; `None` if there is none, or it watches another
/// process.
fn watchdog(usec: Option<&str>, watched: Option<&str>, own: u32) -> Option<Duration> {
    if watched.is_some_and(|pid| pid.parse::<u32>() != Ok(own)) {
        return None;
    }
    usec?.parse::<u64>().ok().filter(|usec| *usec > 0).map(Duration::from_micros)
}

/// The place of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place<'a> {
    Path(&'a str),
    Abstract(&'a str),
}

/// Reads the address of a socket; `None` if it is of a kind that is not known here.
fn place(address: &str) -> Option<Place<'_>> {
    match address.strip_prefix('@') {
        Some(name) if !name.is_empty() => Some(Place::Abstract(name)),
        None if address.starts_with('/') => Some(Place::Path(address)),
        _ => None,
    }
}

/// Returns the lines of a message.
fn text(message: &Message<'_>, now_usec: u64) -> String {
    match message {
        Message::Ready(status) => format!("READY=1\nSTATUS={}", line(status)),
        Message::Reloading => {
            format!("RELOADING=1\nMONOTONIC_USEC={now_usec}\nSTATUS=reads its settings again")
        }
        Message::Stopping => "STOPPING=1\nSTATUS=stops".to_owned(),
        Message::Status(status) => format!("STATUS={}", line(status)),
        Message::Alive => "WATCHDOG=1".to_owned(),
    }
}

/// Returns a text as one line: a line break in it would begin another assignment.
fn line(text: &str) -> String {
    let end = text.floor_char_boundary(STATUS_BYTES_MAX);
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Returns the time of the clock that a manager compares with its own.
#[cfg(unix)]
fn monotonic_usec() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default() / 1000
}

#[cfg(not(unix))]
fn monotonic_usec() -> u64 {
    0
}

fn unknown_kind() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "it is neither an absolute path nor, on Linux, a name behind an @",
    )
}

/// A socket to a manager.
#[cfg(unix)]
#[derive(Debug)]
struct Socket {
    own: std::os::unix::net::UnixDatagram,
    manager: std::os::unix::net::SocketAddr,
}

#[cfg(unix)]
impl Socket {
    fn open(address: &str) -> io::Result<Self> {
        let manager = socket_address(address)?;
        let own = std::os::unix::net::UnixDatagram::unbound()?;
        own.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Self { own, manager })
    }

    fn send(&self, message: &[u8]) -> io::Result<()> {
        self.own.send_to_addr(message, &self.manager).map(drop)
    }
}

#[cfg(unix)]
fn socket_address(address: &str) -> io::Result<std::os::unix::net::SocketAddr> {
    match place(address) {
        Some(Place::Path(path)) => std::os::unix::net::SocketAddr::from_pathname(path),
        #[cfg(target_os = "linux")]
        Some(Place::Abstract(name)) => {
            use std::os::linux::net::SocketAddrExt as _;
            std::os::unix::net::SocketAddr::from_abstract_name(name)
        }
        _ => Err(unknown_kind()),
    }
}

/// There are none on this system.
#[cfg(not(unix))]
#[derive(Debug)]
struct Socket;

#[cfg(not(unix))]
impl Socket {
    fn open(address: &str) -> io::Result<Self> {
        let _ = place(address);
        Err(unknown_kind())
    }

    fn send(&self, _: &[u8]) -> io::Result<()> {
        Err(unknown_kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_counts_if_it_watches_this_process() {
        for (usec, watched, allowed_ms) in [
            (Some("2000000"), None, Some(2000)),
            (Some("2000000"), Some("7"), Some(2000)),
            (Some("2000000"), Some("8"), None),
            (Some("2000000"), Some("x"), None),
            (Some("0"), None, None),
            (Some("-1"), None, None),
            (Some("many"), None, None),
            (None, Some("7"), None),
        ] {
            let allowed = allowed_ms.map(Duration::from_millis);
            assert_eq!(watchdog(usec, watched, 7), allowed, "{usec:?} {watched:?}");
        }
    }

    #[test]
    fn a_socket_is_a_path_or_a_name_behind_an_at_sign() {
        for (address, expected) in [
            ("/run/systemd/notify", Some(Place::Path("/run/systemd/notify"))),
            ("@/org/a", Some(Place::Abstract("/org/a"))),
            ("@", None),
            ("relative", None),
            ("vsock:2:1234", None),
        ] {
            assert_eq!(place(address), expected, "{address}");
        }
    }

    #[test]
    fn a_message_says_no_more_than_it_is() {
        for (message, expected) in [
            (Message::Ready("ready"), "READY=1\nSTATUS=ready"),
            (Message::Reloading, "RELOADING=1\nMONOTONIC_USEC=5\nSTATUS=reads its settings again"),
            (Message::Stopping, "STOPPING=1\nSTATUS=stops"),
            (Message::Status("a\nREADY=1"), "STATUS=a READY=1"),
            (Message::Alive, "WATCHDOG=1"),
        ] {
            assert_eq!(text(&message, 5), expected);
        }
        assert!(text(&Message::Status(&"ä".repeat(1000)), 0).len() <= STATUS_BYTES_MAX + 7);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_manager_hears_messages_and_signs_of_life_at_half_of_the_time_it_allows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let env = vec![
            (SOCKET.to_owned(), path.display().to_string()),
            (WATCHDOG_USEC.to_owned(), "40000".to_owned()),
        ];
        let found = ServiceManager::find(&env);
        found.tell(&Message::Status("starts"));
        let alive = tokio::spawn(found.keep_alive());
        let heard = tokio::task::spawn_blocking(move || {
            let mut buffer = [0; 1024];
            let messages = (0..3).map(|_| {
                let bytes = manager.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..bytes].to_vec()).unwrap()
            });
            messages.collect::<Vec<_>>()
        });
        assert_eq!(heard.await.unwrap(), ["STATUS=starts", "WATCHDOG=1", "WATCHDOG=1"]);
        alive.abort();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_manager_may_have_an_abstract_name() {
        use std::os::{linux::net::SocketAddrExt as _, unix::net as unix};
        let name = format!("lattice-host-test-{}", std::process::id());
        let address = unix::SocketAddr::from_abstract_name(&name).unwrap();
        let manager = unix::UnixDatagram::bind_addr(&address).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let env = vec![(SOCKET.to_owned(), format!("@{name}"))];
        ServiceManager::find(&env).tell(&Message::Ready("ready"));
        let mut buffer = [0; 64];
        let bytes = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..bytes], b"READY=1\nSTATUS=ready");
    }
}
