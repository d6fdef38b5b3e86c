//! `app`: applications, which hosts keep as their manifests say.

use clap::{Args, Subcommand};

use super::{connect::Connect, lattice::Query};
use crate::terminal::Form;

/// Applications: a manifest says what is to run, and the hosts keep it so.
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
    A file is stored first, then deployed.")]
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
