//! How much work it is to compile a module, found out without compiling it.
//!
//! A compiler keeps track of every local at every place where ways through a function meet, and of
//! every value that a block or a call takes or gives. So its work is not the size of a module: a
//! few bytes can stand for a thousand values, and a few megabytes for a minute of two cores.
//! [`Weight::of`] walks over the code, adds that up, and refuses what no compiler for actors emits.
//! Nothing here decides whether a module is valid; a part that cannot be read is left to the
//! compiler, which names it.
//!
//! | bound | real modules |
//! |---|---|
//! | [`BODY_BYTES_MAX`] | an interpreter's main loop: 100 KB |
//! | [`FUNCTION_STEPS_MAX`] | the same: 2 to 4 million; a web page in Rust: 17 million |
//! | [`CODE_BYTES_MAX`] | 25 MB of Go or Rust |
//! | [`STEPS_PER_BYTE`] over all | 5 to 10 |
//!
//! A first look takes every second byte for a place where ways meet. Only what is too heavy then is
//! read in full.

use wasmparser::{
    BlockType, Encoding, FunctionBody, Operator, OperatorsReader, Parser, Payload, TypeRef,
};

/// The largest body of a function.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of code that are compiled of one module at most.
const CODE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Values to keep track of in one function, summed over the places where its ways meet.
const FUNCTION_STEPS_MAX: u64 = 24_000_000;
/// The same in the whole module: so many, and so many more for each byte of code.
const STEPS_FREE: u64 = 32_000_000;
const STEPS_PER_BYTE: u64 = 16;
/// Code of this size takes seconds to compile.
const LARGE_BYTES: u64 = 4 * 1024 * 1024;
/// Limits of the other parts of a module, one for each kind. Compilers emit a tenth of this; only
/// of imports, Spin's Python has 1074.
const FUNCTIONS_MAX: u64 = 250_000;
const DECLARATIONS_MAX: u64 = 100_000;
const IMPORTS_MAX: u64 = 4000;
const ELEMENTS_MAX: u64 = 1_000_000;

/// Why a module is not compiled here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooHeavy {
    #[error(
        "function {index} has a body of {bytes} bytes, more than {BODY_BYTES_MAX}; split it, or compile with less inlining"
    )]
    Body { index: u64, bytes: usize },
    #[error(
        "function {index} has too many locals, branches or results (a weight of {steps}, more than {FUNCTION_STEPS_MAX}); split it, \
         or compile with optimisation"
    )]
    Function { index: u64, steps: u64 },
    #[error(
        "its code is too intricate to compile (a weight of {steps}, more than {max}); split its functions"
    )]
    Module { steps: u64, max: u64 },
    #[error("it has {count} {what}, more than {max}")]
    Count { what: &'static str, count: u64, max: u64 },
}

/// The work that compiling a module takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Bytes of code.
    pub code_bytes: u64,
    /// Values to keep track of, as far as they were counted.
    pub steps: u64,
}

impl Weight {
    /// Weighs a module: some milliseconds for some megabytes.
    pub fn of(wasm: &[u8]) -> Result<Self, TooHeavy> {
        let estimate = walk(wasm, Look::Estimate)?;
        let max = STEPS_FREE + STEPS_PER_BYTE * estimate.code_bytes;
        if estimate.steps <= max {
            return Ok(estimate);
        }
        let exact = walk(wasm, Look::Exact)?;
        if exact.steps > max {
            return Err(TooHeavy::Module { steps: exact.steps, max });
        }
        Ok(exact)
    }

    /// Says whether compiling it takes seconds.
    pub fn is_large(&self) -> bool {
        self.code_bytes > LARGE_BYTES || self.steps > STEPS_FREE
    }
}

/// How closely to look at functions.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// By their sizes, and at their instructions only where those do not settle it.
    Estimate,
    /// At every instruction.
    Exact,
}

/// Facts about the functions of a module that are known when their bodies come.
#[derive(Default)]
struct Signatures {
    /// Parameters and results of each type.
    arity_of_type: Vec<u64>,
    arity_max: u64,
    /// The type of each function, imported ones first.
    type_of_function: Vec<u32>,
    imported: usize,
}

impl Signatures {
    fn of_type(&self, index: u32) -> u64 {
        self.arity_of_type.get(index as usize).copied().unwrap_or(self.arity_max)
    }

    fn of_function(&self, index: u32) -> u64 {
        self.type_of_function.get(index as usize).map_or(self.arity_max, |ty| self.of_type(*ty))
    }

    fn of_block(&self, block: &BlockType) -> u64 {
        match block {
            BlockType::Empty => 0,
            BlockType::Type(_) => 1,
            BlockType::FuncType(index) => self.of_type(*index),
        }
    }
}

fn walk(wasm: &[u8], look: Look) -> Result<Weight, TooHeavy> {
    let (mut weight, mut known, mut bodies) = (Weight::default(), Signatures::default(), 0);
    // The walk ends at a part that cannot be read; the compiler says what is wrong with it.
    for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
        match payload {
            // Modules inside a component stand one after the other, each with its own numbers.
            Payload::Version { encoding: Encoding::Module, .. } => {
                (known, bodies) = (Signatures::default(), 0);
            }
            Payload::TypeSection(types) => {
                at_most("types", types.count().into(), DECLARATIONS_MAX)?;
                for ty in types.into_iter_err_on_gc_types().map_while(Result::ok) {
                    let arity = ty.params().len() as u64 + ty.results().len() as u64;
                    known.arity_max = known.arity_max.max(arity);
                    known.arity_of_type.push(arity);
                }
            }
            Payload::ImportSection(imports) => {
                at_most("imports", imports.count().into(), IMPORTS_MAX)?;
                for import in imports.into_imports().map_while(Result::ok) {
                    if let TypeRef::Func(ty) = import.ty {
                        known.type_of_function.push(ty);
                    }
                }
                known.imported = known.type_of_function.len();
            }
            Payload::FunctionSection(functions) => {
                at_most("functions", functions.count().into(), FUNCTIONS_MAX)?;
                known.type_of_function.extend(functions.into_iter().map_while(Result::ok));
            }
            Payload::GlobalSection(globals) => {
                at_most("globals", globals.count().into(), DECLARATIONS_MAX)?
            }
            Payload::ExportSection(exports) => {
                at_most("exports", exports.count().into(), DECLARATIONS_MAX)?
            }
            Payload::DataSection(data) => {
                at_most("data segments", data.count().into(), DECLARATIONS_MAX)?
            }
            Payload::ElementSection(elements) => {
                at_most("element segments", elements.count().into(), DECLARATIONS_MAX)?;
                // An element is a byte at least.
                at_most("bytes of elements", elements.range().len() as u64, 8 * ELEMENTS_MAX)?;
            }
            Payload::CodeSectionStart { size, .. } => {
                at_most("bytes of code", size.into(), CODE_BYTES_MAX)?
            }
            Payload::CodeSectionEntry(body) => {
                weight.code_bytes += body.range().len() as u64;
                weight.steps += steps_of(&body, (known.imported as u64) + bodies, &known, look)?;
                bodies += 1;
            }
            _ => {}
        }
    }
    Ok(weight)
}

fn at_most(what: &'static str, count: u64, max: u64) -> Result<(), TooHeavy> {
    if count > max { Err(TooHeavy::Count { what, count, max }) } else { Ok(()) }
}

/// The weight of one function.
fn steps_of(
    body: &FunctionBody<'_>,
    index: u64,
    known: &Signatures,
    look: Look,
) -> Result<u64, TooHeavy> {
    let bytes = body.range().len();
    if bytes > BODY_BYTES_MAX {
        return Err(TooHeavy::Body { index, bytes });
    }
    let own = known.of_function(u32::try_from(index).unwrap_or(u32::MAX));
    let locals = locals_of(body).saturating_add(own);
    // An instruction where ways meet, or that takes or gives many values, is two bytes at least; a
    // branch table has one each.
    let estimate = (locals + known.arity_max + 1).saturating_mul(bytes as u64);
    if look == Look::Estimate && estimate <= FUNCTION_STEPS_MAX {
        return Ok(estimate / 2);
    }
    let steps = exact_steps(body, locals, known);
    if steps > FUNCTION_STEPS_MAX {
        return Err(TooHeavy::Function { index, steps });
    }
    Ok(steps)
}

fn locals_of(body: &FunctionBody<'_>) -> u64 {
    let Ok(locals) = body.get_locals_reader() else { return 0 };
    locals.into_iter().map_while(Result::ok).map(|(count, _)| u64::from(count)).sum()
}

/// Adds up the values to keep track of, instruction by instruction.
fn exact_steps(body: &FunctionBody<'_>, locals: u64, known: &Signatures) -> u64 {
    let Ok(reader) = body.get_binary_reader_for_operators() else { return locals };
    let operators = OperatorsReader::new(reader);
    operators.into_iter().map_while(Result::ok).fold(locals, |steps, operator| {
        let more = match &operator {
            Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => {
                locals + known.of_block(blockty)
            }
            Operator::Else | Operator::Br { .. } | Operator::BrIf { .. } => locals,
            Operator::BrTable { targets } => locals.saturating_mul(u64::from(targets.len()) + 1),
            Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                known.of_function(*function_index)
            }
            Operator::CallIndirect { type_index, .. }
            | Operator::ReturnCallIndirect { type_index, .. } => known.of_type(*type_index),
            _ => 1,
        };
        steps.saturating_add(more)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weigh(wat: &str) -> Result<Weight, TooHeavy> {
        Weight::of(&wat::parse_str(wat).expect("valid text"))
    }

    /// A function with so many locals and so many branches.
    fn function(locals: usize, branches: usize) -> String {
        let (locals, branches) =
            ("i64 ".repeat(locals), "(block (br_if 0 (i32.const 1))) ".repeat(branches));
        format!("(func (local {locals}) {branches})")
    }

    #[test]
    fn modules_of_compilers_pass() {
        for name in ["echo", "dogs-and-cats", "kvcounter", "pantry"] {
            let path =
                format!("{}/../../examples/actors/signed/{name}.wasm", env!("CARGO_MANIFEST_DIR"));
            let weight =
                Weight::of(&std::fs::read(path).expect("an example")).expect("it is compiled");
            assert!(weight.code_bytes > 10_000, "{name}: {weight:?}");
        }
        // An interpreter's main loop, and a large program of ordinary functions.
        assert!(weigh(&format!("(module {})", function(400, 8000))).is_ok());
        assert!(weigh(&format!("(module {})", function(40, 50).repeat(1000))).is_ok());
    }

    /// So many functions of six bytes, each with so many locals.
    fn locals_only(functions: u32, locals: u32) -> Vec<u8> {
        let body = [&[1][..], &leb(locals), &[0x7e, 0x0b]].concat();
        let mut code = leb(functions);
        let types = [leb(functions), vec![0; functions as usize]].concat();
        for _ in 0..functions {
            code.extend(leb(body.len() as u32));
            code.extend(&body);
        }
        let mut module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0".to_vec();
        for (id, content) in [(3, types), (10, code)] {
            module.push(id);
            module.extend(leb(content.len() as u32));
            module.extend(content);
        }
        module
    }

    /// A number as WebAssembly counts.
    fn leb(mut number: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number >= 0x80 {
            bytes.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    }

    #[test]
    fn what_would_take_a_compiler_too_long_is_refused_by_name() {
        let table = format!(
            "(func (local {}) (block (br_table {} (i32.const 0))))",
            "i32 ".repeat(500),
            "0 ".repeat(100_000)
        );
        let calls = format!(
            "(func $f (result {}) unreachable) (func {} unreachable)",
            "i32 ".repeat(900),
            "(call $f) ".repeat(50_000)
        );
        for (module, reason) in [
            (format!("(module (func {}))", "(drop (i32.const 1)) ".repeat(350_000)), "has a body"),
            (format!("(module {})", function(2000, 10_000)), "too many locals"),
            (format!("(module {table})"), "too many locals"),
            (format!("(module {calls})"), "too many locals"),
            (format!("(module {})", "(global i32 (i32.const 0)) ".repeat(100_001)), "globals"),
            (format!("(module {})", "(func) ".repeat(250_001)), "functions"),
            (format!("(module {})", r#"(import "a" "b" (func)) "#.repeat(4001)), "imports"),
        ] {
            let refused = weigh(&module).expect_err(reason).to_string();
            assert!(refused.contains(reason), "{reason}: {refused}");
        }
        assert!(matches!(Weight::of(&locals_only(4000, 40_000)), Err(TooHeavy::Module { .. })));
        assert!(Weight::of(&locals_only(4000, 400)).is_ok());
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_compiler() {
        for bytes in [&b""[..], b"\0asm", b"\0asm\x01\0\0\0\x01\xff\xff\xff\xff\x0f", b"GIF89a"] {
            assert!(Weight::of(bytes).is_ok());
        }
    }
}
