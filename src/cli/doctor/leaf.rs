//! The way between the NATS server here and the other servers of the lattice.

use super::{
    Finding, Found,
    facts::{Facts, named},
};

/// Leaf node connections tell clients nothing; what is seen is who is reached, and what the hosts
/// on this side say.
pub(super) fn leaf(facts: &Facts) -> Found {
    let mut found = Vec::new();
    if let Some(hub) = &facts.machine.hub {
        found.push(match hub.is_connected {
            true => Finding::ok(format!(
                "the server of this directory is connected to its hub {}",
                hub.name
            )),
            false => Finding::wrong(
                format!("the server of this directory is not connected to its hub {}", hub.name),
                format!(
                    "look at {}; it goes on trying, and what runs here goes on",
                    hub.log.display()
                ),
            ),
        });
    }
    found.extend(domain(facts));
    for (host, told) in facts.told() {
        let store = &told.health.store;
        // One that stands in for the bucket is the check metadata's.
        if store.is_shared && !store.is_reachable {
            found.push(Finding::wrong(
                format!("host {} does not hear from {} any more", named(host), store.place),
                "look at the leaf node connection of its NATS server, and at the server that has the metadata",
            ));
        }
    }
    if found.is_empty() {
        let why = match (&facts.jetstream, &facts.server) {
            (Err(why), _) | (_, Err(why)) => return Err(Finding::skipped(why)),
            _ => "the metadata is kept by the server here; nothing tells of a leaf node connection",
        };
        found.push(Finding::ok(why));
    }
    Ok(found)
}

/// Whether the server with the metadata is reached, if it is another one.
fn domain(facts: &Facts) -> Option<Finding> {
    let jetstream = facts.jetstream.as_ref().ok()?;
    let asked = jetstream.asked_domain.as_deref()?;
    let own = jetstream.own.domain();
    if own == Some(asked) {
        return None;
    }
    // Without JetStream here the domain is somewhere else, or nowhere.
    let here = own.map_or("has no domain".to_owned(), |own| format!("has domain {own}"));
    if jetstream.asked.is_there() {
        return Some(Finding::ok(format!(
            "the server here {here} and reaches the one with {asked}"
        )));
    }
    own?;
    Some(Finding::wrong(
        format!("the server here {here} and does not reach one with domain {asked}"),
        format!(
            "if another machine has {asked}, the leaf node connection is down: look at the logs of this server and of the hub \
             between. Hosts on this side go on, and refuse to change links until it is back"
        ),
    ))
}
