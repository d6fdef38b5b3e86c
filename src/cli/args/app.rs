//! `apply`, `export` and `app`: applications, which the hosts of the lattice keep, or a deployment
//! manager that is a program of its own.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{connect::Connect, lattice::Query};
use crate::terminal::Form;

#[derive(Args, Debug)]
pub struct Apply {
    /// Files, directories and http(s) addresses of manifests, or - for standard input
    #[arg(value_name = "MANIFEST", required_unless_present = "files", value_hint = clap::ValueHint::AnyPath)]
    pub manifests: Vec<String>,
    /// The same with a flag; may be repeated
    #[arg(short = 'f', long = "file", alias = "filename", value_name = "MANIFEST", value_hint = clap::ValueHint::AnyPath)]
    pub files: Vec<String>,
    /// Print the differences and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Undeploy and delete the applications of the set that are in none of the manifests; the set
    /// has to be named, by --set or by all manifests
    #[arg(long)]
    pub prune: bool,
    /// Name of the set that the applications belong to [default: the annotation
    /// lattice.host/applied-set of a manifest, or else default]
    #[arg(long, value_name = "NAME")]
    pub set: Option<String>,
    /// Do not wait until the applications run: return when hosts have taken the commands
    #[arg(long, visible_alias = "no-wait")]
    pub skip_wait: bool,
    /// How long to wait until they run, in milliseconds, downloads included [default: 60000]
    #[arg(long, value_name = "MS")]
    pub wait_ms: Option<u64>,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

impl Apply {
    /// The time to wait; none if nobody is waited for.
    pub fn wait(&self, default: Duration) -> Option<Duration> {
        (!self.skip_wait).then(|| self.wait_ms.map_or(default, Duration::from_millis))
    }
}

#[derive(Args, Debug)]
pub struct Export {
    /// Print the deployed manifest of this application, instead of one of what no application
    /// manages
    #[arg(long, value_name = "NAME")]
    pub application: Option<String>,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

/// Commands about single applications, in the words of `wash`.
#[derive(Debug, Subcommand)]
pub enum App {
    /// List applications
    List(Query),
    /// Show an application's manifest
    Get(AppVersion),
    /// Show an application's versions
    History(AppName),
    /// Show how an application is
    Status(AppName),
    /// Store a manifest
    Put(AppPut),
    /// Delete an application, or a version of it
    #[command(alias = "delete")]
    Del(AppDel),
    /// Deploy an application, by name or by manifest
    Deploy(AppDeploy),
    /// Take an application down
    Undeploy(AppUndeploy),
}

/// Commands about new versions that take over step by step.
#[derive(Debug, Subcommand)]
pub enum Rollout {
    /// Show the step of a rollout, and the calls of both versions in it
    Status(AppName),
    /// Keep a rollout at its step, until it is resumed or aborted
    Pause(AppName),
    /// Go on with a rollout that was paused
    Resume(AppName),
    /// Go on to the next step without waiting for calls
    Continue(AppName),
    /// End a rollout: the images before take all calls again
    Abort(AppName),
}

#[derive(Args, Debug)]
pub struct AppName {
    /// Name of the application
    pub name: String,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
pub struct AppVersion {
    /// Name of the application
    pub name: String,
    /// Version; the latest if not given
    pub version: Option<String>,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    host app deploy shop.yaml\n  \
    host app deploy shop v0.2.0\n\n\
    A file is stored first, then deployed; a version that is stored already is refused. `host apply` compares first, takes\n\
    several files, and waits until everything runs.")]
pub struct AppDeploy {
    /// Name of a stored application, file or http(s) address of a manifest (YAML or JSON); standard
    /// input if not given or -
    #[arg(value_name = "NAME|FILE")]
    pub source: Option<String>,
    /// Version; the latest if not given
    pub version: Option<String>,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
pub struct AppPut {
    /// File or http(s) address of the manifest (YAML or JSON); standard input if not given or -
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub source: Option<String>,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
pub struct AppDel {
    /// Name of the application
    pub name: String,
    /// Version to delete
    #[arg(required_unless_present = "delete_all")]
    pub version: Option<String>,
    /// Delete every version
    #[arg(long)]
    pub delete_all: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
pub struct AppUndeploy {
    /// Name of the application
    pub name: String,
    /// Leave what it started running
    #[arg(long)]
    pub non_destructive: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}
