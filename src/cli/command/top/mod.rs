//! `host top`: actors and providers by calls, errors and latency, over all hosts.
//!
//! * [`rows`] sorts and prints what [`rates`] makes of two looks at what hosts have counted;
//! * [`screen`](super::screen) is the terminal when it is taken over as a whole.
//!
//! The first look only begins: what is shown is always of the time since the look before.

mod rows;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::{Instant, sleep};

use crate::{
    args::{
        flags::SettingArgs,
        lattice::{Top as Args, TopOrder},
    },
    clock,
    command::{
        screen::{Screen, Wish, exit_by, filled},
        watch,
    },
    session::Session,
    terminal::{Cell, Column, Columns, Output, Page, Table, Terminal, Tone, View},
};
use lattice_client::{
    calls,
    lattice::{Lattice, RequestError},
    names,
    rates::{self, Edge, Row, Totals},
};
use lattice_protocol::control::{probe::calls::Look, types::HostReply};

/// How often to look for hosts that came.
const SEARCH: Duration = Duration::from_secs(5);

pub async fn run(terminal: &Terminal, before: SettingArgs, args: Args) -> Result<()> {
    let delay = watch::delay("--delay", args.delay)?;
    let session = Session::open(before, &args.connect)?;
    let mut observer = tokio::select! {
        observer = Observer::begin(&session, &args) => observer?,
        interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
    };
    let is_text = matches!(terminal.output(), Output::Text | Output::Wide);
    if is_text && terminal.is_interactive() && args.iterations.is_none() {
        return live(terminal, &mut observer, delay).await;
    }
    let looks = args.iterations.unwrap_or(if terminal.is_interactive() { u64::MAX } else { 1 });
    tokio::select! {
        result = print(terminal, &mut observer, delay, looks) => result,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

/// Prints one look after the other.
async fn print(
    terminal: &Terminal,
    observer: &mut Observer,
    delay: Duration,
    looks: u64,
) -> Result<()> {
    for note in observer.notes() {
        terminal.note(&note);
    }
    for number in 0..looks {
        sleep(delay).await;
        let seen = observer.look().await?;
        if terminal.is_data() {
            terminal.data_line(&seen.json())?;
        } else {
            if number > 0 && terminal.output() != Output::Name {
                let mut empty = terminal.page();
                empty.line("");
                terminal.print(empty)?;
            }
            terminal.show(&seen)?;
        }
        if terminal.is_closed() {
            break;
        }
    }
    Ok(())
}

/// Shows one look after the other on the whole terminal, until the user has seen enough.
async fn live(terminal: &Terminal, observer: &mut Observer, delay: Duration) -> Result<()> {
    let columns = terminal.columns();
    let mut screen = Screen::take().context("take the terminal over")?;
    let mut shown = Shown { columns, notes: observer.notes(), seen: None, order: observer.order };
    shown.draw(&screen)?;
    let mut end = shown.attend(&mut screen, sleep(delay)).await;
    while end.is_ok() {
        match shown.attend(&mut screen, observer.look()).await {
            Ok(seen) => shown.seen = Some(seen?),
            Err(wish) => {
                end = Err(wish);
                break;
            }
        }
        shown.notes = observer.notes();
        shown.draw(&screen)?;
        end = shown.attend(&mut screen, sleep(delay)).await;
    }
    drop(screen);
    if let Err(Wish::End(signal)) = end {
        exit_by(signal);
    }
    Ok(())
}

/// The content of the screen.
struct Shown {
    columns: Columns,
    notes: Vec<String>,
    seen: Option<Seen>,
    order: TopOrder,
}

impl Shown {
    /// Does some work and obeys the user meanwhile; an error is the wish to end.
    async fn attend<T>(
        &mut self,
        screen: &mut Screen,
        work: impl Future<Output = T>,
    ) -> Result<T, Wish> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                wish = screen.next() => match wish {
                    Wish::Quit | Wish::End(_) => return Err(wish),
                    Wish::Sort(order) => self.order = order,
                    Wish::Redraw => {}
                },
            }
            // The next look draws as well.
            let _ = self.draw(screen);
        }
    }

    fn draw(&mut self, screen: &Screen) -> std::io::Result<()> {
        let (width, height) = Screen::size();
        let mut page = Page::new(Some(width), self.columns);
        match &mut self.seen {
            None => page.line("looking for the first time ..."),
            Some(seen) => {
                seen.order = self.order;
                rows::sort(&mut seen.rows, self.order);
                seen.text(&mut page);
            }
        }
        let text = page.into_text();
        let foot = format!(
            "q quit   sort: c calls  l latency  e errors  n name   now by {}",
            word(self.order)
        );
        let foot = self.notes.iter().cloned().chain([foot]).map(|note| (note, Tone::Faint));
        screen.draw(&filled(&text, &foot.collect::<Vec<_>>(), (width, height)))
    }
}

fn word(order: TopOrder) -> &'static str {
    match order {
        TopOrder::Calls => "calls",
        TopOrder::Latency => "latency",
        TopOrder::Errors => "errors",
        TopOrder::Name => "name",
    }
}

/// Looks at all hosts again and again.
struct Observer {
    lattice: Lattice,
    by_operation: bool,
    order: TopOrder,
    hosts: Vec<HostReply>,
    searched: Instant,
    /// The last look at each host.
    earlier: HashMap<String, Look>,
    /// Hosts that do not count for others, and those that did not answer the last time, as people
    /// call them.
    absent: BTreeSet<String>,
    silent: BTreeSet<String>,
}

impl Observer {
    /// Looks for the first time.
    async fn begin(session: &Session, args: &Args) -> Result<Self> {
        let lattice = session.lattice().await?;
        let hosts = lattice.some_hosts().await?;
        let (by_operation, order) = (args.operations, args.sort);
        let (earlier, absent, silent) = (HashMap::new(), BTreeSet::new(), BTreeSet::new());
        let searched = Instant::now();
        let mut observer =
            Self { lattice, by_operation, order, hosts, searched, earlier, absent, silent };
        observer.look().await?;
        if observer.earlier.is_empty() {
            bail!("none of the hosts counts calls for others: {}", observer.notes().join("; "));
        }
        Ok(observer)
    }

    /// Looks at every host, and at who has come.
    async fn look(&mut self) -> Result<Seen> {
        let lattice = &self.lattice;
        let search = async {
            if self.searched.elapsed() < SEARCH {
                return None;
            }
            // If no host answers for once, all stay in the table.
            lattice.hosts().await.ok().filter(|found| !found.is_empty())
        };
        let asked = self.hosts.iter().map(|host| calls::look(lattice, &host.id, self.by_operation));
        let (answers, found) = tokio::join!(futures::future::join_all(asked), search);
        self.absent.clear();
        self.silent.clear();
        let mut now = Vec::new();
        for (host, answer) in self.hosts.iter().zip(answers) {
            match answer {
                Ok(look) if look.host_id == host.id => now.push(look),
                Err(RequestError::TimedOut { .. }) => {
                    _ = self.silent.insert(host.friendly_name.clone())
                }
                // Nobody listens there, or somebody who does not know the question.
                Ok(_) | Err(_) => _ = self.absent.insert(host.friendly_name.clone()),
            }
        }
        let edges = rates::edges(&self.earlier, &now);
        let mut rows = rates::between(&self.earlier, &now, &edges);
        let totals = Totals::of(&rows, &edges);
        rows::sort(&mut rows, self.order);
        let memory_bytes = now.iter().filter_map(|look| look.memory_bytes).sum();
        let hosts =
            now.iter().map(|look| (look.host_id.clone(), look.friendly_name.clone())).collect();
        let lattice = self.lattice.name().to_owned();
        let (by_operation, order) = (self.by_operation, self.order);
        self.earlier.extend(now.into_iter().map(|look| (look.host_id.clone(), look)));
        if let Some(found) = found {
            self.hosts = found;
            self.searched = Instant::now();
            let hosts = &self.hosts;
            self.earlier.retain(|id, _| hosts.iter().any(|host| host.id == *id));
        }
        Ok(Seen {
            at: OffsetDateTime::now_utc(),
            lattice,
            hosts,
            memory_bytes,
            by_operation,
            order,
            rows,
            edges,
            totals,
        })
    }

    /// Returns the notes that are worth to know beside the table.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.absent.is_empty() {
            let absent = listed(&self.absent);
            notes.push(format!(
                "left out, because they do not count (hosts of earlier years): {absent}"
            ));
        }
        if !self.silent.is_empty() {
            notes.push(format!("no answer from {}", listed(&self.silent)));
        }
        notes
    }
}

/// One look, made into a table.
struct Seen {
    at: OffsetDateTime,
    lattice: String,
    /// Ids and friendly names.
    hosts: Vec<(String, String)>,
    memory_bytes: u64,
    by_operation: bool,
    order: TopOrder,
    rows: Vec<Row>,
    /// Calls by caller and target.
    edges: Vec<Edge>,
    totals: Totals,
}

impl Seen {
    fn headline(&self) -> String {
        let memory = match self.memory_bytes {
            0 => String::new(),
            bytes => format!("   memory {}", clock::bytes(bytes)),
        };
        format!(
            "{}   lattice {}   hosts {}   requests/s {} ({} failed)   calls/s {} ({} failed){memory}",
            clock::second_of(self.at),
            self.lattice,
            self.hosts.len(),
            clock::number(self.totals.requests_per_second),
            clock::number(self.totals.request_errors_per_second),
            clock::number(self.totals.calls_per_second),
            clock::number(self.totals.errors_per_second),
        )
    }

    fn table(&self) -> Table {
        let mut columns = vec![Column::name("NAME"), Column::fixed("LINK").only_wide()];
        if self.by_operation {
            columns.push(Column::text("OPERATION"));
        }
        columns.extend(["HOSTS", "CALLS/S"].map(Column::number));
        columns.push(Column::number("MADE/S").only_wide());
        columns.push(Column::number("MADE ERR/S").only_wide());
        columns.extend(["ERR/S", "ERR %"].map(Column::number));
        if self.has_http() {
            columns.push(Column::number("5XX/S"));
        }
        columns.extend(["BUSY", "P50", "P99", "TOTAL"].map(Column::number));
        columns.extend([Column::number("P90").only_wide(), Column::number("LOCAL %").only_wide()]);
        columns.push(Column::id("ID").if_room());
        let mut table = Table::new(columns);
        for row in &self.rows {
            table.row(self.cells(row));
        }
        table
    }

    /// Whether an HTTP server is among them.
    fn has_http(&self) -> bool {
        self.rows.iter().any(|row| row.made.http_rate.is_some())
    }

    fn cells(&self, row: &Row) -> Vec<Cell> {
        let tone = if row.errors_per_second > 0.0 { Tone::Bad } else { Tone::Plain };
        let name_tone = if row.calls_per_second > 0.0 { Tone::Strong } else { Tone::Plain };
        let mut cells = vec![
            Cell::toned(names::or_id(&row.name, &row.id), name_tone),
            Cell::from(&row.link_name),
        ];
        if self.by_operation {
            cells.push(Cell::from(&row.operation));
        }
        cells.extend([
            Cell::from(format!("{}{}", if row.by_callers { "~" } else { "" }, row.hosts)),
            Cell::from(clock::number(row.calls_per_second)),
            Cell::from(clock::number(row.made.calls_per_second)),
            Cell::from(clock::number(row.made.errors_per_second)),
            Cell::toned(clock::number(row.errors_per_second), tone),
            Cell::toned(percent(row.error_percent()), tone),
        ]);
        if self.has_http() {
            cells.push(Cell::from(server_errors(row)));
        }
        cells.extend([
            Cell::from(row.in_work),
            took(row, 0.5),
            took(row, 0.99),
            Cell::from(row.total),
            took(row, 0.9),
            Cell::from(percent(row.local_percent())),
            Cell::toned(&*row.id, Tone::Faint),
        ]);
        cells
    }
}

/// Answers 5xx a second, of an HTTP server.
fn server_errors(row: &Row) -> String {
    row.made.http_rate.map(|rate| clock::number(rate.server_error)).unwrap_or_default()
}

fn listed(hosts: &BTreeSet<String>) -> String {
    hosts.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn took(row: &Row, share: f64) -> Cell {
    row.percentile(share).map(clock::duration).unwrap_or_default().into()
}

fn percent(value: Option<f64>) -> String {
    value.map(clock::number).unwrap_or_default()
}

impl View for Seen {
    fn json(&self) -> Value {
        let hosts: Vec<Value> = self
            .hosts
            .iter()
            .map(|(id, name)| json!({ "host_id": id, "friendly_name": name }))
            .collect();
        json!({
            "time": self.at.format(&Rfc3339).unwrap_or_default(), "lattice": self.lattice, "hosts": hosts,
            "memory_bytes": self.memory_bytes, "sorted_by": word(self.order),
            "requests_per_second": self.totals.requests_per_second,
            "request_errors_per_second": self.totals.request_errors_per_second,
            "calls_per_second": self.totals.calls_per_second,
            "errors_per_second": self.totals.errors_per_second,
            "rows": self.rows.iter().map(rows::to_json).collect::<Vec<_>>(),
            "edges": self.edges.iter().map(rows::edge_to_json).collect::<Vec<_>>(),
        })
    }

    fn text(&self, page: &mut Page) {
        page.line(self.headline());
        page.gap();
        page.table(&self.table(), "nothing runs and nothing was called");
    }

    fn names(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.id.clone()).collect()
    }
}
