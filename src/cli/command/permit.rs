//! The permission that lets hosts run what a different account has signed than before. It is signed
//! with the cluster's key; users who may only send commands do not have it.

use anyhow::{Context as _, Result};

use super::call::signed_here;
use crate::session::Session;
use lattice_engine::{
    issuers::{Permission, permission},
    rpc::client::new_id,
};
use lattice_protocol::{identity::claims::now, rpc::antiforgery::Signer};

/// The permission for what `reference` holds, if it `is_wanted`: signed with the cluster seed of
/// the settings, or by a host of this machine.
pub(super) async fn issuer_change(
    session: &Session,
    reference: &str,
    is_wanted: bool,
) -> Result<Option<String>> {
    if !is_wanted {
        return Ok(None);
    }
    let (wanted, id) = (permission(reference, now()), new_id());
    let Permission { origin, target, operation, payload, .. } = &wanted;
    let token = match session.config.cluster.ad_hoc {
        false => {
            let signer = Signer::new(session.config.cluster.seed.expose())
                .context("read the cluster seed")?;
            signer.sign(origin, target, operation, payload, &id, now())
        }
        true => signed_here(session, origin, target, (operation, payload), &id).await?,
    };
    Ok(Some(wanted.annotation(&id, &token)))
}
