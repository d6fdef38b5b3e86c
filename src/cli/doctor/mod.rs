//! Finds out what is wrong with a lattice, as far as it can be seen from here, and says how to mend
//! it.
//!
//! ```text
//! settings ─▶ gather (connections, then what they lead to; all at once, each with a deadline) ─▶ Facts ─▶ CHECKS ─▶ Report
//! ```
//!
//! * [`facts`] gathers, and judges nothing; what only a host knows comes from the health probe of
//!   each host.
//! * Each check is a function from [`Facts`] to [`Finding`]s, so it asks nobody and can be tried
//!   with made-up facts; only [`files`] reads what the settings name. A family of checks has a
//!   file, with the facts that only it needs.
//!
//! The checks before an upgrade are a list of their own, [`upgrade`].
//!
//! Nothing is changed by looking: subscriptions are made and ended, messages go to subjects nobody
//! listens on, and what is written to the bucket asks to be refused. Secrets are in no finding.

mod bucket;
mod calls;
mod certificate;
mod connection;
mod facts;
mod files;
mod hosts;
mod jetstream;
mod leaf;
mod links;
mod look;
mod machine;
mod permissions;
mod running;
mod services;
mod settings;
mod stored;
mod trust;
pub mod upgrade;

use anyhow::Result;
use serde::Serialize;

use crate::session::Session;
pub use facts::Facts;

/// How bad something is; a check is as bad as the worst of its findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It could not be looked at.
    Skipped,
    Ok,
    /// Worth to know.
    Note,
    /// It works, and may not for long, or not as meant.
    Warning,
    Wrong,
}

/// Something that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub verdict: Verdict,
    pub seen: String,
    /// The command or the setting that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    fn ok(seen: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, seen: seen.into(), fix: None }
    }

    fn note(seen: impl Into<String>) -> Self {
        Self { verdict: Verdict::Note, ..Self::ok(seen) }
    }

    fn skipped(because: impl Into<String>) -> Self {
        Self { verdict: Verdict::Skipped, ..Self::ok(because) }
    }

    fn warning(seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, seen: seen.into(), fix: Some(fix.into()) }
    }

    fn wrong(seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Wrong, ..Self::warning(seen, fix) }
    }
}

/// The findings of a check; an error is why it did not look.
type Found = Result<Vec<Finding>, Finding>;

/// One check.
pub struct Check {
    pub name: &'static str,
    /// The things it looks at, in a line.
    pub about: &'static str,
    find: fn(&Facts) -> Found,
}

const fn check(name: &'static str, about: &'static str, find: fn(&Facts) -> Found) -> Check {
    Check { name, about, find }
}

/// Every check, in the order in which one would look: what others stand on comes first.
pub static CHECKS: [Check; 36] = [
    check("settings", "mistakes, unknown keys, values that variables overrule", settings::settings),
    check(
        "files",
        "who can read settings and credentials, and whether certificates are in order",
        files::files,
    ),
    check("credentials", "whether the login for NATS is still valid", files::credentials),
    check(
        "nats-ctl",
        "the NATS server of the control interface: is it there, and does it let us in",
        connection::ctl,
    ),
    check("nats-rpc", "the same for calls", connection::rpc),
    check("login", "whether the NATS server lets in anybody who reaches it", connection::login),
    check(
        "server",
        "version, size of messages and distance of the NATS server",
        connection::server,
    ),
    check(
        "permissions",
        "whether this user, and those of the hosts, may use the subjects of the lattice",
        permissions::permissions,
    ),
    check(
        "jetstream",
        "JetStream, and the domain that the metadata is kept in",
        jetstream::jetstream,
    ),
    check(
        "bucket",
        "the bucket with the lattice's metadata: settings, copies, reading and writing",
        bucket::bucket,
    ),
    check("objects", "the object store for large payloads", bucket::objects),
    check("leaf", "the way between this NATS server and the others of the lattice", leaf::leaf),
    check("calls", "calls that fail now", calls::calls),
    check("hosts", "which hosts answer, and which fell silent", hosts::hosts),
    check("lost", "what ran only on hosts that vanished, and runs nowhere", calls::lost),
    check(
        "metadata",
        "whether every host works with the metadata that the others have",
        hosts::metadata,
    ),
    check("versions", "hosts of different versions", hosts::versions),
    check("domains", "hosts that keep their metadata in different places", hosts::domains),
    check(
        "host-settings",
        "what was odd about the settings that hosts started with",
        hosts::settings,
    ),
    check("labels", "labels that say the same in different ways", hosts::labels),
    check("issuers", "whether hosts accept the calls of each other, and ours", trust::issuers),
    check(
        "sessions",
        "whether hosts prove their calls and answers, and what nobody proved",
        trust::sessions,
    ),
    check("clock", "hosts whose clocks differ", trust::clock),
    check("tokens", "calls that are refused for the time of their tokens", trust::tokens),
    check("starts", "actors and providers that did not start lately", running::starts),
    check(
        "references",
        "what runs from references that other hosts would not load",
        running::references,
    ),
    check("claims", "actors whose claims have expired or will soon", running::claims),
    check("aliases", "call aliases that several actors claim", running::aliases),
    check("actors", "actors that have no room for calls", running::actors),
    check("providers", "providers that are unwell, or end again and again", running::providers),
    check(
        "links",
        "links that lead nowhere, are not allowed, or have values that do nothing",
        links::links,
    ),
    check("ports", "addresses that a provider could not listen on", links::ports),
    check(
        "registries",
        "registries that do not answer hosts, or refuse their login",
        services::registries,
    ),
    check("services", "policy service, configuration service, applications", services::services),
    check(
        "machine",
        "room and rights for what a host keeps here, and the NATS server program",
        machine::machine,
    ),
    check("processes", "hosts and servers that run on this machine", machine::processes),
];

/// A check with its verdict and findings.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    pub name: &'static str,
    pub about: &'static str,
    pub verdict: Verdict,
    pub findings: Vec<Finding>,
}

/// The results of all checks.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub checks: Vec<Checked>,
}

impl Report {
    /// How many checks ended so.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }
}

/// Looks at everything, and tells what the `wanted` checks found; none wanted means all. Ends
/// within a quarter of a minute, whatever answers or not. Without a session the settings had
/// mistakes, or there is none for another reason.
pub async fn examine(session: Result<Session>, wanted: &[String]) -> Report {
    let facts = Facts::gather(session).await;
    let checks = CHECKS
        .iter()
        .filter(|check| wanted.is_empty() || wanted.iter().any(|name| name == check.name));
    Report { checks: checks.map(|check| check.run(&facts)).collect() }
}

impl Check {
    fn run(&self, facts: &Facts) -> Checked {
        let mut findings = (self.find)(facts).unwrap_or_else(|skipped| vec![skipped]);
        // The worst first; equals stay in their order.
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
        let verdict = findings.first().map_or(Verdict::Ok, |finding| finding.verdict);
        Checked { name: self.name, about: self.about, verdict, findings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_checks_are_different_and_can_be_typed() {
        let mut names: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CHECKS.len());
    }

    #[test]
    fn a_check_is_as_bad_as_its_worst_finding() {
        let found = |_: &Facts| {
            Ok(vec![Finding::ok("a"), Finding::warning("b", "c"), Finding::skipped("d")])
        };
        let checked = check("x", "y", found).run(&Facts::default());
        assert_eq!(checked.verdict, Verdict::Warning);
        assert_eq!(checked.findings[0].seen, "b");
    }
}
