//! Lines of the log as log records, with the fields of the spans they are in. What the log leaves
//! out is not exported either, and what is too long for it is cut here as well.

use std::{fmt, sync::OnceLock, time::SystemTime};

use opentelemetry::logs::{AnyValue, LogRecord, Logger as _, LoggerProvider as _, Severity};
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer,
    layer::Context,
    registry::{LookupSpan, Scope},
};

use super::scope;
use crate::telemetry::{LINE_BYTES_MAX, TEXT_BYTES_MAX, within};

/// Lines of these tell how the export goes: exported, they would make further ones.
const OF_THE_EXPORT: [&str; 6] = ["opentelemetry", "hyper", "h2", "reqwest", "tonic", "tower"];

static LOGGER: OnceLock<SdkLogger> = OnceLock::new();

/// Begins to export.
pub(super) fn start(provider: &SdkLoggerProvider) {
    // An error means that lines are exported already.
    let _ = LOGGER.set(provider.logger_with_scope(scope()));
}

fn is_on() -> bool {
    LOGGER.get().is_some()
}

/// Exports a line of the log that is in these spans of the log; with the span of a trace that the
/// code of this thread runs in, which the SDK knows.
pub(crate) fn emit<'a, S>(event: &Event<'_>, spans: Option<Scope<'a, S>>)
where
    S: LookupSpan<'a>,
{
    let Some(logger) = LOGGER.get() else { return };
    let metadata = event.metadata();
    if is_of_the_export(metadata.target()) {
        return;
    }
    let mut record = logger.create_log_record();
    record.set_timestamp(SystemTime::now());
    record.set_severity_number(severity(*metadata.level()));
    record.set_severity_text(metadata.level().as_str());
    record.set_target(metadata.target());
    let Fields { body, attributes, .. } = Fields::of_line(event, spans);
    if let Some(body) = body {
        record.set_body(body);
    }
    record.add_attributes(attributes);
    logger.emit(record);
}

fn is_of_the_export(target: &str) -> bool {
    OF_THE_EXPORT.iter().any(|name| target.starts_with(name))
}

fn severity(level: Level) -> Severity {
    match level {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warn,
        Level::INFO => Severity::Info,
        Level::DEBUG => Severity::Debug,
        Level::TRACE => Severity::Trace,
    }
}

/// Keeps the fields of the spans of the log, for the lines in them.
pub(crate) struct SpanFields {
    is_on: fn() -> bool,
}

impl SpanFields {
    pub const fn new() -> Self {
        Self { is_on }
    }
}

/// The fields of a span.
struct Kept(Vec<(&'static str, AnyValue)>);

impl<S> Layer<S> for SpanFields
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if !(self.is_on)() {
            return;
        }
        let mut fields = Fields { bytes_left: 0, ..Fields::default() };
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().replace(Kept(fields.attributes));
        }
    }
}

/// Takes fields: the message is the body, all others are attributes.
struct Fields {
    body: Option<AnyValue>,
    attributes: Vec<(&'static str, AnyValue)>,
    /// As many bytes of texts are taken whole.
    bytes_left: usize,
}

impl Default for Fields {
    fn default() -> Self {
        Self { body: None, attributes: Vec::new(), bytes_left: LINE_BYTES_MAX }
    }
}

impl Fields {
    /// Takes those of a line, and those of its spans that it has none of the same name for; the
    /// innermost first.
    fn of_line<'a, S>(event: &Event<'_>, spans: Option<Scope<'a, S>>) -> Self
    where
        S: LookupSpan<'a>,
    {
        let mut fields = Self::default();
        event.record(&mut fields);
        for span in spans.into_iter().flatten() {
            if let Some(Kept(kept)) = span.extensions().get::<Kept>() {
                kept.iter().for_each(|(name, value)| fields.add(name, value));
            }
        }
        fields
    }

    fn add(&mut self, name: &'static str, value: &AnyValue) {
        if self.attributes.iter().all(|(known, _)| *known != name) {
            self.attributes.push((name, value.clone()));
        }
    }

    fn take(&mut self, field: &Field, value: AnyValue) {
        match field.name() {
            "message" => self.body = Some(value),
            name => self.attributes.push((name, value)),
        }
    }

    /// Takes a text; from the one on that makes a line too long, its beginning.
    fn take_text(&mut self, field: &Field, text: &str) {
        let taken = match self.bytes_left.checked_sub(text.len()) {
            Some(left) => {
                self.bytes_left = left;
                text.to_owned()
            }
            None => within(text, TEXT_BYTES_MAX).into_owned(),
        };
        self.take(field, taken.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take_text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take_text(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.take(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.take(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.take(field, value.into()),
            Err(_) => self.take_text(field, &value.to_string()),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.take(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{Registry, layer::SubscriberExt as _};

    use super::*;

    /// Takes the fields of the last line.
    struct Taking(Arc<Mutex<Fields>>);

    impl<S> Layer<S> for Taking
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
            *self.0.lock().unwrap() = Fields::of_line(event, context.event_scope(event));
        }
    }

    /// Returns the fields of the line that this logs.
    fn taken(log: impl FnOnce()) -> Fields {
        let last = Arc::<Mutex<Fields>>::default();
        let subscriber =
            Registry::default().with(SpanFields { is_on: || true }).with(Taking(Arc::clone(&last)));
        let _turn = crate::telemetry::tests::ONE_AT_A_TIME.lock();
        tracing::subscriber::with_default(subscriber, log);
        std::mem::take(&mut *last.lock().unwrap())
    }

    #[test]
    fn a_line_has_its_own_fields_and_those_of_its_spans() {
        let Fields { body, attributes, .. } = taken(|| {
            let _outer = tracing::info_span!("load", reference = "a:1", actor_id = "MB").entered();
            let _inner = tracing::info_span!("actor", actor_id = %"MA", n = 2).entered();
            tracing::warn!(n = 1, "it failed");
        });
        assert_eq!(body, Some("it failed".into()));
        let expected: [(_, AnyValue); 3] =
            [("n", 1.into()), ("actor_id", "MA".into()), ("reference", "a:1".into())];
        assert_eq!(attributes, expected);
    }

    #[test]
    fn the_texts_of_a_line_have_a_bound_and_one_that_fits_is_whole() {
        let bytes_of = |value: &AnyValue| match value {
            AnyValue::String(text) => text.as_str().len(),
            other => panic!("{other:?}"),
        };
        let (long, short) = ("ä".repeat(1 << 20), "x".repeat(LINE_BYTES_MAX / 2));
        for (text, of_span, bytes) in [
            (&short, &short, [short.len(), short.len(), TEXT_BYTES_MAX]),
            (&long, &long, [TEXT_BYTES_MAX; 3]),
        ] {
            let Fields { body, attributes, .. } = taken(|| {
                let _span = tracing::info_span!("control", subject = %of_span).entered();
                tracing::error!(reason = %text, "{text}");
            });
            let found = body.iter().chain(attributes.iter().map(|(_, value)| value)).map(bytes_of);
            for (found, bytes) in found.zip(bytes) {
                assert!((bytes - 1..bytes + 30).contains(&found), "{found} of {bytes}");
            }
            assert_eq!(attributes.len(), 2);
        }
    }

    #[test]
    fn lines_about_the_export_are_not_exported() {
        for (target, expected) in [
            ("lattice_engine::router", false),
            ("actor", false),
            ("opentelemetry_sdk", true),
            ("opentelemetry-otlp", true),
            ("hyper_util::client", true),
        ] {
            assert_eq!(is_of_the_export(target), expected, "{target}");
        }
    }
}
