//! Links that somebody should look at, and how each stands.

use super::{Attention, Fix, Grade, Rank, name_or_short};
use crate::model::Index;
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
    let provider = (link.provider_id.clone(), link.link_name.clone());
    let ends = Ends {
        actor: table.claims(&link.actor_id).map(|claims| &**claims),
        provider: table.claims(&link.provider_id).map(|claims| &**claims),
        actor_runs: index.actors.contains_key(&link.actor_id),
        provider_runs: index.providers.contains_key(&provider),
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
    let severity = if standing.is_wrong() { Grade::Error } else { Grade::Warning };
    let text = problem(link, table, standing)?;
    let name = name_or_short(table, &link.actor_id);
    let item = || {
        let mut item = Attention::new(severity, "link", &link.actor_id, text).about(&name);
        item.link_name.clone_from(&link.link_name);
        item.rank(Rank::Configuration)
    };
    let LinkDefinition { actor_id, provider_id, contract_id, .. } = link;
    let option = link_option(&link.link_name);
    Some(match standing {
        Standing::NotSigned => {
            item().advice(format!("Sign it with `host claims sign --cap {contract_id}`."))
        }
        Standing::WrongContract(fulfils) => item().advice(format!(
            "Delete it, `host link del {actor_id} {contract_id}{option}`, and put it for {fulfils}: `host link put {actor_id} \
             {provider_id} {fulfils}{option} KEY=VALUE`"
        )),
        Standing::ProviderMissing => item()
            .mended_by(Fix::of_absent(link))
            .advice("Start the provider, or delete the link."),
        // A link of what does not run yet waits for it; that is how applications are prepared. A
        // refusal is told with its host.
        Standing::ActorMissing | Standing::Refused(_) | Standing::Ok => return None,
    })
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
