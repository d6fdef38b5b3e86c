//! The permissions of this user on the subjects of the lattice.
//!
//! The server answers a forbidden subject with an error and nothing else, so everything is tried,
//! and then the errors are read. Messages are published to subjects that nobody listens on: keys
//! made up for the occasion. Subjects on which a message would have an effect are only looked up in
//! the list of permissions, which servers since 2.10 tell. The list of what is needed is that of
//! [`Subjects::control_needs`] and [`Subjects::call_needs`].

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    Finding, Found,
    facts::{Facts, Unknown, connect_again},
};
use crate::session::Session;
use lattice_base::{
    config::Config,
    lattice::connection::{NEEDED_SUBJECTS, Nats, Purpose},
};
use lattice_protocol::{
    control::types::HostReply,
    lattice::{
        permissions::{Names, Need, Use, User, covers},
        subject::Subjects,
    },
};

/// How long the server may take to forbid, or to let pass, everything that was tried.
const VERDICT: Duration = Duration::from_millis(2000);
/// Stands for link names, keys and events, and begins the inbox.
const OWN_NAME: &str = "host-doctor";

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
    /// The connection: `ctl` or `rpc`.
    pub purpose: &'static str,
    pub need: Need,
}

/// Keys that nobody has.
struct Nobody {
    host: String,
    actor: String,
    provider: String,
    inbox: String,
}

impl Nobody {
    fn new() -> Self {
        let host = nkeys::KeyPair::new_server().public_key();
        Self {
            actor: nkeys::KeyPair::new_module().public_key(),
            provider: nkeys::KeyPair::new_service().public_key(),
            inbox: format!("_INBOX.{OWN_NAME}.{host}"),
            host,
        }
    }

    fn names(&self) -> Names<'_> {
        let Self { host, actor, provider, inbox } = self;
        Names { host, actor, provider, inbox, other: OWN_NAME }
    }

    fn keys(&self) -> [&str; 3] {
        [&self.host, &self.actor, &self.provider]
    }

    /// Tells whether a use of the subject is without an effect. Nobody hears a message for nobody.
    fn can_try(&self, need: &Need) -> bool {
        need.verb == Use::Subscribe || self.keys().iter().any(|key| need.subject.contains(key))
    }

    /// Returns the need as it is for everybody.
    fn masked(&self, mut need: Need) -> Need {
        for key in self.keys() {
            need.subject = need.subject.replace(key, "*");
        }
        need
    }
}

/// Returns the permissions on the control connection that only some settings ask for.
fn of_settings(config: &Config, subjects: &Subjects) -> Vec<Need> {
    let mut needs = Vec::new();
    if config.config_service {
        let subject = subjects.config_service();
        needs.push(Need::publish(User::Host, subject, "asking the configuration service"));
    }
    if let Some(policy) = &config.policy {
        needs.push(Need::publish(User::Host, &*policy.topic, "asking the policy service"));
        let changes = policy.changes_topic.as_deref();
        let hearing =
            changes.map(|topic| Need::subscribe(User::Host, topic, "hearing the policy service"));
        needs.extend(hearing);
    }
    needs
}

/// Checks both connections; that for calls only if one can be made.
pub async fn gather(
    session: &Session,
    subjects: &Subjects,
    has_rpc: bool,
) -> Result<Permissions, Unknown> {
    let nobody = Nobody::new();
    let ctl = async {
        let nats =
            connect_again(session, Purpose::Control).await.map_err(|error| format!("{error:#}"))?;
        let mut needs = subjects.control_needs(&nobody.names());
        needs.extend(of_settings(&session.config, subjects));
        Ok::<_, Unknown>(checked("ctl", &nats, needs, &nobody).await)
    };
    let rpc = async {
        if !has_rpc {
            return None;
        }
        let nats = connect_again(session, Purpose::Rpc).await.ok()?;
        Some(checked("rpc", &nats, subjects.call_needs(&nobody.names()), &nobody).await)
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

/// Tries everything that can be tried, looks the rest up, and returns what the server forbids.
async fn checked(
    purpose: &'static str,
    nats: &Nats,
    needs: Vec<Need>,
    nobody: &Nobody,
) -> Permissions {
    let (to_try, to_look_up): (Vec<_>, Vec<_>) =
        needs.into_iter().partition(|need| nobody.can_try(need));
    let mut tried = to_try.len();
    let denied = denied(nats, &to_try).await;
    let mut forbidden: Vec<Need> =
        to_try.into_iter().filter(|need| is_among(need, &denied)).collect();
    if let Some(listed) = listed(nats).await {
        tried += to_look_up.len();
        forbidden.extend(to_look_up.into_iter().filter(|need| !listed.allow(need)));
    }
    let forbidden = forbidden.into_iter();
    let forbidden = forbidden.map(|need| Forbidden { purpose, need: nobody.masked(need) });
    Permissions { tried, forbidden: forbidden.collect() }
}

/// Tries everything and returns the refusals of the server.
async fn denied(nats: &Nats, needs: &[Need]) -> Vec<String> {
    let mut subscriptions = Vec::new();
    let trying = async {
        for need in needs {
            match need.verb {
                Use::Subscribe => {
                    subscriptions.extend(nats.client.subscribe(need.subject.clone()).await.ok());
                }
                Use::Publish => {
                    drop(nats.client.publish(need.subject.clone(), Bytes::new()).await);
                }
            }
        }
        // The server answers in order: what it forbids before this.
        let _ = nats.confirm().await;
    };
    let _ = timeout(VERDICT, trying).await;
    nats.denied.borrow().clone()
}

/// Tells whether one of these refusals of the server is about a need.
fn is_among(need: &Need, denied: &[String]) -> bool {
    let quoted = format!("\"{}\"", need.subject);
    let verb = match need.verb {
        Use::Subscribe => "subscription",
        Use::Publish => "publish",
    };
    denied.iter().any(|what| what.contains(&quoted) && what.to_lowercase().contains(verb))
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

/// Everything that one user may not do in one way.
struct Group<'f> {
    first: &'f Forbidden,
    subjects: Vec<&'f str>,
    purposes: Vec<&'static str>,
}

impl<'f> Group<'f> {
    fn all(forbidden: &'f [Forbidden]) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for each in forbidden {
            let key = |of: &Forbidden| (of.purpose, of.need.verb, of.need.user);
            let at = groups.iter().position(|group| key(group.first) == key(each));
            let at = at.unwrap_or_else(|| {
                groups.push(Self { first: each, subjects: Vec::new(), purposes: Vec::new() });
                groups.len() - 1
            });
            groups[at].subjects.push(&each.need.subject);
            if !groups[at].purposes.contains(&each.need.purpose) {
                groups[at].purposes.push(each.need.purpose);
            }
        }
        groups
    }

    fn finding(&self, may_be_host: bool) -> Finding {
        let Forbidden { purpose, need } = self.first;
        let verb = match need.verb {
            Use::Publish => "publish",
            Use::Subscribe => "subscribe",
        };
        let user = match need.user {
            User::Host => "hosts: ",
            User::Client => "",
        };
        let (subjects, purposes) = (self.subjects.join(", "), self.purposes.join(", "));
        let seen = format!(
            "the NATS user of {purpose} may not {verb} to {subjects}, which is needed for {user}{purposes}"
        );
        let advice = format!("allow this user to {verb} to {subjects} in the NATS server");
        match (may_be_host, need.user) {
            (true, _) => Finding::wrong(
                seen,
                format!(
                    "{advice}; if a host uses this login, all of {NEEDED_SUBJECTS} and the topics of its settings"
                ),
            ),
            // All that a host needs would make an operator of one who only looks.
            (false, User::Client) => Finding::wrong(seen, advice),
            (false, User::Host) => Finding::note(format!("{seen}; commands do not need it")),
        }
    }
}

pub(super) fn permissions(facts: &Facts) -> Found {
    let permissions = facts.permissions.as_ref().map_err(Finding::skipped)?;
    // A user that only operates a lattice needs no permissions of a host.
    let may_be_host = facts.settings.context.is_none();
    let groups = Group::all(&permissions.forbidden);
    let mut found: Vec<Finding> = groups.iter().map(|group| group.finding(may_be_host)).collect();
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
    fn what_is_listed_is_allowed_and_denied_as_the_server_has_it() {
        let need = |subject: &str| Need::publish(User::Host, subject, "x");
        let listed = Listed { allow: vec!["a.>".into()], deny: vec!["a.b".into()] };
        assert!(
            listed.allow(&need("a.c")) && !listed.allow(&need("a.b")) && !listed.allow(&need("b"))
        );
        assert!(Listed { allow: Vec::new(), deny: Vec::new() }.allow(&need("b")));
    }

    #[test]
    fn a_user_who_only_looks_is_not_advised_to_have_the_rights_of_a_host() {
        for (may_be_host, user, is_mended, has_all) in [
            (true, User::Host, true, true),
            (true, User::Client, true, true),
            (false, User::Client, true, false),
            (false, User::Host, false, false),
        ] {
            let need = Need::publish(user, "wasmbus.ctl.x.get.links", "links");
            let forbidden = [Forbidden { purpose: "ctl", need }];
            let fix = Group::all(&forbidden)[0].finding(may_be_host).fix.unwrap_or_default();
            let told = (fix.contains("wasmbus.ctl.x.get.links"), fix.contains(NEEDED_SUBJECTS));
            assert_eq!(told, (is_mended, has_all), "{fix}");
        }
    }
}
