//! The variables of OpenTelemetry that its SDK does not read itself: which signals are
//! exported, over which protocol, with which certificates, and which headers of HTTP carry a trace.

use std::{collections::BTreeMap, time::Duration};

use crate::config::Environment;

/// All variables of OpenTelemetry begin so.
pub const PREFIX: &str = "OTEL_";
/// The name of the service that this process is; no other process gets it.
pub const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";

/// How long an export may take if no variable says so.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The headers of W3C Trace Context.
const TRACE_HEADERS: [&str; 2] = ["traceparent", "tracestate"];
const BAGGAGE_HEADER: &str = "baggage";

/// A kind of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// Returns its name in variables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
            Self::Logs => "LOGS",
        }
    }
}

/// The variables of OpenTelemetry that are set. An empty one counts as not set.
#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Reads them.
    pub fn of(environment: &dyn Environment) -> Self {
        let all = environment.vars().into_iter();
        Self(
            all.filter(|(name, value)| name.starts_with(PREFIX) && !value.trim().is_empty())
                .map(|(name, value)| (name, value.trim().to_owned()))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns a setting of the exporter of a signal: its own, or that of all.
    pub fn of_exporter(&self, signal: Signal, what: &str) -> Option<&str> {
        self.get(&format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.word()))
            .or_else(|| self.get(&format!("OTEL_EXPORTER_OTLP_{what}")))
    }

    /// Says whether a signal is exported. An exporter that this program does not have is an error.
    pub fn exports(&self, signal: Signal) -> Result<bool, String> {
        if self.get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(false);
        }
        let name = format!("OTEL_{}_EXPORTER", signal.word());
        let Some(exporters) = self.get(&name) else {
            return Ok(self.of_exporter(signal, "ENDPOINT").is_some());
        };
        let mut exporters = exporters.split(',').map(str::trim);
        match exporters.find(|exporter| !exporter.eq_ignore_ascii_case("otlp")) {
            None => Ok(true),
            Some(other) if other.eq_ignore_ascii_case("none") => Ok(false),
            Some(other) => Err(format!("{name} is {other}, and this host has otlp and none")),
        }
    }

    /// Says whether a signal goes over gRPC; otherwise it goes over HTTP.
    pub fn is_grpc(&self, signal: Signal) -> bool {
        let protocol = self.of_exporter(signal, "PROTOCOL");
        protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("grpc"))
    }

    /// Returns how long an export may take.
    pub fn timeout(&self, signal: Signal) -> Duration {
        let milliseconds = self.of_exporter(signal, "TIMEOUT").and_then(|text| text.parse().ok());
        milliseconds.map_or(TIMEOUT, Duration::from_millis)
    }

    /// Says whether a signal goes over gRPC with TLS.
    pub fn is_grpc_with_tls(&self, signal: Signal) -> bool {
        let Some(endpoint) = self.of_exporter(signal, "ENDPOINT") else { return false };
        match endpoint.split_once("://") {
            Some((scheme, _)) => scheme.eq_ignore_ascii_case("https"),
            None => !self
                .of_exporter(signal, "INSECURE")
                .is_some_and(|insecure| insecure.eq_ignore_ascii_case("true")),
        }
    }

    /// Returns where traces go over HTTP, with the path; `None` if they do not.
    pub fn traces_url(&self) -> Option<String> {
        if self.exports(Signal::Traces) != Ok(true) || self.is_grpc(Signal::Traces) {
            return None;
        }
        let own = self.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").map(str::to_owned);
        own.or_else(|| {
            let of_all = self.get("OTEL_EXPORTER_OTLP_ENDPOINT").unwrap_or("http://localhost:4318");
            Some(format!("{}/v1/traces", of_all.trim_end_matches('/')))
        })
    }

    /// Returns the headers of HTTP that carry a trace, and what is wanted of propagators that this
    /// program does not have.
    pub fn carried(&self) -> (Vec<&'static str>, Vec<String>) {
        let (mut headers, mut unknown) = (Vec::new(), Vec::new());
        let wanted = self.get("OTEL_PROPAGATORS").unwrap_or("tracecontext,baggage");
        for propagator in wanted.split(',').map(str::trim) {
            match propagator {
                "tracecontext" => headers.extend(TRACE_HEADERS),
                "baggage" => headers.push(BAGGAGE_HEADER),
                "none" | "" => {}
                other => unknown.push(other.to_owned()),
            }
        }
        headers.sort_unstable();
        headers.dedup();
        (headers, unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Variables::of(&pairs.collect::<Vec<_>>())
    }

    #[test]
    fn a_signal_is_exported_where_an_endpoint_or_its_exporter_says_so() {
        const NOTHING: &[(&str, &str)] = &[];
        const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        const OF_LOGS: (&str, &str) = ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:4318");
        for (pairs, expected) in [
            (NOTHING, [false, false, false]),
            (&[("OTEL_SERVICE_NAME", "x")], [false, false, false]),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], [false, false, false]),
            (&[ENDPOINT], [true, true, true]),
            (&[OF_LOGS], [false, false, true]),
            (&[ENDPOINT, ("OTEL_METRICS_EXPORTER", "none")], [true, false, true]),
            (&[("OTEL_TRACES_EXPORTER", "OTLP")], [true, false, false]),
            (&[ENDPOINT, ("OTEL_SDK_DISABLED", "True")], [false, false, false]),
            (&[ENDPOINT, ("OTEL_SDK_DISABLED", "1")], [true, true, true]),
        ] {
            let variables = variables(pairs);
            let exported = Signal::ALL.map(|signal| variables.exports(signal));
            assert_eq!(exported, expected.map(Ok), "{pairs:?}");
        }
        let zipkin = variables(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "zipkin")]);
        assert!(zipkin.exports(Signal::Traces).unwrap_err().contains("zipkin"));
    }

    #[test]
    fn the_variable_of_a_signal_wins() {
        let variables = variables(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://all:4317/"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "logs:4317"),
            ("OTEL_EXPORTER_OTLP_LOGS_INSECURE", "true"),
            ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "many"),
        ]);
        assert_eq!(Signal::ALL.map(|signal| variables.is_grpc(signal)), [false, true, true]);
        assert!(variables.is_grpc_with_tls(Signal::Metrics));
        assert!(!variables.is_grpc_with_tls(Signal::Logs));
        assert_eq!(variables.timeout(Signal::Metrics), Duration::from_secs(2));
        assert_eq!(variables.timeout(Signal::Logs), TIMEOUT);
        assert_eq!(variables.traces_url().as_deref(), Some("https://all:4317/v1/traces"));
    }

    #[test]
    fn propagators_name_headers() {
        const NONE: &[&str] = &[];
        for (wanted, headers, unknown) in [
            ("", &["baggage", "traceparent", "tracestate"][..], NONE),
            ("tracecontext", &["traceparent", "tracestate"], NONE),
            ("none", NONE, NONE),
            ("baggage, b3", &["baggage"], &["b3"]),
        ] {
            let (carried, left) = variables(&[("OTEL_PROPAGATORS", wanted)]).carried();
            assert_eq!(carried, headers, "{wanted}");
            assert_eq!(left, unknown, "{wanted}");
        }
    }
}
