//! Finds out what listens at an address: a NATS server, something else, or nobody. Sends as little
//! as is needed for that.

use std::{io, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// How long each step may take: looking a name up, connecting, a first word.
const STEP: Duration = Duration::from_millis(1500);
/// How long a NATS server may take to greet; it speaks first, and at once.
const GREETING: Duration = Duration::from_millis(1000);
const ANSWER: Duration = Duration::from_millis(500);
/// All steps together.
const ALL: Duration = Duration::from_secs(5);
/// The longest greeting and the longest answer that are read.
const BYTES_MAX: u64 = 64 * 1024;

/// The outcome of a look at an address.
#[derive(Clone, Debug, PartialEq)]
pub enum Look {
    /// The name means nothing.
    Unresolved(String),
    /// Nobody listens, or the way there is shut.
    Nobody(String),
    /// No answer, not even a refusal.
    NoAnswer,
    /// A NATS server, with its greeting.
    Nats(Value),
    /// The monitoring page of a NATS server, which has its clients on this port.
    Monitoring { port: u64 },
    /// A web server.
    Web,
    /// It wants TLS before anything else.
    Tls,
    /// Something that says nothing, or what no NATS server says.
    Other,
}

/// Looks at `host:port`.
pub async fn look(address: &str) -> Look {
    timeout(ALL, look_closely(address)).await.unwrap_or(Look::NoAnswer)
}

async fn look_closely(address: &str) -> Look {
    let addresses = match timeout(STEP, lookup_host(address)).await {
        Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
        Ok(Err(error)) => return Look::Unresolved(error.to_string()),
        Err(_) => return Look::Unresolved("no answer of the name service".into()),
    };
    let connect = || async { timeout(STEP, TcpStream::connect(&addresses[..])).await };
    let stream = match connect().await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Look::Nobody(error.to_string()),
        Err(_) => return Look::NoAnswer,
    };
    let mut stream = BufReader::new(stream).take(BYTES_MAX);
    let mut line = Vec::new();
    let _ = timeout(GREETING, stream.read_until(b'\n', &mut line)).await;
    if let Some(greeting) =
        line.strip_prefix(b"INFO ").and_then(|info| serde_json::from_slice(info).ok())
    {
        return Look::Nats(greeting);
    }
    if !line.is_empty() {
        return Look::Other;
    }
    if let Ok(Ok(stream)) = connect().await
        && let Some(found) = ask_for_page(stream).await
    {
        return found;
    }
    match connect().await {
        Ok(Ok(stream)) => {
            if speaks_tls(stream).await {
                Look::Tls
            } else {
                Look::Other
            }
        }
        _ => Look::Other,
    }
}

/// Asks as a browser does, for a page that only NATS servers have.
async fn ask_for_page(mut stream: TcpStream) -> Option<Look> {
    let request = b"GET /varz HTTP/1.0\r\nhost: doctor\r\nconnection: close\r\n\r\n";
    let mut answer = Vec::new();
    let asked = async {
        stream.write_all(request).await?;
        stream.take(BYTES_MAX).read_to_end(&mut answer).await
    };
    let _ = timeout(ANSWER, asked).await;
    if !answer.starts_with(b"HTTP/") {
        return None;
    }
    let text = String::from_utf8_lossy(&answer);
    // A server of TLS says so in plain words.
    if text.contains("HTTPS server") {
        return Some(Look::Web);
    }
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    let page: Option<Value> = serde_json::from_str(body).ok();
    let port =
        page.filter(|page| page.get("server_id").is_some()).and_then(|page| page["port"].as_u64());
    Some(port.map_or(Look::Web, |port| Look::Monitoring { port }))
}

/// Whether a handshake gets as far as a certificate; it is never trusted, as nobody is.
async fn speaks_tls(stream: TcpStream) -> bool {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map(|config| config.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
    let (Ok(config), Ok(name)) = (config, ServerName::try_from("doctor.invalid")) else {
        return false;
    };
    let shaken =
        timeout(ANSWER, tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream))
            .await;
    match shaken {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            let got_that_far = matches!(
                inner,
                Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
            );
            got_that_far && error.kind() != io::ErrorKind::UnexpectedEof
        }
        Err(_) => false,
    }
}

/// `nats://host:port` as `host:port`.
pub fn address_of(server: &str) -> &str {
    server.split_once("://").map_or(server, |(_, address)| address)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn listening(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut asked = [0; 16];
                    if stream.read(&mut asked).await.is_ok_and(|read| read > 3)
                        && asked.starts_with(b"GET ")
                    {
                        let _ = stream.write_all(answer).await;
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn what_is_no_nats_server_is_told_apart() {
        let web = listening(b"HTTP/1.1 404 Not Found\r\n\r\n").await;
        assert_eq!(look(&web).await, Look::Web);
        let page = b"HTTP/1.0 200 OK\r\n\r\n{\"server_id\":\"N\",\"port\":4333}";
        assert_eq!(look(&listening(page).await).await, Look::Monitoring { port: 4333 });
        assert_eq!(look(&listening(b"").await).await, Look::Other);
    }

    #[tokio::test]
    async fn nobody_and_no_name_are_told_apart() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(matches!(look(&free.to_string()).await, Look::Nobody(_)));
        assert!(matches!(look("no-such-host.invalid:4222").await, Look::Unresolved(_)));
    }
}
