//! Ids and names as types, and the text form of keys.
//!
//! A key's text ("nkey") is base32 without padding over `prefix ‖ 32 bytes ‖ CRC-16`, 56 characters
//! for a public key and 58 for a seed; the first letter tells what the key belongs to. The crate
//! `nkeys` reads and writes it. It checks the CRC (since 0.4), so a mistyped key is found where it
//! is read and not as a bad signature later.
//!
//! Every type below is a shared string: parsed once at the edge, cheap to clone, compared as text.
//! Errors say what is wrong but never repeat the text, because the most likely wrong text is a
//! seed.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use nkeys::{
    KeyPairType,
    error::{Error, ErrorKind},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const PUBLIC_CHARS: usize = 56;
const SEED_CHARS: usize = 58;

/// The kind of a key; shown by the first letter of its public text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `A`, signs actors and providers
    Account,
    /// `C`, signs invocations
    Cluster,
    /// `M`, an actor
    Module,
    /// `N`, a host
    Server,
    /// `O`, signs accounts
    Operator,
    /// `U`, a NATS user
    User,
    /// `V`, a capability provider
    Service,
    /// `X`, encryption keys
    Curve,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Account,
        Self::Cluster,
        Self::Module,
        Self::Server,
        Self::Operator,
        Self::User,
        Self::Service,
        Self::Curve,
    ];

    const fn prefix(self) -> u8 {
        match self {
            Self::Account => 0x00,
            Self::Cluster => 0x10,
            Self::Module => 0x60,
            Self::Server => 0x68,
            Self::Operator => 0x70,
            Self::User => 0xA0,
            Self::Service => 0xA8,
            Self::Curve => 0xB8,
        }
    }

    fn from_prefix(prefix: u8) -> Result<Self, KeyError> {
        Self::ALL.into_iter().find(|kind| kind.prefix() == prefix).ok_or(KeyError::UnknownKind)
    }

    /// Returns what `nkeys` calls this kind.
    pub(super) fn pair_type(self) -> KeyPairType {
        KeyPairType::from(self.prefix())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Account => "an account (A…)",
            Self::Cluster => "a cluster (C…)",
            Self::Module => "an actor (M…)",
            Self::Server => "a host (N…)",
            Self::Operator => "an operator (O…)",
            Self::User => "a user (U…)",
            Self::Service => "a capability provider (V…)",
            Self::Curve => "an encryption key (X…)",
        })
    }
}

/// Why a text is not the key or name it should be. Never contains the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("a public key has 56 characters, found {0}")]
    PublicLength(usize),
    #[error("a seed has 58 characters, found {0}")]
    SeedLength(usize),
    #[error("a key consists of the letters A to Z and the digits 2 to 7 only")]
    Alphabet,
    #[error("the key's checksum is wrong, a character was mistyped or lost")]
    Checksum,
    #[error("the key's first letter belongs to no known kind of key")]
    UnknownKind,
    #[error("expected the public key of {expected}, found that of {found}")]
    Kind { expected: Kind, found: Kind },
    #[error("expected the seed of {expected}, found that of {found}")]
    SeedKind { expected: Kind, found: Kind },
    #[error("expected a public key, found a seed, which is a secret")]
    SeedAsPublic,
    #[error("expected a seed (S…), found a public key")]
    PublicAsSeed,
    #[error("the signature library refuses the key")]
    Refused,
    #[error("a {0} must not be empty")]
    Empty(&'static str),
    #[error("a {what} must not contain {found:?}")]
    Character { what: &'static str, found: char },
}

/// Decodes a public key's text.
pub fn decode_public(text: &str) -> Result<(Kind, [u8; 32]), KeyError> {
    if text.len() == SEED_CHARS && text.starts_with('S') {
        return Err(KeyError::SeedAsPublic);
    }
    let (prefix, key) = nkeys::from_public_key(text).map_err(|error| {
        refusal(&error, KeyError::PublicLength(text.len()), KeyError::UnknownKind)
    })?;
    Ok((Kind::from_prefix(prefix)?, key))
}

/// Decodes a seed's text. The result is a secret.
pub fn decode_seed(text: &str) -> Result<(Kind, [u8; 32]), KeyError> {
    if text.len() == PUBLIC_CHARS && !text.starts_with('S') {
        return Err(KeyError::PublicAsSeed);
    }
    let (prefix, seed) = nkeys::decode_seed(text).map_err(|error| {
        refusal(&error, KeyError::SeedLength(text.len()), KeyError::PublicAsSeed)
    })?;
    Ok((Kind::from_prefix(prefix)?, seed))
}

/// Writes the public key that belongs to a seed's 32 bytes.
pub fn public_of_seed(kind: Kind, seed: &[u8; 32]) -> String {
    nkeys::KeyPair::new_from_raw(kind.pair_type(), *seed)
        .expect("any 32 bytes are a secret key")
        .public_key()
}

/// Translates what `nkeys` found, which repeats parts of the text. The length and the prefix are
/// told apart by what was expected.
fn refusal(error: &Error, length: KeyError, prefix: KeyError) -> KeyError {
    match error.kind() {
        ErrorKind::InvalidKeyLength => length,
        ErrorKind::InvalidPrefix => prefix,
        ErrorKind::CodecFailure => KeyError::Alphabet,
        ErrorKind::ChecksumFailure => KeyError::Checksum,
        _ => KeyError::Refused,
    }
}

/// Checks a public key's text: kind, length, alphabet and checksum.
fn check_key(text: &str, expected: Kind) -> Result<(), KeyError> {
    match decode_public(text)?.0 {
        found if found == expected => Ok(()),
        found => Err(KeyError::Kind { expected, found }),
    }
}

fn check_characters(
    text: &str,
    what: &'static str,
    allowed: impl Fn(char) -> bool,
) -> Result<(), KeyError> {
    if text.is_empty() {
        return Err(KeyError::Empty(what));
    }
    match text.chars().find(|c| !allowed(*c)) {
        Some(found) => Err(KeyError::Character { what, found }),
        None => Ok(()),
    }
}

/// Defines a shared string that was checked once.
macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the text and takes a copy of it.
            pub fn parse(text: &str) -> Result<Self, KeyError> {
                let check: fn(&str) -> Result<(), KeyError> = $check;
                check(text)?;
                Ok(Self(text.into()))
            }

            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the shared text, to be cloned without a copy.
            pub fn as_arc(&self) -> &Arc<str> {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                Self::parse(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl From<$name> for Arc<str> {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                &*self.0 == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                &*self.0 == *other
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(de::Error::custom)
            }
        }
    };
}

text_type!(
    /// The public key of a host, `N…`.
    HostId,
    |text| check_key(text, Kind::Server)
);
text_type!(
    /// The public key of an actor, `M…`.
    ActorId,
    |text| check_key(text, Kind::Module)
);
text_type!(
    /// The public key of a capability provider, `V…`.
    ProviderId,
    |text| check_key(text, Kind::Service)
);
text_type!(
    /// The public key that invocations are signed with, `C…`.
    ClusterKey,
    |text| check_key(text, Kind::Cluster)
);
text_type!(
    /// The name of a link. It is one token of a NATS subject: a wildcard, a space or a dot in it
    /// would reach other subjects (`default.shutdown`!), so they are refused.
    LinkName,
    |text| check_characters(text, "link name", |c| {
        !matches!(c, '.' | '*' | '>') && !c.is_whitespace() && !c.is_control()
    })
);
text_type!(
    /// The id of a capability contract, for example `wasmcloud:keyvalue`. Any text, but not empty.
    ContractId,
    |text| check_characters(text, "contract id", |_| true)
);
text_type!(
    /// The name of a lattice, one token of every subject and a part of bucket names.
    LatticeName,
    |text| check_characters(text, "lattice name", |c| {
        c.is_ascii_alphanumeric() || matches!(c, '_' | '-')
    })
);

impl LinkName {
    /// The link name meant when nobody names one.
    pub const DEFAULT: &'static str = "default";
}

impl Default for LinkName {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::samples::{ACCOUNT, ACTOR, CLUSTER, HOST, PROVIDER};

    #[test]
    fn known_keys_decode_and_encode() {
        for known in [CLUSTER, HOST, ACTOR, PROVIDER, ACCOUNT] {
            assert_eq!(decode_seed(known.seed), Ok((known.kind, [known.byte; 32])));
            assert_eq!(public_of_seed(known.kind, &[known.byte; 32]), known.public);
            assert_eq!(decode_public(known.public).unwrap().0, known.kind);
        }
    }

    #[test]
    fn any_single_wrong_character_is_noticed() {
        for position in 0..PUBLIC_CHARS {
            let mut text = ACTOR.public.to_owned().into_bytes();
            text[position] = if text[position] == b'A' { b'B' } else { b'A' };
            assert!(decode_public(std::str::from_utf8(&text).unwrap()).is_err());
        }
        for position in 0..SEED_CHARS {
            let mut text = ACTOR.seed.to_owned().into_bytes();
            text[position] = if text[position] == b'B' { b'C' } else { b'B' };
            assert!(decode_seed(std::str::from_utf8(&text).unwrap()).is_err());
        }
    }

    #[test]
    fn a_wrong_kind_is_named_and_a_seed_is_not_repeated() {
        assert_eq!(
            HostId::parse(ACTOR.public),
            Err(KeyError::Kind { expected: Kind::Server, found: Kind::Module })
        );
        assert_eq!(ClusterKey::parse(CLUSTER.seed), Err(KeyError::SeedAsPublic));
        assert_eq!(decode_seed(CLUSTER.public), Err(KeyError::PublicAsSeed));
        assert_eq!(ActorId::parse(&ACTOR.public[..55]), Err(KeyError::PublicLength(55)));
        assert_eq!(ActorId::parse(&ACTOR.public.to_lowercase()), Err(KeyError::Alphabet));
        assert_eq!(decode_seed("SSSS"), Err(KeyError::SeedLength(4)));
        let mistyped = ACTOR.seed.replace("GAYD", "GAYA");
        assert_eq!(decode_seed(&mistyped), Err(KeyError::Checksum));
        // The placeholder that an old client uses as its host id is no key.
        assert!(HostId::parse("NwashHostCallerId000000000000000000000000000000000000000").is_err());

        let message = ClusterKey::parse(CLUSTER.seed).unwrap_err().to_string();
        assert!(!message.contains("SCAAC"), "{message}");
    }

    #[test]
    fn names_that_would_reach_other_subjects_are_refused() {
        for bad in ["", "a b", "default.shutdown", "*", ">", "a\n"] {
            assert!(LinkName::parse(bad).is_err(), "{bad:?}");
            assert!(LatticeName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(LatticeName::parse("prod-1_a").is_ok());
        assert!(LatticeName::parse("straße").is_err());
        assert_eq!(LinkName::default(), "default");
        assert_eq!(ContractId::parse(""), Err(KeyError::Empty("contract id")));
        assert!(ContractId::parse("acme:foo").is_ok());
    }

    #[test]
    fn json_is_the_bare_text_and_is_checked() {
        let id = ActorId::parse(ACTOR.public).unwrap();
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{}\"", ACTOR.public));
        assert_eq!(serde_json::from_str::<ActorId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<HostId>(&json).is_err());
        assert_eq!(format!("{id:?} {id}"), format!("{id} {}", ACTOR.public));
    }

    proptest! {
        #[test]
        fn decoding_any_text_does_not_panic(text in ".{0,80}") {
            let _ = decode_public(&text);
            let _ = decode_seed(&text);
        }

        #[test]
        fn keys_survive_the_round_trip(bytes: [u8; 32], kind in 0..Kind::ALL.len()) {
            let kind = Kind::ALL[kind];
            let pair = nkeys::KeyPair::new_from_raw(kind.pair_type(), bytes).unwrap();
            prop_assert_eq!(decode_seed(&pair.seed().unwrap()), Ok((kind, bytes)));
            prop_assert_eq!(decode_public(&pair.public_key()).unwrap().0, kind);
        }
    }
}
