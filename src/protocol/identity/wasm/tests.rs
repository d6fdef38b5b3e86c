use proptest::prelude::*;

use super::*;

fn component() -> Vec<u8> {
    wat::parse_str(
        r#"(component
             (import "wasi:http/outgoing-handler@0.2.10" (instance))
             (import "wasi:keyvalue/store@0.2.0-draft" (instance))
             (import "wasi:keyvalue/atomics@0.2.0-draft" (instance))
             (import "wasi:io/poll@0.2.12" (instance))
             (import "wasi:nn/tensor@0.2.0" (instance))
             (import "acme:own/thing@1.0.0" (instance))
             (core module)
             (instance $handler)
             (export "wasi:http/incoming-handler@0.2.10" (instance $handler))
             (export "exports" (instance $handler)))"#,
    )
    .unwrap()
}

fn caps(caps: &[&str]) -> Vec<String> {
    caps.iter().map(|cap| (*cap).to_owned()).collect()
}

#[test]
fn a_component_names_its_interfaces_and_thereby_its_contracts() {
    let info = inspect(&component()).unwrap();
    assert_eq!(info.kind, ModuleKind::Component);
    assert_eq!((info.imports.len(), info.exports.len()), (6, 2));
    assert_eq!(info.imports[3].name, "wasi:io/poll@0.2.12");
    assert_eq!(info.exports[0].kind, ExternKind::Instance);
    assert_eq!(
        info.contracts(),
        ["wasmcloud:keyvalue", "wasmcloud:httpclient", "wasmcloud:httpserver"]
    );
    assert!(info.unanswered().is_empty(), "imports of Python become traps");
}

#[test]
fn the_whole_list_of_what_is_missing_is_told() {
    let text = r#"(component
        (import "wasi:io/poll@0.2.3" (instance))
        (import "acme:pricing/api@1.0.0" (instance))
        (import "wasi:nn/tensor@0.2.0" (instance)))"#;
    let info = inspect(&wat::parse_str(text).unwrap()).unwrap();
    assert_eq!(
        info.unanswered(),
        ["acme:pricing/api@1.0.0", "wasi:nn/tensor@0.2.0 (no contract of a lattice stands for it)"]
    );
}

#[test]
fn an_import_without_its_capability_is_named_with_the_way_out() {
    let info = inspect(&component()).unwrap();
    info.check_signed_for(&caps(&["wasmcloud:keyvalue", "wasmcloud:httpclient"])).unwrap();
    let refused = info.check_signed_for(&caps(&["wasmcloud:httpserver"])).unwrap_err();
    let contracts: Vec<&str> = refused.missing.iter().map(|(contract, _)| *contract).collect();
    assert_eq!(contracts, ["wasmcloud:keyvalue", "wasmcloud:httpclient"]);
    let text = refused.to_string();
    for part in [
        "wasi:keyvalue/store@0.2.0-draft and wasi:keyvalue/atomics@0.2.0-draft (that is wasmcloud:keyvalue)",
        "`host claims sign FILE --cap wasmcloud:keyvalue --cap wasmcloud:httpclient`",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_core_module_says_nothing_about_contracts() {
    let wasm = wat::parse_str(
        r#"(module
             (import "wapc" "__host_call" (func (param i32)))
             (import "wasi:keyvalue/store@0.2.0-draft" "open" (func))
             (memory (export "memory") 1)
             (func (export "__guest_call")))"#,
    );
    let info = inspect(&wasm.unwrap()).unwrap();
    assert_eq!(info.kind, ModuleKind::Core);
    assert_eq!(info.imports[0].name, "wapc.__host_call");
    assert_eq!(info.exports[0], Extern { name: "memory".into(), kind: ExternKind::Memory });
    assert!(info.contracts().is_empty() && info.unanswered().is_empty());
    info.check_signed_for(&[]).unwrap();
}

#[test]
fn what_is_not_for_running_is_refused_by_its_name() {
    let package = wat::parse_str(
        r#"(component
             (type $world (component (export "acme:own/thing@1.0.0" (instance))))
             (export "thing" (type $world)))"#,
    );
    let cases: [(&[u8], &str, &str); 5] = [
        (&package.unwrap(), "WIT package", "wasm-tools component"),
        (b"\x7fELF\x02\x01\x01\xc8\0\0\0\0", ".cwasm", "the `.wasm` file it was compiled from"),
        (b"\0asm\x0a\0\x01\0", "0x0a", "wasm-tools component new"),
        (b"\0asm\x0c\0\x01\0", "0x0c", "wasm-tools component new"),
        (b"\x7fELF\x02\x01\x01\0\0\0\0\0", "not a WebAssembly file", "compiled and signed"),
    ];
    for (wasm, what, advice) in cases {
        let error = inspect(wasm).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(advice), "{error}");
    }
    // Nothing to call, but a component all the same.
    assert!(inspect(b"\0asm\x0d\0\x01\0").unwrap().is_component());
}

#[test]
fn names_without_end_and_counts_that_lie_are_refused() {
    let leb = |mut number: usize| {
        let mut bytes = Vec::new();
        while number > 0x7f {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    };
    let file = |payload: &[u8]| {
        [b"\0asm\x0d\0\x01\0\x0a".as_slice(), &leb(payload.len()), payload].concat()
    };
    // An instance import: mark, length, name, kind, type.
    let import = |name: &[u8]| [&[0], leb(name.len()).as_slice(), name, &[5, 0]].concat();
    let lying = [leb(900_000).as_slice(), &import(b"a")].concat();
    assert!(matches!(inspect(&file(&lying)), Err(ModuleError::Externs(_))));
    let long = [leb(1).as_slice(), &import(&[b'a'; NAME_BYTES_MAX + 1])].concat();
    assert!(matches!(inspect(&file(&long)), Err(ModuleError::TooManyExterns)));
    let many = [leb(EXTERNS_MAX + 1), import(b"a").repeat(EXTERNS_MAX + 1)].concat();
    assert!(matches!(inspect(&file(&many)), Err(ModuleError::TooManyExterns)));
    let enough = [leb(EXTERNS_MAX), import(b"a").repeat(EXTERNS_MAX)].concat();
    assert_eq!(inspect(&file(&enough)).unwrap().imports.len(), EXTERNS_MAX);
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>, id in 0u8..13, is_component: bool) {
        let header: &[u8] = if is_component { b"\0asm\x0d\0\x01\0" } else { b"\0asm\x01\0\0\0" };
        let size = u8::try_from(bytes.len() & 0x7f).unwrap();
        let content = &bytes[..usize::from(size)];
        for wasm in [bytes.clone(), [header, &bytes].concat(), [header, &[id, size], content].concat()] {
            if let Ok(info) = inspect(&wasm) {
                let _ = (info.contracts(), info.unanswered(), info.check_signed_for(&[]));
            }
        }
    }
}
