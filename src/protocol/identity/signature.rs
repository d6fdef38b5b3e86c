//! Ed25519; nothing else in the crate knows which library does it.
//!
//! aws-lc is here anyway, as the TLS backend. Measured in release mode for a 600-byte message:
//! sign 10.4 µs and verify 37.2 µs, against 24.9 and 45.9 with `ring` 0.17, 19.6 and 31.6 (36 when
//! the key must be unpacked) with `ed25519-dalek` 2. A remote call costs one of each, so aws-lc is
//! the fastest of those that do both.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};

use super::keys::{KeyError, Kind, decode_public, decode_seed, public_of_seed};

/// The length of a signature in bytes.
pub const SIGNATURE_BYTES: usize = 64;

/// A public key that checks signatures. Cheap to clone.
#[derive(Clone)]
pub struct VerifyingKey(UnparsedPublicKey<[u8; 32]>);

impl VerifyingKey {
    /// Takes the 32 raw bytes. Bytes that are no point of the curve verify nothing.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(UnparsedPublicKey::new(&ED25519, bytes))
    }

    /// Reads the text of a public key of the expected kind.
    pub fn parse(text: &str, expected: Kind) -> Result<Self, KeyError> {
        match decode_public(text)? {
            (found, bytes) if found == expected => Ok(Self::from_bytes(bytes)),
            (found, _) => Err(KeyError::Kind { expected, found }),
        }
    }

    /// Says whether the signature is this key's over the message. One of the wrong length is not.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        signature.len() == SIGNATURE_BYTES && self.0.verify(message, signature).is_ok()
    }
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
}
