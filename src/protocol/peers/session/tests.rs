use super::*;

fn pair() -> (OwnKey, OwnKey) {
    (OwnKey::generate().unwrap(), OwnKey::generate().unwrap())
}

fn agreed() -> (KeyPair, KeyPair) {
    let (a, b) = pair();
    let of_a = a.agree("NA", End { host: "NB", key: b.public() }).unwrap();
    let of_b = b.agree("NB", End { host: "NA", key: a.public() }).unwrap();
    (of_a, of_b)
}

fn parts(body: &[u8]) -> CallParts<'_> {
    let (time_left, waiting) = (Some("700"), Some("1"));
    CallParts { counter: 5, time_left, waiting, takes_pieces: false, hash: None, body }
}

#[test]
fn two_hosts_agree_and_each_direction_has_keys_of_its_own() {
    let (of_a, of_b) = agreed();
    let call = parts(b"call");
    assert_eq!(of_a.outgoing.call(&call), of_b.incoming.call(&call));
    assert_eq!(of_b.outgoing.call(&call), of_a.incoming.call(&call));
    assert_ne!(of_a.outgoing.call(&call), of_a.incoming.call(&call));
    let answer = |keys: &Keys| keys.answer(5, "id", None, b"answer");
    assert_eq!(answer(&of_a.outgoing), answer(&of_b.incoming));
    assert_ne!(answer(&of_a.outgoing), answer(&of_b.outgoing));
    let question = |keys: &Keys| keys.question(5, None, "id");
    assert_eq!(question(&of_a.outgoing), question(&of_b.incoming));
    assert!(!format!("{of_a:?}").contains(char::is_numeric));
}

#[test]
fn keys_are_those_of_two_hosts_and_two_keys() {
    let (a, b) = pair();
    let other = PublicKey { id: b.public().id + 1, ..*b.public() };
    let code = |host: &str, key: &PublicKey| {
        a.agree("NA", End { host, key }).unwrap().outgoing.call(&parts(b""))
    };
    let first = code("NB", b.public());
    assert_eq!(first, code("NB", b.public()));
    assert_ne!(first, code("NC", b.public()));
    assert_ne!(first, code("NB", &other));
    // Points that lead to the same secret whatever the own key is are none.
    let none = PublicKey { id: 1, key: [0; 32] };
    assert!(a.agree("NA", End { host: "NB", key: &none }).is_err());
}

#[test]
fn a_code_covers_every_part_of_a_call() {
    let (keys, _) = agreed();
    let keys = keys.outgoing;
    let call = parts(b"body");
    let code = keys.call(&call);
    for (case, changed) in [
        ("counter", CallParts { counter: 6, ..call }),
        ("time", CallParts { time_left: Some("701"), ..call }),
        ("no time", CallParts { time_left: None, ..call }),
        ("waiting", CallParts { waiting: None, ..call }),
        ("moved", CallParts { time_left: Some("7001"), waiting: Some(""), ..call }),
        ("pieces", CallParts { takes_pieces: true, ..call }),
        ("hash", CallParts { hash: Some(&[0; 32]), ..call }),
        ("body", CallParts { body: b"bodies", ..call }),
    ] {
        assert_ne!(keys.call(&changed), code, "{case}");
    }
    let answer = keys.answer(5, "id", None, b"body");
    assert_ne!(keys.answer(6, "id", None, b"body"), answer);
    assert_ne!(keys.answer(5, "i", None, b"dbody"), answer);
    assert_ne!(keys.answer(5, "id", Some(&[0; 32]), b"body"), answer);
    assert_ne!(keys.answer(5, "id", None, b"bodies"), answer);
    let question = keys.question(5, None, "id");
    assert_ne!(keys.question(5, Some(0), "id"), question);
    assert_ne!(keys.question(6, None, "id"), question);
    assert_ne!(keys.question(5, None, "ie"), question);
    assert_ne!(keys.question(5, Some(0), "id"), keys.question(5, Some(1), "id"));
}

#[test]
fn headers_are_read_as_they_were_written() {
    let call = SessionCall {
        caller_key: 7,
        callee_key: (1 << 53) - 1,
        counter: 9,
        code: [1; 32],
        hash: None,
    };
    for proof in [
        CallProof::Token,
        CallProof::Session(call),
        CallProof::Session(SessionCall { hash: Some([2; 32]), ..call }),
    ] {
        let text = proof.to_string();
        assert_eq!(CallProof::read(&text), Some(proof), "{text}");
    }
    let hash = [3; 32];
    let text = AnswerProof::code(&[1; 32], Some(&hash));
    let expected = AnswerProof::Code { code: [1; 32], hash: Some(hash) };
    assert_eq!(AnswerProof::read(&text), Some(expected));
    let text = AnswerProof::signed("NA", &[4; 64], None);
    let expected = AnswerProof::Signed { host: "NA", signature: [4; 64], hash: None };
    assert_eq!(AnswerProof::read(&text), Some(expected));
    let text = AnswerProof::unknown("NA.12", &[4; 64]);
    let expected =
        AnswerProof::Unknown { host: "NA", runs_ms: 12, signed: "NA.12", signature: [4; 64] };
    assert_eq!(AnswerProof::read(&text), Some(expected));
}

#[test]
fn headers_of_other_kinds_prove_nothing() {
    let code = URL_SAFE_NO_PAD.encode([1; 32]);
    for text in [
        String::new(),
        "2".to_owned(),
        "1.".to_owned(),
        "1.7.8.9".to_owned(),
        "1.7.8.9.x".to_owned(),
        format!("1.7.8.-1.{code}"),
        format!("1.7.8.9.{code}A"),
        format!("1.7.8.9.{code}."),
        format!("1.7.8.9.{code}.{code}.{code}"),
        format!("1.18446744073709551616.8.9.{code}"),
    ] {
        assert_eq!(CallProof::read(&text), None, "{text}");
    }
    for text in ["", "1", "1.m", "1.m.", "1.x.a", "1.s.NA", "1.s.NA.x", "1.u.NA.x", "1.u.NA.1.x"] {
        assert_eq!(AnswerProof::read(text), None, "{text}");
    }
}

#[test]
fn each_counter_is_taken_once_in_any_order_within_the_window() {
    use Stale::{Seen, TooOld};
    let mut window = Window::new(100);
    assert!(window.seen.is_empty(), "nothing is kept before it is used");
    // The window is 128 counters wide.
    for (counter, expected) in [
        (0, Err(TooOld)),
        (1, Ok(())),
        (1, Err(Seen)),
        (3, Ok(())),
        (2, Ok(())),
        (3, Err(Seen)),
        (130, Ok(())),
        (3, Err(Seen)),
        (2, Err(TooOld)),
        (4, Ok(())),
        (129, Ok(())),
        (130, Err(Seen)),
        // Far ahead: everything before is over, and its bits are free again.
        (1000, Ok(())),
        (872, Err(TooOld)),
        (873, Ok(())),
        (873, Err(Seen)),
        (u64::MAX, Ok(())),
        (u64::MAX, Err(Seen)),
        (1001, Err(TooOld)),
    ] {
        assert_eq!(window.take(counter), expected, "{counter}");
    }
}

#[test]
fn the_ring_grows_with_the_counters_and_forgets_none() {
    let mut window = Window::new(256);
    for (counter, words) in [(1, 1), (63, 1), (64, 2), (2, 2), (200, 4), (300, 4), (10_000, 4)] {
        assert_eq!(window.take(counter), Ok(()), "{counter}");
        assert_eq!(window.seen.len(), words, "{counter}");
        assert_eq!(window.take(counter), Err(Stale::Seen), "{counter}");
    }
    let mut window = Window::new(256);
    (1..=1000).for_each(|counter| assert_eq!(window.take(counter), Ok(()), "{counter}"));
    (745..=1000).for_each(|counter| assert_eq!(window.take(counter), Err(Stale::Seen)));
    assert_eq!(window.take(744), Err(Stale::TooOld));
}

#[test]
fn a_window_that_begins_late_takes_nothing_of_before() {
    let mut window = Window::after(64, 1000);
    for (counter, is_taken) in
        [(1000, false), (990, false), (1, false), (1002, true), (1001, true), (1002, false)]
    {
        assert_eq!(window.take(counter).is_ok(), is_taken, "{counter}");
    }
}
