//! Puts together what components can import here, and makes traps of what nobody answers.

use wasmtime::{
    Engine, bail,
    component::{
        Component, Linker, LinkerInstance, ResourceType,
        types::{ComponentFunc, ComponentInstance, ComponentItem},
    },
};

use super::{Guest, blobstore, config, http, keyvalue, logging, messaging, secrets};
use lattice_protocol::{
    contracts::interfaces,
    identity::{WasmInfo, wasm::ExternKind},
};

/// Makes the linker of an engine, with everything that components can import.
pub fn new(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi::p3::add_to_linker(&mut linker)?;
    http::add_to_linker(&mut linker)?;
    keyvalue::add_to_linker(&mut linker)?;
    blobstore::add_to_linker(&mut linker)?;
    logging::add_to_linker(&mut linker)?;
    config::add_to_linker(&mut linker)?;
    messaging::add_to_linker(&mut linker)?;
    secrets::add_to_linker(&mut linker)?;
    Ok(linker)
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
            ComponentItem::ComponentInstance(instance) if interfaces::answered(name).is_some() => {
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
    use lattice_protocol::contracts::interfaces::{ANSWERED, Meaning};

    /// The names that the bridges give the linker.
    fn bridged() -> Vec<&'static str> {
        let names: [&[&str]; 7] = [
            &keyvalue::NAMES,
            &blobstore::NAMES,
            &logging::NAMES,
            &config::NAMES,
            &config::OTHERS,
            &secrets::NAMES,
            &messaging::NAMES,
        ];
        names.concat()
    }

    #[test]
    fn every_bridge_is_in_the_table_of_answered_imports() {
        for name in bridged() {
            assert!(interfaces::answered(name).is_some(), "{name} is bridged, and not in ANSWERED");
        }
    }

    #[test]
    fn the_linker_has_every_answered_import() {
        let mut config = wasmtime::Config::new();
        config.wasm_component_model_async(true);
        let mut linker = new(&Engine::new(&config).expect("an engine")).expect("a linker");
        // Interfaces of nothing but types need no definition.
        for row in ANSWERED.iter().filter(|row| row.meaning != Meaning::Types) {
            for (interface, version) in row
                .interfaces
                .iter()
                .flat_map(|interface| row.versions.iter().map(move |version| (interface, version)))
            {
                let path = format!("{}/{interface}", row.package);
                let is_there = match *version {
                    "" => is_defined(&mut linker, &path),
                    // The linker has one release of a line.
                    line if line.ends_with('.') => ["", "0.", "1."].iter().any(|minor| {
                        (0..32).any(|patch| {
                            is_defined(&mut linker, &format!("{path}@{line}{minor}{patch}"))
                        })
                    }),
                    draft => is_defined(&mut linker, &format!("{path}@{draft}")),
                };
                assert!(is_there, "{path}@{version} is in ANSWERED, and not in the linker");
            }
        }
    }

    /// A linker takes no name twice.
    fn is_defined(linker: &mut Linker<Guest>, name: &str) -> bool {
        linker.root().resource(name, ResourceType::host::<Stub>(), |_, _| Ok(())).is_err()
    }
}
