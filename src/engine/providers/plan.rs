//! Decides about the life of one provider: its phases, its restarts, and when it is given up. Pure:
//! no task, no clock, no server.
//!
//! The [`supervisor`](super::supervisor) tells a [`Lifecycle`] each [`Input`], and carries out the
//! [`Effect`]s it gets back in their order:
//!
//! ```text
//! launching ─▶ running ─▶ gone: it ended with exit code 0, or was stopped
//!     ▲           │ fails
//!     └─ pausing ◀┘
//!           └─▶ gone: too many failures in a row, claims not in force, stopped, started anew
//! ```
//!
//! A stop during a launch or a run leads to `stopping`, which only the end of that launch or run
//! leaves.

use std::time::Duration;

use tokio::time::Instant;

use super::external::process::Exit;
use lattice_base::backoff;

/// The pause before the first restart; each further one is twice as long.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// Restarts in a row before a provider is given up; the pauses add up to six seconds.
const RESTARTS_MAX: u32 = 6;
/// A run of this length ends the row.
pub(super) const STABLE_AFTER: Duration = Duration::from_secs(60);
/// Why a stop was asked for, in events.
pub(super) const STOPPED: &str = "stopped";

/// The phase in the life of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Launching,
    Running,
    /// It ended by itself and is started again soon.
    Pausing,
    Stopping,
}

/// The state of one provider, as far as its phases and restarts depend on it.
#[derive(Clone, Debug)]
pub(super) struct Lifecycle {
    pub phase: Phase,
    /// Ends of its own in a row.
    pub crashes: u32,
    /// How often it was started again.
    pub restarts: u64,
    /// How its last run ended by itself.
    pub last_end: Option<String>,
    /// When its run began.
    pub since: Instant,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RunEnd {
    /// By request.
    Asked,
    /// Its process ended as one that has done its work.
    Done,
    /// It failed, with this cause.
    Failed(String),
}

/// An occurrence in the life of a provider.
#[derive(Debug)]
pub(super) enum Input {
    Launched,
    /// The launch failed, with this cause.
    LaunchFailed(String),
    Ended(RunEnd),
    PauseOver,
    /// A client or the host wants it to end, by this time.
    Stop(Instant),
    /// A client wants it to be started.
    Start,
}

/// The circumstances of an input.
#[derive(Debug)]
pub(super) struct Facts {
    pub now: Instant,
    /// The host is stopping.
    pub is_closing: bool,
    /// It brings work in from outside the lattice.
    pub is_ingress: bool,
    /// Why its claims do not count now.
    pub not_in_force: Option<String>,
}

/// One thing the supervisor does about an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Takes it out of the set.
    Remove,
    /// Shows readers the set as it is now.
    Publish,
    /// Leads no further calls of this process to it.
    Withdraw,
    /// Begins a run.
    Launch,
    /// Tells the launch or the run to end, by this time.
    EndRun(Instant),
    /// Sends [`Input::PauseOver`] after this time.
    Pause(Duration),
    TellStarted,
    /// Tells that its run ended by itself, and how.
    TellCrashed(String),
    /// Tells that its last run ended, and why.
    TellEnded(String),
    /// Sends the event of a stop alone: there was no run.
    TellStopped,
    TellNotStarted(String),
    TellGivenUp(String),
    /// Tells those who wait for its end; the last effect after [`Effect::Remove`].
    Release,
}

impl Lifecycle {
    /// Returns the life of a provider that is about to be launched for the first time.
    pub fn new(now: Instant) -> Self {
        Self { phase: Phase::Launching, crashes: 0, restarts: 0, last_end: None, since: now }
    }

    /// Whether it belongs into the inventory.
    pub fn is_shown(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Stopping)
    }

    /// Takes an input in and returns what it asks for.
    pub fn on(&mut self, input: Input, facts: &Facts) -> Vec<Effect> {
        match input {
            Input::Launched => {
                // A stop that came during the launch is already told to the run that begins now.
                if self.phase != Phase::Stopping {
                    self.phase = Phase::Running;
                }
                self.since = facts.now;
                vec![Effect::Publish, Effect::TellStarted]
            }
            Input::LaunchFailed(cause) => self.launch_failed(cause, facts),
            Input::Ended(end) => self.ended(end, facts),
            Input::PauseOver if self.phase == Phase::Pausing && !facts.is_closing => {
                self.restarts += 1;
                self.phase = Phase::Launching;
                vec![Effect::Launch]
            }
            Input::Stop(_) if self.phase == Phase::Pausing => {
                vec![Effect::Remove, Effect::TellStopped, Effect::Release]
            }
            Input::Stop(deadline) => {
                self.phase = Phase::Stopping;
                if facts.is_ingress {
                    return vec![Effect::EndRun(deadline)];
                }
                // Others of the lattice may run it too: calls from here go to them from now on.
                vec![Effect::EndRun(deadline), Effect::Withdraw, Effect::Publish]
            }
            // The client does not want to wait for the restart, or wants another program.
            Input::Start if self.phase == Phase::Pausing => vec![Effect::Remove, Effect::Release],
            Input::PauseOver | Input::Start => Vec::new(),
        }
    }

    fn launch_failed(&mut self, cause: String, facts: &Facts) -> Vec<Effect> {
        if self.phase == Phase::Stopping {
            // The client that asked for the stop waits for its event.
            return vec![
                Effect::Remove,
                Effect::Publish,
                Effect::TellNotStarted(cause),
                Effect::TellStopped,
                Effect::Release,
            ];
        }
        // The first start is not repeated: a provider that never ran is not going to.
        if self.crashes == 0 {
            return vec![Effect::Remove, Effect::TellNotStarted(cause), Effect::Release];
        }
        self.pause(&format!("it could not be started again: {cause}"), facts)
    }

    fn ended(&mut self, end: RunEnd, facts: &Facts) -> Vec<Effect> {
        let reason = match end {
            RunEnd::Failed(how) if self.phase != Phase::Stopping && !facts.is_closing => {
                if facts.now.duration_since(self.since) >= STABLE_AFTER {
                    self.crashes = 0;
                }
                let next = self.pause(&how, facts);
                let told = [Effect::Withdraw, Effect::Publish, Effect::TellCrashed(how)];
                return told.into_iter().chain(next).collect();
            }
            RunEnd::Failed(how) => how,
            RunEnd::Asked => STOPPED.to_owned(),
            RunEnd::Done => Exit::Code(0).to_string(),
        };
        vec![Effect::Remove, Effect::Publish, Effect::TellEnded(reason), Effect::Release]
    }

    /// Has a provider that ended by itself started again after a pause, or gives it up.
    fn pause(&mut self, how: &str, facts: &Facts) -> Vec<Effect> {
        self.phase = Phase::Pausing;
        let given_up = if let Some(error) = &facts.not_in_force {
            Some(format!("it ended ({how}) and is not started again: {error}"))
        } else {
            self.crashes += 1;
            self.last_end = Some(how.to_owned());
            (self.crashes > RESTARTS_MAX).then(|| {
                format!(
                    "given up after {RESTARTS_MAX} restarts in a row; the last time: {how}. Its \
                     log lines say more; start it again when the cause is mended"
                )
            })
        };
        match given_up {
            Some(text) => vec![Effect::Remove, Effect::TellGivenUp(text), Effect::Release],
            None => vec![Effect::Pause(backoff::after(self.crashes, RESTART_FIRST, Duration::MAX))],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Effect::*, Input::*, Phase::*, *};

    /// The circumstances of a case.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Given {
        Nothing,
        Closing,
        Ingress,
        NotInForce,
        /// The run lasted so many seconds.
        Ran(u64),
    }
    use Given::*;

    /// One row: phase and crashes before, the circumstances, the input; the effects, phase and
    /// crashes after.
    type Case = (Phase, u32, Given, Input, Vec<Effect>, Phase, u32);

    fn run(case: Case) {
        let began = Instant::now();
        let (phase, crashes, given, input, effects, phase_after, crashes_after) = case;
        let ran = if let Ran(seconds) = given { seconds } else { 1 };
        let facts = Facts {
            now: began + Duration::from_secs(ran),
            is_closing: given == Closing,
            is_ingress: given == Ingress,
            not_in_force: (given == NotInForce).then(|| "expired".to_owned()),
        };
        let mut life = Lifecycle { phase, crashes, ..Lifecycle::new(began) };
        let case = format!("{phase:?} after {crashes} crashes, {given:?}: {input:?}");
        assert_eq!(life.on(input, &facts), effects, "{case}");
        assert_eq!((life.phase, life.crashes), (phase_after, crashes_after), "{case}");
    }

    fn boom() -> String {
        "boom".into()
    }

    fn failed() -> Input {
        Ended(RunEnd::Failed(boom()))
    }

    fn crashed(next: &[Effect]) -> Vec<Effect> {
        [&[Withdraw, Publish, TellCrashed(boom())][..], next].concat()
    }

    fn paused(milliseconds: u64) -> Vec<Effect> {
        crashed(&[Pause(Duration::from_millis(milliseconds))])
    }

    fn over(told: &[Effect]) -> Vec<Effect> {
        [&[Remove][..], told, &[Release]].concat()
    }

    fn ended(reason: &str) -> Vec<Effect> {
        over(&[Publish, TellEnded(reason.into())])
    }

    fn given_up(how: &str) -> Effect {
        TellGivenUp(format!(
            "given up after 6 restarts in a row; the last time: {how}. Its log lines say more; \
             start it again when the cause is mended"
        ))
    }

    fn lapsed(how: &str) -> Effect {
        TellGivenUp(format!("it ended ({how}) and is not started again: expired"))
    }

    #[test]
    fn a_launch_leads_to_a_run_and_a_failed_one_to_a_pause_or_the_end() {
        let again = "it could not be started again: boom";
        let not_started = || TellNotStarted(boom());
        let cases: [Case; 13] = [
            (Launching, 0, Nothing, Launched, vec![Publish, TellStarted], Running, 0),
            (Launching, 3, Nothing, Launched, vec![Publish, TellStarted], Running, 3),
            (Launching, 0, Closing, Launched, vec![Publish, TellStarted], Running, 0),
            // The run is told to stop as soon as it begins.
            (Stopping, 0, Nothing, Launched, vec![Publish, TellStarted], Stopping, 0),
            (Launching, 0, Nothing, LaunchFailed(boom()), over(&[not_started()]), Launching, 0),
            (Launching, 0, NotInForce, LaunchFailed(boom()), over(&[not_started()]), Launching, 0),
            (
                Stopping,
                0,
                Nothing,
                LaunchFailed(boom()),
                over(&[Publish, not_started(), TellStopped]),
                Stopping,
                0,
            ),
            (
                Stopping,
                3,
                Nothing,
                LaunchFailed(boom()),
                over(&[Publish, not_started(), TellStopped]),
                Stopping,
                3,
            ),
            (
                Launching,
                1,
                Nothing,
                LaunchFailed(boom()),
                vec![Pause(Duration::from_millis(200))],
                Pausing,
                2,
            ),
            (
                Launching,
                5,
                Nothing,
                LaunchFailed(boom()),
                vec![Pause(Duration::from_millis(3200))],
                Pausing,
                6,
            ),
            (
                Launching,
                2,
                Closing,
                LaunchFailed(boom()),
                vec![Pause(Duration::from_millis(400))],
                Pausing,
                3,
            ),
            (Launching, 6, Nothing, LaunchFailed(boom()), over(&[given_up(again)]), Pausing, 7),
            (Launching, 2, NotInForce, LaunchFailed(boom()), over(&[lapsed(again)]), Pausing, 2),
        ];
        cases.into_iter().for_each(run);
    }

    #[test]
    fn a_run_that_fails_is_followed_by_ever_longer_pauses_and_others_by_the_end() {
        let cases: [Case; 19] = [
            (Running, 0, Nothing, failed(), paused(100), Pausing, 1),
            (Running, 1, Nothing, failed(), paused(200), Pausing, 2),
            (Running, 2, Ingress, failed(), paused(400), Pausing, 3),
            (Running, 3, Nothing, failed(), paused(800), Pausing, 4),
            (Running, 4, Nothing, failed(), paused(1600), Pausing, 5),
            (Running, 5, Nothing, failed(), paused(3200), Pausing, 6),
            (Running, 6, Nothing, failed(), crashed(&over(&[given_up("boom")])), Pausing, 7),
            (Running, 6, Ran(59), failed(), crashed(&over(&[given_up("boom")])), Pausing, 7),
            (Running, 6, Ran(60), failed(), paused(100), Pausing, 1),
            (Running, 2, Ran(3600), failed(), paused(100), Pausing, 1),
            (Running, 0, NotInForce, failed(), crashed(&over(&[lapsed("boom")])), Pausing, 0),
            (Running, 0, Closing, failed(), ended("boom"), Running, 0),
            (Stopping, 0, Nothing, failed(), ended("boom"), Stopping, 0),
            (Stopping, 6, NotInForce, failed(), ended("boom"), Stopping, 6),
            (Running, 0, Nothing, Ended(RunEnd::Done), ended("exit code 0"), Running, 0),
            (Running, 4, Closing, Ended(RunEnd::Done), ended("exit code 0"), Running, 4),
            (Stopping, 0, Nothing, Ended(RunEnd::Done), ended("exit code 0"), Stopping, 0),
            (Stopping, 0, Ingress, Ended(RunEnd::Asked), ended("stopped"), Stopping, 0),
            (Running, 0, Nothing, Ended(RunEnd::Asked), ended("stopped"), Running, 0),
        ];
        cases.into_iter().for_each(run);
    }

    #[test]
    fn stops_starts_and_ends_of_pauses_mean_something_else_in_each_phase() {
        let at = Instant::now();
        let leaves = || vec![EndRun(at), Withdraw, Publish];
        let cases: [Case; 19] = [
            (Running, 0, Nothing, Stop(at), leaves(), Stopping, 0),
            (Running, 2, Closing, Stop(at), leaves(), Stopping, 2),
            (Launching, 0, Nothing, Stop(at), leaves(), Stopping, 0),
            // A second stop brings another deadline.
            (Stopping, 0, Nothing, Stop(at), leaves(), Stopping, 0),
            // Its answers to work from outside still go through this process.
            (Running, 0, Ingress, Stop(at), vec![EndRun(at)], Stopping, 0),
            (Launching, 0, Ingress, Stop(at), vec![EndRun(at)], Stopping, 0),
            (Pausing, 1, Nothing, Stop(at), over(&[TellStopped]), Pausing, 1),
            (Pausing, 1, Closing, Stop(at), over(&[TellStopped]), Pausing, 1),
            (Pausing, 1, Ingress, Stop(at), over(&[TellStopped]), Pausing, 1),
            (Pausing, 3, Nothing, Start, over(&[]), Pausing, 3),
            (Launching, 0, Nothing, Start, vec![], Launching, 0),
            (Running, 0, Nothing, Start, vec![], Running, 0),
            (Stopping, 0, Nothing, Start, vec![], Stopping, 0),
            (Pausing, 3, Nothing, PauseOver, vec![Launch], Launching, 3),
            (Pausing, 3, NotInForce, PauseOver, vec![Launch], Launching, 3),
            (Pausing, 3, Closing, PauseOver, vec![], Pausing, 3),
            (Launching, 3, Nothing, PauseOver, vec![], Launching, 3),
            (Running, 3, Nothing, PauseOver, vec![], Running, 3),
            (Stopping, 3, Nothing, PauseOver, vec![], Stopping, 3),
        ];
        cases.into_iter().for_each(run);
    }

    #[test]
    fn restarts_are_counted_for_ever_and_crashes_until_a_run_is_stable() {
        let mut now = Instant::now();
        let mut life = Lifecycle::new(now);
        let mut on = |input, seconds| {
            now += Duration::from_secs(seconds);
            let facts = Facts { now, is_closing: false, is_ingress: false, not_in_force: None };
            life.on(input, &facts);
            (life.phase, life.crashes, life.restarts, life.last_end.clone())
        };
        assert_eq!(on(Launched, 1), (Running, 0, 0, None));
        assert_eq!(on(failed(), 1), (Pausing, 1, 0, Some(boom())));
        assert_eq!(on(PauseOver, 1), (Launching, 1, 1, Some(boom())));
        // A run begins when its launch is done, however long that took.
        assert_eq!(on(Launched, 120), (Running, 1, 1, Some(boom())));
        assert_eq!(on(failed(), 59), (Pausing, 2, 1, Some(boom())));
        on(PauseOver, 1);
        on(Launched, 1);
        let killed = Ended(RunEnd::Failed("killed".into()));
        assert_eq!(on(killed, 60), (Pausing, 1, 2, Some("killed".into())));
        assert_eq!(on(PauseOver, 1), (Launching, 1, 3, Some("killed".into())));
    }

    #[test]
    fn readers_see_that_a_provider_of_the_inventory_is_gone_before_anybody_is_told() {
        for input in [failed(), Ended(RunEnd::Done), Ended(RunEnd::Asked), LaunchFailed(boom())] {
            let now = Instant::now();
            let facts = Facts { now, is_closing: false, is_ingress: true, not_in_force: None };
            let mut life = Lifecycle { phase: Stopping, ..Lifecycle::new(now) };
            let case = format!("{input:?}");
            assert_eq!(life.on(input, &facts)[..2], [Remove, Publish], "{case}");
        }
    }

    #[test]
    fn only_what_runs_or_is_about_to_end_belongs_into_the_inventory() {
        let shown = [Launching, Running, Pausing, Stopping]
            .map(|phase| Lifecycle { phase, ..Lifecycle::new(Instant::now()) }.is_shown());
        assert_eq!(shown, [false, true, false, true]);
    }
}
