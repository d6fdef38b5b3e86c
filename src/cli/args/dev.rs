//! `host dev`: a file that runs, and runs anew at each save.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::{
    connect::Connect,
    lattice::{Pair, pair},
};
use crate::terminal::Form;

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    host dev ./visitors.wasm --http 127.0.0.1:8080\n  \
    host dev target/wasm32-unknown-unknown/release/echo.wasm --cap wasmcloud:messaging\n  \
    host dev ./echo_s.wasm\n\n\
    Save the file, and the next call runs what you saved. The actor is linked to a provider of each contract it is \
    signed for, or its component imports; a built-in provider is started where none runs, and the page, if it has one, \
    is at the first free port from 8080 on. The last line of the start says what to open. Ctrl-C stops the actor, \
    deletes those links and stops those providers.")]
pub struct Dev {
    /// Module or component to watch; signed with your own keys at each save unless it is signed
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Serve its page at this address of its host
    #[arg(long, value_name = "ADDR", value_parser = http_address)]
    pub http: Option<String>,
    /// Put no links and start no providers
    #[arg(long, action = ArgAction::SetTrue, conflicts_with = "http")]
    pub no_links: bool,
    /// Host by id, the beginning of it, or a part of its friendly name
    #[arg(long, value_name = "HOST")]
    pub host_id: Option<String>,
    /// Replicas: calls it works on at a time
    #[arg(long = "max-instances", visible_alias = "max", value_name = "N", default_value_t = 10)]
    pub max: u32,
    /// Contract it may use; may be repeated
    #[arg(short = 'c', long = "cap", value_name = "CONTRACT")]
    pub caps: Vec<String>,
    /// Name in its claims; that of the file if not given
    #[arg(short, long)]
    pub name: Option<String>,
    /// Annotation to start it with; may be repeated
    #[arg(short = 'a', long = "annotation", alias = "annotations", value_name = "KEY=VALUE", value_parser = pair)]
    pub annotations: Vec<Pair>,
    /// Leave the actor running at the end, with its links and providers
    #[arg(long, action = ArgAction::SetTrue)]
    pub keep: bool,
    #[command(flatten)]
    pub form: Form,
    #[command(flatten)]
    pub connect: Connect,
}

/// Reads an address to listen on; a port alone is one of this machine.
fn http_address(text: &str) -> Result<String, String> {
    let address = match text.parse::<u16>() {
        Ok(port) => format!("127.0.0.1:{port}"),
        Err(_) => text.to_owned(),
    };
    match address.parse::<std::net::SocketAddr>() {
        Ok(_) => Ok(address),
        Err(_) => Err("expected an address and a port, as in 127.0.0.1:8080".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_an_address_and_a_port() {
        for (text, address) in [
            ("8080", Some("127.0.0.1:8080")),
            ("0.0.0.0:80", Some("0.0.0.0:80")),
            ("[::1]:8080", Some("[::1]:8080")),
            ("localhost", None),
            ("127.0.0.1", None),
            ("70000", None),
        ] {
            assert_eq!(http_address(text).ok().as_deref(), address, "{text}");
        }
    }
}
