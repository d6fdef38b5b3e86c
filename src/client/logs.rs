//! Reads what an actor or a provider says on many hosts at once, as
//! [`wire`](lattice_protocol::journal::wire) describes.
//!
//! Every host answers on a subject of its own below one inbox, so that it is known who has nobody
//! listening there.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context as _, Result};
use async_nats::{StatusCode, Subscriber};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::time::{Interval, interval};
use tracing::debug;

use super::lattice::Lattice;
use lattice_protocol::{
    control::request::HostRequest as _,
    journal::{
        Line,
        wire::{Ask, Mark, Part, RENEW, Seen},
    },
};

/// The lines of one entity, from all hosts that were asked.
pub struct Logs {
    lattice: Lattice,
    entity: String,
    tail: u64,
    /// Names this follower; without it only the past is read.
    follow: Option<String>,
    inbox: String,
    parts: Subscriber,
    /// Those that were asked, and how far they were read.
    hosts: BTreeMap<String, Option<Seen>>,
}

/// The lines that a host is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Lines,
    /// No more lines: the end of following.
    Nothing,
}

/// A message from a host, or about its absence.
#[derive(Debug)]
pub enum News {
    Part(Part),
    /// Nobody listens there: the host is gone, or of an earlier year.
    Absent(String),
}

impl Logs {
    /// Begins to listen; nobody is asked yet.
    pub async fn open(lattice: &Lattice, entity: &str, tail: u64, follow: bool) -> Result<Self> {
        let inbox = lattice.client.new_inbox();
        let parts = lattice
            .client
            .subscribe(format!("{inbox}.*"))
            .await
            .context("subscribe for the answers")?;
        Ok(Self {
            lattice: lattice.clone(),
            entity: entity.to_owned(),
            tail,
            follow: follow.then(|| uuid::Uuid::new_v4().to_string()),
            inbox,
            parts,
            hosts: BTreeMap::new(),
        })
    }

    /// Asks a host for its lines, if it has not been asked.
    pub async fn ask(&mut self, host: &str) -> Result<()> {
        if self.hosts.contains_key(host) {
            return Ok(());
        }
        self.hosts.insert(host.to_owned(), None);
        self.send(host, Wanted::Lines).await
    }

    /// Tells all hosts that their lines are still wanted.
    pub async fn renew(&mut self) -> Result<()> {
        for host in self.hosts.keys() {
            self.send(host, Wanted::Lines).await?;
        }
        Ok(())
    }

    /// Tells all hosts that nothing more is wanted. A host that does not hear it finds out by
    /// itself.
    pub async fn stop(&mut self) -> Result<()> {
        if self.follow.is_some() {
            for host in self.hosts.keys() {
                self.send(host, Wanted::Nothing).await?;
            }
        }
        self.lattice.client.flush().await.context("send the last requests")
    }

    /// The hosts that are read.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.keys().map(String::as_str)
    }

    /// Returns the next message; lines come once. `None` if the connection has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            let message = self.parts.next().await?;
            let Some((_, host)) = message.subject.rsplit_once('.') else { continue };
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                self.hosts.remove(host);
                return Some(News::Absent(host.to_owned()));
            }
            let Ok(mut part) = serde_json::from_slice::<Part>(&message.payload) else { continue };
            host.clone_into(&mut part.host_id);
            self.record_seen(&mut part);
            return Some(News::Part(part));
        }
    }

    /// Notes how far a host was read, and takes out what came twice.
    fn record_seen(&mut self, part: &mut Part) {
        let Some(seen) = self.hosts.get_mut(&part.host_id) else { return };
        // Other parts have no lines, and no number to go on from.
        if !matches!(part.mark, Mark::More | Mark::Past | Mark::Live) {
            return;
        }
        if let Some(seen) = seen
            && seen.life == part.life
        {
            part.lines.retain(|line| line.number > seen.number);
            seen.number = seen.number.max(part.last);
        } else {
            // The host was started again, and its numbers begin anew.
            *seen = Some(Seen { life: part.life.clone(), number: part.last });
        }
    }

    async fn send(&self, host: &str, wanted: Wanted) -> Result<()> {
        let seen = self.hosts.get(host).cloned().flatten();
        let ask = Ask {
            entity: self.entity.clone(),
            tail: self.tail,
            follow: self.follow.clone(),
            stop: wanted == Wanted::Nothing,
            seen,
            lease_ms: None,
        };
        let subject = self.lattice.subjects.control(&Ask::subject(host.to_owned()));
        let payload = serde_json::to_vec(&ask).context("write the request")?;
        let reply = format!("{}.{host}", self.inbox);
        self.lattice
            .client
            .publish_with_reply(subject, reply, payload.into())
            .await
            .context("ask for logs")
    }
}

/// Follows the log lines of an entity on all hosts, from now on until the stream is dropped. Lines
/// of hosts that cannot be asked for a while are missing for so long; there is no end.
pub fn follow(lattice: Lattice, entity: String) -> BoxStream<'static, Line> {
    let following =
        Following { lattice, entity, logs: None, renew: interval(RENEW), lines: VecDeque::new() };
    stream::unfold(
        following,
        |mut following| async move { Some((following.next().await, following)) },
    )
    .boxed()
}

/// A follower, and what it has heard.
struct Following {
    lattice: Lattice,
    entity: String,
    logs: Option<Logs>,
    renew: Interval,
    lines: VecDeque<Line>,
}

impl Following {
    async fn next(&mut self) -> Line {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return line;
            }
            let news = async {
                match &mut self.logs {
                    Some(logs) => logs.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                news = news => match news {
                    Some(News::Part(part)) => self.lines.extend(part.lines),
                    Some(News::Absent(_)) => {}
                    None => self.logs = None,
                },
                // Asks hosts that have come, too.
                _ = self.renew.tick() => {
                    if let Err(error) = self.ask().await {
                        debug!(error = %format!("{error:#}"), "logs are not followed everywhere");
                    }
                }
            }
        }
    }

    async fn ask(&mut self) -> Result<()> {
        let logs = match &mut self.logs {
            Some(logs) => logs,
            none => none.insert(Logs::open(&self.lattice, &self.entity, 0, true).await?),
        };
        logs.renew().await?;
        for host in self.lattice.hosts().await? {
            logs.ask(&host.id).await?;
        }
        Ok(())
    }
}
