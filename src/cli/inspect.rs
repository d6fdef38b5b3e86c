//! Tells what a reference names: a built-in provider with its link values, an actor or a provider
//! archive with its claims.
//!
//! Claims are verified like at a start: signature, keys, and the hash of a module. When they count
//! is told and not judged, so that people see why something does not start; [`Inspected::untimely`]
//! says it. The executables of an archive are only listed; a host verifies the one for its machine
//! when it unpacks it.

pub mod wit;

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    time::Duration,
};

use serde::Serialize;
use serde_json::{Value, json};

use lattice_base::{
    providers::archive::{Archive, ArchiveError},
    registry::{Got, Registry},
};
use lattice_engine::providers::builtin::Spec;
use lattice_protocol::{
    builtin,
    contracts::interfaces::{self, Direction, Meaning},
    errors::chain,
    escape,
    identity::{
        claims::{ActorClaims, VerifyOptions, now, verify_module},
        module::{self, ModuleError, is_wasm},
        provider::ProviderClaims,
        token::Compact,
        validity,
        wasm::WasmInfo,
    },
};

/// Width that help texts are wrapped to.
const WIDTH: usize = 100;

/// The artifact that a reference names.
#[derive(Debug)]
pub enum Inspected {
    Builtin(&'static Spec),
    Actor { claims: ActorClaims, outside: Outside, token: String },
    Provider { claims: ProviderClaims, targets: BTreeSet<String>, token: String },
}

/// How an actor looks from outside.
#[derive(Debug)]
pub enum Outside {
    Module,
    /// With whether its token names the capabilities.
    Component(WasmInfo, bool),
}

/// An inspected artifact, with the digest of its manifest.
#[derive(Debug)]
pub struct Found {
    pub what: Inspected,
    /// The digest of the manifest; of images only.
    pub digest: Option<String>,
}

/// The world of a component.
#[derive(Debug)]
pub struct World {
    /// In the words of WIT.
    pub text: String,
    /// The digest of the manifest; of images only.
    pub digest: Option<String>,
}

/// Why a reference cannot be told about.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error(transparent)]
    Builtin(#[from] builtin::UnknownBuiltin),
    #[error("{reference}: {cause}")]
    Artifact { reference: String, cause: String },
}

/// Why some content is neither a signed module nor a provider archive.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Module(#[from] ModuleError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Fetches what a reference names, unless it is built in, and reads its claims. `tell` is told how
/// far a download is, no more often than `every` so long.
pub async fn inspect(
    registry: &Registry,
    reference: &str,
    every: Duration,
    tell: impl FnMut(Got),
) -> Result<Found, InspectError> {
    if let Some(found) = lattice_engine::providers::builtin::find(reference) {
        return Ok(Found { what: Inspected::Builtin(found?), digest: None });
    }
    let fetched =
        registry.fetch_telling(reference, every, tell).await.map_err(|e| failed(reference, &e))?;
    let what = Inspected::read(&fetched.content, now()).map_err(|e| failed(reference, &e))?;
    Ok(Found { what, digest: fetched.digest })
}

/// Fetches what a reference names and prints its world; its claims are not looked at.
pub async fn world(
    registry: &Registry,
    reference: &str,
    every: Duration,
    tell: impl FnMut(Got),
) -> Result<World, InspectError> {
    let fetched =
        registry.fetch_telling(reference, every, tell).await.map_err(|e| failed(reference, &e))?;
    let text = wit::world(&fetched.content).map_err(|e| failed(reference, &e))?;
    Ok(World { text, digest: fetched.digest })
}

fn failed(reference: &str, error: &dyn std::error::Error) -> InspectError {
    InspectError::Artifact { reference: reference.to_owned(), cause: chain(error) }
}

impl Inspected {
    /// Reads what a module or an archive says, and verifies it, as of the time nearest to `now` at
    /// which it counts.
    ///
    /// Hashes and unpacks: call it off the async threads where that matters.
    pub fn read(content: &[u8], now: u64) -> Result<Self, ReadError> {
        if is_wasm(content) {
            let token = module::token(content)?.to_owned();
            let module = verify_module(content, nearest(&token, now), &VerifyOptions::default())?;
            let outside = match module.component {
                Some(info) => Outside::Component(info, module.names_caps),
                None => Outside::Module,
            };
            return Ok(Self::Actor { claims: module.claims, outside, token });
        }
        let (claims, targets, token) =
            Archive::inspect_as_of(content, |token| nearest(token, now))?;
        Ok(Self::Provider { claims, targets, token })
    }

    /// Returns the public key of the actor or provider.
    pub fn public_key(&self) -> &str {
        match self {
            Self::Builtin(spec) => spec.known.public_key,
            Self::Actor { claims, .. } => claims.subject.as_str(),
            Self::Provider { claims, .. } => claims.subject.as_str(),
        }
    }

    /// The token it carries; what is built in has none.
    pub fn token(&self) -> Option<&str> {
        match self {
            Self::Builtin(_) => None,
            Self::Actor { token, .. } | Self::Provider { token, .. } => Some(token),
        }
    }

    /// Why no host starts it at this time, if its claims do not count.
    pub fn untimely(&self, now: u64) -> Option<String> {
        let (term, begins, ended) = match self {
            Self::Builtin(_) => return None,
            Self::Actor { claims, .. } => {
                (claims.standing_at(now), claims.not_before_human(), claims.expires_human())
            }
            Self::Provider { claims, .. } => {
                (claims.standing_at(now), claims.not_before_human(), claims.expires_human())
            }
        };
        match term {
            validity::Term::InForce => None,
            validity::Term::NotYet => {
                Some(format!("its claims count {begins}; no host starts it before"))
            }
            validity::Term::Expired => Some(format!(
                "its claims expired {ended}; no host starts it until it is signed again"
            )),
        }
    }

    /// The same as JSON.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Builtin(spec) => {
                #[derive(Serialize)]
                struct Documented {
                    name: &'static str,
                    aliases: &'static [&'static str],
                    default: &'static str,
                    help: &'static str,
                }
                let values = spec.values.iter().map(|value| Documented {
                    name: value.name,
                    aliases: value.aliases,
                    default: value.default,
                    help: value.help,
                });
                let values: Vec<Documented> = values.collect();
                json!({
                    "kind": "builtin", "reference": spec.known.reference(),
                    "public_key": spec.known.public_key, "contract_id": spec.known.contract_id, "name": spec.known.title,
                    "about": spec.about, "link_values": values,
                })
            }
            // Beside our names for things those that `wash` has for the same.
            Self::Actor { claims, outside, .. } => merged(
                json!({
                    "kind": "actor", "public_key": claims.subject.as_str(), "issuer": claims.issuer, "name": claims.name,
                    "version": claims.version, "revision": claims.revision, "call_alias": claims.call_alias,
                    "capabilities": claims.caps, "tags": claims.tags, "expires": claims.expires_human(),
                    "can_be_used": claims.not_before_human(),
                    "module": claims.subject.as_str(), "actor": claims.subject.as_str(), "account": claims.issuer,
                }),
                outside,
            ),
            Self::Provider { claims, targets, .. } => {
                let mut told = json!({
                    "kind": "provider", "public_key": claims.subject.as_str(), "issuer": claims.issuer,
                    "name": claims.name, "vendor": claims.vendor, "version": claims.version,
                    "revision": claims.revision, "contract_id": claims.contract_id, "targets": targets,
                    "expires": claims.expires_human(), "can_be_used": claims.not_before_human(),
                    "service": claims.subject.as_str(), "capability_contract_id": claims.contract_id,
                });
                // It was read as JSON before.
                if let Some(schema) =
                    claims.config_schema.as_deref().and_then(|text| serde_json::from_str(text).ok())
                {
                    let schema: Value = schema;
                    told["schema"] = schema;
                }
                told
            }
        }
    }
}

impl Found {
    /// The same as JSON.
    pub fn to_json(&self) -> Value {
        let mut told = self.what.to_json();
        if let Some(digest) = &self.digest {
            told["digest"] = digest.as_str().into();
        }
        told
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.fmt(f)?;
        match &self.digest {
            Some(digest) => row(f, "digest", digest),
            None => Ok(()),
        }
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    // A value of claims must not look like another row.
    if value.is_empty() { Ok(()) } else { writeln!(f, "  {name:<14}{}", escape::line(value)) }
}

fn number(value: Option<i32>) -> String {
    value.map(|number| number.to_string()).unwrap_or_default()
}

/// The time nearest to `now` at which a token counts; the token's own faults are found later.
fn nearest(token: &str, now: u64) -> u64 {
    Compact::parse(token.trim()).map_or(now, |compact| compact.nearest(now))
}

impl fmt::Display for Inspected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(spec) => write_builtin(f, spec),
            Self::Actor { claims, outside, .. } => write_actor(f, claims, outside),
            Self::Provider { claims, targets, .. } => write_provider(f, claims, targets),
        }
    }
}

fn write_builtin(f: &mut fmt::Formatter<'_>, spec: &Spec) -> fmt::Result {
    writeln!(f, "{} (built-in provider {})", spec.known.title, spec.known.reference())?;
    row(f, "public key", spec.known.public_key)?;
    row(f, "contract", spec.known.contract_id)?;
    write!(f, "\n{}\nLink values\n", wrapped(spec.about, 0))?;
    for value in spec.values {
        write!(f, "  {}", value.name)?;
        if !value.aliases.is_empty() {
            write!(f, " (or {})", value.aliases.join(", "))?;
        }
        writeln!(f)?;
        f.write_str(&wrapped(value.help, 6))?;
        if !value.default.is_empty() {
            f.write_str(&wrapped(&format!("default: {}", value.default), 6))?;
        }
    }
    Ok(())
}

fn write_actor(f: &mut fmt::Formatter<'_>, claims: &ActorClaims, outside: &Outside) -> fmt::Result {
    let kind = match outside {
        Outside::Module => "actor",
        Outside::Component(..) => "actor, a component",
    };
    let name = claims.name.as_deref().unwrap_or("without a name");
    writeln!(f, "{} ({kind})", escape::line(name))?;
    row(f, "public key", claims.subject.as_str())?;
    row(f, "issuer", &claims.issuer)?;
    row(f, "version", claims.version.as_deref().unwrap_or_default())?;
    row(f, "revision", &number(claims.revision))?;
    row(f, "call alias", claims.call_alias.as_deref().unwrap_or_default())?;
    row(f, "capabilities", &claims.caps.join(", "))?;
    row(f, "tags", &claims.tags.join(", "))?;
    row(f, "can be used", &claims.not_before_human())?;
    row(f, "expires", &claims.expires_human())?;
    match outside {
        Outside::Module => Ok(()),
        Outside::Component(info, names_caps) => component_rows(f, info, *names_caps, &claims.caps),
    }
}

fn write_provider(
    f: &mut fmt::Formatter<'_>,
    claims: &ProviderClaims,
    targets: &BTreeSet<String>,
) -> fmt::Result {
    writeln!(f, "{} (provider)", escape::line(claims.name.as_deref().unwrap_or("without a name")))?;
    row(f, "public key", claims.subject.as_str())?;
    row(f, "issuer", &claims.issuer)?;
    row(f, "vendor", &claims.vendor)?;
    row(f, "contract", &claims.contract_id)?;
    row(f, "version", claims.version.as_deref().unwrap_or_default())?;
    row(f, "revision", &number(claims.revision))?;
    row(f, "targets", &targets.iter().map(String::as_str).collect::<Vec<_>>().join(", "))?;
    let schema =
        claims.config_schema.as_ref().map_or("", |_| "a JSON schema of link values, see -o json");
    row(f, "schema", schema)?;
    row(f, "can be used", &claims.not_before_human())?;
    row(f, "expires", &claims.expires_human())
}

/// Adds what is told of components alone.
fn merged(mut told: Value, outside: &Outside) -> Value {
    let Outside::Component(info, names_caps) = outside else {
        told["module_kind"] = "core".into();
        return told;
    };
    told["module_kind"] = "component".into();
    told["imports"] = json!(info.imports);
    told["exports"] = json!(info.exports);
    told["token_names_capabilities"] = (*names_caps).into();
    told["unanswered_imports"] = json!(info.unanswered());
    told
}

/// The interfaces of a component; those of the base, which all have, are left out.
fn component_rows(
    f: &mut fmt::Formatter<'_>,
    info: &WasmInfo,
    names_caps: bool,
    caps: &[String],
) -> fmt::Result {
    if !names_caps {
        row(f, "", "its token names no capabilities; those of its imports and exports count")?;
    }
    let sides = [
        ("imports", Direction::Import, &info.imports),
        ("exports", Direction::Export, &info.exports),
    ];
    for (side, direction, externs) in sides {
        for found in externs {
            match interfaces::meaning(direction, &found.name) {
                Meaning::Base | Meaning::Types | Meaning::Initialiser => {}
                Meaning::Contract(contract) => {
                    row(f, side, &format!("{} ({contract})", found.name))?;
                }
                _ => row(f, side, &found.name)?,
            }
        }
    }
    if let Err(missing) = info.check_signed_for(caps) {
        row(f, "refused", &missing.to_string())?;
    }
    row(f, "not answered", &info.unanswered().join(", "))
}

/// A text in lines, each indented and ended.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        if column > 0 && column + 1 + word.chars().count() > WIDTH {
            lines.push('\n');
            column = 0;
        }
        // Writing to a String cannot fail.
        let _ = match column {
            0 => write!(lines, "{:indent$}{word}", ""),
            _ => write!(lines, " {word}"),
        };
        column = if column == 0 { indent } else { column + 1 } + word.chars().count();
    }
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice_protocol::identity::{
        samples::{ACCOUNT, ACTOR},
        sign::{self, ActorToken, Term},
        signature::SigningKey,
    };

    #[test]
    fn every_builtin_documents_its_link_values() {
        for spec in lattice_engine::providers::builtin::CATALOGUE {
            let text = Inspected::Builtin(spec).to_string();
            assert!(text.contains(spec.known.public_key) && !spec.about.is_empty(), "{text}");
            assert!(!spec.values.is_empty(), "{}", spec.known.name);
            for value in spec.values {
                assert!(text.contains(value.name) && !value.help.is_empty(), "{}", value.name);
            }
            let values = Inspected::Builtin(spec).to_json()["link_values"].as_array().map(Vec::len);
            assert_eq!(values, Some(spec.values.len()));
        }
    }

    #[test]
    fn claims_that_do_not_count_now_are_told_and_changed_ones_refused() {
        let key = |seed| SigningKey::from_seed(seed).unwrap();
        let (actor, account) = (key(ACTOR.seed), key(ACCOUNT.seed));
        let says = ActorToken { name: "sample".into(), ..ActorToken::default() };
        let sign = |not_before: Option<u64>, expires: Option<u64>| {
            let term = Term { issued_at: 1, not_before, expires, is_reproducible: true };
            sign::module(b"\0asm\x01\0\0\0", &says, &actor, &account, &term).unwrap()
        };
        let read = |wasm: &[u8]| Inspected::read(wasm, now());
        let told = read(&sign(None, Some(2))).unwrap();
        assert!(told.untimely(now()).unwrap().contains("ago"));
        assert_eq!(
            (told.to_json()["module"].as_str(), told.token().is_some()),
            (Some(ACTOR.public), true)
        );
        assert!(
            read(&sign(Some(now() + 9999), None))
                .unwrap()
                .untimely(now())
                .unwrap()
                .contains("in 2 hours")
        );
        assert_eq!(read(&sign(None, None)).unwrap().untimely(now()), None);
        let changed = [sign(None, Some(2)).as_slice(), b"\x00\x02\x01x"].concat();
        assert!(matches!(read(&changed), Err(ReadError::Module(ModuleError::HashMismatch { .. }))));
        assert!(matches!(read(b"no artifact"), Err(ReadError::Archive(_))));
    }

    #[test]
    fn texts_are_wrapped_and_indented() {
        let text = wrapped(&"word ".repeat(40), 4);
        assert!(
            text.lines().count() > 1
                && text.lines().all(|line| line.starts_with("    word") && line.len() <= WIDTH)
        );
    }
}
