//! The bare things beside hosts, each a process of its own as a host is: an answer over plain
//! NATS, bare hyper, and `wasmtime serve`.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use lattice_base::config::{Environment as _, ProcessEnvironment};
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
};

use super::stage::{Nats, free_port, spawn};
use crate::up::install::on_path;

/// The subject on which plain requests are answered.
const ECHO_SUBJECT: &str = "plain.echo";
/// The answer of bare hyper: that of the component it is measured beside.
const GREETING: &[u8] = b"hello, world\n";
/// How long a process may take until it answers, compiling included.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(10);

/// A process that answers, until it is dropped.
#[derive(Debug)]
pub struct Bare {
    child: Child,
    began: Instant,
    /// Its subject, or its address.
    pub place: String,
}

impl Bare {
    /// Answers plain requests over NATS.
    pub async fn nats(program: &Path, nats: &Nats, client: &async_nats::Client) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["bench", "--bare-nats", &nats.address]).arg(&nats.creds);
        let mut bare = Self::start(&mut command, ECHO_SUBJECT.to_owned())?;
        while client.request(ECHO_SUBJECT, Bytes::new()).await.is_err() {
            bare.is_awaited().await?;
        }
        Ok(bare)
    }

    /// Serves a constant with hyper.
    pub async fn hyper(program: &Path) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(program);
        command.args(["bench", "--bare-http", &address]);
        Self::start(&mut command, address)?.listening().await
    }

    /// Serves a component with `wasmtime serve`.
    pub async fn wasmtime(binary: &Path, component: &Path, flags: &[&str]) -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(binary);
        command.arg("serve").args(flags).args(["--addr", &address]).arg(component);
        Self::start(&mut command, address)?.listening().await
    }

    fn start(command: &mut Command, place: String) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let child = spawn(command).with_context(|| format!("run {program}"))?;
        Ok(Self { child, began: Instant::now(), place })
    }

    /// Waits until somebody listens on its address.
    async fn listening(mut self) -> Result<Self> {
        while TcpStream::connect(&self.place).await.is_err() {
            self.is_awaited().await?;
        }
        Ok(self)
    }

    /// Waits a moment; an error if the process has ended.
    async fn is_awaited(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("what was to answer on {} ended at once ({status})", self.place);
        }
        if self.began.elapsed() > PATIENCE {
            bail!("nothing answers on {} after {} s", self.place, PATIENCE.as_secs());
        }
        tokio::time::sleep(POLL).await;
        Ok(())
    }
}

/// Finds the `wasmtime` that is on the path or named by `$WASMTIME`.
pub fn find_wasmtime() -> Option<PathBuf> {
    let vars = ProcessEnvironment.vars();
    let value = |name: &str| vars.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    if let Some(path) = value("WASMTIME") {
        return Some(path.into());
    }
    on_path(value("PATH")?, "wasmtime")
}

/// Answers each plain request with its payload, for as long as the connection lives.
pub async fn answer_plain(address: &str, creds: PathBuf) -> Result<()> {
    let nats = Nats { address: address.to_owned(), creds };
    let client = nats.connect().await?;
    let mut requests = client.subscribe(ECHO_SUBJECT).await?;
    while let Some(request) = requests.next().await {
        if let Some(reply) = request.reply {
            client.publish(reply, request.payload).await?;
        }
    }
    Ok(())
}

/// Answers each HTTP request with a constant, for ever.
pub async fn serve_constant(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                stream.set_nodelay(true)?;
                connections.spawn(connection(stream));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream) {
    // A client that goes away is no failure.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(greet)).await;
}

async fn greet(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::new(Bytes::from_static(GREETING))))
}
