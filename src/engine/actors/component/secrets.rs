//! `wasmcloud:secrets`: a lattice keeps no secrets of actors yet, so every question for one is
//! answered with `not-found`; that a component imports it is no reason not to run it (components,
//! section 2.11).

use wasmtime::{
    StoreContextMut, bail,
    component::{
        Accessor, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType,
    },
};

use super::{Guest, drop_resource};

/// The names under which it is imported: with plain functions of 2024, and with asynchronous ones.
pub(super) const NAMES: [&str; 5] = [
    "wasmcloud:secrets/store@0.1.0-draft",
    "wasmcloud:secrets/reveal@0.1.0-draft",
    "wasmcloud:secrets/store@2.1.0",
    "wasmcloud:secrets/reveal@2.1.0",
    "wasmcloud:secrets/secret@2.1.0",
];

const NONE: &str = "the component asked for a secret, and hosts of this lattice keep none for it";

/// A secret, of which there is none.
struct Secret;

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum SecretsError {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
    #[component(name = "not-found")]
    NotFound,
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum SecretValue {
    #[component(name = "string")]
    String(String),
    #[component(name = "bytes")]
    Bytes(Vec<u8>),
}

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let [store, reveal, later_store, later_reveal, later_secret] = NAMES;
    let mut interface = linker.instance(store)?;
    add_secret(&mut interface)?;
    interface.func_wrap("get", |_: StoreContextMut<'_, Guest>, (_key,): (String,)| {
        Ok((Err::<Resource<Secret>, _>(SecretsError::NotFound),))
    })?;
    linker.instance(reveal)?.func_wrap(
        "reveal",
        |_: StoreContextMut<'_, Guest>,
         (_secret,): (Resource<Secret>,)|
         -> wasmtime::Result<(SecretValue,)> { bail!("{NONE}") },
    )?;
    let mut interface = linker.instance(later_store)?;
    add_secret(&mut interface)?;
    interface.func_wrap_concurrent("get", |_: &Accessor<Guest>, (_key,): (String,)| {
        Box::pin(async { Ok((Err::<Resource<Secret>, _>(SecretsError::NotFound),)) })
    })?;
    linker.instance(later_reveal)?.func_wrap_concurrent(
        "reveal",
        |_: &Accessor<Guest>, (_secret,): (Resource<Secret>,)| {
            Box::pin(async {
                wasmtime::Result::<(SecretValue,)>::Err(wasmtime::format_err!("{NONE}"))
            })
        },
    )?;
    linker.instance(later_secret)?.func_wrap_concurrent("get", |_: &Accessor<Guest>, (): ()| {
        Box::pin(async {
            wasmtime::Result::<(Resource<Secret>,)>::Err(wasmtime::format_err!("{NONE}"))
        })
    })
}

fn add_secret(interface: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    interface.resource("secret", ResourceType::host::<Secret>(), drop_resource::<Secret>)
}
