//! The commands of the walk, typed at a shell: with `host`, or with `wash`, whose every word they
//! are.
//!
//! Each command line is run in the directory of a machine, and after it the client crate asks the
//! lattice for the outcome. The output of programs may differ in words; their effects must not:
//! [`Effect`] is written without anything that differs from one run to the next.

use std::{collections::BTreeMap, path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use lattice_engine::providers::builtin::{httpclient, httpserver};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    eventually,
    ground::Ground,
    lattice::{Lattice, Plan},
    machine::{HOST_CONFIG, Machine},
};

/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(90);

/// A command line that was typed, and what it brought about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Without the program and without what differs between runs.
    pub command: String,
    /// The actors, providers and links of the lattice afterwards.
    pub lattice: Value,
}

/// A program that operates lattices.
pub struct Cli {
    program: PathBuf,
    said: Vec<String>,
}

/// The lattice while the commands are typed.
struct Desk {
    lattice: Lattice,
    cli: Cli,
    /// Names for what is different in each run.
    names: BTreeMap<String, String>,
    effects: Vec<Effect>,
}

/// Types all commands of the walk. Returns what each brought about, and all that the program said.
pub async fn type_all(
    program: PathBuf,
    plan: Plan,
    ground: Ground,
) -> Result<(Vec<Effect>, Vec<String>)> {
    let (reference, actor, web) =
        (plan.app.reference.clone(), plan.app.actor.clone(), plan.app.web().unwrap_or_default());
    let actor = actor.as_str();
    let mut lattice = Lattice::start_servers(plan, ground).await?;
    lattice.start_first_host().await?;
    let mut desk = Desk {
        cli: Cli { program, said: Vec::new() },
        names: BTreeMap::new(),
        effects: Vec::new(),
        lattice,
    };
    desk.name(&desk.lattice.first.host_id.clone(), "FIRST");
    let page = desk.lattice.first.place.page_listen.clone();
    desk.name(&page, "PAGE");
    let pairs: Vec<String> = web.iter().map(|(key, value)| format!("{key}={value}")).collect();
    // A word such as true stands for itself.
    for (key, value) in web.iter().filter(|(key, _)| *key != "allow_loopback") {
        desk.name(value, &key.to_uppercase());
    }

    desk.run(&["get", "hosts"]).await?;
    desk.run(&["start", "actor", &reference]).await?;
    desk.run(&["start", "provider", "builtin://httpserver"]).await?;
    desk.run(&["ctl", "start", "provider", "builtin://httpclient"]).await?;
    let server = &httpserver::SPEC;
    desk.run(&[
        "link",
        "put",
        actor,
        server.known.public_key,
        server.known.contract_id,
        &format!("address={page}"),
    ])
    .await?;
    let client = &httpclient::SPEC;
    let mut put =
        vec!["ctl", "link", "put", actor, client.known.public_key, client.known.contract_id];
    put.extend(pairs.iter().map(String::as_str));
    desk.run(&put).await?;
    desk.run(&["link", "query"]).await?;
    desk.run(&["get", "links"]).await?;
    desk.run(&["get", "claims"]).await?;
    desk.page_answers().await?;

    desk.lattice.copy_config()?;
    desk.lattice.start_second_host().await?;
    let second = desk.lattice.second.host_id.clone();
    let first = desk.lattice.first.host_id.clone();
    desk.name(&second, "SECOND");
    desk.run(&["ctl", "get", "hosts"]).await?;
    desk.run(&[
        "start",
        "actor",
        &reference,
        "--constraint",
        "machine=second",
        "--max-instances",
        "10",
    ])
    .await?;
    desk.run(&["start", "provider", "builtin://httpclient", "--constraint", "machine=second"])
        .await?;
    desk.run(&["get", "inventory", &second]).await?;
    desk.run(&["label", &second, "zone=b"]).await?;
    desk.run(&["scale", "actor", &second, &reference, "--max-instances", "20"]).await?;
    desk.call(actor).await?;
    desk.run(&["stop", "actor", actor, "--host-id", &first]).await?;
    desk.page_answers().await?;
    desk.run(&["label", &second, "zone", "--delete"]).await?;
    desk.run(&["ctl", "get", "inventory", &first]).await?;
    desk.run(&["link", "del", actor, client.known.contract_id]).await?;
    desk.run(&[
        "stop",
        "provider",
        client.known.public_key,
        client.known.contract_id,
        "--host-id",
        &second,
    ])
    .await?;
    desk.run(&["ctl", "stop", "actor", actor, "--host-id", &second]).await?;
    desk.run(&["stop", "host", &second]).await?;
    desk.lattice.stop().await?;
    Ok((desk.effects, desk.cli.said))
}

impl Desk {
    /// Says what to write in place of a text that is another one in each run.
    fn name(&mut self, text: &str, name: &str) {
        self.names.insert(text.to_owned(), name.to_owned());
    }

    /// Types a command on the first machine, and looks at what it brought about.
    async fn run(&mut self, words: &[&str]) -> Result<()> {
        let first = &self.lattice.first;
        let mut typed: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        if let Some(port) = first.nats_port() {
            typed.extend(["--ctl-port".to_owned(), port]);
        }
        self.cli.run(first, &typed).await?;
        self.note(words).await
    }

    /// Calls the actor, signed with the seed that the first machine's settings hold.
    async fn call(&mut self, actor: &str) -> Result<()> {
        let first = &self.lattice.first;
        let text = std::fs::read_to_string(first.dir.join(HOST_CONFIG))
            .context("read the settings of the first machine")?;
        let settings: Value =
            serde_json::from_str(&text).context("decode the settings of the first machine")?;
        let seed =
            settings["cluster_seed"].as_str().context("the settings hold no cluster seed")?;
        let request =
            json!({ "method": "GET", "path": "/", "queryString": "", "header": {}, "body": [] })
                .to_string();
        let words = ["call", actor, "HttpServer.HandleRequest", &request];
        let mut typed: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        typed.extend(["--cluster-seed".to_owned(), seed.to_owned()]);
        if let Some(port) = first.nats_port() {
            typed.extend(["--rpc-port".to_owned(), port]);
        }
        self.cli.run(first, &typed).await?;
        self.note(&words).await
    }

    async fn note(&mut self, words: &[&str]) -> Result<()> {
        let command = self.nameless(&words.join(" "));
        let control = self.lattice.control(&self.lattice.first).await?;
        let mut hosts = Vec::new();
        for host in control.hosts().await? {
            let labels: BTreeMap<_, _> = host
                .labels
                .iter()
                .flatten()
                .filter(|(key, _)| !key.starts_with("hostcore."))
                .collect();
            let inventory = control.inventory(&host.id).await?;
            let mut actors: Vec<Value> = inventory
                .actors
                .iter()
                .map(|actor| {
                    let max: u32 =
                        actor.instances.iter().map(|instance| instance.max_instances).sum();
                    json!({ "name": actor.name, "max": max })
                })
                .collect();
            let mut providers: Vec<Value> = inventory
                .providers
                .iter()
                .map(|provider| json!({ "reference": provider.image_ref, "link_name": provider.link_name }))
                .collect();
            actors.sort_by_key(Value::to_string);
            providers.sort_by_key(Value::to_string);
            hosts.push(json!({ "host": host.id, "labels": labels, "actors": actors, "providers": providers }));
        }
        // The first machine first.
        hosts.sort_by_key(|host| host["host"] != *self.lattice.first.host_id);
        let links = control.links().await?;
        let lattice = self.nameless(&json!({ "hosts": hosts, "links": links }).to_string());
        self.effects.push(Effect {
            command,
            lattice: serde_json::from_str(&lattice).context("decode what runs where")?,
        });
        Ok(())
    }

    fn nameless(&self, text: &str) -> String {
        // The longest first: one may be a part of another.
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        names.into_iter().fold(text.to_owned(), |text, (one, name)| {
            let quoted = Value::from(one.as_str()).to_string();
            text.replace(quoted.trim_matches('"'), name).replace(one.as_str(), name)
        })
    }

    async fn page_answers(&self) -> Result<()> {
        let (client, url) =
            (reqwest::Client::builder().no_proxy().build()?, self.lattice.first.page());
        eventually("the page answers", || async {
            let status = client.get(&url).send().await?.status();
            ensure!(status.is_success(), "{url} answers {status}");
            Ok(())
        })
        .await
    }
}

impl Cli {
    async fn run(&mut self, machine: &Machine, words: &[String]) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(words).current_dir(&machine.dir).stdin(Stdio::null()).kill_on_drop(true);
        let home = machine.dir.join("home");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home);
        let output = tokio::time::timeout(COMMAND, command.output())
            .await
            .with_context(|| format!("{} did not end", words.join(" ")))?
            .with_context(|| format!("run {}", self.program.display()))?;
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let shown: Vec<&str> =
            words.iter().map(|word| if word.starts_with("SC") { "SC..." } else { word }).collect();
        self.said.push(format!("$ {}\n{}{}", shown.join(" "), out, err));
        if !output.status.success() {
            bail!("{} ended with {}: {out}{err}", shown.join(" "), output.status);
        }
        Ok(())
    }
}
