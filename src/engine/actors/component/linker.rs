//! Puts together what components can import here, and finds what they cannot.

use std::collections::HashMap;

use wasmtime::{
    Engine, bail,
    component::{
        Component, Linker, LinkerInstance, ResourceType,
        types::{ComponentFunc, ComponentInstance, ComponentItem},
    },
};

use super::{Guest, blobstore, config, keyvalue, logging, messaging, secrets};
use lattice_protocol::{
    contracts::interfaces::PYTHON_INITIALISER,
    identity::{WasmInfo, wasm::ExternKind},
};

/// Interfaces of the base that have releases: each stands for its line of versions.
const RELEASED: [&str; 52] = [
    "wasi:io/poll@0.2.12",
    "wasi:io/error@0.2.12",
    "wasi:io/streams@0.2.12",
    "wasi:clocks/wall-clock@0.2.12",
    "wasi:clocks/monotonic-clock@0.2.12",
    "wasi:random/random@0.2.12",
    "wasi:random/insecure@0.2.12",
    "wasi:random/insecure-seed@0.2.12",
    "wasi:cli/exit@0.2.12",
    "wasi:cli/environment@0.2.12",
    "wasi:cli/stdin@0.2.12",
    "wasi:cli/stdout@0.2.12",
    "wasi:cli/stderr@0.2.12",
    "wasi:cli/terminal-input@0.2.12",
    "wasi:cli/terminal-output@0.2.12",
    "wasi:cli/terminal-stdin@0.2.12",
    "wasi:cli/terminal-stdout@0.2.12",
    "wasi:cli/terminal-stderr@0.2.12",
    "wasi:filesystem/types@0.2.12",
    "wasi:filesystem/preopens@0.2.12",
    "wasi:sockets/tcp@0.2.12",
    "wasi:sockets/tcp-create-socket@0.2.12",
    "wasi:sockets/udp@0.2.12",
    "wasi:sockets/udp-create-socket@0.2.12",
    "wasi:sockets/instance-network@0.2.12",
    "wasi:sockets/network@0.2.12",
    "wasi:sockets/ip-name-lookup@0.2.12",
    "wasi:http/types@0.2.12",
    "wasi:http/outgoing-handler@0.2.12",
    "wasi:cli/environment@0.3.0",
    "wasi:cli/exit@0.3.0",
    "wasi:cli/stdin@0.3.0",
    "wasi:cli/stdout@0.3.0",
    "wasi:cli/stderr@0.3.0",
    "wasi:cli/types@0.3.0",
    "wasi:clocks/monotonic-clock@0.3.0",
    "wasi:clocks/system-clock@0.3.0",
    "wasi:clocks/types@0.3.0",
    "wasi:filesystem/types@0.3.0",
    "wasi:filesystem/preopens@0.3.0",
    "wasi:random/random@0.3.0",
    "wasi:random/insecure@0.3.0",
    "wasi:random/insecure-seed@0.3.0",
    "wasi:http/types@0.3.0",
    "wasi:http/client@0.3.0",
    "wasi:cli/terminal-input@0.3.0",
    "wasi:cli/terminal-output@0.3.0",
    "wasi:cli/terminal-stdin@0.3.0",
    "wasi:cli/terminal-stdout@0.3.0",
    "wasi:cli/terminal-stderr@0.3.0",
    "wasi:sockets/types@0.3.0",
    "wasi:sockets/ip-name-lookup@0.3.0",
];

/// Makes the linker of an engine, with everything that components can import.
pub fn new(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    keyvalue::add_to_linker(&mut linker)?;
    blobstore::add_to_linker(&mut linker)?;
    logging::add_to_linker(&mut linker)?;
    config::add_to_linker(&mut linker)?;
    messaging::add_to_linker(&mut linker)?;
    secrets::add_to_linker(&mut linker)?;
    Ok(linker)
}

fn served() -> impl Iterator<Item = &'static str> {
    RELEASED
        .into_iter()
        .chain(keyvalue::NAMES)
        .chain(blobstore::NAMES)
        .chain(logging::NAMES)
        .chain(config::NAMES)
        .chain(config::OTHERS)
        .chain(secrets::NAMES)
        .chain(messaging::NAMES)
}

/// Says whether an import is answered here, by the rules of names (components, section 3.5).
fn is_served(name: &str) -> bool {
    let line = track(name);
    served().any(|served| served == name || (line.is_some() && line == track(served)))
}

/// The part of a name that versions which stand for each other share; `None` of drafts and others
/// that are only themselves.
fn track(name: &str) -> Option<(&str, &str)> {
    let (path, version) = name.split_once('@')?;
    let version = version.split_once('+').map_or(version, |(version, _)| version);
    if version.contains('-') {
        return None;
    }
    let mut numbers = version.split('.');
    let (major, minor) = (numbers.next()?, numbers.next()?);
    match (major, minor) {
        ("0", "0") => None,
        ("0", minor) => Some((path, &version[.."0.".len() + minor.len()])),
        (major, _) => Some((path, major)),
    }
}

/// Returns the imports that nothing answers, each with the reason where one is known. Components
/// that componentize-py made import whatever their SDK knows, used or not; of those everything is
/// let in that can be made a trap.
pub fn unserved(info: &WasmInfo) -> Vec<String> {
    let reasons: HashMap<&str, &str> = info.unserved().into_iter().collect();
    let missing = info.imports.iter().filter(|import| {
        let can_be_stubbed = is_python(info) && import.kind == ExternKind::Instance;
        import.kind != ExternKind::Type && !can_be_stubbed && !is_served(&import.name)
    });
    let worded = missing.map(|import| match reasons.get(&*import.name) {
        Some(why) => format!("{} ({why})", import.name),
        None => import.name.clone(),
    });
    worded.collect()
}

/// Says whether componentize-py made a component: it exports its initialiser.
pub fn is_python(info: &WasmInfo) -> bool {
    info.exports.iter().any(|export| export.name == PYTHON_INITIALISER)
}

/// Returns the imports that are whole programs or values: nothing can stand in for them.
pub fn impossible(info: &WasmInfo) -> Vec<String> {
    let is_impossible =
        |kind| matches!(kind, ExternKind::Module | ExternKind::Component | ExternKind::Value);
    let found = info.imports.iter().filter(|import| is_impossible(import.kind));
    found.map(|import| format!("{} (a {})", import.name, import.kind.word())).collect()
}

/// Says whether a component imports a function of an interface.
pub fn imports_function(component: &Component, interface: &str, function: &str) -> bool {
    let (engine, imported) = (component.engine(), component.component_type());
    imported.imports(engine).any(|(name, import)| match import.ty {
        ComponentItem::ComponentInstance(instance) if name == interface => {
            instance.exports(engine).any(|(name, _)| name == function)
        }
        _ => false,
    })
}

/// Stands for a resource that nothing here has.
struct Stub;

/// Makes functions that nothing answers traps that say so.
pub fn stub_unserved(linker: &mut Linker<Guest>, component: &Component) -> wasmtime::Result<()> {
    let (engine, imported) = (component.engine(), component.component_type());
    let mut unserved = Vec::new();
    // Interfaces name each other's resources; one that is known needs no definition.
    let mut known = Vec::new();
    for (name, import) in imported.imports(engine) {
        match import.ty {
            ComponentItem::ComponentInstance(instance) if is_served(name) => {
                known.extend(instance.exports(engine).filter_map(|(_, export)| match export.ty {
                    ComponentItem::Resource(resource) => Some(resource),
                    _ => None,
                }));
            }
            ComponentItem::ComponentInstance(instance) => unserved.push((name, instance)),
            ComponentItem::ComponentFunc(function) => {
                stub_function(&mut linker.root(), "the program it was built for", name, &function)?;
            }
            _ => {}
        }
    }
    for (name, instance) in unserved {
        stub(&mut linker.instance(name)?, engine, (name, &instance), &mut known)?;
    }
    Ok(())
}

fn stub(
    linker: &mut LinkerInstance<'_, Guest>,
    engine: &Engine,
    (interface, instance): (&str, &ComponentInstance),
    known: &mut Vec<ResourceType>,
) -> wasmtime::Result<()> {
    for (name, export) in instance.exports(engine) {
        match export.ty {
            ComponentItem::Resource(resource) if !known.contains(&resource) => {
                linker.resource(name, ResourceType::host::<Stub>(), |_, _| Ok(()))?;
                known.push(resource);
            }
            ComponentItem::ComponentFunc(function) => {
                stub_function(linker, interface, name, &function)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn stub_function(
    linker: &mut LinkerInstance<'_, Guest>,
    interface: &str,
    name: &str,
    function: &ComponentFunc,
) -> wasmtime::Result<()> {
    let text = format!("the component called {name} of {interface}, which no actor host offers");
    if function.async_() {
        return linker.func_new_concurrent(name, move |_, _, _, _| {
            let text = text.clone();
            Box::pin(async move { bail!("{text}") })
        });
    }
    linker.func_new(name, move |_, _, _, _| bail!("{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_stand_for_their_line_and_drafts_for_themselves() {
        for name in [
            "wasi:io/poll@0.2.0",
            "wasi:io/poll@0.2.99",
            "wasi:http/types@0.2.10",
            "wasi:http/client@0.3.1",
            "wasi:keyvalue/store@0.2.0-draft",
            "wasi:logging/logging",
        ] {
            assert!(is_served(name), "{name}");
        }
        for name in [
            "wasi:io/poll@0.3.0",
            "wasi:io/poll@0.2.0-rc-2023-11-10",
            "wasi:keyvalue/store@0.2.0",
            "wasi:keyvalue/store@0.2.0-draft3",
            "wasmcloud:example/cron@0.0.1",
            "hello",
        ] {
            assert!(!is_served(name), "{name}");
        }
    }

    #[test]
    fn the_whole_list_of_what_is_missing_is_told() {
        let text = r#"(component
            (import "wasi:io/poll@0.2.3" (instance))
            (import "acme:pricing/api@1.0.0" (instance))
            (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" (instance)))"#;
        let wasm = wat::parse_str(text).expect("valid text");
        let info = lattice_protocol::identity::wasm::inspect(&wasm).expect("a component");
        let missing = unserved(&info);
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(missing[0].starts_with("acme:pricing/api@1.0.0"));
    }
}
