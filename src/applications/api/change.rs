//! Commands: `put`, `del`, `deploy`, `undeploy`.
//!
//! A deployment is a signed target first, and then the old manager's mark beside the manifests: if
//! the second fails, hosts act as they were told, and only a manager that comes later would not
//! know it.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use rand::Rng as _;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    Server,
    answer::Refusal,
    read::{Hosts, deployed, not_found, parse},
};
use crate::{
    rollouts,
    store::{Change, StoreError},
    targets::{State, Target},
};
use lattice_protocol::{
    applications::{
        api::{
            Delete, DeleteReply, DeleteRequest, DeleteResult, DeployReply, DeployResult, News,
            PutReply, PutResult, UndeployRequest, VersionRequest,
        },
        decode::{Decoded, Format, decode},
        manifest::Manifest,
        resolved::Application,
        stored::Stored,
        validate::{unmet, untagged, validate},
    },
    clock,
};

/// How long hosts may take to tell their labels, which only warnings need.
const HOSTS_TIMEOUT: Duration = Duration::from_millis(400);
/// Digits of a ULID, in Crockford's base 32.
const ULID_DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The outcome of a deletion.
enum Deleted {
    NoModel,
    NoVersion,
    /// With the versions that are left.
    Version {
        left: usize,
    },
}

impl Server {
    pub(super) async fn put(
        &self,
        headers: Option<&HeaderMap>,
        body: &Bytes,
    ) -> Result<PutReply, Refusal> {
        let Decoded { mut manifest, mut warnings } = decode(body, format_of(headers)?)?;
        validate(&manifest)?;
        if manifest.version().is_empty() {
            manifest.set_version(&ulid());
        }
        warnings.extend(self.unmet(&manifest).await);
        let (name, version) = (manifest.name().to_owned(), manifest.version().to_owned());
        let stored = self
            .models
            .change(&name, |stored| {
                let mut stored = stored.unwrap_or_default();
                if stored.versions.names().any(|of| of == version) {
                    return Change::Leave(Err(Refusal::VersionExists(version.clone())));
                }
                match stored.versions.push(&manifest) {
                    Ok(()) => {
                        let total = stored.versions.len();
                        Change::Write(stored, Ok(total))
                    }
                    Err(error) => Change::Leave(Err(Refusal::Form(error))),
                }
            })
            .await?;
        let total_versions = stored?;
        self.models.enlist(&name).await?;
        info!(application = name, version, "manifest stored");
        let result = if total_versions == 1 { PutResult::Created } else { PutResult::NewVersion };
        let warnings: String =
            warnings.iter().map(|warning| format!(". Warning: {warning}")).collect();
        let message = format!("Successfully put manifest {name} {version}{warnings}");
        Ok(PutReply { result, total_versions, current_version: version, message, name })
    }

    /// Returns what of a manifest cannot run on the hosts of now.
    async fn unmet(&self, manifest: &Manifest) -> Vec<String> {
        let asked = tokio::time::timeout(HOSTS_TIMEOUT, self.lattice.hosts()).await;
        let Ok(Ok(hosts)) = asked else { return Vec::new() };
        let hosts: Hosts = hosts.into_iter().map(|host| (host.id, host.labels)).collect();
        unmet(&Application::of(manifest), &hosts)
    }

    pub(super) async fn delete(&self, name: &str, body: &Bytes) -> Result<DeleteReply, Refusal> {
        let wanted = parse::<DeleteRequest>("delete", body)?.meaning();
        let target = self.targets.get(name).await?;
        let is_removed = match &wanted {
            Delete::All => deployed(target.as_ref()).is_some(),
            Delete::One(version) => deployed(target.as_ref()) == Some(version),
        };
        // Before the manifest is gone, so that nothing is started of it meanwhile.
        if let Some(target) = target.filter(|_| is_removed) {
            self.undeploy_target(target.manifest, State::Undeployed).await?;
        }
        let (result, message) = match &wanted {
            Delete::All => self.delete_all(name, is_removed).await?,
            Delete::One(version) => self.delete_one(name, version).await?,
        };
        Ok(DeleteReply { result, message, undeploy: is_removed })
    }

    async fn delete_all(
        &self,
        name: &str,
        was_deployed: bool,
    ) -> Result<(DeleteResult, String), Refusal> {
        self.models.strike(name).await?;
        let was_there = self
            .models
            .change(name, |stored| match stored {
                Some(_) => Change::Remove(true),
                None => Change::Leave(false),
            })
            .await?;
        if !was_there && !was_deployed {
            return Ok((DeleteResult::Noop, format!("Model {name} doesn't exist")));
        }
        info!(application = name, "application deleted");
        Ok((DeleteResult::Deleted, format!("Successfully deleted model {name}")))
    }

    async fn delete_one(
        &self,
        name: &str,
        version: &str,
    ) -> Result<(DeleteResult, String), Refusal> {
        let deleted = self
            .models
            .change(name, |stored| {
                let Some(mut stored) = stored else { return Change::Leave(Deleted::NoModel) };
                if !stored.versions.remove(version) {
                    return Change::Leave(Deleted::NoVersion);
                }
                if stored.deployed_version.as_deref() == Some(version) {
                    stored.deployed_version = None;
                }
                match stored.versions.len() {
                    0 => Change::Remove(Deleted::Version { left: 0 }),
                    left => Change::Write(stored, Deleted::Version { left }),
                }
            })
            .await?;
        Ok(match deleted {
            Deleted::NoModel => (DeleteResult::Noop, format!("Model {name} doesn't exist")),
            Deleted::NoVersion => {
                (DeleteResult::Noop, format!("Model version {version} doesn't exist"))
            }
            Deleted::Version { left: 0 } => {
                self.models.strike(name).await?;
                info!(application = name, version, "application deleted with its last version");
                let message = format!("Successfully deleted last version of model {name}");
                (DeleteResult::Deleted, message)
            }
            Deleted::Version { .. } => {
                info!(application = name, version, "version of an application deleted");
                let message = format!("Successfully deleted version {version} of model {name}");
                (DeleteResult::Deleted, message)
            }
        })
    }

    pub(super) async fn deploy(&self, name: &str, body: &Bytes) -> Result<DeployReply, Refusal> {
        let request: VersionRequest = parse("deploy", body)?;
        let Some(stored) = self.models.get(name).await? else { return Ok(unknown(name)) };
        let Some((version, manifest)) = stored.versions.get(request.version.as_deref()) else {
            return Err(Refusal::NoSuchVersion(name.to_owned()));
        };
        let manifest = usable(name, version, manifest)?;
        self.check_providers(&manifest)?;
        let before = self.before(name, version).await?;
        let target = Target { before, ..Target::of(manifest, State::Deployed) };
        self.targets.set(&target).await?;
        info!(application = name, version, "application deployed");
        self.mark(name, Some(version)).await;
        self.tell(News::Published(&target.manifest)).await;
        let message = format!("Successfully deployed model {name} {version}");
        Ok(acknowledged(name, Some(version), message))
    }

    /// Returns the version that runs now, for a rollout to go back to: the deployed one, or of a
    /// version that has not taken over the one before it.
    async fn before(&self, name: &str, version: &str) -> Result<Option<Manifest>, Refusal> {
        let Some(target) = self.targets.get(name).await?.filter(Target::is_deployed) else {
            return Ok(None);
        };
        let stored = self.rollouts.of(&target).await?;
        let held = stored.rollout.or_else(|| rollouts::begin(&target));
        match held {
            Some(rollout) if rollout.holds_back() => {
                Ok(target.before.filter(|before| before.version() != version))
            }
            _ => Ok(Some(target.manifest).filter(|running| running.version() != version)),
        }
    }

    /// A provider of one key cannot run in two versions on a host.
    fn check_providers(&self, manifest: &Manifest) -> Result<(), Refusal> {
        let targets = self.targets.watch();
        let targets = targets.borrow();
        let others = targets
            .values()
            .filter(|target| target.is_deployed() && target.name != manifest.name());
        for other in others {
            for (_, theirs) in other.manifest.capabilities() {
                let clash = manifest.capabilities().find(|(_, ours)| {
                    untagged(&ours.image) == untagged(&theirs.image) && ours.image != theirs.image
                });
                if let Some((_, ours)) = clash {
                    let (image, application) = (ours.image.clone(), other.name.clone());
                    return Err(Refusal::OtherProviderVersion { image, application });
                }
            }
        }
        Ok(())
    }

    pub(super) async fn undeploy(&self, name: &str, body: &Bytes) -> Result<DeployReply, Refusal> {
        let request: UndeployRequest = parse("deploy", body)?;
        let state = if request.non_destructive { State::Released } else { State::Undeployed };
        let target = self.targets.get(name).await?;
        let stored = self.models.get(name).await?;
        if stored.is_none() && deployed(target.as_ref()).is_none() {
            return Ok(unknown(name));
        }
        let was_deployed = deployed(target.as_ref()).is_some();
        // Applications of an earlier manager, and released ones, are to be stopped as well.
        let manifest = match target {
            Some(target) if target.state == State::Undeployed => None,
            Some(target) => Some(target.manifest),
            None => stored.as_ref().and_then(|stored| marked(name, stored)),
        };
        let message = match manifest {
            Some(manifest) => {
                self.undeploy_target(manifest, state).await?;
                info!(application = name, ?state, "application undeployed");
                format!("Successfully undeployed model {name}")
            }
            None => {
                self.tell(News::Unpublished(name)).await;
                format!("Model {name} was already undeployed")
            }
        };
        if was_deployed || stored.is_some_and(|stored| stored.deployed_version.is_some()) {
            self.mark(name, None).await;
        }
        Ok(acknowledged(name, None, message))
    }

    async fn undeploy_target(&self, manifest: Manifest, state: State) -> Result<(), Refusal> {
        let target = Target::of(manifest, state);
        self.targets.set(&target).await?;
        self.tell(News::Unpublished(&target.name)).await;
        Ok(())
    }

    /// Writes the old manager's mark of the deployed version. Hosts do not act on it.
    async fn mark(&self, name: &str, version: Option<&str>) {
        let marked = self.models.change(name, |stored| match stored {
            Some(stored) if stored.deployed_version.as_deref() == version => Change::Leave(()),
            Some(stored) => {
                let deployed_version = version.map(str::to_owned);
                Change::Write(Stored { deployed_version, ..stored }, ())
            }
            None => Change::Leave(()),
        });
        let outcome: Result<(), StoreError> = marked.await;
        if let Err(error) = outcome {
            warn!(application = name, %error, "the deployed version is not noted beside the manifests; hosts know it");
        }
    }

    /// Tells everybody, as the old manager does. Nobody need hear it.
    async fn tell(&self, news: News<'_>) {
        let time = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let event = news.cloud_event(&Uuid::new_v4().to_string(), &time).to_string();
        let subject = self.lattice.subjects.manager_events();
        if let Err(error) = self.lattice.client.publish(subject, event.into()).await {
            warn!(%error, "the event of an application was not sent");
        }
    }
}

/// Returns the form of a manifest by its content type.
fn format_of(headers: Option<&HeaderMap>) -> Result<Format, Refusal> {
    let mut named = headers.into_iter().flat_map(HeaderMap::iter);
    let found = named.find(|(name, _)| name.to_string().eq_ignore_ascii_case("content-type"));
    let Some(value) = found.and_then(|(_, values)| values.first()) else {
        return Ok(Format::Either);
    };
    let kind = value.as_str().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Format::Yaml),
        "application/json" => Ok(Format::Json),
        "text/plain" => Ok(Format::Either),
        _ => Err(Refusal::ContentType(value.to_string())),
    }
}

/// Reads a stored version, which another manager may have written.
fn usable(name: &str, version: &str, stored: &serde_json::Value) -> Result<Manifest, Refusal> {
    let unusable = |cause: String| Refusal::Unusable { version: version.to_owned(), cause };
    let mut manifest: Manifest =
        serde_json::from_value(stored.clone()).map_err(|error| unusable(error.to_string()))?;
    validate(&manifest).map_err(|error| unusable(error.to_string()))?;
    if manifest.name() != name {
        return Err(unusable(format!("it is of {:?}", manifest.name())));
    }
    // Stored without a version, it has an empty one.
    if manifest.version() != version {
        manifest.set_version(version);
    }
    Ok(manifest)
}

/// Returns the version that another manager marked as deployed.
fn marked(name: &str, stored: &Stored) -> Option<Manifest> {
    let version = stored.deployed_version.as_deref()?;
    let (_, manifest) = stored.versions.get(Some(version))?;
    usable(name, version, manifest).ok()
}

fn unknown(name: &str) -> DeployReply {
    DeployReply {
        result: DeployResult::NotFound,
        message: not_found(name),
        name: name.to_owned(),
        version: None,
    }
}

fn acknowledged(name: &str, version: Option<&str>, message: String) -> DeployReply {
    DeployReply {
        result: DeployResult::Acknowledged,
        message,
        name: name.to_owned(),
        version: version.map(str::to_owned),
    }
}

/// Makes up a version that sorts by time, as later managers do: 48 bits of milliseconds, and 80
/// random ones.
fn ulid() -> String {
    let random: u128 = rand::rng().random();
    let mut bits = (u128::from(clock::now_ms()) << 80) | (random >> 48);
    let mut digits = [0; 26];
    for digit in digits.iter_mut().rev() {
        *digit = ULID_DIGITS[(bits & 31) as usize];
        bits >>= 5;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_compared_as_people_write_them() {
        for (kind, expected) in [
            (None, Some(Format::Either)),
            (Some("application/yaml"), Some(Format::Yaml)),
            (Some("Text/YAML; charset=utf-8"), Some(Format::Yaml)),
            (Some("application/json"), Some(Format::Json)),
            (Some("text/plain"), Some(Format::Either)),
            (Some("image/png"), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(kind) = kind {
                headers.insert("content-type", kind);
            }
            assert_eq!(format_of(Some(&headers)).ok(), expected, "{kind:?}");
        }
        assert_eq!(format_of(None).ok(), Some(Format::Either));
    }

    #[test]
    fn made_up_versions_sort_by_time() {
        let first = ulid();
        std::thread::sleep(Duration::from_millis(2));
        let second = ulid();
        assert!(first.len() == 26 && first < second, "{first} {second}");
        assert!(first.bytes().all(|digit| ULID_DIGITS.contains(&digit)));
    }
}
