//! Names of actors and providers, and their keys where there are none.

use lattice_protocol::links::Table;

/// How a key is written where there is little room.
pub fn short(key: &str) -> String {
    match (key.get(..4), key.get(key.len().saturating_sub(4)..)) {
        (Some(head), Some(tail)) if key.len() > 12 => format!("{head}…{tail}"),
        _ => key.to_owned(),
    }
}

/// The name in the claims of an actor or a provider, or what is left of its key.
pub fn name_or_short(table: &Table, id: &str) -> String {
    table.claims(id).map_or_else(|| short(id), |claims| claims.name.clone())
}
