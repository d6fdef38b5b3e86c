//! `host app`: applications, by the API of the deployment manager of those years (`wadm` 0.10).
//!
//! A manifest says what is to run; the hosts keep it so, or a manager that is a program of its own.
//! Each command is one request to `wadm.api.{lattice}.model.…` with JSON in both directions;
//! manifests go as they are, YAML or JSON. Answers are passed on in the shapes of `wash`, but a
//! refusal is an error here, with an exit code.

use std::{
    io::{IsTerminal as _, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    args::{
        app::{App, AppDel, AppDeploy, AppName, AppPut, AppUndeploy, AppVersion},
        connect::Connect,
        flags::SettingArgs,
        lattice::Query,
    },
    session::Session,
    terminal::{Cell, Column, Page, Table, Terminal, Tone, View},
};
use lattice_client::lattice::{Lattice, RequestError};
use lattice_protocol::errors::{OutcomeUnknown, Usage, chain};

/// Far more than any manifest has, and than most NATS servers take in one message.
const MANIFEST_BYTES_MAX: u64 = 8 << 20;
/// How long a manifest may take from a web server.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

pub async fn run(terminal: &Terminal, before: SettingArgs, args: App) -> Result<()> {
    match args {
        App::List(args) => list(terminal, before, &args).await,
        App::Get(args) => get(terminal, before, &args).await,
        App::History(args) => history(terminal, before, &args).await,
        App::Status(args) => status(terminal, before, &args).await,
        App::Put(args) => put(terminal, before, &args).await,
        App::Del(args) => delete(terminal, before, &args).await,
        App::Deploy(args) => deploy(terminal, before, &args).await,
        App::Undeploy(args) => undeploy(terminal, before, &args).await,
    }
}

/// Those who keep the applications of a lattice, on a connection.
struct Manager {
    lattice: Lattice,
    /// The address they would have to be at.
    server: String,
}

impl Manager {
    async fn connect(before: SettingArgs, connect: &Connect) -> Result<Self> {
        let session = Session::open(before, connect)?;
        let server = session.config.ctl.servers.first().cloned().unwrap_or_default();
        Ok(Self { lattice: session.lattice().await?, server })
    }

    /// Asks for something; a refusal is an error in the words of the answer.
    async fn ask(
        &self,
        operation: &str,
        application: Option<&str>,
        payload: impl Into<Bytes>,
    ) -> Result<Value> {
        if let Some(name) = application.filter(|name| !is_name(name)) {
            return Err(Usage(format!(
                "{name:?} names no application: letters, digits, - and _ only"
            ))
            .into());
        }
        let subject = self.lattice.subjects.manager(operation, application);
        let message = self
            .lattice
            .ask(&subject, payload.into())
            .await
            .map_err(|error| self.explain(operation, error))?;
        let reply: Value = serde_json::from_slice(&message.payload)
            .with_context(|| format!("read the answer on {subject}"))?;
        match reply.get("result").and_then(Value::as_str) {
            Some("error") => {
                bail!("it is refused: {}", text(&reply, "message"))
            }
            // The answer names the application or the version; an application that is there has
            // versions to look at.
            Some("notfound") => bail!(
                "{}. `host app list` shows what there is, `host app history NAME` its versions",
                text(&reply, "message")
            ),
            _ => Ok(reply),
        }
    }

    /// Says who is missing; of what changes something, silence leaves open whether it did.
    fn explain(&self, operation: &str, error: RequestError) -> anyhow::Error {
        let is_change = matches!(operation, "put" | "del" | "deploy" | "undeploy");
        match error {
            RequestError::NoResponders { subject, lattice, .. } => {
                let server = self.server.trim_start_matches("nats://");
                anyhow!(
                    "nobody keeps applications in lattice {lattice}: nobody listens on {subject} at {server}. Hosts do, unless \
                     their setting applications is never, or their NATS user may not use wadm.>: start one with `host up`, or say \
                     where it is with --ctl-host, -x or --context"
                )
            }
            RequestError::TimedOut { .. } if is_change => OutcomeUnknown(error.to_string()).into(),
            other => other.into(),
        }
    }
}

/// Tells whether this may be a name of an application. It becomes a token of a subject.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

async fn list(terminal: &Terminal, before: SettingArgs, args: &Query) -> Result<()> {
    let manager = Manager::connect(before, &args.connect).await?;
    let apps = manager.ask("list", None, "").await?;
    terminal.show(&List { apps })
}

async fn get(terminal: &Terminal, before: SettingArgs, args: &AppVersion) -> Result<()> {
    let manager = Manager::connect(before, &args.connect).await?;
    let reply = manager.ask("get", Some(&args.name), version(args.version.as_deref())).await?;
    // A manifest is YAML by habit.
    let manifest =
        serde_saphyr::to_string(&reply.get("manifest")).context("write the manifest as YAML")?;
    terminal.show(&Reply {
        key: "model",
        name: args.name.clone(),
        text: manifest,
        reply,
        more: None,
    })
}

async fn history(terminal: &Terminal, before: SettingArgs, args: &AppName) -> Result<()> {
    let manager = Manager::connect(before, &args.connect).await?;
    let reply = manager.ask("versions", Some(&args.name), "").await?;
    terminal.show(&History { reply })
}

async fn status(terminal: &Terminal, before: SettingArgs, args: &AppName) -> Result<()> {
    let manager = Manager::connect(before, &args.connect).await?;
    let reply = manager.ask("status", Some(&args.name), "").await?;
    terminal.show(&Status { name: args.name.clone(), reply })
}

async fn put(terminal: &Terminal, before: SettingArgs, args: &AppPut) -> Result<()> {
    let manifest = match source(args.source.as_deref()).await? {
        Source::Manifest(manifest) => manifest,
        Source::Name(name) => {
            return Err(Usage(format!("there is no file {name:?} with a manifest")).into());
        }
    };
    let manager = Manager::connect(before, &args.connect).await?;
    let reply = store(&manager, manifest).await?;
    let (name, text) = (text(&reply, "name").to_owned(), text(&reply, "message").to_owned());
    terminal.show(&Reply { key: "results", name, text, reply, more: None })
}

/// Stores a manifest. That a version is there already is the usual refusal, and has a remedy.
async fn store(manager: &Manager, manifest: String) -> Result<Value> {
    manager.ask("put", None, manifest).await.map_err(|error| {
        if error.to_string().ends_with("already exists") {
            let advice = "give the manifest another version annotation, or deploy what is stored by its name";
            return anyhow!("{error}; {advice}");
        }
        error
    })
}

async fn deploy(terminal: &Terminal, before: SettingArgs, args: &AppDeploy) -> Result<()> {
    let source = source(args.source.as_deref()).await?;
    let manager = Manager::connect(before, &args.connect).await?;
    let (name, stored) = match source {
        Source::Name(name) => (name, None),
        Source::Manifest(manifest) => {
            let stored = store(&manager, manifest).await?;
            (text(&stored, "name").to_owned(), Some(stored))
        }
    };
    let request = json!({ "version": args.version });
    let reply = manager.ask("deploy", Some(&name), request.to_string()).await?;
    let said = stored
        .iter()
        .chain([&reply])
        .map(|reply| text(reply, "message"))
        .collect::<Vec<_>>()
        .join("\n");
    terminal.show(&Reply { key: "acknowledged", name, text: said, reply, more: stored })
}

async fn undeploy(terminal: &Terminal, before: SettingArgs, args: &AppUndeploy) -> Result<()> {
    let manager = Manager::connect(before, &args.connect).await?;
    let request = json!({ "non_destructive": args.non_destructive });
    let reply = manager.ask("undeploy", Some(&args.name), request.to_string()).await?;
    let text = text(&reply, "message").to_owned();
    terminal.show(&Reply { key: "results", name: args.name.clone(), text, reply, more: None })
}

async fn delete(terminal: &Terminal, before: SettingArgs, args: &AppDel) -> Result<()> {
    let manager = Manager::connect(before, &args.connect).await?;
    let version = args.version.as_deref().unwrap_or_default();
    let request = json!({ "version": version, "delete_all": args.delete_all });
    let reply = manager.ask("del", Some(&args.name), request.to_string()).await?;
    let text = text(&reply, "message").to_owned();
    terminal.show(&Reply { key: "deleted", name: args.name.clone(), text, reply, more: None })
}

/// The request for a version; an empty object asks for the latest.
fn version(version: Option<&str>) -> String {
    version.map_or_else(|| json!({}), |version| json!({ "version": version })).to_string()
}

/// The form in which an application is given.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Manifest(String),
    Name(String),
}

/// Reads the manifest that `word` means, or takes it for the name of an application.
async fn source(word: Option<&str>) -> Result<Source> {
    match word {
        None | Some("-") => Ok(Source::Manifest(from_standard_input()?)),
        Some(word) if Path::new(word).is_file() => {
            Ok(Source::Manifest(from_file(Path::new(word))?))
        }
        Some(word) if word.starts_with("http://") || word.starts_with("https://") => {
            let manifest = fetched(word)
                .await
                .with_context(|| format!("fetch the manifest {}", without_login(word)))?;
            Ok(Source::Manifest(manifest))
        }
        Some(word) if is_name(word) => Ok(Source::Name(word.to_owned())),
        Some(word) => Err(Usage(format!(
            "{word:?} is neither a file with a manifest nor the name of an application"
        ))
        .into()),
    }
}

fn from_standard_input() -> Result<String> {
    if std::io::stdin().is_terminal() {
        return Err(Usage(
            "no manifest was given: name a file, or send one to standard input".into(),
        )
        .into());
    }
    some(bounded(std::io::stdin()).context("read the manifest from standard input")?)
}

/// Reads a manifest; half of one is none.
fn bounded(source: impl Read) -> Result<String> {
    let mut text = String::new();
    source.take(MANIFEST_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MANIFEST_BYTES_MAX {
        bail!("it is larger than {MANIFEST_BYTES_MAX} bytes");
    }
    Ok(text)
}

/// Relative references of files are meant from where the manifest is, and hosts take absolute ones
/// only.
fn from_file(path: &Path) -> Result<String> {
    let reading = || format!("read the manifest {}", path.display());
    let text = bounded(std::fs::File::open(path).with_context(reading)?).with_context(reading)?;
    let dir = std::path::absolute(path)
        .with_context(reading)?
        .parent()
        .map(Path::to_owned)
        .unwrap_or_default();
    some(with_absolute_files(&text, &dir))
}

async fn fetched(url: &str) -> Result<String> {
    let client = reqwest::Client::builder()
        .timeout(FETCH_TIMEOUT)
        .build()
        .map_err(|e| anyhow!(chain(&e.without_url())))?;
    let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
    let mut answer = answer.map_err(|e| anyhow!(chain(&e.without_url())))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| anyhow!(chain(&e.without_url())))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            bail!("it is larger than {MANIFEST_BYTES_MAX} bytes");
        }
    }
    some(String::from_utf8(bytes).context("read it as text")?)
}

/// An address for messages.
fn without_login(url: &str) -> String {
    let Ok(mut url) = reqwest::Url::parse(url) else {
        return "at an address that cannot be read".into();
    };
    // Both only fail for addresses that have no place for a login.
    let _ = (url.set_username(""), url.set_password(None));
    url.to_string()
}

fn some(manifest: String) -> Result<String> {
    if manifest.trim().is_empty() {
        return Err(Usage("the manifest is empty".into()).into());
    }
    Ok(manifest)
}

/// The manifest with `file://build/echo.wasm` made absolute; nothing else of it is touched.
fn with_absolute_files(manifest: &str, dir: &Path) -> String {
    const SCHEME: &str = "file://";
    let dir: PathBuf = dir.components().collect();
    let mut pieces = manifest.split(SCHEME);
    let mut whole = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        whole.push_str(SCHEME);
        let piece = piece.strip_prefix("./").unwrap_or(piece);
        if piece.starts_with(|c: char| !c.is_whitespace() && !matches!(c, '/' | '"' | '\'')) {
            whole.push_str(&format!("{}/", dir.display()));
        }
        whole.push_str(piece);
    }
    whole
}

/// The answer to a request, under the key that `wash` gives it, with what it means in a sentence.
struct Reply {
    key: &'static str,
    name: String,
    text: String,
    reply: Value,
    /// The answer to the storing that came first.
    more: Option<Value>,
}

impl View for Reply {
    fn json(&self) -> Value {
        let mut json = json!({ self.key: self.reply });
        if let (Value::Object(members), Some(more)) = (&mut json, &self.more) {
            members.insert("results".into(), more.clone());
        }
        json
    }

    fn text(&self, page: &mut Page) {
        page.block(self.text.trim_end());
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

/// The row of an application, a component or a trait.
fn status_row(name: &str, what: &str, info: &Value, version: &str) -> [Cell; 5] {
    let info = info.get("status").unwrap_or(&Value::Null);
    [
        name.into(),
        what.into(),
        toned(text(info, "type")),
        version.into(),
        text(info, "message").into(),
    ]
}

/// How the state of something is shown.
fn toned(state: &str) -> Cell {
    let tone = match state {
        "deployed" | "ready" => Tone::Good,
        "reconciling" | "compensating" => Tone::Warning,
        "failed" => Tone::Bad,
        _ => Tone::Plain,
    };
    Cell::toned(state, tone)
}

struct List {
    apps: Value,
}

impl List {
    fn each(&self) -> &[Value] {
        self.apps.as_array().map(Vec::as_slice).unwrap_or_default()
    }
}

impl View for List {
    fn json(&self) -> Value {
        json!({ "apps": self.apps })
    }

    fn text(&self, page: &mut Page) {
        let mut table = Table::new([
            Column::text("NAME"),
            Column::text("LATEST"),
            Column::text("DEPLOYED"),
            Column::fixed("STATUS"),
            Column::text("DESCRIPTION"),
            Column::text("MESSAGE").only_wide(),
        ]);
        for app in self.each() {
            table.row([
                text(app, "name").into(),
                text(app, "version").into(),
                text(app, "deployed_version").into(),
                toned(text(app, "status")),
                text(app, "description").into(),
                text(app, "status_message").into(),
            ]);
        }
        page.table(
            &table,
            "The deployment manager has no applications. `host app put FILE` stores one.",
        );
    }

    fn names(&self) -> Vec<String> {
        self.each().iter().map(|app| text(app, "name").to_owned()).collect()
    }
}

struct History {
    reply: Value,
}

impl View for History {
    fn json(&self) -> Value {
        json!({ "revisions": self.reply })
    }

    fn text(&self, page: &mut Page) {
        let mut table = Table::new([Column::text("VERSION"), Column::fixed("DEPLOYED")]);
        for version in items(&self.reply, "versions") {
            let deployed = version.get("deployed").and_then(Value::as_bool).unwrap_or_default();
            table.row([
                Cell::from(text(version, "version")),
                if deployed { "yes" } else { "no" }.into(),
            ]);
        }
        page.table(&table, "There are no versions.");
    }

    fn names(&self) -> Vec<String> {
        items(&self.reply, "versions")
            .iter()
            .map(|version| text(version, "version").to_owned())
            .collect()
    }
}

struct Status {
    name: String,
    reply: Value,
}

impl View for Status {
    fn json(&self) -> Value {
        json!({ "status": self.reply })
    }

    /// The whole, and then each component with its traits.
    fn text(&self, page: &mut Page) {
        let status = &self.reply["status"];
        let mut table = Table::new([
            Column::text("NAME"),
            Column::text("WHAT"),
            Column::fixed("STATUS"),
            Column::text("VERSION"),
            Column::text("MESSAGE"),
        ]);
        table.row(status_row(&self.name, "application", status, text(status, "version")));
        for component in items(status, "components") {
            table.row(status_row(text(component, "name"), text(component, "type"), component, ""));
            for a_trait in items(component, "traits") {
                table.row(status_row("", text(a_trait, "type"), a_trait, ""));
            }
        }
        page.table(&table, "");
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_files_are_meant_from_where_the_manifest_is() {
        let dir = Path::new("/apps/shop");
        for (before, after) in [
            ("image: file://build/x.wasm\n", "image: file:///apps/shop/build/x.wasm\n"),
            ("image: file://./x.wasm # file://", "image: file:///apps/shop/x.wasm # file://"),
            ("{\"image\":\"file:///abs/x.wasm\"}", "{\"image\":\"file:///abs/x.wasm\"}"),
            ("image: registry.example/x:1", "image: registry.example/x:1"),
        ] {
            assert_eq!(with_absolute_files(before, dir), after);
        }
    }

    #[tokio::test]
    async fn a_word_is_a_file_or_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("app.yaml");
        std::fs::write(&file, "a: b\n").unwrap();
        let of_file = source(Some(&file.display().to_string())).await.unwrap();
        assert_eq!(of_file, Source::Manifest("a: b\n".into()));
        assert_eq!(source(Some("pets-2")).await.unwrap(), Source::Name("pets-2".into()));
        for word in ["./gone.yaml", "a.b", "a b", "*"] {
            assert!(source(Some(word)).await.unwrap_err().is::<Usage>(), "{word}");
        }
        std::fs::write(&file, " \n").unwrap();
        assert!(source(Some(&file.display().to_string())).await.unwrap_err().is::<Usage>());
    }

    #[test]
    fn requests_are_what_the_manager_reads() {
        assert_eq!(version(None), "{}");
        assert_eq!(version(Some("v1")), r#"{"version":"v1"}"#);
        assert_eq!(without_login("https://me:secret@x.example/a.yaml"), "https://x.example/a.yaml");
        assert_eq!(
            without_login("https://me:p@ss@x.example/a@v1/b.yaml"),
            "https://x.example/a@v1/b.yaml"
        );
        assert!(!without_login("https://me:secret@").contains("secret"));
    }
}
