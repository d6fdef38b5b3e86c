//! Makes applications run as manifests say: the part of `host apply`, and of the dashboard, that
//! needs no terminal.
//!
//! ```text
//! texts ─▶ documents::Found ─▶ Compared with what is stored and deployed ─▶ Step: put, deploy
//! ```
//!
//! Up to the comparison nothing is sent that changes anything.

pub mod decide;
pub mod difference;
pub mod documents;

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use crate::applications::{Applications, Awaited};
use decide::{Action, Kept, OtherContent, applied_set, decide};
use documents::File;
use lattice_protocol::applications::{api::PutReply, manifest::Manifest};

/// An application of a text, with what is to be done for it.
#[derive(Clone, Debug)]
pub struct Step {
    pub file: File,
    pub kept: Kept,
    pub action: Action,
}

impl Step {
    pub fn manifest(&self) -> &Manifest {
        &self.file.wanted.manifest
    }

    /// Returns the version that is to run: that of the same content where nothing is to be done.
    pub fn version(&self) -> &str {
        match (self.action, &self.kept.deployed) {
            (Action::Leave, Some(deployed)) => deployed,
            _ => self.manifest().version(),
        }
    }

    /// Returns the lines that differ from before; empty if nothing is to be done.
    pub fn difference(&self) -> String {
        match self.action {
            Action::Leave => String::new(),
            _ => difference::difference(self.kept.before(), self.manifest()),
        }
    }

    /// Returns a note about an application that another set may take away.
    fn other_set(&self) -> Option<String> {
        let set = self.kept.before().and_then(applied_set)?;
        let is_other = self.action == Action::Leave && Some(set) != applied_set(self.manifest());
        is_other.then(|| {
            format!(
                "{} {} belongs to set {set:?}, as it was applied first; only a new version can belong to another one",
                self.manifest().name(),
                self.version()
            )
        })
    }

    /// Returns a note about an application whose manifest cannot be compared.
    fn unread(&self) -> Option<String> {
        let Kept { deployed, newest, .. } = &self.kept;
        let version = deployed.as_ref().or(newest.as_ref())?;
        self.kept.before().is_none().then(|| {
            format!(
                "{} {version}, which it takes the place of, cannot be read here; so the whole manifest counts as new",
                self.manifest().name()
            )
        })
    }

    /// Returns what is worth to know before it is sent.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        [self.other_set(), self.unread()].into_iter().flatten()
    }

    /// Returns what is to be waited for.
    pub fn awaited(&self) -> Awaited {
        let components = self.manifest().spec.components.iter();
        let images = components.map(|component| component.properties.image().to_owned()).collect();
        let (name, version) = (self.manifest().name().to_owned(), self.version().to_owned());
        Awaited { name, version, images }
    }

    /// Puts and deploys what is to be. Returns the warnings of the host that took it.
    pub async fn send(&self, applications: &Applications) -> Result<Vec<String>> {
        let mut warnings = Vec::new();
        match self.action {
            Action::Leave => return Ok(warnings),
            Action::Deploy => {}
            Action::Create | Action::Update => {
                let reply = applications.put(serde_json::to_vec(self.manifest())?).await?.read()?;
                warnings.extend(reply.iter().flat_map(PutReply::warnings).map(str::to_owned));
            }
        }
        let (name, version) = (self.manifest().name(), self.manifest().version());
        applications.deploy(name, Some(version)).await?.found()?;
        Ok(warnings)
    }
}

/// An application of a text whose version is stored with another content.
#[derive(Clone, Debug)]
pub struct Clash {
    pub file: File,
    pub kept: Kept,
}

impl Clash {
    /// Returns why it is refused.
    pub fn told(&self) -> String {
        let manifest = &self.file.wanted.manifest;
        let (name, version) = (manifest.name(), manifest.version());
        format!(
            "{}: version {version} of {name} is stored with another content (`host app get {name} {version}`), and a stored \
             version never changes; give the manifest another version annotation, or none, and one is made from its content",
            self.file.place
        )
    }
}

/// The applications of texts, each against what the lattice has of it.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    pub steps: Vec<Step>,
    /// Nothing is sent if there are any; all of them are told together.
    pub clashes: Vec<Clash>,
}

impl Compared {
    /// Compares each application with what the lattice has of it.
    pub async fn of(applications: &Applications, files: Vec<File>) -> Result<Self> {
        let mut compared = Self::default();
        for file in files {
            let manifest = &file.wanted.manifest;
            let kept = kept(applications, manifest.name(), manifest.version()).await?;
            match decide(&kept, &file.wanted) {
                Ok(action) => compared.steps.push(Step { file, kept, action }),
                Err(OtherContent) => compared.clashes.push(Clash { file, kept }),
            }
        }
        Ok(compared)
    }
}

/// Returns what the lattice has of an application, as far as it matters for this version.
async fn kept(applications: &Applications, name: &str, version: &str) -> Result<Kept> {
    let reply = applications.versions(name).await?.read()?;
    let versions = reply.map(|reply| reply.versions).unwrap_or_default();
    let deployed = versions.iter().find(|one| one.deployed).map(|one| one.version.clone());
    let newest = versions.last().map(|one| one.version.clone());
    let mut manifests = BTreeMap::new();
    for one in versions.into_iter().map(|one| one.version) {
        if one == version || [&deployed, &newest].contains(&&Some(one.clone())) {
            let manifest = readable(applications, name, &one).await?;
            manifests.insert(one, manifest.map(Manifest::as_written));
        }
    }
    Ok(Kept { deployed, newest, manifests })
}

/// Returns a stored version, if it is there and can be read here.
pub async fn readable(
    applications: &Applications,
    name: &str,
    version: &str,
) -> Result<Option<Manifest>> {
    let manifest = stored(applications, name, version).await?;
    Ok(manifest.and_then(|manifest| serde_json::from_value(manifest).ok()))
}

/// Returns a stored version as it is, if it is there.
pub async fn stored(
    applications: &Applications,
    name: &str,
    version: &str,
) -> Result<Option<Value>> {
    let reply = applications.get(name, Some(version)).await?.read()?;
    Ok(reply.and_then(|reply| reply.manifest))
}
