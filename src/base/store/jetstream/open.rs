//! Finding a bucket, making that of the metadata when it is missing, and naming what stands in the
//! way.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use async_nats::jetstream::{
    Context, ErrorCode,
    context::{GetStreamErrorKind, RequestErrorKind},
    stream::{self, Stream},
};

use super::{
    API_TIMEOUT, Bucket, context,
    making::{Bound, Making, advice},
};
use crate::{
    lattice::connection::{NEEDED_SUBJECTS, Nats},
    store::domain_name,
};

/// Why the bucket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "JetStream domain {asked:?} does not answer, the server here has domain {found:?}. If another leaf node or a hub has \
         {asked:?}, the leaf node connection to it is down; look there, this host goes on by itself when it is back. If \
         {found:?} is meant, set js_domain (WASMCLOUD_JS_DOMAIN) to that"
    )]
    OtherDomain { asked: String, found: String },
    #[error(
        "JetStream domain {asked:?} does not answer, the server here has JetStream without a domain. Leave js_domain \
         (WASMCLOUD_JS_DOMAIN) unset, or set `jetstream {{ domain: {asked} }}` in the server's configuration"
    )]
    ServerHasNoDomain { asked: String },
    /// This host's server has no JetStream and reaches none in the asked domain. Then the lattice
    /// is taken to have none: for a server that stands alone nobody knows more than this host. A
    /// leaf node without JetStream of its own that is cut off from the asked domain looks just the
    /// same. In all other cases the bucket may well be there, for others.
    #[error(
        "JetStream is switched off in the NATS server, or for the account of this host (asked domain: {asked}). Start the server \
         with -js, or with `jetstream {{ domain: core }}` in its configuration; in a server with accounts, enable jetstream there"
    )]
    SwitchedOff { asked: String },
    #[error(
        "the JetStream API of domain {asked} does not answer within {} ms. Either the leaf node link is down, or the account may not \
         use {prefix}.>; allow it for this user",
        API_TIMEOUT.as_millis()
    )]
    Silent { asked: String, prefix: String },
    #[error(
        "this NATS user may not use the JetStream API of domain {asked}: {denied}. {needed}; the user of a host needs \
         {NEEDED_SUBJECTS}"
    )]
    NotAllowed { asked: String, denied: String, needed: String },
    #[error("JetStream refuses bucket {bucket}: {cause}")]
    Refused { bucket: String, cause: String },
}

/// Looks the stream of a bucket up; `None` if JetStream works and has no such stream.
pub async fn find(
    nats: &Nats,
    context: &Context,
    domain: Option<&str>,
    bucket: &str,
    stream: &str,
) -> Result<Option<Stream>, OpenError> {
    let error = match context.get_stream(stream).await {
        Ok(stream) => return Ok(Some(stream)),
        Err(error) => error,
    };
    match error.kind() {
        GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
            Ok(None)
        }
        GetStreamErrorKind::JetStream(e)
            if matches!(
                e.error_code(),
                ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
            ) =>
        {
            Err(OpenError::SwitchedOff { asked: shown(domain) })
        }
        GetStreamErrorKind::JetStream(e) => Err(refused(bucket, e.to_string())),
        _ => {
            let diagnosis = diagnose(nats, context, domain, stream).await;
            Err(diagnosis.unwrap_or_else(|| refused(bucket, error.to_string())))
        }
    }
}

impl Bucket {
    /// Opens the bucket, making it if it is not there.
    pub async fn open(
        nats: &Nats,
        domain: Option<&str>,
        bucket: &str,
        making: Making,
    ) -> Result<Self, OpenError> {
        if let Some(found) = Self::find(nats, domain, bucket, making).await? {
            return Ok(found);
        }
        let context = context(&nats.client, domain);
        let stream = create(&context, bucket, making).await;
        let stream = stream.map_err(|cause| refused(bucket, cause))?;
        Self::of_stream(nats, context, stream, (domain, bucket), making).await
    }

    /// Opens the bucket if it is there; `making` is for one that vanishes later.
    pub async fn find(
        nats: &Nats,
        domain: Option<&str>,
        bucket: &str,
        making: Making,
    ) -> Result<Option<Self>, OpenError> {
        let context = context(&nats.client, domain);
        let found = find(nats, &context, domain, bucket, &format!("KV_{bucket}")).await?;
        let Some(stream) = found else { return Ok(None) };
        Self::of_stream(nats, context, stream, (domain, bucket), making).await.map(Some)
    }

    async fn of_stream(
        nats: &Nats,
        context: Context,
        stream: Stream,
        (domain, bucket): (Option<&str>, &str),
        making: Making,
    ) -> Result<Self, OpenError> {
        let info = stream.cached_info();
        let (consumers_before, found_replicas) =
            (info.state.consumer_count, info.config.num_replicas);
        let found_bytes = u64::try_from(info.config.max_bytes).ok().filter(|bytes| *bytes > 0);
        let bound = found_bytes.map_or(making.bound, Bound::Set);
        let is_clustered = info.cluster.as_ref().is_some_and(|cluster| {
            is_clustered(cluster.name.as_deref(), cluster.leader.as_deref(), cluster.replicas.len())
        });
        let kv = context.get_key_value(bucket).await;
        let kv = kv.map_err(|e| refused(bucket, e.to_string()))?;
        Ok(Self {
            kv,
            stream,
            context,
            reconnects: nats.reconnects.clone(),
            place: domain_name(domain).into(),
            domain: domain.map(Into::into),
            hears: Arc::new(AtomicBool::new(true)),
            consumers_before,
            replicas: found_replicas,
            bound,
            is_clustered,
        })
    }
}

/// Whether a stream lives on a cluster of servers, by what its information tells of the cluster:
/// the name, the leader, and how many other servers have copies. A server that stands alone and has
/// leaf node connections calls itself a cluster of its own name.
pub fn is_clustered(name: Option<&str>, leader: Option<&str>, replicas: usize) -> bool {
    let name = name.filter(|name| !name.is_empty());
    replicas > 0 || (name.is_some() && name != leader)
}

fn refused(bucket: &str, cause: String) -> OpenError {
    OpenError::Refused { bucket: bucket.to_owned(), cause }
}

/// Returns the configuration of a stream that loses nothing: without bounds of its own it refuses a
/// message there is no room for rather than drop older ones. It lets direct reads in, and the
/// writes of buckets (roll-ups).
pub fn lasting() -> stream::Config {
    stream::Config {
        max_messages: -1,
        max_bytes: -1,
        max_consumers: -1,
        max_message_size: -1,
        discard: stream::DiscardPolicy::New,
        storage: stream::StorageType::File,
        allow_rollup: true,
        allow_direct: true,
        ..Default::default()
    }
}

pub(super) async fn create(
    context: &Context,
    bucket: &str,
    making: Making,
) -> Result<Stream, String> {
    let config = stream::Config {
        name: format!("KV_{bucket}"),
        subjects: vec![format!("$KV.{bucket}.>")],
        max_messages_per_subject: 1,
        retention: stream::RetentionPolicy::Limits,
        deny_delete: true,
        duplicate_window: Duration::from_secs(120),
        ..lasting()
    };
    match making.create(context, config).await {
        Ok(stream) => Ok(stream),
        // Another host was first, or the bucket has other settings: both are fine as long as it is
        // there.
        Err(e) => {
            let found = context.get_stream(format!("KV_{bucket}")).await;
            found.map_err(|_| format!("{e}{}", advice(&e, "kv_max_bytes")))
        }
    }
}

/// Returns the prefix of the JetStream API subjects of a domain; without a domain, of the connected
/// server.
pub fn api_prefix(domain: Option<&str>) -> String {
    domain.map_or_else(|| "$JS.API".to_owned(), |domain| format!("$JS.{domain}.API"))
}

/// Returns the prefix of the subject of a published key-value entry in a domain. With a domain it
/// is written by way of its API: other subjects below `$KV` do not pass to the server of another
/// domain.
pub fn publish_prefix(domain: Option<&str>) -> String {
    domain.map(|domain| api_prefix(Some(domain)) + ".").unwrap_or_default()
}

/// Returns what a command needs for a stream, which is less than a host does: the rights of a host
/// make an operator of a user.
fn needed_by_commands(stream: &str, domain: Option<&str>) -> String {
    let api = api_prefix(domain);
    match stream.strip_prefix("OBJ_") {
        Some(bucket) => {
            format!("A command that sends files to {bucket} needs {api}.> and $O.{bucket}.>")
        }
        None => format!(
            "A command that reads {stream} needs {api}.STREAM.INFO.{stream}, {api}.CONSUMER.CREATE.{stream}, \
             {api}.CONSUMER.*.{stream}.> and {api}.CONSUMER.MSG.NEXT.{stream}.>: give it to operators only, since JetStream sends \
             its answers to any subject"
        ),
    }
}

/// Finds out why the domain of a stream does not answer by asking the server for its own. `None`
/// means that it does answer.
async fn diagnose(
    nats: &Nats,
    asked_context: &Context,
    asked: Option<&str>,
    stream: &str,
) -> Option<OpenError> {
    let prefix = api_prefix(asked);
    let silent = || match denied(nats) {
        Some(denied) => {
            let needed = needed_by_commands(stream, asked);
            OpenError::NotAllowed { asked: shown(asked), denied, needed }
        }
        None => OpenError::Silent { asked: shown(asked), prefix: prefix.clone() },
    };
    let answer: Result<serde_json::Value, _> = asked_context.request("INFO", &()).await;
    match answer {
        Ok(_) => return None,
        Err(e) if e.kind() == RequestErrorKind::TimedOut => return Some(silent()),
        Err(_) => {}
    }
    let own: Result<serde_json::Value, _> = context(&nats.client, None).request("INFO", &()).await;
    let own = match own {
        Ok(own) => own,
        Err(e) if e.kind() == RequestErrorKind::TimedOut => return Some(silent()),
        Err(_) => return Some(OpenError::SwitchedOff { asked: shown(asked) }),
    };
    if own.get("error").is_some() {
        return Some(OpenError::SwitchedOff { asked: shown(asked) });
    }
    let asked = asked?.to_owned();
    Some(match own.get("domain").and_then(serde_json::Value::as_str) {
        Some(found) if found != asked => OpenError::OtherDomain { asked, found: found.to_owned() },
        Some(_) => silent(),
        None => OpenError::ServerHasNoDomain { asked },
    })
}

/// The server's word on why a request to a JetStream API gets no answer: it must be allowed to go
/// there, and the answer to come back. The server that has the domain names the subject without it.
fn denied(nats: &Nats) -> Option<String> {
    let denied = nats.denied.borrow();
    denied.iter().find(|what| what.contains("\"$JS.") || what.contains("\"_INBOX.")).cloned()
}

fn shown(domain: Option<&str>) -> String {
    domain.map_or_else(|| "none".to_owned(), |domain| format!("{domain:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::lattice::permissions::covers;

    #[test]
    fn commands_are_not_advised_to_have_the_rights_of_a_host() {
        for (stream, domain, needed, not_needed) in [
            (
                "LATTICEHISTORY_x",
                None,
                "$JS.API.CONSUMER.CREATE.LATTICEHISTORY_x.name.filter",
                "$JS.API.STREAM.PURGE.LATTICEHISTORY_x",
            ),
            (
                "LATTICEHISTORY_x",
                Some("core"),
                "$JS.core.API.CONSUMER.MSG.NEXT.LATTICEHISTORY_x.name",
                "$JS.core.API.STREAM.INFO.KV_LATTICEDATA_x",
            ),
            ("OBJ_ARTIFACTS_x", Some("core"), "$JS.core.API.$O.ARTIFACTS_x.C.1", "wasmbus.ctl.x"),
        ] {
            let told = needed_by_commands(stream, domain);
            let words = told.split([' ', ',']).map(|word| word.trim_end_matches(':'));
            let patterns: Vec<&str> = words.filter(|word| word.starts_with('$')).collect();
            let is_told = |subject| patterns.iter().any(|pattern| covers(pattern, subject));
            assert!(is_told(needed) && !is_told(not_needed), "{told}");
        }
    }

    #[test]
    fn a_leaf_node_connection_makes_no_cluster() {
        for (name, leader, replicas, expected) in [
            (None, Some("alone"), 0, false),
            (Some(""), Some("alone"), 0, false),
            (Some("leaf"), Some("leaf"), 0, false),
            (Some("C"), Some("s1"), 0, true),
            (Some("C"), None, 0, true),
            (Some("s1"), Some("s1"), 2, true),
        ] {
            assert_eq!(is_clustered(name, leader, replicas), expected, "{name:?} {leader:?}");
        }
    }
}
