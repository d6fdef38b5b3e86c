//! The end of a subscription in a queue group: nothing that the server has sent is lost.

use std::time::Duration;

use async_nats::{Message, Subscriber, connection::State};
use futures::{FutureExt as _, StreamExt as _};
use tokio::{
    task::coop::unconstrained,
    time::{Instant, sleep, timeout},
};

use lattice_base::lattice::connection::confirm;

/// More messages than are ever on their way to one subscription.
const FURTHER_MAX: u64 = 16 * 1024;
/// How long to look how many arrive at least, and at most, after a round trip.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How long the server may take to confirm.
const CONFIRM_MAX: Duration = Duration::from_millis(500);
/// How long to wait for the agreed number at least.
const COUNT: Duration = Duration::from_millis(700);
/// How long leaving may take: one look of the longest kind, the agreed number, which takes three
/// times as much, and a little more.
pub const LEAVE_TIMEOUT: Duration = Duration::from_secs(9);
/// Messages that may be on their way however few have arrived lately: on a machine that has much to
/// do they wait in the connection.
const MARGIN: u64 = 64;

/// Leaves the queue group without losing what the server has already sent; `total` messages came so
/// far.
///
/// The client forgets a drained subscription when it next wakes up, and drops messages that are
/// still on their way. So the server is asked to end the subscription by itself, after a number of
/// messages that both sides count to: first one so high that nothing on its way is cut off while we
/// see how much arrives, then one that is reached soon and still beyond all that can be on its way;
/// both once more if less arrives than it seemed, as long as anything does.
/// Where nothing arrives, hardly anything can be on its way, and draining is good enough. Without a
/// connection nothing is on its way at all, and nobody is there to agree with: the client forgets
/// the subscription, or it would be made again with the connection and nobody would read it.
pub async fn leave(
    nats: &async_nats::Client,
    subscription: &mut Subscriber,
    mut total: u64,
    mut take_on: impl FnMut(Message),
) {
    if nats.connection_state() != State::Connected {
        // The client takes the word when it has room for it. What is here is taken on in any case,
        // and dropping the subscription says the same once more.
        let _ = timeout(CONFIRM_MAX, subscription.unsubscribe()).await;
        while let Some(Some(message)) = unconstrained(subscription.next()).now_or_never() {
            take_on(message);
        }
        return;
    }
    loop {
        let began = Instant::now();
        let further = total + FURTHER_MAX;
        let looking = look(nats, began);
        let Some(arrived) = end_after(subscription, further, looking, &mut take_on).await else {
            return;
        };
        if arrived == 0 {
            break;
        }
        total += arrived;
        // Twice as many as came in the look take twice as long, unless fewer come than before.
        let count = sleep(COUNT.max(began.elapsed() * 3));
        let agreed = total + MARGIN + arrived * 2;
        let Some(arrived) = end_after(subscription, agreed, count, &mut take_on).await else {
            return;
        };
        total += arrived;
    }
    drain(subscription, take_on).await;
}

/// Ends a subscription at once and takes on what has arrived here.
pub async fn drain(subscription: &mut Subscriber, mut take_on: impl FnMut(Message)) {
    if subscription.drain().await.is_ok() {
        while let Some(message) = subscription.next().await {
            take_on(message);
        }
    }
}

/// Waits as long as it takes to see how many messages come.
async fn look(nats: &async_nats::Client, began: Instant) {
    // On a slow line, or a machine that has much to do, more is on its way than on others.
    let _ = timeout(CONFIRM_MAX, confirm(nats)).await;
    sleep((began.elapsed() * 4).clamp(LOOK, LOOK_MAX)).await;
    // Messages that came meanwhile may still wait in the connection.
    let _ = timeout(CONFIRM_MAX, confirm(nats)).await;
}

/// Asks the server to end a subscription after `count` messages in all, and takes on what arrives
/// meanwhile. Returns how many did if the subscription still lives after `pause`.
async fn end_after(
    subscription: &mut Subscriber,
    count: u64,
    pause: impl Future<Output = ()>,
    take_on: &mut impl FnMut(Message),
) -> Option<u64> {
    subscription.unsubscribe_after(count).await.ok()?;
    let mut arrived = 0;
    let ended = async {
        while let Some(message) = subscription.next().await {
            arrived += 1;
            take_on(message);
        }
    };
    let lives = tokio::select! {
        () = ended => false,
        () = pause => true,
    };
    lives.then_some(arrived)
}
