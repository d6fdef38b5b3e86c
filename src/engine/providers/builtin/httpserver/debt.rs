//! Answers on their way: what is owed to a client until its connection has written it.
//!
//! An answer is in memory for as long as its client takes to read it. So it has its bytes of the
//! host's [`Budget`] for that long ([`Lodgings`]), and the [`Pulse`] of its connection counts the
//! bytes that are owed and those that were paid, so that clients that take theirs too slowly are
//! let go. Both end with the memory itself: hyper gets the answer in pieces, each of which knows
//! when it was dropped. Thus HTTP/1 and HTTP/2 are the same here, and nothing that only looks like
//! progress counts: no PING, no window that is opened for a byte, no byte of another answer.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::{clients::Client, pulse::Pulse};
use lattice_base::budget::{Budget, Held};

/// Bytes that hyper gets at a time, and the size in which progress is seen.
pub const PIECE: usize = 32 << 10;

/// The longest answer that only counts in [`Lodgings`], in bytes: a place in the budget would cost
/// more than it protects.
const SMALL: usize = 4 << 10;
/// Of the budget of all payloads: the part that answers may have together, and the part that those
/// of one client may.
const ALL_SHARE: usize = 2;
/// The part that answers may have together before small ones are in the budget, too.
const UNHELD_SHARE: usize = 16;
const CLIENT_SHARE: usize = 4;

/// Answers of a provider that wait for their clients to read them.
#[derive(Debug, Default)]
pub struct Lodgings {
    held: AtomicUsize,
}

/// The outcome of a request for room.
#[derive(Debug)]
pub enum Room {
    /// An empty answer needs none.
    NotNeeded,
    Taken(Lodging),
    Full,
}

/// The share of one answer in the budget; given back when dropped.
#[derive(Debug)]
pub struct Lodging {
    bytes: usize,
    lodgings: Arc<Lodgings>,
    client: Arc<Client>,
    _held: Option<Held>,
}

impl Lodgings {
    /// Takes room for an answer of so many bytes until its client has read it. A small one only
    /// counts here, where all answers together have a bound; a larger one is in the budget, too.
    /// Never waits: an answer that waits is in memory, too. One answer may be larger than the
    /// shares are.
    pub fn lodge(self: &Arc<Self>, bytes: usize, budget: &Budget, client: &Arc<Client>) -> Room {
        if bytes == 0 {
            return Room::NotNeeded;
        }
        let (all, own) = (self.held.load(Ordering::Relaxed), client.held());
        if !fits(bytes, own, budget.bytes_max() / CLIENT_SHARE)
            || !fits(bytes, all, budget.bytes_max() / ALL_SHARE)
        {
            return Room::Full;
        }
        let held = match bytes <= SMALL && fits(bytes, all, budget.bytes_max() / UNHELD_SHARE) {
            true => None,
            false => {
                let mut held = budget.hold();
                if held.try_cover(bytes).is_err() {
                    return Room::Full;
                }
                Some(held)
            }
        };
        client.hold(bytes);
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Room::Taken(Lodging {
            bytes,
            lodgings: Arc::clone(self),
            client: Arc::clone(client),
            _held: held,
        })
    }
}

/// Says whether an answer may stay beside what is held already, of which `max` may be.
fn fits(bytes: usize, held: usize, max: usize) -> bool {
    held == 0 || held + bytes <= max
}

impl Drop for Lodging {
    fn drop(&mut self) {
        self.client.let_go(self.bytes);
        self.lodgings.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The bytes of one answer that are still owed.
#[derive(Debug)]
struct Debt {
    pulse: Arc<Pulse>,
    left: AtomicUsize,
    /// Where the pulse sees this answer move; small ones are only counted.
    entry: Option<(u64, Arc<AtomicU32>)>,
    _lodging: Option<Lodging>,
}

impl Debt {
    fn pay(&self, bytes: usize) {
        self.left.fetch_sub(bytes, Ordering::Relaxed);
        self.pulse.has_paid(bytes);
        if let Some((_, moves)) = &self.entry {
            moves.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        // Of an answer that was given up.
        self.pulse.is_let_off(*self.left.get_mut());
        if let Some((id, _)) = &self.entry {
            self.pulse.forget(*id);
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct Owed {
    bytes: Bytes,
    debt: Option<Share>,
}

/// The debt of an answer of one piece, or of several.
#[derive(Debug)]
enum Share {
    Whole(Debt),
    Part(Arc<Debt>),
}

impl Share {
    fn debt(&self) -> &Debt {
        match self {
            Self::Whole(debt) => debt,
            Self::Part(debt) => debt,
        }
    }
}

impl Owed {
    /// Owes an answer to the client of a connection.
    pub fn new(bytes: Bytes, pulse: &Arc<Pulse>, lodging: Option<Lodging>) -> Self {
        if bytes.is_empty() {
            return Self { bytes, debt: None };
        }
        let left = AtomicUsize::new(bytes.len());
        let is_whole = bytes.len() <= PIECE;
        let entry = if is_whole { None } else { Some(pulse.expect()) };
        pulse.owes(bytes.len());
        let debt = Debt { pulse: Arc::clone(pulse), left, entry, _lodging: lodging };
        let share = if is_whole { Share::Whole(debt) } else { Share::Part(Arc::new(debt)) };
        Self { bytes, debt: Some(share) }
    }
}

impl Body for Owed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let Some(debt) = this.debt.take() else { return Poll::Ready(None) };
        let piece = this.bytes.split_to(PIECE.min(this.bytes.len()));
        if let Share::Part(debt) = &debt
            && !this.bytes.is_empty()
        {
            this.debt = Some(Share::Part(Arc::clone(debt)));
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(Piece { bytes: piece, debt })))))
    }

    fn is_end_stream(&self) -> bool {
        self.debt.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// Owes some bytes of an answer whose length nobody knows before its end.
pub fn parcel(bytes: Bytes, pulse: &Arc<Pulse>) -> Bytes {
    pulse.owes(bytes.len());
    Bytes::from_owner(Parcel { bytes, pulse: Arc::clone(pulse) })
}

struct Parcel {
    bytes: Bytes,
    pulse: Arc<Pulse>,
}

impl AsRef<[u8]> for Parcel {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        self.pulse.has_paid(self.bytes.len());
    }
}

/// A part of an answer, in hyper's hands.
struct Piece {
    bytes: Bytes,
    debt: Share,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.debt.debt().pay(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_owed_until_its_last_piece_is_gone() {
        let pulse = Arc::new(Pulse::default());
        let (client, lodgings, budget) =
            (Arc::new(Client::default()), Arc::new(Lodgings::default()), Budget::default());
        let Room::Taken(lodging) = lodgings.lodge(2 * PIECE + 1, &budget, &client) else {
            panic!("there is room")
        };
        let content: Bytes = (0..=2 * PIECE).map(|n| n as u8).collect::<Vec<_>>().into();
        let mut body = Owed::new(content.clone(), &pulse, Some(lodging));
        assert_eq!(body.size_hint().exact(), Some(content.len() as u64));
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap());
        }
        assert!(body.is_end_stream());
        drop(body);
        assert_eq!((pieces.concat(), pieces.len()), (content.to_vec(), 3));
        assert_eq!((pulse.owed(), client.held()), (content.len(), content.len()));
        // A part of a piece keeps all of it.
        let rest = pieces[0].slice(5..6);
        drop(pieces);
        assert_eq!((pulse.owed(), client.held()), (PIECE, content.len()));
        drop(rest);
        assert_eq!((pulse.owed(), client.held()), (0, 0));
    }

    #[test]
    fn one_client_takes_a_share_of_the_budget_and_all_answers_leave_some_for_others() {
        let (lodgings, budget) = (Arc::new(Lodgings::default()), Budget::new(256 << 20));
        let clients: Vec<_> = (0..4).map(|_| Arc::new(Client::default())).collect();
        let lodge = |mebibytes: usize, client: usize| match lodgings.lodge(
            mebibytes << 20,
            &budget,
            &clients[client],
        ) {
            Room::Taken(lodging) => Some(lodging),
            Room::Full => None,
            Room::NotNeeded => panic!("not empty"),
        };
        let mut taken: Vec<_> = std::iter::from_fn(|| lodge(8, 0)).collect();
        assert_eq!((taken.len(), clients[0].held()), (8, 64 << 20));
        taken.extend(std::iter::from_fn(|| lodge(8, 1)));
        assert_eq!(taken.len(), 16);
        assert!(lodge(1, 2).is_none());
        taken.clear();
        assert_eq!(lodgings.held.load(Ordering::Relaxed) + clients[0].held(), 0);
        // One large answer is no flood; one that is larger than the budget has no place.
        assert!(lodge(150, 3).is_some() && lodge(300, 3).is_none());
        assert!(matches!(lodgings.lodge(0, &budget, &clients[0]), Room::NotNeeded));
    }

    #[tokio::test]
    async fn an_answer_that_is_given_up_is_owed_no_longer() {
        let pulse = Arc::new(Pulse::default());
        let mut body = Owed::new(vec![0; 3 * PIECE].into(), &pulse, None);
        drop(body.frame().await);
        assert_eq!(pulse.owed(), 2 * PIECE);
        drop(body);
        assert_eq!(pulse.owed(), 0);
        assert!(Owed::new(Bytes::new(), &pulse, None).is_end_stream());
    }
}
