//! The configurations of the machines' NATS servers: the repository's `core.cfg` and
//! `extender.cfg`, word for word, but for the hub they name.

use anyhow::{Context as _, Result};

/// The line that names the public hub.
const URL_LINE: &str = "url: \"tls://connect.ngs.global\"";
/// Where a private authority is named.
const TLS_LINE: &str = "tls {}";

/// Which of the two configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The machine whose store has the lattice's metadata.
    Core,
    /// A further one.
    Extender,
}

impl Kind {
    pub const BOTH: [Self; 2] = [Self::Core, Self::Extender];

    /// Its JetStream domain.
    pub fn domain(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Extender => "extender",
        }
    }

    pub fn file_name(self) -> &'static str {
        match self {
            Self::Core => "core.cfg",
            Self::Extender => "extender.cfg",
        }
    }

    /// The configuration as it is in the repository.
    pub fn original(self) -> &'static str {
        match self {
            Self::Core => include_str!("../../../core.cfg"),
            Self::Extender => include_str!("../../../extender.cfg"),
        }
    }
}

/// Further differences where several servers share a computer.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// `host:port` for clients, in place of port 4222 at all addresses.
    pub listen: Option<String>,
    /// The name of its store.
    pub domain: Option<String>,
}

/// The configuration with another hub, whose certificate the authority beside it has signed.
pub fn configuration(kind: Kind, url: &str, changes: &Changes) -> Result<String> {
    let private = format!("tls {{ ca_file: \"./{}\" }}", super::AUTHORITY);
    let text =
        replace_once(kind, kind.original().to_owned(), URL_LINE, &format!("url: \"{url}\""))?;
    let text = replace_once(kind, text, TLS_LINE, &private)?;
    let text = match &changes.domain {
        Some(domain) => replace_once(
            kind,
            text,
            &format!("domain: {}\n", kind.domain()),
            &format!("domain: {domain}\n"),
        )?,
        None => text,
    };
    Ok(match &changes.listen {
        Some(address) => format!("{text}\nlisten: \"{address}\"\n"),
        None => text,
    })
}

fn replace_once(kind: Kind, text: String, line: &str, by: &str) -> Result<String> {
    let (before, after) =
        text.split_once(line).filter(|(_, after)| !after.contains(line)).with_context(|| {
            format!(
                "{} does not have the line `{line}` once; mend the file or this example",
                kind.file_name()
            )
        })?;
    Ok(format!("{before}{by}{after}"))
}
