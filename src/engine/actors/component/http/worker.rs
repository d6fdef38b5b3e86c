//! An instance of WASI 0.3 that answers several requests at a time.
//!
//! A *worker* is a task that runs one instance, and calls hand it their requests. It takes a
//! further one only while all tasks of its guest wait, as `wasmtime serve` does: requests that
//! compute are better off in instances of their own. It runs while a call waits for it, and stands
//! still between calls.
//!
//! Every call keeps its own deadline, its place in its chain and its trace: each task of the guest
//! makes its calls for the request that began it (see [`caller`]). A call whose time is over leaves
//! its task behind, since no task of a guest can be cancelled; the worker takes no further requests
//! then. What ends the instance ends all calls in it.
//!
//! [`caller`]: super::super::caller::caller

use std::{
    convert::Infallible,
    future::{Future as _, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use futures::{
    channel::oneshot,
    future,
    stream::{FuturesUnordered, StreamExt as _},
};
use hyper::http::Method;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;
use wasmtime::{
    AsContextMut as _,
    component::{Accessor, Func},
};
use wasmtime_wasi_http::{
    WasiHttpView,
    handler::{Prepared as Begun, Proxy, Request, Response},
};

use super::{
    super::{
        Guest, Idle, Instance, Prepared,
        caller::{Caller, End, Held, WhenLate},
        ended, told_to_caller,
    },
    fresh, read, request_of,
};
use crate::{
    actors::{
        background,
        engine::Engine,
        inbound::{Ended, Inbound, Outcome},
        sink::Sink,
        turns::{ActorTurns, Turn},
    },
    rpc::{call::CallError, exchange::Exchange},
};

/// Requests that an instance answers at a time at most, as many as with `wasmtime serve`.
pub const AT_A_TIME_MAX: usize = 16;

/// How long the tasks of a guest may go on after the last request was answered. Mostly they only
/// have to hear that their answers were read.
const SETTLES_WITHIN: Duration = Duration::from_millis(10);

/// The right to a place in the pool.
pub type Right = Box<dyn Send>;

/// A running instance. Ends when nobody has it any more.
pub struct Worker {
    requests: mpsc::Sender<Handed>,
    state: Arc<State>,
    ended: watch::Receiver<Option<Ended>>,
    turn: Turn,
    held: Held,
    /// Also with the task, since the instance goes a little later than this.
    right: Arc<Mutex<Right>>,
    _running: AbortOnDropHandle<()>,
}

/// The parts that the workers of an actor are made from.
pub struct Parts {
    pub prepared: Arc<Prepared>,
    pub sink: Arc<Sink>,
    pub turns: Arc<ActorTurns>,
    pub engine: Engine,
    /// Told when it may take another request.
    pub room: Arc<Notify>,
}

/// The state of a worker as its calls see it.
struct State {
    /// It takes another request.
    is_ready: AtomicBool,
    /// Everything waited when it was polled last.
    is_quiet: AtomicBool,
    /// Requests that are meant for it, so far.
    served: AtomicU32,
    /// Requests that it answers now.
    at_work: AtomicUsize,
    /// Told when it takes another request.
    room: Arc<Notify>,
}

impl State {
    /// The state of one that was made for a request.
    fn new(room: Arc<Notify>) -> Self {
        Self {
            is_ready: AtomicBool::new(false),
            is_quiet: AtomicBool::new(false),
            served: AtomicU32::new(1),
            at_work: AtomicUsize::new(0),
            room,
        }
    }

    /// Lets one more request come.
    fn become_ready(&self) {
        self.is_ready.store(true, Ordering::Release);
        self.room.notify_waiters();
    }
}

/// A call that looks for a worker.
pub struct Visit {
    /// Taken by the worker that begins with it.
    request: Arc<Mutex<Option<Request>>>,
    method: Method,
    exchange: Option<Arc<Exchange>>,
    caller: Caller,
}

/// A request as a worker gets it.
struct Handed {
    request: Arc<Mutex<Option<Request>>>,
    caller: Caller,
    end: Arc<End>,
    answer: oneshot::Sender<wasmtime::Result<Response>>,
    is_read: oneshot::Receiver<()>,
    done: oneshot::Sender<()>,
}

/// The fate of a request that was handed to a worker.
pub enum Fate {
    Done(Outcome<Infallible>),
    /// The worker ended before; another one may have the request.
    NotBegun,
}

impl Visit {
    /// Reads the request of a call. The error is for the caller.
    pub fn new(call: Inbound, memory_max_bytes: usize) -> Result<Self, CallError> {
        let mut caller = Caller::new(&call, memory_max_bytes);
        caller.when_late = WhenLate::GoesOn;
        let Inbound { payload, exchange, .. } = call;
        let request = request_of(payload, exchange.as_deref()).map_err(told_to_caller)?;
        let method = request.method().clone();
        Ok(Self { request: Arc::new(Mutex::new(Some(request))), method, exchange, caller })
    }
}

/// Words the end of an instance for one of its calls, which need not have caused it.
fn ended_for(why: Ended, ends_at: Instant, now: Instant) -> Ended {
    match why {
        Ended::PastDeadline if now < ends_at => Ended::Trap(
            "another call in its instance computed past its deadline, which ended the instance \
             with all calls in it"
                .to_owned(),
        ),
        why => why,
    }
}

/// Adds that an instance was shared to what ended it.
fn shared_by(why: Ended, calls: usize) -> Ended {
    match why {
        Ended::Trap(text) if calls > 1 => {
            Ended::Trap(format!("{text} (with it ended all {calls} calls in its instance)"))
        }
        why => why,
    }
}

/// Says whether a request may go to another worker, since this one ended without it. One that ended
/// before the request that it was made for would end so again.
fn may_have_another(is_begun: bool, served: u32) -> bool {
    !is_begun && served > 1
}

impl Worker {
    /// Makes one for a call that will be its first. It has the right to its place until its
    /// instance is gone.
    pub fn spawn(parts: Parts, first: &Visit, right: Right) -> Self {
        let Parts { prepared, sink, turns, engine, room } = parts;
        let (requests, handed) = mpsc::channel(AT_A_TIME_MAX);
        let (sender, ended) = watch::channel(None);
        let (state, right) = (Arc::new(State::new(room)), Arc::new(Mutex::new(right)));
        let (turn, held) = (turns.turn(0), Held::default());
        let caller = first.caller.in_instance(&turn, &held);
        let instance = prepared.instance(caller, sink);
        let work = Work { prepared, instance, handed, state: Arc::clone(&state), engine };
        let (own_turn, own_right) = (turn.clone(), Arc::clone(&right));
        let work = Box::pin(async move {
            let _right = own_right;
            let why = own_turn.watch(pin!(work.run())).await;
            let _ = sender.send(why);
        });
        let running = tokio::spawn(async move {
            turns.carry(work).await;
        });
        let _running = AbortOnDropHandle::new(running);
        Self { requests, state, ended, turn, held, right, _running }
    }

    /// Asks it to take a request, which counts from now on. It takes no further one until all tasks
    /// of its guest wait again.
    pub fn reserve(&self) -> bool {
        let takes = !self.has_ended() && self.state.is_ready.swap(false, Ordering::AcqRel);
        if takes {
            self.state.served.fetch_add(1, Ordering::Relaxed);
        }
        takes
    }

    /// Has one that serves no call take a request, with another right to its place.
    pub fn resume(&self, right: Right) {
        self.hold(right);
        self.state.is_ready.store(false, Ordering::Release);
        self.state.served.fetch_add(1, Ordering::Relaxed);
    }

    pub fn has_ended(&self) -> bool {
        self.requests.is_closed()
    }

    /// Returns the requests that were meant for it so far.
    pub fn served(&self) -> u32 {
        self.state.served.load(Ordering::Relaxed)
    }

    /// Changes the right to its place.
    pub fn hold(&self, right: Right) {
        let former = std::mem::replace(&mut *self.right.lock(), right);
        drop(former);
    }

    /// Has it answer a request that it was made for, or asked to take.
    pub async fn answer(&self, visit: &Visit) -> Fate {
        let (sender, answer) = oneshot::channel();
        let (read_to_end, is_read) = oneshot::channel();
        let (done, is_done) = oneshot::channel();
        let end = Arc::new(End::default());
        let mut caller = visit.caller.in_instance(&self.turn, &self.held);
        caller.end = Some(Arc::clone(&end));
        let (request, own_end) = (Arc::clone(&visit.request), Arc::clone(&end));
        let handed = Handed { request, caller, end: own_end, answer: sender, is_read, done };
        if self.requests.try_send(handed).is_err() {
            return self.fate_of_ended(visit).await;
        }
        let place = (&visit.method, visit.caller.memory_max_bytes);
        let read = read(answer, visit.exchange.as_deref(), (&end, read_to_end), place).await;
        match is_done.await {
            Ok(()) => Fate::Done(Outcome::Returned(read.map_err(told_to_caller), None)),
            Err(_) => self.fate_of_ended(visit).await,
        }
    }

    /// Decides about a request that it did not answer.
    async fn fate_of_ended(&self, visit: &Visit) -> Fate {
        let mut ended = self.ended.clone();
        let why = ended.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        let is_begun = visit.request.lock().is_none();
        if may_have_another(is_begun, self.served()) {
            return Fate::NotBegun;
        }
        let why = why.unwrap_or_else(|| Ended::Trap("the host ended its instance".to_owned()));
        let ends_at = visit.caller.outward.ends_at();
        Fate::Done(Outcome::Ended(ended_for(why, ends_at, Instant::now())))
    }
}

/// The task of a worker.
struct Work {
    prepared: Arc<Prepared>,
    instance: Instance,
    handed: mpsc::Receiver<Handed>,
    state: Arc<State>,
    engine: Engine,
}

impl Work {
    /// Answers requests until nobody has more of them. Returns why the instance ended, if it did.
    async fn run(mut self) -> Option<Ended> {
        match self.answer_all().await {
            Ok(()) => None,
            Err(error) => {
                let Instance { refusal, caller, .. } = &self.instance;
                let was_refused = refusal.load(Ordering::Relaxed);
                let why = ended(&error, was_refused.then_some(caller.memory_max_bytes));
                Some(shared_by(why, self.state.at_work.load(Ordering::Relaxed)))
            }
        }
    }

    async fn answer_all(&mut self) -> wasmtime::Result<()> {
        let Some(pre) = &self.prepared.exports.http else { return Ok(()) };
        let ticking = self.engine.tick();
        let mut idle = fresh(pre, &self.instance).await?;
        drop(ticking);
        while let Some(first) = self.handed.recv().await {
            let _ticking = self.engine.tick();
            idle.store.set_epoch_deadline(1);
            if !self.answer_together(&mut idle, first).await? {
                // A task of the guest that goes on without a call would stand still in an idle
                // instance, and its clients with it.
                return Ok(());
            }
            idle.store.data_mut().calls.clear();
            // It was that of calls which are over.
            self.instance.refusal.store(false, Ordering::Relaxed);
            self.state.become_ready();
        }
        Ok(())
    }

    /// Answers a request, and those that come meanwhile. Says whether no task of the guest is left.
    async fn answer_together(&mut self, idle: &mut Idle, first: Handed) -> wasmtime::Result<bool> {
        let Idle { store, proxy, .. } = idle;
        let (handed, state, turn) = (&mut self.handed, &*self.state, &self.instance.caller.turn);
        let answering = async |accessor: &Accessor<Guest>| {
            answer_each(accessor, proxy, first, (handed, state)).await
        };
        let mut running = pin!(store.run_concurrent(answering));
        let mut limit = pin!(None);
        poll_fn(|context| {
            let mut polled = running.as_mut().poll(context);
            if polled.is_pending()
                && !state.is_ready.load(Ordering::Acquire)
                // A task that lets others run is not to go on at once.
                && !turn.is_yielding()
                && !background::is_here()
            {
                // If it comes to the requests once more, then no function of the host and no guest
                // that computes has the store, and everything waits: there is room for another one.
                state.is_quiet.store(true, Ordering::Relaxed);
                polled = running.as_mut().poll(context);
                state.is_quiet.store(false, Ordering::Relaxed);
            }
            // Outside of what runs the guest, which may not let it come to its timers.
            match state.at_work.load(Ordering::Relaxed) {
                0 if polled.is_pending() => {
                    if limit.is_none() {
                        limit.set(Some(sleep(SETTLES_WITHIN)));
                    }
                    let over = limit.as_mut().as_pin_mut().map(|limit| limit.poll(context));
                    if over.is_some_and(|over| over.is_ready()) {
                        return Poll::Ready(Ok(Ok(false)));
                    }
                }
                _ => limit.set(None),
            }
            polled
        })
        .await?
    }
}

async fn answer_each(
    accessor: &Accessor<Guest>,
    proxy: &Proxy,
    first: Handed,
    (handed, state): (&mut mpsc::Receiver<Handed>, &State),
) -> wasmtime::Result<bool> {
    let function = function(proxy);
    let mut at_work = FuturesUnordered::new();
    at_work.push(answer(accessor, proxy, first));
    poll_fn(|context| {
        loop {
            match at_work.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(()))) => continue,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) | Poll::Pending => {}
            }
            if let Poll::Ready(Some(next)) = handed.poll_recv(context) {
                at_work.push(answer(accessor, proxy, next));
                continue;
            }
            state.at_work.store(at_work.len(), Ordering::Relaxed);
            if at_work.is_empty() && accessor.poll_no_interesting_tasks(context).is_ready() {
                return Poll::Ready(Ok(true));
            }
            if state.is_quiet.load(Ordering::Relaxed)
                && accessor.poll_ready_for_concurrent_call(function, context).is_ready()
            {
                state.become_ready();
            }
            return Poll::Pending;
        }
    })
    .await
}

fn function(proxy: &Proxy) -> Func {
    match proxy {
        Proxy::P2(guest) => *guest.wasi_http_incoming_handler().func_handle().func(),
        Proxy::P3(guest) => *guest.wasi_http_handler().func_handle().func(),
    }
}

/// Answers one request, until its answer was read. An error ends the instance.
async fn answer(accessor: &Accessor<Guest>, proxy: &Proxy, handed: Handed) -> wasmtime::Result<()> {
    let Handed { request, caller, end, answer, is_read, done } = handed;
    if answer.is_canceled() {
        return Ok(());
    }
    let Some(request) = request.lock().take() else { return Ok(()) };
    let begun = accessor.with(|mut access| -> wasmtime::Result<_> {
        let mut store = access.as_context_mut();
        let (context, view) = (store.as_context_mut(), WasiHttpView::http);
        let begun = Begun::new(context, proxy, request, view, answer)?;
        let task = match &begun {
            Begun::P2 { call, .. } => call.task(),
            Begun::P3 { call, .. } => call.task(),
        };
        store.data_mut().calls.begin(task, caller);
        Ok(begun)
    })?;
    let answering = async {
        begun.run(accessor, future::pending()).await?;
        // Its task goes on writing the body after the head was returned.
        let _ = is_read.await;
        Ok(Ok(()))
    };
    end.of(answering).await?;
    let _ = done.send(());
    Ok(())
}

#[cfg(test)]
impl Worker {
    /// Makes one that answers nothing, with its first call. It ends when it is resumed.
    pub fn of_nothing(room: &Arc<Notify>) -> Arc<Self> {
        let (requests, handed) = mpsc::channel(AT_A_TIME_MAX);
        let turn = ActorTurns::new(&crate::actors::turns::Turns::new(2)).turn(0);
        let right: Right = Box::new(handed);
        Arc::new(Self {
            requests,
            state: Arc::new(State::new(Arc::clone(room))),
            ended: watch::channel(None).1,
            turn,
            held: Held::default(),
            right: Arc::new(Mutex::new(right)),
            _running: AbortOnDropHandle::new(tokio::spawn(async {})),
        })
    }

    /// Has its guest wait.
    pub fn waits(&self) {
        self.state.become_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_to_another_worker_unless_it_would_end_each() {
        for (is_begun, served, expected) in
            [(false, 2, true), (false, 1, false), (true, 2, false), (true, 1, false)]
        {
            assert_eq!(may_have_another(is_begun, served), expected, "{is_begun} {served}");
        }
    }

    #[test]
    fn the_end_of_an_instance_is_worded_for_each_call_in_it() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        assert!(matches!(ended_for(Ended::PastDeadline, now, now), Ended::PastDeadline));
        let other = ended_for(Ended::PastDeadline, later, now);
        assert!(
            matches!(other, Ended::Trap(text) if text.contains("another call in its instance"))
        );
        for (calls, expected) in
            [(1, "unreachable"), (2, "unreachable (with it ended all 2 calls in its instance)")]
        {
            let trap = Ended::Trap("unreachable".to_owned());
            let ended = ended_for(shared_by(trap, calls), later, now);
            assert!(matches!(ended, Ended::Trap(text) if text == expected));
        }
    }
}
