//! The marks that are drawn on a chart beside its lines: starts, updates, stops and losses.

use serde::Serialize;
use utoipa::ToSchema;

use crate::model::{events::Entry, rates::Of};

/// Marks of one chart; of more the newest.
const MARKS_MAX: usize = 200;

/// Something that happened to the subject of a chart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Mark {
    pub at_ms: u64,
    /// `start`, `update`, `stop` or `loss`.
    pub kind: &'static str,
    pub text: String,
}

/// Picks the marks of a subject, oldest first. `entries` are newest first.
pub fn of(entries: &[Entry], of: &Of) -> Vec<Mark> {
    let about = entries.iter().filter(|entry| concerns(entry, of));
    let marks = about.filter_map(|entry| {
        let (at_ms, text) = (entry.at_ms, entry.text.clone());
        Some(Mark { at_ms, kind: kind(entry)?, text })
    });
    let mut marks: Vec<Mark> = marks.take(MARKS_MAX).collect();
    marks.reverse();
    marks
}

/// Whether an event is about the subject of a chart. A lost host concerns everybody.
fn concerns(entry: &Entry, of: &Of) -> bool {
    match of {
        Of::Lattice => true,
        Of::Host(id) => entry.host_id == *id,
        Of::Target(id, link_name) => {
            let link = entry.data["link_name"].as_str().unwrap_or_default();
            let is_link = link_name.is_empty() || link.is_empty() || link == link_name;
            (entry.data["public_key"] == **id && is_link) || entry.name == "host_lost"
        }
    }
}

fn kind(entry: &Entry) -> Option<&'static str> {
    let data = &entry.data;
    Some(match entry.name.as_str() {
        "host_started" | "host_back" | "provider_started" => "start",
        "actor_scaled" if data["max_instances"] == 0 && data["other_instances"].is_null() => "stop",
        "actor_scaled" => "start",
        "actor_updated" => "update",
        "actors_stopped" if data["remaining"] == 0 => "stop",
        "host_stopped" => "stop",
        "provider_stopped" => match data["reason"].as_str().unwrap_or_default() {
            "" | "stopped" => "stop",
            _ => "loss",
        },
        "host_lost" => "loss",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::events::Severity;

    fn entry(name: &str, host: &str, at_ms: u64, data: Value) -> Entry {
        let mut entry =
            Entry::concluded(name, Severity::Info, host, host, name.to_owned()).at(at_ms);
        entry.data = data;
        entry
    }

    #[test]
    fn each_chart_has_the_marks_of_its_subject() {
        let entries = [
            entry("host_lost", "N2", 50, Value::Null),
            entry(
                "provider_stopped",
                "N1",
                40,
                json!({"public_key": "V", "link_name": "b", "reason": "exit 1"}),
            ),
            entry("linkdef_set", "N1", 35, json!({"actor_id": "MA"})),
            entry("actor_updated", "N1", 30, json!({"public_key": "MA"})),
            entry("actor_scaled", "N2", 20, json!({"public_key": "MA", "max_instances": 0})),
            entry("actor_scaled", "N2", 10, json!({"public_key": "MA", "max_instances": 3})),
        ];
        let marks = |of: &Of| -> Vec<_> {
            super::of(&entries, of).into_iter().map(|mark| (mark.at_ms, mark.kind)).collect()
        };
        let actor = Of::Target("MA".into(), String::new());
        assert_eq!(marks(&actor), [(10, "start"), (20, "stop"), (30, "update"), (50, "loss")]);
        assert_eq!(marks(&Of::Host("N2".into())), [(10, "start"), (20, "stop"), (50, "loss")]);
        assert_eq!(marks(&Of::Target("V".into(), "a".into())), [(50, "loss")]);
        assert_eq!(marks(&Of::Target("V".into(), "b".into())), [(40, "loss"), (50, "loss")]);
        assert_eq!(marks(&Of::Lattice).len(), 5);
    }
}
