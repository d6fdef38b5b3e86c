//! `host ctx new --interactive`: asks for the values of a context, one after the other.
//!
//! Each answer is checked at once and asked for again if it cannot be meant. Secrets are not shown
//! while they are typed.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use crossterm::{
    event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    terminal::{disable_raw_mode, enable_raw_mode},
};

use super::new;
use crate::{args::flags::SettingArgs, context::is_name};
use lattice_base::config::{Problem, settings};
use lattice_protocol::errors::Usage;

/// The ways to log in, and what each asks for.
const LOGINS: [(&str, &[(&str, &str)]); 6] = [
    ("none", &[]),
    ("creds", &[("nats_creds", "File with user JWT and seed")]),
    ("user", &[("nats_user", "User name"), ("nats_password", "Password")]),
    ("token", &[("nats_token", "Token")]),
    ("jwt", &[("nats_jwt", "User JWT"), ("nats_seed", "User seed (SU...)")]),
    ("nkey", &[("nats_seed", "User seed (SU...)")]),
];

/// Asks for the name, if there is none yet, and for the values no flag gave; returns the name.
pub(super) fn answers(name: Option<String>, flags: &mut SettingArgs, dir: &Path) -> Result<String> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Usage(
            "--interactive asks at a terminal, and this is none; give the values as flags".into(),
        )
        .into());
    }
    let name = match name {
        Some(name) => name,
        None => asked("Name of the context", "", |name| {
            ensure!(is_name(name), "it cannot name a context: no slash, no colon, no dot in front");
            Ok(())
        })?,
    };
    let mut form = Form { flags, dir };
    form.ask("lattice_prefix", "Lattice", "default")?;
    form.ask("nats_host", "NATS server, or several separated by commas", "127.0.0.1")?;
    form.ask("nats_port", "Port, where the server does not name one", "4222")?;
    form.ask("js_domain", "JetStream domain of the metadata", "")?;
    form.ask_login()?;
    form.ask("nats_tls_ca", "File of a private certificate authority", "")?;
    form.ask("cluster_seed", "Cluster seed (SC...) to sign calls with", "")?;
    Ok(name)
}

struct Form<'a> {
    flags: &'a mut SettingArgs,
    dir: &'a Path,
}

impl Form<'_> {
    fn is_given(&self, key: &str) -> bool {
        self.flags.values.iter().any(|(given, _)| *given == key)
    }

    fn ask(&mut self, key: &'static str, question: &str, default: &str) -> Result<()> {
        if self.is_given(key) {
            return Ok(());
        }
        let dir = self.dir;
        let value = match settings::find(key).is_some_and(|setting| setting.kind.is_secret()) {
            true => asked_in_secret(question, |text| check(key, text, dir))?,
            false => asked(question, default, |text| check(key, text, dir))?,
        };
        if !value.is_empty() {
            let mut flag = (key, value);
            new::absolute(&mut flag);
            self.flags.values.push(flag);
        }
        Ok(())
    }

    fn ask_login(&mut self) -> Result<()> {
        if LOGINS.iter().flat_map(|(_, asks)| *asks).any(|(key, _)| self.is_given(key)) {
            return Ok(());
        }
        let ways = LOGINS.map(|(way, _)| way).join(", ");
        let way = asked(&format!("Login ({ways})"), "none", |word| {
            ensure!(asks_of(word).is_some(), "it is one of {ways}");
            Ok(())
        })?;
        for (key, question) in asks_of(&way).unwrap_or_default() {
            self.ask(key, question, "")?;
        }
        Ok(())
    }
}

/// Returns the settings that a way to log in asks for, with the questions.
fn asks_of(way: &str) -> Option<&'static [(&'static str, &'static str)]> {
    LOGINS.iter().find(|(name, _)| *name == way).map(|(_, asks)| *asks)
}

/// Checks the value of a setting; an empty one is always right.
fn check(key: &'static str, text: &str, dir: &Path) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let mut flag = (key, text.to_owned());
    new::absolute(&mut flag);
    let Err(mistakes) = new::checked(&[flag], None, dir) else { return Ok(()) };
    // Its partner is asked for next.
    match mistakes.0.iter().find(|mistake| !matches!(mistake.problem, Problem::MissingPartner(_))) {
        Some(mistake) => bail!("{}; accepted: {}", mistake.problem, mistake.accepted),
        None => Ok(()),
    }
}

/// Asks until the answer will do; an empty one means the default.
fn asked(question: &str, default: &str, check: impl Fn(&str) -> Result<()>) -> Result<String> {
    loop {
        tell(&if default.is_empty() {
            format!("{question}: ")
        } else {
            format!("{question} [{default}]: ")
        });
        let mut line = String::new();
        if io::stdin().read_line(&mut line).context("read the answer")? == 0 {
            bail!("the input ended; nothing was written");
        }
        let answer = Some(line.trim()).filter(|answer| !answer.is_empty()).unwrap_or(default);
        match check(answer) {
            Ok(()) => return Ok(answer.to_owned()),
            Err(why) => tell(&format!("{why}\n")),
        }
    }
}

fn asked_in_secret(question: &str, check: impl Fn(&str) -> Result<()>) -> Result<String> {
    loop {
        tell(&format!("{question} (not shown): "));
        let answer = typed_in_secret().context("read the answer")?;
        tell("\n");
        match check(answer.trim()) {
            Ok(()) => return Ok(answer.trim().to_owned()),
            Err(why) => tell(&format!("{why}\n")),
        }
    }
}

/// A line from the terminal, which does not show it.
fn typed_in_secret() -> io::Result<String> {
    struct Raw;
    impl Drop for Raw {
        fn drop(&mut self) {
            // Nothing better can be done about a terminal that stays as it is.
            let _ = disable_raw_mode();
        }
    }
    enable_raw_mode()?;
    let _raw = Raw;
    let mut text = String::new();
    loop {
        let Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match key.code {
            KeyCode::Enter => return Ok(text),
            KeyCode::Backspace => drop(text.pop()),
            KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Err(io::Error::new(
                    io::ErrorKind::Interrupted,
                    "stopped; nothing was written",
                ));
            }
            KeyCode::Char(c) => text.push(c),
            _ => {}
        }
    }
}

fn tell(text: &str) {
    let mut stderr = io::stderr().lock();
    // A user who cannot see the question will not answer it.
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}
