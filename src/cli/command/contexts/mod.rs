//! `host ctx`: contexts, listed, shown, made, changed and chosen.
//!
//! * this file looks at contexts and says which is in use; [`new`] makes one, asking by [`ask`] if
//!   wanted; [`edit`] changes one.
//!
//! Contexts of all three kinds are seen. Ours and those of `wash` can be changed; those of `nats`
//! are its own.

mod ask;
mod edit;
mod new;

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::{
    args::{
        flags::SettingArgs,
        tools::{Ctx, CtxDefault, CtxDel, CtxList, CtxPlace, CtxShow},
    },
    context::{Found, Kind, Places},
    terminal::{Cell, Column, Message, Page, Table, Terminal, Tone, View},
};
use lattice_base::{
    config::{
        Auth, Config, Context, FILE_NAME, Loaded, Mistakes, ProcessEnvironment, Sources, settings,
    },
    dirs::Dirs,
};
use lattice_protocol::{clock, errors::Usage};

pub fn run(terminal: &Terminal, before: SettingArgs, args: Ctx) -> Result<()> {
    match args {
        Ctx::List(args) => list(terminal, &args),
        Ctx::New(args) => new::run(terminal, before, args),
        Ctx::Edit(args) => edit::run(terminal, &args),
        Ctx::Default(args) => default(terminal, &args),
        Ctx::Del(args) => delete(terminal, &args),
        Ctx::Show(args) => show(terminal, &args),
    }
}

/// Where to look: everywhere, or in the directory that was named.
fn places(place: &CtxPlace) -> Places {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    match &place.directory {
        Some(dir) => Places::of_wash(dir.clone(), home.as_deref()),
        None => Places::of(&Dirs::find(&ProcessEnvironment, home.as_deref()), home.as_deref()),
    }
}

/// The one that commands use; in a single directory that is what `wash` would.
fn in_use(places: &Places, place: &CtxPlace) -> Result<Option<Found>> {
    if place.directory.is_some() { Ok(places.wash_default()) } else { places.in_use() }
}

/// The context of this name, or the one in use.
fn named(places: &Places, place: &CtxPlace, name: Option<&str>) -> Result<Found> {
    let found = match name {
        Some(name) => Some(places.find(name)?),
        None => in_use(places, place)?,
    };
    Ok(found.ok_or_else(|| {
        Usage(
            "no context is in use; name one, or `host ctx default NAME` uses one. `host ctx list` shows what there is"
                .into(),
        )
    })?)
}

/// The configuration that a context alone makes.
fn load(context: Context, home: Option<&Path>) -> Result<Loaded, Mistakes> {
    Config::load(&Sources {
        flags: Vec::new(),
        labels: Vec::new(),
        env: Box::new(Vec::<(String, String)>::new()),
        // Where the context is there are no other files of settings.
        dir: context.path.parent().unwrap_or(Path::new("/")).to_owned(),
        home: home.map(Path::to_owned),
        context: Some(context),
    })
}

/// `./host_config.json` is looked at before the context in use; whoever chooses one there should
/// know.
fn note_the_directory(terminal: &Terminal, place: &CtxPlace) {
    if place.directory.is_none() && Path::new(FILE_NAME).exists() {
        terminal
            .note(format!("in this directory ./{FILE_NAME} comes before the context in use; --context NAME skips it"));
    }
}

fn list(terminal: &Terminal, args: &CtxList) -> Result<()> {
    let places = places(&args.place);
    // An error about the context in use is only noted: the list is shown all the same.
    let in_use = in_use(&places, &args.place);
    if let Err(error) = &in_use {
        terminal.note(format!("{error:#}"));
    }
    let in_use = in_use.ok().flatten();
    let home = places.home.as_deref();
    let lines = places.all().into_iter().map(|found| Line {
        name: places.short(&found),
        in_use: in_use.as_ref() == Some(&found),
        what: found.read(home).and_then(|context| Ok(load(context, home)?.config)),
        found,
    });
    terminal.show(&List { lines: lines.collect() })?;
    if !terminal.is_data() {
        note_the_directory(terminal, &args.place);
    }
    Ok(())
}

struct Line {
    name: String,
    found: Found,
    in_use: bool,
    what: Result<Config>,
}

impl Line {
    fn json(&self) -> Value {
        let mut json = json!({
            "name": self.name, "kind": self.found.kind.to_string(), "path": self.found.path, "in_use": self.in_use,
        });
        match &self.what {
            Ok(config) => {
                json["lattice"] = json!(config.lattice);
                json["servers"] = json!(config.ctl.servers);
                json["js_domain"] = json!(config.js_domain);
                json["login"] = json!(login(&config.ctl.auth));
            }
            Err(error) => json["error"] = json!(format!("{error:#}")),
        }
        json
    }
}

struct List {
    lines: Vec<Line>,
}

impl View for List {
    /// `contexts` and `default` as `wash` has them.
    fn json(&self) -> Value {
        json!({
            "contexts": self.names(),
            "default": self.lines.iter().find(|line| line.in_use).map(|line| &line.name),
            "details": self.lines.iter().map(Line::json).collect::<Vec<_>>(),
        })
    }

    fn text(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::fixed(""),
            Column::fixed("NAME"),
            Column::fixed("KIND"),
            Column::text("LATTICE"),
            Column::text("SERVER"),
            Column::text("DOMAIN"),
            Column::text("LOGIN").only_wide(),
            Column::text("FILE").only_wide(),
        ]);
        for line in &self.lines {
            let mark = if line.in_use { Cell::toned("*", Tone::Good) } else { Cell::default() };
            let mut cells = vec![mark, (&line.name).into(), line.found.kind.into()];
            match &line.what {
                Ok(config) => cells.extend([
                    Cell::from(&config.lattice),
                    config.ctl.servers.join(",").into(),
                    config.js_domain.as_deref().unwrap_or_default().into(),
                    login(&config.ctl.auth).into(),
                ]),
                Err(_) => cells.extend([
                    Cell::default(),
                    Cell::toned(format!("invalid; see host ctx show {}", line.name), Tone::Bad),
                    Cell::default(),
                    Cell::default(),
                ]),
            }
            cells.push(line.found.path.display().into());
            table.row(cells);
        }
        page.table(
            &table,
            "There are no contexts. `host ctx new NAME --nats-host HOST` makes one.",
        );
    }

    fn names(&self) -> Vec<String> {
        self.lines.iter().map(|line| line.name.clone()).collect()
    }
}

/// How a connection logs in, in a word.
fn login(auth: &Auth) -> &'static str {
    match auth {
        Auth::Anonymous => "none",
        Auth::JwtAndSeed { .. } => "jwt",
        Auth::Nkey { .. } => "nkey",
        Auth::Creds(_) => "creds",
        Auth::User { .. } => "user",
        Auth::Token(_) => "token",
    }
}

fn default(terminal: &Terminal, args: &CtxDefault) -> Result<()> {
    let places = places(&args.place);
    let Some(name) = &args.name else {
        let found = named(&places, &args.place, None)?;
        let name = places.short(&found);
        let json = json!({ "default": name, "kind": found.kind.to_string(), "path": found.path });
        terminal.show(&Message { text: name.clone(), json, name })?;
        note_the_directory(terminal, &args.place);
        return Ok(());
    };
    let found = places.find(name)?;
    // One that cannot be read would make every command fail.
    load(found.read(places.home.as_deref())?, places.home.as_deref())?;
    places.make_default(&found)?;
    let name = places.short(&found);
    terminal.show(&Message::new(
        format!("Context {name} is used from now on"),
        &name,
        json!({ "default": name }),
    ))?;
    note_the_directory(terminal, &args.place);
    Ok(())
}

/// Contexts of `nats` are its own: it keeps more in them than we know.
fn refuse_those_of_nats(found: &Found, verb: &str) -> Result<()> {
    if found.kind == Kind::Nats {
        let Found { name, path, .. } = found;
        let path = path.display();
        return Err(Usage(format!(
            "{name} is a context of `nats` ({path}); `nats context {verb} {name}` does that"
        ))
        .into());
    }
    Ok(())
}

fn delete(terminal: &Terminal, args: &CtxDel) -> Result<()> {
    let places = places(&args.place);
    let found = places.find(&args.name)?;
    refuse_those_of_nats(&found, "rm")?;
    let was_in_use = places.remove(&found)?;
    let name = &found.name;
    let now = in_use(&places, &args.place).ok().flatten().map(|now| places.short(&now));
    let text = match (was_in_use, &now) {
        (false, _) => format!("Context {name} is deleted"),
        (true, Some(now)) => {
            format!("Context {name}, which was in use, is deleted; {now} is used now")
        }
        (true, None) => format!("Context {name}, which was in use, is deleted; none is used now"),
    };
    terminal.show(&Message::new(text, name, json!({ "deleted": name, "default": now })))
}

fn show(terminal: &Terminal, args: &CtxShow) -> Result<()> {
    let places = places(&args.place);
    let found = named(&places, &args.place, args.name.as_deref())?;
    let context =
        found.read(places.home.as_deref()).with_context(|| format!("read context {}", found.name));
    let context = context?;
    let (timeout, keys) = (
        context.timeout,
        context.members.iter().map(|member| member.key.clone()).collect::<Vec<_>>(),
    );
    let Loaded { config, table } = load(context, places.home.as_deref())?;
    let rows = table.rows();
    let values = keys.iter().filter_map(|key| {
        let key = settings::find(key)?.key;
        let row = rows.iter().find(|row| row.key == key)?;
        Some((key, row.value.clone())).filter(|(_, value)| !value.is_empty())
    });
    let mut values: Vec<(&'static str, String)> = values.collect();
    values.sort();
    let in_use = in_use(&places, &args.place).ok().flatten().as_ref() == Some(&found);
    let timeout_ms = timeout.map(clock::millis);
    terminal.show(&Shown { name: places.short(&found), found, in_use, config, values, timeout_ms })
}

/// A context with what it sets; secrets are masked by the settings themselves.
struct Shown {
    name: String,
    found: Found,
    in_use: bool,
    config: Config,
    values: Vec<(&'static str, String)>,
    timeout_ms: Option<u64>,
}

impl View for Shown {
    fn json(&self) -> Value {
        let values: Map<String, Value> = self
            .values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone().into()))
            .collect();
        json!({
            "context": {
                "name": self.name,
                "kind": self.found.kind.to_string(),
                "path": self.found.path,
                "in_use": self.in_use,
                "lattice": self.config.lattice,
                "servers": self.config.ctl.servers,
                "login": login(&self.config.ctl.auth),
                "timeout_ms": self.timeout_ms,
                "settings": values,
                "notes": self.config.warnings,
            }
        })
    }

    fn text(&self, page: &mut Page) {
        let use_of = if self.in_use { ", in use" } else { "" };
        page.line(Tone::Strong.paint(&self.name) + format!(" ({}{use_of})", self.found.kind));
        page.line(self.found.path.display().to_string());
        page.gap();
        let mut table = Table::new([Column::fixed("SETTING"), Column::text("VALUE")]);
        for (key, value) in &self.values {
            table.row([Cell::from(key), value.into()]);
        }
        if let Some(ms) = self.timeout_ms {
            table.row([Cell::from("answers within"), format!("{ms} ms").into()]);
        }
        page.table(&table, "It sets nothing; everything has its default.");
        for note in &self.config.warnings {
            page.gap();
            page.line(Tone::Warning.paint(note));
        }
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}
