//! How a command reaches its lattice: the flags `wash` had, and ours, as settings.

use std::path::PathBuf;

use clap::Args;

use crate::command::completions;

/// Where the lattice is. Everything else comes from the settings of this directory, of a context, or of the environment.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Connection")]
pub struct Connect {
    /// NATS server of the control interface
    #[arg(short = 'r', long, value_name = "HOST")]
    pub ctl_host: Option<String>,
    /// Its port
    #[arg(short = 'p', long, value_name = "PORT")]
    pub ctl_port: Option<String>,
    /// NATS server of calls; that of the control interface if not given
    #[arg(long, value_name = "HOST")]
    pub rpc_host: Option<String>,
    /// Its port
    #[arg(long, value_name = "PORT")]
    pub rpc_port: Option<String>,
    /// User JWT for the control interface, or a file that holds it; needs the seed too
    #[arg(long, value_name = "JWT")]
    pub ctl_jwt: Option<String>,
    /// User seed (SU...), or a file that holds it
    #[arg(long, value_name = "SEED")]
    pub ctl_seed: Option<String>,
    /// File with user JWT and seed, as made by nsc
    #[arg(long, alias = "ctl-creds", value_name = "FILE")]
    pub ctl_credsfile: Option<PathBuf>,
    /// JetStream domain of the metadata
    #[arg(long, alias = "domain", value_name = "NAME")]
    pub js_domain: Option<String>,
    /// Lattice [default: default]
    #[arg(short = 'x', long, visible_alias = "lattice-prefix", value_name = "NAME")]
    pub lattice: Option<String>,
    /// How long an answer of the lattice may take, in milliseconds [default: 2000]
    #[arg(
        short = 't',
        long,
        visible_alias = "rpc-timeout-ms",
        env = "WASMCLOUD_CTL_TIMEOUT_MS",
        hide_env = true,
        value_name = "MS"
    )]
    pub timeout_ms: Option<u64>,
    /// Context to take instead of the one in use and of ./host_config.json
    #[arg(long, value_name = "NAME", add = completions::contexts())]
    pub context: Option<String>,
}

/// The form of the output.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Form {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Tables and sentences, fitted to the terminal
    #[default]
    Text,
    /// Text with more columns and nothing shortened
    Wide,
    /// JSON in the shapes of `wash`
    Json,
    /// The same as YAML
    Yaml,
    /// Only ids, a line each
    Name,
}

impl Connect {
    /// What was given, as settings.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        // As `wash` has it: the text itself, or the name of a file with it.
        let content = |text: &Option<String>| {
            let text = text.as_ref()?;
            let content = std::path::Path::new(text).is_file().then(|| std::fs::read_to_string(text).ok()).flatten();
            Some(content.map_or_else(|| text.clone(), |content| content.trim().to_owned()))
        };
        let (jwt, seed) = (content(&self.ctl_jwt), content(&self.ctl_seed));
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        // Whoever names one server means it for everything.
        let rpc_host = self.rpc_host.clone().or_else(|| self.ctl_host.clone());
        let rpc_port = self.rpc_port.clone().or_else(|| self.ctl_port.clone());
        [
            ("ctl_host", self.ctl_host.clone()),
            ("ctl_port", self.ctl_port.clone()),
            ("rpc_host", rpc_host),
            ("rpc_port", rpc_port),
            ("ctl_jwt", jwt.clone()),
            ("rpc_jwt", jwt),
            ("ctl_seed", seed.clone()),
            ("rpc_seed", seed),
            ("ctl_creds", path(&self.ctl_credsfile)),
            ("rpc_creds", path(&self.ctl_credsfile)),
            ("js_domain", self.js_domain.clone()),
            ("lattice_prefix", self.lattice.clone()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }
}
