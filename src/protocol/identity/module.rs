//! Takes a `.wasm` file and says whose it is, or why it must not run.
//!
//! The signing tools append the actor's token to the file as its last custom section and put a
//! SHA-256 of the rest into the token. Two generations of tools differ in the section's name and in
//! what "the rest" is:
//!
//! | tool | section | hash over |
//! |---|---|---|
//! | wascap before 0.9 | `jwt` | the file without the section |
//! | wascap 0.9 and 0.10 (`wascap_revision` 2) | `wasmcloud_jwt` | the file without the section |
//! | wascap since 0.11 (`wascap_revision` 3) | `wasmcloud_jwt` | the canonical form |
//!
//! The canonical form is the file without tokens at any depth, every section size in its shortest
//! encoding, every header constant, nested modules and components rewritten by the same rules. For
//! nearly all files the two forms are the same; a token is accepted when its hash fits either.
//!
//! Only the outermost level is searched for the token. The peer also finds a `jwt` section of a
//! module nested in a component, and so takes a component wrapped around a signed module for that
//! module.
//!
//! Of a component, the sections that name imports and exports are read too ([`wasm`]); whether the
//! code is valid is the engine's question.

use serde::Serialize;

use super::{
    claims::{ActorClaims, Checked, ClaimsError},
    digest::{Sha256, hex_upper},
    wasm::{self, WasmInfo},
};

const SECTION_OLD: &str = "jwt";
const SECTION_NEW: &str = "wasmcloud_jwt";
/// The first bytes of every WebAssembly binary.
const MAGIC: &[u8] = b"\0asm";
const CORE_HEADER: [u8; 8] = *b"\0asm\x01\0\0\0";
const COMPONENT_HEADER: [u8; 8] = *b"\0asm\x0d\0\x01\0";
const SECTION_CUSTOM: u8 = 0;
const SECTION_NESTED_MODULE: u8 = 1;
const SECTION_NESTED_COMPONENT: u8 = 4;

/// Real components nest three or four levels deep. Hashing costs a walk over the section heads per
/// level.
const DEPTH_MAX: usize = 32;

/// Whether some content is a WebAssembly module or component, signed or not.
pub fn is_wasm(content: &[u8]) -> bool {
    content.starts_with(MAGIC)
}

/// The conditions for a module besides a valid token.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Accounts (`A…`) whose signature counts; empty means any.
    pub issuers: Vec<String>,
    /// Accepts modules of `wascap_revision` 2 whose hash fits neither form. The peer does not check
    /// those at all; switched on, everybody who has a token can put it on other code.
    pub accept_wrong_hash_of_revision_2: bool,
}

/// The two kinds of actors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleKind {
    /// A core module, speaking the waPC ABI.
    Core,
    /// A component.
    Component,
}

/// The facts about a module after the check.
#[derive(Debug, Clone)]
pub struct VerifiedModule {
    /// With the capabilities that count: of a component whose token names none, they are the
    /// contracts of its imports and exports (components, section 1.5).
    pub claims: ActorClaims,
    /// The hash of the canonical form: the same for the same code, whoever signed it and how.
    pub code_hash: [u8; 32],
    pub kind: ModuleKind,
    /// The imports and exports of a component; `None` of a core module.
    pub component: Option<WasmInfo>,
    /// Whether the token itself names the capabilities.
    pub names_caps: bool,
}

/// Why a file must not run. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    #[error("not a WebAssembly file; expected a compiled and signed `.wasm`")]
    NotWasm,
    #[error(
        "the component uses encoding {0:#04x} from before the component model was released (0x0d); \
         build it again with current tools, for example `wasm-tools component new`"
    )]
    PreReleaseComponent(u16),
    #[error(
        "it is native code that an engine compiled beforehand (.cwasm), which a host never runs; give it \
         the `.wasm` file it was compiled from"
    )]
    Precompiled,
    #[error(
        "it is a WIT package ({0}): types in binary form, and no code to run; build a component that \
         exports them, for example with `wasm-tools component new`"
    )]
    WitPackage(String),
    #[error(
        "the imports and exports cannot be read: {0}; the file may be cut off, or built with tools \
         newer than this host"
    )]
    Externs(String),
    #[error(
        "it imports or exports more than any real program; build it again from its sources, with \
         names of ordinary length"
    )]
    TooManyExterns,
    #[error(
        "unknown WebAssembly version {version:#06x} (layer {layer}); build the module with tools this host knows"
    )]
    UnknownVersion { version: u16, layer: u16 },
    #[error("malformed WebAssembly file: {reason} at byte {offset}; the file may be cut off")]
    Malformed { offset: usize, reason: &'static str },
    #[error("components are nested more than {DEPTH_MAX} levels deep")]
    TooDeep,
    #[error("the module carries no claims; sign it, for example with `host claims sign`")]
    Unsigned,
    #[error("the module carries more than one `{0}` section; sign it again from the unsigned file")]
    DuplicateToken(&'static str),
    #[error("the module's token is no text; sign it again from the unsigned file")]
    TokenEncoding,
    #[error(
        "the module's claims are not valid: {0}; sign it again, for example with `host claims sign`"
    )]
    Claims(ClaimsError),
    #[error("the module's issuer {0} is not among the trusted accounts")]
    UntrustedIssuer(String),
    #[error(
        "the module was changed after signing: its hash is {computed}, its claims say {claimed}; \
         sign it again, for example with `host claims sign`"
    )]
    HashMismatch { claimed: String, computed: String },
}

/// Checks that a file is a module whose token is valid at `now` (seconds since 1970) and belongs to
/// its code.
///
/// Hashes the file once, or twice when the token's hash is not over the canonical form: about 1 ms
/// per 1.5 MB, so call it off the async threads.
pub fn verify_module(
    content: &[u8],
    now: u64,
    options: &VerifyOptions,
) -> Result<VerifiedModule, ModuleError> {
    let (kind, token) = find_token(content)?;
    let Checked { mut claims, revision, names_caps } =
        ActorClaims::check(token, now).map_err(ModuleError::Claims)?;
    if !options.issuers.is_empty() && !options.issuers.contains(&claims.issuer) {
        return Err(ModuleError::UntrustedIssuer(claims.issuer));
    }

    let code_hash = canonical_hash(content)?;
    let computed = hex_upper(&code_hash);
    let fits = claims.hash == computed || claims.hash == hex_upper(&raw_hash(content)?);
    let excused = revision == Some(2) && options.accept_wrong_hash_of_revision_2;
    if !fits && !excused {
        return Err(ModuleError::HashMismatch { claimed: claims.hash, computed });
    }
    let component = wasm::inspect_component(content)?;
    // The imports are under the signature, so the signer has stated them.
    if let (Some(component), false) = (&component, names_caps) {
        claims.caps = component.contracts().into_iter().map(str::to_owned).collect();
    }
    Ok(VerifiedModule { claims, code_hash, kind, component, names_caps })
}

/// Returns the token a file carries, unverified.
pub fn token(wasm: &[u8]) -> Result<&str, ModuleError> {
    find_token(wasm).map(|(_, token)| token)
}

/// Finds the token on the outermost level.
fn find_token(wasm: &[u8]) -> Result<(ModuleKind, &str), ModuleError> {
    let sections = Sections::open(wasm, 0)?;
    let kind = sections.kind;
    let (mut old, mut new) = (None, None);
    for section in sections {
        let section = section?;
        let (slot, name) = match section.token_name()? {
            Some(SECTION_OLD) => (&mut old, SECTION_OLD),
            Some(_) => (&mut new, SECTION_NEW),
            None => continue,
        };
        // The first one would count for some hosts and the last one for others.
        if slot.replace(section.custom()?.1).is_some() {
            return Err(ModuleError::DuplicateToken(name));
        }
    }
    let token = new.or(old).ok_or(ModuleError::Unsigned)?;
    let token = std::str::from_utf8(token).map_err(|_| ModuleError::TokenEncoding)?;
    Ok((kind, token))
}

/// Hashes the file with nothing but the outermost token sections cut out.
fn raw_hash(wasm: &[u8]) -> Result<[u8; 32], ModuleError> {
    let mut hasher = Sha256::new();
    feed_code(wasm, &mut |bytes| hasher.update(bytes))?;
    Ok(hasher.finish())
}

/// Returns the file without its tokens: it stays the same when it is signed anew, and with it what
/// is kept of compiling it.
pub fn code(wasm: &[u8]) -> Result<Vec<u8>, ModuleError> {
    let mut code = Vec::with_capacity(wasm.len());
    feed_code(wasm, &mut |bytes| code.extend_from_slice(bytes))?;
    Ok(code)
}

fn feed_code(wasm: &[u8], feed: &mut impl FnMut(&[u8])) -> Result<(), ModuleError> {
    let sections = Sections::open(wasm, 0)?;
    feed(&wasm[..CORE_HEADER.len()]);
    for section in sections {
        let section = section?;
        if section.token_name()?.is_none() {
            feed(section.whole);
        }
    }
    Ok(())
}

fn canonical_hash(wasm: &[u8]) -> Result<[u8; 32], ModuleError> {
    let mut hasher = Sha256::new();
    feed_canonical(wasm, 0, 0, &mut |bytes| hasher.update(bytes))?;
    Ok(hasher.finish())
}

/// Rewrites a file in the canonical form: what signing tools put the token behind.
pub(super) fn canonical(wasm: &[u8]) -> Result<Vec<u8>, ModuleError> {
    let mut canonical = Vec::with_capacity(wasm.len());
    feed_canonical(wasm, 0, 0, &mut |bytes| canonical.extend_from_slice(bytes))?;
    Ok(canonical)
}

/// Appends a token to a file in the canonical form.
pub(super) fn append_token(wasm: &mut Vec<u8>, token: &str) {
    let (name_size, name_used) = shortest_leb128(SECTION_NEW.len());
    let (size, used) = shortest_leb128(name_used + SECTION_NEW.len() + token.len());
    let parts: [&[u8]; 5] = [
        &[SECTION_CUSTOM],
        &size[..used],
        &name_size[..name_used],
        SECTION_NEW.as_bytes(),
        token.as_bytes(),
    ];
    wasm.extend_from_slice(&parts.concat());
}

/// Feeds the canonical form of a module or component that begins at `base` of the file.
fn feed_canonical(
    wasm: &[u8],
    base: usize,
    depth: usize,
    feed: &mut dyn FnMut(&[u8]),
) -> Result<(), ModuleError> {
    let sections = Sections::open(wasm, base)?;
    let kind = sections.kind;
    feed(kind.header());
    for section in sections {
        let section = section?;
        if section.token_name()?.is_some() {
            continue;
        }
        if section.is_nested(kind) {
            // The size comes before the content, so nested sections are measured first and fed
            // then.
            let length = canonical_length(section.payload, section.payload_at, depth + 1)?;
            feed_head(section.id, length, feed);
            feed_canonical(section.payload, section.payload_at, depth + 1, feed)?;
        } else {
            feed_head(section.id, section.payload.len(), feed);
            feed(section.payload);
        }
    }
    Ok(())
}

/// Measures what [`feed_canonical`] would feed.
fn canonical_length(wasm: &[u8], base: usize, depth: usize) -> Result<usize, ModuleError> {
    if depth > DEPTH_MAX {
        return Err(ModuleError::TooDeep);
    }
    let sections = Sections::open(wasm, base)?;
    let kind = sections.kind;
    let mut total = kind.header().len();
    for section in sections {
        let section = section?;
        if section.token_name()?.is_some() {
            continue;
        }
        let length = if section.is_nested(kind) {
            canonical_length(section.payload, section.payload_at, depth + 1)?
        } else {
            section.payload.len()
        };
        total += 1 + shortest_leb128(length).1 + length;
    }
    Ok(total)
}

fn feed_head(id: u8, length: usize, feed: &mut dyn FnMut(&[u8])) {
    let (bytes, used) = shortest_leb128(length);
    feed(&[id]);
    feed(&bytes[..used]);
}

/// Encodes a number as LEB128; returns the bytes and how many of them are used.
fn shortest_leb128(mut number: usize) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut used = 0;
    loop {
        let low = (number & 0x7F) as u8;
        number >>= 7;
        bytes[used] = if number == 0 { low } else { low | 0x80 };
        used += 1;
        if number == 0 {
            return (bytes, used);
        }
    }
}

impl ModuleKind {
    fn header(self) -> &'static [u8; 8] {
        match self {
            Self::Core => &CORE_HEADER,
            Self::Component => &COMPONENT_HEADER,
        }
    }

    fn from_header(content: &[u8]) -> Result<Self, ModuleError> {
        let (Some(MAGIC), Some(&[v0, v1, l0, l1])) = (content.get(..4), content.get(4..8)) else {
            if wasm::is_precompiled(content) {
                return Err(ModuleError::Precompiled);
            }
            return Err(ModuleError::NotWasm);
        };
        let version = u16::from_le_bytes([v0, v1]);
        let layer = u16::from_le_bytes([l0, l1]);
        match (layer, version) {
            (0, 1) => Ok(Self::Core),
            (1, 0x0d) => Ok(Self::Component),
            (1, 0..0x0d) => Err(ModuleError::PreReleaseComponent(version)),
            _ => Err(ModuleError::UnknownVersion { version, layer }),
        }
    }
}

/// One section of a module or component.
pub(super) struct Section<'a> {
    pub(super) id: u8,
    /// Id, size and payload.
    whole: &'a [u8],
    pub(super) payload: &'a [u8],
    /// Where the payload begins in the file, for error texts.
    pub(super) payload_at: usize,
}

impl<'a> Section<'a> {
    pub(super) fn is_nested(&self, kind: ModuleKind) -> bool {
        kind == ModuleKind::Component
            && matches!(self.id, SECTION_NESTED_MODULE | SECTION_NESTED_COMPONENT)
    }

    /// Returns the name of a token section, none for all others.
    fn token_name(&self) -> Result<Option<&'static str>, ModuleError> {
        if self.id != SECTION_CUSTOM {
            return Ok(None);
        }
        let (name, _) = self.custom()?;
        Ok([SECTION_OLD, SECTION_NEW].into_iter().find(|token| token.as_bytes() == name))
    }

    /// Splits a custom section into name and content.
    fn custom(&self) -> Result<(&'a [u8], &'a [u8]), ModuleError> {
        let mut rest = Cursor { bytes: self.payload, at: 0, base: self.payload_at };
        let length = rest.leb128()?;
        let name = rest.take(length)?;
        Ok((name, &self.payload[rest.at..]))
    }
}

/// Walks over the sections of one module or component; ends after the first error.
pub(super) struct Sections<'a> {
    pub(super) kind: ModuleKind,
    cursor: Cursor<'a>,
}

impl<'a> Sections<'a> {
    pub(super) fn open(wasm: &'a [u8], base: usize) -> Result<Self, ModuleError> {
        let kind = ModuleKind::from_header(wasm)?;
        let cursor = Cursor { bytes: wasm, at: CORE_HEADER.len(), base };
        Ok(Self { kind, cursor })
    }

    fn read(&mut self) -> Result<Section<'a>, ModuleError> {
        let start = self.cursor.at;
        let id = self.cursor.byte()?;
        let length = self.cursor.leb128()?;
        let payload_at = self.cursor.base + self.cursor.at;
        let payload = self.cursor.take(length)?;
        Ok(Section { id, whole: &self.cursor.bytes[start..self.cursor.at], payload, payload_at })
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = Result<Section<'a>, ModuleError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.cursor.at >= self.cursor.bytes.len() {
            return None;
        }
        let section = self.read();
        if section.is_err() {
            self.cursor.at = self.cursor.bytes.len();
        }
        Some(section)
    }
}

/// A reading position; every step is checked against the end.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    base: usize,
}

impl<'a> Cursor<'a> {
    fn malformed(&self, reason: &'static str) -> ModuleError {
        ModuleError::Malformed { offset: self.base + self.at, reason }
    }

    fn byte(&mut self) -> Result<u8, ModuleError> {
        let byte = *self.bytes.get(self.at).ok_or_else(|| self.malformed("unexpected end"))?;
        self.at += 1;
        Ok(byte)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ModuleError> {
        let taken = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.get(..length))
            .ok_or_else(|| self.malformed("a size beyond the end"))?;
        self.at += length;
        Ok(taken)
    }

    /// Reads an unsigned 32-bit number of at most five bytes.
    fn leb128(&mut self) -> Result<usize, ModuleError> {
        let mut number = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(number)
                    .ok()
                    .and_then(|number| usize::try_from(number).ok())
                    .ok_or_else(|| self.malformed("a number too large"));
            }
        }
        Err(self.malformed("a number too long"))
    }
}

#[cfg(test)]
mod tests;
