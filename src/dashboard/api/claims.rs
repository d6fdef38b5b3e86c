//! Claims: who signed what, for what.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
};

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Query,
    page::{Page, Row, Wanted, name},
};
use crate::{
    Dashboard,
    model::{Collection, Snapshot},
};
use lattice_client::expiry;
use lattice_protocol::links;

/// Claims that the lattice knows, of an actor or a provider that ever ran.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Claims {
    pub id: String,
    /// `actor` or `provider`.
    pub kind: &'static str,
    pub name: String,
    /// The account that signed it.
    pub issuer: String,
    pub version: String,
    pub revision: String,
    /// Contracts it may use.
    pub caps: Vec<String>,
    pub tags: Vec<String>,
    pub call_alias: String,
    /// Of a provider.
    pub contract_id: String,
    pub is_running: bool,
    /// When they cease to count, in milliseconds since 1970; hosts tell it of what runs. Missing if
    /// they do not expire, too.
    pub expires_ms: Option<u64>,
}

impl Claims {
    pub fn of(claims: &links::Claims, is_running: bool, expires: &Expires<'_>) -> Self {
        Self {
            id: claims.subject.clone(),
            kind: if claims.is_provider() { "provider" } else { "actor" },
            name: claims.name.clone(),
            issuer: claims.issuer.clone(),
            version: claims.version.clone(),
            revision: claims.revision.clone(),
            caps: claims.capabilities.clone(),
            tags: claims.tags.clone(),
            call_alias: claims.call_alias.clone(),
            contract_id: claims.contract_id.clone(),
            is_running,
            expires_ms: expires.get(claims.subject.as_str()).map(|at| at.saturating_mul(1000)),
        }
    }
}

/// When the claims of what runs expire, by public key, in seconds since 1970.
pub type Expires<'a> = HashMap<&'a str, u64>;

/// When the claims of what runs expire; the soonest counts.
pub fn expires(snapshot: &Snapshot) -> Expires<'_> {
    let mut all = Expires::new();
    let healths = snapshot.present().filter_map(|host| host.health.as_deref());
    for (id, at) in healths.flat_map(expiry::of_health) {
        let soonest = all.entry(id).or_insert(at);
        *soonest = at.min(*soonest);
    }
    all
}

impl Row for Claims {
    fn texts(&self, found: &mut dyn FnMut(&str)) {
        [&self.id, &self.name, &self.issuer, &self.call_alias, &self.contract_id, &self.version]
            .into_iter()
            .for_each(|text| found(text));
        self.caps.iter().chain(&self.tags).for_each(|text| found(text));
    }

    fn compare(&self, other: &Self, column: &str) -> Ordering {
        match column {
            "kind" => self.kind.cmp(other.kind),
            "issuer" => self.issuer.cmp(&other.issuer),
            "version" => self.version.cmp(&other.version),
            "is_running" => other.is_running.cmp(&self.is_running),
            // Those that do not expire come last.
            "expires" => {
                let at = |claims: &Self| claims.expires_ms.unwrap_or(u64::MAX);
                at(self).cmp(&at(other))
            }
            _ => Ordering::Equal,
        }
        .then_with(|| name(&self.name, &other.name))
        .then_with(|| self.id.cmp(&other.id))
    }
}

/// The name that is known from those who run something, or the one in its claims.
pub fn or_claimed(known: &str, claimed: Option<&String>) -> String {
    match known.is_empty() {
        true => claimed.cloned().unwrap_or_default(),
        false => known.to_owned(),
    }
}

/// Claims of all actors and providers that ever ran
#[utoipa::path(get, path = "/api/v1/claims", tag = "claims", params(Wanted),
    responses((status = 200, body = Page<Claims>)))]
pub async fn list(
    State(dashboard): State<Dashboard>,
    Query(wanted): Query<Wanted>,
) -> Json<Page<Claims>> {
    let model = dashboard.model();
    model.mark_viewed().await;
    let (snapshot, table) = (model.snapshot(), dashboard.parts().context.links.table());
    let index = snapshot.index();
    let runs: BTreeSet<&str> = index
        .actors
        .keys()
        .map(String::as_str)
        .chain(index.providers.keys().map(|(id, _)| id.as_str()))
        .collect();
    let expires = expires(&snapshot);
    let all = table
        .all_claims()
        .map(|claims| Claims::of(claims, runs.contains(claims.subject.as_str()), &expires));
    let all = all.filter(|claims| wanted.kind.is_empty() || claims.kind == wanted.kind).collect();
    Json(wanted.page(all, model.revision(Collection::Claims)))
}
