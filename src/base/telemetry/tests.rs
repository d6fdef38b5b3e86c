use std::sync::{Arc, Mutex};

use super::*;

/// The bytes that reached the other end of the log.
#[derive(Clone, Default)]
struct End(Arc<Mutex<Vec<u8>>>);

impl io::Write for End {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A place that logs for the first time asks all subscribers there are whether they want it:
/// one that another thread is just about to drop would answer for this one.
pub(super) static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

/// Returns the log after `events`.
fn logged(form: Form, events: impl FnOnce()) -> String {
    let _turn = ONE_AT_A_TIME.lock();
    let end = End::default();
    let notice = Notice::line(lost_in_text);
    let log = Log::new(form, Outlet::open("test", end.clone(), notice));
    let subscriber = Registry::default().with(filter(Level::INFO)).with(lines(&log));
    tracing::subscriber::with_default(subscriber, events);
    let owed = log.flood.lock().end();
    log.tell(&owed);
    log.outlet.flush(Duration::from_secs(30));
    String::from_utf8(end.0.lock().unwrap().clone()).unwrap()
}

#[test]
fn libraries_are_heard_from_warnings_on_unless_everything_is_wanted() {
    for (wanted, target, level, is_heard) in [
        (Level::INFO, "lattice_engine::router", Level::INFO, true),
        (Level::INFO, "lattice_engine::router", Level::DEBUG, false),
        (Level::INFO, "host", Level::INFO, true),
        (Level::INFO, "actor", Level::INFO, true),
        (Level::INFO, "provider", Level::DEBUG, false),
        (Level::INFO, "async_nats", Level::INFO, false),
        (Level::INFO, "async_nats", Level::WARN, true),
        (Level::ERROR, "lattice_base", Level::WARN, false),
        (Level::ERROR, "async_nats", Level::WARN, true),
        (Level::DEBUG, "lattice_base", Level::DEBUG, true),
        (Level::DEBUG, "async_nats", Level::INFO, true),
        (Level::TRACE, "async_nats", Level::DEBUG, false),
    ] {
        let heard = filter(wanted).would_enable(target, &level);
        assert_eq!(heard, is_heard, "{level} of {target} at {wanted}");
    }
}

#[test]
fn the_filter_below_the_lines_can_be_exchanged() {
    for form in [Form::Text, Form::Json] {
        let _turn = ONE_AT_A_TIME.lock();
        let end = End::default();
        let notice = Notice::line(lost_in_text);
        let log = Log::new(form, Outlet::open("test", end.clone(), notice));
        let (below, handle) = reload::Layer::<_, Registry>::new(filter(Level::ERROR));
        let subscriber = Registry::default().with(below).with(lines(&log));
        tracing::subscriber::with_default(subscriber, || {
            for text in ["before", "after"] {
                warn!("{text}");
                handle.reload(filter(Level::INFO)).unwrap();
            }
        });
        log.outlet.flush(Duration::from_secs(30));
        let lines = String::from_utf8(end.0.lock().unwrap().clone()).unwrap();
        assert!(lines.contains("after") && !lines.contains("before"), "{lines}");
    }
}

const EVIL: &str =
    "x\n12:00:00.000 [info] forged\r\u{1b}]0;title\u{7}\u{9b}2J\u{7f}\u{202e}\u{2028}y";

fn evil_events() {
    let span = tracing::info_span!("control", subject = %EVIL, debugged = ?EVIL);
    let _entered = span.enter();
    error!(reference = %EVIL, text = EVIL, debugged = ?EVIL, "{EVIL}");
    error!("second");
}

#[test]
fn what_strangers_write_stays_on_its_line_and_moves_no_cursor() {
    for form in [Form::Text, Form::Json] {
        let log = logged(form, evil_events);
        assert_eq!(log.lines().count(), 2, "{log}");
        assert!(!log.contains(|c| escape::is_obeyed(c) && c != '\n'), "{log:?}");
        assert!(log.contains("\\u001b]0;title") || log.contains("\\\\u001b"), "{log}");
    }
}

#[test]
fn lines_of_json_say_the_same_after_they_were_escaped() {
    let log = logged(Form::Json, evil_events);
    let line: Value = serde_json::from_str(log.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["message"], &line["reference"], &line["text"]),
        (&json!(EVIL), &json!(EVIL), &json!(EVIL))
    );
}

#[test]
fn a_line_has_a_bound_in_both_forms() {
    let long = "ä".repeat(1 << 20);
    for form in [Form::Text, Form::Json] {
        let log = logged(form, || {
            let _entered = tracing::info_span!("control", subject = %long).entered();
            error!(reference = %long, "{long}");
        });
        assert!(log.lines().count() == 1 && log.len() < LINE_BYTES_MAX + 100, "{}", log.len());
        assert!(log.contains("bytes)"), "how much it was is told");
        assert!(form == Form::Text || serde_json::from_str::<Value>(&log).is_ok(), "{log}");
    }
}

#[test]
fn a_flood_of_one_kind_is_counted_and_hides_no_other_target() {
    // With the name of the field: the number alone may be a part of a time.
    for (form, left_out) in [(Form::Text, "left_out=4980"), (Form::Json, r#""left_out":4980"#)] {
        let log = logged(form, || {
            for n in 0..5000 {
                tracing::warn!(actor_id = "MA", error = n, "invocation refused");
            }
            for target in ["MB", "MC"] {
                tracing::warn!(actor_id = target, error = 1, "invocation refused");
            }
            (0..300).for_each(|n| tracing::debug!(n, "asked for"));
            (0..300).for_each(|n| tracing::info!(target: "actor", n, "its own bound"));
        });
        let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        assert_eq!(count("invocation refused"), 20 + 2 + 1, "{log}");
        assert!(count("MB") == 1 && count("MC") == 1 && count(left_out) == 1, "{log}");
        assert_eq!(count("its own bound"), 300);
    }
}

#[test]
fn what_ends_the_process_is_on_standard_error_once_and_in_the_form_of_the_log() {
    const LONG: usize = 1 << 20;
    for (form, is_on_stderr) in
        [(Form::Text, false), (Form::Json, false), (Form::Text, true), (Form::Json, true)]
    {
        let log = Log::new(form, Outlet::open("test", End::default(), SAYS_NOTHING));
        let log = Log { file: (!is_on_stderr).then(|| PathBuf::from("a.log")), ..log };
        let line = log.aside(Level::ERROR, &format!("it failed\n{EVIL}"));
        assert_eq!(line.is_none(), is_on_stderr, "the log says it already");
        let Some(line) = line else { continue };
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(!line.contains(|c| escape::is_obeyed(c) && c != '\n'), "{line:?}");
        match form {
            Form::Text => assert!(line.contains(" [error] it failed\\n"), "{line}"),
            Form::Json => {
                let line: Value = serde_json::from_str(&line).unwrap();
                let message = line["message"].as_str().unwrap_or_default();
                assert!(message.starts_with("it failed\n"), "{line}");
                assert_eq!((&line["level"], &line["log_file"]), (&json!("ERROR"), &json!("a.log")));
            }
        }
        let long = log.aside(Level::WARN, &"x".repeat(LONG)).unwrap();
        assert!(long.len() < LINE_BYTES_MAX && long.contains("WARN") != (form == Form::Text));
    }
}

#[test]
fn warnings_of_one_place_are_told_apart_by_what_they_say() {
    let log = logged(Form::Text, || {
        (0..50).for_each(|n| tracing::warn!("the setting number {n} is unknown"))
    });
    assert_eq!(log.lines().count(), 50);
}
