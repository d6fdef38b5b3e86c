//! The other hosts of the lattice, as far as they show that this machine was started without the
//! settings of the first one: with another cluster seed, or with a second JetStream domain of the
//! same name. Both work alone and not together, so the summary says so.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use tokio::time::timeout;

use lattice_base::{
    config::Config,
    lattice::connection::{Purpose, connect_once},
};
use lattice_client::{CLIENT_NAME, lattice::Lattice, names::listed};
use lattice_protocol::{
    control::{
        probe::health::{self, Health},
        types::HostReply,
    },
    identity::keys::LatticeName,
    lattice::subject::Subjects,
};

/// How long the others may take to tell who they are, with everything.
const LOOK: Duration = Duration::from_secs(3);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(1);
/// Hosts that are named in a warning.
const NAMED_MAX: usize = 3;

/// This host, as the others are compared with it.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    pub host_id: String,
    /// The public key of its cluster seed, and those whose calls it accepts.
    pub issuer: String,
    pub cluster_issuers: Vec<String>,
    /// Name and JetStream domain of the server that was started for it.
    pub server: Option<(String, String)>,
}

/// Another host, with what it tells of itself if it is of this make.
type Other = (HostReply, Option<Health>);

/// Asks the other hosts who they are. One that does not answer in time is left out.
pub(super) async fn ask(config: &Config, own: &Own) -> Result<Vec<Other>> {
    let asked = async {
        let nats = connect_once(Purpose::Control, &config.ctl, CLIENT_NAME).await?;
        let name = LatticeName::parse(&config.lattice).context("read the lattice name")?;
        let subjects = Subjects::new(name, &config.ctl_topic_prefix);
        let lattice = Lattice::new(nats.client, subjects, ANSWER, config.js_domain.clone());
        let hosts = lattice.hosts().await?;
        let others = hosts.into_iter().filter(|host| host.id != own.host_id);
        let others: Vec<HostReply> = others.collect();
        let ids = others.iter().map(|host| host.id.clone()).collect();
        let told = lattice.ask_each(ids, &health::Request { ask: false }).await;
        let healths = told.into_iter().map(|(_, health)| health.ok());
        anyhow::Ok(others.into_iter().zip(healths).collect())
    };
    timeout(LOOK, asked).await.context("the other hosts do not answer in time")?
}

/// Returns what shows that the settings of the first machine are missing here, with what to do.
pub(super) fn warnings(own: &Own, others: &[Other], directory: &Path) -> Vec<String> {
    let mend = format!(
        "copy host_config.json from there to {}, then `host down` and the same `host up` again",
        directory.display()
    );
    let strangers: Vec<&HostReply> =
        others.iter().map(|(host, _)| host).filter(|host| refuses(own, host)).collect();
    let doubles: Vec<&HostReply> = others
        .iter()
        .filter(|(_, health)| has_same_domain(own, health.as_ref()))
        .map(|(host, _)| host)
        .collect();
    let mut told = Vec::new();
    if !strangers.is_empty() {
        told.push(format!(
            "another cluster seed than {} of this lattice: they and this host refuse each other's calls. If they are yours, {mend}",
            named(&strangers)
        ));
    }
    if let (false, Some((_, domain))) = (doubles.is_empty(), &own.server) {
        told.push(format!(
            "JetStream domain {domain} is here and beside {} too: links and claims go now to the one, now to the other. If \
             they are yours, {mend}; or start this one with another --domain",
            named(&doubles)
        ));
    }
    told
}

/// Whether one of two hosts refuses the calls of the other.
fn refuses(own: &Own, host: &HostReply) -> bool {
    let accepted: Vec<&str> = host.cluster_issuers.split(',').map(str::trim).collect();
    let accepts_us = host.issuer == own.issuer || accepted.contains(&&*own.issuer);
    let is_accepted = host.issuer == own.issuer || own.cluster_issuers.contains(&host.issuer);
    !(host.issuer.is_empty() || accepts_us && is_accepted)
}

/// Whether another host is at another server whose JetStream domain has the name of this one's.
fn has_same_domain(own: &Own, health: Option<&Health>) -> bool {
    let (Some((name, domain)), Some(health)) = (&own.server, health) else { return false };
    health.ctl.server_domain.as_ref() == Some(domain)
        && !health.ctl.server_name.is_empty()
        && health.ctl.server_name != *name
}

fn named(hosts: &[&HostReply]) -> String {
    listed(hosts.iter().map(|host| host.friendly_name.as_str()), NAMED_MAX, hosts.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Own {
        Own {
            host_id: "N0".into(),
            issuer: "COWN".into(),
            cluster_issuers: vec!["COWN".into(), "CFRIEND".into()],
            server: Some(("core-1".into(), "core".into())),
        }
    }

    fn other(issuer: &str, accepts: &str, server: &str, domain: &str) -> Other {
        let host = HostReply {
            id: "N1".into(),
            friendly_name: "calm-otter".into(),
            issuer: issuer.into(),
            cluster_issuers: accepts.into(),
            ..HostReply::default()
        };
        let mut health = Health::default();
        health.ctl.server_name = server.into();
        health.ctl.server_domain = Some(domain.into());
        (host, Some(health))
    }

    #[test]
    fn a_machine_without_the_settings_of_the_first_is_warned() {
        for (other, expected) in [
            (other("COWN", "COWN", "extender-2", "extender"), &[][..]),
            (other("COWN", "COWN", "core-1", "core"), &[]),
            (other("CFRIEND", "CFRIEND,COWN", "extender-2", "extender"), &[]),
            (other("CELSE", "CELSE", "extender-2", "extender"), &["another cluster seed"]),
            (other("CFRIEND", "CFRIEND", "extender-2", "extender"), &["another cluster seed"]),
            (other("COWN", "COWN", "core-2", "core"), &["JetStream domain core"]),
            (
                other("CELSE", "CELSE", "core-2", "core"),
                &["another cluster seed", "JetStream domain core"],
            ),
        ] {
            let told = warnings(&own(), std::slice::from_ref(&other), Path::new("/work"));
            assert_eq!(told.len(), expected.len(), "{told:?}");
            for (told, part) in told.iter().zip(expected) {
                assert!(told.starts_with(part) && told.contains("calm-otter"), "{told}");
                assert!(told.contains("host_config.json") && told.contains("/work"), "{told}");
            }
        }
        let no_server = Own { server: None, ..own() };
        let elsewhere = other("COWN", "COWN", "core-2", "core");
        assert!(warnings(&no_server, &[elsewhere], Path::new("/")).is_empty());
    }
}
