use wasmtime::{Engine, Instance, Module, Store};

use super::{super::isolation::guest_files, *};

const MEMORY_MAX_BYTES: usize = 64 * 64 * 1024;

/// The calls of a guest: growth by so many pages, and the size after that.
fn calls(wasm: &[u8], growths: &[u32]) -> Vec<(i32, i32)> {
    let engine = Engine::default();
    let module = Module::new(&engine, wasm).expect("it is valid");
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).expect("it starts");
    let grow = instance.get_typed_func::<u32, (i32, i32)>(&mut store, "grow").expect("exported");
    growths.iter().map(|pages| grow.call(&mut store, *pages).expect("no trap")).collect()
}

fn guest(memory: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
          (memory (export "memory") {memory})
          (func $other (param i64))
          (func (export "grow") (param $pages i32) (result i32 i32)
            (block) (memory.grow (local.get $pages)) (call $size))
          (func $size (result i32) (call $other (i64.const 64)) (memory.size)))"#
    );
    wat::parse_str(text).expect("valid text")
}

#[test]
fn sizes_and_growth_are_those_of_a_memory_without_room() {
    let growths = [0, 1, 2, u32::MAX, 3, 4, 65_535, 1, 20, 65_536, 1];
    for memory in ["0", "1", "1 1", "1 3", "2 9", "3 20", "0 65536", "17"] {
        let plain = guest(memory);
        let changed = with_room(&plain, MEMORY_MAX_BYTES);
        assert_eq!(calls(&plain, &growths), calls(&changed, &growths), "{memory}");
    }
}

/// The pages that the memory of a module begins with.
fn initial(wasm: &[u8]) -> u64 {
    Facts::of(wasm).and_then(|facts| facts.memory).expect("a memory").initial
}

#[test]
fn a_memory_gets_room_up_to_its_maximum_and_the_limit_of_memory() {
    for (memory, pages_max, pages) in [
        ("1", 64, 1 + ROOM_PAGES),
        ("1 3", 64, 3),
        ("1 1", 64, 1),
        ("2", 4, 4),
        ("4", 4, 4),
        ("9", 4, 9),
    ] {
        let changed = guest(memory);
        let changed = with_room(&changed, pages_max * 64 * 1024);
        assert_eq!(initial(&changed), pages, "{memory} of {pages_max}");
    }
}

#[test]
fn the_room_of_a_memory_is_empty_and_its_contents_are_in_place() {
    let text = r#"(module
      (global $own (mut i32) (i32.const 5))
      (memory (export "memory") 1)
      (data (i32.const 65530) "abcdef")
      (func (export "grow") (param i32) (result i32 i32)
        (drop (memory.grow (i32.const 1)))
        (i32.load8_u (i32.add (local.get 0) (i32.const 65530)))
        (global.get $own)))"#;
    let plain = wat::parse_str(text).expect("valid text");
    let changed = with_room(&plain, MEMORY_MAX_BYTES);
    assert_eq!(initial(&changed), 1 + ROOM_PAGES);
    assert_eq!(calls(&changed, &[0, 5, 6]), [(97, 5), (102, 5), (0, 5)]);
}

#[test]
fn what_does_not_grow_a_memory_of_its_own_stays_as_it_is() {
    for text in [
        "(module)",
        "(module (memory 1))",
        "(module (memory 1) (func (result i32) (memory.size)))",
        r#"(module (import "a" "m" (memory 1)) (func (result i32) (memory.grow (i32.const 1))))"#,
        "(module (memory 1 2 shared) (func (result i32) (memory.grow (i32.const 1))))",
        "(module (memory i64 1) (func (result i64) (memory.grow (i64.const 1))))",
        "(module (memory 1) (memory 1) (func (result i32) (memory.grow (i32.const 1))))",
        "(component (core module (memory 1)))",
        r#"(component
          (core module (memory 1) (func (result i32) (memory.grow (i32.const 1))))
          (component (core module
            (import "a" "m" (memory 1)) (func (result i32) (memory.size)))))"#,
    ] {
        let wasm = wat::parse_str(text).expect("valid text");
        assert!(matches!(with_room(&wasm, MEMORY_MAX_BYTES), Cow::Borrowed(_)), "{text}");
    }
    for wasm in [&b""[..], b"\0asm", b"\0asm\x01\0\0\0\x0a", b"<!DOCTYPE html>"] {
        assert!(matches!(with_room(wasm, MEMORY_MAX_BYTES), Cow::Borrowed(_)), "{wasm:?}");
    }
}

#[test]
fn modules_inside_of_components_get_room() {
    let text = r#"(component (component
      (core module (memory 1) (func (result i32) (memory.grow (i32.const 1))))))"#;
    let wasm = wat::parse_str(text).expect("valid text");
    let changed = with_room(&wasm, MEMORY_MAX_BYTES);
    wasmparser::validate(&changed).expect("it is valid");
    let inner = |wasm: &[u8], id| {
        sections(wasm).find(|(found, _)| *found == id).expect("it is inside").1.to_vec()
    };
    assert_eq!(initial(&inner(&inner(&changed, INNER_COMPONENT), INNER_MODULE)), 1 + ROOM_PAGES);
}

#[test]
fn guests_of_real_toolchains_are_valid_with_room() {
    let guests = guest_files();
    for (name, wasm) in &guests {
        let changed = with_room(wasm, MEMORY_MAX_BYTES);
        assert!(matches!(changed, Cow::Owned(_)), "{name}");
        wasmparser::validate(&changed).expect("it is valid");
    }
    assert!(guests.len() >= 11, "{}", guests.len());
}

#[test]
fn with_any_byte_changed_what_is_valid_stays_so_and_the_rest_is_left_to_the_compiler() {
    let component = wat::parse_str(
        "(component (core module (memory 1) (func (result i32) (memory.grow (i32.const 1)))))",
    );
    for plain in [guest("1 9"), component.expect("valid text")] {
        for (at, byte) in (0..plain.len()).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte)))
        {
            let mut wasm = plain.clone();
            wasm[at] = byte;
            let changed = with_room(&wasm, MEMORY_MAX_BYTES);
            if wasmparser::validate(&wasm).is_ok() {
                let invalid = wasmparser::validate(&changed).err();
                assert!(invalid.is_none(), "byte {at} is {byte}: {invalid:?}");
            }
        }
    }
}
