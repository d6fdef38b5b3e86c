//! Files from the browser into the lattice, for hosts to start.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
};
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use serde::Serialize;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use super::{ErrorBody, Refusal, actors::sender};
use crate::{
    client::upload::{Artifact, ContentError, Readers, Verified},
    http::Dashboard,
    store::artifacts::About,
};

/// The largest file, in bytes: that of 2022's dashboard.
pub const BYTES_MAX: usize = 64 << 20;
/// How long a file may take.
const TIMEOUT: Duration = Duration::from_secs(600);
/// How long a file that is refused may go on coming.
const DRAINED: Duration = Duration::from_secs(10);
/// How long nothing of it may come.
const SILENCE: Duration = Duration::from_secs(30);
/// Files at a time: each is in memory as a whole.
static ROOM: Semaphore = Semaphore::const_new(2);
/// How long a file waits for room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(30);

/// A file that hosts can start now.
#[derive(Serialize, ToSchema)]
pub struct Uploaded {
    /// What to start it by.
    reference: String,
    /// `actor` or `provider`.
    kind: String,
    name: String,
    public_key: String,
    issuer: String,
    version: String,
    revision: u64,
    /// Contracts an actor may use.
    caps: Vec<String>,
    /// Of a provider.
    contract_id: String,
    bytes: usize,
}

/// Sends a signed module or a provider archive into the lattice, where hosts of this make find it
#[utoipa::path(post, path = "/api/v1/uploads", tag = "operations",
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "the file, 64 MiB at most"),
    responses((status = 200, body = Uploaded), (status = 413, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn upload(State(dashboard): State<Dashboard>, request: Request) -> Result<Json<Uploaded>, Refusal> {
    if let Err(refusal) = check(request.headers()) {
        drain(request.into_body()).await;
        return Err(refusal);
    }
    let _room = match tokio::time::timeout(ROOM_TIMEOUT, ROOM.acquire()).await {
        Ok(Ok(room)) => room,
        _ => {
            let text = "other files are being sent; try again when they have arrived";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text));
        }
    };
    match tokio::time::timeout(TIMEOUT, store(dashboard, request.into_body()).boxed()).await {
        Ok(stored) => stored.map(Json),
        Err(_) => {
            let text = format!("the file did not arrive within {} s", TIMEOUT.as_secs());
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, text))
        }
    }
}

/// Refuses what need not be read.
fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Which no form of another page can send.
    if !matches!(header(CONTENT_TYPE), "application/octet-stream" | "application/wasm" | "application/gzip") {
        let text = "send the file as it is, with content-type: application/octet-stream";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    match header(CONTENT_LENGTH).parse::<usize>() {
        Ok(bytes) if bytes > BYTES_MAX => Err(too_large()),
        _ => Ok(()),
    }
}

fn too_large() -> Refusal {
    let text = format!(
        "the file is larger than {} MiB; send it to a registry with `host push IMAGE FILE`, and start the image",
        BYTES_MAX >> 20
    );
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text)
}

/// Reads what comes and throws it away, for a while: who is still sending does not hear the answer otherwise.
async fn drain(mut body: Body) {
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = tokio::time::timeout(DRAINED, all).await;
}

/// Reads the whole file; who sends nothing for a while makes room for others.
async fn read(mut body: Body) -> Result<Bytes, Refusal> {
    let mut content = BytesMut::new();
    loop {
        let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
            Ok(None) => return Ok(content.freeze()),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(Refusal::wrong(format!("the file did not arrive: {error}"))),
            Err(_) => {
                let text = format!("nothing of the file arrived for {} s; send it again", SILENCE.as_secs());
                return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, text));
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        if content.len() + data.len() > BYTES_MAX {
            drain(body).await;
            return Err(too_large());
        }
        content.extend_from_slice(&data);
    }
}

async fn store(dashboard: Dashboard, body: Body) -> Result<Uploaded, Refusal> {
    let content = read(body).await?;
    let bytes = content.len();
    let artifact = Artifact::verify(content).await.map_err(|error| match error {
        ContentError::Unsigned => Refusal::wrong(
            "the module is not signed, and hosts run signed modules only. Sign it with `host claims sign FILE`, and send \
             what that writes",
        ),
        error => Refusal::wrong(error.to_string()),
    })?;
    let readers = Readers::find(dashboard.lattice()).await?;
    let sent = sender(&dashboard).send(&readers, &artifact, |_, _| {}).await?;
    let About { kind, public_key, name, revision } = sent.verified.about();
    let (version, issuer, caps, contract_id) = match sent.verified {
        Verified::Actor(claims) => (claims.version, claims.issuer, claims.caps, String::new()),
        Verified::Provider { claims, .. } => (claims.version, claims.issuer, Vec::new(), claims.contract_id),
    };
    let version = version.unwrap_or_default();
    Ok(Uploaded {
        reference: sent.reference,
        kind,
        name,
        public_key,
        issuer,
        version,
        revision,
        caps,
        contract_id,
        bytes,
    })
}
