//! The terminal as a whole screen, of `host top` and of `--watch`: taken over, drawn on, and given
//! back whatever happens.
//!
//! It is given back when [`Screen`] is dropped, before the message of a panic is printed, and when
//! a signal ends the command ([`Screen::next`] tells of it and the caller returns). Keys are read
//! by a thread of their own, which looks ten times a second whether it is still wanted. It never
//! ends on a terminal that is gone, so the process does not wait for it.

use std::{
    io::{self, Write as _, stdout},
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crossterm::{
    cursor::{Hide, MoveTo, Show},
    event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    execute, queue,
    terminal::{
        self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
        enable_raw_mode,
    },
};
use tokio::sync::mpsc;

use crate::{
    args::lattice::TopOrder,
    terminal::{Text, Tone},
};
use lattice_protocol::escape;

/// How often the thread that reads keys looks whether it is still wanted.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long the thread that reads keys may take to end, and how often that is looked at.
const READER_PATIENCE: Duration = Duration::from_millis(500);
const READER_POLL: Duration = Duration::from_millis(10);
/// Keys that wait to be heeded.
const KEYS_MAX: usize = 64;

/// The screen is ours.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// A wish of the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// No more of it.
    Quit,
    Sort(TopOrder),
    /// The terminal has another size.
    Redraw,
    /// The process was told to end, by a signal with this number.
    End(i32),
}

/// The whole terminal, until dropped.
pub struct Screen {
    keys: mpsc::Receiver<Wish>,
    reader: Option<JoinHandle<()>>,
    signals: Signals,
}

impl Screen {
    /// Takes the terminal over.
    pub fn take() -> io::Result<Self> {
        let signals = Signals::listen()?;
        give_back_before_panics();
        let (sender, keys) = mpsc::channel(KEYS_MAX);
        IS_TAKEN.store(true, Ordering::SeqCst);
        // From here on it is given back when this is dropped.
        let mut screen = Self { keys, reader: None, signals };
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen, Hide)?;
        screen.reader = Some(
            std::thread::Builder::new().name("keys".into()).spawn(move || read_keys(&sender))?,
        );
        Ok(screen)
    }

    /// Columns and lines.
    pub fn size() -> (usize, usize) {
        terminal::size().map_or((80, 24), |(columns, lines)| (columns.into(), lines.into()))
    }

    /// Draws a text, cut off at the end of the screen.
    pub fn draw(&self, text: &str) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        let (_, lines) = Self::size();
        queue!(out, MoveTo(0, 0))?;
        for (at, line) in text.lines().take(lines).enumerate() {
            // The last line must not end, or everything moves up.
            write!(out, "{}{line}", if at == 0 { "" } else { "\r\n" })?;
            queue!(out, Clear(ClearType::UntilNewLine))?;
        }
        queue!(out, Clear(ClearType::FromCursorDown))?;
        out.flush()
    }

    /// Waits for the next wish of the user. Cancel safe.
    pub async fn next(&mut self) -> Wish {
        tokio::select! {
            wish = self.keys.recv() => match wish {
                Some(wish) => wish,
                // Without keys nobody can end it by one; without a terminal there is nothing to
                // show.
                None => Wish::Quit,
            },
            signal = self.signals.next() => match signal {
                Signals::INTERRUPT => Wish::Quit,
                signal => Wish::End(signal),
            },
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
        let Some(reader) = self.reader.take() else { return };
        // Until it ends it takes keys that are meant for the shell. Of a terminal that is gone
        // crossterm reads on and on; then the thread ends with the process.
        let deadline = Instant::now() + READER_PATIENCE;
        while !reader.is_finished() && Instant::now() < deadline {
            std::thread::sleep(READER_POLL);
        }
    }
}

/// Puts a screen of so many columns and lines together: a text as far as there is room, and the
/// lines below it.
pub fn filled(text: &str, foot: &[(String, Tone)], (width, height): (usize, usize)) -> String {
    let room = height.saturating_sub(foot.len());
    let fitted = |line: &str| escape::line(line).chars().take(width).collect::<String>();
    let foot: Vec<Text> = foot.iter().map(|(line, tone)| tone.paint(&fitted(line))).collect();
    let mut lines: Vec<&str> = text.lines().take(room).collect();
    lines.resize(room, "");
    lines.extend(foot.iter().map(Text::as_str));
    lines.join("\n")
}

/// Ends the process as shells report the end by a signal. The screen has to be given back before.
pub fn exit_by(signal: i32) -> ! {
    std::process::exit(128 + signal)
}

/// Gives the terminal back, once.
fn give_back() {
    if IS_TAKEN.swap(false, Ordering::SeqCst) {
        // Nobody is left to be told of a failure.
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// The message of a panic belongs on the screen the user keeps.
fn give_back_before_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            print(panic);
        }));
    });
}

fn read_keys(wishes: &mpsc::Sender<Wish>) {
    while IS_TAKEN.load(Ordering::SeqCst) {
        match event::poll(POLL_INTERVAL) {
            Ok(false) => {}
            Ok(true) => {
                let Ok(event) = event::read() else { return };
                // A full queue means that nobody keeps up with the keys; one more does not matter.
                if let Some(wish) = wish_of(&event)
                    && matches!(wishes.try_send(wish), Err(mpsc::error::TrySendError::Closed(_)))
                {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

fn wish_of(event: &Event) -> Option<Wish> {
    let key = match event {
        Event::Resize(..) => return Some(Wish::Redraw),
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        _ => return None,
    };
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c' | 'd') if is_control => Wish::Quit,
        KeyCode::Char('l') if is_control => Wish::Redraw,
        KeyCode::Char('q') | KeyCode::Esc => Wish::Quit,
        KeyCode::Char('c') => Wish::Sort(TopOrder::Calls),
        KeyCode::Char('l') => Wish::Sort(TopOrder::Latency),
        KeyCode::Char('e') => Wish::Sort(TopOrder::Errors),
        KeyCode::Char('n') => Wish::Sort(TopOrder::Name),
        _ => return None,
    })
}

/// Signals that end the command, by number.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    const INTERRUPT: i32 = 2;

    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => Self::INTERRUPT,
            _ = self.terminate.recv() => 15,
            _ = self.hangup.recv() => 1,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    const INTERRUPT: i32 = 2;

    fn listen() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> i32 {
        // An error means that no handler can be installed; then only the system can end the
        // process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Self::INTERRUPT
    }
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyEvent;

    use super::*;

    #[tokio::test]
    async fn a_terminal_that_is_gone_does_not_keep_the_process() {
        let (held, hangs) = std::sync::mpsc::channel::<()>();
        let reader = std::thread::spawn(move || _ = hangs.recv());
        let signals = Signals::listen().unwrap();
        let (_sender, keys) = mpsc::channel(1);
        let begun = Instant::now();
        drop(Screen { keys, reader: Some(reader), signals });
        assert!(begun.elapsed() >= READER_PATIENCE, "a key thread that ends late is waited for");
        // It is still held: only the patience has ended the wait.
        drop(held);
    }

    #[test]
    fn keys_mean_what_the_help_says() {
        let key = |code: char, modifiers| {
            wish_of(&Event::Key(KeyEvent::new(KeyCode::Char(code), modifiers)))
        };
        assert_eq!(key('q', KeyModifiers::NONE), Some(Wish::Quit));
        assert_eq!(key('c', KeyModifiers::CONTROL), Some(Wish::Quit));
        assert_eq!(key('c', KeyModifiers::NONE), Some(Wish::Sort(TopOrder::Calls)));
        assert_eq!(key('e', KeyModifiers::NONE), Some(Wish::Sort(TopOrder::Errors)));
        assert_eq!(key('x', KeyModifiers::NONE), None);
        assert_eq!(wish_of(&Event::Resize(1, 1)), Some(Wish::Redraw));
    }
}
