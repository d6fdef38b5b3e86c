//! The log: lines on standard error or in a file, `15:35:07.123 [info] message key=value`, or one
//! JSON object a line.
//!
//! Flow: [`Bounded`] asks [`flood`] whether the event is one too many → the event is formatted as
//! one line ([`Lines`], or the library's JSON) → [`Log`] escapes what a terminal would obey and
//! cuts what is too long → [`outlet`] writes it, on a thread of its own, to standard error or to a
//! file with a bound ([`rotating`]). [`audit`] has the lines about commands, which go the same way.
//! [`otel`] gives lines, and more, to a collector. Where the log has a file, standard error still
//! hears why the process ends ([`repeat_on_stderr`]), and that the file takes nothing any more.
//!
//! Always true: a line of the log never fails, ends or delays anything. This is why the library's
//! own report of a failed write is off: it panics where standard error is gone.

pub mod audit;
mod commands;
pub mod flood;
pub mod otel;
mod outlet;
mod rotating;

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io, panic,
    path::PathBuf,
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
    Layer, Registry,
    filter::Targets,
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter,
        format::{Format, JsonFields, Writer},
    },
    layer::SubscriberExt as _,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt as _,
};

use crate::config;
use flood::{Bounds, Flood, Owed};
use lattice_protocol::escape;
use outlet::{Loss, Notice, Outlet};
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

/// The beginnings of targets that are no library.
const OWN: [&str; 4] = ["lattice_", "host", "actor", "provider"];
/// Lines of a kind in a window: enough to see what goes on, and for the settings, links and actors
/// of a start.
const BOUNDS: Bounds = Bounds { per_target: 20, per_kind: 200 };
/// Lines of these come from somebody who has a bound of its own, or were asked for one by one.
const UNBOUNDED: [&str; 3] = ["actor", "provider", ACCESS];
/// Fields that tell about a line rather than name what it is about.
const NO_NAMES: [&str; 8] =
    ["error", "reason", "cause", "error_id", "invocation_id", "request_id", "took_ms", "pid"];
const LOST: &str = "log lines were lost: nobody read them in time, or they could not be written";
/// The output of a program is not told what is missing in it.
const SAYS_NOTHING: Notice = Notice::line(|_| String::new());

const FILE_TAKES_NOTHING: &str = "lines of the log cannot be written to its file, and are counted until they can; see to room and \
     permissions there";

static LOG: OnceLock<Log> = OnceLock::new();
/// Standard error beside a log that has a file.
static ASIDE: OnceLock<Outlet> = OnceLock::new();
/// The filter of the log. It stands below the lines, so that their form is no part of its type.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();
static OUTPUT: OnceLock<Outlet> = OnceLock::new();
/// Warnings of a time before there is a log. Held for lines, never across an await.
static LATER: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Starts logging. Libraries are heard from warnings on, unless everything is wanted.
pub fn init(log: &config::Log) {
    let form = if log.json { Form::Json } else { Form::Text };
    let notice = Notice::line(if log.json { lost_in_json } else { lost_in_text });
    let sink = LOG.get_or_init(|| match log.file.as_ref().and_then(file_of_log) {
        Some(file) => {
            let notice = Notice { alarm: warn_of_file, ..notice };
            let path = log.file.as_ref().map(|file| file.path.clone());
            Log { file: path, ..Log::new(form, Outlet::open("log", file, notice)) }
        }
        None => Log::new(form, on_stderr("log", notice)),
    });
    let (filter, handle) = reload::Layer::new(filter(log.level));
    // An error means that a log exists already, as in tests that share a process.
    let layers = tracing_subscriber::registry().with(filter).with(otel::SpanFields::new());
    if layers.with(lines(sink)).try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
    let later = std::mem::take(&mut *LATER.lock());
    later.iter().for_each(|warning| warn!("{warning}"));
}

/// Opens the file of the log. Without it the log is on standard error, and says why.
fn file_of_log(settings: &config::LogFile) -> Option<Rotating> {
    let opened = Rotating::open(settings).inspect_err(|error| {
        warn_later(vec![format!(
            "the log goes to standard error, since log_file {} cannot be used: {}",
            settings.path.display(),
            rotating::with_next_step(error, "log_file", &settings.path)
        )]);
    });
    opened.ok().inspect(|file| warn_later(file.warning().into_iter().collect()))
}

/// Says on standard error that the file of the log takes nothing any more: in the log it would be
/// for nobody.
fn warn_of_file(loss: Loss) {
    if loss == Loss::CannotWrite {
        tell_aside(Level::WARN, FILE_TAKES_NOTHING);
    }
}

/// Repeats what ends the process on standard error, where the log has a file: whoever started it
/// may look there alone. To be called after it was logged.
pub fn repeat_on_stderr(error: &str) {
    tell_aside(Level::ERROR, error);
}

fn tell_aside(level: Level, text: &str) {
    if let Some(line) = LOG.get().and_then(|log| log.aside(level, text)) {
        ASIDE.get_or_init(|| on_stderr("stderr", SAYS_NOTHING)).push(line.as_bytes());
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
fn filter(level: Level) -> Targets {
    let others = if level >= Level::DEBUG { Level::INFO } else { Level::WARN };
    Targets::new().with_default(others).with_targets(OWN.map(|target| (target, level)))
}

/// Changes the level of the log, if there is one.
pub fn set_level(level: Level) {
    if let Some(handle) = FILTER.get() {
        // An error means that nothing is logged any more.
        let _ = handle.reload(filter(level));
    }
}

/// Keeps warnings until there is a log, so that they have its form.
pub fn warn_later(warnings: Vec<String>) {
    LATER.lock().extend(warnings);
}

/// Returns the layer that writes the lines of a log, in its form.
fn lines<S>(log: &Log) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer::<S>()
        .with_writer(log.clone())
        .with_ansi(false)
        .log_internal_errors(false);
    match log.form {
        Form::Text => lines.event_format(log.bounded(Lines)).boxed(),
        Form::Json => {
            lines.fmt_fields(JsonFields::new()).event_format(log.bounded(json_format())).boxed()
        }
    }
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
        // The process ends with this one; else the host goes on and settles what waits itself,
        // maybe under a lock that the panic left.
        if thread == "main" {
            repeat_on_stderr(&format!("the host panicked, this is a bug: {message} ({place})"));
            flush();
        } else {
            empty();
        }
    }));
}

/// Prints text of a running host on standard output, which may have no reader either.
pub fn say(text: &str) {
    let outlet = OUTPUT.get_or_init(|| match outlet::own_handle(&io::stdout()) {
        Ok(stdout) => Outlet::open("output", stdout, SAYS_NOTHING),
        Err(_) => Outlet::open("output", io::stdout(), SAYS_NOTHING),
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
    audit::settle();
    if let Some(log) = LOG.get() {
        let owed = log.flood.lock().end();
        log.tell(&owed);
    }
    empty();
}

/// Lets out the lines that wait to be written, as far as they are taken within a short time.
fn empty() {
    // The lines that it could not write are told in the log.
    audit::empty(FLUSH_TIMEOUT);
    if let Some(log) = LOG.get() {
        log.outlet.flush(FLUSH_TIMEOUT);
    }
    if let Some(aside) = ASIDE.get() {
        aside.flush(FLUSH_TIMEOUT);
    }
    if let Some(output) = OUTPUT.get() {
        output.flush(FLUSH_TIMEOUT);
    }
}

fn lost_in_text(lost: u64) -> String {
    own_line(Form::Text, Level::WARN, LOST, &[("lost", json!(lost))])
}

fn lost_in_json(lost: u64) -> String {
    own_line(Form::Json, Level::WARN, LOST, &[("lost", json!(lost))])
}

/// A line of the log that no event makes.
fn own_line(form: Form, level: Level, message: &str, fields: &[(&str, Value)]) -> String {
    let now = OffsetDateTime::now_utc();
    match form {
        Form::Text => {
            let fields: String =
                fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            format!(
                "{} [{}] {}\n",
                now.format(TIME).unwrap_or_default(),
                word(level),
                escape::line(&format!("{message}{fields}"))
            )
        }
        Form::Json => {
            let now = now.format(&Rfc3339).unwrap_or_default();
            let mut line = json!({
                "timestamp": now, "level": level.as_str(), "message": message, "target": module_path!()
            });
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
    /// None if it is on standard error.
    file: Option<PathBuf>,
    // Held for a count, never while a line is made.
    flood: Arc<Mutex<Flood<Identifier>>>,
}

impl Log {
    fn new(form: Form, outlet: Outlet) -> Self {
        let flood = Arc::new(Mutex::new(Flood::new(BOUNDS)));
        Self { form, outlet, file: None, flood }
    }

    fn bounded<F>(&self, format: F) -> Bounded<F> {
        Bounded { log: self.clone(), format }
    }

    fn tell(&self, owed: &[Owed]) {
        for Owed { left_out, mostly } in owed {
            let fields = [("left_out", json!(left_out)), ("mostly", json!(mostly))];
            let message = "too many log lines of one kind, the rest was counted";
            self.outlet.push(own_line(self.form, Level::WARN, message, &fields).as_bytes());
        }
    }

    /// Makes a line for standard error, unless the log is there.
    fn aside(&self, level: Level, text: &str) -> Option<String> {
        let file = self.file.as_ref()?.display().to_string();
        let text = within(text, TEXT_BYTES_MAX);
        Some(own_line(self.form, level, &text, &[("log_file", json!(file))]))
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

/// Returns a text that is not too long as it is; of another one the beginning, and how long it was.
pub fn within(text: &str, bytes_max: usize) -> Cow<'_, str> {
    match text.len() > bytes_max {
        true => Cow::Owned(fitted(text, bytes_max)),
        false => Cow::Borrowed(text),
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
        if otel::is_told_otherwise(metadata.target(), metadata.name()) {
            otel::note(event);
            return Ok(());
        }
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
        otel::emit(event, context.event_scope());
        let place = if self.log.form == Form::Json { otel::current() } else { None };
        match place {
            Some(place) => self.format_with(&place, context, writer, event),
            None => self.format.format_event(context, writer, event),
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
        let level = word(*event.metadata().level());
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

/// Returns the word for a level in a line of text.
fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
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
mod tests;
