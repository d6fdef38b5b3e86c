//! `host start`: an actor or a provider, on the first host that offers to run it or on one that is
//! named.
//!
//! ```text
//! reference ─▶ host (named, or auction) ─▶ runs there already? ─▶ listen ─▶ command ─▶ wait for event or inventory
//! ```

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{
    files::size,
    get::own_labels,
    lost, pairs_of,
    permit::issuer_change,
    sending::{Resolved, Sending, a_provider, an_actor},
};
use crate::{
    args::{
        flags::SettingArgs,
        lattice::{Placement, Start, StartActor, StartProvider},
    },
    session::Session,
    terminal::{Cell, Column, Columns, Message, Page, Progress, Table, Terminal},
};
use lattice_client::{
    commands::{HostCommands, Keeping, Outcome, START_WAIT, Started, serving},
    lattice::Lattice,
    placement::Wanted,
};
use lattice_protocol::{
    builtin::{self, SCHEME},
    control::types::{HostReply, Inventory},
    errors::{Lines, Usage},
    events::Step,
};

pub async fn run(terminal: &Terminal, before: SettingArgs, start: Start) -> Result<()> {
    match start {
        Start::Actor(args) => actor(terminal, before, args).await,
        Start::Provider(args) => provider(terminal, before, args).await,
        Start::Lost(args) => lost::start(terminal, before, &args).await,
    }
}

async fn actor(terminal: &Terminal, before: SettingArgs, args: StartActor) -> Result<()> {
    if args.reference.starts_with(SCHEME) {
        bail!(Usage(format!(
            "{0} is a provider that is built in: `host start provider {0}`",
            args.reference
        )));
    }
    let session = Session::open(before, &args.connect)?;
    let lattice = session.lattice().await?;
    let mut progress = terminal.progress();
    let annotations = pairs_of("annotation", args.placement.annotations.clone())?;
    let constraints = pairs_of("constraint", args.placement.constraints.clone())?;
    let sending = Sending { session: &session, terminal, sign: args.sign, caps: &args.caps };
    let resolved = sending.resolve(&args.reference, &mut progress, an_actor).await?;
    let Resolved { reference, readers, .. } = &resolved;
    let wanted =
        Wanted { reference, link_name: None, constraints: &constraints, readers: readers.as_ref() };
    let host = place(&lattice, &mut progress, &args.placement, &wanted).await?;
    if args.max == Some(0) {
        bail!(Usage("an actor that takes no call does not start; --max is at least 1".into()));
    }
    let permission = issuer_change(&session, reference, args.placement.allow_issuer_change).await?;
    let commands = HostCommands {
        issuer_change: permission.as_deref(),
        ..HostCommands::new(&lattice, &host, args.placement.wait())
    };
    let end = commands
        .start_actor(reference, args.max, &annotations, &mut |step| show_step(&mut progress, step))
        .await;
    drop(progress);
    let end = match end {
        Ok(end) => end,
        Err(error) => {
            return Err(resolved.told(&sending, (&*args.reference, &*host), error).await);
        }
    };
    let (text, id, max) = match &end {
        Outcome::Unchanged(Started { id, max, .. }) => (
            format!(
                "Actor [{id}] (ref: [{reference}]) runs on host [{host}] already and takes {max} calls at a time; nothing was \
                 changed"
            ),
            Some(id),
            Some(*max),
        ),
        Outcome::Accepted(_) => {
            (format!("Start actor [{reference}] request received on host [{host}]"), None, args.max)
        }
        Outcome::Done(Started { id, max, .. }, _) => (
            format!("Actor [{id}] (ref: [{reference}]) started on host [{host}]"),
            Some(id),
            Some(*max),
        ),
    };
    let mut members =
        json!({ "actor_ref": reference, "actor_id": id, "host_id": host, "max_instances": max });
    let keeping = end.keeping();
    add_keeping(&mut members, &keeping);
    terminal.show(&Message::new(text, id.unwrap_or(reference), members))?;
    tell_keeping(terminal, &keeping);
    if let Outcome::Done(Started { alias_note, .. }, _) = &end {
        alias_note.iter().for_each(|note| terminal.note(note));
        resolved.tidy().await;
    }
    Ok(())
}

async fn provider(terminal: &Terminal, before: SettingArgs, args: StartProvider) -> Result<()> {
    require_known(&args.reference)?;
    let session = Session::open(before, &args.connect)?;
    let lattice = session.lattice().await?;
    let mut progress = terminal.progress();
    let link_name = &args.link_name;
    let configuration = args.config_json.as_deref().map(read).transpose()?;
    let annotations = pairs_of("annotation", args.placement.annotations.clone())?;
    let constraints = pairs_of("constraint", args.placement.constraints.clone())?;
    let sending = Sending { session: &session, terminal, sign: false, caps: &[] };
    let resolved = sending.resolve(&args.reference, &mut progress, a_provider).await?;
    let Resolved { reference, readers, .. } = &resolved;
    let wanted = Wanted {
        reference,
        link_name: Some(link_name),
        constraints: &constraints,
        readers: readers.as_ref(),
    };
    let host = place(&lattice, &mut progress, &args.placement, &wanted).await?;
    let permission = issuer_change(&session, reference, args.placement.allow_issuer_change).await?;
    let commands = HostCommands {
        issuer_change: permission.as_deref(),
        ..HostCommands::new(&lattice, &host, args.placement.wait())
    };
    let end = commands
        .start_provider(reference, link_name, &annotations, configuration.as_deref(), &mut |step| {
            show_step(&mut progress, step);
        })
        .await;
    drop(progress);
    let end = match end {
        Ok(end) => end,
        Err(error) => {
            return Err(resolved.told(&sending, (&*args.reference, &*host), error).await);
        }
    };
    let (text, serving) = match &end {
        Outcome::Unchanged(serving) => (
            format!(
                "Provider [{}] (ref: [{reference}]) runs on host [{host}] already; nothing was changed",
                serving.id
            ),
            Some(serving),
        ),
        Outcome::Accepted(_) => (format!("Start provider request received: {reference}"), None),
        Outcome::Done(serving, _) => (
            format!("Provider [{}] (ref: [{reference}]) started on host [{host}]", serving.id),
            Some(serving),
        ),
    };
    let mut members = json!({ "provider_ref": reference, "link_name": link_name, "host_id": host });
    if let Some(serving) = serving {
        members["provider_id"] = Value::from(&*serving.id);
        members["contract_id"] = Value::from(&*serving.contract_id);
    }
    let name = serving.map_or(&**reference, |serving| &serving.id);
    let keeping = end.keeping();
    add_keeping(&mut members, &keeping);
    terminal.show(&Message::new(text, name, members))?;
    tell_keeping(terminal, &keeping);
    // Last, because it takes time and the answer does not depend on it.
    if matches!(end, Outcome::Done(..)) {
        resolved.tidy().await;
    }
    Ok(())
}

/// Fails where a reference names a built-in provider that no host has.
fn require_known(reference: &str) -> Result<()> {
    match builtin::find(reference) {
        Some(Err(unknown)) => bail!(unknown),
        _ => Ok(()),
    }
}

/// Adds to the members of an answer where the start is kept, or why not.
pub fn add_keeping(members: &mut Value, keeping: &Keeping) {
    for (name, value) in [("kept", &keeping.kept), ("not_kept", &keeping.not_kept)] {
        if let Some(value) = value {
            members[name] = Value::from(&**value);
        }
    }
}

/// Tells people where the start is kept, or why not.
pub fn tell_keeping(terminal: &Terminal, keeping: &Keeping) {
    if terminal.is_data() {
        return;
    }
    if let Some(place) = &keeping.kept {
        terminal.note(format!("kept, so it is started again with its host ({place})"));
    }
    if let Some(cause) = &keeping.not_kept {
        terminal.note(format!("not kept, so it is not started again with its host: {cause}"));
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

impl Placement {
    /// How long to wait for the end of a start; not at all if that is wished.
    fn wait(&self) -> Option<Duration> {
        (!self.skip_wait).then(|| self.wait_ms.map_or(START_WAIT, Duration::from_millis))
    }
}

/// Shows a step on the way of a start.
pub fn show_step(progress: &mut Progress, step: &Step) {
    let detail = if step.of > 0 {
        format!("{} of {}", size(step.bytes), size(step.of))
    } else {
        String::new()
    };
    progress.stage(&step.stage, detail);
}

/// The host that is to run something: the one that was named, or the first that offers.
async fn place(
    lattice: &Lattice,
    progress: &mut Progress,
    placement: &Placement,
    wanted: &Wanted<'_>,
) -> Result<String> {
    if let Some(word) = &placement.host_id {
        let host = lattice.find_host(word).await?;
        if let Some(readers) = wanted.readers {
            readers.require(&host)?;
        }
        return Ok(host);
    }
    progress.stage("auction", "");
    match wanted.first(lattice, Duration::from_millis(placement.auction_timeout_ms)).await? {
        Some(host) => Ok(host),
        None => nobody_offers(lattice, wanted).await,
    }
}

/// The host that runs the wanted provider already and has the wanted labels.
fn runs_already<'a>(
    wanted: &Wanted<'_>,
    hosts: &[HostReply],
    inventories: &'a [Inventory],
) -> Option<&'a str> {
    let link_name = wanted.link_name?;
    let mut running =
        inventories.iter().filter(|host| serving(host, wanted.reference, link_name).is_some());
    let found = running.find(|inventory| {
        let host = hosts.iter().find(|host| host.id == inventory.host_id);
        let mut constraints = wanted.constraints.iter();
        constraints.all(|(key, value)| host.and_then(|host| host.labels.get(key)) == Some(value))
    });
    found.map(|inventory| inventory.host_id.as_str())
}

/// Where a provider runs already, which is why nobody offers; else an error that says why no host
/// did: each with its labels and the first rule that kept it from offering.
async fn nobody_offers(lattice: &Lattice, wanted: &Wanted<'_>) -> Result<String> {
    let hosts = lattice.some_hosts().await?;
    let inventories = lattice.inventories(&hosts).await;
    if let Some(host) = runs_already(wanted, &hosts, &inventories) {
        return Ok(host.to_owned());
    }
    let mut table = Table::new([
        Column::text("HOST"),
        Column::text("LABELS"),
        Column::text("DOES NOT OFFER BECAUSE"),
    ]);
    let mut rules = BTreeSet::new();
    for host in &hosts {
        let obstacle = wanted.obstacle(host);
        table.row([
            Cell::from(&host.friendly_name),
            Cell::from(own_labels(&host.labels)),
            Cell::from(&obstacle.why),
        ]);
        rules.insert(obstacle.advice);
    }
    let mut page = Page::new(None, Columns::All);
    page.table(&table, "no host");
    let mut lines = vec![format!("no host offers to run {}", wanted.reference), String::new()];
    let table = anstream::adapter::strip_str(&page.into_text()).to_string();
    lines.extend(table.lines().map(str::to_owned));
    lines.push(String::new());
    lines.extend(rules.into_iter().map(str::to_owned));
    bail!(Lines(lines))
}
