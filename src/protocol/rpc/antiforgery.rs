//! Proof that a call comes from a member of the lattice and is the one that was meant.
//!
//! The sender puts a token into the call, signed with the cluster's seed, that names both ends as
//! URLs and carries `SHA-256(origin_url ‖ target_url ‖ operation ‖ payload)`. The receiver goes
//! through these steps in order; errors carry the texts of the older host, which clients know,
//! where it had one:
//!
//! 1. decode ([`codec`](super::codec));
//! 2. [`Verifier::verify_claims`]: issuer among the accepted ones, signature, times, both URLs, id,
//!    host id;
//! 3. [`check_target`]: the call is for whom it was delivered to;
//! 4. fetch the payload if it travels apart; only now, so that strangers cannot make us fetch;
//! 5. [`Checked::verify_hash`] over the whole payload. Some peers leave this out for payloads that
//!    travelled apart, which leaves them unprotected.
//!
//! There is no replay protection in the protocol: a token has no lifetime unless its signer gave it
//! one. The receiver's own is a [`Window`](super::window::Window), which takes each
//! [`Checked::stamp`] once.

use std::{borrow::Cow, collections::HashMap};

use serde::Deserialize;

use super::{
    invocation::{Entity, Invocation},
    window::Stamp,
};
use crate::identity::{
    ClusterKey, KeyError, Kind, SigningKey, VerifyingKey,
    digest::{Sha256, hex_upper},
    token::{Compact, TokenError, encode_json},
};

/// The token generation we write: the one since wascap 0.11.
const WASCAP_REVISION: u32 = 3;

/// How far the clocks of sender and receiver may differ, in seconds.
const SKEW_SECONDS: u64 = 5;

/// Why a call is refused. The texts go back to the caller.
#[derive(Debug, thiserror::Error)]
pub enum ForgeryError {
    #[error("Invocation claims token expired")]
    Expired,
    #[error("Invocation claims signature invalid")]
    BadSignature,
    #[error("Attempt to use invocation before claims token allows")]
    NotYet,
    #[error("No wascap metadata found on claims")]
    NoMetadata,
    #[error("Invocation hash does not match signed claims hash ({claimed} / {computed})")]
    Hash { claimed: String, computed: String },
    #[error("Invalid host ID on invocation: '{0}'")]
    HostId(String),
    #[error("Issuer of this invocation is not among the list of valid issuers")]
    Issuer,
    #[error("Invocation claims and invocation target URL do not match")]
    TargetUrl,
    #[error("Invocation claims and invocation origin URL do not match")]
    OriginUrl,
    #[error("Invocation claims subject '{subject}' is not the invocation ID '{id}'")]
    Subject { subject: String, id: String },
    #[error("Invocation is meant for {found}, but was delivered to {expected}")]
    Target { found: String, expected: String },
    #[error("Invocation claims token cannot be read: {0}")]
    Token(TokenError),
}

impl From<TokenError> for ForgeryError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Expired => Self::Expired,
            TokenError::NotYet => Self::NotYet,
            TokenError::BadSignature => Self::BadSignature,
            other => Self::Token(other),
        }
    }
}

/// The `wascap` member of an invocation's token.
#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    target_url: Cow<'a, str>,
    #[serde(borrow)]
    origin_url: Cow<'a, str>,
    hash: String,
}

/// The text that the hash covers apart from the payload: `origin_url ‖ target_url ‖ operation`.
struct Preamble {
    text: String,
    origin_end: usize,
    target_end: usize,
}

impl Preamble {
    fn new(origin: &Entity, target: &Entity, operation: &str) -> Self {
        // The operation enters twice: it ends the target's URL and stands for itself.
        let capacity = origin.url_bytes() + target.url_bytes() + 2 * operation.len() + 1;
        let mut text = String::with_capacity(capacity);
        origin.write_url(&mut text);
        let origin_end = text.len();
        target.write_url(&mut text);
        text.push('/');
        text.push_str(operation);
        let target_end = text.len();
        text.push_str(operation);
        Self { text, origin_end, target_end }
    }

    fn origin_url(&self) -> &str {
        &self.text[..self.origin_end]
    }

    fn target_url(&self) -> &str {
        &self.text[self.origin_end..self.target_end]
    }

    fn hash(&self, payload: &[u8]) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.text.as_bytes());
        hasher.update(payload);
        hex_upper(&hasher.finish())
    }
}

/// Signs outgoing calls with the cluster's key.
#[derive(Debug)]
pub struct Signer {
    key: SigningKey,
    issuer: ClusterKey,
}

impl Signer {
    /// Takes the cluster's seed (`SC…`).
    pub fn new(cluster_seed: &str) -> Result<Self, KeyError> {
        let key = SigningKey::from_seed(cluster_seed)?;
        key.require(Kind::Cluster)?;
        let issuer = ClusterKey::parse(key.public_key())?;
        Ok(Self { key, issuer })
    }

    /// Returns the key that receivers must accept; a host accepts its own.
    pub fn issuer(&self) -> &ClusterKey {
        &self.issuer
    }

    /// Returns the token for a call. The payload is the whole one, whether or not it will travel
    /// apart.
    pub fn sign(
        &self,
        origin: &Entity,
        target: &Entity,
        operation: &str,
        payload: &[u8],
        id: &str,
        now: u64,
    ) -> String {
        self.sign_as(&unique_id(), origin, target, operation, payload, id, now)
    }

    /// Signs with a given token id instead of a random one.
    #[expect(clippy::too_many_arguments, reason = "the seam for reproducible tests")]
    fn sign_as(
        &self,
        jti: &str,
        origin: &Entity,
        target: &Entity,
        operation: &str,
        payload: &[u8],
        id: &str,
        now: u64,
    ) -> String {
        let preamble = Preamble::new(origin, target, operation);
        // The members in the order of the peers, without white space: the tokens are the same to
        // the byte.
        let mut json = String::with_capacity(preamble.text.len() + 300);
        json.push_str(r#"{"jti":"#);
        push_json(jti, &mut json);
        json.push_str(r#","iat":"#);
        json.push_str(&now.to_string());
        json.push_str(r#","iss":"#);
        push_json(self.issuer.as_str(), &mut json);
        json.push_str(r#","sub":"#);
        push_json(id, &mut json);
        json.push_str(r#","wascap":{"target_url":"#);
        push_json(preamble.target_url(), &mut json);
        json.push_str(r#","origin_url":"#);
        push_json(preamble.origin_url(), &mut json);
        json.push_str(r#","hash":"#);
        push_json(&preamble.hash(payload), &mut json);
        json.push_str(r#"},"wascap_revision":"#);
        json.push_str(&WASCAP_REVISION.to_string());
        json.push('}');
        encode_json(json.as_bytes(), &self.key)
    }
}

/// Appends a JSON string. Nearly all of ours are plain; the others go through serde.
fn push_json(text: &str, out: &mut String) {
    if text.bytes().all(|byte| byte >= 0x20 && !matches!(byte, b'"' | b'\\')) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// Makes a token id in the form of a NUID: 22 characters of base 62, here with 128 random bits.
fn unique_id() -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut id = String::with_capacity(22);
    // 62^11 is a little more than 2^64, so eleven digits hold one random word.
    for mut word in rand::random::<[u64; 2]>() {
        for _ in 0..11 {
            id.push(char::from(DIGITS[(word % 62) as usize]));
            word /= 62;
        }
    }
    id
}

/// Checks incoming calls against the accepted issuers.
#[derive(Debug, Clone)]
pub struct Verifier {
    issuers: HashMap<ClusterKey, VerifyingKey>,
}

impl Verifier {
    /// Takes the accepted issuers; a host's own must be among them.
    pub fn new(issuers: Vec<ClusterKey>) -> Self {
        let with_keys = issuers.into_iter().map(|issuer| {
            let key = VerifyingKey::parse(issuer.as_str(), Kind::Cluster)
                .expect("a `ClusterKey` was decoded when it was made");
            (issuer, key)
        });
        Self { issuers: with_keys.collect() }
    }

    /// Checks all that can be checked without the payload.
    pub fn verify_claims(
        &self,
        invocation: &Invocation,
        now: u64,
    ) -> Result<Checked, ForgeryError> {
        let token = Compact::parse(&invocation.encoded_claims)?;
        let claims = token.claims::<Metadata>()?;
        let key = self.issuers.get(claims.iss.as_ref()).ok_or(ForgeryError::Issuer)?;
        token.verify(key)?;
        // Hosts have clocks of their own.
        match claims.check_time(now) {
            Err(TokenError::Expired) => claims.check_time(now.saturating_sub(SKEW_SECONDS))?,
            Err(TokenError::NotYet) => claims.check_time(now.saturating_add(SKEW_SECONDS))?,
            checked => checked?,
        }
        let metadata = claims.wascap.ok_or(ForgeryError::NoMetadata)?;

        let preamble = Preamble::new(&invocation.origin, &invocation.target, &invocation.operation);
        if metadata.target_url != preamble.target_url() {
            return Err(ForgeryError::TargetUrl);
        }
        if metadata.origin_url != preamble.origin_url() {
            return Err(ForgeryError::OriginUrl);
        }
        if claims.sub != invocation.id {
            return Err(ForgeryError::Subject {
                subject: claims.sub.into_owned(),
                id: invocation.id.to_string(),
            });
        }
        check_host_id(&invocation.host_id)?;
        let stamp = Stamp::new(claims.iat, token.signature());
        Ok(Checked { preamble, hash: metadata.hash, stamp })
    }
}

/// The peers' lax rule: older hosts send their cluster's key and command-line tools a placeholder.
fn check_host_id(host_id: &str) -> Result<(), ForgeryError> {
    if host_id.starts_with('N') || host_id.len() == 56 {
        Ok(())
    } else {
        Err(ForgeryError::HostId(host_id.to_owned()))
    }
}

/// Checks that a call is for the one it was delivered to, by public key.
pub fn check_target(invocation: &Invocation, expected: &str) -> Result<(), ForgeryError> {
    if &*invocation.target.public_key == expected {
        Ok(())
    } else {
        Err(ForgeryError::Target {
            found: invocation.target.public_key.to_string(),
            expected: expected.to_owned(),
        })
    }
}

/// A call whose token is genuine. Its payload is not yet: [`verify_hash`](Self::verify_hash) has to
/// follow.
#[must_use = "the payload is unproven until its hash is verified"]
pub struct Checked {
    preamble: Preamble,
    hash: String,
    stamp: Stamp,
}

impl Checked {
    /// Returns what tells the call's token from all others.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Begins to check a payload that arrives in pieces.
    pub fn arriving(&self) -> Arriving {
        let mut hasher = Sha256::new();
        hasher.update(self.preamble.text.as_bytes());
        Arriving(hasher)
    }

    /// Checks that the pieces that arrived are the payload that was signed.
    pub fn verify_arrived(&self, arrived: Arriving) -> Result<(), ForgeryError> {
        self.compare(hex_upper(&arrived.0.finish()))
    }

    /// Checks that the whole payload is the one that was signed.
    pub fn verify_hash(&self, payload: &[u8]) -> Result<(), ForgeryError> {
        self.compare(self.preamble.hash(payload))
    }

    fn compare(&self, computed: String) -> Result<(), ForgeryError> {
        if computed == self.hash {
            Ok(())
        } else {
            Err(ForgeryError::Hash { claimed: self.hash.clone(), computed })
        }
    }
}

/// The hash of a payload that arrives in pieces.
pub struct Arriving(Sha256);

impl Arriving {
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }
}

impl std::fmt::Debug for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checked").field("hash", &self.hash).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests;
