//! Whether hosts believe each other: the keys they accept, and the clocks that tokens are judged
//! by.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Finding, Found,
    facts::{Facts, Told, named},
    hosts::{TELL_NOTHING, inhabited, telling},
};
use lattice_client::names::host_name;
use lattice_protocol::{
    control::{
        probe::health::{Refused, TokenHealth},
        types::HostReply,
    },
    rpc::window::CLOCK_SKEW_SECS,
};

/// Claims count by the second, and heartbeats and policies carry times.
const SKEW_MS: u64 = 2_000;
/// From here on hosts refuse tokens.
const SKEW_FAR_MS: u64 = CLOCK_SKEW_SECS * 1000;

/// A call is signed with the cluster key of the host it begins on; the host it arrives at must have
/// that among its issuers.
pub(super) fn issuers(facts: &Facts) -> Found {
    let seen = inhabited(facts)?;
    let mut signers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for host in seen.hosts.iter().filter(|host| !host.issuer.is_empty()) {
        signers.entry(&host.issuer).or_default().push(named(host));
    }
    let mut found = Vec::new();
    for (key, hosts) in &signers {
        let refusing = refusing(&seen.hosts, key);
        if !refusing.is_empty() {
            found.push(Finding::wrong(
                format!(
                    "{} refuse calls of {}, which sign with cluster key {key}",
                    refusing.join(", "),
                    hosts.join(", ")
                ),
                format!(
                    "start all with the same cluster_seed (copy host_config.json), or add {key} to cluster_issuers \
                     (WASMCLOUD_CLUSTER_ISSUERS) of those that refuse"
                ),
            ));
        }
    }
    // `host call` signs with the seed of the settings here, like one more host.
    if let Some(config) = &facts.settings.config {
        let key = &config.cluster.public;
        let refusing = refusing(&seen.hosts, key);
        if config.cluster.ad_hoc {
            found.push(Finding::note(
                "there is no cluster seed in the settings here: `host call` has nothing to sign with, and a host \
                 that is started here makes up its own. Copy host_config.json from a host of the lattice",
            ));
        } else if !refusing.is_empty() {
            found.push(Finding::wrong(
                format!(
                    "{} refuse calls that are signed with the cluster seed of the settings here (key {key})",
                    refusing.join(", ")
                ),
                "copy host_config.json from a host of the lattice, or set cluster_seed (WASMCLOUD_CLUSTER_SEED) to its value",
            ));
        }
    }
    if found.is_empty() {
        found.push(Finding::ok(match signers.len() {
            1 => "all hosts sign with the same cluster key".to_owned(),
            count => format!("hosts sign with {count} cluster keys and accept those of each other"),
        }));
    }
    Ok(found)
}

/// Between hosts of this make calls and answers are proven by the keys of sessions; whoever
/// pretends to be one of them is refused and counted.
pub(super) fn sessions(facts: &Facts) -> Found {
    let told = telling(facts)?;
    let mut found: Vec<Finding> =
        told.iter().filter_map(|(host, told)| refused(&named(host), told.health.refused)).collect();
    let heard = told.iter().flat_map(|(_, told)| &told.health.peers);
    let without = heard.filter(|peer| !peer.is_silent && !peer.has_session);
    let without: BTreeSet<&str> = without.map(|peer| peer.host_id.as_str()).collect();
    if !without.is_empty() {
        let seen = inhabited(facts)?;
        let called: Vec<&str> = without.iter().map(|id| host_name(id, &seen.hosts)).collect();
        let (of, which) = match called.len() {
            1 => ("it", "a host of 2022 to 2024, or one"),
            _ => ("them", "hosts of 2022 to 2024, or such"),
        };
        found.push(Finding::note(format!(
            "calls to {} have tokens, and answers of {of} prove nothing: {which} that no trusted cluster certified",
            called.join(", ")
        )));
    }
    if found.is_empty() {
        found.push(Finding::ok("calls and answers between hosts are proven by their sessions"));
    }
    Ok(found)
}

fn refused(host: &str, refused: Refused) -> Option<Finding> {
    let Refused { words, calls, answers } = refused;
    if refused == Refused::default() {
        return None;
    }
    Some(Finding::warning(
        format!(
            "host {host} refused {words} messages, {calls} calls and {answers} answers in the name of other hosts, which nothing \
             proved to be theirs"
        ),
        "its log says why; see who may publish below wasmbus.rpc (SECURITY.md, NATS permissions)",
    ))
}

pub(super) fn clock(facts: &Facts) -> Found {
    let told = telling(facts)?;
    let found: Vec<Finding> = told.iter().filter_map(|(host, told)| skewed(host, told)).collect();
    Ok(match (found.is_empty(), told.len()) {
        (false, _) => found,
        (true, 1) => vec![Finding::ok("the host's clock agrees with the one here")],
        (true, count) => {
            vec![Finding::ok(format!("the clocks of {count} hosts agree with the one here"))]
        }
    })
}

fn skewed(host: &HostReply, told: &Told) -> Option<Finding> {
    let by = skew(told);
    let size = by.unsigned_abs();
    if size < SKEW_MS {
        return None;
    }
    let direction = if by > 0 { "ahead of" } else { "behind" };
    let seen = format!(
        "the clock of host {} is {:.1} s {direction} the one here",
        named(host),
        size as f64 / 1000.0
    );
    let fix = "let both machines take their time from the network (systemd-timesyncd, chrony); claims and tokens expire by it";
    Some(if size >= SKEW_FAR_MS { Finding::wrong(seen, fix) } else { Finding::warning(seen, fix) })
}

/// Genuine tokens that hosts refused since they started.
pub(super) fn tokens(facts: &Facts) -> Found {
    let told = telling(facts)?;
    let told = told.into_iter().filter_map(|(host, told)| Some((host, told.health.tokens?)));
    let mut found = Vec::new();
    let mut count = 0;
    for (host, tokens) in told {
        count += 1;
        found.extend(refused_tokens(&named(host), tokens));
    }
    if count == 0 {
        return Err(Finding::skipped(TELL_NOTHING));
    }
    if found.is_empty() {
        found.push(Finding::ok("no host refused a genuine token for its time"));
    }
    Ok(found)
}

fn refused_tokens(host: &str, tokens: TokenHealth) -> Vec<Finding> {
    let TokenHealth { window_secs, untimely, last_skew_secs, repeated, is_shortened } = tokens;
    let mut found = Vec::new();
    if untimely > 0 {
        let when = if last_skew_secs > 0 { "in the future" } else { "in the past" };
        found.push(Finding::warning(
            format!(
                "host {host} refused {untimely} calls for the time of their tokens; the last was signed {} s {when}",
                last_skew_secs.unsigned_abs()
            ),
            format!(
                "let the machines of callers and hosts take their time from the network (systemd-timesyncd, chrony), and sign \
                 each call when it is made; or set token_window_secs (now {window_secs}; 0 takes any time). The host's log \
                 names the calls"
            ),
        ));
    }
    if repeated > 0 {
        found.push(Finding::warning(
            format!("host {host} refused {repeated} calls whose tokens had been used before"),
            "somebody sends recorded calls again, or a client signs once for several calls; the host's log names the calls",
        ));
    }
    if is_shortened {
        found.push(Finding::note(format!(
            "host {host} had more calls than it remembers tokens, and took none that was signed long before; \
             its window of {window_secs} s is shorter under such a load"
        )));
    }
    if window_secs == 0 {
        found.push(Finding::note(format!(
            "host {host} takes tokens of any age, as often as they come (token_window_secs is 0): recorded calls can be sent again"
        )));
    }
    found
}

/// Names the hosts that refuse calls which are signed with this cluster key.
fn refusing(hosts: &[HostReply], key: &str) -> Vec<String> {
    let told = hosts.iter().filter(|host| !host.cluster_issuers.is_empty() && host.issuer != key);
    told.filter(|host| !host.cluster_issuers.split(',').any(|issuer| issuer.trim() == key))
        .map(named)
        .collect()
}

/// By how many ms a host's clock is ahead, if the answer took its time anywhere on the way.
fn skew(told: &Told) -> i64 {
    let (now, asked, came) = (told.health.now_ms, told.asked_ms, told.came_ms);
    match now {
        0 => 0,
        now if now > came => i64::try_from(now - came).unwrap_or(i64::MAX),
        now if now < asked => -i64::try_from(asked - now).unwrap_or(i64::MAX),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Verdict, facts::Seen};
    use lattice_protocol::control::probe::health::{Health, PeerHealth};

    fn told(now_ms: u64) -> Told {
        Told { health: Health { now_ms, ..Health::default() }, asked_ms: 100_000, came_ms: 101_500 }
    }

    #[test]
    fn the_time_an_answer_takes_is_no_skew() {
        let host = HostReply { id: "N".into(), ..HostReply::default() };
        for (now, verdict) in [
            (100_700, None),
            (103_000, None),
            (98_500, None),
            (104_000, Some(Verdict::Warning)),
            (97_000, Some(Verdict::Warning)),
            (200_000, Some(Verdict::Wrong)),
            (0, None),
        ] {
            let found = skewed(&host, &told(now));
            assert_eq!(found.as_ref().map(|found| found.verdict), verdict, "{now}: {found:?}");
        }
        assert!(skewed(&host, &told(97_000)).unwrap().seen.contains("behind"));
    }

    #[test]
    fn refused_tokens_are_told_with_the_skew() {
        let quiet = TokenHealth { window_secs: 300, ..TokenHealth::default() };
        assert!(refused_tokens("N", quiet).is_empty());
        for (last_skew_secs, text) in
            [(70, "signed 70 s in the future"), (-400, "signed 400 s in the past")]
        {
            let found = refused_tokens("N", TokenHealth { untimely: 3, last_skew_secs, ..quiet });
            assert!(matches!(found.as_slice(), [one] if one.seen.ends_with(text)), "{found:?}");
            assert_eq!(found[0].verdict, Verdict::Warning);
        }
        for (tokens, verdict, text) in [
            (TokenHealth { repeated: 2, ..quiet }, Verdict::Warning, "used before"),
            (TokenHealth { is_shortened: true, ..quiet }, Verdict::Note, "shorter"),
            (TokenHealth { window_secs: 0, ..quiet }, Verdict::Note, "any age"),
        ] {
            let found = refused_tokens("N", tokens);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].verdict, verdict);
            assert!(found[0].seen.contains(text), "{found:?}");
        }
    }

    #[test]
    fn what_was_refused_and_hosts_without_sessions_are_told() {
        let health = |refused, has_session| Health {
            refused,
            peers: vec![PeerHealth { host_id: "NB".into(), has_session, ..Default::default() }],
            ..Health::default()
        };
        let none = Refused::default();
        for (refused, has_session, verdict, seen) in [
            (none, true, Verdict::Ok, "sessions"),
            (none, false, Verdict::Note, "NB"),
            (Refused { answers: 2, ..none }, true, Verdict::Warning, "2 answers"),
        ] {
            let host = HostReply { id: "NA".into(), ..HostReply::default() };
            let told = Told { health: health(refused, has_session), ..told(0) };
            let seen_of = Seen {
                hosts: vec![host],
                health: [("NA".to_owned(), Ok(told))].into(),
                ..Seen::default()
            };
            let facts = Facts { lattice: Ok(seen_of), ..Facts::default() };
            let found = sessions(&facts).unwrap();
            assert_eq!(found[0].verdict, verdict, "{found:?}");
            assert!(found[0].seen.contains(seen), "{found:?}");
        }
    }

    #[test]
    fn every_signer_must_be_an_issuer_of_every_other_host() {
        let host = |id: &str, issuer: &str, issuers: &str| HostReply {
            id: id.into(),
            issuer: issuer.into(),
            cluster_issuers: issuers.into(),
            ..HostReply::default()
        };
        let of = |hosts: Vec<HostReply>| {
            issuers(&Facts { lattice: Ok(Seen { hosts, ..Seen::default() }), ..Facts::default() })
                .unwrap()
        };
        assert_eq!(
            of(vec![host("A", "CA", "CA,CB"), host("B", "CB", "CB, CA")])[0].verdict,
            Verdict::Ok
        );
        let found = of(vec![host("A", "CA", "CA,CB"), host("B", "CB", "CB")]);
        assert!(
            matches!(found.as_slice(), [one] if one.verdict == Verdict::Wrong && one.seen.starts_with("B refuse calls of A")),
            "{found:?}"
        );
        assert_eq!(
            of(vec![host("A", "CA", "CA"), host("old", "CB", "")]).len(),
            1,
            "one that tells nothing is not judged"
        );
    }
}
