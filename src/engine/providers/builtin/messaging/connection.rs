//! The NATS connection of a link: the host's, or one of its own with its own user.

use std::{io::Write, sync::Arc, time::Duration};

use async_nats::{AuthError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use percent_encoding::percent_decode_str;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tempfile::NamedTempFile;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::providers::{
    bounds::{Bounds, OwnSockets},
    builtin::{
        LinkError,
        values::{Values, wrong},
    },
};
use lattice_base::lattice::connection::{confirm_or_denied, without_passwords};
use lattice_protocol::{errors::chain, links::LinkDefinition};

/// How long one attempt to reach a server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages of one subscription that wait in this process. Beyond it the client drops them and says
/// so.
const SUBSCRIPTION_CAPACITY: usize = 4096;
/// A day; nobody means more.
const PING_INTERVAL_MAX: u64 = 24 * 60 * 60;
/// How many different refusals of the server are remembered.
const DENIED_MAX: usize = 64;

/// A server of the link's own, and how to log in.
pub(super) struct Server {
    addresses: Vec<ServerAddr>,
    /// For people.
    shown: String,
    auth: Auth,
    ping_interval: Option<Duration>,
    ca_file: Option<String>,
}

/// Never shown.
enum Auth {
    /// User and password or a token in the address, or nothing.
    Address,
    Jwt {
        jwt: String,
        key: Arc<nkeys::KeyPair>,
    },
    Nkey {
        seed: String,
    },
}

impl Auth {
    fn read(jwt: Option<String>, seed: Option<String>) -> Result<Self, LinkError> {
        let seed = match (&jwt, seed) {
            (_, Some(seed)) => seed,
            (None, None) => return Ok(Self::Address),
            (Some(_), None) => {
                return Err(LinkError::Values(
                    "link value client_jwt needs the link value client_seed".into(),
                ));
            }
        };
        let key = nkeys::KeyPair::from_seed(&seed).map_err(|e| {
            LinkError::Values(format!("link value client_seed is no seed of an nkey: {e}"))
        })?;
        Ok(jwt.map_or(Self::Nkey { seed }, |jwt| Self::Jwt { jwt, key: Arc::new(key) }))
    }
}

fn addresses(uris: &[String]) -> Result<Vec<ServerAddr>, LinkError> {
    let read = uris.iter().zip(1..).map(|(uri, number)| {
        // Not shown: a password with a comma in it makes a part of it look like a host.
        uri.parse().map_err(|e| {
            LinkError::Values(format!(
                "link value uri: address number {number} is none of a NATS server: {e}; use \
                 nats://host:port, and in passwords %2C for a comma"
            ))
        })
    });
    read.collect()
}

impl Server {
    /// Reads the server from the link values; `None` for the host's connection.
    pub(super) fn read(values: &Values) -> Result<Option<Self>, LinkError> {
        // A value of another form is not repeated: addresses may hold passwords.
        let uris = values.list("uri").map_err(|_| {
            LinkError::Values(
                "link value uri is neither a comma list nor a JSON array of texts, nats://host:port each".into(),
            )
        })?;
        let (jwt, seed) = (values.text("client_jwt"), values.text("client_seed"));
        let ping_interval = match values.number("ping_interval_sec")? {
            Some(seconds) if !(1..=PING_INTERVAL_MAX).contains(&seconds) => {
                return Err(wrong(
                    "ping_interval_sec",
                    &seconds.to_string(),
                    "seconds, 1 to 86400",
                ));
            }
            seconds => seconds.map(Duration::from_secs),
        };
        let ca_file = values.text("ca_file");
        let Some(uris) = uris.filter(|uris| !uris.is_empty()) else {
            let needs_uri = [
                ("client_jwt", jwt.is_some()),
                ("client_seed", seed.is_some()),
                ("ping_interval_sec", ping_interval.is_some()),
                ("ca_file", ca_file.is_some()),
            ];
            if let Some((name, _)) = needs_uri.iter().find(|(_, is_set)| *is_set) {
                return Err(LinkError::Values(format!(
                    "link value {name} needs the link value uri (nats://host:port): without it the \
                     host's own connection is used"
                )));
            }
            return Ok(None);
        };
        let (addresses, auth) = (addresses(&uris)?, Auth::read(jwt, seed)?);
        let shown = without_passwords(&uris);
        Ok(Some(Self { addresses, shown, auth, ping_interval, ca_file }))
    }

    /// Looks where the addresses lead: to a NATS server that the host uses itself, or not. Other
    /// sockets of the host are refused.
    async fn is_the_hosts(&self, sockets: &OwnSockets) -> Result<bool, LinkError> {
        let mut is_the_hosts = false;
        for address in &self.addresses {
            // A name without an address now has none for the connection, either; and the server
            // says who it is.
            let found = tokio::net::lookup_host((address.host(), address.port())).await;
            for found in found.into_iter().flatten() {
                if sockets.takes_clients(found) {
                    is_the_hosts = true;
                } else if sockets.contains(found) {
                    return Err(LinkError::Values(format!(
                        "link value uri: {} leads to a socket of the host itself, which no link may use",
                        self.shown
                    )));
                }
            }
        }
        Ok(is_the_hosts)
    }

    /// Connects for a link. `host` is the host's own connection.
    pub(super) async fn connect(
        self,
        client_name: String,
        link: Arc<LinkDefinition>,
        bounds: &Bounds,
        host: &async_nats::Client,
    ) -> Result<Own, LinkError> {
        let mut is_the_hosts = self.is_the_hosts(&bounds.sockets).await?;
        let authority = match &self.ca_file {
            Some(path) => Some(copy(&bounds.paths.read("ca_file", path).await?)?),
            None => None,
        };
        let (denials, denied) = watch::channel(Vec::new());
        let mut options = ConnectOptions::new()
            .name(client_name)
            .connection_timeout(CONNECT_TIMEOUT)
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .event_callback(move |event| {
                report(&event, &link, &denials);
                std::future::ready(())
            });
        if let Some(interval) = self.ping_interval {
            options = options.ping_interval(interval);
        }
        if let Some(copy) = &authority {
            options = options.add_root_certificates(copy.path().to_owned());
        }
        options = match self.auth {
            Auth::Jwt { jwt, key } => options.jwt(jwt, move |nonce| {
                let key = Arc::clone(&key);
                async move { key.sign(&nonce).map_err(AuthError::new) }
            }),
            Auth::Nkey { seed } => options.nkey(seed),
            // The client library itself ignores what stands before the @.
            Auth::Address => {
                match self
                    .addresses
                    .iter()
                    .find_map(|address| Some((address.username()?, address.password())))
                {
                    Some((user, Some(password))) => {
                        options.user_and_password(unescaped(user), unescaped(password))
                    }
                    Some((token, None)) => options.token(unescaped(token)),
                    None => options,
                }
            }
        };
        let servers = self.shown;
        match options.connect(&self.addresses[..]).await {
            Ok(client) => {
                // Equal ids mean the host's server, whatever way the connection took.
                is_the_hosts |= client.server_info().server_id == host.server_info().server_id;
                Ok(Own { client, denied, servers, is_the_hosts, _authority: authority })
            }
            Err(failure) => Err(explain(&failure, &servers)),
        }
    }
}

/// A connection of the link's own.
pub(super) struct Own {
    pub client: async_nats::Client,
    denied: watch::Receiver<Vec<String>>,
    servers: String,
    /// It leads to a server of the host: there the lattice's subjects are as they are on the host's
    /// own connection.
    pub is_the_hosts: bool,
    /// The certificates read from the link value `ca_file`, for when it connects again.
    _authority: Option<NamedTempFile>,
}

/// Keeps what was read and checked: the client library reads the file at each connect, and another
/// one may be there then.
fn copy(pem: &[u8]) -> Result<NamedTempFile, LinkError> {
    if !matches!(CertificateDer::pem_slice_iter(pem).next(), Some(Ok(_))) {
        return Err(LinkError::Unavailable(
            "the file of link value ca_file holds no certificate (-----BEGIN CERTIFICATE-----)"
                .into(),
        ));
    }
    let copied = NamedTempFile::new().and_then(|mut file| file.write_all(pem).map(|()| file));
    copied.map_err(|error| {
        LinkError::Unavailable(format!("link value ca_file: keep what was read: {error}"))
    })
}

impl Own {
    /// Waits until the server has taken the subscriptions made before.
    pub(super) async fn confirm(&self) -> Result<(), LinkError> {
        // Only requests need an inbox, so one that is forbidden stands in nobody's way.
        let confirmed = confirm_or_denied(&self.client, &self.denied).await;
        confirmed.map_err(|e| LinkError::Unavailable(format!("subscribe at {}: {e}", self.servers)))
    }
}

/// Explains a failed connection. The server's answer may be another tomorrow: users and
/// certificates change there, and links stay.
fn explain(failure: &async_nats::ConnectError, servers: &str) -> LinkError {
    let cause = chain(failure);
    match failure.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            LinkError::Unavailable(format!(
                "the NATS server at {servers} refuses this link: {cause}; check the link values client_jwt and client_seed, or \
             the user in uri"
            ))
        }
        ConnectErrorKind::ServerParse => LinkError::Values(format!(
            "link value uri: {servers} is no address of a NATS server: {cause}"
        )),
        ConnectErrorKind::Tls => LinkError::Unavailable(format!(
            "no secure connection to the NATS server at {servers}: {cause}; if its certificate comes from a private authority, \
             name that with the link value ca_file"
        )),
        _ => LinkError::Unavailable(format!(
            "connect to the NATS server at {servers}: {cause}; is it running, and are the link values uri and ca_file right?"
        )),
    }
}

fn report(event: &Event, link: &LinkDefinition, denied: &watch::Sender<Vec<String>>) {
    let (actor_id, link_name) = (&link.actor_id, &link.link_name);
    match event {
        Event::Connected => {
            denied.send_modify(Vec::clear);
            info!(%actor_id, %link_name, "NATS connection of a link established");
        }
        Event::Disconnected => {
            warn!(%actor_id, %link_name, "NATS connection of a link lost, reconnecting")
        }
        Event::SlowConsumer(_) => {
            warn!(%actor_id, %link_name, "messages were dropped: the actor does not handle them fast enough");
        }
        Event::ServerError(error) => {
            let text = error.to_string();
            warn!(%actor_id, %link_name, error = %text, "NATS server of a link reports an error");
            denied.send_if_modified(|denied| {
                let is_denial = text.to_lowercase().contains("permissions violation")
                    && denied.len() < DENIED_MAX;
                if is_denial {
                    denied.push(text);
                }
                is_denial
            });
        }
        Event::ClientError(error) => {
            warn!(%actor_id, %link_name, %error, "NATS client of a link reports an error")
        }
        Event::LameDuckMode | Event::Draining | Event::Closed => {}
    }
}

/// User and password of an address without the `%41` spellings.
fn unescaped(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::builtin::{messaging::SPEC, values::tests::link};

    const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";

    fn read(values: &[(&str, &str)]) -> Result<Option<Server>, LinkError> {
        let link = link(&SPEC, values);
        Server::read(&Values::read(&SPEC, &link)?)
    }

    #[test]
    fn a_server_of_its_own_is_read_from_every_spelling() {
        assert!(read(&[]).unwrap().is_none());
        let json = format!(
            r#"{{"cluster_uris": ["a:1", "nats://u:p@b:2"], "auth_jwt": "ey", "auth_seed": "{SEED}"}}"#
        );
        let from_json = read(&[("config_json", &json)]).unwrap().unwrap();
        assert_eq!((from_json.addresses.len(), from_json.shown.as_str()), (2, "a:1,nats://b:2"));
        assert!(matches!(from_json.auth, Auth::Jwt { .. }));
        let single =
            read(&[("URI", "a:1, b:2"), ("CLIENT_SEED", SEED), ("ping_interval_sec", "7")])
                .unwrap()
                .unwrap();
        assert!(matches!(single.auth, Auth::Nkey { .. }) && single.addresses.len() == 2);
        assert_eq!(single.ping_interval, Some(Duration::from_secs(7)));
    }

    #[test]
    fn mistakes_are_named_and_secrets_are_not() {
        for (values, expected) in [
            (&[("client_jwt", "secret")][..], "needs the link value uri"),
            (&[("uri", "a"), ("client_jwt", "secret")], "client_seed"),
            (&[("uri", "a"), ("client_seed", "secret")], "client_seed is no seed"),
            (&[("uri", "a, http://me:secret@a")], "address number 2"),
            (&[("uri", "nats://me:secret,more@a")], "address number 1"),
            (&[("config_json", r#"{"uri": {"nats://me:secret@a": 1}}"#)], "link value uri"),
            (&[("config_json", r#"{"cluster_uris": [["me:secret@a"]]}"#)], "link value uri"),
            (&[("uri", "a"), ("ping_interval_sec", "0")], "1 to 86400"),
        ] {
            let error = read(values).err().expect(expected).to_string();
            assert!(error.contains(expected) && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn users_and_passwords_are_unescaped() {
        assert_eq!(unescaped("p%40ss%2fw%C3%BC+%"), "p@ss/wü+%");
    }
}
