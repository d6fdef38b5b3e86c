//! How hosts hear of each other.

pub mod wire;
