//! Decides which attempts of exporters are news: the first of an outage, and the one after which it
//! is over. A collector that takes some attempts and some not is told twice, not each time.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use super::settings::Signal;

/// A failure that comes sooner after the last one belongs to the same outage, which is over then
/// only when nothing failed for so long.
const QUIET: Duration = Duration::from_secs(60);
/// Kinds of causes that are told apart at a time; more are no news.
const OUTAGES_MAX: usize = 8;
/// The beginning of a cause that a collector has for gRPC.
const GRPC_CODE: &str = "gRPC code: ";
/// Codes of gRPC that mean that there was no answer.
const NO_ANSWER_CODES: [&str; 3] = ["Unavailable", "DeadlineExceeded", "Cancelled"];
/// The beginning of a cause that a collector has for HTTP.
const STATUS_CODE: &str = "status code: ";
/// The kind of all causes that are no answer of a collector.
const NO_ANSWER: &str = "";
/// Words of causes that a collector has which speaks the other protocol at this port.
const OTHER_PROTOCOL: [&str; 2] = ["invalid http version", "frame with invalid size"];

/// A change that is told.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    Began,
    Ended,
}

/// Attempts that fail for causes of one kind, whatever their signals.
#[derive(Debug)]
struct Outage {
    kind: String,
    /// Whether a signal has failed in it, each at its place.
    signals: [bool; 3],
    failed_at: Instant,
    /// Whether it was told to go on, and not since that it is over.
    is_on: bool,
    /// Whether it went on after it was told to be over.
    is_mixed: bool,
}

/// The outages of the way to a collector that go on or may come back.
#[derive(Debug, Default)]
pub struct Outages(Vec<Outage>);

impl Outages {
    /// Takes in how an attempt ended, with the cause if it failed; returns what is news of it.
    pub fn attempted(
        &mut self,
        signal: Signal,
        failure: Option<&str>,
        now: Instant,
    ) -> Option<News> {
        match failure {
            Some(cause) => self.failed(signal, kind_of(cause), now),
            None => self.took(signal, now),
        }
    }

    fn failed(&mut self, signal: Signal, kind: &str, now: Instant) -> Option<News> {
        self.0.retain(|outage| outage.is_on || !outage.is_quiet(now));
        if let Some(outage) = self.0.iter_mut().find(|outage| outage.kind == kind) {
            outage.signals[signal as usize] = true;
            outage.failed_at = now;
            let comes_back = !outage.is_on;
            (outage.is_on, outage.is_mixed) = (true, outage.is_mixed || comes_back);
            return comes_back.then_some(News::Began);
        }
        if self.0.len() >= OUTAGES_MAX {
            return None;
        }
        self.0.push(Outage::new(kind, signal, now));
        Some(News::Began)
    }

    fn took(&mut self, signal: Signal, now: Instant) -> Option<News> {
        let mut has_ended = false;
        for outage in self.0.iter_mut().filter(|outage| outage.signals[signal as usize]) {
            if outage.is_on && (!outage.is_mixed || outage.is_quiet(now)) {
                outage.is_on = false;
                has_ended = true;
            }
        }
        has_ended.then_some(News::Ended)
    }
}

impl Outage {
    fn new(kind: &str, signal: Signal, now: Instant) -> Self {
        let mut signals = [false; 3];
        signals[signal as usize] = true;
        Self { kind: kind.to_owned(), signals, failed_at: now, is_on: true, is_mixed: false }
    }

    fn is_quiet(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.failed_at) >= QUIET
    }
}

/// Returns the kind of a cause: what the collector answered, or that it did not. Behind a code of
/// gRPC stands a text only where the library made the code itself.
fn kind_of(cause: &str) -> &str {
    let is_answer = match cause.strip_prefix(GRPC_CODE) {
        Some(code) => {
            !code.contains(": ") && !NO_ANSWER_CODES.iter().any(|known| code.starts_with(known))
        }
        None => cause.starts_with(STATUS_CODE),
    };
    if is_answer { cause } else { NO_ANSWER }
}

/// Returns a cause with the next step, where it looks as if the collector speaks another protocol.
pub fn explained(cause: &str, is_grpc: bool) -> Cow<'_, str> {
    let lower = cause.to_ascii_lowercase();
    if !OTHER_PROTOCOL.iter().any(|words| lower.contains(words)) {
        return Cow::Borrowed(cause);
    }
    let asked = if is_grpc { "gRPC" } else { "HTTP" };
    Cow::Owned(format!(
        "{cause}; does it speak {asked} at this port? see OTEL_EXPORTER_OTLP_PROTOCOL"
    ))
}

#[cfg(test)]
mod tests {
    use super::{Signal::*, *};

    const REFUSED: &str = "error sending request: Connection refused";
    const TIMED_OUT: &str = "error sending request: operation timed out";
    const FORBIDDEN: &str = "status code: 403";
    const BUSY: &str = "status code: 503";
    const BEGAN: Option<News> = Some(News::Began);
    const ENDED: Option<News> = Some(News::Ended);

    /// A second, a signal, why it failed, and what is news.
    type Attempt = (u64, Signal, Option<&'static str>, Option<News>);

    fn check(attempts: &[Attempt]) {
        let (mut outages, start) = (Outages::default(), Instant::now());
        for (number, (second, signal, failure, expected)) in attempts.iter().enumerate() {
            let now = start + Duration::from_secs(*second);
            let news = outages.attempted(*signal, *failure, now);
            assert_eq!(news, *expected, "{number}: {second} s {signal:?} {failure:?}");
        }
    }

    #[test]
    fn an_outage_is_told_when_it_begins_and_when_it_is_over() {
        check(&[
            (0, Metrics, None, None),
            (1, Metrics, Some(REFUSED), BEGAN),
            (2, Metrics, Some(REFUSED), None),
            // It is the same one for the other signals.
            (3, Traces, Some(TIMED_OUT), None),
            (4, Logs, None, None),
            (5, Metrics, None, ENDED),
            (5, Traces, None, None),
            (70, Metrics, Some(REFUSED), BEGAN),
            (71, Metrics, None, ENDED),
        ]);
    }

    #[test]
    fn a_collector_that_takes_some_attempts_is_told_twice_until_it_takes_all_for_a_while() {
        for period in [2, 4, 50] {
            let mut outages = Outages::default();
            let start = Instant::now();
            let mut told = Vec::new();
            for second in 0..=600 {
                let failure = (second % period == 0).then_some(REFUSED);
                let now = start + Duration::from_secs(second);
                told.extend(outages.attempted(Metrics, failure, now));
            }
            assert_eq!(told, [News::Began, News::Ended, News::Began], "{period}");
            let quiet = |second| start + Duration::from_secs(600) + Duration::from_secs(second);
            for (second, expected) in [(2, None), (59, None), (60, ENDED), (61, None)] {
                assert_eq!(outages.attempted(Metrics, None, quiet(second)), expected, "{second}");
            }
        }
    }

    #[test]
    fn another_kind_of_cause_is_news_also_of_a_signal_that_fails_already() {
        check(&[
            (0, Traces, Some(BUSY), BEGAN),
            (1, Traces, Some(BUSY), None),
            (2, Traces, Some(FORBIDDEN), BEGAN),
            (3, Logs, Some(FORBIDDEN), None),
            (4, Logs, Some(REFUSED), BEGAN),
            (5, Traces, Some(BUSY), None),
            // Signals that fail for another cause still fail.
            (6, Metrics, None, None),
        ]);
    }

    #[test]
    fn kinds_have_a_bound() {
        let (mut outages, now) = (Outages::default(), Instant::now());
        let codes: Vec<_> = (0..100).map(|code| format!("{STATUS_CODE}{code}")).collect();
        let told = codes.iter().filter_map(|code| outages.attempted(Logs, Some(code), now));
        assert_eq!(told.count(), OUTAGES_MAX);
    }

    #[test]
    fn a_cause_is_an_answer_or_none() {
        for (cause, kind) in [
            (REFUSED, NO_ANSWER),
            (FORBIDDEN, FORBIDDEN),
            ("HTTP export failed: network error", NO_ANSWER),
            ("gRPC code: PermissionDenied", "gRPC code: PermissionDenied"),
            ("gRPC code: Unavailable", NO_ANSWER),
            ("gRPC code: Unavailable: tcp connect error: Connection refused", NO_ANSWER),
            ("gRPC code: Unknown: transport error: connection closed", NO_ANSWER),
            ("gRPC code: Unknown", "gRPC code: Unknown"),
            ("Shutdown already invoked", NO_ANSWER),
        ] {
            assert_eq!(kind_of(cause), kind, "{cause}");
        }
    }

    #[test]
    fn a_collector_that_speaks_another_protocol_leads_to_the_variable() {
        for (cause, is_grpc, asked) in [
            ("error sending request: invalid HTTP version parsed", false, Some("HTTP")),
            ("gRPC code: Unknown: transport error: frame with invalid size", true, Some("gRPC")),
            ("gRPC code: Unknown: transport error: Broken pipe", true, None),
            (REFUSED, false, None),
            (FORBIDDEN, true, None),
        ] {
            let told = explained(cause, is_grpc);
            let expected = asked.map_or(cause.to_owned(), |asked| {
                format!(
                    "{cause}; does it speak {asked} at this port? see OTEL_EXPORTER_OTLP_PROTOCOL"
                )
            });
            assert_eq!(told, expected);
        }
    }
}
