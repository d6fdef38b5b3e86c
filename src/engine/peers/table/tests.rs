use super::*;

const OWN: &str = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";

fn host() -> String {
    nkeys::KeyPair::new_server().public_key()
}

fn announcement(host: &str, roster: u64, direct: &[&str]) -> Announcement {
    let direct = direct.iter().map(|name| (*name).to_owned()).collect();
    Announcement {
        host: host.into(),
        roster,
        offers: Some(Offers { direct, group: vec!["V.p".into()] }),
        ..Announcement::default()
    }
}

fn chosen(table: &Table, target: &str) -> Option<String> {
    table.choose(target, &[], Candidates::All).map(|peer| peer.id.to_string())
}

#[test]
fn calls_go_to_the_host_that_costs_least() {
    let (table, a, b) = (Table::new(OWN), host(), host());
    assert_eq!(table.apply(&announcement(&a, 1, &["M"])), Heard::New { ask: false });
    assert_eq!(table.apply(&announcement(&b, 1, &["M"])), Heard::New { ask: false });
    let first = table.choose("M", &[], Candidates::All).unwrap();
    let taken = first.take();
    let second = table.choose("M", &[], Candidates::All).unwrap();
    assert_ne!(first.id, second.id);
    let _also = second.take();
    drop(taken);
    assert_eq!(table.choose("M", &[], Candidates::All).unwrap().id, first.id);
    assert_eq!(
        table.choose("M", &[first, second], Candidates::All).map(|peer| peer.id.clone()),
        None
    );
    assert_eq!(chosen(&table, "V.p"), None, "what is reached through its group only is not chosen");
    assert_eq!(table.runners("V.p").len(), 2);
    assert!(table.is_indirect("V.p") && !table.is_indirect("M"));
}

#[test]
fn a_silent_host_gets_no_calls_until_it_is_heard_again() {
    let (table, a) = (Table::new(OWN), host());
    table.apply(&announcement(&a, 1, &["M"]));
    assert!(table.find(&a).unwrap().lose());
    assert!(!table.find(&a).unwrap().lose(), "lost once");
    table.forget(Duration::from_secs(9));
    assert_eq!(chosen(&table, "M"), None);
    let beat = Announcement { host: a.clone(), roster: 1, ..Announcement::default() };
    assert_eq!(table.apply(&beat), Heard::Back { ask: false });
    assert_eq!(chosen(&table, "M"), Some(a.clone()));
    table.forget(Duration::ZERO);
    assert_eq!(table.others().len(), 1, "it is there");
    table.find(&a).unwrap().lose();
    table.forget(Duration::ZERO);
    assert!(table.others().is_empty() && table.find(&a).is_none(), "silent for very long");
    assert_eq!(table.presence("M"), Presence::Unseen);
    assert_eq!(
        table.apply(&beat),
        Heard::New { ask: true },
        "it came back and what it offers is not known"
    );
}

#[test]
fn what_a_host_offers_changes_and_old_answers_do_not_count() {
    let (table, a) = (Table::new(OWN), host());
    table.apply(&announcement(&a, 5, &["M"]));
    assert_eq!(table.apply(&announcement(&a, 4, &["OLD"])), Heard::Known);
    assert_eq!(chosen(&table, "OLD"), None);
    assert_eq!(
        table.apply(&Announcement { host: a.clone(), roster: 6, ..Announcement::default() }),
        Heard::Ask
    );
    table.apply(&announcement(&a, 6, &[]));
    assert_eq!(chosen(&table, "M"), None);
    table.apply(&announcement(&a, 7, &["M"]));
    assert_eq!(
        table.apply(&Announcement { host: a.clone(), goodbye: true, ..Announcement::default() }),
        Heard::Left
    );
    assert!(table.others().is_empty());
}

#[test]
fn this_host_offers_and_takes_back() {
    let table = Table::new(OWN);
    table.advertise("M", Reach::Direct);
    table.advertise("M", Reach::Direct);
    assert_eq!(chosen(&table, "M").as_deref(), Some(OWN));
    assert_eq!(
        table.choose("M", &[], Candidates::Others).map(|peer| peer.id.clone()),
        None,
        "elsewhere nobody has it"
    );
    let before = table.own_announcement().roster;
    assert_eq!(table.retract("M", Reach::Direct), Some(before + 1));
    assert!(chosen(&table, "M").is_some(), "it was offered twice");
    table.retract("M", Reach::Direct);
    assert_eq!(chosen(&table, "M"), None);
    assert_eq!(table.retract("M", Reach::Direct), None);
}

#[test]
fn near_hosts_are_preferred_until_they_have_more_to_do() {
    let (table, near, far) = (Table::new(OWN), host(), host());
    for host in [&near, &far] {
        table.apply(&announcement(host, 1, &["M"]));
    }
    for peer in table.others() {
        let took = Duration::from_millis(if *peer.id == *near { 1 } else { 10 });
        peer.record_latency("M", took);
    }
    let mut taken = Vec::new();
    for _ in 0..9 {
        let peer = table.choose("M", &[], Candidates::All).unwrap();
        assert_eq!(*peer.id, *near);
        taken.push(peer.take());
    }
    assert_eq!(chosen(&table, "M"), Some(far), "ten times as far, and nothing to do");
}

#[test]
fn a_target_nobody_listened_for_is_tried_elsewhere_for_a_while() {
    let (table, a) = (Table::new(OWN), host());
    table.apply(&announcement(&a, 1, &["M", "N"]));
    table.choose("M", &[], Candidates::All).unwrap().mark_unavailable(&Arc::from("M"));
    assert_eq!(chosen(&table, "M"), None);
    assert_eq!(chosen(&table, "N"), Some(a.clone()));
    assert_eq!(table.runners("M").len(), 1, "it is still known to run it");
    table.apply(&announcement(&a, 2, &["M"]));
    assert_eq!(chosen(&table, "M"), Some(a), "it told anew");
}

#[test]
fn a_host_that_was_started_again_counts_anew() {
    let (table, a) = (Table::new(OWN), host());
    table.apply(&Announcement { incarnation: 1, ..announcement(&a, 9, &["OLD"]) });
    let losses = table.others()[0].losses();
    assert_eq!(
        table.apply(&Announcement { incarnation: 2, ..announcement(&a, 1, &["NEW"]) }),
        Heard::Back { ask: false }
    );
    assert_eq!((chosen(&table, "OLD"), chosen(&table, "NEW")), (None, Some(a)));
    assert_eq!(table.others()[0].losses(), losses + 1, "its calls are lost");
}

#[test]
fn a_host_is_never_lost_to_itself() {
    let table = Table::new(OWN);
    table.advertise("M", Reach::Direct);
    assert!(!table.choose("M", &[], Candidates::All).unwrap().lose());
    assert_eq!(chosen(&table, "M").as_deref(), Some(OWN));
}

#[test]
fn a_word_under_the_own_key_that_is_not_the_own_tells_of_a_twin() {
    let table = Table::new(OWN);
    let own = table.own_announcement();
    assert_eq!(table.apply(&own), Heard::Ignored);
    assert_eq!(
        table.apply(&Announcement { incarnation: own.incarnation + 1, ..own.clone() }),
        Heard::Twin { incarnation: own.incarnation + 1 }
    );
    assert_eq!(
        table.apply(&Announcement { incarnation: own.incarnation + 1, goodbye: true, ..own }),
        Heard::Twin { incarnation: own.incarnation + 1 }
    );
    assert!(table.others().is_empty());
}

#[test]
fn invented_hosts_make_room_for_those_that_answer() {
    const MAX: usize = 64;
    let (table, first, late) = (Table::with_max(OWN, MAX), host(), host());
    table.apply(&announcement(&first, 1, &["M"]));
    assert!(!table.wants_proof(&first), "nobody is asked in a small lattice");
    table.apply_answer(&announcement(&first, 1, &["M"]));
    for _ in 0..MAX + 100 {
        table.apply(&announcement(&host(), 1, &["M"]));
    }
    assert_eq!(table.others().len(), MAX - 1);
    assert_eq!(table.apply(&announcement(&late, 1, &["LATE"])), Heard::New { ask: false });
    assert!(table.wants_proof(&late) && !table.wants_proof(&first));
    table.apply_answer(&announcement(&late, 1, &["LATE"]));
    for _ in 0..MAX {
        table.apply(&announcement(&host(), 1, &["M"]));
    }
    for (id, target) in [(&first, "M"), (&late, "LATE")] {
        assert!(table.runners(target).iter().any(|peer| *peer.id == **id), "{target}");
    }
    // One that proved itself and is lost goes before those that are new.
    let lost = table.runners("LATE").remove(0);
    lost.lose();
    table.apply(&announcement(&host(), 1, &["M"]));
    assert!(table.runners("LATE").is_empty());
}

#[test]
fn a_change_of_offers_is_told_and_one_who_missed_the_last_asks() {
    let (table, other, late) = (Table::new(OWN), Table::new(&host()), Table::new(&host()));
    let offered = |table: &Table, target: &str| !table.runners(target).is_empty();
    for target in ["A", "B", "C", "D"] {
        table.advertise(target, Reach::Direct);
    }
    let (word, is_retracted) = table.tell();
    assert!(word.offers.is_some() && !is_retracted, "the first is whole");
    assert_eq!(other.apply(&word), Heard::New { ask: false });
    table.advertise("E", Reach::Group);
    table.advertise("A", Reach::Direct);
    let (word, is_retracted) = table.tell();
    assert!(word.offers.is_none() && word.change.is_some() && !is_retracted);
    assert_eq!(other.apply(&word), Heard::Known);
    assert_eq!(late.apply(&word), Heard::New { ask: true });
    table.retract("A", Reach::Direct);
    table.retract("B", Reach::Direct);
    let (word, is_retracted) = table.tell();
    assert!(word.change.is_some() && is_retracted);
    assert_eq!(other.apply(&word), Heard::Known);
    assert_eq!(late.apply(&word), Heard::Ask);
    assert_eq!(["A", "B", "E"].map(|target| offered(&other, target)), [true, false, true]);
    assert_eq!(late.apply_answer(&table.own_announcement()), Heard::Known);
    assert_eq!(["A", "B", "E"].map(|target| offered(&late, target)), [true, false, true]);
}

#[test]
fn an_answer_puts_right_what_somebody_else_said_of_a_host() {
    let (table, real) = (Table::new(OWN), host());
    table.apply(&announcement(&real, 5, &["M"]));
    table.apply(&announcement(&real, u64::MAX, &[]));
    assert_eq!(chosen(&table, "M"), None);
    assert_eq!(
        table.apply(&Announcement { host: real.clone(), roster: 5, ..Announcement::default() }),
        Heard::Ask
    );
    table.apply_answer(&announcement(&real, 5, &["M"]));
    assert_eq!(chosen(&table, "M"), Some(real));
}

#[test]
fn it_is_known_whether_a_target_runs_and_whether_its_hosts_are_silent() {
    let (table, a) = (Table::new(OWN), host());
    table.advertise("OWN", Reach::Direct);
    table.apply(&announcement(&a, 1, &["M"]));
    assert_eq!((table.presence("M"), table.presence("V.p")), (Presence::Runs, Presence::Runs));
    assert_eq!((table.presence("OWN"), table.presence("X")), (Presence::Unseen, Presence::Unseen));
    table.others()[0].lose();
    assert_eq!(table.presence("M"), Presence::Lost);
}

#[test]
fn words_of_nobody_are_ignored() {
    let table = Table::new(OWN);
    for host in ["", OWN, "NABC", "MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ"] {
        assert_eq!(table.apply(&announcement(host, 1, &["M"])), Heard::Ignored, "{host}");
    }
}

#[test]
fn where_there_is_no_room_a_host_keeps_the_targets_that_are_known_and_is_not_asked_again() {
    let (mut table, a) = (Table::new(OWN), host());
    // Half of it is for hosts that have not answered yet.
    table.named_max = 8;
    assert_eq!(table.apply(&announcement(&a, 1, &["A", "B"])), Heard::New { ask: false });
    assert_eq!(table.apply(&announcement(&a, 2, &["A", "C"])), Heard::Known);
    let beat = Announcement { host: a.clone(), roster: 2, ..Announcement::default() };
    assert_eq!(table.apply(&beat), Heard::Known);
    let known = |table: &Table| ["A", "B", "C"].map(|name| chosen(table, name).is_some());
    assert_eq!(known(&table), [true, false, false]);
    let direct = |names: &[&str]| Offers {
        direct: names.iter().map(|name| (*name).to_owned()).collect(),
        group: Vec::new(),
    };
    let change = Change { from: 2, added: direct(&["B", "C", "D"]), removed: direct(&["A"]) };
    let word = Announcement { roster: 3, change: Some(change), ..beat.clone() };
    assert_eq!(table.apply(&word), Heard::Known);
    assert_eq!(known(&table), [false; 3]);
    // There is room again.
    let change = Change { from: 3, added: direct(&["B"]), removed: direct(&["A"]) };
    let word = Announcement { roster: 4, change: Some(change), ..beat };
    assert_eq!(table.apply(&word), Heard::Known);
    assert_eq!(known(&table), [false, true, false]);
    assert_eq!(table.named.load(Ordering::Relaxed), 2);
}

#[test]
fn a_host_that_was_started_again_has_nothing_of_before_whatever_it_changes() {
    let (table, a) = (Table::new(OWN), host());
    table.apply(&Announcement { incarnation: 1, ..announcement(&a, 5, &["A"]) });
    let added = Offers { direct: vec!["B".into()], group: Vec::new() };
    let change = Change { from: 5, added, removed: Offers::default() };
    let word = Announcement {
        host: a.clone(),
        incarnation: 2,
        roster: 6,
        change: Some(change),
        ..Announcement::default()
    };
    assert_eq!(table.apply(&word), Heard::Back { ask: true });
    assert!(["A", "B", "V.p"].iter().all(|name| table.runners(name).is_empty()));
    assert_eq!((table.count(), table.removed()), (1, 0));
    table.apply(&Announcement { host: a, goodbye: true, ..Announcement::default() });
    assert_eq!((table.count(), table.removed()), (0, 1));
}
