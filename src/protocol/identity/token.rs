//! The compact JWT of wascap: `header.claims.signature`, each base64url without padding.
//!
//! The header is always `{"typ":"jwt","alg":"Ed25519"}`, an algorithm name that JWT libraries do
//! not know, and the signature is Ed25519 over the ASCII text `header.claims`. The caller decides
//! which signers it accepts, because the key is named inside: actors bring their issuer along,
//! invocations must come from a listed one. So reading goes [`Compact::parse`] →
//! [`Compact::claims`] → pick the key → [`Compact::verify`] → [`Claims::check_time`].
//!
//! This is on the path of every remote call: the usual header is compared as text, and claims
//! borrow from the decoded JSON where they can.

use std::borrow::Cow;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{
    signature::{SIGNATURE_BYTES, SigningKey, VerifyingKey},
    validity,
};

/// The header segment that every known signer writes.
const HEADER: &str = "eyJ0eXAiOiJqd3QiLCJhbGciOiJFZDI1NTE5In0";
const TYPE: &str = "jwt";
const ALGORITHM: &str = "Ed25519";

/// Why a token is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("malformed token: {0}")]
    Malformed(&'static str),
    #[error(
        "unsupported token header, expected typ `jwt` and alg `Ed25519`, found `{typ}` and `{alg}`"
    )]
    WrongHeader { typ: String, alg: String },
    #[error("malformed token claims: {0}")]
    Claims(serde_json::Error),
    #[error("the token's signature is invalid")]
    BadSignature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
}

/// The envelope around every kind of claims. Times are seconds since 1970.
///
/// Serializes in the order of the peers, with absent members left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims<'a, W> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    #[serde(borrow)]
    pub jti: Cow<'a, str>,
    pub iat: u64,
    #[serde(borrow)]
    pub iss: Cow<'a, str>,
    #[serde(borrow)]
    pub sub: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wascap: Option<W>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wascap_revision: Option<u32>,
}

impl<W> Claims<'_, W> {
    /// Refuses a token that has expired or must not be used yet.
    pub fn check_time(&self, now: u64) -> Result<(), TokenError> {
        if self.exp.is_some_and(|exp| exp < now) {
            return Err(TokenError::Expired);
        }
        if self.nbf.is_some_and(|nbf| now < nbf) {
            return Err(TokenError::NotYet);
        }
        Ok(())
    }
}

/// A token taken apart, its header accepted and its claims decoded to JSON text. Nothing is
/// verified yet.
pub struct Compact<'a> {
    signed: &'a str,
    json: String,
    signature: [u8; SIGNATURE_BYTES],
}

impl<'a> Compact<'a> {
    /// Takes a token apart and checks its header.
    pub fn parse(text: &'a str) -> Result<Self, TokenError> {
        let (signed, signature_text) =
            text.rsplit_once('.').ok_or(TokenError::Malformed("no signature segment"))?;
        let (header, claims) =
            signed.split_once('.').ok_or(TokenError::Malformed("no claims segment"))?;
        if header != HEADER {
            check_header(header)?;
        }
        // A second dot inside `claims` is refused here, it is no base64 character.
        let json = BASE64URL_NOPAD
            .decode(claims.as_bytes())
            .map_err(|_| TokenError::Malformed("claims are no base64url"))?;
        // Once for all, so that no text inside is checked again.
        let json =
            String::from_utf8(json).map_err(|_| TokenError::Malformed("claims are no text"))?;
        Ok(Self { signed, json, signature: decode_signature(signature_text)? })
    }

    /// The time nearest to `now` at which the token would count, unverified.
    pub fn nearest(&self, now: u64) -> u64 {
        let claims = self.claims::<IgnoredAny>();
        claims.map_or(now, |claims| validity::nearest(claims.nbf, claims.exp, now))
    }

    /// Reads the claims, unverified.
    pub fn claims<'s, W: Deserialize<'s>>(&'s self) -> Result<Claims<'s, W>, TokenError> {
        serde_json::from_str(&self.json).map_err(TokenError::Claims)
    }

    /// Returns the signature's bytes.
    pub fn signature(&self) -> &[u8; SIGNATURE_BYTES] {
        &self.signature
    }

    /// Checks the signature.
    pub fn verify(&self, key: &VerifyingKey) -> Result<(), TokenError> {
        if key.verify(self.signed.as_bytes(), &self.signature) {
            Ok(())
        } else {
            Err(TokenError::BadSignature)
        }
    }
}

fn decode_signature(text: &str) -> Result<[u8; SIGNATURE_BYTES], TokenError> {
    // The length first: the output array is of the right size then. A wrong one is a bad signature.
    if BASE64URL_NOPAD.decode_len(text.len()) != Ok(SIGNATURE_BYTES) {
        return Err(TokenError::BadSignature);
    }
    let mut signature = [0; SIGNATURE_BYTES];
    BASE64URL_NOPAD
        .decode_mut(text.as_bytes(), &mut signature)
        .map_err(|_| TokenError::Malformed("signature is no base64url"))?;
    Ok(signature)
}

/// Accepts another spelling of the header (order, spaces, extra members), but no other algorithm.
fn check_header(segment: &str) -> Result<(), TokenError> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(default)]
        typ: String,
        #[serde(default)]
        alg: String,
    }

    let json = BASE64URL_NOPAD
        .decode(segment.as_bytes())
        .map_err(|_| TokenError::Malformed("header is no base64url"))?;
    let Header { typ, alg } =
        serde_json::from_slice(&json).map_err(|_| TokenError::Malformed("header is no JSON"))?;
    if typ == TYPE && alg == ALGORITHM { Ok(()) } else { Err(TokenError::WrongHeader { typ, alg }) }
}

/// Signs claims into a compact token.
pub fn encode<W: Serialize>(
    claims: &Claims<'_, W>,
    key: &SigningKey,
) -> Result<String, serde_json::Error> {
    Ok(encode_json(&serde_json::to_vec(claims)?, key))
}

/// Signs claims that are JSON text already.
pub fn encode_json(json: &[u8], key: &SigningKey) -> String {
    let claims_chars = BASE64URL_NOPAD.encode_len(json.len());
    let signature_chars = BASE64URL_NOPAD.encode_len(SIGNATURE_BYTES);
    let mut token = String::with_capacity(HEADER.len() + claims_chars + signature_chars + 2);
    token.push_str(HEADER);
    token.push('.');
    BASE64URL_NOPAD.encode_append(json, &mut token);
    let signature = key.sign(token.as_bytes());
    token.push('.');
    BASE64URL_NOPAD.encode_append(&signature, &mut token);
    token
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::{
        keys::Kind,
        samples::{ACCOUNT, ACTOR},
    };

    fn key() -> SigningKey {
        SigningKey::from_seed(ACCOUNT.seed).unwrap()
    }

    fn verifying() -> VerifyingKey {
        VerifyingKey::parse(ACCOUNT.public, Kind::Account).unwrap()
    }

    fn claims() -> Claims<'static, serde_json::Value> {
        Claims {
            exp: Some(200),
            jti: "id".into(),
            iat: 100,
            iss: ACCOUNT.public.into(),
            sub: ACTOR.public.into(),
            nbf: Some(150),
            wascap: Some(serde_json::json!({"name": "quote \" and ünïcode"})),
            wascap_revision: Some(3),
        }
    }

    fn with_header(header: &str) -> String {
        let token = encode(&claims(), &key()).unwrap();
        let (_, rest) = token.split_once('.').unwrap();
        format!("{}.{rest}", BASE64URL_NOPAD.encode(header.as_bytes()))
    }

    #[test]
    fn a_token_survives_the_round_trip() {
        let token = encode(&claims(), &key()).unwrap();
        let compact = Compact::parse(&token).unwrap();
        compact.verify(&verifying()).unwrap();
        assert_eq!(compact.claims().ok(), Some(claims()));
    }

    #[test]
    fn time_limits_are_inclusive() {
        let claims = claims();
        assert!(matches!(claims.check_time(149), Err(TokenError::NotYet)));
        assert!(claims.check_time(150).is_ok());
        assert!(claims.check_time(200).is_ok());
        assert!(matches!(claims.check_time(201), Err(TokenError::Expired)));
    }

    #[test]
    fn changed_tokens_are_refused() {
        let token = encode(&claims(), &key()).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();

        let mut other = claims();
        other.iat += 1;
        let forged = encode(&other, &SigningKey::from_seed(ACTOR.seed).unwrap()).unwrap();
        let compact = Compact::parse(&forged).unwrap();
        assert!(matches!(compact.verify(&verifying()), Err(TokenError::BadSignature)));
        for short in ["", "AA", &signature[..84]] {
            let token = format!("{signed}.{short}");
            assert!(matches!(Compact::parse(&token), Err(TokenError::BadSignature)));
        }
        for bad in ["", "a", "a.b", ".", "..", "...", "a.b.c", "a.b.c.d", "ü.ü.ü"] {
            assert!(Compact::parse(bad).is_err(), "{bad}");
        }
        assert!(Compact::parse(&format!("{token}=")).is_err());
        assert!(Compact::parse(&format!("{token}.{signature}")).is_err());
    }

    #[test]
    fn another_spelling_of_the_header_is_fine_but_no_other_algorithm() {
        let spaced = with_header(r#"{ "alg": "Ed25519", "typ": "jwt", "kid": "x" }"#);
        assert!(Compact::parse(&spaced).is_ok());
        for header in [
            r#"{"typ":"JWT","alg":"Ed25519"}"#,
            r#"{"typ":"jwt","alg":"ed25519"}"#,
            r#"{"typ":"jwt","alg":"none"}"#,
            r#"{"typ":"jwt"}"#,
        ] {
            assert!(matches!(
                Compact::parse(&with_header(header)),
                Err(TokenError::WrongHeader { .. })
            ));
        }
        assert!(matches!(Compact::parse(&with_header("[]x")), Err(TokenError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn parsing_any_text_does_not_panic(text in ".{0,200}", dots in "[A-Za-z0-9_.-]{0,200}") {
            for text in [text, format!("{HEADER}.{dots}")] {
                if let Ok(compact) = Compact::parse(&text) {
                    let _ = compact.claims::<serde_json::Value>();
                }
            }
        }
    }
}
