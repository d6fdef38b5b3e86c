//! The places settings come from, and reading them raw.
//!
//! Nothing here reads the process state by itself: environment, working directory and home
//! directory are handed in, so tests need no real ones.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dotenv::{self, Entry};
use super::environment;
use super::file::{self, Member};
use super::origin::{Mistakes, Origin, Problem};
use super::settings;
use crate::trusted::{self, Holds};

/// Files read beside the environment; a later one overrides an earlier one.
const DOTENV_FILES: [&str; 4] = [".env", ".env.prod", ".env.local", ".env.prod.local"];

/// Delivers environment variables.
pub trait Environment {
    fn vars(&self) -> Vec<(String, String)>;

    /// Returns a variable that says something; an empty one is as good as none.
    fn var(&self, name: &str) -> Option<String> {
        let mut vars = self.vars().into_iter();
        vars.find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value)
    }
}

/// The environment of this process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    /// Texts that are not UTF-8 arrive damaged rather than not at all, so that the check of the
    /// setting they belong to complains instead of a default being used silently.
    fn vars(&self) -> Vec<(String, String)> {
        std::env::vars_os()
            .map(|(name, value)| {
                (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
            })
            .collect()
    }
}

impl Environment for Vec<(String, String)> {
    fn vars(&self) -> Vec<(String, String)> {
        self.clone()
    }
}

/// Settings by key that stand in for those of `host_config.json`: a context of the commands that
/// operate a lattice.
#[derive(Clone, Debug)]
pub struct Context {
    /// Where they were read, for messages.
    pub path: PathBuf,
    pub members: Vec<Member>,
    /// How long an answer of the lattice may take, where the context says so.
    pub timeout: Option<Duration>,
    /// Parts of the file that have no effect here, and why.
    pub notes: Vec<String>,
}

/// Everything [`super::Config::load`] looks at.
pub struct Sources {
    /// Key of the setting and the text given with its flag; the last of two wins.
    pub flags: Vec<(&'static str, String)>,
    /// `--label key=value`.
    pub labels: Vec<(String, String)>,
    pub env: Box<dyn Environment>,
    /// Directory of `host_config.json` and of the dotenv files.
    pub dir: PathBuf,
    pub home: Option<PathBuf>,
    /// Read in place of `host_config.json`.
    pub context: Option<Context>,
}

impl Sources {
    /// The sources of this process. The directory stays `.`, so that paths in messages are short.
    pub fn from_process(flags: Vec<(&'static str, String)>, labels: Vec<(String, String)>) -> Self {
        Sources {
            flags,
            labels,
            env: Box::new(ProcessEnvironment),
            dir: PathBuf::from("."),
            home: std::env::home_dir().filter(|home| !home.as_os_str().is_empty()),
            context: None,
        }
    }

    /// The files of a directory alone: no flag and no variable is set.
    pub fn of_directory(dir: &Path) -> Self {
        let dir = dir.to_owned();
        let env = Box::new(Vec::<(String, String)>::new());
        Sources { dir, env, home: None, ..Self::from_process(Vec::new(), Vec::new()) }
    }
}

/// A variable with the place it was set.
#[derive(Debug, Clone)]
pub(super) struct Variable {
    pub value: String,
    pub origin: Origin,
}

impl Variable {
    /// Whether it was set in this dotenv file.
    fn is_of(&self, path: &Path) -> bool {
        matches!(&self.origin, Origin::Dotenv { file, .. } if file == path)
    }
}

/// The raw contents of all sources.
pub(super) struct Layers {
    pub flags: BTreeMap<&'static str, String>,
    pub env: BTreeMap<String, Variable>,
    pub dotenv: BTreeMap<String, Variable>,
    pub file: Vec<Member>,
    pub file_path: PathBuf,
}

impl Layers {
    pub fn read(sources: &Sources, mistakes: &mut Mistakes, warnings: &mut Vec<String>) -> Self {
        let (file_path, file) = match &sources.context {
            Some(context) => {
                warnings.extend(context.notes.iter().cloned());
                (context.path.clone(), context.members.clone())
            }
            None => {
                let path = sources.dir.join(file::FILE_NAME);
                let members = file::read(&path, mistakes, warnings);
                (path, members)
            }
        };
        Layers {
            flags: sources.flags.iter().cloned().collect(),
            env: environment::read(sources.env.as_ref(), warnings),
            dotenv: read_dotenv(&sources.dir, mistakes, warnings),
            file,
            file_path,
        }
    }

    /// Returns all variables by name; the environment hides dotenv files.
    pub fn variables(&self) -> BTreeMap<&str, &Variable> {
        let all = self.dotenv.iter().chain(&self.env);
        all.map(|(name, variable)| (name.as_str(), variable)).collect()
    }
}

fn read_dotenv(
    dir: &Path,
    mistakes: &mut Mistakes,
    warnings: &mut Vec<String>,
) -> BTreeMap<String, Variable> {
    let mut variables = BTreeMap::new();
    for name in DOTENV_FILES {
        let file = dir.join(name);
        let text = match trusted::read(&file, Holds::Settings).and_then(|read| read.text()) {
            Ok(text) => text,
            // A directory of that name is a Python environment and none of our business.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {
                continue;
            }
            Err(error) => {
                let origin = Origin::Dotenv { file: file.clone(), line: 1, name: name.to_owned() };
                let problem = Problem::Unreadable { path: file, reason: error.to_string() };
                mistakes.add(
                    name,
                    &origin,
                    problem,
                    "a readable text file of KEY=VALUE lines, or none",
                );
                continue;
            }
        };
        take_dotenv(&text, &file, &mut variables, mistakes, warnings);
        // A file without secrets may be read by anybody.
        let has_secrets = settings::all().any(|setting| {
            let is_set = |name: &&str| variables.get(*name).is_some_and(|set| set.is_of(&file));
            setting.kind.is_secret() && setting.env.iter().any(is_set)
        });
        if has_secrets {
            warnings.extend(trusted::check(&file, Holds::Secrets).ok().flatten());
        }
    }
    variables
}

/// Takes the pairs of one file. A wrong quote is a mistake where the name is ours, and a warning
/// where the line is for others.
fn take_dotenv(
    text: &str,
    file: &Path,
    variables: &mut BTreeMap<String, Variable>,
    mistakes: &mut Mistakes,
    warnings: &mut Vec<String>,
) {
    for (line, entry) in dotenv::parse(text) {
        match entry {
            Entry::Pair { value, .. } if value.is_empty() => {}
            Entry::Pair { name, value } => {
                let origin = Origin::Dotenv { file: file.to_owned(), line, name: name.clone() };
                variables.insert(name, Variable { value, origin });
            }
            Entry::WronglyQuoted { name } if environment::is_ours(&name) => {
                let origin = Origin::Dotenv { file: file.to_owned(), line, name: name.clone() };
                mistakes.add(
                    name,
                    &origin,
                    Problem::WronglyQuoted,
                    "NAME=value, NAME='value' or NAME=\"value\"",
                );
            }
            // Not repeated: the line may hold half a secret.
            Entry::WronglyQuoted { name } => {
                warnings.push(format!(
                    "{}:{line}: {name} is quoted wrongly and was skipped",
                    file.display()
                ));
            }
            Entry::NoPair => {
                warnings.push(format!("{}:{line} is not KEY=VALUE and was skipped", file.display()))
            }
        }
    }
}
