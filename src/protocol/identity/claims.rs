//! The claims of an actor, as its token has them.
//!
//! The token inside a module is signed by an account (`A…`), named as issuer, and speaks about a
//! module (`M…`), named as subject. Both prefixes and the signature are checked here; whether the
//! token belongs to the code it was found in is [`module`](super::module)'s question.

use serde::Deserialize;

use super::{
    bounds::{self, TooLarge},
    keys::{ActorId, KeyError, Kind},
    signature::VerifyingKey,
    token::{self, Compact, TokenError},
    validity,
};

pub use super::module::{
    ModuleError, ModuleKind, VerifiedModule, VerifyOptions, code, verify_module,
};
pub use super::validity::now;

/// The verified statements of an actor's token. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorClaims {
    pub subject: ActorId,
    /// The public key of the signing account, `A…`.
    pub issuer: String,
    pub name: Option<String>,
    /// Contract ids the actor may use, compared literally.
    pub caps: Vec<String>,
    pub tags: Vec<String>,
    pub revision: Option<i32>,
    pub version: Option<String>,
    /// An alternative name to call the actor by, as it was normalised by the signer. Never empty.
    pub call_alias: Option<String>,
    pub issued_at: u64,
    pub expires: Option<u64>,
    pub not_before: Option<u64>,
    /// SHA-256 of the module without its token, upper-case hex.
    pub hash: String,
}

/// Why a text is no token of an actor, or of a capability provider.
#[derive(Debug, thiserror::Error)]
pub enum ClaimsError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("the token says nothing about an actor, it has no `wascap` part")]
    NoMetadata,
    #[error("the token's issuer is no account: {0}")]
    Issuer(KeyError),
    #[error("the token's subject is no actor: {0}")]
    Subject(KeyError),
    #[error("the token says nothing about a capability provider, it has no `wascap` part")]
    NoProviderMetadata,
    #[error("the token's subject is no capability provider: {0}")]
    NotAProvider(KeyError),
    #[error("the token names no contract (`capid`), so nobody could be linked to this provider")]
    NoContract,
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

/// The `wascap` member of an actor's token.
#[derive(Deserialize)]
struct Metadata {
    name: Option<String>,
    hash: String,
    tags: Option<Vec<String>>,
    caps: Option<Vec<String>>,
    rev: Option<i32>,
    ver: Option<String>,
    call_alias: Option<String>,
}

validity::methods!(ActorClaims);

/// A token that was checked.
pub(super) struct Checked {
    pub(super) claims: ActorClaims,
    /// The `wascap_revision`, which tells how old the signing tool was.
    pub(super) revision: Option<u32>,
    /// Whether there is a list of capabilities, and be it empty; tools since wascap 0.14 write
    /// none.
    pub(super) names_caps: bool,
}

impl ActorClaims {
    /// Reads an actor's token and checks header, signature, times, issuer and subject.
    pub fn verify(token: &str, now: u64) -> Result<Self, ClaimsError> {
        Self::check(token, now).map(|checked| checked.claims)
    }

    /// Also tells what counts only beside the module that carries the token.
    pub(super) fn check(token: &str, now: u64) -> Result<Checked, ClaimsError> {
        let compact = Compact::parse(token)?;
        let claims = signed_by_account::<Metadata>(&compact, now)?;
        let subject = ActorId::parse(&claims.sub).map_err(ClaimsError::Subject)?;
        let metadata = claims.wascap.ok_or(ClaimsError::NoMetadata)?;
        let names_caps = metadata.caps.is_some();
        let actor = Self {
            subject,
            issuer: claims.iss.into_owned(),
            name: metadata.name,
            caps: metadata.caps.unwrap_or_default(),
            tags: metadata.tags.unwrap_or_default(),
            revision: metadata.rev,
            version: metadata.ver,
            call_alias: metadata.call_alias.filter(|alias| !alias.is_empty()),
            issued_at: claims.iat,
            expires: claims.exp,
            not_before: claims.nbf,
            hash: metadata.hash,
        };
        actor.check_size()?;
        Ok(Checked { claims: actor, revision: claims.wascap_revision, names_caps })
    }

    fn check_size(&self) -> Result<(), TooLarge> {
        bounds::check(
            &[
                ("name", self.name.as_deref().unwrap_or_default()),
                ("version", self.version.as_deref().unwrap_or_default()),
                ("call alias", self.call_alias.as_deref().unwrap_or_default()),
                ("hash", self.hash.as_str()),
            ],
            &[("capabilities", self.caps.as_slice()), ("tags", self.tags.as_slice())],
            None,
        )
    }
}

/// Reads the claims of a token that an account signed, and checks signature and times. The subject
/// is left to the caller, who knows what it must be.
pub(super) fn signed_by_account<'c, W: Deserialize<'c>>(
    compact: &'c Compact<'_>,
    now: u64,
) -> Result<token::Claims<'c, W>, ClaimsError> {
    let claims = compact.claims::<W>()?;
    let key = VerifyingKey::parse(&claims.iss, Kind::Account).map_err(ClaimsError::Issuer)?;
    compact.verify(&key)?;
    claims.check_time(now)?;
    Ok(claims)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::identity::{
        samples::{ACCOUNT, ACTOR, PROVIDER},
        signature::SigningKey,
        token::encode_json,
    };

    /// The known token of an actor, made for the empty core module.
    pub(in crate::identity) const TOKEN: &str = concat!(
        "eyJ0eXAiOiJqd3QiLCJhbGciOiJFZDI1NTE5In0.eyJqdGkiOiJBYzdvckowdGlFeGFtcGxlTnVpZDIyIiwiaWF0IjoxNjU2NTQ3MjAwLCJp",
        "c3MiOiJBQlhIVUhHNUZHWUxQRDZSSEwyTUtXTVA1NzJPNktVWENaWERaSlhTNFQ1N1pUTUFLQk43REFRSSIsInN1YiI6Ik1EV1VTS0dHRkRJ",
        "NEZSWEs1RUJUUkVDWlNWUVNTV0pISEpPR0g2SldHM0FVTUZGTVE0MzVDMkpaIiwid2FzY2FwIjp7Im5hbWUiOiJzYW1wbGUiLCJoYXNoIjoi",
        "OTNBNDRCQkI5NkM3NTEyMThFNEMwMEQ0NzlFNEMxNDM1ODEyMkEzODlBQ0NBMTYyMDVCMUU0RDBEQzVGOTQ3NiIsInRhZ3MiOltdLCJjYXBz",
        "IjpbIndhc21jbG91ZDprZXl2YWx1ZSJdLCJyZXYiOjEsInZlciI6IjAuMS4wIiwiY2FsbF9hbGlhcyI6InNhbXBsZSIsInByb3YiOmZhbHNl",
        "fSwid2FzY2FwX3JldmlzaW9uIjozfQ.cpg9Jamy8Lmn2ej5Jp1Xgt2Okt83m0v6B9F8rc3vcu37X_a9De1lGnSOgRhzdzevwHZPUrtNFJ38hW",
        "esijJABg"
    );
    pub(in crate::identity) const TOKEN_JSON: &str = concat!(
        r#"{"jti":"Ac7orJ0tiExampleNuid22","iat":1656547200,"#,
        r#""iss":"ABXHUHG5FGYLPD6RHL2MKWMP572O6KUXCZXDZJXS4T57ZTMAKBN7DAQI","#,
        r#""sub":"MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ","wascap":{"name":"sample","#,
        r#""hash":"93A44BBB96C751218E4C00D479E4C14358122A389ACCA16205B1E4D0DC5F9476","#,
        r#""tags":[],"caps":["wasmcloud:keyvalue"],"rev":1,"ver":"0.1.0","call_alias":"sample","prov":false},"#,
        r#""wascap_revision":3}"#
    );

    pub(in crate::identity) fn sign(json: &str) -> String {
        encode_json(json.as_bytes(), &SigningKey::from_seed(ACCOUNT.seed).unwrap())
    }

    #[test]
    fn the_known_token_is_read_and_reproduced() {
        assert_eq!(TOKEN.len(), 657);
        assert_eq!(sign(TOKEN_JSON), TOKEN);
        let Checked { claims, revision, names_caps } = ActorClaims::check(TOKEN, 0).unwrap();
        assert_eq!((revision, names_caps), (Some(3), true));
        assert_eq!(claims.subject, ACTOR.public);
        assert_eq!(claims.issuer, ACCOUNT.public);
        assert_eq!(claims.name.as_deref(), Some("sample"));
        assert_eq!(claims.call_alias.as_deref(), Some("sample"));
        assert_eq!(claims.version.as_deref(), Some("0.1.0"));
        assert_eq!(claims.issued_at, 1_656_547_200);
        assert_eq!(claims.caps, ["wasmcloud:keyvalue"]);
        assert_eq!(claims.expires_human(), "never");
        assert_eq!(claims.not_before_human(), "immediately");
    }

    #[test]
    fn a_peer_accepts_our_token() {
        let checked = wascap::jwt::validate_token::<wascap::jwt::Actor>(&sign(TOKEN_JSON)).unwrap();
        assert!(checked.signature_valid && !checked.expired && !checked.cannot_use_yet);
    }

    #[test]
    fn each_fault_has_its_own_error() {
        let case = |from: &str, to: &str| {
            assert!(TOKEN_JSON.contains(from), "{from}");
            ActorClaims::verify(&sign(&TOKEN_JSON.replace(from, to)), 1000)
        };
        assert!(matches!(
            case(ACCOUNT.public, PROVIDER.public),
            Err(ClaimsError::Issuer(KeyError::Kind { .. }))
        ));
        let forged =
            encode_json(TOKEN_JSON.as_bytes(), &SigningKey::from_seed(ACTOR.seed).unwrap());
        assert!(matches!(
            ActorClaims::verify(&forged, 1000),
            Err(ClaimsError::Token(TokenError::BadSignature))
        ));
        assert!(matches!(
            case(ACTOR.public, PROVIDER.public),
            Err(ClaimsError::Subject(KeyError::Kind { .. }))
        ));
        assert!(matches!(
            case("\"iat\"", "\"exp\":999,\"iat\""),
            Err(ClaimsError::Token(TokenError::Expired))
        ));
        assert!(matches!(
            case("\"iat\"", "\"nbf\":1001,\"iat\""),
            Err(ClaimsError::Token(TokenError::NotYet))
        ));
        assert!(matches!(case("\"wascap\"", "\"other\""), Err(ClaimsError::NoMetadata)));
        assert!(matches!(
            case("\"hash\"", "\"hush\""),
            Err(ClaimsError::Token(TokenError::Claims(_)))
        ));
        let tags = format!("\"tags\":[\"{}\"]", "t".repeat(20_000));
        assert!(matches!(case("\"tags\":[]", &tags), Err(ClaimsError::TooLarge(_))));
        assert!(case("\"iat\"", "\"exp\":1000,\"nbf\":1000,\"iat\"").is_ok());
    }

    #[test]
    fn absent_and_null_members_are_the_same() {
        let bare = r#"{"jti":"","iat":7,"iss":"ABXHUHG5FGYLPD6RHL2MKWMP572O6KUXCZXDZJXS4T57ZTMAKBN7DAQI",
            "sub":"MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ","wascap":{"hash":"",
            "caps":null,"name":null,"call_alias":""}}"#;
        let claims = ActorClaims::verify(&sign(bare), 0).unwrap();
        assert_eq!((claims.caps.len(), claims.tags.len()), (0, 0));
        assert_eq!((claims.name, claims.call_alias), (None, None));
    }

    #[test]
    fn a_missing_or_senseless_revision_is_the_time_of_signing() {
        let mut claims = ActorClaims::verify(TOKEN, 0).unwrap();
        assert_eq!(claims.effective_revision(), 1);
        for revision in [None, Some(0), Some(-3)] {
            claims.revision = revision;
            assert_eq!(claims.effective_revision(), 1_656_547_200);
        }
    }

    #[test]
    fn the_last_second_still_counts() {
        let mut claims = ActorClaims::verify(TOKEN, 0).unwrap();
        claims.expires = Some(5);
        assert!(!claims.is_expired(5) && claims.is_expired(6));
    }
}
