//! Checks of nkey seeds and public keys found in settings, and the identities made from them.
//!
//! The messages name the kind of key that was found, because the usual mistake is the right text in
//! the wrong variable; they never repeat a seed.

use nkeys::{KeyPair, KeyPairType};

use super::origin::Problem;
use super::secret::Secret;

/// The key of this host: what it is called on the lattice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    pub seed: Secret,
    /// `N…`
    pub public: String,
    pub origin: KeyOrigin,
}

/// Where the key of a host comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrigin {
    /// The settings have a `host_seed`.
    Given,
    /// The directory keeps it, see [`identity`](crate::identity).
    Directory,
    /// It was made up, and ends with the process.
    ThisStart,
}

/// The key that signs calls, and the keys whose calls are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub seed: Secret,
    /// `C…`
    pub public: String,
    /// Whether the seed was made up just now because none was configured; the user has to be told.
    pub ad_hoc: bool,
    /// Whether the file of this directory has the seed: it is written before the host starts.
    pub is_kept: bool,
    /// Accepted issuers; our own key is always among them.
    pub issuers: Vec<String>,
}

impl HostKey {
    /// Takes the configured seed (already checked) or makes up a key for this start.
    pub(crate) fn new(seed: Option<&Secret>) -> Self {
        let pair = pair_or_new(seed, KeyPairType::Server);
        let origin = if seed.is_some() { KeyOrigin::Given } else { KeyOrigin::ThisStart };
        HostKey { seed: seed_of(&pair), public: pair.public_key(), origin }
    }

    /// Takes the seed that the directory keeps.
    pub(crate) fn of_directory(seed: &str) -> Result<Self, Problem> {
        check_seed(seed, &KeyPairType::Server)?;
        let key = HostKey::new(Some(&Secret::new(seed)));
        Ok(HostKey { origin: KeyOrigin::Directory, ..key })
    }

    /// Whether the host has the same key when it is started again.
    pub fn is_lasting(&self) -> bool {
        self.origin != KeyOrigin::ThisStart
    }
}

impl Cluster {
    /// Takes the configured seed (already checked) or makes one up. Configured issuers stay in both
    /// cases: one earlier host dropped them when it made up a seed, and hosts that trusted each
    /// other went silent.
    pub(super) fn new(seed: Option<&Secret>, mut issuers: Vec<String>) -> Self {
        let pair = pair_or_new(seed, KeyPairType::Cluster);
        let public = pair.public_key();
        if !issuers.contains(&public) {
            issuers.insert(0, public.clone());
        }
        let (ad_hoc, seed) = (seed.is_none(), seed_of(&pair));
        Cluster { seed, public, ad_hoc, is_kept: false, issuers }
    }
}

/// A seed that does not parse here was reported as a mistake before; the made-up pair is then never
/// used.
fn pair_or_new(seed: Option<&Secret>, kind: KeyPairType) -> KeyPair {
    seed.and_then(|seed| KeyPair::from_seed(seed.expose()).ok())
        .unwrap_or_else(|| KeyPair::new(kind))
}

fn seed_of(pair: &KeyPair) -> Secret {
    Secret::new(pair.seed().expect("the pair was made from a seed or from random bytes"))
}

/// Checks that the text is a seed of the wanted kind.
pub(super) fn check_seed(text: &str, wanted: &KeyPairType) -> Result<(), Problem> {
    match KeyPair::from_seed(text) {
        Ok(pair) if pair.key_pair_type() == *wanted => Ok(()),
        Ok(pair) => Err(Problem::WrongSeedKind {
            wanted: article(wanted),
            found: article(&pair.key_pair_type()),
        }),
        Err(_) if nkeys::from_public_key(text).is_ok() => Err(Problem::PublicKeyInsteadOfSeed),
        Err(_) => Err(Problem::NotASeed),
    }
}

/// Checks that the text is a public cluster key.
pub(super) fn check_cluster_key(text: &str) -> Result<(), Problem> {
    check_public_key(text, &KeyPairType::Cluster)
}

/// Checks that the text is a public account key.
pub(super) fn check_account_key(text: &str) -> Result<(), Problem> {
    check_public_key(text, &KeyPairType::Account)
}

fn check_public_key(text: &str, wanted: &KeyPairType) -> Result<(), Problem> {
    match KeyPair::from_public_key(text) {
        Ok(pair) if pair.key_pair_type() == *wanted => Ok(()),
        Ok(pair) => Err(Problem::WrongPublicKeyKind {
            key: text.to_owned(),
            wanted: article(wanted),
            found: article(&pair.key_pair_type()),
        }),
        // A seed in the list of issuers would be printed by the message below; a mistyped one too,
        // so the length and the first letter decide.
        Err(_) if text.starts_with('S') && text.len() > 50 => Err(Problem::SeedInsteadOfPublicKey),
        Err(_) => Err(Problem::NotAPublicKey(text.to_owned())),
    }
}

/// Returns "a server (N)", "an account (A)" and so on.
fn article(kind: &KeyPairType) -> &'static str {
    match kind {
        KeyPairType::Server => "a server (N)",
        KeyPairType::Cluster => "a cluster (C)",
        KeyPairType::Operator => "an operator (O)",
        KeyPairType::Account => "an account (A)",
        KeyPairType::User => "a user (U)",
        KeyPairType::Module => "a module (M)",
        KeyPairType::Service => "a service (V)",
        KeyPairType::Curve => "a curve (X)",
    }
}

/// Returns how seeds of this kind begin, for "accepted: …".
pub(super) fn seed_prefix(kind: &KeyPairType) -> &'static str {
    match kind {
        KeyPairType::Server => "SN",
        KeyPairType::Cluster => "SC",
        KeyPairType::Operator => "SO",
        KeyPairType::Account => "SA",
        KeyPairType::User => "SU",
        KeyPairType::Module => "SM",
        KeyPairType::Service => "SV",
        KeyPairType::Curve => "SX",
    }
}
