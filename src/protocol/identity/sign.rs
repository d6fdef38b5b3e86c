//! Signs: puts an actor's token into a module, and makes the tokens of providers, accounts and
//! operators.
//!
//! The tokens are those that signing tools wrote from 2023 on (`wascap_revision` 3), member by
//! member in their order. A signed module is the canonical form of the file (see
//! [`module`]) with the token behind it. Since nothing else is left in it, the hash
//! in the token is that of the file without its last section, too: readers of all years agree with
//! it. The names of the members:
//!
//! | token | issuer | subject | members of `wascap` |
//! |---|---|---|---|
//! | actor | account | module | `name`, `hash`, `tags`, `caps`, `rev`, `ver`, `call_alias`, `prov` |
//! | provider | account | service | `name`, `capid`, `vendor`, `rev`, `ver`, `target_hashes`, `config_schema` |
//! | account | operator | account | `name`, `valid_signers` |
//! | operator | itself | itself | `name`, `valid_signers` |
//!
//! Keys of the wrong kind are refused here, because nobody would believe what they sign.

use std::collections::BTreeMap;

use data_encoding::BASE32_NOPAD;
use rand::{Rng as _, distr::Alphanumeric};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    bounds::{self, TooLarge},
    digest::{hex_upper, sha256},
    keys::{KeyError, Kind},
    module::{self, ModuleError},
    signature::SigningKey,
    token::{self, Claims},
    validity::now,
};

/// The revision that the tools of 2023 and later write into tokens; readers compare hashes from
/// this one on.
const WASCAP_REVISION: u32 = 3;
const SECONDS_PER_DAY: u64 = 86_400;
/// Length of the ids that all tools give their tokens.
const ID_CHARS: usize = 22;
/// Length of a public key's text.
const KEY_CHARS: usize = 56;

/// The claims to sign for an actor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActorToken {
    /// For people.
    pub name: String,
    /// Contracts it may use.
    pub caps: Vec<String>,
    pub tags: Vec<String>,
    /// Without one, readers take the time of signing.
    pub revision: Option<i32>,
    pub version: Option<String>,
    /// Name that other actors may call it by.
    pub call_alias: Option<String>,
}

/// The claims to sign for a provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderToken {
    pub name: String,
    /// The contract it fulfils.
    pub contract_id: String,
    pub vendor: String,
    pub revision: Option<i32>,
    pub version: Option<String>,
    /// SHA-256 of each executable as upper-case hex, by target.
    pub target_hashes: BTreeMap<String, String>,
    /// A JSON schema of link values, as JSON text.
    pub config_schema: Option<String>,
}

/// The claims to sign for an account or an operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrganisationToken {
    pub name: String,
    /// Further public keys that sign for it.
    pub valid_signers: Vec<String>,
}

/// From when to when a token counts, and when it was made. Times are seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    pub issued_at: u64,
    pub not_before: Option<u64>,
    pub expires: Option<u64>,
    /// The same token for the same statements, instead of an id of its own for each.
    pub is_reproducible: bool,
}

/// Why something cannot be signed. Never contains a seed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error("the key that signs does not fit: {0}")]
    Issuer(KeyError),
    #[error("the key it is signed for does not fit: {0}")]
    Subject(KeyError),
    #[error("the call alias {0:?} will not do: {1}")]
    Alias(String, &'static str),
    #[error(
        "a provider needs a contract (--capid, like wasmcloud:keyvalue), or nobody could be linked to it"
    )]
    NoContract,
    #[error(
        "the token would expire before it counts; give it more days (--expires) or let it count earlier (--nbf)"
    )]
    NeverCounts,
    #[error("the JSON schema of link values is no JSON: {0}")]
    Schema(serde_json::Error),
    #[error("no host takes that: {0}")]
    TooLarge(#[from] TooLarge),
    #[error("write the claims: {0}")]
    Claims(serde_json::Error),
}

impl Default for Term {
    /// Made now, counts at once and for ever.
    fn default() -> Self {
        Self { issued_at: now(), not_before: None, expires: None, is_reproducible: false }
    }
}

impl Term {
    /// Counts from and until so many days after it was made.
    pub fn days(self, not_before: Option<u64>, expires: Option<u64>) -> Result<Self, SignError> {
        let later = |days: u64| self.issued_at.saturating_add(days.saturating_mul(SECONDS_PER_DAY));
        let (not_before, expires) = (not_before.map(later), expires.map(later));
        if let (Some(from), Some(until)) = (not_before, expires)
            && until < from
        {
            return Err(SignError::NeverCounts);
        }
        Ok(Self { not_before, expires, ..self })
    }
}

#[derive(Serialize)]
struct Actor<'a> {
    name: &'a str,
    hash: &'a str,
    tags: &'a [String],
    caps: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    rev: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ver: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call_alias: Option<&'a str>,
    prov: bool,
}

#[derive(Serialize)]
struct Provider<'a> {
    name: &'a str,
    capid: &'a str,
    vendor: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rev: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ver: Option<&'a str>,
    target_hashes: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    config_schema: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Organisation<'a> {
    name: &'a str,
    valid_signers: &'a [String],
}

/// Signs a module or a component: whatever token it carries is replaced.
///
/// Hashes and copies the file: call it off the async threads.
pub fn module(
    wasm: &[u8],
    says: &ActorToken,
    subject: &SigningKey,
    issuer: &SigningKey,
    term: &Term,
) -> Result<Vec<u8>, SignError> {
    let mut signed = module::canonical(wasm)?;
    let token = actor_token(&signed, says, subject, issuer, term)?;
    module::append_token(&mut signed, &token);
    Ok(signed)
}

/// Makes a token of an actor whose module is elsewhere. It says nothing about code, so no host runs
/// anything by it.
pub fn actor(
    says: &ActorToken,
    subject: &SigningKey,
    issuer: &SigningKey,
    term: &Term,
) -> Result<String, SignError> {
    actor_token(&[], says, subject, issuer, term)
}

fn actor_token(
    code: &[u8],
    says: &ActorToken,
    subject: &SigningKey,
    issuer: &SigningKey,
    term: &Term,
) -> Result<String, SignError> {
    issuer.require(Kind::Account).map_err(SignError::Issuer)?;
    subject.require(Kind::Module).map_err(SignError::Subject)?;
    if let Some(alias) = &says.call_alias {
        check_alias(alias).map_err(|reason| SignError::Alias(alias.clone(), reason))?;
    }
    bounds::check(
        &[
            ("name", says.name.as_str()),
            ("version", says.version.as_deref().unwrap_or_default()),
            ("call alias", says.call_alias.as_deref().unwrap_or_default()),
        ],
        &[("capabilities", says.caps.as_slice()), ("tags", says.tags.as_slice())],
        None,
    )?;
    let hash = if code.is_empty() { String::new() } else { hex_upper(&sha256(code)) };
    let metadata = |hash| Actor {
        name: &says.name,
        hash,
        tags: &says.tags,
        caps: &says.caps,
        rev: says.revision,
        ver: says.version.as_deref(),
        call_alias: says.call_alias.as_deref(),
        prov: false,
    };
    let id = match term.is_reproducible {
        // Without the hash: the code itself goes into the id.
        true => derived_id(&claims("", metadata(""), subject, issuer, term), code)?,
        false => fresh_id(),
    };
    encode(&claims(&id, metadata(&hash), subject, issuer, term), issuer)
}

/// Makes the token of a provider.
pub fn provider(
    says: &ProviderToken,
    subject: &SigningKey,
    issuer: &SigningKey,
    term: &Term,
) -> Result<String, SignError> {
    issuer.require(Kind::Account).map_err(SignError::Issuer)?;
    subject.require(Kind::Service).map_err(SignError::Subject)?;
    if says.contract_id.is_empty() {
        return Err(SignError::NoContract);
    }
    bounds::check(
        &[
            ("name", says.name.as_str()),
            ("version", says.version.as_deref().unwrap_or_default()),
            ("vendor", says.vendor.as_str()),
            ("contract", says.contract_id.as_str()),
        ],
        &[],
        says.config_schema.as_deref(),
    )?;
    let schema = says
        .config_schema
        .clone()
        .map(RawValue::from_string)
        .transpose()
        .map_err(SignError::Schema)?;
    let metadata = Provider {
        name: &says.name,
        capid: &says.contract_id,
        vendor: &says.vendor,
        rev: says.revision,
        ver: says.version.as_deref(),
        target_hashes: &says.target_hashes,
        config_schema: schema,
    };
    sign(metadata, subject, issuer, term)
}

/// Makes the token of an account, which an operator signs.
pub fn account(
    says: &OrganisationToken,
    subject: &SigningKey,
    issuer: &SigningKey,
    term: &Term,
) -> Result<String, SignError> {
    issuer.require(Kind::Operator).map_err(SignError::Issuer)?;
    subject.require(Kind::Account).map_err(SignError::Subject)?;
    sign(
        Organisation { name: &says.name, valid_signers: &says.valid_signers },
        subject,
        issuer,
        term,
    )
}

/// Makes the token of an operator, who signs for itself.
pub fn operator(
    says: &OrganisationToken,
    key: &SigningKey,
    term: &Term,
) -> Result<String, SignError> {
    key.require(Kind::Operator).map_err(SignError::Issuer)?;
    sign(Organisation { name: &says.name, valid_signers: &says.valid_signers }, key, key, term)
}

fn sign<W: Serialize>(
    metadata: W,
    subject: &SigningKey,
    issuer: &SigningKey,
    term: &Term,
) -> Result<String, SignError> {
    let mut claims = claims("", metadata, subject, issuer, term);
    claims.jti = if term.is_reproducible { derived_id(&claims, &[])? } else { fresh_id() }.into();
    encode(&claims, issuer)
}

fn claims<'a, W>(
    id: &'a str,
    metadata: W,
    subject: &'a SigningKey,
    issuer: &'a SigningKey,
    term: &Term,
) -> Claims<'a, W> {
    Claims {
        exp: term.expires,
        jti: id.into(),
        iat: term.issued_at,
        iss: issuer.public_key().into(),
        sub: subject.public_key().into(),
        nbf: term.not_before,
        wascap: Some(metadata),
        wascap_revision: Some(WASCAP_REVISION),
    }
}

fn encode<W: Serialize>(claims: &Claims<'_, W>, issuer: &SigningKey) -> Result<String, SignError> {
    token::encode(claims, issuer).map_err(SignError::Claims)
}

/// Returns an error if a text is no call alias. An alias must not be taken for a public key, and
/// hosts of all years only accept these characters.
fn check_alias(alias: &str) -> Result<(), &'static str> {
    if alias.is_empty() {
        return Err("it is empty");
    }
    if alias.len() == KEY_CHARS
        && alias.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
    {
        return Err("it looks like a public key");
    }
    let is_allowed =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '/');
    if alias.chars().all(is_allowed) {
        Ok(())
    } else {
        Err("only lower-case letters, digits, _ and / are allowed")
    }
}

/// An id no other token has.
fn fresh_id() -> String {
    rand::rng().sample_iter(Alphanumeric).take(ID_CHARS).map(char::from).collect()
}

/// An id that differs whenever the code or any claim does.
fn derived_id<W: Serialize>(claims: &Claims<'_, W>, code: &[u8]) -> Result<String, SignError> {
    let mut bytes = serde_json::to_vec(claims).map_err(SignError::Claims)?;
    bytes.extend_from_slice(code);
    let mut id = BASE32_NOPAD.encode(&sha256(&bytes));
    id.truncate(ID_CHARS);
    Ok(id)
}

#[cfg(test)]
mod tests {
    use wascap::jwt::{
        Account, CapabilityProvider, Claims as Theirs, Operator, WascapEntity, validate_token,
    };

    use super::*;
    use crate::identity::{
        ModuleKind, VerifyOptions,
        claims::{ActorClaims, code, tests::TOKEN},
        provider::ProviderClaims,
        samples::{ACCOUNT, ACTOR, PROVIDER},
        verify_module,
    };

    fn key(seed: &str) -> SigningKey {
        SigningKey::from_seed(seed).unwrap()
    }

    fn says() -> ActorToken {
        ActorToken {
            name: "sample".into(),
            caps: vec!["wasmcloud:keyvalue".into()],
            tags: vec![],
            revision: Some(1),
            version: Some("0.1.0".into()),
            call_alias: Some("sample".into()),
        }
    }

    fn term() -> Term {
        Term { issued_at: 1_656_547_200, not_before: None, expires: None, is_reproducible: true }
    }

    fn signed(wasm: &[u8], term: &Term) -> Vec<u8> {
        module(wasm, &says(), &key(ACTOR.seed), &key(ACCOUNT.seed), term).unwrap()
    }

    fn core_module() -> Vec<u8> {
        wat::parse_str(r#"(module (memory 1) (func (export "f") (result i32) i32.const 7))"#)
            .unwrap()
    }

    /// A component around a module that was signed by itself, as old tools leave it.
    fn component() -> Vec<u8> {
        let inner = signed(&core_module(), &term());
        let mut component = b"\0asm\x0d\0\x01\0\x01".to_vec();
        // A size in five bytes, as some linkers write it.
        let length = inner.len() as u32;
        component.extend(
            (0..5).map(|at| (length >> (7 * at)) as u8 & 0x7F | if at < 4 { 0x80 } else { 0 }),
        );
        component.extend(inner);
        component
    }

    fn validated<T: serde::Serialize + serde::de::DeserializeOwned + WascapEntity>(
        token: &str,
    ) -> Theirs<T> {
        let checked = validate_token::<T>(token).unwrap();
        assert!(
            checked.signature_valid && !checked.expired && !checked.cannot_use_yet,
            "{checked:?}"
        );
        Theirs::decode(token).unwrap()
    }

    #[test]
    fn the_known_token_is_reproduced_but_for_its_id() {
        let wasm = signed(b"\0asm\x01\0\0\0", &term());
        let token = module::token(&wasm).unwrap();
        let json = |token: &str| {
            let json = data_encoding::BASE64URL_NOPAD
                .decode(token.split('.').nth(1).unwrap().as_bytes())
                .unwrap();
            String::from_utf8(json).unwrap()
        };
        let (ours, known) = (json(token), json(TOKEN));
        let id = |json: &str| json.split('"').nth(3).unwrap().to_owned();
        assert_eq!(ours.replace(&id(&ours), &id(&known)), known);
    }

    #[test]
    fn modules_and_components_are_signed_like_by_the_peer() {
        for (wasm, kind) in
            [(core_module(), ModuleKind::Core), (component(), ModuleKind::Component)]
        {
            let ours = signed(&wasm, &Term { is_reproducible: false, ..term() });
            let verified = verify_module(&ours, now(), &VerifyOptions::default()).unwrap();
            assert_eq!((verified.kind, verified.claims.caps.len()), (kind, 1));
            let theirs = wascap::wasm::extract_claims(&ours).unwrap().unwrap();
            assert_eq!(
                (theirs.claims.subject.as_str(), theirs.claims.issuer.as_str()),
                (ACTOR.public, ACCOUNT.public)
            );
            assert_eq!(theirs.claims.id.len(), ID_CHARS);
            // With the same claims the peer writes the same file.
            let account = wascap::prelude::KeyPair::from_seed(ACCOUNT.seed).unwrap();
            assert_eq!(wascap::wasm::embed_claims(&wasm, &theirs.claims, &account).unwrap(), ours);
        }
    }

    #[test]
    fn signed_again_it_is_the_same_code_with_one_token() {
        let once = signed(&core_module(), &term());
        let other = ActorToken { caps: vec![], ..says() };
        let again = module(&once, &other, &key(ACTOR.seed), &key(ACCOUNT.seed), &term()).unwrap();
        let verify = |wasm: &[u8]| verify_module(wasm, now(), &VerifyOptions::default()).unwrap();
        assert_eq!(verify(&once).code_hash, verify(&again).code_hash);
        assert_eq!(code(&once).unwrap(), code(&again).unwrap());
        assert!(verify(&again).claims.caps.is_empty());
        assert_eq!(signed(&again, &term()), once);
    }

    #[test]
    fn ids_are_fresh_unless_the_token_is_to_be_reproducible() {
        let id = |term: &Term| {
            let wasm = signed(&core_module(), term);
            wascap::wasm::extract_claims(&wasm).unwrap().unwrap().claims.id
        };
        assert_eq!(id(&term()), id(&term()));
        assert_ne!(id(&term()), id(&Term { issued_at: 1, ..term() }));
        let fresh = Term { is_reproducible: false, ..term() };
        assert_ne!(id(&fresh), id(&fresh));
    }

    #[test]
    fn a_term_is_counted_in_days_and_must_not_end_before_it_begins() {
        let in_days = term().days(Some(1), Some(2)).unwrap();
        let wasm = signed(&core_module(), &in_days);
        let claims =
            ActorClaims::verify(module::token(&wasm).unwrap(), 1_656_547_200 + 86_400).unwrap();
        assert_eq!(claims.not_before, Some(1_656_547_200 + 86_400));
        assert_eq!(claims.expires, Some(1_656_547_200 + 2 * 86_400));
        assert!(matches!(term().days(Some(2), Some(1)), Err(SignError::NeverCounts)));
        assert_eq!(term().days(None, Some(u64::MAX)).unwrap().expires, Some(u64::MAX));
    }

    #[test]
    fn tokens_of_all_kinds_are_accepted_by_the_peer() {
        let (account_key, provider_key) = (key(ACCOUNT.seed), key(PROVIDER.seed));
        let (operator_key, _) = SigningKey::generate(Kind::Operator).unwrap();
        let says = ProviderToken {
            name: "Store".into(),
            contract_id: "wasmcloud:keyvalue".into(),
            vendor: "acme".into(),
            revision: Some(4),
            version: Some("0.2.0".into()),
            target_hashes: BTreeMap::from([("x86_64-linux".into(), "AB".into())]),
            config_schema: Some(r#"{"z":1,"a":2}"#.into()),
        };
        let token = provider(&says, &provider_key, &account_key, &Term::default()).unwrap();
        let theirs = validated::<CapabilityProvider>(&token);
        let metadata = theirs.metadata.unwrap();
        assert_eq!(
            (metadata.capid, metadata.vendor, metadata.rev),
            (says.contract_id.clone(), says.vendor, Some(4))
        );
        assert_eq!(metadata.target_hashes["x86_64-linux"], "AB");
        assert_eq!(metadata.config_schema, Some(serde_json::json!({"z": 1, "a": 2})));
        let ours = ProviderClaims::verify(&token, now()).unwrap();
        assert_eq!(ours.config_schema, says.config_schema);

        let says =
            OrganisationToken { name: "acme".into(), valid_signers: vec![ACCOUNT.public.into()] };
        let token = account(&says, &account_key, &operator_key, &Term::default()).unwrap();
        let theirs = validated::<Account>(&token);
        assert_eq!(theirs.issuer, operator_key.public_key());
        assert_eq!(theirs.metadata.unwrap().valid_signers, Some(says.valid_signers.clone()));
        let token = operator(&says, &operator_key, &Term::default()).unwrap();
        let theirs = validated::<Operator>(&token);
        assert_eq!(
            (theirs.subject.as_str(), theirs.name()),
            (operator_key.public_key(), "acme".to_owned())
        );
    }

    #[test]
    fn keys_of_the_wrong_kind_and_odd_aliases_are_refused() {
        let (actor_key, account_key) = (key(ACTOR.seed), key(ACCOUNT.seed));
        let sign = |says: &ActorToken, subject, issuer| actor(says, subject, issuer, &term());
        let error = sign(&says(), &actor_key, &actor_key).unwrap_err();
        assert!(matches!(error, SignError::Issuer(KeyError::SeedKind { .. })), "{error}");
        let error = sign(&says(), &account_key, &account_key).unwrap_err();
        assert!(error.to_string().contains("expected the seed of an actor"), "{error}");
        for alias in ["", "My Alias", "a.b", "Ä", ACTOR.public] {
            let odd = ActorToken { call_alias: Some(alias.into()), ..says() };
            assert!(
                matches!(sign(&odd, &actor_key, &account_key), Err(SignError::Alias(..))),
                "{alias}"
            );
        }
        let many = ActorToken { tags: vec!["t".into(); 1000], ..says() };
        let error = sign(&many, &actor_key, &account_key).unwrap_err();
        assert!(error.to_string().contains("1000 tags, hosts take 64"), "{error}");
        let nothing = ProviderToken::default();
        let error = provider(&nothing, &key(PROVIDER.seed), &account_key, &term()).unwrap_err();
        assert!(matches!(error, SignError::NoContract));
        assert!(matches!(module::canonical(b"no wasm"), Err(ModuleError::NotWasm)));
    }
}
