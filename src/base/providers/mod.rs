//! The archives of providers, which hosts and commands read.

pub mod archive;
