use proptest::prelude::*;
use wascap::{prelude::KeyPair, wasm::sign_buffer_with_claims};

use super::*;
use crate::identity::{
    claims::tests::{TOKEN, TOKEN_JSON, sign},
    digest::sha256,
    samples::{ACCOUNT, ACTOR},
    token::TokenError,
};

const NOW: u64 = 1_700_000_000;

fn verify(wasm: &[u8]) -> Result<VerifiedModule, ModuleError> {
    verify_module(wasm, NOW, &VerifyOptions::default())
}

fn section(id: u8, payload: &[u8]) -> Vec<u8> {
    let (size, used) = shortest_leb128(payload.len());
    [&[id], &size[..used], payload].concat()
}

/// A section whose size is written with five bytes, as some linkers do.
fn padded_section(id: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len();
    assert!(length < 128);
    [&[id, length as u8 | 0x80, 0x80, 0x80, 0x80, 0], payload].concat()
}

fn custom(name: &str, content: &[u8]) -> Vec<u8> {
    section(0, &[&[name.len() as u8], name.as_bytes(), content].concat())
}

fn with_token(wasm: &[u8], name: &str, hash: &str, revision: &str) -> Vec<u8> {
    let known = "93A44BBB96C751218E4C00D479E4C14358122A389ACCA16205B1E4D0DC5F9476";
    let json = TOKEN_JSON.replace(known, hash).replace(",\"wascap_revision\":3", revision);
    [wasm, &custom(name, sign(&json).as_bytes())].concat()
}

fn core_module() -> Vec<u8> {
    wat::parse_str(r#"(module (memory 1) (func (export "f") (result i32) i32.const 7))"#).unwrap()
}

fn component() -> Vec<u8> {
    wat::parse_str(
        r#"(component
             (core module $m (func (export "f")))
             (component $c (core module (memory 1)) (component (core module (memory 2)))))"#,
    )
    .unwrap()
}

/// Signs with the real tool, for the known actor and account.
fn sign_as_peer(wasm: &[u8], expires_in_days: Option<u64>) -> Vec<u8> {
    sign_buffer_with_claims(
        "sample".into(),
        wasm,
        &KeyPair::from_seed(ACTOR.seed).unwrap(),
        &KeyPair::from_seed(ACCOUNT.seed).unwrap(),
        expires_in_days,
        None,
        vec!["wasmcloud:httpserver".into()],
        vec!["tag".into()],
        false,
        Some(4),
        Some("0.4.0".into()),
        Some("My Alias".into()),
    )
    .unwrap()
}

#[test]
fn the_known_minimal_module_is_accepted() {
    for name in [SECTION_OLD, SECTION_NEW] {
        let wasm = [CORE_HEADER.as_slice(), &custom(name, TOKEN.as_bytes())].concat();
        let verified = verify(&wasm).unwrap();
        assert_eq!(verified.claims.subject, ACTOR.public);
        assert_eq!(verified.kind, ModuleKind::Core);
        assert_eq!(verified.code_hash, sha256(&CORE_HEADER));
    }
}

#[test]
fn modules_and_components_signed_by_the_peer_are_accepted() {
    for (wasm, kind) in [(core_module(), ModuleKind::Core), (component(), ModuleKind::Component)] {
        let signed = sign_as_peer(&wasm, None);
        let verified = verify(&signed).unwrap();
        assert_eq!(verified.kind, kind);
        assert_eq!(verified.claims.subject, ACTOR.public);
        assert_eq!(verified.claims.issuer, ACCOUNT.public);
        assert_eq!(verified.claims.caps, ["wasmcloud:httpserver"]);
        assert_eq!(verified.claims.tags, ["tag"]);
        assert_eq!(verified.claims.revision, Some(4));
        assert_eq!(verified.claims.call_alias.as_deref(), Some("my_alias"));

        // Signed twice is signed once, and it is the same code.
        let again = verify(&sign_as_peer(&signed, Some(30_000))).unwrap();
        assert_eq!(again.code_hash, verified.code_hash);
    }
}

#[test]
fn a_peer_finds_our_token_and_agrees_with_our_hash() {
    for wasm in [core_module(), component()] {
        let hash = hex_upper(&canonical_hash(&wasm).unwrap());
        let signed = with_token(&wasm, SECTION_NEW, &hash, ",\"wascap_revision\":3");
        let token = wascap::wasm::extract_claims(&signed).unwrap().unwrap();
        assert_eq!(token.claims.subject, ACTOR.public);
        verify(&signed).unwrap();
    }
}

#[test]
fn nested_tokens_neither_name_the_actor_nor_change_the_code() {
    let inner = [core_module(), custom(SECTION_OLD, TOKEN.as_bytes())].concat();
    let plain = [&COMPONENT_HEADER, section(1, &core_module()).as_slice()].concat();
    let wrapped = [&COMPONENT_HEADER, section(1, &inner).as_slice()].concat();
    assert!(matches!(verify(&wrapped), Err(ModuleError::Unsigned)));

    let plain = verify(&sign_as_peer(&plain, None)).unwrap();
    let wrapped = verify(&sign_as_peer(&wrapped, None)).unwrap();
    assert_eq!(plain.code_hash, wrapped.code_hash);
}

#[test]
fn padded_sizes_fit_raw_or_canonical() {
    let payload = custom("name", b"x");
    let padded = [&CORE_HEADER, padded_section(0, &payload[2..]).as_slice()].concat();
    let minimal = [&CORE_HEADER, payload.as_slice()].concat();
    let raw = hex_upper(&sha256(&padded));
    let canonical = hex_upper(&sha256(&minimal));
    assert_ne!(raw, canonical);
    for hash in [&raw, &canonical] {
        for revision in ["", ",\"wascap_revision\":2", ",\"wascap_revision\":3"] {
            let wasm = with_token(&padded, SECTION_NEW, hash, revision);
            assert_eq!(verify(&wasm).unwrap().code_hash, sha256(&minimal));
        }
    }

    // The same inside a component, whose own size changes with it.
    let outer = [&COMPONENT_HEADER, section(1, &padded).as_slice()].concat();
    let expected = [&COMPONENT_HEADER, section(1, &minimal).as_slice()].concat();
    assert_eq!(canonical_hash(&outer).unwrap(), sha256(&expected));
    verify(&sign_as_peer(&outer, None)).unwrap();
}

#[test]
fn changed_code_is_refused_whatever_the_revision() {
    for (revision, tolerated) in
        [("", false), (",\"wascap_revision\":2", true), (",\"wascap_revision\":3", false)]
    {
        let wasm = with_token(&core_module(), SECTION_NEW, "00", revision);
        assert!(matches!(verify(&wasm), Err(ModuleError::HashMismatch { .. })));
        let lax =
            VerifyOptions { accept_wrong_hash_of_revision_2: true, ..VerifyOptions::default() };
        assert_eq!(verify_module(&wasm, NOW, &lax).is_ok(), tolerated);
    }
}

#[test]
fn the_newer_section_is_preferred_and_duplicates_are_refused() {
    let hash = hex_upper(&sha256(&CORE_HEADER));
    let new = with_token(&CORE_HEADER, SECTION_NEW, &hash, "");
    let both = [new.as_slice(), &custom(SECTION_OLD, b"not a token")].concat();
    verify(&both).unwrap();

    for name in [SECTION_OLD, SECTION_NEW] {
        let token = custom(name, TOKEN.as_bytes());
        let twice = [CORE_HEADER.as_slice(), &token, &token].concat();
        match verify(&twice) {
            Err(ModuleError::DuplicateToken(found)) => assert_eq!(found, name),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn each_fault_has_its_own_error() {
    assert!(matches!(verify(b""), Err(ModuleError::NotWasm)));
    assert!(matches!(verify(b"\x7fELF...."), Err(ModuleError::NotWasm)));
    assert!(matches!(verify(b"\0asm\x0c\0\x01\0"), Err(ModuleError::PreReleaseComponent(0x0c))));
    assert!(matches!(
        verify(b"\0asm\x02\0\0\0"),
        Err(ModuleError::UnknownVersion { version: 2, layer: 0 })
    ));
    let unsigned = verify(&core_module()).unwrap_err();
    assert!(unsigned.to_string().contains("host claims sign"));
    assert!(matches!(unsigned, ModuleError::Unsigned));
    assert!(matches!(
        verify(b"\0asm\x01\0\0\0\x01\x05a"),
        Err(ModuleError::Malformed { offset: 10, .. })
    ));
    let text = [&CORE_HEADER, custom(SECTION_NEW, b"\xff").as_slice()].concat();
    assert!(matches!(verify(&text), Err(ModuleError::TokenEncoding)));

    let expired =
        verify_module(&sign_as_peer(&core_module(), Some(1)), u64::MAX, &VerifyOptions::default());
    assert!(matches!(expired, Err(ModuleError::Claims(ClaimsError::Token(TokenError::Expired)))));
}

#[test]
fn only_trusted_accounts_count_where_some_are_named() {
    let signed = sign_as_peer(&core_module(), None);
    let trusting = |issuer: &str| VerifyOptions {
        issuers: vec![issuer.to_owned()],
        ..VerifyOptions::default()
    };
    assert!(verify_module(&signed, NOW, &trusting(ACCOUNT.public)).is_ok());
    assert!(matches!(
        verify_module(&signed, NOW, &trusting(ACTOR.public)),
        Err(ModuleError::UntrustedIssuer(_))
    ));
}

#[test]
fn deep_nesting_is_refused_without_deep_recursion() {
    let nest = |levels: usize| {
        let mut wasm = COMPONENT_HEADER.to_vec();
        for _ in 0..levels {
            wasm = [&COMPONENT_HEADER, section(4, &wasm).as_slice()].concat();
        }
        wasm
    };
    assert_eq!(canonical_hash(&nest(DEPTH_MAX)).unwrap(), sha256(&nest(DEPTH_MAX)));
    assert!(matches!(canonical_hash(&nest(DEPTH_MAX + 1)), Err(ModuleError::TooDeep)));
    assert!(matches!(canonical_hash(&nest(5000)), Err(ModuleError::TooDeep)));
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>, component: bool) {
        let header = if component { COMPONENT_HEADER } else { CORE_HEADER };
        for wasm in [bytes.clone(), [header.as_slice(), &bytes].concat()] {
            let _ = verify(&wasm);
            let _ = canonical_hash(&wasm);
            if wasm.len() >= 8 {
                let _ = raw_hash(&wasm);
            }
        }
    }

    #[test]
    fn a_changed_byte_never_passes(position: prop::sample::Index, change in 1u8..) {
        let mut wasm = sign_as_peer(&component(), None);
        let position = position.index(wasm.len());
        wasm[position] ^= change;
        prop_assert!(verify(&wasm).is_err());
    }
}
