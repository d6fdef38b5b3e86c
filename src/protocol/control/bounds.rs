//! How much a request may ask a host to keep, or to say about itself.
//!
//! A host keeps what it is told: annotations, references, link values, logins. All of it comes from
//! others, and much of it is part of what the host answers and announces. So everything has a
//! bound, checked here before anything is done, and a request beyond it is refused with the reason.
//! Labels have theirs in `config::labels`.

use super::types::Pairs;
use crate::links::LinkDefinition;

/// Annotations of one start.
const ANNOTATIONS_MAX: usize = 64;
/// Bytes of all annotations of one start together.
const ANNOTATION_BYTES_MAX: usize = 8 * 1024;
/// Constraints of an auction; a host has no more labels than this.
const CONSTRAINTS_MAX: usize = 64;
/// Bytes of all constraints of an auction together.
const CONSTRAINT_BYTES_MAX: usize = 128 * 1024;
/// Bytes of an image reference or a path: as long as paths may be.
const REFERENCE_BYTES_MAX: usize = 4096;
/// Bytes of what a provider is configured with at its start.
const CONFIGURATION_BYTES_MAX: usize = 512 * 1024;
/// Values of one link.
const LINK_VALUES_MAX: usize = 512;
/// Bytes of all values of one link together; certificates and whole configurations are among them.
const LINK_BYTES_MAX: usize = 512 * 1024;
/// Bytes of the id of an actor, of a contract or of a link name.
pub const NAME_BYTES_MAX: usize = 256;
/// Links of a lattice; a host puts no more.
pub const LINKS_MAX: usize = 250_000;

/// Why a request is refused before anything is done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMuch {
    #[error("the request has {found} {what}, a host takes {max}")]
    Entries { what: &'static str, found: usize, max: usize },
    #[error("{what} of the request have {found} bytes, a host takes {max}")]
    Bytes { what: &'static str, found: usize, max: usize },
    #[error(
        "the lattice has {0} links already, and hosts put no more than {LINKS_MAX}; delete those of actors that are gone"
    )]
    Links(usize),
}

/// Checks the annotations of a start.
fn annotations(annotations: &Pairs) -> Result<(), TooMuch> {
    pairs("annotations", annotations, ANNOTATIONS_MAX, ANNOTATION_BYTES_MAX)
}

/// Checks the constraints of an auction; what is beyond the bounds no host meets.
pub fn constraints(constraints: &Pairs) -> Result<(), TooMuch> {
    pairs("constraints", constraints, CONSTRAINTS_MAX, CONSTRAINT_BYTES_MAX)
}

/// Checks an image reference.
pub fn reference(reference: &str) -> Result<(), TooMuch> {
    bytes("the characters of the reference", reference.len(), REFERENCE_BYTES_MAX)
}

/// Checks a name that is kept, such as that of one who follows a log.
pub fn name(name: &str) -> Result<(), TooMuch> {
    bytes("the characters of a name", name.len(), NAME_BYTES_MAX)
}

/// Checks a reference and the annotations that come with it.
pub fn start(reference: &str, annotations: &Pairs) -> Result<(), TooMuch> {
    self::reference(reference)?;
    self::annotations(annotations)
}

/// Checks what a provider is to be configured with.
pub fn configuration(text: Option<&str>) -> Result<(), TooMuch> {
    bytes("the characters of the configuration", text.map_or(0, str::len), CONFIGURATION_BYTES_MAX)
}

/// Checks the sizes of a link definition, and whether there is room for it among `others`.
pub fn link(link: &LinkDefinition, others: usize) -> Result<(), TooMuch> {
    link_sizes(link)?;
    if others >= LINKS_MAX { Err(TooMuch::Links(others)) } else { Ok(()) }
}

/// Checks the sizes of a link definition, which may have come past every host: those who may write
/// to the bucket of the metadata put there what they like.
pub fn link_sizes(link: &LinkDefinition) -> Result<(), TooMuch> {
    for (what, name) in [
        ("the characters of actor_id", &link.actor_id),
        ("the characters of provider_id", &link.provider_id),
        ("the characters of contract_id", &link.contract_id),
        ("the characters of link_name", &link.link_name),
    ] {
        bytes(what, name.len(), NAME_BYTES_MAX)?;
    }
    pairs("link values", &link.values, LINK_VALUES_MAX, LINK_BYTES_MAX)
}

fn pairs(what: &'static str, pairs: &Pairs, max: usize, bytes_max: usize) -> Result<(), TooMuch> {
    if pairs.len() > max {
        return Err(TooMuch::Entries { what, found: pairs.len(), max });
    }
    bytes(what, pairs.iter().map(|(key, value)| key.len() + value.len()).sum(), bytes_max)
}

fn bytes(what: &'static str, found: usize, max: usize) -> Result<(), TooMuch> {
    if found > max { Err(TooMuch::Bytes { what, found, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs_of(count: usize, bytes: usize) -> Pairs {
        (0..count).map(|number| (format!("k{number}"), "v".repeat(bytes))).collect()
    }

    #[test]
    fn what_people_send_is_taken_and_what_would_fill_a_host_is_not() {
        assert_eq!(start("registry.example/echo:1", &pairs_of(20, 60)), Ok(()));
        for (reference, annotations) in [
            ("r".repeat(REFERENCE_BYTES_MAX + 1), Pairs::new()),
            ("r".into(), pairs_of(ANNOTATIONS_MAX + 1, 1)),
            ("r".into(), pairs_of(1, ANNOTATION_BYTES_MAX)),
        ] {
            assert!(start(&reference, &annotations).is_err());
        }
        assert_eq!(configuration(None), Ok(()));
        assert!(configuration(Some(&"x".repeat(CONFIGURATION_BYTES_MAX + 1))).is_err());
        assert!(constraints(&pairs_of(CONSTRAINTS_MAX + 1, 1)).is_err());
    }

    #[test]
    fn a_link_has_bounded_names_and_values_and_so_has_their_number() {
        let with = |values: Pairs| LinkDefinition {
            actor_id: "M".into(),
            provider_id: "V".into(),
            link_name: "default".into(),
            contract_id: "acme:thing".into(),
            values,
        };
        assert_eq!(link(&with(pairs_of(20, 10_000)), 100_000), Ok(()));
        assert!(link(&with(pairs_of(LINK_VALUES_MAX + 1, 1)), 0).is_err());
        assert!(link(&with(pairs_of(2, LINK_BYTES_MAX / 2)), 0).is_err());
        assert!(link(&with(Pairs::new()), LINKS_MAX).is_err());
        let long =
            LinkDefinition { contract_id: "c".repeat(NAME_BYTES_MAX + 1), ..with(Pairs::new()) };
        assert!(link(&long, 0).is_err());
    }
}
