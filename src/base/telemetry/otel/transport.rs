//! The way to a collector: over gRPC with the SDK's client, over HTTP with the one that this
//! program has for everything.

use std::{collections::HashMap, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, ResponseBodyTooLarge};
use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, Protocol, SpanExporter, WithExportConfig as _,
    WithHttpConfig as _, WithTonicConfig as _,
    tonic_types::{
        metadata::MetadataMap,
        transport::{Certificate, ClientTlsConfig, Identity},
    },
};
use percent_encoding::percent_decode_str;
use reqwest::{
    Url,
    header::{AUTHORIZATION, HeaderValue},
    redirect::Policy,
};
use tokio::runtime::Handle;
use tracing::warn;

use super::{
    outage::{Seen, Watched, Ways},
    settings::{Address, Signal, Variables},
};
use crate::trusted::{self, Holds};
use lattice_protocol::errors;

/// The longest answer of a collector, in bytes.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Why a signal cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("{variable} names {path}, which cannot be read: {cause}")]
    File { variable: String, path: String, cause: std::io::Error },
    #[error("{missing} is not set, and {given} does nothing without it")]
    Half { given: String, missing: String },
    #[error(
        "{variable} names {path}, which has no certificate in PEM (BEGIN CERTIFICATE): name a file that has those of the \
         authorities that the collector's own is from"
    )]
    NoCertificate { variable: String, path: String },
    #[error(
        "{certificate} and {key} are no pair, name the two files that belong together, in PEM: {}",
        errors::chain(.cause)
    )]
    NoPair { certificate: String, key: String, cause: reqwest::Error },
    #[error("its client cannot be made: {}", errors::chain(.0))]
    Client(reqwest::Error),
    #[error("its exporter cannot be made: {0}")]
    Exporter(String),
}

impl TransportError {
    /// Makes the error of an exporter that the SDK refused. Where the SDK names the URL, its text
    /// is left out: a query may have a key in it.
    fn of_sdk(error: &ExporterBuildError, to: &Address) -> Self {
        let text = error.to_string();
        Self::Exporter(match text.contains("://") {
            true => format!("the address {} in {} cannot be used", to.shown, to.variable),
            false => text,
        })
    }
}

const CLIENT_CERTIFICATE: &str = "CLIENT_CERTIFICATE";
const CLIENT_KEY: &str = "CLIENT_KEY";

/// The certificates of an exporter, in PEM.
#[derive(Default)]
struct Certificates {
    authority: Option<Vec<u8>>,
    /// The client's own certificate and its key.
    own: Option<(Vec<u8>, Vec<u8>)>,
}

impl Certificates {
    /// Reads those of a signal. Without TLS none has an effect, and what is wrong with one neither.
    fn read(variables: &Variables, signal: Signal, to: &Address) -> Result<Self, TransportError> {
        if !to.is_tls() {
            return Ok(Self::default());
        }
        let authority = authority(variables.setting(signal, "CERTIFICATE"))?;
        let certificate = file(variables.setting(signal, CLIENT_CERTIFICATE), Holds::Settings)?;
        let key = file(variables.setting(signal, CLIENT_KEY), Holds::Secrets)?;
        let own = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                let told = |cause| no_pair(variables, signal, cause);
                // Without authorities, as a machine may have none of its own.
                let builder = reqwest::Client::builder().tls_certs_only([]);
                with_own(builder, &certificate, &key)
                    .and_then(reqwest::ClientBuilder::build)
                    .map_err(told)?;
                Some((certificate, key))
            }
            (None, None) => None,
            (Some(_), None) => return Err(half(variables, signal, CLIENT_CERTIFICATE, CLIENT_KEY)),
            (None, Some(_)) => return Err(half(variables, signal, CLIENT_KEY, CLIENT_CERTIFICATE)),
        };
        Ok(Self { authority, own })
    }
}

fn file(setting: Option<(String, &str)>, holds: Holds) -> Result<Option<Vec<u8>>, TransportError> {
    let Some((variable, path)) = setting else { return Ok(None) };
    let read = trusted::read(Path::new(path), holds).map_err(|cause| TransportError::File {
        variable,
        path: path.to_owned(),
        cause,
    })?;
    read.warning.iter().for_each(|warning| warn!("{warning}"));
    Ok(Some(read.bytes))
}

/// Reads the certificates of authorities. A file without one would let a client trust nobody, or
/// those that it trusts anyway, and no collector's answer tells which file it was.
fn authority(setting: Option<(String, &str)>) -> Result<Option<Vec<u8>>, TransportError> {
    let Some(pem) = file(setting.clone(), Holds::Settings)? else { return Ok(None) };
    if reqwest::Certificate::from_pem_bundle(&pem).is_ok_and(|all| !all.is_empty()) {
        return Ok(Some(pem));
    }
    let (variable, path) = setting.unwrap_or_default();
    Err(TransportError::NoCertificate { variable, path: path.to_owned() })
}

/// Gives a client its own certificate.
fn with_own(
    client: reqwest::ClientBuilder,
    certificate: &[u8],
    key: &[u8],
) -> Result<reqwest::ClientBuilder, reqwest::Error> {
    let pem = [certificate, key].join(&b'\n');
    Ok(client.identity(reqwest::Identity::from_pem(&pem)?))
}

fn no_pair(variables: &Variables, signal: Signal, cause: reqwest::Error) -> TransportError {
    let name = |what| variables.setting(signal, what).map(|(name, _)| name).unwrap_or_default();
    TransportError::NoPair { certificate: name(CLIENT_CERTIFICATE), key: name(CLIENT_KEY), cause }
}

/// Makes the error of a client certificate of which one half is set: without the other it would be
/// dropped, and the collector would refuse for no reason that anybody sees.
fn half(variables: &Variables, signal: Signal, given: &str, missing: &str) -> TransportError {
    let name = variables.setting(signal, given).map(|(name, _)| name).unwrap_or_default();
    TransportError::Half { missing: name.replace(given, missing), given: name }
}

/// Parts the URL of a collector from its login. Returns the URL in the form that the SDK takes,
/// which percent-encodes more than people write, and the value of the header that has the login:
/// the SDK sends it nowhere, and over gRPC it would be a part of the address.
fn parted(url: &str) -> (String, Option<String>) {
    let Ok(mut url) = Url::parse(url) else { return (url.to_owned(), None) };
    let [name, password] = [url.username(), url.password().unwrap_or_default()]
        .map(|part| percent_decode_str(part).collect::<Vec<u8>>());
    if name.is_empty() && password.is_empty() {
        return (url.into(), None);
    }
    let login = STANDARD.encode([name, password].join(&b':'));
    // Both can be done with a URL that has a login.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    (url.into(), Some(format!("Basic {login}")))
}

/// The header of a login. One that a variable gives wins.
fn headers(login: Option<String>) -> HashMap<String, String> {
    login.map(|login| (AUTHORIZATION.to_string(), login)).into_iter().collect()
}

/// The same for gRPC.
fn metadata(login: Option<String>) -> MetadataMap {
    let value = login.and_then(|login| HeaderValue::try_from(login).ok());
    MetadataMap::from_headers(value.map(|value| (AUTHORIZATION, value)).into_iter().collect())
}

macro_rules! exporter {
    ($builder:expr, $variables:expr, $to:expr, $ways:expr, $signal:expr) => {{
        let (variables, to, signal, seen) = ($variables, $to, $signal, Seen::default());
        let certificates = Certificates::read(variables, signal, to)?;
        let ((url, login), timeout) = (parted(&to.url), variables.timeout(signal));
        let exporter = match to.is_grpc {
            true if to.is_tls() => $builder
                .with_tonic()
                .with_endpoint(url)
                .with_timeout(timeout)
                .with_metadata(metadata(login))
                .with_tls_config(grpc_tls(certificates))
                .build(),
            true => $builder
                .with_tonic()
                .with_endpoint(url)
                .with_timeout(timeout)
                .with_metadata(metadata(login))
                .build(),
            false => {
                let client = Http::new(certificates, timeout, seen.clone())?;
                $builder
                    .with_http()
                    .with_endpoint(url)
                    .with_protocol(Protocol::HttpBinary)
                    .with_timeout(timeout)
                    .with_headers(headers(login))
                    .with_http_client(client)
                    .build()
            }
        };
        let exporter = exporter.map_err(|error| TransportError::of_sdk(&error, to))?;
        Ok(Watched::new(exporter, signal, $ways.to(to), seen))
    }};
}

/// Makes the exporter of spans. To be called within the runtime.
pub fn spans(
    variables: &Variables,
    to: &Address,
    ways: &mut Ways,
) -> Result<Watched<SpanExporter>, TransportError> {
    exporter!(SpanExporter::builder(), variables, to, ways, Signal::Traces)
}

/// The same for counts.
pub fn metrics(
    variables: &Variables,
    to: &Address,
    ways: &mut Ways,
) -> Result<Watched<MetricExporter>, TransportError> {
    exporter!(MetricExporter::builder(), variables, to, ways, Signal::Metrics)
}

/// The same for lines of the log.
pub fn logs(
    variables: &Variables,
    to: &Address,
    ways: &mut Ways,
) -> Result<Watched<LogExporter>, TransportError> {
    exporter!(LogExporter::builder(), variables, to, ways, Signal::Logs)
}

fn grpc_tls(certificates: Certificates) -> ClientTlsConfig {
    let tls = match certificates.authority {
        Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
        None => ClientTlsConfig::new().with_enabled_roots(),
    };
    match certificates.own {
        Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
        None => tls,
    }
}

/// Sends on the runtime of the host: exporters have threads of their own, without one.
#[derive(Debug)]
struct Http {
    client: reqwest::Client,
    runtime: Handle,
    seen: Seen,
}

impl Http {
    fn new(
        certificates: Certificates,
        timeout: Duration,
        seen: Seen,
    ) -> Result<Self, TransportError> {
        // Telemetry goes where the settings say, and nowhere else: a redirection is an answer.
        let mut client = reqwest::Client::builder().timeout(timeout).redirect(Policy::none());
        if let Some(pem) = &certificates.authority {
            let authorities =
                reqwest::Certificate::from_pem_bundle(pem).map_err(TransportError::Client)?;
            client = client.tls_certs_merge(authorities);
        }
        if let Some((certificate, key)) = &certificates.own {
            client = with_own(client, certificate, key).map_err(TransportError::Client)?;
        }
        let client = client.build().map_err(TransportError::Client)?;
        Ok(Self { client, runtime: Handle::current(), seen })
    }
}

#[async_trait::async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.runtime.spawn(exchange(self.client.clone(), request)).await?;
        self.seen.set(answer.as_ref().err().map(|error| errors::chain(&**error)));
        answer
    }
}

async fn exchange(
    client: reqwest::Client,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    // The URL of a request may have a key in it.
    let answer = client.execute(request.try_into()?).await;
    let mut answer = answer.map_err(reqwest::Error::without_url)?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(Box::new(ResponseBodyTooLarge::new()));
        }
        body.extend_from_slice(&chunk);
    }
    *response.body_mut() = body.into();
    Ok(response)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::telemetry::otel::{partial, settings::tests::variables};

    #[tokio::test]
    async fn every_exporter_can_be_made_for_both_protocols() {
        for (protocol, endpoint) in [
            ("grpc", ""),
            ("http/protobuf", ""),
            ("grpc", "http://me:hunt^er2@c:4317"),
            ("http/protobuf", "https://me:h|{nt\"er2@c/x?key=1"),
            ("http/protobuf", "http://ä.example"),
            ("grpc", "unix:///run/c.sock"),
        ] {
            let variables = variables(&[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            ]);
            let mut ways = Ways::default();
            let [traces, counts, lines] = Signal::ALL.map(|signal| variables.address(signal));
            let told = spans(&variables, &traces, &mut ways).err();
            assert!(told.is_none(), "{protocol} {endpoint}: {told:?}");
            assert!(metrics(&variables, &counts, &mut ways).is_ok(), "{protocol} {endpoint}");
            assert!(logs(&variables, &lines, &mut ways).is_ok(), "{protocol} {endpoint}");
        }
    }

    #[test]
    fn the_login_of_a_url_is_sent_as_a_header_and_the_rest_is_what_the_sdk_takes() {
        for (url, rest, login) in [
            ("http://c:4318/v1/traces", "http://c:4318/v1/traces", None),
            ("https://me:hunt^er2@c/x?key=1", "https://c/x?key=1", Some("me:hunt^er2")),
            ("https://me:p%40ä@c:4317", "https://c:4317/", Some("me:p@ä")),
            ("https://me@c", "https://c/", Some("me:")),
            ("https://@c/{x}", "https://c/%7Bx%7D", None),
            ("http://ä.example/x", "http://xn--4ca.example/x", None),
            ("unix:///run/c.sock", "unix:///run/c.sock", None),
        ] {
            let login = login.map(|login| format!("Basic {}", STANDARD.encode(login)));
            assert_eq!(parted(url), (rest.to_owned(), login.clone()), "{url}");
            let sent = metadata(login.clone()).into_headers();
            let sent = sent.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
            assert_eq!(sent, login.as_deref(), "{url}");
        }
    }

    #[test]
    fn an_exporter_that_cannot_be_made_says_why_without_its_url() {
        let to = variables(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c/x?key=hunter2")])
            .address(Signal::Traces);
        for (text, told) in [
            (
                "endpoint: invalid endpoint 'https://c/x?key=hunter2': invalid uri character",
                "the address https://c/x in OTEL_EXPORTER_OTLP_ENDPOINT cannot be used",
            ),
            ("tls_config: no certificate", "tls_config: no certificate"),
        ] {
            let error = ExporterBuildError::InvalidConfiguration(text.to_owned());
            let error = TransportError::of_sdk(&error, &to).to_string();
            assert!(error.ends_with(told) && !error.contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_redirection_is_an_answer_that_is_not_followed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let answer = format!(
            "HTTP/1.1 302 Found\r\nlocation: {url}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        let none = Certificates::default();
        let client = Http::new(none, Duration::from_secs(10), Seen::default()).unwrap();
        let asked = client.send_bytes(Request::post(url).body(Bytes::new()).unwrap());
        // Nobody who comes once more is answered.
        let answering = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let _ = connection.read(&mut [0; 1024]).await.unwrap();
            connection.write_all(answer.as_bytes()).await.unwrap();
        };
        let (asked, ()) = tokio::join!(asked, answering);
        assert_eq!(asked.unwrap().status(), 302);
    }

    /// A layer of the log that has the SDK's own lines.
    struct Noting;

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Noting {
        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            partial::note(event);
        }
    }

    #[tokio::test]
    async fn what_a_collector_says_of_a_part_that_it_rejected_is_heard() {
        use opentelemetry_sdk::trace::SpanExporter as _;
        use tracing_subscriber::layer::SubscriberExt as _;
        // `partial_success { rejected_spans: 3, error_message: "no" }`
        const ANSWER: &[u8] = &[0x0a, 6, 0x08, 3, 0x12, 2, b'n', b'o'];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let variables = variables(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str())]);
        let to = variables.address(Signal::Traces);
        let seen = Seen::default();
        let client = Http::new(Certificates::default(), Duration::from_secs(10), seen).unwrap();
        let exporter = SpanExporter::builder().with_http().with_endpoint(&to.url);
        let exporter = exporter.with_protocol(Protocol::HttpBinary).with_http_client(client);
        let exporter = exporter.build().unwrap();
        let answering = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let _ = connection.read(&mut [0; 1024]).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n";
            let length = format!("content-length: {}\r\nconnection: close\r\n\r\n", ANSWER.len());
            let answer = [head.as_bytes(), length.as_bytes(), ANSWER].concat();
            connection.write_all(&answer).await.unwrap();
        };
        let _log = tracing::subscriber::set_default(tracing_subscriber::registry().with(Noting));
        let (exported, ()) = tokio::join!(exporter.export(Vec::new()), answering);
        assert!(exported.is_ok(), "{exported:?}");
        let expected = partial::Partial { rejected: 3, says: "no".to_owned() };
        assert_eq!(partial::take(Signal::Traces), Some(expected));
    }

    #[tokio::test]
    async fn a_wrong_value_of_one_signal_keeps_no_exporter_from_being_made() {
        let variables = variables(&[
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "carrier"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "ftp://nowhere"),
        ]);
        let mut ways = Ways::default();
        let [traces, counts, _] = Signal::ALL.map(|signal| variables.address(signal));
        assert!(spans(&variables, &traces, &mut ways).is_ok());
        assert!(metrics(&variables, &counts, &mut ways).is_ok());
        assert_eq!(ways.addresses(), "http://127.0.0.1:4317");
    }

    #[tokio::test]
    async fn a_client_that_gets_no_answer_says_why_without_the_login_of_the_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let seen = Seen::default();
        let none = Certificates::default();
        let client = Http::new(none, Duration::from_secs(10), seen.clone()).unwrap();
        let request = Request::post(format!("http://me:hunter2@{address}/v1/traces?key=hunter2"));
        let answer = client.send_bytes(request.body(Bytes::new()).unwrap()).await;
        assert!(answer.is_err());
        let told = format!("{seen:?}");
        assert!(told.contains("refused") && !told.contains("hunter2"), "{told}");
    }

    #[tokio::test]
    async fn a_certificate_that_is_not_there_is_named() {
        let variables = variables(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4318"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"),
        ]);
        let to = variables.address(Signal::Traces);
        let Err(error) = spans(&variables, &to, &mut Ways::default()) else {
            panic!("it is taken without its certificate")
        };
        for part in ["OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn half_a_client_certificate_is_named_where_there_is_tls() {
        const OF_ALL: &str = "OTEL_EXPORTER_OTLP";
        const OWN: &str = "OTEL_EXPORTER_OTLP_TRACES";
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("client.pem");
        trusted::create(&path, b"text").unwrap();
        for (given, missing) in [
            (format!("{OF_ALL}_CLIENT_CERTIFICATE"), format!("{OF_ALL}_CLIENT_KEY")),
            (format!("{OWN}_CLIENT_KEY"), format!("{OWN}_CLIENT_CERTIFICATE")),
        ] {
            let of = |endpoint| {
                let half = (given.as_str(), path.to_str().unwrap());
                variables(&[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), half])
            };
            let (plain, variables) = (of("http://c:4318"), of("https://c:4318"));
            let to = plain.address(Signal::Traces);
            assert!(spans(&plain, &to, &mut Ways::default()).is_ok(), "{given}");
            let to = variables.address(Signal::Traces);
            let Err(error) = spans(&variables, &to, &mut Ways::default()) else {
                panic!("{given} is taken alone")
            };
            let expected = format!("{missing} is not set, and {given} does nothing without it");
            assert_eq!(error.to_string(), expected);
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn files_that_are_no_certificates_lead_to_their_variables() {
        const OF_ALL: &str = "OTEL_EXPORTER_OTLP";
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("some.pem");
        trusted::create(&path, b"text").unwrap();
        let path = path.to_str().unwrap();
        let names = |what: &[&str]| what.iter().map(|what| format!("{OF_ALL}_{what}")).collect();
        for protocol in ["grpc", "http/protobuf"] {
            for what in [&["CERTIFICATE"][..], &[CLIENT_CERTIFICATE, CLIENT_KEY]] {
                let names: Vec<String> = names(what);
                let mut pairs = vec![
                    ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4318"),
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ];
                pairs.extend(names.iter().map(|name| (name.as_str(), path)));
                let variables = variables(&pairs);
                let to = variables.address(Signal::Traces);
                let Err(error) = spans(&variables, &to, &mut Ways::default()) else {
                    panic!("{protocol} {what:?} is taken")
                };
                let error = error.to_string();
                assert!(names.iter().all(|name| error.contains(name)), "{error}");
            }
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_file_that_others_can_write_is_refused_and_named() {
        use std::{fs, os::unix::fs::PermissionsExt as _};
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("telemetry.pem");
        fs::write(&path, "text").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        for what in ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"] {
            let name = format!("OTEL_EXPORTER_OTLP_{what}");
            let variables = variables(&[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4318"),
                (name.as_str(), path.to_str().unwrap()),
            ]);
            let to = variables.address(Signal::Traces);
            let Err(error) = spans(&variables, &to, &mut Ways::default()) else {
                panic!("{what} is taken")
            };
            assert!(
                error.to_string().contains(&format!("chmod go-w {}", path.display())),
                "{error}"
            );
        }
    }
}
