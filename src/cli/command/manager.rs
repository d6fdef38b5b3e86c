//! `host app`: applications, kept by the hosts of the lattice, or by a deployment manager (`wadm`
//! 0.10) that is a program of its own.
//!
//! A manifest says what is to run, and whoever keeps the application sees that it does. Each
//! command is one request to `wadm.api.{lattice}.model.…` with JSON in both directions; manifests
//! go as they are, YAML or JSON. Answers are passed on in the shapes of `wash`, but a refusal is an
//! error here, with an exit code.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize as _, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    args::{
        app::{App, AppDel, AppDeploy, AppName, AppPut, AppUndeploy, AppVersion},
        connect::Connect,
        flags::SettingArgs,
        lattice::Query,
    },
    clock, manifests,
    session::Session,
    terminal::{Cell, Column, Page, Table, Terminal, Tone, View},
};
use lattice_client::applications::{Answer, Applications, Refused};
use lattice_protocol::{
    applications::{
        api::{Delete, PutReply, RolloutStatus, UndeployRequest},
        rollout::State,
        validate::is_name,
    },
    errors::Usage,
};

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

/// Connects to the lattice of a command.
pub(super) async fn connect(before: SettingArgs, connect: &Connect) -> Result<Applications> {
    let session = Session::open(before, connect)?;
    let server = session.config.ctl.servers.first().map(String::as_str).unwrap_or_default();
    Ok(Applications::new(session.lattice().await?, server))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

async fn list(terminal: &Terminal, before: SettingArgs, args: &Query) -> Result<()> {
    let applications = connect(before, &args.connect).await?;
    let list = List { apps: applications.list().await?.json };
    for app in list.each().iter().filter(|app| is_unreadable(app)) {
        terminal.note(format!("{}: {}", text(app, "name"), text(app, "status_message")));
    }
    terminal.show(&list)
}

/// Says whether the record of a listed application could not be read: it has no version then.
fn is_unreadable(app: &Value) -> bool {
    text(app, "version").is_empty() && text(app, "status") == "failed"
}

async fn get(terminal: &Terminal, before: SettingArgs, args: &AppVersion) -> Result<()> {
    let applications = connect(before, &args.connect).await?;
    let reply = applications.get(&args.name, args.version.as_deref()).await?.found()?.json;
    // A manifest is YAML by habit.
    let text =
        serde_saphyr::to_string(&reply.get("manifest")).context("write the manifest as YAML")?;
    terminal.show(&Reply { key: "model", name: args.name.clone(), text, reply, more: None })
}

async fn history(terminal: &Terminal, before: SettingArgs, args: &AppName) -> Result<()> {
    let applications = connect(before, &args.connect).await?;
    terminal.show(&History { reply: applications.versions(&args.name).await?.found()?.json })
}

async fn status(terminal: &Terminal, before: SettingArgs, args: &AppName) -> Result<()> {
    let applications = connect(before, &args.connect).await?;
    let reply = applications.status(&args.name).await?.found()?.json;
    terminal.show(&Status { name: args.name.clone(), reply })
}

async fn put(terminal: &Terminal, before: SettingArgs, args: &AppPut) -> Result<()> {
    let manifest = match source(args.source.as_deref()).await? {
        Source::Manifest(manifest) => manifest,
        Source::Name(name) => {
            return Err(Usage(format!("there is no file {name:?} with a manifest")).into());
        }
    };
    let applications = connect(before, &args.connect).await?;
    let reply = store(&applications, manifest).await?;
    let name = text(&reply.json, "name").to_owned();
    terminal.show(&Reply::of("results", &name, reply))
}

/// Stores a manifest. That a version is there already is the usual refusal, and has a remedy.
async fn store(applications: &Applications, manifest: String) -> Result<Answer<PutReply>> {
    applications.put(manifest).await.map_err(|error| match error.downcast_ref::<Refused>() {
        Some(refused) if refused.message.ends_with("already exists") => anyhow!(
            "{error}; give the manifest another version annotation, or deploy what is stored by its name"
        ),
        _ => error,
    })
}

async fn deploy(terminal: &Terminal, before: SettingArgs, args: &AppDeploy) -> Result<()> {
    let source = source(args.source.as_deref()).await?;
    let applications = connect(before, &args.connect).await?;
    let (name, stored) = match source {
        Source::Name(name) => (name, None),
        Source::Manifest(manifest) => {
            let stored = store(&applications, manifest).await?;
            (text(&stored.json, "name").to_owned(), Some(stored))
        }
    };
    let reply = applications.deploy(&name, args.version.as_deref()).await?.found()?;
    let mut shown = Reply::of("acknowledged", &name, reply);
    if let Some(stored) = stored {
        shown.text = format!("{}\n{}", stored.message(), shown.text);
        shown.more = Some(stored.json);
    }
    terminal.show(&shown)
}

async fn undeploy(terminal: &Terminal, before: SettingArgs, args: &AppUndeploy) -> Result<()> {
    let applications = connect(before, &args.connect).await?;
    let request = UndeployRequest { non_destructive: args.non_destructive };
    let reply = applications.undeploy(&args.name, request).await?.found()?;
    terminal.show(&Reply::of("results", &args.name, reply))
}

async fn delete(terminal: &Terminal, before: SettingArgs, args: &AppDel) -> Result<()> {
    let applications = connect(before, &args.connect).await?;
    let wanted = match &args.version {
        Some(version) if !args.delete_all => Delete::One(version.clone()),
        _ => Delete::All,
    };
    let reply = applications.delete(&args.name, wanted).await?.found()?;
    terminal.show(&Reply::of("deleted", &args.name, reply))
}

/// The form in which an application is given.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Manifest(String),
    Name(String),
}

/// Reads the manifest that `word` means, or takes it for the name of an application.
async fn source(word: Option<&str>) -> Result<Source> {
    let word = word.unwrap_or("-");
    if word == "-" || manifests::is_address(word) || Path::new(word).is_file() {
        return Ok(Source::Manifest(manifests::read(word).await?.text));
    }
    if is_name(word) {
        return Ok(Source::Name(word.to_owned()));
    }
    Err(Usage(format!("{word:?} is neither a file with a manifest nor the name of an application"))
        .into())
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

impl Reply {
    fn of<T: DeserializeOwned>(key: &'static str, name: &str, answer: Answer<T>) -> Self {
        let text = answer.message().to_owned();
        Self { key, name: name.to_owned(), text, reply: answer.json, more: None }
    }
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

/// The row of an application, or of a part of it.
fn status_row(name: &str, what: &str, part: &Value, version: &str) -> [Cell; 6] {
    let info = part.get("status").unwrap_or(&Value::Null);
    [
        name.into(),
        what.into(),
        toned(text(info, "type")),
        version.into(),
        message(part).into(),
        text(part, "id").into(),
    ]
}

/// The message of a part of an application, with the moment when hosts try again what failed.
fn message(part: &Value) -> String {
    let message = part.get("status").map(|info| text(info, "message")).unwrap_or_default();
    let Some(at_ms) = part.get("next_at").and_then(Value::as_u64) else {
        return message.to_owned();
    };
    let next = format!("hosts try again at {} UTC", clock::second_of(clock::of_ms(at_ms)));
    if message.is_empty() { next } else { format!("{message}; {next}") }
}

/// How the state of something is shown.
pub(super) fn toned(state: &str) -> Cell {
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
                deployed(app).into(),
                toned(text(app, "status")),
                text(app, "description").into(),
                text(app, "status_message").into(),
            ]);
        }
        page.table(&table, "There are no applications. `host apply -f FILE` deploys one.");
    }

    fn names(&self) -> Vec<String> {
        self.each().iter().map(|app| text(app, "name").to_owned()).collect()
    }
}

/// The version that is deployed, with the one that takes calls beside it or in its place.
fn deployed(app: &Value) -> String {
    let version = text(app, "deployed_version");
    let told = RolloutStatus::deserialize(&app["detailed_status"]["rollout"]);
    let Some(told) = told.ok().filter(|told| told.rollout.to == version) else {
        return version.to_owned();
    };
    match told.rollout.state {
        State::Done => version.to_owned(),
        State::TakenBack { .. } => format!("{} ({version} taken back)", told.rollout.from),
        State::Running | State::Paused => {
            format!("{} ({version} takes {} %)", told.rollout.from, told.share())
        }
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

    /// The whole, then each component, and then what keeps them so: the scalers and links, or the
    /// traits where only those are told.
    fn text(&self, page: &mut Page) {
        let status = &self.reply["status"];
        let mut table = Table::new([
            Column::text("NAME"),
            Column::text("WHAT"),
            Column::fixed("STATUS"),
            Column::text("VERSION"),
            Column::text("MESSAGE"),
            Column::id("ID").only_wide(),
        ]);
        table.row(status_row(&self.name, "application", status, text(status, "version")));
        let scalers = items(status, "scalers");
        for component in items(status, "components") {
            table.row(status_row(text(component, "name"), text(component, "type"), component, ""));
            for a_trait in items(component, "traits").iter().filter(|_| scalers.is_empty()) {
                table.row(status_row("", text(a_trait, "type"), a_trait, ""));
            }
        }
        for scaler in scalers {
            table.row(status_row(text(scaler, "name"), text(scaler, "kind"), scaler, ""));
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
    fn the_version_that_runs_is_listed_as_deployed() {
        for (state, listed) in [
            (json!("done"), "v2"),
            (json!("running"), "v1 (v2 takes 20 %)"),
            (json!({ "takenback": { "why": "slow" } }), "v1 (v2 taken back)"),
        ] {
            let app = json!({ "deployed_version": "v2", "detailed_status": { "rollout": {
                "at": 1, "from": "v1", "to": "v2", "step": 0, "state": state, "steps": [{ "percent": 20 }],
                "calls_wanted": 1, "stable": { "calls": 0, "failed": 0, "p99_us": 0 },
                "newer": { "calls": 0, "failed": 0, "p99_us": 0 },
            } } });
            assert_eq!(deployed(&app), listed);
        }
        assert_eq!(deployed(&json!({ "deployed_version": "v2" })), "v2");
    }

    #[test]
    fn a_part_that_failed_says_when_it_is_tried_again() {
        let part = |why: &str| json!({ "status": { "type": "failed", "message": why } });
        assert_eq!(message(&part("no host")), "no host");
        let mut failed = part("no host");
        failed["next_at"] = json!(1_000);
        let told = "hosts try again at 1970-01-01 00:00:01 UTC";
        assert_eq!(message(&failed), format!("no host; {told}"));
        assert_eq!(message(&json!({ "next_at": 1_000 })), told);
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
}
