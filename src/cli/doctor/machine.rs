//! This machine: room and rights for what a host keeps, the NATS server program, and what runs
//! already.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::timeout;

use super::{Finding, Found, facts::Facts};
use crate::{
    terminal::table::{ID_MIN, middle},
    up::{
        self, hub,
        instance::{Instance, Record},
        nats_server,
    },
};
use lattice_base::{
    config::ProcessEnvironment,
    dirs::Dirs,
    presence::{self, presence_dir},
};
use lattice_protocol::control::probe::lost::LostHost;

/// How long the disks may take.
const LOOK: Duration = Duration::from_secs(5);
/// Less room than this on a disk is soon used up by modules and streams.
const ROOM: u64 = 500 << 20;
/// With less nothing can be kept.
const ROOM_MIN: u64 = 20 << 20;

/// The facts about this machine.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub dirs: Vec<Dir>,
    pub nats_server: Option<PathBuf>,
    /// Ids of the hosts of this user.
    pub running: Vec<String>,
    /// The records of `host up` on this machine.
    pub ups: Vec<Up>,
    /// The hub that the server of this directory was started with.
    pub hub: Option<Hub>,
}

/// A directory that a host writes to.
#[derive(Clone, Debug)]
pub struct Dir {
    pub what: &'static str,
    pub path: PathBuf,
    /// Why nothing can be written there.
    pub refused: Option<String>,
    /// Free bytes.
    pub room: Option<u64>,
}

/// A record of `host up`, and whether its processes still run.
#[derive(Clone, Debug)]
pub struct Up {
    pub directory: PathBuf,
    pub is_running: bool,
    pub address: Option<String>,
    /// The server it started still runs.
    pub server_runs: bool,
    pub host_id: Option<String>,
    /// The host in words.
    pub name: String,
}

#[derive(Clone, Debug)]
pub struct Hub {
    pub name: String,
    pub is_connected: bool,
    pub log: PathBuf,
}

pub async fn gather(dirs: &Dirs) -> Machine {
    let hub = match up::directory() {
        Ok(here) => hub_of(&Instance::of(dirs, &here)).await,
        Err(_) => None,
    };
    let files = dirs.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let ups = Instance::all(&files).iter().filter_map(up_of).collect();
        let kept = [
            ("caches", &files.cache),
            ("data", &files.data),
            ("notes about what runs", &files.state),
        ];
        Machine {
            dirs: kept.into_iter().map(|(what, path)| dir(what, path)).collect(),
            nats_server: nats_server::find(&ProcessEnvironment, &files),
            running: presence::running(&presence_dir(&files)),
            ups,
            hub: None,
        }
    });
    // A disk that hangs must not keep the rest from being told.
    let looked = timeout(LOOK, looked).await.ok().and_then(Result::ok);
    Machine { hub, ..looked.unwrap_or_default() }
}

async fn hub_of(own: &Instance) -> Option<Hub> {
    let record = own.record().filter(|_| own.is_running())?;
    let pid = record.server.as_ref()?.process.as_ref()?.pid;
    let name = record.hub?;
    let is_connected = hub::is_connected(own.folder(), pid).await;
    Some(Hub { name, is_connected, log: nats_server::log_in(own.folder()) })
}

fn up_of(instance: &Instance) -> Option<Up> {
    let record = instance.record()?;
    let name = record.told();
    let Record { directory, address, server, host_id, .. } = record;
    let server = server.and_then(|server| server.process);
    Some(Up {
        name,
        is_running: instance.is_running(),
        server_runs: server.is_some_and(|process| process.is_alive()),
        directory,
        address,
        host_id,
    })
}

fn dir(what: &'static str, path: &Path) -> Dir {
    // A missing directory will be made in the nearest one that exists.
    let nearest = path.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let refused = match nearest.is_dir() {
        true => tempfile::Builder::new()
            .prefix(".host-doctor.")
            .tempfile_in(nearest)
            .err()
            .map(|error| error.to_string()),
        false => Some(format!("{} is no directory", nearest.display())),
    };
    Dir { what, path: path.to_owned(), refused, room: room(nearest) }
}

#[cfg(unix)]
fn room(path: &Path) -> Option<u64> {
    let told = rustix::fs::statvfs(path).ok()?;
    Some(told.f_bavail.saturating_mul(told.f_frsize))
}

#[cfg(not(unix))]
fn room(_: &Path) -> Option<u64> {
    None
}

pub(super) fn machine(facts: &Facts) -> Found {
    let mut found = Vec::new();
    for Dir { what, path, refused, room } in &facts.machine.dirs {
        let path = path.display();
        if let Some(error) = refused {
            found.push(Finding::wrong(
                format!("{what} cannot be kept in {path}: {error}"),
                "let this user write there, or move it (XDG_CACHE_HOME, XDG_DATA_HOME, XDG_STATE_HOME)",
            ));
        }
        let Some(room) = *room else { continue };
        let seen = format!("the disk of {path} ({what}) has {} MiB left", room >> 20);
        let fix = "make room; `host cache clear` throws caches away";
        if room < ROOM_MIN {
            found.push(Finding::wrong(seen, fix));
        } else if room < ROOM {
            found.push(Finding::warning(seen, fix));
        }
    }
    found.push(match &facts.machine.nats_server {
        Some(path) => Finding::ok(format!("there is room, and a nats-server: {}", path.display())),
        None => {
            Finding::note("there is no nats-server program on this machine; `host up` installs one")
        }
    });
    Ok(found)
}

pub(super) fn processes(facts: &Facts) -> Found {
    let Facts { machine, lattice, .. } = facts;
    let mut found = Vec::new();
    for up in machine.ups.iter().filter(|up| !up.is_running && up.server_runs) {
        let place = up.address.as_deref().unwrap_or("its address");
        found.push(Finding::warning(
            format!(
                "the NATS server on {place} was left behind by a `host up` in {} that was killed",
                up.directory.display()
            ),
            format!(
                "cd {} && host down; or start `host up` there again, which takes it over",
                up.directory.display()
            ),
        ));
    }
    let answering: Vec<&str> = match lattice {
        Ok(seen) => seen.hosts.iter().map(|host| host.id.as_str()).collect(),
        Err(_) => Vec::new(),
    };
    let elsewhere: Vec<&str> =
        machine.running.iter().map(String::as_str).filter(|id| !answering.contains(id)).collect();
    let here = facts.settings.config.as_ref().map(up::place);
    let up_of = |id: &str| machine.ups.iter().find(|up| up.host_id.as_deref() == Some(id));
    let is_at_this_server =
        |id: &&str| up_of(id).is_some_and(|up| up.address.is_some() && up.address == here);
    // Hosts of this lattice remember it.
    let lost_of = |id: &str| lattice.as_ref().ok()?.lost.iter().find(|host| host.id == id);
    let (cut_off, others): (Vec<&str>, Vec<&str>) =
        elsewhere.into_iter().partition(|id| is_at_this_server(id) || lost_of(id).is_some());
    found.extend(cut_off.iter().map(|id| {
        let remembered = lost_of(id).map(LostHost::called);
        let name = up_of(id).map(|up| up.name.as_str()).or(remembered).unwrap_or(id);
        Finding::warning(
            format!("host {name} runs on this machine and does not answer"),
            "its log tells why; it may be frozen, connect again, or be of another lattice at the same server",
        )
    }));
    if !others.is_empty() {
        let told: Vec<String> = others
            .iter()
            .map(|id| up_of(id).map_or_else(|| middle(id, ID_MIN), |up| up.name.clone()))
            .collect();
        found.push(Finding::note(format!(
            "hosts on this machine that do not answer here, since they are of other lattices or not connected yet: {}",
            told.join(", ")
        )));
    }
    if found.is_empty() {
        found.push(Finding::ok(match machine.running.len() {
            0 => "no host of this user runs on this machine".to_owned(),
            1 => "one host of this user runs on this machine, in this lattice".to_owned(),
            count => format!("{count} hosts of this user run on this machine, all in this lattice"),
        }));
    }
    Ok(found)
}
