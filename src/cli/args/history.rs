//! Commands that look back: events, commands and who sent them, and what needs attention.

use clap::{
    Args as ClapArgs, Subcommand,
    builder::{PossibleValue, PossibleValuesParser},
};

use super::connect::Connect;
use crate::terminal::Form;

/// The span of time that a command looks at, the form of what it prints, and where the lattice is.
#[derive(ClapArgs, Clone, Debug)]
pub struct Span {
    /// Begin so long ago (15m, 1h, 2d), or at this time in UTC (2026-11-30T10:00:00Z, 2026-11-30
    /// 10:00, 10:00)
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub since: String,
    /// End there; written in the same way
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Show only the newest so many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1000)]
    pub count: usize,
    /// Go on with what comes, until Ctrl-C
    #[arg(short, long, conflicts_with = "until")]
    pub follow: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

#[derive(ClapArgs, Debug)]
#[command(
    long_about = "Shows what happened in the lattice, oldest first: starts, stops, updates, links, failures and lost hosts. The hosts of \
        a lattice keep it together for a day, so it is all there whichever host is gone. A lattice without JetStream keeps none.\n\n\
        With -o json each event is one line, with all of its data but link values.",
    after_help = "Examples:\n  \
        host events                                 the last hour\n  \
        host events -f --since 1m                   and what comes\n  \
        host events --since 6h --severity error\n  \
        host events echo --since 1d -o json > echo.jsonl\n\n\
        Exit codes: 0 done, also if nothing happened; 1 the history cannot be read; 2 usage."
)]
pub struct Events {
    /// Only events with this text in their sentence, name, ids or data
    #[arg(value_name = "TEXT")]
    pub text: Option<String>,
    /// Only events of this name, like actor_scaled
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Only events that matter so much: good, info, warning or error
    #[arg(long, value_name = "WORD", value_parser = ["good", "info", "warning", "error"])]
    pub severity: Option<String>,
    /// Only of this host, by its name or the beginning of its id
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    #[command(flatten)]
    pub span: Span,
}

#[derive(ClapArgs, Debug)]
#[command(
    long_about = "Shows the commands that hosts took or refused, oldest first: when, who, what, and what became of it. Who sent a command \
        is as its sender says: commands of this program name the user and the machine, and the user at the NATS server; a dashboard \
        names the session and the address of its browser; hosts name the application they keep. Programs of others say nothing.\n\n\
        Link values, configurations and passwords are in none of it.",
    after_help = "Examples:\n  \
        host audit                                  the last hour\n  \
        host audit \"stop actor\" --since 1d          who stopped what\n  \
        host audit --outcome refused -f\n  \
        host audit --since 1d -o json > audit.jsonl\n\n\
        Exit codes: 0 done, also if there was no command; 1 the history cannot be read; 2 usage."
)]
pub struct Audit {
    /// Only commands with this text in what was done, to what, by whom, or where
    #[arg(value_name = "TEXT")]
    pub text: Option<String>,
    /// Only those that ended so: accepted, refused or unknown
    #[arg(long, value_name = "WORD", value_parser = outcomes())]
    pub outcome: Option<String>,
    /// Only commands that this host took, by its name or the beginning of its id
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    #[command(flatten)]
    pub span: Span,
}

/// The outcome of the audit log of a host that no command has in the history: there a start that
/// fails after it was taken is an event.
pub const FAILED: &str = "failed";

/// The outcomes of the history. That of the audit log is taken as well, to be answered.
fn outcomes() -> PossibleValuesParser {
    let kept = ["accepted", "refused", "unknown"].map(PossibleValue::new);
    PossibleValuesParser::new(kept.into_iter().chain([PossibleValue::new(FAILED).hide(true)]))
}

#[derive(ClapArgs, Debug)]
#[command(
    long_about = "Shows what needs attention in the lattice, as the host with a dashboard sees it that watches over it, and acknowledges or \
        mutes it for everybody. What is acknowledged stays listed until it is over; what is muted is not, for so long. Both end by \
        themselves.",
    after_help = "Examples:\n  \
        host attention                        what needs attention now\n  \
        host attention ack 3f2a               somebody looks after it\n  \
        host attention mute 3f2a --for 2h     nobody wants to hear of it for two hours\n  \
        host attention clear 3f2a             as if nothing had been said about it\n\n\
        Exit codes: 0 done, also if something needs attention; 1 nobody tells; 2 usage."
)]
pub struct Attention {
    #[command(subcommand)]
    pub command: Option<AttentionCommand>,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

/// A change of what is listed.
#[derive(Debug, Subcommand)]
pub enum AttentionCommand {
    /// Tell everybody that somebody looks after it
    Ack(Chosen),
    /// Do not list it for some time
    Mute(Mute),
    /// Take an acknowledgement or a muting back
    Clear(Chosen),
}

/// The thing that is meant.
#[derive(ClapArgs, Debug)]
pub struct Chosen {
    /// Its key, or the beginning of it, as `host attention` lists it
    #[arg(value_name = "KEY")]
    pub key: String,
    /// A word for the others
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub note: String,
    #[command(flatten)]
    pub form: Form,
}

#[derive(ClapArgs, Debug)]
pub struct Mute {
    #[command(flatten)]
    pub chosen: Chosen,
    /// For so long: 15m, 1h, 2d; at most 7d
    #[arg(long = "for", value_name = "TIME", default_value = "1h")]
    pub span: String,
}
