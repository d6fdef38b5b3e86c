//! A call and its answer, as types. Their form on the wire is [`codec`](super::codec)'s.
//!
//! Keys and names are shared strings here and not the parsed types of `identity`: callers that are
//! no hosts use keys that are none (`__WASH__`), and a signed text must reach the check as it was
//! sent.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::identity::{ActorId, ContractId, LinkName, ProviderId};

const URL_SCHEME: &str = "wasmbus://";

/// Caller or callee: an actor, or a provider under a link name. Cheap to clone. Its JSON is that of
/// questions about calls; in invocations it is [`codec`](super::codec)'s.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entity {
    pub public_key: Arc<str>,
    /// Empty for actors.
    #[serde(default)]
    pub link_name: Arc<str>,
    /// Empty for actors.
    #[serde(default)]
    pub contract_id: Arc<str>,
}

impl Entity {
    /// Takes the three parts as they are, unchecked.
    pub fn new(public_key: &str, link_name: &str, contract_id: &str) -> Self {
        Self {
            public_key: shared(public_key),
            link_name: shared(link_name),
            contract_id: shared(contract_id),
        }
    }

    /// Names an actor.
    pub fn actor(id: &ActorId) -> Self {
        Self::of_actor(Arc::clone(id.as_arc()))
    }

    /// Names the actor with this public key.
    pub fn of_actor(public_key: Arc<str>) -> Self {
        Self { public_key, link_name: shared(""), contract_id: shared("") }
    }

    /// Names a provider.
    pub fn provider(id: &ProviderId, link_name: &LinkName, contract_id: &ContractId) -> Self {
        Self {
            public_key: id.as_arc().clone(),
            link_name: link_name.as_arc().clone(),
            contract_id: contract_id.as_arc().clone(),
        }
    }

    /// Says whether the entity counts as an actor. By the peers' rule only the first letter
    /// decides.
    pub fn is_actor(&self) -> bool {
        self.public_key.starts_with(['M', 'm'])
    }

    /// Returns the name by which hosts tell each other that they run it: the tail of its subject.
    pub fn target_name(&self) -> Arc<str> {
        if self.is_actor() {
            return Arc::clone(&self.public_key);
        }
        format!("{}.{}", self.public_key, self.link_name).into()
    }

    /// Returns the URL that tokens name the entity by.
    pub fn url(&self) -> String {
        let mut url = String::new();
        self.write_url(&mut url);
        url
    }

    /// Appends the URL. Everything that is no actor has three parts, and empty ones keep their
    /// slashes.
    pub(super) fn write_url(&self, out: &mut String) {
        out.push_str(URL_SCHEME);
        if !self.is_actor() {
            push_url_part(UrlPart::Contract, &self.contract_id, out);
            out.push('/');
            push_url_part(UrlPart::LinkName, &self.link_name, out);
            out.push('/');
        }
        out.push_str(&self.public_key);
    }

    /// How many bytes the URL takes at most, unless lower-casing lengthens some rare letter.
    pub(super) fn url_bytes(&self) -> usize {
        URL_SCHEME.len() + self.contract_id.len() + self.link_name.len() + self.public_key.len() + 2
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum UrlPart {
    Contract,
    LinkName,
}

/// Appends a part in lower case with spaces as `_` and, in contract ids, colons as `/`.
fn push_url_part(part: UrlPart, text: &str, out: &mut String) {
    let lower = if text.is_ascii() { Cow::Borrowed(text) } else { Cow::Owned(text.to_lowercase()) };
    out.extend(lower.chars().map(|c| match c {
        ' ' => '_',
        ':' if part == UrlPart::Contract => '/',
        c => c.to_ascii_lowercase(),
    }));
}

/// Makes a shared string; the two that nearly every entity carries are allocated once.
pub(super) fn shared(text: &str) -> Arc<str> {
    static EMPTY: LazyLock<Arc<str>> = LazyLock::new(|| "".into());
    static DEFAULT: LazyLock<Arc<str>> = LazyLock::new(|| LinkName::DEFAULT.into());
    match text {
        "" => EMPTY.clone(),
        LinkName::DEFAULT => DEFAULT.clone(),
        other => other.into(),
    }
}

/// W3C trace headers by name (`traceparent`, `tracestate`). Mostly empty or a pair, hence a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraceContext(pub Vec<(String, String)>);

impl TraceContext {
    /// Returns the value of a header.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Adds a header.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// Returns the headers in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Says whether there is no trace.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    pub origin: Entity,
    pub target: Entity,
    /// `Service.Method`, handed to the guest as it came.
    pub operation: String,
    /// The argument; empty when it travels apart, see [`is_chunked`](Self::is_chunked).
    pub msg: Bytes,
    pub id: String,
    /// The signed token; empty for calls that do not leave the process.
    pub encoded_claims: String,
    /// The sending host. Peers put other things here, so it is not parsed.
    pub host_id: String,
    /// The length of the whole argument.
    pub content_length: u64,
    pub trace_context: TraceContext,
}

impl Invocation {
    /// Makes an unsigned call with its argument inside.
    pub fn new(
        origin: Entity,
        target: Entity,
        operation: impl Into<String>,
        msg: Bytes,
        id: impl Into<String>,
        host_id: impl Into<String>,
    ) -> Self {
        Self {
            origin,
            target,
            operation: operation.into(),
            content_length: msg.len() as u64,
            msg,
            id: id.into(),
            encoded_claims: String::new(),
            host_id: host_id.into(),
            trace_context: TraceContext::default(),
        }
    }

    /// Says whether the argument, or the rest of it, has to be fetched.
    pub fn is_chunked(&self) -> bool {
        self.content_length > self.msg.len() as u64
    }
}

/// Returns an operation without the namespace that nobody should have sent: the part after the last
/// slash, or all of it. The signature covers the raw text.
pub fn dispatch_operation(operation: &str) -> &str {
    operation.rsplit_once('/').map_or(operation, |(_, last)| last)
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvocationResponse {
    /// The result; meaningless beside an error, empty when it travels apart.
    pub msg: Bytes,
    pub invocation_id: String,
    /// Why the call failed. Never empty when read from the wire.
    pub error: Option<String>,
    /// The length of the whole result.
    pub content_length: u64,
    pub trace_context: TraceContext,
}

impl InvocationResponse {
    /// Answers a call with a result.
    pub fn success(invocation_id: impl Into<String>, msg: Bytes) -> Self {
        Self {
            content_length: msg.len() as u64,
            msg,
            invocation_id: invocation_id.into(),
            error: None,
            trace_context: TraceContext::default(),
        }
    }

    /// Answers a call with the reason for its failure.
    pub fn failure(invocation_id: impl Into<String>, error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..Self::success(invocation_id, Bytes::new()) }
    }

    /// Says whether the result, or the rest of it, has to be fetched.
    pub fn is_chunked(&self) -> bool {
        self.content_length > self.msg.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_of_the_peer() {
        for (key, contract, link) in [
            ("MABC", "", ""),
            ("mabc", "ignored:here", "too"),
            ("VABC", "wasmcloud:keyvalue", "default"),
            ("Vabc", "Acme Corp:Two:Three", "My Link:1"),
            ("__WASH__", "", ""),
            ("VABC", "ÄCME:ΣΑΣ İ", "ß"),
            ("", "", ""),
        ] {
            let theirs = wasmbus_rpc::core::WasmCloudEntity {
                public_key: key.to_owned(),
                link_name: link.to_owned(),
                contract_id: contract.to_owned(),
            };
            assert_eq!(Entity::new(key, link, contract).url(), theirs.url());
        }
        assert_eq!(Entity::new("__WASH__", "", "").url(), "wasmbus:////__WASH__");
    }

    #[test]
    fn operations_are_dispatched_by_their_last_part() {
        for (raw, dispatched) in [
            ("KeyValue.Get", "KeyValue.Get"),
            ("wasmcloud:bus/guest/KeyValue.Get", "KeyValue.Get"),
            ("HandleRequest", "HandleRequest"),
            ("a/", ""),
            ("", ""),
        ] {
            assert_eq!(dispatch_operation(raw), dispatched);
        }
    }
}
