//! Tells what a reference names: a built-in provider with its link values, an actor or a provider archive with its claims.
//!
//! Claims are verified like at a start: signature, times, keys, and the hash of a module. The executables of an archive are
//! only listed; a host verifies the one for its machine when it unpacks it.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    errors::chain,
    identity::{
        claims::{ActorClaims, VerifyOptions, now, verify_module},
        provider::ProviderClaims,
    },
    providers::{
        archive::Archive,
        builtin::{self, Spec},
    },
    registry::Registry,
};

/// What every WebAssembly binary begins with.
const WASM_MAGIC: &[u8] = b"\0asm";
/// Width that help texts are wrapped to.
const WIDTH: usize = 100;

/// What a reference names.
#[derive(Debug)]
pub enum Inspected {
    Builtin(&'static Spec),
    Actor(ActorClaims),
    Provider { claims: ProviderClaims, targets: BTreeSet<String> },
}

/// Why a reference cannot be told about.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error(transparent)]
    Builtin(#[from] builtin::UnknownBuiltin),
    #[error("{reference}: {cause}")]
    Artifact { reference: String, cause: String },
}

/// Fetches what a reference names, unless it is built in, and reads its claims.
pub async fn inspect(registry: &Registry, reference: &str) -> Result<Inspected, InspectError> {
    if let Some(found) = builtin::find(reference) {
        return Ok(Inspected::Builtin(found?));
    }
    let failed = |cause: String| InspectError::Artifact { reference: reference.to_owned(), cause };
    let bytes = registry.fetch(reference).await.map_err(|e| failed(chain(&e)))?;
    if bytes.starts_with(WASM_MAGIC) {
        let module = verify_module(&bytes, now(), &VerifyOptions::default()).map_err(|e| failed(chain(&e)))?;
        return Ok(Inspected::Actor(module.claims));
    }
    let (claims, targets) = Archive::inspect(&bytes, now()).map_err(|e| failed(chain(&e)))?;
    Ok(Inspected::Provider { claims, targets })
}

impl Inspected {
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
                let documented = |value: &builtin::Value| Documented {
                    name: value.name,
                    aliases: value.aliases,
                    default: value.default,
                    help: value.help,
                };
                let values: Vec<Documented> = spec.values.iter().map(documented).collect();
                json!({
                    "kind": "builtin", "reference": format!("{}{}", builtin::SCHEME, spec.name),
                    "public_key": spec.public_key, "contract_id": spec.contract_id, "name": spec.title,
                    "about": spec.about, "link_values": values,
                })
            }
            Self::Actor(claims) => json!({
                "kind": "actor", "public_key": claims.subject.as_str(), "issuer": claims.issuer, "name": claims.name,
                "version": claims.version, "revision": claims.revision, "call_alias": claims.call_alias,
                "capabilities": claims.caps, "tags": claims.tags, "expires": claims.expires_human(),
                "can_be_used": claims.not_before_human(),
            }),
            Self::Provider { claims, targets } => json!({
                "kind": "provider", "public_key": claims.subject.as_str(), "issuer": claims.issuer, "name": claims.name,
                "vendor": claims.vendor, "version": claims.version, "revision": claims.revision,
                "contract_id": claims.contract_id, "targets": targets, "expires": claims.expires_human(),
                "can_be_used": claims.not_before_human(),
            }),
        }
    }
}

impl fmt::Display for Inspected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: &str| {
            if value.is_empty() { Ok(()) } else { writeln!(f, "  {name:<14}{value}") }
        };
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let number = |value: Option<i32>| value.map(|number| number.to_string()).unwrap_or_default();
        match self {
            Self::Builtin(spec) => {
                writeln!(f, "{} (built-in provider {}{})", spec.title, builtin::SCHEME, spec.name)?;
                row(f, "public key", spec.public_key)?;
                row(f, "contract", spec.contract_id)?;
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
            Self::Actor(claims) => {
                writeln!(f, "{} (actor)", claims.name.as_deref().unwrap_or("without a name"))?;
                row(f, "public key", claims.subject.as_str())?;
                row(f, "issuer", &claims.issuer)?;
                row(f, "version", &text(&claims.version))?;
                row(f, "revision", &number(claims.revision))?;
                row(f, "call alias", &text(&claims.call_alias))?;
                row(f, "capabilities", &claims.caps.join(", "))?;
                row(f, "tags", &claims.tags.join(", "))?;
                row(f, "can be used", &claims.not_before_human())?;
                row(f, "expires", &claims.expires_human())
            }
            Self::Provider { claims, targets } => {
                writeln!(f, "{} (provider)", claims.name.as_deref().unwrap_or("without a name"))?;
                row(f, "public key", claims.subject.as_str())?;
                row(f, "issuer", &claims.issuer)?;
                row(f, "vendor", &claims.vendor)?;
                row(f, "contract", &claims.contract_id)?;
                row(f, "version", &text(&claims.version))?;
                row(f, "revision", &number(claims.revision))?;
                row(f, "targets", &targets.iter().map(String::as_str).collect::<Vec<_>>().join(", "))?;
                row(f, "can be used", &claims.not_before_human())?;
                row(f, "expires", &claims.expires_human())
            }
        }
    }
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

    #[test]
    fn every_builtin_documents_its_link_values() {
        for spec in builtin::CATALOGUE {
            let text = Inspected::Builtin(spec).to_string();
            assert!(text.contains(spec.public_key) && !spec.about.is_empty(), "{text}");
            assert!(!spec.values.is_empty(), "{}", spec.name);
            for value in spec.values {
                assert!(text.contains(value.name) && !value.help.is_empty(), "{}", value.name);
            }
            let values = Inspected::Builtin(spec).to_json()["link_values"].as_array().map(Vec::len);
            assert_eq!(values, Some(spec.values.len()));
        }
    }

    #[test]
    fn texts_are_wrapped_and_indented() {
        let text = wrapped(&"word ".repeat(40), 4);
        assert!(
            text.lines().count() > 1 && text.lines().all(|line| line.starts_with("    word") && line.len() <= WIDTH)
        );
    }
}
