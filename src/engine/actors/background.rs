//! The background: where calls go on whose guests compute for long.
//!
//! Guests run on the threads that everything else of the host runs on. Even a guest that yields at
//! every tick would keep the thread busy for a tick, and the kernel would treat it like all others:
//! the next call of another actor would wait for both. So a call that computed much moves to threads
//! of its own, which run when nobody else wants the core. The [turns](super::turns) decide when.
//!
//! The move happens between two polls: a guest that yields asks for it ([`ask`]), and the nearest
//! [`Carried`] around it hands its future over as it is.

use std::{
    cell::Cell,
    panic::resume_unwind,
    pin::Pin,
    sync::OnceLock,
    task::{Context, Poll, ready},
};

use futures::future::BoxFuture;
use tokio::runtime::{Builder, Runtime};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument as _, warn};

/// How much nicer than the rest of the host the background is, as in nice(1): it gets a tenth of a
/// core where all want it, and does not starve.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

thread_local! {
    /// The guest that was polled last on this thread asked for the background.
    static IS_ASKED_FOR: Cell<bool> = const { Cell::new(false) };
    /// This is a thread of the background.
    static IS_BACKGROUND: Cell<bool> = const { Cell::new(false) };
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
    IS_BACKGROUND.set(true);
    // On Linux a thread has a priority of its own; elsewhere this would be the process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        warn!(%error, "actors that compute for long run with the priority of all others");
    }
}

/// Asks that the call of the guest that is being polled goes on in the background. The guest has to
/// yield right after this.
pub fn ask() {
    IS_ASKED_FOR.set(!IS_BACKGROUND.get());
}

/// A call that moves to the background when its guest asks for that.
pub enum Carried<'a, T> {
    Here(BoxFuture<'static, T>, &'a Background),
    There(AbortOnDropHandle<T>),
}

impl<'a, T> Carried<'a, T> {
    pub fn new(call: BoxFuture<'static, T>, background: &'a Background) -> Self {
        Self::Here(call, background)
    }
}

/// Ends with `None` if the background ended before the call.
impl<T: Send + 'static> Future for Carried<'_, T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        if let Self::Here(call, background) = &mut *self {
            // Calls are nested: each looks only at what its own poll left behind.
            IS_ASKED_FOR.set(false);
            let polled = call.as_mut().poll(context);
            if !(IS_ASKED_FOR.take() && polled.is_pending()) {
                return polled.map(Some);
            }
            let Some(runtime) = background.runtime() else { return Poll::Pending };
            let call = std::mem::replace(call, Box::pin(std::future::pending()));
            let handle = runtime.spawn(call.in_current_span());
            *self = Self::There(AbortOnDropHandle::new(handle));
        }
        let Self::There(handle) = &mut *self else { return Poll::Pending };
        match ready!(Pin::new(handle).poll(context)) {
            Ok(result) => Poll::Ready(Some(result)),
            Err(failure) => match failure.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Poll::Ready(None),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    async fn asks() -> Option<String> {
        ask();
        tokio::task::yield_now().await;
        thread::current().name().map(str::to_owned)
    }

    #[tokio::test]
    async fn a_call_that_asks_goes_on_in_the_background_and_others_stay() {
        let background = Background::new(1);
        let name = Carried::new(Box::pin(asks()), &background).await.flatten();
        assert_eq!(name.as_deref(), Some("wasm-background"));
        let stays = async {
            tokio::task::yield_now().await;
            thread::current().name().map(str::to_owned)
        };
        let name = Carried::new(Box::pin(stays), &background).await.flatten();
        assert_ne!(name.as_deref(), Some("wasm-background"));
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_ends_in_the_background_too() {
        let background = Background::new(1);
        let (alive, mut dropped) = tokio::sync::oneshot::channel::<()>();
        let call = async move {
            let _alive = alive;
            ask();
            tokio::task::yield_now().await;
            std::future::pending::<()>().await;
        };
        let mut carried = Box::pin(Carried::new(Box::pin(call), &background));
        assert!(futures::poll!(&mut carried).is_pending());
        assert!(matches!(&*carried, Carried::There(_)));
        assert!(dropped.try_recv().is_err());
        drop(carried);
        assert!(dropped.await.is_err());
    }

    #[tokio::test]
    #[should_panic(expected = "in the guest")]
    async fn a_panic_in_the_background_is_one_of_the_caller() {
        let background = Background::new(1);
        let call = async {
            ask();
            tokio::task::yield_now().await;
            panic!("in the guest");
        };
        Carried::<()>::new(Box::pin(call), &background).await;
    }
}
