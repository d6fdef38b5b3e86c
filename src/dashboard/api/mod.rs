//! The JSON API of the dashboard, `/api/v1`: for the page, with all it shows and does, and for
//! scripts.
//!
//! * Each file has the routes of one kind of thing, with the types of their bodies; the description
//!   at `/api/v1/openapi.json` is made of the same definitions.
//! * Lists come in pages ([`page`]), searched and sorted here, so that a lattice of any size stays
//!   quick.
//! * A request that changes something is answered with 202 and an [operation](super::operations),
//!   which goes on by itself.
//! * An error is `{"error": "…"}`, in a sentence that says what to do.

mod actors;
mod applications;
mod attention;
mod auctions;
mod call;
mod claims;
mod drain;
mod events;
mod failures;
mod history;
mod hosts;
mod links;
mod logs;
mod lost;
mod operations;
mod overview;
mod page;
mod providers;
mod session;
mod standing;
mod uploads;

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{
        self, DefaultBodyLimit, FromRequest, FromRequestParts, Request, rejection::JsonRejection,
    },
    http::{StatusCode, Uri, request::Parts},
    routing::get,
};
use serde::de::DeserializeOwned;
use utoipa::{
    OpenApi,
    openapi::{Content, Ref, ResponseBuilder},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    Dashboard,
    refusal::{ErrorBody, Refusal},
    stream,
};
use lattice_protocol::errors::chain;

/// How long the body of a request may take that is no file.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest body that is no file, in bytes; and the largest that holds the payload of a call.
const BODY_BYTES_MAX: usize = 64 << 10;
const CALL_BYTES_MAX: usize = 2 << 20;

/// The description of the API, without its routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Dashboard of a lattice host",
        description = "What the dashboard shows and does. Changes need a login, and so does reading from other machines: send the \
            token or a session as bearer, `authorization: Bearer TOKEN`. Without one, link values and what actors and providers \
            say are hidden. Changes answer 202 with an operation; `GET /api/v1/operations`, or the stream, tells how it gets on."
    ),
    tags(
        (name = "lattice", description = "The lattice at a glance, and what happens in it"),
        (name = "applications", description = "What the lattice was asked to keep running"),
        (name = "hosts"), (name = "actors"), (name = "providers"), (name = "links"), (name = "claims"),
        (name = "operations", description = "Changes, files, auctions and calls"),
        (name = "session", description = "Logging in and out")
    )
)]
struct Description;

/// Refusals that may answer every request.
const REFUSALS: [(&str, &str); 10] = [
    ("400", "the question cannot be read"),
    ("401", "neither a session nor the token is shown, or it is over or wrong"),
    ("403", "it comes from a page of another origin"),
    ("404", "it is not there"),
    ("421", "the dashboard is not called so"),
    ("422", "it makes no sense, or cannot be done"),
    ("429", "too many at a time, or too many wrong tokens"),
    ("502", "nobody in the lattice answers"),
    ("503", "too many connections or files at a time"),
    ("504", "no answer in time; what was asked for may still be done"),
];

/// A body of JSON. Anything else is refused, in the form of all refusals: so no form of another
/// page can send one.
struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        match tokio::time::timeout(BODY_TIMEOUT, Json::<T>::from_request(request, state)).await {
            Ok(Ok(Json(body))) => Ok(Self(body)),
            Ok(Err(rejection)) => Err(refused(&rejection)),
            Err(_) => {
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))
            }
        }
    }
}

fn refused(rejection: &JsonRejection) -> Refusal {
    Refusal::new(rejection.status(), format!("the body of the request: {}", chain(rejection)))
}

/// The query of a request, after the question mark.
struct Query<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(extract::Query(asked)) => Ok(Self(asked)),
            Err(rejection) => Err(Refusal::new(rejection.status(), chain(&rejection))),
        }
    }
}

/// The routes and their description.
fn described() -> (Router<Dashboard>, utoipa::openapi::OpenApi) {
    let (router, mut description) = router().split_for_parts();
    description.info.version = lattice_engine::control::state::VERSION.to_owned();
    // Handlers are called alike in their files; in the description each needs a name of its own.
    for item in description.paths.paths.values_mut() {
        for operation in
            [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten()
        {
            let tag = operation.tags.iter().flatten().next().cloned().unwrap_or_default();
            operation.operation_id = operation.operation_id.take().map(|id| format!("{tag}_{id}"));
            for (status, meaning) in REFUSALS {
                let refusal = ResponseBuilder::new().description(meaning).content(
                    "application/json",
                    Content::new(Some(Ref::from_schema_name("ErrorBody"))),
                );
                operation
                    .responses
                    .responses
                    .entry(status.to_owned())
                    .or_insert_with(|| refusal.build().into());
            }
        }
    }
    (router, description)
}

fn router() -> OpenApiRouter<Dashboard> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(overview::overview))
        .routes(routes!(hosts::list))
        .routes(routes!(hosts::one))
        .routes(routes!(hosts::put_label, hosts::delete_label))
        .routes(routes!(hosts::stop))
        .routes(routes!(lost::start_elsewhere))
        .routes(routes!(drain::drain))
        .routes(routes!(drain::undrain))
        .routes(routes!(lost::forget))
        .routes(routes!(actors::list, actors::start))
        .routes(routes!(actors::one))
        .routes(routes!(actors::scale))
        .routes(routes!(actors::update))
        .routes(routes!(actors::stop))
        .routes(routes!(providers::list, providers::start))
        .routes(routes!(providers::one))
        .routes(routes!(providers::stop))
        .routes(routes!(providers::builtins))
        .routes(routes!(failures::failed_calls))
        .routes(routes!(failures::failed_calls_of_actor))
        .routes(routes!(failures::failed_calls_of_provider))
        .routes(routes!(logs::of_actor))
        .routes(routes!(logs::of_provider))
        .routes(routes!(applications::keeping))
        .routes(routes!(applications::list))
        .routes(routes!(applications::one, applications::change::delete))
        .routes(routes!(applications::compare))
        .routes(routes!(applications::manifest))
        .routes(routes!(applications::change::deploy))
        .routes(routes!(applications::change::undeploy))
        .routes(routes!(applications::change::rollout))
        .routes(routes!(links::list, links::put, links::delete))
        .routes(routes!(links::undo))
        .routes(routes!(claims::list))
        .routes(routes!(events::list))
        .routes(routes!(events::pulls))
        .routes(routes!(attention::attention))
        .routes(routes!(attention::mark, attention::clear))
        .routes(routes!(history::audit))
        .routes(routes!(history::rates))
        .routes(routes!(operations::list))
        .routes(routes!(uploads::upload))
        .routes(routes!(auctions::preview))
        .routes(routes!(session::log_in, session::log_out))
        .routes(routes!(stream::stream))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .merge(
            OpenApiRouter::new()
                .routes(routes!(call::call))
                .layer(DefaultBodyLimit::max(CALL_BYTES_MAX)),
        )
        .merge(
            OpenApiRouter::new()
                .routes(routes!(applications::apply::preview))
                .routes(routes!(applications::apply::apply))
                .layer(DefaultBodyLimit::max(applications::apply::BYTES_MAX)),
        )
}

/// All routes below `/api/v1`.
pub fn routes() -> Router<Dashboard> {
    let (router, description) = described();
    let description = description.to_json().expect("a description is JSON");
    let describe = move || async move { ([("content-type", "application/json")], description) };
    router.route("/api/v1/openapi.json", get(describe))
}

/// Answers the requests that nothing else answers.
pub async fn not_found(uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    Refusal::not_found(format!(
        "there is nothing at {path:?}; the page is at /, the API at /api/v1/openapi.json"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_has_every_route_and_every_schema_it_speaks_of() {
        let (_, description) = described();
        let text = description.to_json().unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let paths = json["paths"].as_object().unwrap();
        assert!(
            paths.len() >= 22 && paths.keys().all(|path| path.starts_with("/api/v1/")),
            "{:?}",
            paths.keys()
        );
        let schemas = json["components"]["schemas"].as_object().unwrap();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
        let mut ids = std::collections::BTreeSet::new();
        for (path, item) in paths {
            for (method, operation) in
                item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
            {
                assert!(
                    operation["summary"].is_string() || operation["description"].is_string(),
                    "{method} {path}"
                );
                assert!(ids.insert(operation["operationId"].to_string()), "{method} {path}");
            }
        }
    }
}
