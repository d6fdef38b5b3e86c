//! Tells news outside: on a subject of the lattice, and to the webhook of the settings.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use lattice_base::{
    backoff::after,
    config,
    webhook::{Failure, Webhook},
};
use lattice_protocol::{attention::News, clock};

/// News that may wait for the webhook; more are dropped.
const QUEUE: usize = 64;
/// Attempts to reach the webhook with one of them.
const ATTEMPTS: u32 = 6;
/// Pauses between attempts grow from the first to the last of these.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LAST: Duration = Duration::from_secs(30);
/// How long the connection may take news; it only waits when the server is away.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Where news go to.
pub struct Hook {
    client: async_nats::Client,
    subject: String,
    webhook: Option<mpsc::Sender<Bytes>>,
}

impl Hook {
    /// Makes the ways of the settings; what this returns beside it sends to the webhook, and is to
    /// be run until `stop`.
    pub fn new(
        client: async_nats::Client,
        subject: String,
        settings: Option<&config::Webhook>,
        stop: CancellationToken,
    ) -> (Self, Option<impl Future<Output = ()> + Send + use<>>) {
        let receiver = settings.and_then(|settings| {
            let made = Webhook::new(settings);
            made.inspect_err(|error| warn!(%error, "no webhook is told what needs attention")).ok()
        });
        let (webhook, run) = match receiver {
            Some(receiver) => {
                let (queue, waiting) = mpsc::channel(QUEUE);
                (Some(queue), Some(send_all(receiver, waiting, stop)))
            }
            None => (None, None),
        };
        (Self { client, subject, webhook }, run)
    }

    /// Tells news once on the subject, and puts it into the queue of the webhook.
    pub async fn tell(&self, news: &News) {
        let Ok(body) = serde_json::to_vec(news).map(Bytes::from) else { return };
        let published = self.client.publish(self.subject.clone(), body.clone());
        match timeout(PUBLISH_TIMEOUT, published).await {
            Ok(Ok(())) => debug!(subject = self.subject, change = news.change, "attention told"),
            _ => warn!(subject = self.subject, "news about attention lost: NATS does not take it"),
        }
        if let Some(webhook) = &self.webhook
            && webhook.try_send(body).is_err()
        {
            warn!("news for the webhook dropped: {QUEUE} wait already");
        }
    }
}

async fn send_all(receiver: Webhook, mut waiting: mpsc::Receiver<Bytes>, stop: CancellationToken) {
    let sending = async {
        while let Some(body) = waiting.recv().await {
            if let Err(error) = send(&receiver, body).await {
                warn!(%error, "the webhook was not told what needs attention");
            }
        }
    };
    stop.run_until_cancelled(sending).await;
}

/// Sends a body until it is taken, or makes no sense, or was tried often enough.
async fn send(receiver: &Webhook, body: Bytes) -> Result<(), Failure> {
    let mut failures = 0;
    loop {
        let now_s = clock::now_ms() / 1000;
        match receiver.send(body.clone(), now_s).await {
            Ok(()) => return Ok(()),
            Err(error @ Failure::Refused(_)) => return Err(error),
            Err(error) => {
                failures += 1;
                if failures >= ATTEMPTS {
                    return Err(error);
                }
                debug!(%error, failures, "the webhook is told again");
            }
        }
        sleep(after(failures, PAUSE_FIRST, PAUSE_LAST)).await;
    }
}
