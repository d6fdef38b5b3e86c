//! The text of Prometheus, version 0.0.4, for readers that do not know OpenMetrics.
//!
//! It is made of the text in OpenMetrics. There a family of counters has a name without the
//! `_total` of its samples, and so has an info without its `_info`; here a family is named as its
//! samples are. Units, exemplars and the end of the text are not part of it.

use std::collections::HashMap;

use axum::http::{HeaderMap, header::ACCEPT};

pub(super) const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text";

/// Says whether a reader gets this text: each that does not name OpenMetrics, which fewer know.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    !accepted.flat_map(|line| line.split(',')).any(|kind| {
        let name = kind.split_once(';').map_or(kind, |(name, _)| name);
        name.trim().eq_ignore_ascii_case(OPENMETRICS)
    })
}

/// Makes it of a text in OpenMetrics.
pub(super) fn of(text: &str) -> String {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let types: HashMap<&str, &str> = types.collect();
    let mut plain = String::with_capacity(text.len());
    for line in text.lines() {
        let Some(comment) = line.strip_prefix("# ") else {
            plain.push_str(without_exemplar(line));
            plain.push('\n');
            continue;
        };
        let mut words = comment.splitn(3, ' ');
        let (Some(kind), Some(name), Some(about)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let (ending, type_name) = match types.get(name) {
            Some(&"counter") => ("_total", "counter"),
            Some(&"info") => ("_info", "gauge"),
            other => ("", other.copied().unwrap_or("untyped")),
        };
        match kind {
            "HELP" => plain.push_str(&format!("# HELP {name}{ending} {about}\n")),
            "TYPE" => plain.push_str(&format!("# TYPE {name}{ending} {type_name}\n")),
            _ => {}
        }
    }
    plain
}

/// Returns a sample without the exemplar behind it. The value of a label may look like one, so the
/// end of the labels is found first.
fn without_exemplar(line: &str) -> &str {
    let start = end_of_labels(line);
    match line[start..].find(" # ") {
        Some(at) => &line[..start + at],
        None => line,
    }
}

/// Returns where the labels of a sample end; the beginning if it has none.
fn end_of_labels(line: &str) -> usize {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, letter) in line.bytes().enumerate() {
        match letter {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_quoted,
            b'"' => is_quoted = !is_quoted,
            b'}' if !is_quoted => return at + 1,
            // A sample without labels.
            b' ' if !is_quoted => return at,
            _ => {}
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_openmetrics_gets_it() {
        const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0;q=0.5,\
                                  text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for (lines, is_named) in [
            (&[PROMETHEUS][..], true),
            (&["text/plain", "Application/OpenMetrics-Text"], true),
            (&["text/plain;version=0.0.4"], false),
            (&["*/*"], false),
            (&["application/openmetrics-text-2"], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(ACCEPT, line.parse().expect("a value"));
            }
            assert_eq!(is_wanted(&headers), !is_named, "{headers:?}");
        }
    }

    #[test]
    fn families_are_named_as_their_samples_are() {
        let openmetrics = r##"# HELP lattice_calls Calls that ended.
# TYPE lattice_calls counter
lattice_calls_total{operation="} # {\" # x",path="nats"} 3
# HELP lattice_host This host.
# TYPE lattice_host info
lattice_host_info{version="1"} 1
# HELP lattice_up_seconds Since the start.
# TYPE lattice_up_seconds gauge
# UNIT lattice_up_seconds seconds
lattice_up_seconds 1.5
# HELP lattice_took_seconds How long.
# TYPE lattice_took_seconds histogram
# UNIT lattice_took_seconds seconds
lattice_took_seconds_bucket{le="+Inf",target="M"} 2 # {trace_id="ab",span_id="cd"} 0.05 1.5
# EOF
"##;
        let plain = r##"# HELP lattice_calls_total Calls that ended.
# TYPE lattice_calls_total counter
lattice_calls_total{operation="} # {\" # x",path="nats"} 3
# HELP lattice_host_info This host.
# TYPE lattice_host_info gauge
lattice_host_info{version="1"} 1
# HELP lattice_up_seconds Since the start.
# TYPE lattice_up_seconds gauge
lattice_up_seconds 1.5
# HELP lattice_took_seconds How long.
# TYPE lattice_took_seconds histogram
lattice_took_seconds_bucket{le="+Inf",target="M"} 2
"##;
        assert_eq!(of(openmetrics), plain);
    }
}
