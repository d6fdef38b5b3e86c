//! When claims cease to count: one judgement for the doctor, the page and the listing.
//!
//! An actor whose claims are over goes on running, but every call of it and to it is refused, and
//! it cannot be started again. Hosts tell when the claims of what they run expire.

use std::collections::BTreeMap;

use super::lattice::{Lattice, ours};
use lattice_protocol::control::{
    probe::health::{Health, Request},
    types::HostReply,
};

/// Claims that expire sooner are worth a warning, in seconds.
pub const SOON_SECS: u64 = 14 * 86_400;

/// Claims that are over, or will be soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiring {
    pub is_over: bool,
    /// A sentence without its full stop.
    pub text: String,
}

/// Says of claims of `who` that are over or will be soon what that means. Times are in seconds
/// since 1970.
pub fn expiring(who: &str, expires: u64, now: u64) -> Option<Expiring> {
    if expires < now {
        let text = format!(
            "the claims of {who} expired {} ago: its calls are refused, and it cannot be started again",
            span(now - expires)
        );
        return Some(Expiring { is_over: true, text });
    }
    let left = expires - now;
    (left < SOON_SECS).then(|| Expiring {
        is_over: false,
        text: format!("the claims of {who} expire in {}", span(left)),
    })
}

/// A time as people say it.
pub fn span(seconds: u64) -> String {
    match seconds {
        1 => "one second".to_owned(),
        ..120 => format!("{seconds} seconds"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// When the claims of what a host runs expire, by public key.
pub fn of_health(health: &Health) -> impl Iterator<Item = (&str, u64)> {
    let actors = health.actors.iter().map(|actor| (actor.id.as_str(), actor.expires));
    let providers =
        health.providers.iter().map(|provider| (provider.id.as_str(), provider.expires));
    actors.chain(providers).filter_map(|(id, expires)| Some((id, expires?)))
}

/// Asks hosts when the claims of what they run expire; the soonest counts.
pub async fn ask(lattice: &Lattice, hosts: &[HostReply]) -> BTreeMap<String, u64> {
    let answers = lattice.ask_each(ours(hosts), &Request::default()).await;
    let mut all = BTreeMap::new();
    for health in answers.into_iter().filter_map(|(_, health)| health.ok()) {
        for (id, expires) in of_health(&health) {
            let soonest = all.entry(id.to_owned()).or_insert(expires);
            *soonest = expires.min(*soonest);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_told_when_they_are_over_or_will_be_within_two_weeks() {
        const NOW: u64 = 100 * 86_400;
        for (expires, expected) in [
            (NOW - 7, Some((true, "7 seconds ago"))),
            (NOW, Some((false, "in 0 seconds"))),
            (NOW + 13 * 86_400, Some((false, "in 13 days"))),
            (NOW + 14 * 86_400, None),
        ] {
            let found = expiring("echo", expires, NOW);
            match (&found, expected) {
                (Some(found), Some((is_over, words))) => {
                    assert!(found.is_over == is_over && found.text.contains(words), "{found:?}");
                }
                (found, expected) => assert!(found.is_none() && expected.is_none(), "{found:?}"),
            }
        }
    }
}
