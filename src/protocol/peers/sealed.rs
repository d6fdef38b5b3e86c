//! Signed messages of hosts, and the certificates of those who sign.
//!
//! A signed message is the JSON of an [`Announcement`](super::wire::Announcement) whose last member
//! is `sig`: the signature of the host's own key, in base64 for URLs, over all bytes before that
//! member. Readers that know no signatures read the same JSON.
//!
//! Anybody can make up a key. A [`Certificate`] says that one belongs to a lattice: the cluster key
//! signs the host's id and an end. It goes with messages that tell what a host offers, and not with
//! those that it sends all the time.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;

use super::wire::Certificate;
use crate::identity::signature::{SIGNATURE_BYTES, SigningKey, VerifyingKey};

/// These tell the signatures from all others that are made with the same keys.
const MESSAGE: &str = "lattice.host/word/1";
const MEMBER: &str = "lattice.host/member/1";
const ANSWER: &str = "lattice.host/answer/1";

/// The beginning of the last member.
const SIG: &[u8] = br#","sig":""#;
const END: &[u8] = br#""}"#;
/// The bytes that a signature adds to a message.
pub const SEAL_BYTES: usize = SIG.len() + 86 + END.len() - 1;

/// A signature, raw.
pub type Signature = [u8; SIGNATURE_BYTES];

/// A message that came, and whether it has a signature.
#[derive(Debug, PartialEq, Eq)]
pub enum Sealed<'a> {
    Unsigned,
    /// These bytes are signed, if the signature is right.
    Signed(&'a [u8], Signature),
}

/// Adds the signature to the JSON of a message, which is an object with members.
pub fn seal(json: &[u8], lattice: &str, key: &SigningKey) -> Bytes {
    let signed = json.strip_suffix(b"}").unwrap_or(json);
    let signature = key.sign(&message(lattice, signed));
    let mut sealed = Vec::with_capacity(signed.len() + SEAL_BYTES + 1);
    sealed.extend_from_slice(signed);
    sealed.extend_from_slice(SIG);
    sealed.extend_from_slice(URL_SAFE_NO_PAD.encode(signature).as_bytes());
    sealed.extend_from_slice(END);
    sealed.into()
}

/// Splits a message from its signature.
pub fn split(payload: &[u8]) -> Sealed<'_> {
    let Some(at) = payload.len().checked_sub(SEAL_BYTES + 1) else { return Sealed::Unsigned };
    let (signed, rest) = payload.split_at(at);
    let text = rest.strip_prefix(SIG).and_then(|rest| rest.strip_suffix(END));
    match text.and_then(signature) {
        Some(signature) => Sealed::Signed(signed, signature),
        None => Sealed::Unsigned,
    }
}

/// Says whether a host signed these bytes in a lattice.
pub fn is_genuine(signed: &[u8], by: &Signature, lattice: &str, key: &VerifyingKey) -> bool {
    key.verify(&message(lattice, signed), by)
}

/// Reads the text of a signature.
pub fn signature(text: impl AsRef<[u8]>) -> Option<Signature> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

impl Certificate {
    /// States until when, in seconds since 1970, a host belongs to a lattice.
    pub fn issue(cluster: &SigningKey, lattice: &str, host: &str, until: u64) -> Self {
        let sig = URL_SAFE_NO_PAD.encode(cluster.sign(&membership(lattice, host, until)));
        Self { issuer: cluster.public_key().to_owned(), until, sig }
    }

    /// Says whether the statement is that of its issuer, whose key this is, about this host, and
    /// counts at `now`, in seconds since 1970.
    pub fn counts(&self, issuer: &VerifyingKey, lattice: &str, host: &str, now: u64) -> bool {
        now <= self.until
            && signature(&self.sig)
                .is_some_and(|by| issuer.verify(&membership(lattice, host, self.until), &by))
    }
}

/// The parts of an answer to a call that a host signs.
#[derive(Clone, Copy, Debug)]
pub struct SignedAnswer<'a> {
    pub lattice: &'a str,
    /// A hash of the call as it came: its header, its id and its bytes.
    pub call: &'a [u8; 32],
    /// The fields of the header beside the signature.
    pub header: &'a str,
    pub body: &'a [u8],
}

impl SignedAnswer<'_> {
    /// Returns the bytes to sign.
    pub fn message(&self) -> Vec<u8> {
        let Self { lattice, call, header, body } = self;
        let mut message = format!("{ANSWER}\n{lattice}\n{header}\n").into_bytes();
        message.extend_from_slice(*call);
        message.extend_from_slice(body);
        message
    }
}

/// A lattice's name has no line feed in it, so no two messages have the same bytes.
fn message(lattice: &str, signed: &[u8]) -> Vec<u8> {
    [MESSAGE.as_bytes(), b"\n", lattice.as_bytes(), b"\n", signed].concat()
}

fn membership(lattice: &str, host: &str, until: u64) -> Vec<u8> {
    format!("{MEMBER}\n{lattice}\n{host}\n{until}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::{
            keys::Kind,
            samples::{CLUSTER, HOST},
        },
        peers::wire::Announcement,
    };

    fn key() -> SigningKey {
        SigningKey::from_seed(HOST.seed).unwrap()
    }

    fn public() -> VerifyingKey {
        VerifyingKey::parse(HOST.public, Kind::Server).unwrap()
    }

    fn is_believed(payload: &[u8], lattice: &str) -> bool {
        match split(payload) {
            Sealed::Unsigned => false,
            Sealed::Signed(signed, by) => is_genuine(signed, &by, lattice, &public()),
        }
    }

    #[test]
    fn a_signed_message_is_read_by_all_and_believed_in_its_lattice_only() {
        let announcement = Announcement {
            host: HOST.public.into(),
            incarnation: 7,
            count: 3,
            ..Default::default()
        };
        let json = announcement.encode(1 << 10);
        let sealed = seal(&json, "default", &key());
        assert_eq!(sealed.len(), json.len() + SEAL_BYTES);
        let read: Announcement = serde_json::from_slice(&sealed).unwrap();
        assert_eq!(read, announcement);
        assert!(is_believed(&sealed, "default") && !is_believed(&sealed, "other"));
        // No byte of it may be another one.
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            assert!(!is_believed(&changed, "default"), "byte {at}");
        }
        assert!(!is_believed(&sealed[1..], "default"));
    }

    #[test]
    fn what_has_no_signature_at_its_end_is_unsigned() {
        let sealed = seal(br#"{"host":"N"}"#, "default", &key());
        let text = String::from_utf8(sealed.to_vec()).unwrap();
        for (payload, case) in [
            (String::new(), "empty"),
            ("}".to_owned(), "short"),
            (r#"{"host":"N"}"#.to_owned(), "of an older host"),
            (format!("{text} "), "more behind"),
            (text.replace("\"sig\"", "\"sog\""), "another member"),
            (format!("{},\"sig\":\"x\"}}", &text[..text.len() - 1]), "a second one"),
        ] {
            assert_eq!(split(payload.as_bytes()), Sealed::Unsigned, "{case}");
        }
    }

    #[test]
    fn a_certificate_counts_for_one_host_of_one_lattice_until_its_end() {
        let cluster = SigningKey::from_seed(CLUSTER.seed).unwrap();
        let issuer = VerifyingKey::parse(CLUSTER.public, Kind::Cluster).unwrap();
        let cert = Certificate::issue(&cluster, "default", HOST.public, 100);
        let (_, other) = (0, nkeys::KeyPair::new_server().public_key());
        for (lattice, host, now, expected) in [
            ("default", HOST.public, 0, true),
            ("default", HOST.public, 100, true),
            ("default", HOST.public, 101, false),
            ("other", HOST.public, 0, false),
            ("default", &*other, 0, false),
        ] {
            assert_eq!(cert.counts(&issuer, lattice, host, now), expected, "{lattice} {now}");
        }
        let longer = Certificate { until: 200, ..cert.clone() };
        assert!(!longer.counts(&issuer, "default", HOST.public, 0));
        assert!(!cert.counts(&public(), "default", HOST.public, 0), "another issuer");
        let none = Certificate { sig: String::new(), ..cert };
        assert!(!none.counts(&issuer, "default", HOST.public, 0));
    }
}
