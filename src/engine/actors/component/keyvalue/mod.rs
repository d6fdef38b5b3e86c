//! `wasi:keyvalue` in its two drafts, and Spin's key-value stores: `KeyValue.*`.
//!
//! Drafts differ in types, not in meaning, so there is one implementation, [`Open`], with an entry
//! for each. The contract knows texts and 32 bit counters, and neither lists keys nor compares and
//! swaps: what does not fit is an error that says so, unless the link leads to the built-in
//! provider, which has operations for it.
//!
//! * [`open`] performs the operations on a bucket; [`spin`] has the entries for Spin.

mod open;
mod spin;

use wasmtime::{
    AsContextMut, StoreContextMut,
    component::{ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType},
};

use super::{
    Guest,
    caller::{Caller, Holding, caller},
    drop_resource, is_default,
};
use crate::router::LinkEnd;
use lattice_protocol::contracts::keyvalue::CONTRACT_ID;
use open::{Cas, Open, Outcome, Swapped, other};

const FIRST: &str = "0.2.0-draft";
const SECOND: &str = "0.2.0-draft2";
/// The names under which it is imported, which a test of the linker holds to the table of them.
#[cfg(test)]
pub(super) const NAMES: [&str; 8] = [
    "wasi:keyvalue/store@0.2.0-draft",
    "wasi:keyvalue/atomics@0.2.0-draft",
    "wasi:keyvalue/batch@0.2.0-draft",
    "wasi:keyvalue/store@0.2.0-draft2",
    "wasi:keyvalue/atomics@0.2.0-draft2",
    "wasi:keyvalue/batch@0.2.0-draft2",
    spin::SECOND,
    spin::THIRD,
];

/// Pages of keys that a bucket remembers for cursors that are numbers.
const PAGES_MAX: usize = 10_000;

/// A bucket of a guest: a link of its actor.
struct Bucket {
    /// Empty stands for the default link.
    link_name: String,
    /// The last keys of the pages that were listed: the first draft has numbers for cursors.
    pages: Vec<String>,
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift, Lower)]
#[component(variant)]
enum StoreError {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
enum CasError {
    #[component(name = "store-error")]
    Store(StoreError),
    #[component(name = "cas-failed")]
    Failed(Resource<Cas>),
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct KeysByNumber {
    keys: Vec<String>,
    cursor: Option<u64>,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct KeysByText {
    keys: Vec<String>,
    cursor: Option<String>,
}

/// Opens the bucket of a name: the link of that name, or the default link.
fn open(
    store: &mut impl AsContextMut<Data = Guest>,
    name: String,
) -> wasmtime::Result<Outcome<Resource<Bucket>>> {
    let link_name = match is_default(&name) {
        true => String::new(),
        false if caller(store)?.link_end(CONTRACT_ID, &name) != LinkEnd::None => name,
        false => return Ok(Err(StoreError::NoSuchStore)),
    };
    Ok(Ok(store.as_context_mut().data_mut().table.push(Bucket { link_name, pages: Vec::new() })?))
}

/// Adds a function whose first parameter is a bucket.
macro_rules! on_bucket {
    ($interface:expr, $name:expr, |$bucket:ident $(, $arg:ident: $ty:ty)*| $body:expr) => {
        $interface.func_wrap_async(
            $name,
            |mut store: StoreContextMut<'_, Guest>,
             (bucket, $($arg,)*): (Resource<Bucket>, $($ty,)*)| {
                let opened = Open::of(&mut store, &bucket);
                Box::new(async move {
                    let $bucket = opened?;
                    Ok(($body,))
                })
            },
        )
    };
}
use on_bucket;

pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    for version in [FIRST, SECOND] {
        let mut store = linker.instance(&format!("wasi:keyvalue/store@{version}"))?;
        add_store(&mut store)?;
        let mut batch = linker.instance(&format!("wasi:keyvalue/batch@{version}"))?;
        on_bucket!(batch, "set-many", |bucket, entries: Vec<(String, Vec<u8>)>| {
            bucket.set_many(entries).await?
        })?;
        on_bucket!(batch, "delete-many", |bucket, keys: Vec<String>| {
            bucket.delete_many(keys).await?
        })?;
    }
    add_first(linker)?;
    add_second(linker)?;
    spin::add_to_linker(linker)
}

fn add_store(store: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    store.resource("bucket", ResourceType::host::<Bucket>(), drop_resource::<Bucket>)?;
    store.func_wrap("open", |mut store: StoreContextMut<'_, Guest>, (name,): (String,)| {
        Ok((open(&mut store, name)?,))
    })?;
    on_bucket!(store, "[method]bucket.get", |bucket, key: String| bucket.get(&key).await?)?;
    on_bucket!(store, "[method]bucket.set", |bucket, key: String, value: Vec<u8>| {
        bucket.set(key, value).await?
    })?;
    on_bucket!(store, "[method]bucket.delete", |bucket, key: String| {
        bucket.delete(&key).await?
    })?;
    on_bucket!(store, "[method]bucket.exists", |bucket, key: String| { bucket.exists(&key).await? })
}

/// The functions that only the first draft has in this form.
fn add_first(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance(&format!("wasi:keyvalue/store@{FIRST}"))?.func_wrap_async(
        "[method]bucket.list-keys",
        |store: StoreContextMut<'_, Guest>, (bucket, cursor): (Resource<Bucket>, Option<u64>)| {
            Box::new(async move { Ok((keys_by_number(store, &bucket, cursor).await?,)) })
        },
    )?;
    let mut batch = linker.instance(&format!("wasi:keyvalue/batch@{FIRST}"))?;
    on_bucket!(batch, "get-many", |bucket, keys: Vec<String>| {
        bucket.get_many(keys).await?.map(|found| {
            found
                .into_iter()
                .map(|(key, value)| value.map(|value| (key, value)))
                .collect::<Vec<Option<(String, Vec<u8>)>>>()
        })
    })?;
    let mut atomics = linker.instance(&format!("wasi:keyvalue/atomics@{FIRST}"))?;
    on_bucket!(atomics, "increment", |bucket, key: String, delta: u64| {
        bucket.increment(key, delta.into()).await?.and_then(unsigned)
    })
}

fn unsigned(count: i32) -> Outcome<u64> {
    u64::try_from(count).map_err(|_| {
        StoreError::Other(format!("the counter stands at {count}, below what this draft can tell"))
    })
}

/// Lists keys after a number that the page before ended with.
async fn keys_by_number(
    mut store: StoreContextMut<'_, Guest>,
    bucket: &Resource<Bucket>,
    cursor: Option<u64>,
) -> wasmtime::Result<Outcome<KeysByNumber>> {
    let opened = Open::of(&mut store, bucket)?;
    let pages = &store.data_mut().table.get(bucket)?.pages;
    let after = match cursor.map(|cursor| page_before(pages, cursor)).transpose() {
        Ok(after) => after,
        Err(error) => return Ok(Err(error)),
    };
    let listed = match opened.keys(after).await? {
        Ok(listed) => listed,
        Err(error) => return Ok(Err(error)),
    };
    let last = listed.keys.last().filter(|_| listed.more).cloned();
    let pages = &mut store.data_mut().table.get_mut(bucket)?.pages;
    Ok(number_page(pages, last).map(|cursor| KeysByNumber { keys: listed.keys, cursor }))
}

fn page_before(pages: &[String], cursor: u64) -> Outcome<String> {
    let at = usize::try_from(cursor).ok().and_then(|cursor| cursor.checked_sub(1));
    let page = at.and_then(|at| pages.get(at)).cloned();
    page.ok_or_else(|| other(format!("no page of this bucket ended with the cursor {cursor}")))
}

/// Remembers the last key of a page that another one follows; returns its number.
fn number_page(pages: &mut Vec<String>, last: Option<String>) -> Outcome<Option<u64>> {
    let Some(last) = last else { return Ok(None) };
    let at = pages.iter().position(|known| *known == last).unwrap_or(pages.len());
    if at == PAGES_MAX {
        return Err(other(format!("the bucket has more than {PAGES_MAX} pages of keys")));
    }
    if at == pages.len() {
        pages.push(last);
    }
    Ok(Some(at as u64 + 1))
}

/// The functions that only the second draft has in this form.
fn add_second(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut store = linker.instance(&format!("wasi:keyvalue/store@{SECOND}"))?;
    on_bucket!(store, "[method]bucket.list-keys", |bucket, cursor: Option<String>| {
        bucket.keys(cursor).await?.map(|listed| {
            let cursor = listed.keys.last().filter(|_| listed.more).cloned();
            KeysByText { keys: listed.keys, cursor }
        })
    })?;
    let mut batch = linker.instance(&format!("wasi:keyvalue/batch@{SECOND}"))?;
    on_bucket!(batch, "get-many", |bucket, keys: Vec<String>| bucket.get_many(keys).await?)?;
    let mut atomics = linker.instance(&format!("wasi:keyvalue/atomics@{SECOND}"))?;
    on_bucket!(atomics, "increment", |bucket, key: String, delta: i64| {
        bucket.increment(key, delta.into()).await?.map(i64::from)
    })?;
    add_swap(&mut atomics)
}

fn add_swap(atomics: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    atomics.resource("cas", ResourceType::host::<Cas>(), drop_resource::<Cas>)?;
    atomics.func_wrap_async(
        "[static]cas.new",
        |mut store: StoreContextMut<'_, Guest>, (bucket, key): (Resource<Bucket>, String)| {
            Box::new(async move {
                let opened = Open::of(&mut store, &bucket)?;
                Ok((match opened.begin_swap(key).await? {
                    Ok(cas) => Ok(store.data_mut().table.push(cas)?),
                    Err(error) => Err(error),
                },))
            })
        },
    )?;
    atomics.func_wrap_async(
        "[method]cas.current",
        |mut store: StoreContextMut<'_, Guest>, (cas,): (Resource<Cas>,)| {
            Box::new(async move {
                let caller = caller(&mut store)?;
                let known = store.data().table.get(&cas)?.clone();
                let found = known.current(caller).await?;
                if let Ok(found) = &found {
                    store.data_mut().table.get_mut(&cas)?.revision = found.revision;
                }
                Ok((found.map(|found| found.value),))
            })
        },
    )?;
    atomics.func_wrap_async(
        "swap",
        |mut store: StoreContextMut<'_, Guest>, (cas, value): (Resource<Cas>, Vec<u8>)| {
            Box::new(async move {
                let caller = caller(&mut store)?;
                let cas = store.data_mut().table.delete(cas)?;
                Ok((match cas.swap(caller, value).await? {
                    Ok(Swapped::Written) => Ok(()),
                    Ok(Swapped::Meanwhile(anew)) => {
                        Err(CasError::Failed(store.data_mut().table.push(anew)?))
                    }
                    Err(error) => Err(CasError::Store(error)),
                },))
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_the_numbers_of_pages() {
        let mut pages = Vec::new();
        assert_eq!(number_page(&mut pages, Some("b".into())), Ok(Some(1)));
        assert_eq!(number_page(&mut pages, Some("d".into())), Ok(Some(2)));
        assert_eq!(number_page(&mut pages, Some("b".into())), Ok(Some(1)));
        assert_eq!(number_page(&mut pages, None), Ok(None));
        assert_eq!(page_before(&pages, 2), Ok("d".into()));
        assert!([0, 3, u64::MAX].into_iter().all(|cursor| page_before(&pages, cursor).is_err()));
    }

    #[test]
    fn a_counter_below_zero_is_an_error_where_counts_have_no_sign() {
        assert_eq!(unsigned(3), Ok(3));
        assert!(matches!(unsigned(-1), Err(StoreError::Other(text)) if text.contains("-1")));
    }
}
