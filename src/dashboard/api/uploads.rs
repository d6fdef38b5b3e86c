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
use bytes::Bytes;
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use serde::Serialize;
use tokio::{sync::Semaphore, time::Instant};
use utoipa::ToSchema;

use super::{ErrorBody, Refusal, actors::sender};
use crate::Dashboard;
use lattice_base::{
    budget::{Budget, Buffer},
    store::artifacts::About,
};
use lattice_client::upload::{Artifact, ContentError, Readers, Verified};

/// The largest file, in bytes: that of 2022's dashboard.
pub const BYTES_MAX: usize = 64 << 20;
/// How long a file may take.
const TIMEOUT: Duration = Duration::from_secs(600);
/// How long nothing of it may come.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a file may be slow at the beginning, and how many bytes per second have to come on
/// average after that.
const GRACE: Duration = Duration::from_secs(5);
const RATE: u64 = 32 << 10;
/// Files at a time.
static FILES: Semaphore = Semaphore::const_new(16);
/// How long a file waits for others to make room.
const ROOM_TIMEOUT: Duration = Duration::from_secs(30);

/// A file that hosts can start now.
#[derive(Serialize, ToSchema)]
pub struct Uploaded {
    /// The reference to start it by.
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
pub async fn upload(
    State(dashboard): State<Dashboard>,
    request: Request,
) -> Result<Json<Uploaded>, Refusal> {
    check(request.headers())?;
    let _file = match tokio::time::timeout(ROOM_TIMEOUT, FILES.acquire()).await {
        Ok(Ok(file)) => file,
        _ => return Err(crowded("other files are being sent; try again when they have arrived")),
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
    let [kind, length] = [CONTENT_TYPE, CONTENT_LENGTH]
        .map(|name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default());
    // Which no form of another page can send.
    if !matches!(kind, "application/octet-stream" | "application/wasm" | "application/gzip") {
        let text = "send the file as it is, with content-type: application/octet-stream";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
    }
    match length.parse::<usize>() {
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

fn too_slow() -> Refusal {
    let text = format!(
        "the file came with less than {} KiB/s; send it again over a better line",
        RATE >> 10
    );
    Refusal::new(StatusCode::REQUEST_TIMEOUT, text)
}

fn crowded(text: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
}

/// Whether a file comes so slowly that it has to make room for others.
fn is_too_slow(bytes: usize, took: Duration) -> bool {
    took > GRACE && (bytes as u64) < RATE * took.as_secs()
}

/// Reads the whole file. The bytes that have arrived count against the budget of all payloads.
async fn read(budget: &Budget, mut body: Body) -> Result<Bytes, Refusal> {
    let mut content = Buffer::new(budget, None);
    // Moved on by what the file had to wait here.
    let mut began = Instant::now();
    loop {
        let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
            Ok(None) => return Ok(content.finish()),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                return Err(Refusal::wrong(format!("the file did not arrive: {error}")));
            }
            Err(_) => return Err(too_slow()),
        };
        let Ok(data) = frame.into_data() else { continue };
        let length = content.len() + data.len();
        if length > BYTES_MAX {
            return Err(too_large());
        }
        if is_too_slow(length, began.elapsed()) {
            return Err(too_slow());
        }
        let arrived = Instant::now();
        content
            .push(&data, arrived + ROOM_TIMEOUT)
            .await
            .map_err(|shortage| crowded(shortage.to_string()))?;
        began += arrived.elapsed();
    }
}

async fn store(dashboard: Dashboard, body: Body) -> Result<Uploaded, Refusal> {
    let content = read(&dashboard.parts().context.budget, body).await?;
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
        Verified::Provider { claims, .. } => {
            (claims.version, claims.issuer, Vec::new(), claims.contract_id)
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_be_slow_for_a_moment_only() {
        let seconds = Duration::from_secs;
        for (bytes, took, expected) in [
            (0, 5, false),
            (0, 6, true),
            (100 << 10, 6, true),
            (200 << 10, 6, false),
            (10 << 20, 300, false),
            (9 << 20, 300, true),
        ] {
            assert_eq!(is_too_slow(bytes, seconds(took)), expected, "{bytes} {took}");
        }
    }
}
