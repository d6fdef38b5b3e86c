//! The replies of the control interface.
//!
//! They never hold null where some client wants a text, a number or a list. As a client we read
//! those of all years, in which anything may be missing.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    contracts::interfaces::{self, Direction, InterfaceName, Meaning},
    errors::chain,
    identity::WasmInfo,
    links::LinkDefinition,
    meter::histogram::Histogram,
    serde_null::null_as_default,
};

/// Exports that an inventory names of one actor; real components have one to three.
const EXPORTS_MAX: usize = 16;
/// Bytes of the name of an export that an inventory has room for.
const EXPORT_BYTES_MAX: usize = 128;

/// Key/value pairs; missing or null means none.
pub type Pairs = BTreeMap<String, String>;

/// The label of a host that is drained: it keeps what it runs and takes nothing new. Its value is
/// for people. Clients of all years see it and can take it away; hosts that do not know it go on
/// taking work, and do not tell [`HostReply::state`].
pub const DRAINED_LABEL: &str = "lattice.host/drained";

/// Whether a host with these labels takes nothing new.
pub fn is_drained(labels: &Pairs) -> bool {
    labels.contains_key(DRAINED_LABEL)
}

/// How many calls at a time a start of an actor asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many more than now (the launch command of 2022).
    Add(u32),
    /// Exactly so many.
    Exactly(u32),
    /// So many, or as many as there are now if that is more.
    AtLeast(u32),
}

impl Amount {
    /// Returns the number that is asked for, where there are `before` now.
    pub fn applied_to(self, before: u32) -> u32 {
        match self {
            Self::Add(more) => before.saturating_add(more),
            Self::Exactly(count) => count,
            Self::AtLeast(count) => before.max(count),
        }
    }
}

/// The answer to a command.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Ack {
    pub accepted: bool,
    /// Empty on success, never missing.
    #[serde(deserialize_with = "null_as_default")]
    pub error: String,
    /// Where the start is kept, so that the host starts it again when it comes back. Hosts of
    /// earlier years keep nothing, and their clients do not look at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Why it is not kept, although it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_kept: Option<String>,
}

impl Ack {
    pub fn accepted() -> Self {
        Self { accepted: true, ..Self::default() }
    }

    pub fn rejected(error: impl ToString) -> Self {
        Self { error: error.to_string(), ..Self::default() }
    }
}

impl<T, E: std::error::Error> From<Result<T, E>> for Ack {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::accepted(),
            Err(error) => Self::rejected(chain(&error)),
        }
    }
}

/// An offer in an auction, of which a client reads the host's id.
#[derive(Clone, Debug, Deserialize)]
pub struct Bid {
    #[serde(default)]
    pub host_id: String,
}

/// A bid for an actor: the request with the host's id.
#[derive(Debug, Serialize)]
pub struct ActorBid {
    pub actor_ref: String,
    pub constraints: Pairs,
    pub host_id: String,
}

/// A bid for a provider: the request with the host's id.
#[derive(Debug, Serialize)]
pub struct ProviderBid {
    pub provider_ref: String,
    pub link_name: String,
    pub constraints: Pairs,
    pub host_id: String,
}

/// Reply to `get.links`.
#[derive(Debug, Deserialize)]
pub struct LinksListing {
    #[serde(default)]
    pub links: Vec<LinkDefinition>,
}

/// Reply to `get.claims`, in the forms of all years.
#[derive(Debug, Deserialize)]
pub struct ClaimsListing {
    #[serde(default)]
    pub claims: Vec<Value>,
}

/// Reply to `ping.hosts`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostReply {
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub issuer: String,
    #[serde(deserialize_with = "null_as_default")]
    pub labels: Pairs,
    #[serde(deserialize_with = "null_as_default")]
    pub friendly_name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub uptime_seconds: u64,
    #[serde(deserialize_with = "null_as_default")]
    pub uptime_human: String,
    #[serde(deserialize_with = "null_as_default")]
    pub version: String,
    /// Joined with commas: clients read a text.
    #[serde(deserialize_with = "null_as_default")]
    pub cluster_issuers: String,
    pub js_domain: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub ctl_host: String,
    #[serde(deserialize_with = "null_as_default")]
    pub prov_rpc_host: String,
    #[serde(deserialize_with = "null_as_default")]
    pub rpc_host: String,
    #[serde(deserialize_with = "null_as_default")]
    pub lattice_prefix: String,
    #[serde(deserialize_with = "null_as_default")]
    pub lattice: String,
    /// Ids of the other hosts this one hears. Clients of earlier years do not look at it; with it
    /// one knows when all have answered. `None` in the reply of a host that does not tell, or that
    /// hears more than it can name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<String>>,
    /// How many other hosts this one hears.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_count: Option<usize>,
    /// `drained` or `stopping`; nothing while it takes work. Clients of earlier years do not look
    /// at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Which of the starts of the host answers: two processes with one key have one name, too.
    /// Clients of earlier years do not look at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub life: Option<u64>,
}

impl HostReply {
    /// Whether the host is of this make: hosts of earlier years do not tell whom they hear.
    pub fn is_ours(&self) -> bool {
        self.peers.is_some() || self.peer_count.is_some()
    }
}

/// Reply to `get.{host}.inv`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    #[serde(deserialize_with = "null_as_default")]
    pub host_id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub issuer: String,
    #[serde(deserialize_with = "null_as_default")]
    pub friendly_name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub labels: Pairs,
    #[serde(deserialize_with = "null_as_default")]
    pub version: String,
    #[serde(deserialize_with = "null_as_default")]
    pub uptime_human: String,
    #[serde(deserialize_with = "null_as_default")]
    pub uptime_seconds: u64,
    #[serde(deserialize_with = "null_as_default")]
    pub actors: Vec<InventoryActor>,
    #[serde(deserialize_with = "null_as_default")]
    pub providers: Vec<InventoryProvider>,
}

/// An actor of an inventory. It must not have a `public_key` beside `id`: a client of 2024 takes
/// both for one member.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryActor {
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub image_ref: String,
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub instances: Vec<InventoryInstance>,
    /// Told by hosts that run components; clients of earlier years do not look at it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<CodeInfo>,
    /// Told while two revisions run side by side; then the other members are about the newer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
}

impl InventoryActor {
    /// The image to start it from elsewhere: of two revisions that of the one before.
    pub fn stable_reference(&self) -> &str {
        self.trial.as_ref().map_or(&self.image_ref, |trial| &trial.stable_ref)
    }
}

/// A newer revision of an actor that takes a share of its calls, beside the one before it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Trial {
    /// The image of the revision before.
    pub stable_ref: String,
    pub stable_revision: i32,
    /// The part of the calls that the newer revision takes, in percent.
    pub share: u8,
    /// The calls of each since the share was set.
    pub stable: VersionCounts,
    pub newer: VersionCounts,
}

/// The calls of one revision.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct VersionCounts {
    /// Those that trapped, ran out of time, or were answered with an error.
    pub failed: u64,
    /// How long all of them took.
    pub latency: Histogram,
}

/// How the code of an actor looks from outside (components, sections 1.1 and 2.1).
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct CodeInfo {
    pub kind: CodeKind,
    /// The line of WASI that a component is made for: `0.2` or `0.3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wasi: Option<String>,
    /// The interfaces and functions that a component can be called by.
    #[serde(deserialize_with = "null_as_default")]
    pub exports: Vec<String>,
}

/// The kind of an actor's code.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CodeKind {
    /// A core module, called by operations (waPC).
    Module,
    /// A component, called by its exports.
    Component,
    /// A kind that this version does not know.
    #[default]
    #[serde(other)]
    Unknown,
}

impl CodeKind {
    /// Returns its word in texts.
    pub fn word(self) -> &'static str {
        match self {
            Self::Module => "module",
            Self::Component => "component",
            Self::Unknown => "unknown",
        }
    }
}

impl CodeInfo {
    /// Tells of a component by its imports and exports, of a core module without any. Exports
    /// decide about the line of WASI: a host calls the newer one (components, section 2.3).
    pub fn of(component: Option<&WasmInfo>) -> Self {
        let Some(info) = component else {
            return Self { kind: CodeKind::Module, ..Self::default() };
        };
        let lines = [&info.exports, &info.imports].map(|externs| {
            externs.iter().filter_map(|found| InterfaceName::parse(&found.name)?.wasi_line()).max()
        });
        let exports = info.exports.iter().map(|export| export.name.as_str()).filter(|name| {
            let meaning = interfaces::meaning(Direction::Export, name);
            !matches!(meaning, Meaning::Initialiser | Meaning::Types)
        });
        let exports = exports.take(EXPORTS_MAX).map(clipped).collect();
        let wasi = lines.into_iter().flatten().next().map(str::to_owned);
        Self { kind: CodeKind::Component, wasi, exports }
    }
}

/// The kind in a few letters: `module`, `component 0.2`.
impl fmt::Display for CodeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.word())?;
        match &self.wasi {
            Some(line) => write!(f, " {line}"),
            None => Ok(()),
        }
    }
}

/// The beginning of the name of an export, as far as there is room for it.
fn clipped(name: &str) -> String {
    name[..name.floor_char_boundary(EXPORT_BYTES_MAX)].to_owned()
}

/// One annotation set of an actor. The count has two names: clients of 2023 read `max_concurrent`,
/// of 2024 `max_instances`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryInstance {
    #[serde(deserialize_with = "null_as_default")]
    pub annotations: Pairs,
    #[serde(deserialize_with = "null_as_default")]
    pub instance_id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub revision: i32,
    #[serde(deserialize_with = "null_as_default")]
    pub image_ref: String,
    #[serde(deserialize_with = "null_as_default")]
    pub max_instances: u32,
    #[serde(deserialize_with = "null_as_default")]
    pub max_concurrent: u16,
}

/// A provider of an inventory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryProvider {
    #[serde(deserialize_with = "null_as_default")]
    pub id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub link_name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub contract_id: String,
    #[serde(deserialize_with = "null_as_default")]
    pub image_ref: String,
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    #[serde(deserialize_with = "null_as_default")]
    pub revision: i32,
    #[serde(deserialize_with = "null_as_default")]
    pub annotations: Pairs,
    #[serde(deserialize_with = "null_as_default")]
    pub instance_id: String,
    /// It was started with a configuration, which no host tells. Clients of earlier years do not
    /// look at it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_configured: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{
        module::ModuleKind,
        wasm::{Extern, ExternKind},
    };

    #[test]
    fn a_bid_echoes_the_request() {
        let (constraints, host_id) = (Pairs::from([("a".into(), "b".into())]), "N".to_owned());
        let bid = ActorBid {
            actor_ref: "r".into(),
            constraints: constraints.clone(),
            host_id: host_id.clone(),
        };
        assert_eq!(
            serde_json::to_string(&bid).unwrap(),
            r#"{"actor_ref":"r","constraints":{"a":"b"},"host_id":"N"}"#
        );
        let bid =
            ProviderBid { provider_ref: "r".into(), link_name: "l".into(), constraints, host_id };
        assert_eq!(
            serde_json::to_string(&bid).unwrap(),
            r#"{"provider_ref":"r","link_name":"l","constraints":{"a":"b"},"host_id":"N"}"#
        );
    }

    fn component(imports: &[&str], exports: &[&str]) -> WasmInfo {
        let externs = |names: &[&str]| {
            let named = names
                .iter()
                .map(|name| Extern { name: (*name).to_owned(), kind: ExternKind::Instance });
            named.collect()
        };
        let (imports, exports) = (externs(imports), externs(exports));
        WasmInfo { kind: ModuleKind::Component, imports, exports }
    }

    #[test]
    fn the_kind_of_code_is_told_by_what_it_imports_and_exports() {
        let long = "a".repeat(1000);
        for (imports, exports, told) in [
            (&["wasi:io/streams@0.2.3"][..], &["wasi:http/incoming-handler@0.2.2"][..], "0.2 1"),
            (&["wasi:io/streams@0.2.3"], &["wasi:http/handler@0.3.0", "exports"], "0.3 1"),
            (&["wasi:http/types@0.3.0"], &["wasi:http/incoming-handler@0.2.2"], "0.2 1"),
            (&["wasi:keyvalue/store@0.2.0-draft"], &["acme:a/b@0.2.0", "greet"], " 2"),
            (&["wasi:cli/environment@0.3.0"], &[&long], "0.3 1"),
            (&[], &["f"; 100], " 16"),
        ] {
            let code = CodeInfo::of(Some(&component(imports, exports)));
            let line = code.wasi.as_deref().unwrap_or_default();
            assert_eq!(format!("{line} {}", code.exports.len()), told, "{imports:?} {exports:?}");
            assert_eq!(code.kind, CodeKind::Component);
            assert!(code.exports.iter().all(|name| name.len() <= EXPORT_BYTES_MAX));
        }
        assert_eq!(CodeInfo::of(None).to_string(), "module");
        let old = CodeInfo { wasi: Some("0.2".into()), ..CodeInfo::of(Some(&component(&[], &[]))) };
        assert_eq!(old.to_string(), "component 0.2");
    }

    #[test]
    fn an_inventory_is_read_whether_it_tells_the_kind_or_not() {
        let read = |text| serde_json::from_str::<InventoryActor>(text).unwrap().code;
        assert_eq!(read(r#"{"id":"M"}"#), None);
        let later = read(r#"{"id":"M","code":{"kind":"gadget","exports":null,"more":1}}"#);
        assert_eq!(later, Some(CodeInfo::default()));
        let module = InventoryActor { code: Some(CodeInfo::of(None)), ..Default::default() };
        let told = serde_json::to_value(&module).unwrap();
        assert_eq!(told["code"], serde_json::json!({ "kind": "module", "exports": [] }));
    }

    #[test]
    fn a_quotation_mark_does_not_break_an_ack() {
        let ack = serde_json::to_string(&Ack::rejected("no \"such\" thing")).unwrap();
        assert_eq!(ack, r#"{"accepted":false,"error":"no \"such\" thing"}"#);
        assert_eq!(
            serde_json::to_string(&Ack::accepted()).unwrap(),
            r#"{"accepted":true,"error":""}"#
        );
    }
}
