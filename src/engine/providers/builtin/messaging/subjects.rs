//! Which subjects a link may use.
//!
//! On the host's own connection an actor must not hear the lattice or speak in its name: signed
//! invocations, control commands, replies and JetStream all run over it. The same holds for a
//! connection of the link's own to a NATS server that the host uses, which may let everybody in. At
//! any other server the link has the rights of its own user, and that server decides.

use crate::providers::builtin::{LinkError, values::wrong};
use lattice_base::lattice::reserved as lattice;
use lattice_protocol::contracts::messaging::words::{INVALID, RESERVED};

/// Far below the line length a server takes. A longer one would end the connection, which others
/// use too.
const SUBJECT_BYTES_MAX: usize = 1024;
/// Where replies of all users of the connection arrive: inboxes, private ones, and those of other
/// accounts and clusters.
const INBOX_ROOT: &str = "_INBOX";
const OTHER_INBOX_ROOTS: [&str; 3] = ["_INBOX_", "_R_", "_GR_"];

/// Why a subject cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SubjectError {
    #[error("subject {subject:?} {INVALID} {reason}")]
    Invalid { subject: String, reason: &'static str },
    #[error(
        "subject {0:?} {RESERVED}, and this link uses the host's connection or its NATS server; \
         use another subject, give the link a server of its own (link value uri), or lift this with the link value \
         allow_system_subjects=true"
    )]
    System(String),
}

/// The subjects a link may not use: those that command somebody on the host's connection, on its
/// own none.
#[derive(Clone, Debug)]
pub(super) enum Reserved {
    Nothing,
    Lattice(lattice::Reserved),
}

impl Reserved {
    /// Whether some subject that matches `pattern` is reserved.
    fn meets(&self, pattern: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Lattice(reserved) => reserved.meets(pattern),
        }
    }
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
    let hears_inboxes = matches!(reserved, Reserved::Lattice(_)) && is_inbox_root(tokens[0]);
    if hears_inboxes || reserved.meets(subject) {
        return Err(SubjectError::System(subject.to_owned()));
    }
    Ok(())
}

fn is_inbox_root(root: &str) -> bool {
    root == INBOX_ROOT || OTHER_INBOX_ROOTS.iter().any(|begin| root.starts_with(begin))
}

fn check_tokens(subject: &str) -> Result<(), SubjectError> {
    let reason = match () {
        () if subject.is_empty() => "it is empty",
        () if subject.len() > SUBJECT_BYTES_MAX => {
            let shown = subject.chars().take(60).chain("…".chars()).collect();
            return Err(SubjectError::Invalid {
                subject: shown,
                reason: "it is longer than 1024 bytes",
            });
        }
        () if subject.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            "it has blanks or control characters"
        }
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
        check_subscribe(subject, reserved)
            .map_err(|e| LinkError::Values(format!("link value subscription: {e}")))?;
        if queue.is_some_and(|queue| !is_queue_group(queue)) {
            return Err(wrong(
                "subscription",
                text,
                "subject or subject|queuegroup, the group without blanks",
            ));
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

    fn host() -> Reserved {
        Reserved::Lattice(lattice::Reserved::new(["factory.ctl".to_owned(), "rules".to_owned()]))
    }

    #[test]
    fn what_the_settings_add_is_reserved_with_all_below_it() {
        for subject in ["factory.ctl", "factory.ctl.default.cmd", "rules", "rules.changes"] {
            assert!(
                matches!(check_publish(subject, &host()), Err(SubjectError::System(_))),
                "{subject}"
            );
        }
        for pattern in
            ["factory.>", "factory.*.x", "*.ctl.>", "factory.ctl.>", "rules.>", "factory.*"]
        {
            assert!(
                matches!(check_subscribe(pattern, &host()), Err(SubjectError::System(_))),
                "{pattern}"
            );
        }
        for subject in ["factory", "factory.oven", "factory.oven.ctl", "ruled.x"] {
            assert_eq!(check_subscribe(subject, &host()), Ok(()), "{subject}");
            assert_eq!(check_publish(subject, &host()), Ok(()), "{subject}");
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
            "_INBOX_alice.>",
            "_R_.>",
            "_GR_.>",
            "wadm.api.>",
        ] {
            assert!(
                matches!(
                    check_subscribe(subject, &Reserved::Lattice(lattice::Reserved::default())),
                    Err(SubjectError::System(_))
                ),
                "{subject}"
            );
            assert_eq!(check_subscribe(subject, &Reserved::Nothing), Ok(()), "{subject}");
        }
        for subject in [
            "a",
            "*",
            "a.>",
            "a.*.b",
            "orders.wasmbus.>",
            "my_INBOX.a",
            "wasmbusses.a",
            "a.$x",
            "über.a",
        ] {
            assert_eq!(
                check_subscribe(subject, &Reserved::Lattice(lattice::Reserved::default())),
                Ok(()),
                "{subject}"
            );
        }
    }

    #[test]
    fn publishing_reaches_inboxes_but_not_the_lattice() {
        for subject in [
            "wasmbus.ctl.default.ping",
            "$JS.API.INFO",
            "$SYS.REQ.x",
            "$KV.LATTICEDATA_default.x",
            "wadm.api.default.x",
        ] {
            assert!(
                matches!(check_publish(subject, &host()), Err(SubjectError::System(_))),
                "{subject}"
            );
            assert_eq!(check_publish(subject, &Reserved::Nothing), Ok(()), "{subject}");
        }
        for subject in ["a", "a.b", "_INBOX.abc.def", "_R_.abc", "a*.b>"] {
            assert_eq!(check_publish(subject, &host()), Ok(()), "{subject}");
        }
    }

    #[test]
    fn invalid_subjects_are_named() {
        let long = "a".repeat(1025);
        for subject in ["", " ", "a b", "a..b", ".a", "a.", "a\r\nPUB x", "a\tb", "a\u{a0}b", &long]
        {
            for reserved in [&host(), &Reserved::Nothing] {
                assert!(
                    matches!(check_publish(subject, reserved), Err(SubjectError::Invalid { .. })),
                    "{subject:?}"
                );
                assert!(
                    matches!(check_subscribe(subject, reserved), Err(SubjectError::Invalid { .. })),
                    "{subject:?}"
                );
            }
        }
        assert!(check_subscribe("a.>.b", &Reserved::Nothing).is_err());
        assert!(
            check_publish("a.*", &Reserved::Nothing).is_err()
                && check_publish("a.>", &Reserved::Nothing).is_err()
        );
    }

    #[test]
    fn a_subscription_may_name_its_queue_group() {
        let parse = |text| Subscription::parse(text, &host());
        assert_eq!(parse("a.>").unwrap(), Subscription { subject: "a.>".into(), queue: None });
        assert_eq!(
            parse(" a | g.1 ").unwrap(),
            Subscription { subject: "a".into(), queue: Some("g.1".into()) }
        );
        for bad in ["a|", "a|b c", "|g", "a|b|c", "wasmbus.>|g"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
