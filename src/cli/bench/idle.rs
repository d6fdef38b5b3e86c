//! Memory of actors that nobody calls: many of one module, and many different ones.

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use tokio::time::timeout;

use super::{
    guests::{Actor, Guest},
    machine::resident_bytes,
    soak::megabytes,
    stage::{Member, PATIENCE, Server, Stage},
};
use crate::terminal::{Column, Page, Progress, Table};
use lattice_protocol::{control::request::ScaleActor, events::Event};

/// Starts that are on their way at a time.
const AT_A_TIME: u32 = 8;
/// Parts in which the actors are started, so that it can be seen whether memory grows in line.
const STEPS: u32 = 4;

/// How many actors there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amounts {
    /// With the same code, each signed for itself.
    pub of_one_module: u32,
    /// Each with code of its own.
    pub different: u32,
}

/// The figures that were seen.
#[derive(Clone, Debug, Serialize)]
pub struct Idle {
    /// Bytes of the module.
    pub module_bytes: usize,
    pub of_one_module: Vec<Step>,
    pub different: Vec<Step>,
}

/// Memory of a host that runs so many actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub actors: u32,
    pub resident_bytes: Option<u64>,
}

/// Starts actors on hosts of their own and looks at the memory of these.
pub async fn run(amounts: Amounts, stage: &Stage, progress: &mut Progress) -> Result<Idle> {
    let guest = &stage.guests.actor;
    let mut grown = Vec::new();
    for (name, count, kind) in [
        ("idle-same", amounts.of_one_module, Kind::Same),
        ("idle-different", amounts.different, Kind::Different),
    ] {
        let member = Member::start(&stage.program, &stage.server, name).await?;
        let steps = grow(&stage.server, &member, guest, kind, count, progress).await;
        grown.push(steps?);
        member.end().await;
    }
    let different = grown.pop().unwrap_or_default();
    let of_one_module = grown.pop().unwrap_or_default();
    Ok(Idle { module_bytes: guest.wasm.len(), of_one_module, different })
}

/// The code of many actors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Same,
    Different,
}

/// Starts one actor on a host, and then more in parts; returns its memory after each.
pub async fn grow(
    server: &Server,
    member: &Member,
    guest: &Guest,
    kind: Kind,
    count: u32,
    progress: &mut Progress,
) -> Result<Vec<Step>> {
    Crowd { server, member, guest, kind }.grow(count, progress).await
}

/// The actors of one host.
struct Crowd<'a> {
    server: &'a Server,
    member: &'a Member,
    guest: &'a Guest,
    kind: Kind,
}

impl Crowd<'_> {
    async fn grow(&self, count: u32, progress: &mut Progress) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        let targets = (0..=STEPS).map(|step| (count * step / STEPS).max(1));
        let mut running = 0;
        for target in targets {
            while running < target {
                progress.stage("idle actors", format!("{running} of {count}"));
                let next = (target - running).min(AT_A_TIME);
                self.start(running, next).await.context("start idle actors")?;
                running += next;
            }
            let resident_bytes = self.member.pid().and_then(resident_bytes);
            steps.push(Step { actors: running, resident_bytes });
        }
        steps.dedup_by_key(|step| step.actors);
        Ok(steps)
    }

    /// Starts so many actors at a time and waits for all.
    async fn start(&self, first: u32, count: u32) -> Result<()> {
        let (guest, kind, dir) = (self.guest.clone(), self.kind, self.server.dir_of("idle")?);
        let sign = move || -> Result<Vec<Actor>> {
            let numbers = first..first + count;
            let each = numbers.map(|number| match kind {
                Kind::Same => guest.sign(&dir),
                Kind::Different => guest.sign_different(number, &dir),
            });
            each.collect()
        };
        let actors = tokio::task::spawn_blocking(sign).await.context("sign actors")??;
        let mut events = self.server.lattice.events().await?;
        for actor in &actors {
            let request = ScaleActor {
                actor_id: None,
                actor_ref: actor.reference(),
                annotations: Default::default(),
                count: Some(Some(1)),
                host_id: self.member.id.clone(),
            };
            self.server.lattice.command(&self.member.id, &request).await?;
        }
        let mut left = actors.len();
        while left > 0 {
            let next = timeout(PATIENCE, events.next()).await.context("an actor does not start")?;
            let received = next.context("the connection was closed")?;
            match received.event {
                Event::ActorScaled { .. } => left -= 1,
                Event::ActorScaleFailed { error, .. } => bail!(error),
                _ => {}
            }
        }
        // The host has read them, and the disk is not to be filled.
        actors.iter().for_each(|actor| drop(std::fs::remove_file(&actor.file)));
        Ok(())
    }
}

impl Idle {
    /// Returns how much memory one more actor takes, in bytes; nothing if that is not known.
    pub fn per_actor(steps: &[Step]) -> Option<f64> {
        let (first, last) = (steps.first()?, steps.last()?);
        let more = last.resident_bytes? as f64 - first.resident_bytes? as f64;
        (last.actors > first.actors).then(|| more / f64::from(last.actors - first.actors))
    }

    /// Returns the kinds with their names.
    pub fn kinds(&self) -> [(&'static str, &[Step]); 2] {
        [("of one module", &self.of_one_module), ("of different modules", &self.different)]
    }

    pub fn text(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::number("ACTORS"),
            Column::fixed("MODULES"),
            Column::number("MEMORY"),
            Column::number("EACH MORE"),
        ]);
        for (name, steps) in self.kinds() {
            for (at, step) in steps.iter().enumerate() {
                let each = Self::per_actor(&steps[..=at]);
                let each = each.map(|bytes| format!("{:.1} kB", bytes / 1e3)).unwrap_or_default();
                table.row([
                    step.actors.into(),
                    name.into(),
                    megabytes(step.resident_bytes).into(),
                    each.into(),
                ]);
            }
        }
        page.table(&table, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_one_more_is_between_the_first_and_the_last() {
        let step = |actors, bytes| Step { actors, resident_bytes: Some(bytes) };
        assert_eq!(Idle::per_actor(&[step(1, 1000), step(5, 1500), step(11, 2000)]), Some(100.0));
        assert_eq!(Idle::per_actor(&[step(1, 1000)]), None);
        assert_eq!(Idle::per_actor(&[]), None);
    }
}
