//! Changes of an application: deploying one of its versions, taking it down, deleting it, and
//! wishes about its rollout.

use anyhow::Context as _;
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{changeable, checked, client, no_application, settle::settled};
use crate::{
    Dashboard,
    api::{
        Body, ErrorBody, Query, Refusal,
        operations::{Accepted, accepted},
    },
    operations::{End, NewOperation},
};
use lattice_client::applications::{Applications, Awaited};
use lattice_protocol::applications::api::{Delete, RolloutAction, UndeployRequest};

/// Which version is to run.
#[derive(Deserialize, ToSchema)]
pub struct Deploy {
    version: String,
}

/// Deploys a version that is stored: a newer one, or an older one to go back to
#[utoipa::path(post, path = "/api/v1/applications/{name}/deploy", tag = "applications", request_body = Deploy,
    params(("name" = String, Path)),
    responses((status = 202, body = Accepted), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn deploy(
    State(dashboard): State<Dashboard>,
    Path(name): Path<String>,
    Body(Deploy { version }): Body<Deploy>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let client = of(&dashboard, &name, Some(&version)).await?;
    let operation = NewOperation {
        kind: "deploy",
        title: format!("Deploy {name} {version}"),
        ..NewOperation::default()
    };
    let work = dashboard.clone();
    accepted(dashboard.operations().begin(operation, |handle| async move {
        handle.stage("deploy", format!("{name} {version}"));
        client.deploy(&name, Some(&version)).await?.found()?;
        let awaited = Awaited { name, version, ..Awaited::default() };
        settled(&work, &handle, vec![awaited], Vec::new()).await
    }))
}

/// How an application is taken down.
#[derive(Deserialize, ToSchema)]
pub struct Undeploy {
    /// Everything goes on running, but nobody keeps it so.
    #[serde(default)]
    keep_running: bool,
}

/// Takes an application down; its versions stay
#[utoipa::path(post, path = "/api/v1/applications/{name}/undeploy", tag = "applications", request_body = Undeploy,
    params(("name" = String, Path)),
    responses((status = 202, body = Accepted), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn undeploy(
    State(dashboard): State<Dashboard>,
    Path(name): Path<String>,
    Body(Undeploy { keep_running }): Body<Undeploy>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let client = of(&dashboard, &name, None).await?;
    let operation = NewOperation {
        kind: "undeploy",
        title: format!("Undeploy {name}"),
        ..NewOperation::default()
    };
    let model = dashboard.model().clone();
    accepted(dashboard.operations().begin(operation, |handle| async move {
        handle.stage("command", "");
        let request = UndeployRequest { non_destructive: keep_running };
        client.undeploy(&name, request).await?.found()?;
        model.shelf().want();
        let text = match keep_running {
            true => format!(
                "{name} is undeployed; what it started goes on running, and nobody keeps it so"
            ),
            false => format!("{name} is undeployed; what it started is being stopped"),
        };
        Ok(End { text, ..End::default() })
    }))
}

/// The part of an application that is deleted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct WhatIsDeleted {
    /// One version; without it all of them.
    version: Option<String>,
}

/// Deletes an application or one of its versions; what runs of it is stopped
#[utoipa::path(delete, path = "/api/v1/applications/{name}", tag = "applications",
    params(("name" = String, Path), WhatIsDeleted),
    responses((status = 202, body = Accepted), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn delete(
    State(dashboard): State<Dashboard>,
    Path(name): Path<String>,
    Query(WhatIsDeleted { version }): Query<WhatIsDeleted>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let client = of(&dashboard, &name, version.as_deref()).await?;
    let what = version.as_ref().map_or_else(|| name.clone(), |version| format!("{name} {version}"));
    let operation = NewOperation {
        kind: "delete_application",
        title: format!("Delete {what}"),
        ..NewOperation::default()
    };
    let model = dashboard.model().clone();
    accepted(dashboard.operations().begin(operation, |handle| async move {
        handle.stage("command", "");
        client.delete(&name, version.map_or(Delete::All, Delete::One)).await?.found()?;
        model.shelf().want();
        Ok(End { text: format!("{what} is deleted"), ..End::default() })
    }))
}

/// A wish about a rollout.
#[derive(Deserialize, ToSchema)]
pub struct Wish {
    /// `pause`, `resume`, `continue` (to the next step at once) or `abort`.
    action: String,
}

/// Pauses, resumes, hurries or ends a rollout
#[utoipa::path(post, path = "/api/v1/applications/{name}/rollout", tag = "applications", request_body = Wish,
    params(("name" = String, Path)),
    responses((status = 202, body = Accepted), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub async fn rollout(
    State(dashboard): State<Dashboard>,
    Path(name): Path<String>,
    Body(Wish { action }): Body<Wish>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    let (wish, title) = match &*action {
        "pause" => (RolloutAction::Pause, "Pause"),
        "resume" => (RolloutAction::Resume, "Resume"),
        "continue" => (RolloutAction::Continue, "Continue"),
        "abort" => (RolloutAction::Abort, "Abort"),
        _ => {
            return Err(Refusal::wrong(format!(
                "{action:?} is no wish about a rollout: pause, resume, continue or abort"
            )));
        }
    };
    let client = of(&dashboard, &name, None).await?;
    let operation = NewOperation {
        kind: "rollout",
        title: format!("{title} the rollout of {name}"),
        ..NewOperation::default()
    };
    let model = dashboard.model().clone();
    accepted(dashboard.operations().begin(operation, |handle| async move {
        handle.stage("command", "");
        let reply = client.rollout(&name, wish).await?.read()?;
        model.shelf().want();
        let reply = reply.with_context(|| format!("{name} is not rolled out step by step now"))?;
        Ok(End { text: reply.message, ..End::default() })
    }))
}

/// Returns a client, if changes can be made and the application, or a version of it, is there.
async fn of(
    dashboard: &Dashboard,
    name: &str,
    version: Option<&str>,
) -> Result<Applications, Refusal> {
    checked(name)?;
    changeable(dashboard).await?;
    let client = client(dashboard);
    let reply = client.versions(name).await?.read()?;
    let versions = reply.ok_or_else(|| no_application(name))?.versions;
    match version {
        Some(version) if !versions.iter().any(|one| one.version == version) => {
            Err(Refusal::not_found(format!("{name} has no version {version}")))
        }
        _ => Ok(client),
    }
}
