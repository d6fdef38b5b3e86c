//! The integration tests: real servers, real clients, one module per concern.

mod harness;

mod actors;
mod calls;
mod connections;
mod control;
mod decoders;
mod forgery;
mod links;
mod outage;
mod process;
mod services;
mod store;
