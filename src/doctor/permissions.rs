//! What this user may say and hear on the subjects of the lattice.
//!
//! The server answers a forbidden subject with an error and nothing else, so everything is tried, and then it is looked which
//! errors came. What is published goes to subjects that nobody listens on: keys made up for the occasion. Subjects on which
//! anything would be heeded are only looked up in the list of permissions, which servers since 2.10 tell.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    Finding,
    facts::{Facts, Unknown, connect_again, subjects},
};
use crate::{
    client::Session,
    control::types::HostReply,
    lattice::{
        connection::{NEEDED_SUBJECTS, Nats, Purpose, confirm},
        subject::Subjects,
    },
};

/// How long the server may take to forbid, or to let pass, everything that was tried.
const VERDICT: Duration = Duration::from_millis(2000);

/// What the server forbids.
#[derive(Clone, Debug, Default)]
pub struct Permissions {
    /// Subjects that were tried, or looked up.
    pub tried: usize,
    pub forbidden: Vec<Forbidden>,
}

/// Something this user may not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forbidden {
    pub purpose: &'static str,
    /// `publish` or `subscribe`.
    pub verb: &'static str,
    pub subject: String,
    /// What does not work without it.
    pub needed_for: &'static str,
}

/// A subject that is needed.
struct Need {
    verb: &'static str,
    subject: String,
    needed_for: &'static str,
}

fn publish(subject: String, needed_for: &'static str) -> Need {
    Need { verb: "publish", subject, needed_for }
}

fn subscribe(subject: String, needed_for: &'static str) -> Need {
    Need { verb: "subscribe", subject, needed_for }
}

/// Keys that nobody has.
struct Nobody {
    host: String,
    actor: String,
}

impl Nobody {
    fn new() -> Self {
        Self { host: nkeys::KeyPair::new_server().public_key(), actor: nkeys::KeyPair::new_module().public_key() }
    }
}

/// What the control connection needs and can be tried.
fn control(root: &str, lattice: &str, nobody: &Nobody) -> Vec<Need> {
    let Nobody { host, .. } = nobody;
    vec![
        subscribe("_INBOX.host-doctor.>".into(), "answers to every question"),
        subscribe(format!("wasmbus.evt.{lattice}"), "hearing what happens in the lattice"),
        subscribe(format!("{root}.ping.hosts"), "hosts: being found"),
        subscribe(format!("{root}.cmd.{host}.*"), "hosts: commands"),
        subscribe(format!("{root}.get.{host}.inv"), "hosts: telling what runs"),
        subscribe(format!("{root}.auction.>"), "hosts: being chosen for a start"),
        subscribe(format!("{root}.linkdefs.*"), "hosts: taking links on"),
        publish(format!("{root}.cmd.{host}.scale"), "commands to hosts"),
        publish(format!("{root}.get.{host}.inv"), "asking what runs"),
        publish(format!("{root}.probe.{host}.health"), "asking hosts how they are"),
        publish(format!("wasmbus.evt.{lattice}.host-doctor.{host}"), "hosts: telling what happens"),
    ]
}

/// What it needs and cannot be tried without somebody heeding it.
fn control_unspoken(root: &str, lattice: &str) -> Vec<Need> {
    vec![
        publish(format!("{root}.ping.hosts"), "finding hosts"),
        publish(format!("{root}.get.links"), "asking for links"),
        publish(format!("{root}.get.claims"), "asking for claims"),
        publish(format!("{root}.linkdefs.put"), "putting links"),
        publish(format!("{root}.linkdefs.del"), "deleting links"),
        publish(format!("{root}.auction.actor"), "starting actors wherever there is room"),
        publish(format!("{root}.auction.provider"), "starting providers wherever there is room"),
        publish(format!("wasmbus.evt.{lattice}"), "hosts: telling what happens"),
    ]
}

fn calls(lattice: &str, nobody: &Nobody) -> Vec<Need> {
    let Nobody { host, actor } = nobody;
    vec![
        subscribe("_INBOX.host-doctor.>".into(), "answers to calls"),
        subscribe(format!("wasmbus.rpc.{lattice}.{actor}"), "hosts: taking calls"),
        subscribe(format!("wasmbus.rpc.{lattice}.hosts"), "hosts: hearing each other"),
        publish(format!("wasmbus.rpc.{lattice}.{actor}"), "calls"),
        publish(format!("wasmbus.rpc.{lattice}.{host}"), "hosts: asking each other"),
    ]
}

pub async fn gather(session: &Session, name: &str) -> Result<Permissions, Unknown> {
    let subjects = subjects(&session.config).ok_or("the lattice name cannot be used")?;
    let (root, lattice, nobody) = (control_root(&subjects), subjects.lattice().as_str(), Nobody::new());
    let ctl = async {
        let nats = connect_again(session, Purpose::Control, name).await.map_err(|error| format!("{error:#}"))?;
        let mut permissions = tried("ctl", &nats, control(&root, lattice, &nobody)).await;
        if let Some(listed) = listed(&nats).await {
            let unspoken = control_unspoken(&root, lattice);
            permissions.tried += unspoken.len();
            let forbidden = unspoken.into_iter().filter(|need| !listed.allow(need));
            permissions.forbidden.extend(forbidden.map(|need| need.forbidden("ctl")));
        }
        Ok::<_, Unknown>(permissions)
    };
    let rpc = async {
        let nats = connect_again(session, Purpose::Rpc, name).await.ok()?;
        Some(tried("rpc", &nats, calls(lattice, &nobody)).await)
    };
    let (ctl, rpc) = tokio::join!(ctl, rpc);
    let mut permissions = ctl?;
    // Without a connection for calls there is another finding to read.
    if let Some(rpc) = rpc {
        permissions.tried += rpc.tried;
        permissions.forbidden.extend(rpc.forbidden);
    }
    Ok(permissions)
}

/// `{ctl_topic_prefix}.{lattice}`
fn control_root(subjects: &Subjects) -> String {
    let ping = subjects.control(&crate::lattice::subject::Control::PingHosts);
    ping.trim_end_matches(".ping.hosts").to_owned()
}

/// Tries everything and returns what the server forbids.
async fn tried(purpose: &'static str, nats: &Nats, needs: Vec<Need>) -> Permissions {
    let tried = needs.len();
    let mut subscriptions = Vec::new();
    let trying = async {
        for need in &needs {
            match need.verb {
                "subscribe" => subscriptions.extend(nats.client.subscribe(need.subject.clone()).await.ok()),
                _ => drop(nats.client.publish(need.subject.clone(), Bytes::new()).await),
            }
        }
        // The server answers in order: what it forbids before it brings this back. If it does not bring it back, that is
        // forbidden.
        let _ = confirm(&nats.client).await;
    };
    let _ = timeout(VERDICT, trying).await;
    let denied = nats.denied.borrow().clone();
    let is_denied = |need: &Need| {
        let quoted = format!("\"{}\"", need.subject);
        let verb = if need.verb == "subscribe" { "subscription" } else { "publish" };
        denied.iter().any(|what| what.contains(&quoted) && what.to_lowercase().contains(verb))
    };
    let forbidden = needs.into_iter().filter(|need| is_denied(need)).map(|need| need.forbidden(purpose)).collect();
    Permissions { tried, forbidden }
}

impl Need {
    fn forbidden(self, purpose: &'static str) -> Forbidden {
        Forbidden { purpose, verb: self.verb, subject: self.subject, needed_for: self.needed_for }
    }
}

/// The permissions of a user, as the server lists them.
struct Listed {
    allow: Vec<String>,
    deny: Vec<String>,
}

impl Listed {
    /// Whether something may be published.
    fn allow(&self, need: &Need) -> bool {
        let matches = |patterns: &[String]| patterns.iter().any(|pattern| covers(pattern, &need.subject));
        (self.allow.is_empty() || matches(&self.allow)) && !matches(&self.deny)
    }
}

async fn listed(nats: &Nats) -> Option<Listed> {
    let request = async_nats::Request::new().timeout(Some(VERDICT));
    let answer = timeout(VERDICT, nats.client.send_request("$SYS.REQ.USER.INFO", request)).await.ok()?.ok()?;
    let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
    let publish = &answer["data"]["permissions"]["publish"];
    let patterns = |member: &str| {
        let patterns = publish[member].as_array().into_iter().flatten();
        patterns.filter_map(|pattern| Some(pattern.as_str()?.to_owned())).collect()
    };
    Some(Listed { allow: patterns("allow"), deny: patterns("deny") })
}

/// Whether a pattern covers a subject, by the rules of NATS.
fn covers(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

pub(super) fn permissions(facts: &Facts) -> Vec<Finding> {
    let permissions = match &facts.permissions {
        Ok(permissions) => permissions,
        Err(why) => return vec![Finding::skipped(why.clone())],
    };
    // Whoever only operates a lattice need not be able to be a host of it.
    let may_be_host = facts.settings.context.is_none();
    let mut found: Vec<Finding> = permissions
        .forbidden
        .iter()
        .map(|forbidden| {
            let Forbidden { purpose, verb, subject, needed_for } = forbidden;
            let seen =
                format!("the NATS user of {purpose} may not {verb} to {subject}, which is needed for {needed_for}");
            let fix = format!("allow this user {NEEDED_SUBJECTS} in the NATS server");
            match may_be_host || !needed_for.starts_with("hosts: ") {
                true => Finding::wrong(seen, fix),
                false => Finding::note(format!("{seen}; commands do not need it")),
            }
        })
        .collect();
    for (host, told) in facts.told().unwrap_or_default() {
        let lines = [("ctl", &told.health.ctl), ("rpc", &told.health.rpc)];
        for (purpose, line) in lines {
            found.extend(line.denied.iter().map(|denied| of_host(host, purpose, denied)));
        }
    }
    if found.is_empty() {
        found.push(Finding::ok(format!("all {} subjects that were tried are allowed", permissions.tried)));
    }
    found
}

fn of_host(host: &HostReply, purpose: &str, denied: &str) -> Finding {
    let name = super::facts::named(host);
    Finding::wrong(
        format!("the NATS user of host {name} ({purpose}) was forbidden a subject: {denied}"),
        format!("allow that user {NEEDED_SUBJECTS} in the NATS server"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_subjects_as_the_server_has_it() {
        for (pattern, subject, is_covered) in [
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.*.c", "a.b.c", true),
            (">", "a", true),
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
        ] {
            assert_eq!(covers(pattern, subject), is_covered, "{pattern} {subject}");
        }
        let need = |subject: &str| publish(subject.into(), "x");
        let listed = Listed { allow: vec!["a.>".into()], deny: vec!["a.b".into()] };
        assert!(listed.allow(&need("a.c")) && !listed.allow(&need("a.b")) && !listed.allow(&need("b")));
        assert!(Listed { allow: Vec::new(), deny: Vec::new() }.allow(&need("b")));
    }
}
