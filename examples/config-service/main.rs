//! The two services a lattice may have, from one small file: what each host is to start and how it
//! logs in to registries, by the host's labels (lattice protocol, section 8.1), and what may start
//! and be called (section 8.2).
//!
//! `file` is the form of the file and what it means for a host, `policy` decides and remembers what
//! it decided. This file has the command line and the one loop that answers requests and notices
//! when the file changed: then decisions that would be others by now are overridden, and logins for
//! all hosts are sent to all hosts.
//!
//!     nats-server -a 127.0.0.1 -js &
//!     cargo run --example config-service -- examples/config-service/lattice.json
//!     host up --config-service-enabled --policy-topic policy.default --policy-changes-topic policy.default.changes

mod file;
mod policy;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use async_nats::{Client, ConnectOptions, Message};
use clap::Parser;
use file::Source;
use futures::StreamExt;
use policy::Book;
use serde_json::{Value, json};

/// How often the file is looked at when nobody asks.
const LOOK: Duration = Duration::from_millis(500);

/// Tells the hosts of a lattice what to start, and decides what they may do, by their labels.
///
/// FILE is JSON. It is read again whenever it changes; a mistake in it is reported, and what was
/// good before goes on.
///
/// {
///   "hosts": [
///     {
///       "labels": { "machine": "first" },
///       "actors": ["registry.example/echo:0.3.4"],
///       "providers": ["builtin://httpserver", { "image": "registry.example/kv:1", "link": "front" }],
///       "registries": { "registry.example": { "username": "puller", "password": "..." } }
///     }
///   ],
///   "policy": {
///     "rules": [
///       { "deny": ["start_provider"], "labels": { "zone": "public" }, "because": "actors only" },
///       { "allow": ["start_actor"], "image": "registry.example/*", "issuer": "ACOJJN6W..." },
///       { "deny": ["start_actor"] }
///     ],
///     "otherwise": "allow"
///   }
/// }
///
/// hosts: every entry whose labels the host has counts; one without labels counts for all hosts.
/// A host asks when it starts, so changes reach hosts that start after them. Logins in entries
/// without labels are sent to running hosts too.
///
/// policy: the first rule that fits decides, else "otherwise" (allow). A rule allows or denies a
/// list of start_actor, start_provider, perform_invocation. All else it says must fit as well:
///   labels                  of the host
///   target, source          public keys of who is started or called, and of who calls
///   issuer, source_issuer   who signed these
///   contract                of the target
///   image                   of what is to start
/// Each is a text or a list of texts, and * stands for anything. "because" is what the host is
/// told. When rules change, hosts are told so about what was decided before.
#[derive(Parser)]
#[command(name = "config-service", verbatim_doc_comment)]
struct Arguments {
    /// The file that says what is to be
    file: PathBuf,
    /// Reads the file, says what is wrong with it, and ends
    #[arg(long)]
    check: bool,
    /// The NATS server
    #[arg(long, value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    nats_url: String,
    /// Credentials for the NATS server
    #[arg(long, value_name = "FILE")]
    creds: Option<PathBuf>,
    /// The name of the lattice
    #[arg(long, default_value = "default")]
    lattice: String,
    /// Where hosts ask for decisions, as in their setting policy_topic [default: policy.LATTICE]
    #[arg(long, value_name = "SUBJECT")]
    policy_topic: Option<String>,
    /// Where hosts hear of changed decisions, as in their setting policy_changes_topic [default:
    /// policy.LATTICE.changes]
    #[arg(long, value_name = "SUBJECT")]
    policy_changes_topic: Option<String>,
    /// The first part of control subjects, as in the hosts' setting ctl_topic_prefix
    #[arg(long, value_name = "SUBJECT", default_value = "wasmbus.ctl")]
    ctl_topic_prefix: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("config-service: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let source = Source::open(arguments.file.clone())?;
    println!("{}", source.lattice().summary());
    if arguments.check {
        return Ok(());
    }
    let options = match &arguments.creds {
        Some(creds) => ConnectOptions::with_credentials_file(creds)
            .await
            .map_err(|e| format!("cannot read the credentials in {}: {e}", creds.display()))?,
        None => ConnectOptions::new(),
    };
    let url = &arguments.nats_url;
    let client = options.name("config-service").connect(url).await;
    let client = client.map_err(|e| {
        format!("no NATS server at {url}: {e}; start one, or name another with --nats-url")
    })?;
    Service::new(client, source, &arguments).serve(&arguments).await
}

struct Service {
    client: Client,
    source: Source,
    book: Book,
    changes_topic: String,
    registries_put: String,
}

impl Service {
    fn new(client: Client, source: Source, arguments: &Arguments) -> Self {
        let lattice = &arguments.lattice;
        let changes_topic = arguments
            .policy_changes_topic
            .clone()
            .unwrap_or_else(|| format!("policy.{lattice}.changes"));
        let registries_put = format!("{}.{lattice}.registries.put", arguments.ctl_topic_prefix);
        Self { client, source, book: Book::default(), changes_topic, registries_put }
    }

    async fn serve(mut self, arguments: &Arguments) -> Result<(), String> {
        let lattice = &arguments.lattice;
        let config = format!("wasmbus.cfg.{lattice}.req");
        let policy = arguments.policy_topic.clone().unwrap_or_else(|| format!("policy.{lattice}"));
        let subscribe = async |subject: &str| {
            let subscribed =
                self.client.queue_subscribe(subject.to_owned(), "config-service".to_owned()).await;
            subscribed.map_err(|e| format!("cannot listen on {subject}: {e}"))
        };
        let (mut hosts, mut questions) = (subscribe(&config).await?, subscribe(&policy).await?);
        self.client.flush().await.map_err(|e| format!("the NATS server does not answer: {e}"))?;
        println!("answering on {config} and {policy}");
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                Some(request) = hosts.next() => {
                    self.look().await;
                    self.configure(request).await;
                }
                Some(request) = questions.next() => {
                    self.look().await;
                    self.decide(request).await;
                }
                _ = look.tick() => self.look().await,
                stopped = tokio::signal::ctrl_c() => return stopped.map_err(|e| format!("cannot wait for Ctrl-C: {e}")),
                else => return Err("the connection to the NATS server ended".into()),
            }
        }
    }

    /// Takes over a changed file, and tells hosts what is different for them.
    async fn look(&mut self) {
        let before = match self.source.refresh() {
            Ok(Some(before)) => before,
            Ok(None) => return,
            Err(error) => return eprintln!("{error}; what was good before goes on"),
        };
        let lattice = self.source.lattice();
        println!("{} changed: {}", self.source.path().display(), lattice.summary());
        let overrides = self.book.changed(lattice);
        if !overrides.is_empty() {
            println!("overriding {} decisions", overrides.len());
        }
        for decision in overrides {
            self.publish(&self.changes_topic, &decision).await;
        }
        let logins = lattice.logins_of_all();
        if !logins.is_empty() && logins != before.logins_of_all() {
            println!("sending the logins of {} to all hosts", file::names(&logins));
            self.publish(&self.registries_put, &json!(logins)).await;
        }
    }

    async fn configure(&self, request: Message) {
        let labels = match serde_json::from_slice::<Value>(&request.payload) {
            Ok(body) => file::labels(&body["labels"]),
            Err(error) => return eprintln!("a request for configuration is no JSON: {error}"),
        };
        let answer = self.source.lattice().configuration(&labels);
        println!("a host with {} gets {}", file::shown(&labels), answer.summary());
        self.answer(request, &answer.reply()).await;
    }

    async fn decide(&mut self, request: Message) {
        let decision = match serde_json::from_slice::<Value>(&request.payload) {
            Ok(question) => self.book.decide(self.source.lattice(), question),
            Err(error) => {
                eprintln!("a policy request is no JSON: {error}");
                json!({"requestId": "", "permitted": false, "message": "the policy request is no JSON"})
            }
        };
        self.answer(request, &decision).await;
    }

    async fn answer(&self, request: Message, answer: &Value) {
        if let Some(reply) = request.reply {
            self.publish(&reply, answer).await;
        }
    }

    async fn publish(&self, subject: &str, body: &Value) {
        if let Err(error) = self.client.publish(subject.to_owned(), body.to_string().into()).await {
            eprintln!("nothing sent on {subject}: {error}");
        }
    }
}
