//! Link definitions, put and deleted, and seen through to what their provider says.
//!
//! A link is acknowledged when it is stored. Then each host that runs its provider is asked what
//! came of it, until all have said so or the time is over. Built-in providers say it surely; of a
//! process, and of a provider on a host of earlier years, nobody knows more than that the link is
//! sent to it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::future::join_all;
use tokio::time::{Instant, sleep};

use super::lattice::{Lattice, RequestError};
use lattice_protocol::{
    control::{
        probe::link::{Answered, Request, State},
        request::{DeleteLink, PutLink},
    },
    errors::OutcomeUnknown,
    links::{LinkDefinition, link_option},
};

/// How long to wait for providers unless told otherwise: as long as a built-in one may take for a
/// link, and a little more.
pub const LINK_WAIT: Duration = Duration::from_secs(12);

/// How soon a host is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// The outcome of putting or deleting a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Hosts whose provider has it now, or let it go.
    pub done: Vec<String>,
    /// Hosts whose provider it is sent to and that cannot tell.
    pub untold: Vec<String>,
}

impl Taken {
    /// Returns a note to print besides that it is done; `None` where all is known.
    pub fn note(&self, link: &LinkDefinition) -> Option<String> {
        let provider = &link.provider_id;
        match (self.done.len(), self.untold.len()) {
            (0, 0) => Some(format!(
                "note: {provider} runs on no host under link name {}; the link counts as soon as it does",
                link.link_name
            )),
            (_, 0) => None,
            (_, untold) => Some(format!(
                "note: the link is sent to the provider on {untold} {}, which does not say whether it takes it on; `host logs \
                 {provider}` shows what it logs",
                if untold == 1 { "host" } else { "hosts" }
            )),
        }
    }
}

/// Puts a link and waits until the providers that run have taken it on; a refusal of one of them is
/// an error with its reason. Without a time nobody is waited for.
pub async fn put(
    lattice: &Lattice,
    link: &LinkDefinition,
    wait: Option<Duration>,
) -> Result<Option<Taken>> {
    lattice.change(&PutLink::from(link.clone())).await.context("put the link")?;
    let Some(wait) = wait else { return Ok(None) };
    settled(lattice, Request { link: link.clone(), is_deleted: false }, wait).await.map(Some)
}

/// Deletes a link and waits until the providers that run have let it go.
pub async fn delete(
    lattice: &Lattice,
    link: &LinkDefinition,
    wait: Option<Duration>,
) -> Result<Option<Taken>> {
    lattice.change(&DeleteLink::from(link.clone())).await.context("delete the link")?;
    let Some(wait) = wait else { return Ok(None) };
    settled(lattice, Request { link: link.clone(), is_deleted: true }, wait).await.map(Some)
}

async fn settled(lattice: &Lattice, request: Request, wait: Duration) -> Result<Taken> {
    let until = Instant::now() + wait;
    let hosts = lattice.hosts().await?;
    let asked = lattice.asked_inventories(&hosts).await;
    let (provider, link_name) = (&request.link.provider_id, &request.link.link_name);
    let runners = asked.into_iter().filter_map(|(host, inventory)| {
        let runs = inventory
            .ok()?
            .providers
            .iter()
            .any(|p| p.id == *provider && p.link_name == *link_name);
        runs.then_some(host)
    });
    // All at once: each may take as long as its provider does, and they share the time.
    let told = join_all(runners.map(|host| told(lattice, host, &request, until))).await;
    let mut taken = Taken::default();
    for (host, answered) in told {
        match answered.state {
            State::Done => taken.done.push(host),
            State::Untold => taken.untold.push(host),
            State::Absent => {}
            State::Refused => bail!(
                "the link is stored, but the provider on host {host} does not take it on: {}. Mend that, or put other values; what \
                 the link was before goes on where it can",
                answered.error
            ),
            State::Pending => bail!(OutcomeUnknown(format!(
                "the link is stored, but the provider on host {host} has not said within {} ms what it does with it; `host doctor` \
                 tells whether it refuses it, `host explain {} {}{}` whether a call would be made",
                wait.as_millis(),
                request.link.actor_id,
                request.link.contract_id,
                link_option(link_name)
            ))),
        }
    }
    Ok(taken)
}

/// Asks one host until its provider is not at it any more, or the time is over.
async fn told(
    lattice: &Lattice,
    host: String,
    request: &Request,
    until: Instant,
) -> (String, Answered) {
    loop {
        let answered = match lattice.request_of(&host, request).await {
            Ok(answered) => answered,
            // A host that does not know the question, of whatever year.
            Err(RequestError::NoResponders { .. } | RequestError::Refused { .. }) => {
                Answered { state: State::Untold, ..Answered::default() }
            }
            // It may be busy, or the way there cut for a moment: as good as pending.
            Err(_) => Answered::default(),
        };
        if answered.state != State::Pending || Instant::now() >= until {
            return (host, answered);
        }
        sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_what_is_not_known_of_a_link() {
        let link = LinkDefinition {
            actor_id: "M".into(),
            provider_id: "VX".into(),
            link_name: "default".into(),
            contract_id: "acme:thing".into(),
            values: Default::default(),
        };
        let taken = |done: usize, untold: usize| {
            let hosts = |count| vec!["N".to_owned(); count];
            Taken { done: hosts(done), untold: hosts(untold) }.note(&link)
        };
        assert_eq!(taken(2, 0), None);
        assert!(taken(0, 0).unwrap().contains("runs on no host"));
        assert!(
            taken(1, 1).unwrap().contains("1 host,") && taken(0, 2).unwrap().contains("2 hosts,")
        );
    }
}
