//! How a bucket is made that is not there: its copies, and the bound of its size.
//!
//! Some accounts demand a bound of every bucket, and what an account has left for one is known to
//! its server only. So a bound that nobody set is found by asking: a larger one first, then smaller
//! ones, as the server answers.

use async_nats::jetstream::{
    Context, ErrorCode,
    context::{CreateStreamError, CreateStreamErrorKind},
    stream::{Config, Stream},
};
use tracing::info;

/// The size of buckets in accounts that demand a bound, if it is not set.
const METADATA_BYTES: u64 = 64 << 20;
const ARTIFACTS_BYTES: u64 = 1 << 30;
/// The smallest bound that is tried, in bytes.
const BYTES_MIN: u64 = 1 << 20;
/// How much smaller each next bound is.
const SHRINK: u64 = 4;
/// More than it takes to get from the largest default to the smallest bound.
const ATTEMPTS_MAX: usize = 12;

/// How large a bucket may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// So many bytes, by a setting.
    Set(u64),
    /// So many bytes; fewer where the account has less left, and no bound where none fits.
    Wish(u64),
    /// Without one, unless the account demands it: then so many bytes, or fewer.
    IfDemanded(u64),
}

impl Bound {
    /// Returns the bound of a setting, or else this one.
    pub fn or_set(self, setting: Option<u64>) -> Self {
        setting.map_or(self, Self::Set)
    }

    /// The bound to begin with, in bytes.
    fn first(self) -> Option<u64> {
        match self {
            Self::Set(bytes) | Self::Wish(bytes) => Some(bytes),
            Self::IfDemanded(_) => None,
        }
    }

    /// The bound to try after the server refused one; `None` if there is nothing to try.
    fn next(self, refused: Option<u64>, code: ErrorCode) -> Option<Option<u64>> {
        match (self, refused) {
            (Self::Set(_), _) => None,
            (Self::Wish(bytes) | Self::IfDemanded(bytes), None) => {
                is_demand(code).then_some(Some(bytes))
            }
            (_, Some(_)) if !is_too_large(code) => None,
            (_, Some(bytes)) if bytes / SHRINK >= BYTES_MIN => Some(Some(bytes / SHRINK)),
            (Self::Wish(_), Some(_)) => Some(None),
            (Self::IfDemanded(_), Some(_)) => None,
        }
    }
}

/// How a bucket is made that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Making {
    /// Copies of each entry, in a cluster of servers.
    pub replicas: usize,
    pub bound: Bound,
}

impl Making {
    /// Of the buckets of metadata and named configuration; `bytes_max` is the setting.
    pub fn of_metadata(replicas: usize, bytes_max: Option<u64>) -> Self {
        Self { replicas, bound: Bound::IfDemanded(METADATA_BYTES).or_set(bytes_max) }
    }

    /// Of the bucket of uploads.
    pub fn of_artifacts(replicas: usize, bytes_max: Option<u64>) -> Self {
        Self { replicas, bound: Bound::IfDemanded(ARTIFACTS_BYTES).or_set(bytes_max) }
    }

    /// Makes the stream of a bucket. An error is the server's last word.
    pub async fn create(
        self,
        context: &Context,
        config: Config,
    ) -> Result<Stream, CreateStreamError> {
        let mut bytes = self.bound.first();
        let mut attempts = 1;
        loop {
            let max_bytes = bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
            let config = Config { max_bytes, num_replicas: self.replicas, ..config.clone() };
            let error = match context.create_stream(config).await {
                Ok(stream) => {
                    let name = &stream.cached_info().config.name;
                    info!(stream = %name, max_bytes, replicas = self.replicas, "bucket made");
                    return Ok(stream);
                }
                Err(error) => error,
            };
            let next = refusal(&error).and_then(|code| self.bound.next(bytes, code));
            match next.filter(|_| attempts < ATTEMPTS_MAX) {
                Some(next) => bytes = next,
                None => return Err(error),
            }
            attempts += 1;
        }
    }
}

/// Returns advice about an account that refuses to make a bucket, as the end of a sentence; empty
/// if the error has another cause.
pub fn advice(error: &CreateStreamError, setting: &str) -> String {
    match refusal(error) {
        Some(code) if is_demand(code) || is_too_large(code) => format!(
            ". The account demands a bound or has no room for this one: set {setting} to what it has left (`nats account \
             info`), or make the bucket by hand"
        ),
        _ => String::new(),
    }
}

fn refusal(error: &CreateStreamError) -> Option<ErrorCode> {
    match error.kind() {
        CreateStreamErrorKind::JetStream(error) => Some(error.error_code()),
        _ => None,
    }
}

fn is_demand(code: ErrorCode) -> bool {
    code == ErrorCode::STREAM_MAX_BYTES_REQUIRED
}

fn is_too_large(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED
            | ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_bound_nobody_set_shrinks_until_it_fits() {
        let demand = ErrorCode::STREAM_MAX_BYTES_REQUIRED;
        let full = ErrorCode::STORAGE_RESOURCES_EXCEEDED;
        let (set, wish, free) =
            (Bound::Set(64 * MIB), Bound::Wish(64 * MIB), Bound::IfDemanded(64 * MIB));
        assert_eq!(
            (set.first(), wish.first(), free.first()),
            (Some(64 * MIB), Some(64 * MIB), None)
        );
        for (bound, refused, code, next) in [
            (set, Some(64 * MIB), full, None),
            (wish, Some(64 * MIB), full, Some(Some(16 * MIB))),
            (wish, Some(MIB), full, Some(None)),
            (wish, Some(64 * MIB), ErrorCode::STREAM_NOT_FOUND, None),
            (free, None, demand, Some(Some(64 * MIB))),
            (free, None, full, None),
            (free, Some(4 * MIB), ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED, Some(Some(MIB))),
            (free, Some(MIB), full, None),
        ] {
            assert_eq!(bound.next(refused, code), next, "{bound:?} {refused:?} {code:?}");
        }
        assert_eq!(wish.or_set(Some(MIB)), Bound::Set(MIB));
        assert_eq!(wish.or_set(None), wish);
    }
}
