//! The last change of a link definition, as hosts note it so that it can be undone.

use serde::{Deserialize, Serialize};

use super::LinkDefinition;

/// A change of the link of one actor, contract and link name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkChange {
    /// When the host stored it, in milliseconds since 1970.
    pub at_ms: u64,
    /// The link before it; `None` if there was none.
    #[serde(default)]
    pub before: Option<LinkDefinition>,
    /// The link after it; `None` if it was deleted.
    #[serde(default)]
    pub after: Option<LinkDefinition>,
}

impl LinkChange {
    /// Whether it is a change of the link that these three name.
    pub fn is_of(&self, actor_id: &str, contract_id: &str, link_name: &str) -> bool {
        let mut sides = self.before.iter().chain(&self.after).peekable();
        sides.peek().is_some() && sides.all(|link| link.is_of(actor_id, contract_id, link_name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_of_a_single_link() {
        let link = |name: &str| {
            Some(LinkDefinition {
                actor_id: "M".into(),
                provider_id: "V".into(),
                link_name: name.into(),
                contract_id: "c".into(),
                values: Default::default(),
            })
        };
        for (before, after, is_it) in [
            (None, link("default"), true),
            (link("default"), None, true),
            (link("default"), link("default"), true),
            (link("other"), link("default"), false),
            (link("other"), None, false),
            (None, None, false),
        ] {
            let change = LinkChange { at_ms: 1, before, after };
            assert_eq!(change.is_of("M", "c", "default"), is_it, "{change:?}");
        }
    }
}
