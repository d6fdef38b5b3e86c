use super::*;

const HOST: &str = "N1";

fn scale(count: u32) -> Command {
    Command::Scale {
        scaler: "s".into(),
        host: HOST.into(),
        image: "echo:2".into(),
        annotations: BTreeMap::from([("scaler".to_owned(), "s".to_owned())]),
        count,
    }
}

fn update(share: Option<u8>) -> Command {
    Command::Update {
        scaler: "s".into(),
        host: HOST.into(),
        key: "echo".into(),
        image: "echo:2".into(),
        share,
    }
}

fn stop() -> Command {
    Command::StopProvider {
        scaler: String::new(),
        host: HOST.into(),
        key: "http".into(),
        contract: String::new(),
        link_name: "default".into(),
        annotations: BTreeMap::new(),
    }
}

fn start() -> Command {
    Command::StartProvider {
        scaler: "kv".into(),
        host: HOST.into(),
        image: "kv:1".into(),
        link_name: "default".into(),
        configuration: None,
        annotations: BTreeMap::new(),
    }
}

/// A host with an older actor, and a provider that is to stop.
fn seen() -> Observed {
    let group = ActorGroup {
        key: "echo".into(),
        image: "echo:1".into(),
        annotations: BTreeMap::new(),
        count: 1,
    };
    let run = ProviderRun {
        key: "http".into(),
        image: "http:1".into(),
        contract: String::new(),
        link_name: "default".into(),
        annotations: BTreeMap::new(),
    };
    let view = HostView { actors: vec![group], providers: vec![run], ..HostView::default() };
    Observed { hosts: BTreeMap::from([(HOST.to_owned(), view)]), ..Observed::default() }
}

#[test]
fn a_scaler_that_failed_tells_when_it_is_tried_again() {
    let now = Instant::now();
    for (command, is_told) in [(scale(3), true), (update(None), true), (stop(), false)] {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.next_attempt("s"), None);
        let before = clock::now_ms();
        attempts.failed(&command, "no", now);
        let next = attempts.next_attempt("s");
        assert_eq!(next.is_some_and(|next| next > before), is_told, "{command:?}");
        assert_eq!(attempts.next_attempt("other"), None);
    }
}

#[test]
fn what_was_sent_is_not_sent_again_until_it_shows() {
    let now = Instant::now();
    for command in [scale(3), update(None), update(Some(10)), stop()] {
        let (mut attempts, mut seen) = (Attempts::default(), seen());
        attempts.sent(&command, &seen, now);
        attempts.look(&seen, now);
        assert!(!attempts.may_send(&command, now), "{command}");
        apply(&command, &mut seen);
        attempts.look(&seen, now);
        assert!(attempts.may_send(&command, now) && !attempts.is_due(now, now), "{command}");
    }
    let mut attempts = Attempts::default();
    attempts.sent(&scale(3), &seen(), now);
    attempts.look(&Observed::default(), now);
    assert!(attempts.may_send(&scale(3), now), "its host is gone");
}

#[test]
fn each_failure_of_the_same_thing_makes_a_longer_pause() {
    for command in [scale(3), update(None), update(Some(10)), stop()] {
        let (mut attempts, mut now) = (Attempts::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..4 {
            attempts.sent(&command, &seen(), now);
            attempts.failed(&command, "no", now);
            let failed = now;
            while !attempts.may_send(&command, now) {
                assert!(!attempts.is_due(failed, now));
                now += PAUSE_MIN;
            }
            assert!(attempts.is_due(failed, now));
            attempts.look(&seen(), now);
            pauses.push((now - failed).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8], "{command}");
    }
}

#[test]
fn a_failed_trial_does_not_keep_it_from_being_taken_back() {
    let (mut attempts, now) = (Attempts::default(), Instant::now());
    attempts.failed(&update(Some(10)), "it traps", now);
    assert_eq!(attempts.trial_error("echo:2"), Some("it traps"));
    assert_eq!(attempts.trial_error("echo:3"), None);
    assert!(attempts.may_send(&update(Some(0)), now));
    assert!(attempts.refused(now).updates.is_empty());
}

#[test]
fn what_was_taken_on_may_load_for_long_and_what_is_lost_is_given_up_soon() {
    let now = Instant::now();
    for (command, is_taken_on, patience, is_failed) in [
        (scale(3), false, ACTOR_PATIENCE, true),
        (scale(3), true, LOAD_PATIENCE, true),
        (scale(0), true, ACTOR_PATIENCE, true),
        (start(), false, PROVIDER_PATIENCE, true),
        (start(), true, LOAD_PATIENCE, true),
        (stop(), true, PROVIDER_PATIENCE, true),
        // There is nowhere else to make these.
        (update(None), false, ACTOR_PATIENCE, false),
        (update(None), true, LOAD_PATIENCE, false),
        (update(Some(10)), false, ACTOR_PATIENCE, false),
        (update(Some(10)), true, LOAD_PATIENCE, false),
    ] {
        let (mut attempts, mut seen) = (Attempts::default(), seen());
        apply(&scale(1), &mut seen);
        attempts.sent(&command, &seen, now);
        if is_taken_on {
            attempts.taken_on(&command, now);
        }
        let late = now + patience;
        let before = late - Duration::from_millis(1);
        attempts.look(&seen, before);
        // Told again a moment ago, or not at all.
        attempts.again(usize::MAX, before);
        assert!(!attempts.is_due(now, before), "{command}");
        assert!(!attempts.may_send(&command, before), "{command}");
        assert!(attempts.is_due(now, late), "{command}");
        attempts.look(&seen, late);
        assert_eq!(attempts.has_failed(&command), is_failed, "{command}");
        assert_eq!(attempts.may_send(&command, late), !is_failed, "{command}");
    }
}

#[test]
fn the_same_host_is_told_again_what_it_took_on_and_nobody_else_gets_it() {
    let now = Instant::now();
    for (command, there, patience) in [
        (scale(3), 0, Some(ACTOR_PATIENCE)),
        (scale(3), 2, Some(ACTOR_PATIENCE)),
        // Fewer of them load nothing.
        (scale(3), 4, None),
        (update(None), 0, Some(ACTOR_PATIENCE)),
        (start(), 0, Some(PROVIDER_PATIENCE)),
        (stop(), 0, None),
    ] {
        let (mut attempts, mut seen) = (Attempts::default(), seen());
        apply(&scale(there), &mut seen);
        attempts.sent(&command, &seen, now);
        let late = now + PROVIDER_PATIENCE;
        assert!(attempts.again(1, late).is_empty(), "nobody has taken it on");
        attempts.taken_on(&command, now);
        assert_eq!(attempts.is_taken_on(&command), patience.is_some(), "{command}");
        let Some(patience) = patience else { continue };
        assert!(attempts.again(1, now + patience - Duration::from_millis(1)).is_empty());
        let expected = attempts.expected(&seen).into_owned();
        assert!(attempts.is_due(now, late) && attempts.again(0, late).is_empty());
        assert_eq!(attempts.again(1, late), std::slice::from_ref(&command));
        assert!(attempts.again(1, late).is_empty(), "{command}");
        // It is still awaited of this host, and not for longer than from the first time.
        attempts.taken_on(&command, late);
        attempts.look(&seen, late);
        assert!(!attempts.may_send(&command, late), "{command}");
        assert_eq!(*attempts.expected(&seen), expected, "{command}");
        attempts.look(&seen, now + LOAD_PATIENCE);
        assert!(!attempts.is_taken_on(&command), "{command}");
    }
}

#[test]
fn a_start_that_its_host_is_at_already_has_not_failed() {
    let now = Instant::now();
    let late = now + PROVIDER_PATIENCE;
    for (error, is_taken_on, is_failed) in [
        ("the host refuses it: provider kv:1 is being started already on this host", false, false),
        // It names what was asked for also where another image of its key runs.
        ("provider kv:1 is already running on this host", false, true),
        ("provider kv:1 is already running on this host", true, false),
        ("provider VKV is already running on this host", true, true),
        ("start kv:1: the registry does not answer", true, true),
    ] {
        let (mut attempts, seen) = (Attempts::default(), seen());
        attempts.sent(&start(), &seen, now);
        if is_taken_on {
            attempts.taken_on(&start(), now);
        }
        attempts.start_failed(HOST, "kv:1", error, now);
        attempts.failed(&start(), error, now);
        assert_eq!(attempts.has_failed(&start()), is_failed, "{error}");
        assert!(!attempts.may_send(&start(), now), "{error}");
        // Then it is told again.
        attempts.look(&seen, late);
        assert_eq!(attempts.has_failed(&start()), is_failed, "{error}");
        assert_eq!(attempts.again(1, late).is_empty(), is_failed, "{error}");
    }
}

#[test]
fn what_is_on_its_way_stays_when_somebody_asks_anew_and_not_when_nobody_knows_of_it() {
    let now = Instant::now();
    let sent = || {
        let mut attempts = Attempts::default();
        attempts.failed(&scale(3), "no room", now);
        attempts.sent(&start(), &seen(), now);
        attempts.sent(&stop(), &seen(), now);
        attempts
    };
    let may_send = |attempts: &Attempts| {
        [scale(3), start(), stop()].map(|command| attempts.may_send(&command, now))
    };
    let mut attempts = sent();
    assert_eq!(may_send(&attempts), [false, false, false]);
    attempts.begin_anew();
    assert_eq!(may_send(&attempts), [true, false, false]);
    let mut attempts = sent();
    attempts.forget_host("N2");
    assert_eq!(may_send(&attempts), [false, false, false]);
    attempts.forget_host(HOST);
    assert_eq!(may_send(&attempts), [false, true, true]);
}

#[test]
fn a_failure_is_forgotten_when_it_succeeded_or_nobody_asks_any_more() {
    let (mut attempts, now) = (Attempts::default(), Instant::now());
    attempts.failed(&scale(3), "no room", now);
    let after = now + PAUSE_MIN;
    attempts.look(&seen(), after);
    let at = ("s".to_owned(), HOST.to_owned());
    assert_eq!(attempts.refused(after).errors[&at], "no room");
    assert!(attempts.refused(after).starts.is_empty());
    attempts.look(&seen(), after + FORGOTTEN_AFTER);
    assert!(attempts.refused(after).errors.is_empty());
    attempts.failed(&scale(3), "no room", now);
    let mut running = seen();
    apply(&scale(3), &mut running);
    attempts.look(&running, after);
    assert!(attempts.refused(after).errors.is_empty());
}

#[test]
fn a_later_number_takes_the_place_of_an_earlier_one() {
    let (mut attempts, now) = (Attempts::default(), Instant::now());
    let mut seen = seen();
    attempts.sent(&scale(3), &seen, now);
    attempts.sent(&scale(2), &seen, now);
    apply(&scale(2), &mut seen);
    attempts.look(&seen, now);
    assert!(matches!(attempts.expected(&seen), Cow::Borrowed(_)));
}

#[test]
fn starts_are_expected_and_ends_are_not() {
    let (mut attempts, now) = (Attempts::default(), Instant::now());
    let seen = seen();
    attempts.sent(&stop(), &seen, now);
    assert!(matches!(attempts.expected(&seen), Cow::Borrowed(_)));
    attempts.sent(&scale(3), &seen, now);
    let expected = attempts.expected(&seen);
    assert_eq!(expected.hosts[HOST].actors.len(), 2);
    assert_eq!(expected.hosts[HOST].providers.len(), 1);
}
