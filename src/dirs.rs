//! Where the host keeps files of its own, by the rules of the XDG base directories.

use std::path::{Path, PathBuf};

use crate::config::Environment;

const NAME: &str = "lattice-host";

/// The directories of this user. None of them exists until something is written.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// What can be made again: compiled code.
    pub cache: PathBuf,
    /// What is installed or stored for good: a NATS server and its streams.
    pub data: PathBuf,
    /// What describes running processes: locks and logs.
    pub state: PathBuf,
    /// What `docker login` keeps; not ours, and read only.
    pub docker_config: Option<PathBuf>,
}

impl Dirs {
    /// Reads `XDG_*_HOME` and `DOCKER_CONFIG`; without them, and without a home, the system's place for temporary files serves.
    pub fn find(env: &dyn Environment, home: Option<&Path>) -> Self {
        let vars = env.vars();
        let base = |variable: &str, below_home: &str| {
            let set = vars.iter().find(|(name, value)| name == variable && Path::new(value).is_absolute());
            match (set, home) {
                (Some((_, dir)), _) => PathBuf::from(dir).join(NAME),
                (None, Some(home)) => home.join(below_home).join(NAME),
                (None, None) => std::env::temp_dir().join(NAME),
            }
        };
        let docker = vars.iter().find(|(name, dir)| name == "DOCKER_CONFIG" && !dir.is_empty());
        let docker = docker.map(|(_, dir)| PathBuf::from(dir)).or_else(|| home.map(|home| home.join(".docker")));
        Self {
            cache: base("XDG_CACHE_HOME", ".cache"),
            data: base("XDG_DATA_HOME", ".local/share"),
            state: base("XDG_STATE_HOME", ".local/state"),
            docker_config: docker.map(|dir| dir.join("config.json")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_keeps_its_logins_where_it_is_told_to() {
        let told = vec![("DOCKER_CONFIG".to_owned(), "/d".to_owned())];
        let find = |env: Vec<(String, String)>| Dirs::find(&env, Some(Path::new("/home/me"))).docker_config;
        assert_eq!(find(told).as_deref(), Some(Path::new("/d/config.json")));
        assert_eq!(find(Vec::new()).as_deref(), Some(Path::new("/home/me/.docker/config.json")));
    }

    #[test]
    fn an_absolute_variable_wins_over_the_home() {
        let env =
            vec![("XDG_CACHE_HOME".to_owned(), "/c".to_owned()), ("XDG_DATA_HOME".to_owned(), "relative".to_owned())];
        let dirs = Dirs::find(&env, Some(Path::new("/home/me")));
        assert_eq!(dirs.cache, Path::new("/c/lattice-host"));
        assert_eq!(dirs.data, Path::new("/home/me/.local/share/lattice-host"));
    }
}
