//! Ed25519; nothing else in the crate knows which libraries do it.
//!
//! aws-lc signs: it is here anyway, as the TLS backend, and the fastest (10 µs; `ed25519-dalek`
//! takes 20). It verifies in 41 µs, as the curve library does (40), but has no way to prepare for
//! a key. A lattice has few keys that sign calls, so a key that found [`TABLE_AFTER`] signatures to
//! be right gets a table of its multiples, and then takes 17 µs. Wrong ones do not count, since
//! anybody can make them up. The keys of hosts, of which there are many, get no table
//! ([`VerifyingKey::without_table`]).
//!
//! Measured and left: a batch that arrives together and is verified by one equation takes 21 µs per
//! signature for 4, 13.5 for 16, 12.3 for 64; it would have to wait for others, and accepts more
//! than single verification does. The tables of the curve library, made for secrets, take 29 µs.
//!
//! All libraries agree on the signatures that signers make. Of those that nobody makes by accident
//! this module accepts what all accept, the checks of `ed25519-dalek`'s `verify_strict`: `s` below
//! the group's order; `R` equal to what is computed, byte by byte and not only up to a point of
//! small order; neither the key nor `R` of small order; and the key encoded in the one way that
//! RFC 8032 allows.

use std::{
    fmt,
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use aws_lc_rs::{
    digest::{Context, SHA512},
    signature::Ed25519KeyPair,
};
use curve25519_dalek::{
    constants::EIGHT_TORSION,
    edwards::{CompressedEdwardsY, EdwardsPoint},
    scalar::Scalar,
};

use super::{
    comb::{self, Comb},
    keys::{KeyError, Kind, decode_public, decode_seed, public_of_seed},
};

/// The length of a signature in bytes.
pub const SIGNATURE_BYTES: usize = 64;

/// Right signatures after which a key gets a table. The table costs as much as it saves in twenty.
const TABLE_AFTER: u32 = 64;

/// A public key that checks signatures. Cheap to clone; clones share what speeds them up.
#[derive(Clone)]
pub struct VerifyingKey(Arc<Prepared>);

struct Prepared {
    bytes: [u8; 32],
    /// The negative of the key's point; nothing if the bytes are no key.
    negative: Option<EdwardsPoint>,
    /// The signatures so far that were right; beyond [`TABLE_AFTER`] nobody counts any more.
    verified: AtomicU32,
    table: OnceLock<Comb>,
}

impl VerifyingKey {
    /// Takes the 32 raw bytes. Bytes that are no point of the curve, or one of small order, verify
    /// nothing.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let point = CompressedEdwardsY(bytes).decompress();
        let point = point.filter(|point| point.compress().0 == bytes && !point.is_small_order());
        Self(Arc::new(Prepared {
            bytes,
            negative: point.map(|point| -point),
            verified: AtomicU32::new(0),
            table: OnceLock::new(),
        }))
    }

    /// Reads the text of a public key of the expected kind.
    pub fn parse(text: &str, expected: Kind) -> Result<Self, KeyError> {
        match decode_public(text)? {
            (found, bytes) if found == expected => Ok(Self::from_bytes(bytes)),
            (found, _) => Err(KeyError::Kind { expected, found }),
        }
    }

    /// Lets the key, which is new, never have a table: for keys of which there are many.
    pub fn without_table(self) -> Self {
        self.0.verified.store(TABLE_AFTER + 1, Ordering::Relaxed);
        self
    }

    /// Says whether the signature is this key's over the message. One of the wrong length is not.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0.verify(message, signature).unwrap_or(false)
    }
}

impl Prepared {
    /// The same; nothing stands for a key or a signature that is none.
    fn verify(&self, message: &[u8], signature: &[u8]) -> Option<bool> {
        let signature: &[u8; SIGNATURE_BYTES] = signature.try_into().ok()?;
        let (r, s) = signature.split_first_chunk::<32>()?;
        let s = Option::from(Scalar::from_canonical_bytes(s.try_into().ok()?))?;
        let k = challenge(r, &self.bytes, message);
        let computed = self.multiply(&k, &s)?.compress();
        let is_right = computed.0 == *r && !is_small_order(r);
        if is_right {
            self.prepare();
        }
        Some(is_right)
    }

    /// Counts a right signature, and makes the table when there were enough of them.
    fn prepare(&self) {
        let Some(negative) = &self.negative else { return };
        if self.verified.load(Ordering::Relaxed) > TABLE_AFTER {
            return;
        }
        // Exactly one thread makes the table; the others do not wait for it.
        if self.verified.fetch_add(1, Ordering::Relaxed) == TABLE_AFTER {
            self.table.get_or_init(|| Comb::new(negative));
        }
    }

    /// Returns `s` times the generator less `k` times the key.
    fn multiply(&self, k: &Scalar, s: &Scalar) -> Option<EdwardsPoint> {
        let negative = self.negative.as_ref()?;
        if let Some(table) = self.table.get() {
            return Some(comb::sum([(Comb::of_generator(), s), (table, k)]));
        }
        Some(EdwardsPoint::vartime_double_scalar_mul_basepoint(k, negative, s))
    }
}

/// Returns the number that ties a signature to its key and message.
fn challenge(r: &[u8; 32], key: &[u8; 32], message: &[u8]) -> Scalar {
    let mut hash = Context::new(&SHA512);
    for part in [r.as_slice(), key, message] {
        hash.update(part);
    }
    let mut wide = [0; 64];
    wide.copy_from_slice(hash.finish().as_ref());
    Scalar::from_bytes_mod_order_wide(&wide)
}

/// Says whether a canonical encoding is that of one of the eight points of small order.
fn is_small_order(encoded: &[u8; 32]) -> bool {
    static ENCODED: LazyLock<[[u8; 32]; 8]> =
        LazyLock::new(|| EIGHT_TORSION.map(|point| point.compress().0));
    ENCODED.contains(encoded)
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifyingKey")
    }
}

/// A secret key that signs. `Debug` shows the public key only.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    kind: Kind,
    public: String,
}

impl SigningKey {
    /// Reads a seed's text (`S…`) of any kind.
    pub fn from_seed(seed: &str) -> Result<Self, KeyError> {
        let (kind, seed) = decode_seed(seed)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Refused)?;
        Ok(Self { pair, kind, public: public_of_seed(kind, &seed) })
    }

    /// Makes a new key; the text is its seed, a secret.
    pub fn generate(kind: Kind) -> Result<(Self, String), KeyError> {
        let pair = nkeys::KeyPair::new(kind.pair_type());
        let seed = pair.seed().map_err(|_| KeyError::Refused)?;
        Ok((Self::from_seed(&seed)?, seed))
    }

    /// Refuses a key of another kind than the expected one.
    pub fn require(&self, expected: Kind) -> Result<(), KeyError> {
        match self.kind {
            found if found == expected => Ok(()),
            found => Err(KeyError::SeedKind { expected, found }),
        }
    }

    /// Returns what the key belongs to.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the text of the public key.
    pub fn public_key(&self) -> &str {
        &self.public
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        signature
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, seed hidden)", self.public)
    }
}

#[cfg(test)]
mod strictness;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::samples::{ACTOR, CLUSTER};

    #[test]
    fn the_seed_leads_to_the_known_public_key() {
        let key = SigningKey::from_seed(CLUSTER.seed).unwrap();
        assert_eq!(key.public_key(), CLUSTER.public);
        assert_eq!(key.kind(), Kind::Cluster);
        let shown = format!("{key:?}");
        assert!(shown.contains(CLUSTER.public) && !shown.contains("SCAAC"));
    }

    #[test]
    fn other_libraries_agree_on_signatures() {
        let ours = SigningKey::from_seed(CLUSTER.seed).unwrap();
        let theirs = nkeys::KeyPair::from_seed(CLUSTER.seed).unwrap();
        let signature = ours.sign(b"message");
        assert_eq!(&signature[..], theirs.sign(b"message").unwrap());
        assert!(theirs.verify(b"message", &signature).is_ok());
    }

    #[test]
    fn only_the_right_signature_passes() {
        let key = SigningKey::from_seed(CLUSTER.seed).unwrap();
        let verifying = VerifyingKey::parse(CLUSTER.public, Kind::Cluster).unwrap();
        let signature = key.sign(b"message");
        assert!(verifying.verify(b"message", &signature));
        assert!(!verifying.verify(b"massage", &signature));
        assert!(!verifying.verify(b"message", &signature[..63]));
        assert!(!verifying.verify(b"message", &[]));
        assert!(!verifying.verify(b"message", &[signature.as_slice(), &[0]].concat()));

        let other = VerifyingKey::parse(ACTOR.public, Kind::Module).unwrap();
        assert!(!other.verify(b"message", &signature));
        assert!(!VerifyingKey::from_bytes([0xFF; 32]).verify(b"message", &signature));
        assert!(matches!(
            VerifyingKey::parse(ACTOR.public, Kind::Cluster),
            Err(KeyError::Kind { .. })
        ));
    }

    #[test]
    fn a_generated_key_comes_back_from_its_seed() {
        let (key, seed) = SigningKey::generate(Kind::Server).unwrap();
        let again = SigningKey::from_seed(&seed).unwrap();
        assert_eq!(key.public_key(), again.public_key());
        assert!(key.public_key().starts_with('N'));
    }

    #[test]
    fn a_key_gets_its_table_after_a_while_and_clones_share_it() {
        let key = SigningKey::from_seed(CLUSTER.seed).unwrap();
        let verifying = VerifyingKey::parse(CLUSTER.public, Kind::Cluster).unwrap();
        let clone = verifying.clone();
        for count in 0..2 * TABLE_AFTER {
            let message = count.to_le_bytes();
            assert_eq!(clone.0.table.get().is_some(), count > TABLE_AFTER);
            assert!(verifying.verify(&message, &key.sign(&message)));
            assert!(!verifying.verify(b"other", &key.sign(&message)));
        }
    }

    #[test]
    fn wrong_signatures_and_keys_of_which_there_are_many_lead_to_no_table() {
        let key = SigningKey::from_seed(CLUSTER.seed).unwrap();
        let verifying = VerifyingKey::parse(CLUSTER.public, Kind::Cluster).unwrap();
        let without = VerifyingKey::parse(CLUSTER.public, Kind::Cluster).unwrap().without_table();
        let signature = key.sign(b"message");
        for _ in 0..2 * TABLE_AFTER {
            assert!(!verifying.verify(b"other", &signature));
            assert!(without.verify(b"message", &signature));
        }
        assert!(verifying.0.table.get().is_none() && without.0.table.get().is_none());
    }
}
