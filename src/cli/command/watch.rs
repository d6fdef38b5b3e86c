//! Shows what a look finds, once or again and again (`--watch`).
//!
//! On a terminal the whole screen is taken and drawn anew after each look; q or Ctrl-C ends it,
//! with exit code 0. Elsewhere one look is printed after the other, as data a line each.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use time::OffsetDateTime;
use tokio::time::sleep;

use super::screen::{Screen, Wish, exit_by, filled};
use crate::{
    args::lattice::Watch,
    clock,
    terminal::{Output, Page, Terminal, Tone, View},
};
use lattice_protocol::errors::Usage;

/// The shortest and the longest time between two looks, in seconds.
const DELAY_MIN: f64 = 0.1;
const DELAY_MAX: f64 = 3600.0;

/// The result of a look.
pub struct Looked {
    pub view: Box<dyn View>,
    /// Remarks beside it.
    pub notes: Vec<String>,
    /// Errors of hosts that refuse to tell: then not all was found, and a caller that counts on it
    /// has to know.
    pub refusals: Vec<String>,
}

impl Looked {
    /// A look that found all.
    pub fn all(view: impl View + 'static) -> Self {
        Self { view: Box::new(view), notes: Vec::new(), refusals: Vec::new() }
    }

    fn complete(&self) -> Result<()> {
        let refusals = &self.refusals;
        ensure!(
            refusals.is_empty(),
            "this is not all, hosts refuse to tell: {}",
            refusals.join("; ")
        );
        Ok(())
    }
}

/// Reads how long to wait between two looks.
pub fn delay(flag: &str, seconds: f64) -> Result<Duration> {
    if !(DELAY_MIN..=DELAY_MAX).contains(&seconds) {
        return Err(Usage(format!("{flag} is between {DELAY_MIN} and {DELAY_MAX} seconds")).into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Shows what `look` finds: once, or until the user has seen enough. Only the first look may fail.
pub async fn run(
    terminal: &Terminal,
    watch: &Watch,
    mut look: impl AsyncFnMut() -> Result<Looked>,
) -> Result<()> {
    let Some(seconds) = watch.watch else {
        let looked = look().await?;
        looked.notes.iter().for_each(|note| terminal.note(note));
        terminal.show(&*looked.view)?;
        return looked.complete();
    };
    let delay = delay("--watch", seconds)?;
    let is_text = matches!(terminal.output(), Output::Text | Output::Wide);
    if is_text && terminal.is_interactive() {
        return live(terminal, delay, look).await;
    }
    tokio::select! {
        printed = print(terminal, delay, look) => printed,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

/// Prints one look after the other.
async fn print(
    terminal: &Terminal,
    delay: Duration,
    mut look: impl AsyncFnMut() -> Result<Looked>,
) -> Result<()> {
    let mut looked = look().await?;
    loop {
        let incomplete = looked.complete().err().map(|error| error.to_string());
        looked.notes.iter().chain(&incomplete).for_each(|note| terminal.note(note));
        if terminal.is_data() {
            terminal.data_line(&looked.view.json())?;
        } else {
            terminal.show(&*looked.view)?;
        }
        looked = loop {
            sleep(delay).await;
            if terminal.is_closed() {
                return Ok(());
            }
            match look().await {
                Ok(looked) => break looked,
                Err(error) => terminal.note(format!("{error:#}")),
            }
        };
        if terminal.output() != Output::Name && !terminal.is_data() {
            let mut gap = terminal.page();
            gap.line("");
            terminal.print(gap)?;
        }
    }
}

/// Draws one look after the other on the whole terminal.
async fn live(
    terminal: &Terminal,
    delay: Duration,
    mut look: impl AsyncFnMut() -> Result<Looked>,
) -> Result<()> {
    let first = tokio::select! {
        looked = look() => looked?,
        interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
    };
    let mut screen = Screen::take().context("take the terminal over")?;
    let mut shown = Shown { terminal, delay, looked: first, at: clock_now(), trouble: None };
    let signal = loop {
        // A terminal that cannot be drawn on is gone, which its keys tell.
        let _ = shown.draw(&screen);
        let next = async {
            sleep(delay).await;
            look().await
        };
        match shown.attend(&mut screen, next).await {
            Ok(Ok(looked)) => {
                (shown.looked, shown.at, shown.trouble) = (looked, clock_now(), None);
            }
            Ok(Err(error)) => shown.trouble = Some(format!("{error:#}")),
            Err(Wish::End(signal)) => break Some(signal),
            Err(_) => break None,
        }
    };
    drop(screen);
    if let Some(signal) = signal {
        exit_by(signal);
    }
    Ok(())
}

fn clock_now() -> String {
    clock::second_of(OffsetDateTime::now_utc())
}

/// The content of the screen.
struct Shown<'a> {
    terminal: &'a Terminal,
    delay: Duration,
    /// The last look that worked, and when.
    looked: Looked,
    at: String,
    /// Why the last look did not work.
    trouble: Option<String>,
}

impl Shown<'_> {
    /// Does some work and obeys the user meanwhile; an error is the wish to end.
    async fn attend<T>(
        &self,
        screen: &mut Screen,
        work: impl Future<Output = T>,
    ) -> Result<T, Wish> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                wish = screen.next() => match wish {
                    Wish::Quit | Wish::End(_) => return Err(wish),
                    Wish::Sort(_) | Wish::Redraw => {}
                },
            }
            // The next look draws as well.
            let _ = self.draw(screen);
        }
    }

    fn draw(&self, screen: &Screen) -> std::io::Result<()> {
        let (width, height) = Screen::size();
        screen.draw(&self.lines(width, height))
    }

    /// The lines of a screen: the look as far as there is room, and what is to know of it below.
    fn lines(&self, width: usize, height: usize) -> String {
        let mut page = Page::new(Some(width), self.terminal.columns());
        self.looked.view.text(&mut page);
        let text = page.into_text();
        let count = text.lines().count();
        let mut foot: Vec<(String, Tone)> =
            self.looked.notes.iter().map(|note| (note.clone(), Tone::Warning)).collect();
        let incomplete = self.looked.complete().err().map(|error| error.to_string());
        let troubles = self.trouble.iter().cloned().chain(incomplete);
        foot.extend(troubles.map(|trouble| (trouble, Tone::Bad)));
        let mut last = format!("{}   every {} s   q quit", self.at, self.delay.as_secs_f64());
        let room = height.saturating_sub(foot.len() + 1);
        if count > room {
            last.push_str(&format!("   {} more lines", count - room));
        }
        foot.push((last, Tone::Faint));
        filled(&text, &foot, (width, height))
    }
}
