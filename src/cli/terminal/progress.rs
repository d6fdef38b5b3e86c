//! Tells on standard error how a command gets on, stage by stage.
//!
//! On a terminal the stage is one line that changes and is gone at the end; elsewhere each stage is
//! a line of its own.

use std::{
    borrow::Cow,
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use lattice_protocol::escape;

const TICK: Duration = Duration::from_millis(80);

/// A command that takes its time. Dropped, its line is gone.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    is_quiet: bool,
    last: String,
}

impl Progress {
    /// `is_quiet` for those who read data and no sentences.
    pub(super) fn new(is_quiet: bool) -> Self {
        let bar = (std::io::stderr().is_terminal() && !is_quiet).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // The template is constant and right.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, is_quiet, last: String::new() }
    }

    /// Tells what goes on now; the same stage with other numbers is only told on a terminal.
    pub fn stage(&mut self, stage: &str, detail: impl Into<Cow<'static, str>>) {
        let detail = detail.into();
        let text = if detail.is_empty() { stage.to_owned() } else { format!("{stage}: {detail}") };
        let text = escape::line(&text).into_owned();
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None if !self.is_quiet && self.last != stage => {
                let _ = writeln!(std::io::stderr().lock(), "{text}");
            }
            None => {}
        }
        stage.clone_into(&mut self.last);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
