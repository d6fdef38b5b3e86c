//! Opens the lattice's metadata: the bucket when the server has it, memory until then.
//!
//! A host without JetStream is of use (its actors run, calls by public key work), so it starts and says plainly what is
//! wrong. A task goes on trying; when the bucket opens, what was kept in memory is written to it and the host moves over.

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    lattice::connection::Nats,
    store::{Backend, Error, Expect, Store, jetstream::Bucket, memory::Memory},
};

/// Pause between attempts to open a bucket that was not there at start.
const RETRY: Duration = Duration::from_secs(5);

/// Where the metadata is.
#[derive(Clone)]
pub struct Place {
    pub nats: Nats,
    pub domain: Option<String>,
    pub lattice: String,
    pub replicas: usize,
}

impl Place {
    /// Opens the store; never fails, see the module's text.
    pub async fn open(&self, tasks: &TaskTracker, stop: &CancellationToken) -> Store {
        match self.open_bucket().await {
            Ok(bucket) => Store::new(Arc::new(bucket)),
            Err(cause) => {
                error!(
                    error = %cause,
                    "lattice metadata is kept in memory: links and claims are not shared with other hosts and are lost at the end; trying again"
                );
                let memory = Arc::new(Memory::default());
                let store = Store::new(memory.clone());
                let retry = self.clone().move_over(store.clone(), memory);
                let stop = stop.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = retry => {}
                    }
                });
                store
            }
        }
    }

    async fn open_bucket(&self) -> Result<Bucket, crate::store::jetstream::OpenError> {
        let name = format!("LATTICEDATA_{}", self.lattice);
        let bucket = Bucket::open(&self.nats, self.domain.as_deref(), &name, self.replicas).await?;
        info!("Lattice cache stream created or verified as existing ({} consumers).", bucket.consumers_before);
        if bucket.replicas < 2 && bucket.is_clustered {
            warn!(
                bucket = name,
                "the metadata bucket has one copy in a cluster of servers; with that server links and claims go away. \
                   Set kv_replicas before the bucket is made, or edit the stream"
            );
        }
        info!("Attempting to create ephemeral consumer (cache loader)");
        Ok(bucket)
    }

    async fn move_over(self, store: Store, memory: Arc<Memory>) {
        loop {
            tokio::time::sleep(RETRY).await;
            let bucket = match self.open_bucket().await {
                Ok(bucket) => bucket,
                Err(cause) => {
                    warn!(error = %cause, "lattice metadata still in memory");
                    continue;
                }
            };
            let mut copied = true;
            for entry in memory.entries() {
                match bucket.put(&entry.key, entry.value, Expect::Revision(0)).await {
                    // What others wrote there meanwhile is newer than what this host made alone.
                    Ok(_) | Err(Error::Conflict) => {}
                    Err(cause) => {
                        warn!(key = %entry.key, error = %cause, "entry not copied to the metadata bucket");
                        copied = false;
                    }
                }
            }
            if copied {
                store.replace(Arc::new(bucket));
                info!("lattice metadata is shared now");
                return;
            }
        }
    }
}
