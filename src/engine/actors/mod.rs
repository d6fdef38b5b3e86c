//! Actors: signed Wasm modules and components, run as values.
//!
//! A running actor is a compiled module, a number of permits and limits; there is no process and no
//! thread that belongs to it. Each call gets an instance of its own from the pooling allocator,
//! bounded by memory, time and permits. A trap ends that call and nothing else. Components of WASI
//! 0.3 are made to serve several calls by one instance, which share its memory and its end.
//!
//! * [`engine`] is the one home of wasmtime's configuration: pool, epoch clock. [`code`] is what
//!   was compiled, here or by another host.
//! * `room` gives memories room to grow into without a system call.
//! * [`artifact`] is a verified and compiled module or component.
//! * [`weight`] bounds what is compiled, before it is.
//! * [`guest`] is the waPC interface between host and module, one instance at a time.
//! * [`component`] is the same for components, with a bridge for each interface.
//! * [`actor`] admits calls and runs them: permits, deadline, instance reuse. Instances that serve
//!   several calls at a time are the `workers`.
//! * [`turns`] keeps actors that compute for long, or call each other without end, from taking
//!   every core, and lets them go on in the [`background`].
//! * [`supervisor`] owns which actors run here and under which annotations; everything that starts,
//!   scales, updates or stops one is a message to it. [`plan`] decides what that changes.
//! * [`measure`] calls one guest without a host, to measure what a host adds.
//! * [`capabilities`] holds what every host offers without a provider: logging and random numbers.

pub mod actor;
pub mod artifact;
pub mod background;
pub mod capabilities;
pub mod code;
pub mod component;
pub mod engine;
pub mod guest;
mod idle;
pub mod inbound;
#[cfg(test)]
mod isolation;
pub mod measure;
pub mod permits;
pub mod plan;
mod room;
pub mod sink;
pub mod supervisor;
pub mod trial;
pub mod turns;
pub mod weight;
mod workers;
