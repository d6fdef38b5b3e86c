//! Hosts that vanished: `host start lost` starts elsewhere what ran only there, `host forget` takes
//! one off the list.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::{
    args::{
        flags::SettingArgs,
        lattice::{Forget, StartLost},
    },
    session::Session,
    terminal::{Cell, Column, Message, Page, Table, Terminal, Tone, View},
};
use lattice_client::{
    commands::START_WAIT,
    lost::{self, Missing, Restarted},
    names,
};
use lattice_protocol::{
    clock,
    control::{probe::lost::LostHost, types::HostReply},
};

/// Starts what ran only on a lost host on others.
pub async fn start(terminal: &Terminal, before: SettingArgs, args: &StartLost) -> Result<()> {
    let lattice = Session::open(before, &args.connect)?.lattice().await?;
    let look = lost::look(&lattice).await?;
    let host = lost::find(&args.host, &look.lost)?;
    if !look.is_whole() {
        bail!(
            "not every host tells what it runs, so nobody knows what runs nowhere; `host doctor` looks at them"
        );
    }
    let auction = Duration::from_millis(args.auction_timeout_ms);
    let wait = args.wait_ms.map_or(START_WAIT, Duration::from_millis);
    let restarted =
        lost::start_elsewhere(&lattice, &host.id, look.missing(), (auction, wait)).await;
    let failed = restarted.iter().filter(|one| one.outcome.is_err()).count();
    terminal.show(&Starts { host: host.called(), restarted: &restarted, hosts: &look.hosts })?;
    if failed < restarted.len() && !terminal.is_data() {
        terminal.note(twice(host.called()));
    }
    match failed {
        0 => Ok(()),
        1 => bail!("one of them does not run"),
        count => bail!("{count} of them do not run"),
    }
}

/// Takes a lost host off the lists of all hosts.
pub async fn forget(terminal: &Terminal, before: SettingArgs, args: &Forget) -> Result<()> {
    let lattice = Session::open(before, &args.connect)?.lattice().await?;
    let hosts = lattice.some_hosts().await?;
    let lost = lost::lost(&lattice, &hosts).await;
    let host = lost::find(&args.host, &lost)?;
    lost::forget(&lattice, &hosts, &host.id).await?;
    let text = format!("The lattice has forgotten host {}, which vanished", host.called());
    let members = json!({ "host_id": host.id, "host": host.called() });
    terminal.show(&Message::new(text, &host.id, members))
}

/// How long ago a host vanished.
pub fn gone_for(host: &LostHost) -> Duration {
    Duration::from_millis(clock::now_ms().saturating_sub(host.lost_ms))
}

/// All that ran only on lost hosts, as a table.
pub fn missing_table(missing: &[Missing]) -> Table {
    let mut table = Table::new([
        Column::name("NAME"),
        Column::fixed("KIND"),
        Column::fixed("LINK"),
        Column::text("RAN ON"),
        Column::tail("REFERENCE"),
        Column::id("ID"),
    ]);
    for missing in missing {
        table.row([
            Cell::toned(missing.called(), Tone::Bad),
            Cell::from(missing.kind()),
            Cell::from(missing.link_name.as_deref().unwrap_or_default()),
            Cell::from(missing.host_names().join(", ")),
            Cell::from(&missing.reference),
            Cell::from(&missing.id),
        ]);
    }
    table
}

/// All that ran only on lost hosts, as data.
pub fn missing_json(missing: &[Missing]) -> Value {
    let rows = missing.iter().map(|missing| {
        let hosts = missing.hosts.iter().map(|(id, name)| json!({ "host_id": id, "host": name }));
        json!({
            "id": missing.id, "name": missing.name, "kind": missing.kind(), "link_name": missing.link_name,
            "reference": missing.reference, "hosts": hosts.collect::<Vec<_>>(),
        })
    });
    rows.collect()
}

/// Says what happens when a lost host comes back.
fn twice(host: &str) -> String {
    format!(
        "should {host} come back, it starts again what ran there, and then it runs twice; stop it on one of the two: `host stop \
         actor NAME --host-id {host}`"
    )
}

/// All that was started elsewhere.
struct Starts<'a> {
    host: &'a str,
    restarted: &'a [Restarted],
    /// Those that may run it now.
    hosts: &'a [HostReply],
}

impl View for Starts<'_> {
    fn json(&self) -> Value {
        let rows = self.restarted.iter().map(|Restarted { missing, outcome }| {
            json!({
                "id": missing.id, "name": missing.name, "kind": missing.kind(), "link_name": missing.link_name,
                "reference": missing.reference, "host_id": outcome.as_ref().ok(),
                "error": outcome.as_ref().err().map(|error| format!("{error:#}")),
            })
        });
        json!({ "lost_host": self.host, "started": rows.collect::<Vec<_>>(), "note": twice(self.host) })
    }

    fn text(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::text("NAME"),
            Column::fixed("KIND"),
            Column::text("RUNS ON"),
            Column::text("OR WHY NOT"),
        ]);
        for Restarted { missing, outcome } in self.restarted {
            let (host, why) = match outcome {
                Ok(host) => (names::host_name(host, self.hosts), String::new()),
                Err(error) => ("-", format!("{error:#}")),
            };
            table.row([
                Cell::toned(missing.called(), Tone::Strong),
                Cell::from(missing.kind()),
                Cell::from(host),
                Cell::toned(why, Tone::Bad),
            ]);
        }
        let empty = format!("nothing ran only on host {}: all of it runs elsewhere", self.host);
        page.table(&table, &empty);
    }

    fn names(&self) -> Vec<String> {
        let started = self.restarted.iter().filter(|one| one.outcome.is_ok());
        started.map(|one| one.missing.id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_elsewhere_says_that_the_host_may_come_back() {
        let told = Starts { host: "sleepy-reef", restarted: &[], hosts: &[] }.json();
        let note = told["note"].as_str().unwrap_or_default();
        assert!(
            note.contains("runs twice") && note.contains("--host-id sleepy-reef"),
            "in data as well: {told}"
        );
    }
}
