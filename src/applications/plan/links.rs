//! Plans the link definitions of an application.
//!
//! Links carry no annotations; what was put for an application is known from a record of its own
//! ([`Input::own_links`]). A link that was put by hand is never deleted here.

use super::{Command, Input, Link, Observed, PartStatus, Plan, Standing, TakenOn};
use lattice_protocol::{
    applications::resolved::{self, Application},
    builtin::name_of,
    links::LinkDefinition,
};

/// Deletes the links that were put for the application and are asked for by nobody.
pub(super) fn plan_deletions(input: Input<'_>, plan: &mut Plan) {
    for own in input.own_links {
        let there = input.observed.links.iter().find(|link| {
            link.is_of(&own.actor_id, &own.contract_id, &own.link_name)
                && link.provider_id == own.provider_id
        });
        let others = input.others.iter().copied();
        let applications = std::iter::once(input.application).chain(others);
        let is_wanted = applications
            .flat_map(|application| wanted(input, application))
            .any(|link| is_same(&link, own));
        if there.is_some() && !is_wanted {
            plan.commands.push(Command::DeleteLink {
                actor_id: own.actor_id.clone(),
                contract_id: own.contract_id.clone(),
                link_name: own.link_name.clone(),
            });
        }
    }
}

fn is_same(link: &Link, other: &LinkDefinition) -> bool {
    other.is_of(&link.actor_id, &link.contract_id, &link.link_name)
}

fn wanted(input: Input<'_>, application: &Application) -> Vec<Link> {
    application.links.iter().filter_map(|link| resolve(input.observed, link).ok()).collect()
}

/// Returns the links of an application that are stored with the values that it wants.
pub fn stored(application: &Application, observed: &Observed) -> Vec<LinkDefinition> {
    let links = application.links.iter().filter_map(|link| resolve(observed, link).ok());
    links.map(LinkDefinition::from).filter(|link| observed.links.contains(link)).collect()
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

/// Puts a link if it is missing or has other values. Of two applications that want it otherwise the
/// first by name has it: one link cannot be both.
fn put(input: Input<'_>, link: Link, plan: &mut Plan) -> Standing {
    let before = input.others.iter().filter(|other| other.name < input.application.name);
    let other = before.copied().find(|other| {
        let mut links = wanted(input, other).into_iter();
        links.any(|theirs| theirs != link && is_same(&theirs, &LinkDefinition::from(link.clone())))
    });
    if let Some(other) = other {
        return Standing::Failed(format!(
            "Application {} links {} for {} ({}) with another provider or other values",
            other.name, link.actor_id, link.contract_id, link.link_name
        ));
    }
    let definition = LinkDefinition::from(link.clone());
    if input.observed.links.contains(&definition) {
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
    for wanted in &input.application.links {
        let standing = match resolve(input.observed, wanted) {
            Err(waiting) => Standing::Reconciling(waiting),
            Ok(link) => put(input, link, plan),
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
