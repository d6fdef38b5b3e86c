//! Which subjects a link may use.
//!
//! On the host's own connection an actor must not hear the lattice or speak in its name: signed invocations, control
//! commands, replies and JetStream all run over it. A connection of the link's own has the rights of its own user, and
//! its server decides.

use std::sync::Arc;

use crate::providers::builtin::{LinkError, values::wrong};

/// Far below the line length a server takes. A longer one would end the connection, which others use too.
const SUBJECT_BYTES_MAX: usize = 1024;
/// The lattice's own root.
const LATTICE_ROOT: &str = "wasmbus";
/// Where replies of all users of the connection arrive.
const INBOX_ROOT: &str = "_INBOX";

/// Why a subject cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SubjectError {
    #[error("subject {subject:?} is invalid: {reason}")]
    Invalid { subject: String, reason: &'static str },
    #[error(
        "subject {0:?} belongs to the lattice or the NATS server, and this link uses the host's own connection; use another \
         subject, give the link a connection of its own (link value uri), or lift this with the link value \
         allow_system_subjects=true"
    )]
    System(String),
}

/// The subjects a link may not use: on the host's connection those of the lattice and of the server, and what the
/// settings add to them (control commands or the policy service may be elsewhere); on its own none.
#[derive(Clone, Debug)]
pub(super) enum Reserved {
    Nothing,
    /// The lattice's and these, each with all that is below it.
    Lattice(Arc<[String]>),
}

impl Reserved {
    /// Whether some subject that matches `pattern` is reserved.
    fn meets(&self, pattern: &str) -> bool {
        let Self::Lattice(more) = self else { return false };
        let mut tokens = pattern.split('.');
        let system = match (tokens.next(), tokens.next()) {
            (Some(">"), _) => true,
            // The subjects of the lattice all have several tokens.
            (Some("*"), further) => further.is_some(),
            (Some(root), _) => is_system(root),
            (None, _) => false,
        };
        system || more.iter().any(|reserved| reaches(pattern, reserved))
    }
}

/// Whether a pattern matches a subject that is, or is below, `reserved`.
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

/// Checks a subject to publish to.
pub(super) fn check_publish(subject: &str, reserved: &Reserved) -> Result<(), SubjectError> {
    check_tokens(subject)?;
    if subject.split('.').any(|token| matches!(token, "*" | ">")) {
        let reason = "a message goes to one subject, without wildcards";
        return Err(SubjectError::Invalid { subject: subject.to_owned(), reason });
    }
    // Inboxes are open: a reply to a message goes to one.
    if reserved.meets(subject) {
        return Err(SubjectError::System(subject.to_owned()));
    }
    Ok(())
}

/// Checks a subject, possibly with wildcards, to listen to.
pub(super) fn check_subscribe(subject: &str, reserved: &Reserved) -> Result<(), SubjectError> {
    check_tokens(subject)?;
    let tokens: Vec<&str> = subject.split('.').collect();
    if tokens.iter().rev().skip(1).any(|token| *token == ">") {
        let reason = "the wildcard > stands only at the end";
        return Err(SubjectError::Invalid { subject: subject.to_owned(), reason });
    }
    let is_inbox = matches!(reserved, Reserved::Lattice(_)) && tokens[0] == INBOX_ROOT;
    if is_inbox || reserved.meets(subject) {
        return Err(SubjectError::System(subject.to_owned()));
    }
    Ok(())
}

fn is_system(root: &str) -> bool {
    // $SYS, $JS, $KV, $O and whatever servers come up with.
    root == LATTICE_ROOT || root.starts_with('$')
}

fn check_tokens(subject: &str) -> Result<(), SubjectError> {
    let reason = match () {
        () if subject.is_empty() => "it is empty",
        () if subject.len() > SUBJECT_BYTES_MAX => {
            let shown = subject.chars().take(60).chain("…".chars()).collect();
            return Err(SubjectError::Invalid { subject: shown, reason: "it is longer than 1024 bytes" });
        }
        () if subject.chars().any(|c| c.is_whitespace() || c.is_control()) => "it has blanks or control characters",
        () if subject.split('.').any(str::is_empty) => "there is an empty part between its dots",
        () => return Ok(()),
    };
    Err(SubjectError::Invalid { subject: subject.to_owned(), reason })
}

/// One entry of the link value `subscription`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    pub subject: String,
    /// `None` for the link's own group.
    pub queue: Option<String>,
}

impl Subscription {
    /// Reads `subject` or `subject|queuegroup`.
    pub(super) fn parse(text: &str, reserved: &Reserved) -> Result<Self, LinkError> {
        let (subject, queue) = match text.split_once('|') {
            Some((subject, queue)) => (subject.trim(), Some(queue.trim())),
            None => (text.trim(), None),
        };
        check_subscribe(subject, reserved).map_err(|e| LinkError::Values(format!("link value subscription: {e}")))?;
        if queue.is_some_and(|queue| !is_queue_group(queue)) {
            return Err(wrong("subscription", text, "subject or subject|queuegroup, the group without blanks"));
        }
        Ok(Self { subject: subject.to_owned(), queue: queue.map(str::to_owned) })
    }
}

fn is_queue_group(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= SUBJECT_BYTES_MAX
        && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '|')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lattice() -> Reserved {
        Reserved::Lattice(Arc::from(["factory.ctl".to_owned(), "rules".to_owned()]))
    }

    #[test]
    fn what_the_settings_add_is_reserved_with_all_below_it() {
        for subject in ["factory.ctl", "factory.ctl.default.cmd", "rules", "rules.changes"] {
            assert!(matches!(check_publish(subject, &lattice()), Err(SubjectError::System(_))), "{subject}");
        }
        for pattern in ["factory.>", "factory.*.x", "*.ctl.>", "factory.ctl.>", "rules.>", "factory.*"] {
            assert!(matches!(check_subscribe(pattern, &lattice()), Err(SubjectError::System(_))), "{pattern}");
        }
        for subject in ["factory", "factory.oven", "factory.oven.ctl", "ruled.x"] {
            assert_eq!(check_subscribe(subject, &lattice()), Ok(()), "{subject}");
            assert_eq!(check_publish(subject, &lattice()), Ok(()), "{subject}");
        }
    }

    #[test]
    fn the_lattices_subjects_cannot_be_heard_on_the_hosts_connection() {
        for subject in [
            ">",
            "*.>",
            "*.rpc.>",
            "*.*",
            "wasmbus.>",
            "wasmbus.rpc.default.M",
            "wasmbus",
            "$JS.>",
            "$KV.a.>",
            "$SYS.>",
            "$O.x",
            "_INBOX.>",
            "_INBOX.abc.*",
        ] {
            assert!(
                matches!(check_subscribe(subject, &Reserved::Lattice(Arc::from([]))), Err(SubjectError::System(_))),
                "{subject}"
            );
            assert_eq!(check_subscribe(subject, &Reserved::Nothing), Ok(()), "{subject}");
        }
        for subject in ["a", "*", "a.>", "a.*.b", "orders.wasmbus.>", "my_INBOX.a", "wasmbusses.a", "a.$x", "über.a"] {
            assert_eq!(check_subscribe(subject, &Reserved::Lattice(Arc::from([]))), Ok(()), "{subject}");
        }
    }

    #[test]
    fn publishing_reaches_inboxes_but_not_the_lattice() {
        for subject in ["wasmbus.ctl.default.ping", "$JS.API.INFO", "$SYS.REQ.x", "$KV.LATTICEDATA_default.x"] {
            assert!(matches!(check_publish(subject, &lattice()), Err(SubjectError::System(_))), "{subject}");
            assert_eq!(check_publish(subject, &Reserved::Nothing), Ok(()), "{subject}");
        }
        for subject in ["a", "a.b", "_INBOX.abc.def", "a*.b>"] {
            assert_eq!(check_publish(subject, &lattice()), Ok(()), "{subject}");
        }
    }

    #[test]
    fn invalid_subjects_are_named() {
        let long = "a".repeat(1025);
        for subject in ["", " ", "a b", "a..b", ".a", "a.", "a\r\nPUB x", "a\tb", "a\u{a0}b", &long] {
            for reserved in [&lattice(), &Reserved::Nothing] {
                assert!(matches!(check_publish(subject, reserved), Err(SubjectError::Invalid { .. })), "{subject:?}");
                assert!(matches!(check_subscribe(subject, reserved), Err(SubjectError::Invalid { .. })), "{subject:?}");
            }
        }
        assert!(check_subscribe("a.>.b", &Reserved::Nothing).is_err());
        assert!(check_publish("a.*", &Reserved::Nothing).is_err() && check_publish("a.>", &Reserved::Nothing).is_err());
    }

    #[test]
    fn a_subscription_may_name_its_queue_group() {
        let parse = |text| Subscription::parse(text, &lattice());
        assert_eq!(parse("a.>").unwrap(), Subscription { subject: "a.>".into(), queue: None });
        assert_eq!(parse(" a | g.1 ").unwrap(), Subscription { subject: "a".into(), queue: Some("g.1".into()) });
        for bad in ["a|", "a|b c", "|g", "a|b|c", "wasmbus.>|g"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
