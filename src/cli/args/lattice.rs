//! Commands that speak to a lattice: the verbs of `wash`, long and short, and what it never had.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{connect::Connect, link::Link};
use crate::terminal::Form;

/// `KEY=VALUE`, split at the first equals sign.
pub type Pair = (String, String);

/// A text that is no pair.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it is written KEY=VALUE")]
pub struct NoPair;

/// Reads a pair.
pub fn pair(text: &str) -> Result<Pair, NoPair> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        _ => Err(NoPair),
    }
}

/// `ctl`, the long form of all years.
#[derive(Debug, Subcommand)]
pub enum Ctl {
    /// Look at the lattice
    #[command(subcommand)]
    Get(Get),
    /// Link actors to providers
    #[command(subcommand, alias = "links")]
    Link(Link),
    /// Start an actor or a provider
    #[command(subcommand)]
    Start(Start),
    /// Stop an actor, a provider or a host
    #[command(subcommand)]
    Stop(Stop),
    /// Exchange a running actor's module
    #[command(subcommand)]
    Update(Update),
    /// Change how many calls an actor takes at a time
    #[command(subcommand)]
    Scale(Scale),
}

#[derive(Debug, Subcommand)]
pub enum Get {
    /// Hosts that answer
    #[command(alias = "host")]
    Hosts(Query),
    /// Actors and providers that run on a host, or on each
    #[command(alias = "inventories", alias = "inv")]
    Inventory(Inventory),
    /// Claims of actors and providers that the lattice knows
    #[command(alias = "claim")]
    Claims(Query),
    /// Link definitions
    #[command(alias = "link")]
    Links(Query),
}

/// How often it is looked.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Watch {
    /// Look again and again until Ctrl-C, with so many seconds in between [default: 2]
    #[arg(
        short = 'w',
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2"
    )]
    pub watch: Option<f64>,
}

#[derive(Args, Debug)]
pub struct Query {
    #[command(flatten)]
    pub watch: Watch,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
pub struct Inventory {
    /// Host by id, the beginning of it, or a part of its friendly name; all hosts if not given
    #[arg(value_name = "HOST")]
    pub host: Option<String>,
    #[command(flatten)]
    pub watch: Watch,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Debug, Subcommand)]
pub enum Start {
    /// Start an actor on the first host that offers to run it, or on one you name
    #[command(
        long_about = "Starts an actor on the first host that offers to run it, or on one you name, and waits until it runs. \
            A file of this machine is sent through the lattice's object store, so that any host can run it; a registry is \
            not needed.",
        after_help = "Examples:\n  \
            host start actor registry.example/echo:0.3.4\n  \
            host start actor ./echo_s.wasm --max 10\n  \
            host start actor registry.example/echo:0.3.4 --constraint machine=second\n\n\
            Exit codes: 0 it runs; 1 it was refused or failed; 2 usage; 3 no outcome within the time, it may still start."
    )]
    Actor(StartActor),
    /// Start a provider on the first host that offers to run it, or on one you name
    #[command(after_help = "Examples:\n  \
        host start provider builtin://httpserver\n  \
        host start provider registry.example/kvredis:0.22.0 --link-name cache --constraint machine=second")]
    Provider(StartProvider),
    /// Start what ran only on a host that vanished, on other hosts
    #[command(
        long_about = "Starts what ran only on a host that vanished on other hosts, each actor and provider on the first that \
            offers. What runs elsewhere already is left alone, and so is what belongs to an application: its hosts start that \
            again by themselves. `host get hosts` shows lost hosts, `host get inventory` what runs nowhere.\n\n\
            A lost host that comes back starts again what ran there, and then it runs twice: stop it on one of the two, with \
            `host stop actor NAME --host-id HOST`.",
        after_help = "Examples:\n  \
            host start lost sleepy-reef-5527\n\n\
            Exit codes: 0 everything runs; 1 something does not; 2 usage."
    )]
    Lost(StartLost),
}

#[derive(Args, Debug)]
pub struct StartLost {
    /// Lost host by id, the beginning of it, or a part of its friendly name
    #[arg(value_name = "HOST")]
    pub host: String,
    /// How long hosts may take to offer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    pub auction_timeout_ms: u64,
    /// How long each start may take, in milliseconds; a minute if not given
    #[arg(long, value_name = "MS")]
    pub wait_ms: Option<u64>,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  host forget sleepy-reef-5527")]
pub struct Forget {
    /// Lost host by id, the beginning of it, or a part of its friendly name
    #[arg(value_name = "HOST")]
    pub host: String,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

/// Where something is to run.
#[derive(Args, Debug)]
pub struct Placement {
    /// Host by id, the beginning of it, or a part of its friendly name; without it hosts are asked
    /// who can
    #[arg(long, value_name = "HOST")]
    pub host_id: Option<String>,
    /// Only hosts with this label; may be repeated
    #[arg(
        short = 'c',
        long = "constraint",
        alias = "constraints",
        value_name = "LABEL=VALUE",
        value_parser = pair
    )]
    pub constraints: Vec<Pair>,
    /// How long hosts may take to offer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    pub auction_timeout_ms: u64,
    /// Return when the host has taken the command on
    #[arg(long)]
    pub skip_wait: bool,
    /// How long the start may take, in milliseconds, downloads included [default: 60000]
    #[arg(long, value_name = "MS")]
    pub wait_ms: Option<u64>,
    /// Annotation to start it with; may be repeated
    #[arg(short = 'a', long = "annotation", alias = "annotations", value_name = "KEY=VALUE", value_parser = pair)]
    pub annotations: Vec<Pair>,
    /// Run it although another account signed it than before; needs the cluster seed, or a host of
    /// yours on this machine
    #[arg(long)]
    pub allow_issuer_change: bool,
}

#[derive(Args, Debug)]
pub struct StartActor {
    /// Image of a registry, file of this machine, or file:///path on the host's machine
    #[arg(value_name = "ACTOR")]
    pub reference: String,
    /// Replicas: calls it works on at a time; without it 1, or what it has already
    #[arg(
        long = "max-instances",
        visible_alias = "max",
        alias = "max-concurrent",
        alias = "count",
        value_name = "N"
    )]
    pub max: Option<u32>,
    /// Sign a file that is not signed with your own keys before it is sent
    #[arg(long)]
    pub sign: bool,
    /// Contract it is signed for; may be repeated
    #[arg(long = "cap", value_name = "CONTRACT", requires = "sign")]
    pub caps: Vec<String>,
    #[command(flatten)]
    pub placement: Placement,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
pub struct StartProvider {
    /// builtin://NAME, image of a registry, archive of this machine, or file:///path on the host's
    /// machine
    #[arg(value_name = "PROVIDER")]
    pub reference: String,
    /// Link name it serves
    #[arg(short = 'l', long, value_name = "NAME", default_value = "default")]
    pub link_name: String,
    /// File with its configuration
    #[arg(long, value_name = "FILE")]
    pub config_json: Option<PathBuf>,
    #[command(flatten)]
    pub placement: Placement,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Debug, Subcommand)]
pub enum Stop {
    /// Stop an actor on one host, or wherever it runs
    Actor(StopActor),
    /// Stop a provider on one host
    Provider(StopProvider),
    /// Stop a host; it finishes its calls first
    Host(StopHost),
}

#[derive(Args, Debug)]
pub struct StopActor {
    /// Actor by id, the beginning of it, name or call alias
    #[arg(value_name = "ACTOR")]
    pub actor: String,
    /// The actor, if the host comes first, as in 2022
    #[arg(value_name = "ACTOR", hide = true, conflicts_with = "host_id")]
    pub old_actor: Option<String>,
    /// Host by id, the beginning of it, or a part of its friendly name; needed when it runs on
    /// several
    #[arg(long, value_name = "HOST")]
    pub host_id: Option<String>,
    /// Stop it on every host
    #[arg(long, conflicts_with_all = ["host_id", "old_actor"])]
    pub all: bool,
    /// Stop so many only; all if not given
    #[arg(long, value_name = "N")]
    pub count: Option<u32>,
    /// Only what was started with this annotation; may be repeated
    #[arg(short = 'a', long = "annotation", value_name = "KEY=VALUE", value_parser = pair)]
    pub annotations: Vec<Pair>,
    /// Return when the host has taken the command on
    #[arg(long)]
    pub skip_wait: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
pub struct StopProvider {
    /// Provider by id, the beginning of it, name or reference
    #[arg(value_name = "PROVIDER")]
    pub provider: String,
    /// Contract and link name, if they are to be checked
    #[arg(value_name = "CONTRACT [LINK_NAME]", num_args = 0..=3)]
    pub rest: Vec<String>,
    /// Link name it serves [default: default]
    #[arg(short = 'l', long, value_name = "NAME")]
    pub link_name: Option<String>,
    /// Host by id, the beginning of it, or a part of its friendly name; needed when it runs on
    /// several
    #[arg(long, value_name = "HOST")]
    pub host_id: Option<String>,
    /// Return when the host has taken the command on
    #[arg(long)]
    pub skip_wait: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
pub struct StopHost {
    /// Host by id, the beginning of it, or a part of its friendly name
    #[arg(value_name = "HOST")]
    pub host: String,
    /// How long it may take to finish its calls, in milliseconds
    #[arg(
        long = "host-timeout",
        visible_alias = "host-timeout-ms",
        value_name = "MS",
        default_value_t = 10_000
    )]
    pub host_timeout_ms: u64,
    /// Return when the host has taken the command on
    #[arg(long)]
    pub skip_wait: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Debug, Subcommand)]
pub enum Scale {
    /// Set the replicas of an actor on a host: calls it works on at a time; 0 stops it
    Actor(ScaleActor),
}

#[derive(Args, Debug)]
pub struct ScaleActor {
    /// Host by id, the beginning of it, or a part of its friendly name
    #[arg(value_name = "HOST")]
    pub host: String,
    /// Actor by reference, or one that runs by id, name or call alias
    #[arg(value_name = "ACTOR")]
    pub actor: String,
    /// Reference, if the actor is given by id, as in 2022
    #[arg(value_name = "REFERENCE", hide = true)]
    pub old_reference: Option<String>,
    /// Replicas: calls it works on at a time; without it there is no bound
    #[arg(
        short = 'c',
        long = "max-instances",
        visible_alias = "max",
        alias = "max-concurrent",
        alias = "count",
        value_name = "N"
    )]
    pub max: Option<u32>,
    /// Annotation of what is scaled; may be repeated
    #[arg(short = 'a', long = "annotation", alias = "annotations", value_name = "KEY=VALUE", value_parser = pair)]
    pub annotations: Vec<Pair>,
    /// How long it may take, in milliseconds, downloads included [default: 60000]
    #[arg(long, value_name = "MS")]
    pub wait_ms: Option<u64>,
    /// Return when the host has taken the command on
    #[arg(long)]
    pub skip_wait: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Debug, Subcommand)]
pub enum Update {
    /// Exchange the module of a running actor; no call is lost
    Actor(UpdateActor),
}

#[derive(Args, Debug)]
pub struct UpdateActor {
    /// Actor by id, the beginning of it, name or call alias, and what it is to run
    #[arg(value_name = "ACTOR REFERENCE", num_args = 2..=3, required = true)]
    pub names: Vec<String>,
    /// Host by id, the beginning of it, or a part of its friendly name; all that run it if not
    /// given
    #[arg(long, value_name = "HOST")]
    pub host_id: Option<String>,
    /// Sign a file that is not signed with your own keys before it is sent
    #[arg(long)]
    pub sign: bool,
    /// Contract it is signed for; may be repeated
    #[arg(long = "cap", value_name = "CONTRACT", requires = "sign")]
    pub caps: Vec<String>,
    /// How long it may take, in milliseconds, downloads included [default: 60000]
    #[arg(long, value_name = "MS")]
    pub wait_ms: Option<u64>,
    /// Run it although another account signed it than before; needs the cluster seed, or a host of
    /// yours on this machine
    #[arg(long)]
    pub allow_issuer_change: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    host label lucky-reef machine=second zone=a\n  \
    host label lucky-reef machine --delete")]
pub struct Label {
    /// Host by id, the beginning of it, or a part of its friendly name
    #[arg(value_name = "HOST")]
    pub host: String,
    /// KEY=VALUE to set, KEY to delete
    #[arg(value_name = "LABEL", required = true)]
    pub labels: Vec<String>,
    /// Delete the labels
    #[arg(long)]
    pub delete: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
#[command(
    long_about = "Empties a host, for an update of its machine or for good: the host takes nothing new, and what runs on it is \
        started on other hosts that may run it before it is stopped here. What an application keeps is moved by the \
        application. The constraints that something was started with are not known any more; --constraint says which hosts \
        may get it.\n\n\
        What can go nowhere else is told with the reason, runs on, and makes the exit code 1. The host goes on taking nothing \
        new until --undo, or until it starts again.\n\n\
        `host drain all`, `oci`, `lib`, `compiled` and `downloads` throw caches away, as `wash drain` does; \
        `host cache clear` does the same.",
    after_help = "Examples:\n  \
        host drain lucky-reef                      move everything to other hosts\n  \
        host drain lucky-reef -c zone=a            only to hosts with this label\n  \
        host drain lucky-reef --undo               let it take work again\n  \
        host get hosts                             shows it as drained\n\n\
        Exit codes: 0 nothing runs there any more; 1 something runs on, or it failed; 2 usage."
)]
pub struct Drain {
    /// Host by id, the beginning of it, or a part of its friendly name
    #[arg(value_name = "HOST")]
    pub host: String,
    /// Let the host take work again; what was moved stays where it is
    #[arg(long, visible_alias = "uncordon", conflicts_with_all = ["constraints", "wait_ms"])]
    pub undo: bool,
    /// Only hosts with this label get what is moved; may be repeated
    #[arg(
        short = 'c',
        long = "constraint",
        alias = "constraints",
        value_name = "LABEL=VALUE",
        value_parser = pair
    )]
    pub constraints: Vec<Pair>,
    /// How long it may take in all, in milliseconds, downloads included [default: 60000]
    #[arg(long, value_name = "MS")]
    pub wait_ms: Option<u64>,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    host call echo HttpServer.HandleRequest '{\"method\":\"GET\",\"path\":\"/\",\"queryString\":\"\",\"header\":{},\"body\":\"\"}'\n  \
    host call MBA7VIBP... HttpServer.HandleRequest --data request.json --save answer.bin\n\n\
    The payload is JSON and travels as MessagePack; so does the answer. The call is signed with the cluster seed of the \
    settings, or by a host of this machine.")]
pub struct Call {
    /// Actor by id, the beginning of it, name or call alias
    #[arg(value_name = "ACTOR")]
    pub actor: String,
    /// Operation, like HttpServer.HandleRequest
    #[arg(value_name = "OPERATION")]
    pub operation: String,
    /// Payload as JSON
    #[arg(value_name = "PAYLOAD", conflicts_with = "data")]
    pub payload: Vec<String>,
    /// File with the payload as JSON; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// Send the payload as it is, not as MessagePack
    #[arg(long)]
    pub raw: bool,
    /// Write the answer to this file as it comes
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// How binary parts of the answer are shown as JSON: b as bytes, s as text, 2 as both
    #[arg(long, value_name = "FORM", default_value = "b", value_parser = ["b", "s", "2"])]
    pub bin: String,
    /// Read the answer as the results of a test actor
    #[arg(long)]
    pub test: bool,
    /// Cluster seed (SC...) to sign with; the settings' if not given
    #[arg(short = 'c', long, value_name = "SEED")]
    pub cluster_seed: Option<String>,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
#[command(
    long_about = "Shows calls as they pass NATS: who calls whom with what, whether the signature is good, and what is answered. \
        Answers are shown if this user may hear _INBOX.>.\n\n\
        Calls between actors and built-in providers of one host do not leave it and are not shown here: `host top` counts them, \
        `host logs` shows what actors and providers log. A host that runs with --no-local-calls sends all calls over NATS.",
    after_help = "Examples:\n  \
        host spy\n  \
        host spy echo --payloads -n 10\n  \
        host spy -o json | jq 'select(.kind == \"answer\" and .error)'\n\n\
        Ctrl-C ends it."
)]
pub struct Spy {
    /// Actor by id, the beginning of it, name or call alias; all calls of the lattice if not given
    #[arg(value_name = "ACTOR")]
    pub actor: Option<String>,
    /// End after so many calls
    #[arg(short = 'n', long, value_name = "N")]
    pub count: Option<u64>,
    /// Show payloads as well
    #[arg(long)]
    pub payloads: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    host logs echo -f\n  \
    host logs builtin://httpserver --tail 50")]
pub struct Logs {
    /// Actor or provider by id, the beginning of it, name, call alias or reference
    #[arg(value_name = "ACTOR|PROVIDER")]
    pub entity: String,
    /// Go on with what comes, from every host that runs it
    #[arg(short, long)]
    pub follow: bool,
    /// Lines of the past to begin with, from each host
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    pub tail: u32,
    /// Only from this host
    #[arg(long, value_name = "HOST")]
    pub host_id: Option<String>,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
#[command(
    long_about = "Shows actors and providers by calls, errors and latency, over all hosts. Rates and percentiles are those of the \
        time between two looks, so the first one comes after a delay. What hosts serve is counted there, also calls that never \
        leave them; calls of providers that are processes of their own are counted by their callers, marked ~.\n\n\
        On a terminal it goes on: q ends it, c, l, e and n sort by calls, latency, errors and name.",
    after_help = "Examples:\n  \
        host top\n  \
        host top --operations -n 1\n  \
        host top -n 60 -o json > minute.jsonl"
)]
pub struct Top {
    /// Seconds between two looks
    #[arg(short = 'd', long, value_name = "SECONDS", default_value_t = 1.0)]
    pub delay: f64,
    /// End after so many looks; one look if the output is no terminal
    #[arg(short = 'n', long, value_name = "N")]
    pub iterations: Option<u64>,
    /// Column to sort by
    #[arg(short, long, value_enum, default_value_t = TopOrder::Calls)]
    pub sort: TopOrder,
    /// A row for each operation
    #[arg(long)]
    pub operations: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TopOrder {
    Calls,
    Latency,
    Errors,
    Name,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    host explain kvcounter wasmcloud:keyvalue KeyValue.Increment\n  \
    host explain pinger ponger Ping.Ping\n  \
    host explain builtin://httpserver echo HttpServer.HandleRequest\n  \
    host explain 6f9619ff-8b86-4d01-b42d-00cf4fc964ff    a call that failed, by the id in its error\n\n\
    Exit codes: 0 nothing is in the way; 1 the call would fail; 2 usage.")]
pub struct Explain {
    /// Caller: actor or provider by id, the beginning of it, name, call alias or reference; alone,
    /// the id of a call that failed
    #[arg(value_name = "ORIGIN")]
    pub origin: String,
    /// Target of the call: a contract, an actor or a provider
    #[arg(value_name = "TARGET", requires = "operation")]
    pub target: Option<String>,
    /// Operation, like KeyValue.Get
    #[arg(value_name = "OPERATION")]
    pub operation: Option<String>,
    /// Link name
    #[arg(short = 'l', long, value_name = "NAME", default_value = "default")]
    pub link_name: String,
    /// Host the call begins on; one that runs the origin if not given
    #[arg(long, value_name = "HOST")]
    pub host_id: Option<String>,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
pub struct UpgradeCheck {
    /// Count warnings too, such as actors that only one host runs
    #[arg(long)]
    pub strict: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
#[command(after_help = "Exit codes: 0 nothing is wrong; 1 something is; 2 usage.")]
pub struct Doctor {
    /// Only these checks; may be repeated
    #[arg(long = "check", value_name = "NAME")]
    pub checks: Vec<String>,
    /// List the checks there are
    #[arg(long)]
    pub list: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}
