use super::*;
use crate::peers::sessions::Standing;
use lattice_protocol::{
    clock,
    identity::{keys::ClusterKey, samples, signature::SigningKey},
    peers::{
        session::{OwnKey, PublicKey, SessionCall},
        wire::{Certificate, Offers, SessionKey},
    },
};

/// A host with a key of its own.
fn host_of(cluster_seed: &str, requires_signed: bool) -> Words {
    let (host_key, _) = SigningKey::generate(Kind::Server).unwrap();
    words_of(host_key, cluster_seed, requires_signed)
}

fn words_of(host_key: SigningKey, cluster_seed: &str, requires_signed: bool) -> Words {
    let settings = Settings {
        lattice: "default".into(),
        host_key,
        cluster: SigningKey::from_seed(cluster_seed).unwrap(),
        issuers: vec![ClusterKey::parse(samples::CLUSTER.public).unwrap()],
        requires_signed,
    };
    Words::new(Sessions::new(settings).unwrap())
}

fn host() -> Words {
    host_of(samples::CLUSTER.seed, false)
}

fn id(words: &Words) -> &str {
    words.sessions().own_id()
}

fn beat(words: &Words, incarnation: u64) -> Announcement {
    Announcement { host: id(words).into(), incarnation, ..Announcement::default() }
}

fn roster(words: &Words, incarnation: u64) -> Announcement {
    Announcement { offers: Some(Offers::default()), ..beat(words, incarnation) }
}

fn said(words: &Words, announcement: &Announcement) -> Bytes {
    words.seal(announcement, 1 << 20)
}

/// The answer of a host to a question with a nonce.
fn answer(words: &Words, incarnation: u64, nonce: &str) -> Bytes {
    words.seal_answer(&roster(words, incarnation), Some(&question(nonce)), 1 << 20)
}

fn meet(listener: &Words, speaker: &Words, incarnation: u64) {
    let nonce = nonce();
    let opened = listener.open_answer(&answer(speaker, incarnation, &nonce), &nonce);
    assert!(matches!(opened, Opened::Believed(_)), "{opened:?}");
}

/// Returns the outcome of a message in a word.
fn outcome(opened: &Opened) -> &'static str {
    match opened {
        Opened::Believed(_) => "believed",
        Opened::ToConfirm(_) => "to confirm",
        Opened::Ignored => "ignored",
    }
}

fn refused(words: &Words) -> u64 {
    words.sessions().refused(Refusal::Word)
}

#[tokio::test]
async fn a_host_that_signs_is_believed_once_it_has_answered_and_then_only_what_it_signs() {
    let (listener, speaker) = (host(), host());
    let hello = said(&speaker, &Announcement { hello: true, ..roster(&speaker, 1) });
    assert_eq!(outcome(&listener.open(&hello)), "to confirm");
    assert_eq!(outcome(&listener.open_answer(&answer(&speaker, 1, "x"), "y")), "to confirm");
    let before = said(&speaker, &beat(&speaker, 1));
    meet(&listener, &speaker, 1);
    assert!(listener.sessions().is_member(id(&speaker)));

    let signed = said(&speaker, &beat(&speaker, 1));
    let unsigned = serde_json::to_vec(&beat(&speaker, 1)).unwrap();
    let goodbye = Announcement { goodbye: true, ..beat(&speaker, 1) };
    let of_another = sealed::seal(
        &serde_json::to_vec(&goodbye).unwrap(),
        "default",
        &SigningKey::generate(Kind::Server).unwrap().0,
    );
    let text = String::from_utf8(signed.to_vec()).unwrap();
    let changed = text.replacen("\"roster\":0", "\"roster\":1", 1);
    for (case, payload, expected) in [
        ("a beat", signed.to_vec(), "believed"),
        ("the same", signed.to_vec(), "ignored"),
        ("what it said before it was known", before.to_vec(), "ignored"),
        ("unsigned", unsigned, "ignored"),
        ("signed by another", of_another.to_vec(), "ignored"),
        ("changed", changed.into_bytes(), "ignored"),
        ("no JSON", b"roster".to_vec(), "ignored"),
        ("a goodbye", said(&speaker, &goodbye).to_vec(), "believed"),
    ] {
        assert_eq!(outcome(&listener.open(&payload)), expected, "{case}");
    }
    assert_eq!(refused(&listener), 4, "what came late is no forgery");
}

#[tokio::test]
async fn another_start_counts_when_it_answers_and_an_earlier_one_never_again() {
    let (listener, (key, seed)) = (host(), SigningKey::generate(Kind::Server).unwrap());
    let first = words_of(key, samples::CLUSTER.seed, false);
    meet(&listener, &first, 1);
    let recorded = [said(&first, &beat(&first, 1)), answer(&first, 1, "recorded")];
    let again = SigningKey::from_seed(&seed).unwrap();
    let second = words_of(again, samples::CLUSTER.seed, false);
    assert_eq!(outcome(&listener.open(&said(&second, &beat(&second, 2)))), "to confirm");
    meet(&listener, &second, 2);
    assert_eq!(outcome(&listener.open(&said(&second, &beat(&second, 2)))), "believed");
    for payload in &recorded {
        assert_eq!(outcome(&listener.open(payload)), "to confirm");
        assert_eq!(outcome(&listener.open_answer(payload, "another")), "to confirm");
    }
    assert_eq!(outcome(&listener.open(&said(&second, &beat(&second, 2)))), "believed");
}

#[tokio::test]
async fn a_host_that_no_trusted_cluster_certified_is_believed_like_those_that_sign_nothing() {
    let (_, foreign) = SigningKey::generate(Kind::Cluster).unwrap();
    let stranger = host_of(&foreign, false);
    let unsigned = serde_json::to_vec(&beat(&host(), 1)).unwrap();
    for (requires_signed, expected) in [(false, "believed"), (true, "ignored")] {
        let listener = host_of(samples::CLUSTER.seed, requires_signed);
        assert_eq!(outcome(&listener.open(&said(&stranger, &beat(&stranger, 1)))), "to confirm");
        let nonce = nonce();
        let answered = listener.open_answer(&answer(&stranger, 1, &nonce), &nonce);
        assert_eq!(outcome(&answered), expected);
        assert_eq!(outcome(&listener.open(&said(&stranger, &beat(&stranger, 1)))), expected);
        assert_eq!(outcome(&listener.open(&said(&stranger, &beat(&stranger, 2)))), "to confirm");
        assert_eq!(outcome(&listener.open(&unsigned)), expected);
        assert!(!listener.sessions().is_member(id(&stranger)));
        // A refused one is in no table; it is not asked again all the same.
        listener.retain(|_| false);
        let expected = if requires_signed { "ignored" } else { "to confirm" };
        assert_eq!(outcome(&listener.open(&said(&stranger, &beat(&stranger, 1)))), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_hello_is_a_question_that_is_answered_soon() {
    let (listener, soon, late) = (host(), host(), host());
    let hello = listener.hello();
    let answered = |words: &Words| words.seal_answer(&roster(words, 1), Some(&hello), 1 << 20);
    assert_eq!(outcome(&listener.open(&answered(&soon))), "believed");
    tokio::time::advance(HELLO).await;
    assert_eq!(outcome(&listener.open(&answered(&late))), "to confirm");
    // The next one has a nonce of its own, and its time begins anew.
    let hello = listener.hello();
    assert_eq!(outcome(&listener.open(&answered(&late))), "to confirm");
    let answer = late.seal_answer(&roster(&late, 1), Some(&hello), 1 << 20);
    assert_eq!(outcome(&listener.open(&answer)), "believed");
}

#[tokio::test]
async fn own_messages_that_come_back_are_no_news_and_those_of_a_twin_are() {
    let (key, seed) = SigningKey::generate(Kind::Server).unwrap();
    let own = words_of(key, samples::CLUSTER.seed, false);
    assert_eq!(outcome(&own.open(&said(&own, &beat(&own, 1)))), "ignored");
    let twin = words_of(SigningKey::from_seed(&seed).unwrap(), samples::CLUSTER.seed, false);
    assert_eq!(outcome(&own.open(&said(&twin, &beat(&twin, 2)))), "believed");
    let forged = serde_json::to_vec(&beat(&own, 3)).unwrap();
    assert_eq!(outcome(&own.open(&forged)), "ignored");
    assert_eq!(refused(&own), 1);
}

#[tokio::test]
async fn beats_stay_small_and_a_word_fits_into_a_message_of_any_server() {
    let words = host();
    let length = said(&words, &Announcement { roster: 3, ..beat(&words, u64::MAX >> 11) }).len();
    assert!(length <= 260, "{length}");
    let direct = (0..1000).map(|number| format!("M{number:055}")).collect();
    let offers = Some(Offers { direct, group: Vec::new() });
    let sealed = words.seal(&Announcement { offers, ..beat(&words, 1) }, 8 << 10);
    assert!(sealed.len() <= 8 << 10, "{}", sealed.len());
}

fn session(words: &Words, host: &Words) -> Option<std::sync::Arc<crate::peers::sessions::Session>> {
    match words.sessions().standing(id(host)) {
        Standing::Member(session) => session,
        Standing::Unsigned => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_renewed_without_a_call_that_fails() {
    let (a, b) = (host(), host());
    assert!(session(&a, &b).is_none());
    meet(&a, &b, 1);
    meet(&b, &a, 1);
    let first = session(&a, &b).unwrap();
    let (own, peer) = first.key_ids();
    assert_eq!(session(&b, &a).unwrap().key_ids(), (peer, own));
    assert!(std::sync::Arc::ptr_eq(&first, &session(&a, &b).unwrap()), "there is one");

    a.sessions().renew_key().unwrap();
    assert_eq!(session(&a, &b).unwrap().key_ids().0, own, "others have to hear of it");
    // A beat only names the key; the host is asked for it.
    assert_eq!(outcome(&b.open(&said(&a, &beat(&a, 1)))), "believed");
    assert!(b.sessions().wanted().await.contains(id(&a)));
    assert_eq!(outcome(&b.open(&a.seal_with_key(&beat(&a, 1), 1 << 20))), "believed");
    let renewed = session(&b, &a).unwrap().key_ids().1;
    assert_ne!(renewed, own);
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(session(&a, &b).unwrap().key_ids().0, renewed);
}

#[tokio::test]
async fn hosts_that_left_are_forgotten() {
    let (listener, speaker) = (host(), host());
    meet(&listener, &speaker, 1);
    let recorded = said(&speaker, &beat(&speaker, 1));
    listener.retain(|_| false);
    assert!(!listener.sessions().is_member(id(&speaker)));
    assert!(listener.sessions().is_member(id(&listener)), "it calls itself as well");
    assert_eq!(outcome(&listener.open(&recorded)), "to confirm");
}

/// The answer of a host to a question with a nonce, with a session key that may be another one's.
fn answer_with_key(host_key: &SigningKey, session: SessionKey, nonce: &str) -> Bytes {
    let cluster = SigningKey::from_seed(samples::CLUSTER.seed).unwrap();
    let until = (clock::unix_time() + Duration::from_secs(60)).as_secs();
    let host = host_key.public_key();
    let said = Announcement {
        host: host.to_owned(),
        incarnation: 1,
        count: 1,
        session: Some(session),
        cert: Some(Certificate::issue(&cluster, "default", host, until)),
        to: Some(nonce.to_owned()),
        ..Announcement::default()
    };
    sealed::seal(&serde_json::to_vec(&said).unwrap(), "default", host_key)
}

#[tokio::test]
async fn a_member_that_takes_the_key_id_of_another_gets_no_session_of_it() {
    let (listener, other) = (host(), host());
    meet(&listener, &other, 1);
    let first = session(&listener, &other).unwrap();
    let (host_key, _) = SigningKey::generate(Kind::Server).unwrap();
    let own = OwnKey::generate().unwrap();
    let told = PublicKey { id: first.key_ids().1, ..*own.public() }.tell();
    let nonce = nonce();
    let answer = answer_with_key(&host_key, told, &nonce);
    assert_eq!(outcome(&listener.open_answer(&answer, &nonce)), "believed");
    let standing = listener.sessions().standing(host_key.public_key());
    assert!(matches!(standing, Standing::Member(None)));
    assert!(std::sync::Arc::ptr_eq(&first, &session(&listener, &other).unwrap()));
}

#[tokio::test(start_paused = true)]
async fn sessions_are_forgotten_when_one_of_their_keys_counts_no_longer() {
    let (a, b) = (host(), host());
    meet(&a, &b, 1);
    meet(&b, &a, 1);
    let (of_a, of_b) = session(&a, &b).unwrap().key_ids();
    assert!(session(&b, &a).is_some());
    let call = |caller_key, callee_key| SessionCall {
        caller_key,
        callee_key,
        counter: 1,
        code: [0; 32],
        hash: None,
    };
    let knows = || {
        let (at_a, at_b) = (call(of_b, of_a), call(of_a, of_b));
        [a.sessions().find(&at_a, None), b.sessions().find(&at_b, Some(id(&a)))]
            .map(|found| found.is_some())
    };
    a.sessions().renew_key().unwrap();
    assert_eq!(outcome(&b.open(&a.seal_with_key(&beat(&a, 1), 1 << 20))), "believed");
    let forget = || [&a, &b].iter().for_each(|words| words.sessions().forget_former());
    forget();
    assert_eq!(knows(), [true, true], "a former key counts for a while");
    tokio::time::advance(Duration::from_secs(120)).await;
    forget();
    assert_eq!(knows(), [false, false]);
    let renewed = session(&a, &b).unwrap().key_ids();
    assert_eq!(session(&b, &a).unwrap().key_ids(), (renewed.1, renewed.0));
    assert_eq!((renewed.0 == of_a, renewed.1), (false, of_b));
    forget();
    assert!(session(&a, &b).is_some() && session(&b, &a).is_some());
}
