//! Applications: manifests of the Open Application Model as the deployment manager of those years
//! (`wadm` 0.10) read them, and the requests and answers of its API.
//!
//! Flow: [`decode`] reads a text, YAML or JSON, and makes a [`manifest`] of it, forms of later
//! versions included → [`validate`] refuses what cannot be meant → [`resolved`] says what is to
//! run, with the numbers of [`counts`] and the marks of [`ownership`]. [`request`] reads the
//! subjects of the API, [`api`] has its replies, and [`stored`] is the form of the bucket.

pub mod api;
pub mod counts;
pub mod decode;
pub mod manifest;
pub mod ownership;
pub mod request;
pub mod resolved;
pub mod rollout;
pub mod stored;
pub mod validate;
