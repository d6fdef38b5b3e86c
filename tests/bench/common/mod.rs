//! The basis of benchmarks, beside the harness of `host bench`.

// Each benchmark uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod member;

use std::time::Duration;

pub use lattice_cli::bench::{
    report::median,
    stage::{LATTICE, Server},
};

/// A runtime with a thread for each core.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
}

pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
