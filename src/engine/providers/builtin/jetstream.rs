//! The common parts of the built-in providers that keep data in JetStream: where their streams
//! live, and how these are opened.
//!
//! [`Placement`] reads the link values for that, [`Placement::open`] looks a stream up and creates
//! it when it is missing; an existing one is used as it is, and several hosts may open at the same
//! time. Others read streams in the same way, so that code is in
//! [`lattice_base::store::jetstream::read`].

use async_nats::jetstream::{
    self, Context, ErrorCode,
    context::GetStreamErrorKind,
    stream::{Config, StorageType, Stream},
};

use super::{
    LinkError, Value,
    values::{Values, wrong},
};
use lattice_base::store::{artifacts, jetstream::context};
use lattice_protocol::{
    applications::stored, desired, errors::chain, identity::keys::LatticeName, store::keys,
};

pub(super) use lattice_base::store::jetstream::lasting;
pub use lattice_base::store::jetstream::read::{
    Held, ReadError, is_conflict, is_refused, last, next, scan,
};

/// How the names of hosts' buckets begin, of any lattice, and what is in them. The one for the
/// large payloads of calls has the name of its lattice alone.
const HOSTS_BUCKETS: [(&str, &str); 5] = [
    (keys::BUCKET, "links and claims"),
    (artifacts::BUCKET, "uploads"),
    (keys::CONFIG_BUCKET, "named configuration"),
    (desired::BUCKET, "what they are to run"),
    (stored::BUCKETS, "applications"),
];
/// The largest number of copies JetStream keeps.
const REPLICAS_MAX: u64 = 5;

/// Into a smaller bucket hardly a value fits: each is kept with its key and bytes of the server.
const MAX_BYTES_USEFUL: i64 = 64 * 1024;

pub const DOMAIN: Value = Value {
    name: "domain",
    aliases: &["js_domain"],
    default: "the host's js_domain",
    help: "JetStream domain the data lives in.",
};
pub const REPLICAS: Value = Value {
    name: "replicas",
    aliases: &["num_replicas"],
    default: "1",
    help: "Copies kept in a cluster of NATS servers, 1 to 5. Only used when the bucket is created.",
};
pub const STORAGE: Value = Value {
    name: "storage",
    aliases: &[],
    default: "file",
    help: "file, or memory for data that need not outlive the NATS server. Only used when the bucket is created.",
};
pub const MAX_BYTES: Value = Value {
    name: "max_bytes",
    aliases: &[],
    default: "no limit",
    help: "Size of the bucket, such as 500M or 10G; writes fail when it is full. Only used when the bucket is created.",
};

/// Where a provider's stream lives, and how it is made if it is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    pub domain: Option<String>,
    replicas: usize,
    storage: StorageType,
    max_bytes: Option<i64>,
}

impl Placement {
    /// Reads the values above.
    pub fn read(values: &Values, host_domain: Option<&str>) -> Result<Self, LinkError> {
        let replicas = match values.number(REPLICAS.name)? {
            None => 1,
            Some(number @ 1..=REPLICAS_MAX) => number as usize,
            Some(number) => return Err(wrong(REPLICAS.name, &number.to_string(), "1 to 5")),
        };
        let storage = match values.text(STORAGE.name).as_deref() {
            None | Some("file") => StorageType::File,
            Some("memory") => StorageType::Memory,
            Some(other) => return Err(wrong(STORAGE.name, other, "file or memory")),
        };
        let domain = values.text(DOMAIN.name).or_else(|| host_domain.map(str::to_owned));
        if let Some(domain) = &domain
            && !is_plain(domain)
        {
            return Err(wrong(DOMAIN.name, domain, "letters, digits, - and _"));
        }
        let max_bytes = match values.bytes(MAX_BYTES.name)? {
            None => None,
            Some(0) => return Err(wrong(MAX_BYTES.name, "0", "bytes, at least 1")),
            Some(bytes) => Some(i64::try_from(bytes).unwrap_or(i64::MAX)),
        };
        Ok(Self { domain, replicas, storage, max_bytes })
    }

    /// Returns remarks about the values above that have no effect, or not the one that is meant.
    pub fn oddities(&self, values: &Values) -> Vec<String> {
        let names = [REPLICAS.name, STORAGE.name, MAX_BYTES.name];
        let made = values
            .idle(&names, "used only when the bucket is made; one that is there stays as it is");
        let tiny = self.max_bytes.filter(|bytes| *bytes < MAX_BYTES_USEFUL).map(|bytes| {
            format!(
                "link value {} is {bytes} bytes: hardly anything fits into the bucket",
                MAX_BYTES.name
            )
        });
        made.into_iter().chain(tiny).collect()
    }

    /// A context of the domain, with a deadline on every request.
    pub fn context(&self, client: &async_nats::Client) -> Context {
        context(client, self.domain.as_deref())
    }

    /// Opens a stream, or creates it as `config` says (which begins as [`lasting`]), in this place.
    pub async fn open(&self, context: &Context, config: Config) -> Result<Stream, LinkError> {
        let name = config.name.clone();
        match context.get_stream(&name).await {
            Ok(stream) => return Ok(stream),
            Err(e) => match e.kind() {
                GetStreamErrorKind::JetStream(error)
                    if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
                GetStreamErrorKind::JetStream(error) => return Err(self.refused(&name, &error)),
                _ => return Err(self.unanswered(&name, &chain(&e))),
            },
        }
        let config = Config {
            storage: self.storage,
            num_replicas: self.replicas,
            max_bytes: self.max_bytes.unwrap_or(-1),
            ..config
        };
        match context.create_stream(config).await {
            Ok(stream) => Ok(stream),
            // Another host was first, with other values perhaps: both are fine as long as it is
            // there.
            Err(error) => context.get_stream(&name).await.map_err(|_| {
                LinkError::Unavailable(format!(
                    "JetStream {} does not create the stream {name}: {}. Change the link values replicas, storage or \
                     max_bytes, or the limits of the account",
                    self.shown(),
                    chain(&error)
                ))
            }),
        }
    }

    fn refused(&self, name: &str, error: &jetstream::Error) -> LinkError {
        let code = error.error_code();
        let shown = self.shown();
        LinkError::Unavailable(
            if matches!(
                code,
                ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
            ) {
                format!(
                    "JetStream {shown} is switched off in the NATS server or for the account of this host. Start the server with \
                     -js, or with `jetstream {{}}` in its configuration; in a server with accounts, enable it there"
                )
            } else {
                format!("JetStream {shown} refuses the stream {name}: {error}")
            },
        )
    }

    fn unanswered(&self, name: &str, cause: &str) -> LinkError {
        LinkError::Unavailable(format!(
            "JetStream {} does not answer for the stream {name} ({cause}). Start the NATS server with JetStream (-js), or \
             set the link value domain to a domain this host reaches",
            self.shown()
        ))
    }

    fn shown(&self) -> String {
        self.domain
            .as_ref()
            .map_or_else(|| "without a domain".to_owned(), |domain| format!("domain {domain:?}"))
    }
}

/// The name of a bucket, from a link value or made of other names. Never one of those that hosts
/// keep something in: links and claims, named configuration, uploads, and the large payloads of
/// calls.
pub fn bucket_name(
    value: Option<String>,
    default: String,
    lattice: &LatticeName,
) -> Result<String, LinkError> {
    let name = value.unwrap_or(default);
    check_bucket_name(&name, Some(lattice))?;
    Ok(name)
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
}

/// Checks the name of a bucket; whether it is that of the lattice's payloads only where the lattice
/// is known.
pub fn check_bucket_name(name: &str, lattice: Option<&LatticeName>) -> Result<(), LinkError> {
    if name.is_empty() || name.len() > 128 || !is_plain(name) {
        return Err(wrong("bucket", name, "up to 128 letters, digits, - and _"));
    }
    let what = match HOSTS_BUCKETS.iter().find(|(begin, _)| name.starts_with(begin)) {
        Some((_, what)) => what,
        None if lattice.is_some_and(|lattice| name == lattice.as_str()) => "large payloads",
        None => return Ok(()),
    };
    Err(wrong("bucket", name, &format!("another bucket than one in which hosts keep {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_are_plain_and_never_the_hosts_own() {
        let lattice = LatticeName::parse("shop").unwrap();
        for good in ["KEYVALUE_default", "BLOBS_shop_M", "shops", "data_ARTIFACTS_shop"] {
            assert_eq!(bucket_name(None, good.into(), &lattice).unwrap(), good);
        }
        for bad in [
            "a b",
            "a.b",
            "",
            "LATTICEDATA_default",
            "LATTICEDATA_shop",
            "ARTIFACTS_shop",
            "ARTIFACTS_other",
            "CONFIGDATA_shop",
            "DESIREDDATA_shop",
            "wadm_manifests",
            "shop",
            &"x".repeat(129),
        ] {
            let error = bucket_name(Some(bad.to_owned()), String::new(), &lattice).unwrap_err();
            assert!(
                matches!(&error, LinkError::Values(text) if text.contains("link value bucket")),
                "{error}"
            );
        }
    }
}
