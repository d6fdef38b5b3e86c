//! The integration tests: real servers, real clients, one module per concern.

mod harness;

// The example that makes a hub is where operators and authorities come from.
#[allow(dead_code, reason = "shared with an example, which uses the rest")]
#[path = "../../examples/hub/setup/mod.rs"]
mod hub_setup;
#[allow(dead_code, reason = "shared with an example, which uses the rest")]
#[path = "../../examples/two-machines/walk/mod.rs"]
mod walk;

mod actors;
mod blobstore;
mod calls;
mod connections;
mod contracts;
mod control;
mod decoders;
mod external;
mod failover;
mod forgery;
mod httpclient;
mod httpserver;
mod hub;
mod keyvalue;
mod leaf_cut;
mod links;
mod messaging;
mod outage;
mod pets;
mod process;
mod provider_process;
mod providers;
mod registry;
mod services;
mod store;
mod two_machines;
mod up;
