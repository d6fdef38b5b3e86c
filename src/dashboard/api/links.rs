//! Link definitions: the list with what is wrong with each, put, delete, undo.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
};

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Body, Query, Refusal,
    operations::{Accepted, accepted},
    page::{Page, Row, Wanted, name, rate},
};
use crate::{
    Dashboard,
    auth::Access,
    mask::{Mask, hide},
    model::{
        Collection, Snapshot, attention,
        names::{name_or_short, short},
        rates::{Rate, Rates, Sum},
    },
    operations::{End, NewOperation},
};
use lattice_client::links as client;
use lattice_engine::providers::{
    builtin::{self, httpserver},
    external::masks,
};
use lattice_protocol::{
    control::probe::health::RefusedLink,
    identity::keys::{ActorId, LinkName, ProviderId},
    links::{LinkDefinition, Standing, Table},
};

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// Its provider does not take it on.
    Refused,
    /// Its provider fulfils another contract.
    WrongContract,
    /// Its actor was not signed for the contract.
    NotSigned,
    /// Its actor or its provider runs on no host.
    NotRunning,
    Ok,
}

impl LinkState {
    fn of(standing: &Standing) -> Self {
        match standing {
            Standing::Refused(_) => Self::Refused,
            Standing::WrongContract(_) => Self::WrongContract,
            Standing::NotSigned => Self::NotSigned,
            Standing::ProviderMissing | Standing::ActorMissing => Self::NotRunning,
            Standing::Ok => Self::Ok,
        }
    }
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
    /// The calls that go by it, of the actor to its provider or the other way round.
    pub rates: Option<Rate>,
}

/// Link definitions, for whoever shows some of them.
pub struct Links<'a> {
    table: &'a Table,
    snapshot: &'a Snapshot,
    own_id: &'a str,
    access: Access,
    /// Why links are refused, by actor, contract and link name.
    refused: HashMap<[&'a str; 3], &'a str>,
    /// Their calls, by actor, provider and link name.
    sums: HashMap<[&'a str; 3], Sum>,
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
    pub fn new(
        (table, rates): (&'a Table, &'a Rates),
        snapshot: &'a Snapshot,
        own_id: &'a str,
        access: Access,
    ) -> Self {
        let told = snapshot
            .present()
            .filter_map(|host| host.health.as_ref())
            .flat_map(|health| &health.links);
        let refused = told.map(|link| {
            let RefusedLink { actor_id, contract_id, link_name, error, .. } = link;
            ([actor_id.as_str(), contract_id, link_name], error.as_str())
        });
        let (refused, sums) = (refused.collect(), rates.links());
        Self { table, snapshot, own_id, access, refused, sums }
    }

    /// Those that are wanted, as the one who asks may see them, in the order of their actors'
    /// names.
    pub fn all(&self, is_wanted: impl Fn(&LinkDefinition) -> bool) -> Vec<Link> {
        let mut all = self.rows(is_wanted);
        all.sort_by(|a, b| a.compare(b, ""));
        all
    }

    /// The same in no order.
    fn rows(&self, is_wanted: impl Fn(&LinkDefinition) -> bool) -> Vec<Link> {
        let wanted = self.table.links().filter(|link| is_wanted(link));
        wanted.map(|link| self.access.view(self.row(link))).collect()
    }

    /// The worst state of the links of each actor that has any.
    pub fn worst_by_actor(&self) -> HashMap<&'a str, LinkState> {
        let mut worst = HashMap::new();
        for link in self.table.links() {
            let (state, _) = self.state(link);
            let known = worst.entry(link.actor_id.as_str()).or_insert(state);
            *known = state.min(*known);
        }
        worst
    }

    fn row(&self, link: &LinkDefinition) -> Link {
        let (state, problem) = self.state(link);
        let index = self.snapshot.index();
        let provider = index.providers.get(&(link.provider_id.clone(), link.link_name.clone()));
        Link {
            actor_name: self
                .name(&link.actor_id, index.actors.get(&link.actor_id).map(|actor| &actor.name)),
            provider_name: self.name(&link.provider_id, provider.map(|provider| &provider.name)),
            actor_id: link.actor_id.clone(),
            provider_id: link.provider_id.clone(),
            link_name: link.link_name.clone(),
            contract_id: link.contract_id.clone(),
            values: shown(&link.values),
            state,
            problem,
            urls: self.urls(link),
            rates: self
                .sums
                .get(&[link.actor_id.as_str(), &link.provider_id, &link.link_name])
                .map(Sum::rate),
        }
    }

    /// The name in the claims, or the one it runs under.
    fn name(&self, id: &str, runs: Option<&String>) -> String {
        let claimed = self.table.claims(id).map(|claims| &claims.name);
        let name = claimed.filter(|name| !name.is_empty()).or(runs).filter(|name| !name.is_empty());
        name.cloned().unwrap_or_else(|| short(id))
    }

    fn state(&self, link: &LinkDefinition) -> (LinkState, Option<String>) {
        let triple = [link.actor_id.as_str(), &link.contract_id, &link.link_name];
        let refusal = self.refused.get(&triple).copied();
        let standing = attention::standing(link, self.table, self.snapshot.index(), refusal);
        let problem = match &standing {
            Standing::Refused(error) => Some(error.clone()),
            standing => attention::problem(link, self.table, standing),
        };
        (LinkState::of(&standing), problem)
    }

    fn urls(&self, link: &LinkDefinition) -> Vec<String> {
        if link.provider_id != httpserver::SPEC.known.public_key {
            return Vec::new();
        }
        let Some((scheme, address, path)) = httpserver::pages(link) else { return Vec::new() };
        let Some((host, port)) = address.rsplit_once(':') else { return Vec::new() };
        let runs_here = self.snapshot.host(self.own_id).is_some_and(|host| {
            host.inventory
                .providers
                .iter()
                .any(|p| p.id == link.provider_id && p.link_name == link.link_name)
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
    values
        .iter()
        .map(|(key, value)| {
            (key.clone(), masked.get(key).filter(|masked| *masked == value).cloned())
        })
        .collect()
}

/// The link definitions of the lattice
#[utoipa::path(get, path = "/api/v1/links", tag = "links", params(Wanted), responses((status = 200, body = Page<Link>)))]
pub async fn list(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Query(wanted): Query<Wanted>,
) -> Json<Page<Link>> {
    let model = dashboard.model();
    model.mark_viewed().await;
    let (snapshot, table) = (model.snapshot(), dashboard.parts().context.links.table());
    let rates = model.rates();
    let all = Links::new((&table, &rates), &snapshot, model.own_id(), access).rows(|_| true);
    Json(wanted.page(all, model.revision(Collection::Links)))
}

impl Row for Link {
    fn texts(&self, found: &mut dyn FnMut(&str)) {
        [
            &self.actor_id,
            &self.actor_name,
            &self.provider_id,
            &self.provider_name,
            &self.link_name,
            &self.contract_id,
        ]
        .into_iter()
        .for_each(|text| found(text));
        self.values.iter().for_each(|(key, value)| {
            found(&format!("{key}={}", value.as_deref().unwrap_or_default()))
        });
        self.problem.iter().for_each(|text| found(text));
    }

    fn compare(&self, other: &Self, column: &str) -> Ordering {
        match column {
            "provider_name" => name(&self.provider_name, &other.provider_name),
            "contract_id" => self.contract_id.cmp(&other.contract_id),
            "link_name" => self.link_name.cmp(&other.link_name),
            "state" => self.state.cmp(&other.state),
            "calls" => rate(&self.rates, &other.rates, |rate| Some(rate.calls_per_s)),
            "errors" => rate(&self.rates, &other.rates, |rate| Some(rate.errors_per_s)),
            _ => Ordering::Equal,
        }
        .then_with(|| name(&self.actor_name, &other.actor_name))
        .then_with(|| self.actor_id.cmp(&other.actor_id))
        .then_with(|| {
            (&self.contract_id, &self.link_name).cmp(&(&other.contract_id, &other.link_name))
        })
    }
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
    let table = dashboard.parts().context.links.table();
    let PutLink { actor_id, provider_id, link_name, contract_id, values } = link;
    ActorId::parse(&actor_id)
        .map_err(|error| Refusal::wrong(format!("actor {actor_id:?}: {error}")))?;
    ProviderId::parse(&provider_id)
        .map_err(|error| Refusal::wrong(format!("provider {provider_id:?}: {error}")))?;
    LinkName::parse(&link_name)
        .map_err(|error| Refusal::wrong(format!("link name {link_name:?}: {error}")))?;
    if contract_id.trim().is_empty() {
        return Err(Refusal::wrong("name the contract, like wasmcloud:httpserver"));
    }
    let before = table.link(&actor_id, &contract_id, &link_name);
    let mut kept = BTreeMap::new();
    for (key, value) in values {
        match value.or_else(|| before?.values.get(&key).cloned()) {
            Some(value) => _ = kept.insert(key, value),
            None => {
                return Err(Refusal::wrong(format!(
                    "value {key:?} has no text, and there is none to keep"
                )));
            }
        }
    }
    let link = LinkDefinition { actor_id, provider_id, link_name, contract_id, values: kept };
    let is_changed = before.is_none_or(|before| **before != link);
    let [actor, provider] = [&link.actor_id, &link.provider_id].map(|id| name_or_short(&table, id));
    let title = format!("Link {actor} to {provider} for {}", link.contract_id);
    let operation = NewOperation {
        kind: "put_link",
        title,
        target_id: &link.actor_id,
        link_name: &link.link_name,
        contract_id: if is_changed { &link.contract_id } else { "" },
        ..NewOperation::default()
    };
    // Before anything begins: a mistake is answered while the form is still open.
    let oddities = builtin::check(&link).map_err(|error| {
        Refusal::wrong(format!(
            "{} does not take this link on: {error}",
            lattice_protocol::builtin::name_of(&link.provider_id)
        ))
    })?;
    let (lattice, sent) = (dashboard.lattice().clone(), link.clone());
    accepted(dashboard.operations().begin(operation, |handle| async move {
        handle.stage("command", "");
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
    Query(which): Query<WhichLink>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let table = dashboard.parts().context.links.table();
    let WhichLink { actor_id, contract_id, link_name } = which;
    let Some(link) = table.link(&actor_id, &contract_id, &link_name).cloned() else {
        let text = format!(
            "{} has no link for {contract_id} under link name {link_name}",
            short(&actor_id)
        );
        return Err(Refusal::not_found(text));
    };
    let actor = name_or_short(&table, &actor_id);
    let title = format!("Delete the link of {actor} for {contract_id}");
    let operation = NewOperation {
        kind: "delete_link",
        title,
        target_id: &actor_id,
        link_name: &link_name,
        contract_id: &contract_id,
        ..NewOperation::default()
    };
    let lattice = dashboard.lattice().clone();
    accepted(dashboard.operations().begin(operation, |handle| async move {
        handle.stage("command", "");
        client::delete(&lattice, &link, Some(client::LINK_WAIT)).await?;
        Ok(End {
            text: format!("{actor} is not linked for {} any more", link.contract_id),
            ..End::default()
        })
    }))
}

/// The link whose last change is undone.
#[derive(Deserialize, ToSchema)]
pub struct UndoLink {
    actor_id: String,
    contract_id: String,
    #[serde(default = "default_link_name")]
    link_name: String,
}

/// Puts a link back to what it was before its last change
#[utoipa::path(post, path = "/api/v1/links/undo", tag = "links", request_body = UndoLink,
    responses((status = 202, body = Accepted)))]
pub async fn undo(
    State(dashboard): State<Dashboard>,
    Body(which): Body<UndoLink>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let UndoLink { actor_id, contract_id, link_name } = which;
    let actor = name_or_short(&dashboard.parts().context.links.table(), &actor_id);
    let operation = NewOperation {
        kind: "undo_link",
        title: format!("Undo the last change of the link of {actor} for {contract_id}"),
        target_id: &actor_id,
        link_name: &link_name,
        contract_id: &contract_id,
        ..NewOperation::default()
    };
    let (at, lattice) = (dashboard.clone(), dashboard.lattice().clone());
    let (id, contract, name) = (actor_id.clone(), contract_id.clone(), link_name.clone());
    accepted(dashboard.operations().begin(operation, |handle| async move {
        handle.stage("command", "");
        let which = client::Which {
            actor_id: &id,
            provider_id: None,
            contract_id: &contract,
            link_name: &name,
        };
        let (undone, taken) = client::undo(&lattice, which, Some(client::LINK_WAIT)).await?;
        let link = undone.link();
        let mut text = match undone {
            client::Undone::PutBack(_) => {
                let provider = name_or_short(&at.parts().context.links.table(), &link.provider_id);
                format!("{actor} is linked to {provider} for {contract} as it was before")
            }
            client::Undone::Deleted(_) => {
                format!("{actor} is not linked for {contract} any more, as it was before")
            }
        };
        if let Some(note) = taken.and_then(|taken| taken.note(link)) {
            text = format!("{text}; {note}");
        }
        Ok(End { text, ..End::default() })
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
            rates: None,
            urls: vec!["http://10.0.0.7:81/".into()],
        };
        let masked = serde_json::to_string(&Access::Reader.view(link.clone())).unwrap();
        assert!(
            masked.contains("address") && masked.contains("Echo") && !masked.contains("10.0"),
            "{masked}"
        );
        let whole = serde_json::to_string(&Access::Operator.view(link.clone())).unwrap();
        assert_eq!(whole.matches("10.0.0.7:81").count(), 3);
        // The problem of a link that leads nowhere contains no values.
        let nowhere =
            Link { state: LinkState::NotRunning, problem: Some("runs nowhere".into()), ..link };
        assert_eq!(Access::Reader.view(nowhere).problem.as_deref(), Some("runs nowhere"));
    }

    #[test]
    fn secrets_of_links_are_not_shown() {
        let values = [("password", "hunter22"), ("URL", "redis://me:hunter22@r"), ("port", "80")];
        let values = values.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let shown = shown(&values);
        assert_eq!(
            (&shown["password"], &shown["URL"], shown["port"].as_deref()),
            (&None, &None, Some("80"))
        );
    }
}
