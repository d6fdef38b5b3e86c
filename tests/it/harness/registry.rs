//! A real registry, Debian's `docker-registry`, with its store in a directory of its own; and a
//! gateway before it that demands tokens, as the registries of cloud providers do.

use std::{
    convert::Infallible,
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU16, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, header, service::service_fn};
use hyper_util::rt::TokioIo;
use oci_client::{
    Client, Reference,
    client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol, Config, ImageLayer},
    manifest::{OCI_IMAGE_INDEX_MEDIA_TYPE, OciImageIndex, OciManifest},
    secrets::RegistryAuth,
};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::{
    eventually, example,
    nats::free_port,
    packages,
    pki::{Authority, Certified},
    process::Running,
};

/// The login of registries that want one.
pub const USER: &str = "user";
pub const PASSWORD: &str = "pass";
/// The output of `htpasswd -Bbn user pass`.
const HTPASSWD: &str = "user:$2y$05$.Q.VZS8gnqgG/rvAJCO0pOlepLslTHcIy.ey2dJewLeueE4RgWPRW\n";

pub const ACTOR_LAYER: &str = "application/vnd.module.wasm.content.layer.v1+wasm";
pub const PROVIDER_LAYER: &str = "application/vnd.wasmcloud.provider.archive.layer.v1+par";

/// The binary, found or installed once for all tests.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| packages::program("docker-registry", "docker-registry"))
}

/// A running registry; killed when dropped.
pub struct RegistryServer {
    child: Option<Running>,
    dir: TempDir,
    address: String,
    auth: RegistryAuth,
    ca: Option<PathBuf>,
}

impl RegistryServer {
    /// Plain HTTP, open to everybody.
    pub async fn start() -> Self {
        Self::with(false, None).await
    }

    /// Plain HTTP, and nothing without [`USER`] and [`PASSWORD`].
    pub async fn with_login() -> Self {
        Self::with(true, None).await
    }

    /// TLS, with a certificate of this authority.
    pub async fn with_tls(dir: &Path, authority: &Authority) -> Self {
        Self::with(false, Some((authority.certificate.clone(), authority.sign(dir, "registry"))))
            .await
    }

    async fn with(login: bool, tls: Option<(PathBuf, Certified)>) -> Self {
        let dir = TempDir::new().expect("a directory");
        let address = format!("127.0.0.1:{}", free_port());
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}/store}}}}\n",
            dir.path().display()
        );
        if login {
            let file = dir.path().join("htpasswd");
            fs::write(&file, HTPASSWD).expect("the passwords are written");
            config += &format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", file.display());
        }
        config += &format!("http:\n  addr: {address}\n  secret: tests\n");
        if let Some((_, server)) = &tls {
            let (certificate, key) = (server.certificate.display(), server.key.display());
            config += &format!("  tls: {{certificate: {certificate}, key: {key}}}\n");
        }
        fs::write(dir.path().join("config.yml"), config).expect("the configuration is written");
        let auth = match login {
            true => RegistryAuth::Basic(USER.into(), PASSWORD.into()),
            false => RegistryAuth::Anonymous,
        };
        let mut server = Self { child: None, dir, address, auth, ca: tls.map(|(ca, _)| ca) };
        server.resume().await;
        server
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The reference of an image here.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Starts it again on the same port with the same store.
    pub async fn resume(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("a log file");
        let mut command = Command::new(binary());
        command.arg("serve").arg(self.dir.path().join("config.yml")).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("the log file")).stderr(log);
        self.child = Some(Running::start(&mut command));
        eventually("the registry listens", || async { TcpStream::connect(&self.address).ok() })
            .await;
    }

    pub fn stop(&mut self) {
        self.child = None;
    }

    /// Loses all images.
    pub async fn wipe(&mut self) {
        self.stop();
        fs::remove_dir_all(self.dir.path().join("store")).expect("the store is removed");
        self.resume().await;
    }

    /// Layers were downloaded so often, and not more. The registry writes its log after its answer.
    pub async fn downloaded(&self, count: usize) {
        super::eventually("the registry has logged it", || async {
            (self.downloads() >= count).then_some(())
        })
        .await;
        assert_eq!(self.downloads(), count);
    }

    fn downloads(&self) -> usize {
        let log = fs::read_to_string(self.log_path()).expect("the log is read");
        log.lines()
            .filter(|line| line.contains("\"GET /v2/") && line.contains("/blobs/sha256:"))
            .count()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("registry.log")
    }

    fn client(&self) -> Client {
        let read = |path: &PathBuf| Certificate {
            encoding: CertificateEncoding::Pem,
            data: fs::read(path).expect("the authority's certificate"),
        };
        let protocol = if self.ca.is_some() { ClientProtocol::Https } else { ClientProtocol::Http };
        let extra_root_certificates = self.ca.iter().map(read).collect();
        Client::try_from(ClientConfig { protocol, extra_root_certificates, ..Default::default() })
            .expect("a client")
    }

    /// Pushes layers under a name (`repository:tag`); returns the digest of the manifest.
    pub async fn push(&self, name: &str, layers: &[(&str, &[u8])], config_type: &str) -> String {
        let layers: Vec<ImageLayer> = layers
            .iter()
            .map(|(media_type, data)| {
                ImageLayer::new(Bytes::copy_from_slice(data), (*media_type).to_owned(), None)
            })
            .collect();
        let config = Config::new(Bytes::from_static(b"{}"), config_type.to_owned(), None);
        let reference: Reference = self.image(name).parse().expect("a reference");
        let pushed = self
            .client()
            .push(&reference, &layers, config, &self.auth, None)
            .await
            .expect("pushed");
        pushed.manifest_url.rsplit('/').next().expect("a digest").to_owned()
    }

    /// Pushes an example actor as the tools of its years did.
    pub async fn push_actor(&self, name: &str, actor: &str) -> String {
        let path = example(actor);
        let module = fs::read(path.trim_start_matches("file://")).expect("the example actor");
        self.push(name, &[(ACTOR_LAYER, &module)], "application/vnd.wasmcloud.actor.archive.config")
            .await
    }

    /// Pushes a provider archive as the tools of its years did.
    pub async fn push_provider(&self, name: &str, archive: &[u8]) -> String {
        self.push(
            name,
            &[(PROVIDER_LAYER, archive)],
            "application/vnd.wasmcloud.provider.archive.config",
        )
        .await
    }

    /// Pushes an index of manifests: digest, operating system and architecture of each.
    pub async fn push_index(&self, name: &str, entries: &[(&str, &str, &str)]) {
        let manifests: Vec<_> = entries
            .iter()
            .map(|(digest, os, architecture)| {
                serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest,
                    "size": 1, "platform": {"os": os, "architecture": architecture}})
            })
            .collect();
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_IMAGE_INDEX_MEDIA_TYPE,
            "manifests": manifests});
        let index: OciImageIndex = serde_json::from_value(index).expect("an index");
        let reference: Reference = self.image(name).parse().expect("a reference");
        let client = self.client();
        client.store_auth_if_needed(&self.address, &self.auth).await;
        client.push_manifest(&reference, &OciManifest::ImageIndex(index)).await.expect("pushed");
    }
}

/// A gateway to a registry: it gives a token for [`USER`] and [`PASSWORD`], and takes nothing else.
/// It can also be made to answer everything with a status.
pub struct Gateway {
    address: String,
    status: Arc<AtomicU16>,
    task: tokio::task::JoinHandle<()>,
}

impl Gateway {
    pub async fn start(behind: &RegistryServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (behind, status) = (behind.address.clone(), Arc::new(AtomicU16::new(0)));
        let task = tokio::spawn(serve(listener, address, behind, Arc::clone(&status)));
        Self { address: address.to_string(), status, task }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on every answer is this status.
    pub fn answer_only(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, own: SocketAddr, behind: String, status: Arc<AtomicU16>) {
    let client = reqwest::Client::new();
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (client, behind, status) = (client.clone(), behind.clone(), Arc::clone(&status));
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let (client, behind, status) = (client.clone(), behind.clone(), status.load(Ordering::Relaxed));
                async move { Ok::<_, Infallible>(answer(&client, request, own, &behind, status).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    client: &reqwest::Client,
    request: Request<hyper::body::Incoming>,
    own: SocketAddr,
    behind: &str,
    status: u16,
) -> Response<Full<Bytes>> {
    let response = |status: StatusCode, body: Bytes| {
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        response
    };
    if let Ok(status) = StatusCode::from_u16(status) {
        return response(status, Bytes::from_static(b"out of order"));
    }
    let login = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|login| login.to_str().ok())
        .unwrap_or_default();
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    if path.starts_with("/token") {
        // "user:pass" in base64.
        return match login {
            "Basic dXNlcjpwYXNz" if path.contains("scope=repository%3A") => {
                response(StatusCode::OK, Bytes::from_static(br#"{"token":"let-me-in"}"#))
            }
            _ => response(StatusCode::UNAUTHORIZED, Bytes::new()),
        };
    }
    if login != "Bearer let-me-in" {
        let mut refusal = response(StatusCode::UNAUTHORIZED, Bytes::new());
        let challenge = format!("Bearer realm=\"http://{own}/token\",service=\"tests\"");
        refusal
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, challenge.parse().expect("a header"));
        return refusal;
    }
    let mut forwarded = client.get(format!("http://{behind}{path}"));
    if let Some(accept) = request.headers().get(header::ACCEPT) {
        forwarded = forwarded.header(header::ACCEPT, accept);
    }
    let answer = forwarded.send().await.expect("the registry answers");
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut answer = response(status, answer.bytes().await.expect("a body"));
    for name in [header::CONTENT_TYPE.as_str(), "docker-content-digest"] {
        if let Some(value) = headers.get(name) {
            answer
                .headers_mut()
                .insert(header::HeaderName::try_from(name).expect("a name"), value.clone());
        }
    }
    answer
}
