//! Plans the link definitions of an application.
//!
//! Links carry no annotations; what was put for an application is known from a record of its own
//! ([`Input::own_links`]). A link that was put by hand is never deleted here.

use std::collections::{HashMap, HashSet};

use super::{
    Command, Input, Link, Observed, PartStatus, Plan, Standing, TakenOn, is_of_application,
};
use lattice_protocol::{
    applications::resolved::{self, Application},
    builtin::name_of,
    links::LinkDefinition,
};

/// Deletes the links that were put for the application and are asked for by nobody. One whose place
/// may be that of a link with a new image stays until it is known whose image that is: the version
/// that runs still needs it.
pub(super) fn plan_deletions(input: Input<'_>, plan: &mut Plan) {
    if input.own_links.is_empty() {
        return;
    }
    let others = input.others.iter().copied();
    let applications: Vec<&Application> =
        std::iter::once(input.application).chain(others).collect();
    let wanted: Vec<Link> =
        applications.iter().flat_map(|application| wanted(input, application)).collect();
    let wanted: HashSet<_> = wanted.iter().map(three).collect();
    let there: HashMap<_, _> =
        input.observed.links.iter().map(|link| (three_of(link), &link.provider_id)).collect();
    for own in input.own_links {
        let is_there = there.get(&three_of(own)) == Some(&&own.provider_id);
        let is_needed = wanted.contains(&three_of(own))
            || applications.iter().any(|application| may_need(input, application, own));
        if is_there && !is_needed {
            plan.commands.push(Command::DeleteLink {
                actor_id: own.actor_id.clone(),
                contract_id: own.contract_id.clone(),
                link_name: own.link_name.clone(),
            });
        }
    }
}

/// Whether an application has a link whose images are not all known, and which may be for the place
/// of this one.
fn may_need(input: Input<'_>, application: &Application, own: &LinkDefinition) -> bool {
    let may_be_of_actor = |image: &String| match input.observed.keys.get(image) {
        Some(key) => *key == own.actor_id,
        // Another application needs what its own actors use; nothing else of it keeps this one.
        None => {
            application.name == input.application.name
                || runs(input.observed, application, &own.actor_id)
        }
    };
    application.links.iter().any(|link| {
        link.link_name == own.link_name
            && link.contract.as_ref().is_none_or(|contract| *contract == own.contract_id)
            && may_be_of_actor(&link.actor_image)
            && resolve(input.observed, link).is_err()
    })
}

/// Whether an actor runs for an application.
fn runs(observed: &Observed, application: &Application, actor_id: &str) -> bool {
    let mut groups = observed.hosts.values().flat_map(|view| &view.actors);
    groups.any(|group| group.key == actor_id && is_of_application(application, &group.annotations))
}

/// The texts of which there is one link: actor, contract and link name.
fn three(link: &Link) -> [&str; 3] {
    [&link.actor_id, &link.contract_id, &link.link_name]
}

fn three_of(link: &LinkDefinition) -> [&str; 3] {
    [&link.actor_id, &link.contract_id, &link.link_name]
}

fn wanted(input: Input<'_>, application: &Application) -> Vec<Link> {
    application.links.iter().filter_map(|link| resolve(input.observed, link).ok()).collect()
}

/// Returns the links of an application that are stored with the values that it wants; `there` are
/// the observed ones.
pub fn stored(
    application: &Application,
    observed: &Observed,
    there: &HashSet<&LinkDefinition>,
) -> Vec<LinkDefinition> {
    let links = application.links.iter().filter_map(|link| resolve(observed, link).ok());
    links.map(LinkDefinition::from).filter(|link| there.contains(link)).collect()
}

/// Returns a link with the keys that its images led to; an error says which do not have one yet.
fn resolve(observed: &Observed, link: &resolved::Link) -> Result<Link, String> {
    let key = |image: &String| observed.keys.get(image).cloned();
    let missing = || {
        format!(
            "Linkdef pending, waiting for {} and {} to start",
            link.actor_image, link.provider_image
        )
    };
    let actor_id = key(&link.actor_image).ok_or_else(missing)?;
    let provider_id = key(&link.provider_image).ok_or_else(missing)?;
    let contract_id = link
        .contract
        .clone()
        .or_else(|| observed.contracts.get(&provider_id).cloned())
        .ok_or_else(missing)?;
    let (link_name, values) = (link.link_name.clone(), link.values.clone());
    Ok(Link { actor_id, provider_id, link_name, contract_id, values })
}

/// The links that a link is held against.
struct Known<'a> {
    there: HashSet<&'a LinkDefinition>,
    /// Those of applications that come first by name.
    before: Vec<(&'a Application, ByThree<'a>)>,
}

type ByThree<'a> = HashMap<[&'a str; 3], Vec<&'a Link>>;

fn by_three(links: &[Link]) -> ByThree<'_> {
    let mut all = ByThree::new();
    for link in links {
        all.entry(three(link)).or_default().push(link);
    }
    all
}

/// Puts a link if it is missing or has other values. Of two applications that want it otherwise the
/// first by name has it: one link cannot be both.
fn put(known: &Known<'_>, input: Input<'_>, link: Link, plan: &mut Plan) -> Standing {
    let other = known.before.iter().find(|(_, links)| {
        links.get(&three(&link)).is_some_and(|theirs| theirs.iter().any(|theirs| **theirs != link))
    });
    if let Some((other, _)) = other {
        return Standing::Failed(format!(
            "Application {} links {} for {} ({}) with another provider or other values",
            other.name, link.actor_id, link.contract_id, link.link_name
        ));
    }
    let definition = LinkDefinition::from(link.clone());
    if known.there.contains(&definition) {
        return taken(input.observed, &definition);
    }
    let between = format!("link definition between {} and {}", link.actor_id, link.provider_id);
    let standing = match input.refused.links.get(&link) {
        Some(error) => Standing::Failed(format!("The {between} is not put: {error}")),
        None => Standing::Reconciling(format!("Putting {between}")),
    };
    plan.commands.push(Command::PutLink(link));
    standing
}

/// How a link stands that is stored: as its provider says.
fn taken(observed: &Observed, link: &LinkDefinition) -> Standing {
    let provider = name_of(&link.provider_id);
    match observed.taken.get(&link.id()) {
        None | Some(TakenOn::Yes) => Standing::Deployed,
        Some(TakenOn::Awaited) => Standing::Reconciling(format!(
            "Waiting for {provider} to take on the link for {}",
            link.contract_id
        )),
        Some(TakenOn::Refused { host, error }) => {
            let host = observed.called(host);
            Standing::Failed(format!(
                "{provider} on host {host} does not take on the link for {}: {error}",
                link.contract_id
            ))
        }
    }
}

/// Puts what is missing or has other values.
pub(super) fn plan_puts(input: Input<'_>, plan: &mut Plan) {
    if input.application.links.is_empty() {
        return;
    }
    let before = input.others.iter().filter(|other| other.name < input.application.name);
    let before: Vec<(&Application, Vec<Link>)> =
        before.map(|other| (*other, wanted(input, other))).collect();
    let known = Known {
        there: input.observed.links.iter().collect(),
        before: before.iter().map(|(other, links)| (*other, by_three(links))).collect(),
    };
    for wanted in &input.application.links {
        let standing = match resolve(input.observed, wanted) {
            Err(waiting) => Standing::Reconciling(waiting),
            Ok(link) => put(&known, input, link, plan),
        };
        plan.parts.push(PartStatus {
            id: format!(
                "linkdefscaler-{}-{}-{}-{}",
                input.application.name, wanted.link_name, wanted.actor_image, wanted.provider_image
            ),
            kind: "LinkScaler",
            name: format!("{} -> {}", wanted.actor_image, wanted.provider_image),
            component: String::new(),
            standing,
        });
    }
}
