//! The permissions of this user on the subjects of the lattice.
//!
//! The server answers a forbidden subject with an error and nothing else, so everything is tried,
//! and then the errors are read. Messages are published to subjects that nobody listens on: keys
//! made up for the occasion. Subjects on which a message would have an effect are only looked up in
//! the list of permissions, which servers since 2.10 tell.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    Finding, Found,
    facts::{Facts, Unknown, connect_again},
};
use crate::session::Session;
use lattice_base::lattice::connection::{NEEDED_SUBJECTS, Nats, Purpose, confirm};
use lattice_protocol::{
    control::types::HostReply,
    lattice::subject::{Command, Control, Probe, Subjects},
};

/// How long the server may take to forbid, or to let pass, everything that was tried.
const VERDICT: Duration = Duration::from_millis(2000);

/// The permissions that were checked, and those that the server denies.
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
    /// The function that does not work without it.
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
        Self {
            host: nkeys::KeyPair::new_server().public_key(),
            actor: nkeys::KeyPair::new_module().public_key(),
        }
    }
}

/// Returns the subjects of the control connection that can be tried.
fn control(subjects: &Subjects, nobody: &Nobody) -> Vec<Need> {
    let root = subjects.control_root();
    let inventory = subjects.control(&Control::Inventory { host: nobody.host.clone() });
    let command = Control::Command { host: nobody.host.clone(), command: Command::ScaleActor };
    let probe = Control::Probe { host: nobody.host.clone(), probe: Probe::Health };
    vec![
        subscribe("_INBOX.host-doctor.>".into(), "answers to every question"),
        subscribe(subjects.events(), "hearing what happens in the lattice"),
        subscribe(subjects.control(&Control::PingHosts), "hosts: being found"),
        subscribe(format!("{root}.cmd.{}.*", nobody.host), "hosts: commands"),
        subscribe(inventory.clone(), "hosts: telling what runs"),
        subscribe(format!("{root}.auction.>"), "hosts: being chosen for a start"),
        subscribe(format!("{root}.linkdefs.*"), "hosts: taking links on"),
        publish(subjects.control(&command), "commands to hosts"),
        publish(inventory, "asking what runs"),
        publish(subjects.control(&probe), "asking hosts how they are"),
        publish(
            subjects.event(&format!("host-doctor.{}", nobody.host)),
            "hosts: telling what happens",
        ),
    ]
}

/// Returns the subjects of the control connection that cannot be tried without an effect.
fn control_unspoken(subjects: &Subjects) -> Vec<Need> {
    let requests = [
        (Control::PingHosts, "finding hosts"),
        (Control::Links, "asking for links"),
        (Control::Claims, "asking for claims"),
        (Control::LinkPut, "putting links"),
        (Control::LinkDel, "deleting links"),
        (Control::AuctionActor, "starting actors wherever there is room"),
        (Control::AuctionProvider, "starting providers wherever there is room"),
    ];
    let asking =
        requests.map(|(request, needed_for)| publish(subjects.control(&request), needed_for));
    asking.into_iter().chain([publish(subjects.events(), "hosts: telling what happens")]).collect()
}

fn calls(subjects: &Subjects, nobody: &Nobody) -> Vec<Need> {
    let actor = subjects.actor(&nobody.actor);
    vec![
        subscribe("_INBOX.host-doctor.>".into(), "answers to calls"),
        subscribe(actor.clone(), "hosts: taking calls"),
        subscribe(subjects.hosts(), "hosts: hearing each other"),
        publish(actor, "calls"),
        publish(subjects.host(&nobody.host), "hosts: asking each other"),
    ]
}

/// Tries both connections; that for calls only if one can be made.
pub async fn gather(
    session: &Session,
    subjects: &Subjects,
    has_rpc: bool,
) -> Result<Permissions, Unknown> {
    let nobody = Nobody::new();
    let ctl = async {
        let nats =
            connect_again(session, Purpose::Control).await.map_err(|error| format!("{error:#}"))?;
        let mut permissions = tried("ctl", &nats, control(subjects, &nobody)).await;
        if let Some(listed) = listed(&nats).await {
            let unspoken = control_unspoken(subjects);
            permissions.tried += unspoken.len();
            let forbidden = unspoken.into_iter().filter(|need| !listed.allow(need));
            permissions.forbidden.extend(forbidden.map(|need| need.forbidden("ctl")));
        }
        Ok::<_, Unknown>(permissions)
    };
    let rpc = async {
        if !has_rpc {
            return None;
        }
        let nats = connect_again(session, Purpose::Rpc).await.ok()?;
        Some(tried("rpc", &nats, calls(subjects, &nobody)).await)
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

/// Tries everything and returns what the server forbids.
async fn tried(purpose: &'static str, nats: &Nats, needs: Vec<Need>) -> Permissions {
    let tried = needs.len();
    let mut subscriptions = Vec::new();
    let trying = async {
        for need in &needs {
            match need.verb {
                "subscribe" => {
                    subscriptions.extend(nats.client.subscribe(need.subject.clone()).await.ok())
                }
                _ => drop(nats.client.publish(need.subject.clone(), Bytes::new()).await),
            }
        }
        // The server answers in order: what it forbids before it brings this back. If it does not
        // bring it back, that is forbidden.
        let _ = confirm(&nats.client).await;
    };
    let _ = timeout(VERDICT, trying).await;
    let denied = nats.denied.borrow().clone();
    let forbidden = needs.into_iter().filter(|need| need.is_among(&denied));
    Permissions { tried, forbidden: forbidden.map(|need| need.forbidden(purpose)).collect() }
}

impl Need {
    /// Whether one of these refusals of the server is about it.
    fn is_among(&self, denied: &[String]) -> bool {
        let quoted = format!("\"{}\"", self.subject);
        let verb = if self.verb == "subscribe" { "subscription" } else { "publish" };
        denied.iter().any(|what| what.contains(&quoted) && what.to_lowercase().contains(verb))
    }

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
        let is_allowed = self.allow.is_empty()
            || self.allow.iter().any(|pattern| covers(pattern, &need.subject));
        is_allowed && !self.deny.iter().any(|pattern| covers(pattern, &need.subject))
    }
}

async fn listed(nats: &Nats) -> Option<Listed> {
    let request = async_nats::Request::new().timeout(Some(VERDICT));
    let answer = timeout(VERDICT, nats.client.send_request("$SYS.REQ.USER.INFO", request))
        .await
        .ok()?
        .ok()?;
    let answer: Value = serde_json::from_slice(&answer.payload).ok()?;
    let publish = &answer["data"]["permissions"]["publish"];
    Some(Listed { allow: texts(&publish["allow"]), deny: texts(&publish["deny"]) })
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(|text| Some(text.as_str()?.to_owned()))
        .collect()
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

pub(super) fn permissions(facts: &Facts) -> Found {
    let permissions = facts.permissions.as_ref().map_err(Finding::skipped)?;
    // A user that only operates a lattice needs no permissions of a host.
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
    for (host, told) in facts.told() {
        let lines = [("ctl", &told.health.ctl), ("rpc", &told.health.rpc)];
        for (purpose, line) in lines {
            found.extend(line.denied.iter().map(|denied| of_host(host, purpose, denied)));
        }
    }
    if found.is_empty() {
        found.push(Finding::ok(format!(
            "all {} subjects that were tried are allowed",
            permissions.tried
        )));
    }
    Ok(found)
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
        assert!(
            listed.allow(&need("a.c")) && !listed.allow(&need("a.b")) && !listed.allow(&need("b"))
        );
        assert!(Listed { allow: Vec::new(), deny: Vec::new() }.allow(&need("b")));
    }
}
