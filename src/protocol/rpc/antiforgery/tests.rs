use bytes::Bytes;
use proptest::prelude::*;
use wascap::{
    jwt::{Claims, ClaimsBuilder, Invocation as PeerClaims, validate_token},
    prelude::KeyPair,
};

use super::*;
use crate::identity::{
    ActorId, ContractId, LinkName, ProviderId,
    samples::{ACCOUNT, ACTOR, CLUSTER, HOST, PROVIDER},
};

const NOW: u64 = 1_700_000_000;
const ID: &str = "0190a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b";
const HASH: &str = "D37846178A108209A8EF76FC87FB57785C1F9C3BAD4761E1A2C478E9D3F55793";

/// The known token of the known call.
pub(in crate::rpc) const TOKEN: &str = concat!(
    "eyJ0eXAiOiJqd3QiLCJhbGciOiJFZDI1NTE5In0.eyJqdGkiOiJaazNuUTB2WDdwTDJzVDl3WTRiUjZjIiwiaWF0IjoxNjU2NTQ3MjAwLCJpc3Mi",
    "OiJDQ0ZJUlk2NU9RRTdERlA1S0xOUzJQRjJMVlpNVVpZSlg0T1pJRVEzNk4ySVFBTlVCNVhWWktNSSIsInN1YiI6IjAxOTBhMWIyLWMzZDQtN2U1",
    "Zi04YTliLTBjMWQyZTNmNGE1YiIsIndhc2NhcCI6eyJ0YXJnZXRfdXJsIjoid2FzbWJ1czovL3dhc21jbG91ZC9rZXl2YWx1ZS9kZWZhdWx0L1ZE",
    "RkpITEFYQVVNSEE0T1dQT0I0UDdZTzcyQVFSMkhNSVVZRk9YTFhFMkRaR002MzNLN0hZSUYzL0tleVZhbHVlLkdldCIsIm9yaWdpbl91cmwiOiJ3",
    "YXNtYnVzOi8vTURXVVNLR0dGREk0RlJYSzVFQlRSRUNaU1ZRU1NXSkhISk9HSDZKV0czQVVNRkZNUTQzNUMySloiLCJoYXNoIjoiRDM3ODQ2MTc4",
    "QTEwODIwOUE4RUY3NkZDODdGQjU3Nzg1QzFGOUMzQkFENDc2MUUxQTJDNDc4RTlEM0Y1NTc5MyJ9LCJ3YXNjYXBfcmV2aXNpb24iOjN9.jA1QCoIl",
    "zOU7knqaIjsHbDyjexmGY06P7ylyyGLqNpaLnRiTrhVv3pTyAWvfqwG-zLAYvO3ZfwORiP8W2ESzDQ"
);

/// The known call: an actor asks a key-value provider for `counter:home`.
pub(in crate::rpc) fn known_invocation() -> Invocation {
    let mut invocation = Invocation::new(
        Entity::actor(&ActorId::parse(ACTOR.public).unwrap()),
        Entity::provider(
            &ProviderId::parse(PROVIDER.public).unwrap(),
            &LinkName::default(),
            &ContractId::parse("wasmcloud:keyvalue").unwrap(),
        ),
        "KeyValue.Get",
        Bytes::from_static(b"\xaccounter:home"),
        ID,
        HOST.public,
    );
    invocation.encoded_claims = TOKEN.to_owned();
    invocation
}

fn signer() -> Signer {
    Signer::new(CLUSTER.seed).unwrap()
}

fn verifier() -> Verifier {
    Verifier::new(vec![ClusterKey::parse(CLUSTER.public).unwrap()])
}

/// Checks a call entirely, as a receiver does.
fn verify(invocation: &Invocation) -> Result<(), ForgeryError> {
    verifier().verify_claims(invocation, NOW)?.verify_hash(&invocation.msg)
}

fn signed(mut invocation: Invocation) -> Invocation {
    invocation.encoded_claims = signer().sign(
        &invocation.origin,
        &invocation.target,
        &invocation.operation,
        &invocation.msg,
        &invocation.id,
        NOW,
    );
    invocation
}

/// The known call with a token that the real library made, after a change of its claims.
fn signed_by_peer(seed: &str, change: impl FnOnce(&mut Claims<PeerClaims>)) -> Invocation {
    let mut invocation = known_invocation();
    let metadata = PeerClaims::new(
        &(invocation.target.url() + "/KeyValue.Get"),
        &invocation.origin.url(),
        HASH,
    );
    let key = KeyPair::from_seed(seed).unwrap();
    let mut claims =
        ClaimsBuilder::new().issuer(&key.public_key()).subject(ID).with_metadata(metadata).build();
    change(&mut claims);
    invocation.encoded_claims = claims.encode(&key).unwrap();
    invocation
}

#[test]
fn the_known_token_is_reproduced_and_accepted() {
    let call = known_invocation();
    let token = signer().sign_as(
        "Zk3nQ0vX7pL2sT9wY4bR6c",
        &call.origin,
        &call.target,
        &call.operation,
        &call.msg,
        &call.id,
        1_656_547_200,
    );
    assert_eq!(token, TOKEN);
    verify(&call).unwrap();
    check_target(&call, PROVIDER.public).unwrap();
}

#[test]
fn a_peer_accepts_our_token() {
    let call = signed(known_invocation());
    let checked = validate_token::<PeerClaims>(&call.encoded_claims).unwrap();
    assert!(checked.signature_valid && !checked.expired && !checked.cannot_use_yet);

    let claims = Claims::<PeerClaims>::decode(&call.encoded_claims).unwrap();
    assert_eq!(claims.id.len(), 22);
    assert_eq!((claims.subject.as_str(), claims.issued_at), (ID, NOW));
    assert_eq!(claims.metadata.unwrap().invocation_hash, HASH);
}

#[test]
fn we_accept_a_peers_token() {
    verify(&signed_by_peer(CLUSTER.seed, |_| ())).unwrap();
}

#[test]
fn each_forgery_has_its_own_error() {
    let case = |change: fn(&mut Claims<PeerClaims>)| {
        verify(&signed_by_peer(CLUSTER.seed, change)).unwrap_err()
    };
    let error = case(|claims| claims.expires = Some(NOW - SKEW_SECONDS - 1));
    assert!(matches!(error, ForgeryError::Expired));
    let error = case(|claims| claims.not_before = Some(NOW + SKEW_SECONDS + 1));
    assert!(matches!(error, ForgeryError::NotYet));
    let error = case(|claims| claims.metadata = None);
    assert!(matches!(error, ForgeryError::NoMetadata));
    let error = case(|claims| claims.subject = "other".into());
    assert!(matches!(error, ForgeryError::Subject { .. }));
    let error = case(|claims| claims.metadata.as_mut().unwrap().target_url.push('x'));
    assert!(matches!(error, ForgeryError::TargetUrl));
    let error = case(|claims| claims.metadata.as_mut().unwrap().origin_url.push('x'));
    assert!(matches!(error, ForgeryError::OriginUrl));
    let error = case(|claims| claims.metadata.as_mut().unwrap().invocation_hash = "00".into());
    assert_eq!(
        error.to_string(),
        format!("Invocation hash does not match signed claims hash (00 / {HASH})")
    );

    // Claims to be from an accepted issuer, but is signed by somebody else.
    let forged = signed_by_peer(ACCOUNT.seed, |claims| claims.issuer = CLUSTER.public.into());
    assert!(matches!(verify(&forged), Err(ForgeryError::BadSignature)));
    let foreign =
        signed_by_peer("SCAIYCZTW775GJYX3MVWLURALVC3PULW43PTEKGH72JBMA3A7LOLGLQ2JA", |_| ());
    assert!(matches!(verify(&foreign), Err(ForgeryError::Issuer)));
}

#[test]
fn a_clock_that_differs_a_little_refuses_nothing() {
    let early = signed_by_peer(CLUSTER.seed, |claims| claims.not_before = Some(NOW + SKEW_SECONDS));
    let late = signed_by_peer(CLUSTER.seed, |claims| claims.expires = Some(NOW - SKEW_SECONDS));
    for invocation in [early, late] {
        verify(&invocation).unwrap();
    }
}

#[test]
fn a_payload_in_pieces_is_judged_as_one_in_a_whole() {
    let invocation = signed(known_invocation());
    let checked = verifier().verify_claims(&invocation, NOW).unwrap();
    let (head, tail) = invocation.msg.split_at(invocation.msg.len() / 2);
    let mut arriving = checked.arriving();
    arriving.update(head);
    arriving.update(tail);
    checked.verify_arrived(arriving).unwrap();
    let mut arriving = checked.arriving();
    arriving.update(tail);
    assert!(matches!(checked.verify_arrived(arriving), Err(ForgeryError::Hash { .. })));
}

#[test]
fn a_changed_call_is_refused() {
    let case = |change: fn(&mut Invocation)| {
        let mut call = signed(known_invocation());
        change(&mut call);
        verify(&call).unwrap_err()
    };
    assert!(matches!(
        case(|call| call.msg = Bytes::from_static(b"other")),
        ForgeryError::Hash { .. }
    ));
    // An envelope without payload is not excused from the hash.
    assert!(matches!(case(|call| call.msg = Bytes::new()), ForgeryError::Hash { .. }));
    assert!(matches!(case(|call| call.operation = "KeyValue.Set".into()), ForgeryError::TargetUrl));
    assert!(matches!(case(|call| call.target.link_name = "other".into()), ForgeryError::TargetUrl));
    assert!(matches!(
        case(|call| call.origin.public_key = "MOTHER".into()),
        ForgeryError::OriginUrl
    ));
    assert!(matches!(case(|call| call.id = "other".into()), ForgeryError::Subject { .. }));
    assert!(matches!(case(|call| call.encoded_claims.clear()), ForgeryError::Token(_)));
    assert!(matches!(
        case(|call| call.encoded_claims.truncate(TOKEN.len() - 10)),
        ForgeryError::BadSignature
    ));
}

#[test]
fn host_ids_are_judged_by_the_lax_rule() {
    for accepted in [
        HOST.public,
        CLUSTER.public,
        "NwashHostCallerId000000000000000000000000000000000000000",
        "N",
    ] {
        let mut call = known_invocation();
        call.host_id = accepted.into();
        verify(&call).unwrap();
    }
    let mut call = known_invocation();
    call.host_id = "bogus".into();
    assert_eq!(verify(&call).unwrap_err().to_string(), "Invalid host ID on invocation: 'bogus'");
}

#[test]
fn another_target_is_named_with_the_expected_one() {
    let error = check_target(&known_invocation(), ACTOR.public).unwrap_err();
    assert!(matches!(error, ForgeryError::Target { .. }));
    let text = error.to_string();
    assert!(text.contains(ACTOR.public) && text.contains(PROVIDER.public));
}

#[test]
fn callers_that_are_no_hosts_are_accepted() {
    let mut call = known_invocation();
    call.origin = Entity::new("__WASH__", "", "");
    verify(&signed(call)).unwrap();
}

#[test]
fn only_a_cluster_seed_signs() {
    assert_eq!(
        Signer::new(ACCOUNT.seed).unwrap_err(),
        KeyError::SeedKind { expected: Kind::Cluster, found: Kind::Account }
    );
    assert_eq!(signer().issuer(), &CLUSTER.public);
    assert!(!format!("{:?}", signer()).contains("SCAAC"));
}

#[test]
fn token_ids_are_of_base_62_and_differ() {
    let ids: std::collections::HashSet<_> = (0..1000).map(|_| unique_id()).collect();
    assert_eq!(ids.len(), 1000);
    assert!(
        ids.iter()
            .all(|id| { id.len() == 22 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) })
    );
}

proptest! {
    #[test]
    fn any_call_survives_signing(
        keys in ["[A-Za-z_:\"\\\\ é]{0,20}", ".{0,20}"],
        parts in [".{0,20}", ".{0,20}"],
        operation in ".{0,20}",
        id in ".{0,20}",
        payload: Vec<u8>,
    ) {
        let [origin, target] = keys.map(|key| Entity::new(&key, &parts[0], &parts[1]));
        let call = signed(Invocation::new(origin, target, operation, payload.into(), id, "N"));
        prop_assert!(verify(&call).is_ok());
        prop_assert!(validate_token::<PeerClaims>(&call.encoded_claims).is_ok() || call.id.is_empty());
    }

    #[test]
    fn any_token_is_refused_without_panic(token in ".{0,300}") {
        let mut call = known_invocation();
        call.encoded_claims = token;
        prop_assert!(verify(&call).is_err());
    }
}
