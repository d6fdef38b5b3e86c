//! `wasi:blobstore@0.2.0-draft`: containers and their objects, `Blobstore.*`.
//!
//! An object is uploaded when its value is *finished*, whatever the order of `write-data` and the
//! bytes: guests of the wild do both. Until then it waits in memory, and beyond
//! [`spool::SPOOL_BYTES`], or when the guest has used up its share of memory, in a file; a value
//! that is dropped unfinished stores nothing. Only of a component that does not import `finish`,
//! and so cannot say it, a dropped value is stored ([`Dropped`]).
//!
//! A download is read by ranges: the provider would send what does not fit its first answer to the
//! actor in further calls. So no range is longer than what an answer was seen to hold, and further
//! calls are cancelled.

mod objects;
mod spool;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use wasmtime::{
    StoreContextMut,
    component::{
        Component, ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType,
    },
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

use super::{
    Guest, Level,
    caller::{Caller, Holding, caller},
    drop_resource, linker,
};
use objects::{Container, Incoming, Names, Outgoing, Place, Reading, seconds};
use spool::{Spooled, Writing};

/// The names under which it is imported.
pub(super) const NAMES: [&str; 3] = [
    "wasi:blobstore/types@0.2.0-draft",
    "wasi:blobstore/container@0.2.0-draft",
    "wasi:blobstore/blobstore@0.2.0-draft",
];

const FINISH: &str = "[static]outgoing-value.finish";

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct ContainerInfo {
    name: String,
    #[component(name = "created-at")]
    created_at: u64,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct ObjectInfo {
    name: String,
    container: String,
    #[component(name = "created-at")]
    created_at: u64,
    size: u64,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct ObjectId {
    container: String,
    object: String,
}

/// The fate of a value that a component drops without `finish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dropped {
    /// It is abandoned, as the interface wants it.
    Lost,
    /// It is stored: the component has no other way to say that it is complete. Those that were
    /// built against the interface of 2023 are such.
    Stored,
}

impl Dropped {
    pub fn of(component: &Component) -> Self {
        match linker::imports_function(component, NAMES[0], FINISH) {
            true => Self::Lost,
            false => Self::Stored,
        }
    }
}

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let [types, container, blobstore] = NAMES;
    let mut values = linker.instance(types)?;
    add_outgoing_value(&mut values)?;
    add_incoming_value(&mut values)?;
    let mut interface = linker.instance(container)?;
    add_container(&mut interface)?;
    add_names(&mut interface)?;
    add_store(&mut linker.instance(blobstore)?)
}

fn add_outgoing_value(types: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    types.resource_async(
        "outgoing-value",
        ResourceType::host::<Outgoing>(),
        |mut store: StoreContextMut<'_, Guest>, rep| {
            let caller = caller(&mut store);
            let guest = store.data_mut();
            let taken = guest.table.delete(Resource::<Outgoing>::new_own(rep));
            let (sink, dropped) = (Arc::clone(&guest.sink), guest.dropped);
            Box::new(async move {
                let (value, caller) = (taken?, caller?);
                if dropped == Dropped::Lost || value.place.is_none() {
                    return Ok(());
                }
                if let Err(text) = objects::finish(&caller, value).await? {
                    // A guest hears no error of a value that it drops.
                    sink.note(Level::Warn, &format!("a dropped value is not stored: {text}"));
                }
                Ok(())
            })
        },
    )?;
    types.func_wrap(
        "[static]outgoing-value.new-outgoing-value",
        |mut store: StoreContextMut<'_, Guest>, (): ()| {
            Ok((store.data_mut().table.push(Outgoing::default())?,))
        },
    )?;
    types.func_wrap(
        "[method]outgoing-value.outgoing-value-write-body",
        |mut store: StoreContextMut<'_, Guest>, (value,): (Resource<Outgoing>,)| {
            let caller = caller(&mut store)?;
            let table = &mut store.data_mut().table;
            let value = table.get_mut(&value)?;
            if value.spool.is_some() {
                return Ok((Err(()),));
            }
            let spool = Spooled::new(&caller);
            value.spool = Some(Arc::clone(&spool));
            let stream: DynOutputStream = Box::new(Writing(spool));
            Ok((Ok(table.push(stream)?),))
        },
    )?;
    types.func_wrap_async(
        FINISH,
        |mut store: StoreContextMut<'_, Guest>, (value,): (Resource<Outgoing>,)| {
            let caller = caller(&mut store);
            let taken = store.data_mut().table.delete(value);
            Box::new(async move { Ok((objects::finish(&caller?, taken?).await?,)) })
        },
    )
}

fn add_incoming_value(types: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    types.resource(
        "incoming-value",
        ResourceType::host::<Incoming>(),
        drop_resource::<Incoming>,
    )?;
    types.func_wrap(
        "[method]incoming-value.size",
        |store: StoreContextMut<'_, Guest>, (value,): (Resource<Incoming>,)| {
            Ok((store.data().table.get(&value)?.length,))
        },
    )?;
    types.func_wrap_async(
        "[static]incoming-value.incoming-value-consume-sync",
        |mut store: StoreContextMut<'_, Guest>, (value,): (Resource<Incoming>,)| {
            let caller = caller(&mut store);
            let taken = store.data_mut().table.delete(value);
            Box::new(async move { Ok((taken?.all(&caller?).await?,)) })
        },
    )?;
    types.func_wrap(
        "[static]incoming-value.incoming-value-consume-async",
        |mut store: StoreContextMut<'_, Guest>, (value,): (Resource<Incoming>,)| {
            let caller = caller(&mut store)?;
            let guest = store.data_mut();
            let incoming = guest.table.delete(value)?;
            let stream: DynInputStream = Box::new(Reading::new(caller, incoming));
            Ok((Ok::<_, String>(guest.table.push(stream)?),))
        },
    )
}

/// Adds a method of a container that calls out.
macro_rules! on_container {
    (
        $interface:expr, $name:expr,
        |$caller:ident, $container:ident $(, $arg:ident: $ty:ty)*| $body:expr
    ) => {
        $interface.func_wrap_async(
            $name,
            |mut store: StoreContextMut<'_, Guest>,
             (container, $($arg,)*): (Resource<Container>, $($ty,)*)| {
                let caller = caller(&mut store);
                let found = store.data().table.get(&container).map(Container::clone);
                Box::new(async move {
                    let ($caller, $container) = (caller?, found?);
                    Ok(($body,))
                })
            },
        )
    };
}

fn add_container(interface: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    interface.resource(
        "container",
        ResourceType::host::<Container>(),
        drop_resource::<Container>,
    )?;
    interface.func_wrap(
        "[method]container.name",
        |store: StoreContextMut<'_, Guest>, (container,): (Resource<Container>,)| {
            Ok((Ok::<_, String>(store.data().table.get(&container)?.name.clone()),))
        },
    )?;
    on_container!(interface, "[method]container.info", |caller, container| {
        let info = objects::container_info(&caller, &container).await?;
        info.map(|info| ContainerInfo {
            name: info.container_id,
            created_at: seconds(info.created_at),
        })
    })?;
    on_container!(
        interface,
        "[method]container.delete-object",
        |caller, container, name: String| {
            objects::remove_objects(&caller, &container, vec![name]).await?
        }
    )?;
    on_container!(
        interface,
        "[method]container.delete-objects",
        |caller, container, names: Vec<String>| {
            objects::remove_objects(&caller, &container, names).await?
        }
    )?;
    on_container!(interface, "[method]container.has-object", |caller, container, name: String| {
        objects::object_exists(&caller, &Place::in_container(&container, name)).await?
    })?;
    on_container!(
        interface,
        "[method]container.object-info",
        |caller, container, name: String| {
            let info =
                objects::object_info(&caller, &Place::in_container(&container, name)).await?;
            info.map(|info| ObjectInfo {
                name: info.object_id,
                container: info.container_id,
                created_at: seconds(info.last_modified),
                size: info.content_length,
            })
        }
    )?;
    on_container!(interface, "[method]container.clear", |caller, container| {
        objects::clear(&caller, container).await?
    })?;
    add_data(interface)
}

fn add_data(interface: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    interface.func_wrap_async(
        "[method]container.get-data",
        |mut store: StoreContextMut<'_, Guest>,
         (container, name, start, end): (Resource<Container>, String, u64, u64)| {
            Box::new(async move {
                let caller = caller(&mut store)?;
                let place = Place::in_container(store.data().table.get(&container)?, name);
                let incoming = match objects::get_data(&caller, place, start, end).await? {
                    Ok(incoming) => incoming,
                    Err(text) => return Ok((Err(text),)),
                };
                Ok((Ok(store.data_mut().table.push(incoming)?),))
            })
        },
    )?;
    interface.func_wrap(
        "[method]container.write-data",
        |mut store: StoreContextMut<'_, Guest>,
         (container, name, value): (Resource<Container>, String, Resource<Outgoing>)| {
            let table = &mut store.data_mut().table;
            let place = Place::in_container(table.get(&container)?, name);
            table.get_mut(&value)?.place = Some(place);
            Ok((Ok::<(), String>(()),))
        },
    )
}

fn add_names(interface: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    interface.resource(
        "stream-object-names",
        ResourceType::host::<Names>(),
        drop_resource::<Names>,
    )?;
    interface.func_wrap(
        "[method]container.list-objects",
        |mut store: StoreContextMut<'_, Guest>, (container,): (Resource<Container>,)| {
            let table = &mut store.data_mut().table;
            let names = Names::of(table.get(&container)?.clone());
            Ok((Ok::<_, String>(table.push(names)?),))
        },
    )?;
    interface.func_wrap_async(
        "[method]stream-object-names.read-stream-object-names",
        |mut store: StoreContextMut<'_, Guest>, (names, count): (Resource<Names>, u64)| {
            Box::new(async move {
                let caller = caller(&mut store)?;
                Ok((store.data_mut().table.get_mut(&names)?.read(&caller, count).await?,))
            })
        },
    )?;
    interface.func_wrap_async(
        "[method]stream-object-names.skip-stream-object-names",
        |mut store: StoreContextMut<'_, Guest>, (names, count): (Resource<Names>, u64)| {
            Box::new(async move {
                let caller = caller(&mut store)?;
                let read = store.data_mut().table.get_mut(&names)?.read(&caller, count).await?;
                Ok((read.map(|(names, is_end)| (names.len() as u64, is_end)),))
            })
        },
    )
}

/// Adds a function that makes a container of a name.
macro_rules! on_name {
    ($interface:expr, $name:expr, $make:path) => {
        $interface.func_wrap_async(
            $name,
            |mut store: StoreContextMut<'_, Guest>, (name,): (String,)| {
                Box::new(async move {
                    let caller = caller(&mut store)?;
                    match $make(&caller, name).await? {
                        Ok(container) => Ok((Ok(store.data_mut().table.push(container)?),)),
                        Err(text) => Ok((Err::<Resource<Container>, String>(text),)),
                    }
                })
            },
        )
    };
}

fn add_store(interface: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    on_name!(interface, "create-container", objects::create_container)?;
    on_name!(interface, "get-container", objects::get_container)?;
    interface.func_wrap_async(
        "delete-container",
        |mut store: StoreContextMut<'_, Guest>, (name,): (String,)| {
            let caller = caller(&mut store);
            Box::new(async move { Ok((objects::delete_container(&caller?, name).await?,)) })
        },
    )?;
    interface.func_wrap_async(
        "container-exists",
        |mut store: StoreContextMut<'_, Guest>, (name,): (String,)| {
            let caller = caller(&mut store);
            Box::new(async move { Ok((objects::container_exists(&caller?, &name).await?,)) })
        },
    )?;
    interface.func_wrap_async(
        "copy-object",
        |mut store: StoreContextMut<'_, Guest>, (from, to): (ObjectId, ObjectId)| {
            let caller = caller(&mut store);
            Box::new(async move { Ok((objects::copy_object(&caller?, &from, to).await?,)) })
        },
    )?;
    interface.func_wrap_async(
        "move-object",
        |mut store: StoreContextMut<'_, Guest>, (from, to): (ObjectId, ObjectId)| {
            let caller = caller(&mut store);
            Box::new(async move { Ok((objects::move_object(&caller?, from, to).await?,)) })
        },
    )
}
