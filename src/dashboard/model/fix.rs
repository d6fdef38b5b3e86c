//! The button beside something that needs attention: what a press of it begins.

use serde::Serialize;
use utoipa::ToSchema;

use lattice_engine::providers::builtin;
use lattice_protocol::{control::probe::health::Failure, links::LinkDefinition};

/// A way to mend it at once: the page opens the form of it, filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fix {
    /// Put a link again, with other values.
    PutLink {
        actor_id: String,
        contract_id: String,
        link_name: String,
    },
    StartActor {
        reference: String,
        host_id: String,
    },
    /// Without a host any will do; an empty reference is one that nobody knows.
    StartProvider {
        reference: String,
        link_name: String,
        host_id: Option<String>,
    },
    /// Start on other hosts what ran only on a lost one.
    StartElsewhere {
        host_id: String,
    },
}

impl Fix {
    /// Starts what did not start on a host, there again.
    pub fn of_failure(failure: &Failure, host_id: &str) -> Self {
        let (reference, host_id) = (failure.reference.clone(), host_id.to_owned());
        match failure.kind == "provider" {
            true => Self::StartProvider {
                reference,
                link_name: failure.link_name.clone(),
                host_id: Some(host_id),
            },
            false => Self::StartActor { reference, host_id },
        }
    }

    /// Starts the provider that a link leads to.
    pub fn of_absent(link: &LinkDefinition) -> Self {
        let spec = builtin::by_key(&link.provider_id);
        Self::StartProvider {
            reference: spec.map(|spec| spec.known.reference()).unwrap_or_default(),
            link_name: link.link_name.clone(),
            host_id: None,
        }
    }
}

/// Returns what was said about a start, for a sentence that has named the reference already.
pub fn without_reference(reference: &str, said: &str) -> String {
    if reference.is_empty() {
        return said.to_owned();
    }
    let reason = said.split_once(&format!("{reference}: ")).map_or(said, |(_, reason)| reason);
    let path = reference.strip_prefix("file://").unwrap_or(reference);
    with_it_for(path, &with_it_for(reference, reason))
}

/// Replaces a reference in a text, where it is not the end of a longer one.
fn with_it_for(reference: &str, text: &str) -> String {
    // An empty one is found everywhere, for ever.
    if reference.is_empty() {
        return text.to_owned();
    }
    let mut told = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(reference) {
        let (before, found) = rest.split_at(at);
        told.push_str(before);
        let is_part = told.ends_with(|letter: char| {
            letter.is_alphanumeric() || matches!(letter, '/' | '.' | '-' | '_' | ':')
        });
        told.push_str(if is_part { reference } else { "it" });
        rest = &found[reference.len()..];
    }
    told + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_named_once() {
        for (said, expected) in [
            ("file:///x.wasm: no such file", "no such file"),
            ("pull file:///x.wasm", "pull it"),
            ("start file:///x.wasm: read /x.wasm: no such file", "read it: no such file"),
            ("no room", "no room"),
        ] {
            assert_eq!(without_reference("file:///x.wasm", said), expected);
        }
        assert_eq!(without_reference("", "no room"), "no room");
        let said = without_reference("file://", "start file://: relative path");
        assert_eq!(said, "relative path");
        let said = "image docker.io/library/nosuch:1.0 not pulled; nosuch:1.0 is unknown";
        assert_eq!(
            without_reference("nosuch:1.0", said),
            "image docker.io/library/nosuch:1.0 not pulled; it is unknown"
        );
    }

    #[test]
    fn what_failed_is_started_again_where_it_failed() {
        let mut failure = Failure {
            kind: "provider".into(),
            reference: "x:1".into(),
            link_name: "default".into(),
            ..Failure::default()
        };
        let (reference, link_name) = ("x:1".to_owned(), "default".to_owned());
        let expected = Fix::StartProvider { reference, link_name, host_id: Some("N1".into()) };
        assert_eq!(Fix::of_failure(&failure, "N1"), expected);
        failure.kind = "actor".into();
        let expected = Fix::StartActor { reference: "x:1".into(), host_id: "N1".into() };
        assert_eq!(Fix::of_failure(&failure, "N1"), expected);
    }
}
