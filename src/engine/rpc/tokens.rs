//! The tokens of the calls that come to this host: each is taken once, within the window that the
//! setting `token_window_secs` gives.

use std::time::Duration;

use parking_lot::Mutex;
use tracing::warn;

use lattice_protocol::{
    control::probe::health::TokenHealth,
    identity::claims::now,
    rpc::window::{Moment, Stamp, Untimely, Window},
};

/// The window and its memory; nothing if tokens are taken whatever their time.
#[derive(Debug)]
pub struct Tokens(Option<Mutex<Window>>);

impl Tokens {
    /// Takes the longest age of a token; none takes all, as often as they come.
    pub fn new(window: Duration) -> Self {
        let secs = window.as_secs();
        Self((secs > 0).then(|| Mutex::new(Window::new(secs))))
    }

    /// Checks the token of a call that is not verified to the end yet. The time since the host
    /// started is `uptime`.
    pub fn check(&self, stamp: Stamp, uptime: Duration) -> Result<(), Untimely> {
        let Some(window) = &self.0 else { return Ok(()) };
        window.lock().check(stamp, moment(uptime))
    }

    /// Uses the token of a verified call.
    pub fn admit(&self, stamp: Stamp, uptime: Duration) -> Result<(), Untimely> {
        let Some(window) = &self.0 else { return Ok(()) };
        let at = moment(uptime);
        let mut window = window.lock();
        let was_shortened = window.is_shortened();
        let admitted = window.admit(stamp, at);
        let is_now_shortened = window.is_shortened() && !was_shortened;
        drop(window);
        // Once: under such a load it stays so.
        if is_now_shortened {
            warn!(
                "more calls come than tokens are remembered: the oldest are refused before token_window_secs are over"
            );
        }
        admitted
    }

    /// Returns what was refused so far.
    pub fn health(&self) -> TokenHealth {
        let Some(window) = &self.0 else { return TokenHealth::default() };
        let window = window.lock();
        let refused = window.refused();
        TokenHealth {
            window_secs: window.secs(),
            untimely: refused.untimely,
            last_skew_secs: refused.last_skew_secs,
            repeated: refused.repeated,
            is_shortened: window.is_shortened(),
        }
    }
}

fn moment(uptime: Duration) -> Moment {
    Moment { now: now(), uptime: uptime.as_secs() }
}
