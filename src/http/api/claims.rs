//! Claims: who signed what, for what.

use std::collections::BTreeSet;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Ask,
    page::{Page, Wanted, name},
};
use crate::{
    http::{Dashboard, model::Collection},
    links,
};

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
}

impl Claims {
    pub fn of(claims: &links::Claims, is_running: bool) -> Self {
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
        }
    }
}

/// Claims of all actors and providers that ever ran
#[utoipa::path(get, path = "/api/v1/claims", tag = "claims", params(Wanted),
    responses((status = 200, body = Page<Claims>)))]
pub async fn list(State(dashboard): State<Dashboard>, Ask(wanted): Ask<Wanted>) -> Json<Page<Claims>> {
    let model = dashboard.model();
    model.look().await;
    let (picture, table) = (model.picture(), dashboard.parts().links.table());
    let index = picture.index();
    let runs: BTreeSet<&str> =
        index.actors.keys().map(String::as_str).chain(index.providers.keys().map(|(id, _)| id.as_str())).collect();
    let all = table.all_claims().map(|claims| Claims::of(claims, runs.contains(claims.subject.as_str())));
    let all = all.filter(|claims| wanted.kind.is_empty() || claims.kind == wanted.kind).collect();
    let texts = |row: &Claims, found: &mut dyn FnMut(&str)| {
        [&row.id, &row.name, &row.issuer, &row.call_alias, &row.contract_id, &row.version]
            .into_iter()
            .for_each(|text| found(text));
        row.caps.iter().chain(&row.tags).for_each(|text| found(text));
    };
    let order = |column: &str, a: &Claims, b: &Claims| {
        match column {
            "kind" => a.kind.cmp(b.kind),
            "issuer" => a.issuer.cmp(&b.issuer),
            "version" => a.version.cmp(&b.version),
            "is_running" => b.is_running.cmp(&a.is_running),
            _ => name(&a.name, &b.name),
        }
        .then_with(|| name(&a.name, &b.name))
        .then_with(|| a.id.cmp(&b.id))
    };
    Json(wanted.page(all, model.revision(Collection::Claims), texts, order))
}
