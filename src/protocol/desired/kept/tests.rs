use super::*;

/// Reads annotations like `t=x`; nothing for none.
fn annotations(text: &str) -> Annotations {
    let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Makes an actor of `reference`, `reference#KEY` or with ` t=x`, and a provider of
/// `reference/link`, with a number of calls where it is an actor.
fn item((text, max): (&str, u32)) -> Item {
    let (named, marks) = text.split_once(' ').unwrap_or((text, ""));
    let (named, id) = match named.split_once('#') {
        Some((named, id)) => (named, Some(id.to_owned())),
        None => (named, None),
    };
    let annotations = annotations(marks);
    match named.split_once('/') {
        Some((reference, link_name)) => Item::Provider(Provider {
            reference: reference.into(),
            id,
            link_name: link_name.into(),
            annotations,
            configuration: None,
        }),
        None => Item::Actor(Actor { reference: named.into(), id, annotations, max }),
    }
}

fn kept(list: &[(&str, u32)]) -> Kept {
    Kept { items: list.iter().map(|one| item(*one)).collect(), ..Kept::default() }
}

#[test]
fn what_a_later_version_keeps_is_handed_on_as_it_is() {
    let text = r#"{"items":[{"kind":"job","cron":"@daily"},{"kind":"actor","reference":"a","max":1,"weight":7}]}"#;
    let mut read: Kept = serde_json::from_str(text).unwrap();
    assert_eq!((read.items.len(), read.unknown.len()), (1, 1));
    assert!(read.apply(&scale("a", "", 0)) && !read.is_empty());
    let written = serde_json::to_value(&read).unwrap();
    let left = serde_json::json!({ "items": [{ "kind": "job", "cron": "@daily" }] });
    assert_eq!(written, left);
}

#[test]
fn an_item_of_a_known_kind_that_makes_no_sense_is_an_error() {
    for text in [
        r#"{"items":[{"kind":"actor"}]}"#,
        r#"{"items":[{"reference":"a","max":1}]}"#,
        r#"{"items":["actor"]}"#,
        "{}",
    ] {
        assert!(serde_json::from_str::<Kept>(text).is_err(), "{text}");
    }
}

fn launch(reference: &str, marks: &str, more: u32) -> Command {
    let annotations = annotations(marks);
    let amount = Amount::Add(more);
    Command::StartActor { reference: reference.into(), annotations, amount }
}

fn scale(reference: &str, marks: &str, max: u32) -> Command {
    let annotations = annotations(marks);
    let amount = Amount::Exactly(max);
    Command::StartActor { reference: reference.into(), annotations, amount }
}

fn stop(actor: &str, marks: &str, count: Option<u32>) -> Command {
    Command::StopActor { actor: actor.into(), annotations: annotations(marks), count }
}

fn update(actor: &str, reference: &str) -> Command {
    Command::UpdateActor { actor: actor.into(), reference: reference.into() }
}

fn start(text: &str) -> Command {
    let Item::Provider(provider) = item((text, 0)) else { panic!("a provider") };
    Command::StartProvider(provider)
}

fn end(provider: &str, link_name: &str, marks: &str) -> Command {
    let annotations = annotations(marks);
    let (provider, link_name) = (provider.into(), link_name.into());
    Command::StopProvider { provider, link_name, annotations }
}

type List<'a> = &'a [(&'a str, u32)];

#[test]
fn each_command_about_actors_makes_another_list() {
    let two: List<'_> = &[("a#M", 2), ("a#M t=x", 3)];
    let all = u32::MAX;
    let cases: [(&str, List<'_>, Command, List<'_>); 26] = [
        ("a start is kept", &[], launch("a", "", 1), &[("a", 1)]),
        ("more are more", &[("a", 1)], launch("a", "", 2), &[("a", 3)]),
        ("annotations make another", &[("a", 1)], launch("a", "t=x", 2), &[("a", 1), ("a t=x", 2)]),
        ("no bound stays", &[("a", all)], launch("a", "", 1), &[("a", all)]),
        ("an amount is set", &[], scale("a", "", 5), &[("a", 5)]),
        ("an amount is changed", two, scale("a", "t=x", 1), &[("a#M", 2), ("a#M t=x", 1)]),
        ("none is a stop", two, scale("a", "", 0), &[("a#M t=x", 3)]),
        ("none of nothing", &[], scale("a", "", 0), &[]),
        ("managed", &[], launch("a", "wasmcloud.dev/managed-by=wadm", 1), &[]),
        (
            "managed beside",
            &[("a", 1)],
            scale("a", "wasmcloud.dev/managed-by=w t=x", 4),
            &[("a", 1)],
        ),
        ("host dev", &[], scale("a", "lattice.host/dev=a.wasm", 1), &[]),
        ("a managed stop", two, stop("a", "wasmcloud.dev/managed-by=wadm", None), two),
        ("a stop by key", two, stop("M", "", None), &[]),
        ("a stop by reference", two, stop("a", "", None), &[]),
        ("a stop of another", two, stop("N", "", None), two),
        ("a stop before the key is known", &[("a", 1)], stop("M", "", None), &[("a", 1)]),
        ("a stop by annotation", two, stop("M", "t=x", None), &[("a#M", 2)]),
        ("annotations that nothing has", two, stop("M", "t=y", None), two),
        ("fewer", two, stop("M", "", Some(1)), &[("a#M", 1), ("a#M t=x", 3)]),
        ("fewer than both", two, stop("M", "", Some(4)), &[("a#M t=x", 1)]),
        ("as many as there are", two, stop("M", "", Some(5)), &[]),
        ("two without a bound", &[("a#M", all), ("a#M t=x", all)], stop("M", "", None), &[]),
        ("an update", two, update("M", "b"), &[("b#M", 2), ("b#M t=x", 3)]),
        ("an update of another", two, update("N", "b"), two),
        ("an update to the same", two, update("M", "a"), two),
        ("providers stay", &[("a/l#M", 0), ("a#M", 1)], stop("M", "", None), &[("a/l#M", 0)]),
    ];
    for (promise, before, command, after) in cases {
        let mut list = kept(before);
        let is_changed = list.apply(&command);
        let expected = kept(after);
        assert_eq!(list, expected, "{promise}: {command:?}");
        assert_eq!(is_changed, kept(before) != expected, "{promise}: {command:?}");
    }
}

#[test]
fn each_command_about_providers_makes_another_list() {
    let two: List<'_> = &[("p/default", 0), ("p/front t=x", 0)];
    let cases: [(&str, List<'_>, Command, List<'_>); 8] = [
        ("a start is kept", &[], start("p/default"), &[("p/default", 0)]),
        ("another link name", &[("p/a", 0)], start("p/b"), &[("p/a", 0), ("p/b", 0)]),
        ("managed", &[], start("p/a wasmcloud.dev/managed-by=wadm"), &[]),
        ("host dev", &[], start("p/a lattice.host/dev=a.wasm"), &[]),
        ("a stop", two, end("p", "front", ""), &[("p/default", 0)]),
        ("a stop by annotation", two, end("p", "front", "t=x"), &[("p/default", 0)]),
        ("a stop of another one", two, end("p", "front", "t=y"), two),
        ("a stop of another link", two, end("p", "back", ""), two),
    ];
    for (promise, before, command, after) in cases {
        let mut list = kept(before);
        let is_changed = list.apply(&command);
        assert_eq!(list, kept(after), "{promise}: {command:?}");
        assert_eq!(is_changed, kept(before) != kept(after), "{promise}: {command:?}");
    }
    let mut list = kept(two);
    assert!(list.identify(&item(two[0]).place(), "V") && list.identify(&item(two[1]).place(), "V"));
    assert!(!list.identify(&item(two[0]).place(), "V"), "no news");
    assert!(list.apply(&end("V", "default", "")));
    assert_eq!(list, kept(&[("p/front#V t=x", 0)]));
}

#[test]
fn of_two_that_cannot_run_beside_each_other_the_later_one_is_kept() {
    let cases: [(&str, List<'_>, List<'_>); 7] = [
        ("two references of one actor", &[("a#M", 1), ("b#M", 2)], &[("b#M", 2)]),
        ("all its annotations", &[("a#M", 1), ("a#M t=x", 1), ("b#M", 2)], &[("b#M", 2)]),
        (
            "annotations of one reference",
            &[("a#M", 1), ("a#M t=x", 1)],
            &[("a#M", 1), ("a#M t=x", 1)],
        ),
        ("keys that are not known", &[("a", 1), ("b#M", 2)], &[("a", 1), ("b#M", 2)]),
        ("one place twice", &[("a#M", 1), ("c", 1), ("a", 2)], &[("c", 1), ("a", 2)]),
        (
            "two references of a provider under one name",
            &[("p/l#V", 0), ("q/l#V", 0), ("p/k#V", 0)],
            &[("q/l#V", 0), ("p/k#V", 0)],
        ),
        ("two providers", &[("p/l#V", 0), ("q/l#W", 0)], &[("p/l#V", 0), ("q/l#W", 0)]),
    ];
    for (promise, before, after) in cases {
        let mut list = kept(before);
        list.drop_superseded();
        assert_eq!(list, kept(after), "{promise}");
    }
    // The one that runs counts, wherever it is in the list.
    let mut list = kept(&[("c", 1), ("a", 1), ("b#M", 2), ("b#M t=x", 2)]);
    let place = item(("a", 1)).place();
    assert!(list.has_other(&place, "M") && !list.has_other(&place, "N"));
    assert!(list.identify(&place, "M") && !list.identify(&place, "M"));
    assert_eq!(list, kept(&[("c", 1), ("a#M", 1)]));
    // An update makes one reference of two.
    let mut list = kept(&[("a#M", 1), ("b", 2)]);
    assert!(list.apply(&update("M", "b")));
    assert_eq!(list, kept(&[("b", 2)]));
}

#[test]
fn a_stop_leaves_as_many_as_the_host_says() {
    let left = |list: List<'_>| {
        let left = list.iter().map(|(marks, count)| (annotations(marks), *count)).collect();
        Command::LeftOfActor { reference: "a".into(), left }
    };
    let two: List<'_> = &[("a#M", 2), ("a#M t=x", 3), ("b", 4)];
    let cases: [(&str, List<'_>, List<'_>); 4] = [
        ("some", &[("", 1)], &[("a#M", 1), ("a#M t=x", 3), ("b", 4)]),
        ("none", &[("", 0), ("t=x", 1)], &[("a#M t=x", 1), ("b", 4)]),
        ("of what is not kept", &[("t=y", 7)], two),
        ("nothing new", &[("", 2)], two),
    ];
    for (promise, counts, after) in cases {
        let mut list = kept(two);
        assert_eq!(list.apply(&left(counts)), kept(after) != kept(two), "{promise}");
        assert_eq!(list, kept(after), "{promise}");
    }
}

#[test]
fn a_list_is_read_as_it_is_written_and_hides_configurations_in_logs() {
    let mut list = kept(&[("a#M t=x", 3), ("p/default#V", 0)]);
    let Item::Provider(provider) = &mut list.items[1] else { panic!("a provider") };
    provider.configuration = Some("hunter2".into());
    let text = serde_json::to_string(&list).unwrap();
    assert_eq!(serde_json::from_str::<Kept>(&text).unwrap(), list);
    assert!(text.contains("hunter2") && !format!("{list:?}").contains("hunter2"));
}
