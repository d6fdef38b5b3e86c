//! On which host something may run: what each host offers, and the first rule that keeps one from
//! offering.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;

use super::{lattice::Lattice, upload::Readers};
use lattice_base::registry::reference::Reference;
use lattice_protocol::control::{
    request::{AuctionActor, AuctionProvider},
    types::{HostReply, Pairs, is_drained},
};

/// How long hosts may take to offer, unless told otherwise.
pub const AUCTION_WAIT: Duration = Duration::from_secs(2);

/// The actor or provider that a host is looked for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    pub reference: &'a str,
    /// Of a provider.
    pub link_name: Option<&'a str>,
    pub constraints: &'a Pairs,
    /// The hosts that know it, if it is a file that was sent.
    pub readers: Option<&'a Readers>,
}

/// Why a host does not offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    pub why: String,
    /// How to deal with it.
    pub advice: &'static str,
}

impl Obstacle {
    fn new(why: impl Into<String>, advice: &'static str) -> Self {
        Self { why: why.into(), advice }
    }
}

impl Wanted<'_> {
    /// Whether a host comes into question at all.
    fn fits(&self, host: &str) -> bool {
        self.readers.is_none_or(|readers| readers.has(host))
    }

    /// The first host that offers.
    pub async fn first(&self, lattice: &Lattice, wait: Duration) -> Result<Option<String>> {
        match self.link_name {
            None => lattice.first_bid(&self.actor(), wait, |host| self.fits(host)).await,
            Some(link_name) => {
                lattice.first_bid(&self.provider(link_name), wait, |host| self.fits(host)).await
            }
        }
    }

    fn actor(&self) -> AuctionActor {
        AuctionActor { actor_ref: self.reference.to_owned(), constraints: self.constraints.clone() }
    }

    fn provider(&self, link_name: &str) -> AuctionProvider {
        AuctionProvider {
            constraints: self.constraints.clone(),
            link_name: link_name.to_owned(),
            provider_ref: self.reference.to_owned(),
        }
    }

    /// Every host of `hosts`, and what keeps it from offering, if something does. It holds an
    /// auction, so it takes as long as the slowest of them, or `wait`.
    pub async fn all(
        &self,
        lattice: &Lattice,
        hosts: &[HostReply],
        wait: Duration,
    ) -> Result<BTreeMap<String, Option<Obstacle>>> {
        // Hosts that rules exclude do not answer, so there is no use in waiting for them.
        let ruled_out: BTreeMap<&str, Obstacle> =
            hosts.iter().filter_map(|host| Some((host.id.as_str(), self.rule(host)?))).collect();
        let expected =
            hosts.iter().filter(|host| !ruled_out.contains_key(host.id.as_str())).count();
        let bids = match self.link_name {
            _ if expected == 0 => Default::default(),
            None => lattice.bids(&self.actor(), wait, expected).await?,
            Some(link_name) => lattice.bids(&self.provider(link_name), wait, expected).await?,
        };
        let obstacles = hosts.iter().map(|host| {
            let has_bid = bids.contains(&host.id) && self.fits(&host.id);
            let obstacle = ruled_out.get(host.id.as_str()).cloned();
            (host.id.clone(), (!has_bid).then(|| obstacle.unwrap_or_else(|| self.unknown())))
        });
        Ok(obstacles.collect())
    }

    /// The first rule that keeps a host from offering, as far as it can be told from here.
    fn rule(&self, host: &HostReply) -> Option<Obstacle> {
        if is_drained(&host.labels) {
            return Some(Obstacle::new(
                "it is drained and takes nothing new",
                "`host drain HOST --undo` lets a host take work again.",
            ));
        }
        for (key, value) in self.constraints {
            let advice = "Set the label with `host label HOST KEY=VALUE`, or start a host with HOST_KEY=VALUE, which makes key=VALUE.";
            match host.labels.get(key) {
                None => return Some(Obstacle::new(without_label(host, key), advice)),
                Some(found) if found != value => {
                    return Some(Obstacle::new(
                        format!("its {key} is {found}, not {value}"),
                        advice,
                    ));
                }
                Some(_) => {}
            }
        }
        if !self.fits(&host.id) {
            return Some(Obstacle::new(
                "it is of earlier years, or of another JetStream domain, and knows no files that are sent",
                "Send the file to a registry with `host push IMAGE FILE`, and start the image.",
            ));
        }
        None
    }

    /// Tells the likely obstacle where labels do not show why a host does not offer.
    fn unknown(&self) -> Obstacle {
        match Reference::parse(self.reference) {
            Ok(Reference::File(_)) => Obstacle::new(
                "it does not load files",
                "Start hosts with --allow-file-load to load files of their machine; a path without file:// sends the file to them.",
            ),
            Ok(Reference::Image(image)) if !image.contains('@') && !has_tag(&image) => {
                Obstacle::new(
                    "the image has no tag",
                    "Name a version, as in registry.example/echo:0.3.4, or start hosts with --allow-latest.",
                )
            }
            Ok(Reference::Image(image)) if image.ends_with(":latest") => Obstacle::new(
                "it does not run images tagged latest",
                "Name a version, or start hosts with --allow-latest.",
            ),
            Err(_) | Ok(_) => Obstacle::new(
                "it cannot fetch such a reference, runs it already, or did not answer in time",
                "Check the reference; --auction-timeout-ms gives hosts more time to offer.",
            ),
        }
    }

    /// The first rule that keeps a host from offering, when none did.
    pub fn obstacle(&self, host: &HostReply) -> Obstacle {
        self.rule(host).unwrap_or_else(|| self.unknown())
    }
}

/// Says that a host has no label of this key, and whether it has one that differs in its case only:
/// keys from variables are in lower case.
fn without_label(host: &HostReply, key: &str) -> String {
    match host.labels.keys().find(|found| found.eq_ignore_ascii_case(key)) {
        Some(found) => format!("it has no label {key}, but {found}"),
        None => format!("it has no label {key}"),
    }
}

fn has_tag(image: &str) -> bool {
    image.rsplit('/').next().is_some_and(|name| name.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constraint_that_no_host_meets_is_told_with_the_label_that_there_is() {
        let labels = [("room".to_owned(), "b".to_owned())].into();
        let host = HostReply { labels, ..HostReply::default() };
        for (key, value, why) in [
            ("room", "b", None),
            ("room", "a", Some("its room is b, not a")),
            ("ROOM", "b", Some("it has no label ROOM, but room")),
            ("rack", "b", Some("it has no label rack")),
        ] {
            let constraints: Pairs = [(key.to_owned(), value.to_owned())].into();
            let reference = "registry.example/echo:1";
            let wanted =
                Wanted { reference, link_name: None, constraints: &constraints, readers: None };
            let rule = wanted.rule(&host).map(|obstacle| obstacle.why);
            assert_eq!(rule.as_deref(), why, "{key}={value}");
        }
    }
}
