//! Which variables of OpenTelemetry have a value that does not count, what counts instead, and what
//! would.
//!
//! The specification wants a warning for each. Those about variables that the SDK reads itself are
//! told here as well, and its own lines about them are left out of the log. Headers have secrets in
//! them, so their values are not told.

use reqwest::header::{HeaderName, HeaderValue};

use super::settings::{
    self, DISABLED, NUMBERS, PROPAGATORS, Signal, TIMEOUT, Variables, exporter_setting,
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
const TEMPORALITY: &str = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
const TEMPORALITIES: [&str; 3] = ["cumulative", "delta", "lowmemory"];
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
/// Limits of what a span holds. 0 is one, too.
const LIMITS: [&str; 3] = [
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
];
const USUAL_LIMIT: &str = "128";
const BOOLEANS: &str = "true, false";
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
pub fn wrong(variables: &Variables) -> Vec<Wrong> {
    let checks: [fn(&Variables) -> Vec<Wrong>; 9] =
        [switches, exporters, protocols, endpoints, ways, headers, propagators, sampler, numbers];
    checks.iter().flat_map(|check| check(variables)).collect()
}

/// Returns the names of a setting of exporters, that of all signals first.
fn names(what: &str) -> impl Iterator<Item = (Option<Signal>, String)> {
    let signals = [None].into_iter().chain(Signal::ALL.map(Some));
    signals.map(move |signal| (signal, exporter_setting(signal, what)))
}

fn is_boolean(text: &str) -> bool {
    ["true", "false"].iter().any(|word| text.trim().eq_ignore_ascii_case(word))
}

/// Everything but the word `true` is no.
fn switches(variables: &Variables) -> Vec<Wrong> {
    let insecure = names("INSECURE").map(|(_, name)| name);
    let all = [DISABLED.to_owned()].into_iter().chain(insecure);
    let wrong = all.filter_map(|name| {
        let value = variables.raw(&name).filter(|value| !is_boolean(value))?;
        Some(Wrong::new(&name, value, "false", BOOLEANS))
    });
    wrong.collect()
}

/// Nothing is exported where another exporter is wanted.
fn exporters(variables: &Variables) -> Vec<Wrong> {
    let wrong = Signal::ALL.into_iter().filter_map(|signal| {
        variables.exports(signal).err()?;
        let name = signal.exporter();
        Some(Wrong::new(&name, variables.raw(&name)?, "none", "otlp, none"))
    });
    wrong.collect()
}

fn protocols(variables: &Variables) -> Vec<Wrong> {
    let wrong = names("PROTOCOL").filter_map(|(signal, name)| {
        let value = variables.get(&name).filter(|value| settings::is_grpc(value).is_none())?;
        let is_grpc = signal.is_some_and(|signal| variables.is_grpc(signal));
        Some(Wrong::new(&name, value, protocol(is_grpc), "grpc, http/protobuf"))
    });
    wrong.collect()
}

/// Returns the word for a protocol.
pub(super) fn protocol(is_grpc: bool) -> &'static str {
    if is_grpc { "grpc" } else { "http/protobuf" }
}

fn endpoints(variables: &Variables) -> Vec<Wrong> {
    let of_all = exporter_setting(None, "ENDPOINT");
    let wrong = names("ENDPOINT").filter_map(|(signal, name)| {
        let is_grpc = match signal {
            Some(signal) => variables.is_grpc(signal),
            // It counts if it does for one of them.
            None => Signal::ALL.iter().any(|signal| variables.is_grpc(*signal)),
        };
        let is_wrong = |value: &&str| !settings::is_endpoint(value, is_grpc);
        let value = variables.get(&name).filter(is_wrong)?;
        let other = variables.get(&of_all).filter(|value| settings::is_endpoint(value, is_grpc));
        let used = match other {
            Some(_) if signal.is_some() => of_all.as_str(),
            _ => "nothing, as if it was not set",
        };
        let allowed = match is_grpc {
            true => "http://HOST:PORT, https://HOST:PORT, HOST:PORT",
            false => "http://HOST:PORT, https://HOST:PORT",
        };
        Some(Wrong::new(&name, &settings::without_login(value), used, allowed))
    });
    wrong.collect()
}

/// The compression, the time and the kind of sums of exports.
fn ways(variables: &Variables) -> Vec<Wrong> {
    let compressed = variables.raw(&exporter_setting(None, "COMPRESSION"));
    let is_gzip = compressed.is_some_and(|value| value.eq_ignore_ascii_case("gzip"));
    let compressions = names("COMPRESSION").filter_map(|(signal, name)| {
        let is_known =
            |value: &&str| ["gzip", "none"].iter().any(|it| value.eq_ignore_ascii_case(it));
        let value = variables.raw(&name).filter(|value| !is_known(value))?;
        let used = if signal.is_some() && is_gzip { "gzip" } else { "none" };
        Some(Wrong::new(&name, value, used, "gzip, none"))
    });
    let usual_timeout = TIMEOUT.as_millis().to_string();
    let timeouts = names("TIMEOUT").filter_map(|(_, name)| {
        let value = variables.get(&name).filter(|value| value.parse::<u64>().is_err())?;
        Some(Wrong::new(&name, value, &usual_timeout, "a whole number of milliseconds"))
    });
    let is_temporality =
        |value: &&str| TEMPORALITIES.iter().any(|known| value.eq_ignore_ascii_case(known));
    let temporality = variables.raw(TEMPORALITY).filter(|value| !is_temporality(value));
    let temporality = temporality
        .map(|value| Wrong::new(TEMPORALITY, value, TEMPORALITIES[0], &TEMPORALITIES.join(", ")));
    compressions.chain(timeouts).chain(temporality).collect()
}

/// Pairs that are none are left out, of headers and of attributes.
fn headers(variables: &Variables) -> Vec<Wrong> {
    let of_headers = names("HEADERS").filter_map(|(_, name)| {
        let used = left_out(variables.raw(&name)?, is_header)?;
        let allowed = PAIRS.to_owned();
        Some(Wrong { variable: name, value: None, used, allowed })
    });
    let attributes = variables.raw(RESOURCE).and_then(|value| {
        let used = left_out(value, |pair| pair.contains('='))?;
        Some(Wrong::new(RESOURCE, value, &used, PAIRS))
    });
    of_headers.chain(attributes).collect()
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

fn is_header(pair: &str) -> bool {
    pair.split_once('=').is_some_and(|(name, value)| {
        let (name, value) = (name.trim(), value.trim());
        let is_value = !value.is_empty() && HeaderValue::from_str(value).is_ok();
        is_value && name.parse::<HeaderName>().is_ok()
    })
}

fn propagators(variables: &Variables) -> Vec<Wrong> {
    let (carried, unknown) = variables.carried();
    let value = variables.raw(PROPAGATORS).filter(|_| !unknown.is_empty());
    let used = match carried.is_empty() {
        true => "no header".to_owned(),
        false => format!("the headers {}", carried.join(", ")),
    };
    let wrong =
        value.map(|value| Wrong::new(PROPAGATORS, value, &used, "tracecontext, baggage, none"));
    wrong.into_iter().collect()
}

/// The sampler and its ratio, which the SDK takes as they are written.
fn sampler(variables: &Variables) -> Vec<Wrong> {
    let sampler = variables.raw(SAMPLER).unwrap_or(USUAL_SAMPLER);
    if !SAMPLERS.contains(&sampler) {
        return vec![Wrong::new(SAMPLER, sampler, USUAL_SAMPLER, &SAMPLERS.join(", "))];
    }
    let text = variables.raw(SAMPLER_ARG).unwrap_or_default();
    let used = match text.parse::<f64>() {
        _ if !sampler.ends_with(OF_RATIO) => return Vec::new(),
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => return Vec::new(),
        Ok(ratio) if ratio > 1.0 => "1, all traces",
        Ok(_) => "0, no trace",
        Err(_) => "1, all traces",
    };
    vec![Wrong::new(SAMPLER_ARG, text, used, "a number from 0 to 1")]
}

fn numbers(variables: &Variables) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    for number in NUMBERS {
        if let Some(value) = variables.get(number.name).filter(|it| number.read(it).is_none()) {
            let (used, allowed) =
                (number.default.to_string(), format!("a whole number from 1 to {}", number.max));
            wrong.push(Wrong::new(number.name, value, &used, &allowed));
        }
    }
    for limit in LIMITS {
        if let Some(value) = variables.raw(limit).filter(|it| it.parse::<u32>().is_err()) {
            let allowed = format!("a whole number from 0 to {}", u32::MAX);
            wrong.push(Wrong::new(limit, value, USUAL_LIMIT, &allowed));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::otel::settings::tests::variables;

    #[test]
    fn a_value_that_does_not_count_is_told_with_what_counts_and_what_would() {
        for (name, value, used, allowed) in [
            ("OTEL_SDK_DISABLED", "yes", "false", "true"),
            ("OTEL_EXPORTER_OTLP_LOGS_INSECURE", "1", "false", "true"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "none", "otlp"),
            ("OTEL_METRICS_EXPORTER", "otlp,prometheus", "none", "otlp"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier", "http/protobuf", "grpc"),
            ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json", "http/protobuf", "grpc"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "notaurl", "nothing", "http://HOST:PORT"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "nothing", "http://HOST:PORT"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://c", "nothing", "https://HOST:PORT"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1", "10000", "milliseconds"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "10s", "10000", "milliseconds"),
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
