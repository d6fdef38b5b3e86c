//! Links that somebody should look at, and how each stands.

use super::{Attention, Grade, Rank};
use crate::model::{Index, fix::Fix, names::name_or_short};
use lattice_protocol::{
    identity::keys::LinkName,
    links::{Ends, LinkDefinition, Standing, Table, link_option},
};

/// How a link stands, by all that this dashboard knows. `refusal` is the reason of its provider.
pub fn standing(
    link: &LinkDefinition,
    table: &Table,
    index: &Index,
    refusal: Option<&str>,
) -> Standing {
    let ends = Ends {
        actor: table.claims(&link.actor_id).map(|claims| &**claims),
        provider: table.claims(&link.provider_id).map(|claims| &**claims),
        actor_runs: index.actors.contains_key(&link.actor_id),
        provider_runs: index.runs(&link.provider_id, &link.link_name),
        refusal,
    };
    Standing::of(link, &ends)
}

/// Says what is wrong with a link; a refusal is told in the provider's own words elsewhere.
pub fn problem(link: &LinkDefinition, table: &Table, standing: &Standing) -> Option<String> {
    // Names are looked for only where there is something to tell: this goes through all links.
    if matches!(standing, Standing::Ok | Standing::Refused(_)) {
        return None;
    }
    let [name, provider] = [&link.actor_id, &link.provider_id].map(|id| name_or_short(table, id));
    let contract = &link.contract_id;
    Some(match standing {
        Standing::Ok | Standing::Refused(_) => return None,
        Standing::NotSigned => {
            format!("{name} is linked for {contract}, but was not signed for it")
        }
        Standing::WrongContract(fulfils) => {
            format!("{name} is linked to {provider} for {contract}, which fulfils {fulfils}")
        }
        Standing::ProviderMissing => match link.link_name.as_str() {
            LinkName::DEFAULT => {
                format!("{name} is linked to {provider} for {contract}, which runs nowhere")
            }
            link_name => format!(
                "{name} is linked to {provider} for {contract}, which runs nowhere under link name {link_name}"
            ),
        },
        Standing::ActorMissing => format!("{name} runs nowhere"),
    })
}

/// Tells of a link that somebody should look at.
pub(super) fn of_link(
    link: &LinkDefinition,
    table: &Table,
    standing: &Standing,
) -> Option<Attention> {
    let LinkDefinition { actor_id, provider_id, contract_id, .. } = link;
    let (advice, fix) = match standing {
        // A link of what does not run yet waits for it; that is how applications are prepared. A
        // refusal is told with its host.
        Standing::ActorMissing | Standing::Refused(_) | Standing::Ok => return None,
        Standing::NotSigned => {
            (format!("Sign it with `host claims sign --cap {contract_id}`."), None)
        }
        Standing::WrongContract(fulfils) => {
            let option = link_option(&link.link_name);
            let advice = format!(
                "Delete it, `host link del {actor_id} {contract_id}{option}`, and put it for {fulfils}: `host link put {actor_id} \
                 {provider_id} {fulfils}{option} KEY=VALUE`"
            );
            (advice, None)
        }
        Standing::ProviderMissing => {
            let advice = "Start the provider, or delete the link.".to_owned();
            (advice, Some(Fix::of_absent(link)))
        }
    };
    let severity = if standing.is_wrong() { Grade::Error } else { Grade::Warning };
    let text = problem(link, table, standing)?;
    let mut item = Attention::new(severity, "link", actor_id, text)
        .about(&name_or_short(table, actor_id))
        .advice(advice)
        .rank(Rank::Configuration);
    item.link_name.clone_from(&link.link_name);
    item.fix = fix;
    Some(item)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_told_when_its_actor_needs_it_or_nobody_can_use_it() {
        let table = Table::default();
        let link = LinkDefinition {
            actor_id: "MA".into(),
            provider_id: "VA".into(),
            link_name: "default".into(),
            contract_id: "acme:x".into(),
            values: Default::default(),
        };
        for (standing, severity) in [
            (Standing::ProviderMissing, Some(Grade::Warning)),
            (Standing::NotSigned, Some(Grade::Error)),
            (Standing::WrongContract("acme:y".into()), Some(Grade::Error)),
            (Standing::ActorMissing, None),
            (Standing::Ok, None),
        ] {
            let told = of_link(&link, &table, &standing).map(|item| item.severity);
            assert_eq!(told, severity, "{standing:?}");
        }
    }
}
