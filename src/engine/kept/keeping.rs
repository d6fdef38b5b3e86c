//! Reads the entry when the host starts, and writes it whenever the list changes, until that works:
//! the bucket may be away.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::{error, info, warn};

use super::{
    Inner,
    entry::{KeptEntry, Loaded},
    key_of,
};
use lattice_base::{backoff::Backoff, store::desired::DesiredError};
use lattice_protocol::{
    desired::kept::{Item, Kept, Place},
    errors::chain,
    events::Event,
};

/// Pauses between attempts to reach the bucket grow from the first to the last of these.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(15);

impl Inner {
    /// Reads the entry, starts what is in it, and writes it whenever it changes.
    pub(super) async fn run(self: Arc<Self>, mut entry: KeptEntry) {
        let kept = match self.load(&mut entry).await {
            Loaded::Kept(kept) if self.forget => {
                info!(
                    items = kept.items.len(),
                    "what was started on this host before is forgotten"
                );
                Kept::default()
            }
            Loaded::Kept(kept) => {
                if !kept.unknown.is_empty() {
                    warn!(
                        items = kept.unknown.len(),
                        "a later version of this host keeps things that this version does not know; they stay \
                         kept and are not started"
                    );
                }
                kept
            }
            Loaded::Rejected(_) if self.forget => {
                entry.replace();
                Kept::default()
            }
            Loaded::Rejected(cause) => {
                self.tell_rejected(&cause);
                Kept::default()
            }
        };
        self.begin(kept);
        self.write(entry).await;
    }

    async fn load(&self, entry: &mut KeptEntry) -> Loaded {
        let mut retry = Retry::new(entry);
        loop {
            match entry.load().await {
                Ok(loaded) => return loaded,
                Err(error) => self.failed(&error, 0, &mut retry),
            }
            retry.pause().await;
        }
    }

    /// Notes why the bucket cannot be used when this version was to be written, and says so if it
    /// is another reason than before.
    fn failed(&self, error: &DesiredError, version: u64, retry: &mut Retry) {
        let cause = chain(error);
        if retry.is_news(&cause) {
            warn!(
                error = %cause,
                "what is started on this host by hand is not kept, so it would not be started again; trying again"
            );
        }
        self.progress.send_modify(|progress| {
            progress.attempted = version;
            progress.trouble = Some(cause);
        });
    }

    fn tell_rejected(&self, cause: &str) {
        let text = format!(
            "what {} says was started on this host does not count: {cause}. Nothing of it is started; the next command about \
             this host replaces it",
            self.place
        );
        error!("{text}");
        self.context.events.publish(Event::CommandRefused {
            host_id: self.context.host_id.to_string(),
            command: "kept starts".to_owned(),
            subject: self.place.clone(),
            error: text,
        });
    }

    /// Takes over what was read, with the commands that came before, and starts it.
    fn begin(self: &Arc<Self>, mut kept: Kept) {
        let table = self.context.links.table();
        kept.learn(|reference| key_of(&table, reference));
        let mut state = self.state.lock();
        let read: Vec<Place> = kept.items.iter().map(Item::place).collect();
        for full in state.log.read(kept) {
            warn!(error = %full, "a command from before the list was read is not kept");
        }
        let current = state.log.current();
        let places: Vec<Place> =
            read.into_iter().filter(|place| current.get(place).is_some()).collect();
        if !places.is_empty() {
            info!(items = places.len(), place = %self.place, "starting again what was started on this host");
        }
        for place in places {
            self.restore(&mut state, place);
        }
        self.list_changed(&mut state);
        self.progress.send_modify(|progress| (progress.is_read, progress.trouble) = (true, None));
    }

    async fn write(&self, mut entry: KeptEntry) {
        loop {
            self.changed.notified().await;
            let mut retry = Retry::new(&entry);
            loop {
                let (version, kept) = self.current();
                match entry.save(kept).await {
                    Ok(()) => {
                        self.progress.send_modify(|progress| {
                            (progress.attempted, progress.written) = (version, version);
                            progress.trouble = None;
                        });
                        break;
                    }
                    Err(error) => self.failed(&error, version, &mut retry),
                }
                tokio::select! {
                    () = retry.pause() => {}
                    () = self.changed.notified() => {}
                }
            }
        }
    }

    fn current(&self) -> (u64, Kept) {
        let state = self.state.lock();
        (state.version, state.log.current().clone())
    }
}

/// The attempts to reach the bucket.
struct Retry {
    backoff: Backoff,
    reconnects: watch::Receiver<u64>,
    /// The reason that was said last.
    said: Option<String>,
}

impl Retry {
    fn new(entry: &KeptEntry) -> Self {
        let backoff = Backoff::new(RETRY_FIRST, RETRY_LAST);
        Self { backoff, reconnects: entry.reconnects(), said: None }
    }

    fn is_news(&mut self, cause: &str) -> bool {
        self.said.replace(cause.to_owned()).as_deref() != Some(cause)
    }

    /// Waits before the next attempt. A server that comes back ends the pause.
    async fn pause(&mut self) {
        let pause = self.backoff.next_pause();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = self.reconnects.changed() => {}
        }
    }
}
