//! The behaviour that users may rely on, as inputs and outcomes. Each test owns a directory, an
//! environment and a home.

mod connections;
mod file;
mod sources;
mod values;

use std::fs;
use std::path::{Path, PathBuf};

use nkeys::KeyPair;

use super::*;

/// One machine with files and variables.
struct Machine {
    root: tempfile::TempDir,
    env: Vec<(String, String)>,
    flags: Vec<(&'static str, String)>,
    labels: Vec<(String, String)>,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("create a directory");
        fs::create_dir(root.path().join("work")).expect("create the working directory");
        fs::create_dir(root.path().join("home")).expect("create the home directory");
        Machine { root, env: Vec::new(), flags: Vec::new(), labels: Vec::new() }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn flag(mut self, key: &'static str, value: &str) -> Self {
        self.flags.push((key, value.to_owned()));
        self
    }

    fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.to_owned(), value.to_owned()));
        self
    }

    fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.dir().join(name);
        fs::write(&path, content).expect("write a file");
        chmod(&path, 0o600);
        self
    }

    fn json(self, content: &str) -> Self {
        self.file(FILE_NAME, content)
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("work")
    }

    fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    /// The next start in the same directory knows only what the files say.
    fn restarted(mut self) -> Self {
        self.env.clear();
        self.flags.clear();
        self.labels.clear();
        self
    }

    fn load(&self) -> Result<Loaded, Mistakes> {
        Config::load(&Sources {
            flags: self.flags.clone(),
            labels: self.labels.clone(),
            env: Box::new(self.env.clone()),
            dir: self.dir(),
            home: Some(self.home()),
            context: None,
        })
    }

    fn config(&self) -> Config {
        self.load().unwrap_or_else(|mistakes| panic!("refused:\n{mistakes}")).config
    }

    fn mistakes(&self) -> Vec<Mistake> {
        self.load().expect_err("the input is wrong").0
    }

    /// The only mistake.
    fn mistake(&self) -> Mistake {
        let mistakes = self.mistakes();
        assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
        mistakes.into_iter().next().expect("there is one")
    }

    fn row(&self, key: &str) -> Row {
        let table = self.load().unwrap_or_else(|mistakes| panic!("refused:\n{mistakes}")).table;
        table.rows().into_iter().find(|row| row.key == key).expect("the key has a row")
    }

    fn write(&self) -> Vec<Result<PathBuf, WriteError>> {
        write(&self.config(), &self.dir(), Some(&self.home()))
    }
}

fn chmod(path: &Path, mode: u32) {
    #[cfg(unix)]
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
        .expect("set the mode");
    #[cfg(not(unix))]
    let _ = (path, mode);
}

fn seed(pair: &KeyPair) -> String {
    pair.seed().expect("a new pair has a seed")
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).expect("read a file")
}
