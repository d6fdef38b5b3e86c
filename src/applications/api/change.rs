//! Commands: `put`, `del`, `deploy`, `undeploy`.
//!
//! A deployment is a signed target first, and then the old manager's mark beside the manifests: if
//! the second fails, hosts act as they were told, and only a manager that comes later would not
//! know it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_nats::HeaderMap;
use bytes::Bytes;
use rand::Rng as _;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::timeout;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    Server,
    answer::Refusal,
    checked,
    read::{Hosts, deployed, not_found, parse},
};
use crate::{
    rollouts,
    store::{Change, StoreError},
    surroundings::Surroundings,
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
        validate::{check_remarks, unmet, untagged, validate},
    },
    builtin, clock,
    links::{LinkDefinition, Table},
};

/// How long it may take to compare a manifest with hosts, which have to tell their labels first. Only
/// warnings need it.
const WARNINGS_TIMEOUT: Duration = Duration::from_millis(500);
/// Warnings that the answer to a put has room for.
const WARNINGS_MAX: usize = 32;
/// Bytes of one of them.
const WARNING_BYTES_MAX: usize = 2048;
/// Digits of a ULID, in Crockford's base 32.
const ULID_DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The outcome of a deletion.
#[derive(Debug, PartialEq, Eq)]
enum Deleted {
    NoModel,
    NoVersion(String),
    All,
    LastVersion,
    Version(String),
}

impl Deleted {
    /// Returns it in the words of the old manager.
    fn told(self, name: &str, was_deployed: bool) -> (DeleteResult, String) {
        match self {
            Self::NoModel if !was_deployed => {
                (DeleteResult::Noop, format!("Model {name} doesn't exist"))
            }
            Self::NoVersion(version) => {
                (DeleteResult::Noop, format!("Model version {version} doesn't exist"))
            }
            Self::NoModel | Self::All => {
                (DeleteResult::Deleted, format!("Successfully deleted model {name}"))
            }
            Self::LastVersion => (
                DeleteResult::Deleted,
                format!("Successfully deleted last version of model {name}"),
            ),
            Self::Version(version) => (
                DeleteResult::Deleted,
                format!("Successfully deleted version {version} of model {name}"),
            ),
        }
    }
}

impl Server {
    pub(super) async fn put(
        &self,
        headers: Option<&HeaderMap>,
        body: &Bytes,
    ) -> Result<PutReply, Refusal> {
        let (body, format) = (body.clone(), format_of(headers)?);
        let surroundings = Arc::clone(&self.surroundings);
        let read = checked(&self.checks, move || admitted(&*surroundings, &body, format)).await?;
        let Decoded { manifest, mut warnings } = read;
        let manifest = Arc::new(manifest);
        let unmet = timeout(WARNINGS_TIMEOUT, self.unmet(&manifest)).await;
        warnings.extend(unmet.ok().flatten().unwrap_or_default());
        let warnings = few(warnings);
        let (name, version) = (manifest.name().to_owned(), manifest.version().to_owned());
        let total_versions = self
            .models
            .change(&name, |stored| with_version(stored, &manifest, clock::now_ms()))
            .await?;
        info!(application = name, version, "manifest stored");
        let result = if total_versions == 1 { PutResult::Created } else { PutResult::NewVersion };
        let message = PutReply::message_of(&name, &version, &warnings);
        Ok(PutReply { result, total_versions, current_version: version, message, name })
    }

    /// Returns what of a manifest cannot run on the hosts of now, if that can be told.
    async fn unmet(&self, manifest: &Arc<Manifest>) -> Option<Vec<String>> {
        let hosts = self.lattice.hosts().await.ok()?;
        let hosts: Hosts = hosts.into_iter().map(|host| (host.id, host.labels)).collect();
        let manifest = Arc::clone(manifest);
        checked(&self.checks, move || Ok(unmet(&Application::of(&manifest), &hosts))).await.ok()
    }

    pub(super) async fn delete(&self, name: &str, body: &Bytes) -> Result<DeleteReply, Refusal> {
        let wanted = parse::<DeleteRequest>("delete", body)?.meaning();
        let (target, stored) = self.found(name).await?;
        let running = match deployed(target.as_ref()).or(marked(target.as_ref(), stored.as_ref())) {
            Some(version) if wanted.means(version) => self.running(name, target, stored).await?,
            _ => None,
        };
        let is_removed = running.is_some();
        // Before the manifest is gone, so that nothing is started of it meanwhile.
        if let Some(manifest) = running {
            self.undeploy_target(manifest, State::Undeployed).await?;
        }
        let deleted = self.models.change(name, |stored| without(stored, &wanted)).await?;
        let (result, message) = deleted.told(name, is_removed);
        if result == DeleteResult::Deleted {
            info!(application = name, ?wanted, "application deleted, or a version of it");
        }
        Ok(DeleteReply { result, message, undeploy: is_removed })
    }

    pub(super) async fn deploy(&self, name: &str, body: &Bytes) -> Result<DeployReply, Refusal> {
        let request: VersionRequest = parse("deploy", body)?;
        let Some(stored) = self.models.get(name).await? else { return Ok(unknown(name)) };
        let wanted = name.to_owned();
        let read = move || {
            let Some((version, manifest)) = stored.versions.get(request.version.as_deref()) else {
                return Err(Refusal::NoSuchVersion(wanted));
            };
            match usable(&wanted, version, manifest) {
                Ok(manifest) => Ok((version.to_owned(), manifest)),
                Err(cause) => Err(Refusal::Unusable { version: version.to_owned(), cause }),
            }
        };
        let (version, manifest) = checked(&self.stored_checks, read).await?;
        let version = &*version;
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
        // The images of a provider, by what they have in common.
        let mut ours: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (_, provider) in manifest.capabilities() {
            ours.entry(untagged(&provider.image)).or_default().insert(&provider.image);
        }
        let targets = self.targets.watch();
        let targets = targets.borrow();
        let others = targets
            .values()
            .filter(|target| target.is_deployed() && target.name != manifest.name());
        for other in others {
            for (_, theirs) in other.manifest.capabilities() {
                let mut same = ours.get(untagged(&theirs.image)).into_iter().flatten();
                if let Some(image) = same.find(|image| **image != theirs.image) {
                    let (image, application) = ((*image).to_owned(), other.name.clone());
                    return Err(Refusal::OtherProviderVersion { image, application });
                }
            }
        }
        Ok(())
    }

    pub(super) async fn undeploy(&self, name: &str, body: &Bytes) -> Result<DeployReply, Refusal> {
        let request: UndeployRequest = parse("deploy", body)?;
        let state = if request.non_destructive { State::Released } else { State::Undeployed };
        let (target, stored) = self.found(name).await?;
        let was_deployed = deployed(target.as_ref()).is_some();
        let is_marked = stored.as_ref().is_some_and(|stored| stored.deployed_version.is_some());
        if stored.is_none() && !was_deployed {
            return Ok(unknown(name));
        }
        // Released ones are to be stopped as well.
        let manifest = match target {
            Some(target) if target.state == State::Released => Some(target.manifest),
            target => self.running(name, target, stored).await?,
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
        if was_deployed || is_marked {
            self.mark(name, None).await;
        }
        Ok(acknowledged(name, None, message))
    }

    /// Returns an application as hosts know it, and its record unless it is deployed: what runs is
    /// stopped also where the record cannot be read.
    async fn found(&self, name: &str) -> Result<(Option<Target>, Option<Stored>), Refusal> {
        let target = self.targets.get(name).await?;
        let stored = match deployed(target.as_ref()) {
            Some(_) => None,
            None => self.models.get(name).await?,
        };
        Ok((target, stored))
    }

    /// See [`running`]; reads a stored manifest beside what waits for others.
    async fn running(
        &self,
        name: &str,
        target: Option<Target>,
        stored: Option<Stored>,
    ) -> Result<Option<Manifest>, Refusal> {
        if target.is_some() || stored.is_none() {
            // Nothing is read, so what hosts know is stopped at once.
            return running(name, target, stored.as_ref());
        }
        let name = name.to_owned();
        checked(&self.stored_checks, move || running(&name, None, stored.as_ref())).await
    }

    async fn undeploy_target(&self, manifest: Manifest, state: State) -> Result<(), Refusal> {
        let target = Target::of(manifest, state);
        self.targets.set(&target).await?;
        self.tell(News::Unpublished(&target.name)).await;
        Ok(())
    }

    /// Writes the old manager's mark of the deployed version. Hosts do not act on it.
    async fn mark(&self, name: &str, version: Option<&str>) {
        let marked = self.models.change(name, |stored| {
            Ok::<_, StoreError>(match stored {
                Some(stored) if stored.deployed_version.as_deref() != version => {
                    let deployed_version = version.map(str::to_owned);
                    Change::Write(Stored { deployed_version, ..stored }, ())
                }
                _ => Change::Leave(()),
            })
        });
        if let Err(error) = marked.await {
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

/// Reads a manifest that is to be stored, and refuses what cannot be meant so.
fn admitted(
    surroundings: &dyn Surroundings,
    body: &[u8],
    format: Format,
) -> Result<Decoded, Refusal> {
    let Decoded { manifest, mut warnings } = decode(body, format)?;
    // A contract that a host filled in once may be of another image by now.
    let mut manifest = manifest.as_written();
    validate(&manifest)?;
    check_remarks(&manifest)?;
    warnings.extend(check_links(surroundings, &manifest)?);
    warnings.extend(fill_contracts(surroundings, &mut manifest));
    if manifest.version().is_empty() {
        manifest.set_version(&ulid());
    }
    Ok(Decoded { manifest, warnings })
}

/// Refuses link values that a built-in provider would not take, while whoever wrote them is there;
/// returns remarks about the others. Those of other providers nobody knows.
fn check_links(
    surroundings: &dyn Surroundings,
    manifest: &Manifest,
) -> Result<Vec<String>, Refusal> {
    let mut remarks = Vec::new();
    for link in Application::of(manifest).links {
        let Some(Ok(known)) = builtin::find(&link.provider_image) else { continue };
        let (actor, image) = (link.actor_image, link.provider_image);
        let definition = LinkDefinition {
            // Known when it runs; the values are the same for every actor.
            actor_id: String::new(),
            provider_id: known.public_key.to_owned(),
            link_name: link.link_name,
            contract_id: known.contract_id.to_owned(),
            values: link.values,
        };
        match surroundings.check_link(&definition) {
            Ok(found) => {
                let found = found.into_iter().map(|text| format!("the link of {actor}: {text}"));
                remarks.extend(found);
            }
            Err(cause) => return Err(Refusal::LinkValues { actor, image, cause }),
        }
    }
    Ok(remarks)
}

/// Fills in the contracts that a manifest leaves out, of built-in providers, and from the claims of
/// those that ran here before; returns remarks about the others.
fn fill_contracts(surroundings: &dyn Surroundings, manifest: &mut Manifest) -> Vec<String> {
    let table = surroundings.table();
    let missing = manifest.fill_contracts(|image| contract_of(table.as_deref(), image));
    let remarks = missing.iter().map(|component| {
        format!(
            "component {component:?} has no `contract`, and its provider has not run here yet to tell it; it runs all the same, \
             but `wash` of 2024 reads only manifests with one"
        )
    });
    remarks.collect()
}

/// Returns as much of warnings as an answer has room for: the manifest is stored by then, and an
/// answer that does not fit would not say so.
fn few(mut warnings: Vec<String>) -> Vec<String> {
    let more = warnings.len().saturating_sub(WARNINGS_MAX);
    warnings.truncate(WARNINGS_MAX);
    for warning in &mut warnings {
        let end = warning.floor_char_boundary(WARNING_BYTES_MAX);
        if end < warning.len() {
            warning.truncate(end);
            warning.push('…');
        }
    }
    if more > 0 {
        warnings.push(format!("and {more} more of this kind"));
    }
    warnings
}

/// Returns the contract of a built-in provider, or of the one that an image led to when it was
/// started last.
fn contract_of(table: Option<&Table>, image: &str) -> Option<String> {
    if let Some(known) = builtin::find(image) {
        return known.ok().map(|known| known.contract_id.to_owned());
    }
    let table = table?;
    let claims = table.claims(table.public_key_of(image)?)?;
    Some(claims.contract_id.clone()).filter(|contract| !contract.is_empty())
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

/// Reads a stored version, which another manager may have written; the error says why it is of no
/// use here.
fn usable(name: &str, version: &str, stored: &serde_json::Value) -> Result<Manifest, String> {
    let mut manifest: Manifest =
        serde_json::from_value(stored.clone()).map_err(|error| error.to_string())?;
    validate(&manifest).map_err(|error| error.to_string())?;
    if manifest.name() != name {
        return Err(format!("it is of {:?}", manifest.name()));
    }
    // Stored without a version, it has an empty one.
    if manifest.version() != version {
        manifest.set_version(version);
    }
    Ok(manifest)
}

/// Adds a version to an application, put at this time; the result is how many there are then.
fn with_version(
    stored: Option<Stored>,
    manifest: &Manifest,
    at: u64,
) -> Result<Change<usize>, Refusal> {
    let mut stored = stored.unwrap_or_default();
    let version = manifest.version();
    if stored.versions.names().any(|of| of == version) {
        return Err(Refusal::VersionExists(version.to_owned()));
    }
    stored.push(manifest, at).map_err(Refusal::Form)?;
    let total = stored.versions.len();
    Ok(Change::Write(stored, total))
}

/// Takes versions from an application, and all of it with the last one.
fn without(stored: Option<Stored>, wanted: &Delete) -> Result<Change<Deleted>, Refusal> {
    let (mut stored, version) = match (stored, wanted) {
        (Some(_), Delete::All) => return Ok(Change::Remove(Deleted::All)),
        // Its name may be left on the list.
        (None, Delete::All) => return Ok(Change::Remove(Deleted::NoModel)),
        (None, Delete::One(_)) => return Ok(Change::Leave(Deleted::NoModel)),
        (Some(stored), Delete::One(version)) => (stored, version),
    };
    if !stored.remove(version) {
        return Ok(Change::Leave(Deleted::NoVersion(version.clone())));
    }
    if stored.deployed_version.as_ref() == Some(version) {
        stored.deployed_version = None;
    }
    Ok(match stored.versions.is_empty() {
        true => Change::Remove(Deleted::LastVersion),
        false => Change::Write(stored, Deleted::Version(version.clone())),
    })
}

/// Returns the manifest of what is deployed: by these hosts, or else by an earlier manager, whose
/// mark is beside the manifests.
fn running(
    name: &str,
    target: Option<Target>,
    stored: Option<&Stored>,
) -> Result<Option<Manifest>, Refusal> {
    if let Some(target) = target {
        return Ok(Some(target).filter(Target::is_deployed).map(|target| target.manifest));
    }
    let (Some(stored), Some(version)) = (stored, marked(None, stored)) else { return Ok(None) };
    // Its links are known by the manifest only, so without one nothing can be stopped.
    let unknown = |cause: String| Refusal::OfAnother {
        application: name.to_owned(),
        version: version.to_owned(),
        cause,
    };
    let Some((_, manifest)) = stored.versions.get(Some(version)) else {
        return Err(unknown("it is not stored".into()));
    };
    usable(name, version, manifest).map(Some).map_err(unknown)
}

/// Returns the version that an earlier manager marked as deployed, unless hosts know better.
fn marked<'a>(target: Option<&Target>, stored: Option<&'a Stored>) -> Option<&'a str> {
    match target {
        Some(_) => None,
        None => stored?.deployed_version.as_deref(),
    }
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

    fn manifest(version: &str) -> Manifest {
        let text = format!(
            r#"{{"apiVersion":"core.oam.dev/v1beta1","kind":"Application",
                "metadata":{{"name":"shop","annotations":{{"version":"{version}"}}}},"spec":{{"components":[]}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn stored(versions: &[&str], deployed: Option<&str>) -> Stored {
        let mut stored =
            Stored { deployed_version: deployed.map(str::to_owned), ..Stored::default() };
        versions.iter().for_each(|version| stored.push(&manifest(version), 1).unwrap());
        stored
    }

    #[test]
    fn the_answer_to_a_put_has_room_for_its_warnings() {
        let told = few(vec!["w".repeat(100_000); WARNINGS_MAX + 1]);
        assert_eq!(told.len(), WARNINGS_MAX + 1);
        assert!(told.concat().len() < 100_000);
        assert_eq!(few(vec!["short".into()]), ["short"]);
    }

    #[test]
    fn a_version_is_added_once() {
        let added = |stored, version| match with_version(stored, &manifest(version), 7) {
            Ok(Change::Write(stored, total)) => {
                assert_eq!(stored.versions.len(), total);
                assert_eq!(stored.put_at.get(version), Some(&7));
                Ok(total)
            }
            Ok(_) => panic!("it is written"),
            Err(refusal) => Err(refusal.to_string()),
        };
        assert_eq!(added(None, "v1"), Ok(1));
        assert_eq!(added(Some(stored(&["v1"], None)), "v2"), Ok(2));
        let again = added(Some(stored(&["v1"], None)), "v1");
        assert_eq!(again, Err("Manifest version v1 already exists".to_owned()));
    }

    #[test]
    fn the_last_version_takes_the_application_with_it() {
        let one = |version: &str| Delete::One(version.to_owned());
        let two = || Some(stored(&["v1", "v2"], Some("v2")));
        for (before, wanted, expected, left) in [
            (None, Delete::All, Deleted::NoModel, 0),
            (None, one("v1"), Deleted::NoModel, 0),
            (two(), Delete::All, Deleted::All, 0),
            (two(), one("v3"), Deleted::NoVersion("v3".into()), 2),
            (two(), one("v2"), Deleted::Version("v2".into()), 1),
            (Some(stored(&["v1"], None)), one("v1"), Deleted::LastVersion, 0),
        ] {
            let is_there = before.is_some();
            let (left_over, deleted) = match without(before, &wanted).unwrap() {
                Change::Remove(deleted) => (0, deleted),
                Change::Leave(deleted) => (if is_there { 2 } else { 0 }, deleted),
                Change::Write(stored, deleted) => {
                    assert_eq!(stored.deployed_version, None, "it is not marked any more");
                    (stored.versions.len(), deleted)
                }
            };
            assert_eq!((deleted, left_over), (expected, left), "{wanted:?}");
        }
    }

    #[test]
    fn what_runs_is_known_by_the_signed_target_or_else_by_the_mark_of_another_manager() {
        let target = |state| Some(Target::of(manifest("v1"), state));
        let version = |target: Option<Target>, stored: Option<Stored>| {
            let running = running("shop", target, stored.as_ref());
            running.map(|running| running.map(|manifest| manifest.version().to_owned()))
        };
        let marked = || Some(stored(&["v1", "v2"], Some("v2")));
        for (target, stored, expected) in [
            (None, None, None),
            (None, Some(stored(&["v1"], None)), None),
            (None, marked(), Some("v2")),
            (target(State::Deployed), marked(), Some("v1")),
            (target(State::Undeployed), marked(), None),
            (target(State::Released), marked(), None),
        ] {
            let running = version(target, stored).unwrap();
            assert_eq!(running.as_deref(), expected);
        }
        let lost = version(None, Some(stored(&["v1"], Some("v2")))).unwrap_err().to_string();
        for part in ["by another manager in version v2", "it is not stored", "Put a version"] {
            assert!(lost.contains(part), "{part} in {lost}");
        }
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
