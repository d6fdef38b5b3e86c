//! The way to a collector: over gRPC with the SDK's client, over HTTP with the one that this
//! program has for everything.

use std::{fs, time::Duration};

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response, ResponseBodyTooLarge};
use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithHttpConfig as _,
    WithTonicConfig as _,
    tonic_types::transport::{Certificate, ClientTlsConfig, Identity},
};
use tokio::runtime::Handle;

use super::settings::{Signal, Variables};

/// The longest answer of a collector, in bytes.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Why a signal cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    #[error("{path} cannot be read: {cause}")]
    File { path: String, cause: std::io::Error },
    #[error("its client cannot be made: {}", lattice_protocol::errors::chain(.0))]
    Client(reqwest::Error),
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
}

/// The certificates of an exporter, in PEM.
#[derive(Default)]
struct Certificates {
    authority: Option<Vec<u8>>,
    /// The client's own certificate and its key.
    own: Option<(Vec<u8>, Vec<u8>)>,
}

impl Certificates {
    fn read(variables: &Variables, signal: Signal) -> Result<Self, TransportError> {
        let authority = file(variables.of_exporter(signal, "CERTIFICATE"))?;
        let certificate = file(variables.of_exporter(signal, "CLIENT_CERTIFICATE"))?;
        let key = file(variables.of_exporter(signal, "CLIENT_KEY"))?;
        Ok(Self { authority, own: certificate.zip(key) })
    }
}

fn file(path: Option<&str>) -> Result<Option<Vec<u8>>, TransportError> {
    let Some(path) = path else { return Ok(None) };
    let read = fs::read(path);
    read.map(Some).map_err(|cause| TransportError::File { path: path.to_owned(), cause })
}

macro_rules! exporter {
    ($builder:expr, $variables:expr, $signal:expr) => {{
        let (variables, signal) = ($variables, $signal);
        let certificates = Certificates::read(variables, signal)?;
        let exporter = match variables.is_grpc(signal) {
            true if variables.is_grpc_with_tls(signal) => {
                $builder.with_tonic().with_tls_config(grpc_tls(certificates)).build()
            }
            true => $builder.with_tonic().build(),
            false => {
                let client = Http::new(certificates, variables.timeout(signal))?;
                $builder.with_http().with_http_client(client).build()
            }
        };
        Ok(exporter?)
    }};
}

/// Makes the exporter of spans. To be called within the runtime.
pub fn spans(variables: &Variables) -> Result<SpanExporter, TransportError> {
    exporter!(SpanExporter::builder(), variables, Signal::Traces)
}

/// The same for counts.
pub fn metrics(variables: &Variables) -> Result<MetricExporter, TransportError> {
    exporter!(MetricExporter::builder(), variables, Signal::Metrics)
}

/// The same for lines of the log.
pub fn logs(variables: &Variables) -> Result<LogExporter, TransportError> {
    exporter!(LogExporter::builder(), variables, Signal::Logs)
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
}

impl Http {
    fn new(certificates: Certificates, timeout: Duration) -> Result<Self, TransportError> {
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
        Ok(Self { client, runtime: Handle::current() })
    }
}

#[async_trait::async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.runtime.spawn(exchange(self.client.clone(), request)).await?
    }
}

async fn exchange(
    client: reqwest::Client,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let mut answer = client.execute(request.try_into()?).await?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
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

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Variables::of(&pairs.collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn every_exporter_can_be_made_for_both_protocols() {
        for protocol in ["grpc", "http/protobuf"] {
            let variables = variables(&[("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)]);
            assert!(spans(&variables).is_ok(), "{protocol}");
            assert!(metrics(&variables).is_ok(), "{protocol}");
            assert!(logs(&variables).is_ok(), "{protocol}");
        }
    }

    #[tokio::test]
    async fn a_certificate_that_is_not_there_is_named() {
        let variables = variables(&[("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem")]);
        let Err(error) = spans(&variables) else { panic!("it is taken without its certificate") };
        assert!(error.to_string().contains("/nowhere/ca.pem"), "{error}");
    }
}
