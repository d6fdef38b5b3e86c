//! The application that runs on the machines: an actor behind a web server, which asks the web for
//! what it shows.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;
use lattice_cli::up::demo::{
    certificate::Certificate,
    pets::{Pets, Settings},
};
use lattice_engine::providers::builtin::{Spec, httpclient, httpserver};
use lattice_protocol::identity::{
    keys::Kind,
    sign::{self, ActorToken, Term},
    signature::SigningKey,
};

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
    pub actor: String,
    pets: Option<Pets>,
}

impl App {
    /// `dogs-and-cats`, with the APIs it asks served at `listen` by this program.
    pub async fn dogs_and_cats(listen: SocketAddr) -> Result<Self> {
        let settings =
            Settings { listen, delay: Duration::ZERO, certificate: Certificate::generate()? };
        Ok(Self {
            reference: example("dogs-and-cats"),
            actor: "MAZEI22J666SRAMOGPRXUQ6KLFUNA5C3GRCKUEFJOS3BWP6HQRPL5REC".into(),
            pets: Some(Pets::start(settings).await?),
        })
    }

    /// An actor that answers each request with what was asked, and asks nobody.
    pub fn echo() -> Self {
        Self {
            reference: example("echo"),
            actor: "MBA7VIBPQH52R2V2OR2JIQIQW26SLI2KM3KZMSRRX6MXRVQM5Z4P26C2".into(),
            pets: None,
        }
    }

    /// A component that answers each request with the same text; signed here, and kept in this
    /// directory.
    pub fn hello(dir: &Path) -> Result<Self> {
        let component = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/hello.wasm");
        let (key, _) = SigningKey::generate(Kind::Module)?;
        let (account, _) = SigningKey::generate(Kind::Account)?;
        let says = ActorToken {
            name: "hello".into(),
            caps: vec![httpserver::SPEC.known.contract_id.into()],
            ..ActorToken::default()
        };
        let signed = sign::module(&fs::read(component)?, &says, &key, &account, &Term::default())?;
        let path = dir.join("hello_s.wasm");
        fs::write(&path, signed)?;
        let reference = format!("file://{}", path.display());
        Ok(Self { reference, actor: key.public_key().to_owned(), pets: None })
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
    format!("builtin://{}", provider.known.name)
}
