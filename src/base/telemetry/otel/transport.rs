//! The way to a collector: over gRPC with the SDK's client, over HTTP with the one that this
//! program has for everything.

use std::{path::Path, time::Duration};

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, ResponseBodyTooLarge};
use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, Protocol, SpanExporter, WithExportConfig as _,
    WithHttpConfig as _, WithTonicConfig as _,
    tonic_types::transport::{Certificate, ClientTlsConfig, Identity},
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
    #[error("{path} cannot be read: {cause}")]
    File { path: String, cause: std::io::Error },
    #[error("its client cannot be made: {}", errors::chain(.0))]
    Client(reqwest::Error),
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
}

/// The certificates of an exporter, in PEM.
struct Certificates {
    authority: Option<Vec<u8>>,
    /// The client's own certificate and its key.
    own: Option<(Vec<u8>, Vec<u8>)>,
}

impl Certificates {
    fn read(variables: &Variables, signal: Signal) -> Result<Self, TransportError> {
        let authority = file(variables.of_exporter(signal, "CERTIFICATE"), Holds::Settings)?;
        let certificate =
            file(variables.of_exporter(signal, "CLIENT_CERTIFICATE"), Holds::Settings)?;
        let key = file(variables.of_exporter(signal, "CLIENT_KEY"), Holds::Secrets)?;
        Ok(Self { authority, own: certificate.zip(key) })
    }
}

fn file(path: Option<&str>, holds: Holds) -> Result<Option<Vec<u8>>, TransportError> {
    let Some(path) = path else { return Ok(None) };
    let read = trusted::read(Path::new(path), holds)
        .map_err(|cause| TransportError::File { path: path.to_owned(), cause })?;
    read.warning.iter().for_each(|warning| warn!("{warning}"));
    Ok(Some(read.bytes))
}

macro_rules! exporter {
    ($builder:expr, $variables:expr, $to:expr, $ways:expr, $signal:expr) => {{
        let (variables, to, signal, seen) = ($variables, $to, $signal, Seen::default());
        let certificates = Certificates::read(variables, signal)?;
        let (url, timeout) = (to.url.as_str(), variables.timeout(signal));
        let exporter = match to.is_grpc {
            true if to.is_tls() => $builder
                .with_tonic()
                .with_endpoint(url)
                .with_timeout(timeout)
                .with_tls_config(grpc_tls(certificates))
                .build(),
            true => $builder.with_tonic().with_endpoint(url).with_timeout(timeout).build(),
            false => {
                let client = Http::new(certificates, timeout, seen.clone())?;
                $builder
                    .with_http()
                    .with_endpoint(url)
                    .with_protocol(Protocol::HttpBinary)
                    .with_timeout(timeout)
                    .with_http_client(client)
                    .build()
            }
        };
        Ok(Watched::new(exporter?, signal, $ways.to(to), seen))
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
        let mut client = reqwest::Client::builder().timeout(timeout);
        if let Some(pem) = &certificates.authority {
            let authorities =
                reqwest::Certificate::from_pem_bundle(pem).map_err(TransportError::Client)?;
            client = client.tls_certs_merge(authorities);
        }
        if let Some((mut pem, key)) = certificates.own {
            pem.push(b'\n');
            pem.extend(key);
            let own = reqwest::Identity::from_pem(&pem).map_err(TransportError::Client)?;
            client = client.identity(own);
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
    // The URL of a request may have a login in it.
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
    use super::*;
    use crate::telemetry::otel::settings::tests::variables;

    #[tokio::test]
    async fn every_exporter_can_be_made_for_both_protocols() {
        for protocol in ["grpc", "http/protobuf"] {
            let variables = variables(&[("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)]);
            let mut ways = Ways::default();
            let [traces, counts, lines] = Signal::ALL.map(|signal| variables.address(signal));
            assert!(spans(&variables, &traces, &mut ways).is_ok(), "{protocol}");
            assert!(metrics(&variables, &counts, &mut ways).is_ok(), "{protocol}");
            assert!(logs(&variables, &lines, &mut ways).is_ok(), "{protocol}");
        }
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
        let none = Certificates { authority: None, own: None };
        let client = Http::new(none, Duration::from_secs(10), seen.clone()).unwrap();
        let request = Request::post(format!("http://me:hunter2@{address}/v1/traces?key=hunter2"));
        let answer = client.send_bytes(request.body(Bytes::new()).unwrap()).await;
        assert!(answer.is_err());
        let told = format!("{seen:?}");
        assert!(told.contains("refused") && !told.contains("hunter2"), "{told}");
    }

    #[tokio::test]
    async fn a_certificate_that_is_not_there_is_named() {
        let variables = variables(&[("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem")]);
        let to = variables.address(Signal::Traces);
        let Err(error) = spans(&variables, &to, &mut Ways::default()) else {
            panic!("it is taken without its certificate")
        };
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
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
            let variables = variables(&[(name.as_str(), path.to_str().unwrap())]);
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
