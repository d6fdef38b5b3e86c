use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    control::types::Amount,
    desired::kept::{BYTES_MAX, ITEMS_MAX, Provider},
    events::event::Annotations,
};

/// A name, what was read, the commands, and what is kept then.
type Case =
    (&'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

fn annotations(mark: &str) -> Annotations {
    mark.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .collect()
}

/// Reads `a +2`, `a =2 t=x`, `p/link`, and stops: `-a`, `-a 1`, `-p/link`.
fn command(text: &str) -> Command {
    let words: Vec<&str> = text.split(' ').collect();
    let mark = words.iter().find(|word| word.starts_with("t=")).copied().unwrap_or_default();
    let annotations = annotations(mark);
    let (word, count) = (words[0], words.get(1).copied().unwrap_or_default());
    match (word.strip_prefix('-'), word.trim_start_matches('-').split_once('/')) {
        (None, None) => Command::StartActor {
            reference: word.into(),
            annotations,
            amount: match count.split_at(1) {
                ("+", more) => Amount::Add(more.parse().unwrap()),
                (_, max) => Amount::Exactly(max.parse().unwrap()),
            },
        },
        (Some(actor), None) => {
            Command::StopActor { actor: actor.into(), annotations, count: count.parse().ok() }
        }
        (None, Some((reference, link_name))) => Command::StartProvider(Provider {
            reference: reference.into(),
            link_name: link_name.into(),
            annotations,
            ..Provider::default()
        }),
        (Some(_), Some((reference, link_name))) => Command::StopProvider {
            provider: reference.into(),
            link_name: link_name.into(),
            annotations,
        },
    }
}

fn list(commands: &[&str]) -> Kept {
    let mut list = Kept::default();
    for text in commands {
        list.apply(&command(text));
    }
    list
}

/// Returns the list without public keys.
fn without_keys(mut list: Kept) -> Kept {
    list.items.iter_mut().for_each(|item| *item.id_mut() = None);
    list
}

fn worked() -> Ended {
    Ended::Worked { exactly: None, key: None }
}

/// Plays commands after a list: `ok N` and `no N` end the one of this number, `read` reads the list
/// at last.
fn play(before: &[&str], script: &[&str]) -> CommandLog {
    let mut log = CommandLog::default();
    if !script.contains(&"read") {
        log.read(list(before));
    }
    for step in script {
        match step.split_once(' ') {
            None if *step == "read" => _ = log.read(list(before)),
            Some(("ok", number)) => _ = log.end(number.parse().unwrap(), worked()),
            Some(("no", number)) => _ = log.end(number.parse().unwrap(), Ended::Failed),
            _ => _ = log.note(command(step)).unwrap(),
        }
    }
    log
}

#[test]
fn a_command_that_fails_takes_back_what_it_did_and_nothing_else() {
    let cases: [Case; 17] = [
        ("a start is kept before it ends", &[], &["a =2"], &["a =2"]),
        ("one that fails is not", &[], &["a =2", "no 1"], &[]),
        ("what was there before it stays", &["a =1"], &["a =2", "no 1"], &["a =1"]),
        ("one that worked is", &[], &["a =2", "ok 1"], &["a =2"]),
        ("a second start that is refused", &[], &["p/l", "p/l", "no 2"], &["p/l"]),
        ("the same when the first one has worked", &[], &["p/l", "p/l", "ok 1", "no 2"], &["p/l"]),
        ("the same the other way round", &[], &["p/l", "p/l", "no 2", "ok 1"], &["p/l"]),
        ("the first of two fails", &[], &["a +2", "a +3", "no 1", "ok 2"], &["a =3"]),
        ("both fail", &["a =1"], &["a +2", "a +3", "no 2", "no 1"], &["a =1"]),
        ("a stop in between", &["a =1"], &["a =2", "-a", "a =3", "no 1", "no 3"], &[]),
        ("a stop that fails", &["a =1"], &["-a", "no 1"], &["a =1"]),
        ("read after a start", &["b =1"], &["a =2", "read"], &["b =1", "a =2"]),
        ("read after more of the same", &["a =1"], &["a +2", "ok 1", "read"], &["a =3"]),
        ("read after a stop", &["a =1", "p/l"], &["-a", "-p/l", "read"], &[]),
        ("read after one that failed", &["a =1"], &["a =2", "no 1", "read"], &["a =1"]),
        ("read between a start and its end", &["a =1"], &["a =2", "read", "no 1"], &["a =1"]),
        ("fewer", &["a =3"], &["-a 1", "read"], &["a =2"]),
    ];
    for (promise, before, script, after) in cases {
        assert_eq!(*play(before, script).current(), list(after), "{promise}: {script:?}");
    }
}

#[test]
fn the_host_says_how_many_are_left_and_started() {
    let left = |count| {
        let left = vec![(Annotations::new(), count)];
        Ended::Worked {
            exactly: Some(Command::LeftOfActor { reference: "a".into(), left }),
            key: None,
        }
    };
    // Some of those that were stopped were not kept.
    let mut log = play(&["a =3", "a =2 t=x"], &["-a 2"]);
    assert_eq!(*log.current(), list(&["a =1", "a =2 t=x"]));
    assert!(log.end(1, left(3)));
    assert_eq!(*log.current(), list(&["a =3", "a =2 t=x"]));
    // A stop of all is also about those that do not run now.
    let mut log = play(&["a =3", "a =2 t=x"], &["-a"]);
    assert!(!log.end(1, left(0)));
    assert_eq!(*log.current(), Kept::default());
    // Others were there that nobody keeps.
    let mut log = play(&[], &["a +2"]);
    let exactly = Some(command("a =3"));
    assert!(log.end(1, Ended::Worked { exactly, key: Some("M".into()) }));
    assert_eq!(without_keys(log.current().clone()), list(&["a =3"]));
}

#[test]
fn the_start_that_worked_takes_the_place_of_another_reference() {
    let key = |key: &str| Ended::Worked { exactly: None, key: Some(key.into()) };
    let mut log = play(&["a =1", "c =1"], &["b =2"]);
    assert!(log.identify(&command("a =1").place().unwrap(), "M"));
    log.end(1, key("M"));
    assert_eq!(without_keys(log.current().clone()), list(&["c =1", "b =2"]));
    // One that was read, and finds out whose it is when it cannot start.
    let mut log = play(&["a =1", "c =1"], &["b =2"]);
    log.end(1, key("M"));
    let place = command("a =1").place().unwrap();
    assert!(!log.give_way(&place, "N") && log.give_way(&place, "M"));
    assert_eq!(without_keys(log.current().clone()), list(&["c =1", "b =2"]));
    // A stop by the key, before it has run.
    let mut log = play(&["a =1", "c =1"], &[]);
    log.learn(|reference| (reference == "a").then(|| "M".to_owned()));
    assert!(log.note(command("-M")).unwrap().is_news);
    assert_eq!(without_keys(log.current().clone()), list(&["c =1"]));
}

#[test]
fn it_is_known_whether_a_command_is_news_once_the_list_is_read() {
    let mut log = CommandLog::default();
    let stop = log.note(command("-a")).unwrap();
    assert_eq!((stop.is_news, log.is_news(stop.number)), (false, None));
    log.read(list(&["a =1"]));
    assert_eq!(log.is_news(stop.number), Some(true));
    let again = log.note(command("-a")).unwrap();
    assert_eq!((again.is_news, log.is_news(again.number)), (false, Some(false)));
}

#[test]
fn what_there_is_no_room_for_changes_nothing() {
    let full = || {
        let mut all = Kept::default();
        for number in 0..ITEMS_MAX {
            all.apply(&command(&format!("a{number} =1")));
        }
        all
    };
    let mut log = CommandLog::default();
    log.read(full());
    assert_eq!(log.note(command("more =1")), Err(Refused::Full(Full::Items)));
    assert_eq!(*log.current(), full());
    assert!(log.note(command("a7 =9")).is_ok());
    // The same for one that was given before the list was read.
    let mut log = CommandLog::default();
    log.note(command("more =1")).unwrap();
    log.note(command("-a7")).unwrap();
    log.note(command("other =1")).unwrap();
    log.read(full());
    let current = log.current();
    assert!(current.get(&command("more =1").place().unwrap()).is_none());
    assert!(current.get(&command("other =1").place().unwrap()).is_some());

    let mut log = play(&["p/default", "a =1"], &[]);
    for link_name in ["default", "other"] {
        let large = Provider {
            reference: "p".into(),
            link_name: link_name.into(),
            configuration: Some("x".repeat(BYTES_MAX)),
            ..Provider::default()
        };
        let refused = log.note(Command::StartProvider(large));
        assert_eq!(refused, Err(Refused::Full(Full::Bytes)));
    }
    let update = Command::UpdateActor { actor: "a".into(), reference: "r".repeat(BYTES_MAX) };
    assert_eq!(log.note(update), Err(Refused::Full(Full::Bytes)));
    assert_eq!(*log.current(), list(&["p/default", "a =1"]));

    let mut log = CommandLog::default();
    for _ in 0..WAITING_MAX {
        log.note(command("a +1")).unwrap();
    }
    assert_eq!(log.note(command("a +1")), Err(Refused::TooMany));
}

fn any_command() -> impl Strategy<Value = Command> {
    let texts = [
        "a +1", "a =2", "a =0", "a +3 t=x", "b =1", "b +2 t=x", "-a", "-a 1", "-a 2 t=x", "-b",
        "-M", "p/l", "p/k t=x", "q/l", "-p/l", "-q/l t=x",
    ];
    prop::sample::select(texts.to_vec()).prop_map(command)
}

/// Returns the public key behind a start: `a` and `b` are one actor, `p` and `q` one provider.
fn key_of(command: &Command) -> Option<String> {
    command.place().map(|place| match place {
        Place::Actor { .. } => "M".to_owned(),
        Place::Provider { .. } => "V".to_owned(),
    })
}

proptest! {
    /// Whenever the list is read and in whatever order commands end: kept is what those that worked
    /// make of the list, in the order they were given.
    #[test]
    fn the_order_of_commands_is_that_of_the_list(
        before in vec(any_command(), 0..6),
        commands in vec((any_command(), any::<bool>(), any::<u8>()), 0..8),
        read_after in 0..8_usize,
    ) {
        let mut base = Kept::default();
        before.iter().for_each(|command| _ = base.apply(command));
        let mut expected = base.clone();
        for (command, ..) in commands.iter().filter(|(_, works, _)| *works) {
            expected.apply(command);
            if let (Some(place), Some(key)) = (command.place(), key_of(command)) {
                expected.identify(&place, &key);
            }
        }
        let mut log = CommandLog::default();
        let mut ends = Vec::new();
        for (at, (command, works, turn)) in commands.iter().enumerate() {
            if at == read_after {
                log.read(base.clone());
            }
            let noted = log.note(command.clone()).unwrap();
            ends.push((*turn, noted.number, *works, key_of(command)));
        }
        let is_early = commands.len() <= read_after;
        if is_early && read_after % 2 == 0 {
            log.read(base.clone());
        }
        ends.sort();
        for (_, number, works, key) in ends {
            let worked = Ended::Worked { exactly: None, key };
            log.end(number, if works { worked } else { Ended::Failed });
        }
        if !log.is_read() {
            log.read(base);
        }
        prop_assert_eq!(log.current(), &expected);
        prop_assert!(log.commands.is_empty());
    }
}
