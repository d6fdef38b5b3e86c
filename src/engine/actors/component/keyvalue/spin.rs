//! Spin's key-value stores of its second and third generation. A label is the name of a link; the
//! functions of the third generation are asynchronous, so several calls of one instance can wait.

use std::{
    future,
    pin::Pin,
    task::{Context, Poll},
    vec,
};

use wasmtime::{
    StoreContextMut,
    component::{
        Accessor, ComponentType, Destination, FutureReader, Lift, Linker, LinkerInstance, Lower,
        Resource, ResourceType, StreamProducer, StreamReader, StreamResult, VecBuffer,
    },
};

use super::{Bucket, Guest, Holding, Open, StoreError, drop_resource, on_bucket, open};

pub(in super::super) const SECOND: &str = "fermyon:spin/key-value@2.0.0";
pub(in super::super) const THIRD: &str = "spin:key-value/key-value@3.0.0";

/// Keys that leave a stream at once.
const KEYS_AT_ONCE: usize = 100;

/// Why an operation failed, with one case more than others have, and it is the first one.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
enum SpinError {
    #[component(name = "store-table-full")]
    StoreTableFull,
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

impl From<StoreError> for SpinError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSuchStore => Self::NoSuchStore,
            StoreError::AccessDenied => Self::AccessDenied,
            StoreError::Other(text) => Self::Other(text),
        }
    }
}

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    add_second(&mut linker.instance(SECOND)?)?;
    add_third(&mut linker.instance(THIRD)?)
}

fn add_second(spin: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    spin.resource("store", ResourceType::host::<Bucket>(), drop_resource::<Bucket>)?;
    spin.func_wrap(
        "[static]store.open",
        |mut store: StoreContextMut<'_, Guest>, (label,): (String,)| {
            Ok((open(&mut store, label)?.map_err(SpinError::from),))
        },
    )?;
    on_bucket!(spin, "[method]store.get", |bucket, key: String| {
        bucket.get(&key).await?.map_err(SpinError::from)
    })?;
    on_bucket!(spin, "[method]store.set", |bucket, key: String, value: Vec<u8>| {
        bucket.set(key, value).await?.map_err(SpinError::from)
    })?;
    on_bucket!(spin, "[method]store.delete", |bucket, key: String| {
        bucket.delete(&key).await?.map_err(SpinError::from)
    })?;
    on_bucket!(spin, "[method]store.exists", |bucket, key: String| {
        bucket.exists(&key).await?.map_err(SpinError::from)
    })?;
    on_bucket!(spin, "[method]store.get-keys", |bucket| {
        bucket.all_keys().await?.map(|(keys, _)| keys).map_err(SpinError::from)
    })
}

/// Adds an asynchronous function whose first parameter is a store.
macro_rules! on_store {
    ($interface:expr, $name:expr, |$bucket:ident $(, $arg:ident: $ty:ty)*| $body:expr) => {
        $interface.func_wrap_concurrent(
            $name,
            |accessor: &Accessor<Guest>, (store, $($arg,)*): (Resource<Bucket>, $($ty,)*)| {
                Box::pin(async move {
                    let $bucket = accessor.with(|mut access| Open::of(&mut access, &store))?;
                    Ok(($body,))
                })
            },
        )
    };
}

fn add_third(spin: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    spin.resource("store", ResourceType::host::<Bucket>(), drop_resource::<Bucket>)?;
    spin.func_wrap_concurrent(
        "[static]store.open",
        |accessor: &Accessor<Guest>, (label,): (String,)| {
            Box::pin(async move {
                let opened = accessor.with(|mut access| open(&mut access, label))?;
                Ok((opened.map_err(SpinError::from),))
            })
        },
    )?;
    on_store!(spin, "[method]store.get", |bucket, key: String| {
        bucket.get(&key).await?.map_err(SpinError::from)
    })?;
    on_store!(spin, "[method]store.set", |bucket, key: String, value: Vec<u8>| {
        bucket.set(key, value).await?.map_err(SpinError::from)
    })?;
    on_store!(spin, "[method]store.delete", |bucket, key: String| {
        bucket.delete(&key).await?.map_err(SpinError::from)
    })?;
    on_store!(spin, "[method]store.exists", |bucket, key: String| {
        bucket.exists(&key).await?.map_err(SpinError::from)
    })?;
    spin.func_wrap_concurrent(
        "[method]store.get-keys",
        |accessor: &Accessor<Guest>, (store,): (Resource<Bucket>,)| {
            Box::pin(async move {
                let bucket = accessor.with(|mut access| Open::of(&mut access, &store))?;
                let (keys, end) = match bucket.all_keys().await? {
                    Ok((keys, held)) => {
                        (KeyStream { left: keys.into_iter(), _held: Some(held) }, Ok(()))
                    }
                    Err(error) => (KeyStream::default(), Err(SpinError::from(error))),
                };
                accessor.with(|mut access| {
                    let keys = StreamReader::new(&mut access, keys)?;
                    let end = future::ready::<wasmtime::Result<_>>(Ok(end));
                    let end = FutureReader::new(&mut access, end)?;
                    Ok(((keys, end),))
                })
            })
        },
    )
}

/// Keys that a guest reads as a stream; the host holds them for it until they are read.
#[derive(Default)]
struct KeyStream {
    left: vec::IntoIter<String>,
    _held: Option<Holding>,
}

impl StreamProducer<Guest> for KeyStream {
    type Item = String;
    type Buffer = VecBuffer<String>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: StoreContextMut<'a, Guest>,
        mut destination: Destination<'a, String, VecBuffer<String>>,
        _: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let next: Vec<String> = self.left.by_ref().take(KEYS_AT_ONCE).collect();
        destination.set_buffer(next.into());
        Poll::Ready(Ok(match self.left.len() {
            0 => StreamResult::Dropped,
            _ => StreamResult::Completed,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_meaning_though_their_numbers_differ() {
        for (error, expected) in [
            (StoreError::NoSuchStore, SpinError::NoSuchStore),
            (StoreError::AccessDenied, SpinError::AccessDenied),
            (StoreError::Other("why".into()), SpinError::Other("why".into())),
        ] {
            assert_eq!(SpinError::from(error), expected);
        }
    }
}
