//! Keys of actors as keys of the bucket.
//!
//! Any text is a key for an actor, but a bucket takes few characters. Characters it takes stay as
//! they are, so that `nats kv ls` stays readable; every other byte becomes `=` and two hexadecimal
//! digits, as in `counter=3Ahome`. That can be undone, so two keys never meet. The empty key is a
//! lone `=`. A key that gets longer than a subject should be is replaced by `==` and its SHA-256
//! digest.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::{HEXLOWER, HEXUPPER};

/// Longer ones are replaced by their digest. The line of the protocol that carries a subject may
/// have 4096 bytes.
const ENCODED_BYTES_MAX: usize = 512;
/// Clients keep keys that begin so to themselves.
const RESERVED: &str = "_kv";

/// The bucket's key for an actor's key.
pub fn encode(key: &str) -> String {
    if key.is_empty() {
        return "=".into();
    }
    let bytes = key.as_bytes();
    let mut encoded = String::with_capacity(key.len());
    for (at, &byte) in bytes.iter().enumerate() {
        let stays = match byte {
            b'-' | b'/' => true,
            b'_' => at > 0 || !key.starts_with(RESERVED),
            // No token of a subject may be empty.
            b'.' => at > 0 && at + 1 < bytes.len() && bytes[at - 1] != b'.',
            _ => byte.is_ascii_alphanumeric(),
        };
        if stays {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("={byte:02X}"));
        }
        if encoded.len() > ENCODED_BYTES_MAX {
            return format!("=={}", HEXLOWER.encode(digest(&SHA256, bytes).as_ref()));
        }
    }
    encoded
}

/// The actor's key for a bucket's key; `None` for a digest, and for what no actor wrote.
pub fn decode(encoded: &str) -> Option<String> {
    if encoded == "=" {
        return Some(String::new());
    }
    let (mut bytes, mut rest) = (Vec::with_capacity(encoded.len()), encoded.as_bytes());
    while let [byte, tail @ ..] = rest {
        if *byte == b'=' {
            let (digits, after) = tail.split_at_checked(2)?;
            bytes.push(HEXUPPER.decode(digits).ok()?[0]);
            rest = after;
        } else {
            bytes.push(*byte);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// A key as errors show it: not longer than people read.
pub fn shown(key: &str) -> String {
    const CHARACTERS_MAX: usize = 80;
    match key.char_indices().nth(CHARACTERS_MAX) {
        None => format!("{key:?}"),
        Some((end, _)) => format!("{:?}… ({} bytes)", &key[..end], key.len()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_keys_stay_readable() {
        for (key, encoded) in [
            ("counter", "counter"),
            ("counter:home", "counter=3Ahome"),
            ("a.b/c-d_e", "a.b/c-d_e"),
            ("", "="),
            ("=", "=3D"),
            (".a..b.", "=2Ea.=2Eb=2E"),
            ("_kv", "=5Fkv"),
            ("a b*>", "a=20b=2A=3E"),
            ("ü", "=C3=BC"),
        ] {
            assert_eq!(super::encode(key), encoded);
        }
    }

    #[test]
    fn long_keys_become_digests_that_no_other_key_has() {
        let (one, other) = ("x".repeat(600), "x".repeat(601));
        let encoded = encode(&one);
        assert!(encoded.starts_with("==") && encoded.len() == 66, "{encoded}");
        assert_ne!(encoded, encode(&other));
        assert!(shown(&one).len() < 120);
    }

    proptest! {
        #[test]
        fn every_key_is_valid_and_can_be_told_from_others(key in "(?s).{0,40}|[._=kv]{0,8}") {
            let encoded = encode(&key);
            prop_assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-/_=.".contains(&b)));
            prop_assert!(!encoded.split('.').any(str::is_empty), "{}", encoded);
            prop_assert!(!encoded.starts_with("_kv"));
            if !encoded.starts_with("==") {
                prop_assert_eq!(decode(&encoded), Some(key));
            }
        }
    }
}
