//! How much claims may say.
//!
//! The signer of code decides what its claims say, and every host tells that: in events, in the
//! metadata of the lattice, and in answers, each of which is one message. So there are bounds, far
//! beyond the claims of real code: for signing, for starting, and for what stands in the bucket.

use crate::control::bounds::NAME_BYTES_MAX;

/// Capabilities of an actor, and its tags.
pub const ITEMS_MAX: usize = 64;
/// Bytes of all claims of an actor or a provider; the schema of link values is among them.
pub const CLAIMS_BYTES_MAX: usize = 64 << 10;

/// Why claims are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    #[error("a text of the claims ({what}) has {found} bytes, hosts take {NAME_BYTES_MAX}")]
    Text { what: &'static str, found: usize },
    #[error("the claims have {found} {what}, hosts take {ITEMS_MAX}")]
    Items { what: &'static str, found: usize },
    #[error("the claims have {found} bytes, hosts take {CLAIMS_BYTES_MAX}")]
    Whole { found: usize },
}

/// Checks texts, lists of texts, and the bytes of a schema.
pub fn check(
    texts: &[(&'static str, &str)],
    lists: &[(&'static str, &[String])],
    schema: Option<&str>,
) -> Result<(), TooLarge> {
    let mut sum = schema.map_or(0, str::len);
    for &(what, text) in texts {
        sum += checked(what, text)?;
    }
    for &(what, items) in lists {
        // Entries of the bucket separate them by commas.
        let found = items.iter().map(|item| item.split(',').count()).sum();
        if found > ITEMS_MAX {
            return Err(TooLarge::Items { what, found });
        }
        for item in items {
            sum += checked(what, item)?;
        }
    }
    if sum > CLAIMS_BYTES_MAX { Err(TooLarge::Whole { found: sum }) } else { Ok(()) }
}

/// Returns the bytes of a text that is not too long.
fn checked(what: &'static str, text: &str) -> Result<usize, TooLarge> {
    let found = text.len();
    if found > NAME_BYTES_MAX { Err(TooLarge::Text { what, found }) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_claims_of_real_code_are_taken_and_what_would_fill_messages_is_not() {
        let item = |bytes: usize| "x".repeat(bytes);
        for (name, items, schema, is_taken) in [
            (item(NAME_BYTES_MAX), vec![item(NAME_BYTES_MAX); ITEMS_MAX], 30_000, true),
            (item(NAME_BYTES_MAX + 1), vec![], 0, false),
            (item(1), vec![item(NAME_BYTES_MAX + 1)], 0, false),
            (item(1), vec![item(1); ITEMS_MAX + 1], 0, false),
            (item(1), vec![",".repeat(ITEMS_MAX)], 0, false),
            (item(1), vec![], CLAIMS_BYTES_MAX, false),
        ] {
            let schema = item(schema);
            let checked =
                check(&[("name", name.as_str())], &[("tags", items.as_slice())], Some(&schema));
            assert_eq!(checked.is_ok(), is_taken, "{checked:?}");
        }
    }
}
