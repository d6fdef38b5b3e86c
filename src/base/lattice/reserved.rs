//! The subjects by which somebody is commanded: the lattice's, its deployment manager's and the
//! NATS server's.
//!
//! A host publishes with rights that the one who made it publish may lack. So it never lets another
//! party choose one of these subjects: not as the reply subject of a question ([`super::answers`]),
//! and not as the subject of an actor's message on the host's own connection
//! (`builtin://messaging`).
//!
//! Reserved are `wasmbus`, `wadm` (the API of the deployment manager of those years), every root
//! that begins with `$` (JetStream, buckets, the system account), and the subjects to which the
//! settings have moved control commands and the policy service; each with all that is below it.

use std::sync::Arc;

/// The lattice's own root, and that of its deployment manager.
const ROOTS: [&str; 2] = ["wasmbus", "wadm"];
/// Begins a reply subject that crosses gateways between NATS clusters:
/// `_GR_.{cluster}.{server}.{original}`. A server takes the first three tokens away by their
/// lengths, so the original is what a message reaches.
const GATEWAY: &str = "_GR_.";
/// Characters of the two hashes in such a subject.
const GATEWAY_HASH_CHARS: usize = 6;

/// The reserved subjects of one host. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reserved(Arc<[String]>);

impl Reserved {
    /// Reserves the subjects of every host, and these subjects of its settings with all below them.
    pub fn new(topics: impl IntoIterator<Item = String>) -> Self {
        Self(topics.into_iter().collect())
    }

    /// Returns whether some subject that matches `pattern` is reserved.
    pub fn meets(&self, pattern: &str) -> bool {
        let pattern = beyond_gateways(pattern);
        let mut tokens = pattern.split('.');
        let is_system = match (tokens.next(), tokens.next()) {
            (Some(">"), _) => true,
            // The subjects of the lattice all have several tokens.
            (Some("*"), further) => further.is_some(),
            (Some(root), _) => ROOTS.contains(&root) || root.starts_with('$'),
            (None, _) => false,
        };
        // A gateway's prefix in a form that is not known here is not one to publish on.
        is_system
            || pattern.starts_with(GATEWAY)
            || self.0.iter().any(|reserved| reaches(pattern, reserved))
    }
}

/// Returns the subject that a message reaches in the end: a gateway's prefix is taken away as
/// servers do.
pub fn beyond_gateways(subject: &str) -> &str {
    crossed_gateway(subject).unwrap_or(subject)
}

fn crossed_gateway(subject: &str) -> Option<&str> {
    let (cluster, rest) = subject.strip_prefix(GATEWAY)?.split_once('.')?;
    let (server, original) = rest.split_once('.')?;
    [cluster, server].iter().all(|hash| hash.len() == GATEWAY_HASH_CHARS).then_some(original)
}

/// Returns whether a pattern matches a subject that is, or is below, `reserved`.
fn reaches(pattern: &str, reserved: &str) -> bool {
    let mut tokens = pattern.split('.');
    reserved.split('.').all(|reserved| match tokens.next() {
        Some(">") => {
            // It matches whatever is left.
            tokens = ">".split('.');
            true
        }
        Some(token) => token == "*" || token == reserved,
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved() -> Reserved {
        Reserved::new(["factory.ctl".to_owned(), "rules".to_owned()])
    }

    #[test]
    fn subjects_that_command_somebody_are_reserved_with_all_below_them() {
        for subject in [
            "wasmbus",
            "wasmbus.ctl.default.cmd.N.stop",
            "wadm.api.default.model.put.shop",
            "$JS.API.STREAM.PURGE.X",
            "$KV.LATTICEDATA_default.x",
            "$SYS.REQ.SERVER.PING",
            "factory.ctl",
            "factory.ctl.default.cmd",
            "rules.changes",
            "_GR_.abcdef.123456.wasmbus.ctl.default.ping.hosts",
            "_GR_.abcdef.123456.rules",
            "_GR_.abcdef.123456._GR_.abcdef.123456.wasmbus.x",
            "_GR_.short.1.a",
            "_GR_.x",
        ] {
            assert!(reserved().meets(subject), "{subject}");
        }
        for pattern in
            [">", "*.>", "*.*", "factory.>", "factory.*.x", "*.ctl.>", "rules.>", "factory.*"]
        {
            assert!(reserved().meets(pattern), "{pattern}");
        }
    }

    #[test]
    fn other_subjects_are_free() {
        for subject in [
            "a",
            "factory",
            "factory.oven.ctl",
            "ruled.x",
            "wasmbusses.a",
            "wadmin.a",
            "a.$x",
            "_INBOX.abc",
            "_GR_.abcdef.123456._INBOX.abc",
            "_R_.abc",
        ] {
            assert!(!reserved().meets(subject), "{subject}");
        }
    }
}
