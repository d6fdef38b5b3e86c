//! The actors that are called: one that comes with the binary, or one of the user.

use std::{
    borrow::Cow,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;

use lattice_protocol::{
    contracts::httpserver::{self, RequestHead},
    identity::{
        claims::{self, ActorClaims},
        keys::Kind,
        module::is_wasm,
        sign::{self, ActorToken, Term},
        signature::SigningKey,
        validity::now,
        wasm::inspect,
    },
};

/// A waPC actor that answers requests with what it was asked.
static ECHO: &[u8] = include_bytes!("../../../examples/actors/signed/echo.wasm");
/// A component that answers requests with a constant, as cheaply as a component can. It also runs
/// in `wasmtime serve`.
static HELLO: &[u8] = include_bytes!("../../../tests/bench/hello.wasm");

/// An operation that every SDK of those years answers by itself.
const HEALTH: &str = "Actor.HealthRequest";
/// An empty map.
const HEALTH_PAYLOAD: Bytes = Bytes::from_static(&[0x80]);

/// The code of an actor, and what it may do.
#[derive(Clone, Debug)]
pub struct Guest {
    pub name: String,
    pub wasm: Cow<'static, [u8]>,
    pub caps: Vec<String>,
    pub is_component: bool,
    /// The operation that is called, and its argument.
    pub operation: &'static str,
    pub payload: Bytes,
}

/// An actor in a file, signed.
#[derive(Clone, Debug)]
pub struct Actor {
    pub id: String,
    pub file: PathBuf,
}

impl Actor {
    pub fn reference(&self) -> String {
        format!("file://{}", self.file.display())
    }
}

/// The actors of a run.
#[derive(Clone, Debug)]
pub struct Guests {
    /// The guest that most rows call.
    pub actor: Guest,
    /// A component beside it; none if the actor is one.
    pub component: Option<Guest>,
}

impl Guests {
    /// Reads the actor of the user, or takes the one that comes with the binary.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let actor = match file {
            None => Guest::of("echo", Cow::Borrowed(ECHO)),
            Some(file) => fs::read(file).map_err(anyhow::Error::from).and_then(|wasm| {
                let name = file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy();
                Guest::of(&name, Cow::Owned(wasm))
            }),
        };
        let actor = actor.with_context(|| match file {
            Some(file) => format!("read the actor {}", file.display()),
            None => "read the built-in actor".to_owned(),
        })?;
        let component = match actor.is_component {
            true => None,
            false => Some(Guest::of("hello", Cow::Borrowed(HELLO))?),
        };
        Ok(Self { actor, component })
    }

    /// The component that `wasmtime serve` is given as well.
    pub fn served(&self) -> &Guest {
        self.component.as_ref().unwrap_or(&self.actor)
    }
}

impl Guest {
    /// Looks at a module or a component, signed or not.
    pub fn of(name: &str, wasm: Cow<'static, [u8]>) -> Result<Self> {
        anyhow::ensure!(is_wasm(&wasm), "it is no WebAssembly file");
        let info = inspect(&wasm)?;
        let is_component = info.is_component();
        let contracts = || info.contracts().into_iter().map(str::to_owned).collect();
        let caps = match signed_claims(&wasm) {
            Some(claims) => claims.caps,
            None if is_component => contracts(),
            // Nothing in a module says what it was written for.
            None => vec![httpserver::CONTRACT.to_owned()],
        };
        let (operation, payload) = match is_component {
            true => (httpserver::HANDLE_REQUEST, get_root()),
            false => (HEALTH, HEALTH_PAYLOAD),
        };
        Ok(Self { name: name.to_owned(), wasm, caps, is_component, operation, payload })
    }

    /// Whether it answers HTTP requests.
    pub fn answers_requests(&self) -> bool {
        self.caps.iter().any(|contract| contract == httpserver::CONTRACT)
    }

    /// Signs it with keys of its own, as another actor with the same code, and writes it to `dir`.
    pub fn sign(&self, dir: &Path) -> Result<Actor> {
        self.sign_as(&self.wasm, dir)
    }

    /// The same with other code: a section with a number is added, which changes nothing but the
    /// hash of the code.
    pub fn sign_different(&self, number: u32, dir: &Path) -> Result<Actor> {
        let mut wasm = self.wasm.to_vec();
        // A custom section: its length, the name with its length, the content.
        wasm.extend([0, 10, 5]);
        wasm.extend(*b"bench");
        wasm.extend(number.to_le_bytes());
        self.sign_as(&wasm, dir)
    }

    fn sign_as(&self, wasm: &[u8], dir: &Path) -> Result<Actor> {
        let (module, _) = SigningKey::generate(Kind::Module)?;
        let (account, _) = SigningKey::generate(Kind::Account)?;
        let says = ActorToken {
            name: self.name.clone(),
            caps: self.caps.clone(),
            ..ActorToken::default()
        };
        let signed = sign::module(wasm, &says, &module, &account, &Term::default())?;
        let id = module.public_key().to_owned();
        let file = dir.join(format!("{id}.wasm"));
        fs::write(&file, signed).with_context(|| format!("write {}", file.display()))?;
        Ok(Actor { id, file })
    }
}

fn signed_claims(wasm: &[u8]) -> Option<ActorClaims> {
    let verified = claims::verify_module(wasm, now(), &claims::VerifyOptions::default());
    verified.ok().map(|verified| verified.claims)
}

/// `GET /`, as the HTTP server gives it to an actor.
fn get_root() -> Bytes {
    let header = http_header();
    RequestHead { method: "GET", path: "/", query: "", header: &header }.encode(&[])
}

fn http_header() -> hyper::HeaderMap {
    let mut header = hyper::HeaderMap::new();
    header.insert(hyper::header::HOST, hyper::header::HeaderValue::from_static("localhost"));
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_signed_for_what_they_do_and_differ_where_they_are_to() {
        let guests = Guests::load(None).unwrap();
        let hello = guests.component.as_ref().unwrap();
        assert!(guests.actor.answers_requests() && !guests.actor.is_component);
        assert!(hello.answers_requests() && hello.is_component);
        let dir = tempfile::tempdir().unwrap();
        let hash = |actor: Actor| {
            let wasm = fs::read(actor.file).unwrap();
            let verified = claims::verify_module(&wasm, now(), &claims::VerifyOptions::default());
            let verified = verified.unwrap();
            assert_eq!(verified.claims.subject.as_str(), actor.id);
            verified.code_hash
        };
        let same = [0, 1].map(|_| hash(guests.actor.sign(dir.path()).unwrap()));
        assert_eq!(same[0], same[1]);
        let other = [1, 2].map(|n| hash(guests.actor.sign_different(n, dir.path()).unwrap()));
        assert!(other[0] != other[1] && other[0] != same[0]);
        assert!(Guests::load(Some(Path::new("/nosuch.wasm"))).is_err());
    }
}
