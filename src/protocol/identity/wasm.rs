//! Looks at a `.wasm` file from outside: its kind, what it imports and exports, and the contracts
//! these stand for (components, sections 1.1, 1.5 and 3.6).
//!
//! [`inspect`] is told nothing but bytes, so it takes all of them for hostile: it walks over the
//! heads of the outermost sections, never into a nested module, and reads the two sections that
//! name imports and exports. Nothing is reserved by a count from the file, and both names and
//! their number have a limit. Whether the code is valid is the engine's question.

use std::fmt;

use serde::Serialize;
use wasmparser::{
    BinaryReader, ComponentExportSectionReader, ComponentExternalKind,
    ComponentImportSectionReader, ExportSectionReader, ExternalKind, FromReader,
    ImportSectionReader, SectionLimited, TypeRef,
};

use super::module::{ModuleError, ModuleKind, Section, Sections};
use crate::contracts::interfaces::{self, CONTRACTS, Direction, PYTHON_INITIALISER};

const CORE_IMPORTS: u8 = 2;
const CORE_EXPORTS: u8 = 7;
const COMPONENT_IMPORTS: u8 = 10;
const COMPONENT_EXPORTS: u8 = 11;

/// The widest known guest imports 96 interfaces; core modules export a few thousand functions.
const EXTERNS_MAX: usize = 20_000;
/// Names of interfaces have some 50 characters; mangled names of functions some hundred.
const NAME_BYTES_MAX: usize = 4096;
/// All names of a file together.
const NAMES_BYTES_MAX: usize = 1 << 20;

/// The outside of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WasmInfo {
    pub kind: ModuleKind,
    /// In the order of the file.
    pub imports: Vec<Extern>,
    pub exports: Vec<Extern>,
}

/// An import or an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Extern {
    /// `wasi:http/types@0.2.10` of components, `module.name` of what a core module imports.
    pub name: String,
    #[serde(rename = "type")]
    pub kind: ExternKind,
}

/// The kinds of things that are imported and exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExternKind {
    /// An interface.
    Instance,
    Function,
    Type,
    Module,
    Component,
    Value,
    Memory,
    Table,
    Global,
    Tag,
}

/// A component imports what its claims do not name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NotSignedFor {
    /// Each contract with the interfaces that stand for it.
    pub missing: Vec<(&'static str, Vec<String>)>,
}

impl fmt::Display for NotSignedFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the component imports more than it is signed for: ")?;
        for (at, (contract, interfaces)) in self.missing.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{} (that is {contract})", interfaces.join(" and "))?;
        }
        f.write_str("; sign it again with `host claims sign FILE")?;
        self.missing.iter().try_for_each(|(contract, _)| write!(f, " --cap {contract}"))?;
        f.write_str("`")
    }
}

/// Tells the kind, the imports and the exports of a file.
///
/// # Errors
///
/// A file that is not for running is refused by its name: native code that some engine compiled
/// beforehand, a component from before the release of the component model, a package of WIT texts
/// (components, section 1.1); and so is a file whose sections cannot be read.
pub fn inspect(wasm: &[u8]) -> Result<WasmInfo, ModuleError> {
    let sections = Sections::open(wasm, 0)?;
    let mut reading = Reading::new(sections.kind);
    for section in sections {
        reading.section(&section?)?;
    }
    reading.finish()
}

/// Tells the same of a component; a core module, whose sections are the engine's business, gives
/// nothing.
///
/// # Errors
///
/// As [`inspect`].
pub fn inspect_component(content: &[u8]) -> Result<Option<WasmInfo>, ModuleError> {
    match Sections::open(content, 0)?.kind {
        ModuleKind::Core => Ok(None),
        ModuleKind::Component => inspect(content).map(Some),
    }
}

/// Says whether a file is native code that an engine compiled beforehand (`.cwasm`), by its first
/// bytes: an ELF file with the mark of wasmtime.
pub(super) fn is_precompiled(content: &[u8]) -> bool {
    const ELF: &[u8] = b"\x7fELF";
    const AT: usize = 7;
    const WASMTIME: u8 = 200;
    content.starts_with(ELF) && content.get(AT) == Some(&WASMTIME)
}

impl WasmInfo {
    /// Returns the contracts that imports and exports stand for, each once, in a fixed order: what
    /// a component is signed for whose token names no capabilities (components, section 1.5). Core
    /// modules say nothing about contracts.
    pub fn contracts(&self) -> Vec<&'static str> {
        let stands = |wanted: &&str| {
            let imports = self.imports.iter().map(|import| import.contract(Direction::Import));
            let exports = self.exports.iter().map(|export| export.contract(Direction::Export));
            self.is_component() && imports.chain(exports).any(|found| found == Some(*wanted))
        };
        CONTRACTS.into_iter().filter(stands).collect()
    }

    /// Returns what to sign it for: the contracts of a component's imports and exports without
    /// those of `except`, then what else was asked for, each once.
    pub fn capabilities(&self, wanted: &[String], except: &[String]) -> Vec<String> {
        let own = self.contracts().into_iter().map(str::to_owned);
        let own = own.filter(|contract| !except.contains(contract));
        let mut all: Vec<String> = Vec::new();
        for contract in own.chain(wanted.iter().cloned()) {
            if !all.contains(&contract) {
                all.push(contract);
            }
        }
        all
    }

    /// Returns an error if a component imports an interface whose contract is not among `caps`.
    ///
    /// # Errors
    ///
    /// Names each such contract with the interfaces that stand for it.
    pub fn check_signed_for(&self, caps: &[String]) -> Result<(), NotSignedFor> {
        if !self.is_component() {
            return Ok(());
        }
        let mut missing = Vec::new();
        for contract in CONTRACTS {
            let interfaces: Vec<String> = self
                .imports
                .iter()
                .filter(|import| import.contract(Direction::Import) == Some(contract))
                .map(|import| import.name.clone())
                .collect();
            if !interfaces.is_empty() && !caps.iter().any(|cap| cap == contract) {
                missing.push((contract, interfaces));
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(NotSignedFor { missing }) }
    }

    /// Returns the imports that no host answers, each with the reason where one is known
    /// (components, section 2.13). Components that componentize-py made import what their SDK
    /// knows, used or not; of those everything is let in that can be made a trap.
    pub fn unanswered(&self) -> Vec<String> {
        if !self.is_component() {
            return Vec::new();
        }
        let is_python = self.exports.iter().any(|export| export.name == PYTHON_INITIALISER);
        let missing = self.imports.iter().filter(|import| {
            let can_be_trap = is_python && import.kind == ExternKind::Instance;
            let is_let_in = can_be_trap || import.kind == ExternKind::Type;
            !is_let_in && interfaces::answered(&import.name).is_none()
        });
        let worded = missing.map(|import| match interfaces::why_unanswered(&import.name) {
            Some(why) => format!("{} ({why})", import.name),
            None => import.name.clone(),
        });
        worded.collect()
    }

    /// Says whether it is a component.
    pub fn is_component(&self) -> bool {
        self.kind == ModuleKind::Component
    }
}

impl Extern {
    /// Returns the contract it stands for, seen from one side of a component.
    pub fn contract(&self, direction: Direction) -> Option<&'static str> {
        interfaces::contract(direction, &self.name)
    }
}

impl ExternKind {
    /// Returns its word in texts.
    pub fn word(self) -> &'static str {
        match self {
            Self::Instance => "interface",
            Self::Function => "function",
            Self::Type => "type",
            Self::Module => "module",
            Self::Component => "component",
            Self::Value => "value",
            Self::Memory => "memory",
            Self::Table => "table",
            Self::Global => "global",
            Self::Tag => "tag",
        }
    }
}

/// The things found so far.
struct Reading {
    info: WasmInfo,
    has_nested: bool,
    names_bytes: usize,
}

impl Reading {
    fn new(kind: ModuleKind) -> Self {
        let info = WasmInfo { kind, imports: Vec::new(), exports: Vec::new() };
        Self { info, has_nested: false, names_bytes: 0 }
    }

    fn section(&mut self, section: &Section<'_>) -> Result<(), ModuleError> {
        let kind = self.info.kind;
        self.has_nested |= section.is_nested(kind);
        let reader = BinaryReader::new(section.payload, section.payload_at);
        match (kind, section.id) {
            (ModuleKind::Core, CORE_IMPORTS) => {
                for import in items(ImportSectionReader::new(reader))?.into_imports() {
                    let import = import.map_err(unreadable)?;
                    let name = format!("{}.{}", import.module, import.name);
                    self.add(Direction::Import, name, of_type(&import.ty))?;
                }
            }
            (ModuleKind::Core, CORE_EXPORTS) => {
                for export in items(ExportSectionReader::new(reader))? {
                    let export = export.map_err(unreadable)?;
                    self.add(Direction::Export, export.name.to_owned(), of_core(export.kind))?;
                }
            }
            (ModuleKind::Component, COMPONENT_IMPORTS) => {
                for import in items(ComponentImportSectionReader::new(reader))? {
                    let import = import.map_err(unreadable)?;
                    let kind = of_component(import.ty.kind());
                    self.add(Direction::Import, import.name.name.to_owned(), kind)?;
                }
            }
            (ModuleKind::Component, COMPONENT_EXPORTS) => {
                for export in items(ComponentExportSectionReader::new(reader))? {
                    let export = export.map_err(unreadable)?;
                    let kind = of_component(export.kind);
                    self.add(Direction::Export, export.name.name.to_owned(), kind)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn add(
        &mut self,
        direction: Direction,
        name: String,
        kind: ExternKind,
    ) -> Result<(), ModuleError> {
        self.names_bytes = self.names_bytes.saturating_add(name.len());
        let externs = match direction {
            Direction::Import => &mut self.info.imports,
            Direction::Export => &mut self.info.exports,
        };
        let is_too_much = externs.len() >= EXTERNS_MAX
            || name.len() > NAME_BYTES_MAX
            || self.names_bytes > NAMES_BYTES_MAX;
        if is_too_much {
            return Err(ModuleError::TooManyExterns);
        }
        externs.push(Extern { name, kind });
        Ok(())
    }

    /// Refuses a WIT package: the same header as a component's, but nothing in it that could run,
    /// only types.
    fn finish(self) -> Result<WasmInfo, ModuleError> {
        let Self { info, has_nested, .. } = self;
        let is_types_only = info.is_component()
            && !has_nested
            && info.imports.is_empty()
            && !info.exports.is_empty()
            && info.exports.iter().all(|export| export.kind == ExternKind::Type);
        if is_types_only {
            let names = info.exports.iter().take(2).map(|export| export.name.as_str());
            return Err(ModuleError::WitPackage(names.collect::<Vec<_>>().join(", ")));
        }
        Ok(info)
    }
}

fn items<'a, T: FromReader<'a>>(
    section: wasmparser::Result<SectionLimited<'a, T>>,
) -> Result<SectionLimited<'a, T>, ModuleError> {
    section.map_err(unreadable)
}

fn unreadable(error: wasmparser::Error) -> ModuleError {
    ModuleError::Externs(error.to_string())
}

fn of_type(of: &TypeRef) -> ExternKind {
    match of {
        TypeRef::Func(_) | TypeRef::FuncExact(_) => ExternKind::Function,
        TypeRef::Table(_) => ExternKind::Table,
        TypeRef::Memory(_) => ExternKind::Memory,
        TypeRef::Global(_) => ExternKind::Global,
        TypeRef::Tag(_) => ExternKind::Tag,
    }
}

fn of_core(kind: ExternalKind) -> ExternKind {
    match kind {
        ExternalKind::Func | ExternalKind::FuncExact => ExternKind::Function,
        ExternalKind::Table => ExternKind::Table,
        ExternalKind::Memory => ExternKind::Memory,
        ExternalKind::Global => ExternKind::Global,
        ExternalKind::Tag => ExternKind::Tag,
    }
}

fn of_component(kind: ComponentExternalKind) -> ExternKind {
    match kind {
        ComponentExternalKind::Module => ExternKind::Module,
        ComponentExternalKind::Func => ExternKind::Function,
        ComponentExternalKind::Value => ExternKind::Value,
        ComponentExternalKind::Type => ExternKind::Type,
        ComponentExternalKind::Instance => ExternKind::Instance,
        ComponentExternalKind::Component => ExternKind::Component,
    }
}

#[cfg(test)]
mod tests;
