//! The application that runs on the machines: an actor behind a web server, which asks the web for
//! what it shows.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;
use lattice_cli::up::demo::{
    certificate::Certificate,
    pets::{Pets, Settings},
};
use lattice_engine::providers::builtin::{Spec, httpclient, httpserver};

use super::control::Values;

/// Calls of the actor at a time, on each machine.
pub const REPLICAS: u32 = 50;
/// The providers that the application needs on each machine.
pub const PROVIDERS: [&Spec; 2] = [&httpserver::SPEC, &httpclient::SPEC];

/// An actor, and the part of the web it asks.
pub struct App {
    /// Its module, as hosts are told.
    pub reference: String,
    /// Its public key.
    pub actor: &'static str,
    pets: Option<Pets>,
}

impl App {
    /// `dogs-and-cats`, with the APIs it asks served at `listen` by this program.
    pub async fn dogs_and_cats(listen: SocketAddr) -> Result<Self> {
        let settings =
            Settings { listen, delay: Duration::ZERO, certificate: Certificate::generate()? };
        Ok(Self {
            reference: example("dogs-and-cats"),
            actor: "MAZEI22J666SRAMOGPRXUQ6KLFUNA5C3GRCKUEFJOS3BWP6HQRPL5REC",
            pets: Some(Pets::start(settings).await?),
        })
    }

    /// An actor that answers each request with what was asked, and asks nobody.
    pub fn echo() -> Self {
        Self {
            reference: example("echo"),
            actor: "MBA7VIBPQH52R2V2OR2JIQIQW26SLI2KM3KZMSRRX6MXRVQM5Z4P26C2",
            pets: None,
        }
    }

    /// The values of its link to the HTTP client, if it has one.
    pub fn web(&self) -> Option<Values> {
        self.pets.as_ref().map(|pets| pets.link_values().into_iter().collect())
    }
}

fn example(name: &str) -> String {
    let module =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/actors/signed/{name}.wasm"));
    format!("file://{}", module.display())
}

/// The reference of a provider in the binary.
pub fn reference(provider: &Spec) -> String {
    format!("builtin://{}", provider.name)
}
