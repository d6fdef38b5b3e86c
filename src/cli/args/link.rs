//! `link`: link definitions, put, deleted and put back.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{
    connect::Connect,
    lattice::{Pair, Query, pair},
};
use crate::terminal::Form;

#[derive(Debug, Subcommand)]
pub enum Link {
    /// Put a link definition
    #[command(after_help = "Examples:\n  \
        host link put kvcounter builtin://keyvalue wasmcloud:keyvalue bucket=counters\n  \
        host link put MBA7VIBP... VAIKANJ3... wasmcloud:httpserver address=127.0.0.1:8081\n  \
        host get links -o json > links.json; host link put -f links.json\n\n\
        `host inspect builtin://NAME` documents the values of a built-in provider.")]
    Put(LinkPut),
    /// Delete a link definition
    #[command(alias = "delete")]
    Del(LinkDel),
    /// Put a link definition back to what it was before its last change
    #[command(after_help = "Examples:\n  \
        host link undo kvcounter builtin://keyvalue wasmcloud:keyvalue\n\n\
        A link that was deleted is put again, one that was new is deleted; a second undo takes the first one back.")]
    Undo(LinkUndo),
    /// Show link definitions
    #[command(alias = "list")]
    Query(Query),
}

/// How long it is waited for what providers say.
#[derive(Args, Debug)]
pub struct LinkWait {
    /// Return when the definition is stored, whatever the provider says
    #[arg(long)]
    pub skip_wait: bool,
    /// How long the provider may take to say what it does with it, in milliseconds [default: 12000]
    #[arg(long, value_name = "MS")]
    pub wait_ms: Option<u64>,
}

impl LinkWait {
    /// The time to wait; none if nobody is waited for.
    pub fn duration(&self, default: Duration) -> Option<Duration> {
        (!self.skip_wait).then(|| self.wait_ms.map_or(default, Duration::from_millis))
    }
}

/// The options of every change of a link.
#[derive(Args, Debug)]
pub struct LinkRest {
    /// Link name
    #[arg(short = 'l', long, value_name = "NAME", default_value = "default")]
    pub link_name: String,
    #[command(flatten)]
    pub wait: LinkWait,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(Args, Debug)]
pub struct LinkPut {
    /// Actor by id, the beginning of it, name or call alias
    #[arg(value_name = "ACTOR", required_unless_present = "file")]
    pub actor: Option<String>,
    /// Provider by id, the beginning of it, name or builtin://NAME
    #[arg(value_name = "PROVIDER", required_unless_present = "file")]
    pub provider: Option<String>,
    /// Contract the provider fulfils
    #[arg(value_name = "CONTRACT", required_unless_present = "file")]
    pub contract: Option<String>,
    /// Values for the provider
    #[arg(value_name = "KEY=VALUE", value_parser = pair)]
    pub values: Vec<Pair>,
    /// Put all links of a JSON file, many at a time: what `host get links -o json` prints, or a
    /// list of such links; - is standard input. Returns when all are stored
    #[arg(
        short = 'f',
        long,
        value_name = "FILE",
        conflicts_with_all = ["actor", "provider", "contract", "values", "link_name", "skip_wait", "wait_ms"]
    )]
    pub file: Option<String>,
    #[command(flatten)]
    pub rest: LinkRest,
}

#[derive(Args, Debug)]
pub struct LinkUndo {
    /// Actor by id, the beginning of it, name or call alias
    #[arg(value_name = "ACTOR")]
    pub actor: String,
    /// Provider that the link leads to, or led to before
    #[arg(value_name = "PROVIDER")]
    pub provider: String,
    /// Contract of the link
    #[arg(value_name = "CONTRACT")]
    pub contract: String,
    #[command(flatten)]
    pub rest: LinkRest,
}

#[derive(Args, Debug)]
pub struct LinkDel {
    /// Actor by id, the beginning of it, name or call alias
    #[arg(value_name = "ACTOR")]
    pub actor: String,
    /// Contract of the link
    #[arg(value_name = "CONTRACT")]
    pub contract: String,
    #[command(flatten)]
    pub rest: LinkRest,
}
