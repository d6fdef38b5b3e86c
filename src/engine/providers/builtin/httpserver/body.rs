//! Reads the bodies of requests, within bounds.
//!
//! * A body that says it is too long is refused before it is read; one that gets too long is
//!   refused then.
//! * Bytes that have arrived are paid for out of the host's [`Budget`] of payloads, in steps; small
//!   bodies never wait behind large ones.
//! * A body that pauses is given up; so is one that trickles, sooner and faster when others wait
//!   for its part of the budget or have just done so in vain. This is looked at with every piece
//!   that arrives and, while none does, every [`TICK`].
//!
//! The share of a body in the budget is given back when the answer is there, since the payload
//! lives as long.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::{Instant, timeout_at};

use lattice_base::budget::{Budget, Held, SMALL, Shortage};
use lattice_protocol::contracts::httpserver::RequestWriter;

/// How long a body may be slow.
const GRACE: Duration = Duration::from_secs(10);
/// Slower than any line that is in use, bytes per second.
const TRICKLE: u64 = 240;
/// The same for a body in whose place another could be read.
const GRACE_WHEN_WANTED: Duration = Duration::from_secs(3);
/// The rate that is then asked of it, bytes per second. Clients on bad lines send small bodies.
const SMALL_WHEN_WANTED: u64 = 8 << 10;
const LARGE_WHEN_WANTED: u64 = 64 << 10;
/// How often bodies that wait for their client are looked at.
const TICK: Duration = Duration::from_millis(500);

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is longer than {0} bytes")]
    TooLarge(u64),
    #[error("the body came too slowly")]
    TooSlow,
    #[error("too many request bodies are being read: {0}")]
    NoRoom(#[from] Shortage),
    #[error("the body is broken: {0}")]
    Broken(#[from] hyper::Error),
}

/// One body's bounds.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub content_max: u64,
    pub idle: Duration,
    /// Until when it waits for memory.
    pub deadline: Instant,
}

/// The length a body says it has.
pub fn announced(body: &impl Body) -> Option<u64> {
    body.size_hint().exact()
}

/// Reads a body into the request that is being written. Returns what it holds of the budget.
pub async fn read(
    budget: &Budget,
    body: impl Body<Data = Bytes, Error = hyper::Error> + Unpin,
    request: &mut RequestWriter,
    bounds: Bounds,
) -> Result<Held, BodyError> {
    match body.is_end_stream() {
        true => Ok(budget.hold()),
        // Boxed, for most requests have none.
        false => Box::pin(receive(budget, body, request, bounds)).await,
    }
}

async fn receive(
    budget: &Budget,
    mut body: impl Body<Data = Bytes, Error = hyper::Error> + Unpin,
    request: &mut RequestWriter,
    bounds: Bounds,
) -> Result<Held, BodyError> {
    let mut held = budget.hold();
    // Moved on by what the body had to wait here, which is not its client's fault.
    let mut began = Instant::now();
    loop {
        let idle_at = Instant::now() + bounds.idle;
        let frame = loop {
            let look_at = idle_at.min(Instant::now() + TICK);
            match timeout_at(look_at, body.frame()).await {
                Err(_)
                    if look_at == idle_at
                        || is_trickle(budget, request.body_len(), began.elapsed()) =>
                {
                    return Err(BodyError::TooSlow);
                }
                Err(_) => {}
                Ok(None) => return Ok(held),
                Ok(Some(frame)) => break frame?,
            }
        };
        // Trailers have no place in the contract.
        let Ok(data) = frame.into_data() else { continue };
        let length = request.body_len() + data.len();
        if length as u64 > bounds.content_max {
            return Err(BodyError::TooLarge(bounds.content_max));
        }
        let arrived = Instant::now();
        if length > held.bytes() {
            // Twice what has arrived, as far as that can be had, so that large bodies do not come
            // here often.
            let ahead = length.next_power_of_two().min(budget.payload_max()).max(length);
            held.cover(ahead, bounds.deadline).await?;
            began += arrived.elapsed();
            if ahead > SMALL {
                request.reserve(ahead).map_err(|_| Shortage::Machine { bytes: ahead })?;
            }
        }
        request.push(&data);
        if body.is_end_stream() {
            return Ok(held);
        }
        if is_trickle(budget, length, began.elapsed()) {
            return Err(BodyError::TooSlow);
        }
    }
}

/// Says whether a body of which `length` bytes have come in that time comes more slowly than it
/// may.
fn is_trickle(budget: &Budget, length: usize, took: Duration) -> bool {
    // Most bodies are done before anybody has to look further.
    if took <= GRACE_WHEN_WANTED {
        return false;
    }
    let rate_when_wanted = if length <= SMALL { SMALL_WHEN_WANTED } else { LARGE_WHEN_WANTED };
    (took > GRACE && is_slower(TRICKLE, length, took))
        || (is_slower(rate_when_wanted, length, took) && budget.is_wanted(length))
}

/// Says whether so many bytes in that time are less than `rate` bytes per second.
fn is_slower(rate: u64, length: usize, took: Duration) -> bool {
    (length as u64) < rate.saturating_mul(took.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = 100_000;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_known_by_its_rate_after_a_while() {
        let budget = Budget::new(64 << 20);
        assert!(!is_trickle(&budget, 1, seconds(10)));
        assert!(is_trickle(&budget, 1000, seconds(11)));
        assert!(
            !is_trickle(&budget, LARGE, seconds(11))
                && !is_trickle(&budget, SMALL / 2, seconds(20))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn more_is_asked_of_a_body_while_others_wait_and_a_while_longer() {
        let budget = Budget::new(64 << 20);
        let (mut all, mut late) = (budget.hold(), budget.hold());
        all.cover(42 << 20, Instant::now()).await.unwrap();
        let deadline = Instant::now() + seconds(2);
        let (refused, ()) = tokio::join!(late.cover(20 << 20, deadline), async {
            tokio::task::yield_now().await;
            assert!(is_trickle(&budget, LARGE, seconds(4)) && !is_trickle(&budget, 1, seconds(4)));
            assert!(!is_trickle(&budget, LARGE, seconds(3)));
        });
        assert!(matches!(refused, Err(Shortage::Full { .. })));
        // Its client will try again, and then there is room.
        assert!(is_trickle(&budget, LARGE, seconds(4)));
        tokio::time::advance(seconds(30)).await;
        assert!(!is_trickle(&budget, LARGE, seconds(4)));
    }
}
