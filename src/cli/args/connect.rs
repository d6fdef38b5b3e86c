//! How a command reaches its lattice: the flags `wash` had, and ours, as settings.

use std::path::{Path, PathBuf};

use clap::Args;

/// The heading of the flags that say where a lattice is.
pub const CONNECTION: &str = "Connection";

/// Where the lattice is. Everything else comes from the settings of this directory, of a context,
/// or of the environment.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = CONNECTION)]
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
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

impl Connect {
    /// Returns the flags that were given, as settings.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        // As `wash` has it: the text itself, or the name of a file with it.
        let (jwt, seed) = (self.ctl_jwt.clone(), self.ctl_seed.clone());
        let jwt_keys =
            if is_file(&jwt) { ["ctl_jwt_file", "rpc_jwt_file"] } else { ["ctl_jwt", "rpc_jwt"] };
        let seed_keys = if is_file(&seed) {
            ["ctl_seed_file", "rpc_seed_file"]
        } else {
            ["ctl_seed", "rpc_seed"]
        };
        let creds = self.ctl_credsfile.as_ref().map(|path| path.display().to_string());
        // A user who names one server means it for everything.
        let rpc_host = self.rpc_host.clone().or_else(|| self.ctl_host.clone());
        let rpc_port = self.rpc_port.clone().or_else(|| self.ctl_port.clone());
        [
            ("ctl_host", self.ctl_host.clone()),
            ("ctl_port", self.ctl_port.clone()),
            ("rpc_host", rpc_host),
            ("rpc_port", rpc_port),
            (jwt_keys[0], jwt.clone()),
            (jwt_keys[1], jwt),
            (seed_keys[0], seed.clone()),
            (seed_keys[1], seed),
            ("ctl_creds", creds.clone()),
            ("rpc_creds", creds),
            ("js_domain", self.js_domain.clone()),
            ("lattice_prefix", self.lattice.clone()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }
}

fn is_file(text: &Option<String>) -> bool {
    text.as_ref().is_some_and(|text| Path::new(text).is_file())
}
