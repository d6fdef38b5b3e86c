//! `host attention`: what needs attention, and saying something about it.
//!
//! A host with a dashboard is asked; all of them see the same.

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

use crate::{
    args::{
        flags::SettingArgs,
        history::{Attention as Args, AttentionCommand, Chosen, Mute},
    },
    clock,
    session::Session,
    terminal::{Cell, Column, Message, Page, Table, Terminal, Tone, View},
};
use lattice_client::lattice::{Lattice, RequestError};
use lattice_protocol::{
    attention::{Ask, Item, Mark, MarkAttention, Report, Said},
    clock::now_ms,
    errors::Usage,
};

pub async fn run(terminal: &Terminal, before: SettingArgs, args: Args) -> Result<()> {
    let lattice = Session::open(before, &args.connect)?.lattice().await?;
    let report = ask(&lattice).await?;
    let Some(command) = args.command else { return terminal.show(&Shown(report)) };
    let (chosen, said, for_ms) = match command {
        AttentionCommand::Ack(chosen) => (chosen, Some(Said::Ack), None),
        AttentionCommand::Mute(Mute { chosen, span }) => {
            (chosen, Some(Said::Mute), Some(span_ms(&span)?))
        }
        AttentionCommand::Clear(chosen) => (chosen, None, None),
    };
    let Chosen { key, note, .. } = chosen;
    let item = find(&report.items, &key)?;
    let mark = MarkAttention { key: item.key.clone(), said, for_ms, note };
    lattice.command(&report.host_id, &mark).await?;
    let done = match said {
        Some(Said::Ack) => "acknowledged",
        Some(Said::Mute) => "muted",
        None => "cleared",
    };
    let members = json!({ "key": item.key, "said": said, "text": item.text });
    terminal.show(&Message::new(format!("{done}: {}", item.text), &*item.key, members))
}

/// Asks the first host with a dashboard.
async fn ask(lattice: &Lattice) -> Result<Report> {
    let hosts = lattice.some_hosts().await?;
    let mut refusal = None;
    for host in hosts.iter().filter(|host| host.is_ours()) {
        match lattice.request_of(&host.id, &Ask {}).await {
            Ok(report) => return Ok(report),
            Err(error @ RequestError::TimedOut { .. }) => refusal = Some(error),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    match refusal {
        Some(error) => Err(anyhow!(error).context("no host tells what needs attention")),
        None => bail!(
            "no host of this make answers; those of earlier years do not know what needs attention"
        ),
    }
}

/// Returns the item that is meant by its key or the beginning of it.
fn find<'a>(items: &'a [Item], key: &str) -> Result<&'a Item> {
    let found: Vec<&Item> = items.iter().filter(|item| item.key.starts_with(key)).collect();
    match found.as_slice() {
        [one] if !key.is_empty() => Ok(one),
        [] => bail!(
            "nothing that needs attention has the key {key:?}; `host attention` lists the keys"
        ),
        _ => bail!(Usage(format!("{key:?} may be several; say more of the key"))),
    }
}

/// Reads for how long something is muted.
fn span_ms(text: &str) -> Result<u64> {
    let ms = clock::span(text).and_then(|span| u64::try_from(span.whole_milliseconds()).ok());
    let Some(ms) = ms else {
        bail!(Usage(format!("--for {text} is no span of time: write 15m, 1h or 2d")));
    };
    Ok(ms)
}

struct Shown(Report);

impl View for Shown {
    fn json(&self) -> Value {
        json!({ "attention": self.0.items, "told_by": self.0.told_by, "host_id": self.0.host_id })
    }

    fn text(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::fixed("KEY"),
            Column::fixed("SEVERITY"),
            Column::text("WHAT"),
            Column::text("SAID"),
            Column::text("ADVICE").only_wide(),
        ]);
        for item in &self.0.items {
            let tone = match (&item.mark, item.severity.as_str()) {
                (Some(_), _) => Tone::Faint,
                (None, "error") => Tone::Bad,
                (None, _) => Tone::Warning,
            };
            table.row([
                Cell::from(item.key.as_str()),
                Cell::toned(item.severity.as_str(), tone),
                Cell::from(item.text.as_str()),
                Cell::from(said(item.mark.as_ref())),
                Cell::from(item.advice.clone().unwrap_or_default()),
            ]);
        }
        page.table(&table, "nothing needs attention");
    }

    fn names(&self) -> Vec<String> {
        self.0.items.iter().map(|item| item.key.clone()).collect()
    }
}

fn said(mark: Option<&Mark>) -> String {
    let Some(mark) = mark else { return String::new() };
    let minutes = mark.until_ms.saturating_sub(now_ms()).div_ceil(60_000);
    let words = match mark.said {
        Said::Ack => format!("acknowledged by {}", mark.by),
        Said::Mute => format!("muted by {} for {minutes} min", mark.by),
    };
    match mark.note.as_str() {
        "" => words,
        note => format!("{words}: {note}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_meant_by_its_beginning() {
        let item = |key: &str| Item { key: key.into(), ..Item::default() };
        let all = [item("3f2a11"), item("3f99aa"), item("b0")];
        assert_eq!(find(&all, "3f2a").unwrap().key, "3f2a11");
        assert_eq!(find(&all, "b0").unwrap().key, "b0");
        assert!(find(&all, "3f").unwrap_err().is::<Usage>());
        assert!(find(&all, "").is_err());
        assert!(find(&all, "77").unwrap_err().to_string().contains("host attention"));
    }

    #[test]
    fn a_span_has_a_unit() {
        assert_eq!(span_ms("2h").unwrap(), 7_200_000);
        assert!(span_ms("long").unwrap_err().is::<Usage>());
    }
}
