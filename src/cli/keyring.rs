//! The keys of a developer: files with a seed each, in `~/.wash/keys`, where `wash` has them too.
//!
//! | file | whose key |
//! |---|---|
//! | `{file}_module.nk` | the actor of `{file}.wasm` |
//! | `{file}_service.nk` | the provider whose program is `{file}` |
//! | `{user}_account.nk` | the account that signs both |
//! | `{name}_operator.nk`, else `{user}_operator.nk` | the operator that signs accounts |
//!
//! Everybody who has an actor's key can sign its next revision, so a key is looked up by name and
//! made when it is missing, unless that is forbidden. A file appears whole and is never written to
//! again; it is for its owner only, and so is a directory that is made here. [`Made`] names each
//! new key, so that the command can report it to its user. Seeds reach no message: a text that was
//! meant as one is never repeated.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use tracing::warn;

use lattice_base::{
    config::Environment,
    trusted::{self, Holds, write},
};
use lattice_protocol::identity::{
    keys::{KeyError, Kind, decode_public},
    sign::{self, ActorToken, SignError, Term},
    signature::SigningKey,
    wasm,
};

/// Where keys are unless told otherwise, below the home directory.
const BELOW_HOME: [&str; 2] = [".wash", "keys"];
const EXTENSION: &str = "nk";
/// A seed has 58 bytes; more than some line breaks behind it is something else.
const FILE_BYTES_MAX: u64 = 1024;
/// The user's name for the account key where `$USER` names nobody.
const USER_UNKNOWN: &str = "user";

/// Why a key cannot be had. Never contains a seed.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("there is no home directory to keep keys in; name one with --directory (WASH_KEYS)")]
    NoHome,
    #[error("there is no key {}; make one with `host keys gen`, give a seed, or let it be made (without --disable-keygen)",
            .0.display())]
    Missing(PathBuf),
    #[error("{} holds no usable key: {source}", path.display())]
    NoKey { path: PathBuf, source: KeyError },
    #[error("cannot {what} {}: {source}; keys are kept where --directory (WASH_KEYS) says", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{0:?} is no name of a key; a name has no path in it, the directory is given with --directory"
    )]
    Name(String),
    #[error(
        "what was given as {what} is neither a seed ({source}) nor a file there is; it is not shown, it may be a secret"
    )]
    NoSeed { what: &'static str, source: KeyError },
    #[error("the key given as {what} does not fit: {source}")]
    Unfit { what: &'static str, source: KeyError },
    #[error("make a key: {0}")]
    Make(KeyError),
}

/// A directory of keys.
#[derive(Clone, Debug)]
pub struct Keyring {
    dir: PathBuf,
    user: String,
    makes_keys: bool,
}

/// A key, and whether it is new.
#[derive(Debug)]
pub struct Key {
    pub key: SigningKey,
    pub made: Option<Made>,
}

/// A key that was made because there was none.
#[derive(Clone, Debug)]
pub struct Made {
    pub path: PathBuf,
    pub kind: Kind,
    pub public_key: String,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, kind, public_key } = self;
        write!(f, "made a key for {kind}: {public_key}, in {}", path.display())
    }
}

/// A module that was signed, and with which keys.
#[derive(Debug)]
pub struct Signed {
    pub wasm: Vec<u8>,
    /// The actor's public key.
    pub subject: String,
    /// The account's.
    pub issuer: String,
    /// Keys that were made for it.
    pub made: Vec<Made>,
}

/// Why a module was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignModuleError {
    #[error(transparent)]
    Key(#[from] KeyringError),
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// Signs the module that came from `file` with a developer's keys: the one of that file, and the
/// user's account. Without a name it is called like the file. A component is signed for the
/// contracts of its imports and exports as well.
///
/// Reads files and hashes the module: call it off the async threads.
pub fn sign_module(
    keyring: &Keyring,
    file: &Path,
    wasm: &[u8],
    mut says: ActorToken,
) -> Result<Signed, SignModuleError> {
    let (issuer, subject) = (keyring.account()?, keyring.module(file)?);
    if says.name.is_empty() {
        says.name = stem(file);
    }
    if let Some(info) = wasm::inspect_component(wasm).map_err(SignError::from)? {
        says.caps = info.capabilities(&says.caps, &[]);
    }
    let wasm = sign::module(wasm, &says, &subject.key, &issuer.key, &Term::default())?;
    Ok(Signed {
        wasm,
        subject: subject.key.public_key().to_owned(),
        issuer: issuer.key.public_key().to_owned(),
        made: issuer.made.into_iter().chain(subject.made).collect(),
    })
}

/// The name of a file without directory and extension: what its keys are called.
pub fn stem(file: &Path) -> String {
    file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned()
}

impl Keyring {
    /// The keys in a directory. Nothing is read or made yet.
    pub fn new(dir: PathBuf, user: impl Into<String>) -> Self {
        Self { dir, user: user.into(), makes_keys: true }
    }

    /// The keys of this user: in `directory`, or where `WASH_KEYS` says, or in `~/.wash/keys`.
    pub fn find(
        directory: Option<&Path>,
        env: &dyn Environment,
        home: Option<&Path>,
    ) -> Result<Self, KeyringError> {
        let below_home =
            home.map(|home| BELOW_HOME.iter().fold(home.to_owned(), |dir, part| dir.join(part)));
        let dir = directory
            .map(Path::to_owned)
            .or_else(|| env.var("WASH_KEYS").map(PathBuf::from))
            .or(below_home);
        let user = env.var("USER").filter(|user| is_name(user));
        let user = user.unwrap_or_else(|| USER_UNKNOWN.to_owned());
        Ok(Self::new(dir.ok_or(KeyringError::NoHome)?, user))
    }

    /// The same, which fails rather than make a key.
    pub fn without_making(mut self) -> Self {
        self.makes_keys = false;
        self
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The user's account, which signs actors and providers.
    pub fn account(&self) -> Result<Key, KeyringError> {
        self.key(&self.user, Kind::Account)
    }

    /// The key of the actor whose module is `file`.
    pub fn module(&self, file: &Path) -> Result<Key, KeyringError> {
        self.key(&stem(file), Kind::Module)
    }

    /// The key of the provider whose program is `file`.
    pub fn service(&self, file: &Path) -> Result<Key, KeyringError> {
        self.key(&stem(file), Kind::Service)
    }

    /// The operator of this name, or else the user's.
    pub fn operator(&self, name: &str) -> Result<Key, KeyringError> {
        // `wash` calls operators like what they sign.
        let named = file_name(name, Kind::Operator);
        if is_name(name)
            && let Some(key) = self.get(&named)?
        {
            return fitting(key, Kind::Operator, &self.path(&named))
                .map(|key| Key { key, made: None });
        }
        self.key(&self.user, Kind::Operator)
    }

    /// The key of something; made if there is none and that is allowed.
    pub fn key(&self, of: &str, kind: Kind) -> Result<Key, KeyringError> {
        let name = file_name(of, kind);
        let path = self.path(&name);
        match self.get(&name)? {
            Some(key) => fitting(key, kind, &path).map(|key| Key { key, made: None }),
            None if self.makes_keys => self.make(&name, kind),
            None => Err(KeyringError::Missing(path)),
        }
    }

    /// Reads a key by its name, with or without `.nk`.
    pub fn get(&self, name: &str) -> Result<Option<SigningKey>, KeyringError> {
        let Some(seed) = self.seed(name)? else { return Ok(None) };
        match SigningKey::from_seed(&seed) {
            Ok(key) => Ok(Some(key)),
            Err(source) => Err(KeyringError::NoKey { path: self.path(name), source }),
        }
    }

    /// Reads the seed of a key by its name, with or without `.nk`. It is a secret.
    pub fn seed(&self, name: &str) -> Result<Option<String>, KeyringError> {
        if !is_name(name) {
            return Err(KeyringError::Name(name.chars().take(100).collect()));
        }
        let path = self.path(name);
        match read(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(KeyringError::Io { what: "read", path, source }),
        }
    }

    /// The names of all keys, sorted. A directory that does not exist has none.
    pub fn names(&self) -> Result<Vec<String>, KeyringError> {
        let failed = |source| KeyringError::Io { what: "read", path: self.dir.clone(), source };
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                names.push(stem(&path));
            }
        }
        names.sort();
        Ok(names)
    }

    /// The key with this public key, if it is here under whatever name. Files that hold no key are
    /// passed over.
    pub fn with_public_key(&self, public_key: &str) -> Result<Option<SigningKey>, KeyringError> {
        let mut keys = self.names()?.into_iter().filter_map(|name| self.get(&name).ok().flatten());
        Ok(keys.find(|key| key.public_key() == public_key))
    }

    fn path(&self, name: &str) -> PathBuf {
        let name = name.strip_suffix(".nk").unwrap_or(name);
        self.dir.join(format!("{name}.{EXTENSION}"))
    }

    fn make(&self, name: &str, kind: Kind) -> Result<Key, KeyringError> {
        let path = self.path(name);
        let (key, seed) = SigningKey::generate(kind).map_err(KeyringError::Make)?;
        match write(&self.dir, &path, &seed) {
            Ok(()) => {
                let made = Made { path, kind, public_key: key.public_key().to_owned() };
                Ok(Key { key, made: Some(made) })
            }
            // Another command was faster, and its key counts.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match self.get(name)? {
                Some(key) => fitting(key, kind, &path).map(|key| Key { key, made: None }),
                None => Err(KeyringError::Missing(path)),
            },
            Err(source) => Err(KeyringError::Io { what: "write", path, source }),
        }
    }
}

/// Reads a key that was given as a seed or as a file with one; `what` names the flag.
pub fn given(text: &str, kind: Kind, what: &'static str) -> Result<SigningKey, KeyringError> {
    let text = text.trim();
    let refused = match SigningKey::from_seed(text) {
        Ok(key) => return unless_unfit(key, kind, what),
        Err(refused) => refused,
    };
    let path = Path::new(text);
    let seed = match read(path) {
        Ok(seed) => seed,
        // A text without a separator may be a seed with a mistake in it.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && !text.contains(std::path::is_separator) =>
        {
            return Err(KeyringError::NoSeed { what, source: refused });
        }
        Err(source) => {
            return Err(KeyringError::Io { what: "read", path: path.to_owned(), source });
        }
    };
    match SigningKey::from_seed(seed.trim()) {
        Ok(key) => unless_unfit(key, kind, what),
        Err(source) => Err(KeyringError::NoKey { path: path.to_owned(), source }),
    }
}

/// The public key of a key that was given as one, as a seed, or as a file with a seed.
pub fn given_public(text: &str, kind: Kind, what: &'static str) -> Result<String, KeyringError> {
    match decode_public(text) {
        Ok((found, _)) if found == kind => Ok(text.to_owned()),
        Ok((found, _)) => {
            Err(KeyringError::Unfit { what, source: KeyError::Kind { expected: kind, found } })
        }
        Err(_) => given(text, kind, what).map(|key| key.public_key().to_owned()),
    }
}

fn unless_unfit(
    key: SigningKey,
    expected: Kind,
    what: &'static str,
) -> Result<SigningKey, KeyringError> {
    key.require(expected).map_err(|source| KeyringError::Unfit { what, source })?;
    Ok(key)
}

fn fitting(key: SigningKey, expected: Kind, path: &Path) -> Result<SigningKey, KeyringError> {
    key.require(expected)
        .map_err(|source| KeyringError::NoKey { path: path.to_owned(), source })?;
    Ok(key)
}

fn file_name(of: &str, kind: Kind) -> String {
    let kind = match kind {
        Kind::Account => "account",
        Kind::Cluster => "cluster",
        Kind::Module => "module",
        Kind::Server => "server",
        Kind::Operator => "operator",
        Kind::User => "user",
        Kind::Service => "service",
        Kind::Curve => "curve",
    };
    format!("{of}_{kind}")
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(std::path::is_separator) && !text.starts_with('.')
}

/// Reads a small file.
fn read(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("it is no file with a seed"));
    }
    let read = trusted::read(path, Holds::Secrets)?;
    if let Some(warning) = &read.warning {
        warn!("{warning}");
    }
    read.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::identity::samples::{ACCOUNT, ACTOR, PROVIDER};

    fn keyring() -> (tempfile::TempDir, Keyring) {
        let home = tempfile::tempdir().unwrap();
        let env = vec![("USER".to_owned(), "ann".to_owned())];
        let keyring = Keyring::find(None, &env, Some(home.path())).unwrap();
        (home, keyring)
    }

    #[test]
    fn a_key_is_made_once_under_the_name_that_wash_gives_it() {
        let (home, keyring) = keyring();
        assert!(keyring.names().unwrap().is_empty());
        let first = keyring.module(Path::new("build/echo.wasm")).unwrap();
        let made = first.made.unwrap();
        assert_eq!(made.path, home.path().join(".wash/keys/echo_module.nk"));
        assert!(made.to_string().contains(first.key.public_key()), "{made}");
        let again = keyring.module(Path::new("echo")).unwrap();
        assert!(again.made.is_none() && again.key.public_key() == first.key.public_key());
        keyring.account().unwrap();
        keyring.service(Path::new("store")).unwrap();
        keyring.operator("acme").unwrap();
        assert_eq!(
            keyring.names().unwrap(),
            ["ann_account", "ann_operator", "echo_module", "store_service"]
        );
        // `wash` reads a file as it is.
        let seed = fs::read_to_string(&made.path).unwrap();
        assert_eq!(
            wascap::prelude::KeyPair::from_seed(&seed).unwrap().public_key(),
            first.key.public_key()
        );
        assert_eq!(keyring.seed("echo_module.nk").unwrap(), Some(seed));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&made.path), mode(keyring.dir())), (0o600, 0o700));
        }
    }

    #[test]
    fn many_commands_at_once_agree_on_a_key() {
        let (_home, keyring) = keyring();
        let keys: Vec<String> = std::thread::scope(|scope| {
            let make = || keyring.account().unwrap().key.public_key().to_owned();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
        assert_eq!(keyring.names().unwrap(), ["ann_account"]);
    }

    #[test]
    fn no_key_is_made_where_that_is_forbidden() {
        let (_home, keyring) = keyring();
        let error = keyring.clone().without_making().account().unwrap_err();
        assert!(
            matches!(error, KeyringError::Missing(_))
                && error.to_string().contains("ann_account.nk"),
            "{error}"
        );
        assert!(keyring.names().unwrap().is_empty());
    }

    #[test]
    fn an_operator_is_found_by_its_name() {
        let (_home, keyring) = keyring();
        let named = keyring.key("acme", Kind::Operator).unwrap().key;
        assert_eq!(keyring.operator("acme").unwrap().key.public_key(), named.public_key());
        assert_ne!(keyring.operator("other").unwrap().key.public_key(), named.public_key());
        assert_eq!(
            keyring
                .with_public_key(named.public_key())
                .unwrap()
                .map(|key| key.public_key().to_owned()),
            Some(named.public_key().to_owned())
        );
        assert!(keyring.with_public_key(ACTOR.public).unwrap().is_none());
    }

    #[test]
    fn names_and_files_that_are_no_keys_are_refused() {
        let (_home, keyring) = keyring();
        keyring.account().unwrap();
        for name in ["", "../x", "/etc/passwd", ".."] {
            assert!(matches!(keyring.seed(name), Err(KeyringError::Name(_))), "{name}");
        }
        assert!(keyring.get("nobody").unwrap().is_none());
        fs::write(keyring.dir().join("echo_module.nk"), ACCOUNT.seed).unwrap();
        let error = keyring.module(Path::new("echo")).unwrap_err();
        assert!(
            matches!(error, KeyringError::NoKey { source: KeyError::SeedKind { .. }, .. }),
            "{error}"
        );
        fs::write(keyring.dir().join("echo_module.nk"), "nonsense").unwrap();
        assert!(matches!(keyring.module(Path::new("echo")), Err(KeyringError::NoKey { .. })));
    }

    #[test]
    fn a_key_is_given_as_seed_or_file_and_never_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.nk");
        fs::write(&file, format!("{}\n", ACTOR.seed)).unwrap();
        for text in [ACTOR.seed, file.to_str().unwrap()] {
            assert_eq!(given(text, Kind::Module, "--subject").unwrap().public_key(), ACTOR.public);
        }
        for (text, kind) in [
            (ACTOR.public, Kind::Module),
            (ACTOR.seed, Kind::Module),
            (PROVIDER.public, Kind::Service),
        ] {
            assert!(given_public(text, kind, "--additional-key").is_ok());
        }
        assert!(matches!(
            given_public(ACTOR.public, Kind::Account, "x"),
            Err(KeyringError::Unfit { .. })
        ));
        assert!(matches!(given(ACTOR.seed, Kind::Account, "x"), Err(KeyringError::Unfit { .. })));
        let mistyped = ACTOR.seed.replace("YDA", "YDB");
        let error = given(&mistyped, Kind::Module, "--subject").unwrap_err().to_string();
        assert!(
            error.contains("--subject") && error.contains("checksum") && !error.contains("SMA"),
            "{error}"
        );
        let error = given("./no/such/file.nk", Kind::Module, "--subject").unwrap_err().to_string();
        assert!(error.contains("./no/such/file.nk"), "{error}");
    }

    #[test]
    fn a_module_is_signed_with_the_keys_of_its_file() {
        let (_home, keyring) = keyring();
        let says = ActorToken { caps: vec!["wasmcloud:keyvalue".into()], ..ActorToken::default() };
        let wasm = b"\0asm\x01\0\0\0";
        let signed = sign_module(&keyring, Path::new("echo.wasm"), wasm, says.clone()).unwrap();
        assert_eq!(signed.made.len(), 2);
        let claims = wascap::wasm::extract_claims(&signed.wasm).unwrap().unwrap().claims;
        assert_eq!((claims.subject, claims.issuer), (signed.subject.clone(), signed.issuer));
        assert_eq!(claims.metadata.unwrap().name.as_deref(), Some("echo"));
        let again = sign_module(&keyring, Path::new("echo.wasm"), &signed.wasm, says).unwrap();
        assert_eq!((again.made.len(), again.subject), (0, signed.subject));
    }
}
