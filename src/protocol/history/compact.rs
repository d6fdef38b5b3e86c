//! Makes the data of an event small, and takes link values out of it.

use serde_json::Value;

/// Bytes of a text that are kept.
const TEXT_BYTES_MAX: usize = 600;
/// Members of an object, or items of a list, that are kept.
const MEMBERS_MAX: usize = 24;
/// Objects in objects that are kept.
const DEPTH_MAX: usize = 4;
/// Larger data is left out as a whole, in bytes.
const DATA_BYTES_MAX: usize = 4096;
/// Members whose values may be secrets; their names are kept.
const VALUES: &str = "values";

/// Returns the data of an event as the history keeps it.
pub fn data(data: &Value) -> Value {
    let small = shortened(data, 0);
    match serde_json::to_vec(&small) {
        Ok(text) if text.len() <= DATA_BYTES_MAX => small,
        _ => Value::Null,
    }
}

/// Returns a text with as much of it as is kept.
pub fn text(text: &str) -> String {
    let end = text.floor_char_boundary(TEXT_BYTES_MAX);
    if end < text.len() { format!("{}…", &text[..end]) } else { text.to_owned() }
}

fn shortened(value: &Value, depth: usize) -> Value {
    match value {
        Value::String(long) => Value::String(text(long)),
        Value::Array(_) | Value::Object(_) if depth >= DEPTH_MAX => Value::Null,
        Value::Array(items) => {
            items.iter().take(MEMBERS_MAX).map(|item| shortened(item, depth + 1)).collect()
        }
        Value::Object(members) => {
            let kept = members.iter().take(MEMBERS_MAX).map(|(name, value)| {
                let value = match name.as_str() {
                    VALUES => without_values(value),
                    _ => shortened(value, depth + 1),
                };
                (text(name), value)
            });
            Value::Object(kept.collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// Returns the names of values, without what they are.
fn without_values(values: &Value) -> Value {
    let names = values.as_object().into_iter().flatten().take(MEMBERS_MAX);
    Value::Object(names.map(|(name, _)| (text(name), Value::Null)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn link_values_are_not_kept_and_nothing_has_any_size() {
        let link =
            json!({"actor_id": "M", "values": {"address": "0.0.0.0:80", "password": "hunter2"}});
        assert_eq!(
            data(&link),
            json!({"actor_id": "M", "values": {"address": null, "password": null}})
        );
        assert_eq!(data(&json!({"values": "hunter2"})), json!({"values": {}}));
        let long = data(&json!({"error": "é".repeat(5000)}));
        assert!(long["error"].as_str().unwrap().len() < TEXT_BYTES_MAX + 8);
        let flood: Vec<String> = (0..24).map(|_| "x".repeat(600)).collect();
        assert_eq!(data(&json!({ "all": flood })), Value::Null);
        assert_eq!(data(&json!([[[[["deep"]]]]])), json!([[[[null]]]]));
    }
}
