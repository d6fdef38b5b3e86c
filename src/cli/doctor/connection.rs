//! The two connections to NATS, and the server behind them.

use std::time::Duration;

use super::{
    Finding, Found,
    facts::{Facts, NotConnected, Reached, Server},
    look::Look,
};
use lattice_base::{
    config::Auth,
    lattice::connection::{ConnectError, Purpose},
};

/// Servers older than this have no direct reads, which the metadata bucket uses.
const VERSION_MIN: (u64, u64) = (2, 9);
/// Messages of a host are far smaller; below this, answers about large lattices do not fit.
const PAYLOAD_MIN: usize = 256 * 1024;
/// Clients of all years give up after two seconds, and a call may cross the way several times.
const FAR: Duration = Duration::from_millis(150);
const TOO_FAR: Duration = Duration::from_millis(500);

pub(super) fn ctl(facts: &Facts) -> Found {
    Ok(reached(facts, &facts.ctl))
}

pub(super) fn rpc(facts: &Facts) -> Found {
    Ok(reached(facts, &facts.rpc))
}

fn reached(facts: &Facts, reached: &Reached) -> Vec<Finding> {
    let addresses: Vec<&str> = reached.looks.iter().map(|(address, _)| address.as_str()).collect();
    let addresses = addresses.join(", ");
    let failure = match &reached.connected {
        Ok(nats) => {
            let info = nats.client.server_info();
            let ms = reached.took.as_millis();
            let mut found = vec![Finding::ok(format!(
                "{addresses}: NATS server {} lets us in ({ms} ms)",
                info.version
            ))];
            let others = reached
                .looks
                .iter()
                .filter(|(_, found)| !matches!(found, Look::Nats(_) | Look::Tls));
            found.extend(others.map(|(address, found)| Finding {
                verdict: super::Verdict::Note,
                ..there(reached, address, found, None)
            }));
            return found;
        }
        Err(failure) => failure,
    };
    match failure {
        NotConnected::NotTried => vec![Finding::skipped("the settings cannot be used")],
        NotConnected::TimedOut => vec![Finding::wrong(
            format!("no connection to {addresses} in time"),
            format!("look at the way to it, or name another server ({}_host)", reached.purpose),
        )],
        NotConnected::Failed(error) => failed(facts, reached, error),
    }
}

fn failed(facts: &Facts, reached: &Reached, error: &ConnectError) -> Vec<Finding> {
    let purpose = reached.purpose;
    match error {
        ConnectError::Refused { servers, cause, advice, .. } => {
            vec![Finding::wrong(
                format!("the NATS server at {servers} refuses the login: {cause}"),
                advice.clone(),
            )]
        }
        ConnectError::Tls { servers, cause, .. } => vec![tls(facts, reached, servers, cause)],
        ConnectError::Address { servers, cause, .. } => vec![Finding::wrong(
            format!("{servers} is no address of a NATS server: {cause}"),
            format!("write host, host:port or nats://host:port ({purpose}_host)"),
        )],
        ConnectError::Credentials { cause, .. } => vec![Finding::wrong(
            format!("the credentials cannot be used: {cause}"),
            format!("correct {purpose}_creds, or {purpose}_jwt and {purpose}_seed"),
        )],
        ConnectError::Unreachable { cause, .. } => reached
            .looks
            .iter()
            .map(|(address, found)| there(reached, address, found, Some(cause)))
            .collect(),
        ConnectError::Stopped { servers } => {
            vec![Finding::skipped(format!("stopped before {servers} answered"))]
        }
    }
}

/// Explains an address where no NATS server lets us in, by what listens there.
fn there(reached: &Reached, address: &str, found: &Look, cause: Option<&str>) -> Finding {
    let purpose = reached.purpose;
    let elsewhere = reached
        .elsewhere
        .as_ref()
        .map(|place| format!("a NATS server listens on {place}: name that"));
    match found {
        Look::Unresolved(why) => {
            let fix = place(purpose, "correct the name");
            Finding::wrong(format!("the name in {address} cannot be resolved: {why}"), fix)
        }
        Look::Nobody(why) => Finding::wrong(
            format!("nobody listens on {address} ({why})"),
            elsewhere.unwrap_or_else(|| {
                place(
                    purpose,
                    "start a NATS server there (`host up` does), or name the right place",
                )
            }),
        ),
        Look::NoAnswer => Finding::wrong(
            format!("{address} does not answer, not even with a refusal"),
            place(purpose, "look at firewalls on the way, or name the right place"),
        ),
        Look::Monitoring { port } => Finding::wrong(
            format!(
                "{address} is the monitoring page of a NATS server; its clients are on port {port}"
            ),
            format!("--{purpose}-port {port}, or {purpose}_port in host_config.json"),
        ),
        Look::Web => Finding::wrong(
            format!("a web server listens on {address}, not a NATS server"),
            elsewhere.unwrap_or_else(|| place(purpose, "name the right port")),
        ),
        Look::Tls => Finding::wrong(
            format!(
                "{address} wants TLS before it says a word, which NATS servers do with handshake_first"
            ),
            "let the server say its greeting first (handshake_first: auto), or name the right port",
        ),
        Look::Other => Finding::wrong(
            format!("what listens on {address} is no NATS server, or one that hangs"),
            elsewhere.unwrap_or_else(|| place(purpose, "stop it, or name the right port")),
        ),
        Look::Nats(_) => Finding::wrong(
            format!(
                "the NATS server at {address} does not take us: {}",
                cause.unwrap_or("without a reason")
            ),
            place(
                purpose,
                "see its log; is it the port for clients, not one for leaf nodes or other servers?",
            ),
        ),
    }
}

/// A fix, with the settings that name the place.
fn place(purpose: Purpose, what: &str) -> String {
    format!("{what}: --{purpose}-host and --{purpose}-port, or {purpose}_host and {purpose}_port")
}

fn tls(facts: &Facts, reached: &Reached, servers: &str, cause: &str) -> Finding {
    let purpose = reached.purpose;
    let config = facts.settings.config.as_ref();
    let settings = config.map(|config| match purpose {
        lattice_base::lattice::connection::Purpose::Control => &config.ctl.tls,
        lattice_base::lattice::connection::Purpose::Rpc => &config.rpc.tls,
    });
    let knows_tls = reached.looks.iter().any(|(_, found)| match found {
        Look::Nats(greeting) => {
            greeting["tls_required"] == true || greeting["tls_available"] == true
        }
        found => *found == Look::Tls,
    });
    let has_ca = settings.is_some_and(|tls| tls.ca.is_some());
    let has_cert = settings.is_some_and(|tls| tls.cert.is_some());
    let is_untrusted = ["UnknownIssuer", "invalid peer certificate", "BadSignature"]
        .iter()
        .any(|word| cause.contains(word));
    let fix = if !knows_tls {
        format!("the server has no TLS: unset {purpose}_tls, or switch TLS on in the server")
    } else if is_untrusted && !has_ca {
        format!("name the authority that signed the server's certificate with {purpose}_tls_ca")
    } else if is_untrusted {
        format!(
            "{purpose}_tls_ca names another authority than the one that signed the server's certificate; correct it"
        )
    } else if !has_cert {
        format!(
            "the server may ask for a client certificate: set {purpose}_tls_cert and {purpose}_tls_key"
        )
    } else {
        format!(
            "check {purpose}_tls_cert, {purpose}_tls_key and {purpose}_tls_ca against the server's tls block"
        )
    };
    Finding::wrong(format!("no secure connection to {servers}: {cause}"), fix)
}

/// Checks that the server asks for a login: a client may publish commands, and commands run code on
/// every host.
pub(super) fn login(facts: &Facts) -> Found {
    let server = facts.server.as_ref().map_err(Finding::skipped)?;
    let settings = facts.settings.config.as_ref().map(|config| &config.ctl);
    let shows_none =
        settings.is_some_and(|ctl| ctl.auth == Auth::Anonymous && ctl.tls.cert.is_none());
    if server.asks_for_login && !shows_none {
        return Ok(vec![Finding::ok("the NATS server lets in only those with a login")]);
    }
    let who = match settings.map(|ctl| ctl.host_text.as_str()) {
        Some("127.0.0.1" | "localhost" | "::1") => {
            "every user of its machine, and everybody else who reaches it,"
        }
        _ => "everybody who reaches it",
    };
    Ok(vec![Finding::warning(
        format!(
            "the NATS server lets in without a login: {who} may run code on the hosts of this lattice and gets its cluster seed"
        ),
        "give the server a login (`host up` does that for its own), and name it with ctl_creds and rpc_creds",
    )])
}

pub(super) fn server(facts: &Facts) -> Found {
    let server = facts.server.as_ref().map_err(Finding::skipped)?;
    let mut found = about(server);
    if found.is_empty() {
        let domain = server
            .domain
            .as_deref()
            .map(|domain| format!(", JetStream domain {domain}"))
            .unwrap_or_default();
        let cluster =
            server.cluster.as_deref().map(|name| format!(", cluster {name}")).unwrap_or_default();
        let way = server
            .round_trip
            .map(|time| format!(", {} away and back", milliseconds(time)))
            .unwrap_or_default();
        found.push(Finding::ok(format!(
            "{} {}, messages up to {} KiB{domain}{cluster}{way}",
            server.name,
            server.version,
            server.max_payload / 1024
        )));
    }
    Ok(found)
}

fn about(server: &Server) -> Vec<Finding> {
    let mut found = Vec::new();
    if version(&server.version).is_some_and(|version| version < VERSION_MIN) {
        found.push(Finding::wrong(
            format!("NATS server {} is too old: the metadata bucket needs 2.9", server.version),
            "install a newer nats-server (`host up` brings one)",
        ));
    }
    if !server.headers {
        found.push(Finding::wrong(
            "the NATS server has no message headers, so nobody is told that nobody listens",
            "remove no_header_support from its configuration, or install a newer one",
        ));
    }
    if server.max_payload < PAYLOAD_MIN {
        found.push(Finding::warning(
            format!("the NATS server takes messages up to {} KiB only", server.max_payload / 1024),
            "raise max_payload in its configuration; the default is 1MB",
        ));
    }
    if server.is_leaving {
        found.push(Finding::warning(
            "the NATS server is about to stop (lame duck mode)",
            "connect to another server of its cluster",
        ));
    }
    match server.round_trip {
        None => found.push(Finding::warning(
            "messages to the server do not come back in time",
            "is it overloaded? Look at its log, and at the line to it",
        )),
        Some(time) if time >= TOO_FAR => found.push(Finding::warning(
            format!("the NATS server is {} away and back; commands and calls run out of time", milliseconds(time)),
            "put a leaf node beside the host (`host up --hub`), or raise rpc_timeout_ms and --timeout-ms",
        )),
        Some(time) if time >= FAR => {
            found.push(Finding::note(format!("the NATS server is {} away and back", milliseconds(time))));
        }
        Some(_) => {}
    }
    found
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Major and minor number.
fn version(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.trim_start_matches('v').split(['.', '-']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn a_server_is_judged_by_what_it_says() {
        let fine = Server {
            version: "2.10.0".into(),
            headers: true,
            max_payload: 1 << 20,
            round_trip: Some(Duration::from_millis(1)),
            ..Server::default()
        };
        assert_eq!(about(&fine), []);
        let worst = |server: Server| about(&server).iter().map(|found| found.verdict).max();
        assert_eq!(worst(Server { version: "2.8.4".into(), ..fine.clone() }), Some(Verdict::Wrong));
        assert_eq!(worst(Server { version: "nonsense".into(), ..fine.clone() }), None);
        assert_eq!(worst(Server { headers: false, ..fine.clone() }), Some(Verdict::Wrong));
        assert_eq!(worst(Server { max_payload: 1024, ..fine.clone() }), Some(Verdict::Warning));
        assert_eq!(worst(Server { round_trip: Some(FAR), ..fine.clone() }), Some(Verdict::Note));
        assert_eq!(worst(Server { round_trip: None, ..fine }), Some(Verdict::Warning));
    }
}
