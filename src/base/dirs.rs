//! Where the host keeps files of its own, by the rules of the XDG base directories.
//!
//! The crates for this, such as `directories` and `etcetera`, read the environment of the process
//! by themselves; here it comes from the caller, so that a test can say what it is.

use std::path::{Path, PathBuf};

use crate::config::{Environment, ProcessEnvironment};

const NAME: &str = "lattice-host";

/// The directories of this user. None of them exists until something is written.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// Files that can be made again: compiled code, images, executables of providers.
    pub cache: PathBuf,
    /// Files that stay: an installed NATS server, its streams, blobs of the built-in blob store.
    pub data: PathBuf,
    /// The state of hosts: locks, logs, the dashboard's token, accounts that signed actors.
    pub state: PathBuf,
    /// The contexts that the user chose. Only where this user has a place of their own: a user who
    /// can write there decides where commands connect to.
    pub config: Option<PathBuf>,
    /// The file that `docker login` writes; not ours, and read only.
    pub docker_config: Option<PathBuf>,
    /// Where `wash` has its contexts.
    pub wash_contexts: Option<PathBuf>,
    /// Where the `nats` command has its contexts; `host up` adds those of its servers.
    pub nats_config: Option<PathBuf>,
}

/// The prefix of files in caches until they are whole.
pub const UNFINISHED: &str = ".new-";
/// The directory of provider executables, below the cache.
pub const EXECUTABLES: &str = "providers";

impl Dirs {
    /// Returns the directories of the user who runs this process.
    pub fn of_process() -> Self {
        Self::find(&ProcessEnvironment, std::env::home_dir().as_deref())
    }

    /// Reads `XDG_*_HOME`, `DOCKER_CONFIG` and `WASH_CONTEXTS`; without them, and without a home,
    /// the system's place for temporary files serves, but never for contexts.
    pub fn find(env: &dyn Environment, home: Option<&Path>) -> Self {
        let vars = env.vars();
        let base = |variable: &str, below_home: &str| {
            let set = vars
                .iter()
                .find(|(name, value)| name == variable && Path::new(value).is_absolute());
            match (set, home) {
                (Some((_, dir)), _) => PathBuf::from(dir).join(NAME),
                (None, Some(home)) => home.join(below_home).join(NAME),
                (None, None) => std::env::temp_dir().join(NAME),
            }
        };
        let set =
            |variable: &str| vars.iter().find(|(name, dir)| name == variable && !dir.is_empty());
        let config = set("XDG_CONFIG_HOME")
            .map(|(_, dir)| PathBuf::from(dir))
            .filter(|dir| dir.is_absolute());
        let config = config.or_else(|| home.map(|home| home.join(".config")));
        let wash = set("WASH_CONTEXTS").map(|(_, dir)| PathBuf::from(dir));
        let docker = set("DOCKER_CONFIG")
            .map(|(_, dir)| PathBuf::from(dir))
            .or_else(|| home.map(|home| home.join(".docker")));
        Self {
            cache: base("XDG_CACHE_HOME", ".cache"),
            data: base("XDG_DATA_HOME", ".local/share"),
            state: base("XDG_STATE_HOME", ".local/state"),
            config: config.as_ref().map(|config| config.join(NAME)),
            wash_contexts: wash.or_else(|| home.map(|home| home.join(".wash/contexts"))),
            nats_config: config.map(|config| config.join("nats")),
            docker_config: docker.map(|dir| dir.join("config.json")),
        }
    }

    /// Images of registries, by their content.
    pub fn images(&self) -> PathBuf {
        self.cache.join("oci")
    }

    /// Compiled code of actors.
    pub fn compiled_code(&self) -> PathBuf {
        self.cache.join("compiled")
    }

    /// Executables of providers.
    pub fn executables(&self) -> PathBuf {
        self.cache.join(EXECUTABLES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_keeps_its_logins_where_it_is_told_to() {
        let told = vec![("DOCKER_CONFIG".to_owned(), "/d".to_owned())];
        let find = |env: Vec<(String, String)>| {
            Dirs::find(&env, Some(Path::new("/home/me"))).docker_config
        };
        assert_eq!(find(told).as_deref(), Some(Path::new("/d/config.json")));
        assert_eq!(find(Vec::new()).as_deref(), Some(Path::new("/home/me/.docker/config.json")));
    }

    #[test]
    fn contexts_are_looked_for_only_where_the_user_has_a_place_of_their_own() {
        let find = |env: &[(&str, &str)], home: Option<&str>| {
            let env: Vec<(String, String)> =
                env.iter().map(|(name, dir)| (name.to_string(), dir.to_string())).collect();
            let dirs = Dirs::find(&env, home.map(Path::new));
            [dirs.config, dirs.wash_contexts, dirs.nats_config]
                .map(|dir| dir.map(|dir| dir.display().to_string()))
        };
        let some = |dirs: [&str; 3]| dirs.map(|dir| Some(dir.to_owned()));
        assert_eq!(find(&[], None), [None, None, None]);
        assert_eq!(
            find(&[], Some("/me")),
            some(["/me/.config/lattice-host", "/me/.wash/contexts", "/me/.config/nats"])
        );
        let told = [("XDG_CONFIG_HOME", "/x"), ("WASH_CONTEXTS", "/w")];
        assert_eq!(find(&told, Some("/me")), some(["/x/lattice-host", "/w", "/x/nats"]));
    }

    #[test]
    fn an_absolute_variable_wins_over_the_home() {
        let env = vec![
            ("XDG_CACHE_HOME".to_owned(), "/c".to_owned()),
            ("XDG_DATA_HOME".to_owned(), "relative".to_owned()),
        ];
        let dirs = Dirs::find(&env, Some(Path::new("/home/me")));
        assert_eq!(dirs.cache, Path::new("/c/lattice-host"));
        assert_eq!(dirs.data, Path::new("/home/me/.local/share/lattice-host"));
    }
}
