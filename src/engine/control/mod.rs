//! The control interface: what clients ask of hosts, over NATS and in JSON (lattice protocol,
//! section 3).
//!
//! * [`request`](lattice_protocol::control::request) has the requests, read leniently, each with
//!   its subject and its reply; [`types`](lattice_protocol::control::types) the replies, written
//!   for the strictest client. Servers and clients use the same types.
//! * [`bounds`](lattice_protocol::control::bounds) says how much a request may ask for.
//! * [`state`] is this host as pings, inventories and heartbeats show it.
//! * [`server`] subscribes, dispatches on the parsed subject and answers within two seconds.
//! * [`refusals`] tells of commands that were refused, [`link_changes`] notes how links were
//!   changed, `turns` keeps requests about one thing in their order.
//! * one file per family: [`actors`], [`providers`], [`links`], [`labels`], [`registries`],
//!   [`named_config`], [`probe`]; `attention` asks the dashboard.

pub mod actors;
mod attention;
mod audited;
pub mod labels;
pub mod link_changes;
pub mod links;
pub mod named_config;
pub mod probe;
pub mod providers;
pub mod refusals;
pub mod registries;
pub mod server;
pub mod state;
mod turns;
