//! The background: where guests compute that have computed for long.
//!
//! Guests run on the threads that everything else of the host runs on. Even a guest that yields at
//! every tick would keep the thread busy for a tick, and the kernel would treat it like all others:
//! the next call of another actor would wait for both. So a guest that computed much goes on in
//! threads of its own, which run when nobody else wants the core. The [turns](super::turns) decide
//! when.
//!
//! A call moves between two polls, as the future that it is. A guest that yields at a tick asks for
//! the background ([`asking`]), and the nearest [`Carried`] around it hands the call over. Only
//! computing happens there: as soon as the call waits for anything but its next tick, it is handed
//! back. What it causes in the host thus runs where it always does.

use std::{
    cell::Cell,
    future::poll_fn,
    panic::resume_unwind,
    pin::{Pin, pin},
    sync::OnceLock,
    task::{Context, Poll, ready},
};

use futures::future::BoxFuture;
use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, warn};

/// How much nicer than the rest of the host the background is, as in nice(1): where all want a core
/// it gets a tenth of it, and does not starve.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;
/// The nicest that there is.
#[cfg(target_os = "linux")]
const NICE_MAX: i32 = 19;

thread_local! {
    /// The guest that was polled last on this thread asked for the background.
    static IS_ASKED_FOR: Cell<bool> = const { Cell::new(false) };
    /// This is a thread of the background.
    static IS_HERE: Cell<bool> = const { Cell::new(false) };
}

/// The threads of the background, made when they are needed first.
#[derive(Debug)]
pub struct Background {
    threads: usize,
    runtime: OnceLock<Option<Runtime>>,
}

impl Background {
    pub fn new(threads: usize) -> Self {
        Self { threads, runtime: OnceLock::new() }
    }

    fn runtime(&self) -> Option<&Runtime> {
        let made = self.runtime.get_or_init(|| {
            Builder::new_multi_thread()
                .worker_threads(self.threads)
                .thread_name("wasm-background")
                .enable_all()
                .on_thread_start(enter)
                .build()
                .inspect_err(|error| warn!(%error, "no threads for actors that compute for long"))
                .ok()
        });
        made.as_ref()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // A runtime may not wait for its threads where it is dropped by another one.
        if let Some(runtime) = self.runtime.take().flatten() {
            runtime.shutdown_background();
        }
    }
}

fn enter() {
    IS_HERE.set(true);
    // On Linux a thread has a priority of its own; elsewhere this would be the process.
    #[cfg(target_os = "linux")]
    if let Err(error) = lower_priority() {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(
            || warn!(%error, "actors that compute for long have the priority of others"),
        );
    }
}

#[cfg(target_os = "linux")]
fn lower_priority() -> rustix::io::Result<()> {
    use rustix::process::{getpriority_process, setpriority_process};
    let nice = getpriority_process(None)? + NICE;
    setpriority_process(None, nice.min(NICE_MAX))
}

/// Says whether this is a thread of the background.
pub fn is_here() -> bool {
    IS_HERE.get()
}

/// Waits in the background, where the guest goes on that waits.
pub async fn asking<T>(wait: impl Future<Output = T>) -> T {
    let mut wait = pin!(wait);
    poll_fn(|context| {
        let polled = wait.as_mut().poll(context);
        IS_ASKED_FOR.set(polled.is_pending());
        polled
    })
    .await
}

/// Returns to the threads of the host, before something is done that is no computing.
pub async fn leave() {
    if is_here() {
        tokio::task::yield_now().await;
    }
}

/// Polls a call; says whether it asked for the background and waits now.
fn poll_asking<T>(call: &mut BoxFuture<'static, T>, context: &mut Context<'_>) -> (Poll<T>, bool) {
    // Calls are nested: each looks only at the traces of its own poll.
    IS_ASKED_FOR.set(false);
    let polled = call.as_mut().poll(context);
    let asks = IS_ASKED_FOR.take() && polled.is_pending();
    (polled, asks)
}

/// How a stay in the background ended.
enum Stay<T> {
    Done(T),
    /// The call waits for something.
    Left(BoxFuture<'static, T>),
}

/// Computes in the background.
async fn stay<T>(call: BoxFuture<'static, T>) -> Stay<T> {
    let mut call = Some(call);
    poll_fn(|context| {
        let Some(polled) = &mut call else { return Poll::Pending };
        match poll_asking(polled, context) {
            (Poll::Ready(done), _) => Poll::Ready(Stay::Done(done)),
            (Poll::Pending, true) => Poll::Pending,
            (Poll::Pending, false) => {
                call.take().map_or(Poll::Pending, |call| Poll::Ready(Stay::Left(call)))
            }
        }
    })
    .await
}

/// A call whose guest computes in the background when it asks for that.
pub struct Carried<'a, T> {
    background: &'a Background,
    place: Place<T>,
}

enum Place<T> {
    Here(BoxFuture<'static, T>),
    There(AbortOnDropHandle<Stay<T>>),
}

impl<'a, T> Carried<'a, T> {
    pub fn new(call: BoxFuture<'static, T>, background: &'a Background) -> Self {
        Self { background, place: Place::Here(call) }
    }
}

/// Ends with `None` if the background ended before the call.
impl<T: Send + 'static> Future for Carried<'_, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            match &mut self.place {
                Place::Here(call) => {
                    let (polled, asks) = poll_asking(call, context);
                    let runtime = if asks { self.background.runtime() } else { None };
                    // Without threads for it the call goes on here: it has its waker.
                    let Some(runtime) = runtime else { return polled.map(Some) };
                    let Place::Here(call) = &mut self.place else { return Poll::Pending };
                    let call = std::mem::replace(call, Box::pin(std::future::pending()));
                    let stay = runtime.spawn(stay(call).in_current_span());
                    self.place = Place::There(AbortOnDropHandle::new(stay));
                }
                Place::There(handle) => match ready!(Pin::new(handle).poll(context)) {
                    Ok(Stay::Done(done)) => return Poll::Ready(Some(done)),
                    // Polled once more, so that it wakes this task.
                    Ok(Stay::Left(call)) => self.place = Place::Here(call),
                    Err(failure) => match failure.try_into_panic() {
                        Ok(panic) => resume_unwind(panic),
                        Err(_) => return Poll::Ready(None),
                    },
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn a_guest_computes_in_the_background_and_does_all_else_here() {
        let background = Background::new(1);
        let call = async {
            let mut places = vec![is_here()];
            asking(yield_now()).await;
            places.push(is_here());
            asking(yield_now()).await;
            places.push(is_here());
            leave().await;
            places.push(is_here());
            asking(yield_now()).await;
            places.push(is_here());
            places
        };
        let places = Carried::new(Box::pin(call), &background).await;
        assert_eq!(places, Some(vec![false, true, true, false, true]));
    }

    #[tokio::test]
    async fn a_call_that_only_yields_stays() {
        let background = Background::new(1);
        let call = async {
            yield_now().await;
            is_here()
        };
        assert_eq!(Carried::new(Box::pin(call), &background).await, Some(false));
        assert!(background.runtime.get().is_none());
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_ends_in_the_background_too() {
        let background = Background::new(1);
        let (alive, dropped) = tokio::sync::oneshot::channel::<()>();
        let call = async move {
            let _alive = alive;
            asking(std::future::pending::<()>()).await;
        };
        let mut carried = Box::pin(Carried::new(Box::pin(call), &background));
        assert!(futures::poll!(&mut carried).is_pending());
        assert!(matches!(carried.place, Place::There(_)));
        drop(carried);
        assert!(dropped.await.is_err());
    }

    #[tokio::test]
    #[should_panic(expected = "in the guest")]
    async fn a_panic_in_the_background_is_one_of_the_caller() {
        let background = Background::new(1);
        let call = async {
            asking(yield_now()).await;
            panic!("in the guest");
        };
        Carried::<()>::new(Box::pin(call), &background).await;
    }
}
