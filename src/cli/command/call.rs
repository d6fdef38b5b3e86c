//! `host call`: an operation of an actor, from the command line.
//!
//! The invocation is signed like any other: with the cluster seed of the settings, or by a host of
//! this machine, which holds it. It goes over NATS to whoever runs the actor; hosts see the actor
//! itself as its caller, as they did with `wash`.

use std::{io::Read as _, path::Path, sync::atomic::AtomicBool, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    args::{flags::SettingArgs, lattice::Call as Args},
    session::Session,
    terminal::{Page, Terminal, Tone, View},
};
use lattice_base::presence;
use lattice_client::{lost, names};
use lattice_engine::{
    local,
    rpc::{
        call::{Call, CallError},
        chunking::{self, Chunks},
        client::{Client, new_id},
    },
};
use lattice_protocol::{
    control::probe::explain::{self, Explained, Step},
    errors::{OutcomeUnknown, Usage},
    identity::keys::{ActorId, HostId},
    rpc::{
        antiforgery::Signer,
        invocation::Entity,
        readable::{Binary, from_json, to_json},
    },
};

/// Hosts that are asked where an actor ran.
const HOSTS_ASKED_MAX: usize = 16;

pub async fn run(terminal: &Terminal, mut before: SettingArgs, args: Args) -> Result<()> {
    if let Some(seed) = &args.cluster_seed {
        before.values.push(("cluster_seed", seed.clone()));
    }
    let session = Session::open(before, &args.connect)?;
    let payload = payload(&args)?;
    let actor = match ActorId::parse(&args.actor) {
        Ok(id) => id,
        Err(_) => {
            ActorId::parse(&find(&session, &args.actor).await?).context("read the actor's key")?
        }
    };
    let answer = match call(&session, &actor, &args.operation, payload).await {
        Ok(answer) => answer,
        Err(error) => {
            let found_nobody = matches!(error.downcast_ref(), Some(CallError::NoResponders { .. }));
            let absent = match found_nobody {
                true => absence(&session, &args.actor, &actor).await,
                false => None,
            };
            return Err(absent.unwrap_or_else(|| explained(error, &args.actor)));
        }
    };
    if let Some(path) = &args.save {
        return std::fs::write(path, &answer)
            .with_context(|| format!("write the answer to {}", path.display()));
    }
    if args.test {
        return show_tests(terminal, &answer);
    }
    let binary = match args.bin.as_str() {
        "s" => Binary::Text,
        "2" => Binary::Both,
        _ => Binary::Bytes,
    };
    terminal.show(&Answer { payload: answer, binary })
}

/// The payload that was given, as bytes.
fn payload(args: &Args) -> Result<Bytes> {
    let text = match &args.data {
        Some(path) if path == Path::new("-") => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .read_to_end(&mut bytes)
                .context("read the payload from standard input")?;
            bytes
        }
        Some(path) => std::fs::read(path)
            .with_context(|| format!("read the payload from {}", path.display()))?,
        None => args.payload.join("").into_bytes(),
    };
    if args.raw {
        return Ok(text.into());
    }
    if text.trim_ascii().is_empty() {
        return Ok(Bytes::new());
    }
    let value: Value = serde_json::from_slice(&text).map_err(|e| {
        Usage(format!("the payload is no JSON: {e}; use --raw to send it as it is"))
    })?;
    Ok(from_json(&value)?.into())
}

async fn find(session: &Session, word: &str) -> Result<String> {
    let lattice = session.lattice().await?;
    let claims = lattice.claims().await?;
    // Claims outlive their actors, so it is looked at what runs.
    names::actor(word, &claims, &lattice.inventories(&lattice.some_hosts().await?).await)
}

/// Makes one call and waits for its answer.
async fn call(
    session: &Session,
    actor: &ActorId,
    operation: &str,
    payload: Bytes,
) -> Result<Bytes> {
    let nats = session.rpc().await?.client.clone();
    // Without a seed in the settings this one was made up; it signs nothing then.
    let signer =
        Signer::new(session.config.cluster.seed.expose()).context("read the cluster seed")?;
    let chunks = Chunks::new(
        &nats,
        session.config.js_domain.as_deref(),
        &session.config.lattice,
        chunking::Settings {
            bound: session.config.payload_store_max_bytes,
            ..chunking::Settings::default()
        },
    );
    let host =
        HostId::parse(&session.config.host_key.public).context("make a key for this call")?;
    let client = Client::new(nats, session.subjects()?, signer, chunks.clone(), host);
    let target = Entity::actor(actor);
    let deadline = Instant::now() + session.timeout;
    let call = Call::new((target.clone(), target), operation, payload, deadline);
    let (id, sent) = (new_id(), AtomicBool::new(false));
    let result = match session.config.cluster.ad_hoc {
        false => client.invoke(call, None, id, &sent).await,
        true => {
            let signed = signed_here(
                session,
                &call.origin,
                &call.target,
                (&call.operation, &call.payload),
                &id,
            )
            .await?;
            client.invoke_signed(call, None, id, signed, &sent).await
        }
    };
    // Chunks that nobody fetched would stay.
    chunks.tidy().await;
    Ok(result?)
}

/// Lets a host of this machine sign, which has the seed that is not in the settings: an operation
/// with its payload.
pub(super) async fn signed_here(
    session: &Session,
    origin: &Entity,
    target: &Entity,
    (operation, payload): (&str, &[u8]),
    id: &str,
) -> Result<String> {
    // Of several hosts here, one whose key the lattice accepts.
    let hosts = session.lattice().await?.hosts().await?;
    let issuers: Vec<String> = hosts
        .iter()
        .flat_map(|host| host.cluster_issuers.split(','))
        .map(|issuer| issuer.trim().to_owned())
        .filter(|issuer| !issuer.is_empty())
        .collect();
    let unsigned = local::Unsigned {
        lattice: &session.config.lattice,
        origin,
        target,
        operation,
        payload,
        id,
        issuers: &issuers,
    };
    let signed = local::sign(&presence::presence_dir(&session.dirs), &unsigned).await;
    Ok(signed
        .context(
            "there is no cluster seed to sign with; run this where host_config.json is, give the seed of the lattice \
             with --cluster-seed or WASMCLOUD_CLUSTER_SEED, or run a host of the lattice on this machine",
        )?
        .encoded_claims)
}

/// Returns why nobody listens for an actor, in the words of the hosts that answer; nothing if none
/// does, or one runs it by now.
async fn absence(session: &Session, word: &str, actor: &ActorId) -> Option<anyhow::Error> {
    let lattice = session.lattice().await.ok()?;
    let hosts = lattice.hosts().await.ok()?;
    let ask = explain::Request {
        origin: Entity::actor(actor),
        namespace: actor.to_string(),
        ..explain::Request::default()
    };
    let asked = hosts.iter().take(HOSTS_ASKED_MAX).map(|host| lattice.request_of(&host.id, &ask));
    let explained: Vec<_> = join_all(asked).await.into_iter().filter_map(Result::ok).collect();
    let claims = lattice.claims().await.unwrap_or_default();
    let named = claims.iter().find(|claims| claims.subject == actor.as_str());
    let name = named.map(|claims| claims.name.as_str()).filter(|name| !name.is_empty());
    let text = absence_text(name.unwrap_or(word), lattice.name(), &explained)?;
    let lost = lost::lost(&lattice, &hosts).await;
    let called = lost.iter().map(|host| (&*host.id, host.called()));
    Some(anyhow::Error::msg(names::in_words(&text, called)))
}

/// Says that an actor runs nowhere, where it ran last, and how to start it.
fn absence_text(name: &str, lattice: &str, explained: &[Explained]) -> Option<String> {
    let replicas: Vec<&Step> = explained
        .iter()
        .flat_map(|told| &told.steps)
        .filter(|step| step.step == "replica")
        .collect();
    if replicas.is_empty() || replicas.iter().any(|step| step.outcome == explain::Outcome::Ok) {
        return None;
    }
    let runners = replicas.iter().filter_map(|step| step.data["hosts"].as_array()).flatten();
    let last = runners
        .filter_map(|runner| Some((runner["silence_ms"].as_u64()?, runner["host_id"].as_str()?)))
        .min();
    let ran = match last {
        Some((ms, host)) => format!(
            "it ran on host {host}, of which nothing was heard for {} s",
            Duration::from_millis(ms).as_secs()
        ),
        None => "no host that answers knows where it ran".to_owned(),
    };
    // One without a reference that the lattice knows has a placeholder for it.
    let mut fixes = replicas.iter().filter_map(|step| step.fix.as_deref());
    let fix = fixes.find(|fix| !fix.contains('<'));
    let fix = fix.map(|fix| format!("; `{fix}` starts it")).unwrap_or_default();
    Some(format!("{name} runs on no host of lattice {lattice} that answers: {ran}{fix}"))
}

/// A call that may still be carried out is told from one that failed. `word` is what the user calls
/// the actor.
fn explained(error: anyhow::Error, word: &str) -> anyhow::Error {
    match error.downcast_ref() {
        Some(CallError::TimedOut { subject, lattice, waited_ms }) => OutcomeUnknown(format!(
            "no reply of {word} in lattice {lattice} within {waited_ms} ms ({subject}); the actor may still be working. \
             `host logs {word}` shows what it says; --timeout-ms gives it more time"
        ))
        .into(),
        Some(CallError::NoResponders { subject, lattice, .. }) => anyhow::anyhow!(
            "{word} runs on no host of lattice {lattice}: nobody listens on {subject}. `host get inventory` shows what runs, and \
             `host start actor` starts it; `host doctor` looks whether the lattice is another one (--lattice) or a leaf node \
             between is down"
        ),
        _ => error,
    }
}

struct Answer {
    payload: Bytes,
    binary: Binary,
}

impl View for Answer {
    fn json(&self) -> Value {
        json!({ "response": to_json(&self.payload, self.binary) })
    }

    fn text(&self, page: &mut Page) {
        if self.payload.is_empty() {
            return page.line(Tone::Faint.paint("the answer is empty"));
        }
        match to_json(&self.payload, Binary::Text) {
            Value::String(text) => page.block(&text),
            value => page.block(&format!("{value:#}")),
        }
    }

    fn names(&self) -> Vec<String> {
        vec![to_json(&self.payload, Binary::Text).to_string()]
    }
}

/// One result of a test actor.
#[derive(Debug, Deserialize)]
struct TestResult {
    #[serde(default)]
    name: String,
    #[serde(default)]
    passed: bool,
    /// JSON with a member `error`, if it failed.
    #[serde(default, rename = "snapData")]
    data: Option<Bytes>,
}

fn show_tests(terminal: &Terminal, answer: &[u8]) -> Result<()> {
    let results: Vec<TestResult> =
        rmp_serde::from_slice(answer).context("read the answer as the results of a test actor")?;
    let failed = results.iter().filter(|result| !result.passed).count();
    terminal.show(&Tests(results))?;
    if failed > 0 {
        bail!("{failed} tests failed");
    }
    Ok(())
}

struct Tests(Vec<TestResult>);

impl TestResult {
    fn error(&self) -> String {
        let data = self.data.as_ref().and_then(|data| serde_json::from_slice(data).ok());
        let data: Value = data.unwrap_or_default();
        data["error"].as_str().unwrap_or_default().to_owned()
    }
}

impl View for Tests {
    fn json(&self) -> Value {
        let results = self
            .0
            .iter()
            .map(|result| json!({ "name": result.name, "passed": result.passed, "error": result.error() }));
        json!({ "results": results.collect::<Vec<_>>() })
    }

    fn text(&self, page: &mut Page) {
        for result in &self.0 {
            match result.passed {
                true => page.line(Tone::Good.paint("Pass") + format!(": {}", result.name)),
                false => page.line(
                    Tone::Bad.paint("Fail") + format!(": {} {}", result.name, result.error()),
                ),
            }
        }
        let passed = self.0.iter().filter(|result| result.passed).count();
        page.line(format!("{passed}/{} passed", self.0.len()));
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|result| result.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(outcome: explain::Outcome, hosts: Value) -> Explained {
        let step = Step {
            step: "replica".into(),
            outcome,
            fix: Some("host start actor echo:1".into()),
            data: json!({ "hosts": hosts }),
            ..Step::default()
        };
        Explained { steps: vec![step], ..Explained::default() }
    }

    #[test]
    fn an_actor_that_is_down_is_told_by_name_with_the_host_it_ran_on_last() {
        let unknown = explain::Outcome::Unknown;
        let silent = |host: &str, ms: u64| json!({ "host_id": host, "silence_ms": ms });
        for (explained, parts) in [
            (vec![], None),
            (vec![told(unknown, json!([])), told(explain::Outcome::Ok, json!([]))], None),
            (
                vec![told(unknown, json!([]))],
                Some(["echo runs on no host of lattice default", "knows where"]),
            ),
            (
                vec![told(unknown, json!([silent("N1", 9000), silent("N2", 4000)]))],
                Some([
                    "ran on host N2, of which nothing was heard for 4 s",
                    "`host start actor echo:1`",
                ]),
            ),
        ] {
            let text = absence_text("echo", "default", &explained);
            assert_eq!(text.is_some(), parts.is_some(), "{text:?}");
            for part in parts.into_iter().flatten() {
                assert!(text.as_ref().is_some_and(|text| text.contains(part)), "{text:?}");
            }
        }
    }
}
