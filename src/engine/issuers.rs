//! Which accounts may sign what runs on this host.
//!
//! A signature only says that some account vouches for a module; anybody can make an account, and
//! sign any code under any actor's key. So a host remembers the account that signed an actor or a
//! provider when it first ran here, and refuses another one from then on. Where
//! `allowed_actor_issuers` or `allowed_provider_issuers` list accounts, these decide alone.
//!
//! The memory is a file in the host's own state, one per lattice, mode 0600, shared by all hosts of
//! this user; nobody can change it over the network. A key that never ran here is compared with
//! what the lattice says of it, if it runs elsewhere.
//!
//! A change of account that is meant is allowed by the settings, by forgetting what is remembered
//! (`host claims forget` on that machine), or for one command by [`ANNOTATION`]: a permission
//! signed with the cluster's key, which those who may only send commands do not have. Clients add
//! it with [`permission`].
//!
//! Invariant: a file that cannot be used does not keep anything from running; this process
//! remembers by itself then.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use lattice_protocol::{
    events::event::Annotations,
    identity::claims::now,
    issuers::ANNOTATION,
    links::Claims,
    rpc::{
        antiforgery::{ForgeryError, Verifier},
        invocation::{Entity, Invocation},
    },
};

/// The operation of the invocation that a permission is signed as; nobody serves it.
const OPERATION: &str = "Host.AllowIssuerChange";
/// Where such an invocation would come from.
const ORIGIN: &str = "host-cli";
/// How long a permission counts, in seconds, to either side: clocks differ.
const PERMISSION_SECS: u64 = 600;
/// Keys that are remembered; beyond it those that were not used for longest are forgotten.
const PINS_MAX: usize = 16_384;
/// The largest file that is read: twice what so many keys take.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// How often the time of the last use is written, in seconds.
const USED_SECS: u64 = 24 * 3600;
/// How long to wait for another process that has the file, and how often to look.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The kind of a signed artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Actor,
    Provider,
}

impl Kind {
    fn setting(self) -> &'static str {
        match self {
            Self::Actor => "allowed_actor_issuers",
            Self::Provider => "allowed_provider_issuers",
        }
    }
}

/// Whether a command may change which account signs what it starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IssuerChange {
    #[default]
    Refused,
    Allowed,
}

/// Where an account is known from that signed something before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It ran on this machine.
    Here,
    /// It runs on another host.
    Elsewhere,
}

impl std::fmt::Display for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Here => "when it ran on this machine before",
            Self::Elsewhere => "where it runs on another host",
        })
    }
}

/// Why something may not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    #[error(
        "{key} is signed by account {issuer}, which is not among those this host lets sign ({setting}: {}); add it there, or \
         have it signed by one of them", .allowed.join(", ")
    )]
    NotAllowed { key: String, issuer: String, setting: &'static str, allowed: Vec<String> },
    #[error(
        "{key} is signed by account {issuer}, but was signed by account {before} {known}. Whoever signs it speaks for it, so this \
         is refused. If it is meant: --allow-issuer-change with `host start` or `host update`, `host claims forget {key}` on the \
         host's machine, or the accounts that may sign in the host's setting {setting}"
    )]
    Changed { key: String, issuer: String, before: String, known: Known, setting: &'static str },
    #[error(
        "{key} is the key of a provider that is part of the host; an archive cannot take its place"
    )]
    BuiltIn { key: String },
}

/// Why a permission does not count.
#[derive(Debug, thiserror::Error)]
pub enum PermissionError {
    #[error("the permission to change the account (annotation {ANNOTATION}) cannot be read")]
    Unreadable,
    #[error("the permission to change the account is of another time; do the clocks differ?")]
    Late,
    #[error("the permission to change the account is not signed by this lattice: {0}")]
    Forged(#[from] ForgeryError),
}

/// Decides which signed actors and providers a host runs. Cheap to clone.
#[derive(Clone)]
pub struct Issuers(Arc<Inner>);

struct Inner {
    actors: Vec<String>,
    providers: Vec<String>,
    pins: Pins,
    verifier: Verifier,
}

/// Something that is about to run, with the account that signed it.
#[derive(Clone, Debug)]
pub struct Signed<'a> {
    pub kind: Kind,
    pub key: &'a str,
    pub issuer: &'a str,
    /// The claims that the lattice has for the key, if it runs on another host.
    pub elsewhere: Option<&'a Claims>,
}

impl Issuers {
    /// Takes the accounts of the settings, and the file of a lattice below the directory for state.
    pub fn new(
        actors: Vec<String>,
        providers: Vec<String>,
        state: &Path,
        lattice: &str,
        verifier: Verifier,
    ) -> Self {
        Self(Arc::new(Inner { actors, providers, pins: Pins::new(state, lattice), verifier }))
    }

    /// Checks the account of something that is about to run, and remembers it. Reads and writes a
    /// small file: not for async tasks.
    pub fn admit(&self, signed: &Signed<'_>, change: IssuerChange) -> Result<(), IssuerError> {
        let allowed = match signed.kind {
            Kind::Actor => &self.0.actors,
            Kind::Provider => &self.0.providers,
        };
        self.0.pins.with(|pins| {
            judge(signed, allowed, pins.issuer(signed.key), change)?;
            Ok(pins.remember(signed.key, signed.issuer, now()))
        })
    }

    /// Takes the permission to change the account off the annotations of a command about
    /// `reference`.
    pub fn permission(
        &self,
        annotations: &mut Annotations,
        reference: &str,
    ) -> Result<IssuerChange, PermissionError> {
        let Some(permission) = annotations.remove(ANNOTATION) else {
            return Ok(IssuerChange::Refused);
        };
        verify(&self.0.verifier, &permission, reference, now())?;
        Ok(IssuerChange::Allowed)
    }
}

/// The decision, apart from the file.
fn judge(
    signed: &Signed<'_>,
    allowed: &[String],
    pinned: Option<&str>,
    change: IssuerChange,
) -> Result<(), IssuerError> {
    let Signed { kind, key, issuer, elsewhere } = signed;
    if !allowed.is_empty() {
        if allowed.iter().any(|account| account == issuer) {
            return Ok(());
        }
        return Err(IssuerError::NotAllowed {
            key: (*key).to_owned(),
            issuer: (*issuer).to_owned(),
            setting: kind.setting(),
            allowed: allowed.to_vec(),
        });
    }
    let told = elsewhere.map(|claims| claims.issuer.as_str()).filter(|issuer| !issuer.is_empty());
    let before = match (pinned, told) {
        (Some(pinned), _) => Some((pinned, Known::Here)),
        (None, Some(told)) => Some((told, Known::Elsewhere)),
        (None, None) => None,
    };
    match before {
        Some((before, known)) if before != *issuer && change == IssuerChange::Refused => {
            Err(IssuerError::Changed {
                key: (*key).to_owned(),
                issuer: (*issuer).to_owned(),
                before: before.to_owned(),
                known,
                setting: kind.setting(),
            })
        }
        _ => Ok(()),
    }
}

/// A permission as a call that is signed and never made.
#[derive(Clone, Debug)]
pub struct Permission {
    pub origin: Entity,
    pub target: Entity,
    pub operation: &'static str,
    pub payload: Vec<u8>,
    time: u64,
}

/// The permission to change the account of what `reference` holds, to be signed with the cluster's
/// key.
pub fn permission(reference: &str, time: u64) -> Permission {
    Permission {
        origin: Entity::new(ORIGIN, "", ""),
        target: Entity::new(ORIGIN, "", ""),
        operation: OPERATION,
        payload: format!("{time} {reference}").into_bytes(),
        time,
    }
}

impl Permission {
    /// The value of [`ANNOTATION`], given the token that was signed for the call with this id.
    pub fn annotation(&self, id: &str, token: &str) -> String {
        STANDARD.encode(format!("{} {id} {token}", self.time))
    }
}

fn verify(
    verifier: &Verifier,
    annotation: &str,
    reference: &str,
    now: u64,
) -> Result<(), PermissionError> {
    let text = STANDARD.decode(annotation).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or(PermissionError::Unreadable)?;
    let mut parts = text.split(' ');
    let (Some(time), Some(id), Some(token), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(PermissionError::Unreadable);
    };
    let time: u64 = time.parse().map_err(|_| PermissionError::Unreadable)?;
    if time.abs_diff(now) > PERMISSION_SECS {
        return Err(PermissionError::Late);
    }
    let Permission { origin, target, operation, payload, .. } = permission(reference, time);
    // The host's id is not signed; any that looks like one passes.
    let mut invocation = Invocation::new(origin, target, operation, Bytes::new(), id, "N");
    invocation.encoded_claims = token.to_owned();
    verifier.verify_claims(&invocation, now)?.verify_hash(&payload)?;
    Ok(())
}

/// The accounts that signed what ran here.
struct Pins {
    path: PathBuf,
    /// Stands in for the file while the file cannot be used.
    // Held for a few lines, never across an await.
    memory: Mutex<Pinned>,
}

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Pinned {
    /// By public key.
    keys: BTreeMap<String, Pin>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Pin {
    /// The account.
    issuer: String,
    /// About when it was started last, in seconds since 1970.
    used: u64,
}

/// Whether the file has to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Changed,
    AsItWas,
}

impl Pinned {
    fn issuer(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(|pin| pin.issuer.as_str())
    }

    fn remember(&mut self, key: &str, issuer: &str, now: u64) -> Written {
        if let Some(pin) = self.keys.get(key)
            && pin.issuer == issuer
            && now.saturating_sub(pin.used) < USED_SECS
        {
            return Written::AsItWas;
        }
        if self.keys.len() >= PINS_MAX && !self.keys.contains_key(key) {
            let oldest =
                self.keys.iter().min_by_key(|(_, pin)| pin.used).map(|(key, _)| key.clone());
            oldest.map(|oldest| self.keys.remove(&oldest));
        }
        self.keys.insert(key.to_owned(), Pin { issuer: issuer.to_owned(), used: now });
        Written::Changed
    }
}

impl Pins {
    fn new(state: &Path, lattice: &str) -> Self {
        Self { path: file(state, lattice), memory: Mutex::default() }
    }

    /// Reads, decides, and writes what changed, while no other process does.
    fn with<E>(&self, decide: impl FnOnce(&mut Pinned) -> Result<Written, E>) -> Result<(), E> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let _turn = match take_turn(&self.path) {
            Ok(turn) => Some(turn),
            Err(error) => {
                warn!(path = %self.path.display(), %error, "the accounts that signed what ran here are not at hand; only those \
                    of this run of the host are known");
                None
            }
        };
        match read(&self.path) {
            Ok(Some(pinned)) => *memory = pinned,
            // Another process may have forgotten the last one; what was never written stays.
            Ok(None) => {}
            Err(error) => {
                error!(path = %self.path.display(), %error, "the accounts that signed what ran here cannot be \
                read; only those of this run of the host are known. Remove the file if it is damaged")
            }
        }
        if decide(&mut memory)? == Written::Changed
            && let Err(error) = write(&self.path, &memory)
        {
            warn!(path = %self.path.display(), %error, "the accounts that signed what ran here are not written; they are \
                known until the host stops");
        }
        Ok(())
    }
}

/// Where the accounts of a lattice are remembered.
fn file(state: &Path, lattice: &str) -> PathBuf {
    state.join("issuers").join(format!("{lattice}.json"))
}

/// Forgets which account signed a key on this machine; returns the account, if it was known.
pub fn forget(state: &Path, lattice: &str, key: &str) -> io::Result<Option<String>> {
    let path = file(state, lattice);
    if !path.exists() {
        return Ok(None);
    }
    let _turn = take_turn(&path)?;
    let Some(mut pinned) = read(&path)? else { return Ok(None) };
    let Some(pin) = pinned.keys.remove(key) else { return Ok(None) };
    write(&path, &pinned)?;
    Ok(Some(pin.issuer))
}

/// Waits for the right to change the file, for as long as what is returned lives.
fn take_turn(path: &Path) -> io::Result<File> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let turn = options.open(path.with_extension("lock"))?;
    let mut tries = 0;
    while let Err(error) = turn.try_lock() {
        if tries == LOCK_TRIES {
            return Err(error.into());
        }
        tries += 1;
        std::thread::sleep(LOCK_PAUSE);
    }
    Ok(turn)
}

fn read(path: &Path) -> io::Result<Option<Pinned>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Replaces the file as a whole; a temporary file is readable by its owner only.
fn write(path: &Path, pinned: &Pinned) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    serde_json::to_writer(&mut new, pinned)?;
    new.as_file().sync_all()?;
    new.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::{identity::keys::ClusterKey, rpc::antiforgery::Signer};

    const ACTOR: &str = "MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ";

    fn cluster() -> (Signer, Verifier) {
        let signer = Signer::new(&nkeys::KeyPair::new_cluster().seed().unwrap()).unwrap();
        let verifier = Verifier::new(vec![ClusterKey::parse(signer.issuer().as_str()).unwrap()]);
        (signer, verifier)
    }

    fn issuers(state: &Path, allowed: &[&str]) -> Issuers {
        let allowed = allowed.iter().map(|account| (*account).to_owned()).collect();
        Issuers::new(allowed, Vec::new(), state, "default", cluster().1)
    }

    fn signed<'a>(issuer: &'a str, elsewhere: Option<&'a Claims>) -> Signed<'a> {
        Signed { kind: Kind::Actor, key: ACTOR, issuer, elsewhere }
    }

    #[test]
    fn an_account_is_judged_by_settings_then_by_first_use_then_by_where_it_runs() {
        let told = Claims { issuer: "AELSEWHERE".into(), ..Claims::default() };
        let nothing = Claims::default();
        for (allowed, pinned, elsewhere, issuer, change, passes) in [
            (&[][..], None, None, "AONE", IssuerChange::Refused, true),
            (&[], Some("AONE"), None, "AONE", IssuerChange::Refused, true),
            (&[], Some("AONE"), None, "ATWO", IssuerChange::Refused, false),
            (&[], Some("AONE"), None, "ATWO", IssuerChange::Allowed, true),
            (&[], None, Some(&told), "AONE", IssuerChange::Refused, false),
            (&[], None, Some(&told), "AELSEWHERE", IssuerChange::Refused, true),
            (&[], None, Some(&told), "AONE", IssuerChange::Allowed, true),
            (&[], None, Some(&nothing), "AONE", IssuerChange::Refused, true),
            // The account that ran here counts more than metadata, which anybody may write.
            (&[], Some("AONE"), Some(&told), "AONE", IssuerChange::Refused, true),
            (&["AONE", "ATWO"], Some("AONE"), None, "ATWO", IssuerChange::Refused, true),
            (&["AONE"], Some("ATWO"), None, "ATWO", IssuerChange::Refused, false),
            (&["AONE"], None, None, "ATWO", IssuerChange::Allowed, false),
        ] {
            let allowed: Vec<String> =
                allowed.iter().map(|account| (*account).to_owned()).collect();
            let verdict = judge(&signed(issuer, elsewhere), &allowed, pinned, change);
            assert_eq!(
                verdict.is_ok(),
                passes,
                "{allowed:?} {pinned:?} {elsewhere:?} {issuer} {change:?}"
            );
        }
    }

    #[test]
    fn the_account_of_the_first_use_is_remembered_across_restarts_and_hosts() {
        let dir = tempfile::tempdir().unwrap();
        issuers(dir.path(), &[]).admit(&signed("AONE", None), IssuerChange::Refused).unwrap();
        let other = issuers(dir.path(), &[]);
        let refused =
            other.admit(&signed("ATWO", None), IssuerChange::Refused).unwrap_err().to_string();
        for part in [
            ACTOR,
            "AONE",
            "ATWO",
            "--allow-issuer-change",
            "allowed_actor_issuers",
            "host claims forget",
        ] {
            assert!(refused.contains(part), "{refused}");
        }
        other.admit(&signed("ATWO", None), IssuerChange::Allowed).unwrap();
        assert!(
            other.admit(&signed("AONE", None), IssuerChange::Refused).is_err(),
            "it is the new one from now on"
        );
        assert_eq!(forget(dir.path(), "default", ACTOR).unwrap().as_deref(), Some("ATWO"));
        assert_eq!(forget(dir.path(), "default", ACTOR).unwrap(), None);
        other.admit(&signed("ATHREE", None), IssuerChange::Refused).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(file(dir.path(), "default")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_file_that_cannot_be_used_leaves_what_this_run_has_seen() {
        let dir = tempfile::tempdir().unwrap();
        // A file where the directory should be.
        fs::write(dir.path().join("issuers"), "").unwrap();
        let issuers = issuers(dir.path(), &[]);
        issuers.admit(&signed("AONE", None), IssuerChange::Refused).unwrap();
        assert!(issuers.admit(&signed("ATWO", None), IssuerChange::Refused).is_err());
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_what_was_not_used_for_longest() {
        let mut pinned = Pinned::default();
        for number in 0..PINS_MAX as u64 + 10 {
            pinned.remember(&format!("M{number}"), "A", number);
        }
        assert_eq!(pinned.keys.len(), PINS_MAX);
        assert!(pinned.issuer("M9").is_none() && pinned.issuer("M10").is_some());
        assert_eq!(pinned.remember("M10", "A", 11), Written::AsItWas);
        assert!(serde_json::to_vec(&pinned).unwrap().len() as u64 * 4 < FILE_BYTES_MAX);
    }

    #[test]
    fn a_permission_counts_for_one_reference_for_a_while_and_only_signed_by_the_cluster() {
        let ((signer, verifier), (stranger, _)) = (cluster(), cluster());
        let sign = |signer: &Signer, reference: &str| {
            let wanted = permission(reference, 1000);
            let token = signer.sign(
                &wanted.origin,
                &wanted.target,
                wanted.operation,
                &wanted.payload,
                "id",
                1000,
            );
            wanted.annotation("id", &token)
        };
        let good = sign(&signer, "r.example/echo:2");
        assert!(verify(&verifier, &good, "r.example/echo:2", 1100).is_ok());
        assert!(matches!(
            verify(&verifier, &good, "r.example/other:2", 1100),
            Err(PermissionError::Forged(_))
        ));
        assert!(matches!(
            verify(&verifier, &good, "r.example/echo:2", 9000),
            Err(PermissionError::Late)
        ));
        let forged = sign(&stranger, "r.example/echo:2");
        assert!(matches!(
            verify(&verifier, &forged, "r.example/echo:2", 1100),
            Err(PermissionError::Forged(_))
        ));
        for nonsense in ["", "true", "x y", "MTAwMCBpZA=="] {
            assert!(verify(&verifier, nonsense, "r.example/echo:2", 1000).is_err(), "{nonsense}");
        }
    }
}
