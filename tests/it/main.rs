//! The integration tests: real servers, real clients, one module per concern.

mod harness;

mod calls;
mod connections;
mod control;
mod forgery;
