//! Links and claims of the lattice, however many.
//!
//! They are asked for as clients of all years do, with one answer. A host that has more than fit
//! into a message of the NATS server refuses that; then they come in pages from one host of this
//! make after the other, until one has told all of them. A host that goes away in the middle is
//! followed by the next one, which goes on where it ended: pages are in the order of keys that are
//! the same everywhere. Hosts that cannot tell pages leave the refusal, which names the server's
//! limit.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::Instant;

use super::lattice::{Lattice, RequestError};
use lattice_protocol::{
    control::{
        probe::pages::{Ask, AskClaims, AskLinks, Page},
        request::{GetClaims, GetLinks, HostRequest},
        types::HostReply,
    },
    links::LinkDefinition,
};

/// How long a whole listing may take, at least; each page has the time of a request.
const LISTING_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before a host is asked again that has not taken in all changes yet.
const BEHIND_PAUSE: Duration = Duration::from_millis(250);
/// Rows that are taken in. So many do not fit into the memory of a client's machine.
const ROWS_MAX: usize = 2_000_000;
/// Hosts that are asked for pages one after the other.
const HOSTS_ASKED_MAX: usize = 16;

/// All link definitions, or those of one actor.
pub(super) async fn links(lattice: &Lattice, actor: Option<&str>) -> Result<Vec<LinkDefinition>> {
    let mut links = match lattice.request(&GetLinks).await {
        Ok(reply) => reply.links,
        Err(refused @ RequestError::Refused { .. }) => {
            pages(lattice, AskLinks, actor, refused).await?
        }
        Err(error) => return Err(error.into()),
    };
    links.retain(|link| actor.is_none_or(|actor| link.actor_id == actor));
    Ok(links)
}

/// The claims of everything that ever ran, as they were told.
pub(super) async fn claims(lattice: &Lattice) -> Result<Vec<Box<RawValue>>> {
    match lattice.request(&GetClaims).await {
        Ok(reply) => reply.claims.iter().map(|claims| Ok(to_raw_value(claims)?)).collect(),
        Err(refused @ RequestError::Refused { .. }) => {
            pages(lattice, AskClaims, None, refused).await
        }
        Err(error) => Err(error.into()),
    }
}

/// The hosts whose pages are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Teller {
    /// Of hosts that know what the lattice knows.
    Complete,
    /// Of any; no better one is there.
    Any,
}

/// All rows, in pages; `refused` is what is said if no host can tell them.
async fn pages<R: HostRequest<Reply = Page<T>>, T>(
    lattice: &Lattice,
    question: fn(Ask) -> R,
    actor: Option<&str>,
    refused: RequestError,
) -> Result<Vec<T>> {
    let hosts = lattice.hosts().await?;
    let mut listing = Listing {
        lattice,
        question,
        ask: Ask { after: String::new(), actor_id: actor.map(str::to_owned) },
        rows: Vec::new(),
        until: Instant::now() + LISTING_TIMEOUT.max(lattice.timeout),
    };
    let mut failure = refused;
    let ours: Vec<String> =
        hosts.into_iter().filter(HostReply::is_ours).map(|host| host.id).collect();
    for teller in [Teller::Complete, Teller::Any] {
        for host in ours.iter().take(HOSTS_ASKED_MAX) {
            match listing.go_on(host, teller).await? {
                Went::Through => return Ok(listing.rows),
                Went::Nowhere => {}
                Went::Wrong(error) => failure = error,
            }
        }
    }
    Err(failure.into())
}

/// A listing in work.
struct Listing<'a, R, T> {
    lattice: &'a Lattice,
    /// Makes the request for a page.
    question: fn(Ask) -> R,
    ask: Ask,
    rows: Vec<T>,
    until: Instant,
}

/// How far one host told a listing.
enum Went {
    /// To its end.
    Through,
    /// It is not one to ask.
    Nowhere,
    Wrong(RequestError),
}

impl<R: HostRequest<Reply = Page<T>>, T> Listing<'_, R, T> {
    fn begin_anew(&mut self) {
        self.ask.after.clear();
        self.rows.clear();
    }

    /// Takes pages of one host, from where the listing stands.
    async fn go_on(&mut self, host: &str, teller: Teller) -> Result<Went> {
        loop {
            if Instant::now() >= self.until {
                bail!(
                    "{} entries came within {} s, and more are left",
                    self.rows.len(),
                    LISTING_TIMEOUT.as_secs()
                );
            }
            let question = (self.question)(self.ask.clone());
            let page = match self.lattice.request_of(host, &question).await {
                // Rows it has not taken in yet may come before rows it told already.
                Ok(page) if page.is_behind && Instant::now() + BEHIND_PAUSE < self.until => {
                    self.begin_anew();
                    tokio::time::sleep(BEHIND_PAUSE).await;
                    continue;
                }
                Ok(page) if page.is_complete || teller == Teller::Any => page,
                // The other one is a host of this make that knows no pages yet.
                Ok(_) | Err(RequestError::NoResponders { .. }) => return Ok(Went::Nowhere),
                Err(error) => return Ok(Went::Wrong(error)),
            };
            if page.left_out > 0 {
                bail!(
                    "{} of the entries are too large to be told in one message; raise max_payload in the NATS server's \
                     configuration",
                    page.left_out
                );
            }
            self.rows.extend(page.rows);
            if self.rows.len() > ROWS_MAX {
                bail!("there are more than {ROWS_MAX} entries; a client takes no more in");
            }
            match page.next {
                // In order, so that no host can lead in circles.
                Some(next) if next > self.ask.after => self.ask.after = next,
                Some(_) => bail!("the pages that a host tells do not go on"),
                None => return Ok(Went::Through),
            }
        }
    }
}
