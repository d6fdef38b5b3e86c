//! Link definitions, put, deleted and put back, and seen through to what their provider says.
//!
//! A link is acknowledged when it is stored. Then each host that runs its provider is asked what
//! came of it, until all have said so or the time is over. Built-in providers say it surely; of a
//! process, and of a provider on a host of earlier years, nobody knows more than that the link is
//! sent to it.
//!
//! The host that stores a change notes what the link was before, so that it can be undone. A change
//! that a host of earlier years stored has no note; then nothing is undone, rather than something
//! else than what was asked for.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures::{StreamExt as _, future::join_all, stream};
use tokio::time::{Instant, sleep};

use super::lattice::{Lattice, RequestError};
use lattice_protocol::{
    builtin::name_of,
    control::{
        probe::link::{Answered, AskChange, Request, State},
        request::{DeleteLink, PutLink},
        types::Ack,
    },
    errors::{Lines, OutcomeUnknown},
    links::{LinkChange, LinkDefinition, link_option},
};

/// How long to wait for providers unless told otherwise: as long as a built-in one may take for a
/// link, and a little more.
pub const LINK_WAIT: Duration = Duration::from_secs(12);

/// Links that are on their way at a time where many are put. A host works on several times as many.
const PUTS_AT_ONCE: usize = 64;
/// How soon a host is asked again.
const AGAIN: Duration = Duration::from_millis(50);
/// How long hosts may take to know the change of a link that one of them has noted.
const AGREED_WITHIN: Duration = Duration::from_secs(1);

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

/// A host whose provider does not take a link on that is stored.
#[derive(Clone, Debug)]
pub struct Refused {
    pub link: LinkDefinition,
    pub host: String,
    pub why: String,
    /// The link of before goes on there.
    pub is_former_up: bool,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { link, host, why, is_former_up } = self;
        let provider = name_of(&link.provider_id);
        let stays = match is_former_up {
            true => {
                " What the link was before stays in force there until the provider is started again."
            }
            false => "",
        };
        write!(
            f,
            "the link is stored, but {provider} on host {host} does not take it on: {why}.{stays} Mend that, put other values, or \
             take the change back with `host link undo {} {provider} {}{}`",
            link.actor_id,
            link.contract_id,
            link_option(&link.link_name)
        )
    }
}

impl std::error::Error for Refused {}

/// The outcome of taking the last change of a link back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// It is what it was before the change.
    PutBack(LinkDefinition),
    /// There was none before the change; this one is deleted.
    Deleted(LinkDefinition),
}

impl Undone {
    /// Returns the link that was put back or deleted.
    pub fn link(&self) -> &LinkDefinition {
        match self {
            Self::PutBack(link) | Self::Deleted(link) => link,
        }
    }
}

/// The link that is meant: by actor, contract and link name.
#[derive(Clone, Copy, Debug)]
pub struct Which<'a> {
    pub actor_id: &'a str,
    /// The provider that it leads to or led to before, to be sure of the link that is meant.
    pub provider_id: Option<&'a str>,
    pub contract_id: &'a str,
    pub link_name: &'a str,
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

/// A link that was not put, and why.
#[derive(Debug)]
pub struct NotPut {
    pub link: LinkDefinition,
    pub error: anyhow::Error,
}

/// Puts links, each another one, many at a time; returns those that were not put. Nobody waits for
/// providers. When the lattice does not answer, the rest is not sent: it would fare no better.
pub async fn put_all(lattice: &Lattice, links: Vec<LinkDefinition>) -> Vec<NotPut> {
    let is_away = AtomicBool::new(false);
    let puts = links.into_iter().map(|link| async {
        if is_away.load(Ordering::Relaxed) {
            let error = anyhow!("not sent, since the lattice does not answer");
            return Some(NotPut { link, error });
        }
        let put: Result<Ack, RequestError> = lattice.request(&PutLink::from(link.clone())).await;
        let error = match put {
            Ok(Ack { accepted: true, .. }) => return None,
            Ok(Ack { error, .. }) => anyhow!(error),
            Err(error) => {
                is_away.fetch_or(!matches!(error, RequestError::Refused { .. }), Ordering::Relaxed);
                error.into()
            }
        };
        Some(NotPut { link, error })
    });
    let puts = stream::iter(puts).buffer_unordered(PUTS_AT_ONCE);
    puts.filter_map(|not_put| async { not_put }).collect().await
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

/// Takes the last change of a link back, and waits as [`put`] does: a link that was deleted is put
/// again, one that was new is deleted. The change is refused where nobody knows what the link was,
/// or somebody changed it since without a note.
pub async fn undo(
    lattice: &Lattice,
    which: Which<'_>,
    wait: Option<Duration>,
) -> Result<(Undone, Option<Taken>)> {
    let Which { actor_id, provider_id, contract_id, link_name } = which;
    let change = last_change(lattice, which).await?;
    if let (Some(change), Some(provider)) = (&change, provider_id) {
        let mut sides = change.before.iter().chain(&change.after);
        ensure!(
            sides.any(|link| link.provider_id == provider),
            "this link does not lead to {}, and did not before its last change; `host get links` shows where it leads",
            name_of(provider)
        );
    }
    let until = Instant::now() + AGREED_WITHIN;
    let undone = loop {
        let links = lattice.links_of(actor_id).await.context("ask for the links")?;
        let now = links.iter().find(|link| link.is_of(actor_id, contract_id, link_name)).cloned();
        if change.is_none() && now.is_none() {
            let Lines(there) = unknown(&links, actor_id, contract_id, link_name);
            let head = "no host knows what this link was before:".to_owned();
            bail!(Lines([vec![head], there].concat()));
        }
        match back(change.clone(), now) {
            // The host that answers may be about to hear of the change.
            Err(_) if change.is_some() && Instant::now() < until => sleep(AGAIN).await,
            decided => {
                break decided.with_context(|| {
                    format!("link of {actor_id} for {contract_id} under link name {link_name}")
                })?;
            }
        }
    };
    Ok(match undone {
        Undone::PutBack(link) => {
            let taken = put(lattice, &link, wait).await?;
            (Undone::PutBack(link), taken)
        }
        Undone::Deleted(link) => {
            let taken = delete(lattice, &link, wait).await?;
            (Undone::Deleted(link), taken)
        }
    })
}

/// The error for a link that is not there, with the links there are.
pub fn unknown(links: &[LinkDefinition], actor: &str, contract: &str, link_name: &str) -> Lines {
    let mut of_actor: Vec<String> = links
        .iter()
        .filter(|link| link.actor_id == actor)
        .map(|link| format!("  {} ({}) to {}", link.contract_id, link.link_name, link.provider_id))
        .collect();
    of_actor.sort();
    let there = match of_actor.is_empty() {
        true => "it has none. `host get links` shows all links of the lattice",
        false => "it has:",
    };
    let head =
        format!("actor {actor} has no link for {contract} under link name {link_name}; {there}");
    Lines([vec![head], of_actor].concat())
}

/// Returns the last change of a link that a host of the lattice knows.
async fn last_change(lattice: &Lattice, which: Which<'_>) -> Result<Option<LinkChange>> {
    let hosts = lattice.some_hosts().await?;
    let ask = AskChange {
        actor_id: which.actor_id.to_owned(),
        contract_id: which.contract_id.to_owned(),
        link_name: which.link_name.to_owned(),
    };
    let told = lattice.ask_each(hosts.into_iter().map(|host| host.id).collect(), &ask).await;
    // Hosts of earlier years do not know the question.
    let known = told.into_iter().filter_map(|(_, told)| told.ok()?.change);
    Ok(known.max_by_key(|change| change.at_ms))
}

/// Decides what a link is to be, so that its last change is undone.
fn back(change: Option<LinkChange>, now: Option<LinkDefinition>) -> Result<Undone> {
    let change = change.ok_or_else(|| {
        anyhow!(
            "no host knows what this link was before: nobody has changed it, or a host or client of earlier years did. `host get \
             links` shows what it is; put the values that it is to have"
        )
    })?;
    ensure!(
        change.after == now,
        "the link was changed since by a host or client of earlier years, which does not note what it was; nothing is undone. \
         `host get links` shows what it is now"
    );
    match (change.before, now) {
        (Some(before), _) => Ok(Undone::PutBack(before)),
        (None, Some(now)) => Ok(Undone::Deleted(now)),
        (None, None) => {
            bail!("there was no such link before its last change, and there is none now")
        }
    }
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
            State::Refused => bail!(Refused {
                link: request.link.clone(),
                host,
                why: answered.error,
                is_former_up: answered.is_former_up,
            }),
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

    fn link() -> LinkDefinition {
        LinkDefinition {
            actor_id: "M".into(),
            provider_id: "VX".into(),
            link_name: "default".into(),
            contract_id: "acme:thing".into(),
            values: Default::default(),
        }
    }

    fn with(value: &str) -> LinkDefinition {
        LinkDefinition { values: [("a".to_owned(), value.to_owned())].into(), ..link() }
    }

    #[test]
    fn a_change_is_undone_only_where_the_link_is_as_it_was_left() {
        for (before, after, now, undone) in [
            (Some("1"), Some("2"), Some("2"), Some(Undone::PutBack(with("1")))),
            (Some("1"), None, None, Some(Undone::PutBack(with("1")))),
            (None, Some("2"), Some("2"), Some(Undone::Deleted(with("2")))),
            (Some("1"), Some("2"), Some("3"), None),
            (Some("1"), Some("2"), None, None),
            (Some("1"), None, Some("2"), None),
            (None, None, None, None),
        ] {
            let [before, after, now] = [before, after, now].map(|value| value.map(with));
            let change = LinkChange { at_ms: 1, before, after };
            assert_eq!(back(Some(change.clone()), now).ok(), undone, "{change:?}");
        }
        assert!(back(None, None).unwrap_err().to_string().contains("no host knows"));
    }

    #[test]
    fn a_link_that_is_not_there_is_told_with_those_that_are() {
        let of = |links: &[LinkDefinition]| unknown(links, "M", "acme:other", "default").0;
        assert!(matches!(of(&[]).as_slice(), [one] if one.contains("it has none")));
        assert_eq!(of(&[link()])[1..], ["  acme:thing (default) to VX"]);
    }

    #[test]
    fn a_refusal_says_what_stays_in_force_and_how_to_take_the_change_back() {
        for is_former_up in [true, false] {
            let (host, why) = ("N".to_owned(), "it is taken".to_owned());
            let text = Refused { link: link(), host, why, is_former_up }.to_string();
            assert_eq!(text.contains("stays in force"), is_former_up, "{text}");
            assert!(text.contains("`host link undo M VX acme:thing`"), "{text}");
        }
    }

    #[test]
    fn it_is_said_what_is_not_known_of_a_link() {
        let link = link();
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
