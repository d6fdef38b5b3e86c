//! The permissions that NATS users need, derived from the subjects that hosts and their clients
//! use.

use super::{
    control::{
        Control,
        Intent::{Command, Query},
    },
    subject::{HEALTH, LINK_DEL, LINK_PUT, SHUTDOWN, SUBSCRIPTIONS, Subjects},
};
use crate::applications::request::Request;

/// The names in a list of permissions.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    pub host: &'a str,
    pub actor: &'a str,
    pub provider: &'a str,
    /// Link names, keys of named configuration, and events.
    pub other: &'a str,
    /// Where answers go.
    pub inbox: &'a str,
}

impl Names<'static> {
    /// Names that make patterns of the subjects.
    pub const ANY: Self =
        Self { host: "*", actor: "*", provider: "*", other: "*", inbox: "_INBOX.>" };
}

/// The use of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Publish,
    Subscribe,
}

/// The program that uses a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// A tool, or the dashboard of a host.
    Client,
    Host,
}

/// A permission that a NATS user needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub user: User,
    pub verb: Use,
    pub subject: String,
    /// The function that does not work without it.
    pub purpose: &'static str,
}

impl Need {
    pub fn publish(user: User, subject: impl Into<String>, purpose: &'static str) -> Self {
        Self { user, verb: Use::Publish, subject: subject.into(), purpose }
    }

    pub fn subscribe(user: User, subject: impl Into<String>, purpose: &'static str) -> Self {
        Self { user, verb: Use::Subscribe, subject: subject.into(), purpose }
    }
}

impl Subjects {
    /// Returns the permissions that are needed on the control connection, but for those of
    /// JetStream and those that only settings ask for.
    pub fn control_needs(&self, names: &Names<'_>) -> Vec<Need> {
        let listening = SUBSCRIPTIONS.iter().map(|listening| {
            Need::subscribe(User::Host, self.listened(listening, names.host), listening.purpose)
        });
        let requests = Control::every(names.host, names.other, names.other);
        let asking = requests.into_iter().map(|request| {
            let (Query(purpose) | Command(purpose)) = request.intent();
            Need::publish(User::Client, self.control(&request), purpose)
        });
        let further = [
            Need::subscribe(User::Client, names.inbox, "answers to every question"),
            Need::subscribe(User::Client, self.events(), "hearing what happens in the lattice"),
            Need::subscribe(User::Client, self.progress(), "hearing how starts get on"),
            Need::publish(User::Host, names.inbox, "answering"),
            Need::publish(User::Host, self.events(), "telling what happens"),
            Need::publish(User::Host, self.event(names.other), "telling what happens"),
            Need::publish(User::Host, self.progress(), "telling how starts get on"),
            Need::publish(User::Host, self.attention(), "telling what needs attention"),
        ];
        listening.chain(asking).chain(further).chain(self.application_needs(names)).collect()
    }

    /// Returns the permissions for applications.
    fn application_needs(&self, names: &Names<'_>) -> [Need; 9] {
        let api = format!("{}.>", self.manager_root());
        let (list, news) = (self.manager(Request::List), self.manager_events());
        let deploy = self.manager(Request::Deploy(names.other));
        let looking = "looking for a deployment manager";
        let status = self.manager_status(names.other);
        [
            Need::subscribe(User::Host, api, "answering about applications"),
            // As a host does, to find out whether a manager of its own answers.
            Need::publish(User::Host, list.clone(), looking),
            Need::publish(User::Host, self.manager(Request::Versions(names.other)), looking),
            Need::publish(User::Client, list, "asking for applications"),
            Need::publish(User::Client, deploy, "applications"),
            Need::subscribe(User::Client, status.clone(), "waiting for applications"),
            Need::publish(User::Host, news.clone(), "telling of applications"),
            Need::subscribe(User::Host, news, "hearing of applications"),
            Need::publish(User::Host, status, "telling how applications are"),
        ]
    }

    /// Returns the permissions that are needed on the connection for calls, but for those of
    /// JetStream.
    pub fn call_needs(&self, names: &Names<'_>) -> Vec<Need> {
        let actor = self.actor(names.actor);
        let provider = format!("{}.{}", self.actor(names.provider), names.other);
        let mut needs = vec![
            Need::subscribe(User::Client, names.inbox, "answers to calls"),
            Need::publish(User::Host, names.inbox, "answering calls"),
            Need::subscribe(User::Host, self.hosts(), "hearing each other"),
            Need::publish(User::Host, self.hosts(), "hearing each other"),
            Need::subscribe(User::Host, self.host(names.host), "asking each other"),
            Need::publish(User::Host, self.host(names.host), "asking each other"),
        ];
        for (target, user) in [(actor, User::Client), (provider.clone(), User::Host)] {
            let there = Self::on_host(&target, names.host);
            for subject in [target, there] {
                needs.push(Need::subscribe(User::Host, &*subject, "taking calls"));
                needs.push(Need::publish(user, subject, "calls"));
            }
        }
        for (tail, purpose) in [
            (LINK_PUT, "telling providers of links"),
            (LINK_DEL, "telling providers of links"),
            (HEALTH, "asking providers how they are"),
            (SHUTDOWN, "stopping providers"),
        ] {
            needs.push(Need::publish(User::Host, format!("{provider}.{tail}"), purpose));
        }
        let health = format!("{provider}.{HEALTH}");
        needs.push(Need::subscribe(User::Host, health, "telling how providers are"));
        needs
    }
}

/// Says whether a pattern covers a subject, by the rules of NATS.
pub fn covers(pattern: &str, subject: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::keys::{HostId, LatticeName, LinkName, ProviderId};

    const HOST: &str = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";
    const ACTOR: &str = "MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ";
    const PROVIDER: &str = "VDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYIF3";

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
    }

    #[test]
    fn what_is_used_is_what_is_needed() {
        let subjects = Subjects::new(LatticeName::parse("default").unwrap(), "wasmbus.ctl");
        let names = Names::ANY;
        let provider = ProviderId::parse(PROVIDER).unwrap();
        let link = LinkName::default();
        let called = subjects.provider(&provider, &link);
        let control = subjects.control_needs(&names);
        let calls = subjects.call_needs(&names);
        for (needs, verb, subject) in [
            (&control, Use::Publish, subjects.events()),
            (&control, Use::Publish, subjects.event("host_started")),
            (&control, Use::Subscribe, subjects.progress()),
            (&control, Use::Publish, "_INBOX.abc.1".to_owned()),
            (&control, Use::Publish, subjects.manager(Request::Deploy("shop"))),
            (&control, Use::Subscribe, subjects.manager(Request::Put)),
            (&control, Use::Publish, subjects.manager_events()),
            (&control, Use::Publish, subjects.manager_status("shop")),
            (&control, Use::Subscribe, subjects.manager_status("shop")),
            (&calls, Use::Publish, subjects.actor(ACTOR)),
            (&calls, Use::Subscribe, Subjects::on_host(&subjects.actor(ACTOR), HOST)),
            (&calls, Use::Publish, called.clone()),
            (&calls, Use::Subscribe, Subjects::on_host(&called, HOST)),
            (&calls, Use::Publish, subjects.link_put(&provider, &link)),
            (&calls, Use::Publish, subjects.link_del(&provider, &link)),
            (&calls, Use::Subscribe, subjects.provider_health(&provider, &link)),
            (&calls, Use::Publish, subjects.provider_shutdown(&provider, &link)),
            (&calls, Use::Publish, subjects.hosts()),
            (&calls, Use::Subscribe, subjects.host(HOST)),
            (&calls, Use::Publish, subjects.beat(HOST)),
            (&calls, Use::Subscribe, subjects.beat(HOST)),
        ] {
            let is_needed =
                needs.iter().any(|need| need.verb == verb && covers(&need.subject, &subject));
            assert!(is_needed, "{verb:?} {subject}");
        }
        for subscription in subjects.control_subscriptions(&HostId::parse(HOST).unwrap()) {
            let mut needed = control.iter().filter(|need| need.verb == Use::Subscribe);
            let pattern = subscription.subject.replace(HOST, "*");
            assert!(needed.any(|need| need.subject == pattern), "{pattern}");
        }
    }
}
