//! Manifests from the browser: what they would change, and doing it.
//!
//! A preview and its carrying out read the same texts. The preview has a mark of what it compared
//! with; where the mark is sent along, nothing is done if the lattice has changed since.

use anyhow::{Context as _, anyhow};
use axum::{Extension, Json, extract::State, http::StatusCode};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Difference, apart, changeable, client, settle::settled};
use crate::{
    Dashboard,
    api::{
        Body, ErrorBody, Refusal,
        operations::{Accepted, accepted},
    },
    auth::Access,
    operations::NewOperation,
};
use lattice_client::{
    applications::Applications,
    apply::{
        self, Clash, Step,
        decide::{Action, Kept},
        documents::{Found, Given, Manifests},
    },
};
use lattice_protocol::{applications::manifest::Manifest, identity::digest::sha256};

/// The largest body with manifests, in bytes: as much as most NATS servers take in two messages.
pub const BYTES_MAX: usize = 2 << 20;
/// Texts of one body, and applications in all of them: each is compared within the time that a
/// request may take.
const TEXTS_MAX: usize = 64;
const APPLICATIONS_MAX: usize = 100;
/// Characters of the name of a file.
const NAME_CHARS_MAX: usize = 200;
/// The beginning of a reference to a file.
const FILE: &str = "file://";

/// Texts with manifests.
#[derive(Deserialize, ToSchema)]
pub struct Texts {
    texts: Vec<Text>,
    /// The mark of the preview that was shown; nothing is done if the lattice has changed since.
    #[serde(default)]
    seen: Option<String>,
}

/// A file, or what was pasted.
#[derive(Deserialize, ToSchema)]
pub struct Text {
    /// For messages; its ending says the form: `.json`, `.yaml` or `.yml`.
    name: String,
    text: String,
}

/// The changes that manifests would make.
#[derive(Serialize, ToSchema)]
pub struct Preview {
    items: Vec<Planned>,
    /// Worth to know, and no mistake.
    notes: Vec<String>,
    /// With file, document and line; nothing is applied if there are any.
    mistakes: Vec<String>,
    /// To be sent along when it is carried out.
    seen: String,
}

/// The change of one application.
#[derive(Serialize, ToSchema)]
pub struct Planned {
    name: String,
    version: String,
    /// `create`, `update`, `deploy` (it is stored already), `unchanged` or `refuse`.
    action: &'static str,
    /// The version that runs now.
    deployed: Option<String>,
    difference: Difference,
}

impl Planned {
    fn of(step: &Step, is_operator: bool) -> Self {
        let before = match step.action {
            // Its version may have another name; nothing else differs.
            Action::Leave => Some(step.manifest()),
            _ => step.kept.before(),
        };
        let (word, version) = (step.action.word(), step.version());
        Self::new(word, version, &step.kept, before, step.manifest(), is_operator)
    }

    fn refused(clash: &Clash, is_operator: bool) -> Self {
        let manifest = &clash.file.wanted.manifest;
        let before = clash.kept.before();
        Self::new("refuse", manifest.version(), &clash.kept, before, manifest, is_operator)
    }

    fn new(
        action: &'static str,
        version: &str,
        kept: &Kept,
        before: Option<&Manifest>,
        manifest: &Manifest,
        is_operator: bool,
    ) -> Self {
        Self {
            name: manifest.name().to_owned(),
            version: version.to_owned(),
            action,
            deployed: kept.deployed.clone(),
            difference: Difference::of(before, manifest, is_operator),
        }
    }
}

/// Everything that was found in texts.
struct Compared {
    steps: Vec<Step>,
    clashes: Vec<Clash>,
    notes: Vec<String>,
    mistakes: Vec<String>,
}

impl Compared {
    /// Reads and compares texts.
    async fn of(client: &Applications, texts: Vec<Text>) -> Result<Self, Refusal> {
        if texts.is_empty() || texts.iter().all(|text| text.text.trim().is_empty()) {
            return Err(Refusal::wrong("there is no manifest in it"));
        }
        if texts.len() > TEXTS_MAX {
            return Err(Refusal::wrong(format!("send {TEXTS_MAX} files at most at a time")));
        }
        // Parsing is work for the processor, and others are to be answered meanwhile.
        let found = tokio::task::spawn_blocking(move || read(texts)).await;
        let Found { applications, notes, mut mistakes, .. } =
            found.map_err(|failure| anyhow!("reading the manifests failed: {failure}"))?;
        if applications.len() > APPLICATIONS_MAX {
            let text = format!("send {APPLICATIONS_MAX} applications at most at a time");
            return Err(Refusal::wrong(text));
        }
        if applications.is_empty() && mistakes.is_empty() {
            mistakes.push("no application is in it".to_owned());
        }
        let apply::Compared { steps, clashes } = apply::Compared::of(client, applications).await?;
        mistakes.extend(clashes.iter().map(Clash::told));
        Ok(Self { steps, clashes, notes, mistakes })
    }

    /// Returns a mark of what is to be done, and of what it was compared with.
    fn mark(&self) -> String {
        let all = self.steps.iter().map(|step| {
            let (name, version) = (step.manifest().name(), step.version());
            (name, version, step.action.word(), &step.kept.deployed, &step.kept.newest)
        });
        // Made of texts, which always encode.
        let bytes = serde_json::to_vec(&all.collect::<Vec<_>>()).unwrap_or_default();
        HEXLOWER.encode(&sha256(&bytes)[..16])
    }
}

/// Reads the documents of all texts. Blocks.
fn read(texts: Vec<Text>) -> Found {
    let mut found = Found::default();
    for Text { name, text } in texts {
        let place: String = name.chars().take(NAME_CHARS_MAX).collect();
        found.mistakes.extend(relative_files(&place, &text));
        found.take_text(Ok(Manifests::of_file(place, text)), Given::ByName, None);
    }
    found
}

/// Finds references to files that are relative to the manifest: a browser does not tell where it
/// is.
fn relative_files(place: &str, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate().filter(|(_, line)| {
        let written = line.split('#').next().unwrap_or_default();
        written.match_indices(FILE).any(|(at, _)| !written[at + FILE.len()..].starts_with('/'))
    });
    let told = lines.map(|(at, line)| {
        format!(
            "{place}, line {}: {} is relative to the manifest, and a browser does not tell where that is; write the absolute path \
             on the hosts, or use `host apply`",
            at + 1,
            line.trim()
        )
    });
    told.collect()
}

/// Tells what manifests would change, without changing anything
#[utoipa::path(post, path = "/api/v1/apply/preview", tag = "applications", request_body = Texts,
    responses((status = 200, body = Preview), (status = 413, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn preview(
    State(dashboard): State<Dashboard>,
    Extension(access): Extension<Access>,
    Body(Texts { texts, .. }): Body<Texts>,
) -> Result<Json<Preview>, Refusal> {
    changeable(&dashboard).await?;
    let compared = Compared::of(&client(&dashboard), texts).await?;
    let seen = compared.mark();
    let is_operator = access == Access::Operator;
    let Compared { steps, clashes, mut notes, mistakes } = compared;
    notes.extend(steps.iter().flat_map(Step::notes));
    let items = apart(move || planned(&steps, &clashes, is_operator)).await?;
    Ok(Json(Preview { items, notes, mistakes, seen }))
}

fn planned(steps: &[Step], clashes: &[Clash], is_operator: bool) -> Vec<Planned> {
    let refused = clashes.iter().map(|clash| Planned::refused(clash, is_operator));
    steps.iter().map(|step| Planned::of(step, is_operator)).chain(refused).collect()
}

/// Stores and deploys what manifests say
#[utoipa::path(post, path = "/api/v1/apply", tag = "applications", request_body = Texts,
    responses((status = 202, body = Accepted), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 422, body = ErrorBody)))]
pub async fn apply(
    State(dashboard): State<Dashboard>,
    Body(Texts { texts, seen }): Body<Texts>,
) -> Result<(StatusCode, Json<Accepted>), Refusal> {
    changeable(&dashboard).await?;
    let client = client(&dashboard);
    let compared = Compared::of(&client, texts).await?;
    if !compared.mistakes.is_empty() {
        return Err(Refusal::wrong(compared.mistakes.join("\n")));
    }
    if seen.is_some_and(|seen| seen != compared.mark()) {
        let text = "somebody changed these applications since they were compared; look at the differences again";
        return Err(Refusal::new(StatusCode::CONFLICT, text));
    }
    let steps = compared.steps;
    let names: Vec<&str> = steps.iter().map(|step| step.manifest().name()).collect();
    let title = match &names[..] {
        [first, _, _, rest @ ..] if !rest.is_empty() => {
            format!("Apply {first} and {} more", names.len() - 1)
        }
        _ => format!("Apply {}", names.join(", ")),
    };
    let operation = NewOperation { kind: "apply", title, ..NewOperation::default() };
    let work = dashboard.clone();
    accepted(dashboard.operations().begin(operation, |handle| async move {
        let mut notes = Vec::new();
        for step in &steps {
            let name = step.manifest().name();
            handle.stage("deploy", format!("{name} {}", step.version()));
            let warnings = step.send(&client).await.with_context(|| name.to_owned())?;
            notes.extend(warnings.into_iter().map(|warning| format!("{name}: {warning}")));
        }
        let awaited = steps.iter().map(Step::awaited).collect();
        settled(&work, &handle, awaited, notes).await
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_named_relative_to_its_manifest_is_a_mistake_with_its_line() {
        for (text, expected) in [
            ("image: file:///abs/x.wasm", None),
            ("a: b\nimage: file://build/x.wasm", Some("a.yaml, line 2: ")),
            ("{\"image\":\"file://./x.wasm\"}", Some("a.yaml, line 1: ")),
            ("# file://build", None),
        ] {
            let told = relative_files("a.yaml", text);
            assert_eq!(told.len(), usize::from(expected.is_some()), "{text}");
            assert!(told.iter().all(|line| line.starts_with(expected.unwrap_or_default())));
        }
    }

    #[test]
    fn mistakes_name_file_document_and_cause() {
        let text = |name: &str, text: &str| Text { name: name.into(), text: text.into() };
        let found = read(vec![
            text("a.yaml", "kind: ["),
            text("b.json", "{\"kind\":1"),
            text("pasted", "hello"),
        ]);
        let told = found.mistakes.join("\n");
        for part in ["a.yaml, document 1: ", "b.json, document 1: ", "pasted, document 1: "] {
            assert!(told.contains(part), "{part} in {told}");
        }
    }
}
