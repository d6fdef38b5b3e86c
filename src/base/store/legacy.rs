//! Brings the metadata of a 2022 lattice over: stream `LATTICECACHE_{lattice}`, subjects
//! `lc.{lattice}.>` (lattice protocol, section 4.5), into the bucket of today.
//!
//! Only keys the bucket does not have are written, so running it again changes nothing. The old
//! stream is left where it is unless the operator asks for its removal (`legacy_cache_delete`):
//! hosts of 2022 in the same lattice still need it.

use std::time::Duration;

use async_nats::jetstream::{Context, ErrorCode, consumer::push, context::GetStreamErrorKind};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Map, Value};
use tracing::{info, warn};

use super::{Error, Expect, Store};
use lattice_protocol::{links::Claims, store::keys};

/// How long the replay may pause before it counts as ended.
const REPLAY_SILENCE: Duration = Duration::from_secs(2);

/// Migrates what there is; a lattice without the old stream is the normal case and costs one
/// request.
pub async fn migrate(context: &Context, store: &Store, lattice: &str, delete: bool) {
    let name = format!("LATTICECACHE_{lattice}");
    let stream = match context.get_stream(&name).await {
        Ok(stream) => stream,
        Err(e) => {
            let absent = matches!(e.kind(), GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND);
            if !absent {
                warn!(stream = %name, error = %e, "cannot look for the metadata of older hosts");
            }
            return;
        }
    };
    let total = stream.cached_info().state.messages;
    warn!(stream = %name, messages = total, "metadata of older hosts found, copying what is missing");
    let copied = match copy(context, store, &stream, lattice).await {
        Ok(copied) => copied,
        Err(error) => {
            return warn!(stream = %name, %error, "copy of the metadata of older hosts stopped, it continues at the next start");
        }
    };
    info!(stream = %name, copied, "metadata of older hosts copied");
    if delete {
        match context.delete_stream(&name).await {
            Ok(_) => info!(stream = %name, "metadata stream of older hosts deleted"),
            Err(error) => {
                warn!(stream = %name, %error, "cannot delete the metadata stream of older hosts")
            }
        }
    }
}

async fn copy(
    context: &Context,
    store: &Store,
    stream: &async_nats::jetstream::stream::Stream,
    lattice: &str,
) -> Result<usize, String> {
    let consumer = stream
        .create_consumer(push::OrderedConfig {
            deliver_subject: context.client().new_inbox(),
            filter_subject: format!("lc.{lattice}.>"),
            deliver_policy: async_nats::jetstream::consumer::DeliverPolicy::LastPerSubject,
            ..Default::default()
        })
        .await
        .map_err(|e| e.to_string())?;
    if consumer.cached_info().num_pending == 0 {
        return Ok(0);
    }
    let mut messages = consumer.messages().await.map_err(|e| e.to_string())?;
    let mut copied = 0;
    loop {
        let message = match tokio::time::timeout(REPLAY_SILENCE, messages.next()).await {
            Err(_) | Ok(None) => return Err("the replay stopped before its end".into()),
            Ok(Some(message)) => message.map_err(|e| e.to_string())?,
        };
        if let Some((key, value)) = convert(message.subject.as_str(), &message.payload, lattice) {
            match store.put(&key, value, Expect::Revision(0)).await {
                Ok(_) => copied += 1,
                Err(Error::Conflict) => {}
                Err(e) => return Err(e.to_string()),
            }
        }
        if message.info().is_ok_and(|info| info.pending == 0) {
            return Ok(copied);
        }
    }
}

/// Turns one old message into a key and a value of the bucket; `None` for what is deleted or not
/// understood.
fn convert(subject: &str, payload: &[u8], lattice: &str) -> Option<(String, Bytes)> {
    let tail = subject.strip_prefix("lc.")?.strip_prefix(lattice)?.strip_prefix('.')?;
    let (kind, _) = tail.split_once('.')?;
    let mut value: Map<String, Value> = serde_json::from_slice(payload).ok()?;
    let text = |value: &Map<String, Value>, key: &str| Some(value.get(key)?.as_str()?.to_owned());
    let key = match kind {
        "linkdefs" => {
            if value.remove("deleted").is_some_and(|deleted| deleted == Value::Bool(true)) {
                return None;
            }
            let hash = keys::link_hash(
                &text(&value, "actor_id")?,
                &text(&value, "contract_id")?,
                &text(&value, "link_name")?,
            );
            let key = keys::link(&hash);
            value.insert("id".into(), Value::String(hash));
            key
        }
        // In today's form: older entries have nulls, and providers' look like actors' to some
        // hosts.
        "claims" => {
            let Some(claims) = Claims::parse(payload) else {
                warn!(
                    subject,
                    bytes = payload.len(),
                    "claims of older hosts not copied: they are none, or larger than hosts take; start their actor or provider anew, so that it is known again"
                );
                return None;
            };
            return Some((
                keys::claims(&claims.subject),
                serde_json::to_vec(&claims.bucket_value()).ok()?.into(),
            ));
        }
        "refmap" => keys::reference(&text(&value, "oci_url")?),
        _ => return None,
    };
    Some((key, serde_json::to_vec(&value).ok()?.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_links_get_the_hash_as_their_id() {
        let old = br#"{"actor_id":"Mbob","contract_id":"wasmcloud:testy","link_name":"default","provider_id":"V","values":{},"id":"uuid","deleted":false}"#;
        let (key, value) = convert("lc.default.linkdefs.uuid", old, "default").unwrap();
        let hash = "B40411AD09B70A2C83D59923584F66BA2C5A3C274DC4F19416DA49CCD6531F9C";
        assert_eq!(key, format!("LINKDEF_{hash}"));
        let value: Value = serde_json::from_slice(&value).unwrap();
        assert_eq!(value["id"], hash);
        assert!(value.get("deleted").is_none());
    }

    #[test]
    fn deleted_links_and_noise_are_left_behind() {
        let deleted = br#"{"actor_id":"M","contract_id":"c","link_name":"l","deleted":true}"#;
        assert_eq!(convert("lc.default.linkdefs.x", deleted, "default"), None);
        assert_eq!(convert("lc.default.other.x", b"{}", "default"), None);
        assert_eq!(convert("lc.default.claims.x", b"not json", "default"), None);
    }
}
