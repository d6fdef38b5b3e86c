//! Where the dashboards of this user's hosts are, and the links that log in to them.
//!
//! A host notes the place of its dashboard in a file of the state directory, `dashboards/{host
//! id}.json`, for as long as it serves it. `host dashboard` and `host up` read it, and make a link
//! with a one-time code of the secret beside it ([`auth`]). A file whose host does not run any
//! longer is a leftover, and is removed.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::token::{self, Keys};
use lattice_base::{
    dirs::Dirs,
    presence::{self, presence_dir},
};

const FOLDER: &str = "dashboards";

/// A dashboard that is served. No secret is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The address of the page on this machine.
    pub url: String,
    pub host_id: String,
    pub host_name: String,
    pub lattice: String,
    /// Where the host was started.
    pub directory: Option<PathBuf>,
}

impl Record {
    /// The address that logs in whoever opens it within [`token::CODE`], once.
    pub fn link(&self, dirs: &Dirs) -> io::Result<String> {
        let secret = token::read(&dirs.state.join(token::FILE))?;
        Ok(format!(
            "{}/login#{}",
            self.url,
            Keys::new(&secret, None).code(&self.host_id, token::now())
        ))
    }
}

/// A note that is there as long as this value.
#[derive(Debug)]
pub struct Noted(PathBuf);

impl Drop for Noted {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Notes a dashboard. Blocks for a moment.
pub fn note(state_dir: &Path, record: &Record) -> io::Result<Noted> {
    let dir = state_dir.join(FOLDER);
    fs::create_dir_all(&dir)?;
    let path = of_host(&dir, &record.host_id);
    let mut file = tempfile::NamedTempFile::new_in(&dir)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.persist(&path)?;
    Ok(Noted(path))
}

/// The dashboards of this user's hosts that run. Blocks for a moment.
pub fn running(dirs: &Dirs) -> Vec<Record> {
    let dir = dirs.state.join(FOLDER);
    let hosts = presence::running(&presence_dir(dirs));
    let Ok(entries) = fs::read_dir(&dir) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let Some(record) =
            fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok())
        else {
            continue;
        };
        if hosts.contains(&record.host_id) {
            found.push(record);
        } else if path == of_host(&dir, &record.host_id) {
            let _ = fs::remove_file(&path);
        }
    }
    found.sort_by(|a, b| a.url.cmp(&b.url));
    found
}

fn of_host(dir: &Path, host_id: &str) -> PathBuf {
    dir.join(format!("{host_id}.json"))
}

/// Which dashboard is meant.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    #[error("no host of this user serves a dashboard on this machine; `host up` starts one")]
    None,
    #[error("no host {0} of this user serves a dashboard on this machine; there are: {1}")]
    Unknown(String, String),
    #[error("several hosts serve a dashboard; name one: {0}")]
    Several(String),
}

/// Chooses the dashboard of a host by its id, the beginning of its id or its name; else the one of
/// this directory; else the only one there is.
pub fn choose<'r>(
    all: &'r [Record],
    host: Option<&str>,
    directory: Option<&Path>,
) -> Result<&'r Record, ChooseError> {
    if all.is_empty() {
        return Err(ChooseError::None);
    }
    if let Some(host) = host {
        let mut meant = all
            .iter()
            .filter(|record| record.host_name == host || record.host_id.starts_with(host));
        return match (meant.next(), meant.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(ChooseError::Unknown(host.to_owned(), names(all))),
            _ => Err(ChooseError::Several(names(all))),
        };
    }
    let mut here =
        all.iter().filter(|record| directory.is_some() && record.directory.as_deref() == directory);
    match (here.next(), here.next(), all) {
        (Some(only), None, _) | (None, _, [only]) => Ok(only),
        _ => Err(ChooseError::Several(names(all))),
    }
}

fn names(all: &[Record]) -> String {
    let names: Vec<_> =
        all.iter().map(|record| format!("{} ({})", record.host_id, record.url)).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_base::presence::Presence;

    fn record(host_id: &str, directory: &str) -> Record {
        Record {
            url: "http://127.0.0.1:4000".into(),
            host_id: host_id.into(),
            host_name: format!("name-of-{host_id}"),
            lattice: "default".into(),
            directory: Some(directory.into()),
        }
    }

    #[test]
    fn a_dashboard_is_known_while_its_host_runs() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::find(&Vec::<(String, String)>::new(), Some(home.path()));
        let presence = Presence::announce(&presence_dir(&dirs), "NA").unwrap();
        let noted = note(&dirs.state, &record("NA", "/a")).unwrap();
        let left = note(&dirs.state, &record("NB", "/b")).unwrap();
        assert_eq!(running(&dirs), [record("NA", "/a")]);
        assert!(!left.0.exists() && noted.0.exists());
        drop((noted, presence));
        assert_eq!(running(&dirs), []);
    }

    #[test]
    fn a_link_is_made_of_the_secret_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let dirs = Dirs::find(&Vec::<(String, String)>::new(), Some(home.path()));
        assert!(record("NA", "/a").link(&dirs).is_err());
        let secret = token::kept(&dirs.state.join(token::FILE)).unwrap();
        let link = record("NA", "/a").link(&dirs).unwrap();
        let code = link.strip_prefix("http://127.0.0.1:4000/login#").unwrap();
        assert!(Keys::new(&secret, None).read_code("NA", code).is_some());
    }

    #[test]
    fn the_dashboard_of_this_directory_is_meant_unless_another_is_named() {
        let all = [record("NA1", "/a"), record("NA2", "/b"), record("NC", "/b")];
        let chosen = |all: &[Record], host, directory: &str| {
            choose(all, host, Some(Path::new(directory))).map(|record| record.host_id.clone())
        };
        assert_eq!(chosen(&all, None, "/a"), Ok("NA1".into()));
        assert_eq!(chosen(&all[..1], None, "/elsewhere"), Ok("NA1".into()));
        assert_eq!(chosen(&all, Some("NC"), "/a"), Ok("NC".into()));
        assert_eq!(chosen(&all, Some("name-of-NA2"), "/a"), Ok("NA2".into()));
        for (host, directory) in [(None, "/b"), (None, "/c"), (Some("NA"), "/a")] {
            assert!(
                matches!(chosen(&all, host, directory), Err(ChooseError::Several(_))),
                "{host:?} {directory}"
            );
        }
        assert!(matches!(chosen(&all, Some("X"), "/a"), Err(ChooseError::Unknown(..))));
        assert_eq!(chosen(&[], None, "/a"), Err(ChooseError::None));
    }
}
