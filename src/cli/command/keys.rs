//! `host keys`: makes, shows and lists keys. The output is a secret, and is shown because that was
//! asked for.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

use crate::{
    args::tools::{Keys, Signing},
    keyring::{self, Key, Keyring, KeyringError},
    terminal::{Cell, Column, Page, Table, Terminal, View},
};
use lattice_base::config::ProcessEnvironment;
use lattice_protocol::{
    errors::{Lines, Usage},
    identity::{
        keys::Kind,
        sign::{SignError, Term},
        signature::SigningKey,
    },
};

/// The names of each kind of key on the command line.
const KINDS: [(&str, Kind); 10] = [
    ("account", Kind::Account),
    ("user", Kind::User),
    ("module", Kind::Module),
    ("actor", Kind::Module),
    ("service", Kind::Service),
    ("provider", Kind::Service),
    ("server", Kind::Server),
    ("host", Kind::Server),
    ("operator", Kind::Operator),
    ("cluster", Kind::Cluster),
];

pub fn run(terminal: &Terminal, args: Keys) -> Result<()> {
    match args {
        Keys::Gen(args) => {
            let (key, seed) = SigningKey::generate(kind(&args.kind)?)?;
            terminal.show(&Pair { public_key: key.public_key().to_owned(), seed })
        }
        Keys::Get(args) => {
            let keyring = find_keyring(args.directory.as_deref())?.without_making();
            let Some(seed) = keyring.seed(&args.name).map_err(told)? else {
                bail!(missing(&keyring, &args.name)?)
            };
            let key = keyring.get(&args.name).map_err(told)?;
            let public_key = key.map(|key| key.public_key().to_owned()).unwrap_or_default();
            terminal.show(&Stored { public_key, seed })
        }
        Keys::List(args) => {
            let keyring = find_keyring(args.directory.as_deref())?.without_making();
            let mut keys = Vec::new();
            for name in keyring.names()? {
                // A file that holds no key is listed without one.
                let key = keyring.get(&name).ok().flatten();
                keys.push((name, key.map(|key| key.public_key().to_owned())));
            }
            terminal.show(&Listed { directory: keyring.dir().to_owned(), keys })
        }
    }
}

/// Returns the keys of this user.
pub(super) fn find_keyring(directory: Option<&Path>) -> Result<Keyring> {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    Ok(Keyring::find(directory, &ProcessEnvironment, home.as_deref())?)
}

/// Where a command finds the keys it signs with: in its flags, or else in the keyring.
pub(super) struct Signers<'a> {
    terminal: &'a Terminal,
    directory: Option<&'a Path>,
    disable_keygen: bool,
}

impl<'a> Signers<'a> {
    pub fn new(terminal: &'a Terminal, directory: Option<&'a Path>, disable_keygen: bool) -> Self {
        Self { terminal, directory, disable_keygen }
    }

    pub fn of(terminal: &'a Terminal, signing: &'a Signing) -> Self {
        Self::new(terminal, signing.directory.as_deref(), signing.disable_keygen)
    }

    /// The key whose seed was given with a flag, or else the stored one; a new one is told of.
    pub fn key(
        &self,
        flag: &'static str,
        given: Option<&str>,
        kind: Kind,
        stored: impl FnOnce(&Keyring) -> Result<Key, KeyringError>,
    ) -> Result<SigningKey> {
        if let Some(given) = given {
            return keyring::given(given, kind, flag).map_err(told);
        }
        let keyring = find_keyring(self.directory)?;
        let keyring = if self.disable_keygen { keyring.without_making() } else { keyring };
        let Key { key, made } = stored(&keyring).map_err(told)?;
        if let Some(made) = made {
            self.terminal.note(made.to_string());
        }
        Ok(key)
    }
}

/// From when to when what is signed counts.
pub(super) fn term(signing: &Signing) -> Result<Term> {
    let now = Term::default();
    let term = match signing.issued_at {
        Some(issued_at) => Term { issued_at, is_reproducible: true, ..now },
        None => now,
    };
    term.days(signing.not_before_days, signing.expires_in_days).map_err(unsigned)
}

/// Turns an error of a keyring into wrong use ([`Usage`]) where it is about what was typed.
pub(super) fn told(error: KeyringError) -> anyhow::Error {
    match error {
        KeyringError::Name(_)
        | KeyringError::NoSeed { .. }
        | KeyringError::Unfit { .. }
        | KeyringError::NoHome => Usage(error.to_string()).into(),
        other => other.into(),
    }
}

/// Does the same for an error of signing.
pub(super) fn unsigned(error: SignError) -> anyhow::Error {
    match error {
        SignError::Module(_) | SignError::Claims(_) => error.into(),
        other => Usage(other.to_string()).into(),
    }
}

fn kind(word: &str) -> Result<Kind> {
    let known = KINDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    let Some((_, kind)) = known else {
        let names: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        bail!(Usage(format!("{word:?} is no kind of key; there are {}", names.join(", "))));
    };
    Ok(*kind)
}

fn missing(keyring: &Keyring, name: &str) -> Result<anyhow::Error> {
    let (names, dir) = (keyring.names()?, keyring.dir().display());
    Ok(match names.is_empty() {
        true => anyhow!("there is no key {name:?}, nor any other in {dir}"),
        false => {
            let mut lines = vec![format!("there is no key {name:?} in {dir}; there are:")];
            lines.extend(names.iter().map(|name| format!("  {name}")));
            Lines(lines).into()
        }
    })
}

/// A new key.
struct Pair {
    public_key: String,
    seed: String,
}

impl View for Pair {
    fn json(&self) -> Value {
        json!({ "public_key": self.public_key, "seed": self.seed })
    }

    fn text(&self, page: &mut Page) {
        page.line(format!("Public Key: {}", self.public_key));
        page.line(format!("Seed: {}", self.seed));
        page.line("");
        page.line("Remember that the seed is private, treat it as a secret.");
    }

    fn names(&self) -> Vec<String> {
        vec![self.public_key.clone()]
    }
}

/// A key from a file: its seed alone, so that it can be handed on.
struct Stored {
    public_key: String,
    seed: String,
}

impl View for Stored {
    fn json(&self) -> Value {
        json!({ "seed": self.seed, "public_key": self.public_key })
    }

    fn text(&self, page: &mut Page) {
        page.line(&self.seed);
    }

    fn names(&self) -> Vec<String> {
        vec![self.public_key.clone()]
    }
}

struct Listed {
    directory: PathBuf,
    /// Name and public key.
    keys: Vec<(String, Option<String>)>,
}

impl View for Listed {
    fn json(&self) -> Value {
        let names: Vec<&str> = self.keys.iter().map(|(name, _)| name.as_str()).collect();
        let public_keys: serde_json::Map<String, Value> =
            self.keys.iter().map(|(name, key)| (name.clone(), json!(key))).collect();
        json!({ "keys": names, "public_keys": public_keys, "directory": self.directory.display().to_string() })
    }

    fn text(&self, page: &mut Page) {
        let mut table = Table::new([Column::fixed("KEY"), Column::id("PUBLIC KEY")]);
        for (name, key) in &self.keys {
            table.row([Cell::from(name), Cell::from(key.as_deref().unwrap_or("(no key)"))]);
        }
        page.table(&table, &format!("no keys in {}", self.directory.display()));
    }

    fn names(&self) -> Vec<String> {
        self.keys.iter().map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_known_by_all_their_names_in_any_case() {
        for (word, expected) in
            [("Actor", Kind::Module), ("SERVICE", Kind::Service), ("host", Kind::Server)]
        {
            assert_eq!(kind(word).unwrap(), expected);
        }
        let error = kind("actors").unwrap_err();
        assert!(
            error.is::<Usage>() && error.to_string().contains("account, user, module"),
            "{error}"
        );
    }
}
