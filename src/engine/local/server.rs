//! The host's side: listens on its socket, signs what its user asks for.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{anyhow, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::{
    PAYLOAD_BYTES_MAX, Question, Reply,
    place::{self, Reachable},
};
use lattice_protocol::{
    identity::{
        claims::now,
        keys::{ActorId, HostId, ProviderId},
    },
    rpc::antiforgery::Signer,
};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4;
/// How long one connection may take, from the first byte to the last.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long to wait when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A question with the largest payload, in base64, and everything around it.
const QUESTION_BYTES_MAX: usize = PAYLOAD_BYTES_MAX / 3 * 4 + (64 << 10);
/// Operations and ids are short.
const WORD_BYTES_MAX: usize = 1024;

/// A host that can be asked for signatures; its socket is removed when dropped.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    host_id: HostId,
    lattice: String,
    signer: Signer,
}

impl Server {
    /// Opens the socket of a host whose presence is announced in `dir`.
    pub fn open(dir: &Path, host_id: HostId, lattice: String, signer: Signer) -> io::Result<Self> {
        place::remove_stale(dir);
        let path = place::of_host(dir, host_id.as_str());
        // Of an earlier run with the same key; the lock beside it says that this is the only one
        // now.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(Reachable::new(&path)?.path)?;
        let server = Self { listener, path, host_id, lattice, signer };
        // A foreign process that connects before this is recognised by its owner.
        fs::set_permissions(&server.path, fs::Permissions::from_mode(0o600))?;
        Ok(server)
    }

    /// Answers until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let server = std::sync::Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = connections.join_next(), if !connections.is_empty() => {
                    if let Err(failure) = done {
                        error!(error = %failure, "answering a request for a signature panicked");
                    }
                }
                accepted = server.listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                    Ok((stream, _)) => {
                        let server = std::sync::Arc::clone(&server);
                        connections.spawn(async move {
                            match timeout(DEADLINE, server.serve(stream)).await {
                                Ok(Ok(())) => {}
                                Ok(Err(error)) => debug!(%error, "a request for a signature was not answered"),
                                Err(_) => debug!("a request for a signature took too long"),
                            }
                        });
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept requests for signatures, trying on");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        connections.shutdown().await;
    }

    async fn serve(&self, stream: UnixStream) -> io::Result<()> {
        if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it comes from another user",
            ));
        }
        let (reading, mut writing) = stream.into_split();
        let mut line = Vec::new();
        // The end of the line counts as well.
        let limit = QUESTION_BYTES_MAX as u64 + 1;
        BufReader::new(reading.take(limit)).read_until(b'\n', &mut line).await?;
        let reply = match line.pop() {
            None => return Ok(()),
            Some(b'\n') => match serde_json::from_slice(&line) {
                Ok(question) => self.answer(&question),
                Err(error) => Err(anyhow!("the question cannot be read: {error}")),
            },
            Some(_) => Err(anyhow!(
                "the question does not end, or has more than {QUESTION_BYTES_MAX} bytes"
            )),
        };
        let reply = reply.unwrap_or_else(|error| Reply::Refused { error: error.to_string() });
        let mut reply = serde_json::to_vec(&reply)?;
        reply.push(b'\n');
        writing.write_all(&reply).await?;
        writing.shutdown().await
    }

    /// Signs what is asked for; the error is sent back as it is.
    fn answer(&self, question: &Question) -> anyhow::Result<Reply> {
        ensure!(
            question.lattice == self.lattice,
            "host {} is in lattice {}",
            self.host_id,
            self.lattice
        );
        let issuer = self.signer.issuer().as_str();
        if !question.issuers.is_empty()
            && !question.issuers.iter().any(|accepted| accepted == issuer)
        {
            bail!("host {} signs as {issuer}, which is not accepted there", self.host_id);
        }
        let target = &question.target.public_key;
        if ActorId::parse(target).is_err() && ProviderId::parse(target).is_err() {
            bail!("the target is neither an actor nor a provider");
        }
        for (what, word) in [("operation", &question.operation), ("id", &question.id)] {
            if word.is_empty() || word.len() > WORD_BYTES_MAX {
                bail!("the {what} is empty or has more than {WORD_BYTES_MAX} bytes");
            }
        }
        let payload = STANDARD
            .decode(&question.payload)
            .map_err(|error| anyhow!("the payload is no base64: {error}"))?;
        let Question { origin, target, operation, id, .. } = question;
        let encoded_claims = self.signer.sign(origin, target, operation, &payload, id, now());
        Ok(Reply::Signed { encoded_claims, host_id: self.host_id.to_string() })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}
