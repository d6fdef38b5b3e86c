//! Which variables of OpenTelemetry have a value that does not count, what counts instead, and what
//! would.
//!
//! The specification wants a warning for each. Those about variables that the SDK reads itself are
//! told here as well, and its own lines about them are left out of the log. Headers have secrets in
//! them, so their values are not told. Variables that change nothing are told by their names.

use reqwest::header::{HeaderName, HeaderValue};

use super::{
    limits,
    resource::{self, ATTRIBUTES},
    settings::{
        self, DELTA, DISABLED, NUMBERS, PROPAGATORS, Signal, TEMPORALITY, TIMEOUT, Variables,
        exporter_setting,
    },
};

const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];
/// The sampler where no variable names one.
const USUAL_SAMPLER: &str = "parentbased_always_on";
/// The end of the names of samplers that need a ratio.
const OF_RATIO: &str = "traceidratio";
const TEMPORALITIES: [&str; 3] = ["cumulative", DELTA, "lowmemory"];
/// Variables of the specification that change nothing here, or the beginnings of their names.
const UNUSED: [&str; 16] = [
    // An export is bounded by the time that exporters have.
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BLRP_EXPORT_TIMEOUT",
    "OTEL_METRIC_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_CONCURRENT_EXPORTS",
    // Spans have no events and no links.
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_LOGRECORD_",
    "OTEL_METRICS_EXEMPLAR_FILTER",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
    "OTEL_LOG_LEVEL",
    "OTEL_CONFIG_FILE",
    "OTEL_EXPERIMENTAL_CONFIG_FILE",
    "OTEL_ENTITIES",
    "OTEL_EXPORTER_ZIPKIN_",
    "OTEL_EXPORTER_PROMETHEUS_",
    "OTEL_EXPORTER_JAEGER_",
];
const BOOLEANS: [&str; 2] = ["true", "false"];
const PAIRS: &str = "NAME=VALUE,NAME=VALUE with %2C for a comma";

/// A value that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    pub variable: String,
    /// None of a secret.
    pub value: Option<String>,
    pub used: String,
    pub allowed: String,
}

impl Wrong {
    fn new(variable: &str, value: &str, used: &str, allowed: &str) -> Self {
        Self {
            variable: variable.to_owned(),
            value: Some(value.to_owned()),
            used: used.to_owned(),
            allowed: allowed.to_owned(),
        }
    }
}

/// Returns all values that do not count.
pub fn wrong(variables: &Variables) -> impl Iterator<Item = Wrong> {
    switches(variables)
        .chain(exporters(variables))
        .chain(protocols(variables))
        .chain(endpoints(variables))
        .chain(ways(variables))
        .chain(headers(variables))
        .chain(carriers(variables))
        .chain(sampler(variables))
        .chain(numbers(variables))
}

/// Returns the variables that are set and change nothing.
pub fn unused(variables: &Variables) -> Vec<&str> {
    UNUSED.iter().flat_map(|name| variables.beginning(name)).collect()
}

/// Returns the names of a setting of exporters, that of all signals first.
fn names(what: &str) -> impl Iterator<Item = (Option<Signal>, String)> {
    let signals = [None].into_iter().chain(Signal::ALL.map(Some));
    signals.map(move |signal| (signal, exporter_setting(signal, what)))
}

/// Tells of a value that is none of these words, in whatever letters.
fn word(name: &str, value: Option<&str>, words: &[&str], used: &str) -> Option<Wrong> {
    let value = value.filter(|value| !words.iter().any(|word| value.eq_ignore_ascii_case(word)))?;
    Some(Wrong::new(name, value, used, &words.join(", ")))
}

/// Everything but the word `true` is no.
fn switches(variables: &Variables) -> impl Iterator<Item = Wrong> {
    let insecure = names("INSECURE").map(|(_, name)| name);
    let all = [DISABLED.to_owned()].into_iter().chain(insecure);
    all.filter_map(move |name| word(&name, variables.get(&name), &BOOLEANS, "false"))
}

/// Nothing is exported where only other exporters are wanted.
fn exporters(variables: &Variables) -> impl Iterator<Item = Wrong> {
    Signal::ALL.into_iter().filter_map(move |signal| {
        let name = signal.exporter();
        let value = variables.raw(&name).filter(|list| settings::wants_other(list))?;
        let used = if settings::has_otlp(value) { "otlp" } else { "none" };
        Some(Wrong::new(&name, value, used, "otlp, none"))
    })
}

fn protocols(variables: &Variables) -> impl Iterator<Item = Wrong> {
    names("PROTOCOL").filter_map(move |(signal, name)| {
        let is_grpc = signal.is_some_and(|signal| variables.is_grpc(signal));
        let all = [true, false].map(protocol);
        word(&name, variables.get(&name), &all, protocol(is_grpc))
    })
}

/// Returns the word for a protocol.
pub(super) fn protocol(is_grpc: bool) -> &'static str {
    if is_grpc { "grpc" } else { "http/protobuf" }
}

fn endpoints(variables: &Variables) -> impl Iterator<Item = Wrong> {
    names("ENDPOINT").filter_map(move |(signal, name)| {
        let is_grpc = match signal {
            Some(signal) => variables.is_grpc(signal),
            // It counts if it does for one of them.
            None => Signal::ALL.iter().any(|signal| variables.is_grpc(*signal)),
        };
        let is_wrong = |value: &&str| !settings::is_endpoint(value, is_grpc);
        let value = variables.get(&name).filter(is_wrong)?;
        let other = signal.and_then(|signal| variables.endpoint(signal)).map(|(name, _)| name);
        let used = other.as_deref().unwrap_or("nothing, as if it was not set");
        let allowed = match is_grpc {
            true => "http://HOST:PORT, https://HOST:PORT, HOST:PORT",
            false => "http://HOST:PORT, https://HOST:PORT",
        };
        Some(Wrong::new(&name, &settings::without_login(value), used, allowed))
    })
}

/// The compression, the time and the kind of sums of exports.
fn ways(variables: &Variables) -> impl Iterator<Item = Wrong> {
    let compressed = variables.raw(&exporter_setting(None, "COMPRESSION"));
    let is_gzip = compressed.is_some_and(|value| value.eq_ignore_ascii_case("gzip"));
    let compressions = names("COMPRESSION").filter_map(move |(signal, name)| {
        let used = if signal.is_some() && is_gzip { "gzip" } else { "none" };
        word(&name, variables.raw(&name), &["gzip", "none"], used)
    });
    let timeouts = names("TIMEOUT").filter_map(move |(_, name)| {
        let value = variables.get(&name).filter(|value| settings::time(value).is_none())?;
        let used = TIMEOUT.as_millis().to_string();
        Some(Wrong::new(&name, value, &used, "a whole number of milliseconds, from 1 on"))
    });
    let sums = word(TEMPORALITY, variables.raw(TEMPORALITY), &TEMPORALITIES, TEMPORALITIES[0]);
    compressions.chain(timeouts).chain(sums)
}

/// Pairs that are none are left out, of headers and of attributes.
fn headers(variables: &Variables) -> impl Iterator<Item = Wrong> {
    let of_headers = names("HEADERS").filter_map(move |(_, name)| {
        let used = left_out(variables.raw(&name)?, is_header)?;
        let allowed = PAIRS.to_owned();
        Some(Wrong { variable: name, value: None, used, allowed })
    });
    let attributes = variables.raw(ATTRIBUTES).and_then(|value| {
        let used = left_out(value, |pair| resource::pair(pair).is_some())?;
        Some(Wrong::new(ATTRIBUTES, value, &used, PAIRS))
    });
    of_headers.chain(attributes)
}

/// Says which parts of a list do not hold; `None` if all do.
fn left_out(list: &str, holds: impl Fn(&str) -> bool) -> Option<String> {
    let parts: Vec<&str> = list.split_terminator(',').collect();
    let wrong: Vec<String> = (1..)
        .zip(&parts)
        .filter(|(_, part)| !holds(part))
        .map(|(number, _)| number.to_string())
        .collect();
    let all = parts.len();
    (!wrong.is_empty()).then(|| match wrong.len() == all {
        true => "none of its parts".to_owned(),
        false => format!("all of its {all} parts but number {}", wrong.join(", ")),
    })
}

/// The SDK decodes a value, takes one that cannot be decoded as it is, and leaves out what is no
/// value of a header then.
fn is_header(pair: &str) -> bool {
    pair.split_once('=').is_some_and(|(name, value)| {
        let (name, value) = (name.trim(), value.trim());
        let decoded = resource::decoded(value);
        let is_value = !value.is_empty() && HeaderValue::from_str(&decoded).is_ok();
        is_value && name.parse::<HeaderName>().is_ok()
    })
}

fn carriers(variables: &Variables) -> Option<Wrong> {
    let list = variables.raw(PROPAGATORS)?;
    let used = match variables.carried().as_slice() {
        [] => "no header".to_owned(),
        carried => format!("the headers {}", carried.join(", ")),
    };
    let is_wrong = settings::propagators(list).any(|it| settings::headers_of(it).is_none());
    is_wrong.then(|| Wrong::new(PROPAGATORS, list, &used, "tracecontext, baggage, none"))
}

/// The sampler and its ratio, which the SDK takes as they are written.
fn sampler(variables: &Variables) -> Option<Wrong> {
    let sampler = variables.raw(SAMPLER).unwrap_or(USUAL_SAMPLER);
    if !SAMPLERS.contains(&sampler) {
        return Some(Wrong::new(SAMPLER, sampler, USUAL_SAMPLER, &SAMPLERS.join(", ")));
    }
    let text = variables.raw(SAMPLER_ARG).unwrap_or_default();
    let used = match text.parse::<f64>() {
        _ if !sampler.ends_with(OF_RATIO) => return None,
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => return None,
        Ok(ratio) if ratio > 1.0 => "1, all traces",
        Ok(_) => "0, no trace",
        Err(_) => "1, all traces",
    };
    Some(Wrong::new(SAMPLER_ARG, text, used, "a number from 0 to 1"))
}

fn numbers(variables: &Variables) -> impl Iterator<Item = Wrong> {
    let numbers = NUMBERS.into_iter().chain(limits::OWN);
    let numbers = numbers.map(move |number| (variables.get(number.name), number));
    // The SDK reads these as they are written.
    let limits = limits::OF_SDK.into_iter().map(move |limit| (variables.raw(limit.name), limit));
    numbers.chain(limits).filter_map(|(value, number)| {
        let value = value.filter(|value| number.read(value).is_none())?;
        let allowed = format!("a whole number from {} to {}", number.min, number.max);
        Some(Wrong::new(number.name, value, &number.default.to_string(), &allowed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::otel::settings::tests::variables;

    fn wrong(variables: &Variables) -> Vec<Wrong> {
        super::wrong(variables).collect()
    }

    #[test]
    fn a_value_that_does_not_count_is_told_with_what_counts_and_what_would() {
        for (name, value, used, allowed) in [
            ("OTEL_SDK_DISABLED", "yes", "false", "true"),
            ("OTEL_EXPORTER_OTLP_LOGS_INSECURE", "1", "false", "true"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "none", "otlp"),
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus", "otlp", "otlp"),
            ("OTEL_LOGS_EXPORTER", "none,otlp", "otlp", "none"),
            ("OTEL_LOGS_EXPORTER", "console", "none", "otlp"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier", "http/protobuf", "grpc"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json", "http/protobuf", "grpc"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "notaurl", "nothing", "http://HOST:PORT"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "nothing", "http://HOST:PORT"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://c", "nothing", "https://HOST:PORT"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1", "10000", "milliseconds"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "10s", "10000", "milliseconds"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "10000", "from 1 on"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "lzma", "none", "gzip"),
            ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "zstd", "none", "gzip"),
            (TEMPORALITY, "sometimes", "cumulative", "delta"),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "env=prod,team",
                "all of its 2 parts but number 2",
                "NAME",
            ),
            ("OTEL_PROPAGATORS", "b3", "baggage, traceparent, tracestate", "tracecontext"),
            ("OTEL_PROPAGATORS", "b3,none", "no header", "tracecontext"),
            ("OTEL_TRACES_SAMPLER", "foo", "parentbased_always_on", "always_off"),
            ("OTEL_TRACES_SAMPLER", "xray", "parentbased_always_on", "always_off"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "abc", "2048", "from 1 to"),
            ("OTEL_BLRP_SCHEDULE_DELAY", "0", "1000", "from 1 to"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "1m", "60000", "from 1 to"),
            ("OTEL_SPAN_EVENT_COUNT_LIMIT", "-1", "128", "from 0 to"),
            ("OTEL_ATTRIBUTE_COUNT_LIMIT", "x", "128", "from 0 to"),
            ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "long", "2048", "from 0 to"),
        ] {
            let wrong = wrong(&variables(&[(name, value)]));
            let [wrong] = wrong.as_slice() else { panic!("{name}={value}: {wrong:?}") };
            assert_eq!((&*wrong.variable, wrong.value.as_deref()), (name, Some(value)));
            assert!(wrong.used.contains(used) && wrong.allowed.contains(allowed), "{wrong:?}");
        }
    }

    #[test]
    fn values_that_count_are_not_told() {
        for (name, value) in [
            ("OTEL_SDK_DISABLED", "False"),
            ("OTEL_TRACES_EXPORTER", "OTLP"),
            ("OTEL_LOGS_EXPORTER", "none"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "GRPC"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", " http://c:4318 "),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20x, a = b ,"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", " 500 "),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "GZIP"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
            (TEMPORALITY, "Delta"),
            ("OTEL_RESOURCE_ATTRIBUTES", "env=prod,team=a=b"),
            ("OTEL_PROPAGATORS", "tracecontext, baggage"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
            // It counts for no sampler that is used.
            ("OTEL_TRACES_SAMPLER_ARG", "many"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "1"),
            ("OTEL_SPAN_LINK_COUNT_LIMIT", "0"),
            ("OTEL_SERVICE_NAME", "anything"),
            ("OTEL_SOMETHING_ELSE", "anything"),
            ("OTEL_TRACES_SAMPLER", ""),
        ] {
            assert_eq!(wrong(&variables(&[(name, value)])), [], "{name}={value}");
        }
    }

    #[test]
    fn variables_that_change_nothing_are_named_and_no_others() {
        let set = variables(&[
            ("OTEL_BSP_EXPORT_TIMEOUT", "1000"),
            ("OTEL_BSP_SCHEDULE_DELAY", "1000"),
            ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "x"),
            ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "7"),
            ("OTEL_METRICS_EXEMPLAR_FILTER", ""),
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_SOMETHING_ELSE", "anything"),
        ]);
        assert_eq!(
            unused(&set),
            [
                "OTEL_BSP_EXPORT_TIMEOUT",
                "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            ]
        );
        // All that is read here is used.
        let read = NUMBERS.into_iter().chain(limits::OWN).chain(limits::OF_SDK);
        for number in read {
            assert_eq!(unused(&variables(&[(number.name, "1")])), [""; 0], "{}", number.name);
        }
    }

    #[test]
    fn a_ratio_is_from_0_to_1_and_a_sampler_that_needs_one_has_it() {
        for (sampler, ratio, used) in [
            ("traceidratio", "0.25", None),
            ("parentbased_traceidratio", "1", None),
            ("traceidratio", "2", Some("1, all traces")),
            ("traceidratio", "-0.5", Some("0, no trace")),
            ("traceidratio", "nan", Some("0, no trace")),
            ("traceidratio", "half", Some("1, all traces")),
            ("parentbased_traceidratio", "", Some("1, all traces")),
            ("always_on", "half", None),
        ] {
            let wrong =
                wrong(&variables(&[("OTEL_TRACES_SAMPLER", sampler), (SAMPLER_ARG, ratio)]));
            let found = wrong.first().map(|wrong| (wrong.variable.as_str(), wrong.used.as_str()));
            assert_eq!(found, used.map(|used| (SAMPLER_ARG, used)), "{sampler} {ratio}");
        }
    }

    #[test]
    fn headers_are_told_by_their_number_and_never_shown() {
        for (value, used) in [
            ("Authorization: Bearer hunter2", "none of its parts"),
            ("a=b,hunter2,c=d", "all of its 3 parts but number 2"),
            ("=hunter2,a=b,hunter2=", "all of its 3 parts but number 1, 3"),
            ("hun ter2=x", "none of its parts"),
            ("a=hunter2\u{7f}", "none of its parts"),
            ("a=b,b=hunter2%0A,c=%zz", "all of its 3 parts but number 2"),
            ("a=hunter2%0A", "none of its parts"),
        ] {
            for name in ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"] {
                let wrong = wrong(&variables(&[(name, value)]));
                let expected = Wrong {
                    variable: name.to_owned(),
                    value: None,
                    used: used.to_owned(),
                    allowed: PAIRS.to_owned(),
                };
                assert_eq!(wrong, [expected], "{value}");
                assert!(!format!("{wrong:?}").contains("hunter2"));
            }
        }
    }

    #[test]
    fn no_login_of_an_endpoint_is_told() {
        let wrong = wrong(&variables(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://me:hunter2@c")]));
        assert_eq!(wrong[0].value.as_deref(), Some("ftp://c"));
    }

    #[test]
    fn where_that_of_all_signals_counts_it_is_used() {
        let wrong = wrong(&variables(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "notaurl"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "carrier"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "lzma"),
        ]));
        let told: Vec<_> =
            wrong.iter().map(|it| (it.variable.as_str(), it.used.as_str())).collect();
        let expected = [
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
            ("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "gzip"),
        ];
        assert_eq!(told, expected);
    }
}
