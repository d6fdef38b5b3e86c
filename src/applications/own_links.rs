//! The links that were put for an application, so that they can be taken away with it: links carry
//! no annotations. Kept in the bucket of desired state, signed.

use tracing::warn;

use lattice_base::store::{
    Expect,
    desired::{Desired, DesiredError, Record},
};
use lattice_protocol::{
    desired::{self, Authority},
    links::LinkDefinition,
};

/// The record of one application.
#[derive(Debug, Default)]
pub struct OwnLinks(Record<Vec<LinkDefinition>>);

impl OwnLinks {
    /// Reads the record. One that does not count is like none: then links are left where they are.
    pub async fn load(
        desired: &Desired,
        authority: &Authority,
        application: &str,
    ) -> Result<Self, DesiredError> {
        let record = desired.read_signed(authority, &desired::links(application)).await?;
        if let Some(error) = &record.rejected {
            warn!(application, %error, "the record of an application's links does not count");
        }
        Ok(Self(record))
    }

    /// Returns the links.
    pub fn links(&self) -> &[LinkDefinition] {
        self.0.value.as_deref().unwrap_or_default()
    }

    /// Replaces the record, if it is another one.
    pub async fn save(
        &mut self,
        desired: &Desired,
        authority: &Authority,
        application: &str,
        links: Vec<LinkDefinition>,
    ) -> Result<(), DesiredError> {
        if links == self.links() {
            return Ok(());
        }
        let key = desired::links(application);
        desired.put_signed(authority, &key, &mut self.0, links, Expect::Anything).await
    }
}
