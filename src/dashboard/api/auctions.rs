//! Which hosts would take something, before it is started.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Body, ErrorBody, Refusal};
use crate::Dashboard;
use lattice_base::registry::reference::Reference;
use lattice_client::{placement::Wanted, upload::Readers};
use lattice_protocol::identity::keys::LinkName;

/// How long hosts may take to offer: what can be told at once is told at once.
const WAIT: Duration = Duration::from_millis(800);

/// The actor or provider that would be started.
#[derive(Deserialize, ToSchema)]
pub struct Auction {
    /// `actor` or `provider`.
    kind: Kind,
    reference: String,
    /// Of a provider.
    #[serde(default)]
    link_name: String,
    #[serde(default)]
    constraints: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Actor,
    Provider,
}

/// Every host, and whether it offers.
#[derive(Serialize, ToSchema)]
pub struct Offers {
    hosts: Vec<Offer>,
}

/// A host, and whether it offers.
#[derive(Serialize, ToSchema)]
pub struct Offer {
    host_id: String,
    name: String,
    labels: BTreeMap<String, String>,
    offers: bool,
    /// The reason why it does not offer.
    why: Option<String>,
    advice: Option<&'static str>,
}

/// Asks all hosts whether they would take something; nothing is started
#[utoipa::path(post, path = "/api/v1/auctions", tag = "operations", request_body = Auction,
    responses((status = 200, body = Offers), (status = 422, body = ErrorBody)))]
pub async fn preview(
    State(dashboard): State<Dashboard>,
    Body(auction): Body<Auction>,
) -> Result<Json<Offers>, Refusal> {
    let parsed =
        Reference::parse(&auction.reference).map_err(|error| Refusal::wrong(error.to_string()))?;
    let lattice = dashboard.lattice();
    let hosts = lattice.some_hosts().await?;
    let readers = match parsed {
        Reference::Lattice(_) => Some(Readers::find(lattice).await?),
        _ => None,
    };
    let link_name =
        if auction.link_name.is_empty() { LinkName::DEFAULT } else { &auction.link_name };
    let wanted = Wanted {
        reference: &auction.reference,
        link_name: (auction.kind == Kind::Provider).then_some(link_name),
        constraints: &auction.constraints,
        readers: readers.as_ref(),
    };
    let mut obstacles = wanted.all(lattice, &hosts, WAIT).await?;
    let offers = hosts.into_iter().map(|host| {
        let obstacle = obstacles.remove(&host.id).flatten();
        Offer {
            offers: obstacle.is_none(),
            advice: obstacle.as_ref().map(|obstacle| obstacle.advice),
            why: obstacle.map(|obstacle| obstacle.why),
            host_id: host.id,
            name: host.friendly_name,
            labels: host.labels,
        }
    });
    Ok(Json(Offers { hosts: offers.collect() }))
}
