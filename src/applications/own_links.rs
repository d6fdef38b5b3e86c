//! The links that were put for an application, so that they can be taken away with it: links carry
//! no annotations. Kept in the bucket of desired state, signed.

use bytes::Bytes;

use lattice_base::store::{
    Expect,
    desired::{Desired, DesiredError},
};
use lattice_protocol::{
    clock,
    desired::{self, Authority},
    links::LinkDefinition,
};
use tracing::warn;

/// The record of one application.
#[derive(Debug, Default)]
pub struct OwnLinks {
    links: Vec<LinkDefinition>,
    serial: u64,
}

impl OwnLinks {
    /// Reads the record. One that does not count is like none: then links are left where they are.
    pub async fn load(
        desired: &Desired,
        authority: &Authority,
        application: &str,
    ) -> Result<Self, DesiredError> {
        let key = desired::links(application);
        let Some(entry) = desired.get(&key).await? else { return Ok(Self::default()) };
        match authority.verify(&key, &entry.value) {
            Ok((links, serial)) => Ok(Self { links, serial }),
            Err(error) => {
                warn!(application, %error, "the record of an application's links does not count");
                Ok(Self::default())
            }
        }
    }

    /// Returns the links.
    pub fn links(&self) -> &[LinkDefinition] {
        &self.links
    }

    /// Replaces the record, if it is another one.
    pub async fn save(
        &mut self,
        desired: &Desired,
        authority: &Authority,
        application: &str,
        links: Vec<LinkDefinition>,
    ) -> anyhow::Result<()> {
        if links == self.links {
            return Ok(());
        }
        let key = desired::links(application);
        let serial = clock::now_ms().max(self.serial.saturating_add(1));
        let value = serde_json::to_vec(&authority.sign(&key, serial, &links)?)?;
        desired.put(&key, Bytes::from(value), Expect::Anything).await?;
        *self = Self { links, serial };
        Ok(())
    }
}
