//! Looks for hosts, which calls share.
//!
//! Nobody knows which host has a call that went to a queue group, so all that may have it are asked
//! whether they are there. If each slow call did so for itself, a host would be asked as often as
//! there are calls. So those that want to know about a host share the next look for it. It begins
//! after they ask: an earlier one says nothing of a host that vanished since.

use std::{collections::HashMap, sync::Arc};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use super::pursuit::LOOK_INTERVAL;
use crate::{peers::table::PEERS_MAX, rpc::client::Answer};

type SharedAnswer = Shared<BoxFuture<'static, Answer>>;

/// The last look for each host. Only hosts that are known are looked for, so these are about
/// [`PEERS_MAX`] at most; those whose last look is long ago make room.
#[derive(Default)]
pub(super) struct Looks {
    // Held for a few lines, never across an await.
    last: Mutex<HashMap<Arc<str>, Look>>,
}

struct Look {
    begins_at: Instant,
    /// Gone when nobody waits for it any more.
    answer: WeakShared<BoxFuture<'static, Answer>>,
}

impl Looks {
    /// Returns the answer to the next look for a host, which is this one if no other waits.
    pub fn share(
        &self,
        host: &Arc<str>,
        look: impl Future<Output = Answer> + Send + 'static,
    ) -> SharedAnswer {
        let now = Instant::now();
        let mut last = self.last.lock();
        let before = last.get(host);
        if let Some(before) = before
            && before.begins_at > now
            && let Some(answer) = before.answer.upgrade()
        {
            return answer;
        }
        let begins_at = next(before.map(|before| before.begins_at), now);
        let answer = async move {
            if begins_at > now {
                sleep_until(begins_at).await;
            }
            look.await
        };
        let answer = answer.boxed().shared();
        if !last.contains_key(host) && last.len() >= PEERS_MAX {
            last.retain(|_, look| is_recent(look.begins_at, now));
        }
        if let Some(weak) = answer.downgrade() {
            last.insert(Arc::clone(host), Look { begins_at, answer: weak });
        }
        answer
    }
}

/// Returns when the next look begins, if the one before began, or was to begin, then.
fn next(before: Option<Instant>, now: Instant) -> Instant {
    match before {
        None => now,
        // Those that waited for it have gone before it began.
        Some(before) if before > now => before,
        Some(before) => now.max(before + LOOK_INTERVAL),
    }
}

/// Says whether a look still decides when the next one begins.
fn is_recent(begins_at: Instant, now: Instant) -> bool {
    begins_at + LOOK_INTERVAL > now
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures::future::join_all;

    use super::*;

    #[test]
    fn looks_for_one_host_begin_at_once_or_an_interval_after_the_one_before() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        for (before, now, expected) in [
            (None, 500, 500),
            (Some(0), 500, 500),
            (Some(400), 500, 500),
            (Some(450), 500, 550),
            (Some(500), 500, 600),
            (Some(550), 500, 550),
        ] {
            assert_eq!(next(before.map(at), at(now)), at(expected), "{before:?}, then {now}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_share_the_next_look_and_none_that_began_before_they_asked() {
        let (looks, began) = (Looks::default(), Instant::now());
        let count = Arc::new(AtomicUsize::new(0));
        let share = |host: &str| {
            let count = Arc::clone(&count);
            let look = async move {
                count.fetch_add(1, Ordering::Relaxed);
                Answer::InWork
            };
            looks.share(&Arc::from(host), look)
        };
        let seen = || (count.load(Ordering::Relaxed), began.elapsed());
        share("N").await;
        assert_eq!(seen(), (1, Duration::ZERO), "the first begins at once");
        let answers = join_all((0..100).map(|_| share("N"))).await;
        assert_eq!(answers, [Answer::InWork; 100]);
        assert_eq!(seen(), (2, LOOK_INTERVAL), "a hundred calls share the next");
        share("OTHER").await;
        assert_eq!(seen(), (3, LOOK_INTERVAL), "that for another host does not wait");
        drop(share("N"));
        share("N").await;
        assert_eq!(seen(), (4, LOOK_INTERVAL * 2), "one that nobody waits for is not made");
    }

    #[tokio::test(start_paused = true)]
    async fn hosts_whose_last_look_is_long_ago_make_room_for_new_ones_only() {
        let looks = Looks::default();
        let share = |n: usize| looks.share(&format!("N{n}").into(), async { Answer::InWork });
        for n in 0..PEERS_MAX {
            assert_eq!(share(n).await, Answer::InWork);
        }
        tokio::time::advance(LOOK_INTERVAL).await;
        share(0).await;
        assert_eq!(looks.last.lock().len(), PEERS_MAX, "it has its place");
        share(PEERS_MAX).await;
        assert_eq!(looks.last.lock().len(), 2, "it and the one that was looked for just now");
    }
}
