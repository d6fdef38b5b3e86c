//! The asking side: one host of this user after the other.

use std::{io, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{
    PAYLOAD_BYTES_MAX, Question, Reply, SignError, Signed, Unsigned,
    place::{self, Reachable},
};
use lattice_base::presence;

/// How long one host may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// A signed token has some hundred bytes.
const REPLY_BYTES_MAX: u64 = 64 << 10;

pub(super) async fn sign(dir: &Path, call: &Unsigned<'_>) -> Result<Signed, SignError> {
    if call.payload.len() > PAYLOAD_BYTES_MAX {
        return Err(SignError::TooLarge(call.payload.len()));
    }
    let running = presence::running(dir);
    if running.is_empty() {
        return Err(SignError::NoHost);
    }
    let question = Question {
        lattice: call.lattice.to_owned(),
        origin: call.origin.clone(),
        target: call.target.clone(),
        operation: call.operation.to_owned(),
        payload: STANDARD.encode(call.payload),
        id: call.id.to_owned(),
        issuers: call.issuers.to_vec(),
    };
    let mut causes = Vec::new();
    for host in running {
        let asked = timeout(DEADLINE, ask(&place::of_host(dir, &host), &question)).await;
        causes.push(match asked {
            Ok(Ok(Reply::Signed { encoded_claims, host_id })) => {
                return Ok(Signed { encoded_claims, host_id });
            }
            Ok(Ok(Reply::Refused { error })) => error,
            Ok(Err(error)) => format!("host {host} cannot be asked: {error}"),
            Err(_) => format!("host {host} does not answer"),
        });
    }
    Err(SignError::Refused { lattice: call.lattice.to_owned(), causes })
}

async fn ask(path: &Path, question: &Question) -> io::Result<Reply> {
    let reachable = Reachable::new(path)?;
    let stream = UnixStream::connect(&reachable.path).await?;
    // Nobody else gets to see payloads.
    if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "its socket belongs to another user",
        ));
    }
    let (reading, mut writing) = stream.into_split();
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    writing.write_all(&line).await?;
    let mut reply = Vec::new();
    BufReader::new(reading.take(REPLY_BYTES_MAX)).read_until(b'\n', &mut reply).await?;
    Ok(serde_json::from_slice(&reply)?)
}
