//! `host ctx new`: a context from flags, from another file, or from answers.
//!
//! The content is checked as a whole before it is written, by the table that checks it whenever it
//! is used.

use std::path::Path;

use anyhow::Result;
use serde_json::json;

use super::{ask, load, note_the_directory, places};
use crate::{
    args::{self, flags::SettingArgs, tools::CtxNew},
    context::{Found, Kind, is_name, read, write},
    terminal::{Message, Terminal},
};
use lattice_base::config::{
    Config, Context, Loaded, Member, Mistakes, Sources,
    settings::{self, Kind as Setting},
};
use lattice_protocol::errors::Usage;

pub fn run(terminal: &Terminal, before: SettingArgs, args: CtxNew) -> Result<()> {
    let places = places(&args.place);
    let (kind, dir) = places.own()?;
    let mut flags = args::merged(before, args.settings);
    flags.values.iter_mut().for_each(absolute);
    if !flags.labels.is_empty() {
        return Err(Usage("labels belong to hosts; a context has none".into()).into());
    }
    let name = name(args.name, args.interactive, &mut flags, dir)?;
    let path = dir.join(format!("{name}.json"));
    let base = match &args.from {
        Some(file) => read::context(None, file, places.home.as_deref())?,
        None => empty(&path),
    };
    for note in &base.notes {
        terminal.note(note);
    }
    // Checked before anything is written: a context that cannot be read fails every command.
    let config = checked(&flags.values, Some(base.clone()), dir)?.config;
    let content = match kind {
        Kind::Wash => write::wash_content(&name, &config, base.timeout)?,
        Kind::Host | Kind::Nats => {
            if let Some(timeout) = base.timeout {
                let ms = timeout.as_millis();
                terminal.note(format!(
                    "{ms} ms for an answer (ctl_timeout) have no place in a context of ours; use --timeout-ms {ms}, or \
                     WASMCLOUD_CTL_TIMEOUT_MS={ms}"
                ));
            }
            let members = write::merged(base.members, &flags.values, dir);
            let members = if members.is_empty() { defaults() } else { members };
            // The members may be others than those that were checked.
            load(Context { members: members.clone(), ..empty(&path) }, None)?;
            write::host_content(&members)?
        }
    };
    write::create(&path, &content)?;
    let found = Found { kind, name: name.clone(), path: path.clone() };
    if args.default {
        places.make_default(&found)?;
    }
    let used = if args.default { ", and is used from now on" } else { "" };
    let text = format!("Context {name} is in {}{used}", path.display());
    terminal.show(&Message::new(
        text,
        &name,
        json!({ "name": name, "path": path, "default": args.default }),
    ))?;
    if args.default {
        note_the_directory(terminal, &args.place);
    }
    Ok(())
}

/// Returns the name of the context, asked for with all values if that is wanted.
fn name(
    given: Option<String>,
    is_interactive: bool,
    flags: &mut SettingArgs,
    dir: &Path,
) -> Result<String> {
    let name = if is_interactive { Some(ask::answers(given, flags, dir)?) } else { given };
    match name {
        Some(name) if is_name(&name) => Ok(name),
        Some(name) => Err(Usage(format!(
            "{name:?} cannot name a context: no slash, no colon, no dot in front"
        ))
        .into()),
        None => Err(Usage("the context needs a name".into()).into()),
    }
}

/// Paths of flags are of this directory.
pub(super) fn absolute((key, text): &mut (&'static str, String)) {
    let is_path = settings::find(key)
        .is_some_and(|setting| matches!(setting.kind, Setting::Path | Setting::File));
    if is_path
        && !text.is_empty()
        && let Ok(path) = std::path::absolute(&*text)
    {
        *text = path.display().to_string();
    }
}

/// Returns the settings that flags and a context make together; mistakes name the flag or the line.
/// `dir` is where contexts are, and no other files of settings.
pub(super) fn checked(
    flags: &[(&'static str, String)],
    context: Option<Context>,
    dir: &Path,
) -> Result<Loaded, Mistakes> {
    Config::load(&Sources {
        flags: flags.to_vec(),
        labels: Vec::new(),
        env: Box::new(Vec::<(String, String)>::new()),
        dir: dir.to_owned(),
        home: None,
        context: Some(context.unwrap_or_else(|| empty(dir))),
    })
}

fn empty(path: &Path) -> Context {
    Context { path: path.to_owned(), members: Vec::new(), timeout: None, notes: Vec::new() }
}

/// Returns the members of a context without any settings, so that there is something to edit.
fn defaults() -> Vec<Member> {
    [
        ("lattice_prefix", "default".into()),
        ("nats_host", "127.0.0.1".into()),
        ("nats_port", 4222.into()),
    ]
    .map(|(key, value)| Member { key: key.to_owned(), value, line: 1 })
    .into()
}
