//! Room that a guest's memory grows into without a system call.
//!
//! A guest's allocator asks for memory in its first call, and a fresh instance has no other. Each
//! time the kernel makes pages accessible, and inaccessible again when the slot of the pool is
//! given back; both times it locks the address space of the whole process and interrupts all cores
//! that run it. With [`with_room`], a memory begins with some pages more, which cost nothing until
//! they are touched. The guest does not see them: in its code, `memory.size` reads a global, and
//! `memory.grow` calls a function that moves this global as long as there is room, and grows the
//! memory after that.
//!
//! So sizes, growth, contents and limits are as before. Two things are not. An access past the end
//! of the memory does not trap in the room that is left, where it finds zeroes; the memory of
//! others is as far away as before. And an invalid module that names the global or the function
//! one past its last becomes valid, since that is there now: it does harm to none but itself.
//!
//! Measured with guests in Rust, 64 at a time: 17 µs for a fresh instance and its call without
//! room, 8 µs with it. Bounds checks in code, the other way to do without these system calls, come
//! to 8 µs too, but make loops over memory 3 to 60 % slower, and wasmtime has them only without its
//! measures against Spectre.
//!
//! A part that cannot be read is left to the compiler, which names it.

use std::borrow::Cow;

use wasm_encoder::{
    BlockType, CodeSection, Encode as _, Function, Instruction, MemorySection, RawSection,
    Section as _, ValType,
};
use wasmparser::{
    BinaryReader, CodeSectionReader, FunctionBody, GlobalSectionReader, ImportSectionReader,
    MemorySectionReader, Operator, Parser, TypeRef, TypeSectionReader,
};

/// Grows with each change of what [`with_room`] makes of a module.
pub const VERSION: u32 = 1;
/// The room of a memory, in pages of 64 KiB. Guests in Rust grow by one for a small call.
const ROOM_PAGES: u64 = 8;
const PAGE_BYTES: u64 = 64 * 1024;
/// Magic number and version.
const HEADER_BYTES: usize = 8;
/// Sections of a component that hold a module, or a component.
const INNER_MODULE: u8 = 1;
const INNER_COMPONENT: u8 = 4;
/// Sections of a module.
const TYPES: u8 = 1;
const IMPORTS: u8 = 2;
const FUNCTIONS: u8 = 3;
const MEMORIES: u8 = 5;
const GLOBALS: u8 = 6;
const CODE: u8 = 10;
/// Those that come after the globals.
const AFTER_GLOBALS: [u8; 5] = [7, 8, 9, 12, CODE];

/// Gives the memory of a module, or of the modules in a component, room to grow into, where there
/// is one that grows. No memory gets more than `memory_max_bytes`.
pub fn with_room(wasm: &[u8], memory_max_bytes: usize) -> Cow<'_, [u8]> {
    let pages_max = memory_max_bytes as u64 / PAGE_BYTES;
    let changed = if Parser::is_component(wasm) {
        if shares_growth(wasm) { None } else { component(wasm, pages_max) }
    } else {
        module(wasm, pages_max)
    };
    changed.map_or(Cow::Borrowed(wasm), Cow::Owned)
}

/// Says whether a module in a component may look at the size of a memory of another one, or grow
/// it: two of them cannot count by one global.
fn shares_growth(wasm: &[u8]) -> bool {
    sections(wasm).any(|(id, content)| match id {
        INNER_MODULE => Facts::of(content)
            .is_none_or(|facts| facts.imports_memory && facts.bodies.iter().any(may_size_or_grow)),
        INNER_COMPONENT => shares_growth(content),
        _ => false,
    })
}

fn component(wasm: &[u8], pages_max: u64) -> Option<Vec<u8>> {
    let mut changed = wasm.get(..HEADER_BYTES)?.to_vec();
    let mut is_changed = false;
    for (id, content) in sections(wasm) {
        let inner = match id {
            INNER_MODULE => module(content, pages_max),
            INNER_COMPONENT => component(content, pages_max),
            _ => None,
        };
        is_changed |= inner.is_some();
        section(&mut changed, id, inner.as_deref().unwrap_or(content));
    }
    is_changed.then_some(changed)
}

/// The sections of a module or component, up to one that cannot be read.
fn sections(wasm: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut reader = BinaryReader::new(wasm.get(HEADER_BYTES..).unwrap_or_default(), 0);
    std::iter::from_fn(move || {
        if reader.eof() {
            return None;
        }
        let (id, size) = (reader.read_u8().ok()?, reader.read_var_u32().ok()?);
        Some((id, reader.read_bytes(size as usize).ok()?))
    })
}

fn section(wasm: &mut Vec<u8>, id: u8, data: &[u8]) {
    RawSection { id, data }.append_to(wasm);
}

/// The parts of a module that tell whether and how its memory gets room.
#[derive(Default)]
struct Facts<'a> {
    types: u32,
    functions: u32,
    globals: u32,
    imports_memory: bool,
    /// Its only memory, if it is a usual one.
    memory: Option<wasmparser::MemoryType>,
    bodies: Vec<FunctionBody<'a>>,
}

impl<'a> Facts<'a> {
    fn of(wasm: &'a [u8]) -> Option<Self> {
        let mut facts = Self::default();
        for (id, content) in sections(wasm) {
            let reader = BinaryReader::new(content, 0);
            match id {
                TYPES => {
                    for group in TypeSectionReader::new(reader).ok()? {
                        facts.types += u32::try_from(group.ok()?.types().len()).ok()?;
                    }
                }
                IMPORTS => {
                    for import in ImportSectionReader::new(reader).ok()?.into_imports() {
                        match import.ok()?.ty {
                            TypeRef::Func(_) => facts.functions += 1,
                            TypeRef::Global(_) => facts.globals += 1,
                            TypeRef::Memory(_) => facts.imports_memory = true,
                            _ => {}
                        }
                    }
                }
                FUNCTIONS => facts.functions += count(content)?,
                GLOBALS => facts.globals += GlobalSectionReader::new(reader).ok()?.count(),
                MEMORIES => {
                    let memories = MemorySectionReader::new(reader).ok()?;
                    let is_only = memories.count() == 1 && !facts.imports_memory;
                    let first = memories.into_iter().next()?.ok()?;
                    let is_usual =
                        !first.memory64 && !first.shared && first.page_size_log2.is_none();
                    facts.memory = (is_only && is_usual).then_some(first);
                }
                CODE => {
                    let bodies = CodeSectionReader::new(reader).ok()?;
                    facts.bodies = bodies.into_iter().collect::<Result<_, _>>().ok()?;
                }
                _ => {}
            }
        }
        Some(facts)
    }

    /// The pages that the memory gets beyond those it begins with.
    fn room_pages(&self, pages_max: u64) -> Option<u64> {
        let memory = self.memory?;
        let pages_max = memory.maximum.map_or(pages_max, |maximum| maximum.min(pages_max));
        let room = pages_max.checked_sub(memory.initial)?.min(ROOM_PAGES);
        (room > 0).then_some(room)
    }
}

fn count(content: &[u8]) -> Option<u32> {
    BinaryReader::new(content, 0).read_var_u32().ok()
}

/// Says whether a body may have one of these instructions, which are a byte each and the number of
/// a memory, zero.
fn may_size_or_grow(body: &FunctionBody<'_>) -> bool {
    body.as_bytes().windows(2).any(|pair| matches!(pair, [0x3f | 0x40, 0 | 0x80]))
}

fn module(wasm: &[u8], pages_max: u64) -> Option<Vec<u8>> {
    let facts = Facts::of(wasm)?;
    let room = facts.room_pages(pages_max)?;
    let code = code(&facts)?;
    let initial = facts.memory?.initial;
    let mut changed = wasm.get(..HEADER_BYTES)?.to_vec();
    let mut has_globals = false;
    for (id, content) in sections(wasm) {
        if AFTER_GLOBALS.contains(&id) && !has_globals {
            has_globals = true;
            section(&mut changed, GLOBALS, &one_more(&[0], &size_global(initial))?);
        }
        match id {
            TYPES => section(&mut changed, id, &one_more(content, &GROW_TYPE)?),
            FUNCTIONS => section(&mut changed, id, &one_more(content, &encoded(facts.types))?),
            MEMORIES => memory(&facts.memory?, initial + room).append_to(&mut changed),
            GLOBALS => {
                has_globals = true;
                section(&mut changed, id, &one_more(content, &size_global(initial))?);
            }
            CODE => changed.extend_from_slice(&code),
            _ => section(&mut changed, id, content),
        }
    }
    Some(changed)
}

/// A type of functions: from pages to pages.
const GROW_TYPE: [u8; 5] = [0x60, 1, 0x7f, 1, 0x7f];

fn encoded(number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    number.encode(&mut bytes);
    bytes
}

/// Adds an entry to a section, which begins with their count.
fn one_more(content: &[u8], entry: &[u8]) -> Option<Vec<u8>> {
    let mut reader = BinaryReader::new(content, 0);
    let count = reader.read_var_u32().ok()?;
    let mut changed = encoded(count.checked_add(1)?);
    changed.extend_from_slice(reader.read_bytes(reader.bytes_remaining()).ok()?);
    changed.extend_from_slice(entry);
    Some(changed)
}

/// The global that has the size of the memory, in pages, as the guest sees it.
fn size_global(initial: u64) -> Vec<u8> {
    // Of type i32, mutable, and no more than 65536.
    let mut bytes = vec![0x7f, 1];
    Instruction::I32Const(initial as i32).encode(&mut bytes);
    Instruction::End.encode(&mut bytes);
    bytes
}

fn memory(of: &wasmparser::MemoryType, minimum: u64) -> MemorySection {
    let mut memories = MemorySection::new();
    memories.memory(wasm_encoder::MemoryType {
        minimum,
        maximum: of.maximum,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    memories
}

/// The code section with the instructions changed and the function that grows, or nothing if no
/// function grows the memory.
fn code(facts: &Facts<'_>) -> Option<Vec<u8>> {
    let (grow, size) = (facts.functions, facts.globals);
    let (mut code, mut grows) = (CodeSection::new(), false);
    for body in &facts.bodies {
        if may_size_or_grow(body) {
            let (changed, grows_here) = body_with(body, grow, size)?;
            grows |= grows_here;
            code.raw(&changed);
        } else {
            code.raw(body.as_bytes());
        }
    }
    code.function(&grow_function(size));
    let mut bytes = Vec::new();
    code.append_to(&mut bytes);
    grows.then_some(bytes)
}

/// A body whose memory is counted by the global `size` and grown by the function `grow`; and
/// whether it grows at all.
fn body_with(body: &FunctionBody<'_>, grow: u32, size: u32) -> Option<(Vec<u8>, bool)> {
    let bytes = body.as_bytes();
    let first = body.range().start;
    let (mut changed, mut copied, mut grows) = (Vec::with_capacity(bytes.len() + 16), 0, false);
    let mut operators = body.get_operators_reader().ok()?;
    while !operators.eof() {
        let (operator, at) = operators.read_with_offset().ok()?;
        let instead = match operator {
            Operator::MemorySize { mem: 0 } => Instruction::GlobalGet(size),
            Operator::MemoryGrow { mem: 0 } => Instruction::Call(grow),
            _ => continue,
        };
        grows |= matches!(instead, Instruction::Call(_));
        changed.extend_from_slice(&bytes[copied..at - first]);
        instead.encode(&mut changed);
        copied = operators.original_position() - first;
    }
    changed.extend_from_slice(&bytes[copied..]);
    Some((changed, grows))
}

/// `memory.grow` for a memory that has room: takes pages, returns the former size or -1.
fn grow_function(size: u32) -> Function {
    let (pages, before, after) = (0, 1, 2);
    let mut function = Function::new([(2, ValType::I32)]);
    let mut code = function.instructions();
    code.global_get(size).local_tee(before).local_get(pages).i32_add().local_tee(after);
    // More than there are numbers for.
    code.local_get(before).i32_lt_u().if_(BlockType::Empty).i32_const(-1).return_().end();
    code.local_get(after).memory_size(0).i32_gt_u().if_(BlockType::Empty);
    code.local_get(after).memory_size(0).i32_sub().memory_grow(0).i32_const(-1).i32_eq();
    code.if_(BlockType::Empty).i32_const(-1).return_().end().end();
    code.local_get(after).global_set(size).local_get(before).end();
    function
}

#[cfg(test)]
mod tests;
