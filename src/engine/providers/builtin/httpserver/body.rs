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
//! The share of a body in the budget is given back with the payload.
//!
//! A component of this host is called when the beginning of a body is there ([`begin`]), and reads
//! the rest as it comes. As the body occupies an instance meanwhile, it has to come faster; one
//! whose beginning is slow is read to its end before.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{future::BoxFuture, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Body, Frame};
use tokio::time::{Instant, timeout_at};

use super::{live::Live, wire::Arriving};
use crate::rpc::{
    call::CallError,
    exchange::{self, Upload},
};
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
/// The rate at which the beginning of a body has to come for its actor to be called before the rest
/// is there, and the rate that the rest keeps, bytes per second.
const BRISK: u64 = 64 << 10;
const STEADY: u64 = 32 << 10;
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
    body: Arriving,
    request: &mut RequestWriter,
    bounds: Bounds,
) -> Result<Held, BodyError> {
    let mut held = budget.hold();
    if !body.is_end_stream() {
        let mut arrival = Arrival::new(budget, body, bounds, Pace::Any);
        // Boxed, for most requests have none.
        Box::pin(arrival.read(request, &mut held, usize::MAX)).await?;
    }
    Ok(held)
}

/// The outcome of reading the beginning of a body.
pub enum Read {
    /// The payload that has all of it.
    Whole(Bytes),
    Beginning(Box<Beginning>),
}

/// A body of which no more than its beginning was read.
pub struct Beginning {
    /// The beginning, in the request that it belongs to.
    request: RequestWriter,
    held: Held,
    rest: Arrival,
    live: Arc<Live>,
}

/// Reads the beginning of a body, of so many bytes at least; all of one that comes slowly.
pub async fn begin(
    budget: &Budget,
    body: Arriving,
    mut request: RequestWriter,
    bounds: Bounds,
    (first, live): (usize, &Arc<Live>),
) -> Result<Read, BodyError> {
    let mut held = budget.hold();
    if body.is_end_stream() {
        return Ok(Read::Whole(request.finish()));
    }
    let mut rest = Arrival::new(budget, body, bounds, Pace::Any);
    let mut reached = Box::pin(rest.read(&mut request, &mut held, first)).await?;
    if reached == Reached::Enough && is_slower(BRISK, rest.bytes, rest.waited) {
        // An instance would mostly wait for this client.
        reached = Box::pin(rest.read(&mut request, &mut held, usize::MAX)).await?;
    }
    if reached == Reached::End {
        return Ok(Read::Whole(held.keep(request.finish())));
    }
    if first > 0 {
        rest.pace = Pace::Steady;
    }
    let live = Arc::clone(live);
    Ok(Read::Beginning(Box::new(Beginning { request, held, rest, live })))
}

impl Upload for Beginning {
    fn pieces(self: Box<Self>) -> exchange::Body {
        let Self { request, held, rest, live } = *self;
        let first = Some(held.keep(request.into_body())).filter(|first| !first.is_empty());
        let pieces = stream::try_unfold((first, rest, live), next_piece);
        StreamBody::new(pieces).boxed_unsync()
    }

    fn payload(self: Box<Self>) -> BoxFuture<'static, Result<Bytes, CallError>> {
        Box::pin(async move {
            let Self { mut request, mut held, mut rest, live } = *self;
            // No instance waits for it any more.
            rest.pace = Pace::Any;
            match rest.read(&mut request, &mut held, usize::MAX).await {
                Ok(_) => {
                    live.has_moved();
                    Ok(held.keep(request.finish()))
                }
                Err(error) => {
                    let text = error.to_string();
                    live.refuse(error);
                    Err(CallError::Callee(text))
                }
            }
        })
    }
}

/// The part that was read already, the one that still comes, and the call that they go to.
type Rest = (Option<Bytes>, Arrival, Arc<Live>);

async fn next_piece(
    (first, mut rest, live): Rest,
) -> Result<Option<(Frame<Bytes>, Rest)>, exchange::BodyError> {
    let piece = match first {
        Some(first) => Some(first),
        None => match rest.next().await {
            Ok(piece) => piece,
            Err(error) => {
                let told = match &error {
                    BodyError::TooLarge(bytes) => exchange::BodyError::TooLarge(*bytes),
                    error => exchange::BodyError::Broken(error.to_string()),
                };
                live.refuse(error);
                return Err(told);
            }
        },
    };
    live.has_moved();
    Ok(piece.map(|piece| (Frame::data(piece), (None, rest, live))))
}

/// How fast a body has to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// As fast as others let it.
    Any,
    /// An instance of an actor waits for it.
    Steady,
}

/// How far a body was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    End,
    Enough,
}

/// A body on its way.
struct Arrival {
    body: Arriving,
    budget: Budget,
    bounds: Bounds,
    pace: Pace,
    /// Bytes that have come, and how long they were waited for: what the body has to wait here is
    /// not its client's fault.
    bytes: usize,
    waited: Duration,
}

impl Arrival {
    fn new(budget: &Budget, body: Arriving, bounds: Bounds, pace: Pace) -> Self {
        let budget = budget.clone();
        Self { body, budget, bounds, pace, bytes: 0, waited: Duration::ZERO }
    }

    /// Reads until so many bytes have come, or all.
    async fn read(
        &mut self,
        request: &mut RequestWriter,
        held: &mut Held,
        enough: usize,
    ) -> Result<Reached, BodyError> {
        while self.bytes < enough {
            let Some(data) = self.next().await? else { return Ok(Reached::End) };
            if self.bytes > held.bytes() {
                // Twice what has arrived, as far as that can be had, so that large bodies do not
                // come here often.
                let ahead = self.bytes.next_power_of_two();
                let ahead = ahead.min(self.budget.payload_max()).max(self.bytes);
                held.cover(ahead, self.bounds.deadline).await?;
                if ahead > SMALL {
                    request.reserve(ahead).map_err(|_| Shortage::Machine { bytes: ahead })?;
                }
            }
            request.push(&data);
            if self.body.is_end_stream() {
                return Ok(Reached::End);
            }
        }
        Ok(Reached::Enough)
    }

    /// Returns the next bytes; nothing at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        let idle_at = Instant::now() + self.bounds.idle;
        let data = loop {
            let looked_at = Instant::now();
            let look_at = idle_at.min(looked_at + TICK);
            let frame = timeout_at(look_at, self.body.frame()).await;
            // An actor that waits looks at every tick. One that has something else to do does not,
            // and that is not the client's fault.
            self.waited += looked_at.elapsed().min(2 * TICK);
            match frame {
                Err(_) if look_at == idle_at || self.is_trickle() => {
                    return Err(BodyError::TooSlow);
                }
                Err(_) => {}
                Ok(None) => return Ok(None),
                // Trailers have no place in the contract.
                Ok(Some(frame)) => {
                    if let Ok(data) = frame?.into_data() {
                        break data;
                    }
                }
            }
        };
        self.bytes += data.len();
        if self.bytes as u64 > self.bounds.content_max {
            return Err(BodyError::TooLarge(self.bounds.content_max));
        }
        match self.body.is_end_stream() || !self.is_trickle() {
            true => Ok(Some(data)),
            false => Err(BodyError::TooSlow),
        }
    }

    /// Says whether it comes more slowly than it may.
    fn is_trickle(&self) -> bool {
        is_trickle(&self.budget, self.pace, self.bytes, self.waited)
    }
}

/// Says whether a body of which `length` bytes have come in that time comes more slowly than it
/// may.
fn is_trickle(budget: &Budget, pace: Pace, length: usize, took: Duration) -> bool {
    // Most bodies are done before anybody has to look further.
    if took <= GRACE_WHEN_WANTED {
        return false;
    }
    let rate_when_wanted = if length <= SMALL { SMALL_WHEN_WANTED } else { LARGE_WHEN_WANTED };
    (pace == Pace::Steady && is_slower(STEADY, length, took))
        || (took > GRACE && is_slower(TRICKLE, length, took))
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
        assert!(!is_trickle(&budget, Pace::Any, 1, seconds(10)));
        assert!(is_trickle(&budget, Pace::Any, 1000, seconds(11)));
        assert!(
            !is_trickle(&budget, Pace::Any, LARGE, seconds(11))
                && !is_trickle(&budget, Pace::Any, SMALL / 2, seconds(20))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_an_actor_waits_for_comes_steadily() {
        let budget = Budget::new(64 << 20);
        for (seconds_taken, length, is_given_up) in [
            (3, 1, false),
            (4, 4 * STEADY as usize - 1, true),
            (4, 4 * STEADY as usize, false),
            (3600, 3600 * STEADY as usize, false),
        ] {
            let took = seconds(seconds_taken);
            assert_eq!(is_trickle(&budget, Pace::Steady, length, took), is_given_up, "{length}");
            assert!(!is_trickle(&budget, Pace::Any, length.max(LARGE), took));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn more_is_asked_of_a_body_while_others_wait_and_a_while_longer() {
        let budget = Budget::new(64 << 20);
        let (mut all, mut late) = (budget.hold(), budget.hold());
        all.cover(42 << 20, Instant::now()).await.unwrap();
        let deadline = Instant::now() + seconds(2);
        let (refused, ()) = tokio::join!(late.cover(20 << 20, deadline), async {
            tokio::task::yield_now().await;
            assert!(
                is_trickle(&budget, Pace::Any, LARGE, seconds(4))
                    && !is_trickle(&budget, Pace::Any, 1, seconds(4))
            );
            assert!(!is_trickle(&budget, Pace::Any, LARGE, seconds(3)));
        });
        assert!(matches!(refused, Err(Shortage::Full { .. })));
        // Its client will try again, and then there is room.
        assert!(is_trickle(&budget, Pace::Any, LARGE, seconds(4)));
        tokio::time::advance(seconds(30)).await;
        assert!(!is_trickle(&budget, Pace::Any, LARGE, seconds(4)));
    }
}
