//! What this host announced and the bucket does not have yet: claims and image references of what it started.
//!
//! Such an entry counts on this host at once, so that actors can be called by their aliases while the bucket is away. It
//! is laid over what the bucket says until it is written there, or until somebody else's entry takes its place: newer
//! claims of the same actor, or a later start of the same reference.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::table::{Claims, Table};
use crate::store::{
    Entry, Expect,
    keys::{self, Key},
};

/// After so many lost races an entry is written whatever the bucket has: it may be something no host can read.
const CONFLICTS_MAX: u32 = 5;

/// Entries to be written, by key.
#[derive(Default)]
pub(super) struct Unwritten(BTreeMap<String, Waiting>);

struct Waiting {
    value: Bytes,
    /// The revision of the bucket this entry replaces; later ones are other hosts'.
    base: u64,
    conflicts: u32,
}

/// One write to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub key: String,
    pub value: Bytes,
    pub expect: Expect,
}

impl Unwritten {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes an entry on and returns it as the table is to have it.
    pub fn add(&mut self, key: String, value: Bytes, table: &Table) -> Entry {
        let base = table.revision_of(&key);
        self.0.insert(key.clone(), Waiting { value: value.clone(), base, conflicts: 0 });
        Entry { key, value, revision: base }
    }

    /// What the table is to have when the bucket says this: the bucket's entry, or this host's newer one.
    pub fn laid_over(&mut self, theirs: Entry) -> Entry {
        let Some(ours) = self.0.get_mut(&theirs.key) else { return theirs };
        let is_older = || match Key::parse(&theirs.key) {
            Key::Claims(_) => revision(&theirs.value) < revision(&ours.value),
            _ => false,
        };
        if theirs.revision > ours.base && !is_older() {
            self.0.remove(&theirs.key);
            return theirs;
        }
        ours.base = theirs.revision;
        Entry { value: ours.value.clone(), ..theirs }
    }

    /// What is left of an entry that the bucket does not have (any more).
    pub fn without(&mut self, key: &str) -> Option<Entry> {
        let ours = self.0.get_mut(key)?;
        ours.base = 0;
        Some(Entry { key: key.to_owned(), value: ours.value.clone(), revision: 0 })
    }

    /// The keys of all entries.
    pub fn keys(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// Notes that somebody else was faster.
    pub fn lost(&mut self, key: &str) {
        if let Some(ours) = self.0.get_mut(key) {
            ours.conflicts += 1;
        }
    }

    /// The writes to be tried now, all or some.
    pub fn attempts(&self, only: Option<&[String]>) -> Vec<Attempt> {
        let wanted = self.0.iter().filter(|(key, _)| only.is_none_or(|only| only.contains(key)));
        wanted.map(|(key, ours)| ours.attempt(key)).collect()
    }
}

impl Waiting {
    fn attempt(&self, key: &str) -> Attempt {
        let is_checked = matches!(Key::parse(key), Key::Claims(_)) && self.conflicts < CONFLICTS_MAX;
        let expect = if is_checked { Expect::Revision(self.base) } else { Expect::Anything };
        Attempt { key: key.to_owned(), value: self.value.clone(), expect }
    }
}

/// The revision inside claims; what cannot be read is older than everything.
fn revision(claims: &Bytes) -> Option<u64> {
    Claims::parse(claims)?.revision.parse().ok()
}

/// The entries by which a started actor or provider is known: its claims, and what its reference led to. Without those
/// that `table` has already: a new revision would only change whose call alias counts as the older one.
pub fn entries_of(claims: &Claims, reference: Option<&str>, table: &Table) -> Vec<(String, Bytes)> {
    let mut entries = Vec::new();
    if table.claims(&claims.subject).is_none_or(|known| **known != *claims) {
        entries.push((keys::claims(&claims.subject), claims.bucket_value()));
    }
    if let Some(reference) = reference
        && table.public_key_of(reference).is_none_or(|known| **known != *claims.subject)
    {
        let value = serde_json::json!({"oci_url": reference, "public_key": claims.subject});
        entries.push((keys::reference(reference), value));
    }
    entries.into_iter().map(|(key, value)| (key, Bytes::from(value.to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(revision: u64, name: &str) -> Bytes {
        let claims =
            Claims { subject: "MX".into(), revision: revision.to_string(), name: name.into(), ..Claims::default() };
        claims.bucket_value().to_string().into()
    }

    fn theirs(value: Bytes, revision: u64) -> Entry {
        Entry { key: keys::claims("MX"), value, revision }
    }

    fn known(value: Bytes, revision: u64) -> Table {
        let mut table = Table::default();
        table.put(&theirs(value, revision)).unwrap();
        table
    }

    #[test]
    fn an_entry_stays_over_older_claims_and_gives_way_to_those_of_others() {
        let mut unwritten = Unwritten::default();
        let ours = unwritten.add(keys::claims("MX"), claims(3, "ours"), &known(claims(2, "old"), 7));
        assert_eq!(ours.revision, 7);
        // What it replaces, and older claims that came meanwhile.
        for revision in [7, 9] {
            let shown = unwritten.laid_over(theirs(claims(2, "old"), revision));
            assert_eq!(shown, theirs(claims(3, "ours"), revision));
        }
        assert_eq!(unwritten.attempts(None)[0].expect, Expect::Revision(9));
        // Its own echo, or the same by another host.
        let echo = theirs(claims(3, "ours"), 10);
        assert_eq!(unwritten.laid_over(echo.clone()), echo);
        assert!(unwritten.is_empty());
    }

    #[test]
    fn a_deleted_key_is_written_anew_and_lost_races_end() {
        let mut unwritten = Unwritten::default();
        let key = keys::claims("MX");
        unwritten.add(key.clone(), claims(1, "ours"), &known(claims(1, "old"), 7));
        assert_eq!(unwritten.without(&key).map(|entry| entry.revision), Some(0));
        assert_eq!(unwritten.attempts(None)[0].expect, Expect::Revision(0));
        for _ in 0..CONFLICTS_MAX {
            unwritten.lost(&key);
        }
        assert_eq!(unwritten.attempts(None)[0].expect, Expect::Anything);
        assert!(unwritten.attempts(Some(&[])).is_empty());
    }

    #[test]
    fn what_is_known_is_not_written_again() {
        let claims = Claims { subject: "MX".into(), name: "x".into(), ..Claims::default() };
        let mut table = Table::default();
        let entries = entries_of(&claims, Some("r"), &table);
        assert_eq!(entries.len(), 2);
        for (key, value) in entries {
            table.put(&Entry { key, value, revision: 1 }).unwrap();
        }
        assert!(entries_of(&claims, Some("r"), &table).is_empty());
        assert_eq!(entries_of(&claims, Some("other"), &table).len(), 1);
    }
}
