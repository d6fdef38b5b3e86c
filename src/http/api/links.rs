//! Link definitions: the list with what is wrong with each, put, delete.

use std::collections::{BTreeMap, HashMap};

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Ask, Body, Refusal,
    operations::{Accepted, accepted},
    page::{Page, Wanted, name},
};
use crate::{
    client::links as client,
    control::probe::health::RefusedLink,
    http::{
        Dashboard,
        door::Access,
        mask::{Mask, hide},
        model::{Collection, Picture, attention, events::short},
        operations::{Begun, End},
    },
    identity::keys::{ActorId, LinkName, ProviderId},
    links::{LinkDefinition, Table},
    providers::{
        builtin::{self, httpserver},
        external::masks,
    },
};

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Its provider does not take it on.
    Refused,
    /// It leads nowhere, or may not be used.
    Dangling,
    Ok,
}

/// A link definition.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Link {
    pub actor_id: String,
    pub actor_name: String,
    pub provider_id: String,
    pub provider_name: String,
    pub link_name: String,
    pub contract_id: String,
    /// Null for secrets: they are not shown. Without a login, all are null.
    pub values: BTreeMap<String, Option<String>>,
    pub state: LinkState,
    pub problem: Option<String>,
    /// Where the pages are that it brings, if it is one of the built-in HTTP server.
    pub urls: Vec<String>,
}

/// Link definitions, for whoever shows some of them.
pub struct Links<'a> {
    table: &'a Table,
    picture: &'a Picture,
    own_id: &'a str,
    access: Access,
    /// Why links are refused, by actor, contract and link name.
    refused: HashMap<[&'a str; 3], &'a str>,
}

impl Mask for Link {
    fn mask(&mut self) {
        self.values.values_mut().for_each(|value| *value = None);
        // Made of values.
        self.urls.clear();
        // A refusal quotes them.
        if self.state == LinkState::Refused {
            hide(&mut self.problem);
        }
    }
}

impl<'a> Links<'a> {
    pub fn new(table: &'a Table, picture: &'a Picture, own_id: &'a str, access: Access) -> Self {
        let told = picture.present().filter_map(|host| host.health.as_ref()).flat_map(|health| &health.links);
        let refused = told.map(|link| {
            let RefusedLink { actor_id, contract_id, link_name, error, .. } = link;
            ([actor_id.as_str(), contract_id, link_name], error.as_str())
        });
        Self { table, picture, own_id, access, refused: refused.collect() }
    }

    /// Those that are wanted, as the one who asks may see them, in the order of their actors' names.
    pub fn all(&self, is_wanted: impl Fn(&LinkDefinition) -> bool) -> Vec<Link> {
        let mut all: Vec<Link> =
            self.table.links().filter(|link| is_wanted(link)).map(|link| self.access.view(self.row(link))).collect();
        all.sort_by(|a, b| order("", a, b));
        all
    }

    fn row(&self, link: &LinkDefinition) -> Link {
        let name_of = |id: &str| self.table.claims(id).map(|claims| claims.name.clone()).unwrap_or_default();
        let (state, problem) = self.state(link);
        let index = self.picture.index();
        let provider = index.providers.get(&(link.provider_id.clone(), link.link_name.clone()));
        let named = |id: &str, runs: Option<&String>| match name_of(id) {
            name if !name.is_empty() => name,
            _ => runs.filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| short(id)),
        };
        Link {
            actor_name: named(&link.actor_id, index.actors.get(&link.actor_id).map(|actor| &actor.name)),
            provider_name: named(&link.provider_id, provider.map(|provider| &provider.name)),
            actor_id: link.actor_id.clone(),
            provider_id: link.provider_id.clone(),
            link_name: link.link_name.clone(),
            contract_id: link.contract_id.clone(),
            values: shown(&link.values),
            state,
            problem,
            urls: self.urls(link),
        }
    }

    fn state(&self, link: &LinkDefinition) -> (LinkState, Option<String>) {
        let triple = [link.actor_id.as_str(), &link.contract_id, &link.link_name];
        if let Some(error) = self.refused.get(&triple) {
            return (LinkState::Refused, Some((*error).to_owned()));
        }
        let index = self.picture.index();
        let runs_provider = |id: &str| index.runs_provider(id);
        // Here it is said of links whose actor does not run yet, too.
        match attention::dangling(link, self.table, &runs_provider, &|_| true) {
            Some(problem) => (LinkState::Dangling, Some(problem.text)),
            None => (LinkState::Ok, None),
        }
    }

    fn urls(&self, link: &LinkDefinition) -> Vec<String> {
        if link.provider_id != httpserver::SPEC.public_key {
            return Vec::new();
        }
        let Some((scheme, address, path)) = httpserver::pages(link) else { return Vec::new() };
        let Some((host, port)) = address.rsplit_once(':') else { return Vec::new() };
        let runs_here = self.picture.host(self.own_id).is_some_and(|host| {
            host.inventory.providers.iter().any(|p| p.id == link.provider_id && p.link_name == link.link_name)
        });
        let host = match host.trim_matches(['[', ']']) {
            "0.0.0.0" | "::" if runs_here => "localhost",
            // On another machine, whose address nobody tells.
            "0.0.0.0" | "::" => return Vec::new(),
            _ => host,
        };
        let path = path.trim_end_matches('/');
        if port == "0" { Vec::new() } else { vec![format!("{scheme}://{host}:{port}{path}/")] }
    }
}

/// Values without those that are, or have in them, a secret.
fn shown(values: &BTreeMap<String, String>) -> BTreeMap<String, Option<String>> {
    let masked = masks::shown(values);
    let shown =
        |(key, value): (&String, &String)| (key.clone(), masked.get(key).filter(|masked| *masked == value).cloned());
    values.iter().map(shown).collect()
}

/// The link definitions of the lattice
#[utoipa::path(get, path = "/api/v1/links", tag = "links", params(Wanted), responses((status = 200, body = Page<Link>)))]
pub async fn list(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Ask(wanted): Ask<Wanted>,
) -> Json<Page<Link>> {
    let model = dashboard.model();
    model.look().await;
    let (picture, table) = (model.picture(), dashboard.parts().links.table());
    let all = Links::new(&table, &picture, model.own_id(), access).all(|_| true);
    let texts = |row: &Link, found: &mut dyn FnMut(&str)| {
        [&row.actor_id, &row.actor_name, &row.provider_id, &row.provider_name, &row.link_name, &row.contract_id]
            .into_iter()
            .for_each(|text| found(text));
        row.values.iter().for_each(|(key, value)| found(&format!("{key}={}", value.as_deref().unwrap_or_default())));
        row.problem.iter().for_each(|text| found(text));
    };
    Json(wanted.page(all, model.revision(Collection::Links), texts, order))
}

fn order(column: &str, a: &Link, b: &Link) -> std::cmp::Ordering {
    match column {
        "provider_name" => name(&a.provider_name, &b.provider_name),
        "contract_id" => a.contract_id.cmp(&b.contract_id),
        "link_name" => a.link_name.cmp(&b.link_name),
        "state" => a.state.cmp(&b.state),
        _ => name(&a.actor_name, &b.actor_name),
    }
    .then_with(|| name(&a.actor_name, &b.actor_name))
    .then_with(|| (&a.actor_id, &a.contract_id, &a.link_name).cmp(&(&b.actor_id, &b.contract_id, &b.link_name)))
}

/// A link to put.
#[derive(Deserialize, ToSchema)]
pub struct PutLink {
    actor_id: String,
    provider_id: String,
    #[serde(default = "default_link_name")]
    link_name: String,
    contract_id: String,
    /// Null keeps the value that is there, which need not have been shown.
    #[serde(default)]
    values: BTreeMap<String, Option<String>>,
}

pub fn default_link_name() -> String {
    LinkName::DEFAULT.to_owned()
}

/// Puts a link, or changes the one that is there
#[utoipa::path(put, path = "/api/v1/links", tag = "links", request_body = PutLink, responses((status = 202, body = Accepted)))]
pub async fn put(
    State(dashboard): State<Dashboard>,
    Body(link): Body<PutLink>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let table = dashboard.parts().links.table();
    let PutLink { actor_id, provider_id, link_name, contract_id, values } = link;
    ActorId::parse(&actor_id).map_err(|error| Refusal::wrong(format!("actor {actor_id:?}: {error}")))?;
    ProviderId::parse(&provider_id).map_err(|error| Refusal::wrong(format!("provider {provider_id:?}: {error}")))?;
    LinkName::parse(&link_name).map_err(|error| Refusal::wrong(format!("link name {link_name:?}: {error}")))?;
    if contract_id.trim().is_empty() {
        return Err(Refusal::wrong("name the contract, like wasmcloud:httpserver"));
    }
    let before = table.link(&actor_id, &contract_id, &link_name);
    let mut kept = BTreeMap::new();
    for (key, value) in values {
        let there = || before.and_then(|before| before.values.get(&key)).cloned();
        match value.or_else(there) {
            Some(value) => _ = kept.insert(key, value),
            None => return Err(Refusal::wrong(format!("value {key:?} has no text, and there is none to keep"))),
        }
    }
    let link = LinkDefinition { actor_id, provider_id, link_name, contract_id, values: kept };
    let named = |id: &str| table.claims(id).map_or_else(|| short(id), |claims| claims.name.clone());
    let (actor, provider) = (named(&link.actor_id), named(&link.provider_id));
    let title = format!("Link {actor} to {provider} for {}", link.contract_id);
    let begun =
        Begun { kind: "put_link", title, target_id: &link.actor_id, link_name: &link.link_name, ..Begun::default() };
    let oddities = builtin::check(&link).map_err(|error| {
        Refusal::wrong(format!("{} does not take this link on: {error}", builtin::name_of(&link.provider_id)))
    })?;
    let (lattice, sent) = (dashboard.lattice().clone(), link.clone());
    accepted(dashboard.operations().begin(begun, |work| async move {
        work.stage("command", "");
        let taken = client::put(&lattice, &sent, Some(client::LINK_WAIT)).await?;
        let mut text = format!("{actor} is linked to {provider} for {}", sent.contract_id);
        for remark in oddities.into_iter().chain(taken.and_then(|taken| taken.note(&sent))) {
            text.push_str("; ");
            text.push_str(&remark);
        }
        Ok(End { text, ..End::default() })
    }))
}

/// Which link.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WhichLink {
    actor_id: String,
    contract_id: String,
    /// `default` unless given.
    #[serde(default = "default_link_name")]
    link_name: String,
}

/// Deletes a link
#[utoipa::path(delete, path = "/api/v1/links", tag = "links", params(WhichLink), responses((status = 202, body = Accepted)))]
pub async fn delete(
    State(dashboard): State<Dashboard>,
    Ask(which): Ask<WhichLink>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let table = dashboard.parts().links.table();
    let WhichLink { actor_id, contract_id, link_name } = which;
    let Some(link) = table.link(&actor_id, &contract_id, &link_name).cloned() else {
        let text = format!("{} has no link for {contract_id} under link name {link_name}", short(&actor_id));
        return Err(Refusal::not_found(text));
    };
    let actor = table.claims(&actor_id).map_or_else(|| short(&actor_id), |claims| claims.name.clone());
    let title = format!("Delete the link of {actor} for {contract_id}");
    let begun = Begun { kind: "delete_link", title, target_id: &actor_id, link_name: &link_name, ..Begun::default() };
    let lattice = dashboard.lattice().clone();
    accepted(dashboard.operations().begin(begun, |work| async move {
        work.stage("command", "");
        client::delete(&lattice, &link, Some(client::LINK_WAIT)).await?;
        Ok(End { text: format!("{actor} is not linked for {} any more", link.contract_id), ..End::default() })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_login_no_value_of_a_link_is_shown_nor_what_is_made_of_it() {
        let link = Link {
            actor_id: "MA".into(),
            actor_name: "Echo".into(),
            provider_id: "VA".into(),
            provider_name: "HTTP server".into(),
            link_name: "default".into(),
            contract_id: "wasmcloud:httpserver".into(),
            values: [("address".to_owned(), Some("10.0.0.7:81".to_owned()))].into(),
            state: LinkState::Refused,
            problem: Some("10.0.0.7:81 is taken".into()),
            urls: vec!["http://10.0.0.7:81/".into()],
        };
        let masked = serde_json::to_string(&Access::Reader.view(link.clone())).unwrap();
        assert!(masked.contains("address") && masked.contains("Echo") && !masked.contains("10.0"), "{masked}");
        let whole = serde_json::to_string(&Access::Operator.view(link.clone())).unwrap();
        assert_eq!(whole.matches("10.0.0.7:81").count(), 3);
        // The problem of a link that leads nowhere contains no values.
        let dangling = Link { state: LinkState::Dangling, problem: Some("runs nowhere".into()), ..link };
        assert_eq!(Access::Reader.view(dangling).problem.as_deref(), Some("runs nowhere"));
    }

    #[test]
    fn secrets_of_links_are_not_shown() {
        let values = [("password", "hunter22"), ("URL", "redis://me:hunter22@r"), ("port", "80")];
        let values = values.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let shown = shown(&values);
        assert_eq!((&shown["password"], &shown["URL"], shown["port"].as_deref()), (&None, &None, Some("80")));
    }
}
