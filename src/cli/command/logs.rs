//! `host logs`: what an actor or a provider says, from all hosts, in the order of time.
//!
//! Hosts are asked for what they have kept; their lines are merged when all have answered, or have
//! had time to. With `--follow` later lines are held for a moment, so that lines of different hosts
//! come out in order; hosts that join are asked as they come, and an actor that starts later speaks
//! under the same name. Of hosts that are gone it has the last lines that the lattice kept.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use anyhow::{Result, bail};
use futures::{FutureExt as _, future::BoxFuture};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at};

use crate::{
    args::{flags::SettingArgs, lattice::Logs as Args},
    clock,
    session::Session,
    terminal::{Terminal, Text, Tone},
};
use lattice_client::{
    history::{ArchivedLine, History, Range},
    lattice::{Events, Lattice},
    logs::{Logs, News},
    lost::{self, Meant},
    names,
};
use lattice_protocol::{
    control::types::HostReply,
    events::Event,
    journal::{
        Level, Line,
        wire::{Mark, Part, RENEW},
    },
};

/// The time of a line as in RFC 3339. It always has all digits, so that its text sorts.
const MICROSECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
/// How long a line may wait for an older one of another host.
const HOLD: Duration = Duration::from_millis(100);
/// How often to look for hosts whose start was not heard of.
const SEARCH: Duration = Duration::from_secs(10);
/// How long saying goodbye may take.
const STOP_TIMEOUT: Duration = Duration::from_millis(500);
/// How far back the lines of hosts that are gone are read, in milliseconds.
const ARCHIVED_MS: u64 = 24 * 3_600_000;

pub async fn run(terminal: &Terminal, before: SettingArgs, args: Args) -> Result<()> {
    let session = Session::open(before, &args.connect)?;
    let mut reading = tokio::select! {
        reading = Reading::begin(terminal, &session, &args) => reading?,
        interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
    };
    let result = tokio::select! {
        result = reading.read() => result,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    };
    // A host that is not told waits for its lease to end.
    let _ = timeout(STOP_TIMEOUT, reading.logs.stop()).await;
    result
}

/// A host's line.
struct HostLine {
    host_id: String,
    line: Line,
}

struct Reading<'a> {
    terminal: &'a Terminal,
    lattice: Lattice,
    entity: String,
    /// The only host whose lines are wanted.
    only: Option<String>,
    /// Friendly names.
    hosts: HashMap<String, String>,
    logs: Logs,
    events: Option<Events>,
    /// Lines that are not printed yet.
    held: Vec<HostLine>,
    is_any: bool,
    /// The starts of hosts whose lines were read from themselves.
    lives: HashSet<String>,
    /// Lines of hosts that are gone.
    history: History,
    tail: usize,
}

impl<'a> Reading<'a> {
    async fn begin(terminal: &'a Terminal, session: &Session, args: &Args) -> Result<Self> {
        let lattice = session.lattice().await?;
        let found = lattice.some_hosts().await?;
        let meant = match &args.host_id {
            Some(word) => Some(lost::look_up(&lattice, word, &found).await?),
            None => None,
        };
        let (claims, inventories) = tokio::join!(lattice.claims(), lattice.inventories(&found));
        let entity = names::entity(&args.entity, &claims.unwrap_or_default(), &inventories)?;
        let logs = Logs::open(&lattice, &entity, args.tail.into(), args.follow).await?;
        // Before anybody is asked, so that no host comes in between.
        let events = if args.follow { Some(lattice.events().await?) } else { None };
        let history = session.history(&found).await?;
        let mut reading = Self {
            terminal,
            lattice,
            entity,
            only: meant.as_ref().map(|host| host.id().to_owned()),
            hosts: HashMap::new(),
            logs,
            events,
            held: Vec::new(),
            is_any: false,
            lives: HashSet::new(),
            history,
            tail: usize::try_from(args.tail).unwrap_or(usize::MAX),
        };
        reading.ask(found).await?;
        match meant {
            // It may be slow to answer a ping.
            Some(Meant::There(id)) => reading.logs.ask(&id).await?,
            Some(Meant::Lost(host)) => {
                terminal.note(format!("{} is lost; these are lines that it left", host.called()));
                reading.hosts.insert(host.id.clone(), host.called().to_owned());
            }
            None => {}
        }
        Ok(reading)
    }

    async fn ask(&mut self, found: Vec<HostReply>) -> Result<()> {
        for host in found {
            if self.only.as_ref().is_none_or(|only| *only == host.id) {
                self.logs.ask(&host.id).await?;
                self.hosts.insert(host.id, host.friendly_name);
            }
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<()> {
        self.read_past().await?;
        // Events are only heard where the lines to come are wanted.
        if self.events.is_some() {
            return self.follow().await;
        }
        if !self.is_any {
            self.terminal
                .note(format!("no line of {} is kept on the hosts that were asked", self.entity));
        }
        Ok(())
    }

    /// Reads until every host has told what it kept.
    async fn read_past(&mut self) -> Result<()> {
        let mut waiting: BTreeSet<String> = self.logs.hosts().map(str::to_owned).collect();
        let asked = waiting.len();
        let mut absent = Vec::new();
        let mut until = Instant::now() + self.lattice.timeout;
        while !waiting.is_empty() {
            match timeout_at(until, self.logs.next()).await {
                Ok(Some(News::Absent(host))) => {
                    waiting.remove(&host);
                    absent.push(self.called(&host));
                }
                Ok(Some(News::Part(part))) => {
                    if part.mark == Mark::Past || part.mark == Mark::Over {
                        waiting.remove(&part.host_id);
                    }
                    self.take(part);
                    until = Instant::now() + self.lattice.timeout;
                }
                Ok(None) => bail!("the connection to the NATS server has ended"),
                Err(_) => break,
            }
        }
        self.add_archived().await;
        self.print_held()?;
        if !absent.is_empty() {
            let hosts = absent.join(", ");
            self.terminal.note(format!(
                "left out, because they keep no logs for others (hosts of earlier years): {hosts}"
            ));
        }
        if !waiting.is_empty() {
            let silent: Vec<String> = waiting.iter().map(|host| self.called(host)).collect();
            self.terminal.note(format!(
                "no answer from {}; raise --timeout-ms if the way is long",
                silent.join(", ")
            ));
        }
        if asked > 0 && absent.len() + waiting.len() == asked {
            bail!("none of the hosts that were asked tells logs");
        }
        Ok(())
    }

    /// Adds what hosts said that are gone, and what others said before their last start.
    async fn add_archived(&mut self) {
        if self.tail == 0 {
            return;
        }
        // A lattice without a history has nothing to add.
        let range = Range::last(ARCHIVED_MS);
        let archived = self.history.lines(&self.entity, range, usize::MAX).await;
        let mut taken: HashMap<String, usize> = HashMap::new();
        for ArchivedLine { host_id, host_name, life, line } in
            archived.unwrap_or_default().into_iter().rev()
        {
            let is_wanted = self.only.as_ref().is_none_or(|only| *only == host_id);
            let of_host = taken.entry(host_id.clone()).or_default();
            if !is_wanted || self.lives.contains(&life) || *of_host >= self.tail {
                continue;
            }
            *of_host += 1;
            self.hosts.entry(host_id.clone()).or_insert(host_name);
            self.held.push(HostLine { host_id, line });
        }
    }

    async fn follow(&mut self) -> Result<()> {
        let mut renew = interval(RENEW);
        let mut search = interval(SEARCH);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        search.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut searching: Option<BoxFuture<'static, Result<Vec<HostReply>>>> = None;
        let mut print_at = None;
        while !self.terminal.is_closed() {
            tokio::select! {
                () = sleep_until(print_at.unwrap_or_else(Instant::now)), if print_at.is_some() => {
                    self.print_held()?;
                    print_at = None;
                }
                news = self.logs.next() => match news {
                    Some(News::Part(part)) => {
                        self.take(part);
                        print_at = print_at.or_else(|| (!self.held.is_empty()).then(|| Instant::now() + HOLD));
                    }
                    // One that left, or that never tells; whoever comes back is asked again.
                    Some(News::Absent(_)) => {}
                    None => bail!("the connection to the NATS server has ended"),
                },
                _ = renew.tick() => self.logs.renew().await?,
                _ = search.tick(), if searching.is_none() => searching = Some(search_for(&self.lattice)),
                is_news = started(self.events.as_mut()) => {
                    if !is_news {
                        self.events = None;
                    } else if searching.is_none() {
                        searching = Some(search_for(&self.lattice));
                    } else {
                        // The search under way may have missed it.
                        search.reset_immediately();
                    }
                }
                found = async { searching.as_mut().expect("asked only if there is one").await }, if searching.is_some() => {
                    searching = None;
                    self.ask(found.unwrap_or_default()).await?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, part: Part) {
        if part.lost > 0 {
            let host = self.called(&part.host_id);
            self.terminal
                .note(format!("{host}: {} lines went by too fast and are lost", part.lost));
        }
        if part.mark == Mark::Over && !part.error.is_empty() {
            self.terminal.note(format!("{}: {}", self.called(&part.host_id), part.error));
        }
        if !part.life.is_empty() {
            self.lives.insert(part.life);
        }
        let host_id = part.host_id;
        self.held
            .extend(part.lines.into_iter().map(|line| HostLine { host_id: host_id.clone(), line }));
    }

    /// Returns the name of a host, or its id if it has none.
    fn called(&self, host: &str) -> String {
        self.hosts
            .get(host)
            .filter(|name| !name.is_empty())
            .cloned()
            .unwrap_or_else(|| host.to_owned())
    }

    fn print_held(&mut self) -> Result<()> {
        self.held.sort_by(|a, b| {
            (a.line.at_us, &a.host_id, a.line.number).cmp(&(
                b.line.at_us,
                &b.host_id,
                b.line.number,
            ))
        });
        let lines = std::mem::take(&mut self.held);
        self.is_any |= !lines.is_empty();
        if self.terminal.is_data() {
            return lines.iter().try_for_each(|said| self.terminal.data_line(&self.json(said)));
        }
        if lines.is_empty() {
            return Ok(());
        }
        let mut page = self.terminal.page();
        lines.iter().for_each(|said| page.line(self.text(said)));
        self.terminal.print(page)
    }

    fn json(&self, said: &HostLine) -> Value {
        let Line { at_us, level, link_name, text, .. } = &said.line;
        let time = moment(*at_us).format(MICROSECONDS).unwrap_or_default();
        let mut line = json!({
            "time": time, "host_id": said.host_id, "host": self.called(&said.host_id), "entity": self.entity,
            "level": level, "text": &**text,
        });
        if !link_name.is_empty() {
            line["link_name"] = Value::from(&**link_name);
        }
        line
    }

    fn text(&self, said: &HostLine) -> Text {
        let Line { at_us, level, text, .. } = &said.line;
        let tone = match level {
            Level::Trace | Level::Debug => Tone::Faint,
            Level::Info => Tone::Plain,
            Level::Warn => Tone::Warning,
            Level::Error => Tone::Bad,
        };
        let time = Tone::Faint.paint(&clock::time_of(moment(*at_us)));
        let level = tone.paint(&format!("{:<5}", level.name()));
        let host = if self.hosts.len() > 1 {
            Tone::Strong.paint(&self.called(&said.host_id)) + " "
        } else {
            Text::default()
        };
        time + " " + level + " " + host + &**text
    }
}

fn search_for(lattice: &Lattice) -> BoxFuture<'static, Result<Vec<HostReply>>> {
    let lattice = lattice.clone();
    async move { lattice.hosts().await }.boxed()
}

/// Waits until a host has started; `false` if no events come any more. Cancel safe.
async fn started(events: Option<&mut Events>) -> bool {
    let Some(events) = events else { return std::future::pending().await };
    while let Some(received) = events.next().await {
        if matches!(received.event, Event::HostStarted { .. }) {
            return true;
        }
    }
    false
}

fn moment(at_us: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_us) * 1000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
