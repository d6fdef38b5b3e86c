//! Every subject of the lattice, built and parsed in one place.
//!
//! Two roots exist. The *control* root `{ctl_topic_prefix}.{lattice}` carries commands and queries
//! (JSON), the *RPC* root `wasmbus.rpc.{lattice}` carries invocations, link deliveries, health
//! checks and shutdown requests (MessagePack), and what hosts say to each other (JSON). Events go
//! to `wasmbus.evt.{lattice}` and, since 2024, also to `wasmbus.evt.{lattice}.{event}`: clients of
//! either time listen to one of the two only, so both are published.
//!
//! Each control subject a host answers has a variant in [`Control`]; [`Subjects::parse_control`] is
//! the inverse of [`Subjects::control`], and a test walks all of them in both directions.

use crate::identity::keys::{ActorId, HostId, LatticeName, LinkName, ProviderId};

/// The longest token that is taken from outside, in characters.
const TOKEN_CHARS_MAX: usize = 255;

/// Builds and parses the subjects of one lattice. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Subjects {
    lattice: LatticeName,
    control_root: String,
}

/// One request of the control interface, as its subject names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    PingHosts,
    AuctionActor,
    AuctionProvider,
    RegistriesPut,
    LinkPut,
    LinkDel,
    Claims,
    Links,
    Inventory { host: String },
    Command { host: String, command: Command },
    LabelPut { host: String },
    LabelDel { host: String },
    ConfigPut { entity: String, key: String },
    ConfigDel { entity: String, key: String },
    ConfigClear { entity: String },
    ConfigGet { entity: String, key: Option<String> },
    Probe { host: String, probe: Probe },
}

/// A question to one host that hosts of earlier years do not know, so that asking them has no
/// responders: the last token of `probe.{host}.{probe}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The calls it served, counted.
    Calls,
    /// The log of an actor or a provider.
    Logs,
    /// How it would decide a call.
    Explain,
    /// Its own state.
    Health,
    /// Link definitions in pages.
    Links,
    /// Claims in pages.
    Claims,
    /// Whether its provider has taken a link on.
    Link,
}

impl Probe {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Calls, "calls"),
        (Self::Logs, "logs"),
        (Self::Explain, "explain"),
        (Self::Health, "health"),
        (Self::Links, "links"),
        (Self::Claims, "claims"),
        (Self::Link, "link"),
    ];

    fn token(self) -> &'static str {
        Self::ALL.iter().find(|(probe, _)| *probe == self).map_or("", |(_, token)| token)
    }

    fn parse(token: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, t)| *t == token).map(|(probe, _)| *probe)
    }
}

/// A command for one host: the last token of `cmd.{host}.{command}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    LaunchActor,
    ScaleActor,
    StopActor,
    UpdateActor,
    LaunchProvider,
    StopProvider,
    StopHost,
}

impl Command {
    const ALL: [(Self, &'static str); 7] = [
        (Self::LaunchActor, "la"),
        (Self::ScaleActor, "scale"),
        (Self::StopActor, "sa"),
        (Self::UpdateActor, "upd"),
        (Self::LaunchProvider, "lp"),
        (Self::StopProvider, "sp"),
        (Self::StopHost, "stop"),
    ];

    fn token(self) -> &'static str {
        Self::ALL.iter().find(|(command, _)| *command == self).map_or("", |(_, token)| token)
    }

    fn parse(token: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, t)| *t == token).map(|(command, _)| *command)
    }
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

/// A subscription a host makes on the control connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSubscription {
    pub subject: String,
    /// The queue group, for requests that one host of the lattice answers for all.
    pub queue: Option<String>,
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

    /// Returns the prefix of every control subject: `{ctl_topic_prefix}.{lattice}`.
    pub fn control_root(&self) -> &str {
        &self.control_root
    }

    /// Returns the subscriptions of a host on the control connection (lattice protocol, section
    /// 2.2). The queue group names are those of the 2024 hosts, so that in a lattice with both one
    /// of them answers.
    pub fn control_subscriptions(&self, host: &HostId) -> Vec<ControlSubscription> {
        let root = &self.control_root;
        let of_each = [
            "ping.hosts".to_owned(),
            "registries.put".to_owned(),
            "auction.>".to_owned(),
            format!("cmd.{host}.*"),
            format!("get.{host}.inv"),
            format!("labels.{host}.*"),
            format!("probe.{host}.*"),
        ];
        let of_one = [
            ("get.*", "get"),
            ("linkdefs.*", "linkdefs"),
            ("config.>", "config"),
            ("get.config.>", "get.config"),
        ];
        let of_each = of_each
            .map(|tail| ControlSubscription { subject: format!("{root}.{tail}"), queue: None });
        let of_one = of_one.map(|(tail, group)| ControlSubscription {
            subject: format!("{root}.{tail}"),
            queue: Some(format!("{root}.{group}")),
        });
        of_each.into_iter().chain(of_one).collect()
    }

    /// The subject of a control request; the inverse of [`Self::parse_control`].
    pub fn control(&self, request: &Control) -> String {
        let root = &self.control_root;
        match request {
            Control::PingHosts => format!("{root}.ping.hosts"),
            Control::AuctionActor => format!("{root}.auction.actor"),
            Control::AuctionProvider => format!("{root}.auction.provider"),
            Control::RegistriesPut => format!("{root}.registries.put"),
            Control::LinkPut => format!("{root}.linkdefs.put"),
            Control::LinkDel => format!("{root}.linkdefs.del"),
            Control::Claims => format!("{root}.get.claims"),
            Control::Links => format!("{root}.get.links"),
            Control::Inventory { host } => format!("{root}.get.{host}.inv"),
            Control::Command { host, command } => format!("{root}.cmd.{host}.{}", command.token()),
            Control::LabelPut { host } => format!("{root}.labels.{host}.put"),
            Control::LabelDel { host } => format!("{root}.labels.{host}.del"),
            Control::ConfigPut { entity, key } => format!("{root}.config.put.{entity}.{key}"),
            Control::ConfigDel { entity, key } => format!("{root}.config.del.{entity}.{key}"),
            Control::ConfigClear { entity } => format!("{root}.config.clear.{entity}"),
            Control::ConfigGet { entity, key: None } => format!("{root}.get.config.{entity}"),
            Control::ConfigGet { entity, key: Some(key) } => {
                format!("{root}.get.config.{entity}.{key}")
            }
            Control::Probe { host, probe } => format!("{root}.probe.{host}.{}", probe.token()),
        }
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
        Some(match *tokens.as_slice() {
            ["ping", "hosts"] => Control::PingHosts,
            ["auction", "actor"] => Control::AuctionActor,
            ["auction", "provider"] => Control::AuctionProvider,
            ["registries", "put"] => Control::RegistriesPut,
            ["linkdefs", "put"] => Control::LinkPut,
            ["linkdefs", "del"] => Control::LinkDel,
            ["get", "claims"] => Control::Claims,
            ["get", "links"] => Control::Links,
            ["get", "config", entity] => {
                Control::ConfigGet { entity: entity.to_owned(), key: None }
            }
            ["get", "config", entity, key] => {
                Control::ConfigGet { entity: entity.to_owned(), key: Some(key.to_owned()) }
            }
            ["get", host, "inv"] => Control::Inventory { host: host.to_owned() },
            ["cmd", host, command] => {
                Control::Command { host: host.to_owned(), command: Command::parse(command)? }
            }
            ["probe", host, probe] => {
                Control::Probe { host: host.to_owned(), probe: Probe::parse(probe)? }
            }
            ["labels", host, "put"] => Control::LabelPut { host: host.to_owned() },
            ["labels", host, "del"] => Control::LabelDel { host: host.to_owned() },
            ["config", "put", entity, key] => {
                Control::ConfigPut { entity: entity.to_owned(), key: key.to_owned() }
            }
            ["config", "del", entity, key] => {
                Control::ConfigDel { entity: entity.to_owned(), key: key.to_owned() }
            }
            // The client crates of 2024 clear with `del` and one token, the hosts of 2024 know
            // `clear` only.
            ["config", "clear" | "del", entity] => {
                Control::ConfigClear { entity: entity.to_owned() }
            }
            _ => return None,
        })
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

    /// The API of the deployment manager, a program of its own: an operation, on one application or
    /// on all.
    pub fn manager(&self, operation: &str, application: Option<&str>) -> String {
        let all = format!("wadm.api.{}.model.{operation}", self.lattice);
        application.map_or_else(|| all.clone(), |name| format!("{all}.{name}"))
    }

    /// Where every event of the lattice goes.
    pub fn events(&self) -> String {
        format!("wasmbus.evt.{}", self.lattice)
    }

    /// Where events of one name go as well (clients since 2024 listen here).
    pub fn event(&self, name: &str) -> String {
        format!("wasmbus.evt.{}.{name}", self.lattice)
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
        format!("{}.linkdefs.put", self.provider(provider, link))
    }

    /// Tells a provider that a link definition is gone.
    pub fn link_del(&self, provider: &ProviderId, link: &LinkName) -> String {
        format!("{}.linkdefs.del", self.provider(provider, link))
    }

    /// Asks a provider whether it is well.
    pub fn provider_health(&self, provider: &ProviderId, link: &LinkName) -> String {
        format!("{}.health", self.provider(provider, link))
    }

    /// Asks a provider to end.
    pub fn provider_shutdown(&self, provider: &ProviderId, link: &LinkName) -> String {
        format!("{}.shutdown", self.provider(provider, link))
    }

    /// Where hosts speak to all other hosts (`peers`). Hosts of 2022 to 2024 do not listen there.
    pub fn hosts(&self) -> String {
        format!("wasmbus.rpc.{}.hosts", self.lattice)
    }

    /// Where one host is asked by others.
    pub fn host(&self, host: &str) -> String {
        format!("wasmbus.rpc.{}.{host}", self.lattice)
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
    use super::*;

    const HOST: &str = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF";
    const ACTOR: &str = "MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ";

    fn subjects() -> Subjects {
        Subjects::new(LatticeName::parse("default").unwrap(), "wasmbus.ctl")
    }

    #[test]
    fn every_control_subject_parses_back() {
        let host = HOST.to_owned();
        let entity = ACTOR.to_owned();
        let key = "key".to_owned();
        let mut all = vec![
            Control::PingHosts,
            Control::AuctionActor,
            Control::AuctionProvider,
            Control::RegistriesPut,
            Control::LinkPut,
            Control::LinkDel,
            Control::Claims,
            Control::Links,
            Control::Inventory { host: host.clone() },
            Control::LabelPut { host: host.clone() },
            Control::LabelDel { host: host.clone() },
            Control::ConfigPut { entity: entity.clone(), key: key.clone() },
            Control::ConfigDel { entity: entity.clone(), key: key.clone() },
            Control::ConfigClear { entity: entity.clone() },
            Control::ConfigGet { entity: entity.clone(), key: None },
            Control::ConfigGet { entity, key: Some(key) },
        ];
        all.extend(
            Command::ALL.map(|(command, _)| Control::Command { host: host.clone(), command }),
        );
        all.extend(Probe::ALL.map(|(probe, _)| Control::Probe { host: host.clone(), probe }));
        for request in all {
            let subject = subjects().control(&request);
            assert_eq!(subjects().parse_control(&subject), Some(request), "{subject}");
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
        const PROVIDER: &str = "VDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYIF3";
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
