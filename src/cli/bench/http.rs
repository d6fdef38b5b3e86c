//! HTTP requests to actors on the host that serves them, beside bare hyper and `wasmtime serve`.
//!
//! Each caller has a keep-alive connection that costs next to nothing, and one request at a time.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    Options,
    bare::{Bare, find_wasmtime},
    calls::{HOSTS_FRESH, PLAIN, Plain, Routed, SIGNED_FRESH, Signed},
    guests::{Actor, Guest},
    load::{Pace, Target},
    row::{Group, Row},
    stage::{Pair, REUSE, Stage},
};

pub const HYPER: &str = "bare hyper, a constant";
const ACTOR_FRESH: &str = "HTTP to the actor, fresh instance";
/// The path of the pages that are measured.
const ROOT: &str = "/";
/// Where the status ends in `HTTP/1.1 200`.
const STATUS_END: usize = 12;
/// An answer is no larger than this.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// The flags with which `wasmtime serve` keeps a pool, as a host does.
const POOL: [&str; 4] = ["-O", "pooling-allocator=y", "-O", "pooling-memory-keep-resident=2097152"];

/// A connection to a server.
pub struct Http {
    address: String,
    path: &'static str,
    /// Runs for as long as there are callers.
    bare: Option<Arc<Bare>>,
    connection: Option<TcpStream>,
    buffer: Vec<u8>,
}

impl Clone for Http {
    fn clone(&self) -> Self {
        Self { bare: self.bare.clone(), ..Self::to(self.address.clone(), self.path) }
    }
}

impl Http {
    /// Requests to a server that runs.
    pub fn to(address: String, path: &'static str) -> Self {
        Self { address, path, bare: None, connection: None, buffer: Vec::new() }
    }

    /// Requests to a process that runs for as long as this and its clones.
    pub fn of(bare: Bare, path: &'static str) -> Self {
        let address = bare.place.clone();
        Self { bare: Some(Arc::new(bare)), ..Self::to(address, path) }
    }

    /// Reads a whole answer and says its status.
    async fn answer(&mut self) -> Result<u16> {
        let stream = self.connection.as_mut().context("there is no connection")?;
        self.buffer.clear();
        loop {
            let read = stream.read_buf(&mut self.buffer).await.context("read the answer")?;
            ensure!(read > 0, "the connection was closed before the answer was whole");
            ensure!(self.buffer.len() <= ANSWER_BYTES_MAX, "the answer is too large");
            if is_whole(&self.buffer) {
                let head = std::str::from_utf8(&self.buffer[..STATUS_END]).ok();
                let status = head.and_then(|head| head.rsplit(' ').next()?.parse().ok());
                return status.context("the answer has no status");
            }
        }
    }
}

impl Target for Http {
    async fn prepare(&mut self) -> Result<()> {
        let stream = TcpStream::connect(&self.address).await;
        let stream = stream.with_context(|| format!("connect to {}", self.address))?;
        stream.set_nodelay(true)?;
        self.connection = Some(stream);
        Ok(())
    }

    async fn exchange(&mut self) -> Result<()> {
        let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", self.path);
        if self.connection.is_none() {
            self.prepare().await?;
        }
        let stream = self.connection.as_mut().context("there is no connection")?;
        let answered = match stream.write_all(request.as_bytes()).await {
            Ok(()) => self.answer().await,
            Err(error) => Err(error).context("send the request"),
        };
        let status = answered.inspect_err(|_| {
            // Bytes that still come belong to no later request.
            self.connection = None;
        })?;
        ensure!((200..500).contains(&status), "the answer has the status {status}");
        Ok(())
    }
}

/// Whether the bytes so far are a whole answer.
fn is_whole(answer: &[u8]) -> bool {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = end.filter(|end| *end >= STATUS_END) else { return false };
    let (head, body) = (&answer[..end], &answer[end + 4..]);
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    match head.lines().find_map(|line| line.strip_prefix("content-length:")) {
        Some(length) => length.trim().parse::<usize>().is_ok_and(|length| body.len() >= length),
        None => body.ends_with(b"0\r\n\r\n"),
    }
}

/// The rows.
pub async fn rows(options: &Options, stage: &Stage, notes: &mut Vec<String>) -> Result<Vec<Row>> {
    let pace = Pace::Closed { callers: options.callers_max() };
    let row = |name: &str, http: Http| Row::new(Group::Http, name, pace, http);
    let hyper = Bare::hyper(&stage.program).await?;
    let mut rows = vec![row(HYPER, Http::of(hyper, ROOT))];
    stage.member.serve().await?;
    let guests = &stage.guests;
    let actor = [ACTOR_FRESH, "HTTP to the actor, instances reused"];
    let component =
        ["HTTP to a component, fresh instance", "HTTP to a component, instances reused"];
    let component = guests.component.as_ref().zip(stage.component.as_ref()).zip(Some(component));
    let pairs = [Some(((&guests.actor, &stage.remote), actor)), component];
    for ((guest, pair), [fresh, reused]) in pairs.into_iter().flatten() {
        if !guest.answers_requests() {
            notes.push(not_signed(guest));
            continue;
        }
        for (name, actor) in [(fresh, &pair.fresh), (reused, &pair.reused)] {
            rows.push(row(name, page(stage, actor).await?).beside(HYPER));
        }
    }
    match find_wasmtime() {
        Some(binary) => {
            let reused = [&POOL[..], &["--max-instance-reuse-count", REUSE]].concat();
            let fresh = [&POOL[..], &["--max-instance-reuse-count", "1"]].concat();
            let served = stage.component.as_ref().unwrap_or(&stage.remote);
            for (name, flags) in [
                ("wasmtime serve, fresh instance", fresh),
                ("wasmtime serve, instances reused", reused),
            ] {
                let bare = Bare::wasmtime(&binary, &served.fresh.file, &flags).await?;
                rows.push(row(name, Http::of(bare, ROOT)).beside(HYPER));
            }
        }
        None => notes.push(
            "`wasmtime serve` is not measured: there is no wasmtime on the path, and WASMTIME names none.".into(),
        ),
    }
    Ok(rows)
}

fn not_signed(guest: &Guest) -> String {
    format!("There are no HTTP rows of {}: it is not signed for wasmcloud:httpserver.", guest.name)
}

/// The page of an actor on the host that serves, as soon as it answers.
async fn page(stage: &Stage, actor: &Actor) -> Result<Http> {
    let address = stage.member.publish(actor).await?;
    until_it_answers(Http::to(address, ROOT)).await
}

/// Waits until a page answers as it is to.
pub async fn until_it_answers(http: Http) -> Result<Http> {
    let until = tokio::time::Instant::now() + super::stage::PATIENCE;
    loop {
        match http.clone().exchange().await {
            Ok(()) => return Ok(http),
            Err(error) if tokio::time::Instant::now() >= until => {
                return Err(error).with_context(|| format!("ask {}", http.address));
            }
            Err(_) => tokio::time::sleep(super::stage::POLL).await,
        }
    }
}

/// One row of each kind at a constant rate, so that their times can be compared.
pub async fn at_a_rate(
    options: &Options,
    stage: &Stage,
    notes: &mut Vec<String>,
) -> Result<Vec<Row>> {
    let pace = Pace::Open { rate: options.settings.rate };
    let (guest, Pair { fresh, .. }) = (&stage.guests.actor, &stage.remote);
    let group = Group::Open;
    let signed = Signed::new(&stage.server, guest, fresh).await?;
    let hyper = Bare::hyper(&stage.program).await?;
    let mut rows = vec![
        Row::new(group, PLAIN, pace, Plain::start(stage).await?),
        Row::new(group, SIGNED_FRESH, pace, signed).beside(PLAIN),
        Row::new(group, HOSTS_FRESH, pace, Routed::new(stage, guest, fresh)).beside(PLAIN),
        Row::new(group, HYPER, pace, Http::of(hyper, ROOT)),
    ];
    if guest.answers_requests() {
        stage.member.serve().await?;
        let page = page(stage, fresh).await?;
        rows.push(Row::new(group, ACTOR_FRESH, pace, page).beside(HYPER));
    } else {
        notes.push(not_signed(guest));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_body() {
        for (answer, whole) in [
            ("HTTP/1.1 200 OK\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true),
        ] {
            assert_eq!(is_whole(answer.as_bytes()), whole, "{answer:?}");
        }
    }
}
