//! The integration tests: real servers, real clients, one module per concern.

mod harness;

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
mod keyvalue;
mod links;
mod messaging;
mod outage;
mod process;
mod provider_process;
mod providers;
mod registry;
mod services;
mod store;
mod up;
