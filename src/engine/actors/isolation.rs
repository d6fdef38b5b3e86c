//! No byte that a call leaves behind is seen by the next one: in pools of one slot, where every
//! instance gets the memory and the tables of the one before.

use std::path::PathBuf;

use wasmtime::{Linker, Memory, Module, Store};

use super::{
    engine::{Engine, Settings},
    room::with_room,
    weight::Weight,
};

const MEMORY_MAX_BYTES: usize = 4 * 1024 * 1024;
const POISON: u8 = 0xa5;

fn engine() -> Engine {
    let settings = Settings {
        slots: Some(1),
        memory_max_bytes: MEMORY_MAX_BYTES,
        cache_dir: None,
        sharing: None,
    };
    Engine::new(settings).expect("an engine").0
}

/// An instance of a guest that answers no imports.
struct Instance {
    store: Store<()>,
    instance: wasmtime::Instance,
}

impl Instance {
    fn new(module: &Module) -> Self {
        let mut linker = Linker::new(module.engine());
        linker.define_unknown_imports_as_traps(module).expect("its imports are functions");
        let mut store = Store::new(module.engine(), ());
        store.set_epoch_deadline(1 << 40);
        let instance = linker.instantiate(&mut store, module).expect("it starts");
        Self { store, instance }
    }

    fn memory(&mut self) -> Memory {
        self.instance
            .exports(&mut self.store)
            .find_map(wasmtime::Export::into_memory)
            .expect("a memory")
    }

    fn bytes(&mut self) -> Vec<u8> {
        let memory = self.memory();
        memory.data(&self.store).to_vec()
    }

    /// Fills its memory, and again after it was grown to so many bytes or as far as it can be.
    fn poison(&mut self, bytes: usize) {
        let memory = self.memory();
        memory.data_mut(&mut self.store).fill(POISON);
        while memory.data_size(&self.store) < bytes && memory.grow(&mut self.store, 1).is_ok() {}
        memory.data_mut(&mut self.store).fill(POISON);
    }

    fn call(&mut self, name: &str) -> wasmtime::Result<i32> {
        let function = self.instance.get_typed_func::<(), i32>(&mut self.store, name)?;
        function.call(&mut self.store, ())
    }
}

/// The guests of this repository, with the names of their files.
pub(super) fn guest_files() -> Vec<(String, Vec<u8>)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut guests = Vec::new();
    for dir in ["examples/actors/signed", "tests/bench"] {
        for file in std::fs::read_dir(root.join(dir)).expect("a directory").flatten() {
            let path = file.path();
            if path.extension().is_some_and(|extension| extension == "wasm") {
                guests.push((path.display().to_string(), std::fs::read(&path).expect("a file")));
            }
        }
    }
    guests
}

/// The guests that are modules, and the modules with a memory inside of components.
fn guests() -> Vec<(String, Vec<u8>, bool)> {
    let mut guests = Vec::new();
    for (name, wasm) in guest_files() {
        match wasmparser::Parser::is_component(&wasm) {
            true => guests.extend(inside(&wasm).map(|module| (name.clone(), module, true))),
            false => guests.push((name, wasm, false)),
        }
    }
    assert!(guests.iter().filter(|(.., is_inside)| *is_inside).count() >= 2);
    assert!(guests.len() >= 11);
    guests
}

/// The modules of a component that have a memory.
fn inside(component: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let changed = with_room(component, MEMORY_MAX_BYTES).into_owned();
    let payloads = wasmparser::Parser::new(0).parse_all(&changed).map_while(Result::ok);
    let modules: Vec<Vec<u8>> = payloads
        .filter_map(|payload| match payload {
            wasmparser::Payload::ModuleSection { unchecked_range, .. } => {
                Some(changed[unchecked_range].to_vec())
            }
            _ => None,
        })
        .filter(|module| {
            let mut payloads = wasmparser::Parser::new(0).parse_all(module).map_while(Result::ok);
            payloads.any(|payload| matches!(payload, wasmparser::Payload::MemorySection(_)))
        })
        .collect();
    modules.into_iter()
}

/// Compiles guests for the pools of one host.
fn compiled(engine: &Engine, guests: &[(String, Vec<u8>, bool)]) -> Vec<Module> {
    let weight = Weight::default();
    let empty = wat::parse_str("(component)").expect("valid text");
    let components = engine.compile_component(&empty, &weight).expect("it compiles");
    let compile = |(name, wasm, is_inside): &(String, Vec<u8>, bool)| {
        let module = match is_inside {
            true => Module::new(components.component.engine(), wasm),
            false => engine.compile(wasm, &weight),
        };
        module.unwrap_or_else(|error| panic!("{name}: {error:#}"))
    };
    guests.iter().map(compile).collect()
}

#[test]
fn every_guest_finds_its_memory_as_if_it_was_the_first() {
    let guests = guests();
    let first: Vec<Vec<u8>> =
        compiled(&engine(), &guests).iter().map(|module| Instance::new(module).bytes()).collect();
    let modules = compiled(&engine(), &guests);
    for (poisoner, (by, ..)) in modules.iter().zip(&guests) {
        for ((module, (name, ..)), first) in modules.iter().zip(&guests).zip(&first) {
            for grown_bytes in [0, MEMORY_MAX_BYTES] {
                Instance::new(poisoner).poison(grown_bytes);
                let found = Instance::new(module).bytes();
                assert!(found == *first, "{name} after {by}, which had {grown_bytes} bytes");
            }
        }
    }
}

/// Fills its memory, globals and tables; the memory and a table are grown to their maximum before.
/// It traps at the end, or returns the size of its memory.
const POISONER: &str = r#"(module
  (memory (export "memory") 2)
  (data (i32.const 100) "secret")
  (global $number (mut i64) (i64.const 0))
  (table $fixed 600 600 funcref)
  (table $growing 10 5000 funcref)
  (func $secret)
  (elem declare func $secret)
  (func $fill
    (memory.fill (i32.const 0) (i32.const 0xa5) (i32.mul (memory.size) (i32.const 65536)))
    (global.set $number (i64.const -1))
    (table.fill $fixed (i32.const 0) (ref.func $secret) (i32.const 600))
    (table.fill $growing (i32.const 0) (ref.func $secret) (table.size $growing)))
  (func (export "fill") (result i32)
    (call $fill) (memory.size))
  (func (export "fill_all") (result i32)
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
    (drop (table.grow $growing (ref.func $secret) (i32.const 4990)))
    (call $fill) (memory.size))
  (func (export "trap") (result i32)
    (call $fill) (drop (memory.grow (i32.const 5))) (call $fill) unreachable)
  (func (export "out_of_bounds") (result i32)
    (call $fill) (i32.load (i32.const -4))))"#;

/// Looks at all of its memory, grown to the maximum, its globals and tables, and counts what it
/// did not put there.
const READER: &str = r#"(module
  (memory (export "memory") MEMORY)
  (data (i32.const 4) "\01\02\03\04")
  (global $number (mut i64) (i64.const 7))
  (table $fixed 600 600 funcref)
  (table $growing 10 5000 funcref)
  (func (export "read") (result i32) (local $at i32) (local $found i32) (local $end i32)
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
    (drop (table.grow $growing (ref.null func) (i32.const 4990)))
    (local.set $found (i64.ne (global.get $number) (i64.const 7)))
    (local.set $end (i32.mul (memory.size) (i32.const 65536)))
    (loop $bytes
      (if (i32.ne
            (i32.load (local.get $at))
            (select (i32.const 0x04030201) (i32.const 0) (i32.eq (local.get $at) (i32.const 4))))
        (then (local.set $found (i32.add (local.get $found) (i32.const 1)))))
      (local.set $at (i32.add (local.get $at) (i32.const 4)))
      (br_if $bytes (i32.lt_u (local.get $at) (local.get $end))))
    (local.set $at (i32.const 0))
    (loop $elements
      (if (i32.lt_u (local.get $at) (i32.const 600))
        (then (if (i32.eqz (ref.is_null (table.get $fixed (local.get $at))))
          (then (local.set $found (i32.add (local.get $found) (i32.const 1)))))))
      (if (i32.eqz (ref.is_null (table.get $growing (local.get $at))))
        (then (local.set $found (i32.add (local.get $found) (i32.const 1)))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $elements (i32.lt_u (local.get $at) (i32.const 5000))))
    (local.get $found)))"#;

#[test]
fn a_fresh_instance_finds_nothing_in_memory_globals_and_tables() {
    let engine = engine();
    let compile = |text: &str| {
        let wasm = wat::parse_str(text).expect("valid text");
        engine.compile(&wasm, &Weight::default()).expect("it compiles")
    };
    let poisoner = compile(POISONER);
    let readers = ["1", "2", "40", "1 64"].map(|memory| (memory, READER.replace("MEMORY", memory)));
    for (memory, text) in readers {
        let reader = compile(&text);
        for (poison, ends) in [
            ("fill", Ok(2)),
            ("fill_all", Ok(MEMORY_MAX_BYTES as i32 / 65536)),
            ("trap", Err("unreachable")),
            ("out_of_bounds", Err("out of bounds memory access")),
        ] {
            let ended = Instance::new(&poisoner).call(poison);
            match (ended, ends) {
                (Ok(pages), Ok(expected)) => assert_eq!(pages, expected, "{poison}"),
                (Err(error), Err(expected)) => {
                    assert!(format!("{error:#}").contains(expected), "{poison}: {error:#}");
                }
                (ended, _) => panic!("{poison}: {ended:?}"),
            }
            let found = Instance::new(&reader).call("read").expect("it reads");
            assert_eq!(found, 0, "a memory of {memory} after {poison}");
        }
    }
}
