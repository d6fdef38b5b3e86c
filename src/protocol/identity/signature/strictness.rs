//! Signatures at the edge of the rules, judged here, by aws-lc and by the library of the peers.
//!
//! A key is judged before and after it has a table, and both ways must agree.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use curve25519_dalek::{constants::ED25519_BASEPOINT_POINT, traits::Identity};
use proptest::prelude::*;

use super::*;

/// The secret number of the signer whose key is its multiple of the generator.
const SECRET: u64 = 0x1234_5678_9abc_def1;
/// The number that is drawn once for each signature, here always the same.
const NONCE: u64 = 0xfedc_ba98_7654_3211;

/// A key, a message and 64 bytes that may be a signature.
#[derive(Debug, Clone)]
struct Case {
    key: [u8; 32],
    message: Vec<u8>,
    signature: [u8; SIGNATURE_BYTES],
}

impl Case {
    fn new(key: [u8; 32], message: impl Into<Vec<u8>>, r: [u8; 32], s: Scalar) -> Self {
        Self { key, message: message.into(), signature: joined(&r, &s.to_bytes()) }
    }

    /// Signs as a signer does that knows the secret and adds points of small order to the key and
    /// to `R`.
    fn signed(key: EdwardsPoint, nonce: Scalar, r: EdwardsPoint, message: &[u8]) -> Self {
        let (key, r) = (key.compress().0, r.compress().0);
        let s = nonce + challenge(&r, &key, message) * Scalar::from(SECRET);
        Self::new(key, message, r, s)
    }

    fn is_accepted(&self) -> bool {
        let key = VerifyingKey::from_bytes(self.key);
        let slowly = key.verify(&self.message, &self.signature);
        if let Some(negative) = &key.0.negative {
            assert!(key.0.table.set(Comb::new(negative)).is_ok());
        }
        assert_eq!(key.verify(&self.message, &self.signature), slowly, "{self:?}");
        slowly
    }

    fn is_accepted_by_aws_lc(&self) -> bool {
        UnparsedPublicKey::new(&ED25519, self.key).verify(&self.message, &self.signature).is_ok()
    }

    /// Asks the library of the peers, without its strict checks.
    fn is_accepted_by_peers(&self) -> bool {
        let text = data_encoding::BASE32_NOPAD.encode(&with_checksum(&self.key));
        nkeys::KeyPair::from_public_key(&text)
            .is_ok_and(|key| key.verify(&self.message, &self.signature).is_ok())
    }
}

fn joined(r: &[u8; 32], s: &[u8; 32]) -> [u8; SIGNATURE_BYTES] {
    let mut joined = [0; SIGNATURE_BYTES];
    joined[..32].copy_from_slice(r);
    joined[32..].copy_from_slice(s);
    joined
}

/// The bytes of a public key's text: kind, key, CRC-16 (XMODEM).
fn with_checksum(key: &[u8; 32]) -> Vec<u8> {
    let mut bytes = vec![2 << 3]; // the letter C
    bytes.extend_from_slice(key);
    let mut crc = 0_u16;
    for byte in &bytes {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 };
        }
    }
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn public() -> EdwardsPoint {
    EdwardsPoint::mul_base(&Scalar::from(SECRET))
}

fn nonce() -> (Scalar, EdwardsPoint) {
    let nonce = Scalar::from(NONCE);
    (nonce, EdwardsPoint::mul_base(&nonce))
}

/// Messages to try until the challenge is the one that a case needs.
fn messages() -> impl Iterator<Item = Vec<u8>> {
    (0..200_u32).map(|count| count.to_le_bytes().to_vec())
}

fn hex<const N: usize>(text: &str) -> [u8; N] {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
}

#[test]
fn the_vectors_of_rfc_8032_are_accepted() {
    for (key, message, signature) in [
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            vec![],
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            vec![0x72],
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            vec![0xaf, 0x82],
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ] {
        let case = Case { key: hex(key), message, signature: hex(signature) };
        assert!(case.is_accepted() && case.is_accepted_by_aws_lc() && case.is_accepted_by_peers());
    }
}

#[test]
fn a_second_form_of_a_signature_is_refused() {
    // The order of the group, which can be added to `s` without a change of what is computed.
    let mut order = (-Scalar::ONE).to_bytes();
    order[0] += 1;
    let (nonce, r) = nonce();
    let honest = Case::signed(public(), nonce, r, b"message");
    assert!(honest.is_accepted() && honest.is_accepted_by_aws_lc());
    let mut malleable = honest.clone();
    let mut carry = 0;
    for (byte, more) in malleable.signature[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(more) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(carry, 0);
    for high_bit in [0, 0x20, 0x40, 0x80] {
        let mut case = malleable.clone();
        case.signature[63] |= high_bit;
        assert!(!case.is_accepted() && !case.is_accepted_by_aws_lc());
        assert!(!case.is_accepted_by_peers());
    }
}

#[test]
fn a_key_of_small_order_verifies_nothing_though_other_libraries_accept_some() {
    let (nonce, nonce_point) = nonce();
    for key in EIGHT_TORSION {
        // With `R` = s·B it is a signature of each message whose challenge the order divides.
        let case = |message: Vec<u8>| {
            Case::new(key.compress().0, message, nonce_point.compress().0, nonce)
        };
        let found = messages().map(case).find(Case::is_accepted_by_aws_lc);
        let found = found.expect("one of eight messages has such a challenge");
        assert!(found.is_accepted_by_peers() && !found.is_accepted());
    }
}

#[test]
fn an_r_of_small_order_is_refused_though_other_libraries_accept_it() {
    for r in EIGHT_TORSION {
        let case = Case::signed(public(), Scalar::ZERO, r, b"message");
        let is_identity = r == EdwardsPoint::identity();
        assert_eq!(case.is_accepted_by_aws_lc(), is_identity);
        assert_eq!(case.is_accepted_by_peers(), is_identity);
        assert!(!case.is_accepted());
    }
}

#[test]
fn parts_of_small_order_count_as_they_do_for_other_libraries() {
    // Both the key and `R` may have such a part; a check of batches would accept more of them.
    let (nonce, nonce_point) = nonce();
    let (mut accepted, mut refused) = (0, 0);
    for key_part in EIGHT_TORSION {
        for r_part in EIGHT_TORSION {
            let cases = messages().take(16).map(|message| {
                Case::signed(public() + key_part, nonce, nonce_point + r_part, &message)
            });
            for case in cases {
                let is_accepted = case.is_accepted_by_aws_lc();
                assert_eq!(case.is_accepted_by_peers(), is_accepted, "{case:?}");
                assert_eq!(case.is_accepted(), is_accepted, "{case:?}");
                *if is_accepted { &mut accepted } else { &mut refused } += 1;
            }
        }
    }
    assert!(accepted > 50 && refused > 500, "{accepted} {refused}");
}

/// The encodings that no encoder writes: `y` at or above the prime, or a sign of `x` = 0.
fn uncanonical() -> Vec<[u8; 32]> {
    let mut encodings = Vec::new();
    for sign in [0, 0x80] {
        for low in 0xed..=0xff {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (low, 0x7f | sign);
            encodings.push(bytes);
        }
    }
    for y in [EdwardsPoint::identity(), EIGHT_TORSION[4]] {
        let mut bytes = y.compress().0;
        bytes[31] |= 0x80;
        encodings.push(bytes);
    }
    encodings
}

#[test]
fn uncanonical_keys_and_rs_are_refused() {
    let (nonce, nonce_point) = nonce();
    for encoding in uncanonical() {
        for message in messages().take(16) {
            let case = Case::new(encoding, message, nonce_point.compress().0, nonce);
            assert!(!case.is_accepted(), "{case:?}");
        }
        // `R` is what would be computed, in the other form.
        let key = public().compress().0;
        let k = challenge(&encoding, &key, b"message");
        let case = Case::new(key, b"message", encoding, k * Scalar::from(SECRET));
        assert!(!case.is_accepted() && !case.is_accepted_by_aws_lc(), "{case:?}");
    }
    assert!(VerifyingKey::from_bytes([0xff; 32]).0.negative.is_none());
    let known = VerifyingKey::from_bytes(ED25519_BASEPOINT_POINT.compress().0);
    assert!(known.0.negative.is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn signatures_of_signers_are_accepted_and_changed_ones_refused(
        seed: [u8; 32], message: Vec<u8>, position in 0..SIGNATURE_BYTES, bit in 0..8_u8
    ) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let key = aws_lc_rs::signature::KeyPair::public_key(&pair).as_ref().try_into().unwrap();
        let signature = pair.sign(&message).as_ref().try_into().unwrap();
        let mut case = Case { key, message, signature };
        prop_assert!(case.is_accepted() && case.is_accepted_by_aws_lc());
        prop_assert!(case.is_accepted_by_peers());
        case.signature[position] ^= 1 << bit;
        prop_assert!(!case.is_accepted() && !case.is_accepted_by_aws_lc());
    }

    #[test]
    fn bytes_of_chance_are_judged_without_panic(
        key: [u8; 32], message: Vec<u8>, r: [u8; 32], s: [u8; 32]
    ) {
        let case = Case { key, message, signature: joined(&r, &s) };
        prop_assert_eq!(case.is_accepted(), case.is_accepted_by_aws_lc());
    }
}
