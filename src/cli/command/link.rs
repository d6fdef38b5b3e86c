//! `host link`: link definitions.

use anyhow::{Result, anyhow, bail};
use serde_json::json;

use super::{get, link_file, pairs_of};
use crate::{
    args::{
        flags::SettingArgs,
        link::{Link, LinkDel, LinkPut, LinkUndo},
    },
    session::Session,
    terminal::{Message, Terminal, quoted},
};
use lattice_client::{
    lattice::Lattice,
    links::{self, Refused, Undone, Which},
    names,
};
use lattice_engine::providers::builtin::{self, httpserver};
use lattice_protocol::{
    contracts,
    control::types::Inventory,
    errors::Usage,
    identity::keys::{ActorId, ProviderId},
    links::{Claims, LinkDefinition},
};

pub async fn run(terminal: &Terminal, before: SettingArgs, link: Link) -> Result<()> {
    match link {
        Link::Put(args) => put(terminal, &Session::open(before, &args.rest.connect)?, args).await,
        Link::Del(args) => {
            delete(terminal, &Session::open(before, &args.rest.connect)?, args).await
        }
        Link::Undo(args) => undo(terminal, &Session::open(before, &args.rest.connect)?, args).await,
        Link::Query(query) => {
            get::links(terminal, &Session::open(before, &query.connect)?, &query.watch).await
        }
    }
}

async fn put(terminal: &Terminal, session: &Session, args: LinkPut) -> Result<()> {
    let lattice = session.lattice().await?;
    if let Some(file) = args.file {
        return link_file::put(terminal, &lattice, &file).await;
    }
    let values = pairs_of("value", args.values)?;
    let (Some(actor), Some(provider), Some(contract_id)) =
        (args.actor, args.provider, args.contract)
    else {
        bail!(Usage("name the actor, the provider and the contract, or a file with -f".into()));
    };
    let known = Known::ask(&lattice, &actor, &provider).await?;
    let link = LinkDefinition {
        actor_id: names::actor(&actor, &known.claims, &known.inventories)?,
        provider_id: names::provider(&provider, &known.claims, &known.inventories)?,
        link_name: args.rest.link_name,
        contract_id,
        values,
    };
    for doubt in doubts(&link, &known.claims) {
        terminal.note(&doubt);
    }
    // Before anybody is asked: what is wrong with the values of a built-in provider everybody
    // knows.
    let oddities = builtin::check(&link).map_err(|error| {
        anyhow!(
            "{} does not take this link on, and nothing was put: {error}",
            lattice_protocol::builtin::name_of(&link.provider_id)
        )
    })?;
    for oddity in oddities {
        terminal.note(format!("note: {oddity}"));
    }
    // Asked before it is put, so that the answer can say what became different.
    let before =
        lattice.links_of(&link.actor_id).await?.into_iter().find(|other| other.id() == link.id());
    let is_same = before.as_ref() == Some(&link);
    let wait = args.rest.wait.duration(links::LINK_WAIT);
    let put = links::put(&lattice, &link, wait).await;
    let taken = put.map_err(|error| as_typed(error, &actor))?;
    if let Some(note) = taken.and_then(|taken| taken.note(&link)) {
        terminal.note(&note);
    }
    let LinkDefinition { actor_id, provider_id, link_name, contract_id, .. } = &link;
    let gone = before.as_ref().map(|before| gone(before, &link)).unwrap_or_default();
    if let Some(before) = before.as_ref().filter(|_| !gone.is_empty()) {
        terminal.note(replaced(before, &link, &gone));
    }
    let (of, to) = (known.called(actor_id), known.called(provider_id));
    let text = match before {
        _ if is_same => {
            format!("Link ({contract_id}, {link_name}) of ({of}) to ({to}) was there already")
        }
        Some(before) if before.provider_id != *provider_id => {
            format!(
                "Link ({contract_id}, {link_name}) of ({of}) moved from ({}) to ({to})",
                known.called(&before.provider_id)
            )
        }
        Some(_) => format!("Link ({contract_id}, {link_name}) of ({of}) to ({to}) has new values"),
        None => format!("Published link ({of}) <-> ({to}) successfully"),
    };
    let members = json!({
        "actor_id": actor_id, "provider_id": provider_id, "contract_id": contract_id, "link_name": link_name,
        "values_gone": gone,
    });
    terminal.show(&Message::new(text, link.id(), members))
}

async fn undo(terminal: &Terminal, session: &Session, args: LinkUndo) -> Result<()> {
    let lattice = session.lattice().await?;
    let known = Known::ask(&lattice, &args.actor, &args.provider).await?;
    let actor_id = names::actor(&args.actor, &known.claims, &known.inventories)?;
    let provider_id = names::provider(&args.provider, &known.claims, &known.inventories)?;
    let (contract_id, link_name) = (args.contract, args.rest.link_name);
    let which = Which {
        actor_id: &actor_id,
        provider_id: Some(&provider_id),
        contract_id: &contract_id,
        link_name: &link_name,
    };
    let wait = args.rest.wait.duration(links::LINK_WAIT);
    let undo = links::undo(&lattice, which, wait).await;
    let (undone, taken) = undo.map_err(|error| as_typed(error, &args.actor))?;
    let link = undone.link();
    if let Some(note) = taken.and_then(|taken| taken.note(link)) {
        terminal.note(&note);
    }
    let (text, change) = match undone {
        Undone::PutBack(_) => (
            format!(
                "Link ({contract_id}, {link_name}) of ({}) to ({}) is what it was before its last change",
                known.called(&actor_id),
                known.called(&link.provider_id)
            ),
            "put_back",
        ),
        Undone::Deleted(_) => (
            format!(
                "Deleted link for {} on {contract_id} ({link_name}): there was none before its last change",
                known.called(&actor_id)
            ),
            "deleted",
        ),
    };
    let members = json!({
        "actor_id": actor_id, "provider_id": link.provider_id, "contract_id": contract_id, "link_name": link_name,
        "undone": change,
    });
    terminal.show(&Message::new(text, link.id(), members))
}

async fn delete(terminal: &Terminal, session: &Session, args: LinkDel) -> Result<()> {
    let lattice = session.lattice().await?;
    let actor_id = match ActorId::parse(&args.actor) {
        Ok(id) => id.to_string(),
        Err(_) => {
            let known = Known::ask(&lattice, &args.actor, "").await?;
            names::actor(&args.actor, &known.claims, &known.inventories)?
        }
    };
    let links = lattice.links_of(&actor_id).await?;
    let (contract_id, link_name) = (args.contract, args.rest.link_name);
    let link = links.iter().find(|link| {
        link.actor_id == actor_id && link.contract_id == contract_id && link.link_name == link_name
    });
    let Some(link) = link else {
        bail!(links::unknown(&links, &actor_id, &contract_id, &link_name))
    };
    links::delete(&lattice, link, args.rest.wait.duration(links::LINK_WAIT)).await?;
    let text = format!("Deleted link for {actor_id} on {contract_id} ({link_name}) successfully");
    let members =
        json!({ "actor_id": actor_id, "contract_id": contract_id, "link_name": link_name });
    terminal.show(&Message::new(text, link.id(), members))
}

/// Claims, and inventories to look names up in; these are not asked for when ids were given.
#[derive(Default)]
pub(super) struct Known {
    pub claims: Vec<Claims>,
    pub inventories: Vec<Inventory>,
}

impl Known {
    pub async fn ask(lattice: &Lattice, actor: &str, provider: &str) -> Result<Self> {
        let claims = lattice.claims().await?;
        if is_id(actor)
            && (is_id(provider) || provider.starts_with(lattice_protocol::builtin::SCHEME))
        {
            return Ok(Self { claims, inventories: Vec::new() });
        }
        Ok(Self { claims, inventories: lattice.inventories(&lattice.some_hosts().await?).await })
    }

    /// Returns what people call an actor or a provider; its id if it has no other name.
    fn called(&self, id: &str) -> String {
        let of_id = self.claims.iter().find(|claims| claims.subject == id);
        match of_id.filter(|claims| !claims.name.is_empty()) {
            Some(claims) if lattice_protocol::builtin::by_key(id).is_none() => claims.name.clone(),
            _ => lattice_protocol::builtin::name_of(id),
        }
    }
}

/// Returns the names of the values that a link to the same provider had and has no longer.
fn gone(before: &LinkDefinition, now: &LinkDefinition) -> Vec<String> {
    if before.provider_id != now.provider_id {
        return Vec::new();
    }
    before.values.keys().filter(|name| !now.values.contains_key(*name)).cloned().collect()
}

/// The page of a link to the HTTP server.
fn page(link: &LinkDefinition) -> Option<String> {
    let is_page = link.provider_id == lattice_protocol::builtin::HTTPSERVER.public_key;
    let (scheme, address, path) = is_page.then(|| httpserver::pages(link)).flatten()?;
    Some(format!("{scheme}://{address}{path}"))
}

/// Says what a put took away, since it replaces all values, and where a page is that it moved.
fn replaced(before: &LinkDefinition, now: &LinkDefinition, gone: &[String]) -> String {
    let moved = match (page(before), page(now)) {
        (Some(from), Some(to)) if from != to => format!("; the page is at {to} now, not at {from}"),
        _ => String::new(),
    };
    format!(
        "note: a put replaces all values, and these are gone: {}{moved}. `host link undo` puts them back",
        gone.join(", ")
    )
}

/// Puts the word that the user typed for the actor into the refusal of a link, and into the command
/// in it.
fn as_typed(error: anyhow::Error, actor: &str) -> anyhow::Error {
    match error.downcast::<Refused>() {
        Ok(Refused { mut link, host, why, is_former_up }) => {
            let word = quoted(actor);
            let why = names::in_words(&why, [(&*link.actor_id, &*word)]);
            link.actor_id = word;
            Refused { link, host, why, is_former_up }.into()
        }
        Err(error) => error,
    }
}

pub(super) fn is_id(word: &str) -> bool {
    word.is_empty() || ActorId::parse(word).is_ok() || ProviderId::parse(word).is_ok()
}

/// Returns doubts about a link, as far as they are known; it is put all the same, since things may
/// come later.
fn doubts(link: &LinkDefinition, claims: &[Claims]) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(actor) = claims.iter().find(|claims| claims.subject == link.actor_id)
        && !actor.capabilities.contains(&link.contract_id)
    {
        doubts.push(format!(
            "note: {} was not signed for {}, so it may not use this link; sign it with `--cap {}`",
            actor.name, link.contract_id, link.contract_id
        ));
    }
    if let Some(meant) = contracts::meant(&link.contract_id) {
        doubts.push(format!("note: did you mean {meant} rather than {}?", link.contract_id));
    }
    let spec = builtin::by_key(&link.provider_id);
    let claimed = claims.iter().find(|claims| claims.subject == link.provider_id);
    let fulfils = claimed
        .map(|claims| claims.contract_id.as_str())
        .or(spec.map(|spec| spec.known.contract_id));
    if let Some(contract) =
        fulfils.filter(|contract| !contract.is_empty() && *contract != link.contract_id)
    {
        doubts.push(format!("note: this provider fulfils {contract}, not {}", link.contract_id));
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_says_what_it_took_away() {
        let link = |values: &[(&str, &str)]| {
            let values = values.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            LinkDefinition {
                actor_id: "M".into(),
                provider_id: lattice_protocol::builtin::HTTPSERVER.public_key.into(),
                link_name: "default".into(),
                contract_id: "wasmcloud:httpserver".into(),
                values: values.collect(),
            }
        };
        let before = link(&[("address", "127.0.0.1:9000"), ("path", "/a")]);
        let now = link(&[("path", "/a")]);
        assert_eq!(
            (gone(&before, &now).join(","), gone(&now, &before).len()),
            ("address".into(), 0)
        );
        let told = replaced(&before, &now, &gone(&before, &now));
        assert!(
            told.contains("at http://127.0.0.1:8000/a now, not at http://127.0.0.1:9000/a"),
            "{told}"
        );
        let elsewhere = LinkDefinition { provider_id: "V".into(), ..link(&[]) };
        assert!(gone(&before, &elsewhere).is_empty(), "another provider has other values");
    }

    #[test]
    fn the_words_that_were_typed_are_told_and_not_ids() {
        let named = Claims { subject: "M".into(), name: "Echo".into(), ..Claims::default() };
        let known = Known { claims: vec![named], inventories: Vec::new() };
        let built_in = lattice_protocol::builtin::KEYVALUE;
        for (id, called) in
            [("M", "Echo"), ("MX", "MX"), (built_in.public_key, "builtin://keyvalue")]
        {
            assert_eq!(known.called(id), called);
        }
        let link = LinkDefinition {
            actor_id: "MDWUSK".into(),
            provider_id: built_in.public_key.into(),
            link_name: "default".into(),
            contract_id: built_in.contract_id.into(),
            values: Default::default(),
        };
        let (host, why) = ("N".to_owned(), "it is taken".to_owned());
        let refused = Refused { link, host, why, is_former_up: false };
        let told = as_typed(refused.into(), "echo");
        assert!(told.is::<Refused>());
        let told = told.to_string();
        assert!(told.contains("`host link undo echo builtin://keyvalue "), "{told}");
    }
}
