//! The call tester: one call of an actor, and how it was decided.

use std::{sync::atomic::AtomicBool, time::Duration};

use axum::{Json, extract::State};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{Body, ErrorBody, Refusal, actors::actor_id};
use crate::Dashboard;
use lattice_engine::rpc::{
    call::{Call, CallError},
    client::new_id,
};
use lattice_protocol::{
    control::probe::explain::{Outcome, Request as ExplainRequest},
    identity::keys::ActorId,
    rpc::{
        invocation::Entity,
        readable::{Binary, from_json, to_json},
    },
};

/// How long a call may take.
const WAIT: Duration = Duration::from_secs(10);
/// Larger replies are not shown.
const SHOWN_BYTES_MAX: usize = 1 << 20;

/// A call to make.
#[derive(Deserialize, ToSchema)]
pub struct CallActor {
    actor_id: String,
    /// As on the wire, like `HttpServer.HandleRequest`.
    operation: String,
    /// Becomes MessagePack; `{"$bin": "base64"}` is a binary value. Null is no payload at all.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    payload: Value,
    /// The payload as it is, instead of `payload`: the standard input of a job.
    raw: Option<String>,
}

/// How payload and reply of a call are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    MessagePack,
    /// As texts of a job.
    Raw,
}

/// The outcome of a call.
#[derive(Serialize, ToSchema)]
pub struct Reply {
    ok: bool,
    /// The reply as JSON, binary values as texts.
    #[schema(value_type = Option<Object>)]
    reply: Option<Value>,
    /// The reply as text, if it is one.
    text: Option<String>,
    bytes: usize,
    took_us: u64,
    error: Option<String>,
    /// How the host of this dashboard decides such a call.
    trace: Option<Trace>,
}

/// How a call is decided.
#[derive(Serialize, ToSchema)]
pub struct Trace {
    host_id: String,
    host_name: String,
    conclusion: String,
    steps: Vec<TraceStep>,
}

/// One step of a decision.
#[derive(Serialize, ToSchema)]
pub struct TraceStep {
    /// `known`, `link`, `claim`, `check`, `policy`, `replica`, `path`, `deadline` or `repeat`.
    step: String,
    /// `ok`, `fails` or `unknown`.
    outcome: &'static str,
    why: String,
    fix: Option<String>,
}

/// Calls an actor, signed by this host, and waits for the reply
#[utoipa::path(post, path = "/api/v1/call", tag = "operations", request_body = CallActor,
    responses((status = 200, body = Reply), (status = 422, body = ErrorBody)))]
pub async fn call(
    State(dashboard): State<Dashboard>,
    Body(call): Body<CallActor>,
) -> Result<Json<Reply>, Refusal> {
    let id = actor_id(&call.actor_id)?;
    let actor = ActorId::parse(&id).map_err(|error| Refusal::wrong(error.to_string()))?;
    let operation = call.operation.trim().to_owned();
    if operation.is_empty() {
        return Err(Refusal::wrong("name the operation, like HttpServer.HandleRequest"));
    }
    let form = if call.raw.is_some() { Form::Raw } else { Form::MessagePack };
    let payload = payload(call.payload, call.raw)?;
    let target = Entity::actor(&actor);
    let trace = trace(&dashboard, &target, &operation).await;
    let call = Call::new((target.clone(), target), operation, payload, Instant::now() + WAIT);
    let began = Instant::now();
    let result =
        dashboard.parts().caller.invoke(call, None, new_id(), &AtomicBool::new(false)).await;
    let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(Json(told(result, form, took_us, trace)))
}

fn payload(value: Value, raw: Option<String>) -> Result<Bytes, Refusal> {
    match (value, raw) {
        (Value::Null, raw) => Ok(raw.unwrap_or_default().into()),
        (_, Some(_)) => Err(Refusal::wrong("give either a payload or a raw one, not both")),
        (value, None) => match from_json(&value) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(Refusal::wrong(format!("the payload: {error:#}"))),
        },
    }
}

fn told(result: Result<Bytes, CallError>, form: Form, took_us: u64, trace: Option<Trace>) -> Reply {
    let empty = Reply { ok: false, reply: None, text: None, bytes: 0, took_us, error: None, trace };
    match result {
        Ok(reply) if reply.len() > SHOWN_BYTES_MAX => Reply {
            ok: true,
            bytes: reply.len(),
            text: Some(format!(
                "{} bytes, too many to show; `host call --save FILE` keeps them",
                reply.len()
            )),
            ..empty
        },
        // A number that a job prints would be read as MessagePack.
        Ok(reply) if form == Form::Raw => {
            let text = String::from_utf8_lossy(&reply).into_owned();
            Reply { ok: true, bytes: reply.len(), text: Some(text), ..empty }
        }
        Ok(reply) => {
            let shown = to_json(&reply, Binary::Text);
            let text = match &shown {
                Value::String(text) => Some(text.clone()),
                // Of a page the body is what one wants to read.
                Value::Object(members) => {
                    members.get("body").and_then(Value::as_str).map(str::to_owned)
                }
                _ => None,
            };
            Reply { ok: true, bytes: reply.len(), reply: Some(shown), text, ..empty }
        }
        Err(error) => Reply { error: Some(error.to_string()), ..empty },
    }
}

/// How this host would decide it; nothing if it does not tell in time.
async fn trace(dashboard: &Dashboard, target: &Entity, operation: &str) -> Option<Trace> {
    let host_id = dashboard.model().own_id().to_owned();
    let request = ExplainRequest {
        origin: target.clone(),
        namespace: target.public_key.to_string(),
        operation: operation.to_owned(),
        ..ExplainRequest::default()
    };
    let explained = dashboard.lattice().request_of(&host_id, &request).await.ok()?;
    let steps = explained.steps.into_iter().map(|step| TraceStep {
        step: step.step,
        outcome: match step.outcome {
            Outcome::Ok => "ok",
            Outcome::Fails => "fails",
            Outcome::Unknown => "unknown",
        },
        why: step.why,
        fix: step.fix,
    });
    Some(Trace {
        host_name: dashboard.model().snapshot().host_name(&host_id),
        host_id,
        conclusion: explained.conclusion,
        steps: steps.collect(),
    })
}
