//! Disturbances of a lattice at work, and how clients of the page notice them.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    lattice::Lattice,
    load::{Load, Report},
    machine::Machine,
    process::Signal,
};

/// The event that disturbs the lattice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    ActorRemoved,
    HostTerminated,
    HostKilled,
    LeafRestarted,
    HubRestarted,
    HostFrozen,
}

/// How the page is asked for meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Requests a second.
    pub rate: u32,
    /// How long, in all. A frozen host takes longer.
    pub time: Duration,
    /// How long a host is frozen.
    pub frozen: Duration,
}

/// The effect of a disturbance on one machine's page.
pub struct Row {
    pub disturbance: Disturbance,
    /// The machine whose page it was.
    pub page: &'static str,
    pub report: Report,
}

/// Requests before the counting begins, so that it does not begin with a lattice that has never
/// been asked.
const WARM_UP: Duration = Duration::from_secs(1);

impl Disturbance {
    pub const ALL: [Self; 6] = [
        Self::ActorRemoved,
        Self::HostTerminated,
        Self::HostKilled,
        Self::LeafRestarted,
        Self::HubRestarted,
        Self::HostFrozen,
    ];

    pub fn words(self) -> &'static str {
        match self {
            Self::ActorRemoved => "actor removed from the first host",
            Self::HostTerminated => "first host TERM",
            Self::HostKilled => "first host `kill -9`",
            Self::LeafRestarted => "NATS leaf of the second restarted",
            Self::HubRestarted => "hub restarted",
            Self::HostFrozen => "second host SIGSTOP",
        }
    }

    /// The machines whose pages must stay.
    fn survivors(self, lattice: &Lattice) -> Vec<&Machine> {
        if let Some(third) = &lattice.third {
            return vec![third];
        }
        match self {
            Self::ActorRemoved | Self::HostTerminated | Self::HostKilled => vec![&lattice.second],
            Self::LeafRestarted | Self::HubRestarted => vec![&lattice.first, &lattice.second],
            Self::HostFrozen => vec![&lattice.first],
        }
    }

    /// Lets it happen; returns when it has.
    async fn strike(self, lattice: &mut Lattice, pace: Pace) -> Result<()> {
        match self {
            Self::ActorRemoved => lattice.end_actor_on_first().await,
            Self::HostTerminated => {
                let status = lattice.first.host()?.end(Signal::Terminate).await?;
                if !status.success() {
                    bail!("the first host did not end in order: {status}");
                }
                Ok(())
            }
            Self::HostKilled => lattice.first.host()?.end(Signal::Kill).await.map(drop),
            Self::LeafRestarted => lattice.restart_nats_of_second().await,
            Self::HubRestarted => lattice.restart_hub().await,
            Self::HostFrozen => {
                lattice.second.host()?.signal(Signal::Freeze)?;
                sleep(pace.frozen).await;
                lattice.second.host()?.signal(Signal::Thaw)
            }
        }
    }

    /// Asks for the pages that must stay, lets it happen in the midst, and reports for each page.
    pub async fn measure(self, lattice: &mut Lattice, pace: Pace) -> Result<Vec<Row>> {
        let pages: Vec<(&'static str, String)> = self
            .survivors(lattice)
            .into_iter()
            .map(|machine| (machine.name, machine.page()))
            .collect();
        for (_, url) in &pages {
            let load = Load::start(url, pace.rate)?;
            sleep(WARM_UP).await;
            load.stop().await?;
        }
        let began = Instant::now();
        let loads =
            pages.iter().map(|(_, url)| Load::start(url, pace.rate)).collect::<Result<Vec<_>>>()?;
        sleep(pace.time / 3).await;
        self.strike(lattice, pace).await?;
        // As long as before it, and at least for the time it was given.
        let rest = Instant::now() + pace.time / 3;
        sleep_until(rest.max(began + pace.time)).await;
        let mut rows = Vec::new();
        for ((page, _), load) in pages.into_iter().zip(loads) {
            rows.push(Row { disturbance: self, page, report: load.stop().await? });
        }
        Ok(rows)
    }
}
