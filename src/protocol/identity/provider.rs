//! The claims of a capability provider, as its token has them.
//!
//! The token lies beside the executables of a provider archive (protocol, sections 7.3 and 8.1). It
//! is signed by an account (`A…`), speaks about a provider (`V…`), and holds a hash of each
//! executable, so the archive needs no other signature. The peers never check this signature; we
//! do. Whether the hashes fit is the archive reader's question, in `providers::archive`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    bounds::{self, TooLarge},
    claims::{ClaimsError, signed_by_account},
    keys::ProviderId,
    token::Compact,
    validity,
};
use crate::serde_null::null_as_default;

/// The verified statements of a provider's token. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderClaims {
    pub subject: ProviderId,
    /// The public key of the signing account, `A…`.
    pub issuer: String,
    pub name: Option<String>,
    pub vendor: String,
    pub revision: Option<i32>,
    pub version: Option<String>,
    /// The contract it fulfils, `capid` in the token. Never empty.
    pub contract_id: String,
    /// SHA-256 of each executable as hex, by target (`x86_64-linux`).
    pub target_hashes: BTreeMap<String, String>,
    /// A JSON schema of link values, as JSON text.
    pub config_schema: Option<String>,
    pub issued_at: u64,
    pub expires: Option<u64>,
    pub not_before: Option<u64>,
}

/// The `wascap` member of a provider's token. Everything may be missing here, so that the token of
/// something else gets as far as the check of its subject, which explains more than a missing
/// member.
#[derive(Deserialize)]
struct Metadata<'a> {
    name: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    capid: String,
    #[serde(default, deserialize_with = "null_as_default")]
    vendor: String,
    rev: Option<i32>,
    ver: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    target_hashes: BTreeMap<String, String>,
    #[serde(borrow)]
    config_schema: Option<&'a RawValue>,
}

validity::methods!(ProviderClaims);

impl ProviderClaims {
    /// Reads a provider's token and checks header, signature, times, issuer and subject.
    pub fn verify(token: &str, now: u64) -> Result<Self, ClaimsError> {
        let compact = Compact::parse(token)?;
        let claims = signed_by_account::<Metadata<'_>>(&compact, now)?;
        let subject = ProviderId::parse(&claims.sub).map_err(ClaimsError::NotAProvider)?;
        let metadata = claims.wascap.ok_or(ClaimsError::NoProviderMetadata)?;
        if metadata.capid.is_empty() {
            return Err(ClaimsError::NoContract);
        }
        let provider = Self {
            subject,
            issuer: claims.iss.into_owned(),
            name: metadata.name,
            vendor: metadata.vendor,
            revision: metadata.rev,
            version: metadata.ver,
            contract_id: metadata.capid,
            target_hashes: metadata.target_hashes,
            config_schema: metadata.config_schema.map(|schema| schema.get().to_owned()),
            issued_at: claims.iat,
            expires: claims.exp,
            not_before: claims.nbf,
        };
        provider.check_size()?;
        Ok(provider)
    }

    fn check_size(&self) -> Result<(), TooLarge> {
        bounds::check(
            &[
                ("name", self.name.as_deref().unwrap_or_default()),
                ("version", self.version.as_deref().unwrap_or_default()),
                ("vendor", self.vendor.as_str()),
                ("contract", self.contract_id.as_str()),
            ],
            &[],
            self.config_schema.as_deref(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use wascap::{
        jwt::{CapabilityProvider, Claims},
        prelude::KeyPair,
    };

    use super::*;
    use crate::identity::{
        keys::KeyError,
        samples::{ACCOUNT, ACTOR, PROVIDER},
        signature::SigningKey,
        token::{TokenError, encode_json},
    };

    const HASH: &str = "93A44BBB96C751218E4C00D479E4C14358122A389ACCA16205B1E4D0DC5F9476";

    /// The claims that the real signing library makes.
    fn real() -> Claims<CapabilityProvider> {
        Claims::<CapabilityProvider>::with_dates(
            "Sample".into(),
            ACCOUNT.public.into(),
            PROVIDER.public.into(),
            "wasmcloud:keyvalue".into(),
            "Vendor".into(),
            Some(4),
            Some("0.2.1".into()),
            HashMap::from([("x86_64-linux".into(), HASH.into())]),
            Some(1000),
            Some(2000),
        )
    }

    fn encode(claims: &Claims<CapabilityProvider>) -> String {
        claims.encode(&KeyPair::from_seed(ACCOUNT.seed).unwrap()).unwrap()
    }

    #[test]
    fn a_token_of_the_real_library_is_read_whole() {
        let mut signed = real();
        signed.metadata.as_mut().unwrap().config_schema =
            Some(serde_json::json!({"type": "object"}));
        let claims = ProviderClaims::verify(&encode(&signed), 1500).unwrap();
        let expected = ProviderClaims {
            subject: ProviderId::parse(PROVIDER.public).unwrap(),
            issuer: ACCOUNT.public.into(),
            name: Some("Sample".into()),
            vendor: "Vendor".into(),
            revision: Some(4),
            version: Some("0.2.1".into()),
            contract_id: "wasmcloud:keyvalue".into(),
            target_hashes: BTreeMap::from([("x86_64-linux".into(), HASH.into())]),
            config_schema: Some(r#"{"type":"object"}"#.into()),
            issued_at: signed.issued_at,
            expires: Some(2000),
            not_before: Some(1000),
        };
        assert_eq!(claims, expected);
        assert_eq!(claims.effective_revision(), 4);
        assert!(claims.expires_human().ends_with("days ago") && claims.is_expired(2001));
    }

    #[test]
    fn a_token_counts_in_its_time_only() {
        let token = encode(&real());
        assert!(matches!(
            ProviderClaims::verify(&token, 999),
            Err(ClaimsError::Token(TokenError::NotYet))
        ));
        assert!(matches!(
            ProviderClaims::verify(&token, 2001),
            Err(ClaimsError::Token(TokenError::Expired))
        ));
    }

    #[test]
    fn only_an_account_may_vouch_and_only_for_a_provider() {
        let mut other_subject = real();
        other_subject.subject = ACTOR.public.into();
        let error = ProviderClaims::verify(&encode(&other_subject), 1500).unwrap_err();
        assert!(matches!(error, ClaimsError::NotAProvider(KeyError::Kind { .. })), "{error}");

        let token = encode(&real());
        let (body, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = body.split_once('.').unwrap();
        let changed = data_encoding::BASE64URL_NOPAD.encode(
            serde_json::to_string(&real())
                .unwrap()
                .replace("wasmcloud:keyvalue", "wasmcloud:messaging")
                .as_bytes(),
        );
        let error =
            ProviderClaims::verify(&format!("{header}.{changed}.{signature}"), 1500).unwrap_err();
        assert!(matches!(error, ClaimsError::Token(TokenError::BadSignature)), "{error}");
    }

    #[test]
    fn an_actors_token_is_told_from_a_providers() {
        let error =
            ProviderClaims::verify(crate::identity::claims::tests::TOKEN, 1500).unwrap_err();
        assert!(error.to_string().contains("no capability provider"), "{error}");
    }

    #[test]
    fn a_provider_without_contract_or_statements_is_refused() {
        let sign = |wascap: &str| {
            let json = format!(
                r#"{{"jti":"","iat":7,"iss":"{}","sub":"{}"{wascap}}}"#,
                ACCOUNT.public, PROVIDER.public
            );
            ProviderClaims::verify(
                &encode_json(json.as_bytes(), &SigningKey::from_seed(ACCOUNT.seed).unwrap()),
                10,
            )
        };
        assert!(matches!(sign(""), Err(ClaimsError::NoProviderMetadata)));
        assert!(matches!(sign(r#","wascap":{"vendor":"v"}"#), Err(ClaimsError::NoContract)));
        let schema = "s".repeat(70_000);
        let large = sign(&format!(r#","wascap":{{"capid":"c","config_schema":"{schema}"}}"#));
        assert!(matches!(large, Err(ClaimsError::TooLarge(_))));
        let bare = sign(
            r#","wascap":{"name":null,"capid":"c","config_schema":null,"target_hashes":null}"#,
        )
        .unwrap();
        assert_eq!(
            (bare.name.as_deref(), bare.config_schema.as_deref(), bare.effective_revision()),
            (None, None, 7)
        );
    }
}
