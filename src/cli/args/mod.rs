//! The command line: what can be asked of the binary, and how it says what went wrong.
//!
//! * this file has the commands that run hosts, and the list of all; [`lattice`] has those that
//!   speak to a lattice, [`dev`] the one that runs what is saved, [`app`] those for applications,
//!   [`tools`] those that need neither; [`connect`] is what they share: where the lattice is.
//! * [`command`] is the whole as clap knows it; [`help`] has the commands in groups, in a screen
//!   with `-h`, in whole with `--help`.
//!
//! Settings are flags of every command that runs a host, and may stand before or after its name.
//! This module only reads; [`lattice_base::config`] decides, and [`crate::command`] acts.

pub mod app;
pub mod bench;
pub mod connect;
pub mod dev;
mod exit;
pub mod flags;
pub mod help;
pub mod history;
pub mod lattice;
pub mod link;
pub mod service;
pub mod tools;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use exit::{EXIT_CONFIG, EXIT_USAGE, exit_code_of};

use crate::{
    args::flags::SettingArgs,
    terminal::{Form, Output},
};
use lattice_base::config::settings;

/// Joins this machine to a lattice and runs signed WebAssembly actors and their capability
/// providers.
#[derive(Debug, Parser)]
#[command(
    name = "host",
    version,
    about = "Runs signed WebAssembly actors and their capability providers in a lattice over NATS, and operates the lattice",
    long_about = "Runs signed WebAssembly actors and their capability providers in a lattice over NATS, and operates the \
        lattice: every verb of `wash` works here too.\n\n\
        Settings come from flags, then the environment, then .env files, then ./host_config.json, then defaults. Commands that \
        speak to a lattice take them from the same places, so on a machine that runs a host they need no flags; elsewhere \
        `host ctx` keeps contexts.\n\n\
        A host serves a dashboard at http://127.0.0.1:4000, or at the next free port, which its log names; `host dashboard` \
        logs in to it."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub settings: SettingArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a host until it is stopped (Ctrl-C, SIGTERM, or a client)
    #[command(
        long_about = "Runs a host until it is stopped: by Ctrl-C, SIGTERM, a client, or the end of its terminal. A second signal \
            ends it at once.\n\n\
            SIGHUP reads the settings again: the host takes the level of the log, labels, the login of a registry, and changed \
            files with the certificates and credentials of its connections; its log names what has changed and waits for the next \
            start. SIGUSR2 drains: the host takes nothing new, what runs here is started on others first, for up to a minute, and then it stops.\n\n\
            Under systemd it says when it is ready, reloads, drains and stops, and that it lives; `host service install` writes \
            the unit.",
        after_help = "Exit codes: 0 stopped in order, drained or not; 1 failed; 64 wrong settings or options; \
            130 ended by a second signal."
    )]
    Foreground(Foreground),
    /// Start a NATS server with JetStream, installing one if there is none, and a host beside it
    #[command(
        long_about = "Starts a NATS server with JetStream, installing one if there is none, and a host beside it. Ctrl-C \
            stops both, the host first.\n\n\
            There is one `host up` per directory, whose host_config.json holds the lattice's settings; a second one there \
            tells what runs and leaves it alone. A NATS server that listens already and was not started by a `host up` is \
            used as it is. Several on one machine: a directory for each, and --free-ports.\n\n\
            The server that is started lets in only its own login, which is in host_config.json and in contexts for `nats`, \
            `wash` and `host`; the summary names them. --open starts a server that lets everybody in: other users of this \
            machine can then run code as this user.\n\n\
            With --hub the server is a leaf node of a hub and shares the lattice with the machines there. Each server has a \
            JetStream store in a domain of its own; the lattice keeps its metadata in one of them, which every host knows \
            as js_domain. Copy host_config.json from the machine that has it to the others.\n\n\
            What is started on the host by hand, the demonstration included, comes back with it, until it is stopped or \
            forgotten with --forget.",
        after_help = "Examples:\n  \
            host up                                          a lattice on this machine\n  \
            host up --detached                               the same in the background; `host down` stops it\n  \
            host up --demo                                   with an application and its page\n  \
            host up --forget                                 without what ran here before\n  \
            host up --hub tls://connect.ngs.global --creds lattice.creds\n      \
                                                           joined over a hub; on every machine the same command\n  \
            host up --hub nats-leaf://10.0.0.1:7422 --domain extender\n      \
                                                           a hub without credentials, a domain of your choice\n  \
            host up --free-ports                             one more lattice on this machine, in a directory of its own\n\n\
            Exit codes: 0 stopped in order, or runs already; 1 failed; 64 wrong settings or options."
    )]
    Up(Up),
    /// Stop what `host up` started in this directory
    #[command(
        long_about = "Stops what `host up` started in this directory, in the background or in another terminal: first the \
            host, which finishes its calls, then its NATS server. It waits until they are gone, and kills what does not stop \
            in time. A server or a host that `host up` did not start is never touched. What the server has stored stays, and \
            so does host_config.json; what ran comes back with the next `host up`.",
        after_help = "Examples:\n  \
            host down                 stop what runs in this directory\n  \
            host down --all           stop whatever this user started with `host up` on this machine\n  \
            host down -o json         the same as data: what was stopped, and where its data stays\n\n\
            Exit codes: 0 nothing runs any longer, whether or not something did before; 1 something could not be stopped."
    )]
    Down(Down),
    /// Log in to the dashboard of a host of yours on this machine
    #[command(
        long_about = "Prints a link that logs in to the dashboard of a host of yours on this machine, and opens it where there \
            is a desktop. The link works once and for one minute; the login lasts 12 hours, also over restarts of the host.\n\n\
            Without a login the dashboard only shows things, and hides link values and what actors and providers say. The link \
            is made from a secret in a file that only you may read ($XDG_STATE_HOME/lattice-host/dashboard.token); programs show \
            its text as bearer. The host is not asked.",
        after_help = "Examples:\n  \
            host dashboard                   that of the host that was started in this directory, or of the only one\n  \
            host dashboard NCWAX43R          that of another host, by its id or its name\n  \
            host dashboard --no-open         only print the link\n  \
            host dashboard --revoke          end every login and make another secret\n\n\
            Exit codes: 0 done; 1 there is no such dashboard, or no secret; 2 wrong use."
    )]
    Dashboard(tools::Dashboard),
    /// Tell whether a host runs on this machine: prints pong and exits with 0 if one does
    Ping {
        #[command(flatten)]
        form: Form,
    },
    /// `up --detached`, as the scripts of earlier hosts called it
    #[command(hide = true)]
    Daemon(Up),
    /// Stop what runs in this directory and start it again in the background
    #[command(hide = true)]
    Restart(Up),
    /// Print the process numbers of the hosts of this user on this machine
    #[command(hide = true)]
    Pid,
    /// Print the version
    #[command(hide = true)]
    Version {
        #[command(flatten)]
        form: Form,
    },
    /// Install a host as a service of this machine, remove it, or look at it
    #[command(subcommand)]
    Service(service::Service),
    /// Look at the settings
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Show hosts, what runs on them, claims, or links
    #[command(subcommand)]
    Get(lattice::Get),
    /// Start an actor or a provider
    #[command(
        subcommand,
        after_help = "Without a noun, `host start` runs a host, as in the scripts of earlier hosts, and asks before it does so on a \
            terminal. The command for that is `host foreground`, or `host up`."
    )]
    Start(lattice::Start),
    /// Stop an actor, a provider or a host
    #[command(
        subcommand,
        after_help = "Without a noun, `host stop` stops the host and the NATS server of this directory, as in the scripts of earlier \
            hosts, and asks before it does so on a terminal. The command for that is `host down`."
    )]
    Stop(lattice::Stop),
    /// Change how many calls an actor takes at a time
    #[command(subcommand)]
    Scale(lattice::Scale),
    /// Exchange a running actor's module
    #[command(subcommand)]
    Update(lattice::Update),
    /// Put, delete or show link definitions
    #[command(subcommand, alias = "links")]
    Link(link::Link),
    /// Set or delete labels of a host
    #[command(alias = "tag")]
    Label(lattice::Label),
    /// Take a host that vanished off the list of lost hosts
    Forget(lattice::Forget),
    /// Call an actor
    Call(lattice::Call),
    /// The same commands in the long form: ctl get, ctl start, ...
    #[command(subcommand)]
    Ctl(lattice::Ctl),
    /// Make applications run as manifests say
    #[command(
        long_about = "Makes applications run as manifests say: what differs from what is stored and deployed is stored and \
            deployed, and waited for until it runs. Applied again, the same manifest changes nothing.\n\n\
            A manifest is YAML, with several documents if wanted, or JSON. Of a directory its .yaml, .yml and .json files are \
            read. Everything is checked before the first is sent. file:// references that are not absolute are meant from the \
            folder of the manifest, on the machine of the host.\n\n\
            A manifest without a version annotation gets one that is made from its content. One with a version has to change \
            it when its content changes: a stored version never does.\n\n\
            A set is a name that applications have in common: that of --set, or of the annotation lattice.host/applied-set in a \
            manifest, or else default. --prune undeploys and deletes the applications of a set that are in none of the manifests, \
            and nothing else; it wants a set that is named, because everybody's applications are in default.",
        after_help = "Examples:\n  \
            host apply -f shop.yaml\n  \
            host apply deploy/ --dry-run                 what would change\n  \
            host apply deploy/ --prune --set production  and take away what is not there any more\n  \
            host export | host apply -f - --dry-run\n\n\
            Exit codes: 0 everything runs as the manifests say; 1 a manifest has a mistake, or something was refused or failed; \
            2 usage; 3 the time was over before everything ran, or nobody confirmed a change."
    )]
    Apply(app::Apply),
    /// Print what runs as a manifest
    #[command(
        long_about = "Prints a manifest of what runs and is managed by no application: actors with their counts, providers, and \
            the links between them, with their values. Where hosts run different numbers there is a rule for each, by a label \
            that only this host has. Of two revisions that share the calls of an actor it has the one before. With --application \
            it prints the deployed manifest of that application.\n\n\
            The configuration that a provider was started with is told by no host, and not in the manifest. Link values may be \
            secrets. Applied in the same lattice, the application runs beside what was started by hand until that is stopped.",
        after_help = "Examples:\n  \
            host export > lattice.yaml\n  \
            host export --application shop -o json"
    )]
    Export(app::Export),
    /// Look at applications and change single ones, as `wash app` does
    #[command(
        subcommand,
        long_about = "Looks at applications and changes single ones, as `wash app` does. The hosts of the lattice keep them; \
            where a deployment manager (wadm 0.10) answers, hosts leave them to it, and the same commands speak to it."
    )]
    App(app::App),
    /// Look at a new version that takes over step by step, hold it, go on with it, or end it
    #[command(
        subcommand,
        long_about = "A new image of an actor with the trait `rollout` takes over step by step: it runs beside the old one, takes a share \
            of the calls, and is compared with it. It goes on or is taken back by itself; these commands look at it, keep it where \
            it is, go on, or give all calls back to the old image. All else of a new version, the images of providers too, takes \
            effect when it is deployed and is not undone by that."
    )]
    Rollout(app::Rollout),
    /// Find out what is wrong, and how to mend it
    Doctor(lattice::Doctor),
    /// Tell whether this binary can take over from the hosts that run
    #[command(
        long_about = "Tells whether this binary can take over from the hosts that run. It is given with the new binary, in the \
            directory of a host, before the old one is exchanged. It compares versions, reads every entry of the lattice's \
            buckets and the last hour of its history, looks for settings that it does not know and claims that are over, and \
            names what only one host runs, which is away while that restarts. It changes nothing.",
        after_help = "Examples:\n  \
            ./host-of-the-next-version upgrade-check             what would break if it took over\n  \
            ./host-of-the-next-version upgrade-check --strict    warnings make the exit code 1, too\n\n\
            Exit codes: 0 nothing would break; 1 something would; 2 usage; 3 it could not be checked, as without a connection."
    )]
    UpgradeCheck(lattice::UpgradeCheck),
    /// Tell how a call is decided: claim, link, policy, replica, path; or why one failed, by its id
    Explain(lattice::Explain),
    /// Show what an actor or a provider logs, on whatever host
    Logs(lattice::Logs),
    /// Show what happened in the lattice, and go on with what happens
    Events(history::Events),
    /// Show who changed what: the commands that hosts took or refused
    Audit(history::Audit),
    /// Show what needs attention, acknowledge it or mute it
    Attention(history::Attention),
    /// Measure this machine with hosts of its own, beside the bare things
    Bench(Box<bench::Bench>),
    /// Show actors by calls, latency and errors, live
    Top(lattice::Top),
    /// Show calls as they pass
    Spy(lattice::Spy),
    /// Run a module and exchange it whenever it is saved
    Dev(dev::Dev),
    /// Tell what a reference names: an actor, a provider archive, or a built-in provider with its
    /// link values
    Inspect(tools::Inspect),
    /// Sign modules, look at claims, make tokens
    #[command(subcommand)]
    Claims(tools::Claims),
    /// Make and show keys
    #[command(subcommand, alias = "key")]
    Keys(tools::Keys),
    /// Make provider archives, and look into them
    #[command(subcommand)]
    Par(tools::Par),
    /// Send, fetch and find artifacts in a registry
    #[command(subcommand)]
    Reg(tools::Reg),
    /// Send an artifact to a registry
    Push(tools::Push),
    /// Fetch an artifact from a registry
    Pull(tools::Pull),
    /// Empty a host: start elsewhere what runs on it, and let it take nothing new
    Drain(lattice::Drain),
    /// List caches, or throw them away
    Cache(tools::Cache),
    /// Contexts: where lattices are
    #[command(subcommand, alias = "context", alias = "contexts")]
    Ctx(tools::Ctx),
    /// Print a script that completes commands in your shell
    Completions(tools::Completions),
    /// Print manual pages
    Man(tools::Man),
}

/// The command line as clap knows it.
pub fn command() -> clap::Command {
    help::with_help(Cli::command())
}

#[derive(Debug, Args)]
pub struct Foreground {
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// Options of `host up`, beside the settings of its host.
#[derive(Debug, Args)]
#[command(next_help_heading = "Up")]
pub struct Up {
    /// Join this hub as a leaf node: nats-leaf://, tls://, nats://, ws:// or wss://; several
    /// separated by commas
    #[arg(long, value_name = "URL")]
    pub hub: Option<String>,
    /// Credentials for the hub: a file with user JWT and seed
    #[arg(long, value_name = "FILE")]
    pub creds: Option<PathBuf>,
    /// PEM file of the private authority that signed the hub's certificate
    #[arg(long, value_name = "FILE")]
    pub hub_ca: Option<PathBuf>,
    /// JetStream domain of this machine's server, different on each machine of a hub [default:
    /// js_domain where that is kept here, `core` if none is set; a name of its own (extender-...)
    /// beside metadata that is kept elsewhere]
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,
    /// Let a free port be chosen for the server, and keep it in host_config.json
    #[arg(long)]
    pub free_ports: bool,
    /// Let everybody in who reaches the NATS server; without this it has a login of its own, kept
    /// in host_config.json
    #[arg(long)]
    pub open: bool,
    /// Also start the pets application and print the address of its page
    #[arg(long)]
    pub demo: bool,
    /// Run in the background; returns when the host is ready
    #[arg(long, short = 'd')]
    pub detached: bool,
    #[arg(long, hide = true)]
    pub in_background: bool,
    #[command(flatten)]
    pub settings: SettingArgs,
}

#[derive(Debug, Args)]
pub struct Down {
    /// Stop what was started in every directory of this user
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub form: Form,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every setting with its value; secrets are masked
    Show {
        /// Also print where each value comes from
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        form: Form,
        #[command(flatten)]
        settings: SettingArgs,
    },
}

/// A verb of the scripts that came with earlier hosts, which runs or ends a host when it stands
/// alone.
#[derive(Debug, PartialEq, Eq)]
pub struct ScriptVerb {
    pub verb: &'static str,
    /// The command that it means.
    pub ours: &'static str,
    /// The effect, for a question.
    pub does: &'static str,
}

static SCRIPT_VERBS: [ScriptVerb; 2] = [
    ScriptVerb { verb: "start", ours: "foreground", does: "runs a host here" },
    ScriptVerb {
        verb: "stop",
        ours: "down",
        does: "stops the host of this directory and its NATS server",
    },
];

/// The command line with the verbs of the scripts that came with earlier hosts in our words, and
/// the verb that was exchanged: `start` and `stop` alone run a host and end it. The switch that
/// `wash` asked for before some verbs is left out.
pub fn in_our_words(
    arguments: impl Iterator<Item = OsString>,
) -> (Vec<OsString>, Option<&'static ScriptVerb>) {
    let mut words: Vec<OsString> = arguments.collect();
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let mut at = 0;
    words.retain(|word| {
        at += 1;
        at > end || word != "--experimental"
    });
    let rest = words.get(2..).unwrap_or_default();
    let is_flags_only = rest.first().is_none_or(|word| word.to_string_lossy().starts_with('-'))
        && !rest.iter().any(|word| word == "-h" || word == "--help");
    let verb = words.get(1).filter(|_| is_flags_only);
    let script = verb.and_then(|verb| SCRIPT_VERBS.iter().find(|script| *verb == *script.verb));
    if let Some(script) = script {
        words[1] = script.ours.into();
    }
    (words, script)
}

/// The form of the output that was asked for, of whatever command.
pub fn form_of(matches: &clap::ArgMatches) -> Form {
    let inner = matches.subcommand().map(|(_, inner)| form_of(inner)).unwrap_or_default();
    let own = matches.try_get_one::<Output>("output").ok().flatten();
    // A command may stand before another one that has a form too.
    let own = own.filter(|output| **output != Output::default());
    own.map_or(inner, |output| Form { output: *output })
}

/// Whether the command is one that logs: all it says is in the form of the log.
pub fn is_daemon(matches: &clap::ArgMatches) -> bool {
    matches.subcommand_name().is_some_and(exit::runs_host)
}

/// Returns warnings about secrets on the command line: every user of a machine can read the command
/// lines of all processes.
pub fn exposed(matches: &clap::ArgMatches) -> Vec<String> {
    let mut told: Vec<String> =
        matches.subcommand().map(|(_, inner)| exposed(inner)).unwrap_or_default();
    for id in matches.ids().map(clap::Id::as_str) {
        let is_given = matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine);
        let mut texts = matches.try_get_many::<String>(id).ok().flatten().into_iter().flatten();
        // For these, a name of a file is as good.
        let is_open = texts.any(|text| !text.is_empty() && !Path::new(text).is_file());
        if is_given
            && is_open
            && let Some(instead) = instead_of(id)
        {
            told.push(format!(
                "--{} shows its secret to every user of this machine while this runs; {instead} does not",
                id.replace('_', "-")
            ));
        }
    }
    told
}

/// How a secret can be given without being shown; `None` for what is none.
fn instead_of(id: &str) -> Option<String> {
    match id {
        "password" => Some("the variable WASH_REG_PASSWORD".to_owned()),
        // Flags of commands that speak to a lattice, and settings of hosts.
        "ctl_jwt" | "ctl_seed" => {
            let variable = format!("WASMCLOUD_{}", id.to_ascii_uppercase());
            Some(format!(
                "the name of a file in its place, or the variable {variable} or {variable}_FILE,"
            ))
        }
        _ => settings::find(id)
            .filter(|setting| setting.key == id && setting.kind.is_secret())
            .map(|setting| {
                let (flag, variable) = (setting.flag, setting.env[0]);
                format!("--{flag}-file FILE, or the variable {variable} or {variable}_FILE,")
            }),
    }
}

/// The settings given before and after the command's name; the latter win.
pub fn merged(before: SettingArgs, after: SettingArgs) -> SettingArgs {
    let mut all = before;
    all.values.extend(after.values);
    all.labels.extend(after.labels);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn verbs_of_earlier_scripts_are_understood() {
        for (line, ours) in [
            ("host start", "host foreground"),
            ("host start --js-domain core", "host foreground --js-domain core"),
            ("host stop", "host down"),
            ("host start actor x", "host start actor x"),
            ("host stop --help", "host stop --help"),
            ("host spy --experimental MABC", "host spy MABC"),
            ("host --experimental spy MABC", "host spy MABC"),
            ("host call x y -- --experimental", "host call x y -- --experimental"),
            ("host", "host"),
        ] {
            let (words, script) = in_our_words(line.split(' ').map(OsString::from));
            assert_eq!(words, ours.split(' ').map(OsString::from).collect::<Vec<_>>(), "{line}");
            let is_exchanged = ours.contains("foreground") || ours.contains("down");
            assert_eq!(script.is_some(), is_exchanged, "{line}: it is asked for on a terminal");
        }
        for verb in ["daemon", "restart", "pid", "version"] {
            assert!(Cli::try_parse_from(["host", verb]).is_ok(), "{verb}");
        }
    }

    #[test]
    fn the_form_may_stand_behind_every_command_that_shows_something() {
        for line in [
            "host ping -o json",
            "host version -o json",
            "host attention -o json",
            "host attention ack 3f2a -o json",
            "host attention -o json mute 3f2a",
        ] {
            let matches = command().try_get_matches_from(line.split(' ')).expect(line);
            assert_eq!(form_of(&matches).output, Output::Json, "{line}");
        }
    }

    #[test]
    fn the_help_of_start_and_stop_tells_what_they_do_without_a_noun() {
        for (verb, ours) in [("start", "host foreground"), ("stop", "host down")] {
            let help = command().try_get_matches_from(["host", verb, "--help"]).unwrap_err();
            let help = help.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(help.contains("Without a noun") && help.contains(ours), "{help}");
        }
    }

    #[test]
    fn the_shell_of_windows_has_the_name_that_wash_gives_it() {
        for shell in ["power-shell", "powershell", "PowerShell"] {
            assert!(
                Cli::try_parse_from(["host", "completions", "-d", "dir", shell]).is_ok(),
                "{shell}"
            );
        }
    }

    #[test]
    fn a_flag_of_old_scripts_is_answered_with_the_one_that_is_meant() {
        let error = Cli::try_parse_from(["host", "get", "hosts", "--timeout", "30"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("--timeout-ms"), "{error}");
    }

    #[test]
    fn a_secret_on_the_command_line_is_told_with_a_better_way_and_without_itself() {
        let told = |line: &[&str]| exposed(&command().try_get_matches_from(line).unwrap());
        for (line, words) in [
            (
                &["host", "foreground", "--cluster-seed", "SCX"][..],
                &["--cluster-seed ", "--cluster-seed-file"][..],
            ),
            (
                &["host", "--nats-password", "pw", "up"],
                &["--nats-password ", "WASMCLOUD_NATS_PASSWORD_FILE"],
            ),
            (&["host", "get", "hosts", "--ctl-seed", "SUX"], &["--ctl-seed ", "name of a file"]),
            (
                &["host", "push", "r.example/a:1", "a.wasm", "-p", "pw"],
                &["--password ", "WASH_REG_PASSWORD"],
            ),
        ] {
            let told = told(line).join("\n");
            assert!(words.iter().all(|word| told.contains(word)) && !told.contains("pw"), "{told}");
        }
        assert!(
            told(&["host", "foreground", "--cluster-seed-file", "f", "--js-domain", "core"])
                .is_empty()
        );
    }

    #[test]
    fn settings_may_stand_before_and_after_the_command() {
        let cli = Cli::try_parse_from([
            "host",
            "--js-domain",
            "a",
            "foreground",
            "--js-domain",
            "b",
            "-l",
            "x=y",
        ])
        .unwrap();
        let Some(Command::Foreground(foreground)) = cli.command else { panic!("foreground") };
        let all = merged(cli.settings, foreground.settings);
        assert_eq!(all.values, [("js_domain", "a".to_owned()), ("js_domain", "b".to_owned())]);
        assert_eq!(all.labels.len(), 1);
    }
}
