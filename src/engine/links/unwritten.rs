//! Entries that this host announced and the bucket does not have yet: claims and image references
//! of the actors and providers it started.
//!
//! Such an entry counts on this host at once, so that actors can be called by their aliases while
//! the bucket is away. It is laid over what the bucket says until it is written there, or until
//! somebody else's entry takes its place: anything but what this one replaces, or older claims of
//! the same actor. Contents are compared, not revisions: a bucket that was made anew counts from
//! one again.
//!
//! An entry is only ever written over what this host has seen. After a write that did not work it
//! waits for news of its key, which every snapshot brings, and does without after [`RETRY_AFTER`].

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;

use lattice_base::store::Expect;
use lattice_protocol::{
    links::{
        Claims,
        table::{Content, Table},
    },
    store::{Entry, keys},
};

/// How long an entry waits for news after a write that did not work: a watch that never broke
/// brings none.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Earlier announcements of a key that are remembered, because they may still be on their way to
/// the bucket.
const EARLIER_MAX: usize = 4;

/// Entries to be written, by key.
#[derive(Default)]
pub(super) struct Unwritten(BTreeMap<String, Waiting>);

struct Waiting {
    value: Bytes,
    content: Content,
    /// The contents that this entry replaces; any other content comes from other hosts.
    replaces: Vec<Content>,
    /// The revision of the bucket's entry as it was seen last, 0 if it has none.
    revision: u64,
    /// Counts the news of the key.
    news: u64,
    /// Set after a write that did not work.
    waits_until: Option<Instant>,
}

/// One write to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub key: String,
    pub value: Bytes,
    pub expect: Expect,
    news: u64,
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
        let (replaces, revision) = match self.0.remove(&key) {
            Some(mut earlier) => {
                earlier.replaces.push(earlier.content);
                if earlier.replaces.len() > EARLIER_MAX {
                    earlier.replaces.remove(0);
                }
                (earlier.replaces, earlier.revision)
            }
            None => (table.content_of(&key).into_iter().collect(), table.revision_of(&key)),
        };
        let content = Content::of(&key, &value);
        let waiting = Waiting {
            value: value.clone(),
            content,
            replaces,
            revision,
            news: 0,
            waits_until: None,
        };
        self.0.insert(key.clone(), waiting);
        Entry { key, value, revision }
    }

    /// Returns the entry the table is to have when the bucket has `theirs`: `theirs`, or this
    /// host's.
    pub fn merge_update(&mut self, theirs: Entry) -> Entry {
        let Some(ours) = self.0.get_mut(&theirs.key) else { return theirs };
        let content = Content::of(&theirs.key, &theirs.value);
        if content == ours.content || !ours.is_over(&content) {
            self.0.remove(&theirs.key);
            return theirs;
        }
        ours.on_change(theirs.revision);
        Entry { value: ours.value.clone(), ..theirs }
    }

    /// Returns this host's entry, if there is one, for a key that the bucket does not have (any
    /// more).
    pub fn merge_delete(&mut self, key: &str) -> Option<Entry> {
        let ours = self.0.get_mut(key)?;
        ours.on_change(0);
        Some(Entry { key: key.to_owned(), value: ours.value.clone(), revision: 0 })
    }

    /// The keys of all entries.
    pub fn keys(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// Notes that a write did not work. News that came since it began may be reason enough to try
    /// again at once.
    pub fn failed(&mut self, attempt: &Attempt) {
        if let Some(ours) = self.0.get_mut(&attempt.key)
            && ours.news == attempt.news
        {
            ours.waits_until = Some(Instant::now() + RETRY_AFTER);
        }
    }

    /// Whether some write is to be tried now.
    pub fn is_due(&self) -> bool {
        self.0.values().any(Waiting::is_due)
    }

    /// The writes to be tried now.
    pub fn attempts(&self) -> Vec<Attempt> {
        let due = self.0.iter().filter(|(_, ours)| ours.is_due());
        due.map(|(key, ours)| ours.attempt(key)).collect()
    }

    /// The writes of some keys, whether they are due or not.
    pub fn attempts_of(&self, keys: &[String]) -> Vec<Attempt> {
        let ours = keys.iter().filter_map(|key| Some((key, self.0.get(key)?)));
        ours.map(|(key, ours)| ours.attempt(key)).collect()
    }
}

impl Waiting {
    /// Whether this entry is to take the place of what somebody wrote.
    fn is_over(&self, theirs: &Content) -> bool {
        if self.replaces.contains(theirs) {
            return true;
        }
        match (theirs, &self.content) {
            (Content::Claims(theirs), Content::Claims(ours)) => revision(theirs) < revision(ours),
            // No host can read it.
            (Content::Unreadable, _) => true,
            _ => false,
        }
    }

    fn on_change(&mut self, revision: u64) {
        self.revision = revision;
        self.news += 1;
        self.waits_until = None;
    }

    fn is_due(&self) -> bool {
        self.waits_until.is_none_or(|until| until <= Instant::now())
    }

    fn attempt(&self, key: &str) -> Attempt {
        let expect = Expect::Revision(self.revision);
        Attempt { key: key.to_owned(), value: self.value.clone(), expect, news: self.news }
    }
}

/// Returns the revision inside claims; one that cannot be read is older than all others.
fn revision(claims: &Claims) -> Option<u64> {
    claims.revision.parse().ok()
}

/// The entries by which a started actor or provider is known: its claims, and what its reference
/// led to. Without those that `table` has already: a new revision would only change whose call
/// alias counts as the older one.
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
        let claims = Claims {
            subject: "MX".into(),
            revision: revision.to_string(),
            name: name.into(),
            ..Claims::default()
        };
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
        let ours =
            unwritten.add(keys::claims("MX"), claims(3, "ours"), &known(claims(2, "old"), 7));
        assert_eq!(ours.revision, 7);
        // The content it replaces, and older claims that came meanwhile.
        for revision in [7, 9] {
            let shown = unwritten.merge_update(theirs(claims(2, "old"), revision));
            assert_eq!(shown, theirs(claims(3, "ours"), revision));
        }
        assert_eq!(unwritten.attempts()[0].expect, Expect::Revision(9));
        // Its own echo, or the same by another host.
        let echo = theirs(claims(3, "ours"), 10);
        assert_eq!(unwritten.merge_update(echo.clone()), echo);
        assert!(unwritten.is_empty());
    }

    #[test]
    fn contents_decide_in_a_bucket_made_anew_too() {
        let key = keys::claims("MX");
        let announce = || {
            let mut unwritten = Unwritten::default();
            unwritten.add(key.clone(), claims(3, "ours"), &known(claims(2, "old"), 900));
            unwritten
        };
        // Somebody brought back the content it replaces, under a lower revision.
        let mut unwritten = announce();
        assert_eq!(unwritten.merge_update(theirs(claims(2, "old"), 5)).value, claims(3, "ours"));
        assert_eq!(unwritten.attempts()[0].expect, Expect::Revision(5));
        // Somebody's own entry is newer, whatever its revision.
        let mut unwritten = announce();
        assert_eq!(unwritten.merge_update(theirs(claims(3, "other"), 5)).value, claims(3, "other"));
        assert!(unwritten.attempts().is_empty());
        // An entry that nobody can read is written over; an earlier announcement of this host too.
        let mut unwritten = announce();
        assert_eq!(unwritten.merge_update(theirs("x".into(), 6)).value, claims(3, "ours"));
        unwritten.add(key.clone(), claims(3, "again"), &Table::default());
        assert_eq!(unwritten.merge_update(theirs(claims(3, "ours"), 7)).value, claims(3, "again"));
        assert_eq!(unwritten.attempts()[0].expect, Expect::Revision(7));
    }

    #[test]
    fn a_write_that_failed_is_tried_again_after_news_of_its_key() {
        let mut unwritten = Unwritten::default();
        let key = keys::claims("MX");
        unwritten.add(key.clone(), claims(1, "ours"), &known(claims(1, "old"), 7));
        let attempt = unwritten.attempts().remove(0);
        unwritten.failed(&attempt);
        assert!(!unwritten.is_due() && unwritten.attempts().is_empty());
        // A deleted key is written anew.
        assert_eq!(unwritten.merge_delete(&key).map(|entry| entry.revision), Some(0));
        assert_eq!(unwritten.attempts()[0].expect, Expect::Revision(0));
        // News that came while it was tried counts.
        unwritten.failed(&attempt);
        assert!(unwritten.is_due());
        assert!(unwritten.attempts_of(&[]).is_empty());
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
