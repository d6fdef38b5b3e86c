//! Limits of the attributes of spans. The SDK has those of their number, this host that of the
//! length of their texts.

use std::sync::atomic::{AtomicUsize, Ordering};

use opentelemetry::{KeyValue, Value};

use super::settings::{Number, Variables};
use crate::telemetry::TEXT_BYTES_MAX;

/// The limits that the SDK reads itself, as they are written. 0 is one, too.
pub const OF_SDK: [Number; 3] = [
    COUNT_OF_SPAN,
    limit("OTEL_SPAN_EVENT_COUNT_LIMIT", USUAL),
    limit("OTEL_SPAN_LINK_COUNT_LIMIT", USUAL),
];
/// The limits that are read here.
pub const OWN: [Number; 3] = [COUNT, LENGTH_OF_SPAN, LENGTH];

const COUNT_OF_SPAN: Number = limit("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", USUAL);
/// That of everything that has attributes; the one of spans wins.
const COUNT: Number = limit("OTEL_ATTRIBUTE_COUNT_LIMIT", USUAL);
const LENGTH_OF_SPAN: Number =
    limit("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", TEXT_BYTES_MAX as u64);
const LENGTH: Number = limit("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", TEXT_BYTES_MAX as u64);
const USUAL: u64 = 128;

const fn limit(name: &'static str, default: u64) -> Number {
    Number { name, min: 0, max: u32::MAX as u64, default }
}

/// The longest text of an attribute, in characters.
static CHARACTERS_MAX: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Sets the limit of texts.
pub fn start(variables: &Variables) {
    if let Some(max) = characters(variables) {
        CHARACTERS_MAX.store(max, Ordering::Relaxed);
    }
}

/// Returns how many attributes a span may have, unless the SDK knows.
pub fn attributes(variables: &Variables) -> Option<u32> {
    let of_sdk = variables.raw(COUNT_OF_SPAN.name).and_then(|text| COUNT_OF_SPAN.read(text));
    match of_sdk {
        Some(_) => None,
        None => u32::try_from(COUNT.read(variables.get(COUNT.name)?)?).ok(),
    }
}

fn characters(variables: &Variables) -> Option<usize> {
    let read = |limit: Number| limit.read(variables.get(limit.name)?);
    usize::try_from([LENGTH_OF_SPAN, LENGTH].into_iter().find_map(read)?).ok()
}

/// Cuts a text that is longer than the variables allow.
pub fn cut(attribute: KeyValue) -> KeyValue {
    cut_to(CHARACTERS_MAX.load(Ordering::Relaxed), attribute)
}

fn cut_to(max: usize, attribute: KeyValue) -> KeyValue {
    match &attribute.value {
        // A text has no more characters than bytes.
        Value::String(text) if text.as_str().len() > max => {
            let text: String = text.as_str().chars().take(max).collect();
            KeyValue::new(attribute.key, text)
        }
        _ => attribute,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::otel::settings::tests::variables;

    #[test]
    fn the_limit_of_spans_wins_over_that_of_all_and_one_that_does_not_count_over_none() {
        const OF_SPAN: &str = "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT";
        const OF_ALL: &str = "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT";
        for (pairs, expected) in [
            (&[][..], None),
            (&[(OF_ALL, "100")], Some(100)),
            (&[(OF_ALL, "100"), (OF_SPAN, "0")], Some(0)),
            (&[(OF_ALL, "100"), (OF_SPAN, "many")], Some(100)),
            (&[(OF_ALL, "-1")], None),
        ] {
            assert_eq!(characters(&variables(pairs)), expected, "{pairs:?}");
        }
        for (pairs, expected) in [
            (&[][..], None),
            (&[(COUNT.name, "7")], Some(7)),
            // The SDK has it.
            (&[(COUNT.name, "7"), (COUNT_OF_SPAN.name, "8")], None),
            (&[(COUNT.name, "7"), (COUNT_OF_SPAN.name, "x")], Some(7)),
            (&[(COUNT.name, "x")], None),
        ] {
            assert_eq!(attributes(&variables(pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_text_is_cut_to_its_characters() {
        for (text, max, expected) in
            [("äöü", 2, "äö"), ("äöü", 3, "äöü"), ("abc", usize::MAX, "abc"), ("abc", 0, "")]
        {
            let cut = cut_to(max, KeyValue::new("k", text));
            assert_eq!(cut, KeyValue::new("k", expected), "{text} {max}");
        }
        assert_eq!(cut_to(0, KeyValue::new("k", 7_i64)), KeyValue::new("k", 7_i64));
    }
}
