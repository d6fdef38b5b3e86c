//! The log: lines on standard error or in a file, `15:35:07.123 [info] message key=value`, or one
//! JSON object a line.
//!
//! Flow: [`Bounded`] asks [`flood`] whether the event is one too many → the event is formatted as
//! one line ([`Lines`], or the library's JSON) → [`Log`] escapes what a terminal would obey and
//! cuts what is too long → [`outlet`] writes it, on a thread of its own, to standard error or to a
//! file with a bound ([`rotating`]). [`audit`] has the lines about commands, which go the same way.
//! [`otel`] gives lines, and more, to a collector.
//!
//! Always true: a line of the log never fails, ends or delays anything. This is why the library's
//! own report of a failed write is off: it panics where standard error is gone.

pub mod audit;
pub mod flood;
pub mod otel;
mod outlet;
mod rotating;

use std::{
    fmt::{self, Write as _},
    io, panic,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use time::{
    OffsetDateTime,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
    macros::format_description,
};
use tracing::{
    Event, Level, Subscriber,
    callsite::Identifier,
    error,
    field::{Field, Visit},
    warn,
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter,
        format::{DefaultFields, Format, JsonFields, Writer},
    },
    registry::LookupSpan,
};

use crate::config;
use flood::{Bounds, Flood, Owed};
use lattice_protocol::escape;
use outlet::{Notice, Outlet};
use rotating::Rotating;

/// The target of lines that tell each HTTP request, where somebody asked for them.
pub const ACCESS: &str = "lattice_host::access";

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
/// A longer line is cut; in JSON, its longer texts are.
const LINE_BYTES_MAX: usize = 16 << 10;
/// The length that a text is cut to in a line of JSON that is too long.
const TEXT_BYTES_MAX: usize = 2 << 10;
/// How long the process stays at its end for lines that nobody has read yet.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Lines of a kind in a window: enough to see what goes on, and for the settings, links and actors
/// of a start.
const BOUNDS: Bounds = Bounds { per_target: 20, per_kind: 200 };
/// Lines of these come from somebody who has a bound of its own, or were asked for one by one.
const UNBOUNDED: [&str; 3] = ["actor", "provider", ACCESS];
/// Fields that tell about a line rather than name what it is about.
const NO_NAMES: [&str; 8] =
    ["error", "reason", "cause", "error_id", "invocation_id", "request_id", "took_ms", "pid"];
const LOST: &str = "log lines were lost: nobody read them in time, or they could not be written";

static LOG: OnceLock<Log> = OnceLock::new();
/// Exchanges the filter of the log.
static EXCHANGE: OnceLock<Box<dyn Fn(EnvFilter) -> bool + Send + Sync>> = OnceLock::new();
static OUTPUT: OnceLock<Outlet> = OnceLock::new();
/// Warnings of a time before there is a log. Held for lines, never across an await.
static LATER: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Starts logging. Libraries are heard from warnings on, unless everything is wanted.
pub fn init(log: &config::Log) {
    let filter = filter(log.level);
    let form = if log.json { Form::Json } else { Form::Text };
    let notice = if log.json { lost_in_json } else { lost_in_text };
    let sink = LOG.get_or_init(|| match log.file.as_ref().and_then(file_of_log) {
        Some(file) => Log::new(form, Outlet::open("log", file, notice)),
        None => Log { is_on_stderr: true, ..Log::new(form, on_stderr("log", notice)) },
    });
    // An error means that a log exists already, as in tests that share a process.
    let _ = match form {
        Form::Text => {
            let builder = builder(sink)
                .with_env_filter(filter)
                .event_format(sink.bounded(Lines))
                .with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map(|()| exchange_with(move |filter| handle.reload(filter).is_ok()))
        }
        Form::Json => {
            let builder = builder(sink)
                .fmt_fields(JsonFields::new())
                .with_env_filter(filter)
                .event_format(sink.bounded(json_format()))
                .with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().map(|()| exchange_with(move |filter| handle.reload(filter).is_ok()))
        }
    };
    let later = std::mem::take(&mut *LATER.lock());
    later.iter().for_each(|warning| warn!("{warning}"));
}

/// Opens the file of the log. Without it the log is on standard error, and says why.
fn file_of_log(settings: &config::LogFile) -> Option<Rotating> {
    match Rotating::open(settings) {
        Ok(file) => Some(file),
        Err(error) => {
            warn_later(vec![format!(
                "the log goes to standard error, since log_file {} cannot be used: {error}",
                settings.path.display()
            )]);
            None
        }
    }
}

fn on_stderr(name: &str, notice: Notice) -> Outlet {
    match outlet::own_handle(&io::stderr()) {
        Ok(stderr) => Outlet::open(name, stderr, notice),
        Err(_) => Outlet::open(name, io::stderr(), notice),
    }
}

/// Returns how many lines of the log were lost since the start.
pub fn lost() -> u64 {
    LOG.get().map_or(0, |log| log.outlet.lost_so_far())
}

/// Returns what is heard at a level: of libraries warnings only, unless everything is wanted.
fn filter(level: Level) -> EnvFilter {
    let others = if level >= Level::DEBUG { "info" } else { "warn" };
    let level = level.as_str().to_lowercase();
    EnvFilter::new(format!("{others},lattice_={level},host={level},actor={level},provider={level}"))
}

fn exchange_with(exchange: impl Fn(EnvFilter) -> bool + Send + Sync + 'static) {
    // An error means that a log exists already.
    let _ = EXCHANGE.set(Box::new(exchange));
}

/// Changes the level of the log. Returns whether there is a log that takes it.
pub fn set_level(level: Level) -> bool {
    EXCHANGE.get().is_some_and(|exchange| exchange(filter(level)))
}

/// Keeps warnings until there is a log, so that they have its form.
pub fn warn_later(warnings: Vec<String>) {
    LATER.lock().extend(warnings);
}

type Builder = tracing_subscriber::fmt::SubscriberBuilder<
    DefaultFields,
    Format,
    tracing_subscriber::filter::LevelFilter,
    Log,
>;

fn builder(sink: &Log) -> Builder {
    tracing_subscriber::fmt().with_writer(sink.clone()).with_ansi(false).log_internal_errors(false)
}

fn json_format() -> Format<tracing_subscriber::fmt::format::Json> {
    tracing_subscriber::fmt::format().json().flatten_event(true).with_current_span(true)
}

/// Lets a panic be told by the log, which waits for no reader; the usual report writes to standard
/// error itself.
pub fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no text");
        let backtrace = std::backtrace::Backtrace::capture();
        error!(thread, place, %backtrace, "a task panicked, this is a bug: {message}");
        // This thread may be about to end the process.
        flush();
    }));
}

/// Prints text of a running host on standard output, which may have no reader either.
pub fn say(text: &str) {
    let outlet = OUTPUT.get_or_init(|| match outlet::own_handle(&io::stdout()) {
        Ok(stdout) => Outlet::open("output", stdout, |_| String::new()),
        Err(_) => Outlet::open("output", io::stdout(), |_| String::new()),
    });
    outlet.push(escape::block(text).as_bytes());
}

/// Repeats lines from the log of another process.
pub fn repeat(lines: &[u8]) {
    if let Some(log) = LOG.get() {
        lines.split_inclusive(|byte| *byte == b'\n').for_each(|line| log.outlet.push(line));
    }
}

/// Tells how much of the floods that are over was left out of the log. To be called from time to
/// time.
pub fn settle() {
    if let Some(log) = LOG.get() {
        let owed = log.flood.lock().settle(Instant::now());
        log.tell(&owed);
    }
}

/// Lets out what was logged and said, as far as it is taken within a short time. To be called
/// before the process ends.
pub fn flush() {
    // The lines that it could not write are told in the log.
    audit::flush(FLUSH_TIMEOUT);
    if let Some(log) = LOG.get() {
        let owed = log.flood.lock().end();
        log.tell(&owed);
        log.outlet.flush(FLUSH_TIMEOUT);
    }
    if let Some(output) = OUTPUT.get() {
        output.flush(FLUSH_TIMEOUT);
    }
}

fn lost_in_text(lost: u64) -> String {
    warning(Form::Text, LOST, &[("lost", json!(lost))])
}

fn lost_in_json(lost: u64) -> String {
    warning(Form::Json, LOST, &[("lost", json!(lost))])
}

/// A line of the log about the log.
fn warning(form: Form, message: &str, fields: &[(&str, Value)]) -> String {
    let now = OffsetDateTime::now_utc();
    match form {
        Form::Text => {
            let fields: String =
                fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            format!(
                "{} [warning] {message}{}\n",
                now.format(TIME).unwrap_or_default(),
                escape::line(&fields)
            )
        }
        Form::Json => {
            let now = now.format(&Rfc3339).unwrap_or_default();
            let mut line = json!({ "timestamp": now, "level": "WARN", "message": message, "target": module_path!() });
            fields.iter().for_each(|(name, value)| line[*name] = value.clone());
            format!("{}\n", escape::line(&line.to_string()))
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

/// The way of formatted lines to the outlet.
#[derive(Clone)]
struct Log {
    form: Form,
    outlet: Outlet,
    is_on_stderr: bool,
    // Held for a count, never while a line is made.
    flood: Arc<Mutex<Flood<Identifier>>>,
}

impl Log {
    fn new(form: Form, outlet: Outlet) -> Self {
        let flood = Arc::new(Mutex::new(Flood::new(BOUNDS)));
        Self { form, outlet, is_on_stderr: false, flood }
    }

    fn bounded<F>(&self, format: F) -> Bounded<F> {
        Bounded { log: self.clone(), format }
    }

    fn tell(&self, owed: &[Owed]) {
        for Owed { left_out, mostly } in owed {
            let fields = [("left_out", json!(left_out)), ("mostly", json!(mostly))];
            let message = "too many log lines of one kind, the rest was counted";
            self.outlet.push(warning(self.form, message, &fields).as_bytes());
        }
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// Takes one whole line with each call, as the library writes them.
impl io::Write for &Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let mut safe = escape::line(text).into_owned();
        if safe.len() > LINE_BYTES_MAX {
            safe = match self.form {
                Form::Text => fitted(&safe, LINE_BYTES_MAX),
                Form::Json => fitted_json(&safe),
            };
        }
        safe.push('\n');
        self.outlet.push(safe.as_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The beginning of a text, and how long it was.
fn fitted(text: &str, bytes_max: usize) -> String {
    let end = text.floor_char_boundary(bytes_max);
    format!("{}… ({} bytes)", &text[..end], text.len())
}

/// A line of JSON with its long texts cut; if it is still too long, only what every line has.
fn fitted_json(line: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(line) else {
        return fitted(line, LINE_BYTES_MAX);
    };
    cut_texts(&mut value);
    let cut = escape::line(&value.to_string()).into_owned();
    if cut.len() <= LINE_BYTES_MAX {
        return cut;
    }
    let least =
        ["timestamp", "level", "message", "target"].map(|name| (name, value.get(name).cloned()));
    escape::line(&json!(std::collections::BTreeMap::from(least)).to_string()).into_owned()
}

fn cut_texts(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > TEXT_BYTES_MAX => *text = fitted(text, TEXT_BYTES_MAX),
        Value::Array(values) => values.iter_mut().for_each(cut_texts),
        Value::Object(members) => members.values_mut().for_each(cut_texts),
        _ => {}
    }
}

/// A format that leaves out lines of a flood. Debug and trace lines all get through.
struct Bounded<F> {
    log: Log,
    format: F,
}

impl<S, N, F> FormatEvent<S, N> for Bounded<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        if *metadata.level() <= Level::INFO && !UNBOUNDED.contains(&metadata.target()) {
            let mut about = About::default();
            event.record(&mut about);
            // The guard is gone before anything else happens.
            let (is_admitted, owed) =
                self.log.flood.lock().admit(metadata.callsite(), &about.target(), Instant::now());
            self.log.tell(&owed);
            if !is_admitted {
                return Ok(());
            }
        }
        otel::emit(event);
        match otel::current() {
            Some(place) if self.log.form == Form::Json => {
                self.format_with(&place, context, writer, event)
            }
            _ => self.format.format_event(context, writer, event),
        }
    }
}

impl<F> Bounded<F> {
    /// Formats a line of JSON that names the trace and the span it belongs to.
    fn format_with<S, N>(
        &self,
        (trace_id, span_id): &(String, String),
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
        F: FormatEvent<S, N>,
    {
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        let Some(line) = line.trim_end().strip_suffix('}') else {
            return writer.write_str(&line);
        };
        // Both are hexadecimal digits.
        writeln!(writer, r#"{line},"trace_id":"{trace_id}","span_id":"{span_id}"}}"#)
    }
}

/// The subject of a line: its message, and the first field that names something.
#[derive(Default)]
struct About {
    message: Short,
    name: Option<Short>,
}

impl About {
    fn target(&self) -> String {
        let name = self.name.as_ref().map_or("", |name| &name.0);
        // The name comes first: it is what tells two targets apart.
        if name.is_empty() { self.message.0.clone() } else { format!("{name}: {}", self.message.0) }
    }
}

impl Visit for About {
    fn record_str(&mut self, field: &Field, value: &str) {
        // Without the quotes of its debug form.
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // An error means that it has no more room.
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else if self.name.is_none() && !NO_NAMES.contains(&field.name()) {
            let mut name = Short::default();
            let _ = write!(name, "{value:?}");
            self.name = Some(name);
        }
    }
}

/// The beginning of a text; what comes after it is not even formatted.
#[derive(Default)]
struct Short(String);

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = flood::TARGET_BYTES_MAX / 2 - self.0.len();
        let end = text.floor_char_boundary(room);
        self.0.push_str(&text[..end]);
        if end < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

/// The line format of the first hosts, with fields after the message.
struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = OffsetDateTime::now_utc().format(TIME).map_err(|_| fmt::Error)?;
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let mut line = Line::default();
        event.record(&mut line);
        write!(writer, "{now} [{level}] {}{}", line.message, line.fields)?;
        for span in context.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>()
                && !fields.is_empty()
            {
                write!(writer, " {fields}")?;
            }
        }
        writeln!(writer)
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_owned();
        } else {
            self.fields.push_str(&format!(" {}={value:?}", field.name()));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.fields.push_str(&format!(" {}={value:?}", field.name()));
        }
    }
}

#[cfg(test)]
mod tests {
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

    /// Returns the log after `events`.
    fn logged(form: Form, events: impl FnOnce()) -> String {
        // A place that logs for the first time asks all subscribers there are whether they want it:
        // one that another thread is just about to drop would answer for this one.
        static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock();
        let end = End::default();
        let log = Log::new(form, Outlet::open("test", end.clone(), lost_in_text));
        match form {
            Form::Json => {
                let format = log.bounded(json_format());
                let subscriber =
                    builder(&log).fmt_fields(JsonFields::new()).event_format(format).finish();
                tracing::subscriber::with_default(subscriber, events);
            }
            Form::Text => {
                let subscriber = builder(&log).event_format(log.bounded(Lines)).finish();
                tracing::subscriber::with_default(subscriber, events);
            }
        }
        let owed = log.flood.lock().end();
        log.tell(&owed);
        log.outlet.flush(Duration::from_secs(30));
        String::from_utf8(end.0.lock().unwrap().clone()).unwrap()
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
        for (form, left_out) in [(Form::Text, "left_out=4980"), (Form::Json, r#""left_out":4980"#)]
        {
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
    fn warnings_of_one_place_are_told_apart_by_what_they_say() {
        let log = logged(Form::Text, || {
            (0..50).for_each(|n| tracing::warn!("the setting number {n} is unknown"))
        });
        assert_eq!(log.lines().count(), 50);
    }
}
