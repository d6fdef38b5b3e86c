//! The note that a host leaves with compiled code: what it is, and that a host of this lattice made
//! it.
//!
//! It is signed with the cluster key, as all entries are that make hosts do something. What is
//! signed has the lattice and the name of the object in it, so code that was moved to another name,
//! or to another lattice, does not count.

use serde::{Deserialize, Serialize};

use super::key::{Digest, Key};
use lattice_base::registry::ARTIFACT_BYTES_MAX;
use lattice_protocol::{
    clock,
    desired::{Authority, Rejected},
};

/// Bytes of code that is taken at most. A module of the largest size has less.
const CODE_BYTES_MAX: u64 = 2 * ARTIFACT_BYTES_MAX;

/// The words of a host about code that it compiled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub key: Key,
    /// The host that compiled it.
    pub host: String,
    /// How long that took there.
    pub compile_ms: u64,
    /// The bytes of the object, packed with zstd.
    pub packed: Digest,
    /// The bytes of the code.
    pub code: Digest,
    pub code_bytes: u64,
}

/// Why code with such a note is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("its note does not count: {0}")]
    Note(#[from] Rejected),
    #[error("it was compiled of another module")]
    OtherModule,
    #[error(
        "it was compiled by another version of wasmtime, with other settings, or for another processor"
    )]
    OtherEngine,
    #[error("it is said to have {0} bytes, more than {CODE_BYTES_MAX}")]
    TooLarge(u64),
}

impl Refused {
    /// Says whether somebody could use it. The code of a cluster that this host does not trust
    /// stays for the hosts of that cluster.
    pub fn is_of_a_stranger(&self) -> bool {
        matches!(self, Self::Note(Rejected::Stranger(_)))
    }
}

impl Note {
    /// Signs the note for the object that it is of.
    pub fn signed(&self, authority: &Authority) -> serde_json::Result<String> {
        let signed = authority.sign(&subject(&self.key), clock::now_ms(), self)?;
        serde_json::to_string(&signed)
    }

    /// Reads the note of an object and checks that it is about this key.
    pub fn verified(text: &str, key: &Key, authority: &Authority) -> Result<Self, Refused> {
        let (note, _serial): (Self, u64) = authority.verify(&subject(key), text.as_bytes())?;
        if (note.key.kind, note.key.wasm) != (key.kind, key.wasm) {
            return Err(Refused::OtherModule);
        }
        if note.key.engine != key.engine {
            return Err(Refused::OtherEngine);
        }
        if note.code_bytes > CODE_BYTES_MAX {
            return Err(Refused::TooLarge(note.code_bytes));
        }
        Ok(note)
    }
}

/// Returns the key that is signed. No entry of the desired state has such a one.
fn subject(key: &Key) -> String {
    format!("CODE_{}", key.name())
}

#[cfg(test)]
mod tests {
    use lattice_protocol::{
        desired::Signed,
        identity::{keys::Kind as KeyKind, samples::CLUSTER, signature::SigningKey},
    };

    use super::{super::key::Kind, *};

    fn authority(lattice: &str) -> Authority {
        Authority::new(lattice, CLUSTER.seed, Vec::new()).unwrap()
    }

    fn note() -> Note {
        Note {
            key: Key {
                kind: Kind::Module,
                wasm: Digest::of(b"wasm"),
                engine: Digest::of(b"wasmtime 48"),
            },
            host: "NABC".into(),
            compile_ms: 900,
            packed: Digest::of(b"packed"),
            code: Digest::of(b"code"),
            code_bytes: 4,
        }
    }

    fn read(text: &str) -> Result<Note, Refused> {
        Note::verified(text, &note().key, &authority("default"))
    }

    #[test]
    fn a_note_counts_for_its_object_in_its_lattice() {
        let text = note().signed(&authority("default")).unwrap();
        assert_eq!(read(&text), Ok(note()));
        let elsewhere = note().signed(&authority("other")).unwrap();
        assert_eq!(read(&elsewhere), Err(Refused::Note(Rejected::Forged)));
    }

    #[test]
    fn a_note_that_was_moved_to_another_object_does_not_count() {
        let text = note().signed(&authority("default")).unwrap();
        for key in [
            Key { kind: Kind::Component, ..note().key },
            Key { wasm: Digest::of(b"other"), ..note().key },
            Key { engine: Digest::of(b"wasmtime 49"), ..note().key },
        ] {
            let refused = Note::verified(&text, &key, &authority("default"));
            assert_eq!(refused, Err(Refused::Note(Rejected::Forged)), "{key:?}");
        }
    }

    #[test]
    fn each_field_that_is_tampered_with_is_noticed() {
        let text = note().signed(&authority("default")).unwrap();
        let signed: Signed = serde_json::from_str(&text).unwrap();
        let changes: [fn(&mut Note); 8] = [
            |note| note.key.kind = Kind::Component,
            |note| note.key.wasm = Digest::of(b"evil"),
            |note| note.key.engine = Digest::of(b"evil"),
            |note| note.host.push('X'),
            |note| note.compile_ms += 1,
            |note| note.packed = Digest::of(b"evil"),
            |note| note.code = Digest::of(b"evil"),
            |note| note.code_bytes += 1,
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut changed = note();
            change(&mut changed);
            let value = serde_json::to_string(&changed).unwrap();
            let text = serde_json::to_string(&Signed { value, ..signed.clone() }).unwrap();
            assert_eq!(read(&text), Err(Refused::Note(Rejected::Forged)), "change {number}");
        }
        for text in ["", "{}", "null", &text[1..]] {
            assert!(matches!(read(text), Err(Refused::Note(Rejected::Unreadable(_)))), "{text}");
        }
    }

    /// Even a host of this lattice cannot say of code that it is what it is not: signs a wrong
    /// value for the right object.
    fn lies(change: impl FnOnce(&mut Note)) -> Result<Note, Refused> {
        let mut changed = note();
        change(&mut changed);
        let signed = authority("default").sign(&subject(&note().key), 1, &changed).unwrap();
        read(&serde_json::to_string(&signed).unwrap())
    }

    #[test]
    fn a_signed_note_about_something_else_is_refused() {
        assert_eq!(lies(|note| note.key.kind = Kind::Component), Err(Refused::OtherModule));
        assert_eq!(lies(|note| note.key.wasm = Digest::of(b"x")), Err(Refused::OtherModule));
        assert_eq!(lies(|note| note.key.engine = Digest::of(b"x")), Err(Refused::OtherEngine));
        assert_eq!(lies(|note| note.code_bytes = 1 << 40), Err(Refused::TooLarge(1 << 40)));
    }

    #[test]
    fn code_of_a_stranger_is_refused_and_left_to_others() {
        let (stranger, seed) = SigningKey::generate(KeyKind::Cluster).unwrap();
        let theirs = Authority::new("default", &seed, Vec::new()).unwrap();
        let refused = read(&note().signed(&theirs).unwrap()).unwrap_err();
        let issuer = stranger.public_key().to_owned();
        assert_eq!(refused, Refused::Note(Rejected::Stranger(issuer)));
        assert!(refused.is_of_a_stranger() && !Refused::OtherEngine.is_of_a_stranger());
    }
}
