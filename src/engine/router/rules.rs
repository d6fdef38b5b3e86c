//! The rules of who may call whom: what an actor means with a namespace, what claims and links
//! allow, and who asks the policy service. Pure: everything that is known comes in as an argument,
//! so that real calls ([`Router`](super::Router)), their explanations
//! ([`explain`](super::explain)) and the tests go by the same functions.

use std::sync::Arc;

use crate::{policy::Decision, rpc::call::CallError};
use lattice_protocol::{
    contracts,
    identity::{
        claims::ActorClaims,
        keys::{ActorId, LatticeName, LinkName},
        validity::Term,
    },
    links::{LinkDefinition, Table},
    rpc::invocation::Entity,
};

/// How long public keys are.
const KEY_CHARS: usize = 56;

/// A capability every host offers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    Logging,
    Numbergen,
}

impl Builtin {
    /// The built-in capability of a contract id.
    pub fn of(contract: &str) -> Option<Self> {
        match contract {
            contracts::LOGGING => Some(Self::Logging),
            contracts::NUMBERGEN => Some(Self::Numbergen),
            _ => None,
        }
    }
}

/// Where an actor's call goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    Builtin(Builtin),
    Entity(Entity),
}

/// The target that an actor means with a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    Builtin(Builtin),
    /// The provider of this link.
    Linked(Arc<LinkDefinition>),
    /// An actor by its public key.
    Actor(Arc<str>),
    /// The actor that owns the call alias.
    Alias(Arc<str>),
}

impl Resolution {
    /// Finds out which target `actor_id` means: the first step of every call of an actor. A
    /// namespace is a contract id, an actor's public key or a call alias; `owner_of` tells which
    /// actor has an alias.
    pub fn find(
        table: &Table,
        lattice: &LatticeName,
        actor_id: &str,
        (binding, namespace): (&str, &str),
        owner_of: impl FnOnce(&str) -> Option<Arc<str>>,
    ) -> Result<Self, CallError> {
        if let Some(builtin) = Builtin::of(namespace) {
            return Ok(Self::Builtin(builtin));
        }
        let link_name = if binding.is_empty() { LinkName::DEFAULT } else { binding };
        if let Some(link) = table.link(actor_id, namespace, link_name) {
            return Ok(Self::Linked(Arc::clone(link)));
        }
        if let Ok(id) = ActorId::parse(namespace) {
            return Ok(Self::Actor(Arc::clone(id.as_arc())));
        }
        if let Some(owner) = owner_of(namespace) {
            return Ok(Self::Alias(owner));
        }
        if !may_be_contract(namespace) {
            return Err(CallError::NoAlias {
                alias: namespace.to_owned(),
                lattice: lattice.to_string(),
            });
        }
        Err(CallError::NoLink {
            namespace: namespace.to_owned(),
            lattice: lattice.to_string(),
            actor_id: actor_id.to_owned(),
            link_name: link_name.to_owned(),
        })
    }

    /// The contract the caller must have been signed for; actors may be called by everybody.
    pub fn contract<'a>(&self, namespace: &'a str) -> Option<&'a str> {
        matches!(self, Self::Builtin(_) | Self::Linked(_)).then_some(namespace)
    }

    /// Where the call goes.
    pub fn route(&self) -> Route {
        match self {
            Self::Builtin(builtin) => Route::Builtin(*builtin),
            Self::Linked(link) => {
                Route::Entity(Entity::new(&link.provider_id, &link.link_name, &link.contract_id))
            }
            Self::Actor(id) | Self::Alias(id) => Route::Entity(Entity::of_actor(Arc::clone(id))),
        }
    }
}

/// Decides where an actor's call goes: `namespace` is a contract id, an actor's public key or a
/// call alias, of which `owner_of` tells the actor. `now` is in seconds since 1970.
pub fn decide(
    table: &Table,
    lattice: &LatticeName,
    (caller, now): (&ActorClaims, u64),
    (binding, namespace): (&str, &str),
    owner_of: impl FnOnce(&str) -> Option<Arc<str>>,
) -> Result<Route, CallError> {
    let actor_id = caller.subject.as_str();
    in_force(caller, now)?;
    let resolution = Resolution::find(table, lattice, actor_id, (binding, namespace), owner_of)
        .map_err(|error| leads_nowhere(error, claimed(actor_id, namespace, &caller.caps)))?;
    if let Some(contract) = resolution.contract(namespace) {
        claimed(actor_id, contract, &caller.caps)?;
    }
    Ok(resolution.route())
}

/// Refuses a call of or to an actor whose claims do not count at `now`, in seconds since 1970.
pub fn in_force(claims: &ActorClaims, now: u64) -> Result<(), CallError> {
    in_term(claims.subject.as_str(), claims.standing_at(now))
}

/// Refuses what has claims that do not count.
pub fn in_term(id: &str, term: Term) -> Result<(), CallError> {
    let why = match term {
        Term::InForce => return Ok(()),
        Term::Expired => "have expired",
        Term::NotYet => "do not count yet",
    };
    Err(CallError::NotInForce { id: id.to_owned(), why })
}

/// Whether a namespace may be a contract id: all of those years have a colon, and no call alias
/// has.
pub fn may_be_contract(namespace: &str) -> bool {
    namespace.contains(':')
}

/// The error of a call that leads nowhere: of an actor that is not signed for the contract either,
/// that comes first.
pub fn leads_nowhere(error: CallError, claim: Result<(), CallError>) -> CallError {
    match (error, claim) {
        (
            CallError::NoLink { namespace, lattice, actor_id, link_name },
            Err(CallError::NoCapability { .. }),
        ) => {
            CallError::NeitherSignedNorLinked { contract: namespace, lattice, actor_id, link_name }
        }
        (error, _) => error,
    }
}

/// Refuses a call of an actor on a contract that its claims do not have.
pub fn claimed(actor_id: &str, contract: &str, capabilities: &[String]) -> Result<(), CallError> {
    if capabilities.iter().any(|capability| capability == contract) {
        return Ok(());
    }
    Err(CallError::NoCapability { contract: contract.to_owned(), actor_id: actor_id.to_owned() })
}

/// Whether an origin is no provider: other actors and tools name no contract and no link, and tools
/// have keys of any form.
pub fn is_actor_or_tool(origin: &Entity) -> bool {
    origin.contract_id.is_empty()
        && origin.link_name.is_empty()
        && !looks_like_a_provider(&origin.public_key)
}

/// Whether a key has the form of a provider's. For every call, so without its checksum.
fn looks_like_a_provider(key: &str) -> bool {
    key.len() == KEY_CHARS && key.starts_with('V')
}

/// Refuses a call to an actor by a provider that has no business with it: one of a contract that
/// the actor was not signed for, or that the actor is not linked to. A host that does not have the
/// `links` of the lattice goes by the claims alone.
pub fn admits(
    links: Option<&Table>,
    origin: &Entity,
    actor_id: &str,
    capabilities: &[String],
) -> Result<(), CallError> {
    signed_for(origin, actor_id, capabilities)?;
    links.map_or(Ok(()), |table| lets_in(table, origin, actor_id))
}

/// Refuses a call to an actor by a provider of a contract that the actor was not signed for. Other
/// actors and tools may call it.
fn signed_for(origin: &Entity, actor_id: &str, capabilities: &[String]) -> Result<(), CallError> {
    let contract = &*origin.contract_id;
    if is_actor_or_tool(origin) || capabilities.iter().any(|capability| capability == contract) {
        return Ok(());
    }
    Err(CallError::NotSignedFor {
        contract: contract.to_owned(),
        actor_id: actor_id.to_owned(),
        origin: origin.public_key.to_string(),
    })
}

/// Refuses a call to an actor by a provider that the actor is not linked to, for this contract and
/// under this link name. Other actors and tools may call it.
fn lets_in(table: &Table, origin: &Entity, actor_id: &str) -> Result<(), CallError> {
    if is_actor_or_tool(origin)
        || table.lets_in(&origin.public_key, actor_id, &origin.contract_id, &origin.link_name)
    {
        return Ok(());
    }
    Err(CallError::NotLetIn {
        actor_id: actor_id.to_owned(),
        origin: origin.public_key.to_string(),
        contract: origin.contract_id.to_string(),
        link_name: origin.link_name.to_string(),
    })
}

/// Refuses a call to a provider by an actor that is not linked to it.
pub fn linked(table: &Table, actor_id: &str, provider: &Entity) -> Result<(), CallError> {
    match table.link(actor_id, &provider.contract_id, &provider.link_name) {
        Some(link) if *link.provider_id == *provider.public_key => Ok(()),
        _ => Err(not_linked(actor_id, provider)),
    }
}

/// Returns the error of a provider for an actor that is not linked to it.
pub fn not_linked(actor_id: &str, provider: &Entity) -> CallError {
    CallError::NotLinked {
        actor_id: actor_id.to_owned(),
        provider_id: provider.public_key.to_string(),
        link_name: provider.link_name.to_string(),
    }
}

/// Where the target of a call runs, seen from the host the call begins on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the same process, and takes calls within it.
    Here,
    Elsewhere,
}

/// Tells whether the host a call begins on asks the policy service: that of a remote actor asks for
/// it.
pub fn asks_policy(target: &Entity, place: Place) -> bool {
    place == Place::Here || !target.is_actor()
}

/// Refuses what the policy service denied.
pub fn permitted(decision: &Decision) -> Result<(), CallError> {
    if decision.permitted {
        return Ok(());
    }
    let Decision { request_id, message, .. } = decision.clone();
    Err(CallError::Denied { request_id, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::{
        identity::samples::{ACTOR, PROVIDER},
        store::{Entry, keys},
    };

    const KV: &str = "wasmcloud:keyvalue";
    const HTTP: &str = "wasmcloud:httpserver";
    const LOG: &str = "wasmcloud:builtin:logging";
    const NUMBERS: &str = "wasmcloud:builtin:numbergen";
    const OTHER: &str = "VB6M3MABBE3QBIZFRTZYOEPMYFBLQ6CVNBHZRMZYFKNNXE3YFYDTDVPG";
    const ALIAS: &str = "acme/pets";

    /// A link of [`ACTOR`], as contract, link name and provider.
    type Link<'a> = (&'a str, &'a str, &'a str);

    fn entry((contract_id, link_name, provider_id): &Link<'_>, revision: u64) -> Entry {
        let link = LinkDefinition {
            actor_id: ACTOR.public.into(),
            provider_id: (*provider_id).into(),
            link_name: (*link_name).into(),
            contract_id: (*contract_id).into(),
            values: Default::default(),
        };
        let value = serde_json::to_vec(&link).unwrap().into();
        Entry { key: keys::link(&link.id()), value, revision }
    }

    fn table(links: &[Link<'_>]) -> Table {
        let mut table = Table::default();
        for (revision, link) in (1..).zip(links) {
            table.put(&entry(link, revision)).unwrap();
        }
        table
    }

    fn texts(capabilities: &[&str]) -> Vec<String> {
        capabilities.iter().map(|contract| (*contract).to_owned()).collect()
    }

    fn claims(capabilities: &[&str]) -> ActorClaims {
        ActorClaims {
            subject: ActorId::parse(ACTOR.public).unwrap(),
            issuer: "A".into(),
            name: None,
            caps: texts(capabilities),
            tags: Vec::new(),
            revision: None,
            version: None,
            call_alias: None,
            issued_at: 0,
            expires: None,
            not_before: None,
            hash: String::new(),
        }
    }

    /// The name of an error's variant.
    fn kind(error: CallError) -> String {
        let text = format!("{error:?}");
        text.chars().take_while(char::is_ascii_alphanumeric).collect()
    }

    fn decided(
        claims: &ActorClaims,
        links: &[Link<'_>],
        target: (&str, &str),
        owner: Option<&str>,
    ) -> Result<Route, String> {
        let lattice = LatticeName::parse("default").unwrap();
        let owner_of = |_: &str| owner.map(Arc::from);
        decide(&table(links), &lattice, (claims, 100), target, owner_of).map_err(kind)
    }

    #[test]
    fn an_actor_reaches_what_its_claims_and_links_allow() {
        let linked: &[Link<'_>] = &[(KV, "default", PROVIDER.public)];
        let linked_as_two: &[Link<'_>] = &[(KV, "two", PROVIDER.public)];
        let to = |link_name: &str| Ok(Route::Entity(Entity::new(PROVIDER.public, link_name, KV)));
        let actor = |key: &str| Ok(Route::Entity(Entity::new(key, "", "")));
        let refused = |kind: &str| Err(kind.to_owned());
        for (number, (capabilities, links, target, owner, expected)) in [
            // A service that every host offers by itself needs a claim and no link.
            (&[LOG][..], &[][..], ("", LOG), None, Ok(Route::Builtin(Builtin::Logging))),
            (&[NUMBERS], &[], ("", NUMBERS), None, Ok(Route::Builtin(Builtin::Numbergen))),
            (&[LOG], &[], ("other", LOG), None, Ok(Route::Builtin(Builtin::Logging))),
            (
                &[LOG],
                &[(LOG, "default", OTHER)],
                ("", LOG),
                None,
                Ok(Route::Builtin(Builtin::Logging)),
            ),
            (&[], &[], ("", LOG), None, refused("NoCapability")),
            (&[NUMBERS, KV], &[], ("", LOG), None, refused("NoCapability")),
            // A provider needs both, for the contract and under the link name.
            (&[KV], linked, ("", KV), None, to("default")),
            (&[KV], linked, ("default", KV), None, to("default")),
            (&[HTTP, KV], linked, ("", KV), None, to("default")),
            (&[KV], linked_as_two, ("two", KV), None, to("two")),
            (&[KV], linked_as_two, ("", KV), None, refused("NoLink")),
            (&[KV], linked, ("two", KV), None, refused("NoLink")),
            (&[KV], &[(HTTP, "default", PROVIDER.public)], ("", KV), None, refused("NoLink")),
            (&[KV], &[], ("", KV), None, refused("NoLink")),
            (&[], linked, ("", KV), None, refused("NoCapability")),
            (&[], &[], ("", KV), None, refused("NeitherSignedNorLinked")),
            (&[HTTP], &[], ("two", KV), None, refused("NeitherSignedNorLinked")),
            // The link comes before the alias.
            (&[KV], linked, ("", KV), Some("MOTHER"), to("default")),
            // An actor needs nothing, by its key or by its alias.
            (&[], &[], ("", ACTOR.public), None, actor(ACTOR.public)),
            (&[], &[], ("", ACTOR.public), Some("MOTHER"), actor(ACTOR.public)),
            (&[], &[], ("", ALIAS), Some("MOTHER"), actor("MOTHER")),
            (&[], &[], ("", ALIAS), None, refused("NoAlias")),
            (&[], &[], ("", "MABC"), None, refused("NoAlias")),
            (&[], &[], ("", ""), None, refused("NoAlias")),
            (&[], &[], ("", "odd:alias"), Some("MOTHER"), actor("MOTHER")),
        ]
        .into_iter()
        .enumerate()
        {
            let case = format!("{number}: {capabilities:?} {links:?} {target:?} {owner:?}");
            assert_eq!(decided(&claims(capabilities), links, target, owner), expected, "{case}");
        }
    }

    #[test]
    fn claims_that_do_not_count_allow_nothing() {
        for (not_before, expires, is_allowed) in [
            (None, None, true),
            (Some(100), Some(100), true),
            (None, Some(99), false),
            (Some(101), None, false),
        ] {
            let claims = ActorClaims { not_before, expires, ..claims(&[]) };
            for target in [ACTOR.public, ALIAS, LOG] {
                let result = decided(&claims, &[], ("", target), Some("MOTHER"));
                let is_in_force = result != Err("NotInForce".to_owned());
                assert_eq!(is_in_force, is_allowed, "{not_before:?} to {expires:?}: {target}");
            }
        }
    }

    #[test]
    fn an_actor_lets_in_actors_tools_and_the_providers_it_is_signed_for_and_linked_to() {
        let provider = (PROVIDER.public, "default", KV);
        let own: &[Link<'_>] = &[(KV, "default", PROVIDER.public)];
        let foreign: &[Link<'_>] = &[(KV, "default", OTHER)];
        let moved: &[Link<'_>] = &[own[0], foreign[0]];
        for (number, (origin, capabilities, links, expected)) in [
            ((ACTOR.public, "", ""), &[][..], Some(&[][..]), None),
            (("__WASH__", "", ""), &[], Some(&[]), None),
            (("V", "", ""), &[], Some(&[]), None),
            (provider, &[KV], Some(own), None),
            (provider, &[HTTP, KV], Some(own), None),
            // The link was moved a moment ago: what was taken on by then is finished.
            (provider, &[KV], Some(moved), None),
            ((OTHER, "default", KV), &[KV], Some(moved), None),
            // Links that are not known forbid nothing.
            (provider, &[KV], None, None),
            (provider, &[], None, Some("NotSignedFor")),
            (provider, &[], Some(own), Some("NotSignedFor")),
            (provider, &[HTTP], Some(own), Some("NotSignedFor")),
            (provider, &[KV], Some(&[]), Some("NotLetIn")),
            (provider, &[KV], Some(foreign), Some("NotLetIn")),
            ((PROVIDER.public, "two", KV), &[KV], Some(own), Some("NotLetIn")),
            ((PROVIDER.public, "default", HTTP), &[KV, HTTP], Some(own), Some("NotLetIn")),
            // A provider that hides its contract is one all the same, and so is what names one.
            ((PROVIDER.public, "", ""), &[KV], Some(own), Some("NotSignedFor")),
            ((PROVIDER.public, "default", ""), &[KV], Some(own), Some("NotSignedFor")),
            (("__WASH__", "default", KV), &[], Some(own), Some("NotSignedFor")),
            (("__WASH__", "default", KV), &[KV], Some(own), Some("NotLetIn")),
            ((ACTOR.public, "default", ""), &[KV], Some(own), Some("NotSignedFor")),
        ]
        .into_iter()
        .enumerate()
        {
            let table = links.map(table);
            let (key, link_name, contract) = origin;
            let origin = Entity::new(key, link_name, contract);
            let result = admits(table.as_ref(), &origin, ACTOR.public, &texts(capabilities));
            let case = format!("{number}: {origin:?} {capabilities:?} {links:?}");
            assert_eq!(result.err().map(kind).as_deref(), expected, "{case}");
        }
    }

    #[test]
    fn a_provider_takes_calls_of_the_actors_that_are_linked_to_it() {
        let table = table(&[(KV, "default", PROVIDER.public), (KV, "two", OTHER)]);
        for (provider, is_linked) in [
            ((PROVIDER.public, "default", KV), true),
            ((OTHER, "two", KV), true),
            ((PROVIDER.public, "two", KV), false),
            ((OTHER, "default", KV), false),
            ((PROVIDER.public, "default", HTTP), false),
            ((PROVIDER.public, "three", KV), false),
        ] {
            let (key, link_name, contract) = provider;
            let result = linked(&table, ACTOR.public, &Entity::new(key, link_name, contract));
            assert_eq!(result.is_ok(), is_linked, "{provider:?}");
            assert!(result.err().is_none_or(|error| error.is_unlinked()), "it is made again");
            assert!(linked(&table, OTHER, &Entity::new(key, link_name, contract)).is_err());
        }
    }

    #[test]
    fn one_host_asks_the_policy_service_for_each_call() {
        let (actor, provider) = (Entity::new("M", "", ""), Entity::new("V", "default", KV));
        assert!(asks_policy(&actor, Place::Here) && asks_policy(&provider, Place::Here));
        assert!(!asks_policy(&actor, Place::Elsewhere), "the host of the actor does");
        assert!(asks_policy(&provider, Place::Elsewhere), "nobody there does");
        for (is_permitted, expected) in [(true, None), (false, Some("Denied"))] {
            let decision = Decision {
                request_id: "r".into(),
                permitted: is_permitted,
                message: Some("why".into()),
            };
            assert_eq!(permitted(&decision).err().map(kind).as_deref(), expected);
        }
    }
}
