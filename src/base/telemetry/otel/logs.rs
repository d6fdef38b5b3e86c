//! Lines of the log as log records. What the log leaves out is not exported either.

use std::{fmt, sync::OnceLock, time::SystemTime};

use opentelemetry::logs::{AnyValue, LogRecord, Logger as _, LoggerProvider as _, Severity};
use opentelemetry_sdk::logs::{SdkLogger, SdkLoggerProvider};
use tracing::{
    Event, Level,
    field::{Field, Visit},
};

use super::scope;

/// Lines of these tell how the export goes: exported, they would make further ones.
const OF_THE_EXPORT: [&str; 6] = ["opentelemetry", "hyper", "h2", "reqwest", "tonic", "tower"];

static LOGGER: OnceLock<SdkLogger> = OnceLock::new();

/// Begins to export.
pub(super) fn start(provider: &SdkLoggerProvider) {
    // An error means that lines are exported already.
    let _ = LOGGER.set(provider.logger_with_scope(scope()));
}

/// Exports a line of the log; with the span that the code of this thread runs in, which the SDK
/// knows.
pub(crate) fn emit(event: &Event<'_>) {
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
    event.record(&mut Fields(&mut record));
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

/// Takes the fields of an event: the message is the body, all others are attributes.
struct Fields<'a, R>(&'a mut R);

impl<R: LogRecord> Fields<'_, R> {
    fn take(&mut self, field: &Field, value: AnyValue) {
        match field.name() {
            "message" => self.0.set_body(value),
            name => self.0.add_attribute(name, value),
        }
    }
}

impl<R: LogRecord> Visit for Fields<'_, R> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned().into());
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
            Err(_) => self.take(field, value.to_string().into()),
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.take(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
