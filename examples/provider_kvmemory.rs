//! A capability provider of early 2024: a key-value store in its own memory, written with
//! `wasmcloud-provider-sdk`.
//!
//! It is a program of its own that a host runs; without the line a host writes to its standard
//! input it ends with an error. See `examples/providers/README.md` for how to pack, sign and start
//! it. It forgets everything when it ends, and it can be told to misbehave, to see what a host
//! makes of that.
//!
//! Contract `wasmcloud:keyvalue`: `Increment`, `Contains`, `Del`, `Get`, `Set`. All linked actors
//! share one store, unless the link says otherwise. Link values:
//!
//! | name | meaning |
//! |---|---|
//! | `prefix` | put before every key of the linked actor |
//! | `misbehave` | words, separated by commas, that hold for the whole process: `unhealthy` (says so when asked), `ignore-shutdown` (goes on when told to end), `refuse` (does not accept the link), `print-link` (prints the link's values) |
//!
//! Keys that begin with `@` are not stored. `Set` of one makes trouble, `Get` of one looks inside:
//!
//! | key | effect |
//! |---|---|
//! | `Set @exit 3` | the process ends at once with this exit code |
//! | `Set @print text` | prints the text as a line to its standard output |
//! | `Get @link NAME` | the linked actor's link value of that name |
//! | `Get @environment` | the names of the environment's variables |

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use serde::Serialize;
use wasmcloud_interface_keyvalue::{GetResponse, IncrementRequest, SetRequest};
use wasmcloud_provider_sdk::{
    Context, MessageDispatch, Provider, ProviderHandler,
    core::{HealthCheckRequest, HealthCheckResponse, LinkDefinition},
    deserialize,
    error::{InvocationError, ProviderInvocationError},
    serialize, start_provider,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    start_provider(KvMemory::default(), Some("Key-value store in memory".to_owned()))?;
    Ok(())
}

#[derive(Clone, Default)]
struct KvMemory(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    values: BTreeMap<String, String>,
    /// The values of the link of each actor.
    links: HashMap<String, HashMap<String, String>>,
    misbehaviour: BTreeSet<String>,
}

impl Provider for KvMemory {}

impl KvMemory {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn misbehaves(&self, word: &str) -> bool {
        self.with(|state| state.misbehaviour.contains(word))
    }
}

#[async_trait]
impl ProviderHandler for KvMemory {
    async fn put_link(&self, link: &LinkDefinition) -> bool {
        let values: HashMap<String, String> = link.values.iter().cloned().collect();
        let misbehaviour: Vec<&str> =
            values.get("misbehave").into_iter().flat_map(|words| words.split(',')).collect();
        if misbehaviour.contains(&"print-link") {
            println!("linked with {values:?}");
        }
        if misbehaviour.contains(&"refuse") {
            return false;
        }
        self.with(|state| {
            state.misbehaviour.extend(misbehaviour.into_iter().map(str::to_owned));
            state.links.insert(link.actor_id.clone(), values.clone());
        });
        true
    }

    async fn delete_link(&self, actor_id: &str) {
        self.with(|state| state.links.remove(actor_id));
    }

    async fn health_request(&self, _: &HealthCheckRequest) -> HealthCheckResponse {
        let healthy = !self.misbehaves("unhealthy");
        HealthCheckResponse {
            healthy,
            message: (!healthy).then(|| "told to be unhealthy".to_owned()),
        }
    }

    async fn shutdown(&self) {
        if self.misbehaves("ignore-shutdown") {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl MessageDispatch for KvMemory {
    async fn dispatch<'a>(
        &'a self,
        ctx: Context,
        method: String,
        body: Cow<'a, [u8]>,
    ) -> Result<Vec<u8>, ProviderInvocationError> {
        let actor = ctx.actor.unwrap_or_default();
        // Calls arrive as `KeyValue.Get`, from other years as `Get`.
        match method.rsplit('.').next().unwrap_or_default() {
            "Increment" => {
                let request: IncrementRequest = deserialize(&body)?;
                encode(&self.with(|state| state.increment(&actor, &request))?)
            }
            "Contains" => {
                let key: String = deserialize(&body)?;
                encode(&self.with(|state| state.values.contains_key(&state.key(&actor, &key))))
            }
            "Del" => {
                let key: String = deserialize(&body)?;
                encode(&self.with(|state| state.values.remove(&state.key(&actor, &key)).is_some()))
            }
            "Get" => {
                let key: String = deserialize(&body)?;
                let value = self.with(|state| state.get(&actor, &key));
                encode(&GetResponse { exists: value.is_some(), value: value.unwrap_or_default() })
            }
            "Set" => {
                let request: SetRequest = deserialize(&body)?;
                match request.key.as_str() {
                    "@exit" => std::process::exit(request.value.parse().unwrap_or(1)),
                    "@print" => println!("{}", request.value),
                    key => self
                        .with(|state| state.values.insert(state.key(&actor, key), request.value))
                        .map_or((), drop),
                }
                Ok(Vec::new())
            }
            _ => Err(InvocationError::Malformed(format!("method not handled {method}")).into()),
        }
    }
}

impl State {
    fn key(&self, actor: &str, key: &str) -> String {
        let prefix = self.links.get(actor).and_then(|values| values.get("prefix"));
        format!("{}{key}", prefix.map_or("", String::as_str))
    }

    fn get(&self, actor: &str, key: &str) -> Option<String> {
        if key == "@environment" {
            let names: BTreeSet<_> =
                std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
            return Some(names.into_iter().collect::<Vec<_>>().join(","));
        }
        match key.strip_prefix("@link ") {
            Some(name) => self.links.get(actor)?.get(name).cloned(),
            None => self.values.get(&self.key(actor, key)).cloned(),
        }
    }

    fn increment(&mut self, actor: &str, request: &IncrementRequest) -> Result<i32, String> {
        let value =
            self.values.entry(self.key(actor, &request.key)).or_insert_with(|| "0".to_owned());
        let number = value.parse::<i32>().ok().and_then(|number| number.checked_add(request.value));
        let number =
            number.ok_or_else(|| "the value is not an integer or out of range".to_owned())?;
        *value = number.to_string();
        Ok(number)
    }
}

fn encode<T: Serialize>(result: &T) -> Result<Vec<u8>, ProviderInvocationError> {
    Ok(serialize(result)?)
}
