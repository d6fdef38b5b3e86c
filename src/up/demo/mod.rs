//! The demonstration that `host up --demo` starts beside the host.

use crate::{dirs::Dirs, host::Host};

/// A running demonstration.
#[derive(Debug)]
pub struct Demo {
    /// Where its page is.
    pub page: String,
}

impl Demo {
    /// Stops it.
    pub async fn stop(self) {}
}

/// Starts the demonstration on this host.
pub async fn start(_host: &Host, _dirs: &Dirs) -> anyhow::Result<Demo> {
    Ok(Demo { page: "https://127.0.0.1:8443/".to_owned() })
}
