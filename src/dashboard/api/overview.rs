//! The lattice at a glance.

use std::collections::HashMap;

use axum::{Extension, Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Dashboard,
    auth::Access,
    model::{
        attention::{Attention, Counts, Summary},
        rates::{Of, Rate, Series},
    },
};
use lattice_engine::control::state::VERSION;

/// The lattice at a glance.
#[derive(Serialize, ToSchema)]
pub struct Overview {
    lattice: String,
    version: &'static str,
    /// The host of this dashboard.
    host_id: String,
    host_name: String,
    js_domain: Option<String>,
    store: StoreState,
    counts: Counts,
    rates: Rate,
    series: Series,
    /// The rates of hosts of the same moment, by id.
    hosts: HashMap<String, Rate>,
    attention: Vec<Attention>,
}

/// Where the lattice's metadata is, seen from this host.
#[derive(Serialize, ToSchema)]
pub struct StoreState {
    place: String,
    is_shared: bool,
    is_known: bool,
    error: Option<String>,
}

impl StoreState {
    pub fn of(dashboard: &Dashboard) -> Self {
        let parts = dashboard.parts();
        let backend = parts.context.store.backend();
        Self {
            place: backend.place(),
            is_shared: backend.is_shared(),
            is_known: *parts.context.links.synced().borrow(),
            error: parts.context.store.story().trouble.clone(),
        }
    }
}

/// The lattice at a glance
#[utoipa::path(get, path = "/api/v1/overview", tag = "lattice", responses((status = 200, body = Overview)))]
pub async fn overview(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
) -> Json<Overview> {
    dashboard.model().mark_viewed().await;
    let Summary { counts, rates, attention, .. } = Summary::of(&dashboard);
    let facts = dashboard.parts().context.state.facts();
    let series = dashboard.model().series(&Of::Lattice);
    Json(Overview {
        lattice: facts.lattice.clone(),
        version: VERSION,
        host_id: facts.id.to_string(),
        host_name: facts.friendly_name.clone(),
        js_domain: facts.js_domain.clone(),
        store: StoreState::of(&dashboard),
        counts,
        rates,
        series,
        hosts: dashboard.model().rates().hosts(),
        attention: access.view(attention),
    })
}
