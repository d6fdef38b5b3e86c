//! The integration tests: real servers, real clients, one module per concern.

// Nothing that these tests start or make outlives them.
use lattice_test_keeper as _;

mod harness;

// The example that makes a hub is where operators and authorities come from.
#[allow(dead_code, reason = "shared with an example, which uses the rest")]
#[path = "../../examples/hub/setup/mod.rs"]
mod hub_setup;
#[allow(dead_code, reason = "shared with an example, which uses the rest")]
#[path = "../../examples/two-machines/walk/mod.rs"]
mod walk;

mod actors;
mod applications;
mod apply;
mod article;
mod artifacts;
mod attacks;
mod audit;
mod bench;
mod blobstore;
mod blobstore_components;
mod bounds;
mod calls;
mod commands;
mod completions;
mod component_attacks;
mod components;
mod connections;
mod contexts;
mod contracts;
mod control;
mod dashboard;
mod decoders;
mod deputies;
mod dev;
mod doctor;
mod drain;
mod explain;
mod external;
mod failover;
mod forgery;
mod formats;
mod history;
mod http_attacks;
mod httpclient;
mod httpserver;
mod hub;
mod identity;
mod keeping;
mod kept;
mod keyvalue;
mod kinds;
mod languages;
mod leaf_cut;
mod link_batches;
mod linking;
mod links;
mod listings;
mod manager;
mod messaging;
mod modules;
mod observe;
mod otel;
mod outage;
mod pets;
mod process;
mod provider_process;
mod providers;
mod registry;
mod registry_attacks;
mod scale;
mod security;
mod service;
mod services;
mod sessions;
mod shared_code;
mod sinks;
mod store;
mod tenants;
mod trials;
mod truth;
mod two_machines;
mod up;
mod upgrade;
mod uploads;
mod wire;
