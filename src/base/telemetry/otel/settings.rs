//! The variables of OpenTelemetry: which signals are exported, where to and how, and which headers
//! of HTTP carry a trace.
//!
//! A value that is none of those that count is ignored, as the specification asks for: it is as if
//! the variable was not set, and [`check`](super::check) tells of it. The time of one signal is the
//! exception: for one that does not count the usual time is used, and not that of all signals. The
//! SDK reads some variables itself: samplers, limits of numbers of spans, headers and compression
//! of exporters. [`limits`](super::limits) and [`resource`](super::resource) read theirs.

use std::{collections::BTreeMap, time::Duration};

use reqwest::Url;

use crate::config::Environment;

/// All variables of OpenTelemetry begin so.
pub const PREFIX: &str = "OTEL_";
/// The name of the service that this process is; no other process gets it.
pub const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
/// Turns everything off.
pub(super) const DISABLED: &str = "OTEL_SDK_DISABLED";
/// The headers of HTTP that carry a trace, by their groups.
pub(super) const PROPAGATORS: &str = "OTEL_PROPAGATORS";
/// Whether reports of counts have all that were counted, or those since the last report.
pub(super) const TEMPORALITY: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
/// The one of its words that means those since the last report. `lowmemory` does not mean it for
/// the counts of this host, which are read when a report is due.
pub(super) const DELTA: &str = "delta";

/// How long an export may take if no variable says so.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// The headers of W3C Trace Context.
pub(super) const TRACE_HEADERS: [&str; 2] = ["traceparent", "tracestate"];
const BAGGAGE_HEADER: &str = "baggage";
const DEFAULT_PROPAGATORS: &str = "tracecontext,baggage";
const DEFAULT_HTTP: &str = "http://localhost:4318";
const DEFAULT_GRPC: &str = "http://localhost:4317";

/// A kind of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// Returns its name; variables have it in capitals.
    pub fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    /// Returns the variable that turns it on and off.
    pub fn exporter(self) -> String {
        format!("OTEL_{}_EXPORTER", self.name().to_uppercase())
    }
}

/// Returns the name of a setting of exporters: that of one signal, or of all.
pub(super) fn exporter_setting(signal: Option<Signal>, what: &str) -> String {
    match signal {
        Some(signal) => format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.name().to_uppercase()),
        None => format!("OTEL_EXPORTER_OTLP_{what}"),
    }
}

/// Returns the names of a setting of a signal's exporter: its own, and that of all.
fn names_of(signal: Signal, what: &str) -> [String; 2] {
    [Some(signal), None].map(|of| exporter_setting(of, what))
}

/// A number that a variable may set.
#[derive(Debug)]
pub struct Number {
    pub name: &'static str,
    pub min: u64,
    pub max: u64,
    pub default: u64,
}

/// As many spans or lines can wait in the memory of a host.
const QUEUE_MAX: u64 = 1 << 20;
/// In milliseconds, seven weeks.
const DELAY_MAX: u64 = u32::MAX as u64;

const SPAN_QUEUE: Number = Number::from_1("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_MAX, 2048);
const SPAN_BATCH: Number = Number::from_1("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", QUEUE_MAX, 512);
const SPAN_DELAY: Number = Number::from_1("OTEL_BSP_SCHEDULE_DELAY", DELAY_MAX, 5000);
const LINE_QUEUE: Number = Number::from_1("OTEL_BLRP_MAX_QUEUE_SIZE", QUEUE_MAX, 2048);
const LINE_BATCH: Number = Number::from_1("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", QUEUE_MAX, 512);
const LINE_DELAY: Number = Number::from_1("OTEL_BLRP_SCHEDULE_DELAY", DELAY_MAX, 1000);
const INTERVAL: Number = Number::from_1("OTEL_METRIC_EXPORT_INTERVAL", DELAY_MAX, 60_000);
/// All numbers that are read here.
pub(super) const NUMBERS: [Number; 7] =
    [SPAN_QUEUE, SPAN_BATCH, SPAN_DELAY, LINE_QUEUE, LINE_BATCH, LINE_DELAY, INTERVAL];

/// How much waits for an export, how much goes at once, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    pub queue_max: usize,
    pub batch_max: usize,
    pub delay: Duration,
}

/// The place of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// With the path of the signal, where it goes over HTTP.
    pub url: String,
    /// As it was written, without a login.
    pub shown: String,
    /// The variable that asks for it.
    pub variable: String,
    /// Whether it goes over gRPC, else over HTTP.
    pub is_grpc: bool,
}

impl Address {
    /// Says whether it goes there with TLS.
    pub fn is_tls(&self) -> bool {
        let scheme = self.url.split_once("://").map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
    }
}

/// The variables of OpenTelemetry that are set. An empty one counts as not set.
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Reads them.
    pub fn of(environment: &dyn Environment) -> Self {
        let all = environment.vars().into_iter();
        Self(
            all.filter(|(name, value)| name.starts_with(PREFIX) && !value.trim().is_empty())
                .collect(),
        )
    }

    /// Returns a value as it was written, which is how the SDK reads it.
    pub(super) fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.raw(name).map(str::trim)
    }

    /// Returns a setting of the exporter of a signal and the variable it stands in: its own, or
    /// that of all.
    pub fn setting(&self, signal: Signal, what: &str) -> Option<(String, &str)> {
        names_of(signal, what).into_iter().find_map(|name| {
            let value = self.get(&name)?;
            Some((name, value))
        })
    }

    /// Returns such a setting alone.
    pub fn of_exporter(&self, signal: Signal, what: &str) -> Option<&str> {
        self.setting(signal, what).map(|(_, value)| value)
    }

    /// Says whether everything is turned off.
    pub fn is_disabled(&self) -> bool {
        self.get(DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// Returns the place that a signal goes to; the error says why it goes nowhere.
    pub fn destination(&self, signal: Signal) -> Result<Address, String> {
        if self.is_disabled() {
            return Err(format!("{DISABLED} is true"));
        }
        let name = signal.exporter();
        let exporters = self.get(&name);
        match (exporters, exporters.and_then(other_exporter)) {
            (None, _) if self.endpoint(signal).is_none() => {
                let [own, of_all] = names_of(signal, "ENDPOINT");
                Err(format!("neither {name} nor {own} nor {of_all} asks for it"))
            }
            (Some(value), Some(other)) if is_none(other) => Err(format!("{name} is {value}")),
            (_, Some(other)) => Err(format!("{name} is {other}, and this host has otlp and none")),
            (_, None) => Ok(self.address(signal)),
        }
    }

    /// Says whether a signal goes over gRPC; otherwise it goes over HTTP.
    pub fn is_grpc(&self, signal: Signal) -> bool {
        let mut names = names_of(signal, "PROTOCOL").into_iter();
        names.find_map(|name| is_grpc(self.get(&name)?)).unwrap_or(false)
    }

    /// Returns how long an export may take.
    pub fn timeout(&self, signal: Signal) -> Duration {
        self.of_exporter(signal, "TIMEOUT").and_then(time).unwrap_or(TIMEOUT)
    }

    /// Says whether reports of counts have only those since the last one.
    pub fn is_delta(&self) -> bool {
        self.raw(TEMPORALITY).is_some_and(|value| value.eq_ignore_ascii_case(DELTA))
    }

    /// Returns the variables that are set whose names begin so.
    pub(super) fn beginning(&self, beginning: &str) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str).filter(move |name| name.starts_with(beginning))
    }

    /// Returns where a signal goes that is exported.
    pub fn address(&self, signal: Signal) -> Address {
        let is_grpc = self.is_grpc(signal);
        let Some((variable, value)) = self.endpoint(signal) else {
            let default = if is_grpc { DEFAULT_GRPC } else { DEFAULT_HTTP };
            let url = self.url(signal, default, is_grpc);
            let (shown, variable) = (default.to_owned(), signal.exporter());
            return Address { url, shown, variable, is_grpc };
        };
        // That of one signal is used as it is.
        let is_whole = !is_grpc && variable == exporter_setting(Some(signal), "ENDPOINT");
        let url = if is_whole { value.to_owned() } else { self.url(signal, value, is_grpc) };
        Address { url, shown: without_login(value), variable, is_grpc }
    }

    /// Makes the URL of a signal from an endpoint: the path that HTTP has, the scheme that gRPC
    /// lacks.
    fn url(&self, signal: Signal, endpoint: &str, is_grpc: bool) -> String {
        if !is_grpc {
            return with_path(endpoint, signal);
        }
        let is_insecure = self.of_exporter(signal, "INSECURE");
        let is_insecure = is_insecure.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        match (has_scheme(endpoint), is_insecure) {
            (true, _) => endpoint.to_owned(),
            (false, true) => format!("http://{endpoint}"),
            (false, false) => format!("https://{endpoint}"),
        }
    }

    /// Returns the endpoint of a signal and the variable it stands in, its own before that of all.
    pub(super) fn endpoint(&self, signal: Signal) -> Option<(String, &str)> {
        let is_grpc = self.is_grpc(signal);
        names_of(signal, "ENDPOINT").into_iter().find_map(|name| {
            let value = self.get(&name).filter(|value| is_endpoint(value, is_grpc))?;
            Some((name, value))
        })
    }

    /// Returns where traces go over HTTP, with the path; `None` if they do not.
    pub fn traces_url(&self) -> Option<String> {
        self.destination(Signal::Traces).ok().filter(|to| !to.is_grpc).map(|to| to.url)
    }

    /// Returns the headers of HTTP that carry a trace. Where this program has none of the
    /// propagators that are wanted, the usual headers carry it.
    pub fn carried(&self) -> Vec<&'static str> {
        let wanted = self.get(PROPAGATORS).unwrap_or(DEFAULT_PROPAGATORS);
        let mut known: Vec<_> = propagators(wanted).filter_map(headers_of).collect();
        if known.is_empty() {
            known = propagators(DEFAULT_PROPAGATORS).filter_map(headers_of).collect();
        }
        let mut headers = known.concat();
        headers.sort_unstable();
        headers.dedup();
        headers
    }

    /// Returns how spans are collected before they are exported.
    pub fn batches_of_spans(&self) -> Batch {
        self.batch(&SPAN_QUEUE, &SPAN_BATCH, &SPAN_DELAY)
    }

    /// The same for lines of the log.
    pub fn batches_of_lines(&self) -> Batch {
        self.batch(&LINE_QUEUE, &LINE_BATCH, &LINE_DELAY)
    }

    /// Returns the time between two reports of counts.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.number(&INTERVAL))
    }

    fn batch(&self, queue: &Number, batch: &Number, delay: &Number) -> Batch {
        let size = |number: &Number| usize::try_from(self.number(number)).unwrap_or(usize::MAX);
        let queue_max = size(queue);
        Batch {
            queue_max,
            batch_max: size(batch).min(queue_max),
            delay: Duration::from_millis(self.number(delay)),
        }
    }

    fn number(&self, number: &Number) -> u64 {
        self.get(number.name).and_then(|text| number.read(text)).unwrap_or(number.default)
    }
}

impl Number {
    const fn from_1(name: &'static str, max: u64, default: u64) -> Self {
        Self { name, min: 1, max, default }
    }

    /// Reads a value; `None` if it is none that counts.
    pub(super) fn read(&self, text: &str) -> Option<u64> {
        text.parse().ok().filter(|number| (self.min..=self.max).contains(number))
    }
}

/// Reads the time of an export, in milliseconds; in none at all nothing can be exported.
pub(super) fn time(text: &str) -> Option<Duration> {
    text.parse::<u64>().ok().filter(|number| *number > 0).map(Duration::from_millis)
}

/// Returns the first exporter in a list without that of this program; it may be `none`.
fn other_exporter(list: &str) -> Option<&str> {
    if has_otlp(list) { None } else { exporters(list).next() }
}

fn exporters(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim)
}

fn is_otlp(exporter: &str) -> bool {
    exporter.eq_ignore_ascii_case("otlp")
}

fn is_none(exporter: &str) -> bool {
    exporter.eq_ignore_ascii_case("none")
}

/// Says whether a list has the exporter of this program, which then counts, whatever else it has.
pub(super) fn has_otlp(list: &str) -> bool {
    exporters(list).any(is_otlp)
}

/// Says whether a list has an exporter that this program does not have.
pub(super) fn wants_other(list: &str) -> bool {
    !is_none(list.trim()) && !exporters(list).all(is_otlp)
}

/// Says whether a protocol is gRPC; `None` of one that this program does not have.
pub(super) fn is_grpc(protocol: &str) -> Option<bool> {
    if protocol.eq_ignore_ascii_case("grpc") {
        Some(true)
    } else {
        protocol.eq_ignore_ascii_case("http/protobuf").then_some(false)
    }
}

/// Returns the propagators in a list.
pub(super) fn propagators(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|propagator| !propagator.is_empty())
}

/// Returns the headers of a propagator; `None` if this program does not have it.
pub(super) fn headers_of(propagator: &str) -> Option<&'static [&'static str]> {
    match propagator {
        "tracecontext" => Some(&TRACE_HEADERS),
        "baggage" => Some(&[BAGGAGE_HEADER]),
        "none" => Some(&[]),
        _ => None,
    }
}

/// Says whether a text names a collector. Over gRPC it need not have a scheme.
pub(super) fn is_endpoint(text: &str, is_grpc: bool) -> bool {
    let url = match has_scheme(text) {
        true => Url::parse(text),
        false if is_grpc => Url::parse(&format!("https://{text}")),
        false => return false,
    };
    url.is_ok_and(|url| match url.scheme() {
        "http" | "https" => url.has_host(),
        scheme => is_grpc && scheme == "unix",
    })
}

/// Adds the path of a signal to that of an endpoint, before a query.
fn with_path(endpoint: &str, signal: Signal) -> String {
    let Ok(mut url) = Url::parse(endpoint) else { return endpoint.to_owned() };
    let path = format!("{}/v1/{}", url.path().trim_end_matches('/'), signal.name());
    url.set_path(&path);
    url.into()
}

fn has_scheme(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| !scheme.is_empty() && !scheme.contains(['/', '?', '#']))
}

/// Returns an address without a login, and without a query, which may have a key in it.
pub(super) fn without_login(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if has_scheme(text) => (format!("{scheme}://"), rest),
        _ => (String::new(), text),
    };
    let shown = match (rest.find(['?', '#']), rest.rfind('@')) {
        // Nobody can say which of the two ends first.
        (Some(query), Some(login)) if query < login => "…",
        (query, login) => {
            let start = login.map_or(0, |at| at + 1);
            &rest[start..query.unwrap_or(rest.len())]
        }
    };
    format!("{scheme}{shown}")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn variables(pairs: &[(&str, &str)]) -> Variables {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Variables::of(&pairs.collect::<Vec<_>>())
    }

    const NOTHING: &[(&str, &str)] = &[];

    #[test]
    fn a_signal_is_exported_where_an_endpoint_or_its_exporter_says_so() {
        const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        const OF_LOGS: (&str, &str) = ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:4318");
        for (pairs, expected) in [
            (NOTHING, [false, false, false]),
            (&[("OTEL_SERVICE_NAME", "x")], [false, false, false]),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], [false, false, false]),
            (&[ENDPOINT], [true, true, true]),
            (&[OF_LOGS], [false, false, true]),
            (&[ENDPOINT, ("OTEL_METRICS_EXPORTER", "none")], [true, false, true]),
            (&[ENDPOINT, ("OTEL_METRICS_EXPORTER", "prometheus")], [true, false, true]),
            (&[("OTEL_METRICS_EXPORTER", "prometheus, OTLP")], [false, true, false]),
            (&[("OTEL_TRACES_EXPORTER", "OTLP")], [true, false, false]),
            (&[ENDPOINT, ("OTEL_SDK_DISABLED", "True")], [false, false, false]),
            (&[ENDPOINT, ("OTEL_SDK_DISABLED", "1")], [true, true, true]),
        ] {
            let variables = variables(pairs);
            let exported = Signal::ALL.map(|signal| variables.destination(signal).is_ok());
            assert_eq!(exported, expected, "{pairs:?}");
        }
        let zipkin = variables(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "zipkin")]);
        assert!(zipkin.destination(Signal::Traces).unwrap_err().contains("zipkin"));
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
        assert!(variables.address(Signal::Metrics).is_tls());
        assert!(!variables.address(Signal::Logs).is_tls());
        assert_eq!(variables.timeout(Signal::Metrics), Duration::from_secs(2));
        assert_eq!(variables.timeout(Signal::Logs), TIMEOUT);
        assert_eq!((time("0"), time("1")), (None, Some(Duration::from_millis(1))));
        assert_eq!(variables.traces_url().as_deref(), Some("https://all:4317/v1/traces"));
    }

    #[test]
    fn a_signal_goes_where_the_first_variable_that_counts_says() {
        const OF_ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
        const OWN: &str = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
        const GRPC: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        const OTLP: (&str, &str) = ("OTEL_METRICS_EXPORTER", "otlp");
        const UNKNOWN: (&str, &str) = ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "carrier");
        const INSECURE: (&str, &str) = ("OTEL_EXPORTER_OTLP_INSECURE", "true");
        for (pairs, url, shown, variable) in [
            (
                &[(OF_ALL, "http://c:4318/")][..],
                "http://c:4318/v1/metrics",
                "http://c:4318/",
                OF_ALL,
            ),
            (&[(OF_ALL, "http://c"), (OWN, "http://d/m")], "http://d/m", "http://d/m", OWN),
            (&[(OF_ALL, "http://c"), (OWN, "nothing")], "http://c/v1/metrics", "http://c", OF_ALL),
            (
                &[(OF_ALL, "https://me:pw@c/x?key=1")],
                "https://me:pw@c/x/v1/metrics?key=1",
                "https://c/x",
                OF_ALL,
            ),
            (&[OTLP], "http://localhost:4318/v1/metrics", "http://localhost:4318", OTLP.0),
            (&[OTLP, GRPC], "http://localhost:4317", "http://localhost:4317", OTLP.0),
            (&[(OF_ALL, "http://c:4317"), GRPC], "http://c:4317", "http://c:4317", OF_ALL),
            (&[(OF_ALL, "http://c:4317"), GRPC, UNKNOWN], "http://c:4317", "http://c:4317", OF_ALL),
            (&[(OWN, "c:4317"), GRPC], "https://c:4317", "c:4317", OWN),
            (&[(OWN, "c:4317"), GRPC, INSECURE], "http://c:4317", "c:4317", OWN),
        ] {
            let expected = Address {
                url: url.to_owned(),
                shown: shown.to_owned(),
                variable: variable.to_owned(),
                is_grpc: pairs.contains(&GRPC),
            };
            let destination = variables(pairs).destination(Signal::Metrics);
            assert_eq!(destination, Ok(expected), "{pairs:?}");
        }
        for (pairs, why) in [
            (NOTHING, "neither OTEL_METRICS_EXPORTER nor"),
            (&[(OF_ALL, "nothing")], "neither OTEL_METRICS_EXPORTER nor"),
            (&[(OF_ALL, "c:4318")], "neither OTEL_METRICS_EXPORTER nor"),
            (
                &[(OF_ALL, "http://c"), ("OTEL_METRICS_EXPORTER", "none")],
                "OTEL_METRICS_EXPORTER is none",
            ),
            (
                &[("OTEL_METRICS_EXPORTER", "prometheus")],
                "OTEL_METRICS_EXPORTER is prometheus, and",
            ),
            (&[OTLP, ("OTEL_SDK_DISABLED", "true")], "OTEL_SDK_DISABLED is true"),
        ] {
            let told = variables(pairs).destination(Signal::Metrics).unwrap_err();
            assert!(told.starts_with(why), "{told}");
        }
    }

    #[test]
    fn an_endpoint_is_a_url_and_over_grpc_a_host_or_a_socket_too() {
        for (text, over_http, over_grpc) in [
            ("http://c:4318", true, true),
            ("HTTPS://c/path", true, true),
            ("notaurl", false, true),
            ("c:4317", false, true),
            ("unix:///run/c.sock", false, true),
            ("https://me:hunt^er2@c", true, true),
            ("http://ä.example", true, true),
            ("ftp://c", false, false),
            ("http://", false, false),
            ("://c", false, false),
            ("http://[c", false, false),
            ("a b", false, false),
        ] {
            let found = (is_endpoint(text, false), is_endpoint(text, true));
            assert_eq!(found, (over_http, over_grpc), "{text}");
        }
    }

    #[test]
    fn no_login_and_no_key_is_shown() {
        for (text, shown) in [
            ("http://c:4318/path", "http://c:4318/path"),
            ("c:4317", "c:4317"),
            ("http://me:secret@c:4318", "http://c:4318"),
            ("me:secret@c", "c"),
            ("http://me:sec/ret@c", "http://c"),
            ("http://me:sec?ret@c", "http://…"),
            ("http://c?key=secret", "http://c"),
            ("http://c?mail=a@b&key=secret", "http://…"),
            ("", ""),
        ] {
            assert_eq!(without_login(text), shown, "{text}");
        }
    }

    #[test]
    fn numbers_that_do_not_count_are_as_if_they_were_not_set() {
        let usual = Batch { queue_max: 2048, batch_max: 512, delay: Duration::from_secs(5) };
        for (pairs, expected) in [
            (NOTHING, usual),
            (&[("OTEL_BSP_MAX_QUEUE_SIZE", "4096")], Batch { queue_max: 4096, ..usual }),
            (&[("OTEL_BSP_MAX_QUEUE_SIZE", " 4096 ")], Batch { queue_max: 4096, ..usual }),
            (&[("OTEL_BSP_MAX_QUEUE_SIZE", "abc")], usual),
            (&[("OTEL_BSP_MAX_QUEUE_SIZE", "0")], usual),
            (&[("OTEL_BSP_MAX_QUEUE_SIZE", "-1")], usual),
            (&[("OTEL_BSP_MAX_QUEUE_SIZE", "99999999999")], usual),
            (
                &[("OTEL_BSP_MAX_QUEUE_SIZE", "100")],
                Batch { queue_max: 100, batch_max: 100, ..usual },
            ),
            (
                &[("OTEL_BSP_SCHEDULE_DELAY", "100")],
                Batch { delay: Duration::from_millis(100), ..usual },
            ),
            (&[("OTEL_BSP_SCHEDULE_DELAY", "0")], usual),
        ] {
            assert_eq!(variables(pairs).batches_of_spans(), expected, "{pairs:?}");
        }
        let of_lines = variables(&[("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "7")]).batches_of_lines();
        assert_eq!((of_lines.batch_max, of_lines.delay), (7, Duration::from_secs(1)));
        for (text, seconds) in [("2000", 2), ("0", 60), ("soon", 60)] {
            let interval = variables(&[("OTEL_METRIC_EXPORT_INTERVAL", text)]).interval();
            assert_eq!(interval, Duration::from_secs(seconds), "{text}");
        }
    }

    #[test]
    fn propagators_name_headers() {
        const NONE: &[&str] = &[];
        for (wanted, headers, unknown) in [
            ("", &["baggage", "traceparent", "tracestate"][..], NONE),
            ("tracecontext", &["traceparent", "tracestate"], NONE),
            ("none", NONE, NONE),
            ("baggage, b3", &["baggage"], &["b3"]),
            ("b3", &["baggage", "traceparent", "tracestate"], &["b3"]),
            ("b3,none", NONE, &["b3"]),
        ] {
            assert_eq!(variables(&[("OTEL_PROPAGATORS", wanted)]).carried(), headers, "{wanted}");
            let left: Vec<_> = propagators(wanted).filter(|it| headers_of(it).is_none()).collect();
            assert_eq!(left, unknown, "{wanted}");
        }
    }
}
