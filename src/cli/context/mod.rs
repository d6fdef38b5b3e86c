//! Contexts: where lattices are, for commands that are not run beside a host.
//!
//! A context is a file with settings. There are three kinds, so that whoever comes from elsewhere
//! finds theirs:
//!
//! * ours, `~/.config/lattice-host/contexts/NAME.json`, with the very keys of `host_config.json`;
//! * those of `wash`, `~/.wash/contexts/NAME.json`;
//! * those of the `nats` command, `~/.config/nats/context/NAME.json`, which know servers and logins
//!   but no lattices.
//!
//! [`read`] makes settings of each kind; from there on a context is what `host_config.json` is to a
//! host, and the same table checks it. [`Places`] knows which there are and which is in use;
//! [`write`] makes new ones. The context in use is named in the file `default` beside ours; if that
//! names none, the one that `wash` or `nats` uses serves.
//!
//! Always true: nothing here prints, and no message holds what a file says about logins.

pub mod address;
pub mod read;
#[cfg(test)]
mod tests;
pub mod write;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use lattice_base::{
    config::{Context, FILE_NAME, WASH_DIR},
    dirs::Dirs,
    trusted::{self, Holds, Trusted},
};
use lattice_protocol::errors::Usage;

/// Directory of contexts, in our own directory of configuration.
const CONTEXTS: &str = "contexts";
/// File that names the context in use; `wash` calls it so too.
const DEFAULT: &str = "default";
/// The file that `wash` used instead until 2023.
const WASH_INDEX: &str = "index.json";
const SUFFIX: &str = "json";

/// The program that a context belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Host,
    Wash,
    Nats,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Host, Self::Wash, Self::Nats];

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Wash => "wash",
            Self::Nats => "nats",
        })
    }
}

/// A context that is there; nobody has looked into it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub kind: Kind,
    pub name: String,
    pub path: PathBuf,
}

impl Found {
    /// `nats:shop`: means this context and no other of the same name.
    pub fn qualified(&self) -> String {
        format!("{}:{}", self.kind, self.name)
    }

    /// Its settings.
    pub fn read(&self, home: Option<&Path>) -> Result<Context> {
        Ok(read::context(Some(self.kind), &self.path, home)?)
    }
}

/// Where contexts are looked for.
#[derive(Clone, Debug, Default)]
pub struct Places {
    pub home: Option<PathBuf>,
    host: Option<PathBuf>,
    wash: Option<PathBuf>,
    nats: Option<PathBuf>,
}

impl Places {
    /// All places of this user.
    pub fn of(dirs: &Dirs, home: Option<&Path>) -> Self {
        Self {
            home: home.map(Path::to_owned),
            host: dirs.config.as_ref().map(|config| config.join(CONTEXTS)),
            wash: dirs.wash_contexts.clone(),
            nats: dirs.nats_config.clone(),
        }
    }

    /// One directory, in the form of `wash`.
    pub fn of_wash(dir: PathBuf, home: Option<&Path>) -> Self {
        Self { home: home.map(Path::to_owned), wash: Some(dir), ..Self::default() }
    }

    /// The directory of our contexts, or, if only that is looked at, of those of `wash`.
    pub fn own(&self) -> Result<(Kind, &Path)> {
        let host = self.host.as_deref().map(|dir| (Kind::Host, dir));
        host.or_else(|| self.wash.as_deref().map(|dir| (Kind::Wash, dir))).ok_or_else(|| {
            Usage(
                "this user has no home directory for contexts; set HOME or XDG_CONFIG_HOME".into(),
            )
            .into()
        })
    }

    fn dir(&self, kind: Kind) -> Option<PathBuf> {
        match kind {
            Kind::Host => self.host.clone(),
            Kind::Wash => self.wash.clone(),
            Kind::Nats => self.nats.as_ref().map(|dir| dir.join("context")),
        }
    }

    /// Every context, by kind and name.
    pub fn all(&self) -> Vec<Found> {
        Kind::ALL.into_iter().flat_map(|kind| self.of_kind(kind)).collect()
    }

    fn of_kind(&self, kind: Kind) -> Vec<Found> {
        let Some(Ok(files)) = self.dir(kind).map(fs::read_dir) else { return Vec::new() };
        let found = |path: PathBuf| {
            let name = path.file_stem()?.to_str()?.to_owned();
            let is_context =
                path.extension().is_some_and(|suffix| suffix == SUFFIX) && path.is_file();
            let is_index = kind == Kind::Wash && path.ends_with(WASH_INDEX);
            (is_context && !is_index && is_name(&name)).then_some(Found { kind, name, path })
        };
        let mut all: Vec<Found> = files.filter_map(|file| found(file.ok()?.path())).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Returns a short name for a context: its own, if no other is found by it.
    pub fn short(&self, context: &Found) -> String {
        match self.named(&context.name) {
            Some(first) if first == *context => context.name.clone(),
            _ => context.qualified(),
        }
    }

    /// The context of this name; `KIND:NAME` means a certain one, a bare name the first of ours,
    /// `wash`'s and `nats`'.
    fn named(&self, word: &str) -> Option<Found> {
        let (kinds, name) =
            match word.split_once(':').and_then(|(kind, name)| Some((Kind::parse(kind)?, name))) {
                Some((kind, name)) => (vec![kind], name),
                None => (Kind::ALL.to_vec(), word),
            };
        if !is_name(name) {
            return None;
        }
        kinds.into_iter().find_map(|kind| {
            let path = self.dir(kind)?.join(format!("{name}.{SUFFIX}"));
            path.is_file().then(|| Found { kind, name: name.to_owned(), path })
        })
    }

    /// Returns the context that `word` means. An unknown one is an error that lists all there are.
    pub fn find(&self, word: &str) -> Result<Found> {
        Ok(self
            .named(word)
            .ok_or_else(|| Usage(format!("there is no context {word:?}; {}", self.listed())))?)
    }

    /// Lists all contexts, in a sentence.
    fn listed(&self) -> String {
        let all = self.all();
        if all.is_empty() {
            return "there is none at all yet: `host ctx new NAME --nats-host HOST` makes one"
                .into();
        }
        let named =
            all.iter().map(|found| format!("{} ({})", self.short(found), found.path.display()));
        format!("there are {}", named.collect::<Vec<_>>().join(", "))
    }

    /// The context that is used where nothing else is said.
    pub fn in_use(&self) -> Result<Option<Found>> {
        if let Some(found) = self.chosen_here()? {
            return Ok(Some(found));
        }
        if let Some(found) = self.wash_default()
            && !read::is_untouched(&found.path)?
        {
            return Ok(Some(found));
        }
        let selected =
            self.nats.as_ref().map(|dir| dir.join("context.txt")).and_then(|path| name_in(&path));
        Ok(selected.and_then(|name| self.named(&format!("{}:{name}", Kind::Nats))))
    }

    /// The one that is named in our own file; one that is gone is an error, for some other lattice
    /// would be the answer.
    fn chosen_here(&self) -> Result<Option<Found>> {
        let Some(file) = self.host.as_ref().map(|dir| dir.join(DEFAULT)) else { return Ok(None) };
        let read = trusted::read(&file, Holds::Settings).and_then(Trusted::text);
        if let Err(error) = &read
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            bail!("the context in use cannot be told: {}: {error}", file.display());
        }
        let word = read.map(|text| text.trim().to_owned()).unwrap_or_default();
        if word.is_empty() {
            return Ok(None);
        }
        let gone = || {
            let file = file.display();
            Usage(format!(
                "the context in use is {word:?} ({file} says so), and there is no such context. `host ctx default NAME` uses \
                 another; {}",
                self.listed()
            ))
        };
        Ok(Some(self.named(&word).ok_or_else(gone)?))
    }

    /// Returns the context that `wash` uses; `None` if its file is not there yet: `wash` makes it
    /// itself, and it says nothing.
    pub fn wash_default(&self) -> Option<Found> {
        let dir = self.wash.as_ref()?;
        let of_index = || {
            let index: serde_json::Value =
                serde_json::from_str(&text_of(&dir.join(WASH_INDEX))?).ok()?;
            Some(index.get("name")?.as_str()?.to_owned())
        };
        let name = name_in(&dir.join(DEFAULT)).or_else(of_index)?;
        self.named(&format!("{}:{name}", Kind::Wash))
    }

    /// Uses this context from now on.
    pub fn make_default(&self, context: &Found) -> Result<()> {
        let (kind, dir) = self.own()?;
        let word = if kind == context.kind { context.name.clone() } else { context.qualified() };
        // Without a line end: `wash` takes the whole content for the name.
        write::replace(&dir.join(DEFAULT), word.as_bytes())
            .with_context(|| format!("use context {word}"))
    }

    /// Removes a context; says whether it was the one in use, which then is none, or for `wash` the
    /// one it makes itself.
    pub fn remove(&self, context: &Found) -> Result<bool> {
        let in_use = self.in_use().ok().flatten().is_some_and(|found| found == *context);
        fs::remove_file(&context.path)
            .with_context(|| format!("remove {}", context.path.display()))?;
        if let Some(dir) = self.dir(context.kind)
            && context.kind != Kind::Nats
            && name_in(&dir.join(DEFAULT)).is_some_and(|name| name == context.name)
        {
            forget(&dir.join(DEFAULT))?;
        }
        // Ours may name one of another kind.
        if let Some(file) = self.host.as_ref().map(|dir| dir.join(DEFAULT))
            && name_in(&file).is_some_and(|word| word == context.qualified())
        {
            forget(&file)?;
        }
        Ok(in_use)
    }
}

fn forget(file: &Path) -> Result<()> {
    fs::remove_file(file).with_context(|| format!("remove {}", file.display()))
}

/// The name in a file that holds nothing else; `None` if there is no such file, or none in it.
fn name_in(file: &Path) -> Option<String> {
    Some(text_of(file)?.trim().to_owned()).filter(|name| !name.is_empty())
}

fn text_of(file: &Path) -> Option<String> {
    trusted::read(file, Holds::Settings).and_then(Trusted::text).ok()
}

/// Whether this can name a context: it becomes a part of a path.
pub fn is_name(name: &str) -> bool {
    let is_fine = |c: char| !matches!(c, '/' | '\\' | ':') && !c.is_control();
    !name.is_empty() && !name.starts_with('.') && name.trim() == name && name.chars().all(is_fine)
}

/// Returns the context a command is to use in place of `./host_config.json`: the one named, or,
/// where there is no such file, the one in use, or else the settings that the last host of this
/// user left in `~/.wash`. A name may be the path of a file, of any kind.
pub fn chosen(
    name: Option<&str>,
    dir: &Path,
    dirs: &Dirs,
    home: Option<&Path>,
) -> Result<Option<Context>> {
    let places = Places::of(dirs, home);
    let found = match name {
        Some(word) => {
            let path = dir.join(word);
            if places.named(word).is_none() && path.is_file() {
                return Ok(Some(read::context(None, &path, home)?));
            }
            Some(places.find(word)?)
        }
        None if dir.join(FILE_NAME).exists() => None,
        None => places.in_use()?,
    };
    if let Some(found) = found {
        return Ok(Some(found.read(home)?));
    }
    // The settings that the last host of this user left, as `wash` of those years had it.
    let last = home.map(|home| home.join(WASH_DIR).join(FILE_NAME)).filter(|path| path.is_file());
    match last.filter(|_| name.is_none() && !dir.join(FILE_NAME).exists()) {
        Some(path) => Ok(Some(read::context(Some(Kind::Host), &path, home)?)),
        None => Ok(None),
    }
}
