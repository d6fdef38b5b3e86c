//! `host dev`: a module that is run and exchanged whenever it is saved.

use std::cell::RefCell;

use anyhow::Result;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{keys::find_keyring, pairs_of, sending::sign_saved, sign::note_slips};
use crate::{
    args::{dev::Dev, flags::SettingArgs},
    session::Session,
    terminal::{Page, Progress, Terminal, Text, Tone, quoted},
};
use lattice_base::shutdown;
use lattice_client::{
    dev::{self, Change, Linked, Linking, Running, Settings, Told},
    lattice::Lattice,
    logs,
    upload::amount,
};
use lattice_protocol::{
    clock,
    contracts::httpserver,
    identity::{claims::ActorClaims, sign::ActorToken, wasm},
    journal::Line,
};

/// Watches the file until the first signal; the second one ends at once and leaves the actor
/// running.
pub async fn run(terminal: &Terminal, before: SettingArgs, args: Dev) -> Result<()> {
    let session = Session::open(before, &args.connect)?;
    let sender = session.sender().await?;
    let (keyring, path) = (find_keyring(None)?, args.file.clone());
    note_slips(terminal, &args.caps);
    let says = ActorToken {
        name: args.name.unwrap_or_default(),
        caps: args.caps,
        ..ActorToken::default()
    };
    let is_page = args.http.is_some();
    let sign = move |wasm: &Bytes, claims: Option<&ActorClaims>, revision: i32| {
        let mut says = ActorToken { revision: Some(revision), ..says.clone() };
        // A component says by its exports whether it has a page.
        if is_page && wasm::inspect_component(wasm)?.is_none() {
            says.caps.push(httpserver::CONTRACT.to_owned());
        }
        sign_saved(&keyring, &path, wasm, claims, &says)
    };
    let stop = CancellationToken::new();
    // Without signals the process ends at once, and the actor goes on.
    let _signals =
        AbortOnDropHandle::new(tokio::spawn(shutdown::obey_signals(stop.clone(), || {})));
    let settings = Settings {
        file: args.file,
        host: args.host_id,
        max: args.max,
        annotations: pairs_of("annotation", args.annotations)?,
        linking: match args.http {
            Some(address) => Linking::At(address),
            None if args.no_links => Linking::Off,
            None => Linking::Claimed,
        },
        patience: dev::PATIENCE,
        keep: args.keep,
    };
    let teller = Teller {
        terminal,
        file: settings.file.display().to_string(),
        progress: RefCell::new(None),
    };
    let follow =
        Box::new(|lattice: &Lattice, actor: &str| logs::follow(lattice.clone(), actor.to_owned()));
    dev::run(sender, settings, Box::new(sign), Some(follow), stop, &|told| teller.tell(told)).await
}

/// Prints what happens: a line each, for people or for programs.
struct Teller<'a> {
    terminal: &'a Terminal,
    file: String,
    /// While a module is sent.
    progress: RefCell<Option<Progress>>,
}

impl Teller<'_> {
    fn tell(&self, told: Told) {
        if let Told::Sending { bytes, of } = told {
            let mut progress = self.progress.borrow_mut();
            let progress = progress.get_or_insert_with(|| self.terminal.progress());
            return progress.stage("sending", amount(bytes, of));
        }
        self.progress.take();
        let printed = match self.terminal.is_data() {
            true => self.terminal.data_line(&json(&told)),
            false => {
                let mut page = self.terminal.page();
                show(&mut page, &self.file, &told);
                self.terminal.print(page)
            }
        };
        if let Err(error) = printed {
            self.terminal.note(format!("{error:#}"));
        }
    }
}

/// A line of the actor, so that it is told from ours.
fn shown(line: &Line) -> Text {
    Tone::Faint.paint(&format!("{:>5} |", line.level.name())) + " " + &*line.text
}

/// Adds to the page what is told.
fn show(page: &mut Page, file: &str, told: &Told) {
    if let Told::Logged(line) = told {
        return page.line(shown(line));
    }
    page.line(text(file, told));
    if let Told::Refused { goes_on: Some(running), .. } = told {
        page.line(format!("revision {} goes on", running.revision));
    }
}

fn text(file: &str, told: &Told) -> String {
    match told {
        Told::Waiting => format!("waiting for {file}, which does not exist yet"),
        Told::Running(running) => {
            let (name, place, revision, took) =
                (running.label(), running.place(), running.revision, running.took.as_millis());
            match running.change {
                Change::Started => format!(
                    "{name} ({}) started on {place}, running revision {revision}, took {took} ms; save {file} to exchange it, Ctrl-C \
                     ends",
                    running.actor
                ),
                Change::Updated => format!("{name} running revision {revision}, took {took} ms"),
                Change::Found => format!(
                    "{name} ({}) runs revision {revision} on {place} already",
                    running.actor
                ),
            }
        }
        Told::Refused { why, goes_on: Some(_) } => format!("what was saved does not run: {why}"),
        Told::Refused { why, goes_on: None } => format!("{file} does not run: {why}"),
        Told::Elsewhere { actor, hosts } => format!(
            "{actor} runs on {} too, where nothing changes; calls may go there (`host stop actor {actor} --host-id HOST`)",
            hosts.join(", ")
        ),
        Told::Logged(line) => line.text.to_string(),
        Told::Linked(linked) => {
            let Linked { contract, provider, started_on, url } = linked;
            let started = match started_on {
                Some(place) => format!("started {provider} on {place} and linked it"),
                None => format!("linked to {provider}"),
            };
            format!("{contract}: {started}{}", at(url.as_deref()))
        }
        Told::LinkedBefore(Linked { contract, provider, url, .. }) => {
            format!("{contract}: was linked to {provider} already{}", at(url.as_deref()))
        }
        Told::NotLinked { contract, why } => format!("{contract} is not linked: {why}"),
        Told::Ready { url: Some(url), .. } => format!("open {url}"),
        Told::Ready { actor, url: None } => {
            format!("it has no page to open; call it with `host call {} OPERATION`", quoted(actor))
        }
        Told::Unlinked { contract } => format!("{contract}: link deleted"),
        Told::ProviderStopped { provider } => format!("{provider} stopped"),
        Told::NotRemoved { what, why } => format!("{what} stays: {why}"),
        Told::Stopped(running) => format!("{} stopped", running.label()),
        Told::LeftRunning(running) => format!(
            "{} goes on on {} with revision {}; `host stop actor {}` stops it",
            running.label(),
            running.place(),
            running.revision,
            quoted(running.label())
        ),
        Told::Sending { bytes, of } => amount(*bytes, *of),
    }
}

/// The page of a link, to go on with.
fn at(url: Option<&str>) -> String {
    url.map(|url| format!("; its page is {url}")).unwrap_or_default()
}

fn linked_json(event: &str, linked: &Linked) -> Value {
    json!({
        "event": event, "contract_id": linked.contract, "provider": linked.provider,
        "started_on": linked.started_on, "url": linked.url,
    })
}

fn json(told: &Told) -> Value {
    match told {
        Told::Linked(linked) => linked_json("linked", linked),
        Told::LinkedBefore(linked) => linked_json("linked_before", linked),
        Told::NotLinked { contract, why } => {
            json!({ "event": "not_linked", "contract_id": contract, "error": why })
        }
        Told::Ready { actor, url } => json!({ "event": "ready", "actor": actor, "url": url }),
        Told::Unlinked { contract } => json!({ "event": "unlinked", "contract_id": contract }),
        Told::ProviderStopped { provider } => {
            json!({ "event": "provider_stopped", "provider": provider })
        }
        Told::NotRemoved { what, why } => {
            json!({ "event": "not_removed", "what": what, "error": why })
        }
        Told::Waiting => json!({ "event": "waiting" }),
        Told::Running(running) => {
            let change = match running.change {
                Change::Started => "started",
                Change::Updated => "updated",
                Change::Found => "found",
            };
            let mut value = event_json("running", running);
            value["change"] = change.into();
            value["took_ms"] = clock::millis(running.took).into();
            value
        }
        Told::Refused { why, goes_on } => {
            json!({ "event": "refused", "error": why, "running_revision": goes_on.as_ref().map(|running| running.revision) })
        }
        Told::Elsewhere { actor, hosts } => {
            json!({ "event": "elsewhere", "actor_id": actor, "hosts": hosts })
        }
        Told::Logged(line) => json!({ "event": "log", "level": line.level, "text": &*line.text }),
        Told::Stopped(running) => event_json("stopped", running),
        Told::LeftRunning(running) => event_json("left_running", running),
        Told::Sending { bytes, of } => json!({ "event": "sending", "bytes": bytes, "of": of }),
    }
}

fn event_json(event: &str, running: &Running) -> Value {
    json!({
        "event": event, "actor_id": running.actor, "name": running.name, "host_id": running.host_id,
        "host_name": running.host_name, "actor_ref": running.reference, "revision": running.revision,
    })
}
