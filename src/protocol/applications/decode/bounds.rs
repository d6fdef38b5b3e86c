//! How much there may be of what hosts compare in a new manifest.
//!
//! Only [`decode`](super::decode) asks for it: a manifest that is stored or runs with more stays of
//! use, or what was deployed before there were bounds could not be kept any more.

use super::{DAEMONSCALER, Raw, RawTrait, Reader, SPREADSCALER, Violation, Violations, shown};

/// Components of a manifest: hosts compare each with the others.
pub(super) const COMPONENTS_MAX: usize = 1024;
/// Bytes of the name of a component, which is part of much that is said of it.
pub(super) const NAME_BYTES_MAX: usize = 256;
/// Rules of a spreadscaler, and of a daemonscaler, where each is compared with the others.
pub(super) const RULES_MAX: usize = 1024;
pub(super) const COMPARED_RULES_MAX: usize = 256;
/// Labels that are looked up for all these comparisons of a manifest: some hundredths of a second.
pub(super) const LOOKUPS_MAX: usize = 512 * 1024;
/// Labels that a rule asks for; a host has no more.
pub(super) const REQUIREMENTS_MAX: usize = 64;

impl Raw {
    /// Tells in what a manifest has more than a new one may have.
    pub(super) fn beyond(&self) -> Violations {
        let components = &self.spec.components;
        let found = components.len();
        if found > COMPONENTS_MAX {
            return Violations(vec![Violation {
                path: "spec/components/".into(),
                reason: format!(
                    "there are {found} components, and an application has up to {COMPONENTS_MAX}; make several of it"
                ),
            }]);
        }
        let mut reader = Reader::default();
        let mut lookups = 0;
        for (index, component) in components.iter().enumerate() {
            reader.at_component(index, &component.name);
            let place = reader.place.clone();
            if component.name.len() > NAME_BYTES_MAX {
                reader.refuse(format!("its name has more than {NAME_BYTES_MAX} bytes"));
            }
            for (index, one) in component.traits.iter().flatten().enumerate() {
                reader.at_trait(&place, index, &one.kind);
                beyond_in_rules(&mut reader, one);
                lookups += self::lookups(one);
            }
        }
        if reader.violations.is_empty() && lookups > LOOKUPS_MAX {
            reader.place = "all daemonscalers together".into();
            reader.refuse(format!(
                "to compare their rules takes {lookups} look-ups of labels, and may take {LOOKUPS_MAX}; write fewer rules, or \
                 rules for fewer labels"
            ));
        }
        Violations(reader.violations)
    }
}

fn beyond_in_rules(reader: &mut Reader, one: &RawTrait) {
    let rules_max = match &*one.kind {
        SPREADSCALER => RULES_MAX,
        DAEMONSCALER => COMPARED_RULES_MAX,
        _ => return,
    };
    let rules = &one.properties.spread;
    if rules.len() > rules_max {
        let found = rules.len();
        return reader.refuse(format!("`spread` has {found} rules, and there may be {rules_max}"));
    }
    for rule in rules.iter().filter(|rule| rule.requirements.len() > REQUIREMENTS_MAX) {
        reader.refuse(format!(
            "rule {:?} asks for more than {REQUIREMENTS_MAX} labels, and no host has more",
            shown(&rule.name)
        ));
    }
}

/// Returns how many labels are looked up at most when each rule of a daemonscaler is compared with
/// those behind it.
fn lookups(one: &RawTrait) -> usize {
    if one.kind != DAEMONSCALER {
        return 0;
    }
    let rules = one.properties.spread.iter().rev().enumerate();
    rules.map(|(behind, rule)| behind * rule.requirements.len().max(1)).sum()
}
