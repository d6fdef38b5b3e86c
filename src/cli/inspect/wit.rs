//! Prints the world of a component as WIT text: its imports and its exports with their functions
//! and types.
//!
//! Nothing is verified here, so it tells of unsigned files too: a developer wants to know what a
//! toolchain has made. The file may still be anything. Its outermost sections are looked at with
//! our limits first, then it is validated as a whole, and a fault of the decoder is an error like
//! all others.

use std::panic::{AssertUnwindSafe, catch_unwind};

use wit_component::{DecodedWasm, Output as _, WitPrinter};

use lattice_protocol::identity::{
    module::{ModuleError, is_wasm},
    wasm,
};

/// Why no world is printed.
#[derive(Debug, thiserror::Error)]
pub enum WitError {
    #[error("it is no WebAssembly file, and only components have a world")]
    NotWasm,
    #[error(
        "it is a core module, and only components have a world; look at its claims without --wit, or make a component of it with \
         `wasm-tools component new`"
    )]
    CoreModule,
    #[error(transparent)]
    Unreadable(#[from] ModuleError),
    #[error("it is no valid component: {0}; build it again")]
    Invalid(String),
}

/// Returns the world of a component, and after it the packages it takes interfaces from.
///
/// Validates all of the file: call it off the async threads where that matters.
pub fn world(content: &[u8]) -> Result<String, WitError> {
    if !is_wasm(content) {
        return Err(WitError::NotWasm);
    }
    if wasm::inspect_component(content)?.is_none() {
        return Err(WitError::CoreModule);
    }
    // The decoder asserts what its own encoder keeps to; a file of somebody else need not.
    match catch_unwind(AssertUnwindSafe(|| decoded(content))) {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => Err(WitError::Invalid(format!("{error:#}"))),
        Err(_) => Err(WitError::Invalid("its types cannot be told".to_owned())),
    }
}

fn decoded(content: &[u8]) -> anyhow::Result<String> {
    let decoded: DecodedWasm = wit_component::decode(content)?;
    let (resolve, own) = (decoded.resolve(), decoded.package());
    let mut printer = WitPrinter::default();
    printer.print_package(resolve, own, true)?;
    for (other, _) in resolve.packages.iter().filter(|(id, _)| *id != own) {
        printer.output.newline();
        printer.print_package(resolve, other, false)?;
    }
    Ok(printer.output.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"(component
        (type $kinds (instance
            (type $point (record (field "x" u32) (field "y" string)))
            (export "point" (type $exported (eq $point)))
            (type $move (func (param "to" $exported) (result $exported)))
            (export "move" (func (type $move)))))
        (import "acme:board/moves@0.1.0" (instance (type $kinds)))
        (core module $code (func (export "twice") (param i32) (result i32) (local.get 0)))
        (core instance $code (instantiate $code))
        (func $twice (param "of" u32) (result u32) (canon lift (core func $code "twice")))
        (export "twice" (func $twice)))"#;

    fn sample() -> Vec<u8> {
        wat::parse_str(SAMPLE).unwrap()
    }

    #[test]
    fn a_world_has_imports_and_exports_with_functions_and_types() {
        let text = world(&sample()).unwrap();
        for part in [
            "import acme:board/moves@0.1.0;",
            "export twice: func(of: u32) -> u32;",
            "move: func(to: point) -> point;",
            "record point {",
            "y: string,",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn what_has_no_world_is_told_with_the_next_step() {
        assert!(matches!(world(b"text"), Err(WitError::NotWasm)));
        let error = world(b"\0asm\x01\0\0\0").unwrap_err();
        assert!(matches!(error, WitError::CoreModule));
        assert!(error.to_string().contains("wasm-tools component new"), "{error}");
    }

    #[test]
    fn no_beginning_and_no_change_of_a_component_ends_in_a_panic() {
        let whole = sample();
        for end in 9..whole.len() {
            // Cut between two sections it is a smaller component.
            let _ = world(&whole[..end]);
        }
        for at in 0..whole.len() {
            for mask in [1, 2, 4, 0x10, 0x40, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] ^= mask;
                let _ = world(&changed);
            }
        }
        assert!(world(&whole[..whole.len() - 3]).is_err());
    }
}
