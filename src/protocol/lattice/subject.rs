//! Every subject of the lattice, built and parsed in one place.
//!
//! Two roots exist. The *control* root `{ctl_topic_prefix}.{lattice}` carries commands and queries
//! (JSON), the *RPC* root `wasmbus.rpc.{lattice}` carries invocations, link deliveries, health
//! checks and shutdown requests (MessagePack), and what hosts say to each other (JSON). Events go
//! to `wasmbus.evt.{lattice}` and, since 2024, also to `wasmbus.evt.{lattice}.{event}`: clients of
//! either time listen to one of the two only, so both are published.
//!
//! The requests of the control interface are a table of their own, [`control`](super::control);
//! [`SUBSCRIPTIONS`] is the table of what hosts listen to. From both
//! [`permissions`](super::permissions) are derived.

use super::control::Control;
use crate::{
    applications::request::Request,
    identity::keys::{ActorId, HostId, LatticeName, LinkName, ProviderId},
};

/// The longest token that is taken from outside, in characters.
const TOKEN_CHARS_MAX: usize = 255;

/// Ends of the subjects on which a provider is told something.
pub(super) const LINK_PUT: &str = "linkdefs.put";
pub(super) const LINK_DEL: &str = "linkdefs.del";
pub(super) const HEALTH: &str = "health";
pub(super) const SHUTDOWN: &str = "shutdown";

/// Builds and parses the subjects of one lattice. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Subjects {
    lattice: LatticeName,
    control_root: String,
}

/// The subjects that hosts listen to on the control connection.
pub(super) struct Listening {
    /// The subject below the control root; `@` stands for the key of the host.
    tail: &'static str,
    /// The queue group, below the control root too, for requests that one host of the lattice
    /// answers for all. The names are those of the 2024 hosts, so that in a lattice with both one
    /// of them answers.
    group: Option<&'static str>,
    pub(super) purpose: &'static str,
}

const fn of_each(tail: &'static str, purpose: &'static str) -> Listening {
    Listening { tail, group: None, purpose }
}

const fn of_one(tail: &'static str, group: &'static str, purpose: &'static str) -> Listening {
    Listening { tail, group: Some(group), purpose }
}

/// Every subscription of a host on the control connection (lattice protocol, section 2.2).
pub(super) const SUBSCRIPTIONS: [Listening; 11] = [
    of_each("ping.hosts", "being found"),
    of_each("registries.put", "taking registry credentials"),
    of_each("auction.>", "being chosen for a start"),
    of_each("cmd.@.*", "commands"),
    of_each("get.@.inv", "telling what runs"),
    of_each("labels.@.*", "taking labels"),
    of_each("probe.@.*", "telling how it is"),
    of_one("get.*", "get", "telling links and claims"),
    of_one("linkdefs.*", "linkdefs", "taking links on"),
    of_one("config.>", "config", "taking named configuration"),
    of_one("get.config.>", "get.config", "telling named configuration"),
];

/// A subscription a host makes on the control connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSubscription {
    pub subject: String,
    /// The queue group, for requests that one host of the lattice answers for all.
    pub queue: Option<String>,
}

/// The parts of the subject of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallSubject<'a> {
    /// Public key of an actor or a provider.
    pub target: &'a str,
    /// Of a provider.
    pub link_name: Option<&'a str>,
    /// The host that is meant, if the caller has chosen one.
    pub host: Option<&'a str>,
}

/// Tells whether a text is one plain token: 1 to 255 letters, digits, `-`, `_`, `=` and `/`. Every
/// text from outside is checked with this, or parsed, before it becomes a part of a subject or a
/// key.
pub fn is_token(text: &str) -> bool {
    (1..=TOKEN_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=/".contains(&byte))
}

impl Subjects {
    /// `control_prefix` is the configured `ctl_topic_prefix`, `wasmbus.ctl` unless told otherwise.
    pub fn new(lattice: LatticeName, control_prefix: &str) -> Self {
        let control_root = format!("{control_prefix}.{lattice}");
        Self { lattice, control_root }
    }

    pub fn lattice(&self) -> &LatticeName {
        &self.lattice
    }

    /// Returns the subscriptions of a host on the control connection ([`SUBSCRIPTIONS`]).
    pub fn control_subscriptions(&self, host: &HostId) -> Vec<ControlSubscription> {
        let root = &self.control_root;
        let subscriptions = SUBSCRIPTIONS.iter().map(|listening| ControlSubscription {
            subject: self.listened(listening, host.as_str()),
            queue: listening.group.map(|group| format!("{root}.{group}")),
        });
        subscriptions.collect()
    }

    /// Returns the subject of a subscription.
    pub(super) fn listened(&self, listening: &Listening, host: &str) -> String {
        format!("{}.{}", self.control_root, listening.tail.replace('@', host))
    }

    /// The subject of a control request; the inverse of [`Self::parse_control`].
    pub fn control(&self, request: &Control) -> String {
        format!("{}.{}", self.control_root, request.tail())
    }

    /// Reads the subject of a control request; `None` for a subject no host knows.
    pub fn parse_control(&self, subject: &str) -> Option<Control> {
        let tail = subject.strip_prefix(&self.control_root)?.strip_prefix('.')?;
        let tokens: Vec<&str> = tail.split('.').collect();
        // A published subject may contain wildcards, and they would get into keys and other
        // subjects.
        if !tokens.iter().all(|token| is_token(token)) {
            return None;
        }
        match *tokens.as_slice() {
            // The client crates of 2024 clear with `del` and one token, the hosts of 2024 know
            // `clear` only.
            ["config", "del", entity] => Control::parse(&["config", "clear", entity]),
            _ => Control::parse(&tokens),
        }
    }

    /// Whether a control subject belongs to an auction, of whatever kind.
    pub fn is_auction(&self, subject: &str) -> bool {
        subject.strip_prefix(&self.control_root).is_some_and(|tail| tail.starts_with(".auction."))
    }

    /// Where hosts tell how starts get on: stages and bytes. Nothing is kept of it, and who does
    /// not listen misses nothing.
    pub fn progress(&self) -> String {
        format!("{}.progress", self.control_root)
    }

    /// The beginning of the subjects of the applications' API.
    pub fn manager_root(&self) -> String {
        format!("wadm.api.{}", self.lattice)
    }

    /// Where it is told that applications are deployed or undeployed.
    pub fn manager_events(&self) -> String {
        format!("wadm.evt.{}", self.lattice)
    }

    /// The records of an application's status.
    pub fn manager_status(&self, application: &str) -> String {
        format!("wadm.status.{}.{application}", self.lattice)
    }

    /// The API of applications, answered by hosts or by a deployment manager.
    pub fn manager(&self, request: Request<'_>) -> String {
        request.subject(&self.manager_root())
    }

    /// Where every event of the lattice goes.
    pub fn events(&self) -> String {
        format!("wasmbus.evt.{}", self.lattice)
    }

    /// Where events of one name go as well (clients since 2024 listen here).
    pub fn event(&self, name: &str) -> String {
        format!("wasmbus.evt.{}.{name}", self.lattice)
    }

    /// Where it is told that something begins or ceases to need attention.
    pub fn attention(&self) -> String {
        format!("wasmbus.attention.{}", self.lattice)
    }

    /// Invocations of an actor. The queue group of its subscribers is the subject itself.
    pub fn actor(&self, actor: &str) -> String {
        format!("wasmbus.rpc.{}.{actor}", self.lattice)
    }

    /// Invocations of a provider under one link name.
    pub fn provider(&self, provider: &ProviderId, link: &LinkName) -> String {
        format!("wasmbus.rpc.{}.{provider}.{link}", self.lattice)
    }

    /// Tells a provider about a new link definition.
    pub fn link_put(&self, provider: &ProviderId, link: &LinkName) -> String {
        format!("{}.{LINK_PUT}", self.provider(provider, link))
    }

    /// Tells a provider that a link definition is gone.
    pub fn link_del(&self, provider: &ProviderId, link: &LinkName) -> String {
        format!("{}.{LINK_DEL}", self.provider(provider, link))
    }

    /// Asks a provider whether it is well.
    pub fn provider_health(&self, provider: &ProviderId, link: &LinkName) -> String {
        format!("{}.{HEALTH}", self.provider(provider, link))
    }

    /// Asks a provider to end.
    pub fn provider_shutdown(&self, provider: &ProviderId, link: &LinkName) -> String {
        format!("{}.{SHUTDOWN}", self.provider(provider, link))
    }

    /// Where hosts speak to all other hosts (`peers`). Hosts of 2022 to 2024 do not listen there.
    pub fn hosts(&self) -> String {
        format!("wasmbus.rpc.{}.hosts", self.lattice)
    }

    /// Where one host is asked by others.
    pub fn host(&self, host: &str) -> String {
        format!("wasmbus.rpc.{}.{host}", self.lattice)
    }

    /// Where one host says every second that it is there, for those that watch it. A single token,
    /// so that the permission for [`host`](Self::host) covers it.
    pub fn beat(&self, host: &str) -> String {
        format!("{}-beat", self.host(host))
    }

    /// Invocations of a target on one host: those of its queue group go to `subject`.
    pub fn on_host(subject: &str, host: &str) -> String {
        format!("{subject}.{host}")
    }

    /// Every call of the lattice that passes NATS, and what else goes by these subjects.
    pub fn calls(&self) -> String {
        format!("wasmbus.rpc.{}.>", self.lattice)
    }

    /// Reads the target of a call from its subject; `None` for a subject that is no call.
    pub fn parse_call<'a>(&self, subject: &'a str) -> Option<CallSubject<'a>> {
        let tail = subject
            .strip_prefix("wasmbus.rpc.")?
            .strip_prefix(self.lattice.as_str())?
            .strip_prefix('.')?;
        let tokens: Vec<&str> = tail.split('.').collect();
        let (target, link_name, host) = match *tokens.as_slice() {
            [actor] if ActorId::parse(actor).is_ok() => (actor, None, None),
            [actor, host] if ActorId::parse(actor).is_ok() => (actor, None, Some(host)),
            [provider, link] if ProviderId::parse(provider).is_ok() => (provider, Some(link), None),
            [provider, link, host] if ProviderId::parse(provider).is_ok() => {
                (provider, Some(link), Some(host))
            }
            _ => return None,
        };
        host.is_none_or(|host| HostId::parse(host).is_ok()).then_some(CallSubject {
            target,
            link_name,
            host,
        })
    }

    /// Where the configuration service of the lattice is asked at start.
    pub fn config_service(&self) -> String {
        format!("wasmbus.cfg.{}.req", self.lattice)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::permissions::covers, *};

    const HOST: &str = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";
    const ACTOR: &str = "MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ";
    const PROVIDER: &str = "VDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYIF3";

    fn subjects() -> Subjects {
        Subjects::new(LatticeName::parse("default").unwrap(), "wasmbus.ctl")
    }

    /// The texts that clients of five years send and hear.
    const TAILS: [&str; 36] = [
        "ping.hosts",
        "auction.actor",
        "auction.provider",
        "registries.put",
        "linkdefs.put",
        "linkdefs.del",
        "get.claims",
        "get.links",
        "get.config.E",
        "get.config.E.K",
        "config.put.E.K",
        "config.del.E.K",
        "config.clear.E",
        "get.N.inv",
        "cmd.N.la",
        "cmd.N.scale",
        "cmd.N.sa",
        "cmd.N.upd",
        "cmd.N.lp",
        "cmd.N.sp",
        "cmd.N.stop",
        "cmd.N.forget",
        "labels.N.put",
        "labels.N.del",
        "probe.N.calls",
        "probe.N.logs",
        "probe.N.explain",
        "probe.N.health",
        "probe.N.links",
        "probe.N.claims",
        "probe.N.link",
        "probe.N.link_change",
        "probe.N.failures",
        "probe.N.lost",
        "probe.N.attention",
        "cmd.N.attention",
    ];

    #[test]
    fn every_control_subject_is_as_it_always_was_and_parses_back() {
        let all = Control::every("N", "E", "K");
        let tails: Vec<String> = all.iter().map(Control::tail).collect();
        assert_eq!(tails, TAILS);
        for request in all {
            let subject = subjects().control(&request);
            assert_eq!(subjects().parse_control(&subject), Some(request), "{subject}");
        }
    }

    #[test]
    fn every_control_subject_is_heard_once_and_by_whom_it_is_meant() {
        let host = HostId::parse(HOST).unwrap();
        let subscriptions = subjects().control_subscriptions(&host);
        for request in Control::every(HOST, ACTOR, "key") {
            let subject = subjects().control(&request);
            let heard: Vec<&ControlSubscription> =
                subscriptions.iter().filter(|each| covers(&each.subject, &subject)).collect();
            let [one] = heard.as_slice() else { panic!("{subject}: {heard:?}") };
            let is_for_all = match request {
                Control::PingHosts
                | Control::AuctionActor
                | Control::AuctionProvider
                | Control::RegistriesPut => false,
                _ => !subject.contains(HOST),
            };
            assert_eq!(one.queue.is_some(), is_for_all, "{subject}");
        }
    }

    #[test]
    fn subjects_of_others_are_not_parsed() {
        for subject in [
            "wasmbus.ctl.other.ping.hosts",
            "wasmbus.ctl.default",
            "wasmbus.ctl.default.cmd.N.dance",
            "x",
        ] {
            assert_eq!(subjects().parse_control(subject), None, "{subject}");
        }
    }

    #[test]
    fn tokens_with_wildcards_or_worse_are_no_names() {
        for bad in ["*", ">", "", "a*", "a b", "a\r\n", "\u{1b}[2J", "ä", "a.b", &"x".repeat(256)]
        {
            assert!(!is_token(bad), "{bad:?}");
            for subject in [
                format!("config.put.{ACTOR}.{bad}"),
                format!("get.{bad}.inv"),
                format!("cmd.{bad}.la"),
            ] {
                let parsed = subjects().parse_control(&format!("wasmbus.ctl.default.{subject}"));
                assert_eq!(parsed, None, "{subject:?}");
            }
        }
        assert!(is_token(ACTOR) && is_token("a-b_c=/1"));
    }

    #[test]
    fn clearing_configuration_has_two_spellings() {
        let cleared = Some(Control::ConfigClear { entity: ACTOR.into() });
        assert_eq!(
            subjects().parse_control(&format!("wasmbus.ctl.default.config.del.{ACTOR}")),
            cleared
        );
        assert_eq!(
            subjects().parse_control(&format!("wasmbus.ctl.default.config.clear.{ACTOR}")),
            cleared
        );
    }

    #[test]
    fn subjects_of_calls_are_told_from_others() {
        let (subjects, link) = (subjects(), LinkName::default());
        let provider = ProviderId::parse(PROVIDER).unwrap();
        for (subject, link_name, target) in [
            (subjects.actor(ACTOR), None, ACTOR),
            (subjects.provider(&provider, &link), Some("default"), PROVIDER),
        ] {
            assert_eq!(
                subjects.parse_call(&subject),
                Some(CallSubject { target, link_name, host: None })
            );
            let there = Subjects::on_host(&subject, HOST);
            assert_eq!(
                subjects.parse_call(&there),
                Some(CallSubject { target, link_name, host: Some(HOST) })
            );
        }
        for none in [
            subjects.hosts(),
            subjects.host(HOST),
            subjects.beat(HOST),
            subjects.link_put(&provider, &link),
            subjects.provider_health(&provider, &link),
            subjects.provider_shutdown(&provider, &link),
            subjects.actor("MABC"),
            format!("wasmbus.rpc.other.{ACTOR}"),
        ] {
            assert_eq!(subjects.parse_call(&none), None, "{none}");
        }
    }

    #[test]
    fn a_prefix_of_many_tokens_works() {
        let subjects = Subjects::new(LatticeName::parse("shop").unwrap(), "acme.floor.one.ctl");
        assert_eq!(subjects.control(&Control::PingHosts), "acme.floor.one.ctl.shop.ping.hosts");
        assert_eq!(
            subjects.parse_control("acme.floor.one.ctl.shop.ping.hosts"),
            Some(Control::PingHosts)
        );
    }
}
