//! The desired state of a lattice: what hosts were asked to run, as entries of a bucket of its own.
//!
//! Only hosts of this make know the bucket, so those of other years never meet a key they do not
//! know. An entry that makes a host start something is [`Signed`] with the cluster key by the host
//! that took the command: somebody who may write to the bucket, and has no such key, starts
//! nothing. What is signed are the lattice, the key, a serial number and the value, so an entry
//! moved to another key or another lattice does not count, nor does an older one for a host that
//! has seen the newer.
//!
//! An entry that holds nothing is deleted: that of a host that keeps no starts, and the key of a
//! host that does not renew it any more. What is to run of an application stays, of one that was
//! undeployed as well, so that its serial numbers go on growing; so do its lease, its links and its
//! rollout. A host that is gone for good leaves what was started on it: it may come back. The last
//! changes of links share a fixed number of keys: each is there until one of another link with the
//! same key comes.

pub mod kept;
pub mod signed;

pub use signed::{Authority, Rejected, Signed, Trust};

/// The prefix of the names of buckets of desired state.
pub const BUCKET: &str = "DESIREDDATA_";
const KEPT: &str = "KEPT_";
const APPLICATION: &str = "APP_";
const LEASE: &str = "LEASE_";
const RENEWAL: &str = "HOST_";
const LINKS: &str = "LINKS_";
const ROLLOUT: &str = "ROLLOUT_";
const LINK_CHANGE: &str = "LINKCHANGE_";
/// How much of a link's id the key of its last change has: 4,096 keys in all.
const LINK_CHANGE_DIGITS: usize = 3;

/// A key of the bucket, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// The things started by hand on a host, by the host's id; a [`Signed`] entry.
    Kept(&'a str),
    /// The version of an application that is to run, by its name; a [`Signed`] entry.
    Application(&'a str),
    /// The host that acts for an application, by the application's name.
    Lease(&'a str),
    /// Written again and again by a host that acts for applications, by the host's id.
    Renewal(&'a str),
    /// The links that were put for an application, by its name; a [`Signed`] entry.
    Links(&'a str),
    /// How far a new version of an application has got, by its name; a [`Signed`] entry.
    Rollout(&'a str),
    /// The last change of a link, by the beginning of the link's id; a [`Signed`] entry.
    LinkChange(&'a str),
    /// Somebody else's; left alone.
    Unknown,
}

impl<'a> Key<'a> {
    /// Reads a key.
    pub fn parse(key: &'a str) -> Self {
        if let Some(host) = key.strip_prefix(KEPT) {
            Self::Kept(host)
        } else if let Some(name) = key.strip_prefix(APPLICATION) {
            Self::Application(name)
        } else if let Some(name) = key.strip_prefix(LEASE) {
            Self::Lease(name)
        } else if let Some(host) = key.strip_prefix(RENEWAL) {
            Self::Renewal(host)
        } else if let Some(name) = key.strip_prefix(LINKS) {
            Self::Links(name)
        } else if let Some(name) = key.strip_prefix(ROLLOUT) {
            Self::Rollout(name)
        } else if let Some(begin) = key.strip_prefix(LINK_CHANGE) {
            Self::LinkChange(begin)
        } else {
            Self::Unknown
        }
    }
}

/// Returns the name of the bucket of a lattice.
pub fn bucket(lattice: &str) -> String {
    format!("{BUCKET}{lattice}")
}

/// Returns the key of what was started by hand on a host.
pub fn kept(host_id: &str) -> String {
    format!("{KEPT}{host_id}")
}

/// Returns the key of what is to run of an application.
pub fn application(name: &str) -> String {
    format!("{APPLICATION}{name}")
}

/// Returns the key of the host that acts for an application.
pub fn lease(application: &str) -> String {
    format!("{LEASE}{application}")
}

/// Returns the key that a host renews while it acts.
pub fn renewal(host_id: &str) -> String {
    format!("{RENEWAL}{host_id}")
}

/// Returns the key of the links that were put for an application.
pub fn links(application: &str) -> String {
    format!("{LINKS}{application}")
}

/// Returns the key of the rollout of an application.
pub fn rollout(application: &str) -> String {
    format!("{ROLLOUT}{application}")
}

/// Returns the key of the last change of a link, by the link's id.
pub fn link_change(link_id: &str) -> String {
    let begin: String = link_id.chars().take(LINK_CHANGE_DIGITS).collect();
    format!("{LINK_CHANGE}{begin}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        assert_eq!(Key::parse(&kept("NABC")), Key::Kept("NABC"));
        assert_eq!(Key::parse(&application("shop")), Key::Application("shop"));
        assert_eq!(Key::parse(&lease("shop")), Key::Lease("shop"));
        assert_eq!(Key::parse(&renewal("NABC")), Key::Renewal("NABC"));
        assert_eq!(Key::parse(&links("shop")), Key::Links("shop"));
        assert_eq!(Key::parse(&rollout("shop")), Key::Rollout("shop"));
        assert_eq!(Key::parse(&link_change("B40411AD")), Key::LinkChange("B40"));
        assert_eq!(Key::parse("LINKDEF_1"), Key::Unknown);
    }
}
