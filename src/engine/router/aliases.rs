//! Which actor has a call alias.
//!
//! Anybody may sign an actor with an alias that another one has already, and claims stay in the
//! metadata when their actor is gone. So an alias is not looked up there alone:
//!
//! * The first claimant that runs is its *holder*, and keeps it while it runs anywhere, whatever
//!   the metadata says by then.
//! * When it runs nowhere, the newest claimant that runs takes it. That it runs nowhere is proven
//!   by a call that nobody listens for: a message of another host, or its silence, may be forged or
//!   late. A holder that only ran on hosts that are lost needs no such proof.
//! * An actor that takes it over is known to run, or has answered the call that came to it.
//!
//! Every host decides this for the calls that begin on it. An alias that moves is reported in the
//! log and as an event, with both issuers where they differ; so is the start of an actor whose
//! alias is another one's.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tracing::warn;

use crate::{events::Publisher, peers::Presence, rpc::call::CallError};
use lattice_protocol::{
    events::Event,
    links::{Claimant, Contest, Table},
};

/// Holders that are kept in mind; beyond it those that run no longer are forgotten.
const HOLDERS_MAX: usize = 65_536;

/// The holders of call aliases, as this host knows them.
#[derive(Default)]
pub(super) struct Aliases {
    // Held for a few lines, never across an await.
    holders: Mutex<HashMap<String, Claimant>>,
    events: OnceLock<Publisher>,
}

impl Aliases {
    /// Tells of aliases that move from now on.
    pub fn tell(&self, events: Publisher) {
        // A second publisher of one host would say the same.
        let _ = self.events.set(events);
    }

    /// The actor that a call of an alias goes to.
    pub fn owner(
        &self,
        table: &Table,
        alias: &str,
        presence: impl Fn(&str) -> Presence,
    ) -> Option<Arc<str>> {
        let holder = self.holder(alias);
        if let Some(holder) = &holder
            && presence(&holder.actor_id) == Presence::Runs
        {
            return Some(Arc::clone(&holder.actor_id));
        }
        let holder_id = holder.as_ref().map(|holder| &holder.actor_id);
        let choice = choose(holder_id, &table.claimants(alias), &presence)?;
        if presence(&choice) == Presence::Runs {
            self.record(table, alias, &choice, &presence);
        }
        Some(choice)
    }

    /// The actor that a call of an alias would go to; nothing is noted.
    pub fn expected_owner(
        &self,
        table: &Table,
        alias: &str,
        presence: impl Fn(&str) -> Presence,
    ) -> Option<Arc<str>> {
        let holder = self.holder(alias).map(|holder| holder.actor_id);
        choose(holder.as_ref(), &table.claimants(alias), &presence)
    }

    /// Notes that an actor which runs answers to an alias from now on.
    pub fn record(
        &self,
        table: &Table,
        alias: &str,
        actor_id: &Arc<str>,
        presence: impl Fn(&str) -> Presence,
    ) {
        let new = Claimant::known(table, actor_id);
        let mut holders = self.holders.lock();
        if holders.len() >= HOLDERS_MAX && !holders.contains_key(alias) {
            holders.retain(|_, holder| presence(&holder.actor_id) == Presence::Runs);
            if holders.len() >= HOLDERS_MAX {
                return;
            }
        }
        let old = holders.insert(alias.to_owned(), new.clone());
        drop(holders);
        if let Some(old) = old.filter(|old| old.actor_id != new.actor_id) {
            self.moved(alias, &old, &new);
        }
    }

    /// Takes an actor on that starts here, and says whether others claim its alias.
    pub fn claim(
        &self,
        table: &Table,
        alias: &str,
        claimant: Claimant,
        presence: impl Fn(&str) -> Presence,
    ) -> Option<Contest> {
        let others: Vec<Arc<str>> = table
            .claimants(alias)
            .into_iter()
            .filter(|other| *other != claimant.actor_id)
            .collect();
        let holder = self.holder(alias).filter(|holder| holder.actor_id != claimant.actor_id);
        let running = match &holder {
            Some(holder) if presence(&holder.actor_id) == Presence::Runs => Some(holder.clone()),
            Some(_) => None,
            None => others
                .iter()
                .find(|other| presence(other) == Presence::Runs)
                .map(|other| Claimant::known(table, other)),
        };
        // A holder that seems to be gone keeps it until a call proves that.
        let heir = running.as_ref().unwrap_or(&claimant);
        if holder.is_none() {
            self.holders.lock().insert(alias.to_owned(), heir.clone());
        }
        let other_runs = running.is_some();
        let other = running
            .or(holder)
            .or_else(|| others.last().map(|other| Claimant::known(table, other)))?;
        let contest = Contest { alias: alias.to_owned(), other, other_runs, claimant };
        if let Some(events) = self.events.get() {
            events.publish(Event::CallAliasContested {
                contest: contest.clone(),
                message: contest.to_string(),
            });
        }
        Some(contest)
    }

    fn moved(&self, alias: &str, old: &Claimant, new: &Claimant) {
        let issuers =
            if old.issuer == new.issuer { "" } else { "; they are signed by different accounts" };
        warn!(
            alias,
            "call alias {alias} was that of {old}, which runs nowhere now; it is that of {new} from here on{issuers}"
        );
        if let Some(events) = self.events.get() {
            events.publish(Event::CallAliasMoved {
                alias: alias.to_owned(),
                from: old.clone(),
                to: new.clone(),
            });
        }
    }

    fn holder(&self, alias: &str) -> Option<Claimant> {
        self.holders.lock().get(alias).cloned()
    }
}

/// The actor that has an alias; `claimants` are in the order in which they came.
fn choose(
    holder: Option<&Arc<str>>,
    claimants: &[Arc<str>],
    presence: impl Fn(&str) -> Presence,
) -> Option<Arc<str>> {
    let runs = |id: &&Arc<str>| presence(id) == Presence::Runs;
    match holder {
        None => claimants.iter().find(runs).or(claimants.first()).cloned(),
        Some(holder) => match presence(holder) {
            Presence::Runs | Presence::Unseen => Some(Arc::clone(holder)),
            Presence::Lost => Some(claimants.iter().rev().find(runs).unwrap_or(holder).clone()),
        },
    }
}

/// The actor that takes an alias when nobody listens for `gone`: the newest claimant that runs, or
/// the newest that may run on a host of earlier years, which does not tell.
pub(super) fn heir(
    gone: &str,
    claimants: &[Arc<str>],
    presence: impl Fn(&str) -> Presence,
) -> Option<Arc<str>> {
    let others = || claimants.iter().rev().filter(|id| ***id != *gone);
    others().find(|id| presence(id) == Presence::Runs).or_else(|| others().next()).cloned()
}

/// Says whether a call that an heir got in place of another actor proves that it runs: it has
/// answered, or is known to run. Of one whose host does not tell, a call that was refused here or
/// had no answer shows nothing.
pub(super) fn is_proven(result: &Result<Bytes, CallError>, presence: Presence) -> bool {
    presence == Presence::Runs || matches!(result, Ok(_) | Err(CallError::Callee(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::{
        links::Claims,
        store::{Entry, keys},
    };

    fn ids(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    /// Names in capitals run, those that begin with a `~` are lost.
    fn presence(id: &str) -> Presence {
        match id {
            id if id.starts_with('~') => Presence::Lost,
            id if id.chars().all(|letter| letter.is_ascii_uppercase()) => Presence::Runs,
            _ => Presence::Unseen,
        }
    }

    #[test]
    fn the_first_claimant_that_runs_keeps_an_alias_and_the_newest_inherits_it() {
        for (holder, claimants, owner) in [
            (None, &["a", "B", "C"][..], Some("B")),
            (None, &["a", "b"], Some("a")),
            (None, &[], None),
            (Some("A"), &["B", "A", "C"], Some("A")),
            (Some("A"), &[], Some("A")),
            (Some("A"), &["B"], Some("A")),
            // Only a call can prove that it is gone.
            (Some("a"), &["a", "B"], Some("a")),
            (Some("a"), &["B"], Some("a")),
            (Some("~a"), &["~a", "B", "C", "d"], Some("C")),
            (Some("~a"), &["~a", "b"], Some("~a")),
        ] {
            let chosen = choose(holder.map(Arc::from).as_ref(), &ids(claimants), presence);
            assert_eq!(chosen.as_deref(), owner, "{holder:?} {claimants:?}");
        }
        for (gone, claimants, expected) in [
            ("a", &["a", "B", "C", "d"][..], Some("C")),
            ("a", &["a", "b", "c"], Some("c")),
            ("a", &["a"], None),
            ("a", &[], None),
        ] {
            assert_eq!(heir(gone, &ids(claimants), presence).as_deref(), expected, "{claimants:?}");
        }
    }

    #[test]
    fn an_heir_that_neither_answers_nor_is_known_to_run_does_not_take_the_alias() {
        use crate::peers::Presence::{Lost, Runs, Unseen};
        let late = || CallError::TimedOut {
            subject: "s".into(),
            lattice: "default".into(),
            waited_ms: 2_000,
        };
        for (result, presence, expected) in [
            (Ok(Bytes::new()), Unseen, true),
            (Err(CallError::Callee("no such page".into())), Unseen, true),
            (Err(late()), Unseen, false),
            (Err(late()), Lost, false),
            (Err(late()), Runs, true),
            (Err(CallError::TooDeep), Unseen, false),
            (Err(CallError::Transport("not connected".into())), Unseen, false),
            (Err(CallError::Denied { request_id: "1".into(), message: None }), Unseen, false),
        ] {
            assert_eq!(is_proven(&result, presence), expected, "{result:?}, {presence:?}");
        }
    }

    fn table(claimants: &[(&str, &str)]) -> Table {
        let mut table = Table::default();
        for (revision, (subject, issuer)) in (1..).zip(claimants) {
            let claims = Claims {
                subject: (*subject).into(),
                issuer: (*issuer).into(),
                call_alias: "a/b".into(),
                ..Claims::default()
            };
            let value = claims.bucket_value().to_string().into();
            table.put(&Entry { key: keys::claims(subject), value, revision }).unwrap();
        }
        table
    }

    #[test]
    fn an_alias_stays_with_an_actor_that_runs_when_its_claims_are_deleted() {
        let aliases = Aliases::default();
        let both = table(&[("OWNER", "AONE"), ("EVIL", "ATWO")]);
        assert_eq!(aliases.owner(&both, "a/b", presence).as_deref(), Some("OWNER"));
        let forged = table(&[("EVIL", "ATWO")]);
        assert_eq!(aliases.owner(&forged, "a/b", presence).as_deref(), Some("OWNER"));
        let only_evil_runs =
            |id: &str| if id == "EVIL" { Presence::Runs } else { Presence::Unseen };
        // A forged goodbye is no proof either.
        assert_eq!(aliases.owner(&forged, "a/b", only_evil_runs).as_deref(), Some("OWNER"));
        aliases.record(&forged, "a/b", &Arc::from("EVIL"), only_evil_runs);
        assert_eq!(
            aliases.owner(&both, "a/b", presence).as_deref(),
            Some("EVIL"),
            "it runs, so it keeps it now"
        );
    }

    #[test]
    fn the_start_of_a_second_claimant_names_the_first_and_both_accounts() {
        let claim = |aliases: &Aliases, others: &[(&str, &str)]| {
            let claimant = Claimant { actor_id: "NEW".into(), issuer: "ATWO".into() };
            aliases.claim(&table(others), "a/b", claimant, presence)
        };
        assert_eq!(claim(&Aliases::default(), &[]), None);
        assert_eq!(claim(&Aliases::default(), &[("NEW", "ATWO")]), None);
        let told = claim(&Aliases::default(), &[("FIRST", "AONE")]).unwrap().to_string();
        for part in
            ["NEW (signed by ATWO)", "FIRST (signed by AONE)", "which runs", "different accounts"]
        {
            assert!(told.contains(part), "{told}");
        }
        let aliases = Aliases::default();
        let told = claim(&aliases, &[("first", "ATWO")]).unwrap().to_string();
        assert!(
            told.contains("host claims forget first") && !told.contains("different accounts"),
            "{told}"
        );
        assert_eq!(
            aliases.owner(&table(&[("first", "ATWO")]), "a/b", presence).as_deref(),
            Some("NEW")
        );
    }
}
