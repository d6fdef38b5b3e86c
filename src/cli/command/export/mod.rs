//! `host export`: a manifest of what runs.
//!
//! ```text
//! inventories, links ─▶ what no application manages ─▶ manifest
//! ```

mod build;

use anyhow::{Context as _, Result, anyhow, bail};

use super::manager;
use crate::{
    args::{app::Export, flags::SettingArgs},
    session::Session,
    terminal::Terminal,
};
use lattice_client::applications::Applications;
use lattice_protocol::applications::manifest::Manifest;

pub async fn run(terminal: &Terminal, before: SettingArgs, args: &Export) -> Result<()> {
    let manifest = match &args.application {
        Some(name) => {
            let applications = manager::connect(before, &args.connect).await?;
            deployed(&applications, name).await?
        }
        None => {
            let session = Session::open(before, &args.connect)?;
            unmanaged(terminal, &session).await?
        }
    };
    build::bound_to_here(&manifest).iter().for_each(|note| terminal.note(note));
    terminal.document(&manifest)
}

/// Returns the deployed manifest of an application.
async fn deployed(applications: &Applications, name: &str) -> Result<Manifest> {
    let reply = applications.versions(name).await?.found()?.read()?;
    let mut versions = reply.into_iter().flat_map(|reply| reply.versions);
    let Some(deployed) = versions.find(|one| one.deployed) else {
        bail!("{name} is not deployed; `host app get {name}` prints its newest manifest");
    };
    let reply = applications.get(name, Some(&deployed.version)).await?.read()?;
    let manifest = reply
        .and_then(|reply| reply.manifest)
        .ok_or_else(|| anyhow!("{name} was changed meanwhile; export it again"))?;
    serde_json::from_value(manifest).with_context(|| format!("read the manifest of {name}"))
}

/// Returns a manifest of what runs and is managed by no application.
async fn unmanaged(terminal: &Terminal, session: &Session) -> Result<Manifest> {
    let lattice = session.lattice().await?;
    let hosts = lattice.some_hosts().await?;
    let mut inventories = Vec::new();
    for (host, asked) in lattice.asked_inventories(&hosts).await {
        match asked {
            Ok(inventory) => inventories.push(inventory),
            Err(error) => {
                bail!("host {host} does not say what it runs, so nothing is exported: {error}")
            }
        }
    }
    let links = lattice.links().await.context("ask for the links")?;
    let built = build::unmanaged(&inventories, &links);
    built.notes.iter().for_each(|note| terminal.note(note));
    if built.manifest.spec.components.is_empty() {
        bail!(
            "nothing runs in lattice {} that no application manages; `host app list` shows applications, and \
             `host export --application NAME` prints one",
            lattice.name()
        );
    }
    Ok(built.manifest)
}
