//! Spans: each begins where work begins and ends with it, and the trace headers of the work name it
//! from then on, so that what the work calls joins it.
//!
//! Where no traces are exported, a span is empty: one look at an atomic, no clock, no allocation.

use std::{
    fmt::Display,
    pin::Pin,
    sync::OnceLock,
    task::{self, Poll},
};

use opentelemetry::{
    Context, Value,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{
        SpanContext, SpanId, Status, TraceContextExt as _, TraceId, Tracer as _,
        TracerProvider as _,
    },
};
pub use opentelemetry::{KeyValue, trace::SpanKind};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{SdkTracer, SdkTracerProvider},
};

use super::{
    limits, scope,
    settings::{TRACE_HEADERS, Variables},
};
use crate::{
    config::ProcessEnvironment,
    telemetry::{TEXT_BYTES_MAX, within},
};
use lattice_protocol::rpc::invocation::TraceContext;

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Begins to make spans.
pub(super) fn start(provider: &SdkTracerProvider) {
    // An error means that spans are made already.
    let _ = TRACER.set(provider.tracer_with_scope(scope()));
}

/// Says whether spans are made.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// Returns the headers of HTTP that carry a trace. They do so also where none is exported, for a
/// trace that others began ends at no host.
pub fn carried() -> &'static [&'static str] {
    static CARRIED: OnceLock<Vec<&'static str>> = OnceLock::new();
    CARRIED.get_or_init(|| Variables::of(&ProcessEnvironment).carried())
}

/// The trace and the span that the code of this thread runs in, as the two are written.
pub(crate) fn current() -> Option<(String, String)> {
    if !is_on() {
        return None;
    }
    Context::map_current(|context| {
        let span = context.span();
        let own = span.span_context();
        own.is_valid().then(|| (own.trace_id().to_string(), own.span_id().to_string()))
    })
}

/// The ids of a span that a collector gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    trace_id: [u8; 16],
    span_id: [u8; 8],
}

impl Sampled {
    /// Returns the ids of the trace and the span, as the two are written.
    pub fn ids(&self) -> [String; 2] {
        let (trace_id, span_id) =
            (TraceId::from_bytes(self.trace_id), SpanId::from_bytes(self.span_id));
        [trace_id.to_string(), span_id.to_string()]
    }
}

/// A piece of work in a trace. One that is dropped before it was [ended](Span::end) was abandoned.
#[derive(Debug)]
#[must_use = "a span that is dropped has ended"]
pub struct Span(Option<Context>);

impl Span {
    /// Returns a span that tells nobody.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Begins a span under the one that `trace` names; from then on `trace` names this one. Where
    /// `trace` names none it begins a trace, if the sampler says so.
    pub fn begin(
        kind: SpanKind,
        name: String,
        attributes: Vec<KeyValue>,
        trace: &mut TraceContext,
    ) -> Self {
        let Some(tracer) = TRACER.get() else { return Self::none() };
        let parent = parent_of(trace, kind == SpanKind::Server);
        let attributes = attributes.into_iter().map(bounded);
        let builder = tracer.span_builder(name).with_kind(kind).with_attributes(attributes);
        let context = Context::new().with_span(tracer.build_with_context(builder, &parent));
        tell(context.span().span_context(), trace);
        Self(Some(context))
    }

    /// Says whether somebody is told.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Returns its ids, if a collector gets it.
    pub fn sampled(&self) -> Option<Sampled> {
        let span = self.0.as_ref()?.span();
        let own = span.span_context();
        let (trace_id, span_id) = (own.trace_id().to_bytes(), own.span_id().to_bytes());
        own.is_sampled().then_some(Sampled { trace_id, span_id })
    }

    /// Adds something that is known only now.
    pub fn set(&self, attribute: KeyValue) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(bounded(attribute));
        }
    }

    /// Ends it, with the reason if the work failed.
    pub fn end(mut self, failure: Option<&dyn Display>) {
        self.close(failure);
    }

    fn close(&mut self, failure: Option<&dyn Display>) {
        let Some(context) = self.0.take() else { return };
        let span = context.span();
        if let Some(failure) = failure {
            let failure = failure.to_string();
            span.set_status(Status::error(within(&failure, TEXT_BYTES_MAX).into_owned()));
        }
        span.end();
    }

    /// Does work within it: what is logged meanwhile belongs to it.
    pub fn within<'a, F: Future>(&'a self, work: Pin<&'a mut F>) -> Within<'a, F> {
        Within { span: self, work }
    }

    /// The same for work that waits for nothing.
    pub fn scope<T>(&self, work: impl FnOnce() -> T) -> T {
        let _entered = self.0.as_ref().map(|context| context.clone().attach());
        work()
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if self.is_on() {
            self.set(KeyValue::new("error.type", "abandoned"));
            self.close(Some(&"abandoned: its caller went away, or its time was over"));
        }
    }
}

/// Work that is done within a span, wherever it is polled.
pub struct Within<'a, F> {
    span: &'a Span,
    work: Pin<&'a mut F>,
}

impl<F: Future> Future for Within<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<F::Output> {
        let Self { span, work } = &mut *self;
        span.scope(|| work.as_mut().poll(context))
    }
}

/// Cuts a text that is too long: many come from the wire, and variables may allow less.
fn bounded(attribute: KeyValue) -> KeyValue {
    limits::cut(match &attribute.value {
        Value::String(text) if text.as_str().len() > TEXT_BYTES_MAX => {
            let text = within(text.as_str(), TEXT_BYTES_MAX).into_owned();
            KeyValue::new(attribute.key, text)
        }
        _ => attribute,
    })
}

/// The headers of a trace.
struct Headers<'a>(&'a TraceContext);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name).collect()
    }
}

/// The span that a trace names; of another process, if it is remote.
fn parent_of(trace: &TraceContext, is_remote: bool) -> Context {
    let root = Context::new();
    if trace.is_empty() {
        return root;
    }
    let parent = TraceContextPropagator::new().extract_with_context(&root, &Headers(trace));
    if is_remote || !parent.has_active_span() {
        return parent;
    }
    let span = parent.span();
    let own = span.span_context();
    root.with_remote_span_context(SpanContext::new(
        own.trace_id(),
        own.span_id(),
        own.trace_flags(),
        false,
        own.trace_state().clone(),
    ))
}

/// Makes the headers of a trace name this span; others stay.
fn tell(own: &SpanContext, trace: &mut TraceContext) {
    // The SDK is shut down.
    if !own.is_valid() {
        return;
    }
    let [parent, state] = TRACE_HEADERS;
    trace.0.retain(|(name, _)| name != parent && name != state);
    let flags = u8::from(own.is_sampled());
    trace.push(parent, format!("00-{}-{}-{flags:02x}", own.trace_id(), own.span_id()));
    let states = own.trace_state().header();
    if !states.is_empty() {
        trace.push(state, states);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";

    fn trace(pairs: &[(&str, &str)]) -> TraceContext {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        TraceContext(pairs.collect())
    }

    #[test]
    fn headers_that_name_a_span_name_the_same_one_after_they_were_read() {
        for flags in ["00", "01"] {
            let parent = format!("{PARENT}-{flags}");
            let written =
                trace(&[("baggage", "k=v"), ("traceparent", &parent), ("tracestate", "a=b,c=d")]);
            for is_remote in [false, true] {
                let context = parent_of(&written, is_remote);
                let span = context.span();
                let own = span.span_context();
                assert_eq!((own.is_remote(), own.is_sampled()), (is_remote, flags == "01"));
                let mut told = written.clone();
                tell(own, &mut told);
                assert_eq!(told, written);
            }
        }
    }

    #[test]
    fn headers_that_are_none_name_no_span() {
        for parent in
            ["", "00", "00-xyz-1-01", "00-00000000000000000000000000000000-0000000000000000-01"]
        {
            let mut told = trace(&[("traceparent", parent)]);
            let context = parent_of(&told, true);
            assert!(!context.has_active_span(), "{parent}");
            let before = told.clone();
            tell(context.span().span_context(), &mut told);
            assert_eq!(told, before);
        }
    }

    #[test]
    fn a_text_of_a_span_has_a_bound() {
        let long = "ä".repeat(TEXT_BYTES_MAX);
        let cut = format!("{}… ({} bytes)", "ä".repeat(TEXT_BYTES_MAX / 2), long.len());
        for (value, expected) in [
            (Value::from(long), Value::from(cut)),
            (Value::from("short"), Value::from("short")),
            (Value::from(7_i64), Value::from(7_i64)),
        ] {
            assert_eq!(bounded(KeyValue::new("k", value)), KeyValue::new("k", expected));
        }
    }

    #[test]
    fn without_an_exporter_a_span_is_empty_and_the_headers_stay() {
        let mut told = trace(&[("traceparent", "anything")]);
        let before = told.clone();
        let span = Span::begin(SpanKind::Client, String::new(), Vec::new(), &mut told);
        assert!(!span.is_on() && told == before);
        assert_eq!(carried(), ["baggage", "traceparent", "tracestate"]);
        assert_eq!(current(), None);
        span.end(None);
    }
}
