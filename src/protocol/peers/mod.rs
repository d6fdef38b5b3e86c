//! How hosts hear of each other, and how they know who speaks.
//!
//! - [`wire`]: what they tell each other, and the headers of calls between them.
//! - [`sealed`]: signed messages, and the certificates of those who sign.
//! - [`session`]: keys that two hosts share, and the codes that prove calls and answers.

pub mod sealed;
pub mod session;
pub mod wire;
