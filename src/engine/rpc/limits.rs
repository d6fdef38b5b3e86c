//! The limits of a call that goes to another host, beside the invocation: what time it has left,
//! and how many calls wait for it.
//!
//! They travel as headers of the message, which peers of other makes ignore: `Lattice-Time-Left` in
//! milliseconds, since clocks differ, and `Lattice-Waiting`. The code of a call in a session covers
//! them. Beside a token nothing signs them, and nothing has to: a callee has never more time or
//! more depth than without them. The trace context of an answer says how long its transfers through
//! the object store took, `lattice-transfers-ms`; a caller believes no more of it than the time it
//! waited.

use std::{str::FromStr, time::Duration};

use async_nats::HeaderMap;
use tokio::time::Instant;

use super::call::Chain;
use lattice_protocol::rpc::invocation::TraceContext;

const TIME_LEFT: &str = "Lattice-Time-Left";
const WAITING: &str = "Lattice-Waiting";
const TRANSFERS: &str = "lattice-transfers-ms";

/// The limits that a caller's host sends to the callee's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The time that the caller has left.
    pub time_left: Option<Duration>,
    /// Calls that wait for this one.
    pub waiting: u8,
}

impl Limits {
    /// The limits of a call with this deadline that is sent now.
    pub fn of(chain: &Chain, deadline: Instant) -> Self {
        let time_left = chain.ends_at(deadline).saturating_duration_since(Instant::now());
        Self { time_left: Some(time_left), waiting: chain.waiting() }
    }

    /// Adds them to the headers of a message.
    pub fn write(self, headers: &mut HeaderMap) {
        if let Some(time_left) = self.time_left {
            headers.insert(TIME_LEFT, time_left.as_millis().to_string());
        }
        headers.insert(WAITING, self.waiting.to_string());
    }

    /// Reads them; a value that is missing or no number limits nothing.
    pub fn read(headers: Option<&HeaderMap>) -> Self {
        Self {
            time_left: number(headers, TIME_LEFT).map(Duration::from_millis),
            waiting: number(headers, WAITING).unwrap_or(0),
        }
    }

    /// Returns the texts of the headers, for the code that covers them.
    pub fn texts(headers: Option<&HeaderMap>) -> (Option<&str>, Option<&str>) {
        let text = |name| headers.and_then(|headers| headers.get(name)).map(|value| value.as_str());
        (text(TIME_LEFT), text(WAITING))
    }

    /// Returns when a call ends that was received now and may take `at_most` so long.
    pub fn deadline(self, received: Instant, at_most: Duration) -> Instant {
        received + self.time_left.map_or(at_most, |left| left.min(at_most))
    }
}

fn number<N: FromStr>(headers: Option<&HeaderMap>, name: &str) -> Option<N> {
    headers?.get(name)?.as_str().parse().ok()
}

/// Tells the caller how long the transfers of its call took; nothing if there were none.
pub fn tell_transfers(chain: &Chain) -> TraceContext {
    let mut told = TraceContext::default();
    let took = chain.transferred();
    if !took.is_zero() {
        // Rounded up, or what took less than a millisecond would be lost.
        told.push(TRANSFERS, took.as_millis().saturating_add(1).to_string());
    }
    told
}

/// Reads what [`tell_transfers`] wrote.
pub fn told_transfers(told: &TraceContext) -> Option<Duration> {
    told.get(TRANSFERS).and_then(|text| text.parse().ok()).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, *value);
        }
        headers
    }

    #[tokio::test(start_paused = true)]
    async fn limits_arrive_as_they_were_sent() {
        let now = Instant::now();
        let chain = Chain::of_waiting(2).next();
        chain.add_transfer(Duration::from_millis(500));
        let limits = Limits::of(&chain, now + Duration::from_secs(2));
        let mut sent = HeaderMap::new();
        limits.write(&mut sent);
        assert_eq!(Limits::read(Some(&sent)), limits);
        assert_eq!(limits, Limits { time_left: Some(Duration::from_millis(2500)), waiting: 3 });
        assert_eq!(told_transfers(&tell_transfers(&chain)), Some(Duration::from_millis(501)));
        assert_eq!(told_transfers(&tell_transfers(&Chain::default())), None);
    }

    #[test]
    fn limits_of_strangers_give_nobody_more_time() {
        let received = Instant::now();
        let own = Duration::from_secs(2);
        for (pairs, expected) in [
            (vec![], own),
            (vec![(TIME_LEFT, "700")], Duration::from_millis(700)),
            (vec![(TIME_LEFT, "0")], Duration::ZERO),
            (vec![(TIME_LEFT, "18446744073709551615")], own),
            (vec![(TIME_LEFT, "99999999999999999999999")], own),
            (vec![(TIME_LEFT, "-1")], own),
            (vec![(WAITING, "300"), (TIME_LEFT, "soon")], own),
        ] {
            let limits = Limits::read(Some(&headers(&pairs)));
            assert_eq!(limits.deadline(received, own), received + expected, "{pairs:?}");
            assert_eq!(limits.waiting, 0);
        }
        assert_eq!(Limits::read(None), Limits::default());
    }
}
